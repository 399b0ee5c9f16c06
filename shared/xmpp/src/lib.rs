//! XMPP stanzas, as far as Pushlark reads and writes them: RFC 6120, XEP-0004, XEP-0060, XEP-0357 and other extensions.
//!
//! Bare JIDs are those of the `jid` crate, which normalises them by stringprep (RFC 6122).

mod address;
mod call;
mod content;
mod displayed;
mod element;
mod escaping;
mod fallback;
mod form;
mod invitation;
mod message;
pub mod ns;
mod pubsub;
mod push;
mod stanza;

pub use address::{FullJid, Jid, JidError, parse_jid};
pub use call::{Call, CallStep};
pub use content::{Content, NoContent};
pub use element::{Element, MAX_DEPTH, MAX_STANZA_BYTES, ParseError, is_xml_text};
pub use escaping::unescaped;
pub use form::{DataForm, FormError};
pub use invitation::{Invitation, InvitationKind};
pub use jid::{BareJid, DomainPart, DomainRef, NodePart};
pub use message::{Message, MessageType, MixParticipant};
pub use pubsub::{
    AccessModel, Affiliation, EncryptedContent, GivenOptions, NodeConfig, NotificationPriority, ProposedCall,
    PubSubRequest, PubSubRequestError, PublishModel, PublishNotification, PublishedContent, PublishedItem,
};
pub use push::{Disable, Enable, EnableExtensions, MAX_NODE_BYTES, PushRequestError};
pub use stanza::{Condition, ErrorType, InvalidStanzaError, Iq, IqType, Presence, PresenceType, StanzaError};
