//! Queues in a file: restarts, and a kill of the process.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use local::sqs::{Clock, QueueAttributes, Sqs};

use crate::test_queue::{TestQueue, bodies, client, eventually};

/// A database file in the target directory. It is deleted when dropped.
pub struct DatabaseFile(pub PathBuf);

impl DatabaseFile {
    pub fn new(name: &str) -> Self {
        let file = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.sqlite", std::process::id())));
        file.remove();
        file
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
    }
}

impl Drop for DatabaseFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[tokio::test]
async fn creating_a_queue_at_the_next_start_keeps_messages_and_updates_attributes() {
    let file = DatabaseFile::new("restart");
    let attributes = |visibility_timeout| QueueAttributes { visibility_timeout, ..Default::default() };
    let start = async |visibility_timeout| {
        let sqs = Sqs::open(Some(&file.0), Clock::real()).unwrap();
        sqs.create_queue("queue", attributes(visibility_timeout)).unwrap();
        TestQueue::of(sqs).await
    };
    let queue = start(600).await;
    let created = queue.attributes(&[Attribute::CreatedTimestamp]).await;
    queue.send("received").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    queue.send("waiting").await;
    drop(queue);

    let queue = start(60).await;
    assert_eq!(queue.counts().await, ["1", "1", "0"]);
    assert_eq!(queue.attributes(&[Attribute::VisibilityTimeout]).await["VisibilityTimeout"], "60");
    assert_eq!(queue.attributes(&[Attribute::CreatedTimestamp]).await, created);
    queue.delete(&receipt).await.unwrap();
    assert_eq!(bodies(&queue.receive().await), ["waiting"].into());
}

#[tokio::test]
async fn queues_exist_after_a_restart_without_being_created_again() {
    let file = DatabaseFile::new("remembered");
    let sqs = Sqs::open(Some(&file.0), Clock::real()).unwrap();
    sqs.create_queue("dead", QueueAttributes::default()).unwrap();
    let attributes = QueueAttributes { max_receive: Some(("dead".to_owned(), 7)), ..Default::default() };
    sqs.create_queue("queue", attributes).unwrap();
    drop(sqs);
    let queue = TestQueue::of(Sqs::open(Some(&file.0), Clock::real()).unwrap()).await;
    let policy = &queue.attributes(&[Attribute::RedrivePolicy]).await["RedrivePolicy"];
    assert_eq!(policy, r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":7}"#);
}

const SERVED_FILE: &str = "LOCAL_SQS_TEST_FILE";

/// A server in a separate process, which can be killed.
struct ServerProcess(Child);

impl ServerProcess {
    fn start(file: &DatabaseFile) -> (Self, String) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "database_file::serve_until_killed", "--ignored", "--nocapture"])
            .env(SERVED_FILE, &file.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let process = Self(child);
        let mut lines = lines.map(Result::unwrap);
        let endpoint = lines.find_map(|line| line.strip_prefix("serving ").map(str::to_owned)).unwrap();
        (process, endpoint)
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "another test starts it as a process, and kills it"]
fn serve_until_killed() {
    let Some(file) = std::env::var_os(SERVED_FILE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sqs = Sqs::open(Some(Path::new(&file)), Clock::real()).unwrap();
        sqs.create_queue("queue", QueueAttributes::default()).unwrap();
        let queue = TestQueue::of(sqs).await;
        println!("\nserving {}", queue.url.trim_end_matches("/000000000000/queue"));
        // The other end closes when the test's process ends.
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answered_send_survives_a_kill_of_the_process() {
    let file = DatabaseFile::new("killed");
    let (mut process, endpoint) = ServerProcess::start(&file);
    let url = format!("{endpoint}/000000000000/queue");
    let answered = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (client, url, answered) = (client(&endpoint), url.clone(), answered.clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while let Ok(sent) = client.send_message().queue_url(&url).message_body("m").send().await {
                    ids.push(sent.message_id.unwrap());
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                ids
            })
        })
        .collect();
    eventually(async || answered.load(Ordering::SeqCst) >= 200).await;
    // While messages are being sent.
    process.kill();
    let mut sent = HashSet::new();
    for sender in senders {
        sent.extend(sender.await.unwrap());
    }
    assert!(sent.len() >= 200);

    let queue = TestQueue::of(Sqs::open(Some(&file.0), Clock::real()).unwrap()).await;
    loop {
        let messages = queue.receive().await;
        if messages.is_empty() {
            break;
        }
        for message in messages {
            sent.remove(message.message_id().unwrap());
        }
    }
    assert!(sent.is_empty(), "{} answered messages are lost", sent.len());
}
