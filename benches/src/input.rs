//! Webhooks as chat servers send them, ingest's records, and the requests of clients. Each takes a number, which makes
//! it different from the others of its series.

use std::iter;

use pushlark_access::Caller;
use pushlark_events::{Effect, Sources};
use pushlark_http::{Media, Problem, Request};
use pushlark_queue::{Record, Work};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The number of users; a series starts again after the last one.
pub const USERS: u64 = 500;

const BODY: &str = "Are you coming to the station at six, or shall I take the bus & wait?";

/// The recipient of the message of this number.
pub fn user(number: u64) -> String {
    format!("user{}@example.com", number % USERS)
}

/// The recipients of the group message of this number.
pub fn users(number: u64, recipients: u64) -> Vec<String> {
    (number * recipients..(number + 1) * recipients).map(user).collect()
}

/// An event of Pushlark's own format.
pub fn event(number: u64) -> Value {
    json!({"type": "message", "from": "alice@example.com/laptop", "to": user(number), "chat": "chat", "body": BODY})
}

/// A group message of Pushlark's own format.
pub fn group_event(number: u64, recipients: u64) -> Value {
    let to = users(number, recipients);
    json!({"type": "message", "from": "room@muc.example.com/Alice", "to": to, "chat": "groupchat", "body": BODY})
}

/// Events of Pushlark's own format, a line each.
pub fn event_lines(number: u64, events: u64) -> String {
    (number * events..(number + 1) * events).map(|number| format!("{}\n", event(number))).collect()
}

/// An array of events of Pushlark's own format.
pub fn event_array(number: u64, events: u64) -> Value {
    (number * events..(number + 1) * events).map(event).collect()
}

/// An event that holds the stanza.
pub fn stanza_event(number: u64) -> Value {
    json!({"type": "message", "from": "alice@example.com/laptop", "to": user(number), "stanza": stanza(number)})
}

/// A message with the extensions that usual clients and an archive add.
pub fn stanza(number: u64) -> String {
    let (to, body) = (user(number), BODY.replace('&', "&amp;"));
    format!(
        "<message xmlns='jabber:client' type='chat' id='c1a2b3d4-{number}' from='alice@example.com/laptop' to='{to}'>\
         <body>{body}</body><active xmlns='http://jabber.org/protocol/chatstates'/>\
         <request xmlns='urn:xmpp:receipts'/><markable xmlns='urn:xmpp:chat-markers:0'/>\
         <origin-id xmlns='urn:xmpp:sid:0' id='c1a2b3d4-{number}'/>\
         <stanza-id xmlns='urn:xmpp:sid:0' by='{to}' id='BS4IQ9V3E{number:09}'/></message>"
    )
}

/// The form of MongooseIM's `mod_event_pusher_http`.
pub fn form(number: u64) -> String {
    let body = BODY.replace('&', "%26").replace(',', "%2C").replace('?', "%3F").replace(' ', "+");
    format!("author=alice&server=example.com&receiver=user{}&message={body}", number % USERS)
}

/// Returns the record that ingest makes of a message to this number of recipients.
pub fn record(number: u64, recipients: u64) -> anyhow::Result<String> {
    let event = if recipients == 1 { event(number) } else { group_event(number, recipients) };
    let request = Request::new(Caller::Operator, Media::Json, event.to_string().into_bytes());
    let read = |request| pushlark_events::read(&request, &Sources::default(), OffsetDateTime::now_utc());
    let refused = |problem: Problem| anyhow::anyhow!("ingest refuses its input: {}", problem.to_json());
    let events = request.and_then(read).map_err(refused)?;
    let work = events.into_iter().filter_map(|event| match event.effect {
        Effect::Queue(kind) => Some(Work::new(event.id, event.at, kind)),
        _ => None,
    });
    let records: Vec<_> = Record::pack(work).collect();
    anyhow::ensure!(records.len() == 1, "one record was expected, not {}", records.len());
    Ok(serde_json::to_string(&records[0])?)
}

/// The request with which a client enables its device.
pub fn enable(number: u64) -> Value {
    let device_id: String = iter::repeat_n(format!("d{}T", number % USERS), 40).collect();
    json!({"user": user(number), "jid": "push.example.com", "node": format!("node-{}", number % USERS),
        "form": {"service": "fcm", "device_id": device_id, "priority": "high", "time_to_live": "86400"}})
}

/// The request with which a client disables its device.
pub fn disable(number: u64) -> Value {
    json!({"user": user(number), "jid": "push.example.com", "node": format!("node-{}", number % USERS)})
}

/// The IQ with which a client registers its device at the push node.
pub fn enable_node(number: u64) -> String {
    let (node, form) = (number % USERS, device_form(number));
    let enable = format!("<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='node-{node}'>{form}</enable>");
    iq_to_push_node(&user(number), number, &enable)
}

/// The IQ with which a chat server publishes a notification to the node of a device.
pub fn publish(number: u64) -> String {
    let (node, body) = (number % USERS, BODY.replace('&', "&amp;"));
    let field = |name, value: &str| format!("<field var='{name}'><value>{value}</value></field>");
    let summary = [
        field("FORM_TYPE", "urn:xmpp:push:summary"),
        field("message-count", "1"),
        field("last-message-sender", "alice@example.com"),
        field("last-message-body", &body),
    ];
    let publish = format!(
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='node-{node}'><item>\
         <notification xmlns='urn:xmpp:push:0'><x xmlns='jabber:x:data' type='submit'>{}</x></notification>\
         </item></publish><publish-options>{}</publish-options></pubsub>",
        summary.concat(),
        device_form(number)
    );
    iq_to_push_node("example.com", number, &publish)
}

/// The publish options of the device of this number, as a data form.
fn device_form(number: u64) -> String {
    let field = |(name, value): (&String, &Value)| {
        format!("<field var='{name}'><value>{}</value></field>", value.as_str().unwrap_or_default())
    };
    let fields: String = enable(number)["form"].as_object().into_iter().flatten().map(field).collect();
    format!(
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'>\
         <value>http://jabber.org/protocol/pubsub#publish-options</value></field>{fields}</x>"
    )
}

fn iq_to_push_node(from: &str, number: u64, payload: &str) -> String {
    format!("<iq xmlns='jabber:client' type='set' id='iq-{number}' from='{from}' to='push.example.com'>{payload}</iq>")
}
