//! Counters, which are kept in the process and written at most once per invocation, since each log line costs.

use std::fs::read_to_string;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

macro_rules! metrics {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// A counter, in the CloudWatch namespace `Pushlark` under its name here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Metric {
            $($(#[$doc])+ $name,)+
        }

        /// All metrics, in the order of their numbers, each with its name.
        const METRICS: [(Metric, &str); [$(stringify!($name)),+].len()] = [$((Metric::$name, stringify!($name))),+];
    };
}

metrics! {
    /// Events that ingest has accepted, also those that notify nobody, and notifications that the push node has queued.
    EventsAccepted,
    /// Notifications that a push service accepted.
    Delivered,
    /// Devices that a push service reported as gone.
    Gone,
    /// Answers that may mean that a device is gone; several in a row disable it.
    Suspect,
    /// Devices reported as gone that were not disabled, since too many were reported at once.
    DisablingStopped,
    /// Notifications that a push service refused because of our request.
    Refused,
    /// Tries that failed and are repeated.
    Transient,
    /// Notifications that outlived their time to live.
    Expired,
    /// Registrations at a host that nothing publishes to.
    Unroutable,
    /// Records that could not be read.
    DeadLettered,
    /// Calls of a plugin in a Lambda function that gave no decision.
    PluginFailed,
    /// Requests without a valid credential.
    Unauthorized,
    /// Processes that Lambda has started. The line has the time of the start as `ColdStartMilliseconds`.
    ColdStarts,
}

impl Metric {
    /// Returns whether an alarm or an operator must see the counter at once.
    fn is_urgent(self) -> bool {
        match self {
            Self::Gone
            | Self::DisablingStopped
            | Self::Refused
            | Self::Transient
            | Self::DeadLettered
            | Self::PluginFailed
            | Self::Unauthorized => true,
            Self::EventsAccepted
            | Self::Delivered
            | Self::Suspect
            | Self::Expired
            | Self::Unroutable
            | Self::ColdStarts => false,
        }
    }
}

/// The minimum time between two lines without an urgent counter, in seconds.
const INTERVAL_SECONDS: i64 = 60;
/// The number of counts that are written without waiting for the end of the interval: Lambda may end a process that
/// receives no further event, and the counts that are not written are lost.
const MAX_PENDING: u64 = 100;
/// Clock ticks per second in `/proc` (`USER_HZ`), the same on all architectures of Lambda.
const TICKS_PER_SECOND: f64 = 100.0;

/// The dimension that separates the stacks of one account.
const STACK: &str = "Stack";

static STACK_NAME: OnceLock<String> = OnceLock::new();
/// The time of the last line, in seconds since 1970.
static WRITTEN_AT: AtomicI64 = AtomicI64::new(i64::MIN);
static START_MILLISECONDS: OnceLock<u64> = OnceLock::new();
static COUNTS: [AtomicU64; METRICS.len()] = [const { AtomicU64::new(0) }; METRICS.len()];

/// Sets the dimension `Stack` of all metrics of this process. Only the first call has an effect.
pub fn set_stack(name: &str) {
    STACK_NAME.get_or_init(|| name.to_owned());
}

/// Adds one to a counter of this process. [`flush`] writes it.
pub fn count(metric: Metric) {
    COUNTS[metric as usize].fetch_add(1, Ordering::Relaxed);
}

/// Returns a counter's value since the last [`flush`].
pub fn total(metric: Metric) -> u64 {
    COUNTS[metric as usize].load(Ordering::Relaxed)
}

/// Counts the start of this process, with the time since it began. The process must be ready for its first event.
pub fn count_cold_start() {
    if let Some(milliseconds) = process_milliseconds() {
        START_MILLISECONDS.get_or_init(|| milliseconds);
    }
    count(Metric::ColdStarts);
}

/// Writes the counters that are not 0 to standard output, as one line of CloudWatch's embedded metric format
/// ("Specification: Embedded metric format"), and sets them to 0. The end of an invocation calls it; unless a counter
/// is urgent, it writes at most once a minute, or after 100 counts.
pub fn flush() {
    let (now, written_at) = (OffsetDateTime::now_utc(), WRITTEN_AT.load(Ordering::Relaxed));
    if !is_due(now.unix_timestamp(), written_at) {
        return;
    }
    if let Some(line) = take_line(now, STACK_NAME.get().map(String::as_str)) {
        WRITTEN_AT.store(now.unix_timestamp(), Ordering::Relaxed);
        println!("{line}");
    }
}

fn is_due(now: i64, written_at: i64) -> bool {
    let pending: u64 = METRICS.into_iter().map(|(metric, _)| total(metric)).sum();
    let is_urgent = METRICS.into_iter().any(|(metric, _)| metric.is_urgent() && total(metric) > 0);
    // The difference is negative if the clock was set back.
    let is_over = now.saturating_sub(written_at).unsigned_abs() >= INTERVAL_SECONDS.unsigned_abs();
    is_urgent || is_over || pending >= MAX_PENDING
}

/// Returns the age of this process in milliseconds, to within 20 (proc_pid_stat(5), proc_uptime(5)).
fn process_milliseconds() -> Option<u64> {
    let (stat, uptime) = (read_to_string("/proc/self/stat").ok()?, read_to_string("/proc/uptime").ok()?);
    // The name of the program, in parentheses, may contain white space. After it, the start is the 20th field.
    let started: f64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some(((uptime - started / TICKS_PER_SECOND) * 1_000.0).round() as u64)
}

fn take_line(now: OffsetDateTime, stack: Option<&str>) -> Option<Value> {
    let counts: Vec<_> = METRICS
        .into_iter()
        .map(|(metric, name)| (name, COUNTS[metric as usize].swap(0, Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect();
    if counts.is_empty() {
        return None;
    }
    let metrics: Vec<_> = counts.iter().map(|(name, _)| json!({"Name": name})).collect();
    let is_start = counts.iter().any(|(name, _)| *name == "ColdStarts");
    let mut line: Map<String, Value> = counts.into_iter().map(|(name, count)| (name.into(), count.into())).collect();
    line.extend(stack.map(|name| (STACK.into(), name.into())));
    // No metric of its own, which CloudWatch would bill: a query of the log finds it.
    let start = START_MILLISECONDS.get().filter(|_| is_start);
    line.extend(start.map(|milliseconds| ("ColdStartMilliseconds".into(), (*milliseconds).into())));
    let dimensions = Vec::from_iter(stack.map(|_| STACK));
    let directive = json!([{"Namespace": "Pushlark", "Dimensions": [dimensions], "Metrics": metrics}]);
    let milliseconds = (now.unix_timestamp_nanos() / 1_000_000) as i64;
    line.insert("_aws".into(), json!({"Timestamp": milliseconds, "CloudWatchMetrics": directive}));
    Some(line.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// One test, since all share the counters of the process.
    #[test]
    fn counts_are_written_once_in_the_embedded_format() {
        assert!(!is_due(1_000, 1_000));
        count(Metric::Delivered);
        assert!(is_due(1_000, i64::MIN), "the first line");
        assert!(!is_due(1_059, 1_000) && is_due(1_060, 1_000) && is_due(900, 1_000), "at most once a minute");
        count(Metric::Transient);
        assert!(is_due(1_001, 1_000), "an operator must see it at once");
        take_line(OffsetDateTime::UNIX_EPOCH, None).unwrap();
        (0..MAX_PENDING - 1).for_each(|_| count(Metric::EventsAccepted));
        assert!(!is_due(1_001, 1_000));
        count(Metric::Delivered);
        assert!(is_due(1_001, 1_000), "many are not lost");
        take_line(OffsetDateTime::UNIX_EPOCH, None).unwrap();

        count(Metric::Delivered);
        count(Metric::Delivered);
        let line = take_line(OffsetDateTime::UNIX_EPOCH, None).unwrap();
        assert_eq!(line["Delivered"], 2);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Metrics"], json!([{"Name": "Delivered"}]));
        assert_eq!((&directive["Namespace"], &directive["Dimensions"]), (&json!("Pushlark"), &json!([[]])));
        assert_eq!(take_line(OffsetDateTime::UNIX_EPOCH, None), None);

        count(Metric::Delivered);
        let line = take_line(OffsetDateTime::UNIX_EPOCH, Some("pushlark-staging")).unwrap();
        assert_eq!((&line["Delivered"], &line["Stack"]), (&json!(1), &json!("pushlark-staging")));
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["Stack"]]));
        assert!(line.to_string().len() <= 180, "{line}");
        assert_eq!(line.get("ColdStartMilliseconds"), None);

        count_cold_start();
        let line = take_line(OffsetDateTime::UNIX_EPOCH, None).unwrap();
        let minute = 60_000;
        assert!(line["ColdStarts"] == 1 && line["ColdStartMilliseconds"].as_u64().unwrap() < minute, "{line}");
    }

    #[test]
    fn alarms_of_the_template_name_metrics_that_exist() {
        let template = include_str!("../../../infra/template.yaml");
        let of_pushlark = template.split("Namespace: Pushlark").skip(1);
        let named: Vec<_> = of_pushlark.map(|rest| rest.split("MetricName: ").nth(1).unwrap()).collect();
        assert!(!named.is_empty());
        for rest in named {
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            assert!(METRICS.iter().any(|(_, own)| *own == name), "{name}");
        }
    }
}
