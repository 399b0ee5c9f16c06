//! A worker to which a test gives each batch by hand.

use std::sync::Arc;

use aws_config::SdkConfig;
use aws_lambda_events::sqs::SqsEvent;
use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};
use local::Stack;
use pushlark_plugin::Plugins;
use serde_json::{Value, json};
use tokio::time::Instant;
use worker::Worker;

use crate::{Pushlark, TEST_TIMEOUT, Work, eventually};

/// A stack, and a worker beside it whose queue only the test reads.
pub struct IsolatedWorker {
    /// The stack whose table and queues the worker uses.
    pub pushlark: Pushlark,
    /// The worker, which receives nothing from the queue by itself.
    pub worker: Arc<Worker>,
    queue_url: String,
}

impl IsolatedWorker {
    /// Starts a stack with the default settings, and a worker.
    pub async fn start() -> Self {
        Self::beside(Pushlark::start().await).await
    }

    /// Starts a worker with the settings of a stack.
    pub async fn beside(pushlark: Pushlark) -> Self {
        let sqs = &pushlark.stack.sqs;
        // A received message stays hidden for longer than a test runs.
        let queue =
            sqs.create_queue().queue_name("isolated").attributes(QueueAttributeName::VisibilityTimeout, "43200");
        let queue_url = queue.send().await.unwrap().queue_url.unwrap();
        Self { worker: worker_of(&pushlark, &queue_url, pushlark.stack.dynamodb.clone()).await, queue_url, pushlark }
    }

    /// Starts a worker with the settings of a stack, which calls DynamoDB at this URL.
    pub async fn beside_with_dynamodb(pushlark: Pushlark, url: &str) -> Self {
        let isolated = Self::beside(pushlark).await;
        let config = isolated.pushlark.stack.dynamodb.config().to_builder().endpoint_url(url).build();
        let dynamodb = aws_sdk_dynamodb::Client::from_conf(config);
        Self { worker: worker_of(&isolated.pushlark, &isolated.queue_url, dynamodb).await, ..isolated }
    }

    /// Returns another worker with the same settings and queue, without the state of this one.
    pub async fn fresh_worker(&self) -> Arc<Worker> {
        worker_of(&self.pushlark, &self.queue_url, self.pushlark.stack.dynamodb.clone()).await
    }

    /// Queues a record, and receives it as a batch of one message.
    pub async fn batch(&self, work: &[Work]) -> SqsEvent {
        self.send(&Work::record(work)).await;
        self.receive().await.unwrap()
    }

    /// Sends a record to the queue.
    pub async fn send(&self, record: &Value) {
        let send = self.pushlark.stack.sqs.send_message().queue_url(&self.queue_url);
        send.message_body(record.to_string()).send().await.unwrap();
    }

    /// Lets the worker handle a batch, with more time than it needs. All messages must be handled.
    pub async fn handle(&self, batch: SqsEvent) {
        let response = self.worker.handle(batch, Instant::now() + TEST_TIMEOUT).await;
        assert!(response.batch_item_failures.is_empty(), "{response:?}");
    }

    /// Lets the worker handle a batch, and all messages that it puts back.
    pub async fn handle_all(&self, batch: SqsEvent) {
        self.handle_all_but(0, batch).await;
    }

    /// The same, until only this many delayed messages are left.
    pub async fn handle_all_but(&self, left: u32, mut batch: SqsEvent) {
        loop {
            self.handle(batch.clone()).await;
            self.delete(batch).await;
            let next = eventually("a message or a queue of delayed messages", async || match self.receive().await {
                None => (self.depth().await <= left).then_some(None),
                next => Some(next),
            });
            let Some(next) = next.await else { return };
            batch = next;
        }
    }

    /// Receives a message as a batch, if one is visible.
    pub async fn receive(&self) -> Option<SqsEvent> {
        let receive = self.pushlark.stack.sqs.receive_message().queue_url(&self.queue_url);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All);
        let message = receive.send().await.unwrap().messages?.remove(0);
        let attributes: Value = message
            .attributes
            .iter()
            .flatten()
            .map(|(name, value)| (name.to_string(), Value::from(value.as_str())))
            .collect();
        let record = json!({"messageId": message.message_id, "receiptHandle": message.receipt_handle,
            "body": message.body, "attributes": attributes});
        Some(serde_json::from_value(json!({"Records": [record]})).unwrap())
    }

    /// Deletes the message of a handled batch.
    pub async fn delete(&self, handled: SqsEvent) {
        let delete = self.pushlark.stack.sqs.delete_message().queue_url(&self.queue_url);
        delete.set_receipt_handle(handled.records[0].receipt_handle.clone()).send().await.unwrap();
    }

    /// Deletes the message of a handled batch, and waits for the next one. Returns `None` when the queue is empty.
    pub async fn next(&self, handled: SqsEvent) -> Option<SqsEvent> {
        self.delete(handled).await;
        eventually("a message or an empty queue", async || match self.receive().await {
            None => (self.pushlark.depth(&self.queue_url).await == 0).then_some(None),
            batch => Some(batch),
        })
        .await
    }

    /// Returns the number of messages in the queue of the worker.
    pub async fn depth(&self) -> u32 {
        self.pushlark.depth(&self.queue_url).await
    }
}

async fn worker_of(pushlark: &Pushlark, queue_url: &str, dynamodb: aws_sdk_dynamodb::Client) -> Arc<Worker> {
    let Stack { environment, sqs, .. } = &pushlark.stack;
    let mut environment = environment.clone();
    environment.extend([("QUEUE_URL", queue_url), ("DEAD_LETTER_QUEUE_URL", queue_url)]);
    let (aws, plugins) = (SdkConfig::builder().build(), Plugins::built_in());
    let worker = Worker::from_environment(&environment, &aws, &plugins, dynamodb, sqs.clone()).await;
    Arc::new(worker.unwrap())
}
