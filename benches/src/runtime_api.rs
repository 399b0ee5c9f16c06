//! A double of Lambda's Runtime API for one process of a function ("Using the Lambda runtime API for custom runtimes").

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The timeout of an invocation, even under valgrind.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A function's response to an invocation, or its error.
type Answer = Result<Bytes, Bytes>;

/// The Runtime API of one process.
pub struct RuntimeApi {
    /// The address, for `AWS_LAMBDA_RUNTIME_API`.
    pub address: SocketAddr,
    invocations: mpsc::UnboundedSender<Invocation>,
    asked: watch::Receiver<Option<Instant>>,
    _server: JoinSet<()>,
}

struct Invocation {
    event: Vec<u8>,
    answer: oneshot::Sender<Answer>,
}

struct Shared {
    waiting: Mutex<mpsc::UnboundedReceiver<Invocation>>,
    running: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_id: AtomicU64,
    asked: watch::Sender<Option<Instant>>,
}

impl RuntimeApi {
    /// Starts the server on a free port.
    pub async fn start() -> anyhow::Result<Self> {
        let (invocations, waiting) = mpsc::unbounded_channel();
        let (asked_sender, asked) = watch::channel(None);
        let shared = Arc::new(Shared {
            waiting: Mutex::new(waiting),
            running: Mutex::default(),
            next_id: AtomicU64::default(),
            asked: asked_sender,
        });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .with_state(shared);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the Runtime API stopped: {error}");
            }
        });
        Ok(Self { address, invocations, asked, _server: server })
    }

    /// The time at which the function asked for its first event.
    pub async fn first_next(&self) -> anyhow::Result<Instant> {
        let mut asked = self.asked.clone();
        let asked = timeout(TIMEOUT, asked.wait_for(Option::is_some)).await;
        asked.context("the function never asked for an event")??.context("it asked")
    }

    /// Invokes the function with each event, one after the other, and returns its responses.
    pub async fn invoke(&self, events: Vec<Vec<u8>>) -> anyhow::Result<Vec<Bytes>> {
        let mut answers = Vec::with_capacity(events.len());
        for event in events {
            let (answer, answered) = oneshot::channel();
            self.invocations.send(Invocation { event, answer }).map_err(|_| anyhow!("the Runtime API stopped"))?;
            answers.push(answered);
        }
        let mut responses = Vec::with_capacity(answers.len());
        for answer in answers {
            let answer = timeout(TIMEOUT, answer).await.context("the function does not answer")??;
            responses
                .push(answer.map_err(|error| anyhow!("the function failed: {}", String::from_utf8_lossy(&error)))?);
        }
        Ok(responses)
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> Result<Response<Body>, StatusCode> {
    shared.asked.send_if_modified(|asked| asked.replace(Instant::now()).is_none());
    let Invocation { event, answer } = shared.waiting.lock().await.recv().await.ok_or(StatusCode::GONE)?;
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    shared.running.lock().await.insert(id, answer);
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + TIMEOUT;
    let function = "arn:aws:lambda:us-east-1:000000000000:function:pushlark";
    let trace = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0";
    Response::builder()
        .header("Content-Type", "application/json")
        .header("Lambda-Runtime-Aws-Request-Id", id)
        .header("Lambda-Runtime-Deadline-Ms", deadline.as_millis().to_string())
        .header("Lambda-Runtime-Invoked-Function-Arn", function)
        .header("Lambda-Runtime-Trace-Id", trace)
        .body(Body::from(event))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn response(State(shared): State<Arc<Shared>>, Path(id): Path<u64>, body: Bytes) -> StatusCode {
    answered(&shared, id, Ok(body)).await
}

async fn error(State(shared): State<Arc<Shared>>, Path(id): Path<u64>, body: Bytes) -> StatusCode {
    answered(&shared, id, Err(body)).await
}

async fn answered(shared: &Shared, id: u64, answer: Answer) -> StatusCode {
    match shared.running.lock().await.remove(&id).map(|waiting| waiting.send(answer)) {
        Some(Ok(())) => StatusCode::ACCEPTED,
        _ => StatusCode::BAD_REQUEST,
    }
}
