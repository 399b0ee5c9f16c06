//! A double of MongoosePush that keeps the notifications that are posted to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::page::{Content, Live};

/// The number of notifications that are kept.
const MAX_NOTIFICATIONS: usize = 1_000;
/// The largest notification for APNs and FCM, in bytes.
const MAX_FORWARDED_BYTES: usize = 4_096;

/// The posted notifications, and the responses for single devices. Both are added to the page, too.
#[derive(Debug, Clone)]
pub struct Sink {
    state: Arc<Mutex<SinkState>>,
    live: Live,
}

#[derive(Debug, Default)]
struct SinkState {
    /// Newest first.
    notifications: VecDeque<Arc<SinkNotification>>,
    responses: HashMap<String, DeviceResponse>,
}

/// A notification that was posted, with the status of the response.
#[derive(Debug, Clone, Serialize)]
pub struct SinkNotification {
    device_id: String,
    api: String,
    received_at: String,
    status: u16,
    notification: Value,
}

/// The status of the responses for a device.
#[derive(Debug, Serialize)]
pub struct DeviceAnswer {
    pub device_id: String,
    pub status: u16,
}

#[derive(Debug, Clone, Deserialize)]
struct DeviceResponse {
    status: u16,
    #[serde(default)]
    body: Value,
    #[serde(default)]
    delay_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Filter {
    device_id: Option<String>,
}

impl Sink {
    /// An empty sink, which adds to `live`.
    pub fn new(live: Live) -> Self {
        Self { state: Arc::default(), live }
    }

    /// `POST /{v2|v3}/notification/{device_id}`, `GET /notifications`, `PUT /devices/{device_id}`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/{api}/notification/{device_id}", post(notify))
            .route("/notifications", get(list))
            .route("/devices/{device_id}", put(set_response))
            .with_state(self)
    }

    fn state(&self) -> MutexGuard<'_, SinkState> {
        // Each change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn notify(
    State(sink): State<Sink>,
    Path((api, device_id)): Path<(String, String)>,
    Json(notification): Json<Value>,
) -> Response {
    if !matches!(api.as_str(), "v2" | "v3") {
        return StatusCode::NOT_FOUND.into_response();
    }
    let refusal = refusal(&api, &notification);
    let response = refusal.or_else(|| sink.state().responses.get(&device_id).cloned());
    let DeviceResponse { status, body, delay_ms } =
        response.unwrap_or_else(|| DeviceResponse { status: 200, body: json!("OK"), delay_ms: 0 });
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    println!("  {device_id} ({status}) {}", described(&notification));
    let received_at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let notification = Arc::new(SinkNotification { device_id, api, received_at, status, notification });
    sink.live.add(Content::Notification(Arc::clone(&notification)));
    let mut state = sink.state();
    state.notifications.push_front(notification);
    state.notifications.truncate(MAX_NOTIFICATIONS);
    drop(state);
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(body)).into_response()
}

/// MongoosePush's response if APNs or FCM refuses its version of a notification.
fn refusal(api: &str, notification: &Value) -> Option<DeviceResponse> {
    let is_apns = notification["service"] == "apns";
    let mut names = notification["data"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let is_reserved = |name: &str| {
        let is_word = matches!(name, "from" | "message_type" | "collapse_key");
        is_word || name.starts_with("google") || name.starts_with("gcm")
    };
    let is_too_large = forwarded(notification).to_string().len() > MAX_FORWARDED_BYTES;
    let (status, reason) = match (is_apns, is_too_large) {
        (true, true) if api == "v3" => (413, "payload_too_large"),
        (true, true) => (500, "PayloadTooLarge"),
        (true, false) => return None,
        (false, false) if !names.any(is_reserved) => return None,
        (false, _) if api == "v3" => (400, "invalid_request"),
        (false, _) => (500, "INVALID_ARGUMENT"),
    };
    let field = if api == "v3" { "reason" } else { "details" };
    Some(DeviceResponse { status, body: json!({field: reason}), delay_ms: 0 })
}

/// The payload that MongoosePush sends to APNs, or to FCM as the `android` of a message (its `service/apns.ex` and
/// `service/fcm.ex`).
fn forwarded(notification: &Value) -> Value {
    let alert = &notification["alert"];
    let given = |of: &Value, names: &[(&str, &str)]| -> Map<String, Value> {
        let field = |(from, to): &(&str, &str)| Some(((*to).to_owned(), of.get(from)?.clone()));
        names.iter().filter_map(field).collect()
    };
    if notification["service"] != "apns" {
        let shown = ["title", "body", "click_action", "tag", "sound"].map(|name| (name, name));
        let mut android = given(notification, &[("priority", "priority"), ("data", "data")]);
        android.insert("notification".into(), given(alert, &shown).into());
        android.extend(notification["time_to_live"].as_u64().map(|ttl| ("ttl".into(), format!("{ttl}s").into())));
        return android.into();
    }
    let mut aps = given(alert, &[("badge", "badge"), ("click_action", "category"), ("sound", "sound")]);
    match alert {
        Value::Null => aps.insert("content-available".into(), 1.into()),
        alert => aps.insert("alert".into(), given(alert, &[("title", "title"), ("body", "body")]).into()),
    };
    if notification["mutable_content"] == true {
        aps.insert("mutable-content".into(), 1.into());
    }
    let mut payload = notification["data"].as_object().cloned().unwrap_or_default();
    payload.insert("aps".into(), aps.into());
    payload.into()
}

/// A summary of a notification for the terminal.
fn described(notification: &Value) -> String {
    let service = notification["service"].as_str().unwrap_or("?");
    let (title, body) = (&notification["alert"]["title"], &notification["alert"]["body"]);
    match (title.as_str(), body.as_str()) {
        (Some(title), Some(body)) => {
            format!("{service} alert, badge {}: {title}: {body}", notification["alert"]["badge"])
        }
        _ => format!("{service} data: {}", notification["data"]),
    }
}

async fn list(State(sink): State<Sink>, Query(filter): Query<Filter>) -> Json<Vec<SinkNotification>> {
    let wanted = |notification: &&Arc<SinkNotification>| {
        filter.device_id.as_ref().is_none_or(|device| notification.device_id == *device)
    };
    Json(sink.state().notifications.iter().filter(wanted).map(|one| SinkNotification::clone(one)).collect())
}

async fn set_response(
    State(sink): State<Sink>,
    Path(device_id): Path<String>,
    Json(response): Json<DeviceResponse>,
) -> (StatusCode, &'static str) {
    if !(200..=599).contains(&response.status) {
        return (StatusCode::BAD_REQUEST, "status must be between 200 and 599");
    }
    sink.live.add(Content::Device(DeviceAnswer { device_id: device_id.clone(), status: response.status }));
    sink.state().responses.insert(device_id, response);
    (StatusCode::NO_CONTENT, "")
}
