//! Writes of several items that succeed or fail together ("Amazon DynamoDB transactions: How it works"), and the item
//! that makes counting in transactions exact.

use std::time::Duration;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{CancellationReason, ConditionCheck, Delete, Put, TransactWriteItem, Update};
use pushlark_xmpp::BareJid;
use tokio::time::{Instant, sleep};

use crate::attributes::{ADDED, ADDED_AT, CREATED_AT, DOMAIN_SHARD, PK, SK};
use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, keys};

/// The time for which a transaction is retried while other requests change the same items. A function has ten seconds.
const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait before the first retry.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// The longest wait before any other retry. It doubles from retry to retry.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The least ratio of the longest wait to the duration of the last attempt: slow attempts succeed sooner if fewer
/// compete.
const WAIT_PER_ATTEMPT: u32 = 8;

/// The result of a transaction.
#[derive(Debug)]
pub enum TransactionOutcome {
    /// All parts are applied.
    Written,
    /// No item is written: another writer was faster. The reasons are in the order of the parts.
    Conflict(Vec<CancellationReason>),
}

/// One write of a transaction.
pub enum Part {
    /// Replaces an item.
    Put(Result<Put, BuildError>),
    /// Changes an item.
    Update(Result<Update, BuildError>),
    /// Deletes an item.
    Delete(Result<Delete, BuildError>),
    /// Writes nothing, and cancels the transaction if a condition does not hold.
    Check(Result<ConditionCheck, BuildError>),
}

/// The retries of one change that competes with others.
#[derive(Debug)]
pub struct Retries {
    end: Instant,
    attempt_begun: Instant,
    longest: Duration,
}

/// The item that names the registration, or the push node, that a user added last, or that changed its device last.
///
/// With this item, a query and a transaction count exactly. A consistent query reads one item after the other, each in
/// the state of the last committed transaction, so it can miss an item that is added while it runs. Therefore the key
/// of this item comes before the keys of the counted items, and a transaction that adds one of them replaces this item
/// on condition that it is unchanged since the query. The query can then miss only the item that this item names,
/// because the commit of that transaction may not be complete; a [`ConditionCheck`] of the next transaction covers it.
///
/// Of two requests for one device, the second finds the registration of the first in the same way.
///
/// A removal of a counted item does not change this item: at worst the count is too high, and a retry corrects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// The sort key of the added item.
    pub key: String,
    /// The time of the addition, in microseconds since 1970. It is later than that of any earlier addition.
    pub added_at: u64,
}

impl Store {
    /// Writes all of `parts` in one transaction, or none.
    pub(crate) async fn transact(
        &self,
        action: &'static str,
        parts: impl IntoIterator<Item = Part>,
    ) -> Result<TransactionOutcome, StoreError> {
        let parts: Result<Vec<_>, BuildError> = parts.into_iter().map(Part::into_item).collect();
        let parts = parts.map_err(StoreError::during(action))?;
        let Err(error) = self.client.transact_write_items().set_transact_items(Some(parts)).send().await else {
            return Ok(TransactionOutcome::Written);
        };
        match error.into_service_error() {
            TransactWriteItemsError::TransactionCanceledException(cancelled)
                if cancelled.cancellation_reasons().iter().all(passes) =>
            {
                Ok(TransactionOutcome::Conflict(cancelled.cancellation_reasons.unwrap_or_default()))
            }
            error => Err(StoreError::during(action)(error)),
        }
    }

    /// Returns the parts of a transaction that adds an item of `owner` after a query found `seen` in the item `sk`, and
    /// the counted items for which `is_known` is true.
    pub(crate) fn advance(
        &self,
        owner: &BareJid,
        sk: &'static str,
        seen: Option<&Latest>,
        is_known: impl Fn(&str) -> bool,
        next: &Latest,
    ) -> Vec<Part> {
        let update = Update::builder()
            .table_name(&self.table)
            .key(PK, text(owner))
            .key(SK, text(sk))
            .update_expression(format!(
                "SET {ADDED} = :key, {ADDED_AT} = :added_at, {CREATED_AT} = if_not_exists({CREATED_AT}, :added_at), \
                 {DOMAIN_SHARD} = if_not_exists({DOMAIN_SHARD}, :shard)"
            ))
            .expression_attribute_values(":key", text(&next.key))
            .expression_attribute_values(":added_at", number(next.added_at))
            .expression_attribute_values(":shard", text(keys::domain_shard(owner)));
        let Some(seen) = seen else {
            return vec![Part::Update(update.condition_expression(format!("attribute_not_exists({PK})")).build())];
        };
        let update = update
            .condition_expression(format!("{ADDED} = :seen AND {ADDED_AT} = :seen_at"))
            .expression_attribute_values(":seen", text(&seen.key))
            .expression_attribute_values(":seen_at", number(seen.added_at));
        let mut parts = vec![Part::Update(update.build())];
        // If both keys are the same, the condition of the added item covers this.
        if seen.key != next.key && !is_known(&seen.key) {
            let check = ConditionCheck::builder()
                .table_name(&self.table)
                .key(PK, text(owner))
                .key(SK, text(&seen.key))
                .condition_expression(format!("attribute_not_exists({PK})"));
            parts.push(Part::Check(check.build()));
        }
        parts
    }
}

impl Latest {
    /// Reads the item; `None` if an attribute is missing.
    pub fn read(item: &Item) -> Option<Self> {
        Some(Self { key: item::text_of(item, ADDED)?.to_owned(), added_at: item::number_of(item, ADDED_AT)? })
    }
}

impl Part {
    fn into_item(self) -> Result<TransactWriteItem, BuildError> {
        let item = TransactWriteItem::builder();
        Ok(match self {
            Self::Put(put) => item.put(put?),
            Self::Update(update) => item.update(update?),
            Self::Delete(delete) => item.delete(delete?),
            Self::Check(check) => item.condition_check(check?),
        }
        .build())
    }
}

impl Retries {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { end: now + RETRY_TIMEOUT, attempt_begun: now, longest: FIRST_WAIT }
    }

    /// Waits for the next retry. The wait is random, so that competing writers do not conflict again. Fails
    /// after [`RETRY_TIMEOUT`].
    pub async fn wait(&mut self, action: &'static str) -> Result<(), StoreError> {
        if Instant::now() >= self.end {
            return Err(StoreError::during(action)("other requests kept changing the same items"));
        }
        let longest = self.longest.max(WAIT_PER_ATTEMPT * self.attempt_begun.elapsed()).min(LONGEST_WAIT);
        sleep(longest.mul_f32(fastrand::f32())).await;
        (self.longest, self.attempt_begun) = (longest * 2, Instant::now());
        Ok(())
    }
}

/// Returns whether the condition of this part did not hold.
pub fn is_unmet(reason: &CancellationReason) -> bool {
    reason.code() == Some("ConditionalCheckFailed")
}

/// Returns whether a retry can succeed in this part ("TransactWriteItems", Cancellation reason codes).
fn passes(reason: &CancellationReason) -> bool {
    let transient =
        ["None", "ConditionalCheckFailed", "TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError"];
    reason.code().is_none_or(|code| transient.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_end_after_five_seconds() {
        let (begun, mut retries, mut waits) = (Instant::now(), Retries::new(), 0);
        while retries.wait("be tested").await.is_ok() {
            waits += 1;
        }
        assert!((RETRY_TIMEOUT..RETRY_TIMEOUT + LONGEST_WAIT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(waits > 6, "{waits}");
    }

    #[test]
    fn only_a_temporary_reason_is_a_conflict() {
        let reason = |code: &str| CancellationReason::builder().code(code).build();
        assert!(passes(&reason("TransactionConflict")) && passes(&reason("None")));
        assert!(passes(&CancellationReason::builder().build()));
        assert!(!passes(&reason("ValidationError")));
    }
}
