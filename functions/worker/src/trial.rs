//! Tries a plugin on an event, without a table and without a push service.

use std::sync::Arc;

use aws_config::SdkConfig;
use pushlark_delivery::Delivery;
use pushlark_events::{Arrival, Effect, Sources, read_event};
use pushlark_model::Registration;
use pushlark_plugin::{ContentPolicy, Plugin, Publication, Rule};
use pushlark_queue::Work;
use pushlark_settings::{Environment, SettingError};
use pushlark_store::Snapshot;
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::call::TimeToLive;
use crate::decision::{RecipientState, decide};
use crate::task::{Action, Task, TaskError};
use crate::worker::content_policy;

/// The settings of a worker that decides about events for assumed recipients.
pub struct Trial {
    delivery: Delivery,
    content_policy: Arc<ContentPolicy>,
    sources: Sources,
    time_to_live: TimeToLive,
}

/// The decision for one recipient of an event.
#[derive(Debug)]
pub struct Tried {
    /// The recipient.
    pub recipient: BareJid,
    /// The decision, or the rule that skips the event.
    pub outcome: Result<TriedDecision, Rule>,
}

/// The decision for the registrations of a recipient.
#[derive(Debug)]
pub struct TriedDecision {
    /// The notifications, each with its registration.
    pub publications: Vec<Publication>,
    /// The registrations that are not notified, each with the reason.
    pub left_out: Vec<(Registration, String)>,
}

/// An event without a decision. The caller must correct it.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The JSON is not an event, for this reason.
    #[error("{0}")]
    BadEvent(String),
    /// The stanza of the event is not a message.
    #[error(transparent)]
    Unreadable(#[from] TaskError),
    /// The event has no decision that can be tried: it notifies nobody, or clears notifications.
    #[error("the event is neither a message nor a contact request that may notify")]
    NoDecision,
}

impl Trial {
    /// Reads the settings of a worker that concern decisions. `PUSH_SERVICE` must be a service without secrets in AWS.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            delivery: Delivery::from_environment(environment, &SdkConfig::builder().build())?,
            content_policy: Arc::new(content_policy(environment)?),
            sources: Sources::from_environment(environment)?,
            time_to_live: TimeToLive::from_environment(environment)?,
        })
    }

    /// Decides about an event in the JSON that `/events` accepts, for each of its recipients. `assumed` returns the
    /// registrations and sessions of a recipient.
    pub fn decide(
        &self,
        plugin: &dyn Plugin,
        event: &[u8],
        assumed: impl Fn(&BareJid) -> Snapshot,
    ) -> Result<Vec<Tried>, TrialError> {
        let arrival = Arrival { now: OffsetDateTime::now_utc(), at: None, id: None, sources: &self.sources };
        let event = read_event(event, &arrival).map_err(TrialError::BadEvent)?;
        let (Effect::Queue(kind) | Effect::CallAnswer { work: kind, .. }) = event.effect else {
            return Err(TrialError::NoDecision);
        };
        let work = vec![Work::new(event.id, event.at, kind)];
        let mut tried = Vec::new();
        for task in Task::of(work, "", false, &self.content_policy, &self.sources)? {
            let Action::Notify { event, reported } = task.action else { return Err(TrialError::NoDecision) };
            let recipient = event.recipient();
            let outcome = plugin.prepare_notification(&event).map(|payload| {
                let snapshot = assumed(&recipient);
                let known = RecipientState::new(&event, &reported, &snapshot);
                let decision =
                    decide(plugin, &self.delivery, self.time_to_live, &event, payload, (snapshot, None), known);
                let left_out = decision.left_out.into_iter();
                TriedDecision {
                    publications: decision.publications.into_iter().map(|planned| planned.publication).collect(),
                    left_out: left_out.map(|(registration, reason)| (registration, reason.to_string())).collect(),
                }
            });
            tried.push(Tried { recipient, outcome });
        }
        Ok(tried)
    }
}
