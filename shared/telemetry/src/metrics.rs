//! Counters, kept in the process and written once an invocation, since each line costs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// What is counted, in the CloudWatch namespace `Pushlark`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Events that a webhook brought and that were queued or written.
    EventsAccepted,
    /// Notifications that a push service took.
    Delivered,
    /// Devices that a push service calls gone.
    Gone,
    /// Answers that call a device gone and may be wrong; several in a row disable it.
    Suspect,
    /// Devices called gone that were not disabled, since too many are at once.
    DisablingStopped,
    /// Notifications that a push service does not take from us.
    Refused,
    /// Tries that failed and are repeated.
    Transient,
    /// Notifications that outlived their time to live.
    Expired,
    /// Registrations that nothing can publish to.
    Unroutable,
    /// Records that could not be understood.
    DeadLettered,
    /// Calls of a plugin in a Lambda function that gave no decision.
    PluginFailed,
    /// Requests without a valid credential.
    Unauthorized,
}

const METRICS: [Metric; 12] = [
    Metric::EventsAccepted,
    Metric::Delivered,
    Metric::Gone,
    Metric::Suspect,
    Metric::DisablingStopped,
    Metric::Refused,
    Metric::Transient,
    Metric::Expired,
    Metric::Unroutable,
    Metric::DeadLettered,
    Metric::PluginFailed,
    Metric::Unauthorized,
];

/// The dimension that tells the metrics of one stack from those of another in the same account.
const STACK: &str = "Stack";

static STACK_NAME: OnceLock<String> = OnceLock::new();
static COUNTS: [AtomicU64; METRICS.len()] = [const { AtomicU64::new(0) }; METRICS.len()];

/// Gives all metrics of this process the dimension `Stack`; only the first call has an effect.
pub fn set_stack(name: &str) {
    STACK_NAME.get_or_init(|| name.to_owned());
}

/// Counts one more.
pub fn count(metric: Metric) {
    COUNTS[metric as usize].fetch_add(1, Ordering::Relaxed);
}

/// What was counted since the last [`flush`].
pub fn total(metric: Metric) -> u64 {
    COUNTS[metric as usize].load(Ordering::Relaxed)
}

/// Writes what was counted since the last call to standard output, as one line of CloudWatch's embedded metric format
/// ("Specification: Embedded metric format"), which the platform turns into metrics.
pub fn flush() {
    if let Some(line) = take_line(OffsetDateTime::now_utc(), STACK_NAME.get().map(String::as_str)) {
        println!("{line}");
    }
}

fn take_line(now: OffsetDateTime, stack: Option<&str>) -> Option<Value> {
    let counts: Vec<_> = METRICS
        .into_iter()
        .map(|metric| (format!("{metric:?}"), COUNTS[metric as usize].swap(0, Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect();
    if counts.is_empty() {
        return None;
    }
    let units: Vec<_> = counts.iter().map(|(name, _)| json!({"Name": name, "Unit": "Count"})).collect();
    let mut line: Map<String, Value> = counts.into_iter().map(|(name, count)| (name, count.into())).collect();
    line.extend(stack.map(|name| (STACK.into(), name.into())));
    let dimensions = Vec::from_iter(stack.map(|_| STACK));
    let directive = json!([{"Namespace": "Pushlark", "Dimensions": [dimensions], "Metrics": units}]);
    let milliseconds = (now.unix_timestamp_nanos() / 1_000_000) as i64;
    line.insert("_aws".into(), json!({"Timestamp": milliseconds, "CloudWatchMetrics": directive}));
    Some(line.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_once_in_the_embedded_format() {
        count(Metric::Delivered);
        count(Metric::Delivered);
        let line = take_line(OffsetDateTime::UNIX_EPOCH, None).unwrap();
        assert_eq!(line["Delivered"], 2);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Metrics"], json!([{"Name": "Delivered", "Unit": "Count"}]));
        assert_eq!((&directive["Namespace"], &directive["Dimensions"]), (&json!("Pushlark"), &json!([[]])));
        assert_eq!(take_line(OffsetDateTime::UNIX_EPOCH, None), None);

        count(Metric::Delivered);
        let line = take_line(OffsetDateTime::UNIX_EPOCH, Some("pushlark-staging")).unwrap();
        assert_eq!((&line["Delivered"], &line["Stack"]), (&json!(1), &json!("pushlark-staging")));
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["Stack"]]));
    }
}
