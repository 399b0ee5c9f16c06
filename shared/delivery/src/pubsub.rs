//! Real PubSub services, by the chat server's HTTP: a publish IQ is posted as Prosody's `mod_rest` takes it, and the answer
//! is the IQ that answers it.

use std::str::FromStr;
use std::time::Duration;

use aws_config::SdkConfig;
use pushlark_plugin::xmpp::{
    BareJid, DomainPart, Element, ErrorType, Iq, IqType, MAX_STANZA_BYTES, PublishNotification, StanzaError,
};
use pushlark_settings::catalogue::{PUBSUB_TOKEN, PUBSUB_WITHOUT_OPTIONS};
use pushlark_settings::{
    Environment, HostPatterns, HttpUrl, InvalidUrl, RotatingSecret, Secret, SettingError, by_domain,
    without_credentials,
};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode, Url};
use uuid::Uuid;

use crate::http_client::{HttpClient, Kind, failure, named, unanswered};
use crate::notification::Notification;
use crate::outcome::{Extent, Failure, Outcome};

/// The way to PubSub services.
pub struct PubSub {
    http: HttpClient,
    servers: Servers,
    tokens: RotatingSecret<Tokens>,
    /// PubSub services that take no publish options.
    without_options: HostPatterns,
}

/// The chat servers that send stanzas.
#[derive(Debug, Clone, Default)]
pub struct Servers(Vec<Server>);

/// One chat server.
#[derive(Debug, Clone)]
pub struct Server {
    /// The domain whose stanzas it sends; `None` for those of all others.
    domain: Option<DomainPart>,
    url: Url,
}

/// The token of each domain, or of all other domains.
struct Tokens(Vec<(Option<DomainPart>, String)>);

impl PubSub {
    /// By these servers, with `PUBSUB_TOKEN` and `PUBSUB_WITHOUT_OPTIONS`; `None` without a server.
    pub fn from_environment(
        servers: &Servers,
        environment: &Environment,
        timeout: Duration,
        aws: &SdkConfig,
    ) -> Result<Option<Self>, SettingError> {
        let without_options = environment.get(&PUBSUB_WITHOUT_OPTIONS)?.unwrap_or_default();
        let tokens = match environment.value(&PUBSUB_TOKEN)? {
            Some(setting) => {
                RotatingSecret::new(PUBSUB_TOKEN.name, Secret::new(setting, aws), Tokens::read).checked()?
            }
            None => RotatingSecret::new(PUBSUB_TOKEN.name, "".into(), |_| Ok(Tokens(Vec::new()))),
        };
        let (http, servers) = (HttpClient::new(Kind::Any, timeout), servers.clone());
        Ok((!servers.0.is_empty()).then_some(Self { http, servers, tokens, without_options }))
    }

    /// The chat server that sends a user's notifications.
    pub fn describe(&self, user: &BareJid) -> String {
        self.servers.of(user).map(|server| without_credentials(&server.url)).unwrap_or_default()
    }

    /// Publishes one notification to the registration's node, and waits for what the PubSub service answers.
    pub async fn publish(&self, notification: &Notification<'_>) -> Outcome {
        let Notification { user, service, payload, .. } = *notification;
        let Some(server) = self.servers.of(user) else {
            return Outcome::Refused(format!("there is no PUBSUB_URL for {}", user.domain()));
        };
        let none = Default::default();
        let options = if self.without_options.has(user, &service.jid) { &none } else { service.options.fields() };
        let id = Uuid::now_v7().to_string();
        let (from, to, node) = (user.domain(), &service.jid, service.node.as_str());
        let iq = PublishNotification { id: &id, from, to, node, options }.to_iq(payload.fields()).to_string();
        let tokens = match self.tokens.current().await {
            Ok(tokens) => tokens,
            Err(error) => return Failure::from(error).into(),
        };
        let mut answer = self.post(server, &tokens, &iq).await;
        if let Ok(response) = &answer
            && matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && let Some(newer) = self.tokens.newer(&tokens).await
        {
            answer = self.post(server, &newer, &iq).await;
        }
        match answer {
            Ok(response) => outcome(response, &id).await,
            // It may have been published; and it may be this PubSub service alone that does not answer.
            Err(error) if error.is_timeout() && !error.is_connect() => unknown("no answer in time").into(),
            Err(error) => unanswered(error).into(),
        }
    }

    /// Opens the connections to the chat servers, whatever they answer.
    pub async fn warm_up(&self) -> Result<(), Failure> {
        self.http.prepare().await;
        self.tokens.current().await?;
        for server in &self.servers.0 {
            self.http.send(|client| client.head(server.url.clone())).await.map_err(unanswered)?;
        }
        Ok(())
    }

    async fn post(&self, server: &Server, tokens: &Tokens, iq: &str) -> Result<Response, reqwest::Error> {
        let request = |client: &reqwest::Client| {
            let request = client.post(server.url.clone()).header(CONTENT_TYPE, "application/xmpp+xml");
            let request = match tokens.of(server) {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            request.body(iq.to_owned())
        };
        self.http.send(request).await
    }
}

impl Servers {
    /// The chat server that sends the stanzas of a user's domain.
    pub fn of(&self, user: &BareJid) -> Option<&Server> {
        let own = |server: &&Server| server.domain.as_ref().is_some_and(|domain| &**domain == user.domain());
        self.0.iter().find(own).or_else(|| self.0.iter().find(|server| server.domain.is_none()))
    }
}

/// Reads URLs by domain. None is quoted, since it may hold a password.
impl FromStr for Servers {
    type Err = String;

    fn from_str(urls: &str) -> Result<Self, String> {
        let mut servers = Vec::new();
        for (index, (domain, url)) in by_domain(urls).map_err(|empty| empty.to_string())?.into_iter().enumerate() {
            let number = index + 1;
            let HttpUrl(url) = url.parse().map_err(|invalid: InvalidUrl| format!("number {number}: {invalid}"))?;
            if servers.iter().any(|server: &Server| server.domain == domain) {
                return Err(format!("number {number} is for the same domain as another one"));
            }
            servers.push(Server { domain, url });
        }
        Ok(Self(servers))
    }
}

impl Tokens {
    fn read(text: &str) -> Result<Self, String> {
        let mut tokens: Vec<(Option<DomainPart>, String)> = Vec::new();
        for (index, (domain, token)) in by_domain(text).map_err(|empty| empty.to_string())?.into_iter().enumerate() {
            let number = index + 1;
            // The padding of base64 has no dot before it.
            if token.ends_with('=') && token.contains('.') {
                return Err(format!("number {number} is a domain without a token behind it"));
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("number {number} has characters that a bearer token cannot have"));
            }
            if tokens.iter().any(|(other, _)| *other == domain) {
                return Err(format!("number {number} is for the same domain as another one"));
            }
            tokens.push((domain, token.to_owned()));
        }
        Ok(Self(tokens))
    }

    /// The token for a server; one that no domain stands before is for all others.
    fn of(&self, server: &Server) -> Option<&str> {
        let own = self.0.iter().find(|(domain, _)| *domain == server.domain);
        own.or_else(|| self.0.iter().find(|(domain, _)| domain.is_none())).map(|(_, token)| token.as_str())
    }
}

/// What the answer to a publish says: `cancel` is the end of the node, any other error leaves it (XEP-0357, section 7).
async fn outcome(response: Response, id: &str) -> Outcome {
    let (status, headers) = (response.status(), response.headers().clone());
    let reason = format!("the chat server answered with status {}", status.as_u16());
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return failure(reason, &headers, Extent::Service).into();
    }
    if status != StatusCode::OK {
        return Outcome::Refused(reason);
    }
    let body = match read(response).await {
        Ok(body) => body,
        Err(error) => return unanswered(error).into(),
    };
    let iq = Element::parse(&String::from_utf8_lossy(&body)).ok().and_then(|iq| Iq::from_element(iq).ok());
    let Some(iq) = iq.filter(|iq| iq.id() == id) else {
        return unknown("the chat server answered with something else than the IQ's answer").into();
    };
    match (iq.kind(), iq.stanza_error()) {
        (IqType::Result, _) => Outcome::Delivered,
        (IqType::Error, Some(StanzaError { kind, condition, text })) => {
            // It may repeat the notification.
            tracing::debug!(condition, text, "what a PubSub service says");
            let reason = named(&condition).to_owned();
            match kind {
                ErrorType::Cancel => Outcome::Gone(reason),
                ErrorType::Wait => Failure { reason, retry_after: None, extent: Extent::Node }.into(),
                ErrorType::Auth | ErrorType::Modify | ErrorType::Continue => Outcome::Suspect(reason),
            }
        }
        _ => Outcome::Suspect("an answer that is neither a result nor an error".into()),
    }
}

/// The body, or as much of it as may be looked at.
async fn read(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() <= MAX_STANZA_BYTES
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A failure that may be of this node alone, and may never pass.
fn unknown(reason: impl Into<String>) -> Failure {
    Failure { reason: reason.into(), retry_after: None, extent: Extent::Unknown }
}
