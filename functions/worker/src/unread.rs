//! The numbers of unread messages in notifications: the conversation's, and the badge on the app's icon.

use std::time::Duration;

use futures_util::future::try_join;
use pushlark_model::{Payload, Registration};
use pushlark_plugin::{Event, EventKind, Publication};
use pushlark_queue::ReportedRecipient;
use pushlark_store::{Counted, CountedBefore, CountedMessage, CounterClaim, Counters, Snapshot, StoreError};
use pushlark_xmpp::{BareJid, Message};
use time::OffsetDateTime;

use crate::claims::ClaimError;
use crate::decision::{Decision, PlannedPublication, Reason, leave_out};
use crate::order::Turn;
use crate::task::Attempt;
use crate::worker::Worker;

/// The time in the queue after which a reply marks its conversation as read once more.
const LATE: Duration = Duration::from_secs(10);

impl Worker {
    /// Reads the recipient, and its counters if the message shows their numbers: all of them with `BADGE=total`. Sets the
    /// unread count of the event: that of an earlier attempt, or the one that the message gets if it is counted next.
    pub(crate) async fn read_recipient(
        &self,
        event: &mut Event,
        reported: &ReportedRecipient,
        counted: Option<u32>,
    ) -> Result<(Snapshot, Option<Counters>), StoreError> {
        let (user, conversation) = (event.recipient(), event.from.to_bare());
        let shows_count = self.unread_counts && reported.unread_count.is_none() && event.message.content().is_ok();
        if !shows_count {
            return Ok((self.store.snapshot(&user).await?, None));
        }
        let (snapshot, counters) = if self.badge_is_total {
            self.store.snapshot_with_counters(&user, &conversation).await?
        } else {
            try_join(self.store.snapshot(&user), self.store.counter(&user, &conversation)).await?
        };
        event.unread_count = counted.unwrap_or_else(|| counters.unread_with(&event.id));
        Ok((snapshot, Some(counters)))
    }

    /// Counts a message as unread, if Pushlark counts it and no earlier attempt has, and claims the publications of a
    /// decision by the same write. Returns the publications that this attempt may make, and sets `counted`.
    ///
    /// Like MongooseIM's inbox, it counts every message that somebody else wrote, even if it is not notified.
    pub(crate) async fn count_and_claim<'w>(
        &self,
        event: &mut Event,
        reported: &ReportedRecipient,
        decision: &mut Decision<'w>,
        attempt: &Attempt,
        counted: &mut Option<u32>,
        turn: &mut Turn,
    ) -> Result<Vec<PlannedPublication<'w>>, ClaimError> {
        let Decision { counters, publications, left_out, .. } = decision;
        let mut publications = std::mem::take(publications);
        let (user, conversation) = (event.recipient(), event.from.to_bare());
        let (mut earlier, mut is_read) = (None, false);
        if let Some(counters) = counters {
            if counted.is_none() && self.counts(event, reported) {
                let references = references(&event.message);
                let message = CountedMessage { id: &event.id, references: &references, at: event.at };
                let registrations: Vec<&Registration> =
                    publications.iter().map(|planned| &planned.publication.registration).collect();
                let claim = CounterClaim::new(&attempt.claimant(&user, None), &registrations);
                // A call has a claim of its own. The message of an unacknowledged event may have one, because it was late.
                let is_message = matches!(event.kind, EventKind::Message(_)) && attempt.claim_id() == event.id;
                let claim = claim.filter(|_| is_message);
                let unread_count =
                    match self.store.count(&user, &conversation, message, counters, claim.as_ref()).await? {
                        Counted::Now(unread_count) if claim.is_some() => {
                            *counted = Some(unread_count);
                            set_unread_count(event, &mut publications, unread_count);
                            let claimed = |planned| PlannedPublication { is_claimed: true, ..planned };
                            return Ok(publications.into_iter().map(claimed).collect());
                        }
                        Counted::Now(unread_count) => unread_count,
                        Counted::Before(before) => {
                            (earlier, is_read) = (before.claim, before.is_read);
                            before.unread_count
                        }
                    };
                *counted = Some(unread_count);
                set_unread_count(event, &mut publications, unread_count);
            } else if counted.is_some() && !publications.is_empty() {
                let before = self.counted_before(event, counters).await?;
                is_read = before.as_ref().is_some_and(|before| before.is_read);
                earlier = before.and_then(|before| before.claim);
            }
        }
        let claimant = attempt.claimant(&user, *counted);
        // Its own claim in the counter does not tell which registrations are complete: the claim item does.
        let earlier = earlier.filter(|claim| !claim.is_of(&claimant));
        leave_out(&mut publications, left_out, &Reason::Claimed, |publication| {
            earlier.as_ref().is_some_and(|claim| claim.has(&publication.registration))
        });
        // Its notification would not be cleared any more.
        if is_read && self.clear_when_read {
            leave_out(&mut publications, left_out, &Reason::Read, |_| true);
            return Ok(Vec::new());
        }
        self.claim(event, attempt, *counted, publications, left_out, turn).await
    }

    /// Marks a conversation as read by a reply that has waited in the queue: an older message to its sender may have
    /// waited, too, so that ingest has found nothing to read.
    pub(crate) async fn note_late_reply(&self, event: &Event, attempt: &Attempt) -> Result<(), StoreError> {
        let has_waited = OffsetDateTime::now_utc() - attempt.at() > LATE;
        let is_first_attempt = attempt.retry.registration.is_none();
        if !(self.unread_counts && attempt.is_reply() && has_waited && is_first_attempt) {
            return Ok(());
        }
        self.store.note_reply(&event.from.to_bare(), &event.recipient(), attempt.at()).await.map(drop)
    }

    /// Counts a message that the plugin skips, if Pushlark counts it and no earlier attempt has.
    pub(crate) async fn count_skipped(
        &self,
        event: &Event,
        reported: &ReportedRecipient,
        attempt: &Attempt,
    ) -> Result<(), StoreError> {
        if attempt.retry.unread_count.is_some() || !self.counts(event, reported) {
            return Ok(());
        }
        let (user, conversation) = (event.recipient(), event.from.to_bare());
        let references = references(&event.message);
        let message = CountedMessage { id: &event.id, references: &references, at: event.at };
        let counters = self.store.counter(&user, &conversation).await?;
        self.store.count(&user, &conversation, message, &counters, None).await?;
        Ok(())
    }

    /// Returns what the counter knows of a message that an earlier attempt has counted.
    pub(crate) async fn counted_before(
        &self,
        event: &Event,
        counters: &Counters,
    ) -> Result<Option<CountedBefore>, StoreError> {
        let (user, conversation) = (event.recipient(), event.from.to_bare());
        let message = CountedMessage { id: &event.id, references: &[], at: event.at };
        self.store.counted_before(&user, &conversation, message, counters).await
    }

    /// Returns whether Pushlark counts a message as unread: somebody else wrote it, and it has a content for people. A
    /// message that is older than its time to live, such as the history of a room, is not new to the recipient.
    pub(crate) fn counts(&self, event: &Event, reported: &ReportedRecipient) -> bool {
        self.unread_counts && reported.leaves_counting() && !self.time_to_live.is_over(event.at) && event.is_unread()
    }

    /// Returns the badge of an event's notifications: the number of unread messages in all conversations with
    /// `BADGE=total`. `None` if the badge is the count in the payload.
    ///
    /// With `is_retried`, other messages of the conversation may have been counted or read since, so the badge has the
    /// present number.
    pub(crate) fn badge(
        &self,
        event: &Event,
        reported: &ReportedRecipient,
        counters: Option<&Counters>,
        publications: &[PlannedPublication<'_>],
        is_retried: bool,
    ) -> Option<u32> {
        let user = event.recipient();
        let has_badge = |planned: &PlannedPublication<'_>| {
            let publication = &planned.publication;
            publication.payload.get(Payload::MESSAGE_COUNT).is_some()
                && self.delivery.push_service(&user, &publication.registration.jid).is_some()
        };
        if !self.badge_is_total || !publications.iter().any(has_badge) {
            return None;
        }
        if reported.unread_total.is_some() || reported.unread_count.is_some() {
            return reported.unread_total;
        }
        let counters = counters?;
        let unread_count = if is_retried { counters.unread() } else { event.unread_count };
        Some(counters.elsewhere.saturating_add(unread_count))
    }

    /// Returns the number of unread messages in all conversations of a user, of which `conversation` has `unread_count`.
    /// `None` if the badge is not the total, or if Pushlark does not count.
    pub(crate) async fn total_with(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        unread_count: u32,
    ) -> Result<Option<u32>, StoreError> {
        if !(self.badge_is_total && self.unread_counts) {
            return Ok(None);
        }
        let Counters { elsewhere, .. } = self.store.counters(user, conversation).await?;
        Ok(Some(elsewhere.saturating_add(unread_count)))
    }
}

/// Sets the unread count of an event, and in the payloads, for which it was estimated.
fn set_unread_count(event: &mut Event, publications: &mut [PlannedPublication<'_>], unread_count: u32) {
    let estimated = std::mem::replace(&mut event.unread_count, unread_count);
    if estimated == unread_count {
        return;
    }
    let estimated = estimated.to_string();
    for PlannedPublication { publication: Publication { payload, .. }, .. } in publications {
        if payload.get(Payload::MESSAGE_COUNT) == Some(&estimated) {
            *payload = std::mem::take(payload).with(Payload::MESSAGE_COUNT, unread_count.to_string());
        }
    }
}

/// Returns the ids by which a read mark may refer to a message: the stanza's `id` in a chat, or a stanza-id. Servers
/// append their stanza-ids, so the last ones come first.
fn references(message: &Message) -> Vec<&str> {
    let mut stanza_ids: Vec<_> = message.stanza_ids().map(|(_, id)| id).collect();
    stanza_ids.reverse();
    let id = message.element().attribute("id");
    id.into_iter().chain(stanza_ids).filter(|id| !id.is_empty()).collect()
}
