//! Claims: the registrations to which a message was published, so that each gets it once.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;
use pushlark_model::Registration;
use pushlark_xmpp::BareJid;

use crate::attributes::{EXPIRES_AT, UNREAD};
use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, expiry, keys};

/// The lifetime of a claim: longer than the 14 days for which SQS keeps a message.
pub(crate) const CLAIM_LIFETIME: Duration = Duration::from_hours(16 * 24);

/// The most registrations that one write names: an update expression has at most 4 KB ("Service, account, and table
/// quotas in Amazon DynamoDB").
const MAX_REGISTRATIONS: usize = 100;

const CLAIM: &str = "claim";
/// The suffix of the holder of a registration that needs nothing more.
const DONE: &str = "done";

/// One attempt to notify one recipient of a message.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'c> {
    /// The id of the XMPP message, the same for all its events.
    pub id: &'c str,
    /// The bare JID of the recipient.
    pub user: &'c BareJid,
    /// The name of the first attempt. Two queue messages with the same record have different names.
    pub name: &'c str,
    /// The number of times that the recipient was put back into the queue before this attempt. A later attempt holds
    /// the claims of the earlier ones. An earlier attempt that SQS delivers again does not hold claims that were put
    /// back.
    pub generation: u32,
    /// The result of [`Store::count`] for the message; `None` if it was not counted.
    pub counted: Option<u32>,
}

/// The state of a registration in a claim.
#[derive(Debug, Clone, Copy)]
enum Mark {
    /// The claimant holds the registration, unless it has a holder.
    Claimed,
    /// The registration needs nothing more.
    Done,
    /// The claimant's next attempt holds the registration.
    PutBack,
}

impl Claimant<'_> {
    /// Returns the holder of a registration from the attempt of this generation on.
    pub(crate) fn holder(&self, generation: u32) -> String {
        if generation == 0 { self.name.to_owned() } else { format!("{} {generation}", self.name) }
    }

    /// Returns the holder of a registration that needs nothing more.
    fn done(&self) -> String {
        format!("{} {DONE}", self.name)
    }

    /// Returns whether this attempt holds a registration with this holder.
    fn is_held_by(&self, holder: &str) -> bool {
        let generation = match holder.strip_prefix(self.name) {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix(' ').and_then(|generation| generation.parse().ok()),
            None => None,
        };
        generation.is_some_and(|generation: u32| generation <= self.generation)
    }
}

impl Store {
    /// Claims the right to publish a message to `registrations`, with one write per hundred. Returns for each whether
    /// this attempt holds it: it was claimed now, or by an earlier attempt that did not finish.
    pub async fn claim(
        &self,
        claimant: Claimant<'_>,
        registrations: &[&Registration],
    ) -> Result<Vec<bool>, StoreError> {
        let mut held = Vec::with_capacity(registrations.len());
        for registrations in registrations.chunks(MAX_REGISTRATIONS) {
            let marks = registrations.iter().map(|registration| (*registration, Mark::Claimed));
            let claim = self.update_claim("claim a message", claimant, marks).await?;
            held.extend(registrations.iter().map(|registration| {
                let holder = item::text_of(&claim, &keys::claim_attribute(registration));
                // An earlier version claimed under the long name. The end of that claim is under the short name.
                match item::text_of(&claim, &keys::earlier_claim_attribute(registration)) {
                    Some(earlier) => claimant.is_held_by(earlier) && holder != Some(&claimant.done()),
                    None => holder.is_some_and(|holder| claimant.is_held_by(holder)),
                }
            }));
        }
        Ok(held)
    }

    /// Records that `finished` need nothing more for the message and that the next attempt holds `put_back`, so that
    /// this attempt skips both if SQS delivers it again. Records the unread count of the message, even without any
    /// registration.
    pub async fn finish(
        &self,
        claimant: Claimant<'_>,
        finished: &[&Registration],
        put_back: &[&Registration],
    ) -> Result<(), StoreError> {
        let finished = finished.iter().map(|registration| (*registration, Mark::Done));
        let marks: Vec<_> =
            finished.chain(put_back.iter().map(|registration| (*registration, Mark::PutBack))).collect();
        let (first, others) = marks.split_at(marks.len().min(MAX_REGISTRATIONS));
        for marks in [first].into_iter().chain(others.chunks(MAX_REGISTRATIONS)) {
            self.update_claim("finish a claim", claimant, marks.iter().copied()).await?;
        }
        Ok(())
    }

    /// Reads the claims of a message for one recipient.
    pub async fn claimed(&self, id: &str, user: &BareJid) -> Result<Claimed, StoreError> {
        self.get("look up a claim", keys::claim(id, user), CLAIM).await.map(Claimed)
    }

    async fn update_claim(
        &self,
        action: &'static str,
        claimant: Claimant<'_>,
        marks: impl Iterator<Item = (&Registration, Mark)>,
    ) -> Result<Item, StoreError> {
        let Claimant { id, user, counted, generation, .. } = claimant;
        // A plugin may publish several notifications to one registration.
        let marks: BTreeMap<String, Mark> =
            marks.map(|(registration, mark)| (keys::claim_attribute(registration), mark)).collect();
        let mut sets = vec![format!("{EXPIRES_AT} = :expires_at")];
        let mut update = self.update(keys::claim(id, user), CLAIM);
        if let Some(counted) = counted {
            sets.push(format!("{UNREAD} = if_not_exists({UNREAD}, :unread)"));
            update = update.expression_attribute_values(":unread", number(counted.into()));
        }
        for (index, (registration, mark)) in marks.into_iter().enumerate() {
            let name = format!("#s{index}");
            let (set, value, holder) = match mark {
                Mark::Claimed => {
                    (format!("{name} = if_not_exists({name}, :held)"), ":held", claimant.holder(generation))
                }
                Mark::Done => (format!("{name} = :done"), ":done", claimant.done()),
                Mark::PutBack => (format!("{name} = :next"), ":next", claimant.holder(generation + 1)),
            };
            sets.push(set);
            update =
                update.expression_attribute_names(name, registration).expression_attribute_values(value, text(holder));
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

/// The claims of a message for one recipient.
#[derive(Debug)]
pub struct Claimed(Item);

impl Claimed {
    /// Returns whether the message was published to `registration`, or is about to be, whichever event claimed it.
    pub fn has(&self, registration: &Registration) -> bool {
        [keys::claim_attribute(registration), keys::earlier_claim_attribute(registration)]
            .iter()
            .any(|name| self.0.contains_key(name))
    }

    /// Returns the unread count of the message, if it was counted.
    pub fn counted(&self) -> Option<u32> {
        item::number_of(&self.0, UNREAD)?.try_into().ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_try_holds_its_own_claims_and_those_of_earlier_tries() {
        let user = BareJid::new("bob@example.com").unwrap();
        let claimant = |generation| Claimant { id: "m", user: &user, name: "q.1", generation, counted: None };
        for (holder, generation, is_held) in [
            ("q.1", 0, true),
            ("q.1", 2, true),
            ("q.1 2", 1, false),
            ("q.1 2", 2, true),
            ("q.1 2", 3, true),
            ("q.1 done", 9, false),
            ("q.10", 0, false),
            ("q.10 1", 9, false),
            ("other", 9, false),
            ("", 9, false),
        ] {
            assert_eq!(claimant(generation).is_held_by(holder), is_held, "{holder:?} by {generation}");
        }
        for generation in [0, 1, 7] {
            assert!(claimant(generation).is_held_by(&claimant(0).holder(generation)));
        }
        assert!(!claimant(9).is_held_by(&claimant(0).done()));
    }
}
