//! How much a user may have, and a domain may send.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use pushlark_plugin::PublishService;
use pushlark_settings::{Environment, SettingError};
use pushlark_xmpp::Jid;

use crate::item::number;
use crate::{Snapshot, Store, StoreError, expiry, keys, seconds_now, unless_stale};

/// `MAX_NODES` when it is not set.
const MAX_NODES: u32 = 20;
/// For how long a domain's events are counted together.
const WINDOW: Duration = Duration::from_secs(60);

/// What the settings allow.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most registrations of a user, and nodes of a user at a push service.
    pub nodes: usize,
    when_reached: WhenReached,
    /// How much is taken in a minute about the users of a domain.
    rate: Option<NonZeroU32>,
}

/// What becomes of a registration beyond the most that a user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenReached {
    ReplaceOldest,
    RefuseNewest,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is stored.
    Stored,
    /// The user has as many as there may be.
    Refused,
}

/// Whether what is told is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// They are.
    Admitted,
    /// Of this domain or user as much was told as may be; more may be after this time.
    Exceeded(String, Duration),
}

impl Limits {
    /// From `MAX_NODES`, `MAX_NODES_REACHED` and `RATE_LIMIT`.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let when_reached = environment.get("MAX_NODES_REACHED")?.unwrap_or(WhenReached::ReplaceOldest);
        let nodes = environment.number("MAX_NODES", 1..=1_000, MAX_NODES)?;
        let rate = environment.number("RATE_LIMIT", 0..=1_000_000, 0)?;
        // It is at most 1,000.
        Ok(Self { nodes: nodes as usize, when_reached, rate: NonZeroU32::new(rate) })
    }
}

impl FromStr for WhenReached {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "replace-oldest" => Ok(Self::ReplaceOldest),
            "refuse-newest" => Ok(Self::RefuseNewest),
            _ => Err("it is neither replace-oldest nor refuse-newest"),
        }
    }
}

impl Store {
    /// What the settings allow.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Stores a registration, in place of one of the same user, service and node. A `user` with a resource ties it to
    /// that session. Of more than [`Limits::nodes`], the ones that were enabled longest ago go, or this one is refused.
    pub async fn register(&self, user: &Jid, service: &PublishService) -> Result<Registered, StoreError> {
        let owner = user.to_bare();
        let refuses = self.limits.when_reached == WhenReached::RefuseNewest;
        let is_new = |snapshot: &Snapshot| !snapshot.services.iter().any(|other| is_same(other, service));
        let was_new = refuses && {
            let before = self.snapshot(&owner).await?;
            if is_new(&before) && before.services.len() >= self.limits.nodes {
                return Ok(Registered::Refused);
            }
            is_new(&before)
        };
        self.put_registration(user, service).await?;
        // Others may have been stored meanwhile: whoever counts last sees all of them.
        let after = self.snapshot(&owner).await?;
        let excess = after.services.len().saturating_sub(self.limits.nodes);
        if excess == 0 || refuses && !was_new {
            return Ok(Registered::Stored);
        }
        if refuses {
            self.unregister_version(&owner, &after, service).await?;
            return Ok(Registered::Refused);
        }
        // All who do this at once take the same for the oldest, so that no more go than must.
        let mut services: Vec<_> = after.services.iter().collect();
        services.sort_by_key(|service| (service.created_at, &service.jid, &service.node));
        for oldest in &services[..excess] {
            self.unregister_version(&owner, &after, oldest).await?;
            tracing::info!(user = %owner, jid = %oldest.jid, "disabled for a newer one");
        }
        Ok(Registered::Stored)
    }

    /// Counts what is told of these, domains or users whose own clients call, once for each time that they are named, if
    /// `RATE_LIMIT` is set: so many in a minute, and then what a single request has more.
    pub async fn admit(&self, told_of: &[&str]) -> Result<Admission, StoreError> {
        let Some(limit) = self.limits.rate else { return Ok(Admission::Admitted) };
        let (window, left) = window(seconds_now());
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for one in told_of {
            *counts.entry(one).or_default() += 1;
        }
        let counts: Vec<_> = counts.into_iter().collect();
        for (at, (one, count)) in counts.iter().enumerate() {
            let counted = self
                .update(keys::rate(one), &window)
                .update_expression("ADD admitted :count SET expires_at = :expires_at")
                .condition_expression("attribute_not_exists(admitted) OR admitted < :limit")
                .expression_attribute_values(":count", number(*count))
                .expression_attribute_values(":limit", number(u64::from(limit.get())))
                .expression_attribute_values(":expires_at", number(expiry(10 * WINDOW)))
                .send()
                .await;
            if !unless_stale("count what is told", counted)? {
                // The whole request is refused, so the others have sent nothing.
                for (other, count) in &counts[..at] {
                    let back = self
                        .update(keys::rate(other), &window)
                        .update_expression("ADD admitted :count")
                        .expression_attribute_values(":count", AttributeValue::N(format!("-{count}")));
                    back.send().await.map_err(StoreError::during("count what is told"))?;
                }
                return Ok(Admission::Exceeded((*one).to_owned(), left));
            }
        }
        Ok(Admission::Admitted)
    }
}

/// The name of the window at a time, and how long it lasts yet.
fn window(seconds: u64) -> (String, Duration) {
    let length = WINDOW.as_secs();
    (format!("{}", seconds / length), Duration::from_secs(length - seconds % length))
}

fn is_same(one: &PublishService, other: &PublishService) -> bool {
    one.jid == other.jid && one.node == other.node
}
