//! A push service of the operator's own: each notification is a webhook, signed as Standard Webhooks 1.0 has it.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_settings::{Environment, SettingError};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode, Url};
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::fetched::Fetched;
use crate::http_client::{HttpClient, Kind, failure, unanswered};
use crate::notification::Notification;
use crate::outcome::{Extent, Failure, Outcome};
use crate::secret::Secret;

/// The client of the operator's own push service.
pub struct Webhook {
    http: HttpClient,
    url: Url,
    secret: Secret,
    key: Fetched<String, Failure>,
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

impl Webhook {
    /// From `PUSH_SERVICE`, which is `url`, and `PUSH_SERVICE_SECRET`.
    pub fn from_environment(
        url: &str,
        environment: &Environment,
        timeout: Duration,
        aws: &SdkConfig,
    ) -> Result<Self, SettingError> {
        let url = Url::parse(url).map_err(|reason| SettingError::invalid("PUSH_SERVICE", reason))?;
        let secret: String = environment
            .require("PUSH_SERVICE_SECRET", "what notifications to your own push service are signed with")?;
        let (http, secret) = (HttpClient::new(Kind::Any, timeout), Secret::new(&secret, aws));
        Ok(Self { http, url, secret, key: Fetched::default() })
    }

    /// Posts one notification.
    pub async fn publish(&self, notification: &Notification<'_>) -> Outcome {
        let Notification { message_id, user, service, payload, expires_at, .. } = *notification;
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
        })
        .to_string();
        let secret = match self.secret().await {
            Ok(secret) => secret,
            Err(failure) => return failure.into(),
        };
        let id = notification.name(43);
        let timestamp = OffsetDateTime::now_utc().unix_timestamp();
        let signature = sign(&secret, &id, timestamp, &body);
        let request = |client: &reqwest::Client| {
            client
                .post(self.url.clone())
                .header("webhook-id", &id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", &signature)
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone())
        };
        match self.http.send(request).await {
            Ok(response) => outcome(&response),
            Err(error) => unanswered(error).into(),
        }
    }

    /// Reads the secret and opens a connection, whatever is answered.
    pub async fn warm_up(&self) -> Result<(), Failure> {
        self.http.prepare().await;
        self.secret().await?;
        self.http.send(|client| client.head(self.url.clone())).await.map(drop).map_err(unanswered)
    }

    async fn secret(&self) -> Result<String, Failure> {
        self.key.get(|_| true, async || self.secret.read().await).await
    }

    /// Where it is, without a user, a password or a query.
    pub fn describe(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}

/// The symmetric signature of Standard Webhooks. A `whsec_` secret is its base64 part decoded, any other its bytes.
fn sign(secret: &str, id: &str, timestamp: i64, body: &str) -> String {
    let secret = secret.trim();
    let decoded = secret.strip_prefix("whsec_").and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(secret.as_bytes()));
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(tag))
}

fn outcome(response: &Response) -> Outcome {
    let reason = format!("status {}", response.status().as_u16());
    match response.status() {
        status if status.is_success() => Outcome::Delivered,
        StatusCode::GONE => Outcome::Gone(reason),
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            failure(reason, response.headers(), Extent::Service).into()
        }
        _ => Outcome::Refused(reason),
    }
}
