//! Takes a chat server's webhooks: work goes to the queue, state into the table.

use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_events::{Effect, Event, Reading, Sources, read};
use pushlark_http::sns::{MESSAGE_TYPE, SnsMessage};
use pushlark_http::{Access, Answer, Invocation, Methods, Problem, Request, Response, answer};
use pushlark_queue::{Queue, Record, Work};
use pushlark_store::{Admission, Availability, MAX_COUNTED, Store, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::Jid;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
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
    /// What the settings say of those who tell events.
    pub sources: Sources,
    /// Whether unread counts are kept, so that what is read is noted.
    pub unread_counts: bool,
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

/// What Lambda invokes a function with that is subscribed to a topic of SNS ("Using AWS Lambda with Amazon SNS").
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Deliveries {
    records: Vec<Delivery>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delivery {
    sns: SnsMessage,
}

impl Function {
    /// Answers one invocation, once all of its events are in the queue or in the table. One of SNS fails otherwise, so that
    /// Lambda tries again.
    pub async fn handle(&self, invocation: Invocation) -> Answer {
        if let Invocation::Direct(payload) = &invocation
            && let Some(deliveries) = Deliveries::of(payload)
        {
            return self.deliver(deliveries).await;
        }
        answer(&self.access, Methods::Post, invocation, async |request| {
            if let Some(answer) = self.subscription(&request).await? {
                return Ok(answer);
            }
            let events = read(&request, &self.sources, OffsetDateTime::now_utc())?;
            let ids = self.accept(events).await?;
            Response::json(202, &Accepted { accepted: ids.len(), ids })
        })
        .await
    }

    /// What SNS says of a subscription itself. The access has checked that it is of SNS, and of a topic of the settings.
    async fn subscription(&self, request: &Request) -> Result<Option<Response>, Problem> {
        if request.header(MESSAGE_TYPE).is_none() {
            return Ok(None);
        }
        let message = SnsMessage::read(&request.body).map_err(Problem::bad_request)?;
        let status = match message.r#type.as_str() {
            "SubscriptionConfirmation" => {
                self.sources.topics.confirm(&message).await?;
                "subscribed"
            }
            "UnsubscribeConfirmation" => {
                tracing::warn!(topic = message.topic_arn, "unsubscribed");
                "unsubscribed"
            }
            _ => return Ok(None),
        };
        Response::json(200, &json!({"status": status})).map(Some)
    }

    async fn deliver(&self, deliveries: Result<Deliveries, String>) -> Answer {
        let read = |Deliveries { records }: Deliveries| -> Result<Vec<Event>, String> {
            let now = OffsetDateTime::now_utc();
            records.iter().map(|record| self.sources.read_sns(&record.sns, now)).collect()
        };
        let accepted = match deliveries.and_then(read) {
            Ok(events) => self.accept(events).await.map_err(|problem| problem.to_json()),
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

    async fn accept(&self, events: Vec<Event>) -> Result<Vec<String>, Problem> {
        let domains: Vec<_> = events.iter().flat_map(Event::domains).map(|domain| domain.as_str()).collect();
        let admission = self.store.admit(&domains).await.map_err(|error| {
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
                Effect::Queue(subject) => work.push(Work { id, at, subject }),
                Effect::Presence(session, availability) => state.push((State::Presence(session, availability), at)),
                Effect::Read(reading) if self.unread_counts => state.push((State::Reading(reading), at)),
                Effect::Read(_) | Effect::None => {}
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

impl Deliveries {
    /// What SNS delivers, if it is SNS that has the function invoked.
    fn of(payload: &RawValue) -> Option<Result<Self, String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Sources {
            records: Vec<Source>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Source {
            event_source: String,
        }

        let sources: Sources = serde_json::from_str(payload.get()).ok()?;
        let is_sns = sources.records.iter().any(|record| record.event_source == "aws:sns");
        is_sns.then(|| serde_json::from_str(payload.get()).map_err(|error| error.to_string()))
    }
}
