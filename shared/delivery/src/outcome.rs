//! What comes of a publish.

use std::time::Duration;

use pushlark_settings::SecretError;
use pushlark_telemetry::Causes;

/// What came of a publish, whatever it was published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Delivered,
    /// The device is no more: the registration is to be disabled.
    Gone(String),
    /// The device may be no more: the registration is to be disabled when this is said several times in a row.
    Suspect(String),
    /// The fault is ours or of the registration: trying again would change nothing.
    Refused(String),
    /// It may be taken later.
    Transient(Failure),
}

/// A failure that may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub reason: String,
    /// How long the push service asks to be left alone, if it does.
    pub retry_after: Option<Duration>,
    /// Who else would meet with it.
    pub extent: Extent,
}

/// How far a failure goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// To all that the push service is asked for: the origin (Web Push), the app at a provider, or the gateway.
    Service,
    /// To all of an origin that a user chose, to which no connection could be made: perhaps it is no more.
    Unreachable,
    /// To this device alone.
    Device,
    /// To this node alone, as its PubSub service says, perhaps for ever: worth a few tries, and then an error of the node's.
    Node,
    /// To all or to this device alone: worth a few tries, since the device may never be reached.
    Unknown,
}

impl Failure {
    /// A failure of the whole push service.
    pub(crate) fn of_service(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None, extent: Extent::Service }
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
