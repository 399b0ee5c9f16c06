//! A gateway: one way of publishing notifications.

use futures_util::future::BoxFuture;
use pushlark_model::Registration;
use pushlark_xmpp::BareJid;

use crate::notification::Notification;
use crate::outcome::{Extent, Failure, Outcome};

/// A gateway publishes the notifications of virtual hosts to push services, or those of real hosts to PubSub services.
pub trait Gateway: Send + Sync {
    /// Publishes one notification.
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, Outcome>;

    /// The push service that the notification goes to.
    fn push_service<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, PushService>;

    /// The server that the notification goes to, if the user has named it: an origin of Web Push, or a PubSub service.
    fn server(&self, _notification: Notification<'_>) -> Option<String> {
        None
    }

    /// The target of a registration of `user`, without its device, as operators may read it.
    fn describe(&self, user: &BareJid, registration: &Registration) -> String;

    /// Opens the connections that publishes need, and fetches the secrets and tokens for them.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// The scope of the failure of a publish that is not answered in time.
    fn time_out_scope(&self) -> Extent {
        Extent::Service
    }
}

/// A push service that fails and recovers as one. Its name is for logs: it contains nothing of a form but the origin of an
/// endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushService {
    /// Such as `FCM/default/prod`.
    pub name: String,
    /// The name of all push services that the operator does not choose, if this is one of them: `Web Push`.
    pub family: Option<&'static str>,
}

impl PushService {
    /// A push service that the operator chooses.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), family: None }
    }

    /// A push service that the user chooses, by its name in a family.
    pub fn of_family(family: &'static str, name: &str) -> Self {
        Self { name: format!("{family}/{name}"), family: Some(family) }
    }
}
