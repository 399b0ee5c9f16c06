//! The guard against mass disabling: when most devices are called gone, it is more likely that the question is wrong, such
//! as its topic, than that the devices are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pushlark_delivery::PushService;
use pushlark_store::{Answers, Store, StoreError};
use pushlark_telemetry::{Metric, count};

/// How many answers there are at least before a share of them means something: with fewer, the missing ones count as
/// deliveries. So of a push service of which no worker knows a delivery, five devices a day are disabled by default.
const LEAST_ANSWERS: u64 = 10;
/// How many push services are remembered: users name those of Web Push.
const CAPACITY: usize = 1_000;

/// The deliveries that the table does not know of yet, by push service. They are told to it with the next answer that calls
/// a device gone, so that a delivery costs no write.
#[derive(Default)]
pub struct Guard {
    delivered: Mutex<HashMap<String, u64>>,
}

impl Guard {
    /// Counts a delivery by a push service, and by all of its family.
    pub fn count_delivery(&self, push_service: &PushService) {
        // Each change is complete in itself.
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        for name in [Some(push_service.name.as_str()), push_service.family].into_iter().flatten() {
            if delivered.len() >= CAPACITY && !delivered.contains_key(name) {
                delivered.clear();
            }
            match delivered.get_mut(name) {
                Some(deliveries) => *deliveries += 1,
                None => _ = delivered.insert(name.to_owned(), 1),
            }
        }
    }

    /// Whether the word of `push_service` that a device is gone is taken: not while more than `most_gone` percent of its
    /// last answers to all workers, of the day, say so.
    pub async fn admits(&self, store: &Store, push_service: &str, most_gone: u32) -> Result<bool, StoreError> {
        let delivered = {
            let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
            delivered.remove(push_service).unwrap_or(0)
        };
        let Answers { delivered, gone } = store.count_gone(push_service, delivered).await?;
        let percent = gone.saturating_mul(100) / gone.saturating_add(delivered).max(LEAST_ANSWERS);
        if percent <= u64::from(most_gone) {
            return Ok(true);
        }
        count(Metric::DisablingStopped);
        tracing::error!(
            push_service,
            percent,
            "too many devices are called gone: none is disabled until fewer are. Check topics and credentials"
        );
        Ok(false)
    }
}
