//! Who may call, and for whom.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_settings::catalogue::WEBHOOK_SECRET;
use pushlark_settings::{Environment, RotatingSecret, Secret, SettingError, by_domain};
use pushlark_telemetry::{Causes, Metric, Refusal, count, log_refusal};
use pushlark_webhooks::{HUB_SIGNATURE, Headers, ID, Key, SIGNATURE, TIMESTAMP, Unverified, verify_body};
use pushlark_xmpp::{BareJid, DomainPart, DomainRef};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::clients::Clients;
use crate::sns::{MESSAGE_TYPE, SnsMessage, Topics};
use crate::{HttpRequest, Problem};

/// Why a credential that is known is refused, for the log.
const NOT_GOOD: &str = "the credential is not good for this";
/// How long a removed secret is taken at most by a function that is called.
const SECRETS_MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// Whose request it is, as its credential says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Whoever may speak for all: the holder of a secret that is bound to no domain, SNS, a caller that IAM has vouched
    /// for, and anybody where access is open.
    Operator,
    /// A chat server of these domains.
    Server(Vec<DomainPart>),
    /// A client of this user.
    Client(BareJid),
}

impl Caller {
    /// Whether the caller may say what happens to `user`, and what `user` does.
    pub fn speaks_for(&self, user: &BareJid) -> bool {
        match self {
            Self::Client(client) => client == user,
            _ => self.speaks_for_domain(user.domain()),
        }
    }

    /// The account that `RATE_LIMIT` charges with a request about `user`: the domain, or for a user's own client the user,
    /// since one client could use up the rate of the whole domain otherwise.
    pub fn charged_for<'u>(&self, user: &'u BareJid) -> &'u str {
        match self {
            Self::Client(_) => user.as_str(),
            _ => user.domain().as_str(),
        }
    }

    /// Whether the caller may speak for all users of a domain.
    pub fn speaks_for_domain(&self, domain: &DomainRef) -> bool {
        match self {
            Self::Operator => true,
            Self::Server(domains) => domains.iter().any(|own| own.as_str() == domain.as_str()),
            Self::Client(_) => false,
        }
    }

    /// Logs that the caller asks for what the credential is not good for, which `detail` says.
    pub fn log_refusal(&self, detail: &str) {
        log_refusal(Refusal { status: 403, reason: NOT_GOOD, caller: self.name(), detail: Some(detail) });
    }

    /// The user or the domain that the credential is bound to; of several domains the first.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Client(user) => Some(user.as_str()),
            Self::Server(_) | Self::Operator => self.own_domain().map(DomainRef::as_str),
        }
    }

    /// The domain that a chat server's secret is bound to, or the first of several.
    pub fn own_domain(&self) -> Option<&DomainRef> {
        match self {
            Self::Server(domains) => domains.first().map(|domain| &**domain),
            Self::Operator | Self::Client(_) => None,
        }
    }
}

/// The credentials that a function takes.
#[derive(Debug, Clone)]
pub struct Access {
    servers: Servers,
    /// Takes tokens of clients, too.
    clients: Option<Clients>,
    /// Takes messages of SNS, too.
    topics: Option<Topics>,
}

/// What chat servers present.
#[derive(Debug, Clone)]
enum Servers {
    /// Nothing.
    Open,
    /// One of these; without any, everybody is refused.
    Secrets(Arc<RotatingSecret<Secrets>>),
}

/// A secret is presented as a bearer token, as the password of HTTP Basic (with any user), or as `?token=` where a chat
/// server can set no header; or the webhook is signed by it.
#[derive(Default)]
struct Secrets {
    /// Digests, so that comparing takes the same time whatever is presented.
    digests: Vec<[u8; 32]>,
    keys: Vec<Key>,
    /// The domain that each is bound to.
    domains: Vec<Option<DomainPart>>,
}

/// The sender of a request.
pub(crate) struct Authenticated {
    pub caller: Caller,
    /// The message of SNS that the request is.
    pub sns: Option<SnsMessage>,
}

/// Why no secret fits a request.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    /// The request has no credential.
    #[error("a bearer token, a Basic password, ?token= or a signature is required")]
    Missing,
    /// The credential is none of the secrets.
    #[error("the credential is none of the secrets in WEBHOOK_SECRET")]
    Credential,
    /// The signature does not fit.
    #[error(transparent)]
    Signature(#[from] Unverified),
}

impl Access {
    /// Anybody may call. Only for a stack that listens on loopback alone.
    pub fn open() -> Self {
        Self { servers: Servers::Open, clients: None, topics: None }
    }

    /// From `WEBHOOK_SECRET`: secrets, comma-separated, or the place that holds them (see [`Secret`]), which is read again
    /// when a credential is unknown and at least every 5 minutes.
    pub async fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let Some(setting) = environment.value(&WEBHOOK_SECRET)? else { return Self::of_secrets("") };
        let secrets = RotatingSecret::new(WEBHOOK_SECRET.name, Secret::new(setting, aws), Secrets::parse);
        secrets.current().await?;
        Ok(Self::of(secrets))
    }

    /// From secrets, comma-separated. One behind a domain, `example.com=secret`, speaks for that domain alone. Without any,
    /// every request is refused.
    pub fn of_secrets(secrets: &str) -> Result<Self, SettingError> {
        let parse = if secrets.is_empty() { |_: &str| Ok(Secrets::default()) } else { Secrets::parse };
        Ok(Self::of(RotatingSecret::new(WEBHOOK_SECRET.name, secrets.into(), parse).checked()?))
    }

    fn of(secrets: RotatingSecret<Secrets>) -> Self {
        let secrets = Arc::new(secrets.with_max_age(SECRETS_MAX_AGE));
        Self { servers: Servers::Secrets(secrets), clients: None, topics: None }
    }

    /// The same, and tokens of clients, if there is anything to check them by.
    pub fn with_clients(self, clients: Option<Clients>) -> Self {
        Self { clients, ..self }
    }

    /// The same, and messages of these topics.
    pub fn with_topics(self, topics: Topics) -> Self {
        Self { topics: Some(topics), ..self }
    }

    pub(crate) async fn check(&self, request: &HttpRequest, body: &[u8]) -> Result<Authenticated, Problem> {
        let checked = match &self.topics {
            Some(topics) if request.header(MESSAGE_TYPE).is_some() => {
                let message = topics.verify(body).await;
                message.map(|message| Authenticated { caller: Caller::Operator, sns: Some(message) })
            }
            _ => self.caller(request, body).await.map(|caller| Authenticated { caller, sns: None }),
        };
        if let Err(problem) = &checked
            && let Some(reason) = problem.refusal
        {
            count(Metric::Unauthorized);
            log_refusal(Refusal { status: 401, reason, caller: None, detail: None });
        }
        checked
    }

    async fn caller(&self, request: &HttpRequest, body: &[u8]) -> Result<Caller, Problem> {
        let credential = Credential::of(request);
        let bearer = match &credential {
            Some(Credential::Bearer(token)) => self.clients.as_ref().map(|clients| (clients, token)),
            _ => None,
        };
        let Servers::Secrets(secrets) = &self.servers else {
            return match bearer {
                Some((clients, token)) => clients.verify(token).await.map(Caller::Client),
                None => Ok(Caller::Operator),
            };
        };
        let known = secrets.current().await.map_err(|error| {
            tracing::error!(error = %Causes(&error), "a request cannot be authenticated");
            Problem::unavailable()
        })?;
        let unknown = match known.caller(request, credential.as_ref(), body) {
            Ok(caller) => return Ok(caller),
            Err(unknown) => unknown,
        };
        let problem = match bearer {
            Some((clients, token)) => match clients.verify(token).await {
                Ok(user) => return Ok(Caller::Client(user)),
                Err(problem) => problem,
            },
            None if known.keys.is_empty() && self.clients.is_none() => Problem::unauthorized(
                "no secret is set",
                "no WEBHOOK_SECRET is configured, so every request is refused",
            ),
            None => Problem::unauthorized(unknown.reason(), unknown.to_string()),
        };
        if !unknown.may_be_of_a_newer_secret() {
            return Err(problem);
        }
        let newer = secrets.newer(&known).await;
        newer.and_then(|newer| newer.caller(request, credential.as_ref(), body).ok()).ok_or(problem)
    }
}

impl Unknown {
    /// For the log.
    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "no credential",
            Self::Credential => "unknown secret",
            Self::Signature(Unverified::Incomplete) => "incomplete headers of a signature",
            Self::Signature(Unverified::Untimely) => "timestamp of a signature too far from now",
            Self::Signature(Unverified::Wrong) => "wrong signature",
        }
    }

    fn may_be_of_a_newer_secret(&self) -> bool {
        matches!(self, Self::Credential | Self::Signature(Unverified::Wrong))
    }
}

impl Secrets {
    fn parse(text: &str) -> Result<Self, String> {
        let mut secrets = Self::default();
        let listed = by_domain(text).map_err(|empty| empty.to_string())?;
        for (index, (domain, secret)) in listed.into_iter().enumerate() {
            // The padding of base64 has no dot before it; a domain whose secret was forgotten must not become one.
            if secret.ends_with('=') && secret.contains('.') {
                return Err("there is a domain without a secret behind it".into());
            }
            let key = Key::new(secret).map_err(|invalid| format!("number {}: {invalid}", index + 1))?;
            secrets.digests.push(Sha256::digest(secret).into());
            secrets.keys.push(key);
            secrets.domains.push(domain);
        }
        Ok(secrets)
    }

    /// The caller that presents one of the secrets, or has signed the request with one.
    fn caller(&self, request: &HttpRequest, credential: Option<&Credential>, body: &[u8]) -> Result<Caller, Unknown> {
        match credential {
            Some(credential) => self.holder(credential.secret()).ok_or(Unknown::Credential),
            None => self.signer(request, body),
        }
    }

    fn holder(&self, secret: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let same: Vec<_> = self.digests.iter().map(|known| known.ct_eq(&digest)).collect();
        let places: Vec<usize> = (0..same.len()).filter(|place| same[*place].into()).collect();
        if places.is_empty() { None } else { Some(self.caller_of(&places)) }
    }

    fn signer(&self, request: &HttpRequest, body: &[u8]) -> Result<Caller, Unknown> {
        let [id, timestamp, signature] = [ID, TIMESTAMP, SIGNATURE].map(|name| request.header(name));
        let places = match (request.header(HUB_SIGNATURE), signature.or(timestamp)) {
            (Some(signature), None) => verify_body(signature, &self.keys, body)?,
            (_, Some(_)) => {
                let now = OffsetDateTime::now_utc().unix_timestamp();
                Headers { id, timestamp, signature }.verify(&self.keys, body, now)?
            }
            (None, None) => return Err(Unknown::Missing),
        };
        Ok(self.caller_of(&places))
    }

    fn caller_of(&self, places: &[usize]) -> Caller {
        let domains: Option<Vec<DomainPart>> = places.iter().map(|place| self.domains[*place].clone()).collect();
        domains.map_or(Caller::Operator, Caller::Server)
    }
}

/// A credential, as it is presented.
enum Credential {
    /// A bearer token, which may be of a client.
    Bearer(Vec<u8>),
    /// A Basic password or `?token=`.
    Other(Vec<u8>),
}

impl Credential {
    fn of(request: &HttpRequest) -> Option<Self> {
        let Some(authorization) = request.header("authorization") else {
            return request.query("token").map(|token| Self::Other(token.as_bytes().to_vec()));
        };
        let (scheme, credentials) = authorization.split_once(' ').unwrap_or((authorization, ""));
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(credentials.as_bytes().to_vec()));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let user_and_password = BASE64_STANDARD.decode(credentials).unwrap_or_default();
            let password = user_and_password.splitn(2, |byte| *byte == b':').nth(1);
            return Some(Self::Other(password.unwrap_or_default().to_vec()));
        }
        None
    }

    fn secret(&self) -> &[u8] {
        match self {
            Self::Bearer(secret) | Self::Other(secret) => secret,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    const ONE: &str = "a-secret-of-one-server";
    const OTHER: &str = "a-secret-of-another-server";

    fn called(secrets: &str, headers: &[(&str, &str)], token: Option<&str>, body: &[u8]) -> Option<Caller> {
        let request = json!({
            "headers": headers.iter().copied().collect::<HashMap<_, _>>(),
            "queryStringParameters": token.map(|token| json!({"token": token})),
            "requestContext": {"http": {"method": "POST"}},
        });
        let request: HttpRequest = serde_json::from_value(request).unwrap();
        let secrets = if secrets.is_empty() { Secrets::default() } else { Secrets::parse(secrets).unwrap() };
        secrets.caller(&request, Credential::of(&request).as_ref(), body).ok()
    }

    fn authorized(secrets: &str, authorization: &str) -> Option<Caller> {
        called(secrets, &[("authorization", authorization)], None, b"")
    }

    fn signed(secrets: &str, signed_with: &str, body: &[u8]) -> Option<Caller> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let signature = Key::new(signed_with).unwrap().sign("w1", now, br#"{"type": "message"}"#);
        let headers =
            [("webhook-id", "w1"), ("webhook-timestamp", &now.to_string()), ("webhook-signature", signature.as_str())];
        called(secrets, &headers, None, body)
    }

    #[test]
    fn a_webhook_is_taken_if_one_of_the_secrets_has_signed_it() {
        let body = br#"{"type": "message"}"#;
        assert_eq!(signed(ONE, ONE, body), Some(Caller::Operator));
        let encoded = format!("{OTHER},whsec_{}", BASE64_STANDARD.encode(ONE));
        assert_eq!(signed(&encoded, ONE, body), Some(Caller::Operator));
        assert_eq!(signed(ONE, ONE, b"{}"), None);
        assert_eq!(signed(ONE, OTHER, body), None);
        assert_eq!(signed("", ONE, body), None);
    }

    #[test]
    fn a_secret_is_taken_in_each_of_its_three_forms() {
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("anybody:{ONE}")));
        for secrets in [ONE, &format!("{OTHER}, {ONE}")] {
            for authorization in [&format!("Bearer {ONE}"), &format!("bearer {ONE}"), &basic] {
                assert_eq!(authorized(secrets, authorization), Some(Caller::Operator));
            }
            assert_eq!(called(secrets, &[], Some(ONE), b""), Some(Caller::Operator));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let cut = &ONE[..ONE.len() - 1];
        for authorization in ["Bearer", "Bearer ", "", "Basic"] {
            assert_eq!(authorized(ONE, authorization), None, "{authorization}");
        }
        for (scheme, secret) in [("Bearer", cut), ("Bearer", &format!("{ONE}2")), ("Basic", ONE), ("Digest", ONE)] {
            assert_eq!(authorized(ONE, &format!("{scheme} {secret}")), None, "{scheme} {secret}");
        }
        assert_eq!(called(ONE, &[], None, b""), None);
        assert_eq!(called(ONE, &[], Some(""), b""), None);
        assert_eq!(called("", &[("authorization", "Bearer ")], Some(""), b""), None);
    }

    #[test]
    fn a_domain_without_a_secret_is_no_secret() {
        let error = Access::of_secrets(&format!("{ONE}, example.com=")).unwrap_err();
        assert_eq!(error.to_string(), "WEBHOOK_SECRET: there is a domain without a secret behind it");
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        for (secrets, error) in [
            ("short", "WEBHOOK_SECRET: number 1: a secret must have at least 16 bytes"),
            (
                "a-secret-of-one-server, example.com=short",
                "WEBHOOK_SECRET: number 2: a secret must have at least 16 bytes",
            ),
            ("whsec_", "WEBHOOK_SECRET: number 1: whsec_ must be followed by base64"),
            (",", "WEBHOOK_SECRET: number 1 of the list is empty"),
            ("a-secret-of-one-server,", "WEBHOOK_SECRET: number 2 of the list is empty"),
            ("whsec_not base64, not at all", "WEBHOOK_SECRET: number 1: whsec_ must be followed by base64"),
        ] {
            assert_eq!(Access::of_secrets(secrets).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn a_secret_behind_a_domain_is_that_domains() {
        let of = |domains: &[&str]| {
            Caller::Server(domains.iter().map(|domain| DomainPart::new(domain).unwrap().into_owned()).collect())
        };
        let [one, two, three, four, padded] =
            ["one", "two", "three", "four", "padded"].map(|name| format!("{name}-of-sixteen-bytes"));
        let padded = BASE64_STANDARD.encode(padded);
        let encoded = BASE64_STANDARD.encode(&four);
        let secrets = format!(
            "Example.com={one}, example.org={two}, example.net={two}, {three}, example.com=whsec_{encoded}, {padded}"
        );
        assert!(padded.ends_with('='));
        let authorized = |secret: &str| super::tests::authorized(&secrets, &format!("Bearer {secret}"));
        assert_eq!(authorized(&one), Some(of(&["example.com"])));
        assert_eq!(authorized(&two), Some(of(&["example.org", "example.net"])));
        assert_eq!(authorized(&three), Some(Caller::Operator));
        assert_eq!(authorized(&padded), Some(Caller::Operator));
        assert_eq!(authorized(&format!("Example.com={one}")), None);
        assert_eq!(signed(&secrets, &four, br#"{"type": "message"}"#), Some(of(&["example.com"])));
        let user = |jid| BareJid::new(jid).unwrap();
        assert!(of(&["example.com"]).speaks_for(&user("bob@example.com")));
        assert!(!of(&["example.com"]).speaks_for(&user("bob@sub.example.com")));
        assert!(!of(&["example.com"]).speaks_for(&user("bob@example.org")));
        let client = Caller::Client(user("bob@example.com"));
        assert!(client.speaks_for(&user("bob@example.com")) && !client.speaks_for(&user("eve@example.com")));
        assert!(!client.speaks_for_domain(user("bob@example.com").domain()));
    }
}
