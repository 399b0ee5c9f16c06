//! Requests to enable and disable push, in JSON and as IQs.

use pushlark_xmpp::ns;
use serde_json::{Value, json};
use tests::{BOB, BOBS_PHONE, CAROL, PUSH_HOST, PushRequest, Pushlark, Reply, XMPP, stanza};

fn request(user: &str, jid: &str, node: &str) -> PushRequest {
    PushRequest::new(user, node).at(jid)
}

fn iq(kind: &str, payload: &str) -> String {
    stanza::iq_with_id(kind, BOBS_PHONE, BOB, "x43", payload)
}

fn assert_iq_error(reply: &Reply, condition: &str, error_type: &str) {
    assert_eq!((reply.status, reply.content_type()), (200, XMPP));
    for part in [
        "type=\"error\"",
        "id=\"x43\"",
        &format!("<error type=\"{error_type}\"><{condition} "),
        "to=\"bob@example.com/phone\"",
    ] {
        assert!(reply.body.contains(part), "no {part} in {}", reply.body);
    }
}

#[tokio::test]
async fn a_json_request_is_answered_with_the_stored_registration() {
    let pushlark = Pushlark::start().await;
    let enable = request("Bob@Example.com/phone", "push.example.com/any", "device-1");
    let enable = enable.device("token").options(json!({"priority": "high"}));
    let reply = pushlark.json("/enable", enable).await;
    assert_eq!((reply.status, reply.content_type()), (200, "application/json"));
    let stored = json!({"status": "enabled", "user": BOB, "jid": "push.example.com", "node": "device-1"});
    assert_eq!(reply.json(), stored);
    let registrations = pushlark.registrations(BOB).await;
    assert_eq!(registrations[0].options.get("priority"), Some("high"));

    let reply = pushlark.json("/disable", request(BOB, "push.example.com", "device-1")).await;
    let mut gone = json!({"status": "disabled", "user": BOB, "jid": "push.example.com", "node": "device-1"});
    gone["removed"] = 1.into();
    assert_eq!((reply.status, reply.json()), (200, gone));
}

#[tokio::test]
async fn disable_returns_the_number_of_removed_registrations() {
    let pushlark = Pushlark::start().await;
    for node in ["a", "b", "c"] {
        pushlark.enable(BOB, node).await;
    }
    let all = PushRequest::all_nodes(BOB);
    let one = request(BOB, "push.example.com", "a");
    for (body, removed) in [(one.clone(), 1), (one, 0), (all.clone(), 2), (all, 0)] {
        let reply = pushlark.json("/disable", body.clone()).await;
        assert_eq!((reply.status, &reply.json()["removed"]), (200, &removed.into()), "{body}");
    }
}

/// MongooseIM stores such registrations too.
#[tokio::test]
async fn a_registration_without_effect_is_answered_with_a_notice() {
    let settings = [("PUBSUB_URL", "served.example=http://127.0.0.1:9/rest")];
    let pushlark = Pushlark::with_settings(settings).await;
    for (user, jid, form, named) in [
        (BOB, "pubsub.example.com", json!({}), Some(["VIRTUAL_PUBSUB_HOSTS", "PUBSUB_URL"])),
        ("bob@served.example", "pubsub.example.com", json!({}), None),
        (BOB, "push.example.com", json!({"service": "fcm"}), Some(["device_id", "MongoosePush"])),
        (BOB, "push.example.com", json!({"device_id": "canary"}), Some(["service", "MongoosePush"])),
        (BOB, "push.example.com", json!({"device_id": "canary", "service": "fcm"}), None),
    ] {
        let enable = request(user, jid, "n").form(form.clone());
        let reply = pushlark.json("/enable", enable).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let notice = reply.json()["notice"].as_str().map(ToOwned::to_owned);
        match named {
            None => assert_eq!(notice, None, "{user} {jid} {form}"),
            Some(named) => {
                let notice = notice.unwrap();
                assert!(named.iter().all(|named| notice.contains(named)), "{notice}");
            }
        }
        assert!(pushlark.registrations(user).await.iter().any(|registration| registration.jid.as_str() == jid));
        // The answer to an IQ has no place for the notice.
        let iq = iq("set", &stanza::enable(jid, "n", ""));
        assert!(pushlark.post("/enable", XMPP, iq).await.body.contains("type=\"result\""));
    }
}

#[tokio::test]
async fn a_service_that_no_provider_knows_is_refused_with_the_known_ones() {
    let pushlark = Pushlark::start().await;
    for service in ["canary-hms", "web-push", "FCM"] {
        let form = [("service", service), ("device_id", "canary"), ("endpoint", "https://push.example/canary")];
        let options: Value = form.map(|(name, value)| (name.to_owned(), Value::from(value))).into_iter().collect();
        let detail = pushlark.json("/enable", request(BOB, PUSH_HOST, "n").form(options)).await.problem(400);
        assert!(detail.contains("\"service\" must be apns or fcm"), "{detail}");
        let enable = stanza::enable(PUSH_HOST, "n", &stanza::publish_options(&form));
        let reply = pushlark.post("/enable", XMPP, iq("set", &enable)).await;
        assert_iq_error(&reply, "bad-request", "modify");
        assert!(reply.body.contains("must be apns or fcm"), "{}", reply.body);
        let reply = pushlark.post("/pubsub", XMPP, stanza::iq("set", BOBS_PHONE, PUSH_HOST, &enable)).await;
        assert!(reply.body.contains("must be apns or fcm"), "{}", reply.body);
    }
    assert!(pushlark.registrations(BOB).await.is_empty());
    // The options of a real host are not checked, and a push service of the operator may know any service.
    let hms = json!({"service": "hms", "device_id": "canary"});
    let real = request(BOB, "push.elsewhere.example", "n").form(hms.clone());
    assert_eq!(pushlark.json("/enable", real).await.status, 200);
    let own = Pushlark::with_settings([("PUSH_SERVICE", "http://127.0.0.1:9")]).await;
    assert_eq!(own.json("/enable", request(BOB, PUSH_HOST, "n").form(hms)).await.status, 200);
}

#[tokio::test]
async fn a_registration_without_effect_is_logged_with_the_setting() {
    let Some(lines) = tests::logged("enable_disable::a_registration_without_effect_is_logged_with_the_setting") else {
        let pushlark = Pushlark::start().await;
        for jid in ["pubsub.example.com", "push.example.com"] {
            let enable = request(BOB, jid, "n").device("token");
            assert_eq!(pushlark.json("/enable", enable).await.status, 200);
        }
        let disable = request(BOB, "push.example.com", "n");
        assert_eq!(pushlark.json("/disable", disable).await.status, 200);
        return;
    };
    let line = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
    let warning = line("enabled, but no notification is sent");
    assert_eq!((&warning["level"], &warning["jid"]), (&json!("WARN"), &json!("pubsub.example.com")));
    assert!(warning["reason"].as_str().unwrap().contains("PUBSUB_URL"), "{warning}");
    assert_eq!(line("enabled")["jid"], "push.example.com");
    assert_eq!(line("disabled")["removed"], 1);
}

#[tokio::test]
async fn form_fields_without_a_name_and_white_space_are_ignored() {
    let pushlark = Pushlark::start().await;
    let device = doubles::canary("phone");
    let fields = [
        "<field type='fixed'><value>1</value><value>2</value></field><field var=''><value>3</value></field>".into(),
        stanza::field("service", " fcm "),
        stanza::field("device_id", &format!("\n {device}\t")),
        stanza::field("priority", " high "),
        stanza::field("mutable_content", "1"),
        stanza::field("silent", "0"),
    ]
    .concat();
    let enable = stanza::enable(PUSH_HOST, "n", &stanza::form_of(ns::PUBLISH_OPTIONS, &fields));
    pushlark.post("/enable", XMPP, iq("set", &enable)).await.assert_result();
    pushlark.message(BOB, "canary Hi").await;
    let notification = &pushlark.notified("phone", 1).await[0]["notification"];
    assert_eq!(notification["service"], "fcm");
    assert_eq!(notification["priority"], "high");
    assert_eq!(notification["mutable_content"], true);
    assert_eq!(notification["alert"]["body"], "canary Hi");
}

#[tokio::test]
async fn an_iq_is_answered_with_an_iq_in_the_same_media_type() {
    let pushlark = Pushlark::start().await;
    let enable = iq("set", &stanza::enable(PUSH_HOST, "n", ""));
    for media in [XMPP, "application/xml", "text/xml; charset=utf-8"] {
        let reply = pushlark.post("/enable", media, enable.clone()).await;
        assert_eq!((reply.status, reply.content_type()), (200, media.split(';').next().unwrap()));
        let result =
            r#"<iq xmlns="jabber:client" type="result" from="bob@example.com" to="bob@example.com/phone" id="x43"/>"#;
        assert_eq!(reply.body, result);
    }
    assert_eq!(pushlark.registrations(BOB).await.len(), 1);
    let disable = iq("set", &stanza::disable(PUSH_HOST, "n"));
    assert!(pushlark.post("/disable", XMPP, disable).await.body.contains("type=\"result\""));
    assert!(pushlark.registrations(BOB).await.is_empty());
}

#[tokio::test]
async fn enabling_again_replaces_the_form() {
    let pushlark = Pushlark::start().await;
    pushlark.enable_with(BOBS_PHONE, "n", json!({"secret1": "canary-token1"})).await;
    pushlark.enable_with("bob@example.com/tablet", "n", json!({"secret2": "canary-token2"})).await;
    let registrations = pushlark.registrations(BOB).await;
    assert_eq!(registrations.len(), 1);
    assert_eq!(registrations[0].options.get("secret1"), None);
    assert_eq!(registrations[0].options.get("secret2"), Some("canary-token2"));
}

#[tokio::test]
async fn disable_removes_one_node_or_all_nodes_of_a_service() {
    let pushlark = Pushlark::start().await;
    for (jid, node) in
        [("push.example.com", "a"), ("push.example.com", "b"), ("push.example.com", "c"), ("other.example.com", "a")]
    {
        assert_eq!(pushlark.json("/enable", request(BOB, jid, node)).await.status, 200);
    }
    pushlark.enable(CAROL, "a").await;
    pushlark.json("/disable", request(BOB, "push.example.com", "a")).await;
    let left = async |user: &str| -> Vec<String> {
        let registrations = pushlark.registrations(user).await.into_iter();
        registrations.map(|registration| format!("{}/{}", registration.jid, registration.node)).collect()
    };
    let expected = ["other.example.com/a", "push.example.com/b", "push.example.com/c"];
    assert_eq!(left(BOB).await, expected);
    pushlark.json("/disable", PushRequest::all_nodes(BOB)).await;
    assert_eq!(left(BOB).await, ["other.example.com/a"]);
    assert_eq!(pushlark.registrations(CAROL).await.len(), 1);
}

#[tokio::test]
async fn a_bad_request_names_the_field_and_stores_nothing() {
    let pushlark = Pushlark::start().await;
    let with_form = |form: Value| PushRequest::new(BOB, "n").form(form);
    let too_many: serde_json::Map<String, Value> = (0..33).map(|i| (format!("f{i}"), "x".into())).collect();
    for (body, named) in [
        (PushRequest::new(BOB, "n").without("user"), "user"),
        (PushRequest::new(BOB, "n").without("jid"), "jid"),
        (PushRequest::all_nodes(BOB), "node"),
        (request("", "push.example.com", "n"), "user"),
        (request("bob@", "push.example.com", "n"), "user"),
        (request("example.com", "push.example.com", "n"), "user"),
        (request(BOB, "", "n"), "jid"),
        (request(BOB, "push@", "n"), "jid"),
        (request(BOB, "push.example.com", ""), "node"),
        (request(BOB, "push.example.com", &"n".repeat(513)), "node"),
        (PushRequest::new(BOB, "n").with("user", 5), "user"),
        (with_form(json!({"device_id": 5})), "form.device_id"),
        (with_form(json!("canary")), "form"),
        (with_form(json!({"FORM_TYPE": "canary"})), "FORM_TYPE"),
        (with_form(json!({"device_id": "canary".repeat(1400)})), "form"),
        (with_form(too_many.into()), "form"),
        (with_form(json!({"priority": "canary"})), "priority"),
        (with_form(json!({"": "x"})), "form"),
        (with_form(json!({"time_to_live": "soon"})), "time_to_live"),
    ] {
        let detail = pushlark.json("/enable", body.clone()).await.problem(400);
        assert!(detail.contains(named), "{body} was answered with {detail}");
    }
    assert!(pushlark.registrations(BOB).await.is_empty());
}

#[tokio::test]
async fn options_are_not_checked_at_a_real_host() {
    let pushlark = Pushlark::start().await;
    let enable = request(BOB, "push.elsewhere.example", "n");
    let enable = enable.form(json!({"priority": "10", "device_id": "canary-token"}));
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
}

#[tokio::test]
async fn a_wrong_iq_is_answered_with_an_error_that_echoes_it() {
    let pushlark = Pushlark::start().await;
    let get = pushlark.post("/enable", XMPP, iq("get", "<enable xmlns='urn:xmpp:push:0'/>")).await;
    assert_iq_error(&get, "not-allowed", "cancel");
    let get = pushlark.post("/disable", XMPP, iq("get", "<disable xmlns='urn:xmpp:push:0'/>")).await;
    assert_iq_error(&get, "not-allowed", "cancel");
    for payload in [
        "",
        "<enable/>",
        "<enable jid='push.example.com' node='n'/>",
        "<enable xmlns='urn:xmpp:push:0' jid='push.example.com'/>",
        "<enable xmlns='urn:xmpp:push:0' node='n'/>",
        "<enable xmlns='urn:xmpp:push:0' jid='' node='n'/>",
        "<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node=''/>",
        &stanza::enable(PUSH_HOST, "n", &stanza::form("canary", &[])),
        "<disable xmlns='urn:xmpp:push:0' jid='push.example.com'/>",
    ] {
        let reply = pushlark.post("/enable", XMPP, iq("set", payload)).await;
        assert_iq_error(&reply, "bad-request", "modify");
        assert!(payload.is_empty() || reply.body.contains(&payload[..7]), "the payload is not echoed: {}", reply.body);
    }
    assert!(pushlark.registrations(BOB).await.is_empty());
    let empty_node = "<disable xmlns='urn:xmpp:push:0' jid='push.example.com' node=''/>";
    assert_iq_error(&pushlark.post("/disable", XMPP, iq("set", empty_node)).await, "bad-request", "modify");
}

#[tokio::test]
async fn a_body_that_is_not_an_iq_is_a_problem() {
    let pushlark = Pushlark::start().await;
    for (body, named) in [
        ("<iq", "XML"),
        ("", "element"),
        ("<message from='a@b' to='c@d'/>", "<iq/>"),
        ("<iq type='set' from='bob@example.com'/>", "id"),
        ("<iq type='push' id='1'/>", "type"),
        ("<iq type='result' id='1'/>", "result"),
        ("<iq xmlns='jabber:x' type='set' id='1'/>", "namespace"),
        ("<!DOCTYPE iq [<!ENTITY a 'b'>]><iq type='set' id='1'>&a;</iq>", "document type"),
    ] {
        let detail = pushlark.post("/enable", XMPP, body).await.problem(400);
        assert!(detail.contains(named), "{body} was answered with {detail}");
    }
    let large = format!("<iq type='set' id='1'>{}</iq>", " ".repeat(256 * 1024));
    assert!(pushlark.post("/enable", XMPP, large).await.problem(400).contains("bytes"));
}
