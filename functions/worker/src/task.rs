//! Splits the events of a record into tasks: one for each recipient.

use std::sync::Arc;

use pushlark_events::{Sources, plugin_events};
use pushlark_model::{
    EncryptedSubject, Payload, Presentation, Priority, PublishOptions, PublishOptionsError, Registration,
};
use pushlark_plugin::{ContentPolicy, Event, EventKind};
use pushlark_queue::{
    EncryptedNotification, MessageContext, NodeNotification, Record, RecordError, RegistrationKey, ReportedRecipient,
    Retry, Work, WorkKind,
};
use pushlark_store::{ClaimItem, Claimant};
use pushlark_xmpp::{BareJid, DomainPart, Element, InvalidStanzaError, Message, ParseError, parse_jid};
use time::OffsetDateTime;

use crate::call;
use crate::clear::ReadConversation;

/// The worker's part of an event: one action for one recipient.
#[derive(Debug)]
pub struct Task {
    pub action: Action,
    /// The current attempt, with the state of the earlier ones.
    pub attempt: Attempt,
}

/// One attempt to execute the action for one recipient of an event.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The earlier attempts, and the claimant's name.
    pub retry: Retry,
    /// Whether there was an earlier attempt, or SQS delivered it before.
    pub is_repeat: bool,
    /// The event, which is put back into the queue if the attempt fails.
    work: Arc<Work>,
    /// The index of the recipient in the event.
    index: usize,
    /// The id of the claim, if it is not the message's.
    claim_id: Option<Arc<str>>,
}

/// The kind of a task, with its data.
#[derive(Debug)]
pub enum Action {
    /// Notify the devices of a recipient.
    Notify {
        /// The message and its recipient.
        event: Box<Event>,
        /// The recipient's state, as the webhook reports it.
        reported: ReportedRecipient,
    },
    /// Notify the device of a push node.
    NotifyDevice(Box<NodePush>),
    /// Clear the notifications of a conversation that was read.
    Clear(ReadConversation),
    /// Delete all data of a user.
    RemoveUser(BareJid),
    /// Delete the registrations of a domain.
    RemoveDomain(DomainPart),
}

/// A record that cannot be read. A retry by this worker does not help.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The text is not a record, or only a newer worker can read it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A stanza is not XML, or exceeds the parser's limits. The sender must correct it.
    #[error("a stanza cannot be parsed")]
    Xml(#[from] ParseError),
    /// The publish options are out of bounds. The sender must correct them.
    #[error("the publish options are invalid")]
    Options(#[from] PublishOptionsError),
    /// A stanza is not a message. The sender must correct it.
    #[error("a stanza is not a message")]
    Stanza(#[from] InvalidStanzaError),
}

impl Task {
    /// Reads the tasks of a queue message. `is_repeat` is whether SQS delivered it before. A record with an id of its own
    /// was in an earlier message.
    pub fn read(
        body: &str,
        sqs_message_id: &str,
        is_repeat: bool,
        content_policy: &Arc<ContentPolicy>,
        sources: &Sources,
    ) -> Result<Vec<Self>, TaskError> {
        let Record { uid, work, .. } = Record::read(body)?;
        let is_repeat = is_repeat || uid.is_some();
        Self::of(work, uid.as_deref().unwrap_or(sqs_message_id), is_repeat, content_policy, sources)
    }

    /// Returns the tasks of events. Tasks without an earlier attempt have the claimants `{name}.0`, `{name}.1`, …
    pub fn of(
        work: Vec<Work>,
        name: &str,
        is_repeat: bool,
        content_policy: &Arc<ContentPolicy>,
        sources: &Sources,
    ) -> Result<Vec<Self>, TaskError> {
        let mut tasks = Vec::new();
        for work in work {
            let work = Arc::new(work);
            for (index, action) in Action::of(&work, content_policy, sources)?.into_iter().enumerate() {
                let first = || Retry::first(format!("{name}.{}", tasks.len()));
                let retry = work.retry.clone().unwrap_or_else(first);
                let is_repeat = is_repeat || work.retry.is_some();
                let claim_id = action.claim_id(&work.id).map(Into::into);
                let attempt = Attempt { retry, is_repeat, work: Arc::clone(&work), index, claim_id };
                tasks.push(Self { action, attempt });
            }
        }
        Ok(tasks)
    }

    /// Returns the user to notify; `None` for a removal.
    pub fn user(&self) -> Option<BareJid> {
        match &self.action {
            Action::Notify { event, .. } => Some(event.recipient()),
            Action::NotifyDevice(push) => Some(push.owner.clone()),
            Action::Clear(read) => Some(read.user.clone()),
            Action::RemoveUser(_) | Action::RemoveDomain(_) => None,
        }
    }
}

impl Attempt {
    /// Returns the id of the message.
    pub fn id(&self) -> &str {
        &self.work.id
    }

    /// Returns the id under which the message is claimed: its own, or that of a call or a contact request.
    pub fn claim_id(&self) -> &str {
        self.claim_id.as_deref().unwrap_or(&self.work.id)
    }

    /// Returns whether the sender has read the conversation, since the message is a reply.
    pub fn is_reply(&self) -> bool {
        matches!(&self.work.kind, WorkKind::Message { context: MessageContext { is_reply: true, .. }, .. })
    }

    /// Returns the time of the event.
    pub fn at(&self) -> OffsetDateTime {
        self.work.at
    }

    /// Returns the claimant for `user`. `counted` is the unread count, if Pushlark counted the message.
    pub fn claimant<'a>(&'a self, user: &'a BareJid, counted: Option<u32>) -> Claimant<'a> {
        let Retry { claimant: name, generation, .. } = &self.retry;
        Claimant { user, name, generation: *generation, counted }
    }

    /// Returns the name of its claimant, and its generation.
    pub fn key(&self) -> (String, u32) {
        (self.retry.claimant.clone(), self.retry.generation)
    }

    /// Returns the item with the claims of the message for `user`.
    pub fn claim_item(&self, user: &BareJid) -> ClaimItem {
        ClaimItem::new(self.claim_id(), user)
    }

    /// Returns whether the other attempt is for another recipient of the same event in the same record.
    pub fn has_same_event(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.work, &other.work)
    }

    /// Returns whether the attempt includes a registration: all of the recipient's, or only the one that is retried.
    pub fn concerns(&self, registration: &Registration) -> bool {
        let is_same =
            |RegistrationKey { jid, node }: &RegistrationKey| *jid == registration.jid && *node == registration.node;
        self.retry.registration.as_ref().is_none_or(is_same)
    }

    /// Returns the recipient's part of the event, for the queue.
    pub fn again(&self, retry: Retry) -> Work {
        self.work.again(self.index, retry)
    }
}

impl Action {
    /// Returns the id of the claim, if it is not `id`, that of the message.
    fn claim_id(&self, id: &str) -> Option<String> {
        match self {
            Self::Notify { event, .. } if matches!(event.kind, EventKind::Subscription(_)) => {
                Some(call::own_claim(event.kind.as_str(), id))
            }
            Self::Notify { event, .. } => call::claim_id(&event.from.to_bare(), &event.message.call()?),
            Self::NotifyDevice(push) => push.claim_id.clone(),
            Self::Clear(_) => Some(call::own_claim("read", id)),
            Self::RemoveUser(_) | Self::RemoveDomain(_) => None,
        }
    }

    /// Returns the actions of an event, in the order of its recipients.
    fn of(work: &Work, content_policy: &Arc<ContentPolicy>, sources: &Sources) -> Result<Vec<Self>, TaskError> {
        let message = match &work.kind {
            WorkKind::Message { stanza, .. } | WorkKind::Unacknowledged { stanza, .. } => {
                Message::from_element(Element::parse(stanza)?)?
            }
            WorkKind::Subscription { .. } => Message::empty(),
            WorkKind::Notification(notification) => {
                let push = NodePush::new((**notification).clone(), content_policy)?;
                return Ok(vec![Self::NotifyDevice(Box::new(push))]);
            }
            WorkKind::Read { jid, conversation } => {
                let (user, conversation) = (jid.clone(), conversation.clone());
                return Ok(vec![Self::Clear(ReadConversation { user, conversation })]);
            }
            WorkKind::UserRemoved { jid } => return Ok(vec![Self::RemoveUser(jid.clone())]),
            WorkKind::DomainRemoved { domain } => return Ok(vec![Self::RemoveDomain(domain.clone())]),
        };
        let message = Arc::new(message);
        let events = plugin_events(work, &message, content_policy, sources);
        Ok(events
            .map(|(event, reported)| Self::Notify { event: Box::new(event), reported: reported.clone() })
            .collect())
    }
}

/// A notification that was published to a push node, for the node's device.
#[derive(Debug)]
pub struct NodePush {
    /// The owner of the node, who is notified.
    pub owner: BareJid,
    /// The device, as a registration of the owner.
    pub registration: Registration,
    /// The payload for the device.
    pub payload: Payload,
    /// The presentation, if the publishing server asks for a low priority.
    pub presentation: Option<Presentation>,
    /// The other user or the room, if the notification names it, also with `INCLUDE_SENDER=off`.
    pub sender: Option<BareJid>,
    /// The id of the claim, if it is about a call.
    pub claim_id: Option<String>,
}

impl NodePush {
    /// Converts `notification`, without the fields that `content_policy` excludes.
    pub fn new(notification: NodeNotification, content_policy: &ContentPolicy) -> Result<Self, PublishOptionsError> {
        let NodeNotification {
            jid,
            node,
            owner,
            created_at,
            options,
            summary,
            background,
            preferences,
            encryption,
            encrypted,
        } = notification;
        let told = summary.iter().fold(Payload::default(), |payload, (name, value)| payload.with(name.clone(), value));
        let claim_id = call::published_claim_id(&told, &jid);
        let sender = [Payload::LAST_MESSAGE_SENDER, Payload::CALL_FROM, Payload::PENDING_SUBSCRIPTION_FROM];
        let sender = sender.iter().find_map(|name| Some(parse_jid(told.get(name)?).ok()?.to_bare()));
        // The form may have no place for another field.
        let presentation = encrypted.as_ref().filter(|encrypted| encrypted.is_low).map(|_| {
            let priority = Some(Priority::Normal);
            Presentation { priority, ..Presentation::default() }
        });
        let encrypted = encrypted.map(|encrypted| passed_through(&owner, encrypted));
        let payload = match encrypted.unwrap_or_else(|| payload(summary, content_policy)) {
            // The device has the text.
            payload if payload.is_encrypted() => payload,
            // A call needs no text.
            payload if payload.get(Payload::LAST_MESSAGE_BODY).is_some() || payload.call().is_some() => payload,
            // A server that counts tells so that the user has read everything elsewhere.
            payload if payload.has_no_messages() => payload.with(Payload::TYPE, Payload::READ),
            // Push services refuse a notification that has neither a text nor data.
            payload if background && payload.fields().next().is_none() => payload.with(Payload::NODE, node.as_str()),
            payload if background => payload,
            payload => payload.with(Payload::LAST_MESSAGE_BODY, content_policy.placeholder.as_str()),
        };
        let options = PublishOptions::new(options)?;
        let registration = Registration { jid, node, options, preferences, encryption, created_at };
        Ok(Self { owner, registration, payload, presentation, sender, claim_id })
    }

    /// Returns whether it is about a call, also in an encrypted payload.
    pub fn is_call(&self) -> bool {
        self.claim_id.is_some() || self.payload.call().is_some()
    }

    /// Returns the bare JID of the message's sender; without a sender, the JID of the PubSub service.
    pub fn conversation(&self) -> BareJid {
        let sender = self.payload.get(Payload::LAST_MESSAGE_SENDER).or_else(|| self.payload.get(Payload::CALL_FROM));
        let sender = sender.and_then(|sender| parse_jid(sender).ok());
        sender.map_or_else(|| self.registration.jid.clone(), |sender| sender.to_bare())
    }
}

/// Converts a notification to `owner` that another server has encrypted for the device.
fn passed_through(owner: &BareJid, encrypted: EncryptedNotification) -> Payload {
    let EncryptedNotification { ciphertext, iv, is_call, .. } = encrypted;
    // The nonce is an id that the encrypted call has alone.
    let subject = if is_call { EncryptedSubject::Call(iv.clone()) } else { EncryptedSubject::Message };
    Payload::encrypted(owner, ciphertext, iv, subject)
}

/// Converts a summary. The text of contact requests without messages is that of a contact request.
fn payload(summary: Vec<(String, String)>, content_policy: &ContentPolicy) -> Payload {
    let mut payload = Payload::default();
    let has_body = summary.iter().any(|(name, _)| name == Payload::LAST_MESSAGE_BODY);
    for (name, value) in summary {
        match name.as_str() {
            Payload::LAST_MESSAGE_SENDER | Payload::CALL_FROM if !content_policy.sender => {}
            Payload::LAST_MESSAGE_BODY if !content_policy.body => {}
            _ => payload = payload.with(name, value),
        }
    }
    if !has_body && payload.is_contact_request() {
        return payload.with(Payload::LAST_MESSAGE_BODY, content_policy.subscription_placeholder.as_str());
    }
    payload
}
