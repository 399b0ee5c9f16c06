//! Registrations that move between the table and other servers.

use pushlark_model::Registration;
use pushlark_xmpp::BareJid;

use crate::attributes::{PK, SK};
use crate::item::{self, Item, text};
use crate::limits::WhenReached;
use crate::registration::{Registered, read};
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

impl Store {
    /// Returns what [`transfer`](Self::transfer) would do, from the user's items alone. It writes nothing.
    pub async fn try_transfer(&self, user: &BareJid, registration: &Registration) -> Result<Transferred, StoreError> {
        Ok(self.newer(&self.snapshot(user).await?, registration).unwrap_or(Transferred::Stored))
    }

    /// Stores a registration that the user enabled at another server at its `created_at`, as
    /// [`register`](Self::register) does, unless the table has the same or a later one.
    pub async fn transfer(&self, user: &BareJid, registration: &Registration) -> Result<Transferred, StoreError> {
        let reason = |snapshot: &Snapshot, enabled_by_another_at: Option<u64>| match enabled_by_another_at {
            Some(at) => (at > registration.created_at).then_some(Transferred::DeviceTaken),
            None => self.newer(snapshot, registration),
        };
        self.register_unless(&user.clone().into(), registration, |_| true, reason).await
    }

    /// Returns why the items of a user make an earlier registration unnecessary.
    fn newer(&self, snapshot: &Snapshot, registration: &Registration) -> Option<Transferred> {
        let at = registration.created_at;
        let key = keys::registration_key(registration);
        if let Some(state) = snapshot.states.get(&key) {
            let mut registrations = snapshot.registrations.iter();
            let present = registrations.find(|present| keys::registration_key(present) == key);
            let is_same = present.is_some_and(|present| {
                Registration { created_at: 0, ..present.clone() }
                    == Registration { created_at: 0, ..registration.clone() }
            });
            return match is_same {
                true => Some(Transferred::Unchanged),
                false => (state.created_at >= at).then_some(Transferred::EnabledSince),
            };
        }
        let same_device = snapshot.of_same_device(registration);
        if same_device.values().any(|(_, state)| state.created_at >= at) {
            return Some(Transferred::DeviceEnabledSince);
        }
        let others = snapshot.states.iter().filter(|(other, _)| !same_device.contains_key(other));
        let is_full = match self.limits.when_reached {
            WhenReached::ReplaceOldest => others.filter(|(_, state)| state.created_at >= at).count(),
            WhenReached::RefuseNewest => others.count(),
        } >= self.limits.nodes;
        is_full.then_some(Transferred::Full)
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
