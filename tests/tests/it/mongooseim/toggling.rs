//! Enabling and disabling (`push_SUITE`: toggling).

use serde_json::json;

use super::{
    BOB, PM, RES1, assert_bad_request, assert_result, assert_silence, defaults, disable, enable, enable_again_untied,
    enable_at_host, form, iq, message, options, pushed, stack, texts, unacknowledged,
};

#[tokio::test]
async fn enable_should_fail_with_missing_attributes() {
    let pushlark = defaults().await;
    let attributes = ["xmlns='urn:xmpp:push:0'", "jid='bob@localhost'", "node='n'"];
    for given in 0..7 {
        let given: Vec<_> = (0..3).filter(|bit| given & 1 << bit != 0).map(|bit| attributes[bit]).collect();
        let enable = format!("<enable {}/>", given.join(" "));
        assert_bad_request(&iq(&pushlark, "/enable", RES1, &enable).await, &enable);
    }
    assert!(pushlark.nodes(BOB).await.is_empty());
}

#[tokio::test]
async fn enable_should_fail_with_invalid_attributes() {
    let pushlark = defaults().await;
    let publish_options = "http://jabber.org/protocol/pubsub#publish-options";
    for enable in [
        "<enable xmlns='urn:xmpp:push:0' jid='' node='n'/>".to_owned(),
        enable_at_host("", ""),
        enable_at_host("n", &form(publish_options, "<field var='secret1'/>")),
        enable_at_host("n", &form(publish_options, "<field var='s'><value>1</value><value>2</value></field>")),
        enable_at_host("n", &options(&[]).replace("submit", "form")),
    ] {
        assert_bad_request(&iq(&pushlark, "/enable", RES1, &enable).await, &enable);
    }
    assert!(pushlark.nodes(BOB).await.is_empty());
}

#[tokio::test]
async fn enable_should_succeed_without_form() {
    let pushlark = defaults().await;
    assert_result(&iq(&pushlark, "/enable", RES1, &enable_at_host("n", "")).await);
    assert_eq!(pushlark.nodes(BOB).await, ["n"]);
}

#[tokio::test]
async fn enable_with_form_should_fail_with_incorrect_from() {
    let pushlark = defaults().await;
    let enable = enable_at_host("n", &form("wrong", ""));
    assert_bad_request(&iq(&pushlark, "/enable", RES1, &enable).await, &enable);
    assert!(pushlark.nodes(BOB).await.is_empty());
}

#[tokio::test]
async fn enable_should_accept_correct_from() {
    let pushlark = defaults().await;
    let secrets = options(&[("secret1", "canary-token1"), ("secret2", "canary-token2")]);
    for form in [options(&[]), secrets, options(&[("service", "fcm"), ("device_id", "canary-bobs")])] {
        assert_result(&iq(&pushlark, "/enable", RES1, &enable_at_host("n", &form)).await);
        assert_eq!(pushlark.nodes(BOB).await, ["n"]);
    }
    message(&pushlark, PM.from, BOB, PM.body).await;
    assert_eq!(pushed(&pushlark, "bobs").await, [json!({"service": "fcm", "alert": PM.alert()})]);
}

// MongooseIM accepts any value and may fail later. Pushlark refuses a wrong value at once, so that the client sees it.
#[tokio::test]
async fn enable_at_a_virtual_host_should_fail_with_impossible_options() {
    let pushlark = defaults().await;
    for impossible in [("silent", "yes"), ("silent", "TRUE"), ("priority", "10"), ("mode", "selected_mode")] {
        let enable = enable_at_host("n", &options(&[impossible]));
        assert_bad_request(&iq(&pushlark, "/enable", RES1, &enable).await, &enable);
    }
    assert!(pushlark.nodes(BOB).await.is_empty());
}

#[tokio::test]
async fn disable_should_fail_with_missing_attributes() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "n", &[]).await;
    for disable in ["<disable/>", "<disable xmlns='urn:xmpp:push:0'/>", "<disable jid='pubsub@virtual.domain'/>"] {
        assert_bad_request(&iq(&pushlark, "/disable", RES1, disable).await, disable);
    }
    assert_eq!(pushlark.nodes(BOB).await, ["n"]);
}

#[tokio::test]
async fn disable_should_fail_with_invalid_attributes() {
    let pushlark = defaults().await;
    enable(&pushlark, RES1, "n", &[]).await;
    for attributes in ["jid='' node='n'", "jid=''", "jid='pubsub@virtual.domain' node=''"] {
        let disable = format!("<disable xmlns='urn:xmpp:push:0' {attributes}/>");
        assert_bad_request(&iq(&pushlark, "/disable", RES1, &disable).await, &disable);
    }
    assert_eq!(pushlark.nodes(BOB).await, ["n"]);
}

#[tokio::test]
async fn disable_all() {
    let pushlark = defaults().await;
    disable(&pushlark, RES1, "").await;
}

#[tokio::test]
async fn disable_node() {
    let pushlark = defaults().await;
    disable(&pushlark, RES1, "node='n'").await;
}

#[tokio::test]
async fn disable_node_enabled_in_session_removes_it_from_session_info() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    enable(&pushlark, RES1, "n", &[]).await;
    unacknowledged(&pushlark, PM.from, RES1, "tied").await;
    disable(&pushlark, RES1, "node='n'").await;
    enable_again_untied(&pushlark, &["n"]).await;
    unacknowledged(&pushlark, PM.from, RES1, "untied").await;
    message(&pushlark, PM.from, BOB, "offline").await;
    assert_eq!(texts(&pushlark, "n").await, ["tied", "offline"]);
}

#[tokio::test]
async fn disable_all_nodes_removes_it_from_all_user_session_infos() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    let (r1, r2) = ("bob@localhost/r1", "bob@localhost/r2");
    enable(&pushlark, r1, "n1", &[]).await;
    enable(&pushlark, r2, "n2", &[]).await;
    unacknowledged(&pushlark, PM.from, r1, "tied to r1").await;
    unacknowledged(&pushlark, PM.from, r2, "tied to r2").await;
    disable(&pushlark, r1, "").await;
    assert!(pushlark.nodes(BOB).await.is_empty());
    enable_again_untied(&pushlark, &["n1", "n2"]).await;
    unacknowledged(&pushlark, PM.from, r1, "to r1").await;
    unacknowledged(&pushlark, PM.from, r2, "to r2").await;
    assert_eq!(texts(&pushlark, "n1").await, ["tied to r1"]);
    assert_eq!(texts(&pushlark, "n2").await, ["tied to r2"]);
}

// As in MongooseIM, the session with the node loses it, and the other sessions keep theirs.
#[tokio::test]
async fn disable_node_enabled_in_other_session_leaves_current_info_unchanged() {
    let pushlark = stack("PLUGIN", "enhanced").await;
    let (r1, r2) = ("bob@localhost/r1", "bob@localhost/r2");
    enable(&pushlark, r1, "n1", &[]).await;
    enable(&pushlark, r2, "n2", &[]).await;
    disable(&pushlark, r1, "node='n1'").await;
    assert_eq!(pushlark.nodes(BOB).await, ["n2"]);
    enable_again_untied(&pushlark, &["n1"]).await;
    unacknowledged(&pushlark, PM.from, r1, "to r1").await;
    unacknowledged(&pushlark, PM.from, r2, "to r2").await;
    assert_silence(&pushlark, "n1").await;
    assert_eq!(texts(&pushlark, "n2").await, ["to r2"]);
}
