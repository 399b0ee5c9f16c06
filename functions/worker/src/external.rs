//! A plugin that is a Lambda function, in any language: docs/plugin-lambda.md has the JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use futures_util::future::join_all;
use pushlark_plugin::{
    Choice, Defaults, Event, EventKind, Payload, Plugin, Publication, PublishService, Recipient, Rule,
};
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_telemetry::{Causes, Metric, count};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// How long the first of several events waits for others that can be asked about in the same call.
const GATHERING: Duration = Duration::from_millis(10);
/// The most that one call carries; Lambda takes 6 MB ("Lambda quotas").
const MAX_REQUEST_BYTES: usize = 5 * 1024 * 1024;

/// The function that is asked, and the events that wait to be asked about.
pub struct External {
    client: Client,
    /// Its name or ARN.
    function: String,
    on_error: OnError,
    waiting: Mutex<Vec<Waiting>>,
}

/// What to do when the function gives no decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Ask again later.
    Retry,
    /// Decide as the defaults do.
    Defaults,
}

struct Waiting {
    /// The event, as JSON.
    event: String,
    /// How many services it has, by which the answer's references are checked.
    services: usize,
    reply: oneshot::Sender<Result<Answer, PluginError>>,
}

/// The function gave no decision. That is not the event's fault, so it can be asked again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PluginError {
    /// It was not reached, or did not answer in time.
    #[error("the plugin's function cannot be asked: {0}")]
    Unreachable(String),
    /// It failed.
    #[error("the plugin's function failed: {0}")]
    Failed(String),
    /// It answered what is not an answer.
    #[error("the plugin's function answered what cannot be understood: {0}")]
    Unreadable(String),
    /// What asked it has ended.
    #[error("the plugin's function was not asked")]
    NotAsked,
}

/// An event as the function gets it.
#[derive(Serialize)]
struct Question<'q> {
    id: &'q str,
    r#type: &'static str,
    at: String,
    from: &'q str,
    /// The user; of an unacknowledged message, the session.
    to: &'q str,
    chat: &'static str,
    body: Option<Cow<'q, str>>,
    stanza: String,
    unread_count: u32,
    recipient: AskedRecipient,
    services: Vec<AskedService<'q>>,
}

#[derive(Serialize)]
struct AskedRecipient {
    exists: bool,
    online: bool,
    /// The index of the service that the session is tied to.
    tied: Option<usize>,
}

#[derive(Serialize)]
struct AskedService<'q> {
    jid: &'q str,
    node: &'q str,
    options: &'q BTreeMap<String, String>,
    created_at: u64,
}

#[derive(Deserialize)]
struct Answers {
    /// One for each event, in their order.
    events: Vec<Box<RawValue>>,
}

/// The callbacks' answers for one event; those that are left out are the defaults'.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    prepare_notification: Option<Prepared>,
    /// By their index.
    should_publish: Option<Vec<usize>>,
    publish_notification: Option<Vec<AnsweredPublication>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Prepared {
    /// The message is skipped, for this reason.
    Skip(String),
    Payload(Fields),
}

#[derive(Debug, Deserialize)]
struct AnsweredPublication {
    /// By its index.
    service: usize,
    /// Another payload than the one that was prepared.
    payload: Option<Fields>,
}

/// The function's answers for one event, as the plugin that they are.
pub struct Answered {
    /// As the setting has it.
    name: String,
    services: Vec<PublishService>,
    answer: Answer,
}

impl OnError {
    /// From `PLUGIN_ON_ERROR`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        environment.choice(&catalogue::PLUGIN_ON_ERROR, [Self::Retry, Self::Defaults])
    }
}

impl External {
    /// The function called `function`.
    pub fn new(function: &str, timeout: Duration, on_error: OnError, aws: &SdkConfig) -> Self {
        // Both: what is left out here is as `aws` has it, and may be shorter.
        let timeouts = TimeoutConfig::builder().operation_timeout(timeout).operation_attempt_timeout(timeout).build();
        // The queue tries again, and leaves room for it.
        let retries = aws_sdk_lambda::config::retry::RetryConfig::disabled();
        let config = aws_sdk_lambda::config::Builder::from(aws).timeout_config(timeouts).retry_config(retries);
        Self {
            client: Client::from_conf(config.build()),
            function: function.into(),
            on_error,
            waiting: Mutex::default(),
        }
    }

    /// Asks about one event, in one call with others that are asked about at the same time.
    pub async fn ask(
        self: &Arc<Self>,
        event: &Event,
        recipient: &Recipient,
        services: &[PublishService],
    ) -> Result<Answered, PluginError> {
        let answered =
            |answer| Answered { name: format!("lambda:{}", self.function), services: services.to_vec(), answer };
        if services.is_empty() {
            return Ok(answered(Answer::default()));
        }
        let (reply, answer) = oneshot::channel();
        // Texts and numbers always serialize.
        let event = serde_json::to_string(&Question::new(event, recipient, services)).unwrap_or_default();
        let is_first = {
            // Each change is complete in itself.
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Waiting { event, services: services.len(), reply });
            waiting.len() == 1
        };
        if is_first {
            // A task of its own: the others wait for it, whatever becomes of this event.
            tokio::spawn(Arc::clone(self).ask_for_all());
        }
        match answer.await.unwrap_or(Err(PluginError::NotAsked)) {
            Ok(answer) => Ok(answered(answer)),
            Err(error) if self.on_error == OnError::Defaults => {
                tracing::warn!(error = %Causes(&error), "decided as the defaults do");
                Ok(answered(Answer::default()))
            }
            Err(error) => Err(error),
        }
    }

    async fn ask_for_all(self: Arc<Self>) {
        sleep(GATHERING).await;
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut waiting = waiting.into_iter().peekable();
        let mut calls = Vec::new();
        while waiting.peek().is_some() {
            let mut bytes = 0;
            let mut together = Vec::new();
            while let Some(next) = waiting.next_if(|next| {
                bytes += next.event.len();
                together.is_empty() || bytes <= MAX_REQUEST_BYTES
            }) {
                together.push(next);
            }
            calls.push(self.ask_together(together));
        }
        join_all(calls).await;
    }

    /// Asks about all events by one call, and gives each its answer.
    async fn ask_together(&self, events: Vec<Waiting>) {
        let bodies: Vec<&str> = events.iter().map(|waiting| waiting.event.as_str()).collect();
        let answers: Vec<_> = match self.call(&bodies).await {
            Ok(answers) => answers.iter().zip(&events).map(|(answer, event)| read(answer, event.services)).collect(),
            Err(error) => {
                count(Metric::PluginFailed);
                events.iter().map(|_| Err(error.clone())).collect()
            }
        };
        for (event, answer) in events.into_iter().zip(answers) {
            // Whoever asked may have been given up at the deadline.
            let _ = event.reply.send(answer);
        }
    }

    async fn call(&self, events: &[&str]) -> Result<Vec<Box<RawValue>>, PluginError> {
        let payload = format!(r#"{{"version":1,"events":[{}]}}"#, events.join(","));
        let called = self.client.invoke().function_name(&self.function).payload(Blob::new(payload)).send().await;
        let answered = called.map_err(|error| PluginError::Unreachable(Causes(&error).to_string()))?;
        if let Some(error) = answered.function_error {
            return Err(PluginError::Failed(error));
        }
        let payload = answered.payload.unwrap_or_else(|| Blob::new([]));
        let answers: Answers = serde_json::from_slice(payload.as_ref()).map_err(PluginError::unreadable)?;
        if answers.events.len() != events.len() {
            let (asked, answered) = (events.len(), answers.events.len());
            return Err(PluginError::Unreadable(format!("{answered} answers for {asked} events")));
        }
        Ok(answers.events)
    }
}

/// Reads the answer for an event that has so many services.
fn read(answer: &RawValue, services: usize) -> Result<Answer, PluginError> {
    let answer: Answer = serde_json::from_str(answer.get()).map_err(PluginError::unreadable)?;
    let unknown = answer.references().find(|index| *index >= services);
    match unknown {
        Some(index) => Err(PluginError::Unreadable(format!("service {index}, of {services} services"))),
        None => Ok(answer),
    }
}

impl PluginError {
    /// The error's own text may quote the answer, which is not for the log.
    fn unreadable(error: serde_json::Error) -> Self {
        Self::Unreadable(format!("line {}, column {}", error.line(), error.column()))
    }
}

impl<'q> Question<'q> {
    fn new(event: &'q Event, recipient: &Recipient, services: &'q [PublishService]) -> Self {
        let Recipient { exists, online, tied } = recipient;
        Self {
            id: &event.id,
            r#type: event.kind.as_str(),
            // All times that an event may have can be written.
            at: event.at.format(&Rfc3339).unwrap_or_default(),
            from: event.from.as_str(),
            to: match &event.kind {
                EventKind::Message(user) => user.as_str(),
                EventKind::Unacknowledged(session) => session.as_str(),
            },
            chat: event.message.kind().as_str(),
            body: event.message.body(),
            stanza: event.message.element().to_string(),
            unread_count: event.unread_count,
            recipient: AskedRecipient {
                exists: *exists,
                online: *online,
                tied: services.iter().position(|service| Some(service) == tied.as_ref()),
            },
            services: services.iter().map(AskedService::new).collect(),
        }
    }
}

impl<'q> AskedService<'q> {
    fn new(service: &'q PublishService) -> Self {
        Self {
            jid: service.jid.as_str(),
            node: &service.node,
            options: service.options.fields(),
            created_at: service.created_at,
        }
    }
}

impl Answer {
    /// The indexes of services that it names.
    fn references(&self) -> impl Iterator<Item = usize> {
        let publications = self.publish_notification.iter().flatten().map(|publication| publication.service);
        self.should_publish.iter().flatten().copied().chain(publications)
    }
}

impl Plugin for Answered {
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        match &self.answer.prepare_notification {
            None => Defaults.prepare_notification(event),
            Some(Prepared::Skip(reason)) => Err(Rule::new(self.name.clone(), reason.clone())),
            Some(Prepared::Payload(Fields(payload))) => Ok(payload.clone()),
        }
    }

    fn should_publish(&self, event: &Event, recipient: &Recipient, services: Vec<PublishService>) -> Choice {
        let Some(chosen) = &self.answer.should_publish else {
            return Defaults.should_publish(event, recipient, services);
        };
        let chosen: Vec<&PublishService> = chosen.iter().filter_map(|index| self.services.get(*index)).collect();
        Choice::by(services, |service| {
            (!chosen.contains(&service)).then(|| Rule::new(self.name.clone(), "the function leaves it out"))
        })
    }

    fn publish_notification(
        &self,
        event: &Event,
        prepared: Payload,
        services: Vec<PublishService>,
    ) -> Vec<Publication> {
        let Some(publications) = &self.answer.publish_notification else {
            return Defaults.publish_notification(event, prepared, services);
        };
        let publication = |AnsweredPublication { service, payload }: &AnsweredPublication| {
            let service = self.services.get(*service).filter(|service| services.contains(service))?.clone();
            let payload = payload.as_ref().map_or_else(|| prepared.clone(), |Fields(payload)| payload.clone());
            Some(Publication { service, payload })
        };
        publications.iter().filter_map(publication).collect()
    }
}

/// A payload's fields in the order in which they stand; numbers and booleans as the text that they are.
#[derive(Debug)]
struct Fields(Payload);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings, numbers and booleans")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Payload, A::Error> {
                let mut payload = Payload::default();
                while let Some((name, value)) = fields.next_entry::<String, Value>()? {
                    payload = match value {
                        Value::String(text) => payload.with(name, text),
                        Value::Number(_) | Value::Bool(_) => payload.with(name, value.to_string()),
                        _ => return Err(A::Error::custom("a field is neither a string, a number nor a boolean")),
                    };
                }
                Ok(payload)
            }
        }

        deserializer.deserialize_map(FieldsVisitor).map(Self)
    }
}
