//! The SQLite file with the queues and their messages.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::Notify;

use super::attributes::{ARN_PREFIX, QueueAttributes};
use super::clock::Clock;
use super::error::Error;

/// The database, and a copy of its table `queues`.
pub(super) struct QueueStore {
    db: Connection,
    pub(super) queues: BTreeMap<String, StoredQueue>,
    pub(super) clock: Clock,
}

pub(super) struct StoredQueue {
    pub(super) name: String,
    pub(super) attributes: QueueAttributes,
    /// Milliseconds since 1970.
    pub(super) created_at: i64,
    /// Milliseconds since 1970.
    pub(super) modified_at: i64,
    /// Notified when a message has become visible, or will become visible earlier than a waiting receive expects.
    pub(super) wake: Arc<Notify>,
}

impl StoredQueue {
    pub(super) fn arn(&self) -> String {
        format!("{ARN_PREFIX}{}", self.name)
    }
}

impl QueueStore {
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
                 body TEXT NOT NULL,
                 group_id TEXT NOT NULL DEFAULT ''
             );
             CREATE TABLE IF NOT EXISTS processing (
                 queue TEXT NOT NULL,
                 group_id TEXT NOT NULL,
                 minute INTEGER NOT NULL,
                 millis INTEGER NOT NULL,
                 PRIMARY KEY (queue, minute, group_id)
             );",
        )?;
        // The file of an earlier version has no groups.
        let has_groups = "SELECT count(*) FROM pragma_table_info('messages') WHERE name = 'group_id'";
        if db.query_row(has_groups, [], |row| row.get::<_, i64>(0))? == 0 {
            db.execute_batch("ALTER TABLE messages ADD COLUMN group_id TEXT NOT NULL DEFAULT ''")?;
        }
        db.execute_batch(
            "DROP INDEX IF EXISTS messages_by_visibility;
             CREATE INDEX IF NOT EXISTS messages_by_visibility_and_group ON messages (queue, visible_at, group_id);
             CREATE INDEX IF NOT EXISTS messages_by_group ON messages (queue, group_id, visible_at);
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
            let queue = StoredQueue {
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
        // The ranges are not yet checked if the caller is Rust code.
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
        let queue = self.queues.entry(name.to_owned()).or_insert_with(|| StoredQueue {
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

    pub(super) fn queue(&self, url: &str) -> Result<&StoredQueue, Error> {
        find(&self.queues, url)
    }

    /// Runs `work` in a transaction, after it has deleted the queue's messages that are older than the retention
    /// period.
    pub(super) fn transact<T>(
        &mut self,
        queue_url: &str,
        work: impl FnOnce(&StoredQueue, &Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let queue = find(&self.queues, queue_url)?;
        let kept = self.clock.millis(queue.attributes.message_retention_period);
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction
            .prepare_cached("DELETE FROM messages WHERE queue = ?1 AND sent_at <= ?2")?
            .execute((&queue.name, self.clock.now() - kept))?;
        let result = work(queue, &transaction)?;
        transaction.commit()?;
        Ok(result)
    }
}

/// The queue of a URL, or of a bare name. The host is ignored, because clients have different names for this machine.
fn find<'a>(queues: &'a BTreeMap<String, StoredQueue>, url: &str) -> Result<&'a StoredQueue, Error> {
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

/// Returns whether `text` is a valid name of a queue, or id of an entry in a batch.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=80).contains(&text.len()) && text.chars().all(allowed)
}
