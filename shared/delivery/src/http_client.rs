//! The HTTP clients for push services.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pushlark_http_client::{HttpVersions, Tls};
use pushlark_telemetry::Causes;
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};
use tokio::time::Instant;

use crate::direct::web_push::endpoint::{NotPublicError, is_public};
use crate::outcome::{Failure, FailureScope, Outcome};

/// The longest reason that counts as a name, in bytes.
const MAX_REASON_BYTES: usize = 64;
/// A connection is replaced after this number of consecutive failures: it leads to one machine of a provider, and the
/// next one may lead to another.
const FAILURES_BEFORE_REPLACEMENT: u32 = 5;
/// The minimum time between two replacements: Apple treats frequent new connections as an attack ("Communicating with
/// APNs"), and while the provider itself is down a new connection does not help.
const REPLACE_INTERVAL: Duration = Duration::from_secs(10);
/// The limit of `Retry-After`: longer than any notification waits, and short enough to be added to a time.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24 * 366);

/// A client for push services. It follows no redirects, and is built at its first use.
#[derive(Debug, Clone)]
pub struct HttpClient {
    tls: Tls,
    kind: ClientKind,
    timeout: Duration,
    connections: Arc<Mutex<Connections>>,
}

/// The connections to all servers, and their recent failures.
#[derive(Debug, Default)]
struct Connections {
    /// The client that holds the connections, built at its first use; a new client has new connections.
    client: Option<Client>,
    /// The number of replacements so far.
    generation: u32,
    replaced_at: Option<Instant>,
    /// By server (`host:port`): the number of consecutive answers that indicate a failing connection.
    failures: HashMap<String, u32>,
}

/// A response with its whole body.
#[derive(Debug, Clone)]
pub struct ProviderResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// The state of a connection, as an answer indicates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// The connection works: earlier failures no longer count.
    Works,
    /// The connection may be the cause of a failure: it is replaced after several such answers in a row.
    Fails,
    /// The server closes the connection, and has not processed the request.
    IsGivenUp,
}

/// The servers that a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// Servers that the operator chose.
    Any,
    /// Servers that the operator chose and that support HTTP/2: one connection to each, with many streams.
    Http2,
    /// Servers that users choose: public addresses only.
    Public,
}

impl HttpClient {
    /// Returns a client that waits at most `timeout` for an answer.
    pub fn new(tls: &Tls, kind: ClientKind, timeout: Duration) -> Self {
        Self { tls: tls.clone(), kind, timeout, connections: Arc::default() }
    }

    /// Sends a request; once more if the pooled connection is dead, as after a long freeze of the sandbox.
    pub async fn send(&self, request: impl Fn(&Client) -> RequestBuilder) -> Result<Response, reqwest::Error> {
        let (client, _) = self.get()?;
        send(&client, request).await
    }

    /// Sends a request to a provider, and reads the answer. `state_of` returns the state of the connection, which may
    /// then be replaced; a request that was not processed is sent once more by a new connection.
    pub async fn ask(
        &self,
        request: impl Fn(&Client) -> RequestBuilder,
        state_of: impl Fn(&ProviderResponse) -> ConnectionState,
    ) -> Result<ProviderResponse, reqwest::Error> {
        let (client, generation) = self.get()?;
        let response = send(&client, &request).await?;
        let server = server(response.url());
        let answer = ProviderResponse::read(response).await?;
        let connection = state_of(&answer);
        self.note(server, generation, connection);
        if connection == ConnectionState::IsGivenUp {
            let (client, newer) = self.get()?;
            if newer != generation {
                return ProviderResponse::read(send(&client, &request).await?).await;
            }
        }
        Ok(answer)
    }

    /// Notes the state of a connection of this generation. After a replacement, new requests use new connections;
    /// requests that are under way keep the old ones.
    fn note(&self, server: String, generation: u32, connection: ConnectionState) {
        let mut connections = self.connections();
        // Older connections are already replaced.
        if connections.generation != generation {
            return;
        }
        let failures = connections.failures.entry(server).or_default();
        match connection {
            ConnectionState::Works => *failures = 0,
            ConnectionState::Fails => *failures += 1,
            ConnectionState::IsGivenUp => *failures = FAILURES_BEFORE_REPLACEMENT,
        }
        let is_bad = *failures >= FAILURES_BEFORE_REPLACEMENT;
        if is_bad && connections.replaced_at.is_none_or(|at| at.elapsed() >= REPLACE_INTERVAL) {
            *connections = Connections {
                client: None,
                generation: generation + 1,
                replaced_at: Some(Instant::now()),
                failures: HashMap::new(),
            };
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        // Every change is a single step, so a poisoned lock still holds valid data.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the client, built if necessary, and the generation of its connections.
    fn get(&self) -> Result<(Client, u32), reqwest::Error> {
        let mut connections = self.connections();
        let client = match &connections.client {
            Some(client) => client.clone(),
            None => connections.client.insert(self.build()?).clone(),
        };
        Ok((client, connections.generation))
    }

    fn build(&self) -> Result<Client, reqwest::Error> {
        let versions = match self.kind {
            ClientKind::Any | ClientKind::Public => HttpVersions::Http2OrHttp1,
            ClientKind::Http2 => HttpVersions::Http2,
        };
        let client = self
            .tls
            .http_client(versions)
            .timeout(self.timeout)
            // This distinguishes an unreachable server from one that does not answer.
            .connect_timeout(self.timeout / 2)
            // Lambda's network drops an idle connection after 350 seconds.
            .pool_idle_timeout(Duration::from_secs(300))
            // After a freeze, a ping detects a dead connection in time.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(2))
            .user_agent(concat!("pushlark/", env!("CARGO_PKG_VERSION")));
        let client = match self.kind {
            ClientKind::Any | ClientKind::Http2 => client,
            // A proxy would resolve names itself.
            ClientKind::Public => client.no_proxy().dns_resolver(Arc::new(PublicNames)),
        };
        client.build()
    }

    /// Builds the client on another thread, so that the current one stays free for other tasks.
    pub async fn prepare(&self) {
        let this = self.clone();
        // If it fails, the first publish reports the error.
        let _ = tokio::task::spawn_blocking(move || this.get().is_ok()).await;
    }
}

impl ProviderResponse {
    /// Reads a response with its whole body.
    pub async fn read(response: Response) -> Result<Self, reqwest::Error> {
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self { status, headers, body: response.bytes().await?.into() })
    }

    /// Parses the body; returns the default value if it has another format.
    pub fn json<T: DeserializeOwned + Default>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl ConnectionState {
    /// Returns the state by the status: a failing server may be one of many machines.
    pub fn by_status(answer: &ProviderResponse) -> Self {
        if answer.status.is_server_error() { Self::Fails } else { Self::Works }
    }
}

async fn send(client: &Client, request: impl Fn(&Client) -> RequestBuilder) -> Result<Response, reqwest::Error> {
    match request(client).send().await {
        Err(error) if error.is_request() && !error.is_connect() && !error.is_timeout() => request(client).send().await,
        sent => sent,
    }
}

/// Returns the server of a URL as `host:port`.
fn server(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// Returns the failure of a request without an answer. It does not contain the URL, which may contain a device token.
pub fn unanswered(error: reqwest::Error) -> Failure {
    Failure::of_service(Causes(&error.without_url()).to_string())
}

/// Returns the delay of `Retry-After`: seconds or a date (RFC 9110, section 10.2.3). `None` for no delay, such as a
/// date in the past.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    retry_after_at(headers, OffsetDateTime::now_utc())
}

fn retry_after_at(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = seconds(value).or_else(|| (http_date(value, now)? - now).try_into().ok())?;
    Some(delay.min(MAX_RETRY_AFTER)).filter(|delay| !delay.is_zero())
}

/// Parses seconds without a sign; fractions, which some servers send, are rounded up.
fn seconds(value: &str) -> Option<Duration> {
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    // A number that overflows is limited to the longest delay.
    let whole = whole.parse().unwrap_or(MAX_RETRY_AFTER.as_secs());
    let fraction = u64::from(fraction.bytes().any(|digit| digit != b'0'));
    Some(Duration::from_secs(whole).saturating_add(Duration::from_secs(fraction)))
}

/// Parses an HTTP date in each of its three formats (RFC 9110, section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`,
/// `Sunday, 06-Nov-94 08:49:37 GMT` and `Sun Nov  6 08:49:37 1994`.
fn http_date(value: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let parts: Vec<_> = value.split([' ', ',', '-']).filter(|part| !part.is_empty()).collect();
    let (day, month, year, time) = match parts[..] {
        [_, day, month, year, time, "GMT" | "UTC"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = names.iter().position(|name| month.eq_ignore_ascii_case(name))? + 1;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let [hour, minute, second] = time.split(':').map(|part| part.parse().ok()).collect::<Option<Vec<u8>>>()?[..] else {
        return None;
    };
    // Second 60 is a leap second.
    let time = Time::from_hms(hour, minute, second.min(59)).ok()?;
    let digits = year.len();
    let year = match (digits, year.parse::<i32>().ok()?) {
        // Two digits mean the latest such year that is at most 50 years ahead.
        (2, year) => now.year() + 50 - (now.year() + 50 - year).rem_euclid(100),
        (4, year) => year,
        _ => return None,
    };
    let date = Date::from_calendar_date(year, month, day.parse().ok()?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc())
}

/// Returns a reason if it is a name, as push services use. Other texts may quote the device or the message: they are
/// only logged at debug level.
pub fn named(reason: &str) -> &str {
    let is_name = reason.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '-'));
    if is_name && reason.len() <= MAX_REASON_BYTES {
        return reason;
    }
    tracing::debug!(reason, "the reason of a push service is not a name");
    "for a reason that is not named"
}

/// Returns the outcome of a publish by its status, for push services that give it no specific meaning.
pub fn outcome(status: StatusCode, headers: &HeaderMap, reason: String) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Delivered,
        StatusCode::GONE => Outcome::Gone(reason),
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            failure(reason, headers, FailureScope::Service).into()
        }
        _ => Outcome::Refused(reason),
    }
}

/// Returns the failure of an answer, with its `Retry-After`.
pub fn failure(reason: String, headers: &HeaderMap, scope: FailureScope) -> Failure {
    Failure { reason, retry_after: retry_after(headers), scope }
}

/// A resolver that returns only public addresses.
#[derive(Debug)]
struct PublicNames;

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let all = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = all.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(NotPublicError.into());
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
    fn a_reason_that_is_not_a_name_is_hidden() {
        for name in ["BadDeviceToken", "probably_unregistered", "item-not-found", ""] {
            assert_eq!(named(name), name);
        }
        for other in ["no such token: dEv1ce", "00fc13adff785122", &"x".repeat(65)] {
            assert_eq!(named(other), "for a reason that is not named");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = http_date("Sun, 06 Nov 1994 08:49:00 GMT", OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!(now.unix_timestamp(), 784_111_740);
        let of = |value: &str| retry_after_at(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now);
        for (value, expected) in [
            ("120", 120),
            (" 120 ", 120),
            ("0.2", 1),
            ("3.00", 3),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 37),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 37),
            ("Sun Nov  6 08:49:37 1994", 37),
            ("Tue, 06 Dec 1994 08:49:00 GMT", 30 * 86_400),
            ("99999999999999999999999999", MAX_RETRY_AFTER.as_secs()),
            ("18446744073709551615.9", MAX_RETRY_AFTER.as_secs()),
            ("Fri, 31 Dec 9999 23:59:60 GMT", MAX_RETRY_AFTER.as_secs()),
        ] {
            assert_eq!(of(value), Some(Duration::from_secs(expected)), "{value}");
        }
        for none in [
            "0",
            "0.0",
            "-5",
            "Sun, 06 Nov 1994 08:49:00 GMT",
            "Sun, 06 Nov 1994 08:48:37 GMT",
            "Friday, 06-Nov-70 08:49:37 GMT",
            "Sat Nov  6 08:49:37 1993",
            "soon",
            "",
            ".",
            "5.",
            "1e3",
            "120, 60",
            "Sun, 31 Feb 1995 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37 PST",
            "Sun, 06 Nov 994 08:49:37 GMT",
            "Sun, 06 Now 1994 08:49:37 GMT",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn two_digits_mean_a_year_at_most_fifty_years_ahead() {
        let year = |digits, now| {
            let now = Date::from_calendar_date(now, Month::June, 1).unwrap().midnight().assume_utc();
            http_date(&format!("Sunday, 06-Nov-{digits} 08:49:37 GMT"), now).unwrap().year()
        };
        assert_eq!([year("94", 1994), year("94", 2026), year("76", 2026), year("77", 2026)], [1994, 1994, 2076, 1977]);
        assert_eq!([year("26", 2026), year("01", 2099), year("00", 1999)], [2026, 2101, 2000]);
    }
}
