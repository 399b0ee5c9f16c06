//! The HTTP clients for push services.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pushlark_telemetry::Causes;
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::outcome::{Extent, Failure, Outcome};
use crate::web_push::endpoint::{NotPublic, is_public};

/// The longest name that a reason has, in bytes.
const MAX_NAME: usize = 64;

/// A client for push services: no redirect is followed.
///
/// It is built when it is first needed: reading the machine's root certificates takes longer than all else that a
/// worker does at its start.
#[derive(Debug, Clone)]
pub struct HttpClient {
    kind: Kind,
    timeout: Duration,
    built: Arc<OnceLock<Client>>,
}

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Servers that the operator chose.
    Any,
    /// Servers that the operator chose and that speak HTTP/2: one connection for each, with many streams.
    Http2,
    /// Servers that users name: public addresses only.
    Public,
}

impl HttpClient {
    /// A client that waits for an answer so long.
    pub fn new(kind: Kind, timeout: Duration) -> Self {
        Self { kind, timeout, built: Arc::default() }
    }

    /// Sends a request. A pooled connection that turns out to be dead, as they are after a long freeze of the sandbox, is
    /// made anew once.
    pub async fn send(&self, request: impl Fn(&Client) -> RequestBuilder) -> Result<Response, reqwest::Error> {
        let client = self.get()?;
        match request(client).send().await {
            Err(error) if error.is_request() && !error.is_connect() && !error.is_timeout() => {
                request(client).send().await
            }
            sent => sent,
        }
    }

    fn get(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.built.get() {
            return Ok(client);
        }
        let client = Client::builder()
            .timeout(self.timeout)
            // So that who cannot be reached is told from who does not answer.
            .connect_timeout(self.timeout / 2)
            .redirect(Policy::none())
            // Lambda's network forgets an idle connection after 350 seconds.
            .pool_idle_timeout(Duration::from_secs(300))
            // After a freeze, a ping tells in time that a connection is dead.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(2))
            .user_agent(concat!("pushlark/", env!("CARGO_PKG_VERSION")));
        let client = match self.kind {
            Kind::Any => client,
            Kind::Http2 => client.http2_prior_knowledge(),
            // A proxy would resolve names itself.
            Kind::Public => client.no_proxy().dns_resolver(Arc::new(PublicNames)),
        };
        let client = client.build()?;
        Ok(self.built.get_or_init(|| client))
    }

    /// Builds the client beside what the current thread does.
    pub async fn prepare(&self) {
        let this = self.clone();
        // Should it fail, the first publish says why.
        let _ = tokio::task::spawn_blocking(move || this.get().is_ok()).await;
    }
}

/// Why there is no answer; not where it was asked for, since a URL may hold a device token.
pub fn unanswered(error: reqwest::Error) -> Failure {
    let extent = if error.is_connect() { Extent::Unreachable } else { Extent::Service };
    Failure { reason: Causes(&error.without_url()).to_string(), retry_after: None, extent }
}

/// `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    retry_after_at(headers, OffsetDateTime::now_utc())
}

fn retry_after_at(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    Some((date - now).try_into().unwrap_or(Duration::ZERO))
}

/// A reason as push services name them. Any other text may quote the device or the message, which are not for the log.
pub fn named(reason: &str) -> &str {
    let is_name = reason.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '-'));
    if is_name && reason.len() <= MAX_NAME {
        return reason;
    }
    tracing::debug!(reason, "what a push service says");
    "for a reason that is not named"
}

/// What a status says of a notification, unless its push service means something of its own by it.
pub fn outcome(status: StatusCode, headers: &HeaderMap, reason: String) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Delivered,
        StatusCode::GONE => Outcome::Gone(reason),
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            failure(reason, headers, Extent::Service).into()
        }
        _ => Outcome::Refused(reason),
    }
}

/// A failure that an answer tells of.
pub fn failure(reason: String, headers: &HeaderMap, extent: Extent) -> Failure {
    Failure { reason, retry_after: retry_after(headers), extent }
}

/// Resolves names to their public addresses alone.
#[derive(Debug)]
struct PublicNames;

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let all = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = all.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NotPublic.into());
            }
            Ok(Box::new(public.into_iter()) as _)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_a_name() {
        for name in ["BadDeviceToken", "probably_unregistered", "item-not-found", ""] {
            assert_eq!(named(name), name);
        }
        for other in ["no such token: dEv1ce", "00fc13adff785122", &"x".repeat(65)] {
            assert_eq!(named(other), "for a reason that is not named");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = OffsetDateTime::parse("Sun, 06 Nov 1994 08:49:00 GMT", &Rfc2822).unwrap();
        let of = |value: &str| retry_after_at(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now);
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(37)));
        assert_eq!(of("Sun, 06 Nov 1994 08:48:37 GMT"), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
    }
}
