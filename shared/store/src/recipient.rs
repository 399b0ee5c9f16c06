//! The registrations and sessions of a recipient, in one query.

use std::collections::{BTreeMap, HashMap};

use pushlark_model::time::to_micros;
use pushlark_model::{Activity, Attention, Availability, ClientState, Registration};
use pushlark_xmpp::{BareJid, FullJid};
use time::OffsetDateTime;

use crate::alerts::SentAlerts;
use crate::attributes::{PK, SK};
use crate::counted::Counters;
use crate::item::{self, Item, text};
use crate::registration::{self, RegistrationState};
use crate::replaced::Replaced;
use crate::session::{MAX_SESSIONS, Session};
use crate::transaction::Latest;
use crate::{Store, StoreError, keys};

/// The registrations and sessions of a recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The registrations that this version can read.
    pub registrations: Vec<Registration>,
    /// The registrations whose device was enabled once more in the last 30 days, by sort key.
    pub(crate) replaced: BTreeMap<String, Replaced>,
    /// The last alerts that made a sound.
    pub(crate) sent_alerts: SentAlerts,
    /// Whether any of the user's sessions is online; `None` if no presence was reported.
    pub online: Option<bool>,
    /// `Inactive` if the clients of all online sessions are inactive (XEP-0352); `None` if no session is online.
    pub client_state: Option<ClientState>,
    /// The other attributes of all registrations, by sort key, even of those that this version cannot read.
    pub(crate) states: HashMap<String, RegistrationState>,
    /// The registration that was added last, if the table has the item.
    pub(crate) latest: Option<Latest>,
    pub(crate) sessions: Vec<Session>,
    /// Whether the user may have sessions that are not in `sessions`.
    pub(crate) is_cut_off: bool,
}

/// The attention of a user in the sessions that the table has, from the view of one of the user's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionAttention {
    /// The attention in the device's own session: the one that enabled its registration last.
    pub own: Attention,
    /// The highest attention in the other sessions.
    pub others: Attention,
}

impl Store {
    /// Reads all registrations of a recipient, and at least [`MAX_SESSIONS`] sessions if there are so many, by
    /// consistent reads. This takes one query, unless a user has more registrations than `MAX_NODES`, or more than
    /// 1 MB of them.
    pub async fn snapshot(&self, user: &BareJid) -> Result<Snapshot, StoreError> {
        let mut snapshot = Snapshot::default();
        self.read_recipient(user, &mut snapshot, None).await?;
        Ok(snapshot)
    }

    /// Reads the same, and the unread counters of all conversations. This takes the same query, unless the user has more
    /// than [`MAX_SESSIONS`] sessions, or more than 1 MB of all these.
    pub async fn snapshot_with_counters(
        &self,
        user: &BareJid,
        conversation: &BareJid,
    ) -> Result<(Snapshot, Counters), StoreError> {
        let (mut snapshot, mut counters) = (Snapshot::default(), Counters::new(conversation));
        if self.read_recipient(user, &mut snapshot, Some(&mut counters)).await? {
            return Ok((snapshot, counters));
        }
        Ok((snapshot, self.counters(user, conversation).await?))
    }

    /// Adds the items of a recipient to `snapshot`, and to `counters` if they are read. Returns whether these are all.
    async fn read_recipient(
        &self,
        user: &BareJid,
        snapshot: &mut Snapshot,
        mut counters: Option<&mut Counters>,
    ) -> Result<bool, StoreError> {
        let is_recipients = |key: &str| key <= keys::RECIPIENT_LAST;
        // Plus the items of the latest registration and of the last alerts, and one beyond the limits: a page that is not
        // full is the last.
        let page_size = self.limits.nodes + keys::MAX_REPLACED + MAX_SESSIONS + 3;
        let (last, limit) = match counters {
            Some(_) => (keys::UNREAD_LAST, None),
            None => (keys::RECIPIENT_LAST, Some(page_size.try_into().unwrap_or(i32::MAX))),
        };
        let mut start = None;
        loop {
            let page = self
                .query()
                .key_condition_expression(format!("{PK} = :pk AND {SK} BETWEEN :first AND :last"))
                .expression_attribute_values(":pk", text(user))
                .expression_attribute_values(":first", text(keys::RECIPIENT_FIRST))
                .expression_attribute_values(":last", text(last))
                .set_limit(limit)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(StoreError::during("read a recipient"))?;
            for item in page.items.unwrap_or_default() {
                match &mut counters {
                    Some(counters) if !item::text_of(&item, SK).is_some_and(is_recipients) => counters.add(item),
                    _ => snapshot.add(&item),
                }
            }
            start = page.last_evaluated_key;
            let Some(key) = &start else { return Ok(true) };
            if !item::text_of(key, SK).is_some_and(is_recipients) {
                return Ok(false);
            }
            // Registrations sort before sessions, so all of them are read.
            if snapshot.has_surplus_sessions() {
                snapshot.is_cut_off = true;
                return Ok(false);
            }
        }
    }

    /// Deletes the sessions of a user beyond [`MAX_SESSIONS`]: first expired ones, then those that went offline longest
    /// ago, then those with the oldest report. Reads nothing if `snapshot` has all of the user's sessions, and keeps
    /// those that changed after it was read.
    pub async fn prune_sessions(&self, user: &BareJid, snapshot: &Snapshot) -> Result<(), StoreError> {
        if !snapshot.is_cut_off {
            return self.prune(user, &mut snapshot.sessions.clone()).await;
        }
        let mut pages = self
            .query()
            .key_condition_expression(format!("{PK} = :pk AND begins_with({SK}, :prefix)"))
            .expression_attribute_values(":pk", text(user))
            .expression_attribute_values(":prefix", text(keys::SESSION_PREFIX))
            .into_paginator()
            .send();
        let mut sessions = Vec::new();
        while let Some(page) = pages.next().await {
            let items = page.map_err(StoreError::during("list sessions"))?.items.unwrap_or_default();
            sessions.extend(items.iter().filter_map(Session::read));
            self.prune(user, &mut sessions).await?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Returns whether there are more than [`MAX_SESSIONS`] sessions, which [`Store::prune_sessions`] deletes.
    pub fn has_surplus_sessions(&self) -> bool {
        self.sessions.len() > MAX_SESSIONS
    }

    /// Returns the registration to which `session` was tied at `at`, the time of an event.
    pub fn tied(&self, session: &FullJid, at: OffsetDateTime) -> Option<&Registration> {
        let key = keys::session(session);
        let session = self.sessions.iter().find(|session| session.key == key && !session.is_expired)?;
        let tied = self.tie_at(session, to_micros(at))?;
        self.registrations.iter().find(|registration| keys::registration_key(registration) == tied)
    }

    /// Returns whether a session that is tied to the registration is online with an active client. Such a device
    /// receives messages and calls from the chat server. `lost` is a session that is known to have gone.
    pub fn is_connected(&self, registration: &Registration, lost: Option<&FullJid>) -> bool {
        let is_lost = |session: &Session| lost.is_some_and(|lost| session.key == keys::session(lost));
        let sessions = self.sessions.iter().filter(|session| session.is_active() && !session.is_expired);
        let mut ties =
            sessions.filter(|session| !is_lost(session)).filter_map(|session| self.tie_at(session, u64::MAX));
        ties.any(|tie| tie == keys::registration_key(registration))
    }

    /// Returns the attention of the user from the view of the registration's device. `lost` is a session that is known
    /// to have gone.
    pub fn attention(&self, registration: &Registration, lost: Option<&FullJid>) -> SessionAttention {
        let (key, lost) = (keys::registration_key(registration), lost.map(|lost| keys::session(lost)));
        let mut attention = SessionAttention::default();
        for session in self.sessions.iter().filter(|session| Some(&session.key) != lost.as_ref()) {
            let is_own = self.tie_at(session, u64::MAX) == Some(&key);
            let highest = if is_own { &mut attention.own } else { &mut attention.others };
            *highest = session.attention().max(*highest);
        }
        attention
    }

    /// Returns the sort key of the registration to which a session was tied at `at`, in microseconds since 1970.
    fn tie_at<'s>(&self, session: &'s Session, at: u64) -> Option<&'s str> {
        let tie = session.tie.as_ref()?;
        let went_offline = (tie.tied_at..=at).contains(&session.offline_at);
        let is_current = tie.tied_at >= self.states.get(&tie.registration)?.first_enabled_at;
        (is_current && !went_offline).then_some(&tie.registration)
    }

    /// Returns whether the first enable request of the registration, since it was last disabled, is later than `at`.
    pub fn is_enabled_after(&self, registration: &Registration, at: OffsetDateTime) -> bool {
        self.state_of(registration).is_some_and(|version| version.first_enabled_at > to_micros(at))
    }

    /// Returns whether the last answer reported the device as suspect, or the push service was unreachable.
    pub fn is_suspected(&self, registration: &Registration) -> bool {
        self.state_of(registration).is_some_and(|version| version.suspicions > 0 || version.unreachable_since.is_some())
    }

    /// Returns whether the registration's push service was unreachable at the last attempt.
    pub fn is_unreachable(&self, registration: &Registration) -> bool {
        self.state_of(registration).is_some_and(|version| version.unreachable_since.is_some())
    }

    /// Returns the deleted registrations whose device was enabled once more in the last 30 days.
    pub fn replaced(&self) -> impl Iterator<Item = &Replaced> {
        let is_back = |Replaced { jid, node, .. }: &Replaced| {
            self.registrations.iter().any(|registration| registration.jid == *jid && registration.node == *node)
        };
        self.replaced.values().filter(move |replaced| !is_back(replaced))
    }

    /// Returns the other registrations of the same device, with their states, by sort key.
    pub(crate) fn of_same_device(
        &self,
        registration: &Registration,
    ) -> BTreeMap<&String, (&Registration, &RegistrationState)> {
        let device = registration.options.device();
        let key = keys::registration_key(registration);
        let others = self.registrations.iter().filter(|other| device.is_some() && other.options.device() == device);
        let others = others.filter_map(|other| {
            let (key, state) = self.states.get_key_value(&keys::registration_key(other))?;
            Some((key, (other, state)))
        });
        others.filter(|(other, _)| **other != key).collect()
    }

    /// Returns whether the table has a registration of the same key and the same device.
    pub(crate) fn has_device(&self, registration: &Registration) -> bool {
        let device = registration.options.device();
        let key = keys::registration_key(registration);
        self.registrations.iter().any(|other| other.options.device() == device && keys::registration_key(other) == key)
    }

    /// Returns the state of a registration: its times, and the answers about its device.
    pub fn state_of(&self, registration: &Registration) -> Option<&RegistrationState> {
        self.states.get(&keys::registration_key(registration))
    }

    /// Returns the time of the last known enable request of the user, in microseconds since 1970; 0 if there is none.
    pub(crate) fn newest(&self) -> u64 {
        let states = self.states.values().map(|version| version.created_at);
        let ties = self.sessions.iter().filter_map(|session| Some(session.tie.as_ref()?.tied_at));
        states.chain(ties).chain(self.latest.as_ref().map(|latest| latest.added_at)).max().unwrap_or(0)
    }

    /// Returns the last time at which a session enabled the registration of this key, in microseconds since 1970.
    pub(crate) fn last_tie(&self, key: &str) -> Option<u64> {
        let ties = self.sessions.iter().filter_map(|session| session.tie.as_ref());
        ties.filter(|tie| tie.registration == key).map(|tie| tie.tied_at).max()
    }

    fn add(&mut self, item: &Item) {
        let key = item::text_of(item, SK).unwrap_or_default();
        if key == keys::LATEST_REGISTRATION {
            self.latest = Latest::read(item);
        } else if key.starts_with(keys::REGISTRATION_PREFIX) {
            self.states.insert(key.to_owned(), RegistrationState::read(item));
            match registration::read(item) {
                Some(registration) => self.registrations.push(registration),
                None => tracing::error!(key, "registration ignored: this version cannot read its item"),
            }
        } else if key.starts_with(keys::REPLACED_PREFIX) {
            self.replaced.extend(Replaced::read(item).map(|replaced| (key.to_owned(), replaced)));
        } else if key == keys::SENT_ALERTS {
            self.sent_alerts = SentAlerts::read(item);
        } else if let Some(session) = Session::read(item) {
            match session.availability.filter(|_| !session.is_expired) {
                Some(Availability::Online(Activity { client_state, .. })) => {
                    self.online = Some(true);
                    if self.client_state != Some(ClientState::Active) {
                        self.client_state = Some(client_state);
                    }
                }
                Some(Availability::Offline) => self.online = self.online.or(Some(false)),
                None => {}
            }
            self.sessions.push(session);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use pushlark_model::PublishOptions;

    use super::*;
    use crate::attributes::{IS_AWAY, IS_INACTIVE, IS_ONLINE, REGISTRATION, TIED_AT};
    use crate::item::number;

    /// Returns a snapshot with two registrations, `phone` and `tablet`, and these sessions: the resource, the node that
    /// the session enabled (empty for none), and the attention.
    fn snapshot(sessions: &[(&str, &str, Attention)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in ["phone", "tablet"] {
            let state = RegistrationState::read(&Item::new());
            snapshot.states.insert(keys::registration_key(&registration(node)), state);
        }
        for (resource, tied, attention) in sessions {
            let flag = |value| AttributeValue::Bool(value);
            let mut item = Item::from([
                (SK.to_owned(), text(keys::session(&format!("bob@example.com/{resource}").parse().unwrap()))),
                (IS_ONLINE.to_owned(), flag(*attention != Attention::Offline)),
                (IS_INACTIVE.to_owned(), flag(*attention == Attention::Inactive)),
                (IS_AWAY.to_owned(), flag(*attention == Attention::Away)),
            ]);
            if !tied.is_empty() {
                let key = keys::registration_key(&registration(tied));
                item.extend([(REGISTRATION.to_owned(), text(key)), (TIED_AT.to_owned(), number(1))]);
            }
            snapshot.add(&item);
        }
        snapshot
    }

    fn registration(node: &str) -> Registration {
        let jid = BareJid::new("push.example.com").unwrap();
        Registration::new(jid, node.into(), PublishOptions::default(), 1)
    }

    #[test]
    fn the_attention_in_the_session_of_a_device_is_its_own_and_that_in_all_others_is_the_highest() {
        use Attention::{Active, Away, Inactive, Offline};
        for (sessions, own, others) in [
            (&[][..], Offline, Offline),
            (&[("a", "phone", Active)], Active, Offline),
            (&[("a", "tablet", Active)], Offline, Active),
            (&[("a", "", Away)], Offline, Away),
            (&[("a", "phone", Offline), ("b", "", Active)], Offline, Active),
            (&[("a", "phone", Inactive), ("b", "", Away), ("c", "tablet", Inactive)], Inactive, Away),
            (&[("a", "", Inactive), ("b", "", Active), ("c", "", Away)], Offline, Active),
            // The device has connected once more: its former session is its own, too.
            (&[("a", "phone", Inactive), ("b", "phone", Away)], Away, Offline),
            (&[("lost", "phone", Active), ("b", "", Inactive)], Offline, Inactive),
            (&[("lost", "", Active)], Offline, Offline),
        ] {
            let lost: FullJid = "bob@example.com/lost".parse().unwrap();
            let attention = snapshot(sessions).attention(&registration("phone"), Some(&lost));
            assert_eq!(attention, SessionAttention { own, others }, "{sessions:?}");
        }
    }

    #[test]
    fn the_attention_in_a_session_after_its_lifetime_is_that_of_an_offline_one() {
        let mut snapshot = snapshot(&[("a", "", Attention::Active), ("b", "", Attention::Inactive)]);
        snapshot.sessions[0].is_expired = true;
        let attention = snapshot.attention(&registration("phone"), None);
        assert_eq!(attention.others, Attention::Inactive);
    }
}
