//! Records: the bodies of SQS messages to the worker.

use std::collections::BTreeMap;
use std::iter;

use pushlark_model::{ClientState, Encryption, Preferences, Registration};
use pushlark_xmpp::{BareJid, DomainPart, FullJid, Jid};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::packing;

/// The version of the records that this crate writes. It must increase if an older worker would misread a record.
pub const VERSION: u32 = 4;
/// The version of records without the field `version`.
const FIRST_VERSION: u32 = 1;
/// The field of [`Record::uid`].
const UID: &str = "uid";

/// The body of an SQS message, a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(default = "first_version")]
    version: u32,
    /// The name under which the record claims messages: in records of version 1, and in those that come back from the
    /// dead-letter queue ([`redriven`]). Others claim with the id of their SQS message.
    #[serde(default, skip_serializing)]
    pub uid: Option<String>,
    /// The events, in the order in which they were packed.
    pub work: Vec<Work>,
}

fn first_version() -> u32 {
    FIRST_VERSION
}

/// A text that is not a record of version [`VERSION`] or earlier.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record has this later version. The caller must leave it in the queue for a newer worker.
    #[error("the record is of version {0}, this worker reads up to {VERSION}")]
    Newer(u32),
    /// The text is not a record; a retry fails in the same way. The text of the inner error may quote the body, so it
    /// must not be logged.
    #[error("not a record: line {}, column {}", .0.line(), .0.column())]
    Json(serde_json::Error),
}

/// An event for the worker. Once it is packed, it has the recipients of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The id of the message. Events with the same id are about the same message.
    pub id: String,
    /// The time of the event, RFC 3339 in JSON.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The kind of the event, with its data.
    #[serde(rename = "subject")]
    pub kind: WorkKind,
    /// The earlier attempts, if the worker returned the event to the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// The earlier attempts of an event that the worker returned to the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The name under which the first attempt claimed the message. Later attempts keep this claim.
    pub claimant: String,
    /// The number of returns to the queue. Of two copies, the one with the higher number holds the claim.
    pub generation: u32,
    /// The number of failed attempts.
    pub tries: u32,
    /// The number of attempts that failed for a reason that may be permanent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub doubtful: u32,
    /// The earliest time of the next attempt, if SQS cannot delay the message until then.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<OffsetDateTime>,
    /// The registration of the retry; `None` means all registrations of the recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationKey>,
    /// The number of unread messages, if the first attempt counted the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_count: Option<u32>,
}

impl Retry {
    /// Creates the state before the first attempt, for a claim under the name `claimant`.
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

/// The key of a registration, unique for its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationKey {
    /// The JID of the PubSub service.
    pub jid: BareJid,
    /// The name of the node at this service.
    pub node: String,
}

impl From<&Registration> for RegistrationKey {
    fn from(registration: &Registration) -> Self {
        Self { jid: registration.jid.clone(), node: registration.node.clone() }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The kind of an event, with its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// A message to these users.
    Message {
        /// The sender of the message.
        from: Jid,
        /// The recipients.
        to: Vec<BareJid>,
        /// The stanza, as XML.
        stanza: String,
        /// The state of the recipients in the webhook.
        #[serde(default)]
        recipient: ReportedRecipient,
        /// The names and the number of members in the webhook.
        #[serde(default, skip_serializing_if = "is_default")]
        context: MessageContext,
    },
    /// A message that these sessions did not acknowledge (XEP-0198).
    Unacknowledged {
        /// The sender of the message.
        from: Jid,
        /// The sessions.
        to: Vec<FullJid>,
        /// The stanza, as XML.
        stanza: String,
        /// The state of the recipients in the webhook.
        #[serde(default)]
        recipient: ReportedRecipient,
        /// The names and the number of members in the webhook.
        #[serde(default, skip_serializing_if = "is_default")]
        context: MessageContext,
    },
    /// A contact request: a subscription to the presence of a user (RFC 6121, section 3.1).
    Subscription {
        /// The contact who asks.
        from: BareJid,
        /// The user who is asked.
        to: BareJid,
        /// The state of the user in the webhook.
        #[serde(default)]
        recipient: ReportedRecipient,
    },
    /// A conversation that a user has read, on devices that may still show its notifications.
    Read {
        /// The user who has read it.
        jid: BareJid,
        /// The other user, or the room.
        conversation: BareJid,
    },
    /// A notification that a server published to a push node.
    Notification(Box<NodeNotification>),
    /// A removed user. The worker deletes the user's data.
    UserRemoved {
        /// The removed user, a bare JID.
        jid: BareJid,
    },
    /// A removed domain. The worker deletes the data of its users.
    DomainRemoved {
        /// The removed domain, without its subdomains.
        domain: DomainPart,
    },
}

/// A notification that a server published to a push node, with its device and payload. No plugin is called for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNotification {
    /// The JID of the PubSub service.
    pub jid: BareJid,
    /// The name of the node at this service.
    pub node: String,
    /// The owner of the node, who is notified.
    pub owner: BareJid,
    /// The time of the node's creation, in microseconds since 1970.
    pub created_at: u64,
    /// The publish options, which address the device.
    pub options: BTreeMap<String, String>,
    /// The names and values of the summary's fields, in order (FORM_TYPE `urn:xmpp:push:summary`).
    pub summary: Vec<(String, String)>,
    /// Whether the summary has no text because there is nothing to show, so that it is data for the app. Otherwise a
    /// summary without a text is shown with a placeholder.
    #[serde(default, skip_serializing_if = "is_default")]
    pub background: bool,
    /// The preferences of the owner for the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<Box<Preferences>>,
    /// The encryption of notifications to the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Box<Encryption>>,
    /// The encrypted notification, if the publisher has encrypted it for the device. It has no summary then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<EncryptedNotification>,
}

/// A notification that another server has encrypted for the device (`tigase:push:encrypt:0`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptedNotification {
    /// The ciphertext and the tag, in base64.
    pub ciphertext: String,
    /// The nonce, in base64.
    pub iv: String,
    /// Whether it is about a call: the attribute `type` is `voip`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_call: bool,
    /// Whether it has a low priority (`tigase:push:priority:0`).
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_low: bool,
}

/// The properties of a message that neither its stanza nor its recipient has, such as the names in its webhook.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MessageContext {
    /// The name of the sender, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_name: Option<String>,
    /// The name of the room of a group message, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_name: Option<String>,
    /// The number of distinct recipients in the webhook, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<u32>,
    /// Whether the sender has read the conversation, since the message is a reply. The worker marks it as read once more
    /// if an older message may have waited in the queue.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_reply: bool,
}

/// The state of a message's recipient in a webhook. The worker looks up missing fields, or uses their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReportedRecipient {
    /// Whether the user exists; `true` if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// Whether the user has a session that receives messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// The number of unread messages in the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_count: Option<u32>,
    /// Whether the user looks at a client that receives messages: `inactive` if none of them is active (XEP-0352).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_state: Option<ClientState>,
    /// The number of unread messages in all conversations of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_total: Option<u32>,
    /// The nick of the user in the room of a group message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nick: Option<String>,
    /// Whether the user knows the sender: the sender is in the roster, or in a room with the user. `None` counts as
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_known: Option<bool>,
}

impl ReportedRecipient {
    /// Returns whether Pushlark counts the unread messages of the recipient, if it counts any.
    pub fn leaves_counting(&self) -> bool {
        self.unread_count.is_none() && self.exists != Some(false)
    }
}

impl Record {
    /// Reads a record of version [`VERSION`] or earlier.
    pub fn read(body: &str) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }

        match serde_json::from_str::<Self>(body) {
            Ok(record) if record.version <= VERSION => Ok(record),
            Ok(record) => Err(RecordError::Newer(record.version)),
            Err(error) => Err(match serde_json::from_str(body) {
                Ok(Versioned { version }) if version > VERSION => RecordError::Newer(version),
                _ => RecordError::Json(error),
            }),
        }
    }

    /// Returns the domain of its first recipient, which is that of all recipients if it is packed by domain.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.work.first()?.kind.recipients().next().map(packing::domain)
    }

    /// Creates a record of the current version.
    pub(crate) fn new(work: Vec<Work>) -> Self {
        Self { version: VERSION, uid: None, work }
    }
}

impl Work {
    /// Creates an event without attempts.
    pub fn new(id: String, at: OffsetDateTime, kind: WorkKind) -> Self {
        Self { id, at, kind, retry: None }
    }

    /// Returns the event for the recipient at `index` only, with the state of its retry.
    pub fn again(&self, index: usize, retry: Retry) -> Self {
        Self { retry: Some(retry), ..self.part(&[index]) }
    }

    /// Returns the event for the recipients at these indices only.
    pub fn part(&self, recipients: &[usize]) -> Self {
        fn these<T: Clone>(all: &[T], indices: &[usize]) -> Vec<T> {
            indices.iter().filter_map(|index| all.get(*index).cloned()).collect()
        }

        let kind = match &self.kind {
            WorkKind::Message { from, to, stanza, recipient, context } => WorkKind::Message {
                from: from.clone(),
                to: these(to, recipients),
                stanza: stanza.clone(),
                recipient: recipient.clone(),
                context: context.clone(),
            },
            WorkKind::Unacknowledged { from, to, stanza, recipient, context } => WorkKind::Unacknowledged {
                from: from.clone(),
                to: these(to, recipients),
                stanza: stanza.clone(),
                recipient: recipient.clone(),
                context: context.clone(),
            },
            other => other.clone(),
        };
        Self { id: self.id.clone(), at: self.at, kind, retry: self.retry.clone() }
    }
}

impl WorkKind {
    /// Returns the JIDs of the recipients: users or their sessions, or a removed domain.
    pub(crate) fn recipients(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        let one = |jid| -> Box<dyn Iterator<Item = &str> + '_> { Box::new(iter::once(jid)) };
        match self {
            Self::Message { to, .. } => Box::new(to.iter().map(|user| user.as_str())),
            Self::Unacknowledged { to, .. } => Box::new(to.iter().map(|session| session.as_str())),
            Self::Subscription { to, .. } => one(to.as_str()),
            Self::Read { jid, .. } | Self::UserRemoved { jid } => one(jid.as_str()),
            Self::Notification(notification) => one(notification.owner.as_str()),
            Self::DomainRemoved { domain } => one(domain.as_str()),
        }
    }
}

/// Returns the body with which a dead letter goes back to the queue. `message_id` is its id in the dead-letter queue,
/// which SQS does not change when it moves a message there. The record keeps this id, since the new message has another
/// one: otherwise the devices that a crashed worker had claimed would be left to that worker. A body that is not a JSON
/// object, or that has been a dead letter before, stays as it is.
pub fn redriven(body: &str, message_id: &str) -> String {
    match serde_json::from_str::<Map<String, Value>>(body) {
        Ok(mut record) if !record.contains_key(UID) => {
            record.insert(UID.into(), message_id.into());
            Value::from(record).to_string()
        }
        _ => body.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_xmpp::parse_jid;

    use super::*;

    fn message(recipients: usize, bytes: usize) -> Work {
        let to = (0..recipients).map(|i| BareJid::new(&format!("u{i}@example.com")).unwrap()).collect();
        let from = parse_jid("room@muc.example.com/alice").unwrap();
        let stanza = "x".repeat(bytes);
        let (recipient, context) = (ReportedRecipient::default(), MessageContext::default());
        let kind = WorkKind::Message { from, to, stanza, recipient, context };
        Work::new("m".into(), OffsetDateTime::UNIX_EPOCH, kind)
    }

    #[test]
    fn a_written_record_is_read_unchanged() {
        let record = Record::new(vec![message(2, 10)]);
        assert_eq!(record, Record::read(&serde_json::to_string(&record).unwrap()).unwrap());
    }

    /// Records with an event of each kind, in the formats of versions. They must never change, since workers of other
    /// versions read them during a deployment. Another format needs a new version.
    const VERSION_2: &str = include_str!("../tests/version_2.json");
    const VERSION_3: &str = include_str!("../tests/version_3.json");
    const VERSION_4: &str = include_str!("../tests/version_4.json");

    #[test]
    fn records_are_written_in_the_format_of_their_version() {
        let record = Record::read(VERSION_4).unwrap();
        for earlier in [VERSION_2, VERSION_3] {
            let earlier = Record::read(earlier).unwrap();
            assert!(earlier.work.iter().all(|work| record.work.contains(work)), "a field got another meaning");
        }
        let of = |is: &dyn Fn(&WorkKind) -> bool| record.work.iter().any(|work| is(&work.kind));
        assert!(of(&|kind| matches!(kind, WorkKind::Message { .. })));
        assert!(of(&|kind| matches!(kind, WorkKind::Unacknowledged { .. })));
        assert!(of(&|kind| matches!(kind, WorkKind::Subscription { .. })));
        assert!(of(&|kind| matches!(kind, WorkKind::Read { .. })));
        assert!(of(&|kind| matches!(kind, WorkKind::Notification(_))));
        assert!(of(&|kind| matches!(kind, WorkKind::Notification(notification) if notification.background)));
        assert!(of(&|kind| matches!(kind, WorkKind::UserRemoved { .. })));
        assert!(of(&|kind| matches!(kind, WorkKind::DomainRemoved { .. })));
        let sample: serde_json::Value = serde_json::from_str(VERSION_4).unwrap();
        assert_eq!(serde_json::to_value(&record).unwrap(), sample);
        assert_eq!(sample["version"], VERSION, "the sample must have the current version");
    }

    #[test]
    fn a_record_of_a_later_version_is_distinguished_from_an_invalid_one() {
        for newer in [r#"{"version": 5, "work": []}"#, r#"{"version": 5, "events": "another shape"}"#] {
            assert!(matches!(Record::read(newer), Err(RecordError::Newer(5))), "{newer}");
        }
        for other in ["", "{}", "[]", r#"{"version": 2}"#, r#"{"version": "3"}"#, r#"{"version": -1, "work": []}"#] {
            assert!(matches!(Record::read(other), Err(RecordError::Json(_))), "{other}");
        }
        assert_eq!(Record::read(r#"{"uid": "u", "work": []}"#).unwrap().uid.as_deref(), Some("u"), "version 1");
    }

    #[test]
    fn a_dead_letter_keeps_the_id_of_its_first_message() {
        let body = serde_json::to_string(&Record::new(vec![message(1, 10)])).unwrap();
        let once = redriven(&body, "first");
        let record = Record::read(&once).unwrap();
        assert_eq!((record.uid.as_deref(), &record.work), (Some("first"), &vec![message(1, 10)]));
        assert_eq!(Record::read(&redriven(&once, "second")).unwrap(), record);
        let newer = redriven(r#"{"version": 1000, "events": "another shape"}"#, "first");
        assert!(newer.contains("another shape") && newer.contains("first"), "{newer}");
        for other in ["", "not JSON", "[1]", "{\"version\": 2"] {
            assert_eq!(redriven(other, "first"), other);
        }
    }

    #[test]
    fn a_retry_concerns_one_recipient() {
        let retry = Retry { generation: 1, ..Retry::first("message.0".into()) };
        let work = message(3, 10).again(1, retry.clone());
        let WorkKind::Message { to, .. } = &work.kind else { unreachable!() };
        assert_eq!((to.as_slice(), &work.retry), (&[BareJid::new("u1@example.com").unwrap()][..], &Some(retry)));
    }
}
