//! The embedded SQS, through the AWS SDK over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::receive_message::builders::ReceiveMessageFluentBuilder;
use aws_sdk_sqs::operation::send_message::builders::SendMessageFluentBuilder;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageAttributeValue,
    MessageSystemAttributeName as System, QueueAttributeName as Attribute, SendMessageBatchRequestEntry,
};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use local::sqs::{Clock, QueueAttributes, Sqs};

const MIB: usize = 1_048_576;

/// Far more than what is checked takes, and less than the 20 s of the long poll that would hide its absence.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A queue named `queue`, with a client for it.
#[derive(Clone)]
struct Queue {
    sqs: Sqs,
    client: Client,
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Queue {
    async fn new(clock: Clock, attributes: QueueAttributes) -> Self {
        let sqs = Sqs::open(None, clock).unwrap();
        if let Some((target, _)) = &attributes.max_receive {
            sqs.create_queue(target, QueueAttributes::default()).unwrap();
        }
        sqs.create_queue("queue", attributes).unwrap();
        Self::of(sqs).await
    }

    async fn plain() -> Self {
        Self::new(Clock::real(), QueueAttributes::default()).await
    }

    async fn of(sqs: Sqs) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        let count = from_fn(move |request: Request, next: Next| {
            counter.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = sqs.router().layer(count);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let url = format!("{endpoint}/000000000000/queue");
        Self { sqs, client: client(&endpoint), url, requests }
    }

    /// The same server's queue of another name.
    fn named(&self, name: &str) -> Self {
        let url = self.url.replace("/queue", &format!("/{name}"));
        Self { url, ..self.clone() }
    }

    fn sending(&self, body: &str) -> SendMessageFluentBuilder {
        self.client.send_message().queue_url(&self.url).message_body(body)
    }

    async fn send(&self, body: &str) -> String {
        self.sending(body).send().await.unwrap().message_id.unwrap()
    }

    fn receiving(&self) -> ReceiveMessageFluentBuilder {
        let all = [System::All];
        self.client.receive_message().queue_url(&self.url).set_message_system_attribute_names(Some(all.into()))
    }

    async fn receive(&self) -> Vec<Message> {
        self.receiving().max_number_of_messages(10).send().await.unwrap().messages.unwrap_or_default()
    }

    async fn receive_one(&self) -> Message {
        let mut messages = self.receive().await;
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    }

    /// What a long poll of 20 s gets.
    async fn poll(&self) -> Vec<Message> {
        self.receiving().wait_time_seconds(20).send().await.unwrap().messages.unwrap_or_default()
    }

    /// Starts a long poll; it is waiting at the server when this returns.
    async fn polling(&self) -> tokio::task::JoinHandle<Vec<Message>> {
        let before = self.requests.load(Ordering::SeqCst);
        let queue = self.clone();
        let poll = tokio::spawn(async move { queue.poll().await });
        eventually(async || self.requests.load(Ordering::SeqCst) > before).await;
        poll
    }

    async fn delete(&self, receipt: &str) -> Result<(), String> {
        outcome(self.client.delete_message().queue_url(&self.url).receipt_handle(receipt).send()).await
    }

    async fn change_visibility(&self, receipt: &str, seconds: i32) -> Result<(), String> {
        let change = self.client.change_message_visibility().queue_url(&self.url);
        outcome(change.receipt_handle(receipt).visibility_timeout(seconds).send()).await
    }

    async fn attributes(&self, names: &[Attribute]) -> BTreeMap<String, String> {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = request.set_attribute_names(Some(names.to_vec())).send().await.unwrap();
        answer.attributes.unwrap_or_default().into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    /// How many messages are visible, in flight, and delayed.
    async fn counts(&self) -> [String; 3] {
        let names = [
            Attribute::ApproximateNumberOfMessages,
            Attribute::ApproximateNumberOfMessagesNotVisible,
            Attribute::ApproximateNumberOfMessagesDelayed,
        ];
        let attributes = self.attributes(&names).await;
        names.map(|name| attributes[name.as_str()].clone())
    }
}

fn client(endpoint: &str) -> Client {
    let credentials =
        Credentials::builder().access_key_id("test").secret_access_key("test").provider_name("test").build();
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(credentials)
        .endpoint_url(endpoint)
        .build();
    Client::from_conf(config)
}

/// Whether it went well; if not, the code that SQS's older clients know the error by.
async fn outcome<T, E: ProvideErrorMetadata>(
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<(), String> {
    call.await.map(drop).map_err(|error| error.code().unwrap_or("no code").to_owned())
}

fn refused(code: &str) -> Result<(), String> {
    Err(code.to_owned())
}

async fn eventually(condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition().await {
        assert!(Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn system(message: &Message, name: System) -> &str {
    &message.attributes().unwrap()[&name]
}

fn bodies(messages: &[Message]) -> BTreeSet<&str> {
    messages.iter().map(|message| message.body().unwrap()).collect()
}

fn text(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap()
}

fn seconds_since(start: Instant) -> f64 {
    // The server counts whole milliseconds.
    start.elapsed().as_secs_f64() + 0.002
}

#[tokio::test]
async fn a_message_is_received_as_it_was_sent_and_gone_when_deleted() {
    let queue = Queue::plain().await;
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
async fn the_md5_of_a_body_is_the_one_of_rfc_1321() {
    let queue = Queue::plain().await;
    let sent = queue.sending("message digest").send().await.unwrap();
    assert_eq!(sent.md5_of_message_body().unwrap(), "f96b697d7cb7938d525a2f31aaf161d0");
}

#[tokio::test]
async fn a_received_message_is_hidden_for_the_queues_visibility_timeout() {
    let attributes = QueueAttributes { visibility_timeout: 10, ..Default::default() };
    let queue = Queue::new(Clock::scaled(10), attributes).await;
    queue.send("m").await;
    let start = Instant::now();
    queue.receive_one().await;
    assert_eq!(queue.poll().await.len(), 1);
    assert!(seconds_since(start) >= 1.0);
}

#[tokio::test]
async fn a_receives_own_visibility_timeout_goes_before_the_queues() {
    let queue = Queue::plain().await;
    queue.send("m").await;
    let start = Instant::now();
    queue.receiving().visibility_timeout(1).send().await.unwrap();
    assert_eq!(queue.poll().await.len(), 1);
    assert!(seconds_since(start) >= 1.0 && start.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn a_message_received_with_visibility_timeout_0_stays_visible() {
    let queue = Queue::plain().await;
    queue.send("m").await;
    for count in ["1", "2", "3"] {
        let received = queue.receiving().visibility_timeout(0).max_number_of_messages(10).send().await.unwrap();
        assert_eq!(received.messages().len(), 1);
        assert_eq!(system(&received.messages()[0], System::ApproximateReceiveCount), count);
    }
}

#[tokio::test]
async fn system_attributes_count_receives_and_give_wall_clock_times() {
    let queue = Queue::new(Clock::scaled(60), QueueAttributes { visibility_timeout: 0, ..Default::default() }).await;
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
#[expect(deprecated, reason = "the older name of the parameter counts too")]
async fn system_attributes_come_only_as_asked_for() {
    let queue = Queue::new(Clock::real(), QueueAttributes { visibility_timeout: 0, ..Default::default() }).await;
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

/// The digests are those that AWS answered for these attributes.
#[tokio::test]
async fn message_attributes_and_their_md5_come_as_asked_for() {
    let queue = Queue::new(Clock::real(), QueueAttributes { visibility_timeout: 0, ..Default::default() }).await;
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
async fn message_attributes_of_every_type_come_back() {
    let queue = Queue::plain().await;
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
async fn impossible_message_attributes_are_refused() {
    let queue = Queue::plain().await;
    let build = |kind: &str| MessageAttributeValue::builder().data_type(kind);
    let impossible = [
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
    for (name, value) in impossible {
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
    let queue = Queue::new(Clock::real(), QueueAttributes { visibility_timeout: 0, ..Default::default() }).await;
    queue.send("m").await;
    let first = queue.receive_one().await.receipt_handle.unwrap();
    let second = queue.receive_one().await.receipt_handle.unwrap();
    assert_ne!(first, second);
    queue.delete(&first).await.unwrap();
    assert!(queue.receive().await.is_empty());
    // Of a message that is gone, either does.
    queue.delete(&first).await.unwrap();
    queue.delete(&second).await.unwrap();
}

#[tokio::test]
async fn a_handle_that_no_receive_gave_is_invalid() {
    let queue = Queue::plain().await;
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
async fn changing_the_visibility_counts_from_the_change() {
    let queue = Queue::plain().await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    let start = Instant::now();
    queue.change_visibility(&receipt, 1).await.unwrap();
    let again = queue.poll().await;
    assert_eq!(again.len(), 1);
    assert!(seconds_since(start) >= 1.0 && start.elapsed() < AT_ONCE);
    queue.change_visibility(again[0].receipt_handle().unwrap(), 0).await.unwrap();
    assert_eq!(system(&queue.receive_one().await, System::ApproximateReceiveCount), "3");
}

#[tokio::test]
async fn a_visibility_timeout_out_of_range_is_refused() {
    let queue = Queue::plain().await;
    queue.send("m").await;
    for impossible in [-1, 43_201] {
        let receiving = queue.receiving().visibility_timeout(impossible);
        assert_eq!(outcome(receiving.send()).await, refused("InvalidParameterValue"));
    }
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    for impossible in [-1, 43_201] {
        assert_eq!(queue.change_visibility(&receipt, impossible).await, refused("InvalidParameterValue"));
    }
}

#[tokio::test]
async fn a_message_is_hidden_for_12_hours_from_its_receive_at_most() {
    // An hour is 10 s, so that a second passes in 3 ms.
    let queue =
        Queue::new(Clock::scaled(360), QueueAttributes { visibility_timeout: 3_600, ..Default::default() }).await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    queue.change_visibility(&receipt, 39_600).await.unwrap();
    eventually(async || queue.change_visibility(&receipt, 43_200).await == refused("InvalidParameterValue")).await;
    queue.change_visibility(&receipt, 36_000).await.unwrap();
    assert_eq!(queue.counts().await, ["0", "1", "0"]);
}

#[tokio::test]
async fn the_visibility_of_a_message_not_in_flight_cannot_change() {
    let queue = Queue::plain().await;
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
    let queue = Queue::new(Clock::scaled(5), attributes).await;
    let start = Instant::now();
    queue.send("as the queue says").await;
    queue.sending("not at all").delay_seconds(0).send().await.unwrap();
    queue.sending("longer").delay_seconds(900).send().await.unwrap();
    let first = queue.poll().await;
    assert!(bodies(&first).contains("not at all"));
    // On a busy machine one poll may get both.
    let both = if first.len() == 2 { first } else { [first, queue.poll().await].concat() };
    assert_eq!(bodies(&both), ["not at all", "as the queue says"].into());
    assert!(seconds_since(start) >= 2.0);
    assert_eq!(queue.counts().await, ["0", "2", "1"]);
}

#[tokio::test]
async fn a_delay_out_of_range_is_refused() {
    let queue = Queue::plain().await;
    for impossible in [-1, 901] {
        let sending = queue.sending("m").delay_seconds(impossible);
        assert_eq!(outcome(sending.send()).await, refused("InvalidParameterValue"));
    }
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_message_is_sent() {
    let queue = Queue::plain().await;
    let poll = queue.polling().await;
    let start = Instant::now();
    queue.send("m").await;
    assert_eq!(bodies(&poll.await.unwrap()), ["m"].into());
    assert!(start.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_batch_is_sent() {
    let queue = Queue::plain().await;
    let poll = queue.polling().await;
    let start = Instant::now();
    let entry = SendMessageBatchRequestEntry::builder().id("1").message_body("m").build().unwrap();
    queue.client.send_message_batch().queue_url(&queue.url).entries(entry).send().await.unwrap();
    assert_eq!(bodies(&poll.await.unwrap()), ["m"].into());
    assert!(start.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_delay_ends() {
    let queue = Queue::plain().await;
    let poll = queue.polling().await;
    let start = Instant::now();
    queue.sending("m").delay_seconds(1).send().await.unwrap();
    assert_eq!(poll.await.unwrap().len(), 1);
    assert!(seconds_since(start) >= 1.0 && start.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_visibility_timeout_ends() {
    let queue = Queue::plain().await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    let poll = queue.polling().await;
    let start = Instant::now();
    queue.change_visibility(&receipt, 1).await.unwrap();
    assert_eq!(poll.await.unwrap().len(), 1);
    assert!(seconds_since(start) >= 1.0 && start.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn a_long_poll_is_answered_at_once_when_a_message_is_returned() {
    let queue = Queue::plain().await;
    queue.send("m").await;
    let receipt = queue.receive_one().await.receipt_handle.unwrap();
    let poll = queue.polling().await;
    let start = Instant::now();
    queue.change_visibility(&receipt, 0).await.unwrap();
    assert_eq!(poll.await.unwrap().len(), 1);
    assert!(start.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn a_long_poll_of_the_dead_letter_queue_is_answered_when_a_message_is_moved() {
    let attributes =
        QueueAttributes { visibility_timeout: 0, max_receive: Some(("dead".to_owned(), 1)), ..Default::default() };
    let queue = Queue::new(Clock::real(), attributes).await;
    queue.send("m").await;
    queue.receive_one().await;
    let poll = queue.named("dead").polling().await;
    let start = Instant::now();
    assert!(queue.receive().await.is_empty());
    assert_eq!(bodies(&poll.await.unwrap()), ["m"].into());
    assert!(start.elapsed() < AT_ONCE);
}

#[tokio::test]
async fn a_long_poll_without_messages_ends_empty_when_its_time_is_up() {
    // As long as the queue says; as long as the request says; not at all.
    for (clock, asked, least) in
        [(Clock::scaled(10), None, 2.0), (Clock::scaled(10), Some(10), 1.0), (Clock::real(), Some(0), 0.0)]
    {
        let attributes = QueueAttributes { receive_message_wait_time: 20, ..Default::default() };
        let queue = Queue::new(clock, attributes).await;
        let start = Instant::now();
        let answer = queue.receiving().set_wait_time_seconds(asked).send().await.unwrap();
        assert!(answer.messages().is_empty());
        assert!(seconds_since(start) >= least && start.elapsed() < AT_ONCE, "{asked:?}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_poll_out_of_range_is_refused() {
    let queue = Queue::plain().await;
    for impossible in [-1, 21] {
        let receiving = queue.receiving().wait_time_seconds(impossible);
        assert_eq!(outcome(receiving.send()).await, refused("InvalidParameterValue"));
    }
    for impossible in [0, 11] {
        let receiving = queue.receiving().max_number_of_messages(impossible);
        assert_eq!(outcome(receiving.send()).await, refused("InvalidParameterValue"));
    }
}

#[tokio::test]
async fn a_receive_gets_one_message_unless_it_asks_for_more() {
    let queue = Queue::plain().await;
    for n in 0..12 {
        queue.send(&n.to_string()).await;
    }
    assert_eq!(queue.receiving().send().await.unwrap().messages().len(), 1);
    assert_eq!(queue.receiving().max_number_of_messages(10).send().await.unwrap().messages().len(), 10);
    assert_eq!(queue.receiving().max_number_of_messages(10).send().await.unwrap().messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_sent_just_as_a_poll_begins_is_not_missed() {
    let queue = Queue::plain().await;
    for _ in 0..300 {
        let poll = tokio::spawn({
            let queue = queue.clone();
            async move { queue.poll().await }
        });
        queue.send("m").await;
        let received = tokio::time::timeout(AT_ONCE, poll).await.expect("missed").unwrap();
        queue.delete(received[0].receipt_handle().unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_polls_at_once_one_gets_each_message() {
    let queue = Queue::plain().await;
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
        // A wake-up that was missed would cost the rest of a poll's 20 s.
        got.extend(tokio::time::timeout(AT_ONCE, poll).await.expect("in time").unwrap());
    }
    assert_eq!(got.len(), 200);
    assert_eq!(got.into_iter().collect::<HashSet<_>>().len(), 200);
}

#[tokio::test]
async fn a_batch_does_what_it_can_and_says_what_it_could_not() {
    let queue = Queue::plain().await;
    let entry = |id: &str, body: &str| SendMessageBatchRequestEntry::builder().id(id).message_body(body);
    let sent = queue
        .client
        .send_message_batch()
        .queue_url(&queue.url)
        .entries(entry("good", "one").build().unwrap())
        .entries(entry("bad-characters", "\u{1}").build().unwrap())
        .entries(entry("late", "two").delay_seconds(901).build().unwrap())
        .entries(entry("good-too", "three").message_attributes("Foo", text("Bar")).build().unwrap())
        .send()
        .await
        .unwrap();
    let ids: Vec<_> = sent.successful().iter().map(|entry| entry.id()).collect();
    assert_eq!(ids, ["good", "good-too"]);
    assert_eq!(sent.successful()[1].md5_of_message_attributes(), Some("ae7155c6026991b6d54b11589678bf9c"));
    let failed: Vec<_> = sent.failed().iter().map(|entry| (entry.id(), entry.code(), entry.sender_fault())).collect();
    assert_eq!(failed, [("bad-characters", "InvalidMessageContents", true), ("late", "InvalidParameterValue", true)]);

    let messages = queue.receive().await;
    assert_eq!(bodies(&messages), ["one", "three"].into());
    let receipts: Vec<_> = messages.iter().map(|message| message.receipt_handle().unwrap()).collect();
    let change = |id: &str, receipt: &str, seconds: i32| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id).receipt_handle(receipt);
        entry.visibility_timeout(seconds).build().unwrap()
    };
    let changed = queue
        .client
        .change_message_visibility_batch()
        .queue_url(&queue.url)
        .entries(change("far", receipts[0], 43_201))
        .entries(change("returned", receipts[1], 0))
        .entries(change("unknown", "nonsense", 0))
        .send()
        .await
        .unwrap();
    assert_eq!(changed.successful()[0].id(), "returned");
    let failed: Vec<_> = changed.failed().iter().map(|entry| (entry.id(), entry.code())).collect();
    assert_eq!(failed, [("far", "InvalidParameterValue"), ("unknown", "ReceiptHandleIsInvalid")]);
    assert_eq!(queue.counts().await, ["1", "1", "0"]);

    let delete = |id: &str, receipt: &str| {
        DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(receipt).build().unwrap()
    };
    let deleted = queue
        .client
        .delete_message_batch()
        .queue_url(&queue.url)
        .entries(delete("unknown", "nonsense"))
        .entries(delete("0", receipts[0]))
        .entries(delete("1", receipts[1]))
        .send()
        .await
        .unwrap();
    let ids: Vec<_> = deleted.successful().iter().map(|entry| entry.id()).collect();
    assert_eq!(ids, ["0", "1"]);
    assert_eq!((deleted.failed()[0].id(), deleted.failed()[0].code()), ("unknown", "ReceiptHandleIsInvalid"));
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
}

#[tokio::test]
async fn an_impossible_batch_is_refused_as_a_whole() {
    let queue = Queue::plain().await;
    let long = "x".repeat(81);
    let eleven: Vec<_> = (0..11).map(|n| n.to_string()).collect();
    let cases: [(Vec<&str>, &str); 7] = [
        (vec![], "AWS.SimpleQueueService.EmptyBatchRequest"),
        (eleven.iter().map(String::as_str).collect(), "AWS.SimpleQueueService.TooManyEntriesInBatchRequest"),
        (vec!["a", "b", "a"], "AWS.SimpleQueueService.BatchEntryIdsNotDistinct"),
        (vec![""], "AWS.SimpleQueueService.InvalidBatchEntryId"),
        (vec!["a b"], "AWS.SimpleQueueService.InvalidBatchEntryId"),
        (vec!["é"], "AWS.SimpleQueueService.InvalidBatchEntryId"),
        (vec![&long], "AWS.SimpleQueueService.InvalidBatchEntryId"),
    ];
    for (ids, code) in cases {
        let send = ids.iter().map(|id| SendMessageBatchRequestEntry::builder().id(*id).message_body("m"));
        let send = send.map(|entry| entry.build().unwrap()).collect();
        let sending = queue.client.send_message_batch().queue_url(&queue.url).set_entries(Some(send));
        assert_eq!(outcome(sending.send()).await, refused(code), "{ids:?}");

        let delete = ids.iter().map(|id| DeleteMessageBatchRequestEntry::builder().id(*id).receipt_handle("r"));
        let delete = delete.map(|entry| entry.build().unwrap()).collect();
        let deleting = queue.client.delete_message_batch().queue_url(&queue.url).set_entries(Some(delete));
        assert_eq!(outcome(deleting.send()).await, refused(code), "{ids:?}");

        let change = ids.iter().map(|id| ChangeMessageVisibilityBatchRequestEntry::builder().id(*id));
        let change = change.map(|entry| entry.receipt_handle("r").visibility_timeout(0).build().unwrap()).collect();
        let changing = queue.client.change_message_visibility_batch().queue_url(&queue.url).set_entries(Some(change));
        assert_eq!(outcome(changing.send()).await, refused(code), "{ids:?}");
    }
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
}

#[tokio::test]
async fn a_message_may_be_1_mib_with_its_attributes_and_no_longer() {
    let queue = Queue::plain().await;
    // As long on the wire as a body can get.
    let body = "\"".repeat(MIB);
    queue.send(&body).await;
    assert_eq!(queue.receive_one().await.body(), Some(&*body));
    assert_eq!(outcome(queue.sending(&"x".repeat(MIB + 1)).send()).await, refused("InvalidParameterValue"));
    assert_eq!(outcome(queue.sending(&"é".repeat(MIB / 2 + 1)).send()).await, refused("InvalidParameterValue"));
    // Name, type and value: 3 + 6 + 3 bytes.
    let with_attribute = |bytes| queue.sending(&"x".repeat(bytes)).message_attributes("Foo", text("Bar"));
    outcome(with_attribute(MIB - 12).send()).await.unwrap();
    assert_eq!(outcome(with_attribute(MIB - 11).send()).await, refused("InvalidParameterValue"));
}

#[tokio::test]
async fn a_batch_may_be_1_mib_with_all_attributes_and_no_longer() {
    let queue = Queue::plain().await;
    let sending = |bytes: usize| {
        let entry = |id: &str, bytes| SendMessageBatchRequestEntry::builder().id(id).message_body("x".repeat(bytes));
        let last = entry("last", bytes - MIB / 2).message_attributes("Foo", text("Bar"));
        let request = queue.client.send_message_batch().queue_url(&queue.url);
        request.entries(entry("first", MIB / 2).build().unwrap()).entries(last.build().unwrap()).send()
    };
    assert_eq!(outcome(sending(MIB - 11)).await, refused("AWS.SimpleQueueService.BatchRequestTooLong"));
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
    assert_eq!(sending(MIB - 12).await.unwrap().successful().len(), 2);
}

#[tokio::test]
async fn a_queue_may_have_a_lower_limit_of_size() {
    let queue = Queue::new(Clock::real(), QueueAttributes { maximum_message_size: 1024, ..Default::default() }).await;
    queue.send(&"x".repeat(1024)).await;
    assert_eq!(outcome(queue.sending(&"x".repeat(1025)).send()).await, refused("InvalidParameterValue"));
}

#[tokio::test]
async fn a_body_has_the_characters_of_xml_only() {
    let queue = Queue::plain().await;
    queue.send("\t\n\r \u{7F}\u{D7FF}\u{E000}\u{FFFD}\u{10000}\u{10FFFF}").await;
    for bad in ['\0', '\u{8}', '\u{B}', '\u{C}', '\u{E}', '\u{1F}', '\u{FFFE}', '\u{FFFF}'] {
        let sending = queue.sending(&format!("a{bad}z")).send();
        assert_eq!(outcome(sending).await, refused("InvalidMessageContents"), "{bad:?}");
    }
}

#[tokio::test]
async fn a_message_without_a_body_is_refused() {
    let queue = Queue::plain().await;
    assert_eq!(outcome(queue.sending("").send()).await, refused("MissingParameter"));
    let without = queue.client.send_message().queue_url(&queue.url);
    assert_eq!(outcome(without.send()).await, refused("MissingParameter"));
}

#[tokio::test]
async fn a_message_received_too_often_moves_to_the_dead_letter_queue() {
    let attributes =
        QueueAttributes { visibility_timeout: 0, max_receive: Some(("dead".to_owned(), 2)), ..Default::default() };
    let queue = Queue::new(Clock::real(), attributes).await;
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
    // What it was received as before doesn't reach it there.
    queue.delete(second.receipt_handle().unwrap()).await.unwrap();
    assert_eq!(dead.counts().await, ["0", "1", "0"]);
}

#[tokio::test]
async fn more_dead_letters_than_a_receive_takes_hide_no_message() {
    let attributes =
        QueueAttributes { visibility_timeout: 0, max_receive: Some(("dead".to_owned(), 1)), ..Default::default() };
    let queue = Queue::new(Clock::real(), attributes).await;
    for n in 0..10 {
        queue.send(&n.to_string()).await;
    }
    assert_eq!(queue.receive().await.len(), 10);
    queue.send("young").await;
    assert_eq!(queue.receiving().send().await.unwrap().messages()[0].body(), Some("young"));
    assert_eq!(queue.named("dead").counts().await, ["10", "0", "0"]);
}

#[tokio::test]
async fn a_message_is_kept_for_the_queues_retention_period() {
    let attributes = QueueAttributes { message_retention_period: 120, visibility_timeout: 1, ..Default::default() };
    let queue = Queue::new(Clock::scaled(60), attributes).await;
    let start = Instant::now();
    queue.send("waiting").await;
    queue.sending("delayed").delay_seconds(900).send().await.unwrap();
    eventually(async || queue.counts().await == ["0", "0", "0"]).await;
    assert!(seconds_since(start) >= 2.0);
    assert!(queue.receive().await.is_empty());
}

#[tokio::test]
async fn messages_are_counted_by_what_hides_them() {
    let queue = Queue::plain().await;
    for body in ["a", "b", "c"] {
        queue.send(body).await;
    }
    queue.sending("d").delay_seconds(900).send().await.unwrap();
    queue.receiving().max_number_of_messages(2).send().await.unwrap();
    assert_eq!(queue.counts().await, ["1", "2", "1"]);
}

#[tokio::test]
async fn purging_a_queue_leaves_nothing() {
    let queue = Queue::plain().await;
    for body in ["a", "b"] {
        queue.send(body).await;
    }
    queue.sending("c").delay_seconds(900).send().await.unwrap();
    queue.receiving().send().await.unwrap();
    queue.client.purge_queue().queue_url(&queue.url).send().await.unwrap();
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_refused_everywhere() {
    let queue = Queue::plain().await.named("missing");
    let (client, url, code) = (&queue.client, &queue.url, "AWS.SimpleQueueService.NonExistentQueue");
    let error = client.get_queue_url().queue_name("missing").send().await.unwrap_err().into_service_error();
    assert!(error.is_queue_does_not_exist());
    assert_eq!(outcome(queue.sending("m").send()).await, refused(code));
    assert_eq!(outcome(queue.receiving().send()).await, refused(code));
    assert_eq!(queue.delete("missing/1/x").await, refused(code));
    assert_eq!(queue.change_visibility("missing/1/x", 0).await, refused(code));
    assert_eq!(outcome(client.purge_queue().queue_url(url).send()).await, refused(code));
    assert_eq!(outcome(client.get_queue_attributes().queue_url(url).send()).await, refused(code));
    let set = client.set_queue_attributes().queue_url(url).attributes(Attribute::DelaySeconds, "1");
    assert_eq!(outcome(set.send()).await, refused(code));
}

#[tokio::test]
async fn a_queue_is_created_once_whatever_the_number_of_calls() {
    let queue = Queue::plain().await;
    let create = |attributes: &[(Attribute, &str)]| {
        let create = queue.client.create_queue().queue_name("new");
        attributes.iter().fold(create, |create, (name, value)| create.attributes(name.clone(), *value)).send()
    };
    let visibility = (Attribute::VisibilityTimeout, "69");
    let url = create(std::slice::from_ref(&visibility)).await.unwrap().queue_url.unwrap();
    assert_eq!(url, queue.named("new").url);
    let new = queue.named("new");
    new.send("m").await;
    for same in [vec![visibility.clone()], vec![], vec![visibility.clone(), (Attribute::DelaySeconds, "0")]] {
        assert_eq!(create(&same).await.unwrap().queue_url.as_ref(), Some(&url));
    }
    for other in [vec![(Attribute::VisibilityTimeout, "70")], vec![visibility, (Attribute::DelaySeconds, "1")]] {
        assert!(create(&other).await.unwrap_err().into_service_error().is_queue_name_exists());
    }
    assert_eq!(queue.client.get_queue_url().queue_name("new").send().await.unwrap().queue_url, Some(url));
    assert_eq!(new.counts().await, ["1", "0", "0"]);
}

#[tokio::test]
async fn fifo_queues_and_impossible_names_are_refused() {
    let queue = Queue::plain().await;
    let create = |name: &str| queue.client.create_queue().queue_name(name).send();
    let error = create("orders.fifo").await.unwrap_err().into_service_error();
    assert!(error.is_unsupported_operation());
    assert!(error.to_string().contains("FIFO"), "{error}");
    for impossible in ["", "a b", "a/b", "é", &"x".repeat(81)] {
        assert_eq!(outcome(create(impossible)).await, refused("InvalidParameterValue"), "{impossible}");
    }
    create(&"x".repeat(80)).await.unwrap();
}

#[tokio::test]
async fn queue_attributes_are_those_that_were_set() {
    let queue = Queue::plain().await;
    queue.sqs.create_queue("dead", QueueAttributes::default()).unwrap();
    let all = queue.attributes(&[Attribute::All]).await;
    let number = |name: &str| all[name].parse::<u64>().unwrap();
    assert_eq!(all["QueueArn"], "arn:aws:sqs:us-east-1:000000000000:queue");
    assert_eq!(number("VisibilityTimeout"), 30);
    assert_eq!(number("DelaySeconds"), 0);
    assert_eq!(number("ReceiveMessageWaitTimeSeconds"), 0);
    assert_eq!(number("MessageRetentionPeriod"), 345_600);
    assert_eq!(number("MaximumMessageSize"), 1_048_576);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 60..=now).contains(&number("CreatedTimestamp")));
    assert!(!all.contains_key("RedrivePolicy"));

    let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":"3"}"#;
    let set = |name: Attribute, value: &str| {
        queue.client.set_queue_attributes().queue_url(&queue.url).attributes(name, value).send()
    };
    for (name, value) in [
        (Attribute::VisibilityTimeout, "43200"),
        (Attribute::DelaySeconds, "900"),
        (Attribute::ReceiveMessageWaitTimeSeconds, "20"),
        (Attribute::MessageRetentionPeriod, "1209600"),
        (Attribute::MaximumMessageSize, "1024"),
    ] {
        set(name.clone(), value).await.unwrap();
        assert_eq!(queue.attributes(std::slice::from_ref(&name)).await, [(name.to_string(), value.to_owned())].into());
    }
    set(Attribute::RedrivePolicy, policy).await.unwrap();
    let got = &queue.attributes(&[Attribute::RedrivePolicy]).await["RedrivePolicy"];
    assert_eq!(got, &policy.replace("\"3\"", "3"));
    set(Attribute::RedrivePolicy, "").await.unwrap();
    assert!(queue.attributes(&[Attribute::RedrivePolicy]).await.is_empty());
    assert!(queue.attributes(&[]).await.is_empty());
}

#[tokio::test]
async fn impossible_queue_attributes_are_refused() {
    let queue = Queue::plain().await;
    let set = |name: Attribute, value: &str| {
        outcome(queue.client.set_queue_attributes().queue_url(&queue.url).attributes(name, value).send())
    };
    for (name, value) in [
        (Attribute::VisibilityTimeout, "43201"),
        (Attribute::VisibilityTimeout, "-1"),
        (Attribute::VisibilityTimeout, "soon"),
        (Attribute::DelaySeconds, "901"),
        (Attribute::ReceiveMessageWaitTimeSeconds, "21"),
        (Attribute::MessageRetentionPeriod, "59"),
        (Attribute::MaximumMessageSize, "1048577"),
    ] {
        assert_eq!(set(name, value).await, refused("InvalidAttributeValue"), "{value}");
    }
    let policy = |target: &str, count: &str| {
        format!(r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{target}","maxReceiveCount":{count}}}"#)
    };
    queue.sqs.create_queue("dead", QueueAttributes::default()).unwrap();
    for impossible in [
        policy("missing", "3"),
        policy("queue", "3"),
        policy("dead", "0"),
        policy("dead", "1001"),
        policy("dead", "\"x\""),
        "nonsense".to_owned(),
    ] {
        assert_eq!(set(Attribute::RedrivePolicy, &impossible).await, refused("InvalidParameterValue"), "{impossible}");
    }
    assert_eq!(set(Attribute::FifoQueue, "true").await, refused("InvalidAttributeName"));
    let get = queue.client.get_queue_attributes().queue_url(&queue.url).attribute_names("Nonsense".into());
    assert_eq!(outcome(get.send()).await, refused("InvalidAttributeName"));
    for attributes in [
        QueueAttributes { visibility_timeout: 43_201, ..Default::default() },
        QueueAttributes { max_receive: Some(("missing".to_owned(), 3)), ..Default::default() },
        QueueAttributes { max_receive: Some(("dead".to_owned(), 0)), ..Default::default() },
    ] {
        assert!(queue.sqs.create_queue("queue", attributes).is_err());
    }
}

#[tokio::test]
async fn queues_are_listed_by_prefix_and_page() {
    let queue = Queue::plain().await;
    for name in ["b-1", "b-2", "b-3", "c"] {
        queue.sqs.create_queue(name, QueueAttributes::default()).unwrap();
    }
    let urls = |names: &[&str]| names.iter().map(|name| queue.named(name).url).collect::<Vec<_>>();
    let list = || queue.client.list_queues();
    assert_eq!(list().send().await.unwrap().queue_urls(), urls(&["b-1", "b-2", "b-3", "c", "queue"]));
    assert!(list().queue_name_prefix("x").send().await.unwrap().queue_urls().is_empty());
    let page = list().queue_name_prefix("b-").max_results(2).send().await.unwrap();
    assert_eq!(page.queue_urls(), urls(&["b-1", "b-2"]));
    let rest = list().queue_name_prefix("b-").max_results(2).set_next_token(page.next_token).send().await.unwrap();
    assert_eq!(rest.queue_urls(), urls(&["b-3"]));
    assert_eq!(rest.next_token(), None);
    assert_eq!(outcome(list().max_results(1001).send()).await, refused("InvalidParameterValue"));
}

#[tokio::test]
async fn an_error_has_the_form_of_the_json_protocol() {
    let queue = Queue::plain().await.named("missing");
    let error = queue.sending("m").send().await.unwrap_err();
    let response = error.raw_response().unwrap();
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(response.headers().get("content-type"), Some("application/x-amz-json-1.0"));
    let code = response.headers().get("x-amzn-query-error");
    assert_eq!(code, Some("AWS.SimpleQueueService.NonExistentQueue;Sender"));
    let body = response.body().bytes().unwrap();
    let expected: &[u8] =
        br#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The specified queue does not exist."}"#;
    assert_eq!(body, expected);
}

#[tokio::test]
async fn an_operation_that_is_not_here_is_refused() {
    let queue = Queue::plain().await;
    let error = queue.client.delete_queue().queue_url(&queue.url).send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidAction"));
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 400);
}

/// A file of its own in the target directory, which goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
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

impl Drop for File {
    fn drop(&mut self) {
        self.remove();
    }
}

#[tokio::test]
async fn creating_a_queue_at_the_next_start_keeps_messages_and_updates_attributes() {
    let file = File::new("restart");
    let attributes = |visibility_timeout| QueueAttributes { visibility_timeout, ..Default::default() };
    let start = async |visibility_timeout| {
        let sqs = Sqs::open(Some(&file.0), Clock::real()).unwrap();
        sqs.create_queue("queue", attributes(visibility_timeout)).unwrap();
        Queue::of(sqs).await
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
async fn queues_are_remembered_without_being_created_again() {
    let file = File::new("remembered");
    let sqs = Sqs::open(Some(&file.0), Clock::real()).unwrap();
    sqs.create_queue("dead", QueueAttributes::default()).unwrap();
    let attributes = QueueAttributes { max_receive: Some(("dead".to_owned(), 7)), ..Default::default() };
    sqs.create_queue("queue", attributes).unwrap();
    drop(sqs);
    let queue = Queue::of(Sqs::open(Some(&file.0), Clock::real()).unwrap()).await;
    let policy = &queue.attributes(&[Attribute::RedrivePolicy]).await["RedrivePolicy"];
    assert_eq!(policy, r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":7}"#);
}

const SERVED_FILE: &str = "LOCAL_SQS_TEST_FILE";

/// A server in a process of its own, which can be killed.
struct Process(Child);

impl Process {
    fn start(file: &File) -> (Self, String) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_until_killed", "--ignored", "--nocapture"])
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

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "it is the process that another test kills"]
fn serve_until_killed() {
    let Some(file) = std::env::var_os(SERVED_FILE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sqs = Sqs::open(Some(Path::new(&file)), Clock::real()).unwrap();
        sqs.create_queue("queue", QueueAttributes::default()).unwrap();
        let queue = Queue::of(sqs).await;
        println!("\nserving {}", queue.url.trim_end_matches("/000000000000/queue"));
        // The other end closes when the test's process is gone.
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answered_send_survives_the_killing_of_the_process() {
    let file = File::new("killed");
    let (mut process, endpoint) = Process::start(&file);
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
    // In the midst of sending.
    process.kill();
    let mut sent = HashSet::new();
    for sender in senders {
        sent.extend(sender.await.unwrap());
    }
    assert!(sent.len() >= 200);

    let queue = Queue::of(Sqs::open(Some(&file.0), Clock::real()).unwrap()).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release -p local --test sqs -- --ignored --nocapture throughput"]
async fn throughput() {
    let file = File::new("throughput");
    let sqs = Sqs::open(Some(&file.0), Clock::real()).unwrap();
    sqs.create_queue("queue", QueueAttributes::default()).unwrap();
    let queue = Queue::of(sqs).await;
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
