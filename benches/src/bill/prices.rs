//! The prices of AWS, and a bill by its lines.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The line of the GB-seconds.
pub const DURATION: &str = "Lambda duration";

/// The lines of a bill, in the order of the results.
pub const LINES: [&str; 11] = [
    "Lambda requests",
    DURATION,
    "SQS requests",
    "SQS fair queue",
    "DynamoDB writes",
    "DynamoDB reads",
    "logs",
    "data out",
    "SQS polling",
    "alarms",
    "custom metrics",
];

/// The bytes of a GB in prices by size.
const GB: f64 = 1e9;

/// Dollars by the lines of [`LINES`]; a line that costs nothing is missing.
pub type Bill = BTreeMap<String, f64>;

/// The file with the prices, in US dollars.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The day of the prices.
    pub date: String,
    lambda: Lambda,
    sqs: Sqs,
    dynamodb: DynamoDb,
    cloudwatch: CloudWatch,
    internet: Internet,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lambda {
    million_requests: f64,
    gb_second: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sqs {
    million_requests: f64,
    million_fair_requests: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DynamoDb {
    million_write_units: f64,
    million_read_units: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudWatch {
    gb_of_logs: f64,
    bytes_per_log_event: f64,
    metric: f64,
    alarm_metric: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Internet {
    gb_out: f64,
}

/// What AWS bills of one unit of a scenario.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantities {
    pub lambda_requests: f64,
    pub gb_seconds: f64,
    pub sqs_requests: f64,
    /// Those with a message group.
    pub fair_requests: f64,
    pub writes: f64,
    pub reads: f64,
    pub log_events: f64,
    pub log_bytes: f64,
    /// Bytes to the Internet.
    pub bytes_out: f64,
}

/// What AWS bills of a month without events.
#[derive(Debug, Clone, Copy)]
pub struct IdleMonth {
    /// Empty receives of Lambda's pollers.
    pub receives: f64,
    pub alarm_metrics: f64,
    pub custom_metrics: f64,
}

impl Prices {
    /// Reads the file that is compiled in.
    pub fn read() -> anyhow::Result<Self> {
        Ok(toml::from_str(include_str!("../../prices.toml"))?)
    }

    /// Returns the bill of a million units.
    pub fn million(&self, unit: &Quantities) -> Bill {
        let log_bytes = unit.log_bytes + unit.log_events * self.cloudwatch.bytes_per_log_event;
        bill([
            ("Lambda requests", unit.lambda_requests * self.lambda.million_requests),
            (DURATION, unit.gb_seconds * 1e6 * self.lambda.gb_second),
            ("SQS requests", unit.sqs_requests * self.sqs.million_requests),
            ("SQS fair queue", unit.fair_requests * self.sqs.million_fair_requests),
            ("DynamoDB writes", unit.writes * self.dynamodb.million_write_units),
            ("DynamoDB reads", unit.reads * self.dynamodb.million_read_units),
            ("logs", log_bytes * 1e6 / GB * self.cloudwatch.gb_of_logs),
            ("data out", unit.bytes_out * 1e6 / GB * self.internet.gb_out),
        ])
    }

    /// Returns the bill of a month without events.
    pub fn idle_month(&self, month: &IdleMonth) -> Bill {
        bill([
            ("SQS polling", month.receives / 1e6 * self.sqs.million_requests),
            ("alarms", month.alarm_metrics * self.cloudwatch.alarm_metric),
            ("custom metrics", month.custom_metrics * self.cloudwatch.metric),
        ])
    }

    /// Returns the dollars of a custom metric that has data all month.
    pub fn metric(&self) -> f64 {
        self.cloudwatch.metric
    }
}

/// Rounds to a hundredth of a cent.
fn bill<const N: usize>(lines: [(&str, f64); N]) -> Bill {
    let rounded = lines.map(|(line, dollars)| (line.to_owned(), (dollars * 1e4).round() / 1e4));
    rounded.into_iter().filter(|(_, dollars)| *dollars > 0.0).collect()
}

/// Returns the sum of a bill.
pub fn total(bill: &Bill) -> f64 {
    bill.values().sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_million_units_cost_what_the_prices_say() {
        let unit = Quantities {
            lambda_requests: 2.0,
            gb_seconds: 0.03,
            sqs_requests: 3.0,
            fair_requests: 0.0,
            writes: 1.0,
            reads: 1.0,
            log_events: 4.0,
            log_bytes: 1000.0,
            bytes_out: 1000.0,
        };
        let bill = Prices::read().unwrap().million(&unit);
        let expected = [
            ("DynamoDB reads", 0.125),
            ("DynamoDB writes", 0.625),
            ("Lambda duration", 0.4),
            ("Lambda requests", 0.4),
            ("SQS requests", 1.2),
            ("data out", 0.09),
            ("logs", 0.5),
        ];
        assert_eq!(bill, expected.into_iter().map(|(line, dollars)| (line.to_owned(), dollars)).collect());
        assert!(bill.keys().all(|line| LINES.contains(&line.as_str())));
    }
}
