//! Takes batches of events from the queue, asks a plugin what to notify, and publishes it.
//!
//! A worker with plugins of its own is a crate whose `main` calls [`run`] with them.

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

/// How long an invocation may take, as the template has it.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest name or ARN of a function, in characters ("Lambda API reference", Invoke).
const MAX_FUNCTION_NAME: usize = 170;

/// No task begins later than this before the deadline: the longest publish (5 s) and what goes before and after it.
const START_CUTOFF: Duration = Duration::from_millis(6_500);

/// The function.
pub struct Worker {
    store: Store,
    queue: Queue,
    dead_letters: Queue,
    plugin: ChosenPlugin,
    delivery: Delivery,
    disclosure: Arc<Disclosure>,
    /// What the settings say of the sources of events.
    sources: Sources,
    /// Whether Pushlark counts what is unread.
    unread_counts: bool,
    /// How long a notification is worth delivering when its registration does not say.
    time_to_live: Duration,
    /// How long before the deadline the last task begins.
    start_cutoff: Duration,
    guard: Guard,
    /// `WORKER_CONCURRENCY` for the recipients that are decided on, …
    recipients: Shares,
    /// … and for the publishes of all of them.
    publishes: Shares,
}

/// Who decides.
enum ChosenPlugin {
    /// A plugin that the worker was built with.
    Compiled(Arc<dyn Plugin>),
    /// A Lambda function.
    External(Arc<External>),
}

/// What the worker is invoked with: a batch of the queue's messages ("Using Lambda with Amazon SQS"), or events that
/// are to be explained.
#[derive(Debug, Deserialize)]
pub struct Invocation {
    #[serde(rename = "Records")]
    records: Option<Vec<SqsMessage>>,
    /// Events as `/events` takes them as JSON.
    explain: Option<Vec<Box<RawValue>>>,
}

/// What the worker answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Which messages stay in the queue.
    BatchContext(SqsBatchResponse),
    /// What would become of each event.
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

    /// Answers one invocation, a batch before `deadline`.
    pub async fn answer(self: &Arc<Self>, invocation: Invocation, deadline: Instant) -> Result<Answer, ExplainError> {
        let Invocation { records, explain } = invocation;
        if let Some(events) = explain {
            // Boxed, to keep it out of every other invocation's future.
            return Box::pin(self.explain(&events)).await.map(Answer::Explained);
        }
        let mut batch = SqsEvent::default();
        batch.records = records.ok_or(ExplainError::Nothing)?;
        Ok(Answer::BatchContext(self.handle(batch, deadline).await))
    }

    /// Opens the connections that the first notification will need.
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

/// The instant of a time in milliseconds since 1970. One that is past cannot be an invocation's deadline: cargo-lambda
/// gives a number of its own, and the template's time-out is taken instead.
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

/// Whether Lambda takes a text for a function's name or ARN, with a version or an alias behind it or without.
fn is_function(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '$');
    !text.is_empty() && text.len() <= MAX_FUNCTION_NAME && text.chars().all(is_part)
}
