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
/// The most events of an account and window in one item. DynamoDB writes an item up to 1,000 times a second
/// ("DynamoDB burst and adaptive capacity"); these are half as many if each request has one event.
const SHARD_LIMIT: u32 = 30_000;
/// The most shards that a request tries: a refused request costs as many writes, and one that finds three full shards
/// is rare before 95 % of the limit.
const MAX_TRIES: usize = 3;
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
    /// request that reaches the limit is admitted as a whole. If the limit needs several [`Shards`], a request may be
    /// refused when nearly all of them are full.
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
                Some((account, count, Ok(Some(shard)))) => admitted.push((account, shard, count)),
                Some((account, _, Ok(None))) => {
                    refused = Some(RateLimitError::Exceeded { account: account.to_owned(), retry_after });
                }
                Some((_, _, Err(error))) => refused = Some(error.into()),
                None => {}
            }
            stopped.store(refused.is_some(), Ordering::Relaxed);
        }
        let Some(refused) = refused else { return Ok(()) };
        // The whole request is refused, so it does not count for the other accounts.
        let removed: Vec<_> = admitted
            .into_iter()
            .map(|(account, shard, count)| self.remove_events(keys::rate(account, shard), count, &window))
            .collect();
        stream::iter(removed).buffer_unordered(MAX_CONCURRENT_ACCOUNTS).try_collect::<()>().await?;
        Err(refused)
    }

    /// Adds `count` events to a shard of an account in this window. Returns the shard, or `None` if the account has
    /// reached `limit`.
    async fn add_events(
        &self,
        account: &str,
        count: u64,
        limit: NonZeroU32,
        window: &str,
    ) -> Result<Option<u32>, StoreError> {
        for (shard, limit) in Shards::of(limit).shuffled().take(MAX_TRIES) {
            if self.add_to_shard(keys::rate(account, shard), count, limit, window).await? {
                return Ok(Some(shard));
            }
        }
        Ok(None)
    }

    /// Adds `count` events to a shard, unless it has reached its limit. Returns whether they were added.
    async fn add_to_shard(&self, key: String, count: u64, limit: u32, window: &str) -> Result<bool, StoreError> {
        let counted = self
            .update(key, window)
            .update_expression(format!("ADD {ADMITTED} :count SET {EXPIRES_AT} = :expires_at"))
            .condition_expression(format!("attribute_not_exists({ADMITTED}) OR {ADMITTED} < :limit"))
            .expression_attribute_values(":count", number(count))
            .expression_attribute_values(":limit", number(u64::from(limit)))
            .expression_attribute_values(":expires_at", number(expiry(10 * WINDOW)))
            .send()
            .await;
        unless_stale("count events against the rate limit", counted)
    }

    /// Returns the partition keys of the counts of an account; none without `RATE_LIMIT`.
    pub(crate) fn rate_keys(&self, account: &str) -> Vec<String> {
        let shards = self.rate_limit.map_or(0, |limit| Shards::of(limit).count);
        (0..shards).map(|shard| keys::rate(account, shard)).collect()
    }

    async fn remove_events(&self, key: String, count: u64, window: &str) -> Result<(), StoreError> {
        self.update(key, window)
            .update_expression(format!("ADD {ADMITTED} :count"))
            .expression_attribute_values(":count", AttributeValue::N(format!("-{count}")))
            .send()
            .await
            .map_err(StoreError::during("count events against the rate limit"))?;
        Ok(())
    }
}

/// The items that count the events of one account and window: as few as DynamoDB can write often enough. Each admits
/// its share of the limit.
#[derive(Debug, Clone, Copy)]
struct Shards {
    limit: u32,
    count: u32,
}

impl Shards {
    fn of(limit: NonZeroU32) -> Self {
        Self { limit: limit.get(), count: limit.get().div_ceil(SHARD_LIMIT) }
    }

    /// Returns the shards with their limits, in an order that is random for each request.
    fn shuffled(self) -> impl Iterator<Item = (u32, u32)> {
        let mut shards: Vec<u32> = (0..self.count).collect();
        fastrand::shuffle(&mut shards);
        shards.into_iter().map(move |shard| (shard, self.share(shard)))
    }

    /// Returns the limit of a shard. The limits of all shards add up to the limit of the account.
    fn share(self, shard: u32) -> u32 {
        self.limit / self.count + u32::from(shard < self.limit % self.count)
    }
}

/// Returns the sort key of the window at a time in seconds since 1970, and the rest of the window.
fn window(seconds: u64) -> (String, Duration) {
    let length = WINDOW.as_secs();
    (format!("{}", seconds / length), Duration::from_secs(length - seconds % length))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shards(limit: u32) -> Shards {
        Shards::of(NonZeroU32::new(limit).unwrap())
    }

    #[test]
    fn the_limits_of_the_shards_add_up_to_the_limit() {
        for limit in [1, 2, 10, 29_999, 30_000, 30_001, 60_001, 300_000, 999_999, 1_000_000] {
            let shards = shards(limit);
            let all: Vec<_> = shards.shuffled().collect();
            assert_eq!(all.iter().map(|(_, share)| share).sum::<u32>(), limit);
            assert!(all.iter().all(|(_, share)| (1..=SHARD_LIMIT).contains(share)), "{limit}: {all:?}");
            let distinct: BTreeSet<_> = all.iter().map(|(shard, _)| shard).collect();
            assert_eq!(distinct.len(), all.len());
        }
    }

    #[test]
    fn a_limit_that_one_item_can_count_has_one_shard() {
        assert_eq!(shards(10).count, 1);
        assert_eq!(shards(SHARD_LIMIT).count, 1);
        assert_eq!(shards(SHARD_LIMIT + 1).count, 2);
        // 5,000 requests a second.
        assert_eq!(shards(5_000 * 60).count, 10);
    }

    /// Returns the number of events that are admitted before the first refusal, and in all, if each request has `size`
    /// events.
    fn admitted(limit: u32, size: u32) -> (u32, u32) {
        let shards = shards(limit);
        let mut counts = vec![0; shards.count as usize];
        let (mut before_refusal, mut all) = (None, 0);
        for _ in 0..limit / size + limit / size / 2 {
            let free = shards.shuffled().take(MAX_TRIES).find(|(shard, share)| counts[*shard as usize] < *share);
            match free {
                Some((shard, _)) => {
                    counts[shard as usize] += size;
                    all += size;
                }
                None => before_refusal = before_refusal.or(Some(all)),
            }
        }
        (before_refusal.unwrap(), all)
    }

    #[test]
    fn an_account_is_refused_near_its_limit_and_admitted_no_further() {
        for limit in [10, 29_999] {
            assert_eq!(admitted(limit, 1), (limit, limit));
        }
        for (limit, size) in [(300_000, 5), (1_000_000, 25)] {
            let (before_refusal, all) = admitted(limit, size);
            assert!(f64::from(before_refusal) >= 0.9 * f64::from(limit), "{limit}: refused after {before_refusal}");
            // The request that reaches the limit of a shard is admitted as a whole.
            assert!((limit..=limit + shards(limit).count * size).contains(&all), "{limit}: admitted {all}");
        }
    }

    #[test]
    fn the_requests_of_an_account_are_spread_over_all_shards() {
        let shards = shards(300_000);
        let mut counts = vec![0; shards.count as usize];
        (0..10_000).for_each(|_| counts[shards.shuffled().next().unwrap().0 as usize] += 1);
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
