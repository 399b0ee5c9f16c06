//! All data of one user, for the person who asks for it.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use pushlark_settings::parse_host;
use pushlark_xmpp::{BareJid, DomainPart, parse_jid};
use serde_json::{Value, json};

use crate::output::{Format, print_json, tell};
use crate::private_file;
use crate::stack::Stack;

/// Reads a user in an argument: a bare JID, or the bare JID of a session.
pub fn parse_user(text: &str) -> Result<BareJid, String> {
    let jid = parse_jid(text).map_err(|error| error.to_string())?;
    if jid.node().is_none() {
        return Err("expected a user, such as bob@example.com".into());
    }
    Ok(jid.into_bare())
}

/// Reads a domain in an argument.
pub fn parse_domain(text: &str) -> Result<DomainPart, String> {
    parse_host(text).ok_or_else(|| "expected a domain, such as example.com".into())
}

/// Writes all data of a user as JSON, with the tokens and keys of devices: to a new file that only its owner can read,
/// or to standard output. With a file, the answer in JSON is the number of items.
pub async fn export(stack: &Stack, user: &BareJid, output: Option<&Path>, format: Format) -> anyhow::Result<()> {
    let items = stack.store().await?.personal_items(user).await?;
    let items: Vec<Value> =
        items.iter().map(|item| json!({"kind": item.kind.as_str(), "item": item.to_json()})).collect();
    let document = json!({"user": user.as_str(), "items": items});
    if let Some(path) = output {
        let file = private_file::create_new(path);
        let mut file = file.with_context(|| format!("{} cannot be created", path.display()))?;
        let written = writeln!(file, "{document:#}").and_then(|()| file.sync_all());
        // A part of an export would block the next attempt.
        written.inspect_err(|_| drop(fs::remove_file(path)))?;
        if format == Format::Json {
            return print_json(&json!({"user": user.as_str(), "exported": items.len()}));
        }
        tell(format!("{} items are in {}", items.len(), path.display()));
        return Ok(());
    }
    if io::stdout().is_terminal() {
        tell("This has the tokens and keys of the user's devices. Whoever has them can notify the devices.");
    }
    print_json(&document)
}
