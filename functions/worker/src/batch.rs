//! One batch of queue messages: its tasks side by side, then what becomes of each message.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::{StreamExt, stream};
use pushlark_plugin::PublishService;
use pushlark_queue::{Record, Subject, Work};
use pushlark_store::{Claimant, Progress, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::BareJid;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, info_span};

use crate::Worker;
use crate::notify::Notified;
use crate::publish::Retry;
use crate::task::Task;

/// Tasks that still run so long before the deadline are given up, to leave time to say so.
const LAST_END: Duration = Duration::from_millis(700);
/// When to look again for what a removal may have missed: DynamoDB's indexes follow "within a fraction of a second".
const SECOND_LOOK: Duration = Duration::from_secs(10);
/// The longest wait between two tries that no push service asked for.
const MAX_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// How many notes are written side by side.
const WRITES: usize = 16;
/// How often a message is given back at once when the time did not suffice; it may be received a hundred times.
const PATIENT_RECEIVES: u32 = 10;

/// How a task ended.
enum Ended {
    /// There is nothing more to do.
    Done(Option<Published>),
    /// It failed and is to be tried again.
    Failed(Retry, Option<Published>),
    /// The time did not suffice.
    NotTried,
}

/// What a repeat of a message must know of one recipient: the services that need nothing more, and the message's number.
struct Published {
    id: String,
    user: BareJid,
    uid: String,
    counted: Option<u32>,
    services: Vec<PublishService>,
}

/// A queue message while its tasks run.
#[derive(Default)]
struct Received {
    message_id: String,
    receipt_handle: String,
    /// How often SQS has delivered it, this time included.
    receive_count: u32,
    published: Vec<Published>,
    retry: Option<Retry>,
    not_tried: bool,
}

impl Ended {
    fn of(notified: Notified, id: String, user: BareJid, uid: String) -> Self {
        let Notified { finished: services, counted, retry } = notified;
        let is_worth_noting = !services.is_empty() || counted.is_some();
        let published = is_worth_noting.then_some(Published { id, user, uid, counted, services });
        match retry {
            None => Self::Done(published),
            Some(retry) => Self::Failed(retry, published),
        }
    }
}

impl Worker {
    /// Handles a batch before `deadline`. The messages that the response names stay in the queue, and come back when
    /// their own turn is.
    pub async fn handle(self: &Arc<Self>, batch: SqsEvent, deadline: Instant) -> SqsBatchResponse {
        let before_deadline = |time| deadline.checked_sub(time).unwrap_or(deadline);
        let (last_start, last_end) = (before_deadline(self.last_start), before_deadline(LAST_END));
        let last_publish = before_deadline(LAST_END + self.delivery.timeout());
        let mut received: Vec<Received> = Vec::with_capacity(batch.records.len());
        let mut running = JoinSet::new();
        let mut unfinished = HashMap::new();
        for message in batch.records {
            let index = received.len();
            let body = message.body.clone().unwrap_or_default();
            received.push(Received::from(message));
            match Task::read(&body, &self.disclosure) {
                Ok(tasks) => {
                    for task in tasks {
                        let id = task.id().to_owned();
                        let task = running.spawn(Arc::clone(self).work(task, last_start, last_publish));
                        unfinished.insert(task.id(), (index, id));
                    }
                }
                Err(unreadable) => {
                    count(Metric::DeadLettered);
                    let message_id = &received[index].message_id;
                    tracing::error!(message_id, error = %Causes(&unreadable), "moved to the dead-letter queue");
                    if let Err(error) = self.dead_letters.send_text(&body).await {
                        tracing::error!(message_id, error = %Causes(&error), "not moved to the dead-letter queue");
                        received[index].retry = Some(Retry::BackingOff);
                    }
                }
            }
        }
        while let Ok(Some(ended)) = timeout_at(last_end, running.join_next_with_id()).await {
            let task = ended.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
            let Some((index, id)) = unfinished.remove(&task) else { continue };
            received[index].note(ended.map_or_else(
                // What the panic says may be a message's text.
                |_| {
                    tracing::error!(id, "a task failed: it panicked");
                    Ended::Failed(Retry::BackingOff, None)
                },
                |(_, ended)| ended,
            ));
        }
        for (index, id) in unfinished.into_values() {
            tracing::error!(id, "a task was given up at the deadline");
            received[index].note(Ended::Failed(Retry::BackingOff, None));
        }
        self.settle(received).await
    }

    async fn work(self: Arc<Self>, task: Task, last_start: Instant, last_publish: Instant) -> Ended {
        // The semaphore is never closed.
        let _permit = self.recipients.acquire().await.ok();
        if Instant::now() >= last_start {
            return Ended::NotTried;
        }
        let id = task.id().to_owned();
        match task {
            Task::Notify { mut event, facts, uid } => {
                let user = event.recipient();
                let span = info_span!("message", id, recipient = %user);
                let notified = self.notify(&mut event, facts, &uid, last_publish).instrument(span).await;
                Ended::of(notified, id, user, uid)
            }
            Task::NotifyDevice { published, at, uid, .. } => {
                let span = info_span!("message", id, recipient = %published.owner);
                let notified = self.notify_device(&id, &published, at, &uid, last_publish).instrument(span).await;
                Ended::of(notified, id, published.owner, uid)
            }
            Task::RemoveUser { user, at, .. } => {
                let removed = self.store.remove_user(&user, at, || Instant::now() < last_start).await;
                self.go_on(removed, Work { id, at, subject: Subject::UserRemoved { jid: user } }).await
            }
            Task::RemoveDomain { domain, at, .. } => {
                let removed = self.store.remove_domain(&domain, at, || Instant::now() < last_start).await;
                self.go_on(removed, Work { id, at, subject: Subject::DomainRemoved { domain } }).await
            }
        }
    }

    /// Ends a step of a removal. What is left is a new message, since this one may be received a hundred times only; when
    /// both are received, nothing is removed twice.
    async fn go_on(&self, removed: Result<Progress, StoreError>, work: Work) -> Ended {
        let id = work.id.clone();
        let delay = match removed {
            Ok(Progress::Complete) => {
                let (user, domain) = match &work.subject {
                    Subject::UserRemoved { jid } => (Some(jid.as_str()), None),
                    Subject::DomainRemoved { domain } => (None, Some(domain.as_str())),
                    _ => (None, None),
                };
                tracing::info!(id, user, domain, "removed");
                return Ended::Done(None);
            }
            Ok(Progress::Swept) => SECOND_LOOK,
            Ok(Progress::Partial) => Duration::ZERO,
            Err(error) => {
                tracing::error!(id, error = %Causes(&error), "not removed yet");
                return Ended::Failed(Retry::BackingOff, None);
            }
        };
        for record in Record::pack([work]) {
            if let Err(error) = self.queue.send_later(&record, delay).await {
                tracing::error!(id, error = %Causes(&error), "not removed yet");
                return Ended::Failed(Retry::BackingOff, None);
            }
        }
        tracing::info!(id, seconds = delay.as_secs(), "to be removed further");
        Ended::Done(None)
    }

    /// Answers which messages stay in the queue, after telling the queue when each is to come back.
    async fn settle(&self, received: Vec<Received>) -> SqsBatchResponse {
        let mut response = SqsBatchResponse::default();
        let (mut delays, mut published) = (Vec::new(), Vec::new());
        for message in received {
            let delay = match message.retry {
                Some(Retry::After(asked)) => asked,
                Some(Retry::BackingOff) => backoff(message.receive_count),
                // At once, but not so often that its receives are used up while the plugin is slow.
                None if message.not_tried && message.receive_count < PATIENT_RECEIVES => Duration::ZERO,
                None if message.not_tried => backoff(message.receive_count),
                None => continue,
            };
            published.extend(message.published);
            delays.push((message.receipt_handle, delay));
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = message.message_id;
            response.batch_item_failures.push(failure);
        }
        let delayed = async {
            if let Err(error) = self.queue.delay(&delays).await {
                tracing::warn!(error = %Causes(&error), "messages come back after the queue's own visibility timeout");
            }
        };
        // The messages come back as a whole; without this, what they have published would be published again.
        let notes = published.into_iter().map(|published| self.note(published));
        let noted = stream::iter(notes).buffer_unordered(WRITES).collect::<()>();
        tokio::join!(delayed, noted);
        response
    }

    async fn note(&self, published: Published) {
        let Published { id, user, uid, counted, services } = published;
        let services: Vec<&PublishService> = services.iter().collect();
        let claimant = Claimant { id: &id, user: &user, uid: &uid, counted };
        if let Err(error) = self.store.finish(claimant, &services).await {
            tracing::error!(id, error = %Causes(&error), "a notification may be repeated");
        }
    }
}

impl From<SqsMessage> for Received {
    fn from(message: SqsMessage) -> Self {
        let receive_count = message.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok());
        Self {
            message_id: message.message_id.unwrap_or_default(),
            receipt_handle: message.receipt_handle.unwrap_or_default(),
            receive_count: receive_count.unwrap_or(1),
            ..Self::default()
        }
    }
}

impl Received {
    fn note(&mut self, ended: Ended) {
        let published = match ended {
            Ended::Done(published) => published,
            Ended::Failed(retry, published) => {
                self.retry = self.retry.max(Some(retry));
                published
            }
            Ended::NotTried => {
                self.not_tried = true;
                None
            }
        };
        self.published.extend(published);
    }
}

/// One second, doubling to a quarter of an hour, less up to a quarter so that many failures do not return at once.
fn backoff(receive_count: u32) -> Duration {
    let seconds = 2_u64.saturating_pow(receive_count.saturating_sub(1)).min(MAX_BACKOFF.as_secs());
    Duration::from_secs(seconds - fastrand::u64(0..=seconds / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_a_second_apart_and_then_longer_to_a_quarter_of_an_hour() {
        assert_eq!(backoff(1), Duration::from_secs(1));
        for (receive_count, longest) in [(2, 2), (4, 8), (10, 512), (11, 900), (100, 900), (u32::MAX, 900)] {
            let delay = backoff(receive_count).as_secs();
            assert!(delay <= longest && delay >= longest - longest / 4, "{receive_count}: {delay}");
        }
    }
}
