//! `send`: a test notification reaches the device, and the answer of the push service is printed.

use doubles::{Answer, apns_error};
use serde_json::{Value, json};
use tests::{BOB, IPHONE, PUSH_HOST, Providers, PushRequest, Pushlark, credentials};

use crate::{Ran, run, run_with};

#[tokio::test]
async fn each_device_of_a_user_gets_a_test_notification() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    pushlark.enable(BOB, "tablet").await;
    let printed = run(&pushlark, &["send", BOB, "--title", "Hello", "--text", "canary works"]).await.printed();
    let [named, sent] = ["  push.example.com, node tablet\n", "push.example.com, node phone: delivered ("];
    assert!(printed.find(named).unwrap() < printed.find(sent).unwrap(), "the devices are named first: {printed}");
    for node in ["phone", "tablet"] {
        let alert = &pushlark.notifications(node).await[0]["notification"]["alert"];
        assert_eq!((&alert["title"], &alert["body"]), (&json!("Hello"), &json!("canary works")));
    }
    run(&pushlark, &["send", BOB, "--jid", PUSH_HOST, "--node", "phone"]).await.printed();
    assert_eq!([pushlark.notifications("phone").await.len(), pushlark.notifications("tablet").await.len()], [2, 1]);
    let error = run(&pushlark, &["send", BOB, "--node", "watch"]).await.error();
    assert!(error.contains("no such registration, of 2 in all"), "{error}");
    let error = run(&pushlark, &["send", "eve@example.com"]).await.error();
    assert!(error.contains("eve@example.com has no registration"), "{error}");
}

#[tokio::test]
async fn a_device_that_is_gone_fails_the_command_and_stays_enabled() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    pushlark.device_answers("phone", json!({"status": 410, "body": {"reason": "unregistered"}})).await;
    let ran = run(&pushlark, &["send", BOB]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains(": gone: status 410, unregistered ("), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("The worker would disable the registration. The registration is unchanged."),
        "{}",
        ran.stdout
    );
    let Ran { code, stdout, .. } = run(&pushlark, &["send", BOB, "--json"]).await;
    let sent: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &sent["sent"][0]["outcome"], &sent["sent"][0]["status"]), (Some(1), &json!("gone"), &json!(410)));
    assert_eq!(pushlark.nodes(BOB).await, ["phone"]);
}

#[tokio::test]
async fn a_provider_answers_with_the_credentials_of_this_machine() {
    let providers = Providers::start().await;
    providers.enable_iphone(IPHONE, json!({})).await;
    let secret = credentials(&providers.apns, &providers.fcm).to_string();
    let variables = [("PUSH_CREDENTIALS", secret.as_str())];
    let send = ["send", BOB, "--json"];
    let sent = run_with(&providers.pushlark, &send, &variables, "").await.json();
    assert_eq!(sent["sent"][0]["push_service"], "APNs/default/prod");
    let request = providers.apns.accepted(IPHONE).remove(0);
    assert_eq!(request.json()["aps"]["alert"]["title"], "Pushlark");
    for (answer, outcome) in [
        (apns_error(410, "Unregistered"), "gone"),
        (apns_error(400, "BadDeviceToken"), "suspect"),
        (apns_error(403, "InvalidProviderToken"), "refused"),
        (Answer::json(503, &json!({"reason": "ServiceUnavailable"})), "transient"),
    ] {
        providers.apns.device_answers(IPHONE, answer);
        let ran = run_with(&providers.pushlark, &send, &variables, "").await;
        let sent: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.code, &sent["sent"][0]["outcome"]), (Some(1), &json!(outcome)), "{sent}");
    }
    assert_eq!(providers.pushlark.nodes(BOB).await.len(), 1);
    let error = run(&providers.pushlark, &send).await.error();
    assert!(error.contains("PUSH_CREDENTIALS") && !error.contains("PRIVATE KEY"), "{error}");
}

#[tokio::test]
async fn an_encrypted_registration_gets_an_encrypted_notification() {
    let providers = Providers::start().await;
    let encrypt = json!({"alg": "aes-128-gcm", "key": "Y2FuYXJ5Y2FuYXJ5Y2FuYQ=="});
    let request = PushRequest::new(BOB, "android").device("android").with("encrypt", encrypt);
    let reply = providers.pushlark.json("/enable", request).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let secret = credentials(&providers.apns, &providers.fcm).to_string();
    let variables = [("PUSH_CREDENTIALS", secret.as_str())];
    let printed = run_with(&providers.pushlark, &["send", BOB, "--text", "canary"], &variables, "").await.printed();
    assert!(printed.contains(", encrypted)"), "{printed}");
    let message = providers.fcm.accepted("android").remove(0).json();
    let text = message.to_string();
    assert!(text.contains("\"encrypted\"") && !text.contains("This is a test"), "{text}");
}

#[tokio::test]
async fn a_registration_without_a_route_fails_with_the_setting() {
    let pushlark = Pushlark::start().await;
    let elsewhere = PushRequest::new(BOB, "n").at("pubsub.elsewhere.example");
    assert_eq!(pushlark.json("/enable", elsewhere).await.status, 200);
    let ran = run(&pushlark, &["send", BOB]).await;
    assert!(ran.code == Some(1) && ran.stdout.contains("no route: the host is not virtual, and PUBSUB_URL"), "{ran:?}");
}
