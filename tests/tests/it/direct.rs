//! Straight to the push services of devices, each a double that checks what the service checks.

use std::collections::HashSet;
use std::time::Duration;

use axum::http::Method;
use doubles::{
    APNS_KEY, APNS_KEY_ID, APNS_NEW_KEY, APNS_TEAM, APNS_TOPIC, Answer, Apns, Double, Fcm, GOOGLE_NEW_KEY, Hold,
    Receiver, Subscriber, WebPush, apns_problem, fcm_device_quota, fcm_error, planted,
};
use futures_util::future::join_all;
use local::{Options, Stack};
use pushlark_settings::Environment;
use pushlark_webhooks::Key;
use serde_json::{Value, json};
use tests::{Apart, Pushlark, ago, eventually, send};
use time::OffsetDateTime;

const BOB: &str = "bob@example.com";
const ALICE: &str = "alice@example.com";
/// The device token of an iPhone.
pub const PHONE: &str = "00fc13adff785122706c616e7465649a2341241421348097878e577c991de8f0";

/// What Google answers for a subscription that was made for another key.
const GOOGLE_KEY_MISMATCH: &str = "the VAPID credentials in the authorization header do not correspond to the credentials \
    used to create the subscriptions.\n";

/// The device token of one of many, secret as they all are.
pub fn phone_of_many(number: u32) -> String {
    format!("706c616e746564{number:08x}")
}

/// A stack that reaches the doubles.
pub struct Direct {
    pub pushlark: Pushlark,
    pub apns: Apns,
    pub fcm: Fcm,
    pub web_push: WebPush,
}

impl Direct {
    pub async fn start() -> Self {
        Self::with_settings(&[]).await
    }

    pub async fn with_settings(settings: &[(&str, &str)]) -> Self {
        let (apns, fcm, web_push) = (Apns::start().await, Fcm::start().await, WebPush::start().await);
        let credentials = credentials(&apns, &fcm).to_string();
        let own = [
            ("PUSH_SERVICE", "direct"),
            ("PUSH_CREDENTIALS", credentials.as_str()),
            ("WEB_PUSH_TRUSTED_ORIGINS", web_push.url.as_str()),
        ];
        let pushlark = Pushlark::with_settings(own.into_iter().chain(settings.iter().copied())).await;
        Self { pushlark, apns, fcm, web_push }
    }

    pub async fn enable_iphone(&self, token: &str, options: Value) {
        let mut form = json!({"service": "apns", "device_id": token});
        form.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.pushlark.enable_with(BOB, token, form).await;
    }

    async fn enable_browser(&self, device: &str, subscriber: &Subscriber, options: Value) {
        let mut form = json!({"service": "web-push", "endpoint": self.web_push.endpoint(device),
            "p256dh": subscriber.p256dh(), "auth": subscriber.auth()});
        form.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.pushlark.enable_with(BOB, device, form).await;
    }

    /// Enables a device at one of the three; gives its name at its double.
    async fn enable_at(&self, service: &str) -> (&Double, &'static str) {
        match service {
            "apns" => {
                self.enable_iphone(PHONE, json!({})).await;
                (&self.apns, PHONE)
            }
            "fcm" => {
                self.pushlark.enable(BOB, "android").await;
                (&self.fcm, "android")
            }
            _ => {
                self.enable_browser("browser", &Subscriber::new(7), json!({})).await;
                (&self.web_push, "browser")
            }
        }
    }

    /// Sends a message, and waits until all that comes of it is done.
    pub async fn message(&self, body: &str) {
        self.pushlark.message(BOB, body).await;
        self.pushlark.settled().await;
    }
}

pub fn credentials(apns: &Apns, fcm: &Fcm) -> Value {
    let apns = json!({"team_id": APNS_TEAM, "key_id": APNS_KEY_ID, "key": APNS_KEY, "topic": APNS_TOPIC,
        "url": apns.url, "dev_url": "http://127.0.0.1:1"});
    let web_push =
        json!({"key": "cGxhbnRlZHBsYW50ZWRwbGFudGVkcGxhbnRlZGtleXM", "subject": "mailto:planted@example.com"});
    json!({"default": {"apns": apns, "fcm": fcm.service_account(), "web_push": web_push}})
}

pub async fn came(double: &Double, requests: usize) {
    eventually("requests", async || (double.requests().len() >= requests).then_some(())).await;
}

#[tokio::test]
async fn an_iphone_shows_an_alert() {
    let direct = Direct::start().await;
    let options = json!({"click_action": "REPLY", "sound": "ping.aiff", "mutable_content": "true", "priority": "normal",
        "time_to_live": "600"});
    direct.enable_iphone(PHONE, options).await;
    let now = || OffsetDateTime::now_utc().unix_timestamp();
    let before = now();
    direct.message("planted Hi").await;
    let request = direct.apns.taken(PHONE).remove(0);
    let aps = json!({"alert": {"title": ALICE, "body": "planted Hi"}, "badge": 1, "category": "REPLY", "sound": "ping.aiff",
        "mutable-content": 1, "thread-id": ALICE});
    assert_eq!(request.json(), json!({"aps": aps}));
    let header = |name| request.header(name).to_owned();
    assert_eq!((header("apns-push-type"), header("apns-priority")), ("alert".into(), "5".into()));
    assert_eq!(header("apns-topic"), APNS_TOPIC);
    let sent = header("apns-expiration").parse::<i64>().unwrap() - 600;
    assert!((before..=now()).contains(&sent), "{sent}");
    assert_eq!(header("apns-collapse-id").len(), 43);
}

#[tokio::test]
async fn a_silent_iphone_is_told_in_the_background() {
    let direct = Direct::start().await;
    direct.enable_iphone(PHONE, json!({"silent": "true", "topic": APNS_TOPIC, "time_to_live": "0"})).await;
    direct.message("planted Hi").await;
    let request = direct.apns.taken(PHONE).remove(0);
    let expected = json!({"aps": {"content-available": 1}, "message-count": 1, "last-message-sender": ALICE,
        "last-message-body": "planted Hi"});
    assert_eq!(request.json(), expected);
    let header = |name| request.header(name).to_owned();
    assert_eq!((header("apns-push-type"), header("apns-priority")), ("background".into(), "5".into()));
    assert_eq!((header("apns-expiration"), header("apns-collapse-id").len()), ("0".into(), 43));
}

#[tokio::test]
async fn a_call_rings_at_once() {
    let direct = Direct::with_settings(&[("PLUGIN", "hints")]).await;
    let pushkit = "aabb706c616e74656433";
    direct.enable_iphone(PHONE, json!({"voip_device_id": pushkit})).await;
    direct.pushlark.enable(BOB, "android").await;
    let call = async |step| {
        let stanza = format!(
            "<message type='chat'><{step} xmlns='urn:xmpp:jingle-message:0' id='c1'/><store xmlns='urn:xmpp:hints'/></message>"
        );
        let event = json!({"type": "message", "from": "alice@example.com/pc", "to": BOB, "stanza": stanza});
        direct.pushlark.event(event).await;
        direct.pushlark.settled().await;
    };
    call("propose").await;
    let request = direct.apns.taken(pushkit).remove(0);
    let fields = json!({"aps": {}, "message-sender": ALICE, "jingle-message": "propose", "jingle-session-id": "c1"});
    assert_eq!(request.json(), fields);
    let header = |name| request.header(name).to_owned();
    assert_eq!((header("apns-push-type"), header("apns-priority")), ("voip".into(), "10".into()));
    assert_eq!((header("apns-topic"), header("apns-expiration")), (format!("{APNS_TOPIC}.voip"), "0".into()));
    assert_eq!(direct.fcm.taken("android")[0].json()["message"]["android"]["priority"], "HIGH");
    call("retract").await;
    assert_eq!(direct.apns.taken(pushkit).len(), 1);
    assert_eq!(direct.apns.taken(PHONE)[0].header("apns-push-type"), "background");
}

#[tokio::test]
async fn an_android_device_is_told_as_mongoosepush_tells_it() {
    let direct = Direct::start().await;
    let options = json!({"priority": "high", "click_action": "open", "sound": "ping", "time_to_live": "3600"});
    direct.pushlark.enable_with(BOB, "android", options).await;
    direct.pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    direct.message("planted Hi").await;
    let mut message = direct.fcm.taken("android")[0].json()["message"].take();
    let ttl = message["android"]["ttl"].take();
    assert!(["3600s", "3599s", "3598s"].contains(&ttl.as_str().unwrap()), "{ttl}");
    let notification = json!({"title": ALICE, "body": "planted Hi", "tag": ALICE, "click_action": "open", "sound": "ping",
        "notification_count": 1});
    let android = json!({"priority": "HIGH", "ttl": null, "notification": notification});
    assert_eq!(message, json!({"token": "planted-android", "android": android}));
    let silent = direct.fcm.taken("silent")[0].json();
    let data = json!({"message-count": "1", "last-message-sender": ALICE, "last-message-body": "planted Hi"});
    assert_eq!(silent["message"]["android"]["data"], data);
    assert_eq!(silent["message"]["android"]["notification"], Value::Null);
    assert_eq!(direct.fcm.granted(), 1);
}

#[tokio::test]
async fn a_conversation_is_not_told_when_the_sender_is_not() {
    let direct = Direct::with_settings(&[("INCLUDE_SENDER", "off")]).await;
    direct.enable_iphone(PHONE, json!({})).await;
    direct.message("planted Hi").await;
    let aps = direct.apns.taken(PHONE)[0].json()["aps"].take();
    assert_eq!(aps["thread-id"].as_str().unwrap().len(), 22);
    assert!(!aps.to_string().contains("alice"), "{aps}");
}

#[tokio::test]
async fn a_repeat_takes_the_place_of_what_it_repeats() {
    let direct = Direct::start().await;
    let silent = phone_of_many(1);
    direct.enable_iphone(PHONE, json!({})).await;
    direct.enable_iphone(&silent, json!({"silent": "true"})).await;
    direct.enable_browser("browser", &Subscriber::new(1), json!({"priority": "high"})).await;
    for device in [PHONE, &silent] {
        direct.apns.device_answers(device, apns_problem(500, "InternalServerError"));
    }
    direct.web_push.answer_next(Answer::json(503, &json!({})));
    direct.pushlark.message(BOB, "planted one").await;
    came(&direct.apns, 2).await;
    for device in [PHONE, &silent] {
        direct.apns.device_recovers(device);
    }
    direct.pushlark.settled().await;
    direct.message("two").await;
    let of = |device: &str| direct.apns.requests().into_iter().filter(|request| request.device == device).collect();
    let (loud, silent, browser): (Vec<_>, Vec<_>, _) = (of(PHONE), of(&silent), direct.web_push.requests());
    for (requests, name) in [(loud, "apns-collapse-id"), (silent, "apns-collapse-id"), (browser, "topic")] {
        let names: Vec<_> = requests.iter().map(|request| request.header(name)).collect();
        assert!(names.len() == 3 && names[0] == names[1] && names[1] != names[2], "{names:?}");
    }
    assert_eq!(direct.web_push.taken("browser")[0].header("urgency"), "high");
}

#[tokio::test]
async fn many_notifications_share_one_connection_and_one_token() {
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
        let token = phone_of_many(phone);
        pushlark.enable_with(BOB, &token, json!({"service": "apns", "device_id": token})).await;
        pushlark.enable(BOB, &format!("android-{phone}")).await;
    }
    apns.hold(Hold::FOREVER);
    fcm.hold(Hold::FOREVER);
    pushlark.message(BOB, "planted Hi").await;
    eventually("requests side by side", async || (apns.arrived() >= 10 && fcm.arrived() > 10).then_some(())).await;
    // Long enough that more than ten would meet.
    apns.hold(Duration::from_millis(50));
    fcm.hold(Duration::ZERO);
    came(&apns, 40).await;
    came(&fcm, 40).await;
    pushlark.settled().await;
    assert_eq!((apns.connections(), fcm.connections(), fcm.granted()), (1, 1, 1));
    assert!(apns.most_running() <= 10 && fcm.most_running() > 10);
    let requests = apns.requests();
    assert!(requests.iter().all(|request| request.status == 200));
    assert!(requests.iter().all(|request| request.header("authorization") == requests[0].header("authorization")));
}

#[tokio::test]
async fn a_dead_connection_is_made_anew() {
    let direct = Direct::start().await;
    direct.enable_iphone(PHONE, json!({})).await;
    direct.message("one").await;
    direct.apns.cut_connections();
    direct.message("two").await;
    assert_eq!(direct.apns.taken(PHONE).len(), 2);
}

/// What becomes of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// It is disabled at once.
    Gone,
    /// It is disabled after the third time in a row.
    Suspect,
    /// It stays, and the notification is not tried again.
    Refused,
    /// It stays, and the notification is tried again.
    Transient,
}

/// What becomes of a device of `service` for which notifications are answered so.
async fn fate(service: &str, answer: Answer) -> Fate {
    let direct = Direct::start().await;
    let (double, device) = direct.enable_at(service).await;
    fate_of(&direct.pushlark, double, device, answer).await
}

async fn fate_of(pushlark: &Pushlark, double: &Double, device: &str, answer: Answer) -> Fate {
    double.device_answers(device, answer);
    pushlark.message(BOB, "planted 1").await;
    came(double, 1).await;
    let is_repeated = eventually("a second try, or none", async || {
        let is_done = pushlark.queue_depth("QUEUE_URL").await == 0;
        (double.requests().len() >= 2).then_some(true).or(is_done.then_some(false))
    })
    .await;
    if is_repeated {
        double.device_recovers(device);
        pushlark.settled().await;
        assert_eq!(double.taken(device).len(), 1, "it is delivered later");
        return Fate::Transient;
    }
    for body in ["planted 2", "planted 3", "planted 4", "planted 5"] {
        pushlark.message(BOB, body).await;
        pushlark.settled().await;
    }
    match double.requests().len() {
        1 => Fate::Gone,
        3 => Fate::Suspect,
        5 => Fate::Refused,
        other => panic!("tried {other} times"),
    }
}

async fn check_fates(service: &str, cases: Vec<(Answer, Fate)>) {
    for cases in cases.chunks(4) {
        let fates = cases.iter().map(async |(answer, expected)| {
            assert_eq!(fate(service, answer.clone()).await, *expected, "{service}: {answer:?}");
        });
        join_all(fates).await;
    }
}

#[tokio::test]
async fn what_apple_answers_decides_on_the_device() {
    let gone = |reason, timestamp: u64| Answer::json(410, &json!({"reason": reason, "timestamp": timestamp}));
    let in_a_while = (OffsetDateTime::now_utc().unix_timestamp() as u64 + 3_600) * 1_000;
    let cases = vec![
        (gone("Unregistered", in_a_while), Fate::Gone),
        (gone("ExpiredToken", in_a_while), Fate::Gone),
        (apns_problem(410, "Unregistered"), Fate::Gone),
        // Found to be gone before it was enabled.
        (gone("Unregistered", 1_600_000_000_000), Fate::Suspect),
        (apns_problem(400, "BadDeviceToken"), Fate::Suspect),
        (apns_problem(400, "DeviceTokenNotForTopic"), Fate::Suspect),
        (apns_problem(400, "BadTopic"), Fate::Refused),
        (apns_problem(400, "TopicDisallowed"), Fate::Refused),
        (apns_problem(400, "IdleTimeout"), Fate::Transient),
        (apns_problem(403, "Forbidden"), Fate::Refused),
        (apns_problem(403, "InvalidProviderToken"), Fate::Refused),
        (apns_problem(403, "ExpiredProviderToken"), Fate::Refused),
        (apns_problem(404, "BadPath"), Fate::Refused),
        (apns_problem(413, "PayloadTooLarge"), Fate::Refused),
        (apns_problem(429, "TooManyRequests"), Fate::Transient),
        (apns_problem(429, "TooManyProviderTokenUpdates"), Fate::Transient),
        (apns_problem(500, "InternalServerError"), Fate::Transient),
        (apns_problem(503, "ServiceUnavailable"), Fate::Transient),
        (apns_problem(503, "Shutdown"), Fate::Transient),
    ];
    check_fates("apns", cases).await;
}

#[tokio::test]
async fn what_google_answers_decides_on_the_device() {
    let violation = |field| {
        let details = json!([{"@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": field, "description": "Invalid"}]}]);
        let error = json!({"code": 400, "message": "Invalid", "status": "INVALID_ARGUMENT", "details": details});
        Answer::json(400, &json!({"error": error}))
    };
    let bad_token = "The registration token is not a valid FCM registration token";
    let cases = vec![
        (fcm_error(404, "NOT_FOUND", Some("UNREGISTERED"), ""), Fate::Gone),
        (fcm_error(403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), ""), Fate::Suspect),
        (fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), bad_token), Fate::Suspect),
        (violation("message.token"), Fate::Suspect),
        (violation("message.android.data"), Fate::Refused),
        (fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "Message is too big"), Fate::Refused),
        (fcm_error(401, "UNAUTHENTICATED", Some("THIRD_PARTY_AUTH_ERROR"), ""), Fate::Refused),
        (fcm_error(403, "PERMISSION_DENIED", None, ""), Fate::Refused),
        // Another project's.
        (fcm_error(404, "NOT_FOUND", None, ""), Fate::Refused),
        (fcm_error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), "").with("retry-after", "1"), Fate::Transient),
        (fcm_device_quota(), Fate::Transient),
        (fcm_error(500, "INTERNAL", Some("INTERNAL"), ""), Fate::Transient),
        (fcm_error(503, "UNAVAILABLE", Some("UNAVAILABLE"), "").with("retry-after", "1"), Fate::Transient),
    ];
    check_fates("fcm", cases).await;
}

#[tokio::test]
async fn what_a_server_of_web_push_answers_decides_on_the_device() {
    let answer = |status| Answer::json(status, &json!({}));
    let cases = vec![
        (answer(404), Fate::Gone),
        (answer(410), Fate::Gone),
        // A redirect is not followed.
        (answer(307).with("location", "http://127.0.0.1:1/"), Fate::Refused),
        (answer(400), Fate::Refused),
        (answer(401), Fate::Refused),
        // As a service says that is not known to say more.
        (answer(403), Fate::Suspect),
        // The signature is wrong, and so for all: by Apple, Google, Mozilla and Microsoft.
        (Answer::json(403, &json!({"reason": "BadJwtToken"})), Fate::Refused),
        (Answer::text(403, "permission denied: invalid JWT provided\n"), Fate::Refused),
        (Answer::json(401, &json!({"errno": 109, "message": "Invalid VAPID token"})), Fate::Refused),
        (answer(403).with("x-wns-error-description", "JWT Authentication Failed"), Fate::Refused),
        // The subscription is for another key: by Apple, Google and Mozilla.
        (Answer::json(400, &json!({"reason": "VapidPkHashMismatch"})), Fate::Suspect),
        (Answer::text(403, GOOGLE_KEY_MISMATCH), Fate::Suspect),
        (Answer::json(401, &json!({"errno": 109, "message": "VAPID public key mismatch"})), Fate::Suspect),
        (answer(406), Fate::Refused),
        (answer(406).with("retry-after", "1"), Fate::Transient),
        (answer(429).with("retry-after", "1"), Fate::Transient),
        (answer(500), Fate::Transient),
        (answer(503), Fate::Transient),
    ];
    check_fates("web-push", cases).await;
}

#[tokio::test]
async fn what_ones_own_push_service_answers_decides_on_the_device() {
    let answer = |status| Answer::json(status, &json!({}));
    for (answer, expected) in [
        (answer(410), Fate::Gone),
        (answer(302).with("location", "/elsewhere"), Fate::Refused),
        (answer(400), Fate::Refused),
        (answer(401), Fate::Refused),
        (answer(404), Fate::Refused),
        (answer(429).with("retry-after", "1"), Fate::Transient),
        (answer(500), Fate::Transient),
        (answer(503), Fate::Transient),
    ] {
        let receiver = Receiver::start().await;
        let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "planted-secret-key")];
        let pushlark = Pushlark::with_settings(settings).await;
        pushlark.enable(BOB, "device").await;
        assert_eq!(fate_of(&pushlark, &receiver, "device", answer.clone()).await, expected, "{answer:?}");
        let ids: Vec<_> = receiver.requests().iter().map(|request| request.header("webhook-id").to_owned()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len() == 1, expected != Fate::Refused, "the same at every try");
    }
}

#[tokio::test]
async fn a_suspicion_ends_with_a_success_or_a_new_registration() {
    let direct = Direct::with_settings(&[("DISABLE_AFTER_SUSPECTS", "2")]).await;
    direct.enable_iphone(PHONE, json!({})).await;
    let bad = apns_problem(400, "BadDeviceToken");
    direct.apns.answer_next(bad.clone());
    direct.message("suspected").await;
    direct.message("cleared").await;
    direct.apns.answer_next(bad.clone());
    direct.message("suspected again").await;
    direct.enable_iphone(PHONE, json!({})).await;
    direct.apns.answer_next(bad.clone());
    direct.message("suspected anew").await;
    direct.message("cleared").await;
    assert_eq!(direct.apns.taken(PHONE).len(), 2);
    direct.apns.device_answers(PHONE, bad);
    for body in ["one", "two", "three"] {
        direct.message(body).await;
    }
    assert_eq!(direct.apns.requests().len(), 7);
}

#[tokio::test]
async fn when_most_devices_are_called_gone_the_others_stay() {
    let direct = Direct::with_settings(&[("DISABLE_MAX_PERCENT", "25")]).await;
    for phone in 0..12 {
        let token = phone_of_many(phone);
        direct.enable_iphone(&token, json!({})).await;
        direct.apns.device_answers(&token, apns_problem(410, "Unregistered"));
    }
    direct.message("one").await;
    assert_eq!(direct.apns.requests().len(), 12);
    direct.message("two").await;
    // No delivery is known: of ten answers, a quarter is two.
    assert_eq!(direct.apns.requests().len(), 12 + 10);
}

#[tokio::test]
async fn the_time_that_a_service_asks_for_is_kept() {
    let direct = Direct::start().await;
    for service in ["apns", "fcm", "web-push"] {
        let (double, _) = direct.enable_at(service).await;
        double.answer_next(Answer::json(503, &json!({})).with("retry-after", "3"));
    }
    direct.message("planted Hi").await;
    for double in [&*direct.apns as &Double, &direct.fcm, &direct.web_push] {
        let requests = double.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests[1].at - requests[0].at >= Duration::from_millis(2_900));
    }
}

#[tokio::test]
async fn a_token_that_google_took_back_is_fetched_anew() {
    let direct = Direct::start().await;
    direct.pushlark.enable(BOB, "android").await;
    direct.message("one").await;
    direct.fcm.revoke_tokens();
    direct.message("two").await;
    assert_eq!((direct.fcm.taken("android").len(), direct.fcm.granted()), (2, 2));
}

#[tokio::test]
async fn without_an_access_token_a_notification_waits_or_is_refused() {
    let direct = Direct::start().await;
    direct.pushlark.enable(BOB, "android").await;
    direct.message("one").await;
    direct.fcm.revoke_tokens();
    direct.fcm.fail_next_grant(Answer::json(503, &json!({})));
    direct.message("two").await;
    assert_eq!(direct.fcm.taken("android").len(), 2, "it waited");
    direct.fcm.revoke_tokens();
    direct.fcm.fail_next_grant(Answer::json(400, &json!({"error": "invalid_client"})));
    direct.message("three").await;
    assert_eq!(direct.fcm.taken("android").len(), 2, "it was refused");
    // The refusal stands for a second.
    eventually("a token", async || {
        direct.message("four").await;
        (direct.fcm.taken("android").len() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn credentials_that_changed_are_read_again() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    let file = std::env::temp_dir().join(format!("pushlark-credentials-{}.json", std::process::id()));
    std::fs::write(&file, credentials.to_string()).unwrap();
    let path = format!("file:{}", file.display());
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", path.as_str())];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable_with(BOB, PHONE, json!({"service": "apns", "device_id": PHONE})).await;
    pushlark.enable(BOB, "android").await;
    pushlark.message(BOB, "one").await;
    pushlark.settled().await;
    credentials["default"]["apns"]["key"] = APNS_NEW_KEY.into();
    credentials["default"]["fcm"]["private_key"] = GOOGLE_NEW_KEY.into();
    std::fs::write(&file, credentials.to_string()).unwrap();
    apns.change_key();
    fcm.change_key();
    pushlark.message(BOB, "two").await;
    pushlark.settled().await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!((apns.taken(PHONE).len(), fcm.taken("android").len()), (2, 2));
}

/// The host that is published to says whose credentials are used, whatever a user enables or a server publishes.
#[tokio::test]
async fn no_push_nodes_options_choose_an_app() {
    let (apns, fcm, other) = (Apns::start().await, Fcm::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    credentials["other"] = json!({"fcm": other.service_account()});
    let credentials = credentials.to_string();
    let direct = Direct::with_settings(&[("PUSH_CREDENTIALS", credentials.as_str())]).await;
    let form = |device: &str| {
        let field = |name: &str, value: &str| format!("<field var='{name}'><value>{value}</value></field>");
        let fields = field("FORM_TYPE", "http://jabber.org/protocol/pubsub#publish-options");
        let fields = fields + &field("service", "fcm") + &field("device_id", &planted(device)) + &field("app", "other");
        format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>")
    };
    let enable = format!("<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'>{}</enable>", form("known"));
    let publish = |options: &str| {
        format!(
            "<pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='n'><item>\
             <notification xmlns='urn:xmpp:push:0'/></item></publish>{options}</pubsub>"
        )
    };
    let given = format!("<publish-options>{}</publish-options>", form("given"));
    for (id, payload) in [("1", enable), ("2", publish("")), ("3", publish(&given))] {
        let iq = format!("<iq type='set' id='{id}' from='{BOB}' to='push.example.com'>{payload}</iq>");
        let reply = direct.pushlark.post("/pubsub", "application/xmpp+xml", iq).await;
        assert!(reply.body.contains("result"), "{}", reply.body);
    }
    direct.pushlark.settled().await;
    assert_eq!((fcm.taken("known").len(), fcm.taken("given").len(), other.count()), (1, 1, 0));
}

#[tokio::test]
async fn an_app_is_chosen_by_the_form_or_by_the_host() {
    let (apns, fcm, other) = (Apns::start().await, Fcm::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    credentials["other"] = json!({"hosts": ["other.@HOST@"], "fcm": other.service_account()});
    // Another provider at Apple, which does not know it.
    let mut of_another = credentials["default"]["apns"].clone();
    of_another["key_id"] = "OTHER12345".into();
    credentials["stranger"] = json!({"apns": of_another});
    // Wrong for one provider, and so for it alone.
    credentials["broken"] = json!({"fcm": {"project_id": "x"}, "apns": credentials["default"]["apns"]});
    let credentials = credentials.to_string();
    let hosts = "push.@HOST@,other.@HOST@";
    let settings =
        [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("VIRTUAL_PUBSUB_HOSTS", hosts)];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable(BOB, "default").await;
    pushlark.enable_with(BOB, "named", json!({"app": "other"})).await;
    let form = json!({"service": "fcm", "device_id": "planted-by-host"});
    let at_host = json!({"user": BOB, "jid": "other.example.com", "node": "by-host", "form": form});
    assert_eq!(pushlark.json("/enable", at_host).await.status, 200);
    pushlark.enable_with(BOB, "broken", json!({"app": "broken"})).await;
    pushlark.enable_with(BOB, "unknown", json!({"app": "unknown"})).await;
    pushlark.enable_with(BOB, PHONE, json!({"app": "broken", "service": "apns"})).await;
    pushlark.enable_with(BOB, "0123706c616e746564", json!({"app": "stranger", "service": "apns"})).await;
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    let taken = |double: &Fcm| {
        let mut devices: Vec<_> = double.requests().into_iter().map(|request| request.device).collect();
        devices.sort();
        devices
    };
    assert_eq!((taken(&fcm), taken(&other)), (vec!["default".into()], vec!["by-host".into(), "named".into()]));
    assert_eq!(apns.taken(PHONE).len(), 1);
    let requests = apns.requests();
    let stranger = requests.iter().find(|request| request.device == "0123706c616e746564").unwrap();
    let phone = requests.iter().find(|request| request.device == PHONE).unwrap();
    assert_eq!(stranger.status, 403);
    assert_ne!(stranger.connection, phone.connection, "each provider has its connection");
}

#[tokio::test]
async fn a_form_that_makes_no_request_is_refused_and_stops_no_other() {
    let direct = Direct::start().await;
    direct.enable_iphone(PHONE, json!({})).await;
    for number in 0..8 {
        direct.enable_iphone(&phone_of_many(number), json!({"topic": format!("a\nb{number}")})).await;
    }
    let form = json!({"service": "apns", "device_id": "706c616e746564".repeat(150)});
    direct.pushlark.enable_with(BOB, "long", form).await;
    direct.message("one").await;
    direct.message("two").await;
    assert_eq!((direct.apns.taken(PHONE).len(), direct.apns.requests().len()), (2, 2));
}

#[tokio::test]
async fn where_a_notification_goes_is_explained() {
    let direct = Direct::start().await;
    direct.enable_iphone(PHONE, json!({})).await;
    direct.pushlark.enable(BOB, "android").await;
    direct.enable_browser("browser", &Subscriber::new(3), json!({})).await;
    let event =
        json!({"type": "message", "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "planted Hi"});
    let explained = direct.pushlark.json("/explain", json!({"explain": [event]})).await.json();
    let publications = explained["explained"][0]["recipients"][0]["publications"].as_array().unwrap();
    let targets: Vec<_> = publications.iter().map(|publication| publication["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["APNs", "FCM", "Web Push"]);
    assert!(direct.apns.requests().is_empty());
}

#[tokio::test]
async fn a_setting_that_is_missing_or_wrong_is_named() {
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
async fn connections_and_tokens_are_there_before_the_first_notification() {
    let direct = Direct::start().await;
    let apart = Apart::beside(direct.pushlark).await;
    apart.worker.warm_up().await;
    assert_eq!((direct.apns.connections(), direct.fcm.connections(), direct.fcm.granted()), (1, 1, 1));
}

#[tokio::test]
async fn a_text_is_shortened_to_what_a_service_takes() {
    let direct = Direct::with_settings(&[]).await;
    direct.enable_iphone(PHONE, json!({})).await;
    direct.pushlark.enable(BOB, "android").await;
    direct.pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    direct.enable_browser("browser", &Subscriber::new(9), json!({})).await;
    // One grapheme of 25 bytes.
    let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
    direct.message(&family.repeat(400)).await;
    let shortened = |text: &Value| {
        let graphemes = text.as_str().unwrap().strip_suffix('…').unwrap().to_owned();
        assert!(graphemes.len() > 3_000 && graphemes.len().is_multiple_of(family.len()), "{}", graphemes.len());
    };
    let request = direct.apns.taken(PHONE).remove(0);
    assert!((4_060..=4_096).contains(&request.body.len()));
    shortened(&request.json()["aps"]["alert"]["body"]);
    shortened(&direct.fcm.taken("android")[0].json()["message"]["android"]["notification"]["body"]);
    shortened(&direct.fcm.taken("silent")[0].json()["message"]["android"]["data"]["last-message-body"]);
    assert!((4_060..=4_096).contains(&direct.web_push.taken("browser")[0].body.len()));
}

#[tokio::test]
async fn a_provider_that_fails_for_many_does_not_hold_up_its_neighbour() {
    let settings = [("WORKER_CONCURRENCY", "2"), ("PUBLISH_TIMEOUT_MS", "500"), ("MAX_NODES", "30")];
    let direct = Direct::with_settings(&settings).await;
    direct.apns.hold(Hold::FOREVER);
    for phone in 0..30 {
        direct.enable_iphone(&phone_of_many(phone), json!({})).await;
    }
    direct.pushlark.enable("carol@example.com", "android").await;
    direct.pushlark.message(BOB, "one").await;
    direct.pushlark.message("carol@example.com", "two").await;
    came(&direct.fcm, 1).await;
    // Not each of the thirty was tried before the neighbour.
    assert!(direct.apns.arrived() < 30, "{}", direct.apns.arrived());
    direct.apns.hold(Duration::ZERO);
    direct.pushlark.settled().await;
    for phone in 0..30 {
        assert!(!direct.apns.taken(&phone_of_many(phone)).is_empty(), "{phone}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_where_it_is_enabled() {
    let direct = Direct::start().await;
    let browser = Subscriber::new(3);
    let fine = json!({"service": "unifiedpush", "endpoint": "https://ntfy.example/up", "p256dh": browser.p256dh(),
        "auth": browser.auth()});
    let enable = async |changes: Value| {
        let mut form = fine.clone();
        form.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        direct
            .pushlark
            .json("/enable", json!({"user": BOB, "jid": "push.example.com", "node": "n", "form": form}))
            .await
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
    // Another service's fields are its own.
    let other = json!({"service": "fcm", "device_id": "planted", "endpoint": "x", "auth": "x"});
    assert_eq!(enable(other).await.status, 200);
}

#[tokio::test]
async fn a_form_that_names_no_service_or_device_is_refused_with_the_field() {
    let direct = Direct::start().await;
    for (form, named) in [
        (json!({}), "\"service\""),
        (json!({"device_id": "planted"}), "\"service\""),
        (json!({"service": " ", "device_id": "planted"}), "\"service\""),
        (json!({"service": "planted-hms", "device_id": "planted"}), "apns, fcm, web-push or unifiedpush"),
        (json!({"service": "fcm"}), "\"device_id\""),
        (json!({"service": "fcm", "device_id": " "}), "\"device_id\""),
        (json!({"service": "fcm", "voip_device_id": "planted"}), "\"device_id\""),
        (json!({"service": "apns"}), "\"device_id\""),
        (json!({"service": "web-push"}), "\"endpoint\""),
    ] {
        let request = json!({"user": BOB, "jid": "push.example.com", "node": "n", "form": form});
        let detail = direct.pushlark.json("/enable", request).await.problem(400);
        assert!(detail.contains(named), "{form}: {detail}");
        // The push node refuses the same device.
        let field = |(name, value): (&String, &Value)| {
            format!("<field var='{name}'><value>{}</value></field>", value.as_str().unwrap())
        };
        let fields: String = form.as_object().unwrap().iter().map(field).collect();
        let form_type =
            "<field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>";
        let enable = format!(
            "<iq type='set' from='{BOB}/phone' to='push.example.com' id='e1'>\
             <enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'>\
             <x xmlns='jabber:x:data' type='submit'>{form_type}{fields}</x></enable></iq>"
        );
        let reply = direct.pushlark.post("/pubsub", "application/xmpp+xml", enable).await;
        assert!(reply.body.contains("<error type=\"modify\"><bad-request"), "{form}: {}", reply.body);
    }
    let list = direct.pushlark.http.get(format!("{}/enable?user={BOB}", direct.pushlark.stack.url));
    assert_eq!(send(list).await.json()["registrations"], json!([]));
    // An iPhone may be there for calls alone.
    let calls = json!({"service": "apns", "voip_device_id": PHONE});
    let request = json!({"user": BOB, "jid": "push.example.com", "node": "n", "form": calls});
    assert_eq!(direct.pushlark.json("/enable", request).await.status, 200);
}

#[tokio::test]
async fn an_endpoint_that_resolves_to_no_public_address_is_not_called() {
    let direct = Direct::start().await;
    let inside = WebPush::start().await;
    let by_name = inside.url.replace("http://127.0.0.1", "https://localhost");
    let browser = Subscriber::new(3);
    let form = json!({"service": "web-push", "endpoint": "https://localhost/push/x", "p256dh": browser.p256dh(),
        "auth": browser.auth()});
    let request = |form: Value| json!({"user": BOB, "jid": "push.example.com", "node": "inside", "form": form});
    assert_eq!(direct.pushlark.json("/enable", request(form.clone())).await.status, 200);
    let mut other_port = form;
    other_port["endpoint"] = format!("{by_name}/push/x").into();
    assert_eq!(direct.pushlark.json("/enable", request(other_port)).await.status, 400);
    // It is refused, not repeated.
    direct.message("planted Hi").await;
    assert_eq!(inside.connections(), 0);
}

#[tokio::test]
async fn a_notification_that_outlived_its_time_is_not_sent() {
    let direct = Direct::start().await;
    direct.enable_iphone(PHONE, json!({"time_to_live": "120"})).await;
    direct.pushlark.enable(BOB, "android").await;
    let late = json!({"type": "message", "at": ago(180), "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "planted: late"});
    direct.pushlark.event(late).await;
    direct.pushlark.settled().await;
    assert_eq!((direct.apns.requests().len(), direct.fcm.taken("android").len()), (0, 1));
    let ttl = direct.fcm.taken("android")[0].json()["message"]["android"]["ttl"].as_str().unwrap().to_owned();
    let ttl: u32 = ttl.trim_end_matches('s').parse().unwrap();
    assert!((80_000..=86_400 - 180).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn an_origin_is_trusted_with_its_port_and_not_its_host() {
    let direct = Direct::with_settings(&[("WEB_PUSH_TRUSTED_ORIGINS", "https://localhost:8443")]).await;
    let browser = Subscriber::new(3);
    let form = json!({"service": "web-push", "endpoint": "https://localhost/push/x", "p256dh": browser.p256dh(),
        "auth": browser.auth()});
    let request = json!({"user": BOB, "jid": "push.example.com", "node": "inside", "form": form});
    assert_eq!(direct.pushlark.json("/enable", request).await.status, 200);
    // It is refused: a connection that fails would be tried again.
    direct.message("planted Hi").await;
}

#[tokio::test]
async fn the_secret_of_ones_own_push_service_is_read_again_when_it_is_refused() {
    let file = std::env::temp_dir().join(format!("pushlark-push-service-{}", std::process::id()));
    std::fs::write(&file, "planted-first-secret").unwrap();
    let setting = format!("file:{}", file.display());
    for refusal in [401, 403] {
        std::fs::write(&file, "planted-first-secret").unwrap();
        let receiver = Receiver::start().await;
        let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", setting.as_str())];
        let pushlark = Pushlark::with_settings(settings).await;
        pushlark.enable(BOB, "device").await;
        pushlark.message(BOB, "planted one").await;
        pushlark.settled().await;
        std::fs::write(&file, "planted-second-secret").unwrap();
        receiver.answer_next(Answer::json(refusal, &json!({})));
        pushlark.message(BOB, "planted two").await;
        pushlark.settled().await;
        let notifications: Vec<_> = receiver.requests().into_iter().filter(|r| r.method == Method::POST).collect();
        let signed_by = |secret: &str| {
            let key = Key::new(secret).unwrap();
            let is_signed = |request: &doubles::Request| {
                let [id, timestamp] = ["webhook-id", "webhook-timestamp"].map(|name| request.header(name));
                request.header("webhook-signature") == key.sign(id, timestamp.parse().unwrap(), &request.body)
            };
            notifications.iter().map(is_signed).collect::<Vec<_>>()
        };
        assert_eq!(signed_by("planted-first-secret"), [true, true, false]);
        assert_eq!(signed_by("planted-second-secret"), [false, false, true]);
        assert_eq!(notifications[1].header("webhook-id"), notifications[2].header("webhook-id"));
    }
    std::fs::remove_file(file).unwrap();
}
