//! The content of notifications about messages.

use std::borrow::Cow;

use pushlark_model::Payload;
use pushlark_xmpp::{MessageType, parse_jid};

use crate::content_policy::ContentPolicy;
use crate::event::Event;

impl Event {
    /// Returns the summary of the conversation within the operator's limits. `text` is the body of the message.
    pub fn summary(&self, text: Cow<'_, str>) -> Payload {
        let ContentPolicy { body, sender, placeholder, urgent, mention, .. } = &*self.content_policy;
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

    /// Returns the summary of a contact request within the operator's limits. It counts no message.
    pub(crate) fn contact_request(&self) -> Payload {
        let ContentPolicy { sender, subscription_placeholder, .. } = &*self.content_policy;
        let mut payload = Payload::default().with(Payload::PENDING_SUBSCRIPTION_COUNT, "1");
        if *sender {
            let contact = self.from.to_bare();
            payload = payload.with(Payload::PENDING_SUBSCRIPTION_FROM, contact.as_str());
            payload = payload.with(Payload::LAST_MESSAGE_SENDER, contact.as_str());
        }
        payload.with(Payload::LAST_MESSAGE_BODY, subscription_placeholder.as_str())
    }

    /// Returns whether the message mentions the recipient: it refers (XEP-0372) to the user's JID or to an occupant of
    /// the room whose nick is the localpart or the bare JID (as in MUC Light), or its text contains the localpart after
    /// an `@`.
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
