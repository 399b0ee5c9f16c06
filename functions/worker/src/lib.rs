//! Takes batches of events from the queue, asks a plugin what to notify, and publishes it.
//!
//! A worker with plugins of its own is a crate whose `main` calls [`run`] with them.

mod batch;
mod notify;
mod task;

pub use pushlark_plugin::{Plugin, Plugins};

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{LambdaEvent, service_fn};
use pushlark_delivery::Delivery;
use pushlark_queue::Queue;
use pushlark_settings::{Environment, SettingError, aws_config};
use pushlark_store::Store;
use pushlark_telemetry::{Causes, Format, flush, start};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long an invocation may take, as the template has it.
pub const FUNCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The function.
pub struct Worker {
    store: Store,
    queue: Queue,
    dead_letters: Queue,
    plugin: Arc<dyn Plugin>,
    delivery: Delivery,
    /// How long a notification is worth delivering when its registration does not say.
    time_to_live: Duration,
    /// `WORKER_CONCURRENCY` for the recipients that are worked on, …
    recipients: Semaphore,
    /// … and for the publishes of all of them.
    publishes: Semaphore,
}

impl Worker {
    /// From `PLUGIN`, `WORKER_CONCURRENCY`, `TIME_TO_LIVE` and the settings of [`Delivery`].
    pub fn from_environment(
        environment: &Environment,
        plugins: &Plugins,
        store: Store,
        queue: Queue,
        dead_letters: Queue,
    ) -> Result<Self, SettingError> {
        let plugin = environment.text("PLUGIN").unwrap_or("defaults");
        let plugin = plugins.get(plugin).map_err(|unknown| SettingError::invalid("PLUGIN", unknown))?;
        let concurrency = environment.number("WORKER_CONCURRENCY", 1..=1_000, 32)? as usize;
        let time_to_live = environment.number("TIME_TO_LIVE", 60..=14 * 86_400, 86_400)?;
        Ok(Self {
            store,
            queue,
            dead_letters,
            plugin,
            delivery: Delivery::from_environment(environment)?,
            time_to_live: Duration::from_secs(time_to_live.into()),
            recipients: Semaphore::new(concurrency),
            publishes: Semaphore::new(concurrency),
        })
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
    let table: String = environment.require("TABLE_NAME", "the table that holds the registrations")?;
    let queue: String = environment.require("QUEUE_URL", "the queue that the events come from")?;
    let dead_letters: String =
        environment.require("DEAD_LETTER_QUEUE_URL", "the queue for what cannot be understood")?;
    let worker = Arc::new(Worker::from_environment(
        &environment,
        &plugins,
        Store::new(aws_sdk_dynamodb::Client::new(&aws), table),
        Queue::new(sqs.clone(), queue),
        Queue::new(sqs, dead_letters),
    )?);
    let warming = Arc::clone(&worker);
    tokio::spawn(async move { warming.warm_up().await });
    lambda_runtime::run(service_fn(async |event: LambdaEvent<SqsEvent>| {
        let response = worker.handle(event.payload, instant_of(event.context.deadline)).await;
        flush();
        Ok::<_, Infallible>(response)
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
