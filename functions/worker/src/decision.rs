//! What to publish for one recipient of an event, and why not: pure, over what one query gave.

use std::fmt;
use std::time::Duration;

use pushlark_delivery::{Delivery, Publisher, Unroutable};
use pushlark_model::{Payload, Registration};
use pushlark_plugin::{Choice, Event, EventKind, Plugin, Publication, Recipient, Rule};
use pushlark_queue::Facts;
use pushlark_store::Snapshot;
use time::OffsetDateTime;

use crate::task::Attempt;

/// A notification is tried for at least so long, since it spends some time in the queue: a `time_to_live` of 0 means
/// now or never, not never.
pub const MIN_TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// What was decided for one recipient of an event, step by step.
pub struct Decision<'w> {
    /// What the table holds of the recipient.
    pub snapshot: Snapshot,
    /// What is known of the recipient.
    pub known: RecipientState,
    /// The services that are not notified, and why.
    pub left_out: Vec<(Registration, Reason)>,
    /// What to publish, and what publishes it.
    pub publications: Vec<PlannedPublication<'w>>,
}

/// A publication, and what publishes it.
pub struct PlannedPublication<'w> {
    /// What and where.
    pub publication: Publication,
    /// Until when it is worth delivering.
    pub expires_at: OffsetDateTime,
    /// What publishes it.
    pub publisher: &'w Publisher,
}

/// Why a service is not notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule of the plugin.
    Rule(Rule),
    /// The plugin left it out without a word.
    NoReason,
    /// The message is older than its notification is worth.
    TooLate,
    /// Nothing publishes to the host.
    Unroutable(Unroutable),
    /// Another event of this message published to it, or is about to.
    Claimed,
    /// It is a device that was enabled while the message was tried again.
    EnabledLater,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::NoReason => f.write_str("the plugin leaves it out"),
            Self::TooLate => f.write_str("the message is older than its time to live"),
            Self::Unroutable(unroutable) => unroutable.fmt(f),
            Self::Claimed => f.write_str("another event of this message publishes to it"),
            Self::EnabledLater => f.write_str("it was enabled after the message"),
        }
    }
}

/// What is known of a recipient, and from where.
pub struct RecipientState {
    /// What the plugin is told.
    pub recipient: Recipient,
    /// Where `online` comes from.
    pub presence: PresenceSource,
}

/// Where it is known from whether a recipient is online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceSource {
    /// The event says so.
    Event,
    /// The sessions that the table knows.
    Sessions,
    /// Nothing: a user of whom nothing was heard is offline.
    Assumed,
}

impl PresenceSource {
    /// As it is logged and explained.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Sessions => "sessions",
            Self::Assumed => "assumed",
        }
    }
}

impl RecipientState {
    /// What the event says wins over what the table knows.
    pub fn new(event: &Event, reported: Facts, snapshot: &Snapshot) -> Self {
        let (online, presence) = match (reported.online, snapshot.online) {
            (Some(online), _) => (online, PresenceSource::Event),
            (None, Some(online)) => (online, PresenceSource::Sessions),
            (None, None) => (false, PresenceSource::Assumed),
        };
        let tied = match &event.kind {
            EventKind::Unacknowledged(session) => snapshot.tied(session, event.at).cloned(),
            EventKind::Message(_) => None,
        };
        Self { recipient: Recipient { exists: reported.exists.unwrap_or(true), online, tied }, presence }
    }
}

impl Decision<'_> {
    /// Keeps the services that an attempt is for: the retry of one device publishes to that device alone, and no retry
    /// publishes to a device that was enabled after the message.
    pub fn restrict_to(&mut self, attempt: &Attempt) {
        self.left_out.retain(|(registration, _)| attempt.concerns(registration));
        self.publications.retain(|planned| attempt.concerns(&planned.publication.registration));
        if !attempt.is_repeat {
            return;
        }
        let (later, publications) =
            std::mem::take(&mut self.publications).into_iter().partition::<Vec<_>, _>(|planned| {
                self.snapshot.is_enabled_after(&planned.publication.registration, attempt.at())
            });
        self.publications = publications;
        self.left_out.extend(later.into_iter().map(|planned| (planned.publication.registration, Reason::EnabledLater)));
    }
}

/// Decides what to publish of `payload`, which the plugin has prepared. `time_to_live` is for registrations that say none.
pub fn decide<'w>(
    plugin: &dyn Plugin,
    delivery: &'w Delivery,
    time_to_live: Duration,
    event: &Event,
    payload: Payload,
    snapshot: Snapshot,
    known: RecipientState,
) -> Decision<'w> {
    let Choice { publish, left_out } = plugin.should_publish(event, &known.recipient, snapshot.registrations.clone());
    let mut left_out: Vec<_> =
        left_out.into_iter().map(|(registration, rule)| (registration, Reason::Rule(rule))).collect();
    let chosen = if publish.is_empty() { Vec::new() } else { plugin.publish_notification(event, payload, publish) };
    let user = event.recipient();
    let mut publications = Vec::new();
    for publication in chosen {
        let asked = publication.registration.options.time_to_live().ok().flatten();
        let time_to_live = asked.unwrap_or(time_to_live);
        let is_late = OffsetDateTime::now_utc() - event.at > time_to_live.max(MIN_TIME_TO_LIVE);
        let expires_at = event.at + time_to_live;
        match delivery.route(&user, &publication.registration.jid) {
            _ if is_late => left_out.push((publication.registration, Reason::TooLate)),
            Err(unroutable) => left_out.push((publication.registration, Reason::Unroutable(unroutable))),
            Ok(publisher) => publications.push(PlannedPublication { publication, expires_at, publisher }),
        }
    }
    for registration in &snapshot.registrations {
        let is_told = left_out.iter().any(|(other, _)| other == registration);
        if !is_told && !publications.iter().any(|planned| planned.publication.registration == *registration) {
            left_out.push((registration.clone(), Reason::NoReason));
        }
    }
    Decision { snapshot, known, left_out, publications }
}
