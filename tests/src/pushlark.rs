//! A local stack of a test, and an HTTP client for it.

use aws_sdk_sqs::types::QueueAttributeName;
use doubles::canary;
use local::{Options, Stack};
use pushlark_model::Registration;
use pushlark_settings::Environment;
use pushlark_store::Store;
use pushlark_xmpp::BareJid;
use reqwest::{Client, RequestBuilder};
use serde::Serialize;
use serde_json::{Value, json};

use crate::secrecy::{watch_answer, watch_log};
use crate::{Event, PushRequest, eventually};

/// A stack in memory that needs no credentials unless a setting requires them, and a client.
pub struct Pushlark {
    /// The stack, on free ports.
    pub stack: Stack,
    /// The HTTP client of the tests.
    pub http: Client,
}

/// An HTTP answer with any status.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status of the response.
    pub status: u16,
    /// The headers of the response.
    pub headers: reqwest::header::HeaderMap,
    /// The body, which must be UTF-8.
    pub body: String,
}

impl Reply {
    /// Returns the body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// Returns the content type.
    pub fn content_type(&self) -> &str {
        self.headers["content-type"].to_str().unwrap()
    }

    /// Checks that this is a problem (RFC 9457) with this status, and returns its detail.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!((self.status, self.content_type()), (status, "application/problem+json"), "{}", self.body);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["type"].is_string() && problem["title"].is_string(), "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }

    /// Checks that this is an IQ of type `result`.
    pub fn assert_result(&self) {
        assert!(self.body.contains("type=\"result\""), "{}", self.body);
    }
}

/// Sends a request, and returns the answer.
pub async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let reply = Reply { status, headers, body: response.text().await.unwrap() };
    watch_answer(&reply);
    reply
}

impl Pushlark {
    /// Starts a stack with the default settings.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Starts a stack with these settings.
    pub async fn with_settings<'s>(settings: impl IntoIterator<Item = (&'s str, &'s str)>) -> Self {
        Self::with(Options { environment: Environment::from_iter(settings), ..Options::default() }).await
    }

    /// Starts a stack with these options.
    pub async fn with(options: Options) -> Self {
        watch_log();
        Self { stack: Stack::start(options).await.unwrap(), http: Client::new() }
    }

    /// Returns the store of the stack's table.
    pub fn store(&self) -> Store {
        Store::from_environment(self.stack.dynamodb.clone(), &self.stack.environment).unwrap()
    }

    /// Returns the registrations of a user from the table, in the order of their JIDs and nodes.
    pub async fn registrations(&self, user: &str) -> Vec<Registration> {
        self.store().snapshot(&BareJid::new(user).unwrap()).await.unwrap().registrations
    }

    /// Returns the nodes of a user's registrations from the table.
    pub async fn nodes(&self, user: &str) -> Vec<String> {
        self.registrations(user).await.into_iter().map(|registration| registration.node).collect()
    }

    /// Returns the registrations of a user as `GET /enable` lists them.
    pub async fn listed(&self, user: &str) -> Vec<Value> {
        let reply = send(self.http.get(format!("{}/enable?user={user}", self.stack.url))).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["registrations"].as_array().unwrap().clone()
    }

    /// Returns the nodes of a user's registrations as `GET /enable` lists them.
    pub async fn listed_nodes(&self, user: &str) -> Vec<String> {
        self.listed(user).await.iter().map(|one| one["node"].as_str().unwrap().to_owned()).collect()
    }

    /// Prepares a POST to a path of the stack. An empty content type sends none.
    pub fn request(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.stack.url)).body(body);
        if content_type.is_empty() { request } else { request.header("content-type", content_type) }
    }

    /// Posts, and returns the answer.
    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Reply {
        send(self.request(path, content_type, body)).await
    }

    /// Posts a JSON document to a path.
    pub async fn json(&self, path: &str, body: impl Serialize) -> Reply {
        self.post(path, "application/json", serde_json::to_string(&body).unwrap()).await
    }

    /// Posts JSON with a bearer token.
    pub async fn json_as(&self, token: &str, path: &str, body: impl Serialize) -> Reply {
        let body = serde_json::to_string(&body).unwrap();
        send(self.request(path, "application/json", body).bearer_auth(token)).await
    }

    /// Enables `node` of `user` for the device `canary-<node>` of FCM, at the virtual host of the user's domain.
    pub async fn enable(&self, user: &str, node: &str) {
        self.enable_with(user, node, json!({})).await;
    }

    /// The same, with more options, or with other values of these.
    pub async fn enable_with(&self, user: &str, node: &str, options: Value) {
        let reply = self.json("/enable", PushRequest::new(user, node).device(node).options(options)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    /// Posts one event, or an array of events, which must be accepted. Returns the first id.
    pub async fn event(&self, event: impl Serialize) -> String {
        let reply = self.json("/events", event).await;
        assert_eq!(reply.status, 202, "{}", reply.body);
        reply.json()["ids"][0].as_str().unwrap().to_owned()
    }

    /// Posts a chat message from Alice. Returns its id.
    pub async fn message(&self, to: &str, body: &str) -> String {
        self.event(Event::message(to, body)).await
    }

    /// Returns the explanation of an event for its first recipient.
    pub async fn explained(&self, event: impl Serialize) -> Value {
        let reply = self.json("/explain", json!({"explain": [event]})).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["explained"][0]["recipients"][0].take()
    }

    /// Posts a stanza as an event, which must be accepted.
    pub async fn stanza(&self, stanza: impl Into<String>) {
        let reply = self.post("/events", "application/xml", stanza.into()).await;
        assert_eq!(reply.status, 202, "{}", reply.body);
    }

    /// Returns the notifications for all devices in the sink, the newest first.
    pub async fn all_notifications(&self) -> Vec<Value> {
        let url = format!("{}/sink/notifications", self.stack.url);
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Returns the notifications for a device in the sink, the oldest first.
    pub async fn notifications(&self, device: &str) -> Vec<Value> {
        let url = format!("{}/sink/notifications", self.stack.url);
        let list = self.http.get(url).query(&[("device_id", canary(device))]).send().await.unwrap();
        let mut list: Vec<Value> = list.json().await.unwrap();
        list.reverse();
        list
    }

    /// Returns the texts of the alerts for a device, the oldest first.
    pub async fn alerts(&self, device: &str) -> Vec<String> {
        let text = |entry: Value| entry["notification"]["alert"]["body"].as_str().unwrap_or_default().to_owned();
        self.notifications(device).await.into_iter().map(text).collect()
    }

    /// Returns the texts of the alerts for a device in alphabetical order.
    pub async fn sorted_alerts(&self, device: &str) -> Vec<String> {
        let mut alerts = self.alerts(device).await;
        alerts.sort();
        alerts
    }

    /// Waits until a device has at least this many notifications, and returns all.
    pub async fn notified(&self, device: &str, times: usize) -> Vec<Value> {
        eventually(&format!("{times} notifications for {device}"), async || {
            let list = self.notifications(device).await;
            (list.len() >= times).then_some(list)
        })
        .await
    }

    /// Sets the answer of the sink for a device: `{"status", "body"?, "delay_ms"?}`.
    pub async fn device_answers(&self, device: &str, answer: Value) {
        let url = format!("{}/sink/devices/{}", self.stack.url, canary(device));
        assert_eq!(self.http.put(url).json(&answer).send().await.unwrap().status(), 204);
    }

    /// Waits until the queue is empty.
    pub async fn settled(&self) {
        eventually("an empty queue", async || (self.queue_depth("QUEUE_URL").await == 0).then_some(())).await;
    }

    /// Adds a message to the queue of the worker.
    pub async fn enqueue(&self, body: impl ToString) {
        let queue = self.stack.environment.text("QUEUE_URL").unwrap();
        self.stack.sqs.send_message().queue_url(queue).message_body(body.to_string()).send().await.unwrap();
    }

    /// Receives up to ten bodies from the dead-letter queue.
    pub async fn dead_letters(&self) -> Vec<String> {
        let queue = self.stack.environment.text("DEAD_LETTER_QUEUE_URL").unwrap();
        let receive = self.stack.sqs.receive_message().queue_url(queue).max_number_of_messages(10);
        let messages = receive.send().await.unwrap().messages.unwrap();
        messages.into_iter().map(|message| message.body.unwrap()).collect()
    }

    /// Returns the number of messages, visible, delayed and in flight, in the queue that a setting names.
    pub async fn queue_depth(&self, setting: &str) -> u32 {
        self.depth(self.stack.environment.text(setting).unwrap()).await
    }

    pub(crate) async fn depth(&self, queue_url: &str) -> u32 {
        let attributes = self
            .stack
            .sqs
            .get_queue_attributes()
            .queue_url(queue_url)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .unwrap();
        let attributes = attributes.attributes.unwrap();
        ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]
            .map(|name| attributes[&name.into()].parse::<u32>().unwrap())
            .into_iter()
            .sum()
    }
}
