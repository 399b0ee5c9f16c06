//! Notifications to FCM, and access tokens of Google.

use std::time::Duration;

use doubles::{Answer, Apns, Fcm, fcm_device_quota, fcm_error, fcm_project_quota};
use local::Options;
use pushlark_plugin::Plugins;
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tests::{ALICE, BOB, Providers, Pushlark, answered, credentials, eventually, logged, with_fast_sqs};

use crate::providers::{Outcome, RESERVED, WithFields, check_outcomes, check_replacement};

#[tokio::test]
async fn an_android_device_gets_the_message_that_mongoosepush_sends() {
    let providers = Providers::start().await;
    let options = json!({"priority": "high", "click_action": "open", "sound": "ping", "time_to_live": "3600"});
    providers.pushlark.enable_with(BOB, "android", options).await;
    providers.pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
    providers.message("canary Hi").await;
    let mut message = providers.fcm.accepted("android")[0].json()["message"].take();
    let ttl = message["android"]["ttl"].take();
    assert!(["3600s", "3599s", "3598s"].contains(&ttl.as_str().unwrap()), "{ttl}");
    let notification = json!({"title": ALICE, "body": "canary Hi", "tag": ALICE, "click_action": "open", "sound": "ping",
        "notification_count": 1});
    let android = json!({"priority": "HIGH", "ttl": null, "notification": notification});
    assert_eq!(message, json!({"token": "canary-android", "android": android}));
    let silent = providers.fcm.accepted("silent")[0].json();
    let data = json!({"message-count": "1", "last-message-sender": ALICE, "last-message-body": "canary Hi"});
    assert_eq!(silent["message"]["android"]["data"], data);
    assert_eq!(silent["message"]["android"]["notification"], Value::Null);
    assert_eq!(providers.fcm.granted(), 1);
}

#[tokio::test]
async fn each_error_of_fcm_decides_about_the_registration() {
    let violation = |field| {
        let details = json!([{"@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": field, "description": "Invalid"}]}]);
        let error = json!({"code": 400, "message": "Invalid", "status": "INVALID_ARGUMENT", "details": details});
        Answer::json(400, &json!({"error": error}))
    };
    let bad_token = "The registration token is not a valid FCM registration token";
    let cases = vec![
        (fcm_error(404, "NOT_FOUND", Some("UNREGISTERED"), ""), Outcome::Gone),
        (fcm_error(403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), ""), Outcome::Suspect),
        (fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), bad_token), Outcome::Suspect),
        (violation("message.token"), Outcome::Suspect),
        (violation("message.android.data"), Outcome::Refused),
        (fcm_error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "Message is too big"), Outcome::Refused),
        (fcm_error(401, "UNAUTHENTICATED", Some("THIRD_PARTY_AUTH_ERROR"), ""), Outcome::Refused),
        (fcm_error(403, "PERMISSION_DENIED", None, ""), Outcome::Refused),
        // The project does not exist.
        (fcm_error(404, "NOT_FOUND", None, ""), Outcome::Refused),
        (fcm_error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), "").with("retry-after", "1"), Outcome::Transient),
        (fcm_device_quota(), Outcome::Transient),
        (fcm_error(500, "INTERNAL", Some("INTERNAL"), ""), Outcome::Transient),
        (fcm_error(503, "UNAVAILABLE", Some("UNAVAILABLE"), "").with("retry-after", "1"), Outcome::Transient),
    ];
    check_outcomes("fcm", cases).await;
}

#[tokio::test]
async fn a_connection_to_fcm_is_replaced_after_five_errors_in_a_row() {
    let providers = Providers::start().await;
    let devices: Vec<_> = (0..5).map(|number| format!("android-{number}")).collect();
    for device in &devices {
        providers.pushlark.enable(BOB, device).await;
    }
    check_replacement(&providers, &providers.fcm, &devices, Answer::json(503, &json!({}))).await;
}

#[tokio::test]
async fn a_device_over_its_quota_is_retried_within_a_minute() {
    let providers = Providers::start().await;
    providers.pushlark.enable(BOB, "limited").await;
    providers.fcm.answer_next(fcm_device_quota());
    providers.message("canary").await;
    let requests = providers.fcm.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].at - requests[0].at < Duration::from_secs(50));
}

#[tokio::test]
async fn a_project_over_its_quota_is_retried_after_a_minute() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let credentials = credentials(&apns, &fcm).to_string();
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
    let environment = Environment::from_iter(settings);
    let pushlark = Pushlark::with(Options { environment, ..with_fast_sqs(60) }).await;
    pushlark.enable(BOB, "android").await;
    fcm.answer_next(fcm_project_quota());
    pushlark.message(BOB, "canary").await;
    answered(&fcm, 2).await;
    let requests = fcm.requests();
    // A minute of the queue is a second here.
    let wait = requests[1].at - requests[0].at;
    assert!(wait >= Duration::from_millis(950), "{wait:?}");
}

#[tokio::test]
async fn reserved_fields_are_removed_for_fcm_with_one_warning() {
    let Some(lines) = logged("fcm::reserved_fields_are_removed_for_fcm_with_one_warning") else {
        let (apns, fcm) = (Apns::start().await, Fcm::start().await);
        let credentials = credentials(&apns, &fcm).to_string();
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("PLUGIN", "with")];
        let plugins = Plugins::built_in().with("with", WithFields(RESERVED));
        let options = Options { plugins, environment: Environment::from_iter(settings), ..Options::default() };
        let pushlark = Pushlark::with(options).await;
        pushlark.enable(BOB, "loud").await;
        pushlark.enable_with(BOB, "silent", json!({"silent": "true"})).await;
        for body in ["canary one", "canary two"] {
            pushlark.message(BOB, body).await;
            pushlark.settled().await;
        }
        let android = |device| fcm.accepted(device)[1].json()["message"]["android"].take();
        assert_eq!(android("loud")["data"], json!({"from_user": "kept", "count": "7"}));
        assert_eq!(android("loud")["notification"]["notification_count"], 1);
        let summary = json!({"from_user": "kept", "count": "7", "message-count": "1",
            "last-message-sender": ALICE, "last-message-body": "canary two"});
        assert_eq!(android("silent")["data"], summary);
        return;
    };
    let message = "a field is left out of notifications by FCM, since Google reserves its name";
    let warnings: Vec<_> = lines.iter().filter(|line| line["message"] == message).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["level"], "WARN");
    assert!(RESERVED[..5].iter().any(|(name, _)| warnings[0]["field"] == *name), "{warnings:?}");
}

#[tokio::test]
async fn a_revoked_access_token_is_replaced() {
    let providers = Providers::start().await;
    providers.pushlark.enable(BOB, "android").await;
    providers.message("one").await;
    providers.fcm.revoke_tokens();
    providers.message("two").await;
    assert_eq!((providers.fcm.accepted("android").len(), providers.fcm.granted()), (2, 2));
}

#[tokio::test]
async fn a_failed_token_request_delays_or_refuses_the_notification() {
    let providers = Providers::start().await;
    providers.pushlark.enable(BOB, "android").await;
    providers.message("one").await;
    providers.fcm.revoke_tokens();
    providers.fcm.fail_next_grant(Answer::json(503, &json!({})));
    providers.message("two").await;
    assert_eq!(providers.fcm.accepted("android").len(), 2, "the notification was retried");
    providers.fcm.revoke_tokens();
    providers.fcm.fail_next_grant(Answer::json(400, &json!({"error": "invalid_client"})));
    providers.message("three").await;
    assert_eq!(providers.fcm.accepted("android").len(), 2, "the notification was refused");
    // The refusal is cached for a second.
    eventually("a token", async || {
        providers.message("four").await;
        (providers.fcm.accepted("android").len() == 3).then_some(())
    })
    .await;
}

fn invalid_grant() -> Answer {
    Answer::json(400, &json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}))
}

#[tokio::test]
async fn a_notification_is_retried_while_google_does_not_know_the_key() {
    let providers = Providers::start().await;
    providers.pushlark.enable(BOB, "android").await;
    // The first token request, and a later one.
    providers.fcm.fail_next_grant(invalid_grant());
    providers.message("one").await;
    assert_eq!(providers.fcm.accepted("android").len(), 1);
    providers.fcm.revoke_tokens();
    providers.fcm.fail_next_grant(invalid_grant());
    providers.message("two").await;
    assert_eq!(providers.fcm.accepted("android").len(), 2);
}
