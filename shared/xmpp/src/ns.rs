//! XML namespaces, named after the title of their specification.

/// Data Forms (XEP-0004).
pub const DATA_FORMS: &str = "jabber:x:data";
/// Push Notifications (XEP-0357).
pub const PUSH: &str = "urn:xmpp:push:0";
/// The start of the namespaces of Tigase's extensions of push notifications.
pub const TIGASE_PUSH: &str = "tigase:push:";
/// Muted conversations (Tigase).
pub const TIGASE_MUTED: &str = "tigase:push:filter:muted:0";
/// The messages of rooms that notify (Tigase).
pub const TIGASE_GROUPCHAT: &str = "tigase:push:filter:groupchat:0";
/// No notification of messages of unknown senders (Tigase).
pub const TIGASE_IGNORE_UNKNOWN: &str = "tigase:push:filter:ignore-unknown:0";
/// The priority of notifications (Tigase).
pub const TIGASE_PRIORITY: &str = "tigase:push:priority:0";
/// Notifications of calls (Tigase).
pub const TIGASE_JINGLE: &str = "tigase:push:jingle:0";
/// Encrypted notifications (Tigase).
pub const TIGASE_ENCRYPT: &str = "tigase:push:encrypt:0";
/// FORM_TYPE of publish options (XEP-0060, section 7.1.5; XEP-0357, section 6).
pub const PUBLISH_OPTIONS: &str = "http://jabber.org/protocol/pubsub#publish-options";
/// FORM_TYPE of the summary in a notification (XEP-0357, section 7).
pub const PUSH_SUMMARY: &str = "urn:xmpp:push:summary";
/// Publish-Subscribe (XEP-0060).
pub const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
/// Requests of a node's owner (XEP-0060, section 8).
pub const PUBSUB_OWNER: &str = "http://jabber.org/protocol/pubsub#owner";
/// PubSub-specific error conditions (XEP-0060).
pub const PUBSUB_ERRORS: &str = "http://jabber.org/protocol/pubsub#errors";
/// Events of Publish-Subscribe (XEP-0060, section 7.1.2).
pub const PUBSUB_EVENT: &str = "http://jabber.org/protocol/pubsub#event";
/// FORM_TYPE of a node's configuration (XEP-0060, section 8.2).
pub const NODE_CONFIG: &str = "http://jabber.org/protocol/pubsub#node_config";
/// Identity and features of an entity (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// The items of an entity (XEP-0030).
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// Stanza errors (RFC 6120, section 8.3).
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// Unique and stable stanza ids (XEP-0359).
pub const STANZA_ID: &str = "urn:xmpp:sid:0";
/// Message processing hints (XEP-0334).
pub const HINTS: &str = "urn:xmpp:hints";
/// Jingle message initiation: calls (XEP-0353).
pub const JINGLE_MESSAGE_INITIATION: &str = "urn:xmpp:jingle-message:0";
/// Displayed markers (XEP-0333).
pub const CHAT_MARKERS: &str = "urn:xmpp:chat-markers:0";
/// Message Displayed Synchronization (XEP-0490).
pub const MESSAGE_DISPLAYED: &str = "urn:xmpp:mds:displayed:0";
/// Message carbons: copies for a user's other sessions (XEP-0280).
pub const CARBONS: &str = "urn:xmpp:carbons:2";
/// Stanza forwarding (XEP-0297).
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// Last message correction (XEP-0308).
pub const CORRECTION: &str = "urn:xmpp:message-correct:0";
/// Message replies (XEP-0461).
pub const REPLY: &str = "urn:xmpp:reply:0";
/// Fallback indication (XEP-0428).
pub const FALLBACK: &str = "urn:xmpp:fallback:0";
/// The namespace of fallback indication in the first version of message replies (XEP-0461, version 0.1).
pub const FEATURE_FALLBACK: &str = "urn:xmpp:feature-fallback:0";
/// Message reactions (XEP-0444).
pub const REACTIONS: &str = "urn:xmpp:reactions:0";
/// Message retraction (XEP-0424).
pub const RETRACTION: &str = "urn:xmpp:message-retract:1";
/// The earlier version of message retraction (XEP-0424, version 0.3), which is fastened to the message.
pub const RETRACTION_0: &str = "urn:xmpp:message-retract:0";
/// Moderated message retraction (XEP-0425).
pub const MODERATION: &str = "urn:xmpp:message-moderate:1";
/// The earlier version of moderation (XEP-0425, version 0.2), which is fastened to the message.
pub const MODERATION_0: &str = "urn:xmpp:message-moderate:0";
/// Message fastening (XEP-0422).
pub const FASTENING: &str = "urn:xmpp:fasten:0";
/// Message delivery receipts (XEP-0184).
pub const RECEIPTS: &str = "urn:xmpp:receipts";
/// Chat state notifications (XEP-0085).
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// Spoiler messages (XEP-0382).
pub const SPOILER: &str = "urn:xmpp:spoiler:0";
/// Multi-User Chat: elements for users (XEP-0045).
pub const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
/// Direct MUC invitations (XEP-0249).
pub const CONFERENCE: &str = "jabber:x:conference";
/// Mediated Information eXchange (XEP-0369).
pub const MIX: &str = "urn:xmpp:mix:core:1";
/// The node of a room's messages for its subscribers (ejabberd's MUC/Sub).
pub const MUCSUB_MESSAGES: &str = "urn:xmpp:mucsub:nodes:messages";
/// Delayed delivery (XEP-0203).
pub const DELAY: &str = "urn:xmpp:delay";
/// The earlier version of delayed delivery (XEP-0091).
pub const LEGACY_DELAY: &str = "jabber:x:delay";
/// Explicit message encryption (XEP-0380).
pub const ENCRYPTION: &str = "urn:xmpp:eme:0";
/// OMEMO (XEP-0384), the versions in use.
pub const OMEMO: [&str; 4] =
    ["eu.siacs.conversations.axolotl", "urn:xmpp:omemo:0", "urn:xmpp:omemo:1", "urn:xmpp:omemo:2"];
/// OpenPGP (XEP-0373).
pub const OPENPGP: &str = "urn:xmpp:openpgp:0";
/// The earlier version of OpenPGP (XEP-0027).
pub const LEGACY_OPENPGP: &str = "jabber:x:encrypted";
/// References, such as mentions (XEP-0372).
pub const REFERENCE: &str = "urn:xmpp:reference:0";
/// Explicit mentions (XEP-0513).
pub const MENTIONS: &str = "urn:xmpp:mentions:0";
/// Stanza headers and internet metadata (XEP-0131).
pub const HEADERS: &str = "http://jabber.org/protocol/shim";
/// The stream of a client (RFC 6120, section 4.8.2). Pushlark writes stanzas in this namespace.
pub const CLIENT: &str = "jabber:client";
/// The namespaces of a stanza: none, or that of its stream.
pub const STANZAS: [&str; 4] = ["", CLIENT, "jabber:server", "jabber:component:accept"];
