//! The three stanzas (RFC 6120, section 8), as far as a push server reads them.

use crate::element::Element;
use crate::ns;

/// An element that is not the expected stanza. The sender must correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidStanzaError(String);

/// Checks that an element is the stanza `name`.
pub fn check_is(element: &Element, name: &str) -> Result<(), InvalidStanzaError> {
    if element.name() != name {
        return Err(InvalidStanzaError(format!("expected <{name}/>, this is <{}/>", element.name())));
    }
    if !ns::STANZAS.contains(&element.namespace()) {
        return Err(InvalidStanzaError(format!(
            "<{name}/> is in the namespace {:?}, not a stanza's",
            element.namespace()
        )));
    }
    Ok(())
}

/// An IQ, which has an id and a type (RFC 6120, section 8.2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iq {
    element: Element,
    kind: IqType,
    id: String,
}

/// The `type` of an IQ (RFC 6120, section 8.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum IqType {
    Get,
    Set,
    Result,
    Error,
}

/// The condition of a stanza error that Pushlark sends (RFC 6120, section 8.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The request is wrong; error type `modify`.
    BadRequest,
    /// The name is already in use; error type `cancel`.
    Conflict,
    /// The push service reported the device as gone, as in MongooseIM: `not-acceptable`; error type `cancel`.
    DeviceNotRegistered,
    /// The feature is not implemented; error type `cancel`.
    FeatureNotImplemented,
    /// The sender may not do this; error type `auth`.
    Forbidden,
    /// The node does not exist; error type `cancel`.
    ItemNotFound,
    /// The published item is not a notification (XEP-0060, section 7.1.3.6): `bad-request`.
    InvalidPayload,
    /// A publish has no item (XEP-0060, section 7.1.3.5): `bad-request`.
    ItemRequired,
    /// A request names no node (XEP-0060, section 8.2.3.3): `bad-request`.
    NodeIdRequired,
    /// The name of a new node is empty (XEP-0060, section 8.1.2): `not-acceptable`; error type `modify`.
    NodeNameRequired,
    /// The configuration of a node is not supported (XEP-0060, section 8.2.4.3); error type `modify`.
    NotAcceptable,
    /// Nobody may send this request; error type `cancel`.
    NotAllowed,
    /// A published item is empty (XEP-0060, section 7.1.3.5): `bad-request`.
    PayloadRequired,
    /// The publish options do not meet the node's preconditions (XEP-0060, section 7.1.5): `conflict`; error type
    /// `cancel`.
    PreconditionNotMet,
    /// The service behind the component did not answer; error type `wait`.
    RemoteServerTimeout,
    /// The request may be retried later; error type `wait`.
    ResourceConstraint,
    /// The service does not support this feature of XEP-0060, section 10: `feature-not-implemented`.
    Unsupported(&'static str),
}

impl Condition {
    /// The name of the condition and the type of the error.
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

    /// The PubSub-specific condition, in the namespace `pubsub#errors`.
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

/// The error in a reply of type `error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaError {
    /// The type, which shows whether a retry can succeed.
    pub kind: ErrorType,
    /// The name of the condition.
    pub condition: String,
    /// The text for humans (RFC 6120, section 8.3.2).
    pub text: Option<String>,
}

/// The `type` of a stanza error (RFC 6120, section 8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// Retry with credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// A warning; the sender may proceed.
    Continue,
    /// Retry with another request.
    Modify,
    /// Retry later.
    Wait,
}

impl Iq {
    /// Checks that an element is an IQ with an id and a known type.
    pub fn from_element(element: Element) -> Result<Self, InvalidStanzaError> {
        check_is(&element, "iq")?;
        let kind = match element.attribute("type") {
            Some("get") => IqType::Get,
            Some("set") => IqType::Set,
            Some("result") => IqType::Result,
            Some("error") => IqType::Error,
            other => return Err(InvalidStanzaError(format!("{:?} is not a type of an IQ", other.unwrap_or_default()))),
        };
        let id = element.attribute("id").ok_or_else(|| InvalidStanzaError("the IQ has no id".into()))?.to_owned();
        Ok(Self { element, kind, id })
    }

    /// Returns the whole stanza.
    pub fn element(&self) -> &Element {
        &self.element
    }

    /// Returns the attribute `type`.
    pub fn kind(&self) -> IqType {
        self.kind
    }

    /// Returns the attribute `id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the attribute `from`, not normalised.
    pub fn from(&self) -> Option<&str> {
        self.element.attribute("from")
    }

    /// Returns the attribute `to`, not normalised.
    pub fn to(&self) -> Option<&str> {
        self.element.attribute("to")
    }

    /// Returns the payload of a request, which is its only child. `None` if there is not exactly one child.
    pub fn payload(&self) -> Option<&Element> {
        let mut children = self.element.children();
        children.next().filter(|_| children.next().is_none())
    }

    /// Returns the error in a reply of type `error`; `None` if there is none of a known type.
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

    /// Returns the empty result for this request.
    pub fn result(&self) -> Element {
        self.reply("result")
    }

    /// Returns the result for this request, with a payload.
    pub fn result_with(&self, payload: Element) -> Element {
        self.result().with_child(payload)
    }

    /// Returns the error reply to this request. It contains the payload of the request.
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

/// A presence stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence(Element);

/// The type of a presence, with regard to the session that sent it (RFC 6121, section 4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceType {
    /// Available, with the priority, -128 to 127.
    Available(i8),
    /// Not available any more.
    Unavailable,
    /// A request to subscribe to the presence of the addressee (RFC 6121, section 3.1).
    Subscribe,
    /// The answer to a request, a probe or an error, not about the session.
    Other,
}

impl Presence {
    /// Checks that an element is a presence.
    pub fn from_element(element: Element) -> Result<Self, InvalidStanzaError> {
        check_is(&element, "presence")?;
        Ok(Self(element))
    }

    /// Returns the whole stanza.
    pub fn element(&self) -> &Element {
        &self.0
    }

    /// Returns the type, with the priority if it is available (0 if there is none).
    pub fn kind(&self) -> Result<PresenceType, InvalidStanzaError> {
        match self.0.attribute("type") {
            None => {}
            Some("unavailable") => return Ok(PresenceType::Unavailable),
            Some("subscribe") => return Ok(PresenceType::Subscribe),
            Some(_) => return Ok(PresenceType::Other),
        }
        let priority = self.child("priority").map_or(Ok(0), |priority| priority.text().trim().parse());
        let priority = priority.map_err(|_| InvalidStanzaError("priority is not a number from -128 to 127".into()))?;
        Ok(PresenceType::Available(priority))
    }

    /// Returns whether its `<show/>` says that the user is away: `away`, `xa` or `dnd` (RFC 6121, section 4.7.2.1). An
    /// unknown value says nothing.
    pub fn is_away(&self) -> bool {
        self.child("show").is_some_and(|show| matches!(show.text().trim(), "away" | "xa" | "dnd"))
    }

    fn child(&self, name: &str) -> Option<&Element> {
        self.0.children().find(|child| child.name() == name && ns::STANZAS.contains(&child.namespace()))
    }
}
