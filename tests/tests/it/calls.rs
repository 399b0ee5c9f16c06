//! Calls (XEP-0353): the devices that ring, the way in which they ring, and the end of a call.

use std::slice::from_ref;
use std::time::Duration;

use doubles::{APNS_TOPIC, Answer, Gateway, Rest, Subscriber};
use local::Options;
use pushlark_plugin::Plugins;
use pushlark_settings::Environment;
use pushlark_xmpp::ns;
use serde_json::{Value, json};
use tests::{
    ALICE, ALICES_PC, BOB, BOBS_PC, BOBS_PHONE, CAROL, Event, IPHONE, IsolatedWorker, PUSH_HOST, Providers,
    PushRequest, Pushlark, Work, ago, eventually, stanza,
};

use crate::providers::WithFields;

const VOIP_TOPIC: &str = "com.example.chat.voip";
const PUSH_KIT: &str = "aabb63616e61727933";

/// Returns the content of a message: a step of the call with this id.
fn step(name: &str, sid: &str) -> String {
    format!("<{name} xmlns='urn:xmpp:jingle-message:0' id='{sid}'/>")
}

/// Returns a call from Alice to Bob.
fn propose(sid: &str) -> Event {
    Event::stanza(BOB, &stanza::chat(&step("propose", sid)))
}

/// Returns a later step of a call from `from` to `to`.
fn later(name: &str, sid: &str, from: &str, to: &str) -> Event {
    Event::stanza(to, &stanza::chat(&step(name, sid))).from(from)
}

fn call_data(sid: &str) -> Value {
    json!({"type": "jmi", "jmi-sid": sid, "jmi-from": ALICES_PC})
}

fn end_data(sid: &str) -> Value {
    json!({"type": "jmi-end", "jmi-sid": sid})
}

/// Returns the data of the notifications for a device, the oldest first. None of them may have an alert.
async fn data(pushlark: &Pushlark, device: &str) -> Vec<Value> {
    pushlark.settled().await;
    let notified = pushlark.notifications(device).await;
    assert!(notified.iter().all(|one| one["notification"].get("alert").is_none()), "{notified:?}");
    notified.into_iter().map(|mut one| one["notification"]["data"].take()).collect()
}

/// Returns the requests to MongoosePush for a device, the oldest first.
async fn requests(pushlark: &Pushlark, device: &str) -> Vec<Value> {
    pushlark.settled().await;
    pushlark.notifications(device).await.into_iter().map(|mut one| one["notification"].take()).collect()
}

/// Returns the reasons for which `/explain` leaves out Bob's nodes.
async fn left_out(pushlark: &Pushlark, event: Event) -> Vec<(String, String)> {
    let reply = pushlark.json("/explain", json!({"explain": [event]})).await.json();
    let left_out = reply["explained"][0]["recipients"][0]["left_out"].as_array().unwrap_or_else(|| panic!("{reply}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    left_out.iter().map(|one| (text(&one["node"]), text(&one["why"]))).collect()
}

#[tokio::test]
async fn each_built_in_plugin_notifies_of_a_call() {
    for plugin in ["defaults", "enhanced", "hints"] {
        let pushlark = Pushlark::with_settings([("PLUGIN", plugin), ("UNREAD_COUNTS", "on")]).await;
        pushlark.enable(BOB, "phone").await;
        for (sid, beside) in [
            ("c1", "<store xmlns='urn:xmpp:hints'/>"),
            ("c2", ""),
            ("c3", "<no-store xmlns='urn:xmpp:hints'/>"),
            ("c4", "<body>Alice calls you</body>"),
        ] {
            let content = format!("{}{beside}", step("propose", sid));
            pushlark.event(Event::stanza(BOB, &stanza::chat(&content))).await;
            assert_eq!(data(&pushlark, "phone").await.last(), Some(&call_data(sid)), "{plugin}: {beside}");
        }
        for (sid, before) in [("c5", step("ringing", "c5")), ("c6", step("unknown", "c6"))] {
            let content = before + &step("propose", sid);
            pushlark.event(Event::stanza(BOB, &stanza::chat(&content))).await;
            assert_eq!(data(&pushlark, "phone").await.last(), Some(&call_data(sid)), "{plugin}");
        }
        // Calls are not unread messages.
        pushlark.message(BOB, "Hi").await;
        pushlark.settled().await;
        let text = pushlark.notifications("phone").await.pop().unwrap();
        assert_eq!(text["notification"]["alert"]["badge"], 1, "{plugin}");
    }
}

#[tokio::test]
async fn a_call_with_the_type_normal_or_with_media_notifies() {
    let pushlark = Pushlark::start().await;
    pushlark.enable_with(BOB, "phone", json!({"priority": "normal", "silent": "true", "time_to_live": "3600"})).await;
    pushlark.enable(BOB, "plain").await;
    let rtp = |media: &str| format!("<description xmlns='urn:xmpp:jingle:apps:rtp:1' media='{media}'/>");
    let media = format!("{}{}", rtp("audio"), rtp("video"));
    let call = format!(
        "<message from='{ALICES_PC}' to='{BOB}'><propose xmlns='urn:xmpp:jingle-message:0' id='c1'>{media}</propose></message>"
    );
    pushlark.stanza(&call).await;
    // The form's options do not delay the call, nor make it last longer.
    let mut notified = requests(&pushlark, "phone").await.remove(0);
    assert!((20..=30).contains(&notified["time_to_live"].take().as_u64().unwrap()));
    let expected = json!({"service": "fcm", "priority": "high", "time_to_live": null, "data": call_data("c1")});
    assert_eq!(notified, expected);
    assert_eq!(requests(&pushlark, "plain").await, [json!({"service": "fcm", "data": call_data("c1")})]);
}

#[tokio::test]
async fn a_call_rings_where_no_own_session_is_online() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "without-session").await;
    pushlark.event(Event::presence(BOBS_PHONE, "online")).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.enable(BOBS_PC, "pc").await;
    pushlark.event(propose("c1").recipient(json!({"online": true}))).await;
    for (device, calls) in [("without-session", 1), ("pc", 1), ("phone", 0)] {
        assert_eq!(data(&pushlark, device).await.len(), calls, "{device}");
    }
    let why = ("phone".to_owned(), "its own session is online".to_owned());
    assert_eq!(left_out(&pushlark, propose("c2")).await, [why]);
    // The chat server knows best.
    pushlark.event(propose("c2").recipient(json!({"online": false}))).await;
    assert_eq!(data(&pushlark, "phone").await, [call_data("c2")]);
    pushlark.event(propose("c3").recipient(json!({"online": true, "client_state": "inactive"}))).await;
    assert_eq!(data(&pushlark, "phone").await.len(), 2);
    pushlark.event(Event::presence(BOBS_PHONE, "offline")).await;
    pushlark.event(propose("c4")).await;
    assert_eq!(data(&pushlark, "phone").await.last(), Some(&call_data("c4")));
}

#[tokio::test]
async fn an_unacknowledged_call_rings_on_the_device_of_its_session_alone() {
    let pushlark = Pushlark::start().await;
    pushlark.event(Event::presence(BOBS_PHONE, "online")).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.enable(BOB, "tablet").await;
    pushlark.event(propose("c1")).await;
    assert_eq!(data(&pushlark, "phone").await, [] as [Value; 0]);
    let unacknowledged = propose("c1").with("type", "unacknowledged").with("to", BOBS_PHONE);
    pushlark.event(&unacknowledged).await;
    assert_eq!(data(&pushlark, "phone").await, [call_data("c1")]);
    pushlark.event(unacknowledged).await;
    assert_eq!((data(&pushlark, "phone").await.len(), data(&pushlark, "tablet").await.len()), (1, 1));
}

#[tokio::test]
async fn a_call_rings_once_however_often_it_is_proposed() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    for id in ["m1", "m2"] {
        pushlark.event(propose("c1").id(id)).await;
        pushlark.event(propose("c1").id(id).from("alice@example.com/phone")).await;
        pushlark.settled().await;
    }
    assert_eq!(data(&pushlark, "phone").await, [call_data("c1")]);
    let why = ("phone".to_owned(), "another event of this message publishes to it".to_owned());
    assert_eq!(left_out(&pushlark, propose("c1")).await, [why]);
    // The id of the event does not make two calls one, and the ids of two callers may be the same.
    pushlark.event(propose("c2").id("m1")).await;
    pushlark.event(propose("c1").from("carol@example.com/x")).await;
    assert_eq!(data(&pushlark, "phone").await.len(), 3);
}

#[tokio::test]
async fn no_message_takes_the_place_of_a_call() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(Event::message(BOB, "Hi").id(&format!("call/{ALICE}/c1"))).await;
    // The id of a room's message begins with the room.
    let stanza_id = format!("<stanza-id xmlns='urn:xmpp:sid:0' by='call' id='{ALICE}/c2'/>");
    let stanza = format!("<message type='groupchat'><body>Hi</body>{stanza_id}</message>");
    let id = pushlark.event(Event::stanza(BOB, &stanza).from("call/nick")).await;
    assert_eq!(id, format!("call/{ALICE}/c2"));
    for sid in ["c1", "c2"] {
        pushlark.event(propose(sid)).await;
        let requests = requests(&pushlark, "phone").await;
        assert!(requests.iter().any(|request| request["data"] == call_data(sid)), "{requests:?}");
    }
}

#[tokio::test]
async fn other_steps_and_calls_of_the_own_account_do_not_notify() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let body = "<body>Hi</body>";
    for event in [
        propose("c1").from(BOBS_PC),
        propose("c2").recipient(json!({"exists": false})),
        propose("c3").with("stanza", format!("<message type='groupchat'>{}</message>", step("propose", "c3"))),
        propose("c4").with("stanza", format!("<message type='error'>{}{body}</message>", step("propose", "c4"))),
        propose("c5").with("stanza", stanza::chat(&step("propose", ""))),
        later("ringing", "c1", ALICES_PC, BOB),
        later("proceed", "c1", ALICES_PC, BOB),
        later("accept", "c1", ALICES_PC, BOB),
        later("reject", "c1", ALICES_PC, BOB),
        later("ringing", "c1", BOBS_PC, ALICE),
        later("retract", "c1", BOBS_PC, BOB),
    ] {
        pushlark.event(&event).await;
        assert_eq!(data(&pushlark, "phone").await, [] as [Value; 0], "{event:?}");
    }
}

#[tokio::test]
async fn a_late_call_does_not_ring() {
    let pushlark = Pushlark::start().await;
    // The form's own time does not lengthen that of the call.
    pushlark.enable_with(BOB, "phone", json!({"time_to_live": "7200"})).await;
    for seconds in [3_600, 32] {
        pushlark.event(propose("c1").at(ago(seconds))).await;
        assert_eq!(data(&pushlark, "phone").await, [] as [Value; 0], "{seconds}");
    }
    pushlark.event(later("retract", "c1", ALICES_PC, BOB).at(ago(3_600))).await;
    assert_eq!(data(&pushlark, "phone").await, [] as [Value; 0]);
    let patient = Pushlark::with_settings([("CALL_TIME_TO_LIVE", "120")]).await;
    patient.enable_with(BOB, "phone", json!({"time_to_live": "0"})).await;
    patient.event(propose("c1").at(ago(60))).await;
    assert_eq!(data(&patient, "phone").await, [call_data("c1")]);
}

#[tokio::test]
async fn a_call_is_tried_again_while_it_rings() {
    let isolated = IsolatedWorker::start().await;
    let pushlark = &isolated.pushlark;
    pushlark.enable(BOB, "phone").await;
    let call = stanza::chat(&step("propose", "c1"));
    pushlark.device_answers("phone", json!({"status": 503})).await;
    let batch = isolated.batch(&[Work::message(&[BOB]).message_field("stanza", &call)]).await;
    isolated.handle(batch.clone()).await;
    let again = isolated.next(batch).await.expect("the call is tried again");
    pushlark.device_answers("phone", json!({"status": 200})).await;
    isolated.handle(again.clone()).await;
    isolated.delete(again).await;
    assert_eq!(pushlark.notifications("phone").await.len(), 2);
    // A retry after the call is over.
    let retry = json!({"claimant": "m.0", "generation": 1, "tries": 5});
    let late = Work::message(&[BOB]).message_field("stanza", stanza::chat(&step("propose", "c2")));
    isolated.handle_all(isolated.batch(&[late.at(&ago(32)).with("retry", retry)]).await).await;
    assert_eq!(pushlark.notifications("phone").await.len(), 2);
}

#[tokio::test]
async fn mongoosepush_gets_the_data_of_a_call_for_push_kit_and_fcm() {
    let pushlark = Pushlark::start().await;
    for silent in ["false", "true"] {
        let push_kit = json!({"service": "apns", "topic": VOIP_TOPIC, "silent": silent});
        pushlark.enable_with(BOB, &format!("push-kit-{silent}"), push_kit).await;
        pushlark.enable_with(BOB, &format!("android-{silent}"), json!({"silent": silent})).await;
        pushlark.enable_with(BOB, &format!("iphone-{silent}"), json!({"service": "apns", "silent": silent})).await;
    }
    pushlark.event(propose("c1")).await;
    for silent in ["false", "true"] {
        let request = json!({"service": "apns", "topic": VOIP_TOPIC, "data": call_data("c1")});
        assert_eq!(requests(&pushlark, &format!("push-kit-{silent}")).await, [request]);
        let request = json!({"service": "fcm", "data": call_data("c1")});
        assert_eq!(requests(&pushlark, &format!("android-{silent}")).await, [request]);
        assert_eq!(requests(&pushlark, &format!("iphone-{silent}")).await, [] as [Value; 0]);
    }
    let why = "a PushKit device of the user rings".to_owned();
    let iphones = ["iphone-false", "iphone-true"].map(|node| (node.to_owned(), why.clone()));
    assert_eq!(left_out(&pushlark, propose("c2")).await, iphones);
}

#[tokio::test]
async fn an_iphone_without_push_kit_shows_a_call_as_an_alert() {
    let pushlark = Pushlark::with_settings([("CALL_PLACEHOLDER", "canary calls")]).await;
    // MongoosePush does not use the token for calls of the form.
    let form = json!({"service": "apns", "topic": "com.example.chat", "voip_device_id": PUSH_KIT});
    pushlark.enable_with(BOB, "iphone", form).await;
    pushlark.enable_with(CAROL, "silent", json!({"service": "apns", "silent": "true"})).await;
    pushlark.event(propose("c1").with("to", [BOB, CAROL])).await;
    // With the type of a call, MongoosePush wants the topic of PushKit.
    let data = json!({"jmi-sid": "c1", "jmi-from": ALICES_PC});
    let alert = json!({"title": ALICE, "body": "canary calls", "tag": ALICE});
    let request = json!({"service": "apns", "topic": "com.example.chat", "alert": alert, "data": data});
    assert_eq!(requests(&pushlark, "iphone").await, [request]);
    assert_eq!(requests(&pushlark, "silent").await, [json!({"service": "apns", "data": data})]);
    // An occupant of a room is shown with the nick.
    pushlark.event(propose("c2").from("books@muc.example.com/Owl")).await;
    assert_eq!(requests(&pushlark, "iphone").await[1]["alert"]["title"], "books@muc.example.com/Owl");
}

#[tokio::test]
async fn a_push_kit_device_gets_no_messages_at_any_gateway() {
    let (webhook, rest) = (Gateway::webhook().await, Rest::start("canary").await);
    let url = format!("{}/rest", rest.url);
    let pubsub = [("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", "canary")];
    let own = [("PUSH_SERVICE", webhook.url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
    let form = json!({"service": "apns", "device_id": PUSH_KIT, "topic": VOIP_TOPIC});
    let why = ("kit".to_owned(), "PushKit devices are notified of calls alone".to_owned());
    for (settings, jid) in [(&own[..0], PUSH_HOST), (&own, PUSH_HOST), (&pubsub, "pubsub.example.org")] {
        let pushlark = Pushlark::with_settings(settings.iter().copied()).await;
        let enable = PushRequest::new(BOB, "kit").at(jid).form(form.clone());
        assert_eq!(pushlark.json("/enable", enable).await.status, 200);
        assert_eq!(left_out(&pushlark, Event::message(BOB, "Hi")).await, from_ref(&why), "{jid}");
        assert_eq!(left_out(&pushlark, propose("c1")).await, [], "{jid}");
    }
}

#[tokio::test]
async fn a_webhook_and_a_real_node_get_the_fields_of_a_call_as_they_are() {
    let (webhook, rest) = (Gateway::webhook().await, Rest::start("canary").await);
    let url = format!("{}/rest", rest.url);
    let settings = [
        ("PUSH_SERVICE", webhook.url.as_str()),
        ("PUSH_SERVICE_SECRET", "canary-secret-key"),
        ("PUBSUB_URL", url.as_str()),
        ("PUBSUB_TOKEN", "canary"),
    ];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable_with(BOB, "phone", json!({"service": "apns"})).await;
    let enable = PushRequest::new(BOB, "node").at("pubsub.example.org").form(json!({}));
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    let rtp = "<description xmlns='urn:xmpp:jingle:apps:rtp:1' media='audio'/>";
    let propose = format!("<propose xmlns='urn:xmpp:jingle-message:0' id='c1'>{rtp}</propose>");
    pushlark.event(Event::stanza(BOB, &stanza::chat(&propose))).await;
    pushlark.settled().await;
    let mut fields = call_data("c1");
    fields["jmi-media"] = "audio".into();
    assert_eq!(webhook.accepted("phone")[0].json()["payload"], fields);
    let iq = rest.published("node").remove(0);
    let publish = iq.child("pubsub", ns::PUBSUB).unwrap().child("publish", ns::PUBSUB).unwrap().to_string();
    for (name, value) in [("type", "jmi"), ("jmi-sid", "c1"), ("jmi-from", ALICES_PC), ("jmi-media", "audio")] {
        assert!(publish.contains(&format!("var=\"{name}\"><value>{value}</value>")), "{publish}");
    }
}

#[tokio::test]
async fn apns_devices_ring_by_push_kit_or_show_an_alert() {
    let providers = Providers::start().await;
    let pushlark = &providers.pushlark;
    providers.enable_iphone(IPHONE, json!({"priority": "normal"})).await;
    pushlark.event(propose("c1")).await;
    pushlark.settled().await;
    let request = providers.apns.accepted(IPHONE).remove(0);
    let mut expected = call_data("c1");
    expected["aps"] = json!({"alert": {"title": ALICE, "body": "Incoming call"}, "thread-id": ALICE});
    assert_eq!(request.json(), expected);
    assert_eq!([request.header("apns-push-type"), request.header("apns-priority")], ["alert", "10"]);
    // The token for calls is a node of its own.
    providers.enable_iphone(PUSH_KIT, json!({"topic": VOIP_TOPIC})).await;
    pushlark.event(propose("c2")).await;
    providers.message("canary Hi").await;
    let request = providers.apns.accepted(PUSH_KIT).remove(0);
    let mut expected = call_data("c2");
    expected["aps"] = json!({});
    assert_eq!(request.json(), expected);
    let headers = ["apns-push-type", "apns-priority", "apns-topic", "apns-expiration"].map(|name| request.header(name));
    assert_eq!(headers, ["voip", "10", VOIP_TOPIC, "0"]);
    assert_eq!(providers.apns.accepted(PUSH_KIT).len(), 1, "no message");
    let to_iphone: Vec<_> = providers.apns.accepted(IPHONE).iter().map(|request| request.json()).collect();
    assert_eq!((to_iphone.len(), &to_iphone[1]["aps"]["alert"]["body"]), (2, &json!("canary Hi")));
}

#[tokio::test]
async fn a_form_with_a_token_for_calls_alone_gets_no_messages() {
    let providers = Providers::start().await;
    providers
        .pushlark
        .enable_with(BOB, "n", json!({"service": "apns", "device_id": "", "voip_device_id": PUSH_KIT}))
        .await;
    providers.message("canary Hi").await;
    providers.pushlark.event(propose("c1")).await;
    providers.pushlark.settled().await;
    let requests = providers.apns.requests();
    assert_eq!((requests.len(), requests[0].header("apns-topic")), (1, format!("{APNS_TOPIC}.voip").as_str()));
}

#[tokio::test]
async fn the_end_of_a_call_replaces_the_call_at_fcm_and_web_push() {
    let providers = Providers::start().await;
    let pushlark = &providers.pushlark;
    let subscriber = Subscriber::new(7);
    pushlark.enable_with(BOB, "android", json!({"priority": "normal", "time_to_live": "3600"})).await;
    providers.enable_browser("browser", &subscriber, json!({})).await;
    pushlark.event(propose("c1")).await;
    pushlark.settled().await;
    pushlark.event(later("retract", "c1", ALICES_PC, BOB)).await;
    pushlark.settled().await;
    for (index, data) in [call_data("c1"), end_data("c1")].into_iter().enumerate() {
        let mut android = providers.fcm.accepted("android")[index].json()["message"]["android"].take();
        let ttl = android["ttl"].take();
        let seconds: u64 = ttl.as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
        assert!((10..=30).contains(&seconds), "{ttl}");
        let expected = json!({"priority": "HIGH", "collapse_key": "jmi-c1", "ttl": null, "data": data});
        assert_eq!(android, expected);
        let request = &providers.web_push.accepted("browser")[index];
        assert_eq!(request.header("urgency"), "high");
        assert!((10..=30).contains(&request.header("ttl").parse::<u64>().unwrap()));
        let text: Value = serde_json::from_slice(&subscriber.decrypt(&request.body).unwrap()).unwrap();
        assert_eq!(text, data);
    }
    let topic = |index: usize| providers.web_push.accepted("browser")[index].header("topic").to_owned();
    assert_eq!((topic(0), topic(0).len()), (topic(1), 32));
    pushlark.event(propose(&"c".repeat(500))).await;
    pushlark.settled().await;
    assert_ne!(topic(2), topic(0));
    let long = providers.fcm.accepted("android")[2].json()["message"]["android"]["collapse_key"].take();
    assert_eq!(long.as_str().unwrap().len(), 47);
}

#[tokio::test]
async fn the_end_of_a_call_is_told_to_devices_that_are_not_apns() {
    let pushlark = Pushlark::start().await;
    pushlark.enable_with(BOB, "android", json!({"priority": "normal"})).await;
    pushlark.enable_with(BOB, "iphone", json!({"service": "apns"})).await;
    pushlark.enable_with(BOB, "kit", json!({"service": "apns", "topic": VOIP_TOPIC})).await;
    pushlark.event(Event::presence(BOBS_PC, "online")).await;
    pushlark.enable(BOBS_PC, "desktop").await;
    let own = format!(
        "<message xmlns='jabber:client' type='chat' from='{BOBS_PC}' to='{ALICES_PC}'>{}</message>",
        step("reject", "c6")
    );
    let forwarded =
        format!("<sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>{own}</forwarded></sent>");
    let steps = [
        later("retract", "c1", ALICES_PC, BOB),
        later("finish", "c2", ALICES_PC, BOB),
        later("accept", "c3", BOBS_PC, BOB),
        later("proceed", "c4", BOBS_PC, ALICE).recipient(json!({"exists": false, "online": true})),
        later("reject", "c5", BOBS_PC, ALICE),
        // A carbon copy that the server of Bob sends to another session of his.
        Event::stanza(BOB, &stanza::chat(&forwarded)).from(BOB),
        later("retract", "c7", ALICES_PC, BOBS_PHONE).with("type", "unacknowledged"),
    ];
    let ends = async |device| {
        let requests = requests(&pushlark, device).await.into_iter();
        requests.filter(|request| request["data"]["type"] == "jmi-end").collect::<Vec<_>>()
    };
    for (index, event) in steps.into_iter().enumerate() {
        let sid = format!("c{}", index + 1);
        // An answer to the own account names no caller, and the lost session may have rung.
        if !["c3", "c7"].contains(&&*sid) {
            pushlark.event(propose(&sid)).await;
            pushlark.settled().await;
        }
        for _ in 0..2 {
            pushlark.event(&event).await;
        }
        let ended = ends("android").await;
        assert_eq!(ended.len(), index + 1, "{sid}: {ended:?}");
        let mut last = ended.last().unwrap().clone();
        assert!((10..=30).contains(&last["time_to_live"].take().as_u64().unwrap()), "{sid}");
        let expected = json!({"service": "fcm", "priority": "high", "time_to_live": null, "data": end_data(&sid)});
        assert_eq!(last, expected);
    }
    for device in ["iphone", "kit", "desktop"] {
        assert_eq!(ends(device).await, [] as [Value; 0], "{device}");
    }
    // Nobody else can speak for Bob by a carbon copy.
    let spoofed = forwarded.replace("c6", "c8");
    pushlark.event(propose("c8")).await;
    pushlark.settled().await;
    pushlark.event(Event::stanza(BOB, &stanza::chat(&spoofed))).await;
    assert_eq!(ends("android").await.len(), 7);
}

/// Both sides of a call should tell its end (XEP-0353, section 3.5).
#[tokio::test]
async fn a_device_gets_the_end_of_a_call_once_whoever_tells_it() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let to_caller = |name, sid: &str| later(name, sid, BOBS_PC, ALICE);
    let mut expected = Vec::new();
    for (sid, steps) in [
        ("c1", vec![to_caller("proceed", "c1"), later("finish", "c1", ALICES_PC, BOB)]),
        ("c2", vec![to_caller("reject", "c2"), later("finish", "c2", ALICES_PC, BOB)]),
        ("c3", vec![later("retract", "c3", ALICES_PC, BOB), later("finish", "c3", ALICES_PC, BOB)]),
        (
            "c4",
            vec![
                later("accept", "c4", BOBS_PC, BOB),
                to_caller("proceed", "c4"),
                to_caller("finish", "c4"),
                later("finish", "c4", ALICES_PC, BOB),
            ],
        ),
    ] {
        pushlark.event(propose(sid)).await;
        pushlark.settled().await;
        for step in steps {
            pushlark.event(step).await;
            pushlark.settled().await;
        }
        expected.extend([call_data(sid), end_data(sid)]);
        assert_eq!(data(&pushlark, "phone").await, expected, "{sid}");
    }
}

#[tokio::test]
async fn the_end_of_a_call_that_has_not_rung_notifies_nobody() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    for step in ["retract", "finish", "retract"] {
        pushlark.event(later(step, "c0", "mallory@example.com/x", BOB)).await;
        assert_eq!(data(&pushlark, "phone").await, [] as [Value; 0], "{step}");
    }
    pushlark.event(propose("c1")).await;
    assert_eq!(data(&pushlark, "phone").await, [call_data("c1")]);
    pushlark.event(later("retract", "c1", "mallory@example.com/x", BOB)).await;
    assert_eq!(data(&pushlark, "phone").await, [call_data("c1")], "the call of another user");
    // The ids of two calls may be the same.
    pushlark.event(propose("c1").from("carol@example.com/x")).await;
    pushlark.settled().await;
    pushlark.event(later("retract", "c1", "carol@example.com/x", BOB)).await;
    assert_eq!(data(&pushlark, "phone").await[2..], [end_data("c1")]);
    // This device was enabled while the other one rang.
    pushlark.enable(BOB, "tablet").await;
    pushlark.event(later("retract", "c1", ALICES_PC, BOB)).await;
    assert_eq!(data(&pushlark, "phone").await[3..], [end_data("c1")]);
    assert_eq!(data(&pushlark, "tablet").await, [] as [Value; 0]);
}

#[tokio::test]
async fn an_answer_ends_a_call_only_if_the_credential_speaks_for_the_user() {
    let secrets = "example.com=canary-com-secret, example.org=canary-org-secret";
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", secrets)]).await;
    let enable = PushRequest::new(BOB, "phone").device("phone");
    assert_eq!(pushlark.json_as("canary-com-secret", "/enable", enable).await.status, 200);
    let answer = |sid: &str| later("proceed", sid, BOBS_PC, "alice@example.org");
    // The server of Alice tells of the answer as well.
    assert_eq!(pushlark.json_as("canary-org-secret", "/events", answer("c1")).await.status, 202);
    assert_eq!(data(&pushlark, "phone").await, [] as [Value; 0]);
    let call = propose("c2").from("alice@example.org/pc");
    assert_eq!(pushlark.json_as("canary-com-secret", "/events", call).await.status, 202);
    pushlark.settled().await;
    assert_eq!(pushlark.json_as("canary-com-secret", "/events", answer("c2")).await.status, 202);
    assert_eq!(data(&pushlark, "phone").await[1..], [end_data("c2")]);
}

#[tokio::test]
async fn call_end_off_keeps_the_end_of_a_call_from_devices() {
    let pushlark = Pushlark::with_settings([("CALL_END", "off")]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(propose("c1")).await;
    pushlark.settled().await;
    let end = later("retract", "c1", ALICES_PC, BOB);
    pushlark.event(&end).await;
    assert_eq!(data(&pushlark, "phone").await, [call_data("c1")]);
    let explained = pushlark.json("/explain", json!({"explain": [end]})).await.json();
    assert_eq!(explained["explained"][0]["recipients"][0]["skipped"], "defaults: CALL_END is off");
}

#[tokio::test]
async fn a_device_that_has_not_rung_yet_does_not_ring_after_the_end() {
    let work = |name: &str, from: &str| {
        let stanza = format!("<message type='chat' to='{ALICES_PC}'>{}</message>", step(name, "c1"));
        Work::message(&[BOB]).message_field("from", from).message_field("stanza", stanza).id(name)
    };
    let ends = [("retract", ALICES_PC), ("proceed", BOBS_PC)];
    // The device does not ring either if nobody is notified of the end.
    for ((name, from), call_end) in ends.into_iter().flat_map(|end| ["on", "off"].map(|call_end| (end, call_end))) {
        let isolated = IsolatedWorker::beside(Pushlark::with_settings([("CALL_END", call_end)]).await).await;
        let pushlark = &isolated.pushlark;
        pushlark.enable_with(BOB, "kit", json!({"service": "apns", "topic": VOIP_TOPIC})).await;
        pushlark.device_answers("kit", json!({"status": 503})).await;
        isolated.handle(isolated.batch(&[work("propose", ALICES_PC)]).await).await;
        pushlark.device_answers("kit", json!({"status": 200})).await;
        let again = eventually("the call", async || isolated.receive().await).await;
        isolated.handle(isolated.batch(&[work(name, from)]).await).await;
        isolated.handle(again).await;
        // The end may also overtake the call.
        isolated.handle(isolated.batch(&[work("propose", ALICES_PC).id("again")]).await).await;
        let statuses: Vec<_> = pushlark.notifications("kit").await.iter().map(|one| one["status"].clone()).collect();
        assert_eq!(statuses, [503], "{name} {call_end}");
    }
}

/// The rules of devices apply to the payload that a custom plugin returns.
#[tokio::test]
async fn a_call_of_a_custom_plugin_follows_the_rules_of_calls() {
    let fields = WithFields(&[("type", "jmi"), ("jmi-sid", "c1")]);
    let plugins = Plugins::built_in().with("calls", fields);
    let environment = Environment::from_iter([("PLUGIN", "calls")]);
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    pushlark.enable_with(BOB, "kit", json!({"service": "apns", "topic": VOIP_TOPIC})).await;
    pushlark.enable_with(BOB, "iphone", json!({"service": "apns"})).await;
    pushlark.enable(BOB, "android").await;
    pushlark.event(Event::message(BOB, "canary").at(ago(32))).await;
    pushlark.message(BOB, "canary Hi").await;
    for device in ["kit", "android"] {
        let calls = data(&pushlark, device).await;
        assert_eq!((calls.len(), &calls[0]["type"]), (1, &json!("jmi")), "{device}");
    }
    assert_eq!(data(&pushlark, "iphone").await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_push_service_that_fails_for_a_call_does_not_ring_after_its_time() {
    let providers = Providers::with_settings(&[("CALL_TIME_TO_LIVE", "5")]).await;
    providers.pushlark.enable(BOB, "android").await;
    providers.fcm.device_answers("android", Answer::json(503, &json!({})));
    providers.pushlark.event(propose("c1")).await;
    providers.pushlark.settled().await;
    let requests = providers.fcm.requests();
    let last = requests.last().unwrap().at - requests[0].at;
    assert!(requests.len() > 1 && last <= Duration::from_secs(6), "{} {last:?}", requests.len());
}
