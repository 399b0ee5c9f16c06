//! The redrive to a dead-letter queue.

use aws_sdk_sqs::types::MessageSystemAttributeName as System;
use local::sqs::{Clock, QueueAttributes};

use crate::test_queue::{TestQueue, bodies, system, text};

#[tokio::test]
async fn a_message_received_too_often_moves_to_the_dead_letter_queue() {
    let attributes =
        QueueAttributes { visibility_timeout: 0, max_receive: Some(("dead".to_owned(), 2)), ..Default::default() };
    let queue = TestQueue::new(Clock::real(), attributes).await;
    let dead = queue.named("dead");
    let id = queue.sending("m").message_attributes("Foo", text("Bar")).send().await.unwrap().message_id;
    let first = queue.receive_one().await;
    let second = queue.receive_one().await;
    assert_eq!(dead.counts().await, ["0", "0", "0"]);
    queue.send("young").await;
    assert_eq!(bodies(&queue.receive().await), ["young"].into());
    assert_eq!(dead.counts().await, ["1", "0", "0"]);

    let letter = dead.receiving().message_attribute_names("All").send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(letter.message_id, id);
    assert_eq!(letter.body(), Some("m"));
    assert_eq!(letter.message_attributes().unwrap()["Foo"], text("Bar"));
    for unchanged in [System::SentTimestamp, System::ApproximateFirstReceiveTimestamp] {
        assert_eq!(system(&letter, unchanged.clone()), system(&first, unchanged));
    }
    assert_eq!(system(&letter, System::ApproximateReceiveCount), "3");
    let source = "arn:aws:sqs:us-east-1:000000000000:queue";
    assert_eq!(system(&letter, System::DeadLetterQueueSourceArn), source);
    // An earlier receipt handle does not delete it there.
    queue.delete(second.receipt_handle().unwrap()).await.unwrap();
    assert_eq!(dead.counts().await, ["0", "1", "0"]);
}

#[tokio::test]
async fn a_receive_returns_a_message_behind_ten_dead_letters() {
    let attributes =
        QueueAttributes { visibility_timeout: 0, max_receive: Some(("dead".to_owned(), 1)), ..Default::default() };
    let queue = TestQueue::new(Clock::real(), attributes).await;
    for n in 0..10 {
        queue.send(&n.to_string()).await;
    }
    assert_eq!(queue.receive().await.len(), 10);
    queue.send("young").await;
    assert_eq!(queue.receiving().send().await.unwrap().messages()[0].body(), Some("young"));
    assert_eq!(queue.named("dead").counts().await, ["10", "0", "0"]);
}
