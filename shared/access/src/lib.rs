//! Authentication of requests by secrets, signatures, client tokens and SNS messages, and the users and domains that
//! the caller may send requests about.

mod clients;
mod error;

pub use clients::ClientTokens;
pub use error::AccessError;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_settings::catalogue::WEBHOOK_SECRET;
use pushlark_settings::{Environment, RotatingSecret, Secret, SettingError, by_domain};
use pushlark_sns::{MESSAGE_TYPE, SnsError, SnsMessage, Topics};
use pushlark_telemetry::{Causes, Metric, Refusal, count, log_refusal};
use pushlark_webhooks::{HUB_SIGNATURE, Headers, ID, Key, SIGNATURE, SignatureError, TIMESTAMP, verify_body};
use pushlark_xmpp::{BareJid, DomainPart, DomainRef};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

/// The logged reason for a 403.
const NOT_PERMITTED: &str = "the credential does not permit this request";
/// The maximum time for which a function that receives requests still accepts a removed secret.
const SECRETS_MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// The authenticated sender of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A caller for all domains: the holder of a secret without a domain, SNS, a caller that IAM has authenticated, and
    /// every caller if access is open.
    Operator,
    /// A chat server, with the domains that its secret is bound to.
    Server(Vec<DomainPart>),
    /// A client of this user, authenticated by a token.
    Client(BareJid),
}

impl Caller {
    /// Returns whether the caller may send events and requests about `user`.
    pub fn has_access_to(&self, user: &BareJid) -> bool {
        match self {
            Self::Client(client) => client == user,
            _ => self.has_access_to_domain(user.domain()),
        }
    }

    /// Returns whether a device that the caller enables may be taken from `user` (`DEVICE_ACCOUNTS=one`). A client takes
    /// it from users of its own domain: it may have registered another account of the same app before, and whoever names
    /// the secret token of a device has the device.
    pub fn may_take_device_of(&self, user: &BareJid) -> bool {
        match self {
            Self::Client(client) => client.domain() == user.domain(),
            _ => self.has_access_to(user),
        }
    }

    /// Returns the account that `RATE_LIMIT` charges for a request about `user`: the domain, or for a client the user,
    /// since otherwise one client could use up the rate of the whole domain.
    pub fn charged_for<'u>(&self, user: &'u BareJid) -> &'u str {
        match self {
            Self::Client(_) => user.as_str(),
            _ => user.domain().as_str(),
        }
    }

    /// Returns whether the caller may send events and requests about all users of `domain`.
    pub fn has_access_to_domain(&self, domain: &DomainRef) -> bool {
        match self {
            Self::Operator => true,
            Self::Server(domains) => domains.iter().any(|own| own.as_str() == domain.as_str()),
            Self::Client(_) => false,
        }
    }

    /// Logs a 403 for this caller. `detail` names the user or the domain that its credential does not cover.
    pub fn log_refusal(&self, detail: &str) {
        log_refusal(Refusal { status: 403, reason: NOT_PERMITTED, caller: self.name(), detail: Some(detail) });
    }

    /// Returns the user or the first domain that the credential is bound to.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Client(user) => Some(user.as_str()),
            Self::Server(_) | Self::Operator => self.own_domain().map(DomainRef::as_str),
        }
    }

    /// Returns the first domain that a chat server's secret is bound to.
    pub fn own_domain(&self) -> Option<&DomainRef> {
        match self {
            Self::Server(domains) => domains.first().map(|domain| &**domain),
            Self::Operator | Self::Client(_) => None,
        }
    }
}

/// The credentials that a function accepts.
#[derive(Debug, Clone)]
pub struct Access {
    servers: Servers,
    /// Verifies client tokens; `None` if they are not accepted.
    clients: Option<ClientTokens>,
    /// Verifies SNS messages; `None` if they are not accepted.
    topics: Option<Topics>,
}

/// The authentication of chat servers.
#[derive(Debug, Clone)]
enum Servers {
    /// None: every request is accepted.
    Open,
    /// One of these secrets is required. If the list is empty, every request is refused.
    Secrets(Arc<RotatingSecret<Secrets>>),
}

/// The secrets of `WEBHOOK_SECRET`. A chat server sends its secret as a bearer token, as the HTTP Basic password (with
/// any user name), or as `?token=` if it cannot set a header; or it signs the webhook with the secret.
#[derive(Default)]
struct Secrets {
    /// SHA-256 digests, so that a comparison takes the same time for every credential.
    digests: Vec<[u8; 32]>,
    keys: Vec<Key>,
    /// The domain of each secret; `None` if the secret is for all domains.
    domains: Vec<Option<DomainPart>>,
}

/// The parts of an HTTP request that may contain a credential.
#[derive(Debug, Clone, Copy)]
pub struct PresentedCredentials<'r> {
    /// The headers by name, in lower case.
    pub headers: &'r HashMap<String, String>,
    /// The query parameter `token`.
    pub token: Option<&'r str>,
}

/// The result of authentication.
#[derive(Debug)]
pub struct Authenticated {
    /// The sender of the request.
    pub caller: Caller,
    /// The SNS messages in the request; empty if the sender is not SNS.
    pub sns: Vec<SnsMessage>,
}

impl<'r> PresentedCredentials<'r> {
    fn header(&self, name: &str) -> Option<&'r str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The reason why a request matches none of the secrets.
#[derive(Debug, thiserror::Error)]
enum CredentialError {
    /// The request has neither a credential nor a signature.
    #[error("a bearer token, a Basic password, ?token= or a signature is required")]
    Missing,
    /// The credential equals none of the secrets.
    #[error("the credential is none of the secrets in WEBHOOK_SECRET")]
    Credential,
    /// The signature is incomplete, made with another secret, or its timestamp is too far from now.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Access {
    /// Accepts every request. Only for a stack that listens on loopback only.
    pub fn open() -> Self {
        Self { servers: Servers::Open, clients: None, topics: None }
    }

    /// Reads `WEBHOOK_SECRET`: comma-separated secrets, or the name of a secret that contains them (see [`Secret`]),
    /// which is read again when a credential is unknown, and when the last read is 5 minutes old.
    pub async fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let Some(setting) = environment.value(&WEBHOOK_SECRET)? else { return Self::of_secrets("") };
        let secrets = RotatingSecret::new(WEBHOOK_SECRET.name, Secret::new(setting, aws), Secrets::parse);
        secrets.current().await?;
        Ok(Self::of(secrets))
    }

    /// Accepts comma-separated secrets. The secret in `example.com=secret` is for requests about that domain only. If
    /// `secrets` is empty, every request is refused.
    pub fn of_secrets(secrets: &str) -> Result<Self, SettingError> {
        let parse = if secrets.is_empty() { |_: &str| Ok(Secrets::default()) } else { Secrets::parse };
        Ok(Self::of(RotatingSecret::new(WEBHOOK_SECRET.name, secrets.into(), parse).checked()?))
    }

    fn of(secrets: RotatingSecret<Secrets>) -> Self {
        let secrets = Arc::new(secrets.with_max_age(SECRETS_MAX_AGE));
        Self { servers: Servers::Secrets(secrets), clients: None, topics: None }
    }

    /// Also accepts client tokens, if `clients` is given.
    pub fn with_clients(self, clients: Option<ClientTokens>) -> Self {
        Self { clients, ..self }
    }

    /// Also accepts SNS messages of these topics.
    pub fn with_topics(self, topics: Topics) -> Self {
        Self { topics: Some(topics), ..self }
    }

    /// Authenticates an HTTP request.
    pub async fn check(&self, request: PresentedCredentials<'_>, body: &[u8]) -> Result<Authenticated, AccessError> {
        let checked = match &self.topics {
            Some(topics) if request.header(MESSAGE_TYPE).is_some() => {
                let message = topics.verify(body).await.map_err(AccessError::from);
                message.map(|message| Authenticated { caller: Caller::Operator, sns: vec![message] })
            }
            _ => self.caller(request, body).await.map(|caller| Authenticated { caller, sns: Vec::new() }),
        };
        if let Err(AccessError::Unauthorized { reason, .. }) = checked {
            count(Metric::Unauthorized);
            log_refusal(Refusal { status: 401, reason, caller: None, detail: None });
        }
        checked
    }

    /// Reads the SNS messages in the payload of a direct invocation, whose sender IAM has authenticated. Returns `None`
    /// if the payload is not from SNS.
    pub fn sns_messages(&self, payload: &RawValue) -> Option<Result<Vec<SnsMessage>, SnsError>> {
        self.topics.as_ref()?.delivered(payload)
    }

    async fn caller(&self, request: PresentedCredentials<'_>, body: &[u8]) -> Result<Caller, AccessError> {
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
            AccessError::Unavailable
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
            None if known.keys.is_empty() && self.clients.is_none() => AccessError::unauthorized(
                "no secret is set",
                "no WEBHOOK_SECRET is configured, so every request is refused",
            ),
            None => AccessError::unauthorized(unknown.reason(), unknown.to_string()),
        };
        if !unknown.may_be_of_a_newer_secret() {
            return Err(problem);
        }
        let newer = secrets.newer(&known).await;
        newer.and_then(|newer| newer.caller(request, credential.as_ref(), body).ok()).ok_or(problem)
    }
}

impl CredentialError {
    /// Returns the reason for the log, without details of the request.
    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "no credential",
            Self::Credential => "unknown secret",
            Self::Signature(SignatureError::Incomplete) => "incomplete headers of a signature",
            Self::Signature(SignatureError::Untimely) => "timestamp of a signature too far from now",
            Self::Signature(SignatureError::Wrong) => "wrong signature",
        }
    }

    fn may_be_of_a_newer_secret(&self) -> bool {
        matches!(self, Self::Credential | Self::Signature(SignatureError::Wrong))
    }
}

impl Secrets {
    fn parse(text: &str) -> Result<Self, String> {
        let mut secrets = Self::default();
        let listed = by_domain(text).map_err(|empty| empty.to_string())?;
        for (index, (domain, secret)) in listed.into_iter().enumerate() {
            // Padded base64 contains no dot, so this is a domain whose secret is missing: it must not become a secret.
            if secret.ends_with('=') && secret.contains('.') {
                return Err("a domain has no secret, expected domain=secret".into());
            }
            let key = Key::new(secret).map_err(|invalid| format!("number {}: {invalid}", index + 1))?;
            secrets.digests.push(Sha256::digest(secret).into());
            secrets.keys.push(key);
            secrets.domains.push(domain);
        }
        Ok(secrets)
    }

    /// Returns the caller that sent one of the secrets, or signed the request with one.
    fn caller(
        &self,
        request: PresentedCredentials<'_>,
        credential: Option<&Credential>,
        body: &[u8],
    ) -> Result<Caller, CredentialError> {
        match credential {
            Some(credential) => self.holder(credential.secret()).ok_or(CredentialError::Credential),
            None => self.signer(request, body),
        }
    }

    fn holder(&self, secret: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let same: Vec<_> = self.digests.iter().map(|known| known.ct_eq(&digest)).collect();
        let indexes: Vec<usize> = (0..same.len()).filter(|index| same[*index].into()).collect();
        if indexes.is_empty() { None } else { Some(self.caller_of(&indexes)) }
    }

    fn signer(&self, request: PresentedCredentials<'_>, body: &[u8]) -> Result<Caller, CredentialError> {
        let [id, timestamp, signature] = [ID, TIMESTAMP, SIGNATURE].map(|name| request.header(name));
        let indexes = match (request.header(HUB_SIGNATURE), signature.or(timestamp)) {
            (Some(signature), None) => verify_body(signature, &self.keys, body)?,
            (_, Some(_)) => {
                let now = OffsetDateTime::now_utc().unix_timestamp();
                Headers { id, timestamp, signature }.verify(&self.keys, body, now)?
            }
            (None, None) => return Err(CredentialError::Missing),
        };
        Ok(self.caller_of(&indexes))
    }

    fn caller_of(&self, indexes: &[usize]) -> Caller {
        let domains: Option<Vec<DomainPart>> = indexes.iter().map(|index| self.domains[*index].clone()).collect();
        domains.map_or(Caller::Operator, Caller::Server)
    }
}

/// A credential in a request.
enum Credential {
    /// A bearer token: a secret or a client's JWT.
    Bearer(Vec<u8>),
    /// A Basic password or `?token=`: a secret.
    Other(Vec<u8>),
}

impl Credential {
    fn of(request: PresentedCredentials<'_>) -> Option<Self> {
        let Some(authorization) = request.header("authorization") else {
            return request.token.map(|token| Self::Other(token.as_bytes().to_vec()));
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
    use super::*;

    const ONE: &str = "a-secret-of-one-server";
    const OTHER: &str = "a-secret-of-another-server";

    fn called(secrets: &str, headers: &[(&str, &str)], token: Option<&str>, body: &[u8]) -> Option<Caller> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = PresentedCredentials { headers: &headers, token };
        let secrets = if secrets.is_empty() { Secrets::default() } else { Secrets::parse(secrets).unwrap() };
        secrets.caller(request, Credential::of(request).as_ref(), body).ok()
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
    fn a_webhook_is_accepted_if_it_is_signed_with_one_of_the_secrets() {
        let body = br#"{"type": "message"}"#;
        assert_eq!(signed(ONE, ONE, body), Some(Caller::Operator));
        let encoded = format!("{OTHER},whsec_{}", BASE64_STANDARD.encode(ONE));
        assert_eq!(signed(&encoded, ONE, body), Some(Caller::Operator));
        assert_eq!(signed(ONE, ONE, b"{}"), None);
        assert_eq!(signed(ONE, OTHER, body), None);
        assert_eq!(signed("", ONE, body), None);
    }

    #[test]
    fn a_secret_is_accepted_as_bearer_token_basic_password_or_query_token() {
        let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("anybody:{ONE}")));
        for secrets in [ONE, &format!("{OTHER}, {ONE}")] {
            for authorization in [&format!("Bearer {ONE}"), &format!("bearer {ONE}"), &basic] {
                assert_eq!(authorized(secrets, authorization), Some(Caller::Operator));
            }
            assert_eq!(called(secrets, &[], Some(ONE), b""), Some(Caller::Operator));
        }
    }

    #[test]
    fn a_credential_that_is_not_a_secret_is_refused() {
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
    fn a_domain_without_a_secret_is_refused() {
        let error = Access::of_secrets(&format!("{ONE}, example.com=")).unwrap_err();
        assert_eq!(error.to_string(), "WEBHOOK_SECRET: a domain has no secret, expected domain=secret");
    }

    #[test]
    fn a_secret_that_is_short_empty_or_not_base64_is_refused() {
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
    fn a_secret_of_a_domain_permits_requests_about_that_domain_only() {
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
        assert!(of(&["example.com"]).has_access_to(&user("bob@example.com")));
        assert!(!of(&["example.com"]).has_access_to(&user("bob@sub.example.com")));
        assert!(!of(&["example.com"]).has_access_to(&user("bob@example.org")));
        let client = Caller::Client(user("bob@example.com"));
        assert!(client.has_access_to(&user("bob@example.com")) && !client.has_access_to(&user("eve@example.com")));
        assert!(!client.has_access_to_domain(user("bob@example.com").domain()));
        assert!(client.may_take_device_of(&user("eve@example.com")));
        assert!(!client.may_take_device_of(&user("eve@example.org")));
        assert!(!of(&["example.com"]).may_take_device_of(&user("bob@example.org")));
    }
}
