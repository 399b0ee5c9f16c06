//! Receives: long polls, and the number of messages.

use std::collections::HashSet;
use std::time::Instant;

use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use local::sqs::{Clock, QueueAttributes};

use crate::test_queue::{PROMPT_LIMIT, TestQueue, bodies, outcome, refused, seconds_since};

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_message_is_sent() {
    let queue = TestQueue::plain().await;
    let poll = queue.polling().await;
    let start = Instant::now();
    queue.send("m").await;
    assert_eq!(bodies(&poll.await.unwrap()), ["m"].into());
    assert!(start.elapsed() < PROMPT_LIMIT);
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_batch_is_sent() {
    let queue = TestQueue::plain().await;
    let poll = queue.polling().await;
    let start = Instant::now();
    let entry = SendMessageBatchRequestEntry::builder().id("1").message_body("m").build().unwrap();
    queue.client.send_message_batch().queue_url(&queue.url).entries(entry).send().await.unwrap();
    assert_eq!(bodies(&poll.await.unwrap()), ["m"].into());
    assert!(start.elapsed() < PROMPT_LIMIT);
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_delay_ends() {
    let queue = TestQueue::plain().await;
    let poll = queue.polling().await;
    let start = Instant::now();
    queue.sending("m").delay_seconds(1).send().await.unwrap();
    assert_eq!(poll.await.unwrap().len(), 1);
    assert!(seconds_since(start) >= 1.0 && start.elapsed() < PROMPT_LIMIT);
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_visibility_timeout_ends() {
    let queue = TestQueue::plain().await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    let poll = queue.polling().await;
    let start = Instant::now();
    queue.change_visibility(&receipt, 1).await.unwrap();
    assert_eq!(poll.await.unwrap().len(), 1);
    assert!(seconds_since(start) >= 1.0 && start.elapsed() < PROMPT_LIMIT);
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_message_is_returned() {
    let queue = TestQueue::plain().await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    let poll = queue.polling().await;
    let start = Instant::now();
    queue.change_visibility(&receipt, 0).await.unwrap();
    assert_eq!(poll.await.unwrap().len(), 1);
    assert!(start.elapsed() < PROMPT_LIMIT);
}

#[tokio::test]
async fn a_long_poll_of_the_dead_letter_queue_is_answered_when_a_message_is_moved() {
    let attributes =
        QueueAttributes { visibility_timeout: 0, max_receive: Some(("dead".to_owned(), 1)), ..Default::default() };
    let queue = TestQueue::new(Clock::real(), attributes).await;
    queue.send("m").await;
    queue.receive_one().await;
    let poll = queue.named("dead").polling().await;
    let start = Instant::now();
    assert!(queue.receive().await.is_empty());
    assert_eq!(bodies(&poll.await.unwrap()), ["m"].into());
    assert!(start.elapsed() < PROMPT_LIMIT);
}

#[tokio::test]
async fn a_long_poll_without_messages_returns_none_after_its_wait_time() {
    // The wait time of the queue, of the request, and none.
    for (clock, asked, least) in
        [(Clock::scaled(10), None, 2.0), (Clock::scaled(10), Some(10), 1.0), (Clock::real(), Some(0), 0.0)]
    {
        let attributes = QueueAttributes { receive_message_wait_time: 20, ..Default::default() };
        let queue = TestQueue::new(clock, attributes).await;
        let start = Instant::now();
        let answer = queue.receiving().set_wait_time_seconds(asked).send().await.unwrap();
        assert!(answer.messages().is_empty());
        assert!(seconds_since(start) >= least && start.elapsed() < PROMPT_LIMIT, "{asked:?}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_wait_time_or_number_of_messages_out_of_range_is_refused() {
    let queue = TestQueue::plain().await;
    for invalid in [-1, 21] {
        let receiving = queue.receiving().wait_time_seconds(invalid);
        assert_eq!(outcome(receiving.send()).await, refused("InvalidParameterValue"));
    }
    for invalid in [0, 11] {
        let receiving = queue.receiving().max_number_of_messages(invalid);
        assert_eq!(outcome(receiving.send()).await, refused("InvalidParameterValue"));
    }
}

#[tokio::test]
async fn a_receive_returns_one_message_unless_it_asks_for_more() {
    let queue = TestQueue::plain().await;
    for n in 0..12 {
        queue.send(&n.to_string()).await;
    }
    assert_eq!(queue.receiving().send().await.unwrap().messages().len(), 1);
    assert_eq!(queue.receiving().max_number_of_messages(10).send().await.unwrap().messages().len(), 10);
    assert_eq!(queue.receiving().max_number_of_messages(10).send().await.unwrap().messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_sent_just_as_a_poll_begins_is_not_missed() {
    let queue = TestQueue::plain().await;
    for _ in 0..300 {
        let poll = tokio::spawn({
            let queue = queue.clone();
            async move { queue.poll().await }
        });
        queue.send("m").await;
        let received = tokio::time::timeout(PROMPT_LIMIT, poll).await.expect("missed").unwrap();
        queue.delete(received[0].receipt_handle().unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_message_goes_to_one_of_several_concurrent_polls() {
    let queue = TestQueue::plain().await;
    let polls: Vec<_> = (0..8)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let mut got = Vec::new();
                loop {
                    for message in queue.poll().await {
                        let body = message.body().unwrap().to_owned();
                        if body == "stop" {
                            return got;
                        }
                        queue.delete(message.receipt_handle().unwrap()).await.unwrap();
                        got.push(body);
                    }
                }
            })
        })
        .collect();
    for n in 0..200 {
        queue.send(&n.to_string()).await;
    }
    for _ in 0..8 {
        queue.send("stop").await;
    }
    let mut got = Vec::new();
    for poll in polls {
        // After a missed wake-up, the poll would take the rest of its 20 s.
        got.extend(tokio::time::timeout(PROMPT_LIMIT, poll).await.expect("in time").unwrap());
    }
    assert_eq!(got.len(), 200);
    assert_eq!(got.into_iter().collect::<HashSet<_>>().len(), 200);
}
