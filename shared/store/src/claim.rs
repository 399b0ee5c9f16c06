//! Claims: the registrations to which a message was published, so that each gets it once.
//!
//! The recipients of a message are distributed over a few items by their [slot](pushlark_model::claim_slot), so that the
//! claims for many recipients need few writes. DynamoDB bills a write by the size of the whole item, and an item has at
//! most 400 KB, so a registration has few bytes there: 13, without those of the item itself. An item of 1 KB, one write
//! unit, has 70 registrations: a room of 1,000 members. An item of 400 KB has 30,000: about 480,000 registrations in a
//! room. Of a message to more, some have no claim, see [`Store::claim`].

use std::collections::BTreeMap;
use std::slice;
use std::time::Duration;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use pushlark_model::Registration;
use pushlark_xmpp::BareJid;

use crate::attributes::EXPIRES_AT;
use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, expiry, keys};

/// The lifetime of a claim: longer than the 14 days for which SQS keeps a message.
pub const CLAIM_LIFETIME: Duration = Duration::from_hours(16 * 24);

/// The most attributes that one write names: an update expression has at most 4 KB ("Service, account, and table quotas
/// in Amazon DynamoDB").
const MAX_ATTRIBUTES: usize = 100;

const CLAIMS: &str = "claims";
/// The end of the holder of a registration that needs nothing more.
const DONE: &str = "d";
/// The end of the holder of a registration whose call was ended.
const ENDED: &str = "e";

/// The item with the claims of a message for the recipients in one slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimItem(String);

/// One attempt to notify one recipient of a message.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'c> {
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

/// The part of a write to a [`ClaimItem`] that concerns one attempt.
#[derive(Debug)]
pub struct ClaimUpdate {
    holder: Holder,
    /// The marks of registrations, by the names of their attributes.
    marks: Vec<(String, Mark)>,
    /// The name of the attribute for the unread count, and the count.
    counted: Option<(String, u32)>,
}

/// An attempt, as the value of an attribute names it: the digest of its name, and its generation if it is not 0.
#[derive(Debug)]
struct Holder {
    digest: String,
    generation: u32,
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
    /// The call was ended: the registration does not ring any more, or not at all.
    Ended,
}

impl ClaimItem {
    /// Returns the item with the claims of a message for `user`. `id` is the same for all events of the message.
    pub fn new(id: &str, user: &BareJid) -> Self {
        Self(keys::claims(id, user))
    }
}

impl Claimant<'_> {
    /// Returns the update that claims `registrations` for this attempt, and records the unread count.
    pub fn claim(&self, registrations: &[&Registration]) -> ClaimUpdate {
        self.update(registrations.iter().map(|registration| (*registration, Mark::Claimed)))
    }

    /// Returns the update that records that `finished` need nothing more for the message and that the next attempt holds
    /// `put_back`, so that this attempt skips both if SQS delivers it again.
    pub fn finish(&self, finished: &[Registration], put_back: &[Registration]) -> ClaimUpdate {
        let finished = finished.iter().map(|registration| (registration, Mark::Done));
        self.update(finished.chain(put_back.iter().map(|registration| (registration, Mark::PutBack))))
    }

    /// Returns the update of a call's claim that ends the call at `registrations`.
    pub fn end(&self, registrations: &[Registration]) -> ClaimUpdate {
        self.update(registrations.iter().map(|registration| (registration, Mark::Ended)))
    }

    fn update<'r>(&self, marks: impl Iterator<Item = (&'r Registration, Mark)>) -> ClaimUpdate {
        ClaimUpdate {
            holder: Holder { digest: keys::claimant_digest(self.name), generation: self.generation },
            marks: marks.map(|(registration, mark)| (keys::claim_attribute(self.user, registration), mark)).collect(),
            counted: self.counted.map(|counted| (keys::counted_attribute(self.user), counted)),
        }
    }
}

impl Holder {
    /// Returns the value for a registration that the attempt of this generation holds.
    fn holding(&self, generation: u32) -> String {
        if generation == 0 { self.digest.clone() } else { format!("{}{generation}", self.digest) }
    }

    /// Returns the value for a registration that needs nothing more.
    fn done(&self) -> String {
        format!("{}{DONE}", self.digest)
    }

    /// Returns the value for a registration whose call this attempt ends.
    fn ended(&self) -> String {
        format!("{}{ENDED}", self.digest)
    }

    /// Returns whether a value, also of another attempt, is that of a registration whose call was ended. All digests have
    /// the same length.
    fn has_ended(&self, value: &str) -> bool {
        value.get(self.digest.len()..) == Some(ENDED)
    }

    /// Returns whether this attempt holds a registration with this value.
    fn is(&self, value: &str) -> bool {
        let generation = match value.strip_prefix(&self.digest) {
            Some("") => Some(0),
            Some(generation) => generation.parse().ok(),
            None => None,
        };
        generation.is_some_and(|generation: u32| generation <= self.generation)
    }
}

impl Mark {
    /// Returns the value that the attempt `holder` writes.
    fn value(self, holder: &Holder) -> AttributeValue {
        text(match self {
            Self::Claimed => holder.holding(holder.generation),
            Self::Done => holder.done(),
            Self::PutBack => holder.holding(holder.generation + 1),
            Self::Ended => holder.ended(),
        })
    }
}

impl Store {
    /// Claims the right to publish a message to the registrations of `claims`, with one write for up to a hundred.
    /// Returns for each update whether its attempt holds each of its registrations: it was claimed now, or by an earlier
    /// attempt that did not finish.
    ///
    /// If the item is full, the registrations that it does not have are held by all attempts: a repeat of the message
    /// may notify them again.
    pub async fn claim(&self, item: &ClaimItem, claims: &[ClaimUpdate]) -> Result<Vec<Vec<bool>>, StoreError> {
        let updated = self.update_claims("claim a message", item, claims, ReturnValue::AllNew).await?;
        let is_held = |holder: &Holder, name: &str| item::text_of(&updated, name).is_some_and(|value| holder.is(value));
        let held = claims.iter().map(|ClaimUpdate { holder, marks, .. }| {
            marks.iter().map(|(registration, _)| is_held(holder, registration)).collect()
        });
        Ok(held.collect())
    }

    /// Records the end of attempts.
    pub async fn finish(&self, item: &ClaimItem, ends: &[ClaimUpdate]) -> Result<(), StoreError> {
        self.update_claims("finish a claim", item, ends, ReturnValue::None).await?;
        Ok(())
    }

    /// Ends a call, whose claims are in `item`. Returns for each registration of `end` whether the call rang there: it
    /// was claimed, and had not ended before.
    pub async fn end_call(&self, item: &ClaimItem, end: &ClaimUpdate) -> Result<Vec<bool>, StoreError> {
        let before = self.update_claims("end a call", item, slice::from_ref(end), ReturnValue::UpdatedOld).await?;
        let rang = |name: &str| item::text_of(&before, name).is_some_and(|value| !end.holder.has_ended(value));
        Ok(end.marks.iter().map(|(registration, _)| rang(registration)).collect())
    }

    /// Reads the claims of a message for one recipient.
    pub async fn claimed(&self, id: &str, user: &BareJid) -> Result<Claimed, StoreError> {
        let item = self.get("look up a claim", keys::claims(id, user), CLAIMS).await?;
        Ok(Claimed { item, user: user.clone() })
    }

    /// Writes updates, and returns the attributes that `returned` names. AWS does not document whether `UPDATED_NEW` has
    /// the attributes that `if_not_exists` keeps.
    async fn update_claims(
        &self,
        action: &'static str,
        ClaimItem(pk): &ClaimItem,
        updates: &[ClaimUpdate],
        returned: ReturnValue,
    ) -> Result<Item, StoreError> {
        // By name, since a plugin may publish several notifications to one registration.
        let mut attributes = BTreeMap::new();
        for ClaimUpdate { holder, marks, counted } in updates {
            for (name, mark) in marks {
                attributes.insert(name, (matches!(mark, Mark::Claimed), mark.value(holder)));
            }
            attributes.extend(counted.iter().map(|(name, counted)| (name, (true, number((*counted).into())))));
        }
        let mut updated = Item::new();
        let attributes: Vec<_> = attributes.into_iter().collect();
        for attributes in attributes.chunks(MAX_ATTRIBUTES) {
            let mut sets = vec![format!("{EXPIRES_AT} = :expires_at")];
            let mut update = self
                .update(pk, CLAIMS)
                .expression_attribute_values(":expires_at", number(expiry(CLAIM_LIFETIME)))
                .return_values(returned.clone());
            for (index, (name, (keeps_other, value))) in attributes.iter().enumerate() {
                sets.push(match keeps_other {
                    true => format!("#{index} = if_not_exists(#{index}, :{index})"),
                    false => format!("#{index} = :{index}"),
                });
                update = update
                    .expression_attribute_names(format!("#{index}"), *name)
                    .expression_attribute_values(format!(":{index}"), value.clone());
            }
            match update.update_expression(format!("SET {}", sets.join(", "))).send().await {
                Ok(written) => updated.extend(written.attributes.unwrap_or_default()),
                Err(error) if is_full(&error) => {
                    tracing::warn!("the claims of a message are full: a repeat of it may notify again");
                    updated.extend(attributes.iter().map(|(name, (_, value))| ((*name).clone(), value.clone())));
                }
                Err(error) => return Err(StoreError::during(action)(error)),
            }
        }
        Ok(updated)
    }
}

/// Returns whether DynamoDB refuses a write because the item would be too large.
fn is_full(error: &impl ProvideErrorMetadata) -> bool {
    error.code() == Some("ValidationException") && error.message().is_some_and(|message| message.contains("Item size"))
}

/// The claims of a message for one recipient.
#[derive(Debug)]
pub struct Claimed {
    item: Item,
    user: BareJid,
}

impl Claimed {
    /// Returns whether the message was published to `registration`, or is about to be, whichever event claimed it.
    pub fn has(&self, registration: &Registration) -> bool {
        self.item.contains_key(&keys::claim_attribute(&self.user, registration))
    }

    /// Returns the unread count of the message, if it was counted.
    pub fn counted(&self) -> Option<u32> {
        item::number_of(&self.item, &keys::counted_attribute(&self.user))?.try_into().ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_try_holds_its_own_claims_and_those_of_earlier_tries() {
        let holder = |generation| Holder { digest: "aB3_x".into(), generation };
        for (value, generation, is_held) in [
            ("aB3_x", 0, true),
            ("aB3_x", 2, true),
            ("aB3_x2", 1, false),
            ("aB3_x2", 2, true),
            ("aB3_x2", 3, true),
            ("aB3_xd", 9, false),
            ("aB3_xe", 9, false),
            ("aB3_y", 9, false),
            ("other", 9, false),
            ("", 9, false),
        ] {
            assert_eq!(holder(generation).is(value), is_held, "{value:?} by {generation}");
        }
        for generation in [0, 1, 7] {
            assert!(holder(generation).is(&holder(0).holding(generation)));
        }
        assert!(!holder(9).is(&holder(0).done()));
        let ended = ["aB3_x", "aB3_x2", "aB3_xd", "aB3_xe", "aB3_e", "oth_ee"].map(|value| holder(0).has_ended(value));
        assert_eq!(ended, [false, false, false, true, false, true]);
    }
}
