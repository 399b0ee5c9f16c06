//! A gateway: one way of publishing notifications.

use futures_util::future::BoxFuture;
use pushlark_model::{PublishOptions, Registration};
use pushlark_xmpp::BareJid;

use crate::notification::Notification;
use crate::outcome::{Failure, FailureScope, Outcome};
use crate::ringing::Ringing;

/// Publishes the notifications for virtual hosts to push services, or those for real hosts to PubSub services.
pub trait Gateway: Send + Sync {
    /// Publishes one notification.
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, Outcome>;

    /// Returns the push service that the notification goes to.
    fn push_service<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, PushService>;

    /// Returns the server of the notification if the user chose it: an origin of Web Push, or a PubSub service.
    fn server(&self, _notification: Notification<'_>) -> Option<String> {
        None
    }

    /// Returns the target of a registration of `user` for operators to read, without its device.
    fn describe(&self, user: &BareJid, registration: &Registration) -> String;

    /// Returns the way in which a device with these options receives calls. The default passes them on as they are.
    fn ringing(&self, options: &PublishOptions) -> Ringing {
        Ringing::as_data(options)
    }

    /// Opens the connections that publishes need, and fetches the secrets and tokens for them.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Returns the scope of the failure of a publish without an answer in time.
    fn timeout_scope(&self) -> FailureScope {
        FailureScope::Service
    }
}

/// A push service that fails and recovers as a whole. Its name is for logs: it contains nothing from a form except the
/// origin of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushService {
    /// The name, such as `FCM/default/prod` or `Web Push/https://push.example.com`.
    pub name: String,
    /// The common name of the push services that users choose, `Web Push`; `None` if the operator chose this one.
    pub family: Option<&'static str>,
}

impl PushService {
    /// Returns a push service that the operator chose.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), family: None }
    }

    /// Returns a push service that a user chose: `<family>/<name>`.
    pub fn of_family(family: &'static str, name: &str) -> Self {
        Self { name: format!("{family}/{name}"), family: Some(family) }
    }
}
