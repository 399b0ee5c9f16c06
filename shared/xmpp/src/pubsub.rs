//! Publish-subscribe as push notifications use it (XEP-0060, XEP-0357).

use std::collections::{BTreeMap, HashSet};

use crate::{BareJid, DomainRef, Element, Iq, IqType, Jid, MAX_NODE_BYTES, ns, parse_jid};

/// The most affiliations that one request sets.
const MAX_AFFILIATIONS: usize = 32;

/// A notification on its way to a node of a real PubSub service (XEP-0357, section 7).
#[derive(Debug, Clone, Copy)]
pub struct PublishNotification<'p> {
    /// The IQ's id.
    pub id: &'p str,
    /// The server that publishes.
    pub from: &'p DomainRef,
    /// The PubSub service.
    pub to: &'p BareJid,
    /// The node there.
    pub node: &'p str,
    /// The publish options; without any the element is left out.
    pub options: &'p BTreeMap<String, String>,
}

impl PublishNotification<'_> {
    /// The IQ, with these fields as the summary, in their order.
    pub fn to_iq<'f>(&self, summary: impl Iterator<Item = (&'f str, &'f str)>) -> Element {
        let pubsub = |name| Element::new(name, ns::PUBSUB);
        let notification = Element::new("notification", ns::PUSH).with_child(form("submit", ns::PUSH_SUMMARY, summary));
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

/// What a push node is asked (XEP-0060; XEP-0357, sections 4 and 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PubSubRequest {
    /// What the service, or the node, is.
    DiscoInfo {
        /// The node, if it is asked of one.
        node: Option<String>,
    },
    /// To create a node; without a name, one of the service's choice.
    Create {
        /// Its name.
        node: Option<String>,
        /// What of its configuration is given.
        config: NodeConfig,
    },
    /// How a node is configured.
    Configuration {
        /// The node.
        node: String,
    },
    /// To configure a node.
    Configure {
        /// The node.
        node: String,
        /// What is to change.
        config: NodeConfig,
    },
    /// The affiliations of a node.
    Affiliations {
        /// The node.
        node: String,
    },
    /// To change affiliations of a node.
    Affiliate {
        /// The node.
        node: String,
        /// Of whom; `None` ends one.
        changes: Vec<(BareJid, Option<Affiliation>)>,
    },
    /// To delete a node.
    Delete {
        /// The node.
        node: String,
    },
    /// To publish to a node.
    Publish {
        /// The node; empty when there is none, as from a client that enabled without one.
        node: String,
        /// What is published.
        item: PublishedItem,
        /// The publish options.
        options: GivenOptions,
    },
}

/// Publish options as they came (XEP-0060, section 7.1.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenOptions {
    /// There were none.
    None,
    /// Without FORM_TYPE, and without fields that have no value.
    Submitted(BTreeMap<String, String>),
    /// No such form as they must be, and why.
    Malformed(String),
}

/// A notification as servers publish it: with a summary of any shape, or empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishedItem {
    /// The item's id, if it has one.
    pub id: Option<String>,
    /// The summary's fields that have a value, without FORM_TYPE, in their order.
    pub summary: Vec<(String, String)>,
    /// The names of its fields without a value.
    pub without_value: Vec<String>,
}

/// A node's configuration, as far as it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeConfig {
    /// `pubsub#access_model`
    pub access_model: Option<AccessModel>,
    /// `pubsub#publish_model`
    pub publish_model: Option<PublishModel>,
}

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $($(#[$variant_doc])* $variant),* }

        impl $type {
            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// As it was written, if there is such a one.
            pub fn of(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

names! {
    /// What somebody may do with a node (XEP-0060, section 4.1, of which a push node has use).
    Affiliation {
        /// Everything.
        Owner = "owner",
        /// Publish.
        Publisher = "publisher",
        /// Publish, and no more.
        PublishOnly = "publish-only",
        /// Subscribe, which nobody can: nothing.
        Member = "member",
        /// Nothing, even where all others may.
        Outcast = "outcast",
    }
}

names! {
    /// Who may subscribe; nobody can, but servers and clients ask for it.
    AccessModel {
        /// Anybody.
        Open = "open",
        /// Members.
        Whitelist = "whitelist",
        /// Those whom the owner approves.
        Authorize = "authorize",
    }
}

names! {
    /// Who may publish.
    PublishModel {
        /// Anybody but outcasts.
        Open = "open",
        /// Owners and publishers.
        Publishers = "publishers",
    }
}

/// Why an IQ is no request that a push node can answer; the sender's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPubSub {
    /// The request is wrong, and how: `bad-request`.
    #[error("{0}")]
    BadRequest(String),
    /// A push service has no such feature: `feature-not-implemented`.
    #[error("{0} is not what a push service does")]
    Unsupported(String),
}

impl TryFrom<&Iq> for PubSubRequest {
    type Error = InvalidPubSub;

    fn try_from(iq: &Iq) -> Result<Self, InvalidPubSub> {
        let payload = iq.payload().ok_or_else(|| bad("the IQ must have exactly one child"))?;
        if payload.is("query", ns::DISCO_INFO) && iq.kind() == IqType::Get {
            return Ok(Self::DiscoInfo { node: payload.attribute("node").map(Into::into) });
        }
        let (name, namespace) = (payload.name(), payload.namespace());
        if name != "pubsub" || !matches!(namespace, ns::PUBSUB | ns::PUBSUB_OWNER) {
            return Err(InvalidPubSub::Unsupported(format!("<{name} xmlns='{namespace}'/>")));
        }
        let action = payload.children().next().ok_or_else(|| bad("<pubsub/> is empty"))?;
        let node = || match node_of(action)? {
            Some(node) => Ok(node),
            None => Err(bad("node is missing")),
        };
        match (iq.kind(), namespace, action.name()) {
            (IqType::Set, ns::PUBSUB, "create") => {
                if action.attribute("type").is_some_and(|kind| kind != "push" && kind != "leaf") {
                    return Err(bad("the type of a node here is push"));
                }
                let config = match payload.child("configure", ns::PUBSUB) {
                    Some(configure) => NodeConfig::of(configure)?,
                    None => NodeConfig::default(),
                };
                Ok(Self::Create { node: node_of(action)?, config })
            }
            (IqType::Set, ns::PUBSUB, "publish") => publish(payload, action),
            (IqType::Get, ns::PUBSUB_OWNER, "configure") => Ok(Self::Configuration { node: node()? }),
            (IqType::Set, ns::PUBSUB_OWNER, "configure") => {
                Ok(Self::Configure { node: node()?, config: NodeConfig::of(action)? })
            }
            (IqType::Get, ns::PUBSUB_OWNER, "affiliations") => Ok(Self::Affiliations { node: node()? }),
            (IqType::Set, ns::PUBSUB_OWNER, "affiliations") => {
                let changes = action.children().filter(|child| child.is("affiliation", ns::PUBSUB_OWNER));
                let changes: Vec<_> = changes.map(affiliation).collect::<Result<_, _>>()?;
                if changes.len() > MAX_AFFILIATIONS {
                    return Err(bad(format!("{} affiliations, {MAX_AFFILIATIONS} are allowed", changes.len())));
                }
                Ok(Self::Affiliate { node: node()?, changes })
            }
            (IqType::Set, ns::PUBSUB_OWNER, "delete") => Ok(Self::Delete { node: node()? }),
            (_, _, other) => Err(InvalidPubSub::Unsupported(format!("<{other}/> in <pubsub xmlns='{namespace}'/>"))),
        }
    }
}

impl NodeConfig {
    /// The configuration as the result form that a client reads (XEP-0060, section 8.2.1).
    pub fn to_form(&self) -> Element {
        let models = [
            ("pubsub#access_model", self.access_model.map(AccessModel::as_str)),
            ("pubsub#publish_model", self.publish_model.map(PublishModel::as_str)),
        ];
        let fields = models.into_iter().filter_map(|(name, model)| Some((name, model?)));
        form("form", ns::NODE_CONFIG, fields)
    }

    /// What a form inside of `parent` gives. Fields that mean nothing for a push node are passed over.
    fn of(parent: &Element) -> Result<Self, InvalidPubSub> {
        let Some(x) = parent.child("x", ns::DATA_FORMS) else { return Ok(Self::default()) };
        let value = |name| {
            let is_named = |field: &&Element| field.is("field", ns::DATA_FORMS) && field.attribute("var") == Some(name);
            Some(x.children().find(is_named)?.child("value", ns::DATA_FORMS)?.text())
        };
        let unknown = |name, value: &str| bad(format!("the form's field {name:?} cannot be {value:?}"));
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

fn publish(pubsub: &Element, publish: &Element) -> Result<PubSubRequest, InvalidPubSub> {
    let node = node_of(publish)?.unwrap_or_default();
    let mut items = publish.children();
    let (Some(item), None) = (items.next().filter(|item| item.is("item", ns::PUBSUB)), items.next()) else {
        return Err(bad("<publish/> must have exactly one <item/>"));
    };
    let notification = item.children().next().filter(|child| child.is("notification", ns::PUSH));
    let notification =
        notification.ok_or_else(|| bad("<item/> must have a <notification xmlns='urn:xmpp:push:0'/>"))?;
    let mut published = PublishedItem { id: item.attribute("id").map(Into::into), ..PublishedItem::default() };
    if let Some(x) = notification.child("x", ns::DATA_FORMS) {
        let (form_type, fields) = fields(x)?;
        if form_type.as_deref() != Some(ns::PUSH_SUMMARY) {
            return Err(bad(format!("the notification's FORM_TYPE must be {}", ns::PUSH_SUMMARY)));
        }
        for (name, value) in fields {
            match value {
                Some(value) => published.summary.push((name, value)),
                None => published.without_value.push(name),
            }
        }
    }
    let options = match pubsub.child("publish-options", ns::PUBSUB).and_then(|o| o.child("x", ns::DATA_FORMS)) {
        None => GivenOptions::None,
        Some(x) => match fields(x) {
            Ok((Some(form_type), fields))
                if x.attribute("type") == Some("submit") && form_type == ns::PUBLISH_OPTIONS =>
            {
                let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
                GivenOptions::Submitted(fields.collect())
            }
            Ok(_) => {
                GivenOptions::Malformed(format!("the publish options must be submitted as {}", ns::PUBLISH_OPTIONS))
            }
            Err(invalid) => GivenOptions::Malformed(invalid.to_string()),
        },
    };
    Ok(PubSubRequest::Publish { node, item: published, options })
}

/// FORM_TYPE, and the other fields by their names, which are distinct; a field may have no value.
type Fields = (Option<String>, Vec<(String, Option<String>)>);

fn fields(x: &Element) -> Result<Fields, InvalidPubSub> {
    let (mut form_type, mut fields, mut names) = (None, Vec::new(), HashSet::new());
    for field in x.children().filter(|child| child.is("field", ns::DATA_FORMS)) {
        let name = field.attribute("var").ok_or_else(|| bad("a field of the form has no \"var\""))?;
        let mut values = field.children().filter(|child| child.is("value", ns::DATA_FORMS));
        let value = values.next().map(|value| value.text().into_owned());
        if values.next().is_some() || !names.insert(name) {
            return Err(bad(format!("the form's field {name:?} has several values")));
        }
        match name {
            "FORM_TYPE" => form_type = value.map(|value| value.trim().to_owned()),
            _ => fields.push((name.to_owned(), value)),
        }
    }
    Ok((form_type, fields))
}

fn affiliation(element: &Element) -> Result<(BareJid, Option<Affiliation>), InvalidPubSub> {
    let jid = element.attribute("jid").ok_or_else(|| bad("an affiliation has no jid"))?;
    let jid = parse_jid(jid).map(Jid::into_bare).map_err(|error| bad(format!("an affiliation's jid is {error}")))?;
    let name = element.attribute("affiliation").unwrap_or_default();
    match Affiliation::of(name) {
        None if name != "none" => Err(bad(format!("{name:?} is no affiliation"))),
        affiliation => Ok((jid, affiliation)),
    }
}

fn node_of(element: &Element) -> Result<Option<String>, InvalidPubSub> {
    match element.attribute("node").filter(|node| !node.is_empty()) {
        Some(node) if node.len() > MAX_NODE_BYTES => {
            Err(bad(format!("node has {} bytes, {MAX_NODE_BYTES} are allowed", node.len())))
        }
        node => Ok(node.map(Into::into)),
    }
}

fn bad(reason: impl Into<String>) -> InvalidPubSub {
    InvalidPubSub::BadRequest(reason.into())
}

/// A form (XEP-0004).
fn form<'f>(kind: &str, form_type: &str, fields: impl Iterator<Item = (&'f str, &'f str)>) -> Element {
    let data = |name| Element::new(name, ns::DATA_FORMS);
    let field =
        |name: &str, value: &str| data("field").with_attribute("var", name).with_child(data("value").with_text(value));
    let form_type = field("FORM_TYPE", form_type).with_attribute("type", "hidden");
    let form = data("x").with_attribute("type", kind).with_child(form_type);
    fields.fold(form, |form, (name, value)| form.with_child(field(name, value)))
}
