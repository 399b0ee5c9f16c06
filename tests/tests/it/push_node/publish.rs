//! Publishing to push nodes.

use doubles::{Subscriber, canary};
use local::Options;
use pushlark_settings::Environment;
use pushlark_xmpp::{Element, ns};
use serde_json::{Value, json};
use tests::{BOB, ChaosProxy, IPHONE, PUSH_HOST, Providers, Pushlark, TEST_TIMEOUT, Work, stanza};
use tokio::time::timeout;

use super::{
    ALICE, DEVICE, HOST, SUMMARY, assert_error, assert_result, captured, create, publish, register, send_iq,
    send_stanza, set, stack, toggle,
};

#[tokio::test]
async fn the_push_node_accepts_publishes_of_real_chat_servers() {
    let pushlark = stack().await;
    for (name, alert) in [
        ("prosody-body", json!({"body": "New Message!", "badge": 1})),
        ("prosody-nooptions", json!({"body": "New Message!"})),
        ("prosody-omemo", json!({"badge": 1})),
        ("prosody-jingle-propose", json!({"badge": 1})),
        ("ejabberd-default", json!({"body": "New message", "title": "New message", "badge": null, "tag": null})),
        ("ejabberd-default-nooptions", json!({"body": "New message"})),
        ("ejabberd-include-body-sender", json!({"body": "Hello <Bob> & co", "title": "alice@full.localhost"})),
        ("ejabberd-no-body-no-sender", json!({"body": "New message"})),
        ("ejabberd-omemo", json!({"body": "New message"})),
        ("ejabberd-sm-pending-1", json!({"body": "New message"})),
        ("ejabberd-subject-normal-message", json!({"body": "english"})),
        ("ejabberd-unicode-emoji", json!({"body": "Zażółć gęślą jaźń 😀 \"q\" 'a' \n newline"})),
    ] {
        let stanza = captured(name);
        let publish = Element::parse(&stanza).unwrap();
        let (from, node) = (publish.attribute("from").unwrap(), node_of(&publish));
        register(&pushlark, &node, name).await;
        allow(&pushlark, &node, from).await;
        // All captured publishes that name a device name the same one.
        let stanza = stanza.replace("tok-abc-123", &canary(name));
        assert_result(&send_stanza(&pushlark, &stanza).await);
        let notified = &pushlark.notified(name, 1).await[0]["notification"];
        assert_eq!(notified["service"], "fcm", "{name}");
        for (field, value) in alert.as_object().unwrap() {
            assert_eq!(notified["alert"].get(field).unwrap_or(&Value::Null), value, "{name}: {notified}");
        }
    }
}

/// Prosody publishes so what is not important: chat states, markers and presence.
#[tokio::test]
async fn a_text_without_a_value_is_data_in_the_background() {
    let pushlark = stack().await;
    let marker = captured("prosody-chatmarker-nobody");
    register(&pushlark, "node-5", "phone").await;
    allow(&pushlark, "node-5", "localhost").await;
    let device = canary("phone");
    let empty = marker.replace("var='last-message-body'/>", "var='last-message-body'><value> &#x200b;</value></field>");
    assert_ne!(empty, marker);
    let with_sender = marker
        .replace("var='last-message-sender'/>", "var='last-message-sender'><value>alice@localhost/pc</value></field>");
    for (published, data) in [
        (&marker, json!({"message-count": 1})),
        (&empty, json!({"message-count": 1})),
        (&with_sender, json!({"message-count": 1, "last-message-sender": "alice@localhost"})),
    ] {
        let before = pushlark.notifications("phone").await.len();
        assert_result(&send_stanza(&pushlark, &published.replace("tok-abc-123", &device)).await);
        let notified = &pushlark.notified("phone", before + 1).await[before]["notification"];
        assert_eq!((&notified["data"], notified.get("alert")), (&data, None), "{notified}");
    }
}

#[tokio::test]
async fn a_publish_without_a_field_for_the_text_is_an_alert_unless_the_setting_makes_it_data() {
    for (empty, is_data) in [("alert", false), ("data", true)] {
        let pushlark = Pushlark::with_settings([("VIRTUAL_PUBSUB_HOSTS", HOST), ("PUSH_NODE_EMPTY", empty)]).await;
        create(&pushlark, ALICE, "node").await;
        let sender = [("last-message-sender", ALICE)];
        for (times, content, data) in [
            (1, String::new(), json!({"node": "node"})),
            (2, stanza::summary(&sender), json!({"last-message-sender": ALICE})),
        ] {
            let publish = stanza::publish("node", &stanza::notification(&content), &DEVICE);
            assert_result(&send_iq(&pushlark, ALICE, "set", &format!("p{times}"), &publish).await);
            let notified = &pushlark.notified("sometoken", times).await[times - 1]["notification"];
            match is_data {
                true => assert_eq!((&notified["data"], notified.get("alert")), (&data, None), "{notified}"),
                false => assert_eq!(notified["alert"]["body"], "New message", "{notified}"),
            }
        }
        // A text is always an alert.
        assert_result(&send_iq(&pushlark, ALICE, "set", "p3", &publish("node", &SUMMARY, &DEVICE)).await);
        assert_eq!(pushlark.notified("sometoken", 3).await[2]["notification"]["alert"]["body"], SUMMARY[2].1);
    }
}

/// Tigase always counts, and tells the text by its settings.
#[tokio::test]
async fn a_publish_without_a_text_is_an_alert() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let (sender, text) = (("last-message-sender", "bob@localhost/pc"), ("last-message-body", "canary New!"));
    let pending = ("pending-subscription-count", "1");
    let count = |count| ("message-count", count);
    for (index, (summary, title, body, badge)) in [
        (vec![count("2"), sender], "bob@localhost", "New message", 2),
        (vec![count("5")], "New message", "New message", 5),
        (vec![count("0"), sender, text], "bob@localhost", "canary New!", 0),
        (vec![count("0"), pending, sender], "bob@localhost", "Contact request", 0),
        (vec![count("0"), pending], "New contact", "Contact request", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let publish = publish("node", &summary, &DEVICE);
        assert_result(&send_iq(&pushlark, ALICE, "set", &format!("p{index}"), &publish).await);
        let alert = &pushlark.notified("sometoken", index + 1).await[index]["notification"]["alert"];
        let shown = ["title", "body", "badge"].map(|name| alert[name].clone());
        assert_eq!(shown, [json!(title), json!(body), json!(badge)], "{summary:?}");
    }
    // A silent device needs no text.
    let silent = [DEVICE[0], DEVICE[1], ("silent", "true")];
    assert_result(&send_iq(&pushlark, ALICE, "set", "silent", &publish("node", &[count("2"), sender], &silent)).await);
    assert_eq!(pushlark.notified("sometoken", 6).await[5]["notification"].get("alert"), None);
}

#[tokio::test]
async fn a_count_of_no_messages_is_a_silent_push_that_all_is_read() {
    for empty in ["alert", "data"] {
        let pushlark = Pushlark::with_settings([("VIRTUAL_PUBSUB_HOSTS", HOST), ("PUSH_NODE_EMPTY", empty)]).await;
        create(&pushlark, ALICE, "node").await;
        let (none, sender) = (("message-count", "0"), ("last-message-sender", "bob@localhost/pc"));
        for (index, (summary, data)) in [
            (vec![none], json!({"message-count": 0, "type": "read"})),
            (vec![none, ("last-message-body", "")], json!({"message-count": 0, "type": "read"})),
            (
                vec![none, ("pending-subscription-count", "0")],
                json!({"message-count": 0, "pending-subscription-count": "0", "type": "read"}),
            ),
            (vec![none, sender], json!({"message-count": 0, "last-message-sender": "bob@localhost", "type": "read"})),
        ]
        .into_iter()
        .enumerate()
        {
            let publish = publish("node", &summary, &DEVICE);
            assert_result(&send_iq(&pushlark, ALICE, "set", &format!("p{index}"), &publish).await);
            let notified = &pushlark.notified("sometoken", index + 1).await[index]["notification"];
            assert_eq!((&notified["data"], notified.get("alert")), (&data, None), "{notified}");
        }
        // A device for calls gets nothing else.
        let push_kit = [("device_id", "canary-kit"), DEVICE[1], ("topic", "com.example.chat.voip")];
        assert_result(&send_iq(&pushlark, ALICE, "set", "kit", &publish("node", &[none], &push_kit)).await);
        pushlark.settled().await;
        assert!(pushlark.notifications("kit").await.is_empty());
    }
}

#[tokio::test]
async fn each_provider_shows_a_count_alone_and_clears_when_it_is_0() {
    let providers = Providers::start().await;
    let (pushlark, subscriber) = (&providers.pushlark, Subscriber::new(7));
    providers.enable_iphone(IPHONE, json!({})).await;
    pushlark.enable(BOB, "android").await;
    providers.enable_browser("browser", &subscriber, json!({})).await;
    for (index, registration) in pushlark.registrations(BOB).await.into_iter().enumerate() {
        for count in ["5", "0"] {
            let notification = json!({"jid": PUSH_HOST, "node": registration.node, "owner": BOB, "created_at": 1,
                "options": registration.options.fields(), "summary": [["message-count", count]]});
            let id = format!("m{index}-{count}");
            pushlark.enqueue(Work::record(&[Work::of(json!({"notification": notification})).id(&id)])).await;
            pushlark.settled().await;
        }
    }
    let [shown, cleared] = <[_; 2]>::try_from(providers.apns.accepted(IPHONE)).unwrap();
    assert_eq!(shown.json()["aps"]["alert"], json!({"title": "New message", "body": "New message"}));
    assert_eq!(shown.json()["aps"]["badge"], 5);
    let expected = json!({"aps": {"badge": 0, "content-available": 1}, "type": "read", "message-count": 0});
    assert_eq!(cleared.json(), expected);
    let [shown, cleared] = <[_; 2]>::try_from(providers.fcm.accepted("android")).unwrap();
    assert_eq!(shown.json()["message"]["android"]["notification"]["body"], "New message");
    let cleared = cleared.json()["message"]["android"].take();
    assert_eq!(cleared["data"], json!({"type": "read", "message-count": "0"}));
    assert_eq!((cleared.get("notification"), cleared.get("collapse_key")), (None, None));
    let texts = providers.web_push.accepted("browser");
    let texts =
        texts.iter().map(|request| serde_json::from_slice(&subscriber.decrypt(&request.body).unwrap()).unwrap());
    let [shown, cleared] = <[Value; 2]>::try_from(texts.collect::<Vec<_>>()).unwrap();
    assert_eq!(shown["last-message-body"], "New message");
    assert_eq!(cleared, json!({"type": "read", "message-count": "0"}));
}

#[tokio::test]
async fn a_text_that_the_settings_leave_out_stays_an_alert() {
    let settings = [("VIRTUAL_PUBSUB_HOSTS", HOST), ("INCLUDE_BODY", "off"), ("PUSH_NODE_EMPTY", "data")];
    let pushlark = Pushlark::with_settings(settings).await;
    create(&pushlark, ALICE, "node").await;
    assert_result(&set(&pushlark, ALICE, &publish("node", &SUMMARY, &DEVICE)).await);
    assert_eq!(pushlark.notified("sometoken", 1).await[0]["notification"]["alert"]["body"], "New message");
}

#[tokio::test]
async fn pending_contact_requests_without_messages_are_an_alert_of_their_own() {
    let settings = [("VIRTUAL_PUBSUB_HOSTS", HOST), ("SUBSCRIPTION_PLACEHOLDER", "Somebody asks")];
    let pushlark = Pushlark::with_settings(settings).await;
    create(&pushlark, ALICE, "node").await;
    let count = |count| ("message-count", count);
    let pending = |count| ("pending-subscription-count", count);
    let [sender, body] = [("last-message-sender", ""), ("last-message-body", "")];
    for (times, summary, text) in [
        (1, vec![pending("1")], Some(["New contact", "Somebody asks"])),
        (2, vec![count("0"), pending("2"), sender, body], Some(["New contact", "Somebody asks"])),
        (3, vec![count("1"), pending("2"), sender, body], None),
        (4, vec![pending("0")], Some(["New message", "New message"])),
    ] {
        assert_result(
            &send_iq(&pushlark, ALICE, "set", &format!("p{times}"), &publish("node", &summary, &DEVICE)).await,
        );
        let notified = &pushlark.notified("sometoken", times).await[times - 1]["notification"];
        let shown = notified.get("alert").map(|alert| ["title", "body"].map(|name| alert[name].as_str().unwrap()));
        assert_eq!(shown, text, "{notified}");
    }
}

#[tokio::test]
async fn a_sender_is_shown_without_resource_unless_it_is_in_a_room() {
    let settings =
        [("VIRTUAL_PUBSUB_HOSTS", HOST), ("MUC_HOSTS", "talk.@HOST@"), ("MUC_LIGHT_HOSTS", "light.example.net")];
    let pushlark = Pushlark::with_settings(settings).await;
    create(&pushlark, ALICE, "node").await;
    let senders = [
        ("dora@example.com/phone.x7Fq", "dora@example.com"),
        ("dora@example.com", "dora@example.com"),
        ("example.com/news", "example.com"),
        ("room@conference.example.org/dora", "room@conference.example.org/dora"),
        ("room@mix.localhost/dora", "room@mix.localhost/dora"),
        ("room@talk.localhost/dora", "room@talk.localhost/dora"),
        ("room@light.example.net/dora@example.com", "room@light.example.net/dora@example.com"),
        ("Dora/Eve", "Dora/Eve"),
        ("Dora & Eve", "Dora & Eve"),
    ];
    for (index, (sender, title)) in senders.into_iter().enumerate() {
        let sender = sender.replace('&', "&amp;");
        let summary = [SUMMARY[0], ("last-message-sender", sender.as_str()), SUMMARY[2]];
        let publish = publish("node", &summary, &DEVICE);
        assert_result(&send_iq(&pushlark, ALICE, "set", &format!("p{index}"), &publish).await);
        let notified = &pushlark.notified("sometoken", index + 1).await[index]["notification"];
        assert_eq!(notified["alert"]["title"], title);
    }
}

fn node_of(publish: &Element) -> String {
    let publish = publish.child("pubsub", ns::PUBSUB).unwrap().child("publish", ns::PUBSUB).unwrap();
    publish.attribute("node").unwrap().to_owned()
}

async fn allow(pushlark: &Pushlark, node: &str, publisher: &str) {
    let affiliation = format!("<affiliation jid='{publisher}' affiliation='publish-only'/>");
    let affiliations = stanza::pubsub_owner(&format!("<affiliations node='{node}'>{affiliation}</affiliations>"));
    assert_result(&set(pushlark, "bob@localhost", &affiliations).await);
}

#[tokio::test]
async fn a_publish_to_an_unknown_node_is_refused() {
    let pushlark = stack().await;
    for name in ["prosody-body", "prosody-userpart-jid", "ejabberd-userpart-jid"] {
        assert_error(&send_stanza(&pushlark, &captured(name)).await, "cancel", "item-not-found", None);
    }
    let reply = send_stanza(&pushlark, &captured("prosody-nonode")).await;
    assert_error(&reply, "modify", "bad-request", Some("nodeid-required"));
}

/// The rest of the form is used: a chat server must not lose its registration because of a field that is not read.
#[tokio::test]
async fn form_fields_with_several_values_or_no_name_are_ignored() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let two = "<field var='extra'><value>1</value><value>2</value></field><field><value>x</value></field>\
        <field var='twice'><value>1</value></field><field var='twice'><value>1</value></field></x>";
    let publish = publish("node", &SUMMARY, &DEVICE).replace("</x>", two);
    assert_result(&set(&pushlark, ALICE, &publish).await);
    let notified = &pushlark.notified("sometoken", 1).await[0]["notification"];
    assert_eq!(notified["alert"]["body"], "canary message body 576364!!");
    // A field of the device must have one value.
    let without = publish.replace("<value>apns</value>", "<value>apns</value><value>fcm</value>");
    assert_error(&set(&pushlark, ALICE, &without).await, "cancel", "conflict", Some("precondition-not-met"));
}

#[tokio::test]
async fn a_summary_may_lack_its_form_type_but_not_have_another() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let form_type = "<field var='FORM_TYPE'><value>urn:xmpp:push:summary</value></field>";
    let publish = publish("node", &SUMMARY, &DEVICE);
    assert_result(&set(&pushlark, ALICE, &publish.replace(form_type, "")).await);
    pushlark.notified("sometoken", 1).await;
    let other = publish.replace("urn:xmpp:push:summary", "urn:xmpp:push:other");
    assert_error(&set(&pushlark, ALICE, &other).await, "modify", "bad-request", Some("invalid-payload"));
}

#[tokio::test]
async fn options_of_another_form_type_are_an_unmet_precondition() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let wrong = stanza::form("urn:other", &DEVICE);
    let item = stanza::notification(&stanza::summary(&SUMMARY));
    let publish = stanza::pubsub(&format!(
        "<publish node='node'><item>{item}</item></publish><publish-options>{wrong}</publish-options>"
    ));
    let reply = set(&pushlark, ALICE, &publish).await;
    assert_error(&reply, "cancel", "conflict", Some("precondition-not-met"));
    // A node with a device needs no options.
    assert_result(&set(&pushlark, ALICE, &toggle("enable", " node='node'")).await);
    assert_result(&set(&pushlark, ALICE, &publish).await);
}

#[tokio::test]
async fn a_publish_to_a_gone_device_is_answered_with_an_error() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    pushlark.device_answers("sometoken", json!({"status": 410})).await;
    // Pushlark answers before it calls the push service.
    assert_result(&send_iq(&pushlark, ALICE, "set", "p1", &publish("node", &SUMMARY, &DEVICE)).await);
    pushlark.notified("sometoken", 1).await;
    pushlark.settled().await;
    let again = send_iq(&pushlark, ALICE, "set", "p2", &publish("node", &SUMMARY, &DEVICE)).await;
    assert_error(&again, "cancel", "not-acceptable", Some("device-not-registered"));
    // The error does not concern another device of the node, or a device that is registered again.
    let other = [("device_id", "canary-othertoken"), DEVICE[1]];
    assert_result(&send_iq(&pushlark, ALICE, "set", "p3", &publish("node", &SUMMARY, &other)).await);
    pushlark.notified("othertoken", 1).await;
    pushlark.device_answers("sometoken", json!({"status": 200})).await;
    let enable = stanza::enable(HOST, "node", &stanza::publish_options(&DEVICE));
    assert_result(&set(&pushlark, "alice@localhost/phone", &enable).await);
    assert_result(&send_iq(&pushlark, ALICE, "set", "p4", &publish("node", &SUMMARY, &[])).await);
    pushlark.notified("sometoken", 2).await;
}

/// A token is not gone if only the mode or the topic was wrong.
#[tokio::test]
async fn another_mode_or_topic_makes_another_device() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    pushlark.device_answers("sometoken", json!({"status": 410})).await;
    let wrong = [DEVICE[0], DEVICE[1], ("topic", "wrong"), ("mode", "dev")];
    assert_result(&send_iq(&pushlark, ALICE, "set", "p1", &publish("node", &SUMMARY, &wrong)).await);
    pushlark.notified("sometoken", 1).await;
    pushlark.settled().await;
    pushlark.device_answers("sometoken", json!({"status": 200})).await;
    let again = send_iq(&pushlark, ALICE, "set", "p2", &publish("node", &SUMMARY, &wrong)).await;
    assert_error(&again, "cancel", "not-acceptable", Some("device-not-registered"));
    for (id, right) in [("p3", ("topic", "right")), ("p4", ("mode", "prod"))] {
        let right = [DEVICE[0], DEVICE[1], right];
        assert_result(&send_iq(&pushlark, ALICE, "set", id, &publish("node", &SUMMARY, &right)).await);
    }
    pushlark.notified("sometoken", 3).await;
}

#[tokio::test]
async fn a_suspected_device_is_gone_after_three_errors_in_a_row() {
    let settings = [("VIRTUAL_PUBSUB_HOSTS", HOST), ("MONGOOSEPUSH_API_VERSION", "v2")];
    let pushlark = Pushlark::with_settings(settings).await;
    create(&pushlark, ALICE, "node").await;
    let mut round = 0;
    let mut answers = async |status: u16| {
        round += 1;
        let answer = json!({"status": status, "body": {"details": "probably_unregistered"}});
        pushlark.device_answers("sometoken", answer).await;
        let publish = publish("node", &SUMMARY, &DEVICE);
        assert_result(&send_iq(&pushlark, ALICE, "set", &format!("p{round}"), &publish).await);
        pushlark.notified("sometoken", round).await;
        pushlark.settled().await;
    };
    for status in [500, 500, 200, 500, 500, 500] {
        answers(status).await;
    }
    let reply = send_iq(&pushlark, ALICE, "set", "last", &publish("node", &SUMMARY, &DEVICE)).await;
    assert_error(&reply, "cancel", "not-acceptable", Some("device-not-registered"));
}

#[tokio::test]
async fn a_repeated_publish_notifies_once() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let other = [SUMMARY[0], SUMMARY[1], ("last-message-body", "canary other")];
    for (id, summary) in [("p1", &SUMMARY), ("p1", &SUMMARY), ("p2", &SUMMARY), ("p1", &other), ("p1", &other)] {
        assert_result(&send_iq(&pushlark, ALICE, "set", id, &publish("node", summary, &DEVICE)).await);
    }
    pushlark.settled().await;
    let mut bodies = pushlark.alerts("sometoken").await;
    bodies.sort_unstable();
    assert_eq!(bodies, [SUMMARY[2].1, SUMMARY[2].1, "canary other"]);
}

#[tokio::test]
async fn a_publish_with_a_transient_error_is_retried() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    pushlark.device_answers("sometoken", json!({"status": 503})).await;
    assert_result(&set(&pushlark, ALICE, &publish("node", &SUMMARY, &DEVICE)).await);
    pushlark.notified("sometoken", 1).await;
    pushlark.device_answers("sometoken", json!({"status": 200})).await;
    pushlark.settled().await;
    assert_eq!(pushlark.notifications("sometoken").await.last().unwrap()["status"], 200);
}

#[tokio::test]
async fn an_unavailable_table_gives_a_temporary_error() {
    let proxy = ChaosProxy::start().await;
    let options = Options {
        environment: Environment::from_iter([("VIRTUAL_PUBSUB_HOSTS", HOST)]),
        dynamodb_endpoint: Some(proxy.url.clone()),
        ..Options::default()
    };
    let pushlark = Pushlark::with(options).await;
    proxy.connect(&pushlark.stack.dynamodb_url);
    create(&pushlark, ALICE, "node").await;
    proxy.cut();
    let reply =
        timeout(TEST_TIMEOUT, set(&pushlark, ALICE, &publish("node", &SUMMARY, &DEVICE))).await.expect("an answer");
    assert_error(&reply, "wait", "resource-constraint", None);
    proxy.connect(&pushlark.stack.dynamodb_url);
    assert_result(&set(&pushlark, ALICE, &publish("node", &SUMMARY, &DEVICE)).await);
}

/// MongooseIM 6.10 and later publish calls in this form, and 6.10 publishes each step of a call.
#[tokio::test]
async fn a_published_call_rings_once_and_only_a_call_reaches_push_kit() {
    let pushlark = stack().await;
    let caller = ("jmi-from", "bob@localhost/res1");
    let call = |sid: &'static str| [("type", "jmi"), ("jmi-sid", sid), caller];
    let android = [("device_id", "canary-android"), ("service", "fcm"), ("priority", "normal")];
    let push_kit = [("device_id", "canary-kit"), ("service", "apns"), ("topic", "com.example.chat.voip")];
    let iphone = [("device_id", "canary-iphone"), ("service", "apns"), ("topic", "com.example.chat")];
    let devices = [("android", &android), ("kit", &push_kit), ("iphone", &iphone)];
    for (node, device) in devices {
        create(&pushlark, ALICE, node).await;
        for (id, sid) in [("p1", "c1"), ("p2", "c1"), ("p3", "c2")] {
            assert_result(&send_iq(&pushlark, ALICE, "set", id, &publish(node, &call(sid), device)).await);
            pushlark.settled().await;
        }
        assert_result(&send_iq(&pushlark, ALICE, "set", "p4", &publish(node, &SUMMARY, device)).await);
        let end = [("type", "jmi-end"), ("jmi-sid", "c2")];
        assert_result(&send_iq(&pushlark, ALICE, "set", "p5", &publish(node, &end, device)).await);
    }
    pushlark.settled().await;
    let mut sent = Vec::new();
    for (device, _) in devices {
        let notified = pushlark.notifications(device).await;
        sent.push(notified.into_iter().map(|mut one| one["notification"].take()).collect::<Vec<_>>());
    }
    let data = |sid: &str| json!({"type": "jmi", "jmi-sid": sid, "jmi-from": "bob@localhost/res1"});
    assert_eq!(sent[0].len(), 4, "{sent:?}");
    let request = |sid| json!({"service": "fcm", "priority": "high", "data": data(sid)});
    assert_eq!(sent[0][..2], [request("c1"), request("c2")]);
    assert!(sent[0].iter().any(|request| request["data"]["type"] == "jmi-end"), "{sent:?}");
    let request = |sid| json!({"service": "apns", "topic": "com.example.chat.voip", "data": data(sid)});
    assert_eq!(sent[1], [request("c1"), request("c2")]);
    assert_eq!(sent[2].len(), 3, "{sent:?}");
    assert_eq!(sent[2][0]["alert"], json!({"title": "bob@localhost", "body": "Incoming call", "tag": "bob@localhost"}));
    assert_eq!(sent[2][0]["data"], json!({"jmi-sid": "c1", "jmi-from": "bob@localhost/res1"}));
}
