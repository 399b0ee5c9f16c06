//! Registrations at real PubSub services: publish requests, and their errors.

use doubles::{Answer, Rest};
use local::Options;
use pushlark_settings::Environment;
use pushlark_xmpp::{Element, ns};
use serde_json::json;
use tests::{ALICE, BOB, Event, PushRequest, Pushlark, XMPP, eventually, stanza, with_fast_sqs};
use tokio::net::TcpListener;

const HOST: &str = "pubsub.example.org";
const TOKEN: &str = "Y2FuYXJ5MQ==";

async fn stack(rest: &Rest, settings: &[(&str, &str)]) -> Pushlark {
    let url = format!("{}/rest", rest.url);
    let own = [("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", TOKEN)];
    let environment = Environment::from_iter(own.into_iter().chain(settings.iter().copied()));
    Pushlark::with(Options { environment, ..with_fast_sqs(100) }).await
}

async fn enable(pushlark: &Pushlark, node: &str, form: serde_json::Value) {
    let reply = pushlark.json("/enable", PushRequest::new(BOB, node).at(HOST).form(form)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

async fn published(rest: &Rest, node: &str, times: usize) -> Vec<Element> {
    eventually(&format!("{times} publishes to {node}"), async || {
        Some(rest.published(node)).filter(|published| published.len() >= times)
    })
    .await
}

#[tokio::test]
async fn the_publish_iq_matches_mongooseim() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    enable(&pushlark, "phone", json!({"device_id": "canary-sometoken", "service": "apns"})).await;
    enable(&pushlark, "bare", json!({})).await;
    pushlark.message(BOB, "canary: OH, HAI! <&>").await;
    let iq = &published(&rest, "phone", 1).await[0];
    let id = iq.attribute("id").unwrap();
    let form = |form_type: &str, fields: &str| {
        format!(
            "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>\
             <value>{form_type}</value></field>{fields}</x>"
        )
    };
    let fields = |fields: &[(&str, &str)]| -> String {
        fields.iter().map(|(name, value)| format!("<field var='{name}'><value>{value}</value></field>")).collect()
    };
    let summary =
        [("message-count", "1"), ("last-message-sender", ALICE), ("last-message-body", "canary: OH, HAI! &lt;&amp;>")];
    let expected = format!(
        "<iq type='set' id='{id}' from='example.com' to='{HOST}'>\
         <pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='phone'><item>\
         <notification xmlns='urn:xmpp:push:0'>{}</notification></item></publish>\
         <publish-options>{}</publish-options></pubsub></iq>",
        form("urn:xmpp:push:summary", &fields(&summary)),
        form(ns::PUBLISH_OPTIONS, &fields(&[("device_id", "canary-sometoken"), ("service", "apns")])),
    );
    assert_eq!(*iq, Element::parse(&expected).unwrap());
    let bare = &published(&rest, "bare", 1).await[0];
    assert!(bare.child("pubsub", ns::PUBSUB).unwrap().child("publish-options", ns::PUBSUB).is_none());
    assert_ne!(bare.attribute("id"), Some(id));
}

#[tokio::test]
async fn a_real_node_gets_the_notifications_of_a_virtual_host() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    let body = |iq: &Element| {
        let xml = iq.to_string();
        let field = |name: &str| {
            let after = xml.split(&format!("var=\"{name}\"><value>")).nth(1).unwrap().to_owned();
            after.split('<').next().unwrap().to_owned()
        };
        (field("last-message-sender"), field("last-message-body"))
    };
    let muclight = async |text: &str| {
        pushlark.event(Event::groupchat("Room@MUClight.example.com/alice@example.com", BOB, text)).await
    };
    let presence = async |status: &str| pushlark.event(Event::presence("bob@example.com/r1", status)).await;

    // Bob has not enabled push.
    pushlark.message(BOB, "canary 1").await;
    pushlark.settled().await;
    assert_eq!(rest.count(), 0);

    // Bob is online.
    enable(&pushlark, "phone", json!({"field1": "canary-value1", "field2": "canary-value2"})).await;
    presence("online").await;
    pushlark.message(BOB, "canary 2").await;
    muclight("3").await;
    pushlark.settled().await;
    assert_eq!(rest.count(), 0);

    // Bob is offline.
    presence("offline").await;
    pushlark.message(BOB, "canary: OH, HAI!").await;
    assert_eq!(body(&published(&rest, "phone", 1).await[0]), ("alice@example.com".into(), "canary: OH, HAI!".into()));
    muclight("Heyah!").await;
    let iq = &published(&rest, "phone", 2).await[1];
    assert_eq!(body(iq), ("room@muclight.example.com/alice@example.com".into(), "Heyah!".into()));
    let option = |name: &str, value: &str| format!("<field var=\"{name}\"><value>{value}</value></field>");
    let options = option("field1", "canary-value1") + &option("field2", "canary-value2");
    assert!(iq.to_string().contains(&options), "{iq}");

    // Bob disables push, and is removed.
    pushlark.json("/disable", PushRequest::new(BOB, "phone").at(HOST)).await;
    pushlark.message(BOB, "4").await;
    enable(&pushlark, "phone", json!({})).await;
    pushlark.event(Event::user_removed(BOB)).await;
    pushlark.settled().await;
    pushlark.message(BOB, "5").await;
    pushlark.settled().await;
    assert_eq!(rest.count(), 2);
}

#[tokio::test]
async fn characters_that_xml_forbids_are_removed() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("BODY_PLACEHOLDER", "a\u{1}b"), ("INCLUDE_BODY", "off")]).await;
    enable(&pushlark, "phone", json!({})).await;
    pushlark.message(BOB, "canary Hi").await;
    assert!(published(&rest, "phone", 1).await[0].to_string().contains("<value>ab</value>"));
}

#[tokio::test]
async fn only_an_error_of_type_cancel_disables_the_node() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    for (kind, condition) in [
        ("cancel", "item-not-found"),
        ("auth", "forbidden"),
        ("modify", "bad-request"),
        ("continue", "undefined-condition"),
    ] {
        enable(&pushlark, kind, json!({})).await;
        rest.node_fails(kind, kind, condition);
    }
    for text in ["canary 1", "canary 2"] {
        pushlark.message(BOB, text).await;
        pushlark.settled().await;
    }
    assert_eq!(pushlark.nodes(BOB).await, ["auth", "continue", "modify"]);
    assert_eq!(rest.published("cancel").len(), 1);
    for kind in ["auth", "continue", "modify"] {
        assert_eq!(rest.published(kind).len(), 2, "{kind}: not retried");
    }
}

#[tokio::test]
async fn an_error_of_type_wait_is_retried_a_limited_number_of_times() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    enable(&pushlark, "phone", json!({})).await;
    rest.node_fails("phone", "wait", "resource-constraint");
    pushlark.message(BOB, "canary 1").await;
    published(&rest, "phone", 3).await;
    rest.node_recovers("phone");
    pushlark.settled().await;
    let tries = rest.published("phone").len();
    assert!(tries < 8, "{tries}");

    rest.node_fails("phone", "wait", "resource-constraint");
    pushlark.message(BOB, "canary 2").await;
    pushlark.settled().await;
    assert_eq!(rest.published("phone").len(), tries + 8);
    assert_eq!(pushlark.nodes(BOB).await, ["phone"]);
}

/// Errors of the chat server do not count as errors of the node.
#[tokio::test]
async fn an_outage_does_not_count_as_tries_of_a_node() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_MAX_ERRORS", "1")]).await;
    enable(&pushlark, "phone", json!({})).await;
    for _ in 0..5 {
        rest.answer_next(Answer::text(503, ""));
    }
    rest.node_fails("phone", "wait", "remote-server-timeout");
    pushlark.message(BOB, "canary Hi").await;
    published(&rest, "phone", 7).await;
    rest.node_recovers("phone");
    published(&rest, "phone", 8).await;
    pushlark.settled().await;
    assert_eq!(pushlark.nodes(BOB).await, ["phone"]);
}

#[tokio::test]
async fn the_last_error_of_type_wait_counts_and_a_timeout_does_not() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_MAX_ERRORS", "1")]).await;
    enable(&pushlark, "phone", json!({})).await;
    rest.node_fails("phone", "wait", "resource-constraint");
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    assert_eq!(rest.published("phone").len(), 8);
    assert_eq!(pushlark.nodes(BOB).await.len(), 0);

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/rest", silent.local_addr().unwrap());
    let settings = [("PUBSUB_URL", url.as_str()), ("PUBSUB_MAX_ERRORS", "1"), ("PUBLISH_TIMEOUT_MS", "200")];
    let pushlark = stack(&rest, &settings).await;
    enable(&pushlark, "phone", json!({})).await;
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    assert_eq!(pushlark.nodes(BOB).await, ["phone"]);
}

#[tokio::test]
async fn pubsub_max_errors_in_a_row_disable_a_node() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_MAX_ERRORS", "2")]).await;
    enable(&pushlark, "phone", json!({})).await;
    for errs in [true, false, true] {
        match errs {
            true => rest.node_fails("phone", "auth", "forbidden"),
            false => rest.node_recovers("phone"),
        }
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        assert_eq!(pushlark.nodes(BOB).await, ["phone"]);
    }
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    assert_eq!(pushlark.nodes(BOB).await.len(), 0);
}

#[tokio::test]
async fn an_unavailable_chat_server_is_retried() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    enable(&pushlark, "phone", json!({})).await;
    for status in [503, 429, 502] {
        rest.answer_next(Answer::text(status, ""));
    }
    pushlark.message(BOB, "canary Hi").await;
    published(&rest, "phone", 4).await;
    pushlark.settled().await;
    assert_eq!(rest.requests().iter().map(|request| request.status).collect::<Vec<_>>(), [503, 429, 502, 200]);
    rest.answer_next(Answer::text(200, "<html>canary</html>"));
    rest.answer_next(Answer::text(200, "<iq type='result' id='other'/>"));
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    assert_eq!(rest.published("phone").len(), 7, "an answer that is not the result is retried");
    assert_eq!(pushlark.nodes(BOB).await, ["phone"]);
}

#[tokio::test]
async fn a_wrong_token_keeps_the_node() {
    let rest = Rest::start("canary-another").await;
    let pushlark = stack(&rest, &[]).await;
    enable(&pushlark, "phone", json!({})).await;
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    assert_eq!((rest.count(), pushlark.nodes(BOB).await.len()), (0, 1));
}

#[tokio::test]
async fn publish_options_are_omitted_for_a_host_in_the_setting() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_WITHOUT_OPTIONS", HOST)]).await;
    enable(&pushlark, "phone", json!({"device_id": "canary-sometoken"})).await;
    pushlark.message(BOB, "canary Hi").await;
    assert!(!published(&rest, "phone", 1).await[0].to_string().contains("publish-options"));
}

#[tokio::test]
async fn each_domain_uses_its_own_chat_server_or_the_default() {
    let (own, others) = (Rest::start("canary-own").await, Rest::start("canary-others").await);
    let urls = format!("example.com={}/rest,{}/rest", own.url, others.url);
    let settings = [("PUBSUB_URL", urls.as_str()), ("PUBSUB_TOKEN", "Example.com=canary-own,canary-others")];
    let pushlark = Pushlark::with_settings(settings).await;
    for user in [BOB, "carol@example.net"] {
        pushlark.json("/enable", PushRequest::new(user, user).at(HOST)).await;
        pushlark.message(user, "canary Hi").await;
    }
    assert_eq!(published(&own, BOB, 1).await[0].attribute("from"), Some("example.com"));
    assert_eq!(published(&others, "carol@example.net", 1).await[0].attribute("from"), Some("example.net"));
    assert_eq!((own.count(), others.count()), (1, 1));
}

#[tokio::test]
async fn nodes_enabled_before_their_host_becomes_virtual_keep_working() {
    let data = std::env::temp_dir().join(format!("pushlark-migration-{}", std::process::id()));
    let rest = Rest::start(TOKEN).await;
    let url = format!("{}/rest", rest.url);
    let start = async |hosts: &str| {
        let settings = [("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", TOKEN), ("VIRTUAL_PUBSUB_HOSTS", hosts)];
        let environment = Environment::from_iter(settings);
        Pushlark::with(Options { environment, data: Some(data.clone()), ..Options::default() }).await
    };
    let hosts = ["pubsub.example.com", "pubsub.example.org"];

    let before = start("").await;
    for (host, device) in hosts.into_iter().zip(["device", "other-device"]) {
        let enable = PushRequest::new(BOB, host).at(host).device(device);
        assert_eq!(before.json("/enable", enable).await.status, 200);
    }
    before.message(BOB, "before").await;
    for host in hosts {
        published(&rest, host, 1).await;
    }
    before.settled().await;
    before.stack.stop().await;

    // Only the subdomain of the user's own domain is virtual now.
    let after = start("pubsub.@HOST@").await;
    after.message(BOB, "after").await;
    after.notified("device", 1).await;
    published(&rest, hosts[1], 2).await;
    after.settled().await;
    assert_eq!(after.alerts("device").await, ["after"]);
    assert_eq!(rest.published(hosts[0]).len(), 1);
    after.stack.stop().await;
    std::fs::remove_dir_all(data).unwrap();
}

#[tokio::test]
async fn pubsub_hosts_limits_the_hosts_of_registrations() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_HOSTS", "pubsub.example.org, pubsub.@HOST@")]).await;
    let enable = async |jid: &str| {
        let iq = stanza::iq("set", "bob@example.com/x", BOB, &stanza::enable(jid, "n", ""));
        let by_iq = pushlark.post("/enable", XMPP, iq).await;
        (pushlark.json("/enable", PushRequest::new(BOB, "n").at(jid)).await, by_iq.body)
    };
    for allowed in [HOST, "any@pubsub.example.org", "pubsub.example.com", "push.example.com"] {
        let (json, iq) = enable(allowed).await;
        assert!(json.status == 200 && iq.contains("type=\"result\""), "{allowed}: {} {iq}", json.body);
    }
    for refused in ["pubsub.example.net", "pubsub.evil.example", "example.com", "pubsub.sub.example.com"] {
        let (json, iq) = enable(refused).await;
        let detail = json.problem(400);
        assert!(detail.starts_with("jid: ") && detail.contains("PUBSUB_HOSTS"), "{detail}");
        assert!(iq.contains("<error type=\"modify\"><bad-request "), "{iq}");
    }
    assert_eq!(pushlark.nodes(BOB).await.len(), 4);

    // A registration that is older than the setting stays, but nothing is published to it.
    let data = std::env::temp_dir().join(format!("pushlark-hosts-{}", std::process::id()));
    for (setting, published) in [("", 1), ("pubsub.example.com", 1), (HOST, 2)] {
        let url = format!("{}/rest", rest.url);
        let settings = [("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", TOKEN), ("PUBSUB_HOSTS", setting)];
        let options =
            Options { environment: Environment::from_iter(settings), data: Some(data.clone()), ..Options::default() };
        let pushlark = Pushlark::with(options).await;
        if setting.is_empty() {
            self::enable(&pushlark, "kept", json!({})).await;
        }
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        assert_eq!((rest.published("kept").len(), pushlark.nodes(BOB).await.len()), (published, 1), "{setting}");
        pushlark.stack.stop().await;
    }
    std::fs::remove_dir_all(data).unwrap();
}

#[tokio::test]
async fn the_account_of_the_user_is_refused_as_pubsub_service() {
    let rest = Rest::start(TOKEN).await;
    for hosts in ["", "example.com"] {
        let pushlark = stack(&rest, &[("PUBSUB_HOSTS", hosts)]).await;
        for jid in [BOB, "Bob@Example.com", "bob@example.com/x"] {
            let detail = pushlark.json("/enable", PushRequest::new(BOB, "n").at(jid)).await.problem(400);
            assert!(detail.contains("jid"), "{detail}");
            let iq = stanza::iq("set", "bob@example.com/x", BOB, &stanza::enable(jid, "n", ""));
            let iq = pushlark.post("/enable", XMPP, iq).await.body;
            assert!(iq.contains("<error type=\"modify\"><bad-request "), "{iq}");
        }
        assert!(pushlark.nodes(BOB).await.is_empty());
    }
}
