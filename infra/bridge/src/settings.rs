//! What the bridge is started with.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pushlark_settings::SettingError;
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
    #[arg(long, env, default_value_t = 4_000)]
    pub timeout_ms: u32,
    /// How many bytes of messages, and again of IQs, wait for the functions, for each component. A stanza counts 1 KiB more
    /// than its length. Beyond that the chat server has to wait.
    #[arg(long, env, default_value_t = 16 << 20)]
    pub queue_bytes: u32,
    /// How long a message is tried again while the function cannot take it, in seconds; 0 for one try.
    #[arg(long, env, default_value_t = 600)]
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
        let first_secret = given.webhook_secret.as_deref().and_then(|secrets| secrets.split(',').next());
        let key = first_secret.map(str::trim).filter(|secret| !secret.is_empty()).map(Key::new).transpose();
        let key = key.map_err(|invalid| SettingError::invalid("WEBHOOK_SECRET", invalid))?;
        if !(100..=60_000).contains(&given.timeout_ms) {
            return Err(SettingError::invalid("TIMEOUT_MS", "it is not between 100 and 60000"));
        }
        if !(1 << 20..=1 << 30).contains(&given.queue_bytes) {
            return Err(SettingError::invalid(
                "QUEUE_BYTES",
                "it is not between 1048576 (1 MiB) and 1073741824 (1 GiB)",
            ));
        }
        if given.retry_seconds > 86_400 {
            return Err(SettingError::invalid("RETRY_SECONDS", "it is not between 0 and 86400"));
        }
        Ok(Self {
            server: server(&given.server)?,
            components: components(given.components.as_deref().unwrap_or_default())?,
            iq_url: url("IQ_URL", given.iq_url.as_deref())?,
            messages_url: url("MESSAGES_URL", given.messages_url.as_deref())?,
            key,
            rest: rest(&given)?,
            timeout: Duration::from_millis(given.timeout_ms.into()),
            queue_bytes: given.queue_bytes,
            retry: Duration::from_secs(given.retry_seconds.into()),
        })
    }
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
        if secret.is_empty() || all.iter().any(|(other, _)| *other == name) {
            return Err(invalid(format!("{name} has no secret, or stands twice")));
        }
        all.push((name, secret.into()));
    }
    Ok(all)
}

fn url(name: &'static str, url: Option<&str>) -> Result<Option<Url>, SettingError> {
    let Some(url) = url.filter(|url| !url.is_empty()) else { return Ok(None) };
    let url = Url::parse(url).map_err(|reason| SettingError::invalid(name, reason))?;
    match url.scheme() {
        "http" | "https" => Ok(Some(url)),
        _ => Err(SettingError::invalid(name, "it must begin with https:// or http://")),
    }
}

fn rest(given: &Given) -> Result<Option<Rest>, SettingError> {
    let token = given.rest_token.as_deref().map(str::trim).filter(|token| !token.is_empty());
    let Some(token) = token else { return Ok(None) };
    if token.len() < MIN_SECRET_BYTES {
        let reason = format!("it has {} bytes, at least {MIN_SECRET_BYTES} are required", token.len());
        return Err(SettingError::invalid("REST_TOKEN", reason));
    }
    let address: SocketAddr =
        given.listen.parse().map_err(|_| SettingError::invalid("LISTEN", "it is not an address and port"))?;
    let tls = match (&given.tls_certificate, &given.tls_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        _ => return Err(SettingError::invalid("TLS_CERTIFICATE", "it and TLS_KEY belong together")),
    };
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
