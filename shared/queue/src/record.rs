//! A record: the events that one SQS message carries from ingest to the worker.

use std::collections::BTreeMap;

use pushlark_xmpp::{BareJid, DomainPart, FullJid, Jid};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// The most recipients that one record has; a record is repeated as a whole when one of them fails.
pub const MAX_RECIPIENTS: usize = 25;
/// A record takes no further event once it has so many bytes of stanzas: what SQS bills as one request.
const FULL_RECORD_BYTES: usize = 60 * 1024;

/// The body of an SQS message, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Names this record, however often SQS delivers it; with an event's place in `work` it names the event.
    pub uid: String,
    /// What is to be done.
    pub work: Vec<Work>,
}

/// An event that the worker has to act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Names the message.
    pub id: String,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What happened.
    pub subject: Subject,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A message is on its way to these users.
    Message {
        /// The sender.
        from: Jid,
        /// The recipients.
        to: Vec<BareJid>,
        /// The stanza, as XML.
        stanza: String,
        /// What the webhook said of the recipients.
        #[serde(default)]
        recipient: Facts,
    },
    /// These sessions did not acknowledge a message.
    Unacknowledged {
        /// The sender.
        from: Jid,
        /// The sessions.
        to: Vec<FullJid>,
        /// The stanza, as XML.
        stanza: String,
        /// What the webhook said of the recipients.
        #[serde(default)]
        recipient: Facts,
    },
    /// A server has published this to a push node.
    Notification(Box<NodeNotification>),
    /// This user is no more.
    UserRemoved {
        /// The user.
        jid: BareJid,
    },
    /// This domain is no more.
    DomainRemoved {
        /// The domain.
        domain: DomainPart,
    },
}

/// A notification that was published to a push node: a ready payload for a device, for which nobody is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNotification {
    /// The PubSub service that was published to.
    pub jid: BareJid,
    /// The node there.
    pub node: String,
    /// Whose node it is.
    pub owner: BareJid,
    /// When the node was created, in microseconds since 1970.
    pub created_at: u64,
    /// How the device is reached, and what else its push service is told.
    pub options: BTreeMap<String, String>,
    /// The fields of the summary, in their order.
    pub summary: Vec<(String, String)>,
}

/// What a webhook says of a message's recipient. What it leaves out is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Whether there is such a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// Whether the user has a session that takes messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// How many messages of the conversation are unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_count: Option<u32>,
}

impl Record {
    /// Puts work into as few records as their bounds allow, in its order; one of many recipients is split.
    pub fn pack(work: impl IntoIterator<Item = Work>) -> Vec<Self> {
        let mut records: Vec<Self> = Vec::new();
        let (mut recipients, mut bytes) = (0, 0);
        for part in work.into_iter().flat_map(Work::split) {
            let (more_recipients, more_bytes) = part.size();
            recipients += more_recipients;
            bytes += more_bytes;
            match records.last_mut() {
                Some(record) if recipients <= MAX_RECIPIENTS && bytes <= FULL_RECORD_BYTES => record.work.push(part),
                _ => {
                    records.push(Self { uid: Uuid::now_v7().simple().to_string(), work: vec![part] });
                    (recipients, bytes) = (more_recipients, more_bytes);
                }
            }
        }
        records
    }
}

impl Work {
    fn size(&self) -> (usize, usize) {
        match &self.subject {
            Subject::Message { to, stanza, .. } => (to.len(), stanza.len()),
            Subject::Unacknowledged { to, stanza, .. } => (to.len(), stanza.len()),
            Subject::Notification(notification) => {
                (1, notification.summary.iter().map(|(name, value)| name.len() + value.len()).sum())
            }
            Subject::UserRemoved { .. } | Subject::DomainRemoved { .. } => (1, 0),
        }
    }

    fn split(self) -> Vec<Self> {
        let Self { id, at, subject } = self;
        let with = |subject| Self { id: id.clone(), at, subject };
        match subject {
            Subject::Message { from, to, stanza, recipient } => to
                .chunks(MAX_RECIPIENTS)
                .map(|to| Subject::Message { from: from.clone(), to: to.to_vec(), stanza: stanza.clone(), recipient })
                .map(with)
                .collect(),
            Subject::Unacknowledged { from, to, stanza, recipient } => to
                .chunks(MAX_RECIPIENTS)
                .map(|to| (from.clone(), to.to_vec(), stanza.clone()))
                .map(|(from, to, stanza)| with(Subject::Unacknowledged { from, to, stanza, recipient }))
                .collect(),
            other => vec![with(other)],
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(recipients: usize, bytes: usize) -> Work {
        let to = (0..recipients).map(|i| BareJid::new(&format!("u{i}@example.com")).unwrap()).collect();
        let from = Jid::new("room@muc.example.com/alice").unwrap();
        let stanza = "x".repeat(bytes);
        let subject = Subject::Message { from, to, stanza, recipient: Facts::default() };
        Work { id: "m".into(), at: OffsetDateTime::UNIX_EPOCH, subject }
    }

    #[test]
    fn many_recipients_are_split_and_none_is_lost() {
        let records = Record::pack([message(1000, 100), message(1, 100)]);
        assert_eq!(records.len(), 41);
        let mut all = Vec::new();
        for record in &records {
            assert!(record.work.iter().map(|work| work.size().0).sum::<usize>() <= MAX_RECIPIENTS);
            for work in &record.work {
                let Subject::Message { to, .. } = &work.subject else { unreachable!() };
                all.extend(to.iter().map(ToString::to_string));
            }
        }
        assert_eq!(all.len(), 1001);
    }

    #[test]
    fn small_events_share_a_record_and_large_ones_do_not() {
        assert_eq!(Record::pack((0..25).map(|_| message(1, 200))).len(), 1);
        assert_eq!(Record::pack((0..3).map(|_| message(1, 50_000))).len(), 3);
        assert_eq!(Record::pack([message(1, 200_000)]).len(), 1);
        assert!(Record::pack([]).is_empty());
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let record = &Record::pack([message(2, 10)])[0];
        assert_eq!(*record, serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap());
    }
}
