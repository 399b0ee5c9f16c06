//! What a notification may tell of a message.

use std::borrow::Cow;

use pushlark_xmpp::{MessageType, parse_jid};

use crate::{Event, Payload};

/// What the operator lets notifications tell, to the push services that carry them and to who looks at the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosure {
    /// Whether the text of a message is told.
    pub body: bool,
    /// Whether the sender is told.
    pub sender: bool,
    /// What stands for a text that is not told, or that is encrypted.
    pub placeholder: String,
    /// Whether a group message that its sender calls urgent has the field `urgent`.
    pub urgent: bool,
    /// Whether a group message that mentions the recipient has the field `mention`.
    pub mention: bool,
}

/// All that MongooseIM tells, and no more.
impl Default for Disclosure {
    fn default() -> Self {
        Self { body: true, sender: true, placeholder: "New message".into(), urgent: false, mention: false }
    }
}

impl Event {
    /// The summary of the conversation, with `text` for the message's body, as far as the disclosure goes.
    pub fn summary(&self, text: Cow<'_, str>) -> Payload {
        let Disclosure { body, sender, placeholder, urgent, mention } = &*self.disclosure;
        let is_group = self.message.kind() == MessageType::Groupchat;
        let mut payload = Payload::default().with(Payload::MESSAGE_COUNT, self.unread_count.to_string());
        if *sender {
            let sender = if is_group { self.from.to_string() } else { self.from.to_bare().to_string() };
            payload = payload.with(Payload::LAST_MESSAGE_SENDER, sender);
        }
        let text = if *body && !self.message.is_encrypted() { text.into_owned() } else { placeholder.clone() };
        payload = payload.with(Payload::LAST_MESSAGE_BODY, text);
        if is_group && *urgent && self.message.is_urgent() {
            payload = payload.with(Payload::URGENT, "true");
        }
        if is_group && *mention && self.mentions_recipient() {
            payload = payload.with(Payload::MENTION, "true");
        }
        payload
    }

    /// Whether the message refers to the recipient (XEP-0372), by the user's JID or as an occupant of the room whose nick
    /// is the localpart or the bare JID (as in MUC Light), or has the localpart in its text behind an `@`.
    fn mentions_recipient(&self) -> bool {
        let user = self.recipient();
        let Some(localpart) = user.node().map(|node| node.as_str()) else { return false };
        let is_nick = |nick: &str| nick.eq_ignore_ascii_case(localpart) || nick == user.as_str();
        let refers = |uri: &str| {
            let address = uri.strip_prefix("xmpp:").unwrap_or(uri).split('?').next().unwrap_or_default();
            parse_jid(address).is_ok_and(|jid| {
                let is_occupant = jid.to_bare() == self.from.to_bare();
                jid.to_bare() == user || is_occupant && jid.resource().is_some_and(|nick| is_nick(nick.as_str()))
            })
        };
        let body = self.message.body().unwrap_or_default();
        let mut words = body.split(|c: char| c.is_whitespace() || (c.is_ascii_punctuation() && !"@.-_".contains(c)));
        self.message.mentions().any(refers)
            || words.any(|word| word.trim_end_matches('.').strip_prefix('@').is_some_and(is_nick))
    }
}
