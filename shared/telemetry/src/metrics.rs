//! Counters and times, which are kept in the process and written at most once per invocation, since each log line costs.

use std::fs::read_to_string;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

macro_rules! metrics {
    ($(#[$about:meta])+ $kind:ident, $all:ident: $($(#[$doc:meta])+ $name:ident,)+) => {
        $(#[$about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind {
            $($(#[$doc])+ $name,)+
        }

        /// All of them, in the order of their numbers, each with its name.
        const $all: [($kind, &str); [$(stringify!($name)),+].len()] = [$(($kind::$name, stringify!($name))),+];
    };
}

metrics! {
    /// A counter, in the CloudWatch namespace `Pushlark` under its name here.
    Metric, METRICS:
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
}

metrics! {
    /// A time in milliseconds, in the CloudWatch namespace `Pushlark` under its name here. CloudWatch has the number of
    /// times as the statistic `SampleCount`.
    Timing, TIMINGS:
    /// The time from the first request of a publish until its answer, or until there is none in time. A line has at most
    /// eight, so `SampleCount` is not the number of publishes.
    PublishMilliseconds,
    /// The time from the start of a process until it is ready for its first event. `SampleCount` is the number of
    /// processes that Lambda has started.
    ColdStartMilliseconds,
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
            Self::EventsAccepted | Self::Delivered | Self::Suspect | Self::Expired | Self::Unroutable => false,
        }
    }
}

/// The minimum time between two lines without an urgent counter, in seconds.
const INTERVAL_SECONDS: i64 = 60;
/// The number of counts that are written without waiting for the end of the interval: Lambda may end a process that
/// receives no further event, and the counts that are not written are lost.
const MAX_PENDING: u64 = 100;
/// The maximum number of times of one kind in a line.
const MAX_TIMES: usize = 8;
/// The number of times at which the earlier ones are forgotten: the local stack never writes them.
const MAX_KEPT_TIMES: usize = 10_000;
/// Clock ticks per second in `/proc` (`USER_HZ`), the same on all architectures of Lambda.
const TICKS_PER_SECOND: f64 = 100.0;

/// The dimension that separates the stacks of one account.
const STACK: &str = "Stack";

static STACK_NAME: OnceLock<String> = OnceLock::new();
/// The time of the last line, in seconds since 1970.
static WRITTEN_AT: AtomicI64 = AtomicI64::new(i64::MIN);
static COUNTS: [AtomicU64; METRICS.len()] = [const { AtomicU64::new(0) }; METRICS.len()];
/// In milliseconds.
static TIMES: [Mutex<Vec<u64>>; TIMINGS.len()] = [const { Mutex::new(Vec::new()) }; TIMINGS.len()];

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

/// Records a time. [`flush`] writes it.
pub fn record(timing: Timing, time: Duration) {
    let mut times = times(timing);
    if times.len() >= MAX_KEPT_TIMES {
        times.clear();
    }
    times.push(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
}

/// Records the time since this process began. The process must be ready for its first event.
pub fn record_cold_start() {
    if let Some(time) = process_age() {
        record(Timing::ColdStartMilliseconds, time);
    }
}

/// Writes the counters that are not 0 and the times to standard output, as one line of CloudWatch's embedded metric
/// format ("Specification: Embedded metric format"), sets the counters to 0 and forgets the times. The end of an
/// invocation calls it; unless a counter is urgent, it writes at most once a minute, or after 100 counts.
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

/// Returns the age of this process, to within 20 milliseconds (proc_pid_stat(5), proc_uptime(5)).
fn process_age() -> Option<Duration> {
    let (stat, uptime) = (read_to_string("/proc/self/stat").ok()?, read_to_string("/proc/uptime").ok()?);
    // The name of the program, in parentheses, may contain white space. After it, the start is the 20th field.
    let started: f64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime - started / TICKS_PER_SECOND).ok()
}

fn times(timing: Timing) -> MutexGuard<'static, Vec<u64>> {
    // Every change is a single step, so a poisoned lock still holds valid data.
    TIMES[timing as usize].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns at most [`MAX_TIMES`] of the times: one from each of as many equal parts of the sorted times. If `offset`
/// differs from line to line, each time has the same chance, so that percentiles over many lines are right.
fn sample(mut times: Vec<u64>, offset: usize) -> Vec<u64> {
    let count = times.len();
    if count <= MAX_TIMES {
        return times;
    }
    times.sort_unstable();
    (0..MAX_TIMES).map(|part| times[(part * count + offset % count) / MAX_TIMES]).collect()
}

fn take_line(now: OffsetDateTime, stack: Option<&str>) -> Option<Value> {
    let counts = METRICS
        .into_iter()
        .map(|(metric, name)| (name, COUNTS[metric as usize].swap(0, Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name, count.into()));
    let times = TIMINGS
        .into_iter()
        .map(|(timing, name)| (name, sample(std::mem::take(&mut times(timing)), now.nanosecond() as usize)))
        .filter(|(_, times)| !times.is_empty())
        // A single time without an array: a query of the log finds it by the name of the metric alone.
        .map(|(name, times)| (name, if let [time] = times[..] { time.into() } else { times.into() }));
    let values: Vec<(&str, Value)> = counts.chain(times).collect();
    if values.is_empty() {
        return None;
    }
    let metrics: Vec<_> = values.iter().map(|(name, _)| json!({"Name": name})).collect();
    let mut line: Map<String, Value> = values.into_iter().map(|(name, value)| (name.into(), value)).collect();
    line.extend(stack.map(|name| (STACK.into(), name.into())));
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

        record_cold_start();
        (0..25).for_each(|n| record(Timing::PublishMilliseconds, Duration::from_millis(100 - n)));
        let line = take_line(OffsetDateTime::UNIX_EPOCH, None).unwrap();
        let names = json!([{"Name": "PublishMilliseconds"}, {"Name": "ColdStartMilliseconds"}]);
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Metrics"], names);
        assert_eq!(line["PublishMilliseconds"].as_array().unwrap().len(), MAX_TIMES);
        let minute = 60_000;
        assert!(line["ColdStartMilliseconds"].as_u64().unwrap() < minute, "{line}");
        assert_eq!(take_line(OffsetDateTime::UNIX_EPOCH, None), None);
    }

    #[test]
    fn a_sample_has_each_time_as_often_as_the_others() {
        assert_eq!(sample(vec![3, 1, 2], 7), [3, 1, 2]);
        for count in [11, 25, 100, 1_003] {
            let times: Vec<u64> = (0..count).rev().collect();
            let mut chosen = vec![0; times.len()];
            for offset in 0..times.len() {
                let sample = sample(times.clone(), offset);
                assert!(sample.len() == MAX_TIMES && sample.is_sorted());
                sample.iter().for_each(|time| chosen[*time as usize] += 1);
            }
            assert!(chosen.iter().all(|chosen| *chosen == MAX_TIMES), "{count}: {chosen:?}");
        }
    }

    fn names() -> impl Iterator<Item = &'static str> {
        METRICS.iter().map(|(_, name)| *name).chain(TIMINGS.iter().map(|(_, name)| *name))
    }

    #[test]
    fn alarms_and_the_dashboard_of_the_template_name_metrics_that_exist() {
        let template = include_str!("../../../infra/template.yaml");
        let of_alarms =
            template.split("Namespace: Pushlark\n").skip(1).map(|rest| rest.split("MetricName: ").nth(1).unwrap());
        let of_dashboard = template.split("[\"Pushlark\", \"").skip(1);
        let name = |rest: &'static str| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        let (of_alarms, of_dashboard): (Vec<_>, Vec<_>) =
            (of_alarms.map(name).collect(), of_dashboard.map(name).collect());
        assert!(!of_alarms.is_empty());
        for named in of_alarms.iter().chain(&of_dashboard) {
            assert!(names().any(|name| name == *named), "{named}");
        }
        assert!(
            names().all(|name| of_dashboard.contains(&name)),
            "the dashboard has not all metrics: {of_dashboard:?}"
        );
    }

    #[test]
    fn the_page_has_each_metric() {
        let page = include_str!("../../../docs/logs.md");
        assert!(names().all(|name| page.contains(&format!("\n| `{name}` |"))));
    }
}
