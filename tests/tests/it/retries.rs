//! A retry concerns the device that failed, alone, and each push service is taken at its word.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use aws_sdk_dynamodb::types::AttributeValue;
use doubles::{Hold, Subscriber};
use pushlark_queue::{Record, Retry};
use serde_json::{Value, json};
use tests::{Apart, PushService, Pushlark, ago, eventually, in_fast_motion};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use worker::Worker;

const BOB: &str = "bob@example.com";
const CAROL: &str = "carol@example.com";

fn message_at(at: &str, to: &[&str]) -> Value {
    json!({"id": "m", "at": at, "subject": {"message": {"from": "room@muc.example.com/alice", "to": to,
        "stanza": "<message type='groupchat'><body>planted Hi</body></message>"}}})
}

fn message(to: &[&str]) -> Value {
    message_at(&ago(0), to)
}

async fn beside_push_service() -> (Apart, PushService) {
    let (push_service, url) = PushService::start().await;
    (Apart::beside(Pushlark::with_settings([("MONGOOSEPUSH_URL", url.as_str())]).await).await, push_service)
}

/// The only work of a batch of one message, and the tries before it.
fn retry_of(batch: &SqsEvent) -> (Value, Retry) {
    let body = batch.records[0].body.as_deref().unwrap();
    let record = Record::read(body).unwrap();
    assert_eq!(record.work.len(), 1, "{body}");
    (serde_json::to_value(&record.work[0].subject).unwrap(), record.work[0].retry.clone().unwrap())
}

async fn statuses(pushlark: &Pushlark, device: &str) -> Vec<Value> {
    pushlark.notifications(device).await.iter().map(|notified| notified["status"].clone()).collect()
}

#[tokio::test]
async fn a_record_of_a_later_version_goes_back_to_the_queue() {
    let apart = Apart::start().await;
    apart.send(&json!({"version": 3, "work": "in another shape"})).await;
    let batch = apart.receive().await.unwrap();
    let response = apart.worker.handle(batch.clone(), Instant::now() + Duration::from_secs(60)).await;
    assert_eq!(response.batch_item_failures[0].item_identifier, *batch.records[0].message_id.as_ref().unwrap());
    // Not at once, not never, and not among the dead letters, which are in the same queue here.
    assert!(apart.receive().await.is_none());
    let again = eventually("the record", async || apart.receive().await).await;
    assert_eq!(again.records[0].body, batch.records[0].body);
    assert_eq!(apart.depth().await, 1);
}

#[tokio::test]
async fn what_failed_is_put_back_by_itself() {
    let apart = Apart::start().await;
    apart.pushlark.enable(BOB, "steady").await;
    apart.pushlark.enable(BOB, "shaky").await;
    apart.pushlark.enable(CAROL, "carols").await;
    apart.pushlark.device_answers("shaky", json!({"status": 500})).await;
    let batch = apart.batch(&[message(&[BOB, CAROL])]).await;
    apart.handle(batch.clone()).await;
    let shaky = apart.next(batch.clone()).await.expect("the device that failed");
    let (subject, retry) = retry_of(&shaky);
    assert_eq!(subject["message"]["to"], json!([BOB]));
    let registration = retry.registration.unwrap();
    assert_eq!((registration.node.as_str(), retry.tries, retry.not_before), ("shaky", 1, None));
    assert_eq!(retry.claimant, format!("{}.0", batch.records[0].message_id.as_ref().unwrap()));
    apart.pushlark.device_answers("shaky", json!({"status": 200})).await;
    apart.handle_all(shaky).await;
    assert_eq!(statuses(&apart.pushlark, "shaky").await, [500, 200]);
    for device in ["steady", "carols"] {
        assert_eq!(statuses(&apart.pushlark, device).await, [200], "{device}");
    }
}

#[tokio::test]
async fn a_record_that_sqs_delivers_again_repeats_nothing_that_was_put_back() {
    let apart = Apart::start().await;
    apart.pushlark.enable(BOB, "steady").await;
    apart.pushlark.enable(BOB, "shaky").await;
    apart.pushlark.device_answers("shaky", json!({"status": 500})).await;
    let batch = apart.batch(&[message(&[BOB])]).await;
    apart.handle(batch.clone()).await;
    // The worker dies before SQS learns that the message is done with: it comes again, as what it put back does.
    apart.handle(batch.clone()).await;
    let first = apart.next(batch).await.expect("the device that failed");
    assert_eq!(statuses(&apart.pushlark, "shaky").await, [500]);
    apart.handle(first.clone()).await;
    apart.pushlark.device_answers("shaky", json!({"status": 200})).await;
    apart.handle(first.clone()).await;
    let second = apart.next(first).await.expect("the device that failed again");
    assert_eq!(retry_of(&second).1.generation, 2);
    assert_eq!(statuses(&apart.pushlark, "shaky").await, [500, 500]);
    apart.handle_all(second).await;
    assert_eq!(statuses(&apart.pushlark, "shaky").await, [500, 500, 200]);
    assert_eq!(statuses(&apart.pushlark, "steady").await, [200]);
}

#[tokio::test]
async fn deliveries_are_noted_while_another_device_holds_up_their_batch() {
    let apart = Apart::start().await;
    apart.pushlark.enable(BOB, "fast").await;
    apart.pushlark.enable(BOB, "slow").await;
    apart.pushlark.enable(CAROL, "carols").await;
    apart.pushlark.device_answers("slow", json!({"status": 200, "delay_ms": 60_000})).await;
    let batch = apart.batch(&[message(&[BOB, CAROL])]).await;
    let noted = async || {
        let claim = |user: &str| {
            let pk = AttributeValue::S(format!("msg/m/{user}"));
            apart.pushlark.stack.dynamodb.get_item().table_name("pushlark").key("pk", pk)
        };
        let is_done = async |user: &str| {
            let claim = claim(user).key("sk", AttributeValue::S("claim".into())).send().await.unwrap().item?;
            claim.values().any(|holder| holder.as_s().is_ok_and(|holder| holder.ends_with(" done"))).then_some(())
        };
        is_done(BOB).await?;
        is_done(CAROL).await
    };
    // The worker dies when both are noted, and long before the batch ends.
    tokio::select! {
        () = apart.handle(batch.clone()) => panic!("the batch ended"),
        () = eventually("notes", noted) => {}
    }
    apart.pushlark.device_answers("slow", json!({"status": 200})).await;
    apart.handle_all(batch).await;
    for (device, times) in [("fast", 1), ("carols", 1), ("slow", 1)] {
        assert_eq!(apart.pushlark.notifications(device).await.len(), times, "{device}");
    }
}

#[tokio::test]
async fn the_time_that_one_device_is_asked_to_wait_delays_no_other() {
    let (apart, push_service) = beside_push_service().await;
    apart.pushlark.enable(BOB, "bobs").await;
    apart.pushlark.enable(CAROL, "carols").await;
    // One of them, whichever comes first, is to wait for twelve hours.
    push_service.answer_next(429, &[("retry-after", "43200")]);
    push_service.answer_next(503, &[]);
    let batch = apart.batch(&[message(&[BOB, CAROL])]).await;
    apart.handle_all_but(1, batch).await;
    let devices: Vec<_> = push_service.requests().into_iter().map(|(_, device)| device).collect();
    assert_eq!(devices.len(), 3);
    assert_eq!(devices[1], devices[2]);
    assert_ne!(devices[0], devices[1]);
}

#[tokio::test]
async fn a_retry_after_that_sqs_cannot_delay_is_kept_without_a_try() {
    // SQS's quarter of an hour passes in a second and a half.
    let (push_service, url) = PushService::start().await;
    let options = local::Options {
        environment: [("MONGOOSEPUSH_URL", url.as_str())].into_iter().collect(),
        ..in_fast_motion(600)
    };
    let apart = Apart::beside(Pushlark::with(options).await).await;
    apart.pushlark.enable(BOB, "limited").await;
    push_service.answer_next(429, &[("retry-after", "43200")]);
    let mut batch = apart.batch(&[message(&[BOB])]).await;
    apart.handle(batch.clone()).await;
    for _ in 0..3 {
        batch = apart.next(batch).await.expect("what was put back");
        let (_, retry) = retry_of(&batch);
        assert_eq!((retry.tries, retry.generation), (1, 1));
        let left = retry.not_before.unwrap() - OffsetDateTime::now_utc();
        assert!(left > time::Duration::hours(11), "{left}");
        apart.handle(batch.clone()).await;
    }
    assert_eq!(push_service.requests().len(), 1);
}

#[tokio::test]
async fn tries_go_on_as_long_as_the_notification_is_worth_delivering() {
    let (push_service, url) = PushService::start().await;
    let settings = [("MONGOOSEPUSH_URL", url.as_str()), ("TIME_TO_LIVE", "60")];
    let options = local::Options { environment: settings.into_iter().collect(), ..in_fast_motion(60) };
    let apart = Apart::beside(Pushlark::with(options).await).await;
    apart.pushlark.enable(BOB, "broken").await;
    // The device is older than the message.
    let update = apart.pushlark.stack.dynamodb.update_item().table_name("pushlark");
    let update = update.key("pk", AttributeValue::S(BOB.into()));
    let update = update.key("sk", AttributeValue::S("reg/push.example.com/broken".into()));
    update.update_expression("REMOVE first_enabled_at").send().await.unwrap();
    let at = ago(40);
    for _ in 0..1_000 {
        push_service.answer_next(503, &[("retry-after", "0")]);
    }
    // Each message that SQS delivers is new: its receives are never used up.
    let mut batch = apart.batch(&[message_at(&at, &[BOB])]).await;
    loop {
        assert_eq!(batch.records[0].attributes["ApproximateReceiveCount"], "1");
        apart.handle(batch.clone()).await;
        let Some(next) = apart.next(batch).await else { break };
        batch = next;
    }
    let tries = push_service.requests().len();
    assert!(tries >= 3, "{tries}");
    let age = OffsetDateTime::now_utc() - OffsetDateTime::parse(&at, &Rfc3339).unwrap();
    assert!(age > time::Duration::seconds(60), "{age}");
}

#[tokio::test]
async fn two_copies_of_a_record_notify_once() {
    let apart = Apart::start().await;
    apart.pushlark.enable(BOB, "steady").await;
    apart.pushlark.enable(CAROL, "shaky").await;
    apart.pushlark.device_answers("shaky", json!({"status": 500})).await;
    let record = json!({"version": 2, "work": [message(&[BOB, CAROL])]});
    apart.send(&record).await;
    apart.send(&record).await;
    let (one, other) = (apart.receive().await.unwrap(), apart.receive().await.unwrap());
    tokio::join!(apart.handle(one.clone()), apart.handle(other.clone()));
    apart.pushlark.device_answers("shaky", json!({"status": 200})).await;
    apart.delete(one).await;
    let shaky = apart.next(other).await.expect("the device that failed");
    apart.handle_all(shaky).await;
    assert_eq!(statuses(&apart.pushlark, "steady").await, [200]);
    assert_eq!(statuses(&apart.pushlark, "shaky").await, [500, 200]);
}

#[tokio::test]
async fn a_device_that_was_first_enabled_after_a_message_does_not_get_it_by_a_later_try() {
    let apart = Apart::start().await;
    let pushlark = &apart.pushlark;
    for node in ["again", "anew", "failing"] {
        pushlark.enable(BOB, node).await;
        pushlark.device_answers(node, json!({"status": 500})).await;
    }
    let batch = apart.batch(&[message(&[BOB])]).await;
    apart.handle(batch.clone()).await;
    let retries = apart.next(batch.clone()).await.unwrap();
    // A client enables its node in each session, which is the same device; after it was disabled it is another one.
    pushlark.enable(BOB, "again").await;
    let disable = json!({"user": BOB, "jid": "push.example.com", "node": "anew"});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    for node in ["anew", "late"] {
        pushlark.enable(BOB, node).await;
    }
    for node in ["again", "anew", "failing"] {
        pushlark.device_answers(node, json!({"status": 200})).await;
    }
    // The worker dies, so that the first record is delivered again, too.
    let mut repeated = batch;
    repeated.records[0].attributes.insert("ApproximateReceiveCount".into(), "2".into());
    apart.handle(repeated).await;
    apart.handle_all(retries).await;
    for (node, expected) in
        [("again", vec![500, 200]), ("failing", vec![500, 200]), ("anew", vec![500]), ("late", vec![])]
    {
        assert_eq!(statuses(pushlark, node).await, expected, "{node}");
    }
}

#[tokio::test]
async fn a_removal_that_fails_for_a_day_goes_to_the_dead_letter_queue() {
    let line = tests::Line::start().await;
    let options = local::Options { dynamodb_endpoint: Some(line.url.clone()), ..in_fast_motion(2_000) };
    let pushlark = Pushlark::with(options).await;
    line.cut();
    let retry = json!({"claimant": "q.0", "generation": 98, "tries": 98});
    let removal = json!({"id": "r", "at": ago(0), "subject": {"user_removed": {"jid": BOB}}, "retry": retry});
    let queue = pushlark.stack.environment.text("QUEUE_URL").unwrap();
    let record = json!({"version": 2, "work": [removal]}).to_string();
    pushlark.stack.sqs.send_message().queue_url(queue).message_body(record).send().await.unwrap();
    eventually("a dead letter", async || (pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await == 1).then_some(()))
        .await;
    pushlark.settled().await;
    let dead_letters = pushlark.stack.environment.text("DEAD_LETTER_QUEUE_URL").unwrap();
    let dead = pushlark.stack.sqs.receive_message().queue_url(dead_letters).send().await.unwrap().messages.unwrap();
    let body: Value = serde_json::from_str(dead[0].body().unwrap()).unwrap();
    assert_eq!(body["work"][0]["retry"]["tries"], 100);
}

#[tokio::test]
async fn a_recipient_with_silent_devices_holds_a_quarter_of_the_concurrency() {
    let (push_service, url) = PushService::start().await;
    let settings = [
        ("MONGOOSEPUSH_URL", url.as_str()),
        ("WORKER_CONCURRENCY", "8"),
        ("PUBLISH_TIMEOUT_MS", "200"),
        ("WORKERS", "2"),
    ];
    let pushlark = Pushlark::with_settings(settings).await;
    for device in 0..20 {
        pushlark.enable(BOB, &format!("silent-{device}")).await;
    }
    pushlark.enable(CAROL, "carols").await;
    push_service.hold(Hold::FOREVER);
    for _ in 0..3 {
        pushlark.message(BOB, "planted Hi").await;
    }
    eventually("many requests", async || (push_service.requests().len() >= 20).then_some(())).await;
    assert_eq!(push_service.most_running(), 2);
    pushlark.message(CAROL, "planted Hi").await;
    let to_carol = async || push_service.requests().iter().any(|(_, device)| device == "carols").then_some(());
    eventually("Carol's notification", to_carol).await;
    push_service.hold(Duration::ZERO);
    pushlark.settled().await;
    assert!(push_service.most_running() <= 4, "{}", push_service.most_running());
}

/// A stack whose devices of these numbers are gone, as the push service says.
async fn with_gone(devices: usize) -> Pushlark {
    let pushlark = Pushlark::start().await;
    for device in 0..devices {
        let (user, device) = (format!("u{device}@example.com"), format!("gone-{device}"));
        pushlark.enable(&user, &device).await;
        pushlark.device_answers(&device, json!({"status": 410, "body": {"reason": "unregistered"}})).await;
    }
    pushlark
}

async fn enabled(pushlark: &Pushlark, users: usize) -> usize {
    let mut enabled = 0;
    for user in 0..users {
        let url = format!("{}/enable?user=u{user}@example.com", pushlark.stack.url);
        let list: Value = pushlark.http.get(url).send().await.unwrap().json().await.unwrap();
        enabled += list["registrations"].as_array().unwrap().len();
    }
    enabled
}

/// Has a worker handle a message to a user.
async fn notify(apart: &Apart, worker: &Arc<Worker>, id: usize, user: &str) {
    let mut work = message(&[user]);
    work["id"] = format!("m{id}").into();
    let batch = apart.batch(&[work]).await;
    worker.handle(batch.clone(), Instant::now() + Duration::from_secs(600)).await;
    apart.delete(batch).await;
}

#[tokio::test]
async fn workers_without_a_history_disable_a_handful_of_devices_together() {
    let apart = Apart::beside(with_gone(20).await).await;
    for user in 0..20 {
        // As if each message found a worker that has just started.
        notify(&apart, &apart.fresh_worker(), user, &format!("u{user}@example.com")).await;
    }
    assert_eq!(enabled(&apart.pushlark, 20).await, 15);
    // The next day there is no history again.
    let table = &apart.pushlark.stack.dynamodb;
    let items = table.scan().table_name("pushlark").send().await.unwrap().items.unwrap();
    let answers: Vec<_> = items.iter().filter(|item| item["pk"].as_s().unwrap().starts_with("answers/")).collect();
    assert_eq!(answers.len(), 1);
    let delete = table.delete_item().table_name("pushlark").key("pk", answers[0]["pk"].clone());
    delete.key("sk", answers[0]["sk"].clone()).send().await.unwrap();
    let mut yesterday = answers[0].clone();
    let day: u64 = yesterday["sk"].as_s().unwrap().parse().unwrap();
    yesterday.insert("sk".into(), AttributeValue::S((day - 1).to_string()));
    table.put_item().table_name("pushlark").set_item(Some(yesterday)).send().await.unwrap();
    for user in 0..20 {
        notify(&apart, &apart.fresh_worker(), 100 + user, &format!("u{user}@example.com")).await;
    }
    assert_eq!(enabled(&apart.pushlark, 20).await, 10);
}

#[tokio::test]
async fn deliveries_by_other_workers_count_where_devices_are_gone() {
    let apart = Apart::beside(with_gone(30).await).await;
    apart.pushlark.enable(BOB, "phone").await;
    for id in 0..40 {
        notify(&apart, &apart.worker, id, BOB).await;
    }
    // The worker that made the deliveries tells of them with the first device that is gone.
    notify(&apart, &apart.worker, 100, "u0@example.com").await;
    for user in 1..30 {
        notify(&apart, &apart.fresh_worker(), 100 + user, &format!("u{user}@example.com")).await;
    }
    assert_eq!(enabled(&apart.pushlark, 30).await, 0);
}

#[tokio::test]
async fn a_web_push_service_that_is_unreachable_for_a_day_is_suspect() {
    let (_socket, origin) = tests::refusing_address();
    let credentials = json!({"default": {"web_push":
        {"key": include_str!("../../doubles/fixtures/apns.p8"), "subject": "mailto:planted@example.com"}}});
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", &credentials.to_string()),
        ("WEB_PUSH_TRUSTED_ORIGINS", &origin),
    ];
    let apart = Apart::beside(Pushlark::with_settings(settings).await).await;
    let browser = Subscriber::new(5);
    let form = json!({"service": "web-push", "endpoint": format!("{origin}/planted"), "p256dh": browser.p256dh(),
        "auth": browser.auth()});
    apart.pushlark.enable_with("u0@example.com", "browser", form).await;
    let user = "u0@example.com";
    let change = async |expression: &str, value: Option<i64>| {
        let update = apart.pushlark.stack.dynamodb.update_item().table_name("pushlark");
        let update = update.key("pk", AttributeValue::S(user.into()));
        let update = update.key("sk", AttributeValue::S("reg/push.example.com/browser".into()));
        let value = value.map(|value| HashMap::from([(":value".into(), AttributeValue::N(value.to_string()))]));
        update.update_expression(expression).set_expression_attribute_values(value).send().await.unwrap();
    };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for id in 0..5 {
        notify(&apart, &apart.worker, id, user).await;
    }
    assert_eq!(enabled(&apart.pushlark, 1).await, 1, "it is unreachable for a moment");
    change("SET unreachable_since = :value", Some(now - 86_500)).await;
    for (id, left) in [(10, 1), (11, 1), (12, 0)] {
        notify(&apart, &apart.worker, id, user).await;
        assert_eq!(enabled(&apart.pushlark, 1).await, left, "{id}");
    }
}
