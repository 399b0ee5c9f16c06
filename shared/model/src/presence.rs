//! The presence of a session.

use serde::{Deserialize, Serialize};

/// The availability of a session for messages (RFC 6121, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Available, with a priority of at least 0, and the state of its client.
    Online(ClientState),
    /// Unavailable, or available with a negative priority.
    Offline,
}

/// The state of a client (XEP-0352).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientState {
    /// The user looks at the client. A client that tells no state is active (XEP-0352, section 4).
    #[default]
    Active,
    /// The client runs in the background, and may be suspended.
    Inactive,
}

impl ClientState {
    /// Returns the name of the state in webhooks and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
        }
    }
}
