//! The operator's own push service: each notification is a webhook, signed according to Standard Webhooks 1.0.

use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::BoxFuture;
use pushlark_http_client::Tls;
use pushlark_model::{Payload, Presentation, Registration};
use pushlark_settings::catalogue::PUSH_SERVICE_SECRET;
use pushlark_settings::{Environment, RotatingSecret, Secret, SettingError, without_credentials};
use pushlark_webhooks::{ID, Key, SIGNATURE, TIMESTAMP};
use pushlark_xmpp::BareJid;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode, Url};
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::gateway::{Gateway, PushService};
use crate::http_client::{ClientKind, HttpClient, outcome, unanswered};
use crate::notification::Notification;
use crate::outcome::{Failure, Outcome};
use crate::truncate::send_truncated;

/// The client of the operator's own push service.
pub struct Webhook {
    http: HttpClient,
    url: Url,
    key: RotatingSecret<Key>,
}

/// The JSON of a webhook, as `docs/push-services.md` describes it.
#[derive(Serialize)]
struct WebhookBody<'n> {
    /// The event type: always `notification`.
    r#type: &'static str,
    message_id: &'n str,
    /// The bare JID of the user to be notified.
    recipient: &'n str,
    /// The registration's PubSub host.
    jid: &'n str,
    /// The node of the registration at `jid`.
    node: &'n str,
    /// The fields of the registration's form.
    publish_options: Map<String, Value>,
    /// The fields of the notification.
    payload: Map<String, Value>,
    /// The number of unread messages in all conversations of the user, with `BADGE=total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<u32>,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
    /// The fields of the presentation that are set.
    #[serde(skip_serializing_if = "Option::is_none")]
    presentation: Option<Map<String, Value>>,
}

/// Reads `PUSH_SERVICE_SECRET`; returns `None` if it is not set.
pub fn key_from_environment(
    environment: &Environment,
    aws: &SdkConfig,
) -> Result<Option<RotatingSecret<Key>>, SettingError> {
    let Some(setting) = environment.value(&PUSH_SERVICE_SECRET)? else { return Ok(None) };
    let key = |text: &str| Key::new(text).map_err(|invalid| invalid.to_string());
    RotatingSecret::new(PUSH_SERVICE_SECRET.name, Secret::new(setting, aws), key).checked().map(Some)
}

impl Webhook {
    pub fn new(url: Url, key: RotatingSecret<Key>, tls: &Tls, timeout: Duration) -> Self {
        Self { http: HttpClient::new(tls, ClientKind::Any, timeout), url, key }
    }

    /// Posts one notification. The limit of the push service is unknown, so the text is only truncated after a 413.
    async fn send(&self, notification: Notification<'_>) -> Outcome {
        let id = notification.id(43);
        let build = |payload: &Payload| build(&notification, payload);
        let post = |body: Vec<u8>| self.post_signed(&id, body);
        let is_too_large = |response: &Response| response.status() == StatusCode::PAYLOAD_TOO_LARGE;
        match send_truncated(usize::MAX, notification.payload, build, post, is_too_large).await {
            Ok(Ok(response)) => {
                let status = response.status();
                outcome(status, response.headers(), format!("status {}", status.as_u16()))
            }
            Ok(Err(failure)) => failure.into(),
            Err(too_large) => Outcome::Refused(too_large.to_string()),
        }
    }

    /// Posts a body signed with the current secret, or with a newer one if the push service refuses the signature.
    async fn post_signed(&self, id: &str, body: Vec<u8>) -> Result<Response, Failure> {
        let key = self.key.current().await?;
        let response = self.post(&key, id, &body).await.map_err(unanswered)?;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && let Some(newer) = self.key.newer(&key).await
        {
            return self.post(&newer, id, &body).await.map_err(unanswered);
        }
        Ok(response)
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
}

impl Gateway for Webhook {
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, Outcome> {
        Box::pin(self.send(notification))
    }

    fn push_service<'p>(&'p self, _notification: Notification<'p>) -> BoxFuture<'p, PushService> {
        Box::pin(async { PushService::new("webhook") })
    }

    /// Returns the URL, without user, password and query.
    fn describe(&self, _user: &BareJid, _registration: &Registration) -> String {
        without_credentials(&self.url)
    }

    /// Reads the secret and opens a connection, and accepts any answer.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async {
            self.http.prepare().await;
            self.key.current().await?;
            self.http.send(|client| client.head(self.url.clone())).await.map(drop).map_err(unanswered)
        })
    }
}

/// Returns the JSON of a notification with this payload.
fn build(notification: &Notification<'_>, payload: &Payload) -> Vec<u8> {
    let Notification { message_id, user, registration, badge, expires_at, .. } = *notification;
    let object = |(name, value): (&str, &str)| (name.to_owned(), value.into());
    let body = json!(WebhookBody {
        r#type: "notification",
        message_id,
        recipient: user.as_str(),
        jid: registration.jid.as_str(),
        node: &registration.node,
        publish_options: registration.options.fields().iter().map(|(n, v)| object((n, v))).collect(),
        payload: payload.fields().map(object).collect(),
        badge,
        expires_at,
        presentation: notification.presentation.map(presentation),
    });
    body.to_string().into_bytes()
}

/// Returns the fields of a presentation that are set.
fn presentation(presentation: &Presentation) -> Map<String, Value> {
    let Presentation { title, priority, sound, interruption_level, channel_id, time_to_live, collapse } = presentation;
    let fields = [
        ("title", title.as_deref().map(Value::from)),
        ("priority", priority.map(|priority| priority.as_str().into())),
        ("sound", sound.as_ref().map(|sound| sound.as_str().into())),
        ("interruption_level", interruption_level.map(|level| level.as_str().into())),
        ("channel_id", channel_id.as_deref().map(Value::from)),
        ("time_to_live", time_to_live.map(|time_to_live| time_to_live.as_secs().into())),
        ("collapse", collapse.map(|collapse| collapse.as_str().into())),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
