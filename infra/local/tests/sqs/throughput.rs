//! A measurement of the throughput.

use std::time::Instant;

use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry};
use local::sqs::{Clock, QueueAttributes, Sqs};

use crate::database_file::DatabaseFile;
use crate::test_queue::TestQueue;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release -p local --test sqs -- --ignored --nocapture throughput"]
async fn throughput() {
    let file = DatabaseFile::new("throughput");
    let sqs = Sqs::open(Some(&file.0), Clock::real()).unwrap();
    sqs.create_queue("queue", QueueAttributes::default()).unwrap();
    let queue = TestQueue::of(sqs).await;
    let (tasks, rounds) = (8, 500);

    let start = Instant::now();
    let one_by_one = (0..tasks).map(|_| {
        let queue = queue.clone();
        tokio::spawn(async move {
            for _ in 0..rounds {
                queue.send("m").await;
                for message in queue.poll().await {
                    queue.delete(message.receipt_handle().unwrap()).await.unwrap();
                }
            }
        })
    });
    for task in one_by_one.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let rate = f64::from(tasks * rounds) / start.elapsed().as_secs_f64();
    println!("one by one: {rate:.0} messages sent, received and deleted a second, three requests each");

    let start = Instant::now();
    let by_tens = (0..tasks).map(|_| {
        let queue = queue.clone();
        tokio::spawn(async move {
            for _ in 0..rounds / 5 {
                let entries = (0..10).map(|n| {
                    SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body("m").build().unwrap()
                });
                let send = queue.client.send_message_batch().queue_url(&queue.url);
                send.set_entries(Some(entries.collect())).send().await.unwrap();
                let received = queue.receiving().max_number_of_messages(10).send().await.unwrap();
                let entries = received.messages().iter().enumerate().map(|(n, message)| {
                    let entry = DeleteMessageBatchRequestEntry::builder().id(n.to_string());
                    entry.receipt_handle(message.receipt_handle().unwrap()).build().unwrap()
                });
                let delete = queue.client.delete_message_batch().queue_url(&queue.url);
                delete.set_entries(Some(entries.collect())).send().await.unwrap();
            }
        })
    });
    for task in by_tens.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let rate = f64::from(tasks * rounds * 2) / start.elapsed().as_secs_f64();
    println!("in batches of ten: {rate:.0} messages sent, received and deleted a second");
}
