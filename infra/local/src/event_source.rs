//! Lambda's event source mapping between the queue and the worker ("Using Lambda with Amazon SQS").

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use pushlark_settings::{Environment, SettingError, catalogue};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use worker::{FUNCTION_TIMEOUT, Worker};

/// Most messages per `ReceiveMessage`.
const MAX_RECEIVED: u32 = 10;
/// Wait time of `ReceiveMessage`, in seconds.
const LONG_POLL: i32 = 20;

/// Receives batches from a queue, invokes a worker with them, and deletes the handled messages.
pub struct EventSource {
    client: Client,
    queue_url: String,
    worker: Arc<Worker>,
    mapping: Mapping,
}

/// The properties of the event source mapping, by the names of the template's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Mapping {
    /// Most batches at the same time (`MaximumConcurrency`).
    workers: u32,
    /// Most messages per batch.
    batch_size: u32,
    /// The time that a batch waits to fill after its first message.
    pub batching_window: Duration,
}

impl Mapping {
    /// From `WORKERS`, `BATCH_SIZE` and `BATCHING_WINDOW`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let workers = environment.number(&catalogue::WORKERS)?;
        let batch_size = environment.number(&catalogue::BATCH_SIZE)?;
        let batching_window = environment.number(&catalogue::BATCHING_WINDOW)?;
        if batch_size > MAX_RECEIVED && batching_window == 0 {
            let reason = format!("a batch of more than {MAX_RECEIVED} messages needs a BATCHING_WINDOW");
            return Err(catalogue::BATCH_SIZE.invalid(reason));
        }
        Ok(Self { workers, batch_size, batching_window: Duration::from_secs(batching_window.into()) })
    }
}

impl EventSource {
    pub fn new(client: Client, queue_url: String, worker: Arc<Worker>, mapping: Mapping) -> Self {
        Self { client, queue_url, worker, mapping }
    }

    /// Runs until it is stopped, then finishes the received batches.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let this = Arc::new(self);
        let permits = Arc::new(Semaphore::new(this.mapping.workers as usize));
        let mut batches = JoinSet::new();
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            let received = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                received = this.batch() => received,
            };
            if received.is_empty() {
                continue;
            }
            let this = Arc::clone(&this);
            batches.spawn(async move {
                this.handle(received).await;
                drop(permit);
            });
            while batches.try_join_next().is_some() {}
        }
        while batches.join_next().await.is_some() {}
    }

    async fn batch(&self) -> Vec<Message> {
        let Mapping { batch_size, batching_window, .. } = self.mapping;
        let mut batch = self.receive(batch_size, LONG_POLL).await;
        let closes = Instant::now() + batching_window;
        while let Some(missing) = batch_size.checked_sub(batch.len() as u32).filter(|missing| *missing > 0) {
            let left = closes.saturating_duration_since(Instant::now()).as_secs() as i32;
            if batch.is_empty() || left == 0 {
                break;
            }
            batch.extend(self.receive(missing, left).await);
        }
        batch
    }

    async fn receive(&self, most: u32, wait_seconds: i32) -> Vec<Message> {
        let received = self
            .client
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(most.min(MAX_RECEIVED) as i32)
            .wait_time_seconds(wait_seconds.min(LONG_POLL))
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await;
        match received {
            Ok(received) => received.messages.unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "the queue cannot be received from");
                sleep(Duration::from_secs(1)).await;
                Vec::new()
            }
        }
    }

    /// Messages that the worker reports as failed stay in the queue; so does a whole batch if the worker panics or
    /// times out.
    async fn handle(&self, messages: Vec<Message>) {
        let event = json!({"Records": messages.iter().map(record).collect::<Vec<_>>()});
        let event: SqsEvent = match serde_json::from_value(event) {
            Ok(event) => event,
            Err(error) => return tracing::error!(%error, "a batch is not an SQS event"),
        };
        let (worker, deadline) = (Arc::clone(&self.worker), Instant::now() + FUNCTION_TIMEOUT);
        let invocation = tokio::spawn(async move { worker.handle(event, deadline).await });
        match timeout(FUNCTION_TIMEOUT, invocation).await {
            Ok(Ok(response)) => self.delete(&messages, &response).await,
            Ok(Err(_)) => tracing::error!("the worker panicked"),
            Err(_) => tracing::error!("the worker timed out"),
        }
    }

    async fn delete(&self, messages: &[Message], response: &SqsBatchResponse) {
        let failed =
            |id: Option<&str>| response.batch_item_failures.iter().any(|failure| Some(&*failure.item_identifier) == id);
        let handled: Vec<_> = messages.iter().filter(|message| !failed(message.message_id())).collect();
        for handled in handled.chunks(MAX_RECEIVED as usize) {
            self.delete_handled(handled).await;
        }
    }

    async fn delete_handled(&self, messages: &[&Message]) {
        let entries = messages.iter().enumerate().map(|(index, message)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .set_receipt_handle(message.receipt_handle.clone())
                .build()
        });
        let entries = match entries.collect::<Result<Vec<_>, _>>() {
            Ok(entries) => entries,
            Err(error) => return tracing::error!(%error, "handled messages were not deleted"),
        };
        let delete = self.client.delete_message_batch().queue_url(&self.queue_url).set_entries(Some(entries));
        if let Err(error) = delete.send().await {
            tracing::error!(%error, "handled messages were not deleted");
        }
    }
}

fn record(message: &Message) -> Value {
    let attributes = message.attributes.iter().flatten();
    let attributes: HashMap<&str, &str> = attributes.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    json!({
        "messageId": message.message_id,
        "receiptHandle": message.receipt_handle,
        "body": message.body,
        "md5OfBody": message.md5_of_body,
        "attributes": attributes,
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:pushlark",
        "awsRegion": "us-east-1",
    })
}
