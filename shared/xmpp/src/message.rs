//! Message stanzas, and the extensions that matter for push notifications.

use std::borrow::Cow;

use crate::element::Element;
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

    /// Returns the text of the first `<body/>`.
    pub fn body(&self) -> Option<Cow<'_, str>> {
        let body = self.0.children().find(|c| c.name() == "body" && ns::STANZAS.contains(&c.namespace()))?;
        Some(body.text())
    }

    /// Returns the text of the first `<body/>`, unless it is empty.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        self.body().filter(|body| !body.is_empty())
    }

    /// Returns the ids that servers and rooms assigned, as `(by, id)` (XEP-0359).
    pub fn stanza_ids(&self) -> impl Iterator<Item = (&str, &str)> {
        let ids = self.0.children().filter(|child| child.is("stanza-id", ns::STANZA_ID));
        ids.filter_map(|id| Some((id.attribute("by")?, id.attribute("id")?)))
    }
}

/// The extensions that matter for push notifications.
impl Message {
    /// Returns whether the message carries a processing hint.
    pub fn has_hint(&self, hint: Hint) -> bool {
        self.0.child(hint.as_str(), ns::HINTS).is_some()
    }

    /// Returns whether it has a displayed marker: the sender has read the conversation up to a message (XEP-0333).
    pub fn is_displayed_marker(&self) -> bool {
        self.0.child("displayed", ns::CHAT_MARKERS).is_some()
    }

    /// Returns whether it corrects an earlier message (XEP-0308).
    pub fn is_correction(&self) -> bool {
        self.0.child("replace", ns::CORRECTION).is_some()
    }

    /// Returns whether it is a carbon copy of a message of another session of the user (XEP-0280).
    pub fn is_carbon(&self) -> bool {
        ["sent", "received"].into_iter().any(|direction| self.0.child(direction, ns::CARBONS).is_some())
    }

    /// Returns whether the message is encrypted (XEP-0380, XEP-0384, XEP-0373, XEP-0027). Its body then has only a hint
    /// for clients without encryption.
    pub fn is_encrypted(&self) -> bool {
        let openpgp = [("openpgp", ns::OPENPGP), ("x", ns::LEGACY_OPENPGP)];
        self.0.child("encryption", ns::ENCRYPTION).is_some()
            || self.omemo().is_some()
            || openpgp.into_iter().any(|(name, namespace)| self.0.child(name, namespace).is_some())
    }

    /// Returns whether it has a text that is encrypted with OMEMO, not only keys (XEP-0384, section 5.5).
    pub fn has_omemo_payload(&self) -> bool {
        self.omemo().is_some_and(|encrypted| encrypted.child("payload", encrypted.namespace()).is_some())
    }

    /// Returns the URIs of the mentioned entities (XEP-0372).
    pub fn mentions(&self) -> impl Iterator<Item = &str> {
        let references = self.0.children().filter(|child| child.is("reference", ns::REFERENCE));
        references.filter(|child| child.attribute("type") == Some("mention")).filter_map(|child| child.attribute("uri"))
    }

    /// Returns whether the header `Urgency` is `high` (XEP-0131, section 3).
    pub fn is_urgent(&self) -> bool {
        let headers = self.0.children().filter(|child| child.is("headers", ns::HEADERS));
        headers
            .flat_map(Element::children)
            .any(|header| header.attribute("name") == Some("Urgency") && header.text().trim() == "high")
    }

    fn omemo(&self) -> Option<&Element> {
        ns::OMEMO.into_iter().find_map(|version| self.0.child("encrypted", version))
    }
}

/// A message processing hint (XEP-0334).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Store the message even without a body.
    Store,
    /// Do not store the message.
    NoStore,
}

impl Hint {
    fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::NoStore => "no-store",
        }
    }
}
