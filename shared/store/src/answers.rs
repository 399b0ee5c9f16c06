//! Counts of a push service's answers to all workers about devices. The guard against mass disabling uses them.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;

use crate::attributes::{DELIVERED, EXPIRES_AT, GONE};
use crate::item::{self, number};
use crate::{Store, StoreError, expiry, keys, seconds_now, unless_stale};

/// The period of the counts, in seconds. Workers do not report all deliveries. With counts per day, the missing ones do
/// not stop the disabling of the few devices that are gone on each of many days.
const DAY: u64 = 86_400;
/// Above this number of answers both counts are halved, so that newer answers count more.
const MAX_ANSWERS: u64 = 256;
/// The most deliveries that one call adds, so that the deliveries of a busy hour do not outweigh later answers.
const MAX_DELIVERED: u64 = MAX_ANSWERS / 2;

/// The counts of a push service since midnight (UTC); both are halved when their sum exceeds 256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerCounts {
    /// The number of deliveries that workers have reported.
    pub delivered: u64,
    /// The number of answers that report a device as gone or suspect.
    pub gone: u64,
}

impl Store {
    /// Counts one answer of `push_service` that reports a device as gone or suspect, and `delivered` deliveries since
    /// the caller's last call. Returns the answers of the day.
    pub async fn count_gone(&self, push_service: &str, delivered: u64) -> Result<AnswerCounts, StoreError> {
        let day = (seconds_now() / DAY).to_string();
        let counted = self
            .update(keys::answers(push_service), &day)
            .update_expression(format!("ADD {GONE} :one, {DELIVERED} :delivered SET {EXPIRES_AT} = :expires_at"))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":delivered", number(delivered.min(MAX_DELIVERED)))
            .expression_attribute_values(":expires_at", number(expiry(Duration::from_secs(2 * DAY))))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(StoreError::during("count the answers of a push service"))?;
        let counted = counted.attributes.unwrap_or_default();
        let count = |name| item::number_of(&counted, name).unwrap_or(0);
        let answers = AnswerCounts { delivered: count(DELIVERED), gone: count(GONE) };
        if answers.delivered.saturating_add(answers.gone) > MAX_ANSWERS {
            self.halve(push_service, &day, answers).await?;
        }
        Ok(answers)
    }

    async fn halve(&self, push_service: &str, day: &str, answers: AnswerCounts) -> Result<(), StoreError> {
        let halved = self
            .update(keys::answers(push_service), day)
            .update_expression(format!("SET {GONE} = :half_gone, {DELIVERED} = :half_delivered"))
            .condition_expression(format!("{GONE} = :gone AND {DELIVERED} = :delivered"))
            .expression_attribute_values(":gone", number(answers.gone))
            .expression_attribute_values(":delivered", number(answers.delivered))
            .expression_attribute_values(":half_gone", number(answers.gone / 2))
            .expression_attribute_values(":half_delivered", number(answers.delivered / 2))
            .send()
            .await;
        // If the condition fails, another worker has counted meanwhile, and halves the counts.
        unless_stale("count the answers of a push service", halved).map(drop)
    }
}
