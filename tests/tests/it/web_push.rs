//! Notifications to the push services of browsers.

use std::env;

use doubles::{Answer, CANARY, Subscriber, WebPush};
use serde_json::{Value, json};
use tests::{BOB, CAROL, Providers, PushRequest, Pushlark, VAPID_KEY, logged};

use crate::providers::{Outcome, check_outcomes};

/// Google's answer for a subscription that was made for another VAPID key.
const GOOGLE_KEY_MISMATCH: &str = "the VAPID credentials in the authorization header do not correspond to the credentials \
    used to create the subscriptions.\n";

/// The bytes of a body (RFC 8188) beside the padded plaintext: header, delimiter and tag.
const OVERHEAD: usize = 86 + 1 + 16;

async fn start(origins: &str, subject: &str) -> Pushlark {
    let web_push = json!({"key": VAPID_KEY, "subject": subject});
    let credentials = json!({"default": {"web_push": web_push}}).to_string();
    let settings =
        [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("WEB_PUSH_TRUSTED_ORIGINS", origins)];
    Pushlark::with_settings(settings).await
}

async fn enable(pushlark: &Pushlark, user: &str, node: &str, endpoint: &str, options: Value) {
    let request = PushRequest::new(user, node).device(node).browser(endpoint, &Subscriber::new(7)).options(options);
    assert_eq!(pushlark.json("/enable", request).await.status, 200);
}

/// Starts a double, and a stack with one browser at it.
async fn with_browser(options: Value) -> (Pushlark, WebPush) {
    let web_push = WebPush::start().await;
    let pushlark = start(&web_push.url, "mailto:canary@example.com").await;
    enable(&pushlark, BOB, "browser", &web_push.endpoint("browser"), options).await;
    (pushlark, web_push)
}

async fn send_message(pushlark: &Pushlark, to: &str, body: &str) {
    pushlark.message(to, body).await;
    pushlark.settled().await;
}

#[tokio::test]
async fn the_padding_hides_the_length_of_the_text() {
    let (pushlark, web_push) = with_browser(json!({})).await;
    for length in [1, 2, 50, 500, 900, 1_500, 2_500, 3_500, 10_000] {
        send_message(&pushlark, BOB, &"x".repeat(length)).await;
    }
    let lengths: Vec<_> = web_push.accepted("browser").iter().map(|request| request.body.len() - OVERHEAD).collect();
    assert_eq!(lengths, [1_024, 1_024, 1_024, 1_024, 1_024, 2_048, 3_072, 3_993, 3_993]);
}

#[tokio::test]
async fn a_notification_too_large_for_web_push_is_sent_again_shorter() {
    let (pushlark, web_push) = with_browser(json!({})).await;
    let too_large = || Answer::json(413, &json!({}));
    web_push.answer_next(too_large());
    send_message(&pushlark, BOB, &"x".repeat(10_000)).await;
    web_push.answer_next(too_large());
    send_message(&pushlark, BOB, "canary Hi").await;
    web_push.device_answers("browser", too_large());
    send_message(&pushlark, BOB, &"y".repeat(10_000)).await;
    web_push.device_recovers("browser");
    send_message(&pushlark, BOB, "canary: still enabled").await;
    let requests = web_push.requests();
    let seen: Vec<_> = requests.iter().map(|request| (request.status, request.body.len() - OVERHEAD)).collect();
    let expected = [(413, 3_993), (201, 1_996), (413, 1_024), (201, 512), (413, 3_993), (413, 1_996), (201, 1_024)];
    assert_eq!(seen, expected);
    let topics: Vec<_> = requests.iter().map(|request| request.header("topic")).collect();
    assert!(topics[0] == topics[1] && topics[1] != topics[2]);
}

#[tokio::test]
async fn the_time_to_live_is_at_most_four_weeks() {
    let (pushlark, web_push) = with_browser(json!({"time_to_live": "99999999"})).await;
    send_message(&pushlark, BOB, "canary Hi").await;
    assert_eq!(web_push.accepted("browser")[0].header("ttl"), "2419200");
}

/// The double is the HTTP proxy to the hosts of all vendors. The proxy is set in the environment, so this test runs itself
/// in another process.
#[tokio::test]
async fn each_vendor_gets_requests_by_its_own_rules() {
    const INSIDE: &str = "PUSHLARK_TEST_VENDORS";
    const TEST: &str = "web_push::each_vendor_gets_requests_by_its_own_rules";
    let (mozilla, mozilla_without_subdomain) =
        ("http://updates.push.services.mozilla.com", "http://push.services.mozilla.com");
    let (microsoft, not_mozilla) = ("http://wns2-par02p.notify.windows.com", "http://xpush.services.mozilla.com");
    if env::var_os(INSIDE).is_some() {
        let origins = [mozilla, mozilla_without_subdomain, microsoft, not_mozilla].join(",");
        let pushlark = start(&origins, "mailto:canary@example.com").await;
        let endpoint = |origin: &str, device: &str| format!("{origin}/push/{CANARY}-{device}");
        let none = json!({});
        // The first answers of the double are for this device.
        enable(&pushlark, CAROL, "limited", &endpoint(microsoft, "limited"), none.clone()).await;
        send_message(&pushlark, CAROL, "canary Hi").await;
        enable(&pushlark, BOB, "firefox", &endpoint(mozilla, "firefox"), none.clone()).await;
        enable(&pushlark, BOB, "older", &endpoint(mozilla_without_subdomain, "older"), none.clone()).await;
        enable(&pushlark, BOB, "other", &endpoint(not_mozilla, "other"), none.clone()).await;
        enable(&pushlark, BOB, "edge", &endpoint(microsoft, "edge"), none).await;
        enable(&pushlark, BOB, "now", &endpoint(microsoft, "now"), json!({"time_to_live": "0"})).await;
        send_message(&pushlark, BOB, &"x".repeat(10_000)).await;
        return;
    }
    let vendors = WebPush::start().await;
    vendors.answer_next(Answer::json(406, &json!({})));
    vendors.answer_next(Answer::json(201, &json!({})).with("x-wns-status", "channelthrottled"));
    let run = tokio::process::Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env(INSIDE, "")
        .env("http_proxy", &vendors.url)
        .env("no_proxy", "127.0.0.1,localhost")
        .output()
        .await
        .unwrap();
    let output = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{output}");
    let of =
        |device: &str| vendors.requests().into_iter().filter(|request| request.device == device).collect::<Vec<_>>();
    let lengths = |device| {
        let request = of(device).remove(0);
        (request.status, request.body.len() - OVERHEAD)
    };
    assert_eq!((lengths("firefox"), lengths("older"), lengths("other")), ((201, 2_600), (201, 2_600), (201, 3_993)));
    let policy = |device| (of(device)[0].status, of(device)[0].header("x-wns-cache-policy").to_owned());
    assert_eq!((policy("edge"), policy("now")), ((201, "cache".into()), (201, "no-cache".into())));
    assert_eq!(policy("firefox").1, "");
    // The standard error for too many requests, the one of Microsoft, and the delivery.
    assert_eq!(of("limited").iter().map(|request| request.status).collect::<Vec<_>>(), [406, 201, 201]);
}

#[tokio::test]
async fn a_bad_vapid_subject_is_logged_and_disables_web_push() {
    let Some(lines) = logged("web_push::a_bad_vapid_subject_is_logged_and_disables_web_push") else {
        let web_push = WebPush::start().await;
        let pushlark = start(&web_push.url, "mailto:canary@localhost").await;
        enable(&pushlark, BOB, "browser", &web_push.endpoint("browser"), json!({})).await;
        send_message(&pushlark, BOB, "canary Hi").await;
        assert_eq!(web_push.requests().len(), 0);
        return;
    };
    let error = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    assert_eq!(
        (&error["message"], &error["app"], &error["provider"], &error["reason"]),
        (
            &json!("the credentials cannot be used"),
            &json!("default"),
            &json!("Web Push"),
            &json!("the subject must not be at localhost, .local or .invalid, which push services refuse")
        )
    );
}

#[tokio::test]
async fn each_error_of_web_push_decides_about_the_registration() {
    let answer = |status| Answer::json(status, &json!({}));
    let cases = vec![
        (answer(404), Outcome::Gone),
        (answer(410), Outcome::Gone),
        // A redirect is not followed.
        (answer(307).with("location", "http://127.0.0.1:1/"), Outcome::Refused),
        (answer(400), Outcome::Refused),
        (answer(401), Outcome::Refused),
        // From a service that is not one of those below.
        (answer(403), Outcome::Suspect),
        // The signature is wrong, so this concerns all devices: Apple, Google, Mozilla and Microsoft.
        (Answer::json(403, &json!({"reason": "BadJwtToken"})), Outcome::Refused),
        (Answer::text(403, "permission denied: invalid JWT provided\n"), Outcome::Refused),
        (Answer::json(401, &json!({"errno": 109, "message": "Invalid VAPID token"})), Outcome::Refused),
        (answer(403).with("x-wns-error-description", "JWT Authentication Failed"), Outcome::Refused),
        // The subscription is for another key: Apple, Google and Mozilla.
        (Answer::json(400, &json!({"reason": "VapidPkHashMismatch"})), Outcome::Suspect),
        (Answer::text(403, GOOGLE_KEY_MISMATCH), Outcome::Suspect),
        (Answer::json(401, &json!({"errno": 109, "message": "VAPID public key mismatch"})), Outcome::Suspect),
        (answer(406), Outcome::Refused),
        (answer(406).with("retry-after", "1"), Outcome::Transient),
        (answer(429).with("retry-after", "1"), Outcome::Transient),
        (answer(500), Outcome::Transient),
        (answer(503), Outcome::Transient),
    ];
    check_outcomes("web-push", cases).await;
}

#[tokio::test]
async fn an_endpoint_at_a_private_address_is_not_called() {
    let providers = Providers::start().await;
    let inside = WebPush::start().await;
    let by_name = inside.url.replace("http://127.0.0.1", "https://localhost");
    let browser = Subscriber::new(3);
    let enable = async |endpoint: &str| {
        let request = PushRequest::new(BOB, "inside").browser(endpoint, &browser);
        providers.pushlark.json("/enable", request).await.status
    };
    assert_eq!(enable("https://localhost/push/x").await, 200);
    assert_eq!(enable(&format!("{by_name}/push/x")).await, 400);
    // The notification is refused, not retried: the queue becomes empty.
    providers.message("canary Hi").await;
    assert_eq!(inside.connections(), 0);
}

#[tokio::test]
async fn a_trusted_origin_includes_its_port() {
    let providers = Providers::with_settings(&[("WEB_PUSH_TRUSTED_ORIGINS", "https://localhost:8443")]).await;
    let browser = Subscriber::new(3);
    let request = PushRequest::new(BOB, "inside").browser("https://localhost/push/x", &browser);
    assert_eq!(providers.pushlark.json("/enable", request).await.status, 200);
    // The notification is refused: a failed connection would be retried, and the queue would not become empty.
    providers.message("canary Hi").await;
}
