//! Quiet bursts: the setting `ALERT_INTERVAL`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use doubles::{Answer, Gateway, Rest, Subscriber};
use local::Options;
use pushlark_plugin::{InterruptionLevel, Presentation, Sound};
use pushlark_settings::Environment;
use pushlark_store::{Alert, Snapshot, Store};
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};
use tests::{
    ALICE, BOB, BOBS_PHONE, CAROL, CallCounter, Event, IPHONE, IsolatedWorker, Providers, PushRequest, Pushlark,
    ROOM_OCCUPANT, TEST_TIMEOUT, Work, eventually, registration, stanza,
};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::presentation::plugins;

/// An interval that is not over within a test.
const HOUR: (&str, &str) = ("ALERT_INTERVAL", "3600");

/// Enables a device of MongoosePush whose form names a sound.
async fn enable(pushlark: &Pushlark, user: &str, device: &str) {
    pushlark.enable_with(user, device, json!({"sound": "ping", "priority": "high"})).await;
}

async fn with_phone(settings: &[(&str, &str)]) -> Pushlark {
    let pushlark = Pushlark::with_settings([HOUR].into_iter().chain(settings.iter().copied())).await;
    enable(&pushlark, BOB, "phone").await;
    pushlark
}

/// Returns for each notification of a device whether it has the sound and the priority of the form.
async fn sounds(pushlark: &Pushlark, device: &str) -> Vec<bool> {
    let notifications = pushlark.notifications(device).await;
    notifications.iter().map(|notification| has_sound(&notification["notification"])).collect()
}

fn has_sound(notification: &Value) -> bool {
    let (sound, priority) = (notification["alert"].get("sound"), notification["priority"].as_str());
    match (sound, priority) {
        (Some(_), Some("high")) => true,
        (None, Some("normal")) => false,
        other => panic!("{other:?}"),
    }
}

async fn post(pushlark: &Pushlark, event: Event) {
    pushlark.event(event).await;
    pushlark.settled().await;
}

#[tokio::test]
async fn further_messages_of_a_conversation_replace_its_alert_without_a_sound() {
    let providers = Providers::with_settings(&[HOUR]).await;
    let sound = json!({"sound": "ping", "priority": "high"});
    providers.enable_iphone(IPHONE, sound.clone()).await;
    providers.pushlark.enable_with(BOB, "android", sound.clone()).await;
    providers.enable_browser("browser", &Subscriber::new(7), sound).await;
    for body in ["canary one", "canary two", "canary three"] {
        providers.message(body).await;
    }
    let of_apns = providers.apns.accepted(IPHONE);
    let seen: Vec<_> =
        of_apns.iter().map(|one| (one.json()["aps"]["sound"].take(), one.header("apns-priority"))).collect();
    assert_eq!(seen, [(json!("ping"), "10"), (Value::Null, "5"), (Value::Null, "5")]);
    let ids: BTreeSet<_> = of_apns.iter().map(|one| one.header("apns-collapse-id")).collect();
    assert_eq!(ids.len(), 1);
    let android = |number: usize| providers.fcm.accepted("android")[number].json()["message"]["android"].take();
    assert_eq!((&android(0)["notification"]["sound"], &android(0)["priority"]), (&json!("ping"), &json!("HIGH")));
    for number in [1, 2] {
        let android = android(number);
        assert_eq!(
            (&android["notification"]["default_sound"], &android["priority"]),
            (&json!(false), &json!("NORMAL"))
        );
        assert_eq!((&android["notification"]["tag"], android["notification"].get("sound")), (&json!(ALICE), None));
    }
    let of_browser = providers.web_push.accepted("browser");
    let urgencies: Vec<_> = of_browser.iter().map(|one| one.header("urgency")).collect();
    assert_eq!(urgencies, ["high", "normal", "normal"]);
    let topics: BTreeSet<_> = of_browser.iter().map(|one| one.header("topic")).collect();
    assert_eq!(topics.len(), 1);
    let last: Value = serde_json::from_slice(&Subscriber::new(7).decrypt(&of_browser[2].body).unwrap()).unwrap();
    assert_eq!((&last["sound"], &last["tag"]), (&json!("none"), &json!(ALICE)));
}

#[tokio::test]
async fn without_the_interval_each_message_makes_a_sound() {
    let pushlark = Pushlark::start().await;
    enable(&pushlark, BOB, "phone").await;
    for _ in 0..3 {
        post(&pushlark, Event::message(BOB, "canary")).await;
    }
    assert_eq!(sounds(&pushlark, "phone").await, [true; 3]);
    let alert_of = |notification: &Value| notification["notification"]["alert"].clone();
    let alerts: Vec<_> = pushlark.notifications("phone").await.iter().map(alert_of).collect();
    assert_eq!(alerts[0], json!({"title": ALICE, "body": "canary", "tag": ALICE, "badge": 1, "sound": "ping"}));
}

#[tokio::test]
async fn each_conversation_and_each_device_has_its_own_interval() {
    let pushlark = with_phone(&[]).await;
    enable(&pushlark, CAROL, "carols").await;
    let rooms = ["room@muc.example.com/alice", "room@muc.example.com/dave", "lobby@muc.example.com/alice"];
    for (number, (event, has_sound)) in [
        (Event::message(BOB, "canary"), true),
        (Event::message(BOB, "canary").from("alice@example.com/phone"), false),
        (Event::message(BOB, "canary").from("dave@example.com"), true),
        (Event::groupchat(rooms[0], BOB, "canary"), true),
        (Event::groupchat(rooms[1], BOB, "canary"), false),
        (Event::groupchat(rooms[2], BOB, "canary"), true),
    ]
    .into_iter()
    .enumerate()
    {
        post(&pushlark, event).await;
        assert_eq!(sounds(&pushlark, "phone").await.get(number), Some(&has_sound), "{number}");
    }
    post(&pushlark, Event::message(CAROL, "canary")).await;
    assert_eq!(sounds(&pushlark, "carols").await, [true]);
    enable(&pushlark, BOB, "tablet").await;
    for _ in 0..2 {
        post(&pushlark, Event::message(BOB, "canary")).await;
    }
    assert_eq!(sounds(&pushlark, "tablet").await, [true, false]);
    assert_eq!(sounds(&pushlark, "phone").await[6..], [false, false]);
}

#[tokio::test]
async fn a_mention_a_call_and_a_contact_request_always_make_a_sound() {
    let pushlark = with_phone(&[]).await;
    let message = |body: &str| Event::groupchat(ROOM_OCCUPANT, BOB, body).recipient(json!({"nick": "Bobby"}));
    for (number, (body, has_sound)) in [
        ("canary one", true),
        ("canary two", false),
        ("canary Bobby: three", true),
        ("canary @bobby four", true),
        ("canary five", false),
    ]
    .into_iter()
    .enumerate()
    {
        post(&pushlark, message(body)).await;
        assert_eq!(sounds(&pushlark, "phone").await.get(number), Some(&has_sound), "{body}");
    }
    // A nick in a chat is no mention.
    for has_sound in [true, false] {
        post(&pushlark, Event::message(BOB, "canary Bobby!").recipient(json!({"nick": "Bobby"}))).await;
        assert_eq!(sounds(&pushlark, "phone").await.pop(), Some(has_sound));
    }
    post(&pushlark, Event::subscription(ALICE, BOB)).await;
    assert_eq!(sounds(&pushlark, "phone").await.pop(), Some(true));
    // A call rings on this device, and is an alert on the other.
    pushlark.enable_with(BOB, "iphone", json!({"service": "apns", "sound": "ping", "priority": "high"})).await;
    post(&pushlark, Event::message(BOB, "canary")).await;
    post(&pushlark, Event::stanza(BOB, &stanza::jingle("propose"))).await;
    assert_eq!(sounds(&pushlark, "iphone").await, [true, true]);
    let ring = pushlark.notifications("phone").await.pop().unwrap()["notification"].take();
    assert_eq!((&ring["priority"], &ring["data"]["type"]), (&json!("high"), &json!("jmi")));
}

#[tokio::test]
async fn of_messages_in_one_request_the_first_makes_the_sound() {
    let pushlark = with_phone(&[]).await;
    enable(&pushlark, BOB, "tablet").await;
    let events: Vec<_> = (0..5).map(|number| Event::message(BOB, &format!("canary {number}"))).collect();
    pushlark.event(events).await;
    for device in ["phone", "tablet"] {
        pushlark.notified(device, 5).await;
        assert_eq!(sounds(&pushlark, device).await, [true, false, false, false, false], "{device}");
    }
}

#[tokio::test]
async fn the_interval_of_a_lost_session_s_message_is_that_of_the_message() {
    let pushlark = with_phone(&[("PLUGIN", "enhanced")]).await;
    let tied = PushRequest::new(BOBS_PHONE, "tied").device("tied");
    let tied = tied.options(json!({"sound": "ping", "priority": "high"}));
    assert_eq!(pushlark.json("/enable", tied).await.status, 200);
    post(&pushlark, Event::unacknowledged(BOBS_PHONE, "canary Hi").id("m1")).await;
    post(&pushlark, Event::message(BOB, "canary Hi").id("m1")).await;
    post(&pushlark, Event::unacknowledged(BOBS_PHONE, "canary again").id("m2")).await;
    assert_eq!((sounds(&pushlark, "tied").await, sounds(&pushlark, "phone").await), (vec![true, false], vec![true]));
}

/// Returns the text and the sound of each notification that a double accepted.
fn accepted(push_service: &Gateway, device: &str) -> Vec<(String, bool)> {
    let of = |request: &doubles::Request| {
        let notification = request.json();
        (notification["alert"]["body"].as_str().unwrap().to_owned(), has_sound(&notification))
    };
    push_service.accepted(device).iter().map(of).collect()
}

/// Starts a worker with a double of MongoosePush.
async fn with_push_service() -> (IsolatedWorker, Gateway) {
    let push_service = Gateway::mongoosepush().await;
    let pushlark = with_phone(&[("MONGOOSEPUSH_URL", push_service.url.as_str())]).await;
    (IsolatedWorker::beside(pushlark).await, push_service)
}

/// Returns a message to Bob with this id, which is in its text.
fn message(id: &str) -> Work {
    let stanza = stanza::chat(&format!("<body>canary {id}</body>"));
    Work::message(&[BOB]).id(id).message_field("stanza", stanza)
}

#[tokio::test]
async fn a_message_that_sqs_delivers_again_after_a_crash_makes_its_sound() {
    let (isolated, push_service) = with_push_service().await;
    push_service.hold(TEST_TIMEOUT);
    let batch = isolated.batch(&[message("m1")]).await;
    let worker = Arc::clone(&isolated.worker);
    let first = batch.clone();
    let crashing = tokio::spawn(async move { worker.handle(first, Instant::now() + TEST_TIMEOUT).await });
    eventually("the first try", async || (push_service.arrived() == 1).then_some(())).await;
    crashing.abort();
    assert!(crashing.await.is_err());
    push_service.hold(Duration::ZERO);
    isolated.fresh_worker().await.handle(batch, Instant::now() + TEST_TIMEOUT).await;
    assert_eq!(push_service.arrived(), 2);
    let accepted = accepted(&push_service, "phone");
    assert!(!accepted.is_empty() && accepted.iter().all(|(_, has_sound)| *has_sound), "{accepted:?}");
}

#[tokio::test]
async fn a_retry_of_the_message_that_makes_the_sound_makes_it() {
    let (isolated, push_service) = with_push_service().await;
    push_service.device_answers_next("phone", Answer::json(503, &json!({})));
    let batch = isolated.batch(&[message("m1"), message("m2")]).await;
    isolated.handle_all(batch).await;
    let expected = [("canary m2".to_owned(), false), ("canary m1".to_owned(), true)];
    assert_eq!(accepted(&push_service, "phone"), expected);
    // A quiet message stays quiet in its retry.
    push_service.device_answers_next("phone", Answer::json(503, &json!({})));
    let batch = isolated.batch(&[message("m3")]).await;
    isolated.handle_all(batch).await;
    assert_eq!(accepted(&push_service, "phone").pop(), Some(("canary m3".to_owned(), false)));
}

#[tokio::test]
async fn the_sound_returns_when_the_interval_is_over() {
    let pushlark = Pushlark::with_settings([("ALERT_INTERVAL", "1")]).await;
    enable(&pushlark, BOB, "phone").await;
    post(&pushlark, Event::message(BOB, "canary")).await;
    eventually("another sound", async || {
        post(&pushlark, Event::message(BOB, "canary")).await;
        let sounds = sounds(&pushlark, "phone").await;
        assert!(sounds[0]);
        (sounds.into_iter().filter(|has_sound| *has_sound).count() >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_two_workers_one_makes_the_sound() {
    let (pushlark, counter) = CallCounter::with_settings([HOUR]).await;
    enable(&pushlark, BOB, "phone").await;
    post(&pushlark, Event::message(BOB, "canary one")).await;
    counter.take();
    // This worker has read the recipient before the other one wrote.
    counter.hide_next("sent-alerts");
    post(&pushlark, Event::message(BOB, "canary two")).await;
    counter.assert_all_failures_occurred();
    assert_eq!(sounds(&pushlark, "phone").await, [true, false]);
    assert_eq!(counter.take()["UpdateItem"], 2);
}

#[tokio::test]
async fn an_alert_that_cannot_be_recorded_makes_the_sound() {
    let (pushlark, counter) = CallCounter::with_settings([HOUR]).await;
    enable(&pushlark, BOB, "phone").await;
    counter.refuse_next_with("sent-alerts", "UpdateItem", "AccessDeniedException", json!({}));
    for body in ["canary one", "canary two", "canary three"] {
        post(&pushlark, Event::message(BOB, body)).await;
    }
    counter.assert_all_failures_occurred();
    assert_eq!(sounds(&pushlark, "phone").await, [true, true, false]);
}

/// Starts a stack whose plugin presents each notification in this way.
async fn with_presentation(presentation: Presentation) -> Pushlark {
    let environment = Environment::from_iter([HOUR, ("PLUGIN", "presented")]);
    let options = Options { plugins: plugins(presentation), environment, ..Options::default() };
    let pushlark = Pushlark::with(options).await;
    pushlark.enable_with(BOB, "phone", json!({"priority": "high"})).await;
    pushlark
}

#[tokio::test]
async fn the_interval_silences_the_sound_of_a_rule_but_not_a_critical_alert() {
    let named = Presentation { sound: Some(Sound::Named("chirp".into())), ..Presentation::default() };
    let critical = Presentation { interruption_level: Some(InterruptionLevel::Critical), ..named.clone() };
    let none = Presentation { sound: Some(Sound::None), ..Presentation::default() };
    for (presentation, expected) in [(named, [Some("chirp"), None]), (critical, [Some("chirp"); 2]), (none, [None; 2])]
    {
        let pushlark = with_presentation(presentation.clone()).await;
        for _ in 0..2 {
            post(&pushlark, Event::message(BOB, "canary")).await;
        }
        let notified = pushlark.notified("phone", 2).await;
        let sound = |number: usize| notified[number]["notification"]["alert"]["sound"].as_str();
        assert_eq!([sound(0), sound(1)], expected, "{presentation:?}");
    }
}

#[tokio::test]
async fn a_quiet_alert_leaves_the_channel_of_a_rule_for_the_quiet_one_of_the_form() {
    let in_channel = Presentation { channel_id: Some("loud".into()), ..Presentation::default() };
    let settings = [HOUR, ("PLUGIN", "presented")];
    let providers = Providers::with_plugins(plugins(in_channel), &settings).await;
    providers.pushlark.enable_with(BOB, "both", json!({"quiet_channel_id": "quiet"})).await;
    providers.pushlark.enable_with(BOB, "one", json!({})).await;
    for _ in 0..2 {
        providers.message("canary").await;
    }
    let channels = |device: &str| -> Vec<Value> {
        let channel = |one: &doubles::Request| one.json()["message"]["android"]["notification"]["channel_id"].take();
        providers.fcm.accepted(device).iter().map(channel).collect()
    };
    assert_eq!((channels("both"), channels("one")), (vec!["loud".into(), "quiet".into()], vec!["loud".into(); 2]));
}

#[tokio::test]
async fn explain_names_a_quiet_publication() {
    let pushlark = with_phone(&[]).await;
    let quiet = async || {
        let event = Event::message(BOB, "canary Hi").id("explained");
        pushlark.explained(event).await["publications"][0].get("quiet").cloned()
    };
    assert_eq!(quiet().await, None);
    assert_eq!(quiet().await, None, "an explanation records nothing");
    post(&pushlark, Event::message(BOB, "canary Hi")).await;
    assert_eq!(quiet().await, Some(json!(true)));
}

#[tokio::test]
async fn a_real_pubsub_service_begins_no_interval() {
    let rest = Rest::start("canary-token-of-16").await;
    let url = format!("{}/rest", rest.url);
    let settings = [HOUR, ("PUBSUB_URL", url.as_str()), ("PUBSUB_TOKEN", "canary-token-of-16")];
    let (pushlark, counter) = CallCounter::with_settings(settings).await;
    let node = PushRequest::new(BOB, "phone").at("pubsub.example.org");
    assert_eq!(pushlark.json("/enable", node).await.status, 200);
    counter.take();
    post(&pushlark, Event::message(BOB, "canary Hi")).await;
    assert_eq!((rest.published("phone").len(), counter.take()["UpdateItem"]), (1, 1));
}

#[tokio::test]
async fn the_alerts_of_a_removed_user_are_deleted() {
    let pushlark = with_phone(&[]).await;
    post(&pushlark, Event::message(BOB, "canary Hi")).await;
    let alerts = async || {
        let items = pushlark.stack.dynamodb.scan().table_name("pushlark").send().await.unwrap().items.unwrap();
        items.iter().filter(|item| item["sk"].as_s().unwrap() == "sent-alerts").count()
    };
    assert_eq!(alerts().await, 1);
    post(&pushlark, Event::user_removed(BOB)).await;
    assert_eq!(alerts().await, 0);
}

/// The store, with a user and a clock of the test.
struct Alerts {
    store: Store,
    user: BareJid,
}

impl Alerts {
    async fn snapshot(&self) -> Snapshot {
        self.store.snapshot(&self.user).await.unwrap()
    }

    /// Records the alert of a message at a second for devices, by what `snapshot` shows. Returns whether each is quiet.
    async fn note(
        &self,
        snapshot: &Snapshot,
        from: &str,
        message_id: &str,
        second: i64,
        nodes: &[String],
    ) -> Vec<bool> {
        let conversation = BareJid::new(from).unwrap();
        let now = OffsetDateTime::from_unix_timestamp(4_000_000_000 + second).unwrap();
        let (user, conversation) = (&self.user, &conversation);
        let interval = Duration::from_secs(60);
        let alert = Alert { user, conversation, message_id, is_mention: false, now, interval };
        let registrations: Vec<_> = nodes.iter().map(|node| registration(node, &[], 1)).collect();
        let registrations: Vec<_> = registrations.iter().collect();
        self.store.note_alert(&alert, &registrations, snapshot).await.unwrap()
    }
}

async fn with_store() -> (Pushlark, Alerts) {
    let pushlark = Pushlark::start().await;
    let alerts = Alerts { store: pushlark.store(), user: BareJid::new(BOB).unwrap() };
    (pushlark, alerts)
}

#[tokio::test]
async fn the_interval_begins_with_the_last_alert_that_makes_a_sound() {
    let (_pushlark, alerts) = with_store().await;
    let nodes = ["phone".to_owned()];
    for (second, message, is_quiet) in [
        (0, "m1", false),
        (59, "m2", true),
        (59, "m1", false),
        (60, "m3", false),
        (61, "m1", true),
        (119, "m4", true),
        (120, "m4", false),
    ] {
        let snapshot = alerts.snapshot().await;
        assert_eq!(alerts.note(&snapshot, ALICE, message, second, &nodes).await, [is_quiet], "{second} {message}");
    }
}

#[tokio::test]
async fn a_worker_with_an_old_snapshot_makes_a_sound_on_the_other_devices_only() {
    let (_pushlark, alerts) = with_store().await;
    let devices = ["phone", "tablet"].map(str::to_owned);
    let before = alerts.snapshot().await;
    assert_eq!(alerts.note(&before, ALICE, "m1", 0, &devices[..1]).await, [false]);
    assert_eq!(alerts.note(&before, ALICE, "m2", 1, &devices).await, [true, false]);
    assert_eq!(alerts.note(&before, ALICE, "m3", 2, &devices).await, [true, true]);
}

#[tokio::test]
async fn a_user_has_a_limited_number_of_alerts_and_those_that_are_over_are_removed() {
    let (pushlark, alerts) = with_store().await;
    let names = async || {
        let items = pushlark.stack.dynamodb.scan().table_name("pushlark").send().await.unwrap().items.unwrap();
        let item = items.iter().find(|item| item["sk"].as_s().unwrap() == "sent-alerts").unwrap();
        item.keys().filter(|name| name.starts_with("a:")).count()
    };
    let many: Vec<_> = (0..200).map(|number| format!("device-{number}")).collect();
    let quiet = alerts.note(&alerts.snapshot().await, ALICE, "m1", 0, &many).await;
    assert!(!quiet.contains(&true));
    assert_eq!(names().await, 50);
    for (number, second) in (1..30).enumerate() {
        let snapshot = alerts.snapshot().await;
        alerts.note(&snapshot, &format!("u{number}@example.com"), "m2", second, &many[..2]).await;
        assert_eq!(names().await, 50);
    }
    let snapshot = alerts.snapshot().await;
    assert_eq!(alerts.note(&snapshot, "u28@example.com", "m3", 30, &many[..2]).await, [true, true]);
    alerts.note(&snapshot, CAROL, "m4", 200, &many[..1]).await;
    assert_eq!(names().await, 1);
}
