//! The queue between ingest and the worker: what a record holds, and the SQS calls of both.

mod record;

pub use record::{Facts, MAX_RECIPIENTS, NodeNotification, Record, Subject, Work};

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{BoxError, BuildError};
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, SendMessageBatchRequestEntry};

/// The most entries that one call may carry ("Amazon SQS message quotas").
const MAX_BATCH_ENTRIES: usize = 10;
/// The most bytes that the entries of one call may have together ("Amazon SQS message quotas").
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// How often entries that SQS could not take are sent again before the sender is told.
const SEND_TRIES: usize = 3;
/// A message cannot be hidden for longer than this since it was received ("Amazon SQS visibility timeout"), less the
/// time that the worker may have had it by then.
const MAX_DELAY: Duration = Duration::from_secs(12 * 60 * 60 - 60);

/// The longest time for which SQS keeps a new message back.
const MAX_TIMER: Duration = Duration::from_secs(15 * 60);

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

    /// Sends records, in as few calls as SQS allows. When it fails, some of them may have been sent.
    pub async fn send(&self, records: &[Record]) -> Result<(), QueueError> {
        // One batch at a time: all of them together may be many times what the webhook had.
        let mut bodies = records.iter().map(serde_json::to_string).peekable();
        while bodies.peek().is_some() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while let Some(body) = bodies.next_if(|body| {
                let more = body.as_ref().map_or(0, String::len);
                batch.is_empty() || (batch.len() < MAX_BATCH_ENTRIES && bytes + more <= MAX_BATCH_BYTES)
            }) {
                let body = body.map_err(QueueError::during("take a record"))?;
                bytes += body.len();
                batch.push(body);
            }
            self.send_batch(batch).await?;
        }
        Ok(())
    }

    async fn send_batch(&self, bodies: Vec<String>) -> Result<(), QueueError> {
        let entry =
            |(index, body)| SendMessageBatchRequestEntry::builder().id(format!("{index}")).message_body(body).build();
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

    /// Sends one record that is not to be received before so long, at most 15 minutes ("Amazon SQS message timers").
    pub async fn send_later(&self, record: &Record, delay: Duration) -> Result<(), QueueError> {
        let body = serde_json::to_string(record).map_err(QueueError::during("take a record"))?;
        let seconds = delay.min(MAX_TIMER).as_secs() as i32;
        let message = self.client.send_message().queue_url(&self.url).message_body(body).delay_seconds(seconds);
        message.send().await.map_err(QueueError::during("take a record"))?;
        Ok(())
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
