//! Takes a chat server's webhooks: work goes to the queue, state into the table.

mod event;
mod form;
mod native;
mod stanza;

pub use event::{Effect, Event};

use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_http::{Access, Answer, Invocation, Media, Problem, Request, Response, answer, read_text};
use pushlark_queue::{Queue, Record, Work};
use pushlark_store::{Availability, Store, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::FullJid;
use serde::Serialize;
use time::OffsetDateTime;

/// How many sessions are written to the table at once.
const PRESENCE_WRITES: usize = 16;

/// The function.
#[derive(Debug, Clone)]
pub struct Function {
    /// Who may call.
    pub access: Access,
    /// Where sessions are kept.
    pub store: Store,
    /// Where work goes.
    pub queue: Queue,
}

#[derive(Serialize)]
struct Accepted {
    accepted: usize,
    ids: Vec<String>,
}

impl Function {
    /// Answers one invocation, once all of its events are in the queue or in the table.
    pub async fn handle(&self, invocation: Invocation) -> Answer {
        answer(&self.access, invocation, async |request| {
            let events = read(&request, OffsetDateTime::now_utc())?;
            let ids = self.accept(events).await?;
            Response::json(202, &Accepted { accepted: ids.len(), ids })
        })
        .await
    }

    async fn accept(&self, events: Vec<Event>) -> Result<Vec<String>, Problem> {
        let (mut ids, mut presences, mut work) = (Vec::with_capacity(events.len()), Vec::new(), Vec::new());
        for Event { id, at, effect } in events {
            tracing::debug!(id, ?effect, "accepted");
            ids.push(id.clone());
            match effect {
                Effect::Queue(subject) => work.push(Work { id, at, subject }),
                Effect::Presence(session, availability) => presences.push((session, availability, at)),
                Effect::None => {}
            }
        }
        // State goes first, so that a message does not overtake the "offline" before it.
        self.note(presences).await.map_err(|error| {
            tracing::error!(?ids, error = %Causes(&error), "presence not noted");
            Problem::unavailable()
        })?;
        self.queue.send(&Record::pack(work)).await.map_err(|error| {
            tracing::error!(?ids, error = %Causes(&error), "not queued");
            Problem::unavailable()
        })?;
        ids.iter().for_each(|_| count(Metric::EventsAccepted));
        Ok(ids)
    }

    async fn note(&self, presences: Vec<(FullJid, Availability, OffsetDateTime)>) -> Result<(), StoreError> {
        stream::iter(presences)
            .map(async |(session, availability, at)| self.store.set_presence(&session, availability, at).await)
            .buffer_unordered(PRESENCE_WRITES)
            .try_collect()
            .await
    }
}

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
