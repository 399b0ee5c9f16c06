//! Where a notification goes: virtual hosts and push services, or real PubSub services.

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
mod pubsub;
mod web_push;
mod webhook;

pub use notification::Notification;
pub use outcome::{Extent, Failure, Outcome};
pub use web_push::{InvalidEndpoint, InvalidOrigin, InvalidSubscription, TrustedOrigins};

use std::str::FromStr;
use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::join_all;
use pushlark_plugin::xmpp::BareJid;
use pushlark_plugin::{Mode, PublishOptions, PublishService};
use pushlark_settings::{Environment, HostPatterns, HttpUrl, SettingError};
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use direct::{Direct, Provider};
use health::Health;
use mongoosepush::MongoosePush;
use pubsub::PubSub;
use web_push::Subscription;
use webhook::Webhook;

/// Publishes notifications.
pub struct Delivery {
    virtual_hosts: HostPatterns,
    /// The real PubSub hosts that users may name; `None` for all.
    pubsub_hosts: Option<HostPatterns>,
    push_service: Option<Publisher>,
    pubsub: Option<Publisher>,
}

/// What publishes: the push service of virtual PubSub hosts, or the way to real PubSub services.
pub struct Publisher {
    kind: PublisherKind,
    health: Health,
    timeout: Duration,
    disable_after: Option<u32>,
}

/// Why nothing publishes to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// The settings name no way to it.
    #[error("the host is not virtual, and PUBSUB_URL names no way to real ones")]
    NoUrl,
    /// Users may not name it.
    #[error("the host is not virtual, and none of the PUBSUB_HOSTS")]
    HostNotAllowed,
}

enum PublisherKind {
    MongoosePush(MongoosePush),
    Direct(Box<Direct>),
    Webhook(Box<Webhook>),
    PubSub(Box<PubSub>),
}

/// What `PUSH_SERVICE` chooses.
enum PushService {
    MongoosePush,
    Direct,
    /// The operator's own.
    Webhook(Url),
}

/// A setting that chooses no push service; it may be a URL with a password, and is not quoted.
#[derive(Debug, thiserror::Error)]
#[error("it is none of: mongoosepush, direct, a URL such as https://push.example.com")]
struct InvalidPushService;

impl FromStr for PushService {
    type Err = InvalidPushService;

    fn from_str(text: &str) -> Result<Self, InvalidPushService> {
        match text {
            "mongoosepush" => Ok(Self::MongoosePush),
            "direct" => Ok(Self::Direct),
            url => url.parse().map(|HttpUrl(url)| Self::Webhook(url)).map_err(|_| InvalidPushService),
        }
    }
}

impl Delivery {
    /// From `VIRTUAL_PUBSUB_HOSTS`, `PUSH_SERVICE` and what the push service needs, and from `PUBSUB_URL`, `PUBSUB_HOSTS` and
    /// what goes with them. `aws` is for reading secrets.
    pub fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let virtual_hosts: Option<HostPatterns> = environment.get("VIRTUAL_PUBSUB_HOSTS")?;
        let push_service = Publisher::of_push_service(environment, aws, virtual_hosts.is_some())?;
        let virtual_hosts = virtual_hosts.unwrap_or_default();
        let pubsub_hosts = environment.get("PUBSUB_HOSTS")?;
        Ok(Self { virtual_hosts, pubsub_hosts, push_service, pubsub: Publisher::of_pubsub(environment, aws)? })
    }

    /// The publisher to `jid` for `user`. A virtual host shadows a real one of its name.
    pub fn route(&self, user: &BareJid, jid: &BareJid) -> Result<&Publisher, Unroutable> {
        if self.virtual_hosts.has(user, jid) {
            return self.push_service.as_ref().ok_or(Unroutable::NoUrl);
        }
        if self.pubsub_hosts.as_ref().is_some_and(|hosts| !hosts.has(user, jid)) {
            return Err(Unroutable::HostNotAllowed);
        }
        let serves = |publisher: &&Publisher| match &publisher.kind {
            PublisherKind::PubSub(pubsub) => pubsub.serves(user),
            _ => false,
        };
        self.pubsub.as_ref().filter(serves).ok_or(Unroutable::NoUrl)
    }

    /// The push service of `user`, if `jid` is a virtual host.
    pub fn push_service(&self, user: &BareJid, jid: &BareJid) -> Option<&Publisher> {
        self.push_service.as_ref().filter(|_| self.virtual_hosts.has(user, jid))
    }

    /// The longest that a publish takes.
    pub fn timeout(&self) -> Duration {
        self.publishers().map(|publisher| publisher.timeout).max().unwrap_or_default()
    }

    /// Opens the connections that publishes need, and fetches what push services ask for.
    pub async fn warm_up(&self) {
        join_all(self.publishers().map(Publisher::warm_up)).await;
    }

    fn publishers(&self) -> impl Iterator<Item = &Publisher> {
        self.push_service.iter().chain(&self.pubsub)
    }
}

impl Publisher {
    /// The push service, if virtual hosts need it. The settings of those that are not chosen are checked, too.
    fn of_push_service(
        environment: &Environment,
        aws: &SdkConfig,
        is_needed: bool,
    ) -> Result<Option<Self>, SettingError> {
        let timeout = publish_timeout(environment)?;
        let mongoosepush = MongoosePush::from_environment(environment, timeout)?;
        let direct = Direct::from_environment(environment, timeout, aws)?;
        let key = webhook::key_from_environment(environment, aws)?;
        let disable_after = Some(environment.number("DISABLE_AFTER_SUSPECTS", 1..=1_000, 3)?);
        let health = Health::from_environment(environment)?;
        let chosen = environment.get("PUSH_SERVICE")?.unwrap_or(PushService::MongoosePush);
        if !is_needed {
            return Ok(None);
        }
        let missing = |name, purpose| SettingError::Missing { name, purpose };
        let kind = match chosen {
            PushService::MongoosePush => PublisherKind::MongoosePush(
                mongoosepush.ok_or(missing(mongoosepush::URL, "where notifications for virtual hosts are posted"))?,
            ),
            PushService::Direct => {
                let purpose = "the apps' credentials for push services";
                PublisherKind::Direct(Box::new(direct.ok_or(missing(direct::CREDENTIALS, purpose))?))
            }
            PushService::Webhook(url) => {
                let purpose = "the secret that signs notifications to your own push service";
                let key = key.ok_or(missing(webhook::SECRET, purpose))?;
                PublisherKind::Webhook(Box::new(Webhook::new(url, key, timeout)))
            }
        };
        Ok(Some(Self { kind, health, timeout, disable_after }))
    }

    fn of_pubsub(environment: &Environment, aws: &SdkConfig) -> Result<Option<Self>, SettingError> {
        let timeout = publish_timeout(environment)?;
        let disable_after = match environment.number("PUBSUB_MAX_ERRORS", 0..=1_000, 0)? {
            0 => None,
            errors => Some(errors),
        };
        let Some(pubsub) = PubSub::from_environment(environment, timeout, aws)? else { return Ok(None) };
        let health = Health::default();
        Ok(Some(Self { kind: PublisherKind::PubSub(Box::new(pubsub)), health, timeout, disable_after }))
    }

    /// Publishes one notification, within `PUBLISH_TIMEOUT_MS`.
    pub async fn publish(&self, notification: &Notification<'_>) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let late = || {
            let reason = format!("no answer within {} ms", self.timeout.as_millis());
            let extent = match self.kind {
                PublisherKind::PubSub(_) => Extent::Unknown,
                _ => Extent::Service,
            };
            Failure { reason, retry_after: None, extent }
        };
        let Ok(service) = timeout_at(deadline, self.health_of(notification)).await else { return late().into() };
        if let Some(failure) = self.health.is_paused(&service) {
            return failure.into();
        }
        let published = async {
            match &self.kind {
                PublisherKind::MongoosePush(mongoosepush) => mongoosepush.publish(notification).await,
                PublisherKind::Direct(direct) => direct.publish(notification).await,
                PublisherKind::Webhook(webhook) => webhook.publish(notification).await,
                PublisherKind::PubSub(pubsub) => pubsub.publish(notification).await,
            }
        };
        let outcome = timeout_at(deadline, published).await.unwrap_or_else(|_| late().into());
        self.health.note(&service, outcome)
    }

    /// After how many suspicions in a row a registration is disabled; `None` for never.
    pub fn disable_after(&self) -> Option<u32> {
        self.disable_after
    }

    /// What `service` of `user` is published to, without the device.
    pub fn describe(&self, user: &BareJid, service: &PublishService) -> String {
        match &self.kind {
            PublisherKind::MongoosePush(mongoosepush) => mongoosepush.to_string(),
            PublisherKind::Direct(_) => direct::describe(&service.options),
            PublisherKind::Webhook(webhook) => webhook.describe(),
            PublisherKind::PubSub(pubsub) => format!("PubSub by {}", pubsub.describe(user)),
        }
    }

    /// Whose health a notification tells of: what fails and recovers as one. It is for the log, too, so nothing of the form
    /// is in it as it was given.
    async fn health_of(&self, notification: &Notification<'_>) -> String {
        let options = &notification.service.options;
        let provider = Provider::of(options);
        match &self.kind {
            // A gateway has one health; but what it says of devices is Apple's or Google's word.
            PublisherKind::MongoosePush(_) => format!("MongoosePush/{}", provider.map_or("other", Provider::name)),
            PublisherKind::Webhook(_) => "webhook".into(),
            PublisherKind::PubSub(pubsub) => pubsub.describe(notification.user),
            PublisherKind::Direct(direct) => match provider {
                Ok(Provider::WebPush) => {
                    let endpoint = Url::parse(options.get("endpoint").unwrap_or_default()).ok();
                    let origin = endpoint.map(|endpoint| endpoint.origin().ascii_serialization());
                    format!("{}/{}", Provider::WebPush.name(), origin.unwrap_or_default())
                }
                provider => {
                    let mode = if options.mode() == Ok(Some(Mode::Development)) { "dev" } else { "prod" };
                    let app = direct.app_of(notification).await;
                    format!("{}/{app}/{mode}", provider.map_or("other", Provider::name))
                }
            },
        }
    }

    async fn warm_up(&self) {
        let warmed = match &self.kind {
            PublisherKind::MongoosePush(mongoosepush) => mongoosepush.warm_up().await,
            PublisherKind::Webhook(webhook) => webhook.warm_up().await,
            PublisherKind::PubSub(pubsub) => pubsub.warm_up().await,
            PublisherKind::Direct(direct) => {
                direct.warm_up().await;
                Ok(())
            }
        };
        if let Err(Failure { reason, .. }) = warmed {
            tracing::warn!(reason, "what publishes cannot be reached");
        }
    }
}

fn publish_timeout(environment: &Environment) -> Result<Duration, SettingError> {
    let timeout = environment.number("PUBLISH_TIMEOUT_MS", 100..=5_000, 5_000)?;
    Ok(Duration::from_millis(timeout.into()))
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
