//! What a webhook says, whatever format it came in.

use std::collections::HashSet;
use std::hash::Hash;

use pushlark_queue::{Facts, Subject};
use pushlark_store::Availability;
use pushlark_xmpp::{BareJid, FullJid, Jid, MAX_STANZA_BYTES, Message, MessageType, is_xml_text, parse_jid};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

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
    /// What its user has read.
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
    /// A session is available from now on, or not.
    Presence(FullJid, Availability),
    /// Nothing: it notifies nobody.
    None,
}

/// Whom a message is for.
#[derive(Debug, Clone)]
pub enum Recipients {
    /// Users: the message is on its way to them.
    Users(Vec<BareJid>),
    /// Sessions that did not acknowledge it.
    Sessions(Vec<FullJid>),
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
    let reading = reading(&from, &to, message);
    let effect = match (message.kind(), to) {
        (MessageType::Normal | MessageType::Headline | MessageType::Error, _) => Effect::None,
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

/// When the event at `index` of a request happened: as it says, but not in the future, where a wrong clock would outdo
/// all that follows. Without a word, when it arrived, one after the other.
pub fn happened(at: Option<OffsetDateTime>, now: OffsetDateTime, index: usize) -> OffsetDateTime {
    let arrived = now + Duration::microseconds(i64::try_from(index).unwrap_or(0));
    at.map_or(arrived, |at| at.min(arrived))
}

/// What the sender has read: all that came before an own message, or before a displayed marker (XEP-0333), which tells
/// nothing else.
fn reading(from: &Jid, to: &Recipients, message: &Message) -> Option<Reading> {
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
        // In MUC Light the occupant's nick is the user; in a MUC nobody but the room knows whose it is.
        let occupant = from.resource().and_then(|nick| parse_jid(nick.as_str()).ok()).map(Jid::into_bare);
        if let Some(user) = occupant.filter(|user| user.node().is_some()) {
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
        Some(
            check_id(format!("{giver}/{id}"))
                .unwrap_or_else(|_| format!("{:x}", Sha256::digest(format!("{giver}/{id}")))),
        )
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
