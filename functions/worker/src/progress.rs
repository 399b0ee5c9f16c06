//! The progress of a batch: complete publications. They are written to their claims, because SQS may deliver the
//! message again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pushlark_model::Registration;
use pushlark_store::{ClaimItem, ClaimUpdate, Store};
use pushlark_telemetry::Causes;
use pushlark_xmpp::BareJid;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::task::Attempt;

/// The maximum number of items with claims that are written concurrently.
const MAX_CONCURRENT_CLAIMS: usize = 16;
/// The time without another complete publication after which the complete ones are written: others hold the batch up. A
/// batch that makes progress ends soon, and then needs no write. If the worker crashes before, notifications are repeated.
const WRITE_DELAY: Duration = Duration::from_millis(500);
/// The longest time for which a complete publication is not written.
const MAX_WRITE_DELAY: Duration = Duration::from_secs(3);

/// The state that the tasks of a batch share.
pub struct BatchContext {
    /// The publications that are complete.
    pub progress: Progress,
    /// Tasks that have not started by then are put back.
    pub task_cutoff: Instant,
    /// Publishes that have not started by then are put back.
    pub publish_cutoff: Instant,
}

/// The progress of a batch that is not written yet.
#[derive(Default)]
pub struct Progress {
    by_attempt: Mutex<ByAttempt>,
    added: Notify,
}

/// The progress of recipients, by the names and generations of their attempts. The retries of a recipient's devices have
/// one name, but each its own generation.
pub type ByAttempt = BTreeMap<(String, u32), RecipientProgress>;

/// The progress of one recipient of a message, for its claim.
pub struct RecipientProgress {
    user: BareJid,
    attempt: Attempt,
    /// The unread count, if Pushlark counted the message.
    counted: Option<u32>,
    complete: Vec<Registration>,
    /// The registrations that are left to the next attempt.
    pub put_back: Vec<Registration>,
}

impl RecipientProgress {
    /// Returns the progress of a recipient without complete publications.
    pub fn new(attempt: Attempt, user: BareJid, counted: Option<u32>) -> Self {
        Self { user, attempt, counted, complete: Vec::new(), put_back: Vec::new() }
    }

    /// Returns whether the attempt is a retry.
    pub fn is_of_later_attempt(&self) -> bool {
        self.attempt.retry.generation > 0
    }

    /// Returns whether a registration is complete or put back.
    fn has_registrations(&self) -> bool {
        !self.complete.is_empty() || !self.put_back.is_empty()
    }
}

impl Progress {
    /// Adds registrations that need no further attempt, and the message's unread count.
    pub fn add(
        &self,
        attempt: &Attempt,
        user: &BareJid,
        counted: Option<u32>,
        registrations: impl IntoIterator<Item = Registration>,
    ) {
        // A panic leaves no change half done, so a poisoned lock is safe to use.
        let mut by_attempt = self.by_attempt.lock().unwrap_or_else(PoisonError::into_inner);
        self.added.notify_one();
        let new = || RecipientProgress::new(attempt.clone(), user.clone(), counted);
        by_attempt.entry(attempt.key()).or_insert_with(new).complete.extend(registrations);
    }

    /// Waits until progress is added, and then until none follows for `WRITE_DELAY`, but at most for `MAX_WRITE_DELAY`.
    pub async fn is_due(&self) {
        self.added.notified().await;
        let latest = Instant::now() + MAX_WRITE_DELAY;
        while Instant::now() < latest {
            let end = latest.min(Instant::now() + WRITE_DELAY);
            if timeout_at(end, self.added.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Takes the progress that was added since the last call.
    pub fn take(&self) -> ByAttempt {
        std::mem::take(&mut self.by_attempt.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes progress to the claims, once for all recipients in the same item. Recipients without claimed registrations
/// need no write. If a write fails, notifications may be repeated.
pub async fn write(store: &Store, recipients: impl IntoIterator<Item = RecipientProgress>) {
    let mut by_item: BTreeMap<ClaimItem, (Attempt, Vec<ClaimUpdate>)> = BTreeMap::new();
    for recipient in recipients.into_iter().filter(RecipientProgress::has_registrations) {
        let RecipientProgress { user, attempt, counted, complete, put_back } = recipient;
        let update = attempt.claimant(&user, counted).finish(&complete, &put_back);
        let (_, updates) = by_item.entry(attempt.claim_item(&user)).or_insert_with(|| (attempt, Vec::new()));
        updates.push(update);
    }
    let writes = by_item.into_iter().map(async |(item, (attempt, updates))| {
        if let Err(error) = store.finish(&item, &updates).await {
            tracing::error!(
                id = attempt.claim_id(),
                error = %Causes(&error),
                "claim not updated: a notification may be repeated"
            );
        }
    });
    stream::iter(writes).buffer_unordered(MAX_CONCURRENT_CLAIMS).collect::<()>().await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use pushlark_events::Sources;
    use pushlark_model::PublishOptions;
    use pushlark_queue::{Retry, Work, WorkKind};
    use time::OffsetDateTime;

    use super::*;
    use crate::task::Task;

    #[test]
    fn the_retries_of_the_devices_of_a_recipient_have_progress_of_their_own() {
        let [bob, alice] = ["bob", "alice"].map(|name| BareJid::new(&format!("{name}@example.com")).unwrap());
        let retry = |generation| {
            let kind = WorkKind::Read { jid: bob.clone(), conversation: alice.clone() };
            let retry = Some(Retry { generation, ..Retry::first("q.0".into()) });
            Work { retry, ..Work::new("m".into(), OffsetDateTime::UNIX_EPOCH, kind) }
        };
        let work = vec![retry(3), retry(1), retry(3)];
        let tasks = Task::of(work, "other", true, &Arc::default(), &Sources::default()).unwrap();
        let progress = Progress::default();
        for (node, task) in ["phone", "tablet", "watch"].into_iter().zip(&tasks) {
            let registration = Registration::new(alice.clone(), node.into(), PublishOptions::default(), 0);
            progress.add(&task.attempt, &bob, None, [registration]);
        }
        let added = progress.take().into_values();
        let added: Vec<_> = added.map(|one| (one.attempt.retry.generation, one.complete.len())).collect();
        assert_eq!(added, [(1, 1), (3, 2)]);
    }
}
