//! Accepts the webhooks of chat servers: sends messages that may notify and removals to the queue, and writes presence
//! and read marks to the table.

mod screen;

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_sqs::Client as Sqs;
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_access::{Access, Caller};
use pushlark_events::{Effect, ReadMark, Sources, WebhookEvent, read};
use pushlark_http::{Answer, Init, Invocation, Methods, Problem, Response, answer};
use pushlark_model::Availability;
use pushlark_queue::{Queue, Work, WorkKind};
use pushlark_settings::{SettingError, catalogue};
use pushlark_sns::{SnsMessage, Topics};
use pushlark_store::{CountedRead, StillUnread, Store, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::{BareJid, Jid, Message};
use serde::Serialize;
use serde_json::json;
use time::{Duration, OffsetDateTime};

use crate::screen::Screen;

/// The maximum number of concurrent writes to the table.
const MAX_CONCURRENT_WRITES: usize = 16;

/// The function `ingest`: the state that all invocations of a process share.
#[derive(Debug, Clone)]
pub struct Function {
    access: Access,
    store: Store,
    queue: Queue,
    topics: Topics,
    sources: Sources,
    screen: Screen,
    unread_counts: bool,
    clear_when_read: bool,
}

/// The changes that are written to the table before the response, without the queue.
#[derive(Default)]
struct State {
    /// The presence of each session, in the order of the request.
    presence: HashMap<Jid, Vec<(Availability, OffsetDateTime)>>,
    read_marks: Vec<TimedReadMark>,
}

/// A read mark, with the id and the time of its event.
struct TimedReadMark {
    id: String,
    at: OffsetDateTime,
    read_mark: ReadMark,
    /// The time of the message that it names, if the same request has this message before it.
    message_at: Option<OffsetDateTime>,
    /// Whether it follows from a message that the user has written.
    is_reply: bool,
}

/// The order of the events of a request. The worker counts the messages after all read marks are stored, so the times
/// tell which of them a mark reads.
#[derive(Default)]
struct RequestOrder {
    /// The time of the last event, as the request tells it, and as it is stored.
    last: Option<(OffsetDateTime, OffsetDateTime)>,
    messages: Vec<RequestMessage>,
}

/// A message of a request that a later read mark may name.
struct RequestMessage {
    conversation: BareJid,
    to: Vec<BareJid>,
    /// The id of the event, the stanza's `id` and its stanza-ids.
    names: Vec<String>,
    at: OffsetDateTime,
}

#[derive(Serialize)]
struct Accepted {
    accepted: usize,
    ids: Vec<String>,
}

impl Function {
    /// Reads `QUEUE_URL`, `FAIR_QUEUES`, `PLUGIN`, `UNREAD_COUNTS`, `CLEAR_WHEN_READ` and the settings of [`Store`],
    /// [`Topics`] and [`Sources`]. The secrets of servers are accepted, and the messages of the configured SNS topics.
    pub fn from_environment(init: &Init, dynamodb: DynamoDb, sqs: Sqs) -> Result<Self, SettingError> {
        let Init { environment, access, .. } = init;
        let topics = Topics::from_environment(environment)?;
        let unread_counts = environment.switch(&catalogue::UNREAD_COUNTS)?;
        Ok(Self {
            access: access.clone().with_topics(topics.clone()),
            store: Store::from_environment(dynamodb, environment)?,
            queue: Queue::new(sqs, environment.require::<String>(&catalogue::QUEUE_URL)?)
                .fair(environment.switch(&catalogue::FAIR_QUEUES)?),
            topics,
            sources: Sources::from_environment(environment)?,
            screen: Screen::from_environment(environment, unread_counts)?,
            unread_counts,
            clear_when_read: environment.switch(&catalogue::CLEAR_WHEN_READ)?,
        })
    }

    /// Handles one invocation. It returns 202 with the ids of the events when all of them are in the queue or the
    /// table.
    pub async fn handle(&self, invocation: Invocation) -> Answer {
        answer(&self.access, Methods::Post, invocation, async |request| {
            match request.sns.as_slice() {
                [SnsMessage::SubscriptionConfirmation(subscription)] => {
                    self.topics.confirm(subscription).await?;
                    return Response::json(200, &json!({"status": "subscribed"}));
                }
                [SnsMessage::UnsubscribeConfirmation(subscription)] => {
                    tracing::warn!(topic = subscription.topic_arn, "unsubscribed");
                    return Response::json(200, &json!({"status": "unsubscribed"}));
                }
                _ => {}
            }
            let events = read(&request, &self.sources, OffsetDateTime::now_utc())?;
            let ids = self.accept(events, &request.caller).await?;
            Response::json(202, &Accepted { accepted: ids.len(), ids })
        })
        .await
    }

    /// Charges the events to `RATE_LIMIT`, writes the state and queues the work that the worker must do. Returns the ids
    /// of all events.
    async fn accept(&self, events: Vec<WebhookEvent>, caller: &Caller) -> Result<Vec<String>, Problem> {
        let charged: Vec<_> =
            events.iter().flat_map(|event| event.charged(caller)).map(|domain| domain.as_str()).collect();
        self.store.charge(&charged).await?;
        let (mut ids, mut state) = (Vec::with_capacity(events.len()), State::default());
        let mut work: Vec<(Work, Option<Arc<Message>>)> = Vec::new();
        let has_read_marks = self.unread_counts || self.clear_when_read;
        let mut request = RequestOrder::default();
        for WebhookEvent { id, mut at, mut effect, read_marks, message } in events {
            if has_read_marks {
                at = request.add(&id, at, &effect, message.as_deref());
            }
            tracing::debug!(id, ?effect, "accepted");
            ids.push(id.clone());
            if let Effect::Queue(WorkKind::Message { from, to, context, .. }) = &mut effect {
                context.is_reply = self.unread_counts && read_marks.iter().any(|mark| is_reply_to(mark, from, to));
            }
            if has_read_marks {
                state.read_marks.extend(read_marks.into_iter().map(|read_mark| {
                    let (is_reply, message_at) = (read_mark.message.is_none(), request.time_of(&read_mark));
                    TimedReadMark { id: id.clone(), at, read_mark, message_at, is_reply }
                }));
            }
            match effect {
                Effect::Queue(kind) | Effect::CallAnswer { work: kind, .. } => {
                    work.push((Work::new(id, at, kind), message));
                }
                Effect::Presence(session, availability) => {
                    state.presence.entry(session).or_default().push((availability, at))
                }
                Effect::Read(read_mark) if has_read_marks => {
                    let message_at = request.time_of(&read_mark);
                    state.read_marks.push(TimedReadMark { id, at, read_mark, message_at, is_reply: false });
                }
                Effect::Read(_) | Effect::NoRequest(..) | Effect::None(_) => {}
            }
        }
        // State is written first, so that a message is not handled before an earlier "offline".
        let read = self.save(state).await.map_err(|error| {
            tracing::error!(ids = ids.join(" "), error = %Causes(&error), "state not stored");
            Problem::unavailable()
        })?;
        let mut work = self.screen.needed(work, &self.sources, &self.store).await;
        work.extend(read);
        self.queue.send(work).await.map_err(|error| {
            tracing::error!(ids = ids.join(" "), error = %Causes(&error), "not queued");
            Problem::unavailable()
        })?;
        ids.iter().for_each(|_| count(Metric::EventsAccepted));
        Ok(ids)
    }

    /// Writes the state. Returns the work that follows from the read marks.
    async fn save(&self, State { presence, read_marks }: State) -> Result<Vec<Work>, StoreError> {
        if presence.is_empty() && read_marks.is_empty() {
            return Ok(Vec::new());
        }
        let presence = stream::iter(presence).map(async |(session, presence)| {
            // One after the other: of two presences with the same time, the later one in the request applies.
            for (availability, at) in presence {
                self.store.set_presence(&session, availability, at).await?;
            }
            Ok(())
        });
        let read_marks = stream::iter(read_marks).map(async |read_mark| self.read(read_mark).await);
        presence.buffer_unordered(MAX_CONCURRENT_WRITES).try_collect::<()>().await?;
        let work: Vec<Option<Work>> = read_marks.buffered(MAX_CONCURRENT_WRITES).try_collect().await?;
        Ok(work.into_iter().flatten().collect())
    }

    /// Stores a read mark. Returns the work that clears the notifications of the conversation, if there are any.
    async fn read(&self, read_mark: TimedReadMark) -> Result<Option<Work>, StoreError> {
        let TimedReadMark { id, at, read_mark, message_at, is_reply } = read_mark;
        let ReadMark { user: jid, conversation, message } = read_mark;
        let counted = CountedRead { message: message.as_deref(), message_at, at };
        let still_unread = match self.unread_counts {
            true if is_reply => Some(self.store.note_reply(&jid, &conversation, at).await?),
            true => Some(self.store.note_read(&jid, &conversation, counted).await?),
            false => None,
        };
        if !self.clear_when_read || still_unread == Some(StillUnread::All) {
            return Ok(None);
        }
        let shown = self.store.shown(&jid, &conversation).await?;
        // The counter tells what a mark reads that names a message, or that leaves something unread; otherwise its time
        // does, and what came later stays.
        let is_read = match still_unread {
            Some(StillUnread::Last) => !shown.is_empty(),
            Some(_) if message.is_some() => !shown.is_empty(),
            _ => shown.has_any_until(at),
        };
        if !is_read {
            return Ok(None);
        }
        // A message to oneself is also a read mark of its recipient, so the two claims need different ids.
        let id = format!("read/{conversation}/{id}");
        Ok(Some(Work::new(id, at, WorkKind::Read { jid, conversation })))
    }
}

impl RequestOrder {
    /// The smallest difference of two times in the table.
    const STEP: Duration = Duration::MICROSECOND;

    /// Adds an event, and returns its time: later than that of an event before it that has the same time.
    fn add(&mut self, id: &str, at: OffsetDateTime, effect: &Effect, message: Option<&Message>) -> OffsetDateTime {
        let told = at;
        let at = match self.last {
            Some((last_told, last)) if last_told == told => last + Self::STEP,
            _ => told,
        };
        self.last = Some((told, at));
        if let Effect::Queue(WorkKind::Message { from, to, .. }) = effect {
            let references = message.into_iter().flat_map(|message| {
                let stanza_ids = message.stanza_ids().map(|(_, id)| id);
                stanza_ids.chain(message.element().attribute("id")).map(Into::into).collect::<Vec<_>>()
            });
            let names = references.chain([id.to_owned()]).collect();
            self.messages.push(RequestMessage { conversation: from.to_bare(), to: to.clone(), names, at });
        }
        at
    }

    /// Returns the time of the message that a read mark names, if the request has it.
    fn time_of(&self, ReadMark { user, conversation, message }: &ReadMark) -> Option<OffsetDateTime> {
        let named = message.as_ref()?;
        let is_named = |message: &&RequestMessage| {
            message.conversation == *conversation && message.to.contains(user) && message.names.contains(named)
        };
        self.messages.iter().rev().find(is_named).map(|message| message.at)
    }
}

/// Returns whether the sender of a message has read the conversation with its recipient by writing it.
fn is_reply_to(ReadMark { user, conversation, message }: &ReadMark, from: &Jid, to: &[BareJid]) -> bool {
    message.is_none() && *user == from.to_bare() && to == std::slice::from_ref(conversation)
}
