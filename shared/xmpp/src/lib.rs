//! XMPP stanzas: what Pushlark reads and writes of RFC 6120, XEP-0004, XEP-0357 and their like.
//!
//! JIDs are the `jid` crate's, which normalises them by stringprep as RFC 6122 has it.

mod address;
mod element;
mod form;
mod pubsub;
mod push;
mod stanza;

/// Namespaces, by the name that their specification's title suggests.
pub mod ns {
    /// Data Forms (XEP-0004).
    pub const DATA_FORMS: &str = "jabber:x:data";
    /// Push Notifications (XEP-0357).
    pub const PUSH: &str = "urn:xmpp:push:0";
    /// FORM_TYPE of the options that accompany a publish (XEP-0060, section 7.1.5; XEP-0357, section 6).
    pub const PUBLISH_OPTIONS: &str = "http://jabber.org/protocol/pubsub#publish-options";
    /// FORM_TYPE of what a notification tells (XEP-0357, section 7).
    pub const PUSH_SUMMARY: &str = "urn:xmpp:push:summary";
    /// Publish-Subscribe (XEP-0060).
    pub const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
    /// What the owner of a node asks for (XEP-0060, section 8).
    pub const PUBSUB_OWNER: &str = "http://jabber.org/protocol/pubsub#owner";
    /// Errors of PubSub in detail (XEP-0060).
    pub const PUBSUB_ERRORS: &str = "http://jabber.org/protocol/pubsub#errors";
    /// FORM_TYPE of a node's configuration (XEP-0060, section 8.2).
    pub const NODE_CONFIG: &str = "http://jabber.org/protocol/pubsub#node_config";
    /// What an entity is and can do (XEP-0030).
    pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
    /// The items of an entity (XEP-0030).
    pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
    /// Stanza errors (RFC 6120, section 8.3).
    pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
    /// Unique and stable stanza ids (XEP-0359).
    pub const STANZA_ID: &str = "urn:xmpp:sid:0";
    /// Message processing hints (XEP-0334).
    pub const HINTS: &str = "urn:xmpp:hints";
    /// Calls that are announced by messages (XEP-0353).
    pub const JINGLE_MESSAGE: &str = "urn:xmpp:jingle-message:0";
    /// How far a user has read (XEP-0333).
    pub const CHAT_MARKERS: &str = "urn:xmpp:chat-markers:0";
    /// Copies for a user's other sessions (XEP-0280).
    pub const CARBONS: &str = "urn:xmpp:carbons:2";
    /// The correction of an earlier message (XEP-0308).
    pub const CORRECTION: &str = "urn:xmpp:message-correct:0";
    /// How a message is encrypted (XEP-0380).
    pub const ENCRYPTION: &str = "urn:xmpp:eme:0";
    /// OMEMO (XEP-0384), by the versions in use.
    pub const OMEMO: [&str; 3] = ["eu.siacs.conversations.axolotl", "urn:xmpp:omemo:1", "urn:xmpp:omemo:2"];
    /// OpenPGP (XEP-0373).
    pub const OPENPGP: &str = "urn:xmpp:openpgp:0";
    /// OpenPGP as it was before (XEP-0027).
    pub const LEGACY_OPENPGP: &str = "jabber:x:encrypted";
    /// References, of which a mention is one kind (XEP-0372).
    pub const REFERENCE: &str = "urn:xmpp:reference:0";
    /// Headers of a stanza (XEP-0131).
    pub const HEADERS: &str = "http://jabber.org/protocol/shim";
    /// The stream of a client (RFC 6120, section 4.8.2): the namespace in which Pushlark writes stanzas.
    pub const CLIENT: &str = "jabber:client";
    /// The namespaces that a stanza may be in: none at all, or that of the stream that it was taken from.
    pub const STANZAS: [&str; 4] = ["", CLIENT, "jabber:server", "jabber:component:accept"];
}

pub use address::{InvalidJid, parse_jid};
pub use element::{Element, MAX_DEPTH, MAX_STANZA_BYTES, ParseError, is_xml_text};
pub use form::{DataForm, FormError};
pub use jid::{BareJid, DomainPart, DomainRef, FullJid, Jid, NodePart};
pub use pubsub::{
    AccessModel, Affiliation, GivenOptions, InvalidPubSub, NodeConfig, PubSubRequest, PublishModel,
    PublishNotification, PublishedItem,
};
pub use push::{Disable, Enable, InvalidRequest, MAX_NODE_BYTES};
pub use stanza::{
    Condition, ErrorType, Hint, InvalidStanza, Iq, IqType, Message, MessageType, Presence, PresenceType, StanzaError,
};
