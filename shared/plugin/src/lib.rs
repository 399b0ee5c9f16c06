//! What decides whether and what to notify: pure and synchronous, with all that a custom plugin depends on.
//!
//! A plugin sees one event for one recipient, and answers by three callbacks, in the order that MongooseIM's
//! `mod_event_pusher_push` calls its own: `prepare_notification` (which may skip), `should_publish` (which filters
//! the recipient's services) and `publish_notification`. A callback that is left out is the [`Defaults`]'.

mod built_in;
mod disclosure;

pub use built_in::{Defaults, Enhanced, Hints};
pub use disclosure::Disclosure;
pub use pushlark_model::{Mode, Payload, Priority, PublishOptions, Registration};
pub use pushlark_xmpp as xmpp;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use time::OffsetDateTime;
use xmpp::{BareJid, FullJid, Jid, Message};

/// A message on its way to one recipient.
#[derive(Debug, Clone)]
pub struct Event {
    /// Names the message; the same for each webhook that tells of it.
    pub id: String,
    /// When it happened.
    pub at: OffsetDateTime,
    /// Who sent the message: a user's session, or an occupant of a room.
    pub from: Jid,
    /// What happened to the message, and so whom it is for.
    pub kind: EventKind,
    /// The stanza.
    pub message: Arc<Message>,
    /// How many messages of this conversation the recipient has not read, this one included.
    pub unread_count: u32,
    /// What a notification may tell of the message.
    pub disclosure: Arc<Disclosure>,
}

/// What happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// It arrived for the user.
    Message(BareJid),
    /// It was sent to this session, which never acknowledged it (XEP-0198).
    Unacknowledged(FullJid),
}

impl EventKind {
    /// The type of event that tells of it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Unacknowledged(_) => "unacknowledged",
        }
    }
}

impl Event {
    /// The user that the message is for.
    pub fn recipient(&self) -> BareJid {
        match &self.kind {
            EventKind::Message(user) => user.clone(),
            EventKind::Unacknowledged(session) => session.to_bare(),
        }
    }
}

/// What is known of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Whether there is such a user.
    pub exists: bool,
    /// Whether the user has a session that takes messages.
    pub online: bool,
    /// The service that was enabled last by the session that the event is of, if it is of one.
    pub tied: Option<Registration>,
}

/// One notification to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where.
    pub registration: Registration,
    /// What.
    pub payload: Payload,
}

/// Why a plugin leaves out a message or a service, for whoever operates Pushlark. It goes to the log, so it quotes
/// nothing of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    plugin: Cow<'static, str>,
    text: Cow<'static, str>,
}

impl Rule {
    /// The rule of `plugin` that `text` says.
    pub fn new(plugin: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin: plugin.into(), text: text.into() }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.plugin, self.text)
    }
}

/// Which of a recipient's services to notify.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// These.
    pub publish: Vec<Registration>,
    /// Not these, and why.
    pub left_out: Vec<(Registration, Rule)>,
}

impl Choice {
    /// All of them.
    pub fn all(registrations: Vec<Registration>) -> Self {
        Self { publish: registrations, left_out: Vec::new() }
    }

    /// None of them, by one rule.
    pub fn none(registrations: Vec<Registration>, rule: &Rule) -> Self {
        Self::by(registrations, |_| Some(rule.clone()))
    }

    /// Those that no rule leaves out.
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

/// Decides whether and what to notify. Callbacks are called in the order in which they stand here, for each
/// recipient of an event, and again when it is tried again; they do no I/O, so the same inputs give the same answers.
pub trait Plugin: Send + Sync {
    /// What to notify of `event`, or the rule that skips it.
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        built_in::prepare_notification(event)
    }

    /// Which of the recipient's services to notify. A service that was notified of this message before is left out
    /// afterwards, whatever is answered here.
    fn should_publish(&self, event: &Event, recipient: &Recipient, registrations: Vec<Registration>) -> Choice {
        built_in::should_publish(event, recipient, registrations)
    }

    /// What to publish where. `registrations` is what `should_publish` chose, and never empty.
    fn publish_notification(
        &self,
        _event: &Event,
        payload: Payload,
        registrations: Vec<Registration>,
    ) -> Vec<Publication> {
        registrations.into_iter().map(|registration| Publication { registration, payload: payload.clone() }).collect()
    }
}

/// The plugins that a worker was built with, by the names that the setting `PLUGIN` knows them by.
#[derive(Clone)]
pub struct Plugins(BTreeMap<&'static str, Arc<dyn Plugin>>);

/// There is no plugin of that name; the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is not a plugin of this worker, which has: {known}")]
pub struct UnknownPlugin {
    name: String,
    known: String,
}

impl Plugins {
    /// The plugins that come with Pushlark.
    pub fn built_in() -> Self {
        Self(BTreeMap::new()).with("defaults", Defaults).with("enhanced", Enhanced).with("hints", Hints)
    }

    /// These and `plugin`, which takes the place of one with the same name.
    pub fn with(mut self, name: &'static str, plugin: impl Plugin + 'static) -> Self {
        self.0.insert(name, Arc::new(plugin));
        self
    }

    /// The plugin called `name`.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Plugin>, UnknownPlugin> {
        self.0.get(name).cloned().ok_or_else(|| UnknownPlugin {
            name: name.into(),
            known: self.0.keys().copied().collect::<Vec<_>>().join(", "),
        })
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
