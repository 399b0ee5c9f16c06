//! The order of the notifications of one request.

use std::time::Duration;

use doubles::{Answer, Gateway};
use futures_util::future::join_all;
use pushlark_queue::Record;
use serde_json::{Value, json};
use tests::{
    BOB, BOBS_PHONE, CAROL, Event, IsolatedWorker, PushRequest, Pushlark, ROOM_OCCUPANT, Work, eventually, stanza,
};
use tokio::time::Instant;

fn lines(from: usize, to: usize) -> Vec<String> {
    (from..=to).map(|number| format!("canary line {number:02}")).collect()
}

/// Returns the texts and the badges of a device's notifications.
async fn texts_and_badges(pushlark: &Pushlark, device: &str) -> Vec<(String, u64)> {
    let of = |entry: &Value| {
        let alert = &entry["notification"]["alert"];
        (alert["body"].as_str().unwrap().to_owned(), alert["badge"].as_u64().unwrap())
    };
    pushlark.notifications(device).await.iter().map(of).collect()
}

/// Starts a worker with a double of MongoosePush.
async fn with_push_service() -> (IsolatedWorker, Gateway) {
    let push_service = Gateway::mongoosepush().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", push_service.url.as_str())]).await;
    (IsolatedWorker::beside(pushlark).await, push_service)
}

/// Returns messages to Bob with these texts.
fn messages(texts: &[String]) -> Vec<Work> {
    let message = |text: &String| {
        Work::message(&[BOB]).id(text).message_field("stanza", stanza::chat(&format!("<body>{text}</body>")))
    };
    texts.iter().map(message).collect()
}

/// Returns the texts that a device of the double accepted.
fn accepted(push_service: &Gateway, device: &str) -> Vec<String> {
    let text = |request: &doubles::Request| request.json()["alert"]["body"].as_str().unwrap().to_owned();
    push_service.accepted(device).iter().map(text).collect()
}

#[tokio::test]
async fn messages_of_one_request_are_notified_and_counted_in_order() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    let users: Vec<_> = (0..8).map(|number| format!("u{number}@example.com")).collect();
    for user in &users {
        pushlark.enable(user, &format!("phone-{user}")).await;
        pushlark.enable(user, &format!("tablet-{user}")).await;
    }
    let expected: Vec<_> = lines(1, 8).into_iter().zip(1..).collect();
    let post = async |user: &String| {
        let events: Vec<_> = lines(1, 8).iter().map(|text| Event::message(user, text)).collect();
        pushlark.event(events).await;
    };
    join_all(users.iter().map(post)).await;
    for user in &users {
        for device in [format!("phone-{user}"), format!("tablet-{user}")] {
            pushlark.notified(&device, 8).await;
            assert_eq!(texts_and_badges(&pushlark, &device).await, expected, "{device}");
        }
    }
}

#[tokio::test]
async fn events_of_several_formats_kinds_and_senders_are_notified_in_order() {
    let pushlark = Pushlark::with_settings([("PLUGIN", "enhanced")]).await;
    // The session ties the registration, which gets the unacknowledged messages.
    let enable = PushRequest::new(BOBS_PHONE, "phone").device("phone");
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    let texts = lines(1, 12);
    let event = |(number, text): (usize, &String)| match number % 3 {
        0 => Event::unacknowledged(BOBS_PHONE, text),
        1 => Event::groupchat(ROOM_OCCUPANT, [BOB, CAROL], text),
        _ => Event::message(BOB, text),
    };
    let lines: Vec<_> = texts.iter().enumerate().map(event).map(|event| event.to_string()).collect();
    let reply = pushlark.post("/events", "application/x-ndjson", lines.join("\n")).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    pushlark.notified("phone", 12).await;
    assert_eq!(pushlark.alerts("phone").await, texts);
}

#[tokio::test]
async fn a_lost_sessions_messages_are_notified_in_order() {
    let pushlark = Pushlark::with_settings([("PLUGIN", "enhanced"), ("UNREAD_COUNTS", "on")]).await;
    let enable = PushRequest::new(BOBS_PHONE, "phone").device("phone");
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    let events: Vec<_> = lines(1, 10).iter().map(|text| Event::unacknowledged(BOBS_PHONE, text)).collect();
    pushlark.event(events).await;
    pushlark.notified("phone", 10).await;
    let expected: Vec<_> = lines(1, 10).into_iter().zip(1..).collect();
    assert_eq!(texts_and_badges(&pushlark, "phone").await, expected);
}

#[tokio::test]
async fn each_member_of_a_room_gets_its_messages_in_order() {
    let pushlark = Pushlark::start().await;
    let members: Vec<_> = (0..60).map(|number| format!("u{number}@example.com")).collect();
    for member in &members {
        pushlark.enable(member, member).await;
    }
    // The third message is for half of the members.
    let to = |number: usize| if number == 2 { &members[30..] } else { &members[..] };
    let texts = lines(1, 4);
    let event = |(number, text): (usize, &String)| Event::groupchat(ROOM_OCCUPANT, to(number), text);
    pushlark.event(texts.iter().enumerate().map(event).collect::<Vec<_>>()).await;
    for (number, member) in members.iter().enumerate() {
        let mut expected = texts.clone();
        if number < 30 {
            expected.remove(2);
        }
        pushlark.notified(member, expected.len()).await;
        assert_eq!(pushlark.alerts(member).await, expected, "{member}");
    }
}

#[tokio::test]
async fn a_device_that_does_not_answer_delays_no_other_device() {
    let (isolated, push_service) = with_push_service().await;
    isolated.pushlark.enable(BOB, "phone").await;
    isolated.pushlark.enable(BOB, "silent").await;
    isolated.pushlark.enable(CAROL, "carols").await;
    push_service.device_never_answers("silent");
    let work = [messages(&lines(1, 6)), vec![Work::message(&[CAROL]).id("carols")]].concat();
    let batch = isolated.batch(&work).await;
    let arrived = async || (push_service.accepted("phone").len() == 6).then_some(());
    tokio::select! {
        () = isolated.handle(batch) => panic!("the batch ended"),
        () = eventually("the notifications of the phone", arrived) => {}
    }
    assert_eq!(accepted(&push_service, "phone"), lines(1, 6));
    let arrivals = push_service.arrivals();
    let position = |device: &str, nth: usize| {
        let mut of_device = arrivals.iter().enumerate().filter(|(_, arrival)| *arrival == device);
        of_device.nth(nth).map_or(arrivals.len(), |(position, _)| position)
    };
    // The publishes to the silent device time out one after the other.
    assert!(position("silent", 0) < arrivals.len());
    assert!(position("phone", 5) < position("silent", 4), "{arrivals:?}");
    assert!(position("carols", 0) < position("silent", 4), "{arrivals:?}");
}

#[tokio::test]
async fn a_failed_publish_delays_neither_the_next_message_nor_another_device() {
    let (isolated, push_service) = with_push_service().await;
    isolated.pushlark.enable(BOB, "phone").await;
    isolated.pushlark.enable(BOB, "tablet").await;
    push_service.device_answers_next("phone", Answer::json(503, &json!({})));
    let batch = isolated.batch(&messages(&lines(1, 4))).await;
    isolated.handle(batch.clone()).await;
    assert_eq!(accepted(&push_service, "phone"), lines(2, 4));
    assert_eq!(accepted(&push_service, "tablet"), lines(1, 4));
    let retry = isolated.next(batch).await.expect("the message that failed");
    isolated.handle_all(retry).await;
    assert_eq!(accepted(&push_service, "phone"), [lines(2, 4), lines(1, 1)].concat());
    assert_eq!(accepted(&push_service, "tablet"), lines(1, 4));
}

#[tokio::test]
async fn messages_that_are_put_back_stay_in_order() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "phone").await;
    let batch = isolated.batch(&messages(&lines(1, 20))).await;
    // The deadline is too close for a task to start.
    let response = isolated.worker.handle(batch.clone(), Instant::now() + Duration::from_secs(5)).await;
    assert!(response.batch_item_failures.is_empty());
    let again = isolated.next(batch).await.expect("a record of all messages");
    let record = Record::read(again.records[0].body.as_deref().unwrap()).unwrap();
    let ids: Vec<_> = record.work.iter().map(|work| work.id.clone()).collect();
    assert_eq!(ids, lines(1, 20));
    isolated.handle(again.clone()).await;
    assert_eq!(isolated.pushlark.alerts("phone").await, lines(1, 20));
    assert!(isolated.next(again).await.is_none());
}

#[tokio::test]
async fn publishes_that_are_put_back_stay_in_order() {
    let (isolated, push_service) = with_push_service().await;
    isolated.pushlark.enable(BOB, "phone").await;
    for _ in 0..6 {
        push_service.device_answers_next("phone", Answer::json(503, &json!({})));
    }
    let batch = isolated.batch(&messages(&lines(1, 6))).await;
    isolated.handle(batch.clone()).await;
    assert!(accepted(&push_service, "phone").is_empty());
    let again = isolated.next(batch).await.expect("a record of all publishes");
    isolated.handle(again.clone()).await;
    assert_eq!(accepted(&push_service, "phone"), lines(1, 6));
    assert!(isolated.next(again).await.is_none());
}
