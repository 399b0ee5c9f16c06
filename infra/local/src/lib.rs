//! Pushlark on one machine: the functions that Lambda runs, with DynamoDB and SQS embedded, on loopback.

mod demo;
mod emulators;
mod event_source;
mod function_url;
mod functions;
mod options;
mod page;
mod server;
mod sink;
pub mod sqs;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod template;

pub use demo::demo;
pub use options::Options;
pub use page::Live;

use std::future::ready;
use std::time::Duration;

use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use axum::routing::get;
use pushlark_http_client::{Tls, aws_http_client};
use pushlark_settings::catalogue::{
    self, DEAD_LETTER_QUEUE_URL, MONGOOSEPUSH_URL, QUEUE_URL, TABLE_NAME, VIRTUAL_PUBSUB_HOSTS,
};
use pushlark_settings::{Environment, SettingError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use emulators::{Emulators, dynamodb_at};
use event_source::{EventSource, Mapping};
use functions::Functions;
use page::Page;
use server::{Timeouts, bind, serve, url};
use sink::Sink;

/// A running stack. Dropping it stops it at once; [`Stack::stop`] finishes running requests and batches first.
#[derive(Debug)]
pub struct Stack {
    /// The URL of the functions and the sink.
    pub url: String,
    /// The endpoint of DynamoDB.
    pub dynamodb_url: String,
    /// The endpoint of SQS.
    pub sqs_url: String,
    /// The settings that the functions were started with.
    pub environment: Environment,
    /// A client of the stack's DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// A client of the stack's SQS.
    pub sqs: aws_sdk_sqs::Client,
    /// The function behind `/events`, for invocations without HTTP.
    pub ingest: ingest::Function,
    stop: watch::Sender<bool>,
    functions: JoinSet<()>,
    /// Dropped last.
    emulators: Emulators,
}

impl Stack {
    /// Starts the emulators, builds the functions and serves their routes; returns once it serves.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = bind(options.port).await?;
        let url = url(listener.local_addr()?);
        let timeouts = Timeouts { header: options.header_timeout, body: options.body_timeout };
        let mapping = Mapping::from_environment(&options.environment)?;
        let aws = aws_config(&options.environment).await?;

        let emulators = Emulators::start(&options, &aws, mapping.batching_window, timeouts).await?;
        let environment = settings(&options.environment, &url, &emulators);
        let Emulators { dynamodb, sqs, .. } = &emulators;
        table::create(dynamodb, &environment.require::<String>(&TABLE_NAME)?).await?;

        let functions_dynamodb = options.dynamodb_endpoint.as_deref().map(|endpoint| dynamodb_at(endpoint, &aws));
        let functions_dynamodb = functions_dynamodb.as_ref().unwrap_or(dynamodb);
        let functions =
            Functions::from_environment(&environment, &aws, &options.plugins, functions_dynamodb, sqs).await?;

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let lambda_env = lambda_env(&environment, &emulators);
        let page =
            Page::from_environment(&environment, &options.live, dynamodb, &format!("{url}/sink"), stopped.clone())?;
        let routes = page.watch(functions.routes()).nest("/sink", Sink::new(options.live.clone()).router());
        let routes = routes.route("/lambda.env", get(move || ready(lambda_env.clone()))).merge(page.router());
        serve(&mut tasks, listener, routes, timeouts, until_stopped(stopped.clone()));
        let source = EventSource::new(sqs.clone(), emulators.queue_url.clone(), functions.worker, mapping);
        tasks.spawn(source.run(stopped));

        Ok(Self {
            url,
            dynamodb_url: emulators.dynamodb_url.clone(),
            sqs_url: emulators.sqs_url.clone(),
            environment,
            dynamodb: dynamodb.clone(),
            sqs: sqs.clone(),
            ingest: functions.ingest,
            stop,
            functions: tasks,
            emulators,
        })
    }

    /// Finishes running requests and batches, for at most twelve seconds, and stops.
    pub async fn stop(mut self) {
        // All tasks may have stopped already.
        let _ = self.stop.send(true);
        let all_stopped = async { while self.functions.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(12), all_stopped).await.is_err() {
            tracing::warn!("stopped after twelve seconds, while requests or batches were still running");
        }
    }

    /// Returns the settings with which `cargo lambda` runs a function against this stack, one per line, without
    /// secrets and without values of several lines. `GET /lambda.env` has the same.
    pub fn lambda_env(&self) -> String {
        lambda_env(&self.environment, &self.emulators)
    }
}

fn lambda_env(environment: &Environment, emulators: &Emulators) -> String {
    let own = [
        ("AWS_ENDPOINT_URL_DYNAMODB", emulators.dynamodb_url.as_str()),
        ("AWS_ENDPOINT_URL_SQS", &emulators.sqs_url),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_REGION", "us-east-1"),
    ];
    let settings = catalogue::all().into_iter().filter(|setting| !setting.is_secret);
    let settings = settings.filter_map(|setting| Some((setting.name, environment.text(setting.name)?)));
    let settings = settings.filter(|(_, value)| !value.contains('\n'));
    own.into_iter().chain(settings).map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// Returns the settings of the stack's functions: its own defaults, overridden by `given`. The queues are always its
/// own, even if the environment names others.
fn settings(given: &Environment, url: &str, emulators: &Emulators) -> Environment {
    let mut environment = Environment::from_iter([
        (TABLE_NAME.name, "pushlark"),
        (VIRTUAL_PUBSUB_HOSTS.name, "push.@HOST@"),
        (MONGOOSEPUSH_URL.name, &format!("{url}/sink")),
    ]);
    environment.extend(given.variables());
    environment.extend([
        (QUEUE_URL.name, &emulators.queue_url),
        (DEAD_LETTER_QUEUE_URL.name, &emulators.dead_letter_queue_url),
    ]);
    environment
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the stack was dropped.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Returns a configuration whose credentials no real service accepts, whatever is configured on this machine.
async fn aws_config(environment: &Environment) -> Result<SdkConfig, SettingError> {
    let config = aws_config::defaults(BehaviorVersion::latest())
        .http_client(aws_http_client(Tls::from_environment(environment)?))
        .region(Region::from_static("us-east-1"))
        // It would take a long poll of SQS without a message for a stalled stream.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .credentials_provider(Credentials::new("local", "local", None, None, "local"));
    Ok(config.load().await)
}
