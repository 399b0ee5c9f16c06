//! An update of a running stack: the release before wrote the table and the queue, this one goes on with them.
//!
//! `tests/upgrade/table.ndjson` has a table's items as DynamoDB JSON, `tests/upgrade/queue.ndjson` the bodies of SQS
//! messages. When a release is made, `cargo test -p tests --test it -- --ignored upgrade` writes both anew, for the
//! tests of the next one.

use std::collections::HashMap;
use std::path::Path;

use aws_sdk_dynamodb::types::AttributeValue;
use doubles::{Subscriber, WebPush};
use local::Options;
use pushlark_settings::Environment;
use serde_json::{Map, Value, json};
use tests::{Pushlark, ago, eventually};
use time::OffsetDateTime;

const ALICE: &str = "alice@example.com/pc";
const BOB: &str = "bob@example.com";
const CAROL: &str = "carol@example.com";
const DAVE: &str = "dave@example.com";
const ERIN: &str = "erin@example.com";
const FRANK: &str = "frank@example.com";
const GINA: &str = "gina@example.com";
const HOST: &str = "push.example.com";

fn to_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!({"S": text}),
        AttributeValue::N(number) => json!({"N": number}),
        AttributeValue::Bool(is) => json!({"BOOL": is}),
        AttributeValue::M(map) => json!({"M": item_to_json(map)}),
        other => unreachable!("an attribute of another type: {other:?}"),
    }
}

fn item_to_json(item: &HashMap<String, AttributeValue>) -> Map<String, Value> {
    item.iter().map(|(name, value)| (name.clone(), to_json(value))).collect()
}

async fn iq(pushlark: &Pushlark, from: &str, id: &str, payload: &str) -> String {
    let iq = format!("<iq type='set' from='{from}' to='{HOST}' id='{id}'>{payload}</iq>");
    let reply = pushlark.post("/pubsub", "application/xml", iq).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

fn form(form_type: &str, fields: &[(&str, &str)]) -> String {
    let field = |(name, value): &(&str, &str)| format!("<field var='{name}'><value>{value}</value></field>");
    let fields: String = [("FORM_TYPE", form_type)].iter().chain(fields).map(field).collect();
    format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>")
}

/// What a client sends to the push service, so that `node` is for `device`.
fn register(node: &str, device: &str) -> String {
    let options = form(
        "http://jabber.org/protocol/pubsub#publish-options",
        &[("service", "fcm"), ("device_id", device), ("priority", "high")],
    );
    format!("<enable xmlns='urn:xmpp:push:0' jid='{HOST}' node='{node}'>{options}</enable>")
}

fn publish(node: &str, body: &str) -> String {
    let summary = form(
        "urn:xmpp:push:summary",
        &[("message-count", "4"), ("last-message-sender", ALICE), ("last-message-body", body)],
    );
    format!(
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='{node}'><item id='i'>\
         <notification xmlns='urn:xmpp:push:0'>{summary}</notification></item></publish></pubsub>"
    )
}

fn chat(id: &str, to: impl Into<Value>, body: &str) -> Value {
    json!({"type": "message", "id": id, "from": ALICE, "to": to.into(), "chat": "chat", "body": body})
}

/// Writes the sample: what a stack of this release has in its table and its queue when it is updated.
#[tokio::test]
#[ignore = "writes the sample of this release"]
async fn writes_the_sample() {
    let settings = [
        ("UNREAD_COUNTS", "on"),
        ("RATE_LIMIT", "1000"),
        ("MONGOOSEPUSH_API_VERSION", "v2"),
        ("DISABLE_MAX_PERCENT", "100"),
        ("WORKERS", "2"),
        ("BATCH_SIZE", "1"),
    ];
    let environment = Environment::from_iter(settings);
    let pushlark = Pushlark::with(Options { environment, visibility_timeout: 43_200, ..Options::default() }).await;

    // Registrations: with a session and without, for each service.
    pushlark.enable("bob@example.com/phone", "phone").await;
    let apns = json!({"service": "apns", "mode": "dev", "topic": "com.example.chat", "priority": "normal"});
    pushlark.enable_with("bob@example.com/tablet", "tablet", apns).await;
    pushlark.enable_with(BOB, "laptop", json!({"silent": "true"})).await;
    pushlark.enable(CAROL, "carol").await;
    pushlark.enable(GINA, "gina").await;
    let browser = Subscriber::new(5);
    let form = json!({"service": "web-push", "endpoint": "https://updates.push.example/push/planted-browser",
        "p256dh": browser.p256dh(), "auth": browser.auth()});
    let enable = json!({"user": DAVE, "jid": HOST, "node": "browser", "form": form});
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    pushlark.enable("frank@example.com/pc", "frank").await;
    for number in 0..3 {
        pushlark.enable(&format!("u{number}@gone.example"), &format!("gone-{number}")).await;
    }

    // Sessions.
    for (session, status) in [
        ("bob@example.com/tablet", "online"),
        ("bob@example.com/tablet", "offline"),
        ("frank@example.com/pc", "online"),
        ("kate@example.com/pc", "online"),
    ] {
        pushlark.event(json!({"type": "presence", "jid": session, "status": status})).await;
    }

    // Push nodes: of a device, of one that is suspected, of one that is gone, and of none.
    for node in ["fine", "suspected", "lost"] {
        assert!(
            iq(&pushlark, ERIN, "e", &register(node, &format!("planted-erin-{node}")))
                .await
                .contains("type=\"result\"")
        );
    }
    let create = "<pubsub xmlns='http://jabber.org/protocol/pubsub'><create node='bare'/></pubsub>";
    iq(&pushlark, ERIN, "c", create).await;
    iq(&pushlark, FRANK, "f", &register("franks", "planted-franks")).await;
    let unregistered = json!({"status": 500, "body": {"details": "probably_unregistered"}});
    for (device, node, times) in [("erin-suspected", "suspected", 1), ("erin-lost", "lost", 3)] {
        pushlark.device_answers(device, unregistered.clone()).await;
        for number in 0..times {
            iq(&pushlark, "example.com", &format!("{node}-{number}"), &publish(node, "planted before")).await;
            pushlark.settled().await;
        }
    }

    // A registration that is suspected, claims that are done, claims that are held, and unread counts.
    pushlark.event(chat("read", BOB, "planted before")).await;
    pushlark.settled().await;
    let read = json!({"type": "read", "jid": BOB, "conversation": "alice@example.com"});
    pushlark.event(read).await;
    pushlark.event(chat("delivered", BOB, "planted before")).await;
    pushlark.settled().await;
    pushlark.device_answers("laptop", unregistered.clone()).await;
    for id in ["suspect-1", "suspect-2"] {
        pushlark.event(chat(id, BOB, "planted before")).await;
        pushlark.settled().await;
    }
    pushlark.device_answers("carol", json!({"status": 503})).await;
    pushlark.event(chat("held", [GINA, CAROL], "planted held")).await;
    pushlark.notified("carol", 2).await;

    // Both workers are kept busy, and leave in the queue what comes now.
    for slow in ["slow-1", "slow-2"] {
        pushlark.device_answers(slow, json!({"status": 503, "delay_ms": 9_000})).await;
        pushlark.enable(&format!("{slow}@example.com"), slow).await;
        pushlark.event(chat(slow, format!("{slow}@example.com"), "planted slow")).await;
    }
    let claimed = async |id: &str| {
        let claim = pushlark.stack.dynamodb.get_item().table_name("pushlark");
        let pk = AttributeValue::S(format!("msg/{id}/{id}@example.com"));
        let claim = claim.key("pk", pk).key("sk", AttributeValue::S("claim".into())).send().await.unwrap();
        claim.item.is_some()
    };
    eventually("busy workers", async || (claimed("slow-1").await && claimed("slow-2").await).then_some(())).await;
    pushlark.event(chat("one", BOB, "planted one")).await;
    let group = json!({"type": "message", "id": "group", "from": "room@muclight.example.com/alice@example.com",
        "to": [BOB, DAVE, FRANK], "chat": "groupchat", "body": "planted group", "recipient": {"online": false}});
    pushlark.event(group).await;
    pushlark
        .event(json!({"type": "unacknowledged", "id": "unacknowledged", "from": ALICE, "to": "bob@example.com/phone",
        "stanza": "<message type='chat'><body>planted unacknowledged</body></message>"}))
        .await;
    let several = json!([chat("first", BOB, "planted first"), chat("second", BOB, "planted second")]);
    assert_eq!(pushlark.json("/events", several).await.status, 202);
    for node in ["fine", "suspected"] {
        iq(&pushlark, "example.com", &format!("queued-{node}"), &publish(node, "planted node")).await;
    }
    pushlark.event(json!({"type": "user_removed", "id": "removed-user", "jid": FRANK})).await;
    pushlark.event(json!({"type": "domain_removed", "id": "removed-domain", "domain": "gone.example"})).await;

    let mut bodies = Vec::new();
    let queue = pushlark.stack.environment.text("QUEUE_URL").unwrap();
    while bodies.len() < 9 {
        let receive = pushlark.stack.sqs.receive_message().queue_url(queue).max_number_of_messages(10);
        let received = receive.wait_time_seconds(5).send().await.unwrap().messages.unwrap_or_default();
        assert!(!received.is_empty(), "the workers took some: {bodies:?}");
        bodies.extend(received.into_iter().map(|message| message.body.unwrap()));
    }
    bodies.sort();
    let scan = pushlark.stack.dynamodb.scan().table_name("pushlark").send().await.unwrap();
    let items = scan.items().iter().map(|item| Value::from(item_to_json(item)).to_string());
    let mut items: Vec<_> = items.filter(|item| !item.contains("slow-")).collect();
    items.sort();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("upgrade");
    for (file, lines) in [("table.ndjson", items), ("queue.ndjson", bodies)] {
        std::fs::write(folder.join(file), lines.join("\n") + "\n").unwrap();
    }
}

fn from_json(value: &Value) -> AttributeValue {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    let text = || value.as_str().unwrap().to_owned();
    match kind.as_str() {
        "S" => AttributeValue::S(text()),
        "N" => AttributeValue::N(text()),
        "BOOL" => AttributeValue::Bool(value.as_bool().unwrap()),
        "M" => AttributeValue::M(item_from_json(value)),
        other => unreachable!("an attribute of another type: {other}"),
    }
}

fn item_from_json(item: &Value) -> HashMap<String, AttributeValue> {
    item.as_object().unwrap().iter().map(|(name, value)| (name.clone(), from_json(value))).collect()
}

/// A stack with the sample's table, as if it was written just now: nothing in it has expired.
async fn updated<'s>(settings: impl IntoIterator<Item = (&'s str, &'s str)>) -> Pushlark {
    let pushlark = Pushlark::with_settings(settings).await;
    load(&pushlark, |item| item).await;
    pushlark
}

async fn load(pushlark: &Pushlark, change: impl Fn(String) -> String) {
    let tomorrow = OffsetDateTime::now_utc().unix_timestamp() + 86_400;
    for line in include_str!("../../upgrade/table.ndjson").lines() {
        let mut item = item_from_json(&serde_json::from_str(&change(line.to_owned())).unwrap());
        if let Some(expires_at) = item.get_mut("expires_at") {
            *expires_at = AttributeValue::N(tomorrow.to_string());
        }
        let put = pushlark.stack.dynamodb.put_item().table_name("pushlark").set_item(Some(item));
        put.send().await.unwrap();
    }
}

/// Queues the sample's records of events with such ids, as if they were queued just now.
async fn queue(pushlark: &Pushlark, wanted: impl Fn(&str) -> bool) {
    let (at, queue) = (ago(0), pushlark.stack.environment.text("QUEUE_URL").unwrap());
    for line in include_str!("../../upgrade/queue.ndjson").lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let mut work = record["work"].as_array_mut().unwrap().iter_mut();
        let first = work.next().unwrap();
        if !wanted(first["id"].as_str().unwrap()) {
            continue;
        }
        for event in [first].into_iter().chain(work) {
            event["at"] = at.clone().into();
        }
        pushlark.stack.sqs.send_message().queue_url(queue).message_body(record.to_string()).send().await.unwrap();
    }
}

async fn enabled(pushlark: &Pushlark, user: &str) -> Vec<String> {
    let list = pushlark.http.get(format!("{}/enable?user={user}", pushlark.stack.url));
    let list: Value = list.send().await.unwrap().json().await.unwrap();
    let nodes = list["registrations"].as_array().unwrap().iter();
    nodes.map(|registration| registration["node"].as_str().unwrap().to_owned()).collect()
}

/// The texts that a device was sent, in alphabetical order.
async fn texts(pushlark: &Pushlark, device: &str) -> Vec<String> {
    let mut texts = pushlark.alerts(device).await;
    texts.sort();
    texts
}

#[tokio::test]
async fn what_was_queued_is_notified_once_to_each_device() {
    let pushlark = updated([("PLUGIN", "enhanced"), ("UNREAD_COUNTS", "on")]).await;
    queue(&pushlark, |id| !id.starts_with("removed")).await;
    pushlark.settled().await;
    let all = ["planted first", "planted group", "planted one", "planted second"];
    assert_eq!(texts(&pushlark, "tablet").await, all);
    // The session that did not acknowledge a message had enabled this one.
    assert_eq!(texts(&pushlark, "phone").await, [&all[..], &["planted unacknowledged"]].concat());
    assert_eq!(pushlark.notifications("laptop").await.len(), all.len());
    assert_eq!(texts(&pushlark, "frank").await, ["planted group"]);
    // Its record had failed for Carol, and was delivered to Gina.
    assert_eq!(texts(&pushlark, "carol").await, ["planted held"]);
    assert!(texts(&pushlark, "gina").await.is_empty());
    for device in ["erin-fine", "erin-suspected"] {
        assert_eq!(texts(&pushlark, device).await, ["planted node"]);
    }
    // Bob had three unread messages of Alice.
    let notified = pushlark.notifications("phone").await.into_iter();
    let alerts = notified.map(|notified| notified["notification"]["alert"].clone());
    let mut badges: Vec<_> =
        alerts.filter(|alert| alert["tag"] == "alice@example.com").map(|alert| alert["badge"].as_u64()).collect();
    badges.sort();
    assert_eq!(badges, [Some(4), Some(5), Some(6), Some(7)]);
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

#[tokio::test]
async fn what_was_notified_is_not_notified_again() {
    let pushlark = updated([("PLUGIN", "enhanced"), ("UNREAD_COUNTS", "on")]).await;
    for id in ["read", "delivered", "suspect-1"] {
        pushlark.event(chat(id, BOB, "planted before")).await;
        let mut twin = chat(id, "bob@example.com/phone", "planted before");
        twin["type"] = "unacknowledged".into();
        pushlark.event(twin).await;
    }
    pushlark.event(chat("held", [GINA, CAROL], "planted before")).await;
    pushlark.event(chat("new", [BOB, GINA, CAROL], "planted new")).await;
    pushlark.settled().await;
    for device in ["phone", "tablet", "gina", "carol"] {
        assert_eq!(pushlark.alerts(device).await, ["planted new"], "{device}");
    }
}

#[tokio::test]
async fn devices_of_before_are_listed_replaced_and_disabled() {
    let pushlark = updated([("MAX_NODES", "3"), ("MAX_NODES_REACHED", "refuse-newest")]).await;
    let enable = async |node: &str| {
        let form = json!({"service": "fcm", "device_id": format!("planted-{node}")});
        let enable = json!({"user": BOB, "jid": HOST, "node": node, "form": form});
        pushlark.json("/enable", enable).await.status
    };
    assert_eq!(enabled(&pushlark, BOB).await, ["laptop", "phone", "tablet"]);
    assert_eq!(enable("fourth").await, 409);
    assert_eq!(enable("phone").await, 200);
    let disable = json!({"user": BOB, "jid": HOST, "node": "tablet"});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_eq!(enable("fourth").await, 200);
    assert_eq!(enable("fifth").await, 409);
    pushlark.message(BOB, "planted new").await;
    pushlark.settled().await;
    for (device, count) in [("phone", 1), ("laptop", 1), ("fourth", 1), ("tablet", 0), ("fifth", 0)] {
        assert_eq!(pushlark.notifications(device).await.len(), count, "{device}");
    }
    let disable = json!({"user": BOB, "jid": HOST});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert!(enabled(&pushlark, BOB).await.is_empty());

    let pushlark = updated([("MAX_NODES", "3")]).await;
    pushlark.enable(BOB, "newest").await;
    // The phone was enabled first.
    assert_eq!(enabled(&pushlark, BOB).await, ["laptop", "newest", "tablet"]);
}

#[tokio::test]
async fn suspicions_of_before_count() {
    let pushlark = updated([("MONGOOSEPUSH_API_VERSION", "v2"), ("DISABLE_MAX_PERCENT", "100")]).await;
    let unregistered = json!({"status": 500, "body": {"details": "probably_unregistered"}});
    // The laptop is suspected for the third time, the phone for the first time.
    for device in ["laptop", "phone"] {
        pushlark.device_answers(device, unregistered.clone()).await;
    }
    pushlark.message(BOB, "planted new").await;
    pushlark.settled().await;
    assert_eq!(enabled(&pushlark, BOB).await, ["phone", "tablet"]);
}

#[tokio::test]
async fn sessions_of_before_are_online_or_offline() {
    let pushlark = updated([]).await;
    let kate = "kate@example.com";
    pushlark.enable(kate, "kate").await;
    pushlark.message(kate, "planted: not to be notified").await;
    pushlark.settled().await;
    pushlark.event(json!({"type": "presence", "jid": "kate@example.com/pc", "status": "offline"})).await;
    pushlark.message(kate, "planted new").await;
    pushlark.notified("kate", 1).await;
    assert_eq!(pushlark.alerts("kate").await, ["planted new"]);
}

#[tokio::test]
async fn push_nodes_of_before_are_published_to_by_their_publishers() {
    let pushlark = updated([]).await;
    let publish = async |from: &str, node: &str| iq(&pushlark, from, "p", &publish(node, "planted new")).await;
    assert!(publish("example.com", "fine").await.contains("result"));
    assert!(publish("example.org", "fine").await.contains("forbidden"));
    // Its device is gone.
    assert!(publish("example.com", "lost").await.contains("type=\"error\""));
    assert!(publish(ERIN, "bare").await.contains("precondition-not-met"));
    pushlark.notified("erin-fine", 1).await;
    for node in ["fine", "suspected", "lost"] {
        assert!(iq(&pushlark, ERIN, "e", &register(node, "planted-again")).await.contains("type=\"result\""));
        assert!(publish("example.com", node).await.contains("result"));
    }
    let disable = format!("<disable xmlns='urn:xmpp:push:0' jid='{HOST}'/>");
    assert!(iq(&pushlark, ERIN, "d", &disable).await.contains("result"));
    for node in ["fine", "suspected", "lost", "bare"] {
        assert!(publish("example.com", node).await.contains("item-not-found"), "{node}");
    }
}

#[tokio::test]
async fn removals_of_before_remove_what_was_stored_before() {
    let pushlark = updated([]).await;
    queue(&pushlark, |id| id.starts_with("removed")).await;
    // The second look at a domain comes after ten seconds.
    eventually("the end of a user and of a domain", async || {
        let of_domain = async |number: u32| enabled(&pushlark, &format!("u{number}@gone.example")).await;
        let left = [enabled(&pushlark, FRANK).await, of_domain(0).await, of_domain(1).await, of_domain(2).await];
        left.iter().all(Vec::is_empty).then_some(())
    })
    .await;
    eventually("the end of a user's node", async || {
        iq(&pushlark, FRANK, "p", &publish("franks", "planted")).await.contains("item-not-found").then_some(())
    })
    .await;
    assert_eq!(enabled(&pushlark, BOB).await.len(), 3);
}

#[tokio::test]
async fn a_browser_of_before_is_notified() {
    let push_service = WebPush::start().await;
    let key = json!({"key": "cGxhbnRlZHBsYW50ZWRwbGFudGVkcGxhbnRlZGtleXM", "subject": "mailto:planted@example.com"});
    let credentials = json!({"default": {"web_push": key}}).to_string();
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", credentials.as_str()),
        ("WEB_PUSH_TRUSTED_ORIGINS", push_service.url.as_str()),
    ];
    let pushlark = Pushlark::with_settings(settings).await;
    load(&pushlark, |item| item.replace("https://updates.push.example", &push_service.url)).await;
    pushlark.message(DAVE, "planted new").await;
    pushlark.settled().await;
    assert_eq!(push_service.taken("browser").len(), 1);
}
