//! Who may call.

use std::fmt;

use aws_config::SdkConfig;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_settings::{Environment, Secret, SettingError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_webhooks::{Headers, ID, Key, SIGNATURE, TIMESTAMP};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use time::OffsetDateTime;

use crate::{HttpRequest, Problem};

const SETTING: &str = "WEBHOOK_SECRET";

/// What a caller must present: a secret, as a bearer token, as the password of HTTP Basic (with any user), or as
/// `?token=` where a chat server can set no header; or the signature of Standard Webhooks by it.
#[derive(Clone)]
pub enum Access {
    /// Anybody may call. Only for a stack that listens on loopback alone.
    Open,
    /// Whoever knows one of these. Without any, everybody is refused.
    Secrets(Secrets),
}

/// Secrets as they are compared.
#[derive(Clone, Default)]
pub struct Secrets {
    /// Digests, so that comparing takes the same time whatever is presented.
    digests: Vec<[u8; 32]>,
    keys: Vec<Key>,
}

impl Access {
    /// From `WEBHOOK_SECRET`: secrets, comma-separated, or where they are held so (see [`Secret`]).
    pub async fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let setting = environment.text(SETTING).unwrap_or_default();
        let secrets = Secret::new(setting, aws).read().await;
        let secrets = secrets.map_err(|unread| SettingError::invalid(SETTING, Causes(&unread)))?;
        Ok(Self::of_secrets(&secrets))
    }

    /// From secrets, comma-separated.
    pub fn of_secrets(secrets: &str) -> Self {
        let secrets = secrets.split(',').map(str::trim).filter(|secret| !secret.is_empty());
        let (digests, keys) =
            secrets.map(|secret| (<[u8; 32]>::from(Sha256::digest(secret)), Key::new(secret))).unzip();
        Self::Secrets(Secrets { digests, keys })
    }

    pub(crate) fn check(&self, request: &HttpRequest, body: &[u8]) -> Result<(), Problem> {
        let Self::Secrets(secrets) = self else { return Ok(()) };
        secrets.check(request, body).map_err(|detail| {
            count(Metric::Unauthorized);
            Problem::unauthorized(detail)
        })
    }
}

impl Secrets {
    fn check(&self, request: &HttpRequest, body: &[u8]) -> Result<(), String> {
        if self.keys.is_empty() {
            return Err("no WEBHOOK_SECRET is configured, so every request is refused".into());
        }
        if let Some(credential) = presented(request) {
            let digest: [u8; 32] = Sha256::digest(credential).into();
            let known = self.digests.iter().fold(Choice::from(0), |known, secret| known | secret.ct_eq(&digest));
            return if known.into() { Ok(()) } else { Err("the credential is not valid".into()) };
        }
        let [id, timestamp, signature] = [ID, TIMESTAMP, SIGNATURE].map(|name| request.header(name));
        let headers = Headers { id, timestamp, signature };
        if headers.is_any() {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            return headers.verify(&self.keys, body, now).map_err(|unverified| unverified.to_string());
        }
        Err("a bearer token, a Basic password, ?token= or a webhook's signature is required".into())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Secrets(secrets) => write!(f, "Secrets({})", secrets.keys.len()),
        }
    }
}

fn presented(request: &HttpRequest) -> Option<Vec<u8>> {
    let Some(authorization) = request.header("authorization") else {
        return request.query("token").map(|token| token.as_bytes().to_vec());
    };
    let (scheme, credentials) = authorization.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.as_bytes().to_vec());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let user_and_password = BASE64_STANDARD.decode(credentials).ok()?;
        let colon = user_and_password.iter().position(|byte| *byte == b':')?;
        return Some(user_and_password[colon + 1..].to_vec());
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    fn admits(secrets: &str, authorization: Option<&str>, token: Option<&str>) -> bool {
        let request = json!({
            "headers": authorization.map(|authorization| ("authorization", authorization)).into_iter().collect::<HashMap<_, _>>(),
            "queryStringParameters": token.map(|token| json!({"token": token})),
            "requestContext": {"http": {"method": "POST"}},
        });
        Access::of_secrets(secrets).check(&serde_json::from_value(request).unwrap(), b"").is_ok()
    }

    fn admits_signed(secrets: &str, signed_with: &str, body: &[u8]) -> bool {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let signature = Key::new(signed_with).sign("w1", now, br#"{"type": "message"}"#);
        let request = json!({
            "headers": {"webhook-id": "w1", "webhook-timestamp": now.to_string(), "webhook-signature": signature},
            "requestContext": {"http": {"method": "POST"}},
        });
        Access::of_secrets(secrets).check(&serde_json::from_value(request).unwrap(), body).is_ok()
    }

    #[test]
    fn a_webhook_is_taken_if_one_of_the_secrets_has_signed_it() {
        let body = br#"{"type": "message"}"#;
        assert!(admits_signed("s3cret", "s3cret", body));
        assert!(admits_signed("other,whsec_c2VjcmV0", "secret", body));
        assert!(!admits_signed("s3cret", "s3cret", b"{}"));
        assert!(!admits_signed("s3cret", "other", body));
        assert!(!admits_signed("", "", body));
    }

    #[test]
    fn a_secret_is_taken_in_each_of_its_three_forms() {
        let basic = format!("Basic {}", BASE64_STANDARD.encode("anybody:s3cret"));
        for secrets in ["s3cret", "other, s3cret"] {
            assert!(admits(secrets, Some("Bearer s3cret"), None));
            assert!(admits(secrets, Some("bearer s3cret"), None));
            assert!(admits(secrets, Some(&basic), None));
            assert!(admits(secrets, None, Some("s3cret")));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for authorization in ["Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Digest s3cret"] {
            assert!(!admits("s3cret", Some(authorization), None), "{authorization}");
        }
        assert!(!admits("s3cret", None, None));
        assert!(!admits("s3cret", None, Some("")));
        assert!(!admits("", Some("Bearer "), Some("")));
        assert!(!admits(",", Some("Bearer "), Some("")));
    }
}
