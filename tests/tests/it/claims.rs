//! Claims: the event that publishes a message to a device.

use aws_sdk_dynamodb::types::AttributeValue;
use pushlark_store::Claimant;
use pushlark_xmpp::BareJid;
use serde_json::json;
use tests::{BOB, IsolatedWorker, Pushlark, Work, registration};

fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

#[tokio::test]
async fn a_claim_holds_750_nodes_with_the_longest_names() {
    let pushlark = Pushlark::start().await;
    let store = pushlark.store();
    let services: Vec<_> = (0..750).map(|number| registration(&format!("{number:0>512}"), &[], 0)).collect();
    let services: Vec<_> = services.iter().collect();
    let bob = BareJid::new(BOB).unwrap();
    let name = "01234567-89ab-cdef-0123-456789abcdef.24";
    let claimant = Claimant { id: "m", user: &bob, name, generation: 1_000, counted: Some(7) };
    assert_eq!(store.claim(claimant, &services).await.unwrap(), [true; 750]);
    store.finish(claimant, &[], &services).await.unwrap();
    assert_eq!(store.claim(claimant, &services).await.unwrap(), [false; 750]);
    let next = Claimant { generation: 1_001, ..claimant };
    assert_eq!(store.claim(next, &services).await.unwrap(), [true; 750]);
    store.finish(next, &services, &[]).await.unwrap();
    let claimed = store.claimed("m", &bob).await.unwrap();
    assert!(services.iter().all(|service| claimed.has(service)) && claimed.counted() == Some(7));
    assert_eq!(store.claim(next, &services).await.unwrap(), [false; 750]);
}

/// Writes a claim as earlier versions did, with the name of the service as the attribute.
async fn claim_by_long_name(pushlark: &Pushlark, node: &str, holder: &str) {
    let update = pushlark.stack.dynamodb.update_item().table_name("pushlark");
    let update = update.key("pk", text(format!("msg/m/{BOB}"))).key("sk", text("claim"));
    let update = update
        .update_expression("SET #service = :holder")
        .expression_attribute_names("#service", format!("push.example.com/{node}"));
    update.expression_attribute_values(":holder", text(holder)).send().await.unwrap();
}

#[tokio::test]
async fn claims_of_an_earlier_version_are_valid() {
    let isolated = IsolatedWorker::start().await;
    let pushlark = &isolated.pushlark;
    for (node, holder) in [
        ("done", Some("first.0 done")),
        ("begun", Some("first.0")),
        ("of another", Some("twin.0")),
        ("failing", Some("first.0")),
        ("free", None),
    ] {
        pushlark.enable(BOB, node).await;
        if let Some(holder) = holder {
            claim_by_long_name(pushlark, node, holder).await;
        }
    }
    pushlark.device_answers("failing", json!({"status": 500})).await;
    // The first event continues the work of the earlier version. Only the failed device is put back.
    isolated.send(&json!({"uid": "first", "work": [Work::message(&[BOB])]})).await;
    let first = isolated.receive().await.unwrap();
    isolated.handle(first.clone()).await;
    let failing = isolated.next(first).await.expect("the device that failed");
    // The other event still publishes its own claim.
    isolated.send(&json!({"uid": "twin", "work": [Work::message(&[BOB])]})).await;
    let twin = isolated.receive().await.unwrap();
    isolated.handle(twin.clone()).await;
    pushlark.device_answers("failing", json!({"status": 200})).await;
    isolated.handle(failing.clone()).await;
    isolated.delete(failing).await;
    assert!(isolated.next(twin).await.is_none());
    for (node, times) in [("done", 0), ("begun", 1), ("of another", 1), ("failing", 2), ("free", 1)] {
        assert_eq!(pushlark.notifications(node).await.len(), times, "{node}");
    }
}
