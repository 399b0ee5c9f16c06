//! The loss of a region: a stack in another one with a copy of the table.

use serde_json::json;
use tests::{BOB, CAROL, Event, PUSH_HOST, PushRequest, Pushlark, XMPP, stanza};

const ERIN: &str = "erin@example.com";

/// Copies all items of the table into that of another stack, as an import or a restoration does.
async fn copy_table(from: &Pushlark, to: &Pushlark) {
    let items = from.stack.dynamodb.scan().table_name("pushlark").into_paginator().items().send();
    for item in items.collect::<Result<Vec<_>, _>>().await.unwrap() {
        to.stack.dynamodb.put_item().table_name("pushlark").set_item(Some(item)).send().await.unwrap();
    }
}

#[tokio::test]
async fn a_stack_with_a_copy_of_the_table_notifies_all_devices_of_the_copy() {
    let settings = [("UNREAD_COUNTS", "on")];
    let lost = Pushlark::with_settings(settings).await;
    lost.enable(BOB, "phone").await;
    lost.enable(CAROL, "carols").await;
    lost.event(Event::presence("carol@example.com/pc", "online")).await;
    let push_node = stanza::enable(
        PUSH_HOST,
        "erins",
        &stanza::publish_options(&[("service", "fcm"), ("device_id", "canary-erins")]),
    );
    lost.post("/pubsub", XMPP, stanza::iq_with_id("set", ERIN, PUSH_HOST, "1", &push_node)).await.assert_result();
    lost.event(Event::message(BOB, "canary before").id("before")).await;
    lost.settled().await;
    let second = Pushlark::with_settings(settings).await;
    copy_table(&lost, &second).await;
    // After the copy, before the loss.
    lost.enable(BOB, "missing").await;
    lost.event(Event::message(BOB, "canary between").id("between")).await;
    lost.settled().await;
    drop(lost);

    assert_eq!(second.listed_nodes(BOB).await, ["phone"], "a device that was enabled after the copy is missing");
    // The chat server repeats what the lost region may not have accepted.
    for (id, body) in [("before", "canary before"), ("between", "canary between"), ("after", "canary after")] {
        second.event(Event::message([BOB, CAROL], body).id(id)).await;
    }
    let publish = stanza::publish("erins", &stanza::notification(&stanza::summary(&[("last-message-body", "canary")])), &[]);
    second.post("/pubsub", XMPP, stanza::iq_with_id("set", "example.com", PUSH_HOST, "2", &publish)).await.assert_result();
    second.settled().await;
    // The claims of the copy are known. What was notified after the copy is notified once more.
    assert_eq!(second.sorted_alerts("phone").await, ["canary after", "canary between"]);
    let last = second.notifications("phone").await.pop().unwrap();
    assert_eq!(last["notification"]["alert"]["badge"], 3, "{last}");
    assert!(second.alerts("carols").await.is_empty(), "Carol is online, as at the time of the copy");
    assert_eq!(second.notifications("erins").await.len(), 1);

    // The client enables its device anew at its next start, and the sessions report themselves.
    second.enable(BOB, "missing").await;
    second.event(Event::presence("carol@example.com/pc", "offline")).await;
    second.event(Event::message([BOB, CAROL], "canary now")).await;
    second.settled().await;
    assert_eq!((second.alerts("missing").await, second.alerts("carols").await), (vec!["canary now".into()], vec!["canary now".into()]));
    let disabled = second.json("/disable", PushRequest::new(BOB, "phone")).await;
    assert_eq!((disabled.status, disabled.json()["removed"].clone()), (200, json!(1)));
}
