//! Patterns of JIDs in conditions.

use pushlark_xmpp::{Jid, JidError, parse_jid};
use serde::Deserialize;

/// The longest pattern, in bytes. A longer one matches no JID (RFC 7622, section 3.1).
const MAX_PATTERN_BYTES: usize = 3_071;

/// A pattern of JIDs, in which `*` stands for any characters: `example.com` for all JIDs of a domain, `*@example.com`
/// for bare JIDs, `books@muc.example.com/*` for full JIDs. It is normalised.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct JidPattern {
    scope: Scope,
    glob: String,
}

/// The part of a JID that a pattern is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Domain,
    Bare,
    Full,
}

/// A text that is not a pattern of JIDs. The operator must correct it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JidPatternError {
    /// It is longer than any JID.
    #[error("the pattern has {0} bytes, {MAX_PATTERN_BYTES} are allowed")]
    TooLong(usize),
    /// Without its asterisks it is not a JID.
    #[error("expected a JID, or a pattern such as *@example.com: {0}")]
    NotAJid(#[from] JidError),
}

impl JidPattern {
    /// Returns whether a JID matches. A pattern without a resource matches every resource.
    pub fn matches(&self, jid: &Jid) -> bool {
        match self.scope {
            Scope::Domain => is_match(&self.glob, jid.domain().as_str()),
            Scope::Bare => is_match(&self.glob, jid.to_bare().as_str()),
            Scope::Full => is_match(&self.glob, jid.as_str()),
        }
    }
}

impl TryFrom<String> for JidPattern {
    type Error = JidPatternError;

    fn try_from(text: String) -> Result<Self, JidPatternError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(JidPatternError::TooLong(text.len()));
        }
        let scope = match (text.contains('/'), text.contains('@')) {
            (true, _) => Scope::Full,
            (false, true) => Scope::Bare,
            (false, false) => Scope::Domain,
        };
        if !text.contains('*') {
            return Ok(Self { scope, glob: parse_jid(&text)?.to_string() });
        }
        parse_jid(&text.replace('*', "x"))?;
        // Localparts and domains are in lower case, resources keep their case.
        let (bare, resource) = text.split_at(text.find('/').unwrap_or(text.len()));
        Ok(Self { scope, glob: [&bare.to_lowercase(), resource].concat() })
    }
}

/// Returns whether a text matches a glob, in which `*` stands for any characters.
fn is_match(glob: &str, text: &str) -> bool {
    let Some((start, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts = rest.split('*');
    let end = parts.next_back().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Result<JidPattern, JidPatternError> {
        JidPattern::try_from(text.to_owned())
    }

    #[test]
    fn a_pattern_matches_a_domain_a_bare_jid_or_a_full_jid() {
        for (text, jid, expected) in [
            ("example.com", "example.com", true),
            ("example.com", "alice@example.com/pc", true),
            ("Example.COM.", "alice@example.com/pc", true),
            ("example.com", "alice@sub.example.com", false),
            ("*.example.com", "alice@sub.example.com", true),
            ("*.example.com", "alice@example.com", false),
            ("*", "alice@example.com", true),
            ("alice@example.com", "alice@example.com/pc", true),
            ("ALICE@example.com", "alice@example.com", true),
            ("alice@example.com", "bob@example.com", false),
            ("*@example.com", "alice@example.com/pc", true),
            ("*@example.com", "example.com", false),
            ("*@*", "alice@example.com", true),
            ("Support-*@*.example.com", "support-1@eu.example.com", true),
            ("support-*@*.example.com", "support-1@example.org", false),
            ("a*b*c@example.com", "aXbYbZc@example.com", true),
            ("a*b*c@example.com", "ac@example.com", false),
            ("ab*ba@example.com", "aba@example.com", false),
            ("books@muc.example.com", "books@muc.example.com/alice", true),
            ("books@muc.example.com/Alice", "books@muc.example.com/Alice", true),
            ("books@muc.example.com/alice", "books@muc.example.com/Alice", false),
            ("books@muc.example.com/*", "books@muc.example.com", false),
            ("*@muc.example.com/Al*", "books@muc.example.com/Alice", true),
            ("*@bücher.example", "alice@BÜCHER.example", true),
            ("straße@example.com", "STRASSE@example.com", true),
            ("*@example.com", "d\\27artagnan@example.com", true),
        ] {
            let jid = parse_jid(jid).unwrap();
            assert_eq!(pattern(text).unwrap().matches(&jid), expected, "{text} {jid}");
        }
    }

    #[test]
    fn a_text_that_matches_no_jid_is_refused() {
        for text in ["", "@example.com", "alice@", "a b@example.com", "*@", "example.com/", "*@a@b"] {
            assert!(matches!(pattern(text), Err(JidPatternError::NotAJid(_))), "{text:?}");
        }
        assert_eq!(pattern(&"*".repeat(4_000)), Err(JidPatternError::TooLong(4_000)));
    }
}
