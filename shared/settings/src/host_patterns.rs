//! Settings that are hosts of services: fixed domains, or subdomains of each user's own domain.

use std::str::FromStr;

use pushlark_xmpp::{BareJid, DomainPart};

use crate::list::{EmptyItemError, items};

/// A comma-separated list of patterns, in the form of MongooseIM's `virtual_pubsub_hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPatterns(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// One domain, for all users.
    Fixed(DomainPart),
    /// A subdomain of each user's own domain: the text before `@HOST@`, with its dot.
    SubdomainOfUsers(String),
}

/// An invalid list of host patterns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// An item is empty; contains its number.
    #[error(transparent)]
    Empty(#[from] EmptyItemError),
    /// A pattern could never match.
    #[error("{0:?} is neither a domain nor a subdomain of @HOST@, such as \"push.@HOST@\"")]
    Pattern(String),
}

impl HostPatterns {
    /// Returns whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the domain of `jid` is one of these hosts for `user`.
    pub fn has(&self, user: &BareJid, jid: &BareJid) -> bool {
        let (users_domain, domain) = (user.domain().as_str(), jid.domain().as_str());
        self.0.iter().any(|pattern| match pattern {
            Pattern::Fixed(fixed) => fixed.as_str() == domain,
            Pattern::SubdomainOfUsers(prefix) => domain.strip_suffix(users_domain) == Some(prefix),
        })
    }
}

impl FromStr for HostPatterns {
    type Err = HostPatternError;

    fn from_str(patterns: &str) -> Result<Self, HostPatternError> {
        items(patterns)?.into_iter().map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Reads the domain of a host. `None` for a text that is not one, or that no host has, such as `*.example.com`: JIDs allow
/// more characters than DNS (RFC 7622, section 3.2).
pub fn parse_host(text: &str) -> Option<DomainPart> {
    let is_of_hosts = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || "-._:[]".contains(c);
    let is_host = text.chars().all(is_of_hosts) && !text.starts_with('.') && !text.contains("..");
    is_host.then(|| DomainPart::new(text).ok().map(|domain| domain.into_owned()))?
}

impl FromStr for Pattern {
    type Err = HostPatternError;

    fn from_str(pattern: &str) -> Result<Self, HostPatternError> {
        let invalid = || HostPatternError::Pattern(pattern.into());
        let domain = |domain: &str| parse_host(domain).ok_or_else(invalid);
        match pattern.split_once("@HOST@") {
            None => domain(pattern).map(Self::Fixed),
            Some((prefix, "")) if prefix.ends_with('.') => {
                let prefix = domain(&prefix[..prefix.len() - 1])?;
                Ok(Self::SubdomainOfUsers(format!("{prefix}.")))
            }
            Some(_) => Err(invalid()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn has(hosts: &str, user: &str, jid: &str) -> bool {
        hosts.parse::<HostPatterns>().unwrap().has(&BareJid::new(user).unwrap(), &BareJid::new(jid).unwrap())
    }

    #[test]
    fn a_pattern_with_host_matches_a_subdomain_of_the_users_own_domain() {
        assert!(has("Push.@HOST@", "bob@example.com", "push.example.com"));
        assert!(has("push.@HOST@", "bob@example.com", "any@push.example.com"));
        assert!(!has("push.@HOST@", "bob@example.com", "push.example.org"));
        assert!(!has("push.@HOST@", "bob@example.com", "push.sub.example.com"));
        assert!(!has("push.@HOST@", "bob@example.com", "pushexample.com"));
    }

    #[test]
    fn a_pattern_without_host_is_a_domain_for_all() {
        assert!(has("a.example, virtual.domain", "bob@example.com", "virtual.domain"));
        assert!(!has("virtual.domain", "bob@example.com", "sub.virtual.domain"));
        assert!(
            !HostPatterns::default()
                .has(&BareJid::new("bob@example.com").unwrap(), &BareJid::new("virtual.domain").unwrap())
        );
    }

    #[test]
    fn a_pattern_that_cannot_match_is_refused() {
        let of_users = ["@HOST@", "push@HOST@", "@HOST@.push", "push.@HOST@.x", ".@HOST@", "push.@HOSTS@", "*.@HOST@"];
        let fixed =
            ["https://push.example.com", "bob@example.com", "*.example.com", ".example.com", "a..b", "a b", "a;b"];
        for pattern in of_users.into_iter().chain(fixed).chain(["", "a,,b", "a,"]) {
            assert!(pattern.parse::<HostPatterns>().is_err(), "{pattern}");
        }
        for host in ["localhost", "chat-1.example.com", "[2001:db8::1]", "192.0.2.1", "müller.example"] {
            assert!(host.parse::<HostPatterns>().is_ok(), "{host}");
        }
    }
}
