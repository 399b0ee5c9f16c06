//! What an event costs in calls of DynamoDB, counted between the functions and the table.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tests::{Meter, Pushlark};

const BOB: &str = "bob@example.com";

async fn metered(settings: &[(&'static str, &'static str)]) -> (Pushlark, Meter) {
    let (pushlark, meter) = Meter::with_settings(settings.iter().copied()).await;
    pushlark.enable("bob@example.com/phone", "phone").await;
    pushlark.enable(BOB, "tablet").await;
    meter.take();
    (pushlark, meter)
}

/// What an event costs until all that follows from it is done.
async fn calls(pushlark: &Pushlark, meter: &Meter, event: Value) -> BTreeMap<String, u32> {
    pushlark.event(event).await;
    pushlark.settled().await;
    meter.take()
}

fn cost<const N: usize>(calls: [(&str, u32); N]) -> BTreeMap<String, u32> {
    calls.into_iter().map(|(operation, times)| (operation.to_owned(), times)).collect()
}

fn message(to: &str, body: &str) -> Value {
    json!({"type": "message", "from": "alice@example.com/pc", "to": to, "chat": "chat", "body": body})
}

fn presence(status: &str) -> Value {
    json!({"type": "presence", "jid": "bob@example.com/pc", "status": status})
}

#[tokio::test]
async fn a_notified_event_costs_one_read_and_one_write() {
    for plugin in ["defaults", "enhanced", "hints"] {
        let (pushlark, meter) = metered(&[("PLUGIN", plugin)]).await;
        let notified = calls(&pushlark, &meter, message(BOB, "planted Hi")).await;
        assert_eq!(notified, cost([("Query", 1), ("UpdateItem", 1)]), "{plugin}");
        let mut unacknowledged = message("bob@example.com/phone", "planted Hi");
        unacknowledged["type"] = "unacknowledged".into();
        let expected = match plugin {
            "defaults" => cost([("Query", 1)]),
            _ => cost([("Query", 1), ("UpdateItem", 1)]),
        };
        assert_eq!(calls(&pushlark, &meter, unacknowledged).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn an_event_that_notifies_nobody_costs_a_read_at_most() {
    let (pushlark, meter) = metered(&[]).await;
    assert_eq!(calls(&pushlark, &meter, message(BOB, "")).await, cost([]));
    assert_eq!(calls(&pushlark, &meter, message("nobody@example.com", "planted Hi")).await, cost([("Query", 1)]));
    assert_eq!(calls(&pushlark, &meter, presence("online")).await, cost([("UpdateItem", 1)]));
    assert_eq!(calls(&pushlark, &meter, message(BOB, "online")).await, cost([("Query", 1)]));
    let read = json!({"type": "read", "jid": BOB, "conversation": "alice@example.com"});
    assert_eq!(calls(&pushlark, &meter, read).await, cost([]));
}

#[tokio::test]
async fn counting_costs_one_read_and_one_write_more() {
    let (pushlark, meter) = metered(&[("UNREAD_COUNTS", "on")]).await;
    // The sender's own count is reset, too: one write more, by ingest.
    let notified = cost([("GetItem", 1), ("Query", 1), ("UpdateItem", 3)]);
    assert_eq!(calls(&pushlark, &meter, message(BOB, "planted Hi")).await, notified);
    let group = json!({"type": "message", "from": "room@muc.example.com/alice", "to": BOB, "chat": "groupchat", "body": "planted Hi"});
    assert_eq!(calls(&pushlark, &meter, group).await, cost([("GetItem", 1), ("Query", 1), ("UpdateItem", 2)]));
    assert_eq!(calls(&pushlark, &meter, message(BOB, "")).await, cost([]));
    let nobody = message("nobody@example.com", "planted Hi");
    assert_eq!(calls(&pushlark, &meter, nobody).await, cost([("GetItem", 1), ("Query", 1), ("UpdateItem", 3)]));
    let read = json!({"type": "read", "jid": BOB, "conversation": "alice@example.com"});
    assert_eq!(calls(&pushlark, &meter, read).await, cost([("UpdateItem", 1)]));
    // Above 32 messages a counter forgets all but 16, by a write of its own: at the 33rd and the 50th.
    let mut many = BTreeMap::new();
    for number in 0..60 {
        for (operation, times) in calls(&pushlark, &meter, message("carol@example.com", &number.to_string())).await {
            *many.entry(operation).or_default() += times;
        }
    }
    assert_eq!(many, cost([("GetItem", 60), ("Query", 60), ("UpdateItem", 60 * 3 + 2)]));
}

#[tokio::test]
async fn an_enable_costs_one_query_and_one_transaction() {
    let (pushlark, meter) = metered(&[("MAX_NODES", "3")]).await;
    let enable = cost([("Query", 1), ("TransactWriteItems", 1)]);
    // A new one, the same again, and one in place of the oldest, with a session and without.
    for (user, node) in [(BOB, "watch"), (BOB, "watch"), ("bob@example.com/pc", "pc"), (BOB, "car")] {
        pushlark.enable(user, node).await;
        assert_eq!(meter.take(), enable, "{user} {node}");
    }
    let disable = json!({"user": BOB, "jid": "push.example.com", "node": "car"});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_eq!(meter.take(), cost([("DeleteItem", 1)]));
    let disable = json!({"user": BOB, "jid": "push.example.com"});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_eq!(meter.take(), cost([("Query", 1), ("DeleteItem", 2)]));

    let (pushlark, meter) = metered(&[("MAX_NODES", "2"), ("MAX_NODES_REACHED", "refuse-newest")]).await;
    let refused = json!({"user": BOB, "jid": "push.example.com", "node": "watch"});
    pushlark.json("/enable", refused).await.problem(409);
    assert_eq!(meter.take(), cost([("Query", 1)]));
}

#[tokio::test]
async fn a_push_node_costs_one_query_and_one_transaction() {
    let (pushlark, meter) = metered(&[]).await;
    let ask = async |payload: &str| {
        let iq = format!("<iq type='set' id='1' from='{BOB}' to='push.example.com'>{payload}</iq>");
        let reply = pushlark.post("/pubsub", "text/xml", iq).await;
        assert!(reply.body.contains("type=\"result\""), "{}", reply.body);
    };
    let create = "<pubsub xmlns='http://jabber.org/protocol/pubsub'><create node='n'/></pubsub>";
    let register = "<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'><x xmlns='jabber:x:data' type='submit'>\
        <field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>\
        <field var='service'><value>fcm</value></field><field var='device_id'><value>planted</value></field></x></enable>";
    for payload in [create, register, register] {
        ask(payload).await;
        assert_eq!(meter.take(), cost([("Query", 1), ("TransactWriteItems", 1)]), "{payload}");
    }
    ask("<disable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/>").await;
    assert_eq!(meter.take(), cost([("GetItem", 1), ("TransactWriteItems", 1)]));
}
