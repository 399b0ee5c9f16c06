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

use crate::call::caller;

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
    pub silent: Vec<Registration>,
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
                    exceptions.silent.push(registration.clone());
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
    let caller = event.message.call().and_then(|call| caller(event, &call));
    let mut conversations = vec![caller.unwrap_or_else(|| event.from.to_bare())];
    conversations.extend(event.room.clone());
    let subject = Subject { payload, conversations: &conversations, now: OffsetDateTime::now_utc(), ringing };
    let is_online = || payload.call().is_none() && exceptions.silent.contains(registration);
    subject
        .stopped_by(preferences)
        .or_else(|| ignored_room(preferences, event))
        .or_else(|| ignores_sender(preferences, event).then_some(Preference::UnknownSender))
        .or_else(|| is_online().then_some(Preference::Online))
}

/// Returns the reason why a group message does not notify, if it is one and does not notify. The private messages of
/// occupants and invitations are not messages of a room.
fn ignored_room(preferences: &Preferences, event: &Event) -> Option<Preference> {
    if event.message.kind() != MessageType::Groupchat || event.room.is_some() {
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
/// which an unknown user becomes known.
fn ignores_sender(preferences: &Preferences, event: &Event) -> bool {
    let is_of_room = event.message.kind() == MessageType::Groupchat && event.room.is_none() || event.is_occupant;
    let is_request = matches!(event.kind, EventKind::Subscription(_));
    preferences.unknown == UnknownSenders::Ignore && event.sender_known == Some(false) && !is_of_room && !is_request
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
    if show == Show::All {
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
    let is_request =
        payload.get(Payload::PENDING_SUBSCRIPTION_COUNT).is_some() && payload.get(Payload::MESSAGE_COUNT).is_none();
    match payload.get(Payload::ROOM) {
        _ if is_request => policy.subscription_placeholder.clone(),
        Some(room) if show == Show::Sender => policy.invitation(room),
        Some(_) | None => policy.placeholder.clone(),
    }
}
