//! The messages up to which users have read their conversations.

use pushlark_xmpp::{Jid, Message, MessageType, parse_jid};

use crate::event::{ReadMark, Recipients};

/// Returns the read marks of a message. `read_mark` is that of its sender: a text reads all of the conversation, a
/// displayed marker (XEP-0333, XEP-0490) up to the message that it names.
pub fn read_marks(from: &Jid, to: &Recipients, message: &Message, read_mark: Option<ReadMark>) -> Vec<ReadMark> {
    let named = message.displayed_id().filter(|_| message.content().is_err()).map(str::to_owned);
    let own = read_mark.map(|read_mark| ReadMark { message: named, ..read_mark });
    own.into_iter().chain(synchronized(from, to, message)).collect()
}

/// Returns the read marks that an account publishes for all sessions of its user (XEP-0490). Only events of the account
/// itself count, which its bare JID sends to the user (XEP-0163, section 4.3).
fn synchronized<'m>(from: &Jid, to: &Recipients, message: &'m Message) -> impl Iterator<Item = ReadMark> + use<'m> {
    let user = from.to_bare();
    let is_to_user = matches!(to, Recipients::Users(users) if users.as_slice() == [user.clone()]);
    let is_own = from.is_bare() && user.node().is_some() && is_to_user && message.kind() != MessageType::Error;
    message.displayed_conversations().filter(move |_| is_own).filter_map(move |(conversation, id)| {
        let conversation = parse_jid(conversation).ok()?.into_bare();
        Some(ReadMark { user: user.clone(), conversation, message: Some(id.to_owned()) })
    })
}
