//! The apps' credentials for providers, from `PUSH_CREDENTIALS`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pushlark_http_client::Tls;
use pushlark_settings::{HostPatternError, HostPatterns};
use pushlark_telemetry::Causes;
use pushlark_xmpp::BareJid;
use serde::Deserialize;
use serde_json::Value;

use super::apns::Apns;
use super::fcm::Fcm;
use super::provider::{Provider, ProviderClient, ProviderResult, Unauthorized};
use super::web_push::{self, TrustedOrigins, WebPush};
use crate::http_client::{ClientKind, HttpClient};
use crate::notification::Notification;

/// The app of registrations that name no app and whose host belongs to no app.
const DEFAULT_APP: &str = "default";

/// The credentials of one app for one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppCredentials {
    /// The name of the app.
    pub app: String,
    /// The provider.
    pub provider: Provider,
    /// The reason why they cannot be used; `None` if they are complete and their key can be read.
    pub unusable: Option<String>,
}

/// A provider, the name of its credentials in an app, and the constructor of its client.
type Row = (Provider, &'static str, fn(Value, &HttpClients) -> Result<Box<dyn ProviderClient>, InvalidCredentials>);

/// The providers for which an app may have credentials.
const PROVIDERS: [Row; 3] = [
    (Provider::Apns, "apns", |credentials, clients| {
        client(credentials, |credentials| Apns::new(credentials, |key_id| clients.of_apple_key(key_id)))
    }),
    (Provider::Fcm, "fcm", |credentials, clients| {
        client(credentials, |credentials| Fcm::new(credentials, clients.google.clone()))
    }),
    (Provider::WebPush, "web_push", |credentials, clients| {
        let origins = clients.trusted_origins.clone();
        client(credentials, |credentials| WebPush::new(credentials, clients.web_push.clone(), origins))
    }),
];

/// The HTTP clients that apps share.
pub struct HttpClients {
    /// For FCM: all apps use the same server.
    google: HttpClient,
    /// For APNs, by the id of the key: Apple accepts the tokens of only one provider on a connection.
    apple: Mutex<BTreeMap<String, HttpClient>>,
    /// For Web Push, whose endpoints users choose.
    web_push: web_push::WebPushClients,
    trusted_origins: TrustedOrigins,
    tls: Tls,
    timeout: Duration,
}

/// The apps in the credentials, by name.
pub struct Apps(BTreeMap<String, App>);

/// One app. If the credentials for one provider are wrong, the other providers are still used.
pub struct App {
    hosts: HostPatterns,
    clients: BTreeMap<Provider, Result<Box<dyn ProviderClient>, String>>,
}

/// Credentials that cannot be used: the operator must correct them.
enum InvalidCredentials {
    /// A field is unknown, most likely misspelt: the credentials of all apps are rejected.
    UnknownField(String),
    /// The client of this provider cannot be built; the app's other providers are used.
    Unusable(String),
}

impl HttpClients {
    /// Returns clients that trust the root certificates of `tls`, and wait at most `timeout` for an answer.
    pub fn new(tls: &Tls, trusted_origins: &TrustedOrigins, timeout: Duration) -> Self {
        Self {
            google: HttpClient::new(tls, ClientKind::Http2, timeout),
            apple: Mutex::default(),
            tls: tls.clone(),
            timeout,
            web_push: web_push::WebPushClients {
                trusted: HttpClient::new(tls, ClientKind::Any, timeout),
                public: HttpClient::new(tls, ClientKind::Public, timeout),
            },
            trusted_origins: trusted_origins.clone(),
        }
    }

    fn of_apple_key(&self, key_id: &str) -> HttpClient {
        // Every change is a single step, so a poisoned lock still holds valid data.
        let mut clients = self.apple.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || HttpClient::new(&self.tls, ClientKind::Http2, self.timeout);
        clients.entry(key_id.to_owned()).or_insert_with(new).clone()
    }
}

impl Apps {
    /// Reads credentials: `{"<app>": {"hosts"?, "apns"?, "fcm"?, "web_push"?}, …}`. An unknown field, most likely
    /// misspelt, is an error.
    pub fn read(text: &str, clients: &HttpClients) -> Result<Self, String> {
        let apps: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|error| {
            // The error's own text may quote a key.
            let (line, column) = (error.line(), error.column());
            format!("expected JSON of apps such as {{\"default\": {{\"fcm\": {{…}}}}}}: line {line}, column {column}")
        })?;
        if apps.is_empty() {
            return Err(format!("it has no app; the default app is called {DEFAULT_APP:?}"));
        }
        let app = |(name, app): (String, Value)| {
            let app = App::new(app, clients);
            let app = app.map_err(|reason| format!("the app {name:?}: {reason}"))?;
            Ok((name, app))
        };
        let by_name = apps.into_iter().map(app).collect::<Result<BTreeMap<_, _>, String>>()?;
        let has_no_host = |(name, app): &(&String, &App)| *name != DEFAULT_APP && app.hosts == HostPatterns::default();
        if !by_name.contains_key(DEFAULT_APP)
            && let Some((name, _)) = by_name.iter().find(has_no_host)
        {
            return Err(format!("the app {name:?} has no hosts, and there is no app {DEFAULT_APP:?}"));
        }
        for (name, app) in &by_name {
            for (provider, client) in &app.clients {
                if let Err(reason) = client {
                    tracing::error!(app = name, provider = provider.name(), reason, "the credentials cannot be used");
                }
            }
        }
        Ok(Self(by_name))
    }

    /// Sends one notification with its app's client for `provider`.
    pub async fn publish(&self, provider: Provider, notification: Notification<'_>) -> ProviderResult {
        let (name, app) = self.app(notification)?;
        match app.clients.get(&provider) {
            Some(Ok(client)) => client.publish(notification).await,
            Some(Err(reason)) => Err(Unauthorized::refused(format!("the app {name:?}, {}: {reason}", provider.name()))),
            None => Err(Unauthorized::refused(format!("the app {name:?} has no credentials for {}", provider.name()))),
        }
    }

    /// Returns the usable clients of all apps, with the names of the apps.
    pub fn clients(&self) -> impl Iterator<Item = (&str, Provider, &dyn ProviderClient)> {
        self.0.iter().flat_map(|(name, app)| {
            let usable =
                app.clients.iter().filter_map(|(provider, client)| Some((*provider, &**client.as_ref().ok()?)));
            usable.map(|(provider, client)| (name.as_str(), provider, client))
        })
    }

    /// Returns the credentials of all apps, without their secrets.
    pub fn credentials(&self) -> Vec<AppCredentials> {
        let of_app = |(name, app): (&String, &App)| {
            let clients = app.clients.iter();
            let credentials = clients.map(|(provider, client)| AppCredentials {
                app: name.clone(),
                provider: *provider,
                unusable: client.as_ref().err().cloned(),
            });
            credentials.collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_app).collect()
    }

    /// Returns the app that the form names, or else the app of the registration's host, or else the default app.
    pub fn app(&self, notification: Notification<'_>) -> Result<(&str, &App), Unauthorized> {
        let by_name = |name: &str| self.0.get_key_value(name);
        let found = match notification.option("app") {
            Some(name) => by_name(name),
            None => self.of_host(notification.user, &notification.registration.jid).or_else(|| by_name(DEFAULT_APP)),
        };
        let (name, app) = found.ok_or_else(|| {
            Unauthorized::refused(match notification.option("app") {
                Some(_) => "the credentials do not have the app that the form names".into(),
                None => format!("the credentials have no app {DEFAULT_APP:?}"),
            })
        })?;
        Ok((name, app))
    }

    fn of_host(&self, user: &BareJid, jid: &BareJid) -> Option<(&String, &App)> {
        self.0.iter().find(|(_, app)| app.hosts.has(user, jid))
    }
}

impl App {
    fn new(credentials: Value, clients: &HttpClients) -> Result<Self, String> {
        let Value::Object(mut fields) = credentials else { return Err("it is not an object".into()) };
        let hosts = hosts(fields.remove("hosts"))?;
        let mut by_provider = BTreeMap::new();
        for (provider, field, new) in PROVIDERS {
            let Some(credentials) = fields.remove(field).filter(|credentials| !credentials.is_null()) else { continue };
            let client = match new(credentials, clients) {
                Ok(client) => Ok(client),
                Err(InvalidCredentials::Unusable(reason)) => Err(reason),
                Err(InvalidCredentials::UnknownField(unknown)) => return Err(format!("{field}: {unknown}")),
            };
            by_provider.insert(provider, client);
        }
        if let Some(unknown) = fields.keys().next() {
            let known = PROVIDERS.map(|(_, field, _)| format!("`{field}`")).join(", ");
            return Err(format!("{UNKNOWN_FIELD}`{unknown}`, expected one of `hosts`, {known}"));
        }
        if by_provider.is_empty() {
            let [first @ .., last] = PROVIDERS.map(|(_, field, _)| field);
            return Err(format!("it has none of {} and {last}", first.join(", ")));
        }
        Ok(Self { hosts, clients: by_provider })
    }
}

/// Reads the virtual hosts of an app, in the format of `VIRTUAL_PUBSUB_HOSTS`.
fn hosts(hosts: Option<Value>) -> Result<HostPatterns, String> {
    let Some(hosts) = hosts else { return Ok(HostPatterns::default()) };
    let hosts: Vec<String> = serde_json::from_value(hosts).map_err(|_| WRONG_TYPE)?;
    if hosts.is_empty() {
        return Ok(HostPatterns::default());
    }
    hosts.join(",").parse().map_err(|invalid: HostPatternError| format!("hosts: {invalid}"))
}

/// Builds a provider's client from its credentials.
fn client<S, C, E>(
    credentials: Value,
    new: impl FnOnce(S) -> Result<C, E>,
) -> Result<Box<dyn ProviderClient>, InvalidCredentials>
where
    S: for<'de> Deserialize<'de>,
    C: ProviderClient + 'static,
    E: std::error::Error,
{
    let credentials = match fields(credentials) {
        Ok(credentials) => credentials,
        Err(unknown) if unknown.starts_with(UNKNOWN_FIELD) => return Err(InvalidCredentials::UnknownField(unknown)),
        Err(reason) => return Err(InvalidCredentials::Unusable(reason)),
    };
    match new(credentials) {
        Ok(client) => Ok(Box::new(client)),
        Err(error) => Err(InvalidCredentials::Unusable(Causes(&error).to_string())),
    }
}

/// The beginning of serde's error for an unknown field.
const UNKNOWN_FIELD: &str = "unknown field ";
const WRONG_TYPE: &str = "a field has a value of the wrong type";

/// Deserializes an object. The error quotes no value.
fn fields<S: for<'de> Deserialize<'de>>(object: Value) -> Result<S, String> {
    if !object.is_object() {
        return Err("it is not an object".into());
    }
    serde_json::from_value(object).map_err(|error| {
        // The error for a value of the wrong type quotes the value, which may be a key.
        let text = error.to_string();
        match text.strip_prefix("missing field ") {
            Some(field) => format!("{field} is missing"),
            None if text.starts_with(UNKNOWN_FIELD) => text,
            None => WRONG_TYPE.into(),
        }
    })
}
