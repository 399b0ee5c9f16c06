//! `doctor`: a stack in order, credentials that a provider refuses, and faults with their remedies.

use doubles::apns_error;
use serde_json::{Value, json};
use tests::{Providers, Pushlark, VAPID_KEY, credentials};

use crate::{Ran, run, run_with};

/// Returns the checks of a run, of which some failed.
fn failed(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Returns the check with this name.
fn check<'c>(checks: &'c Value, name: &str) -> &'c Value {
    let found = checks.as_array().unwrap().iter().find(|check| check["check"] == name);
    found.unwrap_or_else(|| panic!("{name}: {checks}"))
}

#[tokio::test]
async fn doctor_finds_a_local_stack_in_order() {
    let stack = Pushlark::start().await;
    let ran = run(&stack, &["doctor", "--json"]).await;
    let checks = ran.json();
    assert!(checks.as_array().unwrap().iter().all(|check| check["state"] == "ok"), "{checks}");
    for name in ["function Worker", "function Enable", "settings of Worker", "URL of MONGOOSEPUSH_URL", "clock"] {
        assert_eq!(check(&checks, name)["state"], "ok", "{name}");
    }
    assert!(stack.all_notifications().await.is_empty());
    assert!(stack.listed("doctor@pushlark.invalid").await.is_empty());
}

#[tokio::test]
async fn doctor_tries_the_credentials_of_each_app_without_a_device() {
    let providers = Providers::start().await;
    let mut credentials = credentials(&providers.apns, &providers.fcm);
    let no_iphone = "0".repeat(64);
    providers.apns.device_answers(&no_iphone, apns_error(400, "BadDeviceToken"));
    let doctor = async |credentials: &Value| {
        let environment = [("PUSH_CREDENTIALS", credentials.to_string())];
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        run_with(&providers.pushlark, &["doctor", "--json"], &environment, "").await
    };
    let checks = doctor(&credentials).await.json();
    let apns = check(&checks, "credentials of the app default for APNs");
    assert_eq!(apns["state"], "ok");
    assert!(apns["detail"].as_str().unwrap().contains("BadDeviceToken"), "{apns}");
    assert_eq!(check(&checks, "credentials of the app default for FCM")["state"], "ok");
    assert_eq!(check(&checks, "credentials of the app default for Web Push")["state"], "ok");
    assert_eq!(providers.apns.requests().len(), 1);

    // Apple does not know the key any longer, Google's server is gone, and the subject of VAPID is missing.
    providers.apns.change_key();
    credentials["default"]["fcm"]["token_uri"] = json!("http://127.0.0.1:1/token");
    credentials["default"]["web_push"]["subject"] = json!("nobody");
    let ran = doctor(&credentials).await;
    let checks = failed(&ran);
    for provider in ["APNs", "FCM", "Web Push"] {
        let check = check(&checks, &format!("credentials of the app default for {provider}"));
        assert_eq!(check["state"], "failed", "{check}");
        assert!(check["remedy"].as_str().unwrap().len() > 10);
    }
    assert!(!ran.stdout.contains("PRIVATE KEY") && !ran.stdout.contains(VAPID_KEY), "{}", ran.stdout);
}

#[tokio::test]
async fn doctor_names_what_does_not_work_and_the_remedy() {
    let settings = [("MONGOOSEPUSH_URL", "http://127.0.0.1:1"), ("WEBHOOK_SECRET", "canary-secret-of-the-stack")];
    let stack = Pushlark::with_settings(settings).await;
    stack.enqueue("no record").await;
    stack.settled().await;

    let checks = failed(&run(&stack, &["doctor", "--json"]).await);
    let worker = check(&checks, "function Worker");
    assert_eq!(worker["state"], "failed", "{worker}");
    assert_eq!(worker["remedy"], "Give the secret of the local stack in --secret or PUSHLARK_SECRET.");
    assert_eq!(check(&checks, "URL of MONGOOSEPUSH_URL")["state"], "failed");
    assert_eq!(check(&checks, "dead letters")["state"], "warning");

    let secret = [("PUSHLARK_SECRET", "canary-secret-of-the-stack"), ("WEBHOOK_SECRET", "short")];
    let ran = run_with(&stack, &["doctor"], &secret, "").await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stdout.contains("ok      function Worker: starts, reads the table and asks the plugin\n"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("failed  settings of Enable: WEBHOOK_SECRET: "), "{}", ran.stdout);
    assert!(!ran.stdout.contains("canary"), "{}", ran.stdout);
}
