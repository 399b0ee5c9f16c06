//! Google's push service, by the HTTP v1 API of Firebase Cloud Messaging.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::RsaKeyPair;
use futures_util::future::BoxFuture;
use pushlark_model::{Payload, Priority, PublishOptions};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::cached::Cached;
use super::jws::{BadKey, rs256, rsa_key};
use super::provider::{ProviderClient, ProviderResult, Unauthorized};
use crate::content::{Content, is_call};
use crate::http_client::{Answer, Connection, HttpClient, failure, named, retry_after, unanswered};
use crate::notification::Notification;
use crate::outcome::{Extent, Failure, Outcome};
use crate::truncate::send_truncated;

/// The most that a message may hold, in bytes ("About FCM messages").
const MAX_PAYLOAD: usize = 4_096;
/// The longest time to live: four weeks ("Set the lifespan of a message").
const MAX_TIME_TO_LIVE: Duration = Duration::from_hours(28 * 24);
/// How long to leave Google alone when a quota is used up and it does not say ("Scale your FCM implementation").
const QUOTA_PAUSE: Duration = Duration::from_secs(60);
/// How long Google may refuse a key that is good, or that is about to be replaced by one: a change of keys takes some
/// minutes to reach all of Google ("Access change propagation" of IAM: 7 minutes or longer).
const KEY_CHANGE: Duration = Duration::from_secs(10 * 60);
/// A token is no longer used when less than this is left of its life.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
/// So much of a field's name is logged.
const MAX_FIELD: usize = 64;
/// What Google's token server says of a key that it does not take: it may have changed, or be about to (RFC 6749, section
/// 5.2).
const INVALID_GRANT: &str = "invalid_grant";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT_TYPE: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";

/// The file of a service account, as Google gives it. Its other fields are passed over, since Google may add some.
#[derive(Deserialize)]
pub struct Settings {
    project_id: String,
    client_email: String,
    private_key: String,
    token_uri: String,
    /// Where messages are sent.
    #[serde(default = "google")]
    url: String,
}

fn google() -> String {
    "https://fcm.googleapis.com".into()
}

/// The client of one project.
pub struct Fcm {
    http: HttpClient,
    settings: Settings,
    key: RsaKeyPair,
    token: Cached<Token, Unsent>,
    refusals: KeyRefusals,
}

/// Since when Google gives no access token for the key, if it does not.
#[derive(Default)]
struct KeyRefusals(Mutex<Option<Instant>>);

/// An access token ("Using OAuth 2.0 for server to server applications").
#[derive(Clone)]
struct Token {
    bearer: String,
    good_until: Instant,
}

/// Why there is no answer to a message: there is no access token to send it with, or it was not sent.
#[derive(Debug, Clone)]
enum Unsent {
    Unauthorized(Unauthorized),
    Failed(Failure),
}

impl Fcm {
    pub fn new(settings: Settings, http: HttpClient) -> Result<Self, BadKey> {
        let key = rsa_key(&settings.private_key)?;
        Ok(Self { http, settings, key, token: Cached::default(), refusals: KeyRefusals::default() })
    }

    async fn send(&self, notification: Notification<'_>) -> ProviderResult {
        let device_id = match notification.require("device_id") {
            Ok(device_id) => device_id,
            Err(unusable) => return Ok(Outcome::Refused(unusable.to_string())),
        };
        let options = &notification.registration.options;
        let ttl = notification.time_to_live().min(MAX_TIME_TO_LIVE).as_secs();
        let build = |payload: &Payload| android(options, payload, ttl);
        let send = |android: Vec<u8>| async move { self.deliver(device_id, &android).await };
        match send_truncated(MAX_PAYLOAD, notification.payload, build, send, is_too_large).await {
            Ok(Ok(answer)) => outcome(&answer),
            Ok(Err(Unsent::Unauthorized(unauthorized))) => Err(unauthorized),
            Ok(Err(Unsent::Failed(failure))) => Ok(failure.into()),
            Err(too_large) => Ok(Outcome::Refused(too_large.to_string())),
        }
    }

    async fn connect(&self) -> Result<(), Failure> {
        self.http.prepare().await;
        match self.token(None).await {
            Ok(_) => {}
            Err(Unsent::Unauthorized(Unauthorized(outcome))) => return Err(Failure::of_service(reason(outcome))),
            Err(Unsent::Failed(failure)) => return Err(failure),
        }
        self.http.send(|client| client.get(&self.settings.url)).await.map(drop).map_err(unanswered)
    }

    /// Sends an AndroidConfig to a device.
    async fn deliver(&self, device_id: &str, android: &[u8]) -> Result<Answer, Unsent> {
        let Settings { url, project_id, .. } = &self.settings;
        let url = format!("{}/v1/projects/{project_id}/messages:send", url.trim_end_matches('/'));
        let mut body = format!("{{\"message\":{{\"token\":{},\"android\":", Value::from(device_id)).into_bytes();
        body.extend(android);
        body.extend(b"}}");
        let mut refused = None;
        loop {
            let token = self.token(refused.as_ref()).await?;
            let request = |client: &reqwest::Client| {
                let request = client.post(&url).bearer_auth(&token.bearer);
                request.header(CONTENT_TYPE, "application/json").body(body.clone())
            };
            let answer = self.http.ask(request, Connection::by_status).await;
            let answer = answer.map_err(|error| Unsent::Failed(unanswered(error)))?;
            // Google may take a token back before its time.
            if refused.is_none() && outcome(&answer).is_err() {
                refused = Some(token);
                continue;
            }
            return Ok(answer);
        }
    }

    /// The access token, another one than `refused`.
    async fn token(&self, refused: Option<&Token>) -> Result<Token, Unsent> {
        let is_good = |token: &Token| {
            Instant::now() < token.good_until && refused.is_none_or(|refused| refused.bearer != token.bearer)
        };
        self.token.get(is_good, async || self.fetch_token().await).await
    }

    async fn fetch_token(&self) -> Result<Token, Unsent> {
        #[derive(Deserialize)]
        struct Grant {
            access_token: String,
            /// Seconds.
            expires_in: u64,
        }

        #[derive(Default, Deserialize)]
        struct Refusal {
            error: String,
        }

        let Settings { client_email, token_uri, .. } = &self.settings;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = json!({"iss": client_email, "scope": SCOPE, "aud": token_uri, "iat": now, "exp": now + 3_600});
        let assertion = rs256(&self.key, &json!({"alg": "RS256", "typ": "JWT"}), &claims);
        let form = format!("grant_type={GRANT_TYPE}&assertion={assertion}");
        let request = |client: &reqwest::Client| {
            client.post(token_uri).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
        };
        let answer = self.http.ask(request, Connection::by_status).await;
        let answer = answer.map_err(|error| Unsent::Failed(unanswered(error)))?;
        if answer.status.is_success() {
            let Some(Grant { access_token: bearer, expires_in }) = answer.json() else {
                return Err(Unsent::Failed(Failure::of_service("no access token: the answer has none")));
            };
            let life = Duration::from_secs(expires_in.min(86_400)).saturating_sub(TOKEN_MARGIN);
            self.refusals.end();
            return Ok(Token { bearer, good_until: Instant::now() + life });
        }
        let reason = format!("no access token: status {}", answer.status.as_u16());
        if answer.status == StatusCode::TOO_MANY_REQUESTS || answer.status.is_server_error() {
            return Err(Unsent::Failed(failure(reason, &answer.headers, Extent::Service)));
        }
        let Refusal { error } = answer.json();
        Err(Unsent::Unauthorized(if error == INVALID_GRANT && self.refusals.may_pass() {
            Unauthorized(Failure::of_service(format!("{reason}, {INVALID_GRANT}")).into())
        } else {
            Unauthorized::refused(reason)
        }))
    }
}

impl ProviderClient for Fcm {
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, ProviderResult> {
        Box::pin(self.send(notification))
    }

    /// Fetches a token and opens the connection to Google, whatever Google answers.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.connect())
    }
}

impl KeyRefusals {
    /// Whether a refusal may be due to a change of keys.
    fn may_pass(&self) -> bool {
        self.since().get_or_insert_with(Instant::now).elapsed() < KEY_CHANGE
    }

    fn end(&self) {
        *self.since() = None;
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        // Each change is complete in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message's `android` (AndroidConfig), as MongoosePush makes it.
fn android(options: &PublishOptions, payload: &Payload, ttl: u64) -> Vec<u8> {
    let content = Content::new(options, payload);
    let data: Map<_, _> = allowed(content.data).map(|(name, value)| (name.into(), value.into())).collect();
    let mut android = Map::new();
    let priority = match options.priority() {
        _ if is_call(payload) => Some("HIGH"),
        Ok(Some(Priority::High)) => Some("HIGH"),
        Ok(Some(Priority::Normal)) => Some("NORMAL"),
        _ => None,
    };
    android.extend(priority.map(|priority| ("priority".into(), priority.into())));
    android.insert("ttl".into(), format!("{ttl}s").into());
    if let Some(alert) = &content.alert {
        let mut notification =
            Map::from_iter([("title".into(), alert.title.into()), ("body".into(), alert.body.into())]);
        let texts =
            [("tag", alert.tag), ("click_action", options.get("click_action")), ("sound", options.get("sound"))];
        for (name, text) in texts {
            notification.extend(text.map(|text| (name.into(), Value::from(text))));
        }
        // Google's type has 32 bits.
        let count = alert.badge.map(|badge| badge.min(i32::MAX.unsigned_abs().into()));
        notification.extend(count.map(|count| ("notification_count".into(), count.into())));
        android.insert("notification".into(), notification.into());
    }
    if !data.is_empty() {
        android.insert("data".into(), data.into());
    }
    Value::from(android).to_string().into_bytes()
}

/// The data without the fields for which FCM refuses a message as a whole: `from`, `message_type`, `collapse_key`, and what
/// starts with `google` or `gcm` (Message.data; "Build app server send requests").
pub fn allowed<'n>(data: Vec<(&'n str, &'n str)>) -> impl Iterator<Item = (&'n str, &'n str)> {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    let is_reserved = |name: &str| {
        let is_word = matches!(name, "from" | "message_type" | "collapse_key");
        is_word || name.starts_with("google") || name.starts_with("gcm")
    };
    data.into_iter().filter(move |(name, _)| {
        let is_left_out = is_reserved(name);
        if is_left_out && !IS_TOLD.swap(true, Ordering::Relaxed) {
            let field: String = name.chars().take(MAX_FIELD).collect();
            tracing::warn!(field, "a field is left out of notifications by FCM, since Google reserves its name");
        }
        !is_left_out
    })
}

/// What Google answers other than success (google.rpc.Status, with FcmError and BadRequest among its details).
#[derive(Debug, Default, Deserialize)]
struct Problem {
    #[serde(default)]
    error: Status,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    error_code: Option<String>,
    #[serde(default)]
    field_violations: Vec<Violation>,
    /// Of a QuotaFailure.
    #[serde(default)]
    violations: Vec<QuotaViolation>,
}

#[derive(Debug, Deserialize)]
struct Violation {
    #[serde(default)]
    field: String,
}

#[derive(Debug, Deserialize)]
struct QuotaViolation {
    #[serde(default)]
    subject: String,
    #[serde(default)]
    description: String,
}

impl Status {
    /// The code of FCM ("FCM error codes"), or else that of Google at large.
    fn code(&self) -> &str {
        self.details.iter().find_map(|detail| detail.error_code.as_deref()).unwrap_or(&self.status)
    }

    /// Whether an invalid argument is the device's token.
    fn is_of_token(&self) -> bool {
        let violations: Vec<_> = self.details.iter().flat_map(|detail| &detail.field_violations).collect();
        if violations.is_empty() {
            return self.message.contains("registration token");
        }
        violations.iter().any(|violation| violation.field == "message.token")
    }

    /// Whether the quota is the device's: Google tells so in a QuotaFailure or in the message ("Device message rate exceeded").
    /// The project's has an ErrorInfo, and a message about requests per minute.
    fn is_quota_of_device(&self) -> bool {
        let violations = self.details.iter().flat_map(|detail| &detail.violations);
        let mut texts = violations.flat_map(|violation| [&violation.subject, &violation.description]);
        let is_of_device = |text: &String| text.to_ascii_lowercase().contains("device");
        is_of_device(&self.message) || texts.any(is_of_device)
    }
}

/// Google has no code of its own for it: "Android message is too big".
fn is_too_large(answer: &Answer) -> bool {
    let Problem { error } = answer.json();
    answer.status == StatusCode::BAD_REQUEST && error.message.contains("too big")
}

/// "FCM error codes" (ErrorCode).
fn outcome(answer: &Answer) -> ProviderResult {
    let (status, headers) = (answer.status.as_u16(), &answer.headers);
    if status == 200 {
        return Ok(Outcome::Delivered);
    }
    let Problem { error } = answer.json();
    let described = format!("status {status}, {}", named(error.code()));
    Ok(match (status, error.code()) {
        (_, "UNREGISTERED") => Outcome::Gone(described),
        (_, "SENDER_ID_MISMATCH") => Outcome::Suspect(described),
        (400, "INVALID_ARGUMENT") if error.is_of_token() => Outcome::Suspect(described),
        // Apple's credentials, which FCM holds for its own users.
        (_, "THIRD_PARTY_AUTH_ERROR") => Outcome::Refused(described),
        (401, _) => return Err(Unauthorized::refused(described)),
        (429, _) if error.is_quota_of_device() => failure(described, headers, Extent::Device).into(),
        (429, _) => quota_exceeded(described, headers).into(),
        (500.., _) => failure(described, headers, Extent::Service).into(),
        _ => Outcome::Refused(described),
    })
}

/// The project's quota is used up, or one that Google does not name.
fn quota_exceeded(reason: String, headers: &HeaderMap) -> Failure {
    Failure { reason, retry_after: retry_after(headers).or(Some(QUOTA_PAUSE)), extent: Extent::Service }
}

/// Why a publish was not delivered.
fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::Delivered => String::new(),
        Outcome::Gone(reason) | Outcome::Suspect(reason) | Outcome::Refused(reason) => reason,
        Outcome::Transient(failure) => failure.reason,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_refused_for_long_is_wrong() {
        let refusals = KeyRefusals::default();
        assert!(refusals.may_pass());
        tokio::time::advance(KEY_CHANGE - Duration::from_secs(1)).await;
        assert!(refusals.may_pass());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!refusals.may_pass());
        refusals.end();
        assert!(refusals.may_pass());
    }

    #[test]
    fn a_quota_is_the_devices_or_the_projects() {
        let failure = |message: &str, details: Value| {
            let error = json!({"code": 429, "status": "RESOURCE_EXHAUSTED", "message": message, "details": details});
            let body = json!({"error": error}).to_string().into_bytes();
            let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, headers: HeaderMap::new(), body };
            let Ok(Outcome::Transient(failure)) = outcome(&answer) else { return None };
            Some((failure.extent, failure.retry_after))
        };
        let code = json!({"errorCode": "QUOTA_EXCEEDED"});
        let quota =
            |subject, description| json!([code, {"violations": [{"subject": subject, "description": description}]}]);
        let of_device = Some((Extent::Device, None));
        assert_eq!(failure("Device message rate exceeded", json!([code])), of_device);
        assert_eq!(failure("", quota("device", "")), of_device);
        assert_eq!(failure("", quota("", "Device message rate exceeded")), of_device);
        let of_all = Some((Extent::Service, Some(QUOTA_PAUSE)));
        assert_eq!(failure("", json!([code])), of_all);
        assert_eq!(failure("", quota("project", "Message rate exceeded")), of_all);
        let per_minute = "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute'";
        assert_eq!(failure(per_minute, json!([{"reason": "RATE_LIMIT_EXCEEDED", "domain": "googleapis.com"}])), of_all);
    }
}
