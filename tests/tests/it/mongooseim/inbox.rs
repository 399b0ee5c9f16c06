//! Unread counts (`push_integration_SUITE`: pm_notifications_with_inbox, groupchat_notifications_with_inbox). The cases of
//! APNs and FCM are in one test.

use serde_json::{Value, json};
use tests::{Event, Pushlark};

use super::{ALICE, BOB, KATE, MUCLIGHT, PM, RES1, data, enable_both, message, post_stanza, presence, pushed, stack};

async fn counts(pushlark: &Pushlark, device: &str) -> Vec<Value> {
    pushed(pushlark, device).await.iter().map(|pushed| pushed["data"]["message-count"].clone()).collect()
}

async fn with_inbox(from: &str) -> Pushlark {
    let pushlark = stack("UNREAD_COUNTS", "on").await;
    enable_both(&pushlark, from, &[("silent", "true")]).await;
    presence(&pushlark, from, "offline").await;
    pushlark
}

#[tokio::test]
async fn inbox_msg_unread_count() {
    let pushlark = with_inbox(RES1).await;
    for (from, body) in [(ALICE, "one"), (KATE, "two"), (ALICE, "three"), (ALICE, "four"), (KATE, "five")] {
        message(&pushlark, &format!("{from}/res1"), BOB, body).await;
    }
    for service in ["apns", "fcm"] {
        let expected =
            [("one", ALICE, 1), ("two", KATE, 1), ("three", ALICE, 2), ("four", ALICE, 3), ("five", KATE, 2)]
                .map(|(body, from, count)| json!({"service": service, "data": data(body, from, count)}));
        assert_eq!(pushed(&pushlark, service).await, expected);
    }
}

// MongooseIM's case has only the displayed marker. The user's own message and a read event reset the count too.
#[tokio::test]
async fn inbox_msg_reset_unread_count() {
    let pushlark = with_inbox(RES1).await;
    message(&pushlark, PM.from, BOB, "first").await;
    message(&pushlark, PM.from, BOB, "second").await;
    presence(&pushlark, RES1, "online").await;
    post_stanza(
        &pushlark,
        "<message type='chat' from='bob@localhost/res1' to='alice@localhost' id='m'>\
         <displayed xmlns='urn:xmpp:chat-markers:0' id='second'/></message>",
    )
    .await;
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, PM.from, BOB, "third").await;
    message(&pushlark, PM.from, BOB, "fourth").await;
    pushlark.event(Event::read(BOB, ALICE)).await;
    message(&pushlark, PM.from, BOB, "fifth").await;
    message(&pushlark, PM.from, BOB, "sixth").await;
    message(&pushlark, RES1, ALICE, "an answer").await;
    message(&pushlark, PM.from, BOB, "seventh").await;
    for service in ["apns", "fcm"] {
        assert_eq!(counts(&pushlark, service).await, [1, 2, 1, 2, 1, 2, 1]);
    }
}

#[tokio::test]
async fn muclight_inbox_msg_unread_count() {
    let session = "kate@localhost/res1";
    let pushlark = with_inbox(session).await;
    message(&pushlark, MUCLIGHT.from, KATE, "First!").await;
    message(&pushlark, MUCLIGHT.from, KATE, "Second!").await;
    presence(&pushlark, session, "online").await;
    message(&pushlark, MUCLIGHT.from, KATE, "Third!").await;
    // The third message was not pushed, but it is unread.
    presence(&pushlark, session, "offline").await;
    message(&pushlark, MUCLIGHT.from, KATE, "Fourth!").await;
    for service in ["apns", "fcm"] {
        let expected = [("First!", 1), ("Second!", 2), ("Fourth!", 4)]
            .map(|(body, count)| json!({"service": service, "data": data(body, MUCLIGHT.sender, count)}));
        assert_eq!(pushed(&pushlark, service).await, expected);
    }
}

#[tokio::test]
async fn muclight_aff_change() {
    let pushlark = with_inbox("kate@localhost/res1").await;
    message(&pushlark, MUCLIGHT.from, KATE, "First!").await;
    post_stanza(
        &pushlark,
        "<message type='groupchat' from='room@muclight.localhost' to='kate@localhost' id='aff'>\
         <x xmlns='urn:xmpp:muclight:0#affiliations'><version>2</version>\
         <user affiliation='member'>bob@localhost</user></x><body/></message>",
    )
    .await;
    message(&pushlark, MUCLIGHT.from, KATE, "Second!").await;
    for service in ["apns", "fcm"] {
        let expected = [("First!", 1), ("Second!", 2)]
            .map(|(body, count)| json!({"service": service, "data": data(body, MUCLIGHT.sender, count)}));
        assert_eq!(pushed(&pushlark, service).await, expected);
    }
}
