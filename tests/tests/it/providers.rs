//! The rules that APNs, FCM, MongoosePush and one's own push service have of their own.

use std::time::Duration;

use doubles::{
    APNS_KEY_SEC1, Answer, Apns, Double, Fcm, GOOGLE_KEY_PKCS1, GOOGLE_NEW_KEY, Receiver, apns_problem,
    fcm_device_quota, fcm_project_quota, fcm_too_big,
};
use local::Options;
use pushlark_plugin::{Defaults, Event, Payload, Plugin, Plugins, Rule};
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tests::{Pushlark, eventually, in_fast_motion, logged};

use crate::direct::{Direct, PHONE, came, credentials, phone_of_many};

const BOB: &str = "bob@example.com";

/// Five devices of Bob's fail at once, and then recover; the provider has two connections afterwards.
async fn check_replacement(direct: &Direct, double: &Double, devices: &[String], failure: Answer) {
    direct.message("planted: before").await;
    assert_eq!(double.connections(), 1);
    for device in devices {
        double.device_answers(device, failure.clone());
    }
    direct.pushlark.message(BOB, "planted: fails").await;
    came(double, 2 * devices.len()).await;
    for device in devices {
        double.device_recovers(device);
    }
    direct.pushlark.settled().await;
    direct.message("planted: after").await;
    assert_eq!(double.connections(), 2, "{failure:?}");
    let requests = double.requests();
    let last = requests.last().unwrap();
    assert_eq!((last.status, last.connection), (200, 1));
    for device in devices {
        assert_eq!(double.taken(device).len(), 3);
    }
}

#[tokio::test]
async fn a_connection_to_apple_that_fails_five_times_in_a_row_is_replaced() {
    for failure in [apns_problem(500, "InternalServerError"), apns_problem(429, "TooManyProviderTokenUpdates")] {
        let direct = Direct::start().await;
        let phones: Vec<_> = (0..5).map(phone_of_many).collect();
        for phone in &phones {
            direct.enable_iphone(phone, json!({})).await;
        }
        check_replacement(&direct, &direct.apns, &phones, failure).await;
    }
}

#[tokio::test]
async fn a_connection_to_google_that_fails_five_times_in_a_row_is_replaced() {
    let direct = Direct::start().await;
    let devices: Vec<_> = (0..5).map(|number| format!("android-{number}")).collect();
    for device in &devices {
        direct.pushlark.enable(BOB, device).await;
    }
    check_replacement(&direct, &direct.fcm, &devices, Answer::json(503, &json!({}))).await;
}

#[tokio::test]
async fn a_connection_that_fails_for_some_stays() {
    let direct = Direct::start().await;
    for number in 0..9 {
        direct.enable_iphone(&phone_of_many(number), json!({})).await;
    }
    // A limit of the device's tells nothing of the connection.
    for number in 0..6 {
        direct.apns.device_answers(&phone_of_many(number), apns_problem(429, "TooManyRequests"));
    }
    direct.apns.device_answers(&phone_of_many(6), apns_problem(503, "ServiceUnavailable"));
    direct.pushlark.message(BOB, "planted").await;
    came(&direct.apns, 9).await;
    (0..7).for_each(|number| direct.apns.device_recovers(&phone_of_many(number)));
    direct.pushlark.settled().await;
    assert_eq!(direct.apns.connections(), 1);
}

#[tokio::test]
async fn what_an_idle_connection_did_not_take_goes_by_another_one_at_once() {
    let direct = Direct::start().await;
    direct.enable_iphone(PHONE, json!({})).await;
    direct.message("one").await;
    direct.apns.answer_next(apns_problem(400, "IdleTimeout"));
    direct.message("two").await;
    let requests = direct.apns.requests();
    let seen: Vec<_> = requests.iter().map(|request| (request.status, request.connection)).collect();
    assert_eq!(seen, [(200, 0), (400, 0), (200, 1)]);
    assert!(requests[2].at - requests[1].at < Duration::from_millis(900), "it is not a try of its own");
}

#[tokio::test]
async fn a_device_that_google_limits_is_tried_again_before_the_projects_minute_is_over() {
    let direct = Direct::start().await;
    direct.pushlark.enable(BOB, "limited").await;
    direct.fcm.answer_next(fcm_device_quota());
    direct.message("planted").await;
    let requests = direct.fcm.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].at - requests[0].at < Duration::from_secs(50));
}

#[tokio::test]
async fn a_project_that_google_limits_is_left_alone_for_a_minute() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let credentials = credentials(&apns, &fcm).to_string();
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
    let environment = Environment::from_iter(settings);
    let pushlark = Pushlark::with(Options { environment, ..in_fast_motion(60) }).await;
    pushlark.enable(BOB, "android").await;
    fcm.answer_next(fcm_project_quota());
    pushlark.message(BOB, "planted").await;
    came(&fcm, 2).await;
    let requests = fcm.requests();
    // A minute of the queue's is a second.
    let wait = requests[1].at - requests[0].at;
    assert!(wait >= Duration::from_millis(950), "{wait:?}");
}

/// A plugin whose notifications have fields of its own.
struct With(&'static [(&'static str, &'static str)]);

impl Plugin for With {
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        let payload = Defaults.prepare_notification(event)?;
        Ok(self.0.iter().fold(payload, |payload, (name, value)| payload.with(*name, *value)))
    }
}

const RESERVED: &[(&str, &str)] = &[
    ("from", "planted"),
    ("message_type", "planted"),
    ("collapse_key", "planted"),
    ("google.sent_time", "planted"),
    ("gcm.notification.e", "planted"),
    ("from_user", "kept"),
    ("count", "7"),
];

#[tokio::test]
async fn reserved_fields_are_left_out_for_google_with_one_warning() {
    let Some(lines) = logged("providers::reserved_fields_are_left_out_for_google_with_one_warning") else {
        let (apns, fcm) = (Apns::start().await, Fcm::start().await);
        let credentials = credentials(&apns, &fcm).to_string();
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("PLUGIN", "with")];
        let plugins = Plugins::built_in().with("with", With(RESERVED));
        let options = Options { plugins, environment: Environment::from_iter(settings), ..Options::default() };
        let pushlark = Pushlark::with(options).await;
        pushlark.enable(BOB, "loud").await;
        pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
        for body in ["planted one", "planted two"] {
            pushlark.message(BOB, body).await;
            pushlark.settled().await;
        }
        let android = |device| fcm.taken(device)[1].json()["message"]["android"].take();
        assert_eq!(android("loud")["data"], json!({"from_user": "kept", "count": "7"}));
        assert_eq!(android("loud")["notification"]["notification_count"], 1);
        let summary = json!({"from_user": "kept", "count": "7", "message-count": "1",
            "last-message-sender": "alice@example.com", "last-message-body": "planted two"});
        assert_eq!(android("silent")["data"], summary);
        return;
    };
    let of_fcm = |line: &&Value| line["target"] == "pushlark_delivery::fcm";
    let warnings: Vec<_> = lines.iter().filter(of_fcm).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["level"], "WARN");
    assert_eq!(warnings[0]["message"], "a field is left out of notifications by FCM, since Google reserves its name");
    assert!(RESERVED[..5].iter().any(|(name, _)| warnings[0]["field"] == *name), "{warnings:?}");
}

#[tokio::test]
async fn reserved_fields_are_left_out_of_what_mongoosepush_sends_to_google() {
    let plugins = Plugins::built_in().with("with", With(RESERVED));
    let environment = Environment::from_iter([("PLUGIN", "with")]);
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    pushlark.enable(BOB, "android").await;
    pushlark.enable_with(BOB, "iphone", json!({"service": "apns"})).await;
    pushlark.message(BOB, "planted Hi").await;
    let data = async |device| pushlark.notified(device, 1).await.remove(0)["notification"]["data"].take();
    assert_eq!(data("android").await, json!({"from_user": "kept", "count": "7"}));
    assert_eq!(data("iphone").await.as_object().unwrap().len(), RESERVED.len());
}

/// Texts that are long in one encoding or another.
fn long_texts() -> [String; 4] {
    [
        "planted ".repeat(750),
        "\"\\\n".repeat(2_000),
        "👨\u{200d}👩\u{200d}👧\u{200d}👦".repeat(400),
        "planted é".repeat(9_000),
    ]
}

#[tokio::test]
async fn mongoosepush_gets_what_apple_and_google_take() {
    for api in ["v2", "v3"] {
        let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", api)]).await;
        let options = json!({"mode": "prod", "priority": "high", "click_action": "open", "sound": "default",
            "mutable_content": "true", "time_to_live": "86400"});
        for service in ["apns", "fcm"] {
            let mut loud = options.clone();
            loud["service"] = service.into();
            pushlark.enable_with(BOB, &format!("{service}-loud"), loud).await;
            let silent = json!({"service": service, "silent": "true"});
            pushlark.enable_with(BOB, &format!("{service}-silent"), silent).await;
        }
        for (number, text) in long_texts().iter().enumerate() {
            pushlark.message(BOB, text).await;
            pushlark.settled().await;
            for (device, field) in [
                ("apns-loud", "/alert/body"),
                ("fcm-loud", "/alert/body"),
                ("apns-silent", "/data/last-message-body"),
                ("fcm-silent", "/data/last-message-body"),
            ] {
                let notifications = pushlark.notifications(device).await;
                assert_eq!(notifications.len(), number + 1, "each is taken at once: {device}");
                let last = &notifications[number];
                assert_eq!(last["status"], 200);
                let sent = last["notification"].pointer(field).unwrap().as_str().unwrap();
                assert!(text.starts_with(sent.strip_suffix('…').unwrap()), "{device}");
                assert!((3_950..=4_096).contains(&last["notification"].to_string().len()), "{device}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_too_large_for_mongoosepush_is_sent_once_more_and_shorter() {
    let text = "planted ".repeat(700);
    for (api, answer) in [
        ("v3", json!({"status": 413, "body": {"reason": "payload_too_large"}})),
        ("v2", json!({"status": 500, "body": {"details": "PayloadTooLarge"}})),
    ] {
        let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", api)]).await;
        pushlark.enable(BOB, "phone").await;
        pushlark.device_answers("phone", answer).await;
        pushlark.message(BOB, &text).await;
        pushlark.settled().await;
        let lengths = async || {
            let notifications = pushlark.notifications("phone").await;
            notifications.iter().map(|n| n["notification"].to_string().len()).collect::<Vec<_>>()
        };
        let sent = lengths().await;
        assert!(sent.len() == 2 && sent[0] > 4_000 && (1_900..=2_048).contains(&sent[1]), "{api}: {sent:?}");
        // A short text is not what makes it too large; the device stays.
        pushlark.message(BOB, "planted Hi").await;
        pushlark.settled().await;
        assert_eq!(lengths().await.len(), 3, "{api}");
    }
}

#[tokio::test]
async fn what_is_too_large_for_apple_or_google_is_sent_once_more_and_shorter() {
    let direct = Direct::start().await;
    direct.enable_iphone(PHONE, json!({})).await;
    direct.pushlark.enable(BOB, "android").await;
    direct.apns.answer_next(apns_problem(413, "PayloadTooLarge"));
    direct.fcm.answer_next(fcm_too_big());
    let text = "planted ".repeat(700);
    direct.message(&text).await;
    for (double, device, pointer) in [
        (&*direct.apns as &Double, PHONE, "/aps/alert/body"),
        (&direct.fcm, "android", "/message/android/notification/body"),
    ] {
        let taken = double.taken(device).remove(0).json();
        let shorter = taken.pointer(pointer).unwrap().as_str().unwrap().strip_suffix('…').unwrap();
        assert!(text.starts_with(shorter) && (1_500..2_048).contains(&shorter.len()), "{}", shorter.len());
        assert_eq!(double.requests().len(), 2);
    }
}

#[tokio::test]
async fn ones_own_push_service_gets_all_of_a_text_unless_it_is_too_large() {
    let receiver = Receiver::start().await;
    let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "planted-secret-key")];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable(BOB, "device").await;
    let text = "planted ".repeat(2_000);
    pushlark.message(BOB, &text).await;
    pushlark.settled().await;
    receiver.answer_next(Answer::json(413, &json!({})));
    pushlark.message(BOB, &text).await;
    pushlark.settled().await;
    let requests = receiver.requests();
    assert_eq!(requests.iter().map(|request| request.status).collect::<Vec<_>>(), [204, 413, 204]);
    let body = |request: &doubles::Request| request.json()["payload"]["last-message-body"].as_str().unwrap().to_owned();
    assert_eq!([body(&requests[0]), body(&requests[1])], [text.clone(), text.clone()]);
    assert!((4_050..=4_096).contains(&requests[2].body.len()), "{}", requests[2].body.len());
    assert!(text.starts_with(body(&requests[2]).strip_suffix('…').unwrap()));
    assert_eq!(requests[1].header("webhook-id"), requests[2].header("webhook-id"));
}

#[tokio::test]
async fn a_device_that_mongoosepush_v2_suspects_is_disabled_after_the_third_time() {
    for details in ["Unregistered", "UNREGISTERED", "BadDeviceToken", "probably_unregistered"] {
        let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", "v2")]).await;
        pushlark.enable(BOB, "phone").await;
        pushlark.device_answers("phone", json!({"status": 500, "body": {"details": details}})).await;
        for number in 0..5 {
            pushlark.message(BOB, &format!("planted {number}")).await;
            pushlark.settled().await;
        }
        assert_eq!(pushlark.notifications("phone").await.len(), 3, "{details}");
    }
}

#[tokio::test]
async fn a_date_that_is_past_asks_for_no_delay() {
    for retry_after in ["0", "-1", "Sunday, 06-Nov-94 08:49:37 GMT"] {
        let direct = Direct::start().await;
        direct.enable_iphone(PHONE, json!({})).await;
        direct.apns.answer_next(apns_problem(503, "ServiceUnavailable").with("retry-after", retry_after));
        direct.message("planted").await;
        let requests = direct.apns.requests();
        let wait = requests[1].at - requests[0].at;
        assert!(wait >= Duration::from_millis(400), "the own delay: {wait:?}");
    }
}

#[tokio::test]
async fn keys_in_older_forms_and_with_the_line_breaks_of_environment_files_are_taken() {
    let one_line = |pem: &str| pem.replace('\n', "\\n");
    for write in [str::to_owned as fn(&str) -> String, one_line] {
        let (apns, fcm) = (Apns::start().await, Fcm::start().await);
        for older in [false, true] {
            let mut credentials = credentials(&apns, &fcm);
            let keys = [("apns", "key", APNS_KEY_SEC1), ("fcm", "private_key", GOOGLE_KEY_PKCS1)];
            for (provider, field, key) in keys {
                let own = credentials["default"][provider][field].as_str().unwrap().to_owned();
                credentials["default"][provider][field] = write(if older { key } else { &own }).into();
            }
            let credentials = credentials.to_string();
            let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
            let pushlark = Pushlark::with_settings(settings).await;
            pushlark.enable_with(BOB, PHONE, json!({"service": "apns", "device_id": PHONE})).await;
            pushlark.enable(BOB, "android").await;
            pushlark.message(BOB, "planted Hi").await;
            pushlark.settled().await;
        }
        assert_eq!((apns.taken(PHONE).len(), fcm.taken("android").len()), (2, 2));
    }
}

fn invalid_grant() -> Answer {
    Answer::json(400, &json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}))
}

#[tokio::test]
async fn a_notification_outlives_a_key_that_google_does_not_know_yet() {
    let direct = Direct::start().await;
    direct.pushlark.enable(BOB, "android").await;
    // The first, and one after others.
    direct.fcm.fail_next_grant(invalid_grant());
    direct.message("one").await;
    assert_eq!(direct.fcm.taken("android").len(), 1);
    direct.fcm.revoke_tokens();
    direct.fcm.fail_next_grant(invalid_grant());
    direct.message("two").await;
    assert_eq!(direct.fcm.taken("android").len(), 2);
}

#[tokio::test]
async fn a_notification_waits_for_the_credentials_when_google_changed_the_key_before() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    let file = std::env::temp_dir().join(format!("pushlark-changed-key-{}.json", std::process::id()));
    std::fs::write(&file, credentials.to_string()).unwrap();
    let path = format!("file:{}", file.display());
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", path.as_str())];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable(BOB, "android").await;
    fcm.change_key();
    pushlark.message(BOB, "planted").await;
    // The credentials were read again, and were the same.
    eventually("a refusal", async || (fcm.refused() >= 1).then_some(())).await;
    credentials["default"]["fcm"]["private_key"] = Value::from(GOOGLE_NEW_KEY);
    std::fs::write(&file, credentials.to_string()).unwrap();
    pushlark.settled().await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(fcm.taken("android").len(), 1);
}
