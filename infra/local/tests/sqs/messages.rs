//! Messages: body, attributes, deletion and size.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::operation::receive_message::builders::ReceiveMessageFluentBuilder;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    MessageAttributeValue, MessageSystemAttributeName as System, QueueAttributeName as Attribute,
};
use local::sqs::{Clock, QueueAttributes};

use crate::MAX_MESSAGE_BYTES;
use crate::test_queue::{TestQueue, outcome, refused, system, text};

#[tokio::test]
async fn a_message_is_received_unchanged_and_is_gone_after_its_deletion() {
    let queue = TestQueue::plain().await;
    let body = "{\"héllo\": \"wörld\u{10FFFF}\"}\n";
    let sent = queue.sending(body).send().await.unwrap();
    let message = queue.receive_one().await;
    assert_eq!(message.body().unwrap(), body);
    assert_eq!(message.message_id(), sent.message_id());
    assert_eq!(message.md5_of_body(), sent.md5_of_message_body());
    assert_eq!(sent.md5_of_message_attributes(), None);
    queue.delete(message.receipt_handle().unwrap()).await.unwrap();
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
}

#[tokio::test]
async fn the_md5_of_a_body_follows_rfc_1321() {
    let queue = TestQueue::plain().await;
    let sent = queue.sending("message digest").send().await.unwrap();
    assert_eq!(sent.md5_of_message_body().unwrap(), "f96b697d7cb7938d525a2f31aaf161d0");
}

#[tokio::test]
async fn system_attributes_count_receives_and_give_wall_clock_times() {
    let queue =
        TestQueue::new(Clock::scaled(60), QueueAttributes { visibility_timeout: 0, ..Default::default() }).await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let before_send = now();
    queue.send("m").await;
    let after_send = now();
    let first = queue.receive_one().await;
    let after_receive = now();
    let sent: u128 = system(&first, System::SentTimestamp).parse().unwrap();
    let received: u128 = system(&first, System::ApproximateFirstReceiveTimestamp).parse().unwrap();
    assert!((before_send..=after_send).contains(&sent));
    assert!((after_send..=after_receive).contains(&received));
    assert_eq!(system(&first, System::ApproximateReceiveCount), "1");
    assert!(!system(&first, System::SenderId).is_empty());

    let second = queue.receive_one().await;
    assert_eq!(system(&second, System::ApproximateReceiveCount), "2");
    for unchanged in [System::SentTimestamp, System::ApproximateFirstReceiveTimestamp] {
        assert_eq!(system(&second, unchanged.clone()), system(&first, unchanged));
    }
}

#[tokio::test]
#[expect(deprecated, reason = "the older parameter is supported, too")]
async fn only_requested_system_attributes_are_returned() {
    let queue = TestQueue::new(Clock::real(), QueueAttributes { visibility_timeout: 0, ..Default::default() }).await;
    queue.send("m").await;
    let receiving = || queue.client.receive_message().queue_url(&queue.url);
    let names = async |request: ReceiveMessageFluentBuilder| {
        let message = request.send().await.unwrap().messages.unwrap().remove(0);
        let attributes = message.attributes.unwrap_or_default();
        attributes.into_keys().map(|name| name.to_string()).collect::<BTreeSet<_>>()
    };
    let all = ["ApproximateFirstReceiveTimestamp", "ApproximateReceiveCount", "SenderId", "SentTimestamp"];
    assert!(names(receiving()).await.is_empty());
    assert!(names(receiving().message_attribute_names("All")).await.is_empty());
    assert!(names(receiving().message_system_attribute_names(System::All)).await.iter().eq(all));
    assert!(names(receiving().attribute_names(Attribute::All)).await.iter().eq(all));
    let one = receiving().message_system_attribute_names(System::SentTimestamp);
    assert!(names(one).await.iter().eq(["SentTimestamp"]));
    let older = receiving().attribute_names(Attribute::from("SenderId"));
    assert!(names(older).await.iter().eq(["SenderId"]));
}

/// The digests are from answers of AWS to these attributes.
#[tokio::test]
async fn only_requested_message_attributes_and_their_md5_are_returned() {
    let queue = TestQueue::new(Clock::real(), QueueAttributes { visibility_timeout: 0, ..Default::default() }).await;
    let sent = queue
        .sending("msg")
        .message_attributes("Hello", text("There"))
        .message_attributes("General", text("Kenobi"))
        .message_attributes("Help.Me", text("Me"))
        .send()
        .await
        .unwrap();
    let all = "4c360f3fdafd970e05fae2f149d997f5";
    assert_eq!(sent.md5_of_message_attributes(), Some(all));
    let everything = ["General", "Hello", "Help.Me"];
    let cases: [(&[&str], &[&str], Option<&str>); 9] = [
        (&[], &[], None),
        (&["All"], &everything, Some(all)),
        (&[".*"], &everything, Some(all)),
        (&["*"], &everything, Some(all)),
        (&["Foo", "Help"], &[], None),
        (&["Hello", "General"], &["General", "Hello"], Some("fca026605781cb4126a1e9044df24232")),
        (&["Foo", "Hello"], &["Hello"], Some("a311262e065454b75da111d535b8dacd")),
        (&["Hel.*"], &["Hello", "Help.Me"], Some("83fee93c1bcd8b9a5a923ffacdc636c7")),
        (&["hello"], &[], None),
    ];
    for (asked, got, md5) in cases {
        let names = asked.iter().map(|&name| name.to_owned()).collect();
        let answer = queue.receiving().set_message_attribute_names(Some(names)).send().await.unwrap();
        let message = &answer.messages()[0];
        let attributes: BTreeMap<_, _> = message.message_attributes().into_iter().flatten().collect();
        assert!(attributes.keys().copied().eq(got), "asked for {asked:?}, got {attributes:?}");
        assert_eq!(message.md5_of_message_attributes(), md5, "asked for {asked:?}");
    }
}

#[tokio::test]
async fn message_attributes_of_every_type_are_returned() {
    let queue = TestQueue::plain().await;
    let binary = Blob::new([0, 255, 7]);
    let build = |kind: &str| MessageAttributeValue::builder().data_type(kind);
    let attributes = [
        ("s", build("String.custom").string_value("\u{E9}").build().unwrap()),
        ("n", build("Number").string_value("-1.5").build().unwrap()),
        ("b", build("Binary.png").binary_value(binary).build().unwrap()),
    ];
    let sent = attributes
        .iter()
        .fold(queue.sending("m"), |sending, (name, value)| sending.message_attributes(*name, value.clone()));
    let md5 = sent.send().await.unwrap().md5_of_message_attributes;
    let received = queue.receiving().message_attribute_names("All").send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(received.md5_of_message_attributes, md5);
    let received = received.message_attributes.unwrap();
    assert_eq!(received.len(), 3);
    for (name, value) in attributes {
        assert_eq!(received[name], value);
    }
}

#[tokio::test]
async fn invalid_message_attributes_are_refused() {
    let queue = TestQueue::plain().await;
    let build = |kind: &str| MessageAttributeValue::builder().data_type(kind);
    let invalid = [
        ("", text("v")),
        ("AWS.x", text("v")),
        ("amazon.x", text("v")),
        (".x", text("v")),
        ("x.", text("v")),
        ("x..y", text("v")),
        ("x y", text("v")),
        ("x", text("")),
        ("x", build("Boolean").string_value("true").build().unwrap()),
        ("x", build("Binary").string_value("v").build().unwrap()),
        ("x", build("String").build().unwrap()),
    ];
    for (name, value) in invalid {
        let sending = queue.sending("m").message_attributes(name, value.clone());
        assert_eq!(outcome(sending.send()).await, refused("InvalidParameterValue"), "{name:?}: {value:?}");
    }
    let bad_characters = queue.sending("m").message_attributes("x", text("\u{1}"));
    assert_eq!(outcome(bad_characters.send()).await, refused("InvalidMessageContents"));
    let eleven = (0..11).fold(queue.sending("m"), |sending, n| sending.message_attributes(format!("a{n}"), text("v")));
    assert_eq!(outcome(eleven.send()).await, refused("InvalidParameterValue"));
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
}

#[tokio::test]
async fn each_receive_has_its_own_handle_and_an_older_one_still_deletes() {
    let queue = TestQueue::new(Clock::real(), QueueAttributes { visibility_timeout: 0, ..Default::default() }).await;
    queue.send("m").await;
    let first = queue.receive_one().await.receipt_handle.unwrap();
    let second = queue.receive_one().await.receipt_handle.unwrap();
    assert_ne!(first, second);
    queue.delete(&first).await.unwrap();
    assert!(queue.receive().await.is_empty());
    // Both handles are valid after the deletion, too.
    queue.delete(&first).await.unwrap();
    queue.delete(&second).await.unwrap();
}

#[tokio::test]
async fn a_handle_that_no_receive_returned_is_invalid() {
    let queue = TestQueue::plain().await;
    queue.sqs.create_queue("other", QueueAttributes::default()).unwrap();
    let other = queue.named("other");
    other.send("m").await;
    let others = other.receive_one().await.receipt_handle.unwrap();
    for handle in ["nonsense", "queue/1/nonsense", "queue", "", &others] {
        assert_eq!(queue.delete(handle).await, refused("ReceiptHandleIsInvalid"), "{handle}");
        assert_eq!(queue.change_visibility(handle, 1).await, refused("ReceiptHandleIsInvalid"), "{handle}");
    }
    assert_eq!(other.counts().await, ["0", "1", "0"]);
}

#[tokio::test]
async fn a_message_has_at_most_1_mib_with_its_attributes() {
    let queue = TestQueue::plain().await;
    // JSON escapes each quote, so this is the longest body on the wire.
    let body = "\"".repeat(MAX_MESSAGE_BYTES);
    queue.send(&body).await;
    assert_eq!(queue.receive_one().await.body(), Some(&*body));
    assert_eq!(
        outcome(queue.sending(&"x".repeat(MAX_MESSAGE_BYTES + 1)).send()).await,
        refused("InvalidParameterValue")
    );
    assert_eq!(
        outcome(queue.sending(&"é".repeat(MAX_MESSAGE_BYTES / 2 + 1)).send()).await,
        refused("InvalidParameterValue")
    );
    // Name, type and value: 3 + 6 + 3 bytes.
    let with_attribute = |bytes| queue.sending(&"x".repeat(bytes)).message_attributes("Foo", text("Bar"));
    outcome(with_attribute(MAX_MESSAGE_BYTES - 12).send()).await.unwrap();
    assert_eq!(outcome(with_attribute(MAX_MESSAGE_BYTES - 11).send()).await, refused("InvalidParameterValue"));
}

#[tokio::test]
async fn a_queue_may_have_a_lower_maximum_message_size() {
    let queue =
        TestQueue::new(Clock::real(), QueueAttributes { maximum_message_size: 1024, ..Default::default() }).await;
    queue.send(&"x".repeat(1024)).await;
    assert_eq!(outcome(queue.sending(&"x".repeat(1025)).send()).await, refused("InvalidParameterValue"));
}

#[tokio::test]
async fn a_body_may_contain_only_characters_of_xml() {
    let queue = TestQueue::plain().await;
    queue.send("\t\n\r \u{7F}\u{D7FF}\u{E000}\u{FFFD}\u{10000}\u{10FFFF}").await;
    for bad in ['\0', '\u{8}', '\u{B}', '\u{C}', '\u{E}', '\u{1F}', '\u{FFFE}', '\u{FFFF}'] {
        let sending = queue.sending(&format!("a{bad}z")).send();
        assert_eq!(outcome(sending).await, refused("InvalidMessageContents"), "{bad:?}");
    }
}

#[tokio::test]
async fn a_message_without_a_body_is_refused() {
    let queue = TestQueue::plain().await;
    assert_eq!(outcome(queue.sending("").send()).await, refused("MissingParameter"));
    let without = queue.client.send_message().queue_url(&queue.url);
    assert_eq!(outcome(without.send()).await, refused("MissingParameter"));
}
