//! Reading webhooks: the events of a body, or the problem in the response.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bounds;
mod calls;
mod form;
mod ids;
mod json;
mod media;
mod properties;
mod xml;

use pushlark_access::Caller;
use pushlark_events::{Effect, Sources, WebhookEvent, read};
use pushlark_http::{Media, Request};
use pushlark_queue::{ReportedRecipient, WorkKind};
use pushlark_xmpp::{Element, Message};
use serde_json::Value;
use time::OffsetDateTime;

const XML: Media = Media::Xml("application/xml");

/// The time at which all requests of these tests arrive.
fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(1_795_376_018_123_456_789).unwrap()
}

fn taken(media: Media, body: impl AsRef<[u8]>) -> Vec<WebhookEvent> {
    let body = body.as_ref().to_vec();
    let text = String::from_utf8_lossy(&body).into_owned();
    match read(&Request::new(Caller::Operator, media, body).unwrap(), &Sources::default(), now()) {
        Ok(events) => events,
        Err(problem) => panic!("{text} is refused: {}", problem.to_json()),
    }
}

fn one(media: Media, body: impl AsRef<[u8]>) -> WebhookEvent {
    let [event] = taken(media, body).try_into().unwrap();
    event
}

/// Returns the problem in the response to a bad body.
fn problem(media: Media, body: impl AsRef<[u8]>) -> Value {
    let body = body.as_ref().to_vec();
    let text = String::from_utf8_lossy(&body).into_owned();
    match read(&Request::new(Caller::Operator, media, body).unwrap(), &Sources::default(), now()) {
        Ok(events) => panic!("{text} is accepted, as {events:?}"),
        Err(problem) => serde_json::from_str(&problem.to_json()).unwrap(),
    }
}

/// Returns the detail of the problem with a body's only event.
fn refusal(media: Media, body: impl AsRef<[u8]>) -> String {
    let problem = problem(media, body);
    assert_eq!((&problem["status"], &problem["errors"][0]["index"]), (&400.into(), &0.into()), "{problem}");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{problem}");
    assert_eq!(problem["detail"], problem["errors"][0]["detail"]);
    problem["detail"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_refused(media: Media, body: &str, named: &str) {
    let detail = refusal(media, body);
    assert!(names(&detail, named), "{body}: {detail:?} does not name {named:?}");
}

/// Returns whether a detail has the word `named`, apart from the position in the JSON.
fn names(detail: &str, named: &str) -> bool {
    let detail = detail.split(" at line ").next().unwrap();
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    detail.match_indices(named).any(|(start, _)| {
        !detail[..start].ends_with(part_of_word) && !detail[start + named.len()..].starts_with(part_of_word)
    })
}

/// A message for users, as it is queued.
struct Queued {
    from: String,
    to: Vec<String>,
    message: Message,
    recipient: ReportedRecipient,
}

impl Queued {
    fn body(&self) -> String {
        self.message.body().unwrap_or_default().into_owned()
    }
}

fn queued(event: WebhookEvent) -> Queued {
    match event.effect {
        Effect::Queue(WorkKind::Message { from, to, stanza, recipient, .. }) => Queued {
            from: from.to_string(),
            to: to.iter().map(ToString::to_string).collect(),
            message: Message::from_element(Element::parse(&stanza).unwrap()).unwrap(),
            recipient,
        },
        other => panic!("{other:?} is not a message for users"),
    }
}

/// Returns the media type and the body of a captured HTTP request.
fn captured(request: &str) -> (Media, &str) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let media =
        match head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-type: ").map(str::to_owned))
        {
            Some(xml) if xml == "text/xml" => Media::Xml("text/xml"),
            Some(form) if form == "application/x-www-form-urlencoded" => Media::Form,
            other => panic!("{other:?}"),
        };
    (media, body)
}
