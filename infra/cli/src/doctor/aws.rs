//! Checks of the resources: dead letters, the table, alarms and quotas.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use aws_sdk_dynamodb::types::{PointInTimeRecoveryStatus, TimeToLiveStatus};
use aws_sdk_sqs::types::QueueAttributeName;
use time::OffsetDateTime;

use super::Check;
use crate::metrics::{Metric, Metrics};
use crate::stack::{Function, Place, Stack, physical_id};
use crate::status::alarms;

/// The codes of the quotas of DynamoDB for one table on demand ("Service Quotas").
const TABLE_QUOTAS: [(&str, &str, &str); 2] =
    [("writes", "ConsumedWriteCapacityUnits", "L-AB614373"), ("reads", "ConsumedReadCapacityUnits", "L-CF0CBE56")];
/// The share of a quota from which a warning is due.
const NEAR: f64 = 0.8;

/// Checks the resources. The local stack has only its dead letters.
pub async fn check(stack: &Stack) -> Vec<Check> {
    let mut checks = vec![dead_letters(stack).await];
    if let Place::Aws { resources } = &stack.place {
        checks.extend(table(stack).await);
        checks.push(alarm_topic(stack).await);
        checks.push(concurrency(stack, resources).await);
        checks.extend(throughput(stack).await);
    }
    checks
}

/// Returns a failed check for a call of AWS that needs a permission.
fn unread(check: &str, error: impl Into<anyhow::Error>, permission: &str) -> Check {
    Check::failed(check, format!("{:#}", error.into()), format!("Get the permission {permission}."))
}

async fn dead_letters(stack: &Stack) -> Check {
    let name = QueueAttributeName::ApproximateNumberOfMessages;
    let request = stack.sqs.get_queue_attributes().queue_url(&stack.dead_letter_queue_url);
    match request.attribute_names(name.clone()).send().await {
        Err(error) => unread("dead letters", error, "sqs:GetQueueAttributes"),
        Ok(answer) => match answer.attributes().and_then(|attributes| attributes.get(&name)).map(String::as_str) {
            None | Some("0") => Check::ok("dead letters", "none"),
            Some(number) => Check::warning(
                "dead letters",
                format!("{number} messages"),
                "See `pushlark dead-letters list`; after the repair, `pushlark dead-letters retry`.",
            ),
        },
    }
}

/// Checks the table's expiry, backup and protection.
async fn table(stack: &Stack) -> Vec<Check> {
    let (client, table) = (&stack.dynamodb, &stack.table);
    let expiry = match client.describe_time_to_live().table_name(table).send().await {
        Err(error) => unread("table: expiry", error, "dynamodb:DescribeTimeToLive"),
        Ok(answer) => match answer.time_to_live_description().and_then(|expiry| expiry.time_to_live_status()) {
            Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) => {
                Check::ok("table: expiry", "items that have expired are deleted")
            }
            _ => Check::failed(
                "table: expiry",
                "is off: sessions, claims and counters stay forever",
                "Enable time to live with the attribute expires_at.",
            ),
        },
    };
    let backup = match client.describe_continuous_backups().table_name(table).send().await {
        Err(error) => unread("table: backup", error, "dynamodb:DescribeContinuousBackups"),
        Ok(answer) => {
            let recovery = answer.continuous_backups_description().and_then(|backups| {
                backups.point_in_time_recovery_description()?.point_in_time_recovery_status().cloned()
            });
            match recovery {
                Some(PointInTimeRecoveryStatus::Enabled) => Check::ok("table: backup", "point-in-time recovery is on"),
                _ => Check::warning(
                    "table: backup",
                    "point-in-time recovery is off",
                    "Enable it: registrations cannot be collected again from clients.",
                ),
            }
        }
    };
    let protection = match client.describe_table().table_name(table).send().await {
        Err(error) => unread("table: protection", error, "dynamodb:DescribeTable"),
        Ok(answer) => match answer.table().and_then(|table| table.deletion_protection_enabled()) {
            Some(true) => Check::ok("table: protection", "the table cannot be deleted by mistake"),
            _ => Check::warning("table: protection", "is off", "Enable deletion protection of the table."),
        },
    };
    vec![expiry, backup, protection]
}

async fn alarm_topic(stack: &Stack) -> Check {
    match alarms(stack).await {
        Err(error) => unread("alarms", error, "cloudwatch:DescribeAlarms"),
        Ok(alarms) => match alarms.iter().filter(|alarm| alarm.alarm_actions().is_empty()).count() {
            0 => Check::ok("alarms", format!("{} alarms notify somebody", alarms.len())),
            silent => Check::warning(
                "alarms",
                format!("{silent} of {} alarms notify nobody", alarms.len()),
                "Set the parameter AlarmTopicArn to a topic of SNS.",
            ),
        },
    }
}

/// Compares the most concurrent workers with the concurrency of the account, which the other functions need, too.
async fn concurrency(stack: &Stack, resources: &HashMap<String, String>) -> Check {
    const NAME: &str = "quota: concurrency of Lambda";
    let client = aws_sdk_lambda::Client::new(&stack.aws);
    let account = match client.get_account_settings().send().await {
        Err(error) => return unread(NAME, error, "lambda:GetAccountSettings"),
        Ok(account) => account.account_limit().map_or(0, |limit| limit.concurrent_executions()),
    };
    let worker = match physical_id(resources, Function::Worker) {
        Err(error) => return Check::failed(NAME, format!("{error:#}"), "Deploy the stack again."),
        Ok(worker) => worker,
    };
    let workers = match client.list_event_source_mappings().function_name(worker).send().await {
        Err(error) => return unread(NAME, error, "lambda:ListEventSourceMappings"),
        Ok(mappings) => {
            let mut scaling = mappings.event_source_mappings().iter().filter_map(|mapping| mapping.scaling_config());
            scaling.find_map(|scaling| scaling.maximum_concurrency())
        }
    };
    match workers {
        None => Check::warning(NAME, "the worker has no limit of its own", "Set the parameter Workers."),
        Some(workers) if workers < account => {
            Check::ok(NAME, format!("{account} for the account, of which the worker takes {workers} at most"))
        }
        Some(workers) => Check::warning(
            NAME,
            format!("{account} for the account, and the worker may take {workers}: requests may be refused"),
            "Reduce the parameter Workers, or have the quota raised in Service Quotas.",
        ),
    }
}

/// Compares the busiest minute of the last day with the quotas of a table on demand.
async fn throughput(stack: &Stack) -> Vec<Check> {
    let now = OffsetDateTime::now_utc();
    let metrics = Metrics::new(&stack.aws, now - Duration::from_hours(24), now, Duration::from_mins(1));
    let queried =
        TABLE_QUOTAS.map(|(_, metric, _)| Metric::new("AWS/DynamoDB", metric, "Sum").of("TableName", &stack.table));
    let used = match metrics.values(&queried).await {
        Err(error) => return vec![unread("quota: throughput of the table", error, "cloudwatch:GetMetricData")],
        Ok(used) => used,
    };
    let client = aws_sdk_servicequotas::Client::new(&stack.aws);
    let mut checks = Vec::new();
    for ((kind, _, code), values) in TABLE_QUOTAS.into_iter().zip(used) {
        let name = format!("quota: {kind} of the table");
        let busiest = values.into_iter().fold(0.0, f64::max) / 60.0;
        let quota = match table_quota(&client, code).await {
            Ok(quota) => quota,
            Err(error) => {
                let remedy = "Get the permissions servicequotas:GetServiceQuota and GetAWSDefaultServiceQuota.";
                checks.push(Check::warning(name, format!("cannot be read: {error:#}"), remedy));
                continue;
            }
        };
        let detail = format!("{quota:.0} units a second; the busiest minute of the last day had {busiest:.1}");
        checks.push(match busiest > quota * NEAR {
            true => Check::warning(name, detail, "Have the quota raised in Service Quotas."),
            false => Check::ok(name, detail),
        });
    }
    checks
}

/// Returns the quota of the account, or the default one if the account has none of its own.
async fn table_quota(client: &aws_sdk_servicequotas::Client, code: &str) -> anyhow::Result<f64> {
    let own = client.get_service_quota().service_code("dynamodb").quota_code(code).send().await;
    if let Some(quota) = own.ok().and_then(|answer| answer.quota?.value) {
        return Ok(quota);
    }
    let default = client.get_aws_default_service_quota().service_code("dynamodb").quota_code(code).send().await?;
    default.quota.and_then(|quota| quota.value).context("there is no such quota")
}
