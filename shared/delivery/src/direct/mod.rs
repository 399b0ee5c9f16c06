//! The gateway that publishes directly to the push services of devices, with credentials for each app.

mod apns;
mod cached;
mod credentials;
pub mod fcm;
mod jws;
pub mod provider;
pub mod web_push;

use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::{BoxFuture, join_all};
use pushlark_http_client::Tls;
use pushlark_model::{Mode, PublishOptions, Registration};
use pushlark_settings::catalogue::PUSH_CREDENTIALS;
use pushlark_settings::{Environment, RotatingSecret, Secret, SettingError};
use pushlark_telemetry::Causes;
use pushlark_xmpp::BareJid;

use crate::gateway::{Gateway, PushService};
use crate::notification::Notification;
use crate::outcome::{Failure, Outcome};
use crate::ringing::Ringing;
pub use credentials::AppCredentials;
use credentials::{Apps, HttpClients};
use provider::{Provider, Unauthorized};
use web_push::TrustedOrigins;

/// Reads the text of `PUSH_CREDENTIALS` as the gateway does, and `EXTRA_CA_FILE`, for a tool that shows to operators
/// which credentials can be used.
pub fn app_credentials(text: &str, environment: &Environment) -> Result<Vec<AppCredentials>, SettingError> {
    let tls = Tls::from_environment(environment)?;
    let trusted_origins = TrustedOrigins::from_environment(environment)?;
    let clients = HttpClients::new(&tls, &trusted_origins, Duration::ZERO);
    let apps = Apps::read(text, &clients).map_err(|reason| PUSH_CREDENTIALS.invalid(reason))?;
    Ok(apps.credentials())
}

/// The clients of all apps in `PUSH_CREDENTIALS`.
pub struct Direct {
    apps: RotatingSecret<Apps>,
}

impl Direct {
    /// Reads `PUSH_CREDENTIALS` and `EXTRA_CA_FILE`; returns `None` if it is not set.
    pub fn from_environment(
        trusted_origins: &TrustedOrigins,
        environment: &Environment,
        timeout: Duration,
        aws: &SdkConfig,
    ) -> Result<Option<Self>, SettingError> {
        let tls = Tls::from_environment(environment)?;
        let Some(setting) = environment.value(&PUSH_CREDENTIALS)? else { return Ok(None) };
        let clients = HttpClients::new(&tls, trusted_origins, timeout);
        let secret = Secret::new(setting, aws);
        let apps =
            RotatingSecret::new(PUSH_CREDENTIALS.name, secret, move |text| Apps::read(text, &clients)).checked()?;
        Ok(Some(Self { apps }))
    }

    async fn send(&self, notification: Notification<'_>) -> Outcome {
        let provider = match Provider::of(&notification.registration.options) {
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

    /// Returns the name of the app that a notification is for; empty if there is none.
    async fn app_of(&self, notification: Notification<'_>) -> String {
        let apps = self.apps.current().await.ok();
        let app = apps.as_ref().and_then(|apps| apps.app(notification).ok());
        app.map(|(name, _)| name.to_owned()).unwrap_or_default()
    }
}

impl Gateway for Direct {
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, Outcome> {
        Box::pin(self.send(notification))
    }

    /// Each app has its own quota and credentials at a provider, and each origin of Web Push is a separate server.
    fn push_service<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, PushService> {
        Box::pin(async move {
            let options = &notification.registration.options;
            let provider = match Provider::of(options) {
                Ok(Provider::WebPush) => {
                    return PushService::of_family(Provider::WebPush.name(), &web_push::origin(options));
                }
                provider => provider.map_or("other", Provider::name),
            };
            let mode = if options.mode() == Ok(Some(Mode::Development)) { "dev" } else { "prod" };
            PushService::new(format!("{provider}/{}/{mode}", self.app_of(notification).await))
        })
    }

    fn server(&self, notification: Notification<'_>) -> Option<String> {
        let options = &notification.registration.options;
        (Provider::of(options) == Ok(Provider::WebPush)).then(|| web_push::origin(options))
    }

    fn describe(&self, _user: &BareJid, registration: &Registration) -> String {
        match Provider::of(&registration.options) {
            Ok(provider) => provider.name().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// A form may have a token of PushKit beside that of the device.
    fn ringing(&self, options: &PublishOptions) -> Ringing {
        match Ringing::with_alerts(options) {
            Ringing::Alert | Ringing::Background if options.given("voip_device_id").is_some() => {
                if options.given("device_id").is_some() { Ringing::PushKitToo } else { Ringing::PushKit }
            }
            ringing => ringing,
        }
    }

    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async {
            let apps = match self.apps.current().await {
                Ok(apps) => apps,
                Err(error) => {
                    tracing::error!(error = %Causes(&error), "the credentials for push services cannot be used");
                    return Ok(());
                }
            };
            join_all(apps.clients().map(async |(app, provider, client)| {
                if let Err(Failure { reason, .. }) = client.warm_up().await {
                    tracing::warn!(app, provider = provider.name(), reason, "a push service cannot be reached");
                }
            }))
            .await;
            Ok(())
        })
    }
}
