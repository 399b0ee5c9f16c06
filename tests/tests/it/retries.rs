//! Retries: of the failed device only, and at the time that the push service asks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use aws_sdk_dynamodb::types::AttributeValue;
use doubles::{APNS_KEY, Answer, Gateway, Hold, Subscriber};
use local::Options;
use pushlark_model::claim_slot;
use pushlark_queue::{Record, Retry};
use serde_json::{Value, json};
use tests::{
    BOB, CAROL, ChaosProxy, IsolatedWorker, PushRequest, Pushlark, ROOM_OCCUPANT, Work, ago, eventually,
    refusing_address, with_fast_sqs,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use worker::Worker;

/// Returns a group message.
fn message(to: &[&str]) -> Work {
    let stanza = "<message type='groupchat'><body>canary Hi</body></message>";
    Work::message(to).message_field("from", ROOM_OCCUPANT).message_field("stanza", stanza)
}

/// Starts a worker with a double of MongoosePush.
async fn with_push_service() -> (IsolatedWorker, Gateway) {
    let push_service = Gateway::mongoosepush().await;
    (
        IsolatedWorker::beside(Pushlark::with_settings([("MONGOOSEPUSH_URL", push_service.url.as_str())]).await).await,
        push_service,
    )
}

/// Returns the subject of the only work of a batch, and its earlier tries.
fn retry_of(batch: &SqsEvent) -> (Value, Retry) {
    let body = batch.records[0].body.as_deref().unwrap();
    let record = Record::read(body).unwrap();
    assert_eq!(record.work.len(), 1, "{body}");
    (serde_json::to_value(&record.work[0].kind).unwrap(), record.work[0].retry.clone().unwrap())
}

async fn statuses(pushlark: &Pushlark, device: &str) -> Vec<Value> {
    pushlark.notifications(device).await.iter().map(|notified| notified["status"].clone()).collect()
}

#[tokio::test]
async fn a_record_of_a_later_version_returns_to_the_queue() {
    let isolated = IsolatedWorker::start().await;
    isolated.send(&json!({"version": 1_000, "work": "in another shape"})).await;
    let batch = isolated.receive().await.unwrap();
    let response = isolated.worker.handle(batch.clone(), Instant::now() + Duration::from_secs(60)).await;
    assert_eq!(response.batch_item_failures[0].item_identifier, *batch.records[0].message_id.as_ref().unwrap());
    // The record comes again after a while. Dead letters would be in the same queue here, and there are none.
    assert!(isolated.receive().await.is_none());
    let again = eventually("the record", async || isolated.receive().await).await;
    assert_eq!(again.records[0].body, batch.records[0].body);
    assert_eq!(isolated.depth().await, 1);
}

#[tokio::test]
async fn a_failed_device_is_retried_in_its_own_record() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "steady").await;
    isolated.pushlark.enable(BOB, "shaky").await;
    isolated.pushlark.enable(CAROL, "carols").await;
    isolated.pushlark.device_answers("shaky", json!({"status": 500})).await;
    let batch = isolated.batch(&[message(&[BOB, CAROL])]).await;
    isolated.handle(batch.clone()).await;
    let shaky = isolated.next(batch.clone()).await.expect("the device that failed");
    let (subject, retry) = retry_of(&shaky);
    assert_eq!(subject["message"]["to"], json!([BOB]));
    let registration = retry.registration.unwrap();
    assert_eq!((registration.node.as_str(), retry.tries, retry.not_before), ("shaky", 1, None));
    assert_eq!(retry.claimant, format!("{}.0", batch.records[0].message_id.as_ref().unwrap()));
    isolated.pushlark.device_answers("shaky", json!({"status": 200})).await;
    isolated.handle_all(shaky).await;
    assert_eq!(statuses(&isolated.pushlark, "shaky").await, [500, 200]);
    for device in ["steady", "carols"] {
        assert_eq!(statuses(&isolated.pushlark, device).await, [200], "{device}");
    }
}

#[tokio::test]
async fn devices_of_one_message_that_failed_differently_often_are_both_retried() {
    let isolated = IsolatedWorker::start().await;
    for device in ["often", "once"] {
        isolated.pushlark.enable(BOB, device).await;
        isolated.pushlark.device_answers(device, json!({"status": 500})).await;
    }
    let retry = |device: &str, generation: u32| {
        let registration = json!({"jid": "push.example.com", "node": device});
        let retry = json!({"claimant": "q.0", "generation": generation, "tries": 0, "registration": registration});
        message(&[BOB]).with("retry", retry)
    };
    let batch = isolated.batch(&[retry("often", 3), retry("once", 1)]).await;
    isolated.handle(batch.clone()).await;
    for device in ["often", "once"] {
        isolated.pushlark.device_answers(device, json!({"status": 200})).await;
    }
    let next = isolated.next(batch).await.expect("the devices that failed");
    isolated.handle_all(next).await;
    for device in ["often", "once"] {
        assert_eq!(statuses(&isolated.pushlark, device).await, [500, 200], "{device}");
    }
}

#[tokio::test]
async fn a_redelivered_record_does_not_repeat_its_retries() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "steady").await;
    isolated.pushlark.enable(BOB, "shaky").await;
    isolated.pushlark.device_answers("shaky", json!({"status": 500})).await;
    let batch = isolated.batch(&[message(&[BOB])]).await;
    isolated.handle(batch.clone()).await;
    // The worker crashes before it deletes the message, so SQS delivers the message and the failed device.
    isolated.handle(batch.clone()).await;
    let first = isolated.next(batch).await.expect("the device that failed");
    assert_eq!(statuses(&isolated.pushlark, "shaky").await, [500]);
    isolated.handle(first.clone()).await;
    isolated.pushlark.device_answers("shaky", json!({"status": 200})).await;
    isolated.handle(first.clone()).await;
    let second = isolated.next(first).await.expect("the device that failed again");
    assert_eq!(retry_of(&second).1.generation, 2);
    assert_eq!(statuses(&isolated.pushlark, "shaky").await, [500, 500]);
    isolated.handle_all(second).await;
    assert_eq!(statuses(&isolated.pushlark, "shaky").await, [500, 500, 200]);
    assert_eq!(statuses(&isolated.pushlark, "steady").await, [200]);
}

#[tokio::test]
async fn deliveries_are_recorded_while_a_slow_device_delays_the_batch() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "fast").await;
    isolated.pushlark.enable(BOB, "slow").await;
    isolated.pushlark.enable(CAROL, "carols").await;
    isolated.pushlark.device_answers("slow", json!({"status": 200, "delay_ms": 60_000})).await;
    let batch = isolated.batch(&[message(&[BOB, CAROL])]).await;
    let recorded = async || {
        let claim = |user: &str| {
            let pk = AttributeValue::S(format!("msg/m/{:x}", claim_slot(user)));
            isolated.pushlark.stack.dynamodb.get_item().table_name("pushlark").key("pk", pk)
        };
        let is_done = async |user: &str| {
            let claim = claim(user).key("sk", AttributeValue::S("claims".into())).send().await.unwrap().item?;
            claim
                .values()
                .any(|holder| holder.as_s().is_ok_and(|holder| holder.len() == 6 && holder.ends_with('d')))
                .then_some(())
        };
        is_done(BOB).await?;
        is_done(CAROL).await
    };
    // The worker crashes when both deliveries are recorded, long before the end of the batch.
    tokio::select! {
        () = isolated.handle(batch.clone()) => panic!("the batch ended"),
        () = eventually("recorded deliveries", recorded) => {}
    }
    isolated.pushlark.device_answers("slow", json!({"status": 200})).await;
    isolated.handle_all(batch).await;
    for (device, times) in [("fast", 1), ("carols", 1), ("slow", 1)] {
        assert_eq!(isolated.pushlark.notifications(device).await.len(), times, "{device}");
    }
}

#[tokio::test]
async fn the_retry_after_time_of_one_device_delays_no_other() {
    let (isolated, push_service) = with_push_service().await;
    isolated.pushlark.enable(BOB, "bobs").await;
    isolated.pushlark.enable(CAROL, "carols").await;
    // The first of the two devices is to wait for twelve hours.
    push_service.answer_next(Answer::json(429, &json!({})).with("retry-after", "43200"));
    push_service.answer_next(Answer::json(503, &json!({})));
    let batch = isolated.batch(&[message(&[BOB, CAROL])]).await;
    isolated.handle_all_but(1, batch).await;
    let devices = push_service.arrivals();
    assert_eq!(devices.len(), 3);
    assert_eq!(devices[1], devices[2]);
    assert_ne!(devices[0], devices[1]);
}

#[tokio::test]
async fn a_retry_after_time_above_the_maximum_delay_of_sqs_is_kept() {
    // SQS's maximum delay of 15 minutes takes a second and a half here.
    let push_service = Gateway::mongoosepush().await;
    let options = Options {
        environment: [("MONGOOSEPUSH_URL", push_service.url.as_str())].into_iter().collect(),
        ..with_fast_sqs(600)
    };
    let isolated = IsolatedWorker::beside(Pushlark::with(options).await).await;
    isolated.pushlark.enable(BOB, "limited").await;
    push_service.answer_next(Answer::json(429, &json!({})).with("retry-after", "43200"));
    let mut batch = isolated.batch(&[message(&[BOB])]).await;
    isolated.handle(batch.clone()).await;
    for _ in 0..3 {
        batch = isolated.next(batch).await.expect("the device that was put back");
        let (_, retry) = retry_of(&batch);
        assert_eq!((retry.tries, retry.generation), (1, 1));
        let left = retry.not_before.unwrap() - OffsetDateTime::now_utc();
        assert!(left > time::Duration::hours(11), "{left}");
        isolated.handle(batch.clone()).await;
    }
    assert_eq!(push_service.arrived(), 1);
}

#[tokio::test]
async fn tries_continue_until_the_notification_expires() {
    let push_service = Gateway::mongoosepush().await;
    let settings = [("MONGOOSEPUSH_URL", push_service.url.as_str()), ("TIME_TO_LIVE", "60")];
    let options = Options { environment: settings.into_iter().collect(), ..with_fast_sqs(60) };
    let isolated = IsolatedWorker::beside(Pushlark::with(options).await).await;
    isolated.pushlark.enable(BOB, "broken").await;
    // Makes the registration older than the message.
    let update = isolated.pushlark.stack.dynamodb.update_item().table_name("pushlark");
    let update = update.key("pk", AttributeValue::S(BOB.into()));
    let update = update.key("sk", AttributeValue::S("reg/push.example.com/broken".into()));
    update.update_expression("REMOVE first_enabled_at").send().await.unwrap();
    let at = ago(40);
    push_service.device_answers("broken", Answer::json(503, &json!({})).with("retry-after", "0"));
    // Each retry is a new message of SQS, so the limit of receives is never reached.
    let mut batch = isolated.batch(&[message(&[BOB]).at(&at)]).await;
    loop {
        assert_eq!(batch.records[0].attributes["ApproximateReceiveCount"], "1");
        isolated.handle(batch.clone()).await;
        let Some(next) = isolated.next(batch).await else { break };
        batch = next;
    }
    let tries = push_service.arrived();
    assert!(tries >= 3, "{tries}");
    let age = OffsetDateTime::now_utc() - OffsetDateTime::parse(&at, &Rfc3339).unwrap();
    assert!(age > time::Duration::seconds(60), "{age}");
}

#[tokio::test]
async fn two_copies_of_a_record_notify_once() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "steady").await;
    isolated.pushlark.enable(CAROL, "shaky").await;
    isolated.pushlark.device_answers("shaky", json!({"status": 500})).await;
    let record = Work::record(&[message(&[BOB, CAROL])]);
    isolated.send(&record).await;
    isolated.send(&record).await;
    let (one, other) = (isolated.receive().await.unwrap(), isolated.receive().await.unwrap());
    tokio::join!(isolated.handle(one.clone()), isolated.handle(other.clone()));
    isolated.pushlark.device_answers("shaky", json!({"status": 200})).await;
    isolated.delete(one).await;
    let shaky = isolated.next(other).await.expect("the device that failed");
    isolated.handle_all(shaky).await;
    assert_eq!(statuses(&isolated.pushlark, "steady").await, [200]);
    assert_eq!(statuses(&isolated.pushlark, "shaky").await, [500, 200]);
}

#[tokio::test]
async fn a_retry_does_not_notify_a_device_enabled_after_the_message() {
    let isolated = IsolatedWorker::start().await;
    let pushlark = &isolated.pushlark;
    for node in ["again", "new", "failing"] {
        pushlark.enable(BOB, node).await;
        pushlark.device_answers(node, json!({"status": 500})).await;
    }
    let batch = isolated.batch(&[message(&[BOB])]).await;
    isolated.handle(batch.clone()).await;
    let retries = isolated.next(batch.clone()).await.unwrap();
    // A client enables its node again in each session: it is the same device. After a disable it is a new device.
    pushlark.enable(BOB, "again").await;
    let disable = PushRequest::new(BOB, "new");
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    for node in ["new", "late"] {
        pushlark.enable(BOB, node).await;
    }
    for node in ["again", "new", "failing"] {
        pushlark.device_answers(node, json!({"status": 200})).await;
    }
    // The worker crashes, so the first record is delivered again too.
    let mut repeated = batch;
    repeated.records[0].attributes.insert("ApproximateReceiveCount".into(), "2".into());
    isolated.handle(repeated).await;
    isolated.handle_all(retries).await;
    for (node, expected) in
        [("again", vec![500, 200]), ("failing", vec![500, 200]), ("new", vec![500]), ("late", vec![])]
    {
        assert_eq!(statuses(pushlark, node).await, expected, "{node}");
    }
}

#[tokio::test]
async fn a_removal_that_fails_for_a_day_goes_to_the_dead_letter_queue() {
    let proxy = ChaosProxy::start().await;
    let options = Options { dynamodb_endpoint: Some(proxy.url.clone()), ..with_fast_sqs(2_000) };
    let pushlark = Pushlark::with(options).await;
    proxy.cut();
    let retry = json!({"claimant": "q.0", "generation": 98, "tries": 98});
    let removal = Work::user_removed(BOB).id("r").with("retry", retry);
    pushlark.enqueue(Work::record(&[removal])).await;
    eventually("a dead letter", async || (pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await == 1).then_some(()))
        .await;
    pushlark.settled().await;
    let body: Value = serde_json::from_str(&pushlark.dead_letters().await[0]).unwrap();
    assert_eq!(body["work"][0]["retry"]["tries"], 100);
}

#[tokio::test]
async fn devices_that_do_not_answer_use_a_quarter_of_the_concurrency() {
    let push_service = Gateway::mongoosepush().await;
    let settings = [
        ("MONGOOSEPUSH_URL", push_service.url.as_str()),
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
        pushlark.message(BOB, "canary Hi").await;
    }
    eventually("many requests", async || (push_service.arrived() >= 20).then_some(())).await;
    assert_eq!(push_service.most_running(), 2);
    pushlark.message(CAROL, "canary Hi").await;
    let to_carol = async || push_service.arrivals().contains(&"carols".to_owned()).then_some(());
    eventually("Carol's notification", to_carol).await;
    push_service.hold(Duration::ZERO);
    pushlark.settled().await;
    assert!(push_service.most_running() <= 4, "{}", push_service.most_running());
}

/// Starts a stack with this many devices, for which the push service answers that they are gone.
async fn with_gone(devices: usize) -> Pushlark {
    let pushlark = Pushlark::start().await;
    for device in 0..devices {
        let (user, device) = (format!("u{device}@example.com"), format!("gone-{device}"));
        pushlark.enable(&user, &device).await;
        pushlark.device_answers(&device, json!({"status": 410, "body": {"reason": "unregistered"}})).await;
    }
    pushlark
}

/// Returns the number of registrations of the users with these numbers.
async fn enabled(pushlark: &Pushlark, users: usize) -> usize {
    let mut enabled = 0;
    for user in 0..users {
        enabled += pushlark.listed(&format!("u{user}@example.com")).await.len();
    }
    enabled
}

/// Lets a worker handle a message to a user.
async fn notify(isolated: &IsolatedWorker, worker: &Arc<Worker>, id: usize, user: &str) {
    let batch = isolated.batch(&[message(&[user]).id(&format!("m{id}"))]).await;
    worker.handle(batch.clone(), Instant::now() + Duration::from_secs(600)).await;
    isolated.delete(batch).await;
}

#[tokio::test]
async fn new_workers_together_disable_only_a_few_devices() {
    let isolated = IsolatedWorker::beside(with_gone(20).await).await;
    for user in 0..20 {
        // Each message gets a worker that has just started.
        notify(&isolated, &isolated.fresh_worker().await, user, &format!("u{user}@example.com")).await;
    }
    assert_eq!(enabled(&isolated.pushlark, 20).await, 15);
    // On the next day there is no history again.
    let table = &isolated.pushlark.stack.dynamodb;
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
        notify(&isolated, &isolated.fresh_worker().await, 100 + user, &format!("u{user}@example.com")).await;
    }
    assert_eq!(enabled(&isolated.pushlark, 20).await, 10);
}

#[tokio::test]
async fn deliveries_of_other_workers_count_when_devices_are_gone() {
    let isolated = IsolatedWorker::beside(with_gone(30).await).await;
    isolated.pushlark.enable(BOB, "phone").await;
    for id in 0..40 {
        notify(&isolated, &isolated.worker, id, BOB).await;
    }
    // The worker stores its number of deliveries at the first device that is gone.
    notify(&isolated, &isolated.worker, 100, "u0@example.com").await;
    for user in 1..30 {
        notify(&isolated, &isolated.fresh_worker().await, 100 + user, &format!("u{user}@example.com")).await;
    }
    assert_eq!(enabled(&isolated.pushlark, 30).await, 0);
}

#[tokio::test]
async fn a_web_push_service_that_is_unreachable_for_a_day_is_suspect() {
    let (_socket, origin) = refusing_address();
    let credentials = json!({"default": {"web_push":
        {"key": APNS_KEY, "subject": "mailto:canary@example.com"}}});
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", &credentials.to_string()),
        ("WEB_PUSH_TRUSTED_ORIGINS", &origin),
    ];
    let isolated = IsolatedWorker::beside(Pushlark::with_settings(settings).await).await;
    let browser = Subscriber::new(5);
    let user = "u0@example.com";
    let enable = PushRequest::new(user, "browser").device("browser").browser(&format!("{origin}/canary"), &browser);
    assert_eq!(isolated.pushlark.json("/enable", enable).await.status, 200);
    let change = async |expression: &str, value: Option<i64>| {
        let update = isolated.pushlark.stack.dynamodb.update_item().table_name("pushlark");
        let update = update.key("pk", AttributeValue::S(user.into()));
        let update = update.key("sk", AttributeValue::S("reg/push.example.com/browser".into()));
        let value = value.map(|value| HashMap::from([(":value".into(), AttributeValue::N(value.to_string()))]));
        update.update_expression(expression).set_expression_attribute_values(value).send().await.unwrap();
    };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for id in 0..5 {
        notify(&isolated, &isolated.worker, id, user).await;
    }
    assert_eq!(enabled(&isolated.pushlark, 1).await, 1, "the service is unreachable for a short time");
    change("SET unreachable_since = :value", Some(now - 86_500)).await;
    for (id, left) in [(10, 1), (11, 1), (12, 0)] {
        notify(&isolated, &isolated.worker, id, user).await;
        assert_eq!(enabled(&isolated.pushlark, 1).await, left, "{id}");
    }
}
