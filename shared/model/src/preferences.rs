//! The preferences of a registration: the notifications that a user wants on a device.

use std::collections::BTreeSet;

use pushlark_xmpp::{BareJid, Jid, is_xml_text, parse_jid};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, Time, Weekday};

use crate::publish_options::masked;
use crate::{Attention, TimeZone};

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
    /// Whether messages and calls of users whom the recipient does not know notify. It does not concern rooms.
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

/// Whether messages and calls of users whom the recipient does not know notify.
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

impl QuietHours {
    /// Returns whether a time is in the quiet hours, by the local clock: on the day on which daylight saving time ends,
    /// an hour that occurs twice is quiet both times.
    pub fn include(&self, at: OffsetDateTime) -> bool {
        let local = self.tz.local(at);
        let (time, day) = (local.time(), local.weekday());
        let starts_on = |day: Weekday| self.days.is_empty() || self.days.contains(&day.into());
        if self.from < self.to {
            return starts_on(day) && (self.from..self.to).contains(&time);
        }
        time >= self.from && starts_on(day) || time < self.to && starts_on(day.previous())
    }
}

impl From<Weekday> for Day {
    fn from(day: Weekday) -> Self {
        match day {
            Weekday::Monday => Self::Mon,
            Weekday::Tuesday => Self::Tue,
            Weekday::Wednesday => Self::Wed,
            Weekday::Thursday => Self::Thu,
            Weekday::Friday => Self::Fri,
            Weekday::Saturday => Self::Sat,
            Weekday::Sunday => Self::Sun,
        }
    }
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

impl WhileOnline {
    /// Returns whether a device is notified while the user's attention is `own` in the device's own session, and
    /// `others` in the most active other one. The chat server sends the message itself to an own session that is
    /// active, so such a device is never notified; an own session in the background may miss the message.
    pub fn allows(self, own: Attention, others: Attention) -> bool {
        let limit = match self {
            Self::Never => Attention::Offline,
            Self::Inactive => Attention::Inactive,
            Self::Away => Attention::Away,
            Self::Always => Attention::Active,
        };
        others <= limit && own <= limit.clamp(Attention::Inactive, Attention::Away)
    }
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

    use crate::time::read_time_of_day;

    pub fn serialize<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:02}:{:02}", time.hour(), time.minute()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let time = read_time_of_day(&String::deserialize(deserializer)?);
        time.ok_or_else(|| D::Error::custom("expected a time such as 22:00"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    /// Reads quiet hours such as `22:00 07:00 Europe/Berlin sat sun`.
    fn quiet_hours(text: &str) -> QuietHours {
        let parts: Vec<&str> = text.split(' ').collect();
        let time = |text: &str| {
            let (hour, minute) = text.split_once(':').unwrap();
            Time::from_hms(hour.parse().unwrap(), minute.parse().unwrap(), 0).unwrap()
        };
        let day = |name: &&str| {
            let days = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
            days.into_iter().find(|day| format!("{day:?}").eq_ignore_ascii_case(name)).unwrap()
        };
        let days = parts[3..].iter().map(day).collect();
        QuietHours { from: time(parts[0]), to: time(parts[1]), tz: parts[2].parse().unwrap(), days, calls: false }
    }

    #[test]
    fn quiet_hours_include_the_times_of_the_local_clock_on_their_days() {
        for (hours, at, expected) in [
            // 2026-11-27 is a Friday.
            ("12:00 13:30 UTC", "2026-11-27T11:59:59.999Z", false),
            ("12:00 13:30 UTC", "2026-11-27T12:00:00Z", true),
            ("12:00 13:30 UTC", "2026-11-27T13:29:59.999Z", true),
            ("12:00 13:30 UTC", "2026-11-27T13:30:00Z", false),
            ("12:00 13:30 UTC fri", "2026-11-27T13:00:00Z", true),
            ("12:00 13:30 UTC mon sun", "2026-11-27T13:00:00Z", false),
            // Over midnight: the morning belongs to the day before.
            ("22:00 07:00 UTC", "2026-11-27T23:00:00Z", true),
            ("22:00 07:00 UTC", "2026-11-27T06:59:59Z", true),
            ("22:00 07:00 UTC", "2026-11-27T07:00:00Z", false),
            ("22:00 07:00 UTC", "2026-11-27T21:59:59Z", false),
            ("22:00 07:00 UTC fri", "2026-11-27T06:00:00Z", false),
            ("22:00 07:00 UTC fri", "2026-11-27T23:00:00Z", true),
            ("22:00 07:00 UTC fri", "2026-11-28T06:00:00Z", true),
            ("22:00 07:00 UTC fri", "2026-11-28T23:00:00Z", false),
            ("22:00 07:00 UTC sun", "2026-11-30T06:00:00Z", true),
            // Until midnight, and from midnight.
            ("22:00 00:00 UTC fri", "2026-11-27T23:59:59Z", true),
            ("22:00 00:00 UTC fri", "2026-11-28T00:00:00Z", false),
            ("00:00 07:00 UTC sat", "2026-11-28T00:00:00Z", true),
            // A whole day.
            ("09:00 09:00 UTC fri", "2026-11-27T08:59:59Z", false),
            ("09:00 09:00 UTC fri", "2026-11-27T09:00:00Z", true),
            ("09:00 09:00 UTC fri", "2026-11-28T08:59:59Z", true),
            ("09:00 09:00 UTC fri", "2026-11-28T09:00:00Z", false),
            ("00:00 00:00 UTC", "2026-11-27T12:00:00Z", true),
            // The local day and clock, not those of UTC.
            ("22:00 07:00 Asia/Kolkata", "2026-11-27T16:30:00Z", true),
            ("22:00 07:00 Asia/Kolkata", "2026-11-27T16:29:00Z", false),
            ("08:00 12:00 Pacific/Auckland sat", "2026-11-27T20:00:00Z", true),
            ("22:00 23:00 America/New_York fri", "2026-11-28T03:30:00Z", true),
        ] {
            let at = OffsetDateTime::parse(at, &Rfc3339).unwrap();
            assert_eq!(quiet_hours(hours).include(at), expected, "{hours} at {at}");
        }
    }

    #[test]
    fn quiet_hours_follow_daylight_saving_time() {
        for (hours, at, expected) in [
            // Winter and summer.
            ("22:00 07:00 Europe/Berlin", "2026-01-10T21:00:00Z", true),
            ("22:00 07:00 Europe/Berlin", "2026-01-10T20:59:00Z", false),
            ("22:00 07:00 Europe/Berlin", "2026-07-10T20:00:00Z", true),
            ("22:00 07:00 Europe/Berlin", "2026-07-10T05:00:00Z", false),
            // 2026-03-29: 02:00 to 03:00 does not occur. 01:59 is 00:59 UTC, 03:00 is 01:00 UTC.
            ("02:30 04:00 Europe/Berlin", "2026-03-29T00:59:59Z", false),
            ("02:30 04:00 Europe/Berlin", "2026-03-29T01:00:00Z", true),
            ("02:10 02:50 Europe/Berlin", "2026-03-29T01:00:00Z", false),
            ("23:00 02:30 Europe/Berlin", "2026-03-29T00:59:59Z", true),
            ("23:00 02:30 Europe/Berlin", "2026-03-29T01:00:00Z", false),
            // 2026-10-25: 02:00 to 03:00 occurs twice, from 00:00 and from 01:00 UTC.
            ("02:00 02:30 Europe/Berlin", "2026-10-25T00:15:00Z", true),
            ("02:00 02:30 Europe/Berlin", "2026-10-25T00:45:00Z", false),
            ("02:00 02:30 Europe/Berlin", "2026-10-25T01:15:00Z", true),
            ("22:00 07:00 Europe/Berlin sat", "2026-10-25T05:59:59Z", true),
            ("22:00 07:00 Europe/Berlin sat", "2026-10-25T06:00:00Z", false),
        ] {
            let at = OffsetDateTime::parse(at, &Rfc3339).unwrap();
            assert_eq!(quiet_hours(hours).include(at), expected, "{hours} at {at}");
        }
    }

    #[test]
    fn a_device_is_notified_up_to_a_limit_of_attention_elsewhere_but_not_while_its_own_session_is_active() {
        use Attention::{Active, Away, Inactive, Offline};
        use WhileOnline as W;
        for (own, others, allowed) in [
            (Offline, Offline, &[W::Never, W::Inactive, W::Away, W::Always][..]),
            (Offline, Inactive, &[W::Inactive, W::Away, W::Always]),
            (Offline, Away, &[W::Away, W::Always]),
            (Offline, Active, &[W::Always]),
            (Inactive, Offline, &[W::Never, W::Inactive, W::Away, W::Always]),
            (Inactive, Inactive, &[W::Inactive, W::Away, W::Always]),
            (Inactive, Active, &[W::Always]),
            (Away, Offline, &[W::Away, W::Always]),
            (Away, Active, &[W::Always]),
            (Active, Offline, &[]),
            (Active, Active, &[]),
        ] {
            for preference in [W::Never, W::Inactive, W::Away, W::Always] {
                let expected = allowed.contains(&preference);
                assert_eq!(preference.allows(own, others), expected, "{preference:?}: {own:?}, {others:?}");
            }
        }
    }
}
