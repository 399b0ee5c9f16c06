//! A record: the events that one SQS message carries from ingest to the worker.

use std::collections::BTreeMap;

use pushlark_model::Registration;
use pushlark_xmpp::{BareJid, DomainPart, FullJid, Jid};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// The version of the records that this crate writes. A new one is needed when an older worker would misread a record.
pub const VERSION: u32 = 2;
/// The version of records that do not name theirs.
const FIRST_VERSION: u32 = 1;
/// The most recipients that one record has; the worker handles them side by side.
pub const MAX_RECIPIENTS: usize = 25;
/// A record takes no further event once it has so many bytes of stanzas: what SQS bills as one request.
const FULL_RECORD_BYTES: usize = 60 * 1024;

/// The body of an SQS message, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(default = "first_version")]
    version: u32,
    /// The name by which a record of version 1 claims messages. Later ones claim by their SQS message's id.
    #[serde(default, skip_serializing)]
    pub uid: Option<String>,
    /// The events.
    pub work: Vec<Work>,
}

fn first_version() -> u32 {
    FIRST_VERSION
}

/// A text that is not a record of this version or an earlier one.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRecord {
    /// A later version wrote it: a worker of that version reads it.
    #[error("the record is of version {0}, this worker reads up to {VERSION}")]
    Newer(u32),
    /// It is not a record. The error's own text may quote the body, which is not for the log.
    #[error("not a record: line {}, column {}", .0.line(), .0.column())]
    Json(serde_json::Error),
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
    /// The tries before this one, if the worker put it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// The tries that an event had before the worker put it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The name by which the first try claimed the message; the later tries hold its claim.
    pub claimant: String,
    /// How often it was put back. Of two copies, the one that was put back more often holds the claim.
    pub generation: u32,
    /// How many tries failed.
    pub tries: u32,
    /// How many of them failed for a reason that may never pass.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub doubtful: u32,
    /// The time before which it is not tried, if that is later than SQS can delay it.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<OffsetDateTime>,
    /// The registration that is tried again; without it, all of the recipient's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationKey>,
    /// The number of unread messages, if the first try counted the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_count: Option<u32>,
}

impl Retry {
    /// No try yet, for a claim by this name.
    pub fn first(claimant: String) -> Self {
        Self {
            claimant,
            generation: 0,
            tries: 0,
            doubtful: 0,
            not_before: None,
            registration: None,
            unread_count: None,
        }
    }
}

/// The key of a registration among those of its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationKey {
    /// The PubSub service.
    pub jid: BareJid,
    /// The node there.
    pub node: String,
}

impl From<&Registration> for RegistrationKey {
    fn from(registration: &Registration) -> Self {
        Self { jid: registration.jid.clone(), node: registration.node.clone() }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
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
    /// Reads a record of this version or an earlier one.
    pub fn read(body: &str) -> Result<Self, InvalidRecord> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }

        match serde_json::from_str::<Self>(body) {
            Ok(record) if record.version <= VERSION => Ok(record),
            Ok(record) => Err(InvalidRecord::Newer(record.version)),
            Err(error) => Err(match serde_json::from_str(body) {
                Ok(Versioned { version }) if version > VERSION => InvalidRecord::Newer(version),
                _ => InvalidRecord::Json(error),
            }),
        }
    }

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
                    records.push(Self { version: VERSION, uid: None, work: vec![part] });
                    (recipients, bytes) = (more_recipients, more_bytes);
                }
            }
        }
        records
    }
}

impl Work {
    /// An event that was not tried yet.
    pub fn new(id: String, at: OffsetDateTime, subject: Subject) -> Self {
        Self { id, at, subject, retry: None }
    }

    /// The part of the event that concerns its recipient at `index`, to be tried again.
    pub fn again(&self, index: usize, retry: Retry) -> Self {
        let subject = match &self.subject {
            Subject::Message { from, to, stanza, recipient } => Subject::Message {
                from: from.clone(),
                to: to.get(index).cloned().into_iter().collect(),
                stanza: stanza.clone(),
                recipient: *recipient,
            },
            Subject::Unacknowledged { from, to, stanza, recipient } => Subject::Unacknowledged {
                from: from.clone(),
                to: to.get(index).cloned().into_iter().collect(),
                stanza: stanza.clone(),
                recipient: *recipient,
            },
            other => other.clone(),
        };
        Self { id: self.id.clone(), at: self.at, subject, retry: Some(retry) }
    }

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
        let (recipients, _) = self.size();
        if recipients <= MAX_RECIPIENTS {
            return vec![self];
        }
        let Self { id, at, subject, retry } = self;
        let with = |subject| Self { id: id.clone(), at, subject, retry: retry.clone() };
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
        Work::new("m".into(), OffsetDateTime::UNIX_EPOCH, subject)
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
        assert_eq!(*record, Record::read(&serde_json::to_string(record).unwrap()).unwrap());
    }

    /// A record of each kind, as version 2 writes it. It must never change: workers of other versions read it while a
    /// deployment goes on. A record that is written in another way is of a new version.
    const VERSION_2: &str = include_str!("../tests/version_2.json");

    #[test]
    fn records_are_written_as_their_version_has_them() {
        let record = Record::read(VERSION_2).unwrap();
        let of = |kind: &dyn Fn(&Subject) -> bool| record.work.iter().any(|work| kind(&work.subject));
        assert!(of(&|subject| matches!(subject, Subject::Message { .. })));
        assert!(of(&|subject| matches!(subject, Subject::Unacknowledged { .. })));
        assert!(of(&|subject| matches!(subject, Subject::Notification(_))));
        assert!(of(&|subject| matches!(subject, Subject::UserRemoved { .. })));
        assert!(of(&|subject| matches!(subject, Subject::DomainRemoved { .. })));
        let sample: serde_json::Value = serde_json::from_str(VERSION_2).unwrap();
        assert_eq!(serde_json::to_value(&record).unwrap(), sample);
        assert_eq!(sample["version"], VERSION, "the sample is of the version that is written");
    }

    #[test]
    fn a_record_of_a_later_version_is_told_from_one_that_cannot_be_read() {
        for newer in [r#"{"version": 3, "work": []}"#, r#"{"version": 3, "events": "another shape"}"#] {
            assert!(matches!(Record::read(newer), Err(InvalidRecord::Newer(3))), "{newer}");
        }
        for other in ["", "{}", "[]", r#"{"version": 2}"#, r#"{"version": "3"}"#, r#"{"version": -1, "work": []}"#] {
            assert!(matches!(Record::read(other), Err(InvalidRecord::Json(_))), "{other}");
        }
        assert_eq!(Record::read(r#"{"uid": "u", "work": []}"#).unwrap().uid.as_deref(), Some("u"), "version 1");
    }

    #[test]
    fn what_is_tried_again_concerns_one_recipient() {
        let retry = Retry { generation: 1, ..Retry::first("message.0".into()) };
        let work = message(3, 10).again(1, retry.clone());
        let Subject::Message { to, .. } = &work.subject else { unreachable!() };
        assert_eq!((to.as_slice(), &work.retry), (&[BareJid::new("u1@example.com").unwrap()][..], &Some(retry)));
    }
}
