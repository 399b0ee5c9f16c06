//! A plugin that is a Lambda function, in any language. docs/plugin-lambda.md describes the JSON.

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
use pushlark_model::{ClientState, Payload, Registration};
use pushlark_plugin::{Choice, Defaults, Event, EventKind, Plugin, Publication, Recipient, Rule};
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_telemetry::{Causes, Metric, count};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// The delay before a call, in which further events join it.
const BATCH_DELAY: Duration = Duration::from_millis(10);
/// The most bytes of events in one call. Lambda accepts 6 MB ("Lambda quotas").
const MAX_REQUEST_BYTES: usize = 5 * 1024 * 1024;
/// The code of the function's reasons in log lines, whose texts are of any length.
const CODE: &str = "lambda";

/// The plugin's function, and the events that wait for its next call.
pub struct External {
    client: Client,
    /// The function's name or ARN.
    function: String,
    on_error: OnError,
    waiting: Mutex<Vec<Waiting>>,
}

/// The setting `PLUGIN_ON_ERROR`: the handling of an event for which the function gives no decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Retry the event later.
    Retry,
    /// Decide by the default rules.
    Defaults,
}

struct Waiting {
    /// The JSON of a [`Question`].
    event: String,
    /// The number of the event's registrations. The answer refers to them by index.
    services: usize,
    reply: oneshot::Sender<Result<PluginAnswer, PluginError>>,
}

/// The function gave no decision. The event is not the cause, so the caller may retry it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PluginError {
    /// The function was not reached, or did not answer in time. A later retry may succeed.
    #[error("no answer from the plugin's function: {0}")]
    Unreachable(String),
    /// The function reported an error. A later retry may succeed.
    #[error("the plugin's function failed: {0}")]
    Failed(String),
    /// The answer is not of the documented form. A retry succeeds only if the function answers differently.
    #[error("invalid answer from the plugin's function: {0}")]
    Unreadable(String),
    /// The task that calls the function ended early. A later retry may succeed.
    #[error("the plugin's function was not called")]
    NotAsked,
}

/// An event in the request to the function.
#[derive(Serialize)]
struct Question<'q> {
    id: &'q str,
    r#type: &'static str,
    at: String,
    from: &'q str,
    /// The name of the sender for people; null if it is not known.
    sender_name: Option<&'q str>,
    /// The name of the room for people; null if it is not known.
    room_name: Option<&'q str>,
    /// The number of recipients of the event in the webhook.
    members: u32,
    /// Whether the recipient is the author, in another session.
    is_own: bool,
    /// The recipient: the user's bare JID, or the session's full JID for an unacknowledged message.
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
    /// The state of the clients of a user who is online; null if it is not known.
    client_state: Option<ClientState>,
    /// Whether the user knows the sender; null if it is not known.
    sender_known: Option<bool>,
    /// The index in `services` of the registration that the session is tied to.
    tied: Option<usize>,
    /// The indexes in `services` of the registrations whose own session is online and active.
    connected: Vec<usize>,
}

#[derive(Serialize)]
struct AskedService<'q> {
    jid: &'q str,
    node: &'q str,
    options: &'q BTreeMap<String, String>,
    created_at: u64,
}

/// The response of the function to one call.
#[derive(Deserialize)]
struct PluginAnswers {
    /// One answer for each event of the request, in the same order.
    events: Vec<Box<RawValue>>,
}

/// The answers of the callbacks for one event. The default rules apply to missing ones.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginAnswer {
    prepare_notification: Option<Prepared>,
    /// Indexes in the `services` of the event.
    should_publish: Option<Vec<usize>>,
    publish_notification: Option<Vec<AnsweredPublication>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Prepared {
    /// The message is skipped for this reason.
    Skip(String),
    Payload(PayloadFields),
}

#[derive(Debug, Deserialize)]
struct AnsweredPublication {
    /// An index in the `services` of the event.
    service: usize,
    /// The payload, if it is not the prepared one.
    payload: Option<PayloadFields>,
}

/// A plugin that returns the function's answers for one event.
pub struct AnsweredPlugin {
    /// The value of `PLUGIN`.
    name: String,
    services: Vec<Registration>,
    answer: PluginAnswer,
}

impl OnError {
    /// Reads `PLUGIN_ON_ERROR`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        environment.choice(&catalogue::PLUGIN_ON_ERROR, [Self::Retry, Self::Defaults])
    }
}

impl External {
    /// Returns a plugin that calls `function`, a name or an ARN. `timeout` is for one call.
    pub fn new(function: &str, timeout: Duration, on_error: OnError, aws: &SdkConfig) -> Self {
        // Both are set, because a timeout that is not set comes from `aws` and may be shorter.
        let timeouts = TimeoutConfig::builder().operation_timeout(timeout).operation_attempt_timeout(timeout).build();
        // The queue retries instead, after a longer delay.
        let retries = aws_sdk_lambda::config::retry::RetryConfig::disabled();
        let config = aws_sdk_lambda::config::Builder::from(aws).timeout_config(timeouts).retry_config(retries);
        Self {
            client: Client::from_conf(config.build()),
            function: function.into(),
            on_error,
            waiting: Mutex::default(),
        }
    }

    /// Asks the function about one event. Events that arrive within `BATCH_DELAY` go into one call.
    pub async fn ask(
        self: &Arc<Self>,
        event: &Event,
        recipient: &Recipient,
        services: &[Registration],
    ) -> Result<AnsweredPlugin, PluginError> {
        let answered =
            |answer| AnsweredPlugin { name: format!("lambda:{}", self.function), services: services.to_vec(), answer };
        if services.is_empty() {
            return Ok(answered(PluginAnswer::default()));
        }
        let (reply, answer) = oneshot::channel();
        // Texts and numbers can always be serialized.
        let event = serde_json::to_string(&Question::new(event, recipient, services)).unwrap_or_default();
        let is_first = {
            // A panic leaves no change half done, so a poisoned lock is safe to use.
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Waiting { event, services: services.len(), reply });
            waiting.len() == 1
        };
        if is_first {
            // A separate task: other events need the call even if this event's task is cancelled.
            tokio::spawn(Arc::clone(self).ask_for_all());
        }
        match answer.await.unwrap_or(Err(PluginError::NotAsked)) {
            Ok(answer) => Ok(answered(answer)),
            Err(error) if self.on_error == OnError::Defaults => {
                tracing::warn!(error = %Causes(&error), "no decision by the plugin: the default rules apply");
                Ok(answered(PluginAnswer::default()))
            }
            Err(error) => Err(error),
        }
    }

    async fn ask_for_all(self: Arc<Self>) {
        sleep(BATCH_DELAY).await;
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

    /// Asks about all events in one call, and sends each its answer.
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
            // The receiver may be gone: its task is cancelled at the deadline.
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
        let answers: PluginAnswers = serde_json::from_slice(payload.as_ref()).map_err(PluginError::unreadable)?;
        if answers.events.len() != events.len() {
            let (asked, answered) = (events.len(), answers.events.len());
            return Err(PluginError::Unreadable(format!("{answered} answers for {asked} events")));
        }
        Ok(answers.events)
    }
}

/// Reads the answer for an event. Every index in it must be below `services`.
fn read(answer: &RawValue, services: usize) -> Result<PluginAnswer, PluginError> {
    let answer: PluginAnswer = serde_json::from_str(answer.get()).map_err(PluginError::unreadable)?;
    let unknown = answer.references().find(|index| *index >= services);
    match unknown {
        Some(index) => Err(PluginError::Unreadable(format!("index {index}, but the event has {services} services"))),
        None => Ok(answer),
    }
}

impl PluginError {
    /// Keeps only the position: the text of `error` may quote the answer, which must not be logged.
    fn unreadable(error: serde_json::Error) -> Self {
        Self::Unreadable(format!("line {}, column {}", error.line(), error.column()))
    }
}

impl<'q> Question<'q> {
    fn new(event: &'q Event, recipient: &Recipient, services: &'q [Registration]) -> Self {
        let Recipient { exists, online, client_state, tied, connected } = recipient;
        let index = |registration: &Registration| services.iter().position(|service| service == registration);
        Self {
            id: &event.id,
            r#type: event.kind.as_str(),
            // Every time that an event can have can be formatted.
            at: event.at.format(&Rfc3339).unwrap_or_default(),
            from: event.from.as_str(),
            sender_name: event.sender_name.as_deref(),
            room_name: event.room_name.as_deref(),
            members: event.members,
            is_own: event.is_own,
            to: match &event.kind {
                EventKind::Message(user) | EventKind::Subscription(user) => user.as_str(),
                EventKind::Unacknowledged(session) => session.as_str(),
            },
            chat: event.message.kind().as_str(),
            body: event.message.body(),
            stanza: event.message.element().to_string(),
            unread_count: event.unread_count,
            recipient: AskedRecipient {
                exists: *exists,
                online: *online,
                client_state: *client_state,
                sender_known: event.sender_known,
                tied: tied.as_ref().and_then(index),
                connected: connected.iter().filter_map(index).collect(),
            },
            services: services.iter().map(AskedService::new).collect(),
        }
    }
}

impl<'q> AskedService<'q> {
    fn new(service: &'q Registration) -> Self {
        Self {
            jid: service.jid.as_str(),
            node: &service.node,
            options: service.options.fields(),
            created_at: service.created_at,
        }
    }
}

impl PluginAnswer {
    /// Returns all indexes of `services` in the answer.
    fn references(&self) -> impl Iterator<Item = usize> {
        let publications = self.publish_notification.iter().flatten().map(|publication| publication.service);
        self.should_publish.iter().flatten().copied().chain(publications)
    }
}

impl Plugin for AnsweredPlugin {
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        match &self.answer.prepare_notification {
            None => Defaults.prepare_notification(event),
            Some(Prepared::Skip(reason)) => Err(Rule::new(self.name.clone(), reason.clone()).with_code(CODE)),
            Some(Prepared::Payload(PayloadFields(payload))) => Ok(payload.clone()),
        }
    }

    fn should_publish(&self, event: &Event, recipient: &Recipient, services: Vec<Registration>) -> Choice {
        let Some(chosen) = &self.answer.should_publish else {
            return Defaults.should_publish(event, recipient, services);
        };
        let chosen: Vec<&Registration> = chosen.iter().filter_map(|index| self.services.get(*index)).collect();
        Choice::by(services, |service| {
            let rule = || Rule::new(self.name.clone(), "the function leaves it out").with_code(CODE);
            (!chosen.contains(&service)).then(rule)
        })
    }

    fn publish_notification(
        &self,
        event: &Event,
        recipient: &Recipient,
        prepared: Payload,
        services: Vec<Registration>,
    ) -> Vec<Publication> {
        let Some(publications) = &self.answer.publish_notification else {
            return Defaults.publish_notification(event, recipient, prepared, services);
        };
        let publication = |AnsweredPublication { service, payload }: &AnsweredPublication| {
            let registration = self.services.get(*service).filter(|chosen| services.contains(chosen))?.clone();
            let payload = payload.as_ref().map_or_else(|| prepared.clone(), |PayloadFields(payload)| payload.clone());
            Some(Publication::new(registration, payload))
        };
        publications.iter().filter_map(publication).collect()
    }
}

/// The fields of a payload, in the order of the JSON. Numbers and booleans are kept as their JSON text.
#[derive(Debug)]
struct PayloadFields(Payload);

impl<'de> Deserialize<'de> for PayloadFields {
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
