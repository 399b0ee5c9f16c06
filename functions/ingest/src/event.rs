//! What a webhook says, whatever format it came in.

use std::collections::HashSet;
use std::fmt::Write;
use std::hash::Hash;

use pushlark_queue::{Facts, Subject};
use pushlark_store::Availability;
use pushlark_xmpp::{BareJid, FullJid, Jid, Message, MessageType};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// The longest id that an event may give its message, in bytes.
const MAX_ID_BYTES: usize = 256;

/// An event that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Names the message.
    pub id: String,
    /// When it happened.
    pub at: OffsetDateTime,
    /// What follows from it.
    pub effect: Effect,
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
) -> Event {
    let id = id.or_else(|| stanza_id(&from, &to, message)).unwrap_or_else(new_id);
    let stanza = message.element().to_string();
    let effect = match (message.kind(), to) {
        (MessageType::Normal | MessageType::Headline | MessageType::Error, _) => Effect::None,
        (_, Recipients::Users(to)) => Effect::Queue(Subject::Message { from, to: distinct(to), stanza, recipient }),
        (_, Recipients::Sessions(to)) => {
            Effect::Queue(Subject::Unacknowledged { from, to: distinct(to), stanza, recipient })
        }
    };
    Event { id, at, effect }
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
        _ if id.chars().any(char::is_control) => Err("id has a control character".into()),
        _ => Ok(id),
    }
}

/// When the event at `index` of a request happened: as it says, but not in the future, where a wrong clock would outdo
/// all that follows. Without a word, when it arrived, one after the other.
pub fn happened(at: Option<OffsetDateTime>, now: OffsetDateTime, index: usize) -> OffsetDateTime {
    let arrived = now + Duration::microseconds(i64::try_from(index).unwrap_or(0));
    at.map_or(arrived, |at| at.min(arrived))
}

fn stanza_id(from: &Jid, to: &Recipients, message: &Message) -> Option<String> {
    let giver = match (message.kind(), to) {
        (MessageType::Groupchat, _) => from.to_bare(),
        (_, Recipients::Users(users)) => single(users)?.clone(),
        (_, Recipients::Sessions(sessions)) => single(sessions)?.to_bare(),
    };
    let is_giver = |by: &str| BareJid::new(by).is_ok_and(|by| by == giver);
    let (_, id) = message.stanza_ids().find(|(by, id)| !id.is_empty() && is_giver(by))?;
    Some(check_id(format!("{giver}/{id}")).unwrap_or_else(|_| hash(&giver, id)))
}

fn single<T>(several: &[T]) -> Option<&T> {
    match several {
        [only] => Some(only),
        _ => None,
    }
}

fn hash(giver: &BareJid, id: &str) -> String {
    Sha256::digest(format!("{giver}/{id}")).iter().fold(String::new(), |mut hash, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

fn distinct<T: Clone + Eq + Hash>(mut several: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(several.len());
    several.retain(|one| seen.insert(one.clone()));
    several
}
