//! The DynamoDB actions of each function, and the actions that its role in the template allows.

use std::collections::BTreeSet;

use serde_json::json;
use tests::{ALICE, BOB, BOBS_PHONE, CallCounter, Event, PUSH_HOST, PushRequest, XMPP, stanza};

const TEMPLATE: &str = include_str!("../../../infra/template.yaml");

/// Returns the actions on DynamoDB that a function's role allows.
fn allowed(function: &str) -> BTreeSet<&'static str> {
    let (_, role) = TEMPLATE.split_once(&format!("\n  {function}Role:\n")).unwrap();
    let (role, _) = role.split_once(&format!("\n  {function}Logs:\n")).unwrap();
    let actions = role.split("dynamodb:").skip(1);
    actions.map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap()).collect()
}

#[tokio::test]
async fn each_function_uses_exactly_the_actions_of_its_role() {
    let settings = [
        ("MAX_NODES", "2"),
        ("RATE_LIMIT", "1000000"),
        ("UNREAD_COUNTS", "on"),
        ("CLEAR_WHEN_READ", "on"),
        ("DEVICE_ACCOUNTS", "one"),
    ];
    let (pushlark, counter) = CallCounter::with_settings(settings).await;
    let actions = || counter.take_actions();
    let assert_uses = |function: &str, used: BTreeSet<String>| {
        assert_eq!(used.iter().map(String::as_str).collect::<BTreeSet<_>>(), allowed(function), "{function}");
    };

    actions();
    for node in ["a", "b", "c"] {
        pushlark.enable(BOBS_PHONE, node).await;
    }
    pushlark.listed(BOB).await;
    let mut enabling = actions();
    let disable = PushRequest::all_nodes(BOB);
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_uses("Disable", actions());

    // The last node is disabled, so the next transaction checks that it does not exist.
    pushlark.enable(BOBS_PHONE, "d").await;
    enabling.extend(actions());
    assert_uses("Enable", enabling);
    let disable = PushRequest::new(BOB, "d");
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    actions();

    let uncounted = Event::message(BOB, "canary Hi").from("example.com");
    pushlark.event(uncounted).await;
    pushlark.settled().await;
    actions();
    pushlark.event(Event::presence(BOBS_PHONE, "offline")).await;
    pushlark.event(Event::read(BOB, "example.com")).await;
    let mut ingesting = actions();
    // Ingest looks whether a device of a user who is online may be notified.
    pushlark.event(Event::message(BOB, "canary Hi").recipient(json!({"online": true, "unread_count": 1}))).await;
    ingesting.extend(actions());
    pushlark.event(Event::read(BOB, ALICE)).await;
    ingesting.extend(actions());
    assert_uses("Ingest", ingesting);

    let affiliation = "<affiliation jid='example.com' affiliation='publish-only'/>";
    let affiliations = format!("<affiliations node='n'>{affiliation}</affiliations>");
    for (kind, payload) in [
        ("set", stanza::create_node("n")),
        ("set", stanza::pubsub_owner(&affiliations)),
        ("get", stanza::pubsub_owner("<affiliations node='n'/>")),
        ("set", stanza::pubsub_owner("<delete node='n'/>")),
        ("set", stanza::create_node("m")),
    ] {
        let iq = stanza::iq(kind, BOB, PUSH_HOST, &payload);
        pushlark.post("/pubsub", XMPP, iq).await.assert_result();
    }
    assert_uses("PushNode", actions());

    pushlark.enable(BOBS_PHONE, "gone").await;
    pushlark.device_answers("gone", json!({"status": 410})).await;
    actions();
    pushlark.message(BOB, "canary Hi").await;
    pushlark.event(Event::domain_removed("example.com")).await;
    pushlark.settled().await;
    assert_uses("Worker", actions());
}
