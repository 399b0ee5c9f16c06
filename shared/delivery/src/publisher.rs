//! A publisher: a gateway with the timeout of publishes, the health of its push services and the rules for disabling.

use std::time::Duration;

use aws_config::SdkConfig;
use pushlark_http_client::Tls;
use pushlark_model::{PublishOptions, Registration};
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_telemetry::{Timing, record};
use pushlark_xmpp::BareJid;
use tokio::time::{Instant, timeout_at};

use crate::destinations::{Destinations, PushServiceSetting};
use crate::direct::Direct;
use crate::encrypted::{HiddenNotification, Placeholders};
use crate::gateway::{Gateway, PushService};
use crate::health::{DeviceHash, Health};
use crate::mongoosepush::MongoosePush;
use crate::notification::Notification;
use crate::outcome::{Failure, Outcome};
use crate::pubsub::PubSub;
use crate::ringing::Ringing;
use crate::webhook::{self, Webhook};

/// Publishes the notifications for virtual hosts, or those for real PubSub hosts.
pub struct Publisher {
    gateway: Box<dyn Gateway>,
    placeholders: Placeholders,
    health: Health,
    timeout: Duration,
    disable_after: Option<u32>,
    most_gone: Option<u32>,
}

/// The outcome of a publish, and the push service that it concerns.
#[derive(Debug)]
pub struct Verdict {
    /// The push service; its name is empty if it was not known in time.
    pub push_service: PushService,
    /// The outcome: a failure if there is no answer.
    pub outcome: Outcome,
}

impl Publisher {
    /// Returns the publisher for virtual hosts; `None` if there are none. The settings of all gateways are checked.
    pub fn of_push_service(
        environment: &Environment,
        aws: &SdkConfig,
        destinations: &Destinations,
    ) -> Result<Option<Self>, SettingError> {
        let timeout = publish_timeout(environment)?;
        let mongoosepush = MongoosePush::from_environment(environment, timeout)?;
        let direct = Direct::from_environment(&destinations.trusted_origins, environment, timeout, aws)?;
        let tls = Tls::from_environment(environment)?;
        let key = webhook::key_from_environment(environment, aws)?;
        let disable_after = Some(environment.number(&catalogue::DISABLE_AFTER_SUSPECTS)?);
        let most_gone = Some(environment.number(&catalogue::DISABLE_MAX_PERCENT)?);
        let Some(chosen) = destinations.push_service() else { return Ok(None) };
        let gateway: Box<dyn Gateway> = match chosen {
            PushServiceSetting::MongoosePush => {
                Box::new(mongoosepush.ok_or_else(|| catalogue::MONGOOSEPUSH_URL.missing())?)
            }
            PushServiceSetting::Direct => Box::new(direct.ok_or_else(|| catalogue::PUSH_CREDENTIALS.missing())?),
            PushServiceSetting::Webhook(url) => {
                let key = key.ok_or_else(|| catalogue::PUSH_SERVICE_SECRET.missing())?;
                Box::new(Webhook::new(url.clone(), key, &tls, timeout))
            }
        };
        let placeholders = Placeholders::from_environment(environment)?;
        Ok(Some(Self { gateway, placeholders, health: Health::default(), timeout, disable_after, most_gone }))
    }

    /// Returns the publisher for real PubSub hosts; `None` without `PUBSUB_URL`.
    pub fn of_pubsub(
        environment: &Environment,
        aws: &SdkConfig,
        destinations: &Destinations,
    ) -> Result<Option<Self>, SettingError> {
        let timeout = publish_timeout(environment)?;
        let disable_after = match environment.number(&catalogue::PUBSUB_MAX_ERRORS)? {
            0 => None,
            errors => Some(errors),
        };
        let servers = &destinations.pubsub_servers;
        let Some(pubsub) = PubSub::from_environment(servers, environment, timeout, aws)? else { return Ok(None) };
        let (gateway, health) = (Box::new(pubsub), Health::default());
        let placeholders = Placeholders::from_environment(environment)?;
        Ok(Some(Self { gateway, placeholders, health, timeout, disable_after, most_gone: None }))
    }

    /// Publishes one notification, within `PUBLISH_TIMEOUT_MS`. The gateway does not get the plain text of an encrypted
    /// one.
    pub async fn publish(&self, notification: &Notification<'_>) -> Verdict {
        let ringing = || self.ringing(&notification.registration.options);
        let hidden = HiddenNotification::of(notification, ringing, &self.placeholders);
        let notification = &hidden.as_ref().map_or(*notification, HiddenNotification::notification);
        let deadline = Instant::now() + self.timeout;
        let late = || {
            let reason = format!("no answer within {} ms", self.timeout.as_millis());
            Failure { reason, retry_after: None, scope: self.gateway.timeout_scope() }
        };
        let Ok(push_service) = timeout_at(deadline, self.gateway.push_service(*notification)).await else {
            return Verdict { push_service: PushService::new(""), outcome: late().into() };
        };
        let device = DeviceHash::of(notification);
        if let Err(failure) = self.health.admit(&push_service.name, device) {
            return Verdict { push_service, outcome: failure.into() };
        }
        let start = Instant::now();
        let outcome = timeout_at(deadline, self.gateway.publish(*notification)).await;
        let outcome = outcome.unwrap_or_else(|_| late().into());
        // A notification may be refused before any request.
        if !matches!(outcome, Outcome::Refused(_)) {
            record(Timing::PublishMilliseconds, start.elapsed());
        }
        self.health.note(&push_service.name, device, &outcome);
        Verdict { push_service, outcome }
    }

    /// Returns the server of a notification if the user chose it: an origin of Web Push, or a PubSub service.
    pub fn server(&self, notification: &Notification<'_>) -> Option<String> {
        self.gateway.server(*notification)
    }

    /// Returns whether this worker has paused the push service of a notification because it failed too often.
    pub async fn is_paused(&self, notification: &Notification<'_>) -> bool {
        self.health.is_paused(&self.gateway.push_service(*notification).await.name)
    }

    /// Returns the limit of answers "device gone", in percent of recent answers, above which no device is disabled;
    /// `None` if there is no limit.
    pub fn most_gone(&self) -> Option<u32> {
        self.most_gone
    }

    /// Returns the number of consecutive suspect outcomes after which a registration is disabled; `None` for never.
    pub fn disable_after(&self) -> Option<u32> {
        self.disable_after
    }

    /// Returns the timeout of a publish.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the way in which a device with these options receives calls.
    pub fn ringing(&self, options: &PublishOptions) -> Ringing {
        self.gateway.ringing(options)
    }

    /// Returns the target of a registration of `user`, without its device.
    pub fn describe(&self, user: &BareJid, registration: &Registration) -> String {
        self.gateway.describe(user, registration)
    }

    /// Opens the connections that publishes need. A failure is logged.
    pub async fn warm_up(&self) {
        if let Err(Failure { reason, .. }) = self.gateway.warm_up().await {
            tracing::warn!(reason, "the gateway cannot be reached");
        }
    }
}

fn publish_timeout(environment: &Environment) -> Result<Duration, SettingError> {
    let timeout = environment.number(&catalogue::PUBLISH_TIMEOUT_MS)?;
    Ok(Duration::from_millis(timeout.into()))
}
