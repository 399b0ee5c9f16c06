//! A push service of Web Push (RFC 8030, with RFC 8291 and RFC 8292), and a device that subscribes to it.

use std::ops::Deref;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{PublicKey, SecretKey};
use serde_json::{Value, json};

use crate::{Answer, CANARY, Double, Request, canary, name_of, seconds_now};

/// The double of a push service. As an HTTP proxy of a client, it is the push service of each vendor, chosen by the
/// host of the request.
#[derive(Clone)]
pub struct WebPush(Double);

impl Deref for WebPush {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.0
    }
}

/// The keys of a device, which decrypt its notifications.
pub struct Subscriber {
    key: SecretKey,
    auth: [u8; 16],
}

impl WebPush {
    /// Starts the double on a free port of the loopback address.
    pub async fn start() -> Self {
        let double = Double::start(1_000, |_, request| {
            let device = name_of(request.path.strip_prefix("/push/").unwrap_or("none")).to_owned();
            let answer = match check(request).and_then(|()| check_as_vendor(request)) {
                Ok(()) => Answer::json(201, &json!({})).with("location", "/message/1"),
                Err((status, reason)) => Answer::json(status, &json!({"reason": reason})),
            };
            (device, answer)
        })
        .await;
        Self(double)
    }

    /// Returns the endpoint URL of a device.
    pub fn endpoint(&self, device: &str) -> String {
        format!("{}/push/{}", self.url, canary(device))
    }
}

impl Subscriber {
    /// Makes keys from a number from 1: the same number gives the same keys.
    pub fn new(number: u8) -> Self {
        let mut auth = [number; 16];
        auth[..CANARY.len()].copy_from_slice(CANARY.as_bytes());
        Self { key: SecretKey::from_slice(&[number; 32]).unwrap(), auth }
    }

    /// Returns the public key: an uncompressed point in base64url.
    pub fn p256dh(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.key.public_key().to_encoded_point(false))
    }

    /// Returns the authentication secret: 16 bytes in base64url.
    pub fn auth(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.auth)
    }

    /// Returns the private key: 32 bytes in base64url.
    pub fn private_key(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.key.to_bytes())
    }

    /// Decrypts a notification (RFC 8291, section 3.4) and removes its padding. Returns `None` if it is encrypted for
    /// other keys.
    pub fn decrypt(&self, body: &[u8]) -> Option<Vec<u8>> {
        // RFC 8188, section 2.1: a salt, the size of records, the length of the key, the key; then the only record.
        let (salt, sender, mut record) = (body.get(..16)?, body.get(21..86)?, body.get(86..)?.to_vec());
        let shared = diffie_hellman(self.key.to_nonzero_scalar(), PublicKey::from_sec1_bytes(sender).ok()?.as_affine());
        let receiver = self.key.public_key().to_encoded_point(false);
        let info = [b"WebPush: info\0", receiver.as_bytes(), sender].concat();
        let secret = derive(&self.auth, shared.raw_secret_bytes(), &info);
        let key = derive(salt, &secret, b"Content-Encoding: aes128gcm\0");
        let nonce = derive(salt, &secret, b"Content-Encoding: nonce\0");
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key[..16]).ok()?);
        let nonce = Nonce::try_assume_unique_for_key(&nonce[..12]).ok()?;
        let padded = key.open_in_place(nonce, Aad::empty(), &mut record).ok()?;
        // Section 2 of RFC 8188: the delimiter of the last record, then zeros.
        let end = padded.iter().rposition(|byte| *byte != 0)?;
        (padded[end] == 2).then(|| padded[..end].to_vec())
    }
}

/// Returns the first block of HKDF with SHA-256 (RFC 5869).
fn derive(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; 32] {
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let block = sign(sign(salt, secret).as_ref(), &[info, &[1]].concat());
    block.as_ref().try_into().unwrap()
}

fn refused(is_wrong: bool, status: u16, reason: &'static str) -> Result<(), (u16, &'static str)> {
    if is_wrong { Err((status, reason)) } else { Ok(()) }
}

fn check(request: &Request) -> Result<(), (u16, &'static str)> {
    refused(request.method != "POST", 405, "method")?;
    // Google and Microsoft accept at most four weeks.
    refused(request.header("ttl").parse::<u32>().is_ok_and(|seconds| seconds > 2_419_200), 400, "TTL")?;
    refused(request.header("ttl").parse::<u32>().is_err(), 400, "TTL")?;
    refused(request.header("content-encoding") != "aes128gcm", 400, "Content-Encoding")?;
    let urgency = request.header("urgency");
    refused(!["", "very-low", "low", "normal", "high"].contains(&urgency), 400, "Urgency")?;
    let topic = request.header("topic");
    let is_base64url = topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    refused(topic.len() > 32 || !is_base64url, 400, "Topic")?;
    refused(request.body.len() > 4_096, 413, "size")?;
    // RFC 8188, section 2.1: a salt, the size of records, the length of the key, the key. RFC 8291, section 4: one
    // record, smaller than that size.
    refused(request.body.len() < 86 + 17 || request.body[20] != 65, 400, "header")?;
    let record_size = u32::from_be_bytes(request.body[16..20].try_into().unwrap());
    refused(record_size as usize <= request.body.len() - 86, 400, "rs")?;
    let authorization = request.header("authorization");
    let parts = authorization.strip_prefix("vapid t=").and_then(|parts| parts.split_once(", k="));
    let (token, key) = parts.ok_or((401, "Authorization"))?;
    let point = BASE64_URL_SAFE_NO_PAD.decode(key).map_err(|_| (403, "k"))?;
    refused(point.len() != 65, 403, "k")?;
    let part = |range| BASE64_URL_SAFE_NO_PAD.encode(&point[range]);
    let key = DecodingKey::from_ec_components(&part(1..33), &part(33..65)).map_err(|_| (403, "k"))?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[format!("http://{}", request.header("host"))]);
    let claims = decode::<Value>(token, &key, &validation).map_err(|_| (403, "BadJwtToken"))?.claims;
    refused(claims["exp"].as_u64().unwrap_or(0) > seconds_now() + 86_400, 403, "BadJwtToken")?;
    let subject = claims["sub"].as_str().unwrap_or_default();
    let is_contact = subject.starts_with("mailto:") || subject.starts_with("https://");
    refused(!is_contact || subject.contains([' ', '<', '>']) || subject.contains("localhost"), 403, "BadJwtToken")
}

/// Checks the rules of single vendors.
fn check_as_vendor(request: &Request) -> Result<(), (u16, &'static str)> {
    let host = request.header("host");
    let is_at = |domain| host == domain || host.ends_with(&format!(".{domain}"));
    if is_at("push.services.mozilla.com") {
        // The limit for Firefox on Android.
        refused(request.body.len() > 2_744, 413, "Data payload is too large")?;
    }
    if is_at("notify.windows.com") {
        let policy = if request.header("ttl") == "0" { "no-cache" } else { "cache" };
        refused(request.header("x-wns-cache-policy") != policy, 400, "Ttl value conflicts with X-WNS-Cache-Policy.")?;
    }
    Ok(())
}
