//! The answers of a push service about devices, for all workers: the guard against mass disabling looks at them.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;

use crate::attributes::{DELIVERED, EXPIRES_AT, GONE};
use crate::item::{self, number};
use crate::{Store, StoreError, expiry, keys, seconds_now, unless_stale};

/// Answers are counted by the day: deliveries that no worker tells of must not stop the disabling of the few devices that are
/// gone on each of many days.
const DAY: u64 = 86_400;
/// Above so many answers both counts are halved, so that newer answers count more.
const MOST_ANSWERS: u64 = 256;
/// The most deliveries that one caller counts at once, so that the deliveries of a busy hour do not outweigh what follows.
const MOST_DELIVERED: u64 = MOST_ANSWERS / 2;

/// The answers of a push service about devices, since midnight in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answers {
    /// How many deliveries, as far as workers have told of them.
    pub delivered: u64,
    /// How many answers that call a device gone, or suspect.
    pub gone: u64,
}

impl Store {
    /// Counts one more answer of `push_service` that calls a device gone, and `delivered` deliveries since the caller told
    /// of them last. Returns the answers of the day.
    pub async fn count_gone(&self, push_service: &str, delivered: u64) -> Result<Answers, StoreError> {
        let day = (seconds_now() / DAY).to_string();
        let counted = self
            .update(keys::answers(push_service), &day)
            .update_expression(format!("ADD {GONE} :one, {DELIVERED} :delivered SET {EXPIRES_AT} = :expires_at"))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":delivered", number(delivered.min(MOST_DELIVERED)))
            .expression_attribute_values(":expires_at", number(expiry(Duration::from_secs(2 * DAY))))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(StoreError::during("count the answers of a push service"))?;
        let counted = counted.attributes.unwrap_or_default();
        let count = |name| item::number_of(&counted, name).unwrap_or(0);
        let answers = Answers { delivered: count(DELIVERED), gone: count(GONE) };
        if answers.delivered.saturating_add(answers.gone) > MOST_ANSWERS {
            self.halve(push_service, &day, answers).await?;
        }
        Ok(answers)
    }

    async fn halve(&self, push_service: &str, day: &str, answers: Answers) -> Result<(), StoreError> {
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
        // If it is stale, another worker counts meanwhile, and halves.
        unless_stale("count the answers of a push service", halved).map(drop)
    }
}
