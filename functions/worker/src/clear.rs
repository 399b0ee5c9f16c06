//! Clears the notifications of a conversation that the user has read on another device: the devices that were notified
//! of it get a silent push.

use futures_util::future::join_all;
use pushlark_delivery::{Notification, Publisher, thread};
use pushlark_model::{Payload, Registration};
use pushlark_store::{Shown, Snapshot, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::claims::ClaimError;
use crate::decision::Reason;
use crate::deduplication::Deduplication;
use crate::notify::TaskOutcome;
use crate::order::Turn;
use crate::preferences::names_sender;
use crate::progress::BatchContext;
use crate::publish::{DeviceItem, Disposition, Publish};
use crate::retry::Unfinished;
use crate::task::Attempt;
use crate::worker::Worker;

/// A conversation that a user has read on one device, and whose notifications other devices may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadConversation {
    /// The user who has read it.
    pub user: BareJid,
    /// The other user, or the room.
    pub conversation: BareJid,
}

/// The registrations of which the notifications are cleared, each with its publisher.
pub struct Clearing<'w> {
    pub snapshot: Snapshot,
    pub registrations: Vec<(Registration, &'w Publisher)>,
}

impl Worker {
    /// Returns the registrations whose devices may show a notification of the conversation: those that `shown` has.
    ///
    /// A device whose own session is online and active knows what is read. PushKit allows nothing but calls. A real
    /// PubSub service would show a notification without a text as a new message. A plugin may forbid it.
    pub(crate) async fn clearing(
        &self,
        read: &ReadConversation,
        at: OffsetDateTime,
        shown: impl Fn(&Registration) -> bool,
    ) -> Result<Clearing<'_>, StoreError> {
        let snapshot = self.store.snapshot(&read.user).await?;
        let registrations = snapshot.registrations.iter().filter(|registration| {
            shown(registration)
                && !registration.options.is_push_kit()
                && !snapshot.is_connected(registration, None)
                && self.plugin.allows_clearing(read, at, registration)
        });
        let registrations: Vec<_> = registrations
            .filter_map(|registration| {
                Some((registration.clone(), self.delivery.push_service(&read.user, &registration.jid)?))
            })
            .collect();
        Ok(Clearing { snapshot, registrations })
    }

    /// Claims and publishes the silent pushes. `turn` ends before the publishes.
    pub(crate) async fn clear(
        &self,
        read: &ReadConversation,
        attempt: &Attempt,
        mut turn: Turn,
        batch: &BatchContext,
    ) -> TaskOutcome {
        let ReadConversation { user, conversation } = read;
        if self.time_to_live.is_over(attempt.at()) {
            count(Metric::Expired);
            return TaskOutcome::left_out(&Reason::TooLate);
        }
        let shown = match self.store.shown(user, conversation).await {
            Ok(shown) => shown,
            Err(error) => return TaskOutcome::default().postponed(&error),
        };
        // The retry of one device follows from an attempt that has found the device.
        let is_retried = attempt.retry.registration.is_some();
        let is_shown = |registration: &Registration| {
            attempt.concerns(registration) && (is_retried || self.is_read(&shown, registration, attempt.at()))
        };
        let Clearing { snapshot, registrations } = match self.clearing(read, attempt.at(), is_shown).await {
            Ok(clearing) => clearing,
            Err(error) => return TaskOutcome::default().postponed(&error),
        };
        let unread_count = match self.still_unread(read).await {
            Ok(unread_count) => unread_count,
            Err(error) => return TaskOutcome::default().postponed(&error),
        };
        let registrations_shown = registrations.len();
        let (ours, badge) = match self.claim_clearing(read, unread_count, attempt, registrations, &mut turn).await {
            Ok(claimed) => claimed,
            Err(error) => return TaskOutcome::default().postponed(&error),
        };
        let is_claimed = self.deduplication == Deduplication::Claims;
        let places: Vec<_> = ours.iter().map(|(registration, _)| turn.join(registration)).collect();
        drop(turn);
        let expires_at = attempt.at() + self.time_to_live.default;
        let publishes = ours.into_iter().zip(places).map(async |((registration, publisher), place)| {
            let payload = self.clearing_payload(read, unread_count, &registration);
            let notification = Notification {
                message_id: attempt.id(),
                user,
                conversation,
                registration: &registration,
                is_group: false,
                payload: (&payload).into(),
                presentation: None,
                badge,
                expires_at,
            };
            let device = DeviceItem::Registration(&snapshot);
            let publish = Publish { notification: &notification, device, publisher, retry: &attempt.retry, place };
            let result = self.publish(publish, batch.publish_cutoff).await;
            if result.is_ok() && is_claimed {
                batch.progress.add(attempt, user, None, [registration.clone()]);
            }
            (registration, result)
        });
        let mut outcome = TaskOutcome::default();
        let claimed = registrations_shown - publishes.len();
        (0..claimed).for_each(|_| outcome.results.leave_out(&Reason::Claimed));
        if registrations_shown == 0 {
            outcome.results.leave_out(&Reason::NotShown);
        }
        for (registration, result) in join_all(publishes).await {
            match result {
                Ok(Disposition::Delivered) => outcome.results.delivered += 1,
                Ok(Disposition::Undeliverable) => outcome.results.undelivered += 1,
                Err(cause) => {
                    outcome.unfinished.push(Unfinished { registration: Some(registration), is_claimed, cause })
                }
            }
        }
        // What is still unread is still shown.
        let is_all_read = unread_count == 0 && (self.unread_counts || !shown.has_any_after(attempt.at()));
        if is_all_read && !is_retried {
            self.forget_shown(read, &shown).await;
        }
        outcome
    }

    /// Returns whether a registration shows a notification that is read at `at`, or, if Pushlark counts, may be: the
    /// number of unread messages then tells.
    pub(crate) fn is_read(&self, shown: &Shown, registration: &Registration, at: OffsetDateTime) -> bool {
        match self.unread_counts {
            true => shown.has(registration),
            false => shown.has_until(registration, at),
        }
    }

    /// Returns the payload of a silent push. The conversation has the name that it has in the device's notifications.
    fn clearing_payload(&self, read: &ReadConversation, unread_count: u32, registration: &Registration) -> Payload {
        let ReadConversation { user, conversation } = read;
        let names_sender = self.content_policy.sender && names_sender(registration);
        Payload::default()
            .with(Payload::TYPE, Payload::READ)
            .with(Payload::CONVERSATION, thread(user, conversation, names_sender))
            .with(Payload::MESSAGE_COUNT, unread_count.to_string())
    }

    /// Returns the number of messages of the conversation that are unread now: newer ones than the read mark may be
    /// shown since, and must stay. 0 if Pushlark does not count.
    async fn still_unread(&self, read: &ReadConversation) -> Result<u32, StoreError> {
        if !self.unread_counts {
            return Ok(0);
        }
        self.store.unread(&read.user, &read.conversation).await
    }

    /// Claims registrations, and returns those that this attempt holds, with their badge.
    async fn claim_clearing<'w>(
        &self,
        read: &ReadConversation,
        unread_count: u32,
        attempt: &Attempt,
        registrations: Vec<(Registration, &'w Publisher)>,
        turn: &mut Turn,
    ) -> Result<(Vec<(Registration, &'w Publisher)>, Option<u32>), ClaimError> {
        if registrations.is_empty() {
            return Ok((registrations, None));
        }
        let badge = self.total_with(&read.user, &read.conversation, unread_count).await?;
        // A silent push may come again: it clears what is cleared, and replaces an earlier one.
        if self.deduplication == Deduplication::Collapse {
            return Ok((registrations, badge));
        }
        let claimed: Vec<_> = registrations.iter().map(|(registration, _)| registration).collect();
        let claim = attempt.claimant(&read.user, None).claim(&claimed);
        let held = turn.claim(&self.store, &attempt.claim_item(&read.user), claim).await?;
        let ours = registrations.into_iter().zip(held).filter_map(|(registration, held)| held.then_some(registration));
        Ok((ours.collect(), badge))
    }

    async fn forget_shown(&self, read: &ReadConversation, shown: &Shown) {
        if let Err(error) = self.store.forget_shown(&read.user, &read.conversation, shown).await {
            tracing::warn!(
                error = %Causes(&error),
                "the notifications of a conversation that is read are not forgotten yet"
            );
        }
    }
}
