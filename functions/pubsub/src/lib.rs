//! The push node of an app server (XEP-0357, section 4): what the push modules of other servers publish to.

mod publish;

use std::collections::BTreeMap;

use pushlark_delivery::Destinations;
use pushlark_http::{
    Access, Answer, Caller, Invocation, Media, Methods, Problem, Response, answer, read_json, read_text,
};
use pushlark_queue::Queue;
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_store::{Admission, MAX_AFFILIATIONS, Node, NodeAddress, NodePlaced, Store, StoreError, micros};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{
    AccessModel, Affiliation, BareJid, Condition, Disable, DomainPart, Element, Enable, InvalidPubSub, Iq, IqType, Jid,
    MAX_NODE_BYTES, NodeConfig, PubSubRequest, PublishModel, ns, parse_jid,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// The function.
#[derive(Debug, Clone)]
pub struct Function {
    access: Access,
    store: Store,
    queue: Queue,
    destinations: Destinations,
}

/// What the account of a sender at the push node begins with. Domains and bare JIDs have no slash.
const NODE_ACCOUNT: &str = "push-node/";

/// Why a request is not done, as it is answered.
struct Refusal {
    condition: Condition,
    text: String,
}

/// Who asks for what: a request's addresses.
struct Parties {
    /// The sender, of whatever resource; servers and clients alike.
    from: BareJid,
    /// The PubSub service that is asked.
    to: BareJid,
}

impl Function {
    /// From `QUEUE_URL` and the settings of [`Store`] and [`Destinations`]. `access` admits servers.
    pub fn from_environment(
        environment: &Environment,
        access: Access,
        dynamodb: aws_sdk_dynamodb::Client,
        sqs: aws_sdk_sqs::Client,
    ) -> Result<Self, SettingError> {
        Ok(Self {
            access,
            store: Store::from_environment(dynamodb, environment)?,
            queue: Queue::new(sqs, environment.require::<String>(&catalogue::QUEUE_URL)?),
            destinations: Destinations::from_environment(environment)?,
        })
    }

    /// Answers one invocation, an IQ or `{"stanza": "<iq …/>"}`, by the IQ that answers it, in kind.
    pub async fn handle(&self, invocation: Invocation) -> Answer {
        #[derive(Serialize, Deserialize)]
        struct Stanza {
            stanza: String,
        }

        answer(&self.access, Methods::Post, invocation, async |request| match request.media {
            Media::Xml(media) => {
                Ok(Response::xml(media, self.answer(&request.caller, read_text(&request.body)?).await?))
            }
            Media::Json => {
                let Stanza { stanza } = read_json(&request.body).map_err(Problem::bad_request)?;
                Response::json(200, &Stanza { stanza: self.answer(&request.caller, &stanza).await? })
            }
            other => {
                let supported = "application/json, application/xml, text/xml or application/xmpp+xml";
                Err(Problem::unsupported_media(&other, supported))
            }
        })
        .await
    }

    async fn answer(&self, caller: &Caller, stanza: &str) -> Result<String, Problem> {
        let element = Element::parse(stanza).map_err(|error| Problem::bad_request(error.to_string()))?;
        let iq = Iq::from_element(element).map_err(|error| Problem::bad_request(error.to_string()))?;
        if matches!(iq.kind(), IqType::Result | IqType::Error) {
            return Err(Problem::bad_request("an IQ of type result or error asks for nothing"));
        }
        let reply = match self.reply(caller, &iq).await {
            Ok(Some(payload)) => iq.result_with(payload),
            Ok(None) => iq.result(),
            Err(Refusal { condition, text }) => iq.error(condition, &text),
        };
        Ok(reply.to_string())
    }

    async fn reply(&self, caller: &Caller, iq: &Iq) -> Result<Option<Element>, Refusal> {
        let parties = Parties::of(iq)?;
        if !parties.are_vouched_for_by(caller) {
            let text = format!("the credential speaks neither for {} nor for {}", parties.from, parties.to);
            caller.log_refusal(&text);
            return Err(Refusal::new(Condition::Forbidden, text));
        }
        if let Admission::Exceeded(charged, _) = self.store.admit(&[&parties.charged(caller)]).await? {
            let text = format!("{charged} sends more than it may, try again later");
            return Err(Refusal::new(Condition::ResourceConstraint, text));
        }
        if iq.payload().is_some_and(|payload| payload.is("enable", ns::PUSH)) {
            let enable = Enable::try_from(iq).map_err(|invalid| Refusal::bad_request(invalid.to_string()))?;
            return self.enable(&parties, enable).await.map(|()| None);
        }
        if iq.payload().is_some_and(|payload| payload.is("disable", ns::PUSH)) {
            let disable = Disable::try_from(iq).map_err(|invalid| Refusal::bad_request(invalid.to_string()))?;
            return self.disable(&parties, disable).await.map(|()| None);
        }
        match PubSubRequest::try_from(iq)? {
            PubSubRequest::DiscoInfo { node } => self.disco_info(&parties, node).await.map(Some),
            PubSubRequest::DiscoItems { node } => self.disco_items(&parties, node).await.map(Some),
            PubSubRequest::Create { node, config } => self.create(&parties, node, config).await,
            PubSubRequest::Configuration { node } => {
                let node = self.owned(&parties, node).await?;
                let (access_model, publish_model) = (Some(node.access_model), Some(node.publish_model));
                let form = NodeConfig { access_model, publish_model }.to_form();
                let configure = owner("configure").with_attribute("node", &node.address.node).with_child(form);
                Ok(Some(owner("pubsub").with_child(configure)))
            }
            PubSubRequest::Configure { node, config } => {
                let node = self.owned(&parties, node).await?;
                done(self.store.configure_node(&node.address, config).await)
            }
            PubSubRequest::Affiliations { node } => {
                let node = self.owned(&parties, node).await?;
                let all = [(&node.owner, &Affiliation::Owner)].into_iter().chain(&node.affiliations);
                let list = owner("affiliations").with_attribute("node", &node.address.node);
                let list = all.fold(list, |list, (jid, affiliation)| {
                    let affiliation = owner("affiliation").with_attribute("affiliation", affiliation.as_str());
                    list.with_child(affiliation.with_attribute("jid", jid.as_str()))
                });
                Ok(Some(owner("pubsub").with_child(list)))
            }
            PubSubRequest::Affiliate { node, changes } => {
                let node = self.owned(&parties, node).await?;
                let mut changed = node.affiliations.clone();
                for (jid, affiliation) in changes.iter().cloned() {
                    match affiliation {
                        Some(affiliation) => changed.insert(jid, affiliation),
                        None => changed.remove(&jid),
                    };
                }
                if changed.len() > MAX_AFFILIATIONS.max(node.affiliations.len()) {
                    let text = format!("a node has at most {MAX_AFFILIATIONS} affiliations");
                    return Err(Refusal::new(Condition::NotAllowed, text));
                }
                done(self.store.affiliate(&node.address, &changes).await)
            }
            PubSubRequest::Delete { node } => {
                let node = self.owned(&parties, node).await?;
                self.store.delete_node(&node).await?;
                tracing::info!(owner = %node.owner, jid = %node.address.jid, "node deleted");
                Ok(None)
            }
            PubSubRequest::Publish { node, item, options } => {
                let node = self.node(&parties, node).await?;
                self.publish(&parties.from, iq, node, item, options).await.map(Some)
            }
        }
    }

    async fn disco_info(&self, parties: &Parties, node: Option<String>) -> Result<Element, Refusal> {
        let info = |name| Element::new(name, ns::DISCO_INFO);
        let mut query = info("query");
        if let Some(node) = node {
            let node = self.node(parties, node).await?;
            query = query.with_attribute("node", node.address.node);
        }
        let identity = info("identity").with_attribute("category", "pubsub").with_attribute("type", "push");
        let features = [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PUBSUB, ns::PUSH];
        let features = features.into_iter().map(|feature| info("feature").with_attribute("var", feature));
        Ok(features.fold(query.with_child(identity), Element::with_child))
    }

    /// The names of nodes are their owners' alone, so the list is empty.
    async fn disco_items(&self, parties: &Parties, node: Option<String>) -> Result<Element, Refusal> {
        let query = Element::new("query", ns::DISCO_ITEMS);
        match node {
            Some(node) => Ok(query.with_attribute("node", self.node(parties, node).await?.address.node)),
            None => Ok(query),
        }
    }

    async fn create(
        &self,
        parties: &Parties,
        name: Option<String>,
        config: NodeConfig,
    ) -> Result<Option<Element>, Refusal> {
        let instant = name.is_none();
        // What Pushlark names cannot be guessed.
        let name = name.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        let node = parties.new_node(&self.destinations, name, config)?;
        self.check_placed(&node, self.store.create_node(&node).await?)?;
        tracing::info!(owner = %node.owner, jid = %node.address.jid, "node created");
        let pubsub = |name| Element::new(name, ns::PUBSUB);
        let created = || pubsub("pubsub").with_child(pubsub("create").with_attribute("node", &node.address.node));
        Ok(instant.then(created))
    }

    /// A client's `<enable/>` that is sent to the push service instead of the client's server: the node is for the form's
    /// device from then on, and the client's server may publish to it.
    async fn enable(&self, parties: &Parties, enable: Enable) -> Result<(), Refusal> {
        let Enable { jid, node: name, form, .. } = enable;
        if jid != parties.to {
            return Err(Refusal::bad_request(format!("jid must be the service that is asked, {}", parties.to)));
        }
        let device = self.device(form)?;
        let mut node = parties.new_node(&self.destinations, name, NodeConfig::default())?;
        node.affiliations.insert(parties.from.domain().to_owned().into(), Affiliation::PublishOnly);
        node.device = Some(device);
        self.check_placed(&node, self.store.register_node(&node).await?)?;
        tracing::info!(owner = %node.owner, jid = %node.address.jid, "node registered");
        Ok(())
    }

    /// A client's `<disable/>` that is sent to the push service: the node is no more. As elsewhere, there need not be one.
    async fn disable(&self, parties: &Parties, disable: Disable) -> Result<(), Refusal> {
        let Disable { jid, node, .. } = disable;
        if jid != parties.to {
            return Err(Refusal::bad_request(format!("jid must be the service that is asked, {}", parties.to)));
        }
        let nodes = match node {
            Some(node) => vec![node],
            None => self.store.nodes(&parties.from, &parties.to).await?,
        };
        for node in nodes {
            let node = self.store.node(&NodeAddress { jid: parties.to.clone(), node }).await?;
            if let Some(node) = node.filter(|node| node.affiliation(&parties.from) == Some(Affiliation::Owner)) {
                self.store.delete_node(&node).await?;
                tracing::info!(owner = %node.owner, jid = %node.address.jid, "node deleted");
            }
        }
        Ok(())
    }

    fn check_placed(&self, node: &Node, placed: NodePlaced) -> Result<(), Refusal> {
        match placed {
            NodePlaced::Stored => Ok(()),
            NodePlaced::Taken => Err(Refusal::new(Condition::Conflict, "there is a node of this name")),
            NodePlaced::Full => {
                let text = format!("{} has {} nodes already, delete one first", node.owner, self.store.limits().nodes);
                Err(Refusal::new(Condition::NotAllowed, text))
            }
        }
    }

    async fn node(&self, parties: &Parties, node: String) -> Result<Node, Refusal> {
        let not_found = || Refusal::new(Condition::ItemNotFound, "there is no node of this name");
        // The table takes no longer names, so none was created.
        if node.len() > MAX_NODE_BYTES {
            return Err(not_found());
        }
        let node = self.store.node(&NodeAddress { jid: parties.to.clone(), node }).await?;
        node.ok_or_else(not_found)
    }

    /// A node, for its owner.
    async fn owned(&self, parties: &Parties, node: String) -> Result<Node, Refusal> {
        let node = self.node(parties, node).await?;
        match node.affiliation(&parties.from) {
            Some(Affiliation::Owner) => Ok(node),
            _ => Err(Refusal::new(Condition::Forbidden, "only an owner of the node may do that")),
        }
    }
}

impl Parties {
    fn of(iq: &Iq) -> Result<Self, Refusal> {
        let jid = |name: &str, jid: Option<&str>| -> Result<BareJid, Refusal> {
            let jid = jid.ok_or_else(|| Refusal::bad_request(format!("{name} is missing")))?;
            let jid = parse_jid(jid).map_err(|error| Refusal::bad_request(format!("{name} is {error}")))?;
            Ok(Jid::into_bare(jid))
        };
        Ok(Self { from: jid("from", iq.from())?, to: jid("to", iq.to())? })
    }

    /// Whether the caller hears from the sender, as a server does from its own users and domain, or hosts the service, and
    /// so vouches for whoever its chat server lets ask there.
    fn are_vouched_for_by(&self, caller: &Caller) -> bool {
        let is_hosted_by = |domain: &DomainPart| {
            let service = self.to.domain().as_str().strip_suffix(domain.as_str());
            service.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        match caller {
            Caller::Server(domains) => caller.speaks_for(&self.from) || domains.iter().any(is_hosted_by),
            _ => caller.speaks_for(&self.from),
        }
    }

    /// The account that `RATE_LIMIT` charges with the request: the domain of the caller's secret, or the sender where the
    /// caller speaks for all domains. A sender of another domain is not charged by a caller that only claims to hear from
    /// it, nor is what the sender's own server may tell.
    fn charged(&self, caller: &Caller) -> String {
        let own = [self.from.domain(), self.to.domain()].into_iter().find(|domain| caller.speaks_for_domain(domain));
        match (caller, own.or_else(|| caller.own_domain())) {
            (Caller::Server(_), Some(domain)) => domain.to_string(),
            _ => format!("{NODE_ACCOUNT}{}", self.from),
        }
    }

    /// A node for the sender, unless nothing publishes the notifications that come to it.
    fn new_node(&self, destinations: &Destinations, node: String, config: NodeConfig) -> Result<Node, Refusal> {
        if !destinations.is_virtual(&self.from, &self.to) {
            let text = format!("{} is none of the VIRTUAL_PUBSUB_HOSTS for {}", self.to, self.from);
            return Err(Refusal::new(Condition::NotAllowed, text));
        }
        Ok(Node {
            address: NodeAddress { jid: self.to.clone(), node },
            owner: self.from.clone(),
            access_model: config.access_model.unwrap_or(AccessModel::Whitelist),
            publish_model: config.publish_model.unwrap_or(PublishModel::Publishers),
            affiliations: BTreeMap::new(),
            device: None,
            created_at: micros(OffsetDateTime::now_utc()),
        })
    }
}

impl Refusal {
    fn new(condition: Condition, text: impl Into<String>) -> Self {
        Self { condition, text: text.into() }
    }

    fn bad_request(text: impl Into<String>) -> Self {
        Self::new(Condition::BadRequest, text)
    }

    /// A fault of ours: never one that ends a registration at the server that asked.
    fn unavailable() -> Self {
        Self::new(Condition::ResourceConstraint, "the service is not available at the moment, try again")
    }
}

impl From<InvalidPubSub> for Refusal {
    fn from(invalid: InvalidPubSub) -> Self {
        Self { condition: invalid.condition, text: invalid.text }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %Causes(&error), "not answered");
        Self::unavailable()
    }
}

fn owner(name: &str) -> Element {
    Element::new(name, ns::PUBSUB_OWNER)
}

/// The empty result of a change, unless the node was deleted meanwhile.
fn done(changed: Result<bool, StoreError>) -> Result<Option<Element>, Refusal> {
    match changed? {
        true => Ok(None),
        false => Err(Refusal::new(Condition::ItemNotFound, "there is no node of this name")),
    }
}
