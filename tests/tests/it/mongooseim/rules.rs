//! The cases of `push_integration_SUITE` with rules (pubsub_less_with_rules), of which those with filtering use a whole
//! configuration of MongooseIM.

use serde_json::json;
use tests::{Event, Pushlark, logged};

use super::{
    ALICE, BOB, MUCLIGHT, PM, RES1, Sent, assert_silence, data, enable_both, message, post_stanza, presence, pushed,
    texts, unacknowledged,
};

/// The rules of the basic groups, which are those of the plugin `defaults`.
const BASIC: &str = r#"
    [[modules.mod_event_pusher.push.rules]]
      action = "push"
      content = "message"
      conditions = [
        {event = "msg", body = "non_empty", user_status = "offline"},
        {event = "msg", body = "non_empty", user_status = "online", client_state = "inactive"},
      ]
"#;

/// enhanced_integration_with_sm_and_filtering.
const FILTERING: &str = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/fixtures/mongooseim/mongooseim.toml");

/// content_build_failure.
const FAILURES: &str = r#"
    [[modules.mod_event_pusher.push.rules]]
      action = "push"
      content = "message"
      conditions = [{event = "msg", body = "absent"}]
    [[modules.mod_event_pusher.push.rules]]
      action = "push"
      content = "jingle"
      conditions = [{event = "msg", body = "non_empty"}]
"#;

/// type_condition.
const TYPE: &str = r#"
    [[modules.mod_event_pusher.push.rules]]
      action = "push"
      content = "message"
      conditions = [{event = "msg", type = "chat", user_status = "offline"}, {event = "unack_msg", type = "chat"}]
"#;

async fn stack(rules: &str) -> Pushlark {
    let settings = [("VIRTUAL_PUBSUB_HOSTS", "virtual.domain"), ("PLUGIN", "rules"), ("RULES", rules)];
    Pushlark::with_settings(settings).await
}

async fn client_state(pushlark: &Pushlark, state: &str) {
    pushlark.event(Event::presence(RES1, "online").with("client_state", state)).await;
}

fn chat(content: &str) -> String {
    format!("<message type='chat' from='alice@localhost/res1' to='{BOB}'>{content}</message>")
}

fn jingle(step: &str, hint: &str) -> String {
    let step = format!("<{step} xmlns='urn:xmpp:jingle-message:0' id='ca3cf894'/>");
    chat(&format!("{step}<{hint} xmlns='urn:xmpp:hints'/>"))
}

#[tokio::test]
async fn pm_and_muclight_messages_are_pushed() {
    let pushlark = stack(FILTERING).await;
    for (options, is_silent) in [(&[][..], false), (&[("silent", "true")], true)] {
        enable_both(&pushlark, RES1, options).await;
        for Sent { from, body, .. } in [PM, MUCLIGHT] {
            let event = Event::message(BOB, body).id(&format!("{body}-{is_silent}")).from(from);
            let kind = if from == PM.from { "chat" } else { "groupchat" };
            pushlark.event(event.with("chat", kind)).await;
            pushlark.settled().await;
        }
    }
    for service in ["apns", "fcm"] {
        let expected = [
            json!({"service": service, "alert": PM.alert()}),
            json!({"service": service, "alert": MUCLIGHT.alert()}),
            json!({"service": service, "data": PM.data()}),
            json!({"service": service, "data": MUCLIGHT.data()}),
        ];
        assert_eq!(pushed(&pushlark, service).await, expected);
    }
}

#[tokio::test]
async fn negative_priority_session_gets_push() {
    let pushlark = stack(BASIC).await;
    enable_both(&pushlark, RES1, &[]).await;
    post_stanza(&pushlark, &format!("<presence from='{RES1}'><priority>-10</priority></presence>")).await;
    message(&pushlark, PM.from, BOB, PM.body).await;
    for service in ["apns", "fcm"] {
        assert_eq!(pushed(&pushlark, service).await, [json!({"service": service, "alert": PM.alert()})]);
    }
}

#[tokio::test]
async fn default_active_session_gets_no_push() {
    let pushlark = stack(FILTERING).await;
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "online").await;
    message(&pushlark, PM.from, BOB, PM.body).await;
    assert_silence(&pushlark, "apns").await;
    assert_silence(&pushlark, "fcm").await;
}

#[tokio::test]
async fn inactive_session_gets_push() {
    let pushlark = stack(FILTERING).await;
    enable_both(&pushlark, RES1, &[]).await;
    client_state(&pushlark, "inactive").await;
    message(&pushlark, ALICE, BOB, "inactive").await;
    client_state(&pushlark, "active").await;
    message(&pushlark, ALICE, BOB, "active").await;
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["inactive"]);
    }
}

#[tokio::test]
async fn no_duplicates_default_plugin() {
    let pushlark = stack(BASIC).await;
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    presence(&pushlark, RES1, "online").await;
    unacknowledged(&pushlark, ALICE, RES1, "msg-1").await;
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["msg-1"]);
    }
}

#[tokio::test]
async fn sm_unack_messages_notified_default_plugin() {
    let pushlark = stack(BASIC).await;
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "online").await;
    for (from, body) in [(ALICE, "msg-0"), (ALICE, "msg-1"), (MUCLIGHT.from, "msg-2")] {
        message(&pushlark, from, BOB, body).await;
    }
    unacknowledged(&pushlark, ALICE, RES1, "msg-1").await;
    unacknowledged(&pushlark, MUCLIGHT.from, RES1, "msg-2").await;
    assert_silence(&pushlark, "apns").await;
    assert_silence(&pushlark, "fcm").await;
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    message(&pushlark, MUCLIGHT.from, BOB, "msg-2").await;
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["msg-1", "msg-2"]);
    }
}

// With rules, an unacknowledged message goes to all registrations, not to the one of the session.
#[tokio::test]
async fn immediate_notification() {
    let pushlark = stack(FILTERING).await;
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "online").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    assert_silence(&pushlark, "fcm").await;
    unacknowledged(&pushlark, ALICE, RES1, "msg-1").await;
    message(&pushlark, ALICE, BOB, "msg-2").await;
    unacknowledged(&pushlark, ALICE, RES1, "msg-2").await;
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["msg-1", "msg-2"]);
    }
    presence(&pushlark, RES1, "offline").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    message(&pushlark, ALICE, BOB, "msg-2").await;
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["msg-1", "msg-2"]);
    }
}

#[tokio::test]
async fn notification_after_reconnect_without_push_enable() {
    let pushlark = stack(FILTERING).await;
    let reconnected = "bob@localhost/res2";
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "offline").await;
    presence(&pushlark, reconnected, "online").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    unacknowledged(&pushlark, ALICE, reconnected, "msg-1").await;
    presence(&pushlark, reconnected, "offline").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["msg-1"]);
    }
}

// MongooseIM's double_notification_with_two_sessions_in_resume without the second notification of each device: Pushlark
// notifies each device once of a message.
#[tokio::test]
async fn no_double_notification_with_two_sessions_in_resume() {
    let pushlark = stack(FILTERING).await;
    let sessions = [RES1, "bob@localhost/res2"];
    enable_both(&pushlark, RES1, &[]).await;
    for session in sessions {
        presence(&pushlark, session, "online").await;
    }
    message(&pushlark, ALICE, BOB, "msg-1").await;
    for session in sessions {
        unacknowledged(&pushlark, ALICE, session, "msg-1").await;
    }
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["msg-1"]);
    }
}

#[tokio::test]
async fn hints_filtering() {
    let pushlark = stack(FILTERING).await;
    enable_both(&pushlark, RES1, &[]).await;
    for hint in ["no-copy", "no-store"] {
        post_stanza(&pushlark, &chat(&format!("<body>{hint}</body><{hint} xmlns='urn:xmpp:hints'/>"))).await;
    }
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["no-copy"]);
    }
}

#[tokio::test]
async fn bodiless_messages_are_pushed_with_rules() {
    let pushlark = stack(FILTERING).await;
    enable_both(&pushlark, RES1, &[("silent", "true")]).await;
    post_stanza(&pushlark, &jingle("propose", "store")).await;
    let call = json!({"type": "jmi", "jmi-sid": "ca3cf894", "jmi-from": "alice@localhost/res1"});
    let fcm = pushed(&pushlark, "fcm").await;
    assert_eq!(fcm.len(), 1);
    assert_eq!((&fcm[0]["data"], fcm[0].get("alert")), (&call, None));
    assert_eq!(pushed(&pushlark, "apns").await.len(), 1);
    // The same call without the hint, which no rule matches.
    let pushlark = stack(FILTERING).await;
    enable_both(&pushlark, RES1, &[("silent", "true")]).await;
    post_stanza(&pushlark, &jingle("propose", "no-copy")).await;
    assert_silence(&pushlark, "fcm").await;
    assert_silence(&pushlark, "apns").await;
}

#[tokio::test]
async fn bodiless_messages_are_not_pushed_by_default() {
    let pushlark = stack(BASIC).await;
    enable_both(&pushlark, RES1, &[]).await;
    post_stanza(&pushlark, &jingle("propose", "store")).await;
    assert_silence(&pushlark, "fcm").await;
    assert_silence(&pushlark, "apns").await;
    message(&pushlark, ALICE, BOB, "msg-1").await;
    assert_eq!(texts(&pushlark, "fcm").await, ["msg-1"]);
}

// The server calls for propose alone since 6.11. An empty body is none for the rule of calls, and one for no other rule.
#[tokio::test]
async fn other_bodiless_messages_are_not_pushed() {
    let pushlark = stack(FILTERING).await;
    enable_both(&pushlark, RES1, &[]).await;
    for content in [
        jingle("ringing", "store"),
        jingle("proceed", "store"),
        chat("<body/>"),
        chat("<active xmlns='http://jabber.org/protocol/chatstates'/><store xmlns='urn:xmpp:hints'/>"),
    ] {
        post_stanza(&pushlark, &content).await;
    }
    assert_silence(&pushlark, "fcm").await;
    assert_silence(&pushlark, "apns").await;
}

#[tokio::test]
async fn content_that_cannot_be_built_is_not_pushed_and_logged_once() {
    const NAME: &str = "mongooseim::rules::content_that_cannot_be_built_is_not_pushed_and_logged_once";
    let Some(lines) = logged(NAME) else {
        let pushlark = stack(FAILURES).await;
        enable_both(&pushlark, RES1, &[]).await;
        for content in [
            // missing_message_content_is_not_pushed
            chat("<store xmlns='urn:xmpp:hints'/>"),
            // missing_jingle_element_is_not_pushed
            chat("<body>canary no call</body>"),
            // invalid_jingle_element_is_not_pushed
            chat("<body>canary no id</body><propose xmlns='urn:xmpp:jingle-message:0'/>"),
        ] {
            post_stanza(&pushlark, &content).await;
        }
        assert_silence(&pushlark, "fcm").await;
        assert_silence(&pushlark, "apns").await;
        return;
    };
    let warnings: Vec<_> =
        lines.iter().filter(|line| line["message"] == "a rule cannot notify of this message").collect();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(
        warnings
            .iter()
            .all(|warning| warning["level"] == "WARN" && warning["rule"].as_str().unwrap().contains("rule "))
    );
}

#[tokio::test]
async fn only_chat_messages_are_pushed() {
    let pushlark = stack(TYPE).await;
    enable_both(&pushlark, RES1, &[]).await;
    message(&pushlark, PM.from, BOB, "chat").await;
    message(&pushlark, MUCLIGHT.from, BOB, "groupchat").await;
    assert_eq!(texts(&pushlark, "fcm").await, ["chat"]);
}

#[tokio::test]
async fn only_unacknowledged_chat_messages_are_pushed() {
    let pushlark = stack(TYPE).await;
    enable_both(&pushlark, RES1, &[]).await;
    presence(&pushlark, RES1, "online").await;
    for kind in ["chat", "groupchat", "normal", "error"] {
        let stanza = format!("<message type='{kind}'><body>{kind}</body></message>");
        pushlark.event(Event::stanza(RES1, &stanza).with("type", "unacknowledged").id(kind)).await;
        pushlark.settled().await;
    }
    for service in ["apns", "fcm"] {
        assert_eq!(texts(&pushlark, service).await, ["chat"]);
    }
}

#[tokio::test]
async fn the_count_of_the_inbox_is_pushed() {
    let pushlark = stack(FILTERING).await;
    enable_both(&pushlark, RES1, &[("silent", "true")]).await;
    let counted = Event::message(BOB, "two").from(ALICE).recipient(json!({"unread_count": 2}));
    pushlark.event(counted).await;
    assert_eq!(pushed(&pushlark, "fcm").await, [json!({"service": "fcm", "data": data("two", ALICE, 2)})]);
}
