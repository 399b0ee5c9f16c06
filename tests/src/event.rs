//! Builders of events: as a webhook posts them, and as the worker's queue carries them.

use serde::Serialize;
use serde_json::{Value, json};

use crate::{ALICE, ALICES_PC, ago, stanza};

/// An event in Pushlark's own format.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Event(Value);

impl Event {
    /// A chat message from Alice, to one recipient or an array of recipients.
    pub fn message(to: impl Serialize, body: &str) -> Self {
        Self(json!({"type": "message", "from": ALICES_PC, "to": to, "chat": "chat", "body": body}))
    }

    /// A group message from the occupant of a room (`room@host/nick`).
    pub fn groupchat(from: &str, to: impl Serialize, body: &str) -> Self {
        Self::message(to, body).from(from).with("chat", "groupchat")
    }

    /// A message from Alice as a stanza.
    pub fn stanza(to: impl Serialize, stanza: &str) -> Self {
        Self(json!({"type": "message", "from": ALICES_PC, "to": to, "stanza": stanza}))
    }

    /// A chat message from Alice that a session did not acknowledge (XEP-0198).
    pub fn unacknowledged(session: &str, body: &str) -> Self {
        Self::message(session, body).with("type", "unacknowledged")
    }

    /// A contact request: `from` asks to subscribe to the presence of `to`.
    pub fn subscription(from: &str, to: &str) -> Self {
        Self(json!({"type": "subscription", "from": from, "to": to}))
    }

    /// The presence of a session: `online` or `offline`.
    pub fn presence(session: &str, status: &str) -> Self {
        Self(json!({"type": "presence", "jid": session, "status": status}))
    }

    /// A user has read a conversation.
    pub fn read(user: &str, conversation: &str) -> Self {
        Self(json!({"type": "read", "jid": user, "conversation": conversation}))
    }

    /// Creates the event `user_removed`.
    pub fn user_removed(user: &str) -> Self {
        Self(json!({"type": "user_removed", "jid": user}))
    }

    /// Creates the event `domain_removed`.
    pub fn domain_removed(domain: &str) -> Self {
        Self(json!({"type": "domain_removed", "domain": domain}))
    }

    /// Sets the field `from`, the JID of the sender.
    pub fn from(self, from: &str) -> Self {
        self.with("from", from)
    }

    /// Sets the id of the message.
    pub fn id(self, id: &str) -> Self {
        self.with("id", id)
    }

    /// Sets the time of the event, in RFC 3339.
    pub fn at(self, at: impl Serialize) -> Self {
        self.with("at", at)
    }

    /// Sets the field `recipient`, the reported state of the recipient.
    pub fn recipient(self, recipient: Value) -> Self {
        self.with("recipient", recipient)
    }
}

json_builder!(Event);

/// One piece of work in a record of the worker's queue: an event with its id and time.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Work(Value);

impl Work {
    /// The message `m` of now from Alice, with the text `canary Hi`.
    pub fn message(to: &[&str]) -> Self {
        let stanza = stanza::chat("<body>canary Hi</body>");
        Self::of(json!({"message": {"from": ALICE, "to": to, "stanza": stanza}}))
    }

    /// Creates the work that removes a user.
    pub fn user_removed(user: &str) -> Self {
        Self::of(json!({"user_removed": {"jid": user}}))
    }

    /// Creates the work that removes a domain.
    pub fn domain_removed(domain: &str) -> Self {
        Self::of(json!({"domain_removed": {"domain": domain}}))
    }

    /// The work `m` of now with this subject.
    pub fn of(subject: Value) -> Self {
        Self(json!({"id": "m", "at": ago(0), "subject": subject}))
    }

    /// Sets the id of the message.
    pub fn id(self, id: &str) -> Self {
        self.with("id", id)
    }

    /// Sets the time, in RFC 3339.
    pub fn at(self, at: &str) -> Self {
        self.with("at", at)
    }

    /// Sets a field of the message, also to a wrong value.
    pub fn message_field(mut self, field: &str, value: impl Serialize) -> Self {
        self.0["subject"]["message"][field] = json!(value);
        self
    }

    /// Sets the field of this name to a JSON value.
    pub fn with(mut self, field: &str, value: impl Serialize) -> Self {
        self.0[field] = json!(value);
        self
    }

    /// Returns a record of the queue with these pieces of work.
    pub fn record(work: &[Self]) -> Value {
        json!({"version": 2, "work": work})
    }
}
