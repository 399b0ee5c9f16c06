//! Real PubSub services, by the chat server's HTTP API: a publish IQ is posted in the format of Prosody's `mod_rest`,
//! and the response contains the answer to the IQ.

use std::str::FromStr;
use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::BoxFuture;
use pushlark_http_client::Tls;
use pushlark_model::{CallSignal, Payload, Registration};
use pushlark_settings::catalogue::{PUBSUB_TOKEN, PUBSUB_WITHOUT_OPTIONS};
use pushlark_settings::{
    Environment, HostPatterns, HttpUrl, RotatingSecret, Secret, SettingError, UrlError, by_domain, without_credentials,
};
use pushlark_xmpp::{
    BareJid, DomainPart, Element, EncryptedContent, ErrorType, Iq, IqType, MAX_STANZA_BYTES, NotificationPriority,
    ProposedCall, PublishNotification, PublishedContent, StanzaError,
};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode, Url};
use uuid::Uuid;

use crate::encrypted::GatewayPayload;
use crate::gateway::{Gateway, PushService};
use crate::http_client::{ClientKind, HttpClient, failure, named, unanswered};
use crate::notification::Notification;
use crate::outcome::{Failure, FailureScope, Outcome};
use crate::truncate::truncate;

/// The client of real PubSub services.
pub struct PubSub {
    http: HttpClient,
    servers: ChatServers,
    tokens: RotatingSecret<Tokens>,
    /// The PubSub services that do not accept publish options.
    without_options: HostPatterns,
}

/// The chat servers that send stanzas, at most one for a domain.
#[derive(Debug, Clone, Default)]
pub struct ChatServers(Vec<ChatServer>);

/// A chat server with an HTTP API.
#[derive(Debug, Clone)]
pub struct ChatServer {
    /// The domain whose stanzas it sends; `None` for all other domains.
    domain: Option<DomainPart>,
    url: Url,
}

/// The token for the server of each domain; without a domain, for all other servers.
struct Tokens(Vec<(Option<DomainPart>, String)>);

impl PubSub {
    /// Reads `PUBSUB_TOKEN`, `PUBSUB_WITHOUT_OPTIONS` and `EXTRA_CA_FILE` for these servers; returns `None` without a
    /// server.
    pub fn from_environment(
        servers: &ChatServers,
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
        let tls = Tls::from_environment(environment)?;
        let (http, servers) = (HttpClient::new(&tls, ClientKind::Any, timeout), servers.clone());
        Ok((!servers.0.is_empty()).then_some(Self { http, servers, tokens, without_options }))
    }

    /// Publishes one notification to the registration's node, and waits for the answer of the PubSub service.
    async fn send(&self, notification: Notification<'_>) -> Outcome {
        let Notification { user, registration, .. } = notification;
        let Some(server) = self.servers.of(user) else {
            return Outcome::Refused(format!("there is no PUBSUB_URL for {}", user.domain()));
        };
        let none = Default::default();
        let options =
            if self.without_options.has(user, &registration.jid) { &none } else { registration.options.fields() };
        let id = Uuid::now_v7().to_string();
        let (from, to, node) = (user.domain(), &registration.jid, registration.node.as_str());
        let preferences = registration.preferences.as_deref();
        let priority = preferences.filter(|preferences| preferences.priority).map(|_| priority(notification.payload));
        let has_jingle = preferences.is_some_and(|preferences| preferences.jingle);
        let build = |payload: &Payload| {
            let content = content(payload, has_jingle);
            PublishNotification { id: &id, from, to, node, content, priority, options }.to_iq().to_string().into_bytes()
        };
        // A summary is not truncated: the limit of the push service behind the node is unknown.
        let iq = match truncate(usize::MAX, notification.payload, build) {
            Ok(iq) => iq,
            Err(unsendable) => return Outcome::Refused(unsendable.to_string()),
        };
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
            // The notification may have been published, and other PubSub services may answer.
            Err(error) if error.is_timeout() && !error.is_connect() => unknown("no answer in time").into(),
            Err(error) => unanswered(error).into(),
        }
    }

    async fn post(&self, server: &ChatServer, tokens: &Tokens, iq: &[u8]) -> Result<Response, reqwest::Error> {
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

impl Gateway for PubSub {
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, Outcome> {
        Box::pin(self.send(notification))
    }

    fn push_service<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, PushService> {
        Box::pin(async move { PushService::new(self.servers.describe(notification.user)) })
    }

    fn server(&self, notification: Notification<'_>) -> Option<String> {
        Some(notification.registration.jid.to_string())
    }

    fn describe(&self, user: &BareJid, _registration: &Registration) -> String {
        format!("PubSub by {}", self.servers.describe(user))
    }

    /// Reads the tokens and opens the connections to the chat servers, and accepts any answer.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async {
            self.http.prepare().await;
            self.tokens.current().await?;
            for server in &self.servers.0 {
                self.http.send(|client| client.head(server.url.clone())).await.map_err(unanswered)?;
            }
            Ok(())
        })
    }

    /// The chat server may have waited for one PubSub service that does not answer.
    fn timeout_scope(&self) -> FailureScope {
        FailureScope::Unknown
    }
}

impl ChatServers {
    /// Returns the URL of a user's chat server, without user, password and query; empty if there is no server.
    fn describe(&self, user: &BareJid) -> String {
        self.of(user).map(|server| without_credentials(&server.url)).unwrap_or_default()
    }

    /// Returns the chat server that sends the stanzas of a user's domain.
    pub fn of(&self, user: &BareJid) -> Option<&ChatServer> {
        let own = |server: &&ChatServer| server.domain.as_ref().is_some_and(|domain| &**domain == user.domain());
        self.0.iter().find(own).or_else(|| self.0.iter().find(|server| server.domain.is_none()))
    }
}

/// Parses URLs by domain. The error quotes no URL, since it may contain a password.
impl FromStr for ChatServers {
    type Err = String;

    fn from_str(urls: &str) -> Result<Self, String> {
        let mut servers = Vec::new();
        for (index, (domain, url)) in by_domain(urls).map_err(|empty| empty.to_string())?.into_iter().enumerate() {
            let number = index + 1;
            let HttpUrl(url) = url.parse().map_err(|invalid: UrlError| format!("number {number}: {invalid}"))?;
            if servers.iter().any(|server: &ChatServer| server.domain == domain) {
                return Err(format!("number {number} is for the same domain as another one"));
            }
            servers.push(ChatServer { domain, url });
        }
        Ok(Self(servers))
    }
}

impl Tokens {
    fn read(text: &str) -> Result<Self, String> {
        let mut tokens: Vec<(Option<DomainPart>, String)> = Vec::new();
        for (index, (domain, token)) in by_domain(text).map_err(|empty| empty.to_string())?.into_iter().enumerate() {
            let number = index + 1;
            // A padded base64 token has no dot, so this is a domain without a token.
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

    /// Returns the token for a server; a token without a domain is for all other servers.
    fn of(&self, server: &ChatServer) -> Option<&str> {
        let own = self.0.iter().find(|(domain, _)| *domain == server.domain);
        own.or_else(|| self.0.iter().find(|(domain, _)| domain.is_none())).map(|(_, token)| token.as_str())
    }
}

/// Returns the content of a published notification. `has_jingle` is whether the start of a call is an element, too.
fn content(payload: &Payload, has_jingle: bool) -> PublishedContent<'_> {
    let get = |name| payload.get(name).unwrap_or_default();
    if payload.is_encrypted() {
        let (ciphertext, iv) = (get(Payload::ENCRYPTED).to_owned(), get(Payload::IV).to_owned());
        return PublishedContent::Encrypted(EncryptedContent { ciphertext, iv, is_call: payload.call().is_some() });
    }
    let mut fields: Vec<_> = payload.fields().collect();
    let call = match payload.call() {
        Some(CallSignal::Ring(sid)) if has_jingle => Some(ProposedCall { sid, media: payload.call_media().collect() }),
        _ => None,
    };
    if let (Some(_), Some(caller), None) =
        (&call, payload.get(Payload::CALL_FROM), payload.get(Payload::LAST_MESSAGE_SENDER))
    {
        // The push services that know the element take the caller from this field.
        fields.push((Payload::LAST_MESSAGE_SENDER, caller));
    }
    PublishedContent::Summary { fields, call }
}

fn priority(payload: GatewayPayload<'_>) -> NotificationPriority {
    if payload.is_important() { NotificationPriority::High } else { NotificationPriority::Low }
}

/// Returns the outcome of a publish. Only an error of type `cancel` means that the node is gone (XEP-0357, section 7).
async fn outcome(response: Response, id: &str) -> Outcome {
    let (status, headers) = (response.status(), response.headers().clone());
    let reason = format!("the chat server answered with status {}", status.as_u16());
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return failure(reason, &headers, FailureScope::Service).into();
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
        return unknown("the chat server's response is not an answer to the IQ").into();
    };
    match (iq.kind(), iq.stanza_error()) {
        (IqType::Result, _) => Outcome::Delivered,
        (IqType::Error, Some(StanzaError { kind, condition, text })) => {
            // The text may quote the notification, so it is not logged above debug level.
            tracing::debug!(condition, text, "a PubSub service answered with an error");
            let reason = named(&condition).to_owned();
            match kind {
                ErrorType::Cancel => Outcome::Gone(reason),
                ErrorType::Wait => Failure { reason, retry_after: None, scope: FailureScope::Node }.into(),
                ErrorType::Auth | ErrorType::Modify | ErrorType::Continue => Outcome::Suspect(reason),
            }
        }
        _ => Outcome::Suspect("the answer is neither a result nor an error".into()),
    }
}

/// Reads the body, but stops beyond the size of the largest stanza.
async fn read(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() <= MAX_STANZA_BYTES
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Returns a failure that may concern only this node, and may be permanent.
fn unknown(reason: impl Into<String>) -> Failure {
    Failure { reason: reason.into(), retry_after: None, scope: FailureScope::Unknown }
}
