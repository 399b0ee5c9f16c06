//! Notifications to an operator's own push service, by signed webhooks.

use std::collections::HashSet;

use axum::http::Method;
use doubles::{Answer, Gateway};
use pushlark_webhooks::Key;
use serde_json::json;
use tests::{BOB, Pushlark};

use crate::providers::{Outcome, outcome_of};

#[tokio::test]
async fn each_error_of_the_webhook_decides_about_the_registration() {
    let answer = |status| Answer::json(status, &json!({}));
    for (answer, expected) in [
        (answer(410), Outcome::Gone),
        (answer(302).with("location", "/elsewhere"), Outcome::Refused),
        (answer(400), Outcome::Refused),
        (answer(401), Outcome::Refused),
        (answer(404), Outcome::Refused),
        (answer(429).with("retry-after", "1"), Outcome::Transient),
        (answer(500), Outcome::Transient),
        (answer(503), Outcome::Transient),
    ] {
        let receiver = Gateway::webhook().await;
        let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
        let pushlark = Pushlark::with_settings(settings).await;
        pushlark.enable(BOB, "device").await;
        assert_eq!(outcome_of(&pushlark, &receiver, "device", answer.clone()).await, expected, "{answer:?}");
        let ids: Vec<_> = receiver.requests().iter().map(|request| request.header("webhook-id").to_owned()).collect();
        assert_eq!(
            ids.iter().collect::<HashSet<_>>().len() == 1,
            expected != Outcome::Refused,
            "each retry has the same id"
        );
    }
}

#[tokio::test]
async fn a_refused_webhook_secret_is_read_again() {
    let file = std::env::temp_dir().join(format!("pushlark-push-service-{}", std::process::id()));
    std::fs::write(&file, "canary-first-secret").unwrap();
    let setting = format!("file:{}", file.display());
    for refusal in [401, 403] {
        std::fs::write(&file, "canary-first-secret").unwrap();
        let receiver = Gateway::webhook().await;
        let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", setting.as_str())];
        let pushlark = Pushlark::with_settings(settings).await;
        pushlark.enable(BOB, "device").await;
        pushlark.message(BOB, "canary one").await;
        pushlark.settled().await;
        std::fs::write(&file, "canary-second-secret").unwrap();
        receiver.answer_next(Answer::json(refusal, &json!({})));
        pushlark.message(BOB, "canary two").await;
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
        assert_eq!(signed_by("canary-first-secret"), [true, true, false]);
        assert_eq!(signed_by("canary-second-secret"), [false, false, true]);
        assert_eq!(notifications[1].header("webhook-id"), notifications[2].header("webhook-id"));
    }
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn the_webhook_gets_the_whole_text_unless_it_is_too_large() {
    let receiver = Gateway::webhook().await;
    let settings = [("PUSH_SERVICE", receiver.url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
    let pushlark = Pushlark::with_settings(settings).await;
    pushlark.enable(BOB, "device").await;
    let text = "canary ".repeat(2_000);
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
