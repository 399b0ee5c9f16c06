//! What a notification says.

use std::borrow::Cow;

/// The fields of a notification's form (XEP-0357, section 7; FORM_TYPE `urn:xmpp:push:summary`), in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload(Vec<(Cow<'static, str>, String)>);

impl Payload {
    /// How many messages are unread.
    pub const MESSAGE_COUNT: &'static str = "message-count";
    /// Who sent the last message: a bare JID, or an occupant of a room.
    pub const LAST_MESSAGE_SENDER: &'static str = "last-message-sender";
    /// The text of the last message.
    pub const LAST_MESSAGE_BODY: &'static str = "last-message-body";

    /// `true` when the sender calls the message urgent.
    pub const URGENT: &'static str = "urgent";
    /// `true` when the message mentions the recipient.
    pub const MENTION: &'static str = "mention";
    /// Who calls: a bare JID.
    pub const MESSAGE_SENDER: &'static str = "message-sender";
    /// The step of a call, such as `propose`.
    pub const JINGLE_MESSAGE: &'static str = "jingle-message";
    /// The call's id.
    pub const JINGLE_SESSION_ID: &'static str = "jingle-session-id";

    /// This payload with one more field, or with another value of one that it has.
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|field| field.0 == name) {
            Some(field) => field.1 = value,
            None => self.0.push((name, value)),
        }
        self
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }

    /// The fields, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }
}
