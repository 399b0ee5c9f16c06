//! Where a notification goes: virtual hosts and push services.

mod apns;
mod content;
mod direct;
mod fcm;
mod fetched;
mod fit;
mod health;
mod http_client;
mod jws;
mod mongoosepush;
mod notification;
mod outcome;
mod virtual_hosts;
mod web_push;
mod webhook;

pub use notification::Notification;
pub use outcome::{Extent, Failure, Outcome};
pub use virtual_hosts::{InvalidHost, VirtualHosts};
pub use web_push::{InvalidEndpoint, InvalidOrigin, InvalidSubscription, TrustedOrigins};

use std::time::Duration;

use aws_config::SdkConfig;
use pushlark_plugin::PublishOptions;
use pushlark_plugin::xmpp::BareJid;
use pushlark_settings::{Environment, SettingError};
use tokio::time::{Instant, timeout_at};

use direct::{Direct, Provider};
use health::Health;
use mongoosepush::MongoosePush;
use web_push::Subscription;
use webhook::Webhook;

/// Publishes to the push service of virtual PubSub hosts.
pub struct Delivery {
    virtual_hosts: VirtualHosts,
    push_service: Option<PushService>,
}

/// The push service of virtual PubSub hosts.
pub struct PushService {
    kind: PushServiceKind,
    health: Health,
    timeout: Duration,
}

enum PushServiceKind {
    MongoosePush(MongoosePush),
    Direct(Box<Direct>),
    Webhook(Box<Webhook>),
}

impl Delivery {
    /// From `VIRTUAL_PUBSUB_HOSTS`, `PUSH_SERVICE` and what the push service needs. `aws` is for reading secrets.
    pub fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let virtual_hosts = VirtualHosts::from_environment(environment)?;
        let push_service =
            if virtual_hosts.is_empty() { None } else { Some(PushService::from_environment(environment, aws)?) };
        Ok(Self { virtual_hosts, push_service })
    }

    /// What publishes to `jid` for `user`, if anything does.
    pub fn route(&self, user: &BareJid, jid: &BareJid) -> Option<&PushService> {
        self.push_service.as_ref().filter(|_| self.virtual_hosts.has(user, jid))
    }

    /// The longest that a publish takes.
    pub fn timeout(&self) -> Duration {
        self.push_service.as_ref().map_or(Duration::ZERO, |push_service| push_service.timeout)
    }

    /// Opens the connections to the push service, and fetches what it asks for.
    pub async fn warm_up(&self) {
        if let Some(push_service) = &self.push_service {
            push_service.warm_up().await;
        }
    }
}

impl PushService {
    fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let timeout = environment.number("PUBLISH_TIMEOUT_MS", 100..=5_000, 5_000)?;
        let timeout = Duration::from_millis(timeout.into());
        let kind = match environment.text("PUSH_SERVICE").unwrap_or("mongoosepush") {
            "mongoosepush" => PushServiceKind::MongoosePush(MongoosePush::from_environment(environment, timeout)?),
            "direct" => PushServiceKind::Direct(Box::new(Direct::from_environment(environment, timeout, aws)?)),
            url if url.starts_with("https://") || url.starts_with("http://") => {
                PushServiceKind::Webhook(Box::new(Webhook::from_environment(url, environment, timeout, aws)?))
            }
            other => {
                let reason = format!("{other:?} is no push service: mongoosepush, direct and the URL of your own are");
                return Err(SettingError::invalid("PUSH_SERVICE", reason));
            }
        };
        Ok(Self { kind, health: Health::from_environment(environment)?, timeout })
    }

    /// Publishes one notification, within `PUBLISH_TIMEOUT_MS`.
    pub async fn publish(&self, notification: &Notification<'_>) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let late = || Failure::of_service(format!("no answer within {} ms", self.timeout.as_millis()));
        let Ok(service) = timeout_at(deadline, self.health_of(notification)).await else { return late().into() };
        if let Some(failure) = self.health.is_paused(&service) {
            return failure.into();
        }
        let published = async {
            match &self.kind {
                PushServiceKind::MongoosePush(mongoosepush) => mongoosepush.publish(notification).await,
                PushServiceKind::Direct(direct) => direct.publish(notification).await,
                PushServiceKind::Webhook(webhook) => webhook.publish(notification).await,
            }
        };
        let outcome = timeout_at(deadline, published).await.unwrap_or_else(|_| late().into());
        self.health.note(&service, outcome)
    }

    /// What a registration with these options is published to, without the device.
    pub fn describe(&self, options: &PublishOptions) -> String {
        match &self.kind {
            PushServiceKind::MongoosePush(mongoosepush) => mongoosepush.to_string(),
            PushServiceKind::Direct(_) => direct::describe(options),
            PushServiceKind::Webhook(webhook) => webhook.describe(),
        }
    }

    /// Whose health a notification tells of: what fails and recovers as one.
    async fn health_of(&self, notification: &Notification<'_>) -> String {
        let options = &notification.service.options;
        let of = |name| options.get(name).unwrap_or_default();
        match &self.kind {
            // A gateway has one health; but what it says of devices is Apple's or Google's word.
            PushServiceKind::MongoosePush(_) => format!("mongoosepush/{}", of("service")),
            PushServiceKind::Webhook(_) => "webhook".into(),
            PushServiceKind::Direct(direct) => match Provider::of(options) {
                Ok(Provider::WebPush) => {
                    let origin = of("endpoint").split('/').take(3).collect::<Vec<_>>().join("/");
                    format!("web-push/{origin}")
                }
                _ => format!("{}/{}/{}", of("service"), direct.app_of(notification).await, of("mode")),
            },
        }
    }

    async fn warm_up(&self) {
        let warmed = match &self.kind {
            PushServiceKind::MongoosePush(mongoosepush) => mongoosepush.warm_up().await,
            PushServiceKind::Webhook(webhook) => webhook.warm_up().await,
            PushServiceKind::Direct(direct) => {
                direct.warm_up().await;
                Ok(())
            }
        };
        if let Err(Failure { reason, .. }) = warmed {
            tracing::warn!(reason, "the push service cannot be reached");
        }
    }
}

/// Refuses a form at a virtual host that names a device of Web Push which could never be reached, while there is still
/// somebody to be told.
pub fn check_subscription(
    options: &PublishOptions,
    trusted_origins: &TrustedOrigins,
) -> Result<(), InvalidSubscription> {
    match Provider::of(options) {
        Ok(Provider::WebPush) => Subscription::new(options, trusted_origins).map(drop),
        _ => Ok(()),
    }
}
