//! MongooseIM's own tests for its push node (`push_pubsub_SUITE`), with the same names.

use pushlark_xmpp::ns;
use serde_json::json;
use tests::{Pushlark, stanza};

use super::{ALICE, DEVICE, HOST, SUMMARY, assert_error, assert_result, config, create, publish, send_iq, set, stack};

#[tokio::test]
async fn has_disco_identity() {
    let pushlark = stack().await;
    let reply = send_iq(&pushlark, ALICE, "get", "d1", &stanza::disco_info()).await;
    assert_result(&reply);
    assert_eq!(
        (reply.attribute("id"), reply.attribute("from"), reply.attribute("to")),
        (Some("d1"), Some(HOST), Some(ALICE))
    );
    let query = reply.child("query", ns::DISCO_INFO).unwrap();
    let identity = query.child("identity", ns::DISCO_INFO).unwrap();
    assert_eq!((identity.attribute("category"), identity.attribute("type")), (Some("pubsub"), Some("push")));
    assert!(query.children().any(|child| child.name() == "feature" && child.attribute("var") == Some(ns::PUSH)));
}

#[tokio::test]
async fn allocate_basic_node() {
    let pushlark = stack().await;
    create(&pushlark, "alice@localhost/res1", "node").await;
    let again = set(&pushlark, "bob@localhost", &stanza::pubsub("<create node='node' type='push'/>")).await;
    assert_error(&again, "cancel", "conflict", None);
}

#[tokio::test]
async fn publish_fails_with_invalid_item() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let notification = "<notification xmlns='urn:xmpp:push:0'/>";
    for (item, detail) in [
        ("<invalid-item xmlns='urn:xmpp:push:0'/>", "invalid-payload"),
        ("", "payload-required"),
        ("<notification xmlns='urn:xmpp:push:1'/>", "invalid-payload"),
        (&notification.repeat(2), "invalid-payload"),
        (&format!("{notification}<x xmlns='urn:other'/>"), "invalid-payload"),
    ] {
        let reply = set(&pushlark, ALICE, &stanza::publish("node", item, &DEVICE)).await;
        assert_error(&reply, "modify", "bad-request", Some(detail));
    }
    for (items, detail) in [("<item/><item/>", "invalid-payload"), ("", "item-required"), ("<x/>", "item-required")] {
        let publish = stanza::pubsub(&format!("<publish node='node'>{items}</publish>"));
        assert_error(&set(&pushlark, ALICE, &publish).await, "modify", "bad-request", Some(detail));
    }
}

#[tokio::test]
async fn publish_fails_when_missing_mandatory_fields() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let summary = [SUMMARY[0], SUMMARY[2]];
    let reply = set(&pushlark, ALICE, &publish("node", &summary, &DEVICE)).await;
    assert_error(&reply, "modify", "bad-request", Some("invalid-payload"));
    let silent = [DEVICE[0], DEVICE[1], ("silent", "true")];
    assert_result(&set(&pushlark, ALICE, &publish("node", &summary, &silent)).await);
}

#[tokio::test]
async fn publish_fails_with_no_options() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    for options in [&[][..], &DEVICE[..1], &DEVICE[1..]] {
        let reply = set(&pushlark, ALICE, &publish("node", &SUMMARY, options)).await;
        assert_error(&reply, "cancel", "conflict", Some("precondition-not-met"));
    }
}

#[tokio::test]
async fn publish_succeeds_with_valid_options() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let reply = set(&pushlark, ALICE, &publish("node", &SUMMARY, &DEVICE)).await;
    assert_result(&reply);
    let published = reply.child("pubsub", ns::PUBSUB).unwrap().child("publish", ns::PUBSUB).unwrap();
    assert_eq!(published.attribute("node"), Some("node"));
    assert_eq!(published.child("item", ns::PUBSUB).unwrap().attribute("id"), Some("i1"));
}

#[tokio::test]
async fn push_node_can_be_configured_to_whitelist_publishers() {
    let pushlark = stack().await;
    let created = stanza::pubsub(&format!("<create node='node' type='push'/>{}", config("whitelist", "publishers")));
    assert_result(&set(&pushlark, ALICE, &created).await);
    let read = send_iq(&pushlark, ALICE, "get", "g1", &stanza::pubsub_owner("<configure node='node'/>")).await;
    assert!(
        read.to_string().contains("access_model\"><value>whitelist<")
            && read.to_string().contains("publish_model\"><value>publishers<"),
        "{read}"
    );
    let publish = publish("node", &SUMMARY, &DEVICE);
    assert_error(&set(&pushlark, "bob@localhost", &publish).await, "auth", "forbidden", None);
    assert_result(&set(&pushlark, ALICE, &publish).await);
}

#[tokio::test]
async fn rest_service_called_with_correct_path_v2() {
    let pushlark = Pushlark::with_settings([("VIRTUAL_PUBSUB_HOSTS", HOST), ("MONGOOSEPUSH_API_VERSION", "v2")]).await;
    create(&pushlark, ALICE, "node").await;
    pushlark.device_answers("sometoken", json!({"status": 204})).await;
    let options =
        [DEVICE[0], ("service", "some_awesome_service"), ("mode", "prod"), ("topic", "some_topic"), ("app", "other")];
    assert_result(&set(&pushlark, ALICE, &publish("node", &SUMMARY, &options)).await);
    let notified = &pushlark.notified("sometoken", 1).await[0];
    assert_eq!(notified["api"], "v2");
    let notification = &notified["notification"];
    assert_eq!(notification["service"], "some_awesome_service");
    assert_eq!((&notification["mode"], &notification["topic"]), (&json!("prod"), &json!("some_topic")));
}

#[tokio::test]
async fn rest_service_gets_correct_payload_v2() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    assert_result(&set(&pushlark, ALICE, &publish("node", &SUMMARY, &DEVICE)).await);
    let notification = &pushlark.notified("sometoken", 1).await[0]["notification"];
    let alert = json!({"badge": 876, "title": "senderId", "tag": "senderId", "body": "canary message body 576364!!"});
    assert_eq!((&notification["alert"], notification.get("data")), (&alert, None));
}

#[tokio::test]
async fn rest_service_gets_correct_payload_silent_v2() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let silent = [DEVICE[0], DEVICE[1], ("silent", "true")];
    assert_result(&set(&pushlark, ALICE, &publish("node", &SUMMARY, &silent)).await);
    let notification = &pushlark.notified("sometoken", 1).await[0]["notification"];
    let data = json!({"message-count": 876, "last-message-sender": "senderId",
        "last-message-body": "canary message body 576364!!"});
    assert_eq!((&notification["data"], notification.get("alert")), (&data, None));
}
