//! The cases of MongooseIM's own tests for `mod_event_pusher_push`, with the same names, at a virtual host. A comment says
//! where Pushlark differs on purpose.

use doubles::canary;
use pushlark_xmpp::ns;
use serde_json::{Value, json};
use tests::{Event, Pushlark, Reply, XMPP, stanza};

mod answers;
mod inbox;
mod notifications;
mod rules;
mod sessions;
mod since_6_9;
mod toggling;
mod webhooks;

const ALICE: &str = "alice@localhost";

const BOB: &str = "bob@localhost";

const KATE: &str = "kate@localhost";

const HOST: &str = "pubsub@virtual.domain";

/// Bob's session in the cases with one session.
const RES1: &str = "bob@localhost/res1";

/// A message of MongooseIM's cases, and the sender in its notification.
struct Sent {
    from: &'static str,
    body: &'static str,
    sender: &'static str,
}

const PM: Sent = Sent { from: "Alice@LocalHost/Res1", body: "OH, HAI!", sender: ALICE };

const MUCLIGHT: Sent = Sent {
    from: "Room@MUClight.localhost/alice@localhost",
    body: "Heyah!",
    sender: "room@muclight.localhost/alice@localhost",
};

impl Sent {
    fn alert(&self) -> Value {
        json!({"body": self.body, "title": self.sender, "tag": self.sender, "badge": 1})
    }

    fn data(&self) -> Value {
        data(self.body, self.sender, 1)
    }
}

fn data(body: &str, sender: &str, count: u32) -> Value {
    json!({"message-count": count, "last-message-sender": sender, "last-message-body": body})
}

async fn stack(setting: &str, value: &str) -> Pushlark {
    Pushlark::with_settings([("VIRTUAL_PUBSUB_HOSTS", "virtual.domain"), (setting, value)]).await
}

async fn defaults() -> Pushlark {
    stack("PLUGIN", "defaults").await
}

async fn iq(pushlark: &Pushlark, path: &str, from: &str, payload: &str) -> Reply {
    let to = from.split('/').next().unwrap();
    pushlark.post(path, XMPP, stanza::iq_with_id("set", from, to, "x43", payload)).await
}

fn form(form_type: &str, fields: &str) -> String {
    let form_type = format!("<field var='FORM_TYPE' type='hidden'><value>{form_type}</value></field>");
    format!("<x xmlns='jabber:x:data' type='submit'>{form_type}{fields}</x>")
}

fn options(options: &[(&str, &str)]) -> String {
    form(ns::PUBLISH_OPTIONS, &options.iter().map(|(name, value)| stanza::field(name, value)).collect::<String>())
}

fn enable_at_host(node: &str, form: &str) -> String {
    stanza::enable(HOST, node, form)
}

/// Enables a node for a device with the same name, of FCM unless the options name another service.
async fn enable(pushlark: &Pushlark, from: &str, node: &str, given: &[(&str, &str)]) {
    let device = canary(node);
    let defaults = [("device_id", device.as_str()), ("service", "fcm")].into_iter();
    let missing = defaults.filter(|(name, _)| !given.iter().any(|(other, _)| other == name));
    let all: Vec<_> = missing.chain(given.iter().copied()).collect();
    let reply = iq(pushlark, "/enable", from, &enable_at_host(node, &options(&all))).await;
    assert_result(&reply);
}

/// Enables a device called `apns` and one called `fcm`.
async fn enable_both(pushlark: &Pushlark, from: &str, options: &[(&str, &str)]) {
    for service in ["apns", "fcm"] {
        enable(pushlark, from, service, &[&[("service", service)], options].concat()).await;
    }
}

/// Enables nodes again without a session. If a tie to a session still existed, an unacknowledged message of that session
/// would notify the node.
async fn enable_again_untied(pushlark: &Pushlark, nodes: &[&str]) {
    for node in nodes {
        enable(pushlark, BOB, node, &[]).await;
    }
}

async fn disable(pushlark: &Pushlark, from: &str, node: &str) {
    let disable = format!("<disable xmlns='urn:xmpp:push:0' jid='{HOST}' {node}/>");
    assert_result(&iq(pushlark, "/disable", from, &disable).await);
}

fn assert_result(reply: &Reply) {
    let is_result = reply.body.contains("type=\"result\"") && reply.body.contains("id=\"x43\"");
    assert!(reply.status == 200 && is_result, "{}", reply.body);
}

fn assert_bad_request(reply: &Reply, request: &str) {
    let is_error = reply.body.contains("type=\"error\"") && reply.body.contains("<error type=\"modify\"><bad-request ");
    assert!(reply.status == 200 && is_error, "{request} was answered with {}", reply.body);
}

/// Posts a message, and waits until the queue is empty. Its body is also its id: the same body is the same message.
async fn post_event(pushlark: &Pushlark, kind: &str, from: &str, to: &str, body: &str) {
    let chat = if from.to_lowercase().contains("@muclight.") { "groupchat" } else { "chat" };
    pushlark.event(Event::message(to, body).with("type", kind).id(body).from(from).with("chat", chat)).await;
    pushlark.settled().await;
}

async fn message(pushlark: &Pushlark, from: &str, to: &str, body: &str) {
    post_event(pushlark, "message", from, to, body).await;
}

async fn unacknowledged(pushlark: &Pushlark, from: &str, session: &str, body: &str) {
    post_event(pushlark, "unacknowledged", from, session, body).await;
}

async fn post_stanza(pushlark: &Pushlark, stanza: &str) {
    pushlark.stanza(stanza).await;
    pushlark.settled().await;
}

async fn presence(pushlark: &Pushlark, session: &str, status: &str) {
    pushlark.event(Event::presence(session, status)).await;
}

/// Waits until the queue is empty, and returns the notifications for a device, the oldest first.
async fn pushed(pushlark: &Pushlark, device: &str) -> Vec<Value> {
    pushlark.settled().await;
    pushlark.notifications(device).await.into_iter().map(|entry| entry["notification"].clone()).collect()
}

async fn assert_silence(pushlark: &Pushlark, device: &str) {
    assert_eq!(pushed(pushlark, device).await, [] as [Value; 0]);
}

async fn texts(pushlark: &Pushlark, device: &str) -> Vec<String> {
    pushlark.settled().await;
    pushlark.alerts(device).await
}
