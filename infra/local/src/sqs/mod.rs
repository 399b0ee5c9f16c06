//! Amazon SQS on one machine: standard queues in one SQLite file, behind the protocol that the AWS SDKs speak.
//!
//! Behaviour follows the *Amazon SQS API Reference*
//! (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/>). Looser than AWS: `PurgeQueue` may be
//! called as often as one likes, and any number of messages may be in flight. `MessageSystemAttributes` are accepted and
//! not kept; FIFO queues are refused.

mod attributes;
mod batch;
mod clock;
mod error;
mod fairness;
mod message_attributes;
mod operation;
mod queue_operations;
mod receipts;
mod receive;
mod send;
mod store;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

pub use attributes::QueueAttributes;
use batch::{BatchRequest, SingleRequest};
pub use clock::Clock;
pub use error::Error;
use error::JSON_1_0;
use operation::Operation;
use queue_operations::{CreateQueue, GetQueueAttributes, GetQueueUrl, ListQueues, PurgeQueue, SetQueueAttributes};
use receipts::{ChangeMessageVisibility, DeleteMessage};
use receive::ReceiveMessage;
use send::SendMessage;
use store::QueueStore;

/// A message of 1 MiB is longer on the wire: JSON writes a quote as two bytes, and some clients `<` as six.
pub(crate) const MAX_SQS_REQUEST_BYTES: usize = 8 << 20;

/// An SQS server: clones share its queues.
#[derive(Clone)]
pub struct Sqs {
    store: Arc<Mutex<QueueStore>>,
}

impl Sqs {
    /// Opens the file that holds the queues, or creates it in a directory that exists; without a path they live in
    /// memory.
    ///
    /// What `SendMessage` has answered for is in the file: it survives the process, however that ends.
    ///
    /// # Errors
    /// When the file can't be opened or isn't a database of this module.
    pub fn open(path: Option<&Path>, clock: Clock) -> Result<Self, Error> {
        let store = Arc::new(Mutex::new(QueueStore::open(path, clock)?));
        Ok(Self { store })
    }

    /// Creates a queue, or gives the one that the file already holds these attributes: its messages stay.
    ///
    /// Unlike [CreateQueue], for which other attributes are an error, so that a changed setting takes effect at the
    /// next start.
    ///
    /// [CreateQueue]: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
    ///
    /// # Errors
    /// When SQS would refuse the name or an attribute, or the dead-letter queue doesn't exist yet.
    pub fn create_queue(&self, name: &str, attributes: QueueAttributes) -> Result<(), Error> {
        self.store().put_queue(name, attributes)
    }

    /// Shows all messages of a queue that were received and neither deleted nor shown again, for a caller who knows that
    /// those who received them are gone. AWS would wait for the visibility timeout.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn release(&self, name: &str) -> Result<(), Error> {
        self.store().release(name)
    }

    /// The endpoint, for the caller to serve: `POST /` as in [Making requests with the AWS JSON protocol]. Any
    /// credentials will do.
    ///
    /// [Making requests with the AWS JSON protocol]: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", routing::post(serve))
            .layer(DefaultBodyLimit::max(MAX_SQS_REQUEST_BYTES))
            .with_state(self.clone())
    }

    /// Held for well under a millisecond, or some if a noisy group has a long backlog, and never over an await, so that no
    /// blocking thread is needed.
    fn store(&self) -> MutexGuard<'_, QueueStore> {
        // What a panic interrupted was rolled back with its transaction.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<O: Operation>(&self, host: &str, body: &[u8]) -> Result<Response, Error> {
        let operation: O = serde_json::from_slice(body).map_err(Error::Malformed)?;
        let answer = operation.run(&mut self.store(), host)?;
        Ok(json(&answer))
    }

    async fn receive(&self, body: &[u8]) -> Result<Response, Error> {
        let request: ReceiveMessage = serde_json::from_slice(body).map_err(Error::Malformed)?;
        let (wake, wait) = self.store().poll(&request)?;
        let deadline = Instant::now() + wait;
        loop {
            // Before the look, so that a message sent just after it isn't missed.
            let woken = wake.notified();
            let (received, next_visible) = self.store().receive(&request)?;
            let now = Instant::now();
            if !received.messages.is_empty() || now >= deadline {
                return Ok(json(&received));
            }
            let until = next_visible.map_or(deadline, |next| deadline.min(now + next));
            // Woken or out of time, the answer is to look again.
            let _ = timeout_at(until, woken).await;
        }
    }
}

async fn serve(State(sqs): State<Sqs>, headers: HeaderMap, body: Bytes) -> Result<Response, Error> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = header(HOST.as_str()).unwrap_or("localhost");
    let target = header("x-amz-target").unwrap_or_default();
    match target.strip_prefix("AmazonSQS.").unwrap_or_default() {
        "CreateQueue" => sqs.run::<CreateQueue>(host, &body),
        "GetQueueUrl" => sqs.run::<GetQueueUrl>(host, &body),
        "GetQueueAttributes" => sqs.run::<GetQueueAttributes>(host, &body),
        "SetQueueAttributes" => sqs.run::<SetQueueAttributes>(host, &body),
        "ListQueues" => sqs.run::<ListQueues>(host, &body),
        "PurgeQueue" => sqs.run::<PurgeQueue>(host, &body),
        "SendMessage" => sqs.run::<SingleRequest<SendMessage>>(host, &body),
        "SendMessageBatch" => sqs.run::<BatchRequest<SendMessage>>(host, &body),
        "ReceiveMessage" => sqs.receive(&body).await,
        "DeleteMessage" => sqs.run::<SingleRequest<DeleteMessage>>(host, &body),
        "DeleteMessageBatch" => sqs.run::<BatchRequest<DeleteMessage>>(host, &body),
        "ChangeMessageVisibility" => sqs.run::<SingleRequest<ChangeMessageVisibility>>(host, &body),
        "ChangeMessageVisibilityBatch" => sqs.run::<BatchRequest<ChangeMessageVisibility>>(host, &body),
        _ => Err(Error::UnknownOperation(target.to_owned())),
    }
}

fn json(answer: &impl Serialize) -> Response {
    match serde_json::to_vec(answer) {
        Ok(body) => ([(CONTENT_TYPE, JSON_1_0)], body).into_response(),
        Err(error) => Error::Stored(error).into_response(),
    }
}
