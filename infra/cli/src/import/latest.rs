//! The latest rows of a source: of several for one node or one device, the latest is imported, in any order of the rows.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use pushlark_model::Registration;
use pushlark_store::RegistrationDigest;
use pushlark_xmpp::BareJid;

/// The latest row of each node and each device, as hashes: about 300 bytes for each row.
#[derive(Debug)]
pub struct Latest {
    hasher: RandomState,
    /// Whether a device belongs to one user (`DEVICE_ACCOUNTS=one`).
    has_one_account: bool,
    rows: u64,
    nodes: HashMap<NodeHash, LatestOfNode>,
    devices: HashMap<DeviceHash, LatestOfDevice>,
    /// The users of `ordered`.
    users: Vec<u64>,
    /// The latest rows of each user, the latest first.
    ordered: Vec<RegistrationDigest>,
}

/// The hashes of a user, and of a PubSub service with a node.
type NodeHash = (u64, u64);
/// The hashes of a user, or 0 for all users, and of a device.
type DeviceHash = (u64, u64);

#[derive(Debug)]
struct LatestOfNode {
    digest: RegistrationDigest,
    /// Its place in the source.
    row: u64,
    /// Whether [`Latest::earlier`] has seen it.
    is_seen: Cell<bool>,
}

#[derive(Debug)]
struct LatestOfDevice {
    node: NodeHash,
    created_at: u64,
}

impl Latest {
    pub fn new(has_one_account: bool) -> Self {
        Self {
            hasher: RandomState::new(),
            has_one_account,
            rows: 0,
            nodes: HashMap::new(),
            devices: HashMap::new(),
            users: Vec::new(),
            ordered: Vec::new(),
        }
    }

    /// Adds the next row of the source. Of rows with the same time, the first counts.
    pub fn add(&mut self, user: &BareJid, registration: &Registration) {
        let digest = RegistrationDigest::of(registration);
        let (node, device) = self.hashes(user, &digest);
        let created_at = digest.created_at;
        let row = self.rows;
        self.rows += 1;
        if self.nodes.get(&node).is_none_or(|latest| latest.digest.created_at < created_at) {
            self.nodes.insert(node, LatestOfNode { digest, row, is_seen: Cell::new(false) });
        }
        if let Some(device) = device
            && self.devices.get(&device).is_none_or(|latest| latest.created_at < created_at)
        {
            self.devices.insert(device, LatestOfDevice { node, created_at });
        }
    }

    /// Sorts the rows after the last one is added.
    pub fn finish(mut self) -> Self {
        let of_device = |node: &NodeHash, digest: &RegistrationDigest| match digest.device {
            Some(device) => self.devices.get(&self.device_hash(node.0, device)).is_none_or(|it| it.node == *node),
            None => true,
        };
        let latest = self.nodes.iter().filter(|(node, latest)| of_device(node, &latest.digest));
        let mut latest: Vec<_> = latest.map(|(node, latest)| (node.0, latest.row, latest.digest)).collect();
        latest.sort_unstable_by_key(|(user, row, digest)| (*user, Reverse(digest.created_at), *row));
        self.users = latest.iter().map(|(user, ..)| *user).collect();
        self.ordered = latest.into_iter().map(|(.., digest)| digest).collect();
        self
    }

    /// Returns the registrations of a user that are imported unless the table has later ones, the latest first.
    pub fn of(&self, user: &BareJid) -> &[RegistrationDigest] {
        let user = self.hasher.hash_one(user.as_str());
        let begin = self.users.partition_point(|other| *other < user);
        let end = self.users.partition_point(|other| *other <= user);
        &self.ordered[begin..end]
    }

    /// Returns why another row of the source counts in place of this one. The rows are asked for in the order of the
    /// source.
    pub fn reason(&self, user: &BareJid, registration: &Registration) -> Option<&'static str> {
        let digest = RegistrationDigest::of(registration);
        let (node, device) = self.hashes(user, &digest);
        // A database may have changed since its rows were added.
        let latest = self.nodes.get(&node)?;
        if latest.digest.created_at > digest.created_at {
            return Some("the source has a later row of the node");
        }
        let is_latest = latest.digest == digest && !latest.is_seen.replace(true);
        if latest.digest.created_at == digest.created_at && !is_latest {
            return Some("a duplicate row: another one has the same node and time");
        }
        let other = device.and_then(|device| self.devices.get(&device)).filter(|other| other.node != node)?;
        (other.created_at >= digest.created_at).then_some(match other.node.0 == node.0 {
            true => "the source has the device at another node, as late or later",
            false => "the source has the device of another user, as late or later",
        })
    }

    fn hashes(&self, user: &BareJid, digest: &RegistrationDigest) -> (NodeHash, Option<DeviceHash>) {
        let user = self.hasher.hash_one(user.as_str());
        ((user, digest.key), digest.device.map(|device| self.device_hash(user, device)))
    }

    fn device_hash(&self, user: u64, device: u64) -> DeviceHash {
        (if self.has_one_account { 0 } else { user }, device)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use pushlark_model::PublishOptions;

    use super::*;

    const NODE: Option<&str> = Some("the source has a later row of the node");
    const DUPLICATE: Option<&str> = Some("a duplicate row: another one has the same node and time");
    const DEVICE: Option<&str> = Some("the source has the device at another node, as late or later");
    const USER: Option<&str> = Some("the source has the device of another user, as late or later");

    /// Checks the reasons of rows: the user, the node, the device, the time and the reason.
    fn check(has_one_account: bool, rows: &[(&str, &str, &str, u64, Option<&str>)]) -> Latest {
        let read = |(user, node, device, at): (&str, &str, &str, u64)| {
            let form = BTreeMap::from([("service", "fcm"), ("device_id", device)]);
            let form = form.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let jid = BareJid::new("push.example.com").unwrap();
            let registration = Registration::new(jid, node.into(), PublishOptions::new(form).unwrap(), at);
            (BareJid::new(&format!("{user}@example.com")).unwrap(), registration)
        };
        let mut latest = Latest::new(has_one_account);
        for (user, node, device, at, _) in rows {
            let (user, registration) = read((user, node, device, *at));
            latest.add(&user, &registration);
        }
        let latest = latest.finish();
        for (user, node, device, at, reason) in rows {
            let (user, registration) = read((user, node, device, *at));
            assert_eq!(latest.reason(&user, &registration), *reason, "{user} {node} {device} {at}");
        }
        latest
    }

    #[test]
    fn the_latest_row_of_a_node_and_of_a_device_counts() {
        let latest = check(
            false,
            &[
                ("bob", "a", "1", 20, NODE),
                ("eve", "a", "1", 30, None),
                ("bob", "a", "0", 10, NODE),
                // The device moved to the node `a`, which then got another one.
                ("bob", "b", "1", 10, DEVICE),
                ("bob", "a", "2", 50, None),
                ("bob", "a", "2", 50, DUPLICATE),
                ("bob", "a", "3", 50, DUPLICATE),
                ("bob", "c", "4", 60, None),
            ],
        );
        let of = |user| latest.of(&BareJid::new(user).unwrap()).iter().map(|row| row.created_at).collect::<Vec<_>>();
        assert_eq!((of("bob@example.com"), of("eve@example.com")), (vec![60, 50], vec![30]));
        assert!(of("dora@example.com").is_empty());
        check(true, &[("bob", "a", "1", 10, USER), ("eve", "b", "1", 20, None), ("eve", "c", "1", 20, DEVICE)]);
    }
}
