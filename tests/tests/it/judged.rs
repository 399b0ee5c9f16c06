//! What is encrypted or signed, judged by other people's libraries in another language.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use doubles::{Receiver, Subscriber, WebPush};
use serde_json::{Value, json};
use tests::Pushlark;

const BOB: &str = "bob@example.com";

/// The path of a Python that has the libraries; they are installed into the target folder.
fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("judge");
        let python = folder.join("bin/python").to_str().unwrap().to_owned();
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/judge.txt");
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run("python3", &["-m", "venv", folder.to_str().unwrap()]);
        run(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]);
        python
    })
}

/// The verdict, or why there is none.
fn judge(request: &Value) -> Result<Value, String> {
    let mut child = Command::new(python())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/judge.py"))
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
async fn a_browser_decrypts_what_is_pushed() {
    let web_push = WebPush::start().await;
    let credentials = json!({"default": {"web_push":
        {"key": include_str!("../../doubles/fixtures/apns.p8"), "subject": "mailto:planted@example.com"}}});
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", &credentials.to_string()),
        ("WEB_PUSH_TRUSTED_ORIGINS", &web_push.url),
    ];
    let pushlark = Pushlark::with_settings(settings).await;
    let browser = Subscriber::new(5);
    // A browser may write the padding, too.
    let form = json!({"service": "web-push", "endpoint": web_push.endpoint("browser"), "auth": format!("{}==", browser.auth()),
        "p256dh": browser.p256dh()});
    pushlark.enable_with(BOB, "browser", form).await;
    pushlark.message(BOB, "Grüße 👋").await;
    pushlark.message(BOB, &"x".repeat(10_000)).await;
    pushlark.settled().await;
    let mut texts: Vec<_> = web_push
        .taken("browser")
        .into_iter()
        .map(|request| {
            let body = BASE64_STANDARD.encode(&request.body);
            let (private_key, auth) = (browser.private_key(), browser.auth());
            judge(&json!({"judge": "web-push", "body": body, "private_key": private_key, "auth": auth})).unwrap()
        })
        .collect();
    texts.sort_by_key(|text| text.to_string().len());
    let expected =
        json!({"message-count": "1", "last-message-sender": "alice@example.com", "last-message-body": "Grüße 👋"});
    assert_eq!(texts[0], expected);
    let shortened = texts[1]["last-message-body"].as_str().unwrap();
    assert!(shortened.starts_with("xxx") && shortened.ends_with('…'));
    assert_eq!(texts[1].to_string().len(), 3_993);
    let other = Subscriber::new(6);
    let body = BASE64_STANDARD.encode(&web_push.taken("browser")[0].body);
    let request = json!({"judge": "web-push", "body": body, "private_key": other.private_key(), "auth": other.auth()});
    judge(&request).unwrap_err();
}

#[tokio::test]
async fn a_push_service_of_ones_own_verifies_what_it_is_sent() {
    let secret = "whsec_cGxhbnRlZC1zZWNyZXQtMjQtYnl0ZXMh";
    let receiver = Receiver::start().await;
    let url = format!("{}/push?x=1", receiver.url);
    let pushlark = Pushlark::with_settings([("PUSH_SERVICE", url.as_str()), ("PUSH_SERVICE_SECRET", secret)]).await;
    pushlark.enable_with(BOB, "device", json!({"service": "mine", "colour": "blue"})).await;
    let id = pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    let request = receiver.taken("device").remove(0);
    let headers: Value = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| (name.to_owned(), Value::from(request.header(name))))
        .into_iter()
        .collect();
    let body = String::from_utf8(request.body.to_vec()).unwrap();
    let mut verdict = judge(&json!({"judge": "webhook", "secret": secret, "body": body, "headers": headers})).unwrap();
    assert!(verdict["expires_at"].take().as_str().unwrap().ends_with('Z'));
    let options = json!({"service": "mine", "device_id": "planted-device", "colour": "blue"});
    let payload =
        json!({"message-count": "1", "last-message-sender": "alice@example.com", "last-message-body": "planted Hi"});
    let expected = json!({"type": "notification", "message_id": id, "recipient": BOB, "jid": "push.example.com",
        "node": "device", "publish_options": options, "payload": payload, "expires_at": null});
    assert_eq!(verdict, expected);
    let other = "whsec_AAAA9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    judge(&json!({"judge": "webhook", "secret": other, "body": body, "headers": headers})).unwrap_err();
}
