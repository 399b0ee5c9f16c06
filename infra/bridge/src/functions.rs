//! Posts stanzas to Pushlark's functions, as signed webhooks.

use std::sync::Arc;
use std::time::Duration;

use pushlark_http_client::{HttpVersions, Tls};
use pushlark_settings::without_credentials;
use pushlark_telemetry::Causes;
use pushlark_webhooks::{ID, Key, SIGNATURE, TIMESTAMP};
use pushlark_xmpp::{Condition, Element, Iq, IqType, MAX_STANZA_BYTES};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::StartError;

/// The most IQs, and the most messages, that are posted at the same time.
const MAX_IN_FLIGHT: usize = 256;
/// The longest wait of an IQ before it is posted. Chat servers time out an IQ after about 30 s.
const IQ_QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum size of a problem document (RFC 9457) that is read, in bytes.
const MAX_PROBLEM_BYTES: usize = 8 * 1024;

/// The HTTP client for the functions.
#[derive(Clone)]
pub struct FunctionsClient {
    http: Client,
    iq_url: Option<Url>,
    messages_url: Option<Url>,
    key: Option<Key>,
    /// IQs have separate permits, so that no IQ waits behind messages.
    iqs: Arc<Semaphore>,
    messages: Arc<Semaphore>,
}

/// A failed request of an IQ, without an answer that the bridge could forward.
#[derive(Debug, thiserror::Error)]
enum IqError {
    #[error("BRIDGE_IQ_URL is not set")]
    NoUrl,
    #[error("{MAX_IN_FLIGHT} IQs are already waiting for the function")]
    Busy,
    #[error("no answer")]
    Http(#[source] reqwest::Error),
    #[error(transparent)]
    Refused(StatusError),
    #[error("the answer is not an IQ of type result or error")]
    InvalidAnswer,
}

/// A message that the function did not accept.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// No connection, or no answer within the timeout.
    #[error("no answer")]
    Http(#[source] reqwest::Error),
    /// A status that is not 2xx.
    #[error(transparent)]
    Refused(StatusError),
}

/// The function refused a request.
#[derive(Debug, thiserror::Error)]
#[error("status {}{}", status.as_u16(), detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default())]
pub struct StatusError {
    status: StatusCode,
    /// The seconds in `Retry-After`.
    retry_after: Option<u64>,
    /// The detail of a problem (RFC 9457) about a credential. The details of other problems may quote a stanza.
    detail: Option<String>,
}

impl MessageError {
    /// Returns whether a retry can succeed. Only 400, 413 and 415 mean that the message itself is invalid; the operator
    /// can correct a wrong secret or URL.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Refused(StatusError { status, .. }) if matches!(status.as_u16(), 400 | 413 | 415))
    }

    /// The delay before the next try that the function asks for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refused) => refused.retry_after.map(Duration::from_secs),
            Self::Http(_) => None,
        }
    }
}

impl StatusError {
    async fn from_response(response: Response) -> Self {
        #[derive(Deserialize)]
        struct ProblemDetail {
            detail: String,
        }

        let (status, headers) = (response.status(), response.headers());
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let is_problem = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
        let mut detail = None;
        if is_problem && is_unauthorized(status) {
            let body = read(response, MAX_PROBLEM_BYTES).await.unwrap_or_default();
            detail = serde_json::from_slice(&body).ok().map(|ProblemDetail { detail }| detail);
        }
        Self { status, retry_after, detail }
    }
}

impl IqError {
    /// The error text for the sender of the IQ.
    fn text(&self) -> &'static str {
        match self {
            Self::Refused(refused) if is_unauthorized(refused.status) => {
                "the push service refused this server: its administrator must check the secret"
            }
            _ => "the push service did not answer, try again later",
        }
    }
}

fn is_unauthorized(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Reads the body, and stops after the chunk that exceeds `limit` bytes.
async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() <= limit
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl FunctionsClient {
    pub fn new(
        iq_url: Option<Url>,
        messages_url: Option<Url>,
        key: Option<Key>,
        tls: &Tls,
        timeout: Duration,
    ) -> Result<Self, StartError> {
        let http = tls.http_client(HttpVersions::Http2OrHttp1).timeout(timeout).build();
        let http = http.map_err(|error| StartError::Client(error.into()))?;
        let permits = || Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        Ok(Self { http, iq_url, messages_url, key, iqs: permits(), messages: permits() })
    }

    /// Returns whether `BRIDGE_MESSAGES_URL` is set.
    pub fn has_messages_url(&self) -> bool {
        self.messages_url.is_some()
    }

    /// The URL of the function for messages, without credentials, for the log.
    pub fn messages_url(&self) -> Option<String> {
        self.messages_url.as_ref().map(without_credentials)
    }

    /// Returns the answer to the IQ `text` of type `get` or `set`, whose start tag is `iq`. If the function has no
    /// answer, it is an error of type `wait`: servers drop their registrations on other types.
    pub async fn answer(&self, iq: &Iq, text: &str) -> Element {
        match self.ask(iq, text).await {
            Ok(answer) => answer,
            Err(error) => {
                let url = self.iq_url.as_ref().map(without_credentials);
                tracing::warn!(id = iq.id(), url, error = %Causes(&error), "an IQ is not answered by the function");
                iq.error(Condition::RemoteServerTimeout, error.text())
            }
        }
    }

    /// Posts a message once. `id` is the webhook's id, the same for each try.
    pub async fn post_message(&self, id: &str, message: &str) -> Result<(), MessageError> {
        let Some(url) = &self.messages_url else { return Ok(()) };
        // The semaphore is never closed.
        let _permit = self.messages.acquire().await;
        // Allocated only now, because thousands of messages may wait for a permit.
        let posted = Box::pin(self.post(url, id, message)).await;
        let response = posted.map_err(|error| MessageError::Http(error.without_url()))?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(MessageError::Refused(StatusError::from_response(response).await))
    }

    async fn ask(&self, iq: &Iq, text: &str) -> Result<Element, IqError> {
        let url = self.iq_url.as_ref().ok_or(IqError::NoUrl)?;
        let _permit = timeout(IQ_QUEUE_TIMEOUT, self.iqs.acquire()).await.map_err(|_| IqError::Busy)?;
        let id = Uuid::new_v4().to_string();
        let posted = Box::pin(self.post(url, &id, text)).await;
        let response = posted.map_err(|error| IqError::Http(error.without_url()))?;
        if response.status() != StatusCode::OK {
            return Err(IqError::Refused(StatusError::from_response(response).await));
        }
        let body = read(response, MAX_STANZA_BYTES).await;
        let body = body.map_err(|error| IqError::Http(error.without_url()))?;
        let answer = Element::parse(&String::from_utf8_lossy(&body)).ok();
        let answer = answer.and_then(|answer| Iq::from_element(answer).ok());
        let is_answer = |answer: &Iq| matches!(answer.kind(), IqType::Result | IqType::Error);
        let answer = answer.filter(is_answer).ok_or(IqError::InvalidAnswer)?;
        // The answer gets the id and addresses of this IQ, whatever the function sent.
        let addressed = |answer: Element, name, address: Option<&str>| match address {
            Some(address) => answer.with_attribute(name, address),
            None => answer,
        };
        let answer = answer.element().clone().with_attribute("id", iq.id());
        Ok(addressed(addressed(answer, "from", iq.to()), "to", iq.from()))
    }

    async fn post(&self, url: &Url, id: &str, body: &str) -> Result<Response, reqwest::Error> {
        let mut request = self.http.post(url.clone()).header(CONTENT_TYPE, "application/xmpp+xml");
        if let Some(key) = &self.key {
            let timestamp = OffsetDateTime::now_utc().unix_timestamp();
            let signature = key.sign(id, timestamp, body.as_bytes());
            request = request.header(ID, id).header(TIMESTAMP, timestamp).header(SIGNATURE, signature);
        }
        request.body(body.to_owned()).send().await
    }
}
