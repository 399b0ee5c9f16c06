//! One notification to one device, and what comes of it.

use std::time::Duration;

use pushlark_delivery::{Extent, Failure, Notification, Outcome, Publisher, Verdict};
use pushlark_queue::Retry;
use pushlark_store::{Snapshot, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use tokio::time::Instant;

use crate::Worker;
use crate::batch::Batch;
use crate::retry::Why;

/// How often something is tried that fails for a reason that may never pass: for two minutes, if nothing else fails.
const FEW_TRIES: u32 = 8;
/// A push service of Web Push that cannot be reached for so long may be gone, in seconds.
const LONG_UNREACHABLE: u64 = 86_400;
/// The name under which all push services of Web Push are guarded together: when none can be reached, it is the worker's
/// network that fails.
const WEB_PUSH: &str = "Web Push";

/// Where it is kept what becomes of a device.
#[derive(Debug, Clone, Copy)]
pub enum Source<'s> {
    /// With the registration, of which the recipient's snapshot tells.
    Registration(&'s Snapshot),
    /// With a push node: whether the device was suspected to be gone by the last answer.
    Node {
        /// It was.
        is_suspected: bool,
    },
}

/// What came of a publish that is not to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was taken.
    Delivered,
    /// It never will be.
    Undeliverable,
}

impl Worker {
    /// Publishes to one device, unless it is later than `last_publish`, and disables it if it is gone. `retry` has the tries
    /// before.
    pub(crate) async fn publish(
        &self,
        notification: &Notification<'_>,
        source: Source<'_>,
        publisher: &Publisher,
        retry: &Retry,
        batch: &Batch,
    ) -> Result<Ended, Why> {
        let Notification { user, registration, .. } = *notification;
        let server = publisher.server(notification);
        let Verdict { push_service, outcome } = {
            let names: Vec<_> = [Some(user.as_str()), server.as_deref()].into_iter().flatten().collect();
            let _share = self.publishes.acquire(&names).await;
            if Instant::now() >= batch.last_publish {
                return Err(Why::Untried);
            }
            publisher.publish(notification).await
        };
        let is_unreachable = matches!(&outcome, Outcome::Transient(Failure { extent: Extent::Unreachable, .. }));
        let outcome = self.after_all_tries(notification, source, retry, outcome).await;
        let jid = &registration.jid;
        match outcome {
            Outcome::Delivered => {
                count(Metric::Delivered);
                for guarded in [push_service.as_str(), WEB_PUSH] {
                    if publisher.most_gone().is_some() && push_service.starts_with(guarded) {
                        self.guard.note_delivery(guarded);
                    }
                }
                let cleared = match source {
                    Source::Registration(snapshot) if snapshot.is_suspected(registration) => {
                        self.store.clear_suspicions(user, registration).await
                    }
                    Source::Node { is_suspected: true } => self.store.forget_device(registration).await,
                    Source::Registration(_) | Source::Node { .. } => Ok(()),
                };
                if let Err(error) = cleared {
                    tracing::warn!(%jid, error = %Causes(&error), "the device is still suspected to be gone");
                }
                Ok(Ended::Delivered)
            }
            Outcome::Gone(reason) => {
                count(Metric::Gone);
                self.disable(notification, source, publisher, &push_service, &reason).await
            }
            Outcome::Suspect(reason) => {
                count(Metric::Suspect);
                let guarded = if is_unreachable { WEB_PUSH } else { push_service.as_str() };
                self.suspect(notification, source, publisher, guarded, &reason).await
            }
            Outcome::Refused(reason) => {
                count(Metric::Refused);
                tracing::error!(%jid, reason, "not notified: refused");
                Ok(Ended::Undeliverable)
            }
            Outcome::Transient(Failure { reason, retry_after, extent }) => {
                count(Metric::Transient);
                let seconds = retry_after.as_ref().map(Duration::as_secs);
                tracing::warn!(%jid, reason, retry_after = seconds, tries = retry.tries + 1, "not notified yet");
                let is_doubtful = matches!(extent, Extent::Node | Extent::Unknown);
                Err(Why::Failed { retry_after, is_doubtful })
            }
        }
    }

    /// The outcome, in the light of the tries before: a failure that may never pass is taken for final after some tries, and
    /// a push service that a user chose for gone when it cannot be reached for a day.
    async fn after_all_tries(
        &self,
        notification: &Notification<'_>,
        source: Source<'_>,
        retry: &Retry,
        outcome: Outcome,
    ) -> Outcome {
        let Notification { user, registration, .. } = *notification;
        let Outcome::Transient(Failure { reason, extent, .. }) = &outcome else { return outcome };
        let tries = retry.doubtful + 1;
        match extent {
            Extent::Node if tries >= FEW_TRIES => Outcome::Suspect(format!("{reason}, {tries} times")),
            Extent::Unknown if tries >= FEW_TRIES => Outcome::Refused(format!("{reason}, {tries} times")),
            Extent::Unreachable => {
                let unreachable = match source {
                    Source::Registration(_) => self.store.note_unreachable(user, registration).await,
                    Source::Node { .. } => self.store.note_unreachable_device(registration).await,
                };
                match unreachable {
                    Ok(seconds) if seconds >= LONG_UNREACHABLE => {
                        Outcome::Suspect(format!("{reason}, for {} hours", seconds / 3_600))
                    }
                    Ok(_) => outcome,
                    Err(error) => {
                        tracing::warn!(error = %Causes(&error), "not noted that the push service cannot be reached");
                        outcome
                    }
                }
            }
            _ => {
                if let Source::Registration(snapshot) = source
                    && snapshot.is_unreachable(registration)
                    && let Err(error) = self.store.clear_unreachable(user, registration).await
                {
                    tracing::warn!(error = %Causes(&error), "not noted that the push service can be reached");
                }
                outcome
            }
        }
    }

    /// Counts one more answer that calls the device gone, and disables it if there were enough of them in a row.
    async fn suspect(
        &self,
        notification: &Notification<'_>,
        source: Source<'_>,
        publisher: &Publisher,
        push_service: &str,
        reason: &str,
    ) -> Result<Ended, Why> {
        let Notification { user, registration, .. } = *notification;
        let jid = &registration.jid;
        let Some(disable_after) = publisher.disable_after() else {
            tracing::warn!(%jid, reason, "not notified: the node stays");
            return Ok(Ended::Undeliverable);
        };
        let suspected = match source {
            Source::Registration(_) => self.store.suspect(user, registration).await,
            Source::Node { .. } => self.store.suspect_device(registration).await,
        };
        let suspicions = match suspected {
            Ok(suspicions) => suspicions,
            Err(error) => {
                tracing::error!(%jid, error = %Causes(&error), "not noted that the device may be gone");
                return Ok(Ended::Undeliverable);
            }
        };
        tracing::warn!(%jid, reason, suspicions, "not notified: it may be gone");
        if suspicions < disable_after {
            return Ok(Ended::Undeliverable);
        }
        self.disable(notification, source, publisher, push_service, reason).await
    }

    /// Disables the registration that a notification was for, unless it was enabled anew meanwhile or too many devices are
    /// called gone; or lets the server that publishes to a node know by the answer to its next publish.
    async fn disable(
        &self,
        notification: &Notification<'_>,
        source: Source<'_>,
        publisher: &Publisher,
        push_service: &str,
        reason: &str,
    ) -> Result<Ended, Why> {
        let Notification { user, registration, .. } = *notification;
        let (jid, enabled_at) = (&registration.jid, registration.created_at);
        let failed = |error: StoreError| {
            tracing::error!(%jid, error = %Causes(&error), "not disabled");
            Why::FAILED
        };
        if let Some(most_gone) = publisher.most_gone()
            && !self.guard.admits(&self.store, push_service, most_gone).await.map_err(failed)?
        {
            count(Metric::Refused);
            tracing::error!(%jid, reason, "not notified, and not disabled");
            return Ok(Ended::Undeliverable);
        }
        let disabled = match source {
            Source::Registration(_) => self.store.unregister_version(user, registration).await,
            Source::Node { .. } => self.store.device_gone(registration).await.map(|()| true),
        };
        if disabled.map_err(failed)? {
            tracing::warn!(%jid, enabled_at, reason, "disabled");
        } else {
            tracing::info!(%jid, enabled_at, reason, "not disabled: it was enabled anew");
        }
        Ok(Ended::Undeliverable)
    }
}
