//! Fair queues: the message groups of a standard queue.

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName as System};
use local::sqs::{Clock, QueueAttributes, Sqs};
use rusqlite::Connection;

use crate::database_file::DatabaseFile;
use crate::test_queue::{TestQueue, bodies, eventually, outcome, refused, system};

/// Sends as many messages of a group.
async fn send(queue: &TestQueue, group: &str, count: usize) {
    for _ in 0..count {
        queue.sending(group).message_group_id(group).send().await.unwrap();
    }
}

/// Receives as many messages, which stay in flight. Returns their bodies.
async fn take(queue: &TestQueue, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let most = (count - taken.len()).min(10) as i32;
        let received = queue.receiving().max_number_of_messages(most).send().await.unwrap();
        let received = received.messages.unwrap_or_default();
        assert!(!received.is_empty(), "{taken:?}");
        taken.extend(received.into_iter().map(|message: Message| message.body.unwrap()));
    }
    taken
}

/// Returns the body of the message that a receive returns first. It does not stay in flight.
async fn next(queue: &TestQueue) -> String {
    let received = queue.receiving().visibility_timeout(0).send().await.unwrap();
    received.messages.unwrap().remove(0).body.unwrap()
}

#[tokio::test]
async fn a_message_has_its_group_as_an_attribute() {
    let queue = TestQueue::plain().await;
    send(&queue, "example.com", 1).await;
    assert_eq!(system(&queue.receive_one().await, System::MessageGroupId), "example.com");
    queue.send("without").await;
    let without = queue.receive_one().await;
    assert!(!without.attributes().unwrap().contains_key(&System::MessageGroupId));
}

#[tokio::test]
async fn a_group_has_up_to_128_ascii_letters_digits_and_punctuation() {
    let queue = TestQueue::plain().await;
    for valid in ["g".repeat(128).as_str(), r##"!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~aZ9"##] {
        queue.sending("m").message_group_id(valid).send().await.unwrap();
    }
    for invalid in ["", "g".repeat(129).as_str(), "a b", "bücher.example", "a\n"] {
        let sending = queue.sending("m").message_group_id(invalid);
        assert_eq!(outcome(sending.send()).await, refused("InvalidParameterValue"), "{invalid:?}");
    }
    assert_eq!(queue.counts().await[0], "2");
}

#[tokio::test]
async fn quiet_groups_are_received_before_one_with_most_of_the_messages_in_flight() {
    let queue = TestQueue::plain().await;
    send(&queue, "noisy", 80).await;
    take(&queue, 30).await;
    send(&queue, "quiet", 2).await;
    queue.send("without").await;
    assert_eq!(take(&queue, 5).await, ["quiet", "quiet", "without", "noisy", "noisy"]);
}

#[tokio::test]
async fn messages_without_groups_are_received_in_order() {
    let queue = TestQueue::plain().await;
    for number in 0..60 {
        queue.send(&number.to_string()).await;
    }
    let expected: Vec<_> = (0..60).map(|number| number.to_string()).collect();
    assert_eq!(take(&queue, 60).await, expected);
}

#[tokio::test]
async fn a_group_with_a_large_share_of_the_consumers_time_is_noisy() {
    let queue = TestQueue::plain().await;
    send(&queue, "slow", 2).await;
    take(&queue, 1).await;
    send(&queue, "quiet", 1).await;
    eventually(async || next(&queue).await == "quiet").await;
}

#[tokio::test]
async fn of_several_noisy_groups_the_one_with_the_fewest_messages_in_flight_is_first() {
    let queue = TestQueue::plain().await;
    send(&queue, "noisiest", 60).await;
    take(&queue, 50).await;
    send(&queue, "noisy", 50).await;
    take(&queue, 40).await;
    assert_eq!(bodies(&queue.receive().await), ["noisy"].into());
    assert_eq!(bodies(&queue.receive().await), ["noisiest"].into());
}

#[tokio::test]
async fn a_group_is_quiet_again_when_its_share_is_in_the_past() {
    // Six minutes pass in 360 ms.
    let queue = TestQueue::new(Clock::scaled(1_000), QueueAttributes::default()).await;
    send(&queue, "slow", 2).await;
    let receipt = queue.receiving().send().await.unwrap().messages.unwrap().remove(0).receipt_handle.unwrap();
    queue.delete(&receipt).await.unwrap();
    send(&queue, "quiet", 1).await;
    eventually(async || next(&queue).await == "slow").await;
}

#[tokio::test]
async fn the_file_of_a_version_without_groups_keeps_its_messages() {
    let file = DatabaseFile::new("groups");
    let earlier = Connection::open(&file.0).unwrap();
    earlier
        .execute_batch(
            "CREATE TABLE messages (id TEXT PRIMARY KEY, queue TEXT NOT NULL, sent_at INTEGER NOT NULL,
                 visible_at INTEGER NOT NULL, first_received_at INTEGER, received_at INTEGER,
                 receive_count INTEGER NOT NULL DEFAULT 0, source TEXT, attributes TEXT NOT NULL, body TEXT NOT NULL);
             CREATE INDEX messages_by_visibility ON messages (queue, visible_at);
             INSERT INTO messages (id, queue, sent_at, visible_at, attributes, body)
                 VALUES ('m', 'queue', unixepoch() * 1000, 0, '{}', 'earlier');",
        )
        .unwrap();
    drop(earlier);
    for _ in 0..2 {
        let sqs = Sqs::open(Some(&file.0), Clock::real()).unwrap();
        sqs.create_queue("queue", QueueAttributes { visibility_timeout: 0, ..Default::default() }).unwrap();
        assert_eq!(bodies(&TestQueue::of(sqs).await.receive().await), ["earlier"].into());
    }
}
