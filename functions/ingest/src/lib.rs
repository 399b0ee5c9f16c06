//! Takes a chat server's webhooks: work goes to the queue, state into the table.

use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_events::{Effect, Event, Reading, Sources, read, read_notification};
use pushlark_http::sns::{Notification, SnsMessage, Topics};
use pushlark_http::{Access, Answer, Caller, Invocation, Methods, Problem, Request, Response, answer};
use pushlark_queue::{Queue, Record, Work};
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_store::{Admission, Availability, MAX_COUNTED, Store, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::Jid;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use time::OffsetDateTime;

/// How many writes to the table are made at once.
const WRITES: usize = 16;

/// The function.
#[derive(Debug, Clone)]
pub struct Function {
    access: Access,
    store: Store,
    queue: Queue,
    topics: Topics,
    sources: Sources,
    unread_counts: bool,
}

/// What an event changes at once.
enum State {
    Presence(Jid, Availability),
    Reading(Reading),
}

#[derive(Serialize)]
struct Accepted {
    accepted: usize,
    ids: Vec<String>,
}

impl Function {
    /// From `QUEUE_URL`, `UNREAD_COUNTS` and the settings of [`Store`], [`Topics`] and [`Sources`]. `access` admits servers;
    /// messages of SNS topics are admitted besides.
    pub fn from_environment(
        environment: &Environment,
        access: Access,
        dynamodb: aws_sdk_dynamodb::Client,
        sqs: aws_sdk_sqs::Client,
    ) -> Result<Self, SettingError> {
        let topics = Topics::from_environment(environment)?;
        Ok(Self {
            access: access.with_topics(topics.clone()),
            store: Store::from_environment(dynamodb, environment)?,
            queue: Queue::new(sqs, environment.require::<String>(&catalogue::QUEUE_URL)?),
            topics,
            sources: Sources::from_environment(environment)?,
            unread_counts: environment.switch(&catalogue::UNREAD_COUNTS)?,
        })
    }

    /// Answers one invocation, once all of its events are in the queue or in the table. One of SNS fails otherwise, so that
    /// Lambda tries again.
    pub async fn handle(&self, invocation: Invocation) -> Answer {
        if let Invocation::Direct(payload) = &invocation
            && let Some(notifications) = self.topics.delivered(payload)
        {
            return self.deliver(notifications).await;
        }
        answer(&self.access, Methods::Post, invocation, async |request| {
            if let Some(answer) = self.subscription(&request).await? {
                return Ok(answer);
            }
            let events = read(&request, &self.sources, OffsetDateTime::now_utc())?;
            let ids = self.accept(events, &request.caller).await?;
            Response::json(202, &Accepted { accepted: ids.len(), ids })
        })
        .await
    }

    /// Answers a message of SNS about a subscription.
    async fn subscription(&self, request: &Request) -> Result<Option<Response>, Problem> {
        let status = match &request.sns {
            Some(SnsMessage::SubscriptionConfirmation(subscription)) => {
                self.topics.confirm(subscription).await?;
                "subscribed"
            }
            Some(SnsMessage::UnsubscribeConfirmation(subscription)) => {
                tracing::warn!(topic = subscription.topic_arn, "unsubscribed");
                "unsubscribed"
            }
            Some(SnsMessage::Notification(_)) | None => return Ok(None),
        };
        Response::json(200, &json!({"status": status})).map(Some)
    }

    async fn deliver(&self, notifications: Result<Vec<Notification>, String>) -> Answer {
        let now = OffsetDateTime::now_utc();
        let read = |notifications: Vec<Notification>| -> Result<Vec<Event>, String> {
            notifications.iter().map(|notification| read_notification(notification, &self.sources, now)).collect()
        };
        let accepted = match notifications.and_then(read) {
            Ok(events) => self.accept(events, &Caller::Operator).await.map_err(|problem| problem.to_json()),
            Err(error) => Err(error),
        };
        match accepted {
            Ok(_) => Answer::Direct(RawValue::NULL.to_owned()),
            Err(reason) => {
                tracing::error!(reason, "a message of SNS was not taken");
                Answer::Failed(reason)
            }
        }
    }

    async fn accept(&self, events: Vec<Event>, caller: &Caller) -> Result<Vec<String>, Problem> {
        let charged: Vec<_> =
            events.iter().flat_map(|event| event.charged(caller)).map(|domain| domain.as_str()).collect();
        let admission = self.store.admit(&charged).await.map_err(|error| {
            tracing::error!(error = %Causes(&error), "events not counted");
            Problem::unavailable()
        })?;
        match admission {
            Admission::Admitted => {}
            Admission::Exceeded(domain, wait) => {
                let detail = format!("{domain} sends more than it may, try again later");
                return Err(Problem::too_many_requests(detail, wait));
            }
            Admission::TooMany(domains) => return Err(Problem::too_many_domains(domains, MAX_COUNTED)),
        }
        let (mut ids, mut state, mut work) = (Vec::with_capacity(events.len()), Vec::new(), Vec::new());
        for Event { id, at, effect, reading } in events {
            tracing::debug!(id, ?effect, "accepted");
            ids.push(id.clone());
            if let Some(reading) = reading.filter(|_| self.unread_counts) {
                state.push((State::Reading(reading), at));
            }
            match effect {
                Effect::Queue(subject) => work.push(Work::new(id, at, subject)),
                Effect::Presence(session, availability) => state.push((State::Presence(session, availability), at)),
                Effect::Read(reading) if self.unread_counts => state.push((State::Reading(reading), at)),
                Effect::Read(_) | Effect::None(_) => {}
            }
        }
        // State goes first, so that a message does not overtake the "offline" before it.
        self.note(state).await.map_err(|error| {
            tracing::error!(ids = ids.join(" "), error = %Causes(&error), "state not noted");
            Problem::unavailable()
        })?;
        self.queue.send(&Record::pack(work)).await.map_err(|error| {
            tracing::error!(ids = ids.join(" "), error = %Causes(&error), "not queued");
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
