//! A double of MongoosePush that keeps the notifications that it receives.

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

/// How many notifications are kept.
const CAPACITY: usize = 1_000;
/// The largest notification that APNs and FCM accept, in bytes.
const MAX_FORWARDED: usize = 4_096;

/// The received notifications, and the answer of each device.
#[derive(Debug, Clone, Default)]
pub struct Sink(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// The newest first.
    notifications: VecDeque<Notification>,
    devices: HashMap<String, Behaviour>,
}

#[derive(Debug, Clone, Serialize)]
struct Notification {
    device_id: String,
    api: String,
    received_at: String,
    status: u16,
    notification: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct Behaviour {
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
    /// `POST /{v2|v3}/notification/{device_id}`, `GET /notifications`, `PUT /devices/{device_id}`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/{api}/notification/{device_id}", post(notify))
            .route("/notifications", get(list))
            .route("/devices/{device_id}", put(behave))
            .with_state(self)
    }

    fn state(&self) -> MutexGuard<'_, Kept> {
        // Each change is complete in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    let behaviour = refusal.or_else(|| sink.state().devices.get(&device_id).cloned());
    let Behaviour { status, body, delay_ms } =
        behaviour.unwrap_or_else(|| Behaviour { status: 200, body: json!("OK"), delay_ms: 0 });
    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    println!("  {device_id} ({status}) {}", described(&notification));
    let received_at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let mut state = sink.state();
    state.notifications.push_front(Notification { device_id, api, received_at, status, notification });
    state.notifications.truncate(CAPACITY);
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(body)).into_response()
}

/// What MongoosePush answers when Apple or Google does not take what it makes of a notification.
fn refusal(api: &str, notification: &Value) -> Option<Behaviour> {
    let is_for_apple = notification["service"] == "apns";
    let mut names = notification["data"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let is_reserved = |name: &str| {
        let is_word = matches!(name, "from" | "message_type" | "collapse_key");
        is_word || name.starts_with("google") || name.starts_with("gcm")
    };
    let is_too_large = forwarded(notification).to_string().len() > MAX_FORWARDED;
    let (status, reason) = match (is_for_apple, is_too_large) {
        (true, true) if api == "v3" => (413, "payload_too_large"),
        (true, true) => (500, "PayloadTooLarge"),
        (true, false) => return None,
        (false, false) if !names.any(is_reserved) => return None,
        (false, _) if api == "v3" => (400, "invalid_request"),
        (false, _) => (500, "INVALID_ARGUMENT"),
    };
    let field = if api == "v3" { "reason" } else { "details" };
    Some(Behaviour { status, body: json!({field: reason}), delay_ms: 0 })
}

/// What MongoosePush sends to APNs, or to FCM as a message's `android` (its `service/apns.ex` and `service/fcm.ex`).
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

/// A notification as a person reads it.
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

async fn list(State(sink): State<Sink>, Query(filter): Query<Filter>) -> Json<Vec<Notification>> {
    let wanted =
        |notification: &&Notification| filter.device_id.as_ref().is_none_or(|device| notification.device_id == *device);
    Json(sink.state().notifications.iter().filter(wanted).cloned().collect())
}

async fn behave(
    State(sink): State<Sink>,
    Path(device_id): Path<String>,
    Json(behaviour): Json<Behaviour>,
) -> (StatusCode, &'static str) {
    if !(200..=599).contains(&behaviour.status) {
        return (StatusCode::BAD_REQUEST, "status must be between 200 and 599");
    }
    sink.state().devices.insert(device_id, behaviour);
    (StatusCode::NO_CONTENT, "")
}
