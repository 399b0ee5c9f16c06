//! A double of the functions.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::TEST_TIMEOUT;

/// A function with fixed answers that records its requests.
#[derive(Clone)]
pub struct FunctionDouble {
    pub url: String,
    /// The headers and bodies of the handled requests.
    pub posted: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    /// The status and body of its answers.
    pub answer: Arc<Mutex<(u16, String)>>,
    /// The `Retry-After` of its answers.
    pub retry_after: Arc<Mutex<Option<&'static str>>>,
    /// One permit for each request that has arrived.
    pub begun: Arc<Semaphore>,
    /// While this is locked, requests are not handled.
    pub held: Arc<tokio::sync::Mutex<()>>,
}

impl FunctionDouble {
    pub async fn start() -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn at(listener: TcpListener) -> Self {
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answer = (200, "<iq type='result' id='any' from='x' to='y'/>".to_owned());
        let function = Self {
            url,
            posted: Arc::default(),
            answer: Arc::new(Mutex::new(answer)),
            retry_after: Arc::default(),
            begun: Arc::new(Semaphore::new(0)),
            held: Arc::default(),
        };
        let router = Router::new().route("/", post(Self::answer)).with_state(function.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        function
    }

    pub async fn answer(
        State(function): State<Self>,
        headers: HeaderMap,
        body: String,
    ) -> (StatusCode, HeaderMap, String) {
        function.begun.add_permits(1);
        let _held = function.held.lock().await;
        function.posted.lock().unwrap().push((headers, body));
        let (status, body) = function.answer.lock().unwrap().clone();
        let retry_after = function.retry_after.lock().unwrap().map(|value| ("retry-after".parse().unwrap(), value));
        let is_problem = body.starts_with('{');
        let problem = is_problem.then(|| ("content-type".parse().unwrap(), "application/problem+json"));
        let headers =
            retry_after.into_iter().chain(problem).map(|(name, value)| (name, value.parse().unwrap())).collect();
        (StatusCode::from_u16(status).unwrap(), headers, body)
    }

    /// Waits until `times` requests are handled.
    pub async fn posted(&self, times: usize) -> Vec<(HeaderMap, String)> {
        let posted = async {
            while self.posted.lock().unwrap().len() < times {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(TEST_TIMEOUT, posted).await.unwrap();
        self.posted.lock().unwrap().clone()
    }

    /// The distinct bodies of the posted messages, and the number of posts.
    pub fn bodies(&self) -> (BTreeSet<String>, usize) {
        let posted = self.posted.lock().unwrap();
        let body = |(_, message): &(HeaderMap, String)| {
            message.split("<body>").nth(1).unwrap().split("</body>").next().unwrap().to_owned()
        };
        (posted.iter().map(body).collect(), posted.len())
    }

    pub fn answers(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = (status, body.into());
    }
}
