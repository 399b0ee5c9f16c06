//! Receives batches of events from the queue, asks a plugin which notifications to send, and publishes them.
//!
//! To use custom plugins, write a crate whose `main` calls [`run`] with them.

mod alert_interval;
mod batch;
mod call;
mod claims;
mod clear;
mod decision;
mod deduplication;
mod event_line;
mod explain;
mod external;
mod guard;
mod node;
mod notify;
mod order;
mod preferences;
mod progress;
mod publish;
mod retry;
mod rules;
mod shares;
mod task;
mod trial;
mod unread;
mod worker;

pub use explain::{ExplainError, Explained};
pub use pushlark_plugin::{Plugin, Plugins};
pub use trial::{Trial, TrialError, Tried, TriedDecision};
pub use worker::Worker;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use pushlark_http_client::aws_config;
use pushlark_settings::Environment;
use pushlark_telemetry::{Format, flush, record_cold_start, start};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

/// The timeout of an invocation. The template sets the same value.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The payload of an invocation: a batch of queue messages ("Using Lambda with Amazon SQS"), or events to explain.
#[derive(Debug, Deserialize)]
pub struct WorkerInvocation {
    #[serde(rename = "Records")]
    records: Option<Vec<SqsMessage>>,
    /// Events in the JSON that `/events` accepts.
    explain: Option<Vec<Box<RawValue>>>,
}

/// The response to an invocation.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum WorkerResponse {
    /// The messages that stay in the queue.
    Batch(SqsBatchResponse),
    /// An explanation of each event.
    Explained(Explained),
}

impl Worker {
    /// Handles one invocation, and finishes a batch before `deadline`.
    pub async fn answer(
        self: &Arc<Self>,
        invocation: WorkerInvocation,
        deadline: Instant,
    ) -> Result<WorkerResponse, ExplainError> {
        let WorkerInvocation { records, explain } = invocation;
        if let Some(events) = explain {
            // Boxed, so that the future of a batch stays small.
            return Box::pin(self.explain(&events)).await.map(WorkerResponse::Explained);
        }
        let mut batch = SqsEvent::default();
        batch.records = records.ok_or(ExplainError::Nothing)?;
        Ok(WorkerResponse::Batch(self.handle(batch, deadline).await))
    }
}

/// Runs a worker on Lambda, with `plugins` to choose from by the setting `PLUGIN`.
pub async fn run(plugins: Plugins) -> anyhow::Result<()> {
    let environment = Environment::of_process();
    start(Format::Json, &environment)?;
    let aws = aws_config(&environment).await?;
    let (dynamodb, sqs) = (aws_sdk_dynamodb::Client::new(&aws), aws_sdk_sqs::Client::new(&aws));
    let worker = Arc::new(Worker::from_environment(&environment, &aws, &plugins, dynamodb, sqs).await?);
    let warming = Arc::clone(&worker);
    tokio::spawn(async move { warming.warm_up().await });
    record_cold_start();
    let worker = &worker;
    // Boxed, since each layer of the runtime moves the future.
    let answer = |event: LambdaEvent<WorkerInvocation>| {
        Box::pin(async move {
            let answer = worker.answer(event.payload, instant_of(event.context.deadline)).await;
            flush();
            answer.map_err(|unexplained| Diagnostic {
                error_type: "Unexplained".into(),
                error_message: unexplained.to_string(),
            })
        })
    };
    lambda_runtime::run(service_fn(answer)).await.map_err(anyhow::Error::from_boxed)
}

/// Converts a deadline in milliseconds since 1970. If it is in the past, returns the end of the template's timeout:
/// cargo-lambda sends a number that is not a deadline.
fn instant_of(milliseconds: u64) -> Instant {
    let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or(FUNCTION_TIMEOUT)
}
