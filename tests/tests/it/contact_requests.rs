//! Contact requests: `<presence type='subscribe'/>` (RFC 6121, section 3.1) and the event `subscription`.

use doubles::Rest;
use serde_json::{Value, json};
use tests::{
    BOB, BOBS_PC, BOBS_PHONE, Event, IPHONE, Providers, PushRequest, Pushlark, ago, eventually, send, within_a_minute,
};

/// The contact who asks, of another domain than Bob.
const CONTACT: &str = "dave@example.org";

fn presence(kind: &str, from: &str, to: &str) -> String {
    format!("<presence xmlns='jabber:client' type='{kind}' from='{from}' to='{to}'/>")
}

fn request() -> Event {
    Event::subscription(CONTACT, BOB)
}

/// Posts a message, and checks that it is the only notification since the first `earlier` ones.
async fn assert_no_other(pushlark: &Pushlark, earlier: usize) {
    pushlark.settled().await;
    pushlark.message(BOB, "canary last").await;
    let alerts = pushlark.notified("phone", earlier + 1).await;
    assert_eq!(alerts.len(), earlier + 1, "{alerts:?}");
    assert_eq!(alerts[earlier]["notification"]["alert"]["body"], "canary last");
}

#[tokio::test]
async fn a_contact_request_is_notified_with_the_contact_as_its_title() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    // The stanza may come from a session, and may have a text of the contact, which is not shown.
    let with_text = format!(
        "<presence type='subscribe' id='s1' from='{CONTACT}/desktop' to='{BOB}'><status>canary: Hi!</status></presence>"
    );
    pushlark.stanza(with_text).await;
    let notification = pushlark.notified("phone", 1).await[0]["notification"].clone();
    let expected = json!({"service": "fcm",
        "alert": {"title": CONTACT, "body": "Contact request", "tag": CONTACT},
        "data": {"pending-subscription-count": "1", "pending-subscription-from": CONTACT}});
    assert_eq!(notification, expected);
}

#[tokio::test]
async fn a_device_is_notified_of_a_contact_once_a_day() {
    let pushlark = Pushlark::with_settings([("TIME_TO_LIVE", "1209600")]).await;
    pushlark.enable(BOB, "phone").await;
    let (today, earlier) = (ago(0), ago(90_000));
    let id = pushlark.event(request().at(&today)).await;
    assert_eq!(id, format!("subscription/{CONTACT}/{}", &today[..10]));
    pushlark.notified("phone", 1).await;
    // The id of the event does not matter, nor the session of the contact.
    let again = request().id("another").from("dave@example.org/phone").at(&today);
    assert_eq!(pushlark.event(again).await, id);
    pushlark.settled().await;
    // Another day, and another contact.
    pushlark.event(request().at(&earlier)).await;
    pushlark.notified("phone", 2).await;
    pushlark.event(Event::subscription("erin@example.org", BOB).at(&today)).await;
    let notified = pushlark.notified("phone", 3).await;
    assert_eq!(notified[2]["notification"]["alert"]["title"], "erin@example.org");
    assert_no_other(&pushlark, 3).await;
}

#[tokio::test]
async fn a_contact_request_is_for_offline_users_whatever_the_plugin() {
    for plugin in ["defaults", "enhanced", "hints"] {
        let pushlark = Pushlark::with_settings([("PLUGIN", plugin)]).await;
        let enable = PushRequest::new(BOBS_PHONE, "phone").device("phone");
        assert_eq!(pushlark.json("/enable", enable).await.status, 200);
        pushlark.event(Event::presence(BOBS_PC, "online")).await;
        pushlark.event(request()).await;
        pushlark.settled().await;
        pushlark.event(Event::presence(BOBS_PC, "offline")).await;
        // Nobody was notified before, so the next request of the day is notified.
        pushlark.event(request()).await;
        pushlark.notified("phone", 1).await;
        for recipient in [json!({"online": true}), json!({"exists": false})] {
            pushlark.event(Event::subscription("erin@example.org", BOB).recipient(recipient)).await;
        }
        assert_no_other(&pushlark, 1).await;
    }
}

#[tokio::test]
async fn other_presence_and_requests_without_a_user_notify_nobody() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    for kind in ["subscribed", "unsubscribe", "unsubscribed", "probe", "error"] {
        pushlark.stanza(presence(kind, CONTACT, BOB)).await;
    }
    pushlark.stanza(presence("subscribe", BOBS_PHONE, BOB)).await;
    pushlark.stanza(presence("subscribe", CONTACT, "example.com")).await;
    pushlark.stanza(format!("<presence type='subscribe' from='{CONTACT}'/>")).await;
    pushlark.event(Event::subscription(BOB, BOB)).await;
    pushlark.event(Event::subscription(CONTACT, "example.com")).await;
    assert_no_other(&pushlark, 0).await;
    // The sessions of the users are unchanged.
    let explained = pushlark.json("/explain", json!({"explain": [Event::message(BOB, "canary Hi")]})).await.json();
    assert_eq!(explained["explained"][0]["recipients"][0]["presence"], "assumed");
}

#[tokio::test]
async fn contact_requests_can_be_switched_off() {
    let pushlark = Pushlark::with_settings([("SUBSCRIPTION_REQUESTS", "off")]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(request()).await;
    pushlark.stanza(presence("subscribe", CONTACT, BOB)).await;
    assert_no_other(&pushlark, 0).await;
    let explained = pushlark.json("/explain", json!({"explain": [request()]})).await.json();
    assert_eq!(explained["explained"][0]["effect"], "none: SUBSCRIPTION_REQUESTS is off");
}

#[tokio::test]
async fn the_content_of_a_contact_request_follows_the_settings() {
    let settings = [("INCLUDE_SENDER", "off"), ("INCLUDE_BODY", "off"), ("SUBSCRIPTION_PLACEHOLDER", "Kontaktanfrage")];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(request()).await;
    let notification = pushlark.notified("phone", 1).await[0]["notification"].clone();
    let expected = json!({"service": "fcm", "alert": {"title": "New contact", "body": "Kontaktanfrage"},
        "data": {"pending-subscription-count": "1"}});
    assert_eq!(notification, expected);
}

#[tokio::test]
async fn a_contact_request_is_never_counted() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(request()).await;
    pushlark.notified("phone", 1).await;
    pushlark.event(Event::message(BOB, "canary Hi").from(CONTACT)).await;
    let notified = pushlark.notified("phone", 2).await;
    assert_eq!(notified[0]["notification"]["alert"].get("badge"), None);
    assert_eq!(notified[1]["notification"]["alert"]["badge"], 1);
}

#[tokio::test]
async fn explain_shows_each_step_of_a_contact_request() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let explain = async |event: Event| {
        let reply = pushlark.json("/explain", json!({"explain": [event]})).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["explained"][0].clone()
    };
    let explained = explain(request()).await;
    assert_eq!(explained["effect"], "notifies");
    let recipient = &explained["recipients"][0];
    let payload = json!({"pending-subscription-count": "1", "pending-subscription-from": CONTACT,
        "last-message-sender": CONTACT, "last-message-body": "Contact request"});
    assert_eq!(recipient["publications"][0]["payload"], payload);
    pushlark.event(request()).await;
    pushlark.notified("phone", 1).await;
    let explained = explain(request()).await;
    let left_out = &explained["recipients"][0]["left_out"][0]["why"];
    assert_eq!(left_out, "another event of this message publishes to it");
    let online = explain(Event::subscription("erin@example.org", BOB).recipient(json!({"online": true}))).await;
    assert_eq!(online["recipients"][0]["left_out"][0]["why"], "defaults: the recipient is online");
}

#[tokio::test]
async fn each_push_service_shows_a_contact_request() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.pushlark.enable(BOB, "android").await;
    providers.pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    providers.pushlark.event(request()).await;
    providers.pushlark.settled().await;
    let data = json!({"pending-subscription-count": "1", "pending-subscription-from": CONTACT});
    let iphone = providers.apns.accepted(IPHONE).remove(0).json();
    let alert = json!({"title": CONTACT, "body": "Contact request"});
    assert_eq!((&iphone["aps"]["alert"], &iphone["aps"]["thread-id"]), (&alert, &json!(CONTACT)));
    assert_eq!((iphone["aps"].get("badge"), &iphone["pending-subscription-from"]), (None, &json!(CONTACT)));
    let android = providers.fcm.accepted("android").remove(0).json()["message"]["android"].take();
    let notification = json!({"title": CONTACT, "body": "Contact request", "tag": CONTACT});
    assert_eq!((&android["notification"], &android["data"]), (&notification, &data));
    let silent = providers.fcm.accepted("silent").remove(0).json()["message"]["android"].take();
    let all = json!({"pending-subscription-count": "1", "pending-subscription-from": CONTACT,
        "last-message-sender": CONTACT, "last-message-body": "Contact request"});
    assert_eq!((silent.get("notification"), &silent["data"]), (None, &all));
}

#[tokio::test]
async fn a_real_pubsub_node_gets_the_summary_of_a_contact_request_in_order() {
    const TOKEN: &str = "Y2FuYXJ5MQ==";
    let rest = Rest::start(TOKEN).await;
    let url = format!("{}/rest", rest.url);
    let pushlark = Pushlark::with_settings([("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", TOKEN)]).await;
    let enable = PushRequest::new(BOB, "phone").at("pubsub.example.org").form(json!({}));
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    pushlark.event(request()).await;
    let iq = eventually("a publish", async || rest.published("phone").first().map(ToString::to_string)).await;
    let names = ["pending-subscription-count", "pending-subscription-from", "last-message-sender", "last-message-body"];
    let positions = names.map(|name| iq.find(&format!("var=\"{name}\"")).unwrap_or_else(|| panic!("{name}: {iq}")));
    assert!(positions.is_sorted(), "{iq}");
    assert!(!iq.contains("message-count\""), "{iq}");
}

#[tokio::test]
async fn a_contact_request_needs_access_to_the_domain_of_the_user() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "example.com=canary-com-secret")]).await;
    let foreign = Event::subscription(BOB, CONTACT);
    let detail = pushlark.json_as("canary-com-secret", "/events", foreign).await.problem(403);
    assert!(detail.contains("example.org"), "{detail}");
    let stanza = pushlark.request("/events", "application/xml", presence("subscribe", BOB, CONTACT));
    send(stanza.bearer_auth("canary-com-secret")).await.problem(403);
    assert_eq!(pushlark.json_as("canary-com-secret", "/events", request()).await.status, 202);
}

#[tokio::test]
async fn a_contact_request_is_charged_to_the_domain_of_the_user() {
    within_a_minute(async || {
        for setting in ["on", "off"] {
            let settings = [("RATE_LIMIT", "2"), ("SUBSCRIPTION_REQUESTS", setting)];
            let pushlark = Pushlark::with_settings(settings).await;
            for _ in 0..2 {
                assert_eq!(pushlark.json("/events", request()).await.status, 202);
            }
            let detail = pushlark.json("/events", request()).await.problem(429);
            assert!(detail.contains("example.com"), "{detail}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_contact_request_with_wrong_fields_is_refused() {
    let pushlark = Pushlark::start().await;
    let without = |field: &str| {
        let mut event = serde_json::to_value(request()).unwrap();
        event.as_object_mut().unwrap().remove(field);
        event
    };
    for (event, expected) in [
        (without("from"), "from is missing"),
        (without("to"), "to is missing"),
        (json!(request().with("to", json!([BOB, CONTACT]))), "to: a contact request is to one user"),
        (json!(request().with("to", json!([]))), "to: a contact request is to one user"),
        (json!(request().with("from", "@example.org")), "from: "),
    ] {
        let reply = pushlark.json("/events", &event).await;
        assert_eq!(reply.status, 400, "{event}");
        let detail: Value = reply.json()["errors"][0]["detail"].clone();
        assert!(detail.as_str().unwrap().starts_with(expected), "{detail}");
    }
    let stanza = format!("<presence type='subscribe' to='{BOB}'/>");
    pushlark.post("/events", "application/xml", stanza).await.problem(400);
    let one = request().with("to", json!([BOB]));
    pushlark.enable(BOB, "phone").await;
    pushlark.event(one).await;
    pushlark.notified("phone", 1).await;
}
