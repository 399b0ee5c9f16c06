//! Delivery with any push service: retries, time-outs, concurrency and expiry.

use std::time::Duration;

use doubles::{Answer, Gateway, Hold};
use serde_json::json;
use tests::{BOB, CAROL, Event, PushRequest, Pushlark, ROOM_OCCUPANT, ago, eventually};

#[tokio::test]
async fn a_transient_error_is_retried_for_its_device_only() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "steady").await;
    pushlark.enable(BOB, "shaky").await;
    pushlark.enable(CAROL, "carols").await;
    pushlark.device_answers("shaky", json!({"status": 503})).await;
    pushlark.event(Event::groupchat(ROOM_OCCUPANT, [BOB, CAROL], "canary Hi")).await;
    pushlark.notified("shaky", 2).await;
    pushlark.device_answers("shaky", json!({"status": 200})).await;
    pushlark.settled().await;
    let shaky: Vec<_> = pushlark.notifications("shaky").await.iter().map(|n| n["status"].clone()).collect();
    assert_eq!(shaky.last().unwrap(), 200);
    assert!(shaky.iter().filter(|status| **status == 200).count() == 1, "{shaky:?}");
    assert_eq!(pushlark.alerts("steady").await, ["canary Hi"]);
    assert_eq!(pushlark.alerts("carols").await, ["canary Hi"]);
}

#[tokio::test]
async fn a_timeout_of_the_push_service_is_retried() {
    let push_service = Gateway::mongoosepush().await;
    let pushlark =
        Pushlark::with_settings([("MONGOOSEPUSH_URL", push_service.url.as_str()), ("PUBLISH_TIMEOUT_MS", "500")]).await;
    pushlark.enable(BOB, "phone").await;
    push_service.hold(Hold::FOREVER);
    pushlark.message(BOB, "canary Hi").await;
    eventually("a second request", async || (push_service.arrived() >= 2).then_some(())).await;
    assert_eq!(pushlark.queue_depth("QUEUE_URL").await, 1);
    push_service.hold(Duration::ZERO);
    pushlark.settled().await;
}

#[tokio::test]
async fn a_device_enabled_again_during_a_failing_push_stays() {
    let push_service = Gateway::mongoosepush().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", push_service.url.as_str())]).await;
    pushlark.enable(BOB, "phone").await;
    push_service.hold(Hold::FOREVER);
    push_service.answer_next(Answer::json(410, &json!({})));
    pushlark.message(BOB, "canary: first").await;
    eventually("the first request", async || (push_service.arrived() == 1).then_some(())).await;
    pushlark.enable(BOB, "phone").await;
    push_service.hold(Duration::ZERO);
    pushlark.settled().await;
    let before = push_service.arrived();
    pushlark.message(BOB, "canary: second").await;
    eventually("the second request", async || (push_service.arrived() > before).then_some(())).await;
}

#[tokio::test]
async fn worker_concurrency_limits_the_simultaneous_requests() {
    let push_service = Gateway::mongoosepush().await;
    let pushlark =
        Pushlark::with_settings([("MONGOOSEPUSH_URL", push_service.url.as_str()), ("WORKER_CONCURRENCY", "3")]).await;
    push_service.hold(Hold::FOREVER);
    for user in 0..4 {
        for device in 0..3 {
            pushlark.enable(&format!("u{user}@example.com"), &format!("u{user}-{device}")).await;
        }
    }
    let to: Vec<_> = (0..4).map(|user| format!("u{user}@example.com")).collect();
    pushlark.event(Event::groupchat(ROOM_OCCUPANT, to, "canary Hi")).await;
    eventually("requests", async || (push_service.arrived() >= 3).then_some(())).await;
    // This time is long enough for more than three requests to overlap.
    push_service.hold(Duration::from_millis(50));
    eventually("all requests", async || (push_service.arrived() >= 12).then_some(())).await;
    pushlark.settled().await;
    assert_eq!(push_service.most_running(), 3);
}

#[tokio::test]
async fn an_expired_notification_is_dropped() {
    let pushlark = Pushlark::start().await;
    pushlark.enable_with(BOB, "impatient", json!({"time_to_live": "120"})).await;
    pushlark.enable(BOB, "patient").await;
    let at = ago(180);
    pushlark.event(Event::message(BOB, "canary: late").at(at)).await;
    pushlark.notified("patient", 1).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("impatient").await.is_empty());
}

#[tokio::test]
async fn a_registration_at_an_unreachable_host_is_kept_and_not_retried() {
    let pushlark = Pushlark::start().await;
    let real = PushRequest::new(BOB, "n").at("pubsub.elsewhere.example");
    assert_eq!(pushlark.json("/enable", real).await.status, 200);
    pushlark.enable(BOB, "phone").await;
    pushlark.message(BOB, "canary Hi").await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["canary Hi"]);
}

#[tokio::test]
async fn each_of_150_devices_of_a_user_is_notified() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "150")]).await;
    let devices = 0..150;
    for device in devices.clone() {
        pushlark.enable(BOB, &format!("device-{device}")).await;
    }
    pushlark.message(BOB, "canary Hi").await;
    for device in devices {
        pushlark.notified(&format!("device-{device}"), 1).await;
    }
}
