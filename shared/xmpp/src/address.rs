//! Reads JIDs from untrusted input.

use jid::{Error, Jid};

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

/// Parses and normalises a JID. A trailing dot of the domain is removed (RFC 7622, section 3.2).
pub fn parse_jid(text: &str) -> Result<Jid, JidError> {
    let bare_length = text.find('/').unwrap_or(text.len());
    let (bare, resource) = text.split_at(bare_length);
    let jid = match bare.strip_suffix('.') {
        Some(bare) => Jid::new(&[bare, resource].concat()),
        None => Jid::new(text),
    }?;
    match Jid::new(jid.as_str()) {
        Ok(again) if again == jid && !jid.domain().as_str().ends_with('.') => Ok(jid),
        _ => Err(JidError::Unstable),
    }
}
