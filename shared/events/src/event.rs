//! What a webhook says, whatever format it came in.

use std::collections::HashSet;
use std::hash::Hash;

use pushlark_access::Caller;
use pushlark_model::Availability;
use pushlark_queue::{Facts, Subject};
use pushlark_xmpp::{
    BareJid, DomainPart, DomainRef, FullJid, Jid, MAX_STANZA_BYTES, Message, MessageType, is_xml_text, parse_jid,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::Sources;

/// The longest id that an event may give its message, in bytes.
const MAX_ID_BYTES: usize = 256;

/// The most recipients that one event may have: the stanza is copied for each [`MAX_RECIPIENTS`] of them.
///
/// [`MAX_RECIPIENTS`]: pushlark_queue::MAX_RECIPIENTS
const MAX_EVENT_RECIPIENTS: usize = 5_000;

/// An event that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Names the message.
    pub id: String,
    /// When it happened.
    pub at: OffsetDateTime,
    /// What follows from it.
    pub effect: Effect,
    /// What the sender of a message has read.
    pub reading: Option<Reading>,
}

/// A user has read all of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The user.
    pub user: BareJid,
    /// The other user, or the room.
    pub conversation: BareJid,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Work for the worker.
    Queue(Subject),
    /// A session is available from now on, or not. Of a bare JID, what is heard of is the user's one session.
    Presence(Jid, Availability),
    /// A user has read something.
    Read(Reading),
    /// Nothing: it notifies nobody. The domains of the users that it is about, one for each user.
    None(Vec<DomainPart>),
}

/// How an event came, and what the settings say of its sources.
#[derive(Debug, Clone)]
pub struct Arrival<'s> {
    /// When it arrived.
    pub now: OffsetDateTime,
    /// When it happened, as what it came in says.
    pub at: Option<OffsetDateTime>,
    /// What names it, as what it came in says.
    pub id: Option<String>,
    /// What the settings say.
    pub sources: &'s Sources,
}

impl Arrival<'_> {
    /// That of the event at `index` of several that came together.
    pub fn nth(&self, index: usize) -> Self {
        let later = Duration::microseconds(i64::try_from(index).unwrap_or(0));
        let id = self.id.as_ref().map(|id| named([id, &index.to_string()], '/'));
        Self { now: self.now + later, id, ..self.clone() }
    }

    /// When an event happened that says `at` of it: not in the future, where a wrong clock would outdo all that follows.
    /// Without a word, when it arrived.
    pub fn happened(&self, at: Option<OffsetDateTime>) -> OffsetDateTime {
        at.or(self.at).map_or(self.now, |at| at.min(self.now))
    }

    /// The id of an event that gives itself `id`.
    pub fn named(&self, id: Option<String>) -> Result<Option<String>, String> {
        Ok(id.map(check_id).transpose()?.or_else(|| self.id.clone()))
    }
}

impl Event {
    /// The domains of the users that the event is about, one for each user.
    pub fn domains(&self) -> Vec<&DomainRef> {
        match &self.effect {
            Effect::Queue(Subject::Message { to, .. }) => to.iter().map(|user| user.domain()).collect(),
            Effect::Queue(Subject::Unacknowledged { to, .. }) => to.iter().map(|session| session.domain()).collect(),
            Effect::Queue(Subject::UserRemoved { jid }) => vec![jid.domain()],
            Effect::Queue(Subject::DomainRemoved { domain }) => vec![domain],
            Effect::Queue(Subject::Notification(notification)) => vec![notification.owner.domain()],
            Effect::Presence(session, _) => vec![session.domain()],
            Effect::Read(reading) => vec![reading.user.domain()],
            Effect::None(domains) => domains.iter().map(|domain| &**domain).collect(),
        }
    }

    /// The domains that `RATE_LIMIT` charges with the event when `caller` posts it, one for each user that it is about. A
    /// domain is never charged by a caller that does not speak for it: the caller's own domain is.
    pub fn charged<'e>(&'e self, caller: &'e Caller) -> impl Iterator<Item = &'e DomainRef> {
        let domains = self.domains().into_iter();
        domains.filter_map(|domain| if caller.speaks_for_domain(domain) { Some(domain) } else { caller.own_domain() })
    }

    /// The event as far as `caller` may tell it. What a sender of another domain has read is left out.
    pub(crate) fn told_by(mut self, caller: &Caller) -> Result<Self, String> {
        let other = self.domains().into_iter().find(|domain| !caller.speaks_for_domain(domain));
        if let (Some(other), false) = (other, matches!(self.effect, Effect::None(_))) {
            return Err(format!("the credential does not speak for {other}"));
        }
        self.reading = self.reading.filter(|reading| caller.speaks_for(&reading.user));
        Ok(self)
    }
}

/// Whom a message is for.
#[derive(Debug, Clone)]
pub enum Recipients {
    /// Users: the message is on its way to them.
    Users(Vec<BareJid>),
    /// Sessions that did not acknowledge it.
    Sessions(Vec<FullJid>),
}

impl Recipients {
    fn domains(&self) -> Vec<DomainPart> {
        match self {
            Self::Users(users) => users.iter().map(|user| user.domain().to_owned()).collect(),
            Self::Sessions(sessions) => sessions.iter().map(|session| session.domain().to_owned()).collect(),
        }
    }
}

/// The event of a message.
///
/// It is named by `id`, or else by the stanza-id that the room or the only recipient's server gave it, or else anew. A
/// client's own id for its stanza would let anybody suppress a notification.
pub fn message(
    id: Option<String>,
    at: OffsetDateTime,
    from: Jid,
    to: Recipients,
    message: &Message,
    recipient: Facts,
    sources: &Sources,
) -> Result<Event, String> {
    let id = id.or_else(|| stanza_id(&from, &to, message)).unwrap_or_else(new_id);
    let stanza = message.element().to_string();
    if stanza.len() > MAX_STANZA_BYTES {
        let length = stanza.len();
        return Err(format!("the message has {length} bytes as a stanza, {MAX_STANZA_BYTES} are allowed"));
    }
    let recipients = match &to {
        Recipients::Users(users) => users.len(),
        Recipients::Sessions(sessions) => sessions.len(),
    };
    if recipients > MAX_EVENT_RECIPIENTS {
        return Err(format!("to has {recipients} recipients, {MAX_EVENT_RECIPIENTS} are allowed"));
    }
    let reading = reading(&from, &to, message, sources);
    let effect = match (message.kind(), to) {
        (MessageType::Normal | MessageType::Headline | MessageType::Error, to) => Effect::None(to.domains()),
        (_, Recipients::Users(to)) => Effect::Queue(Subject::Message { from, to: distinct(to), stanza, recipient }),
        (_, Recipients::Sessions(to)) => {
            Effect::Queue(Subject::Unacknowledged { from, to: distinct(to), stanza, recipient })
        }
    };
    Ok(Event { id, at, effect, reading })
}

/// An id for what has none.
pub fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// Checks an id that an event gives.
pub fn check_id(id: String) -> Result<String, String> {
    match id.len() {
        0 => Err("id is empty".into()),
        length if length > MAX_ID_BYTES => Err(format!("id has {length} bytes, {MAX_ID_BYTES} are allowed")),
        _ if id.chars().any(char::is_control) || !is_xml_text(&id) => Err("id has a control character".into()),
        _ => Ok(id),
    }
}

/// One id of two parts, within the bounds of an id.
pub fn named([first, second]: [&str; 2], between: char) -> String {
    let whole = format!("{first}{between}{second}");
    if whole.len() <= MAX_ID_BYTES { whole } else { format!("{:x}", Sha256::digest(whole)) }
}

/// What the sender has read: all that came before an own message, or before a displayed marker (XEP-0333), which tells
/// nothing else.
fn reading(from: &Jid, to: &Recipients, message: &Message, sources: &Sources) -> Option<Reading> {
    let is_own_message = || {
        let is_chat = matches!(message.kind(), MessageType::Chat | MessageType::Groupchat);
        is_chat && !message.is_carbon() && (message.text().is_some() || message.has_omemo_payload())
    };
    if message.kind() == MessageType::Error || !(message.is_displayed_marker() || is_own_message()) {
        return None;
    }
    let Recipients::Users(users) = to else { return None };
    let sender = from.to_bare();
    if message.kind() == MessageType::Groupchat {
        let occupant = from.resource().and_then(|nick| parse_jid(nick.as_str()).ok()).map(Jid::into_bare);
        let is_vouched_for = users.iter().any(|user| sources.muc_light_hosts.has(user, &sender));
        if let Some(user) = occupant.filter(|user| is_vouched_for && user.node().is_some()) {
            return Some(Reading { user, conversation: sender });
        }
    }
    let conversation = single(users)?.clone();
    let is_room_of = |domain: &str| sender.domain().as_str().strip_suffix(domain).is_some_and(|d| d.ends_with('.'));
    let from_room = message.kind() == MessageType::Groupchat && is_room_of(conversation.domain().as_str());
    (sender.node().is_some() && !from_room).then_some(Reading { user: sender, conversation })
}

fn stanza_id(from: &Jid, to: &Recipients, message: &Message) -> Option<String> {
    let room = (message.kind() == MessageType::Groupchat).then(|| from.to_bare());
    let recipient = match to {
        Recipients::Users(users) => single(users).cloned(),
        Recipients::Sessions(sessions) => single(sessions).map(|session| session.to_bare()),
    };
    room.into_iter().chain(recipient).find_map(|giver| {
        let is_giver = |by: &str| parse_jid(by).is_ok_and(|by| by == giver);
        let (_, id) = message.stanza_ids().find(|(by, id)| !id.is_empty() && is_giver(by))?;
        let whole = format!("{giver}/{id}");
        Some(check_id(whole.clone()).unwrap_or_else(|_| format!("{:x}", Sha256::digest(whole))))
    })
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
