//! The requests to the functions, as the stack's server sees them.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pushlark_access::Access;
use pushlark_events::{Effect, Sources, WebhookEvent, read};
use pushlark_http::{Invocation, Methods, answer};
use pushlark_model::Availability;
use pushlark_queue::WorkKind;
use pushlark_xmpp::{Element, Iq, Message};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::live::{Content, Live};

/// The paths whose requests are shown.
const PATHS: [&str; 4] = ["events", "enable", "disable", "pubsub"];
/// The largest body that is kept, in bytes. Of a larger one, the page shows the answer alone.
const MAX_BODY_BYTES: usize = 32 * 1024;
/// The most events of one request that are shown one by one.
const MAX_EVENTS: usize = 50;

/// A request to a function, with its answer. It has no header with a credential, and no query.
#[derive(Debug)]
pub struct SeenRequest {
    function: &'static str,
    content_type: String,
    body: Option<Bytes>,
    status: StatusCode,
    answer: Option<Bytes>,
}

/// Adds requests to the entries when they are answered.
pub async fn see(State(live): State<Live>, request: Request, next: Next) -> Response {
    let function = request.uri().path().split('/').nth(1).and_then(|path| PATHS.into_iter().find(|name| *name == path));
    let Some(function) = function.filter(|_| request.method() == Method::POST) else { return next.run(request).await };
    let (head, body) = request.into_parts();
    // The server has read the whole body, and a function its answer: both are in memory.
    let Ok(body) = to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST.into_response() };
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let kept = kept(&body);
    let (answer_head, answer) = next.run(Request::from_parts(head, Body::from(body))).await.into_parts();
    let Ok(answer) = to_bytes(answer, usize::MAX).await else { return StatusCode::BAD_GATEWAY.into_response() };
    let status = answer_head.status;
    let seen = SeenRequest { function, content_type, body: kept, status, answer: self::kept(&answer) };
    live.add(Content::Request(seen));
    Response::from_parts(answer_head, Body::from(answer))
}

/// Returns a copy, which keeps no larger buffer in memory.
fn kept(body: &Bytes) -> Option<Bytes> {
    (body.len() <= MAX_BODY_BYTES).then(|| Bytes::copy_from_slice(body))
}

impl SeenRequest {
    /// Returns the JSON of the request: its function, format, status and events. Of a request that was not accepted, it
    /// has the problem instead.
    pub async fn json(&self, sources: &Sources) -> Map<String, Value> {
        let Self { function, status, .. } = self;
        let mut json = Map::from_iter([
            ("function".into(), (*function).into()),
            ("status".into(), status.as_u16().into()),
            ("format".into(), self.format().into()),
        ]);
        let answer: Value =
            self.answer.as_deref().and_then(|answer| serde_json::from_slice(answer).ok()).unwrap_or_default();
        if !status.is_success() {
            let problem = answer["detail"].as_str().or(answer["title"].as_str()).unwrap_or("no detail");
            json.insert("problem".into(), problem.into());
            return json;
        }
        match *function {
            "events" => {
                let ids = answer["ids"].as_array().map(Vec::as_slice).unwrap_or_default();
                json.insert("accepted".into(), ids.len().into());
                json.insert("events".into(), self.events(ids, sources).await);
            }
            _ => json.extend(self.command()),
        }
        json
    }

    /// Returns the name of the webhook format, as docs/webhooks.md has it.
    fn format(&self) -> &'static str {
        let essence = self.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" if self.function == "events" => json_format(self.body.as_deref().unwrap_or_default()),
            "application/json" => "JSON",
            "application/x-ndjson" => "JSON lines",
            "application/cloudevents+json" | "application/cloudevents-batch+json" => "CloudEvents",
            "application/xml" | "text/xml" | "application/xmpp+xml" => "stanza",
            "application/x-www-form-urlencoded" => "form",
            "text/plain" => "SNS",
            _ => "unknown",
        }
    }

    /// Reads the events as ingest does, with the ids that ingest gave them.
    async fn events(&self, ids: &[Value], sources: &Sources) -> Value {
        let Some(body) = self.body.as_deref().and_then(|body| std::str::from_utf8(body).ok()) else { return json!([]) };
        let invocation = json!({"headers": {"content-type": self.content_type}, "body": body,
            "requestContext": {"http": {"method": "POST"}}});
        let Ok(invocation) = serde_json::from_value::<Invocation>(invocation) else { return json!([]) };
        let mut shown = json!([]);
        let anybody = Access::open();
        let reading = answer(&anybody, Methods::Post, invocation, async |request| {
            let events = read(&request, sources, OffsetDateTime::now_utc())?;
            shown = events.iter().zip(ids).take(MAX_EVENTS).map(|(event, id)| event_json(event, id)).collect();
            pushlark_http::Response::json(200, &())
        });
        reading.await;
        shown
    }

    /// Returns the fields of a request to another function than ingest, in JSON or as an IQ. Other values may be secret.
    fn command(&self) -> Map<String, Value> {
        let text = self.body.as_deref().and_then(|body| std::str::from_utf8(body).ok()).unwrap_or_default();
        let json: Value = serde_json::from_str(text).unwrap_or_default();
        let stanza = json["stanza"].as_str().unwrap_or(text);
        let iq = Element::parse(stanza).ok().and_then(|element| Iq::from_element(element).ok());
        let Some(iq) = iq else {
            let fields =
                ["user", "jid", "node"].into_iter().filter_map(|name| Some((name.into(), json.get(name)?.clone())));
            return fields
                .chain(json["form"].get("service").map(|service| ("service".into(), service.clone())))
                .collect();
        };
        let of_payload = |name| iq.payload().and_then(|payload| payload.attribute(name));
        let action = iq.payload().and_then(|payload| match payload.name() {
            "pubsub" => payload.children().next(),
            _ => Some(payload),
        });
        let problem = self.answer.as_deref().and_then(|answer| std::str::from_utf8(answer).ok()).and_then(|answer| {
            let json: Value = serde_json::from_str(answer).unwrap_or_default();
            iq_problem(json["stanza"].as_str().unwrap_or(answer))
        });
        let node = of_payload("node").or_else(|| action.and_then(|action| action.attribute("node")));
        let fields = [
            ("user", iq.from()),
            ("to", iq.to()),
            ("jid", of_payload("jid")),
            ("node", node),
            ("action", action.map(Element::name)),
            ("problem", problem.as_deref()),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
    }
}

/// Returns the condition and the text of an IQ of the type error (RFC 6120, section 8.3).
fn iq_problem(answer: &str) -> Option<String> {
    let answer = Element::parse(answer).ok().filter(|answer| answer.attribute("type") == Some("error"))?;
    let error = answer.children().find(|child| child.name() == "error")?;
    let (texts, conditions): (Vec<_>, Vec<_>) = error.children().partition(|child| child.name() == "text");
    let names = conditions.into_iter().map(|condition| condition.name().to_owned());
    Some(names.chain(texts.into_iter().map(|text| text.text().into_owned())).collect::<Vec<_>>().join(", "))
}

/// Distinguishes the formats of JSON by the fields that they require.
fn json_format(body: &[u8]) -> &'static str {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let first = json.get(0).unwrap_or(&json);
    let has = |name| first.get(name).is_some();
    match () {
        () if has("type") => "JSON",
        () if has("routing_key") => "RabbitMQ",
        () if has("from_user_id") || has("user_id") => "MongooseIM",
        () => "JSON",
    }
}

fn event_json(event: &WebhookEvent, id: &Value) -> Value {
    let WebhookEvent { effect, message, .. } = event;
    let message = message.as_deref();
    let mut json = match effect {
        Effect::Queue(kind) | Effect::CallAnswer { work: kind, .. } => work_json(kind, message),
        Effect::Presence(session, Availability::Online(_)) => {
            json!({"type": "presence", "from": session.as_str(), "text": "online"})
        }
        Effect::Presence(session, Availability::Offline) => {
            json!({"type": "presence", "from": session.as_str(), "text": "offline"})
        }
        Effect::Read(mark) => {
            json!({"type": "displayed", "from": mark.user.as_str(), "to": [mark.conversation.as_str()]})
        }
        Effect::NoRequest(_, why) => json!({"type": "subscription", "why": why}),
        Effect::None(_) => json!({"type": "message", "why": "messages of the types headline and error do not notify"}),
    };
    json["id"] = id.clone();
    json
}

fn work_json(kind: &WorkKind, message: Option<&Message>) -> Value {
    match kind {
        WorkKind::Message { from, to, .. } => {
            let call = message.and_then(Message::call);
            let kind = if call.is_some() { "call" } else { "message" };
            let step = call.map(|call| format!("{:?}", call.step).to_lowercase());
            let chat = message.map(|message| message.kind().as_str());
            let text = message.and_then(Message::body);
            json!({"type": kind, "from": from.as_str(), "to": to.iter().map(|to| to.as_str()).collect::<Vec<_>>(),
                "chat": chat, "text": text, "call": step})
        }
        WorkKind::Unacknowledged { from, to, .. } => {
            json!({"type": "unacknowledged", "from": from.as_str(), "to": to.iter().map(|to| to.as_str()).collect::<Vec<_>>(),
                "text": message.and_then(Message::body)})
        }
        WorkKind::Subscription { from, to, .. } => {
            json!({"type": "subscription", "from": from.as_str(), "to": [to.as_str()]})
        }
        WorkKind::Read { jid, conversation } => {
            json!({"type": "displayed", "from": jid.as_str(), "to": [conversation.as_str()]})
        }
        WorkKind::UserRemoved { jid } => json!({"type": "user_removed", "to": [jid.as_str()]}),
        WorkKind::DomainRemoved { domain } => json!({"type": "domain_removed", "to": [domain.as_str()]}),
        WorkKind::Notification(push) => json!({"type": "notification", "to": [push.owner.as_str()]}),
    }
}
