//! Takes batches of events from the queue, asks a plugin which notifications to send, and publishes them.
//!
//! To use plugins of your own, write a crate whose `main` calls [`run`] with them.

mod batch;
mod decision;
mod explain;
mod external;
mod guard;
mod node;
mod notify;
mod progress;
mod publish;
mod retry;
mod shares;
mod task;

pub use explain::{ExplainError, Explained};
pub use pushlark_plugin::{Plugin, Plugins};

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use pushlark_delivery::Delivery;
use pushlark_events::Sources;
use pushlark_plugin::ContentPolicy;
use pushlark_queue::Queue;
use pushlark_settings::{Environment, SettingError, aws_config, catalogue};
use pushlark_store::Store;
use pushlark_telemetry::{Causes, Format, flush, start};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use external::{External, OnError};
use guard::Guard;
use shares::Shares;

/// The time-out of an invocation. The template sets the same value.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest name or ARN of a function, in characters ("Lambda API reference", Invoke).
const MAX_FUNCTION_NAME: usize = 170;

/// The last task starts this long before the deadline: the longest publish (5 s), and the work before and after it.
const START_CUTOFF: Duration = Duration::from_millis(6_500);

/// The worker function: clients, settings, and the limits that all tasks share.
pub struct Worker {
    store: Store,
    queue: Queue,
    dead_letters: Queue,
    plugin: ChosenPlugin,
    delivery: Delivery,
    content_policy: Arc<ContentPolicy>,
    /// The settings for reading events.
    sources: Sources,
    /// Whether Pushlark counts unread messages.
    unread_counts: bool,
    /// The time to live of notifications whose registration sets none.
    time_to_live: Duration,
    /// The last task starts this long before the deadline.
    start_cutoff: Duration,
    guard: Guard,
    /// At most `WORKER_CONCURRENCY` recipients are decided on concurrently.
    recipients: Shares,
    /// At most `WORKER_CONCURRENCY` publishes run concurrently, for all recipients together.
    publishes: Shares,
}

/// The plugin that `PLUGIN` chooses.
enum ChosenPlugin {
    /// A plugin in Rust that is part of the worker.
    Compiled(Arc<dyn Plugin>),
    /// A Lambda function.
    External(Arc<External>),
}

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
    /// From `QUEUE_URL`, `DEAD_LETTER_QUEUE_URL`, `PLUGIN`, `WORKER_CONCURRENCY`, `TIME_TO_LIVE`, `UNREAD_COUNTS`, the
    /// settings of the content of notifications and those of [`Store`], [`Sources`] and [`Delivery`]. `aws` is for a plugin
    /// that is a Lambda function, and for secrets.
    pub fn from_environment(
        environment: &Environment,
        aws: &SdkConfig,
        plugins: &Plugins,
        dynamodb: aws_sdk_dynamodb::Client,
        sqs: aws_sdk_sqs::Client,
    ) -> Result<Self, SettingError> {
        let queue = |setting| -> Result<Queue, SettingError> {
            Ok(Queue::new(sqs.clone(), environment.require::<String>(setting)?))
        };
        let mut start_cutoff = START_CUTOFF;
        let timeout = environment.number(&catalogue::PLUGIN_TIMEOUT_MS)?;
        let on_error = OnError::from_environment(environment)?;
        let name: String = environment.require(&catalogue::PLUGIN)?;
        let plugin = match name.strip_prefix("lambda:") {
            Some(function) if is_function(function) => {
                let timeout = Duration::from_millis(timeout.into());
                start_cutoff += timeout;
                ChosenPlugin::External(Arc::new(External::new(function, timeout, on_error, aws)))
            }
            Some(_) => {
                return Err(catalogue::PLUGIN.invalid("lambda: is not followed by a function's name or ARN"));
            }
            None => {
                let plugin = plugins.get(&name).map_err(|unknown| catalogue::PLUGIN.invalid(unknown))?;
                ChosenPlugin::Compiled(plugin)
            }
        };
        let concurrency = environment.number(&catalogue::WORKER_CONCURRENCY)? as usize;
        let time_to_live = environment.number(&catalogue::TIME_TO_LIVE)?;
        Ok(Self {
            store: Store::from_environment(dynamodb, environment)?,
            queue: queue(&catalogue::QUEUE_URL)?,
            dead_letters: queue(&catalogue::DEAD_LETTER_QUEUE_URL)?,
            plugin,
            delivery: Delivery::from_environment(environment, aws)?,
            content_policy: Arc::new(content_policy(environment)?),
            sources: Sources::from_environment(environment)?,
            unread_counts: environment.switch(&catalogue::UNREAD_COUNTS)?,
            time_to_live: Duration::from_secs(time_to_live.into()),
            start_cutoff,
            guard: Guard::default(),
            recipients: Shares::new(concurrency),
            publishes: Shares::new(concurrency),
        })
    }

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

    /// Opens the connections that the first notification needs.
    pub async fn warm_up(&self) {
        let table = async {
            if let Err(error) = self.store.warm_up().await {
                tracing::warn!(error = %Causes(&error), "the table cannot be reached");
            }
        };
        tokio::join!(table, self.delivery.warm_up());
    }
}

/// Runs a worker on Lambda, with `plugins` to choose from by the setting `PLUGIN`.
pub async fn run(plugins: Plugins) -> anyhow::Result<()> {
    let environment = Environment::of_process();
    start(Format::Json, &environment)?;
    let aws = aws_config().await;
    let (dynamodb, sqs) = (aws_sdk_dynamodb::Client::new(&aws), aws_sdk_sqs::Client::new(&aws));
    let worker = Arc::new(Worker::from_environment(&environment, &aws, &plugins, dynamodb, sqs)?);
    let warming = Arc::clone(&worker);
    tokio::spawn(async move { warming.warm_up().await });
    lambda_runtime::run(service_fn(async |event: LambdaEvent<WorkerInvocation>| {
        let answer = worker.answer(event.payload, instant_of(event.context.deadline)).await;
        flush();
        answer.map_err(|unexplained| Diagnostic {
            error_type: "Unexplained".into(),
            error_message: unexplained.to_string(),
        })
    }))
    .await
    .map_err(anyhow::Error::from_boxed)
}

/// Converts a deadline in milliseconds since 1970. If it is in the past, returns the end of the template's time-out:
/// cargo-lambda sends a number that is not a deadline.
fn instant_of(milliseconds: u64) -> Instant {
    let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or(FUNCTION_TIMEOUT)
}

/// From `INCLUDE_BODY`, `INCLUDE_SENDER`, `BODY_PLACEHOLDER` and `GROUP_DATA`.
fn content_policy(environment: &Environment) -> Result<ContentPolicy, SettingError> {
    let [urgent, mention] = environment.words(&catalogue::GROUP_DATA)?;
    Ok(ContentPolicy {
        body: environment.switch(&catalogue::INCLUDE_BODY)?,
        sender: environment.switch(&catalogue::INCLUDE_SENDER)?,
        placeholder: environment.require(&catalogue::BODY_PLACEHOLDER)?,
        urgent,
        mention,
    })
}

/// Returns whether Lambda accepts a text as a function's name or ARN, with or without a version or an alias.
fn is_function(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '$');
    !text.is_empty() && text.len() <= MAX_FUNCTION_NAME && text.chars().all(is_part)
}
