//! The calls of DynamoDB for each kind of request.

use std::collections::BTreeMap;

use serde_json::json;
use tests::{
    ALICE, BOB, BOBS_PC, BOBS_PHONE, CAROL, CallCounter, Event, PUSH_HOST, PushRequest, Pushlark, ROOM_OCCUPANT, Units,
    XMPP, ago, stanza,
};

async fn with_counter(settings: &[(&'static str, &'static str)]) -> (Pushlark, CallCounter) {
    let (pushlark, counter) = CallCounter::with_settings(settings.iter().copied()).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.enable(BOB, "tablet").await;
    counter.take();
    (pushlark, counter)
}

/// Posts an event, waits until the queue is empty, and returns the calls.
async fn calls(pushlark: &Pushlark, counter: &CallCounter, event: Event) -> BTreeMap<String, u32> {
    pushlark.event(event).await;
    pushlark.settled().await;
    counter.take()
}

fn cost<const N: usize>(calls: [(&str, u32); N]) -> BTreeMap<String, u32> {
    calls.into_iter().map(|(operation, times)| (operation.to_owned(), times)).collect()
}

#[tokio::test]
async fn a_notified_event_costs_one_read_and_one_write() {
    for plugin in ["defaults", "enhanced", "hints"] {
        let (pushlark, counter) = with_counter(&[("PLUGIN", plugin)]).await;
        let notified = calls(&pushlark, &counter, Event::message(BOB, "canary Hi")).await;
        assert_eq!(notified, cost([("Query", 1), ("UpdateItem", 1)]), "{plugin}");
        let unacknowledged = Event::unacknowledged(BOBS_PHONE, "canary Hi");
        let expected = match plugin {
            "defaults" => cost([]),
            _ => cost([("Query", 1), ("UpdateItem", 1)]),
        };
        assert_eq!(calls(&pushlark, &counter, unacknowledged).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn an_event_without_a_notification_costs_at_most_one_read() {
    let (pushlark, counter) = with_counter(&[]).await;
    assert_eq!(calls(&pushlark, &counter, Event::message(BOB, "")).await, cost([]));
    assert_eq!(
        calls(&pushlark, &counter, Event::message("nobody@example.com", "canary Hi")).await,
        cost([("Query", 1)])
    );
    assert_eq!(calls(&pushlark, &counter, Event::presence(BOBS_PC, "online")).await, cost([("UpdateItem", 1)]));
    assert_eq!(calls(&pushlark, &counter, Event::message(BOB, "online")).await, cost([("Query", 1)]));
    let read = Event::read(BOB, ALICE);
    assert_eq!(calls(&pushlark, &counter, read).await, cost([]));
}

#[tokio::test]
async fn unread_counts_cost_no_further_write() {
    let (pushlark, counter) = with_counter(&[("UNREAD_COUNTS", "on")]).await;
    // Ingest looks at the counter of the sender, which is one more read. The first unread message of a conversation looks
    // at the last read mark.
    for reads in [2, 1] {
        let notified = cost([("GetItem", reads + 1), ("Query", 1), ("UpdateItem", 1)]);
        assert_eq!(calls(&pushlark, &counter, Event::message(BOB, "canary Hi")).await, notified);
        let group = Event::groupchat(ROOM_OCCUPANT, BOB, "canary Hi");
        let notified = cost([("GetItem", reads), ("Query", 1), ("UpdateItem", 1)]);
        assert_eq!(calls(&pushlark, &counter, group).await, notified);
    }
    assert_eq!(calls(&pushlark, &counter, Event::message(BOB, "")).await, cost([]));
    let online = Event::message(BOB, "canary Hi").recipient(json!({"online": true}));
    assert_eq!(calls(&pushlark, &counter, online).await, cost([("GetItem", 2), ("Query", 1), ("UpdateItem", 1)]));
    let not_registered = Event::message("nobody@example.com", "canary Hi");
    assert_eq!(
        calls(&pushlark, &counter, not_registered).await,
        cost([("GetItem", 3), ("Query", 1), ("UpdateItem", 1)])
    );
    // A reply with nothing to read costs what any message costs; else it reads the sender's counter.
    let reply = || Event::message(ALICE, "canary Hi").from(BOBS_PC);
    let read = [("GetItem", 3), ("Query", 1), ("UpdateItem", 3), ("DeleteItem", 1)];
    assert_eq!(calls(&pushlark, &counter, reply()).await, cost(read));
    assert_eq!(calls(&pushlark, &counter, reply()).await, cost([("GetItem", 2), ("Query", 1), ("UpdateItem", 1)]));
    // It is late, so the worker reads the counter of the sender once more.
    let late = cost([("GetItem", 3), ("Query", 1), ("UpdateItem", 1)]);
    assert_eq!(calls(&pushlark, &counter, reply().at(ago(60))).await, late);
    // A read mark moves the counter out of the range of the unread ones.
    calls(&pushlark, &counter, Event::message(BOB, "canary Hi")).await;
    let read = || Event::read(BOB, ALICE);
    assert_eq!(calls(&pushlark, &counter, read()).await, cost([("UpdateItem", 2), ("DeleteItem", 1)]));
    assert_eq!(calls(&pushlark, &counter, read()).await, cost([("UpdateItem", 1)]));
    // A full counter forgets its oldest messages. Each is one more write, and from then on one more read.
    let mut many = BTreeMap::new();
    for number in 0..60 {
        for (operation, times) in calls(&pushlark, &counter, Event::message(CAROL, &number.to_string())).await {
            *many.entry(operation).or_default() += times;
        }
    }
    assert_eq!(many, cost([("GetItem", 60 * 2 + 1 + 22), ("Query", 60), ("UpdateItem", 60 + 26)]));
}

/// Returns the cost of one message, in dollars per million, to a user with two unread messages of each of 50 senders.
async fn cost_with_fifty_conversations(counts: &'static str, message: impl Fn(usize) -> Event) -> f64 {
    let (pushlark, counter) = with_counter(&[("UNREAD_COUNTS", counts), ("BADGE", "total")]).await;
    let from = |number: usize| message(number).from(&format!("sender{}@example.com/phone", number % 50));
    for number in 0..100 {
        pushlark.event(from(number)).await;
    }
    pushlark.settled().await;
    counter.take_units();
    pushlark.event(from(107)).await;
    pushlark.settled().await;
    let Units { read, write } = counter.take_units();
    println!("UNREAD_COUNTS={counts}: {read} read units, {write} write units");
    // The prices of us-east-1.
    read * 0.125 + write * 0.625
}

#[tokio::test]
async fn unread_counts_with_fifty_unread_conversations_cost_at_most_40_cents_a_million() {
    let body = |_| Event::message(BOB, "canary Hi");
    let stanza = |number| {
        let id = format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{BOB}' id='archive-{number}'/>");
        Event::stanza(BOB, &format!("<message type='chat' id='client-{number}'><body>canary Hi</body>{id}</message>"))
    };
    let without = cost_with_fifty_conversations("off", body).await;
    let above = cost_with_fifty_conversations("on", body).await - without;
    assert!((0.0..=0.40).contains(&above), "{above} above {without}");
    // The ids to which read marks refer enlarge the counters: a fourth read unit.
    let above = cost_with_fifty_conversations("on", stanza).await - without;
    assert!((0.0..=0.44).contains(&above), "{above} above {without}, for messages with two ids");
}

#[tokio::test]
async fn an_alert_interval_costs_one_more_write_for_an_alert_with_a_sound() {
    let (pushlark, counter) = with_counter(&[("ALERT_INTERVAL", "3600")]).await;
    let (first, further) = (cost([("Query", 1), ("UpdateItem", 2)]), cost([("Query", 1), ("UpdateItem", 1)]));
    let message = || Event::message(BOB, "canary Hi");
    // Both devices share the write.
    assert_eq!(calls(&pushlark, &counter, message()).await, first);
    for _ in 0..2 {
        assert_eq!(calls(&pushlark, &counter, message()).await, further);
    }
    assert_eq!(calls(&pushlark, &counter, message().from(CAROL)).await, first, "another conversation");
    pushlark.enable(BOB, "watch").await;
    counter.take();
    assert_eq!(calls(&pushlark, &counter, message()).await, first, "a device without an alert");
    let call = Event::stanza(BOB, &stanza::jingle("propose"));
    assert_eq!(calls(&pushlark, &counter, call).await, further);
    assert_eq!(calls(&pushlark, &counter, Event::subscription(CAROL, BOB)).await, further);
    let online = message().from("dave@example.com").recipient(json!({"online": true}));
    assert_eq!(calls(&pushlark, &counter, online).await, cost([("Query", 1)]));
    pushlark.enable_with(CAROL, "silent", json!({"silent": "true"})).await;
    counter.take();
    assert_eq!(calls(&pushlark, &counter, Event::message(CAROL, "canary Hi")).await, further);
}

#[tokio::test]
async fn the_end_of_a_call_costs_one_more_write_only_where_it_rings() {
    let (pushlark, counter) = with_counter(&[]).await;
    let call = |step| Event::stanza(BOB, &stanza::jingle(step));
    let (one_write, two_writes) = (cost([("Query", 1), ("UpdateItem", 1)]), cost([("Query", 1), ("UpdateItem", 2)]));
    assert_eq!(calls(&pushlark, &counter, call("retract").from("mallory@example.com/x")).await, one_write);
    assert_eq!(calls(&pushlark, &counter, call("propose")).await, one_write);
    assert_eq!(calls(&pushlark, &counter, call("retract")).await, two_writes);
    assert_eq!(calls(&pushlark, &counter, call("finish")).await, one_write);
}

#[tokio::test]
async fn an_enable_costs_one_query_and_one_transaction() {
    let (pushlark, counter) = with_counter(&[("MAX_NODES", "3")]).await;
    let enable = cost([("Query", 1), ("TransactWriteItems", 1)]);
    // A new node, the same node again, and a node that replaces the oldest one, with a session and without.
    for (user, node) in [(BOB, "watch"), (BOB, "watch"), (BOBS_PC, "pc"), (BOB, "car")] {
        pushlark.enable(user, node).await;
        assert_eq!(counter.take(), enable, "{user} {node}");
    }
    let disable = PushRequest::new(BOB, "car");
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_eq!(counter.take(), cost([("DeleteItem", 1)]));
    let disable = PushRequest::all_nodes(BOB);
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_eq!(counter.take(), cost([("Query", 1), ("DeleteItem", 2)]));

    let (pushlark, counter) = with_counter(&[("MAX_NODES", "2"), ("MAX_NODES_REACHED", "refuse-newest")]).await;
    let refused = PushRequest::new(BOB, "watch");
    pushlark.json("/enable", refused).await.problem(409);
    assert_eq!(counter.take(), cost([("Query", 1)]));
}

#[tokio::test]
async fn a_push_node_costs_one_query_and_one_transaction() {
    let (pushlark, counter) = with_counter(&[]).await;
    let ask = async |payload: &str| {
        pushlark.post("/pubsub", XMPP, stanza::iq("set", BOB, PUSH_HOST, payload)).await.assert_result();
    };
    let options = stanza::publish_options(&[("service", "fcm"), ("device_id", "canary")]);
    let register = stanza::enable(PUSH_HOST, "n", &options);
    for payload in [&stanza::create_node("n"), &register, &register] {
        ask(payload).await;
        assert_eq!(counter.take(), cost([("Query", 1), ("TransactWriteItems", 1)]), "{payload}");
    }
    ask(&stanza::disable(PUSH_HOST, "n")).await;
    assert_eq!(counter.take(), cost([("GetItem", 1), ("TransactWriteItems", 1)]));
}
