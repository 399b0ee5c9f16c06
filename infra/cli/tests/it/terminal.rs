//! The operator's terminal: text of users cannot control it, forge lines or change the order of the visible text; tables
//! fit it, and it shows the progress of slow commands.

use std::net::TcpListener;
use std::process::Stdio;

use serde_json::{Value, json};
use tests::{ALICES_PC, BOB, PUSH_HOST, PushRequest, Pushlark};
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Ran, TEST_TIMEOUT, finished, run, run_with};

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

/// Runs a command in a terminal of this width, whose output has standard error, too.
async fn run_in_terminal(columns: u16, url: &str, arguments: &str) -> Ran {
    let command = format!("stty cols {columns}; exec {} --local={url} {arguments}", env!("CARGO_BIN_EXE_pushlark"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).env_clear();
    script.envs([("PATH", "/usr/bin:/bin"), ("TERM", "xterm"), ("SHELL", "/bin/sh"), ("NO_COLOR", "1")]);
    script.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    timeout(TEST_TIMEOUT, finished(script.spawn().unwrap())).await.expect("each wait ends")
}

#[tokio::test]
async fn tables_fit_the_terminal() {
    let pushlark = Pushlark::start().await;
    for node in ["phone".to_owned(), "long".repeat(100)] {
        pushlark.enable(BOB, &node).await;
    }
    for columns in [40, 80, 120, 200] {
        for command in [format!("registrations list {BOB}"), "status".to_owned()] {
            let printed = run_in_terminal(columns, &pushlark.stack.url, &command).await.printed();
            for line in printed.lines() {
                let width = line.trim_end_matches('\r').chars().count();
                assert!(width <= usize::from(columns), "{columns}: {printed}");
            }
        }
    }
    let piped = run(&pushlark, &["registrations", "list", BOB]).await.printed();
    assert!(piped.contains(&"long".repeat(100)), "{piped}");
}

#[tokio::test]
async fn a_stack_that_does_not_answer_is_named_after_a_visible_wait() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let ran = run_in_terminal(80, &url, "status").await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains(" looking for the stack"), "{ran:?}");
    assert!(ran.stdout.contains(&format!("pushlark: no local stack answers at {url}")), "{ran:?}");
}

#[tokio::test]
async fn the_wait_for_a_push_service_is_visible() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", url.as_str())]).await;
    pushlark.enable(BOB, "phone").await;
    let ran = run_in_terminal(80, &pushlark.stack.url, &format!("send {BOB}")).await;
    assert!(ran.stdout.contains(" asking the push service"), "{ran:?}");
}
