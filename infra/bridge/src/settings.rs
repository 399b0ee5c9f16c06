//! The settings of the bridge: read from options and environment variables, then checked.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use pushlark_http_client::Tls;
use pushlark_settings::{Environment, HttpUrl, SettingError, UrlError, by_domain, parse_host, whole_number};
use pushlark_webhooks::{Key, MIN_SECRET_BYTES};
use pushlark_xmpp::DomainPart;
use reqwest::Url;
use sha2::{Digest, Sha256};

/// Earlier versions read the variables without this prefix.
const VARIABLE_PREFIX: &str = "BRIDGE_";

/// The current names of all variables that had another name in an earlier version.
const RENAMED: [&str; 13] = [
    "BRIDGE_SERVER",
    "BRIDGE_COMPONENTS",
    "BRIDGE_IQ_URL",
    "BRIDGE_MESSAGES_URL",
    "BRIDGE_WEBHOOK_SECRET",
    "BRIDGE_LISTEN",
    "BRIDGE_REST_TOKEN",
    "BRIDGE_TLS_CERTIFICATE",
    "BRIDGE_TLS_KEY",
    "BRIDGE_TIMEOUT_MS",
    "BRIDGE_QUEUE_BYTES",
    "BRIDGE_RETRY_SECONDS",
    "BRIDGE_LOG_LEVEL",
];

/// The settings as text: each is an option, such as `--iq-url`, and an environment variable, such as `BRIDGE_IQ_URL`.
/// The option takes precedence.
#[derive(Args, Clone)]
#[command(next_help_heading = "Bridge")]
pub struct BridgeOptions {
    /// The chat server's port for components: HOST:PORT on loopback, or tls://HOST:PORT.
    #[arg(long, env = "BRIDGE_SERVER", default_value = "127.0.0.1:5347")]
    pub server: String,
    /// The components that the bridge serves: NAME=SECRET, comma-separated.
    #[arg(long, env = "BRIDGE_COMPONENTS", hide_env_values = true)]
    pub components: Option<String>,
    /// The URL of the function `pubsub`, which gets the IQs to the components.
    #[arg(long, env = "BRIDGE_IQ_URL", hide_env_values = true)]
    pub iq_url: Option<String>,
    /// The URL of the function `ingest`, which gets the messages to the components. Without it, they are dropped.
    #[arg(long, env = "BRIDGE_MESSAGES_URL", hide_env_values = true)]
    pub messages_url: Option<String>,
    /// The secret that signs each POST to these functions. The first one signs if there are several, comma-separated.
    #[arg(long, env = "BRIDGE_WEBHOOK_SECRET", hide_env_values = true)]
    pub webhook_secret: Option<String>,
    /// The address and port of POST /rest.
    #[arg(long, env = "BRIDGE_LISTEN", default_value = "127.0.0.1:5281")]
    pub listen: String,
    /// The bearer token for /rest, at least 16 bytes. Without it, /rest is not served.
    #[arg(long, env = "BRIDGE_REST_TOKEN", hide_env_values = true)]
    pub rest_token: Option<String>,
    /// The certificate chain for /rest, a PEM file. Required if /rest is served beyond loopback.
    #[arg(long, env = "BRIDGE_TLS_CERTIFICATE")]
    pub tls_certificate: Option<PathBuf>,
    /// The private key of the certificate, a PEM file.
    #[arg(long, env = "BRIDGE_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// A PEM file of root certificates that are trusted in addition to the built-in ones, for servers with a private CA.
    #[arg(long, env = "BRIDGE_EXTRA_CA_FILE")]
    pub extra_ca_file: Option<PathBuf>,
    /// The timeout for answers of the functions and of the chat server, in milliseconds. Must be shorter than the
    /// worker's timeout for /rest, so that the worker gets the error.
    #[arg(long, env = "BRIDGE_TIMEOUT_MS", default_value_t = 4_000, value_parser = number)]
    pub timeout_ms: u32,
    /// The most bytes of messages, and again of IQs, that wait for the functions, for each component. A stanza counts 1
    /// KiB more than its length. When the queue is full, the chat server has to wait.
    #[arg(long, env = "BRIDGE_QUEUE_BYTES", default_value_t = 16 << 20, value_parser = number)]
    pub queue_bytes: u32,
    /// How long a message is retried while the function does not accept it, in seconds. 0 means a single try.
    #[arg(long, env = "BRIDGE_RETRY_SECONDS", default_value_t = 600, value_parser = number)]
    pub retry_seconds: u32,
}

/// The settings, checked.
#[derive(Clone)]
pub struct BridgeConfig {
    pub(crate) server: ServerAddress,
    /// Names and secrets; at least one, and no name twice.
    pub(crate) components: Vec<(DomainPart, String)>,
    pub(crate) iq_url: Option<Url>,
    pub(crate) messages_url: Option<Url>,
    pub(crate) key: Option<Key>,
    pub(crate) rest: Option<RestConfig>,
    pub(crate) tls: Tls,
    pub(crate) timeout: Duration,
    pub(crate) queue_bytes: u32,
    pub(crate) retry: Duration,
}

/// The chat server's port for components.
#[derive(Clone)]
pub(crate) enum ServerAddress {
    /// Clear text, on this machine only.
    Loopback(SocketAddr),
    /// TLS: host, port and the certificates that are trusted.
    Tls(String, u16, Tls),
}

/// The settings of `/rest`.
#[derive(Clone)]
pub(crate) struct RestConfig {
    pub address: SocketAddr,
    /// The SHA-256 digest of the token. Digests have the same length, so comparing them takes constant time.
    pub token: [u8; 32],
    /// The files of the certificate chain and of its private key.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Refuses a variable that has the name of an earlier version, such as `SERVER` for `BRIDGE_SERVER`. It is accepted if
/// the current name is set, too: the variable then belongs to another program. `shared` are old names that are settings
/// of another program in this process.
pub fn refuse_old_names(environment: &Environment, shared: &[&str]) -> Result<(), SettingError> {
    for current in RENAMED {
        let old = current.strip_prefix(VARIABLE_PREFIX).unwrap_or(current);
        if !shared.contains(&old) && environment.text(old).is_some() && environment.text(current).is_none() {
            return Err(SettingError::invalid(old, format!("the bridge no longer reads this variable, set {current}")));
        }
    }
    Ok(())
}

impl TryFrom<BridgeOptions> for BridgeConfig {
    type Error = SettingError;

    fn try_from(options: BridgeOptions) -> Result<Self, SettingError> {
        in_range("BRIDGE_TIMEOUT_MS", options.timeout_ms, 100..=60_000)?;
        in_range("BRIDGE_QUEUE_BYTES", options.queue_bytes, 1 << 20..=1 << 30)?;
        in_range("BRIDGE_RETRY_SECONDS", options.retry_seconds, 0..=86_400)?;
        let tls = tls(options.extra_ca_file.as_deref())?;
        Ok(Self {
            server: server(&options.server, &tls)?,
            components: components(options.components.as_deref().unwrap_or_default())?,
            iq_url: url("BRIDGE_IQ_URL", options.iq_url.as_deref())?,
            messages_url: url("BRIDGE_MESSAGES_URL", options.messages_url.as_deref())?,
            key: key(options.webhook_secret.as_deref().unwrap_or_default())?,
            rest: rest(&options)?,
            tls,
            timeout: Duration::from_millis(options.timeout_ms.into()),
            queue_bytes: options.queue_bytes,
            retry: Duration::from_secs(options.retry_seconds.into()),
        })
    }
}

/// Parses a whole number. `TryFrom` checks the range, so that the error names the setting.
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

/// The key of the first secret. The functions read their setting `WEBHOOK_SECRET` in the same way.
fn key(secrets: &str) -> Result<Option<Key>, SettingError> {
    if secrets.is_empty() {
        return Ok(None);
    }
    let invalid = |reason: String| SettingError::invalid("BRIDGE_WEBHOOK_SECRET", reason);
    if secrets.trim().starts_with("arn:") || secrets.trim().starts_with("file:") {
        return Err(invalid("the bridge needs the secret itself, not an ARN or a file".into()));
    }
    let secrets = by_domain(secrets).map_err(|empty| invalid(empty.to_string()))?;
    let first = secrets.first().map(|(_, secret)| Key::new(secret)).transpose();
    first.map_err(|reason| invalid(format!("number 1: {reason}")))
}

fn tls(ca_file: Option<&Path>) -> Result<Tls, SettingError> {
    let Some(path) = ca_file.filter(|path| !path.as_os_str().is_empty()) else { return Ok(Tls::default()) };
    Tls::with_ca_file(path).map_err(|unusable| SettingError::invalid("BRIDGE_EXTRA_CA_FILE", unusable))
}

fn server(server: &str, tls: &Tls) -> Result<ServerAddress, SettingError> {
    if let Some(address) = server.strip_prefix("tls://") {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        let port = port.parse().ok().filter(|_| !host.is_empty());
        let port = port.ok_or_else(|| SettingError::invalid("BRIDGE_SERVER", "expected HOST:PORT after tls://"))?;
        return Ok(ServerAddress::Tls(host.trim_matches(['[', ']']).into(), port, tls.clone()));
    }
    match server.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(ServerAddress::Loopback(address)),
        _ => Err(SettingError::invalid(
            "BRIDGE_SERVER",
            "expected an address and port of loopback, since a component's stream is clear text, or tls://HOST:PORT",
        )),
    }
}

fn components(components: &str) -> Result<Vec<(DomainPart, String)>, SettingError> {
    if components.is_empty() {
        return Err(SettingError::Missing {
            name: "BRIDGE_COMPONENTS",
            purpose: "the components that the bridge serves, NAME=SECRET each",
        });
    }
    let invalid = |reason: String| SettingError::invalid("BRIDGE_COMPONENTS", reason);
    let mut all: Vec<(DomainPart, String)> = Vec::new();
    for (index, component) in components.split(',').map(str::trim).enumerate() {
        let number = index + 1;
        let (name, secret) =
            component.split_once('=').ok_or_else(|| invalid(format!("number {number} is not NAME=SECRET")))?;
        let name =
            parse_host(name.trim()).ok_or_else(|| invalid(format!("the name of number {number}: not a host")))?;
        if secret.is_empty() {
            return Err(invalid(format!("{name} has no secret")));
        }
        if all.iter().any(|(other, _)| *other == name) {
            return Err(invalid(format!("{name} is listed twice")));
        }
        all.push((name, secret.into()));
    }
    Ok(all)
}

fn url(name: &'static str, url: Option<&str>) -> Result<Option<Url>, SettingError> {
    let Some(url) = url.filter(|url| !url.is_empty()) else { return Ok(None) };
    let HttpUrl(url) = url.trim().parse().map_err(|invalid: UrlError| SettingError::invalid(name, invalid))?;
    Ok(Some(url))
}

fn rest(options: &BridgeOptions) -> Result<Option<RestConfig>, SettingError> {
    let listen = options.listen.trim();
    let address: SocketAddr = listen.parse().map_err(|_| {
        SettingError::invalid("BRIDGE_LISTEN", format!("{listen:?} is not an address and port such as 127.0.0.1:5281"))
    })?;
    let tls = match (&options.tls_certificate, &options.tls_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => {
            return Err(SettingError::invalid("BRIDGE_TLS_CERTIFICATE", "BRIDGE_TLS_KEY must be set, too"));
        }
        (None, Some(_)) => {
            return Err(SettingError::invalid("BRIDGE_TLS_KEY", "BRIDGE_TLS_CERTIFICATE must be set, too"));
        }
    };
    let Some(token) = options.rest_token.as_deref().filter(|token| !token.is_empty()) else { return Ok(None) };
    let token = token.trim();
    if token.len() < MIN_SECRET_BYTES {
        let reason = format!("it has {} bytes, at least {MIN_SECRET_BYTES} are required", token.len());
        return Err(SettingError::invalid("BRIDGE_REST_TOKEN", reason));
    }
    if tls.is_none() && !address.ip().is_loopback() {
        return Err(SettingError::invalid(
            "BRIDGE_LISTEN",
            "beyond loopback, BRIDGE_TLS_CERTIFICATE and BRIDGE_TLS_KEY must be set",
        ));
    }
    Ok(Some(RestConfig { address, token: Sha256::digest(token).into(), tls }))
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => address.fmt(f),
            Self::Tls(host, port, _) => write!(f, "tls://{host}:{port}"),
        }
    }
}
