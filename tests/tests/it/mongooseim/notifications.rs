//! Notifications and their contents (`push_SUITE` and `push_integration_SUITE`: pm_msg_notifications,
//! muclight_msg_notifications, failure_cases). The cases of APNs and FCM are in one test.

use serde_json::{Value, json};
use tests::{Event, Pushlark};

use super::{
    BOB, MUCLIGHT, PM, RES1, Sent, assert_result, assert_silence, defaults, disable, enable, enable_again_untied,
    enable_at_host, enable_both, iq, message, options, presence, pushed, stack, texts, unacknowledged,
};

/// Sends a message to an offline user with a device of each service, and checks that both devices get this notification.
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

/// Returns the notifications for a user who enables push, goes online, does `then`, and goes offline before the message.
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
    let all = pushlark.all_notifications().await;
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

// A push service gets only the options that it knows; a real PubSub host gets all options.
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
        pushlark.event(Event::user_removed(BOB)).await;
        pushlark.settled().await;
    };
    assert_eq!(notified_after(&PM, removal).await, [] as [Value; 0]);
}

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
async fn a_registration_without_device_or_service_is_kept_and_not_notified() {
    let pushlark = defaults().await;
    for (node, form) in
        [("a", String::new()), ("b", options(&[("service", "fcm")])), ("c", options(&[("device_id", "canary-bobs")]))]
    {
        assert_result(&iq(&pushlark, "/enable", RES1, &enable_at_host(node, &form)).await);
    }
    message(&pushlark, PM.from, BOB, PM.body).await;
    assert_silence(&pushlark, "bobs").await;
    assert_eq!(pushlark.nodes(BOB).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn no_push_notification_for_expired_device() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    pushlark.device_answers("bobs", json!({"status": 410, "body": {"reason": "unregistered"}})).await;
    message(&pushlark, PM.from, BOB, "gone").await;
    assert_eq!(pushlark.notifications("bobs").await[0]["api"], "v3");
    assert!(pushlark.nodes(BOB).await.is_empty());
    pushlark.device_answers("bobs", json!({"status": 200})).await;
    message(&pushlark, PM.from, BOB, "not enabled").await;
    enable_again_untied(&pushlark, &["bobs"]).await;
    unacknowledged(&pushlark, PM.from, RES1, "not tied").await;
    assert_eq!(texts(&pushlark, "bobs").await, ["gone"]);
}

/// Checks that a transient error is retried. MongooseIM drops the notification. Neither disables the node.
async fn assert_retried(api: &str, answer: Value) {
    let pushlark = stack("MONGOOSEPUSH_API_VERSION", api).await;
    enable(&pushlark, RES1, "bobs", &[]).await;
    pushlark.device_answers("bobs", answer.clone()).await;
    pushlark.event(Event::message(BOB, PM.body).from(PM.from)).await;
    pushlark.notified("bobs", 1).await;
    pushlark.device_answers("bobs", json!({"status": 200})).await;
    pushlark.settled().await;
    let posted = pushlark.notifications("bobs").await;
    assert_eq!((&posted[0]["api"], &posted[0]["status"]), (&json!(api), &answer["status"]));
    assert_eq!(posted.last().unwrap()["status"], 200);
    assert_eq!(posted[0]["notification"], json!({"service": "fcm", "alert": PM.alert()}));
    assert!(posted.iter().all(|post| post["notification"] == posted[0]["notification"]), "{posted:?}");
    assert_eq!(pushlark.nodes(BOB).await, ["bobs"]);
}

#[tokio::test]
async fn push_notification_for_expired_device_of_v2_is_not_retried_and_the_third_disables() {
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", "v2")]).await;
    pushlark.enable(tests::BOB, "phone").await;
    pushlark.device_answers("phone", json!({"status": 500, "body": {"details": "probably_unregistered"}})).await;
    for text in ["1", "2", "3", "4"] {
        pushlark.message(tests::BOB, text).await;
        pushlark.settled().await;
    }
    assert_eq!(pushlark.alerts("phone").await, ["1", "2", "3"]);
}

#[tokio::test]
async fn push_notification_after_internal_mongoose_push_error_is_retried() {
    let answer = json!({"status": 503, "body": {"reason": "unspecified"}});
    tokio::join!(assert_retried("v3", answer.clone()), assert_retried("v2", answer));
}
