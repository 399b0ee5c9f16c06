//! Registrations that move between the table and other servers.

use std::hash::{DefaultHasher, Hash, Hasher};

use pushlark_model::Registration;
use pushlark_xmpp::BareJid;

use crate::attributes::{PK, SK};
use crate::item::{self, Item, text};
use crate::limits::WhenReached;
use crate::registration::{Registered, Time, read};
use crate::{Snapshot, Store, StoreError, keys};

/// The result for a registration that was enabled at another server. A later enable request always wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transferred {
    /// It is stored.
    Stored,
    /// It is not stored: the table has the same.
    Unchanged,
    /// It is not stored: the user enabled the node again since.
    EnabledSince,
    /// It is not stored: the user enabled the device at another node since.
    DeviceEnabledSince,
    /// It is not stored: another user enabled the device since.
    DeviceTaken,
    /// It is not stored: the user has as many later registrations as [`Limits::nodes`](crate::Limits::nodes) allows.
    Full,
}

/// Hashes of the parts of a registration, so that those of many users fit into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistrationDigest {
    /// Of the PubSub service and the node.
    pub key: u64,
    /// Of the device, if the form names one.
    pub device: Option<u64>,
    /// Of the form, the preferences and the encryption.
    pub content: u64,
    /// The time of the enable request, in microseconds since 1970.
    pub created_at: u64,
}

/// One page of the registrations of all users.
#[derive(Debug, Default)]
pub struct RegistrationPage {
    /// The registrations with their users. Those of one user follow each other, also from page to page.
    pub registrations: Vec<(BareJid, Registration)>,
    /// The number of registrations that this version cannot read.
    pub unreadable: u64,
    /// The number of items that were read.
    pub scanned: u64,
    /// The position of the next page; `None` after the last one.
    pub next: Option<ScanPosition>,
}

/// A position in a scan of the table.
#[derive(Debug, Clone)]
pub struct ScanPosition(Item);

/// The size of the table, which DynamoDB counts about every six hours ("DescribeTable").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSize {
    /// The number of items.
    pub items: u64,
    /// The size of all items, in bytes.
    pub bytes: u64,
}

impl From<Registered> for Transferred {
    fn from(registered: Registered) -> Self {
        match registered {
            Registered::Stored => Self::Stored,
            Registered::Refused => Self::Full,
        }
    }
}

impl RegistrationDigest {
    /// Returns the digest of a registration. It is the same in each process of a build.
    pub fn of(registration: &Registration) -> Self {
        let Registration { options, preferences, encryption, .. } = registration;
        let extensions = serde_json::to_string(&(preferences, encryption)).unwrap_or_default();
        Self {
            key: hash(keys::registration_key(registration)),
            device: options.device().map(|device| hash(keys::device_digest(&device))),
            content: hash((options.fields(), extensions)),
            created_at: registration.created_at,
        }
    }

    /// Returns whether both name the same device.
    fn has_device_of(&self, other: &Self) -> bool {
        self.device.is_some() && self.device == other.device
    }
}

impl Store {
    /// Returns what [`transfer`](Self::transfer) would do, from the user's items alone. It writes nothing.
    pub async fn try_transfer(
        &self,
        user: &BareJid,
        registration: &Registration,
        together: &[RegistrationDigest],
    ) -> Result<Transferred, StoreError> {
        Ok(self.newer(&self.snapshot(user).await?, registration, together).unwrap_or(Transferred::Stored))
    }

    /// Stores a registration that the user enabled at another server at its `created_at`, as
    /// [`register`](Self::register) does, unless the table has the same or a later one. It keeps its `created_at`.
    ///
    /// `together` is all registrations of the user that are transferred together, the latest first, each node and each
    /// device once. With them, the result does not depend on the order of the calls.
    pub async fn transfer(
        &self,
        user: &BareJid,
        registration: &Registration,
        together: &[RegistrationDigest],
    ) -> Result<Transferred, StoreError> {
        let reason = |snapshot: &Snapshot, enabled_by_another_at: Option<u64>| match enabled_by_another_at {
            Some(at) => (at >= registration.created_at).then_some(Transferred::DeviceTaken),
            None => self.newer(snapshot, registration, together),
        };
        self.register_unless(&user.clone().into(), registration, Time::Kept, |_| true, reason).await
    }

    /// Returns why the items of a user make an earlier registration unnecessary.
    fn newer(
        &self,
        snapshot: &Snapshot,
        registration: &Registration,
        together: &[RegistrationDigest],
    ) -> Option<Transferred> {
        let at = registration.created_at;
        let key = keys::registration_key(registration);
        let replaced = snapshot.states.get(&key);
        if let Some(state) = replaced {
            let mut registrations = snapshot.registrations.iter();
            let present = registrations.find(|present| keys::registration_key(present) == key);
            let is_same = present.is_some_and(|present| {
                Registration { created_at: 0, ..present.clone() }
                    == Registration { created_at: 0, ..registration.clone() }
            });
            if is_same {
                return Some(Transferred::Unchanged);
            }
            if state.created_at >= at {
                return Some(Transferred::EnabledSince);
            }
        }
        let same_device = snapshot.of_same_device(registration);
        if same_device.values().any(|(_, state)| state.created_at >= at) {
            return Some(Transferred::DeviceEnabledSince);
        }
        // The registrations whose places this one cannot take.
        let when_reached = self.limits.when_reached;
        let stays = |created_at: u64| match when_reached {
            WhenReached::ReplaceOldest => created_at >= at,
            WhenReached::RefuseNewest => true,
        };
        if when_reached == WhenReached::RefuseNewest && replaced.is_some() {
            return None;
        }
        let others = snapshot.states.iter().filter(|(other, _)| **other != key && !same_device.contains_key(other));
        let present = others.filter(|(_, state)| stays(state.created_at)).count();
        let own = RegistrationDigest::of(registration).key;
        let position = together.iter().position(|other| other.key == own);
        let (later, earlier) = position.map_or((&[][..], &[][..]), |own| (&together[..own], &together[own + 1..]));
        let first = match when_reached {
            WhenReached::ReplaceOldest => later,
            WhenReached::RefuseNewest => earlier,
        };
        let to_come = self.to_come(snapshot, first, stays);
        (present + to_come >= self.limits.nodes).then_some(Transferred::Full)
    }

    /// Returns the number of registrations that will be stored beside those of the table that stay; at most the limit.
    fn to_come(&self, snapshot: &Snapshot, others: &[RegistrationDigest], stays: impl Fn(u64) -> bool) -> usize {
        if others.is_empty() {
            return 0;
        }
        let present: Vec<_> = snapshot.registrations.iter().map(RegistrationDigest::of).collect();
        let is_present = |other: &RegistrationDigest| {
            present.iter().any(|present| match present.key == other.key {
                true => present.content == other.content || stays(present.created_at),
                false => present.has_device_of(other) && stays(present.created_at),
            })
        };
        others.iter().filter(|other| !is_present(other)).take(self.limits.nodes).count()
    }

    /// Reads one page of the table, and returns the registrations in it. It costs half a read unit for each 4 KB of the
    /// page, whatever it has.
    pub async fn scan_registrations(&self, from: Option<ScanPosition>) -> Result<RegistrationPage, StoreError> {
        let scan = self.client.scan().table_name(&self.table).set_exclusive_start_key(from.map(|from| from.0));
        let scan = scan
            .filter_expression(format!("begins_with({SK}, :prefix)"))
            .expression_attribute_values(":prefix", text(keys::REGISTRATION_PREFIX));
        let found = scan.send().await.map_err(StoreError::during("list all registrations"))?;
        let mut page = RegistrationPage {
            scanned: u64::try_from(found.scanned_count).unwrap_or(0),
            next: found.last_evaluated_key.map(ScanPosition),
            ..RegistrationPage::default()
        };
        for item in found.items.unwrap_or_default() {
            let user = item::text_of(&item, PK).and_then(|user| BareJid::new(user).ok());
            match user.zip(read(&item)) {
                Some(registration) => page.registrations.push(registration),
                None => page.unreadable += 1,
            }
        }
        Ok(page)
    }

    /// Returns the size of the table.
    pub async fn table_size(&self) -> Result<TableSize, StoreError> {
        let described = self.client.describe_table().table_name(&self.table).send().await;
        let table = described.map_err(StoreError::during("be described"))?.table;
        let count = |count: Option<i64>| count.and_then(|count| count.try_into().ok()).unwrap_or(0);
        Ok(TableSize {
            items: count(table.as_ref().and_then(|table| table.item_count)),
            bytes: count(table.as_ref().and_then(|table| table.table_size_bytes)),
        })
    }
}

fn hash(part: impl Hash) -> u64 {
    // Its keys are fixed, other than those of a `HashMap`.
    let mut hasher = DefaultHasher::new();
    part.hash(&mut hasher);
    hasher.finish()
}
