//! The guard against mass disabling: when a push service reports most devices as gone, a wrong request, such as a wrong
//! topic, is more likely than the loss of the devices.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pushlark_delivery::PushService;
use pushlark_store::{AnswerCounts, Store, StoreError};
use pushlark_telemetry::{Metric, count};

/// The fewest answers of which a percentage is computed: missing ones count as deliveries. So by default five devices
/// per day are disabled for a push service without any delivery.
const MIN_ANSWERS: u64 = 10;
/// The maximum number of push services whose deliveries are counted; beyond it, all counts are dropped. Users choose
/// those of Web Push, so there may be any number.
const MAX_PUSH_SERVICES: usize = 1_000;

/// The deliveries that are not in the table yet, by push service. The next answer that reports a device as gone writes
/// them too, so that a delivery costs no write.
#[derive(Default)]
pub struct Guard {
    delivered: Mutex<HashMap<String, u64>>,
}

impl Guard {
    /// Counts a delivery for a push service and for its family.
    pub fn count_delivery(&self, push_service: &PushService) {
        // A panic leaves no change half done, so a poisoned lock is safe to use.
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        for name in [Some(push_service.name.as_str()), push_service.family].into_iter().flatten() {
            if delivered.len() >= MAX_PUSH_SERVICES && !delivered.contains_key(name) {
                delivered.clear();
            }
            match delivered.get_mut(name) {
                Some(deliveries) => *deliveries += 1,
                None => _ = delivered.insert(name.to_owned(), 1),
            }
        }
    }

    /// Counts an answer of `push_service` that reports a device as gone. Returns whether the device may be disabled:
    /// `false` if more than `most_gone` percent of the day's answers to all workers report devices as gone.
    pub async fn admits(&self, store: &Store, push_service: &str, most_gone: u32) -> Result<bool, StoreError> {
        let delivered = {
            let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
            delivered.remove(push_service).unwrap_or(0)
        };
        let AnswerCounts { delivered, gone } = store.count_gone(push_service, delivered).await?;
        let percent = gone.saturating_mul(100) / gone.saturating_add(delivered).max(MIN_ANSWERS);
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
