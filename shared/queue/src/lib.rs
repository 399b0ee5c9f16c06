//! The queue between ingest and the worker: what a record holds, and the SQS calls of both.

mod record;

pub use record::{
    Facts, InvalidRecord, MAX_RECIPIENTS, NodeNotification, Record, RegistrationKey, Retry, Subject, VERSION, Work,
};

use std::iter;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{BoxError, BuildError};
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, SendMessageBatchRequestEntry};
use futures_util::{StreamExt, TryStreamExt, stream};

/// The most entries that one call may carry ("Amazon SQS message quotas").
const MAX_BATCH_ENTRIES: usize = 10;
/// How many bytes the entries of one call have together, unless one alone has more. SQS takes four times as many ("Amazon
/// SQS message quotas"), but bills each 64 KB as a call of its own, and many calls are under way at once.
const BATCH_BYTES: usize = 256 * 1024;
/// How many batches are sent side by side.
const SENDS: usize = 16;
/// How often entries that SQS could not take are sent again before the sender is told.
const SEND_TRIES: usize = 3;
/// A message cannot be hidden for longer than this since it was received ("Amazon SQS visibility timeout"), less the
/// time that the worker may have had it by then.
const MAX_DELAY: Duration = Duration::from_secs(12 * 60 * 60 - 60);

/// The longest time for which SQS keeps a new message back ("Amazon SQS message timers").
pub const MAX_TIMER: Duration = Duration::from_secs(15 * 60);

/// The queue did not do what it was asked; the caller tries again later.
#[derive(Debug, thiserror::Error)]
#[error("the queue could not {action}")]
pub struct QueueError {
    action: &'static str,
    source: BoxError,
}

impl QueueError {
    fn during<E: Into<BoxError>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self { action, source: source.into() }
    }
}

/// One SQS queue.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    /// The queue at `url`.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self { client, url: url.into() }
    }

    /// Sends records in batches, up to [`SENDS`] of them side by side. When it fails, some records may have been sent.
    pub async fn send(&self, records: &[Record]) -> Result<(), QueueError> {
        let at_once: Vec<_> = records.iter().zip(iter::repeat(Duration::ZERO)).collect();
        self.send_later(&at_once).await
    }

    /// The same, for records that are not to be received before a delay, each its own: at most [`MAX_TIMER`], in whole
    /// seconds.
    pub async fn send_later(&self, records: &[(&Record, Duration)]) -> Result<(), QueueError> {
        // A batch is written when it is sent: all of them together may be many times what the webhook had.
        let sends = batches(records).map(async |batch| self.send_batch(batch?).await);
        stream::iter(sends).buffer_unordered(SENDS).try_collect().await
    }

    async fn send_batch(&self, bodies: Vec<(String, Duration)>) -> Result<(), QueueError> {
        let entry = |(index, (body, delay)): (usize, (String, Duration))| {
            let entry = SendMessageBatchRequestEntry::builder().id(format!("{index}")).message_body(body);
            // A queue that is told nothing uses its own delay, which is 0.
            let seconds = Some(delay.min(MAX_TIMER).as_secs() as i32).filter(|seconds| *seconds > 0);
            entry.set_delay_seconds(seconds).build()
        };
        let entries: Result<Vec<_>, BuildError> = bodies.into_iter().enumerate().map(entry).collect();
        let mut entries = entries.map_err(QueueError::during("take a record"))?;
        let mut reason = String::new();
        for _ in 0..SEND_TRIES {
            let sent = self
                .client
                .send_message_batch()
                .queue_url(&self.url)
                .set_entries(Some(entries.clone()))
                .send()
                .await
                .map_err(QueueError::during("take records"))?;
            let Some(failed) = sent.failed.first() else { return Ok(()) };
            reason = failed.message.clone().unwrap_or_else(|| failed.code.clone());
            entries.retain(|entry| sent.failed.iter().any(|failed| failed.id == entry.id));
        }
        Err(QueueError { action: "take records", source: reason.into() })
    }

    /// Sends a text as it stands, as a record that nobody could understand goes to the dead-letter queue.
    pub async fn send_text(&self, text: &str) -> Result<(), QueueError> {
        let message = self.client.send_message().queue_url(&self.url).message_body(text);
        message.send().await.map_err(QueueError::during("take a message"))?;
        Ok(())
    }

    /// Hides received messages, named by their receipt handles, for so long from now.
    pub async fn delay(&self, messages: &[(String, Duration)]) -> Result<(), QueueError> {
        for batch in messages.chunks(MAX_BATCH_ENTRIES) {
            let entries = batch.iter().enumerate().map(|(index, (receipt_handle, delay))| {
                // It is at most 12 hours.
                let seconds = delay.min(&MAX_DELAY).as_secs() as i32;
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(format!("{index}"))
                    .receipt_handle(receipt_handle)
                    .visibility_timeout(seconds)
                    .build()
            });
            let entries: Result<Vec<_>, BuildError> = entries.collect();
            let changed = self
                .client
                .change_message_visibility_batch()
                .queue_url(&self.url)
                .set_entries(Some(entries.map_err(QueueError::during("delay a message"))?))
                .send()
                .await
                .map_err(QueueError::during("delay messages"))?;
            for failed in changed.failed {
                let reason = failed.message.unwrap_or(failed.code);
                tracing::warn!(reason, "a message keeps the queue's own visibility timeout");
            }
        }
        Ok(())
    }
}

/// The bodies of records and their delays, in batches that one call of SQS takes.
fn batches(records: &[(&Record, Duration)]) -> impl Iterator<Item = Result<Vec<(String, Duration)>, QueueError>> {
    fn body((record, delay): &(&Record, Duration)) -> serde_json::Result<(String, Duration)> {
        Ok((serde_json::to_string(record)?, *delay))
    }

    let mut bodies = records.iter().map(body).peekable();
    iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(body) = bodies.next_if(|body| {
            let more = body.as_ref().map_or(0, |(body, _)| body.len());
            batch.is_empty() || (batch.len() < MAX_BATCH_ENTRIES && bytes + more <= BATCH_BYTES)
        }) {
            match body {
                Ok((body, delay)) => {
                    bytes += body.len();
                    batch.push((body, delay));
                }
                Err(error) => return Some(Err(QueueError::during("take a record")(error))),
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_xmpp::BareJid;
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_batch_has_ten_records_or_a_quarter_of_a_megabyte() {
        let user = BareJid::new("bob@example.com").unwrap();
        let record = |bytes: usize| {
            let subject = Subject::UserRemoved { jid: user.clone() };
            Record::pack([Work::new("i".repeat(bytes), OffsetDateTime::UNIX_EPOCH, subject)]).remove(0)
        };
        let sizes = |records: &[Record]| {
            let records: Vec<_> = records.iter().map(|record| (record, Duration::ZERO)).collect();
            batches(&records).map(|batch| batch.unwrap().len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&vec![record(32); 25]), [10, 10, 5]);
        assert_eq!(sizes(&vec![record(100_000); 5]), [2, 2, 1]);
        assert_eq!(sizes(&[record(10), record(500_000), record(10)]), [1, 1, 1]);
    }
}
