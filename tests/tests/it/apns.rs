//! Notifications to APNs.

use std::time::Duration;

use doubles::{APNS_TOPIC, Answer, apns_error};
use serde_json::json;
use tests::{ALICE, ALICES_PC, BOB, Event, IPHONE, Providers, answered, iphone, stanza};
use time::OffsetDateTime;

use crate::providers::{Outcome, check_outcomes, check_replacement};

#[tokio::test]
async fn an_iphone_gets_an_alert() {
    let providers = Providers::start().await;
    let options = json!({"click_action": "REPLY", "sound": "ping.aiff", "mutable_content": "true", "priority": "normal",
        "time_to_live": "600"});
    providers.enable_iphone(IPHONE, options).await;
    let now = || OffsetDateTime::now_utc().unix_timestamp();
    let before = now();
    providers.message("canary Hi").await;
    let request = providers.apns.accepted(IPHONE).remove(0);
    let aps = json!({"alert": {"title": ALICE, "body": "canary Hi"}, "badge": 1, "category": "REPLY", "sound": "ping.aiff",
        "mutable-content": 1, "thread-id": ALICE});
    assert_eq!(request.json(), json!({"aps": aps}));
    let header = |name| request.header(name).to_owned();
    assert_eq!((header("apns-push-type"), header("apns-priority")), ("alert".into(), "5".into()));
    assert_eq!(header("apns-topic"), APNS_TOPIC);
    let sent = header("apns-expiration").parse::<i64>().unwrap() - 600;
    assert!((before..=now()).contains(&sent), "{sent}");
    assert_eq!(header("apns-collapse-id").len(), 43);
}

#[tokio::test]
async fn a_silent_iphone_gets_a_background_notification() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({"silent": "true", "topic": APNS_TOPIC, "time_to_live": "0"})).await;
    providers.message("canary Hi").await;
    let request = providers.apns.accepted(IPHONE).remove(0);
    let expected = json!({"aps": {"content-available": 1}, "message-count": 1, "last-message-sender": ALICE,
        "last-message-body": "canary Hi"});
    assert_eq!(request.json(), expected);
    let header = |name| request.header(name).to_owned();
    assert_eq!((header("apns-push-type"), header("apns-priority")), ("background".into(), "5".into()));
    assert_eq!((header("apns-expiration"), header("apns-collapse-id").len()), ("0".into(), 43));
}

#[tokio::test]
async fn a_call_is_sent_as_a_voip_push() {
    let providers = Providers::start().await;
    let pushkit = "aabb63616e61727933";
    providers.enable_iphone(IPHONE, json!({"voip_device_id": pushkit})).await;
    let call = async |step| {
        providers.pushlark.event(Event::stanza(BOB, &stanza::jingle(step))).await;
        providers.pushlark.settled().await;
    };
    call("propose").await;
    let request = providers.apns.accepted(pushkit).remove(0);
    let fields = json!({"aps": {}, "type": "jmi", "jmi-sid": "c1", "jmi-from": ALICES_PC});
    assert_eq!(request.json(), fields);
    let header = |name| request.header(name).to_owned();
    assert_eq!((header("apns-push-type"), header("apns-priority")), ("voip".into(), "10".into()));
    assert_eq!((header("apns-topic"), header("apns-expiration")), (format!("{APNS_TOPIC}.voip"), "0".into()));
    call("retract").await;
    providers.message("canary Hi").await;
    assert_eq!(providers.apns.accepted(pushkit).len(), 1);
    let to_device = providers.apns.accepted(IPHONE);
    assert_eq!((to_device.len(), to_device[0].header("apns-push-type")), (1, "alert"));
}

#[tokio::test]
async fn each_error_of_apns_decides_about_the_registration() {
    let gone = |reason, timestamp: u64| Answer::json(410, &json!({"reason": reason, "timestamp": timestamp}));
    let in_a_while = (OffsetDateTime::now_utc().unix_timestamp() as u64 + 3_600) * 1_000;
    let cases = vec![
        (gone("Unregistered", in_a_while), Outcome::Gone),
        (gone("ExpiredToken", in_a_while), Outcome::Gone),
        (apns_error(410, "Unregistered"), Outcome::Gone),
        // APNs found that the device was gone before it was enabled.
        (gone("Unregistered", 1_600_000_000_000), Outcome::Suspect),
        (apns_error(400, "BadDeviceToken"), Outcome::Suspect),
        (apns_error(400, "DeviceTokenNotForTopic"), Outcome::Suspect),
        (apns_error(400, "BadTopic"), Outcome::Refused),
        (apns_error(400, "TopicDisallowed"), Outcome::Refused),
        (apns_error(400, "IdleTimeout"), Outcome::Transient),
        (apns_error(403, "Forbidden"), Outcome::Refused),
        (apns_error(403, "InvalidProviderToken"), Outcome::Refused),
        (apns_error(403, "ExpiredProviderToken"), Outcome::Refused),
        (apns_error(404, "BadPath"), Outcome::Refused),
        (apns_error(413, "PayloadTooLarge"), Outcome::Refused),
        (apns_error(429, "TooManyRequests"), Outcome::Transient),
        (apns_error(429, "TooManyProviderTokenUpdates"), Outcome::Transient),
        (apns_error(500, "InternalServerError"), Outcome::Transient),
        (apns_error(503, "ServiceUnavailable"), Outcome::Transient),
        (apns_error(503, "Shutdown"), Outcome::Transient),
    ];
    check_outcomes("apns", cases).await;
}

#[tokio::test]
async fn a_connection_to_apns_is_replaced_after_five_errors_in_a_row() {
    for failure in [apns_error(500, "InternalServerError"), apns_error(429, "TooManyProviderTokenUpdates")] {
        let providers = Providers::start().await;
        let phones: Vec<_> = (0..5).map(iphone).collect();
        for phone in &phones {
            providers.enable_iphone(phone, json!({})).await;
        }
        check_replacement(&providers, &providers.apns, &phones, failure).await;
    }
}

#[tokio::test]
async fn errors_of_single_devices_do_not_replace_the_connection() {
    let providers = Providers::start().await;
    for number in 0..9 {
        providers.enable_iphone(&iphone(number), json!({})).await;
    }
    // An error of one device says nothing about the connection.
    for number in 0..6 {
        providers.apns.device_answers(&iphone(number), apns_error(429, "TooManyRequests"));
    }
    providers.apns.device_answers(&iphone(6), apns_error(503, "ServiceUnavailable"));
    providers.pushlark.message(BOB, "canary").await;
    answered(&providers.apns, 9).await;
    (0..7).for_each(|number| providers.apns.device_recovers(&iphone(number)));
    providers.pushlark.settled().await;
    assert_eq!(providers.apns.connections(), 1);
}

#[tokio::test]
async fn a_closed_connection_is_replaced() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.message("one").await;
    providers.apns.cut_connections();
    providers.message("two").await;
    assert_eq!(providers.apns.accepted(IPHONE).len(), 2);
}

#[tokio::test]
async fn a_notification_on_an_idle_connection_is_sent_again_at_once() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.message("one").await;
    providers.apns.answer_next(apns_error(400, "IdleTimeout"));
    providers.message("two").await;
    let requests = providers.apns.requests();
    let seen: Vec<_> = requests.iter().map(|request| (request.status, request.connection)).collect();
    assert_eq!(seen, [(200, 0), (400, 0), (200, 1)]);
    assert!(requests[2].at - requests[1].at < Duration::from_millis(900), "it does not wait as a retry does");
}

#[tokio::test]
async fn the_thread_id_hides_a_sender_that_is_not_included() {
    let providers = Providers::with_settings(&[("INCLUDE_SENDER", "off")]).await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.message("canary Hi").await;
    let aps = providers.apns.accepted(IPHONE)[0].json()["aps"].take();
    assert_eq!(aps["thread-id"].as_str().unwrap().len(), 22);
    assert!(!aps.to_string().contains("alice"), "{aps}");
}

#[tokio::test]
async fn a_retry_after_in_the_past_is_ignored() {
    for retry_after in ["0", "-1", "Sunday, 06-Nov-94 08:49:37 GMT"] {
        let providers = Providers::start().await;
        providers.enable_iphone(IPHONE, json!({})).await;
        providers.apns.answer_next(apns_error(503, "ServiceUnavailable").with("retry-after", retry_after));
        providers.message("canary").await;
        let requests = providers.apns.requests();
        let wait = requests[1].at - requests[0].at;
        assert!(wait >= Duration::from_millis(400), "the usual delay of a retry: {wait:?}");
    }
}

#[tokio::test]
async fn a_form_that_makes_an_invalid_request_fails_alone() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({})).await;
    for number in 0..8 {
        providers.enable_iphone(&iphone(number), json!({"topic": format!("a\nb{number}")})).await;
    }
    let form = json!({"service": "apns", "device_id": "63616e617279".repeat(175)});
    providers.pushlark.enable_with(BOB, "long", form).await;
    providers.message("one").await;
    providers.message("two").await;
    assert_eq!((providers.apns.accepted(IPHONE).len(), providers.apns.requests().len()), (2, 2));
}
