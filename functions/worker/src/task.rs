//! The events of a record, one recipient at a time.

use std::sync::Arc;

use pushlark_plugin::{Disclosure, Event, EventKind, InvalidOptions, PublishService};
use pushlark_queue::{Facts, InvalidRecord, Record, Registration, Retry, Subject, Work};
use pushlark_store::Claimant;
use pushlark_xmpp::{BareJid, DomainPart, Element, InvalidStanzaError, Message, ParseError};
use time::OffsetDateTime;

use crate::node::Published;

/// One thing to do.
#[derive(Debug)]
pub struct Task {
    /// What to do.
    pub action: Action,
    /// Which try it is.
    pub attempt: Attempt,
}

/// One try of one recipient of an event.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The tries before, and the name by which this one claims.
    pub retry: Retry,
    /// Whether the event was tried before, or SQS delivered it before.
    pub is_repeat: bool,
    /// The event, to be put back into the queue if the try fails.
    work: Arc<Work>,
    /// Which of its recipients the try is for.
    index: usize,
}

/// What a task does.
#[derive(Debug)]
pub enum Action {
    /// Notify a recipient.
    Notify {
        /// The message and its recipient.
        event: Box<Event>,
        /// What the webhook said of the recipient.
        facts: Facts,
    },
    /// Notify the device of a push node.
    NotifyDevice(Box<Published>),
    /// Delete what is kept of a user.
    RemoveUser(BareJid),
    /// Delete a domain's registrations.
    RemoveDomain(DomainPart),
}

/// A record that cannot be understood, however often it is tried.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not a record of this version or an earlier one.
    #[error(transparent)]
    Record(#[from] InvalidRecord),
    /// A stanza in it is not XML.
    #[error("a stanza in the record")]
    Xml(#[from] ParseError),
    /// The publish options in it are out of bounds.
    #[error("the publish options in the record")]
    Options(#[from] InvalidOptions),
    /// A stanza in it is not a message.
    #[error("a stanza in the record")]
    Stanza(#[from] InvalidStanzaError),
}

impl Task {
    /// The tasks of a queue message: of its body, its id, and whether SQS delivered it before.
    pub fn read(
        body: &str,
        message_id: &str,
        is_repeat: bool,
        disclosure: &Arc<Disclosure>,
    ) -> Result<Vec<Self>, Unreadable> {
        let Record { uid, work, .. } = Record::read(body)?;
        Self::of(work, uid.as_deref().unwrap_or(message_id), is_repeat, disclosure)
    }

    /// The tasks of events, which claim by `name` and their place if they were not tried before.
    pub fn of(
        work: Vec<Work>,
        name: &str,
        is_repeat: bool,
        disclosure: &Arc<Disclosure>,
    ) -> Result<Vec<Self>, Unreadable> {
        let mut tasks = Vec::new();
        for work in work {
            let work = Arc::new(work);
            for (index, action) in Action::of(&work, disclosure)?.into_iter().enumerate() {
                let first = || Retry::first(format!("{name}.{}", tasks.len()));
                let retry = work.retry.clone().unwrap_or_else(first);
                let is_repeat = is_repeat || work.retry.is_some();
                let attempt = Attempt { retry, is_repeat, work: Arc::clone(&work), index };
                tasks.push(Self { action, attempt });
            }
        }
        Ok(tasks)
    }

    /// Whose turn it is, if it is a user's.
    pub fn user(&self) -> Option<BareJid> {
        match &self.action {
            Action::Notify { event, .. } => Some(event.recipient()),
            Action::NotifyDevice(published) => Some(published.owner.clone()),
            Action::RemoveUser(_) | Action::RemoveDomain(_) => None,
        }
    }
}

impl Attempt {
    /// The message's id.
    pub fn id(&self) -> &str {
        &self.work.id
    }

    /// When it happened.
    pub fn at(&self) -> OffsetDateTime {
        self.work.at
    }

    /// Who claims.
    pub fn claimant<'a>(&'a self, user: &'a BareJid, counted: Option<u32>) -> Claimant<'a> {
        let Retry { claimant: name, generation, .. } = &self.retry;
        Claimant { id: self.id(), user, name, generation: *generation, counted }
    }

    /// Whether it is for this service: any of the recipient's, or the one that is tried again.
    pub fn concerns(&self, service: &PublishService) -> bool {
        let is_it = |Registration { jid, node }: &Registration| *jid == service.jid && *node == service.node;
        self.retry.registration.as_ref().is_none_or(is_it)
    }

    /// The part of the event that it is for, to be tried again.
    pub fn again(&self, retry: Retry) -> Work {
        self.work.again(self.index, retry)
    }
}

impl Action {
    /// The actions of an event, in the order of its recipients.
    fn of(work: &Work, disclosure: &Arc<Disclosure>) -> Result<Vec<Self>, Unreadable> {
        let (from, kinds, stanza, facts): (_, Vec<_>, _, _) = match &work.subject {
            Subject::Message { from, to, stanza, recipient } => {
                (from, to.iter().cloned().map(EventKind::Message).collect(), stanza, *recipient)
            }
            Subject::Unacknowledged { from, to, stanza, recipient } => {
                (from, to.iter().cloned().map(EventKind::Unacknowledged).collect(), stanza, *recipient)
            }
            Subject::Notification(notification) => {
                let published = Published::new((**notification).clone(), disclosure)?;
                return Ok(vec![Self::NotifyDevice(Box::new(published))]);
            }
            Subject::UserRemoved { jid } => return Ok(vec![Self::RemoveUser(jid.clone())]),
            Subject::DomainRemoved { domain } => return Ok(vec![Self::RemoveDomain(domain.clone())]),
        };
        let message = Arc::new(Message::from_element(Element::parse(stanza)?)?);
        let event = |kind| Event {
            id: work.id.clone(),
            at: work.at,
            from: from.clone(),
            kind,
            message: Arc::clone(&message),
            unread_count: facts.unread_count.unwrap_or(1),
            disclosure: Arc::clone(disclosure),
        };
        Ok(kinds.into_iter().map(|kind| Self::Notify { event: Box::new(event(kind)), facts }).collect())
    }
}
