//! The time after which data of a user expire that an erasure does not delete.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::Context;
use aws_sdk_sqs::types::QueueAttributeName;
use pushlark_store::{CLAIM_LIFETIME, COUNTER_LIFETIME, SHOWN_LIFETIME};
use serde_json::{Value, json};

use crate::stack::{Function, Place, Stack};

/// The seconds of a day.
const DAY: u64 = 86_400;

/// Data that expire by themselves.
#[derive(Debug)]
pub struct Retention {
    what: String,
    limit: Limit,
}

#[derive(Debug)]
enum Limit {
    /// They are deleted after this number of days.
    Days(u64),
    /// They stay until somebody deletes them.
    Never,
    /// It is not known, for this reason.
    Unknown(String),
}

impl Retention {
    /// Returns all retentions of a stack; with `is_scanned`, without those of items that a search deletes.
    pub async fn of(stack: &Stack, is_scanned: bool) -> Vec<Self> {
        let days =
            |what: &str, lifetime: Duration| Self { what: what.into(), limit: Limit::Days(lifetime.as_secs() / DAY) };
        let mut all = vec![days("claims of messages, which have hashes of their recipients", CLAIM_LIFETIME)];
        if !is_scanned {
            all.extend([
                days("unread counters and read marks of other users in conversations with the user", COUNTER_LIFETIME),
                days("records of the other users' notifications in these conversations", SHOWN_LIFETIME),
                Self {
                    what: "affiliations to other users' push nodes, and mutes in other users' preferences".into(),
                    limit: Limit::Never,
                },
            ]);
        }
        let queues = [("messages in the queue", &stack.queue_url), ("dead letters", &stack.dead_letter_queue_url)];
        for (what, url) in queues {
            all.push(Self { what: what.into(), limit: Limit::read(queue(stack, url).await) });
        }
        let Place::Aws { .. } = &stack.place else { return all };
        match logs(stack).await {
            Ok(limits) => {
                all.extend(limits.into_iter().map(|days| Self { what: "log lines".into(), limit: Limit::of(days) }));
            }
            Err(error) => all.push(Self { what: "log lines".into(), limit: Limit::Unknown(format!("{error:#}")) }),
        }
        match point_in_time_recovery(stack).await {
            Ok(None) => {}
            Ok(Some(days)) => {
                all.push(Self { what: "continuous backups of the table".into(), limit: Limit::Days(days) })
            }
            Err(error) => {
                let limit = Limit::Unknown(format!("{error:#}"));
                all.push(Self { what: "continuous backups of the table".into(), limit });
            }
        }
        match backups(stack).await {
            Ok(0) => {}
            Ok(backups) => all.push(Self { what: format!("on-demand backups ({backups})"), limit: Limit::Never }),
            Err(error) => {
                all.push(Self { what: "on-demand backups".into(), limit: Limit::Unknown(format!("{error:#}")) });
            }
        }
        all
    }

    /// Returns the JSON for a receipt.
    pub fn to_json(&self) -> Value {
        match &self.limit {
            Limit::Days(days) => json!({"what": self.what, "days": days}),
            Limit::Never => json!({"what": self.what, "days": null}),
            Limit::Unknown(reason) => json!({"what": self.what, "unknown": reason}),
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, limit } = self;
        match limit {
            Limit::Days(days) => write!(f, "{what}: after {days} days"),
            Limit::Never => write!(f, "{what}: never, delete them yourself"),
            Limit::Unknown(reason) => write!(f, "{what}: not known, {reason}"),
        }
    }
}

impl Limit {
    fn of(days: Option<u64>) -> Self {
        days.map_or(Self::Never, Self::Days)
    }

    fn read(days: anyhow::Result<u64>) -> Self {
        days.map_or_else(|error| Self::Unknown(format!("{error:#}")), Self::Days)
    }
}

/// Returns the days for which a queue keeps messages.
async fn queue(stack: &Stack, url: &str) -> anyhow::Result<u64> {
    let name = QueueAttributeName::MessageRetentionPeriod;
    let read = stack.sqs.get_queue_attributes().queue_url(url).attribute_names(name.clone()).send().await;
    let read = read.context("the queue cannot be read (sqs:GetQueueAttributes)")?;
    let seconds = read.attributes.and_then(|attributes| attributes.get(&name)?.parse::<u64>().ok());
    Ok(seconds.context("the queue does not say how long it keeps messages")?.div_ceil(DAY))
}

/// Returns the days for which the log groups keep lines, each number once; `None` without a limit.
async fn logs(stack: &Stack) -> anyhow::Result<BTreeSet<Option<u64>>> {
    let Place::Aws { resources } = &stack.place else { return Ok(BTreeSet::new()) };
    let client = aws_sdk_cloudwatchlogs::Client::new(&stack.aws);
    let mut limits = BTreeSet::new();
    for function in Function::ALL {
        let Some(name) = resources.get(&function.log_group_id()) else { continue };
        let described = client.describe_log_groups().log_group_name_prefix(name).send().await;
        let described = described.context("the log groups cannot be read (logs:DescribeLogGroups)")?;
        let groups = described.log_groups.unwrap_or_default();
        let group = groups.into_iter().find(|group| group.log_group_name() == Some(name.as_str()));
        limits.extend(group.map(|group| group.retention_in_days.and_then(|days| days.try_into().ok())));
    }
    Ok(limits)
}

/// Returns the days for which the table can be restored; `None` if it cannot.
async fn point_in_time_recovery(stack: &Stack) -> anyhow::Result<Option<u64>> {
    let described = stack.dynamodb.describe_continuous_backups().table_name(&stack.table).send().await;
    let described = described.context("the backups cannot be read (dynamodb:DescribeContinuousBackups)")?;
    let recovery =
        described.continuous_backups_description.and_then(|backups| backups.point_in_time_recovery_description);
    let earliest = recovery.filter(|recovery| recovery.earliest_restorable_date_time.is_some());
    // Without a period of its own, it is DynamoDB's ("Point-in-time backups for DynamoDB").
    Ok(earliest.map(|recovery| recovery.recovery_period_in_days.and_then(|days| days.try_into().ok()).unwrap_or(35)))
}

/// Returns the number of on-demand backups of the table.
async fn backups(stack: &Stack) -> anyhow::Result<usize> {
    let listed = stack.dynamodb.list_backups().table_name(&stack.table).send().await;
    let listed = listed.context("the backups cannot be listed (dynamodb:ListBackups)")?;
    Ok(listed.backup_summaries.unwrap_or_default().len())
}
