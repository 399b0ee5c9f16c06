//! Clients that call by themselves: by a token (RFC 7519) whose subject is the user.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use pushlark_settings::{Environment, Secret, SettingError};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{BareJid, parse_jid};
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Problem;
use crate::fetch::Fetch;
use crate::json::read_json;

const ALGORITHM: &str = "JWT_ALGORITHM";
const KEYS: &str = "JWT_KEYS";

/// How far the clocks may be apart, in seconds.
const LEEWAY: u64 = 5;
/// The longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The shortest key of HS256, in bytes (RFC 7518, section 3.2).
const MIN_HMAC_KEY_BYTES: usize = 32;
/// How long keys that were fetched are used before they are fetched again.
const KEYS_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// How often they are fetched at most, however many tokens name a key that is not among them.
const FETCH_INTERVAL: Duration = Duration::from_secs(30);

/// What the tokens of clients are checked by.
#[derive(Debug, Clone)]
pub struct Clients(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    validation: Validation,
    algorithm: Algorithm,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The setting holds them.
    Given(Arc<[Key]>),
    /// They are published, and change from time to time.
    Published { url: Url, fetch: Fetch, kept: Mutex<Kept> },
}

#[derive(Debug, Default)]
struct Kept {
    keys: Option<Arc<[Key]>>,
    /// When they were fetched, or could not be.
    tried_at: Option<Instant>,
}

/// A key of the algorithm.
#[derive(Debug)]
struct Key {
    id: Option<String>,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl Clients {
    /// From `JWT_KEYS`: a JWK Set (RFC 7517, or one JWK), where it is published by HTTPS, or where it is held (see
    /// [`Secret`]); and `JWT_ALGORITHM`, `JWT_ISSUER` and `JWT_AUDIENCE`, which the tokens must have. `None` without keys.
    pub async fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Option<Self>, SettingError> {
        let Some(keys) = environment.text(KEYS) else { return Ok(None) };
        let algorithm: String = environment.require(ALGORITHM, "the algorithm of the clients' tokens")?;
        let algorithm = match algorithm.as_str() {
            "HS256" => Algorithm::HS256,
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            other => return Err(SettingError::invalid(ALGORITHM, format!("{other:?} is not HS256, RS256 or ES256"))),
        };
        let issuer: String = environment.require("JWT_ISSUER", "who issues the clients' tokens")?;
        let audience: String = environment.require("JWT_AUDIENCE", "whom the clients' tokens are for")?;
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        let source = if keys.starts_with("https://") || keys.starts_with("http://") {
            Source::Published { url: published(keys, algorithm)?, fetch: Fetch::default(), kept: Mutex::default() }
        } else {
            let text = Secret::new(keys, aws).read().await;
            let text = text.map_err(|unread| SettingError::invalid(KEYS, Causes(&unread)))?;
            let keys = read_keys(text.as_bytes(), algorithm).map_err(|reason| SettingError::invalid(KEYS, reason))?;
            Source::Given(keys)
        };
        Ok(Some(Self(Arc::new(Inner { validation, algorithm, source }))))
    }

    /// Whose client presents `token`.
    pub(crate) async fn verify(&self, token: &[u8]) -> Result<BareJid, Problem> {
        let refused = Problem::unauthorized;
        let token = std::str::from_utf8(token).map_err(|_| refused("the credential is not valid"))?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused("the token is too long"));
        }
        let header = decode_header(token).map_err(|_| refused("the credential is not valid"))?;
        if header.crit.is_some() {
            return Err(refused("the token has critical header parameters, none is understood"));
        }
        let keys = self.keys(header.kid.as_deref()).await?;
        let is_named = |key: &&Key| key.id == header.kid;
        let candidates: Vec<&Key> = match &header.kid {
            Some(_) if keys.iter().any(|key| is_named(&key)) => keys.iter().filter(is_named).collect(),
            Some(_) => keys.iter().filter(|key| key.id.is_none()).collect(),
            None => keys.iter().collect(),
        };
        let mut reason = "the token is signed by none of the keys";
        for candidate in candidates {
            match decode::<Claims>(token, &candidate.key, &self.0.validation) {
                Ok(token) => return subject(&token.claims.sub),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) => reason = describe(error.kind()),
            }
        }
        Err(refused(reason))
    }

    async fn keys(&self, id: Option<&str>) -> Result<Arc<[Key]>, Problem> {
        let (url, fetch, kept) = match &self.0.source {
            Source::Given(keys) => return Ok(Arc::clone(keys)),
            Source::Published { url, fetch, kept } => (url, fetch, kept),
        };
        // Whoever comes meanwhile waits for the same keys.
        let mut kept = kept.lock().await;
        let age = kept.tried_at.map(|at| at.elapsed());
        let is_known = |keys: &Arc<[Key]>| id.is_none() || keys.iter().any(|key| key.id.as_deref() == id);
        let most = if kept.keys.as_ref().is_some_and(is_known) { KEYS_LIFETIME } else { FETCH_INTERVAL };
        if kept.keys.is_none() || age.is_none_or(|age| age >= most) {
            kept.tried_at = Some(Instant::now());
            let fetched = fetch.get(url.clone()).await.map_err(|error| Causes(&error).to_string());
            match fetched.and_then(|document| read_keys(&document, self.0.algorithm)) {
                Ok(keys) => kept.keys = Some(keys),
                // Those of before, if there are any, are still good.
                Err(reason) => tracing::error!(reason, "the keys of the clients' tokens cannot be had"),
            }
        }
        kept.keys.clone().ok_or_else(Problem::unavailable)
    }
}

/// Where keys are published; a secret key is not to be, nor is any to come by a way where it can be exchanged.
fn published(url: &str, algorithm: Algorithm) -> Result<Url, SettingError> {
    let url = Url::parse(url).map_err(|reason| SettingError::invalid(KEYS, reason))?;
    let is_loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() != "https" && !is_loopback {
        return Err(SettingError::invalid(KEYS, "the URL must begin with https://"));
    }
    if algorithm == Algorithm::HS256 {
        return Err(SettingError::invalid(KEYS, "a key of HS256 is secret, and not to be had at a URL"));
    }
    Ok(url)
}

/// The keys of a JWK Set, or of one JWK, that may be used; those of other algorithms and purposes are passed over.
fn read_keys(json: &[u8], algorithm: Algorithm) -> Result<Arc<[Key]>, String> {
    let mut document: Value = read_json(json)?;
    let keys = match document.get_mut("keys").map(Value::take) {
        Some(Value::Array(keys)) => keys,
        Some(_) => return Err("keys is not an array".into()),
        None => vec![document],
    };
    let usable: Arc<[Key]> = keys.into_iter().filter_map(|key| usable(key, algorithm)).collect();
    if usable.is_empty() { Err(format!("there is no key for {algorithm:?}")) } else { Ok(usable) }
}

fn usable(key: Value, algorithm: Algorithm) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let of_algorithm = match algorithm {
        Algorithm::HS256 => KeyAlgorithm::HS256,
        Algorithm::RS256 => KeyAlgorithm::RS256,
        _ => KeyAlgorithm::ES256,
    };
    let is_to_sign = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    if !is_to_sign || jwk.common.key_algorithm.is_some_and(|of_key| of_key != of_algorithm) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    if key.family() != algorithm.family() {
        return None;
    }
    if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_))
        && key.try_get_as_bytes().is_ok_and(|secret| secret.len() < MIN_HMAC_KEY_BYTES)
    {
        return None;
    }
    Some(Key { id: jwk.common.key_id, key })
}

fn subject(sub: &str) -> Result<BareJid, Problem> {
    match parse_jid(sub) {
        Ok(jid) if jid.is_bare() && jid.node().is_some() => Ok(jid.into_bare()),
        _ => Err(Problem::unauthorized("the token's sub is not the bare JID of a user")),
    }
}

/// What is wrong, without what the token holds.
fn describe(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidAlgorithm => "the token's alg is not JWT_ALGORITHM",
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token's iss is not JWT_ISSUER",
        ErrorKind::InvalidAudience => "the token's aud is not JWT_AUDIENCE",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks one of exp, iss, aud and sub",
        _ => "the credential is not valid",
    }
}
