//! A double of MongoosePush that fails three times in ten.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::harness::Harness;
use crate::history::Attempt;

/// A push service with MongoosePush's API and random failures.
#[derive(Clone)]
pub struct FaultyPushService {
    harness: Harness,
    rng: Arc<Mutex<Rng>>,
    /// Whether the failures have ended.
    pub is_reliable: Arc<AtomicBool>,
}

/// A reply to a request.
enum Reply {
    /// A status after a delay.
    Answer(u16, Duration),
    /// The connection is closed without a response.
    Reset,
    /// The connection stays open without a response.
    Hang,
}

impl FaultyPushService {
    fn reply(&self) -> Reply {
        if self.is_reliable.load(Ordering::SeqCst) {
            return Reply::Answer(200, Duration::ZERO);
        }
        let mut rng = self.rng.lock().unwrap();
        match rng.u32(0..100) {
            0..8 => Reply::Answer(503, Duration::ZERO),
            8..14 => Reply::Answer(500, Duration::ZERO),
            14..20 => Reply::Answer(429, Duration::ZERO),
            20..28 => Reply::Reset,
            28..30 => Reply::Hang,
            30..40 => Reply::Answer(200, Duration::from_millis(rng.u64(0..500))),
            _ => Reply::Answer(200, Duration::ZERO),
        }
    }

    /// Handles a request. An error closes the connection.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let device = request.uri().path().rsplit('/').next().unwrap();
        let device = percent_decode_str(device).decode_utf8_lossy().into_owned();
        if request.method() == "HEAD" {
            // The worker opens its connections when it starts.
            return Ok(Response::default());
        }
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let notification: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = notification["alert"]["body"].as_str().unwrap_or_default().to_owned();
        let reply = self.reply();
        let index = {
            let hung = matches!(reply, Reply::Hang);
            let mut history = self.harness.history();
            history.attempts.push(Attempt { device, text, notification, at: Instant::now(), delivered: false, hung });
            history.attempts.len() - 1
        };
        let (status, delay) = match reply {
            Reply::Answer(status, delay) => (status, delay),
            Reply::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Reply::Hang => std::future::pending().await,
        };
        // If the stack dies in the meantime, this future is dropped here.
        sleep(delay).await;
        let mut response = Response::builder().status(status);
        match status {
            200 => {
                let mut history = self.harness.history();
                let attempt = &mut history.attempts[index];
                attempt.delivered = true;
                let (key, at) = ((attempt.text.clone(), attempt.device.clone()), attempt.at);
                history.delivered.entry(key).or_insert(at);
            }
            429 => response = response.header("retry-after", "1"),
            _ => {}
        }
        response.body(Full::default()).map_err(io::Error::other)
    }

    pub async fn start(harness: Harness, rng: Rng) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = Self { harness, rng: Arc::new(Mutex::new(rng)), is_reliable: Arc::default() };
        let accepting = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = accepting.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |request| {
                        let service = service.clone();
                        async move { service.answer(request).await }
                    });
                    // A reset connection is an error here.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        (service, url)
    }
}
