//! Pushlark's own events, as JSON.

use std::fmt;

use pushlark_model::Availability;
use pushlark_queue::{Facts, Subject};
use pushlark_xmpp::{BareJid, Element, FullJid, Jid, Message, MessageType, parse_jid};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use time::OffsetDateTime;

use crate::event::{Arrival, Effect, Event, Reading, Recipients, message, new_id};
use crate::mongooseim;

/// An event as it came. One type for all kinds, so that an error can name the field.
#[derive(Debug, Deserialize)]
struct Fields {
    r#type: Option<String>,
    id: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    at: Option<OffsetDateTime>,
    from: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    to: Option<Vec<String>>,
    stanza: Option<String>,
    chat: Option<String>,
    body: Option<String>,
    #[serde(default, deserialize_with = "facts")]
    recipient: Option<Facts>,
    jid: Option<String>,
    status: Option<String>,
    domain: Option<String>,
    conversation: Option<String>,
}

/// What the other documents are known by that come as JSON. A native event has a type.
#[derive(Deserialize)]
struct Shape {
    r#type: Option<IgnoredAny>,
    routing_key: Option<IgnoredAny>,
    from_user_id: Option<IgnoredAny>,
    user_id: Option<IgnoredAny>,
}

/// Reads a JSON document that is an event, or what MongooseIM tells by other ways.
pub fn read_json(json: &str, arrival: &Arrival<'_>) -> Result<Event, String> {
    let fields = match pushlark_json::read_json::<Fields>(json.as_bytes()) {
        Ok(fields) if fields.r#type.is_some() => return event(fields, arrival),
        fields => fields,
    };
    match serde_json::from_str(json) {
        Ok(Shape { r#type: None, routing_key: Some(_), .. }) => mongooseim::read_delivery(json, arrival),
        Ok(Shape { r#type: None, from_user_id, user_id, .. }) if from_user_id.is_some() || user_id.is_some() => {
            mongooseim::read(json, mongooseim::Direction::ByHosts(&arrival.sources.muc_hosts), arrival)
        }
        _ => Err(fields.err().unwrap_or_else(|| {
            "type is missing; without it, expected a delivery of RabbitMQ with routing_key and body, or MongooseIM's \
             from_user_id, to_user_id and message, or user_id and present"
                .into()
        })),
    }
}

/// Reads an event of Pushlark's own.
pub fn read_event(json: &[u8], arrival: &Arrival<'_>) -> Result<Event, String> {
    event(pushlark_json::read_json(json)?, arrival)
}

fn event(fields: Fields, arrival: &Arrival<'_>) -> Result<Event, String> {
    let kind = fields.r#type.as_deref().ok_or("type is missing")?;
    let at = arrival.happened(fields.at);
    let id = arrival.named(fields.id.clone())?;
    let effect = match kind {
        kind @ ("message" | "unacknowledged") => {
            let stanza = fields.message()?;
            let from = jid("from", fields.from.as_deref().or(stanza.element().attribute("from")))?;
            let to = fields.to.clone().or_else(|| Some(vec![stanza.element().attribute("to")?.to_owned()]));
            let to = recipients(kind, &to.ok_or("to is missing")?)?;
            return message(id, at, from, to, &stanza, fields.recipient.unwrap_or_default(), arrival.sources);
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
            Effect::Presence(session.into(), availability)
        }
        "read" => {
            let user = user("jid", fields.jid.as_deref())?;
            Effect::Read(Reading { user, conversation: bare("conversation", fields.conversation.as_deref())? })
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
    Ok(Event { id: id.unwrap_or_else(new_id), at, effect, reading: None })
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

pub fn jid(field: &str, jid: Option<&str>) -> Result<Jid, String> {
    let jid = jid.ok_or_else(|| format!("{field} is missing"))?;
    parse_jid(jid).map_err(|error| format!("{field}: {jid:?} is {error}"))
}

pub fn bare(field: &str, bare: Option<&str>) -> Result<BareJid, String> {
    jid(field, bare).map(Jid::into_bare)
}

fn user(field: &str, user: Option<&str>) -> Result<BareJid, String> {
    let user = bare(field, user)?;
    check_user(field, &user)?;
    Ok(user)
}

pub fn check_user(field: &str, jid: &Jid) -> Result<(), String> {
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

/// An array would do for serde: its elements for the fields in their order.
fn facts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Facts>, D::Error> {
    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = Option<Facts>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Facts::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Object)
}
