//! A proxy that counts the calls of an AWS service, and makes single calls fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{self, DefaultBodyLimit};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use local::Options;
use pushlark_settings::Environment;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::Pushlark;

/// The proxy between the functions and DynamoDB or SQS.
pub struct CallCounter {
    /// The base URL of the proxy, for the functions.
    pub url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    client: Client,
    target: OnceLock<String>,
    counts: Mutex<Counts>,
    latency: Mutex<Duration>,
    faults: Mutex<Vec<Fault>>,
    /// The operations whose calls are all refused.
    throttled: Mutex<Vec<&'static str>>,
}

#[derive(Default)]
struct Counts {
    calls: BTreeMap<String, u32>,
    /// The actions that IAM must allow for these calls.
    actions: BTreeSet<String>,
    items_read: u64,
    /// The writes that claim notifications.
    claims: u32,
    units: Units,
    running: usize,
    most_running: usize,
}

/// The capacity that calls consume on DynamoDB ("DynamoDB read and write operations").
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Units {
    /// Read units of 4 KB; half as many for reads that are not consistent.
    pub read: f64,
    /// Write units of 1 KB.
    pub write: f64,
}

/// The way in which one call fails.
enum Fault {
    /// The next call of this operation whose body contains this text is answered with this body and status 400.
    Refusal(&'static str, &'static str, Value),
    /// The next query result with an item of this sort key lacks the item.
    HiddenItem(String),
}

impl CallCounter {
    /// Listens on a free port, for a stack that is started with `url` as its DynamoDB endpoint.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let router = Router::new().fallback(forward).with_state(Arc::clone(&state)).layer(DefaultBodyLimit::disable());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    /// Starts a stack whose functions call DynamoDB through a proxy.
    pub async fn with_settings<'s>(settings: impl IntoIterator<Item = (&'s str, &'s str)>) -> (Pushlark, Self) {
        let counter = Self::start().await;
        let environment = Environment::from_iter(settings);
        let options = Options { dynamodb_endpoint: Some(counter.url.clone()), environment, ..Options::default() };
        let pushlark = Pushlark::with(options).await;
        counter.connect(&pushlark.stack.dynamodb_url);
        counter.take();
        (pushlark, counter)
    }

    /// Forwards calls to the service at `url`.
    pub fn connect(&self, url: &str) {
        self.state.target.set(url.to_owned()).unwrap();
    }

    /// Adds this latency to each later call.
    pub fn delay(&self, latency: Duration) {
        *self.state.latency.lock().unwrap() = latency;
    }

    /// Answers the next call of an operation with an error of this type, with these other members.
    pub fn refuse_next(&self, operation: &'static str, error: &str, members: Value) {
        self.refuse_next_with("", operation, error, members);
    }

    /// The same for the next call whose body contains `text`.
    pub fn refuse_next_with(&self, text: &'static str, operation: &'static str, error: &str, members: Value) {
        let mut answer = members;
        answer["__type"] = format!("com.amazonaws.dynamodb.v20120810#{error}").into();
        self.state.faults.lock().unwrap().push(Fault::Refusal(operation, text, answer));
    }

    /// Refuses all later calls of these operations, as a table does beyond its throughput. Other calls are forwarded.
    pub fn throttle(&self, operations: &[&'static str]) {
        *self.state.throttled.lock().unwrap() = operations.to_vec();
    }

    /// Removes the item of a sort key from the next query result that has it, as if it were not committed yet.
    pub fn hide_next(&self, sk: &str) {
        self.state.faults.lock().unwrap().push(Fault::HiddenItem(sk.to_owned()));
    }

    /// Checks that each failure that a test has set has occurred.
    pub fn assert_all_failures_occurred(&self) {
        assert!(self.state.faults.lock().unwrap().is_empty());
    }

    /// Returns the number of calls of each operation, and resets it.
    pub fn take(&self) -> BTreeMap<String, u32> {
        std::mem::take(&mut self.state.counts.lock().unwrap().calls)
    }

    /// Returns the number of writes that claim notifications, and resets it. A batch that takes long also writes its
    /// progress to the claims.
    pub fn take_claims(&self) -> u32 {
        std::mem::take(&mut self.state.counts.lock().unwrap().claims)
    }

    /// Returns the actions that IAM had to allow ("Using IAM with DynamoDB transactions"), and resets them.
    pub fn take_actions(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state.counts.lock().unwrap().actions)
    }

    /// Returns the number of items in query results, and resets it.
    pub fn take_items_read(&self) -> u64 {
        std::mem::take(&mut self.state.counts.lock().unwrap().items_read)
    }

    /// Returns the capacity that calls outside of transactions have consumed, and resets it.
    pub fn take_units(&self) -> Units {
        std::mem::take(&mut self.state.counts.lock().unwrap().units)
    }

    /// Returns the largest number of calls that ran side by side.
    pub fn most_running(&self) -> usize {
        self.state.counts.lock().unwrap().most_running
    }
}

async fn forward(
    extract::State(state): extract::State<Arc<State>>,
    mut headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Bytes) {
    let operation = headers["x-amz-target"].to_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let latency = *state.latency.lock().unwrap();
    {
        let mut counts = state.counts.lock().unwrap();
        *counts.calls.entry(operation.clone()).or_default() += 1;
        counts.actions.extend(actions(&operation, &body));
        counts.claims += u32::from(is_claim(&operation, &body));
        counts.running += 1;
        counts.most_running = counts.most_running.max(counts.running);
    }
    let refusal = {
        let mut faults = state.faults.lock().unwrap();
        let fault = faults.iter().position(|fault| {
            matches!(fault, Fault::Refusal(name, text, _)
                if *name == operation && String::from_utf8_lossy(&body).contains(text))
        });
        fault.map(|fault| faults.remove(fault))
    };
    let is_throttled = state.throttled.lock().unwrap().contains(&operation.as_str());
    let answer = if let Some(Fault::Refusal(.., answer)) = refusal {
        (StatusCode::BAD_REQUEST, answer.to_string().into())
    } else if is_throttled {
        let error = json!({"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException",
            "message": "Throughput exceeds the current capacity of your table or index."});
        (StatusCode::BAD_REQUEST, error.to_string().into())
    } else {
        headers.remove(CONTENT_LENGTH);
        let body = asking_for_capacity(&operation, body);
        let request = state.client.post(state.target.get().unwrap()).headers(headers).body(body);
        let response = request.send().await.unwrap();
        let (status, body) = (response.status(), response.bytes().await.unwrap());
        state.count_units(&operation, &body);
        (status, if operation == "Query" { state.count_items(body) } else { body })
    };
    sleep(latency).await;
    state.counts.lock().unwrap().running -= 1;
    answer
}

impl State {
    fn count_units(&self, operation: &str, answer: &[u8]) {
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        let units = answer["ConsumedCapacity"]["CapacityUnits"].as_f64().unwrap_or(0.0);
        let mut counts = self.counts.lock().unwrap();
        match operation {
            "GetItem" | "Query" => counts.units.read += units,
            _ => counts.units.write += units,
        }
    }

    /// Counts the items of a query result, and removes an item that is to be hidden.
    fn count_items(&self, answer: Bytes) -> Bytes {
        let mut read: Value = serde_json::from_slice(&answer).unwrap();
        self.counts.lock().unwrap().items_read += read["Count"].as_u64().unwrap_or(0);
        let Some(items) = read["Items"].as_array_mut() else { return answer };
        let found = |sk: &str| items.iter().position(|item| item["sk"]["S"] == sk);
        let mut faults = self.faults.lock().unwrap();
        let hidden = faults.iter().enumerate().find_map(|(fault, what)| match what {
            Fault::HiddenItem(sk) => Some((fault, found(sk)?)),
            Fault::Refusal(..) => None,
        });
        let Some((fault, item)) = hidden else { return answer };
        faults.remove(fault);
        items.remove(item);
        read.to_string().into()
    }
}

/// Returns whether a call claims notifications.
fn is_claim(operation: &str, body: &[u8]) -> bool {
    let body = String::from_utf8_lossy(body);
    operation == "UpdateItem" && body.contains("\"msg/") && body.contains("if_not_exists")
}

/// Returns the body of a call of one item or a query, with the wish to know the capacity that it consumes.
fn asking_for_capacity(operation: &str, body: Bytes) -> Bytes {
    if !matches!(operation, "GetItem" | "Query" | "PutItem" | "UpdateItem" | "DeleteItem") {
        return body;
    }
    let mut request: Value = serde_json::from_slice(&body).unwrap();
    request["ReturnConsumedCapacity"] = "TOTAL".into();
    request.to_string().into()
}

/// Returns the actions that IAM must allow for a call. For a transaction these are the actions of its parts.
fn actions(operation: &str, body: &[u8]) -> Vec<String> {
    if operation != "TransactWriteItems" {
        return vec![operation.to_owned()];
    }
    let request: Value = serde_json::from_slice(body).unwrap();
    let parts = request["TransactItems"].as_array().unwrap().iter().flat_map(|part| part.as_object().unwrap().keys());
    parts.map(|part| format!("{part}Item")).collect()
}
