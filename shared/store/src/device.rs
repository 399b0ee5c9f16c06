//! Answers of push services about the devices of push nodes.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;
use pushlark_model::Registration;

use crate::attributes::{EXPIRES_AT, GONE_AT, PK, SK, SUSPICIONS, UNREACHABLE_SINCE};
use crate::item::{self, number, text};
use crate::{NodeAddress, Store, StoreError, expiry, keys, seconds_now};

/// The lifetime of the answers about a device. Servers learn that a device is gone at their next publish request. If
/// they still publish to it after this time, another attempt is made.
const DEVICE_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// The state of a device, from the answers of push services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceStatus {
    /// No answer reports a problem.
    Fine,
    /// The device may be gone, or its push service is unreachable.
    Suspected,
    /// The push service reported the device as gone in the last 7 days.
    Gone,
}

impl Store {
    /// Reads the state of a node's device.
    pub async fn device(&self, registration: &Registration) -> Result<DeviceStatus, StoreError> {
        let item =
            self.get("look up a device", keys::node(&address(registration)), &keys::device(registration)).await?;
        let has = |name: &str| item.contains_key(name);
        Ok(match (has(GONE_AT), has(SUSPICIONS) || has(UNREACHABLE_SINCE)) {
            (true, _) => DeviceStatus::Gone,
            (false, true) => DeviceStatus::Suspected,
            (false, false) => DeviceStatus::Fine,
        })
    }

    /// Counts one answer that reports a node's device as suspect. Returns the number of such answers in a row.
    pub async fn suspect_device(&self, registration: &Registration) -> Result<u32, StoreError> {
        let counted = self
            .update(keys::node(&address(registration)), &keys::device(registration))
            .update_expression(format!("ADD {SUSPICIONS} :one SET {EXPIRES_AT} = :expires_at"))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":expires_at", number(expiry(DEVICE_LIFETIME)))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(StoreError::during("count a suspect answer about a device"))?;
        let suspicions = counted.attributes.and_then(|item| item::number_of(&item, SUSPICIONS));
        Ok(suspicions.and_then(|suspicions| suspicions.try_into().ok()).unwrap_or(0))
    }

    /// Records that a device's push service is unreachable. Returns the time since the first such record, in seconds.
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
            .map_err(StoreError::during("record an unreachable push service"))?;
        let since = noted.attributes.and_then(|item| item::number_of(&item, UNREACHABLE_SINCE));
        Ok(since.map_or(0, |since| now.saturating_sub(since)))
    }

    /// Records that a node's device is gone.
    pub async fn device_gone(&self, registration: &Registration) -> Result<(), StoreError> {
        self.update(keys::node(&address(registration)), &keys::device(registration))
            .update_expression(format!("SET {GONE_AT} = :now, {EXPIRES_AT} = :expires_at"))
            .expression_attribute_values(":now", number(seconds_now()))
            .expression_attribute_values(":expires_at", number(expiry(DEVICE_LIFETIME)))
            .send()
            .await
            .map_err(StoreError::during("record that a device is gone"))?;
        Ok(())
    }

    /// Deletes the answers about a node's device.
    pub async fn forget_device(&self, registration: &Registration) -> Result<(), StoreError> {
        self.client
            .delete_item()
            .table_name(&self.table)
            .key(PK, text(keys::node(&address(registration))))
            .key(SK, text(keys::device(registration)))
            .send()
            .await
            .map_err(StoreError::during("delete the answers about a device"))?;
        Ok(())
    }
}

fn address(registration: &Registration) -> NodeAddress {
    NodeAddress { jid: registration.jid.clone(), node: registration.node.clone() }
}
