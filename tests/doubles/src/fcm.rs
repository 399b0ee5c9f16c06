//! Firebase Cloud Messaging (HTTP v1 API), and Google's OAuth token server.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::{Map, Value, json};

use crate::{Answer, Double, Request, canary, name_of, seconds_now};

/// The private key of a service account (PKCS #8).
pub const GOOGLE_KEY: &str = include_str!("../../fixtures/keys/google.pem");
/// The same key in the older format of OpenSSL (PKCS #1).
pub const GOOGLE_KEY_PKCS1: &str = include_str!("../../fixtures/keys/google.pkcs1.pem");
/// Another private key, in PKCS #8.
pub const GOOGLE_NEW_KEY: &str = include_str!("../../fixtures/keys/google-new.pem");
/// The project ID of the service account.
pub const GOOGLE_PROJECT: &str = "example-chat";
/// The e-mail address of the service account.
pub const GOOGLE_CLIENT: &str = "canary@example-chat.iam.gserviceaccount.com";

/// A double of FCM and of Google's token server.
#[derive(Clone)]
pub struct Fcm {
    double: Double,
    grants: Arc<Mutex<Grants>>,
}

#[derive(Default)]
struct Grants {
    has_new_key: bool,
    good: HashSet<String>,
    number: usize,
    refused: usize,
    fail_next: Option<Answer>,
}

impl Deref for Fcm {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl Fcm {
    /// The largest number of requests side by side on one connection.
    const STREAMS: u32 = 1_000;

    /// Starts the double on a free port of the loopback address.
    pub async fn start() -> Self {
        let grants: Arc<Mutex<Grants>> = Arc::default();
        Self { double: Double::start(Self::STREAMS, Self::check(&grants)).await, grants }
    }

    /// The same, with TLS and a certificate of the issuer in [`CA_FILE`](crate::CA_FILE).
    pub async fn start_with_tls() -> Self {
        let grants: Arc<Mutex<Grants>> = Arc::default();
        Self { double: Double::start_with_tls(Self::STREAMS, Self::check(&grants)).await, grants }
    }

    fn check(grants: &Arc<Mutex<Grants>>) -> impl Fn(&str, &Request) -> (String, Answer) + use<> {
        let grants = Arc::clone(grants);
        move |url, request| {
            let mut grants = grants.lock().unwrap();
            if request.path == "/token" {
                return (String::new(), grants.grant(url, request));
            }
            if request.method != "POST" {
                return (String::new(), fcm_error(404, "NOT_FOUND", None, "Requested entity was not found."));
            }
            let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let device = name_of(message["message"]["token"].as_str().unwrap_or("none")).to_owned();
            (device, check(request, &message, &grants.good))
        }
    }

    /// Returns the JSON file of the service account, with this double's URLs.
    pub fn service_account(&self) -> Value {
        let token_uri = format!("{}/token", self.url);
        json!({"type": "service_account", "project_id": GOOGLE_PROJECT, "private_key_id": "canary",
            "private_key": GOOGLE_KEY, "client_email": GOOGLE_CLIENT, "token_uri": token_uri, "url": self.url})
    }

    /// Returns the number of access tokens that were issued.
    pub fn granted(&self) -> usize {
        self.grants().number
    }

    /// Returns the number of token requests that were refused because of their assertion.
    pub fn refused(&self) -> usize {
        self.grants().refused
    }

    /// Revokes all access tokens.
    pub fn revoke_tokens(&self) {
        self.grants().good.clear();
    }

    /// Sets the answer to the next token request.
    pub fn fail_next_grant(&self, answer: Answer) {
        self.grants().fail_next = Some(answer);
    }

    /// Accepts only assertions that are signed by [`GOOGLE_NEW_KEY`] from now on, and revokes all access tokens.
    pub fn change_key(&self) {
        let mut grants = self.grants();
        grants.has_new_key = true;
        grants.good.clear();
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap()
    }
}

impl Grants {
    /// "Using OAuth 2.0 for server to server applications".
    fn grant(&mut self, url: &str, request: &Request) -> Answer {
        if let Some(answer) = self.fail_next.take() {
            return answer;
        }
        let invalid =
            Answer::json(400, &json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}));
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let form: Vec<_> = body.split('&').filter_map(|field| field.split_once('=')).collect();
        let field = |name| form.iter().find(|field| field.0 == name).map_or("", |field| field.1);
        if field("grant_type") != "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer" {
            return Answer::json(400, &json!({"error": "unsupported_grant_type"}));
        }
        let public: &[u8] = if self.has_new_key {
            include_bytes!("../../fixtures/keys/google-new.pub")
        } else {
            include_bytes!("../../fixtures/keys/google.pub")
        };
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[format!("{url}/token")]);
        validation.set_issuer(&[GOOGLE_CLIENT]);
        let key = DecodingKey::from_rsa_pem(public).unwrap();
        let Ok(assertion) = decode::<Value>(field("assertion"), &key, &validation) else {
            self.refused += 1;
            return invalid;
        };
        let claims = assertion.claims;
        let (issued_at, expires) = (claims["iat"].as_u64().unwrap_or(0), claims["exp"].as_u64().unwrap_or(0));
        let is_fine = claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
            && issued_at.abs_diff(seconds_now()) < 300
            && expires - issued_at <= 3_600;
        if !is_fine {
            return invalid;
        }
        self.number += 1;
        let token = canary(&format!("ya29.{}", self.number));
        self.good.insert(token.clone());
        Answer::json(200, &json!({"access_token": token, "expires_in": 3_599, "token_type": "Bearer"}))
    }
}

/// Makes an error answer (google.rpc.Status) with FCM's error code in its details.
pub fn fcm_error(status: u16, name: &str, error_code: Option<&str>, message: &str) -> Answer {
    let details: Vec<_> = error_code
        .map(|code| json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}))
        .into_iter()
        .collect();
    let error = json!({"code": status, "message": message, "status": name, "details": details});
    Answer::json(status, &json!({"error": error}))
}

/// Makes the error for a message that is too large, which has no specific error code.
pub fn fcm_too_big() -> Answer {
    fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "Android message is too big")
}

/// Makes the error for too many messages to one device, which has a QuotaFailure in its details.
pub fn fcm_device_quota() -> Answer {
    let description = "Device message rate exceeded";
    let details = json!([{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "QUOTA_EXCEEDED"},
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"subject": "target", "description": description}]}]);
    let message = "Sending limit exceeded for the message target.";
    let error = json!({"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details});
    Answer::json(429, &json!({"error": error}))
}

/// Makes the error for too many messages of one project.
pub fn fcm_project_quota() -> Answer {
    let details = json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com", "metadata": {"service": "fcm.googleapis.com", "quota_unit": "1/min/{project}",
            "quota_limit": "SendsPerMinutePerProject", "consumer": "projects/123456789012"}}]);
    let message = "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' of service \
                   'fcm.googleapis.com' for consumer 'project_number:123456789012'.";
    let error = json!({"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details});
    Answer::json(429, &json!({"error": error}))
}

fn invalid(field: &str) -> Answer {
    let details = json!([{"@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"field": field, "description": "Invalid value"}]}]);
    let message = format!("Invalid value at '{field}'");
    let error = json!({"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": details});
    Answer::json(400, &json!({"error": error}))
}

fn check(request: &Request, message: &Value, good_tokens: &HashSet<String>) -> Answer {
    let bearer = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if !good_tokens.contains(bearer) {
        return fcm_error(401, "UNAUTHENTICATED", None, "Request had invalid authentication credentials.");
    }
    if request.path != format!("/v1/projects/{GOOGLE_PROJECT}/messages:send") {
        return fcm_error(404, "NOT_FOUND", None, "Requested entity was not found.");
    }
    match unknown(message) {
        Some(field) => invalid(&field),
        None if message["message"]["android"].to_string().len() > 4_096 => fcm_too_big(),
        None => Answer::json(200, &json!({"name": format!("projects/{GOOGLE_PROJECT}/messages/1")})),
    }
}

/// Returns whether this is a field of AndroidNotification.
fn is_of_notification((name, value): (&String, &Value)) -> bool {
    match name.as_str() {
        "title" | "body" | "tag" | "click_action" | "sound" | "channel_id" => value.is_string(),
        "default_sound" | "default_vibrate_timings" => value.is_boolean(),
        "notification_priority" => *value == "PRIORITY_LOW",
        "notification_count" => value.as_u64().is_some_and(|count| i32::try_from(count).is_ok()),
        _ => false,
    }
}

/// Returns whether this is a field of the data, with a name that is not reserved.
fn is_of_data((name, value): (&String, &Value)) -> bool {
    let is_word = matches!(name.as_str(), "from" | "message_type" | "collapse_key");
    !(is_word || name.starts_with("google") || name.starts_with("gcm")) && value.is_string()
}

/// Returns the first field that the API reference does not allow.
fn unknown(request: &Value) -> Option<String> {
    let empty = Map::new();
    let object = |value: &Value| value.as_object().unwrap_or(&empty).clone();
    let message = object(&request["message"]);
    let android = object(&message.get("android").cloned().unwrap_or_default());
    let is_ttl = |ttl: &str| ttl.strip_suffix('s').is_some_and(|seconds| seconds.parse::<u64>().is_ok());
    for (name, value) in &message {
        let is_fine = match name.as_str() {
            "token" => value.is_string(),
            "android" => value.is_object(),
            _ => false,
        };
        if !is_fine {
            return Some(format!("message.{name}"));
        }
    }
    for (name, value) in &android {
        let is_fine = match name.as_str() {
            "priority" => *value == "HIGH" || *value == "NORMAL",
            "ttl" => value.as_str().is_some_and(is_ttl),
            "collapse_key" => value.is_string(),
            "notification" => value.as_object().is_some_and(|fields| fields.iter().all(is_of_notification)),
            "data" => value.as_object().is_some_and(|fields| fields.iter().all(is_of_data)),
            _ => false,
        };
        if !is_fine {
            return Some(format!("message.android.{name}"));
        }
    }
    message.get("token").is_none().then(|| "message.token".into())
}
