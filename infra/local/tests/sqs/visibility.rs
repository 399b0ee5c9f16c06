//! Visibility timeout, delay and retention.

use std::time::Instant;

use aws_sdk_sqs::types::MessageSystemAttributeName as System;
use local::sqs::{Clock, QueueAttributes};

use crate::test_queue::{PROMPT_LIMIT, TestQueue, bodies, eventually, outcome, refused, seconds_since, system};

#[tokio::test]
async fn a_received_message_is_hidden_for_the_queues_visibility_timeout() {
    let attributes = QueueAttributes { visibility_timeout: 10, ..Default::default() };
    let queue = TestQueue::new(Clock::scaled(10), attributes).await;
    queue.send("m").await;
    let start = Instant::now();
    queue.receive_one().await;
    assert_eq!(queue.poll().await.len(), 1);
    assert!(seconds_since(start) >= 1.0);
}

#[tokio::test]
async fn the_visibility_timeout_of_a_receive_overrides_the_queues() {
    let queue = TestQueue::plain().await;
    queue.send("m").await;
    let start = Instant::now();
    queue.receiving().visibility_timeout(1).send().await.unwrap();
    assert_eq!(queue.poll().await.len(), 1);
    assert!(seconds_since(start) >= 1.0 && start.elapsed() < PROMPT_LIMIT);
}

#[tokio::test]
async fn a_message_received_with_visibility_timeout_0_stays_visible() {
    let queue = TestQueue::plain().await;
    queue.send("m").await;
    for count in ["1", "2", "3"] {
        let received = queue.receiving().visibility_timeout(0).max_number_of_messages(10).send().await.unwrap();
        assert_eq!(received.messages().len(), 1);
        assert_eq!(system(&received.messages()[0], System::ApproximateReceiveCount), count);
    }
}

#[tokio::test]
async fn a_changed_visibility_timeout_starts_at_the_change() {
    let queue = TestQueue::plain().await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    let start = Instant::now();
    queue.change_visibility(&receipt, 1).await.unwrap();
    let again = queue.poll().await;
    assert_eq!(again.len(), 1);
    assert!(seconds_since(start) >= 1.0 && start.elapsed() < PROMPT_LIMIT);
    queue.change_visibility(again[0].receipt_handle().unwrap(), 0).await.unwrap();
    assert_eq!(system(&queue.receive_one().await, System::ApproximateReceiveCount), "3");
}

#[tokio::test]
async fn a_visibility_timeout_out_of_range_is_refused() {
    let queue = TestQueue::plain().await;
    queue.send("m").await;
    for invalid in [-1, 43_201] {
        let receiving = queue.receiving().visibility_timeout(invalid);
        assert_eq!(outcome(receiving.send()).await, refused("InvalidParameterValue"));
    }
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    for invalid in [-1, 43_201] {
        assert_eq!(queue.change_visibility(&receipt, invalid).await, refused("InvalidParameterValue"));
    }
}

#[tokio::test]
async fn a_message_is_hidden_for_at_most_12_hours_after_its_receive() {
    // An hour passes in 10 s, a second in 3 ms.
    let queue =
        TestQueue::new(Clock::scaled(360), QueueAttributes { visibility_timeout: 3_600, ..Default::default() }).await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    queue.change_visibility(&receipt, 39_600).await.unwrap();
    eventually(async || queue.change_visibility(&receipt, 43_200).await == refused("InvalidParameterValue")).await;
    queue.change_visibility(&receipt, 36_000).await.unwrap();
    assert_eq!(queue.counts().await, ["0", "1", "0"]);
}

#[tokio::test]
async fn the_visibility_of_a_message_not_in_flight_cannot_change() {
    let queue = TestQueue::plain().await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    queue.change_visibility(&receipt, 0).await.unwrap();
    assert_eq!(queue.change_visibility(&receipt, 60).await, refused("AWS.SimpleQueueService.MessageNotInflight"));
    assert_eq!(queue.counts().await, ["1", "0", "0"]);
    queue.delete(&receipt).await.unwrap();
    assert_eq!(queue.change_visibility(&receipt, 60).await, refused("InvalidParameterValue"));
}

#[tokio::test]
async fn a_delayed_message_is_hidden_for_its_delay() {
    let attributes = QueueAttributes { delay_seconds: 10, visibility_timeout: 43_200, ..Default::default() };
    let queue = TestQueue::new(Clock::scaled(5), attributes).await;
    let start = Instant::now();
    queue.send("as the queue says").await;
    queue.sending("not at all").delay_seconds(0).send().await.unwrap();
    queue.sending("longer").delay_seconds(900).send().await.unwrap();
    let first = queue.poll().await;
    assert!(bodies(&first).contains("not at all"));
    // On a busy machine, one poll may return both.
    let both = if first.len() == 2 { first } else { [first, queue.poll().await].concat() };
    assert_eq!(bodies(&both), ["not at all", "as the queue says"].into());
    assert!(seconds_since(start) >= 2.0);
    assert_eq!(queue.counts().await, ["0", "2", "1"]);
}

#[tokio::test]
async fn a_delay_out_of_range_is_refused() {
    let queue = TestQueue::plain().await;
    for invalid in [-1, 901] {
        let sending = queue.sending("m").delay_seconds(invalid);
        assert_eq!(outcome(sending.send()).await, refused("InvalidParameterValue"));
    }
}

#[tokio::test]
async fn a_message_is_kept_for_the_queues_retention_period() {
    let attributes = QueueAttributes { message_retention_period: 120, visibility_timeout: 1, ..Default::default() };
    let queue = TestQueue::new(Clock::scaled(60), attributes).await;
    let start = Instant::now();
    queue.send("waiting").await;
    queue.sending("delayed").delay_seconds(900).send().await.unwrap();
    eventually(async || queue.counts().await == ["0", "0", "0"]).await;
    assert!(seconds_since(start) >= 2.0);
    assert!(queue.receive().await.is_empty());
}

#[tokio::test]
async fn visible_in_flight_and_delayed_messages_are_counted_separately() {
    let queue = TestQueue::plain().await;
    for body in ["a", "b", "c"] {
        queue.send(body).await;
    }
    queue.sending("d").delay_seconds(900).send().await.unwrap();
    queue.receiving().max_number_of_messages(2).send().await.unwrap();
    assert_eq!(queue.counts().await, ["1", "2", "1"]);
}
