//! Unread counts, kept by Pushlark.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};
use tests::{Apart, Pushlark, ago};

const ALICE: &str = "alice@example.com/pc";
const BOB: &str = "bob@example.com";
const ROOM: &str = "room@muclight.example.com";

async fn with_bob() -> Pushlark {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

fn message(from: &str, chat: &str, body: &str) -> Value {
    json!({"type": "message", "from": from, "to": BOB, "chat": chat, "body": body})
}

/// Posts a message to Bob, waits for its notification, and gives its badge.
async fn badge(pushlark: &Pushlark, message: Value) -> u64 {
    let before = pushlark.notifications("phone").await.len();
    pushlark.event(message).await;
    let notified = pushlark.notified("phone", before + 1).await;
    notified[before]["notification"]["alert"]["badge"].as_u64().unwrap()
}

async fn next_from_alice(pushlark: &Pushlark) -> u64 {
    badge(pushlark, message(ALICE, "chat", "planted Hi")).await
}

async fn stanza(pushlark: &Pushlark, attributes: &str, content: &str) {
    let stanza = format!("<message {attributes}>{content}</message>");
    let reply = pushlark.post("/events", "application/xml", stanza).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
}

#[tokio::test]
async fn each_sender_and_each_room_has_a_count() {
    let pushlark = with_bob().await;
    let kate = message("kate@example.com/x", "chat", "planted Hi");
    assert_eq!(next_from_alice(&pushlark).await, 1);
    assert_eq!(badge(&pushlark, kate.clone()).await, 1);
    assert_eq!(badge(&pushlark, message("alice@example.com/phone", "chat", "from another session")).await, 2);
    for (number, nick) in ["alice", "kate", "alice"].into_iter().enumerate() {
        let group = message(&format!("{ROOM}/{nick}@example.com"), "groupchat", "planted Hi");
        assert_eq!(badge(&pushlark, group).await, number as u64 + 1);
    }
    assert_eq!(badge(&pushlark, kate).await, 2);
}

#[tokio::test]
async fn messages_at_the_same_time_have_different_numbers() {
    let pushlark = with_bob().await;
    let bodies: Vec<_> = (0..30).map(|number| format!("planted {number}")).collect();
    join_all(bodies.iter().map(|body| pushlark.message(BOB, body))).await;
    pushlark.notified("phone", 30).await;
    pushlark.settled().await;
    // A message that is notified again on a busy machine has the number that it had.
    let notified = pushlark.notifications("phone").await.into_iter();
    let told = notified.map(|n| (n["notification"]["alert"]["badge"].as_u64().unwrap(), n["notification"].to_string()));
    let told: BTreeSet<_> = told.collect();
    assert_eq!(told.iter().map(|(badge, _)| *badge).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_message_is_counted_once_however_often_it_is_told() {
    let pushlark = with_bob().await;
    let mut told = message(ALICE, "chat", "told often");
    told["id"] = "m1".into();
    join_all((0..10).map(|_| pushlark.event(told.clone()))).await;
    let mut twin = told.clone();
    twin["type"] = "unacknowledged".into();
    twin["to"] = "bob@example.com/phone".into();
    pushlark.event(twin).await;
    pushlark.settled().await;
    assert_eq!(pushlark.notifications("phone").await.len(), 1);
    assert_eq!(next_from_alice(&pushlark).await, 2);
}

#[tokio::test]
async fn a_notification_that_is_tried_again_keeps_its_number() {
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
async fn a_record_that_comes_back_after_many_others_counts_nothing_twice() {
    let apart = Apart::beside(with_bob().await).await;
    apart.pushlark.enable("carol@example.com", "shaky").await;
    apart.pushlark.device_answers("shaky", json!({"status": 500})).await;
    let at = ago(0);
    let work = |id: &str, to: &[&str], online: bool| {
        json!({"id": id, "at": at, "subject": {"message": {"from": ALICE, "to": to, "recipient": {"online": online},
            "stanza": "<message type='chat'><body>planted Hi</body></message>"}}})
    };
    // Bob is online and has nothing to be published; what fails is Carol's.
    let failing = [work("first", &[BOB], true), work("first", &["carol@example.com"], false)];
    let batch = apart.batch(&failing).await;
    apart.handle(batch.clone()).await;
    let others: Vec<Value> = (0..60).map(|number| work(&format!("m{number}"), &[BOB], true)).collect();
    apart.send(&json!({"version": 2, "work": others})).await;
    let others = apart.receive().await.unwrap();
    apart.handle(others.clone()).await;
    apart.pushlark.device_answers("shaky", json!({"status": 200})).await;
    // SQS delivers the first record once more, and then what was put back of it.
    apart.handle(batch.clone()).await;
    apart.delete(batch).await;
    let left = apart.next(others).await.expect("what was put back");
    apart.handle_all(left).await;
    let (bob, alice) = (BareJid::new(BOB).unwrap(), BareJid::new("alice@example.com").unwrap());
    assert_eq!(apart.pushlark.store().unread(&bob, &alice).await.unwrap(), 61);
    let counts = apart.pushlark.notifications("shaky").await;
    assert!(counts.iter().all(|n| n["notification"]["alert"]["badge"] == 1), "{counts:?}");
}

#[tokio::test]
async fn messages_that_arrive_while_online_count_too() {
    let pushlark = with_bob().await;
    let presence = |status: &str| json!({"type": "presence", "jid": "bob@example.com/pc", "status": status});
    pushlark.event(presence("online")).await;
    pushlark.message(BOB, "online").await;
    pushlark.settled().await;
    pushlark.event(presence("offline")).await;
    assert_eq!(next_from_alice(&pushlark).await, 2);
}

#[tokio::test]
async fn what_the_recipient_reads_or_writes_resets_the_count() {
    let pushlark = with_bob().await;
    let marker = "<displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>";
    let from_bob = "from='bob@example.com/pc' to='alice@example.com'";
    for reset in ["marker", "marker of a chat", "own message", "own encrypted message", "read"] {
        assert_eq!(next_from_alice(&pushlark).await, 1, "before {reset}");
        assert_eq!(next_from_alice(&pushlark).await, 2, "before {reset}");
        match reset {
            "marker" => stanza(&pushlark, from_bob, marker).await,
            "marker of a chat" => stanza(&pushlark, &format!("{from_bob} type='chat'"), marker).await,
            "own message" => stanza(&pushlark, &format!("{from_bob} type='chat'"), "<body>Hello</body>").await,
            "own encrypted message" => {
                let encrypted = "<encrypted xmlns='urn:xmpp:omemo:2'><payload>eHg=</payload></encrypted>";
                stanza(&pushlark, &format!("{from_bob} type='chat'"), encrypted).await;
            }
            _ => {
                drop(pushlark.event(json!({"type": "read", "jid": "bob@example.com/pc", "conversation": ALICE})).await)
            }
        }
    }
    let kate = message("kate@example.com/x", "chat", "planted Hi");
    assert_eq!(badge(&pushlark, kate.clone()).await, 1);
    pushlark.event(json!({"type": "read", "jid": BOB, "conversation": ALICE})).await;
    assert_eq!(badge(&pushlark, kate).await, 2, "another conversation");
}

#[tokio::test]
async fn what_resets_nothing() {
    let pushlark = with_bob().await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
    let from_bob = "from='bob@example.com/pc' to='alice@example.com'";
    stanza(&pushlark, &format!("{from_bob} type='chat'"), "<composing xmlns='http://jabber.org/protocol/chatstates'/>")
        .await;
    stanza(&pushlark, &format!("{from_bob} type='error'"), "<body>echo</body>").await;
    stanza(&pushlark, &format!("{from_bob} type='headline'"), "<body>news</body>").await;
    let alices = "from='alice@example.com/pc' to='bob@example.com'";
    stanza(&pushlark, alices, "<displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>").await;
    let received = "<received xmlns='urn:xmpp:chat-markers:0' id='x'/>";
    stanza(&pushlark, from_bob, received).await;
    assert_eq!(next_from_alice(&pushlark).await, 2);
}

#[tokio::test]
async fn a_room_is_read_by_an_own_message_to_it_or_through_it() {
    let pushlark = with_bob().await;
    let group = || message(&format!("{ROOM}/alice@example.com"), "groupchat", "planted Hi");
    assert_eq!(badge(&pushlark, group()).await, 1);
    assert_eq!(badge(&pushlark, group()).await, 2);
    let own =
        json!({"type": "message", "from": "bob@example.com/pc", "to": ROOM, "chat": "groupchat", "body": "Hello"});
    pushlark.event(own).await;
    assert_eq!(badge(&pushlark, group()).await, 1);
    // MUC Light reflects it to all occupants, the sender among them.
    let reflected = json!({"type": "message", "from": format!("{ROOM}/{BOB}"), "to": [BOB, "kate@example.com"],
        "chat": "groupchat", "body": "Hello", "recipient": {"online": true}});
    pushlark.event(reflected).await;
    pushlark.settled().await;
    assert_eq!(badge(&pushlark, group()).await, 1);
}

#[tokio::test]
async fn what_was_read_before_it_was_counted_does_not_count() {
    let pushlark = with_bob().await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
    pushlark.event(json!({"type": "read", "jid": BOB, "conversation": ALICE})).await;
    let mut late = message(ALICE, "chat", "late");
    late["at"] = ago(60).into();
    assert_eq!(badge(&pushlark, late).await, 1, "no badge is less than 1");
    assert_eq!(next_from_alice(&pushlark).await, 1);
    pushlark.event(json!({"type": "read", "jid": BOB, "conversation": ALICE, "at": ago(30)})).await;
    assert_eq!(next_from_alice(&pushlark).await, 2, "what was read before was known");
}

#[tokio::test]
async fn what_is_no_new_text_to_read_does_not_count() {
    let pushlark = with_bob().await;
    let alices = "from='alice@example.com/pc' to='bob@example.com' type='chat'";
    for content in [
        "",
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        "<body>Hi!</body><replace xmlns='urn:xmpp:message-correct:0' id='x'/>",
        "<body>Hi!</body><no-store xmlns='urn:xmpp:hints'/>",
        "<received xmlns='urn:xmpp:receipts' id='x'/>",
    ] {
        stanza(&pushlark, alices, content).await;
    }
    pushlark.settled().await;
    let before = pushlark.notifications("phone").await.len();
    assert_eq!(before, 1, "the defaults notify what is not to be stored");
    assert_eq!(next_from_alice(&pushlark).await, 1);
}

#[tokio::test]
async fn a_count_that_the_event_gives_wins_and_counts_nothing() {
    let pushlark = with_bob().await;
    let mut given = message(ALICE, "chat", "given");
    given["recipient"] = json!({"unread_count": 7});
    assert_eq!(badge(&pushlark, given).await, 7);
    assert_eq!(next_from_alice(&pushlark).await, 1);
}

#[tokio::test]
async fn counts_go_with_the_user() {
    let pushlark = with_bob().await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
    assert_eq!(next_from_alice(&pushlark).await, 2);
    pushlark.event(json!({"type": "user_removed", "jid": BOB})).await;
    pushlark.settled().await;
    pushlark.enable(BOB, "phone").await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
}

#[tokio::test]
async fn what_was_counted_before_the_user_was_removed_goes_whenever_it_was_counted() {
    let pushlark = with_bob().await;
    let at = |time: &str| {
        let mut message = message(ALICE, "chat", "planted Hi");
        message["at"] = time.into();
        message
    };
    let [before, removal, late_removal, after] = [20, 10, 8, 5].map(ago);
    assert_eq!(badge(&pushlark, at(&before)).await, 1);
    assert_eq!(badge(&pushlark, at(&before)).await, 2);
    pushlark.event(json!({"type": "user_removed", "jid": BOB, "at": removal})).await;
    pushlark.settled().await;
    assert_eq!(badge(&pushlark, at(&after)).await, 1);
    // What came after the removal is the new user's.
    pushlark.event(json!({"type": "user_removed", "jid": BOB, "at": late_removal})).await;
    pushlark.settled().await;
    assert_eq!(badge(&pushlark, at(&after)).await, 2);
}

#[tokio::test]
async fn a_message_that_notified_nobody_is_counted_once_too() {
    let pushlark = with_bob().await;
    let twice = json!({"type": "message", "id": "m1", "from": ALICE, "to": BOB, "chat": "chat", "body": "planted Hi",
        "recipient": {"online": true}});
    pushlark.event(twice.clone()).await;
    pushlark.settled().await;
    for _ in 0..40 {
        pushlark.message(BOB, "planted Hi").await;
    }
    pushlark.settled().await;
    pushlark.event(twice).await;
    pushlark.settled().await;
    assert_eq!(next_from_alice(&pushlark).await, 42);
}

#[tokio::test]
async fn without_the_setting_nothing_is_counted() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    assert_eq!(next_from_alice(&pushlark).await, 1);
    assert_eq!(next_from_alice(&pushlark).await, 1);
    pushlark.event(json!({"type": "read", "jid": BOB, "conversation": ALICE})).await;
}

#[tokio::test]
async fn a_nick_is_a_user_in_the_rooms_of_muc_light_hosts_alone() {
    let own = |room: &str| {
        json!({"type": "message", "from": format!("{room}/{BOB}"), "to": BOB, "chat": "groupchat", "body": "planted Hi",
            "recipient": {"online": true}})
    };
    let others = |room: &str| message(&format!("{room}/carol@example.com"), "groupchat", "planted Hi");
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
        assert_eq!(badge(&pushlark, others(light)).await, 1, "{light} vouches for its occupants");
        assert_eq!(badge(&pushlark, others(muc)).await, 1);
        // Anybody may take this nick there: nothing is read, and the message counts as anybody's.
        pushlark.event(own(muc)).await;
        pushlark.settled().await;
        assert_eq!(badge(&pushlark, others(muc)).await, 3, "{muc} does not vouch");
    }
}
