//! Accepts the webhooks of chat servers: sends messages and removals to the queue, and writes presence and read marks
//! to the table.

use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_sqs::Client as Sqs;
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_access::{Access, Caller};
use pushlark_events::{Effect, ReadMark, Sources, WebhookEvent, read};
use pushlark_http::{Answer, Init, Invocation, Methods, Problem, Response, answer};
use pushlark_model::Availability;
use pushlark_queue::{Queue, Record, Work};
use pushlark_settings::{SettingError, catalogue};
use pushlark_sns::{SnsMessage, Topics};
use pushlark_store::{Store, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::Jid;
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

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
    unread_counts: bool,
}

/// A change that is written to the table before the response, without the queue.
enum StateChange {
    Presence(Jid, Availability),
    ReadMark(ReadMark),
}

#[derive(Serialize)]
struct Accepted {
    accepted: usize,
    ids: Vec<String>,
}

impl Function {
    /// Reads `QUEUE_URL`, `UNREAD_COUNTS` and the settings of [`Store`], [`Topics`] and [`Sources`]. The secrets of
    /// servers are accepted, and the messages of the configured SNS topics.
    pub fn from_environment(init: &Init, dynamodb: DynamoDb, sqs: Sqs) -> Result<Self, SettingError> {
        let Init { environment, access, .. } = init;
        let topics = Topics::from_environment(environment)?;
        Ok(Self {
            access: access.clone().with_topics(topics.clone()),
            store: Store::from_environment(dynamodb, environment)?,
            queue: Queue::new(sqs, environment.require::<String>(&catalogue::QUEUE_URL)?),
            topics,
            sources: Sources::from_environment(environment)?,
            unread_counts: environment.switch(&catalogue::UNREAD_COUNTS)?,
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

    /// Charges the events to `RATE_LIMIT`, writes the state and queues the work. Returns the ids of the events.
    async fn accept(&self, events: Vec<WebhookEvent>, caller: &Caller) -> Result<Vec<String>, Problem> {
        let charged: Vec<_> =
            events.iter().flat_map(|event| event.charged(caller)).map(|domain| domain.as_str()).collect();
        self.store.charge(&charged).await?;
        let (mut ids, mut state, mut work) = (Vec::with_capacity(events.len()), Vec::new(), Vec::new());
        for WebhookEvent { id, at, effect, read_mark } in events {
            tracing::debug!(id, ?effect, "accepted");
            ids.push(id.clone());
            if let Some(read_mark) = read_mark.filter(|_| self.unread_counts) {
                state.push((StateChange::ReadMark(read_mark), at));
            }
            match effect {
                Effect::Queue(kind) | Effect::CallAnswer { work: kind, .. } => work.push(Work::new(id, at, kind)),
                Effect::Presence(session, availability) => {
                    state.push((StateChange::Presence(session, availability), at))
                }
                Effect::Read(read_mark) if self.unread_counts => state.push((StateChange::ReadMark(read_mark), at)),
                Effect::Read(_) | Effect::None(_) => {}
            }
        }
        // State is written first, so that a message is not handled before an earlier "offline".
        self.save(state).await.map_err(|error| {
            tracing::error!(ids = ids.join(" "), error = %Causes(&error), "state not stored");
            Problem::unavailable()
        })?;
        self.queue.send(&Record::pack(work)).await.map_err(|error| {
            tracing::error!(ids = ids.join(" "), error = %Causes(&error), "not queued");
            Problem::unavailable()
        })?;
        ids.iter().for_each(|_| count(Metric::EventsAccepted));
        Ok(ids)
    }

    async fn save(&self, state: Vec<(StateChange, OffsetDateTime)>) -> Result<(), StoreError> {
        stream::iter(state)
            .map(async |(state, at)| match state {
                StateChange::Presence(session, availability) => {
                    self.store.set_presence(&session, availability, at).await
                }
                StateChange::ReadMark(ReadMark { user, conversation }) => {
                    self.store.note_read(&user, &conversation, at).await
                }
            })
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .try_collect()
            .await
    }
}
