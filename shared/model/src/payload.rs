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

    /// The number of contact requests without an answer (XEP-0357, section 7), as a decimal.
    pub const PENDING_SUBSCRIPTION_COUNT: &'static str = "pending-subscription-count";
    /// The bare JID of the contact who asks. XEP-0357 does not register this field.
    pub const PENDING_SUBSCRIPTION_FROM: &'static str = "pending-subscription-from";
    /// The name of the push node, in data that has no other field.
    pub const NODE: &'static str = "node";

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

    /// The kind of a notification that is not a summary, such as [`READ`](Self::READ).
    pub const TYPE: &'static str = "type";
    /// The type of the notification that a conversation was read on another device. It is never an alert.
    pub const READ: &'static str = "read";
    /// The conversation that was read: the bare JID of the other user or of the room, or its hash.
    pub const CONVERSATION: &'static str = "conversation";

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

    /// Returns whether it says that a conversation was read on another device.
    pub fn is_read(&self) -> bool {
        self.get(Self::TYPE) == Some(Self::READ) && self.get(Self::LAST_MESSAGE_BODY).is_none()
    }

    /// Returns the names and values of the fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }
}
