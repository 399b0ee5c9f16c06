//! The time of a stanza that was stored before it was delivered.

use pushlark_xmpp::{BareJid, Jid, Message, MessageType, parse_jid};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::Recipients;

/// Returns the time at which a message was sent: the oldest of `at`, the time that its event names, and of the stamps of
/// its room and of the server of every recipient, if it was delayed (XEP-0203). A sender may name the time of its event
/// for an old message, such as the history of a room. Stamps of others are ignored, and stamps that are not a time.
///
/// The server of a lost session stamps each message that it sends again. So its stamp is ignored if the event names its
/// time.
pub fn sent_at(at: Option<OffsetDateTime>, from: &Jid, to: &Recipients, message: &Message) -> Option<OffsetDateTime> {
    let is_of_server =
        |by: &BareJid, jid: &BareJid| by.domain() == jid.domain() && (by.node().is_none() || by.node() == jid.node());
    let is_believed = |by: &BareJid| {
        message.kind() == MessageType::Groupchat && is_of_server(by, &from.to_bare())
            || match to {
                Recipients::Users(users) => users.iter().all(|user| is_of_server(by, user)),
                Recipients::Sessions(sessions) => {
                    at.is_none() && sessions.iter().all(|session| is_of_server(by, &session.to_bare()))
                }
            }
    };
    let by = |by| parse_jid(by).ok().map(Jid::into_bare);
    let stamps = message.delays().filter(|(from, _)| by(from).is_some_and(|by| is_believed(&by)));
    stamps.filter_map(|(_, stamp)| time_of(stamp.trim())).chain(at).min()
}

/// Reads a stamp in the format of XEP-0082, or in the earlier one of XEP-0091: `20021103T13:07:15`.
fn time_of(stamp: &str) -> Option<OffsetDateTime> {
    let legacy = || {
        let (date, time) = stamp.split_once('T').filter(|(date, _)| date.len() == 8 && date.is_ascii())?;
        OffsetDateTime::parse(&format!("{}-{}-{}T{time}Z", &date[..4], &date[4..6], &date[6..]), &Rfc3339).ok()
    };
    OffsetDateTime::parse(stamp, &Rfc3339).ok().or_else(legacy)
}
