//! Takes batches of events from the queue, asks a plugin what to notify, and publishes it.
//!
//! A worker with plugins of its own is a crate whose `main` calls [`run`] with them.

mod batch;
mod decision;
mod explain;
mod external;
mod finished;
mod guard;
mod node;
mod notify;
mod publish;
mod retry;
mod shares;
mod task;

pub use explain::{Explained, Unexplained};
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
use pushlark_settings::{Environment, SettingError, aws_config, catalogue};
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
const LAST_START: Duration = Duration::from_millis(6_500);

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
    last_start: Duration,
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
    Batch(SqsBatchResponse),
    /// What would become of each event.
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
        let mut last_start = LAST_START;
        let timeout = environment.number(&catalogue::PLUGIN_TIMEOUT_MS)?;
        let on_error = OnError::from_environment(environment)?;
        let name: String = environment.require(&catalogue::PLUGIN)?;
        let plugin = match name.strip_prefix("lambda:") {
            Some(function) if is_function(function) => {
                let timeout = Duration::from_millis(timeout.into());
                last_start += timeout;
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
            disclosure: Arc::new(disclosure(environment)?),
            sources: Sources::from_environment(environment)?,
            unread_counts: environment.switch(&catalogue::UNREAD_COUNTS)?,
            time_to_live: Duration::from_secs(time_to_live.into()),
            last_start,
            guard: Guard::default(),
            recipients: Shares::new(concurrency),
            publishes: Shares::new(concurrency),
        })
    }

    /// Answers one invocation, a batch before `deadline`.
    pub async fn answer(self: &Arc<Self>, invocation: Invocation, deadline: Instant) -> Result<Answer, Unexplained> {
        let Invocation { records, explain } = invocation;
        if let Some(events) = explain {
            // Boxed, to keep it out of every other invocation's future.
            return Box::pin(self.explain(&events)).await.map(Answer::Explained);
        }
        let mut batch = SqsEvent::default();
        batch.records = records.ok_or(Unexplained::Nothing)?;
        Ok(Answer::Batch(self.handle(batch, deadline).await))
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
    let (dynamodb, sqs) = (aws_sdk_dynamodb::Client::new(&aws), aws_sdk_sqs::Client::new(&aws));
    let worker = Arc::new(Worker::from_environment(&environment, &aws, &plugins, dynamodb, sqs)?);
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
    let [urgent, mention] = environment.words(&catalogue::GROUP_DATA)?;
    Ok(Disclosure {
        body: environment.switch(&catalogue::INCLUDE_BODY)?,
        sender: environment.switch(&catalogue::INCLUDE_SENDER)?,
        placeholder: environment.require(&catalogue::BODY_PLACEHOLDER)?,
        urgent,
        mention,
    })
}

/// Whether Lambda takes a text for a function's name or ARN, with a version or an alias behind it or without.
fn is_function(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '$');
    !text.is_empty() && text.len() <= MAX_FUNCTION_NAME && text.chars().all(is_part)
}
