//! How the push services have been doing of late, as this worker sees them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pushlark_settings::{Environment, SettingError};
use pushlark_telemetry::{Metric, count};
use tokio::time::Instant;

use crate::outcome::{Extent, Failure, Outcome};

/// After so many failures in a row …
const FAILURES: u32 = 5;
/// … a push service is left alone so long; then one notification tries it.
const PAUSE: Duration = Duration::from_secs(2);
/// How many of the last answers are looked at, one a bit.
const WINDOW: u32 = u128::BITS;
/// How many answers there must be before a share of them means something.
const LEAST_ANSWERS: u32 = 20;
/// How many push services are remembered: users name those of Web Push.
const CAPACITY: usize = 1_000;

/// Of each push service.
pub struct Health {
    /// The most of the last answers, in percent, that may call devices gone.
    most_gone: u32,
    services: Mutex<HashMap<String, Service>>,
}

#[derive(Default)]
struct Service {
    failures: u32,
    paused_until: Option<Instant>,
    /// The last answers about devices, the newest in the lowest bit: whether they said that it is gone.
    gone: u128,
    answers: u32,
}

/// Of services whose word is always taken.
impl Default for Health {
    fn default() -> Self {
        Self { most_gone: 100, services: Mutex::default() }
    }
}

impl Health {
    /// From `DISABLE_MAX_PERCENT`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let most_gone = environment.number("DISABLE_MAX_PERCENT", 1..=100, 50)?;
        Ok(Self { most_gone, services: Mutex::default() })
    }

    /// The failure that asking `service` now would end in, if it is to be left alone.
    pub fn is_paused(&self, service: &str) -> Option<Failure> {
        self.with(service, |health| {
            let until = health.paused_until?;
            let now = Instant::now();
            if now < until {
                let reason = "the push service failed too often, and is left alone for a while";
                return Some(Failure::of_service(reason));
            }
            // This one tries it; the others wait for what comes of it.
            health.paused_until = Some(now + PAUSE);
            None
        })
    }

    /// Notes what came of a publish, and answers it. When too many devices in a row are called gone it is more likely that
    /// the question is wrong, such as its topic, and none is disabled.
    pub fn note(&self, service: &str, outcome: Outcome) -> Outcome {
        let is_gone = match &outcome {
            Outcome::Gone(_) | Outcome::Suspect(_) => true,
            Outcome::Delivered => false,
            Outcome::Refused(_) => return outcome,
            Outcome::Transient(failure) => {
                match failure.extent {
                    Extent::Service | Extent::Unreachable => self.with(service, |health| health.fail(service)),
                    Extent::Device | Extent::Node => self.with(service, Service::recover),
                    Extent::Unknown => {}
                }
                return outcome;
            }
        };
        let share = self.with(service, |health| {
            health.recover();
            health.gone = health.gone << 1 | u128::from(is_gone);
            health.answers = (health.answers + 1).min(WINDOW);
            health.gone.count_ones() * 100 / health.answers.max(LEAST_ANSWERS)
        });
        match outcome {
            Outcome::Gone(reason) | Outcome::Suspect(reason) if share > self.most_gone => {
                count(Metric::DisablingStopped);
                tracing::error!(
                    service,
                    percent = share,
                    reason,
                    "too many devices are called gone: none is disabled until fewer are. Check topics and credentials"
                );
                Outcome::Refused(format!("{reason}; not disabled, since {share} % of the last devices are called gone"))
            }
            outcome => outcome,
        }
    }

    fn with<T>(&self, service: &str, f: impl FnOnce(&mut Service) -> T) -> T {
        // Each change is complete in itself.
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if services.len() >= CAPACITY && !services.contains_key(service) {
            services.clear();
        }
        match services.get_mut(service) {
            Some(health) => f(health),
            None => f(services.entry(service.to_owned()).or_default()),
        }
    }
}

impl Service {
    fn recover(&mut self) {
        (self.failures, self.paused_until) = (0, None);
    }

    fn fail(&mut self, service: &str) {
        self.failures += 1;
        if self.failures >= FAILURES {
            if self.failures == FAILURES {
                tracing::warn!(
                    service,
                    "a push service failed {FAILURES} times in a row: it is left alone for a while"
                );
            }
            self.paused_until = Some(Instant::now() + PAUSE);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::from_environment(&Environment::default()).unwrap()
    }

    fn failure(extent: Extent) -> Outcome {
        Outcome::Transient(Failure { reason: "status 503".into(), retry_after: None, extent })
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_fails_for_many_is_left_alone_and_then_tried_by_one() {
        let health = health();
        for _ in 0..FAILURES {
            assert_eq!(health.is_paused("a"), None);
            health.note("a", failure(Extent::Service));
        }
        assert!(health.is_paused("a").is_some());
        assert_eq!(health.is_paused("b"), None, "its neighbour");
        tokio::time::advance(PAUSE).await;
        assert_eq!(health.is_paused("a"), None);
        assert!(health.is_paused("a").is_some(), "only one tries");
        health.note("a", Outcome::Delivered);
        assert_eq!(health.is_paused("a"), None);
        health.note("a", failure(Extent::Service));
        assert_eq!(health.is_paused("a"), None, "one failure is none");
    }

    #[tokio::test]
    async fn a_device_that_fails_does_not_stop_others() {
        let health = health();
        for _ in 0..100 {
            health.note("a", failure(Extent::Device));
            health.note("a", failure(Extent::Unknown));
        }
        assert_eq!(health.is_paused("a"), None);
    }

    #[test]
    fn when_most_devices_are_called_gone_none_is_disabled() {
        let health = health();
        let gone = |health: &Health, service| health.note(service, Outcome::Gone("status 410".into()));
        for _ in 0..10 {
            assert!(matches!(gone(&health, "a"), Outcome::Gone(_)));
        }
        assert!(matches!(gone(&health, "a"), Outcome::Refused(_)));
        assert!(matches!(health.note("a", Outcome::Suspect("x".into())), Outcome::Refused(_)));
        assert!(matches!(gone(&health, "b"), Outcome::Gone(_)));
        for _ in 0..WINDOW {
            assert_eq!(health.note("a", Outcome::Delivered), Outcome::Delivered);
        }
        assert!(matches!(gone(&health, "a"), Outcome::Gone(_)));
    }
}
