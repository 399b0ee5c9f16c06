//! Pushlark's own events, as JSON.

use std::fmt;

use pushlark_http::read_json;
use pushlark_queue::{Facts, Subject};
use pushlark_store::Availability;
use pushlark_xmpp::{BareJid, Element, FullJid, Jid, Message, MessageType, is_xml_text, parse_jid};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::event::{Effect, Event, Reading, Recipients, check_id, happened, message, new_id};

/// An event as it came. One type for all kinds, so that an error can name the field.
#[derive(Debug, Deserialize)]
struct Fields {
    r#type: String,
    id: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    at: Option<OffsetDateTime>,
    from: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    to: Option<Vec<String>>,
    stanza: Option<String>,
    chat: Option<String>,
    body: Option<String>,
    recipient: Option<Facts>,
    jid: Option<String>,
    status: Option<String>,
    domain: Option<String>,
    conversation: Option<String>,
}

/// Reads one event, or an array of them; the error is of the body as a whole.
pub fn read_json_body(body: &str, now: OffsetDateTime) -> Result<Vec<Result<Event, String>>, String> {
    if !body.trim_ascii_start().starts_with('[') {
        return Ok(vec![read_event(body.as_bytes(), now, 0)]);
    }
    let events: Vec<&RawValue> = serde_json::from_str(body).map_err(|error| error.to_string())?;
    Ok(events.iter().enumerate().map(|(index, event)| read_event(event.get().as_bytes(), now, index)).collect())
}

/// Reads an event a line.
pub fn read_json_lines(lines: &str, now: OffsetDateTime) -> Vec<Result<Event, String>> {
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    lines.enumerate().map(|(index, line)| read_event(line.as_bytes(), now, index)).collect()
}

/// Reads the event at `index` of those that arrived at `now`.
pub fn read_event(json: &[u8], now: OffsetDateTime, index: usize) -> Result<Event, String> {
    let fields: Fields = read_json(json)?;
    let at = happened(fields.at, now, index);
    let id = fields.id.clone().map(check_id).transpose()?;
    let mut reading = None;
    let effect = match fields.r#type.as_str() {
        kind @ ("message" | "unacknowledged") => {
            let stanza = fields.message()?;
            let from = jid("from", fields.from.as_deref().or(stanza.element().attribute("from")))?;
            let to = fields.to.clone().or_else(|| Some(vec![stanza.element().attribute("to")?.to_owned()]));
            let to = recipients(kind, &to.ok_or("to is missing")?)?;
            return message(id, at, from, to, &stanza, fields.recipient.unwrap_or_default());
        }
        "presence" => {
            let availability = match fields.status.as_deref() {
                Some("online") => Availability::Online,
                Some("offline") => Availability::Offline,
                Some(other) => return Err(format!("status: {other:?} is neither \"online\" nor \"offline\"")),
                None => return Err("status is missing".into()),
            };
            let session = full("jid", fields.jid.as_deref())?;
            check_user("jid", &session)?;
            Effect::Presence(session, availability)
        }
        "read" => {
            let user = user("jid", fields.jid.as_deref())?;
            let conversation = bare("conversation", fields.conversation.as_deref())?;
            reading = Some(Reading { user, conversation });
            Effect::None
        }
        "user_removed" => Effect::Queue(Subject::UserRemoved { jid: user("jid", fields.jid.as_deref())? }),
        "domain_removed" => {
            let domain = fields.domain.as_deref().ok_or("domain is missing")?;
            let jid = parse_jid(domain).map_err(|error| format!("domain: {domain:?} is {error}"))?;
            if jid.node().is_some() || jid.is_full() {
                return Err(format!("domain: {domain:?} is more than a domain"));
            }
            Effect::Queue(Subject::DomainRemoved { domain: jid.domain().to_owned() })
        }
        other => {
            return Err(format!(
                "type: {other:?} is not an event; message, unacknowledged, presence, read, user_removed and \
                 domain_removed are"
            ));
        }
    };
    Ok(Event { id: id.unwrap_or_else(new_id), at, effect, reading })
}

impl Fields {
    fn message(&self) -> Result<Message, String> {
        match (&self.stanza, self.chat.as_deref(), &self.body) {
            (Some(stanza), None, None) => {
                let element = Element::parse(stanza).map_err(|error| format!("stanza: {error}"))?;
                Message::from_element(element).map_err(|error| format!("stanza: {error}"))
            }
            (Some(_), _, _) => Err("stanza stands instead of chat and body, not beside them".into()),
            (None, None, None) => Err("stanza is missing (or chat and body in its place)".into()),
            (None, None, Some(_)) => Err("chat is missing".into()),
            (None, Some(_), None) => Err("body is missing".into()),
            (None, Some(_), Some(body)) if !is_xml_text(body) => {
                Err("body has a character that XML does not allow".into())
            }
            (None, Some("chat"), Some(body)) => Ok(Message::with_body(MessageType::Chat, body)),
            (None, Some("groupchat"), Some(body)) => Ok(Message::with_body(MessageType::Groupchat, body)),
            (None, Some(other), Some(_)) => Err(format!("chat: {other:?} is neither \"chat\" nor \"groupchat\"")),
        }
    }
}

fn recipients(kind: &str, to: &[String]) -> Result<Recipients, String> {
    if to.is_empty() {
        return Err("to names nobody".into());
    }
    Ok(if kind == "message" {
        Recipients::Users(to.iter().map(|to| bare("to", Some(to))).collect::<Result<_, _>>()?)
    } else {
        Recipients::Sessions(to.iter().map(|to| full("to", Some(to))).collect::<Result<_, _>>()?)
    })
}

fn jid(field: &str, jid: Option<&str>) -> Result<Jid, String> {
    let jid = jid.ok_or_else(|| format!("{field} is missing"))?;
    parse_jid(jid).map_err(|error| format!("{field}: {jid:?} is {error}"))
}

fn bare(field: &str, bare: Option<&str>) -> Result<BareJid, String> {
    jid(field, bare).map(Jid::into_bare)
}

fn user(field: &str, user: Option<&str>) -> Result<BareJid, String> {
    let user = bare(field, user)?;
    check_user(field, &user)?;
    Ok(user)
}

fn check_user(field: &str, jid: &Jid) -> Result<(), String> {
    match jid.node() {
        Some(_) => Ok(()),
        None => Err(format!("{field}: \"{}\" has no localpart, so it is not a user", jid.to_bare())),
    }
}

fn full(field: &str, full: Option<&str>) -> Result<FullJid, String> {
    jid(field, full)?.try_into_full().map_err(|bare| format!("{field}: \"{bare}\" must have a resource"))
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Option<Vec<String>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JID or an array of JIDs")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E>(self, one: &str) -> Result<Self::Value, E> {
            Ok(Some(vec![one.to_owned()]))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut many: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = many.next_element()? {
                all.push(one);
            }
            Ok(Some(all))
        }
    }

    deserializer.deserialize_any(OneOrMany)
}
