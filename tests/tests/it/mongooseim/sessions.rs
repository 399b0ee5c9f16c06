//! Sessions and plugins (`push_integration_SUITE`: integration_with_sm_and_offline_storage, enhanced_integration_with_sm and
//! its variant with filtering).

use serde_json::json;

use super::{
    ALICE, BOB, RES1, Sent, assert_silence, defaults, enable, enable_both, message, post_stanza, presence, pushed,
    stack, texts, unacknowledged,
};

#[tokio::test]
async fn no_duplicates_default_plugin() {
    let pushlark = defaults().await;
    let session = "alice@localhost/res1";
    enable(&pushlark, session, "alices", &[("service", "apns")]).await;
    presence(&pushlark, session, "offline").await;
    message(&pushlark, RES1, ALICE, "msg-1").await;
    presence(&pushlark, session, "online").await;
    unacknowledged(&pushlark, RES1, session, "msg-1").await;
    presence(&pushlark, session, "offline").await;
    message(&pushlark, RES1, ALICE, "msg-1").await;
    assert_eq!(texts(&pushlark, "alices").await, ["msg-1"]);
}

#[tokio::test]
async fn sm_unack_messages_notified_default_plugin() {
    let pushlark = defaults().await;
    let session = "alice@localhost/res1";
    let room = "room@muclight.localhost/bob@localhost";
    enable(&pushlark, session, "alices", &[]).await;
    presence(&pushlark, session, "online").await;
    for (from, body) in [(RES1, "msg-0"), (RES1, "msg-1"), (room, "msg-2")] {
        message(&pushlark, from, ALICE, body).await;
    }
    unacknowledged(&pushlark, RES1, session, "msg-1").await;
    unacknowledged(&pushlark, room, session, "msg-2").await;
    assert_silence(&pushlark, "alices").await;
    presence(&pushlark, session, "offline").await;
    message(&pushlark, RES1, ALICE, "msg-1").await;
    message(&pushlark, room, ALICE, "msg-2").await;
    let expected = [("msg-1", BOB), ("msg-2", room)].map(|(body, sender)| Sent { from: "", body, sender }.alert());
    let expected = expected.map(|alert| json!({"service": "fcm", "alert": alert}));
    assert_eq!(pushed(&pushlark, "alices").await, expected);
}

#[tokio::test]
async fn immediate_notification() {
    for plugin in ["enhanced", "hints"] {
        let pushlark = stack("PLUGIN", plugin).await;
        let session = "alice@localhost/res1";
        enable_both(&pushlark, session, &[]).await;
        presence(&pushlark, session, "online").await;
        message(&pushlark, RES1, ALICE, "msg-0").await;
        message(&pushlark, RES1, ALICE, "msg-1").await;
        assert_silence(&pushlark, "fcm").await;
        unacknowledged(&pushlark, RES1, session, "msg-1").await;
        assert_eq!(texts(&pushlark, "fcm").await, ["msg-1"]);
        message(&pushlark, RES1, ALICE, "msg-2").await;
        unacknowledged(&pushlark, RES1, session, "msg-2").await;
        assert_eq!(texts(&pushlark, "fcm").await, ["msg-1", "msg-2"]);
        assert_silence(&pushlark, "apns").await;
        presence(&pushlark, session, "offline").await;
        message(&pushlark, RES1, ALICE, "msg-1").await;
        message(&pushlark, RES1, ALICE, "msg-2").await;
        assert_eq!(texts(&pushlark, "fcm").await, ["msg-1", "msg-2"]);
        assert_eq!(texts(&pushlark, "apns").await, ["msg-1", "msg-2"]);
    }
}

// MongooseIM's double_notification_with_two_sessions_in_resume without the second notification of each device: Pushlark
// notifies each device once of a message, however often the message is reported.
#[tokio::test]
async fn no_double_notification_with_two_sessions_in_resume() {
    for plugin in ["enhanced", "hints"] {
        let pushlark = stack("PLUGIN", plugin).await;
        let sessions = [("alice@localhost/res1", "device1"), ("alice@localhost/res2", "device2")];
        for (session, device) in sessions {
            enable(&pushlark, session, device, &[("service", "apns")]).await;
            presence(&pushlark, session, "online").await;
        }
        message(&pushlark, RES1, ALICE, "msg-1").await;
        for (session, device) in sessions {
            assert_silence(&pushlark, device).await;
            unacknowledged(&pushlark, RES1, session, "msg-1").await;
            assert_eq!(texts(&pushlark, device).await, ["msg-1"]);
        }
        presence(&pushlark, sessions[0].0, "offline").await;
        message(&pushlark, RES1, ALICE, "msg-1").await;
        unacknowledged(&pushlark, RES1, sessions[1].0, "msg-1").await;
        presence(&pushlark, sessions[1].0, "offline").await;
        message(&pushlark, RES1, ALICE, "msg-1").await;
        for (_, device) in sessions {
            assert_eq!(texts(&pushlark, device).await, ["msg-1"]);
        }
    }
}

#[tokio::test]
async fn hints_filtering() {
    for (plugin, expected) in
        [("hints", &["copy"] as &[_]), ("enhanced", &["copy", "store"]), ("defaults", &["copy", "store"])]
    {
        let pushlark = stack("PLUGIN", plugin).await;
        enable_both(&pushlark, RES1, &[]).await;
        presence(&pushlark, RES1, "offline").await;
        for hint in ["copy", "store"] {
            let message = format!(
                "<message type='chat' from='alice@localhost/res1' to='{BOB}'><body>{hint}</body>\
                 <no-{hint} xmlns='urn:xmpp:hints'/></message>"
            );
            post_stanza(&pushlark, &message).await;
        }
        assert_eq!(texts(&pushlark, "apns").await, expected, "{plugin}");
        assert_eq!(texts(&pushlark, "fcm").await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn bodiless_messages() {
    for plugin in ["hints", "enhanced", "defaults"] {
        let pushlark = stack("PLUGIN", plugin).await;
        enable(&pushlark, RES1, "apns", &[("service", "apns"), ("topic", "chat.voip"), ("silent", "true")]).await;
        enable(&pushlark, RES1, "fcm", &[("silent", "true")]).await;
        enable(&pushlark, RES1, "loud", &[]).await;
        presence(&pushlark, RES1, "offline").await;
        // MongooseIM pushes the call with the hint `store` alone, by a rule. With Pushlark, no hint matters for a call.
        for hint in ["store", "no-copy"] {
            let message = format!(
                "<message type='chat' from='alice@localhost/res1' to='{BOB}'>\
                 <propose xmlns='urn:xmpp:jingle-message:0' id='{hint}'/><{hint} xmlns='urn:xmpp:hints'/></message>"
            );
            post_stanza(&pushlark, &message).await;
        }
        let call = |sid: &str| json!({"type": "jmi", "jmi-sid": sid, "jmi-from": "alice@localhost/res1"});
        for device in ["fcm", "loud"] {
            let calls = ["store", "no-copy"].map(|sid| json!({"service": "fcm", "data": call(sid)}));
            assert_eq!(pushed(&pushlark, device).await, calls, "{plugin}");
        }
        let calls = ["store", "no-copy"].map(|sid| json!({"service": "apns", "topic": "chat.voip", "data": call(sid)}));
        assert_eq!(pushed(&pushlark, "apns").await, calls, "{plugin}");
    }
}
