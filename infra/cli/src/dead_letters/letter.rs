//! One message of the dead-letter queue.

use std::fmt;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use pushlark_queue::{Record, RecordError, Work, WorkKind};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::output::rfc3339;

/// A message of the dead-letter queue.
pub struct Letter {
    /// The id that SQS gave it.
    pub id: String,
    /// The time at which it was sent to the queue it comes from.
    pub sent_at: OffsetDateTime,
    /// The number of times that it was received, each look included.
    pub receives: u32,
    /// The group of a fair queue.
    pub group: Option<String>,
    /// The text, for a retry.
    pub body: String,
    /// The decoded text.
    pub content: Content,
}

/// The content of a message.
pub enum Content {
    /// A record of the queue.
    Record(Record),
    /// A failed asynchronous invocation of ingest.
    Invocation(FailedInvocation),
    /// A record of this later version.
    Newer(u32),
    /// No record, for this reason.
    Unreadable(String),
}

/// A failed invocation, as Lambda sends it to a destination ("Invocation record").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedInvocation {
    request_context: RequestContext,
    /// The event of the invocation.
    #[serde(rename = "requestPayload")]
    pub payload: Value,
    #[serde(default)]
    response_payload: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    condition: String,
    #[serde(default)]
    approximate_invoke_count: u32,
}

impl Letter {
    /// Reads a received message.
    pub fn read(message: Message) -> Self {
        let attribute = |name: MessageSystemAttributeName| message.attributes()?.get(&name).cloned();
        let sent_at =
            attribute(MessageSystemAttributeName::SentTimestamp).and_then(|millis| millis.parse::<i128>().ok());
        let sent_at = sent_at.and_then(|millis| OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000).ok());
        let receives = attribute(MessageSystemAttributeName::ApproximateReceiveCount);
        let group = attribute(MessageSystemAttributeName::MessageGroupId);
        let body = message.body.unwrap_or_default();
        Self {
            id: message.message_id.unwrap_or_default(),
            sent_at: sent_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            receives: receives.and_then(|receives| receives.parse().ok()).unwrap_or(0),
            group,
            content: Content::read(&body),
            body,
        }
    }

    /// Drops the text, which may have a megabyte.
    pub fn without_body(self) -> Self {
        Self { body: String::new(), ..self }
    }

    /// Returns the age in the largest unit that fits.
    pub fn age(&self) -> String {
        let seconds = (OffsetDateTime::now_utc() - self.sent_at).whole_seconds().max(0);
        match seconds {
            0..120 => format!("{seconds} s"),
            120..7_200 => format!("{} min", seconds / 60),
            7_200..172_800 => format!("{} h", seconds / 3_600),
            _ => format!("{} days", seconds / 86_400),
        }
    }

    /// Returns the message as JSON.
    pub fn to_json(&self, with_body: bool) -> Value {
        let mut json = json!({"id": self.id, "sent_at": rfc3339(self.sent_at), "receives": self.receives});
        match &self.content {
            Content::Record(record) => json["events"] = record.work.iter().map(event_json).collect(),
            Content::Invocation(failed) => {
                json["invocation"] = json!({"condition": failed.request_context.condition,
                    "attempts": failed.request_context.approximate_invoke_count, "error": failed.error()});
            }
            Content::Newer(version) => json["unreadable"] = newer(*version).into(),
            Content::Unreadable(why) => json["unreadable"] = why.as_str().into(),
        }
        if with_body {
            json["body"] = serde_json::from_str(&self.body).unwrap_or_else(|_| self.body.as_str().into());
        }
        json
    }

    /// Returns the message in lines.
    pub fn in_words(&self, with_body: bool) -> Vec<String> {
        let mut lines = vec![
            self.id.clone(),
            format!("  sent {} ({} ago), received {} times", rfc3339(self.sent_at), self.age(), self.receives),
        ];
        match &self.content {
            Content::Record(record) => {
                for work in &record.work {
                    let [kind, recipients] = [kind(&work.kind).to_owned(), recipients(&work.kind).join(", ")];
                    lines.push(format!("  {kind} {} of {} to {recipients}", work.id, rfc3339(work.at)));
                    lines.extend(work.retry.as_ref().map(|retry| format!("    failed {} times", retry.tries)));
                }
            }
            content => lines.push(format!("  {content}")),
        }
        if with_body {
            lines.push(format!("  {}", self.body));
        }
        lines
    }
}

impl Content {
    fn read(body: &str) -> Self {
        match Record::read(body) {
            Ok(record) => Self::Record(record),
            Err(RecordError::Newer(version)) => Self::Newer(version),
            Err(error @ RecordError::Json(_)) => match serde_json::from_str(body) {
                Ok(failed) => Self::Invocation(failed),
                Err(_) => Self::Unreadable(error.to_string()),
            },
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(record) => {
                let Some(first) = record.work.first() else { return f.write_str("a record without events") };
                let recipients: Vec<_> = record.work.iter().flat_map(|work| recipients(&work.kind)).collect();
                write!(f, "{} {} to {}", kind(&first.kind), first.id, recipients.first().map_or("nobody", |to| to))?;
                if recipients.len() > 1 {
                    write!(f, " and {} more", recipients.len() - 1)?;
                }
                if record.work.len() > 1 {
                    write!(f, ", {} events", record.work.len())?;
                }
                Ok(())
            }
            Self::Invocation(failed) => {
                let RequestContext { condition, approximate_invoke_count } = &failed.request_context;
                write!(f, "SNS notification: {condition} after {approximate_invoke_count} attempts: {}", failed.error())
            }
            Self::Newer(version) => f.write_str(&newer(*version)),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

impl FailedInvocation {
    fn error(&self) -> &str {
        self.response_payload["errorMessage"].as_str().unwrap_or("no error message")
    }
}

fn newer(version: u32) -> String {
    format!("a record of version {version}, which this tool cannot read")
}

fn event_json(work: &Work) -> Value {
    let mut event = json!({"id": work.id, "at": rfc3339(work.at), "kind": kind(&work.kind),
        "recipients": recipients(&work.kind)});
    if let Some(retry) = &work.retry {
        event["failures"] = retry.tries.into();
    }
    event
}

fn kind(kind: &WorkKind) -> &'static str {
    match kind {
        WorkKind::Message { .. } => "message",
        WorkKind::Unacknowledged { .. } => "unacknowledged message",
        WorkKind::Subscription { .. } => "contact request",
        WorkKind::Read { .. } => "read mark",
        WorkKind::Notification(_) => "notification to a push node",
        WorkKind::UserRemoved { .. } => "removal of a user",
        WorkKind::DomainRemoved { .. } => "removal of a domain",
    }
}

fn recipients(kind: &WorkKind) -> Vec<String> {
    match kind {
        WorkKind::Message { to, .. } => to.iter().map(ToString::to_string).collect(),
        WorkKind::Unacknowledged { to, .. } => to.iter().map(ToString::to_string).collect(),
        WorkKind::Subscription { to, .. } => vec![to.to_string()],
        WorkKind::Read { jid, .. } | WorkKind::UserRemoved { jid } => vec![jid.to_string()],
        WorkKind::Notification(notification) => vec![notification.owner.to_string()],
        WorkKind::DomainRemoved { domain } => vec![domain.to_string()],
    }
}
