use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Notify;
use uuid::Uuid;

use super::queue::{Done, Queue, Store, is_name, within};
use super::{Clock, Error, Operation};

const MAX_BATCH_BYTES: usize = 1_048_576;
const MAX_VISIBILITY_SECONDS: u32 = 43_200;

/// What an operation does to one message: alone, or as an entry of a batch.
pub(super) trait Action: DeserializeOwned {
    type Answer: Serialize;

    /// Its share of a batch's limit.
    fn size(&self) -> usize {
        0
    }

    fn apply(self, queue: &Queue, db: &Connection, clock: Clock) -> Result<Self::Answer, Error>;
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct One<A> {
    queue_url: String,
    #[serde(flatten)]
    action: A,
}

impl<A: Action> Operation for One<A> {
    type Answer = A::Answer;

    fn run(self, store: &mut Store, _host: &str) -> Result<A::Answer, Error> {
        let clock = store.clock;
        store.transact(&self.queue_url, |queue, db| self.action.apply(queue, db, clock))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Batch<A> {
    queue_url: String,
    entries: Vec<Entry<A>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry<T> {
    id: String,
    #[serde(flatten)]
    content: T,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Results<T> {
    successful: Vec<Entry<T>>,
    failed: Vec<Entry<Failure>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Failure {
    code: &'static str,
    message: String,
    sender_fault: bool,
}

impl<A: Action> Operation for Batch<A> {
    type Answer = Results<A::Answer>;

    fn run(self, store: &mut Store, _host: &str) -> Result<Self::Answer, Error> {
        let clock = store.clock;
        check_batch(&self.entries)?;
        store.transact(&self.queue_url, |queue, db| {
            let (mut successful, mut failed) = (Vec::new(), Vec::new());
            for Entry { id, content } in self.entries {
                match content.apply(queue, db, clock) {
                    Ok(content) => successful.push(Entry { id, content }),
                    Err(error) if error.is_internal() => return Err(error),
                    Err(error) => {
                        let content = Failure { code: error.code(), message: error.to_string(), sender_fault: true };
                        failed.push(Entry { id, content });
                    }
                }
            }
            Ok(Results { successful, failed })
        })
    }
}

fn check_batch<A: Action>(entries: &[Entry<A>]) -> Result<(), Error> {
    if entries.is_empty() {
        return Err(Error::EmptyBatchRequest);
    }
    if entries.len() > 10 {
        return Err(Error::TooManyEntriesInBatchRequest(entries.len()));
    }
    let mut ids = HashSet::new();
    for Entry { id, .. } in entries {
        if !is_name(id) {
            return Err(Error::InvalidBatchEntryId);
        }
        if !ids.insert(id) {
            return Err(Error::BatchEntryIdsNotDistinct(id.clone()));
        }
    }
    let size = entries.iter().map(|entry| entry.content.size()).sum();
    if size > MAX_BATCH_BYTES {
        return Err(Error::BatchRequestTooLong(size));
    }
    Ok(())
}

type MessageAttributes = BTreeMap<String, MessageAttribute>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MessageAttribute {
    data_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    string_value: Option<String>,
    /// In base64, as on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary_value: Option<String>,
}

impl MessageAttribute {
    /// How the MD5 of the attributes marks the value's kind, and its bytes; `None` when there is no value of the kind
    /// that the data type names, or an empty one.
    fn value(&self) -> Option<(u8, Cow<'_, [u8]>)> {
        let (kind, bytes): (u8, Cow<'_, [u8]>) = match self.data_type.split('.').next()? {
            "String" | "Number" => (1, self.string_value.as_deref()?.as_bytes().into()),
            "Binary" => (2, BASE64.decode(self.binary_value.as_deref()?).ok()?.into()),
            _ => return None,
        };
        (!bytes.is_empty()).then_some((kind, bytes))
    }

    fn check(&self, name: &str) -> Result<(), Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let lower = name.to_ascii_lowercase();
        if !(1..=256).contains(&name.len())
            || !name.chars().all(allowed)
            || lower.starts_with("aws.")
            || lower.starts_with("amazon.")
            || name.starts_with('.')
            || name.ends_with('.')
            || name.contains("..")
        {
            return Err(Error::InvalidParameterValue(format!(
                "Message (user) attribute name '{name}' is not allowed."
            )));
        }
        if self.data_type.len() > 256 || self.value().is_none() {
            return Err(Error::InvalidParameterValue(format!(
                "Message (user) attribute '{name}' must contain a non-empty value of type 'String', 'Number' or 'Binary'."
            )));
        }
        match &self.string_value {
            Some(value) if !value.chars().all(is_allowed) => Err(Error::InvalidMessageContents),
            _ => Ok(()),
        }
    }
}

/// [The digest] that clients may compare: of the attributes that the answer has, by name.
///
/// [The digest]: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html#sqs-attributes-md5-message-digest-calculation
fn md5_of_attributes(attributes: &MessageAttributes) -> Option<String> {
    let mut bytes = Vec::new();
    for (name, attribute) in attributes {
        if let Some((kind, value)) = attribute.value() {
            push(&mut bytes, name.as_bytes());
            push(&mut bytes, attribute.data_type.as_bytes());
            bytes.push(kind);
            push(&mut bytes, &value);
        }
    }
    (!bytes.is_empty()).then(|| md5_of(&bytes))
}

fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    // No part of a message of at most 1 MiB is too long for this.
    bytes.extend((part.len() as u32).to_be_bytes());
    bytes.extend(part);
}

fn md5_of(bytes: &[u8]) -> String {
    format!("{:x}", md5::compute(bytes))
}

/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html#API_SendMessage_RequestParameters>
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{FFFD}' | '\u{10000}'..)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SendMessage {
    #[serde(default)]
    message_body: String,
    delay_seconds: Option<i64>,
    #[serde(default)]
    message_attributes: MessageAttributes,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Sent {
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
        let mut attributes = self.message_attributes.iter();
        attributes.try_for_each(|(name, attribute)| attribute.check(name))
    }
}

impl Action for SendMessage {
    type Answer = Sent;

    fn size(&self) -> usize {
        let attributes = self.message_attributes.iter().map(|(name, attribute)| {
            let value = attribute.value().map_or(0, |(_, bytes)| bytes.len());
            name.len() + attribute.data_type.len() + value
        });
        self.message_body.len() + attributes.sum::<usize>()
    }

    fn apply(self, queue: &Queue, db: &Connection, clock: Clock) -> Result<Sent, Error> {
        self.check(queue.attributes.maximum_message_size)?;
        let delay = match self.delay_seconds {
            Some(asked) => within("DelaySeconds", asked, 0..=900)?,
            None => queue.attributes.delay_seconds,
        };
        let now = clock.now();
        // In the order of time, which keeps the primary key's tree compact.
        let message_id = Uuid::now_v7().to_string();
        let attributes = serde_json::to_string(&self.message_attributes).map_err(Error::Stored)?;
        let visible_at = now + clock.millis(delay);
        let mut statement = db.prepare_cached(
            "INSERT INTO messages (id, queue, sent_at, visible_at, attributes, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        statement.execute((&message_id, &queue.name, now, visible_at, attributes, &self.message_body))?;
        // Who wakes finds the store locked until this is committed.
        queue.wake.notify_waiters();
        Ok(Sent {
            message_id,
            md5_of_body: md5_of(self.message_body.as_bytes()),
            md5_of_attributes: md5_of_attributes(&self.message_attributes),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteMessage {
    receipt_handle: String,
}

impl Action for DeleteMessage {
    type Answer = Done;

    /// Whichever receive the handle is of, and also when the message is gone.
    fn apply(self, queue: &Queue, db: &Connection, _clock: Clock) -> Result<Done, Error> {
        let id = received_as(&self.receipt_handle, queue)?;
        db.prepare_cached("DELETE FROM messages WHERE id = ?1 AND queue = ?2")?.execute((id, &queue.name))?;
        Ok(Done {})
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangeMessageVisibility {
    receipt_handle: String,
    visibility_timeout: i64,
}

impl Action for ChangeMessageVisibility {
    type Answer = Done;

    /// Whichever receive the handle is of, as AWS doesn't say that an older one can't.
    fn apply(self, queue: &Queue, db: &Connection, clock: Clock) -> Result<Done, Error> {
        let asked = self.visibility_timeout;
        let timeout = within("VisibilityTimeout", asked, 0..=MAX_VISIBILITY_SECONDS)?;
        let id = received_as(&self.receipt_handle, queue)?;
        let found: Option<(i64, i64)> = db
            .prepare_cached("SELECT visible_at, received_at FROM messages WHERE id = ?1 AND queue = ?2")?
            .query_row((id, &queue.name), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((visible_at, received_at)) = found else {
            let reason = "Message does not exist or is not available for visibility timeout change.";
            return Err(Error::invalid("ReceiptHandle", &self.receipt_handle, reason));
        };
        let now = clock.now();
        if visible_at <= now {
            return Err(Error::MessageNotInflight);
        }
        let until = now + clock.millis(timeout);
        if until > received_at + clock.millis(MAX_VISIBILITY_SECONDS) {
            let reason = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]";
            return Err(Error::invalid("VisibilityTimeout", &asked.to_string(), reason));
        }
        db.prepare_cached("UPDATE messages SET visible_at = ?2 WHERE id = ?1")?.execute((id, until))?;
        queue.wake.notify_waiters();
        Ok(Done {})
    }
}

fn receipt_handle(queue: &Queue, receive_count: u32, id: &str) -> String {
    format!("{}/{receive_count}/{id}", queue.name)
}

/// The id of the message whose receipt this is.
fn received_as<'a>(handle: &'a str, queue: &Queue) -> Result<&'a str, Error> {
    let id = || {
        let (count, id) = handle.strip_prefix(&queue.name)?.strip_prefix('/')?.split_once('/')?;
        count.parse::<u32>().ok()?;
        Uuid::try_parse(id).is_ok().then_some(id)
    };
    id().ok_or_else(|| Error::ReceiptHandleIsInvalid(handle.to_owned()))
}

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
pub(super) struct Received {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) messages: Vec<Message>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Message {
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

/// A message as the file has it.
struct Stored {
    id: String,
    sent_at: i64,
    first_received_at: Option<i64>,
    receive_count: u32,
    source: Option<String>,
    attributes: String,
    body: String,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            sent_at: row.get(1)?,
            first_received_at: row.get(2)?,
            receive_count: row.get(3)?,
            source: row.get(4)?,
            attributes: row.get(5)?,
            body: row.get(6)?,
        })
    }

    /// What the receive at `now`, the message's next, answers.
    fn received(self, request: &ReceiveMessage, queue: &Queue, now: i64) -> Result<Message, Error> {
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
        attributes.retain(|name, _| request.wants_system(name));
        let mut message_attributes: MessageAttributes =
            serde_json::from_str(&self.attributes).map_err(Error::Stored)?;
        message_attributes.retain(|name, _| request.wants(name));
        Ok(Message {
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

impl Store {
    /// How long a receive is to wait, and for what.
    pub(super) fn poll(&self, request: &ReceiveMessage) -> Result<(Arc<Notify>, Duration), Error> {
        let queue = self.queue(&request.queue_url)?;
        let wait = match request.wait_time_seconds {
            Some(asked) => within("WaitTimeSeconds", asked, 0..=20)?,
            None => queue.attributes.receive_message_wait_time,
        };
        Ok((queue.wake.clone(), duration(self.clock.millis(wait))))
    }

    /// The messages that are visible now; when there are none, also how long until one will be.
    pub(super) fn receive(&mut self, request: &ReceiveMessage) -> Result<(Received, Option<Duration>), Error> {
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
                let visible = visible(queue, db, now, most)?;
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
                // Not a second time: with a timeout of 0 they would be found again.
                if !messages.is_empty() {
                    break;
                }
            }
            let next = if messages.is_empty() { next_visible(queue, db)? } else { None };
            Ok((Received { messages }, next.map(|next| duration(next - now))))
        })?;
        if let Some(queue) = dead_letters {
            self.queue(&queue)?.wake.notify_waiters();
        }
        Ok(answer)
    }
}

fn visible(queue: &Queue, db: &Connection, now: i64, most: u32) -> Result<Vec<Stored>, Error> {
    let mut statement = db.prepare_cached(
        "SELECT id, sent_at, first_received_at, receive_count, source, attributes, body
         FROM messages WHERE queue = ?1 AND visible_at <= ?2 ORDER BY visible_at, id LIMIT ?3",
    )?;
    let rows = statement.query_map((&queue.name, now, most), Stored::read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn next_visible(queue: &Queue, db: &Connection) -> Result<Option<i64>, Error> {
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

fn move_to(target: &str, id: &str, from: &Queue, db: &Connection, now: i64) -> Result<(), Error> {
    let mut statement =
        db.prepare_cached("UPDATE messages SET queue = ?2, source = ?3, visible_at = ?4 WHERE id = ?1")?;
    statement.execute((id, target, from.arn(), now))?;
    Ok(())
}

fn duration(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
