//! Apple's push service, by its HTTP/2 API ("Sending notification requests to APNs").

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use p256::ecdsa::SigningKey;
use pushlark_model::{CallSignal, Mode, Payload, Priority, PublishOptions};
use reqwest::StatusCode;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::jws::{PrivateKeyError, ec_key, es256};
use super::provider::{ProviderClient, ProviderResult, Unauthorized};
use crate::content::Content;
use crate::http_client::{ConnectionState, HttpClient, ProviderResponse, failure, named, unanswered};
use crate::notification::{Notification, OptionError};
use crate::outcome::{Failure, FailureScope, Outcome};
use crate::truncate::send_truncated;

/// The largest payload of a notification, in bytes ("Generating a remote notification").
const MAX_PAYLOAD_BYTES: usize = 4_096;
/// The largest payload of a VoIP notification, in bytes.
const MAX_VOIP_PAYLOAD_BYTES: usize = 5_120;
/// The longest device token or topic, in bytes: far longer than those of Apple, and short enough for a header.
const MAX_TOKEN_OR_TOPIC_BYTES: usize = 512;
/// The time for which a provider token is used, in seconds: Apple requires a new one at least every 60 minutes, and at
/// most every 20 ("Establishing a token-based connection to APNs").
const TOKEN_PERIOD: i64 = 30 * 60;

/// An app's credentials, as Apple's developer account shows them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApnsCredentials {
    /// The id of the team: ten characters.
    team_id: String,
    /// The id of the key: ten characters.
    key_id: String,
    /// The content of the key's `.p8` file.
    key: String,
    /// The app's bundle id, for registrations whose form has no `topic`.
    topic: Option<String>,
    /// The server for apps from the App Store.
    #[serde(default = "production")]
    url: String,
    /// The server for apps in development.
    #[serde(default = "sandbox")]
    dev_url: String,
}

fn production() -> String {
    "https://api.push.apple.com".into()
}

fn sandbox() -> String {
    "https://api.sandbox.push.apple.com".into()
}

/// The APNs client of one app.
pub struct Apns {
    http: HttpClient,
    credentials: ApnsCredentials,
    key: SigningKey,
    /// The time of issue of the provider token, in Unix seconds, and the token.
    token: Mutex<(i64, String)>,
}

/// The kind of a notification, by which Apple decides how to treat it (`apns-push-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PushType {
    Alert,
    Background,
    Voip,
}

impl Apns {
    /// `http` returns the HTTP client for a key, by its id.
    pub fn new(credentials: ApnsCredentials, http: impl FnOnce(&str) -> HttpClient) -> Result<Self, PrivateKeyError> {
        let key = ec_key(&credentials.key).ok_or(PrivateKeyError("the key of a .p8 file: ES256 in PKCS #8 as PEM"))?;
        Ok(Self { http: http(&credentials.key_id), credentials, key, token: Mutex::default() })
    }

    async fn send(&self, notification: Notification<'_>) -> ProviderResult {
        let options = &notification.registration.options;
        let push_type = PushType::of(notification);
        let (token, limit) = match push_type {
            PushType::Voip if notification.option("voip_device_id").is_some() => {
                ("voip_device_id", MAX_VOIP_PAYLOAD_BYTES)
            }
            PushType::Voip => ("device_id", MAX_VOIP_PAYLOAD_BYTES),
            PushType::Alert | PushType::Background => ("device_id", MAX_PAYLOAD_BYTES),
        };
        let (token, topic) = match (notification.path_segment(token), self.topic(notification, push_type)) {
            (Ok(token), Ok(topic)) => (token, topic),
            (Err(unusable), _) | (_, Err(unusable)) => return Ok(Outcome::Refused(unusable.to_string())),
        };
        if token.len().max(topic.len()) > MAX_TOKEN_OR_TOPIC_BYTES {
            return Ok(Outcome::Refused(format!(
                "the device's token and the topic may have at most {MAX_TOKEN_OR_TOPIC_BYTES} bytes"
            )));
        }
        let thread = notification.thread();
        let build =
            |payload: &Payload| body(Notification { payload: payload.into(), ..notification }, push_type, &thread);
        let url = format!("{}/3/device/{token}", self.url(options));
        let expiration = match push_type {
            PushType::Voip => 0,
            _ if notification.time_to_live() == Duration::ZERO => 0,
            PushType::Alert | PushType::Background => notification.expires_at.unix_timestamp(),
        };
        let authorization = format!("bearer {}", self.token(OffsetDateTime::now_utc()));
        let request = |client: &reqwest::Client, body: &[u8]| {
            let request = client
                .post(&url)
                .header(AUTHORIZATION, &authorization)
                .header("apns-push-type", push_type.name())
                .header("apns-priority", push_type.priority(notification))
                .header("apns-topic", &topic)
                .header("apns-expiration", expiration);
            let request = match push_type {
                // A retry replaces the earlier notification.
                PushType::Alert | PushType::Background => {
                    request.header("apns-collapse-id", notification.collapse_id(43))
                }
                PushType::Voip => request,
            };
            request.body(body.to_vec())
        };
        let request = &request;
        let send = |body: Vec<u8>| async move { self.http.ask(|client| request(client, &body), connection).await };
        let is_too_large = |answer: &ProviderResponse| answer.status == StatusCode::PAYLOAD_TOO_LARGE;
        match send_truncated(limit, notification.payload, build, send, is_too_large).await {
            Ok(Ok(answer)) => outcome(&answer, notification.registration.created_at),
            // The form's topic may have characters that a header cannot contain.
            Ok(Err(error)) if error.is_builder() => Ok(Outcome::Refused("the topic cannot be sent".into())),
            Ok(Err(error)) => Ok(unanswered(error).into()),
            Err(too_large) => Ok(Outcome::Refused(too_large.to_string())),
        }
    }

    /// Returns the provider token. It changes every half-hour and has the same bytes on every worker: Apple refuses a
    /// provider that changes it often, and cannot know that many workers are one provider.
    fn token(&self, now: OffsetDateTime) -> String {
        let issued_at = now.unix_timestamp() - now.unix_timestamp().rem_euclid(TOKEN_PERIOD);
        // Every change is a single step, so a poisoned lock still holds valid data.
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.0 != issued_at {
            let header = json!({"alg": "ES256", "kid": self.credentials.key_id});
            *token =
                (issued_at, es256(&self.key, &header, &json!({"iss": self.credentials.team_id, "iat": issued_at})));
        }
        token.1.clone()
    }

    fn topic(&self, notification: Notification<'_>, push_type: PushType) -> Result<String, OptionError> {
        let topic =
            notification.option("topic").or(self.credentials.topic.as_deref()).ok_or(OptionError::Missing("topic"))?;
        Ok(match push_type {
            PushType::Voip if !topic.ends_with(".voip") => format!("{topic}.voip"),
            PushType::Alert | PushType::Background | PushType::Voip => topic.into(),
        })
    }

    fn url(&self, options: &PublishOptions) -> &str {
        let url = match options.mode() {
            Ok(Some(Mode::Development)) => &self.credentials.dev_url,
            _ => &self.credentials.url,
        };
        url.trim_end_matches('/')
    }
}

impl ProviderClient for Apns {
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, ProviderResult> {
        Box::pin(self.send(notification))
    }

    /// Opens the connection to Apple, and accepts any answer.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async {
            self.http.prepare().await;
            self.http.send(|client| client.get(&self.credentials.url)).await.map(drop).map_err(unanswered)
        })
    }
}

impl PushType {
    fn of(notification: Notification<'_>) -> Self {
        let options = &notification.registration.options;
        if let Some(CallSignal::Ring(_)) = notification.payload.call()
            && (options.is_push_kit() || options.given("voip_device_id").is_some())
        {
            return Self::Voip;
        }
        match Content::new(notification).alert {
            Some(_) => Self::Alert,
            // The badge is visible, which Apple does not allow of a background notification.
            None if notification.payload.is_read() => Self::Alert,
            None => Self::Background,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Background => "background",
            Self::Voip => "voip",
        }
    }

    /// Returns `apns-priority`: 5 saves power, and is required of background notifications; 10 is immediate.
    fn priority(self, notification: Notification<'_>) -> &'static str {
        match self {
            Self::Background => "5",
            Self::Alert if notification.payload.is_read() => "5",
            Self::Alert if notification.payload.call().is_some() => "10",
            Self::Alert if notification.priority() == Some(Priority::Normal) => "5",
            Self::Alert | Self::Voip => "10",
        }
    }
}

/// Returns the JSON payload ("Generating a remote notification"), with the data beside `aps`.
fn body(notification: Notification<'_>, push_type: PushType, thread: &str) -> Vec<u8> {
    let Notification { registration, payload, badge, .. } = notification;
    let options = &registration.options;
    let content = Content::new(notification);
    let mut aps = Map::new();
    match (push_type, &content.alert) {
        (PushType::Alert, Some(alert)) => {
            aps.insert("alert".into(), json!({"title": alert.title, "body": alert.body}));
            let texts = [
                ("category", options.get("click_action")),
                ("sound", notification.sound()),
                ("interruption-level", notification.interruption_level()),
            ];
            for (name, text) in texts {
                aps.extend(text.map(|text| (name.into(), Value::from(text))));
            }
            aps.extend(alert.badge.map(|badge| ("badge".into(), badge.into())));
            aps.insert("thread-id".into(), thread.into());
            if payload.is_encrypted() || options.mutable_content() == Ok(Some(true)) {
                aps.insert("mutable-content".into(), 1.into());
            }
        }
        (PushType::Alert, None) => {
            let unread = payload.get(Payload::MESSAGE_COUNT).and_then(|count| count.parse().ok());
            aps.extend(badge.or(unread).map(|badge| ("badge".into(), badge.into())));
            aps.insert("content-available".into(), 1.into());
        }
        (PushType::Background, _) => {
            aps.insert("content-available".into(), 1.into());
        }
        (PushType::Voip, _) => {}
    }
    let mut body = content.data_with_count();
    body.insert("aps".into(), aps.into());
    Value::from(body).to_string().into_bytes()
}

/// The body of an error response.
#[derive(Debug, Default, Deserialize)]
struct ApnsReason {
    #[serde(default)]
    reason: String,
    /// The time at which Apple found the device to be gone, in Unix milliseconds.
    timestamp: Option<u64>,
}

/// Returns the state of the connection after an answer. Apple limits the updates of provider tokens per connection.
fn connection(answer: &ProviderResponse) -> ConnectionState {
    let ApnsReason { reason, .. } = answer.json();
    match (answer.status.as_u16(), reason.as_str()) {
        (400, "IdleTimeout") => ConnectionState::IsGivenUp,
        (429, "TooManyProviderTokenUpdates") => ConnectionState::Fails,
        _ => ConnectionState::by_status(answer),
    }
}

/// Returns the outcome of a publish ("Handling notification responses from APNs"). `enabled_at` is the time of the
/// registration, in Unix microseconds.
fn outcome(answer: &ProviderResponse, enabled_at: u64) -> ProviderResult {
    let status = answer.status.as_u16();
    if status == 200 {
        return Ok(Outcome::Delivered);
    }
    let ApnsReason { reason, timestamp } = answer.json();
    let described = format!("status {status}, {}", named(&reason));
    Ok(match (status, reason.as_str()) {
        (410, _) => match timestamp {
            Some(since) if since.saturating_mul(1_000) < enabled_at => {
                Outcome::Suspect(format!("{described}, before the device was registered"))
            }
            _ => Outcome::Gone(described),
        },
        (400, "BadDeviceToken" | "DeviceTokenNotForTopic") => Outcome::Suspect(described),
        (403, "InvalidProviderToken" | "ExpiredProviderToken" | "MissingProviderToken") => {
            return Err(Unauthorized::refused(described));
        }
        // The rate limit of the device; the limit of provider tokens has another reason.
        (429, "TooManyRequests") => failure(described, &answer.headers, FailureScope::Device).into(),
        // The connection was idle: this concerns every device.
        (400, "IdleTimeout") | (429 | 500.., _) => failure(described, &answer.headers, FailureScope::Service).into(),
        _ => Outcome::Refused(described),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2
OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r
1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G
-----END PRIVATE KEY-----
";

    fn apns() -> Apns {
        let credentials = json!({"team_id": "TEAM123456", "key_id": "KEY1234567", "key": KEY});
        let http = HttpClient::new(&Default::default(), crate::http_client::ClientKind::Http2, Duration::from_secs(1));
        Apns::new(serde_json::from_value(credentials).unwrap(), |_| http).unwrap()
    }

    #[test]
    fn the_token_has_the_same_bytes_for_half_an_hour_on_every_worker() {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap();
        let (one, another) = (apns(), apns());
        let token = one.token(at(0));
        assert_eq!([&token, &token], [&one.token(at(1_799)), &another.token(at(1_799))]);
        assert_ne!(token, one.token(at(1_800)));
        assert_ne!(token, one.token(at(-1)));
        assert_eq!(token, one.token(at(0)));
    }
}
