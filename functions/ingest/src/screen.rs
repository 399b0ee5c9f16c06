//! Leaves out the recipients whom no plugin in use notifies, so that their events cost neither the queue nor the worker.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pushlark_events::{Sources, plugin_events};
use pushlark_model::{ClientState, PublishOptions, Registration, WhileOnline};
use pushlark_plugin::{ContentPolicy, Defaults, Event, EventKind, Plugin, Plugins, Recipient};
use pushlark_queue::{ReportedRecipient, Work};
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_store::{Snapshot, Store};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{BareJid, Message};
use tokio::time::{Instant, timeout_at};

/// The most users of one request whose devices are read. The events for further users are queued.
const MAX_READS: usize = 100;
/// The maximum number of concurrent reads.
const MAX_CONCURRENT_READS: usize = 16;
/// The time for these reads. The events for the users who are not read by then are queued.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Decides by the plugin in use which recipients of an event the worker must see.
#[derive(Clone)]
pub struct Screen {
    /// The plugin in use; `None` if it is not a built-in one, whose decisions only the worker knows.
    plugin: Option<Arc<dyn Plugin>>,
    /// Whether the worker counts unread messages.
    unread_counts: bool,
    /// The default texts: a text does not decide whether there is a notification. `CALL_END` does, but the worker sees
    /// each end of a call.
    content_policy: Arc<ContentPolicy>,
}

/// Whether the worker must see an event of one recipient.
enum Need {
    /// The worker may notify or count.
    Worker,
    /// The worker does nothing, whatever the table has.
    Nobody,
    /// The user is online, so the worker notifies only if the table has a reason.
    Devices(Box<Event>, ReportedRecipient),
}

impl Screen {
    /// Reads `PLUGIN`.
    pub fn from_environment(environment: &Environment, unread_counts: bool) -> Result<Self, SettingError> {
        let name: String = environment.require(&catalogue::PLUGIN)?;
        Ok(Self { plugin: Plugins::built_in().get(&name).ok(), unread_counts, content_policy: Arc::default() })
    }

    /// Returns the part of `work` that the worker must do, in the same order. A message has its stanza. Reads the
    /// devices of users who are online.
    pub async fn needed(&self, work: Vec<(Work, Option<Arc<Message>>)>, sources: &Sources, store: &Store) -> Vec<Work> {
        let Some(plugin) = &self.plugin else { return work.into_iter().map(|(work, _)| work).collect() };
        let needs: Vec<Vec<Need>> = work
            .iter()
            .map(|(work, message)| {
                let Some(message) = message else { return Vec::new() };
                let events = plugin_events(work, message, &self.content_policy, sources);
                events.map(|(event, reported)| self.need(&**plugin, event, reported)).collect()
            })
            .collect();
        let online = needs.iter().flatten().filter_map(|need| match need {
            Need::Devices(event, _) => Some(event.recipient()),
            Need::Worker | Need::Nobody => None,
        });
        let snapshots = read(online.collect(), store).await;
        let mut needed = Vec::with_capacity(work.len());
        for ((work, _), needs) in work.into_iter().zip(needs) {
            let recipients = needs.len();
            let is_needed = |need| match need {
                Need::Worker => true,
                Need::Nobody => false,
                Need::Devices(event, reported) => {
                    let snapshot = snapshots.get(&event.recipient());
                    snapshot.is_none_or(|snapshot| has_reason(&**plugin, &event, &reported, snapshot))
                }
            };
            let needed_at = |(index, need)| is_needed(need).then_some(index);
            let kept: Vec<usize> = needs.into_iter().enumerate().filter_map(needed_at).collect();
            if kept.len() == recipients {
                needed.push(work);
            } else if !kept.is_empty() {
                needed.push(work.part(&kept));
            }
        }
        needed
    }

    /// Asks the callbacks of the plugin for each state of the recipient that the table can have.
    fn need(&self, plugin: &dyn Plugin, event: Event, reported: &ReportedRecipient) -> Need {
        let plugin = deciding(plugin, &event);
        let is_counted = self.unread_counts && reported.leaves_counting() && event.is_unread();
        if is_counted || event.ended_call().is_some() {
            return Need::Worker;
        }
        if let Err(rule) = plugin.prepare_notification(&event) {
            note(&event, &rule);
            return Need::Nobody;
        }
        let device = Registration::new(event.recipient(), String::new(), PublishOptions::default(), 0);
        // Only an unacknowledged message has a session that may be tied to a registration.
        let tied = matches!(event.kind, EventKind::Unacknowledged(_)).then(|| device.clone());
        let left_out_by = |online, client_state| {
            let recipient = Recipient { tied: tied.clone(), ..recipient(reported, online, client_state) };
            let choice = plugin.should_publish(&event, &recipient, vec![device.clone()]);
            choice.left_out.into_iter().map(|(_, rule)| rule).next()
        };
        let (client_state, inactive) = (reported.client_state, Some(ClientState::Inactive));
        let rule = match reported.online {
            Some(true) => left_out_by(true, client_state),
            Some(false) | None => left_out_by(false, None),
        };
        match rule {
            None => Need::Worker,
            // The clients may be inactive, and a device may be notified as if they were.
            Some(_) if left_out_by(true, inactive).is_none() => Need::Devices(Box::new(event), reported.clone()),
            Some(rule) => {
                note(&event, &rule);
                Need::Nobody
            }
        }
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").field("knows_plugin", &self.plugin.is_some()).finish_non_exhaustive()
    }
}

fn note(event: &Event, reason: &dyn fmt::Display) {
    tracing::debug!(id = event.id, to = %event.recipient(), %reason, "not queued");
}

/// Returns the plugin that decides about an event: the default rules decide about contact requests.
fn deciding<'p>(plugin: &'p dyn Plugin, event: &Event) -> &'p dyn Plugin {
    let is_request = matches!(event.kind, EventKind::Subscription(_));
    if is_request && !plugin.decides_subscriptions() { &Defaults } else { plugin }
}

fn recipient(reported: &ReportedRecipient, online: bool, client_state: Option<ClientState>) -> Recipient {
    let exists = reported.exists.unwrap_or(true);
    Recipient { exists, online, client_state, tied: None, connected: Vec::new() }
}

/// Returns whether the worker has a reason in the table to notify a user who is online, or to delete old sessions.
fn has_reason(plugin: &dyn Plugin, event: &Event, reported: &ReportedRecipient, snapshot: &Snapshot) -> bool {
    let Snapshot { registrations, client_state, .. } = snapshot;
    let is_exception = |registration: &Registration| {
        let preferences = registration.preferences.as_ref();
        preferences.is_some_and(|other| matches!(other.while_online, WhileOnline::Away | WhileOnline::Always))
    };
    let recipient = recipient(reported, true, reported.client_state.or(*client_state));
    let choice = deciding(plugin, event).should_publish(event, &recipient, registrations.clone());
    let has_reason =
        !choice.publish.is_empty() || registrations.iter().any(is_exception) || snapshot.has_surplus_sessions();
    if !has_reason {
        note(event, &"the recipient is online");
    }
    has_reason
}

/// Reads the devices and sessions of users, as far as the limits allow.
async fn read(users: HashSet<BareJid>, store: &Store) -> HashMap<BareJid, Snapshot> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let reads = stream::iter(users.into_iter().take(MAX_READS)).map(async |user| {
        let snapshot = store.snapshot(&user).await;
        (user, snapshot)
    });
    let mut reads = pin!(reads.buffer_unordered(MAX_CONCURRENT_READS));
    let mut snapshots = HashMap::new();
    while let Ok(Some((user, snapshot))) = timeout_at(deadline, reads.next()).await {
        match snapshot {
            Ok(snapshot) => _ = snapshots.insert(user, snapshot),
            Err(error) => tracing::warn!(error = %Causes(&error), "devices not read: the events are queued"),
        }
    }
    snapshots
}
