//! Notifies the devices of one recipient of a message: counts, decides, claims and publishes.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use pushlark_delivery::Notification;
use pushlark_model::{ClientState, Registration};
use pushlark_plugin::{Defaults, Event, EventKind, Plugin, Publication, Rule};
use pushlark_queue::ReportedRecipient;
use pushlark_store::{MAX_SESSIONS, Snapshot, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::{BareJid, MessageType};
use tokio::time::{Instant, timeout_at};

use crate::claims::ClaimError;
use crate::decision::{Decision, PlannedPublication, Reason, RecipientState, decide};
use crate::event_line::Results;
use crate::external::PluginError;
use crate::order::Turn;
use crate::progress::BatchContext;
use crate::publish::{DeviceItem, Disposition, Publish};
use crate::retry::{RetryCause, Unfinished};
use crate::task::Attempt;
use crate::worker::{ChosenPlugin, Worker};

/// The result of a task: the parts to retry, and the unread count that their retries keep.
#[derive(Debug, Default)]
pub struct TaskOutcome {
    /// The unread count, if Pushlark counted the message.
    pub counted: Option<u32>,
    /// The parts of the task that must be retried.
    pub unfinished: Vec<Unfinished>,
    /// The results of the other parts, for the log line of the event.
    pub results: Results,
}

/// The reason why there is no decision.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// The plugin skips the message. No retry follows.
    #[error("skipped by {0}")]
    Skipped(Rule),
    /// The table did not answer. The caller must retry.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The plugin's function gave no decision. The caller must retry.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl Worker {
    /// Counts, decides, claims and publishes. `turn` ends before the publishes, which depend on other servers.
    pub(crate) async fn notify(
        &self,
        event: &mut Event,
        reported: &ReportedRecipient,
        attempt: &Attempt,
        turn: Turn,
        batch: &BatchContext,
    ) -> TaskOutcome {
        if let Err(error) = self.note_late_reply(event, attempt).await {
            return TaskOutcome::default().postponed(&error);
        }
        let mut outcome = TaskOutcome { counted: attempt.retry.unread_count, ..TaskOutcome::default() };
        let mut decision = match self.decide(event, reported, outcome.counted).await {
            Ok(decision) => decision,
            Err(DecisionError::Skipped(rule)) => {
                if rule.is_failure() {
                    warn_of_failure(&rule);
                }
                tracing::debug!(skipped = %rule, "decided");
                outcome.results.leave_out(&Reason::Rule(rule));
                let ended = self.end_call_silently(event, attempt).await;
                return match ended.and(self.count_skipped(event, reported, attempt).await) {
                    Ok(()) => outcome,
                    Err(error) => outcome.postponed(&error),
                };
            }
            Err(error) => return outcome.postponed(&error),
        };
        match self.end_call(event, attempt, &decision.snapshot.registrations).await {
            Ok(not_ringing) => decision.leave_out_ends(&not_ringing),
            Err(error) => return outcome.postponed(&error),
        }
        decision.restrict_to(attempt);
        let outcome = self.claim_and_publish(event, reported, &mut decision, attempt, turn, batch).await;
        self.prune_sessions(&event.recipient(), &decision.snapshot, batch.publish_cutoff).await;
        outcome
    }

    /// Counts the message, and claims and publishes the publications of a decision.
    async fn claim_and_publish(
        &self,
        event: &mut Event,
        reported: &ReportedRecipient,
        decision: &mut Decision<'_>,
        attempt: &Attempt,
        mut turn: Turn,
        batch: &BatchContext,
    ) -> TaskOutcome {
        count_left_out(decision);
        let mut outcome = TaskOutcome { counted: attempt.retry.unread_count, ..TaskOutcome::default() };
        let user = event.recipient();
        let is_retried = outcome.counted.is_some();
        let counted = self.count_and_claim(event, reported, decision, attempt, &mut outcome.counted, &mut turn).await;
        let mut ours = match counted {
            Ok(ours) => ours,
            Err(error) => return outcome.postponed(&error),
        };
        let (event, counted) = (&*event, outcome.counted);
        decision.badge = self.badge(event, reported, decision.counters.as_ref(), &ours, is_retried);
        let conversation = event.from.to_bare();
        if let Some(alert) = self.alert(event, &user, &conversation) {
            self.quiet(&alert, &decision.snapshot, &mut ours).await;
        }
        ours.iter_mut().filter(|planned| !planned.is_claimed).for_each(PlannedPublication::replace_repeats);
        let places: Vec<_> = ours.iter().map(|planned| turn.join(&planned.publication.registration)).collect();
        drop(turn);
        log(event, decision);
        decision.left_out.iter().for_each(|(_, reason)| outcome.results.leave_out(reason));
        if ours.is_empty() {
            if decision.left_out.is_empty() {
                outcome.results.leave_out(&Reason::NoRegistration);
            }
            return outcome;
        }
        let key = |registration: &Registration| (registration.jid.clone(), registration.node.clone());
        // A plugin may publish several notifications to one registration, which is complete after the last of them.
        let mut open: BTreeMap<_, usize> = BTreeMap::new();
        for PlannedPublication { publication: Publication { registration, .. }, .. } in &ours {
            *open.entry(key(registration)).or_default() += 1;
        }
        let has_one = |registration: &Registration| open.get(&key(registration)) == Some(&1);
        let (snapshot, badge) = (&decision.snapshot, decision.badge);
        let publishes = ours.into_iter().zip(places).map(async |(planned, place)| {
            let PlannedPublication { publication, expires_at, publisher, is_quiet, is_claimed } = planned;
            let Publication { registration, payload, presentation, rule } = &publication;
            let (jid, node) = (&registration.jid, &registration.node);
            tracing::debug!(%jid, node, rule = rule.as_deref(), quiet = is_quiet, "chosen");
            let presentation = presentation.as_deref();
            let (message_id, conversation) = (&event.id, &conversation);
            let notification = Notification {
                message_id,
                user: &user,
                conversation,
                registration,
                is_group: event.message.kind() == MessageType::Groupchat,
                payload: payload.into(),
                presentation,
                badge,
                expires_at,
            };
            let device = DeviceItem::Registration(snapshot);
            let publish = Publish { notification: &notification, device, publisher, retry: &attempt.retry, place };
            let result = self.publish(publish, batch.publish_cutoff).await;
            if let (Ok(Disposition::Delivered), true) = (&result, self.clear_when_read) {
                self.note_shown(event, registration).await;
            }
            if result.is_ok() && is_claimed && has_one(registration) {
                batch.progress.add(attempt, &user, counted, [registration.clone()]);
            }
            (publication.registration, is_quiet, is_claimed, result)
        });
        let (mut complete, mut failed) = (Vec::new(), BTreeMap::new());
        for (registration, is_quiet, is_claimed, result) in join_all(publishes).await {
            let key = key(&registration);
            match result {
                Ok(disposition) => {
                    let is_delivered = disposition == Disposition::Delivered;
                    let Results { delivered, quiet, undelivered, .. } = &mut outcome.results;
                    *delivered += usize::from(is_delivered);
                    *quiet += usize::from(is_delivered && is_quiet);
                    *undelivered += usize::from(!is_delivered);
                    complete.extend(Some(registration).filter(|registration| is_claimed && !has_one(registration)));
                }
                Err(cause) => {
                    let registration = Some(registration);
                    _ = failed.insert(key, Unfinished { registration, is_claimed, cause });
                }
            }
        }
        complete.retain(|registration| !failed.contains_key(&key(registration)));
        batch.progress.add(attempt, &user, counted, complete);
        outcome.unfinished.extend(failed.into_values());
        outcome
    }

    /// Records that a registration shows a notification of a conversation, without waiting for the other devices: the
    /// conversation may be read before they answer. Without the record, the notification stays when the conversation is
    /// read elsewhere; a retry of the event would notify again.
    async fn note_shown(&self, event: &Event, registration: &Registration) {
        let (user, conversation) = (event.recipient(), event.from.to_bare());
        if let Err(error) = self.store.note_shown(&user, &conversation, registration, event.at).await {
            tracing::warn!(error = %Causes(&error), "a notification is not recorded: it is not cleared when it is read");
        }
    }

    /// Deletes surplus sessions of a recipient. It stops at `end`, so that the event does not fail. The recipient's
    /// next event continues.
    async fn prune_sessions(&self, user: &BareJid, snapshot: &Snapshot, end: Instant) {
        if !snapshot.has_surplus_sessions() {
            return;
        }
        match timeout_at(end, self.store.prune_sessions(user, snapshot)).await {
            Ok(Ok(())) => tracing::debug!(sessions = MAX_SESSIONS, "the oldest sessions are deleted"),
            Ok(Err(error)) => tracing::warn!(error = %Causes(&error), "old sessions are not deleted yet"),
            Err(_) => tracing::warn!("not all old sessions are deleted yet"),
        }
    }

    /// Reads the recipient and decides. Writes nothing, so that [`Worker::explain`] can use it. `counted` is the unread
    /// count of a message that an earlier attempt has counted. Another message has the count that it gets if it is counted
    /// next.
    pub(crate) async fn decide(
        &self,
        event: &mut Event,
        reported: &ReportedRecipient,
        counted: Option<u32>,
    ) -> Result<Decision<'_>, DecisionError> {
        let (delivery, time_to_live) = (&self.delivery, self.time_to_live);
        match &self.plugin {
            plugin if matches!(event.kind, EventKind::Subscription(_)) && !plugin.decides_subscriptions() => {
                self.decide_by(&Defaults, event, reported, counted).await
            }
            ChosenPlugin::Rules(rules) => self.decide_by(&*rules.get(), event, reported, counted).await,
            ChosenPlugin::Compiled(plugin) => self.decide_by(&**plugin, event, reported, counted).await,
            ChosenPlugin::External(function) => {
                let read = self.read_recipient(event, reported, counted).await?;
                let known = RecipientState::new(event, reported, &read.0);
                let plugin = function.ask(event, &known.recipient, &read.0.registrations).await?;
                let payload = plugin.prepare_notification(event).map_err(DecisionError::Skipped)?;
                Ok(decide(&plugin, delivery, time_to_live, event, payload, read, known))
            }
        }
    }

    /// Decides with a plugin that is part of the worker.
    async fn decide_by(
        &self,
        plugin: &dyn Plugin,
        event: &mut Event,
        reported: &ReportedRecipient,
        counted: Option<u32>,
    ) -> Result<Decision<'_>, DecisionError> {
        let (delivery, time_to_live) = (&self.delivery, self.time_to_live);
        // The plugin is called before the recipient is read: a skipped message costs no read.
        let mut payload = plugin.prepare_notification(event).map_err(DecisionError::Skipped)?;
        let (snapshot, counters) = self.read_recipient(event, reported, counted).await?;
        if counters.is_some() {
            // The unread count is known now.
            payload = plugin.prepare_notification(event).map_err(DecisionError::Skipped)?;
        }
        let known = RecipientState::new(event, reported, &snapshot);
        Ok(decide(plugin, delivery, time_to_live, event, payload, (snapshot, counters), known))
    }

    /// Claims publications, with the unread count. Returns the publications that this event may make. Those that another
    /// event holds are left to it, even if it has failed so far.
    pub(crate) async fn claim<'w>(
        &self,
        event: &Event,
        attempt: &Attempt,
        counted: Option<u32>,
        publications: Vec<PlannedPublication<'w>>,
        left_out: &mut Vec<(Registration, Reason)>,
        turn: &mut Turn,
    ) -> Result<Vec<PlannedPublication<'w>>, ClaimError> {
        let user = &event.recipient();
        let (claimed, free): (Vec<_>, Vec<_>) =
            publications.into_iter().partition(|planned| self.is_claimed(event, user, planned));
        if claimed.is_empty() {
            return Ok(free);
        }
        let registrations: Vec<&Registration> =
            claimed.iter().map(|planned| &planned.publication.registration).collect();
        let claim = attempt.claimant(user, counted).claim(&registrations);
        let held = turn.claim(&self.store, &attempt.claim_item(user), claim).await?;
        let (ours, others): (Vec<_>, Vec<_>) = claimed.into_iter().zip(held).partition(|(_, held)| *held);
        left_out.extend(others.into_iter().map(|(planned, _)| (planned.publication.registration, Reason::Claimed)));
        let ours = ours.into_iter().map(|(planned, _)| PlannedPublication { is_claimed: true, ..planned });
        Ok(ours.chain(free).collect())
    }
}

impl TaskOutcome {
    /// Returns the outcome of a task with one part to retry.
    pub(crate) fn unfinished(unfinished: Unfinished) -> Self {
        Self { unfinished: vec![unfinished], ..Self::default() }
    }

    /// Returns the outcome of a task that notifies nobody.
    pub(crate) fn left_out(reason: &Reason) -> Self {
        tracing::debug!(%reason, "decided");
        let mut outcome = Self::default();
        outcome.results.leave_out(reason);
        outcome
    }

    pub(crate) fn postponed(self, error: &dyn std::error::Error) -> Self {
        count(Metric::Transient);
        tracing::error!(error = %Causes(error), "not notified yet");
        Self { unfinished: vec![Unfinished::all(RetryCause::FAILED)], ..self }
    }
}

/// Counts the registrations that are left out for a reason with a metric.
fn count_left_out(decision: &Decision<'_>) {
    for (_, reason) in &decision.left_out {
        match reason {
            Reason::TooLate => count(Metric::Expired),
            Reason::Unroutable(_) => count(Metric::Unroutable),
            Reason::Rule(_)
            | Reason::NotChosen
            | Reason::Preference(_)
            | Reason::Claimed
            | Reason::EnabledLater
            | Reason::CallsAlone
            | Reason::Connected
            | Reason::RingsByPushKit
            | Reason::NoCallEnd
            | Reason::NotRinging
            | Reason::Read
            | Reason::NoRegistration
            | Reason::DeviceGone
            | Reason::NotShown => {}
        }
    }
}

/// Logs that a rule of the plugin should notify, but cannot.
fn warn_of_failure(rule: &Rule) {
    tracing::warn!(%rule, "a rule cannot notify of this message");
}

/// Logs the steps of a decision at `debug`, and the rules that cannot notify as warnings.
fn log(event: &Event, decision: &Decision<'_>) {
    let Decision { snapshot, known: RecipientState { recipient, presence, .. }, left_out, .. } = decision;
    let failures = left_out.iter().filter_map(|(_, reason)| match reason {
        Reason::Rule(rule) if rule.is_failure() => Some(rule),
        _ => None,
    });
    failures.collect::<BTreeSet<_>>().into_iter().for_each(warn_of_failure);
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for (registration, reason) in left_out {
        tracing::debug!(jid = %registration.jid, node = registration.node, %reason, "left out");
    }
    let left_out: Vec<String> =
        left_out.iter().map(|(registration, reason)| format!("{}: {reason}", registration.jid)).collect();
    tracing::debug!(
        kind = event.kind.as_str(),
        unread_count = event.unread_count,
        registrations = snapshot.registrations.len(),
        exists = recipient.exists,
        online = recipient.online,
        client_state = recipient.client_state.map(ClientState::as_str),
        presence = presence.as_str(),
        left_out = left_out.join("; "),
        "decided"
    );
}
