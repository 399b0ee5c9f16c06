//! An export and its import lead to the same registrations.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pushlark_model::Registration;
use serde_json::{Value, json};
use tests::Pushlark;

use super::{import, run, spawn};
use crate::{Folder, finished, run_alone};

const USERS: [&str; 3] = ["bob.o\u{fc}@localhost", "alice@localhost", "eve@other.localhost"];

/// A stack with registrations that need quotes.
async fn full() -> Pushlark {
    let pushlark = Pushlark::start().await;
    for (index, user) in USERS.into_iter().enumerate() {
        let quoted = json!({"device_id": format!("t{index}\"'\\\n,ü"), "topic": "a;b"});
        pushlark.enable_with(user, &format!("n\"'\\<,ö{index}"), quoted).await;
        pushlark.enable(user, "plain").await;
    }
    pushlark
}

async fn all(pushlark: &Pushlark, keeps_micros: bool) -> Vec<Vec<Registration>> {
    let mut users = Vec::new();
    for user in USERS {
        let mut registrations = pushlark.registrations(user).await;
        for registration in &mut registrations {
            registration.created_at /= if keeps_micros { 1 } else { 2_000_000 };
        }
        users.push(registrations);
    }
    users
}

#[tokio::test]
async fn each_format_carries_the_registrations() {
    let pushlark = full().await;
    for format in ["jsonl", "csv", "mongooseim", "ejabberd", "prosody"] {
        let folder = Folder::new();
        let output = folder.path("out");
        let arguments = ["--json", "export", "--format", format, "--output", &output];
        let report = run(&pushlark, &folder, &arguments).await.json();
        let left_out = match format {
            "prosody" => json!({"the time of the enable request below a second": 6}),
            _ => json!({}),
        };
        assert_eq!(report, json!({"exported": 6, "left_out": left_out}), "{format}");
        let mode = std::fs::metadata(&output).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{format}: only the owner can read it: {mode:o}");
        let again = run(&pushlark, &folder, &arguments).await.error();
        assert!(again.contains("cannot be created"), "{format}: {again}");
        let here = import(&pushlark, &folder, &output, &[format, "--apply"]).await;
        assert_eq!((&here["stored"], &here["unchanged"]), (&json!(0), &json!(6)), "{format}");
        let other = Pushlark::start().await;
        let there = import(&other, &folder, &output, &[format, "--apply"]).await;
        assert_eq!((&there["stored"], &there["left_out"]), (&json!(6), &json!({})), "{format}");
        let keeps_micros = format != "prosody";
        let mut expected = all(&pushlark, keeps_micros).await;
        let mut found = all(&other, keeps_micros).await;
        if !keeps_micros {
            for registration in expected.iter_mut().chain(&mut found).flatten() {
                registration.created_at = 0;
            }
        }
        assert_eq!(found, expected, "{format}");
    }
}

#[tokio::test]
async fn an_export_of_a_domain_has_its_users_alone() {
    let pushlark = full().await;
    pushlark.enable("ann@sub.other.localhost", "plain").await;
    let folder = Folder::new();
    for (format, domain, exported) in [("jsonl", "other.localhost", 2), ("csv", "Localhost", 4), ("jsonl", "host", 0)] {
        let output = folder.path(domain);
        let arguments = ["--json", "export", "--format", format, "--domain", domain, "--output", &output];
        let report = run(&pushlark, &folder, &arguments).await.json();
        assert_eq!(report, json!({"exported": exported, "left_out": {}}), "{domain}");
    }
    let other = Pushlark::start().await;
    import(&other, &folder, &folder.path("other.localhost"), &["jsonl", "--apply"]).await;
    let expected = [0, 0, 2];
    for (user, expected) in USERS.into_iter().zip(expected) {
        assert_eq!(other.registrations(user).await.len(), expected, "{user}");
    }
    let wrong = run(&pushlark, &folder, &["export", "bob@localhost", "--domain", "localhost"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[tokio::test]
async fn preferences_and_keys_are_reported_where_a_format_has_no_place_for_them() {
    let pushlark = Pushlark::start().await;
    let request = |node: &str, name: &str, value: Value| {
        json!({"user": "bob@localhost", "jid": "push.localhost", "node": node, name: value,
            "form": {"service": "fcm", "device_id": node}})
    };
    let key = json!({"alg": "aes-128-gcm", "key": "AAECAwQFBgcICQoLDA0ODw=="});
    assert_eq!(pushlark.json("/enable", request("a", "preferences", json!({"calls": true}))).await.status, 200);
    assert_eq!(pushlark.json("/enable", request("b", "encrypt", key)).await.status, 200);
    for (format, exported, left_out) in [
        ("jsonl", 2, json!({})),
        ("csv", 2, json!({})),
        ("ejabberd", 1, json!({"preferences": 1, "the registration, which is for encrypted notifications": 1})),
    ] {
        let folder = Folder::new();
        let output = folder.path("out");
        let arguments = ["--json", "export", "--format", format, "--output", &output];
        let report = run(&pushlark, &folder, &arguments).await.json();
        assert_eq!(report, json!({"exported": exported, "left_out": left_out}), "{format}");
        let other = Pushlark::start().await;
        import(&other, &folder, &output, &[format, "--apply"]).await;
        if exported == 2 {
            assert_eq!(other.registrations("bob@localhost").await, pushlark.registrations("bob@localhost").await);
        }
    }
}

#[tokio::test]
async fn fields_without_a_value_survive_a_csv() {
    let pushlark = Pushlark::start().await;
    pushlark.enable_with("bob@localhost", "a", json!({"tag": "", "other": ""})).await;
    pushlark.enable_with("bob@localhost", "b", json!({"tag": "x"})).await;
    pushlark.enable("bob@localhost", "c").await;
    let folder = Folder::new();
    let output = folder.path("out");
    let report = run(&pushlark, &folder, &["--json", "export", "--format", "csv", "--output", &output]).await.json();
    assert_eq!(report, json!({"exported": 3, "left_out": {}}));
    let other = Pushlark::start().await;
    import(&other, &folder, &output, &["csv", "--apply"]).await;
    let registrations = pushlark.registrations("bob@localhost").await;
    assert_eq!(registrations[0].options.get("tag"), Some(""));
    assert_eq!(other.registrations("bob@localhost").await, registrations);
    let wrong = folder.file("wrong", "user,jid,node,form\nbob@localhost,push.localhost,n,[]\n");
    let report = run(&other, &folder, &["import", &wrong, "--from", "csv"]).await;
    assert!(report.stdout.contains("form is not a JSON object"), "{report:?}");
}

#[tokio::test]
async fn a_user_whose_file_would_have_too_long_a_name_is_left_out_for_prosody() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(&format!("{}@localhost", "h\u{e9}".repeat(40)), "a").await;
    pushlark.enable("bob@localhost", "b").await;
    let folder = Folder::new();
    let output = folder.path("out");
    let report = run(&pushlark, &folder, &["--json", "export", "--format", "prosody", "--output", &output]).await;
    let left_out = json!({"the time of the enable request below a second": 1,
        "the registration: the name of its file has more than 255 bytes": 1});
    assert_eq!(report.json(), json!({"exported": 1, "left_out": left_out}));
    let other = Pushlark::start().await;
    import(&other, &folder, &output, &["prosody", "--apply"]).await;
    assert_eq!(other.nodes("bob@localhost").await, ["b"]);
}

#[tokio::test]
async fn an_export_that_fails_leaves_nothing_that_blocks_the_next_one() {
    let pushlark = full().await;
    let folder = Folder::new();
    let output = folder.path("out");
    for format in ["jsonl", "csv", "mongooseim", "prosody"] {
        let arguments = ["export", "--format", format, "--output", &output];
        // No stack.
        let ran = run_alone(&[&["--local=http://127.0.0.1:1"], &arguments[..]].concat()).await;
        assert!(ran.code == Some(1) && !Path::new(&output).exists(), "{format}: {ran:?}");
        // No space: a file has at most 0 bytes.
        let local = format!("--local={}", pushlark.stack.url);
        for arguments in [&arguments[..], &["export", USERS[0], "--output", &output]] {
            let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
            let mut command = tokio::process::Command::new("sh");
            command.args(["-c", script, env!("CARGO_BIN_EXE_pushlark"), &local]).args(arguments);
            let ran = command.env_clear().output().await.unwrap();
            assert!(ran.status.code() == Some(1) && !Path::new(&output).exists(), "{format}: {ran:?}");
        }
    }
    assert_eq!(run(&pushlark, &folder, &["export", "--format", "csv", "--output", &output]).await.code, Some(0));
}

#[tokio::test]
async fn an_export_whose_reader_has_seen_enough_is_no_error() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    // More than the buffers hold, so that a write fails before the last one.
    for node in 0..8 {
        pushlark.enable_with("bob@localhost", &node.to_string(), json!({"tag": "x".repeat(4000)})).await;
    }
    for format in ["jsonl", "csv", "mongooseim", "ejabberd"] {
        let mut child = spawn(&pushlark, &folder, &["export", "--format", format]);
        drop(child.stdout.take());
        let ran = finished(child).await;
        assert!(ran.code == Some(0) && !ran.stderr.contains("pushlark:"), "{format}: {ran:?}");
    }
}

#[tokio::test]
async fn wrong_arguments_of_an_export_are_named() {
    for arguments in [&["export"][..], &["export", "--format", "prosody"], &["export", "--output", "f"]] {
        let ran = run_alone(arguments).await;
        assert!(ran.code == Some(2) && ran.stderr.contains("required"), "{arguments:?}: {ran:?}");
    }
}

#[tokio::test]
async fn the_export_of_a_user_to_a_file_is_reported_in_json() {
    let (pushlark, folder) = (full().await, Folder::new());
    let output = folder.path("out");
    let report = run(&pushlark, &folder, &["--json", "export", "alice@localhost", "--output", &output]).await.json();
    let file: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    let items = file["items"].as_array().unwrap().len();
    assert_eq!(report, json!({"user": "alice@localhost", "exported": items}));
}
