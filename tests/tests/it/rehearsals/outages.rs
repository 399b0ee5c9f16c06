//! A provider that is down, and a table that is throttled, for an hour.

use doubles::{Apns, Fcm, apns_error};
use local::Options;
use serde_json::{Value, json};
use tests::{CallCounter, Event, PushRequest, Pushlark, answered, credentials, iphone, logged, stanza};

use super::{AN_HOUR, options};

const USERS: u32 = 8;

fn user(number: u32) -> String {
    format!("u{number}@example.com")
}

#[tokio::test]
async fn an_hour_of_errors_at_apple_delays_no_other_device_and_loses_nothing() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let credentials = credentials(&apns, &fcm).to_string();
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("CALL_TIME_TO_LIVE", "5")];
    let pushlark = Pushlark::with(options(&settings)).await;
    for number in 0..USERS {
        let (user, device) = (user(number), iphone(number));
        pushlark.enable_with(&user, &device, json!({"service": "apns", "device_id": device})).await;
        pushlark.enable(&user, &format!("android-{number}")).await;
        apns.device_answers(&device, apns_error(503, "ServiceUnavailable"));
    }
    for number in 0..USERS {
        pushlark.message(&user(number), "canary Hi").await;
    }
    // Google's devices do not wait for Apple's.
    answered(&fcm, USERS as usize).await;
    let call = "<propose xmlns='urn:xmpp:jingle-message:0' id='c1'/>";
    pushlark.event(Event::stanza(user(0), &stanza::chat(call))).await;
    tokio::time::sleep(AN_HOUR).await;
    for number in 0..USERS {
        assert!(apns.accepted(&iphone(number)).is_empty());
        apns.device_recovers(&iphone(number));
    }
    pushlark.settled().await;
    for number in 0..USERS {
        let texts: Vec<Value> =
            apns.accepted(&iphone(number)).iter().map(|sent| sent.json()["aps"]["alert"].take()).collect();
        assert_eq!(texts.len(), 1, "{number}: {texts:?}");
        assert_eq!(texts[0]["body"], "canary Hi", "the call is not shown after its time");
        assert_eq!(pushlark.listed(&user(number)).await.len(), 2, "{number}");
    }
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

#[tokio::test]
async fn an_hour_of_throttled_writes_loses_no_notification_and_repeats_none() {
    let name = "rehearsals::outages::an_hour_of_throttled_writes_loses_no_notification_and_repeats_none";
    let Some(lines) = logged(name) else { return throttle_for_an_hour().await };
    let failed = |message: &str| lines.iter().find(|line| line["message"] == message);
    for message in ["not notified yet", "not enabled", "state not stored"] {
        let line = failed(message).unwrap_or_else(|| panic!("{message}: {lines:?}"));
        assert!(line["error"].as_str().unwrap().contains("ThrottlingException"), "{line}");
    }
}

async fn throttle_for_an_hour() {
    let table = CallCounter::start().await;
    let options = Options { dynamodb_endpoint: Some(table.url.clone()), ..options(&[]) };
    let pushlark = Pushlark::with(options).await;
    table.connect(&pushlark.stack.dynamodb_url);
    // The sink prints the devices and the texts of notifications, and a line with a canary is a leak.
    let enable = async |user: &str, node: &str| {
        let device = json!({"service": "fcm", "device_id": format!("{user}/{node}")});
        pushlark.json("/enable", PushRequest::new(user, node).options(device)).await
    };
    for number in 0..USERS {
        assert_eq!(enable(&user(number), "phone").await.status, 200);
    }

    table.throttle(&["UpdateItem", "PutItem", "DeleteItem", "TransactWriteItems"]);
    for number in 0..USERS {
        pushlark.message(&user(number), "Hi").await;
    }
    // The status 503 makes the senders repeat requests that are not stored.
    let presence = pushlark.json("/events", Event::presence("u0@example.com/pc", "offline")).await;
    for reply in [enable(&user(0), "tablet").await, presence] {
        reply.problem(503);
        assert!(reply.headers.contains_key("retry-after"));
    }
    tokio::time::sleep(AN_HOUR).await;
    assert!(pushlark.all_notifications().await.is_empty(), "nothing is published without a claim");

    table.throttle(&[]);
    pushlark.settled().await;
    let notified = pushlark.all_notifications().await;
    let mut devices: Vec<_> = notified.iter().map(|one| one["device_id"].as_str().unwrap()).collect();
    devices.sort();
    let expected: Vec<_> = (0..USERS).map(|number| format!("{}/phone", user(number))).collect();
    assert_eq!(devices, expected);
    assert_eq!(enable(&user(0), "tablet").await.status, 200);
    assert_eq!(pushlark.listed_nodes(&user(0)).await, ["phone", "tablet"]);
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}
