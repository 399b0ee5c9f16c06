//! Pushlark on one machine: the functions that Lambda runs, with DynamoDB and SQS embedded, on loopback.

mod demo;
mod event_source;
mod function_url;
mod server;
mod sink;
pub mod sqs;
mod table;

pub use demo::demo;

use std::fs::{self, File, TryLockError};
use std::future::pending;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use axum::Router;
use dynoxide::Database;
use pushlark_access::{Access, Caller, Clients};
use pushlark_delivery::Destinations;
use pushlark_events::Sources;
use pushlark_http::{Answer, Invocation, Media, Methods, Problem, Response, answer};
use pushlark_json::read_json;
use pushlark_queue::Queue;
use pushlark_settings::Environment;
use pushlark_sns::Topics;
use pushlark_store::Store;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use worker::{ExplainError, FUNCTION_TIMEOUT, Plugins, Worker};

use event_source::{EventSource, Mapping};
use server::{Timeouts, serve};
use sink::Sink;
use sqs::{Clock, QueueAttributes, Sqs};

/// What the template calls the queue; its dead-letter queue has `-dead` behind it.
const QUEUE: &str = "pushlark";
/// How long SQS keeps a message: 14 days, as in the template.
const RETENTION_SECONDS: u32 = 14 * 86_400;
/// How often SQS delivers a message, as in the template.
const MAX_RECEIVE_COUNT: u32 = 100;
/// How often expired items are deleted; AWS takes up to some days.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The settings that a function needs to work as in the stack; not the secrets, which are not for a file.
const SETTINGS: [&str; 35] = [
    "TABLE_NAME",
    "QUEUE_URL",
    "DEAD_LETTER_QUEUE_URL",
    "VIRTUAL_PUBSUB_HOSTS",
    "PUBSUB_HOSTS",
    "PLUGIN",
    "PLUGIN_TIMEOUT_MS",
    "PLUGIN_ON_ERROR",
    "AWS_ENDPOINT_URL_LAMBDA",
    "PUSH_SERVICE",
    "WEB_PUSH_TRUSTED_ORIGINS",
    "MONGOOSEPUSH_URL",
    "PUBSUB_URL",
    "PUBSUB_WITHOUT_OPTIONS",
    "PUBSUB_MAX_ERRORS",
    "MONGOOSEPUSH_API_VERSION",
    "WORKER_CONCURRENCY",
    "PUBLISH_TIMEOUT_MS",
    "TIME_TO_LIVE",
    "DISABLE_AFTER_SUSPECTS",
    "DISABLE_MAX_PERCENT",
    "SESSION_LIFETIME",
    "UNREAD_COUNTS",
    "INCLUDE_BODY",
    "INCLUDE_SENDER",
    "GROUP_DATA",
    "LOG_LEVEL",
    "MAX_NODES",
    "MAX_NODES_REACHED",
    "RATE_LIMIT",
    "MUC_HOSTS",
    "MUC_LIGHT_HOSTS",
    "SNS_PRESENCE_TOPIC",
    "SNS_PM_TOPIC",
    "SNS_MUC_TOPIC",
];

/// How a stack is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port of the HTTP routes; 0 for any.
    pub port: u16,
    /// The folder that keeps the table and the queues; `None` for memory.
    pub data: Option<PathBuf>,
    /// Settings of the functions, which take the place of the stack's own defaults.
    pub environment: Environment,
    /// How fast time passes in SQS.
    pub clock: Clock,
    /// How long SQS hides a received message besides `BATCHING_WINDOW`, in SQS's own seconds.
    pub visibility_timeout: u32,
    /// The plugins that `PLUGIN` chooses from.
    pub plugins: Plugins,
    /// Where the functions look for DynamoDB when something stands between, such as an outage.
    pub dynamodb_endpoint: Option<String>,
    /// How long a client may take to send a request's header before its connection is closed. The time includes that before
    /// the next request of a connection.
    pub header_timeout: Duration,
    /// How long a client may take to send a request's body before it is answered 408.
    pub body_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            data: None,
            environment: Environment::default(),
            clock: Clock::real(),
            // Six times the worker's.
            visibility_timeout: 6 * FUNCTION_TIMEOUT.as_secs() as u32,
            plugins: Plugins::built_in(),
            dynamodb_endpoint: None,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
        }
    }
}

/// A running stack. Dropping it stops all of it at once; [`Stack::stop`] lets it finish what it has begun.
#[derive(Debug)]
pub struct Stack {
    /// Where the functions and the sink are served.
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
    /// The function behind `/events`, as it is invoked without HTTP.
    pub ingest: ingest::Function,
    stop: watch::Sender<bool>,
    functions: JoinSet<()>,
    /// They lose nothing when they are cut off: what they have answered for is stored.
    _emulators: JoinSet<()>,
    /// Dropped last: it keeps other processes from the data folder.
    _lock: Option<File>,
}

impl Stack {
    /// Starts everything, and returns once it serves.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let listener = bind(options.port).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let (mut emulators, mut functions) = (JoinSet::new(), JoinSet::new());
        let timeouts = Timeouts { header: options.header_timeout, body: options.body_timeout };

        let lock = options.data.as_deref().map(lock).transpose()?;
        let database = open_database(&options)?;
        let dynamodb_listener = bind(0).await?;
        let dynamodb_url = url(dynamodb_listener.local_addr()?);
        emulators.spawn(sweep(database.clone()));
        emulators.spawn(async move {
            if let Err(error) = dynoxide::server::serve_with_shutdown(dynamodb_listener, database, pending()).await {
                tracing::error!(error, "DynamoDB stopped");
            }
        });
        let mapping = Mapping::from_environment(&options.environment)?;
        let queues = open_queues(&options, mapping.batching_window)?;
        let sqs_listener = bind(0).await?;
        let sqs_url = url(sqs_listener.local_addr()?);
        serve(&mut emulators, sqs_listener, queues.router(), timeouts, pending());

        let aws = aws_config().await;
        let dynamodb_at = |endpoint: &str| {
            let config = aws_sdk_dynamodb::config::Builder::from(&aws).endpoint_url(endpoint).build();
            aws_sdk_dynamodb::Client::from_conf(config)
        };
        let dynamodb = dynamodb_at(&dynamodb_url);
        let sqs = aws_sdk_sqs::config::Builder::from(&aws).endpoint_url(&sqs_url).build();
        let sqs = aws_sdk_sqs::Client::from_conf(sqs);

        let queue_url = format!("{sqs_url}/000000000000/{QUEUE}");
        let dead_letter_url = format!("{queue_url}-dead");
        let mut environment = Environment::from_iter([
            ("TABLE_NAME", "pushlark"),
            ("VIRTUAL_PUBSUB_HOSTS", "push.@HOST@"),
            ("MONGOOSEPUSH_URL", &format!("{}/sink", url(address))),
        ]);
        environment.extend(options.environment.variables());
        // The stack's own, whatever the shell that it was started from says.
        environment.extend([("QUEUE_URL", &queue_url), ("DEAD_LETTER_QUEUE_URL", &dead_letter_url)]);

        let table: String = environment.require("TABLE_NAME", "the table's name")?;
        table::create(&dynamodb, &table).await?;
        let store_client = options.dynamodb_endpoint.as_deref().map_or(dynamodb.clone(), dynamodb_at);
        let store = Store::from_environment(store_client, &environment)?;
        let queue = Queue::new(sqs.clone(), &queue_url);
        let dead_letters = Queue::new(sqs.clone(), dead_letter_url);
        let access = access(&environment, &aws).await?;
        let clients_access = access.clone().with_clients(Clients::from_environment(&environment, &aws).await?);
        let topics = Topics::from_environment(&environment)?;
        let destinations = Destinations::from_environment(&environment)?;
        let enable = enable::Function {
            access: clients_access.clone(),
            store: store.clone(),
            destinations: destinations.clone(),
        };
        let disable = disable::Function { access: clients_access, store: store.clone() };
        let ingest = ingest::Function {
            access: access.clone().with_topics(topics.clone()),
            topics,
            sources: Sources::from_environment(&environment)?,
            store: store.clone(),
            queue: queue.clone(),
            unread_counts: environment.switch("UNREAD_COUNTS", false)?,
        };
        let pubsub =
            pubsub::Function { access: access.clone(), store: store.clone(), queue: queue.clone(), destinations };
        let aws = with_endpoint(aws, &environment, "AWS_ENDPOINT_URL_LAMBDA");
        let worker = Worker::from_environment(&environment, &aws, &options.plugins, store, queue, dead_letters)?;
        let worker = Arc::new(worker);
        let router = Router::new()
            .merge(function_url::route("/enable", enable, |f, event| async move { f.handle(event).await }))
            .merge(function_url::route("/disable", disable, |f, event| async move { f.handle(event).await }))
            .merge(function_url::route("/events", ingest.clone(), |f, event| async move { f.handle(event).await }))
            .merge(function_url::route("/pubsub", pubsub, |f, event| async move { f.handle(event).await }))
            .merge(function_url::route(
                "/explain",
                (access, Arc::clone(&worker)),
                |(access, worker), event| async move { explain(&access, &worker, event).await },
            ))
            .nest("/sink", Sink::default().router());
        serve(&mut functions, listener, router, timeouts, until_stopped(stopped.clone()));
        functions.spawn(EventSource::new(sqs.clone(), queue_url, worker, mapping).run(stopped));

        Ok(Self {
            url: url(address),
            dynamodb_url,
            sqs_url,
            environment,
            dynamodb,
            sqs,
            ingest,
            stop,
            functions,
            _emulators: emulators,
            _lock: lock,
        })
    }

    /// Finishes what was begun, and stops.
    pub async fn stop(mut self) {
        // All tasks may have stopped already.
        let _ = self.stop.send(true);
        let all_stopped = async { while self.functions.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(12), all_stopped).await.is_err() {
            tracing::warn!("something still ran after twelve seconds");
        }
    }

    /// The settings with which `cargo lambda` runs a function against this stack, a line each.
    pub fn lambda_env(&self) -> String {
        let own = [
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb_url.as_str()),
            ("AWS_ENDPOINT_URL_SQS", &self.sqs_url),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
            ("AWS_REGION", "us-east-1"),
        ];
        let settings = SETTINGS.into_iter().filter_map(|name| Some((name, self.environment.text(name)?)));
        own.into_iter().chain(settings).map(|(name, value)| format!("{name}={value}\n")).collect()
    }
}

async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("port {port} is taken: another program listens there. Choose another one with --port")
        }
        bound => bound.with_context(|| format!("cannot listen on port {port}")),
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the stack was dropped.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Creates the data folder if necessary, and locks it for this process. The system releases the lock when the process ends,
/// however it ends.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let name = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("cannot create {name}"))?;
    let path = folder.join("lock");
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Without the number the message is still right.
            let _ = file.read_to_string(&mut pid);
            let owner = pid.trim().parse().map_or("another process".into(), |pid: u32| format!("the process {pid}"));
            bail!("{name} is in use by {owner}. Stop it, or choose another folder with --data");
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", process::id())).context("cannot write to the data folder")?;
    Ok(file)
}

fn open_database(options: &Options) -> anyhow::Result<Database> {
    let Some(folder) = &options.data else { return Ok(Database::memory()?) };
    let path = folder.join("dynamodb.sqlite");
    let path = path.to_str().context("the data folder's name is not UTF-8")?;
    Database::new(path).with_context(|| format!("cannot open {path}"))
}

fn open_queues(options: &Options, batching_window: Duration) -> anyhow::Result<Sqs> {
    let path = options.data.as_ref().map(|folder| folder.join("sqs.sqlite"));
    let sqs = Sqs::open(path.as_deref(), options.clock)?;
    let dead = format!("{QUEUE}-dead");
    let attributes = QueueAttributes { message_retention_period: RETENTION_SECONDS, ..QueueAttributes::default() };
    sqs.create_queue(&dead, attributes.clone())?;
    let max_receive = Some((dead, MAX_RECEIVE_COUNT));
    // The window is at most 300 s.
    let visibility_timeout = options.visibility_timeout + batching_window.as_secs() as u32;
    sqs.create_queue(QUEUE, QueueAttributes { visibility_timeout, max_receive, ..attributes })?;
    // Whoever had received something was part of the process before this one.
    sqs.release(QUEUE)?;
    Ok(sqs)
}

/// DynamoDB on AWS deletes expired items by itself.
async fn sweep(database: Database) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let database = database.clone();
        let swept = tokio::task::spawn_blocking(move || database.sweep_ttl()).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "expired items were not deleted");
        }
    }
}

/// Invokes the worker with events to explain, as IAM lets an operator do on AWS.
async fn explain(access: &Access, worker: &Worker, invocation: Invocation) -> Answer {
    #[derive(Deserialize)]
    struct Explain {
        explain: Vec<Box<RawValue>>,
    }

    answer(access, Methods::Post, invocation, async |request| {
        if request.caller != Caller::Operator {
            return Err(Problem::forbidden("the credential does not speak for all domains"));
        }
        if request.media != Media::Json {
            return Err(Problem::unsupported_media(&request.media, "application/json"));
        }
        let Explain { explain } = read_json(&request.body).map_err(Problem::bad_request)?;
        match worker.explain(&explain).await {
            Ok(explained) => Response::json(200, &explained),
            Err(ExplainError::Store(_) | ExplainError::Plugin(_)) => Err(Problem::unavailable()),
            Err(unexplained) => Err(Problem::bad_request(unexplained.to_string())),
        }
    })
    .await
}

/// Credentials that no real service takes, whatever is configured on this machine.
async fn aws_config() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .load()
        .await
}

fn with_endpoint(aws: SdkConfig, environment: &Environment, variable: &str) -> SdkConfig {
    match environment.text(variable) {
        Some(endpoint) => aws.into_builder().endpoint_url(endpoint).build(),
        None => aws,
    }
}

async fn access(environment: &Environment, aws: &SdkConfig) -> anyhow::Result<Access> {
    if environment.value("WEBHOOK_SECRET")?.is_none() {
        tracing::warn!("WEBHOOK_SECRET is not set: anybody on this machine may call");
        return Ok(Access::open());
    }
    let aws = with_endpoint(aws.clone(), environment, "AWS_ENDPOINT_URL_SECRETS_MANAGER");
    Ok(Access::from_environment(environment, &aws).await?)
}
