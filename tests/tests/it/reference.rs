//! Checks of encrypted and signed notifications by independent reference libraries in Python and JavaScript.

use std::fs::{File, exists};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use doubles::{APNS_KEY, Fcm, Gateway, Subscriber, WebPush, canary};
use serde_json::{Value, json};
use tests::{ALICE, BOB, Event, Providers, PushRequest, Pushlark, eventually, send, stanza};
use tokio::net::TcpListener;

use crate::presentation;

/// Returns a folder within the target folder, into which one test at a time installs libraries.
fn installed(name: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = File::create(target.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let folder = target.join(name);
    install(&folder);
    folder
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Returns the path of a Python with the libraries.
fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/reference.txt");
        let python = |folder: &Path| folder.join("bin/python").to_str().unwrap().to_owned();
        let folder = installed("reference", |folder| {
            run("python3", &["-m", "venv", folder.to_str().unwrap()]);
            run(
                &python(folder),
                &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements],
            );
        });
        python(&folder)
    })
}

/// Returns the path of Node.js, which is in one of the libraries, and of the npm package `web-push-testing`.
fn node() -> (String, PathBuf) {
    let root = reference(&json!({"check": "node"})).unwrap().as_str().unwrap().to_owned();
    let node = format!("{root}/bin/node");
    let folder = installed("reference-node", |folder| {
        let package = folder.join("node_modules/web-push-testing/package.json");
        if !exists(package).unwrap() {
            let npm = format!("{root}/lib/node_modules/npm/bin/npm-cli.js");
            // Dependencies have the versions of this date.
            let exact = ["--before=2026-11-01", "--ignore-scripts", "--no-audit", "--no-fund"];
            let install = [&npm, "install", "--prefix", folder.to_str().unwrap(), "web-push-testing@1.2.2"];
            run(&node, &[&install[..], &exact].concat());
        }
    });
    (node, folder.join("node_modules/web-push-testing"))
}

/// Runs a check of `reference.py`. Returns its result, or its error output.
pub fn reference(request: &Value) -> Result<Value, String> {
    let mut child = Command::new(python())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/reference.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn the_http_ece_library_decrypts_a_notification() {
    let web_push = WebPush::start().await;
    let credentials = json!({"default": {"web_push":
        {"key": APNS_KEY, "subject": "mailto:canary@example.com"}}});
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", &credentials.to_string()),
        ("WEB_PUSH_TRUSTED_ORIGINS", &web_push.url),
    ];
    let pushlark = Pushlark::with_settings(settings).await;
    let browser = Subscriber::new(5);
    // A browser may send base64url with padding.
    let padded = json!({"auth": format!("{}==", browser.auth())});
    let enable = PushRequest::new(BOB, "browser")
        .device("browser")
        .browser(&web_push.endpoint("browser"), &browser)
        .options(padded);
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    pushlark.message(BOB, "Grüße 👋").await;
    pushlark.message(BOB, &"x".repeat(10_000)).await;
    pushlark.settled().await;
    let mut texts: Vec<_> = web_push
        .accepted("browser")
        .into_iter()
        .map(|request| {
            let body = BASE64_STANDARD.encode(&request.body);
            let (private_key, auth) = (browser.private_key(), browser.auth());
            reference(&json!({"check": "web-push", "body": body, "private_key": private_key, "auth": auth})).unwrap()
        })
        .collect();
    texts.sort_by_key(|text| text.to_string().len());
    let expected = json!({"message-count": "1", "last-message-sender": ALICE, "last-message-body": "Grüße 👋"});
    assert_eq!(texts[0], expected);
    let shortened = texts[1]["last-message-body"].as_str().unwrap();
    assert!(shortened.starts_with("xxx") && shortened.ends_with('…'));
    assert_eq!(texts[1].to_string().len(), 3_993);
    let other = Subscriber::new(6);
    let body = BASE64_STANDARD.encode(&web_push.accepted("browser")[0].body);
    let request = json!({"check": "web-push", "body": body, "private_key": other.private_key(), "auth": other.auth()});
    reference(&request).unwrap_err();
}

/// The server of `web-push-testing` checks the headers and the signature, and decrypts.
#[tokio::test]
async fn the_web_push_testing_server_accepts_a_notification() {
    let (node, package) = node();
    // The server cannot report the port that it listens on.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let server = package.join("src/bin/server.js");
    let _server = tokio::process::Command::new(node)
        .args([server.to_str().unwrap(), &port.to_string()])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let origin = format!("http://localhost:{port}");
    let http = reqwest::Client::new();
    eventually("the push service", async || http.post(format!("{origin}/status")).send().await.ok()).await;
    let ask = async |path: &str, request: Value| send(http.post(format!("{origin}{path}")).json(&request)).await.json();

    let credentials = json!({"default": {"web_push": {"key": APNS_KEY, "subject": "mailto:canary@example.com"}}});
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", &credentials.to_string()),
        ("WEB_PUSH_TRUSTED_ORIGINS", &origin),
    ];
    let pushlark = Pushlark::with_settings(settings).await;
    let subscribe = async |node: &str, application_server_key: &str| {
        let options = json!({"userVisibleOnly": "true", "applicationServerKey": application_server_key});
        let subscription = ask("/subscribe", options).await["data"].take();
        let form = json!({"service": "web-push", "endpoint": subscription["endpoint"],
            "p256dh": subscription["keys"]["p256dh"], "auth": subscription["keys"]["auth"]});
        pushlark.enable_with(BOB, node, form).await;
        subscription["clientHash"].as_str().unwrap().to_owned()
    };
    let browser = subscribe("browser", &public_key(APNS_KEY)).await;
    let other_key = subscribe("other-key", &Subscriber::new(8).p256dh()).await;
    for body in ["canary: Grüße 👋", &"x".repeat(10_000)] {
        pushlark.message(BOB, body).await;
        pushlark.settled().await;
    }
    let texts = async |client_hash: &str| -> Vec<Value> {
        let notifications = ask("/get-notifications", json!({"clientHash": client_hash})).await;
        let texts = notifications["data"]["messages"].as_array().unwrap().clone();
        texts.iter().map(|text| serde_json::from_str(text.as_str().unwrap()).unwrap()).collect()
    };
    let browsers = texts(&browser).await;
    assert_eq!(browsers.len(), 2);
    assert_eq!(browsers[0]["last-message-body"], "canary: Grüße 👋");
    assert_eq!(browsers[1].to_string().len(), 3_993);
    assert_eq!(texts(&other_key).await, [] as [Value; 0]);
}

/// Returns the public key of a private key in PEM, in the format of `applicationServerKey`.
fn public_key(pem: &str) -> String {
    let key = aws_lc_rs::signature::EcdsaKeyPair::from_pkcs8(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &BASE64_STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap(),
    );
    BASE64_URL_SAFE_NO_PAD.encode(aws_lc_rs::signature::KeyPair::public_key(&key.unwrap()))
}

/// The API description is in Google's library for Python.
#[tokio::test]
async fn the_api_description_of_fcm_allows_each_message() {
    let fcm = Fcm::start().await;
    let credentials = json!({"default": {"fcm": fcm.service_account()}}).to_string();
    let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str()), ("PLUGIN", "hints")];
    let pushlark = Pushlark::with_settings(settings).await;
    let all = json!({"priority": "high", "click_action": "open", "sound": "ping", "time_to_live": "600", "mode": "prod",
        "topic": "canary", "mutable_content": "true"});
    let with = |name: &str, value: &str| {
        let mut options = all.clone();
        options[name] = value.into();
        options
    };
    for (node, options) in [
        ("plain", json!({})),
        ("all", all.clone()),
        ("normal", with("priority", "normal")),
        ("silent", with("silent", "true")),
        ("brief", with("time_to_live", "0")),
    ] {
        pushlark.enable_with(BOB, node, options).await;
    }
    let body = |text: &str| stanza::chat(&format!("<body>{text}</body>"));
    let calls = ["propose", "retract"].map(stanza::jingle);
    for stanza in [body("canary Hi"), body(&"x".repeat(10_000))].into_iter().chain(calls) {
        pushlark.event(Event::stanza(BOB, &stanza)).await;
    }
    pushlark.settled().await;
    let requests = fcm.requests();
    let is_notified = |node: &str| requests.iter().filter(|request| request.device == node).count() == 4;
    assert!(["plain", "all", "normal", "silent", "brief"].into_iter().all(is_notified), "{}", requests.len());
    let mut seen = Vec::new();
    for request in &requests {
        // Each check needs a process, so one message of each shape is checked.
        let mut shape = request.json();
        blank(&mut shape);
        if !seen.contains(&shape) {
            assert_eq!(fcm_errors(request.json()), json!([]), "{}", request.json());
            seen.push(shape);
        }
    }
    assert!(seen.len() >= 5, "{seen:?}");
    // The check finds errors.
    for (pointer, value, error) in [
        ("/message", json!({"tokn": canary("x")}), "request.message.tokn is unknown"),
        ("/message/android/ttl", json!(600), "request.message.android.ttl is not a string"),
        ("/message/android/ttl", json!("10 min"), "request.message.android.ttl is not a google-duration"),
        (
            "/message/android/priority",
            json!("high"),
            "request.message.android.priority is not one of ['NORMAL', 'HIGH']",
        ),
    ] {
        let mut body = requests.iter().find(|request| request.device == "all").unwrap().json();
        *body.pointer_mut(pointer).unwrap() = value;
        assert_eq!(fcm_errors(body), json!([error]));
    }
}

/// Returns the errors of a message by the API description of FCM.
fn fcm_errors(body: Value) -> Value {
    reference(&json!({"check": "fcm", "body": body})).unwrap()
}

#[tokio::test]
async fn the_api_description_of_fcm_allows_each_presentation() {
    for presentation in [presentation::full(), presentation::soundless()] {
        let settings = [("PLUGIN", "presented")];
        let providers = Providers::with_plugins(presentation::plugins(presentation), &settings).await;
        providers.pushlark.enable_with(BOB, "android", json!({"quiet_channel_id": "quiet"})).await;
        providers.message("canary Hi").await;
        let message = providers.fcm.accepted("android")[0].json();
        assert!(message["message"]["android"]["notification"]["channel_id"].is_string(), "{message}");
        assert_eq!(fcm_errors(message.clone()), json!([]), "{message}");
    }
}

/// Reduces JSON to its shape: names of fields, types of values, and enumerated values.
fn blank(json: &mut Value) {
    match json {
        Value::Object(fields) => fields.values_mut().for_each(blank),
        Value::Array(items) => items.iter_mut().for_each(blank),
        Value::String(text) if text.chars().all(|c| c.is_ascii_uppercase() || c == '_') => {}
        Value::String(text) => text.clear(),
        Value::Number(number) => *number = 0.into(),
        Value::Bool(_) | Value::Null => {}
    }
}

#[tokio::test]
async fn the_standard_webhooks_library_verifies_a_notification() {
    let secret = "whsec_Y2FuYXJ5LXNlY3JldC0yNC1ieXRlcyEh";
    let receiver = Gateway::webhook().await;
    let url = format!("{}/push?x=1", receiver.url);
    let pushlark = Pushlark::with_settings([("PUSH_SERVICE", url.as_str()), ("PUSH_SERVICE_SECRET", secret)]).await;
    pushlark.enable_with(BOB, "device", json!({"service": "mine", "colour": "blue"})).await;
    let id = pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    let request = receiver.accepted("device").remove(0);
    let headers: Value = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| (name.to_owned(), Value::from(request.header(name))))
        .into_iter()
        .collect();
    let body = String::from_utf8(request.body.to_vec()).unwrap();
    let mut verified =
        reference(&json!({"check": "webhook", "secret": secret, "body": body, "headers": headers})).unwrap();
    assert!(verified["expires_at"].take().as_str().unwrap().ends_with('Z'));
    let options = json!({"service": "mine", "device_id": "canary-device", "colour": "blue"});
    let payload = json!({"message-count": "1", "last-message-sender": ALICE, "last-message-body": "canary Hi"});
    let expected = json!({"type": "notification", "message_id": id, "recipient": BOB, "jid": "push.example.com",
        "node": "device", "publish_options": options, "payload": payload, "expires_at": null});
    assert_eq!(verified, expected);
    let other = "whsec_AAAA9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    reference(&json!({"check": "webhook", "secret": other, "body": body, "headers": headers})).unwrap_err();
}
