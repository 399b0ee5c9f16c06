//! The device of a push node, as far as push services have answered about it.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;
use pushlark_model::Registration;

use crate::attributes::{EXPIRES_AT, GONE_AT, PK, SK, SUSPICIONS, UNREACHABLE_SINCE};
use crate::item::{self, number, text};
use crate::{NodeAddress, Store, StoreError, expiry, keys, seconds_now};

/// How long it is remembered what a push service says of a device. Servers learn of it by their next publish; after this
/// time a device that is published to all the same is tried again.
const DEVICE_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// What push services said of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Nothing bad.
    Fine,
    /// It may be gone, or its push service cannot be reached.
    Suspected,
    /// It is.
    Gone,
}

impl Store {
    /// What push services said of a node's device.
    pub async fn device(&self, registration: &Registration) -> Result<Device, StoreError> {
        let item =
            self.get("look up a device", keys::node(&address(registration)), &keys::device(registration)).await?;
        let has = |name: &str| item.contains_key(name);
        Ok(match (has(GONE_AT), has(SUSPICIONS) || has(UNREACHABLE_SINCE)) {
            (true, _) => Device::Gone,
            (false, true) => Device::Suspected,
            (false, false) => Device::Fine,
        })
    }

    /// Counts one more answer that calls a node's device gone; answers how many there were in a row.
    pub async fn suspect_device(&self, registration: &Registration) -> Result<u32, StoreError> {
        let counted = self
            .update(keys::node(&address(registration)), &keys::device(registration))
            .update_expression(format!("ADD {SUSPICIONS} :one SET {EXPIRES_AT} = :expires_at"))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":expires_at", number(expiry(DEVICE_LIFETIME)))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(StoreError::during("suspect a device"))?;
        let suspicions = counted.attributes.and_then(|item| item::number_of(&item, SUSPICIONS));
        Ok(suspicions.and_then(|suspicions| suspicions.try_into().ok()).unwrap_or(0))
    }

    /// Notes that the push service of a node's device cannot be reached. Returns for how many seconds it has been so.
    pub async fn note_unreachable_device(&self, registration: &Registration) -> Result<u64, StoreError> {
        let now = seconds_now();
        let noted = self
            .update(keys::node(&address(registration)), &keys::device(registration))
            .update_expression(format!(
                "SET {UNREACHABLE_SINCE} = if_not_exists({UNREACHABLE_SINCE}, :now), {EXPIRES_AT} = :expires_at"
            ))
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":expires_at", number(expiry(DEVICE_LIFETIME)))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(StoreError::during("note an unreachable push service"))?;
        let since = noted.attributes.and_then(|item| item::number_of(&item, UNREACHABLE_SINCE));
        Ok(since.map_or(0, |since| now.saturating_sub(since)))
    }

    /// Notes that a node's device is gone.
    pub async fn device_gone(&self, registration: &Registration) -> Result<(), StoreError> {
        self.update(keys::node(&address(registration)), &keys::device(registration))
            .update_expression(format!("SET {GONE_AT} = :now, {EXPIRES_AT} = :expires_at"))
            .expression_attribute_values(":now", number(seconds_now()))
            .expression_attribute_values(":expires_at", number(expiry(DEVICE_LIFETIME)))
            .send()
            .await
            .map_err(StoreError::during("note that a device is gone"))?;
        Ok(())
    }

    /// Forgets what push services said of a node's device.
    pub async fn forget_device(&self, registration: &Registration) -> Result<(), StoreError> {
        self.client
            .delete_item()
            .table_name(&self.table)
            .key(PK, text(keys::node(&address(registration))))
            .key(SK, text(keys::device(registration)))
            .send()
            .await
            .map_err(StoreError::during("forget a device"))?;
        Ok(())
    }
}

fn address(registration: &Registration) -> NodeAddress {
    NodeAddress { jid: registration.jid.clone(), node: registration.node.clone() }
}
