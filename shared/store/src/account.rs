//! The users who have a device, so that a device can be taken from them (`DEVICE_ACCOUNTS=one`).
//!
//! Each enable request replaces the item of its device on condition that it is unchanged, so that of concurrent ones each
//! sees the registrations of those before. An entry may name a registration that does not exist any more.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, Put};
use pushlark_xmpp::BareJid;

use crate::attributes::{ACCOUNTS, CREATED_AT, DEVICE_DIGEST, OWNER_JID, PK, REGISTRATION, SK};
use crate::item::{self, Item, number, text};
use crate::replaced::{Replaced, ReplacedBy};
use crate::transaction::Part;
use crate::{Store, StoreError, keys, registration, unless_stale};

/// The most users from whom one request takes a device: the parts of a transaction are limited. There are several only
/// if their domains have credentials of their own.
const MAX_TAKEN: usize = 10;
/// The most users of one device that are listed: the ones who enabled it last. Users of domains without a credential for
/// each other keep the device, and everybody may invent such users, but an item is limited.
const MAX_ACCOUNTS: usize = 100;

/// The registration or push node with which a device is enabled.
#[derive(Debug, Clone, Copy)]
pub struct Enabled<'e> {
    /// The digest of the device ([`keys::device_digest`]).
    pub device: &'e str,
    /// The user.
    pub owner: &'e BareJid,
    /// The sort key in the partition of the user.
    pub key: &'e str,
    /// The version.
    pub created_at: u64,
}

/// The parts of a transaction that take a device from other users.
#[derive(Default)]
pub struct Taking {
    pub parts: Vec<Part>,
    /// The users and keys of the registrations and push nodes that these parts delete.
    pub taken: Vec<(BareJid, String, ReplacedBy)>,
    /// The last time at which one of these other users enabled the device, in microseconds since 1970.
    pub enabled_by_another_at: Option<u64>,
}

/// The registration or push node of one user in the item of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    key: String,
    created_at: u64,
}

impl Store {
    /// Returns the parts that give a device to one user, and take it from the users for whom `may_take` is true. A push
    /// node of the same user loses the device to a registration, and a registration to a push node. A push node of
    /// another user at the address of the new one stays: the address is not free.
    pub(crate) async fn take(
        &self,
        enabled: Enabled<'_>,
        may_take: impl Fn(&BareJid) -> bool,
    ) -> Result<Taking, StoreError> {
        let Enabled { device, owner, key, created_at } = enabled;
        let item = self.get("read the accounts of a device", keys::accounts(device), keys::ACCOUNTS_ITEM).await?;
        let version = item::number_of(&item, CREATED_AT);
        let (mut accounts, mut taking) = (read(&item), Taking::default());
        for (user, account) in accounts.clone() {
            let is_own = user == *owner;
            // Registrations of the same kind are compared with each other.
            let is_compared = is_own && keys::is_push_node(&account.key) == keys::is_push_node(key);
            // The servers of the other user would publish to a node that kept its name.
            let has_address = !is_own && keys::is_push_node(key) && account.key == key;
            if is_compared || has_address || taking.taken.len() == MAX_TAKEN || !is_own && !may_take(&user) {
                continue;
            }
            let by = if is_own { ReplacedBy::AnotherNode } else { ReplacedBy::AnotherUser };
            if let Some(parts) = self.taken_parts(device, &user, &account.key, by, created_at).await? {
                if !is_own {
                    taking.enabled_by_another_at = taking.enabled_by_another_at.max(Some(account.created_at));
                }
                taking.parts.extend(parts);
                taking.taken.push((user.clone(), account.key, by));
            }
            accounts.remove(&user);
        }
        let next_version = version.map_or(created_at, |version| created_at.max(version.saturating_add(1)));
        accounts.insert(owner.clone(), Account { key: key.to_owned(), created_at });
        forget_oldest(&mut accounts);
        let put = Put::builder()
            .table_name(&self.table)
            .item(PK, text(keys::accounts(device)))
            .item(SK, text(keys::ACCOUNTS_ITEM))
            .item(CREATED_AT, number(next_version))
            .item(ACCOUNTS, write(&accounts));
        let put = match version {
            None => put.condition_expression(format!("attribute_not_exists({PK})")),
            Some(version) => put
                .condition_expression(format!("{CREATED_AT} = :version"))
                .expression_attribute_values(":version", number(version)),
        };
        taking.parts.push(Part::Put(put.build()));
        Ok(taking)
    }

    /// Returns the parts that delete a registration or a push node, if it still has the device.
    async fn taken_parts(
        &self,
        device: &str,
        user: &BareJid,
        key: &str,
        by: ReplacedBy,
        at: u64,
    ) -> Result<Option<Vec<Part>>, StoreError> {
        const READ: &str = "read a registration of the same device";
        let is_node = keys::is_push_node(key);
        let (pk, sk) = if is_node { (key, keys::NODE_ITEM) } else { (user.as_str(), key) };
        let item = self.get(READ, pk, sk).await?;
        let has_device = item::read_form(&item)
            .is_some_and(|options| options.device().is_some_and(|other| keys::device_digest(&other) == device));
        let is_owner = !is_node || item::text_of(&item, OWNER_JID) == Some(user.as_str());
        let Some(version) = item::number_of(&item, CREATED_AT).filter(|_| has_device && is_owner) else {
            return Ok(None);
        };
        if is_node {
            return Ok(Some(self.delete_node_parts(user, key, version)));
        }
        let mut parts = vec![self.delete_in_transaction(user, key, version)];
        parts.extend(registration::read(&item).map(|taken| {
            let replaced = Replaced { jid: taken.jid, node: taken.node, by };
            self.put_replaced(user, device, &replaced, at)
        }));
        Ok(Some(parts))
    }

    /// Deletes the entry of a deleted registration or push node in the item of its device, if it has one.
    pub(crate) async fn release_deleted(&self, owner: &BareJid, item: &Item) -> Result<(), StoreError> {
        match (item::text_of(item, DEVICE_DIGEST), item::number_of(item, CREATED_AT)) {
            (Some(device), Some(created_at)) => self.release(device, owner, created_at).await,
            _ => Ok(()),
        }
    }

    /// Deletes the entry of a registration or push node of this version in the item of its device.
    pub(crate) async fn release(&self, device: &str, owner: &BareJid, created_at: u64) -> Result<(), StoreError> {
        const RELEASE: &str = "release a device";
        let is_same = format!("{ACCOUNTS}.#owner.{CREATED_AT} = :version");
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(PK, text(keys::accounts(device)))
            .key(SK, text(keys::ACCOUNTS_ITEM))
            .condition_expression(format!("{is_same} AND size({ACCOUNTS}) = :one"))
            .expression_attribute_names("#owner", owner.as_str())
            .expression_attribute_values(":version", number(created_at))
            .expression_attribute_values(":one", number(1))
            .send()
            .await;
        if unless_stale(RELEASE, deleted)? {
            return Ok(());
        }
        let removed = self
            .update(keys::accounts(device), keys::ACCOUNTS_ITEM)
            .update_expression(format!("REMOVE {ACCOUNTS}.#owner"))
            .condition_expression(is_same)
            .expression_attribute_names("#owner", owner.as_str())
            .expression_attribute_values(":version", number(created_at))
            .send()
            .await;
        unless_stale(RELEASE, removed).map(drop)
    }
}

/// Drops the users who enabled the device longest ago, beyond [`MAX_ACCOUNTS`]. They keep the device.
fn forget_oldest(accounts: &mut BTreeMap<BareJid, Account>) {
    while accounts.len() > MAX_ACCOUNTS {
        let oldest = accounts.iter().min_by_key(|(_, account)| account.created_at).map(|(user, _)| user.clone());
        let Some(oldest) = oldest else { return };
        accounts.remove(&oldest);
    }
}

fn write(accounts: &BTreeMap<BareJid, Account>) -> AttributeValue {
    let accounts = accounts.iter().map(|(user, Account { key, created_at })| {
        let account = HashMap::from([(REGISTRATION.into(), text(key)), (CREATED_AT.into(), number(*created_at))]);
        (user.to_string(), AttributeValue::M(account))
    });
    AttributeValue::M(accounts.collect())
}

fn read(item: &Item) -> BTreeMap<BareJid, Account> {
    let accounts = item.get(ACCOUNTS).and_then(|accounts| accounts.as_m().ok());
    let account = |(user, account): (&String, &AttributeValue)| {
        let account = account.as_m().ok()?;
        let key = item::text_of(account, REGISTRATION)?.to_owned();
        Some((BareJid::new(user).ok()?, Account { key, created_at: item::number_of(account, CREATED_AT)? }))
    };
    accounts.into_iter().flatten().filter_map(account).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn of_many_users_of_a_device_those_who_enabled_it_last_are_listed() {
        let user = |number: usize| BareJid::new(&format!("u{number}@{number}.example")).unwrap();
        let account = |number: usize| Account { key: "reg/push.example.com/n".into(), created_at: number as u64 };
        let mut accounts: BTreeMap<_, _> =
            (1..=MAX_ACCOUNTS + 2).map(|number| (user(number), account(number))).collect();
        forget_oldest(&mut accounts);
        assert_eq!(accounts.len(), MAX_ACCOUNTS);
        assert!(!accounts.contains_key(&user(1)) && !accounts.contains_key(&user(2)));
        let all = accounts.clone();
        forget_oldest(&mut accounts);
        assert_eq!(accounts, all);
    }
}
