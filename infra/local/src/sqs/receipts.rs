//! Receipt handles, and the operations that need one: `DeleteMessage` and `ChangeMessageVisibility`.

use rusqlite::{Connection, OptionalExtension};
use serde::Deserialize;
use uuid::Uuid;

use super::batch::MessageOperation;
use super::clock::Clock;
use super::error::Error;
use super::fairness::add_processing;
use super::operation::{Empty, within};
use super::store::StoredQueue;

/// The longest visibility timeout, 12 hours, in seconds.
pub(super) const MAX_VISIBILITY_SECONDS: u32 = 43_200;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteMessage {
    receipt_handle: String,
}

impl MessageOperation for DeleteMessage {
    type Output = Empty;

    /// Also accepts the handle of an earlier receive or of a deleted message.
    fn apply(self, queue: &StoredQueue, db: &Connection, clock: Clock) -> Result<Empty, Error> {
        let id = message_id(&self.receipt_handle, queue)?;
        let deleted: Option<(String, Option<i64>)> = db
            .prepare_cached("DELETE FROM messages WHERE id = ?1 AND queue = ?2 RETURNING group_id, received_at")?
            .query_row((id, &queue.name), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((group, Some(received_at))) = deleted {
            add_processing(&group, received_at, queue, db, clock)?;
        }
        Ok(Empty {})
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangeMessageVisibility {
    receipt_handle: String,
    visibility_timeout: i64,
}

impl MessageOperation for ChangeMessageVisibility {
    type Output = Empty;

    /// Also accepts the handle of an earlier receive, as AWS does not exclude it.
    fn apply(self, queue: &StoredQueue, db: &Connection, clock: Clock) -> Result<Empty, Error> {
        let asked = self.visibility_timeout;
        let timeout = within("VisibilityTimeout", asked, 0..=MAX_VISIBILITY_SECONDS)?;
        let id = message_id(&self.receipt_handle, queue)?;
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
        Ok(Empty {})
    }
}

pub(super) fn receipt_handle(queue: &StoredQueue, receive_count: u32, id: &str) -> String {
    format!("{}/{receive_count}/{id}", queue.name)
}

/// The id of the message of a receipt handle.
fn message_id<'a>(handle: &'a str, queue: &StoredQueue) -> Result<&'a str, Error> {
    let id = || {
        let (count, id) = handle.strip_prefix(&queue.name)?.strip_prefix('/')?.split_once('/')?;
        count.parse::<u32>().ok()?;
        Uuid::try_parse(id).is_ok().then_some(id)
    };
    id().ok_or_else(|| Error::ReceiptHandleIsInvalid(handle.to_owned()))
}
