//! Decides the publications for one recipient of an event. Pure: its input is the event and the result of one query.

use std::borrow::Cow;
use std::fmt;

use pushlark_delivery::{Delivery, Publisher, RouteError};
use pushlark_model::{CallSignal, ClientState, Payload, Registration};
use pushlark_plugin::{Event, EventKind, Plugin, Publication, Recipient, Rule};
use pushlark_queue::ReportedRecipient;
use pushlark_store::{Counters, Snapshot};
use time::OffsetDateTime;

use crate::call::{CallAlert, OtherDevices, TimeToLive, for_device};
use crate::preferences::{self, Preference, WhileOnlineExceptions};
use crate::task::Attempt;

/// The decision for one recipient of an event, with its steps.
pub struct Decision<'w> {
    /// The recipient's registrations and sessions in the table.
    pub snapshot: Snapshot,
    /// The unread counters, if the message shows their numbers.
    pub counters: Option<Counters>,
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
    /// Whether it makes no sound because of `ALERT_INTERVAL`. The caller sets it.
    pub is_quiet: bool,
    /// Whether it has a claim. The caller sets it.
    pub is_claimed: bool,
}

/// The reason why a registration, or a recipient, is not notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule of the plugin leaves it out.
    Rule(Rule),
    /// The plugin left it out without a rule.
    NotChosen,
    /// A preference of the user for the device.
    Preference(Preference),
    /// The message is older than its time to live.
    TooLate,
    /// No publisher is configured for the host.
    Unroutable(RouteError),
    /// Another event of this message has published to it, or will.
    Claimed,
    /// The message is retried, and the device was enabled after it.
    EnabledLater,
    /// The device belongs to PushKit, and the notification is not about a call.
    CallsAlone,
    /// The device's own session is online and active, and receives the call from the chat server.
    Connected,
    /// The device belongs to APNs without PushKit, and another one of the user rings.
    RingsByPushKit,
    /// The device belongs to APNs, where no notification can end a call.
    NoCallEnd,
    /// The call that ends does not ring there: the device was not notified of it, or the call has ended before.
    NotRinging,
    /// The user has read the message on another device. No later read mark would clear its notification.
    Read,
    /// The recipient has no registration, or no longer the one that is retried.
    NoRegistration,
    /// The push service has reported the device of a push node as gone.
    DeviceGone,
    /// No device shows a notification of the conversation that is read.
    NotShown,
}

impl Reason {
    /// Returns the code of the reason, for the log line of an event: short, and the same in each release.
    pub fn code(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Rule(rule) => return rule.code().clone(),
            Self::NotChosen => "not-chosen",
            Self::Preference(preference) => preference.code(),
            Self::TooLate => "expired",
            Self::Unroutable(_) => "unroutable",
            Self::Claimed => "claimed",
            Self::EnabledLater => "enabled-later",
            Self::CallsAlone => "calls-alone",
            Self::Connected => "connected",
            Self::RingsByPushKit => "push-kit-rings",
            Self::NoCallEnd => "no-call-end",
            Self::NotRinging => "not-ringing",
            Self::Read => "read",
            Self::NoRegistration => "no-registration",
            Self::DeviceGone => "device-gone",
            Self::NotShown => "not-shown",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::NotChosen => f.write_str("the plugin leaves it out"),
            Self::Preference(preference) => preference.fmt(f),
            Self::TooLate => f.write_str("the message is older than its time to live"),
            Self::Unroutable(unroutable) => unroutable.fmt(f),
            Self::Claimed => f.write_str("another event of this message publishes to it"),
            Self::EnabledLater => f.write_str("it was enabled after the message"),
            Self::CallsAlone => f.write_str("PushKit devices are notified of calls alone"),
            Self::Connected => f.write_str("its own session is online"),
            Self::RingsByPushKit => f.write_str("a PushKit device of the user rings"),
            Self::NoCallEnd => f.write_str("APNs devices are not notified of the end of a call"),
            Self::NotRinging => f.write_str("the call does not ring there"),
            Self::Read => f.write_str("the user has read the message on another device"),
            Self::NoRegistration => f.write_str("the recipient has no registration"),
            Self::DeviceGone => f.write_str("the device is gone"),
            Self::NotShown => f.write_str("no device shows a notification of the conversation"),
        }
    }
}

/// The state of a recipient, from the event and the table.
pub struct RecipientState {
    /// The recipient, as the plugin receives it.
    pub recipient: Recipient,
    /// The source of `recipient.online`.
    pub presence: PresenceSource,
    /// The devices whose preferences decide otherwise while the user is online.
    pub exceptions: WhileOnlineExceptions,
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
        let (tied, lost) = match &event.kind {
            EventKind::Unacknowledged(session) => (snapshot.tied(session, event.at).cloned(), Some(session)),
            EventKind::Message(_) | EventKind::Subscription(_) => (None, None),
        };
        let client_state = reported.client_state.or(snapshot.client_state).filter(|_| online);
        let is_away = reported.online == Some(false) || reported.client_state == Some(ClientState::Inactive);
        let is_connected = |registration: &&Registration| !is_away && snapshot.is_connected(registration, lost);
        let connected = snapshot.registrations.iter().filter(is_connected).cloned().collect();
        let recipient = Recipient { exists: reported.exists.unwrap_or(true), online, client_state, tied, connected };
        let exceptions = WhileOnlineExceptions::new(event, reported, snapshot, &recipient);
        Self { recipient, presence, exceptions }
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
        leave_out(&mut self.publications, &mut self.left_out, &Reason::EnabledLater, |publication| {
            self.snapshot.is_enabled_after(&publication.registration, attempt.at())
        });
    }

    /// Leaves the end of a call out at the registrations where the call does not ring.
    pub fn leave_out_ends(&mut self, not_ringing: &[Registration]) {
        leave_out(&mut self.publications, &mut self.left_out, &Reason::NotRinging, |publication| {
            matches!(publication.payload.call(), Some(CallSignal::End(_)))
                && not_ringing.contains(&publication.registration)
        });
    }
}

/// Leaves out the publications for which `is_left_out` is true.
pub fn leave_out(
    publications: &mut Vec<PlannedPublication<'_>>,
    left_out: &mut Vec<(Registration, Reason)>,
    reason: &Reason,
    is_left_out: impl Fn(&Publication) -> bool,
) {
    let out = publications.extract_if(.., |planned| is_left_out(&planned.publication));
    left_out.extend(out.map(|planned| (planned.publication.registration, reason.clone())));
}

/// Decides where to publish `payload`, which the plugin has prepared.
pub fn decide<'w>(
    plugin: &dyn Plugin,
    delivery: &'w Delivery,
    time_to_live: TimeToLive,
    event: &Event,
    payload: Payload,
    (snapshot, counters): (Snapshot, Option<Counters>),
    known: RecipientState,
) -> Decision<'w> {
    let (chosen, mut left_out) = choose(plugin, event, payload, snapshot.registrations.clone(), &known);
    let exceptions = &known.exceptions;
    let user = event.recipient();
    let mut publications = Vec::new();
    let rings_by_push_kit = |Registration { jid, options, .. }: &Registration| {
        delivery.route(&user, jid).is_ok_and(|publisher| publisher.ringing(options).is_by_push_kit())
    };
    let preference = |registration: &Registration, payload: &Payload| {
        preferences::leaves_out(registration, event, payload, exceptions, time_to_live.call)
    };
    // Only calls depend on the user's other devices.
    let call = chosen.iter().map(|publication| &publication.payload).find(|payload| payload.call().is_some());
    let has_push_kit = call.is_some_and(|call| {
        let mut registrations = snapshot.registrations.iter();
        registrations.any(|registration| rings_by_push_kit(registration) && preference(registration, call).is_none())
    });
    let others = OtherDevices { connected: &known.recipient.connected, has_push_kit };
    let alert = CallAlert { text: &event.content_policy.call_placeholder, is_occupant: event.is_occupant };
    for Publication { registration, payload, presentation, rule } in chosen {
        if let Some(preference) = preference(&registration, &payload) {
            left_out.push((registration, Reason::Preference(preference)));
            continue;
        }
        let payload = preferences::shown(payload, &registration, &event.content_policy);
        let presentation = preferences::shown_presentation(presentation, &registration);
        let options = &registration.options;
        let Some(expires_at) = time_to_live.expiry(event.at, &payload, options, presentation.as_deref()) else {
            left_out.push((registration, Reason::TooLate));
            continue;
        };
        let planned = delivery.route(&user, &registration.jid).map_err(Reason::Unroutable).and_then(|publisher| {
            let ringing = publisher.ringing(options);
            Ok((publisher, for_device(payload, &registration, ringing, others, alert)?))
        });
        match planned {
            Ok((publisher, payload)) => {
                let publication = Publication { registration, payload, presentation, rule };
                publications.push(PlannedPublication {
                    publication,
                    expires_at,
                    publisher,
                    is_quiet: false,
                    is_claimed: false,
                });
            }
            Err(reason) => left_out.push((registration, reason)),
        }
    }
    for registration in &snapshot.registrations {
        let is_listed = left_out.iter().any(|(other, _)| other == registration);
        if !is_listed && !publications.iter().any(|planned| planned.publication.registration == *registration) {
            left_out.push((registration.clone(), Reason::NotChosen));
        }
    }
    Decision { snapshot, counters, known, left_out, publications, badge: None }
}

/// Returns the publications that the plugin chooses, and the registrations that it leaves out by a rule.
fn choose(
    plugin: &dyn Plugin,
    event: &Event,
    payload: Payload,
    mut registrations: Vec<Registration>,
    RecipientState { recipient, exceptions, .. }: &RecipientState,
) -> (Vec<Publication>, Vec<(Registration, Reason)>) {
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    let mut ask = |recipient: &Recipient, payload: Payload, registrations: Vec<Registration>| {
        let choice = plugin.should_publish(event, recipient, registrations);
        left_out.extend(choice.left_out.into_iter().map(|(registration, rule)| (registration, Reason::Rule(rule))));
        if !choice.publish.is_empty() {
            chosen.extend(plugin.publish_notification(event, recipient, payload, choice.publish));
        }
    };
    // Calls do not depend on the user's presence.
    if !exceptions.notified.is_empty() && event.message.call().is_none() {
        let (notified, others) = registrations.into_iter().partition(|one| exceptions.notified.contains(one));
        ask(&WhileOnlineExceptions::inactive(recipient), payload.clone(), notified);
        registrations = others;
    }
    ask(recipient, payload, registrations);
    (chosen, left_out)
}
