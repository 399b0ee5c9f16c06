//! Where a notification goes: virtual hosts and push services, or real PubSub services.

mod apns;
mod content;
mod destinations;
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

pub use destinations::{Destinations, InvalidDevice, InvalidRegistration, Notice, Unroutable};
pub use direct::InvalidService;
pub use notification::Notification;
pub use outcome::{Extent, Failure, Outcome};
pub use web_push::{InvalidEndpoint, InvalidSubscription};

use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::join_all;
use pushlark_plugin::xmpp::BareJid;
use pushlark_plugin::{Mode, PublishService};
use pushlark_settings::{Environment, SettingError, catalogue};
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use destinations::{Destination, PushService};
use direct::{Direct, Provider};
use health::{Device, Health};
use mongoosepush::MongoosePush;
use pubsub::PubSub;
use webhook::Webhook;

/// Publishes notifications.
pub struct Delivery {
    destinations: Destinations,
    push_service: Option<Publisher>,
    pubsub: Option<Publisher>,
}

/// What publishes: the push service of virtual PubSub hosts, or the way to real PubSub services.
pub struct Publisher {
    kind: PublisherKind,
    health: Health,
    timeout: Duration,
    disable_after: Option<u32>,
    most_gone: Option<u32>,
}

/// The word of a push service on a notification.
#[derive(Debug)]
pub struct Verdict {
    /// Names the push service that was asked: what fails and recovers as one. It is for the log, too.
    pub push_service: String,
    /// What came of it.
    pub outcome: Outcome,
}

enum PublisherKind {
    MongoosePush(MongoosePush),
    Direct(Box<Direct>),
    Webhook(Box<Webhook>),
    PubSub(Box<PubSub>),
}

impl Delivery {
    /// From `VIRTUAL_PUBSUB_HOSTS`, `PUSH_SERVICE` and what the push service needs, and from `PUBSUB_URL`, `PUBSUB_HOSTS` and
    /// what goes with them. `aws` is for reading secrets.
    pub fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let destinations = Destinations::from_environment(environment)?;
        let push_service = Publisher::of_push_service(environment, aws, &destinations)?;
        let pubsub = Publisher::of_pubsub(environment, aws, &destinations)?;
        Ok(Self { destinations, push_service, pubsub })
    }

    /// The publisher to `jid` for `user`.
    pub fn route(&self, user: &BareJid, jid: &BareJid) -> Result<&Publisher, Unroutable> {
        let publisher = match self.destinations.of(user, jid)? {
            Destination::PushService => &self.push_service,
            Destination::PubSub => &self.pubsub,
        };
        publisher.as_ref().ok_or(Unroutable::NoUrl)
    }

    /// The push service of `user`, if `jid` is a virtual host.
    pub fn push_service(&self, user: &BareJid, jid: &BareJid) -> Option<&Publisher> {
        self.push_service.as_ref().filter(|_| self.destinations.is_virtual(user, jid))
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
        destinations: &Destinations,
    ) -> Result<Option<Self>, SettingError> {
        let timeout = publish_timeout(environment)?;
        let mongoosepush = MongoosePush::from_environment(environment, timeout)?;
        let direct = Direct::from_environment(&destinations.trusted_origins, environment, timeout, aws)?;
        let key = webhook::key_from_environment(environment, aws)?;
        let disable_after = Some(environment.number(&catalogue::DISABLE_AFTER_SUSPECTS)?);
        let most_gone = Some(environment.number(&catalogue::DISABLE_MAX_PERCENT)?);
        let Some(chosen) = destinations.push_service() else { return Ok(None) };
        let kind = match chosen {
            PushService::MongoosePush => {
                PublisherKind::MongoosePush(mongoosepush.ok_or_else(|| catalogue::MONGOOSEPUSH_URL.missing())?)
            }
            PushService::Direct => {
                PublisherKind::Direct(Box::new(direct.ok_or_else(|| catalogue::PUSH_CREDENTIALS.missing())?))
            }
            PushService::Webhook(url) => {
                let key = key.ok_or_else(|| catalogue::PUSH_SERVICE_SECRET.missing())?;
                PublisherKind::Webhook(Box::new(Webhook::new(url.clone(), key, timeout)))
            }
        };
        Ok(Some(Self { kind, health: Health::default(), timeout, disable_after, most_gone }))
    }

    fn of_pubsub(
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
        let kind = PublisherKind::PubSub(Box::new(pubsub));
        Ok(Some(Self { kind, health: Health::default(), timeout, disable_after, most_gone: None }))
    }

    /// Publishes one notification, within `PUBLISH_TIMEOUT_MS`.
    pub async fn publish(&self, notification: &Notification<'_>) -> Verdict {
        let deadline = Instant::now() + self.timeout;
        let late = || {
            let reason = format!("no answer within {} ms", self.timeout.as_millis());
            let extent = match self.kind {
                PublisherKind::PubSub(_) => Extent::Unknown,
                _ => Extent::Service,
            };
            Failure { reason, retry_after: None, extent }
        };
        let Ok(push_service) = timeout_at(deadline, self.push_service_of(notification)).await else {
            return Verdict { push_service: String::new(), outcome: late().into() };
        };
        let device = Device::of(notification);
        if let Err(failure) = self.health.admit(&push_service, device) {
            return Verdict { push_service, outcome: failure.into() };
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
        self.health.note(&push_service, device, &outcome);
        Verdict { push_service, outcome }
    }

    /// The server that a user chose for a notification: the origin of an endpoint of Web Push, or a PubSub service.
    pub fn server(&self, notification: &Notification<'_>) -> Option<String> {
        match &self.kind {
            PublisherKind::Direct(_) => match Provider::of(&notification.service.options) {
                Ok(Provider::WebPush) => Some(origin(notification)),
                _ => None,
            },
            PublisherKind::PubSub(_) => Some(notification.service.jid.to_string()),
            PublisherKind::MongoosePush(_) | PublisherKind::Webhook(_) => None,
        }
    }

    /// Whether this worker leaves the push service of a notification alone at the moment, since it failed too often.
    pub async fn is_paused(&self, notification: &Notification<'_>) -> bool {
        self.health.is_paused(&self.push_service_of(notification).await)
    }

    /// The most of the last answers, in percent, that may call devices gone before none is disabled; `None` for a push
    /// service whose word is always taken.
    pub fn most_gone(&self) -> Option<u32> {
        self.most_gone
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

    /// Names the push service of a notification: what fails and recovers as one. Nothing of the form is in it as it was
    /// given, since it is for the log, too.
    async fn push_service_of(&self, notification: &Notification<'_>) -> String {
        let options = &notification.service.options;
        let provider = Provider::of(options);
        match &self.kind {
            // What a gateway says of devices is Apple's or Google's word.
            PublisherKind::MongoosePush(_) => format!("MongoosePush/{}", provider.map_or("other", Provider::name)),
            PublisherKind::Webhook(_) => "webhook".into(),
            PublisherKind::PubSub(pubsub) => pubsub.describe(notification.user),
            PublisherKind::Direct(direct) => match provider {
                Ok(Provider::WebPush) => format!("{}/{}", Provider::WebPush.name(), origin(notification)),
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

/// The origin of an endpoint of Web Push; empty if it is no URL.
fn origin(notification: &Notification<'_>) -> String {
    let endpoint = notification.service.options.get("endpoint").unwrap_or_default();
    Url::parse(endpoint).map(|endpoint| endpoint.origin().ascii_serialization()).unwrap_or_default()
}

fn publish_timeout(environment: &Environment) -> Result<Duration, SettingError> {
    let timeout = environment.number(&catalogue::PUBLISH_TIMEOUT_MS)?;
    Ok(Duration::from_millis(timeout.into()))
}
