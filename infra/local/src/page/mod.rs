//! The page of the stack, and the stream that it follows.
//!
//! `GET /live` is a stream of server-sent events. A follower that sends `Last-Event-ID` gets each entry after that one
//! which is still kept (the last 2,000), any other follower all of them; then each new one. The data is JSON:
//!
//! | event | data |
//! | --- | --- |
//! | `stack` | the first event, without an id: `{"is_resumed", "needs_secret"}`; `is_resumed` is false if the entries begin anew |
//! | `log` | a log line at `info` and above: `{"time", "level", "target", "message", ...fields}` |
//! | `step` | the same of a line at `debug` with a step of a decision |
//! | `request` | a request to a function: `{"time", "function", "format", "status"}`, with `problem`, or `accepted` and `events`, or the fields of the command |
//! | `notification` | a notification at the push service double, as `GET /sink/notifications` lists it |
//! | `device` | the answer of the double for a device from then on: `{"time", "device_id", "status"}` |
//!
//! As every path of the stack, they refuse the requests of other sites (see `server`).

mod live;
mod log_lines;
mod registrations;
mod requests;

pub use live::{Content, Live};

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream::{self, Stream, StreamExt};
use pushlark_events::Sources;
use pushlark_settings::catalogue::WEBHOOK_SECRET;
use pushlark_settings::{Environment, SettingError};
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tracing::Level;

use live::{Entry, Follower};
use registrations::Registrations;

/// Nothing but the page's own files and requests. Texts of others are never markup, and no other page may frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                                       require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The files of the page: path, media type and content.
const FILES: [(&str, &str, &str); 6] = [
    ("/", HTML, include_str!("index.html")),
    ("/page/style.css", CSS, include_str!("style.css")),
    ("/page/main.js", JAVASCRIPT, include_str!("main.js")),
    ("/page/view.js", JAVASCRIPT, include_str!("view.js")),
    ("/page/forms.js", JAVASCRIPT, include_str!("forms.js")),
    ("/page/icon.svg", SVG, include_str!("icon.svg")),
];

/// The page of one stack.
#[derive(Clone)]
pub struct Page(Arc<Shared>);

struct Shared {
    live: Live,
    sources: Sources,
    registrations: Registrations,
    needs_secret: bool,
    stopped: watch::Receiver<bool>,
}

impl Page {
    /// Reads `WEBHOOK_SECRET` and the settings of [`Sources`] and [`Registrations`]. `sink` is the URL of the push
    /// service double. Streams end when the stack is `stopped`.
    pub fn from_environment(
        environment: &Environment,
        live: &Live,
        dynamodb: &Client,
        sink: &str,
        stopped: watch::Receiver<bool>,
    ) -> Result<Self, SettingError> {
        Ok(Self(Arc::new(Shared {
            live: live.clone(),
            sources: Sources::from_environment(environment)?,
            registrations: Registrations::from_environment(environment, dynamodb, sink)?,
            needs_secret: environment.value(&WEBHOOK_SECRET)?.is_some(),
            stopped,
        })))
    }

    /// Adds the requests to the functions behind `routes` to the entries.
    pub fn watch(&self, routes: Router) -> Router {
        routes.layer(from_fn_with_state(self.0.live.clone(), requests::see))
    }

    /// `GET /`, the files under `/page`, `GET /live` and `GET /live/registrations`.
    pub fn router(self) -> Router {
        let files = FILES.into_iter().fold(Router::<Self>::new(), |router, (path, media_type, content)| {
            router.route(path, get(move || ready(([(header::CONTENT_TYPE, media_type)], content))))
        });
        files
            .route("/live", get(follow))
            .route("/live/registrations", get(list_registrations))
            .layer(from_fn(protected))
            .with_state(self)
    }
}

/// Keeps the responses out of caches, frames and other sites, and scripts of others out of the page.
async fn protected(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response.headers_mut().insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    response
}

async fn follow(State(Page(page)): State<Page>, headers: HeaderMap) -> impl IntoResponse {
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let follower = page.live.follow(last_id);
    let stack = json!({"is_resumed": follower.is_resumed(), "needs_secret": page.needs_secret});
    let first = Event::default().event("stack").data(stack.to_string());
    let events = stream::once(async { Ok(first) }).chain(events(page, follower));
    Sse::new(events).keep_alive(KeepAlive::default())
}

fn events(page: Arc<Shared>, follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((page, follower), |(page, mut follower)| async move {
        let mut stopped = page.stopped.clone();
        let entry = tokio::select! {
            entry = follower.next() => entry,
            _ = stopped.wait_for(|stopped| *stopped) => return None,
        };
        let event = page.event(&entry).await;
        Some((Ok(event), (page, follower)))
    })
}

async fn list_registrations(State(Page(page)): State<Page>) -> Response {
    match page.registrations.list().await {
        Ok(list) => Json(list).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("the table did not answer: {error}")).into_response(),
    }
}

impl Shared {
    async fn event(&self, entry: &Entry) -> Event {
        let (event, data) = match &entry.content {
            Content::Line(line) => {
                let event = if *line.metadata.level() <= Level::INFO { "log" } else { "step" };
                let mut data = Map::from_iter([
                    ("level".to_owned(), line.metadata.level().as_str().into()),
                    ("target".to_owned(), line.metadata.target().into()),
                ]);
                data.extend(line.fields.0.clone());
                (event, data)
            }
            Content::Request(request) => ("request", request.json(&self.sources).await),
            Content::Notification(notification) => ("notification", fields(&**notification)),
            Content::Device(answer) => ("device", fields(answer)),
        };
        let time = entry.at.format(&Rfc3339).unwrap_or_default();
        let data: Map<String, Value> = [("time".to_owned(), time.into())].into_iter().chain(data).collect();
        Event::default().event(event).id(self.live.id(entry)).data(Value::from(data).to_string())
    }
}

fn fields(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        // Neither type is anything but an object.
        _ => Map::new(),
    }
}
