//! Text of users cannot control the operator's terminal, forge lines or change the order of the visible text.

use serde_json::{Value, json};
use tests::{ALICES_PC, BOB, PUSH_HOST, PushRequest, Pushlark};

use crate::{Ran, run, run_with};

/// Begins a line, an 8-bit control sequence and text from right to left, all of which a node and a body may have.
const HOSTILE: &str = "x\nforged: delivered\u{9b}31m\u{202e}txt";
const SHOWN: &str = "x\\nforged: delivered\\u{9b}31m\\u{202e}txt";

fn assert_harmless(Ran { stdout, stderr, .. }: &Ran) {
    let has_control = |text: &str| text.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}'));
    assert!(!has_control(stdout) && !has_control(stderr), "{stdout:?} {stderr:?}");
    assert!(!stdout.lines().chain(stderr.lines()).any(|line| line.starts_with("forged")), "{stdout}{stderr}");
}

#[tokio::test]
async fn hostile_nodes_and_bodies_are_printed_escaped() {
    let pushlark = Pushlark::start().await;
    assert_eq!(pushlark.json("/enable", PushRequest::new(BOB, HOSTILE).device("phone")).await.status, 200);
    for command in [
        &["registrations", "list", BOB][..],
        &["explain", "--from", ALICES_PC, "--to", BOB, "--body", HOSTILE],
        &["send", BOB],
    ] {
        let ran = run(&pushlark, command).await;
        assert_harmless(&ran);
        let printed = ran.printed();
        assert!(printed.contains(SHOWN), "{command:?}: {printed}");
    }
    let listed = run(&pushlark, &["registrations", "list", BOB, "--json"]).await;
    assert_harmless(&listed);
    assert_eq!(listed.json()["registrations"][0]["node"], HOSTILE);
    let disable = ["registrations", "disable", BOB, "--jid", PUSH_HOST, "--node", HOSTILE];
    let refused = run(&pushlark, &disable).await;
    assert!(refused.stderr.contains("\\u{9b}31m\\u{202e}"), "{}", refused.stderr);
    let id = "\u{1b}[2Jm1\n";
    let event = json!({"type": id, "from": ALICES_PC, "to": BOB});
    assert_harmless(&run_with(&pushlark, &["explain", "-"], &[], &event.to_string()).await);
}

#[tokio::test]
async fn answers_of_push_services_and_dead_letters_are_printed_escaped() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    pushlark.device_answers("phone", json!({"status": 400, "body": {"reason": HOSTILE}})).await;
    let sent = run(&pushlark, &["send", BOB]).await;
    assert_harmless(&sent);
    assert!(sent.stdout.contains("status 400"), "{}", sent.stdout);

    let queue = pushlark.stack.environment.text("DEAD_LETTER_QUEUE_URL").unwrap();
    let invocation = json!({"requestContext": {"condition": HOSTILE}, "requestPayload": HOSTILE,
        "responsePayload": {"errorMessage": "\u{1b}[2J"}});
    // SQS refuses some control characters, and JSON escapes them.
    for body in [invocation.to_string(), HOSTILE.to_owned()] {
        pushlark.stack.sqs.send_message().queue_url(queue).message_body(body).send().await.unwrap();
    }
    let listed = run(&pushlark, &["dead-letters", "list"]).await;
    assert_harmless(&listed);
    assert!(listed.stdout.contains("\\u{1b}[2J") && listed.stdout.contains("\\u{202e}txt"), "{}", listed.stdout);
    let messages = run(&pushlark, &["dead-letters", "list", "--json"]).await.json();
    let ids: Vec<_> = messages["messages"].as_array().unwrap().iter().map(|message| message["id"].clone()).collect();
    for id in ids.iter().filter_map(Value::as_str) {
        assert_harmless(&run(&pushlark, &["dead-letters", "show", id, "--bodies"]).await);
        assert_harmless(&run(&pushlark, &["dead-letters", "show", id, "--bodies", "--json"]).await);
    }
}
