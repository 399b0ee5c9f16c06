//! DynamoDB and SQS on this machine, with the table and the queues that the template declares.

use std::fs::{self, File, TryLockError};
use std::future::pending;
use std::io::{Read, Write};
use std::path::Path;
use std::process;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_config::SdkConfig;
use dynoxide::Database;
use tokio::task::JoinSet;

use crate::options::Options;
use crate::server::{Timeouts, bind, serve, url};
use crate::sqs::{QueueAttributes, Sqs};

/// The name of the queue of events.
pub const QUEUE: &str = "pushlark";
/// The name of the dead-letter queue.
const DEAD_LETTER_QUEUE: &str = "pushlark-dead";
/// The time for which SQS keeps a message, in seconds, as in the template: 14 days.
pub const RETENTION_SECONDS: u32 = 14 * 86_400;
/// The maximum number of deliveries of a message, as in the template.
pub const MAX_RECEIVE_COUNT: u32 = 100;
/// The time between two deletions of expired items. AWS takes up to a few days.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The running emulators. Dropping them stops them. Acknowledged writes are stored, so nothing is lost.
#[derive(Debug)]
pub struct Emulators {
    /// The endpoint of DynamoDB.
    pub dynamodb_url: String,
    /// The endpoint of SQS.
    pub sqs_url: String,
    pub queue_url: String,
    pub dead_letter_queue_url: String,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub sqs: aws_sdk_sqs::Client,
    _tasks: JoinSet<()>,
    /// Dropped last: it keeps other processes from the data folder.
    _lock: Option<File>,
}

impl Emulators {
    /// Opens the data folder, creates the queues and serves both emulators. The visibility timeout is that of
    /// `options` plus `batching_window`.
    pub async fn start(
        options: &Options,
        aws: &SdkConfig,
        batching_window: Duration,
        timeouts: Timeouts,
    ) -> anyhow::Result<Self> {
        let mut tasks = JoinSet::new();
        let lock = options.data.as_deref().map(lock).transpose()?;
        let database = open_database(options)?;
        let listener = bind(0).await?;
        let dynamodb_url = url(listener.local_addr()?);
        tasks.spawn(sweep(database.clone()));
        tasks.spawn(async move {
            if let Err(error) = dynoxide::server::serve_with_shutdown(listener, database, pending()).await {
                tracing::error!(error, "DynamoDB stopped");
            }
        });
        let queues = open_queues(options, batching_window)?;
        let listener = bind(0).await?;
        let sqs_url = url(listener.local_addr()?);
        serve(&mut tasks, listener, queues.router(), timeouts, pending());

        let account = format!("{sqs_url}/000000000000");
        let sqs = aws_sdk_sqs::config::Builder::from(aws).endpoint_url(&sqs_url).build();
        Ok(Self {
            queue_url: format!("{account}/{QUEUE}"),
            dead_letter_queue_url: format!("{account}/{DEAD_LETTER_QUEUE}"),
            dynamodb: dynamodb_at(&dynamodb_url, aws),
            sqs: aws_sdk_sqs::Client::from_conf(sqs),
            dynamodb_url,
            sqs_url,
            _tasks: tasks,
            _lock: lock,
        })
    }
}

/// A client of the DynamoDB at an endpoint.
pub fn dynamodb_at(endpoint: &str, aws: &SdkConfig) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::from(aws).endpoint_url(endpoint).build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// Creates the data folder if necessary, and locks it for this process. The system releases the lock when the process
/// ends.
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
            // Without the number the message is still correct.
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
    let attributes = QueueAttributes { message_retention_period: RETENTION_SECONDS, ..QueueAttributes::default() };
    sqs.create_queue(DEAD_LETTER_QUEUE, attributes.clone())?;
    let max_receive = Some((DEAD_LETTER_QUEUE.to_owned(), MAX_RECEIVE_COUNT));
    // The window is at most 300 s.
    let visibility_timeout = options.visibility_timeout + batching_window.as_secs() as u32;
    sqs.create_queue(QUEUE, QueueAttributes { visibility_timeout, max_receive, ..attributes })?;
    // Messages that were received belong to the process before this one.
    sqs.release(QUEUE)?;
    Ok(sqs)
}

/// Deletes expired items, as DynamoDB on AWS does.
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
