//! The registrations that were notified of a conversation, and may still show its notifications. Each has the time of
//! the message that it was notified of last: a read mark of an earlier time has not read this message.

use std::time::Duration;

use pushlark_model::Registration;
use pushlark_model::time::to_micros;
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::attributes::{EXPIRES_AT, PK, SHOWN_AT, SK};
use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, expiry, keys, unless_stale};

/// The time for which a device may show a notification.
pub const SHOWN_LIFETIME: Duration = Duration::from_hours(30 * 24);

/// The registrations that were notified of a conversation since it was read last.
#[derive(Debug, Default)]
pub struct Shown(Item);

impl Shown {
    /// Returns whether there is no such registration.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `registration` was notified.
    pub fn has(&self, registration: &Registration) -> bool {
        self.0.contains_key(&keys::shown_attribute(registration))
    }

    /// Returns whether `registration` was notified, last of a message of `at` or before.
    pub fn has_until(&self, registration: &Registration, at: OffsetDateTime) -> bool {
        item::number_of(&self.0, &keys::shown_attribute(registration))
            .is_some_and(|message_at| message_at <= to_micros(at))
    }

    /// Returns whether there is a registration that was notified last of a message of `at` or before.
    pub fn has_any_until(&self, at: OffsetDateTime) -> bool {
        self.times().any(|message_at| message_at <= to_micros(at))
    }

    /// Returns whether there is a registration that was notified of a message after `at`.
    pub fn has_any_after(&self, at: OffsetDateTime) -> bool {
        self.times().any(|message_at| message_at > to_micros(at))
    }

    fn times(&self) -> impl Iterator<Item = u64> {
        let of_registrations = self.0.keys().filter(|name| name.starts_with(keys::SHOWN_ATTRIBUTE_PREFIX));
        of_registrations.filter_map(|name| item::number_of(&self.0, name))
    }
}

impl Store {
    /// Records that `registration` was notified of a message of `at` in a conversation.
    pub async fn note_shown(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        registration: &Registration,
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let now = OffsetDateTime::now_utc();
        self.update(user, &keys::shown(conversation))
            .update_expression(format!("SET {SHOWN_AT} = :now, {EXPIRES_AT} = :expires_at, #registration = :at"))
            .expression_attribute_names("#registration", keys::shown_attribute(registration))
            .expression_attribute_values(":now", number(to_micros(now)))
            .expression_attribute_values(":at", number(to_micros(at.min(now))))
            .expression_attribute_values(":expires_at", number(expiry(SHOWN_LIFETIME)))
            .send()
            .await
            .map_err(StoreError::during("record a notification"))?;
        Ok(())
    }

    /// Returns the registrations that were notified of a conversation.
    pub async fn shown(&self, user: &BareJid, conversation: &BareJid) -> Result<Shown, StoreError> {
        self.get("look up notifications", user, &keys::shown(conversation)).await.map(Shown)
    }

    /// Forgets the registrations that were notified, unless one was notified after `shown` was read.
    pub async fn forget_shown(&self, user: &BareJid, conversation: &BareJid, shown: &Shown) -> Result<(), StoreError> {
        let Some(at) = item::number_of(&shown.0, SHOWN_AT) else { return Ok(()) };
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(PK, text(user))
            .key(SK, text(keys::shown(conversation)))
            .condition_expression(format!("{SHOWN_AT} = :at"))
            .expression_attribute_values(":at", number(at))
            .send()
            .await;
        unless_stale("forget notifications", deleted).map(drop)
    }
}
