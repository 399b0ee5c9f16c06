use serde_json::json;
use tests::Pushlark;

use crate::pushlark;

#[tokio::test]
async fn status_shows_the_queues_of_the_local_stack_and_check_fails_with_dead_letters() {
    let stack = Pushlark::start().await;
    let local = format!("--local={}", stack.stack.url);
    let status = pushlark(&[&local, "status", "--check", "--json"], &[]).await.json(0);
    let empty = json!({"queue": "events", "visible": 0, "in_flight": 0, "delayed": 0, "oldest_seconds": null});
    assert_eq!((&status["stack"], &status["queues"][0]), (&json!("local"), &empty));

    stack.enqueue("no record").await;
    stack.settled().await;
    let status = pushlark(&[&local, "status", "--json"], &[]).await.json(0);
    assert_eq!(status["queues"][1]["visible"], 1);
    assert_eq!(pushlark(&[&local, "status", "--check"], &[]).await.code, 1);
    let table = pushlark(&[&local, "status"], &[("COLUMNS", "60")]).await.out;
    assert!(table.lines().any(|line| line.split_whitespace().eq(["dead", "letters", "1", "0", "0", "-"])), "{table}");
    assert!(!table.contains('\x1b'), "{table}");
}

#[tokio::test]
async fn a_stack_that_is_not_there_is_named() {
    let ran = pushlark(&["--local=http://127.0.0.1:1", "status"], &[]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.starts_with("pushlark: no local stack answers at http://127.0.0.1:1"), "{}", ran.err);
    let ran = pushlark(&["status"], &[]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no region is set"), "{}", ran.err);
}
