//! The registration of a device for notifications.

use pushlark_xmpp::BareJid;

use crate::{Encryption, Preferences, PublishOptions};

/// A PubSub node to which notifications of a user are published (XEP-0357, section 5); MongooseIM calls it a publish
/// service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The JID of the PubSub service, a virtual host or a real one.
    pub jid: BareJid,
    /// The name of the node, unique for the user and the service.
    pub node: String,
    /// The form of the enable request.
    pub options: PublishOptions,
    /// The preferences of the user for this device; `None` if the request has none.
    pub preferences: Option<Box<Preferences>>,
    /// The encryption of the notifications; `None` for none.
    pub encryption: Option<Box<Encryption>>,
    /// The time of the enable request, in microseconds since 1970. It is the registration's version: a later enable
    /// request has a later time.
    pub created_at: u64,
}

impl Registration {
    /// Creates a registration without preferences and encryption.
    pub fn new(jid: BareJid, node: String, options: PublishOptions, created_at: u64) -> Self {
        Self { jid, node, options, preferences: None, encryption: None, created_at }
    }
}
