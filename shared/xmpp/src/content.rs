//! The content of a message for people, or the reason why it has none.

use std::borrow::Cow;

use crate::element::Element;
use crate::fallback::is_blank;
use crate::message::{Message, MessageType, body_of};
use crate::ns;

/// The content of a message, of which its recipient may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'m> {
    /// A text, without the parts that stand for other elements (XEP-0428). It is not blank.
    Text(Cow<'m, str>),
    /// A text that is shown only on demand, with the sender's hint, if there is one (XEP-0382).
    Spoiler(Option<Cow<'m, str>>),
    /// An encrypted text. A body only has a hint for clients without encryption.
    Encrypted,
    /// An invitation to a room ([`Message::invitation`]), with its body if everybody may see it, or else its reason.
    Invitation(Option<Cow<'m, str>>),
}

/// The reason why a message does not notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum NoContent {
    /// The type is `headline` or `error`.
    Type,
    /// A copy of a message of another session of the user (XEP-0280).
    Carbon,
    /// A step of a call (XEP-0353). A body beside it is a fallback.
    Call,
    /// It corrects an earlier message (XEP-0308).
    Correction,
    /// A reaction to an earlier message (XEP-0444).
    Reaction,
    /// It removes an earlier message (XEP-0424, XEP-0425).
    Retraction,
    /// It changes an earlier message in another way (XEP-0422).
    Fastening,
    /// It only has keys for the encryption of other messages (XEP-0384, section 5.5).
    KeyTransport,
    /// It has no body.
    NoBody,
    /// Its body shows nothing: it is blank, or only stands for another element.
    NoText,
}

impl NoContent {
    /// Returns the code of the reason, for log lines.
    pub fn code(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Carbon => "carbon",
            Self::Call => "call",
            Self::Correction => "correction",
            Self::Reaction => "reaction",
            Self::Retraction => "retraction",
            Self::Fastening => "fastening",
            Self::KeyTransport => "key-transport",
            Self::NoBody => "no-body",
            Self::NoText => "no-text",
        }
    }

    /// Returns the reason as a sentence without a full stop.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Type => "messages of the types headline and error do not notify",
            Self::Carbon => "the message is a carbon",
            Self::Call => "the message is a step of a call",
            Self::Correction => "the message corrects an earlier one",
            Self::Reaction => "the message is a reaction to an earlier one",
            Self::Retraction => "the message retracts an earlier one",
            Self::Fastening => "the message is fastened to an earlier one",
            Self::KeyTransport => "the message only has keys",
            Self::NoBody => "the message has no body",
            Self::NoText => "the message has no text",
        }
    }
}

impl Message {
    /// Returns the content for people, or the reason why there is none. The content of a message that is about an
    /// earlier one is nothing, whatever its body is.
    pub fn content(&self) -> Result<Content<'_>, NoContent> {
        if matches!(self.kind(), MessageType::Headline | MessageType::Error) {
            return Err(NoContent::Type);
        }
        let mut parts = Parts::default();
        for child in self.element().children() {
            parts.add(child)?;
        }
        parts.content(self)
    }
}

/// The children of a message that decide about its content.
#[derive(Default)]
struct Parts<'m> {
    has_body: bool,
    spoilers: Vec<&'m Element>,
    /// Whether an OMEMO element has a payload; `None` without an element.
    omemo_payload: Option<bool>,
    /// Whether there is an OpenPGP element.
    is_openpgp: bool,
    /// The element that names the encryption (XEP-0380).
    encryption: Option<&'m Element>,
    has_invitation: bool,
    /// Whether there is an element of a call.
    has_call: bool,
}

impl<'m> Parts<'m> {
    fn add(&mut self, child: &'m Element) -> Result<(), NoContent> {
        match (child.namespace(), child.name()) {
            (namespace, "body") if ns::STANZAS.contains(&namespace) => self.has_body = true,
            (ns::CARBONS, "sent" | "received") => return Err(NoContent::Carbon),
            (ns::JINGLE_MESSAGE_INITIATION, _) => self.has_call = true,
            (ns::CORRECTION, "replace") => return Err(NoContent::Correction),
            (ns::REACTIONS, "reactions") => return Err(NoContent::Reaction),
            (ns::RETRACTION | ns::RETRACTION_0, "retract" | "retracted")
            | (ns::MODERATION | ns::MODERATION_0, "moderated") => return Err(NoContent::Retraction),
            (ns::FASTENING, "apply-to") => {
                let is_retraction = |fastened: &Element| {
                    [ns::RETRACTION_0, ns::RETRACTION, ns::MODERATION_0].contains(&fastened.namespace())
                };
                let retracts = child.children().any(is_retraction);
                return Err(if retracts { NoContent::Retraction } else { NoContent::Fastening });
            }
            (ns::SPOILER, "spoiler") => self.spoilers.push(child),
            (ns::MUC_USER | ns::CONFERENCE, "x") => self.has_invitation = true,
            (ns::OPENPGP, "openpgp") | (ns::LEGACY_OPENPGP, "x") => self.is_openpgp = true,
            (ns::ENCRYPTION, "encryption") => self.encryption = Some(child),
            (namespace, "encrypted") if ns::OMEMO.contains(&namespace) => {
                let has_payload = child.child("payload", namespace).is_some();
                self.omemo_payload = Some(has_payload || self.omemo_payload == Some(true));
            }
            _ => {}
        }
        Ok(())
    }

    fn content(self, message: &'m Message) -> Result<Content<'m>, NoContent> {
        if self.has_call && message.call().is_some() {
            return Err(NoContent::Call);
        }
        let text = message.text();
        let is_encrypted =
            self.omemo_payload.is_some() || self.is_openpgp || self.names_encryption(message, text.is_some());
        if self.has_invitation
            && let Some(invitation) = message.invitation()
        {
            let is_hidden = is_encrypted || !self.spoilers.is_empty();
            return Ok(Content::Invitation(text.filter(|_| !is_hidden).or(invitation.reason)));
        }
        match text {
            _ if self.omemo_payload == Some(false) => Err(NoContent::KeyTransport),
            _ if is_encrypted => Ok(Content::Encrypted),
            None if self.has_body => Err(NoContent::NoText),
            None => Err(NoContent::NoBody),
            Some(_) if !self.spoilers.is_empty() => Ok(Content::Spoiler(self.hint())),
            Some(text) => Ok(Content::Text(text)),
        }
    }

    fn hint(&self) -> Option<Cow<'m, str>> {
        body_of(self.spoilers.iter().copied()).filter(|hint| !is_blank(hint))
    }

    /// Returns whether the message names its encryption (XEP-0380) and has something encrypted: a body, or an element
    /// of the named namespace.
    fn names_encryption(&self, message: &Message, has_text: bool) -> bool {
        self.encryption.is_some_and(|encryption| {
            let namespace = encryption.attribute("namespace").unwrap_or_default();
            has_text || message.element().children().any(|child| child.namespace() == namespace)
        })
    }
}
