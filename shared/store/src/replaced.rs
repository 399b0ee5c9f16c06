//! What became of registrations whose device was enabled once more, for explanations.

use std::time::Duration;

use aws_sdk_dynamodb::types::{Delete, Put};
use pushlark_xmpp::BareJid;

use crate::attributes::{CREATED_AT, DOMAIN_SHARD, EXPIRES_AT, JID, NODE, PK, REPLACED_BY, SK};
use crate::item::{self, Item, number, text};
use crate::transaction::Part;
use crate::{Store, expiry, keys, seconds_now};

/// The time for which a replacement is explained.
const LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// A deleted registration of a user: its device was enabled once more. The last one of a device is known for 30 days,
/// unless that of another device takes its place: of each user, at most [`keys::MAX_REPLACED`] are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The PubSub service of the registration.
    pub jid: BareJid,
    /// The node of the registration.
    pub node: String,
    /// What has the device now.
    pub by: ReplacedBy,
}

/// What has the device of a deleted registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplacedBy {
    /// Another node of the same user.
    AnotherNode,
    /// Another user.
    AnotherUser,
}

impl ReplacedBy {
    /// Returns the explanation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnotherNode => "replaced by another node of the same device",
            Self::AnotherUser => "another user enabled the device",
        }
    }

    /// Logs that the registration or push node of this key is deleted.
    pub(crate) fn log(self, user: &BareJid, key: &str) {
        let jid = keys::pubsub_jid(key);
        match keys::is_push_node(key) {
            true => tracing::info!(owner = %user, jid, "node deleted: {}", self.as_str()),
            false => tracing::info!(%user, jid, "disabled: {}", self.as_str()),
        }
    }
}

impl Replaced {
    pub(crate) fn read(item: &Item) -> Option<Self> {
        let is_over = item::number_of(item, EXPIRES_AT).is_some_and(|at| at <= seconds_now());
        let by = match item::text_of(item, REPLACED_BY)? {
            "node" => ReplacedBy::AnotherNode,
            "user" => ReplacedBy::AnotherUser,
            _ => return None,
        };
        let jid = BareJid::new(item::text_of(item, JID)?).ok().filter(|_| !is_over)?;
        Some(Self { jid, node: item::text_of(item, NODE)?.into(), by })
    }
}

impl Store {
    /// Returns the part that records the replacement of a registration of `user` at `at`, in microseconds since 1970.
    pub(crate) fn put_replaced(&self, user: &BareJid, device: &str, replaced: &Replaced, at: u64) -> Part {
        let by = match replaced.by {
            ReplacedBy::AnotherNode => "node",
            ReplacedBy::AnotherUser => "user",
        };
        let put = Put::builder()
            .table_name(&self.table)
            .item(PK, text(user))
            .item(SK, text(keys::replaced(device)))
            .item(JID, text(&replaced.jid))
            .item(NODE, text(&replaced.node))
            .item(REPLACED_BY, text(by))
            .item(CREATED_AT, number(at))
            .item(DOMAIN_SHARD, text(keys::domain_shard(user)))
            .item(EXPIRES_AT, number(expiry(LIFETIME)));
        Part::Put(put.build())
    }

    /// Returns the part that deletes the record.
    pub(crate) fn delete_replaced(&self, user: &BareJid, device: &str) -> Part {
        let delete =
            Delete::builder().table_name(&self.table).key(PK, text(user)).key(SK, text(keys::replaced(device)));
        Part::Delete(delete.build())
    }
}
