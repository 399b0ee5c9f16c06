//! What the bridge is started with.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pushlark_settings::{HttpUrl, InvalidUrl, SettingError, by_domain, whole_number};
use pushlark_webhooks::{Key, MIN_SECRET_BYTES};
use pushlark_xmpp::DomainPart;
use reqwest::Url;
use sha2::{Digest, Sha256};

/// The settings as they are given, by options or by environment variables of the same names.
#[derive(Args, Clone)]
#[command(next_help_heading = "Bridge")]
pub struct Given {
    /// The chat server's port for components, HOST:PORT on loopback, or tls://HOST:PORT.
    #[arg(long, env, default_value = "127.0.0.1:5347")]
    pub server: String,
    /// The components to be: NAME=SECRET, comma-separated.
    #[arg(long, env, hide_env_values = true)]
    pub components: Option<String>,
    /// Where IQs to a component are posted: the URL of the function pubsub.
    #[arg(long, env, hide_env_values = true)]
    pub iq_url: Option<String>,
    /// Where messages to a component are posted: the URL of the function ingest.
    #[arg(long, env, hide_env_values = true)]
    pub messages_url: Option<String>,
    /// What those functions know the bridge by: the first of several, comma-separated.
    #[arg(long, env, hide_env_values = true)]
    pub webhook_secret: Option<String>,
    /// Where POST /rest is served.
    #[arg(long, env, default_value = "127.0.0.1:5281")]
    pub listen: String,
    /// What callers of /rest present as a bearer token, at least 16 bytes; without one it is not served.
    #[arg(long, env, hide_env_values = true)]
    pub rest_token: Option<String>,
    /// The certificate chain for /rest, a PEM file; needed where it is served beyond loopback.
    #[arg(long, env)]
    pub tls_certificate: Option<PathBuf>,
    /// Its key, a PEM file.
    #[arg(long, env)]
    pub tls_key: Option<PathBuf>,
    /// How long an answer is waited for, from the functions and from the chat server, in milliseconds. Less than the worker
    /// waits for /rest, which is then told that none came.
    #[arg(long, env, default_value_t = 4_000, value_parser = number)]
    pub timeout_ms: u32,
    /// How many bytes of messages, and again of IQs, wait for the functions, for each component. A stanza counts 1 KiB more
    /// than its length. Beyond that the chat server has to wait.
    #[arg(long, env, default_value_t = 16 << 20, value_parser = number)]
    pub queue_bytes: u32,
    /// How long a message is tried again while the function cannot take it, in seconds; 0 for one try.
    #[arg(long, env, default_value_t = 600, value_parser = number)]
    pub retry_seconds: u32,
}

/// The settings, checked.
#[derive(Clone)]
pub struct Settings {
    pub(crate) server: Server,
    /// At least one, each of a name of its own.
    pub(crate) components: Vec<(DomainPart, String)>,
    pub(crate) iq_url: Option<Url>,
    pub(crate) messages_url: Option<Url>,
    pub(crate) key: Option<Key>,
    pub(crate) rest: Option<Rest>,
    pub(crate) timeout: Duration,
    pub(crate) queue_bytes: u32,
    pub(crate) retry: Duration,
}

/// Where the chat server takes components.
#[derive(Clone)]
pub(crate) enum Server {
    /// In clear text, which stays on this machine.
    Loopback(SocketAddr),
    /// By TLS, at a port of a host.
    Tls(String, u16),
}

/// How `/rest` is served.
#[derive(Clone)]
pub(crate) struct Rest {
    pub address: SocketAddr,
    /// The token's digest, so that comparing takes the same time whatever is presented.
    pub token: [u8; 32],
    /// A certificate chain and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
}

impl TryFrom<Given> for Settings {
    type Error = SettingError;

    fn try_from(given: Given) -> Result<Self, SettingError> {
        in_range("TIMEOUT_MS", given.timeout_ms, 100..=60_000)?;
        in_range("QUEUE_BYTES", given.queue_bytes, 1 << 20..=1 << 30)?;
        in_range("RETRY_SECONDS", given.retry_seconds, 0..=86_400)?;
        Ok(Self {
            server: server(&given.server)?,
            components: components(given.components.as_deref().unwrap_or_default())?,
            iq_url: url("IQ_URL", given.iq_url.as_deref())?,
            messages_url: url("MESSAGES_URL", given.messages_url.as_deref())?,
            key: key(given.webhook_secret.as_deref().unwrap_or_default())?,
            rest: rest(&given)?,
            timeout: Duration::from_millis(given.timeout_ms.into()),
            queue_bytes: given.queue_bytes,
            retry: Duration::from_secs(given.retry_seconds.into()),
        })
    }
}

/// A number whose range is checked with the other settings.
fn number(text: &str) -> Result<u32, String> {
    whole_number(text.trim(), 0..=u32::MAX)
}

fn in_range(name: &'static str, number: u32, range: RangeInclusive<u32>) -> Result<(), SettingError> {
    if range.contains(&number) {
        return Ok(());
    }
    let reason = format!("{number} is not between {} and {}", range.start(), range.end());
    Err(SettingError::invalid(name, reason))
}

/// The key of the first secret, as the functions read the same setting.
fn key(secrets: &str) -> Result<Option<Key>, SettingError> {
    if secrets.is_empty() {
        return Ok(None);
    }
    let invalid = |reason: String| SettingError::invalid("WEBHOOK_SECRET", reason);
    if secrets.trim().starts_with("arn:") || secrets.trim().starts_with("file:") {
        return Err(invalid("the bridge needs the secret itself, not its ARN or its file".into()));
    }
    let secrets = by_domain(secrets).map_err(|empty| invalid(empty.to_string()))?;
    let first = secrets.first().map(|(_, secret)| Key::new(secret)).transpose();
    first.map_err(|reason| invalid(format!("number 1: {reason}")))
}

fn server(server: &str) -> Result<Server, SettingError> {
    if let Some(address) = server.strip_prefix("tls://") {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        let port = port.parse().ok().filter(|_| !host.is_empty());
        let port = port.ok_or_else(|| SettingError::invalid("SERVER", "tls:// is followed by HOST:PORT"))?;
        return Ok(Server::Tls(host.trim_matches(['[', ']']).into(), port));
    }
    match server.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Server::Loopback(address)),
        _ => Err(SettingError::invalid(
            "SERVER",
            "it must be an address and port of loopback, since a component's stream is clear text, or tls://HOST:PORT",
        )),
    }
}

fn components(components: &str) -> Result<Vec<(DomainPart, String)>, SettingError> {
    if components.is_empty() {
        return Err(SettingError::Missing { name: "COMPONENTS", purpose: "the components to be, NAME=SECRET each" });
    }
    let invalid = |reason: String| SettingError::invalid("COMPONENTS", reason);
    let mut all: Vec<(DomainPart, String)> = Vec::new();
    for (index, component) in components.split(',').map(str::trim).enumerate() {
        let number = index + 1;
        let (name, secret) =
            component.split_once('=').ok_or_else(|| invalid(format!("number {number} is not NAME=SECRET")))?;
        let name = DomainPart::new(name.trim())
            .map_err(|error| invalid(format!("the name of number {number}: {error}")))?
            .into_owned();
        if secret.is_empty() {
            return Err(invalid(format!("{name} has no secret")));
        }
        if all.iter().any(|(other, _)| *other == name) {
            return Err(invalid(format!("{name} stands twice")));
        }
        all.push((name, secret.into()));
    }
    Ok(all)
}

fn url(name: &'static str, url: Option<&str>) -> Result<Option<Url>, SettingError> {
    let Some(url) = url.filter(|url| !url.is_empty()) else { return Ok(None) };
    let HttpUrl(url) = url.trim().parse().map_err(|invalid: InvalidUrl| SettingError::invalid(name, invalid))?;
    Ok(Some(url))
}

fn rest(given: &Given) -> Result<Option<Rest>, SettingError> {
    let listen = given.listen.trim();
    let address: SocketAddr = listen.parse().map_err(|_| {
        SettingError::invalid("LISTEN", format!("{listen:?} is no address and port such as 127.0.0.1:5281"))
    })?;
    let tls = match (&given.tls_certificate, &given.tls_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => return Err(SettingError::invalid("TLS_CERTIFICATE", "it needs TLS_KEY, too")),
        (None, Some(_)) => return Err(SettingError::invalid("TLS_KEY", "it needs TLS_CERTIFICATE, too")),
    };
    let Some(token) = given.rest_token.as_deref().filter(|token| !token.is_empty()) else { return Ok(None) };
    let token = token.trim();
    if token.len() < MIN_SECRET_BYTES {
        let reason = format!("it has {} bytes, at least {MIN_SECRET_BYTES} are required", token.len());
        return Err(SettingError::invalid("REST_TOKEN", reason));
    }
    if tls.is_none() && !address.ip().is_loopback() {
        return Err(SettingError::invalid("LISTEN", "beyond loopback it needs TLS_CERTIFICATE and TLS_KEY"));
    }
    Ok(Some(Rest { address, token: Sha256::digest(token).into(), tls }))
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => address.fmt(f),
            Self::Tls(host, port) => write!(f, "tls://{host}:{port}"),
        }
    }
}
