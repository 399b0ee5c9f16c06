//! Credentials that a provider no longer accepts.

use doubles::{APNS_NEW_KEY, Apns, Fcm, SecretsManager};
use serde_json::json;
use tests::{BOB, CAROL, IPHONE, Pushlark, credentials, eventually, iphone, logged};

#[tokio::test]
async fn a_revoked_key_of_apns_disables_no_device_and_needs_only_a_new_secret() {
    let name = "rehearsals::credentials::a_revoked_key_of_apns_disables_no_device_and_needs_only_a_new_secret";
    let Some(lines) = logged(name) else { return revoke_and_replace().await };
    let refused: Vec<_> = lines.iter().filter(|line| line["message"] == "not notified: refused").collect();
    assert!(!refused.is_empty(), "{lines:?}");
    for line in refused {
        let reason = line["reason"].as_str().unwrap();
        assert!(line["level"] == "ERROR" && reason.contains("InvalidProviderToken"), "{line}");
    }
}

async fn revoke_and_replace() {
    let (apns, fcm) = (Apns::start().await, Fcm::start().await);
    let mut credentials = credentials(&apns, &fcm);
    let stored = SecretsManager::start(&credentials.to_string()).await;
    let pushlark = Pushlark::with_settings([
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", SecretsManager::ARN),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &stored.url),
    ])
    .await;
    let carols = iphone(1);
    for (user, device) in [(BOB, IPHONE), (CAROL, carols.as_str())] {
        pushlark.enable_with(user, device, json!({"service": "apns", "device_id": device})).await;
    }
    pushlark.enable(BOB, "android").await;

    // Apple accepts another key only. Each device of Apple is refused more often than suspicions are allowed.
    apns.change_key();
    for number in 1..=5 {
        for user in [BOB, CAROL] {
            pushlark.message(user, &format!("canary {number}")).await;
        }
    }
    pushlark.settled().await;
    assert_eq!((apns.accepted(IPHONE).len(), apns.accepted(&carols).len()), (0, 0));
    assert_eq!(fcm.accepted("android").len(), 5, "the other provider does not depend on the key");
    assert_eq!((pushlark.listed(BOB).await.len(), pushlark.listed(CAROL).await.len()), (2, 1));

    credentials["default"]["apns"]["key"] = APNS_NEW_KEY.into();
    stored.put(&credentials.to_string());
    // A worker reads the secret at most once in ten seconds.
    eventually("a notification by the new key", async || {
        pushlark.message(BOB, "canary probe").await;
        pushlark.settled().await;
        (!apns.accepted(IPHONE).is_empty()).then_some(())
    })
    .await;
    pushlark.message(CAROL, "canary after").await;
    pushlark.settled().await;
    assert_eq!(apns.accepted(&carols).len(), 1);
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}
