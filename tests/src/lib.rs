//! What the tests need to use Pushlark from outside: a stack of their own, and an HTTP client. What it logs and answers
//! is watched for the secrets that they use.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod secrecy;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::{env, io};

use aws_config::SdkConfig;
use aws_lambda_events::sqs::SqsEvent;
use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use doubles::{Hold, Running, is_planted, name_of, planted};
use futures_util::FutureExt;
use local::sqs::Clock;
use local::{Options, Stack};
use pushlark_plugin::Plugins;
use pushlark_settings::Environment;
use pushlark_store::Store;
use pushlark_telemetry::{Format, start_to};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use worker::Worker;

use secrecy::{watch_answer, watch_log};

/// How long a test waits for a condition: far longer than it takes on a machine that compiles beside the tests.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A stack in memory with open access, and a client.
pub struct Pushlark {
    /// The stack.
    pub stack: Stack,
    /// The client.
    pub http: Client,
}

/// An HTTP answer, whatever it is.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// The content type.
    pub fn content_type(&self) -> &str {
        self.headers["content-type"].to_str().unwrap()
    }

    /// Checks that this is a problem (RFC 9457) of `status`, and gives its detail.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!((self.status, self.content_type()), (status, "application/problem+json"), "{}", self.body);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["type"].is_string() && problem["title"].is_string(), "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

impl Pushlark {
    /// A stack with the defaults.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A stack with these settings.
    pub async fn with_settings<'s>(settings: impl IntoIterator<Item = (&'s str, &'s str)>) -> Self {
        Self::with(Options { environment: Environment::from_iter(settings), ..Options::default() }).await
    }

    /// A stack with these options.
    pub async fn with(options: Options) -> Self {
        watch_log();
        Self { stack: Stack::start(options).await.unwrap(), http: Client::new() }
    }

    /// The stack's table.
    pub fn store(&self) -> Store {
        Store::from_environment(self.stack.dynamodb.clone(), &self.stack.environment).unwrap()
    }

    /// A POST to one of the stack's paths.
    pub fn request(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.stack.url)).body(body);
        if content_type.is_empty() { request } else { request.header("content-type", content_type) }
    }

    /// Posts, and gives the answer.
    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Reply {
        send(self.request(path, content_type, body)).await
    }

    /// Posts JSON.
    pub async fn json(&self, path: &str, body: Value) -> Reply {
        self.post(path, "application/json", body.to_string()).await
    }

    /// Enables `node` of `user` for a device of the same name, which is a secret, at the virtual host of the user's domain.
    pub async fn enable(&self, user: &str, node: &str) {
        self.enable_with(user, node, json!({})).await;
    }

    /// The same, with further options.
    pub async fn enable_with(&self, user: &str, node: &str, options: Value) {
        let mut form = json!({"service": "fcm", "device_id": planted(node)});
        form.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let domain = user.split('/').next().unwrap().split('@').next_back().unwrap();
        let jid = format!("push.{domain}");
        let reply = self.json("/enable", json!({"user": user, "jid": jid, "node": node, "form": form})).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    /// Posts one event, which must be accepted; gives its id.
    pub async fn event(&self, event: Value) -> String {
        let reply = self.json("/events", event).await;
        assert_eq!(reply.status, 202, "{}", reply.body);
        reply.json()["ids"][0].as_str().unwrap().to_owned()
    }

    /// Posts a chat message from Alice; gives its id.
    pub async fn message(&self, to: &str, body: &str) -> String {
        self.event(json!({"type": "message", "from": "alice@example.com/pc", "to": to, "chat": "chat", "body": body}))
            .await
    }

    /// What the sink was posted for a device, the oldest first.
    pub async fn notifications(&self, device: &str) -> Vec<Value> {
        let url = format!("{}/sink/notifications", self.stack.url);
        let list = self.http.get(url).query(&[("device_id", planted(device))]).send().await.unwrap();
        let mut list: Vec<Value> = list.json().await.unwrap();
        list.reverse();
        list
    }

    /// The texts of the alerts that a device was posted, the oldest first.
    pub async fn alerts(&self, device: &str) -> Vec<String> {
        let text = |entry: Value| entry["notification"]["alert"]["body"].as_str().unwrap_or_default().to_owned();
        self.notifications(device).await.into_iter().map(text).collect()
    }

    /// Waits until a device was posted so many notifications, and gives them.
    pub async fn notified(&self, device: &str, times: usize) -> Vec<Value> {
        eventually(&format!("{times} notifications for {device}"), async || {
            let list = self.notifications(device).await;
            (list.len() >= times).then_some(list)
        })
        .await
    }

    /// Sets what a device answers.
    pub async fn device_answers(&self, device: &str, answer: Value) {
        let url = format!("{}/sink/devices/{}", self.stack.url, planted(device));
        assert_eq!(self.http.put(url).json(&answer).send().await.unwrap().status(), 204);
    }

    /// Waits until all that was queued is dealt with.
    pub async fn settled(&self) {
        eventually("an empty queue", async || (self.queue_depth("QUEUE_URL").await == 0).then_some(())).await;
    }

    /// How many messages are in the queue that a setting names, whether visible or not.
    pub async fn queue_depth(&self, setting: &str) -> u32 {
        self.depth(self.stack.environment.text(setting).unwrap()).await
    }

    async fn depth(&self, queue_url: &str) -> u32 {
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

/// A worker of the test's own beside the stack, whose queue nobody else reads.
pub struct Apart {
    /// The stack.
    pub pushlark: Pushlark,
    /// The worker.
    pub worker: Arc<Worker>,
    queue_url: String,
}

impl Apart {
    /// A stack with the defaults, and a worker.
    pub async fn start() -> Self {
        Self::beside(Pushlark::start().await).await
    }

    /// A worker with the settings of a stack.
    pub async fn beside(pushlark: Pushlark) -> Self {
        let sqs = &pushlark.stack.sqs;
        // Nothing comes back while a test has it.
        let queue = sqs.create_queue().queue_name("apart").attributes(QueueAttributeName::VisibilityTimeout, "43200");
        let queue_url = queue.send().await.unwrap().queue_url.unwrap();
        Self { worker: worker_of(&pushlark, &queue_url), queue_url, pushlark }
    }

    /// Another worker with the same settings and queue, which knows nothing of what this one has seen.
    pub fn fresh_worker(&self) -> Arc<Worker> {
        worker_of(&self.pushlark, &self.queue_url)
    }

    /// Queues a record and receives it as a batch of one.
    pub async fn batch(&self, work: &[Value]) -> SqsEvent {
        self.send(&json!({"version": 2, "work": work})).await;
        self.receive().await.unwrap()
    }

    /// Queues a record.
    pub async fn send(&self, record: &Value) {
        let send = self.pushlark.stack.sqs.send_message().queue_url(&self.queue_url);
        send.message_body(record.to_string()).send().await.unwrap();
    }

    /// Has the worker handle a batch, with more time than it needs; no message may stay in the queue.
    pub async fn handle(&self, batch: SqsEvent) {
        let response = self.worker.handle(batch, Instant::now() + PATIENCE).await;
        assert!(response.batch_item_failures.is_empty(), "{response:?}");
    }

    /// Has the worker handle a batch, and all that it puts back.
    pub async fn handle_all(&self, batch: SqsEvent) {
        self.handle_all_but(0, batch).await;
    }

    /// The same, until so many messages are left that are not to be received yet.
    pub async fn handle_all_but(&self, left: u32, mut batch: SqsEvent) {
        loop {
            self.handle(batch.clone()).await;
            self.delete(batch).await;
            let next = eventually("a message or a queue of delayed messages", async || match self.receive().await {
                None => (self.depth().await <= left).then_some(None),
                next => Some(next),
            });
            let Some(next) = next.await else { return };
            batch = next;
        }
    }

    /// Receives a message, if there is one, as a batch.
    pub async fn receive(&self) -> Option<SqsEvent> {
        let receive = self.pushlark.stack.sqs.receive_message().queue_url(&self.queue_url);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All);
        let message = receive.send().await.unwrap().messages?.remove(0);
        let attributes: Value = message
            .attributes
            .iter()
            .flatten()
            .map(|(name, value)| (name.to_string(), Value::from(value.as_str())))
            .collect();
        let record = json!({"messageId": message.message_id, "receiptHandle": message.receipt_handle,
            "body": message.body, "attributes": attributes});
        Some(serde_json::from_value(json!({"Records": [record]})).unwrap())
    }

    /// Deletes what was handled.
    pub async fn delete(&self, handled: SqsEvent) {
        let delete = self.pushlark.stack.sqs.delete_message().queue_url(&self.queue_url);
        delete.set_receipt_handle(handled.records[0].receipt_handle.clone()).send().await.unwrap();
    }

    /// Deletes what was handled, and receives the next batch, if any is to come.
    pub async fn next(&self, handled: SqsEvent) -> Option<SqsEvent> {
        self.delete(handled).await;
        eventually("a message or an empty queue", async || match self.receive().await {
            None => (self.pushlark.depth(&self.queue_url).await == 0).then_some(None),
            batch => Some(batch),
        })
        .await
    }

    /// How many messages are in its queue.
    pub async fn depth(&self) -> u32 {
        self.pushlark.depth(&self.queue_url).await
    }
}

fn worker_of(pushlark: &Pushlark, queue_url: &str) -> Arc<Worker> {
    let Stack { environment, dynamodb, sqs, .. } = &pushlark.stack;
    let mut environment = environment.clone();
    environment.extend([("QUEUE_URL", queue_url), ("DEAD_LETTER_QUEUE_URL", queue_url)]);
    let (aws, plugins) = (SdkConfig::builder().build(), Plugins::built_in());
    Arc::new(Worker::from_environment(&environment, &aws, &plugins, dynamodb.clone(), sqs.clone()).unwrap())
}

/// DynamoDB or SQS as the functions see it, with each call counted.
pub struct Meter {
    /// Where the functions find it.
    pub url: String,
    state: Arc<MeterState>,
}

#[derive(Default)]
struct MeterState {
    client: Client,
    target: OnceLock<String>,
    counts: Mutex<Counts>,
    latency: Mutex<Duration>,
    faults: Mutex<Vec<Fault>>,
}

#[derive(Default)]
struct Counts {
    calls: BTreeMap<String, u32>,
    /// By the name of the action that IAM must allow.
    actions: BTreeSet<String>,
    items_read: u64,
    running: usize,
    most_running: usize,
}

/// What happens to one call instead of what should.
enum Fault {
    /// The next call of this operation gets this answer of status 400.
    Refusal(&'static str, Value),
    /// The next query that finds an item of this sort key leaves it out.
    Blindness(String),
}

impl Meter {
    /// Listens on any port, for a stack that is started with `url` as its DynamoDB.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(MeterState::default());
        let router = Router::new().fallback(meter).with_state(Arc::clone(&state)).layer(DefaultBodyLimit::disable());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    /// A stack whose functions see DynamoDB through a meter.
    pub async fn with_settings<'s>(settings: impl IntoIterator<Item = (&'s str, &'s str)>) -> (Pushlark, Self) {
        let meter = Self::start().await;
        let environment = Environment::from_iter(settings);
        let options = Options { dynamodb_endpoint: Some(meter.url.clone()), environment, ..Options::default() };
        let pushlark = Pushlark::with(options).await;
        meter.connect(&pushlark.stack.dynamodb_url);
        meter.take();
        (pushlark, meter)
    }

    /// Leads to the service at `url`.
    pub fn connect(&self, url: &str) {
        self.state.target.set(url.to_owned()).unwrap();
    }

    /// Takes so long for each call from now on.
    pub fn delay(&self, latency: Duration) {
        *self.state.latency.lock().unwrap() = latency;
    }

    /// Answers the next call of an operation by an error of this type and these further members.
    pub fn refuse_next(&self, operation: &'static str, error: &str, members: Value) {
        let mut answer = members;
        answer["__type"] = format!("com.amazonaws.dynamodb.v20120810#{error}").into();
        self.state.faults.lock().unwrap().push(Fault::Refusal(operation, answer));
    }

    /// Leaves the item of a sort key out of the next query that finds it, as if it were not committed yet.
    pub fn hide_next(&self, sk: &str) {
        self.state.faults.lock().unwrap().push(Fault::Blindness(sk.to_owned()));
    }

    /// Checks that all that was to go wrong has.
    pub fn assert_nothing_left(&self) {
        assert!(self.state.faults.lock().unwrap().is_empty());
    }

    /// How often each operation was called since this was asked last.
    pub fn take(&self) -> BTreeMap<String, u32> {
        std::mem::take(&mut self.state.counts.lock().unwrap().calls)
    }

    /// The actions that IAM had to allow since this was asked last ("Using IAM with DynamoDB transactions").
    pub fn take_actions(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state.counts.lock().unwrap().actions)
    }

    /// How many items queries gave since this was asked last.
    pub fn take_items_read(&self) -> u64 {
        std::mem::take(&mut self.state.counts.lock().unwrap().items_read)
    }

    /// How many calls were ever under way side by side.
    pub fn most_running(&self) -> usize {
        self.state.counts.lock().unwrap().most_running
    }
}

async fn meter(State(state): State<Arc<MeterState>>, headers: HeaderMap, body: Bytes) -> (StatusCode, Bytes) {
    let operation = headers["x-amz-target"].to_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let latency = *state.latency.lock().unwrap();
    {
        let mut counts = state.counts.lock().unwrap();
        *counts.calls.entry(operation.clone()).or_default() += 1;
        counts.actions.extend(actions(&operation, &body));
        counts.running += 1;
        counts.most_running = counts.most_running.max(counts.running);
    }
    let refusal = {
        let mut faults = state.faults.lock().unwrap();
        let fault = faults.iter().position(|fault| matches!(fault, Fault::Refusal(name, _) if *name == operation));
        fault.map(|fault| faults.remove(fault))
    };
    let answer = if let Some(Fault::Refusal(_, answer)) = refusal {
        (StatusCode::BAD_REQUEST, answer.to_string().into())
    } else {
        let request = state.client.post(state.target.get().unwrap()).headers(headers).body(body);
        let response = request.send().await.unwrap();
        let (status, body) = (response.status(), response.bytes().await.unwrap());
        (status, if operation == "Query" { state.queried(body) } else { body })
    };
    sleep(latency).await;
    state.counts.lock().unwrap().running -= 1;
    answer
}

impl MeterState {
    /// Counts the items of a query's answer, and leaves out what it is not to see.
    fn queried(&self, answer: Bytes) -> Bytes {
        let mut read: Value = serde_json::from_slice(&answer).unwrap();
        self.counts.lock().unwrap().items_read += read["Count"].as_u64().unwrap_or(0);
        let Some(items) = read["Items"].as_array_mut() else { return answer };
        let found = |sk: &str| items.iter().position(|item| item["sk"]["S"] == sk);
        let mut faults = self.faults.lock().unwrap();
        let hidden = faults.iter().enumerate().find_map(|(fault, what)| match what {
            Fault::Blindness(sk) => Some((fault, found(sk)?)),
            Fault::Refusal(..) => None,
        });
        let Some((fault, item)) = hidden else { return answer };
        faults.remove(fault);
        items.remove(item);
        read.to_string().into()
    }
}

/// The actions that a call needs: those of its parts, if it is a transaction.
fn actions(operation: &str, body: &[u8]) -> Vec<String> {
    if operation != "TransactWriteItems" {
        return vec![operation.to_owned()];
    }
    let request: Value = serde_json::from_slice(body).unwrap();
    let parts = request["TransactItems"].as_array().unwrap().iter().flat_map(|part| part.as_object().unwrap().keys());
    parts.map(|part| format!("{part}Item")).collect()
}

/// Options of a stack in which SQS's time passes so many times as fast. A received message stays hidden for as long as SQS
/// allows, as it does for longer than any invocation on Lambda.
pub fn in_fast_motion(factor: u32) -> Options {
    Options { clock: Clock::scaled(factor), visibility_timeout: 43_200, ..Options::default() }
}

/// Runs a test that must begin and end in one of the minutes in which requests are counted; again if it did not.
pub async fn within_a_minute(test: impl AsyncFn()) {
    let minute = || OffsetDateTime::now_utc().unix_timestamp() / 60;
    loop {
        let begun = minute();
        match AssertUnwindSafe(test()).catch_unwind().await {
            Err(_) if minute() > begun => {}
            Err(panic) => resume_unwind(panic),
            Ok(()) => return,
        }
    }
}

/// When it was so many seconds ago, as an event's `at` has it.
pub fn ago(seconds: i64) -> String {
    (OffsetDateTime::now_utc() - time::Duration::seconds(seconds)).format(&Rfc3339).unwrap()
}

/// The lines that a test logs, from a run of the test alone, in a process of its own. In that process this starts the log
/// and gives nothing: the test is to do there what it wants to be logged.
pub fn logged(test: &str) -> Option<Vec<Value>> {
    const INSIDE: &str = "PUSHLARK_TEST_LOG";
    if env::var_os(INSIDE).is_some() {
        start_to(io::stdout, Format::Json, &Environment::default()).unwrap();
        return None;
    }
    let alone =
        Command::new(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "").output();
    let alone = alone.unwrap();
    let (lines, errors) = (String::from_utf8(alone.stdout).unwrap(), String::from_utf8(alone.stderr).unwrap());
    assert!(alone.status.success(), "{lines}\n{errors}");
    assert!(!is_planted(&lines) && !is_planted(&errors), "a secret is in the log: {lines}\n{errors}");
    Some(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Sends a request, and gives the answer.
pub async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let reply = Reply { status, headers, body: response.text().await.unwrap() };
    watch_answer(&reply);
    reply
}

/// Waits until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// An address at which connections are refused until the socket listens. No other program can take its port.
pub fn refusing_address() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

/// A line to a server that can be cut and mended.
pub struct Line {
    /// Where the near end listens.
    pub url: String,
    far_end: watch::Sender<Option<String>>,
}

impl Line {
    /// A line that leads nowhere yet.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (far_end, target) = watch::channel(None);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(forward(near, target.clone()));
            }
        });
        Self { url, far_end }
    }

    /// Leads to the server at `url` from now on.
    pub fn connect(&self, url: &str) {
        self.far_end.send_replace(Some(url.trim_start_matches("http://").to_owned()));
    }

    /// Closes all connections, and each new one at once.
    pub fn cut(&self) {
        self.far_end.send_replace(None);
    }
}

async fn forward(mut near: TcpStream, mut target: watch::Receiver<Option<String>>) {
    let Some(address) = target.borrow_and_update().clone() else { return };
    let Ok(mut far) = TcpStream::connect(address).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = target.changed() => {}
    }
}

/// A push service of a test's own, with the API of MongoosePush.
#[derive(Clone, Default)]
pub struct PushService {
    state: Arc<Mutex<PushServiceState>>,
    hold: Hold,
    running: Running,
}

#[derive(Default)]
struct PushServiceState {
    /// What the next requests are answered; then 200.
    answers: VecDeque<(u16, Vec<(&'static str, String)>)>,
    requests: Vec<(Instant, String)>,
}

impl PushService {
    /// Listens on any port.
    pub async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = Self::default();
        service.clone().serve(listener);
        (service, url)
    }

    /// Listens on `listener`.
    pub fn serve(self, listener: TcpListener) {
        let router = Router::new().route("/v3/notification/{device_id}", post(answer)).with_state(self);
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    /// Answers the next request with `status` and `headers`.
    pub fn answer_next(&self, status: u16, headers: &[(&'static str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.state.lock().unwrap().answers.push_back((status, headers));
    }

    /// Takes so long for each request, also for those that wait for their answer.
    pub fn hold(&self, hold: Duration) {
        self.hold.set(hold);
    }

    /// The devices that were posted to, and when, the oldest first.
    pub fn requests(&self) -> Vec<(Instant, String)> {
        self.state.lock().unwrap().requests.clone()
    }

    /// How many requests were ever answered side by side.
    pub fn most_running(&self) -> usize {
        self.running.most()
    }
}

async fn answer(State(service): State<PushService>, Path(device_id): Path<String>) -> (StatusCode, HeaderMap) {
    let answer = {
        let mut state = service.state.lock().unwrap();
        state.requests.push((Instant::now(), name_of(&device_id).to_owned()));
        state.answers.pop_front()
    };
    let running = service.running.begin();
    service.hold.wait().await;
    drop(running);
    let (status, headers) = answer.unwrap_or((200, Vec::new()));
    let headers = headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    (StatusCode::from_u16(status).unwrap(), headers)
}
