//! The presence of a session.

/// The availability of a session for messages (RFC 6121, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Available, with a priority of at least 0.
    Online,
    /// Unavailable, or available with a negative priority.
    Offline,
}
