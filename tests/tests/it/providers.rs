//! Rules that APNs, FCM and Web Push share.

use std::collections::BTreeSet;
use std::time::Duration;

use doubles::{Answer, Apns, Double, Fcm, Hold, Subscriber, apns_error, fcm_too_big};
use futures_util::future::join_all;
use local::{Options, Stack};
use pushlark_model::Payload;
use pushlark_plugin::{Defaults, Event as PluginEvent, Plugin, Rule};
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tests::{
    BOB, BOBS_PHONE, CAROL, Event, IPHONE, PUSH_HOST, Providers, PushRequest, Pushlark, XMPP, ago, answered,
    credentials, eventually, iphone, stanza,
};
use time::OffsetDateTime;

/// The effect of an answer on the device and on the notification.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// The device is disabled at once.
    Gone,
    /// The device is disabled at the third such answer in a row.
    Suspect,
    /// The device stays, and the notification is not retried.
    Refused,
    /// The device stays, and the notification is retried.
    Transient,
}

/// Returns the effect of an answer for a device of `apns`, `fcm` or `web-push`.
async fn outcome(service: &str, answer: Answer) -> Outcome {
    let providers = Providers::start().await;
    let (double, device) = providers.enable_at(service).await;
    outcome_of(&providers.pushlark, double, device, answer).await
}

/// Returns the effect of an answer for a device at a double.
pub async fn outcome_of(pushlark: &Pushlark, double: &Double, device: &str, answer: Answer) -> Outcome {
    double.device_answers(device, answer);
    pushlark.message(BOB, "canary 1").await;
    answered(double, 1).await;
    let is_repeated = eventually("a second try, or none", async || {
        let is_done = pushlark.queue_depth("QUEUE_URL").await == 0;
        (double.requests().len() >= 2).then_some(true).or(is_done.then_some(false))
    })
    .await;
    if is_repeated {
        double.device_recovers(device);
        pushlark.settled().await;
        assert_eq!(double.accepted(device).len(), 1, "a retry delivers the notification");
        return Outcome::Transient;
    }
    for body in ["canary 2", "canary 3", "canary 4", "canary 5"] {
        pushlark.message(BOB, body).await;
        pushlark.settled().await;
    }
    match double.requests().len() {
        1 => Outcome::Gone,
        3 => Outcome::Suspect,
        5 => Outcome::Refused,
        other => panic!("tried {other} times"),
    }
}

/// Checks the effect of each answer for a device of `apns`, `fcm` or `web-push`.
pub async fn check_outcomes(service: &str, cases: Vec<(Answer, Outcome)>) {
    for cases in cases.chunks(4) {
        let checks = cases.iter().map(async |(answer, expected)| {
            assert_eq!(outcome(service, answer.clone()).await, *expected, "{service}: {answer:?}");
        });
        join_all(checks).await;
    }
}

/// Checks that a double has a second connection after five devices have failed at once and recovered.
pub async fn check_replacement(providers: &Providers, double: &Double, devices: &[String], failure: Answer) {
    providers.message("canary: before").await;
    assert_eq!(double.connections(), 1);
    for device in devices {
        double.device_answers(device, failure.clone());
    }
    providers.pushlark.message(BOB, "canary: fails").await;
    answered(double, 2 * devices.len()).await;
    for device in devices {
        double.device_recovers(device);
    }
    providers.pushlark.settled().await;
    providers.message("canary: after").await;
    assert_eq!(double.connections(), 2, "{failure:?}");
    let requests = double.requests();
    let last = requests.last().unwrap();
    assert_eq!((last.status, last.connection), (200, 1));
    for device in devices {
        assert_eq!(double.accepted(device).len(), 3);
    }
}

/// A plugin that adds fields to each notification.
pub struct WithFields(pub &'static [(&'static str, &'static str)]);

impl Plugin for WithFields {
    fn prepare_notification(&self, event: &PluginEvent) -> Result<Payload, Rule> {
        let payload = Defaults.prepare_notification(event)?;
        Ok(self.0.iter().fold(payload, |payload, (name, value)| payload.with(*name, *value)))
    }
}

/// Fields for [`WithFields`]: five with names that Google reserves, then two others.
pub const RESERVED: &[(&str, &str)] = &[
    ("from", "canary"),
    ("message_type", "canary"),
    ("collapse_key", "canary"),
    ("google.sent_time", "canary"),
    ("gcm.notification.e", "canary"),
    ("from_user", "kept"),
    ("count", "7"),
];

#[tokio::test]
async fn a_retry_replaces_the_notification_on_the_device() {
    let providers = Providers::start().await;
    let silent = iphone(1);
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.enable_iphone(&silent, json!({"silent": "true"})).await;
    providers.enable_browser("browser", &Subscriber::new(1), json!({"priority": "high"})).await;
    for device in [IPHONE, &silent] {
        providers.apns.device_answers(device, apns_error(500, "InternalServerError"));
    }
    providers.web_push.answer_next(Answer::json(503, &json!({})));
    providers.pushlark.message(BOB, "canary one").await;
    answered(&providers.apns, 2).await;
    for device in [IPHONE, &silent] {
        providers.apns.device_recovers(device);
    }
    providers.pushlark.settled().await;
    providers.message("two").await;
    let of = |device: &str| providers.apns.requests().into_iter().filter(|request| request.device == device).collect();
    let (loud, silent, browser): (Vec<_>, Vec<_>, _) = (of(IPHONE), of(&silent), providers.web_push.requests());
    for (requests, name) in [(loud, "apns-collapse-id"), (silent, "apns-collapse-id"), (browser, "topic")] {
        let names: Vec<_> = requests.iter().map(|request| request.header(name)).collect();
        assert!(names.len() == 3 && names[0] == names[1] && names[1] != names[2], "{names:?}");
    }
    assert_eq!(providers.web_push.accepted("browser")[0].header("urgency"), "high");
}

#[tokio::test]
async fn many_notifications_share_one_connection_and_one_token() {
    // The provider token of APNs changes with the half hour.
    let half_hour = || OffsetDateTime::now_utc().unix_timestamp() / 1_800;
    let begun_in = half_hour();
    let apns = Apns::with_streams(10).await;
    let fcm = Fcm::start().await;
    let credentials = credentials(&apns, &fcm).to_string();
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", credentials.as_str()),
        ("WORKER_CONCURRENCY", "64"),
        ("MAX_NODES", "80"),
    ];
    let pushlark = Pushlark::with_settings(settings).await;
    for phone in 0..40 {
        let token = iphone(phone);
        pushlark.enable_with(BOB, &token, json!({"service": "apns", "device_id": token})).await;
        pushlark.enable(BOB, &format!("android-{phone}")).await;
    }
    apns.hold(Hold::FOREVER);
    fcm.hold(Hold::FOREVER);
    pushlark.message(BOB, "canary Hi").await;
    eventually("requests side by side", async || (apns.arrived() >= 10 && fcm.arrived() > 10).then_some(())).await;
    // This time is long enough for more than ten requests to overlap.
    apns.hold(Duration::from_millis(50));
    fcm.hold(Duration::ZERO);
    answered(&apns, 40).await;
    answered(&fcm, 40).await;
    pushlark.settled().await;
    assert_eq!((apns.connections(), fcm.connections(), fcm.granted()), (1, 1, 1));
    assert!(apns.most_running() <= 10 && fcm.most_running() > 10);
    let requests = apns.requests();
    assert!(requests.iter().all(|request| request.status == 200));
    let tokens: BTreeSet<_> = requests.iter().map(|request| request.header("authorization")).collect();
    assert!(tokens.len() as i64 <= 1 + half_hour() - begun_in, "{} tokens", tokens.len());
}

#[tokio::test]
async fn a_success_or_a_new_registration_resets_the_suspicions() {
    let providers = Providers::with_settings(&[("DISABLE_AFTER_SUSPECTS", "2")]).await;
    providers.enable_iphone(IPHONE, json!({})).await;
    let bad = apns_error(400, "BadDeviceToken");
    providers.apns.answer_next(bad.clone());
    providers.message("suspected").await;
    providers.message("cleared").await;
    providers.apns.answer_next(bad.clone());
    providers.message("suspected again").await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.apns.answer_next(bad.clone());
    providers.message("suspected after a new registration").await;
    providers.message("cleared").await;
    assert_eq!(providers.apns.accepted(IPHONE).len(), 2);
    providers.apns.device_answers(IPHONE, bad);
    for body in ["one", "two", "three"] {
        providers.message(body).await;
    }
    assert_eq!(providers.apns.requests().len(), 7);
}

#[tokio::test]
async fn registrations_stay_when_most_answers_say_gone() {
    let providers = Providers::with_settings(&[("DISABLE_MAX_PERCENT", "25")]).await;
    for phone in 0..12 {
        let token = iphone(phone);
        providers.enable_iphone(&token, json!({})).await;
        providers.apns.device_answers(&token, apns_error(410, "Unregistered"));
    }
    providers.message("one").await;
    assert_eq!(providers.apns.requests().len(), 12);
    providers.message("two").await;
    // The worker has no deliveries yet: a quarter of ten answers is two.
    assert_eq!(providers.apns.requests().len(), 12 + 10);
}

#[tokio::test]
async fn a_retry_waits_for_the_retry_after_time() {
    let providers = Providers::start().await;
    for service in ["apns", "fcm", "web-push"] {
        let (double, _) = providers.enable_at(service).await;
        double.answer_next(Answer::json(503, &json!({})).with("retry-after", "3"));
    }
    providers.message("canary Hi").await;
    for double in [&*providers.apns as &Double, &providers.fcm, &providers.web_push] {
        let requests = double.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests[1].at - requests[0].at >= Duration::from_millis(2_900));
    }
}

#[tokio::test]
async fn explain_names_the_push_service_of_each_device() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.pushlark.enable(BOB, "android").await;
    providers.enable_browser("browser", &Subscriber::new(3), json!({})).await;
    let event = Event::message(BOB, "canary Hi");
    let explained = providers.pushlark.json("/explain", json!({"explain": [event]})).await.json();
    let publications = explained["explained"][0]["recipients"][0]["publications"].as_array().unwrap();
    let targets: Vec<_> = publications.iter().map(|publication| publication["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["APNs", "FCM", "Web Push"]);
    assert!(providers.apns.requests().is_empty());
}

#[tokio::test]
async fn the_error_names_a_missing_or_wrong_setting() {
    for (settings, named) in [
        (vec![("PUSH_SERVICE", "direct")], "PUSH_CREDENTIALS"),
        (vec![("PUSH_SERVICE", "https://push.example.com")], "PUSH_SERVICE_SECRET"),
        (vec![("PUSH_SERVICE", "pigeons")], "PUSH_SERVICE"),
        (vec![("WEB_PUSH_TRUSTED_ORIGINS", "ntfy")], "WEB_PUSH_TRUSTED_ORIGINS"),
        (vec![("DISABLE_MAX_PERCENT", "0")], "DISABLE_MAX_PERCENT"),
        (vec![("DISABLE_AFTER_SUSPECTS", "0")], "DISABLE_AFTER_SUSPECTS"),
    ] {
        let options = Options { environment: Environment::from_iter(settings), ..Options::default() };
        let error = Stack::start(options).await.unwrap_err().to_string();
        assert!(error.starts_with(named), "{error}");
    }
}

#[tokio::test]
async fn a_long_text_is_truncated_to_the_limit_of_the_service() {
    let providers = Providers::with_settings(&[]).await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.pushlark.enable(BOB, "android").await;
    providers.pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    providers.enable_browser("browser", &Subscriber::new(9), json!({})).await;
    // One grapheme cluster of 25 bytes.
    let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
    providers.message(&family.repeat(400)).await;
    let assert_truncated = |text: &Value| {
        let graphemes = text.as_str().unwrap().strip_suffix('…').unwrap().to_owned();
        assert!(graphemes.len() > 3_000 && graphemes.len().is_multiple_of(family.len()), "{}", graphemes.len());
    };
    let request = providers.apns.accepted(IPHONE).remove(0);
    assert!((4_060..=4_096).contains(&request.body.len()));
    assert_truncated(&request.json()["aps"]["alert"]["body"]);
    assert_truncated(&providers.fcm.accepted("android")[0].json()["message"]["android"]["notification"]["body"]);
    assert_truncated(&providers.fcm.accepted("silent")[0].json()["message"]["android"]["data"]["last-message-body"]);
    assert!((4_060..=4_096).contains(&providers.web_push.accepted("browser")[0].body.len()));
}

#[tokio::test]
async fn a_notification_too_large_for_apns_or_fcm_is_sent_again_shorter() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({})).await;
    providers.pushlark.enable(BOB, "android").await;
    providers.apns.answer_next(apns_error(413, "PayloadTooLarge"));
    providers.fcm.answer_next(fcm_too_big());
    let text = "canary ".repeat(700);
    providers.message(&text).await;
    for (double, device, pointer) in [
        (&*providers.apns as &Double, IPHONE, "/aps/alert/body"),
        (&providers.fcm, "android", "/message/android/notification/body"),
    ] {
        let sent = double.accepted(device).remove(0).json();
        let shorter = sent.pointer(pointer).unwrap().as_str().unwrap().strip_suffix('…').unwrap();
        assert!(text.starts_with(shorter) && (1_500..2_048).contains(&shorter.len()), "{}", shorter.len());
        assert_eq!(double.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_slow_provider_does_not_delay_another_provider() {
    let settings = [("WORKER_CONCURRENCY", "2"), ("PUBLISH_TIMEOUT_MS", "500"), ("MAX_NODES", "30")];
    let providers = Providers::with_settings(&settings).await;
    providers.apns.hold(Hold::FOREVER);
    for phone in 0..30 {
        providers.enable_iphone(&iphone(phone), json!({})).await;
    }
    providers.pushlark.enable(CAROL, "android").await;
    providers.pushlark.message(BOB, "one").await;
    providers.pushlark.message(CAROL, "two").await;
    answered(&providers.fcm, 1).await;
    // FCM did not wait for all thirty devices of APNs.
    assert!(providers.apns.arrived() < 30, "{}", providers.apns.arrived());
    providers.apns.hold(Duration::ZERO);
    providers.pushlark.settled().await;
    for phone in 0..30 {
        assert!(!providers.apns.accepted(&iphone(phone)).is_empty(), "{phone}");
    }
}

#[tokio::test]
async fn an_expired_notification_is_not_sent() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({"time_to_live": "120"})).await;
    providers.pushlark.enable(BOB, "android").await;
    let late = Event::message(BOB, "canary: late").at(ago(180));
    providers.pushlark.event(late).await;
    providers.pushlark.settled().await;
    assert_eq!((providers.apns.requests().len(), providers.fcm.accepted("android").len()), (0, 1));
    let ttl = providers.fcm.accepted("android")[0].json()["message"]["android"]["ttl"].as_str().unwrap().to_owned();
    let ttl: u32 = ttl.trim_end_matches('s').parse().unwrap();
    assert!((80_000..=86_400 - 180).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn enable_refuses_a_device_that_cannot_be_notified() {
    let providers = Providers::start().await;
    let browser = Subscriber::new(3);
    let enable = async |changes: Value| {
        let valid = PushRequest::new(BOB, "n").browser("https://ntfy.example/up", &browser);
        let request = valid.options(json!({"service": "unifiedpush"})).options(changes);
        providers.pushlark.json("/enable", request).await
    };
    assert_eq!(enable(json!({})).await.status, 200);
    for (field, value) in [
        ("endpoint", "http://ntfy.example/up"),
        ("endpoint", "https://ntfy.example:8443/up"),
        ("endpoint", "https://169.254.169.254/latest"),
        ("endpoint", "https://user@ntfy.example/up"),
        ("endpoint", ""),
        ("p256dh", "BAAA"),
        ("p256dh", ""),
        ("auth", "AAAA"),
        ("auth", "?"),
        ("priority", "urgent"),
        ("time_to_live", "soon"),
    ] {
        let detail = enable(json!({field: value})).await.problem(400);
        assert!(detail.contains(field), "{field}: {detail}");
    }
    // FCM does not check the fields of Web Push.
    let other = json!({"service": "fcm", "device_id": "canary", "endpoint": "x", "auth": "x"});
    assert_eq!(enable(other).await.status, 200);
}

#[tokio::test]
async fn enable_refuses_a_form_without_service_or_device() {
    let providers = Providers::start().await;
    for (form, named) in [
        (json!({}), "\"service\""),
        (json!({"device_id": "canary"}), "\"service\""),
        (json!({"service": " ", "device_id": "canary"}), "\"service\""),
        (json!({"service": "canary-hms", "device_id": "canary"}), "apns, fcm, web-push or unifiedpush"),
        (json!({"service": "fcm"}), "\"device_id\""),
        (json!({"service": "fcm", "device_id": " "}), "\"device_id\""),
        (json!({"service": "fcm", "voip_device_id": "canary"}), "\"device_id\""),
        (json!({"service": "apns"}), "\"device_id\""),
        (json!({"service": "web-push"}), "\"endpoint\""),
    ] {
        let request = PushRequest::new(BOB, "n").form(form.clone());
        let detail = providers.pushlark.json("/enable", request).await.problem(400);
        assert!(detail.contains(named), "{form}: {detail}");
        // The push node refuses the same device.
        let fields = form.as_object().unwrap().iter();
        let fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        let enable = stanza::enable(PUSH_HOST, "n", &stanza::publish_options(&fields));
        let iq = stanza::iq("set", BOBS_PHONE, PUSH_HOST, &enable);
        let reply = providers.pushlark.post("/pubsub", XMPP, iq).await;
        assert!(reply.body.contains("<error type=\"modify\"><bad-request"), "{form}: {}", reply.body);
    }
    assert!(providers.pushlark.listed(BOB).await.is_empty());
    // An iPhone may have only a token for calls.
    let calls = json!({"service": "apns", "voip_device_id": IPHONE});
    let request = PushRequest::new(BOB, "n").form(calls);
    assert_eq!(providers.pushlark.json("/enable", request).await.status, 200);
}
