//! Claims: which event publishes a message to which service.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, stream};
use pushlark_plugin::{PublishOptions, PublishService};
use pushlark_store::Claimant;
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};
use tests::{Apart, Pushlark, ago};
use tokio::time::Instant;

const BOB: &str = "bob@example.com";

fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

#[tokio::test]
async fn a_claim_has_room_for_750_nodes_of_the_longest_names() {
    let pushlark = Pushlark::start().await;
    let store = pushlark.store();
    let services: Vec<_> = (0..750)
        .map(|number| PublishService {
            jid: BareJid::new("push.example.com").unwrap(),
            node: format!("{number:0>512}"),
            options: PublishOptions::new(BTreeMap::new()).unwrap(),
            created_at: 0,
        })
        .collect();
    let services: Vec<_> = services.iter().collect();
    let bob = BareJid::new(BOB).unwrap();
    let claimant = Claimant { id: "m", user: &bob, uid: "0123456789abcdef0123456789abcdef.24", counted: Some(7) };
    assert_eq!(store.claim(claimant, &services).await.unwrap(), [true; 750]);
    let tries = stream::iter(&services[..100]).map(|service| store.count_try("m", &bob, service)).buffer_unordered(16);
    assert!(tries.all(async |tries| tries.unwrap() == 1).await);
    store.finish(claimant, &services).await.unwrap();
    let claimed = store.claimed("m", &bob).await.unwrap();
    assert!(services.iter().all(|service| claimed.has(service)) && claimed.counted() == Some(7));
    assert_eq!(store.claim(claimant, &services).await.unwrap(), [false; 750]);
}

fn message() -> Value {
    json!({"id": "m", "at": ago(0), "subject": {"message": {"from": "alice@example.com", "to": [BOB],
        "stanza": "<message type='chat'><body>planted Hi</body></message>"}}})
}

/// Writes a claim as earlier versions did.
async fn claim_by_long_name(pushlark: &Pushlark, node: &str, holder: &str) {
    let update = pushlark.stack.dynamodb.update_item().table_name("pushlark");
    let update = update.key("pk", text(format!("msg/m/{BOB}"))).key("sk", text("claim"));
    let update = update
        .update_expression("SET #service = :holder")
        .expression_attribute_names("#service", format!("push.example.com/{node}"));
    update.expression_attribute_values(":holder", text(holder)).send().await.unwrap();
}

#[tokio::test]
async fn claims_of_an_earlier_version_are_honoured() {
    let apart = Apart::start().await;
    let pushlark = &apart.pushlark;
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
    let deadline = || Instant::now() + Duration::from_secs(10);
    let first = apart.batch("first", &[message()]).await;
    // The first event goes on where the earlier version left off; its repeat does only what failed.
    for _ in 0..2 {
        assert_eq!(apart.worker.handle(first.clone(), deadline()).await.batch_item_failures.len(), 1);
    }
    // The other event has lost nothing by that.
    let twin = apart.batch("twin", &[message()]).await;
    assert!(apart.worker.handle(twin, deadline()).await.batch_item_failures.is_empty());
    for (node, times) in [("done", 0), ("begun", 1), ("of another", 1), ("failing", 2), ("free", 1)] {
        assert_eq!(pushlark.notifications(node).await.len(), times, "{node}");
    }
}

#[tokio::test]
async fn tries_of_an_earlier_version_count() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let (store, bob) = (pushlark.store(), BareJid::new(BOB).unwrap());
    let service = &store.snapshot(&bob).await.unwrap().services[0];
    let update = pushlark.stack.dynamodb.update_item().table_name("pushlark");
    let update = update.key("pk", text(format!("msg/m/{BOB}"))).key("sk", text("claim"));
    let update = update.update_expression("SET #tries = :tries");
    let update = update.expression_attribute_names("#tries", "tries push.example.com/phone");
    update.expression_attribute_values(":tries", AttributeValue::N("5".into())).send().await.unwrap();
    assert_eq!(store.count_try("m", &bob, service).await.unwrap(), 6);
    assert_eq!(store.count_try("m", &bob, service).await.unwrap(), 7);
}
