//! The operator's limits for the content of notifications.

use pushlark_xmpp::unescaped;

/// The operator's limits for the content of notifications, which push services and everybody near the device can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentPolicy {
    /// Whether a notification contains the text of the message.
    pub body: bool,
    /// Whether a notification contains the sender.
    pub sender: bool,
    /// The text instead of a message's text, if `body` is `false` or the message is encrypted.
    pub placeholder: String,
    /// The text of an invitation to a room that has neither a text nor a reason. `{room}` stands for the room's JID.
    pub invitation_placeholder: String,
    /// The text of a contact request.
    pub subscription_placeholder: String,
    /// The text of a call on a device that cannot ring.
    pub call_placeholder: String,
    /// Whether the end of a call is notified.
    pub call_end: bool,
    /// Whether a group message that its sender marked as urgent gets the field `urgent`.
    pub urgent: bool,
    /// Whether a group message that mentions the recipient gets the field `mention`.
    pub mention: bool,
}

impl ContentPolicy {
    /// Returns the text of an invitation to a room without a text of its own. `room` is the room's JID.
    pub fn invitation(&self, room: &str) -> String {
        self.invitation_placeholder.replace("{room}", &unescaped(room))
    }
}

/// Returns the policy of MongooseIM: text and sender, no further fields.
impl Default for ContentPolicy {
    fn default() -> Self {
        Self {
            body: true,
            sender: true,
            placeholder: "New message".into(),
            invitation_placeholder: "Invitation to {room}".into(),
            subscription_placeholder: "Contact request".into(),
            call_placeholder: "Incoming call".into(),
            call_end: true,
            urgent: false,
            mention: false,
        }
    }
}
