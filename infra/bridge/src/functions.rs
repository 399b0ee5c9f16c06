//! Pushlark's functions, to which stanzas are posted as signed webhooks.

use std::time::Duration;

use pushlark_telemetry::Causes;
use pushlark_webhooks::{ID, Key, SIGNATURE, TIMESTAMP};
use pushlark_xmpp::{Condition, Element, Iq, IqType, MAX_STANZA_BYTES};
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::StartError;

/// The functions' client.
#[derive(Clone)]
pub struct Functions {
    http: Client,
    iq_url: Option<Url>,
    messages_url: Option<Url>,
    key: Option<Key>,
}

/// Why a function gives no answer that could be passed on.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("IQ_URL is not set")]
    Nowhere,
    #[error("no answer")]
    Http(#[source] reqwest::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("the answer is no IQ of type result or error")]
    NoAnswer,
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
        Ok(Self { http, iq_url, messages_url, key })
    }

    /// The answer to an IQ of type `get` or `set`. Where the function gives none it is one of type `wait`: on others, servers
    /// give up their registrations.
    pub async fn answer(&self, iq: &Iq) -> Element {
        match self.ask(iq).await {
            Ok(answer) => answer,
            Err(unanswered) => {
                tracing::warn!(id = iq.id(), error = %Causes(&unanswered), "an IQ is not answered by the function");
                iq.error(Condition::RemoteServerTimeout, "the push service does not answer, try again")
            }
        }
    }

    /// Passes a message on.
    pub async fn tell(&self, message: &Element) {
        let Some(url) = &self.messages_url else {
            tracing::debug!("a message is dropped, since MESSAGES_URL is not set");
            return;
        };
        let posted = self.post(url, message).await.and_then(Response::error_for_status);
        if let Err(error) = posted {
            tracing::warn!(error = %Causes(&error.without_url()), "a message is lost");
        }
    }

    async fn ask(&self, iq: &Iq) -> Result<Element, Unanswered> {
        let url = self.iq_url.as_ref().ok_or(Unanswered::Nowhere)?;
        let mut response = self.post(url, iq.element()).await.map_err(|error| Unanswered::Http(error.without_url()))?;
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

    async fn post(&self, url: &Url, stanza: &Element) -> Result<Response, reqwest::Error> {
        let body = stanza.to_string();
        let mut request = self.http.post(url.clone()).header(CONTENT_TYPE, "application/xmpp+xml");
        if let Some(key) = &self.key {
            let (id, timestamp) = (Uuid::new_v4().to_string(), OffsetDateTime::now_utc().unix_timestamp());
            let signature = key.sign(&id, timestamp, body.as_bytes());
            request = request.header(ID, id).header(TIMESTAMP, timestamp).header(SIGNATURE, signature);
        }
        request.body(body).send().await
    }
}
