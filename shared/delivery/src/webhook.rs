//! A push service of the operator's own: each notification is a webhook, signed as Standard Webhooks 1.0 has it.

use std::time::Duration;

use aws_config::SdkConfig;
use pushlark_settings::{Environment, Secret, SettingError};
use pushlark_webhooks::{ID, Key, SIGNATURE, TIMESTAMP};
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::fetched::Fetched;
use crate::http_client::{HttpClient, Kind, outcome, unanswered};
use crate::notification::Notification;
use crate::outcome::{Failure, Outcome};

/// The client of the operator's own push service.
pub struct Webhook {
    http: HttpClient,
    url: Url,
    secret: Secret,
    key: Fetched<Key, Failure>,
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
        let key = match self.key().await {
            Ok(key) => key,
            Err(failure) => return failure.into(),
        };
        let id = notification.name(43);
        let timestamp = OffsetDateTime::now_utc().unix_timestamp();
        let signature = key.sign(&id, timestamp, body.as_bytes());
        let request = |client: &reqwest::Client| {
            client
                .post(self.url.clone())
                .header(ID, &id)
                .header(TIMESTAMP, timestamp)
                .header(SIGNATURE, &signature)
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone())
        };
        match self.http.send(request).await {
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
        self.key().await?;
        self.http.send(|client| client.head(self.url.clone())).await.map(drop).map_err(unanswered)
    }

    async fn key(&self) -> Result<Key, Failure> {
        self.key.get(|_| true, async || Ok(Key::new(&self.secret.read().await?))).await
    }

    /// Where it is, without a user, a password or a query.
    pub fn describe(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}
