//! Web Push (RFC 8030), encrypted for the device (RFC 8291) and signed (RFC 8292): browsers, and UnifiedPush.

pub mod endpoint;

pub use endpoint::{InvalidEndpoint, TrustedOrigins};

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use p256::ecdsa::SigningKey;
use p256::pkcs8::DecodePrivateKey;
use pushlark_plugin::{Payload, Priority, PublishOptions};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use web_push_native::{Auth, encrypt};

use crate::content::is_call;
use crate::direct::Published;
use crate::fit::fit;
use crate::http_client::{HttpClient, failure, outcome, unanswered};
use crate::jws::{BadKey, es256};
use crate::notification::Notification;
use crate::outcome::{Extent, Outcome};
use endpoint::NotPublic;

/// The most that a push service must take is 4,096 bytes of ciphertext (RFC 8030, section 7.2), which leaves so many
/// bytes of plaintext (RFC 8291, section 4).
const MAX_PAYLOAD: usize = 3_993;
/// How many signatures are kept.
const MAX_SIGNATURES: usize = 1_000;
/// How long a signature is good for, in seconds; at most 24 hours (RFC 8292, section 2).
const TOKEN_LIFETIME: i64 = 12 * 3_600;
/// As users' browsers write it, with padding or without.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An app's credentials for Web Push.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The private key of VAPID: P-256, as PKCS #8 PEM or as 32 bytes in base64url.
    key: String,
    /// Whom a push service may write to: `mailto:` or `https:`.
    subject: String,
}

/// The HTTP clients of all apps.
#[derive(Clone)]
pub struct Clients {
    /// For trusted origins.
    pub trusted: HttpClient,
    /// For all other endpoints.
    pub public: HttpClient,
}

/// The client of one app.
pub struct WebPush {
    clients: Clients,
    trusted_origins: TrustedOrigins,
    key: SigningKey,
    /// The public key: an uncompressed point, in base64url.
    public_key: String,
    subject: String,
    /// The signature for each push service, and until when it is good.
    signatures: Mutex<HashMap<String, (i64, String)>>,
}

/// Where a device is reached, and the keys that only it can decrypt with.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    endpoint: Url,
    p256dh: p256::PublicKey,
    auth: Auth,
}

/// A form that names no device of Web Push; the client's to mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubscription {
    /// A field is missing.
    #[error("the form has no field {0:?}")]
    Missing(&'static str),
    /// The endpoint is not one that is called.
    #[error("the form's field \"endpoint\" cannot be used: {0}")]
    Endpoint(#[from] InvalidEndpoint),
    /// A key is none.
    #[error("the form's field {0:?} must be {1} in base64url")]
    Key(&'static str, &'static str),
}

impl Subscription {
    /// From the options `endpoint`, `p256dh` and `auth`, as a browser's `PushSubscription` has them (W3C Push API).
    pub fn new(options: &PublishOptions, trusted_origins: &TrustedOrigins) -> Result<Self, InvalidSubscription> {
        let require = |name| options.given(name).ok_or(InvalidSubscription::Missing(name));
        let endpoint = trusted_origins.endpoint(require("endpoint")?)?;
        let key = InvalidSubscription::Key("p256dh", "a point of P-256");
        let p256dh = BASE64_URL.decode(require("p256dh")?).map_err(|_| key)?;
        let p256dh = p256::PublicKey::from_sec1_bytes(&p256dh).map_err(|_| key)?;
        let key = InvalidSubscription::Key("auth", "16 bytes");
        let auth = BASE64_URL.decode(require("auth")?).map_err(|_| key)?;
        let auth = Auth::from_exact_iter(auth).ok_or(key)?;
        Ok(Self { endpoint, p256dh, auth })
    }
}

impl WebPush {
    pub fn new(settings: Settings, clients: Clients, trusted_origins: TrustedOrigins) -> Result<Self, BadKey> {
        let Settings { key, subject } = settings;
        let key = signing_key(key.trim()).ok_or(BadKey("one of P-256: PKCS #8 as PEM, or 32 bytes in base64url"))?;
        let public_key = BASE64_URL_SAFE_NO_PAD.encode(key.verifying_key().to_encoded_point(false));
        Ok(Self { clients, trusted_origins, key, public_key, subject, signatures: Mutex::default() })
    }

    /// Sends one notification to the device that its options name.
    pub async fn publish(&self, notification: &Notification<'_>) -> Published {
        let options = &notification.service.options;
        let subscription = match Subscription::new(options, &self.trusted_origins) {
            Ok(subscription) => subscription,
            Err(invalid) => return Ok(Outcome::Refused(invalid.to_string())),
        };
        let text = match fit(MAX_PAYLOAD, notification.payload, text) {
            Ok(text) => text,
            Err(too_large) => return Ok(Outcome::Refused(too_large.to_string())),
        };
        let Subscription { endpoint, p256dh, auth } = subscription;
        let body = match encrypt(text, &p256dh, &auth) {
            Ok(body) => body,
            Err(error) => return Ok(Outcome::Refused(format!("not encrypted: {error}"))),
        };
        let urgency = match options.priority() {
            _ if is_call(notification.payload) => "high",
            Ok(Some(Priority::High)) => "high",
            _ => "normal",
        };
        let authorization = self.authorization(&endpoint, OffsetDateTime::now_utc());
        let request = |client: &reqwest::Client| {
            client
                .post(endpoint.clone())
                .header(AUTHORIZATION, &authorization)
                .header("TTL", notification.time_to_live().as_secs())
                .header("Urgency", urgency)
                // A repeat takes the place of what it repeats, where that still waits for the device.
                .header("Topic", notification.name(32))
                .header(CONTENT_ENCODING, "aes128gcm")
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(body.clone())
        };
        let client = if self.trusted_origins.has(&endpoint) { &self.clients.trusted } else { &self.clients.public };
        Ok(match client.send(request).await {
            Ok(response) => outcome_of(&response),
            Err(error) if is_not_public(&error) => Outcome::Refused(InvalidEndpoint::from(NotPublic).to_string()),
            Err(error) => unanswered(error).into(),
        })
    }

    /// The signature for one push service (RFC 8292, section 3).
    fn authorization(&self, endpoint: &Url, now: OffsetDateTime) -> String {
        let (audience, now) = (endpoint.origin().ascii_serialization(), now.unix_timestamp());
        // Each change is complete in itself.
        let mut signatures = self.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((expires, signature)) = signatures.get(&audience)
            && expires - now > TOKEN_LIFETIME / 2
        {
            return signature.clone();
        }
        let expires = now + TOKEN_LIFETIME;
        let claims = json!({"aud": audience, "exp": expires, "sub": self.subject});
        let token = es256(&self.key, &json!({"typ": "JWT", "alg": "ES256"}), &claims);
        let signature = format!("vapid t={token}, k={}", self.public_key);
        // Users name the push services.
        if signatures.len() >= MAX_SIGNATURES {
            signatures.clear();
        }
        signatures.insert(audience, (expires, signature.clone()));
        signature
    }
}

fn signing_key(key: &str) -> Option<SigningKey> {
    if key.starts_with("-----BEGIN") {
        return SigningKey::from_pkcs8_pem(key).ok();
    }
    SigningKey::from_slice(&BASE64_URL.decode(key).ok()?).ok()
}

/// What the app decrypts: the payload's fields.
fn text(payload: &Payload) -> Vec<u8> {
    let fields: Map<String, Value> = payload.fields().map(|(name, value)| (name.into(), value.into())).collect();
    Value::from(fields).to_string().into_bytes()
}

/// By the status alone: what else a server that a user names may say is not read.
fn outcome_of(response: &Response) -> Outcome {
    let (status, headers) = (response.status(), response.headers());
    let reason = format!("status {}", status.as_u16());
    match status {
        StatusCode::NOT_FOUND => Outcome::Gone(reason),
        // A limit is a subscription's, not the push service's.
        StatusCode::TOO_MANY_REQUESTS => failure(reason, headers, Extent::Device).into(),
        _ => outcome(status, headers, reason),
    }
}

fn is_not_public(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<NotPublic>() {
            return true;
        }
        cause = error.source();
    }
    false
}
