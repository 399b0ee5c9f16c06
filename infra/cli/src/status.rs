//! The command `status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use aws_sdk_cloudwatch::types::{MetricAlarm, StateValue};
use aws_sdk_sqs::types::QueueAttributeName;
use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;

use crate::log_line::LogLine;
use crate::logs::LogGroups;
use crate::metrics::{Metric, Metrics};
use crate::output::{Colour, Format, Progress, print_json, rfc3339, say, say_table, table};
use crate::stack::{Function, Place, Stack, StackOptions, physical_id};

/// The time before now whose errors are shown.
const ERRORS_SINCE: Duration = Duration::from_hours(1);
/// The most errors that are shown.
const MAX_ERRORS: usize = 10;

/// Show the queues, dead letters, alarms, versions and last errors.
///
/// The exit code is 0 if they can be read, also while an alarm fires. With --check it is 1 if an alarm fires or there
/// are dead letters.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// Exit with 1 if an alarm fires or there are dead letters.
    #[arg(long)]
    check: bool,
}

/// The state of a stack.
#[derive(Debug, Serialize)]
struct Status {
    stack: String,
    queues: [QueueStatus; 2],
    /// `null` for the local stack, which has none.
    alarms: Option<Vec<AlarmStatus>>,
    /// Empty for the local stack.
    versions: Vec<Version>,
    /// The last errors of an hour, the oldest first; `null` for the local stack.
    errors: Option<Vec<LogLine>>,
}

#[derive(Debug, Serialize)]
struct QueueStatus {
    queue: &'static str,
    /// Messages that can be received.
    visible: u64,
    /// Messages that a worker handles, or that wait for their visibility timeout.
    in_flight: u64,
    /// Messages that wait for their delay.
    delayed: u64,
    /// The age of the oldest message in seconds, of the last minutes; `null` if it is not known.
    oldest_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct AlarmStatus {
    name: String,
    /// `OK`, `ALARM` or `INSUFFICIENT_DATA`.
    state: String,
    description: String,
}

/// A part of the stack with its version.
#[derive(Debug, Serialize)]
struct Version {
    part: String,
    /// The time of its last change (RFC 3339).
    changed: String,
    /// The SHA-256 of a function's code in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    code_sha256: Option<String>,
}

impl StatusOptions {
    /// Runs the command.
    pub async fn run(self, options: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let stack = Stack::find(options).await?;
        let status = Status::of(&stack).await?;
        match format {
            Format::Json => print_json(&status)?,
            Format::Human => status.print()?,
        }
        let needs_attention = self.check && status.needs_attention();
        Ok(if needs_attention { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Status {
    async fn of(stack: &Stack) -> anyhow::Result<Self> {
        let progress = Progress::start(None, "reading the state");
        let mut queues = [
            QueueStatus::of(stack, "events", &stack.queue_url).await?,
            QueueStatus::of(stack, "dead letters", &stack.dead_letter_queue_url).await?,
        ];
        let name = stack.name.clone();
        let Place::Aws { resources } = &stack.place else {
            return Ok(Self { stack: name, queues, alarms: None, versions: Vec::new(), errors: None });
        };
        let now = OffsetDateTime::now_utc();
        let metrics = Metrics::new(&stack.aws, now - Duration::from_mins(10), now, Duration::from_mins(1));
        let age = |url: &str| {
            let queue = url.rsplit('/').next().unwrap_or_default();
            Metric::new("AWS/SQS", "ApproximateAgeOfOldestMessage", "Maximum").of("QueueName", queue)
        };
        let ages = metrics.values(&[age(&stack.queue_url), age(&stack.dead_letter_queue_url)]).await?;
        for (queue, ages) in queues.iter_mut().zip(ages) {
            queue.oldest_seconds = ages.first().copied();
        }
        let alarms = alarms(stack).await?.iter().map(AlarmStatus::from).collect();
        let mut versions = vec![stack_version(stack).await?];
        let lambda = aws_sdk_lambda::Client::new(&stack.aws);
        for function in Function::ALL {
            let name = physical_id(resources, function)?;
            let configuration = lambda.get_function_configuration().function_name(name).send().await;
            let configuration = configuration.with_context(|| format!("the function {name} cannot be read"))?;
            versions.push(Version {
                part: function.logical_id().into(),
                changed: configuration.last_modified().unwrap_or_default().into(),
                code_sha256: configuration.code_sha256().map(str::to_owned),
            });
        }
        let mut errors = LogGroups::of(stack)?.errors(now - ERRORS_SINCE, &progress).await?;
        errors.drain(..errors.len().saturating_sub(MAX_ERRORS));
        Ok(Self { stack: name, queues, alarms: Some(alarms), versions, errors: Some(errors) })
    }

    fn needs_attention(&self) -> bool {
        let mut alarms = self.alarms.iter().flatten();
        let [_, dead_letters] = &self.queues;
        alarms.any(AlarmStatus::fires) || dead_letters.all() > 0
    }

    fn print(&self) -> anyhow::Result<()> {
        let rows = self.queues.iter().map(|queue| {
            let oldest = queue.oldest_seconds.map_or_else(|| "-".into(), |seconds| format!("{seconds:.0} s"));
            [
                queue.queue.into(),
                queue.visible.to_string(),
                queue.in_flight.to_string(),
                queue.delayed.to_string(),
                oldest,
            ]
        });
        say_table(&table(["QUEUE", "VISIBLE", "IN FLIGHT", "DELAYED", "OLDEST"], rows))?;
        if let Some(alarms) = &self.alarms {
            say("")?;
            say("ALARMS")?;
            for alarm in alarms {
                let state = match alarm.state.as_str() {
                    "ALARM" => Colour::Red.paint("ALARM"),
                    "OK" => Colour::Green.paint("ok   "),
                    _ => Colour::Yellow.paint("no data"),
                };
                say(format!("{state} {}", alarm.name))?;
                if alarm.fires() {
                    say(format!("      {}", alarm.description))?;
                }
            }
        }
        let rows = self.versions.iter().map(|version| {
            let Version { part, changed, code_sha256 } = version;
            [part.clone(), changed.clone(), code_sha256.clone().unwrap_or_default()]
        });
        if !self.versions.is_empty() {
            say("")?;
            say_table(&table(["VERSION OF", "LAST CHANGE", "CODE (SHA-256)"], rows))?;
        }
        if let Some(errors) = &self.errors {
            say("")?;
            say("ERRORS OF THE LAST HOUR")?;
            if errors.is_empty() {
                say("none")?;
            }
            for error in errors {
                error.for_people().into_iter().try_for_each(say)?;
            }
        }
        Ok(())
    }
}

impl QueueStatus {
    async fn of(stack: &Stack, queue: &'static str, url: &str) -> anyhow::Result<Self> {
        let request = stack.sqs.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        let answer = request.send().await.with_context(|| format!("the queue {url} cannot be read"))?;
        let number = |name: QueueAttributeName| {
            let value = answer.attributes().and_then(|attributes| attributes.get(&name));
            value.and_then(|value| value.parse().ok()).unwrap_or_default()
        };
        Ok(Self {
            queue,
            visible: number(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
            oldest_seconds: None,
        })
    }

    fn all(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

impl AlarmStatus {
    fn fires(&self) -> bool {
        self.state == StateValue::Alarm.as_str()
    }
}

impl From<&MetricAlarm> for AlarmStatus {
    fn from(alarm: &MetricAlarm) -> Self {
        Self {
            name: alarm.alarm_name().unwrap_or_default().into(),
            state: alarm.state_value().map_or("INSUFFICIENT_DATA", StateValue::as_str).into(),
            description: alarm.alarm_description().unwrap_or_default().into(),
        }
    }
}

/// Returns the alarms of a stack on AWS, by the order of their names.
pub async fn alarms(stack: &Stack) -> anyhow::Result<Vec<MetricAlarm>> {
    let Place::Aws { resources } = &stack.place else { return Ok(Vec::new()) };
    let names = resources.iter().filter(|(logical, _)| logical.ends_with("Alarm")).map(|(_, name)| name.clone());
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let client = aws_sdk_cloudwatch::Client::new(&stack.aws);
    let described = client.describe_alarms().set_alarm_names(Some(names)).send().await;
    let mut alarms = described.context("the alarms cannot be read")?.metric_alarms.unwrap_or_default();
    alarms.sort_by(|one, other| one.alarm_name().cmp(&other.alarm_name()));
    Ok(alarms)
}

async fn stack_version(stack: &Stack) -> anyhow::Result<Version> {
    let client = aws_sdk_cloudformation::Client::new(&stack.aws);
    let described = client.describe_stacks().stack_name(&stack.name).send().await;
    let described = described.with_context(|| format!("the stack {} cannot be described", stack.name))?;
    let found = described.stacks().first().ok_or_else(|| anyhow!("there is no stack {}", stack.name))?;
    let changed = found.last_updated_time().or(found.creation_time());
    let changed = changed.and_then(|time| OffsetDateTime::from_unix_timestamp(time.secs()).ok());
    let status = found.stack_status().map_or("", |status| status.as_str());
    let changed = changed.map(rfc3339).unwrap_or_default();
    Ok(Version { part: format!("stack {} ({status})", stack.name), changed, code_sha256: None })
}
