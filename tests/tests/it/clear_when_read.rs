//! Silent pushes that clear the notifications of a conversation that was read elsewhere (`CLEAR_WHEN_READ`).

use doubles::Subscriber;
use serde::Serialize;
use serde_json::{Value, json};
use tests::{
    ALICE, ALICES_PC, BOB, BOBS_PC, BOBS_PHONE, CallCounter, Event, IPHONE, IsolatedWorker, Providers, Pushlark,
    TEST_TIMEOUT, Work, ago, eventually, stanza,
};
use tokio::time::Instant;

const ON: [(&str, &str); 2] = [("UNREAD_COUNTS", "on"), ("CLEAR_WHEN_READ", "on")];

async fn with_bob(settings: &[(&str, &str)]) -> Pushlark {
    let pushlark = Pushlark::with_settings(settings.iter().copied()).await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

async fn event(pushlark: &Pushlark, event: impl Serialize) {
    pushlark.event(event).await;
    pushlark.settled().await;
}

async fn message(pushlark: &Pushlark) {
    event(pushlark, Event::message(BOB, "canary Hi")).await;
}

async fn read(pushlark: &Pushlark) {
    event(pushlark, Event::read(BOB, ALICES_PC)).await;
}

/// Returns the data of the silent pushes for a device.
async fn cleared(pushlark: &Pushlark, device: &str) -> Vec<Value> {
    let sent = pushlark.notifications(device).await.into_iter().map(|mut sent| sent["notification"].take());
    sent.filter(|sent| sent["data"]["type"] == "read").map(|mut sent| sent["data"].take()).collect()
}

fn data(unread: u32) -> Value {
    json!({"type": "read", "conversation": ALICE, "message-count": unread})
}

#[tokio::test]
async fn a_device_that_was_notified_is_told_when_the_conversation_is_read() {
    for counts in ["on", "off"] {
        let pushlark = with_bob(&[("CLEAR_WHEN_READ", "on"), ("UNREAD_COUNTS", counts)]).await;
        read(&pushlark).await;
        assert!(cleared(&pushlark, "phone").await.is_empty(), "nothing was notified");
        message(&pushlark).await;
        event(&pushlark, Event::read(BOB, "carol@example.com")).await;
        assert!(cleared(&pushlark, "phone").await.is_empty(), "another conversation");
        // This device was not notified.
        pushlark.enable(BOB, "tablet").await;
        read(&pushlark).await;
        assert_eq!(cleared(&pushlark, "phone").await, [data(0)]);
        let sent = pushlark.notifications("phone").await;
        assert_eq!(sent[1]["notification"].get("alert"), None, "{}", sent[1]);
        read(&pushlark).await;
        assert_eq!(cleared(&pushlark, "phone").await.len(), 1, "it is cleared once");
        assert!(pushlark.notifications("tablet").await.is_empty());
        message(&pushlark).await;
        event(&pushlark, Event::message(ALICE, "Hello").from(BOBS_PC)).await;
        assert_eq!(cleared(&pushlark, "phone").await.len(), 2, "an answer reads the conversation");
    }
}

#[tokio::test]
async fn nothing_is_cleared_by_default() {
    let pushlark = with_bob(&[("UNREAD_COUNTS", "on")]).await;
    message(&pushlark).await;
    read(&pushlark).await;
    assert_eq!(pushlark.notifications("phone").await.len(), 1);
}

#[tokio::test]
async fn the_number_of_messages_that_are_still_unread_is_told() {
    let pushlark = with_bob(&ON).await;
    for id in ["a", "b", "c"] {
        let stanza = format!("<message type='chat' id='{id}'><body>canary {id}</body></message>");
        event(&pushlark, Event::stanza(BOB, &stanza)).await;
    }
    for (id, unread) in [("a", 2), ("c", 0)] {
        let marker = format!("<message from='{BOBS_PC}' to='{ALICE}'>{}</message>", stanza::displayed(id));
        pushlark.stanza(marker).await;
        pushlark.settled().await;
        assert_eq!(cleared(&pushlark, "phone").await.last(), Some(&data(unread)), "{id}");
    }
}

#[tokio::test]
async fn each_provider_clears_in_its_own_way() {
    let settings = [ON[0], ON[1]];
    let providers = Providers::with_settings(&settings).await;
    let (pushlark, subscriber) = (&providers.pushlark, Subscriber::new(7));
    providers.enable_iphone(IPHONE, json!({"priority": "high"})).await;
    pushlark.enable_with(BOB, "android", json!({"priority": "high"})).await;
    providers.enable_browser("browser", &subscriber, json!({})).await;
    event(pushlark, Event::message(BOB, "canary Hi").from("carol@example.com/x")).await;
    message(pushlark).await;
    read(pushlark).await;

    let request = providers.apns.accepted(IPHONE).remove(2);
    // The badge is the total: Carol's message is still unread.
    let expected = json!({"aps": {"badge": 1, "content-available": 1}, "type": "read", "conversation": ALICE,
        "message-count": 0});
    assert_eq!(request.json(), expected);
    assert_eq!((request.header("apns-push-type"), request.header("apns-priority")), ("alert", "5"));
    let android = providers.fcm.accepted("android").remove(2).json()["message"]["android"].take();
    let tag = providers.fcm.accepted("android").remove(1).json()["message"]["android"]["notification"]["tag"].take();
    assert_eq!((&android["collapse_key"], &android["priority"]), (&tag, &json!("NORMAL")));
    assert_eq!(android["data"], json!({"type": "read", "conversation": ALICE, "message-count": "0"}));
    assert_eq!(android.get("notification"), None);
    let browser = providers.web_push.accepted("browser").remove(2);
    let text: Value = serde_json::from_slice(&subscriber.decrypt(&browser.body).unwrap()).unwrap();
    assert_eq!(text, json!({"type": "read", "conversation": ALICE, "message-count": "0", "badge": "1"}));

    // A later silent push of the conversation replaces this one.
    message(pushlark).await;
    read(pushlark).await;
    let again = providers.web_push.accepted("browser").remove(4);
    assert_eq!(browser.header("topic"), again.header("topic"));
}

#[tokio::test]
async fn an_iphone_has_the_conversations_badge_with_that_setting() {
    let settings = [ON[0], ON[1], ("BADGE", "conversation")];
    let providers = Providers::with_settings(&settings).await;
    providers.enable_iphone(IPHONE, json!({})).await;
    event(&providers.pushlark, Event::message(BOB, "canary Hi").from("carol@example.com/x")).await;
    message(&providers.pushlark).await;
    read(&providers.pushlark).await;
    assert_eq!(providers.apns.accepted(IPHONE)[2].json()["aps"], json!({"badge": 0, "content-available": 1}));
}

#[tokio::test]
async fn the_conversation_has_the_name_of_the_alerts_thread() {
    let providers = Providers::with_settings(&[ON[0], ON[1], ("INCLUDE_SENDER", "off")]).await;
    providers.enable_iphone(IPHONE, json!({})).await;
    message(&providers.pushlark).await;
    read(&providers.pushlark).await;
    let [alert, silent] = <[_; 2]>::try_from(providers.apns.accepted(IPHONE)).unwrap();
    assert_eq!(alert.json()["aps"]["thread-id"], silent.json()["conversation"]);
    assert!(!silent.json().to_string().contains("alice"), "{}", silent.json());
}

#[tokio::test]
async fn devices_for_calls_and_devices_that_are_online_are_left_out() {
    let pushlark = with_bob(&ON).await;
    pushlark.enable_with(BOB, "calls", json!({"service": "apns", "topic": "com.example.chat.voip"})).await;
    pushlark.enable(BOBS_PHONE, "own").await;
    message(&pushlark).await;
    event(&pushlark, Event::presence(BOBS_PHONE, "online")).await;
    read(&pushlark).await;
    assert_eq!(cleared(&pushlark, "phone").await, [data(0)]);
    for device in ["calls", "own"] {
        assert!(cleared(&pushlark, device).await.is_empty(), "{device}");
    }
}

#[tokio::test]
async fn a_silent_push_is_retried_for_the_device_that_failed_alone() {
    let pushlark = with_bob(&ON).await;
    pushlark.enable(BOB, "tablet").await;
    message(&pushlark).await;
    pushlark.device_answers("tablet", json!({"status": 503})).await;
    pushlark.event(Event::read(BOB, ALICES_PC)).await;
    pushlark.notified("tablet", 3).await;
    pushlark.device_answers("tablet", json!({"status": 200})).await;
    pushlark.settled().await;
    let sent = pushlark.notifications("tablet").await;
    assert_eq!(sent.last().unwrap()["status"], 200);
    assert_eq!(cleared(&pushlark, "phone").await, [data(0)]);
}

#[tokio::test]
async fn a_read_mark_of_an_earlier_worker_clears_only_what_is_shown() {
    let isolated = IsolatedWorker::beside(with_bob(&ON).await).await;
    let work = json!({"read": {"jid": BOB, "conversation": ALICE}});
    let batch = isolated.batch(&[Work::of(work)]).await;
    isolated.handle(batch).await;
    assert!(isolated.pushlark.notifications("phone").await.is_empty());
}

#[tokio::test]
async fn a_late_read_mark_tells_of_the_messages_that_came_since() {
    let isolated = IsolatedWorker::beside(with_bob(&ON).await).await;
    let pushlark = &isolated.pushlark;
    let clear = async |id: &str| {
        let work = Work::of(json!({"read": {"jid": BOB, "conversation": ALICE}})).id(id);
        isolated.handle(isolated.batch(&[work]).await).await;
    };
    // The worker comes to the read mark after the message, which is unread.
    message(pushlark).await;
    clear("late").await;
    assert_eq!(cleared(pushlark, "phone").await, [data(1)]);
    // The message is still shown.
    let (bob, alice) = (BOB.parse().unwrap(), ALICE.parse().unwrap());
    assert!(!pushlark.store().shown(&bob, &alice).await.unwrap().is_empty());
    read(pushlark).await;
    assert_eq!(cleared(pushlark, "phone").await, [data(1), data(0)]);
}

#[tokio::test]
async fn a_device_counts_as_notified_while_another_one_does_not_answer() {
    let isolated = IsolatedWorker::beside(with_bob(&ON).await).await;
    let pushlark = &isolated.pushlark;
    pushlark.enable(BOB, "slow").await;
    pushlark.device_answers("slow", json!({"status": 200, "delay_ms": 60_000})).await;
    let (worker, batch) = (isolated.worker.clone(), isolated.batch(&[Work::message(&[BOB])]).await);
    let handling = tokio::spawn(async move { worker.handle(batch, Instant::now() + TEST_TIMEOUT).await });
    pushlark.notified("phone", 1).await;
    let (bob, alice) = (BOB.parse().unwrap(), ALICE.parse().unwrap());
    let is_shown = async || (!pushlark.store().shown(&bob, &alice).await.unwrap().is_empty()).then_some(());
    eventually("a record of the notification", is_shown).await;
    assert!(!handling.is_finished(), "the other device has not answered");
    read(pushlark).await;
    assert_eq!(cleared(pushlark, "phone").await, [data(0)]);
    handling.abort();
}

#[tokio::test]
async fn explain_names_the_devices_that_are_cleared() {
    let pushlark = with_bob(&ON).await;
    let explain = async || {
        let read = Event::read(BOB, ALICES_PC).with("message", "m1");
        pushlark.json("/explain", json!({"explain": [read]})).await.json()["explained"][0].take()
    };
    assert_eq!(explain().await.get("clears"), None);
    message(&pushlark).await;
    let explained = explain().await;
    assert_eq!(explained["clears"], json!([{"jid": "push.example.com", "node": "phone"}]));
    assert_eq!(explained["reads"], "bob@example.com has read the messages of alice@example.com up to \"m1\"");
    assert!(cleared(&pushlark, "phone").await.is_empty());
}

#[tokio::test]
async fn clearing_costs_one_write_for_each_notified_device() {
    let mut costs = Vec::new();
    for setting in ["off", "on"] {
        let (pushlark, counter) = CallCounter::with_settings([("CLEAR_WHEN_READ", setting)]).await;
        pushlark.enable(BOB, "phone").await;
        message(&pushlark).await;
        counter.take();
        event(&pushlark, Event::groupchat("room@muc.example.com/alice", BOB, "canary Hi")).await;
        costs.push(counter.take()["UpdateItem"]);
    }
    assert_eq!(costs, [1, 2]);
}

#[tokio::test]
async fn a_read_mark_does_not_clear_what_came_after_it() {
    let earlier = |seconds| Event::read(BOB, ALICES_PC).at(ago(seconds));
    for counts in ["on", "off"] {
        let pushlark = with_bob(&[("CLEAR_WHEN_READ", "on"), ("UNREAD_COUNTS", counts)]).await;
        message(&pushlark).await;
        event(&pushlark, earlier(60)).await;
        // A message of the user is a read mark, too.
        event(&pushlark, Event::message(ALICE, "Hello").from(BOBS_PC).at(ago(60))).await;
        assert!(cleared(&pushlark, "phone").await.is_empty(), "{counts}");
        read(&pushlark).await;
        assert_eq!(cleared(&pushlark, "phone").await, [data(0)], "{counts}");
    }
    // The count tells the app what is left of the conversation.
    let pushlark = with_bob(&ON).await;
    event(&pushlark, Event::message(BOB, "canary Hi").at(ago(120))).await;
    message(&pushlark).await;
    event(&pushlark, earlier(60)).await;
    assert_eq!(cleared(&pushlark, "phone").await, [data(1)]);
    // The number of a message that the mark names tells more than its time.
    event(&pushlark, Event::message(BOB, "canary Hi").id("last")).await;
    event(&pushlark, earlier(30).with("message", "last")).await;
    assert_eq!(cleared(&pushlark, "phone").await, [data(1), data(0)]);
}

#[tokio::test]
async fn a_late_read_mark_without_counts_leaves_the_messages_that_came_since() {
    let isolated = IsolatedWorker::beside(with_bob(&[("CLEAR_WHEN_READ", "on")]).await).await;
    let pushlark = &isolated.pushlark;
    message(pushlark).await;
    let work = Work::of(json!({"read": {"jid": BOB, "conversation": ALICE}})).id("late").at(&ago(60));
    isolated.handle(isolated.batch(&[work]).await).await;
    assert!(cleared(pushlark, "phone").await.is_empty());
    read(pushlark).await;
    assert_eq!(cleared(pushlark, "phone").await, [data(0)]);
}

#[tokio::test]
async fn a_message_that_is_read_before_it_is_notified_does_not_notify() {
    let hi = |id: &str| Event::message(BOB, &format!("canary {id}")).id(id);
    let second = ago(1);
    let up_to = |id: &str| Event::read(BOB, ALICES_PC).with("message", id);
    for (settings, request, alerts) in [
        (&ON, vec![hi("m1"), Event::read(BOB, ALICES_PC)], vec![]),
        (&ON, vec![hi("m1"), up_to("m1")], vec![]),
        // What comes after the read mark notifies, also if it has the same time.
        (&ON, vec![Event::read(BOB, ALICES_PC), hi("m1")], vec!["canary m1"]),
        (&ON, vec![hi("m1"), hi("m2"), up_to("m1"), hi("m3")], vec!["canary m2", "canary m3"]),
        (&ON, vec![hi("m1").at(&second), Event::read(BOB, ALICES_PC).at(&second)], vec![]),
        (&ON, vec![Event::read(BOB, ALICES_PC).at(&second), hi("m1").at(&second)], vec!["canary m1"]),
        // The message of the mark is not known: it may be earlier than this one.
        (&ON, vec![hi("m1"), up_to("m0")], vec!["canary m1"]),
        // Nothing is cleared.
        (&[("UNREAD_COUNTS", "on"), ("CLEAR_WHEN_READ", "off")], vec![hi("m1"), up_to("m1")], vec!["canary m1"]),
    ] {
        let pushlark = with_bob(settings).await;
        event(&pushlark, request).await;
        assert_eq!(pushlark.sorted_alerts("phone").await, alerts, "{settings:?}");
    }
}

#[tokio::test]
async fn a_message_of_the_second_of_a_read_mark_notifies() {
    let pushlark = with_bob(&ON).await;
    // The server tells no fractions of a second.
    let second = ago(1);
    event(&pushlark, Event::read(BOB, ALICES_PC).at(&second)).await;
    event(&pushlark, Event::message(BOB, "canary Hi").at(&second)).await;
    assert_eq!(pushlark.alerts("phone").await, ["canary Hi"]);
}

#[tokio::test]
async fn the_retry_of_a_message_that_is_read_does_not_notify() {
    for (clears, statuses) in [("on", &[503][..]), ("off", &[503, 200])] {
        let settings = [ON[0], ("CLEAR_WHEN_READ", clears)];
        let isolated = IsolatedWorker::beside(with_bob(&settings).await).await;
        let pushlark = &isolated.pushlark;
        pushlark.device_answers("phone", json!({"status": 503})).await;
        let batch = isolated.batch(&[Work::message(&[BOB])]).await;
        isolated.handle(batch.clone()).await;
        let retry = isolated.next(batch).await.expect("the message is tried again");
        pushlark.device_answers("phone", json!({"status": 200})).await;
        read(pushlark).await;
        isolated.handle_all(retry).await;
        let sent = pushlark.notifications("phone").await;
        let sent: Vec<_> = sent.iter().map(|one| one["status"].as_u64().unwrap()).collect();
        assert_eq!(sent, statuses, "{clears}");
    }
}
