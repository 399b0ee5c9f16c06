//! The form of MongooseIM's `mod_event_pusher_http`: one message that a user of its server sent to another.

use std::borrow::Cow;
use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use pushlark_xmpp::{BareJid, DomainPart, Jid, Message, MessageType, NodePart, parse_jid};

use crate::event::{Arrival, Recipients, Reported, WebhookEvent, message};

/// Reads the fields `author`, `server`, `receiver` and `message`. Other fields are ignored.
pub fn read(form: &str, arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
    let fields = fields(form)?;
    let field = |name: &str| fields.get(name).map(AsRef::as_ref).ok_or_else(|| format!("{name} is missing"));
    let server = DomainPart::new(field("server")?).map_err(|error| format!("server: {error}"))?;
    let user = |name| {
        let localpart = NodePart::new(field(name)?).map_err(|error| format!("{name}: {error}"))?;
        let jid = parse_jid(BareJid::from_parts(Some(&localpart), &server).as_str());
        jid.map(Jid::into_bare).map_err(|error| format!("{name} or server: {error}"))
    };
    let (author, receiver, body) = (user("author")?, user("receiver")?, field("message")?);
    let stanza = Message::with_body(MessageType::Chat, body);
    message(
        arrival.id.clone(),
        None,
        author.into(),
        Recipients::Users(vec![receiver]),
        stanza,
        Reported::default(),
        arrival,
    )
}

/// Decodes `application/x-www-form-urlencoded`. Bytes that are not UTF-8 are an error.
fn fields(form: &str) -> Result<HashMap<Cow<'_, str>, Cow<'_, str>>, String> {
    let mut fields = HashMap::new();
    for pair in form.trim_end_matches(['\r', '\n']).split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name).ok_or("a field's name is not UTF-8")?;
        let value = decode(value).ok_or_else(|| format!("{name} is not UTF-8"))?;
        if fields.contains_key(&name) {
            return Err(format!("{name} is given twice"));
        }
        fields.insert(name, value);
    }
    Ok(fields)
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Some(Cow::Owned(percent_decode_str(&spaced).decode_utf8().ok()?.into_owned()));
    }
    percent_decode_str(text).decode_utf8().ok()
}
