//! Who may call, and for whom.

use std::fmt;

use aws_config::SdkConfig;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_settings::{Environment, Secret, SettingError, by_domain};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_webhooks::{HUB_SIGNATURE, Headers, ID, Key, SIGNATURE, TIMESTAMP, verify_body};
use pushlark_xmpp::{BareJid, DomainPart, DomainRef};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::clients::Clients;
use crate::sns::{MESSAGE_TYPE, Topics};
use crate::{HttpRequest, Problem};

const SETTING: &str = "WEBHOOK_SECRET";

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

    /// What a request about `user` is counted for: the domain, but not by what its users' own clients ask, or one of them
    /// could use up what its server may tell.
    pub fn counted_for<'u>(&self, user: &'u BareJid) -> &'u str {
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
#[derive(Clone)]
enum Servers {
    /// Nothing.
    Open,
    /// One of these; without any, everybody is refused.
    Secrets(Secrets),
}

/// A secret is presented as a bearer token, as the password of HTTP Basic (with any user), or as `?token=` where a chat
/// server can set no header; or the webhook is signed by it.
#[derive(Clone, Default)]
struct Secrets {
    /// Digests, so that comparing takes the same time whatever is presented.
    digests: Vec<[u8; 32]>,
    keys: Vec<Key>,
    /// The domain that each is bound to.
    domains: Vec<Option<DomainPart>>,
}

impl Access {
    /// Anybody may call. Only for a stack that listens on loopback alone.
    pub fn open() -> Self {
        Self { servers: Servers::Open, clients: None, topics: None }
    }

    /// From `WEBHOOK_SECRET`: secrets, comma-separated, or where they are held so (see [`Secret`]).
    pub async fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let setting = environment.text(SETTING).unwrap_or_default();
        let secrets = Secret::new(setting, aws).read().await;
        let secrets = secrets.map_err(|unread| SettingError::invalid(SETTING, Causes(&unread)))?;
        Self::of_secrets(&secrets)
    }

    /// From secrets, comma-separated. One behind a domain, `example.com=secret`, speaks for that domain alone.
    pub fn of_secrets(secrets: &str) -> Result<Self, SettingError> {
        let mut all = Secrets::default();
        for (domain, secret) in by_domain(secrets) {
            // The padding of base64 has no dot before it; a domain whose secret was forgotten must not become one.
            if secret.ends_with('=') && secret.contains('.') {
                return Err(SettingError::invalid(SETTING, "there is a domain without a secret behind it"));
            }
            all.digests.push(Sha256::digest(secret).into());
            all.keys.push(Key::new(secret));
            all.domains.push(domain);
        }
        Ok(Self { servers: Servers::Secrets(all), clients: None, topics: None })
    }

    /// The same, and tokens of clients, if there is anything to check them by.
    pub fn with_clients(self, clients: Option<Clients>) -> Self {
        Self { clients, ..self }
    }

    /// The same, and messages of these topics.
    pub fn with_topics(self, topics: Topics) -> Self {
        Self { topics: Some(topics), ..self }
    }

    pub(crate) async fn check(&self, request: &HttpRequest, body: &[u8]) -> Result<Caller, Problem> {
        let checked = self.caller(request, body).await;
        if checked.as_ref().is_err_and(Problem::is_unauthorized) {
            count(Metric::Unauthorized);
        }
        checked
    }

    async fn caller(&self, request: &HttpRequest, body: &[u8]) -> Result<Caller, Problem> {
        if let Some(topics) = &self.topics
            && request.header(MESSAGE_TYPE).is_some()
        {
            return topics.verify(body).await.map(|()| Caller::Operator);
        }
        let credential = Credential::of(request);
        if let (Servers::Secrets(secrets), Some(credential)) = (&self.servers, &credential)
            && let Some(caller) = secrets.holder(credential.secret())
        {
            return Ok(caller);
        }
        if let (Some(clients), Some(Credential::Bearer(token))) = (&self.clients, &credential) {
            return clients.verify(token).await.map(Caller::Client);
        }
        match &self.servers {
            Servers::Open => Ok(Caller::Operator),
            Servers::Secrets(secrets) if secrets.keys.is_empty() && self.clients.is_none() => {
                Err(Problem::unauthorized("no WEBHOOK_SECRET is configured, so every request is refused"))
            }
            Servers::Secrets(_) if credential.is_some() => Err(Problem::unauthorized("the credential is not valid")),
            Servers::Secrets(secrets) => secrets.signer(request, body).map_err(Problem::unauthorized),
        }
    }
}

impl Secrets {
    /// Who has this secret.
    fn holder(&self, secret: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let same: Vec<_> = self.digests.iter().map(|known| known.ct_eq(&digest)).collect();
        let places: Vec<usize> = (0..same.len()).filter(|place| same[*place].into()).collect();
        self.caller(&places)
    }

    /// Who has signed this request.
    fn signer(&self, request: &HttpRequest, body: &[u8]) -> Result<Caller, String> {
        let [id, timestamp, signature] = [ID, TIMESTAMP, SIGNATURE].map(|name| request.header(name));
        let signed = match (request.header(HUB_SIGNATURE), signature.or(timestamp)) {
            (Some(signature), None) => verify_body(signature, &self.keys, body),
            (_, Some(_)) => {
                let now = OffsetDateTime::now_utc().unix_timestamp();
                Headers { id, timestamp, signature }.verify(&self.keys, body, now)
            }
            (None, None) => return Err("a bearer token, a Basic password, ?token= or a signature is required".into()),
        };
        let places = signed.map_err(|unverified| unverified.to_string())?;
        self.caller(&places).ok_or_else(|| "the signature is not valid".into())
    }

    fn caller(&self, places: &[usize]) -> Option<Caller> {
        if places.is_empty() {
            return None;
        }
        let domains: Option<Vec<DomainPart>> = places.iter().map(|place| self.domains[*place].clone()).collect();
        Some(domains.map_or(Caller::Operator, Caller::Server))
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Secrets(secrets) => write!(f, "Secrets({})", secrets.keys.len()),
        }
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

    fn called(secrets: &str, headers: &[(&str, &str)], token: Option<&str>, body: &[u8]) -> Option<Caller> {
        let request = json!({
            "headers": headers.iter().copied().collect::<HashMap<_, _>>(),
            "queryStringParameters": token.map(|token| json!({"token": token})),
            "requestContext": {"http": {"method": "POST"}},
        });
        let request: HttpRequest = serde_json::from_value(request).unwrap();
        let Servers::Secrets(secrets) = Access::of_secrets(secrets).unwrap().servers else { unreachable!() };
        match Credential::of(&request) {
            Some(credential) => secrets.holder(credential.secret()),
            None => secrets.signer(&request, body).ok(),
        }
    }

    fn authorized(secrets: &str, authorization: &str) -> Option<Caller> {
        called(secrets, &[("authorization", authorization)], None, b"")
    }

    fn signed(secrets: &str, signed_with: &str, body: &[u8]) -> Option<Caller> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let signature = Key::new(signed_with).sign("w1", now, br#"{"type": "message"}"#);
        let headers =
            [("webhook-id", "w1"), ("webhook-timestamp", &now.to_string()), ("webhook-signature", signature.as_str())];
        called(secrets, &headers, None, body)
    }

    #[test]
    fn a_webhook_is_taken_if_one_of_the_secrets_has_signed_it() {
        let body = br#"{"type": "message"}"#;
        assert_eq!(signed("s3cret", "s3cret", body), Some(Caller::Operator));
        assert_eq!(signed("other,whsec_c2VjcmV0", "secret", body), Some(Caller::Operator));
        assert_eq!(signed("s3cret", "s3cret", b"{}"), None);
        assert_eq!(signed("s3cret", "other", body), None);
        assert_eq!(signed("", "", body), None);
    }

    #[test]
    fn a_secret_is_taken_in_each_of_its_three_forms() {
        let basic = format!("Basic {}", BASE64_STANDARD.encode("anybody:s3cret"));
        for secrets in ["s3cret", "other, s3cret"] {
            for authorization in ["Bearer s3cret", "bearer s3cret", &basic] {
                assert_eq!(authorized(secrets, authorization), Some(Caller::Operator));
            }
            assert_eq!(called(secrets, &[], Some("s3cret"), b""), Some(Caller::Operator));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for authorization in
            ["Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Digest s3cret", "", "Basic"]
        {
            assert_eq!(authorized("s3cret", authorization), None, "{authorization}");
        }
        assert_eq!(called("s3cret", &[], None, b""), None);
        assert_eq!(called("s3cret", &[], Some(""), b""), None);
        for nothing in ["", ","] {
            assert_eq!(called(nothing, &[("authorization", "Bearer ")], Some(""), b""), None);
        }
    }

    #[test]
    fn a_domain_without_a_secret_is_no_secret() {
        let error = Access::of_secrets("one, example.com=").unwrap_err();
        assert_eq!(error.to_string(), "WEBHOOK_SECRET: there is a domain without a secret behind it");
    }

    #[test]
    fn a_secret_behind_a_domain_is_that_domains() {
        let of = |domains: &[&str]| {
            Caller::Server(domains.iter().map(|domain| DomainPart::new(domain).unwrap().into_owned()).collect())
        };
        let secrets = "Example.com=one, example.org=two, example.net=two, three, example.com=whsec_Zm91cg==, dGhyZWU=";
        assert_eq!(authorized(secrets, "Bearer one"), Some(of(&["example.com"])));
        assert_eq!(authorized(secrets, "Bearer two"), Some(of(&["example.org", "example.net"])));
        assert_eq!(authorized(secrets, "Bearer three"), Some(Caller::Operator));
        assert_eq!(authorized(secrets, "Bearer dGhyZWU="), Some(Caller::Operator));
        assert_eq!(authorized(secrets, "Bearer Example.com=one"), None);
        assert_eq!(signed(secrets, "four", br#"{"type": "message"}"#), Some(of(&["example.com"])));
        let user = |jid| BareJid::new(jid).unwrap();
        assert!(of(&["example.com"]).speaks_for(&user("bob@example.com")));
        assert!(!of(&["example.com"]).speaks_for(&user("bob@sub.example.com")));
        assert!(!of(&["example.com"]).speaks_for(&user("bob@example.org")));
        let client = Caller::Client(user("bob@example.com"));
        assert!(client.speaks_for(&user("bob@example.com")) && !client.speaks_for(&user("eve@example.com")));
        assert!(!client.speaks_for_domain(user("bob@example.com").domain()));
    }
}
