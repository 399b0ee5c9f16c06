//! Decides the publications for one recipient of an event. Pure: its input is the event and the result of one query.

use std::fmt;
use std::time::Duration;

use pushlark_delivery::{Delivery, Publisher, RouteError};
use pushlark_model::{Payload, Registration};
use pushlark_plugin::{Choice, Event, EventKind, Plugin, Publication, Recipient, Rule};
use pushlark_queue::ReportedRecipient;
use pushlark_store::Snapshot;
use time::OffsetDateTime;

use crate::task::Attempt;

/// The shortest time for which a notification is attempted. The event spends some time in the queue, so without a
/// minimum a `time_to_live` of 0 would never be delivered.
pub const MIN_TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// The decision for one recipient of an event, with its steps.
pub struct Decision<'w> {
    /// The recipient's registrations and sessions in the table.
    pub snapshot: Snapshot,
    /// The recipient's state, from the event and the table.
    pub known: RecipientState,
    /// The registrations that are not notified, each with its reason.
    pub left_out: Vec<(Registration, Reason)>,
    /// The publications to make, each with its publisher.
    pub publications: Vec<PlannedPublication<'w>>,
    /// The badge of the notifications, if it is not the count in their payloads. The caller sets it.
    pub badge: Option<u32>,
}

/// A publication, with its expiry and its publisher.
pub struct PlannedPublication<'w> {
    /// The payload and its registration.
    pub publication: Publication,
    /// The time at which the notification expires.
    pub expires_at: OffsetDateTime,
    /// The publisher for the registration's host.
    pub publisher: &'w Publisher,
}

/// The reason why a registration is not notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule of the plugin leaves it out.
    Rule(Rule),
    /// The plugin left it out without a rule.
    NotChosen,
    /// The message is older than its time to live.
    TooLate,
    /// No publisher is configured for the host.
    Unroutable(RouteError),
    /// Another event of this message has published to it, or will.
    Claimed,
    /// The message is retried, and the device was enabled after it.
    EnabledLater,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::NotChosen => f.write_str("the plugin leaves it out"),
            Self::TooLate => f.write_str("the message is older than its time to live"),
            Self::Unroutable(unroutable) => unroutable.fmt(f),
            Self::Claimed => f.write_str("another event of this message publishes to it"),
            Self::EnabledLater => f.write_str("it was enabled after the message"),
        }
    }
}

/// The state of a recipient, from the event and the table.
pub struct RecipientState {
    /// The recipient, as the plugin receives it.
    pub recipient: Recipient,
    /// The source of `recipient.online`.
    pub presence: PresenceSource,
}

/// The source of a recipient's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceSource {
    /// The event reports it.
    Event,
    /// The sessions in the table.
    Sessions,
    /// Neither: the user counts as offline.
    Assumed,
}

impl PresenceSource {
    /// Returns the name of the source in logs and explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Sessions => "sessions",
            Self::Assumed => "assumed",
        }
    }
}

impl RecipientState {
    /// Combines the state that the event reports with the snapshot of the table. The event takes precedence.
    pub fn new(event: &Event, reported: &ReportedRecipient, snapshot: &Snapshot) -> Self {
        let (online, presence) = match (reported.online, snapshot.online) {
            (Some(online), _) => (online, PresenceSource::Event),
            (None, Some(online)) => (online, PresenceSource::Sessions),
            (None, None) => (false, PresenceSource::Assumed),
        };
        let tied = match &event.kind {
            EventKind::Unacknowledged(session) => snapshot.tied(session, event.at).cloned(),
            EventKind::Message(_) | EventKind::Subscription(_) => None,
        };
        let client_state = reported.client_state.or(snapshot.client_state).filter(|_| online);
        let recipient = Recipient { exists: reported.exists.unwrap_or(true), online, client_state, tied };
        Self { recipient, presence }
    }
}

impl Decision<'_> {
    /// Keeps the registrations of an attempt: the retry of one device publishes only to that device, and no retry
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

/// Decides where to publish `payload`, which the plugin has prepared. `time_to_live` applies to registrations
/// that set none.
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
        let own = publication.registration.options.time_to_live().ok().flatten();
        let time_to_live = own.unwrap_or(time_to_live);
        let is_late = OffsetDateTime::now_utc() - event.at > time_to_live.max(MIN_TIME_TO_LIVE);
        let expires_at = event.at + time_to_live;
        match delivery.route(&user, &publication.registration.jid) {
            _ if is_late => left_out.push((publication.registration, Reason::TooLate)),
            Err(unroutable) => left_out.push((publication.registration, Reason::Unroutable(unroutable))),
            Ok(publisher) => publications.push(PlannedPublication { publication, expires_at, publisher }),
        }
    }
    for registration in &snapshot.registrations {
        let is_listed = left_out.iter().any(|(other, _)| other == registration);
        if !is_listed && !publications.iter().any(|planned| planned.publication.registration == *registration) {
            left_out.push((registration.clone(), Reason::NotChosen));
        }
    }
    Decision { snapshot, known, left_out, publications, badge: None }
}
