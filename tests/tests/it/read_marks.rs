//! Read marks that name the last message that was read (`UNREAD_COUNTS`).

use aws_sdk_dynamodb::types::AttributeValue;
use pushlark_xmpp::BareJid;
use serde_json::json;
use tests::{ALICE, BOB, BOBS_PC, CallCounter, Event, Pushlark, ago, stanza};

use crate::unread_counts::{badge, with_bob};

const ROOM: &str = "room@muc.example.com";

/// A message of Alice to Bob, as a stanza with an `id` and further content.
fn message(id: &str, content: &str) -> Event {
    Event::stanza(BOB, &format!("<message type='chat' id='{id}'><body>canary {id}</body>{content}</message>"))
}

fn stanza_id(by: &str, id: &str) -> String {
    format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='{id}'/>")
}

/// The read state of a conversation, as an account publishes it (XEP-0490).
fn displayed(id: &str) -> String {
    format!("<displayed xmlns='urn:xmpp:mds:displayed:0'>{}</displayed>", stanza_id(BOB, id))
}

fn published(items: &[(&str, &str)]) -> String {
    let items: String = items.iter().map(|(jid, id)| format!("<item id='{jid}'>{}</item>", displayed(id))).collect();
    format!(
        "<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='urn:xmpp:mds:displayed:0'>{items}</items>\
         </event>"
    )
}

async fn post(pushlark: &Pushlark, attributes: &str, content: &str) {
    pushlark.stanza(format!("<message {attributes}>{content}</message>")).await;
}

/// Bob's client tells that he has read a conversation up to a message.
async fn mark(pushlark: &Pushlark, to: &str, kind: &str, id: &str) {
    post(pushlark, &format!("from='{BOBS_PC}' to='{to}' type='{kind}'"), &stanza::displayed(id)).await;
}

async fn unread(pushlark: &Pushlark, conversation: &str) -> u32 {
    pushlark.store().unread(&BareJid::new(BOB).unwrap(), &BareJid::new(conversation).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_displayed_marker_reads_up_to_the_message_that_it_names() {
    let pushlark = with_bob().await;
    for (number, id) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(badge(&pushlark, message(id, "")).await, number as u64 + 1);
    }
    mark(&pushlark, ALICE, "chat", "b").await;
    assert_eq!(unread(&pushlark, ALICE).await, 1);
    assert_eq!(badge(&pushlark, message("d", "")).await, 2);
    // An older marker that arrives later marks nothing as unread.
    mark(&pushlark, ALICE, "chat", "a").await;
    assert_eq!(unread(&pushlark, ALICE).await, 2);
    mark(&pushlark, ALICE, "chat", "d").await;
    assert_eq!(unread(&pushlark, ALICE).await, 0);
    assert_eq!(badge(&pushlark, message("e", "")).await, 1);
    for id in ["c", "d", "a"] {
        mark(&pushlark, ALICE, "chat", id).await;
        assert_eq!(unread(&pushlark, ALICE).await, 1, "{id} was read before");
    }
    mark(&pushlark, ALICE, "chat", "unknown").await;
    assert_eq!(unread(&pushlark, ALICE).await, 0, "an unknown message means all");
}

#[tokio::test]
async fn a_read_mark_names_a_message_by_any_of_its_ids() {
    let pushlark = with_bob().await;
    let read = |id: &str| Event::read(BOB, ALICE).with("message", id);
    for kind in ["event", "attribute", "archive", "room"] {
        let id = |of: &str| format!("{kind}-{of}");
        let content = stanza_id(ROOM, &id("room")) + &stanza_id(BOB, &id("archive"));
        badge(&pushlark, message(&id("attribute"), &content).id(&id("event"))).await;
        badge(&pushlark, message("later", &stanza_id(BOB, &id("later")))).await;
        assert_eq!(unread(&pushlark, ALICE).await, 2);
        pushlark.event(read(&id(kind))).await;
        assert_eq!(unread(&pushlark, ALICE).await, 1, "{kind}");
        pushlark.event(read(&id("later"))).await;
        assert_eq!(unread(&pushlark, ALICE).await, 0, "{kind}");
    }
    let empty = pushlark.json("/events", read("")).await;
    assert!(empty.body.contains("message is empty"), "{}", empty.body);
}

#[tokio::test]
async fn the_id_attribute_names_a_message_and_does_not_suppress_another() {
    let pushlark = with_bob().await;
    for number in 1..=3 {
        assert_eq!(badge(&pushlark, message("same", "")).await, number);
    }
    // The last message with this id is meant.
    mark(&pushlark, ALICE, "chat", "same").await;
    assert_eq!(unread(&pushlark, ALICE).await, 0);
    assert_eq!(badge(&pushlark, message("same", "")).await, 1);
}

#[tokio::test]
async fn a_marker_in_a_room_names_the_stanza_id_of_the_room() {
    let pushlark = with_bob().await;
    for id in ["r1", "r2", "r3"] {
        let body = format!("<body>canary {id}</body>{}", stanza_id(ROOM, id));
        let group = format!("<message type='groupchat' id='client-{id}'>{body}</message>");
        badge(&pushlark, Event::stanza(BOB, &group).from(&format!("{ROOM}/alice"))).await;
    }
    mark(&pushlark, ROOM, "groupchat", "r2").await;
    assert_eq!(unread(&pushlark, ROOM).await, 1);
}

#[tokio::test]
async fn a_marker_to_an_occupant_reads_the_private_messages_of_the_room() {
    let pushlark = with_bob().await;
    let private = "<x xmlns='http://jabber.org/protocol/muc#user'/>";
    for room in [ROOM, "room@talk.example.com", "room@conference.example.org"] {
        let occupant = format!("{room}/alice");
        for id in ["p1", "p2", "p3"] {
            badge(&pushlark, message(&format!("{room} {id}"), private).from(&occupant)).await;
        }
        let to_occupant = format!("from='{BOBS_PC}' to='{occupant}' type='chat'");
        // A text to one occupant does not show that Bob has read the room.
        post(&pushlark, &to_occupant, &format!("<body>Hello</body>{private}")).await;
        assert_eq!(unread(&pushlark, room).await, 3, "{room}");
        let marker = stanza::displayed(&format!("{room} p2"));
        post(&pushlark, &to_occupant, &(marker + private)).await;
        assert_eq!(unread(&pushlark, room).await, 1, "{room}");
    }
}

#[tokio::test]
async fn a_message_of_a_room_to_its_subscriber_is_named_by_the_ids_of_both_stanzas() {
    let pushlark = with_bob().await;
    let read = |id: String| Event::read(BOB, ROOM).with("message", id);
    for kind in ["attribute", "room", "archive"] {
        for of in ["first", "second"] {
            let id = |kind: &str| format!("{kind}-{of}-{}", kind.len());
            let inner = format!(
                "<message xmlns='jabber:client' type='groupchat' id='{}' from='{ROOM}/alice'><body>canary Hi</body>{}\
                 </message>",
                id("attribute"),
                stanza_id(ROOM, &id("room"))
            );
            let wrapped = format!(
                "<message from='{ROOM}' to='{BOB}'><event xmlns='http://jabber.org/protocol/pubsub#event'>\
                 <items node='urn:xmpp:mucsub:nodes:messages'><item id='i1'>{inner}</item></items></event>{}</message>",
                stanza_id(BOB, &id("archive"))
            );
            badge(&pushlark, Event::stanza(BOB, &wrapped).from(ROOM).id(&format!("{kind} {of}"))).await;
        }
        assert_eq!(unread(&pushlark, ROOM).await, 2, "{kind}");
        pushlark.event(read(format!("{kind}-first-{}", kind.len()))).await;
        assert_eq!(unread(&pushlark, ROOM).await, 1, "{kind}");
        pushlark.event(Event::read(BOB, ROOM)).await;
    }
}

#[tokio::test]
async fn the_carbon_of_what_the_user_sends_is_a_read_mark() {
    let pushlark = with_bob().await;
    let carbon = async |from: &str, direction: &str, sender: &str, content: &str| {
        let copied =
            format!("<message xmlns='jabber:client' type='chat' from='{sender}' to='{ALICE}'>{content}</message>");
        let forwarded = format!("<forwarded xmlns='urn:xmpp:forward:0'>{copied}</forwarded>");
        let copy = format!("<{direction} xmlns='urn:xmpp:carbons:2'>{forwarded}</{direction}>");
        post(&pushlark, &format!("from='{from}' to='bob@example.com/phone' type='chat'"), &copy).await;
        unread(&pushlark, ALICE).await
    };
    for id in ["a", "b", "c"] {
        badge(&pushlark, message(id, "")).await;
    }
    let (marker, text) = (stanza::displayed("b"), "<body>canary Hello</body>");
    for content in [marker.as_str(), text] {
        assert_eq!(carbon("mallory@example.com", "sent", BOBS_PC, content).await, 3, "of another account");
        assert_eq!(carbon("example.com", "sent", BOBS_PC, content).await, 3, "of a domain");
        assert_eq!(carbon(BOBS_PC, "sent", BOBS_PC, content).await, 3, "of a session");
        assert_eq!(carbon(BOB, "received", "alice@example.com/x", content).await, 3, "of a received message");
        assert_eq!(carbon(BOB, "sent", "alice@example.com/x", content).await, 3, "of another user's message");
    }
    let typing = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";
    assert_eq!(carbon(BOB, "sent", BOBS_PC, typing).await, 3, "without a text");
    assert_eq!(carbon(BOB, "sent", BOBS_PC, &marker).await, 1, "up to the message that the marker names");
    assert_eq!(badge(&pushlark, message("d", "")).await, 2);
    assert_eq!(carbon(BOB, "sent", BOBS_PC, text).await, 0);
    pushlark.settled().await;
    assert_eq!(pushlark.notifications("phone").await.len(), 4, "a carbon notifies nobody");
}

#[tokio::test]
async fn the_read_state_that_an_account_publishes_is_a_read_mark() {
    let pushlark = with_bob().await;
    let kate = "kate@example.com";
    for number in 1..=2 {
        badge(&pushlark, message(&format!("a{number}"), &stanza_id(BOB, &format!("sa{number}")))).await;
        let from_kate =
            message(&format!("k{number}"), &stanza_id(BOB, &format!("sk{number}"))).from("kate@example.com/x");
        badge(&pushlark, from_kate).await;
    }
    let items = published(&[(ALICE, "sa1"), (kate, "sk2")]);
    for attributes in [
        // Only the account itself is believed.
        "from='kate@example.com' to='bob@example.com'",
        "from='bob@example.com/pc' to='bob@example.com'",
        "from='bob@example.com' to='alice@example.com'",
        "from='example.com' to='bob@example.com'",
        "from='bob@example.com' to='bob@example.com' type='error'",
    ] {
        post(&pushlark, attributes, &items).await;
        assert_eq!((unread(&pushlark, ALICE).await, unread(&pushlark, kate).await), (2, 2), "{attributes}");
    }
    post(&pushlark, "from='bob@example.com' to='bob@example.com/pc' type='headline'", &items).await;
    assert_eq!((unread(&pushlark, ALICE).await, unread(&pushlark, kate).await), (1, 0));
    pushlark.settled().await;
    assert_eq!(pushlark.notifications("phone").await.len(), 4, "the event notifies nobody");
}

#[tokio::test]
async fn the_read_state_in_an_outgoing_message_is_a_read_mark() {
    let pushlark = with_bob().await;
    for number in 1..=4 {
        badge(&pushlark, message(&format!("a{number}"), &stanza_id(BOB, &format!("s{number}")))).await;
    }
    let to_alice = format!("from='{BOBS_PC}' to='{ALICE}' type='chat'");
    post(&pushlark, &to_alice, &displayed("s1")).await;
    assert_eq!(unread(&pushlark, ALICE).await, 3, "without a marker");
    post(&pushlark, &to_alice, &(stanza::displayed("a2") + &displayed("s2"))).await;
    assert_eq!(unread(&pushlark, ALICE).await, 2, "beside a marker");
    post(&pushlark, &to_alice, &format!("<body>Hello</body>{}", displayed("s3"))).await;
    assert_eq!(unread(&pushlark, ALICE).await, 0, "a text reads all");
}

#[tokio::test]
async fn the_time_of_a_named_read_mark_has_no_influence() {
    let pushlark = with_bob().await;
    for id in ["a", "b", "c"] {
        badge(&pushlark, message(id, "")).await;
    }
    let read = |id: &str| Event::read(BOB, ALICE).with("message", id);
    pushlark.event(read("a")).await;
    pushlark.event(read("b").at(ago(60))).await;
    assert_eq!(unread(&pushlark, ALICE).await, 1, "it reads further");
    // A message that was sent before the mark, and is counted after it, is unread.
    assert_eq!(badge(&pushlark, message("d", "").at(ago(1))).await, 2);
}

#[tokio::test]
async fn an_unnamed_read_mark_of_the_past_leaves_later_messages_unread() {
    let pushlark = with_bob().await;
    badge(&pushlark, message("a", "").at(ago(60))).await;
    badge(&pushlark, message("b", "")).await;
    pushlark.event(Event::read(BOB, ALICE).at(ago(30))).await;
    assert_eq!(unread(&pushlark, ALICE).await, 1);
}

#[tokio::test]
async fn a_message_that_is_told_again_after_it_was_read_is_counted_once() {
    let pushlark = with_bob().await;
    let twice = message("a", &stanza_id(BOB, "s1"));
    badge(&pushlark, &twice).await;
    mark(&pushlark, ALICE, "chat", "a").await;
    // The archive delivers it once more at the next login.
    pushlark.event(&twice).await;
    pushlark.settled().await;
    assert_eq!(unread(&pushlark, ALICE).await, 0);
    assert_eq!(badge(&pushlark, message("b", "")).await, 1);
    pushlark.event(&twice).await;
    pushlark.settled().await;
    assert_eq!(unread(&pushlark, ALICE).await, 1);
    assert_eq!(pushlark.notifications("phone").await.len(), 2);
}

#[tokio::test]
async fn a_counter_whose_deletion_fails_counts_on() {
    let (pushlark, counter) = CallCounter::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    badge(&pushlark, message("a", "")).await;
    counter.refuse_next("DeleteItem", "AccessDeniedException", json!({}));
    mark(&pushlark, ALICE, "chat", "a").await;
    counter.assert_all_failures_occurred();
    assert_eq!(unread(&pushlark, ALICE).await, 0);
    assert_eq!(badge(&pushlark, message("b", "")).await, 1);
    mark(&pushlark, ALICE, "chat", "a").await;
    assert_eq!(unread(&pushlark, ALICE).await, 1);
    mark(&pushlark, ALICE, "chat", "b").await;
    assert_eq!(badge(&pushlark, message("c", "")).await, 1);
}

#[tokio::test]
async fn a_counter_stays_below_a_kilobyte() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    let user = format!("{}@example.com", "u".repeat(60));
    for node in ["phone", "tablet", "watch"] {
        pushlark.enable(&user, node).await;
    }
    let alice = BareJid::new("alice@example.com").unwrap();
    for number in 0..60 {
        let ids: String = (0..6).map(|by| stanza_id(&format!("by{by}"), &format!("{number}-{by}"))).collect();
        let body = format!("<message type='chat' id='{number}'><body>x</body>{ids}</message>");
        pushlark.event(Event::stanza(&user, &body)).await;
        pushlark.settled().await;
        let user = BareJid::new(&user).unwrap();
        assert_eq!(pushlark.store().unread(&user, &alice).await.unwrap(), number + 1);
        let items = pushlark.stack.dynamodb.scan().table_name("pushlark").send().await.unwrap();
        let items = items.items().iter().filter(|item| item["sk"].as_s().unwrap().starts_with("unread/"));
        for item in items {
            let value = |value: &AttributeValue| match value {
                AttributeValue::S(text) => text.len(),
                AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
                AttributeValue::B(bytes) => bytes.as_ref().len(),
                AttributeValue::Bool(_) => 1,
                _ => unreachable!("another type"),
            };
            let size: usize = item.iter().map(|(name, attribute)| name.len() + value(attribute)).sum();
            assert!(size <= 1_024, "{size} bytes after {number}");
        }
    }
}
