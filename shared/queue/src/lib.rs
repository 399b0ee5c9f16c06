//! The SQS queue from ingest and the push node to the worker: the format of its records, and the SQS calls.

mod packing;
mod record;

pub use packing::MAX_RECIPIENTS;
pub use record::{
    EncryptedNotification, MessageContext, NodeNotification, Record, RecordError, RegistrationKey, ReportedRecipient,
    Retry, VERSION, Work, WorkKind, redriven,
};

use std::iter;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{BoxError, BuildError};
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, SendMessageBatchRequestEntry};
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

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
/// The maximum length of a `MessageGroupId`, of ASCII letters, digits and punctuation ("Amazon SQS message quotas").
const MAX_GROUP_ID: usize = 128;
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
    is_fair: bool,
}

/// A message to send.
struct Outgoing {
    body: String,
    delay: Duration,
    group: Option<String>,
}

impl Queue {
    /// Creates a queue with the URL `url`.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self { client, url: url.into(), is_fair: false }
    }

    /// Sets whether messages carry the recipients' domain as `MessageGroupId`, so that the messages of one domain do not
    /// delay those of others ("Amazon SQS fair queues"). The recipients of each message are then of one domain.
    pub fn fair(self, is_fair: bool) -> Self {
        Self { is_fair, ..self }
    }

    /// Packs events into records, and sends these in batches, up to [`MAX_CONCURRENT_SENDS`] at once. If it fails, some
    /// records may have been sent.
    pub async fn send(&self, work: Vec<Work>) -> Result<(), QueueError> {
        self.send_later([(Duration::ZERO, work)]).await
    }

    /// Sends events like [`send`](Self::send), each with the delay before which it cannot be received, in whole seconds
    /// and at most [`MAX_TIMER`].
    pub async fn send_later(&self, work: impl IntoIterator<Item = (Duration, Vec<Work>)>) -> Result<(), QueueError> {
        // Records and batches are made when they are sent, since all together may be many times larger than the webhook.
        // Boxed, since the stream moves the futures.
        let sends = batches(self.messages(work)).map(|batch| Box::pin(async { self.send_batch(batch?).await }));
        stream::iter(sends).buffer_unordered(MAX_CONCURRENT_SENDS).try_collect().await
    }

    async fn send_batch(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        let entry = |(index, Outgoing { body, delay, group }): (usize, Outgoing)| {
            let entry = SendMessageBatchRequestEntry::builder().id(format!("{index}")).message_body(body);
            let entry = entry.set_message_group_id(group);
            // Without a value, the delay of the queue applies, which is 0.
            let seconds = Some(delay.min(MAX_TIMER).as_secs() as i32).filter(|seconds| *seconds > 0);
            entry.set_delay_seconds(seconds).build()
        };
        let entries: Result<Vec<_>, BuildError> = messages.into_iter().enumerate().map(entry).collect();
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

    /// Packs events, each list with its own delay, and writes their records.
    fn messages(
        &self,
        work: impl IntoIterator<Item = (Duration, Vec<Work>)>,
    ) -> impl Iterator<Item = Result<Outgoing, QueueError>> {
        let is_fair = self.is_fair;
        let records = work
            .into_iter()
            .flat_map(move |(delay, work)| Record::packed(work, is_fair).map(move |record| (record, delay)));
        records.map(move |(record, delay)| {
            let group = record.domain().filter(|_| is_fair).map(message_group);
            let body = serde_json::to_string(&record).map_err(QueueError::during("accept a record"))?;
            Ok(Outgoing { body, delay, group })
        })
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

/// Returns messages in batches for one SQS call each.
fn batches(
    messages: impl Iterator<Item = Result<Outgoing, QueueError>>,
) -> impl Iterator<Item = Result<Vec<Outgoing>, QueueError>> {
    let mut messages = messages.peekable();
    iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(message) = messages.next_if(|message| {
            let more = message.as_ref().map_or(0, |message| message.body.len());
            batch.is_empty() || (batch.len() < MAX_BATCH_ENTRIES && bytes + more <= BATCH_BYTES)
        }) {
            match message {
                Ok(message) => {
                    bytes += message.body.len();
                    batch.push(message);
                }
                Err(error) => return Some(Err(error)),
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

/// Returns the id of the message group of a domain: the domain, or `#` and its hash if SQS does not accept the domain,
/// such as an internationalised one. No domain begins with `#`.
fn message_group(domain: &str) -> String {
    if domain.len() <= MAX_GROUP_ID && domain.bytes().all(|byte| byte.is_ascii_graphic()) {
        return domain.to_owned();
    }
    format!("#{:x}", Sha256::digest(domain))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_xmpp::BareJid;
    use time::OffsetDateTime;

    use super::*;

    fn removal(jid: &str, bytes: usize) -> Work {
        let kind = WorkKind::UserRemoved { jid: BareJid::new(jid).unwrap() };
        Work::new("i".repeat(bytes), OffsetDateTime::UNIX_EPOCH, kind)
    }

    #[test]
    fn a_batch_has_at_most_ten_records_and_a_quarter_of_a_megabyte() {
        let sizes = |records: &[usize]| {
            let message = |bytes: &usize| Ok(Outgoing { body: "x".repeat(*bytes), delay: Duration::ZERO, group: None });
            batches(records.iter().map(message)).map(|batch| batch.unwrap().len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[32; 25]), [10, 10, 5]);
        assert_eq!(sizes(&[100_000; 5]), [2, 2, 1]);
        assert_eq!(sizes(&[10, 500_000, 10]), [1, 1, 1]);
    }

    #[test]
    fn a_message_of_a_fair_queue_has_the_users_of_one_domain_and_its_group() {
        let config = aws_sdk_sqs::Config::builder().behavior_version(aws_sdk_sqs::config::BehaviorVersion::latest());
        let queue = Queue::new(Client::from_conf(config.build()), "http://localhost/queue");
        let users = ["bob@example.com", "eve@example.org", "carol@example.com", "bücher.example"];
        let groups = |queue: &Queue| -> Vec<(Option<String>, usize)> {
            let work = users.map(|user| removal(user, 8)).into();
            let messages = queue.messages([(Duration::ZERO, work)]).map(|message| message.unwrap());
            messages.map(|message| (message.group, Record::read(&message.body).unwrap().work.len())).collect()
        };
        assert_eq!(groups(&queue), [(None, 4)]);
        let fair = groups(&queue.fair(true));
        assert_eq!(fair[..2], [(Some("example.com".into()), 2), (Some("example.org".into()), 1)]);
        assert_eq!(fair[2], (Some(message_group("bücher.example")), 1));
    }

    #[test]
    fn the_group_of_a_domain_is_accepted_by_sqs_and_its_own() {
        let long = format!("{}.example", ["d"; 61].join("."));
        assert_eq!(long.len(), 129);
        for domain in ["example.com", "[::1]", &long[1..]] {
            assert_eq!(message_group(domain), domain);
        }
        let hashed: Vec<_> = [&long, "bücher.example", "büchse.example"].map(message_group).into();
        for (index, group) in hashed.iter().enumerate() {
            assert!(group.starts_with('#') && group.len() == 65, "{group}");
            assert!(!hashed[..index].contains(group), "{group}");
        }
    }
}
