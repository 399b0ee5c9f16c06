//! Registrations.

use pushlark_xmpp::BareJid;

use crate::PublishOptions;

/// The PubSub node to which a user wants notifications published (XEP-0357, section 5); MongooseIM's publish service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The PubSub service, virtual or real.
    pub jid: BareJid,
    /// The node's name.
    pub node: String,
    /// The form of the enable request.
    pub options: PublishOptions,
    /// The time of the enable request, in microseconds since 1970. It is the registration's version: a later enable request
    /// has a later time.
    pub created_at: u64,
}
