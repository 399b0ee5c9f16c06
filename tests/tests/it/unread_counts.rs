//! Unread counts that Pushlark keeps (`UNREAD_COUNTS`).

use std::collections::BTreeSet;

use futures_util::future::join_all;
use pushlark_xmpp::BareJid;
use serde_json::json;
use tests::{ALICE, ALICES_PC, BOB, BOBS_PC, BOBS_PHONE, CAROL, Event, IsolatedWorker, Pushlark, Work, ago, stanza};

const ROOM: &str = "room@muclight.example.com";

/// Starts a stack that counts, with a phone of Bob.
pub async fn with_bob() -> Pushlark {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

/// Posts a message to Bob, waits for its notification, and returns the badge.
pub async fn badge(pushlark: &Pushlark, message: impl serde::Serialize) -> u64 {
    let before = pushlark.notifications("phone").await.len();
    pushlark.event(message).await;
    let notified = pushlark.notified("phone", before + 1).await;
    notified[before]["notification"]["alert"]["badge"].as_u64().unwrap()
}

async fn next_from_alice(pushlark: &Pushlark) -> u64 {
    badge(pushlark, Event::message(BOB, "canary Hi")).await
}

async fn post_stanza(pushlark: &Pushlark, attributes: &str, content: &str) {
    pushlark.stanza(format!("<message {attributes}>{content}</message>")).await;
}

#[tokio::test]
async fn each_sender_and_each_room_has_its_own_count() {
    let pushlark = with_bob().await;
    let kate = Event::message(BOB, "canary Hi").from("kate@example.com/x");
    assert_eq!(next_from_alice(&pushlark).await, 1);
    assert_eq!(badge(&pushlark, kate.clone()).await, 1);
    assert_eq!(badge(&pushlark, Event::message(BOB, "from another session").from("alice@example.com/phone")).await, 2);
    for (number, nick) in ["alice", "kate", "alice"].into_iter().enumerate() {
        let group = Event::groupchat(&format!("{ROOM}/{nick}@example.com"), BOB, "canary Hi");
        assert_eq!(badge(&pushlark, group).await, number as u64 + 1);
    }
    assert_eq!(badge(&pushlark, kate).await, 2);
}

#[tokio::test]
async fn simultaneous_messages_have_different_counts() {
    let pushlark = with_bob().await;
    let bodies: Vec<_> = (0..30).map(|number| format!("canary {number}")).collect();
    join_all(bodies.iter().map(|body| pushlark.message(BOB, body))).await;
    pushlark.notified("phone", 30).await;
    pushlark.settled().await;
    // On a busy machine a message may be notified twice, with the same count.
    let notified = pushlark.notifications("phone").await.into_iter();
    let seen = notified.map(|n| (n["notification"]["alert"]["badge"].as_u64().unwrap(), n["notification"].to_string()));
    let seen: BTreeSet<_> = seen.collect();
    assert_eq!(seen.iter().map(|(badge, _)| *badge).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_repeated_message_is_counted_once() {
    let pushlark = with_bob().await;
    let repeated = Event::message(BOB, "repeated").id("m1");
    join_all((0..10).map(|_| pushlark.event(&repeated))).await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "repeated").id("m1")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.notifications("phone").await.len(), 1);
    assert_eq!(next_from_alice(&pushlark).await, 2);
}

#[tokio::test]
async fn a_retried_notification_keeps_its_count() {
    let pushlark = with_bob().await;
    pushlark.device_answers("phone", json!({"status": 503})).await;
    pushlark.message(BOB, "first").await;
    pushlark.notified("phone", 2).await;
    pushlark.device_answers("phone", json!({"status": 200})).await;
    pushlark.settled().await;
    let numbers = pushlark.notifications("phone").await;
    assert!(numbers.iter().all(|n| n["notification"]["alert"]["badge"] == 1), "{numbers:?}");
    assert_eq!(next_from_alice(&pushlark).await, 2);
}

#[tokio::test]
async fn a_redelivered_record_is_not_counted_again() {
    let isolated = IsolatedWorker::beside(with_bob().await).await;
    isolated.pushlark.enable(CAROL, "shaky").await;
    isolated.pushlark.device_answers("shaky", json!({"status": 500})).await;
    let at = ago(0);
    let work = |id: &str, to: &[&str], online: bool| {
        Work::message(to)
            .id(id)
            .at(&at)
            .message_field("from", ALICES_PC)
            .message_field("recipient", json!({"online": online}))
    };
    // Bob is online, so nothing is published for him. Carol's device fails.
    let failing = [work("first", &[BOB], true), work("first", &[CAROL], false)];
    let batch = isolated.batch(&failing).await;
    isolated.handle(batch.clone()).await;
    let others: Vec<_> = (0..60).map(|number| work(&format!("m{number}"), &[BOB], true)).collect();
    isolated.send(&Work::record(&others)).await;
    let others = isolated.receive().await.unwrap();
    isolated.handle(others.clone()).await;
    isolated.pushlark.device_answers("shaky", json!({"status": 200})).await;
    // SQS delivers the first record again, and then the device that was put back.
    isolated.handle(batch.clone()).await;
    isolated.delete(batch).await;
    let left = isolated.next(others).await.expect("the device that was put back");
    isolated.handle_all(left).await;
    let (bob, alice) = (BareJid::new(BOB).unwrap(), BareJid::new(ALICE).unwrap());
    assert_eq!(isolated.pushlark.store().unread(&bob, &alice).await.unwrap(), 61);
    let counts = isolated.pushlark.notifications("shaky").await;
    assert!(counts.iter().all(|n| n["notification"]["alert"]["badge"] == 1), "{counts:?}");
}

#[tokio::test]
async fn messages_to_an_online_user_are_counted() {
    let pushlark = with_bob().await;
    let presence = |status: &str| Event::presence(BOBS_PC, status);
    pushlark.event(presence("online")).await;
    pushlark.message(BOB, "online").await;
    pushlark.settled().await;
    pushlark.event(presence("offline")).await;
    assert_eq!(next_from_alice(&pushlark).await, 2);
}

#[tokio::test]
async fn a_marker_or_an_own_message_of_the_recipient_resets_the_count() {
    let pushlark = with_bob().await;
    let marker = &stanza::displayed("x");
    let from_bob = "from='bob@example.com/pc' to='alice@example.com'";
    for reset in ["marker", "marker of a chat", "own message", "own encrypted message", "read"] {
        assert_eq!(next_from_alice(&pushlark).await, 1, "before {reset}");
        assert_eq!(next_from_alice(&pushlark).await, 2, "before {reset}");
        match reset {
            "marker" => post_stanza(&pushlark, from_bob, marker).await,
            "marker of a chat" => post_stanza(&pushlark, &format!("{from_bob} type='chat'"), marker).await,
            "own message" => post_stanza(&pushlark, &format!("{from_bob} type='chat'"), "<body>Hello</body>").await,
            "own encrypted message" => {
                let encrypted = "<encrypted xmlns='urn:xmpp:omemo:2'><payload>eHg=</payload></encrypted>";
                post_stanza(&pushlark, &format!("{from_bob} type='chat'"), encrypted).await;
            }
            _ => drop(pushlark.event(Event::read(BOBS_PC, ALICES_PC)).await),
        }
    }
    let kate = Event::message(BOB, "canary Hi").from("kate@example.com/x");
    assert_eq!(badge(&pushlark, kate.clone()).await, 1);
    pushlark.event(Event::read(BOB, ALICES_PC)).await;
    assert_eq!(badge(&pushlark, kate).await, 2, "another conversation");
}

#[tokio::test]
async fn other_stanzas_do_not_reset_the_count() {
    let pushlark = with_bob().await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
    let from_bob = "from='bob@example.com/pc' to='alice@example.com'";
    post_stanza(
        &pushlark,
        &format!("{from_bob} type='chat'"),
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
    )
    .await;
    post_stanza(&pushlark, &format!("{from_bob} type='error'"), "<body>echo</body>").await;
    post_stanza(&pushlark, &format!("{from_bob} type='headline'"), "<body>news</body>").await;
    let alices = "from='alice@example.com/pc' to='bob@example.com'";
    post_stanza(&pushlark, alices, &stanza::displayed("x")).await;
    let received = "<received xmlns='urn:xmpp:chat-markers:0' id='x'/>";
    post_stanza(&pushlark, from_bob, received).await;
    assert_eq!(next_from_alice(&pushlark).await, 2);
}

#[tokio::test]
async fn a_reply_reads_an_older_message_that_waited_in_the_queue() {
    let isolated = IsolatedWorker::beside(with_bob().await).await;
    let (bob, alice) = (BareJid::new(BOB).unwrap(), BareJid::new(ALICE).unwrap());
    let [sent, replied] = [60, 30].map(ago);
    isolated.handle(isolated.batch(&[Work::message(&[BOB]).id("m").at(&sent)]).await).await;
    let reply = |id: &str, at: &str, is_reply: bool| {
        let work = Work::message(&[ALICE]).id(id).at(at).message_field("from", BOBS_PC);
        work.message_field("context", json!({"is_reply": is_reply}))
    };
    for (id, at, is_reply, left) in [
        ("other", &replied, false, 1),
        ("early", &ago(90), true, 1),
        ("just now", &ago(0), true, 1),
        ("late", &replied, true, 0),
    ] {
        isolated.handle(isolated.batch(&[reply(id, at, is_reply)]).await).await;
        assert_eq!(isolated.pushlark.store().unread(&bob, &alice).await.unwrap(), left, "{id}");
    }
}

#[tokio::test]
async fn an_own_message_in_a_room_resets_its_count() {
    let pushlark = with_bob().await;
    let group = || Event::groupchat(&format!("{ROOM}/alice@example.com"), BOB, "canary Hi");
    assert_eq!(badge(&pushlark, group()).await, 1);
    assert_eq!(badge(&pushlark, group()).await, 2);
    let own = Event::groupchat(BOBS_PC, ROOM, "Hello");
    pushlark.event(own).await;
    assert_eq!(badge(&pushlark, group()).await, 1);
    // MUC Light sends it to all occupants, also to the sender.
    let reflected = Event::groupchat(&format!("{ROOM}/{BOB}"), [BOB, "kate@example.com"], "Hello")
        .recipient(json!({"online": true}));
    pushlark.event(reflected).await;
    pushlark.settled().await;
    assert_eq!(badge(&pushlark, group()).await, 1);
}

#[tokio::test]
async fn a_message_read_before_its_arrival_is_not_counted() {
    let pushlark = with_bob().await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
    pushlark.event(Event::read(BOB, ALICES_PC)).await;
    let late = Event::message(BOB, "late").at(ago(60));
    assert_eq!(badge(&pushlark, late).await, 1, "a badge is at least 1");
    assert_eq!(next_from_alice(&pushlark).await, 1);
    pushlark.event(Event::read(BOB, ALICES_PC).at(ago(30))).await;
    assert_eq!(next_from_alice(&pushlark).await, 2, "the older read event changes nothing");
}

#[tokio::test]
async fn a_message_without_new_text_is_not_counted() {
    let pushlark = with_bob().await;
    let alices = "from='alice@example.com/pc' to='bob@example.com' type='chat'";
    for content in [
        "",
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        "<body>Hi!</body><replace xmlns='urn:xmpp:message-correct:0' id='x'/>",
        "<body>Hi!</body><no-store xmlns='urn:xmpp:hints'/>",
        "<received xmlns='urn:xmpp:receipts' id='x'/>",
    ] {
        post_stanza(&pushlark, alices, content).await;
    }
    pushlark.settled().await;
    let before = pushlark.notifications("phone").await.len();
    assert_eq!(before, 1, "the defaults notify a message with no-store");
    assert_eq!(next_from_alice(&pushlark).await, 1);
}

#[tokio::test]
async fn a_count_in_the_event_is_used_and_not_added() {
    let pushlark = with_bob().await;
    let given = Event::message(BOB, "given").recipient(json!({"unread_count": 7}));
    assert_eq!(badge(&pushlark, given).await, 7);
    assert_eq!(next_from_alice(&pushlark).await, 1);
}

#[tokio::test]
async fn removing_the_user_removes_the_counts() {
    let pushlark = with_bob().await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
    assert_eq!(next_from_alice(&pushlark).await, 2);
    pushlark.event(Event::user_removed(BOB)).await;
    pushlark.settled().await;
    pushlark.enable(BOB, "phone").await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
}

#[tokio::test]
async fn a_removal_removes_only_counts_from_before_its_time() {
    let pushlark = with_bob().await;
    let at = |time: &str| Event::message(BOB, "canary Hi").at(time);
    let [before, removal, late_removal, after] = [20, 10, 8, 5].map(ago);
    assert_eq!(badge(&pushlark, at(&before)).await, 1);
    assert_eq!(badge(&pushlark, at(&before)).await, 2);
    pushlark.event(Event::user_removed(BOB).at(removal)).await;
    pushlark.settled().await;
    assert_eq!(badge(&pushlark, at(&after)).await, 1);
    // The message after the removal is for the new user.
    pushlark.event(Event::user_removed(BOB).at(late_removal)).await;
    pushlark.settled().await;
    assert_eq!(badge(&pushlark, at(&after)).await, 2);
}

#[tokio::test]
async fn a_repeated_message_without_a_notification_is_counted_once() {
    let pushlark = with_bob().await;
    let twice = Event::message(BOB, "canary Hi").id("m1").recipient(json!({"online": true}));
    pushlark.event(twice.clone()).await;
    pushlark.settled().await;
    for _ in 0..40 {
        pushlark.message(BOB, "canary Hi").await;
    }
    pushlark.settled().await;
    pushlark.event(twice).await;
    pushlark.settled().await;
    assert_eq!(next_from_alice(&pushlark).await, 42);
}

/// Sends a message for Bob three times: by two webhooks, and as unacknowledged.
async fn send_three_times(pushlark: &Pushlark, id: &str) {
    for _ in 0..2 {
        pushlark.event(Event::message(BOB, "canary Hi").id(id)).await;
    }
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "canary Hi").id(id)).await;
    pushlark.settled().await;
}

#[tokio::test]
async fn a_message_is_notified_once_although_its_counter_or_its_read_mark_has_forgotten_it() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on"), ("PLUGIN", "enhanced")]).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    let bob = || (BareJid::new(BOB).unwrap(), BareJid::new(ALICE).unwrap());
    let unread = async || pushlark.store().unread(&bob().0, &bob().1).await.unwrap();
    send_three_times(&pushlark, "m1").await;
    for number in 2..=40 {
        pushlark.event(Event::message(BOB, "canary Hi").id(&format!("m{number}"))).await;
        pushlark.settled().await;
    }
    // The counter has forgotten the first messages. The last ones have room in the item of the read mark.
    for id in ["m1", "m2", "m40"] {
        send_three_times(&pushlark, id).await;
    }
    assert_eq!(unread().await, 40);
    pushlark.event(Event::read(BOB, ALICE)).await;
    for id in ["m1", "m20", "m40"] {
        send_three_times(&pushlark, id).await;
    }
    assert_eq!(unread().await, 0);
    // Each message is read before the next one.
    for number in 41..=80 {
        pushlark.event(Event::message(BOB, "canary Hi").id(&format!("m{number}"))).await;
        pushlark.settled().await;
        pushlark.event(Event::read(BOB, ALICE)).await;
    }
    send_three_times(&pushlark, "m81").await;
    for id in ["m1", "m40", "m41", "m80", "m81"] {
        send_three_times(&pushlark, id).await;
    }
    assert_eq!((unread().await, pushlark.notifications("phone").await.len()), (1, 81));
}

#[tokio::test]
async fn a_message_that_was_only_counted_is_notified_once_when_it_is_not_acknowledged() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on"), ("PLUGIN", "enhanced")]).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.event(Event::message(BOB, "canary Hi").id("m").recipient(json!({"online": true}))).await;
    pushlark.settled().await;
    assert!(pushlark.notifications("phone").await.is_empty());
    send_three_times(&pushlark, "m").await;
    send_three_times(&pushlark, "m").await;
    let notified = pushlark.notifications("phone").await;
    assert_eq!(notified.len(), 1);
    assert_eq!(notified[0]["notification"]["alert"]["badge"], 1);
    assert_eq!(next_from_alice(&pushlark).await, 2);
}

#[tokio::test]
async fn a_redelivered_record_leaves_devices_that_were_put_back_to_their_retry() {
    let isolated = IsolatedWorker::beside(with_bob().await).await;
    let pushlark = &isolated.pushlark;
    pushlark.enable(BOB, "shaky").await;
    pushlark.device_answers("shaky", json!({"status": 500})).await;
    let batch = isolated.batch(&[Work::message(&[BOB]).id("m").at(&ago(0))]).await;
    isolated.handle(batch.clone()).await;
    pushlark.device_answers("shaky", json!({"status": 200})).await;
    // Its counter is gone, and must not return.
    pushlark.event(Event::read(BOB, ALICE)).await;
    isolated.handle(batch.clone()).await;
    assert_eq!(pushlark.notifications("shaky").await.len(), 1);
    // Another webhook of the message leaves both devices to the first.
    let other = isolated.batch(&[Work::message(&[BOB]).id("m").at(&ago(0))]).await;
    isolated.handle(other.clone()).await;
    isolated.delete(other).await;
    assert_eq!(pushlark.notifications("shaky").await.len(), 1);
    let retry = isolated.next(batch).await.expect("the device that was put back");
    isolated.handle_all(retry).await;
    let shaky: Vec<_> = pushlark.notifications("shaky").await.iter().map(|sent| sent["status"].clone()).collect();
    assert_eq!(shaky, [json!(500), json!(200)]);
    let (bob, alice) = (BareJid::new(BOB).unwrap(), BareJid::new(ALICE).unwrap());
    assert_eq!(pushlark.store().unread(&bob, &alice).await.unwrap(), 0);
}

#[tokio::test]
async fn nothing_is_counted_without_the_setting() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
    assert_eq!(next_from_alice(&pushlark).await, 1);
    pushlark.event(Event::read(BOB, ALICES_PC)).await;
}

#[tokio::test]
async fn a_nick_is_a_user_only_at_muc_light_hosts() {
    let own =
        |room: &str| Event::groupchat(&format!("{room}/{BOB}"), BOB, "canary Hi").recipient(json!({"online": true}));
    let others = |room: &str| Event::groupchat(&format!("{room}/carol@example.com"), BOB, "canary Hi");
    for (setting, light, muc) in [
        ("", ROOM, "room@muc.example.com"),
        ("", ROOM, "room@muclight.evil.example"),
        ("rooms.example, light.@HOST@", "room@light.example.com", ROOM),
        ("rooms.example, light.@HOST@", "room@rooms.example", ROOM),
    ] {
        let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on"), ("MUC_LIGHT_HOSTS", setting)]).await;
        pushlark.enable(BOB, "phone").await;
        assert_eq!(badge(&pushlark, others(light)).await, 1);
        pushlark.event(own(light)).await;
        assert_eq!(badge(&pushlark, others(light)).await, 1, "{light}: the nick is the user");
        assert_eq!(badge(&pushlark, others(muc)).await, 1);
        // Anybody may have this nick here: it marks nothing as read, and the message is counted.
        pushlark.event(own(muc)).await;
        pushlark.settled().await;
        assert_eq!(badge(&pushlark, others(muc)).await, 3, "{muc}: the nick is not the user");
    }
}

#[tokio::test]
async fn a_read_mark_reads_up_to_its_message_in_the_same_request() {
    let hi = |id: &str| {
        let stanza_id = format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{BOB}' id='archive-{id}'/>");
        Event::stanza(BOB, &format!("<message type='chat' id='{id}'><body>canary {id}</body>{stanza_id}</message>"))
    };
    for named in ["h1", "archive-h1"] {
        let pushlark = with_bob().await;
        let read = Event::read(BOB, ALICES_PC).with("message", named);
        pushlark.event([hi("h1"), hi("h2"), read, hi("h3")]).await;
        let badges = pushlark.notified("phone", 3).await;
        let badges = badges.iter().map(|one| one["notification"]["alert"]["badge"].as_u64().unwrap());
        let mut badges: Vec<_> = badges.collect();
        badges.sort_unstable();
        assert_eq!(badges, [1, 1, 2], "{named}");
        assert_eq!(next_from_alice(&pushlark).await, 3);
    }
}
