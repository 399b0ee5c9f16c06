//! The number of registrations and push nodes that a user may have, and of users that a device may have.

use pushlark_settings::{Environment, SettingError, catalogue};

/// The limits per user and device, from the settings.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most registrations of a user, and also the most push nodes of a user at all PubSub services together.
    pub nodes: usize,
    pub(crate) when_reached: WhenReached,
    /// Whether a device has one user at most. Only functions that enable devices have the setting.
    pub(crate) one_account: bool,
}

/// The treatment of a registration beyond [`Limits::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenReached {
    ReplaceOldest,
    RefuseNewest,
}

impl Limits {
    /// Reads `MAX_NODES`, `MAX_NODES_REACHED` and `DEVICE_ACCOUNTS`.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let when_reached = [WhenReached::ReplaceOldest, WhenReached::RefuseNewest];
        let when_reached = environment.choice(&catalogue::MAX_NODES_REACHED, when_reached)?;
        let nodes = environment.number(&catalogue::MAX_NODES)?;
        // It is at most 1,000.
        let one_account = environment.choice(&catalogue::DEVICE_ACCOUNTS, [false, true])?;
        Ok(Self { nodes: nodes as usize, when_reached, one_account })
    }
}
