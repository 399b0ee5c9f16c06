//! The content of a notification.

use std::borrow::Cow;

/// The ordered fields of a notification's form (XEP-0357, section 7; FORM_TYPE `urn:xmpp:push:summary`). Names are
/// unique.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload(Vec<(Cow<'static, str>, String)>);

impl Payload {
    /// The number of unread messages in the conversation, as a decimal.
    pub const MESSAGE_COUNT: &'static str = "message-count";
    /// The sender of the last message: a bare JID, or the full JID of a room's occupant.
    pub const LAST_MESSAGE_SENDER: &'static str = "last-message-sender";
    /// The text of the last message.
    pub const LAST_MESSAGE_BODY: &'static str = "last-message-body";
    /// The bare JID of the room that an invitation is for.
    pub const ROOM: &'static str = "room";

    /// `true` if the sender marked the message as urgent.
    pub const URGENT: &'static str = "urgent";
    /// `true` if the message mentions the recipient.
    pub const MENTION: &'static str = "mention";
    /// The bare JID of the caller.
    pub const MESSAGE_SENDER: &'static str = "message-sender";
    /// The name of the call's Jingle message, such as `propose` (XEP-0353).
    pub const JINGLE_MESSAGE: &'static str = "jingle-message";
    /// The id of the call's Jingle session (XEP-0353).
    pub const JINGLE_SESSION_ID: &'static str = "jingle-session-id";

    /// Sets the value of a field; a new field becomes the last one.
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|field| field.0 == name) {
            Some(field) => field.1 = value,
            None => self.0.push((name, value)),
        }
        self
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }

    /// Returns the names and values of the fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }
}
