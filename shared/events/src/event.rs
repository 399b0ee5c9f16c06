//! Events, independent of the format of the webhook.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use pushlark_access::Caller;
use pushlark_model::Availability;
use pushlark_queue::{MessageContext, ReportedRecipient, WorkKind};
use pushlark_xmpp::{
    BareJid, Content, DomainPart, DomainRef, FullJid, Jid, MAX_STANZA_BYTES, Message, MessageType, is_xml_text, ns,
    parse_jid,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime, UtcOffset};
use uuid::Uuid;

use crate::call_answer::CallAnswer;
use crate::delay::sent_at;
use crate::displayed::read_marks;
use crate::sources::{Sources, addressee, is_bare, sent_copy};

/// The longest id of an event, in bytes.
const MAX_ID_BYTES: usize = 256;

/// The most recipients of one event: the stanza is copied for each [`MAX_RECIPIENTS`] of them.
///
/// [`MAX_RECIPIENTS`]: pushlark_queue::MAX_RECIPIENTS
const MAX_EVENT_RECIPIENTS: usize = 5_000;

/// A valid event, independent of the format of its webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEvent {
    /// The id of the event, and of its message: 1 to 256 bytes, without control characters.
    pub id: String,
    /// The time at which the event happened, not later than its arrival.
    pub at: OffsetDateTime,
    /// The action of ingest for this event.
    pub effect: Effect,
    /// The read marks that the event implies if it is a message: that of its sender, or those that an account publishes.
    pub read_marks: Vec<ReadMark>,
    /// The stanza, if a plugin decides about the event. It is empty for a contact request.
    pub message: Option<Arc<Message>>,
}

/// A read mark: a user has read a conversation, up to a message or all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMark {
    /// The bare JID of the user who has read it.
    pub user: BareJid,
    /// The bare JID of the other user, or of the room.
    pub conversation: BareJid,
    /// An id of the last message that was read: that of its event, the stanza's `id`, or a stanza-id (XEP-0359). `None`
    /// means all messages.
    pub message: Option<String>,
}

/// The action of ingest for an event: queue it, write it to the table, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Work that is queued for the worker.
    Queue(WorkKind),
    /// A user's answer to a call of somebody else, queued for the user's own devices. It has no effect if the caller of
    /// ingest does not speak for the user.
    CallAnswer {
        /// The user who answers.
        user: BareJid,
        /// The work for the user's devices.
        work: WorkKind,
    },
    /// The new availability of a session. A bare JID stands for the user's one session.
    Presence(Jid, Availability),
    /// A user has read a conversation.
    Read(ReadMark),
    /// No effect: a contact request to somebody in this domain, which notifies nobody for this reason.
    NoRequest(DomainPart, &'static str),
    /// No effect: the event notifies nobody. The value holds the domains of the users that it is about, one for each
    /// user.
    None(Vec<DomainPart>),
}

/// The arrival of an event: the data of its envelope (SNS, CloudEvents or HTTP), and the settings of its sources.
#[derive(Debug, Clone)]
pub struct Arrival<'s> {
    /// The time at which the request arrived, plus a microsecond for each earlier event of it.
    pub now: OffsetDateTime,
    /// The time of the event in the envelope.
    pub at: Option<OffsetDateTime>,
    /// The id of the event in the envelope.
    pub id: Option<String>,
    /// The settings of the sources of events.
    pub sources: &'s Sources,
}

impl Arrival<'_> {
    /// Returns the arrival of the event at `index` in a request: one microsecond later for each event before it, and
    /// with the index in the id.
    pub fn nth(&self, index: usize) -> Self {
        let later = Duration::microseconds(i64::try_from(index).unwrap_or(0));
        let id = self.id.as_ref().map(|id| joined_id([id, &index.to_string()], '/'));
        Self { now: self.now + later, id, ..self.clone() }
    }

    /// Returns the time of an event: its own `at`, or else the envelope's, or else the time of arrival. A time in the
    /// future becomes the time of arrival: otherwise, with a wrong clock, later events would have no effect.
    pub fn happened(&self, at: Option<OffsetDateTime>) -> OffsetDateTime {
        at.or(self.at).map_or(self.now, |at| at.min(self.now))
    }

    /// Returns the id of an event: its own `id`, which must be valid, or else the envelope's.
    pub fn named(&self, id: Option<String>) -> Result<Option<String>, String> {
        Ok(id.map(check_id).transpose()?.or_else(|| self.id.clone()))
    }
}

impl WebhookEvent {
    /// Returns the domains of the users that the event is about, one for each user.
    pub fn domains(&self) -> Vec<&DomainRef> {
        match &self.effect {
            Effect::Queue(WorkKind::Message { to, .. }) => to.iter().map(|user| user.domain()).collect(),
            Effect::Queue(WorkKind::Unacknowledged { to, .. }) => to.iter().map(|session| session.domain()).collect(),
            Effect::Queue(WorkKind::Subscription { to, .. }) => vec![to.domain()],
            Effect::Queue(WorkKind::Read { jid, .. } | WorkKind::UserRemoved { jid }) => vec![jid.domain()],
            Effect::Queue(WorkKind::DomainRemoved { domain }) => vec![domain],
            Effect::Queue(WorkKind::Notification(notification)) => vec![notification.owner.domain()],
            Effect::Presence(session, _) => vec![session.domain()],
            Effect::Read(read_mark) => vec![read_mark.user.domain()],
            Effect::NoRequest(domain, _) => vec![domain],
            Effect::None(domains) => domains.iter().map(|domain| &**domain).collect(),
            Effect::CallAnswer { user, .. } => vec![user.domain()],
        }
    }

    /// Returns the domains that `RATE_LIMIT` charges if `caller` posts the event, one for each user that it is about.
    /// For the users of a domain for which `caller` does not speak, the caller's own domain is charged, if it has one.
    pub fn charged<'e>(&'e self, caller: &'e Caller) -> impl Iterator<Item = &'e DomainRef> {
        let domains = self.domains().into_iter();
        domains
            .filter_map(|domain| if caller.has_access_to_domain(domain) { Some(domain) } else { caller.own_domain() })
    }

    /// Returns the event, or an error if it has an effect on users for whom `caller` does not speak. Removes the read
    /// marks of users for whom `caller` does not speak.
    pub(crate) fn permitted_for(mut self, caller: &Caller) -> Result<Self, String> {
        if let Effect::CallAnswer { user, .. } = &self.effect
            && !caller.has_access_to(user)
        {
            self.effect = Effect::None(vec![user.domain().to_owned()]);
        }
        let other = self.domains().into_iter().find(|domain| !caller.has_access_to_domain(domain));
        if let (Some(other), false) = (other, matches!(self.effect, Effect::None(_) | Effect::NoRequest(..))) {
            return Err(format!("the credential does not speak for {other}"));
        }
        self.read_marks.retain(|read_mark| caller.has_access_to(&read_mark.user));
        Ok(self)
    }
}

/// The data about a message in a webhook that are not in its stanza.
#[derive(Debug, Clone, Default)]
pub struct Reported {
    /// The state of the recipients.
    pub recipient: ReportedRecipient,
    /// The names and the number of members.
    pub context: MessageContext,
}

/// The recipients of a message.
#[derive(Debug, Clone)]
pub enum Recipients {
    /// The users of an event `message`.
    Users(Vec<BareJid>),
    /// The sessions of an event `unacknowledged`, which did not acknowledge the message (XEP-0198).
    Sessions(Vec<FullJid>),
}

impl Recipients {
    fn len(&self) -> usize {
        match self {
            Self::Users(users) => users.len(),
            Self::Sessions(sessions) => sessions.len(),
        }
    }

    /// Returns each recipient once, in the same order.
    fn distinct(self) -> Self {
        match self {
            Self::Users(users) => Self::Users(distinct(users)),
            Self::Sessions(sessions) => Self::Sessions(distinct(sessions)),
        }
    }

    fn domains(&self) -> Vec<DomainPart> {
        match self {
            Self::Users(users) => users.iter().map(|user| user.domain().to_owned()).collect(),
            Self::Sessions(sessions) => sessions.iter().map(|session| session.domain().to_owned()).collect(),
        }
    }
}

/// Returns the event of a message. A message that its room wraps for a subscriber (MUC/Sub) is unwrapped.
///
/// Its id is `id`, or else the stanza-id (XEP-0359) of the room or of the only recipient's server, or else a new one.
/// The id that a client gives its stanza is not used: with it, anybody could suppress a notification. Its time is `at`,
/// or else the envelope's, or else the time of arrival; if it was delayed before, that of its delay.
pub fn message(
    id: Option<String>,
    at: Option<OffsetDateTime>,
    from: Jid,
    to: Recipients,
    message: Message,
    mut reported: Reported,
    arrival: &Arrival<'_>,
) -> Result<WebhookEvent, String> {
    let recipients = to.len();
    if recipients > MAX_EVENT_RECIPIENTS {
        return Err(format!("to has {recipients} recipients, {MAX_EVENT_RECIPIENTS} are allowed"));
    }
    let to = to.distinct();
    if to.len() > 1 {
        // One nick cannot be that of several users.
        reported.recipient.nick = None;
        reported.context.members = u32::try_from(to.len()).ok();
    }
    let at = sent_at(at.or(arrival.at), &from, &to, &message);
    let told_id = || stanza_id(&from, &to, &message);
    if let Some((item, from, subscribed)) = subscribed(&from, &message) {
        // The id of the room first: a session that has joined the room gets the same message with this id.
        let id = id.or_else(|| stanza_id(&from, &to, &subscribed)).or_else(told_id).or(item);
        return self::message(id, at, from, to, subscribed, reported, arrival);
    }
    let Reported { recipient, context } = reported;
    let id = id.or_else(told_id).unwrap_or_else(new_id);
    let answer = match &to {
        Recipients::Users(users) => CallAnswer::of(&from, users, &message),
        Recipients::Sessions(_) => None,
    };
    let stanza = answer.as_ref().map_or(&message, |answer| &answer.message).element().to_string();
    if stanza.len() > MAX_STANZA_BYTES {
        let length = stanza.len();
        return Err(format!("the message has {length} bytes as a stanza, {MAX_STANZA_BYTES} are allowed"));
    }
    let copy = match &to {
        Recipients::Users(users) => sent_copy(&from, users, &message),
        Recipients::Sessions(_) => None,
    };
    let (author, written) = copy.as_ref().map_or((&from, &message), |(author, copied)| (author, copied));
    let read_mark = read_mark(author, &to, written, recipient.nick.as_deref(), arrival.sources);
    let read_marks = read_marks(author, &to, written, read_mark);
    let kind = message.kind();
    let (answer, message) = match answer {
        Some(CallAnswer { user, from, message }) => (Some((user, from)), message),
        None => (None, message),
    };
    let effect = match (kind, to) {
        (MessageType::Headline | MessageType::Error, to) => Effect::None(to.domains()),
        (_, Recipients::Users(to)) if let Some((user, from)) = answer => {
            let is_told_to_user = to == [user.clone()];
            let recipient = if is_told_to_user { recipient } else { ReportedRecipient::default() };
            let work = WorkKind::Message { from, to: vec![user.clone()], stanza, recipient, context };
            if is_told_to_user { Effect::Queue(work) } else { Effect::CallAnswer { user, work } }
        }
        (_, Recipients::Users(to)) => Effect::Queue(WorkKind::Message { from, to, stanza, recipient, context }),
        (_, Recipients::Sessions(to)) => {
            Effect::Queue(WorkKind::Unacknowledged { from, to, stanza, recipient, context })
        }
    };
    Ok(WebhookEvent { id, at: arrival.happened(at), effect, read_marks, message: Some(Arc::new(message)) })
}

/// Returns the event of a contact request (RFC 6121, section 3.1).
///
/// All requests of a contact on one day (UTC) have the same id, so that each device is notified of one of them.
pub fn subscription(
    at: OffsetDateTime,
    from: BareJid,
    to: BareJid,
    recipient: ReportedRecipient,
    sources: &Sources,
) -> WebhookEvent {
    let day = at.to_offset(UtcOffset::UTC).date();
    let id = joined_id([&format!("subscription/{from}"), &day.to_string()], '/');
    let none = |reason| Effect::NoRequest(to.domain().to_owned(), reason);
    let effect = if !sources.subscription_requests {
        none("SUBSCRIPTION_REQUESTS is off")
    } else if to.node().is_none() {
        none("the contact request is not to a user")
    } else if from == to {
        none("the contact request is from the user")
    } else {
        Effect::Queue(WorkKind::Subscription { from, to, recipient })
    };
    WebhookEvent { id, at, effect, read_marks: Vec::new(), message: Some(Arc::new(Message::empty())) }
}

/// Returns the last message that a room wraps for a subscriber (MUC/Sub), with its sender and the id of its item. Only
/// a room itself can wrap the messages of its occupants.
fn subscribed(from: &Jid, message: &Message) -> Option<(Option<String>, Jid, Message)> {
    if message.kind() == MessageType::Error {
        return None;
    }
    let (item, subscribed) = message.subscribed_messages().last()?;
    let sender = parse_jid(subscribed.attribute("from")?).ok()?;
    if !is_bare(from, message) || sender.to_bare() != *from {
        return None;
    }
    let item = item.filter(|item| !item.is_empty()).map(|item| assigned_id(&sender.to_bare(), item));
    // A read mark may name the wrapped message by the id of the wrapping one, which is that of the user's archive.
    let ids = message.element().children().filter(|child| child.is("stanza-id", ns::STANZA_ID));
    let subscribed = ids.fold(subscribed.clone(), |subscribed, id| subscribed.with_child(id.clone()));
    Some((item, sender, Message::from_element(subscribed).ok()?))
}

/// Returns a new id: a UUID of version 7.
pub fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// Checks an id: 1 to 256 bytes, without control characters.
pub fn check_id(id: String) -> Result<String, String> {
    match id.len() {
        0 => Err("id is empty".into()),
        length if length > MAX_ID_BYTES => Err(format!("id has {length} bytes, {MAX_ID_BYTES} are allowed")),
        _ if id.chars().any(char::is_control) || !is_xml_text(&id) => Err("id has a control character".into()),
        _ => Ok(id),
    }
}

/// Joins two parts to one id, and replaces an id that is too long by its hash.
pub fn joined_id([first, second]: [&str; 2], between: char) -> String {
    let whole = format!("{first}{between}{second}");
    if whole.len() <= MAX_ID_BYTES { whole } else { format!("{:x}", Sha256::digest(whole)) }
}

/// Returns the conversation that the sender has read: the sender of a message or of a displayed marker (XEP-0333)
/// has read all earlier messages of the conversation.
fn read_mark(
    from: &Jid,
    to: &Recipients,
    message: &Message,
    nick: Option<&str>,
    sources: &Sources,
) -> Option<ReadMark> {
    let Recipients::Users(users) = to else { return None };
    let is_text = || matches!(message.content(), Ok(Content::Text(_) | Content::Spoiler(_) | Content::Encrypted));
    let is_marker = message.is_displayed_marker();
    if message.kind() == MessageType::Error || !(is_marker || is_text()) {
        return None;
    }
    let is_group = message.kind() == MessageType::Groupchat;
    if !is_group && message.is_private_of_occupant() && is_text() {
        // A text to one occupant does not show that its sender has read the room.
        return None;
    }
    let sender = from.to_bare();
    if is_group && let Some(user) = sources.user_of_occupant(users, from, message, nick) {
        return Some(ReadMark { user, conversation: sender, message: None });
    }
    sender.node()?;
    let recipient = single(users)?;
    if *recipient == sender {
        // A copy of an own message, or a note to self, which is unread like any other message.
        let conversation = addressee(message).filter(|to| *to != sender);
        let conversation = conversation.or_else(|| is_marker.then(|| sender.clone()));
        return conversation.map(|conversation| ReadMark { user: sender, conversation, message: None });
    }
    let is_below = |room: &BareJid, user: &BareJid| {
        let prefix = room.domain().as_str().strip_suffix(user.domain().as_str());
        prefix.is_some_and(|prefix| prefix.ends_with('.'))
    };
    let is_room = |user: &BareJid, jid: &BareJid| sources.rooms.is_room(user, &jid.clone().into());
    let is_to_room = || is_below(recipient, &sender) || is_room(&sender, recipient) && !is_room(recipient, &sender);
    let is_from_room =
        if is_group { is_below(&sender, recipient) } else { message.is_private_of_occupant() && !is_to_room() };
    (!is_from_room).then(|| ReadMark { user: sender, conversation: recipient.clone(), message: None })
}

fn stanza_id(from: &Jid, to: &Recipients, message: &Message) -> Option<String> {
    let room = (message.kind() == MessageType::Groupchat).then(|| from.to_bare());
    let recipient = match to {
        Recipients::Users(users) => single(users).cloned(),
        Recipients::Sessions(sessions) => single(sessions).map(|session| session.to_bare()),
    };
    room.into_iter().chain(recipient).find_map(|issuer| {
        let is_issuer = |by: &str| parse_jid(by).is_ok_and(|by| by == issuer);
        let (_, id) = message.stanza_ids().find(|(by, id)| !id.is_empty() && is_issuer(by))?;
        Some(assigned_id(&issuer, id))
    })
}

/// Returns the id of an event from the id that `issuer` assigned to its stanza.
fn assigned_id(issuer: &BareJid, id: &str) -> String {
    let whole = format!("{issuer}/{id}");
    check_id(whole.clone()).unwrap_or_else(|_| format!("{:x}", Sha256::digest(whole)))
}

fn single<T>(several: &[T]) -> Option<&T> {
    match several {
        [only] => Some(only),
        _ => None,
    }
}

fn distinct<T: Clone + Eq + Hash>(mut several: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(several.len());
    several.retain(|one| seen.insert(one.clone()));
    several
}
