//! The update of a running stack: this release reads the table and the queue of the previous release.
//!
//! `tests/fixtures/upgrade/table.ndjson` has the items of a table as DynamoDB JSON, `queue.ndjson` beside it the bodies of SQS
//! messages. At a release, `cargo test --workspace --test it -- --ignored upgrade` writes both files for the tests of the next
//! release.

use std::collections::HashMap;
use std::path::Path;

use aws_sdk_dynamodb::types::AttributeValue;
use doubles::{Subscriber, WebPush};
use local::Options;
use pushlark_model::claim_slot;
use pushlark_settings::Environment;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tests::{
    ALICE, ALICES_PC, BOB, BOBS_PHONE, CAROL, Event, PUSH_HOST, PushRequest, Pushlark, VAPID_KEY, ago, eventually,
    stanza,
};
use time::OffsetDateTime;

const DAVE: &str = "dave@example.com";
const ERIN: &str = "erin@example.com";
const FRANK: &str = "frank@example.com";
const GINA: &str = "gina@example.com";

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
    let iq = stanza::iq_with_id("set", from, PUSH_HOST, id, payload);
    let reply = pushlark.post("/pubsub", "application/xml", iq).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

/// Returns the request of a client to enable a device at a push node.
fn register(node: &str, device: &str) -> String {
    let options = [("service", "fcm"), ("device_id", device), ("priority", "high")];
    stanza::enable(PUSH_HOST, node, &stanza::publish_options(&options))
}

fn publish(node: &str, body: &str) -> String {
    let summary = [("message-count", "4"), ("last-message-sender", ALICES_PC), ("last-message-body", body)];
    stanza::publish(node, &stanza::notification(&stanza::summary(&summary)), &[])
}

fn chat(id: &str, to: impl Serialize, body: &str) -> Event {
    Event::message(to, body).id(id)
}

/// Writes the sample: the table and the queue of a stack of this release.
#[tokio::test]
#[ignore = "writes the sample of this release"]
async fn write_the_sample() {
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

    // Registrations of each service, with a session and without one.
    pushlark.enable(BOBS_PHONE, "phone").await;
    let apns = json!({"service": "apns", "mode": "dev", "topic": "com.example.chat", "priority": "normal"});
    pushlark.enable_with("bob@example.com/tablet", "tablet", apns).await;
    pushlark.enable_with(BOB, "laptop", json!({"silent": "true"})).await;
    pushlark.enable(CAROL, "carol").await;
    pushlark.enable(GINA, "gina").await;
    let browser = Subscriber::new(5);
    let endpoint = "https://updates.push.example/push/canary-browser";
    let enable = PushRequest::new(DAVE, "browser").browser(endpoint, &browser);
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
        pushlark.event(Event::presence(session, status)).await;
    }

    // Push nodes of a device, of a suspected device, of a gone device, and without a device.
    for node in ["fine", "suspected", "lost"] {
        assert!(
            iq(&pushlark, ERIN, "e", &register(node, &format!("canary-erin-{node}"))).await.contains("type=\"result\"")
        );
    }
    iq(&pushlark, ERIN, "c", &stanza::create_node("bare")).await;
    iq(&pushlark, FRANK, "f", &register("franks", "canary-franks")).await;
    let unregistered = json!({"status": 500, "body": {"details": "probably_unregistered"}});
    for (device, node, times) in [("erin-suspected", "suspected", 1), ("erin-lost", "lost", 3)] {
        pushlark.device_answers(device, unregistered.clone()).await;
        for number in 0..times {
            iq(&pushlark, "example.com", &format!("{node}-{number}"), &publish(node, "canary before")).await;
            pushlark.settled().await;
        }
    }

    // A suspected registration, finished and unfinished claims, and unread counts.
    pushlark.event(chat("read", BOB, "canary before")).await;
    pushlark.settled().await;
    let read = Event::read(BOB, ALICE);
    pushlark.event(read).await;
    pushlark.event(chat("delivered", BOB, "canary before")).await;
    pushlark.settled().await;
    pushlark.device_answers("laptop", unregistered.clone()).await;
    for id in ["suspect-1", "suspect-2"] {
        pushlark.event(chat(id, BOB, "canary before")).await;
        pushlark.settled().await;
    }
    pushlark.device_answers("carol", json!({"status": 503})).await;
    pushlark.event(chat("held", [GINA, CAROL], "canary held")).await;
    pushlark.notified("carol", 2).await;

    // Both workers are busy now, so later records stay in the queue.
    for slow in ["slow-1", "slow-2"] {
        pushlark.device_answers(slow, json!({"status": 503, "delay_ms": 9_000})).await;
        pushlark.enable(&format!("{slow}@example.com"), slow).await;
        pushlark.event(chat(slow, format!("{slow}@example.com"), "canary slow")).await;
    }
    let claimed = async |id: &str| {
        let claim = pushlark.stack.dynamodb.get_item().table_name("pushlark");
        let pk = AttributeValue::S(format!("msg/{id}/{:x}", claim_slot(&format!("{id}@example.com"))));
        let claim = claim.key("pk", pk).key("sk", AttributeValue::S("claims".into())).send().await.unwrap();
        claim.item.is_some()
    };
    eventually("busy workers", async || (claimed("slow-1").await && claimed("slow-2").await).then_some(())).await;
    pushlark.event(chat("one", BOB, "canary one")).await;
    let group = Event::groupchat("room@muclight.example.com/alice@example.com", [BOB, DAVE, FRANK], "canary group")
        .id("group")
        .recipient(json!({"online": false}));
    pushlark.event(group).await;
    pushlark
        .event(
            Event::stanza(BOBS_PHONE, &stanza::chat("<body>canary unacknowledged</body>"))
                .with("type", "unacknowledged")
                .id("unacknowledged"),
        )
        .await;
    let several = json!([chat("first", BOB, "canary first"), chat("second", BOB, "canary second")]);
    assert_eq!(pushlark.json("/events", several).await.status, 202);
    for node in ["fine", "suspected"] {
        iq(&pushlark, "example.com", &format!("queued-{node}"), &publish(node, "canary node")).await;
    }
    pushlark.event(Event::user_removed(FRANK).id("removed-user")).await;
    pushlark.event(Event::domain_removed("gone.example").id("removed-domain")).await;

    let mut bodies = Vec::new();
    let queue = pushlark.stack.environment.text("QUEUE_URL").unwrap();
    while bodies.len() < 9 {
        let receive = pushlark.stack.sqs.receive_message().queue_url(queue).max_number_of_messages(10);
        let received = receive.wait_time_seconds(5).send().await.unwrap().messages.unwrap_or_default();
        assert!(!received.is_empty(), "the workers have received records: {bodies:?}");
        bodies.extend(received.into_iter().map(|message| message.body.unwrap()));
    }
    bodies.sort();
    let scan = pushlark.stack.dynamodb.scan().table_name("pushlark").send().await.unwrap();
    let items = scan.items().iter().map(|item| Value::from(item_to_json(item)).to_string());
    let mut items: Vec<_> = items.filter(|item| !item.contains("slow-")).collect();
    items.sort();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/upgrade");
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

/// Starts a stack with the table of the sample. Its items expire tomorrow.
async fn updated<'s>(settings: impl IntoIterator<Item = (&'s str, &'s str)>) -> Pushlark {
    let pushlark = Pushlark::with_settings(settings).await;
    load(&pushlark, |item| item).await;
    pushlark
}

async fn load(pushlark: &Pushlark, change: impl Fn(String) -> String) {
    let tomorrow = OffsetDateTime::now_utc().unix_timestamp() + 86_400;
    for line in include_str!("../../fixtures/upgrade/table.ndjson").lines() {
        let mut item = item_from_json(&serde_json::from_str(&change(line.to_owned())).unwrap());
        if let Some(expires_at) = item.get_mut("expires_at") {
            *expires_at = AttributeValue::N(tomorrow.to_string());
        }
        let put = pushlark.stack.dynamodb.put_item().table_name("pushlark").set_item(Some(item));
        put.send().await.unwrap();
    }
}

/// Queues the records of the sample whose first id is wanted, with the present time.
async fn queue(pushlark: &Pushlark, wanted: impl Fn(&str) -> bool) {
    let at = ago(0);
    for line in include_str!("../../fixtures/upgrade/queue.ndjson").lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let mut work = record["work"].as_array_mut().unwrap().iter_mut();
        let first = work.next().unwrap();
        if !wanted(first["id"].as_str().unwrap()) {
            continue;
        }
        for event in [first].into_iter().chain(work) {
            event["at"] = at.clone().into();
        }
        pushlark.enqueue(record).await;
    }
}

#[tokio::test]
async fn queued_messages_notify_each_device_once() {
    let pushlark = updated([("PLUGIN", "enhanced"), ("UNREAD_COUNTS", "on")]).await;
    queue(&pushlark, |id| !id.starts_with("removed")).await;
    pushlark.settled().await;
    let all = ["canary first", "canary group", "canary one", "canary second"];
    assert_eq!(pushlark.sorted_alerts("tablet").await, all);
    // The session that did not acknowledge a message has enabled this device.
    assert_eq!(pushlark.sorted_alerts("phone").await, [&all[..], &["canary unacknowledged"]].concat());
    assert_eq!(pushlark.notifications("laptop").await.len(), all.len());
    assert_eq!(pushlark.sorted_alerts("frank").await, ["canary group"]);
    // This record had failed for Carol, and was delivered to Gina. The claims of the earlier version are not read.
    for device in ["carol", "gina"] {
        assert_eq!(pushlark.sorted_alerts(device).await, ["canary held"]);
    }
    for device in ["erin-fine", "erin-suspected"] {
        assert_eq!(pushlark.sorted_alerts(device).await, ["canary node"]);
    }
    // Bob had three unread messages of Alice.
    let notified = pushlark.notifications("phone").await.into_iter();
    let alerts = notified.map(|notified| notified["notification"]["alert"].clone());
    let mut badges: Vec<_> =
        alerts.filter(|alert| alert["tag"] == ALICE).map(|alert| alert["badge"].as_u64()).collect();
    badges.sort();
    assert_eq!(badges, [Some(4), Some(5), Some(6), Some(7)]);
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

#[tokio::test]
async fn notified_messages_are_notified_at_most_once_more() {
    let pushlark = updated([("PLUGIN", "enhanced"), ("UNREAD_COUNTS", "on")]).await;
    for id in ["read", "delivered", "suspect-1"] {
        pushlark.event(chat(id, BOB, "canary before")).await;
        pushlark.event(Event::unacknowledged(BOBS_PHONE, "canary before").id(id)).await;
    }
    for id in ["held", "held", "new"] {
        pushlark.event(chat(id, [GINA, CAROL], "canary before")).await;
    }
    pushlark.settled().await;
    for (device, times) in [("phone", 3), ("tablet", 3), ("gina", 2), ("carol", 2)] {
        assert_eq!(pushlark.notifications(device).await.len(), times, "{device}");
    }
}

#[tokio::test]
async fn old_registrations_are_listed_replaced_and_disabled() {
    let pushlark = updated([("MAX_NODES", "3"), ("MAX_NODES_REACHED", "refuse-newest")]).await;
    let enable = async |node: &str| pushlark.json("/enable", PushRequest::new(BOB, node).device(node)).await.status;
    assert_eq!(pushlark.listed_nodes(BOB).await, ["laptop", "phone", "tablet"]);
    assert_eq!(enable("fourth").await, 409);
    assert_eq!(enable("phone").await, 200);
    let disable = PushRequest::new(BOB, "tablet");
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_eq!(enable("fourth").await, 200);
    assert_eq!(enable("fifth").await, 409);
    pushlark.message(BOB, "canary new").await;
    pushlark.settled().await;
    for (device, count) in [("phone", 1), ("laptop", 1), ("fourth", 1), ("tablet", 0), ("fifth", 0)] {
        assert_eq!(pushlark.notifications(device).await.len(), count, "{device}");
    }
    let disable = PushRequest::all_nodes(BOB);
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert!(pushlark.listed_nodes(BOB).await.is_empty());

    let pushlark = updated([("MAX_NODES", "3")]).await;
    pushlark.enable(BOB, "newest").await;
    // The phone was enabled first.
    assert_eq!(pushlark.listed_nodes(BOB).await, ["laptop", "newest", "tablet"]);
}

#[tokio::test]
async fn old_suspicions_count() {
    let pushlark = updated([("MONGOOSEPUSH_API_VERSION", "v2"), ("DISABLE_MAX_PERCENT", "100")]).await;
    let unregistered = json!({"status": 500, "body": {"details": "probably_unregistered"}});
    // This is the third error of the laptop, and the first of the phone.
    for device in ["laptop", "phone"] {
        pushlark.device_answers(device, unregistered.clone()).await;
    }
    pushlark.message(BOB, "canary new").await;
    pushlark.settled().await;
    assert_eq!(pushlark.listed_nodes(BOB).await, ["phone", "tablet"]);
}

#[tokio::test]
async fn old_sessions_are_online_or_offline() {
    let pushlark = updated([]).await;
    let kate = "kate@example.com";
    pushlark.enable(kate, "kate").await;
    pushlark.message(kate, "canary: not to be notified").await;
    pushlark.settled().await;
    pushlark.event(Event::presence("kate@example.com/pc", "offline")).await;
    pushlark.message(kate, "canary new").await;
    pushlark.notified("kate", 1).await;
    assert_eq!(pushlark.alerts("kate").await, ["canary new"]);
}

#[tokio::test]
async fn old_push_nodes_accept_their_publishers() {
    let pushlark = updated([]).await;
    let publish = async |from: &str, node: &str| iq(&pushlark, from, "p", &publish(node, "canary new")).await;
    assert!(publish("example.com", "fine").await.contains("result"));
    assert!(publish("example.org", "fine").await.contains("forbidden"));
    // The device of this node is gone.
    assert!(publish("example.com", "lost").await.contains("type=\"error\""));
    assert!(publish(ERIN, "bare").await.contains("precondition-not-met"));
    pushlark.notified("erin-fine", 1).await;
    for node in ["fine", "suspected", "lost"] {
        assert!(iq(&pushlark, ERIN, "e", &register(node, "canary-again")).await.contains("type=\"result\""));
        assert!(publish("example.com", node).await.contains("result"));
    }
    assert!(iq(&pushlark, ERIN, "d", &stanza::disable_all(PUSH_HOST)).await.contains("result"));
    for node in ["fine", "suspected", "lost", "bare"] {
        assert!(publish("example.com", node).await.contains("item-not-found"), "{node}");
    }
}

#[tokio::test]
async fn old_removals_remove_old_items() {
    let pushlark = updated([]).await;
    queue(&pushlark, |id| id.starts_with("removed")).await;
    // The worker checks the domain again after ten seconds.
    eventually("the removal of a user and of a domain", async || {
        let of_domain = async |number: u32| pushlark.listed_nodes(&format!("u{number}@gone.example")).await;
        let left = [pushlark.listed_nodes(FRANK).await, of_domain(0).await, of_domain(1).await, of_domain(2).await];
        left.iter().all(Vec::is_empty).then_some(())
    })
    .await;
    eventually("the removal of a user's node", async || {
        iq(&pushlark, FRANK, "p", &publish("franks", "canary")).await.contains("item-not-found").then_some(())
    })
    .await;
    assert_eq!(pushlark.listed_nodes(BOB).await.len(), 3);
}

#[tokio::test]
async fn an_old_registration_of_a_browser_is_notified() {
    let push_service = WebPush::start().await;
    let key = json!({"key": VAPID_KEY, "subject": "mailto:canary@example.com"});
    let credentials = json!({"default": {"web_push": key}}).to_string();
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", credentials.as_str()),
        ("WEB_PUSH_TRUSTED_ORIGINS", push_service.url.as_str()),
    ];
    let pushlark = Pushlark::with_settings(settings).await;
    load(&pushlark, |item| item.replace("https://updates.push.example", &push_service.url)).await;
    pushlark.message(DAVE, "canary new").await;
    pushlark.settled().await;
    assert_eq!(push_service.accepted("browser").len(), 1);
}
