//! Failed authentication.

use pushlark_sns::SnsError;
use pushlark_telemetry::Causes;

/// A request that was not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The credential is missing, unknown or expired. The caller must send a valid one.
    #[error("{detail}")]
    Unauthorized {
        /// The reason for the log, from a fixed set of texts.
        reason: &'static str,
        /// The reason for the caller.
        detail: String,
    },
    /// The secrets or keys cannot be read now. The same request may succeed later.
    #[error("the secrets cannot be read")]
    Unavailable,
}

impl AccessError {
    pub(crate) fn unauthorized(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::Unauthorized { reason, detail: detail.into() }
    }
}

impl From<SnsError> for AccessError {
    /// The detail names neither the configured topics nor the check that failed.
    fn from(error: SnsError) -> Self {
        match error {
            SnsError::NotMessage(_) => Self::unauthorized("not an SNS message", error.to_string()),
            SnsError::Refused(reason) => {
                Self::unauthorized(reason, "the message has no valid signature of SNS for a topic of this function")
            }
            error => {
                tracing::error!(error = %Causes(&error), "an SNS message cannot be verified");
                Self::Unavailable
            }
        }
    }
}
