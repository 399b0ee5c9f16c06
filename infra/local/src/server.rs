//! The HTTP servers of the stack, which wait for no client for ever.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum_server::{Handle, Server};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::sqs::MAX_SQS_REQUEST_BYTES;

/// How long a client may take to send a request.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The header, from the end of the request before; then the connection is closed.
    pub header: Duration,
    /// The body; then the answer is 408.
    pub body: Duration,
}

/// Serves HTTP/1.1 until `stopped`, and then answers what has begun.
pub fn serve<F>(tasks: &mut JoinSet<()>, listener: TcpListener, router: Router, timeouts: Timeouts, stopped: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let router = router.layer(from_fn_with_state(timeouts.body, with_whole_body)).into_make_service();
    let mut server = Server::<SocketAddr>::from_listener(listener).http1_only();
    server.http_builder().http1().header_read_timeout(timeouts.header);
    let handle = Handle::new();
    tasks.spawn(async move {
        let mut serving = pin!(server.handle(handle.clone()).serve(router));
        let served = tokio::select! {
            served = &mut serving => served,
            () = stopped => {
                handle.graceful_shutdown(None);
                serving.await
            }
        };
        if let Err(error) = served {
            tracing::error!(%error, "a server stopped");
        }
    });
}

/// Passes a request on once its body has arrived. The routes have limits of their own, none of them above that of SQS.
async fn with_whole_body(State(patience): State<Duration>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match timeout(patience, to_bytes(body, MAX_SQS_REQUEST_BYTES)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(_)) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => {
            let reason = format!("the body did not arrive within {patience:?}");
            (StatusCode::REQUEST_TIMEOUT, [(header::CONNECTION, "close")], reason).into_response()
        }
    }
}
