//! What becomes of a notification, by what the push service answers.

use std::time::Duration;

use doubles::Hold;
use local::Options;
use pushlark_settings::Environment;
use serde_json::json;
use tests::{PushService, Pushlark, ago, eventually, in_fast_motion};

const BOB: &str = "bob@example.com";

#[tokio::test]
async fn an_alert_shows_the_message_and_a_silent_one_carries_it() {
    let pushlark = Pushlark::start().await;
    let options = json!({"service": "apns", "mode": "prod", "priority": "high", "topic": "some_topic", "click_action": "myactivity",
        "sound": "default", "mutable_content": "true", "time_to_live": "86400", "tags": "x", "device_id": "planted a b/c?é"});
    pushlark.enable_with(BOB, "loud", options).await;
    pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    pushlark.message(BOB, "planted: OH, HAI!").await;
    let loud = pushlark.notified("planted a b/c?é", 1).await.remove(0);
    let alert = json!({"body": "planted: OH, HAI!", "title": "alice@example.com", "tag": "alice@example.com", "badge": 1,
        "click_action": "myactivity", "sound": "default"});
    let expected = json!({"service": "apns", "mode": "prod", "priority": "high", "topic": "some_topic", "mutable_content": true,
        "time_to_live": 86400, "alert": alert});
    assert_eq!((&loud["api"], &loud["notification"]), (&json!("v3"), &expected));
    let silent = pushlark.notified("silent", 1).await.remove(0);
    let data = json!({"message-count": 1, "last-message-sender": "alice@example.com", "last-message-body": "planted: OH, HAI!"});
    assert_eq!(silent["notification"], json!({"service": "fcm", "data": data}));
}

#[tokio::test]
async fn a_gone_device_is_disabled_and_no_other() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "gone").await;
    pushlark.enable(BOB, "here").await;
    pushlark.device_answers("gone", json!({"status": 410, "body": {"reason": "unregistered"}})).await;
    pushlark.message(BOB, "planted: first").await;
    pushlark.notified("gone", 1).await;
    pushlark.settled().await;
    pushlark.message(BOB, "planted: second").await;
    pushlark.notified("here", 2).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("gone").await, ["planted: first"]);
}

#[tokio::test]
async fn a_device_enabled_again_while_its_push_failed_stays() {
    let (push_service, url) = PushService::start().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", url.as_str())]).await;
    pushlark.enable(BOB, "phone").await;
    push_service.hold(Hold::FOREVER);
    push_service.answer_next(410, &[]);
    pushlark.message(BOB, "planted: first").await;
    eventually("the first request", async || (push_service.requests().len() == 1).then_some(())).await;
    pushlark.enable(BOB, "phone").await;
    push_service.hold(Duration::ZERO);
    pushlark.settled().await;
    let before = push_service.requests().len();
    pushlark.message(BOB, "planted: second").await;
    eventually("the second request", async || (push_service.requests().len() > before).then_some(())).await;
}

#[tokio::test]
async fn a_refused_notification_is_not_repeated() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    pushlark.enable_with(BOB, "no-device", json!({"device_id": ""})).await;
    for status in [300, 400, 401, 403, 404, 413] {
        pushlark.device_answers("phone", json!({"status": status, "body": {"reason": "invalid_request"}})).await;
        let body = format!("planted {status}");
        pushlark.message(BOB, &body).await;
        pushlark.settled().await;
        assert_eq!(pushlark.alerts("phone").await.last().unwrap(), &body);
    }
    assert_eq!(pushlark.alerts("phone").await.len(), 6);
}

#[tokio::test]
async fn of_mongoosepush_v2_any_other_error_is_worth_a_few_tries() {
    let environment = Environment::from_iter([("MONGOOSEPUSH_API_VERSION", "v2")]);
    let pushlark = Pushlark::with(Options { environment, ..in_fast_motion(100) }).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.device_answers("phone", json!({"status": 500, "body": {"details": "invalid_request"}})).await;
    pushlark.message(BOB, "planted 1").await;
    pushlark.settled().await;
    let tries = pushlark.alerts("phone").await.len();
    assert_eq!(tries, 8);
    // The device stays.
    pushlark.device_answers("phone", json!({"status": 200})).await;
    pushlark.message(BOB, "planted 2").await;
    pushlark.notified("phone", tries + 1).await;
}

#[tokio::test]
async fn what_fails_for_a_while_is_repeated_for_that_device_alone() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "steady").await;
    pushlark.enable(BOB, "shaky").await;
    pushlark.enable("carol@example.com", "carols").await;
    pushlark.device_answers("shaky", json!({"status": 503})).await;
    pushlark.event(json!({"type": "message", "from": "room@muc.example.com/alice", "to": [BOB, "carol@example.com"], "chat": "groupchat", "body": "planted Hi"})).await;
    pushlark.notified("shaky", 2).await;
    pushlark.device_answers("shaky", json!({"status": 200})).await;
    pushlark.settled().await;
    let shaky: Vec<_> = pushlark.notifications("shaky").await.iter().map(|n| n["status"].clone()).collect();
    assert_eq!(shaky.last().unwrap(), 200);
    assert!(shaky.iter().filter(|status| **status == 200).count() == 1, "{shaky:?}");
    assert_eq!(pushlark.alerts("steady").await, ["planted Hi"]);
    assert_eq!(pushlark.alerts("carols").await, ["planted Hi"]);
}

#[tokio::test]
async fn a_push_service_that_names_a_time_is_left_alone_so_long() {
    let (push_service, url) = PushService::start().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", url.as_str())]).await;
    pushlark.enable(BOB, "phone").await;
    push_service.answer_next(429, &[("retry-after", "3")]);
    pushlark.message(BOB, "planted Hi").await;
    let requests = eventually("two requests", async || Some(push_service.requests()).filter(|r| r.len() == 2)).await;
    let wait = requests[1].0 - requests[0].0;
    assert!(wait >= Duration::from_millis(2_900), "{wait:?}");
}

#[tokio::test]
async fn a_push_service_that_does_not_answer_in_time_is_tried_again() {
    let (push_service, url) = PushService::start().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", url.as_str()), ("PUBLISH_TIMEOUT_MS", "500")]).await;
    pushlark.enable(BOB, "phone").await;
    push_service.hold(Hold::FOREVER);
    pushlark.message(BOB, "planted Hi").await;
    eventually("a second request", async || (push_service.requests().len() >= 2).then_some(())).await;
    assert_eq!(pushlark.queue_depth("QUEUE_URL").await, 1);
    push_service.hold(Duration::ZERO);
    pushlark.settled().await;
}

#[tokio::test]
async fn no_more_is_published_at_once_than_the_setting_allows() {
    let (push_service, url) = PushService::start().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", url.as_str()), ("WORKER_CONCURRENCY", "3")]).await;
    push_service.hold(Hold::FOREVER);
    for user in 0..4 {
        for device in 0..3 {
            pushlark.enable(&format!("u{user}@example.com"), &format!("u{user}-{device}")).await;
        }
    }
    let to: Vec<_> = (0..4).map(|user| format!("u{user}@example.com")).collect();
    pushlark.event(json!({"type": "message", "from": "room@muc.example.com/alice", "to": to, "chat": "groupchat", "body": "planted Hi"})).await;
    eventually("requests", async || (push_service.requests().len() >= 3).then_some(())).await;
    // Long enough that more than three would meet.
    push_service.hold(Duration::from_millis(50));
    eventually("all requests", async || (push_service.requests().len() >= 12).then_some(())).await;
    pushlark.settled().await;
    assert_eq!(push_service.most_running(), 3);
}

#[tokio::test]
async fn a_notification_that_outlived_its_time_is_dropped() {
    let pushlark = Pushlark::start().await;
    pushlark.enable_with(BOB, "impatient", json!({"time_to_live": "120"})).await;
    pushlark.enable(BOB, "patient").await;
    let at = ago(180);
    pushlark.event(json!({"type": "message", "at": at, "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "planted: late"})).await;
    pushlark.notified("patient", 1).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("impatient").await.is_empty());
}

#[tokio::test]
async fn a_registration_at_a_host_that_is_not_virtual_is_kept_and_not_retried() {
    let pushlark = Pushlark::start().await;
    let real = json!({"user": BOB, "jid": "pubsub.elsewhere.example", "node": "n"});
    assert_eq!(pushlark.json("/enable", real).await.status, 200);
    pushlark.enable(BOB, "phone").await;
    pushlark.message(BOB, "planted Hi").await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["planted Hi"]);
}

#[tokio::test]
async fn a_user_of_very_many_devices_is_notified_at_all() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "150")]).await;
    let devices = 0..150;
    for device in devices.clone() {
        pushlark.enable(BOB, &format!("device-{device}")).await;
    }
    pushlark.message(BOB, "planted Hi").await;
    for device in devices {
        pushlark.notified(&format!("device-{device}"), 1).await;
    }
}
