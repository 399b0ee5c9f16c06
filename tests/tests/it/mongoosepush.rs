//! Notifications to MongoosePush.

use std::time::Duration;

use doubles::{Answer, Gateway};
use local::Options;
use pushlark_plugin::Plugins;
use pushlark_settings::Environment;
use serde_json::json;
use tests::{ALICE, BOB, Pushlark, answered, with_fast_sqs};

use crate::providers::{RESERVED, WithFields};

#[tokio::test]
async fn an_alert_shows_the_message_and_a_silent_notification_carries_it() {
    let pushlark = Pushlark::start().await;
    let options = json!({"service": "apns", "mode": "prod", "priority": "high", "topic": "some_topic",
        "click_action": "myactivity", "sound": "default", "mutable_content": "true", "time_to_live": "86400", "tags": "x", "device_id": "canary a b/c?é"});
    pushlark.enable_with(BOB, "loud", options).await;
    pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    pushlark.message(BOB, "canary: OH, HAI!").await;
    let loud = pushlark.notified("canary a b/c?é", 1).await.remove(0);
    let alert = json!({"body": "canary: OH, HAI!", "title": ALICE, "tag": ALICE, "badge": 1,
        "click_action": "myactivity", "sound": "default"});
    let expected = json!({"service": "apns", "mode": "prod", "priority": "high", "topic": "some_topic", "mutable_content": true,
        "time_to_live": 86400, "alert": alert});
    assert_eq!((&loud["api"], &loud["notification"]), (&json!("v3"), &expected));
    let silent = pushlark.notified("silent", 1).await.remove(0);
    let data = json!({"message-count": 1, "last-message-sender": ALICE, "last-message-body": "canary: OH, HAI!"});
    assert_eq!(silent["notification"], json!({"service": "fcm", "data": data}));
}

#[tokio::test]
async fn only_a_gone_device_is_disabled() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "gone").await;
    pushlark.enable(BOB, "here").await;
    pushlark.device_answers("gone", json!({"status": 410, "body": {"reason": "unregistered"}})).await;
    pushlark.message(BOB, "canary: first").await;
    pushlark.notified("gone", 1).await;
    pushlark.settled().await;
    pushlark.message(BOB, "canary: second").await;
    pushlark.notified("here", 2).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("gone").await, ["canary: first"]);
}

#[tokio::test]
async fn a_refused_notification_is_not_retried() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    pushlark.enable_with(BOB, "no-device", json!({"device_id": ""})).await;
    for status in [300, 400, 401, 403, 404, 413] {
        pushlark.device_answers("phone", json!({"status": status, "body": {"reason": "invalid_request"}})).await;
        let body = format!("canary {status}");
        pushlark.message(BOB, &body).await;
        pushlark.settled().await;
        assert_eq!(pushlark.alerts("phone").await.last().unwrap(), &body);
    }
    assert_eq!(pushlark.alerts("phone").await.len(), 6);
}

#[tokio::test]
async fn an_unknown_error_of_mongoosepush_v2_is_tried_eight_times() {
    let environment = Environment::from_iter([("MONGOOSEPUSH_API_VERSION", "v2")]);
    let pushlark = Pushlark::with(Options { environment, ..with_fast_sqs(100) }).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.device_answers("phone", json!({"status": 500, "body": {"details": "invalid_request"}})).await;
    pushlark.message(BOB, "canary 1").await;
    pushlark.settled().await;
    let tries = pushlark.alerts("phone").await.len();
    assert_eq!(tries, 8);
    // The registration stays.
    pushlark.device_answers("phone", json!({"status": 200})).await;
    pushlark.message(BOB, "canary 2").await;
    pushlark.notified("phone", tries + 1).await;
}

#[tokio::test]
async fn a_device_suspected_by_mongoosepush_v2_is_disabled_at_the_third_error() {
    for details in ["Unregistered", "UNREGISTERED", "BadDeviceToken", "probably_unregistered"] {
        let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", "v2")]).await;
        pushlark.enable(BOB, "phone").await;
        pushlark.device_answers("phone", json!({"status": 500, "body": {"details": details}})).await;
        for number in 0..5 {
            pushlark.message(BOB, &format!("canary {number}")).await;
            pushlark.settled().await;
        }
        assert_eq!(pushlark.notifications("phone").await.len(), 3, "{details}");
    }
}

#[tokio::test]
async fn mongoosepush_is_not_called_during_its_retry_after_time() {
    let push_service = Gateway::mongoosepush().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", push_service.url.as_str())]).await;
    pushlark.enable(BOB, "phone").await;
    push_service.answer_next(Answer::json(429, &json!({})).with("retry-after", "3"));
    pushlark.message(BOB, "canary Hi").await;
    answered(&push_service, 2).await;
    let requests = push_service.requests();
    assert_eq!(requests.len(), 2);
    let wait = requests[1].at - requests[0].at;
    assert!(wait >= Duration::from_millis(2_900), "{wait:?}");
}

#[tokio::test]
async fn reserved_fields_are_removed_for_fcm_devices_of_mongoosepush() {
    let plugins = Plugins::built_in().with("with", WithFields(RESERVED));
    let environment = Environment::from_iter([("PLUGIN", "with")]);
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    pushlark.enable(BOB, "android").await;
    pushlark.enable_with(BOB, "iphone", json!({"service": "apns"})).await;
    pushlark.message(BOB, "canary Hi").await;
    let data = async |device| pushlark.notified(device, 1).await.remove(0)["notification"]["data"].take();
    assert_eq!(data("android").await, json!({"from_user": "kept", "count": "7"}));
    assert_eq!(data("iphone").await.as_object().unwrap().len(), RESERVED.len());
}

#[tokio::test]
async fn a_long_text_for_mongoosepush_fits_apns_and_fcm() {
    for api in ["v2", "v3"] {
        let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", api)]).await;
        let options = json!({"mode": "prod", "priority": "high", "click_action": "open", "sound": "default",
            "mutable_content": "true", "time_to_live": "86400"});
        for service in ["apns", "fcm"] {
            let mut loud = options.clone();
            loud["service"] = service.into();
            pushlark.enable_with(BOB, &format!("{service}-loud"), loud).await;
            let silent = json!({"service": service, "silent": "true"});
            pushlark.enable_with(BOB, &format!("{service}-silent"), silent).await;
        }
        for (number, text) in long_texts().iter().enumerate() {
            pushlark.message(BOB, text).await;
            pushlark.settled().await;
            for (device, field) in [
                ("apns-loud", "/alert/body"),
                ("fcm-loud", "/alert/body"),
                ("apns-silent", "/data/last-message-body"),
                ("fcm-silent", "/data/last-message-body"),
            ] {
                let notifications = pushlark.notifications(device).await;
                assert_eq!(notifications.len(), number + 1, "each is accepted at the first try: {device}");
                let last = &notifications[number];
                assert_eq!(last["status"], 200);
                let sent = last["notification"].pointer(field).unwrap().as_str().unwrap();
                assert!(text.starts_with(sent.strip_suffix('…').unwrap()), "{device}");
                assert!((3_950..=4_096).contains(&last["notification"].to_string().len()), "{device}");
            }
        }
    }
}

/// Returns texts that are long in different encodings.
fn long_texts() -> [String; 4] {
    [
        "canary ".repeat(750),
        "\"\\\n".repeat(2_000),
        "👨\u{200d}👩\u{200d}👧\u{200d}👦".repeat(400),
        "canary é".repeat(9_000),
    ]
}

#[tokio::test]
async fn a_notification_too_large_for_mongoosepush_is_sent_again_shorter() {
    let text = "canary ".repeat(700);
    for (api, answer) in [
        ("v3", json!({"status": 413, "body": {"reason": "payload_too_large"}})),
        ("v2", json!({"status": 500, "body": {"details": "PayloadTooLarge"}})),
    ] {
        let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", api)]).await;
        pushlark.enable(BOB, "phone").await;
        pushlark.device_answers("phone", answer).await;
        pushlark.message(BOB, &text).await;
        pushlark.settled().await;
        let lengths = async || {
            let notifications = pushlark.notifications("phone").await;
            notifications.iter().map(|n| n["notification"].to_string().len()).collect::<Vec<_>>()
        };
        let sent = lengths().await;
        assert!(sent.len() == 2 && sent[0] > 4_000 && (1_900..=2_048).contains(&sent[1]), "{api}: {sent:?}");
        // A short text does not make a notification too large: it is not sent again, and the registration stays.
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        assert_eq!(lengths().await.len(), 3, "{api}");
    }
}
