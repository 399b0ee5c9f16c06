//! The worker: its clients, its settings, and the limits that all tasks share.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use pushlark_delivery::Delivery;
use pushlark_events::Sources;
use pushlark_model::Registration;
use pushlark_plugin::{ContentPolicy, Plugin, Plugins};
use pushlark_queue::Queue;
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_store::Store;
use pushlark_telemetry::Causes;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use crate::call::TimeToLive;
use crate::clear::ReadConversation;
use crate::deduplication::Deduplication;
use crate::event_line::LogEvents;
use crate::external::{External, OnError};
use crate::guard::Guard;
use crate::rules::{CurrentRules, RulesSettings};
use crate::shares::Shares;

/// The longest name or ARN of a function, in characters ("Lambda API reference", Invoke).
const MAX_FUNCTION_NAME: usize = 170;

/// The plugin of the operator's rules, if the worker has no plugin of its own with this name.
const RULES: &str = "rules";

/// The last task starts this long before the deadline: the longest publish (5 s), and the work before and after it.
const START_CUTOFF: Duration = Duration::from_millis(6_500);

/// The worker function: clients, settings, and the limits that all tasks share.
pub struct Worker {
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    pub(crate) dead_letters: Queue,
    pub(crate) plugin: ChosenPlugin,
    pub(crate) delivery: Delivery,
    pub(crate) content_policy: Arc<ContentPolicy>,
    /// The way in which a repeated event does not notify again.
    pub(crate) deduplication: Deduplication,
    /// The settings for reading events.
    pub(crate) sources: Sources,
    /// The events that have a log line.
    pub(crate) log_events: LogEvents,
    /// Whether Pushlark counts unread messages.
    pub(crate) unread_counts: bool,
    /// Whether the notifications of a conversation that is read elsewhere are cleared.
    pub(crate) clear_when_read: bool,
    /// The time after an alert with a sound for which further messages of the conversation make none (`ALERT_INTERVAL`);
    /// `None` if each alert makes a sound.
    pub(crate) alert_interval: Option<Duration>,
    /// Whether the badge is the number of unread messages in all conversations.
    pub(crate) badge_is_total: bool,
    /// The time for which notifications are worth delivering.
    pub(crate) time_to_live: TimeToLive,
    /// The last task starts this long before the deadline.
    pub(crate) start_cutoff: Duration,
    pub(crate) guard: Guard,
    /// At most `WORKER_CONCURRENCY` recipients are decided on concurrently.
    pub(crate) recipients: Shares,
    /// At most `WORKER_CONCURRENCY` publishes run concurrently, for all recipients together.
    pub(crate) publishes: Shares,
}

/// The plugin that `PLUGIN` chooses.
pub enum ChosenPlugin {
    /// A plugin in Rust that is part of the worker.
    Compiled(Arc<dyn Plugin>),
    /// The operator's rules in TOML.
    Rules(CurrentRules),
    /// A Lambda function of the operator, in any language.
    External(Arc<External>),
}

impl ChosenPlugin {
    /// Returns whether the plugin decides about contact requests. Otherwise the default rules do.
    pub fn decides_subscriptions(&self) -> bool {
        match self {
            Self::Compiled(plugin) => plugin.decides_subscriptions(),
            Self::Rules(rules) => rules.get().decides_subscriptions(),
            Self::External(_) => false,
        }
    }

    /// Returns whether the plugin may notify of unacknowledged messages. A function may notify of all messages.
    pub fn notifies_unacknowledged(&self) -> bool {
        match self {
            Self::Compiled(plugin) => plugin.notifies_unacknowledged(),
            Self::Rules(rules) => rules.get().notifies_unacknowledged(),
            Self::External(_) => true,
        }
    }

    /// Returns whether a device gets the silent push that clears its notifications of a conversation.
    pub fn allows_clearing(&self, read: &ReadConversation, at: OffsetDateTime, registration: &Registration) -> bool {
        match self {
            Self::Compiled(plugin) => plugin.allows_clearing(&read.user, &read.conversation, at, registration),
            Self::Rules(rules) => rules.get().allows_clearing(&read.user, &read.conversation, at, registration),
            Self::External(_) => true,
        }
    }
}

impl Worker {
    /// Reads `QUEUE_URL`, `DEAD_LETTER_QUEUE_URL`, `FAIR_QUEUES`, `PLUGIN`, `RULES`, `RULES_REFRESH`,
    /// `WORKER_CONCURRENCY`, `DEDUPLICATION`, `TIME_TO_LIVE`, `CALL_TIME_TO_LIVE`, `UNREAD_COUNTS`, `CLEAR_WHEN_READ`,
    /// `ALERT_INTERVAL`, `BADGE`, `LOG_EVENTS`, the settings of the content of notifications and those of [`Store`],
    /// [`Sources`] and [`Delivery`]. `aws` is for a plugin that is a Lambda function, for rules, and for secrets.
    pub async fn from_environment(
        environment: &Environment,
        aws: &SdkConfig,
        plugins: &Plugins,
        dynamodb: aws_sdk_dynamodb::Client,
        sqs: aws_sdk_sqs::Client,
    ) -> Result<Self, SettingError> {
        let is_fair = environment.switch(&catalogue::FAIR_QUEUES)?;
        let queue = |setting| -> Result<Queue, SettingError> {
            Ok(Queue::new(sqs.clone(), environment.require::<String>(setting)?).fair(is_fair))
        };
        let mut start_cutoff = START_CUTOFF;
        let timeout = environment.number(&catalogue::PLUGIN_TIMEOUT_MS)?;
        let on_error = OnError::from_environment(environment)?;
        let rules = RulesSettings::from_environment(environment, aws)?;
        let lambda = environment.with_endpoint(aws, &catalogue::AWS_ENDPOINT_URL_LAMBDA)?;
        let name: String = environment.require(&catalogue::PLUGIN)?;
        let plugin = match name.strip_prefix("lambda:") {
            Some(function) if is_function(function) => {
                let timeout = Duration::from_millis(timeout.into());
                start_cutoff += timeout;
                ChosenPlugin::External(Arc::new(External::new(function, timeout, on_error, &lambda)))
            }
            Some(_) => {
                return Err(catalogue::PLUGIN.invalid("lambda: is not followed by a function's name or ARN"));
            }
            None => match plugins.get(&name) {
                Ok(plugin) => ChosenPlugin::Compiled(plugin),
                Err(_) if name == RULES => ChosenPlugin::Rules(CurrentRules::read(rules).await?),
                Err(unknown) => return Err(catalogue::PLUGIN.invalid(format!("{unknown}, {RULES}"))),
            },
        };
        let concurrency = environment.number(&catalogue::WORKER_CONCURRENCY)? as usize;
        let delivery = Delivery::from_environment(environment, aws)?;
        let alert_interval = environment.number(&catalogue::ALERT_INTERVAL)?;
        let unread_counts = environment.switch(&catalogue::UNREAD_COUNTS)?;
        let deduplication = Deduplication::from_environment(environment)?;
        deduplication.check(delivery.is_direct(), &plugin, unread_counts)?;
        let badge_is_total = environment.choice_if_set(&catalogue::BADGE, [false, true])?;
        Ok(Self {
            store: Store::from_environment(dynamodb, environment)?,
            queue: queue(&catalogue::QUEUE_URL)?,
            dead_letters: queue(&catalogue::DEAD_LETTER_QUEUE_URL)?,
            plugin,
            deduplication,
            badge_is_total: badge_is_total.unwrap_or(delivery.is_direct()),
            delivery,
            content_policy: Arc::new(content_policy(environment)?),
            sources: Sources::from_environment(environment)?,
            log_events: environment
                .choice(&catalogue::LOG_EVENTS, [LogEvents::All, LogEvents::Errors, LogEvents::Off])?,
            unread_counts,
            clear_when_read: environment.switch(&catalogue::CLEAR_WHEN_READ)?,
            alert_interval: (alert_interval > 0).then(|| Duration::from_secs(alert_interval.into())),
            time_to_live: TimeToLive::from_environment(environment)?,
            start_cutoff,
            guard: Guard::default(),
            recipients: Shares::new(concurrency),
            publishes: Shares::new(concurrency),
        })
    }

    /// Starts to read the operator's rules again if they are old. The tasks of a batch do not wait for it, but the
    /// invocation must: afterwards Lambda freezes the process.
    pub(crate) fn start_refresh(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let ChosenPlugin::Rules(_) = &self.plugin else { return None };
        let worker = Arc::clone(self);
        Some(tokio::spawn(async move { worker.refresh_rules().await }))
    }

    /// Reads the operator's rules again if they are old.
    pub(crate) async fn refresh_rules(&self) {
        if let ChosenPlugin::Rules(rules) = &self.plugin {
            rules.refresh().await;
        }
    }

    /// Opens the connections that the first notification needs.
    pub async fn warm_up(&self) {
        let table = async {
            if let Err(error) = self.store.warm_up().await {
                tracing::warn!(error = %Causes(&error), "the table cannot be reached");
            }
        };
        tokio::join!(table, self.delivery.warm_up());
    }
}

/// Reads `INCLUDE_BODY`, `INCLUDE_SENDER`, the placeholders, `CALL_END` and `GROUP_DATA`.
pub fn content_policy(environment: &Environment) -> Result<ContentPolicy, SettingError> {
    let [urgent, mention] = environment.words(&catalogue::GROUP_DATA)?;
    Ok(ContentPolicy {
        body: environment.switch(&catalogue::INCLUDE_BODY)?,
        sender: environment.switch(&catalogue::INCLUDE_SENDER)?,
        placeholder: environment.require(&catalogue::BODY_PLACEHOLDER)?,
        invitation_placeholder: environment.require(&catalogue::INVITATION_PLACEHOLDER)?,
        subscription_placeholder: environment.require(&catalogue::SUBSCRIPTION_PLACEHOLDER)?,
        call_placeholder: environment.require(&catalogue::CALL_PLACEHOLDER)?,
        call_end: environment.switch(&catalogue::CALL_END)?,
        urgent,
        mention,
    })
}

/// Returns whether Lambda accepts a text as a function's name or ARN, with or without a version or an alias.
fn is_function(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '$');
    !text.is_empty() && text.len() <= MAX_FUNCTION_NAME && text.chars().all(is_part)
}
