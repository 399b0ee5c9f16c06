//! Where a notification goes: virtual hosts and push services.

mod mongoosepush;
mod virtual_hosts;

pub use mongoosepush::MongoosePush;
pub use virtual_hosts::{InvalidHost, VirtualHosts};

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pushlark_plugin::xmpp::BareJid;
use pushlark_plugin::{Payload, PublishOptions};
use pushlark_settings::{Environment, SettingError};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};

/// What came of a publish, whatever it was published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Delivered,
    /// The device is no more: the registration is to be disabled.
    Gone,
    /// The fault is ours or of the registration: trying again would change nothing.
    Refused(String),
    /// It may be taken later; after this time, if the push service named one.
    Transient {
        /// What happened.
        reason: String,
        /// How long the push service asks to be left alone.
        retry_after: Option<Duration>,
    },
}

/// Publishes to the push service of virtual PubSub hosts.
#[derive(Debug, Clone)]
pub struct Delivery {
    virtual_hosts: VirtualHosts,
    push_service: Option<MongoosePush>,
}

impl Delivery {
    /// From `VIRTUAL_PUBSUB_HOSTS`, `PUSH_SERVICE` and what the push service needs.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let virtual_hosts = VirtualHosts::from_environment(environment)?;
        match environment.text("PUSH_SERVICE").unwrap_or("mongoosepush") {
            _ if virtual_hosts.is_empty() => Ok(Self { virtual_hosts, push_service: None }),
            "mongoosepush" => {
                let push_service = MongoosePush::from_environment(environment)?;
                Ok(Self { virtual_hosts, push_service: Some(push_service) })
            }
            other => {
                Err(SettingError::invalid("PUSH_SERVICE", format!("{other:?} is not a push service; mongoosepush is")))
            }
        }
    }

    /// What publishes to `jid` for `user`, if anything does.
    pub fn route(&self, user: &BareJid, jid: &BareJid) -> Option<&MongoosePush> {
        self.push_service.as_ref().filter(|_| self.virtual_hosts.has(user, jid))
    }

    /// Opens the connection to the push service.
    pub async fn warm_up(&self) {
        if let Some(push_service) = &self.push_service {
            push_service.warm_up().await;
        }
    }
}

/// A client for push services: each answer is read in full within `PUBLISH_TIMEOUT_MS`, and no redirect followed.
///
/// It is built when it is first needed: reading the machine's root certificates takes longer than all else that a
/// worker does at its start.
#[derive(Debug, Clone)]
struct HttpClient {
    timeout: Duration,
    built: Arc<OnceLock<Client>>,
}

impl HttpClient {
    fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let timeout = environment.number("PUBLISH_TIMEOUT_MS", 100..=5_000, 5_000)?;
        Ok(Self { timeout: Duration::from_millis(timeout.into()), built: Arc::default() })
    }

    async fn send(&self, request: impl FnOnce(&Client) -> RequestBuilder) -> Result<Response, reqwest::Error> {
        request(self.get()?).send().await
    }

    fn get(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.built.get() {
            return Ok(client);
        }
        let client = Client::builder()
            .timeout(self.timeout)
            .redirect(Policy::none())
            // Lambda's network forgets an idle connection after 350 seconds.
            .pool_idle_timeout(Duration::from_secs(300))
            .user_agent(concat!("pushlark/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(self.built.get_or_init(|| client))
    }

    /// Builds the client beside what the current thread does.
    async fn prepare(&self) {
        let this = self.clone();
        // Should it fail, the first publish says why.
        let _ = tokio::task::spawn_blocking(move || this.get().is_ok()).await;
    }
}
