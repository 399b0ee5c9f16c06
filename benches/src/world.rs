//! The surroundings of a function: DynamoDB and SQS of the local stack, and a push service that accepts everything at
//! once.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use aws_sdk_sqs::types::QueueAttributeName;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use local::{Options, Stack};
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::lambda_event::sqs_event;

/// The credential of the functions.
pub const SECRET: &str = "a-secret-of-some-length";

/// DynamoDB, SQS and the push service.
pub struct World {
    stack: Stack,
    /// A queue without a receiver, unlike the stack's own.
    queue_url: String,
    push_service_url: String,
    notifications: Arc<AtomicU64>,
    http: reqwest::Client,
    _push_service: JoinSet<()>,
}

impl World {
    /// Starts everything in memory.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(&[]).await
    }

    /// Starts everything in memory, the stack with these settings.
    pub async fn with(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let environment = Environment::from_iter(settings.iter().copied());
        let stack = Stack::start(Options { environment, ..Options::default() }).await?;
        let queue = stack.sqs.create_queue().queue_name("measured").send().await?;
        let queue_url = queue.queue_url.context("a queue without a URL")?;

        let notifications = Arc::new(AtomicU64::new(0));
        let router = Router::new()
            .route(
                "/v3/notification/{device_id}",
                post(async |State(count): State<Arc<AtomicU64>>, _: String| {
                    count.fetch_add(1, Ordering::Relaxed);
                    "OK"
                }),
            )
            .with_state(Arc::clone(&notifications));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let push_service_url = format!("http://{}", listener.local_addr()?);
        let mut push_service = JoinSet::new();
        push_service.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the push service stopped: {error}");
            }
        });
        let http = reqwest::Client::new();
        Ok(Self { stack, queue_url, push_service_url, notifications, http, _push_service: push_service })
    }

    /// The settings of every function.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT_URL_DYNAMODB", self.stack.dynamodb_url.as_str()),
            ("AWS_ENDPOINT_URL_SQS", &self.stack.sqs_url),
            ("TABLE_NAME", "pushlark"),
            ("QUEUE_URL", &self.queue_url),
            ("DEAD_LETTER_QUEUE_URL", &self.queue_url),
            ("VIRTUAL_PUBSUB_HOSTS", "push.@HOST@"),
            ("MONGOOSEPUSH_URL", &self.push_service_url),
            ("WEBHOOK_SECRET", SECRET),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// A client of the stack's DynamoDB.
    pub fn dynamodb(&self) -> &aws_sdk_dynamodb::Client {
        &self.stack.dynamodb
    }

    /// The endpoint of the stack's DynamoDB.
    pub fn dynamodb_url(&self) -> &str {
        &self.stack.dynamodb_url
    }

    /// Enables the node `device` of a user.
    pub async fn enable(&self, user: &str, form: Value) -> anyhow::Result<()> {
        self.enable_node(user, "device", form).await
    }

    /// Enables a node of a user by a request to the function.
    pub async fn enable_node(&self, user: &str, node: &str, form: Value) -> anyhow::Result<()> {
        let request = json!({"user": user, "jid": "push.example.com", "node": node, "form": form});
        let response = self.http.post(format!("{}/enable", self.stack.url)).json(&request).send().await?;
        ensure!(response.status() == 200, "not enabled: {}", response.text().await?);
        Ok(())
    }

    /// The number of notifications that the push service accepted since the last call.
    pub fn take_notifications(&self) -> u64 {
        self.notifications.swap(0, Ordering::Relaxed)
    }

    /// Receives the next records, which stay in the queue and are not received again. Returns the event with which the
    /// worker is invoked.
    pub async fn receive(&self) -> anyhow::Result<Value> {
        let receive = self.stack.sqs.receive_message().queue_url(&self.queue_url).max_number_of_messages(10);
        let received = receive.wait_time_seconds(20).visibility_timeout(12 * 3_600).send().await?;
        let received = received.messages.unwrap_or_default();
        ensure!(!received.is_empty(), "no record came");
        Ok(sqs_event(received.into_iter().filter_map(|message| Some((message.message_id?, message.body?)))))
    }

    /// The number of records in the queue, which it empties.
    pub async fn take_records(&self) -> anyhow::Result<u64> {
        let (sqs, name) = (&self.stack.sqs, QueueAttributeName::ApproximateNumberOfMessages);
        let counted =
            sqs.get_queue_attributes().queue_url(&self.queue_url).attribute_names(name.clone()).send().await?;
        sqs.purge_queue().queue_url(&self.queue_url).send().await?;
        let attributes = counted.attributes.context("a queue without attributes")?;
        Ok(attributes.get(&name).context("a queue without a count")?.parse()?)
    }
}
