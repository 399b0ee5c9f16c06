//! `status`: the queues of the stack, and a stack that is not there.

use serde_json::json;
use tests::Pushlark;

use crate::{run, run_alone, run_with};

#[tokio::test]
async fn status_shows_the_queues_of_the_local_stack_and_check_fails_with_dead_letters() {
    let stack = Pushlark::start().await;
    let status = run(&stack, &["status", "--check", "--json"]).await.json();
    let empty = json!({"queue": "events", "visible": 0, "in_flight": 0, "delayed": 0, "oldest_seconds": null});
    assert_eq!((&status["stack"], &status["queues"][0]), (&json!("local"), &empty));

    stack.enqueue("no record").await;
    stack.settled().await;
    let status = run(&stack, &["status", "--json"]).await.json();
    assert_eq!(status["queues"][1]["visible"], 1);
    assert_eq!(run(&stack, &["status", "--check"]).await.code, Some(1));
    let table = run_with(&stack, &["status"], &[("COLUMNS", "60")], "").await.stdout;
    assert!(table.lines().any(|line| line.split_whitespace().eq(["dead", "letters", "1", "0", "0", "-"])), "{table}");
    assert!(!table.contains('\x1b'), "{table}");
}

#[tokio::test]
async fn a_stack_that_is_not_there_is_named() {
    let ran = run_alone(&["--local=http://127.0.0.1:1", "status"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.starts_with("pushlark: no local stack answers at http://127.0.0.1:1"), "{}", ran.stderr);
    let ran = run_alone(&["status"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("no region is set"), "{}", ran.stderr);
}
