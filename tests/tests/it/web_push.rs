//! What the push services of browsers ask for beyond the standards, and what they are not told.

use std::env;

use doubles::{Answer, MARK, Subscriber, WebPush};
use serde_json::{Value, json};
use tests::{Pushlark, logged};

const BOB: &str = "bob@example.com";
const CAROL: &str = "carol@example.com";
/// Header and tag of a body (RFC 8188): what it has beside the padded plaintext.
const OVERHEAD: usize = 86 + 1 + 16;

async fn start(origins: &str, subject: &str) -> Pushlark {
    let web_push = json!({"key": "cGxhbnRlZHBsYW50ZWRwbGFudGVkcGxhbnRlZGtleXM", "subject": subject});
    let credentials = json!({"default": {"web_push": web_push}}).to_string();
    let settings =
        [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("WEB_PUSH_TRUSTED_ORIGINS", origins)];
    Pushlark::with_settings(settings).await
}

async fn enable(pushlark: &Pushlark, user: &str, node: &str, endpoint: &str, options: Value) {
    let browser = Subscriber::new(7);
    let mut form =
        json!({"service": "web-push", "endpoint": endpoint, "p256dh": browser.p256dh(), "auth": browser.auth()});
    form.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    pushlark.enable_with(user, node, form).await;
}

/// A stack with one device, at a double.
async fn with_browser(options: Value) -> (Pushlark, WebPush) {
    let web_push = WebPush::start().await;
    let pushlark = start(&web_push.url, "mailto:planted@example.com").await;
    enable(&pushlark, BOB, "browser", &web_push.endpoint("browser"), options).await;
    (pushlark, web_push)
}

async fn send(pushlark: &Pushlark, to: &str, body: &str) {
    pushlark.message(to, body).await;
    pushlark.settled().await;
}

#[tokio::test]
async fn a_texts_length_does_not_show() {
    let (pushlark, web_push) = with_browser(json!({})).await;
    for length in [1, 2, 50, 500, 900, 1_500, 2_500, 3_500, 10_000] {
        send(&pushlark, BOB, &"x".repeat(length)).await;
    }
    let lengths: Vec<_> = web_push.taken("browser").iter().map(|request| request.body.len() - OVERHEAD).collect();
    assert_eq!(lengths, [1_024, 1_024, 1_024, 1_024, 1_024, 2_048, 3_072, 3_993, 3_993]);
}

#[tokio::test]
async fn what_is_too_large_is_sent_once_more_and_shorter() {
    let (pushlark, web_push) = with_browser(json!({})).await;
    let too_large = || Answer::json(413, &json!({}));
    web_push.answer_next(too_large());
    send(&pushlark, BOB, &"x".repeat(10_000)).await;
    web_push.answer_next(too_large());
    send(&pushlark, BOB, "planted Hi").await;
    web_push.device_answers("browser", too_large());
    send(&pushlark, BOB, &"y".repeat(10_000)).await;
    web_push.device_recovers("browser");
    send(&pushlark, BOB, "planted: it stays").await;
    let requests = web_push.requests();
    let told: Vec<_> = requests.iter().map(|request| (request.status, request.body.len() - OVERHEAD)).collect();
    let expected = [(413, 3_993), (201, 1_996), (413, 1_024), (201, 512), (413, 3_993), (413, 1_996), (201, 1_024)];
    assert_eq!(told, expected);
    let topics: Vec<_> = requests.iter().map(|request| request.header("topic")).collect();
    assert!(topics[0] == topics[1] && topics[1] != topics[2]);
}

#[tokio::test]
async fn a_time_to_live_is_four_weeks_at_most() {
    let (pushlark, web_push) = with_browser(json!({"time_to_live": "99999999"})).await;
    send(&pushlark, BOB, "planted Hi").await;
    assert_eq!(web_push.taken("browser")[0].header("ttl"), "2419200");
}

/// The vendors' hosts are asked by way of a proxy, which is the double, by the same test in another process: its settings
/// are that process's environment.
#[tokio::test]
async fn each_vendor_is_asked_as_it_wants_to_be() {
    const INSIDE: &str = "PUSHLARK_TEST_VENDORS";
    const TEST: &str = "web_push::each_vendor_is_asked_as_it_wants_to_be";
    let (mozilla, of_mozilla) = ("http://updates.push.services.mozilla.com", "http://push.services.mozilla.com");
    let (microsoft, no_vendor) = ("http://wns2-par02p.notify.windows.com", "http://xpush.services.mozilla.com");
    if env::var_os(INSIDE).is_some() {
        let origins = [mozilla, of_mozilla, microsoft, no_vendor].join(",");
        let pushlark = start(&origins, "mailto:planted@example.com").await;
        let endpoint = |origin: &str, device: &str| format!("{origin}/push/{MARK}-{device}");
        let none = json!({});
        // The double's first three answers are for this one.
        enable(&pushlark, CAROL, "limited", &endpoint(microsoft, "limited"), none.clone()).await;
        send(&pushlark, CAROL, "planted Hi").await;
        enable(&pushlark, BOB, "firefox", &endpoint(mozilla, "firefox"), none.clone()).await;
        enable(&pushlark, BOB, "older", &endpoint(of_mozilla, "older"), none.clone()).await;
        enable(&pushlark, BOB, "other", &endpoint(no_vendor, "other"), none.clone()).await;
        enable(&pushlark, BOB, "edge", &endpoint(microsoft, "edge"), none).await;
        enable(&pushlark, BOB, "now", &endpoint(microsoft, "now"), json!({"time_to_live": "0"})).await;
        send(&pushlark, BOB, &"x".repeat(10_000)).await;
        return;
    }
    let vendors = WebPush::start().await;
    vendors.answer_next(Answer::json(406, &json!({})));
    vendors.answer_next(Answer::json(201, &json!({})).with("x-wns-status", "channelthrottled"));
    let alone = tokio::process::Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env(INSIDE, "")
        .env("http_proxy", &vendors.url)
        .env("no_proxy", "127.0.0.1,localhost")
        .output()
        .await
        .unwrap();
    let output = format!("{}{}", String::from_utf8_lossy(&alone.stdout), String::from_utf8_lossy(&alone.stderr));
    assert!(alone.status.success(), "{output}");
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
    // The limit, what Microsoft says instead of it, and the delivery.
    assert_eq!(of("limited").iter().map(|request| request.status).collect::<Vec<_>>(), [406, 201, 201]);
}

#[tokio::test]
async fn a_bad_subject_is_logged_at_the_start_and_stops_web_push() {
    let Some(lines) = logged("web_push::a_bad_subject_is_logged_at_the_start_and_stops_web_push") else {
        let web_push = WebPush::start().await;
        let pushlark = start(&web_push.url, "mailto:planted@localhost").await;
        enable(&pushlark, BOB, "browser", &web_push.endpoint("browser"), json!({})).await;
        send(&pushlark, BOB, "planted Hi").await;
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
