//! Counters, which are kept in the process and written once per invocation, since each log line costs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Events that were queued or written to the table.
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

/// The dimension that separates the stacks of one account.
const STACK: &str = "Stack";

static STACK_NAME: OnceLock<String> = OnceLock::new();
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

/// Writes the counters that are not 0 to standard output, as one line of CloudWatch's embedded metric format
/// ("Specification: Embedded metric format"), and sets them to 0.
pub fn flush() {
    if let Some(line) = take_line(OffsetDateTime::now_utc(), STACK_NAME.get().map(String::as_str)) {
        println!("{line}");
    }
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
    let units: Vec<_> = counts.iter().map(|(name, _)| json!({"Name": name, "Unit": "Count"})).collect();
    let mut line: Map<String, Value> = counts.into_iter().map(|(name, count)| (name.into(), count.into())).collect();
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
