//! Sessions: who is online, and which registration a session is tied to.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, stream};
use pushlark_store::{Availability, MAX_SESSIONS};
use pushlark_xmpp::{BareJid, Jid};
use serde_json::{Value, json};
use tests::{Meter, Pushlark, ago, eventually};
use time::OffsetDateTime;
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

#[tokio::test]
async fn a_replaced_registration_leaves_no_tie_to_a_later_one_of_its_name() {
    let pushlark = Pushlark::with_settings([("PLUGIN", "enhanced"), ("MAX_NODES", "1")]).await;
    pushlark.enable(PHONE, "phone").await;
    pushlark.enable("bob@example.com/tablet", "tablet").await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(unacknowledged(PHONE, "to nobody")).await;
    pushlark.enable(PHONE, "phone").await;
    pushlark.enable("bob@example.com/pc", "phone").await;
    // Two sessions have enabled this one.
    pushlark.event(unacknowledged(PHONE, "to the phone")).await;
    pushlark.event(unacknowledged("bob@example.com/pc", "to the phone, too")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await.iter().collect::<BTreeSet<_>>().len(), 2);
    assert!(!pushlark.alerts("phone").await.contains(&"to nobody".to_owned()));
}

/// Tells of sessions of Bob's, of each that it is online or went offline so many seconds ago.
async fn tell(pushlark: &Pushlark, sessions: impl IntoIterator<Item = (String, &str, i64)>) {
    let event = |(resource, status, seconds): (String, &str, i64)| {
        let mut event = presence(&format!("{BOB}/{resource}"), status);
        event["at"] = ago(seconds).into();
        event
    };
    let events: Vec<_> = sessions.into_iter().map(event).collect();
    pushlark.event(events.into()).await;
}

/// The resources of Bob's sessions in the table.
async fn sessions(pushlark: &Pushlark) -> BTreeSet<String> {
    let query = pushlark.stack.dynamodb.query().table_name("pushlark").consistent_read(true);
    let mut pages = query
        .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
        .expression_attribute_values(":pk", AttributeValue::S(BOB.into()))
        .expression_attribute_values(":prefix", AttributeValue::S("ses/".into()))
        .into_paginator()
        .items()
        .send();
    let mut resources = BTreeSet::new();
    while let Some(item) = pages.next().await {
        resources.insert(item.unwrap()["sk"].as_s().unwrap().strip_prefix("ses/").unwrap().to_owned());
    }
    resources
}

fn named(prefix: &str, numbers: std::ops::Range<i64>) -> BTreeSet<String> {
    numbers.map(|number| format!("{prefix}{number}")).collect()
}

#[tokio::test]
async fn a_user_keeps_32_sessions_and_those_that_went_offline_longest_ago_go() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    // They are heard of in another order than that of their names.
    tell(&pushlark, (0..20).map(|number| (format!("on{number}"), "online", 1_000 - number))).await;
    tell(&pushlark, (0..20).map(|number| (format!("off{number}"), "offline", 100 + number))).await;
    assert_eq!(sessions(&pushlark).await.len(), 40, "ingest prunes");
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    let mut expected = named("on", 0..20);
    expected.extend(named("off", 0..12));
    assert_eq!(sessions(&pushlark).await, expected);
    // None is offline: those that were heard of longest ago go.
    tell(&pushlark, named("off", 0..12).into_iter().map(|resource| (resource, "online", 50))).await;
    tell(&pushlark, (0..5).map(|number| (format!("new{number}"), "online", 10))).await;
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    let mut expected = named("on", 5..20);
    expected.extend(named("off", 0..12));
    expected.extend(named("new", 0..5));
    assert_eq!(sessions(&pushlark).await, expected);
}

#[tokio::test]
async fn sessions_are_pruned_by_what_the_decision_has_read_if_it_has_read_all() {
    let (pushlark, meter) = Meter::with_settings([]).await;
    pushlark.enable(BOB, "phone").await;
    tell(&pushlark, (0..35).map(|number| (format!("off{number}"), "offline", 100 + number))).await;
    meter.take();
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    let calls = [("Query", 1), ("UpdateItem", 1), ("DeleteItem", 3)].map(|(name, times)| (name.to_owned(), times));
    assert_eq!(meter.take(), calls.into());
    // It is not the notification's fault if that fails.
    tell(&pushlark, [("one more".to_owned(), "offline", 1)]).await;
    meter.refuse_next("DeleteItem", "AccessDeniedException", json!({}));
    pushlark.message(BOB, "planted Hello").await;
    pushlark.settled().await;
    meter.assert_nothing_left();
    assert_eq!(pushlark.alerts("phone").await, ["planted Hi", "planted Hello"]);
    assert_eq!(sessions(&pushlark).await.len(), MAX_SESSIONS + 1);
}

#[tokio::test]
async fn a_decision_reads_a_bounded_number_of_sessions_and_the_right_ones_of_all_are_kept() {
    let (pushlark, meter) = Meter::with_settings([("MAX_NODES", "5")]).await;
    for node in ["a", "b", "c"] {
        pushlark.enable(BOB, node).await;
    }
    // By their names the newest come last, and a decision does not get that far.
    tell(&pushlark, (0..120).map(|number| (format!("{number:03}"), "offline", 1_000 - number))).await;
    tell(&pushlark, [("zzz".to_owned(), "online", 5_000)]).await;
    meter.take_items_read();
    meter.take();
    let message = json!({"type": "message", "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "Hi"});
    let explained = pushlark.json("/explain", json!({"explain": [message]})).await.json();
    assert_eq!(explained["explained"][0]["recipients"][0]["registrations"].as_array().unwrap().len(), 3);
    assert_eq!(meter.take()["Query"], 1);
    assert!((3 + 32..=5 + 32 + 2).contains(&meter.take_items_read()));
    let mut expected: BTreeSet<_> = (89..120).map(|number| format!("{number:03}")).collect();
    expected.insert("zzz".into());
    // One event deletes as many as its time allows.
    eventually("the right sessions", async || {
        pushlark.message(BOB, "planted Hi").await;
        pushlark.settled().await;
        (sessions(&pushlark).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_that_changes_while_sessions_are_pruned_stays() {
    let pushlark = Pushlark::start().await;
    tell(&pushlark, (0..36).map(|number| (format!("off{number}"), "offline", 100 + number))).await;
    let (store, bob) = (pushlark.store(), BareJid::new(BOB).unwrap());
    let snapshot = store.snapshot(&bob).await.unwrap();
    let back = Jid::new("bob@example.com/off35").unwrap();
    store.set_presence(&back, Availability::Online, OffsetDateTime::now_utc()).await.unwrap();
    pushlark.enable("bob@example.com/off34", "phone").await;
    store.prune_sessions(&bob, &snapshot).await.unwrap();
    assert_eq!(sessions(&pushlark).await, named("off", 0..32).into_iter().chain(named("off", 34..36)).collect());
}

#[tokio::test]
async fn expired_sessions_go_first() {
    let pushlark = Pushlark::with_settings([("SESSION_LIFETIME", "2")]).await;
    tell(&pushlark, (0..10).map(|number| (format!("old{number}"), "online", 0))).await;
    let (store, bob) = (pushlark.store(), BareJid::new(BOB).unwrap());
    eventually("sessions that expire", async || store.snapshot(&bob).await.unwrap().online.is_none().then_some(()))
        .await;
    // These are heard of longer ago, and stay for longer.
    let long = Pushlark::with_settings([("SESSION_LIFETIME", "1000")]).await.stack.environment;
    let long = pushlark_store::Store::from_environment(pushlark.stack.dynamodb.clone(), &long).unwrap();
    let told = (0..30).map(|number| format!("{BOB}/off{number}"));
    let told = stream::iter(told).for_each(async |session| {
        let at = OffsetDateTime::now_utc() - time::Duration::hours(1);
        long.set_presence(&Jid::new(&session).unwrap(), Availability::Offline, at).await.unwrap();
    });
    told.await;
    long.prune_sessions(&bob, &long.snapshot(&bob).await.unwrap()).await.unwrap();
    let left = sessions(&pushlark).await;
    assert_eq!(left.len(), MAX_SESSIONS);
    assert!(left.is_superset(&named("off", 0..30)), "{left:?}");
}
