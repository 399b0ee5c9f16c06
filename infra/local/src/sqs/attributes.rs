//! The attributes of a queue.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::error::Error;

/// The start of every queue's ARN.
pub(super) const ARN_PREFIX: &str = "arn:aws:sqs:us-east-1:000000000000:";

/// A queue's attributes, as [SetQueueAttributes] defines them: times in seconds, sizes in bytes.
///
/// [SetQueueAttributes]: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueAttributes {
    /// `VisibilityTimeout`, 0 to 43,200: the time for which a received message is hidden, unless the receive sets
    /// another.
    pub visibility_timeout: u32,
    /// `DelaySeconds`, 0 to 900: the time for which a new message is hidden, unless it sets another.
    pub delay_seconds: u32,
    /// `ReceiveMessageWaitTimeSeconds`, 0 to 20: the time for which a receive waits, unless it sets another.
    pub receive_message_wait_time: u32,
    /// `MessageRetentionPeriod`, 60 to 1,209,600: how long a message is kept.
    pub message_retention_period: u32,
    /// `MaximumMessageSize`, 1,024 to 1,048,576: body and attributes together.
    pub maximum_message_size: u32,
    /// `RedrivePolicy`: the name of the dead-letter queue, which must exist, and `maxReceiveCount`, 1 to 1,000.
    pub max_receive: Option<(String, u32)>,
}

impl Default for QueueAttributes {
    fn default() -> Self {
        Self {
            visibility_timeout: 30,
            delay_seconds: 0,
            receive_message_wait_time: 0,
            message_retention_period: 345_600,
            maximum_message_size: 1_048_576,
            max_receive: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    max_receive_count: Count,
}

/// AWS accepts the number also as a string, as in most of its examples.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u32),
    Text(String),
}

impl QueueAttributes {
    pub(super) const NAMES: [&str; 6] = [
        "VisibilityTimeout",
        "DelaySeconds",
        "ReceiveMessageWaitTimeSeconds",
        "MessageRetentionPeriod",
        "MaximumMessageSize",
        "RedrivePolicy",
    ];

    pub(super) fn get(&self, name: &str) -> Option<String> {
        let number = match name {
            "VisibilityTimeout" => self.visibility_timeout,
            "DelaySeconds" => self.delay_seconds,
            "ReceiveMessageWaitTimeSeconds" => self.receive_message_wait_time,
            "MessageRetentionPeriod" => self.message_retention_period,
            "MaximumMessageSize" => self.maximum_message_size,
            _ => {
                let (queue, count) = self.max_receive.as_ref()?;
                let policy = RedrivePolicy {
                    dead_letter_target_arn: format!("{ARN_PREFIX}{queue}"),
                    max_receive_count: Count::Number(*count),
                };
                return serde_json::to_string(&policy).ok();
            }
        };
        Some(number.to_string())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let number = |range: RangeInclusive<u32>| {
            let number = value.parse().ok().filter(|number| range.contains(number));
            number.ok_or_else(|| Error::InvalidAttributeValue(name.to_owned()))
        };
        match name {
            "VisibilityTimeout" => self.visibility_timeout = number(0..=43_200)?,
            "DelaySeconds" => self.delay_seconds = number(0..=900)?,
            "ReceiveMessageWaitTimeSeconds" => self.receive_message_wait_time = number(0..=20)?,
            "MessageRetentionPeriod" => self.message_retention_period = number(60..=1_209_600)?,
            "MaximumMessageSize" => self.maximum_message_size = number(1024..=1_048_576)?,
            // An empty value removes the policy.
            "RedrivePolicy" if value.is_empty() => self.max_receive = None,
            "RedrivePolicy" => self.max_receive = Some(redrive_policy(value)?),
            _ => return Err(Error::InvalidAttributeName(name.to_owned())),
        }
        Ok(())
    }
}

fn redrive_policy(value: &str) -> Result<(String, u32), Error> {
    let policy = || {
        let policy: RedrivePolicy = serde_json::from_str(value).ok()?;
        let queue = policy.dead_letter_target_arn.strip_prefix(ARN_PREFIX)?.to_owned();
        let count = match policy.max_receive_count {
            Count::Number(number) => number,
            Count::Text(text) => text.parse().ok()?,
        };
        (1..=1000).contains(&count).then_some((queue, count))
    };
    policy().ok_or_else(|| {
        let reason = format!(
            "Must have a deadLetterTargetArn that starts with {ARN_PREFIX} and a maxReceiveCount from 1 to 1000."
        );
        Error::invalid("RedrivePolicy", value, &reason)
    })
}
