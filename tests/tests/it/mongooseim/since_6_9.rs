//! The cases that MongooseIM 6.9 to 6.11 added (`push_integration_SUITE`), with its plugins; [`super::rules`] has
//! those with rules.

use serde_json::json;
use tests::{Event, Pushlark};

use super::{
    ALICE, BOB, PM, RES1, assert_silence, defaults, enable_both, message, post_stanza, presence, pushed, stack, texts,
    unacknowledged,
};

/// Posts the presence of Bob's session, with the state of its client (XEP-0352).
async fn client_state(pushlark: &Pushlark, state: &str) {
    pushlark.event(Event::presence(RES1, "online").with("client_state", state)).await;
}

#[tokio::test]
async fn negative_priority_session_gets_push() {
    let pushlark = defaults().await;
    enable_both(&pushlark, RES1, &[]).await;
    post_stanza(&pushlark, &format!("<presence from='{RES1}'><priority>-10</priority></presence>")).await;
    message(&pushlark, PM.from, BOB, PM.body).await;
    for service in ["apns", "fcm"] {
        assert_eq!(pushed(&pushlark, service).await, [json!({"service": service, "alert": PM.alert()})]);
    }
}

#[tokio::test]
async fn default_active_session_gets_no_push() {
    let pushlark = defaults().await;
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "online").await;
    message(&pushlark, PM.from, BOB, PM.body).await;
    assert_silence(&pushlark, "apns").await;
    assert_silence(&pushlark, "fcm").await;
}

// The server buffers the message or not (inactive_session_gets_push_with_buffer): the notification is the same.
#[tokio::test]
async fn inactive_session_gets_push() {
    for plugin in ["defaults", "enhanced", "hints"] {
        let pushlark = stack("PLUGIN", plugin).await;
        enable_both(&pushlark, RES1, &[]).await;
        client_state(&pushlark, "inactive").await;
        message(&pushlark, ALICE, BOB, "inactive").await;
        client_state(&pushlark, "active").await;
        message(&pushlark, ALICE, BOB, "active").await;
        for service in ["apns", "fcm"] {
            assert_eq!(texts(&pushlark, service).await, ["inactive"], "{plugin}");
        }
    }
}

#[tokio::test]
async fn notification_after_reconnect_without_push_enable() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    let reconnected = "bob@localhost/res2";
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "offline").await;
    presence(&pushlark, reconnected, "online").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    unacknowledged(&pushlark, ALICE, reconnected, "msg-1").await;
    assert_silence(&pushlark, "apns").await;
    presence(&pushlark, reconnected, "offline").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["msg-1"]);
    }
}

// The part of only_unacknowledged_chat_messages_are_pushed that needs no rules.
#[tokio::test]
async fn unacknowledged_errors_are_not_pushed() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "online").await;
    for kind in ["chat", "groupchat", "normal", "headline", "error"] {
        let stanza = format!("<message type='{kind}'><body>{kind}</body></message>");
        let event = Event::stanza(RES1, &stanza).with("type", "unacknowledged").id(kind);
        pushlark.event(event).await;
        pushlark.settled().await;
    }
    // The session is tied to the registration that it enabled last.
    assert_eq!(texts(&pushlark, "fcm").await, ["chat", "groupchat", "normal"]);
    assert_silence(&pushlark, "apns").await;
}

// MongooseIM pushes no message without a body by default. Pushlark rings for a call, and for nothing else.
#[tokio::test]
async fn bodiless_messages_are_not_pushed_by_default() {
    let pushlark = defaults().await;
    enable_both(&pushlark, RES1, &[]).await;
    let jingle = |step: &str| format!("<{step} xmlns='urn:xmpp:jingle-message:0' id='ca3cf894'/>");
    for payload in [
        "<active xmlns='http://jabber.org/protocol/chatstates'/>".to_owned(),
        "<received xmlns='urn:xmpp:receipts' id='m1'/>".to_owned(),
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>".to_owned(),
        "<body/>".to_owned(),
        jingle("ringing"),
        jingle("proceed"),
        jingle("accept"),
        jingle("reject"),
    ] {
        let hint = "<store xmlns='urn:xmpp:hints'/>";
        let message = format!("<message type='chat' from='alice@localhost/res1' to='{BOB}'>{payload}{hint}</message>");
        post_stanza(&pushlark, &message).await;
    }
    assert_silence(&pushlark, "apns").await;
    assert_silence(&pushlark, "fcm").await;
}
