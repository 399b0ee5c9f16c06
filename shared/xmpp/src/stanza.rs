//! The three stanzas (RFC 6120, section 8), as far as a push server looks into them.

use std::borrow::Cow;

use crate::{Element, ns};

/// An element that is not the stanza it should be, and why. The sender's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidStanza(String);

fn check_is(element: &Element, name: &str) -> Result<(), InvalidStanza> {
    if element.name() != name {
        return Err(InvalidStanza(format!("expected <{name}/>, this is <{}/>", element.name())));
    }
    if !ns::STANZAS.contains(&element.namespace()) {
        return Err(InvalidStanza(format!("<{name}/> is in the namespace {:?}, not a stanza's", element.namespace())));
    }
    Ok(())
}

/// An IQ with what RFC 6120, section 8.2.3 demands: an id and a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iq {
    element: Element,
    kind: IqType,
    id: String,
}

/// The `type` of an IQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum IqType {
    Get,
    Set,
    Result,
    Error,
}

/// The condition of a stanza error (RFC 6120, section 8.3.3), of those that Pushlark answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The request is wrong; error type `modify`.
    BadRequest,
    /// There is something of this name already; error type `cancel`.
    Conflict,
    /// The device is known to be no more, as MongooseIM says it: `not-acceptable`; error type `cancel`.
    DeviceNotRegistered,
    /// There is no such feature; error type `cancel`.
    FeatureNotImplemented,
    /// The sender may not do this; error type `auth`.
    Forbidden,
    /// There is no such node; error type `cancel`.
    ItemNotFound,
    /// The published item is not a notification (XEP-0060, section 7.1.3.6): `bad-request`.
    InvalidPayload,
    /// A publish has no item (XEP-0060, section 7.1.3.5): `bad-request`.
    ItemRequired,
    /// A request names no node (XEP-0060, section 8.2.3.3): `bad-request`.
    NodeIdRequired,
    /// The name of a new node is empty (XEP-0060, section 8.1.2): `not-acceptable`; error type `modify`.
    NodeNameRequired,
    /// A node cannot be configured like this (XEP-0060, section 8.2.4.3); error type `modify`.
    NotAcceptable,
    /// No such request may be made; error type `cancel`.
    NotAllowed,
    /// A published item is empty (XEP-0060, section 7.1.3.5): `bad-request`.
    PayloadRequired,
    /// The publish options are not what the node demands (XEP-0060, section 7.1.5): `conflict`; error type `cancel`.
    PreconditionNotMet,
    /// Whoever would answer does not; error type `wait`.
    RemoteServerTimeout,
    /// The request may be repeated later; error type `wait`.
    ResourceConstraint,
    /// The service lacks this feature of XEP-0060, section 10: `feature-not-implemented`.
    Unsupported(&'static str),
}

impl Condition {
    /// The condition's name and the error's type.
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::BadRequest
            | Self::InvalidPayload
            | Self::ItemRequired
            | Self::NodeIdRequired
            | Self::PayloadRequired => ("bad-request", "modify"),
            Self::Conflict | Self::PreconditionNotMet => ("conflict", "cancel"),
            Self::DeviceNotRegistered => ("not-acceptable", "cancel"),
            Self::FeatureNotImplemented | Self::Unsupported(_) => ("feature-not-implemented", "cancel"),
            Self::Forbidden => ("forbidden", "auth"),
            Self::ItemNotFound => ("item-not-found", "cancel"),
            Self::NodeNameRequired | Self::NotAcceptable => ("not-acceptable", "modify"),
            Self::NotAllowed => ("not-allowed", "cancel"),
            Self::RemoteServerTimeout => ("remote-server-timeout", "wait"),
            Self::ResourceConstraint => ("resource-constraint", "wait"),
        }
    }

    /// The element that tells more, of the namespace `pubsub#errors`.
    fn detail(self) -> Option<Element> {
        let name = match self {
            Self::DeviceNotRegistered => "device-not-registered",
            Self::InvalidPayload => "invalid-payload",
            Self::ItemRequired => "item-required",
            Self::NodeIdRequired | Self::NodeNameRequired => "nodeid-required",
            Self::PayloadRequired => "payload-required",
            Self::PreconditionNotMet => "precondition-not-met",
            Self::Unsupported(feature) => {
                return Some(Element::new("unsupported", ns::PUBSUB_ERRORS).with_attribute("feature", feature));
            }
            Self::BadRequest
            | Self::Conflict
            | Self::FeatureNotImplemented
            | Self::Forbidden
            | Self::ItemNotFound
            | Self::NotAcceptable
            | Self::NotAllowed
            | Self::RemoteServerTimeout
            | Self::ResourceConstraint => return None,
        };
        Some(Element::new(name, ns::PUBSUB_ERRORS))
    }
}

/// What an answer of type `error` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaError {
    /// What may be done about it.
    pub kind: ErrorType,
    /// The condition's name.
    pub condition: String,
    /// What else is said of it.
    pub text: Option<String>,
}

/// The `type` of a stanza error (RFC 6120, section 8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// Try again with credentials.
    Auth,
    /// Do not try again.
    Cancel,
    /// It was only a warning.
    Continue,
    /// Try again with another request.
    Modify,
    /// Try again later.
    Wait,
}

impl Iq {
    /// Takes an element as an IQ.
    pub fn from_element(element: Element) -> Result<Self, InvalidStanza> {
        check_is(&element, "iq")?;
        let kind = match element.attribute("type") {
            Some("get") => IqType::Get,
            Some("set") => IqType::Set,
            Some("result") => IqType::Result,
            Some("error") => IqType::Error,
            other => return Err(InvalidStanza(format!("{:?} is not a type of an IQ", other.unwrap_or_default()))),
        };
        let id = element.attribute("id").ok_or_else(|| InvalidStanza("the IQ has no id".into()))?.to_owned();
        Ok(Self { element, kind, id })
    }

    /// The stanza itself.
    pub fn element(&self) -> &Element {
        &self.element
    }

    /// The type.
    pub fn kind(&self) -> IqType {
        self.kind
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The sender, as it was written.
    pub fn from(&self) -> Option<&str> {
        self.element.attribute("from")
    }

    /// Whom it is to, as it was written.
    pub fn to(&self) -> Option<&str> {
        self.element.attribute("to")
    }

    /// The request itself: the only child, of which a request has exactly one.
    pub fn payload(&self) -> Option<&Element> {
        let mut children = self.element.children();
        children.next().filter(|_| children.next().is_none())
    }

    /// The error in an answer of type `error`; `None` if it lacks one that can be understood.
    pub fn stanza_error(&self) -> Option<StanzaError> {
        let is_error = |child: &&Element| child.name() == "error" && ns::STANZAS.contains(&child.namespace());
        let error = self.element.children().find(is_error)?;
        let kind = match error.attribute("type")? {
            "auth" => ErrorType::Auth,
            "cancel" => ErrorType::Cancel,
            "continue" => ErrorType::Continue,
            "modify" => ErrorType::Modify,
            "wait" => ErrorType::Wait,
            _ => return None,
        };
        let of_stanzas = || error.children().filter(|child| child.namespace() == ns::STANZA_ERRORS);
        let condition = of_stanzas().map(Element::name).find(|name| *name != "text").unwrap_or("undefined-condition");
        let text = of_stanzas().find(|child| child.name() == "text").map(|text| text.text().into_owned());
        Some(StanzaError { kind, condition: condition.into(), text })
    }

    /// The empty result that answers this request.
    pub fn result(&self) -> Element {
        self.reply("result")
    }

    /// The result that answers this request, with a payload.
    pub fn result_with(&self, payload: Element) -> Element {
        self.result().with_child(payload)
    }

    /// The error that answers this request, with the request's payload in it.
    pub fn error(&self, condition: Condition, text: &str) -> Element {
        let (name, error_type) = condition.parts();
        let mut reply = self.reply("error");
        for payload in self.element.children() {
            reply = reply.with_child(payload.clone());
        }
        let error = Element::new("error", self.element.namespace())
            .with_attribute("type", error_type)
            .with_child(Element::new(name, ns::STANZA_ERRORS))
            .with_child(Element::new("text", ns::STANZA_ERRORS).with_text(text));
        reply.with_child(condition.detail().into_iter().fold(error, Element::with_child))
    }

    fn reply(&self, kind: &str) -> Element {
        let mut reply = Element::new("iq", self.element.namespace()).with_attribute("type", kind);
        for (attribute, source) in [("from", "to"), ("to", "from")] {
            if let Some(address) = self.element.attribute(source) {
                reply = reply.with_attribute(attribute, address);
            }
        }
        reply.with_attribute("id", &self.id)
    }
}

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
    /// The type as it is written.
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
    /// A message that has no more than a type and a body, as some webhooks give it.
    pub fn with_body(kind: MessageType, body: &str) -> Self {
        let message = Element::new("message", ns::CLIENT).with_attribute("type", kind.as_str());
        Self(message.with_child(Element::new("body", ns::CLIENT).with_text(body)))
    }

    /// Takes an element as a message.
    pub fn from_element(element: Element) -> Result<Self, InvalidStanza> {
        check_is(&element, "message")?;
        Ok(Self(element))
    }

    /// The stanza itself.
    pub fn element(&self) -> &Element {
        &self.0
    }

    /// The type; one that is missing or unknown is `normal`.
    pub fn kind(&self) -> MessageType {
        match self.0.attribute("type") {
            Some("chat") => MessageType::Chat,
            Some("groupchat") => MessageType::Groupchat,
            Some("headline") => MessageType::Headline,
            Some("error") => MessageType::Error,
            _ => MessageType::Normal,
        }
    }

    /// The text of the first `<body/>`.
    pub fn body(&self) -> Option<Cow<'_, str>> {
        let body = self.0.children().find(|c| c.name() == "body" && ns::STANZAS.contains(&c.namespace()))?;
        Some(body.text())
    }

    /// The body's text, unless there is nothing in it to read.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        self.body().filter(|body| !body.is_empty())
    }

    /// The ids that servers and rooms gave this message, each with who gave it: `(by, id)` (XEP-0359).
    pub fn stanza_ids(&self) -> impl Iterator<Item = (&str, &str)> {
        let ids = self.0.children().filter(|child| child.is("stanza-id", ns::STANZA_ID));
        ids.filter_map(|id| Some((id.attribute("by")?, id.attribute("id")?)))
    }
}

/// What the extensions that matter to a push server say of a message.
impl Message {
    /// Whether the message carries a processing hint.
    pub fn has_hint(&self, hint: Hint) -> bool {
        self.0.child(hint.as_str(), ns::HINTS).is_some()
    }

    /// The call that the message is about: the step's name, such as `propose`, and the session's id (XEP-0353).
    pub fn jingle_message(&self) -> Option<(&str, &str)> {
        let step = self.0.children().find(|child| child.namespace() == ns::JINGLE_MESSAGE)?;
        Some((step.name(), step.attribute("id")?))
    }

    /// Whether the sender tells by it how far the conversation is read (XEP-0333).
    pub fn is_displayed_marker(&self) -> bool {
        self.0.child("displayed", ns::CHAT_MARKERS).is_some()
    }

    /// Whether it corrects an earlier message (XEP-0308).
    pub fn is_correction(&self) -> bool {
        self.0.child("replace", ns::CORRECTION).is_some()
    }

    /// Whether it is a copy of what the user's own session sent or got (XEP-0280).
    pub fn is_carbon(&self) -> bool {
        ["sent", "received"].into_iter().any(|direction| self.0.child(direction, ns::CARBONS).is_some())
    }

    /// Whether the body, if there is one, only says that the message is encrypted (XEP-0380, XEP-0384, XEP-0373,
    /// XEP-0027).
    pub fn is_encrypted(&self) -> bool {
        let openpgp = [("openpgp", ns::OPENPGP), ("x", ns::LEGACY_OPENPGP)];
        self.0.child("encryption", ns::ENCRYPTION).is_some()
            || self.omemo().is_some()
            || openpgp.into_iter().any(|(name, namespace)| self.0.child(name, namespace).is_some())
    }

    /// Whether it carries a text that is encrypted by OMEMO, and not keys alone (XEP-0384, section 5.5).
    pub fn has_omemo_payload(&self) -> bool {
        self.omemo().is_some_and(|encrypted| encrypted.child("payload", encrypted.namespace()).is_some())
    }

    /// The URIs of those whom the text mentions (XEP-0372).
    pub fn mentions(&self) -> impl Iterator<Item = &str> {
        let references = self.0.children().filter(|child| child.is("reference", ns::REFERENCE));
        references.filter(|child| child.attribute("type") == Some("mention")).filter_map(|child| child.attribute("uri"))
    }

    /// Whether the sender calls it urgent: the header `Urgency` is `high` (XEP-0131, section 3).
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

/// What the sender wants to be done with a message (XEP-0334).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Store it, though it has no body.
    Store,
    /// Store it nowhere.
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

/// A presence stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence(Element);

/// What a presence says of the session that sent it (RFC 6121, section 4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceType {
    /// Available, with its priority.
    Available(i8),
    /// Unavailable.
    Unavailable,
    /// Of subscriptions, probes or errors: nothing about the session.
    Other,
}

impl Presence {
    /// Takes an element as a presence.
    pub fn from_element(element: Element) -> Result<Self, InvalidStanza> {
        check_is(&element, "presence")?;
        Ok(Self(element))
    }

    /// The stanza itself.
    pub fn element(&self) -> &Element {
        &self.0
    }

    /// The type, and the priority of one that is available (0 when it has none).
    pub fn kind(&self) -> Result<PresenceType, InvalidStanza> {
        match self.0.attribute("type") {
            None => {}
            Some("unavailable") => return Ok(PresenceType::Unavailable),
            Some(_) => return Ok(PresenceType::Other),
        }
        let priority = self.0.children().find(|c| c.name() == "priority" && ns::STANZAS.contains(&c.namespace()));
        let priority = priority.map_or(Ok(0), |priority| priority.text().trim().parse());
        let priority = priority.map_err(|_| InvalidStanza("priority is not a number from -128 to 127".into()))?;
        Ok(PresenceType::Available(priority))
    }
}
