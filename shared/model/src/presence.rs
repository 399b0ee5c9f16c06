//! The presence of a session.

use serde::{Deserialize, Serialize};

/// The availability of a session for messages (RFC 6121, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Available, with a priority of at least 0.
    Online(Activity),
    /// Unavailable, or available with a negative priority.
    Offline,
}

/// The activity of an online session: whether the user may see a message there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// The state of its client.
    pub client_state: ClientState,
    /// Whether its presence has a `show` of `away`, `xa` or `dnd` (RFC 6121, section 4.7.2.1).
    pub is_away: bool,
}

/// The attention of a user to messages in a session, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Attention {
    /// The session is offline.
    #[default]
    Offline,
    /// The client is inactive, whatever the presence shows.
    Inactive,
    /// The client is active, but its presence shows that the user is away.
    Away,
    /// The client is active.
    Active,
}

impl Activity {
    /// Returns the attention of the user in a session of this activity.
    pub fn attention(self) -> Attention {
        match self {
            Self { client_state: ClientState::Inactive, .. } => Attention::Inactive,
            Self { is_away: true, .. } => Attention::Away,
            Self { .. } => Attention::Active,
        }
    }
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
