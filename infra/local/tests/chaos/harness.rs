//! The state that the tasks and threads of the test share, and requests to the stack.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::history::{Certainty, History};

/// The domain of all users.
pub const DOMAIN: &str = "example.com";

/// The URLs of the running stack.
#[derive(Debug, Clone)]
pub struct Endpoints {
    pub url: String,
    pub sqs_url: String,
}

/// The shared state of the test.
#[derive(Clone)]
pub struct Harness {
    pub history: Arc<Mutex<History>>,
    /// `None` while the stack is not running.
    pub endpoints: Arc<watch::Sender<Option<Endpoints>>>,
    pub http: Client,
    /// The log of all processes of the stack.
    pub log: Arc<File>,
}

impl Harness {
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    /// Waits until the stack is running.
    pub async fn endpoints(&self) -> Endpoints {
        self.endpoints.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }

    /// Posts until the response is not 429 or 503. Returns its status.
    pub async fn post(&self, path: &str, body: &Value) -> u16 {
        loop {
            let url = format!("{}{path}", self.endpoints().await.url);
            let status = match self.http.post(url).json(body).send().await {
                Ok(response) => response.status().as_u16(),
                Err(_) => 0,
            };
            match status {
                0 | 429 | 503 => sleep(Duration::from_millis(20)).await,
                status => return status,
            }
        }
    }

    /// Posts, and records an error if the response is not a success.
    pub async fn post_accepted(&self, path: &str, body: &Value) {
        let (status, expected) = (self.post(path, body).await, if path == "/events" { 202 } else { 200 });
        if status != expected {
            self.history().errors.push(format!("{path} answered {status} to {body}"));
        }
    }

    pub async fn enable(&self, name: &str) {
        let (user, node) = name.split_once('.').unwrap();
        let resource = if self.history().devices[name].is_tied { "/tied" } else { "" };
        let form = json!({"service": "fcm", "device_id": name});
        let jid = format!("push.{DOMAIN}");
        let enable = json!({"user": format!("{user}@{DOMAIN}{resource}"), "jid": jid, "node": node, "form": form});
        self.change_device(name, "/enable", &enable, Certainty::Yes).await;
    }

    pub async fn disable(&self, name: &str) {
        let (user, node) = name.split_once('.').unwrap();
        let disable = json!({"user": format!("{user}@{DOMAIN}"), "jid": format!("push.{DOMAIN}"), "node": node});
        self.change_device(name, "/disable", &disable, Certainty::No).await;
    }

    async fn change_device(&self, name: &str, path: &str, body: &Value, becomes: Certainty) {
        self.history().devices.get_mut(name).unwrap().enabled.set(Certainty::Maybe);
        self.post_accepted(path, body).await;
        self.history().devices.get_mut(name).unwrap().enabled.set(becomes);
    }

    pub async fn presence(&self, user: &str, becomes: Certainty) {
        let status = if becomes == Certainty::Yes { "offline" } else { "online" };
        let event = json!({"type": "presence", "jid": format!("{user}@{DOMAIN}/pc"), "status": status});
        self.history().offline.get_mut(user).unwrap().set(Certainty::Maybe);
        self.post_accepted("/events", &event).await;
        self.history().offline.get_mut(user).unwrap().set(becomes);
    }

    /// Waits until all notifications of a user are delivered, but not longer than `longest`: a retry may be minutes
    /// away.
    pub async fn settle(&self, user: &str, longest: Duration) -> bool {
        let done = async {
            while !self.history().is_done(user) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(longest, done).await.is_ok()
    }
}

/// The number of messages in a queue: visible, in flight and delayed.
pub async fn depth(harness: &Harness, queue: &str) -> Option<u64> {
    let sqs_url = harness.endpoints().await.sqs_url;
    let body = json!({"QueueUrl": format!("{sqs_url}/000000000000/{queue}"), "AttributeNames": ["All"]});
    let request = harness.http.post(sqs_url).header("x-amz-target", "AmazonSQS.GetQueueAttributes");
    let request = request.header("content-type", "application/x-amz-json-1.0").body(body.to_string());
    let answer: Value = request.send().await.ok()?.json().await.ok()?;
    let numbers = ["", "NotVisible", "Delayed"]
        .map(|kind| answer["Attributes"][format!("ApproximateNumberOfMessages{kind}")].as_str()?.parse::<u64>().ok());
    numbers.into_iter().sum()
}
