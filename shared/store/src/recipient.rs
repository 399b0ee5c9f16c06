//! The registrations and sessions of a recipient, in one query.

use std::collections::HashMap;

use pushlark_model::Registration;
use pushlark_xmpp::BareJid;

use crate::attributes::{PK, SK};
use crate::item::{self, Item, text};
use crate::registration::{self, RegistrationVersion};
use crate::session::{MAX_SESSIONS, Session};
use crate::transaction::Latest;
use crate::{Store, StoreError, keys};

/// The registrations and sessions of a recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The registrations that this version can read.
    pub registrations: Vec<Registration>,
    /// Whether any of the user's sessions is online; `None` if no presence was reported.
    pub online: Option<bool>,
    /// The other attributes of all registrations, by sort key, even of those that this version cannot read.
    pub(crate) versions: HashMap<String, RegistrationVersion>,
    /// The registration that was added last, if the table has the item.
    pub(crate) latest: Option<Latest>,
    pub(crate) sessions: Vec<Session>,
    /// Whether the user may have sessions that are not in `sessions`.
    pub(crate) is_cut_off: bool,
}

impl Store {
    /// Reads all registrations of a recipient, and at least [`MAX_SESSIONS`] sessions if there are so many, by
    /// consistent reads. This takes one query, unless a user has more registrations than `MAX_NODES` or more than 1 MB
    /// of them.
    pub async fn snapshot(&self, user: &BareJid) -> Result<Snapshot, StoreError> {
        let mut snapshot = Snapshot::default();
        let mut start = None;
        // Plus the item of the latest registration, and one beyond the limits: a page that is not full is the last.
        let page_size = self.limits.nodes + MAX_SESSIONS + 2;
        loop {
            let page = self
                .query()
                .key_condition_expression(format!("{PK} = :pk AND {SK} BETWEEN :first AND :last"))
                .expression_attribute_values(":pk", text(user))
                .expression_attribute_values(":first", text(keys::RECIPIENT_FIRST))
                .expression_attribute_values(":last", text(keys::RECIPIENT_LAST))
                .limit(page_size.try_into().unwrap_or(i32::MAX))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(StoreError::during("read a recipient"))?;
            for item in page.items.unwrap_or_default() {
                snapshot.add(&item);
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(snapshot);
            }
            // Registrations sort before sessions, so all of them are read.
            if snapshot.has_surplus_sessions() {
                snapshot.is_cut_off = true;
                return Ok(snapshot);
            }
        }
    }
}

impl Snapshot {
    fn add(&mut self, item: &Item) {
        let key = item::text_of(item, SK).unwrap_or_default();
        if key == keys::LATEST_REGISTRATION {
            self.latest = Latest::read(item);
        } else if key.starts_with(keys::REGISTRATION) {
            self.versions.insert(key.to_owned(), RegistrationVersion::read(item));
            match registration::read(item) {
                Some(registration) => self.registrations.push(registration),
                None => tracing::error!(key, "registration ignored: this version cannot read its item"),
            }
        } else if let Some(session) = Session::read(item) {
            if let Some(online) = session.is_online.filter(|_| !session.is_expired) {
                self.online = Some(online || self.online == Some(true));
            }
            self.sessions.push(session);
        }
    }
}
