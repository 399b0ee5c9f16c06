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
use pushlark_plugin::Disclosure;
use pushlark_queue::Queue;
use pushlark_settings::{Environment, SettingError, aws_config, items};
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
    disclosure: Arc<Disclosure>,
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
pub struct Invocation {
    #[serde(rename = "Records")]
    records: Option<Vec<SqsMessage>>,
    /// Events in the JSON that `/events` accepts.
    explain: Option<Vec<Box<RawValue>>>,
}

/// The response to an invocation.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The messages that stay in the queue.
    Batch(SqsBatchResponse),
    /// An explanation of each event.
    Explained(Explained),
}

impl Worker {
    /// From `PLUGIN`, `WORKER_CONCURRENCY`, `TIME_TO_LIVE`, `UNREAD_COUNTS`, the settings of what
    /// notifications tell and those of [`Sources`] and [`Delivery`]. `aws` is for a plugin that is a Lambda function, and for secrets.
    pub fn from_environment(
        environment: &Environment,
        aws: &SdkConfig,
        plugins: &Plugins,
        store: Store,
        queue: Queue,
        dead_letters: Queue,
    ) -> Result<Self, SettingError> {
        let mut start_cutoff = START_CUTOFF;
        let timeout = environment.number("PLUGIN_TIMEOUT_MS", 100..=2_500, 2_000)?;
        let on_error = OnError::from_environment(environment)?;
        let name = environment.value("PLUGIN")?.unwrap_or("defaults");
        let plugin = match name.strip_prefix("lambda:") {
            Some(function) if is_function(function) => {
                let timeout = Duration::from_millis(timeout.into());
                start_cutoff += timeout;
                ChosenPlugin::External(Arc::new(External::new(function, timeout, on_error, aws)))
            }
            Some(_) => {
                return Err(SettingError::invalid("PLUGIN", "lambda: is not followed by a function's name or ARN"));
            }
            None => {
                let plugin = plugins.get(name).map_err(|unknown| SettingError::invalid("PLUGIN", unknown))?;
                ChosenPlugin::Compiled(plugin)
            }
        };
        let concurrency = environment.number("WORKER_CONCURRENCY", 1..=1_000, 32)? as usize;
        let time_to_live = environment.number("TIME_TO_LIVE", 60..=14 * 86_400, 86_400)?;
        Ok(Self {
            store,
            queue,
            dead_letters,
            plugin,
            delivery: Delivery::from_environment(environment, aws)?,
            disclosure: Arc::new(disclosure(environment)?),
            sources: Sources::from_environment(environment)?,
            unread_counts: environment.switch("UNREAD_COUNTS", false)?,
            time_to_live: Duration::from_secs(time_to_live.into()),
            start_cutoff,
            guard: Guard::default(),
            recipients: Shares::new(concurrency),
            publishes: Shares::new(concurrency),
        })
    }

    /// Handles one invocation, and finishes a batch before `deadline`.
    pub async fn answer(self: &Arc<Self>, invocation: Invocation, deadline: Instant) -> Result<Answer, ExplainError> {
        let Invocation { records, explain } = invocation;
        if let Some(events) = explain {
            // Boxed, so that the future of a batch stays small.
            return Box::pin(self.explain(&events)).await.map(Answer::Explained);
        }
        let mut batch = SqsEvent::default();
        batch.records = records.ok_or(ExplainError::Nothing)?;
        Ok(Answer::Batch(self.handle(batch, deadline).await))
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
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let queue: String = environment.require("QUEUE_URL", "the queue that the events come from")?;
    let dead_letters: String =
        environment.require("DEAD_LETTER_QUEUE_URL", "the queue for what cannot be understood")?;
    let worker = Arc::new(Worker::from_environment(
        &environment,
        &aws,
        &plugins,
        Store::from_environment(aws_sdk_dynamodb::Client::new(&aws), &environment)?,
        Queue::new(sqs.clone(), queue),
        Queue::new(sqs, dead_letters),
    )?);
    let warming = Arc::clone(&worker);
    tokio::spawn(async move { warming.warm_up().await });
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Invocation>| {
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
fn disclosure(environment: &Environment) -> Result<Disclosure, SettingError> {
    let mut disclosure = Disclosure {
        body: environment.switch("INCLUDE_BODY", true)?,
        sender: environment.switch("INCLUDE_SENDER", true)?,
        ..Disclosure::default()
    };
    if let Some(placeholder) = environment.value("BODY_PLACEHOLDER")? {
        disclosure.placeholder = placeholder.into();
    }
    let Some(fields) = environment.value("GROUP_DATA")? else { return Ok(disclosure) };
    let invalid = |reason: String| SettingError::invalid("GROUP_DATA", reason);
    for field in items(fields).map_err(|empty| invalid(empty.to_string()))? {
        match field {
            "urgent" => disclosure.urgent = true,
            "mention" => disclosure.mention = true,
            other => return Err(invalid(format!("{other:?} is none of: urgent, mention"))),
        }
    }
    Ok(disclosure)
}

/// Returns whether Lambda accepts a text as a function's name or ARN, with or without a version or an alias.
fn is_function(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '$');
    !text.is_empty() && text.len() <= MAX_FUNCTION_NAME && text.chars().all(is_part)
}
