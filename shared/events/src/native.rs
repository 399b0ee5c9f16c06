//! Native events: the JSON of `docs/webhooks.md`.

use std::fmt;

use pushlark_model::{Activity, Availability, ClientState};
use pushlark_queue::{MessageContext, ReportedRecipient, WorkKind};
use pushlark_xmpp::{Element, Message, MessageType, is_xml_text, parse_jid};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use time::OffsetDateTime;

use crate::event::{Arrival, Effect, ReadMark, Recipients, Reported, WebhookEvent, message, new_id, subscription};
use crate::jid_fields::{bare, check_user, full, jid, user};

/// The most characters of a name. The rest is cut off.
const MAX_NAME_CHARS: usize = 256;

/// The fields of all types of native events. One struct holds them, so that an error can name the field.
#[derive(Debug, Deserialize)]
pub struct NativeEvent {
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
    #[serde(default, deserialize_with = "reported_recipient")]
    recipient: Option<ReportedRecipient>,
    sender_name: Option<String>,
    room_name: Option<String>,
    jid: Option<String>,
    status: Option<String>,
    client_state: Option<ClientState>,
    show: Option<String>,
    domain: Option<String>,
    conversation: Option<String>,
    message: Option<String>,
}

/// Reads a native event from one JSON object. The error names the field.
pub fn read_event(json: &[u8], arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
    NativeEvent::parse(json)?.read(arrival)
}

impl NativeEvent {
    /// Parses a JSON object with the fields of a native event, each of which may be missing.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        pushlark_json::read_json(json)
    }

    /// Returns whether the field `type` is present. Without it, the document may have another format.
    pub fn has_type(&self) -> bool {
        self.r#type.is_some()
    }

    /// Reads the event, by its type.
    pub fn read(self, arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
        let kind = self.r#type.as_deref().ok_or("type is missing")?;
        let at = arrival.happened(self.at);
        let id = arrival.named(self.id.clone())?;
        let effect = match kind {
            kind @ ("message" | "unacknowledged") => {
                let stanza = self.message()?;
                let from = jid("from", self.from.as_deref().or(stanza.element().attribute("from")))?;
                let to = self.to.clone().or_else(|| Some(vec![stanza.element().attribute("to")?.to_owned()]));
                let to = recipients(kind, &to.ok_or("to is missing")?)?;
                let recipient = self.recipient.unwrap_or_default();
                let [sender_name, room_name] =
                    [&self.sender_name, &self.room_name].map(|name| name_for_people(name.as_deref()?));
                let context = MessageContext { sender_name, room_name, ..MessageContext::default() };
                let reported = Reported { recipient, context };
                return message(id, self.at, from, to, stanza, reported, arrival);
            }
            "subscription" => {
                let from = bare("from", self.from.as_deref())?;
                let to = match self.to.as_deref() {
                    Some([to]) => bare("to", Some(to))?,
                    Some(_) => return Err("to: a contact request is to one user".into()),
                    None => return Err("to is missing".into()),
                };
                return Ok(subscription(at, from, to, self.recipient.unwrap_or_default(), arrival.sources));
            }
            "presence" => {
                let is_away = match self.show.as_deref() {
                    None | Some("chat") => false,
                    Some("away" | "xa" | "dnd") => true,
                    Some(other) => return Err(format!("show: {other:?} is not one of away, chat, dnd and xa")),
                };
                let availability = match self.status.as_deref() {
                    Some("online") => {
                        let client_state = self.client_state.unwrap_or_default();
                        Availability::Online(Activity { client_state, is_away })
                    }
                    Some("offline") => Availability::Offline,
                    Some(other) => return Err(format!("status: {other:?} is neither \"online\" nor \"offline\"")),
                    None => return Err("status is missing".into()),
                };
                let session = full("jid", self.jid.as_deref())?;
                check_user("jid", &session.to_bare())?;
                Effect::Presence(session.into(), availability)
            }
            "read" => {
                let user = user("jid", self.jid.as_deref())?;
                let conversation = bare("conversation", self.conversation.as_deref())?;
                if self.message.as_deref() == Some("") {
                    return Err("message is empty".into());
                }
                Effect::Read(ReadMark { user, conversation, message: self.message.clone() })
            }
            "user_removed" => Effect::Queue(WorkKind::UserRemoved { jid: user("jid", self.jid.as_deref())? }),
            "domain_removed" => {
                let domain = self.domain.as_deref().ok_or("domain is missing")?;
                let jid = parse_jid(domain).map_err(|error| format!("domain: {domain:?} is {error}"))?;
                if jid.node().is_some() || jid.is_full() {
                    return Err(format!("domain: {domain:?} must be a domain, without a localpart or a resource"));
                }
                Effect::Queue(WorkKind::DomainRemoved { domain: jid.domain().to_owned() })
            }
            other => {
                return Err(format!(
                    "type: {other:?} is not supported, use message, unacknowledged, subscription, presence, read, \
                     user_removed or domain_removed"
                ));
            }
        };
        Ok(WebhookEvent { id: id.unwrap_or_else(new_id), at, effect, read_marks: Vec::new(), message: None })
    }

    fn message(&self) -> Result<Message, String> {
        match (&self.stanza, self.chat.as_deref(), &self.body) {
            (Some(stanza), None, None) => {
                let element = Element::parse(stanza).map_err(|error| format!("stanza: {error}"))?;
                Message::from_element(element).map_err(|error| format!("stanza: {error}"))
            }
            (Some(_), _, _) => Err("stanza cannot be combined with chat and body".into()),
            (None, None, None) => Err("stanza is missing (or chat and body instead of it)".into()),
            (None, None, Some(_)) => Err("chat is missing".into()),
            (None, Some(_), None) => Err("body is missing".into()),
            (None, Some("chat"), Some(body)) => Ok(Message::with_body(MessageType::Chat, body)),
            (None, Some("groupchat"), Some(body)) => Ok(Message::with_body(MessageType::Groupchat, body)),
            (None, Some("normal"), Some(body)) => Ok(Message::with_body(MessageType::Normal, body)),
            (None, Some(other), Some(_)) => {
                Err(format!("chat: {other:?} is not supported, use chat, groupchat or normal"))
            }
        }
    }
}

fn recipients(kind: &str, to: &[String]) -> Result<Recipients, String> {
    if to.is_empty() {
        return Err("to is empty".into());
    }
    Ok(if kind == "message" {
        Recipients::Users(to.iter().map(|to| bare("to", Some(to))).collect::<Result<_, _>>()?)
    } else {
        Recipients::Sessions(to.iter().map(|to| full("to", Some(to))).collect::<Result<_, _>>()?)
    })
}

/// Returns a name on one line: each run of white space and of characters that a line cannot have becomes one space.
fn name_for_people(name: &str) -> Option<String> {
    let is_separator = |c: char| c.is_whitespace() || c.is_control() || !is_xml_text(c.encode_utf8(&mut [0; 4]));
    let words: Vec<&str> = name.split(is_separator).filter(|word| !word.is_empty()).collect();
    let name: String = words.join(" ").chars().take(MAX_NAME_CHARS).collect();
    (!name.is_empty()).then(|| name.trim_end().to_owned())
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

/// Accepts only an object. Serde alone also accepts an array with the fields in their order.
fn reported_recipient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ReportedRecipient>, D::Error> {
    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = Option<ReportedRecipient>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            ReportedRecipient::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Object)
}
