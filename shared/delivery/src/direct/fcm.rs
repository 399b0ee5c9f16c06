//! Google's push service, by the HTTP v1 API of Firebase Cloud Messaging.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::RsaKeyPair;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use pushlark_model::{Payload, Priority};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::cached::Cached;
use super::jws::{PrivateKeyError, rs256, rsa_key};
use super::provider::{ProviderClient, ProviderResult, Unauthorized};
use crate::content::Content;
use crate::http_client::{ConnectionState, HttpClient, ProviderResponse, failure, named, retry_after, unanswered};
use crate::notification::Notification;
use crate::outcome::{Failure, FailureScope, Outcome};
use crate::truncate::send_truncated;

/// The largest message, in bytes ("About FCM messages").
const MAX_PAYLOAD_BYTES: usize = 4_096;
/// The longest time to live: four weeks ("Set the lifespan of a message").
const MAX_TIME_TO_LIVE: Duration = Duration::from_hours(28 * 24);
/// The longest id of a call's session in a `collapse_key`, in bytes. Clients choose UUIDs, of 36 bytes.
const MAX_SID_BYTES: usize = 60;
/// The pause after a used-up quota, if Google sends no `Retry-After` ("Scale your FCM implementation").
const QUOTA_PAUSE: Duration = Duration::from_secs(60);
/// The time for which Google may refuse a valid key, or a key that is about to be replaced by a valid one: a change of
/// keys takes some minutes to reach all of Google's servers ("Access change propagation" of IAM: 7 minutes or longer).
const KEY_CHANGE: Duration = Duration::from_secs(10 * 60);
/// An access token is replaced when less than this time is left until it expires.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
/// The maximum number of characters of a field's name that are logged.
const MAX_LOGGED_NAME_CHARS: usize = 64;
/// The error of Google's token server for a key that it does not accept: the key may just have changed, or be about to
/// change (RFC 6749, section 5.2).
const INVALID_GRANT: &str = "invalid_grant";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT_TYPE: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";

/// The key file of a Google service account. Its other fields are ignored, since Google may add some.
#[derive(Deserialize)]
pub struct ServiceAccount {
    project_id: String,
    client_email: String,
    private_key: String,
    token_uri: String,
    /// The base URL of the API; Google's by default.
    #[serde(default = "google")]
    url: String,
}

fn google() -> String {
    "https://fcm.googleapis.com".into()
}

/// The FCM client of one project.
pub struct Fcm {
    http: HttpClient,
    account: ServiceAccount,
    key: RsaKeyPair,
    token: Cached<Token, Unsent>,
    refusals: KeyRefusals,
}

/// The time since which Google refuses the key; `None` while Google accepts it.
#[derive(Default)]
struct KeyRefusals(Mutex<Option<Instant>>);

/// An access token ("Using OAuth 2.0 for server to server applications").
#[derive(Clone)]
struct Token {
    bearer: String,
    good_until: Instant,
}

/// The reason why a message has no answer: there is no access token for it, or it was not sent.
#[derive(Debug, Clone)]
enum Unsent {
    Unauthorized(Unauthorized),
    Failed(Failure),
}

impl Fcm {
    pub fn new(account: ServiceAccount, http: HttpClient) -> Result<Self, PrivateKeyError> {
        let key = rsa_key(&account.private_key)?;
        Ok(Self { http, account, key, token: Cached::default(), refusals: KeyRefusals::default() })
    }

    async fn send(&self, notification: Notification<'_>) -> ProviderResult {
        let device_id = match notification.require("device_id") {
            Ok(device_id) => device_id,
            Err(unusable) => return Ok(Outcome::Refused(unusable.to_string())),
        };
        let ttl = notification.time_to_live().min(MAX_TIME_TO_LIVE).as_secs();
        let build = |payload: &Payload| android(Notification { payload: payload.into(), ..notification }, ttl);
        let send = |android: Vec<u8>| async move { self.deliver(device_id, &android).await };
        match send_truncated(MAX_PAYLOAD_BYTES, notification.payload, build, send, is_too_large).await {
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
        self.http.send(|client| client.get(&self.account.url)).await.map(drop).map_err(unanswered)
    }

    /// Sends an AndroidConfig to a device. A refused access token is replaced once.
    async fn deliver(&self, device_id: &str, android: &[u8]) -> Result<ProviderResponse, Unsent> {
        let ServiceAccount { url, project_id, .. } = &self.account;
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
            let answer = self.http.ask(request, ConnectionState::by_status).await;
            let answer = answer.map_err(|error| Unsent::Failed(unanswered(error)))?;
            // Google may revoke a token before it expires.
            if refused.is_none() && outcome(&answer).is_err() {
                refused = Some(token);
                continue;
            }
            return Ok(answer);
        }
    }

    /// Returns an access token other than `refused`.
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
            /// The lifetime of the token, in seconds.
            expires_in: u64,
        }

        #[derive(Default, Deserialize)]
        struct TokenErrorBody {
            error: String,
        }

        let ServiceAccount { client_email, token_uri, .. } = &self.account;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = json!({"iss": client_email, "scope": SCOPE, "aud": token_uri, "iat": now, "exp": now + 3_600});
        let assertion = rs256(&self.key, &json!({"alg": "RS256", "typ": "JWT"}), &claims);
        let form = format!("grant_type={GRANT_TYPE}&assertion={assertion}");
        let request = |client: &reqwest::Client| {
            client.post(token_uri).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
        };
        let answer = self.http.ask(request, ConnectionState::by_status).await;
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
            return Err(Unsent::Failed(failure(reason, &answer.headers, FailureScope::Service)));
        }
        let TokenErrorBody { error } = answer.json();
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

    /// Fetches a token and opens the connection to Google, and accepts any answer.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.connect())
    }
}

impl KeyRefusals {
    /// Returns whether a refusal may be due to a change of keys, and notes the time of the first one.
    fn may_pass(&self) -> bool {
        self.since().get_or_insert_with(Instant::now).elapsed() < KEY_CHANGE
    }

    fn end(&self) {
        *self.since() = None;
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        // Every change is a single step, so a poisoned lock still holds valid data.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the `collapse_key` of a call and its end, as MongoosePush does. A long id of the session, which the caller
/// chooses, is replaced by its hash.
fn collapse_key(sid: &str) -> String {
    if sid.len() <= MAX_SID_BYTES {
        return format!("jmi-{sid}");
    }
    format!("jmi-{}", BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(sid)))
}

/// Returns the message's `android` (AndroidConfig), with the same fields as MongoosePush's, and those of a presentation.
fn android(notification: Notification<'_>, ttl: u64) -> Vec<u8> {
    let Notification { registration, payload, .. } = notification;
    let content = Content::new(notification);
    let data: Map<_, _> = allowed(content.data).map(|(name, value)| (name.into(), value.into())).collect();
    let mut android = Map::new();
    let priority = match notification.priority() {
        _ if payload.call().is_some() => Some("HIGH"),
        _ if payload.is_read() => Some("NORMAL"),
        Some(Priority::High) => Some("HIGH"),
        Some(Priority::Normal) => Some("NORMAL"),
        // Data alone does not wake the device by default.
        None => payload.is_encrypted().then_some("HIGH"),
    };
    android.extend(priority.map(|priority| ("priority".into(), priority.into())));
    android.extend(payload.call().map(|call| ("collapse_key".into(), collapse_key(call.sid()).into())));
    android.insert("ttl".into(), format!("{ttl}s").into());
    if payload.is_read() {
        // The tag of the conversation's alerts.
        let conversation = payload.get(Payload::CONVERSATION);
        android.extend(conversation.map(|conversation| ("collapse_key".into(), conversation.into())));
    }
    if let Some(alert) = &content.alert {
        let mut shown =
            Map::from_iter([("title".into(), alert.title.as_ref().into()), ("body".into(), alert.body.into())]);
        let texts = [
            ("tag", alert.tag.as_deref()),
            ("click_action", registration.options.get("click_action")),
            ("sound", notification.sound()),
            ("channel_id", notification.channel_id()),
        ];
        for (name, text) in texts {
            shown.extend(text.map(|text| (name.into(), Value::from(text))));
        }
        if notification.is_soundless() {
            // From Android 8 on, the channel alone decides about the sound, and these fields have no effect.
            shown.insert("notification_priority".into(), "PRIORITY_LOW".into());
            shown.insert("default_sound".into(), false.into());
            shown.insert("default_vibrate_timings".into(), false.into());
        }
        // Google's field is a 32-bit integer.
        let count = alert.badge.map(|badge| badge.min(i32::MAX.unsigned_abs().into()));
        shown.extend(count.map(|count| ("notification_count".into(), count.into())));
        android.insert("notification".into(), shown.into());
    }
    if !data.is_empty() {
        android.insert("data".into(), data.into());
    }
    Value::from(android).to_string().into_bytes()
}

/// Returns the data without the fields for which FCM refuses the whole message: `from`, `message_type`, `collapse_key`,
/// and names that start with `google` or `gcm` (Message.data; "Build app server send requests").
pub fn allowed<'n>(data: Vec<(&'n str, &'n str)>) -> impl Iterator<Item = (&'n str, &'n str)> {
    static IS_LOGGED: AtomicBool = AtomicBool::new(false);
    let is_reserved = |name: &str| {
        let is_word = matches!(name, "from" | "message_type" | "collapse_key");
        is_word || name.starts_with("google") || name.starts_with("gcm")
    };
    data.into_iter().filter(move |(name, _)| {
        let is_left_out = is_reserved(name);
        if is_left_out && !IS_LOGGED.swap(true, Ordering::Relaxed) {
            let field: String = name.chars().take(MAX_LOGGED_NAME_CHARS).collect();
            tracing::warn!(field, "a field is left out of notifications by FCM, since Google reserves its name");
        }
        !is_left_out
    })
}

/// The body of an error response (google.rpc.Status, with FcmError and BadRequest among its details).
#[derive(Debug, Default, Deserialize)]
struct FcmErrorBody {
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
    /// The violations of a QuotaFailure.
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
    /// Returns the error code of FCM ("FCM error codes"), or else the general one of Google's APIs.
    fn code(&self) -> &str {
        self.details.iter().find_map(|detail| detail.error_code.as_deref()).unwrap_or(&self.status)
    }

    /// Returns whether the invalid argument is the device's token.
    fn is_of_token(&self) -> bool {
        let violations: Vec<_> = self.details.iter().flat_map(|detail| &detail.field_violations).collect();
        if violations.is_empty() {
            return self.message.contains("registration token");
        }
        violations.iter().any(|violation| violation.field == "message.token")
    }

    /// Returns whether the quota is the device's: a QuotaFailure or the message names the device ("Device message rate
    /// exceeded"). For the project's quota Google sends an ErrorInfo, and a message about requests per minute.
    fn is_quota_of_device(&self) -> bool {
        let violations = self.details.iter().flat_map(|detail| &detail.violations);
        let mut texts = violations.flat_map(|violation| [&violation.subject, &violation.description]);
        let is_of_device = |text: &String| text.to_ascii_lowercase().contains("device");
        is_of_device(&self.message) || texts.any(is_of_device)
    }
}

/// Returns whether the message is too large. Google has no error code for this, only "Android message is too big".
fn is_too_large(answer: &ProviderResponse) -> bool {
    let FcmErrorBody { error } = answer.json();
    answer.status == StatusCode::BAD_REQUEST && error.message.contains("too big")
}

/// Returns the outcome of a publish ("FCM error codes", ErrorCode).
fn outcome(answer: &ProviderResponse) -> ProviderResult {
    let (status, headers) = (answer.status.as_u16(), &answer.headers);
    if status == 200 {
        return Ok(Outcome::Delivered);
    }
    let FcmErrorBody { error } = answer.json();
    let described = format!("status {status}, {}", named(error.code()));
    Ok(match (status, error.code()) {
        (_, "UNREGISTERED") => Outcome::Gone(described),
        (_, "SENDER_ID_MISMATCH") => Outcome::Suspect(described),
        (400, "INVALID_ARGUMENT") if error.is_of_token() => Outcome::Suspect(described),
        // It concerns the APNs credentials that are stored at Firebase.
        (_, "THIRD_PARTY_AUTH_ERROR") => Outcome::Refused(described),
        (401, _) => return Err(Unauthorized::refused(described)),
        (429, _) if error.is_quota_of_device() => failure(described, headers, FailureScope::Device).into(),
        (429, _) => quota_exceeded(described, headers).into(),
        (500.., _) => failure(described, headers, FailureScope::Service).into(),
        _ => Outcome::Refused(described),
    })
}

/// Returns the failure for the project's quota, or for a quota that Google does not name.
fn quota_exceeded(reason: String, headers: &HeaderMap) -> Failure {
    Failure { reason, retry_after: retry_after(headers).or(Some(QUOTA_PAUSE)), scope: FailureScope::Service }
}

/// Returns the reason why a publish was not delivered; empty if it was.
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
    async fn a_key_that_is_refused_for_ten_minutes_is_wrong() {
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
    fn a_quota_is_of_the_device_or_of_the_project() {
        let failure = |message: &str, details: Value| {
            let error = json!({"code": 429, "status": "RESOURCE_EXHAUSTED", "message": message, "details": details});
            let body = json!({"error": error}).to_string().into_bytes();
            let answer = ProviderResponse { status: StatusCode::TOO_MANY_REQUESTS, headers: HeaderMap::new(), body };
            let Ok(Outcome::Transient(failure)) = outcome(&answer) else { return None };
            Some((failure.scope, failure.retry_after))
        };
        let code = json!({"errorCode": "QUOTA_EXCEEDED"});
        let quota =
            |subject, description| json!([code, {"violations": [{"subject": subject, "description": description}]}]);
        let of_device = Some((FailureScope::Device, None));
        assert_eq!(failure("Device message rate exceeded", json!([code])), of_device);
        assert_eq!(failure("", quota("device", "")), of_device);
        assert_eq!(failure("", quota("", "Device message rate exceeded")), of_device);
        let of_all = Some((FailureScope::Service, Some(QUOTA_PAUSE)));
        assert_eq!(failure("", json!([code])), of_all);
        assert_eq!(failure("", quota("project", "Message rate exceeded")), of_all);
        let per_minute = "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute'";
        assert_eq!(failure(per_minute, json!([{"reason": "RATE_LIMIT_EXCEEDED", "domain": "googleapis.com"}])), of_all);
    }
}
