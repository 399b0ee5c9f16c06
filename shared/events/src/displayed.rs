//! The messages up to which users have read their conversations.

use pushlark_xmpp::{Jid, Message, MessageType, parse_jid};

use crate::event::{ReadMark, Recipients};

/// The most conversations that one event of an account marks as read: each is a write before the request is answered. An
/// account publishes them one by one.
const MAX_SYNCHRONIZED: usize = 100;

/// Returns the read marks of a message. `read_mark` is that of its sender: a text reads all of the conversation, a
/// displayed marker (XEP-0333, XEP-0490) up to the message that it names.
pub fn read_marks(from: &Jid, to: &Recipients, message: &Message, read_mark: Option<ReadMark>) -> Vec<ReadMark> {
    let named = || message.displayed_id().filter(|_| message.content().is_err()).map(str::to_owned);
    let own = read_mark.map(|read_mark| ReadMark { message: named(), ..read_mark });
    let mut read_marks = synchronized(from, to, message);
    read_marks.extend(own);
    read_marks
}

/// Returns the read marks that an account publishes for all sessions of its user (XEP-0490). Only events of the account
/// itself count, which its bare JID sends to the user (XEP-0163, section 4.3).
fn synchronized(from: &Jid, to: &Recipients, message: &Message) -> Vec<ReadMark> {
    // Nearly all messages come from a session.
    if from.is_full() || from.node().is_none() || message.kind() == MessageType::Error {
        return Vec::new();
    }
    let Recipients::Users(users) = to else { return Vec::new() };
    let [user] = users.as_slice() else { return Vec::new() };
    if *from != *user {
        return Vec::new();
    }
    let conversations = message.displayed_conversations().take(MAX_SYNCHRONIZED);
    let read_mark = |(conversation, id): (&str, &str)| {
        let conversation = parse_jid(conversation).ok()?.into_bare();
        Some(ReadMark { user: user.clone(), conversation, message: Some(id.to_owned()) })
    };
    conversations.filter_map(read_mark).collect()
}
