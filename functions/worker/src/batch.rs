//! Handles one batch of queue messages: runs its tasks concurrently, and puts unfinished ones back into the queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use pushlark_queue::{QueueError, RecordError, Work, WorkKind};
use pushlark_store::{RemovalProgress, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{Instrument, error_span};

use crate::claims;
use crate::event_line::{EventLines, LogEvents};
use crate::notify::TaskOutcome;
use crate::order::{Order, Ticket};
use crate::progress::{self, BatchContext, ByAttempt, Progress, RecipientProgress};
use crate::retry::{RetryCause, Unfinished, backoff, is_too_early, until};
use crate::task::{Action, Attempt, Task, TaskError};
use crate::worker::Worker;

/// The time before the deadline at which running tasks are cancelled, to leave time to put them back.
const END_CUTOFF: Duration = Duration::from_millis(700);
/// The delay before a removal searches again for missed items: DynamoDB updates an index "within a fraction of a
/// second".
const RECHECK_DELAY: Duration = Duration::from_secs(10);
/// The attempts of a removal, in about a day, before it goes to the dead-letter queue.
const MAX_REMOVAL_ATTEMPTS: u32 = 100;

/// A queue message, as SQS delivered it.
struct Received {
    message_id: String,
    receipt_handle: String,
    /// The number of deliveries by SQS, including this one.
    receive_count: u32,
}

/// A task of the batch that was started, or that is too early to start.
struct TaskEntry {
    /// The index of its message in the batch.
    message: usize,
    /// The index of the task in the batch: tasks that are put back stay in order.
    index: usize,
    user: Option<BareJid>,
    attempt: Attempt,
    /// The index of the event's log line, if the task was started and has one.
    line: Option<usize>,
}

/// A task that must be retried, or one of its registrations.
struct UnfinishedTask {
    task: TaskEntry,
    /// The unread count, if Pushlark counted the message.
    counted: Option<u32>,
    unfinished: Unfinished,
}

impl Worker {
    /// Handles a batch before `deadline`. A failed task is sent to the queue again, alone and with its own delay. If a
    /// task cannot be sent, its message is in the response and stays in the queue.
    pub async fn handle(self: &Arc<Self>, batch: SqsEvent, deadline: Instant) -> SqsBatchResponse {
        let refresh = self.start_refresh();
        let before_deadline = |time| deadline.checked_sub(time).unwrap_or(deadline);
        let end_cutoff = before_deadline(END_CUTOFF);
        let publish_cutoff = before_deadline(END_CUTOFF + self.delivery.timeout());
        let task_cutoff = before_deadline(self.start_cutoff);
        let context = Arc::new(BatchContext { progress: Progress::default(), task_cutoff, publish_cutoff });
        let mut received: Vec<Received> = Vec::with_capacity(batch.records.len());
        let (mut stay, mut unfinished_tasks) = (BTreeSet::new(), Vec::new());
        let (mut running, mut by_id, mut tasks_read) = (JoinSet::new(), HashMap::new(), 0);
        let mut lines = EventLines::default();
        for message in batch.records {
            let index = received.len();
            let body = message.body.clone().unwrap_or_default();
            let message = Received::from(message);
            let is_repeat = message.receive_count > 1;
            match Task::read(&body, &message.message_id, is_repeat, &self.content_policy, &self.sources) {
                Ok(tasks) => {
                    // The tickets are taken here, in the order of the record, so the order depends on no scheduler.
                    let mut order = Order::default();
                    let members = claims::members(&tasks);
                    for (task, member) in tasks.into_iter().zip(members) {
                        let (user, attempt) = (task.user(), task.attempt.clone());
                        let mut entry = TaskEntry { message: index, index: tasks_read, user, attempt, line: None };
                        tasks_read += 1;
                        if is_too_early(&task.attempt.retry) {
                            unfinished_tasks.push(UnfinishedTask::all(entry, RetryCause::TooEarly));
                        } else {
                            entry.line = lines.open(index, &task);
                            let ticket = order.next(entry.user.as_ref(), member);
                            // Boxed, since tokio moves the future of a task several times.
                            let work = Box::pin(Arc::clone(self).work(task, ticket, Arc::clone(&context)));
                            let handle = running.spawn(work);
                            by_id.insert(handle.id(), entry);
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
        unfinished_tasks.extend(self.run(&mut running, by_id, &mut lines, &context, end_cutoff).await);
        let mut recipients = context.progress.take();
        stay.extend(self.put_back(unfinished_tasks, &mut recipients).await);
        let response = self.response(received, &stay).await;
        if let Some(refresh) = refresh
            && let Err(error) = refresh.await
        {
            tracing::error!(%error, "the rules are not read again: those of before stay");
        }
        response
    }

    /// Waits for the tasks until `end_cutoff`. Returns those that must be retried.
    async fn run(
        &self,
        running: &mut JoinSet<TaskOutcome>,
        mut by_id: HashMap<Id, TaskEntry>,
        lines: &mut EventLines,
        batch: &BatchContext,
        end_cutoff: Instant,
    ) -> Vec<UnfinishedTask> {
        let mut unfinished_tasks = Vec::new();
        let mut writing = JoinSet::new();
        let is_due = batch.progress.is_due();
        tokio::pin!(is_due);
        loop {
            let ended = tokio::select! {
                biased;
                ended = running.join_next_with_id() => ended,
                () = sleep_until(end_cutoff) => None,
                () = &mut is_due => {
                    is_due.set(batch.progress.is_due());
                    let (store, recipients) = (self.store.clone(), batch.progress.take());
                    writing.spawn(async move { progress::write(&store, recipients.into_values()).await });
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            let Some(task) = by_id.remove(&id) else { continue };
            let outcome = ended.map_or_else(
                // The panic's message is not logged: it may quote the text of a message.
                |_| {
                    tracing::error!(id = task.attempt.id(), to = task.to(), "a task failed: it panicked");
                    TaskOutcome::unfinished(Unfinished::all(RetryCause::FAILED))
                },
                |(_, outcome)| outcome,
            );
            lines.close(task.line, &outcome, self.log_events);
            unfinished_tasks.extend(outcome.unfinished.into_iter().map(|unfinished| {
                let task = TaskEntry { user: task.user.clone(), attempt: task.attempt.clone(), ..task };
                UnfinishedTask { task, counted: outcome.counted, unfinished }
            }));
        }
        // The other tasks are cancelled: a task that is put back must not publish any more.
        running.shutdown().await;
        for task in by_id.into_values() {
            tracing::error!(id = task.attempt.id(), to = task.to(), "a task was given up at the deadline");
            let given_up = TaskOutcome::unfinished(Unfinished::all(RetryCause::FAILED));
            lines.close(task.line, &given_up, self.log_events);
            unfinished_tasks.push(UnfinishedTask::all(task, RetryCause::FAILED));
        }
        while writing.join_next().await.is_some() {}
        unfinished_tasks
    }

    /// Executes a task: its result is the part that must be retried.
    async fn work(self: Arc<Self>, task: Task, mut ticket: Ticket, batch: Arc<BatchContext>) -> TaskOutcome {
        let not_tried = || TaskOutcome::unfinished(Unfinished::all(RetryCause::NotTried));
        // A task that waits for its turn holds no permit.
        if timeout_at(batch.task_cutoff, ticket.comes(task.attempt.retry.registration.as_ref())).await.is_err() {
            return not_tried();
        }
        let user = task.user();
        let names = user.as_ref().map(|user| user.as_str());
        let turn = ticket.begin(self.recipients.acquire(names.as_slice()).await);
        if Instant::now() >= batch.task_cutoff {
            return not_tried();
        }
        let Task { action, attempt } = task;
        let id = attempt.id();
        match action {
            Action::Notify { mut event, reported } => {
                let span = error_span!("event", id, to = %event.recipient());
                self.notify(&mut event, &reported, &attempt, turn, &batch).instrument(span).await
            }
            Action::NotifyDevice(push) => {
                let span = error_span!("event", id, to = %push.owner);
                self.notify_device(&push, &attempt, turn, &batch).instrument(span).await
            }
            Action::Clear(read) => {
                let span = error_span!("event", id, to = %read.user);
                self.clear(&read, &attempt, turn, &batch).instrument(span).await
            }
            Action::RemoveUser(user) => {
                let removed = self.store.remove_user(&user, attempt.at(), || Instant::now() < batch.task_cutoff).await;
                self.continue_removal(removed, &attempt, WorkKind::UserRemoved { jid: user }).await
            }
            Action::RemoveDomain(domain) => {
                let removed = self
                    .store
                    .remove_domain(&domain, attempt.at(), || Instant::now() < batch.task_cutoff, |_| {})
                    .await;
                self.continue_removal(removed, &attempt, WorkKind::DomainRemoved { domain }).await
            }
        }
    }

    /// Finishes one step of a removal. The next step is a new queue message. If SQS delivers both, the later one finds
    /// nothing.
    async fn continue_removal(
        &self,
        removed: Result<RemovalProgress, StoreError>,
        attempt: &Attempt,
        kind: WorkKind,
    ) -> TaskOutcome {
        let id = attempt.id();
        let delay = match removed {
            Ok(RemovalProgress::Complete) => {
                let (user, domain) = match &kind {
                    WorkKind::UserRemoved { jid } => (Some(jid.as_str()), None),
                    WorkKind::DomainRemoved { domain } => (None, Some(domain.as_str())),
                    _ => (None, None),
                };
                if self.log_events == LogEvents::All {
                    tracing::info!(id, user, domain, "removed");
                }
                return TaskOutcome::default();
            }
            Ok(RemovalProgress::Swept) => RECHECK_DELAY,
            Ok(RemovalProgress::Partial) => Duration::ZERO,
            Err(error) => {
                tracing::error!(id, error = %Causes(&error), "removal failed: it is retried");
                return TaskOutcome::unfinished(Unfinished::all(RetryCause::FAILED));
            }
        };
        let next = Work::new(id.to_owned(), attempt.at(), kind);
        if let Err(error) = self.queue.send_later([(delay, vec![next])]).await {
            tracing::error!(id, error = %Causes(&error), "removal failed: it is retried");
            return TaskOutcome::unfinished(Unfinished::all(RetryCause::FAILED));
        }
        if self.log_events == LogEvents::All {
            tracing::info!(id, seconds = delay.as_secs(), "removal not complete: the next step follows");
        }
        TaskOutcome::default()
    }

    /// Moves an unreadable record to the dead-letter queue. Returns whether its message can be deleted: a record of a
    /// later version stays in the queue for a newer worker.
    async fn dead_letter_unreadable(&self, message_id: &str, body: &str, unreadable: &TaskError) -> bool {
        if let TaskError::Record(RecordError::Newer(version)) = unreadable {
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

    /// Sends unfinished tasks to the queue, each with its own delay, and then marks them in the claims: SQS deletes the
    /// original messages, but may deliver them once more. Returns the messages that must stay in the queue.
    async fn put_back(&self, mut unfinished_tasks: Vec<UnfinishedTask>, recipients: &mut ByAttempt) -> BTreeSet<usize> {
        unfinished_tasks.sort_by_key(|unfinished| unfinished.task.index);
        let mut by_delay: BTreeMap<Duration, Vec<Work>> = BTreeMap::new();
        let (mut dead, mut messages, mut handed_over) = (Vec::new(), BTreeSet::new(), ByAttempt::new());
        for UnfinishedTask { task: TaskEntry { message, user, attempt, .. }, counted, unfinished } in unfinished_tasks {
            messages.insert(message);
            let (retry, delay) = unfinished.next(&attempt.retry, counted);
            let wait = delay.max(until(retry.not_before, OffsetDateTime::now_utc()));
            let work = attempt.again(retry);
            if self.is_exhausted(&work, &unfinished) {
                dead.push(work);
                continue;
            }
            let (jid, node) = unfinished.registration.as_ref().map(|one| (one.jid.as_str(), one.node.as_str())).unzip();
            let to = user.as_ref().map(|user| user.as_str());
            tracing::debug!(id = attempt.id(), to, jid, node, seconds = wait.as_secs(), "put back");
            by_delay.entry(delay).or_default().push(work);
            let Some(user) = user.filter(|_| unfinished.cause != RetryCause::TooEarly) else { continue };
            let key = attempt.key();
            let recipient = recipients.remove(&key).or_else(|| handed_over.remove(&key));
            let mut recipient = recipient.unwrap_or_else(|| RecipientProgress::new(attempt, user, counted));
            recipient.put_back.extend(unfinished.registration.filter(|_| unfinished.is_claimed));
            handed_over.insert(key, recipient);
        }
        let mut sent = self.queue.send_later(by_delay).await;
        if sent.is_ok() {
            sent = self.dead_letter(dead).await;
        }
        if let Err(error) = sent {
            tracing::error!(error = %Causes(&error), "not put back: the messages return after their visibility timeout");
            // The messages return as a whole, so no registration is put back.
            for recipient in handed_over.values_mut() {
                recipient.put_back.clear();
            }
            progress::write(&self.store, handed_over.into_values().chain(std::mem::take(recipients).into_values()))
                .await;
            return messages;
        }
        // If SQS delivers the original message again, it must find the progress of finished later attempts.
        let of_later_attempts = std::mem::take(recipients).into_values().filter(RecipientProgress::is_of_later_attempt);
        progress::write(&self.store, handed_over.into_values().chain(of_later_attempts)).await;
        BTreeSet::new()
    }

    /// Returns whether a task goes to the dead-letter queue: it has failed for too long, and not because of a push
    /// service. A notification that a push service does not accept expires by its time to live.
    fn is_exhausted(&self, work: &Work, unfinished: &Unfinished) -> bool {
        let tries = work.retry.as_ref().map_or(0, |retry| retry.tries);
        match (&work.kind, &unfinished.cause) {
            (_, RetryCause::NotTried | RetryCause::TooEarly) => false,
            (WorkKind::UserRemoved { .. } | WorkKind::DomainRemoved { .. }, _) => tries >= MAX_REMOVAL_ATTEMPTS,
            _ if unfinished.registration.is_some() => false,
            _ => self.time_to_live.is_over(work.at),
        }
    }

    async fn dead_letter(&self, dead: Vec<Work>) -> Result<(), QueueError> {
        for work in &dead {
            count(Metric::DeadLettered);
            tracing::error!(id = work.id, "moved to the dead-letter queue: it failed too often");
        }
        self.dead_letters.send(dead).await
    }

    /// Sets the visibility timeouts of messages, and returns the response that keeps these messages in the queue.
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
            tracing::warn!(error = %Causes(&error), "not delayed: messages return after the queue's own timeout");
        }
        response
    }
}

impl TaskEntry {
    /// Returns the recipient, for a log line.
    fn to(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.as_str())
    }
}

impl UnfinishedTask {
    /// Returns a task of which all registrations must be retried.
    fn all(task: TaskEntry, cause: RetryCause) -> Self {
        Self { task, counted: None, unfinished: Unfinished::all(cause) }
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
