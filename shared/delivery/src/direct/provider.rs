//! The push services of devices, and the interface of their clients.

use futures_util::future::BoxFuture;
use pushlark_model::PublishOptions;

use crate::notification::Notification;
use crate::outcome::{Failure, Outcome};

/// The client of one app at one provider.
pub trait ProviderClient: Send + Sync {
    /// Sends one notification to the device of its registration.
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, ProviderResult>;

    /// Opens the connection to the provider, and fetches the tokens that it requires. The default leaves this to the
    /// first notification.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}

/// The result of a publish, unless the provider refuses our credentials.
pub type ProviderResult = Result<Outcome, Unauthorized>;

/// The provider refuses our credentials, or there are none. The caller reads them again, since they may have changed;
/// if they have not, this is the outcome of the publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unauthorized(pub Outcome);

/// A provider of push notifications to devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provider {
    /// Apple Push Notification service.
    Apns,
    /// Firebase Cloud Messaging.
    Fcm,
    /// Web Push (RFC 8030), which UnifiedPush uses, too.
    WebPush,
}

/// A form whose field `service` names no provider. The client must correct it. The text does not quote the value, which
/// may be a token in the wrong field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The field is missing or empty.
    #[error("the form has no field \"service\"")]
    Missing,
    /// The field has an unknown value.
    #[error("the form's field \"service\" must be apns, fcm, web-push or unifiedpush")]
    Unknown,
}

impl Unauthorized {
    /// Credentials that the provider refuses until the operator replaces them.
    pub fn refused(reason: String) -> Self {
        Self(Outcome::Refused(reason))
    }
}

impl Provider {
    /// Returns the provider that the form's field `service` names.
    pub fn of(options: &PublishOptions) -> Result<Self, ProviderError> {
        match options.given("service") {
            None => Err(ProviderError::Missing),
            Some("apns") => Ok(Self::Apns),
            Some("fcm") => Ok(Self::Fcm),
            Some("web-push" | "webpush" | "unifiedpush") => Ok(Self::WebPush),
            Some(_) => Err(ProviderError::Unknown),
        }
    }

    /// Returns the provider's usual name, for logs and explanations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apns => "APNs",
            Self::Fcm => "FCM",
            Self::WebPush => "Web Push",
        }
    }
}
