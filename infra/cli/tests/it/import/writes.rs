//! The writes of an import: only with `--apply`, at a rate, never over a later enable request, and resumable.

use std::path::Path;
use std::time::{Duration, Instant};

use pushlark_xmpp::BareJid;
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
        "the user has enabled the device at another node since": 1, "another user has enabled the device since": 1,
        "the user has MAX_NODES other registrations": 1});
    assert_eq!(counts(&report), (2, 0, &left_out));
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

/// Returns the times of a user's registrations, in microseconds since 1970, by node.
async fn times(pushlark: &Pushlark, user: &str) -> Vec<(String, u64)> {
    pushlark.registrations(user).await.into_iter().map(|one| (one.node, one.created_at)).collect()
}

#[tokio::test]
async fn a_registration_keeps_its_time_beside_later_ones_and_max_nodes_keeps_the_latest() {
    let (pushlark, folder) = (Pushlark::with_settings([("MAX_NODES", "2")]).await, Folder::new());
    pushlark.enable("bob@localhost", "live1").await;
    let source = folder.file("in", line("bob@localhost", "old", "old", "2026-01-01T00:00:00.000007Z"));
    let report = import(&pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    assert_eq!(counts(&report), (1, 0, &json!({})));
    assert!(times(&pushlark, "bob@localhost").await.contains(&("old".to_owned(), 1_767_225_600_000_007)));
    pushlark.enable("bob@localhost", "live2").await;
    assert_eq!(pushlark.nodes("bob@localhost").await, ["live1", "live2"]);
    // The order of later requests is still that of their times.
    let [live1, live2] = &pushlark.registrations("bob@localhost").await[..] else { panic!() };
    assert!(live1.created_at < live2.created_at);
    let report = import(&pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    assert_eq!(counts(&report), (0, 0, &json!({"the user has MAX_NODES other registrations": 1})));
}

#[tokio::test]
async fn a_session_of_a_disabled_registration_is_not_tied_to_its_import() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let request = |action: &str| {
        let mut request = json!({"user": "bob@localhost/phone", "jid": "push.localhost", "node": "n"});
        if action == "/enable" {
            request["form"] = json!({"service": "fcm", "device_id": "t"});
        }
        request
    };
    assert_eq!(pushlark.json("/enable", request("/enable")).await.status, 200);
    let [(_, enabled_at)] = &times(&pushlark, "bob@localhost").await[..] else { panic!() };
    assert_eq!(pushlark.json("/disable", request("/disable")).await.status, 200);
    let source = folder.file("in", line("bob@localhost", "n", "t", "2026-01-01T00:00:00Z"));
    import(&pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    let snapshot = pushlark.store().snapshot(&BareJid::new("bob@localhost").unwrap()).await.unwrap();
    let [registration] = &snapshot.registrations[..] else { panic!("{snapshot:?}") };
    assert_eq!(registration.created_at, 1_767_225_600_000_000);
    assert!(snapshot.state_of(registration).unwrap().first_enabled_at > *enabled_at);
}

/// Imports the lines without and with `--apply`, and once more. Returns the first report.
async fn import_thrice(pushlark: &Pushlark, lines: &[String]) -> Value {
    let folder = Folder::new();
    let source = folder.file("in", lines.join("\n"));
    let mut dry = import(pushlark, &folder, &source, &["jsonl"]).await;
    let first = import(pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    let second = import(pushlark, &folder, &source, &["jsonl", "--apply"]).await;
    dry["applied"] = true.into();
    assert_eq!(dry, first);
    assert_eq!((&second["stored"], &second["unchanged"]), (&json!(0), &first["stored"]), "{first} {second}");
    assert_eq!(second["left_out"], first["left_out"]);
    first
}

#[tokio::test]
async fn repeated_nodes_and_devices_lead_to_the_same_in_any_order() {
    let lines = [
        line("q1@localhost", "n", "SAME", "2026-01-02T00:00:00Z"),
        line("q2@localhost", "n", "SAME", "2026-01-03T00:00:00Z"),
        line("q1@localhost", "n", "OLD", "2026-01-01T00:00:00Z"),
        line("q1@localhost", "n2", "SAME", "2026-01-01T00:00:00Z"),
        line("Q1@localhost", "n", "NEW", "2026-01-05T00:00:00Z"),
        line("q1@localhost", "n", "NEW", "2026-01-05T00:00:00Z"),
    ];
    let mut reversed = lines.clone();
    reversed.reverse();
    for (accounts, device) in [("many", "at another node"), ("one", "of another user")] {
        for lines in [&lines, &reversed] {
            let pushlark = Pushlark::with_settings([("DEVICE_ACCOUNTS", accounts)]).await;
            let report = import_thrice(&pushlark, lines).await;
            let left_out = json!({"a duplicate row: another one has the same node and time": 1,
                "the source has a later row of the node": 2,
                format!("the source has the device {device}, as late or later"): 1});
            assert_eq!(counts(&report), (2, 0, &left_out));
            assert_eq!(times(&pushlark, "q1@localhost").await, [("n".to_owned(), 1_767_571_200_000_000)]);
            assert_eq!(times(&pushlark, "q2@localhost").await, [("n".to_owned(), 1_767_398_400_000_000)]);
        }
    }
}

#[tokio::test]
async fn max_nodes_leads_to_the_same_in_any_order_and_beside_present_registrations() {
    let full = "the user has MAX_NODES other registrations";
    let bob = |day: usize| {
        line("bob@localhost", &format!("n{day}"), &format!("t{day}"), &format!("2026-01-0{day}T00:00:00Z"))
    };
    // Rows of other users are between them, so that they are in different groups.
    let lines = |days: [usize; 3]| {
        days.map(|day| [bob(day), line(&format!("u{day}@localhost"), "n", "t", "2026-01-01T00:00:00Z")]).concat()
    };
    for (reached, latest) in [("replace-oldest", "n5"), ("refuse-newest", "n3")] {
        for days in [[3, 4, 5], [5, 3, 4], [4, 5, 3], [5, 4, 3]] {
            let settings = [("MAX_NODES", "2"), ("MAX_NODES_REACHED", reached)];
            let pushlark = Pushlark::with_settings(settings).await;
            pushlark.enable("bob@localhost", "live").await;
            let report = import_thrice(&pushlark, &lines(days)).await;
            assert_eq!(counts(&report), (4, 0, &json!({full: 2})), "{reached} {days:?}");
            assert_eq!(pushlark.nodes("bob@localhost").await, ["live", latest], "{reached} {days:?}");
        }
    }
}

#[tokio::test]
async fn a_report_is_continued_by_the_import_that_continues_and_is_new_otherwise() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let mut lines: Vec<_> =
        (0..200).map(|n| line(&format!("user{n}@localhost"), "n", &format!("t{n}"), "2024-01-01T00:00:00Z")).collect();
    lines.insert(0, "{".into());
    lines.push("{".into());
    let source = folder.file("in", lines.join("\n"));
    let arguments = ["--json", "import", &source, "--from", "jsonl", "--apply", "--report", "report"];
    let state = || {
        let state = std::fs::read(folder.path("pushlark-import.state")).ok()?;
        serde_json::from_slice::<Value>(&state).ok()?["rows"].as_u64()
    };
    let mut child = spawn(&pushlark, &folder, &[&arguments[..], &["--rate", "20"]].concat());
    eventually("the state", async || state().filter(|rows| *rows >= 10)).await;
    child.kill().await.unwrap();
    let other = folder.file("other", "of somebody");
    let wrong = [&arguments[..7], &[&other, "--rate", "10000"]].concat();
    assert!(run(&pushlark, &folder, &wrong).await.error().contains("--report is a new file"));
    let fast = [&arguments[..], &["--rate", "10000"]].concat();
    let report = run(&pushlark, &folder, &fast).await.json();
    assert_eq!(report["left_out"], json!({"the row cannot be read": 2}));
    assert_eq!(std::fs::read_to_string(folder.path("report")).unwrap().lines().count(), 2);
    assert!(run(&pushlark, &folder, &fast).await.error().contains("--report is a new file"));
    assert_eq!(std::fs::read_to_string(other).unwrap(), "of somebody");
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
