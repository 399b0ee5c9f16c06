//! One batch of queue messages: its tasks side by side, then what is left of them back into the queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use pushlark_queue::{InvalidRecord, QueueError, Record, Subject, Work};
use pushlark_store::{Progress, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, info_span};

use crate::Worker;
use crate::decision::LEAST_TIME_TO_LIVE;
use crate::finished::{self, Finished, Note, Notes};
use crate::notify::Notified;
use crate::retry::{Left, Why, backoff, is_early};
use crate::task::{Action, Attempt, Task, Unreadable};

/// Tasks that still run so long before the deadline are given up, to leave time to put them back.
const LAST_END: Duration = Duration::from_millis(700);
/// When to look again for what a removal may have missed: DynamoDB's indexes follow "within a fraction of a second".
const SECOND_LOOK: Duration = Duration::from_secs(10);
/// How often a removal is tried, for a day, before it goes to the dead-letter queue.
const REMOVAL_TRIES: u32 = 100;

/// What the tasks of a batch share.
pub struct Batch {
    /// Publications that need nothing more.
    pub finished: Finished,
    /// No task begins later, …
    last_start: Instant,
    /// … and no publish.
    pub last_publish: Instant,
}

/// A message of the queue.
struct Received {
    message_id: String,
    receipt_handle: String,
    /// How often SQS has delivered it, this time included.
    receive_count: u32,
}

/// A task that was begun.
struct Begun {
    /// The place of its message in the batch.
    message: usize,
    user: Option<BareJid>,
    attempt: Attempt,
}

/// What is left of a task.
struct Rest {
    begun: Begun,
    counted: Option<u32>,
    left: Left,
}

impl Worker {
    /// Handles a batch before `deadline`. What fails is put back into the queue by itself, with its own delay; the messages
    /// that the response names stay in the queue, since they could not be put back.
    pub async fn handle(self: &Arc<Self>, batch: SqsEvent, deadline: Instant) -> SqsBatchResponse {
        let before_deadline = |time| deadline.checked_sub(time).unwrap_or(deadline);
        let last_end = before_deadline(LAST_END);
        let last_publish = before_deadline(LAST_END + self.delivery.timeout());
        let last_start = before_deadline(self.last_start);
        let context = Arc::new(Batch { finished: Finished::default(), last_start, last_publish });
        let mut received: Vec<Received> = Vec::with_capacity(batch.records.len());
        let (mut stay, mut rests) = (BTreeSet::new(), Vec::new());
        let (mut running, mut begun) = (JoinSet::new(), HashMap::new());
        for message in batch.records {
            let index = received.len();
            let body = message.body.clone().unwrap_or_default();
            let message = Received::from(message);
            match Task::read(&body, &message.message_id, message.receive_count > 1, &self.disclosure) {
                Ok(tasks) => {
                    for task in tasks {
                        let this = Begun { message: index, user: task.user(), attempt: task.attempt.clone() };
                        if is_early(&task.attempt.retry) {
                            rests.push(Rest { begun: this, counted: None, left: Left::all(Why::Early) });
                        } else {
                            let handle = running.spawn(Arc::clone(self).work(task, Arc::clone(&context)));
                            begun.insert(handle.id(), this);
                        }
                    }
                }
                Err(unreadable) if !self.dead_letter_unreadable(&message.message_id, &body, &unreadable).await => {
                    stay.insert(index);
                }
                Err(_) => {}
            }
            received.push(message);
        }
        rests.extend(self.run(&mut running, begun, &context, last_end).await);
        let mut notes = context.finished.take();
        stay.extend(self.put_back(rests, &mut notes).await);
        self.response(received, &stay).await
    }

    /// Waits for the tasks, until `last_end`. Returns what is left of them.
    async fn run(
        &self,
        running: &mut JoinSet<Notified>,
        mut begun: HashMap<Id, Begun>,
        batch: &Batch,
        last_end: Instant,
    ) -> Vec<Rest> {
        let mut rests = Vec::new();
        let mut noting = JoinSet::new();
        let held_up = batch.finished.held_up();
        tokio::pin!(held_up);
        loop {
            let ended = tokio::select! {
                biased;
                ended = running.join_next_with_id() => ended,
                () = sleep_until(last_end) => None,
                () = &mut held_up => {
                    held_up.set(batch.finished.held_up());
                    let (store, notes) = (self.store.clone(), batch.finished.take());
                    noting.spawn(async move { finished::write(&store, notes.into_values()).await });
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let task = ended.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
            let Some(begun) = begun.remove(&task) else { continue };
            let Notified { counted, left } = ended.map_or_else(
                // What the panic says may be a message's text.
                |_| {
                    tracing::error!(id = begun.attempt.id(), "a task failed: it panicked");
                    Notified::left(Left::all(Why::FAILED))
                },
                |(_, notified)| notified,
            );
            for left in left {
                let begun = Begun { user: begun.user.clone(), attempt: begun.attempt.clone(), ..begun };
                rests.push(Rest { begun, counted, left });
            }
        }
        // None of them publishes any more when it is put back.
        running.shutdown().await;
        for begun in begun.into_values() {
            tracing::error!(id = begun.attempt.id(), "a task was given up at the deadline");
            rests.push(Rest { begun, counted: None, left: Left::all(Why::FAILED) });
        }
        while noting.join_next().await.is_some() {}
        rests
    }

    async fn work(self: Arc<Self>, task: Task, batch: Arc<Batch>) -> Notified {
        let user = task.user();
        let names = user.as_ref().map(|user| user.as_str());
        let turn = self.recipients.acquire(names.as_slice()).await;
        if Instant::now() >= batch.last_start {
            return Notified::left(Left::all(Why::Untried));
        }
        let Task { action, attempt } = task;
        let id = attempt.id();
        match action {
            Action::Notify { mut event, facts } => {
                let span = info_span!("message", id, recipient = %event.recipient());
                self.notify(&mut event, facts, &attempt, turn, &batch).instrument(span).await
            }
            Action::NotifyDevice(published) => {
                let span = info_span!("message", id, recipient = %published.owner);
                self.notify_device(&published, &attempt, turn, &batch).instrument(span).await
            }
            Action::RemoveUser(user) => {
                let removed = self.store.remove_user(&user, attempt.at(), || Instant::now() < batch.last_start).await;
                self.go_on(removed, &attempt, Subject::UserRemoved { jid: user }).await
            }
            Action::RemoveDomain(domain) => {
                let removed =
                    self.store.remove_domain(&domain, attempt.at(), || Instant::now() < batch.last_start).await;
                self.go_on(removed, &attempt, Subject::DomainRemoved { domain }).await
            }
        }
    }

    /// Ends a step of a removal. What is left is a new message; when both are received, nothing is removed twice.
    async fn go_on(&self, removed: Result<Progress, StoreError>, attempt: &Attempt, subject: Subject) -> Notified {
        let id = attempt.id();
        let delay = match removed {
            Ok(Progress::Complete) => {
                let (user, domain) = match &subject {
                    Subject::UserRemoved { jid } => (Some(jid.as_str()), None),
                    Subject::DomainRemoved { domain } => (None, Some(domain.as_str())),
                    _ => (None, None),
                };
                tracing::info!(id, user, domain, "removed");
                return Notified::default();
            }
            Ok(Progress::Swept) => SECOND_LOOK,
            Ok(Progress::Partial) => Duration::ZERO,
            Err(error) => {
                tracing::error!(id, error = %Causes(&error), "not removed yet");
                return Notified::left(Left::all(Why::FAILED));
            }
        };
        let records = Record::pack([Work::new(id.to_owned(), attempt.at(), subject)]);
        let records: Vec<_> = records.iter().map(|record| (record, delay)).collect();
        if let Err(error) = self.queue.send_later(&records).await {
            tracing::error!(id, error = %Causes(&error), "not removed yet");
            return Notified::left(Left::all(Why::FAILED));
        }
        tracing::info!(id, seconds = delay.as_secs(), "to be removed further");
        Notified::default()
    }

    /// Moves what cannot be read to the dead-letter queue. Returns whether its message is done with: a record of a later
    /// version is left to a worker of that version.
    async fn dead_letter_unreadable(&self, message_id: &str, body: &str, unreadable: &Unreadable) -> bool {
        if let Unreadable::Record(InvalidRecord::Newer(version)) = unreadable {
            tracing::warn!(message_id, version, "left to a newer worker");
            return false;
        }
        count(Metric::DeadLettered);
        tracing::error!(message_id, error = %Causes(unreadable), "moved to the dead-letter queue");
        let sent = self.dead_letters.send_text(body).await;
        if let Err(error) = &sent {
            tracing::error!(message_id, error = %Causes(error), "not moved to the dead-letter queue");
        }
        sent.is_ok()
    }

    /// Puts what is left back into the queue, each with its own delay, and then notes so in the claims: the message that it
    /// came from is deleted, but SQS may deliver it once more. Returns the messages that have to stay in the queue.
    async fn put_back(&self, rests: Vec<Rest>, notes: &mut Notes) -> BTreeSet<usize> {
        let mut by_delay: BTreeMap<Duration, Vec<Work>> = BTreeMap::new();
        let (mut dead, mut messages, mut handed_over) = (Vec::new(), BTreeSet::new(), Notes::new());
        for Rest { begun: Begun { message, user, attempt }, counted, left } in rests {
            messages.insert(message);
            let (retry, delay) = left.next(&attempt.retry, counted);
            let work = attempt.again(retry);
            if self.is_hopeless(&work, &left) {
                dead.push(work);
                continue;
            }
            by_delay.entry(delay).or_default().push(work);
            let Some(user) = user.filter(|_| left.why != Why::Early) else { continue };
            let name = attempt.retry.claimant.clone();
            let note = notes.remove(&name).or_else(|| handed_over.remove(&name));
            let mut note = note.unwrap_or_else(|| Note::new(attempt, user, counted));
            note.put_back.extend(left.registration);
            handed_over.insert(name, note);
        }
        let records = |(delay, work)| Record::pack(work).into_iter().map(move |record| (record, delay));
        let later: Vec<(Record, Duration)> = by_delay.into_iter().flat_map(records).collect();
        let later: Vec<(&Record, Duration)> = later.iter().map(|(record, delay)| (record, *delay)).collect();
        let mut sent = self.queue.send_later(&later).await;
        if sent.is_ok() {
            sent = self.dead_letter(dead).await;
        }
        if let Err(error) = sent {
            tracing::error!(error = %Causes(&error), "not put back: the messages return after their visibility timeout");
            // They return as a whole.
            for note in handed_over.values_mut() {
                note.put_back.clear();
            }
            finished::write(&self.store, handed_over.into_values().chain(std::mem::take(notes).into_values())).await;
            return messages;
        }
        // A later try that has finished must be known to the message that it came from, should SQS deliver that again.
        let of_later_tries = std::mem::take(notes).into_values().filter(Note::is_of_later_try);
        let handed_over = handed_over.into_values().filter(Note::is_worth_writing);
        finished::write(&self.store, handed_over.chain(of_later_tries)).await;
        BTreeSet::new()
    }

    /// Whether to try again is in vain: for a push service, a notification's own time to live says so; else something is
    /// wrong that an operator has to see.
    fn is_hopeless(&self, work: &Work, left: &Left) -> bool {
        let tries = work.retry.as_ref().map_or(0, |retry| retry.tries);
        match (&work.subject, &left.why) {
            (_, Why::Untried | Why::Early) => false,
            (Subject::UserRemoved { .. } | Subject::DomainRemoved { .. }, _) => tries >= REMOVAL_TRIES,
            _ if left.registration.is_some() => false,
            _ => OffsetDateTime::now_utc() - work.at > self.time_to_live.max(LEAST_TIME_TO_LIVE),
        }
    }

    async fn dead_letter(&self, dead: Vec<Work>) -> Result<(), QueueError> {
        for work in &dead {
            count(Metric::DeadLettered);
            tracing::error!(id = work.id, "moved to the dead-letter queue: it failed too often");
        }
        self.dead_letters.send(&Record::pack(dead)).await
    }

    /// Names the messages that stay in the queue, after telling the queue when each is to come back.
    async fn response(&self, received: Vec<Received>, stay: &BTreeSet<usize>) -> SqsBatchResponse {
        let mut response = SqsBatchResponse::default();
        let mut delays = Vec::new();
        for (index, message) in received.into_iter().enumerate() {
            if !stay.contains(&index) {
                continue;
            }
            delays.push((message.receipt_handle, backoff(message.receive_count)));
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = message.message_id;
            response.batch_item_failures.push(failure);
        }
        if let Err(error) = self.queue.delay(&delays).await {
            tracing::warn!(error = %Causes(&error), "messages come back after the queue's own visibility timeout");
        }
        response
    }
}

impl From<SqsMessage> for Received {
    fn from(message: SqsMessage) -> Self {
        let receive_count = message.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok());
        Self {
            message_id: message.message_id.unwrap_or_default(),
            receipt_handle: message.receipt_handle.unwrap_or_default(),
            receive_count: receive_count.unwrap_or(1),
        }
    }
}
