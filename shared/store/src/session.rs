//! Sessions: whether a client is online, and the registration that it enabled last.

use std::cmp::Reverse;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_model::time::to_micros;
use pushlark_model::{Activity, Attention, Availability, ClientState};
use pushlark_xmpp::{BareJid, Jid};
use time::OffsetDateTime;

use crate::attributes::{
    EXPIRES_AT, IS_AWAY, IS_INACTIVE, IS_ONLINE, OFFLINE_AT, PK, REGISTRATION, SINCE, SK, TIED_AT,
};
use crate::item::{self, Item, number, text};
use crate::{MAX_CONCURRENT_WRITES, Store, StoreError, expiry, keys, seconds_now, unless_stale};

/// The most sessions that are kept for a user.
pub const MAX_SESSIONS: usize = 32;

/// The item of a session, by its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The sort key.
    pub key: String,
    /// The last reported availability; `None` if no presence was reported.
    pub availability: Option<Availability>,
    /// The time of that presence, in microseconds since 1970.
    since: Option<u64>,
    /// The time at which the session went offline last, in microseconds since 1970; 0 for never.
    pub offline_at: u64,
    /// The registration that the session enabled last.
    pub tie: Option<Tie>,
    /// Whether the lifetime is over. DynamoDB deletes an expired item with a delay (TTL).
    pub is_expired: bool,
}

/// The registration that a session enabled last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tie {
    /// The sort key of the registration.
    pub registration: String,
    /// The time of the enable request, in microseconds since 1970.
    pub tied_at: u64,
}

/// The order in which surplus sessions are deleted, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// `expires_at` has passed.
    Expired,
    /// The session went offline at this time, in microseconds since 1970.
    Offline(u64),
    /// The session is online, or has no presence. The time of the last presence or enable request.
    Active(u64),
}

impl Session {
    pub fn read(item: &Item) -> Option<Self> {
        let number = |name| item::number_of(item, name);
        let flag = |name| item.get(name).and_then(|value: &AttributeValue| value.as_bool().ok()).copied();
        let registration = item::text_of(item, REGISTRATION).map(str::to_owned);
        Some(Self {
            key: item::text_of(item, SK)?.to_owned(),
            availability: flag(IS_ONLINE).map(|is_online| {
                let is_inactive = flag(IS_INACTIVE) == Some(true);
                let client_state = if is_inactive { ClientState::Inactive } else { ClientState::Active };
                let activity = Activity { client_state, is_away: flag(IS_AWAY) == Some(true) };
                if is_online { Availability::Online(activity) } else { Availability::Offline }
            }),
            since: number(SINCE),
            offline_at: number(OFFLINE_AT).unwrap_or(0),
            tie: registration.map(|registration| Tie { registration, tied_at: number(TIED_AT).unwrap_or(0) }),
            is_expired: number(EXPIRES_AT).is_some_and(|at| at <= seconds_now()),
        })
    }

    /// Returns whether the session is online with an active client.
    pub fn is_active(&self) -> bool {
        matches!(self.availability, Some(Availability::Online(Activity { client_state: ClientState::Active, .. })))
    }

    /// Returns the attention of the user in the session.
    pub fn attention(&self) -> Attention {
        match self.availability {
            Some(Availability::Online(activity)) if !self.is_expired => activity.attention(),
            Some(_) | None => Attention::Offline,
        }
    }

    fn worth(&self) -> Worth {
        let since = self.since.unwrap_or(0);
        match self.availability {
            _ if self.is_expired => Worth::Expired,
            Some(Availability::Offline) => Worth::Offline(since.max(self.offline_at)),
            Some(Availability::Online(_)) | None => {
                Worth::Active(since.max(self.tie.as_ref().map_or(0, |tie| tie.tied_at)))
            }
        }
    }
}

impl Store {
    /// Stores the availability of a session, unless a newer presence than `at` is stored. Going offline ends the
    /// session's tie to a registration. If presence has bare JIDs, the user has one session without a resource.
    pub async fn set_presence(
        &self,
        session: &Jid,
        availability: Availability,
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let (user, key) = (session.to_bare(), keys::session(session));
        let (activity, offline_at) = match availability {
            Availability::Online(activity) => (Some(activity), String::new()),
            Availability::Offline => (None, format!(", {OFFLINE_AT} = :at")),
        };
        let is_online = activity.is_some();
        let Activity { client_state, is_away } = activity.unwrap_or_default();
        let is_inactive = client_state == ClientState::Inactive;
        let written = self
            .update(&user, &key)
            .update_expression(format!(
                "SET {IS_ONLINE} = :online, {IS_INACTIVE} = :inactive, {IS_AWAY} = :away, {SINCE} = :at, \
                 {EXPIRES_AT} = :expires_at{offline_at}"
            ))
            .condition_expression(format!("attribute_not_exists({SINCE}) OR {SINCE} <= :at"))
            .expression_attribute_values(":online", AttributeValue::Bool(is_online))
            .expression_attribute_values(":inactive", AttributeValue::Bool(is_inactive))
            .expression_attribute_values(":away", AttributeValue::Bool(is_away))
            .expression_attribute_values(":at", number(to_micros(at)))
            .expression_attribute_values(":expires_at", number(expiry(self.session_lifetime)))
            .send()
            .await;
        if unless_stale("store a presence", written)? || is_online {
            return Ok(());
        }
        // A newer presence is stored, but the tie from before `at` ends.
        let cut = self
            .update(&user, &key)
            .update_expression(format!("SET {OFFLINE_AT} = :at"))
            .condition_expression(format!(
                "attribute_exists({REGISTRATION}) AND (attribute_not_exists({OFFLINE_AT}) OR {OFFLINE_AT} < :at)"
            ))
            .expression_attribute_values(":at", number(to_micros(at)))
            .send()
            .await;
        unless_stale("untie a session", cut).map(drop)
    }

    /// Deletes those of `sessions` beyond [`MAX_SESSIONS`].
    pub(crate) async fn prune(&self, user: &BareJid, sessions: &mut Vec<Session>) -> Result<(), StoreError> {
        sessions.sort_by_key(|session| Reverse(session.worth()));
        let surplus = sessions.split_off(sessions.len().min(MAX_SESSIONS));
        let deletions: Vec<_> = surplus.iter().map(|session| self.forget_session(user, session)).collect();
        stream::iter(deletions).buffer_unordered(MAX_CONCURRENT_WRITES).try_collect().await
    }

    /// Deletes a session, unless it changed after it was read.
    async fn forget_session(&self, user: &BareJid, session: &Session) -> Result<(), StoreError> {
        let mut delete =
            self.client.delete_item().table_name(&self.table).key(PK, text(user)).key(SK, text(&session.key));
        let as_read = [(SINCE, session.since), (TIED_AT, session.tie.as_ref().map(|tie| tie.tied_at))];
        let conditions = as_read.map(|(name, value)| match value {
            Some(_) => format!("{name} = :{name}"),
            None => format!("attribute_not_exists({name})"),
        });
        for (name, value) in as_read {
            if let Some(value) = value {
                delete = delete.expression_attribute_values(format!(":{name}"), number(value));
            }
        }
        let deleted = delete.condition_expression(conditions.join(" AND ")).send().await;
        unless_stale("delete a session", deleted).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(is_online: Option<bool>, since: Option<u64>, offline_at: u64, tied_at: Option<u64>) -> Session {
        let online = Availability::Online(Activity::default());
        let availability = is_online.map(|is_online| if is_online { online } else { Availability::Offline });
        let tie = tied_at.map(|tied_at| Tie { registration: "reg/push.example.com/n".into(), tied_at });
        Session { key: "ses/x".into(), availability, since, offline_at, tie, is_expired: false }
    }

    #[test]
    fn expired_sessions_are_deleted_first_then_offline_ones_then_those_with_the_oldest_report() {
        let expired = Session { is_expired: true, ..session(Some(true), Some(90), 0, Some(95)) };
        let in_order = [
            expired,
            session(Some(false), Some(10), 10, Some(5)),
            session(Some(false), Some(20), 20, None),
            session(Some(true), Some(1), 0, None),
            session(None, None, 0, Some(2)),
            session(Some(true), Some(1), 0, Some(3)),
            // A late "offline" of an earlier session of this resource does not count.
            session(Some(true), Some(4), 3, None),
        ];
        let worths: Vec<_> = in_order.iter().map(Session::worth).collect();
        assert!(worths.is_sorted() && worths.windows(2).all(|pair| pair[0] != pair[1]), "{worths:?}");
    }
}
