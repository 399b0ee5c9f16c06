//! Straight to the push services of devices, with credentials for each app.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::join_all;
use pushlark_plugin::PublishOptions;
use pushlark_plugin::xmpp::BareJid;
use pushlark_settings::catalogue::PUSH_CREDENTIALS;
use pushlark_settings::{Environment, HostPatterns, InvalidHost, RotatingSecret, Secret, SecretError, SettingError};
use pushlark_telemetry::Causes;
use serde::Deserialize;
use serde_json::Value;

use crate::apns::Apns;
use crate::fcm::Fcm;
use crate::http_client::{HttpClient, Kind};
use crate::notification::Notification;
use crate::outcome::{Failure, Outcome};
use crate::web_push::{self, TrustedOrigins, WebPush};

/// The app of registrations that neither name one nor are at a host of one.
const DEFAULT_APP: &str = "default";

/// What came of a publish, unless the push service does not know our credentials.
pub type Published = Result<Outcome, Unauthorized>;

/// The credentials are wrong, or missing: to be read again, since they may have changed. If they have not, this is what
/// comes of the publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unauthorized(pub Outcome);

/// The push services that devices have of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Apns,
    Fcm,
    WebPush,
}

/// All apps' clients.
pub struct Direct {
    apps: RotatingSecret<Apps>,
}

struct Clients {
    /// For FCM.
    google: HttpClient,
    /// For APNs, by the id of the key: Apple takes one provider's tokens on a connection.
    apple: Mutex<BTreeMap<String, HttpClient>>,
    /// For the endpoints that users name.
    web_push: web_push::Clients,
    trusted_origins: TrustedOrigins,
    timeout: Duration,
}

/// The apps that the credentials name.
struct Apps(BTreeMap<String, App>);

/// One app. What is wrong with the credentials for one provider is no other's concern.
struct App {
    hosts: HostPatterns,
    apns: Option<Result<Apns, String>>,
    fcm: Option<Result<Fcm, String>>,
    web_push: Option<Result<WebPush, String>>,
}

/// An app in the credentials.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The virtual hosts that stand for the app, as `VIRTUAL_PUBSUB_HOSTS` has them.
    #[serde(default)]
    hosts: Vec<String>,
    apns: Option<Value>,
    fcm: Option<Value>,
    web_push: Option<Value>,
}

/// A form that names no provider; the client's to correct. Its text does not quote the value, which may be a token in the
/// wrong field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidService {
    /// There is no service.
    #[error("the form has no field \"service\"")]
    Missing,
    /// The service is another one.
    #[error("the form's field \"service\" must be apns, fcm, web-push or unifiedpush")]
    Unknown,
}

impl Unauthorized {
    /// Nothing but other credentials will change it.
    pub fn refused(reason: String) -> Self {
        Self(Outcome::Refused(reason))
    }
}

impl Provider {
    /// The provider that the option `service` names.
    pub fn of(options: &PublishOptions) -> Result<Self, InvalidService> {
        match options.given("service") {
            None => Err(InvalidService::Missing),
            Some("apns") => Ok(Self::Apns),
            Some("fcm") => Ok(Self::Fcm),
            Some("web-push" | "webpush" | "unifiedpush") => Ok(Self::WebPush),
            Some(_) => Err(InvalidService::Unknown),
        }
    }

    /// As people know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apns => "APNs",
            Self::Fcm => "FCM",
            Self::WebPush => "Web Push",
        }
    }
}

impl Direct {
    /// From `PUSH_CREDENTIALS`; `None` without credentials.
    pub fn from_environment(
        trusted_origins: &TrustedOrigins,
        environment: &Environment,
        timeout: Duration,
        aws: &SdkConfig,
    ) -> Result<Option<Self>, SettingError> {
        let Some(setting) = environment.value(&PUSH_CREDENTIALS)? else { return Ok(None) };
        let clients = Clients {
            google: HttpClient::new(Kind::Http2, timeout),
            apple: Mutex::default(),
            timeout,
            web_push: web_push::Clients {
                trusted: HttpClient::new(Kind::Any, timeout),
                public: HttpClient::new(Kind::Public, timeout),
            },
            trusted_origins: trusted_origins.clone(),
        };
        let secret = Secret::new(setting, aws);
        let apps =
            RotatingSecret::new(PUSH_CREDENTIALS.name, secret, move |text| Apps::read(text, &clients)).checked()?;
        Ok(Some(Self { apps }))
    }

    /// Sends one notification to the device that its options name.
    pub async fn publish(&self, notification: &Notification<'_>) -> Outcome {
        let provider = match Provider::of(&notification.service.options) {
            Ok(provider) => provider,
            Err(invalid) => return Outcome::Refused(invalid.to_string()),
        };
        let apps = match self.apps.current().await {
            Ok(apps) => apps,
            Err(error) => return Failure::from(error).into(),
        };
        let outcome = match apps.publish(provider, notification).await {
            Ok(outcome) => return outcome,
            Err(Unauthorized(outcome)) => outcome,
        };
        match self.apps.newer(&apps).await {
            None => outcome,
            Some(apps) => apps.publish(provider, notification).await.unwrap_or_else(|Unauthorized(outcome)| outcome),
        }
    }

    /// The name of the app that a notification is for.
    pub async fn app_of(&self, notification: &Notification<'_>) -> String {
        let apps = self.apps.current().await.ok();
        let app = apps.as_ref().and_then(|apps| apps.app(notification).ok());
        app.map(|(name, _)| name.to_owned()).unwrap_or_default()
    }

    /// Opens the connections of all apps, and fetches their tokens.
    pub async fn warm_up(&self) {
        let apps = match self.apps.current().await {
            Ok(apps) => apps,
            Err(error) => return log_unread(&error),
        };
        let warmed = apps.0.iter().map(async |(name, app)| {
            let apns = async {
                if let Some(Ok(apns)) = &app.apns {
                    told(name, Provider::Apns, apns.warm_up().await);
                }
            };
            let fcm = async {
                if let Some(Ok(fcm)) = &app.fcm {
                    told(name, Provider::Fcm, fcm.warm_up().await);
                }
            };
            tokio::join!(apns, fcm);
        });
        join_all(warmed).await;
    }
}

impl Clients {
    fn of_apple_key(&self, key_id: &str) -> HttpClient {
        // Each change is complete in itself.
        let mut clients = self.apple.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || HttpClient::new(Kind::Http2, self.timeout);
        clients.entry(key_id.to_owned()).or_insert_with(new).clone()
    }
}

/// What a notification goes to, without the device.
pub fn describe(options: &PublishOptions) -> String {
    Provider::of(options).map_or_else(|invalid| invalid.to_string(), |provider| provider.name().to_owned())
}

fn log_unread(error: &SecretError) {
    tracing::error!(error = %Causes(error), "the credentials for push services cannot be used");
}

fn told(app: &str, provider: Provider, warmed: Result<(), Failure>) {
    if let Err(Failure { reason, .. }) = warmed {
        tracing::warn!(app, provider = provider.name(), reason, "a push service cannot be reached");
    }
}

impl Apps {
    /// Reads credentials: `{"<app>": {"hosts"?, "apns"?, "fcm"?, "web_push"?}, …}`. A field that nobody reads is most likely
    /// one that is misspelt, and an error of the whole.
    fn read(text: &str, clients: &Clients) -> Result<Self, String> {
        let apps: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|error| {
            // The error's own text may quote a key.
            let (line, column) = (error.line(), error.column());
            format!("it is no JSON of apps such as {{\"default\": {{\"fcm\": {{…}}}}}}: line {line}, column {column}")
        })?;
        if apps.is_empty() {
            return Err(format!("it has no app; the one that registrations are of by default is {DEFAULT_APP:?}"));
        }
        let app = |(name, app): (String, Value)| {
            let app = fields(app).and_then(|settings| App::new(settings, clients));
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
            for (provider, wrong) in [
                (Provider::Apns, app.apns.as_ref().and_then(|client| client.as_ref().err())),
                (Provider::Fcm, app.fcm.as_ref().and_then(|client| client.as_ref().err())),
                (Provider::WebPush, app.web_push.as_ref().and_then(|client| client.as_ref().err())),
            ] {
                if let Some(reason) = wrong {
                    tracing::error!(app = name, provider = provider.name(), reason, "the credentials cannot be used");
                }
            }
        }
        Ok(Self(by_name))
    }

    async fn publish(&self, provider: Provider, notification: &Notification<'_>) -> Published {
        let (name, app) = self.app(notification)?;
        let missing = || Unauthorized::refused(format!("the app {name:?} has no credentials for {}", provider.name()));
        let unusable =
            |reason: &String| Unauthorized::refused(format!("the app {name:?}, {}: {reason}", provider.name()));
        match provider {
            Provider::Apns => {
                app.apns.as_ref().ok_or_else(missing)?.as_ref().map_err(unusable)?.publish(notification).await
            }
            Provider::Fcm => {
                app.fcm.as_ref().ok_or_else(missing)?.as_ref().map_err(unusable)?.publish(notification).await
            }
            Provider::WebPush => {
                app.web_push.as_ref().ok_or_else(missing)?.as_ref().map_err(unusable)?.publish(notification).await
            }
        }
    }

    /// The app that the form names, or else the one whose host the registration is at, or else the default.
    fn app(&self, notification: &Notification<'_>) -> Result<(&str, &App), Unauthorized> {
        let by_name = |name: &str| self.0.get_key_value(name);
        let found = match notification.option("app") {
            Some(name) => by_name(name),
            None => self.of_host(notification.user, &notification.service.jid).or_else(|| by_name(DEFAULT_APP)),
        };
        let (name, app) = found.ok_or_else(|| {
            Unauthorized::refused(match notification.option("app") {
                Some(_) => "the credentials have no app of the name in the form".into(),
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
    fn new(settings: Settings, clients: &Clients) -> Result<Self, String> {
        let Settings { hosts, apns, fcm, web_push } = settings;
        let hosts = match hosts.is_empty() {
            true => HostPatterns::default(),
            false => hosts.join(",").parse().map_err(|invalid: InvalidHost| format!("hosts: {invalid}"))?,
        };
        if apns.is_none() && fcm.is_none() && web_push.is_none() {
            return Err("it has none of apns, fcm and web_push".into());
        }
        Ok(Self {
            hosts,
            apns: client("apns", apns, |settings| Apns::new(settings, |key_id| clients.of_apple_key(key_id)))?,
            fcm: client("fcm", fcm, |settings| Fcm::new(settings, clients.google.clone()))?,
            web_push: client("web_push", web_push, |settings| {
                WebPush::new(settings, clients.web_push.clone(), clients.trusted_origins.clone())
            })?,
        })
    }
}

/// The client of one provider, if there are settings for it, or what is wrong with them.
fn client<S, C, E>(
    provider: &str,
    settings: Option<Value>,
    new: impl FnOnce(S) -> Result<C, E>,
) -> Result<Option<Result<C, String>>, String>
where
    S: for<'de> Deserialize<'de>,
    E: std::error::Error,
{
    let Some(settings) = settings else { return Ok(None) };
    Ok(Some(match fields(settings) {
        Ok(settings) => new(settings).map_err(|error| Causes(&error).to_string()),
        Err(unknown) if unknown.starts_with(UNKNOWN_FIELD) => return Err(format!("{provider}: {unknown}")),
        Err(reason) => Err(reason),
    }))
}

/// What serde says of a field that a type does not have.
const UNKNOWN_FIELD: &str = "unknown field ";

/// Reads an object's fields.
fn fields<S: for<'de> Deserialize<'de>>(object: Value) -> Result<S, String> {
    if !object.is_object() {
        return Err("it is no object".into());
    }
    serde_json::from_value(object).map_err(|error| {
        // What the error quotes of a value of the wrong type could be a key.
        let text = error.to_string();
        match text.strip_prefix("missing field ") {
            Some(field) => format!("{field} is missing"),
            None if text.starts_with(UNKNOWN_FIELD) => text,
            None => "a field has a value of the wrong type".into(),
        }
    })
}
