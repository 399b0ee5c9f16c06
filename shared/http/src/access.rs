//! Who may call.

use std::fmt;

use aws_config::SdkConfig;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_settings::{Environment, SettingError};
use pushlark_telemetry::{Causes, Metric, count};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::{HttpRequest, Problem};

const SETTING: &str = "WEBHOOK_SECRET";

/// What a caller must present: a secret, as a bearer token, as the password of HTTP Basic (with any user), or as
/// `?token=` where a chat server can set no header.
#[derive(Clone)]
pub enum Access {
    /// Anybody may call. Only for a stack that listens on loopback alone.
    Open,
    /// One of these, kept as digests so that comparing takes the same time whatever is presented. Without any,
    /// everybody is refused.
    Secrets(Vec<[u8; 32]>),
}

impl Access {
    /// From `WEBHOOK_SECRET`: secrets, comma-separated, or the ARN of a Secrets Manager secret that holds them so.
    pub async fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let setting = environment.text(SETTING).unwrap_or_default();
        if !setting.starts_with("arn:") {
            return Ok(Self::of_secrets(setting));
        }
        let secret = aws_sdk_secretsmanager::Client::new(aws).get_secret_value().secret_id(setting).send().await;
        let secret = secret.map_err(|error| {
            SettingError::invalid(SETTING, format!("the secret cannot be read: {}", Causes(&error)))
        })?;
        let text = secret.secret_string.ok_or_else(|| SettingError::invalid(SETTING, "the secret is not a text"))?;
        Ok(Self::of_secrets(&text))
    }

    /// From secrets, comma-separated.
    pub fn of_secrets(secrets: &str) -> Self {
        let secrets = secrets.split(',').map(str::trim).filter(|secret| !secret.is_empty());
        Self::Secrets(secrets.map(|secret| Sha256::digest(secret).into()).collect())
    }

    pub(crate) fn check(&self, request: &HttpRequest) -> Result<(), Problem> {
        let secrets = match self {
            Self::Open => return Ok(()),
            Self::Secrets(secrets) => secrets,
        };
        let detail = match presented(request) {
            _ if secrets.is_empty() => "no WEBHOOK_SECRET is configured, so every request is refused",
            None => "a bearer token, a Basic password or ?token= is required",
            Some(credential) => {
                let digest: [u8; 32] = Sha256::digest(credential).into();
                let known = secrets.iter().fold(Choice::from(0), |known, secret| known | secret.ct_eq(&digest));
                if known.into() {
                    return Ok(());
                }
                "the credential is not valid"
            }
        };
        count(Metric::Unauthorized);
        Err(Problem::unauthorized(detail))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Secrets(secrets) => write!(f, "Secrets({})", secrets.len()),
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
        Access::of_secrets(secrets).check(&serde_json::from_value(request).unwrap()).is_ok()
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
