//! Push nodes, to which other servers publish notifications (XEP-0357, section 4).

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, ReturnValuesOnConditionCheckFailure, Update};
use pushlark_model::{Encryption, Preferences, PublishOptions, Registration};
use pushlark_xmpp::{AccessModel, Affiliation, BareJid, NodeConfig, PublishModel};

use crate::account::{Enabled, Taking};
use crate::attributes::{
    ACCESS_MODEL, ADDED, ADDED_AT, AFFILIATIONS, CREATED_AT, DEVICE_DIGEST, DOMAIN_SHARD, ENCRYPTION, FORM, OWNER_JID,
    PK, PREFERENCES, PUBLISH_MODEL, SK,
};
use crate::item::{self, Item, number, text};
use crate::replaced::ReplacedBy;
use crate::transaction::{Latest, Part, Retries, TransactionOutcome, is_unmet};
use crate::{Store, StoreError, keys, unless_stale};

const STORE_NODE: &str = "store a node";
/// The most nodes of the same device that one transaction deletes.
const MAX_DELETIONS: usize = 20;

/// The most affiliations of a node.
pub const MAX_AFFILIATIONS: usize = 100;

/// The address of a node, unique in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// The JID of the PubSub service.
    pub jid: BareJid,
    /// The name of the node, unique at its PubSub service.
    pub node: String,
}

/// A push node (XEP-0357, section 4), with its configuration and its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The PubSub service and the name.
    pub address: NodeAddress,
    /// The user who created the node.
    pub owner: BareJid,
    /// The entities that may subscribe (XEP-0060, section 4.5).
    pub access_model: AccessModel,
    /// The entities that may publish (XEP-0060, section 16.4.3).
    pub publish_model: PublishModel,
    /// The affiliations of entities other than the owner (XEP-0060, section 4.1).
    pub affiliations: BTreeMap<BareJid, Affiliation>,
    /// The publish options of the device; `None` if every publish request must contain them.
    pub device: Option<PublishOptions>,
    /// The preferences of the owner for the device.
    pub preferences: Option<Box<Preferences>>,
    /// The encryption of notifications to the device.
    pub encryption: Option<Box<Encryption>>,
    /// The time at which the node was created or registered again, in microseconds since 1970.
    pub created_at: u64,
}

/// The result of storing a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePlaced {
    /// The node is stored.
    Stored,
    /// Another node has this address.
    Taken,
    /// The owner has [`Limits::nodes`](crate::Limits::nodes) other nodes.
    Full,
}

/// An owner's reference to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    /// The version of the node.
    created_at: u64,
    /// The digest of the node's device; `None` without a device, and in items of earlier versions.
    device: Option<String>,
}

impl Reference {
    fn read(item: &Item) -> Self {
        Self {
            created_at: item::number_of(item, CREATED_AT).unwrap_or(0),
            device: item::text_of(item, DEVICE_DIGEST).map(Into::into),
        }
    }
}

impl Node {
    /// Returns the affiliation of an entity; for the owner, `Owner`.
    pub fn affiliation(&self, jid: &BareJid) -> Option<Affiliation> {
        if *jid == self.owner { Some(Affiliation::Owner) } else { self.affiliations.get(jid).copied() }
    }

    /// Returns a registration by which the node's notifications are published to `device`.
    pub fn registration(&self, device: PublishOptions) -> Registration {
        let NodeAddress { jid, node } = self.address.clone();
        let (preferences, encryption) = (self.preferences.clone(), self.encryption.clone());
        Registration { jid, node, options: device, preferences, encryption, created_at: self.created_at }
    }
}

impl Store {
    /// Reads a node; `None` if there is none at this address.
    pub async fn node(&self, address: &NodeAddress) -> Result<Option<Node>, StoreError> {
        let item = self.get("read a node", keys::node(address), keys::NODE_ITEM).await?;
        if item.is_empty() {
            return Ok(None);
        }
        // With `None`, the servers that publish to the node would delete their registrations.
        read(address, &item).map(Some).ok_or_else(|| StoreError::unreadable("read a node"))
    }

    /// Returns the names of a user's nodes at a PubSub service.
    pub async fn nodes(&self, owner: &BareJid, jid: &BareJid) -> Result<Vec<String>, StoreError> {
        let prefix = keys::node(&NodeAddress { jid: jid.clone(), node: String::new() });
        let mut nodes = Vec::new();
        let mut pages = self
            .query()
            .key_condition_expression(format!("{PK} = :pk AND begins_with({SK}, :prefix)"))
            .expression_attribute_values(":pk", text(owner))
            .expression_attribute_values(":prefix", text(&prefix))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let items = page.map_err(StoreError::during("list nodes"))?.items.unwrap_or_default();
            let names = items.iter().filter_map(|item| item::text_of(item, SK)?.strip_prefix(&prefix));
            nodes.extend(names.map(Into::into));
        }
        Ok(nodes)
    }

    /// Stores a node, unless there is one at its address. It has no device.
    pub async fn create_node(&self, node: &Node) -> Result<NodePlaced, StoreError> {
        self.place_node(node, false, |_| false).await
    }

    /// Stores the node of a device. If the owner has a node at this address, that node gets the device and the
    /// affiliations that it lacks, and keeps its configuration. Other nodes of the owner with the same device are
    /// deleted. With `DEVICE_ACCOUNTS=one`, the device is also taken from other users for whom `may_take` is true.
    pub async fn register_node(
        &self,
        node: &Node,
        may_take: impl Fn(&BareJid) -> bool,
    ) -> Result<NodePlaced, StoreError> {
        self.place_node(node, true, may_take).await
    }

    /// Stores a node and its owner's reference to it in one transaction. With `may_replace`, a node of the same
    /// owner is changed to `node`'s device. An owner never has more than [`Limits::nodes`](crate::Limits::nodes).
    async fn place_node(
        &self,
        node: &Node,
        may_replace: bool,
        may_take: impl Fn(&BareJid) -> bool,
    ) -> Result<NodePlaced, StoreError> {
        let key = keys::node(&node.address);
        let device = node.device.as_ref().and_then(|options| Some(keys::device_digest(&options.device()?)));
        let listed = device.as_deref().filter(|_| self.one_account);
        let (mut retries, mut exists) = (Retries::new(), None);
        loop {
            let (latest, references) = self.references(&node.owner).await?;
            let known = references.get(&key);
            let is_same_device = |reference: &Reference| device.is_some() && reference.device == device;
            let others = references.iter().filter(|(other, reference)| **other != key && is_same_device(reference));
            let replaced: Vec<_> = others.take(MAX_DELETIONS).collect();
            if known.is_none() && references.len() - replaced.len() >= self.limits.nodes {
                return Ok(NodePlaced::Full);
            }
            // A reference without its node is possible: an earlier version wrote them one after the other.
            let part = match may_replace && exists.unwrap_or(known.is_some()) {
                true => self.renew_node(node, listed),
                false => self.put_node(node, listed),
            };
            let mut parts = vec![part, self.put_reference(node, device.as_deref(), known.is_none())];
            // Of two requests that register one device at two nodes at once, the second must see the first.
            if known.is_none_or(|known| device.is_some() && !is_same_device(known)) {
                let added_at =
                    latest.as_ref().map_or(0, |latest| latest.added_at.saturating_add(1)).max(node.created_at);
                let next = Latest { key: key.clone(), added_at };
                let is_known = |key: &str| references.contains_key(key);
                parts.extend(self.advance(&node.owner, keys::LATEST_NODE, latest.as_ref(), is_known, &next));
            }
            for (key, reference) in &replaced {
                parts.extend(self.delete_node_parts(&node.owner, key, reference.created_at));
            }
            let Taking { parts: taking, taken, .. } = match listed {
                Some(device) => {
                    let enabled = Enabled { device, owner: &node.owner, key: &key, created_at: node.created_at };
                    self.take(enabled, &may_take).await?
                }
                None => Taking::default(),
            };
            parts.extend(taking);
            let TransactionOutcome::Conflict(reasons) = self.transact(STORE_NODE, parts).await? else {
                for (key, _) in replaced {
                    ReplacedBy::AnotherNode.log(&node.owner, key);
                }
                for (user, key, by) in &taken {
                    by.log(user, key);
                }
                let earlier = known.and_then(|known| Some((known.device.as_deref()?, known.created_at)));
                if let Some((earlier, created_at)) =
                    earlier.filter(|(earlier, _)| listed.is_some_and(|now| now != *earlier))
                {
                    self.release(earlier, &node.owner, created_at).await?;
                }
                return Ok(NodePlaced::Stored);
            };
            if let Some(reason) = reasons.first().filter(|reason| is_unmet(reason)) {
                let owner = reason.item().and_then(|item| item::text_of(item, OWNER_JID));
                if owner.is_some_and(|owner| !may_replace || owner != node.owner.as_str()) {
                    return Ok(NodePlaced::Taken);
                }
                exists = Some(owner.is_some());
            }
            retries.wait(STORE_NODE).await?;
        }
    }

    /// Returns the parts that delete a node of this version and its owner's reference to it.
    pub(crate) fn delete_node_parts(&self, owner: &BareJid, key: &str, version: u64) -> Vec<Part> {
        let item = Delete::builder()
            .table_name(&self.table)
            .key(PK, text(key))
            .key(SK, text(keys::NODE_ITEM))
            .condition_expression(format!(
                "attribute_not_exists({PK}) OR {OWNER_JID} = :owner AND {CREATED_AT} = :version"
            ))
            .expression_attribute_values(":owner", text(owner))
            .expression_attribute_values(":version", number(version));
        let reference = Delete::builder().table_name(&self.table).key(PK, text(owner)).key(SK, text(key));
        vec![Part::Delete(item.build()), Part::Delete(reference.build())]
    }

    /// Returns the node that an owner added last, and the references to all nodes of the owner, by key.
    async fn references(&self, owner: &BareJid) -> Result<(Option<Latest>, HashMap<String, Reference>), StoreError> {
        let (mut latest, mut references) = (None, HashMap::new());
        let mut pages = self
            .query()
            .key_condition_expression(format!("{PK} = :pk AND {SK} BETWEEN :first AND :last"))
            .expression_attribute_values(":pk", text(owner))
            .expression_attribute_values(":first", text(keys::LATEST_NODE))
            .expression_attribute_values(":last", text(keys::NODES_LAST))
            .projection_expression(format!("{SK}, {ADDED}, {ADDED_AT}, {CREATED_AT}, {DEVICE_DIGEST}"))
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            for item in page.map_err(StoreError::during("list nodes"))?.items.unwrap_or_default() {
                match item::text_of(&item, SK) {
                    Some(keys::LATEST_NODE) => latest = Latest::read(&item),
                    Some(key) => drop(references.insert(key.to_owned(), Reference::read(&item))),
                    None => {}
                }
            }
        }
        Ok((latest, references))
    }

    /// Returns the part that stores a node at an address without one.
    fn put_node(&self, node: &Node, listed_device: Option<&str>) -> Part {
        let mut item = write(node);
        item.extend(listed_device.map(|device| (DEVICE_DIGEST.into(), text(device))));
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(format!("attribute_not_exists({PK})"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        Part::Put(put.build())
    }

    /// Returns the part that changes a node of the same owner to the device of `node`.
    fn renew_node(&self, node: &Node, listed_device: Option<&str>) -> Part {
        let (mut sets, mut removed) = (vec![format!("{CREATED_AT} = :created_at")], Vec::new());
        let mut update = Update::builder()
            .table_name(&self.table)
            .key(PK, text(keys::node(&node.address)))
            .key(SK, text(keys::NODE_ITEM))
            .condition_expression(format!("{OWNER_JID} = :owner"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_values(":owner", text(&node.owner))
            .expression_attribute_values(":created_at", number(node.created_at));
        if let Some(device) = &node.device {
            sets.push(format!("{FORM} = :form"));
            update = update.expression_attribute_values(":form", item::form(device));
            let preferences = node.preferences.as_ref().map(item::json);
            let encryption = node.encryption.as_ref().map(item::json);
            for (name, value) in [(PREFERENCES, preferences), (ENCRYPTION, encryption)] {
                match value {
                    Some(value) => {
                        sets.push(format!("{name} = :{name}"));
                        update = update.expression_attribute_values(format!(":{name}"), value);
                    }
                    None => removed.push(name),
                }
            }
        }
        if let Some(device) = listed_device {
            sets.push(format!("{DEVICE_DIGEST} = :device"));
            update = update.expression_attribute_values(":device", text(device));
        }
        for (index, (jid, affiliation)) in node.affiliations.iter().enumerate() {
            sets.push(format!("{AFFILIATIONS}.#j{index} = if_not_exists({AFFILIATIONS}.#j{index}, :a{index})"));
            update = update
                .expression_attribute_names(format!("#j{index}"), jid.to_string())
                .expression_attribute_values(format!(":a{index}"), text(affiliation.as_str()));
        }
        let mut expression = format!("SET {}", sets.join(", "));
        if !removed.is_empty() {
            expression = format!("{expression} REMOVE {}", removed.join(", "));
        }
        Part::Update(update.update_expression(expression).build())
    }

    /// Returns the part that puts an owner's reference to a node.
    fn put_reference(&self, node: &Node, device: Option<&str>, is_new: bool) -> Part {
        let put = Put::builder()
            .table_name(&self.table)
            .item(PK, text(&node.owner))
            .item(SK, text(keys::node(&node.address)))
            .item(CREATED_AT, number(node.created_at))
            .item(DOMAIN_SHARD, text(keys::domain_shard(&node.owner)));
        let put = match device {
            Some(device) => put.item(DEVICE_DIGEST, text(device)),
            None => put,
        };
        let exists = if is_new { format!("attribute_not_exists({PK})") } else { format!("attribute_exists({PK})") };
        Part::Put(put.condition_expression(exists).build())
    }

    /// Changes a node's configuration. Returns false if there is no such node.
    pub async fn configure_node(&self, address: &NodeAddress, config: NodeConfig) -> Result<bool, StoreError> {
        let models = [
            (ACCESS_MODEL, config.access_model.map(AccessModel::as_str)),
            (PUBLISH_MODEL, config.publish_model.map(PublishModel::as_str)),
        ];
        let given: Vec<_> = models.into_iter().filter_map(|(name, model)| Some((name, model?))).collect();
        if given.is_empty() {
            return Ok(true);
        }
        let sets: Vec<String> = given.iter().map(|(name, _)| format!("{name} = :{name}")).collect();
        let mut update = self
            .update(keys::node(address), keys::NODE_ITEM)
            .update_expression(format!("SET {}", sets.join(", ")))
            .condition_expression(format!("attribute_exists({PK})"));
        for (name, model) in given {
            update = update.expression_attribute_values(format!(":{name}"), text(model));
        }
        unless_stale("configure a node", update.send().await)
    }

    /// Changes affiliations of a node, except the owner's; `None` removes one. Returns false if there is no such node.
    pub async fn affiliate(
        &self,
        address: &NodeAddress,
        changes: &[(BareJid, Option<Affiliation>)],
    ) -> Result<bool, StoreError> {
        let changes: BTreeMap<_, _> = changes.iter().cloned().collect();
        let (mut sets, mut removes) = (Vec::new(), Vec::new());
        let mut update =
            self.update(keys::node(address), keys::NODE_ITEM).condition_expression(format!("attribute_exists({PK})"));
        for (index, (jid, affiliation)) in changes.into_iter().enumerate() {
            update = update.expression_attribute_names(format!("#j{index}"), jid.to_string());
            match affiliation {
                Some(affiliation) => {
                    sets.push(format!("{AFFILIATIONS}.#j{index} = :a{index}"));
                    update = update.expression_attribute_values(format!(":a{index}"), text(affiliation.as_str()));
                }
                None => removes.push(format!("{AFFILIATIONS}.#j{index}")),
            }
        }
        let clause = |name: &str, parts: Vec<String>| match parts.is_empty() {
            true => String::new(),
            false => format!("{name} {} ", parts.join(", ")),
        };
        let expression = clause("SET", sets) + &clause("REMOVE", removes);
        if expression.is_empty() {
            return Ok(true);
        }
        unless_stale("change affiliations of a node", update.update_expression(expression).send().await)
    }

    /// Deletes a node and its owner's reference to it in one transaction.
    pub async fn delete_node(&self, node: &Node) -> Result<(), StoreError> {
        const DELETE: &str = "delete a node";
        let key = keys::node(&node.address);
        let delete = |pk: &str, sk: &str| Delete::builder().table_name(&self.table).key(PK, text(pk)).key(SK, text(sk));
        let mut retries = Retries::new();
        loop {
            let item = delete(&key, keys::NODE_ITEM)
                .condition_expression(format!("attribute_not_exists({PK}) OR {OWNER_JID} = :owner"))
                .expression_attribute_values(":owner", text(&node.owner));
            let parts = [Part::Delete(item.build()), Part::Delete(delete(node.owner.as_str(), &key).build())];
            match self.transact(DELETE, parts).await? {
                TransactionOutcome::Written => {
                    let device = node.device.as_ref().filter(|_| self.one_account);
                    return match device.and_then(PublishOptions::device) {
                        Some(device) => self.release(&keys::device_digest(&device), &node.owner, node.created_at).await,
                        None => Ok(()),
                    };
                }
                // The node was deleted meanwhile, and another owner has a node at the same address.
                TransactionOutcome::Conflict(reasons) if reasons.first().is_some_and(is_unmet) => return Ok(()),
                TransactionOutcome::Conflict(_) => retries.wait(DELETE).await?,
            }
        }
    }
}

fn write(node: &Node) -> Item {
    let affiliations = node.affiliations.iter();
    let affiliations = affiliations.map(|(jid, affiliation)| (jid.to_string(), text(affiliation.as_str()))).collect();
    let mut item = HashMap::from([
        (PK.into(), text(keys::node(&node.address))),
        (SK.into(), text(keys::NODE_ITEM)),
        (OWNER_JID.into(), text(&node.owner)),
        (ACCESS_MODEL.into(), text(node.access_model.as_str())),
        (PUBLISH_MODEL.into(), text(node.publish_model.as_str())),
        (AFFILIATIONS.into(), AttributeValue::M(affiliations)),
        (CREATED_AT.into(), number(node.created_at)),
    ]);
    if let Some(device) = &node.device {
        item.insert(FORM.into(), item::form(device));
    }
    item.extend(node.preferences.as_ref().map(|preferences| (PREFERENCES.into(), item::json(preferences))));
    item.extend(node.encryption.as_ref().map(|encryption| (ENCRYPTION.into(), item::json(encryption))));
    item
}

fn read(address: &NodeAddress, item: &Item) -> Option<Node> {
    let affiliations = item.get(AFFILIATIONS)?.as_m().ok()?.iter();
    let affiliations = affiliations
        .filter_map(|(jid, affiliation)| Some((BareJid::new(jid).ok()?, Affiliation::of(affiliation.as_s().ok()?)?)));
    Some(Node {
        address: address.clone(),
        owner: BareJid::new(item::text_of(item, OWNER_JID)?).ok()?,
        access_model: AccessModel::of(item::text_of(item, ACCESS_MODEL)?)?,
        publish_model: PublishModel::of(item::text_of(item, PUBLISH_MODEL)?)?,
        affiliations: affiliations.collect(),
        device: match item.contains_key(FORM) {
            true => Some(item::read_form(item)?),
            false => None,
        },
        preferences: item::read_json(item, PREFERENCES)?,
        encryption: item::read_json(item, ENCRYPTION)?,
        created_at: item::number_of(item, CREATED_AT)?,
    })
}
