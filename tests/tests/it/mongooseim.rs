//! The cases of MongooseIM's own tests for `mod_event_pusher_push`, by their names, at a virtual host. Where Pushlark
//! differs on purpose, a comment says so.

use doubles::planted;
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};
use tests::{Pushlark, Reply};

const ALICE: &str = "alice@localhost";
const BOB: &str = "bob@localhost";
const KATE: &str = "kate@localhost";
const HOST: &str = "pubsub@virtual.domain";
/// Bob's session, in the cases that need but one.
const RES1: &str = "bob@localhost/res1";

/// A message as MongooseIM's cases send it, and who its notification says it is from.
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
    let iq = format!("<iq xmlns='jabber:client' type='set' from='{from}' to='{to}' id='x43'>{payload}</iq>");
    pushlark.post(path, "application/xmpp+xml", iq).await
}

fn form(form_type: &str, fields: &str) -> String {
    let form_type = format!("<field var='FORM_TYPE' type='hidden'><value>{form_type}</value></field>");
    format!("<x xmlns='jabber:x:data' type='submit'>{form_type}{fields}</x>")
}

fn options(options: &[(&str, &str)]) -> String {
    let field = |(name, value): &(_, _)| format!("<field var='{name}'><value>{value}</value></field>");
    form("http://jabber.org/protocol/pubsub#publish-options", &options.iter().map(field).collect::<String>())
}

fn enable_at_host(node: &str, form: &str) -> String {
    format!("<enable xmlns='urn:xmpp:push:0' jid='{HOST}' node='{node}'>{form}</enable>")
}

/// Enables a node for a device of the same name, of FCM unless the options say otherwise.
async fn enable(pushlark: &Pushlark, from: &str, node: &str, given: &[(&str, &str)]) {
    let device = planted(node);
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
    assert!(reply.status == 200 && is_error, "{request} was answered: {}", reply.body);
}

async fn nodes(pushlark: &Pushlark, user: &str) -> Vec<String> {
    let snapshot = pushlark.store().snapshot(&BareJid::new(user).unwrap()).await.unwrap();
    snapshot.services.into_iter().map(|service| service.node).collect()
}

/// Tells of a message, and waits for what comes of it. Its body is also its id, so that the same body is the same
/// message.
async fn tell(pushlark: &Pushlark, kind: &str, from: &str, to: &str, body: &str) {
    let chat = if from.to_lowercase().contains("@muclight.") { "groupchat" } else { "chat" };
    pushlark.event(json!({"type": kind, "id": body, "from": from, "to": to, "chat": chat, "body": body})).await;
    pushlark.settled().await;
}

async fn message(pushlark: &Pushlark, from: &str, to: &str, body: &str) {
    tell(pushlark, "message", from, to, body).await;
}

async fn unacknowledged(pushlark: &Pushlark, from: &str, session: &str, body: &str) {
    tell(pushlark, "unacknowledged", from, session, body).await;
}

async fn stanza(pushlark: &Pushlark, stanza: &str) {
    let reply = pushlark.post("/events", "application/xml", stanza.to_owned()).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    pushlark.settled().await;
}

async fn form_event(pushlark: &Pushlark, event: &str) {
    let reply = pushlark.post("/events", "application/x-www-form-urlencoded", event.to_owned()).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    pushlark.settled().await;
}

async fn presence(pushlark: &Pushlark, session: &str, status: &str) {
    pushlark.event(json!({"type": "presence", "jid": session, "status": status})).await;
}

/// What a device was posted, the oldest first, once nothing more can come.
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

async fn counts(pushlark: &Pushlark, device: &str) -> Vec<Value> {
    pushed(pushlark, device).await.iter().map(|pushed| pushed["data"]["message-count"].clone()).collect()
}

/// Sends a message to a user who is offline, with a device of each service: both get this and the service's name.
async fn assert_notifies(sent: &Sent, options: &[(&str, &str)], expected: Value) {
    let pushlark = defaults().await;
    enable_both(&pushlark, RES1, options).await;
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, sent.from, BOB, sent.body).await;
    for service in ["apns", "fcm"] {
        let mut expected = expected.clone();
        expected["service"] = service.into();
        assert_eq!(pushed(&pushlark, service).await, [expected]);
    }
}

// push_SUITE: toggling

#[tokio::test]
async fn enable_should_fail_with_missing_attributes() {
    let pushlark = defaults().await;
    let attributes = ["xmlns='urn:xmpp:push:0'", "jid='bob@localhost'", "node='n'"];
    for given in 0..7 {
        let given: Vec<_> = (0..3).filter(|bit| given & 1 << bit != 0).map(|bit| attributes[bit]).collect();
        let enable = format!("<enable {}/>", given.join(" "));
        assert_bad_request(&iq(&pushlark, "/enable", RES1, &enable).await, &enable);
    }
    assert!(nodes(&pushlark, BOB).await.is_empty());
}

#[tokio::test]
async fn enable_should_fail_with_invalid_attributes() {
    let pushlark = defaults().await;
    let publish_options = "http://jabber.org/protocol/pubsub#publish-options";
    for enable in [
        "<enable xmlns='urn:xmpp:push:0' jid='' node='n'/>".to_owned(),
        enable_at_host("", ""),
        enable_at_host("n", &form(publish_options, "<field var='secret1'/>")),
        enable_at_host("n", &form(publish_options, "<field var='s'><value>1</value><value>2</value></field>")),
        enable_at_host("n", &options(&[]).replace("submit", "form")),
    ] {
        assert_bad_request(&iq(&pushlark, "/enable", RES1, &enable).await, &enable);
    }
    assert!(nodes(&pushlark, BOB).await.is_empty());
}

#[tokio::test]
async fn enable_should_succeed_without_form() {
    let pushlark = defaults().await;
    assert_result(&iq(&pushlark, "/enable", RES1, &enable_at_host("n", "")).await);
    assert_eq!(nodes(&pushlark, BOB).await, ["n"]);
}

#[tokio::test]
async fn enable_with_form_should_fail_with_incorrect_from() {
    let pushlark = defaults().await;
    let enable = enable_at_host("n", &form("wrong", ""));
    assert_bad_request(&iq(&pushlark, "/enable", RES1, &enable).await, &enable);
    assert!(nodes(&pushlark, BOB).await.is_empty());
}

#[tokio::test]
async fn enable_should_accept_correct_from() {
    let pushlark = defaults().await;
    let secrets = options(&[("secret1", "planted-token1"), ("secret2", "planted-token2")]);
    for form in [options(&[]), secrets, options(&[("service", "fcm"), ("device_id", "planted-bobs")])] {
        assert_result(&iq(&pushlark, "/enable", RES1, &enable_at_host("n", &form)).await);
        assert_eq!(nodes(&pushlark, BOB).await, ["n"]);
    }
    message(&pushlark, PM.from, BOB, PM.body).await;
    assert_eq!(pushed(&pushlark, "bobs").await, [json!({"service": "fcm", "alert": PM.alert()})]);
}

// MongooseIM takes any value and may fail on it later. Pushlark refuses while there is still somebody to be told.
#[tokio::test]
async fn enable_at_a_virtual_host_should_fail_with_impossible_options() {
    let pushlark = defaults().await;
    for impossible in [("silent", "yes"), ("silent", "TRUE"), ("priority", "10"), ("mode", "selected_mode")] {
        let enable = enable_at_host("n", &options(&[impossible]));
        assert_bad_request(&iq(&pushlark, "/enable", RES1, &enable).await, &enable);
    }
    assert!(nodes(&pushlark, BOB).await.is_empty());
}

#[tokio::test]
async fn disable_should_fail_with_missing_attributes() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "n", &[]).await;
    for disable in ["<disable/>", "<disable xmlns='urn:xmpp:push:0'/>", "<disable jid='pubsub@virtual.domain'/>"] {
        assert_bad_request(&iq(&pushlark, "/disable", RES1, disable).await, disable);
    }
    assert_eq!(nodes(&pushlark, BOB).await, ["n"]);
}

#[tokio::test]
async fn disable_should_fail_with_invalid_attributes() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "n", &[]).await;
    for attributes in ["jid='' node='n'", "jid=''", "jid='pubsub@virtual.domain' node=''"] {
        let disable = format!("<disable xmlns='urn:xmpp:push:0' {attributes}/>");
        assert_bad_request(&iq(&pushlark, "/disable", RES1, &disable).await, &disable);
    }
    assert_eq!(nodes(&pushlark, BOB).await, ["n"]);
}

#[tokio::test]
async fn disable_all() {
    let pushlark = defaults().await;
    disable(&pushlark, RES1, "").await;
}

#[tokio::test]
async fn disable_node() {
    let pushlark = defaults().await;
    disable(&pushlark, RES1, "node='n'").await;
}

/// Enables nodes anew in no session. Those that a session was tied to are then notified of what it did not acknowledge
/// only if the tie outlived the registration.
async fn enable_again_untied(pushlark: &Pushlark, nodes: &[&str]) {
    for node in nodes {
        enable(pushlark, BOB, node, &[]).await;
    }
}

#[tokio::test]
async fn disable_node_enabled_in_session_removes_it_from_session_info() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    enable(&pushlark, RES1, "n", &[]).await;
    unacknowledged(&pushlark, PM.from, RES1, "tied").await;
    disable(&pushlark, RES1, "node='n'").await;
    enable_again_untied(&pushlark, &["n"]).await;
    unacknowledged(&pushlark, PM.from, RES1, "untied").await;
    message(&pushlark, PM.from, BOB, "offline").await;
    assert_eq!(texts(&pushlark, "n").await, ["tied", "offline"]);
}

#[tokio::test]
async fn disable_all_nodes_removes_it_from_all_user_session_infos() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    let (r1, r2) = ("bob@localhost/r1", "bob@localhost/r2");
    enable(&pushlark, r1, "n1", &[]).await;
    enable(&pushlark, r2, "n2", &[]).await;
    unacknowledged(&pushlark, PM.from, r1, "tied to r1").await;
    unacknowledged(&pushlark, PM.from, r2, "tied to r2").await;
    disable(&pushlark, r1, "").await;
    assert!(nodes(&pushlark, BOB).await.is_empty());
    enable_again_untied(&pushlark, &["n1", "n2"]).await;
    unacknowledged(&pushlark, PM.from, r1, "to r1").await;
    unacknowledged(&pushlark, PM.from, r2, "to r2").await;
    assert_eq!(texts(&pushlark, "n1").await, ["tied to r1"]);
    assert_eq!(texts(&pushlark, "n2").await, ["tied to r2"]);
}

// The name is MongooseIM's. There, too, the session that held the node loses it; the others keep theirs.
#[tokio::test]
async fn disable_node_enabled_in_other_session_leaves_current_info_unchanged() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    let (r1, r2) = ("bob@localhost/r1", "bob@localhost/r2");
    enable(&pushlark, r1, "n1", &[]).await;
    enable(&pushlark, r2, "n2", &[]).await;
    disable(&pushlark, r1, "node='n1'").await;
    assert_eq!(nodes(&pushlark, BOB).await, ["n2"]);
    enable_again_untied(&pushlark, &["n1"]).await;
    unacknowledged(&pushlark, PM.from, r1, "to r1").await;
    unacknowledged(&pushlark, PM.from, r2, "to r2").await;
    assert_silence(&pushlark, "n1").await;
    assert_eq!(texts(&pushlark, "n2").await, ["to r2"]);
}

// push_SUITE: pm_msg_notifications and muclight_msg_notifications

/// What comes of a message when its recipient enables, does what `then` says, and goes offline.
async fn notified_after(sent: &Sent, then: impl AsyncFnOnce(&Pushlark)) -> Vec<Value> {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    presence(&pushlark, RES1, "online").await;
    then(&pushlark).await;
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, sent.from, BOB, sent.body).await;
    pushed(&pushlark, "bobs").await
}

async fn assert_silent_if_not_enabled(sent: &Sent) {
    let pushlark = defaults().await;
    enable(&pushlark, "kate@localhost/res1", "kates", &[]).await;
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, sent.from, BOB, sent.body).await;
    let url = format!("{}/sink/notifications", pushlark.stack.url);
    let all: Vec<Value> = pushlark.http.get(url).send().await.unwrap().json().await.unwrap();
    assert!(all.is_empty(), "{all:?}");
}

async fn assert_silent_if_online(sent: &Sent) {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    presence(&pushlark, RES1, "online").await;
    message(&pushlark, sent.from, BOB, sent.body).await;
    assert_silence(&pushlark, "bobs").await;
}

#[tokio::test]
async fn pm_no_msg_notifications_if_not_enabled() {
    assert_silent_if_not_enabled(&PM).await;
}

#[tokio::test]
async fn muclight_no_msg_notifications_if_not_enabled() {
    assert_silent_if_not_enabled(&MUCLIGHT).await;
}

#[tokio::test]
async fn pm_no_msg_notifications_if_user_online() {
    assert_silent_if_online(&PM).await;
}

#[tokio::test]
async fn muclight_no_msg_notifications_if_user_online() {
    assert_silent_if_online(&MUCLIGHT).await;
}

#[tokio::test]
async fn pm_msg_notify_if_user_offline() {
    let expected = json!({"service": "fcm", "alert": PM.alert()});
    assert_eq!(notified_after(&PM, async |_| ()).await, [expected]);
}

#[tokio::test]
async fn muclight_msg_notify_if_user_offline() {
    let expected = json!({"service": "fcm", "alert": MUCLIGHT.alert()});
    assert_eq!(notified_after(&MUCLIGHT, async |_| ()).await, [expected]);
}

// A push service is told what it knows; only a real PubSub host is given all options as they are.
#[tokio::test]
async fn pm_msg_notify_if_user_offline_with_publish_options() {
    let unknown = [("field1", "value1"), ("field2", "value2"), ("tags", "a,b")];
    assert_notifies(&PM, &unknown, json!({"alert": PM.alert()})).await;
}

#[tokio::test]
async fn muclight_msg_notify_if_user_offline_with_publish_options() {
    let unknown = [("field1", "value1"), ("field2", "value2")];
    assert_notifies(&MUCLIGHT, &unknown, json!({"alert": MUCLIGHT.alert()})).await;
}

#[tokio::test]
async fn pm_msg_notify_stops_after_disabling() {
    let disabling = async |pushlark: &Pushlark| disable(pushlark, RES1, "node='bobs'").await;
    assert_eq!(notified_after(&PM, disabling).await, [] as [Value; 0]);
}

#[tokio::test]
async fn muclight_msg_notify_stops_after_disabling() {
    let disabling = async |pushlark: &Pushlark| disable(pushlark, RES1, "node='bobs'").await;
    assert_eq!(notified_after(&MUCLIGHT, disabling).await, [] as [Value; 0]);
}

#[tokio::test]
async fn pm_msg_notify_stops_after_removal() {
    let removal = async |pushlark: &Pushlark| {
        pushlark.event(json!({"type": "user_removed", "jid": BOB})).await;
        pushlark.settled().await;
    };
    assert_eq!(notified_after(&PM, removal).await, [] as [Value; 0]);
}

// push_integration_SUITE: pm_msg_notifications and muclight_msg_notifications, each for APNs and FCM

#[tokio::test]
async fn pm_msg_notify_no_click_action() {
    assert_notifies(&PM, &[], json!({"alert": PM.alert()})).await;
}

#[tokio::test]
async fn muclight_msg_notify_no_click_action() {
    assert_notifies(&MUCLIGHT, &[], json!({"alert": MUCLIGHT.alert()})).await;
}

#[tokio::test]
async fn pm_msg_notify_w_high_priority() {
    let expected = json!({"priority": "high", "alert": PM.alert()});
    assert_notifies(&PM, &[("priority", "high")], expected).await;
}

#[tokio::test]
async fn muclight_msg_notify_w_high_priority() {
    let expected = json!({"priority": "high", "alert": MUCLIGHT.alert()});
    assert_notifies(&MUCLIGHT, &[("priority", "high")], expected).await;
}

#[tokio::test]
async fn pm_msg_notify_w_high_priority_silent() {
    let expected = json!({"priority": "high", "data": PM.data()});
    assert_notifies(&PM, &[("silent", "true"), ("priority", "high")], expected).await;
}

#[tokio::test]
async fn muclight_msg_notify_w_high_priority_silent() {
    let expected = json!({"priority": "high", "data": MUCLIGHT.data()});
    assert_notifies(&MUCLIGHT, &[("silent", "true"), ("priority", "high")], expected).await;
}

#[tokio::test]
async fn pm_msg_notify_w_click_action() {
    let mut alert = PM.alert();
    alert["click_action"] = "myactivity".into();
    assert_notifies(&PM, &[("click_action", "myactivity")], json!({"alert": alert})).await;
}

#[tokio::test]
async fn muclight_msg_notify_w_click_action() {
    let mut alert = MUCLIGHT.alert();
    alert["click_action"] = "myactivity".into();
    assert_notifies(&MUCLIGHT, &[("click_action", "myactivity")], json!({"alert": alert})).await;
}

#[tokio::test]
async fn pm_msg_notify_silent() {
    assert_notifies(&PM, &[("silent", "true")], json!({"data": PM.data()})).await;
    assert_notifies(&PM, &[("silent", "false")], json!({"alert": PM.alert()})).await;
}

#[tokio::test]
async fn muclight_msg_notify_silent() {
    assert_notifies(&MUCLIGHT, &[("silent", "true")], json!({"data": MUCLIGHT.data()})).await;
}

#[tokio::test]
async fn pm_msg_notify_w_topic() {
    let expected = json!({"topic": "some_topic", "alert": PM.alert()});
    assert_notifies(&PM, &[("topic", "some_topic")], expected).await;
}

#[tokio::test]
async fn muclight_msg_notify_w_topic() {
    let expected = json!({"topic": "some_topic", "alert": MUCLIGHT.alert()});
    assert_notifies(&MUCLIGHT, &[("topic", "some_topic")], expected).await;
}

#[tokio::test]
async fn a_form_that_names_no_device_or_service_notifies_nobody_and_is_kept() {
    let pushlark = defaults().await;
    for (node, form) in
        [("a", String::new()), ("b", options(&[("service", "fcm")])), ("c", options(&[("device_id", "planted-bobs")]))]
    {
        assert_result(&iq(&pushlark, "/enable", RES1, &enable_at_host(node, &form)).await);
    }
    message(&pushlark, PM.from, BOB, PM.body).await;
    assert_silence(&pushlark, "bobs").await;
    assert_eq!(nodes(&pushlark, BOB).await, ["a", "b", "c"]);
}

// push_integration_SUITE: pm_notifications_with_inbox and groupchat_notifications_with_inbox, each for APNs and FCM

async fn with_inbox(from: &str) -> Pushlark {
    let pushlark = stack("UNREAD_COUNTS", "on").await;
    enable_both(&pushlark, from, &[("silent", "true")]).await;
    presence(&pushlark, from, "offline").await;
    pushlark
}

#[tokio::test]
async fn inbox_msg_unread_count() {
    let pushlark = with_inbox(RES1).await;
    for (from, body) in [(ALICE, "one"), (KATE, "two"), (ALICE, "three"), (ALICE, "four"), (KATE, "five")] {
        message(&pushlark, &format!("{from}/res1"), BOB, body).await;
    }
    for service in ["apns", "fcm"] {
        let expected =
            [("one", ALICE, 1), ("two", KATE, 1), ("three", ALICE, 2), ("four", ALICE, 3), ("five", KATE, 2)]
                .map(|(body, from, count)| json!({"service": service, "data": data(body, from, count)}));
        assert_eq!(pushed(&pushlark, service).await, expected);
    }
}

// MongooseIM's case has the displayed marker alone; the user's own message and a read event reset as well.
#[tokio::test]
async fn inbox_msg_reset_unread_count() {
    let pushlark = with_inbox(RES1).await;
    message(&pushlark, PM.from, BOB, "first").await;
    message(&pushlark, PM.from, BOB, "second").await;
    presence(&pushlark, RES1, "online").await;
    stanza(
        &pushlark,
        "<message type='chat' from='bob@localhost/res1' to='alice@localhost' id='m'>\
         <displayed xmlns='urn:xmpp:chat-markers:0' id='second'/></message>",
    )
    .await;
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, PM.from, BOB, "third").await;
    message(&pushlark, PM.from, BOB, "fourth").await;
    pushlark.event(json!({"type": "read", "jid": BOB, "conversation": ALICE})).await;
    message(&pushlark, PM.from, BOB, "fifth").await;
    message(&pushlark, PM.from, BOB, "sixth").await;
    message(&pushlark, RES1, ALICE, "an answer").await;
    message(&pushlark, PM.from, BOB, "seventh").await;
    for service in ["apns", "fcm"] {
        assert_eq!(counts(&pushlark, service).await, [1, 2, 1, 2, 1, 2, 1]);
    }
}

#[tokio::test]
async fn muclight_inbox_msg_unread_count() {
    let session = "kate@localhost/res1";
    let pushlark = with_inbox(session).await;
    message(&pushlark, MUCLIGHT.from, KATE, "First!").await;
    message(&pushlark, MUCLIGHT.from, KATE, "Second!").await;
    presence(&pushlark, session, "online").await;
    message(&pushlark, MUCLIGHT.from, KATE, "Third!").await;
    // The third was not pushed, and yet is unread.
    presence(&pushlark, session, "offline").await;
    message(&pushlark, MUCLIGHT.from, KATE, "Fourth!").await;
    for service in ["apns", "fcm"] {
        let expected = [("First!", 1), ("Second!", 2), ("Fourth!", 4)]
            .map(|(body, count)| json!({"service": service, "data": data(body, MUCLIGHT.sender, count)}));
        assert_eq!(pushed(&pushlark, service).await, expected);
    }
}

#[tokio::test]
async fn muclight_aff_change() {
    let pushlark = with_inbox("kate@localhost/res1").await;
    message(&pushlark, MUCLIGHT.from, KATE, "First!").await;
    stanza(
        &pushlark,
        "<message type='groupchat' from='room@muclight.localhost' to='kate@localhost' id='aff'>\
         <x xmlns='urn:xmpp:muclight:0#affiliations'><version>2</version>\
         <user affiliation='member'>bob@localhost</user></x><body/></message>",
    )
    .await;
    message(&pushlark, MUCLIGHT.from, KATE, "Second!").await;
    for service in ["apns", "fcm"] {
        let expected = [("First!", 1), ("Second!", 2)]
            .map(|(body, count)| json!({"service": service, "data": data(body, MUCLIGHT.sender, count)}));
        assert_eq!(pushed(&pushlark, service).await, expected);
    }
}

// push_integration_SUITE: failure_cases_v3 and failure_cases_v2

#[tokio::test]
async fn no_push_notification_for_expired_device() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    pushlark.device_answers("bobs", json!({"status": 410, "body": {"reason": "unregistered"}})).await;
    message(&pushlark, PM.from, BOB, "gone").await;
    assert_eq!(pushlark.notifications("bobs").await[0]["api"], "v3");
    assert!(nodes(&pushlark, BOB).await.is_empty());
    pushlark.device_answers("bobs", json!({"status": 200})).await;
    message(&pushlark, PM.from, BOB, "not enabled").await;
    enable_again_untied(&pushlark, &["bobs"]).await;
    unacknowledged(&pushlark, PM.from, RES1, "not tied").await;
    assert_eq!(texts(&pushlark, "bobs").await, ["gone"]);
}

/// A failure that may pass: MongooseIM drops the notification, Pushlark repeats it. Neither disables the node.
async fn assert_repeated(api: &str, answer: Value) {
    let pushlark = stack("MONGOOSEPUSH_API_VERSION", api).await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    pushlark.device_answers("bobs", answer.clone()).await;
    pushlark.event(json!({"type": "message", "from": PM.from, "to": BOB, "chat": "chat", "body": PM.body})).await;
    pushlark.notified("bobs", 1).await;
    pushlark.device_answers("bobs", json!({"status": 200})).await;
    pushlark.settled().await;
    let posted = pushlark.notifications("bobs").await;
    assert_eq!((&posted[0]["api"], &posted[0]["status"]), (&json!(api), &answer["status"]));
    assert_eq!(posted.last().unwrap()["status"], 200);
    assert_eq!(posted[0]["notification"], json!({"service": "fcm", "alert": PM.alert()}));
    assert!(posted.iter().all(|post| post["notification"] == posted[0]["notification"]), "{posted:?}");
    assert_eq!(nodes(&pushlark, BOB).await, ["bobs"]);
}

#[tokio::test]
async fn push_notification_for_expired_device_of_v2_is_not_repeated_and_the_third_disables() {
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", "v2")]).await;
    pushlark.enable("bob@example.com", "phone").await;
    pushlark.device_answers("phone", json!({"status": 500, "body": {"details": "probably_unregistered"}})).await;
    for text in ["1", "2", "3", "4"] {
        pushlark.message("bob@example.com", text).await;
        pushlark.settled().await;
    }
    assert_eq!(pushlark.alerts("phone").await, ["1", "2", "3"]);
}

#[tokio::test]
async fn push_notification_after_internal_mongoose_push_error_is_repeated() {
    let answer = json!({"status": 503, "body": {"reason": "unspecified"}});
    tokio::join!(assert_repeated("v3", answer.clone()), assert_repeated("v2", answer));
}

// push_integration_SUITE: integration_with_sm_and_offline_storage, enhanced_integration_with_sm(_and_filtering)

#[tokio::test]
async fn no_duplicates_default_plugin() {
    let pushlark = defaults().await;
    let session = "alice@localhost/res1";
    enable(&pushlark, session, "alices", &[("service", "apns")]).await;
    presence(&pushlark, session, "offline").await;
    message(&pushlark, RES1, ALICE, "msg-1").await;
    presence(&pushlark, session, "online").await;
    unacknowledged(&pushlark, RES1, session, "msg-1").await;
    presence(&pushlark, session, "offline").await;
    message(&pushlark, RES1, ALICE, "msg-1").await;
    assert_eq!(texts(&pushlark, "alices").await, ["msg-1"]);
}

#[tokio::test]
async fn sm_unack_messages_notified_default_plugin() {
    let pushlark = defaults().await;
    let session = "alice@localhost/res1";
    let room = "room@muclight.localhost/bob@localhost";
    enable(&pushlark, session, "alices", &[]).await;
    presence(&pushlark, session, "online").await;
    for (from, body) in [(RES1, "msg-0"), (RES1, "msg-1"), (room, "msg-2")] {
        message(&pushlark, from, ALICE, body).await;
    }
    unacknowledged(&pushlark, RES1, session, "msg-1").await;
    unacknowledged(&pushlark, room, session, "msg-2").await;
    assert_silence(&pushlark, "alices").await;
    presence(&pushlark, session, "offline").await;
    message(&pushlark, RES1, ALICE, "msg-1").await;
    message(&pushlark, room, ALICE, "msg-2").await;
    let expected = [("msg-1", BOB), ("msg-2", room)].map(|(body, sender)| Sent { from: "", body, sender }.alert());
    let expected = expected.map(|alert| json!({"service": "fcm", "alert": alert}));
    assert_eq!(pushed(&pushlark, "alices").await, expected);
}

#[tokio::test]
async fn immediate_notification() {
    for plugin in ["enhanced", "hints"] {
        let pushlark = stack("PLUGIN", plugin).await;
        let session = "alice@localhost/res1";
        enable_both(&pushlark, session, &[]).await;
        presence(&pushlark, session, "online").await;
        message(&pushlark, RES1, ALICE, "msg-0").await;
        message(&pushlark, RES1, ALICE, "msg-1").await;
        assert_silence(&pushlark, "fcm").await;
        unacknowledged(&pushlark, RES1, session, "msg-1").await;
        assert_eq!(texts(&pushlark, "fcm").await, ["msg-1"]);
        message(&pushlark, RES1, ALICE, "msg-2").await;
        unacknowledged(&pushlark, RES1, session, "msg-2").await;
        assert_eq!(texts(&pushlark, "fcm").await, ["msg-1", "msg-2"]);
        assert_silence(&pushlark, "apns").await;
        presence(&pushlark, session, "offline").await;
        message(&pushlark, RES1, ALICE, "msg-1").await;
        message(&pushlark, RES1, ALICE, "msg-2").await;
        assert_eq!(texts(&pushlark, "fcm").await, ["msg-1", "msg-2"]);
        assert_eq!(texts(&pushlark, "apns").await, ["msg-1", "msg-2"]);
    }
}

// MongooseIM's double_notification_with_two_sessions_in_resume, without the second notification of each device: a
// message and what is told of it later notify each service once.
#[tokio::test]
async fn no_double_notification_with_two_sessions_in_resume() {
    for plugin in ["enhanced", "hints"] {
        let pushlark = stack("PLUGIN", plugin).await;
        let sessions = [("alice@localhost/res1", "device1"), ("alice@localhost/res2", "device2")];
        for (session, device) in sessions {
            enable(&pushlark, session, device, &[("service", "apns")]).await;
            presence(&pushlark, session, "online").await;
        }
        message(&pushlark, RES1, ALICE, "msg-1").await;
        for (session, device) in sessions {
            assert_silence(&pushlark, device).await;
            unacknowledged(&pushlark, RES1, session, "msg-1").await;
            assert_eq!(texts(&pushlark, device).await, ["msg-1"]);
        }
        presence(&pushlark, sessions[0].0, "offline").await;
        message(&pushlark, RES1, ALICE, "msg-1").await;
        unacknowledged(&pushlark, RES1, sessions[1].0, "msg-1").await;
        presence(&pushlark, sessions[1].0, "offline").await;
        message(&pushlark, RES1, ALICE, "msg-1").await;
        for (_, device) in sessions {
            assert_eq!(texts(&pushlark, device).await, ["msg-1"]);
        }
    }
}

#[tokio::test]
async fn hints_filtering() {
    for (plugin, expected) in
        [("hints", &["copy"] as &[_]), ("enhanced", &["copy", "store"]), ("defaults", &["copy", "store"])]
    {
        let pushlark = stack("PLUGIN", plugin).await;
        enable_both(&pushlark, RES1, &[]).await;
        presence(&pushlark, RES1, "offline").await;
        for hint in ["copy", "store"] {
            let message = format!(
                "<message type='chat' from='alice@localhost/res1' to='{BOB}'><body>{hint}</body>\
                 <no-{hint} xmlns='urn:xmpp:hints'/></message>"
            );
            stanza(&pushlark, &message).await;
        }
        assert_eq!(texts(&pushlark, "apns").await, expected, "{plugin}");
        assert_eq!(texts(&pushlark, "fcm").await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn bodiless_messages() {
    let pushlark = stack("PLUGIN", "hints").await;
    enable_both(&pushlark, RES1, &[("silent", "true")]).await;
    // MongooseIM fails on a device that is not silent; here a call always goes as data.
    enable(&pushlark, RES1, "loud", &[]).await;
    presence(&pushlark, RES1, "offline").await;
    for hint in ["store", "no-copy"] {
        let message = format!(
            "<message type='chat' from='alice@localhost/res1' to='{BOB}'>\
             <propose xmlns='urn:xmpp:jingle-message:0' id='ca3cf894'/><{hint} xmlns='urn:xmpp:hints'/></message>"
        );
        stanza(&pushlark, &message).await;
    }
    let call = json!({"message-sender": ALICE, "jingle-message": "propose", "jingle-session-id": "ca3cf894"});
    for (device, service) in [("apns", "apns"), ("fcm", "fcm"), ("loud", "fcm")] {
        assert_eq!(pushed(&pushlark, device).await, [json!({"service": service, "data": call})]);
    }
}

// push_http_SUITE and mod_event_pusher_http_SUITE

#[tokio::test]
async fn simple_push() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    form_event(&pushlark, "author=alice&server=localhost&receiver=bob&message=hej").await;
    form_event(&pushlark, "author=alice&server=localhost&receiver=bob&message=").await;
    let alert = Sent { body: "hej", ..PM }.alert();
    assert_eq!(pushed(&pushlark, "bobs").await, [json!({"service": "fcm", "alert": alert})]);
}

#[tokio::test]
async fn simple_message() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    presence(&pushlark, "alice@localhost/res1", "offline").await;
    form_event(&pushlark, "author=alice&server=localhost&receiver=bob&message=Hi%2C+Simple%21").await;
    let alert = Sent { body: "Hi, Simple!", ..PM }.alert();
    assert_eq!(pushed(&pushlark, "bobs").await, [json!({"service": "fcm", "alert": alert})]);
}

#[tokio::test]
async fn proper_http_message_encode_decode() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    form_event(&pushlark, "author=alice&server=localhost&receiver=bob&message=Hi+Test%21%26escape%3DHello").await;
    let alert = Sent { body: "Hi Test!&escape=Hello", ..PM }.alert();
    assert_eq!(pushed(&pushlark, "bobs").await, [json!({"service": "fcm", "alert": alert})]);
}
