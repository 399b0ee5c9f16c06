//! Repeats one part of the functions that does no I/O: `pure <part> <times>` prints how many nanoseconds that took.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use pushlark_access::Caller;
use pushlark_benches::input;
use pushlark_events::Sources;
use pushlark_http::{Media, Problem, Request};
use pushlark_model::{Payload, PublishOptions, Registration};
use pushlark_plugin::xmpp::{BareJid, Element, Message, MessageType};
use pushlark_plugin::{ContentPolicy, Defaults, Event, EventKind, Plugin, Publication, Recipient};
use pushlark_queue::{Record, WorkKind};
use serde::Serialize;
use time::OffsetDateTime;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let part = arguments.next().context("pure <part> <times>")?;
    let times: u32 = arguments.next().context("pure <part> <times>")?.parse()?;
    let ingest = |media, body: String| {
        let refused = |problem: Problem| anyhow!(problem.to_json());
        let request = Request::new(Caller::Operator, media, body.into_bytes()).map_err(refused)?;
        let sources = Sources::default();
        run(times, || pushlark_events::read(black_box(&request), &sources, OffsetDateTime::UNIX_EPOCH).map_err(refused))
    };
    match part.as_str() {
        "json" => ingest(Media::Json, input::event(1).to_string()),
        "json-stanza" => ingest(Media::Json, input::stanza_event(1).to_string()),
        "json-array" => ingest(Media::Json, input::event_array(1, 25).to_string()),
        "ndjson" => ingest(Media::JsonLines, input::event_lines(1, 25)),
        "xml" => ingest(Media::Xml("text/xml"), input::stanza(1)),
        "form" => ingest(Media::Form, input::form(1)),
        "group" => ingest(Media::Json, input::group_event(1, 100).to_string()),
        "worker" => {
            let (record, services) = (input::record(1, 1)?, services()?);
            run(times, || notifications(black_box(&record), &services))
        }
        "worker-group" => {
            let (record, services) = (input::record(1, 25)?, services()?);
            run(times, || notifications(black_box(&record), &services))
        }
        other => Err(anyhow!("{other} is not a part")),
    }
}

fn run<T>(times: u32, mut part: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<()> {
    let start = Instant::now();
    for _ in 0..times {
        black_box(part()?);
    }
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}

/// The registrations of a recipient.
fn services() -> anyhow::Result<Vec<Registration>> {
    let mut enable = input::enable(1);
    let options = PublishOptions::new(serde_json::from_value(enable["form"].take())?)?;
    Ok(vec![Registration::new(BareJid::new("push.example.com")?, "node-1".into(), options, 0)])
}

/// The worker's computation between its queue, its table and its push service.
fn notifications(record: &str, services: &[Registration]) -> anyhow::Result<Vec<Vec<u8>>> {
    let record = Record::read(record)?;
    let mut notifications = Vec::new();
    let content_policy = Arc::new(ContentPolicy::default());
    for work in record.work {
        let WorkKind::Message { from, to, stanza, recipient, .. } = work.kind else { continue };
        let message = Arc::new(Message::from_element(Element::parse(&stanza)?)?);
        for to in to {
            let event = Event {
                id: work.id.clone(),
                at: work.at,
                from: from.clone(),
                is_occupant: message.kind() == MessageType::Groupchat,
                is_own: false,
                room: None,
                nick: None,
                sender_name: None,
                room_name: None,
                members: 1,
                sender_known: None,
                kind: EventKind::Message(to),
                message: Arc::clone(&message),
                unread_count: recipient.unread_count.unwrap_or(1),
                content_policy: Arc::clone(&content_policy),
            };
            let payload = Defaults.prepare_notification(&event).map_err(|rule| anyhow!(rule.to_string()))?;
            let offline =
                Recipient { exists: true, online: false, client_state: None, tied: None, connected: Vec::new() };
            let services = Defaults.should_publish(&event, &offline, services.to_vec()).publish;
            let publications = Defaults.publish_notification(&event, &offline, payload, services);
            for Publication { registration, payload, .. } in publications {
                notifications.push(serde_json::to_vec(&Notification::new(&registration.options, &payload)?)?);
            }
        }
    }
    Ok(notifications)
}

/// The body for MongoosePush, which is private in `pushlark_delivery`.
#[derive(Serialize)]
struct Notification<'n> {
    service: &'n str,
    priority: Option<&'n str>,
    time_to_live: Option<u64>,
    #[serde(flatten)]
    content: Content<'n>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<'n> {
    Alert { body: &'n str, title: &'n str, tag: &'n str, badge: Option<u64> },
}

impl<'n> Notification<'n> {
    fn new(options: &'n PublishOptions, payload: &'n Payload) -> anyhow::Result<Self> {
        options.check()?;
        let sender = payload.get(Payload::LAST_MESSAGE_SENDER).context("no sender")?;
        Ok(Self {
            service: options.get("service").context("no service")?,
            priority: options.get("priority"),
            time_to_live: options.time_to_live()?.map(|time_to_live| time_to_live.as_secs()),
            content: Content::Alert {
                body: payload.get(Payload::LAST_MESSAGE_BODY).context("no body")?,
                title: sender,
                tag: sender,
                badge: payload.get(Payload::MESSAGE_COUNT).and_then(|count| count.parse().ok()),
            },
        })
    }
}
