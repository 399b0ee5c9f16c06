//! The PubSub hosts that registrations name, and the options that a registration needs at each.

use std::str::FromStr;

use pushlark_plugin::xmpp::{BareJid, DomainPart};
use pushlark_plugin::{InvalidOptions, PublishOptions};
use pushlark_settings::{Environment, HostPatterns, HttpUrl, SettingError, catalogue};
use reqwest::Url;

use crate::direct::{InvalidService, Provider};
use crate::pubsub::Servers;
use crate::web_push::{InvalidSubscription, Subscription, TrustedOrigins};

/// The PubSub hosts that users can enable notifications at.
#[derive(Debug, Clone, Default)]
pub struct Destinations {
    virtual_hosts: HostPatterns,
    /// The real PubSub hosts that users may name; `None` for all.
    pubsub_hosts: Option<HostPatterns>,
    /// The chat servers that publish to real hosts.
    pub(crate) pubsub_servers: Servers,
    push_service: PushService,
    pub(crate) trusted_origins: TrustedOrigins,
}

/// The push service of virtual hosts (`PUSH_SERVICE`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PushService {
    /// A MongoosePush.
    #[default]
    MongoosePush,
    /// APNs, FCM and Web Push themselves.
    Direct,
    /// The operator's own, at a URL.
    Webhook(Url),
}

/// A setting that chooses no push service; it may be a URL with a password, and is not quoted.
#[derive(Debug, thiserror::Error)]
#[error("it is none of: mongoosepush, direct, a URL such as https://push.example.com")]
pub struct InvalidPushService;

/// The way of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To the push service.
    PushService,
    /// To a node of a real PubSub service.
    PubSub,
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

/// A registration that no notification could ever reach the device by; the client's to correct.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegistration {
    /// Users may not name the host.
    #[error("jid: {jid} is neither of the VIRTUAL_PUBSUB_HOSTS nor of the PUBSUB_HOSTS of {domain}")]
    HostNotAllowed {
        /// The PubSub service.
        jid: BareJid,
        /// The user's domain.
        domain: DomainPart,
    },
    /// A value of the form is impossible.
    #[error(transparent)]
    Options(#[from] InvalidOptions),
    /// The form names no device of the push service.
    #[error(transparent)]
    Device(#[from] InvalidDevice),
}

/// A form that names no device of the push service; the client's to correct.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDevice {
    /// The service is missing or unknown.
    #[error(transparent)]
    Service(#[from] InvalidService),
    /// A field is missing.
    #[error("the form has no field {0:?}")]
    Missing(&'static str),
    /// The subscription of Web Push is wrong.
    #[error(transparent)]
    Subscription(#[from] InvalidSubscription),
}

/// The reason why no notification of a stored registration is sent, as long as the settings and the form stay the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// Nothing publishes to the host.
    #[error("{jid} is not one of the VIRTUAL_PUBSUB_HOSTS, and PUBSUB_URL names no server of {domain}")]
    NoPubSubUrl {
        /// The PubSub service.
        jid: BareJid,
        /// The user's domain.
        domain: DomainPart,
    },
    /// MongooseIM stores such a registration, and so does Pushlark.
    #[error("the form has no field {0:?}, which MongoosePush needs")]
    NoDevice(&'static str),
}

impl Destinations {
    /// From `VIRTUAL_PUBSUB_HOSTS`, `PUBSUB_HOSTS`, `PUBSUB_URL`, `PUSH_SERVICE` and `WEB_PUSH_TRUSTED_ORIGINS`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            virtual_hosts: environment.get(&catalogue::VIRTUAL_PUBSUB_HOSTS)?.unwrap_or_default(),
            pubsub_hosts: environment.get(&catalogue::PUBSUB_HOSTS)?,
            pubsub_servers: environment.get(&catalogue::PUBSUB_URL)?.unwrap_or_default(),
            push_service: environment.require(&catalogue::PUSH_SERVICE)?,
            trusted_origins: TrustedOrigins::from_environment(environment)?,
        })
    }

    /// The push service, if there is a virtual host.
    pub(crate) fn push_service(&self) -> Option<&PushService> {
        Some(&self.push_service).filter(|_| !self.virtual_hosts.is_empty())
    }

    /// The way of the notifications of `user` to `jid`. A virtual host shadows a real one of its name.
    pub fn of(&self, user: &BareJid, jid: &BareJid) -> Result<Destination, Unroutable> {
        if self.is_virtual(user, jid) {
            return Ok(Destination::PushService);
        }
        if self.pubsub_hosts.as_ref().is_some_and(|hosts| !hosts.has(user, jid)) {
            return Err(Unroutable::HostNotAllowed);
        }
        self.pubsub_servers.of(user).map(|_| Destination::PubSub).ok_or(Unroutable::NoUrl)
    }

    /// Whether `jid` is a virtual host for `user`.
    pub fn is_virtual(&self, user: &BareJid, jid: &BareJid) -> bool {
        self.virtual_hosts.has(user, jid)
    }

    /// Refuses a registration by which no notification could ever reach the device, while a client still waits for the
    /// answer. At a real PubSub host the options are opaque.
    pub fn check(
        &self,
        user: &BareJid,
        jid: &BareJid,
        options: &PublishOptions,
    ) -> Result<Option<Notice>, InvalidRegistration> {
        let domain = || user.domain().to_owned();
        match self.of(user, jid) {
            Ok(Destination::PushService) => {
                options.check()?;
                self.check_device(options)?;
                let missing = ["service", "device_id"].into_iter().find(|name| options.given(name).is_none());
                Ok(missing.filter(|_| self.push_service == PushService::MongoosePush).map(Notice::NoDevice))
            }
            Ok(Destination::PubSub) => Ok(None),
            Err(Unroutable::NoUrl) => Ok(Some(Notice::NoPubSubUrl { jid: jid.clone(), domain: domain() })),
            Err(Unroutable::HostNotAllowed) => {
                Err(InvalidRegistration::HostNotAllowed { jid: jid.clone(), domain: domain() })
            }
        }
    }

    /// Refuses options that name no device of the push service. MongoosePush and the operator's own judge by themselves,
    /// except that Web Push has a meaning for all.
    pub fn check_device(&self, options: &PublishOptions) -> Result<(), InvalidDevice> {
        let has = |name| options.given(name).is_some();
        let provider = match Provider::of(options) {
            Ok(Provider::WebPush) => return Ok(Subscription::new(options, &self.trusted_origins).map(drop)?),
            _ if self.push_service != PushService::Direct => return Ok(()),
            provider => provider?,
        };
        // A device may be there for calls alone.
        if has("device_id") || provider == Provider::Apns && has("voip_device_id") {
            return Ok(());
        }
        Err(InvalidDevice::Missing("device_id"))
    }
}

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
