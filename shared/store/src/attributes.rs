//! The names of the attributes of items. A name never changes: the table holds items of earlier versions.

/// The partition key of every item.
pub const PK: &str = "pk";
/// The sort key of every item.
pub const SK: &str = "sk";
/// The time after which DynamoDB may delete the item (TTL), in seconds since 1970.
pub const EXPIRES_AT: &str = "expires_at";
/// The partition key of the index `domain`: a domain and a shard.
pub const DOMAIN_SHARD: &str = "domain_shard";
/// The version of a registration or push node, in microseconds since 1970; the sort key of the index `domain`.
pub const CREATED_AT: &str = "created_at";
/// The sort key of the registration or push node that a user added last.
pub const ADDED: &str = "added";
/// The time of that addition, in microseconds since 1970.
pub const ADDED_AT: &str = "added_at";
/// The PubSub service of a registration.
pub const JID: &str = "jid";
/// The node of a registration.
pub const NODE: &str = "node";
/// The publish options of a registration or of the device of a push node: a map of strings.
pub const FORM: &str = "form";
/// The preferences of a registration or push node, as JSON; missing without preferences. An item whose preferences or
/// key this version cannot read is not notified: the notification could show what the user has hidden.
pub const PREFERENCES: &str = "preferences";
/// The key and its limits for the encryption of notifications, as JSON; missing without encryption.
pub const ENCRYPTION: &str = "encryption";
/// The time of the first enable request of a registration, in microseconds since 1970.
pub const FIRST_ENABLED_AT: &str = "first_enabled_at";
/// The name of `first_enabled_at` in items of an earlier version.
pub const TIED_FROM: &str = "tied_from";
/// The number of consecutive answers that report the device as suspect.
pub const SUSPICIONS: &str = "suspicions";
/// The time since which the push service cannot be reached, in seconds since 1970.
pub const UNREACHABLE_SINCE: &str = "unreachable_since";
/// The time of the answer that reports the device of a push node as gone, in seconds since 1970.
pub const GONE_AT: &str = "gone_at";
/// The digest of the device of a registration or push node whose user is listed in the item of the device; in a user's
/// reference to a push node, the digest of the node's device.
pub const DEVICE_DIGEST: &str = "device_digest";
/// The users who have a device: a map from bare JIDs to the key and version of a registration or push node.
pub const ACCOUNTS: &str = "accounts";
/// What has the device of a deleted registration: `node` or `user`.
pub const REPLACED_BY: &str = "replaced_by";
/// Whether a session is online.
pub const IS_ONLINE: &str = "is_online";
/// Whether the client of an online session is inactive (XEP-0352). Missing in items of earlier versions: active.
pub const IS_INACTIVE: &str = "is_inactive";
/// Whether the presence of an online session has a `show` of `away`, `xa` or `dnd`. Missing in items of earlier
/// versions: it has none.
pub const IS_AWAY: &str = "is_away";
/// The time of the last presence of a session, in microseconds since 1970.
pub const SINCE: &str = "since";
/// The time at which a session went offline last, in microseconds since 1970.
pub const OFFLINE_AT: &str = "offline_at";
/// The sort key of the registration that a session enabled last.
pub const REGISTRATION: &str = "registration";
/// The version of that registration, in microseconds since 1970.
pub const TIED_AT: &str = "tied_at";
/// The number of messages of a conversation that were ever counted.
pub const COUNTED_TOTAL: &str = "counted_total";
/// The time of the last counted message, in microseconds since 1970.
pub const COUNTED_AT: &str = "counted_at";
/// Whether no message of the conversation was read before the counter was created.
pub const IS_FIRST: &str = "is_first";
/// Whether messages that a counter or the item of a read mark has forgotten have items of their own.
pub const HAS_MOVED: &str = "moved";
/// The claim of a message that its counter has forgotten.
pub const COUNTED_CLAIM: &str = "claim";
/// The part of `counted_total` that the user has read.
pub const READ_TOTAL: &str = "read_total";
/// The time at which the user read the conversation last, in microseconds since 1970.
pub const READ_AT: &str = "read_at";
/// The time before which the user has read all messages, in microseconds since 1970. A read mark with an unknown message
/// sets `read_at` alone: it may not have read the messages after this one.
pub const READ_ALL_BEFORE: &str = "read_all_before";
/// The unread count of a claimed message, or of one that its counter has forgotten.
pub const UNREAD: &str = "unread";
/// The time of the last notification of a conversation, in microseconds since 1970.
pub const SHOWN_AT: &str = "shown_at";
/// The owner of a push node: a bare JID.
pub const OWNER_JID: &str = "owner_jid";
/// The access model of a push node (XEP-0060, section 4.5).
pub const ACCESS_MODEL: &str = "access_model";
/// The publish model of a push node (XEP-0060, section 16.4.3).
pub const PUBLISH_MODEL: &str = "publish_model";
/// The affiliations of a push node: a map from bare JIDs to names.
pub const AFFILIATIONS: &str = "affiliations";
/// The number of events of an account in one minute.
pub const ADMITTED: &str = "admitted";
/// The number of answers of a push service in one day that report a device as gone or suspect.
pub const GONE: &str = "gone";
/// The number of deliveries of a push service in the same day.
pub const DELIVERED: &str = "delivered";
