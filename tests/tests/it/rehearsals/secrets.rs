//! Replacement of a leaked secret while the chat server keeps sending.

use doubles::SecretsManager;
use serde_json::json;
use tests::{BOB, Event, PushRequest, Pushlark, eventually};

const OLD: &str = "canary-leaked-secret";
const NEW: &str = "canary-secret-of-today";

#[tokio::test]
async fn a_leaked_secret_is_replaced_without_a_lost_event() {
    let stored = SecretsManager::start(OLD).await;
    let settings =
        [("WEBHOOK_SECRET", SecretsManager::ARN), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", stored.url.as_str())];
    let pushlark = Pushlark::with_settings(settings).await;
    let enable = PushRequest::new(BOB, "phone").device("phone");
    assert_eq!(pushlark.json_as(OLD, "/enable", enable).await.status, 200);
    let message = async |secret: &str, number: u32| {
        let event = Event::message(BOB, &format!("canary {number:02}"));
        pushlark.json_as(secret, "/events", event).await.status
    };
    for number in 0..5 {
        assert_eq!(message(OLD, number).await, 202);
    }
    // Both secrets are valid, in any order of the function and of the server.
    stored.put(&format!("{OLD},{NEW}"));
    for number in 5..10 {
        assert_eq!(message(OLD, number).await, 202);
    }
    let mut number = 10;
    eventually("an accepted new secret", async || {
        // The server repeats what is not accepted.
        let is_accepted = message(NEW, number).await == 202;
        number += u32::from(is_accepted);
        is_accepted.then_some(())
    })
    .await;
    assert_eq!(message(OLD, number).await, 202);

    // The old secret is removed. An unknown credential makes a function read the secret before five minutes have passed.
    stored.put(NEW);
    eventually("a refused old secret", async || {
        pushlark.json_as("canary-secret-of-nobody", "/disable", json!({})).await.problem(401);
        let disable = PushRequest::all_nodes("nobody@example.com");
        (pushlark.json_as(OLD, "/disable", disable).await.status == 401).then_some(())
    })
    .await;
    assert_eq!(message(NEW, number + 1).await, 202);
    pushlark.settled().await;
    let expected: Vec<_> = (0..=number + 1).map(|number| format!("canary {number:02}")).collect();
    assert_eq!(pushlark.sorted_alerts("phone").await, expected);
}
