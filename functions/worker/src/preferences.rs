//! Applies the preferences of a registration: after the plugin, whatever it is, and at push nodes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pushlark_model::{
    AllowedMessages, Attention, CallSignal, ClientState, Payload, Preferences, Presentation, Registration, Rooms, Show,
    UnknownSenders, WhileOnline,
};
use pushlark_plugin::{ContentPolicy, Event, EventKind, Recipient};
use pushlark_queue::ReportedRecipient;
use pushlark_store::{SessionAttention, Snapshot};
use pushlark_xmpp::{BareJid, MessageType};
use time::OffsetDateTime;

/// The fields of a payload that name neither the sender nor a text.
const ANONYMOUS: [&str; 6] = [
    Payload::MESSAGE_COUNT,
    Payload::LAST_MESSAGE_BODY,
    Payload::PENDING_SUBSCRIPTION_COUNT,
    Payload::TYPE,
    Payload::CALL_SID,
    Payload::CALL_MEDIA,
];
/// The fields of a payload that have no text, but may name the sender or the room.
const OF_SENDER: [&str; 6] = [
    Payload::LAST_MESSAGE_SENDER,
    Payload::ROOM,
    Payload::PENDING_SUBSCRIPTION_FROM,
    Payload::CALL_FROM,
    Payload::URGENT,
    Payload::MENTION,
];

/// The preference that leaves a device out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// `mute`: the conversation.
    Muted,
    /// `rooms`: no message of the room notifies.
    Room,
    /// `rooms`: only mentions notify.
    NoMention,
    /// `unknown`.
    UnknownSender,
    /// `quiet_hours`.
    QuietHours,
    /// `while_online`: `never`.
    Online,
}

impl Preference {
    /// Returns the code of the preference, for the log line of an event.
    pub fn code(self) -> &'static str {
        match self {
            Self::Muted => "muted",
            Self::Room => "room",
            Self::NoMention => "no-mention",
            Self::UnknownSender => "unknown-sender",
            Self::QuietHours => "quiet-hours",
            Self::Online => "while-online",
        }
    }
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Muted => "the sender is muted",
            Self::Room => "the room is not among those that notify",
            Self::NoMention => "the message does not mention the user",
            Self::UnknownSender => "the sender is unknown",
            Self::QuietHours => "quiet hours",
            Self::Online => "the user is online",
        })
    }
}

/// The registrations whose preference `while_online` decides about a message otherwise than the state of the recipient.
#[derive(Debug, Default)]
pub struct WhileOnlineExceptions {
    /// They are notified although the user is active: `away` or `always`.
    pub notified: Vec<Registration>,
    /// They are not notified while the user is online: `never`.
    pub left_out: Vec<Registration>,
}

impl WhileOnlineExceptions {
    /// Compares the sessions that the table and the event know with the preferences.
    pub fn new(event: &Event, reported: &ReportedRecipient, snapshot: &Snapshot, recipient: &Recipient) -> Self {
        let mut exceptions = Self::default();
        for registration in &snapshot.registrations {
            let Some(preferences) = &registration.preferences else { continue };
            if preferences.while_online == WhileOnline::Inactive {
                continue;
            }
            let SessionAttention { own, others } = attention(event, reported, snapshot, registration);
            match preferences.while_online {
                WhileOnline::Never if !preferences.while_online.allows(own, others) => {
                    exceptions.left_out.push(registration.clone());
                }
                WhileOnline::Away | WhileOnline::Always
                    if recipient.is_active() && preferences.while_online.allows(own, others) =>
                {
                    exceptions.notified.push(registration.clone());
                }
                _ => {}
            }
        }
        exceptions
    }

    /// Returns the recipient as a plugin sees it for the registrations in `notified`: with inactive clients only.
    pub fn inactive(recipient: &Recipient) -> Recipient {
        Recipient { client_state: Some(ClientState::Inactive), ..recipient.clone() }
    }
}

/// Returns the attention of the user from the view of a device. What the event reports of all sessions together takes
/// precedence over the table. A session that only the event knows is another one.
fn attention(
    event: &Event,
    reported: &ReportedRecipient,
    snapshot: &Snapshot,
    registration: &Registration,
) -> SessionAttention {
    if reported.online == Some(false) {
        return SessionAttention::default();
    }
    let lost = match &event.kind {
        EventKind::Unacknowledged(session) => Some(session),
        EventKind::Message(_) | EventKind::Subscription(_) => None,
    };
    let SessionAttention { own, others } = snapshot.attention(registration, lost);
    let highest = match reported.client_state {
        Some(ClientState::Inactive) => Attention::Inactive,
        Some(ClientState::Active) | None => Attention::Active,
    };
    let unlisted = match (reported.online, reported.client_state, snapshot.client_state) {
        (Some(true), _, None) => highest,
        (_, Some(ClientState::Active), Some(ClientState::Inactive)) => Attention::Active,
        _ => Attention::Offline,
    };
    SessionAttention { own: own.min(highest), others: others.min(highest).max(unlisted) }
}

/// A notification, as far as the preferences depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'s> {
    /// The payload.
    pub payload: &'s Payload,
    /// The conversations that a user may mute to stop it: the other user, or the room, and the room of an invitation.
    pub conversations: &'s [BareJid],
    /// The present time.
    pub now: OffsetDateTime,
    /// The longest time for which a device rings.
    pub ringing: Duration,
}

impl Subject<'_> {
    /// Returns the preference `mute` or `quiet_hours` if it leaves the device out. They also stop invitations and
    /// contact requests, but calls and their end only with `calls`.
    pub fn stopped_by(&self, preferences: &Preferences) -> Option<Preference> {
        let call = self.payload.call();
        let applies = |to_calls: bool| call.is_none() || to_calls || preferences.calls;
        let is_muted = preferences.mute.iter().any(|mute| {
            let is_over = mute.until.is_some_and(|until| until <= self.now);
            !is_over && applies(mute.calls) && self.conversations.contains(&mute.jid)
        });
        if is_muted {
            return Some(Preference::Muted);
        }
        // A device that may have rung before the quiet hours gets the end of the call.
        let since = match call {
            Some(CallSignal::End(_)) => self.now - self.ringing,
            Some(CallSignal::Ring(_)) | None => self.now,
        };
        let mut quiet_hours = preferences.quiet_hours.iter();
        quiet_hours
            .any(|quiet| applies(quiet.calls) && quiet.include(since) && quiet.include(self.now))
            .then_some(Preference::QuietHours)
    }
}

/// Returns the preference that leaves the device of a registration out of a notification of `event`, if one does.
/// `ringing` is the longest time for which a device rings.
pub fn leaves_out(
    registration: &Registration,
    event: &Event,
    payload: &Payload,
    exceptions: &WhileOnlineExceptions,
    ringing: Duration,
) -> Option<Preference> {
    let preferences = registration.preferences.as_deref()?;
    let caller = event.message.call().and_then(|call| event.caller(&call));
    let mut conversations = vec![caller.unwrap_or_else(|| event.from.to_bare())];
    conversations.extend(event.room.clone());
    let subject = Subject { payload, conversations: &conversations, now: OffsetDateTime::now_utc(), ringing };
    let is_online = || payload.call().is_none() && exceptions.left_out.contains(registration);
    subject
        .stopped_by(preferences)
        .or_else(|| ignored_room(preferences, event))
        .or_else(|| ignores_sender(preferences, event).then_some(Preference::UnknownSender))
        .or_else(|| is_online().then_some(Preference::Online))
}

/// Returns the reason why a group message does not notify, if it is one and does not notify. The private messages of
/// occupants and invitations are not messages of a room.
fn ignored_room(preferences: &Preferences, event: &Event) -> Option<Preference> {
    if !is_group_message(event) {
        return None;
    }
    let (allowed, nick) = match &preferences.rooms {
        Rooms::All(allowed) => (*allowed, None),
        Rooms::Listed(rooms) => {
            let conversation = event.from.to_bare();
            let Some(room) = rooms.iter().find(|room| room.jid == conversation) else { return Some(Preference::Room) };
            (room.allow, room.nick.as_deref())
        }
    };
    match allowed {
        AllowedMessages::Always => None,
        AllowedMessages::Mentions if event.mentions(nick) => None,
        AllowedMessages::Mentions => Some(Preference::NoMention),
        AllowedMessages::Never => Some(Preference::Room),
    }
}

/// Returns whether the sender is unknown and ignored. In a room, everybody is known; a contact request is the way in
/// which an unknown user becomes known. A room may name the inviter by the nick.
fn ignores_sender(preferences: &Preferences, event: &Event) -> bool {
    let is_of_room = is_group_message(event) || event.is_occupant && event.room.is_none();
    let is_request = matches!(event.kind, EventKind::Subscription(_));
    preferences.unknown == UnknownSenders::Ignore && event.sender_known == Some(false) && !is_of_room && !is_request
}

/// Returns whether the message is one of an occupant to the whole room, also if it contains an invitation to another one.
fn is_group_message(event: &Event) -> bool {
    event.message.kind() == MessageType::Groupchat && event.is_occupant
}

/// Returns the payload as the preference `show` has it. Only the fields that are known to name no sender or to have no
/// text stay, since a plugin, a rule or another server can set any field.
pub fn shown(payload: Payload, registration: &Registration, policy: &ContentPolicy) -> Payload {
    let show = show(registration);
    let is_kept = |name: &str| match show {
        Show::All => true,
        Show::Sender => ANONYMOUS.contains(&name) || OF_SENDER.contains(&name),
        Show::Nothing => ANONYMOUS.contains(&name),
    };
    // Another server has encrypted it for the device alone.
    if show == Show::All || payload.is_encrypted() {
        return payload;
    }
    let mut shown = Payload::default();
    for (name, value) in payload.fields().filter(|(name, _)| is_kept(name)) {
        let value = match name {
            // A device that cannot ring gets the text of a call later.
            Payload::LAST_MESSAGE_BODY if payload.call().is_some() => continue,
            Payload::LAST_MESSAGE_BODY => placeholder(&payload, show, policy),
            _ => value.to_owned(),
        };
        shown = shown.with(name.to_owned(), value);
    }
    // Push services refuse a notification that has neither a text nor data.
    if shown.fields().next().is_none() { shown.with(Payload::NODE, registration.node.as_str()) } else { shown }
}

/// Returns the presentation as the preference `show` has it: the title of a rule may quote the message.
pub fn shown_presentation(
    presentation: Option<Arc<Presentation>>,
    registration: &Registration,
) -> Option<Arc<Presentation>> {
    let presentation = presentation?;
    if show(registration) == Show::All || presentation.title.is_none() {
        return Some(presentation);
    }
    Some(Arc::new(Presentation { title: None, ..(*presentation).clone() }))
}

/// Returns whether the notifications of a registration may name the sender.
pub fn names_sender(registration: &Registration) -> bool {
    show(registration) != Show::Nothing
}

fn show(registration: &Registration) -> Show {
    registration.preferences.as_ref().map_or(Show::All, |preferences| preferences.show)
}

/// Returns the operator's text for the kind of notification.
fn placeholder(payload: &Payload, show: Show, policy: &ContentPolicy) -> String {
    match payload.get(Payload::ROOM) {
        _ if payload.is_contact_request() => policy.subscription_placeholder.clone(),
        Some(room) if show == Show::Sender => policy.invitation(room),
        Some(_) | None => policy.placeholder.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use pushlark_model::{Mute, PublishOptions, QuietHours};
    use time::Time;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn at(time: &str) -> OffsetDateTime {
        OffsetDateTime::parse(&format!("2026-11-27T{time}Z"), &Rfc3339).unwrap()
    }

    fn stopped_by(preferences: &Preferences, payload: &Payload, now: OffsetDateTime) -> Option<Preference> {
        let conversations = &["alice@example.com".parse().unwrap()];
        Subject { payload, conversations, now, ringing: Duration::from_secs(30) }.stopped_by(preferences)
    }

    fn call(kind: &str) -> Payload {
        Payload::default().with(Payload::TYPE, kind).with(Payload::CALL_SID, "c1")
    }

    #[test]
    fn a_device_that_may_have_rung_before_the_quiet_hours_gets_the_end_of_the_call() {
        let [from, to] = [22, 7].map(|hour| Time::from_hms(hour, 0, 0).unwrap());
        let tz = "UTC".parse().unwrap();
        let quiet = QuietHours { from, to, tz, days: BTreeSet::new(), calls: true };
        let preferences = Preferences { quiet_hours: vec![quiet], ..Preferences::default() };
        let quiet = Some(Preference::QuietHours);
        for (payload, now, expected) in [
            (Payload::default(), at("22:00:10"), quiet),
            (call(Payload::CALL), at("22:00:10"), quiet),
            (call(Payload::CALL_END), at("22:00:10"), None),
            (call(Payload::CALL_END), at("22:00:30"), quiet),
            // The device may have rung after the quiet hours.
            (call(Payload::CALL_END), at("07:00:10"), None),
        ] {
            assert_eq!(stopped_by(&preferences, &payload, now), expected, "{payload:?} {now}");
        }
    }

    #[test]
    fn a_conversation_is_muted_until_its_time() {
        let mute = |jid: &str, until, calls| Mute { jid: jid.parse().unwrap(), until, calls };
        let alice = |until| mute("alice@example.com", until, false);
        let (now, muted) = (at("22:00:00"), Some(Preference::Muted));
        for (mutes, payload, expected) in [
            (vec![alice(None)], Payload::default(), muted),
            (vec![alice(Some(now + Duration::from_secs(1)))], Payload::default(), muted),
            (vec![alice(Some(now))], Payload::default(), None),
            (vec![alice(Some(now)), alice(None)], Payload::default(), muted),
            (vec![mute("example.com", None, true)], Payload::default(), None),
            (vec![alice(None)], call(Payload::CALL), None),
            (vec![mute("alice@example.com", None, true)], call(Payload::CALL), muted),
            (vec![mute("alice@example.com", None, true)], call(Payload::CALL_END), muted),
            (vec![mute("alice@example.com", Some(now), true)], call(Payload::CALL), None),
        ] {
            let preferences = Preferences { mute: mutes, ..Preferences::default() };
            assert_eq!(stopped_by(&preferences, &payload, now), expected, "{preferences:?} {payload:?}");
        }
    }

    fn showing(show: Show) -> Registration {
        let jid = "push.example.com".parse().unwrap();
        let mut registration = Registration::new(jid, "n".into(), PublishOptions::default(), 0);
        registration.preferences = Some(Box::new(Preferences { show, ..Preferences::default() }));
        registration
    }

    #[test]
    fn only_known_fields_without_text_stay_in_a_payload_that_hides_something() {
        let policy = ContentPolicy::default();
        let fields = [ANONYMOUS, OF_SENDER].concat();
        let mut payload = Payload::default().with("quote", "canary").with(Payload::NODE, "canary");
        for name in &fields {
            payload = payload.with(*name, "canary");
        }
        let names = |show| {
            let shown = shown(payload.clone(), &showing(show), &policy);
            assert_ne!(shown.get(Payload::LAST_MESSAGE_BODY), Some("canary"));
            shown.fields().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(Show::Sender), fields);
        assert_eq!(names(Show::Nothing), ANONYMOUS);
    }

    #[test]
    fn the_title_of_a_rule_is_not_shown_with_a_placeholder() {
        let presentation = Presentation { title: Some("canary".into()), ..Presentation::default() };
        for (show, title) in [(Show::All, Some("canary")), (Show::Sender, None), (Show::Nothing, None)] {
            let shown = shown_presentation(Some(Arc::new(presentation.clone())), &showing(show)).unwrap();
            assert_eq!(shown.title.as_deref(), title);
        }
    }
}
