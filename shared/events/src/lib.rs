//! Reads the events in the webhooks of chat servers, in all supported formats.

mod call_answer;
mod cloud_event;
mod delay;
mod displayed;
mod event;
mod form;
mod jid_fields;
mod mongooseim;
mod native;
mod plugin_events;
mod sns;
mod sources;
mod stanza;

pub use event::{Arrival, Effect, ReadMark, WebhookEvent};
pub use native::read_event;
pub use plugin_events::plugin_events;
pub use sources::{Sender, Sources};

use pushlark_http::{Media, Problem, Request, read_text};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use event::check_id;
use native::NativeEvent;

/// The header with the id of a webhook (Standard Webhooks 1.0), which becomes the id of its message.
const WEBHOOK_ID: &str = "webhook-id";

/// The most events of one request: for each, the table may be written to before the request is answered.
const MAX_EVENTS: usize = 1_000;

/// Reads all events of a request that arrived at `now`. Otherwise the problem lists each bad event (400), or each event
/// about a user for whom the caller does not speak (403).
pub fn read(request: &Request, sources: &Sources, now: OffsetDateTime) -> Result<Vec<WebhookEvent>, Problem> {
    let id = request.header(WEBHOOK_ID).map(|id| check_id(id.to_owned())).transpose();
    let id = id.map_err(|error| Problem::bad_request(format!("{WEBHOOK_ID}: {error}")))?;
    let first = Arrival { now, at: None, id, sources };
    let events = if !request.sns.is_empty() {
        request.sns.iter().map(|message| sns::read(message, &first)).collect()
    } else {
        match request.media {
            Media::Json => each(read_text(&request.body)?, &first, read_json)?,
            Media::JsonLines => {
                let lines = read_text(&request.body)?.lines().filter(|line| !line.trim().is_empty());
                check_number(lines.clone().count())?;
                lines.enumerate().map(|(index, line)| read_json(line, &first.nth(index))).collect()
            }
            Media::CloudEvent => vec![cloud_event::read(read_text(&request.body)?, &first)],
            Media::CloudEvents => each(read_text(&request.body)?, &first, cloud_event::read)?,
            Media::Xml(_) => vec![stanza::read(read_text(&request.body)?, &first)],
            Media::Form => vec![form::read(read_text(&request.body)?, &first)],
            Media::Unknown(_) => {
                return Err(Problem::unsupported_media(
                    &request.media,
                    "application/json, application/x-ndjson, application/cloudevents+json, \
                     application/cloudevents-batch+json, application/xml, text/xml, application/xmpp+xml or \
                     application/x-www-form-urlencoded",
                ));
            }
        }
    };
    let events = all(events, Problem::bad_events)?;
    all(events.into_iter().map(|event| event.permitted_for(&request.caller)).collect(), Problem::forbidden_events)
}

/// The fields that distinguish the formats of JSON documents without a `type`.
#[derive(Deserialize)]
struct Shape {
    r#type: Option<IgnoredAny>,
    routing_key: Option<IgnoredAny>,
    from_user_id: Option<IgnoredAny>,
    user_id: Option<IgnoredAny>,
}

/// Reads a JSON document: a native event, a RabbitMQ delivery or an event of MongooseIM's `mod_event_pusher`.
fn read_json(json: &str, arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
    let native = match NativeEvent::parse(json.as_bytes()) {
        Ok(native) if native.has_type() => return native.read(arrival),
        native => native,
    };
    match serde_json::from_str(json) {
        Ok(Shape { r#type: None, routing_key: Some(_), .. }) => mongooseim::read_delivery(json, arrival),
        Ok(Shape { r#type: None, from_user_id, user_id, .. }) if from_user_id.is_some() || user_id.is_some() => {
            mongooseim::read(json, mongooseim::Direction::ByHosts(&arrival.sources.rooms.muc), arrival)
        }
        _ => Err(native.err().unwrap_or_else(|| {
            "type is missing; without it, expected a delivery of RabbitMQ with routing_key and body, or MongooseIM's \
             from_user_id, to_user_id and message, or user_id and present"
                .into()
        })),
    }
}

/// Reads one JSON document, or each of an array. A problem concerns the whole array.
fn each(
    body: &str,
    first: &Arrival<'_>,
    read: impl Fn(&str, &Arrival<'_>) -> Result<WebhookEvent, String>,
) -> Result<Vec<Result<WebhookEvent, String>>, Problem> {
    if !body.trim_ascii_start().starts_with('[') {
        return Ok(vec![read(body, first)]);
    }
    let events: Vec<&RawValue> = serde_json::from_str(body).map_err(|error| Problem::bad_request(error.to_string()))?;
    check_number(events.len())?;
    Ok(events.iter().enumerate().map(|(index, event)| read(event.get(), &first.nth(index))).collect())
}

/// Checks the number of events before any of them is read: the errors of very many bad events would need more memory
/// than valid events.
fn check_number(events: usize) -> Result<(), Problem> {
    if events > MAX_EVENTS {
        return Err(Problem::bad_request(format!("there are {events} events, {MAX_EVENTS} are allowed")));
    }
    Ok(())
}

fn all(
    events: Vec<Result<WebhookEvent, String>>,
    problem: impl FnOnce(Vec<(usize, String)>) -> Problem,
) -> Result<Vec<WebhookEvent>, Problem> {
    let mut good = Vec::with_capacity(events.len());
    let mut errors = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        match event {
            Ok(event) => good.push(event),
            Err(detail) => errors.push((index, detail)),
        }
    }
    if errors.is_empty() { Ok(good) } else { Err(problem(errors)) }
}
