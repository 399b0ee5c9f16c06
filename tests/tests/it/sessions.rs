//! Sessions: who is online, and which registration a session is tied to.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Pushlark, ago, eventually};
use tokio::time::Instant;

const BOB: &str = "bob@example.com";
const PHONE: &str = "bob@example.com/phone";

fn presence(jid: &str, status: &str) -> Value {
    json!({"type": "presence", "jid": jid, "status": status})
}

fn unacknowledged(session: &str, body: &str) -> Value {
    json!({"type": "unacknowledged", "from": "alice@example.com/pc", "to": session, "chat": "chat", "body": body})
}

/// Bob's phone is online and has enabled a device; his tablet has enabled another one before.
async fn with_a_tied_phone() -> Pushlark {
    let pushlark = Pushlark::with_settings([("PLUGIN", "enhanced")]).await;
    pushlark.enable("bob@example.com/tablet", "tablet").await;
    pushlark.event(presence(PHONE, "online")).await;
    pushlark.enable(PHONE, "phone").await;
    pushlark
}

/// Checks that an unacknowledged message of the phone's session notifies nobody, by one of the tablet's that does.
async fn assert_untied(pushlark: &Pushlark) {
    let before = pushlark.alerts("phone").await.len();
    pushlark.event(unacknowledged(PHONE, "to nobody")).await;
    pushlark.event(unacknowledged("bob@example.com/tablet", "to the tablet")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await.len(), before);
    assert_eq!(pushlark.alerts("tablet").await, ["to the tablet"]);
}

#[tokio::test]
async fn an_unacknowledged_message_notifies_the_service_of_its_session_alone() {
    let pushlark = with_a_tied_phone().await;
    pushlark.event(unacknowledged(PHONE, "lost")).await;
    pushlark.notified("phone", 1).await;
    pushlark.event(unacknowledged("bob@example.com/pc", "nothing was enabled here")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["lost"]);
    assert!(pushlark.alerts("tablet").await.is_empty());
    pushlark.enable(PHONE, "watch").await;
    pushlark.event(unacknowledged(PHONE, "to what was enabled last")).await;
    pushlark.notified("watch", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["lost"]);
}

#[tokio::test]
async fn disabling_the_node_unties_the_session() {
    let pushlark = with_a_tied_phone().await;
    let disable = json!({"user": BOB, "jid": "push.example.com", "node": "phone"});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_untied(&pushlark).await;
    // Nor is it tied to the same node when another session enables that.
    pushlark.enable("bob@example.com/pc", "phone").await;
    pushlark.event(unacknowledged(PHONE, "still to nobody")).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
}

#[tokio::test]
async fn going_offline_unties_the_session_for_good() {
    let pushlark = with_a_tied_phone().await;
    pushlark.event(presence(PHONE, "offline")).await;
    assert_untied(&pushlark).await;
    pushlark.event(presence(PHONE, "online")).await;
    pushlark.event(unacknowledged(PHONE, "a session of the same name")).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    pushlark.enable(PHONE, "phone").await;
    pushlark.event(unacknowledged(PHONE, "tied again")).await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn what_happened_before_the_session_went_offline_still_notifies() {
    let pushlark = with_a_tied_phone().await;
    pushlark
        .event(json!([unacknowledged(PHONE, "before"), presence(PHONE, "offline"), unacknowledged(PHONE, "after")]))
        .await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["before"]);
}

#[tokio::test]
async fn an_offline_that_arrives_late_unties_what_was_tied_before_it() {
    let pushlark = with_a_tied_phone().await;
    let mut offline = presence(PHONE, "offline");
    offline["at"] = ago(0).into();
    pushlark.event(presence(PHONE, "online")).await;
    pushlark.event(offline).await;
    assert_untied(&pushlark).await;
    // It is older than the "online", which holds.
    pushlark.message(BOB, "online").await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("tablet").await.len(), 1);
}

#[tokio::test]
async fn an_offline_of_the_session_before_leaves_the_new_tie() {
    let pushlark = with_a_tied_phone().await;
    let mut offline = presence(PHONE, "offline");
    offline["at"] = ago(30).into();
    pushlark.event(offline).await;
    pushlark.event(unacknowledged(PHONE, "lost")).await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn a_gone_device_and_a_removed_user_untie_the_session() {
    let pushlark = with_a_tied_phone().await;
    pushlark.device_answers("phone", json!({"status": 410})).await;
    pushlark.event(unacknowledged(PHONE, "gone")).await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    pushlark.enable(BOB, "phone").await;
    assert_untied(&pushlark).await;

    let pushlark = with_a_tied_phone().await;
    pushlark.event(json!({"type": "user_removed", "jid": BOB})).await;
    pushlark.settled().await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(unacknowledged(PHONE, "removed")).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
}

#[tokio::test]
async fn a_session_of_which_nothing_is_heard_is_forgotten_in_time() {
    let pushlark = Pushlark::with_settings([("SESSION_LIFETIME", "2")]).await;
    pushlark.enable(BOB, "phone").await;
    let message_notifies = async || {
        let before = pushlark.alerts("phone").await.len();
        pushlark.message(BOB, "planted Hi").await;
        pushlark.settled().await;
        pushlark.alerts("phone").await.len() > before
    };
    eventually("a message that comes while the session is known", async || {
        let known = Instant::now();
        pushlark.event(presence(PHONE, "online")).await;
        let notified = message_notifies().await;
        assert!(!notified || known.elapsed() >= Duration::from_secs(1), "forgotten at once");
        (!notified).then_some(())
    })
    .await;
    eventually("a session that is forgotten", async || message_notifies().await.then_some(())).await;
}

#[tokio::test]
async fn a_message_and_its_twin_at_the_same_time_notify_each_service_once() {
    let pushlark = with_a_tied_phone().await;
    let id = |number: usize| format!("m{number}");
    let twins = (0..40).map(|number| {
        let mut message = unacknowledged(PHONE, &number.to_string());
        message["id"] = id(number / 2).into();
        if number % 2 == 0 {
            message["type"] = "message".into();
            message["to"] = BOB.into();
            message["recipient"] = json!({"online": false});
        }
        pushlark.request("/events", "application/json", message.to_string())
    });
    let posted =
        futures_util::future::join_all(twins.map(|request| async { request.send().await.unwrap().status() })).await;
    assert!(posted.iter().all(|status| *status == 202));
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await.len(), 20);
    // What only the message tells of goes to the tablet too, whichever of the twins came first.
    assert_eq!(pushlark.alerts("tablet").await.len(), 20);
}
