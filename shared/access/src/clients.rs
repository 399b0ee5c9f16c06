//! Authentication of clients that send requests themselves, by a JWT (RFC 7519) whose `sub` is the user's bare JID.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use pushlark_fetch::Fetch;
use pushlark_http_client::Tls;
use pushlark_json::read_json;
use pushlark_settings::catalogue::{JWT_ALGORITHM, JWT_AUDIENCE, JWT_ISSUER, JWT_KEYS};
use pushlark_settings::{Environment, HttpUrl, RotatingSecret, Secret, SettingError, UrlError};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{BareJid, parse_jid};
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::AccessError;

/// The reason for a credential that is neither a secret nor a JWT.
const NO_TOKEN: &str = "the credential is neither one of the secrets in WEBHOOK_SECRET nor a client's token";
/// The reason for a token that none of the keys has signed.
const NO_KEY: &str = "the token is signed by none of the keys";
/// The tolerated difference between the clocks of issuer and function, in seconds.
const CLOCK_LEEWAY: u64 = 5;
/// The maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The minimum length of an HS256 key, in bytes (RFC 7518, section 3.2).
const MIN_HMAC_KEY_BYTES: usize = 32;
/// The time after which the keys are fetched or read again.
const KEYS_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// The minimum time between two fetches, even after a failed fetch or when tokens name unknown keys.
const FETCH_INTERVAL: Duration = Duration::from_secs(30);

/// The keys, issuer, audience and algorithm by which the tokens of clients are verified.
#[derive(Debug, Clone)]
pub struct ClientTokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    validation: Validation,
    algorithm: Algorithm,
    source: KeySource,
}

#[derive(Debug)]
enum KeySource {
    /// The setting contains the keys, or names the secret that contains them (see [`Secret`]).
    Secret(RotatingSecret<Vec<TokenKey>>),
    /// The issuer publishes the keys at a URL, and rotates them.
    Published { url: Url, fetch: Fetch, cache: Mutex<PublishedKeys> },
}

#[derive(Debug, Default)]
struct PublishedKeys {
    /// The keys and the time of their fetch.
    keys: Option<(Arc<Vec<TokenKey>>, Instant)>,
    /// The time at which the last fetch ended, failed or not.
    tried_at: Option<Instant>,
}

/// A key for `JWT_ALGORITHM`, with its `kid`.
#[derive(Debug)]
struct TokenKey {
    id: Option<String>,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl ClientTokens {
    /// Reads `JWT_KEYS`, which is a JWK Set or one JWK (RFC 7517), the HTTPS URL where it is published, or the name
    /// of the secret that contains it (see [`Secret`]); and `JWT_ALGORITHM`, `JWT_ISSUER` and `JWT_AUDIENCE`, which the
    /// tokens must have; and `EXTRA_CA_FILE`. Returns `None` if `JWT_KEYS` is not set.
    pub async fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Option<Self>, SettingError> {
        let algorithms = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256];
        let algorithm = environment.choice_if_set(&JWT_ALGORITHM, algorithms)?;
        let tls = Tls::from_environment(environment)?;
        let (issuer, audience) = (environment.value(&JWT_ISSUER)?, environment.value(&JWT_AUDIENCE)?);
        let Some(keys) = environment.value(&JWT_KEYS)? else { return Ok(None) };
        let algorithm = algorithm.ok_or_else(|| JWT_ALGORITHM.missing())?;
        let issuer = issuer.ok_or_else(|| JWT_ISSUER.missing())?;
        let audience = audience.ok_or_else(|| JWT_AUDIENCE.missing())?;
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = CLOCK_LEEWAY;
        let source = if keys.starts_with("https://") || keys.starts_with("http://") {
            KeySource::Published { url: published(keys, algorithm)?, fetch: Fetch::new(tls), cache: Mutex::default() }
        } else {
            let read = move |text: &str| read_keys(text.as_bytes(), algorithm);
            let keys = RotatingSecret::new(JWT_KEYS.name, Secret::new(keys, aws), read).with_max_age(KEYS_LIFETIME);
            keys.current().await?;
            KeySource::Secret(keys)
        };
        Ok(Some(Self(Arc::new(Inner { validation, algorithm, source }))))
    }

    /// Verifies `token`, and returns the user in its `sub`.
    pub(crate) async fn verify(&self, token: &[u8]) -> Result<BareJid, AccessError> {
        let refused = |reason: &'static str| AccessError::unauthorized(reason, reason);
        let token = std::str::from_utf8(token).map_err(|_| refused(NO_TOKEN))?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused("the token is too long"));
        }
        let header = decode_header(token).map_err(|_| refused(NO_TOKEN))?;
        if header.crit.is_some() {
            return Err(refused("the token has critical header parameters (crit), which are not supported"));
        }
        let keys = self.keys(header.kid.as_deref()).await?;
        let reason = match self.check(token, header.kid.as_deref(), &keys) {
            Ok(claims) => return subject(&claims.sub),
            Err(reason) => reason,
        };
        // The key may have been added to the secret after the last read.
        if let KeySource::Secret(secret) = &self.0.source
            && reason == NO_KEY
            && let Some(newer) = secret.newer(&keys).await
        {
            let claims = self.check(token, header.kid.as_deref(), &newer).map_err(refused)?;
            return subject(&claims.sub);
        }
        Err(refused(reason))
    }

    fn check(&self, token: &str, id: Option<&str>, keys: &[TokenKey]) -> Result<Claims, &'static str> {
        let is_named = |key: &&TokenKey| key.id.as_deref() == id;
        let candidates: Vec<&TokenKey> = match id {
            Some(_) if keys.iter().any(|key| is_named(&key)) => keys.iter().filter(is_named).collect(),
            Some(_) => keys.iter().filter(|key| key.id.is_none()).collect(),
            None => keys.iter().collect(),
        };
        let mut reason = NO_KEY;
        for candidate in candidates {
            match decode::<Claims>(token, &candidate.key, &self.0.validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) => reason = describe(error.kind()),
            }
        }
        Err(reason)
    }

    async fn keys(&self, id: Option<&str>) -> Result<Arc<Vec<TokenKey>>, AccessError> {
        let (url, fetch, cache) = match &self.0.source {
            KeySource::Secret(keys) => {
                return keys.current().await.map_err(|error| {
                    tracing::error!(error = %Causes(&error), "the keys of the clients' tokens cannot be read");
                    AccessError::Unavailable
                });
            }
            KeySource::Published { url, fetch, cache } => (url, fetch, cache),
        };
        // All callers wait for one fetch: the lock is held until it ends, and none of them starts another one after it.
        let mut cache = cache.lock().await;
        let has_id = |keys: &[TokenKey]| id.is_none() || keys.iter().any(|key| key.id.as_deref() == id);
        let is_wanted = match &cache.keys {
            Some((keys, fetched_at)) => !has_id(keys) || fetched_at.elapsed() >= KEYS_LIFETIME,
            None => true,
        };
        if is_wanted && cache.tried_at.is_none_or(|at| at.elapsed() >= FETCH_INTERVAL) {
            cache.tried_at = Some(Instant::now());
            let fetched = fetch.get(url.clone()).await.map_err(|error| Causes(&error).to_string());
            match fetched.and_then(|document| read_keys(&document, self.0.algorithm)) {
                Ok(keys) => cache.keys = Some((Arc::new(keys), Instant::now())),
                // Keys of an earlier fetch remain valid.
                Err(reason) => tracing::error!(reason, "the keys of the clients' tokens cannot be read"),
            }
            // The interval counts from the end of a fetch.
            cache.tried_at = Some(Instant::now());
        }
        cache.keys.as_ref().map(|(keys, _)| Arc::clone(keys)).ok_or(AccessError::Unavailable)
    }
}

/// Checks the URL of published keys. HTTP is refused, except on loopback, since somebody on the path could replace the
/// keys; so is HS256, whose keys are secret.
fn published(url: &str, algorithm: Algorithm) -> Result<Url, SettingError> {
    let HttpUrl(url) = url.parse().map_err(|invalid: UrlError| JWT_KEYS.invalid(invalid))?;
    let is_loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() != "https" && !is_loopback {
        return Err(JWT_KEYS.invalid("the URL must begin with https://"));
    }
    if algorithm == Algorithm::HS256 {
        return Err(JWT_KEYS.invalid("an HS256 key is secret and must not be published at a URL"));
    }
    Ok(url)
}

/// Reads the usable keys of a JWK Set or of one JWK. Keys for other algorithms or other uses are ignored; having no
/// usable key is an error.
fn read_keys(json: &[u8], algorithm: Algorithm) -> Result<Vec<TokenKey>, String> {
    let mut document: Value = read_json(json)
        .map_err(|error| format!("it is not a JWK Set such as {{\"keys\": [{{\"kty\": \"RSA\", …}}]}}: {error}"))?;
    let keys = match document.get_mut("keys").map(Value::take) {
        Some(Value::Array(keys)) => keys,
        Some(_) => return Err("keys is not an array".into()),
        None => vec![document],
    };
    let usable: Vec<TokenKey> = keys.into_iter().filter_map(|key| usable(key, algorithm)).collect();
    if usable.is_empty() { Err(format!("there is no key for {algorithm:?}")) } else { Ok(usable) }
}

fn usable(key: Value, algorithm: Algorithm) -> Option<TokenKey> {
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
    Some(TokenKey { id: jwk.common.key_id, key })
}

fn subject(sub: &str) -> Result<BareJid, AccessError> {
    match parse_jid(sub) {
        Ok(jid) if jid.is_bare() && jid.node().is_some() => Ok(jid.into_bare()),
        _ => {
            let reason = "the token's sub is not the bare JID of a user";
            Err(AccessError::unauthorized(reason, reason))
        }
    }
}

/// Returns the reason for the log and the response. It quotes nothing of the token.
fn describe(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidAlgorithm => "the token's alg is not JWT_ALGORITHM",
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidIssuer => "the token's iss is not JWT_ISSUER",
        ErrorKind::InvalidAudience => "the token's aud is not JWT_AUDIENCE",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks one of exp, iss, aud and sub",
        _ => "the token is not valid",
    }
}
