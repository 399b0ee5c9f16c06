//! Registrations whose device may be gone, as far as a push service knows, and the answers that this is known from.

use aws_sdk_dynamodb::types::ReturnValue;
use pushlark_model::Registration;
use pushlark_xmpp::BareJid;

use crate::item::{self, number};
use crate::{Snapshot, Store, StoreError, keys, seconds_now, unless_stale};

/// The attributes of a registration that tell of its device; enabling it anew replaces all of them.
pub const SUSPICIONS: &str = "suspicions";
pub const UNREACHABLE: &str = "unreachable_since";

impl Store {
    /// Counts one more answer that calls the registration's device gone. Returns how many there were in a row; 0 if the
    /// registration is another one by now.
    pub async fn suspect(&self, user: &BareJid, service: &Registration) -> Result<u32, StoreError> {
        let counted = self
            .update(user, &keys::registration(&service.jid, &service.node))
            .update_expression("ADD suspicions :one")
            .condition_expression("created_at = :version")
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":version", number(service.created_at))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await;
        let suspicions = counted.as_ref().ok().and_then(|counted| counted.attributes());
        let suspicions = suspicions.and_then(|item| item::number_of(item, SUSPICIONS)?.try_into().ok());
        unless_stale("suspect a registration", counted)?;
        Ok(suspicions.unwrap_or(0))
    }

    /// Notes that the registration's push service cannot be reached. Returns for how many seconds it has been so; 0 if the
    /// registration is another one by now.
    pub async fn note_unreachable(&self, user: &BareJid, service: &Registration) -> Result<u64, StoreError> {
        let now = seconds_now();
        let noted = self
            .update(user, &keys::registration(&service.jid, &service.node))
            .update_expression("SET unreachable_since = if_not_exists(unreachable_since, :now)")
            .condition_expression("created_at = :version")
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":version", number(service.created_at))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await;
        let since = noted.as_ref().ok().and_then(|noted| item::number_of(noted.attributes()?, UNREACHABLE));
        unless_stale("note an unreachable push service", noted)?;
        Ok(since.map_or(0, |since| now.saturating_sub(since)))
    }

    /// Forgets that the registration's push service could not be reached.
    pub async fn clear_unreachable(&self, user: &BareJid, service: &Registration) -> Result<(), StoreError> {
        self.clear(user, service, "REMOVE unreachable_since").await
    }

    /// Forgets that the registration's device was called gone, or its push service could not be reached.
    pub async fn clear_suspicions(&self, user: &BareJid, service: &Registration) -> Result<(), StoreError> {
        self.clear(user, service, "REMOVE suspicions, unreachable_since").await
    }

    async fn clear(&self, user: &BareJid, service: &Registration, update: &str) -> Result<(), StoreError> {
        let cleared = self
            .update(user, &keys::registration(&service.jid, &service.node))
            .update_expression(update)
            .condition_expression("created_at = :version")
            .expression_attribute_values(":version", number(service.created_at))
            .send()
            .await;
        unless_stale("clear a registration", cleared).map(drop)
    }
}

impl Snapshot {
    /// Whether the registration's device was called gone, or its push service could not be reached, when it was last tried.
    pub fn is_suspected(&self, service: &Registration) -> bool {
        self.version_of(service).is_some_and(|version| version.suspicions > 0 || version.unreachable_since.is_some())
    }

    /// Whether the registration's push service could not be reached when it was last tried.
    pub fn is_unreachable(&self, service: &Registration) -> bool {
        self.version_of(service).is_some_and(|version| version.unreachable_since.is_some())
    }
}
