//! Sessions: their presence, and the registration to which a session is tied.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, stream};
use pushlark_model::{Activity, Availability};
use pushlark_store::{MAX_SESSIONS, Store};
use pushlark_xmpp::{BareJid, parse_jid};
use serde_json::{Value, json};
use tests::{BOB, BOBS_PC, BOBS_PHONE, CallCounter, Event, PushRequest, Pushlark, ago, eventually};
use time::OffsetDateTime;
use tokio::time::Instant;

const BOBS_TABLET: &str = "bob@example.com/tablet";

/// Starts a stack where Bob's tablet has enabled a device, and then his phone, which is online, another one.
async fn with_a_tied_phone() -> Pushlark {
    let pushlark = Pushlark::with_settings([("PLUGIN", "enhanced")]).await;
    pushlark.enable(BOBS_TABLET, "tablet").await;
    pushlark.event(Event::presence(BOBS_PHONE, "online")).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark
}

/// Checks that an unacknowledged message of the phone's session does not notify the phone, and one of the tablet's session
/// notifies the tablet.
async fn assert_untied(pushlark: &Pushlark) {
    let before = pushlark.alerts("phone").await.len();
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "to nobody")).await;
    pushlark.event(Event::unacknowledged(BOBS_TABLET, "to the tablet")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await.len(), before);
    assert_eq!(pushlark.alerts("tablet").await, ["to the tablet"]);
}

#[tokio::test]
async fn an_unacknowledged_message_notifies_only_the_device_of_its_session() {
    let pushlark = with_a_tied_phone().await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "lost")).await;
    pushlark.notified("phone", 1).await;
    pushlark.event(Event::unacknowledged(BOBS_PC, "nothing was enabled here")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["lost"]);
    assert!(pushlark.alerts("tablet").await.is_empty());
    pushlark.enable(BOBS_PHONE, "watch").await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "to what was enabled last")).await;
    pushlark.notified("watch", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["lost"]);
}

#[tokio::test]
async fn disabling_the_node_unties_the_session() {
    let pushlark = with_a_tied_phone().await;
    let disable = PushRequest::new(BOB, "phone");
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_untied(&pushlark).await;
    // The session is also not tied to the node when another session enables the node.
    pushlark.enable(BOBS_PC, "phone").await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "still to nobody")).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
}

#[tokio::test]
async fn going_offline_unties_the_session() {
    let pushlark = with_a_tied_phone().await;
    pushlark.event(Event::presence(BOBS_PHONE, "offline")).await;
    assert_untied(&pushlark).await;
    pushlark.event(Event::presence(BOBS_PHONE, "online")).await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "a session of the same name")).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "tied again")).await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn a_message_from_before_the_session_went_offline_notifies() {
    let pushlark = with_a_tied_phone().await;
    pushlark
        .event(json!([
            Event::unacknowledged(BOBS_PHONE, "before"),
            Event::presence(BOBS_PHONE, "offline"),
            Event::unacknowledged(BOBS_PHONE, "after")
        ]))
        .await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["before"]);
}

#[tokio::test]
async fn a_late_offline_event_unties_older_ties() {
    let pushlark = with_a_tied_phone().await;
    let offline = Event::presence(BOBS_PHONE, "offline").at(ago(0));
    pushlark.event(Event::presence(BOBS_PHONE, "online")).await;
    pushlark.event(offline).await;
    assert_untied(&pushlark).await;
    // The offline event is older than the online event, so Bob is online.
    pushlark.message(BOB, "online").await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("tablet").await.len(), 1);
}

#[tokio::test]
async fn an_offline_event_of_the_previous_session_keeps_the_new_tie() {
    let pushlark = with_a_tied_phone().await;
    let offline = Event::presence(BOBS_PHONE, "offline").at(ago(30));
    pushlark.event(offline).await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "lost")).await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn a_gone_device_and_a_removed_user_untie_the_session() {
    let pushlark = with_a_tied_phone().await;
    pushlark.device_answers("phone", json!({"status": 410})).await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "gone")).await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    pushlark.enable(BOB, "phone").await;
    assert_untied(&pushlark).await;

    let pushlark = with_a_tied_phone().await;
    pushlark.event(Event::user_removed(BOB)).await;
    pushlark.settled().await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "removed")).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
}

#[tokio::test]
async fn a_session_without_new_presence_expires() {
    let pushlark = Pushlark::with_settings([("SESSION_LIFETIME", "2")]).await;
    pushlark.enable(BOB, "phone").await;
    let message_notifies = async || {
        let before = pushlark.alerts("phone").await.len();
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        pushlark.alerts("phone").await.len() > before
    };
    eventually("a message while the session is known", async || {
        let known = Instant::now();
        pushlark.event(Event::presence(BOBS_PHONE, "online")).await;
        let notified = message_notifies().await;
        assert!(!notified || known.elapsed() >= Duration::from_secs(1), "the session expired at once");
        (!notified).then_some(())
    })
    .await;
    eventually("the end of the session", async || message_notifies().await.then_some(())).await;
}

#[tokio::test]
async fn a_message_and_its_unacknowledged_twin_notify_each_device_once() {
    let pushlark = with_a_tied_phone().await;
    let id = |number: usize| format!("m{number}");
    let twins = (0..40).map(|number| {
        let body = number.to_string();
        let message = if number % 2 == 0 {
            Event::message(BOB, &body).recipient(json!({"online": false}))
        } else {
            Event::unacknowledged(BOBS_PHONE, &body)
        };
        let message = message.id(&id(number / 2));
        pushlark.request("/events", "application/json", message.to_string())
    });
    let posted =
        futures_util::future::join_all(twins.map(|request| async { request.send().await.unwrap().status() })).await;
    assert!(posted.iter().all(|status| *status == 202));
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await.len(), 20);
    // The message also notifies the tablet, whichever of the twins came first.
    assert_eq!(pushlark.alerts("tablet").await.len(), 20);
}

#[tokio::test]
async fn a_replaced_registration_leaves_no_tie_to_a_later_one() {
    let pushlark = Pushlark::with_settings([("PLUGIN", "enhanced"), ("MAX_NODES", "1")]).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.enable(BOBS_TABLET, "tablet").await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "to nobody")).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.enable(BOBS_PC, "phone").await;
    // Two sessions have enabled this node.
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "to the phone")).await;
    pushlark.event(Event::unacknowledged(BOBS_PC, "to the phone, too")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await.iter().collect::<BTreeSet<_>>().len(), 2);
    assert!(!pushlark.alerts("phone").await.contains(&"to nobody".to_owned()));
}

/// Posts the presence of sessions of Bob: resource, status, and seconds ago.
async fn post_presence(pushlark: &Pushlark, sessions: impl IntoIterator<Item = (String, &str, i64)>) {
    let event = |(resource, status, seconds): (String, &str, i64)| {
        Event::presence(&format!("{BOB}/{resource}"), status).at(ago(seconds))
    };
    let events: Vec<_> = sessions.into_iter().map(event).collect();
    pushlark.event(events).await;
}

/// Returns the resources of Bob's sessions in the table.
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
async fn a_user_keeps_the_32_newest_sessions() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    // The order of their presence is not the order of their names.
    post_presence(&pushlark, (0..20).map(|number| (format!("on{number}"), "online", 1_000 - number))).await;
    post_presence(&pushlark, (0..20).map(|number| (format!("off{number}"), "offline", 100 + number))).await;
    assert_eq!(sessions(&pushlark).await.len(), 40, "ingest has pruned sessions");
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    let mut expected = named("on", 0..20);
    expected.extend(named("off", 0..12));
    assert_eq!(sessions(&pushlark).await, expected);
    // No session is offline now, so the sessions with the oldest presence are pruned.
    post_presence(&pushlark, named("off", 0..12).into_iter().map(|resource| (resource, "online", 50))).await;
    post_presence(&pushlark, (0..5).map(|number| (format!("new{number}"), "online", 10))).await;
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    let mut expected = named("on", 5..20);
    expected.extend(named("off", 0..12));
    expected.extend(named("new", 0..5));
    assert_eq!(sessions(&pushlark).await, expected);
}

#[tokio::test]
async fn sessions_are_pruned_without_another_read() {
    let (pushlark, counter) = CallCounter::with_settings([]).await;
    pushlark.enable(BOB, "phone").await;
    post_presence(&pushlark, (0..35).map(|number| (format!("off{number}"), "offline", 100 + number))).await;
    counter.take();
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    let calls = [("Query", 1), ("UpdateItem", 1), ("DeleteItem", 3)].map(|(name, times)| (name.to_owned(), times));
    assert_eq!(counter.take(), calls.into());
    // A failure of pruning does not affect the notification.
    post_presence(&pushlark, [("one more".to_owned(), "offline", 1)]).await;
    counter.refuse_next("DeleteItem", "AccessDeniedException", json!({}));
    pushlark.message(BOB, "canary Hello").await;
    pushlark.settled().await;
    counter.assert_all_failures_occurred();
    assert_eq!(pushlark.alerts("phone").await, ["canary Hi", "canary Hello"]);
    assert_eq!(sessions(&pushlark).await.len(), MAX_SESSIONS + 1);
}

#[tokio::test]
async fn a_decision_reads_a_limited_number_of_sessions() {
    let (pushlark, counter) = CallCounter::with_settings([("MAX_NODES", "5")]).await;
    for node in ["a", "b", "c"] {
        pushlark.enable(BOB, node).await;
    }
    // The newest sessions come last in the order of names, and a decision does not read them.
    post_presence(&pushlark, (0..120).map(|number| (format!("{number:03}"), "offline", 1_000 - number))).await;
    post_presence(&pushlark, [("zzz".to_owned(), "online", 5_000)]).await;
    counter.take_items_read();
    counter.take();
    let message = Event::message(BOB, "Hi");
    let explained = pushlark.json("/explain", json!({"explain": [message]})).await.json();
    assert_eq!(explained["explained"][0]["recipients"][0]["registrations"].as_array().unwrap().len(), 3);
    assert_eq!(counter.take()["Query"], 1);
    // The query leaves room for the records of 16 replaced devices, and for the state of quiet bursts.
    assert!((3 + 32..=5 + 16 + 1 + 32 + 2).contains(&counter.take_items_read()));
    let mut expected: BTreeSet<_> = (89..120).map(|number| format!("{number:03}")).collect();
    expected.insert("zzz".into());
    // One event deletes as many sessions as its time allows.
    eventually("the newest sessions", async || {
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        (sessions(&pushlark).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_that_changes_during_pruning_stays() {
    let pushlark = Pushlark::start().await;
    post_presence(&pushlark, (0..36).map(|number| (format!("off{number}"), "offline", 100 + number))).await;
    let (store, bob) = (pushlark.store(), BareJid::new(BOB).unwrap());
    let snapshot = store.snapshot(&bob).await.unwrap();
    let back = parse_jid("bob@example.com/off35").unwrap();
    store.set_presence(&back, Availability::Online(Activity::default()), OffsetDateTime::now_utc()).await.unwrap();
    pushlark.enable("bob@example.com/off34", "phone").await;
    store.prune_sessions(&bob, &snapshot).await.unwrap();
    assert_eq!(sessions(&pushlark).await, named("off", 0..32).into_iter().chain(named("off", 34..36)).collect());
}

#[tokio::test]
async fn expired_sessions_are_pruned_first() {
    let pushlark = Pushlark::with_settings([("SESSION_LIFETIME", "2")]).await;
    post_presence(&pushlark, (0..10).map(|number| (format!("old{number}"), "online", 0))).await;
    let (store, bob) = (pushlark.store(), BareJid::new(BOB).unwrap());
    eventually("sessions that expire", async || store.snapshot(&bob).await.unwrap().online.is_none().then_some(()))
        .await;
    // These sessions have an older presence and a longer lifetime.
    let long = Pushlark::with_settings([("SESSION_LIFETIME", "1000")]).await.stack.environment;
    let long = Store::from_environment(pushlark.stack.dynamodb.clone(), &long).unwrap();
    let older = (0..30).map(|number| format!("{BOB}/off{number}"));
    let writes = stream::iter(older).for_each(async |session| {
        let at = OffsetDateTime::now_utc() - time::Duration::hours(1);
        long.set_presence(&parse_jid(&session).unwrap(), Availability::Offline, at).await.unwrap();
    });
    writes.await;
    long.prune_sessions(&bob, &long.snapshot(&bob).await.unwrap()).await.unwrap();
    let left = sessions(&pushlark).await;
    assert_eq!(left.len(), MAX_SESSIONS);
    assert!(left.is_superset(&named("off", 0..30)), "{left:?}");
}

/// Reports Bob's sessions, each with its client state: `active`, `inactive`, or no state.
async fn report_clients(pushlark: &Pushlark, clients: impl IntoIterator<Item = (&str, Option<&str>)>) {
    let presence = |(session, client_state)| Event::presence(session, "online").with("client_state", client_state);
    pushlark.event(clients.into_iter().map(presence).collect::<Vec<_>>()).await;
}

/// Returns whether a message to Bob with the known facts `recipient` notifies him.
async fn is_notified(pushlark: &Pushlark, recipient: Value) -> bool {
    let before = pushlark.alerts("phone").await.len();
    pushlark.event(Event::message(BOB, "canary Hi").recipient(recipient)).await;
    pushlark.settled().await;
    pushlark.alerts("phone").await.len() > before
}

#[tokio::test]
async fn a_user_who_is_online_with_inactive_clients_only_is_notified() {
    for plugin in ["defaults", "enhanced", "hints"] {
        let pushlark = Pushlark::with_settings([("PLUGIN", plugin)]).await;
        pushlark.enable(BOBS_PHONE, "phone").await;
        for (clients, notified) in [
            (vec![(BOBS_PHONE, Some("inactive"))], true),
            (vec![(BOBS_PC, Some("active"))], false),
            (vec![(BOBS_PC, Some("inactive"))], true),
            (vec![(BOBS_PC, None)], false),
            (vec![(BOBS_PC, Some("inactive")), (BOBS_PHONE, Some("active"))], false),
            // In one request, the last state of a session applies.
            (vec![(BOBS_PHONE, Some("active")), (BOBS_PHONE, Some("inactive"))], true),
        ] {
            report_clients(&pushlark, clients.clone()).await;
            assert_eq!(is_notified(&pushlark, json!({})).await, notified, "{plugin}: {clients:?}");
        }
        pushlark.event(Event::presence(BOBS_TABLET, "offline").with("client_state", "active")).await;
        assert!(is_notified(&pushlark, json!({})).await, "{plugin}: an offline session is active");
    }
}

#[tokio::test]
async fn the_client_state_of_a_message_overrides_the_reported_sessions() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    for (client_state, recipient, notified) in [
        ("active", json!({"client_state": "inactive"}), true),
        ("active", json!({"online": true, "client_state": "inactive"}), true),
        ("active", json!({"online": true}), false),
        ("inactive", json!({"client_state": "active"}), false),
        ("inactive", json!({"online": true, "client_state": "active"}), false),
        ("inactive", json!({"online": true, "client_state": null}), true),
        ("inactive", json!({"exists": false}), false),
        // The client state of a user who is offline has no meaning.
        ("active", json!({"online": false, "client_state": "active"}), true),
    ] {
        report_clients(&pushlark, [(BOBS_PC, Some(client_state))]).await;
        assert_eq!(is_notified(&pushlark, recipient.clone()).await, notified, "{client_state}: {recipient}");
    }
}

#[tokio::test]
async fn an_inactive_client_does_not_change_the_handling_of_unacknowledged_messages() {
    let pushlark = with_a_tied_phone().await;
    report_clients(&pushlark, [(BOBS_PHONE, Some("inactive"))]).await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "to the phone")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await, ["to the phone"]);
    assert!(pushlark.alerts("tablet").await.is_empty());
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    report_clients(&pushlark, [(BOBS_PHONE, Some("inactive"))]).await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "to nobody")).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
}

#[tokio::test]
async fn of_two_presences_with_the_same_time_the_later_in_the_request_applies() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let same = ago(5);
    let presence = |status: &str| Event::presence(BOBS_PHONE, status).at(&same);
    for (statuses, notified) in [(["online", "offline"], true), (["offline", "online"], false)] {
        pushlark.event(statuses.map(presence).to_vec()).await;
        assert_eq!(is_notified(&pushlark, json!({})).await, notified, "{statuses:?}");
    }
    pushlark.event(vec![presence("online").with("client_state", "inactive")]).await;
    assert!(is_notified(&pushlark, json!({})).await, "the later request does not apply");
    // An older presence in a later position does not apply.
    let older = Event::presence(BOBS_PHONE, "offline").at(ago(60));
    pushlark.event(vec![presence("online"), older]).await;
    assert!(!is_notified(&pushlark, json!({})).await);
}

#[tokio::test]
async fn a_session_item_of_an_earlier_version_has_an_active_client() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    report_clients(&pushlark, [(BOBS_PHONE, Some("inactive"))]).await;
    assert!(is_notified(&pushlark, json!({})).await);
    let update = pushlark.stack.dynamodb.update_item().table_name("pushlark").update_expression("REMOVE is_inactive");
    let key = |value: &str| AttributeValue::S(value.into());
    update.key("pk", key(BOB)).key("sk", key("ses/phone")).send().await.unwrap();
    assert!(!is_notified(&pushlark, json!({})).await);
}

#[tokio::test]
async fn a_device_is_connected_while_its_own_session_is_online_and_active() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.enable(BOBS_TABLET, "tablet").await;
    let (store, bob) = (pushlark.store(), BareJid::new(BOB).unwrap());
    let connected = async || {
        let snapshot = store.snapshot(&bob).await.unwrap();
        let connected = snapshot.registrations.iter().filter(|registration| snapshot.is_connected(registration, None));
        connected.map(|registration| registration.node.clone()).collect::<Vec<_>>()
    };
    assert!(connected().await.is_empty(), "a session without presence is online");
    report_clients(&pushlark, [(BOBS_PHONE, None), (BOBS_TABLET, Some("inactive")), (BOBS_PC, None)]).await;
    assert_eq!(connected().await, ["phone"]);
    report_clients(&pushlark, [(BOBS_PHONE, Some("inactive")), (BOBS_TABLET, Some("active"))]).await;
    assert_eq!(connected().await, ["tablet"]);
    // The next session with this resource has not enabled a device yet.
    pushlark.event(Event::presence(BOBS_TABLET, "offline")).await;
    report_clients(&pushlark, [(BOBS_TABLET, None)]).await;
    assert!(connected().await.is_empty());
    pushlark.enable(BOBS_TABLET, "tablet").await;
    assert_eq!(connected().await, ["tablet"]);
}
