//! The rate limit per account and minute. An account is a domain, the user of a client, or a sender at the push node.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::attributes::{ADMITTED, EXPIRES_AT};
use crate::item::number;
use crate::{Store, StoreError, expiry, keys, seconds_now, unless_stale};

/// The period over which the events of an account are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// The most accounts of one request: as many as are counted within two seconds.
const MAX_ACCOUNTS: usize = 1_000;
/// The maximum number of accounts that are counted concurrently.
const MAX_CONCURRENT_ACCOUNTS: usize = 32;

/// A request that `RATE_LIMIT` does not admit. It counts for no account.
#[derive(Debug, thiserror::Error)]
pub enum RateLimitError {
    /// The account has reached the limit: the caller may retry after this time.
    #[error("{account} is over the rate limit, try again later")]
    Exceeded {
        /// The domain, user or sender.
        account: String,
        /// The rest of the minute: 1 to 60 seconds.
        retry_after: Duration,
    },
    /// The request has more than 1,000 accounts: the caller must split it.
    #[error("the events are about users of {0} domains, {MAX_ACCOUNTS} are allowed in one request")]
    TooManyAccounts(usize),
    /// A request to the table failed: the caller may retry.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Admits a request against `RATE_LIMIT`, and counts one event for an account each time that it is in `accounts`. A
    /// request that reaches the limit is admitted as a whole.
    pub async fn charge(&self, accounts: &[&str]) -> Result<(), RateLimitError> {
        let Some(limit) = self.rate_limit else { return Ok(()) };
        let (window, retry_after) = window(seconds_now());
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for account in accounts {
            *counts.entry(account).or_default() += 1;
        }
        if counts.len() > MAX_ACCOUNTS {
            return Err(RateLimitError::TooManyAccounts(counts.len()));
        }
        let (mut admitted, mut refused) = (Vec::with_capacity(counts.len()), None);
        let stopped = AtomicBool::new(false);
        let counting = counts.into_iter().map(async |(account, count)| match stopped.load(Ordering::Relaxed) {
            true => None,
            false => Some((account, count, self.add_events(account, count, limit, &window).await)),
        });
        let mut counting = stream::iter(counting.collect::<Vec<_>>()).buffer_unordered(MAX_CONCURRENT_ACCOUNTS);
        while let Some(counted) = counting.next().await {
            match counted {
                Some((account, count, Ok(true))) => admitted.push((account, count)),
                Some((account, _, Ok(false))) => {
                    refused = Some(RateLimitError::Exceeded { account: account.to_owned(), retry_after });
                }
                Some((_, _, Err(error))) => refused = Some(error.into()),
                None => {}
            }
            stopped.store(refused.is_some(), Ordering::Relaxed);
        }
        let Some(refused) = refused else { return Ok(()) };
        // The whole request is refused, so it does not count for the other accounts.
        let removed: Vec<_> =
            admitted.into_iter().map(|(account, count)| self.remove_events(account, count, &window)).collect();
        stream::iter(removed).buffer_unordered(MAX_CONCURRENT_ACCOUNTS).try_collect::<()>().await?;
        Err(refused)
    }

    /// Adds `count` events to an account in this window, unless the account has reached `limit`. Returns whether they
    /// were added.
    async fn add_events(&self, account: &str, count: u64, limit: NonZeroU32, window: &str) -> Result<bool, StoreError> {
        let counted = self
            .update(keys::rate(account), window)
            .update_expression(format!("ADD {ADMITTED} :count SET {EXPIRES_AT} = :expires_at"))
            .condition_expression(format!("attribute_not_exists({ADMITTED}) OR {ADMITTED} < :limit"))
            .expression_attribute_values(":count", number(count))
            .expression_attribute_values(":limit", number(u64::from(limit.get())))
            .expression_attribute_values(":expires_at", number(expiry(10 * WINDOW)))
            .send()
            .await;
        unless_stale("count events against the rate limit", counted)
    }

    async fn remove_events(&self, account: &str, count: u64, window: &str) -> Result<(), StoreError> {
        self.update(keys::rate(account), window)
            .update_expression(format!("ADD {ADMITTED} :count"))
            .expression_attribute_values(":count", AttributeValue::N(format!("-{count}")))
            .send()
            .await
            .map_err(StoreError::during("count events against the rate limit"))?;
        Ok(())
    }
}

/// Returns the sort key of the window at a time in seconds since 1970, and the rest of the window.
fn window(seconds: u64) -> (String, Duration) {
    let length = WINDOW.as_secs();
    (format!("{}", seconds / length), Duration::from_secs(length - seconds % length))
}
