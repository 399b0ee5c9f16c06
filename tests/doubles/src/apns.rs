//! Apple's push service ("Sending notification requests to APNs", "Handling notification responses from APNs").

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

use crate::{Answer, Double, Request, seconds_now};

/// A provider's private key as Apple's `.p8` file has it (PKCS #8).
pub const APNS_KEY: &str = include_str!("../../fixtures/keys/apns.p8");
/// The same key as OpenSSL's `ecparam` writes it (SEC 1).
pub const APNS_KEY_SEC1: &str = include_str!("../../fixtures/keys/apns.sec1.pem");
/// Another private key, in PKCS #8.
pub const APNS_NEW_KEY: &str = include_str!("../../fixtures/keys/apns-new.p8");
/// The team ID of both keys.
pub const APNS_TEAM: &str = "canary1234";
/// The key ID of both keys.
pub const APNS_KEY_ID: &str = "KEY1234567";
/// The bundle ID of the app.
pub const APNS_TOPIC: &str = "com.example.chat";

/// A double of APNs: checks tokens, headers and payloads.
#[derive(Clone)]
pub struct Apns {
    double: Double,
    has_new_key: Arc<Mutex<bool>>,
}

impl Deref for Apns {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl Apns {
    /// Listens on a free port, with 1,000 streams per connection.
    pub async fn start() -> Self {
        Self::with_streams(1_000).await
    }

    /// Listens on a free port, with `streams` streams per connection.
    pub async fn with_streams(streams: u32) -> Self {
        let has_new_key = Arc::new(Mutex::new(false));
        let key = Arc::clone(&has_new_key);
        // The last provider token of each connection.
        let tokens: Mutex<HashMap<usize, (String, u64)>> = Mutex::default();
        let double = Double::start(streams, move |_, request| {
            let device = request.path.strip_prefix("/3/device/").unwrap_or_default().to_owned();
            let answer = match check(request, &device, *key.lock().unwrap(), &tokens) {
                Ok(()) => Answer::json(200, &json!({})).with("apns-id", "00000000-0000-0000-0000-000000000000"),
                Err((status, reason)) => apns_error(status, reason),
            };
            (device, answer)
        })
        .await;
        Self { double, has_new_key }
    }

    /// Accepts only tokens that are signed by [`APNS_NEW_KEY`] from now on.
    pub fn change_key(&self) {
        *self.has_new_key.lock().unwrap() = true;
    }
}

/// Makes an error answer of APNs.
pub fn apns_error(status: u16, reason: &str) -> Answer {
    Answer::json(status, &json!({"reason": reason}))
}

type Checked = Result<(), (u16, &'static str)>;

fn check(request: &Request, device: &str, has_new_key: bool, tokens: &Mutex<HashMap<usize, (String, u64)>>) -> Checked {
    let refused = |is_wrong: bool, status, reason| if is_wrong { Err((status, reason)) } else { Ok(()) };
    refused(request.method != "POST", 405, "MethodNotAllowed")?;
    refused(device.is_empty(), 404, "BadPath")?;
    check_token(request, has_new_key, tokens)?;
    let is_hexadecimal = device.len() >= 8 && device.bytes().all(|byte| byte.is_ascii_hexdigit());
    refused(!is_hexadecimal, 400, "BadDeviceToken")?;
    let topic = request.header("apns-topic");
    let (app, is_voip) = match topic.strip_suffix(".voip") {
        Some(app) => (app, true),
        None => (topic, false),
    };
    refused(topic.is_empty(), 400, "MissingTopic")?;
    refused(app != APNS_TOPIC, 400, "TopicDisallowed")?;
    let push_type = request.header("apns-push-type");
    refused(!matches!(push_type, "alert" | "background" | "voip"), 400, "InvalidPushType")?;
    refused(is_voip != (push_type == "voip"), 400, "DeviceTokenNotForTopic")?;
    let priority = request.header("apns-priority");
    refused(!matches!(priority, "5" | "10") || (push_type == "background" && priority == "10"), 400, "BadPriority")?;
    refused(request.header("apns-expiration").parse::<u64>().is_err(), 400, "BadExpirationDate")?;
    refused(request.header("apns-collapse-id").len() > 64, 400, "BadCollapseId")?;
    refused(request.body.is_empty(), 400, "PayloadEmpty")?;
    refused(request.body.len() > if is_voip { 5_120 } else { 4_096 }, 413, "PayloadTooLarge")?;
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let aps = &body["aps"];
    refused(!aps.is_object(), 400, "BadPayload")?;
    // Apple accepts other payloads too, and delivers them late or never.
    let is_fine = match push_type {
        "alert" => aps["alert"]["body"].is_string() || *aps == json!({"badge": aps["badge"], "content-available": 1}),
        "background" => *aps == json!({"content-available": 1}),
        _ => true,
    };
    refused(!is_fine, 400, "BadPayload")
}

/// "Establishing a token-based connection to APNs".
fn check_token(request: &Request, has_new_key: bool, tokens: &Mutex<HashMap<usize, (String, u64)>>) -> Checked {
    let invalid = (403, "InvalidProviderToken");
    let token = request.header("authorization").strip_prefix("bearer ").ok_or((403, "MissingProviderToken"))?;
    let public: &[u8] = if has_new_key {
        include_bytes!("../../fixtures/keys/apns-new.pub")
    } else {
        include_bytes!("../../fixtures/keys/apns.pub")
    };
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_aud) = (false, false);
    let header = decode_header(token).map_err(|_| invalid)?;
    let key = DecodingKey::from_ec_pem(public).unwrap();
    let claims = decode::<Value>(token, &key, &validation).map_err(|_| invalid)?.claims;
    if header.kid.as_deref() != Some(APNS_KEY_ID) || claims["iss"] != APNS_TEAM {
        return Err(invalid);
    }
    let issued_at = claims["iat"].as_u64().ok_or(invalid)?;
    if issued_at + 3_600 < seconds_now() || issued_at > seconds_now() + 60 {
        return Err((403, "ExpiredProviderToken"));
    }
    let mut tokens = tokens.lock().unwrap();
    let last = tokens.entry(request.connection).or_insert_with(|| (token.into(), issued_at));
    if last.0 != token && issued_at.abs_diff(last.1) < 20 * 60 && !has_new_key {
        return Err((429, "TooManyProviderTokenUpdates"));
    }
    *last = (token.into(), issued_at);
    Ok(())
}
