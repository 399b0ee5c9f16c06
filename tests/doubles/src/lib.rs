//! Doubles of push services, which check what the services check and answer as they document it. Each listens on a port
//! of loopback without TLS, and takes HTTP/2 with prior knowledge as well as HTTP/1.1.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod apns;
mod fcm;
mod mongoosepush;
mod planted;
mod published;
mod receiver;
mod rest;
mod sns;
mod web_push;

pub use apns::{
    APNS_KEY, APNS_KEY_ID, APNS_KEY_SEC1, APNS_NEW_KEY, APNS_TEAM, APNS_TOPIC, Apns, problem as apns_problem,
};
pub use fcm::{
    Fcm, GOOGLE_CLIENT, GOOGLE_KEY, GOOGLE_KEY_PKCS1, GOOGLE_NEW_KEY, GOOGLE_PROJECT, fcm_device_quota, fcm_error,
    fcm_project_quota, fcm_too_big,
};
pub use mongoosepush::MongoosePush;
pub use planted::{MARK, is_planted, name_of, planted};
pub use published::Published;
pub use receiver::Receiver;
pub use rest::Rest;
pub use sns::{SNS_SIGNED_BY_SHA1, Sns};
pub use web_push::{Subscriber, WebPush};

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

/// What all doubles have in common: what they were sent, and what they are told to answer.
#[derive(Clone)]
pub struct Double {
    /// Where it listens.
    pub url: String,
    state: Arc<Mutex<State>>,
    hold: Hold,
    running: Running,
}

/// How long a double waits before it answers a request, from the arrival of the request.
#[derive(Clone)]
pub struct Hold(Arc<watch::Sender<Duration>>);

impl Default for Hold {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Duration::ZERO)))
    }
}

impl Hold {
    /// Longer than any test runs.
    pub const FOREVER: Duration = Duration::from_hours(24);

    /// Changes the time, also for the requests that wait.
    pub fn set(&self, hold: Duration) {
        self.0.send_replace(hold);
    }

    /// Waits until it is time to answer a request that arrives now.
    pub async fn wait(&self) {
        let (arrival, mut hold) = (Instant::now(), self.0.subscribe());
        loop {
            let end = arrival + *hold.borrow_and_update();
            // An error is the end of the time; a success is a change of it.
            if Instant::now() >= end || timeout_at(end, hold.changed()).await.is_err() {
                return;
            }
        }
    }
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    count: u64,
    /// What the next requests are answered, …
    answers: VecDeque<Answer>,
    /// … what the next ones for a device are, …
    next_of_devices: HashMap<String, VecDeque<Answer>>,
    /// … and what all others for it are.
    devices: HashMap<String, Answer>,
    forgetful: bool,
    arrived: u64,
    connections: Vec<AbortHandle>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Which connection it came by.
    pub connection: usize,
    /// When it came.
    pub at: Instant,
    /// The device that it is for.
    pub device: String,
    /// What it was answered.
    pub status: u16,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Answer {
    /// An answer of JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string() }
    }

    /// An answer of any text.
    pub fn text(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// With a header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl Double {
    /// Listens; `check` tells what the service itself makes of a request: for which device it is, and what it is answered.
    async fn start(streams: u32, check: impl Fn(&str, &Request) -> (String, Answer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let double = Self { url, state: Arc::default(), hold: Hold::default(), running: Running::default() };
        let (accepting, check) = (double.clone(), Arc::new(check));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = accepting.state().connections.len();
                let (double, check) = (accepting.clone(), Arc::clone(&check));
                let serving = tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (double, check) = (double.clone(), Arc::clone(&check));
                        async move { double.answer(request, connection, &*check).await }
                    });
                    let mut builder = Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(streams);
                    // The client may go at any time.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
                accepting.state().connections.push(serving.abort_handle());
            }
        });
        double
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        connection: usize,
        check: &(impl Fn(&str, &Request) -> (String, Answer) + ?Sized),
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let (device, status) = (String::new(), 0);
        let (path, at) = (head.uri.path().to_owned(), Instant::now());
        let mut request =
            Request { method: head.method, path, headers: head.headers, body, connection, at, device, status };
        let (device, mut answer) = check(&self.url, &request);
        // What is not a notification, such as a token's request, is for no device.
        let is_notification = !device.is_empty();
        {
            let mut state = self.state();
            if is_notification && answer.status < 300 {
                let mut told = state.answers.pop_front();
                if told.is_none() {
                    told = state.next_of_devices.get_mut(&device).and_then(VecDeque::pop_front);
                }
                let told = told.or_else(|| state.devices.get(&device).cloned());
                answer = told.unwrap_or(answer);
            }
            state.arrived += u64::from(is_notification);
        }
        let running = self.running.begin();
        if is_notification {
            self.hold.wait().await;
        }
        drop(running);
        if is_notification {
            let mut state = self.state();
            state.count += 1;
            (request.device, request.status) = (device, answer.status);
            if !state.forgetful {
                state.requests.push(request);
            }
        }
        let mut response = Response::builder().status(answer.status);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        Ok(response.body(answer.body.into()).unwrap())
    }

    /// Answers so for a device from then on.
    pub fn device_answers(&self, device: &str, answer: Answer) {
        self.state().devices.insert(device.into(), answer);
    }

    /// Takes notifications for a device again.
    pub fn device_recovers(&self, device: &str) {
        self.state().devices.remove(device);
    }

    /// Answers so the next time for a device.
    pub fn device_answers_next(&self, device: &str, answer: Answer) {
        self.state().next_of_devices.entry(device.into()).or_default().push_back(answer);
    }

    /// Answers so the next time, whatever the device.
    pub fn answer_next(&self, answer: Answer) {
        self.state().answers.push_back(answer);
    }

    /// Takes so long for each notification, also for those that wait for their answer.
    pub fn hold(&self, hold: Duration) {
        self.hold.set(hold);
    }

    /// Only counts what comes, from then on.
    pub fn forget(&self) {
        self.state().forgetful = true;
    }

    /// How many notifications arrived, answered or not.
    pub fn arrived(&self) -> u64 {
        self.state().arrived
    }

    /// How many notifications were answered.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    /// The notifications that came, taken or not, in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The notifications for a device that were taken.
    pub fn taken(&self, device: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.device == device && request.status < 300);
        requests
    }

    /// How many connections were ever opened.
    pub fn connections(&self) -> usize {
        self.state().connections.len()
    }

    /// How many requests were ever answered side by side.
    pub fn most_running(&self) -> usize {
        self.running.most()
    }

    /// Closes all connections at once.
    pub fn cut_connections(&self) {
        self.state().connections.iter().for_each(AbortHandle::abort);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// How many requests are answered side by side.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<(usize, usize)>>);

impl Running {
    /// Counts a request until what is returned is dropped, as it is when the client goes.
    pub fn begin(&self) -> RunningRequest {
        let mut counts = self.0.lock().unwrap();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        RunningRequest(self.clone())
    }

    /// How many there ever were.
    pub fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

/// A request that is being answered.
pub struct RunningRequest(Running);

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().0 -= 1;
    }
}

/// The seconds since 1970.
fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
