//! Requests that the push node refuses.

use tests::{Pushlark, XMPP, send, stanza};

use super::{ALICE, HOST, assert_error, captured, send_iq, send_stanza, stack};

#[tokio::test]
async fn each_unsupported_request_is_refused_with_its_xmpp_condition() {
    let pushlark = stack().await;
    for (kind, payload, error) in [
        ("get", "<ping xmlns='urn:xmpp:ping'/>", ("cancel", "feature-not-implemented", None)),
        (
            "set",
            &stanza::pubsub("<subscribe node='n' jid='a@b'/>"),
            ("cancel", "feature-not-implemented", Some("unsupported")),
        ),
        ("get", &stanza::create_node("n"), ("cancel", "feature-not-implemented", None)),
        ("set", &stanza::pubsub(""), ("modify", "bad-request", None)),
        ("set", &stanza::pubsub_owner("<delete/>"), ("modify", "bad-request", Some("nodeid-required"))),
        ("set", &stanza::create_node(""), ("modify", "not-acceptable", Some("nodeid-required"))),
        (
            "set",
            &stanza::pubsub("<create node='n' type='collection'/>"),
            ("cancel", "feature-not-implemented", Some("unsupported")),
        ),
        ("set", "<a xmlns='x'/><b xmlns='x'/>", ("modify", "bad-request", None)),
        ("set", &stanza::enable(HOST, "n", ""), ("modify", "bad-request", None)),
        ("set", &stanza::enable("other.localhost", "n", ""), ("modify", "bad-request", None)),
    ] {
        let reply = send_iq(&pushlark, ALICE, kind, "x", payload).await;
        assert_error(&reply, error.0, error.1, error.2);
    }
    let other_host = stanza::iq("set", ALICE, "push.elsewhere", &stanza::create_node("n"));
    assert_error(&send_stanza(&pushlark, &other_host).await, "cancel", "not-allowed", None);
    let without_from = format!("<iq type='set' to='{HOST}' id='x'>{}</iq>", stanza::create_node("n"));
    assert_error(&send_stanza(&pushlark, &without_from).await, "modify", "bad-request", None);
    for body in ["<iq", "<message/>", "<iq type='result' id='r'/>"] {
        pushlark.post("/pubsub", "text/xml", body).await.problem(400);
    }
    pushlark.post("/pubsub", "text/plain", "x").await.problem(415);
}

#[tokio::test]
async fn the_push_node_checks_the_credentials_of_webhooks() {
    let pushlark =
        Pushlark::with_settings([("VIRTUAL_PUBSUB_HOSTS", HOST), ("WEBHOOK_SECRET", "canary-s3cret-key")]).await;
    let iq = captured("prosody-body");
    pushlark.post("/pubsub", XMPP, iq.clone()).await.problem(401);
    let request = || pushlark.request("/pubsub", XMPP, iq.clone());
    send(request().basic_auth("any", Some("canary-wrong"))).await.problem(401);
    assert_eq!(send(request().basic_auth("any", Some("canary-s3cret-key"))).await.status, 200);
}
