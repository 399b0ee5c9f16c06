//! The presence of a session.

use serde::{Deserialize, Serialize};

/// The availability of a session for messages (RFC 6121, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Available, with a priority of at least 0.
    Online,
    /// Unavailable, or available with a negative priority.
    Offline,
}

/// The state of a client (XEP-0352).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientState {
    /// The user looks at the client.
    Active,
    /// The client runs in the background, and may be suspended.
    Inactive,
}
