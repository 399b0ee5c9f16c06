//! The outcome of a publish, and the scope of failures.

use std::time::Duration;

use pushlark_settings::SecretError;
use pushlark_telemetry::Causes;

/// The outcome of a publish, the same for all gateways. The texts are reasons for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The push service accepted the notification.
    Delivered,
    /// The device no longer exists: the registration must be disabled.
    Gone(String),
    /// The device may no longer exist: the registration must be disabled after several such outcomes in a row.
    Suspect(String),
    /// Our request or the registration is wrong: a retry does not help.
    Refused(String),
    /// A later retry may succeed.
    Transient(Failure),
}

/// A failure that may be temporary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason, for the log.
    pub reason: String,
    /// The delay that the push service asks for, such as `Retry-After`; `None` if it does not.
    pub retry_after: Option<Duration>,
    /// The scope: which other notifications would fail, too.
    pub scope: FailureScope,
}

/// The scope of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureScope {
    /// All notifications to the push service: the origin (Web Push), the app at a provider, or the gateway.
    Service,
    /// All notifications to an origin that a user chose and that accepts no connection: it may no longer exist.
    Unreachable,
    /// Only this device.
    Device,
    /// Only this node, according to its PubSub service, perhaps forever: a few retries, then an error of the node.
    Node,
    /// All notifications or only this device: there are few retries, since the device may never be reachable.
    Unknown,
}

impl Outcome {
    /// Returns the name in log lines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone(_) => "gone",
            Self::Suspect(_) => "suspect",
            Self::Refused(_) => "refused",
            Self::Transient(_) => "transient",
        }
    }

    /// Returns the reason; `None` for a notification that was delivered.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Delivered => None,
            Self::Gone(reason) | Self::Suspect(reason) | Self::Refused(reason) => Some(reason),
            Self::Transient(failure) => Some(&failure.reason),
        }
    }
}

impl Failure {
    /// Returns a failure of the whole push service, without a delay.
    pub(crate) fn of_service(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None, scope: FailureScope::Service }
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        Self::of_service(Causes(&error).to_string())
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Transient(failure)
    }
}
