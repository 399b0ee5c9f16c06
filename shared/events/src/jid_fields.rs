//! Fields that hold JIDs, in JSON and forms.

use pushlark_xmpp::{BareJid, FullJid, Jid, parse_jid};

/// Reads a field that must be present and hold a JID. The error names the field.
pub fn jid(field: &str, jid: Option<&str>) -> Result<Jid, String> {
    let jid = jid.ok_or_else(|| format!("{field} is missing"))?;
    parse_jid(jid).map_err(|error| format!("{field}: {jid:?} is {error}"))
}

/// Reads a field as [`jid`] does, and removes the resource.
pub fn bare(field: &str, bare: Option<&str>) -> Result<BareJid, String> {
    jid(field, bare).map(Jid::into_bare)
}

/// Reads a field as [`bare`] does. The JID must have a localpart.
pub fn user(field: &str, user: Option<&str>) -> Result<BareJid, String> {
    let user = bare(field, user)?;
    check_user(field, &user)?;
    Ok(user)
}

/// Returns an error for a JID without a localpart, such as the address of a server.
pub fn check_user(field: &str, jid: &BareJid) -> Result<(), String> {
    match jid.node() {
        Some(_) => Ok(()),
        None => Err(format!("{field}: \"{}\" has no localpart, so it is not a user", jid)),
    }
}

/// Reads a field as [`jid`] does. The JID must have a resource.
pub fn full(field: &str, full: Option<&str>) -> Result<FullJid, String> {
    jid(field, full)?.try_into_full().map_err(|bare| format!("{field}: \"{bare}\" must have a resource"))
}
