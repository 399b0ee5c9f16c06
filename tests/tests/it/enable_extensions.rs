//! The extensions of a request to enable: the preferences of a user for a device, and the key for encrypted
//! notifications.

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_model::{Encryption, Preferences, WhileOnline};
use pushlark_store::NodeAddress;
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};
use tests::{BOB, BOBS_PHONE, PUSH_HOST, PushRequest, Pushlark, Reply, XMPP, stanza};

use crate::documentation::of_page;

/// A host that is not virtual.
const REAL_HOST: &str = "push.elsewhere.example";

fn key() -> String {
    BASE64_STANDARD.encode("canary-key-16-by")
}

/// Returns the extensions of Tigase, with the attribute `away` apart, and the same extensions as preferences and key in
/// JSON.
fn extensions() -> (String, Value, Value) {
    let key = key();
    let content = format!(
        "<encrypt xmlns='tigase:push:encrypt:0' alg='aes-128-gcm' max-size='2800'>{key}</encrypt>\
         <ignore-unknown xmlns='tigase:push:filter:ignore-unknown:0'/>\
         <muted xmlns='tigase:push:filter:muted:0'><item jid='Canary-Finch@example.org/pc'/></muted>\
         <groupchat xmlns='tigase:push:filter:groupchat:0'>\
         <room jid='canary-birds@rooms.example' allow='mentioned' nick='canary: Wren'/>\
         <room jid='canary-ops@rooms.example' allow='always'/></groupchat>\
         <priority xmlns='tigase:push:priority:0'/><jingle xmlns='tigase:push:jingle:0'/>\
         <unrelated xmlns='urn:example:0'/>"
    );
    let preferences = json!({
        "mute": [{"jid": "canary-finch@example.org"}],
        "rooms": [
            {"jid": "canary-birds@rooms.example", "allow": "mentions", "nick": "canary: Wren"},
            {"jid": "canary-ops@rooms.example", "allow": "always"},
        ],
        "unknown": "ignore", "while_online": "away", "priority": true, "jingle": true,
    });
    (content, preferences, json!({"alg": "aes-128-gcm", "key": key, "max_size": 2800}))
}

fn enable_element(jid: &str, content: &str) -> String {
    let form = stanza::publish_options(&[("service", "fcm"), ("device_id", "canary-n")]);
    stanza::enable(jid, "n", &format!("{form}{content}")).replacen("<enable", "<enable away='true'", 1)
}

async fn enable_iq(pushlark: &Pushlark, jid: &str, content: &str) -> Reply {
    pushlark.post("/enable", XMPP, stanza::iq("set", BOBS_PHONE, BOB, &enable_element(jid, content))).await
}

fn request(jid: &str) -> PushRequest {
    PushRequest::new(BOB, "n").at(jid).device("n")
}

async fn stored(pushlark: &Pushlark) -> (Option<Preferences>, Option<Encryption>) {
    let [registration] = <[_; 1]>::try_from(pushlark.registrations(BOB).await).unwrap();
    (registration.preferences.map(|preferences| *preferences), registration.encryption.map(|encryption| *encryption))
}

#[tokio::test]
async fn elements_and_json_store_the_same_preferences_and_the_same_key() {
    let pushlark = Pushlark::start().await;
    let (content, preferences, encrypt) = extensions();
    for jid in [PUSH_HOST, REAL_HOST] {
        enable_iq(&pushlark, jid, &content).await.assert_result();
        let from_elements = stored(&pushlark).await;
        let disable = PushRequest::new(BOB, "n").at(jid);
        pushlark.json("/disable", disable.clone()).await;
        let enable = request(jid).with("preferences", &preferences).with("encrypt", &encrypt);
        assert_eq!(pushlark.json("/enable", enable).await.status, 200);
        assert_eq!(stored(&pushlark).await, from_elements);
        assert_eq!(serde_json::to_value(from_elements.0).unwrap(), preferences);
        assert_eq!(from_elements.1.unwrap().key, *b"canary-key-16-by");
        pushlark.json("/disable", disable).await;
    }
}

#[tokio::test]
async fn the_requests_of_the_page_for_clients_are_the_same_in_xml_and_json() {
    let pushlark = Pushlark::start().await;
    let xml = of_page("docs/clients.md", "xml").into_iter().find(|snippet| snippet.text.contains("<muted ")).unwrap();
    let iq = xml.text.split_inclusive("</iq>").next().unwrap().replacen("<iq", &format!("<iq from='{BOB}'"), 1);
    pushlark.post("/enable", XMPP, iq).await.assert_result();
    let from_elements = stored(&pushlark).await;
    let requests =
        of_page("docs/clients.md", "json").into_iter().filter(|snippet| snippet.text.contains("preferences"));
    let [same, more] = <[_; 2]>::try_from(Vec::from_iter(requests)).unwrap();
    assert_eq!(pushlark.post("/enable", "application/json", same.text).await.status, 200);
    assert_eq!(stored(&pushlark).await, from_elements);
    assert_eq!(pushlark.post("/enable", "application/json", more.text.clone()).await.status, 200);
    let more: Value = serde_json::from_str(&more.text).unwrap();
    let (preferences, encryption) = stored(&pushlark).await;
    assert_eq!(serde_json::to_value(preferences.unwrap()).unwrap()["show"], more["preferences"]["show"]);
    assert!(from_elements.1.is_some() && encryption.is_none());
}

#[tokio::test]
async fn enabling_again_replaces_preferences_and_key() {
    let pushlark = Pushlark::start().await;
    let (content, _, encrypt) = extensions();
    enable_iq(&pushlark, PUSH_HOST, &content).await.assert_result();
    let show = request(PUSH_HOST).with("preferences", json!({"show": "sender"})).with("encrypt", &encrypt);
    assert_eq!(pushlark.json("/enable", show).await.status, 200);
    let (preferences, encryption) = stored(&pushlark).await;
    assert_eq!(serde_json::to_value(preferences).unwrap(), json!({"show": "sender"}));
    assert!(encryption.is_some());
    for without in [request(PUSH_HOST), request(PUSH_HOST).with("preferences", json!({})).with("encrypt", Value::Null)]
    {
        assert_eq!(pushlark.json("/enable", without).await.status, 200);
        assert_eq!(stored(&pushlark).await, (None, None));
    }
}

#[tokio::test]
async fn a_preference_that_is_not_understood_is_refused_at_a_virtual_host_alone() {
    let pushlark = Pushlark::start().await;
    for (preferences, named) in [
        (json!({"silence": true}), "unknown field `silence`"),
        (json!({"mute": [{"jid": "canary@"}]}), "preferences.mute[0].jid: not a JID"),
        (json!({"mute": [{"jid": "canary@example.org", "until": "canary"}]}), "preferences.mute[0].until: "),
        (json!({"rooms": "canary"}), "preferences.rooms: expected always, mentions, never or a list of rooms"),
        (json!({"quiet_hours": [{"from": "canary"}]}), "preferences.quiet_hours[0].from: expected a time such as"),
        (json!({"while_online": "canary"}), "preferences.while_online: expected one of `never`, `inactive`, `away`"),
    ] {
        let refused = request(PUSH_HOST).with("preferences", &preferences);
        let detail = pushlark.json("/enable", refused).await.problem(400);
        assert!(detail.contains(named), "{preferences} was answered with {detail}");
        let ignored = request(REAL_HOST).with("preferences", &preferences);
        assert_eq!(pushlark.json("/enable", ignored).await.status, 200);
        assert_eq!(stored(&pushlark).await.0, None);
    }
    for (content, named) in [
        ("<muted xmlns='tigase:push:filter:muted:0'><item jid='canary@'/></muted>", "&lt;muted/>, child 1: jid is not"),
        ("<groupchat xmlns='tigase:push:filter:groupchat:0'><room jid='canary@muc'/></groupchat>", "allow must be"),
        ("<meet xmlns='tigase:push:meet:0'/>", "tigase:push:meet:0"),
    ] {
        let reply = enable_iq(&pushlark, PUSH_HOST, content).await;
        for part in ["<error type=\"modify\"><bad-request ", named] {
            assert!(reply.body.contains(part), "no {part} in {}", reply.body);
        }
        enable_iq(&pushlark, REAL_HOST, content).await.assert_result();
        assert_eq!(stored(&pushlark).await.0.unwrap().while_online, WhileOnline::Away);
    }
    let not_an_object = request(REAL_HOST).with("preferences", "canary");
    assert!(pushlark.json("/enable", not_an_object).await.problem(400).contains("preferences: expected a map"));
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_refused_at_every_host() {
    let pushlark = Pushlark::start().await;
    let long = BASE64_STANDARD.encode("canary: a key of more than 16 bytes");
    for jid in [PUSH_HOST, REAL_HOST] {
        for (encrypt, named) in [
            (json!({"alg": "canary", "key": key()}), "encrypt.alg: expected `aes-128-gcm`"),
            (json!({"alg": "aes-128-gcm"}), "encrypt: missing field `key`"),
            (json!({"alg": "aes-128-gcm", "key": long}), "encrypt.key: expected a key of 16 bytes in base64"),
            (json!({"alg": "aes-128-gcm", "key": key(), "max_size": 64}), "encrypt.max_size: expected a number"),
        ] {
            let detail = pushlark.json("/enable", request(jid).with("encrypt", &encrypt)).await.problem(400);
            assert!(detail.contains(named), "{encrypt} was answered with {detail}");
        }
        for (attributes, key, named) in [
            ("alg='canary'", key(), "alg: expected aes-128-gcm"),
            ("alg='aes-128-gcm'", long.clone(), "expected a key of 16 bytes in base64"),
            ("alg='aes-128-gcm' max-size='64'", key(), "max-size: expected a number of bytes"),
        ] {
            let encrypt = format!("<encrypt xmlns='tigase:push:encrypt:0' {attributes}>{key}</encrypt>");
            let reply = enable_iq(&pushlark, jid, &encrypt).await;
            for part in ["<error type=\"modify\"><bad-request ", named] {
                assert!(reply.body.contains(part), "no {part} in {}", reply.body);
            }
        }
    }
    assert!(pushlark.registrations(BOB).await.is_empty());
}

#[tokio::test]
async fn form_preferences_and_key_share_the_limit_of_a_form() {
    let pushlark = Pushlark::start().await;
    let rooms = |count: usize| -> Value {
        (0..count).map(|n| json!({"jid": format!("room-{n}@rooms.example.com"), "allow": "mentions"})).collect()
    };
    for (jid, count, status) in [(PUSH_HOST, 100, 200), (PUSH_HOST, 200, 400), (REAL_HOST, 200, 400)] {
        let reply = pushlark.json("/enable", request(jid).with("preferences", json!({"rooms": rooms(count)}))).await;
        assert_eq!(reply.status, status, "{jid} {count}: {}", reply.body);
        if status == 400 {
            let detail = reply.problem(400);
            assert!(
                detail.contains("the form, the preferences and the key have 1") && detail.contains("8192"),
                "{detail}"
            );
        }
    }
}

#[tokio::test]
async fn the_list_shows_neither_the_key_nor_jids() {
    let pushlark = Pushlark::start().await;
    let (content, ..) = extensions();
    enable_iq(&pushlark, PUSH_HOST, &content).await.assert_result();
    pushlark.enable_with(BOB, "plain", json!({"tz": "Europe/Berlin"})).await;
    let listed = pushlark.listed(BOB).await;
    let [n, plain] = &listed[..] else { panic!("{listed:?}") };
    let shown = json!({
        "mute": [{"jid": "….org"}],
        "rooms": [{"jid": "…mple", "allow": "mentions", "nick": "…"}, {"jid": "…mple", "allow": "always"}],
        "unknown": "ignore", "while_online": "away", "priority": true, "jingle": true,
    });
    assert_eq!(n["preferences"], shown);
    assert_eq!(n["encrypt"], json!({"alg": "aes-128-gcm", "key": "…", "max_size": 2800}));
    assert_eq!((plain.get("preferences"), plain.get("encrypt")), (None, None));
    assert_eq!(plain["form"]["tz"], "Europe/Berlin");
}

#[tokio::test]
async fn the_time_zone_of_a_form_is_checked_at_a_virtual_host() {
    let pushlark = Pushlark::start().await;
    for tz in ["Mars/Base", "+01:00", ""] {
        let form = json!({"tz": tz});
        let detail = pushlark.json("/enable", request(PUSH_HOST).options(form.clone())).await.problem(400);
        assert!(detail.contains("\"tz\" must be the name of an IANA time zone"), "{detail}");
        assert_eq!(pushlark.json("/enable", request(REAL_HOST).options(form)).await.status, 200);
    }
}

/// Enables a push node of Bob at the push service.
async fn enable_node(pushlark: &Pushlark, content: &str) -> Reply {
    pushlark.post("/pubsub", XMPP, stanza::iq("set", BOBS_PHONE, PUSH_HOST, &enable_element(PUSH_HOST, content))).await
}

#[tokio::test]
async fn a_push_node_stores_the_key_and_the_preferences_that_it_can_apply() {
    let pushlark = Pushlark::start().await;
    let address = NodeAddress { jid: BareJid::new(PUSH_HOST).unwrap(), node: "n".into() };
    let node = async || pushlark.store().node(&address).await.unwrap().unwrap();
    let (content, ..) = extensions();
    enable_node(&pushlark, &content).await.assert_result();
    let stored = node().await;
    let preferences = json!({"mute": [{"jid": "canary-finch@example.org"}]});
    assert_eq!(serde_json::to_value(stored.preferences).unwrap(), preferences);
    assert_eq!(stored.encryption.unwrap().key, *b"canary-key-16-by");
    for (content, named) in [
        ("<meet xmlns='tigase:push:meet:0'/>", "tigase:push:meet:0"),
        ("<encrypt xmlns='tigase:push:encrypt:0' alg='aes-128-gcm'>canary</encrypt>", "a key of 16 bytes"),
    ] {
        let reply = enable_node(&pushlark, content).await;
        assert!(reply.body.contains("<bad-request ") && reply.body.contains(named), "{}", reply.body);
    }
    assert!(node().await.encryption.is_some());
    enable_node(&pushlark, "").await.assert_result();
    let stored = node().await;
    assert_eq!((stored.preferences, stored.encryption), (None, None));
}

/// A device without its preferences or its key could show what its user has hidden.
#[tokio::test]
async fn a_device_whose_preferences_or_key_cannot_be_read_is_not_notified() {
    let pushlark = Pushlark::start().await;
    for (attribute, of_later_version) in [
        ("encryption", r#"{"alg":"aes-256-gcm","key":"canary"}"#),
        ("encryption", "canary"),
        ("preferences", r#"{"show":"in_a_year"}"#),
        ("preferences", r#"{"in_a_year":true}"#),
    ] {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let set = async |pk: &str, sk: &str| {
            let update = pushlark.stack.dynamodb.update_item().table_name("pushlark");
            let update = update.key("pk", text(pk)).key("sk", text(sk));
            let update = update.update_expression(format!("SET {attribute} = :value"));
            update.expression_attribute_values(":value", text(of_later_version)).send().await.unwrap();
        };
        pushlark.enable(BOB, "n").await;
        pushlark.enable(BOB, "other").await;
        enable_node(&pushlark, "").await.assert_result();
        let before = (pushlark.notifications("n").await.len(), pushlark.notifications("other").await.len());
        set(BOB, "reg/push.example.com/n").await;
        set("node/push.example.com/n", "node").await;

        pushlark.message(BOB, "canary Hi").await;
        pushlark.notified("other", before.1 + 1).await;
        let publish = stanza::publish("n", &stanza::notification(""), &[]);
        let publish = stanza::iq("set", "example.com", PUSH_HOST, &publish);
        let reply = pushlark.post("/pubsub", XMPP, publish).await;
        assert!(reply.body.contains("<error type=\"wait\"><resource-constraint "), "{}", reply.body);
        pushlark.settled().await;
        assert_eq!(pushlark.notifications("n").await.len(), before.0, "{attribute}");
        assert_eq!(pushlark.listed_nodes(BOB).await, ["other"]);

        pushlark.enable(BOB, "n").await;
        assert_eq!(stored_of(&pushlark, "n").await, (None, None));
        enable_node(&pushlark, "").await.assert_result();
    }
}

async fn stored_of(pushlark: &Pushlark, node: &str) -> (Option<Box<Preferences>>, Option<Box<Encryption>>) {
    let registration = pushlark.registrations(BOB).await.into_iter().find(|one| one.node == node).unwrap();
    (registration.preferences, registration.encryption)
}
