//! The PubSub hosts of registrations, and the options that a registration needs at each.

use std::str::FromStr;

use pushlark_model::{PublishOptions, PublishOptionsError};
use pushlark_settings::{Environment, HostPatterns, HttpUrl, SettingError, catalogue};
use pushlark_xmpp::{BareJid, DomainPart};
use reqwest::Url;

use crate::direct::provider::{Provider, ProviderError};
use crate::direct::web_push::{Subscription, SubscriptionError, TrustedOrigins};
use crate::pubsub::ChatServers;

/// The PubSub hosts at which users can enable notifications.
#[derive(Debug, Clone, Default)]
pub struct Destinations {
    virtual_hosts: HostPatterns,
    /// The real PubSub hosts that users may choose; `None` for all.
    pubsub_hosts: Option<HostPatterns>,
    /// The chat servers that publish to real hosts.
    pub(crate) pubsub_servers: ChatServers,
    push_service: PushServiceSetting,
    pub(crate) trusted_origins: TrustedOrigins,
}

/// The push service of virtual hosts (`PUSH_SERVICE`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PushServiceSetting {
    /// The MongoosePush server at `MONGOOSEPUSH_URL`.
    #[default]
    MongoosePush,
    /// APNs, FCM and Web Push directly.
    Direct,
    /// The operator's own push service at this URL.
    Webhook(Url),
}

/// An unknown value of `PUSH_SERVICE`. It is not quoted, since it may be a URL with a password.
#[derive(Debug, thiserror::Error)]
#[error("expected mongoosepush, direct or a URL such as https://push.example.com")]
pub struct PushServiceError;

/// The target of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The push service of virtual hosts.
    PushService,
    /// A node of a real PubSub service.
    PubSub,
}

/// The reason why no publisher is available for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The host is not virtual, and `PUBSUB_URL` has no server for the user's domain. The operator must add one.
    #[error("the host is not virtual, and PUBSUB_URL has no server for the user's domain")]
    NoUrl,
    /// Users may not choose this host. The operator must change the settings.
    #[error("the host is neither virtual nor one of the PUBSUB_HOSTS")]
    HostNotAllowed,
}

/// A registration with which no notification can ever reach the device. The client must correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// Users may not choose this host. The client must use another one.
    #[error("jid: {jid} is neither in VIRTUAL_PUBSUB_HOSTS nor in PUBSUB_HOSTS for {domain}")]
    HostNotAllowed {
        /// The PubSub service.
        jid: BareJid,
        /// The user's domain.
        domain: DomainPart,
    },
    /// A field of the form has a value that is not allowed.
    #[error(transparent)]
    Options(#[from] PublishOptionsError),
    /// The form does not identify a device of the push service.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A form that does not identify a device of the push service. The client must correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The field `service` is missing or unknown.
    #[error(transparent)]
    Service(#[from] ProviderError),
    /// MongoosePush does not know the service. The text does not quote the value, which may be a token in the wrong
    /// field.
    #[error("the form's field \"service\" must be apns or fcm, the services of MongoosePush")]
    NotOfMongoosePush,
    /// The field of this name is missing or empty.
    #[error("the form has no field {0:?}")]
    Missing(&'static str),
    /// The Web Push subscription is not valid.
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
}

/// The reason why no notification of a stored registration is sent, as long as the settings and the form stay the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// The host is not virtual, and `PUBSUB_URL` has no server for the user's domain.
    #[error("{jid} is not one of the VIRTUAL_PUBSUB_HOSTS, and PUBSUB_URL names no server of {domain}")]
    NoPubSubUrl {
        /// The PubSub service.
        jid: BareJid,
        /// The user's domain.
        domain: DomainPart,
    },
    /// The field of this name is missing. MongooseIM stores such a registration, and so does Pushlark.
    #[error("the form has no field {0:?}, which MongoosePush needs")]
    NoDevice(&'static str),
}

impl Destinations {
    /// Reads `VIRTUAL_PUBSUB_HOSTS`, `PUBSUB_HOSTS`, `PUBSUB_URL`, `PUSH_SERVICE` and `WEB_PUSH_TRUSTED_ORIGINS`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            virtual_hosts: environment.get(&catalogue::VIRTUAL_PUBSUB_HOSTS)?.unwrap_or_default(),
            pubsub_hosts: environment.get(&catalogue::PUBSUB_HOSTS)?,
            pubsub_servers: environment.get(&catalogue::PUBSUB_URL)?.unwrap_or_default(),
            push_service: environment.require(&catalogue::PUSH_SERVICE)?,
            trusted_origins: TrustedOrigins::from_environment(environment)?,
        })
    }

    /// Returns the push service of virtual hosts; `None` if there are no virtual hosts.
    pub(crate) fn push_service(&self) -> Option<&PushServiceSetting> {
        Some(&self.push_service).filter(|_| !self.virtual_hosts.is_empty())
    }

    /// Returns the target of notifications of `user` at `jid`. A virtual host shadows a real one of the same name.
    pub fn of(&self, user: &BareJid, jid: &BareJid) -> Result<Destination, RouteError> {
        if self.is_virtual(user, jid) {
            return Ok(Destination::PushService);
        }
        if self.pubsub_hosts.as_ref().is_some_and(|hosts| !hosts.has(user, jid)) {
            return Err(RouteError::HostNotAllowed);
        }
        self.pubsub_servers.of(user).map(|_| Destination::PubSub).ok_or(RouteError::NoUrl)
    }

    /// Returns whether `jid` is a virtual host for `user`.
    pub fn is_virtual(&self, user: &BareJid, jid: &BareJid) -> bool {
        self.virtual_hosts.has(user, jid)
    }

    /// Rejects a registration with which no notification can ever reach the device, while the client still waits for
    /// the answer. At a real PubSub host the options are opaque.
    pub fn check(
        &self,
        user: &BareJid,
        jid: &BareJid,
        options: &PublishOptions,
    ) -> Result<Option<Notice>, RegistrationError> {
        let domain = || user.domain().to_owned();
        match self.of(user, jid) {
            Ok(Destination::PushService) => {
                options.check()?;
                self.check_device(options)?;
                let missing = ["service", "device_id"].into_iter().find(|name| options.given(name).is_none());
                Ok(missing.filter(|_| self.push_service == PushServiceSetting::MongoosePush).map(Notice::NoDevice))
            }
            Ok(Destination::PubSub) => Ok(None),
            Err(RouteError::NoUrl) => Ok(Some(Notice::NoPubSubUrl { jid: jid.clone(), domain: domain() })),
            Err(RouteError::HostNotAllowed) => {
                Err(RegistrationError::HostNotAllowed { jid: jid.clone(), domain: domain() })
            }
        }
    }

    /// Rejects options that do not identify a device of the push service. MongoosePush needs a service that it knows, if
    /// the form has one. The operator's own push service may know any, and checks the options itself, except those of
    /// Web Push.
    pub fn check_device(&self, options: &PublishOptions) -> Result<(), DeviceError> {
        let has = |name| options.given(name).is_some();
        let provider = match (&self.push_service, Provider::of(options)) {
            (PushServiceSetting::MongoosePush, Ok(Provider::WebPush) | Err(ProviderError::Unknown)) => {
                return Err(DeviceError::NotOfMongoosePush);
            }
            (_, Ok(Provider::WebPush)) => return Ok(Subscription::new(options, &self.trusted_origins).map(drop)?),
            (PushServiceSetting::Direct, provider) => provider?,
            (PushServiceSetting::MongoosePush | PushServiceSetting::Webhook(_), _) => return Ok(()),
        };
        // A device may be registered only for calls.
        if has("device_id") || provider == Provider::Apns && has("voip_device_id") {
            return Ok(());
        }
        Err(DeviceError::Missing("device_id"))
    }
}

impl FromStr for PushServiceSetting {
    type Err = PushServiceError;

    fn from_str(text: &str) -> Result<Self, PushServiceError> {
        match text {
            "mongoosepush" => Ok(Self::MongoosePush),
            "direct" => Ok(Self::Direct),
            url => url.parse().map(|HttpUrl(url)| Self::Webhook(url)).map_err(|_| PushServiceError),
        }
    }
}
