//! The settings for reading events.

use pushlark_settings::{Environment, HostPatterns, SettingError, catalogue};

/// The settings of the sources of events.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The hosts of rooms. If nothing else does, they distinguish group messages of MongooseIM from private ones.
    pub muc_hosts: Option<HostPatterns>,
    /// The hosts of MUC Light. Their rooms guarantee that an occupant's nick is the bare JID of the user.
    pub muc_light_hosts: HostPatterns,
    /// Whether contact requests notify.
    pub subscription_requests: bool,
}

impl Sources {
    /// Reads `MUC_HOSTS`, `MUC_LIGHT_HOSTS` and `SUBSCRIPTION_REQUESTS`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            muc_hosts: environment.get(&catalogue::MUC_HOSTS)?,
            muc_light_hosts: environment.require(&catalogue::MUC_LIGHT_HOSTS)?,
            subscription_requests: environment.switch(&catalogue::SUBSCRIPTION_REQUESTS)?,
        })
    }
}

impl Default for Sources {
    fn default() -> Self {
        let muc_light_hosts = catalogue::MUC_LIGHT_HOSTS.kind.default().and_then(|hosts| hosts.parse().ok());
        Self { muc_hosts: None, muc_light_hosts: muc_light_hosts.unwrap_or_default(), subscription_requests: true }
    }
}
