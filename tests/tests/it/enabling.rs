//! Enable and disable, as JSON and as IQs.

use pushlark_plugin::PublishService;
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};
use tests::{Pushlark, Reply};

const XMPP: &str = "application/xmpp+xml";

async fn registrations(pushlark: &Pushlark, user: &str) -> Vec<PublishService> {
    pushlark.store().snapshot(&BareJid::new(user).unwrap()).await.unwrap().services
}

fn request(user: &str, jid: &str, node: &str) -> Value {
    json!({"user": user, "jid": jid, "node": node})
}

fn iq(kind: &str, payload: &str) -> String {
    format!(
        "<iq xmlns='jabber:client' type='{kind}' from='bob@example.com/phone' to='bob@example.com' id='x43'>{payload}</iq>"
    )
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
async fn json_is_answered_by_what_was_stored() {
    let pushlark = Pushlark::start().await;
    let mut enable = request("Bob@Example.com/phone", "push.example.com/any", "device-1");
    enable["form"] = json!({"service": "fcm", "device_id": "planted-token", "priority": "high"});
    let reply = pushlark.json("/enable", enable).await;
    assert_eq!((reply.status, reply.content_type()), (200, "application/json"));
    let stored = json!({"status": "enabled", "user": "bob@example.com", "jid": "push.example.com", "node": "device-1"});
    assert_eq!(reply.json(), stored);
    let registrations = registrations(&pushlark, "bob@example.com").await;
    assert_eq!(registrations[0].options.get("priority"), Some("high"));

    let reply = pushlark.json("/disable", request("bob@example.com", "push.example.com", "device-1")).await;
    let mut gone =
        json!({"status": "disabled", "user": "bob@example.com", "jid": "push.example.com", "node": "device-1"});
    gone["removed"] = 1.into();
    assert_eq!((reply.status, reply.json()), (200, gone));
}

#[tokio::test]
async fn disabling_tells_how_many_registrations_are_removed() {
    let pushlark = Pushlark::start().await;
    for node in ["a", "b", "c"] {
        pushlark.enable("bob@example.com", node).await;
    }
    let all = json!({"user": "bob@example.com", "jid": "push.example.com"});
    let one = request("bob@example.com", "push.example.com", "a");
    for (body, removed) in [(one.clone(), 1), (one, 0), (all.clone(), 2), (all, 0)] {
        let reply = pushlark.json("/disable", body.clone()).await;
        assert_eq!((reply.status, &reply.json()["removed"]), (200, &removed.into()), "{body}");
    }
}

/// MongooseIM stores such registrations, too.
#[tokio::test]
async fn a_registration_without_effect_is_answered_with_a_notice() {
    let settings = [("PUBSUB_URL", "served.example=http://127.0.0.1:9/rest")];
    let pushlark = Pushlark::with_settings(settings).await;
    for (user, jid, form, named) in [
        ("bob@example.com", "pubsub.example.com", json!({}), Some(["VIRTUAL_PUBSUB_HOSTS", "PUBSUB_URL"])),
        ("bob@served.example", "pubsub.example.com", json!({}), None),
        ("bob@example.com", "push.example.com", json!({"service": "fcm"}), Some(["device_id", "MongoosePush"])),
        ("bob@example.com", "push.example.com", json!({"device_id": "planted"}), Some(["service", "MongoosePush"])),
        ("bob@example.com", "push.example.com", json!({"device_id": "planted", "service": "fcm"}), None),
    ] {
        let mut enable = request(user, jid, "n");
        enable["form"] = form.clone();
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
        assert!(registrations(&pushlark, user).await.iter().any(|service| service.jid.as_str() == jid));
        // The same as an IQ, whose answer has no place for it.
        let iq = iq("set", &format!("<enable xmlns='urn:xmpp:push:0' jid='{jid}' node='n'/>"));
        assert!(pushlark.post("/enable", XMPP, iq).await.body.contains("type=\"result\""));
    }
}

#[tokio::test]
async fn a_registration_without_effect_is_logged_with_the_setting() {
    let Some(lines) = tests::logged("enabling::a_registration_without_effect_is_logged_with_the_setting") else {
        let pushlark = Pushlark::start().await;
        for jid in ["pubsub.example.com", "push.example.com"] {
            let mut enable = request("bob@example.com", jid, "n");
            enable["form"] = json!({"service": "fcm", "device_id": "planted-token"});
            assert_eq!(pushlark.json("/enable", enable).await.status, 200);
        }
        let disable = request("bob@example.com", "push.example.com", "n");
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
async fn fields_without_a_name_and_white_space_are_passed_over() {
    let pushlark = Pushlark::start().await;
    let device = doubles::planted("phone");
    let field = |name: &str, value: &str| format!("<field var='{name}'><value>{value}</value></field>");
    let fields = [
        field("FORM_TYPE", "http://jabber.org/protocol/pubsub#publish-options"),
        "<field type='fixed'><value>1</value><value>2</value></field><field var=''><value>3</value></field>".into(),
        field("service", " fcm "),
        field("device_id", &format!("\n {device}\t")),
        field("priority", " high "),
        field("mutable_content", "1"),
        field("silent", "0"),
    ]
    .concat();
    let x = format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>");
    let enable = format!("<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'>{x}</enable>");
    let reply = pushlark.post("/enable", XMPP, iq("set", &enable)).await;
    assert!(reply.body.contains("type=\"result\""), "{}", reply.body);
    pushlark.message("bob@example.com", "planted Hi").await;
    let notification = &pushlark.notified("phone", 1).await[0]["notification"];
    assert_eq!(notification["service"], "fcm");
    assert_eq!(notification["priority"], "high");
    assert_eq!(notification["mutable_content"], true);
    assert_eq!(notification["alert"]["body"], "planted Hi");
}

#[tokio::test]
async fn an_iq_is_answered_by_an_iq_in_the_same_media_type() {
    let pushlark = Pushlark::start().await;
    let enable = iq("set", "<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/>");
    for media in [XMPP, "application/xml", "text/xml; charset=utf-8"] {
        let reply = pushlark.post("/enable", media, enable.clone()).await;
        assert_eq!((reply.status, reply.content_type()), (200, media.split(';').next().unwrap()));
        let result = "<iq xmlns=\"jabber:client\" type=\"result\" from=\"bob@example.com\" to=\"bob@example.com/phone\" id=\"x43\"/>";
        assert_eq!(reply.body, result);
    }
    assert_eq!(registrations(&pushlark, "bob@example.com").await.len(), 1);
    let disable = iq("set", "<disable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/>");
    assert!(pushlark.post("/disable", XMPP, disable).await.body.contains("type=\"result\""));
    assert!(registrations(&pushlark, "bob@example.com").await.is_empty());
}

#[tokio::test]
async fn enabling_again_replaces_the_form() {
    let pushlark = Pushlark::start().await;
    pushlark.enable_with("bob@example.com/phone", "n", json!({"secret1": "planted-token1"})).await;
    pushlark.enable_with("bob@example.com/tablet", "n", json!({"secret2": "planted-token2"})).await;
    let registrations = registrations(&pushlark, "bob@example.com").await;
    assert_eq!(registrations.len(), 1);
    assert_eq!(registrations[0].options.get("secret1"), None);
    assert_eq!(registrations[0].options.get("secret2"), Some("planted-token2"));
}

#[tokio::test]
async fn disabling_takes_one_node_or_all_of_a_service_and_nothing_else() {
    let pushlark = Pushlark::start().await;
    for (jid, node) in
        [("push.example.com", "a"), ("push.example.com", "b"), ("push.example.com", "c"), ("other.example.com", "a")]
    {
        assert_eq!(pushlark.json("/enable", request("bob@example.com", jid, node)).await.status, 200);
    }
    pushlark.enable("carol@example.com", "a").await;
    pushlark.json("/disable", request("bob@example.com", "push.example.com", "a")).await;
    let left = |services: Vec<PublishService>| -> Vec<String> {
        services.into_iter().map(|service| format!("{}/{}", service.jid, service.node)).collect()
    };
    let expected = ["other.example.com/a", "push.example.com/b", "push.example.com/c"];
    assert_eq!(left(registrations(&pushlark, "bob@example.com").await), expected);
    pushlark.json("/disable", json!({"user": "bob@example.com", "jid": "push.example.com"})).await;
    assert_eq!(left(registrations(&pushlark, "bob@example.com").await), ["other.example.com/a"]);
    assert_eq!(registrations(&pushlark, "carol@example.com").await.len(), 1);
}

#[tokio::test]
async fn a_bad_request_names_the_field_and_stores_nothing() {
    let pushlark = Pushlark::start().await;
    let with_form = |form: Value| {
        let mut request = request("bob@example.com", "push.example.com", "n");
        request["form"] = form;
        request
    };
    let too_many: serde_json::Map<String, Value> = (0..33).map(|i| (format!("f{i}"), "x".into())).collect();
    for (body, named) in [
        (json!({"jid": "push.example.com", "node": "n"}), "user"),
        (json!({"user": "bob@example.com", "node": "n"}), "jid"),
        (json!({"user": "bob@example.com", "jid": "push.example.com"}), "node"),
        (request("", "push.example.com", "n"), "user"),
        (request("bob@", "push.example.com", "n"), "user"),
        (request("example.com", "push.example.com", "n"), "user"),
        (request("bob@example.com", "", "n"), "jid"),
        (request("bob@example.com", "push@", "n"), "jid"),
        (request("bob@example.com", "push.example.com", ""), "node"),
        (request("bob@example.com", "push.example.com", &"n".repeat(513)), "node"),
        (json!({"user": 5, "jid": "push.example.com", "node": "n"}), "user"),
        (with_form(json!({"device_id": 5})), "form.device_id"),
        (with_form(json!("planted")), "form"),
        (with_form(json!({"FORM_TYPE": "planted"})), "FORM_TYPE"),
        (with_form(json!({"device_id": "planted".repeat(1200)})), "form"),
        (with_form(too_many.into()), "form"),
        (with_form(json!({"priority": "planted"})), "priority"),
        (with_form(json!({"": "x"})), "form"),
        (with_form(json!({"time_to_live": "soon"})), "time_to_live"),
    ] {
        let detail = pushlark.json("/enable", body.clone()).await.problem(400);
        assert!(detail.contains(named), "{body} was answered: {detail}");
    }
    assert!(registrations(&pushlark, "bob@example.com").await.is_empty());
}

#[tokio::test]
async fn options_are_opaque_where_the_host_is_not_virtual() {
    let pushlark = Pushlark::start().await;
    let mut enable = request("bob@example.com", "push.elsewhere.example", "n");
    enable["form"] = json!({"priority": "10", "device_id": "planted-token"});
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
}

#[tokio::test]
async fn a_wrong_iq_is_answered_by_an_error_that_echoes_it() {
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
        "<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>planted</value></field></x></enable>",
        "<disable xmlns='urn:xmpp:push:0' jid='push.example.com'/>",
    ] {
        let reply = pushlark.post("/enable", XMPP, iq("set", payload)).await;
        assert_iq_error(&reply, "bad-request", "modify");
        assert!(payload.is_empty() || reply.body.contains(&payload[..7]), "not echoed: {}", reply.body);
    }
    assert!(registrations(&pushlark, "bob@example.com").await.is_empty());
    let empty_node = "<disable xmlns='urn:xmpp:push:0' jid='push.example.com' node=''/>";
    assert_iq_error(&pushlark.post("/disable", XMPP, iq("set", empty_node)).await, "bad-request", "modify");
}

#[tokio::test]
async fn what_is_no_iq_is_a_problem() {
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
        assert!(detail.contains(named), "{body} was answered: {detail}");
    }
    let large = format!("<iq type='set' id='1'>{}</iq>", " ".repeat(256 * 1024));
    assert!(pushlark.post("/enable", XMPP, large).await.problem(400).contains("bytes"));
}
