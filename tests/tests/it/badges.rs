//! The badge on the app's icon (`BADGE`), and the counts of messages that are not counted.

use doubles::{Gateway, Subscriber};
use serde_json::{Value, json};
use tests::{
    ALICE, ALICES_PC, BOB, BOBS_PC, CallCounter, Event, IPHONE, IsolatedWorker, Providers, Pushlark, Work, ago, stanza,
};

use crate::unread_counts::badge;

const TOTAL: [(&str, &str); 2] = [("UNREAD_COUNTS", "on"), ("BADGE", "total")];

fn from(sender: &str) -> Event {
    Event::message(BOB, "canary Hi").from(&format!("{sender}@example.com/x"))
}

fn uncounted() -> Event {
    Event::stanza(BOB, &stanza::chat("<body>canary 3</body><no-store xmlns='urn:xmpp:hints'/>"))
}

async fn with_bob(settings: &[(&str, &str)]) -> Pushlark {
    let pushlark = Pushlark::with_settings(settings.iter().copied()).await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

#[tokio::test]
async fn a_message_that_is_not_counted_adds_itself_to_those_that_are() {
    let pushlark = with_bob(&[("UNREAD_COUNTS", "on")]).await;
    assert_eq!(badge(&pushlark, uncounted()).await, 1);
    assert_eq!(badge(&pushlark, from("alice")).await, 1);
    assert_eq!(badge(&pushlark, from("alice")).await, 2);
    let mut explained = pushlark.json("/explain", json!({"explain": [uncounted()]})).await.json();
    let explained = explained["explained"][0]["recipients"][0].take();
    assert_eq!(
        (&explained["unread_count"], &explained["publications"][0]["payload"]["message-count"]),
        (&json!(3), &json!("3"))
    );
    assert_eq!(badge(&pushlark, uncounted()).await, 3);
    assert_eq!(badge(&pushlark, uncounted()).await, 3, "it is still not counted");
    assert_eq!(badge(&pushlark, uncounted().recipient(json!({"unread_count": 7}))).await, 7);
    assert_eq!(badge(&pushlark, from("alice")).await, 3);
}

#[tokio::test]
async fn a_message_that_is_not_counted_costs_a_read_of_the_counter_and_no_write() {
    let (pushlark, counter) = CallCounter::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    for (online, reads, writes) in [(true, 1, None), (false, 2, Some(1))] {
        pushlark.settled().await;
        counter.take();
        pushlark.event(uncounted().recipient(json!({"online": online}))).await;
        pushlark.settled().await;
        let calls = counter.take();
        // Ingest reads the counter of the sender, and does not queue a message to a user who is online.
        assert_eq!(calls.get("GetItem"), Some(&reads), "online: {online}");
        assert_eq!(calls.get("UpdateItem").copied(), writes, "online: {online}");
    }
}

#[tokio::test]
async fn the_badge_is_the_total_of_all_conversations() {
    let pushlark = with_bob(&TOTAL).await;
    assert_eq!(badge(&pushlark, from("alice")).await, 1);
    assert_eq!(badge(&pushlark, from("alice")).await, 2);
    assert_eq!(badge(&pushlark, from("carol")).await, 3);
    assert_eq!(badge(&pushlark, uncounted()).await, 4, "two of Alice, one of Carol and itself");
    let room = Event::groupchat("room@muc.example.com/dave", BOB, "canary Hi");
    assert_eq!(badge(&pushlark, room).await, 4);
    let mut explained = pushlark.json("/explain", json!({"explain": [from("carol")]})).await.json();
    let explained = explained["explained"][0]["recipients"][0].take();
    assert_eq!((&explained["unread_count"], &explained["badge"]), (&json!(2), &json!(5)));
    assert_eq!(explained["publications"][0]["payload"]["message-count"], "2");
    pushlark.event(Event::read(BOB, ALICES_PC)).await;
    assert_eq!(badge(&pushlark, from("carol")).await, 3, "two of Carol, one of the room");
}

#[tokio::test]
async fn the_badge_is_the_conversations_by_default_with_mongoosepush() {
    let pushlark = with_bob(&[("UNREAD_COUNTS", "on")]).await;
    assert_eq!(badge(&pushlark, from("alice")).await, 1);
    assert_eq!(badge(&pushlark, from("carol")).await, 1);
    assert_eq!(badge(&pushlark, from("dave").recipient(json!({"unread_count": 2, "unread_total": 9}))).await, 2);
}

#[tokio::test]
async fn the_total_in_the_event_is_used() {
    for counts in ["on", "off"] {
        let pushlark = with_bob(&[("UNREAD_COUNTS", counts), ("BADGE", "total")]).await;
        let reported = |recipient: Value| from("alice").recipient(recipient);
        assert_eq!(badge(&pushlark, reported(json!({"unread_count": 2, "unread_total": 9}))).await, 9);
        assert_eq!(badge(&pushlark, reported(json!({"unread_total": 0}))).await, 0);
        assert_eq!(badge(&pushlark, reported(json!({"unread_count": 2}))).await, 2);
    }
    let pushlark = with_bob(&[("BADGE", "total")]).await;
    assert_eq!(badge(&pushlark, from("alice")).await, 1);
    assert_eq!(badge(&pushlark, from("alice")).await, 1);
}

#[tokio::test]
async fn each_provider_shows_the_total_and_tells_the_count_of_the_conversation() {
    let providers = Providers::with_settings(&[("UNREAD_COUNTS", "on")]).await;
    let subscriber = Subscriber::new(7);
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.pushlark.enable(BOB, "android").await;
    providers.pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    providers.enable_browser("browser", &subscriber, json!({})).await;
    for sender in ["carol", "alice", "alice"] {
        providers.pushlark.event(from(sender)).await;
        providers.pushlark.settled().await;
    }
    assert_eq!(providers.apns.accepted(IPHONE)[2].json()["aps"]["badge"], 3);
    let android = |device: &str| providers.fcm.accepted(device)[2].json()["message"]["android"].take();
    assert_eq!(android("android")["notification"]["notification_count"], 3);
    assert_eq!(android("silent")["data"]["message-count"], "2");
    let text = subscriber.decrypt(&providers.web_push.accepted("browser")[2].body).unwrap();
    let text: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&text["message-count"], &text["badge"]), (&json!("2"), &json!("3")));
}

#[tokio::test]
async fn the_webhook_of_an_own_push_service_has_the_total() {
    let receiver = Gateway::webhook().await;
    let own = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
    for (setting, badges) in [("conversation", [Value::Null, Value::Null]), ("total", [json!(1), json!(2)])] {
        let settings = own.into_iter().chain([("UNREAD_COUNTS", "on"), ("BADGE", setting)]);
        let pushlark = Pushlark::with_settings(settings).await;
        let before = receiver.requests().len();
        pushlark.enable(BOB, "device").await;
        for sender in ["alice", "carol"] {
            pushlark.event(from(sender)).await;
            pushlark.settled().await;
        }
        let sent: Vec<_> = receiver.requests()[before..].iter().map(|request| request.json()["badge"].take()).collect();
        assert_eq!(sent, badges, "{setting}");
    }
}

#[tokio::test]
async fn the_total_is_read_with_the_recipient() {
    let mut costs = Vec::new();
    for setting in ["conversation", "total"] {
        let (pushlark, counter) = CallCounter::with_settings([("UNREAD_COUNTS", "on"), ("BADGE", setting)]).await;
        pushlark.enable(BOB, "phone").await;
        for number in 0..40 {
            let sender = format!("sender{number}");
            pushlark.event(from(&sender).recipient(json!({"online": true}))).await;
        }
        pushlark.settled().await;
        for number in 0..39 {
            pushlark.event(Event::read(BOB, &format!("sender{number}@example.com"))).await;
        }
        pushlark.settled().await;
        counter.take();
        counter.take_items_read();
        pushlark.event(from("sender39")).await;
        pushlark.settled().await;
        costs.push((counter.take(), counter.take_items_read()));
    }
    let [(conversation, items), (total, all_items)] = <[_; 2]>::try_from(costs).unwrap();
    assert_eq!(all_items - items, 1, "the conversations that are read are not read");
    let without_get: std::collections::BTreeMap<_, _> =
        conversation.iter().map(|(name, times)| (name.clone(), times - u32::from(name == "GetItem"))).collect();
    assert_eq!(total, without_get);
}

#[tokio::test]
async fn a_redelivered_record_has_the_badge_of_its_message() {
    let isolated = IsolatedWorker::beside(with_bob(&TOTAL).await).await;
    isolated.pushlark.event(from("carol")).await;
    isolated.pushlark.notified("phone", 1).await;
    isolated.pushlark.settled().await;
    let work = Work::message(&[BOB]).id("m").at(&ago(0)).message_field("recipient", json!({"online": false}));
    let batch = isolated.batch(&[work]).await;
    isolated.handle(batch.clone()).await;
    isolated.handle(batch).await;
    let sent = isolated.pushlark.notifications("phone").await;
    assert!(sent[1..].iter().all(|sent| sent["notification"]["alert"]["badge"] == 2), "{sent:?}");
    let alice = isolated.pushlark.store().unread(&BOB.parse().unwrap(), &ALICE.parse().unwrap()).await.unwrap();
    assert_eq!(alice, 1);
}

/// Its registration has a longer time to live than messages without one, which are not counted when they are that old.
#[tokio::test]
async fn a_counted_message_that_is_tried_again_late_keeps_its_count() {
    let settings = [TOTAL[0], TOTAL[1], ("TIME_TO_LIVE", "60")];
    let isolated = IsolatedWorker::beside(Pushlark::with_settings(settings).await).await;
    let pushlark = &isolated.pushlark;
    let form = [("service", "fcm"), ("device_id", "canary-phone"), ("time_to_live", "3600")];
    let registration = tests::registration("phone", &form, 1);
    pushlark.store().register(&BOB.parse().unwrap(), &registration, |_| false).await.unwrap();
    let message = Work::message(&[BOB]).id("m");
    isolated.handle(isolated.batch(&[message.clone().at(&ago(0))]).await).await;
    let retry = json!({"claimant": "m.0", "generation": 1, "tries": 5, "unread_count": 1});
    let late = Work::message(&[BOB]).id("m2").at(&ago(120)).with("retry", retry);
    isolated.handle(isolated.batch(&[late]).await).await;
    let sent = pushlark.notified("phone", 2).await;
    let badges: Vec<_> = sent.iter().map(|sent| &sent["notification"]["alert"]["badge"]).collect();
    assert_eq!(badges, [&json!(1), &json!(1)]);
}

#[tokio::test]
async fn a_message_that_is_tried_again_has_the_present_total() {
    let isolated = IsolatedWorker::beside(with_bob(&TOTAL).await).await;
    let pushlark = &isolated.pushlark;
    pushlark.device_answers("phone", json!({"status": 503})).await;
    let batch = isolated.batch(&[Work::message(&[BOB]).id("m")]).await;
    isolated.handle(batch.clone()).await;
    pushlark.device_answers("phone", json!({"status": 200})).await;
    let again = isolated.next(batch).await.expect("the message is tried again");
    // Meanwhile, one more message of Alice and one of Carol are notified.
    assert_eq!(badge(pushlark, from("alice")).await, 2);
    assert_eq!(badge(pushlark, from("carol")).await, 3);
    isolated.handle(again).await;
    let sent = pushlark.notifications("phone").await;
    let last = &sent.last().unwrap()["notification"]["alert"];
    assert_eq!(last["badge"], 3, "{sent:?}");
}

#[tokio::test]
async fn messages_that_are_read_while_others_arrive_are_not_in_the_total() {
    let pushlark = with_bob(&TOTAL).await;
    for round in 1..=3 {
        assert_eq!(badge(&pushlark, from("carol")).await, round * 2 - 1 - (round - 1));
        badge(&pushlark, from("alice")).await;
        // Bob answers Alice.
        pushlark.event(Event::message(ALICE, "Hello").from(BOBS_PC)).await;
        pushlark.settled().await;
    }
}
