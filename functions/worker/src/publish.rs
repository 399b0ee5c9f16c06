//! One notification to one device, and the treatment of the push service's answer.

use std::time::Duration;

use pushlark_delivery::{Extent, Failure, Notification, Outcome, Publisher, PushService, Verdict};
use pushlark_queue::Retry;
use pushlark_store::{Snapshot, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use tokio::time::Instant;

use crate::Worker;
use crate::retry::RetryCause;

/// The number of tries for a failure that may never pass: two minutes of tries, if no other failure comes between.
const FEW_TRIES: u32 = 8;
/// A push service of Web Push that cannot be reached for this time may be gone, in seconds.
const LONG_UNREACHABLE: u64 = 86_400;

/// One notification for one device.
pub struct Publish<'p> {
    /// The notification.
    pub notification: &'p Notification<'p>,
    /// The record of the device in the table.
    pub device: DeviceRecord<'p>,
    /// The publisher.
    pub publisher: &'p Publisher,
    /// The tries before this one.
    pub retry: &'p Retry,
}

/// The item of the table that keeps the answers about a device.
#[derive(Debug, Clone, Copy)]
pub enum DeviceRecord<'d> {
    /// The registration, as the recipient's snapshot has it.
    Registration(&'d Snapshot),
    /// The device item of a push node.
    PushNode {
        /// Whether the last answer called the device gone, or its push service could not be reached.
        is_suspected: bool,
    },
}

/// The end of a publish that is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The push service accepted the notification.
    Delivered,
    /// The push service will never accept it.
    Undeliverable,
}

impl Worker {
    /// Publishes one notification, unless it is later than `cutoff`, and disables the registration if the device is gone.
    pub(crate) async fn publish(&self, publish: Publish<'_>, cutoff: Instant) -> Result<Disposition, RetryCause> {
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
        let is_unreachable = matches!(&outcome, Outcome::Transient(Failure { extent: Extent::Unreachable, .. }));
        let outcome = self.after_all_tries(&publish, outcome).await;
        let jid = &registration.jid;
        match outcome {
            Outcome::Delivered => {
                count(Metric::Delivered);
                if publisher.most_gone().is_some() {
                    self.guard.count_delivery(&push_service);
                }
                if let Err(error) = self.clear_suspicions(&publish).await {
                    tracing::warn!(%jid, error = %Causes(&error), "the device is still suspected to be gone");
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
            Outcome::Transient(Failure { reason, retry_after, extent }) => {
                count(Metric::Transient);
                let seconds = retry_after.as_ref().map(Duration::as_secs);
                tracing::warn!(%jid, reason, retry_after = seconds, tries = retry.tries + 1, "not notified yet");
                let is_doubtful = matches!(extent, Extent::Node | Extent::Unknown);
                Err(RetryCause::Failed { retry_after, is_doubtful })
            }
        }
    }

    /// Replaces a transient outcome by a final one after enough tries: a failure that may never pass becomes final after
    /// some tries, and a push service that a user has named counts as gone after a day without a connection.
    async fn after_all_tries(&self, publish: &Publish<'_>, outcome: Outcome) -> Outcome {
        let Notification { user, registration, .. } = *publish.notification;
        let Outcome::Transient(Failure { reason, extent, .. }) = &outcome else { return outcome };
        let tries = publish.retry.doubtful + 1;
        match extent {
            Extent::Node if tries >= FEW_TRIES => Outcome::Suspect(format!("{reason}, {tries} times")),
            Extent::Unknown if tries >= FEW_TRIES => Outcome::Refused(format!("{reason}, {tries} times")),
            Extent::Unreachable => {
                let unreachable = match publish.device {
                    DeviceRecord::Registration(_) => self.store.note_unreachable(user, registration).await,
                    DeviceRecord::PushNode { .. } => self.store.note_unreachable_device(registration).await,
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
                if let DeviceRecord::Registration(snapshot) = publish.device
                    && snapshot.is_unreachable(registration)
                    && let Err(error) = self.store.clear_unreachable(user, registration).await
                {
                    tracing::warn!(error = %Causes(&error), "not noted that the push service can be reached");
                }
                outcome
            }
        }
    }

    /// Removes the suspicions of a device that is delivered to, if there are any.
    async fn clear_suspicions(&self, publish: &Publish<'_>) -> Result<(), StoreError> {
        let Notification { user, registration, .. } = *publish.notification;
        match publish.device {
            DeviceRecord::Registration(snapshot) if snapshot.is_suspected(registration) => {
                self.store.clear_suspicions(user, registration).await
            }
            DeviceRecord::PushNode { is_suspected: true } => self.store.forget_device(registration).await,
            DeviceRecord::Registration(_) | DeviceRecord::PushNode { .. } => Ok(()),
        }
    }

    /// Counts one more answer by which the device may be gone, and disables the registration after enough of them in a row.
    async fn suspect(
        &self,
        publish: &Publish<'_>,
        push_service: &str,
        reason: &str,
    ) -> Result<Disposition, RetryCause> {
        let Notification { user, registration, .. } = *publish.notification;
        let jid = &registration.jid;
        let Some(disable_after) = publish.publisher.disable_after() else {
            tracing::warn!(%jid, reason, "not notified: the node stays");
            return Ok(Disposition::Undeliverable);
        };
        let suspected = match publish.device {
            DeviceRecord::Registration(_) => self.store.suspect(user, registration).await,
            DeviceRecord::PushNode { .. } => self.store.suspect_device(registration).await,
        };
        let suspicions = match suspected {
            Ok(suspicions) => suspicions,
            Err(error) => {
                tracing::error!(%jid, error = %Causes(&error), "not noted that the device may be gone");
                return Ok(Disposition::Undeliverable);
            }
        };
        tracing::warn!(%jid, reason, suspicions, "not notified: it may be gone");
        if suspicions < disable_after {
            return Ok(Disposition::Undeliverable);
        }
        self.disable(publish, push_service, reason).await
    }

    /// Disables the registration of a notification, unless it was enabled again meanwhile or too many devices are called
    /// gone. At a push node the next publish of the user's server gets the answer that the device is gone.
    async fn disable(
        &self,
        publish: &Publish<'_>,
        push_service: &str,
        reason: &str,
    ) -> Result<Disposition, RetryCause> {
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
            DeviceRecord::Registration(_) => self.store.unregister_version(user, registration).await,
            DeviceRecord::PushNode { .. } => self.store.device_gone(registration).await.map(|()| true),
        };
        if disabled.map_err(failed)? {
            tracing::warn!(%jid, enabled_at, reason, "disabled");
        } else {
            tracing::info!(%jid, enabled_at, reason, "not disabled: it was enabled anew");
        }
        Ok(Disposition::Undeliverable)
    }
}

/// The name under which the guard counts an answer. All push services that cannot be reached count together where users
/// name them: if none can be reached, the worker's own network fails.
fn guarded_name(push_service: &PushService, is_unreachable: bool) -> &str {
    push_service.family.filter(|_| is_unreachable).unwrap_or(&push_service.name)
}
