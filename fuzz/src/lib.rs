//! What the fuzz targets share: how bytes become a request, and what must hold of all that is taken.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_access::{Access, Caller};
use pushlark_events::{Effect, ReadMark, Sources, WebhookEvent, read};
use pushlark_http::{Answer, Invocation, MAX_BODY_BYTES, Media, Methods, Problem, Request, Response, answer};
use pushlark_queue::{MAX_RECIPIENTS, Record, Work, WorkKind};
use pushlark_settings::Environment;
use pushlark_xmpp::{BareJid, DomainPart, Element, MAX_STANZA_BYTES, Message, is_xml_text};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The most that SQS takes in a message ("Amazon SQS message quotas").
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// The most that a function may answer ("Lambda quotas").
const MAX_ANSWER_BYTES: usize = 6 * 1024 * 1024;

/// What a future gives that waits for nothing.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// Settings that are right.
pub fn settings<T, E: std::fmt::Debug>(
    read: impl FnOnce(&Environment) -> Result<T, E>,
    variables: &[(&str, &str)],
) -> T {
    read(&variables.iter().copied().collect()).expect("the settings are right")
}

/// The first byte, as a character that chooses, and the rest.
pub fn chosen(data: &[u8]) -> Option<(char, &[u8])> {
    data.split_first().map(|(first, rest)| (char::from(*first), rest))
}

/// A POST as a Function URL gives it.
pub fn post(headers: &[(&str, &str)], body: &[u8]) -> Invocation {
    let headers: serde_json::Map<String, Value> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    let event = json!({
        "headers": headers,
        "body": BASE64_STANDARD.encode(body),
        "isBase64Encoded": true,
        "requestContext": {"http": {"method": "POST"}},
    });
    serde_json::from_str(&event.to_string()).expect("an envelope")
}

/// Who calls, if the access lets the invocation in.
pub async fn caller(access: &Access, invocation: Invocation) -> Option<Caller> {
    admitted(access, invocation).await.map(|request| request.caller)
}

/// The request, if the access lets the invocation in.
pub async fn admitted(access: &Access, invocation: Invocation) -> Option<Request> {
    let mut admitted = None;
    let answer = answer(access, Methods::Post, invocation, async |request| {
        admitted = Some(request);
        Response::json(200, &json!({}))
    })
    .await;
    check_answer(&answer);
    admitted
}

/// What must hold of every answer. Gives its body.
pub fn check_answer(answer: &Answer) -> Option<&str> {
    let written = serde_json::to_string(answer).expect("an answer is JSON");
    assert!(written.len() <= MAX_ANSWER_BYTES, "an answer has {} bytes", written.len());
    match answer {
        Answer::Http(response) => {
            assert!((200..=599).contains(&response.status_code));
            response.body.as_deref()
        }
        Answer::Direct(json) => Some(json.get()),
        Answer::Failed(reason) => panic!("{reason}"),
    }
}

/// Reads a body for each kind of caller.
pub fn check_body(media: &Media, body: &[u8], sources: &Sources) -> Vec<WebhookEvent> {
    if body.len() > MAX_BODY_BYTES {
        return Vec::new();
    }
    let told = told(Caller::Operator, media, body, sources);
    let domains = ["example.com", "localhost"].map(|domain| DomainPart::new(domain).expect("a domain").into_owned());
    let events = match &told {
        Ok(events) => events.as_slice(),
        Err(problem) => {
            let problem = problem.to_json();
            assert!(problem.len() <= MAX_ANSWER_BYTES, "a problem has {} bytes", problem.len());
            &[]
        }
    };
    check_events(events);
    for caller in [Caller::Server(domains.to_vec()), Caller::Client(BareJid::new("bob@example.com").expect("a JID"))] {
        check_bounds(&caller, events, self::told(caller.clone(), media, body, sources), told.is_ok());
    }
    told.unwrap_or_default()
}

fn told(caller: Caller, media: &Media, body: &[u8], sources: &Sources) -> Result<Vec<WebhookEvent>, Problem> {
    let request = Request::new(caller, media.clone(), body.to_vec()).expect("it is small");
    read(&request, sources, OffsetDateTime::UNIX_EPOCH)
}

/// What a caller of a domain tells is of that domain, and otherwise what anybody tells by the same body.
fn check_bounds(caller: &Caller, all: &[WebhookEvent], own: Result<Vec<WebhookEvent>, Problem>, is_right: bool) {
    let is_own = |event: &WebhookEvent| {
        let speaks = event.domains().into_iter().all(|domain| caller.has_access_to_domain(domain));
        speaks || matches!(event.effect, Effect::None(_) | Effect::NoRequest(..))
    };
    let Ok(own) = own else {
        assert!(!is_right || !all.iter().all(is_own), "{caller:?} is refused what is its own: {all:?}");
        return;
    };
    assert_eq!(own.len(), all.len());
    for (own, any) in own.iter().zip(all) {
        assert!(is_own(own), "{caller:?} tells {own:?}");
        assert_eq!((own.at, &own.effect), (any.at, &any.effect));
        let mut read_marks = any.read_marks.clone();
        read_marks.retain(|read_mark| caller.has_access_to(&read_mark.user));
        assert_eq!(own.read_marks, read_marks);
        for ReadMark { user, .. } in &own.read_marks {
            assert!(caller.has_access_to(user));
        }
    }
}

/// What must hold of events, whoever tells them: what is work goes through the queue unchanged, to a worker that can read
/// it.
pub fn check_events(events: &[WebhookEvent]) {
    let mut work = Vec::new();
    let mut recipients = 0;
    for WebhookEvent { id, at, effect, read_marks, .. } in events {
        assert!((1..=256).contains(&id.len()) && is_xml_text(id) && !id.contains(char::is_control), "the id {id:?}");
        for ReadMark { user, .. } in read_marks {
            assert!(user.node().is_some(), "{user} reads");
        }
        match effect {
            Effect::Queue(kind) | Effect::CallAnswer { work: kind, .. } => {
                recipients += users_of(kind).len();
                work.push(Work::new(id.clone(), *at, kind.clone()));
            }
            Effect::Presence(session, _) => assert!(session.node().is_some(), "{session} is present"),
            Effect::Read(ReadMark { user, .. }) => assert!(user.node().is_some(), "{user} reads"),
            Effect::NoRequest(..) | Effect::None(_) => {}
        }
    }
    for record in Record::pack(work) {
        let body = serde_json::to_string(&record).expect("a record is JSON");
        assert!(body.len() <= MAX_MESSAGE_BYTES, "a record has {} bytes", body.len());
        assert!(is_xml_text(&body), "{body:?}");
        assert_eq!(Record::read(&body).expect("a record"), record);
        let users: BTreeSet<_> = record.work.iter().flat_map(|work| users_of(&work.kind)).collect();
        assert!((1..=MAX_RECIPIENTS).contains(&users.len()), "a record has {} users", users.len());
        for Work { kind, .. } in &record.work {
            recipients -= users_of(kind).len();
            if let WorkKind::Message { stanza, context, .. } | WorkKind::Unacknowledged { stanza, context, .. } = kind {
                for name in [&context.sender_name, &context.room_name].into_iter().flatten() {
                    assert!((1..=256).contains(&name.chars().count()) && name.trim() == name, "the name {name:?}");
                    assert!(!name.contains(char::is_control), "the name {name:?}");
                }
                let element = Element::parse(stanza).unwrap_or_else(|error| panic!("{stanza}: {error}"));
                Message::from_element(element).unwrap_or_else(|error| panic!("{stanza}: {error}"));
            }
        }
    }
    assert_eq!(recipients, 0, "recipients are lost");
}

/// A user for each recipient; for a removed domain, the domain.
fn users_of(kind: &WorkKind) -> Vec<BareJid> {
    match kind {
        WorkKind::Message { to, .. } => to.clone(),
        WorkKind::Unacknowledged { to, .. } => to.iter().map(|session| session.to_bare()).collect(),
        WorkKind::Subscription { to, .. } => vec![to.clone()],
        WorkKind::Read { jid, .. } | WorkKind::UserRemoved { jid } => vec![jid.clone()],
        WorkKind::Notification(notification) => vec![notification.owner.clone()],
        WorkKind::DomainRemoved { domain } => vec![BareJid::from_parts(None, domain)],
    }
}

/// That an element is written as what it is. Gives how it is written.
pub fn check_written(element: &Element) -> String {
    let written = element.to_string();
    if written.len() <= MAX_STANZA_BYTES {
        let again = Element::parse(&written).unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(&again, element, "{written}");
    }
    written
}
