//! JIDs with a resource, and the reading of JIDs from untrusted input.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use jid::{BareJid, DomainRef, Error, NodeRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use stringprep::tables;
use unicode_normalization::UnicodeNormalization;

/// The most bytes of a resource (RFC 7622, section 3.4).
const MAX_RESOURCE_BYTES: usize = 1023;

/// A text that is not a JID. The sender must correct it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JidError {
    /// The text is not a JID (RFC 6122).
    #[error("not a JID: {0}")]
    Malformed(#[from] Error),
    /// Normalising the normal form changes it, so two spellings of one JID would be two users.
    #[error("not a JID: it has characters that are normalised to others that are not allowed")]
    Unstable,
}

/// A JID with or without a resource, in normal form.
///
/// The resource of [`jid::Jid`] has only characters of Unicode 3.2, so that the nickname of a room's occupant can have no
/// emoji. This one has the characters that chat servers accept: resourceprep for queries, which allows the code points
/// that Unicode has assigned since (RFC 3454, section 7), in any direction (RFC 7622, section 3.4).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Jid {
    bare: BareJid,
    /// The text with the resource, if there is one.
    full: Option<String>,
}

/// A JID with a resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FullJid(Jid);

/// Parses and normalises a JID. A trailing dot of the domain is removed (RFC 7622, section 3.2).
pub fn parse_jid(text: &str) -> Result<Jid, JidError> {
    let (text, resource) = match text.split_once('/') {
        Some((bare, resource)) => (bare, Some(resource)),
        None => (text, None),
    };
    let bare = BareJid::new(text.strip_suffix('.').unwrap_or(text))?;
    match BareJid::new(bare.as_str()) {
        Ok(again) if again == bare && !bare.domain().as_str().ends_with('.') => {}
        _ => return Err(JidError::Unstable),
    }
    match resource {
        Some(resource) => Ok(FullJid::new(&bare, resource)?.0),
        None => Ok(bare.into()),
    }
}

/// Returns the normal form of a resource.
fn prepared(resource: &str) -> Result<String, JidError> {
    if resource.chars().all(|c| matches!(c, ' '..='~')) {
        return Ok(resource.to_owned());
    }
    let normal =
        |text: &str| -> String { text.chars().filter(|c| !tables::commonly_mapped_to_nothing(*c)).nfkc().collect() };
    let prepared = normal(resource);
    // The tables C.1.2 to C.9 (RFC 3920, appendix B.5).
    let is_prohibited = |c| {
        tables::non_ascii_space_character(c)
            || tables::ascii_control_character(c)
            || tables::non_ascii_control_character(c)
            || tables::private_use(c)
            || tables::non_character_code_point(c)
            || tables::inappropriate_for_plain_text(c)
            || tables::inappropriate_for_canonical_representation(c)
            || tables::change_display_properties_or_deprecated(c)
            || tables::tagging_character(c)
    };
    if prepared.chars().any(is_prohibited) {
        return Err(Error::ResourcePrep.into());
    }
    if normal(&prepared) != prepared {
        return Err(JidError::Unstable);
    }
    Ok(prepared)
}

impl Jid {
    /// Returns the local part.
    pub fn node(&self) -> Option<&NodeRef> {
        self.bare.node()
    }

    /// Returns the domain.
    pub fn domain(&self) -> &DomainRef {
        self.bare.domain()
    }

    /// Returns the resource.
    pub fn resource(&self) -> Option<&str> {
        self.full.as_ref().map(|full| &full[self.bare.as_str().len() + 1..])
    }

    /// Returns whether there is a resource.
    pub fn is_full(&self) -> bool {
        self.full.is_some()
    }

    /// Returns whether there is no resource.
    pub fn is_bare(&self) -> bool {
        self.full.is_none()
    }

    /// Returns the JID without its resource.
    pub fn to_bare(&self) -> BareJid {
        self.bare.clone()
    }

    /// Removes the resource.
    pub fn into_bare(self) -> BareJid {
        self.bare
    }

    /// Returns the JID if it has a resource, otherwise the bare JID.
    pub fn try_into_full(self) -> Result<FullJid, BareJid> {
        if self.is_full() { Ok(FullJid(self)) } else { Err(self.bare) }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        self.full.as_deref().unwrap_or_else(|| self.bare.as_str())
    }
}

impl FullJid {
    /// Adds a resource to a bare JID, in its normal form.
    pub fn new(bare: &BareJid, resource: &str) -> Result<Self, JidError> {
        let resource = prepared(resource)?;
        match resource.len() {
            0 => Err(Error::ResourceEmpty.into()),
            1..=MAX_RESOURCE_BYTES => Ok(Self(Jid { full: Some(format!("{bare}/{resource}")), bare: bare.clone() })),
            _ => Err(Error::ResourceTooLong.into()),
        }
    }
}

impl Deref for FullJid {
    type Target = Jid;

    fn deref(&self) -> &Jid {
        &self.0
    }
}

impl From<BareJid> for Jid {
    fn from(bare: BareJid) -> Self {
        Self { bare, full: None }
    }
}

impl From<FullJid> for Jid {
    fn from(FullJid(jid): FullJid) -> Self {
        jid
    }
}

impl PartialEq<BareJid> for Jid {
    fn eq(&self, bare: &BareJid) -> bool {
        self.is_bare() && self.bare == *bare
    }
}

impl PartialEq<Jid> for BareJid {
    fn eq(&self, jid: &Jid) -> bool {
        jid == self
    }
}

impl FromStr for Jid {
    type Err = JidError;

    fn from_str(text: &str) -> Result<Self, JidError> {
        parse_jid(text)
    }
}

impl FromStr for FullJid {
    type Err = JidError;

    fn from_str(text: &str) -> Result<Self, JidError> {
        parse_jid(text)?.try_into_full().map_err(|_| Error::ResourceMissingInFullJid.into())
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for Jid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Jid").field(&self.as_str()).finish()
    }
}

impl fmt::Display for FullJid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl fmt::Debug for FullJid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("FullJid").field(&self.as_str()).finish()
    }
}

impl Serialize for Jid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for FullJid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Jid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl<'de> Deserialize<'de> for FullJid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = JidError>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_has_characters_of_any_version_of_unicode_in_any_direction() {
        for resource in ["Alice 🐦", "\u{1fae0}", "ẞ", "ꙮ", "אa", "1א", "a/b@c", "."] {
            let jid = parse_jid(&format!("room@muc.example.com/{resource}")).unwrap();
            assert_eq!((jid.resource(), jid.is_full()), (Some(resource), true));
            assert_eq!(jid.to_string(), format!("room@muc.example.com/{resource}"));
            assert_eq!(parse_jid(jid.as_str()).unwrap(), jid);
        }
    }

    #[test]
    fn a_resource_is_normalised_and_keeps_its_case() {
        for (resource, normal) in
            [("\u{fb01}", "fi"), ("a\u{ad}b", "ab"), ("👩\u{200d}💻\u{fe0f}", "👩💻"), ("Ⅳ🐦", "IV🐦"), ("Bob", "Bob")]
        {
            let jid = parse_jid(&format!("Bob@Example.com./{resource}")).unwrap();
            assert_eq!(jid.as_str(), format!("bob@example.com/{normal}"));
        }
    }

    #[test]
    fn a_text_that_is_not_a_jid_is_refused() {
        let long = "🐦".repeat(256);
        for resource in ["", "\u{ad}", "a\u{7f}", "a\nb", "\u{202e}txt", "\u{e000}", "\u{fffd}", "a\u{1680}", &long] {
            assert!(parse_jid(&format!("a@b/{resource}")).is_err(), "{resource:?}");
        }
        for text in ["", "/a", "@b/c", "a@/c", "a@b@c/d", "🐦@b"] {
            assert!(parse_jid(text).is_err(), "{text}");
        }
        assert_eq!("a@b".parse::<FullJid>(), Err(Error::ResourceMissingInFullJid.into()));
    }

    #[test]
    fn a_jid_without_a_resource_equals_its_bare_jid() {
        let (bare, full) = (parse_jid("a@b").unwrap(), parse_jid("a@b/c").unwrap());
        assert!(bare == full.to_bare() && full != bare.to_bare());
        assert!(full.clone().try_into_full().is_ok() && bare.try_into_full().is_err());
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Jid>(&json).unwrap(), full);
        assert!(serde_json::from_str::<FullJid>("\"a@b\"").is_err());
    }
}
