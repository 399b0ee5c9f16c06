//! The prices of AWS, and a bill by its lines: for the operator's tool and for the benchmarks, never for a function.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The line of the GB-seconds.
pub const DURATION: &str = "Lambda duration";

/// The lines of a bill, in the order of the results.
pub const LINES: [&str; 12] = [
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
    "dashboard",
];

/// The bytes of a GB in prices by size.
const GB: f64 = 1e9;
const MILLION: f64 = 1e6;

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
    gb_second_x86_64: f64,
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
    dashboard: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Internet {
    gb_out: f64,
}

/// The quantities that AWS bills by use: of one unit of a scenario, or of a period.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantities {
    /// Invocations.
    pub lambda_requests: f64,
    /// GB-seconds on arm64.
    pub gb_seconds: f64,
    /// GB-seconds on x86_64.
    pub gb_seconds_x86_64: f64,
    /// Requests to SQS, those with a message group included.
    pub sqs_requests: f64,
    /// Requests with a message group.
    pub fair_requests: f64,
    /// Write request units.
    pub writes: f64,
    /// Read request units.
    pub reads: f64,
    /// Lines of logs.
    pub log_events: f64,
    /// Bytes of logs.
    pub log_bytes: f64,
    /// Bytes to the Internet.
    pub bytes_out: f64,
}

/// The quantities that AWS bills without events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// Empty receives of Lambda's pollers.
    pub receives: f64,
    /// Metrics of alarms, times months.
    pub alarm_metric_months: f64,
    /// Custom metrics with data, times months.
    pub metric_months: f64,
    /// Dashboards, times months.
    pub dashboard_months: f64,
}

impl Prices {
    /// Reads the file that is compiled in.
    pub fn read() -> Result<Self, toml::de::Error> {
        toml::from_str(include_str!("../prices.toml"))
    }

    /// Returns the bill of these quantities.
    pub fn bill(&self, used: &Quantities) -> Bill {
        let Self { lambda, sqs, dynamodb, cloudwatch, internet, .. } = self;
        let log_bytes = used.log_bytes + used.log_events * cloudwatch.bytes_per_log_event;
        let duration = used.gb_seconds * lambda.gb_second + used.gb_seconds_x86_64 * lambda.gb_second_x86_64;
        of_lines([
            ("Lambda requests", used.lambda_requests / MILLION * lambda.million_requests),
            (DURATION, duration),
            ("SQS requests", used.sqs_requests / MILLION * sqs.million_requests),
            ("SQS fair queue", used.fair_requests / MILLION * sqs.million_fair_requests),
            ("DynamoDB writes", used.writes / MILLION * dynamodb.million_write_units),
            ("DynamoDB reads", used.reads / MILLION * dynamodb.million_read_units),
            ("logs", log_bytes / GB * cloudwatch.gb_of_logs),
            ("data out", used.bytes_out / GB * internet.gb_out),
        ])
    }

    /// Returns the bill of a million units with these quantities each.
    pub fn million(&self, unit: &Quantities) -> Bill {
        self.bill(unit).into_iter().map(|(line, dollars)| (line, dollars * MILLION)).collect()
    }

    /// Returns the bill of what costs without events.
    pub fn standing(&self, standing: &Standing) -> Bill {
        of_lines([
            ("SQS polling", standing.receives / MILLION * self.sqs.million_requests),
            ("alarms", standing.alarm_metric_months * self.cloudwatch.alarm_metric),
            ("custom metrics", standing.metric_months * self.cloudwatch.metric),
            ("dashboard", standing.dashboard_months * self.cloudwatch.dashboard),
        ])
    }

    /// Returns the dollars of a custom metric that has data all month.
    pub fn metric(&self) -> f64 {
        self.cloudwatch.metric
    }
}

fn of_lines<const N: usize>(lines: [(&str, f64); N]) -> Bill {
    let lines = lines.map(|(line, dollars)| (line.to_owned(), dollars));
    lines.into_iter().filter(|(_, dollars)| *dollars > 0.0).collect()
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
    fn quantities_cost_what_the_prices_say() {
        let used = Quantities {
            lambda_requests: 2e6,
            gb_seconds: 3e4,
            gb_seconds_x86_64: 3e4,
            sqs_requests: 3e6,
            fair_requests: 0.0,
            writes: 1e6,
            reads: 1e6,
            log_events: 4e6,
            log_bytes: 1e9,
            bytes_out: 1e9,
        };
        let prices = Prices::read().unwrap();
        let mut bill = prices.bill(&used);
        bill.extend(prices.standing(&Standing {
            receives: 1e6,
            alarm_metric_months: 2.0,
            metric_months: 0.5,
            dashboard_months: 1.0,
        }));
        let expected = [
            ("DynamoDB reads", 0.125),
            ("DynamoDB writes", 0.625),
            ("Lambda duration", 0.4 + 0.5),
            ("Lambda requests", 0.4),
            ("SQS polling", 0.4),
            ("SQS requests", 1.2),
            ("alarms", 0.2),
            ("custom metrics", 0.15),
            ("dashboard", 3.0),
            ("data out", 0.09),
            ("logs", 0.5),
        ];
        for (line, dollars) in &bill {
            let (_, expected) = expected.iter().find(|(name, _)| name == line).unwrap();
            assert!((dollars - expected).abs() < 1e-4, "{line}: {dollars}");
        }
        assert_eq!(bill.len(), expected.len());
        let million = prices.million(&Quantities { writes: 1.0, ..Quantities::default() });
        assert_eq!(million, [("DynamoDB writes".to_owned(), 0.625)].into());
        assert!(bill.keys().all(|line| LINES.contains(&line.as_str())));
    }
}
