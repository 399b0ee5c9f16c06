//! The command `bill`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_sdk_lambda::types::Architecture;
use clap::Args;
use pushlark_prices::{Bill, LINES, Prices, Quantities, Standing, total};
use pushlark_settings::catalogue::FAIR_QUEUES;
use serde::Serialize;
use time::OffsetDateTime;

use crate::logs::LogGroups;
use crate::metrics::{Metric, Metrics};
use crate::output::{Format, Progress, print_json, rfc3339, say, say_table, table};
use crate::stack::{Function, Place, Stack, StackOptions, physical_id};
use crate::status::alarms;

/// The period of one value: AWS bills a custom metric by the hours in which it has data.
const HOUR: Duration = Duration::from_hours(1);
/// AWS counts a month as 730 hours ("Amazon CloudWatch pricing", examples of custom metrics).
const HOURS_OF_MONTH: f64 = 730.0;
/// The bytes of one request to SQS ("Amazon SQS pricing": each 64 KB are one request).
const BYTES_OF_REQUEST: f64 = 65_536.0;
/// The metrics that the functions may write, as `docs/logs.md` lists them.
const CUSTOM: [&str; 14] = [
    "EventsAccepted",
    "Delivered",
    "Suspect",
    "Expired",
    "Unroutable",
    "ColdStartMilliseconds",
    "PublishMilliseconds",
    "Gone",
    "DisablingStopped",
    "Refused",
    "Transient",
    "DeadLettered",
    "PluginFailed",
    "Unauthorized",
];
/// The parts of the bill that are calculated from other quantities than AWS counts.
const ESTIMATES: [&str; 4] = [
    "The requests to SQS: a message is sent by one request for each 64 KB, received by one for each invocation of the \
     worker, and deleted by one more.",
    "Lambda bills each invocation in whole milliseconds; the metric Duration is the sum before.",
    "The prices are those of us-east-1. Those of other regions differ by up to half.",
    "Metrics arrive after minutes: the last quarter of an hour may be missing.",
];
/// The parts that are not in the bill.
const NOT_INCLUDED: [&str; 6] = [
    "free tiers, discounts and taxes",
    "data transfer to the Internet: answers of the functions, and notifications to push services",
    "the initialisation of new processes of Lambda",
    "the storage of the table, of its backups (PITR) and of the logs",
    "KMS, Secrets Manager, SNS, S3 and Parameter Store",
    "functions of a plugin, MongoosePush, and other resources outside of the stack",
];

/// Show what this stack cost in a period, from the metrics of CloudWatch.
///
/// The bill has a line for each service, and its sum for a million accepted events and for a million notifications.
#[derive(Debug, Args)]
pub struct BillOptions {
    /// The days before now.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=90), value_name = "NUMBER")]
    days: u16,
}

/// The bill of a period.
#[derive(Debug, Serialize)]
struct PeriodBill {
    stack: String,
    /// The start and the end of the period (RFC 3339).
    start: String,
    end: String,
    /// The day of the prices.
    prices: String,
    /// Dollars by lines.
    lines: Bill,
    /// Dollars in all.
    total: f64,
    /// Events that ingest accepted.
    events: f64,
    /// Notifications that push services accepted.
    notifications: f64,
    /// Dollars in all for a million of them; `null` without any.
    million_events: Option<f64>,
    million_notifications: Option<f64>,
    estimates: [&'static str; 4],
    not_included: [&'static str; 6],
}

/// The metrics of a bill. Each list has the order of its field in [`Sums`].
struct Sums {
    /// Invocations and milliseconds of each function, in the order of [`Function::ALL`].
    functions: Vec<[f64; 2]>,
    /// Write and read units of the table and of its index.
    units: [f64; 2],
    /// Messages that were sent to both queues, their bytes, and empty receives.
    queues: [f64; 3],
    log_bytes: f64,
    /// Events and notifications.
    counted: [f64; 2],
    /// Hours in which a custom metric had data, of all together.
    metric_hours: f64,
}

/// The size of a function.
struct Size {
    gigabytes: f64,
    is_x86_64: bool,
}

impl BillOptions {
    /// Runs the command.
    pub async fn run(self, options: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let stack = Stack::find(options).await?;
        let bill = PeriodBill::of(&stack, self.days).await?;
        match format {
            Format::Json => print_json(&bill)?,
            Format::Human => bill.print()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl PeriodBill {
    async fn of(stack: &Stack, days: u16) -> anyhow::Result<Self> {
        let Place::Aws { resources } = &stack.place else { bail!("the local stack costs nothing") };
        let end = OffsetDateTime::now_utc().replace_nanosecond(0)?;
        let start = end - Duration::from_hours(24) * u32::from(days);
        let progress = Progress::start(None, "reading metrics");
        let mut sizes = Vec::new();
        for function in Function::ALL {
            sizes.push(Size::of(stack, physical_id(resources, function)?).await?);
            progress.add(1);
        }
        let sums = Sums::read(stack, &Metrics::new(&stack.aws, start, end, HOUR)).await?;
        let is_fair = stack.environment(Function::Ingest).await?.switch(&FAIR_QUEUES)?;
        let alarms = alarms(stack).await?;
        let alarm_metrics: usize = alarms
            .iter()
            .map(|alarm| alarm.metrics().iter().filter(|metric| metric.metric_stat().is_some()).count().max(1))
            .sum();
        let dashboards = resources.keys().filter(|logical| logical.ends_with("Dashboard")).count();

        let prices = Prices::read()?;
        let mut lines = prices.bill(&sums.quantities(&sizes, is_fair));
        let months = f64::from(days) * 24.0 / HOURS_OF_MONTH;
        lines.extend(prices.standing(&Standing {
            receives: sums.queues[2],
            alarm_metric_months: alarm_metrics as f64 * months,
            metric_months: sums.metric_hours / HOURS_OF_MONTH,
            dashboard_months: dashboards as f64 * months,
        }));
        let total = total(&lines);
        let [events, notifications] = sums.counted;
        let million = |count: f64| (count > 0.0).then(|| total / count * 1e6);
        Ok(Self {
            stack: stack.name.clone(),
            start: rfc3339(start),
            end: rfc3339(end),
            prices: prices.date,
            lines,
            total,
            events,
            notifications,
            million_events: million(events),
            million_notifications: million(notifications),
            estimates: ESTIMATES,
            not_included: NOT_INCLUDED,
        })
    }

    fn print(&self) -> anyhow::Result<()> {
        let Self { stack, start, end, prices, .. } = self;
        say(format!("The stack {stack} from {start} to {end}, by the prices of {prices}:"))?;
        say("")?;
        let of_million = |dollars: f64, count: f64| match count > 0.0 {
            true => format!("{:.4}", dollars / count * 1e6),
            false => "-".into(),
        };
        let row = |line: &str, dollars: f64| {
            let [events, notifications] = [self.events, self.notifications].map(|count| of_million(dollars, count));
            [line.into(), format!("{dollars:.4}"), events, notifications]
        };
        let lines = LINES.into_iter().filter_map(|line| Some(row(line, *self.lines.get(line)?)));
        let rows = lines.chain([row("all", self.total)]);
        say_table(&table(["LINE", "DOLLARS", "FOR A MILLION EVENTS", "FOR A MILLION NOTIFICATIONS"], rows))?;
        say("")?;
        say(format!("{:.0} events accepted, {:.0} notifications delivered.", self.events, self.notifications))?;
        say("")?;
        say("Estimates:")?;
        for estimate in self.estimates {
            say(format!("- {estimate}"))?;
        }
        say("")?;
        say("Not included:")?;
        for part in self.not_included {
            say(format!("- {part}"))?;
        }
        Ok(())
    }
}

impl Sums {
    async fn read(stack: &Stack, metrics: &Metrics) -> anyhow::Result<Self> {
        let Place::Aws { resources } = &stack.place else { bail!("the local stack has no metrics") };
        let mut functions = Vec::new();
        for function in Function::ALL {
            let name = physical_id(resources, function)?;
            functions.push(Metric::new("AWS/Lambda", "Invocations", "Sum").of("FunctionName", name));
            functions.push(Metric::new("AWS/Lambda", "Duration", "Sum").of("FunctionName", name));
        }
        let table = stack.table.as_str();
        let units = ["ConsumedWriteCapacityUnits", "ConsumedReadCapacityUnits"].map(|name| {
            let of_table = Metric::new("AWS/DynamoDB", name, "Sum").of("TableName", table);
            [of_table.clone(), of_table.of("GlobalSecondaryIndexName", "domain")]
        });
        let queues =
            [&stack.queue_url, &stack.dead_letter_queue_url].map(|url| url.rsplit('/').next().unwrap_or_default());
        let queues = ["NumberOfMessagesSent", "SentMessageSize", "NumberOfEmptyReceives"]
            .map(|name| queues.map(|queue| Metric::new("AWS/SQS", name, "Sum").of("QueueName", queue)));
        let groups = LogGroups::of(stack)?;
        let logs: Vec<_> = groups
            .names()
            .map(|group| Metric::new("AWS/Logs", "IncomingBytes", "Sum").of("LogGroupName", group))
            .collect();
        let own = |name, statistic| Metric::new("Pushlark", name, statistic).of("Stack", &stack.name);
        let counted = ["EventsAccepted", "Delivered"].map(|name| own(name, "Sum"));
        let failures = Metric::new(format!("Pushlark/{}", stack.name), "Failures", "SampleCount");
        let custom: Vec<_> = CUSTOM.map(|name| own(name, "SampleCount")).into_iter().chain([failures]).collect();

        let all = [functions, units.concat(), queues.concat(), logs, counted.to_vec(), custom.clone()].concat();
        let mut series = metrics.values(&all).await?.into_iter();
        let hours: usize = series.as_slice()[all.len() - custom.len()..].iter().map(Vec::len).sum();
        // The sum of no numbers is -0.
        let mut sum = || series.next().map_or(0.0, |values| 0.0 + values.iter().sum::<f64>());
        Ok(Self {
            functions: Function::ALL.map(|_| [sum(), sum()]).into(),
            units: [sum() + sum(), sum() + sum()],
            queues: [sum() + sum(), sum() + sum(), sum() + sum()],
            log_bytes: groups.names().map(|_| sum()).sum(),
            counted: [sum(), sum()],
            metric_hours: hours as f64,
        })
    }

    fn quantities(&self, sizes: &[Size], is_fair: bool) -> Quantities {
        let gb_seconds = |is_x86_64: bool| {
            let used = sizes.iter().zip(&self.functions).filter(|(size, _)| size.is_x86_64 == is_x86_64);
            used.map(|(size, [_, milliseconds])| size.gigabytes * milliseconds / 1e3).sum()
        };
        let [sent, bytes, _] = self.queues;
        // The worker is the last function of the template.
        let batches = self.functions.last().map_or(0.0, |[invocations, _]| *invocations);
        let sqs_requests = sent.max(bytes / BYTES_OF_REQUEST) + 2.0 * batches;
        let [writes, reads] = self.units;
        Quantities {
            lambda_requests: self.functions.iter().map(|[invocations, _]| invocations).sum(),
            gb_seconds: gb_seconds(false),
            gb_seconds_x86_64: gb_seconds(true),
            sqs_requests,
            fair_requests: if is_fair { sqs_requests } else { 0.0 },
            writes,
            reads,
            log_bytes: self.log_bytes,
            ..Quantities::default()
        }
    }
}

impl Size {
    async fn of(stack: &Stack, name: &str) -> anyhow::Result<Self> {
        let client = aws_sdk_lambda::Client::new(&stack.aws);
        let configuration = client.get_function_configuration().function_name(name).send().await;
        let configuration = configuration.with_context(|| format!("the function {name} cannot be read"))?;
        let is_x86_64 = configuration.architectures().contains(&Architecture::X8664);
        Ok(Self { gigabytes: f64::from(configuration.memory_size().unwrap_or_default()) / 1_024.0, is_x86_64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_follow_the_metrics() {
        let sums = Sums {
            functions: vec![[1.0, 10.0], [0.0, 0.0], [100.0, 2_000.0], [0.0, 0.0], [40.0, 8_000.0]],
            units: [30.0, 60.0],
            queues: [50.0, 65_536.0 * 70.0, 5.0],
            log_bytes: 1e6,
            counted: [100.0, 90.0],
            metric_hours: 3.0,
        };
        let mut sizes: Vec<_> = Function::ALL.iter().map(|_| Size { gigabytes: 0.25, is_x86_64: false }).collect();
        sizes[4].is_x86_64 = true;
        let quantities = sums.quantities(&sizes, true);
        assert_eq!(quantities.lambda_requests, 141.0);
        assert_eq!((quantities.gb_seconds, quantities.gb_seconds_x86_64), (0.5025, 2.0));
        // Seventy requests by their bytes, and two for each of forty batches.
        assert_eq!((quantities.sqs_requests, quantities.fair_requests), (150.0, 150.0));
        assert_eq!(sums.quantities(&sizes, false).fair_requests, 0.0);
    }

    #[test]
    fn the_metrics_are_those_of_the_page() {
        let page = include_str!("../../../docs/logs.md");
        let (_, section) = page.split_once("\n## Metrics\n").unwrap_or_default();
        let rows = section.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next());
        let listed: Vec<_> = rows.collect();
        assert!(listed.len() > 10);
        for name in listed {
            assert!(CUSTOM.contains(&name), "{name}");
        }
    }
}
