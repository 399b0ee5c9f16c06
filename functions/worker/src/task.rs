//! What a record asks for, one recipient at a time.

use std::sync::Arc;

use pushlark_plugin::{Disclosure, Event, EventKind, InvalidOptions};
use pushlark_queue::{Facts, Record, Subject, Work};
use pushlark_xmpp::{BareJid, DomainPart, Element, InvalidStanza, Message, ParseError};
use time::OffsetDateTime;

use crate::node::Published;

/// One thing to do.
#[derive(Debug)]
pub enum Task {
    /// Notify a recipient.
    Notify {
        /// The message and its recipient.
        event: Box<Event>,
        /// What the webhook said of the recipient.
        facts: Facts,
        /// Names this task, in every delivery of its record.
        uid: String,
    },
    /// Notify the device of a push node.
    NotifyDevice {
        /// Names the publish.
        id: String,
        /// What was published.
        published: Box<Published>,
        /// When.
        at: OffsetDateTime,
        /// Names this task, in every delivery of its record.
        uid: String,
    },
    /// Delete what is kept of a user.
    RemoveUser { id: String, user: BareJid, at: OffsetDateTime },
    /// Delete a domain's registrations.
    RemoveDomain { id: String, domain: DomainPart, at: OffsetDateTime },
}

/// A record that cannot be understood, however often it is tried.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not a record. The error's own text may quote the body, which is not for the log.
    #[error("not a record: line {}, column {}", .0.line(), .0.column())]
    Json(serde_json::Error),
    /// A stanza in it is not XML.
    #[error("a stanza in the record")]
    Xml(#[from] ParseError),
    /// The publish options in it are out of bounds.
    #[error("the publish options in the record")]
    Options(#[from] InvalidOptions),
    /// A stanza in it is not a message.
    #[error("a stanza in the record")]
    Stanza(#[from] InvalidStanza),
}

impl Task {
    /// The message's id, for log lines.
    pub fn id(&self) -> &str {
        match self {
            Self::Notify { event, .. } => &event.id,
            Self::NotifyDevice { id, .. } | Self::RemoveUser { id, .. } | Self::RemoveDomain { id, .. } => id,
        }
    }

    /// The tasks of a queue message's body.
    pub fn read(body: &str, disclosure: &Arc<Disclosure>) -> Result<Vec<Self>, Unreadable> {
        let record: Record = serde_json::from_str(body).map_err(Unreadable::Json)?;
        Self::of(record, disclosure)
    }

    /// The tasks of a record.
    pub fn of(record: Record, disclosure: &Arc<Disclosure>) -> Result<Vec<Self>, Unreadable> {
        let mut tasks = Vec::new();
        for Work { id, at, subject } in record.work {
            let (from, kinds, stanza, facts) = match subject {
                Subject::Message { from, to, stanza, recipient } => {
                    (from, to.into_iter().map(EventKind::Message).collect::<Vec<_>>(), stanza, recipient)
                }
                Subject::Unacknowledged { from, to, stanza, recipient } => {
                    (from, to.into_iter().map(EventKind::Unacknowledged).collect(), stanza, recipient)
                }
                Subject::Notification(notification) => {
                    let published = Box::new(Published::new(*notification, disclosure)?);
                    tasks.push(Self::NotifyDevice {
                        id,
                        published,
                        at,
                        uid: format!("{}.{}", record.uid, tasks.len()),
                    });
                    continue;
                }
                Subject::UserRemoved { jid } => {
                    tasks.push(Self::RemoveUser { id, user: jid, at });
                    continue;
                }
                Subject::DomainRemoved { domain } => {
                    tasks.push(Self::RemoveDomain { id, domain, at });
                    continue;
                }
            };
            let message = Arc::new(Message::from_element(Element::parse(&stanza)?)?);
            for kind in kinds {
                let (id, from, message) = (id.clone(), from.clone(), Arc::clone(&message));
                let unread_count = facts.unread_count.unwrap_or(1);
                let disclosure = Arc::clone(disclosure);
                let event = Box::new(Event { id, at, from, kind, message, unread_count, disclosure });
                tasks.push(Self::Notify { event, facts, uid: format!("{}.{}", record.uid, tasks.len()) });
            }
        }
        Ok(tasks)
    }
}
