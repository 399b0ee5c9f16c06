//! Pushlark's functions, to which stanzas are posted as signed webhooks.

use std::sync::Arc;
use std::time::Duration;

use pushlark_telemetry::Causes;
use pushlark_webhooks::{ID, Key, SIGNATURE, TIMESTAMP};
use pushlark_xmpp::{Condition, Element, Iq, IqType, MAX_STANZA_BYTES};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

use crate::StartError;

/// How many IQs, and how many messages, are posted at the same time.
const IN_FLIGHT: usize = 256;
/// How long an IQ waits until it can be posted. Chat servers give up an IQ after about 30 s.
const IQ_WAIT: Duration = Duration::from_secs(10);

/// The functions' client.
#[derive(Clone)]
pub struct Functions {
    http: Client,
    iq_url: Option<Url>,
    messages_url: Option<Url>,
    key: Option<Key>,
    /// IQs have permits of their own, so that no IQ waits behind messages.
    iqs: Arc<Semaphore>,
    messages: Arc<Semaphore>,
}

/// Why a function gives no answer that could be passed on.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("IQ_URL is not set")]
    Nowhere,
    #[error("{IN_FLIGHT} IQs wait for the function")]
    Busy,
    #[error("no answer")]
    Http(#[source] reqwest::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("the answer is no IQ of type result or error")]
    NoAnswer,
}

/// Why the function does not take a message.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// No connection, or no answer within the timeout.
    #[error("no answer")]
    Http(#[source] reqwest::Error),
    /// A status other than 2xx, and the seconds in `Retry-After`.
    #[error("status {0}")]
    Status(StatusCode, Option<u64>),
}

impl NotTaken {
    /// Whether another try can succeed. The message itself is wrong only with 400, 413 and 415; the operator can correct
    /// a wrong secret or URL.
    pub fn is_transient(&self) -> bool {
        let is_permanent = |status: &StatusCode| matches!(status.as_u16(), 400 | 413 | 415);
        !matches!(self, Self::Status(status, _) if is_permanent(status))
    }

    /// How long the function wants the next try to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(_, seconds) => seconds.map(Duration::from_secs),
            Self::Http(_) => None,
        }
    }
}

impl Functions {
    pub fn new(
        iq_url: Option<Url>,
        messages_url: Option<Url>,
        key: Option<Key>,
        timeout: Duration,
    ) -> Result<Self, StartError> {
        let http = Client::builder().timeout(timeout).redirect(Policy::none()).build();
        let http = http.map_err(|error| StartError::Client(error.into()))?;
        let permits = || Arc::new(Semaphore::new(IN_FLIGHT));
        Ok(Self { http, iq_url, messages_url, key, iqs: permits(), messages: permits() })
    }

    /// Whether there is a function for messages.
    pub fn take_messages(&self) -> bool {
        self.messages_url.is_some()
    }

    /// The answer to the IQ `text` of type `get` or `set`, whose start tag is `iq`. Where the function gives none it is one of
    /// type `wait`: on others, servers give up their registrations.
    pub async fn answer(&self, iq: &Iq, text: &str) -> Element {
        match self.ask(iq, text).await {
            Ok(answer) => answer,
            Err(unanswered) => {
                tracing::warn!(id = iq.id(), error = %Causes(&unanswered), "an IQ is not answered by the function");
                iq.error(Condition::RemoteServerTimeout, "the push service does not answer, try again")
            }
        }
    }

    /// Posts a message once, as the webhook `id`, which is the same in each try.
    pub async fn tell(&self, id: &str, message: &str) -> Result<(), NotTaken> {
        let Some(url) = &self.messages_url else { return Ok(()) };
        // The semaphore is never closed.
        let _permit = self.messages.acquire().await;
        // Allocated only now: thousands of messages may wait for a permit.
        let posted = Box::pin(self.post(url, id, message)).await;
        let response = posted.map_err(|error| NotTaken::Http(error.without_url()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Err(NotTaken::Status(status, seconds))
    }

    async fn ask(&self, iq: &Iq, text: &str) -> Result<Element, Unanswered> {
        let url = self.iq_url.as_ref().ok_or(Unanswered::Nowhere)?;
        let _permit = timeout(IQ_WAIT, self.iqs.acquire()).await.map_err(|_| Unanswered::Busy)?;
        let id = Uuid::new_v4().to_string();
        let posted = Box::pin(self.post(url, &id, text)).await;
        let mut response = posted.map_err(|error| Unanswered::Http(error.without_url()))?;
        if response.status().as_u16() != 200 {
            return Err(Unanswered::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while body.len() <= MAX_STANZA_BYTES
            && let Some(chunk) = response.chunk().await.map_err(|error| Unanswered::Http(error.without_url()))?
        {
            body.extend_from_slice(&chunk);
        }
        let answer = Element::parse(&String::from_utf8_lossy(&body)).ok();
        let answer = answer.and_then(|answer| Iq::from_element(answer).ok());
        let is_answer = |answer: &Iq| matches!(answer.kind(), IqType::Result | IqType::Error);
        let answer = answer.filter(is_answer).ok_or(Unanswered::NoAnswer)?;
        // Whatever the function says, it answers this IQ.
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
