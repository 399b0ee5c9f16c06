//! A push service of the operator's own: each notification is a webhook, signed as Standard Webhooks 1.0 has it.

use std::time::Duration;

use aws_config::SdkConfig;
use pushlark_plugin::Payload;
use pushlark_settings::catalogue::PUSH_SERVICE_SECRET;
use pushlark_settings::{Environment, RotatingSecret, Secret, SettingError, without_credentials};
use pushlark_webhooks::{ID, Key, SIGNATURE, TIMESTAMP};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode, Url};
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::fit::shorter;
use crate::http_client::{HttpClient, Kind, outcome, unanswered};
use crate::notification::Notification;
use crate::outcome::{Failure, Outcome};

/// The client of the operator's own push service.
pub struct Webhook {
    http: HttpClient,
    url: Url,
    key: RotatingSecret<Key>,
}

/// What is posted.
#[derive(Serialize)]
struct Body<'n> {
    /// Always `notification`.
    r#type: &'static str,
    message_id: &'n str,
    /// The bare JID of the user to be notified.
    recipient: &'n str,
    /// The registration's PubSub host and node, …
    jid: &'n str,
    node: &'n str,
    /// … and its form.
    publish_options: Map<String, Value>,
    /// The fields of the notification.
    payload: Map<String, Value>,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// From `PUSH_SERVICE_SECRET`, if it is set.
pub fn key_from_environment(
    environment: &Environment,
    aws: &SdkConfig,
) -> Result<Option<RotatingSecret<Key>>, SettingError> {
    let Some(setting) = environment.value(&PUSH_SERVICE_SECRET)? else { return Ok(None) };
    let key = |text: &str| Key::new(text).map_err(|invalid| invalid.to_string());
    RotatingSecret::new(PUSH_SERVICE_SECRET.name, Secret::new(setting, aws), key).checked().map(Some)
}

impl Webhook {
    pub fn new(url: Url, key: RotatingSecret<Key>, timeout: Duration) -> Self {
        Self { http: HttpClient::new(Kind::Any, timeout), url, key }
    }

    /// Posts one notification.
    pub async fn publish(&self, notification: &Notification<'_>) -> Outcome {
        let body = build(notification, notification.payload);
        let mut key = match self.key.current().await {
            Ok(key) => key,
            Err(error) => return Failure::from(error).into(),
        };
        let id = notification.name(43);
        let mut answer = self.post(&key, &id, &body).await;
        if let Ok(response) = &answer
            && matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && let Some(newer) = self.key.newer(&key).await
        {
            key = newer;
            answer = self.post(&key, &id, &body).await;
        }
        // What it takes is for it to say: a text is not shortened before.
        if let Ok(response) = &answer
            && response.status() == StatusCode::PAYLOAD_TOO_LARGE
            && let Some(shorter) = shorter(body.len(), notification.payload, |payload| build(notification, payload))
        {
            answer = self.post(&key, &id, &shorter).await;
        }
        match answer {
            Ok(response) => {
                let status = response.status();
                outcome(status, response.headers(), format!("status {}", status.as_u16()))
            }
            Err(error) => unanswered(error).into(),
        }
    }

    /// Reads the secret and opens a connection, whatever is answered.
    pub async fn warm_up(&self) -> Result<(), Failure> {
        self.http.prepare().await;
        self.key.current().await?;
        self.http.send(|client| client.head(self.url.clone())).await.map(drop).map_err(unanswered)
    }

    async fn post(&self, key: &Key, id: &str, body: &[u8]) -> Result<Response, reqwest::Error> {
        let timestamp = OffsetDateTime::now_utc().unix_timestamp();
        let signature = key.sign(id, timestamp, body);
        let request = |client: &reqwest::Client| {
            client
                .post(self.url.clone())
                .header(ID, id)
                .header(TIMESTAMP, timestamp)
                .header(SIGNATURE, &signature)
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_vec())
        };
        self.http.send(request).await
    }

    /// Where it is, without a user, a password or a query.
    pub fn describe(&self) -> String {
        without_credentials(&self.url)
    }
}

/// The webhook of a notification with this payload.
fn build(notification: &Notification<'_>, payload: &Payload) -> Vec<u8> {
    let Notification { message_id, user, service, expires_at, .. } = *notification;
    let object = |(name, value): (&str, &str)| (name.to_owned(), value.into());
    let body = json!(Body {
        r#type: "notification",
        message_id,
        recipient: user.as_str(),
        jid: service.jid.as_str(),
        node: &service.node,
        publish_options: service.options.fields().iter().map(|(n, v)| object((n, v))).collect(),
        payload: payload.fields().map(object).collect(),
        expires_at,
    });
    body.to_string().into_bytes()
}
