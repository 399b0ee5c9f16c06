//! Publish-subscribe for push notifications (XEP-0060, XEP-0357).

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jid::{BareJid, DomainRef};

use crate::address::{Jid, parse_jid};
use crate::element::Element;
use crate::fallback::is_blank;
use crate::form::named_fields;
use crate::ns;
use crate::push::MAX_NODE_BYTES;
use crate::stanza::{Condition, Iq, IqType};

/// The most affiliations in one request.
const MAX_AFFILIATION_CHANGES: usize = 32;

/// A notification for a node of a real PubSub service (XEP-0357, section 7).
#[derive(Debug)]
pub struct PublishNotification<'p> {
    /// The id of the IQ, which its answer repeats.
    pub id: &'p str,
    /// The domain of the server that publishes.
    pub from: &'p DomainRef,
    /// The bare JID of the PubSub service.
    pub to: &'p BareJid,
    /// The name of the node at the service.
    pub node: &'p str,
    /// The content of the notification.
    pub content: PublishedContent<'p>,
    /// The priority, if the device is to know it.
    pub priority: Option<NotificationPriority>,
    /// The publish options. If there are none, `<publish-options/>` is omitted.
    pub options: &'p BTreeMap<String, String>,
}

/// The content of a published notification.
#[derive(Debug)]
pub enum PublishedContent<'p> {
    /// A summary that the PubSub service can read.
    Summary {
        /// The names and values of the fields, in order.
        fields: Vec<(&'p str, &'p str)>,
        /// The call that starts, if it is published as an element, too (`tigase:push:jingle:0`).
        call: Option<ProposedCall<'p>>,
    },
    /// A notification that only the device can read.
    Encrypted(EncryptedContent),
}

/// A call that starts.
#[derive(Debug)]
pub struct ProposedCall<'p> {
    /// The id of the Jingle session.
    pub sid: &'p str,
    /// The media, such as `audio`.
    pub media: Vec<&'p str>,
}

/// A notification that only the device can read (`tigase:push:encrypt:0`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedContent {
    /// The ciphertext and its tag, in base64.
    pub ciphertext: String,
    /// The nonce, in base64.
    pub iv: String,
    /// Whether it is about a call: the attribute `type` is `voip`.
    pub is_call: bool,
}

impl PublishNotification<'_> {
    /// Returns the IQ.
    pub fn to_iq(&self) -> Element {
        let pubsub = |name| Element::new(name, ns::PUBSUB);
        let mut notification = Element::new("notification", ns::PUSH);
        if let Some(priority) = self.priority {
            notification =
                notification.with_child(Element::new("priority", ns::TIGASE_PRIORITY).with_text(priority.as_str()));
        }
        notification = match &self.content {
            PublishedContent::Summary { fields, call } => {
                let summary = form("submit", ns::PUSH_SUMMARY, fields.iter().copied());
                call.iter().fold(notification.with_child(summary), |notification, call| {
                    notification.with_child(call.to_element())
                })
            }
            PublishedContent::Encrypted(encrypted) => notification.with_child(encrypted.to_element()),
        };
        let publish = pubsub("publish").with_attribute("node", self.node);
        let publish = publish.with_child(pubsub("item").with_child(notification));
        let mut payload = pubsub("pubsub").with_child(publish);
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            payload =
                payload.with_child(pubsub("publish-options").with_child(form("submit", ns::PUBLISH_OPTIONS, options)));
        }
        Element::new("iq", "")
            .with_attribute("type", "set")
            .with_attribute("id", self.id)
            .with_attribute("from", self.from.as_str())
            .with_attribute("to", self.to.as_str())
            .with_child(payload)
    }
}

impl ProposedCall<'_> {
    fn to_element(&self) -> Element {
        let jingle = |name| Element::new(name, ns::TIGASE_JINGLE);
        let element = jingle("jingle").with_attribute("action", "propose").with_attribute("sid", self.sid);
        self.media.iter().fold(element, |element, media| element.with_child(jingle("media").with_text(*media)))
    }
}

impl EncryptedContent {
    const CALL: &str = "voip";

    fn to_element(&self) -> Element {
        let element = Element::new("encrypted", ns::TIGASE_ENCRYPT).with_attribute("iv", self.iv.as_str());
        let element = if self.is_call { element.with_attribute("type", Self::CALL) } else { element };
        element.with_text(self.ciphertext.as_str())
    }

    /// Reads `<encrypted/>`. The base64 may have white space.
    fn of(element: &Element) -> Result<Self, PubSubRequestError> {
        let base64 = |name: &str, text: &str| {
            let text: String = text.split_ascii_whitespace().collect();
            let is_base64 = BASE64_STANDARD.decode(&text).is_ok_and(|bytes| !bytes.is_empty());
            let refusal = || invalid(Condition::InvalidPayload, format!("the {name} of <encrypted/> is not base64"));
            if is_base64 { Ok(text) } else { Err(refusal()) }
        };
        Ok(Self {
            ciphertext: base64("text", &element.text())?,
            iv: base64("iv", element.attribute("iv").unwrap_or_default())?,
            is_call: element.attribute("type") == Some(Self::CALL),
        })
    }
}

/// A request to a push node or to its service (XEP-0060; XEP-0357, sections 4 and 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PubSubRequest {
    /// The identity and features of the service or of a node.
    DiscoInfo {
        /// The name of the node; `None` for the service.
        node: Option<String>,
    },
    /// The items of the service or of a node. The list is always empty.
    DiscoItems {
        /// The name of the node; `None` for the service.
        node: Option<String>,
    },
    /// Creates a node (XEP-0060, section 8.1).
    Create {
        /// The name; `None` if the service chooses it.
        node: Option<String>,
        /// The configuration, as far as it is given.
        config: NodeConfig,
    },
    /// Reads the configuration of a node (XEP-0060, section 8.2).
    Configuration {
        /// The name of the node.
        node: String,
    },
    /// Changes the configuration of a node.
    Configure {
        /// The name of the node.
        node: String,
        /// The changed fields; `None` keeps a field.
        config: NodeConfig,
    },
    /// Reads the affiliations of a node.
    Affiliations {
        /// The name of the node.
        node: String,
    },
    /// Changes affiliations of a node.
    Affiliate {
        /// The name of the node.
        node: String,
        /// Each entity with its new affiliation; `None` removes it.
        changes: Vec<(BareJid, Option<Affiliation>)>,
    },
    /// Deletes a node (XEP-0060, section 8.4).
    Delete {
        /// The name of the node.
        node: String,
    },
    /// Publishes a notification to a node (XEP-0060, section 7.1).
    Publish {
        /// The name of the node.
        node: String,
        /// The published item, with its summary.
        item: PublishedItem,
        /// The publish options of this request.
        options: GivenOptions,
    },
}

/// The publish options of a request (XEP-0060, section 7.1.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenOptions {
    /// The request has no form.
    None,
    /// The fields of a submitted form that have one value, without FORM_TYPE.
    Submitted(BTreeMap<String, String>),
    /// A form that is not of type `submit`, or has another FORM_TYPE.
    NotSubmitted,
}

/// A notification that a server publishes. It may have no summary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishedItem {
    /// The item's id, if it has one.
    pub id: Option<String>,
    /// The summary's fields that have one value, without FORM_TYPE, in their order.
    pub summary: Vec<(String, String)>,
    /// The names of the summary's fields without a value, or with a blank one.
    pub without_value: Vec<String>,
    /// The encrypted notification, in place of a summary.
    pub encrypted: Option<EncryptedContent>,
    /// The priority (`tigase:push:priority:0`), if it has a known one.
    pub priority: Option<NotificationPriority>,
}

/// A node's configuration, as far as it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeConfig {
    /// The field `pubsub#access_model`.
    pub access_model: Option<AccessModel>,
    /// The field `pubsub#publish_model`.
    pub publish_model: Option<PublishModel>,
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $($(#[$variant_doc])* $variant),* }

        impl $type {
            /// Returns the value in a form or an attribute.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Parses the value in a form or an attribute; `None` for an unknown one.
            pub fn of(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

names! {
    /// The rights of an entity at a node (XEP-0060, section 4.1, as far as push nodes use them).
    Affiliation {
        /// May publish, configure and delete.
        Owner = "owner",
        /// May publish, and not configure.
        Publisher = "publisher",
        /// May publish. The same as `Publisher`, since nobody can subscribe.
        PublishOnly = "publish-only",
        /// May subscribe. Has no rights, since nobody can subscribe.
        Member = "member",
        /// Has no rights, even if the publish model is `open`.
        Outcast = "outcast",
    }
}

names! {
    /// The priority of a published notification (`tigase:push:priority:0`).
    NotificationPriority {
        /// It is about a text or a call.
        High = "high",
        /// The device may get it later.
        Low = "low",
    }
}

names! {
    /// The entities that may subscribe (XEP-0060, section 4.5). Nobody can, but servers and clients set it.
    AccessModel {
        /// Every entity.
        Open = "open",
        /// Members only.
        Whitelist = "whitelist",
        /// Entities that the owner approves.
        Authorize = "authorize",
    }
}

names! {
    /// The entities that may publish (XEP-0060, section 16.4.3).
    PublishModel {
        /// Every entity except outcasts.
        Open = "open",
        /// Owners, publishers and publish-only entities.
        Publishers = "publishers",
    }
}

/// An IQ that is not a valid request to a push node, with the error reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct PubSubRequestError {
    /// The condition of the error reply.
    pub condition: Condition,
    /// The text of the error reply.
    pub text: String,
}

impl TryFrom<&Iq> for PubSubRequest {
    type Error = PubSubRequestError;

    fn try_from(iq: &Iq) -> Result<Self, PubSubRequestError> {
        let payload = iq.payload().ok_or_else(|| bad("the IQ must have exactly one child"))?;
        let (name, namespace) = (payload.name(), payload.namespace());
        match (iq.kind(), name, namespace) {
            (IqType::Get, "query", ns::DISCO_INFO) => return Ok(Self::DiscoInfo { node: name_of(payload) }),
            (IqType::Get, "query", ns::DISCO_ITEMS) => return Ok(Self::DiscoItems { node: name_of(payload) }),
            (_, "pubsub", ns::PUBSUB | ns::PUBSUB_OWNER) => {}
            _ => {
                let text = format!("<{name} xmlns='{namespace}'/> is not a request to a push service");
                return Err(invalid(Condition::FeatureNotImplemented, text));
            }
        }
        let action = payload.children().next().ok_or_else(|| bad("<pubsub/> is empty"))?;
        let node = || match name_of(action) {
            Some(node) => Ok(node),
            None => Err(invalid(Condition::NodeIdRequired, "node is missing")),
        };
        match (iq.kind(), namespace, action.name()) {
            (IqType::Set, ns::PUBSUB, "create") => create(payload, action),
            (IqType::Set, ns::PUBSUB, "publish") => publish(payload, action, node()?),
            (IqType::Get, ns::PUBSUB_OWNER, "configure") => Ok(Self::Configuration { node: node()? }),
            (IqType::Set, ns::PUBSUB_OWNER, "configure") => {
                Ok(Self::Configure { node: node()?, config: NodeConfig::of(action)? })
            }
            (IqType::Get, ns::PUBSUB_OWNER, "affiliations") => Ok(Self::Affiliations { node: node()? }),
            (IqType::Set, ns::PUBSUB_OWNER, "affiliations") => {
                let changes = action.children().filter(|child| child.is("affiliation", ns::PUBSUB_OWNER));
                let changes: Vec<_> = changes.map(affiliation).collect::<Result<_, _>>()?;
                if changes.len() > MAX_AFFILIATION_CHANGES {
                    return Err(bad(format!("{} affiliations, {MAX_AFFILIATION_CHANGES} are allowed", changes.len())));
                }
                Ok(Self::Affiliate { node: node()?, changes })
            }
            (IqType::Set, ns::PUBSUB_OWNER, "delete") => Ok(Self::Delete { node: node()? }),
            (_, _, action) => {
                let text = format!("a push service has no <{action}/> in <pubsub xmlns='{namespace}'/>");
                let condition = feature_of(namespace, action).map(Condition::Unsupported);
                Err(invalid(condition.unwrap_or(Condition::FeatureNotImplemented), text))
            }
        }
    }
}

/// Returns the feature (XEP-0060, section 10) of an action that a push service does not support.
fn feature_of(namespace: &str, action: &str) -> Option<&'static str> {
    Some(match (namespace, action) {
        (ns::PUBSUB, "subscribe" | "unsubscribe") => "subscribe",
        (ns::PUBSUB, "options") => "subscription-options",
        (ns::PUBSUB, "items") => "retrieve-items",
        (ns::PUBSUB, "retract") | (ns::PUBSUB_OWNER, "purge") => "persistent-items",
        (ns::PUBSUB, "subscriptions") => "retrieve-subscriptions",
        (ns::PUBSUB, "affiliations") => "retrieve-affiliations",
        (ns::PUBSUB | ns::PUBSUB_OWNER, "default") => "retrieve-default",
        (ns::PUBSUB_OWNER, "subscriptions") => "manage-subscriptions",
        _ => return None,
    })
}

impl NodeConfig {
    /// Returns the configuration as a form of type `form` (XEP-0060, section 8.2.1).
    pub fn to_form(&self) -> Element {
        let models = [
            ("pubsub#access_model", self.access_model.map(AccessModel::as_str)),
            ("pubsub#publish_model", self.publish_model.map(PublishModel::as_str)),
        ];
        let fields = models.into_iter().filter_map(|(name, model)| Some((name, model?)));
        form("form", ns::NODE_CONFIG, fields)
    }

    /// Reads the form in `parent`, unless its type is `cancel`. Fields that have no meaning for a push node are
    /// ignored.
    fn of(parent: &Element) -> Result<Self, PubSubRequestError> {
        let x = parent.child("x", ns::DATA_FORMS).filter(|x| x.attribute("type") != Some("cancel"));
        let Some(x) = x else { return Ok(Self::default()) };
        let value = |name| {
            let (_, field) = named_fields(x).find(|(var, _)| *var == name)?;
            Some(field.child("value", ns::DATA_FORMS)?.text())
        };
        let unknown = |name, value: &str| {
            invalid(Condition::NotAcceptable, format!("the form's field {name:?} cannot be {value:?}"))
        };
        let mut config = Self::default();
        if let Some(model) = value("pubsub#access_model") {
            config.access_model = Some(AccessModel::of(&model).ok_or_else(|| unknown("pubsub#access_model", &model))?);
        }
        if let Some(model) = value("pubsub#publish_model") {
            config.publish_model =
                Some(PublishModel::of(&model).ok_or_else(|| unknown("pubsub#publish_model", &model))?);
        }
        Ok(config)
    }
}

fn create(pubsub: &Element, create: &Element) -> Result<PubSubRequest, PubSubRequestError> {
    if create.attribute("type").is_some_and(|kind| kind != "push" && kind != "leaf") {
        return Err(invalid(Condition::Unsupported("create-nodes"), "the type of a node is push"));
    }
    let node = match create.attribute("node") {
        Some("") => return Err(invalid(Condition::NodeNameRequired, "node is empty")),
        Some(node) if node.len() > MAX_NODE_BYTES => {
            return Err(bad(format!("node has {} bytes, {MAX_NODE_BYTES} are allowed", node.len())));
        }
        node => node.map(Into::into),
    };
    let config = match pubsub.child("configure", ns::PUBSUB) {
        Some(configure) => NodeConfig::of(configure)?,
        None => NodeConfig::default(),
    };
    Ok(PubSubRequest::Create { node, config })
}

fn publish(pubsub: &Element, publish: &Element, node: String) -> Result<PubSubRequest, PubSubRequestError> {
    let invalid_payload = |text| invalid(Condition::InvalidPayload, text);
    let mut items = publish.children().filter(|child| child.is("item", ns::PUBSUB));
    let item = items.next().ok_or_else(|| invalid(Condition::ItemRequired, "<publish/> has no <item/>"))?;
    if items.next().is_some() {
        return Err(invalid_payload("<publish/> has more than one <item/>"));
    }
    let mut payloads = item.children();
    let notification = match (payloads.next(), payloads.next()) {
        (Some(notification), None) if notification.is("notification", ns::PUSH) => notification,
        (None, _) => return Err(invalid(Condition::PayloadRequired, "<item/> is empty")),
        _ => return Err(invalid_payload("<item/> must have one child, <notification xmlns='urn:xmpp:push:0'/>")),
    };
    let mut published = PublishedItem { id: item.attribute("id").map(Into::into), ..PublishedItem::default() };
    let priority = notification.child("priority", ns::TIGASE_PRIORITY);
    published.priority = priority.and_then(|priority| NotificationPriority::of(priority.text().trim()));
    if let Some(encrypted) = notification.child("encrypted", ns::TIGASE_ENCRYPT) {
        // A summary beside it would tell the push service what is encrypted.
        published.encrypted = Some(EncryptedContent::of(encrypted)?);
    } else if let Some(x) = notification.child("x", ns::DATA_FORMS) {
        let FormFields { form_type, with_value, mut without_value } = FormFields::of(x);
        if form_type.is_some_and(|form_type| form_type != ns::PUSH_SUMMARY) {
            return Err(invalid_payload("the notification's FORM_TYPE must be urn:xmpp:push:summary"));
        }
        let (empty, summary) = with_value.into_iter().partition::<Vec<_>, _>(|(_, value)| is_blank(value));
        without_value.extend(empty.into_iter().map(|(name, _)| name));
        (published.summary, published.without_value) = (summary, without_value);
    }
    let options = match pubsub.child("publish-options", ns::PUBSUB).and_then(|o| o.child("x", ns::DATA_FORMS)) {
        None => GivenOptions::None,
        Some(x) => match FormFields::of(x) {
            FormFields { form_type: Some(form_type), with_value, .. }
                if x.attribute("type") == Some("submit") && form_type == ns::PUBLISH_OPTIONS =>
            {
                GivenOptions::Submitted(with_value.into_iter().collect())
            }
            _ => GivenOptions::NotSubmitted,
        },
    };
    Ok(PubSubRequest::Publish { node, item: published, options })
}

/// The fields of a form of any type. A field with several values, or that occurs several times, is ignored.
struct FormFields {
    form_type: Option<String>,
    /// The other fields, in their order.
    with_value: Vec<(String, String)>,
    without_value: Vec<String>,
}

impl FormFields {
    fn of(x: &Element) -> Self {
        let mut values: HashMap<&str, Vec<&Element>> = HashMap::new();
        let mut names = Vec::new();
        for (name, field) in named_fields(x) {
            let of_name = values.entry(name).or_insert_with(|| {
                names.push(name);
                Vec::new()
            });
            of_name.extend(field.children().filter(|child| child.is("value", ns::DATA_FORMS)));
        }
        let mut fields = Self { form_type: None, with_value: Vec::new(), without_value: Vec::new() };
        for name in names {
            match values[name][..] {
                [] => fields.without_value.push(name.to_owned()),
                [value] if name == "FORM_TYPE" => fields.form_type = Some(value.text().trim().to_owned()),
                [value] => fields.with_value.push((name.to_owned(), value.text().into_owned())),
                _ => {}
            }
        }
        fields
    }
}

fn affiliation(element: &Element) -> Result<(BareJid, Option<Affiliation>), PubSubRequestError> {
    let jid = element.attribute("jid").ok_or_else(|| bad("an affiliation has no jid"))?;
    let jid = parse_jid(jid).map(Jid::into_bare).map_err(|error| bad(format!("an affiliation's jid is {error}")))?;
    let name = element.attribute("affiliation").unwrap_or_default();
    match Affiliation::of(name) {
        None if name != "none" => Err(bad(format!("{name:?} is not an affiliation"))),
        affiliation => Ok((jid, affiliation)),
    }
}

/// Returns the name of the node in a request; `None` if it is missing or empty.
fn name_of(element: &Element) -> Option<String> {
    element.attribute("node").filter(|node| !node.is_empty()).map(Into::into)
}

fn invalid(condition: Condition, text: impl Into<String>) -> PubSubRequestError {
    PubSubRequestError { condition, text: text.into() }
}

fn bad(text: impl Into<String>) -> PubSubRequestError {
    invalid(Condition::BadRequest, text)
}

/// Returns a form (XEP-0004) of type `kind`.
fn form<'f>(kind: &str, form_type: &str, fields: impl Iterator<Item = (&'f str, &'f str)>) -> Element {
    let data = |name| Element::new(name, ns::DATA_FORMS);
    let field =
        |name: &str, value: &str| data("field").with_attribute("var", name).with_child(data("value").with_text(value));
    let form_type = field("FORM_TYPE", form_type).with_attribute("type", "hidden");
    let form = data("x").with_attribute("type", kind).with_child(form_type);
    fields.fold(form, |form, (name, value)| form.with_child(field(name, value)))
}
