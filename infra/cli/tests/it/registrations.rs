//! `registrations`: the client's device is listed, enabled and disabled.

use serde_json::json;
use tests::{BOB, PUSH_HOST, PushRequest, Pushlark};

use crate::{run, run_with};

#[tokio::test]
async fn registrations_are_listed_with_their_state_and_masked_tokens() {
    let pushlark = Pushlark::start().await;
    let request =
        PushRequest::new(BOB, "phone").device("a-long-token-0123").with("preferences", json!({"rooms": "mentions"}));
    assert_eq!(pushlark.json("/enable", request).await.status, 200);
    pushlark.device_answers("a-long-token-0123", json!({"status": 400, "body": {"reason": "bad_device_token"}})).await;
    let listed = run(&pushlark, &["registrations", "list", BOB, "--json"]).await.json();
    let registration = &listed["registrations"][0];
    assert_eq!((&registration["jid"], &registration["node"]), (&json!(PUSH_HOST), &json!("phone")));
    assert_eq!(registration["form"], json!({"service": "fcm", "device_id": "…0123"}));
    assert_eq!(registration["preferences"], json!({"rooms": "mentions"}));
    assert_eq!((&registration["encrypted"], &registration["suspicions"]), (&json!(false), &json!(0)));
    assert_eq!(registration["enabled_at"], registration["first_enabled_at"]);
    let printed = run(&pushlark, &["registrations", "list", BOB]).await.printed();
    assert!(printed.contains("…0123") && printed.contains("phone") && !printed.contains("canary"), "{printed}");
    let none = run(&pushlark, &["registrations", "list", "nobody@example.com"]).await.printed();
    assert_eq!(none, "nobody@example.com has no registration.\n");
}

#[tokio::test]
async fn a_device_is_enabled_with_the_checks_of_the_function() {
    let pushlark = Pushlark::start().await;
    let enable = ["registrations", "enable", BOB, "--jid", PUSH_HOST, "--node", "tablet"];
    let device =
        ["--service", "fcm", "--device-id", "canary-tablet", "--field", "sound=ping", "--preference", "calls=true"];
    let printed = run(&pushlark, &[&enable[..], &device[..]].concat()).await.printed();
    assert_eq!(printed, "bob@example.com is enabled at push.example.com, node tablet.\n");
    let registration = pushlark.registrations(BOB).await.remove(0);
    assert_eq!(
        (registration.options.get("device_id"), registration.options.get("sound")),
        (Some("canary-tablet"), Some("ping"))
    );
    assert!(registration.preferences.unwrap().calls);
    for (wrong, reason) in
        [(&["--field", "priority=10"][..], "priority"), (&["--preference", "rooms=sometimes"], "rooms")]
    {
        let error = run(&pushlark, &[&enable[..], wrong].concat()).await.error();
        assert!(error.contains(reason), "{error}");
    }
    for (wrong, reason) in [
        (&["--field", "service=fcm", "--service", "apns"][..], "the field service is given twice"),
        (&["--preference", "rooms=mentions", "--preference", "rooms=always"], "the preference rooms is given twice"),
        (&["--preference", "mute=[{\"jid\":"], "the value is not JSON: EOF"),
        (&["--encrypt", "{\"key\": \"canary-key"], "--encrypt is not JSON: EOF"),
    ] {
        let ran = run(&pushlark, &[&enable[..], wrong].concat()).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(reason), "{ran:?}");
        assert!(!ran.stderr.contains("canary-key"), "{ran:?}");
    }
    assert_eq!(pushlark.nodes(BOB).await, ["tablet"]);
}

#[tokio::test]
async fn a_registration_is_deleted_only_with_an_answer_to_the_question() {
    let pushlark = Pushlark::start().await;
    for node in ["phone", "tablet"] {
        pushlark.enable(BOB, node).await;
    }
    let disable = ["registrations", "disable", BOB, "--jid", PUSH_HOST];
    let error = run(&pushlark, &disable).await.error();
    assert!(error.contains("all registrations of bob@example.com") && error.contains("--yes"), "{error}");
    assert_eq!(pushlark.nodes(BOB).await, ["phone", "tablet"]);
    run(&pushlark, &[&disable[..], &["--node", "phone", "--yes"]].concat()).await.printed();
    assert_eq!(pushlark.nodes(BOB).await, ["tablet"]);
    let again = run(&pushlark, &[&disable[..], &["--node", "phone", "--yes"]].concat()).await;
    assert!(again.code == Some(1) && again.stderr.contains("no such registration"), "{again:?}");
    let answer = run(&pushlark, &[&disable[..], &["--yes", "--json"]].concat()).await.json();
    assert_eq!(answer["removed"], 1);
}

#[tokio::test]
async fn a_user_who_is_no_jid_is_refused_before_anything_is_asked() {
    let pushlark = Pushlark::start().await;
    for user in ["example.com", "@", "bob@"] {
        let ran = run(&pushlark, &["registrations", "list", user]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(user), "{ran:?}");
    }
}

#[tokio::test]
async fn a_missing_secret_of_the_local_stack_is_named() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "canary-secret-of-the-server")]).await;
    let enable = ["registrations", "enable", BOB, "--jid", PUSH_HOST, "--node", "n", "--service", "fcm"];
    let enable = [&enable[..], &["--device-id", "t"]].concat();
    for variables in [&[][..], &[("PUSHLARK_SECRET", "canary-another-secret")]] {
        let error = run_with(&pushlark, &enable, variables, "").await.error();
        assert!(error.contains("give the secret in --secret or PUSHLARK_SECRET"), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
    run_with(&pushlark, &enable, &[("PUSHLARK_SECRET", "canary-secret-of-the-server")], "").await.printed();
}
