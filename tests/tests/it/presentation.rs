//! The presentation that a plugin sets, at each push service.

use std::sync::Arc;
use std::time::Duration;

use doubles::{Gateway, Rest, Subscriber, canary};
use local::Options;
use pushlark_plugin::{
    Collapse, Event as PluginEvent, InterruptionLevel, Payload, Plugin, Plugins, Presentation, Priority, Publication,
    Recipient, Registration, Sound,
};
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tests::{ALICE, BOB, CAROL, Event, IPHONE, Providers, PushRequest, Pushlark, ROOM_OCCUPANT, stanza};
use time::OffsetDateTime;

/// A plugin that presents each notification in this way.
pub struct Presented(pub Presentation);

impl Plugin for Presented {
    fn publish_notification(
        &self,
        _: &PluginEvent,
        _: &Recipient,
        payload: Payload,
        registrations: Vec<Registration>,
    ) -> Vec<Publication> {
        let presentation = Some(Arc::new(self.0.clone()));
        let publication = |registration| Publication {
            presentation: presentation.clone(),
            ..Publication::new(registration, payload.clone())
        };
        registrations.into_iter().map(publication).collect()
    }
}

/// Returns a presentation with all fields.
pub fn full() -> Presentation {
    Presentation {
        title: Some("Team".into()),
        priority: Some(Priority::Normal),
        sound: Some(Sound::Named("chirp".into())),
        interruption_level: Some(InterruptionLevel::TimeSensitive),
        channel_id: Some("support".into()),
        time_to_live: Some(Duration::from_secs(600)),
        collapse: Some(Collapse::Conversation),
    }
}

/// Returns a presentation without a sound.
pub fn soundless() -> Presentation {
    Presentation { sound: Some(Sound::None), ..Presentation::default() }
}

/// Returns the built-in plugins, and `presented`, which presents each notification in this way.
pub fn plugins(presentation: Presentation) -> Plugins {
    Plugins::built_in().with("presented", Presented(presentation))
}

/// Starts the doubles, and enables a device of each for Bob with more options.
async fn with_devices(presentation: Presentation, options: Value) -> Providers {
    let providers = Providers::with_plugins(plugins(presentation), &[("PLUGIN", "presented")]).await;
    providers.enable_iphone(IPHONE, options.clone()).await;
    providers.pushlark.enable_with(BOB, "android", options.clone()).await;
    providers.enable_browser("browser", &Subscriber::new(7), options).await;
    providers
}

/// Returns the JSON and the headers of the last notification for the iPhone.
fn at_apns(providers: &Providers) -> (Value, [String; 2]) {
    let request = providers.apns.accepted(IPHONE).pop().unwrap();
    (request.json(), ["apns-priority", "apns-collapse-id"].map(|name| request.header(name).to_owned()))
}

/// Returns the `android` of the last notification for the Android device, without its time to live.
fn at_fcm(providers: &Providers) -> Value {
    let mut android = providers.fcm.accepted("android").pop().unwrap().json()["message"]["android"].take();
    android["ttl"].take();
    android
}

/// Returns the JSON and the headers of the last notification for the browser.
fn at_web_push(providers: &Providers) -> (Value, [String; 2]) {
    let request = providers.web_push.accepted("browser").pop().unwrap();
    let json = serde_json::from_slice(&Subscriber::new(7).decrypt(&request.body).unwrap()).unwrap();
    (json, ["urgency", "topic"].map(|name| request.header(name).to_owned()))
}

/// Returns a form that sets what a presentation sets.
fn form() -> Value {
    json!({"priority": "high", "sound": "ping", "time_to_live": "3600"})
}

#[tokio::test]
async fn a_field_of_the_presentation_takes_the_place_of_that_of_the_form() {
    let providers = with_devices(full(), form()).await;
    providers.message("canary Hi").await;
    let (json, [priority, collapse_id]) = at_apns(&providers);
    let aps = json!({"alert": {"title": "Team", "body": "canary Hi"}, "badge": 1, "sound": "chirp",
        "interruption-level": "time-sensitive", "thread-id": ALICE});
    assert_eq!((json, priority.as_str(), collapse_id.len()), (json!({"aps": aps}), "5", 43));
    let notification = json!({"title": "Team", "body": "canary Hi", "tag": ALICE, "sound": "chirp",
        "channel_id": "support", "notification_count": 1});
    assert_eq!(at_fcm(&providers), json!({"priority": "NORMAL", "ttl": null, "notification": notification}));
    let (json, [urgency, topic]) = at_web_push(&providers);
    let fields = json!({"message-count": "1", "last-message-sender": ALICE, "last-message-body": "canary Hi",
        "title": "Team", "sound": "chirp", "interruption_level": "time-sensitive", "channel_id": "support",
        "tag": ALICE});
    assert_eq!((json, urgency.as_str(), topic.len()), (fields, "normal", 32));
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let expiration: i64 = providers.apns.accepted(IPHONE)[0].header("apns-expiration").parse().unwrap();
    let ttl = providers.fcm.accepted("android")[0].json()["message"]["android"]["ttl"].take();
    let ttl = ttl.as_str().unwrap().trim_end_matches('s').parse::<i64>().unwrap();
    let of_browser: i64 = providers.web_push.accepted("browser")[0].header("ttl").parse().unwrap();
    for left in [expiration - now, ttl, of_browser] {
        assert!((1..=600).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn a_presentation_without_fields_changes_nothing() {
    let providers = with_devices(Presentation::default(), form()).await;
    let presented = |providers: &Providers| (at_apns(providers), at_fcm(providers), at_web_push(providers));
    let message = Event::message(BOB, "canary Hi").id("m1");
    providers.pushlark.event(message.clone()).await;
    providers.pushlark.settled().await;
    let plain = Providers::start().await;
    plain.enable_iphone(IPHONE, form()).await;
    plain.pushlark.enable_with(BOB, "android", form()).await;
    plain.enable_browser("browser", &Subscriber::new(7), form()).await;
    plain.pushlark.event(message).await;
    plain.pushlark.settled().await;
    assert_eq!(presented(&providers), presented(&plain));
}

#[tokio::test]
async fn an_alert_without_a_sound_tells_so_in_the_words_of_each_push_service() {
    let quiet = |fields: Value| {
        let mut notification = json!({"title": ALICE, "body": "canary Hi", "tag": ALICE, "notification_count": 1,
            "notification_priority": "PRIORITY_LOW", "default_sound": false, "default_vibrate_timings": false});
        notification.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        notification
    };
    let in_channel = |channel: &str| Presentation { channel_id: Some(channel.into()), ..soundless() };
    let with_channel = json!({"sound": "ping", "quiet_channel_id": "quiet"});
    for (presentation, options, expected) in [
        (soundless(), form(), quiet(json!({}))),
        (soundless(), with_channel.clone(), quiet(json!({"channel_id": "quiet"}))),
        (in_channel("low"), with_channel, quiet(json!({"channel_id": "low"}))),
    ] {
        let providers = with_devices(presentation, options).await;
        providers.message("canary Hi").await;
        let aps = json!({"alert": {"title": ALICE, "body": "canary Hi"}, "badge": 1, "thread-id": ALICE});
        assert_eq!(at_apns(&providers).0, json!({"aps": aps}));
        assert_eq!(at_fcm(&providers)["notification"], expected);
        assert_eq!(at_web_push(&providers).0["sound"], "none");
    }
}

#[tokio::test]
async fn an_alert_replaces_those_of_its_message_or_of_its_conversation() {
    for (collapse, is_replaced) in [(Collapse::Conversation, true), (Collapse::Message, false)] {
        let presentation = Presentation { collapse: Some(collapse), ..Presentation::default() };
        let providers = with_devices(presentation, json!({})).await;
        let mut names = Vec::new();
        for event in [
            Event::message(BOB, "canary one"),
            Event::message(BOB, "canary two"),
            Event::message(BOB, "canary three").from(CAROL),
            Event::groupchat(ROOM_OCCUPANT, BOB, "canary four"),
            Event::groupchat("room@muc.example.com/carol", BOB, "canary five"),
        ] {
            providers.pushlark.event(event).await;
            providers.pushlark.settled().await;
            let tag = at_fcm(&providers)["notification"]["tag"].as_str().unwrap().to_owned();
            names.push((at_apns(&providers).1[1].clone(), tag, at_web_push(&providers).1[1].clone()));
        }
        let is_same = |left: usize, right: usize| {
            let ((apns, tag, topic), other) = (&names[left], &names[right]);
            [apns == &other.0, tag == &other.1, topic == &other.2]
        };
        assert_eq!([is_same(0, 1), is_same(3, 4)], [[is_replaced; 3]; 2], "{collapse:?}: {names:?}");
        assert_eq!([is_same(0, 2), is_same(0, 3)], [[false; 3]; 2], "{collapse:?}: {names:?}");
        assert!(at_fcm(&providers)["collapse_key"].is_null(), "a device has at most four");
    }
}

#[tokio::test]
async fn a_call_keeps_its_priority_its_time_and_its_collapse_id() {
    let providers = with_devices(full(), json!({})).await;
    let pushkit = "aabb63616e61727933";
    providers.enable_iphone(IPHONE, json!({"voip_device_id": pushkit})).await;
    providers.pushlark.event(Event::stanza(BOB, &stanza::jingle("propose"))).await;
    providers.pushlark.settled().await;
    let voip = providers.apns.accepted(pushkit).pop().unwrap();
    let header = |name| voip.header(name).to_owned();
    assert_eq!((header("apns-push-type"), header("apns-priority")), ("voip".into(), "10".into()));
    assert_eq!((header("apns-expiration"), header("apns-collapse-id")), ("0".into(), String::new()));
    assert_eq!(voip.json()["aps"], json!({}));
    let android = providers.fcm.accepted("android").pop().unwrap().json()["message"]["android"].take();
    assert_eq!((&android["priority"], &android["collapse_key"]), (&json!("HIGH"), &json!("jmi-c1")));
    let ttl = android["ttl"].as_str().unwrap().trim_end_matches('s').parse::<u32>().unwrap();
    assert!(ttl <= 30, "{ttl}");
    let (_, [urgency, ring]) = at_web_push(&providers);
    assert_eq!(urgency, "high");
    providers.pushlark.event(Event::stanza(BOB, &stanza::jingle("retract"))).await;
    providers.pushlark.settled().await;
    assert_eq!(at_web_push(&providers).1[1], ring, "the end of the call replaces it");
}

#[tokio::test]
async fn an_alert_about_a_call_has_the_title_and_the_sound_of_the_presentation() {
    let presentation = Presentation { time_to_live: Some(Duration::from_secs(600)), ..full() };
    let providers = Providers::with_plugins(plugins(presentation), &[("PLUGIN", "presented")]).await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.pushlark.event(Event::stanza(BOB, &stanza::jingle("propose"))).await;
    providers.pushlark.settled().await;
    let (json, [priority, _]) = at_apns(&providers);
    assert_eq!(json["aps"]["alert"], json!({"title": "Team", "body": "Incoming call"}));
    assert_eq!((&json["aps"]["sound"], priority.as_str()), (&json!("chirp"), "10"));
}

#[tokio::test]
async fn a_long_title_leaves_room_for_the_text() {
    let presentation = Presentation { title: Some("é".repeat(10_000)), ..Presentation::default() };
    let providers = with_devices(presentation, json!({})).await;
    providers.message(&"x".repeat(10_000)).await;
    let (json, _) = at_apns(&providers);
    assert_eq!(json["aps"]["alert"]["title"], "é".repeat(256));
    assert!(json["aps"]["alert"]["body"].as_str().unwrap().len() > 2_000);
    assert_eq!(at_fcm(&providers)["notification"]["title"], "é".repeat(256));
}

async fn with_settings(presentation: Presentation, settings: &[(&str, &str)]) -> Pushlark {
    let mut environment = Environment::from_iter([("PLUGIN", "presented")]);
    environment.extend(settings.iter().copied());
    Pushlark::with(Options { plugins: plugins(presentation), environment, ..Options::default() }).await
}

#[tokio::test]
async fn mongoosepush_gets_the_fields_that_its_api_has() {
    let apns = json!({"service": "apns", "priority": "high", "sound": "ping", "time_to_live": "3600"});
    let full_alert =
        json!({"title": "Team", "body": "canary Hi", "tag": "room@muc.example.com", "badge": 1, "sound": "chirp"});
    let quiet_alert = json!({"title": ROOM_OCCUPANT, "body": "canary Hi", "tag": ROOM_OCCUPANT, "badge": 1});
    for (presentation, expected) in [
        (full(), json!({"service": "apns", "priority": "normal", "time_to_live": 600, "alert": full_alert})),
        (soundless(), json!({"service": "apns", "priority": "high", "time_to_live": 3600, "alert": quiet_alert})),
    ] {
        for version in ["v2", "v3"] {
            let pushlark = with_settings(presentation.clone(), &[("MONGOOSEPUSH_API_VERSION", version)]).await;
            pushlark.enable_with(BOB, "phone", apns.clone()).await;
            pushlark.event(Event::groupchat(ROOM_OCCUPANT, BOB, "canary Hi")).await;
            assert_eq!(pushlark.notified("phone", 1).await[0]["notification"], expected, "{version}");
        }
    }
}

#[tokio::test]
async fn the_own_push_service_gets_the_presentation_as_json() {
    let all = json!({"title": "Team", "priority": "normal", "sound": "chirp", "interruption_level": "time-sensitive",
        "channel_id": "support", "time_to_live": 600, "collapse": "conversation"});
    for (presentation, expected) in
        [(full(), all), (soundless(), json!({"sound": "none"})), (Presentation::default(), json!({}))]
    {
        let receiver = Gateway::webhook().await;
        let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
        let pushlark = with_settings(presentation, &settings).await;
        pushlark.enable(BOB, "device").await;
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        let body = receiver.accepted("device")[0].json();
        assert_eq!(body["presentation"], expected);
        assert_eq!(body["publish_options"], json!({"service": "fcm", "device_id": canary("device")}));
        assert_eq!(body["payload"]["last-message-sender"], ALICE);
    }
}

#[tokio::test]
async fn a_real_pubsub_service_gets_no_presentation() {
    let rest = Rest::start("canary-token-of-16").await;
    let url = format!("{}/rest", rest.url);
    let settings = [("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", "canary-token-of-16")];
    let mut published = Vec::new();
    for presentation in [full(), Presentation::default()] {
        let pushlark = with_settings(presentation, &settings).await;
        let node = PushRequest::new(BOB, "phone").at("pubsub.example.org").form(json!({"priority": "high"}));
        assert_eq!(pushlark.json("/enable", node).await.status, 200);
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        let mut iqs: Vec<String> = rest.published("phone").iter().map(ToString::to_string).collect();
        let iq = iqs.pop().unwrap();
        let (_, content) = iq.split_once("<pubsub").unwrap();
        published.push(content.to_owned());
    }
    assert_eq!(published[0], published[1]);
}
