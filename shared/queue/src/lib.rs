//! The SQS queue from ingest and the push node to the worker: the format of its records, and the SQS calls.

mod packing;
mod record;

pub use packing::MAX_RECIPIENTS;
pub use record::{
    EncryptedNotification, MessageContext, NodeNotification, Record, RecordError, RegistrationKey, ReportedRecipient,
    Retry, VERSION, Work, WorkKind,
};

use std::iter;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{BoxError, BuildError};
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, SendMessageBatchRequestEntry};
use futures_util::{StreamExt, TryStreamExt, stream};

/// The maximum number of entries in one call ("Amazon SQS message quotas").
const MAX_BATCH_ENTRIES: usize = 10;
/// The maximum size of the entries of one call together, in bytes, unless a single entry is larger. SQS accepts four
/// times as much ("Amazon SQS message quotas"), but bills each 64 KB as one call, and up to [`MAX_CONCURRENT_SENDS`]
/// calls run at once.
const BATCH_BYTES: usize = 256 * 1024;
/// The maximum number of batches that are sent at once.
const MAX_CONCURRENT_SENDS: usize = 16;
/// The maximum number of attempts to send an entry that SQS rejects.
const MAX_SEND_ATTEMPTS: usize = 3;
/// The maximum visibility timeout of a received message: 12 hours from its receipt ("Amazon SQS visibility timeout"),
/// minus a minute, in which the worker calls [`Queue::delay`].
const MAX_DELAY: Duration = Duration::from_secs(12 * 60 * 60 - 60);

/// The maximum delay of a new message ("Amazon SQS message timers").
pub const MAX_TIMER: Duration = Duration::from_secs(15 * 60);

/// A failed SQS call. A later retry may succeed.
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

/// A client of one SQS queue. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

impl Queue {
    /// Creates a queue with the URL `url`.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self { client, url: url.into() }
    }

    /// Sends records in batches, up to [`MAX_CONCURRENT_SENDS`] at once. If it fails, some records may have been sent.
    pub async fn send(&self, records: impl Iterator<Item = Record> + Send) -> Result<(), QueueError> {
        self.send_later(records.zip(iter::repeat(Duration::ZERO))).await
    }

    /// Sends records like [`send`](Self::send), each with the delay before which it cannot be received, in whole
    /// seconds and at most [`MAX_TIMER`].
    pub async fn send_later(&self, records: impl Iterator<Item = (Record, Duration)> + Send) -> Result<(), QueueError> {
        // A batch is made when it is sent, since all batches together may be many times larger than the webhook.
        let sends = batches(records).map(async |batch| self.send_batch(batch?).await);
        stream::iter(sends).buffer_unordered(MAX_CONCURRENT_SENDS).try_collect().await
    }

    async fn send_batch(&self, bodies: Vec<(String, Duration)>) -> Result<(), QueueError> {
        let entry = |(index, (body, delay)): (usize, (String, Duration))| {
            let entry = SendMessageBatchRequestEntry::builder().id(format!("{index}")).message_body(body);
            // Without a value, the delay of the queue applies, which is 0.
            let seconds = Some(delay.min(MAX_TIMER).as_secs() as i32).filter(|seconds| *seconds > 0);
            entry.set_delay_seconds(seconds).build()
        };
        let entries: Result<Vec<_>, BuildError> = bodies.into_iter().enumerate().map(entry).collect();
        let mut entries = entries.map_err(QueueError::during("accept a record"))?;
        let mut reason = String::new();
        for _ in 0..MAX_SEND_ATTEMPTS {
            let sent = self
                .client
                .send_message_batch()
                .queue_url(&self.url)
                .set_entries(Some(entries.clone()))
                .send()
                .await
                .map_err(QueueError::during("accept records"))?;
            let Some(failed) = sent.failed.first() else { return Ok(()) };
            reason = failed.message.clone().unwrap_or_else(|| failed.code.clone());
            entries.retain(|entry| sent.failed.iter().any(|failed| failed.id == entry.id));
        }
        Err(QueueError { action: "accept records", source: reason.into() })
    }

    /// Sends a text unchanged. The worker moves invalid records to the dead-letter queue in this way.
    pub async fn send_text(&self, text: &str) -> Result<(), QueueError> {
        let message = self.client.send_message().queue_url(&self.url).message_body(text);
        message.send().await.map_err(QueueError::during("accept a message"))?;
        Ok(())
    }

    /// Sets the visibility timeout of received messages, which are named by their receipt handles. It counts from now,
    /// in whole seconds, and is at most 12 hours minus one minute.
    pub async fn delay(&self, messages: &[(String, Duration)]) -> Result<(), QueueError> {
        for batch in messages.chunks(MAX_BATCH_ENTRIES) {
            let entries = batch.iter().enumerate().map(|(index, (receipt_handle, delay))| {
                // At most 12 hours, so the cast does not overflow.
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

/// Returns the bodies and delays of records, in batches for one SQS call each.
fn batches(
    records: impl Iterator<Item = (Record, Duration)> + Send,
) -> impl Iterator<Item = Result<Vec<(String, Duration)>, QueueError>> + Send {
    fn body((record, delay): (Record, Duration)) -> serde_json::Result<(String, Duration)> {
        Ok((serde_json::to_string(&record)?, delay))
    }

    let mut bodies = records.map(body).peekable();
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
                Err(error) => return Some(Err(QueueError::during("accept a record")(error))),
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
    fn a_batch_has_at_most_ten_records_and_a_quarter_of_a_megabyte() {
        let user = BareJid::new("bob@example.com").unwrap();
        let record = |bytes: usize| {
            let kind = WorkKind::UserRemoved { jid: user.clone() };
            Record::new(vec![Work::new("i".repeat(bytes), OffsetDateTime::UNIX_EPOCH, kind)])
        };
        let sizes = |records: &[Record]| {
            batches(records.iter().cloned().zip(iter::repeat(Duration::ZERO)))
                .map(|batch| batch.unwrap().len())
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&vec![record(32); 25]), [10, 10, 5]);
        assert_eq!(sizes(&vec![record(100_000); 5]), [2, 2, 1]);
        assert_eq!(sizes(&[record(10), record(500_000), record(10)]), [1, 1, 1]);
    }
}
