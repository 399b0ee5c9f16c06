use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Clock, Error, Operation};

const ARN: &str = "arn:aws:sqs:us-east-1:000000000000:";

/// A queue's attributes, as [SetQueueAttributes] defines them: times in seconds, sizes in bytes.
///
/// [SetQueueAttributes]: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueAttributes {
    /// `VisibilityTimeout`, 0 to 43,200: how long a received message is hidden unless the receive says otherwise.
    pub visibility_timeout: u32,
    /// `DelaySeconds`, 0 to 900: how long a new message is hidden unless it says otherwise.
    pub delay_seconds: u32,
    /// `ReceiveMessageWaitTimeSeconds`, 0 to 20: how long a receive waits unless it says otherwise.
    pub receive_message_wait_time: u32,
    /// `MessageRetentionPeriod`, 60 to 1,209,600: how long a message is kept.
    pub message_retention_period: u32,
    /// `MaximumMessageSize`, 1,024 to 1,048,576: body and attributes together.
    pub maximum_message_size: u32,
    /// `RedrivePolicy`: the name of the dead-letter queue, which must exist, and `maxReceiveCount`, 1 to 1,000.
    pub max_receive: Option<(String, u32)>,
}

impl Default for QueueAttributes {
    fn default() -> Self {
        Self {
            visibility_timeout: 30,
            delay_seconds: 0,
            receive_message_wait_time: 0,
            message_retention_period: 345_600,
            maximum_message_size: 1_048_576,
            max_receive: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    max_receive_count: Count,
}

/// AWS takes the number as a string as well, which is how most of its own examples write it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u32),
    Text(String),
}

impl QueueAttributes {
    const NAMES: [&str; 6] = [
        "VisibilityTimeout",
        "DelaySeconds",
        "ReceiveMessageWaitTimeSeconds",
        "MessageRetentionPeriod",
        "MaximumMessageSize",
        "RedrivePolicy",
    ];

    fn get(&self, name: &str) -> Option<String> {
        let number = match name {
            "VisibilityTimeout" => self.visibility_timeout,
            "DelaySeconds" => self.delay_seconds,
            "ReceiveMessageWaitTimeSeconds" => self.receive_message_wait_time,
            "MessageRetentionPeriod" => self.message_retention_period,
            "MaximumMessageSize" => self.maximum_message_size,
            _ => {
                let (queue, count) = self.max_receive.as_ref()?;
                let policy = RedrivePolicy {
                    dead_letter_target_arn: format!("{ARN}{queue}"),
                    max_receive_count: Count::Number(*count),
                };
                return serde_json::to_string(&policy).ok();
            }
        };
        Some(number.to_string())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let number = |range: RangeInclusive<u32>| {
            let number = value.parse().ok().filter(|number| range.contains(number));
            number.ok_or_else(|| Error::InvalidAttributeValue(name.to_owned()))
        };
        match name {
            "VisibilityTimeout" => self.visibility_timeout = number(0..=43_200)?,
            "DelaySeconds" => self.delay_seconds = number(0..=900)?,
            "ReceiveMessageWaitTimeSeconds" => self.receive_message_wait_time = number(0..=20)?,
            "MessageRetentionPeriod" => self.message_retention_period = number(60..=1_209_600)?,
            "MaximumMessageSize" => self.maximum_message_size = number(1024..=1_048_576)?,
            // How a policy is removed.
            "RedrivePolicy" if value.is_empty() => self.max_receive = None,
            "RedrivePolicy" => self.max_receive = Some(redrive_policy(value)?),
            _ => return Err(Error::InvalidAttributeName(name.to_owned())),
        }
        Ok(())
    }
}

fn redrive_policy(value: &str) -> Result<(String, u32), Error> {
    let policy = || {
        let policy: RedrivePolicy = serde_json::from_str(value).ok()?;
        let queue = policy.dead_letter_target_arn.strip_prefix(ARN)?.to_owned();
        let count = match policy.max_receive_count {
            Count::Number(number) => number,
            Count::Text(text) => text.parse().ok()?,
        };
        (1..=1000).contains(&count).then_some((queue, count))
    };
    policy().ok_or_else(|| {
        let reason =
            format!("Must have a deadLetterTargetArn that starts with {ARN} and a maxReceiveCount from 1 to 1000.");
        Error::invalid("RedrivePolicy", value, &reason)
    })
}

/// The file, and what its `queues` table says, with whom to wake.
pub(super) struct Store {
    db: Connection,
    queues: BTreeMap<String, Queue>,
    pub(super) clock: Clock,
}

pub(super) struct Queue {
    pub(super) name: String,
    pub(super) attributes: QueueAttributes,
    created_at: i64,
    modified_at: i64,
    /// Notified when a message became visible, or will do so earlier than a waiting receive knows.
    pub(super) wake: Arc<Notify>,
}

impl Queue {
    pub(super) fn arn(&self) -> String {
        format!("{ARN}{}", self.name)
    }
}

impl Store {
    pub(super) fn open(path: Option<&Path>, clock: Clock) -> Result<Self, Error> {
        let db = match path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        db.set_prepared_statement_cache_capacity(32);
        // A commit is in the operating system's hands before SendMessage is answered, so the death of the process
        // loses nothing. A power cut may take the last commits with it, but with NORMAL it can't damage the file.
        db.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS queues (
                 name TEXT PRIMARY KEY,
                 attributes TEXT NOT NULL,
                 created_at INTEGER NOT NULL,
                 modified_at INTEGER NOT NULL
             );
             CREATE TABLE IF NOT EXISTS messages (
                 id TEXT PRIMARY KEY,
                 queue TEXT NOT NULL,
                 sent_at INTEGER NOT NULL,
                 visible_at INTEGER NOT NULL,
                 first_received_at INTEGER,
                 received_at INTEGER,
                 receive_count INTEGER NOT NULL DEFAULT 0,
                 source TEXT,
                 attributes TEXT NOT NULL,
                 body TEXT NOT NULL
             );
             CREATE INDEX IF NOT EXISTS messages_by_visibility ON messages (queue, visible_at);
             CREATE INDEX IF NOT EXISTS messages_by_age ON messages (queue, sent_at);",
        )?;
        let mut store = Self { db, queues: BTreeMap::new(), clock };
        store.load()?;
        Ok(store)
    }

    fn load(&mut self) -> Result<(), Error> {
        let mut statement = self.db.prepare("SELECT name, attributes, created_at, modified_at FROM queues")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let attributes: String = row.get(1)?;
            let queue = Queue {
                name: row.get(0)?,
                attributes: serde_json::from_str(&attributes).map_err(Error::Stored)?,
                created_at: row.get(2)?,
                modified_at: row.get(3)?,
                wake: Arc::default(),
            };
            self.queues.insert(queue.name.clone(), queue);
        }
        Ok(())
    }

    pub(super) fn put_queue(&mut self, name: &str, attributes: QueueAttributes) -> Result<(), Error> {
        check_name(name)?;
        // A caller in Rust hasn't come past the ranges.
        let mut checked = QueueAttributes::default();
        for attribute in QueueAttributes::NAMES {
            if let Some(value) = attributes.get(attribute) {
                checked.set(attribute, &value)?;
            }
        }
        if let Some((target, _)) = &checked.max_receive
            && (target == name || !self.queues.contains_key(target))
        {
            let reason = "Dead letter target does not exist, or is the queue itself.";
            return Err(Error::invalid("RedrivePolicy", target, reason));
        }
        let now = self.clock.now();
        let created_at = self.queues.get(name).map_or(now, |queue| queue.created_at);
        let stored = serde_json::to_string(&checked).map_err(Error::Stored)?;
        self.db
            .prepare_cached("INSERT OR REPLACE INTO queues VALUES (?1, ?2, ?3, ?4)")?
            .execute((name, stored, created_at, now))?;
        let queue = self.queues.entry(name.to_owned()).or_insert_with(|| Queue {
            name: name.to_owned(),
            attributes: QueueAttributes::default(),
            created_at,
            modified_at: now,
            wake: Arc::default(),
        });
        queue.attributes = checked;
        queue.modified_at = now;
        Ok(())
    }

    pub(super) fn release(&mut self, name: &str) -> Result<(), Error> {
        let now = self.clock.now();
        self.transact(name, |queue, db| {
            db.execute(
                "UPDATE messages SET visible_at = ?2 WHERE queue = ?1 AND visible_at > ?2 AND receive_count > 0",
                (&queue.name, now),
            )?;
            queue.wake.notify_waiters();
            Ok(())
        })
    }

    pub(super) fn queue(&self, url: &str) -> Result<&Queue, Error> {
        find(&self.queues, url)
    }

    /// Does all of `work`, or nothing when it fails, on a queue without the messages that it needn't keep any longer.
    pub(super) fn transact<T>(
        &mut self,
        queue_url: &str,
        work: impl FnOnce(&Queue, &Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let queue = find(&self.queues, queue_url)?;
        let kept = self.clock.millis(queue.attributes.message_retention_period);
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction
            .prepare_cached("DELETE FROM messages WHERE queue = ?1 AND sent_at <= ?2")?
            .execute((&queue.name, self.clock.now() - kept))?;
        let done = work(queue, &transaction)?;
        transaction.commit()?;
        Ok(done)
    }
}

/// The queue that a URL means, or a bare name: the host is whatever the client calls this machine.
fn find<'a>(queues: &'a BTreeMap<String, Queue>, url: &str) -> Result<&'a Queue, Error> {
    let name = url.rsplit('/').next().unwrap_or(url);
    queues.get(name).ok_or(Error::QueueDoesNotExist)
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.ends_with(".fifo") {
        return Err(Error::UnsupportedOperation(name.to_owned()));
    }
    if !is_name(name) {
        let reason = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length.";
        return Err(Error::invalid("QueueName", name, reason));
    }
    Ok(())
}

/// What the name of a queue may be, and the id of an entry in a batch.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=80).contains(&text.len()) && text.chars().all(allowed)
}

fn url(host: &str, name: &str) -> String {
    format!("http://{host}/000000000000/{name}")
}

/// The answer of an operation that has nothing to say.
#[derive(Serialize)]
pub(super) struct Done {}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueueUrl {
    queue_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateQueue {
    queue_name: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl Operation for CreateQueue {
    type Answer = QueueUrl;

    fn run(self, store: &mut Store, host: &str) -> Result<QueueUrl, Error> {
        let name = self.queue_name;
        let existing = store.queues.get(&name).map(|queue| &queue.attributes);
        let mut wanted = existing.cloned().unwrap_or_default();
        for (attribute, value) in &self.attributes {
            wanted.set(attribute, value)?;
        }
        match existing {
            None => store.put_queue(&name, wanted)?,
            Some(existing) => {
                let differs = |attribute: &&String| existing.get(attribute) != wanted.get(attribute);
                if let Some(attribute) = self.attributes.keys().find(differs) {
                    return Err(Error::QueueNameExists(attribute.clone()));
                }
            }
        }
        Ok(QueueUrl { queue_url: url(host, &name) })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetQueueUrl {
    queue_name: String,
}

impl Operation for GetQueueUrl {
    type Answer = QueueUrl;

    fn run(self, store: &mut Store, host: &str) -> Result<QueueUrl, Error> {
        let queue = store.queues.get(&self.queue_name).ok_or(Error::QueueDoesNotExist)?;
        Ok(QueueUrl { queue_url: url(host, &queue.name) })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetQueueAttributes {
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attributes {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'static str, String>,
}

impl Operation for GetQueueAttributes {
    type Answer = Attributes;

    fn run(self, store: &mut Store, _host: &str) -> Result<Attributes, Error> {
        let now = store.clock.now();
        let mut attributes = store.transact(&self.queue_url, |queue, db| {
            let [visible, in_flight, delayed] = db
                .prepare_cached(
                    "SELECT count(*) FILTER (WHERE visible_at <= ?2),
                            count(*) FILTER (WHERE visible_at > ?2 AND receive_count > 0),
                            count(*) FILTER (WHERE visible_at > ?2 AND receive_count = 0)
                     FROM messages WHERE queue = ?1",
                )?
                .query_row((&queue.name, now), |row| Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?]))?;
            let mut attributes = BTreeMap::from([
                ("QueueArn", queue.arn()),
                ("CreatedTimestamp", (queue.created_at / 1000).to_string()),
                ("LastModifiedTimestamp", (queue.modified_at / 1000).to_string()),
                ("ApproximateNumberOfMessages", visible.to_string()),
                ("ApproximateNumberOfMessagesNotVisible", in_flight.to_string()),
                ("ApproximateNumberOfMessagesDelayed", delayed.to_string()),
            ]);
            for name in QueueAttributes::NAMES {
                if let Some(value) = queue.attributes.get(name) {
                    attributes.insert(name, value);
                }
            }
            Ok(attributes)
        })?;
        let known =
            |name: &str| name == "All" || attributes.contains_key(name) || QueueAttributes::NAMES.contains(&name);
        if let Some(unknown) = self.attribute_names.iter().find(|name| !known(name)) {
            return Err(Error::InvalidAttributeName(unknown.clone()));
        }
        let asked = |name: &str| self.attribute_names.iter().any(|a| a == name || a == "All");
        attributes.retain(|name, _| asked(name));
        Ok(Attributes { attributes })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SetQueueAttributes {
    queue_url: String,
    attributes: BTreeMap<String, String>,
}

impl Operation for SetQueueAttributes {
    type Answer = Done;

    fn run(self, store: &mut Store, _host: &str) -> Result<Done, Error> {
        let queue = store.queue(&self.queue_url)?;
        let (name, mut attributes) = (queue.name.clone(), queue.attributes.clone());
        for (attribute, value) in &self.attributes {
            attributes.set(attribute, value)?;
        }
        store.put_queue(&name, attributes)?;
        Ok(Done {})
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListQueues {
    queue_name_prefix: String,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueueUrls {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    queue_urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<String>,
}

impl Operation for ListQueues {
    type Answer = QueueUrls;

    fn run(self, store: &mut Store, host: &str) -> Result<QueueUrls, Error> {
        let page = match self.max_results {
            Some(asked) => within("MaxResults", asked, 1..=1000)? as usize,
            None => 1000,
        };
        // The token is the last name of the page before.
        let after = self.next_token.unwrap_or_default();
        let mut names = store
            .queues
            .keys()
            .filter(|name| name.starts_with(&self.queue_name_prefix) && (after.is_empty() || **name > after));
        let listed: Vec<_> = names.by_ref().take(page).collect();
        let more = self.max_results.is_some() && names.next().is_some();
        Ok(QueueUrls {
            queue_urls: listed.iter().map(|name| url(host, name)).collect(),
            next_token: listed.last().filter(|_| more).map(|name| (*name).clone()),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PurgeQueue {
    queue_url: String,
}

impl Operation for PurgeQueue {
    type Answer = Done;

    fn run(self, store: &mut Store, _host: &str) -> Result<Done, Error> {
        store.transact(&self.queue_url, |queue, db| {
            db.execute("DELETE FROM messages WHERE queue = ?1", [&queue.name])?;
            Ok(Done {})
        })
    }
}

/// A number parameter that must be in a range.
pub(super) fn within(parameter: &str, value: i64, range: RangeInclusive<u32>) -> Result<u32, Error> {
    let number = u32::try_from(value).ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (least, most) = range.into_inner();
        Error::invalid(parameter, &value.to_string(), &format!("Must be between {least} and {most}, if provided."))
    })
}
