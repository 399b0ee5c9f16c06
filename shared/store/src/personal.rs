//! All data of one user, for the operator who exports or erases it.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_model::Preferences;
use pushlark_model::time::from_micros;
use pushlark_xmpp::BareJid;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::attributes::{
    ACCOUNTS, ADDED_AT, AFFILIATIONS, COUNTED_AT, CREATED_AT, DEVICE_DIGEST, ENCRYPTION, EXPIRES_AT, FIRST_ENABLED_AT,
    GONE_AT, OFFLINE_AT, OWNER_JID, PK, PREFERENCES, READ_ALL_BEFORE, READ_AT, SHOWN_AT, SINCE, SK, TIED_AT,
    UNREACHABLE_SINCE,
};
use crate::item::{self, Item, number, text};
use crate::{MAX_CONCURRENT_WRITES, Store, StoreError, keys, unless_stale};

/// The most searches of an erasure. Functions may store more about the user meanwhile.
const MAX_SEARCHES: usize = 3;
/// The attributes with times in microseconds since 1970.
const MICROS: [&str; 10] = [
    CREATED_AT,
    ADDED_AT,
    FIRST_ENABLED_AT,
    SINCE,
    OFFLINE_AT,
    TIED_AT,
    COUNTED_AT,
    READ_AT,
    READ_ALL_BEFORE,
    SHOWN_AT,
];
/// The attributes with times in seconds since 1970.
const SECONDS: [&str; 3] = [EXPIRES_AT, UNREACHABLE_SINCE, GONE_AT];

/// The kind of a user's item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKind {
    /// A registration, with the token of its device.
    Registration,
    /// The name of the registration that was added last.
    LatestRegistration,
    /// The name of a registration whose device was enabled once more.
    ReplacedRegistration,
    /// The times of the last alerts that made a sound.
    SentAlerts,
    /// A session: whether it is online.
    Session,
    /// The unread messages of a conversation.
    UnreadCounter,
    /// The read messages of a conversation.
    ReadMark,
    /// A message that these two have forgotten.
    CountedMessage,
    /// The registrations that were notified of a conversation.
    ShownConversation,
    /// A push node, with the token of its device.
    PushNode,
    /// A reference to a push node.
    PushNodeReference,
    /// The name of the push node that was added last.
    LatestPushNode,
    /// The answers of a push service about the device of a push node.
    DeviceAnswers,
    /// The entry of the user in the item of a device that several users had.
    DeviceAccount,
    /// The number of the user's requests in a minute, with `RATE_LIMIT`.
    RateCount,
    /// An item of the user that this version does not know.
    Other,
}

/// An item of the table that is about a user.
#[derive(Debug, Clone)]
pub struct PersonalItem {
    /// The kind.
    pub kind: ItemKind,
    item: Item,
}

/// The place of a user's JID in an item that does not belong to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mention {
    /// Another user's unread messages of the conversation with the user.
    UnreadCounter,
    /// Another user's read messages of the conversation with the user.
    ReadMark,
    /// The registrations of another user that were notified of the conversation with the user.
    ShownConversation,
    /// The user's affiliation to another user's push node.
    Affiliation,
    /// The user's entry in the item of a device.
    DeviceAccount,
    /// The number of the user's requests in a minute.
    RateCount,
    /// An item that belongs to the user, to which no reference led.
    Own,
    /// Another user's preferences, which mute the user. They are that user's own, and stay.
    Mute,
}

impl ItemKind {
    /// Returns the name, in the plural.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registrations",
            Self::LatestRegistration => "names of the latest registration",
            Self::ReplacedRegistration => "names of replaced registrations",
            Self::SentAlerts => "times of alerts",
            Self::Session => "sessions",
            Self::UnreadCounter => "unread counters",
            Self::ReadMark => "read marks",
            Self::CountedMessage => "counted messages",
            Self::ShownConversation => "notified conversations",
            Self::PushNode => "push nodes",
            Self::PushNodeReference => "references to push nodes",
            Self::LatestPushNode => "names of the latest push node",
            Self::DeviceAnswers => "answers about devices",
            Self::DeviceAccount => "entries of devices",
            Self::RateCount => "request counts",
            Self::Other => "other items",
        }
    }

    fn of(item: &Item) -> Self {
        let key = |name| item::text_of(item, name).unwrap_or_default();
        let (pk, sk) = (key(PK), key(SK));
        match sk {
            _ if keys::rated_account(pk).is_some() => Self::RateCount,
            keys::ACCOUNTS_ITEM => Self::DeviceAccount,
            keys::NODE_ITEM if keys::is_push_node(pk) => Self::PushNode,
            _ if keys::is_push_node(pk) => Self::DeviceAnswers,
            keys::LATEST_REGISTRATION => Self::LatestRegistration,
            keys::LATEST_NODE => Self::LatestPushNode,
            keys::SENT_ALERTS => Self::SentAlerts,
            _ if keys::is_push_node(sk) => Self::PushNodeReference,
            _ => {
                let kinds = [
                    (keys::REGISTRATION_PREFIX, Self::Registration),
                    (keys::REPLACED_PREFIX, Self::ReplacedRegistration),
                    (keys::SESSION_PREFIX, Self::Session),
                    (keys::UNREAD_PREFIX, Self::UnreadCounter),
                    (keys::READ_PREFIX, Self::ReadMark),
                    (keys::COUNTED_PREFIX, Self::CountedMessage),
                    (keys::SHOWN_PREFIX, Self::ShownConversation),
                ];
                kinds.into_iter().find(|(prefix, _)| sk.starts_with(prefix)).map_or(Self::Other, |(_, kind)| kind)
            }
        }
    }
}

impl Mention {
    /// Returns the name, in the plural.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnreadCounter => "unread counters of other users",
            Self::ReadMark => "read marks of other users",
            Self::ShownConversation => "notified conversations of other users",
            Self::Affiliation => "affiliations to push nodes of other users",
            Self::DeviceAccount => "entries of devices",
            Self::RateCount => "request counts",
            Self::Own => "items of the user without a reference",
            Self::Mute => "mutes in the preferences of other users",
        }
    }

    /// Returns the place of the user's JID in an item, if it has one.
    fn of(item: &Item, user: &BareJid) -> Option<Self> {
        let (pk, sk) = (item::text_of(item, PK)?, item::text_of(item, SK)?);
        if pk == user.as_str() || item::text_of(item, OWNER_JID) == Some(user.as_str()) {
            return Some(Self::Own);
        }
        if keys::rated_account(pk) == Some(user.as_str()) {
            return Some(Self::RateCount);
        }
        let has = |map: &str| {
            item.get(map).and_then(|map| map.as_m().ok()).is_some_and(|map| map.contains_key(user.as_str()))
        };
        if has(ACCOUNTS) {
            return Some(Self::DeviceAccount);
        }
        if has(AFFILIATIONS) {
            return Some(Self::Affiliation);
        }
        match sk {
            _ if sk == keys::unread(user) => Some(Self::UnreadCounter),
            _ if sk == keys::read(user) => Some(Self::ReadMark),
            _ if sk == keys::shown(user) => Some(Self::ShownConversation),
            _ => {
                let preferences = item::read_json::<Preferences>(item, PREFERENCES)??;
                preferences.mute.iter().any(|mute| mute.jid == *user).then_some(Self::Mute)
            }
        }
    }
}

impl PersonalItem {
    /// Returns the attributes, with times in RFC 3339. Tokens and keys are not masked.
    pub fn to_json(&self) -> Value {
        let attributes = self.item.iter().map(|(name, value)| (name.clone(), readable(name, value)));
        Value::Object(attributes.collect())
    }
}

fn readable(name: &str, value: &AttributeValue) -> Value {
    match value {
        AttributeValue::N(digits) => match digits.parse::<u64>() {
            Ok(micros) if MICROS.contains(&name) => rfc3339(from_micros(micros)),
            Ok(seconds) if SECONDS.contains(&name) => {
                let at =
                    i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
                at.map_or_else(|| seconds.into(), rfc3339)
            }
            Ok(number) => number.into(),
            Err(_) => digits.clone().into(),
        },
        AttributeValue::S(json) if [PREFERENCES, ENCRYPTION].contains(&name) => {
            serde_json::from_str(json).unwrap_or_else(|_| json.clone().into())
        }
        AttributeValue::S(text) => text.clone().into(),
        AttributeValue::B(bytes) => BASE64_STANDARD.encode(bytes).into(),
        AttributeValue::Bool(value) => (*value).into(),
        AttributeValue::Ss(texts) | AttributeValue::Ns(texts) => texts.clone().into(),
        AttributeValue::Bs(all) => all.iter().map(|bytes| BASE64_STANDARD.encode(bytes)).collect(),
        // The texts of inner attributes have names of their own, such as the fields of a form.
        AttributeValue::L(values) => values.iter().map(|value| readable("", value)).collect(),
        AttributeValue::M(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let is_number = matches!(value, AttributeValue::N(_));
                (name.clone(), readable(if is_number { name } else { "" }, value))
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        _ => Value::Null,
    }
}

fn rfc3339(at: OffsetDateTime) -> Value {
    at.format(&Rfc3339).unwrap_or_default().into()
}

impl Store {
    /// Returns all items about a user to which the keys lead: those in the user's partition, the user's push nodes, the
    /// entries of the user's devices, and the counts of the user's requests. Of a device, only the user's own entry is
    /// returned.
    pub async fn personal_items(&self, user: &BareJid) -> Result<Vec<PersonalItem>, StoreError> {
        let own = self.partition(user.as_str()).await?;
        let mut items = Vec::new();
        for key in own.iter().filter_map(|item| item::text_of(item, SK)).filter(|key| keys::is_push_node(key)) {
            let node = self.partition(key).await?;
            let owner = node.iter().find_map(|item| item::text_of(item, OWNER_JID));
            if owner.is_none_or(|owner| owner == user.as_str()) {
                items.extend(node);
            }
        }
        let devices: BTreeSet<_> = own.iter().chain(&items).flat_map(devices).collect();
        for device in devices {
            let accounts = self.get("read the users of a device", keys::accounts(&device), keys::ACCOUNTS_ITEM).await?;
            items.extend(account(accounts, user));
        }
        for key in self.rate_keys(user.as_str()) {
            items.extend(self.partition(&key).await?);
        }
        let items = items.into_iter().chain(own);
        Ok(items.map(|item| PersonalItem { kind: ItemKind::of(&item), item }).collect())
    }

    /// Deletes all items of [`personal_items`](Self::personal_items), whenever they were stored. `erased` is called for
    /// each. Returns the number of items that were stored meanwhile and are left. After an error, another call continues.
    pub async fn erase_user(&self, user: &BareJid, erased: impl Fn(ItemKind)) -> Result<usize, StoreError> {
        for _ in 0..MAX_SEARCHES {
            let items = self.personal_items(user).await?;
            if items.is_empty() {
                return Ok(0);
            }
            let is_own = |item: &PersonalItem| item::text_of(&item.item, PK) == Some(user.as_str());
            let (own, others): (Vec<_>, Vec<_>) = items.into_iter().partition(is_own);
            // The user's own items lead to the others, so they are deleted last.
            for items in [others, own] {
                let deletions = items.into_iter().map(async |PersonalItem { kind, item }| {
                    match kind {
                        ItemKind::DeviceAccount => self.forget_account(&item, user).await?,
                        _ => self.erase(&item, user).await?,
                    }
                    erased(kind);
                    Ok(())
                });
                let deletions: Vec<_> = deletions.collect();
                stream::iter(deletions).buffer_unordered(MAX_CONCURRENT_WRITES).try_collect::<()>().await?;
            }
        }
        Ok(self.personal_items(user).await?.len())
    }

    /// Searches the whole table for items of others that name a user, and deletes the items or the names in them; mutes
    /// stay. The claims of messages have only hashes of users, so they are not found. `scanned` gets the number of items
    /// of each page, and `found` is called for each place.
    pub async fn erase_mentions(
        &self,
        user: &BareJid,
        scanned: impl Fn(usize),
        found: impl Fn(Mention),
    ) -> Result<(), StoreError> {
        let mut pages = self.client.scan().table_name(&self.table).into_paginator().send();
        while let Some(page) = pages.next().await {
            let items = page.map_err(StoreError::during("be searched"))?.items.unwrap_or_default();
            let number = items.len();
            for item in items {
                let Some(mention) = Mention::of(&item, user) else { continue };
                match mention {
                    Mention::Mute => {}
                    Mention::DeviceAccount => self.forget_account(&item, user).await?,
                    Mention::Affiliation => self.forget_affiliation(&item, user).await?,
                    Mention::Own if item.contains_key(OWNER_JID) => {
                        for item in self.partition(item::text_of(&item, PK).unwrap_or_default()).await? {
                            self.erase(&item, user).await?;
                        }
                    }
                    _ => self.erase(&item, user).await?,
                }
                found(mention);
            }
            scanned(number);
        }
        Ok(())
    }

    /// Reads all items of a partition.
    async fn partition(&self, pk: &str) -> Result<Vec<Item>, StoreError> {
        let mut pages = self
            .query()
            .key_condition_expression(format!("{PK} = :pk"))
            .expression_attribute_values(":pk", text(pk))
            .into_paginator()
            .send();
        let mut items = Vec::new();
        while let Some(page) = pages.next().await {
            items.extend(page.map_err(StoreError::during("list the items of a user"))?.items.unwrap_or_default());
        }
        Ok(items)
    }

    /// Deletes an item, unless it has become the push node of another user.
    async fn erase(&self, item: &Item, user: &BareJid) -> Result<(), StoreError> {
        let key = item.iter().filter(|(name, _)| *name == PK || *name == SK);
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key.map(|(name, value)| (name.clone(), value.clone())).collect()))
            .condition_expression(format!("attribute_not_exists({OWNER_JID}) OR {OWNER_JID} = :user"))
            .expression_attribute_values(":user", text(user))
            .send()
            .await;
        unless_stale("delete an item", deleted).map(drop)
    }

    /// Deletes the entry of a user in the item of a device, of any version.
    async fn forget_account(&self, item: &Item, user: &BareJid) -> Result<(), StoreError> {
        const FORGET: &str = "delete an entry of a device";
        let pk = item::text_of(item, PK).unwrap_or_default();
        let has_entry = format!("attribute_exists({ACCOUNTS}.#user)");
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(PK, text(pk))
            .key(SK, text(keys::ACCOUNTS_ITEM))
            .condition_expression(format!("{has_entry} AND size({ACCOUNTS}) = :one"))
            .expression_attribute_names("#user", user.as_str())
            .expression_attribute_values(":one", number(1))
            .send()
            .await;
        if unless_stale(FORGET, deleted)? {
            return Ok(());
        }
        let removed = self
            .update(pk, keys::ACCOUNTS_ITEM)
            .update_expression(format!("REMOVE {ACCOUNTS}.#user"))
            .condition_expression(has_entry)
            .expression_attribute_names("#user", user.as_str())
            .send()
            .await;
        unless_stale(FORGET, removed).map(drop)
    }

    async fn forget_affiliation(&self, item: &Item, user: &BareJid) -> Result<(), StoreError> {
        let removed = self
            .update(item::text_of(item, PK).unwrap_or_default(), keys::NODE_ITEM)
            .update_expression(format!("REMOVE {AFFILIATIONS}.#user"))
            .condition_expression(format!("attribute_exists({AFFILIATIONS}.#user)"))
            .expression_attribute_names("#user", user.as_str())
            .send()
            .await;
        unless_stale("delete an affiliation of a node", removed).map(drop)
    }
}

/// Returns the digests of the devices in an item.
fn devices(item: &Item) -> impl Iterator<Item = String> {
    let listed = item::text_of(item, DEVICE_DIGEST).map(str::to_owned);
    let own = item::read_form(item).and_then(|options| Some(keys::device_digest(&options.device()?)));
    listed.into_iter().chain(own)
}

/// Returns the item of a device with the entry of one user alone; `None` if the user has no entry.
fn account(mut accounts: Item, user: &BareJid) -> Option<Item> {
    let entry = accounts.get(ACCOUNTS)?.as_m().ok()?.get(user.as_str())?.clone();
    accounts.insert(ACCOUNTS.into(), AttributeValue::M([(user.to_string(), entry)].into()));
    Some(accounts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(pk: &str, sk: &str) -> Item {
        Item::from([(PK.into(), text(pk)), (SK.into(), text(sk))])
    }

    #[test]
    fn an_item_has_the_kind_of_its_keys() {
        for (pk, sk, kind) in [
            ("bob@example.com", "reg", ItemKind::LatestRegistration),
            ("bob@example.com", "reg/push.example.com/n", ItemKind::Registration),
            ("bob@example.com", "replaced/0", ItemKind::ReplacedRegistration),
            ("bob@example.com", "node", ItemKind::LatestPushNode),
            ("bob@example.com", "node/push.example.com/n", ItemKind::PushNodeReference),
            ("node/push.example.com/n", "node", ItemKind::PushNode),
            ("node/push.example.com/n", "device/1/0", ItemKind::DeviceAnswers),
            ("device/0", "accounts", ItemKind::DeviceAccount),
            ("rate/bob@example.com", "1", ItemKind::RateCount),
            ("bob@example.com", "unread/ann@example.com", ItemKind::UnreadCounter),
            ("bob@example.com", "later/x", ItemKind::Other),
        ] {
            assert_eq!(ItemKind::of(&of(pk, sk)), kind, "{pk} {sk}");
        }
    }

    #[test]
    fn an_item_of_others_names_a_user_in_its_keys_or_in_its_attributes() {
        let bob = BareJid::new("bob@example.com").unwrap();
        let ann = |sk: &str, name: &str, value: AttributeValue| {
            let mut item = of("ann@example.com", sk);
            item.insert(name.into(), value);
            Mention::of(&item, &bob)
        };
        let none = || AttributeValue::Null(true);
        let map = || AttributeValue::M([("bob@example.com".to_owned(), none())].into());
        assert_eq!(ann("unread/bob@example.com", "x", none()), Some(Mention::UnreadCounter));
        assert_eq!(ann("unread/bob@example.com.org", "x", none()), None);
        assert_eq!(ann("read/bob@example.com", "x", none()), Some(Mention::ReadMark));
        assert_eq!(ann("shown/bob@example.com", "x", none()), Some(Mention::ShownConversation));
        assert_eq!(ann("node", AFFILIATIONS, map()), Some(Mention::Affiliation));
        assert_eq!(ann("accounts", ACCOUNTS, map()), Some(Mention::DeviceAccount));
        assert_eq!(ann("node", OWNER_JID, text("bob@example.com")), Some(Mention::Own));
        let mutes = text(r#"{"mute": [{"jid": "bob@example.com"}]}"#);
        assert_eq!(ann("reg/push.example.com/n", PREFERENCES, mutes), Some(Mention::Mute));
        for (pk, mention) in [
            ("rate/bob@example.com", Some(Mention::RateCount)),
            ("rate/2/bob@example.com", Some(Mention::RateCount)),
            ("rate/2/push-node/bob@example.com", Some(Mention::RateCount)),
            ("rate/bob@example.com.org", None),
            ("msg/bob@example.com/1", None),
        ] {
            assert_eq!(Mention::of(&of(pk, "1"), &bob), mention, "{pk}");
        }
    }
}
