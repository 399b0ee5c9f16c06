//! The facts of an event that conditions compare and templates show.

use std::cell::OnceCell;

use pushlark_plugin::{Event, EventKind};
use pushlark_xmpp::{BareJid, CallStep, Content, Element, Jid, MessageType, ns};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

/// The kind of an event, `kind` in a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A message with a content for people.
    Message,
    /// A call that starts (XEP-0353).
    Call,
    /// A call that was taken on another device, declined or ended.
    CallEnd,
    /// An invitation to a room (XEP-0045, XEP-0249).
    Invitation,
    /// A contact request (RFC 6121, section 3.1).
    Subscription,
    /// The user has read a conversation on another device.
    Read,
}

impl Kind {
    /// Returns the name of the kind in a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Call => "call",
            Self::CallEnd => "call_end",
            Self::Invitation => "invitation",
            Self::Subscription => "subscription",
            Self::Read => "read",
        }
    }
}

/// The type of a message, `type` in a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Chat {
    Chat,
    Groupchat,
}

/// The state of the `<body/>` of a message, `body` in a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyState {
    /// There is no `<body/>`.
    Absent,
    /// It has no character.
    Empty,
    /// It has a character, which may be a space.
    NonEmpty,
}

/// The source of an event, `event` in a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A message arrived for the user.
    Msg,
    /// A session did not acknowledge a message (XEP-0198).
    UnackMsg,
}

/// The facts of an event. A fact that an event does not have is `None`.
pub struct Facts<'e> {
    /// The kind; `None` for a message without a content for people and for a step of a call that notifies nobody.
    pub kind: Option<Kind>,
    /// The sender; of a conversation that was read, the other user or the room.
    pub from: Jid,
    /// The recipient: a session of an unacknowledged message, otherwise the user.
    pub to: Jid,
    /// The room of a group message, of a private message of an occupant, or of an invitation.
    pub room: Option<BareJid>,
    /// The time of the event.
    pub at: OffsetDateTime,
    /// The event; `None` if a conversation was read.
    pub event: Option<&'e Event>,
    /// Whether the message is encrypted.
    pub is_encrypted: bool,
    /// The time since the event. It is the only fact that changes with a retry.
    pub age: Duration,
    /// Whether the message mentions the recipient. A search in the text finds it, so it is done once.
    mentions: OnceCell<bool>,
}

impl<'e> Facts<'e> {
    /// Returns the facts of an event.
    pub fn of(event: &'e Event) -> Self {
        let content = event.message.content();
        let kind = match (&event.kind, event.message.call(), &content) {
            (EventKind::Subscription(_), ..) => Some(Kind::Subscription),
            (_, Some(call), _) => match call.step {
                CallStep::Propose => Some(Kind::Call),
                CallStep::Ringing => None,
                CallStep::Proceed | CallStep::Accept | CallStep::Reject | CallStep::Retract | CallStep::Finish => {
                    Some(Kind::CallEnd)
                }
            },
            (_, None, Ok(Content::Invitation(_))) => Some(Kind::Invitation),
            (_, None, Ok(_)) => Some(Kind::Message),
            (_, None, Err(_)) => None,
        };
        let to = match &event.kind {
            EventKind::Message(user) | EventKind::Subscription(user) => user.clone().into(),
            EventKind::Unacknowledged(session) => session.clone().into(),
        };
        let is_in_room = event.is_occupant || event.message.kind() == MessageType::Groupchat;
        let room = event.room.clone().or_else(|| is_in_room.then(|| event.from.to_bare()));
        let is_encrypted = content == Ok(Content::Encrypted);
        Self {
            kind,
            from: event.from.clone(),
            to,
            room,
            at: event.at,
            event: Some(event),
            is_encrypted,
            age: age(event.at),
            mentions: OnceCell::new(),
        }
    }

    /// Returns the facts of the news that `user` has read `conversation` on another device.
    pub fn of_read(user: &BareJid, conversation: &BareJid, at: OffsetDateTime) -> Self {
        Self {
            kind: Some(Kind::Read),
            from: conversation.clone().into(),
            to: user.clone().into(),
            room: Some(conversation.clone()),
            at,
            event: None,
            is_encrypted: false,
            age: age(at),
            mentions: OnceCell::new(),
        }
    }

    /// Returns the event, if it has a stanza.
    fn stanza_event(&self) -> Option<&'e Event> {
        self.event.filter(|event| !matches!(event.kind, EventKind::Subscription(_)))
    }

    /// Returns the event, if it is a message and no step of a call.
    pub fn message(&self) -> Option<&'e Event> {
        self.stanza_event().filter(|event| event.message.call().is_none())
    }

    /// Returns whether the message mentions the recipient.
    pub fn mentions(&self) -> Option<bool> {
        self.message().map(|event| *self.mentions.get_or_init(|| event.mentions(None)))
    }

    /// Returns the stanza.
    pub fn stanza(&self) -> Option<&'e Element> {
        self.stanza_event().map(|event| event.message.element())
    }

    /// Returns the source of the event.
    pub fn source(&self) -> Option<Source> {
        match self.event?.kind {
            EventKind::Message(_) => Some(Source::Msg),
            EventKind::Unacknowledged(_) => Some(Source::UnackMsg),
            EventKind::Subscription(_) => None,
        }
    }

    /// Returns the type of the stanza, if it is one that conditions can name.
    pub fn chat(&self) -> Option<Chat> {
        match self.stanza_event()?.message.kind() {
            MessageType::Chat => Some(Chat::Chat),
            MessageType::Groupchat => Some(Chat::Groupchat),
            MessageType::Normal | MessageType::Headline | MessageType::Error => None,
        }
    }

    /// Returns the state of the first `<body/>`, with white space.
    pub fn body(&self) -> Option<BodyState> {
        let is_body = |child: &&Element| child.name() == "body" && ns::STANZAS.contains(&child.namespace());
        Some(match self.stanza()?.children().find(is_body) {
            None => BodyState::Absent,
            Some(body) if body.text().is_empty() => BodyState::Empty,
            Some(_) => BodyState::NonEmpty,
        })
    }

    /// Returns whether the stanza has an element of XEP-0353, with or without an id.
    pub fn has_jingle(&self) -> Option<bool> {
        let mut children = self.stanza()?.children();
        Some(children.any(|child| child.namespace() == ns::JINGLE_MESSAGE_INITIATION))
    }
}

fn age(at: OffsetDateTime) -> Duration {
    OffsetDateTime::now_utc() - at
}
