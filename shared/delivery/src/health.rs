//! The recent failures of push services, as this worker sees them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::notification::Notification;
use crate::outcome::{Failure, FailureScope, Outcome};

/// A push service is paused after this number of consecutive failures.
const FAILURES_BEFORE_PAUSE: usize = 5;
/// The failures must concern at least this number of devices: fewer devices may be the cause themselves.
const MIN_FAILED_DEVICES: usize = 3;
/// The time between two notifications that probe a paused push service.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// After this number of probe intervals a device that has failed may probe: there may be no other device.
const FAILED_DEVICE_INTERVALS: u32 = 2;
/// After this number of probe intervals the device that failed last may probe.
const LAST_FAILED_DEVICE_INTERVALS: u32 = 5;
/// The maximum number of failed devices that are remembered for each push service.
const MAX_FAILED_DEVICES: usize = 100;
/// The maximum number of push services that are remembered, since users choose those of Web Push. Beyond it, all are
/// forgotten.
const MAX_PUSH_SERVICES: usize = 1_000;

/// The recent failures of each push service, which decide whether it is paused.
#[derive(Default)]
pub struct Health {
    services: Mutex<HashMap<String, ServiceHealth>>,
}

/// A hash that identifies a device without its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceHash(u64);

#[derive(Default)]
struct ServiceHealth {
    /// The number of consecutive failures.
    failures: usize,
    /// The devices of these failures, each once; the one that failed last is at the end.
    failed: Vec<DeviceHash>,
    /// The time of the last probe; `None` if there was none since the last success.
    probed_at: Option<Instant>,
}

impl DeviceHash {
    /// Returns the device of a notification.
    pub fn of(notification: &Notification<'_>) -> Self {
        let registration = notification.registration;
        let mut hasher = DefaultHasher::new();
        match registration.options.given("endpoint").or_else(|| registration.options.given("device_id")) {
            Some(device) => device.hash(&mut hasher),
            None => (&registration.jid, &registration.node).hash(&mut hasher),
        }
        Self(hasher.finish())
    }
}

impl Health {
    /// Returns whether `service` is paused. The first notification of a device that has not failed probes it, and then
    /// one notification per interval.
    pub fn is_paused(&self, service: &str) -> bool {
        self.with(service, |health| health.is_paused())
    }

    /// Decides whether a notification of `device` is sent to `service` now. The error is its failure without a request.
    pub fn admit(&self, service: &str, device: DeviceHash) -> Result<(), Failure> {
        self.with(service, |health| {
            if health.admits(device, Instant::now()) {
                return Ok(());
            }
            Err(Failure::of_service("the push service failed too often, and is paused for a while"))
        })
    }

    /// Notes the outcome of a publish for `device`.
    pub fn note(&self, service: &str, device: DeviceHash, outcome: &Outcome) {
        match outcome {
            Outcome::Refused(_) => {}
            Outcome::Delivered | Outcome::Gone(_) | Outcome::Suspect(_) => self.with(service, ServiceHealth::recover),
            Outcome::Transient(failure) => match failure.scope {
                FailureScope::Service | FailureScope::Unreachable => {
                    self.with(service, |health| health.fail(service, device))
                }
                FailureScope::Device | FailureScope::Node => self.with(service, ServiceHealth::recover),
                FailureScope::Unknown => {}
            },
        }
    }

    fn with<T>(&self, service: &str, f: impl FnOnce(&mut ServiceHealth) -> T) -> T {
        // Every change is a single step, so a poisoned lock still holds valid data.
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if services.len() >= MAX_PUSH_SERVICES && !services.contains_key(service) {
            services.clear();
        }
        match services.get_mut(service) {
            Some(health) => f(health),
            None => f(services.entry(service.to_owned()).or_default()),
        }
    }
}

impl ServiceHealth {
    fn is_paused(&self) -> bool {
        self.failures >= FAILURES_BEFORE_PAUSE && self.failed.len() >= MIN_FAILED_DEVICES
    }

    fn recover(&mut self) {
        *self = Self::default();
    }

    fn fail(&mut self, service: &str, device: DeviceHash) {
        let was_paused = self.is_paused();
        self.failures += 1;
        self.failed.retain(|failed| *failed != device);
        self.failed.push(device);
        if self.failed.len() > MAX_FAILED_DEVICES {
            self.failed.remove(0);
        }
        if self.is_paused() && !was_paused {
            tracing::warn!(
                service,
                "a push service failed {FAILURES_BEFORE_PAUSE} times in a row: it is paused for a while"
            );
        }
    }

    /// Returns whether a notification of `device` may be sent at `now`. While the push service is paused, a device that
    /// has not failed probes it at once, since the devices that have failed may be the cause.
    fn admits(&mut self, device: DeviceHash, now: Instant) -> bool {
        if !self.is_paused() {
            return true;
        }
        let intervals = match self.failed.iter().rev().position(|failed| *failed == device) {
            None => 1,
            Some(0) => LAST_FAILED_DEVICE_INTERVALS,
            Some(_) => FAILED_DEVICE_INTERVALS,
        };
        let is_due = match self.probed_at {
            Some(probed_at) => now >= probed_at + intervals * PROBE_INTERVAL,
            None if intervals == 1 => true,
            None => {
                self.probed_at = Some(now);
                false
            }
        };
        if is_due {
            self.probed_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(scope: FailureScope) -> Outcome {
        Outcome::Transient(Failure { reason: "status 503".into(), retry_after: None, scope })
    }

    /// Notes a failure of the push service `a` for each of these devices.
    fn fail(health: &Health, devices: impl IntoIterator<Item = u64>) {
        for device in devices {
            health.note("a", DeviceHash(device), &failure(FailureScope::Service));
        }
    }

    fn admits(health: &Health, device: u64) -> bool {
        health.admit("a", DeviceHash(device)).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_fails_for_many_devices_is_paused_until_a_device_succeeds() {
        let health = Health::default();
        fail(&health, [1, 2, 3, 1]);
        assert!(admits(&health, 4));
        fail(&health, [2]);
        assert!(health.is_paused("a") && !health.is_paused("b"));
        assert!(health.admit("b", DeviceHash(1)).is_ok(), "another push service");
        assert!(admits(&health, 4), "a device that has not failed probes at once");
        assert!(!admits(&health, 5), "only one device probes");
        fail(&health, [4]);
        assert!(!admits(&health, 5));
        tokio::time::advance(PROBE_INTERVAL).await;
        assert!(!admits(&health, 4), "the device that failed last");
        assert!(!admits(&health, 1), "a device that failed");
        assert!(admits(&health, 5));
        health.note("a", DeviceHash(5), &Outcome::Delivered);
        assert!(admits(&health, 4) && admits(&health, 1));
        fail(&health, [1, 2, 3, 4]);
        assert!(!health.is_paused("a"), "the count starts again");
    }

    #[tokio::test(start_paused = true)]
    async fn devices_that_failed_probe_if_there_are_no_others() {
        let health = Health::default();
        fail(&health, [1, 2, 3, 1, 2]);
        assert!(!admits(&health, 1));
        tokio::time::advance(FAILED_DEVICE_INTERVALS * PROBE_INTERVAL).await;
        assert!(!admits(&health, 2), "it failed last");
        assert!(admits(&health, 1));
        assert!(!admits(&health, 3), "only one device probes");
        fail(&health, [1]);
        tokio::time::advance(LAST_FAILED_DEVICE_INTERVALS * PROBE_INTERVAL).await;
        assert!(admits(&health, 1));
    }

    #[tokio::test]
    async fn failures_of_few_devices_do_not_pause_a_service() {
        let health = Health::default();
        for _ in 0..100 {
            fail(&health, [1, 2]);
            health.note("b", DeviceHash(1), &failure(FailureScope::Device));
            health.note("b", DeviceHash(2), &failure(FailureScope::Unknown));
        }
        assert!(admits(&health, 3));
        assert!(health.admit("b", DeviceHash(3)).is_ok());
        fail(&health, [3]);
        assert!(health.is_paused("a"));
        health.note("a", DeviceHash(9), &failure(FailureScope::Device));
        assert!(!health.is_paused("a"), "an answer about a device shows that the push service works");
    }
}
