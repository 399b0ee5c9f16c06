//! Events, recipients and registrations, and the decision of rules about them as the worker asks for it.

use std::sync::Arc;

use pushlark_plugin::xmpp::{BareJid, Element, Message, parse_jid};
use pushlark_plugin::{
    ClientState, ContentPolicy, Event, EventKind, Payload, Plugin, Publication, PublishOptions, Recipient, Registration,
};
use pushlark_rules::Rules;
use time::OffsetDateTime;

/// An element of a call.
pub const PROPOSE: &str = "<propose xmlns='urn:xmpp:jingle-message:0' id='c1'/>";
/// The mark of a reply's quote, the first eleven characters of the body.
pub const QUOTE: &str =
    "<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='11'/></fallback>";
/// A hint for storage.
pub const STORE: &str = "<store xmlns='urn:xmpp:hints'/>";

/// The decision about one event.
#[derive(Debug, Default, PartialEq)]
pub struct Decided {
    /// The notifications.
    pub publications: Vec<Publication>,
    /// The nodes of registrations that get none, each with the reason. An event that is skipped has the node `*`.
    pub left_out: Vec<(String, String)>,
    /// The number of rules that should notify, but cannot: the number of warnings.
    pub warnings: usize,
}

impl Decided {
    /// Returns the nodes that are notified.
    pub fn nodes(&self) -> Vec<&str> {
        self.publications.iter().map(|publication| publication.registration.node.as_str()).collect()
    }

    /// Returns the one payload.
    pub fn payload(&self) -> &Payload {
        let [publication] = self.publications.as_slice() else { panic!("{self:?}") };
        &publication.payload
    }

    /// Returns the reasons of the left-out registrations.
    pub fn reasons(&self) -> Vec<&str> {
        self.left_out.iter().map(|(_, reason)| reason.as_str()).collect()
    }
}

/// Returns a message of this type with these children, from `alice@example.com/pc` to `bob@example.com`.
pub fn message(kind: &str, children: &str) -> Event {
    let stanza = format!("<message xmlns='jabber:client' type='{kind}'>{children}</message>");
    Event {
        id: "m1".into(),
        at: OffsetDateTime::now_utc(),
        from: parse_jid("alice@example.com/pc").unwrap(),
        is_occupant: false,
        is_own: false,
        room: None,
        nick: None,
        sender_name: None,
        room_name: None,
        members: 1,
        sender_known: None,
        kind: EventKind::Message(bob()),
        message: Arc::new(Message::from_element(Element::parse(&stanza).unwrap()).unwrap()),
        unread_count: 3,
        content_policy: Arc::new(ContentPolicy::default()),
    }
}

/// Returns a chat message with this text.
pub fn chat(body: &str) -> Event {
    message("chat", &format!("<body>{body}</body>"))
}

/// Returns a message of `alice` in the room `books@muc.example.com`.
pub fn group_message(body: &str) -> Event {
    let event = message("groupchat", &format!("<body>{body}</body>"));
    Event { from: parse_jid("books@muc.example.com/alice").unwrap(), is_occupant: true, members: 3, ..event }
}

/// Returns an invitation of `alice` to the room `books@muc.example.com`.
pub fn invitation(kind: &str) -> Event {
    let event = message(kind, "<x xmlns='jabber:x:conference' jid='books@muc.example.com'/>");
    Event { room: Some(BareJid::new("books@muc.example.com").unwrap()), ..event }
}

/// Returns a contact request of `alice`.
pub fn contact_request() -> Event {
    Event { kind: EventKind::Subscription(bob()), ..message("normal", "") }
}

/// Returns the event of a message that a session of `bob` did not acknowledge.
pub fn unacknowledged(event: Event) -> Event {
    Event { kind: EventKind::Unacknowledged("bob@example.com/phone".parse().unwrap()), ..event }
}

/// Returns the bare JID of the recipient.
pub fn bob() -> BareJid {
    BareJid::new("bob@example.com").unwrap()
}

/// Returns a recipient who is offline.
pub fn offline() -> Recipient {
    Recipient { exists: true, online: false, client_state: None, tied: None, connected: Vec::new() }
}

/// Returns a recipient who is online, with the state of the clients.
pub fn online(client_state: Option<ClientState>) -> Recipient {
    Recipient { online: true, client_state, ..offline() }
}

/// Returns a registration with this node and form.
pub fn device(node: &str, form: &[(&str, &str)]) -> Registration {
    let form = form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let jid = BareJid::new("push.example.com").unwrap();
    Registration::new(jid, node.into(), PublishOptions::new(form).unwrap(), 0)
}

/// Decides about an event for the registrations of a recipient, in the steps of the worker.
pub fn decide(rules: &Rules, event: &Event, recipient: &Recipient, registrations: &[Registration]) -> Decided {
    let payload = match rules.prepare_notification(event) {
        Ok(payload) => payload,
        Err(rule) => {
            let left_out = vec![("*".into(), rule.to_string())];
            return Decided { left_out, warnings: rule.is_failure().into(), ..Decided::default() };
        }
    };
    let choice = rules.should_publish(event, recipient, registrations.to_vec());
    let mut failures: Vec<_> = choice.left_out.iter().map(|(_, rule)| rule).filter(|rule| rule.is_failure()).collect();
    failures.dedup();
    let left_out = choice.left_out.iter().map(|(registration, rule)| (registration.node.clone(), rule.to_string()));
    let chosen = choice.publish.clone();
    let publications = rules.publish_notification(event, recipient, payload, choice.publish.clone());
    assert_eq!(publications.iter().map(|p| &p.registration).collect::<Vec<_>>(), chosen.iter().collect::<Vec<_>>());
    Decided { publications, left_out: left_out.collect(), warnings: failures.len() }
}

/// Decides about an event for one device of a recipient who is offline.
pub fn decide_offline(rules: &str, event: &Event) -> Decided {
    decide(&rules.parse().unwrap(), event, &offline(), &[device("phone", &[("service", "fcm")])])
}

/// Returns whether one rule `push message` with these conditions, as the fields of one table, notifies a device.
pub fn is_met(conditions: &str, event: &Event, recipient: &Recipient, registration: &Registration) -> bool {
    let rule = format!("[[rules]]\nconditions = [{{{conditions}}}]\naction = 'push'\ncontent = 'message'\n");
    // Without a rule about contact requests, the default rules decide about them.
    let rules = rule + "[[rules]]\nconditions = [{kind = 'subscription'}]\naction = 'skip'";
    let rules = rules.parse().unwrap_or_else(|error| panic!("{error}"));
    let decided = decide(&rules, event, recipient, std::slice::from_ref(registration));
    // A call has no content `message`: its rule matches, and fails.
    !decided.publications.is_empty() || decided.warnings > 0
}
