//! How much a user may have, and a domain may send.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_settings::{Environment, SettingError, catalogue};

use crate::item::number;
use crate::{Store, StoreError, expiry, keys, seconds_now, unless_stale};

/// For how long a domain's events are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// The most domains and users that one request is counted for: as many as are counted within two seconds.
pub const MAX_COUNTED: usize = 1_000;
/// How many of them are counted side by side.
const COUNTS: usize = 32;

/// What the settings allow.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most registrations of a user, and also the most push nodes of a user at all PubSub services together.
    pub nodes: usize,
    pub(crate) when_reached: WhenReached,
    /// How much is taken in a minute about the users of a domain.
    rate: Option<NonZeroU32>,
}

/// What becomes of a registration beyond the most that a user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenReached {
    ReplaceOldest,
    RefuseNewest,
}

/// Whether a request is within `RATE_LIMIT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The request is within the limit, and is counted.
    Admitted,
    /// The limit of this domain or user is reached; more is taken after this time.
    Exceeded(String, Duration),
    /// The request is about so many domains or users, more than [`MAX_COUNTED`].
    TooMany(usize),
}

impl Limits {
    /// From `MAX_NODES`, `MAX_NODES_REACHED` and `RATE_LIMIT`.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let when_reached = [WhenReached::ReplaceOldest, WhenReached::RefuseNewest];
        let when_reached = environment.choice(&catalogue::MAX_NODES_REACHED, when_reached)?;
        let nodes = environment.number(&catalogue::MAX_NODES)?;
        let rate = environment.number(&catalogue::RATE_LIMIT)?;
        // It is at most 1,000.
        Ok(Self { nodes: nodes as usize, when_reached, rate: NonZeroU32::new(rate) })
    }
}

impl Store {
    /// What the settings allow.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counts one thing told of each of `told_of`, domains or users whose own clients call, as often as it is named, if
    /// `RATE_LIMIT` is set. Each may have so many in a minute, and then whatever a single request has more. A request
    /// that is not admitted counts for nobody.
    pub async fn admit(&self, told_of: &[&str]) -> Result<Admission, StoreError> {
        let Some(limit) = self.limits.rate else { return Ok(Admission::Admitted) };
        let (window, left) = window(seconds_now());
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for one in told_of {
            *counts.entry(one).or_default() += 1;
        }
        if counts.len() > MAX_COUNTED {
            return Ok(Admission::TooMany(counts.len()));
        }
        let (mut admitted, mut refused) = (Vec::with_capacity(counts.len()), None);
        let stopped = AtomicBool::new(false);
        let counting = counts.into_iter().map(async |(one, count)| match stopped.load(Ordering::Relaxed) {
            true => None,
            false => Some((one, count, self.count_told(one, count, limit, &window).await)),
        });
        let mut counting = stream::iter(counting.collect::<Vec<_>>()).buffer_unordered(COUNTS);
        while let Some(counted) = counting.next().await {
            match counted {
                Some((one, count, Ok(true))) => admitted.push((one, count)),
                Some((one, _, Ok(false))) => refused = Some(Ok(Admission::Exceeded(one.to_owned(), left))),
                Some((_, _, Err(error))) => refused = Some(Err(error)),
                None => {}
            }
            stopped.store(refused.is_some(), Ordering::Relaxed);
        }
        let Some(refused) = refused else { return Ok(Admission::Admitted) };
        // The whole request is refused, so the others have sent nothing.
        let returned: Vec<_> = admitted.into_iter().map(|(one, count)| self.return_told(one, count, &window)).collect();
        let returned = stream::iter(returned).buffer_unordered(COUNTS).try_collect::<()>().await;
        refused.and_then(|admission| returned.map(|()| admission))
    }

    /// Adds `count` to the count of a domain or user in this window, unless it has reached `limit`. Returns whether it was
    /// added.
    async fn count_told(&self, one: &str, count: u64, limit: NonZeroU32, window: &str) -> Result<bool, StoreError> {
        let counted = self
            .update(keys::rate(one), window)
            .update_expression("ADD admitted :count SET expires_at = :expires_at")
            .condition_expression("attribute_not_exists(admitted) OR admitted < :limit")
            .expression_attribute_values(":count", number(count))
            .expression_attribute_values(":limit", number(u64::from(limit.get())))
            .expression_attribute_values(":expires_at", number(expiry(10 * WINDOW)))
            .send()
            .await;
        unless_stale("count what is told", counted)
    }

    async fn return_told(&self, one: &str, count: u64, window: &str) -> Result<(), StoreError> {
        self.update(keys::rate(one), window)
            .update_expression("ADD admitted :count")
            .expression_attribute_values(":count", AttributeValue::N(format!("-{count}")))
            .send()
            .await
            .map_err(StoreError::during("count what is told"))?;
        Ok(())
    }
}

/// The name of the window at a time, and how long it lasts yet.
fn window(seconds: u64) -> (String, Duration) {
    let length = WINDOW.as_secs();
    (format!("{}", seconds / length), Duration::from_secs(length - seconds % length))
}
