//! A queue of an embedded SQS, with a client for it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::operation::receive_message::builders::ReceiveMessageFluentBuilder;
use aws_sdk_sqs::operation::send_message::builders::SendMessageFluentBuilder;
use aws_sdk_sqs::types::{
    Message, MessageAttributeValue, MessageSystemAttributeName as System, QueueAttributeName as Attribute,
};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use local::sqs::{Clock, QueueAttributes, Sqs};
use pushlark_http_client::{Tls, aws_http_client};

/// Far longer than a prompt answer takes, and shorter than a long poll of 20 s.
pub const PROMPT_LIMIT: Duration = Duration::from_secs(15);

/// A queue, with a client for it.
#[derive(Clone)]
pub struct TestQueue {
    pub sqs: Sqs,
    pub client: Client,
    pub url: String,
    pub requests: Arc<AtomicUsize>,
}

impl TestQueue {
    pub async fn new(clock: Clock, attributes: QueueAttributes) -> Self {
        let sqs = Sqs::open(None, clock).unwrap();
        if let Some((target, _)) = &attributes.max_receive {
            sqs.create_queue(target, QueueAttributes::default()).unwrap();
        }
        sqs.create_queue("queue", attributes).unwrap();
        Self::of(sqs).await
    }

    pub async fn plain() -> Self {
        Self::new(Clock::real(), QueueAttributes::default()).await
    }

    pub async fn of(sqs: Sqs) -> Self {
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

    /// Another queue of the same server.
    pub fn named(&self, name: &str) -> Self {
        let url = self.url.replace("/queue", &format!("/{name}"));
        Self { url, ..self.clone() }
    }

    pub fn sending(&self, body: &str) -> SendMessageFluentBuilder {
        self.client.send_message().queue_url(&self.url).message_body(body)
    }

    pub async fn send(&self, body: &str) -> String {
        self.sending(body).send().await.unwrap().message_id.unwrap()
    }

    pub fn receiving(&self) -> ReceiveMessageFluentBuilder {
        let all = [System::All];
        self.client.receive_message().queue_url(&self.url).set_message_system_attribute_names(Some(all.into()))
    }

    pub async fn receive(&self) -> Vec<Message> {
        self.receiving().max_number_of_messages(10).send().await.unwrap().messages.unwrap_or_default()
    }

    pub async fn receive_one(&self) -> Message {
        let mut messages = self.receive().await;
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    }

    /// Returns the messages of a long poll of 20 s.
    pub async fn poll(&self) -> Vec<Message> {
        self.receiving().wait_time_seconds(20).send().await.unwrap().messages.unwrap_or_default()
    }

    /// Starts a long poll. Returns once its request has arrived at the server.
    pub async fn polling(&self) -> tokio::task::JoinHandle<Vec<Message>> {
        let before = self.requests.load(Ordering::SeqCst);
        let queue = self.clone();
        let poll = tokio::spawn(async move { queue.poll().await });
        eventually(async || self.requests.load(Ordering::SeqCst) > before).await;
        poll
    }

    pub async fn delete(&self, receipt: &str) -> Result<(), String> {
        outcome(self.client.delete_message().queue_url(&self.url).receipt_handle(receipt).send()).await
    }

    pub async fn change_visibility(&self, receipt: &str, seconds: i32) -> Result<(), String> {
        let change = self.client.change_message_visibility().queue_url(&self.url);
        outcome(change.receipt_handle(receipt).visibility_timeout(seconds).send()).await
    }

    pub async fn attributes(&self, names: &[Attribute]) -> BTreeMap<String, String> {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = request.set_attribute_names(Some(names.to_vec())).send().await.unwrap();
        answer.attributes.unwrap_or_default().into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    /// The numbers of visible, in-flight and delayed messages.
    pub async fn counts(&self) -> [String; 3] {
        let names = [
            Attribute::ApproximateNumberOfMessages,
            Attribute::ApproximateNumberOfMessagesNotVisible,
            Attribute::ApproximateNumberOfMessagesDelayed,
        ];
        let attributes = self.attributes(&names).await;
        names.map(|name| attributes[name.as_str()].clone())
    }
}

pub fn client(endpoint: &str) -> Client {
    let credentials =
        Credentials::builder().access_key_id("test").secret_access_key("test").provider_name("test").build();
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(credentials)
        .endpoint_url(endpoint)
        .http_client(aws_http_client(Tls::default()))
        .build();
    Client::from_conf(config)
}

/// The result of a call; an error is its code in the query protocol.
pub async fn outcome<T, E: ProvideErrorMetadata>(
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<(), String> {
    call.await.map(drop).map_err(|error| error.code().unwrap_or("no code").to_owned())
}

pub fn refused(code: &str) -> Result<(), String> {
    Err(code.to_owned())
}

pub async fn eventually(condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition().await {
        assert!(Instant::now() < deadline, "the condition did not become true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn system(message: &Message, name: System) -> &str {
    &message.attributes().unwrap()[&name]
}

pub fn bodies(messages: &[Message]) -> BTreeSet<&str> {
    messages.iter().map(|message| message.body().unwrap()).collect()
}

pub fn text(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap()
}

pub fn seconds_since(start: Instant) -> f64 {
    // The server counts whole milliseconds.
    start.elapsed().as_secs_f64() + 0.002
}
