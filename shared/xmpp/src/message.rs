//! Message stanzas, and the extensions that matter for push notifications.

use std::borrow::Cow;

use crate::element::Element;
use crate::fallback::{is_blank, is_fallback, without_fallback};
use crate::ns;
use crate::stanza::{InvalidStanzaError, check_is};

/// A message stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Element);

/// The `type` of a message (RFC 6121, section 5.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MessageType {
    Chat,
    Groupchat,
    Normal,
    Headline,
    Error,
}

impl MessageType {
    /// Returns the value of the attribute `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Groupchat => "groupchat",
            Self::Normal => "normal",
            Self::Headline => "headline",
            Self::Error => "error",
        }
    }
}

impl Message {
    /// Creates a message without any content.
    pub fn empty() -> Self {
        Self(Element::new("message", ns::CLIENT))
    }

    /// Creates a message with only a type and a body, as in some webhooks.
    pub fn with_body(kind: MessageType, body: &str) -> Self {
        let message = Element::new("message", ns::CLIENT).with_attribute("type", kind.as_str());
        Self(message.with_child(Element::new("body", ns::CLIENT).with_text(body)))
    }

    /// Checks that an element is a message.
    pub fn from_element(element: Element) -> Result<Self, InvalidStanzaError> {
        check_is(&element, "message")?;
        Ok(Self(element))
    }

    /// Returns the whole stanza.
    pub fn element(&self) -> &Element {
        &self.0
    }

    /// Returns the type; `normal` if it is missing or unknown.
    pub fn kind(&self) -> MessageType {
        match self.0.attribute("type") {
            Some("chat") => MessageType::Chat,
            Some("groupchat") => MessageType::Groupchat,
            Some("headline") => MessageType::Headline,
            Some("error") => MessageType::Error,
            _ => MessageType::Normal,
        }
    }

    /// Returns the text of the `<body/>` that is for everybody: of several, one without `xml:lang` that is not blank,
    /// or else the first that is not blank (RFC 6121, section 5.2.3).
    pub fn body(&self) -> Option<Cow<'_, str>> {
        body_of(self.0.children().filter(|child| child.name() == "body" && ns::STANZAS.contains(&child.namespace())))
    }

    /// Returns the body without the parts that stand for other elements (XEP-0428), unless the rest is blank.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        let body = self.body()?;
        let fallbacks: Vec<_> = self.0.children().filter(|child| is_fallback(child)).collect();
        let text = if fallbacks.is_empty() { body } else { without_fallback(body, &fallbacks) };
        (!is_blank(&text)).then_some(text)
    }

    /// Returns the ids that servers and rooms assigned, as `(by, id)` (XEP-0359).
    pub fn stanza_ids(&self) -> impl Iterator<Item = (&str, &str)> {
        let ids = self.0.children().filter(|child| child.is("stanza-id", ns::STANZA_ID));
        ids.filter_map(|id| Some((id.attribute("by")?, id.attribute("id")?)))
    }
}

/// The extensions that matter for push notifications.
impl Message {
    /// Returns whether it has the hint `no-store`: nobody may store it (XEP-0334).
    pub fn forbids_storage(&self) -> bool {
        self.0.child("no-store", ns::HINTS).is_some()
    }

    /// Returns the delays in it, as `(by, stamp)` (XEP-0203; XEP-0091).
    pub fn delays(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_delay = |child: &&Element| child.is("delay", ns::DELAY) || child.is("x", ns::LEGACY_DELAY);
        let delays = self.0.children().filter(is_delay);
        delays.filter_map(|delay| Some((delay.attribute("from")?, delay.attribute("stamp")?)))
    }

    /// Returns the participant of a MIX channel who sent it. The sender of the stanza may have invented it, unless it is
    /// a channel.
    pub fn mix_participant(&self) -> Option<MixParticipant<'_>> {
        let participant = self.0.child("mix", ns::MIX)?;
        let text = |name| participant.child(name, ns::MIX).map(Element::text).filter(|text| !is_blank(text));
        Some(MixParticipant { nick: text("nick"), jid: text("jid") })
    }

    /// Returns whether it is marked as a private message of a room's occupant (XEP-0045, section 7.5).
    pub fn is_private_of_occupant(&self) -> bool {
        self.0.child("x", ns::MUC_USER).is_some_and(|x| !x.children().any(|c| matches!(c.name(), "invite" | "decline")))
    }

    /// Returns the messages of a room that it wraps for a subscriber of the room (ejabberd's MUC/Sub), in order, each
    /// with the id of its item.
    pub fn subscribed_messages(&self) -> impl Iterator<Item = (Option<&str>, &Element)> {
        self.items_of(ns::MUCSUB_MESSAGES).flat_map(|item| {
            let messages = item.children().filter(|child| child.is("message", ns::CLIENT));
            messages.map(move |message| (item.attribute("id"), message))
        })
    }

    /// Returns the items of `node` that it tells (XEP-0060, section 7.1.2), in order.
    pub(crate) fn items_of(&self, node: &str) -> impl Iterator<Item = &Element> {
        let items = self.0.child("event", ns::PUBSUB_EVENT).and_then(|event| event.child("items", ns::PUBSUB_EVENT));
        let items = items.filter(|items| items.attribute("node") == Some(node));
        items.into_iter().flat_map(Element::children).filter(|item| item.is("item", ns::PUBSUB_EVENT))
    }

    /// Returns the message in a carbon copy of a message that another session of the user has sent (XEP-0280). The
    /// caller must check that the user's own account sends the copy.
    pub fn sent_copy(&self) -> Option<Message> {
        let forwarded = self.0.child("sent", ns::CARBONS)?.child("forwarded", ns::FORWARD)?;
        forwarded.children().find_map(|child| Self::from_element(Element::clone(child)).ok())
    }

    /// Returns whether it is a carbon copy of a message of another session of the user (XEP-0280).
    pub fn is_carbon(&self) -> bool {
        ["sent", "received"].into_iter().any(|direction| self.0.child(direction, ns::CARBONS).is_some())
    }

    /// Returns the mentioned entities: URIs (XEP-0372), and the JIDs of explicit mentions (XEP-0513) that are of one
    /// entity and ask for a notification.
    pub fn mentions(&self) -> impl Iterator<Item = &str> {
        self.0.children().filter_map(|child| match (child.namespace(), child.name()) {
            (ns::REFERENCE, "reference") if child.attribute("type") == Some("mention") => child.attribute("uri"),
            (ns::MENTIONS, "mention") if child.attribute("mentions").is_none() => {
                child.attribute("jid").filter(|_| child.child("noping", ns::MENTIONS).is_none())
            }
            _ => None,
        })
    }

    /// Returns whether the header `Urgency` is `high` (XEP-0131, section 3).
    pub fn is_urgent(&self) -> bool {
        let headers = self.0.children().filter(|child| child.is("headers", ns::HEADERS));
        headers
            .flat_map(Element::children)
            .any(|header| header.attribute("name") == Some("Urgency") && header.text().trim() == "high")
    }
}

/// Returns the text for everybody of elements with the same text in several languages.
pub fn body_of<'m>(mut texts: impl Iterator<Item = &'m Element>) -> Option<Cow<'m, str>> {
    let first = texts.next()?;
    let Some(second) = texts.next() else { return Some(first.text()) };
    let texts = [first, second].into_iter().chain(texts).map(|element| (element.lang().is_some(), element.text()));
    texts.min_by_key(|(has_lang, text)| (is_blank(text), *has_lang)).map(|(_, text)| text)
}

/// The participant of a MIX channel who sent a message (XEP-0369, section 7.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MixParticipant<'m> {
    /// The nick, unless it is blank.
    pub nick: Option<Cow<'m, str>>,
    /// The bare JID, not normalised. A channel may keep it secret.
    pub jid: Option<Cow<'m, str>>,
}
