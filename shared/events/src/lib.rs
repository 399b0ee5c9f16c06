//! What a chat server's webhook says, in whatever format: events.

mod event;
mod form;
mod native;
mod stanza;

pub use event::{Effect, Event, Reading};
pub use native::read_event;

use pushlark_http::{Media, Problem, Request, read_text};
use time::OffsetDateTime;

/// Reads the events of a request that arrived at `now`: all of them, or what is wrong with each that is wrong.
pub fn read(request: &Request, now: OffsetDateTime) -> Result<Vec<Event>, Problem> {
    let events = match request.media {
        Media::Json => native::read_json_body(read_text(&request.body)?, now).map_err(Problem::bad_request)?,
        Media::JsonLines => native::read_json_lines(read_text(&request.body)?, now),
        Media::Xml(_) => vec![stanza::read(read_text(&request.body)?, now)],
        Media::Form => vec![form::read(read_text(&request.body)?, now)],
        Media::Unknown(_) => {
            return Err(Problem::unsupported_media(
                &request.media,
                "application/json, application/x-ndjson, application/xml, text/xml, application/xmpp+xml or \
                 application/x-www-form-urlencoded",
            ));
        }
    };
    let mut good = Vec::with_capacity(events.len());
    let mut errors = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        match event {
            Ok(event) => good.push(event),
            Err(detail) => errors.push((index, detail)),
        }
    }
    if errors.is_empty() { Ok(good) } else { Err(Problem::bad_events(errors)) }
}
