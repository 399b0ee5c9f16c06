//! `erase` and `export`: of a user, the table then has nothing but what the receipt names.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use tests::{ALICE, BOB, BOBS_PHONE, CAROL, Event, PUSH_HOST, PushRequest, Pushlark, XMPP, stanza};

use crate::run;

const SETTINGS: [(&str, &str); 5] = [
    ("UNREAD_COUNTS", "on"),
    ("CLEAR_WHEN_READ", "on"),
    ("ALERT_INTERVAL", "60"),
    ("DEVICE_ACCOUNTS", "one"),
    ("RATE_LIMIT", "1000000"),
];

/// Returns a stack in which Bob has items of nearly all kinds, and others have items about Bob.
async fn stack() -> Pushlark {
    let pushlark = Pushlark::with_settings(SETTINGS).await;
    let enable = async |user: &str, node: &str, device: &str, preferences: Value| {
        let request = PushRequest::new(user, node).device(device).with("preferences", preferences);
        assert_eq!(pushlark.json("/enable", request).await.status, 200);
    };
    enable(BOBS_PHONE, "phone", "phone", json!({"mute": [{"jid": "muted@example.com"}]})).await;
    // The device of Bob's first node is enabled once more.
    enable(BOB, "old", "tablet", json!({})).await;
    enable(BOB, "new", "tablet", json!({})).await;
    enable(ALICE, "pc", "pc", json!({})).await;
    enable(CAROL, "phone", "carols-phone", json!({"mute": [{"jid": BOB}]})).await;

    let iq = |payload: &str| stanza::iq("set", BOB, PUSH_HOST, payload);
    let options = stanza::publish_options(&[("service", "fcm"), ("device_id", &doubles::canary("watch"))]);
    let registered = iq(&stanza::enable(PUSH_HOST, "bobs-node", &options));
    pushlark.post("/pubsub", XMPP, registered).await.assert_result();
    pushlark.device_answers("watch", json!({"status": 400, "body": {"reason": "bad_device_token"}})).await;
    let summary =
        stanza::summary(&[("message-count", "1"), ("last-message-sender", ALICE), ("last-message-body", "canary")]);
    let publish = stanza::publish("bobs-node", &stanza::notification(&summary), &[]);
    pushlark.post("/pubsub", XMPP, stanza::iq("set", "example.com", PUSH_HOST, &publish)).await;

    pushlark.event(Event::message(BOB, "canary 1").from(ALICE).id("m1")).await;
    pushlark.notified("phone", 1).await;
    pushlark.event(Event::message(ALICE, "canary 2").from(BOB).id("m2")).await;
    pushlark.event(Event::message(CAROL, "canary 3").from(BOB).id("m3")).await;
    pushlark.event(Event::read(CAROL, BOB)).await;
    pushlark.event(Event::message(BOB, "canary 4").from(CAROL).id("m4")).await;
    pushlark.event(Event::read(BOB, CAROL)).await;
    pushlark.event(Event::message(BOB, "canary 5").from("dave@example.com").id("m5")).await;
    pushlark.event(Event::presence(BOBS_PHONE, "offline")).await;
    pushlark.notified("pc", 1).await;
    pushlark.settled().await;
    pushlark
}

type Item = std::collections::HashMap<String, AttributeValue>;

async fn table(pushlark: &Pushlark) -> Vec<Item> {
    let table = pushlark.stack.environment.text("TABLE_NAME").unwrap();
    pushlark.stack.dynamodb.scan().table_name(table).send().await.unwrap().items.unwrap()
}

/// Returns the keys of the items that name Bob.
async fn naming_bob(pushlark: &Pushlark) -> BTreeSet<String> {
    let items = table(pushlark).await.into_iter().filter(|item| format!("{item:?}").contains(BOB));
    items.map(|item| format!("{} {}", item["pk"].as_s().unwrap(), item["sk"].as_s().unwrap())).collect()
}

#[tokio::test]
async fn after_an_erasure_only_items_that_the_receipt_names_are_left() {
    let pushlark = stack().await;
    let before = naming_bob(&pushlark).await;
    let error = run(&pushlark, &["erase", BOB]).await.error();
    assert!(error.contains("All data of bob@example.com will be deleted") && error.contains("--yes"), "{error}");
    assert_eq!(naming_bob(&pushlark).await, before);

    let exported = run(&pushlark, &["export", BOB]).await.json();
    let receipt = run(&pushlark, &["erase", BOB, "--yes", "--json"]).await.json();
    let deleted: BTreeMap<String, u64> = serde_json::from_value(receipt["deleted"].clone()).unwrap();
    assert_eq!(deleted["registrations"], 2);
    for kind in [
        "push nodes",
        "references to push nodes",
        "sessions",
        "unread counters",
        "entries of devices",
        "names of replaced registrations",
    ] {
        assert!(deleted.contains_key(kind), "{kind}: {deleted:?}");
    }
    let exported = exported["items"].as_array().unwrap().len() as u64;
    assert_eq!(deleted.values().sum::<u64>(), exported, "what is deleted was exported");
    let left = naming_bob(&pushlark).await;
    let expected: BTreeSet<_> = before
        .iter()
        .filter(|key| {
            !key.starts_with(BOB)
                && !key.starts_with("node/")
                && !key.starts_with("device/")
                && !key.starts_with("rate/")
        })
        .cloned()
        .collect();
    assert_eq!(left, expected);
    let named = [format!("{ALICE} unread/{BOB}"), format!("{CAROL} reg/push.example.com/phone")];
    assert!(named.iter().all(|key| left.contains(key)), "{left:?}");
    let of = |what: &str| {
        let expires = receipt["expires"].as_array().unwrap().iter();
        expires
            .filter(|entry| entry["what"].as_str().unwrap().contains(what))
            .map(|entry| entry["days"].clone())
            .next()
            .unwrap()
    };
    assert_eq!(
        [of("claims"), of("unread counters"), of("messages in the queue"), of("dead letters")],
        [16, 90, 14, 14].map(|days| json!(days))
    );
    assert_eq!(of("mutes"), Value::Null);

    let again = run(&pushlark, &["erase", BOB, "--yes"]).await.printed();
    assert!(
        again.starts_with("Deleted of bob@example.com:\n  nothing: the table has no data of the user\n"),
        "{again}"
    );
    assert_eq!(pushlark.nodes(ALICE).await, ["pc"]);
}

#[tokio::test]
async fn a_search_deletes_the_names_in_items_of_others_and_tells_its_price_first() {
    let pushlark = stack().await;
    let error = run(&pushlark, &["erase", BOB, "--scan"]).await.error();
    assert!(error.contains("A scan of the table reads about") && error.contains("read units"), "{error}");
    let receipt = run(&pushlark, &["erase", BOB, "--scan", "--yes", "--json"]).await.json();
    assert_eq!(receipt["deleted_of_others"]["unread counters of other users"], 1, "{receipt}");
    assert_eq!(receipt["kept_of_others"], json!({"mutes in the preferences of other users": 1}));
    let left = naming_bob(&pushlark).await;
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [format!("{CAROL} reg/push.example.com/phone")]);
    assert_eq!((pushlark.nodes(ALICE).await, pushlark.nodes(CAROL).await), (vec!["pc".into()], vec!["phone".into()]));
}

#[tokio::test]
async fn an_export_has_every_item_of_the_user_and_nothing_of_others() {
    let pushlark = stack().await;
    let exported = run(&pushlark, &["export", BOB]).await.json();
    let items = exported["items"].as_array().unwrap();
    let keys: BTreeSet<_> = items
        .iter()
        .map(|item| format!("{} {}", item["item"]["pk"].as_str().unwrap(), item["item"]["sk"].as_str().unwrap()))
        .collect();
    let own: BTreeSet<_> = table(&pushlark)
        .await
        .iter()
        .map(|item| format!("{} {}", item["pk"].as_s().unwrap(), item["sk"].as_s().unwrap()))
        .filter(|key| key.starts_with(BOB) || key.starts_with("node/") || key.contains(&format!("/{BOB} ")))
        .collect();
    assert!(keys.is_superset(&own), "{keys:?}");
    let others: Vec<_> = keys.difference(&own).collect();
    assert!(others.iter().all(|key| key.starts_with("device/")) && others.len() == 3, "{others:?}");
    let phone = items.iter().find(|item| item["item"]["sk"] == json!("reg/push.example.com/phone")).unwrap();
    assert_eq!(phone["kind"], "registrations");
    assert_eq!(phone["item"]["form"], json!({"service": "fcm", "device_id": "canary-phone"}));
    assert_eq!(phone["item"]["preferences"]["mute"][0]["jid"], "muted@example.com");
    assert!(phone["item"]["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(!exported.to_string().contains("carols-phone"));
}

#[tokio::test]
async fn an_export_to_a_file_can_be_read_by_its_owner_alone() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let file = std::env::temp_dir().join(format!("pushlark-export-{}", std::process::id()));
    let path = file.to_str().unwrap();
    assert_eq!(run(&pushlark, &["export", BOB, "--output", path]).await.printed(), "");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let exported: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(exported["items"].as_array().unwrap().len(), 2);
    let error = run(&pushlark, &["export", BOB, "--output", path]).await.error();
    assert!(error.contains("cannot be created"), "an earlier file is not replaced: {error}");
    std::fs::remove_file(&file).unwrap();
}
