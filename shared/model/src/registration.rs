//! The registration of a device for notifications.

use pushlark_xmpp::BareJid;

use crate::PublishOptions;

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
    /// The time of the enable request, in microseconds since 1970. It is the registration's version: a later enable
    /// request has a later time.
    pub created_at: u64,
}
