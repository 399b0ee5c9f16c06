//! Registrations whose device may be gone, as far as a push service knows.

use aws_sdk_dynamodb::types::ReturnValue;
use pushlark_plugin::PublishService;
use pushlark_xmpp::BareJid;

use crate::item::{self, number};
use crate::{Snapshot, Store, StoreError, keys, unless_stale};

/// The attribute of a registration that counts; enabling it anew replaces all of them.
pub const ATTRIBUTE: &str = "suspicions";

impl Store {
    /// Counts one more answer that calls the registration's device gone. Answers how many there were in a row; 0 if the
    /// registration is another one by now.
    pub async fn suspect(&self, user: &BareJid, service: &PublishService) -> Result<u32, StoreError> {
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
        let suspicions = suspicions.and_then(|item| item::number_of(item, ATTRIBUTE)?.try_into().ok());
        unless_stale("suspect a registration", counted)?;
        Ok(suspicions.unwrap_or(0))
    }

    /// Forgets that the registration's device was called gone.
    pub async fn clear_suspicions(&self, user: &BareJid, service: &PublishService) -> Result<(), StoreError> {
        let cleared = self
            .update(user, &keys::registration(&service.jid, &service.node))
            .update_expression("REMOVE suspicions")
            .condition_expression("created_at = :version")
            .expression_attribute_values(":version", number(service.created_at))
            .send()
            .await;
        unless_stale("clear a registration", cleared).map(drop)
    }
}

impl Snapshot {
    /// How often in a row the registration's device was called gone.
    pub fn suspicions(&self, service: &PublishService) -> u32 {
        let registration = self.registrations.get(&keys::registration(&service.jid, &service.node));
        registration.map_or(0, |version| version.suspicions)
    }
}
