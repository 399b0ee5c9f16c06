//! The push node: a PubSub service (XEP-0060, XEP-0357) to which other servers publish.

use doubles::canary;
use pushlark_xmpp::{Element, ns};
use tests::{Pushlark, XMPP, stanza};

mod mongooseim;
mod nodes;
mod publish;
mod requests;

const ALICE: &str = "alice@localhost";

const HOST: &str = "push.localhost";

const NODE_CONFIG: &str = "http://jabber.org/protocol/pubsub#node_config";
const ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

const DEVICE: [(&str, &str); 2] = [("device_id", "canary-sometoken"), ("service", "apns")];

const SUMMARY: [(&str, &str); 3] = [
    ("message-count", "876"),
    ("last-message-sender", "senderId"),
    ("last-message-body", "canary message body 576364!!"),
];

/// Starts a stack with a push node at [`HOST`].
async fn stack() -> Pushlark {
    Pushlark::with_settings([("VIRTUAL_PUBSUB_HOSTS", HOST)]).await
}

async fn send_iq(pushlark: &Pushlark, from: &str, kind: &str, id: &str, payload: &str) -> Element {
    send_stanza(pushlark, &stanza::iq_with_id(kind, from, HOST, id, payload)).await
}

async fn send_stanza(pushlark: &Pushlark, iq: &str) -> Element {
    let reply = pushlark.post("/pubsub", XMPP, iq.to_owned()).await;
    assert_eq!((reply.status, reply.content_type()), (200, XMPP), "{}", reply.body);
    Element::parse(&reply.body).unwrap()
}

async fn set(pushlark: &Pushlark, from: &str, payload: &str) -> Element {
    send_iq(pushlark, from, "set", "s1", payload).await
}

fn config(access: &str, publish: &str) -> String {
    let fields = [("pubsub#access_model", access), ("pubsub#publish_model", publish)];
    format!("<configure>{}</configure>", stanza::form(NODE_CONFIG, &fields))
}

/// Returns a publish request whose summary has these fields.
fn publish(node: &str, summary: &[(&str, &str)], options: &[(&str, &str)]) -> String {
    stanza::publish(node, &stanza::notification(&stanza::summary(summary)), options)
}

async fn create(pushlark: &Pushlark, from: &str, node: &str) {
    let reply = set(pushlark, from, &stanza::pubsub(&format!("<create node='{node}' type='push'/>"))).await;
    assert_result(&reply);
}

/// Enables Bob's device at a node.
async fn register(pushlark: &Pushlark, node: &str, device: &str) {
    let device = canary(device);
    let fields = [("service", "fcm"), ("device_id", device.as_str())];
    let enable = stanza::enable(HOST, node, &stanza::publish_options(&fields));
    assert_result(&set(pushlark, "bob@localhost/phone", &enable).await);
}

/// Returns an `<enable/>` or `<disable/>` whose node is given as an attribute, such as ` node='n'`, or empty.
fn toggle(name: &str, node: &str) -> String {
    format!(
        "<{name} xmlns='urn:xmpp:push:0' jid='{HOST}'{node}>{}</{name}>",
        match name {
            "enable" => stanza::publish_options(&DEVICE),
            _ => String::new(),
        }
    )
}

fn assert_result(reply: &Element) {
    assert_eq!(reply.attribute("type"), Some("result"), "{reply}");
}

fn assert_error(reply: &Element, kind: &str, condition: &str, detail: Option<&str>) {
    assert_eq!(reply.attribute("type"), Some("error"), "{reply}");
    let error = reply.child("error", "jabber:client").or_else(|| reply.child("error", "")).unwrap();
    assert_eq!(error.attribute("type"), Some(kind), "{reply}");
    assert!(error.child(condition, ERRORS).is_some(), "{reply}");
    let details: Vec<_> = error.children().filter(|child| child.namespace() == ns::PUBSUB_ERRORS).collect();
    assert_eq!(details.first().map(|detail| detail.name()), detail, "{reply}");
}

/// Returns a publish request that was captured from a chat server.
fn captured(name: &str) -> String {
    let path = format!("{}/fixtures/stanzas/{name}.xml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).expect(&path)
}
