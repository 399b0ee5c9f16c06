//! JIDs as they come from outside.

use jid::{Error, Jid};

/// What is wrong with a JID; the sender's to mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJid {
    /// It is no JID (RFC 6122).
    #[error("not a JID: {0}")]
    Malformed(#[from] Error),
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
    }?;
    match Jid::new(jid.as_str()) {
        Ok(again) if again == jid && !jid.domain().as_str().ends_with('.') => Ok(jid),
        _ => Err(InvalidJid::Unstable),
    }
}
