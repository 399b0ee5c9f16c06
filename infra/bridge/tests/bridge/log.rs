//! The log of the program.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::TEST_TIMEOUT;
use crate::chat_server::{DIGEST, ServerStream};
use crate::connected_bridge::{PUBLISH, message};
use crate::function::FunctionDouble;

/// Starts the program. Returns it with the chat server's end of its stream.
async fn program(urls: [&str; 4]) -> (Child, ServerStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bridge = Command::new(env!("CARGO_BIN_EXE_pushlark-bridge"))
        .args(["--server", &listener.local_addr().unwrap().to_string(), "--components", "push.example.com=test"])
        .args(urls)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    (bridge, ServerStream::accept(&listener, "push.example.com", DIGEST).await)
}

/// Stops the program, and returns its log.
async fn log_of(mut bridge: Child) -> String {
    Command::new("kill").args(["-TERM", &bridge.id().to_string()]).status().unwrap();
    let logged = tokio::task::spawn_blocking(move || {
        let mut logged = String::new();
        bridge.stdout.take().unwrap().read_to_string(&mut logged).unwrap();
        assert!(bridge.wait().unwrap().success());
        logged
    });
    timeout(TEST_TIMEOUT, logged).await.unwrap().unwrap()
}

/// The log has the URL and the detail of the function's answer; the error for the sender of the IQ has the reason.
#[tokio::test]
async fn a_wrong_secret_is_reported_in_the_log_and_the_iq_error() {
    let function = FunctionDouble::start().await;
    function.answers(401, r#"{"status": 401, "detail": "the credential is none of ours"}"#);
    let with_token = format!("{}?token=a-secret-in-a-url", function.url);
    let (bridge, mut stream) = program(["--iq-url", &with_token, "--messages-url", &with_token]).await;
    stream.write(PUBLISH).await;
    let answer = stream.read_to("</iq>").await;
    assert!(
        answer.contains("<error type=\"wait\">") && answer.contains("administrator must check the secret"),
        "{answer}"
    );
    stream.write(&message("body")).await;
    function.posted(2).await;
    let logged = log_of(bridge).await;
    for line in ["an IQ is not answered by the function", "messages are lost"] {
        let line = logged.lines().find(|logged| logged.contains(line)).unwrap();
        assert!(line.contains("status 401: the credential is none of ours"), "{line}");
    }
    assert!(logged.contains(&format!("url=\"{}\"", function.url)) && !logged.contains("a-secret-in-a-url"), "{logged}");
}

#[tokio::test]
async fn the_log_counts_lost_messages() {
    let messages = FunctionDouble::start().await;
    messages.answers(503, "");
    let (bridge, mut stream) = program(["--messages-url", &messages.url, "--iq-url", &messages.url]).await;
    for number in 0..3 {
        stream.write(&message(format!("body {number}"))).await;
    }
    messages.posted(3).await;
    let logged = log_of(bridge).await;
    // Each is tried once more when the bridge stops.
    assert!(messages.posted.lock().unwrap().len() >= 6);
    let lost: Vec<_> = logged.lines().filter(|line| line.contains("messages are lost")).collect();
    assert!(lost.len() == 1 && lost[0].contains("messages=3") && lost[0].contains("503"), "{logged}");
    assert!(!logged.contains("body 1"), "{logged}");
}
