//! Registrations: the PubSub nodes to which a user's notifications are published.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{Delete, Put, ReturnValue, Update};
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_model::Registration;
use pushlark_xmpp::{BareJid, Jid};

use crate::account::{Enabled, Taking};
use crate::attributes::{
    CREATED_AT, DEVICE_DIGEST, DOMAIN_SHARD, ENCRYPTION, EXPIRES_AT, FIRST_ENABLED_AT, FORM, JID, NODE, PK,
    PREFERENCES, REGISTRATION, SK, SUSPICIONS, TIED_AT, TIED_FROM, UNREACHABLE_SINCE,
};
use crate::item::{self, Item, number, text};
use crate::limits::WhenReached;
use crate::replaced::{Replaced, ReplacedBy};
use crate::transaction::{Latest, Part, Retries, TransactionOutcome};
use crate::{MAX_CONCURRENT_WRITES, Snapshot, Store, StoreError, expiry, keys, seconds_now, unless_stale};

const STORE_REGISTRATION: &str = "store a registration";
/// The most registrations that one transaction deletes. It has at most 100 parts.
const MAX_DELETIONS: usize = 50;

/// The result of storing a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The registration is stored.
    Stored,
    /// The registration is not stored: the user has [`Limits::nodes`](crate::Limits::nodes) other registrations.
    Refused,
}

/// The time of a registration that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// Later than all times of the user.
    Ordered,
    /// Its own, although the user may have newer registrations.
    Kept,
}

/// The state of a registration: the attributes of its item that are not part of [`Registration`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationState {
    /// The time of the last enable request, in microseconds since 1970.
    pub created_at: u64,
    /// The time of the first enable request, in microseconds since 1970. Another enable request keeps it until the
    /// registration is disabled. For a transferred registration, it is not before the last tie to its key. A session
    /// that was tied earlier was tied to a deleted registration of the same key.
    pub first_enabled_at: u64,
    /// The number of consecutive answers that report the device as suspect.
    pub suspicions: u32,
    /// The time since which the push service is unreachable, in seconds since 1970.
    pub unreachable_since: Option<u64>,
    /// The digest of the device, if the item of the device lists the user.
    pub listed_device: Option<String>,
}

impl RegistrationState {
    /// Reads the attributes. Earlier versions of this crate wrote `first_enabled_at` as `tied_from`, or not at all.
    pub(crate) fn read(item: &Item) -> Self {
        let number = |name| item::number_of(item, name).unwrap_or(0);
        Self {
            created_at: number(CREATED_AT),
            first_enabled_at: item::number_of(item, FIRST_ENABLED_AT).unwrap_or_else(|| number(TIED_FROM)),
            suspicions: number(SUSPICIONS).try_into().unwrap_or(u32::MAX),
            unreachable_since: item::number_of(item, UNREACHABLE_SINCE),
            listed_device: item::text_of(item, DEVICE_DIGEST).map(Into::into),
        }
    }
}

impl Store {
    /// Stores a registration. It replaces one of the same user, PubSub service and node, and those of the same user and
    /// device. With `DEVICE_ACCOUNTS=one`, it also replaces those of the same device of other users for whom `may_take`
    /// is true. If `user` has a resource, that session is tied to the registration. A user never has more than
    /// [`Limits::nodes`](crate::Limits::nodes): the ones that were enabled longest ago are deleted in the same
    /// transaction, or the new one is refused.
    ///
    /// `created_at` is replaced by a later time if the user has newer registrations, so that the order of `created_at`
    /// is the order of the transactions of enable requests.
    pub async fn register(
        &self,
        user: &Jid,
        registration: &Registration,
        may_take: impl Fn(&BareJid) -> bool,
    ) -> Result<Registered, StoreError> {
        self.register_unless(user, registration, Time::Ordered, may_take, |_, _| None).await
    }

    /// Does the same with this `time`, unless `reason` finds a reason to store nothing: in the user's present items, and
    /// in the time at which another user enabled the device last (with `DEVICE_ACCOUNTS=one`). No request between this
    /// decision and the write is lost.
    pub(crate) async fn register_unless<R: From<Registered>>(
        &self,
        user: &Jid,
        registration: &Registration,
        time: Time,
        may_take: impl Fn(&BareJid) -> bool,
        reason: impl Fn(&Snapshot, Option<u64>) -> Option<R>,
    ) -> Result<R, StoreError> {
        let owner = user.to_bare();
        let digest = registration.options.device().map(|device| keys::device_digest(&device));
        let listed = digest.as_deref().filter(|_| self.one_account);
        let mut retries = Retries::new();
        loop {
            let snapshot = self.snapshot(&owner).await?;
            if let Some(reason) = reason(&snapshot, None) {
                return Ok(reason);
            }
            let key = keys::registration_key(registration);
            let replaced = snapshot.states.get(&key);
            let same_device = snapshot.of_same_device(registration);
            let is_other = |other: &String| *other != key && !same_device.contains_key(other);
            let mut others: Vec<_> = snapshot.states.iter().filter(|(other, _)| is_other(other)).collect();
            let excess = (others.len() + 1).saturating_sub(self.limits.nodes);
            let oldest = match self.limits.when_reached {
                WhenReached::RefuseNewest if excess > 0 && replaced.is_none() => return Ok(Registered::Refused.into()),
                WhenReached::RefuseNewest => &[],
                WhenReached::ReplaceOldest => {
                    others.sort_unstable_by_key(|(key, state)| (state.created_at, *key));
                    &others[..excess]
                }
            };
            let ordered_at = registration.created_at.max(snapshot.newest().saturating_add(1));
            let created_at = match time {
                Time::Ordered => ordered_at,
                Time::Kept => registration.created_at,
            };
            let registration = &Registration { created_at, ..registration.clone() };
            // A session that enabled a deleted registration of this key is not tied to this one.
            let first_enabled_at = match replaced {
                Some(state) => state.first_enabled_at,
                None => created_at.max(snapshot.last_tie(&key).map_or(0, |at| at.saturating_add(1))),
            };
            let mut parts = vec![self.put_registration(&owner, registration, first_enabled_at, replaced, listed)];
            // Of two requests that enable one device at two nodes at once, the second must see the first.
            if replaced.is_none() || !snapshot.has_device(registration) {
                let latest = Latest { key: key.clone(), added_at: ordered_at };
                let is_known = |key: &str| snapshot.states.contains_key(key);
                let seen = snapshot.latest.as_ref();
                parts.extend(self.advance(&owner, keys::LATEST_REGISTRATION, seen, is_known, &latest));
            }
            parts.extend(self.tie(user, registration));
            let Taking { parts: taking, taken, enabled_by_another_at } = match listed {
                Some(device) => self.take(Enabled { device, owner: &owner, key: &key, created_at }, &may_take).await?,
                None => Taking::default(),
            };
            if let Some(reason) = enabled_by_another_at.and_then(|at| reason(&snapshot, Some(at))) {
                return Ok(reason);
            }
            parts.extend(taking);
            let note = |device| self.note_replaced(&owner, device, registration, &snapshot);
            parts.extend(digest.as_deref().and_then(note));
            let same = same_device.iter().map(|(key, (_, state))| (*key, *state));
            let deleted: Vec<_> = oldest.iter().copied().chain(same).collect();
            // There is a surplus only after MAX_NODES was lowered, or of registrations of earlier versions.
            let (surplus, last) = deleted.split_at(deleted.len().saturating_sub(MAX_DELETIONS));
            let deletions: Vec<_> =
                surplus.iter().map(|(key, state)| self.delete(&owner, key, Some(state.created_at))).collect();
            stream::iter(deletions).buffer_unordered(MAX_CONCURRENT_WRITES).try_collect::<Vec<_>>().await?;
            parts.extend(last.iter().map(|(key, state)| self.delete_in_transaction(&owner, key, state.created_at)));
            match self.transact(STORE_REGISTRATION, parts).await? {
                TransactionOutcome::Written => {
                    for (key, _) in oldest {
                        tracing::info!(
                            user = %owner,
                            jid = keys::pubsub_jid(key),
                            "disabled: replaced by a newer registration"
                        );
                    }
                    for key in same_device.keys() {
                        ReplacedBy::AnotherNode.log(&owner, key);
                    }
                    for (user, key, by) in &taken {
                        by.log(user, key);
                    }
                    for state in last.iter().map(|(_, state)| *state).chain(replaced) {
                        if let Some(device) = state.listed_device.as_deref().filter(|device| listed != Some(device)) {
                            self.release(device, &owner, state.created_at).await?;
                        }
                    }
                    return Ok(Registered::Stored.into());
                }
                TransactionOutcome::Conflict(_) => retries.wait(STORE_REGISTRATION).await?,
            }
        }
    }

    /// Returns the part that records the replaced registration of the same device, or that deletes a record that the
    /// request contradicts.
    fn note_replaced(
        &self,
        owner: &BareJid,
        device: &str,
        registration: &Registration,
        snapshot: &Snapshot,
    ) -> Option<Part> {
        if let Some((Registration { jid, node, .. }, _)) = snapshot.of_same_device(registration).into_values().next() {
            let replaced = Replaced { jid: jid.clone(), node: node.clone(), by: ReplacedBy::AnotherNode };
            return Some(self.put_replaced(owner, device, &replaced, registration.created_at));
        }
        let noted = snapshot.replaced.get(&keys::replaced(device))?;
        let is_back = noted.jid == registration.jid && noted.node == registration.node;
        (is_back || noted.by == ReplacedBy::AnotherUser).then(|| self.delete_replaced(owner, device))
    }

    /// Deletes a user's registrations at a PubSub service: the one of `node`, or all of them. Returns their number.
    pub async fn unregister(&self, user: &BareJid, jid: &BareJid, node: Option<&str>) -> Result<usize, StoreError> {
        if let Some(node) = node {
            return self.delete(user, &keys::registration(jid, node), None).await.map(usize::from);
        }
        let mut removed = 0;
        let mut pages = self
            .query()
            .key_condition_expression(format!("{PK} = :pk AND begins_with({SK}, :prefix)"))
            .expression_attribute_values(":pk", text(user))
            .expression_attribute_values(":prefix", text(keys::registration(jid, "")))
            .projection_expression(SK)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let items = page.map_err(StoreError::during("list registrations"))?.items.unwrap_or_default();
            let found = items.iter().filter_map(|item| item::text_of(item, SK));
            let deletions: Vec<_> = found.map(|key| self.delete(user, key, None)).collect();
            let deleted: Vec<_> = stream::iter(deletions).buffer_unordered(MAX_CONCURRENT_WRITES).try_collect().await?;
            removed += deleted.into_iter().filter(|deleted| *deleted).count();
        }
        Ok(removed)
    }

    /// Deletes one registration, unless it was enabled again after it was read. Returns whether it was deleted.
    pub async fn unregister_version(&self, user: &BareJid, registration: &Registration) -> Result<bool, StoreError> {
        self.delete(user, &keys::registration_key(registration), Some(registration.created_at)).await
    }

    /// Returns the part that puts a registration, on condition that the one of the same key is still `replaced`.
    fn put_registration(
        &self,
        owner: &BareJid,
        registration: &Registration,
        first_enabled_at: u64,
        replaced: Option<&RegistrationState>,
        listed_device: Option<&str>,
    ) -> Part {
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(write(owner, registration)))
            .item(FIRST_ENABLED_AT, number(first_enabled_at));
        let put = match listed_device {
            Some(device) => put.item(DEVICE_DIGEST, text(device)),
            None => put,
        };
        Part::Put(match replaced {
            None => put.condition_expression(format!("attribute_not_exists({PK})")).build(),
            Some(state) => put
                .condition_expression(format!("{CREATED_AT} = :replaced"))
                .expression_attribute_values(":replaced", number(state.created_at))
                .build(),
        })
    }

    /// Returns the part that ties a session to a registration, if `user` has a resource.
    fn tie(&self, user: &Jid, registration: &Registration) -> Option<Part> {
        let session = Some(user).filter(|user| user.is_full())?;
        let update = Update::builder()
            .table_name(&self.table)
            .key(PK, text(user.to_bare()))
            .key(SK, text(keys::session(session)))
            .update_expression(format!(
                "SET {REGISTRATION} = :registration, {TIED_AT} = :tied_at, {EXPIRES_AT} = :expires_at"
            ))
            .expression_attribute_values(":registration", text(keys::registration_key(registration)))
            .expression_attribute_values(":tied_at", number(registration.created_at))
            .expression_attribute_values(":expires_at", number(expiry(self.session_lifetime)));
        Some(Part::Update(update.build()))
    }

    pub(crate) fn delete_in_transaction(&self, owner: &BareJid, key: &str, version: u64) -> Part {
        let delete = Delete::builder()
            .table_name(&self.table)
            .key(PK, text(owner))
            .key(SK, text(key))
            .condition_expression(format!("{CREATED_AT} = :version"))
            .expression_attribute_values(":version", number(version));
        Part::Delete(delete.build())
    }

    /// Deletes a registration by its key: only this version, or any if `None`. Returns whether it was deleted.
    async fn delete(&self, user: &BareJid, key: &str, version: Option<u64>) -> Result<bool, StoreError> {
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(PK, text(user))
            .key(SK, text(key))
            .condition_expression(if version.is_some() {
                format!("{CREATED_AT} = :version")
            } else {
                format!("attribute_exists({PK})")
            })
            .set_expression_attribute_values(version.map(|v| HashMap::from([(":version".into(), number(v))])))
            .return_values(ReturnValue::AllOld)
            .send()
            .await;
        let item = deleted.as_ref().ok().and_then(|deleted| deleted.attributes.clone()).unwrap_or_default();
        let is_deleted = unless_stale("delete a registration", deleted)?;
        self.release_deleted(user, &item).await?;
        Ok(is_deleted)
    }

    /// Counts one answer that reports the registration's device as suspect. Returns the number of such answers in a
    /// row; 0 if the registration was enabled again or deleted after it was read.
    pub async fn suspect(&self, user: &BareJid, registration: &Registration) -> Result<u32, StoreError> {
        let counted = self
            .update(user, &keys::registration_key(registration))
            .update_expression(format!("ADD {SUSPICIONS} :one"))
            .condition_expression(format!("{CREATED_AT} = :version"))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":version", number(registration.created_at))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await;
        let suspicions = counted.as_ref().ok().and_then(|counted| counted.attributes());
        let suspicions = suspicions.and_then(|item| item::number_of(item, SUSPICIONS)?.try_into().ok());
        unless_stale("count a suspect answer for a registration", counted)?;
        Ok(suspicions.unwrap_or(0))
    }

    /// Records that the registration's push service is unreachable. Returns the time since the first such record, in
    /// seconds; 0 if the registration was enabled again or deleted after it was read.
    pub async fn note_unreachable(&self, user: &BareJid, registration: &Registration) -> Result<u64, StoreError> {
        let now = seconds_now();
        let noted = self
            .update(user, &keys::registration_key(registration))
            .update_expression(format!("SET {UNREACHABLE_SINCE} = if_not_exists({UNREACHABLE_SINCE}, :now)"))
            .condition_expression(format!("{CREATED_AT} = :version"))
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":version", number(registration.created_at))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await;
        let since = noted.as_ref().ok().and_then(|noted| item::number_of(noted.attributes()?, UNREACHABLE_SINCE));
        unless_stale("record an unreachable push service", noted)?;
        Ok(since.map_or(0, |since| now.saturating_sub(since)))
    }

    /// Deletes the record of [`note_unreachable`](Self::note_unreachable).
    pub async fn clear_unreachable(&self, user: &BareJid, registration: &Registration) -> Result<(), StoreError> {
        self.clear(user, registration, format!("REMOVE {UNREACHABLE_SINCE}")).await
    }

    /// Resets the count of [`suspect`](Self::suspect) and the record of [`note_unreachable`](Self::note_unreachable).
    pub async fn clear_suspicions(&self, user: &BareJid, registration: &Registration) -> Result<(), StoreError> {
        self.clear(user, registration, format!("REMOVE {SUSPICIONS}, {UNREACHABLE_SINCE}")).await
    }

    async fn clear(&self, user: &BareJid, registration: &Registration, update: String) -> Result<(), StoreError> {
        let cleared = self
            .update(user, &keys::registration_key(registration))
            .update_expression(update)
            .condition_expression(format!("{CREATED_AT} = :version"))
            .expression_attribute_values(":version", number(registration.created_at))
            .send()
            .await;
        unless_stale("reset the state of a registration", cleared).map(drop)
    }
}

fn write(owner: &BareJid, registration: &Registration) -> Item {
    let mut item = HashMap::from([
        (PK.into(), text(owner)),
        (SK.into(), text(keys::registration_key(registration))),
        (JID.into(), text(&registration.jid)),
        (NODE.into(), text(&registration.node)),
        (FORM.into(), item::form(&registration.options)),
        (CREATED_AT.into(), number(registration.created_at)),
        (DOMAIN_SHARD.into(), text(keys::domain_shard(owner))),
    ]);
    item.extend(registration.preferences.as_ref().map(|preferences| (PREFERENCES.into(), item::json(preferences))));
    item.extend(registration.encryption.as_ref().map(|encryption| (ENCRYPTION.into(), item::json(encryption))));
    item
}

pub fn read(item: &Item) -> Option<Registration> {
    Some(Registration {
        jid: BareJid::new(item::text_of(item, JID)?).ok()?,
        node: item::text_of(item, NODE)?.into(),
        options: item::read_form(item)?,
        preferences: item::read_json(item, PREFERENCES)?,
        encryption: item::read_json(item, ENCRYPTION)?,
        created_at: item::number_of(item, CREATED_AT)?,
    })
}
