//! The writes of an import: only with `--apply`, at a rate, never over a later enable request, and resumable.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Pushlark, eventually};

use super::{import, run, spawn};
use crate::{Folder, finished};

fn line(user: &str, node: &str, device: &str, enabled_at: &str) -> String {
    let form = json!({"service": "fcm", "device_id": device});
    json!({"user": user, "jid": "push.localhost", "node": node, "enabled_at": enabled_at, "form": form}).to_string()
}

fn counts(report: &Value) -> (u64, u64, &Value) {
    (report["stored"].as_u64().unwrap(), report["unchanged"].as_u64().unwrap(), &report["left_out"])
}

#[tokio::test]
async fn nothing_is_written_without_apply_and_a_second_import_changes_nothing() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let lines = [
        line("bob@localhost", "a", "a", "2024-01-01T00:00:00Z"),
        line("eve@localhost", "b", "b", "2024-01-01T00:00:00Z"),
    ];
    let source = folder.file("in", lines.join("\n"));
    let dry = import(&pushlark, &folder, &source, &["jsonl"]).await;
    assert_eq!((&dry["applied"], counts(&dry)), (&json!(false), (2, 0, &json!({}))));
    assert!(
        pushlark.nodes("bob@localhost").await.is_empty() && !Path::new(&folder.path("pushlark-import.state")).exists()
    );
    let text = run(&pushlark, &folder, &["import", &source, "--from", "jsonl"]).await;
    assert!(text.stdout.contains("Nothing was written."), "{text:?}");
    let first = import(&pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    assert_eq!(counts(&first), (2, 0, &json!({})));
    let before = pushlark.registrations("bob@localhost").await;
    let second = import(&pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    assert_eq!(counts(&second), (0, 2, &json!({})));
    assert_eq!(pushlark.registrations("bob@localhost").await, before);
    assert!(!Path::new(&folder.path("pushlark-import.state")).exists());
}

#[tokio::test]
async fn a_later_enable_request_wins() {
    let (pushlark, folder) =
        (Pushlark::with_settings([("DEVICE_ACCOUNTS", "one"), ("MAX_NODES", "2")]).await, Folder::new());
    pushlark.enable("bob@localhost", "again").await;
    pushlark.enable("carol@localhost", "moved").await;
    let old = "2024-01-01T00:00:00Z";
    let lines = [
        line("bob@localhost", "again", "old-token", old),
        // The device of another node, which was enabled since.
        line("bob@localhost", "other", "canary-again", old),
        // The device of another user since.
        line("dora@localhost", "x", "canary-moved", old),
        // The newest two of one user.
        line("eve@localhost", "third", "e3", "2024-01-03T00:00:00Z"),
        line("eve@localhost", "first", "e1", old),
        line("eve@localhost", "second", "e2", "2024-01-02T00:00:00Z"),
    ];
    let source = folder.file("in", lines.join("\n"));
    let report = import(&pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    let left_out = json!({"the user has enabled the node again since": 1,
        "the user has enabled the device at another node since": 1, "another user has enabled the device since": 1});
    assert_eq!(counts(&report), (3, 0, &left_out));
    let check = async || {
        assert_eq!(pushlark.nodes("bob@localhost").await, ["again"]);
        assert_eq!(pushlark.registrations("bob@localhost").await[0].options.get("device_id"), Some("canary-again"));
        assert!(pushlark.nodes("dora@localhost").await.is_empty());
        assert_eq!(pushlark.nodes("eve@localhost").await, ["second", "third"]);
    };
    check().await;
    let report = import(&pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    assert_eq!((&report["stored"], &report["unchanged"]), (&json!(0), &json!(2)), "{report}");
    assert_eq!(report["left_out"]["the user has MAX_NODES other registrations"], 1, "{report}");
    check().await;
}

#[tokio::test]
async fn an_import_that_is_killed_continues_where_it_ended() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let user = |number: usize| format!("user{number}@localhost");
    let lines: Vec<_> = (0..400).map(|n| line(&user(n), "n", &format!("t{n}"), "2024-01-01T00:00:00Z")).collect();
    let source = folder.file("in", lines.join("\n"));
    let arguments = ["--json", "import", &source, "--from", "jsonl", "--apply", "--rate", "20"];
    let state = || {
        let state = std::fs::read(folder.path("pushlark-import.state")).ok()?;
        serde_json::from_slice::<Value>(&state).ok()?["rows"].as_u64()
    };
    let mut child = spawn(&pushlark, &folder, &arguments);
    eventually("the state", async || state().filter(|rows| *rows >= 20)).await;
    child.kill().await.unwrap();
    let killed_at = state().unwrap();
    assert!(killed_at < 400, "{killed_at}");
    // An interrupted one says how to continue.
    let child = spawn(&pushlark, &folder, &arguments);
    eventually("more rows", async || state().filter(|rows| *rows > killed_at)).await;
    // No second import writes the same state.
    assert!(run(&pushlark, &folder, &arguments).await.error().contains("another import uses pushlark-import.state"));
    let pid = child.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let interrupted = finished(child).await;
    assert!(interrupted.stderr.contains("continues after"), "{interrupted:?}");
    assert!(interrupted.stderr.contains("run the same command to continue"), "{interrupted:?}");
    assert_eq!(interrupted.code, Some(1));
    // Another import does not continue this one.
    let other = [&arguments[..], &["--map-host=a.example=b.example"]].concat();
    assert!(run(&pushlark, &folder, &other).await.error().contains("is the state of another import"));
    let report = run(&pushlark, &folder, &[&arguments[..6], &["--rate", "10000"]].concat()).await.json();
    // What was written between the last state and the kill is unchanged.
    let (stored, unchanged, left_out) = counts(&report);
    assert_eq!((stored + unchanged, left_out), (400, &json!({})), "{report}");
    for number in 0..400 {
        assert_eq!(pushlark.nodes(&user(number)).await, ["n"]);
    }
}

#[tokio::test]
async fn the_writes_keep_the_rate() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let lines: Vec<_> =
        (0..40).map(|n| line(&format!("user{n}@localhost"), "n", &format!("t{n}"), "2024-01-01T00:00:00Z")).collect();
    let source = folder.file("in", lines.join("\n"));
    let begun = Instant::now();
    let arguments = ["--json", "import", &source, "--from", "jsonl", "--apply", "--rate", "20"];
    let report = run(&pushlark, &folder, &arguments).await.json();
    assert_eq!(counts(&report), (40, 0, &json!({})));
    assert!(begun.elapsed() > Duration::from_millis(1600), "{:?}", begun.elapsed());
}
