//! Doubles of the services that Pushlark calls: each checks requests as the service does, and answers as its
//! documentation says. A double listens on a loopback port by HTTP/1.1 and by HTTP/2, without TLS unless it says so;
//! [`TlsProxy`] adds TLS.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod apns;
mod aws_documents;
mod canary;
mod document_server;
mod fcm;
mod gateway;
mod lambda;
mod rest;
mod secrets_manager;
mod sns;
mod tls;
mod tls_proxy;
mod web_push;

pub use apns::{APNS_KEY, APNS_KEY_ID, APNS_KEY_SEC1, APNS_NEW_KEY, APNS_TEAM, APNS_TOPIC, Apns, apns_error};
pub use aws_documents::AwsDocuments;
pub use canary::{CANARY, canary, contains_canary, name_of};
pub use document_server::DocumentServer;
pub use fcm::{
    Fcm, GOOGLE_CLIENT, GOOGLE_KEY, GOOGLE_KEY_PKCS1, GOOGLE_NEW_KEY, GOOGLE_PROJECT, fcm_device_quota, fcm_error,
    fcm_project_quota, fcm_too_big,
};
pub use gateway::Gateway;
pub use lambda::{Behaviour, Handler, Lambda};
pub use rest::Rest;
pub use secrets_manager::SecretsManager;
pub use sns::{SNS_SIGNED_BY_SHA1, Sns};
pub use tls::{CA_FILE, tls_acceptor};
pub use tls_proxy::TlsProxy;
pub use web_push::{Subscriber, WebPush};

use std::collections::{HashMap, HashSet, VecDeque};
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
use tokio_rustls::TlsAcceptor;

/// The base of all doubles: records the requests, and lets a test choose the answers.
#[derive(Clone)]
pub struct Double {
    /// The base URL, such as `http://127.0.0.1:8080`.
    pub url: String,
    state: Arc<Mutex<State>>,
    hold: Hold,
    running: Running,
}

/// The time between the arrival of a request and its answer.
#[derive(Clone)]
pub struct Hold(Arc<watch::Sender<Duration>>);

impl Default for Hold {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Duration::ZERO)))
    }
}

impl Hold {
    /// A day: longer than any test runs.
    pub const FOREVER: Duration = Duration::from_hours(24);

    /// Changes the time, also for the requests that wait now.
    pub fn set(&self, hold: Duration) {
        self.0.send_replace(hold);
    }

    /// Waits until a request that arrives now is to be answered.
    pub async fn wait(&self) {
        let (arrival, mut hold) = (Instant::now(), self.0.subscribe());
        loop {
            let end = arrival + *hold.borrow_and_update();
            // An error means that the time is over; a success means that it was changed.
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
    /// The answers to the next requests, for any device.
    answers: VecDeque<Answer>,
    /// After these, the answers to the next requests for a device.
    next_of_devices: HashMap<String, VecDeque<Answer>>,
    /// After these, the answer to all requests for a device.
    devices: HashMap<String, Answer>,
    /// The devices whose notifications are never answered.
    silent: HashSet<String>,
    counts_only: bool,
    arrived: u64,
    arrivals: Vec<String>,
    connections: Vec<AbortHandle>,
}

/// A request that the double received, with its response.
#[derive(Debug, Clone)]
pub struct Request {
    /// The HTTP method of the request.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The headers of the request.
    pub headers: HeaderMap,
    /// The body of the request, unchanged.
    pub body: Bytes,
    /// The number of its connection, from 0.
    pub connection: usize,
    /// The time at which the request arrived.
    pub at: Instant,
    /// The name of its device, without the canary.
    pub device: String,
    /// The status of the response.
    pub status: u16,
}

/// An HTTP response of a double.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    /// Returns a header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Answer {
    /// Makes an answer with a JSON body.
    pub fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string() }
    }

    /// Makes an answer with a text body.
    pub fn text(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Adds a header to the response.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl Double {
    /// Listens on a free port, with at most `streams` requests side by side on one connection. `check` gets the
    /// double's URL and a request, and returns the request's device (empty: the request is no notification) and the
    /// service's answer.
    async fn start(streams: u32, check: impl Fn(&str, &Request) -> (String, Answer) + Send + Sync + 'static) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), None, streams, check)
    }

    /// The same, with TLS and a certificate of the issuer in [`CA_FILE`].
    async fn start_with_tls(
        streams: u32,
        check: impl Fn(&str, &Request) -> (String, Answer) + Send + Sync + 'static,
    ) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), Some(tls_acceptor()), streams, check)
    }

    /// The same, on the address of `listener`, with TLS if there is an acceptor.
    fn serve(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        streams: u32,
        check: impl Fn(&str, &Request) -> (String, Answer) + Send + Sync + 'static,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let double = Self { url, state: Arc::default(), hold: Hold::default(), running: Running::default() };
        let (accepting, check) = (double.clone(), Arc::new(check));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = accepting.state().connections.len();
                let (double, check, tls) = (accepting.clone(), Arc::clone(&check), tls.clone());
                let serving = tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (double, check) = (double.clone(), Arc::clone(&check));
                        async move { double.answer(request, connection, &*check).await }
                    });
                    let mut builder = Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(streams);
                    // The client may close the connection at any time, or not trust the certificate.
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(builder.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
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
        // Other requests, such as one for an access token, have no device.
        let is_notification = !device.is_empty();
        let is_silent;
        {
            let mut state = self.state();
            is_silent = state.silent.contains(&device);
            if is_notification && answer.status < 300 {
                let mut chosen = state.answers.pop_front();
                if chosen.is_none() {
                    chosen = state.next_of_devices.get_mut(&device).and_then(VecDeque::pop_front);
                }
                let chosen = chosen.or_else(|| state.devices.get(&device).cloned());
                answer = chosen.unwrap_or(answer);
            }
            state.arrived += u64::from(is_notification);
            if is_notification && !state.counts_only {
                state.arrivals.push(device.clone());
            }
        }
        let running = self.running.begin();
        if is_notification {
            self.hold.wait().await;
        }
        if is_silent {
            std::future::pending::<()>().await;
        }
        drop(running);
        if is_notification {
            let mut state = self.state();
            state.count += 1;
            (request.device, request.status) = (device, answer.status);
            if !state.counts_only {
                state.requests.push(request);
            }
        }
        let mut response = Response::builder().status(answer.status);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        Ok(response.body(answer.body.into()).unwrap())
    }

    /// Sets the answer to all later notifications for a device.
    pub fn device_answers(&self, device: &str, answer: Answer) {
        self.state().devices.insert(device.into(), answer);
    }

    /// Leaves all later notifications for a device without an answer.
    pub fn device_never_answers(&self, device: &str) {
        self.state().silent.insert(device.into());
    }

    /// Accepts notifications for a device again.
    pub fn device_recovers(&self, device: &str) {
        self.state().devices.remove(device);
    }

    /// Sets the answer to the next notification for a device.
    pub fn device_answers_next(&self, device: &str, answer: Answer) {
        self.state().next_of_devices.entry(device.into()).or_default().push_back(answer);
    }

    /// Sets the answer to the next notification for any device.
    pub fn answer_next(&self, answer: Answer) {
        self.state().answers.push_back(answer);
    }

    /// Delays the answer to each notification by this time, also to those that wait for their answer.
    pub fn hold(&self, hold: Duration) {
        self.hold.set(hold);
    }

    /// Counts later requests without recording them.
    pub fn count_only(&self) {
        self.state().counts_only = true;
    }

    /// Returns the number of notifications that arrived, answered or not.
    pub fn arrived(&self) -> u64 {
        self.state().arrived
    }

    /// Returns the devices of the notifications that arrived, answered or not, the oldest first.
    pub fn arrivals(&self) -> Vec<String> {
        self.state().arrivals.clone()
    }

    /// Returns the number of notifications that were answered.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    /// Returns the answered notifications, accepted or not, in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Returns the notifications for a device that were accepted.
    pub fn accepted(&self, device: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.device == device && request.status < 300);
        requests
    }

    /// Returns the number of connections that were opened.
    pub fn connections(&self) -> usize {
        self.state().connections.len()
    }

    /// Returns the largest number of requests that were answered side by side.
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

/// Counts the requests that are answered side by side.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<(usize, usize)>>);

impl Running {
    /// Counts a request until the returned value is dropped. It is also dropped if the client closes the connection.
    pub fn begin(&self) -> RunningRequest {
        let mut counts = self.0.lock().unwrap();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        RunningRequest(self.clone())
    }

    /// Returns the largest number so far.
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

/// Returns the seconds since 1970.
fn seconds_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
