//! The hosts of rooms, whose JIDs have a nick where those of users have a resource.

use pushlark_xmpp::{BareJid, Jid};

use crate::{Environment, HostPatterns, SettingError, catalogue};

/// The first labels of domains that are those of room services by convention: the defaults of chat servers.
const FIRST_LABELS: [&str; 6] = ["conference", "muc", "muclight", "rooms", "groups", "mix"];

/// The hosts of rooms: MUC (XEP-0045), MUC Light (MongooseIM) and MIX (XEP-0369).
#[derive(Debug, Clone)]
pub struct RoomHosts {
    /// The hosts of MUC (`MUC_HOSTS`), if they are set.
    pub muc: Option<HostPatterns>,
    /// The hosts of MUC Light (`MUC_LIGHT_HOSTS`). Their rooms guarantee that an occupant's nick is the bare JID of the
    /// user.
    pub muc_light: HostPatterns,
    /// The hosts of MIX (`MIX_HOSTS`). Their channels guarantee the nick and the JID of a participant.
    pub mix: HostPatterns,
}

impl RoomHosts {
    /// Reads `MUC_HOSTS`, `MUC_LIGHT_HOSTS` and `MIX_HOSTS`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            muc: environment.get(&catalogue::MUC_HOSTS)?,
            muc_light: environment.require(&catalogue::MUC_LIGHT_HOSTS)?,
            mix: environment.require(&catalogue::MIX_HOSTS)?,
        })
    }

    /// Returns whether `jid` is a room for `user`, or an occupant of one: its domain is one of the hosts, or its first
    /// label is that of a room service by convention. The user's own domain has users, even with such a label.
    pub fn is_room(&self, user: &BareJid, jid: &Jid) -> bool {
        let bare = jid.to_bare();
        let hosts = [self.muc.as_ref(), Some(&self.muc_light), Some(&self.mix)];
        if hosts.into_iter().flatten().any(|hosts| hosts.has(user, &bare)) {
            return true;
        }
        let first_label = jid.domain().as_str().split('.').next().unwrap_or_default();
        jid.domain() != user.domain() && FIRST_LABELS.contains(&first_label)
    }
}

impl Default for RoomHosts {
    fn default() -> Self {
        let default_of = |hosts: Option<&str>| hosts.and_then(|hosts| hosts.parse().ok()).unwrap_or_default();
        Self {
            muc: None,
            muc_light: default_of(catalogue::MUC_LIGHT_HOSTS.kind.default()),
            mix: default_of(catalogue::MIX_HOSTS.kind.default()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_xmpp::parse_jid;

    use super::*;

    fn is_room(hosts: &RoomHosts, jid: &str) -> bool {
        hosts.is_room(&BareJid::new("bob@example.com").unwrap(), &parse_jid(jid).unwrap())
    }

    #[test]
    fn rooms_are_at_the_hosts_of_the_settings() {
        let hosts = RoomHosts {
            muc: Some("chat.@HOST@, talk.example.net".parse().unwrap()),
            muc_light: "light.example.net".parse().unwrap(),
            mix: "channels.@HOST@".parse().unwrap(),
        };
        for room in ["r@chat.example.com/n", "r@talk.example.net", "r@light.example.net/n", "r@channels.example.com/n"]
        {
            assert!(is_room(&hosts, room), "{room}");
        }
        for other in ["alice@example.com/phone", "r@chat.example.net/n", "alice@talk.example.com/phone"] {
            assert!(!is_room(&hosts, other), "{other}");
        }
    }

    #[test]
    fn hosts_with_the_first_label_of_a_room_service_have_rooms_without_a_setting() {
        for label in FIRST_LABELS {
            assert!(is_room(&RoomHosts::default(), &format!("r@{label}.example.org/nick")), "{label}");
        }
        for other in ["alice@example.com/phone", "alice@my.muc.example.com/p", "a@mucus.example/p"] {
            assert!(!is_room(&RoomHosts::default(), other), "{other}");
        }
    }

    #[test]
    fn the_domain_of_the_user_has_users_whatever_its_first_label_is() {
        let hosts = RoomHosts::default();
        let [user, colleague] =
            ["bob", "alice"].map(|name| BareJid::new(&format!("{name}@groups.example.org")).unwrap());
        assert!(!hosts.is_room(&user, &colleague.clone().into()));
        assert!(hosts.is_room(&BareJid::new("bob@example.com").unwrap(), &colleague.into()));
    }
}
