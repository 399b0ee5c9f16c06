//! Explains how events would be handled, and why. Nothing is published, claimed or counted.

use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_delivery::Notification;
use pushlark_events::{Arrival, Effect, ReadMark, WebhookEvent, read_event};
use pushlark_model::{Activity, Availability, ClientState, Payload, Registration};
use pushlark_plugin::{Event, Publication};
use pushlark_queue::{ReportedRecipient, Work, WorkKind};
use pushlark_store::{Replaced, StoreError};
use pushlark_xmpp::{BareJid, MessageType};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::clear::ReadConversation;
use crate::decision::{Decision, PlannedPublication, Reason, RecipientState};
use crate::external::PluginError;
use crate::notify::DecisionError;
use crate::task::{Action, Attempt, Task, TaskError};
use crate::worker::Worker;

/// The maximum number of recipients that are explained concurrently.
const MAX_CONCURRENT_EXPLANATIONS: usize = 32;
/// The most recipients of one call, which times out after ten seconds.
const MAX_EXPLAINED_RECIPIENTS: usize = 1_000;

/// The reason why events are not explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The invocation has neither a batch nor events. The caller must send one of them.
    #[error("the invocation has neither Records nor explain")]
    Nothing,
    /// One of the events is invalid. The caller must correct it.
    #[error("event {index}: {detail}")]
    BadEvent {
        /// The index of the event in the request, from 0.
        index: usize,
        /// The reason why the event is invalid.
        detail: String,
    },
    /// The events have too many recipients. The caller must split the request.
    #[error("the events have {0} recipients, the limit is {MAX_EXPLAINED_RECIPIENTS}")]
    TooMany(usize),
    /// The stanza of an event is not a message. The caller must correct it.
    #[error(transparent)]
    Unreadable(#[from] TaskError),
    /// The table did not answer. A later retry may succeed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The plugin's function gave no decision. A later retry may succeed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

/// The explanations of events, in the order of the request.
#[derive(Debug, Serialize)]
pub struct Explained {
    explained: Vec<ExplainedEvent>,
}

#[derive(Debug, Serialize)]
struct ExplainedEvent {
    id: String,
    /// The action that ingest or the worker would take.
    effect: String,
    /// The conversations that the event marks as read, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    reads: Option<String>,
    /// The registrations whose notifications it clears, with `CLEAR_WHEN_READ`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    clears: Vec<ExplainedRegistration>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    recipients: Vec<Explanation>,
}

/// The explanation for one recipient.
#[derive(Debug, Serialize)]
struct Explanation {
    recipient: String,
    #[serde(flatten)]
    outcome: ExplainedOutcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ExplainedOutcome {
    /// The plugin skips the message by this rule, so no further step follows.
    Skipped {
        skipped: String,
    },
    Decided(Steps),
}

/// The steps of a decision, in order.
#[derive(Debug, Serialize)]
struct Steps {
    /// The reason why nobody is notified, if no step shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<&'static str>,
    unread_count: u32,
    /// The badge, if it is not the unread count.
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<u32>,
    registrations: Vec<ExplainedRegistration>,
    exists: bool,
    online: bool,
    /// The state of the clients of a recipient who is online, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_state: Option<ClientState>,
    /// The source of `online`: `event`, `sessions` or `assumed`.
    presence: &'static str,
    /// The registration that the session of an unacknowledged message is tied to.
    #[serde(skip_serializing_if = "Option::is_none")]
    tied: Option<ExplainedRegistration>,
    left_out: Vec<LeftOut>,
    publications: Vec<Target>,
}

#[derive(Debug, Serialize)]
struct ExplainedRegistration {
    jid: String,
    node: String,
}

#[derive(Debug, Serialize)]
struct LeftOut {
    #[serde(flatten)]
    registration: ExplainedRegistration,
    why: String,
}

#[derive(Debug, Serialize)]
struct Target {
    #[serde(flatten)]
    registration: ExplainedRegistration,
    #[serde(serialize_with = "in_order")]
    payload: Payload,
    target: String,
    /// Present if it makes no sound because of `ALERT_INTERVAL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet: Option<bool>,
    /// The operator's rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Arc<str>>,
    /// Present while the push service is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<&'static str>,
}

impl Explanation {
    fn is_notified(&self) -> bool {
        matches!(&self.outcome, ExplainedOutcome::Decided(steps) if !steps.publications.is_empty())
    }
}

impl Worker {
    /// Explains events in the JSON that `/events` accepts. The result serializes as
    /// `{"explained": [{"id", "effect", "reads"?, "recipients"?: […]}, …]}`.
    pub async fn explain(&self, events: &[Box<RawValue>]) -> Result<Explained, ExplainError> {
        let first = Arrival { now: OffsetDateTime::now_utc(), at: None, id: None, sources: &self.sources };
        let events = events.iter().enumerate().map(|(index, event)| {
            read_event(event.get().as_bytes(), &first.nth(index))
                .map_err(|detail| ExplainError::BadEvent { index, detail })
        });
        let events: Vec<_> = events.collect::<Result<_, _>>()?;
        let recipients = events.iter().map(recipients).sum();
        if recipients > MAX_EXPLAINED_RECIPIENTS {
            return Err(ExplainError::TooMany(recipients));
        }
        self.refresh_rules().await;
        let mut explained = Vec::with_capacity(events.len());
        for event in events {
            explained.push(self.explain_event(event).await?);
        }
        Ok(Explained { explained })
    }

    async fn explain_event(&self, event: WebhookEvent) -> Result<ExplainedEvent, ExplainError> {
        let WebhookEvent { id, at, effect, mut read_marks, .. } = event;
        let mut recipients = Vec::new();
        if let Effect::Read(read_mark) = &effect {
            read_marks.push(read_mark.clone());
        }
        let reads: Vec<_> = read_marks.iter().map(|read_mark| self.explain_read(read_mark)).collect();
        let reads = (!reads.is_empty()).then(|| reads.join("; "));
        let mut clears = Vec::new();
        for ReadMark { user, conversation, .. } in read_marks.iter().filter(|_| self.clear_when_read) {
            let shown = self.store.shown(user, conversation).await?;
            if !shown.is_empty() {
                let read = ReadConversation { user: user.clone(), conversation: conversation.clone() };
                let clearing = self.clearing(&read, at, |registration| self.is_read(&shown, registration, at)).await?;
                let registrations = clearing.registrations.iter();
                clears.extend(registrations.map(|(registration, _)| ExplainedRegistration::new(registration)));
            }
        }
        let effect = match effect {
            Effect::Queue(WorkKind::UserRemoved { jid }) => format!("removes all data of {jid}"),
            Effect::Queue(WorkKind::DomainRemoved { domain }) => format!("removes the registrations of {domain}"),
            Effect::Queue(kind) | Effect::CallAnswer { work: kind, .. } => {
                let work = Work::new(id.clone(), at, kind);
                let tasks = Task::of(vec![work], "", false, &self.content_policy, &self.sources)?;
                let explained = tasks.into_iter().filter_map(|task| match task.action {
                    Action::Notify { event, reported } => Some(self.explain_recipient(event, reported, task.attempt)),
                    Action::NotifyDevice(_) | Action::Clear(_) | Action::RemoveUser(_) | Action::RemoveDomain(_) => {
                        None
                    }
                });
                recipients = stream::iter(explained).buffered(MAX_CONCURRENT_EXPLANATIONS).try_collect().await?;
                let is_any_notified = recipients.iter().any(Explanation::is_notified);
                if is_any_notified { "notifies" } else { "notifies nobody" }.into()
            }
            Effect::Presence(session, Availability::Online(Activity { client_state, is_away })) => {
                let note = match (client_state, is_away) {
                    (ClientState::Active, false) => "",
                    (ClientState::Active, true) => ", and away",
                    (ClientState::Inactive, false) => ", with an inactive client",
                    (ClientState::Inactive, true) => ", with an inactive client, and away",
                };
                format!("{session} is online from then on{note}")
            }
            Effect::Presence(session, Availability::Offline) => format!("{session} is offline from then on"),
            Effect::Read(_) => "notifies nobody".into(),
            Effect::NoRequest(_, reason) => format!("none: {reason}"),
            Effect::None(_) if reads.is_some() => "notifies nobody".into(),
            Effect::None(_) => "none: messages of the types headline and error do not notify".into(),
        };
        Ok(ExplainedEvent { id, effect, reads, clears, recipients })
    }

    fn explain_read(&self, ReadMark { user, conversation, message }: &ReadMark) -> String {
        let extent = match message {
            Some(message) => format!("the messages of {conversation} up to {message:?}"),
            None => format!("all messages of {conversation}"),
        };
        let effect_note = match (self.unread_counts, self.clear_when_read) {
            (false, false) => " (no effect: UNREAD_COUNTS is off)",
            _ => "",
        };
        format!("{user} has read {extent}{effect_note}")
    }

    async fn explain_recipient(
        &self,
        mut event: Box<Event>,
        reported: ReportedRecipient,
        attempt: Attempt,
    ) -> Result<Explanation, ExplainError> {
        let user = event.recipient();
        let claimed = self.store.claimed(attempt.claim_id(), &user).await?;
        let outcome = match self.decide(&mut event, &reported, claimed.counted()).await {
            Ok(Decision {
                snapshot,
                counters,
                known: RecipientState { recipient, presence, .. },
                left_out,
                publications,
                ..
            }) => {
                let badge = self.badge(&event, &reported, counters.as_ref(), &publications, false);
                let earlier = match &counters {
                    Some(counters) => self.counted_before(&event, counters).await?.and_then(|before| before.claim),
                    None => None,
                };
                let (others, mut ours): (Vec<_>, Vec<_>) = publications.into_iter().partition(|planned| {
                    let registration = &planned.publication.registration;
                    let has_claim =
                        claimed.has(registration) || earlier.as_ref().is_some_and(|claim| claim.has(registration));
                    self.is_claimed(&event, &user, planned) && has_claim
                });
                if let Some(alert) = self.alert(&event, &user, &event.from.to_bare()) {
                    self.explain_quiet(&alert, &snapshot, &mut ours);
                }
                let others = others.into_iter().map(|planned| (planned.publication.registration, Reason::Claimed));
                let has_none = snapshot.registrations.is_empty();
                ExplainedOutcome::Decided(Steps {
                    notice: has_none.then_some("nobody is notified: the recipient has no registration"),
                    unread_count: event.unread_count,
                    badge,
                    registrations: snapshot.registrations.iter().map(ExplainedRegistration::new).collect(),
                    exists: recipient.exists,
                    online: recipient.online,
                    client_state: recipient.client_state,
                    presence: presence.as_str(),
                    tied: recipient.tied.as_ref().map(ExplainedRegistration::new),
                    left_out: left_out
                        .into_iter()
                        .chain(others)
                        .map(|(registration, why)| LeftOut {
                            registration: ExplainedRegistration::new(&registration),
                            why: why.to_string(),
                        })
                        .chain(snapshot.replaced().map(LeftOut::replaced))
                        .collect(),
                    publications: join_all(ours.into_iter().map(|planned| target(&event, &user, badge, planned))).await,
                })
            }
            Err(DecisionError::Skipped(rule)) => ExplainedOutcome::Skipped { skipped: rule.to_string() },
            Err(DecisionError::Store(error)) => return Err(error.into()),
            Err(DecisionError::Plugin(error)) => return Err(error.into()),
        };
        Ok(Explanation { recipient: user.to_string(), outcome })
    }
}

async fn target(event: &Event, user: &BareJid, badge: Option<u32>, planned: PlannedPublication<'_>) -> Target {
    let PlannedPublication { publication, expires_at, publisher, is_quiet, .. } = planned;
    let Publication { registration, payload, presentation, rule } = publication;
    let (message_id, conversation) = (&event.id, &event.from.to_bare());
    let notification = Notification {
        message_id,
        user,
        conversation,
        registration: &registration,
        is_group: event.message.kind() == MessageType::Groupchat,
        payload: (&payload).into(),
        presentation: presentation.as_deref(),
        badge,
        expires_at,
    };
    let is_paused = publisher.is_paused(&notification).await;
    let notice = "the push service failed too often, and is paused: the notification is sent later";
    Target {
        target: publisher.describe(user, &registration),
        notice: is_paused.then_some(notice),
        registration: ExplainedRegistration::new(&registration),
        quiet: is_quiet.then_some(true),
        rule,
        payload,
    }
}

fn recipients(event: &WebhookEvent) -> usize {
    match &event.effect {
        Effect::Queue(WorkKind::Message { to, .. }) => to.len(),
        Effect::CallAnswer { .. } => 1,
        Effect::Queue(WorkKind::Unacknowledged { to, .. }) => to.len(),
        Effect::Queue(WorkKind::Subscription { .. }) => 1,
        _ => 0,
    }
}

impl LeftOut {
    /// Returns a registration that the user had: its device was enabled once more.
    fn replaced(Replaced { jid, node, by }: &Replaced) -> Self {
        let registration = ExplainedRegistration { jid: jid.to_string(), node: node.clone() };
        Self { registration, why: format!("disabled: {}", by.as_str()) }
    }
}

impl ExplainedRegistration {
    fn new(registration: &Registration) -> Self {
        Self { jid: registration.jid.to_string(), node: registration.node.clone() }
    }
}

fn in_order<S: Serializer>(payload: &Payload, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(payload.fields())
}
