//! `ReceiveMessage`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::clock::Clock;
use super::error::Error;
use super::fairness::noisy_groups;
use super::message_attributes::{MessageAttributes, md5_of, md5_of_attributes};
use super::operation::within;
use super::receipts::{MAX_VISIBILITY_SECONDS, receipt_handle};
use super::store::{QueueStore, StoredQueue};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReceiveMessage {
    queue_url: String,
    max_number_of_messages: Option<i64>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
}

impl ReceiveMessage {
    fn wants_system(&self, name: &str) -> bool {
        let mut asked = self.attribute_names.iter().chain(&self.message_system_attribute_names);
        asked.any(|asked| asked == name || asked == "All")
    }

    fn wants(&self, name: &str) -> bool {
        self.message_attribute_names.iter().any(|asked| {
            let all = asked == "All" || asked == "*";
            all || asked.strip_suffix(".*").map_or(asked == name, |prefix| name.starts_with(prefix))
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReceiveMessageOutput {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) messages: Vec<ReceivedMessage>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReceivedMessage {
    message_id: String,
    receipt_handle: String,
    #[serde(rename = "MD5OfBody")]
    md5_of_body: String,
    body: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'static str, String>,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    md5_of_attributes: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    message_attributes: MessageAttributes,
}

/// A message in the database.
struct StoredMessage {
    id: String,
    sent_at: i64,
    first_received_at: Option<i64>,
    receive_count: u32,
    source: Option<String>,
    attributes: String,
    body: String,
    group: String,
}

impl StoredMessage {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            sent_at: row.get(1)?,
            first_received_at: row.get(2)?,
            receive_count: row.get(3)?,
            source: row.get(4)?,
            attributes: row.get(5)?,
            body: row.get(6)?,
            group: row.get(7)?,
        })
    }

    /// The message in the response of the receive at `now`, which is counted.
    fn received(self, request: &ReceiveMessage, queue: &StoredQueue, now: i64) -> Result<ReceivedMessage, Error> {
        let receive_count = self.receive_count + 1;
        let first_received_at = self.first_received_at.unwrap_or(now);
        let mut attributes = BTreeMap::from([
            ("SenderId", "000000000000".to_owned()),
            ("SentTimestamp", self.sent_at.to_string()),
            ("ApproximateReceiveCount", receive_count.to_string()),
            ("ApproximateFirstReceiveTimestamp", first_received_at.to_string()),
        ]);
        if let Some(source) = self.source {
            attributes.insert("DeadLetterQueueSourceArn", source);
        }
        if !self.group.is_empty() {
            attributes.insert("MessageGroupId", self.group);
        }
        attributes.retain(|name, _| request.wants_system(name));
        let mut message_attributes: MessageAttributes =
            serde_json::from_str(&self.attributes).map_err(Error::Stored)?;
        message_attributes.retain(|name, _| request.wants(name));
        Ok(ReceivedMessage {
            receipt_handle: receipt_handle(queue, receive_count, &self.id),
            message_id: self.id,
            md5_of_body: md5_of(self.body.as_bytes()),
            body: self.body,
            attributes,
            md5_of_attributes: md5_of_attributes(&message_attributes),
            message_attributes,
        })
    }
}

impl QueueStore {
    /// The notification that a receive waits for, and the longest time.
    pub(super) fn poll(&self, request: &ReceiveMessage) -> Result<(Arc<Notify>, Duration), Error> {
        let queue = self.queue(&request.queue_url)?;
        let wait = match request.wait_time_seconds {
            Some(asked) => within("WaitTimeSeconds", asked, 0..=20)?,
            None => queue.attributes.receive_message_wait_time,
        };
        Ok((queue.wake.clone(), duration(self.clock.millis(wait))))
    }

    /// Receives the messages that are visible now. If there are none, also returns the time until the next one becomes
    /// visible.
    pub(super) fn receive(
        &mut self,
        request: &ReceiveMessage,
    ) -> Result<(ReceiveMessageOutput, Option<Duration>), Error> {
        let most = within("MaxNumberOfMessages", request.max_number_of_messages.unwrap_or(1), 1..=10)?;
        let (clock, now) = (self.clock, self.clock.now());
        let mut dead_letters = None;
        let answer = self.transact(&request.queue_url, |queue, db| {
            let timeout = match request.visibility_timeout {
                Some(asked) => within("VisibilityTimeout", asked, 0..=MAX_VISIBILITY_SECONDS)?,
                None => queue.attributes.visibility_timeout,
            };
            let mut messages = Vec::new();
            loop {
                let visible = visible(queue, db, clock, now, most)?;
                if visible.is_empty() {
                    break;
                }
                for stored in visible {
                    match &queue.attributes.max_receive {
                        Some((target, most)) if stored.receive_count >= *most => {
                            move_to(target, &stored.id, queue, db, now)?;
                            dead_letters = Some(target.clone());
                        }
                        _ => {
                            hide(&stored.id, db, now, now + clock.millis(timeout))?;
                            messages.push(stored.received(request, queue, now)?);
                        }
                    }
                }
                // No second time: with a visibility timeout of 0, the query would find them again.
                if !messages.is_empty() {
                    break;
                }
            }
            let next = if messages.is_empty() { next_visible(queue, db)? } else { None };
            Ok((ReceiveMessageOutput { messages }, next.map(|next| duration(next - now))))
        })?;
        if let Some(queue) = dead_letters {
            self.queue(&queue)?.wake.notify_waiters();
        }
        Ok(answer)
    }
}

/// Returns the visible messages that are received next: the oldest of quiet groups, then those of noisy groups.
fn visible(
    queue: &StoredQueue,
    db: &Connection,
    clock: Clock,
    now: i64,
    most: u32,
) -> Result<Vec<StoredMessage>, Error> {
    let noisy = noisy_groups(queue, db, clock, now)?;
    let mut statement = db.prepare_cached(
        "SELECT id, sent_at, first_received_at, receive_count, source, attributes, body, group_id
         FROM messages INDEXED BY messages_by_visibility_and_group
         WHERE queue = ?1 AND visible_at <= ?2 AND group_id NOT IN (SELECT value FROM json_each(?4))
         ORDER BY visible_at, id LIMIT ?3",
    )?;
    let names = serde_json::to_string(&noisy).map_err(Error::Stored)?;
    let rows = statement.query_map((&queue.name, now, most, names), StoredMessage::read)?;
    let mut messages: Vec<_> = rows.collect::<Result<_, _>>()?;
    let mut statement = db.prepare_cached(
        "SELECT id, sent_at, first_received_at, receive_count, source, attributes, body, group_id
         FROM messages WHERE queue = ?1 AND visible_at <= ?2 AND group_id = ?4
         ORDER BY visible_at, id LIMIT ?3",
    )?;
    for group in noisy {
        let missing = most as usize - messages.len();
        if missing == 0 {
            break;
        }
        let rows = statement.query_map((&queue.name, now, missing as u32, group), StoredMessage::read)?;
        for row in rows {
            messages.push(row?);
        }
    }
    Ok(messages)
}

fn next_visible(queue: &StoredQueue, db: &Connection) -> Result<Option<i64>, Error> {
    let mut statement = db.prepare_cached("SELECT min(visible_at) FROM messages WHERE queue = ?1")?;
    Ok(statement.query_row([&queue.name], |row| row.get(0))?)
}

fn hide(id: &str, db: &Connection, now: i64, until: i64) -> Result<(), Error> {
    let mut statement = db.prepare_cached(
        "UPDATE messages SET visible_at = ?3, received_at = ?2, receive_count = receive_count + 1,
             first_received_at = coalesce(first_received_at, ?2)
         WHERE id = ?1",
    )?;
    statement.execute((id, now, until))?;
    Ok(())
}

fn move_to(target: &str, id: &str, from: &StoredQueue, db: &Connection, now: i64) -> Result<(), Error> {
    let mut statement =
        db.prepare_cached("UPDATE messages SET queue = ?2, source = ?3, visible_at = ?4 WHERE id = ?1")?;
    statement.execute((id, target, from.arn(), now))?;
    Ok(())
}

fn duration(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
