//! Notifications that only the device can read (`tigase:push:encrypt:0`), decrypted by Python's `cryptography`.

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use doubles::{APNS_TOPIC, Answer, Double, Gateway, Request, Rest, Subscriber, apns_error, canary};
use pushlark_model::time::to_micros;
use pushlark_model::{Algorithm, Encryption, MAX_OPTION_FIELDS, Preferences, Registration};
use pushlark_xmpp::{BareJid, Element, ns};
use serde_json::{Value, json};
use tests::{
    ALICE, ALICES_PC, BOB, BOBS_PC, BOBS_PHONE, CAROL, Event, IPHONE, PUSH_HOST, Providers, PushRequest, Pushlark,
    ROOM_OCCUPANT, Work, XMPP, answered, registration, stanza,
};
use time::OffsetDateTime;

use crate::reference::reference;

const KEY: [u8; 16] = *b"canarycanary1234";
const TEXT: &str = "canary: blackbird 🐦 „Grüße“ \u{202e}\n";
const REAL_HOST: &str = "pubsub.example.org";
/// The words that no push service may see: of senders, rooms, texts and the session of a call.
const HIDDEN: [&str; 5] = ["alice", "carol", "muc.example", "blackbird", "Grüße"];

/// Enables a device of Bob's with a key.
async fn enable(pushlark: &Pushlark, node: &str, options: Value, max_size: Option<u32>) {
    enable_at(pushlark, PUSH_HOST, node, options, max_size, None).await;
}

async fn enable_at(
    pushlark: &Pushlark,
    jid: &str,
    node: &str,
    options: Value,
    max_size: Option<u32>,
    preferences: Option<Preferences>,
) {
    let options = options.as_object().unwrap();
    let options: Vec<_> = options.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
    let encryption = Encryption { alg: Algorithm::Aes128Gcm, key: KEY, max_size };
    let registration = Registration {
        jid: BareJid::new(jid).unwrap(),
        encryption: Some(Box::new(encryption)),
        preferences: preferences.map(Box::new),
        ..registration(node, &options, to_micros(OffsetDateTime::now_utc()))
    };
    pushlark.store().register(&BOB.parse().unwrap(), &registration, |_| false).await.unwrap();
}

/// Decrypts data with the fields `encrypted` and `iv`.
fn decrypted<'d>(data: impl IntoIterator<Item = &'d Value>) -> Vec<Value> {
    let encrypted: Vec<_> = data.into_iter().map(|data| [&data["encrypted"], &data["iv"]]).collect();
    let request = json!({"check": "device", "key": BASE64_STANDARD.encode(KEY), "encrypted": encrypted});
    reference(&request).unwrap().as_array().unwrap().clone()
}

/// Checks that no request names a sender, a room or a call, or has a text.
fn assert_hidden(double: &Double) -> Vec<Request> {
    let requests = double.requests();
    for request in &requests {
        let shown = format!("{} {:?} {}", request.path, request.headers, String::from_utf8_lossy(&request.body));
        for word in HIDDEN {
            assert!(!shown.to_lowercase().contains(&word.to_lowercase()), "{word}: {shown}");
        }
    }
    requests
}

/// Checks that data have these fields and no others beside ciphertext and nonce.
fn assert_fields(data: &Value, other: Value) {
    let mut others = data.clone();
    let fields = others.as_object_mut().unwrap();
    let [encrypted, iv] = ["encrypted", "iv"].map(|name| fields.remove(name).unwrap());
    assert!(encrypted.is_string() && iv.as_str().unwrap().len() == 16, "{data}");
    assert_eq!(fields.remove("account").unwrap(), BOB);
    assert_eq!(others, other);
}

/// Returns events of each kind, with what the device decrypts.
fn events() -> Vec<(Event, Value)> {
    let invitation = "<x xmlns='jabber:x:conference' jid='blackbird@muc.example.com' reason='canary blackbird'/>";
    let private = stanza::chat(&format!("<body>{TEXT}</body><x xmlns='http://jabber.org/protocol/muc#user'/>"));
    let rtp = |media: &str| format!("<description xmlns='urn:xmpp:jingle:apps:rtp:1' media='{media}'/>");
    let call = |sid: &str, media: &str| {
        stanza::chat(&format!("<propose xmlns='urn:xmpp:jingle-message:0' id='blackbird-{sid}'>{media}</propose>"))
    };
    vec![
        (
            Event::message(BOB, TEXT).recipient(json!({"unread_count": 3})),
            json!({"unread": 3, "sender": ALICE, "type": "chat", "message": TEXT}),
        ),
        (
            Event::groupchat(ROOM_OCCUPANT, BOB, TEXT),
            json!({"unread": 1, "sender": "room@muc.example.com", "type": "groupchat", "message": TEXT,
                "nickname": "alice"}),
        ),
        (
            Event::stanza(BOB, &private).from(ROOM_OCCUPANT),
            json!({"unread": 1, "sender": "room@muc.example.com", "type": "chat", "message": TEXT,
                "nickname": "alice"}),
        ),
        (
            Event::stanza(BOB, &format!("<message>{invitation}</message>")),
            json!({"unread": 1, "sender": ALICE, "type": "chat", "message": "canary blackbird",
                "room": "blackbird@muc.example.com"}),
        ),
        (
            Event::subscription("carol@example.com", BOB),
            json!({"unread": 1, "sender": "carol@example.com", "type": "chat", "message": "Contact request"}),
        ),
        (
            Event::stanza(BOB, &call("c1", &(rtp("audio") + &rtp("video")))),
            json!({"unread": 1, "sender": ALICES_PC, "type": "call", "sid": "blackbird-c1",
                "media": ["audio", "video"]}),
        ),
        (
            Event::stanza(BOB, &call("c2", "")),
            json!({"unread": 1, "sender": ALICES_PC, "type": "call", "sid": "blackbird-c2", "media": []}),
        ),
    ]
}

/// Sends the events one after another.
async fn send(pushlark: &Pushlark, events: &[(Event, Value)]) {
    for (event, _) in events {
        pushlark.event(event).await;
        pushlark.settled().await;
    }
}

/// Returns what the device decrypts of events.
fn texts(events: &[(Event, Value)]) -> Vec<Value> {
    events.iter().map(|(_, text)| text.clone()).collect()
}

/// An app without PushKit shows an alert for a call, so the device gets its text as well.
fn with_alert(mut texts: Vec<Value>) -> Vec<Value> {
    for text in texts.iter_mut().filter(|text| text["type"] == "call") {
        text["message"] = "Incoming call".into();
    }
    texts
}

#[tokio::test]
async fn apns_shows_a_placeholder_that_the_app_replaces() {
    let providers = Providers::start().await;
    let options = json!({"service": "apns", "device_id": IPHONE, "sound": "ping"});
    enable(&providers.pushlark, "iphone", options, None).await;
    let events = events();
    send(&providers.pushlark, &events).await;
    let requests = assert_hidden(&providers.apns);
    let bodies: Vec<_> = requests.iter().map(Request::json).collect();
    assert_eq!(decrypted(&bodies), with_alert(texts(&events)));
    let mut threads = HashSet::new();
    for ((request, body), (_, text)) in requests.iter().zip(&bodies).zip(&events) {
        let is_call = text["type"] == "call";
        let mut aps = body["aps"].clone();
        threads.insert(aps["thread-id"].take().as_str().unwrap().to_owned());
        let (title, alert) = if is_call { ("Incoming call", "Incoming call") } else { ("New message", "New message") };
        let mut expected = json!({"alert": {"title": title, "body": alert}, "sound": "ping", "thread-id": null,
            "mutable-content": 1});
        if !is_call && text["sender"] != "carol@example.com" {
            expected["badge"] = text["unread"].clone();
        }
        // The badge is the total of all conversations.
        assert_eq!(aps, expected, "{body}");
        let mut data = body.clone();
        data.as_object_mut().unwrap().remove("aps");
        assert_fields(&data, if is_call { json!({"type": "voip"}) } else { json!({}) });
        assert_eq!((request.header("apns-push-type"), request.header("apns-priority")), ("alert", "10"));
    }
    assert_eq!(threads.len(), 3, "one for each conversation");
}

#[tokio::test]
async fn a_silent_device_and_push_kit_get_data_alone() {
    let providers = Providers::start().await;
    let silent = json!({"service": "apns", "device_id": IPHONE, "silent": "true"});
    enable(&providers.pushlark, "silent", silent, None).await;
    let events = events();
    send(&providers.pushlark, &events).await;
    for request in assert_hidden(&providers.apns) {
        assert_eq!(request.json()["aps"], json!({"content-available": 1}));
        assert_eq!(request.header("apns-push-type"), "background");
    }
    let bodies: Vec<_> = providers.apns.requests().iter().map(Request::json).collect();
    assert_eq!(decrypted(&bodies), texts(&events));

    let providers = Providers::start().await;
    let push_kit = json!({"service": "apns", "device_id": IPHONE, "voip_device_id": IPHONE});
    enable(&providers.pushlark, "both", push_kit, None).await;
    let call = &events[5..6];
    send(&providers.pushlark, call).await;
    let requests = assert_hidden(&providers.apns);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("apns-topic"), format!("{APNS_TOPIC}.voip"));
    let mut body = requests[0].json();
    assert_eq!(decrypted([&body]), texts(call));
    assert_eq!(body.as_object_mut().unwrap().remove("aps"), Some(json!({})));
    assert_fields(&body, json!({"type": "voip"}));
}

#[tokio::test]
async fn fcm_and_web_push_get_data_alone() {
    let providers = Providers::start().await;
    let pushlark = &providers.pushlark;
    let browser = Subscriber::new(7);
    enable(pushlark, "android", json!({"service": "fcm", "device_id": canary("android")}), None).await;
    let web_push = json!({"service": "web-push", "endpoint": providers.web_push.endpoint("browser"),
        "p256dh": browser.p256dh(), "auth": browser.auth()});
    enable(pushlark, "browser", web_push, None).await;
    let mut events = events();
    let retract = stanza::chat("<retract xmlns='urn:xmpp:jingle-message:0' id='blackbird-c1'/>");
    let end = json!({"unread": 1, "sender": "example.com", "type": "call", "sid": "blackbird-c1"});
    events.push((Event::stanza(BOB, &retract), end));
    send(pushlark, &events).await;
    let messages: Vec<_> = assert_hidden(&providers.fcm).iter().map(|one| one.json()["message"].take()).collect();
    let data: Vec<_> = messages.iter().map(|message| message["android"]["data"].clone()).collect();
    assert_eq!(decrypted(&data), texts(&events));
    let browsers: Vec<Value> = assert_hidden(&providers.web_push)
        .iter()
        .map(|request| serde_json::from_slice(&browser.decrypt(&request.body).unwrap()).unwrap())
        .collect();
    assert_eq!(decrypted(&browsers), texts(&events));
    for (index, message) in messages.iter().enumerate() {
        assert_eq!((message.get("notification"), message["android"].get("notification")), (None, None), "{message}");
        assert_eq!(message["android"]["priority"], "HIGH");
        let other = if index >= 5 { json!({"type": "voip"}) } else { json!({}) };
        assert_fields(&data[index], other.clone());
        let mut browser = browsers[index].clone();
        browser.as_object_mut().unwrap().remove("badge");
        assert_fields(&browser, other);
    }
    // The end of a call replaces the call.
    let key = |index: usize| messages[index]["android"]["collapse_key"].clone();
    assert_eq!(key(5), key(7));
    assert_ne!(key(5), key(6));
}

#[tokio::test]
async fn mongoosepush_gets_a_placeholder_for_apns_and_data() {
    let gateway = Gateway::mongoosepush().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", gateway.url.as_str())]).await;
    enable(&pushlark, "android", json!({"service": "fcm", "device_id": canary("android")}), None).await;
    enable(&pushlark, "iphone", json!({"service": "apns", "device_id": canary("iphone")}), None).await;
    let events = events();
    send(&pushlark, &events).await;
    // One more device, since calls are no alerts beside PushKit.
    let push_kit = json!({"service": "apns", "device_id": canary("voip"), "topic": "com.example.chat.voip"});
    enable(&pushlark, "voip", push_kit, None).await;
    pushlark.event(Event::stanza(BOB, &stanza::jingle("propose"))).await;
    pushlark.settled().await;
    let request = assert_hidden(&gateway).into_iter().find(|request| request.device == "voip").unwrap().json();
    assert_eq!(decrypted([&request["data"]])[0]["sid"], "c1");
    assert_fields(&request["data"], json!({"type": "jmi"}));
    assert_eq!(request.get("alert"), None);
    let of = |device: &str| -> Vec<Value> {
        let requests = assert_hidden(&gateway);
        let requests = requests.iter().filter(|request| request.device == device);
        requests.take(events.len()).map(Request::json).collect()
    };
    let (androids, iphones) = (of("android"), of("iphone"));
    assert_eq!(decrypted(androids.iter().map(|request| &request["data"])), texts(&events));
    assert_eq!(decrypted(iphones.iter().map(|request| &request["data"])), with_alert(texts(&events)));
    for (index, (android, iphone)) in androids.iter().zip(&iphones).enumerate() {
        let other = if index >= 5 { json!({"type": "voip"}) } else { json!({}) };
        assert_fields(&android["data"], other.clone());
        assert_fields(&iphone["data"], other);
        assert_eq!((android.get("alert"), &android["priority"]), (None, &json!("high")));
        let text = if index >= 5 { "Incoming call" } else { "New message" };
        let mut alert = iphone["alert"].clone();
        alert.as_object_mut().unwrap().remove("badge");
        assert_eq!(alert, json!({"title": text, "body": text}));
        assert_eq!(iphone["mutable_content"], true);
        // MongoosePush does not know that it is a call.
        let is_brief = |request: &Value| request["time_to_live"].as_u64().is_some_and(|seconds| seconds <= 30);
        assert!(index < 5 || is_brief(android) && is_brief(iphone), "{android} {iphone}");
    }
}

#[tokio::test]
async fn the_own_push_service_gets_data() {
    let receiver = Gateway::webhook().await;
    let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
    let pushlark = Pushlark::with_settings(settings).await;
    for service in ["fcm", "apns"] {
        enable(&pushlark, service, json!({"service": service, "device_id": canary(service)}), None).await;
    }
    let events = events();
    send(&pushlark, &events).await;
    for service in ["fcm", "apns"] {
        let requests = assert_hidden(&receiver);
        let requests = requests.iter().filter(|request| request.device == service);
        let payloads: Vec<_> = requests.map(|request| request.json()["payload"].take()).collect();
        assert_eq!(decrypted(&payloads), texts(&events), "{service}");
        for (index, payload) in payloads.iter().enumerate() {
            assert_fields(payload, if index >= 5 { json!({"type": "voip"}) } else { json!({}) });
        }
    }
}

#[tokio::test]
async fn long_texts_are_cut_for_the_push_service_and_the_max_size() {
    let providers = Providers::start().await;
    let pushlark = &providers.pushlark;
    let texts =
        ["blackbird ".repeat(2_000), "👨\u{200d}👩\u{200d}👧\u{200d}👦".repeat(1_000), "\"\\\n\u{7f}ü".repeat(5_000)];
    for (node, max_size) in [("default", None), ("large", Some(100_000)), ("tigase", Some(2_800)), ("small", Some(300))]
    {
        let token = format!("63616e617279{:08x}", max_size.unwrap_or(0));
        enable(pushlark, node, json!({"service": "apns", "device_id": token}), max_size).await;
        let browser = Subscriber::new(9);
        let endpoint = providers.web_push.endpoint(node);
        let keys =
            json!({"service": "web-push", "endpoint": endpoint, "p256dh": browser.p256dh(), "auth": browser.auth()});
        enable(pushlark, &format!("browser-{node}"), keys, max_size).await;
    }
    for text in &texts {
        pushlark.message(BOB, &format!("canary {text}")).await;
        pushlark.settled().await;
    }
    let requests = assert_hidden(&providers.apns);
    assert_eq!((requests.len(), assert_hidden(&providers.web_push).len()), (12, 12));
    let bodies: Vec<_> = requests.iter().map(Request::json).collect();
    for ((request, body), text) in requests.iter().zip(&bodies).zip(decrypted(&bodies)) {
        assert!(request.status == 200 && request.body.len() <= 4_096);
        let size = request.device.strip_prefix("63616e617279").unwrap();
        let max_size = match usize::from_str_radix(size, 16).unwrap() {
            0 => 3_000,
            size => size,
        };
        let length = body["encrypted"].as_str().unwrap().len();
        assert!(length <= max_size, "{length} {max_size}");
        assert!(length + 48 > max_size || request.body.len() + 48 > 4_096, "{length} {max_size}");
        let message = text["message"].as_str().unwrap().strip_suffix('…').unwrap();
        assert!(texts.iter().any(|text| format!("canary {text}").starts_with(message)));
    }
}

#[tokio::test]
async fn each_attempt_has_a_new_nonce() {
    let providers = Providers::start().await;
    let pushlark = &providers.pushlark;
    enable(pushlark, "iphone", json!({"service": "apns", "device_id": IPHONE}), None).await;
    providers.apns.answer_next(apns_error(413, "PayloadTooLarge"));
    pushlark.message(BOB, &"canary ".repeat(2_000)).await;
    pushlark.settled().await;
    providers.apns.answer_next(Answer::json(503, &json!({"reason": "ServiceUnavailable"})).with("retry-after", "1"));
    pushlark.message(BOB, TEXT).await;
    answered(&providers.apns, 4).await;
    let requests = assert_hidden(&providers.apns);
    let bodies: Vec<_> = requests.iter().map(Request::json).collect();
    let texts = decrypted(&bodies);
    let nonces: HashSet<_> = bodies.iter().map(|body| body["iv"].as_str().unwrap()).collect();
    assert_eq!(nonces.len(), 4);
    assert!(requests[1].body.len() <= requests[0].body.len() / 2 + 1, "{}", requests[1].body.len());
    assert_ne!(texts[0], texts[1]);
    assert_eq!(texts[2], texts[3]);
}

#[tokio::test]
async fn a_sender_that_the_settings_hide_stays_hidden_from_the_device() {
    let providers = Providers::with_settings(&[("INCLUDE_SENDER", "off"), ("INCLUDE_BODY", "off")]).await;
    enable(&providers.pushlark, "iphone", json!({"service": "apns", "device_id": IPHONE}), None).await;
    let events = events();
    send(&providers.pushlark, &events).await;
    let bodies: Vec<_> = assert_hidden(&providers.apns).iter().map(Request::json).collect();
    for (text, (_, shown)) in decrypted(&bodies).iter().zip(&events) {
        assert_eq!(text["sender"], "example.com");
        assert_eq!(text["type"] == "call", shown["type"] == "call", "{text}");
        assert!(text["type"] == "call" || text["type"] == "chat", "{text}");
        assert!(!["alice", "carol"].iter().any(|word| text.to_string().contains(*word)), "{text}");
    }
}

#[tokio::test]
async fn the_news_that_a_conversation_was_read_does_not_name_it() {
    let settings = [("UNREAD_COUNTS", "on"), ("CLEAR_WHEN_READ", "on")];
    let providers = Providers::with_settings(&settings).await;
    let pushlark = &providers.pushlark;
    enable(pushlark, "iphone", json!({"service": "apns", "device_id": IPHONE}), None).await;
    enable(pushlark, "android", json!({"service": "fcm", "device_id": canary("android")}), None).await;
    pushlark.message(BOB, TEXT).await;
    pushlark.settled().await;
    pushlark.event(Event::read(BOB, ALICES_PC)).await;
    pushlark.settled().await;
    let [shown, read] = &assert_hidden(&providers.apns)[..] else { panic!() };
    let mut read = read.json();
    assert_eq!(read["aps"], json!({"badge": 0, "content-available": 1}));
    read.as_object_mut().unwrap().remove("aps");
    let conversation = &shown.json()["aps"]["thread-id"];
    let hashed: Vec<u8> = [&KEY[..], BOB.as_bytes(), ALICE.as_bytes()]
        .into_iter()
        .flat_map(|part| [&u64::try_from(part.len()).unwrap().to_be_bytes(), part].concat())
        .collect();
    let hash = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, &hashed));
    assert_eq!(conversation, &hash[..22], "as docs/clients.md describes it");
    assert_eq!(read, json!({"type": "read", "conversation": conversation, "message-count": 0}));
    let [_, read] = &assert_hidden(&providers.fcm)[..] else { panic!() };
    let android = read.json()["message"]["android"].take();
    assert_eq!((&android["data"]["type"], &android["data"]["conversation"]), (&json!("read"), conversation));
    assert_eq!(android.get("notification"), None);
}

fn notification_of(iq: &Element) -> Element {
    let publish = iq.child("pubsub", ns::PUBSUB).unwrap().child("publish", ns::PUBSUB).unwrap();
    publish.child("item", ns::PUBSUB).unwrap().child("notification", ns::PUSH).unwrap().clone()
}

async fn with_real_host(rest: &Rest) -> Pushlark {
    let url = format!("{}/rest", rest.url);
    Pushlark::with_settings([("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", "token")]).await
}

#[tokio::test]
async fn a_real_node_gets_the_encrypted_notification_in_place_of_the_summary() {
    let rest = Rest::start("token").await;
    let pushlark = with_real_host(&rest).await;
    let preferences = Preferences { priority: true, jingle: true, ..Preferences::default() };
    enable_at(&pushlark, REAL_HOST, "phone", json!({"secret": "canary"}), Some(300), Some(preferences)).await;
    let mut events = events();
    events.truncate(6);
    send(&pushlark, &events).await;
    let long = format!("canary {}", "blackbird ".repeat(1_000));
    pushlark.message(BOB, &long).await;
    pushlark.settled().await;
    let requests = assert_hidden(&rest);
    assert_eq!(requests.len(), 7);
    let notifications: Vec<_> = rest.published("phone").iter().map(notification_of).collect();
    let data: Vec<_> = notifications
        .iter()
        .map(|notification| {
            let encrypted = notification.child("encrypted", ns::TIGASE_ENCRYPT).unwrap();
            assert!(notification.children().count() == 2 && encrypted.text().len() <= 300, "{notification}");
            json!({"encrypted": encrypted.text(), "iv": encrypted.attribute("iv"), "type": encrypted.attribute("type")})
        })
        .collect();
    let mut decrypted = decrypted(&data);
    let cut = decrypted.pop().unwrap()["message"].as_str().unwrap().to_owned();
    assert!(long.starts_with(cut.strip_suffix('…').unwrap()));
    assert_eq!(decrypted, texts(&events));
    let priorities: Vec<_> = notifications
        .iter()
        .map(|notification| notification.child("priority", ns::TIGASE_PRIORITY).unwrap().text().into_owned())
        .collect();
    assert_eq!(priorities, ["high", "high", "high", "high", "low", "high", "high"]);
    assert_eq!(data.iter().filter(|data| data["type"] == "voip").count(), 1);
    assert_eq!(data[5]["type"], "voip");
}

#[tokio::test]
async fn a_real_node_gets_priorities_and_calls_as_its_preferences_have_it() {
    let rest = Rest::start("token").await;
    let pushlark = with_real_host(&rest).await;
    for (node, priority, jingle) in [("none", false, false), ("priority", true, false), ("jingle", false, true)] {
        let preferences = Preferences { priority, jingle, ..Preferences::default() };
        let registration = Registration {
            jid: BareJid::new(REAL_HOST).unwrap(),
            preferences: Some(Box::new(preferences)),
            ..registration(node, &[], to_micros(OffsetDateTime::now_utc()))
        };
        pushlark.store().register(&BOB.parse().unwrap(), &registration, |_| false).await.unwrap();
    }
    let mut events = events();
    let retract = stanza::chat("<retract xmlns='urn:xmpp:jingle-message:0' id='blackbird-c1'/>");
    events.push((Event::stanza(BOB, &retract), json!({})));
    send(&pushlark, &events).await;
    let of = |node: &str| -> Vec<Element> { rest.published(node).iter().map(notification_of).collect() };
    let plain = of("none");
    assert!(plain.iter().all(|notification| notification.children().count() == 1), "{plain:?}");
    let priorities: Vec<_> = of("priority")
        .iter()
        .map(|notification| {
            assert!(notification.child("x", ns::DATA_FORMS).is_some());
            notification.child("priority", ns::TIGASE_PRIORITY).unwrap().text().into_owned()
        })
        .collect();
    assert_eq!(priorities, ["high", "high", "high", "high", "low", "high", "high", "low"]);
    let calls: Vec<_> = of("jingle").iter().map(|one| one.child("jingle", ns::TIGASE_JINGLE).cloned()).collect();
    let jingle = |sid: &str, media: &str| {
        let xml = format!("<jingle xmlns='{}' action='propose' sid='{sid}'>{media}</jingle>", ns::TIGASE_JINGLE);
        Some(Element::parse(&xml).unwrap())
    };
    let media = "<media>audio</media><media>video</media>";
    let [audio_video, none] = [jingle("blackbird-c1", media), jingle("blackbird-c2", "")];
    assert_eq!(calls, [None, None, None, None, None, audio_video, none, None]);
    let form = of("jingle")[5].child("x", ns::DATA_FORMS).unwrap().to_string();
    assert!(form.contains(&format!("<field var=\"last-message-sender\"><value>{ALICES_PC}</value>")), "{form}");
}

/// Returns a publish request with this content.
fn publish(node: &str, content: &str) -> String {
    stanza::publish(node, &stanza::notification(content), &[])
}

/// Creates a push node for a device of Bob's.
async fn create_node(pushlark: &Pushlark, node: &str, options: &[(&str, &str)]) {
    let enable = stanza::enable(PUSH_HOST, node, &stanza::publish_options(options));
    pushlark.post("/pubsub", tests::XMPP, stanza::iq("set", BOBS_PC, PUSH_HOST, &enable)).await.assert_result();
}

/// Publishes as the chat server, and returns the answer.
async fn publish_as_server(pushlark: &Pushlark, id: &str, payload: &str) -> tests::Reply {
    let iq = stanza::iq_with_id("set", "example.com", PUSH_HOST, id, payload);
    let reply = pushlark.post("/pubsub", tests::XMPP, iq).await;
    pushlark.settled().await;
    reply
}

#[tokio::test]
async fn what_other_servers_encrypt_passes_through_the_push_node() {
    let providers = Providers::start().await;
    let pushlark = &providers.pushlark;
    create_node(pushlark, "iphone", &[("service", "apns"), ("device_id", IPHONE), ("priority", "high")]).await;
    let android = canary("android");
    create_node(pushlark, "android", &[("service", "fcm"), ("device_id", &android)]).await;
    let encrypted = |attributes: &str, text: &str| {
        format!("<encrypted xmlns='tigase:push:encrypt:0' iv='QUFBQUFBQUFBQUFB' {attributes}>{text}</encrypted>")
    };
    let priority = |priority: &str| format!("<priority xmlns='tigase:push:priority:0'>{priority}</priority>");
    let summary =
        stanza::summary(&[("message-count", "1"), ("last-message-sender", ALICE), ("last-message-body", TEXT)]);
    let data = |text: &str| json!({"account": BOB, "encrypted": text, "iv": "QUFBQUFBQUFBQUFB"});
    let voip = json!({"account": BOB, "encrypted": "QUJD", "iv": "QUFBQUFBQUFBQUFB", "type": "voip"});
    for (index, (content, expected, is_low)) in [
        (encrypted("", "QUJDREVG") + &priority("high"), data("QUJDREVG"), false),
        (priority("low") + &encrypted("", "QUJD\n  REVG\n"), data("QUJDREVG"), true),
        // A summary beside it would tell what is encrypted.
        (summary + &encrypted("type='aes-128-gcm'", "QUJD") + &priority("urgent"), data("QUJD"), false),
        (encrypted("type='voip'", "QUJD"), voip, false),
    ]
    .into_iter()
    .enumerate()
    {
        for node in ["iphone", "android"] {
            publish_as_server(pushlark, &format!("{node}{index}"), &publish(node, &content)).await.assert_result();
        }
        let (apns, fcm) = (assert_hidden(&providers.apns), assert_hidden(&providers.fcm));
        assert_eq!((apns.len(), fcm.len()), (index + 1, index + 1));
        let mut body = apns[index].json();
        let mut aps = body.as_object_mut().unwrap().remove("aps").unwrap();
        aps.as_object_mut().unwrap().remove("thread-id");
        let text = if expected.get("type").is_some() { "Incoming call" } else { "New message" };
        assert_eq!(aps, json!({"alert": {"title": text, "body": text}, "mutable-content": 1}), "{content}");
        assert_eq!(body, expected, "{content}");
        assert_eq!(apns[index].header("apns-priority"), if is_low { "5" } else { "10" });
        let mut android = fcm[index].json()["message"]["android"].take();
        for name in ["ttl", "collapse_key"] {
            android.as_object_mut().unwrap().remove(name);
        }
        let priority = if is_low { "NORMAL" } else { "HIGH" };
        assert_eq!(android, json!({"priority": priority, "data": expected}), "{content}");
    }
}

#[tokio::test]
async fn a_low_priority_needs_no_place_in_the_form() {
    let providers = Providers::start().await;
    let fields: Vec<_> = (2..MAX_OPTION_FIELDS).map(|number| format!("x{number}")).collect();
    let others = fields.iter().map(|name| (name.as_str(), "canary"));
    let options: Vec<_> = [("service", "apns"), ("device_id", IPHONE)].into_iter().chain(others).collect();
    create_node(&providers.pushlark, "iphone", &options).await;
    let content = "<priority xmlns='tigase:push:priority:0'>low</priority>\
        <encrypted xmlns='tigase:push:encrypt:0' iv='QUFBQUFBQUFBQUFB'>QUJD</encrypted>";
    publish_as_server(&providers.pushlark, "p1", &publish("iphone", content)).await.assert_result();
    let [request] = &providers.apns.accepted(IPHONE)[..] else { panic!() };
    assert_eq!((&request.json()["encrypted"], request.header("apns-priority")), (&json!("QUJD"), "5"));
}

#[tokio::test]
async fn a_publication_that_no_device_can_decrypt_is_refused() {
    let pushlark = Pushlark::start().await;
    create_node(&pushlark, "phone", &[("service", "fcm"), ("device_id", "canary-phone")]).await;
    let iv = "iv='QUFBQUFBQUFBQUFB'";
    for (index, (attributes, text, reason)) in [
        ("", "QUJD", "the iv of &lt;encrypted/> is not base64"),
        ("iv=''", "QUJD", "the iv of &lt;encrypted/> is not base64"),
        ("iv='!'", "QUJD", "the iv of &lt;encrypted/> is not base64"),
        (iv, "", "the text of &lt;encrypted/> is not base64"),
        (iv, "  ", "the text of &lt;encrypted/> is not base64"),
        (iv, "blackbird", "the text of &lt;encrypted/> is not base64"),
        (iv, "QUJ", "the text of &lt;encrypted/> is not base64"),
    ]
    .into_iter()
    .enumerate()
    {
        let summary = stanza::summary(&[("last-message-body", "canary Hi")]);
        let content = format!("{summary}<encrypted xmlns='tigase:push:encrypt:0' {attributes}>{text}</encrypted>");
        let reply = publish_as_server(&pushlark, &format!("p{index}"), &publish("phone", &content)).await;
        assert!(reply.body.contains("<bad-request ") && reply.body.contains("<invalid-payload "), "{}", reply.body);
        assert!(reply.body.contains(reason), "{}", reply.body);
    }
    assert!(pushlark.all_notifications().await.is_empty());
}

#[tokio::test]
async fn a_plain_publication_is_encrypted_for_a_node_with_a_key() {
    let gateway = Gateway::mongoosepush().await;
    let settings = [("MONGOOSEPUSH_URL", gateway.url.as_str()), ("MUC_HOSTS", "muc.example.com")];
    let pushlark = Pushlark::with_settings(settings).await;
    let encryption = json!({"alg": "aes-128-gcm", "key": BASE64_STANDARD.encode(KEY)});
    for (sender, expected) in [
        (ALICE, json!({"unread": 2, "sender": ALICE, "type": "chat", "message": TEXT})),
        (
            ROOM_OCCUPANT,
            json!({"unread": 2, "sender": "room@muc.example.com", "type": "groupchat", "message": TEXT,
                "nickname": "alice"}),
        ),
    ] {
        let summary = [["message-count", "2"], ["last-message-sender", sender], ["last-message-body", TEXT]];
        let notification = json!({"jid": PUSH_HOST, "node": "n", "owner": BOB, "created_at": 1, "summary": summary,
            "options": {"service": "apns", "device_id": "canary-phone"}, "encryption": encryption});
        let work = Work::of(json!({"notification": notification})).id(sender);
        let mut record = Work::record(&[work]);
        record["version"] = 4.into();
        pushlark.enqueue(record).await;
        pushlark.settled().await;
        let request = assert_hidden(&gateway).pop().unwrap().json();
        assert_eq!(decrypted([&request["data"]]), [expected]);
        assert_eq!(request["alert"]["body"], "New message");
    }
}

/// Everything that writes names and texts into notifications, or ids of conversations.
const SETTINGS: [(&str, &str); 6] = [
    ("PLUGIN", "rules"),
    (
        "RULES",
        r#"
        [[rules]]
        conditions = [{kind = "message"}]
        action = "push"
        content = "message"
        title = "{sender_name}: blackbird"
        body = "{sender_name}: {body}"
        data = {quote = "{body|20}", who = "{sender}"}
        sound = "chirp.caf"
        interruption_level = "time-sensitive"
        channel_id = "chats"
        priority = "high"
        "#,
    ),
    ("ALERT_INTERVAL", "3600"),
    ("UNREAD_COUNTS", "on"),
    ("BADGE", "total"),
    ("CLEAR_WHEN_READ", "on"),
];

/// Enables a device with a key by an IQ.
async fn enable_by_iq(pushlark: &Pushlark, jid: &str, node: &str, options: &Value) {
    let options: Vec<_> =
        options.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
    let key = BASE64_STANDARD.encode(KEY);
    let encrypt = format!("<encrypt xmlns='{}' alg='aes-128-gcm' max-size='2800'>{key}</encrypt>", ns::TIGASE_ENCRYPT);
    let enable = stanza::enable(jid, node, &(stanza::publish_options(&options) + &encrypt));
    pushlark.post("/enable", XMPP, stanza::iq("set", BOBS_PHONE, BOB, &enable)).await.assert_result();
}

/// Enables a device with a key by JSON.
async fn enable_by_json(pushlark: &Pushlark, node: &str, options: Value) {
    let encrypt = json!({"alg": "aes-128-gcm", "key": BASE64_STANDARD.encode(KEY)});
    let enable = PushRequest::new(BOB, node).options(options).with("encrypt", encrypt);
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
}

/// Sends two messages of Alice, one of Carol, and the news that the conversation with Alice was read.
async fn converse(pushlark: &Pushlark) {
    let message = |from: &str| Event::message(BOB, TEXT).from(from).with("sender_name", "Alice or Carol");
    for event in [message(ALICE), message(ALICE), message(CAROL), Event::read(BOB, ALICES_PC)] {
        pushlark.event(event).await;
        pushlark.settled().await;
    }
}

/// Checks what the device decrypts of the three messages.
fn assert_conversations<'d>(data: impl IntoIterator<Item = &'d Value>) {
    let expected = [(1, ALICE), (2, ALICE), (1, CAROL)].map(|(unread, sender)| {
        json!({"unread": unread, "sender": sender, "type": "chat", "message": format!("Alice or Carol: {TEXT}"),
            "quote": "canary: blackbird 🐦…", "who": sender})
    });
    assert_eq!(decrypted(data), expected);
}

/// Checks that the ids of the first two messages are the same, and that of the third is another.
fn assert_collapsed(ids: &[&str]) {
    assert!(ids[0] == ids[1] && ids[1] != ids[2] && !ids[0].is_empty(), "{ids:?}");
}

#[tokio::test]
async fn providers_learn_nothing_by_rules_quiet_bursts_badges_and_read_marks() {
    let providers = Providers::with_settings(&SETTINGS).await;
    let pushlark = &providers.pushlark;
    let browser = Subscriber::new(7);
    enable_by_iq(pushlark, PUSH_HOST, "iphone", &json!({"service": "apns", "device_id": IPHONE})).await;
    enable_by_json(pushlark, "android", json!({"service": "fcm", "device_id": canary("android")})).await;
    let keys = json!({"service": "web-push", "endpoint": providers.web_push.endpoint("browser"),
        "p256dh": browser.p256dh(), "auth": browser.auth()});
    enable_by_json(pushlark, "browser", keys).await;
    converse(pushlark).await;

    let apns = assert_hidden(&providers.apns);
    assert_eq!(apns.len(), 4);
    let bodies: Vec<_> = apns.iter().map(Request::json).collect();
    assert_conversations(&bodies[..3]);
    let header = |requests: &[Request], name: &str| -> Vec<String> {
        requests.iter().map(|request| request.header(name).to_owned()).collect()
    };
    let collapse_ids = header(&apns, "apns-collapse-id");
    assert_collapsed(&collapse_ids.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(header(&apns, "apns-priority"), ["10", "5", "10", "5"]);
    let alerts: Vec<_> = bodies[..3]
        .iter()
        .map(|body| {
            assert_eq!(body["aps"]["alert"], json!({"title": "New message", "body": "New message"}));
            (&body["aps"]["badge"], body["aps"].get("sound").cloned())
        })
        .collect();
    let sound = Some(json!("chirp.caf"));
    assert_eq!(alerts, [(&json!(1), sound.clone()), (&json!(2), None), (&json!(3), sound)]);
    assert_eq!(bodies[3]["conversation"], bodies[0]["aps"]["thread-id"]);

    let fcm: Vec<_> = assert_hidden(&providers.fcm).iter().map(|one| one.json()["message"]["android"].take()).collect();
    assert_conversations(fcm[..3].iter().map(|android| &android["data"]));
    let priorities: Vec<_> = fcm.iter().map(|android| &android["priority"]).collect();
    assert_eq!(priorities, ["HIGH", "NORMAL", "HIGH", "NORMAL"]);
    assert!(fcm.iter().all(|android| android.get("notification").is_none()));

    let requests = assert_hidden(&providers.web_push);
    let topics = header(&requests, "topic");
    assert_collapsed(&topics.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(header(&requests, "urgency"), ["high", "normal", "high", "normal"]);
    let opened: Vec<Value> = requests
        .iter()
        .map(|request| serde_json::from_slice(&browser.decrypt(&request.body).unwrap()).unwrap())
        .collect();
    assert_conversations(&opened[..3]);
    assert!(opened.iter().all(|fields| fields.get("title").is_none()), "{opened:?}");
    assert_eq!((&opened[1]["sound"], &opened[1]["tag"]), (&json!("none"), &opened[3]["conversation"]));
}

#[tokio::test]
async fn gateways_learn_nothing_by_rules_quiet_bursts_badges_and_read_marks() {
    let mongoosepush = Gateway::mongoosepush().await;
    let settings = SETTINGS.into_iter().chain([("MONGOOSEPUSH_URL", mongoosepush.url.as_str())]);
    let pushlark = Pushlark::with_settings(settings).await;
    enable_by_json(&pushlark, "iphone", json!({"service": "apns", "device_id": canary("iphone")})).await;
    let android = json!({"service": "fcm", "device_id": canary("android")});
    enable_by_iq(&pushlark, PUSH_HOST, "android", &android).await;
    converse(&pushlark).await;
    let requests = assert_hidden(&mongoosepush);
    for device in ["iphone", "android"] {
        let of_device = requests.iter().filter(|request| request.device == device);
        let requests: Vec<_> = of_device.map(Request::json).collect();
        assert_eq!(requests.len(), 4, "{device}");
        assert_conversations(requests[..3].iter().map(|request| &request["data"]));
        let priorities: Vec<_> = requests[..3].iter().map(|request| &request["priority"]).collect();
        assert_eq!(priorities, ["high", "normal", "high"], "{device}");
        if device == "iphone" {
            let tags: Vec<_> = requests[..3].iter().map(|request| request["alert"]["tag"].as_str().unwrap()).collect();
            assert_collapsed(&tags);
            assert_eq!(requests[3]["data"]["conversation"], tags[0]);
        }
    }

    let receiver = Gateway::webhook().await;
    let own = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
    let pushlark = Pushlark::with_settings(SETTINGS.into_iter().chain(own)).await;
    enable_by_iq(&pushlark, PUSH_HOST, "own", &json!({"service": "own", "device_id": canary("own")})).await;
    converse(&pushlark).await;
    let requests: Vec<_> = assert_hidden(&receiver).iter().map(Request::json).collect();
    assert_conversations(requests[..3].iter().map(|request| &request["payload"]));
    assert_eq!(
        requests[1]["presentation"],
        json!({"priority": "normal", "sound": "none", "interruption_level": "time-sensitive", "channel_id": "chats",
            "collapse": "conversation"})
    );

    let rest = Rest::start("token").await;
    let url = format!("{}/rest", rest.url);
    let real = [("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", "token")];
    let pushlark = Pushlark::with_settings(SETTINGS.into_iter().chain(real)).await;
    enable_by_iq(&pushlark, REAL_HOST, "real", &json!({"secret": "canary"})).await;
    converse(&pushlark).await;
    assert_eq!(assert_hidden(&rest).len(), 3, "no read mark");
    let data: Vec<_> = rest
        .published("real")
        .iter()
        .map(|iq| {
            let encrypted = notification_of(iq).child("encrypted", ns::TIGASE_ENCRYPT).unwrap().clone();
            json!({"encrypted": encrypted.text(), "iv": encrypted.attribute("iv")})
        })
        .collect();
    assert_conversations(&data);
}

#[tokio::test]
async fn a_node_that_a_client_creates_with_a_key_encrypts_what_servers_publish() {
    let providers = Providers::start().await;
    let pushlark = &providers.pushlark;
    let form = stanza::publish_options(&[("service", "apns"), ("device_id", IPHONE)]);
    let key = BASE64_STANDARD.encode(KEY);
    let encrypt =
        |key: &str| format!("<encrypt xmlns='{}' alg='aes-128-gcm' max-size='256'>{key}</encrypt>", ns::TIGASE_ENCRYPT);
    let create = async |key: &str| {
        let enable = stanza::enable(PUSH_HOST, "iphone", &(form.clone() + &encrypt(key)));
        pushlark.post("/pubsub", XMPP, stanza::iq("set", BOBS_PC, PUSH_HOST, &enable)).await
    };
    let refused = create("canary").await.body;
    assert!(refused.contains("<bad-request ") && !refused.contains("<result"), "{refused}");
    create(&key).await.assert_result();
    let text = format!("canary {}", "blackbird ".repeat(500));
    let summary =
        stanza::summary(&[("message-count", "7"), ("last-message-sender", ALICES_PC), ("last-message-body", &text)]);
    publish_as_server(pushlark, "p1", &publish("iphone", &summary)).await.assert_result();
    let [request] = &assert_hidden(&providers.apns)[..] else { panic!() };
    let body = request.json();
    assert!(body["encrypted"].as_str().unwrap().len() <= 256);
    let [opened] = &decrypted([&body])[..] else { panic!() };
    assert_eq!((&opened["unread"], &opened["sender"], &opened["type"]), (&json!(7), &json!(ALICE), &json!("chat")));
    assert!(text.starts_with(opened["message"].as_str().unwrap().strip_suffix('…').unwrap()), "{opened}");
    assert_eq!((&body["aps"]["badge"], &body["aps"]["mutable-content"]), (&json!(7), &json!(1)));
}
