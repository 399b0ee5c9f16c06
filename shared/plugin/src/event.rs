//! The input and the results of a plugin's callbacks.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use pushlark_model::{ClientState, Payload, Presentation, Registration};
use pushlark_xmpp::{BareJid, FullJid, Jid, Message};
use time::OffsetDateTime;

use crate::content_policy::ContentPolicy;

/// A message to one recipient.
#[derive(Debug, Clone)]
pub struct Event {
    /// The id of the message, the same in each webhook about it.
    pub id: String,
    /// The time at which the event happened, not later than its arrival.
    pub at: OffsetDateTime,
    /// The sender of the message: the JID of a user's session or of a room's occupant (in a MIX channel with the nick,
    /// not the participant's id), or of the inviter to a room.
    pub from: Jid,
    /// Whether the sender is an occupant of a room, also in a private message. The nick is then part of the sender.
    pub is_occupant: bool,
    /// Whether the recipient is the author, and the message a copy for the recipient's other sessions.
    pub is_own: bool,
    /// The room, if the message is an invitation to one.
    pub room: Option<BareJid>,
    /// The nick of the recipient in the room of the message, if the event names it.
    pub nick: Option<String>,
    /// The name of the sender for people, if the event has it.
    pub sender_name: Option<String>,
    /// The name of the room of a group message for people, if the event has it.
    pub room_name: Option<String>,
    /// The number of recipients of the event, of whom the plugin decides about one.
    pub members: u32,
    /// Whether the recipient knows the sender, if the event reports it: the sender is in the roster, or in a room with
    /// the recipient.
    pub sender_known: Option<bool>,
    /// The kind of the event, with the recipient.
    pub kind: EventKind,
    /// The stanza; its `from` and `to` may be missing. It is empty for a contact request.
    pub message: Arc<Message>,
    /// The number of messages in this conversation that the recipient has not read, including this one.
    pub unread_count: u32,
    /// The operator's limits for the content of notifications.
    pub content_policy: Arc<ContentPolicy>,
}

/// The kind of an event, with the recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// The message arrived for this user.
    Message(BareJid),
    /// This session did not acknowledge the message (XEP-0198).
    Unacknowledged(FullJid),
    /// This user got a contact request (RFC 6121, section 3.1). Plugins decide about it only if they say so
    /// ([`decides_subscriptions`](crate::Plugin::decides_subscriptions)).
    Subscription(BareJid),
}

impl EventKind {
    /// Returns the `type` of the event in a webhook: `message`, `unacknowledged` or `subscription`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Unacknowledged(_) => "unacknowledged",
            Self::Subscription(_) => "subscription",
        }
    }

    /// Returns the bare JID of the recipient.
    pub fn recipient(&self) -> BareJid {
        match self {
            Self::Message(user) | Self::Subscription(user) => user.clone(),
            Self::Unacknowledged(session) => session.to_bare(),
        }
    }
}

impl Event {
    /// Returns the bare JID of the recipient.
    pub fn recipient(&self) -> BareJid {
        self.kind.recipient()
    }

    /// Returns whether the message is unread for the recipient: somebody else wrote it, it has a content for people, and
    /// it may be stored.
    pub fn is_unread(&self) -> bool {
        !self.is_own && !self.message.forbids_storage() && self.message.content().is_ok()
    }
}

/// The state of a recipient when the event is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Whether the user exists; `true` unless the event reports otherwise.
    pub exists: bool,
    /// Whether the user has a session that receives messages.
    pub online: bool,
    /// The state of the clients of a user who is online: inactive if all are (XEP-0352). `None` counts as active.
    pub client_state: Option<ClientState>,
    /// The last registration that the event's session enabled; `None` if the event has no session.
    pub tied: Option<Registration>,
    /// The registrations whose own session is online and active: the session that enabled them last. Their devices
    /// receive a call from the chat server, and are not notified of it.
    pub connected: Vec<Registration>,
}

impl Recipient {
    /// Returns whether the user gets messages without a notification: an online session has an active client.
    pub fn is_active(&self) -> bool {
        self.online && self.client_state != Some(ClientState::Inactive)
    }
}

/// One notification for one registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The registration, which names the node and the device.
    pub registration: Registration,
    /// The fields of the notification.
    pub payload: Payload,
    /// The presentation, if the operator's rule sets one.
    pub presentation: Option<Arc<Presentation>>,
    /// The operator's rule that decided, such as `rule 2 "night"`.
    pub rule: Option<Arc<str>>,
}

impl Publication {
    /// Creates a notification that is presented as the registration's form has it.
    pub fn new(registration: Registration, payload: Payload) -> Self {
        Self { registration, payload, presentation: None, rule: None }
    }
}

/// The reason why a plugin skips a message or a registration, for the operator. It is logged, so it must not quote the
/// message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    plugin: Cow<'static, str>,
    text: Cow<'static, str>,
    code: Option<Cow<'static, str>>,
    is_failure: bool,
}

impl Rule {
    /// Creates a rule. `plugin` is the plugin's name, `text` the reason, such as `the message has no body`.
    pub fn new(plugin: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin: plugin.into(), text: text.into(), code: None, is_failure: false }
    }

    /// Adds the code of the reason, such as `no-body`, for the log line of an event: short, and the same in each
    /// release.
    pub fn with_code(self, code: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// Returns the code of the reason; without one, the plugin's name.
    pub fn code(&self) -> &Cow<'static, str> {
        self.code.as_ref().unwrap_or(&self.plugin)
    }

    /// Creates a rule that should notify, but cannot. The worker logs it as a warning, once for an event and recipient.
    pub fn failure(plugin: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { is_failure: true, ..Self::new(plugin, text) }
    }

    /// Returns whether the rule should notify, but cannot.
    pub fn is_failure(&self) -> bool {
        self.is_failure
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.plugin, self.text)
    }
}

/// The registrations of a recipient, divided into those that are notified and those that are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// The registrations that are notified.
    pub publish: Vec<Registration>,
    /// The registrations that are not notified, each with the reason.
    pub left_out: Vec<(Registration, Rule)>,
}

impl Choice {
    /// Notifies all registrations.
    pub fn all(registrations: Vec<Registration>) -> Self {
        Self { publish: registrations, left_out: Vec::new() }
    }

    /// Notifies no registration, for the reason `rule`.
    pub fn none(registrations: Vec<Registration>, rule: &Rule) -> Self {
        Self::by(registrations, |_| Some(rule.clone()))
    }

    /// Notifies the registrations for which `rule` returns `None`.
    pub fn by(registrations: Vec<Registration>, rule: impl Fn(&Registration) -> Option<Rule>) -> Self {
        let mut choice = Self::default();
        for registration in registrations {
            match rule(&registration) {
                None => choice.publish.push(registration),
                Some(rule) => choice.left_out.push((registration, rule)),
            }
        }
        choice
    }
}
