//! The operator's limits for the content of notifications.

/// The operator's limits for the content of notifications, which push services and everybody near the device can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentPolicy {
    /// Whether a notification contains the text of the message.
    pub body: bool,
    /// Whether a notification contains the sender.
    pub sender: bool,
    /// The text instead of a message's text, if `body` is `false` or the message is encrypted.
    pub placeholder: String,
    /// Whether a group message that its sender marked as urgent gets the field `urgent`.
    pub urgent: bool,
    /// Whether a group message that mentions the recipient gets the field `mention`.
    pub mention: bool,
}

/// Returns the policy of MongooseIM: text and sender, no further fields.
impl Default for ContentPolicy {
    fn default() -> Self {
        Self { body: true, sender: true, placeholder: "New message".into(), urgent: false, mention: false }
    }
}
