//! The loss of a region, and the move of a domain: another stack with a copy of the data.

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
    let publish =
        stanza::publish("erins", &stanza::notification(&stanza::summary(&[("last-message-body", "canary")])), &[]);
    second
        .post("/pubsub", XMPP, stanza::iq_with_id("set", "example.com", PUSH_HOST, "2", &publish))
        .await
        .assert_result();
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
    assert_eq!(
        (second.alerts("missing").await, second.alerts("carols").await),
        (vec!["canary now".into()], vec!["canary now".into()])
    );
    let disabled = second.json("/disable", PushRequest::new(BOB, "phone")).await;
    assert_eq!((disabled.status, disabled.json()["removed"].clone()), (200, json!(1)));
}

/// Enables the registrations of users at another stack, as `pushlark export` and `pushlark import` do.
async fn copy_registrations(from: &Pushlark, to: &Pushlark, users: &[&str]) {
    for user in users {
        for registration in from.registrations(user).await {
            let enable = PushRequest::new(user, &registration.node)
                .at(registration.jid.as_str())
                .form(json!(registration.options.fields()));
            assert_eq!(to.json("/enable", enable).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_moved_domain_is_notified_by_its_new_stack_alone() {
    const DOMAIN: [&str; 2] = [BOB, CAROL];
    const OTHER: &str = "dave@example.org";
    let (old, new) = (Pushlark::start().await, Pushlark::start().await);
    for (user, device) in [(BOB, "phone"), (BOB, "tablet"), (CAROL, "carols"), (OTHER, "daves")] {
        old.enable(user, device).await;
    }
    old.event(Event::message(DOMAIN, "canary 1").id("m1")).await;
    copy_registrations(&old, &new, &DOMAIN).await;
    // A client enables a device between the first copy and the change of the chat server.
    old.enable(CAROL, "late").await;
    // The chat server posts to the new stack from now on.
    new.event(Event::message(DOMAIN, "canary 2").id("m2")).await;
    copy_registrations(&old, &new, &DOMAIN).await;
    new.event(Event::message(DOMAIN, "canary 3").id("m3")).await;
    for stack in [&old, &new] {
        stack.settled().await;
    }
    old.event(Event::domain_removed("example.com")).await;
    old.settled().await;

    for device in ["phone", "tablet", "carols"] {
        assert_eq!(old.alerts(device).await, ["canary 1"], "{device}");
        assert_eq!(new.sorted_alerts(device).await, ["canary 2", "canary 3"], "{device}");
    }
    assert_eq!(new.alerts("late").await, ["canary 3"]);
    for user in DOMAIN {
        assert!(old.listed_nodes(user).await.is_empty(), "{user}");
    }
    assert_eq!((new.listed_nodes(BOB).await.len(), new.listed_nodes(CAROL).await.len()), (2, 2));
    // The other domains of the old stack stay.
    old.event(Event::message([OTHER, BOB], "canary 4")).await;
    old.settled().await;
    assert_eq!(old.alerts("daves").await, ["canary 4"]);
    assert_eq!(old.alerts("phone").await, ["canary 1"]);
}
