//! Delivery of notifications: for virtual hosts to push services, for real hosts to PubSub services.

mod content;
mod destinations;
mod direct;
mod encrypted;
mod gateway;
mod health;
mod http_client;
mod mongoosepush;
mod notification;
mod outcome;
mod publisher;
mod pubsub;
mod ringing;
mod truncate;
mod webhook;

pub use destinations::{Destinations, DeviceError, Notice, RegistrationError, RouteError};
pub use direct::provider::{Provider, ProviderError};
pub use direct::web_push::{EndpointError, SubscriptionError};
pub use direct::{AppCredentials, app_credentials};
pub use encrypted::GatewayPayload;
pub use gateway::PushService;
pub use notification::{Notification, asked_time_to_live, thread};
pub use outcome::{Failure, FailureScope, Outcome};
pub use publisher::{Publisher, Verdict};
pub use ringing::Ringing;

use std::time::Duration;

use aws_config::SdkConfig;
use futures_util::future::join_all;
use pushlark_settings::{Environment, SettingError};
use pushlark_xmpp::BareJid;

use destinations::{Destination, PushServiceSetting};

/// The publishers for virtual and for real hosts, and the rule that chooses one by a registration's host.
pub struct Delivery {
    destinations: Destinations,
    push_service: Option<Publisher>,
    pubsub: Option<Publisher>,
}

impl Delivery {
    /// Reads `VIRTUAL_PUBSUB_HOSTS`, `PUSH_SERVICE` and the settings of the push service, and `PUBSUB_URL`,
    /// `PUBSUB_HOSTS` and their other settings. `aws` is used to read secrets.
    pub fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Self, SettingError> {
        let destinations = Destinations::from_environment(environment)?;
        let push_service = Publisher::of_push_service(environment, aws, &destinations)?;
        let pubsub = Publisher::of_pubsub(environment, aws, &destinations)?;
        Ok(Self { destinations, push_service, pubsub })
    }

    /// Returns the publisher for the notifications of `user` at the host `jid`.
    pub fn route(&self, user: &BareJid, jid: &BareJid) -> Result<&Publisher, RouteError> {
        let publisher = match self.destinations.of(user, jid)? {
            Destination::PushService => &self.push_service,
            Destination::PubSub => &self.pubsub,
        };
        publisher.as_ref().ok_or(RouteError::NoUrl)
    }

    /// Returns the publisher to the push service if `jid` is a virtual host for `user`.
    pub fn push_service(&self, user: &BareJid, jid: &BareJid) -> Option<&Publisher> {
        self.push_service.as_ref().filter(|_| self.destinations.is_virtual(user, jid))
    }

    /// Returns whether notifications go to the providers of devices, not to a gateway of the operator.
    pub fn is_direct(&self) -> bool {
        self.destinations.push_service() == Some(&PushServiceSetting::Direct)
    }

    /// Returns the longest time that a publish takes.
    pub fn timeout(&self) -> Duration {
        self.publishers().map(|publisher| publisher.timeout()).max().unwrap_or_default()
    }

    /// Opens the connections that publishes need, and fetches the secrets and tokens for them.
    pub async fn warm_up(&self) {
        join_all(self.publishers().map(Publisher::warm_up)).await;
    }

    fn publishers(&self) -> impl Iterator<Item = &Publisher> {
        self.push_service.iter().chain(&self.pubsub)
    }
}
