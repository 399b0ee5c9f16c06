//! The preferences of a registration: the notifications that a user wants on a device.

use std::collections::BTreeSet;

use pushlark_xmpp::{BareJid, Jid, is_xml_text, parse_jid};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, Time};

use crate::TimeZone;
use crate::publish_options::masked;

/// The preferences of a registration, in the JSON of an enable request. The default preferences change nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preferences {
    /// The conversations that do not notify.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mute: Vec<Mute>,
    /// The messages of rooms that notify.
    #[serde(skip_serializing_if = "is_default")]
    pub rooms: Rooms,
    /// Whether messages of users whom the recipient does not know notify. It does not concern rooms.
    #[serde(skip_serializing_if = "is_default")]
    pub unknown: UnknownSenders,
    /// The times at which no message notifies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quiet_hours: Vec<QuietHours>,
    /// The state of the user's other sessions in which the device is notified.
    #[serde(skip_serializing_if = "is_default")]
    pub while_online: WhileOnline,
    /// The content of the notifications.
    #[serde(skip_serializing_if = "is_default")]
    pub show: Show,
    /// Whether `mute` and `quiet_hours` stop calls, too.
    #[serde(skip_serializing_if = "is_default")]
    pub calls: bool,
    /// Whether notifications to a real PubSub node have a priority (`tigase:push:priority:0`).
    #[serde(skip_serializing_if = "is_default")]
    pub priority: bool,
    /// Whether notifications of calls to a real PubSub node have an element `jingle` (`tigase:push:jingle:0`).
    #[serde(skip_serializing_if = "is_default")]
    pub jingle: bool,
}

impl Preferences {
    /// Returns the preferences that a push node can apply, if there are any. It does not know the rooms, contacts and
    /// sessions of its owner, and publishes to no other node.
    pub fn at_push_node(self) -> Option<Self> {
        let Self { mute, quiet_hours, show, calls, .. } = self;
        Some(Self { mute, quiet_hours, show, calls, ..Self::default() }).filter(|known| *known != Self::default())
    }

    /// Returns the JSON for display. Of a JID or a nick only the last four characters are shown, and only if it has at
    /// least 16.
    pub fn masked(&self) -> Value {
        // The types have texts, numbers and booleans, which can always be serialized.
        let mut shown = serde_json::to_value(self).unwrap_or_default();
        for list in ["mute", "rooms"] {
            for entry in shown.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                for field in ["jid", "nick"] {
                    if let Some(Value::String(text)) = entry.get_mut(field) {
                        *text = masked(text);
                    }
                }
            }
        }
        shown
    }
}

/// A conversation that does not notify.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Mute {
    /// The other user, or the room.
    #[serde(deserialize_with = "bare_jid")]
    pub jid: BareJid,
    /// The end; `None` for no end.
    #[serde(
        default,
        serialize_with = "time::serde::rfc3339::option::serialize",
        deserialize_with = "rfc3339",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<OffsetDateTime>,
    /// Whether calls do not notify, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub calls: bool,
}

/// The messages of rooms that notify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Rooms {
    /// The same for all rooms.
    All(AllowedMessages),
    /// Of the listed rooms alone: the messages of other rooms do not notify (`tigase:push:filter:groupchat:0`).
    Listed(Vec<RoomPreference>),
}

impl Default for Rooms {
    fn default() -> Self {
        Self::All(AllowedMessages::Always)
    }
}

/// Reads the name of the allowed messages, or a list of rooms.
impl<'de> Deserialize<'de> for Rooms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrList;

        impl<'de> Visitor<'de> for NameOrList {
            type Value = Rooms;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("always, mentions, never or a list of rooms")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Rooms, E> {
                match name {
                    "always" => Ok(Rooms::All(AllowedMessages::Always)),
                    "mentions" => Ok(Rooms::All(AllowedMessages::Mentions)),
                    "never" => Ok(Rooms::All(AllowedMessages::Never)),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, rooms: A) -> Result<Rooms, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(rooms)).map(Rooms::Listed)
            }
        }

        deserializer.deserialize_any(NameOrList)
    }
}

/// The messages of a room that notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllowedMessages {
    /// All messages.
    Always,
    /// The messages that mention the user (XEP-0372, or by the nick).
    Mentions,
    /// None.
    Never,
}

/// The messages of one room that notify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct RoomPreference {
    /// The room.
    #[serde(deserialize_with = "bare_jid")]
    pub jid: BareJid,
    /// The messages that notify.
    pub allow: AllowedMessages,
    /// The nick of the user in the room, by which a text mentions the user. It is not empty.
    #[serde(default, deserialize_with = "nick", skip_serializing_if = "Option::is_none")]
    pub nick: Option<String>,
}

/// Whether messages of users whom the recipient does not know notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownSenders {
    /// They notify.
    #[default]
    Notify,
    /// They do not notify.
    Ignore,
}

/// A time of the day at which no message notifies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct QuietHours {
    /// The start, which is in the quiet hours.
    #[serde(with = "time_of_day")]
    pub from: Time,
    /// The end, which is not in the quiet hours. If it is not after `from`, it is on the next day: equal times are a
    /// whole day.
    #[serde(with = "time_of_day")]
    pub to: Time,
    /// The time zone of `from` and `to`.
    pub tz: TimeZone,
    /// The days on which the quiet hours start; all days if it is empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub days: BTreeSet<Day>,
    /// Whether calls do not notify, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub calls: bool,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// The state of the user's other sessions in which a device is notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhileOnline {
    /// All sessions are offline.
    Never,
    /// All sessions are offline, or their clients are inactive (XEP-0352).
    #[default]
    Inactive,
    /// All sessions are offline, inactive or away: their presence has a `show` of `away`, `xa` or `dnd`.
    Away,
    /// Any state.
    Always,
}

/// The content of notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Show {
    /// Sender and text.
    #[default]
    All,
    /// The sender, and a placeholder for the text.
    Sender,
    /// A placeholder.
    Nothing,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads a JID, and removes its resource.
fn bare_jid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BareJid, D::Error> {
    parse_jid(&String::deserialize(deserializer)?).map(Jid::into_bare).map_err(D::Error::custom)
}

/// Reads a nick as [`given_nick`] returns it.
fn nick<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let nick = Option::<String>::deserialize(deserializer)?;
    match nick.as_deref().is_none_or(is_xml_text) {
        true => Ok(nick.as_deref().and_then(given_nick)),
        false => Err(D::Error::custom("it has a character that XML does not allow")),
    }
}

/// Returns the nick without surrounding white space, unless it is empty: each text contains an empty nick.
pub(crate) fn given_nick(nick: &str) -> Option<String> {
    Some(nick.trim()).filter(|nick| !nick.is_empty()).map(Into::into)
}

/// Reads a time of RFC 3339.
fn rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
    let time = Option::<String>::deserialize(deserializer)?;
    let time = time.map(|time| OffsetDateTime::parse(&time, &Rfc3339)).transpose();
    time.map_err(|_| D::Error::custom("expected a time such as 2026-12-24T18:00:00Z"))
}

/// A time of the day as `HH:MM`.
mod time_of_day {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;
    use time::Time;

    pub fn serialize<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:02}:{:02}", time.hour(), time.minute()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_number = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        let time = text.split_once(':').filter(|(hour, minute)| is_number(hour) && is_number(minute));
        let time = time.and_then(|(hour, minute)| Time::from_hms(hour.parse().ok()?, minute.parse().ok()?, 0).ok());
        time.ok_or_else(|| D::Error::custom("expected a time such as 22:00"))
    }
}
