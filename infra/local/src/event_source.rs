//! What Lambda's event source mapping does between the queue and the worker: "Using Lambda with Amazon SQS".

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use worker::Worker;

/// `BatchSize` in the template; the most that one receive gives.
const BATCH_SIZE: i32 = 10;
/// The worker's time-out in the template.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a receive waits for messages, in seconds.
const LONG_POLL: i32 = 20;

/// Feeds a worker from a queue.
pub struct EventSource {
    client: Client,
    queue_url: String,
    worker: Arc<Worker>,
    /// MaximumConcurrency: how many batches are handled at once.
    concurrency: u32,
}

impl EventSource {
    pub fn new(client: Client, queue_url: String, worker: Arc<Worker>, concurrency: u32) -> Self {
        Self { client, queue_url, worker, concurrency }
    }

    /// Receives and handles until it is stopped, then finishes the batches that it has.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let this = Arc::new(self);
        let permits = Arc::new(Semaphore::new(this.concurrency as usize));
        let mut batches = JoinSet::new();
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            let received = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                received = this.receive() => received,
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

    async fn receive(&self) -> Vec<Message> {
        let received = self
            .client
            .receive_message()
            .queue_url(&self.queue_url)
            .max_number_of_messages(BATCH_SIZE)
            .wait_time_seconds(LONG_POLL)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await;
        match received {
            Ok(received) => received.messages.unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "the queue cannot be read");
                sleep(Duration::from_secs(1)).await;
                Vec::new()
            }
        }
    }

    /// Messages that a worker failed at stay in the queue; so does a whole batch when it panics or times out.
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
            Ok(Err(error)) => tracing::error!(%error, "the worker failed"),
            Err(_) => tracing::error!("the worker timed out"),
        }
    }

    async fn delete(&self, messages: &[Message], response: &SqsBatchResponse) {
        let failed =
            |id: Option<&str>| response.batch_item_failures.iter().any(|failure| Some(&*failure.item_identifier) == id);
        let handled = messages.iter().filter(|message| !failed(message.message_id()));
        let entries = handled.enumerate().map(|(index, message)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .set_receipt_handle(message.receipt_handle.clone())
                .build()
        });
        let entries = match entries.collect::<Result<Vec<_>, _>>() {
            Ok(entries) if entries.is_empty() => return,
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
