//! One notification to one device, and what comes of it.

use std::time::Duration;

use pushlark_delivery::{Extent, Failure, Notification, Outcome, Publisher};
use pushlark_store::Snapshot;
use pushlark_telemetry::{Causes, Metric, count};
use tokio::time::Instant;

use crate::Worker;

/// How often something is tried that fails for a reason that may never pass: for two minutes, if nothing else fails.
const FEW_TRIES: u32 = 8;

/// Where it is kept what becomes of a device.
#[derive(Debug, Clone, Copy)]
pub enum Source<'s> {
    /// With the registration, of which the recipient's snapshot tells.
    Registration(&'s Snapshot),
    /// With a push node: whether the device was called gone by the last answer.
    Node {
        /// It was.
        is_suspected: bool,
    },
}

/// When to try again. Of several, the last to come is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retry {
    /// After a time that grows with the number of tries.
    BackingOff,
    /// After the time that a push service asked for.
    After(Duration),
}

/// What came of a publish that is not to be repeated.
pub enum Ended {
    /// It was taken.
    Delivered,
    /// It never will be.
    Undeliverable,
}

impl Worker {
    /// Publishes to one device, unless it is later than `last_publish`, and disables it if it is gone.
    pub(crate) async fn publish(
        &self,
        notification: &Notification<'_>,
        source: Source<'_>,
        publisher: &Publisher,
        last_publish: Instant,
    ) -> Result<Ended, Retry> {
        let outcome = {
            // The semaphore is never closed.
            let _permit = self.publishes.acquire().await.ok();
            if Instant::now() >= last_publish {
                return Err(Retry::BackingOff);
            }
            publisher.publish(notification).await
        };
        let Notification { message_id, user, service, .. } = *notification;
        let outcome = match outcome {
            Outcome::Transient(Failure { reason, extent: extent @ (Extent::Node | Extent::Unknown), retry_after }) => {
                // What cannot be counted is tried again.
                let tries = self.store.count_try(message_id, user, service).await.unwrap_or_default();
                match extent {
                    _ if tries < FEW_TRIES => Outcome::Transient(Failure { reason, extent, retry_after }),
                    Extent::Node => Outcome::Suspect(format!("{reason}, {tries} times")),
                    _ => Outcome::Refused(format!("{reason}, {tries} times")),
                }
            }
            outcome => outcome,
        };
        let jid = &service.jid;
        match outcome {
            Outcome::Delivered => {
                count(Metric::Delivered);
                let cleared = match source {
                    Source::Registration(snapshot) if snapshot.suspicions(service) > 0 => {
                        self.store.clear_suspicions(user, service).await
                    }
                    Source::Node { is_suspected: true } => self.store.forget_device(service).await,
                    Source::Registration(_) | Source::Node { .. } => Ok(()),
                };
                if let Err(error) = cleared {
                    tracing::warn!(%jid, error = %Causes(&error), "the device is still suspected to be gone");
                }
                Ok(Ended::Delivered)
            }
            Outcome::Gone(reason) => {
                count(Metric::Gone);
                self.disable(notification, source, &reason).await
            }
            Outcome::Suspect(reason) => {
                count(Metric::Suspect);
                let Some(disable_after) = publisher.disable_after() else {
                    tracing::warn!(%jid, reason, "not notified: the node stays");
                    return Ok(Ended::Undeliverable);
                };
                let suspected = match source {
                    Source::Registration(_) => self.store.suspect(user, service).await,
                    Source::Node { .. } => self.store.suspect_device(service).await,
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
                self.disable(notification, source, &reason).await
            }
            Outcome::Refused(reason) => {
                count(Metric::Refused);
                tracing::error!(%jid, reason, "not notified: refused");
                Ok(Ended::Undeliverable)
            }
            Outcome::Transient(Failure { reason, retry_after, .. }) => {
                count(Metric::Transient);
                let seconds = retry_after.as_ref().map(Duration::as_secs);
                tracing::warn!(%jid, reason, retry_after = seconds, "not notified yet");
                Err(retry_after.map_or(Retry::BackingOff, Retry::After))
            }
        }
    }

    /// Disables the registration that a notification was for, unless it was enabled anew meanwhile; or lets the server that
    /// publishes to a node know by the answer to its next publish.
    async fn disable(&self, notification: &Notification<'_>, source: Source<'_>, reason: &str) -> Result<Ended, Retry> {
        let Notification { user, service, .. } = *notification;
        let (jid, enabled_at) = (&service.jid, service.created_at);
        let disabled = match source {
            Source::Registration(_) => self.store.unregister_version(user, service).await,
            Source::Node { .. } => self.store.device_gone(service).await.map(|()| true),
        };
        match disabled {
            Ok(true) => {
                tracing::warn!(%jid, enabled_at, reason, "disabled");
                Ok(Ended::Undeliverable)
            }
            Ok(false) => {
                tracing::info!(%jid, enabled_at, reason, "not disabled: it was enabled anew");
                Ok(Ended::Undeliverable)
            }
            Err(error) => {
                tracing::error!(%jid, error = %Causes(&error), "not disabled");
                Err(Retry::BackingOff)
            }
        }
    }
}
