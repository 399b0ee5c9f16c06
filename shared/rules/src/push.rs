//! The action `push`: the content of a notification, its presentation, and the registrations that get it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use pushlark_model::{Payload, Presentation, Registration};
use pushlark_plugin::{Event, EventKind, Recipient};
use pushlark_xmpp::{NoContent, unescaped};
use serde::Deserialize;

use crate::facts::Facts;
use crate::template::{Template, Variable, truncated};

/// The most fields of `data`.
const MAX_DATA_FIELDS: usize = 8;
/// The longest name of a field of `data`, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// The longest title and the longest value of a field of `data`, in bytes. Push services accept 4 KB, and shorten only
/// the text of the message.
const MAX_VALUE_BYTES: usize = 256;

/// The names of fields that notifications have already, or that a push service reserves (FCM: Message.data; APNs:
/// "Generating a remote notification").
const RESERVED_NAMES: [&str; 22] = [
    Payload::MESSAGE_COUNT,
    Payload::LAST_MESSAGE_SENDER,
    Payload::LAST_MESSAGE_BODY,
    Payload::ROOM,
    Payload::PENDING_SUBSCRIPTION_COUNT,
    Payload::PENDING_SUBSCRIPTION_FROM,
    Payload::NODE,
    Payload::URGENT,
    Payload::MENTION,
    Payload::TYPE,
    Payload::CALL_SID,
    Payload::CALL_FROM,
    Payload::CALL_MEDIA,
    Payload::CONVERSATION,
    Payload::ACCOUNT,
    Payload::ENCRYPTED,
    Payload::IV,
    "FORM_TYPE",
    "aps",
    "from",
    "message_type",
    "collapse_key",
];
/// The starts of names that FCM reserves.
const RESERVED_PREFIXES: [&str; 2] = ["google", "gcm"];

/// A notification, as a rule wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// The facts that become the payload.
    pub content: Content,
    /// The title of the alert.
    pub title: Option<Template>,
    /// The text of the alert.
    pub body: Option<Template>,
    /// Further fields of the payload.
    pub data: Data,
    /// The presentation, without a title.
    pub presentation: Presentation,
    /// The registrations that get it.
    pub to: Audience,
}

/// The content of a notification, as the action `push` builds it.
pub struct Notification {
    /// The fields.
    pub payload: Payload,
    /// The presentation; `None` if it is as the form of the registration has it.
    pub presentation: Option<Arc<Presentation>>,
}

/// The facts in a notification, `content` of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// The summary of a message, an invitation or a contact request.
    Message,
    /// A call or its end.
    Jingle,
}

/// The registrations that get a notification, `to` of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// All for which the rule decides.
    #[default]
    All,
    /// The registration that the session of an unacknowledged message enabled last.
    Tied,
    /// Those of an app.
    App(String),
}

/// Further fields of a payload, `data` of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, Template>")]
pub struct Data(BTreeMap<String, Template>);

/// Fields that a notification cannot have. The operator must correct them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// There are this many fields.
    #[error("{0} fields, {MAX_DATA_FIELDS} are allowed")]
    TooMany(usize),
    /// The name of a field has characters that are not allowed, or too many.
    #[error("the field {0:?} must have a name of 1 to {MAX_NAME_BYTES} of the characters A-Z a-z 0-9 . _ -")]
    InvalidName(String),
    /// The name of a field has another meaning.
    #[error("the name of the field {0:?} is reserved")]
    ReservedName(String),
}

impl TryFrom<BTreeMap<String, Template>> for Data {
    type Error = DataError;

    fn try_from(fields: BTreeMap<String, Template>) -> Result<Self, DataError> {
        if fields.len() > MAX_DATA_FIELDS {
            return Err(DataError::TooMany(fields.len()));
        }
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        for name in fields.keys() {
            if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_allowed) {
                return Err(DataError::InvalidName(name.chars().take(MAX_NAME_BYTES).collect()));
            }
            let has_prefix = RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if has_prefix || RESERVED_NAMES.contains(&name.as_str()) {
                return Err(DataError::ReservedName(name.clone()));
            }
        }
        Ok(Self(fields))
    }
}

impl Audience {
    /// Returns whether a registration gets the notification.
    pub fn includes(&self, recipient: &Recipient, registration: &Registration) -> bool {
        match self {
            Self::All => true,
            Self::Tied => recipient.tied.as_ref() == Some(registration),
            Self::App(app) => app == registration.options.app(),
        }
    }
}

impl Push {
    /// Returns the content of a notification for an event, or the reason why it cannot be built.
    pub fn notification(&self, event: &Event, facts: &Facts<'_>) -> Result<Notification, &'static str> {
        let content = self.content.payload(event, facts)?;
        let render = |template: &Template| template.render(|variable| value(variable, event, facts, &content));
        let mut payload = content.clone();
        if let Some(body) = &self.body {
            let text = render(body);
            if text.trim().is_empty() {
                return Err("the text of its body is empty");
            }
            // An alert about a call that has a text names the sender only by this field.
            if content.call().is_some() && event.content_policy.sender {
                payload = payload.with(Payload::LAST_MESSAGE_SENDER, event.sender());
            }
            payload = payload.with(Payload::LAST_MESSAGE_BODY, text);
        }
        for (name, template) in &self.data.0 {
            payload = payload.with(name.clone(), truncated(render(template), MAX_VALUE_BYTES));
        }
        let title = self.title.as_ref().map(render).filter(|title| !title.trim().is_empty());
        let title = title.map(|title| truncated(title, MAX_VALUE_BYTES));
        let presentation = Presentation { title, ..self.presentation.clone() };
        let presentation = (presentation != Presentation::default()).then(|| Arc::new(presentation));
        Ok(Notification { payload, presentation })
    }
}

impl Content {
    fn payload(self, event: &Event, facts: &Facts<'_>) -> Result<Payload, &'static str> {
        match (self, event.message.call()) {
            (Self::Message, _) if matches!(event.kind, EventKind::Subscription(_)) => Ok(event.contact_request()),
            (Self::Message, _) => {
                event.message.content().map(|content| event.summary(content)).map_err(NoContent::as_str)
            }
            (Self::Jingle, Some(call)) => event.call(&call).map_err(|_| "the step of the call does not notify"),
            (Self::Jingle, None) if facts.has_jingle() == Some(true) => {
                Err("the jingle element has no id, or is no call of two users")
            }
            (Self::Jingle, None) => Err("the message has no jingle element"),
        }
    }
}

/// Returns the value of a variable within the operator's limits. `payload` has no text of the rule yet.
fn value<'v>(variable: Variable, event: &'v Event, facts: &Facts<'_>, payload: &'v Payload) -> Cow<'v, str> {
    let is_named = event.content_policy.sender;
    let room = || facts.room.as_ref().map(|room| unescaped(room.as_str()).into_owned());
    let text = match variable {
        Variable::Body => return payload_text(event, payload).into(),
        Variable::Kind => return facts.kind.map(|kind| kind.as_str()).unwrap_or_default().into(),
        Variable::Count => {
            let count = payload.get(Payload::MESSAGE_COUNT);
            return count.or_else(|| payload.get(Payload::PENDING_SUBSCRIPTION_COUNT)).unwrap_or_default().into();
        }
        Variable::Sender | Variable::SenderName | Variable::Room | Variable::RoomName | Variable::Nick if !is_named => {
            None
        }
        Variable::SenderName if event.sender_name.is_some() => event.sender_name.clone(),
        Variable::Sender | Variable::SenderName => Some(unescaped(&event.sender()).into_owned()),
        Variable::RoomName if event.room_name.is_some() => event.room_name.clone(),
        Variable::Room | Variable::RoomName => room(),
        Variable::Nick => event.from.resource().filter(|_| event.is_occupant).map(str::to_owned),
    };
    text.unwrap_or_default().into()
}

/// Returns the text of a payload; of a call, the text of an alert about it.
fn payload_text<'v>(event: &'v Event, payload: &'v Payload) -> &'v str {
    match payload.get(Payload::LAST_MESSAGE_BODY) {
        None if payload.call().is_some() => &event.content_policy.call_placeholder,
        text => text.unwrap_or_default(),
    }
}
