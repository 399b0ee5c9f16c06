//! The HTTP servers of the stack, with timeouts for clients. They are for the programs of this machine, and not for the
//! web sites that its browser shows.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum_server::{Handle, Server};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::sqs::MAX_SQS_REQUEST_BYTES;

/// The time that a client has to send a request.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the header, from the end of the previous request. Then the connection is closed.
    pub header: Duration,
    /// For the body. Then the response is 408.
    pub body: Duration,
}

/// Listens on a port of the loopback address; 0 is any free port.
pub async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("port {port} is taken: another program listens there. Choose another one with --port")
        }
        bound => bound.with_context(|| format!("cannot listen on port {port}")),
    }
}

/// Returns the base URL of a listener, such as `http://127.0.0.1:8080`.
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Serves HTTP/1.1 to this machine alone until `stopped`, then finishes the requests in progress.
pub fn serve<F>(tasks: &mut JoinSet<()>, listener: TcpListener, router: Router, timeouts: Timeouts, stopped: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let router = router.layer(from_fn_with_state(timeouts.body, with_whole_body)).layer(from_fn(not_of_another_site));
    let router = router.into_make_service();
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
            tracing::error!(%error, "an HTTP server failed");
        }
    });
}

/// Forwards a request when its body has arrived. The routes have lower limits, or the same as SQS.
async fn with_whole_body(State(longest): State<Duration>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match timeout(longest, to_bytes(body, MAX_SQS_REQUEST_BYTES)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(_)) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => {
            let reason = format!("the body did not arrive within {longest:?}");
            (StatusCode::REQUEST_TIMEOUT, [(header::CONNECTION, "close")], reason).into_response()
        }
    }
}

/// Refuses a request if its `Host` is no name of this machine (DNS rebinding), or if another site makes it.
async fn not_of_another_site(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = text(headers, &header::HOST).and_then(|host| host.parse::<Authority>().ok());
    if !host.is_some_and(|host| is_this_machine(host.host())) {
        return (StatusCode::MISDIRECTED_REQUEST, "the host is no name of this machine").into_response();
    }
    // A link of another site may lead to the page itself.
    let is_link = request.method() == Method::GET && request.uri().path() == "/";
    if !is_link && is_of_another_site(headers) {
        return (StatusCode::FORBIDDEN, "another site makes this request").into_response();
    }
    next.run(request).await
}

/// Returns whether a host is a name of loopback, or the name that Docker or Podman gives this machine in a container.
/// No site of others can have one of them. 0.0.0.0 is none of them: a browser does not say which site calls it there.
fn is_this_machine(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    address.is_some_and(|address| address.is_loopback())
        || matches!(host.as_str(), "localhost" | "host.docker.internal" | "host.containers.internal")
        || host.ends_with(".localhost")
}

/// A browser names the site that makes a request: in `Sec-Fetch-Site`, and before it knew this header in `Origin`. Other
/// programs have neither.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let origin = text(headers, &header::ORIGIN).map(|origin| origin.parse::<Uri>().ok());
    origin.is_some_and(|origin| !origin.is_some_and(|origin| origin.host().is_some_and(is_this_machine)))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
