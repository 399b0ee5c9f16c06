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
    by_claimant: Mutex<ByClaimant>,
    added: Notify,
}

/// The progress of recipients, by claimant name.
pub type ByClaimant = BTreeMap<String, RecipientProgress>;

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
    pub fn has_registrations(&self) -> bool {
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
        let mut by_claimant = self.by_claimant.lock().unwrap_or_else(PoisonError::into_inner);
        self.added.notify_one();
        let recipient = match by_claimant.get_mut(&attempt.retry.claimant) {
            Some(recipient) => recipient,
            None => {
                let recipient = RecipientProgress::new(attempt.clone(), user.clone(), counted);
                by_claimant.entry(attempt.retry.claimant.clone()).or_insert(recipient)
            }
        };
        recipient.complete.extend(registrations);
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
    pub fn take(&self) -> ByClaimant {
        std::mem::take(&mut self.by_claimant.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes progress to the claims, once for all recipients in the same item. If a write fails, notifications may be
/// repeated.
pub async fn write(store: &Store, recipients: impl IntoIterator<Item = RecipientProgress>) {
    let mut by_item: BTreeMap<ClaimItem, (Attempt, Vec<ClaimUpdate>)> = BTreeMap::new();
    for RecipientProgress { user, attempt, counted, complete, put_back } in recipients {
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
