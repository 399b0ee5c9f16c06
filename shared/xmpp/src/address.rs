//! JIDs as they come from outside.

use jid::{Error, Jid};

/// What is wrong with a JID; the sender's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJid {
    /// It is no JID (RFC 6122).
    #[error("not a JID: {0}")]
    Malformed(&'static str),
    /// Its normal form is not normal: two ways to write it would be two users.
    #[error("not a JID: it has characters that are normalised to others that are not allowed")]
    Unstable,
}

/// Reads and normalises a JID. One final dot of the domain is dropped, as RFC 7622, section 3.2 has it.
pub fn parse_jid(text: &str) -> Result<Jid, InvalidJid> {
    let bare_length = text.find('/').unwrap_or(text.len());
    let (bare, resource) = text.split_at(bare_length);
    let jid = match bare.strip_suffix('.') {
        Some(bare) => Jid::new(&[bare, resource].concat()),
        None => Jid::new(text),
    };
    let jid = jid.map_err(|error| InvalidJid::Malformed(describe(&error)))?;
    match Jid::new(jid.as_str()) {
        Ok(again) if again == jid && !jid.domain().as_str().ends_with('.') => Ok(jid),
        _ => Err(InvalidJid::Unstable),
    }
}

fn describe(error: &Error) -> &'static str {
    match error {
        Error::NodeEmpty => "nothing stands before the @",
        Error::ResourceEmpty => "nothing stands behind the /",
        Error::NodeTooLong => "the localpart is longer than 1,023 bytes",
        Error::ResourceTooLong => "the resource is longer than 1,023 bytes",
        Error::NodePrep => "the localpart has characters that nodeprep does not allow",
        Error::NamePrep | Error::Idna => "the domain is not a domain name",
        Error::ResourcePrep => "the resource has characters that resourceprep does not allow",
        Error::ResourceMissingInFullJid => "it has no resource",
        Error::ResourceInBareJid => "it has a resource",
        Error::TooManyAts => "it has a second @",
    }
}
