//! What was published of a message, so that each service gets it once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;
use pushlark_plugin::PublishService;
use pushlark_xmpp::BareJid;

use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, expiry, keys};

/// How long a claim is remembered: longer than the 14 days for which SQS keeps a message.
const CLAIM_LIFETIME: Duration = Duration::from_hours(16 * 24);

/// How many services one write names: an update expression has at most 4 KB ("Service, account, and table quotas in
/// Amazon DynamoDB").
const MAX_SERVICES: usize = 100;

const CLAIM: &str = "claim";

/// What an event says in a claim.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'c> {
    /// The message.
    pub id: &'c str,
    /// The recipient.
    pub user: &'c BareJid,
    /// The event.
    pub uid: &'c str,
    /// What [`Store::count`] gave for the message, if it was asked.
    pub counted: Option<u32>,
}

impl Store {
    /// Claims for an event the right to publish its message to `services`, in one write a hundred. Answers which of them
    /// this event holds: it has claimed them now, or had before and did not finish.
    pub async fn claim(&self, claimant: Claimant<'_>, services: &[&PublishService]) -> Result<Vec<bool>, StoreError> {
        let uid = claimant.uid;
        let mut held = Vec::with_capacity(services.len());
        for services in services.chunks(MAX_SERVICES) {
            let claim =
                self.update_claim("claim a message", claimant, services, "if_not_exists({}, :uid)", uid).await?;
            held.extend(services.iter().map(|service| {
                let holder = item::text_of(&claim, &keys::service(service));
                // A claim by an earlier version came before this one, but is finished under the short name.
                match item::text_of(&claim, &keys::long_service(service)) {
                    Some(earlier) => earlier == uid && holder != Some(&done(uid)),
                    None => holder == Some(uid),
                }
            }));
        }
        Ok(held)
    }

    /// Notes that `services` need nothing more for the message, so that a repeat of the event leaves them out, and the
    /// message's number, even without any service.
    pub async fn finish(&self, claimant: Claimant<'_>, services: &[&PublishService]) -> Result<(), StoreError> {
        let done = done(claimant.uid);
        let (first, others) = services.split_at(services.len().min(MAX_SERVICES));
        for services in [first].into_iter().chain(others.chunks(MAX_SERVICES)) {
            self.update_claim("note what was published", claimant, services, ":uid", &done).await?;
        }
        Ok(())
    }

    /// Counts a try to publish a message to a service that failed; answers how many did.
    pub async fn count_try(&self, id: &str, user: &BareJid, service: &PublishService) -> Result<u32, StoreError> {
        let counted = self
            .update(keys::claim(id, user), CLAIM)
            .update_expression("ADD #tries :one")
            .expression_attribute_names("#tries", keys::tries(service))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(StoreError::during("count a try"))?;
        let claim = counted.attributes.unwrap_or_default();
        let tries = [keys::tries(service), keys::long_tries(service)].map(|name| item::number_of(&claim, &name));
        Ok(tries.into_iter().flatten().sum::<u64>().try_into().unwrap_or(u32::MAX))
    }

    /// What is claimed of a message.
    pub async fn claimed(&self, id: &str, user: &BareJid) -> Result<Claimed, StoreError> {
        self.get("look up a claim", keys::claim(id, user), CLAIM).await.map(Claimed)
    }

    async fn update_claim(
        &self,
        action: &'static str,
        claimant: Claimant<'_>,
        services: &[&PublishService],
        value: &str,
        uid: &str,
    ) -> Result<Item, StoreError> {
        let Claimant { id, user, counted, .. } = claimant;
        // A plugin may publish several notifications to one service.
        let services: BTreeSet<String> = services.iter().map(|service| keys::service(service)).collect();
        let names: BTreeMap<String, String> =
            services.into_iter().enumerate().map(|(i, service)| (format!("#s{i}"), service)).collect();
        let mut sets: Vec<String> =
            names.keys().map(|name| format!("{name} = {}", value.replace("{}", name))).collect();
        sets.push("expires_at = :expires_at".into());
        let mut update = self.update(keys::claim(id, user), CLAIM);
        if let Some(counted) = counted {
            sets.push("unread = if_not_exists(unread, :unread)".into());
            update = update.expression_attribute_values(":unread", number(counted.into()));
        }
        if !names.is_empty() {
            update = update
                .set_expression_attribute_names(Some(names.into_iter().collect()))
                .expression_attribute_values(":uid", text(uid));
        }
        let updated = update
            .update_expression(format!("SET {}", sets.join(", ")))
            .expression_attribute_values(":expires_at", number(expiry(CLAIM_LIFETIME)))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(StoreError::during(action))?;
        Ok(updated.attributes.unwrap_or_default())
    }
}

/// The holder of a service that needs nothing more from the event `uid`.
fn done(uid: &str) -> String {
    format!("{uid} done")
}

/// What is claimed of a message for one recipient.
#[derive(Debug)]
pub struct Claimed(Item);

impl Claimed {
    /// Whether an event has published to `service`, or is about to.
    pub fn has(&self, service: &PublishService) -> bool {
        [keys::service(service), keys::long_service(service)].iter().any(|name| self.0.contains_key(name))
    }

    /// The number that the message had when it was counted, if it was.
    pub fn counted(&self) -> Option<u32> {
        item::number_of(&self.0, "unread")?.try_into().ok()
    }
}
