//! `SendMessage`.

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::batch::MessageOperation;
use super::clock::Clock;
use super::error::Error;
use super::message_attributes::{MessageAttributes, is_allowed, md5_of, md5_of_attributes};
use super::operation::within;
use super::store::StoredQueue;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SendMessage {
    #[serde(default)]
    message_body: String,
    delay_seconds: Option<i64>,
    #[serde(default)]
    message_attributes: MessageAttributes,
    message_group_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SendMessageOutput {
    message_id: String,
    #[serde(rename = "MD5OfMessageBody")]
    md5_of_body: String,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    md5_of_attributes: Option<String>,
}

impl SendMessage {
    fn check(&self, max_size: u32) -> Result<(), Error> {
        if self.message_body.is_empty() {
            return Err(Error::MissingParameter("MessageBody"));
        }
        if self.size() > max_size as usize {
            return Err(Error::InvalidParameterValue(format!(
                "One or more parameters are invalid. Reason: Message must be shorter than {max_size} bytes."
            )));
        }
        if !self.message_body.chars().all(is_allowed) {
            return Err(Error::InvalidMessageContents);
        }
        if self.message_attributes.len() > 10 {
            return Err(Error::InvalidParameterValue("A message can have at most 10 (user) attributes.".to_owned()));
        }
        if let Some(group) = &self.message_group_id {
            let is_valid = (1..=128).contains(&group.len()) && group.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_valid {
                let reason = "Can only include alphanumeric and punctuation characters. 1 to 128 in length.";
                return Err(Error::invalid("MessageGroupId", group, reason));
            }
        }
        let mut attributes = self.message_attributes.iter();
        attributes.try_for_each(|(name, attribute)| attribute.check(name))
    }
}

impl MessageOperation for SendMessage {
    type Output = SendMessageOutput;

    fn size(&self) -> usize {
        let attributes = self.message_attributes.iter().map(|(name, attribute)| {
            let value = attribute.value().map_or(0, |(_, bytes)| bytes.len());
            name.len() + attribute.data_type.len() + value
        });
        self.message_body.len() + attributes.sum::<usize>()
    }

    fn apply(self, queue: &StoredQueue, db: &Connection, clock: Clock) -> Result<SendMessageOutput, Error> {
        self.check(queue.attributes.maximum_message_size)?;
        let delay = match self.delay_seconds {
            Some(asked) => within("DelaySeconds", asked, 0..=900)?,
            None => queue.attributes.delay_seconds,
        };
        let now = clock.now();
        // UUIDv7 is ordered by time, which keeps the tree of the primary key compact.
        let message_id = Uuid::now_v7().to_string();
        let attributes = serde_json::to_string(&self.message_attributes).map_err(Error::Stored)?;
        let visible_at = now + clock.millis(delay);
        let mut statement = db.prepare_cached(
            "INSERT INTO messages (id, queue, sent_at, visible_at, attributes, body, group_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let group = self.message_group_id.unwrap_or_default();
        statement.execute((&message_id, &queue.name, now, visible_at, attributes, &self.message_body, group))?;
        // A woken receive waits for the lock of the store until this is committed.
        queue.wake.notify_waiters();
        Ok(SendMessageOutput {
            message_id,
            md5_of_body: md5_of(self.message_body.as_bytes()),
            md5_of_attributes: md5_of_attributes(&self.message_attributes),
        })
    }
}
