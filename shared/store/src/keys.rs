//! The keys of the table. A part that would make a key too long for DynamoDB (2,048 bytes for a partition key,
//! 1,024 for a sort key: "Service, account, and table quotas in Amazon DynamoDB") is replaced by a hash.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use pushlark_model::{Device, DeviceAddress, Registration, claim_slot};
use pushlark_xmpp::{BareJid, DomainPart, Jid};
use sha2::{Digest, Sha256};

use crate::NodeAddress;

/// The sort key of the item that names the registration added last. It sorts before all registrations, see
/// [`Latest`](crate::transaction::Latest).
pub const LATEST_REGISTRATION: &str = "reg";
/// The prefix of the sort key of a registration.
pub const REGISTRATION_PREFIX: &str = "reg/";
/// The prefix of the sort key of a user's item about a replaced registration.
pub const REPLACED_PREFIX: &str = "replaced/";
/// The most items about replaced registrations of one user: one for each first digit of a device's digest.
pub const MAX_REPLACED: usize = 16;
/// The sort key of a user's item about the last alerts that made a sound.
pub const SENT_ALERTS: &str = "sent-alerts";
/// The prefix of the names of its attributes for devices and conversations.
pub const ALERT_PREFIX: &str = "a:";
/// The prefix of the sort key of a session.
pub const SESSION_PREFIX: &str = "ses/";
/// The prefix of the sort key of an unread counter.
pub const UNREAD_PREFIX: &str = "unread/";
/// The end of the range with all keys of a recipient and its unread counters: `0` follows `/` in ASCII.
pub const UNREAD_LAST: &str = "unread0";
/// The prefix of the sort key of a counted message that its counter has forgotten.
pub const COUNTED_PREFIX: &str = "counted/";
/// The prefix of the sort key of an item that remembers what a user has read of a conversation.
pub const READ_PREFIX: &str = "read/";
/// The prefix of the sort key of an item that names the registrations that were notified of a conversation.
pub const SHOWN_PREFIX: &str = "shown/";
/// The prefix of the partition key of a node, and of the sort key of its owner's reference to it.
pub const NODE_PREFIX: &str = "node/";
/// The sort key of a user's item that names the node added last. It sorts before all references to nodes.
pub const LATEST_NODE: &str = "node";
/// The end of the range with [`LATEST_NODE`] and all references to nodes: `0` follows `/` in ASCII.
pub const NODES_LAST: &str = "node0";
/// The sort key of a node in the node's own partition.
pub const NODE_ITEM: &str = "node";
/// The prefix of the sort keys of a node's devices in the same partition.
pub const DEVICE_PREFIX: &str = "device/";
/// The sort key of the item that lists the users of a device, in the device's own partition.
pub const ACCOUNTS_ITEM: &str = "accounts";
/// The prefix of the names of a counter's attributes for the ids of events.
const COUNTED_MESSAGE_PREFIX: &str = "m/";
/// The prefix of the names of a counter's attributes for the ids to which read marks refer.
const MESSAGE_REFERENCE_PREFIX: &str = "r/";
/// The prefix of the names of a counter's attributes for the claims of messages.
const MESSAGE_CLAIM_PREFIX: &str = "c/";
/// The start of the range with all registrations of a recipient, followed by the replaced ones, the last alerts and all
/// sessions.
pub const RECIPIENT_FIRST: &str = LATEST_REGISTRATION;
/// The end of that range: `0` follows `/` in ASCII.
pub const RECIPIENT_LAST: &str = "ses0";

/// The number of partitions of the index over which a domain is spread. It must not change for a table that has items.
const DOMAIN_SHARDS: u8 = 16;

pub fn registration_key(registration: &Registration) -> String {
    self::registration(&registration.jid, &registration.node)
}

pub fn registration(jid: &BareJid, node: &str) -> String {
    format!("{REGISTRATION_PREFIX}{}/{node}", bounded(jid.as_str(), 500))
}

/// Returns the PubSub service in the key of a registration or node: its JID, or a hash of a long JID.
pub fn pubsub_jid(key: &str) -> &str {
    let service = key.strip_prefix(REGISTRATION_PREFIX).or_else(|| key.strip_prefix(NODE_PREFIX));
    service.unwrap_or_default().split('/').next().unwrap_or_default()
}

/// Returns the sort key of a session. A bare JID stands for the one session without a resource.
pub fn session(session: &Jid) -> String {
    format!("{SESSION_PREFIX}{}", bounded(session.resource().unwrap_or_default(), 1000))
}

pub fn unread(conversation: &BareJid) -> String {
    format!("{UNREAD_PREFIX}{}", bounded(conversation.as_str(), 1000))
}

pub fn read(conversation: &BareJid) -> String {
    format!("{READ_PREFIX}{}", bounded(conversation.as_str(), 1000))
}

pub fn shown(conversation: &BareJid) -> String {
    format!("{SHOWN_PREFIX}{}", bounded(conversation.as_str(), 1000))
}

/// Returns the partition key of a node, which is also the sort key of its owner's reference to it.
pub fn node(address: &NodeAddress) -> String {
    format!("{NODE_PREFIX}{}/{}", bounded(address.jid.as_str(), 500), address.node)
}

/// Returns whether the sort key in a user's partition is that of a reference to a push node.
pub fn is_push_node(key: &str) -> bool {
    key.starts_with(NODE_PREFIX)
}

/// Returns a digest of a device, in hexadecimal digits. The device cannot be found from it.
pub fn device_digest(device: &Device<'_>) -> String {
    let (kind, address) = match &device.address {
        DeviceAddress::Token(token) => ("device_id", &**token),
        DeviceAddress::VoipToken(token) => ("voip_device_id", &**token),
        DeviceAddress::Endpoint(endpoint) => ("endpoint", *endpoint),
    };
    // With their lengths, other parts never give the same text.
    hash(&[device.service, device.app, kind, address].map(|part| format!("{}:{part}", part.len())).concat())
}

/// Returns the partition key of the item that lists the users of a device.
pub fn accounts(device: &str) -> String {
    format!("device/{device}")
}

/// Returns the sort key of a user's item about the registration of this device that was replaced last. The devices of a
/// user share [`MAX_REPLACED`] keys, since each item is read with every message to the user.
pub fn replaced(device: &str) -> String {
    format!("{REPLACED_PREFIX}{}", device.get(..1).unwrap_or(device))
}

/// Returns the sort key of a node's device. Answers about the device count only for this version of the node, and for
/// the options that address the device.
pub fn device(registration: &Registration) -> String {
    let of = |name| registration.options.get(name).unwrap_or_default();
    let digest = hash(&["service", "device_id", "endpoint", "mode", "topic"].map(of).join("\n"));
    format!("{DEVICE_PREFIX}{}/{}", registration.created_at, &digest[..32])
}

/// Returns the name of a counter's attribute for the id of a message's event. It is short, because a counter has many.
pub fn counted_message(id: &str) -> String {
    format!("{COUNTED_MESSAGE_PREFIX}{}", &hash(id)[..16])
}

/// Returns the name of a counter's attribute for the claim of a message: 32 bits of the hash in `counted_message`, the
/// name of the attribute for its id.
pub fn message_claim(counted_message: &str) -> String {
    let digest = counted_message.strip_prefix(COUNTED_MESSAGE_PREFIX).unwrap_or(counted_message);
    format!("{MESSAGE_CLAIM_PREFIX}{}", digest.get(..8).unwrap_or(digest))
}

/// Returns the sort key of a message that its counter has forgotten. `counted_message` is the name of the attribute that
/// the counter had for its id.
pub fn counted(counted_message: &str) -> String {
    let digest = counted_message.strip_prefix(COUNTED_MESSAGE_PREFIX).unwrap_or(counted_message);
    format!("{COUNTED_PREFIX}{digest}")
}

/// Returns the first bytes of the hash of the holder of a claim.
pub fn holder_digest(claimant: &str, generation: u32) -> [u8; 4] {
    let mut digest = [0; 4];
    digest.copy_from_slice(&Sha256::digest(format!("{claimant} {generation}"))[..4]);
    digest
}

/// Returns the first bytes of the hash of a registration, for a claim in a counter: of 20 registrations, two have the
/// same ones for one user in 90,000. Of these two, an unacknowledged message is then notified to one.
pub fn registration_digest(registration: &Registration) -> [u8; 3] {
    let mut digest = [0; 3];
    digest.copy_from_slice(&Sha256::digest(registration_name(registration))[..3]);
    digest
}

/// Returns the name of a counter's attribute for an id to which read marks refer: 48 bits of a hash. If two ids of a
/// conversation have the same one, a read mark reads up to the later message.
pub fn message_reference(id: &str) -> String {
    format!("{MESSAGE_REFERENCE_PREFIX}{}", &hash(id)[..12])
}

/// Returns whether an attribute of a counter is for the id of a message's event.
pub fn is_counted_message(attribute: &str) -> bool {
    attribute.starts_with(COUNTED_MESSAGE_PREFIX)
}

/// Returns whether an attribute of a counter is for an id of a message.
pub fn is_message_name(attribute: &str) -> bool {
    is_counted_message(attribute) || attribute.starts_with(MESSAGE_REFERENCE_PREFIX)
}

/// Returns whether an attribute of a counter is for the claim of a message.
pub fn is_message_claim(attribute: &str) -> bool {
    attribute.starts_with(MESSAGE_CLAIM_PREFIX)
}

/// Returns the partition key of the claims of a message for all recipients in the slot of `user`.
pub fn claims(id: &str, user: &BareJid) -> String {
    format!("msg/{}/{:x}", bounded(id, 256), claim_slot(user.as_str()))
}

/// Returns the partition key of a shard of the number of events of an account. The sort key is the minute. The first
/// shard has the key of an account with a single one. No account begins with a number and a slash.
pub fn rate(account: &str, shard: u32) -> String {
    match shard {
        0 => format!("rate/{account}"),
        _ => format!("rate/{shard}/{account}"),
    }
}

/// Returns the JID or the domain of the account in the partition key of a shard. The accounts of the push node have a
/// prefix before it.
pub fn rated_account(key: &str) -> Option<&str> {
    let account = key.strip_prefix("rate/")?;
    Some(account.rsplit_once('/').map_or(account, |(_, jid)| jid))
}

/// Returns the partition key of the answers of a push service. The sort key is the day.
pub fn answers(push_service: &str) -> String {
    format!("answers/{}", bounded(push_service, 1_000))
}

/// Returns the name of the attribute for the claim of a registration: 48 bits of a hash, since an item has the claims of
/// many recipients. Of ten thousand registrations in one item, two have the same name in one of five million items.
pub fn claim_attribute(user: &BareJid, registration: &Registration) -> String {
    short_hash(&format!("{}:{user}{}", user.as_str().len(), registration_name(registration)), 8)
}

/// Returns the name of the attribute for the unread count of a recipient in the same item.
pub fn counted_attribute(user: &BareJid) -> String {
    short_hash(user.as_str(), 8)
}

/// Returns the digest of a claimant's name: 30 bits of a hash. Two claimants of the same message with the same digest
/// would both publish it.
pub fn claimant_digest(name: &str) -> String {
    short_hash(name, 5)
}

/// The beginning of the names of the attributes for registrations that were notified of a conversation. The colon
/// distinguishes them from the item's other attributes.
pub const SHOWN_ATTRIBUTE_PREFIX: &str = "s:";

/// Returns the name of the attribute for a registration that was notified of a conversation: 64 bits of a hash.
pub fn shown_attribute(registration: &Registration) -> String {
    format!("{SHOWN_ATTRIBUTE_PREFIX}{}", &hash(&registration_name(registration))[..16])
}

/// Returns the name of a registration, unique for its user.
fn registration_name(registration: &Registration) -> String {
    format!("{}/{}", registration.jid, registration.node)
}

/// Returns the name of the attribute for the last alert of a conversation on the device of a registration: 64 bits of a
/// hash.
pub fn alert_attribute(conversation: &BareJid, registration: &Registration) -> String {
    let device = registration_name(registration);
    let digest = hash(&format!("{}:{conversation}{device}", conversation.as_str().len()));
    format!("{ALERT_PREFIX}{}", &digest[..16])
}

/// Returns the name of a message in the value of that attribute: 48 bits of a hash.
pub fn alert_message(id: &str) -> String {
    let mut digest = hash(id);
    digest.truncate(12);
    digest
}

pub fn domain_shard(user: &BareJid) -> String {
    let shard = Sha256::digest(user.as_str())[0] % DOMAIN_SHARDS;
    format!("{}#{shard}", user.domain())
}

pub fn domain_shards(domain: &DomainPart) -> impl Iterator<Item = String> {
    (0..DOMAIN_SHARDS).map(move |shard| format!("{domain}#{shard}"))
}

/// Returns `part`, or `#` and its hash if it has more than `most` bytes. No JID begins with `#`.
fn bounded(part: &str, most: usize) -> Cow<'_, str> {
    if part.len() <= most {
        return Cow::Borrowed(part);
    }
    Cow::Owned(format!("#{}", hash(part)))
}

/// Returns the beginning of a hash: `length` characters of base64url, at most 43.
fn short_hash(text: &str, length: usize) -> String {
    let mut digest = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(text));
    digest.truncate(length);
    digest
}

fn hash(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_xmpp::FullJid;

    use super::*;

    #[test]
    fn keys_of_the_longest_names_fit_dynamodb() {
        let localpart = "a".repeat(1023);
        let domain = [vec!["d".repeat(61); 4].join("."), "e".repeat(4)].join(".");
        let user = BareJid::new(&format!("{localpart}@{domain}")).unwrap();
        assert!(registration(&user, &"n".repeat(512)).len() <= 1024);
        assert!(session(&FullJid::new(&user, &"r".repeat(1023)).unwrap()).len() <= 1024);
        for key in [unread(&user), read(&user), shown(&user)] {
            assert!(key.len() <= 1024);
        }
        assert!(node(&NodeAddress { jid: user.clone(), node: "n".repeat(512) }).len() <= 1024);
        assert!(claims(&"i".repeat(1000), &user).len() <= 2048);
        let other = BareJid::new(&format!("{localpart}@x{}", &domain[1..])).unwrap();
        assert_ne!(registration(&user, "n"), registration(&other, "n"));
    }

    #[test]
    fn the_keys_of_a_recipient_lie_in_one_range() {
        let user = BareJid::new("bob@example.com").unwrap();
        let keys = [registration(&user, "\u{10ffff}"), session(&FullJid::new(&user, "\u{1f9ff}").unwrap())];
        for key in keys {
            assert!((RECIPIENT_FIRST..=RECIPIENT_LAST).contains(&key.as_str()), "{key}");
            assert!(LATEST_REGISTRATION < key.as_str(), "{key}");
        }
        let last_registration = registration(&user, "\u{10ffff}");
        let sent_alerts = SENT_ALERTS.to_owned();
        let in_order = [last_registration, replaced(&"f".repeat(64)), sent_alerts, session(&user.clone().into())];
        assert!(in_order.is_sorted(), "{in_order:?}");
        let alice = BareJid::new("alice@example.com").unwrap();
        for key in [unread(&alice), read(&alice), shown(&alice)] {
            assert!(!(RECIPIENT_FIRST..=RECIPIENT_LAST).contains(&key.as_str()), "{key}");
        }
        let (counter, read) = (unread(&alice), read(&alice));
        let with_counters = RECIPIENT_FIRST..=UNREAD_LAST;
        assert!(with_counters.contains(&counter.as_str()) && RECIPIENT_LAST < counter.as_str());
        for key in [read, counted(&counted_message("m"))] {
            assert!(!with_counters.contains(&key.as_str()), "{key}");
        }
    }

    #[test]
    fn the_keys_of_an_owners_nodes_lie_in_one_range_after_the_key_of_the_latest() {
        let reference =
            node(&NodeAddress { jid: BareJid::new("push.example.com").unwrap(), node: "\u{10ffff}".into() });
        assert!(LATEST_NODE < reference.as_str() && reference.as_str() < NODES_LAST);
        assert!(!(LATEST_NODE..=NODES_LAST).contains(&RECIPIENT_FIRST));
    }

    #[test]
    fn the_key_of_a_registration_contains_its_pubsub_service() {
        assert_eq!(pubsub_jid(&registration(&BareJid::new("push.example.com").unwrap(), "a/b")), "push.example.com");
    }
}
