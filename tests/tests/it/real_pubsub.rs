//! Registrations at real PubSub services: what is published to them, and what becomes of the node.

use doubles::{Answer, Rest};
use local::Options;
use pushlark_settings::Environment;
use pushlark_xmpp::{BareJid, Element, ns};
use serde_json::json;
use tests::{Pushlark, eventually, in_fast_motion};
use tokio::net::TcpListener;

const BOB: &str = "bob@example.com";
const HOST: &str = "pubsub.example.org";
const TOKEN: &str = "cGxhbnRlZA==";

async fn stack(rest: &Rest, settings: &[(&str, &str)]) -> Pushlark {
    let url = format!("{}/rest", rest.url);
    let own = [("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", TOKEN)];
    let environment = Environment::from_iter(own.into_iter().chain(settings.iter().copied()));
    Pushlark::with(Options { environment, ..in_fast_motion(100) }).await
}

async fn enable(pushlark: &Pushlark, node: &str, form: serde_json::Value) {
    let reply = pushlark.json("/enable", json!({"user": BOB, "jid": HOST, "node": node, "form": form})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

async fn published(rest: &Rest, node: &str, times: usize) -> Vec<Element> {
    eventually(&format!("{times} publishes to {node}"), async || {
        Some(rest.published(node)).filter(|published| published.len() >= times)
    })
    .await
}

async fn nodes(pushlark: &Pushlark) -> Vec<String> {
    let snapshot = pushlark.store().snapshot(&BareJid::new(BOB).unwrap()).await.unwrap();
    snapshot.services.into_iter().map(|service| service.node).collect()
}

#[tokio::test]
async fn the_publish_iq_is_mongooseims() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    enable(&pushlark, "phone", json!({"device_id": "planted-sometoken", "service": "apns"})).await;
    enable(&pushlark, "bare", json!({})).await;
    pushlark.message(BOB, "planted: OH, HAI! <&>").await;
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
    let summary = [
        ("message-count", "1"),
        ("last-message-sender", "alice@example.com"),
        ("last-message-body", "planted: OH, HAI! &lt;&amp;>"),
    ];
    let expected = format!(
        "<iq type='set' id='{id}' from='example.com' to='{HOST}'>\
         <pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='phone'><item>\
         <notification xmlns='urn:xmpp:push:0'>{}</notification></item></publish>\
         <publish-options>{}</publish-options></pubsub></iq>",
        form("urn:xmpp:push:summary", &fields(&summary)),
        form(ns::PUBLISH_OPTIONS, &fields(&[("device_id", "planted-sometoken"), ("service", "apns")])),
    );
    assert_eq!(*iq, Element::parse(&expected).unwrap());
    let bare = &published(&rest, "bare", 1).await[0];
    assert!(bare.child("pubsub", ns::PUBSUB).unwrap().child("publish-options", ns::PUBSUB).is_none());
    assert_ne!(bare.attribute("id"), Some(id));
}

#[tokio::test]
async fn a_real_node_is_notified_as_a_virtual_host_is() {
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
        pushlark
            .event(json!({"type": "message", "from": "Room@MUClight.example.com/alice@example.com", "to": BOB,
                "chat": "groupchat", "body": text}))
            .await
    };
    let presence = async |status: &str| {
        pushlark.event(json!({"type": "presence", "jid": "bob@example.com/r1", "status": status})).await
    };

    // Not enabled.
    pushlark.message(BOB, "planted 1").await;
    pushlark.settled().await;
    assert_eq!(rest.count(), 0);

    // Online.
    enable(&pushlark, "phone", json!({"field1": "planted-value1", "field2": "planted-value2"})).await;
    presence("online").await;
    pushlark.message(BOB, "planted 2").await;
    muclight("3").await;
    pushlark.settled().await;
    assert_eq!(rest.count(), 0);

    // Offline.
    presence("offline").await;
    pushlark.message(BOB, "planted: OH, HAI!").await;
    assert_eq!(body(&published(&rest, "phone", 1).await[0]), ("alice@example.com".into(), "planted: OH, HAI!".into()));
    muclight("Heyah!").await;
    let iq = &published(&rest, "phone", 2).await[1];
    assert_eq!(body(iq), ("room@muclight.example.com/alice@example.com".into(), "Heyah!".into()));
    let options = "<field var=\"field1\"><value>planted-value1</value></field><field var=\"field2\"><value>planted-value2</value></field>";
    assert!(iq.to_string().contains(options), "{iq}");

    // Disabled, and removed.
    pushlark.json("/disable", json!({"user": BOB, "jid": HOST, "node": "phone"})).await;
    pushlark.message(BOB, "4").await;
    enable(&pushlark, "phone", json!({})).await;
    pushlark.event(json!({"type": "user_removed", "jid": BOB})).await;
    pushlark.settled().await;
    pushlark.message(BOB, "5").await;
    pushlark.settled().await;
    assert_eq!(rest.count(), 2);
}

#[tokio::test]
async fn what_xml_has_no_character_for_is_left_out() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("BODY_PLACEHOLDER", "a\u{1}b"), ("INCLUDE_BODY", "off")]).await;
    enable(&pushlark, "phone", json!({})).await;
    pushlark.message(BOB, "planted Hi").await;
    assert!(published(&rest, "phone", 1).await[0].to_string().contains("<value>ab</value>"));
}

#[tokio::test]
async fn an_error_of_type_cancel_disables_the_node_and_no_other_does() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    for (kind, condition) in [
        ("cancel", "item-not-found"),
        ("auth", "forbidden"),
        ("modify", "bad-request"),
        ("continue", "undefined-condition"),
    ] {
        enable(&pushlark, kind, json!({})).await;
        rest.node_errs(kind, kind, condition);
    }
    for text in ["planted 1", "planted 2"] {
        pushlark.message(BOB, text).await;
        pushlark.settled().await;
    }
    assert_eq!(nodes(&pushlark).await, ["auth", "continue", "modify"]);
    assert_eq!(rest.published("cancel").len(), 1);
    for kind in ["auth", "continue", "modify"] {
        assert_eq!(rest.published(kind).len(), 2, "{kind}: not repeated");
    }
}

#[tokio::test]
async fn an_error_of_type_wait_is_repeated_a_bounded_number_of_times() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    enable(&pushlark, "phone", json!({})).await;
    rest.node_errs("phone", "wait", "resource-constraint");
    pushlark.message(BOB, "planted 1").await;
    published(&rest, "phone", 3).await;
    rest.node_recovers("phone");
    pushlark.settled().await;
    let tries = rest.published("phone").len();
    assert!(tries < 8, "{tries}");

    rest.node_errs("phone", "wait", "resource-constraint");
    pushlark.message(BOB, "planted 2").await;
    pushlark.settled().await;
    assert_eq!(rest.published("phone").len(), tries + 8);
    assert_eq!(nodes(&pushlark).await, ["phone"]);
}

/// What failed before, for another reason and for all, does not count.
#[tokio::test]
async fn an_outage_uses_up_no_tries_of_a_node() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_MAX_ERRORS", "1")]).await;
    enable(&pushlark, "phone", json!({})).await;
    for _ in 0..5 {
        rest.answer_next(Answer::text(503, ""));
    }
    rest.node_errs("phone", "wait", "remote-server-timeout");
    pushlark.message(BOB, "planted Hi").await;
    published(&rest, "phone", 7).await;
    rest.node_recovers("phone");
    published(&rest, "phone", 8).await;
    pushlark.settled().await;
    assert_eq!(nodes(&pushlark).await, ["phone"]);
}

#[tokio::test]
async fn errors_of_type_wait_count_in_the_end_and_silence_does_not() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_MAX_ERRORS", "1")]).await;
    enable(&pushlark, "phone", json!({})).await;
    rest.node_errs("phone", "wait", "resource-constraint");
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    assert_eq!(rest.published("phone").len(), 8);
    assert_eq!(nodes(&pushlark).await.len(), 0);

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/rest", silent.local_addr().unwrap());
    let settings = [("PUBSUB_URL", url.as_str()), ("PUBSUB_MAX_ERRORS", "1"), ("PUBLISH_TIMEOUT_MS", "200")];
    let pushlark = stack(&rest, &settings).await;
    enable(&pushlark, "phone", json!({})).await;
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    assert_eq!(nodes(&pushlark).await, ["phone"]);
}

#[tokio::test]
async fn so_many_errors_in_a_row_disable_a_node_as_a_setting_says() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_MAX_ERRORS", "2")]).await;
    enable(&pushlark, "phone", json!({})).await;
    for errs in [true, false, true] {
        match errs {
            true => rest.node_errs("phone", "auth", "forbidden"),
            false => rest.node_recovers("phone"),
        }
        pushlark.message(BOB, "planted Hi").await;
        pushlark.settled().await;
        assert_eq!(nodes(&pushlark).await, ["phone"]);
    }
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    assert_eq!(nodes(&pushlark).await.len(), 0);
}

#[tokio::test]
async fn a_chat_server_that_is_down_is_tried_again() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[]).await;
    enable(&pushlark, "phone", json!({})).await;
    for status in [503, 429, 502] {
        rest.answer_next(Answer::text(status, ""));
    }
    pushlark.message(BOB, "planted Hi").await;
    published(&rest, "phone", 4).await;
    pushlark.settled().await;
    assert_eq!(rest.requests().iter().map(|request| request.status).collect::<Vec<_>>(), [503, 429, 502, 200]);
    rest.answer_next(Answer::text(200, "<html>planted</html>"));
    rest.answer_next(Answer::text(200, "<iq type='result' id='other'/>"));
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    assert_eq!(rest.published("phone").len(), 7, "an answer that is none");
    assert_eq!(nodes(&pushlark).await, ["phone"]);
}

#[tokio::test]
async fn a_wrong_token_loses_no_node() {
    let rest = Rest::start("planted-another").await;
    let pushlark = stack(&rest, &[]).await;
    enable(&pushlark, "phone", json!({})).await;
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    assert_eq!((rest.count(), nodes(&pushlark).await.len()), (0, 1));
}

#[tokio::test]
async fn options_are_left_out_for_a_service_that_takes_none() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_WITHOUT_OPTIONS", HOST)]).await;
    enable(&pushlark, "phone", json!({"device_id": "planted-sometoken"})).await;
    pushlark.message(BOB, "planted Hi").await;
    assert!(!published(&rest, "phone", 1).await[0].to_string().contains("publish-options"));
}

#[tokio::test]
async fn each_domain_has_a_chat_server_of_its_own_or_that_of_all_others() {
    let (own, others) = (Rest::start("planted-own").await, Rest::start("planted-others").await);
    let urls = format!("example.com={}/rest,{}/rest", own.url, others.url);
    let settings = [("PUBSUB_URL", urls.as_str()), ("PUBSUB_TOKEN", "Example.com=planted-own,planted-others")];
    let pushlark = Pushlark::with_settings(settings).await;
    for user in [BOB, "carol@example.net"] {
        pushlark.json("/enable", json!({"user": user, "jid": HOST, "node": user})).await;
        pushlark.message(user, "planted Hi").await;
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
    let form = json!({"service": "fcm", "device_id": "planted-device"});
    let hosts = ["pubsub.example.com", "pubsub.example.org"];

    let before = start("").await;
    for host in hosts {
        let enable = json!({"user": BOB, "jid": host, "node": host, "form": form});
        assert_eq!(before.json("/enable", enable).await.status, 200);
    }
    before.message(BOB, "before").await;
    for host in hosts {
        published(&rest, host, 1).await;
    }
    before.settled().await;
    before.stack.stop().await;

    // Only the subdomain of the user's own domain is shadowed.
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
async fn only_hosts_that_users_may_name_are_published_to() {
    let rest = Rest::start(TOKEN).await;
    let pushlark = stack(&rest, &[("PUBSUB_HOSTS", "pubsub.example.org, pubsub.@HOST@")]).await;
    let enable = async |jid: &str| {
        let iq =
            format!("<iq type='set' id='1' from='{BOB}/x'><enable xmlns='urn:xmpp:push:0' jid='{jid}' node='n'/></iq>");
        let by_iq = pushlark.post("/enable", "text/xml", iq).await;
        (pushlark.json("/enable", json!({"user": BOB, "jid": jid, "node": "n"})).await, by_iq.body)
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
    assert_eq!(nodes(&pushlark).await.len(), 4);

    // A registration of before the setting stays, and is not published to.
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
        pushlark.message(BOB, "planted Hi").await;
        pushlark.settled().await;
        assert_eq!((rest.published("kept").len(), nodes(&pushlark).await.len()), (published, 1), "{setting}");
        pushlark.stack.stop().await;
    }
    std::fs::remove_dir_all(data).unwrap();
}

#[tokio::test]
async fn a_users_own_account_is_no_pubsub_service() {
    let rest = Rest::start(TOKEN).await;
    for hosts in ["", "example.com"] {
        let pushlark = stack(&rest, &[("PUBSUB_HOSTS", hosts)]).await;
        for jid in [BOB, "Bob@Example.com", "bob@example.com/x"] {
            let detail = pushlark.json("/enable", json!({"user": BOB, "jid": jid, "node": "n"})).await.problem(400);
            assert!(detail.contains("jid"), "{detail}");
            let iq = format!(
                "<iq type='set' id='1' from='{BOB}/x'><enable xmlns='urn:xmpp:push:0' jid='{jid}' node='n'/></iq>"
            );
            let iq = pushlark.post("/enable", "text/xml", iq).await.body;
            assert!(iq.contains("<error type=\"modify\"><bad-request "), "{iq}");
        }
        assert!(nodes(&pushlark).await.is_empty());
    }
}
