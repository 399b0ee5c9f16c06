//! A provider that is down, and a table that is throttled, for an hour.

use doubles::{Apns, Fcm, apns_error};
use local::Options;
use serde_json::{Value, json};
use tests::{
    BOB, CallCounter, Event, PushRequest, Pushlark, answered, credentials, eventually, iphone, logged, stanza,
};

use super::{AN_HOUR, options};

const USERS: u32 = 8;

fn user(number: u32) -> String {
    format!("u{number}@example.com")
}

#[tokio::test]
async fn an_hour_of_errors_at_apple_delays_no_other_device_and_loses_nothing() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let credentials = credentials(&apns, &fcm).to_string();
    let settings =
        [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("CALL_TIME_TO_LIVE", "5")];
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
        let texts: Vec<Value> = apns.accepted(&iphone(number)).iter().map(|sent| sent.json()["aps"]["alert"].take()).collect();
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
    for message in ["not notified yet, not disabled", "not enabled", "state not stored, not queued"] {
        let line = failed(message).unwrap_or_else(|| panic!("{message}: {lines:?}"));
        assert!(line["error"].as_str().unwrap().contains("ThrottlingException"), "{line}");
    }
}

async fn throttle_for_an_hour() {
    let table = CallCounter::start().await;
    let options = Options { dynamodb_endpoint: Some(table.url.clone()), ..options(&[]) };
    let pushlark = Pushlark::with(options).await;
    table.connect(&pushlark.stack.dynamodb_url);
    for number in 0..USERS {
        pushlark.enable(&user(number), &user(number)).await;
    }
    pushlark.enable(BOB, "phone").await;

    table.throttle(&["UpdateItem", "PutItem", "DeleteItem", "TransactWriteItems"]);
    for number in 0..USERS {
        pushlark.message(&user(number), "canary Hi").await;
    }
    // The senders are told to repeat what is not stored.
    for (path, body) in [
        ("/enable", Value::from(PushRequest::new(BOB, "tablet").device("tablet"))),
        ("/events", json!(Event::presence("bob@example.com/pc", "offline"))),
    ] {
        let reply = pushlark.json(path, body).await;
        reply.problem(503);
        assert!(reply.headers.contains_key("retry-after"), "{path}");
    }
    tokio::time::sleep(AN_HOUR).await;
    assert!(pushlark.all_notifications().await.is_empty(), "nothing is published without a claim");

    table.throttle(&[]);
    pushlark.settled().await;
    for number in 0..USERS {
        assert_eq!(pushlark.alerts(&user(number)).await, ["canary Hi"]);
    }
    eventually("another device", async || {
        let enable = PushRequest::new(BOB, "tablet").device("tablet");
        (pushlark.json("/enable", enable).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(pushlark.listed_nodes(BOB).await, ["phone", "tablet"]);
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}
