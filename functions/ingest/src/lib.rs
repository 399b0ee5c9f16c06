//! Takes a chat server's webhooks: work goes to the queue, state into the table.

use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_events::{Effect, Event, Reading, read};
use pushlark_http::{Access, Answer, Invocation, Problem, Response, answer};
use pushlark_queue::{Queue, Record, Work};
use pushlark_store::{Availability, Store, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::FullJid;
use serde::Serialize;
use time::OffsetDateTime;

/// How many writes to the table are made at once.
const WRITES: usize = 16;

/// The function.
#[derive(Debug, Clone)]
pub struct Function {
    /// Who may call.
    pub access: Access,
    /// Where sessions are kept.
    pub store: Store,
    /// Where work goes.
    pub queue: Queue,
    /// Whether unread counts are kept, so that what is read is noted.
    pub unread_counts: bool,
}

/// What an event changes at once.
enum State {
    Presence(FullJid, Availability),
    Reading(Reading),
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
        let (mut ids, mut state, mut work) = (Vec::with_capacity(events.len()), Vec::new(), Vec::new());
        for Event { id, at, effect, reading } in events {
            tracing::debug!(id, ?effect, "accepted");
            ids.push(id.clone());
            if let Some(reading) = reading.filter(|_| self.unread_counts) {
                state.push((State::Reading(reading), at));
            }
            match effect {
                Effect::Queue(subject) => work.push(Work { id, at, subject }),
                Effect::Presence(session, availability) => state.push((State::Presence(session, availability), at)),
                Effect::None => {}
            }
        }
        // State goes first, so that a message does not overtake the "offline" before it.
        self.note(state).await.map_err(|error| {
            tracing::error!(?ids, error = %Causes(&error), "state not noted");
            Problem::unavailable()
        })?;
        self.queue.send(&Record::pack(work)).await.map_err(|error| {
            tracing::error!(?ids, error = %Causes(&error), "not queued");
            Problem::unavailable()
        })?;
        ids.iter().for_each(|_| count(Metric::EventsAccepted));
        Ok(ids)
    }

    async fn note(&self, state: Vec<(State, OffsetDateTime)>) -> Result<(), StoreError> {
        stream::iter(state)
            .map(async |(state, at)| match state {
                State::Presence(session, availability) => self.store.set_presence(&session, availability, at).await,
                State::Reading(Reading { user, conversation }) => self.store.note_read(&user, &conversation, at).await,
            })
            .buffer_unordered(WRITES)
            .try_collect()
            .await
    }
}
