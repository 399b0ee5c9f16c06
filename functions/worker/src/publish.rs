//! Publishes one notification to one device, and handles the outcome.

use std::time::Duration;

use pushlark_delivery::{Failure, FailureScope, Notification, Outcome, Publisher, PushService, Verdict};
use pushlark_queue::Retry;
use pushlark_store::{Snapshot, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use tokio::time::{Instant, timeout_at};

use crate::order::Place;
use crate::retry::RetryCause;
use crate::worker::Worker;

/// The most attempts for a failure that may be permanent: about two minutes, without other failures in between.
const MAX_DOUBTFUL_ATTEMPTS: u32 = 8;
/// The time in seconds after which an unreachable Web Push service counts as suspect.
const MAX_UNREACHABLE_SECONDS: u64 = 86_400;

/// The arguments of [`Worker::publish`]: a notification, with the way to its device and its history.
pub struct Publish<'p> {
    /// The notification, with its registration.
    pub notification: &'p Notification<'p>,
    /// The item of the table that keeps the answers about the device.
    pub device: DeviceItem<'p>,
    /// The publisher for the registration's host.
    pub publisher: &'p Publisher,
    /// The attempts before this one.
    pub retry: &'p Retry,
    /// The place of the publish among those to the same device.
    pub place: Place,
}

/// The item of the table that keeps the answers about a device.
#[derive(Debug, Clone, Copy)]
pub enum DeviceItem<'d> {
    /// The registration in the recipient's snapshot.
    Registration(&'d Snapshot),
    /// The device item of a push node.
    PushNode {
        /// Whether the last answer reported the device as gone, or its push service could not be reached.
        is_suspected: bool,
    },
}

/// The result of a publish that is not retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The push service accepted the notification.
    Delivered,
    /// The push service did not accept the notification, and a retry would not help.
    Undeliverable,
}

/// The end of a publish, or the cause of its retry.
type PublishResult = Result<Disposition, RetryCause>;

impl Worker {
    /// Publishes one notification when the one before it was answered or has failed, and disables the registration if
    /// the device is gone. Nothing is published after `cutoff`.
    pub(crate) async fn publish(&self, mut publish: Publish<'_>, cutoff: Instant) -> PublishResult {
        if timeout_at(cutoff, publish.place.comes()).await.is_err() {
            return Err(RetryCause::NotTried);
        }
        let Publish { notification, publisher, retry, .. } = publish;
        let Notification { user, registration, .. } = *notification;
        let server = publisher.server(notification);
        let Verdict { push_service, outcome } = {
            let names: Vec<_> = [Some(user.as_str()), server.as_deref()].into_iter().flatten().collect();
            let _share = self.publishes.acquire(&names).await;
            if Instant::now() >= cutoff {
                return Err(RetryCause::NotTried);
            }
            publisher.publish(notification).await
        };
        let is_unreachable = matches!(&outcome, Outcome::Transient(Failure { scope: FailureScope::Unreachable, .. }));
        let outcome = self.after_last_attempt(&publish, outcome).await;
        let jid = &registration.jid;
        let (result, reason) = (outcome.name(), outcome.reason());
        let device_id = registration.options.get("device_id");
        tracing::debug!(%jid, node = registration.node, device_id, result, reason, "published");
        match outcome {
            Outcome::Delivered => {
                count(Metric::Delivered);
                if publisher.most_gone().is_some() {
                    self.guard.count_delivery(&push_service);
                }
                if let Err(error) = self.clear_suspicions(&publish).await {
                    tracing::warn!(%jid, error = %Causes(&error), "suspicions of the device not deleted");
                }
                Ok(Disposition::Delivered)
            }
            Outcome::Gone(reason) => {
                count(Metric::Gone);
                self.disable(&publish, &push_service.name, &reason).await
            }
            Outcome::Suspect(reason) => {
                count(Metric::Suspect);
                self.suspect(&publish, guarded_name(&push_service, is_unreachable), &reason).await
            }
            Outcome::Refused(reason) => {
                count(Metric::Refused);
                tracing::error!(%jid, reason, "not notified: refused");
                Ok(Disposition::Undeliverable)
            }
            Outcome::Transient(Failure { reason, retry_after, scope }) => {
                count(Metric::Transient);
                let seconds = retry_after.as_ref().map(Duration::as_secs);
                tracing::warn!(%jid, reason, retry_after = seconds, tries = retry.tries + 1, "not notified yet");
                let is_doubtful = matches!(scope, FailureScope::Node | FailureScope::Unknown);
                Err(RetryCause::Failed { retry_after, is_doubtful })
            }
        }
    }

    /// Makes a transient outcome final after enough attempts. A failure that may be permanent becomes final after
    /// `MAX_DOUBTFUL_ATTEMPTS`. A push service that a user has chosen may be gone after a day without a connection.
    async fn after_last_attempt(&self, publish: &Publish<'_>, outcome: Outcome) -> Outcome {
        let Notification { user, registration, .. } = *publish.notification;
        let Outcome::Transient(Failure { reason, scope, .. }) = &outcome else { return outcome };
        let tries = publish.retry.doubtful + 1;
        match scope {
            FailureScope::Node if tries >= MAX_DOUBTFUL_ATTEMPTS => {
                Outcome::Suspect(format!("{reason}, {tries} times"))
            }
            FailureScope::Unknown if tries >= MAX_DOUBTFUL_ATTEMPTS => {
                Outcome::Refused(format!("{reason}, {tries} times"))
            }
            FailureScope::Unreachable => {
                let unreachable = match publish.device {
                    DeviceItem::Registration(_) => self.store.note_unreachable(user, registration).await,
                    DeviceItem::PushNode { .. } => self.store.note_unreachable_device(registration).await,
                };
                match unreachable {
                    Ok(seconds) if seconds >= MAX_UNREACHABLE_SECONDS => {
                        Outcome::Suspect(format!("{reason}, for {} hours", seconds / 3_600))
                    }
                    Ok(_) => outcome,
                    Err(error) => {
                        tracing::warn!(error = %Causes(&error), "unreachable push service not recorded");
                        outcome
                    }
                }
            }
            _ => {
                if let DeviceItem::Registration(snapshot) = publish.device
                    && snapshot.is_unreachable(registration)
                    && let Err(error) = self.store.clear_unreachable(user, registration).await
                {
                    tracing::warn!(error = %Causes(&error), "reachable push service not recorded");
                }
                outcome
            }
        }
    }

    /// Deletes the suspicions of a device after a delivery, if there are any.
    async fn clear_suspicions(&self, publish: &Publish<'_>) -> Result<(), StoreError> {
        let Notification { user, registration, .. } = *publish.notification;
        match publish.device {
            DeviceItem::Registration(snapshot) if snapshot.is_suspected(registration) => {
                self.store.clear_suspicions(user, registration).await
            }
            DeviceItem::PushNode { is_suspected: true } => self.store.forget_device(registration).await,
            DeviceItem::Registration(_) | DeviceItem::PushNode { .. } => Ok(()),
        }
    }

    /// Counts an answer that reports the device as suspect. Disables the registration after enough such answers in a
    /// row.
    async fn suspect(&self, publish: &Publish<'_>, push_service: &str, reason: &str) -> PublishResult {
        let Notification { user, registration, .. } = *publish.notification;
        let jid = &registration.jid;
        let Some(disable_after) = publish.publisher.disable_after() else {
            tracing::warn!(%jid, reason, "not notified: the node stays");
            return Ok(Disposition::Undeliverable);
        };
        let suspected = match publish.device {
            DeviceItem::Registration(_) => self.store.suspect(user, registration).await,
            DeviceItem::PushNode { .. } => self.store.suspect_device(registration).await,
        };
        let suspicions = match suspected {
            Ok(suspicions) => suspicions,
            Err(error) => {
                tracing::error!(%jid, error = %Causes(&error), "suspicion of the device not recorded");
                return Ok(Disposition::Undeliverable);
            }
        };
        tracing::warn!(%jid, reason, suspicions, "not notified: the device may be gone");
        if suspicions < disable_after {
            return Ok(Disposition::Undeliverable);
        }
        self.disable(publish, push_service, reason).await
    }

    /// Disables the registration of a notification, unless it was enabled again in the meantime or the guard forbids
    /// it. The device of a push node is marked as gone, and the next publish of the user's server gets an error.
    async fn disable(&self, publish: &Publish<'_>, push_service: &str, reason: &str) -> PublishResult {
        let Notification { user, registration, .. } = *publish.notification;
        let (jid, enabled_at) = (&registration.jid, registration.created_at);
        let failed = |error: StoreError| {
            tracing::error!(%jid, error = %Causes(&error), "not disabled");
            RetryCause::FAILED
        };
        if let Some(most_gone) = publish.publisher.most_gone()
            && !self.guard.admits(&self.store, push_service, most_gone).await.map_err(failed)?
        {
            count(Metric::Refused);
            tracing::error!(%jid, reason, "not notified, and not disabled");
            return Ok(Disposition::Undeliverable);
        }
        let disabled = match publish.device {
            DeviceItem::Registration(_) => self.store.unregister_version(user, registration).await,
            DeviceItem::PushNode { .. } => self.store.device_gone(registration).await.map(|()| true),
        };
        if disabled.map_err(failed)? {
            tracing::warn!(%jid, enabled_at, reason, "disabled");
        } else {
            tracing::warn!(%jid, enabled_at, reason, "not disabled: it was enabled anew");
        }
        Ok(Disposition::Undeliverable)
    }
}

/// Returns the name under which the guard counts an answer. Unreachable push services that users have chosen are
/// counted together: if none can be reached, the worker's own network has failed.
fn guarded_name(push_service: &PushService, is_unreachable: bool) -> &str {
    push_service.family.filter(|_| is_unreachable).unwrap_or(&push_service.name)
}
