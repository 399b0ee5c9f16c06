//! What a chat server's webhook says, in whatever format: events.

mod cloud_event;
mod event;
mod form;
mod mongooseim;
mod native;
mod sns;
mod stanza;

pub use event::{Arrival, Effect, Event, Reading};
pub use native::read_event;

use pushlark_http::sns::{Notification, SnsMessage};
use pushlark_http::{Media, Problem, Request, read_text};
use pushlark_settings::{Environment, HostPatterns, SettingError, catalogue};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use event::check_id;

/// The header that names a webhook (Standard Webhooks 1.0), and so its messages.
const WEBHOOK_ID: &str = "webhook-id";

/// The most events of one request: for each, the table may be written to before the request is answered.
const MAX_EVENTS: usize = 1_000;

/// What the settings say of the sources of events.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The hosts of rooms, which tell a group message of MongooseIM from a private one where nothing else does.
    pub muc_hosts: Option<HostPatterns>,
    /// The hosts of MUC Light, whose rooms vouch for their occupants: a nick there is the bare JID of a user.
    pub muc_light_hosts: HostPatterns,
}

impl Sources {
    /// From `MUC_HOSTS` and `MUC_LIGHT_HOSTS`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            muc_hosts: environment.get(&catalogue::MUC_HOSTS)?,
            muc_light_hosts: environment.require(&catalogue::MUC_LIGHT_HOSTS)?,
        })
    }
}

impl Default for Sources {
    fn default() -> Self {
        let muc_light_hosts = catalogue::MUC_LIGHT_HOSTS.kind.default().and_then(|hosts| hosts.parse().ok());
        Self { muc_hosts: None, muc_light_hosts: muc_light_hosts.unwrap_or_default() }
    }
}

/// Reads what SNS has published to a topic, and has invoked the function with at `now`.
pub fn read_notification(notification: &Notification, sources: &Sources, now: OffsetDateTime) -> Result<Event, String> {
    sns::read(notification, &Arrival { now, at: None, id: None, sources })
}

/// Reads the events of a request that arrived at `now`: all of them, or what is wrong with each that is wrong, or what is
/// not the caller's to tell.
pub fn read(request: &Request, sources: &Sources, now: OffsetDateTime) -> Result<Vec<Event>, Problem> {
    let id = request.header(WEBHOOK_ID).map(|id| check_id(id.to_owned())).transpose();
    let id = id.map_err(|error| Problem::bad_request(format!("{WEBHOOK_ID}: {error}")))?;
    let first = Arrival { now, at: None, id, sources };
    let events = match &request.sns {
        Some(SnsMessage::Notification(notification)) => vec![sns::read(notification, &first)],
        Some(_) => return Err(Problem::bad_request("a message of SNS about a subscription is no event")),
        None => match request.media {
            Media::Json => each(read_text(&request.body)?, &first, native::read_json)?,
            Media::JsonLines => {
                let lines = read_text(&request.body)?.lines().filter(|line| !line.trim().is_empty());
                check_number(lines.clone().count())?;
                lines.enumerate().map(|(index, line)| native::read_json(line, &first.nth(index))).collect()
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
        },
    };
    let events = all(events, Problem::bad_events)?;
    all(events.into_iter().map(|event| event.told_by(&request.caller)).collect(), Problem::forbidden_events)
}

/// Reads one JSON document, or each of an array; the error is of the array as a whole.
fn each(
    body: &str,
    first: &Arrival<'_>,
    read: impl Fn(&str, &Arrival<'_>) -> Result<Event, String>,
) -> Result<Vec<Result<Event, String>>, Problem> {
    if !body.trim_ascii_start().starts_with('[') {
        return Ok(vec![read(body, first)]);
    }
    let events: Vec<&RawValue> = serde_json::from_str(body).map_err(|error| Problem::bad_request(error.to_string()))?;
    check_number(events.len())?;
    Ok(events.iter().enumerate().map(|(index, event)| read(event.get(), &first.nth(index))).collect())
}

/// Before any of them is read: what is wrong with each of a great many would take more memory than all that is right.
fn check_number(events: usize) -> Result<(), Problem> {
    if events > MAX_EVENTS {
        return Err(Problem::bad_request(format!("there are {events} events, {MAX_EVENTS} are allowed")));
    }
    Ok(())
}

fn all(
    events: Vec<Result<Event, String>>,
    problem: impl FnOnce(Vec<(usize, String)>) -> Problem,
) -> Result<Vec<Event>, Problem> {
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
