//! The move of registrations from one PubSub service to another.

use std::fmt;
use std::str::FromStr;

use pushlark_settings::parse_host;
use pushlark_xmpp::BareJid;

/// The name of the user's own domain in a host, as in `VIRTUAL_PUBSUB_HOSTS`.
const HOST: &str = "@HOST@";

/// A pair `FROM=TO` of hosts. Both may end with `@HOST@`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapHost {
    pub from: String,
    to: String,
}

impl MapHost {
    /// Returns the PubSub service in whose place `jid` is used for `user`; `None` if this pair does not concern it.
    pub fn apply(&self, user: &BareJid, jid: &BareJid) -> Option<BareJid> {
        let of = |pattern: &str| pattern.replace(HOST, user.domain().as_str());
        if of(&self.from) != jid.domain().as_str() {
            return None;
        }
        let local = jid.node().map(|local| format!("{local}@")).unwrap_or_default();
        BareJid::new(&format!("{local}{}", of(&self.to))).ok()
    }
}

impl fmt::Display for MapHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.from, self.to)
    }
}

impl FromStr for MapHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = |pattern: &str| {
            let sample = match pattern.strip_suffix(HOST) {
                Some(prefix) if prefix.ends_with('.') || prefix.is_empty() => format!("{prefix}example.com"),
                Some(_) => return Err(format!("{pattern:?} must have a dot before {HOST}")),
                None => pattern.to_owned(),
            };
            let domain = parse_host(&sample).ok_or_else(|| format!("{pattern:?} is not a host"))?;
            Ok(match pattern.ends_with(HOST) {
                true => format!("{}{HOST}", domain.as_str().strip_suffix("example.com").unwrap_or_default()),
                false => domain.as_str().to_owned(),
            })
        };
        let (from, to) = text.split_once('=').ok_or("expected FROM=TO, such as pubsub.example.com=push.example.com")?;
        Ok(Self { from: host(from)?, to: host(to)? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mapped(pair: &str, jid: &str) -> Option<String> {
        let user = BareJid::new("bob@example.com").unwrap();
        pair.parse::<MapHost>().unwrap().apply(&user, &BareJid::new(jid).unwrap()).map(|jid| jid.to_string())
    }

    #[test]
    fn a_pair_moves_a_host_and_keeps_the_localpart() {
        assert_eq!(mapped("PubSub.example.com=push.@HOST@", "pubsub.example.com").unwrap(), "push.example.com");
        assert_eq!(mapped("pubsub.@HOST@=push.example.org", "a@pubsub.example.com").unwrap(), "a@push.example.org");
        assert_eq!(mapped("@HOST@=push.@HOST@", "example.com").unwrap(), "push.example.com");
        assert_eq!(mapped("pubsub.@HOST@=push.@HOST@", "pubsub.example.org"), None);
        for wrong in ["", "a", "=a", "a=", "a=b=c", "push@HOST@=a", "bob@example.com=a", "@HOST@.a=b", "a b=c", "*.a=b"]
        {
            assert!(wrong.parse::<MapHost>().is_err(), "{wrong}");
        }
    }
}
