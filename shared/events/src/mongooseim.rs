//! The JSON of MongooseIM's `mod_event_pusher_sns` and `mod_event_pusher_rabbit`: messages and presence.

use pushlark_model::{Activity, Availability};
use pushlark_settings::HostPatterns;
use pushlark_xmpp::{BareJid, Message, MessageType};
use serde::Deserialize;
use serde_json::Value;

use crate::event::{Arrival, Effect, Recipients, Reported, WebhookEvent, message, new_id};
use crate::jid_fields::{bare, check_user, jid};

/// The direction of a message. The JSON has the same fields for all directions.
#[derive(Debug, Clone, Copy)]
pub enum Direction<'h> {
    /// To a user, from another user.
    Private,
    /// To a user, from an occupant of a room.
    FromRoom,
    /// From a user, at the time of sending. The recipient has a separate event.
    Sent,
    /// To a room. Only the room knows its occupants.
    ToRoom,
    /// Decided by the hosts of rooms, if these are configured.
    ByHosts(&'h Option<HostPatterns>),
}

#[derive(Deserialize)]
struct MongooseImEvent {
    user_id: Option<String>,
    present: Option<bool>,
    from_user_id: Option<String>,
    to_user_id: Option<String>,
    message: Option<String>,
}

/// A delivery in the format of RabbitMQ's consumers, or of its management API, where the body is `payload`.
#[derive(Deserialize)]
struct RabbitMqDelivery {
    routing_key: String,
    #[serde(alias = "payload")]
    body: Value,
}

/// Reads `{"user_id", "present"}`, or `{"from_user_id", "to_user_id", "message"}` with its direction.
pub fn read(json: &str, direction: Direction<'_>, arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
    let fields: MongooseImEvent = pushlark_json::read_json(json.as_bytes())?;
    let id = arrival.id.clone();
    if fields.user_id.is_some() {
        let session = jid("user_id", fields.user_id.as_deref())?;
        check_user("user_id", &session.to_bare())?;
        let availability = match fields.present.ok_or("present is missing")? {
            true => Availability::Online(Activity::default()),
            false => Availability::Offline,
        };
        let effect = Effect::Presence(session, availability);
        let (id, at) = (id.unwrap_or_else(new_id), arrival.happened(None));
        return Ok(WebhookEvent { id, at, effect, read_marks: Vec::new(), message: None });
    }
    let from = jid("from_user_id", fields.from_user_id.as_deref())?;
    let to = bare("to_user_id", fields.to_user_id.as_deref())?;
    let text = fields.message.ok_or("message is missing")?;
    let direction = direction.resolve(&from.to_bare(), &to)?;
    let kind = match direction {
        Direction::FromRoom | Direction::ToRoom => MessageType::Groupchat,
        _ => MessageType::Chat,
    };
    let stanza = Message::with_body(kind, &text);
    let domain = to.domain().to_owned();
    let event = message(id, None, from, Recipients::Users(vec![to]), stanza, Reported::default(), arrival)?;
    Ok(match direction {
        Direction::Sent | Direction::ToRoom => WebhookEvent { effect: Effect::None(vec![domain]), ..event },
        _ => event,
    })
}

/// Reads a delivery. The last part of its routing key gives the direction, if it is a default topic of MongooseIM.
pub fn read_delivery(json: &str, arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
    let delivery: RabbitMqDelivery = pushlark_json::read_json(json.as_bytes())?;
    let direction = match delivery.routing_key.rsplit('.').next() {
        Some("chat_msg_recv") => Direction::Private,
        Some("groupchat_msg_recv") => Direction::FromRoom,
        Some("chat_msg_sent") => Direction::Sent,
        Some("groupchat_msg_sent") => Direction::ToRoom,
        _ => Direction::ByHosts(&arrival.sources.rooms.muc),
    };
    let body = match delivery.body {
        Value::String(body) => body,
        body => body.to_string(),
    };
    read(&body, direction, arrival).map_err(|error| format!("body: {error}"))
}

impl Direction<'_> {
    fn resolve(self, from: &BareJid, to: &BareJid) -> Result<Self, String> {
        match self {
            Self::ByHosts(Some(rooms)) if rooms.has(to, from) => Ok(Self::FromRoom),
            Self::ByHosts(Some(rooms)) if rooms.has(from, to) => Ok(Self::ToRoom),
            Self::ByHosts(Some(_)) => Ok(Self::Private),
            Self::ByHosts(None) => Err("a private message and a group message look the same: expected a topic of \
                                        SNS (SNS_PM_TOPIC, SNS_MUC_TOPIC), a routing_key of RabbitMQ, or the \
                                        setting MUC_HOSTS"
                .into()),
            known => Ok(known),
        }
    }
}
