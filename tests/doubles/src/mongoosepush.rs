//! MongoosePush, by version 3 of its API.

use std::ops::Deref;

use serde_json::{Value, json};

use crate::{Answer, Double, Request, name_of};

/// The double; a device is the one that the path names.
#[derive(Clone)]
pub struct MongoosePush(Double);

impl Deref for MongoosePush {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.0
    }
}

impl MongoosePush {
    /// Listens.
    pub async fn start() -> Self {
        let double = Double::start(1_000, |_, request| {
            let device = request.path.strip_prefix("/v3/notification/").filter(|device| !device.is_empty());
            match device {
                Some(device) if request.method == "POST" => (name_of(device).to_owned(), check(request)),
                // Such as the request that opens a connection.
                _ => (String::new(), Answer::json(404, &json!({"reason": "not_found"}))),
            }
        })
        .await;
        Self(double)
    }
}

/// An alert or data for one of the two services, as the API's schema has it.
fn check(request: &Request) -> Answer {
    let notification: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let is_known = notification["service"] == "apns" || notification["service"] == "fcm";
    let alert = &notification["alert"];
    let is_alert = alert["title"].is_string() && alert["body"].is_string();
    if is_known && (is_alert || notification["data"].is_object()) {
        Answer::json(200, &json!("OK"))
    } else {
        Answer::json(400, &json!({"reason": "invalid_request"}))
    }
}
