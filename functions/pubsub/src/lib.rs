//! The push nodes of an app server (XEP-0357, section 4), to which the push modules of other servers publish.

mod publish;

use std::collections::BTreeMap;

use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_sqs::Client as Sqs;
use pushlark_access::{Access, Caller};
use pushlark_delivery::Destinations;
use pushlark_http::{Answer, CommandError, Init, Invocation, Media, Methods, Problem, Response, answer, read_text};
use pushlark_json::read_json;
use pushlark_model::time::to_micros;
use pushlark_model::{Extensions, Strictness};
use pushlark_queue::Queue;
use pushlark_settings::{SettingError, catalogue};
use pushlark_store::{MAX_AFFILIATIONS, Node, NodeAddress, NodePlaced, Store, StoreError};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{
    AccessModel, Affiliation, BareJid, Condition, Disable, DomainPart, Element, Enable, Iq, IqType, Jid,
    MAX_NODE_BYTES, NodeConfig, PubSubRequest, PubSubRequestError, PublishModel, ns, parse_jid,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use publish::Summaries;

/// The push node: the state that all invocations of a process share.
#[derive(Debug, Clone)]
pub struct Function {
    access: Access,
    store: Store,
    queue: Queue,
    destinations: Destinations,
    summaries: Summaries,
}

/// The prefix of a sender's account for `RATE_LIMIT`. Domains and bare JIDs contain no slash, so it cannot equal
/// another account.
const NODE_ACCOUNT: &str = "push-node/";

/// An IQ error: its stanza error condition and its text.
struct PushNodeError {
    condition: Condition,
    text: String,
}

/// The addresses of a request.
struct Parties {
    /// The sender, a server or a client, without its resource.
    from: BareJid,
    /// The PubSub service, a bare JID.
    to: BareJid,
}

impl Function {
    /// Reads `QUEUE_URL`, `FAIR_QUEUES` and the settings of [`Store`], [`Destinations`] and [`Summaries`]. The secrets of
    /// servers are accepted.
    pub fn from_environment(init: &Init, dynamodb: DynamoDb, sqs: Sqs) -> Result<Self, SettingError> {
        let Init { environment, access, .. } = init;
        Ok(Self {
            access: access.clone(),
            store: Store::from_environment(dynamodb, environment)?.with_device_accounts(environment)?,
            queue: Queue::new(sqs, environment.require::<String>(&catalogue::QUEUE_URL)?)
                .fair(environment.switch(&catalogue::FAIR_QUEUES)?),
            destinations: Destinations::from_environment(environment)?,
            summaries: Summaries::from_environment(environment)?,
        })
    }

    /// Handles one invocation, an IQ or `{"stanza": "<iq …/>"}`. The response is the IQ result or error in the same
    /// form.
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
            return Err(Problem::bad_request("an IQ of type result or error is not a request"));
        }
        let reply = match self.reply(caller, &iq).await {
            Ok(Some(payload)) => iq.result_with(payload),
            Ok(None) => iq.result(),
            Err(PushNodeError { condition, text }) => iq.error(condition, &text),
        };
        Ok(reply.to_string())
    }

    async fn reply(&self, caller: &Caller, iq: &Iq) -> Result<Option<Element>, PushNodeError> {
        let parties = Parties::of(iq)?;
        if !parties.are_covered_by(caller) {
            let text = format!("the credential speaks neither for {} nor for {}", parties.from, parties.to);
            caller.log_refusal(&text);
            return Err(PushNodeError::new(Condition::Forbidden, text));
        }
        self.store.charge(&[&parties.charged(caller)]).await.map_err(CommandError::from)?;
        if iq.payload().is_some_and(|payload| payload.is("enable", ns::PUSH)) {
            let enable = Enable::try_from(iq).map_err(|invalid| PushNodeError::bad_request(invalid.to_string()))?;
            return self.enable(caller, &parties, enable).await.map(|()| None);
        }
        if iq.payload().is_some_and(|payload| payload.is("disable", ns::PUSH)) {
            let disable = Disable::try_from(iq).map_err(|invalid| PushNodeError::bad_request(invalid.to_string()))?;
            return self.disable(&parties, disable).await.map(|()| None);
        }
        match PubSubRequest::try_from(iq)? {
            PubSubRequest::DiscoInfo { node } => self.disco_info(&parties, node).await.map(Some),
            PubSubRequest::DiscoItems { node } => self.disco_items(&parties, node).await.map(Some),
            PubSubRequest::Create { node, config } => self.create(&parties, node, config).await,
            PubSubRequest::Configuration { node } => self.configuration(&parties, node).await.map(Some),
            PubSubRequest::Configure { node, config } => self.configure(&parties, node, config).await.map(|()| None),
            PubSubRequest::Affiliations { node } => self.affiliations(&parties, node).await.map(Some),
            PubSubRequest::Affiliate { node, changes } => self.affiliate(&parties, node, &changes).await.map(|()| None),
            PubSubRequest::Delete { node } => self.delete(&parties, node).await.map(|()| None),
            PubSubRequest::Publish { node, item, options } => {
                let node = self.node(&parties, node).await?;
                self.publish(&parties.from, iq, node, item, options).await.map(Some)
            }
        }
    }

    async fn disco_info(&self, parties: &Parties, node: Option<String>) -> Result<Element, PushNodeError> {
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

    /// Returns an empty list, since the names of nodes are known to their owners only.
    async fn disco_items(&self, parties: &Parties, node: Option<String>) -> Result<Element, PushNodeError> {
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
    ) -> Result<Option<Element>, PushNodeError> {
        let instant = name.is_none();
        // A generated name cannot be guessed.
        let name = name.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        let node = parties.new_node(&self.destinations, name, config)?;
        self.check_placed(&node, self.store.create_node(&node).await?)?;
        tracing::info!(owner = %node.owner, jid = %node.address.jid, "node created");
        let pubsub = |name| Element::new(name, ns::PUBSUB);
        let created = || pubsub("pubsub").with_child(pubsub("create").with_attribute("node", &node.address.node));
        Ok(instant.then(created))
    }

    async fn configuration(&self, parties: &Parties, node: String) -> Result<Element, PushNodeError> {
        let node = self.owned(parties, node).await?;
        let (access_model, publish_model) = (Some(node.access_model), Some(node.publish_model));
        let form = NodeConfig { access_model, publish_model }.to_form();
        let configure = owner("configure").with_attribute("node", &node.address.node).with_child(form);
        Ok(owner("pubsub").with_child(configure))
    }

    async fn configure(&self, parties: &Parties, node: String, config: NodeConfig) -> Result<(), PushNodeError> {
        let node = self.owned(parties, node).await?;
        changed(self.store.configure_node(&node.address, config).await?)
    }

    async fn affiliations(&self, parties: &Parties, node: String) -> Result<Element, PushNodeError> {
        let node = self.owned(parties, node).await?;
        let all = [(&node.owner, &Affiliation::Owner)].into_iter().chain(&node.affiliations);
        let list = owner("affiliations").with_attribute("node", &node.address.node);
        let list = all.fold(list, |list, (jid, affiliation)| {
            let affiliation = owner("affiliation").with_attribute("affiliation", affiliation.as_str());
            list.with_child(affiliation.with_attribute("jid", jid.as_str()))
        });
        Ok(owner("pubsub").with_child(list))
    }

    async fn affiliate(
        &self,
        parties: &Parties,
        node: String,
        changes: &[(BareJid, Option<Affiliation>)],
    ) -> Result<(), PushNodeError> {
        let node = self.owned(parties, node).await?;
        let mut affiliations = node.affiliations.clone();
        for (jid, affiliation) in changes.iter().cloned() {
            match affiliation {
                Some(affiliation) => affiliations.insert(jid, affiliation),
                None => affiliations.remove(&jid),
            };
        }
        if affiliations.len() > MAX_AFFILIATIONS.max(node.affiliations.len()) {
            let text = format!("a node has at most {MAX_AFFILIATIONS} affiliations");
            return Err(PushNodeError::new(Condition::NotAllowed, text));
        }
        changed(self.store.affiliate(&node.address, changes).await?)
    }

    async fn delete(&self, parties: &Parties, node: String) -> Result<(), PushNodeError> {
        let node = self.owned(parties, node).await?;
        self.store.delete_node(&node).await?;
        tracing::info!(owner = %node.owner, jid = %node.address.jid, "node deleted");
        Ok(())
    }

    /// Handles a client's `<enable/>` that is sent to the push service instead of the client's server. It stores a node
    /// for the form's device, to which the client's server may publish. Of the preferences, it stores those that a push
    /// node can apply.
    async fn enable(&self, caller: &Caller, parties: &Parties, enable: Enable) -> Result<(), PushNodeError> {
        let Enable { jid, node: name, form, extensions, .. } = enable;
        if jid != parties.to {
            return Err(PushNodeError::bad_request(format!("jid must be the service in the IQ's to, {}", parties.to)));
        }
        let device = publish::device(form)?;
        let checked = self.destinations.check_device(&device);
        checked.map_err(|invalid| PushNodeError::bad_request(invalid.to_string()))?;
        let mut node = parties.new_node(&self.destinations, name, NodeConfig::default())?;
        let extensions = Extensions::read(extensions, &device, Strictness::Strict);
        let Extensions { preferences, encryption } =
            extensions.map_err(|invalid| PushNodeError::bad_request(invalid.to_string()))?;
        node.preferences = preferences.and_then(|preferences| preferences.at_push_node()).map(Box::new);
        node.encryption = encryption;
        node.affiliations.insert(parties.from.domain().to_owned().into(), Affiliation::PublishOnly);
        node.device = Some(device);
        let placed = self.store.register_node(&node, |other| caller.may_take_device_of(other)).await?;
        self.check_placed(&node, placed)?;
        tracing::info!(owner = %node.owner, jid = %node.address.jid, "node registered");
        Ok(())
    }

    /// Handles a client's `<disable/>` that is sent to the push service, and deletes the node. A missing node is not an
    /// error.
    async fn disable(&self, parties: &Parties, disable: Disable) -> Result<(), PushNodeError> {
        let Disable { jid, node, .. } = disable;
        if jid != parties.to {
            return Err(PushNodeError::bad_request(format!("jid must be the service in the IQ's to, {}", parties.to)));
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

    fn check_placed(&self, node: &Node, placed: NodePlaced) -> Result<(), PushNodeError> {
        match placed {
            NodePlaced::Stored => Ok(()),
            NodePlaced::Taken => Err(PushNodeError::new(Condition::Conflict, "there is a node of this name")),
            NodePlaced::Full => {
                let text = format!("{} has {} nodes already, delete one first", node.owner, self.store.limits().nodes);
                Err(PushNodeError::new(Condition::NotAllowed, text))
            }
        }
    }

    async fn node(&self, parties: &Parties, node: String) -> Result<Node, PushNodeError> {
        let not_found = || PushNodeError::new(Condition::ItemNotFound, "there is no node of this name");
        // The table cannot store longer names, so no such node exists.
        if node.len() > MAX_NODE_BYTES {
            return Err(not_found());
        }
        let node = self.store.node(&NodeAddress { jid: parties.to.clone(), node }).await?;
        node.ok_or_else(not_found)
    }

    /// Returns the node if the sender is an owner of it.
    async fn owned(&self, parties: &Parties, node: String) -> Result<Node, PushNodeError> {
        let node = self.node(parties, node).await?;
        match node.affiliation(&parties.from) {
            Some(Affiliation::Owner) => Ok(node),
            _ => Err(PushNodeError::new(Condition::Forbidden, "only an owner of the node may do that")),
        }
    }
}

impl Parties {
    fn of(iq: &Iq) -> Result<Self, PushNodeError> {
        let jid = |name: &str, jid: Option<&str>| -> Result<BareJid, PushNodeError> {
            let jid = jid.ok_or_else(|| PushNodeError::bad_request(format!("{name} is missing")))?;
            let jid = parse_jid(jid).map_err(|error| PushNodeError::bad_request(format!("{name} is {error}")))?;
            Ok(Jid::into_bare(jid))
        };
        Ok(Self { from: jid("from", iq.from())?, to: jid("to", iq.to())? })
    }

    /// Returns whether the caller may send requests with these addresses: the caller's credential covers the sender, or
    /// the domain of the service, whose chat server has authenticated the sender.
    fn are_covered_by(&self, caller: &Caller) -> bool {
        let is_hosted_by = |domain: &DomainPart| {
            let service = self.to.domain().as_str().strip_suffix(domain.as_str());
            service.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        match caller {
            Caller::Server(domains) => caller.has_access_to(&self.from) || domains.iter().any(is_hosted_by),
            _ => caller.has_access_to(&self.from),
        }
    }

    /// Returns the account that `RATE_LIMIT` charges for the request: the domain of the caller's secret, or the sender
    /// if the caller's credential is for all domains. A caller cannot use up the rate of a sender of another domain,
    /// nor the rate of the events that the sender's own server may send.
    fn charged(&self, caller: &Caller) -> String {
        let own = [self.from.domain(), self.to.domain()].into_iter().find(|domain| caller.has_access_to_domain(domain));
        match (caller, own.or_else(|| caller.own_domain())) {
            (Caller::Server(_), Some(domain)) => domain.to_string(),
            _ => format!("{NODE_ACCOUNT}{}", self.from),
        }
    }

    /// Creates a node that the sender owns. It is refused if the service is not a virtual host for the sender, since
    /// its notifications would not be sent.
    fn new_node(&self, destinations: &Destinations, node: String, config: NodeConfig) -> Result<Node, PushNodeError> {
        if !destinations.is_virtual(&self.from, &self.to) {
            let text = format!("{} is not one of the VIRTUAL_PUBSUB_HOSTS for {}", self.to, self.from);
            return Err(PushNodeError::new(Condition::NotAllowed, text));
        }
        Ok(Node {
            address: NodeAddress { jid: self.to.clone(), node },
            owner: self.from.clone(),
            access_model: config.access_model.unwrap_or(AccessModel::Whitelist),
            publish_model: config.publish_model.unwrap_or(PublishModel::Publishers),
            affiliations: BTreeMap::new(),
            device: None,
            preferences: None,
            encryption: None,
            created_at: to_micros(OffsetDateTime::now_utc()),
        })
    }
}

impl PushNodeError {
    fn new(condition: Condition, text: impl Into<String>) -> Self {
        Self { condition, text: text.into() }
    }

    fn bad_request(text: impl Into<String>) -> Self {
        Self::new(Condition::BadRequest, text)
    }

    /// Returns an internal error. Its condition never ends the registration at the sender's server.
    fn unavailable() -> Self {
        Self::new(Condition::ResourceConstraint, "the service is not available at the moment, try again")
    }
}

impl From<PubSubRequestError> for PushNodeError {
    fn from(invalid: PubSubRequestError) -> Self {
        Self { condition: invalid.condition, text: invalid.text }
    }
}

impl From<CommandError> for PushNodeError {
    fn from(rejection: CommandError) -> Self {
        Self::new(rejection.condition(), rejection.to_string())
    }
}

impl From<StoreError> for PushNodeError {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %Causes(&error), "not answered");
        Self::unavailable()
    }
}

fn owner(name: &str) -> Element {
    Element::new(name, ns::PUBSUB_OWNER)
}

/// Returns `item-not-found` if the node was deleted before the change.
fn changed(is_changed: bool) -> Result<(), PushNodeError> {
    match is_changed {
        true => Ok(()),
        false => Err(PushNodeError::new(Condition::ItemNotFound, "there is no node of this name")),
    }
}
