//! Failures after which no notification may be lost.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use doubles::Gateway;
use local::Options;
use pushlark_model::Payload;
use pushlark_plugin::{Defaults, Event as PluginEvent, Plugin, Plugins, Rule};
use pushlark_settings::Environment;
use pushlark_store::{ClaimItem, Claimant};
use pushlark_xmpp::BareJid;
use serde_json::json;
use tests::{
    BOB, BOBS_PHONE, CAROL, ChaosProxy, Event, IsolatedWorker, PUSH_HOST, PushRequest, Pushlark, Work, XMPP,
    eventually, refusing_address, stanza, with_fast_sqs,
};
use tokio::time::Instant;

/// An hour on the clock of [`fast_options`].
const AN_HOUR: Duration = Duration::from_secs(6);

/// Options of a stack whose SQS clock needs six seconds for an hour.
fn fast_options(settings: &[(&str, &str)]) -> Options {
    Options { environment: settings.iter().copied().collect(), ..with_fast_sqs(600) }
}

#[tokio::test]
async fn an_hour_without_the_push_service_loses_nothing() {
    let (socket, url) = refusing_address();
    let pushlark = Pushlark::with(fast_options(&[("MONGOOSEPUSH_URL", url.as_str())])).await;
    for user in 0..20 {
        pushlark.enable(&format!("u{user}@example.com"), &format!("device-{user}")).await;
        pushlark.message(&format!("u{user}@example.com"), "canary Hi").await;
    }
    tokio::time::sleep(AN_HOUR).await;
    let push_service = Gateway::mongoosepush_at(socket.listen(1024).unwrap());
    pushlark.settled().await;
    let mut devices = push_service.arrivals();
    devices.sort();
    let mut expected: Vec<_> = (0..20).map(|user| format!("device-{user}")).collect();
    expected.sort();
    assert_eq!(devices, expected);
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

#[tokio::test]
async fn an_hour_without_the_table_loses_nothing() {
    let proxy = ChaosProxy::start().await;
    let options = Options { dynamodb_endpoint: Some(proxy.url.clone()), ..fast_options(&[]) };
    let pushlark = Pushlark::with(options).await;
    proxy.connect(&pushlark.stack.dynamodb_url);
    pushlark.enable(BOB, "phone").await;
    proxy.cut();
    for number in 0..5 {
        pushlark.message(BOB, &format!("canary {number}")).await;
    }
    let presence = Event::presence("bob@example.com/a", "offline");
    pushlark.json("/events", presence).await.problem(503);
    let enable = PushRequest::new(BOB, "tablet");
    let reply = pushlark.json("/enable", enable).await;
    reply.problem(503);
    assert!(reply.headers.contains_key("retry-after"));
    let iq = stanza::iq("set", BOBS_PHONE, BOB, &stanza::enable(PUSH_HOST, "tablet", ""));
    let reply = pushlark.post("/enable", XMPP, iq).await;
    assert!(reply.status == 200 && reply.body.contains("<error type=\"wait\">"), "{}", reply.body);
    tokio::time::sleep(AN_HOUR).await;
    // The worker puts a record back before it deletes it, so there may be more for a moment.
    eventually("five records", async || (pushlark.queue_depth("QUEUE_URL").await == 5).then_some(())).await;
    assert!(pushlark.alerts("phone").await.is_empty());
    proxy.connect(&pushlark.stack.dynamodb_url);
    pushlark.settled().await;
    assert_eq!(pushlark.sorted_alerts("phone").await, ["canary 0", "canary 1", "canary 2", "canary 3", "canary 4"]);
}

#[tokio::test]
async fn an_unreadable_record_goes_to_the_dead_letter_queue() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let broken_stanza = Work::message(&[BOB]).message_field("stanza", "<message><body>canary</body>");
    let unreadable = [
        "canary, not JSON".to_owned(),
        json!({"version": 2, "work": "canary"}).to_string(),
        Work::record(&[broken_stanza]).to_string(),
    ];
    for text in &unreadable {
        pushlark.enqueue(text).await;
    }
    pushlark.message(BOB, "canary Hi").await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 3);
    let mut bodies = pushlark.dead_letters().await;
    bodies.sort();
    let mut expected = unreadable.to_vec();
    expected.sort();
    assert_eq!(bodies, expected);
}

/// A plugin that panics at this text.
struct PanicsAt(&'static str);

impl Plugin for PanicsAt {
    fn prepare_notification(&self, event: &PluginEvent) -> Result<Payload, Rule> {
        assert_ne!(event.message.body().unwrap(), self.0, "the plugin panics");
        Defaults.prepare_notification(event)
    }
}

#[tokio::test]
async fn a_panic_fails_only_its_own_record() {
    let plugins = Plugins::built_in().with("panics", PanicsAt("canary: boom"));
    let environment = Environment::from_iter([("PLUGIN", "panics")]);
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    pushlark.enable(BOB, "phone").await;
    let record = |name: &str| {
        let stanza = format!("<message type='chat'><body>canary: {name}</body></message>");
        Work::record(&[Work::message(&[BOB]).id(name).message_field("stanza", stanza)])
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
    eventually("only the failed record in the queue", async || {
        (pushlark.queue_depth("QUEUE_URL").await == 1).then_some(())
    })
    .await;
    assert_eq!(pushlark.sorted_alerts("phone").await, ["canary: one", "canary: two"]);
}

#[tokio::test]
async fn work_not_started_near_the_deadline_returns_to_the_queue() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "phone").await;
    let batch = isolated.batch(&[Work::message(&[BOB])]).await;
    let response = isolated.worker.handle(batch.clone(), Instant::now() + Duration::from_secs(5)).await;
    assert!(response.batch_item_failures.is_empty());
    assert!(isolated.pushlark.alerts("phone").await.is_empty());
    let again = isolated.receive().await.expect("the message is visible at once");
    isolated.handle(again.clone()).await;
    assert_eq!(isolated.pushlark.alerts("phone").await, ["canary Hi"]);
    isolated.delete(again).await;
    assert!(isolated.next(batch).await.is_none());
}

#[tokio::test]
async fn a_publish_that_another_event_has_claimed_is_left_to_it() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "bobs").await;
    isolated.pushlark.enable(CAROL, "carols").await;
    isolated.pushlark.device_answers("bobs", json!({"status": 500})).await;
    let first = isolated.batch(&[Work::message(&[BOB])]).await;
    isolated.handle(first.clone()).await;
    isolated.send(&Work::record(&[Work::message(&[BOB]), Work::message(&[CAROL])])).await;
    let twin = isolated.receive().await.unwrap();
    isolated.handle(twin.clone()).await;
    assert_eq!(isolated.pushlark.notifications("bobs").await.len(), 1);
    assert_eq!(isolated.pushlark.alerts("carols").await, ["canary Hi"]);
    isolated.pushlark.device_answers("bobs", json!({"status": 200})).await;
    let bobs = isolated.next(twin).await.expect("the failed device of the first event");
    isolated.handle(bobs.clone()).await;
    isolated.delete(bobs).await;
    assert!(isolated.next(first).await.is_none());
    let statuses: Vec<_> = isolated.pushlark.notifications("bobs").await.iter().map(|n| n["status"].clone()).collect();
    assert_eq!(statuses, [500, 200]);
}

#[tokio::test]
async fn a_redelivered_record_is_published_after_a_crash() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "phone").await;
    let store = isolated.pushlark.store();
    let bob = BareJid::new(BOB).unwrap();
    let registrations = isolated.pushlark.registrations(BOB).await;
    let batch = isolated.batch(&[Work::message(&[BOB])]).await;
    let held = async |name: &str| {
        let claim = Claimant { user: &bob, name, generation: 0, counted: None }.claim(&[&registrations[0]]);
        store.claim(&ClaimItem::new("m", &bob), &[claim]).await.unwrap()
    };
    // The worker has claimed the publish before it crashed. Its task is the first one of the message.
    let name = format!("{}.0", batch.records[0].message_id.as_ref().unwrap());
    assert_eq!(held(&name).await, [[true]]);
    isolated.handle(batch).await;
    assert_eq!(isolated.pushlark.alerts("phone").await, ["canary Hi"]);
    // Another event of the same message cannot claim the publish.
    assert_eq!(held("other.0").await, [[false]]);
}

#[tokio::test]
async fn a_batch_waits_for_the_batching_window() {
    let pushlark = Pushlark::with_settings([("BATCH_SIZE", "100"), ("BATCHING_WINDOW", "2")]).await;
    let users: Vec<_> = (0..30).map(|i| format!("u{i}@example.com")).collect();
    for user in &users {
        pushlark.enable(user, user).await;
    }
    let posted = Instant::now();
    for user in &users {
        pushlark.message(user, "canary Hi").await;
    }
    for user in &users {
        pushlark.notified(user, 1).await;
    }
    assert!(posted.elapsed() >= Duration::from_millis(900), "the batch did not wait");
    pushlark.settled().await;
    // A message that waits in a batch stays hidden for longer than the window.
    let queue = pushlark.stack.environment.text("QUEUE_URL").unwrap();
    let attributes = pushlark.stack.sqs.get_queue_attributes().queue_url(queue);
    let attributes = attributes.attribute_names(QueueAttributeName::VisibilityTimeout).send().await.unwrap();
    assert_eq!(attributes.attributes.unwrap()[&QueueAttributeName::VisibilityTimeout], "62");
}
