//! What must not be lost, whatever fails.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use local::Options;
use pushlark_plugin::{Defaults, Event, Payload, Plugin, Plugins, Rule};
use pushlark_settings::Environment;
use pushlark_store::Claimant;
use serde_json::{Value, json};
use tests::{Apart, Line, PushService, Pushlark, ago, eventually, refusing_address};
use tokio::time::Instant;

const BOB: &str = "bob@example.com";
/// On the clock of a stack in fast motion.
const AN_HOUR: Duration = Duration::from_secs(6);

/// A stack in which SQS's hour passes in six seconds.
fn in_fast_motion(settings: &[(&str, &str)]) -> Options {
    Options { environment: settings.iter().copied().collect(), ..tests::in_fast_motion(600) }
}

async fn queue_text(pushlark: &Pushlark, text: &str) {
    let queue = pushlark.stack.environment.text("QUEUE_URL").unwrap();
    pushlark.stack.sqs.send_message().queue_url(queue).message_body(text).send().await.unwrap();
}

#[tokio::test]
async fn a_push_service_that_is_down_for_an_hour_gets_everything_afterwards() {
    let (socket, url) = refusing_address();
    let pushlark = Pushlark::with(in_fast_motion(&[("MONGOOSEPUSH_URL", url.as_str())])).await;
    for user in 0..20 {
        pushlark.enable(&format!("u{user}@example.com"), &format!("device-{user}")).await;
        pushlark.message(&format!("u{user}@example.com"), "planted Hi").await;
    }
    tokio::time::sleep(AN_HOUR).await;
    let push_service = PushService::default();
    push_service.clone().serve(socket.listen(1024).unwrap());
    pushlark.settled().await;
    let mut devices: Vec<_> = push_service.requests().into_iter().map(|(_, device)| device).collect();
    devices.sort();
    let mut expected: Vec<_> = (0..20).map(|user| format!("device-{user}")).collect();
    expected.sort();
    assert_eq!(devices, expected);
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

#[tokio::test]
async fn a_table_that_is_down_for_an_hour_loses_nothing() {
    let line = Line::start().await;
    let options = Options { dynamodb_endpoint: Some(line.url.clone()), ..in_fast_motion(&[]) };
    let pushlark = Pushlark::with(options).await;
    line.connect(&pushlark.stack.dynamodb_url);
    pushlark.enable(BOB, "phone").await;
    line.cut();
    for number in 0..5 {
        pushlark.message(BOB, &format!("planted {number}")).await;
    }
    let presence = json!({"type": "presence", "jid": "bob@example.com/a", "status": "offline"});
    pushlark.json("/events", presence).await.problem(503);
    let enable = json!({"user": BOB, "jid": "push.example.com", "node": "tablet"});
    let reply = pushlark.json("/enable", enable).await;
    reply.problem(503);
    assert!(reply.headers.contains_key("retry-after"));
    let iq = "<iq type='set' from='bob@example.com/phone' id='1'>\
              <enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='tablet'/></iq>";
    let reply = pushlark.post("/enable", "application/xml", iq).await;
    assert!(reply.status == 200 && reply.body.contains("<error type=\"wait\">"), "{}", reply.body);
    tokio::time::sleep(AN_HOUR).await;
    // A record is put back before it is deleted.
    eventually("five records", async || (pushlark.queue_depth("QUEUE_URL").await == 5).then_some(())).await;
    assert!(pushlark.alerts("phone").await.is_empty());
    line.connect(&pushlark.stack.dynamodb_url);
    pushlark.settled().await;
    let mut alerts = pushlark.alerts("phone").await;
    alerts.sort();
    assert_eq!(alerts, ["planted 0", "planted 1", "planted 2", "planted 3", "planted 4"]);
}

#[tokio::test]
async fn a_record_that_cannot_be_understood_goes_to_the_dead_letter_queue_and_stops_nothing() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let stanza_is_broken = json!({"version": 2, "work": [{"id": "m", "at": "2026-01-01T00:00:00Z", "subject":
        {"message": {"from": "a@b", "to": [BOB], "stanza": "<message><body>planted</body>"}}}]});
    let poison = [
        "planted, not JSON".to_owned(),
        json!({"version": 2, "work": "planted"}).to_string(),
        stanza_is_broken.to_string(),
    ];
    for text in &poison {
        queue_text(&pushlark, text).await;
    }
    pushlark.message(BOB, "planted Hi").await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 3);
    let dead_letters = pushlark.stack.environment.text("DEAD_LETTER_QUEUE_URL").unwrap();
    let dead =
        pushlark.stack.sqs.receive_message().queue_url(dead_letters).max_number_of_messages(10).send().await.unwrap();
    let mut bodies: Vec<_> = dead.messages.unwrap().into_iter().map(|message| message.body.unwrap()).collect();
    bodies.sort();
    let mut expected = poison.to_vec();
    expected.sort();
    assert_eq!(bodies, expected);
}

struct PanicsAt(&'static str);

impl Plugin for PanicsAt {
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        assert_ne!(event.message.body().unwrap(), self.0, "as this plugin was made to");
        Defaults.prepare_notification(event)
    }
}

#[tokio::test]
async fn a_panic_fails_its_record_alone() {
    let plugins = Plugins::built_in().with("panics", PanicsAt("planted: boom"));
    let environment = Environment::from_iter([("PLUGIN", "panics")]);
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    pushlark.enable(BOB, "phone").await;
    let record = |name: &str| {
        let stanza = format!("<message type='chat'><body>planted: {name}</body></message>");
        json!({"version": 2, "work": [{"id": name, "at": ago(0),
            "subject": {"message": {"from": "a@b", "to": [BOB], "stanza": stanza}}}]})
    };
    let entries = ["one", "boom", "two"].map(|name| {
        aws_sdk_sqs::types::SendMessageBatchRequestEntry::builder()
            .id(name)
            .message_body(record(name).to_string())
            .build()
            .unwrap()
    });
    let queue = pushlark.stack.environment.text("QUEUE_URL").unwrap();
    pushlark.stack.sqs.send_message_batch().queue_url(queue).set_entries(Some(entries.into())).send().await.unwrap();
    pushlark.notified("phone", 2).await;
    eventually("only the failed record left", async || (pushlark.queue_depth("QUEUE_URL").await == 1).then_some(()))
        .await;
    let mut alerts = pushlark.alerts("phone").await;
    alerts.sort();
    assert_eq!(alerts, ["planted: one", "planted: two"]);
}

fn message_to(users: &[&str]) -> Value {
    let at = ago(0);
    json!({"id": "m", "at": at, "subject": {"message": {"from": "alice@example.com", "to": users,
        "stanza": "<message type='chat'><body>planted Hi</body></message>"}}})
}

#[tokio::test]
async fn near_the_deadline_what_is_not_tried_is_given_back_at_once() {
    let apart = Apart::start().await;
    apart.pushlark.enable(BOB, "phone").await;
    let batch = apart.batch(&[message_to(&[BOB])]).await;
    let response = apart.worker.handle(batch.clone(), Instant::now() + Duration::from_secs(5)).await;
    assert!(response.batch_item_failures.is_empty());
    assert!(apart.pushlark.alerts("phone").await.is_empty());
    let again = apart.receive().await.expect("visible at once");
    apart.handle(again.clone()).await;
    assert_eq!(apart.pushlark.alerts("phone").await, ["planted Hi"]);
    apart.delete(again).await;
    assert!(apart.next(batch).await.is_none());
}

#[tokio::test]
async fn what_another_event_has_yet_to_publish_is_left_to_it() {
    let apart = Apart::start().await;
    apart.pushlark.enable(BOB, "bobs").await;
    apart.pushlark.enable("carol@example.com", "carols").await;
    apart.pushlark.device_answers("bobs", json!({"status": 500})).await;
    let first = apart.batch(&[message_to(&[BOB])]).await;
    apart.handle(first.clone()).await;
    apart.send(&json!({"version": 2, "work": [message_to(&[BOB]), message_to(&["carol@example.com"])]})).await;
    let twin = apart.receive().await.unwrap();
    apart.handle(twin.clone()).await;
    assert_eq!(apart.pushlark.notifications("bobs").await.len(), 1);
    assert_eq!(apart.pushlark.alerts("carols").await, ["planted Hi"]);
    apart.pushlark.device_answers("bobs", json!({"status": 200})).await;
    let bobs = apart.next(twin).await.expect("the part of the first event that failed");
    apart.handle(bobs.clone()).await;
    apart.delete(bobs).await;
    assert!(apart.next(first).await.is_none());
    let statuses: Vec<_> = apart.pushlark.notifications("bobs").await.iter().map(|n| n["status"].clone()).collect();
    assert_eq!(statuses, [500, 200]);
}

#[tokio::test]
async fn a_worker_that_died_after_its_claim_publishes_when_the_record_returns() {
    let apart = Apart::start().await;
    apart.pushlark.enable(BOB, "phone").await;
    let store = apart.pushlark.store();
    let bob = pushlark_xmpp::BareJid::new(BOB).unwrap();
    let snapshot = store.snapshot(&bob).await.unwrap();
    let batch = apart.batch(&[message_to(&[BOB])]).await;
    let claimant = |name| Claimant { id: "m", user: &bob, name, generation: 0, counted: None };
    // What the worker did before it died; its task is the first of the message.
    let name = format!("{}.0", batch.records[0].message_id.as_ref().unwrap());
    assert_eq!(store.claim(claimant(&name), &[&snapshot.services[0]]).await.unwrap(), [true]);
    apart.handle(batch).await;
    assert_eq!(apart.pushlark.alerts("phone").await, ["planted Hi"]);
    // Another event of the same message finds the claim taken.
    assert_eq!(store.claim(claimant("other.0"), &[&snapshot.services[0]]).await.unwrap(), [false]);
}

#[tokio::test]
async fn a_batch_waits_for_its_window_to_fill() {
    let pushlark = Pushlark::with_settings([("BATCH_SIZE", "100"), ("BATCHING_WINDOW", "2")]).await;
    let users: Vec<_> = (0..30).map(|i| format!("u{i}@example.com")).collect();
    for user in &users {
        pushlark.enable(user, user).await;
    }
    let posted = Instant::now();
    for user in &users {
        pushlark.message(user, "planted Hi").await;
    }
    for user in &users {
        pushlark.notified(user, 1).await;
    }
    assert!(posted.elapsed() >= Duration::from_millis(900), "nobody waited");
    pushlark.settled().await;
    // Nobody else gets a message that waits for its batch to fill.
    let queue = pushlark.stack.environment.text("QUEUE_URL").unwrap();
    let attributes = pushlark.stack.sqs.get_queue_attributes().queue_url(queue);
    let attributes = attributes.attribute_names(QueueAttributeName::VisibilityTimeout).send().await.unwrap();
    assert_eq!(attributes.attributes.unwrap()[&QueueAttributeName::VisibilityTimeout], "62");
}
