//! Push services that take JSON over HTTP for all kinds of devices: MongoosePush (version 3 of its API), and an
//! operator's own webhook.

use std::ops::Deref;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Answer, Double, Request, name_of};

/// The double. At MongoosePush a device is the one in the path; at a webhook it is the node of the registration.
#[derive(Clone)]
pub struct Gateway(Double);

impl Deref for Gateway {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.0
    }
}

impl Gateway {
    /// MongoosePush on a free port.
    pub async fn mongoosepush() -> Self {
        Self(Double::start(1_000, mongoosepush).await)
    }

    /// MongoosePush on the address of `listener`.
    pub fn mongoosepush_at(listener: TcpListener) -> Self {
        Self(Double::serve(listener, None, 1_000, mongoosepush))
    }

    /// An operator's own push service on a free port.
    pub async fn webhook() -> Self {
        Self(Double::start(1_000, webhook).await)
    }
}

/// Accepts an alert or data for APNs or FCM, as the API's schema defines it.
fn mongoosepush(_: &str, request: &Request) -> (String, Answer) {
    let device = request.path.strip_prefix("/v3/notification/").filter(|device| !device.is_empty());
    let Some(device) = device.filter(|_| request.method == Method::POST) else {
        // Such as the request that opens a connection.
        return (String::new(), Answer::json(404, &json!({"reason": "not_found"})));
    };
    let notification: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let is_known = notification["service"] == "apns" || notification["service"] == "fcm";
    let alert = &notification["alert"];
    let is_alert = alert["title"].is_string() && alert["body"].is_string();
    let answer = if is_known && (is_alert || notification["data"].is_object()) {
        Answer::json(200, &json!("OK"))
    } else {
        Answer::json(400, &json!({"reason": "invalid_request"}))
    };
    (name_of(device).to_owned(), answer)
}

fn webhook(_: &str, request: &Request) -> (String, Answer) {
    let notification: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let node = notification["node"].as_str().unwrap_or_default().to_owned();
    (node, Answer::json(204, &json!("")))
}
