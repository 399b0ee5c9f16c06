//! Sources that are cut off, too long, or not what they say.

use std::path::Path;

use serde_json::{Value, json};
use tests::Pushlark;

use super::{fixture, import, run};
use crate::Folder;

const GOOD_LINE: &str = r#"{"user": "bob@localhost", "jid": "push.localhost", "node": "good", "form": {"service": "fcm", "device_id": "t"}}"#;

/// Returns the reasons and details in a report.
fn details(folder: &Folder) -> Vec<(String, String)> {
    let report = std::fs::read_to_string(folder.path("report")).unwrap();
    let lines = report.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lines.map(|line| (text(&line["reason"]), text(&line["detail"]))).collect()
}

#[tokio::test]
async fn a_wrong_line_is_reported_and_does_not_stop_the_rest() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let line = |changes: Value| {
        let mut line: Value = serde_json::from_str(GOOD_LINE).unwrap();
        line.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        line.to_string().into_bytes()
    };
    let deep = [b"{\"preferences\": ".to_vec(), vec![b'['; 100_000]].concat();
    let fields = (0..40).map(|number| (number.to_string(), json!(""))).collect::<serde_json::Map<_, _>>();
    let lines = [
        (b"{".to_vec(), "the row cannot be read", "EOF"),
        (b"[]".to_vec(), "the row cannot be read", "expected a JSON object"),
        (b"\"\xff\"".to_vec(), "the row cannot be read", "expected a JSON object"),
        (deep, "the row cannot be read", "preferences: expected a map"),
        (vec![b'x'; 2_000_000], "the row cannot be read", "the line is longer than 1048576 bytes"),
        (line(json!({"user": null})), "the row cannot be read", "user"),
        (line(json!({"other": 1})), "the row cannot be read", "unknown field `other`"),
        (line(json!({"enabled_at": "yesterday"})), "the row cannot be read", "enabled_at"),
        (
            line(json!({"user": "localhost"})),
            "the user, the PubSub service, the node or the form is not valid",
            "localpart",
        ),
        (line(json!({"node": ""})), "the user, the PubSub service, the node or the form is not valid", "node is empty"),
        (
            line(json!({"jid": "bob@localhost"})),
            "the user, the PubSub service, the node or the form is not valid",
            "own",
        ),
        (line(json!({"form": {"service": "telegraph"}})), "no notification could reach the device", "apns or fcm"),
        (line(json!({"form": {"priority": "low"}})), "no notification could reach the device", "priority"),
        (line(json!({"form": fields})), "the form is too large", "40 fields"),
        (line(json!({"preferences": {"calls": 1}})), "the preferences or the key are not valid", "calls"),
        (line(json!({"encrypt": {"key": "secret-key"}})), "the preferences or the key are not valid", "encrypt"),
    ];
    let mut source: Vec<_> = lines.iter().map(|(line, ..)| line.clone()).collect();
    source.push(GOOD_LINE.into());
    let source = folder.file("in", source.join(&b"\n"[..]));
    let report = folder.path("report");
    let options = ["jsonl", "--apply", "--report", &report];
    let answer = import(&pushlark, &folder, &source, &options).await;
    assert_eq!((&answer["rows"], &answer["stored"]), (&json!(17), &json!(1)), "{answer}");
    assert_eq!(pushlark.nodes("bob@localhost").await, ["good"]);
    let details = details(&folder);
    assert_eq!(details.len(), lines.len());
    for ((_, reason, part), (found, detail)) in lines.iter().zip(&details) {
        assert!(found == reason && detail.contains(part), "{reason}, {part}: {found}, {detail}");
        assert!(!detail.contains("secret-key") && !detail.contains("telegraph"), "{detail}");
    }
}

#[tokio::test]
async fn sources_cut_at_any_byte_are_read_as_far_as_they_go() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    for (name, form) in [
        ("ejabberd-mnesia.txt", "ejabberd"),
        ("mongooseim-mnesia.txt", "mongooseim"),
        ("mongooseim-pg-copy.sql", "mongooseim"),
        ("mongooseim-mysql.sql", "mongooseim"),
        ("prosody/localhost/cloud_notify/alice.dat", "prosody"),
        ("prosody-sql.sqlite", "prosody"),
    ] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for part in 1..8 {
            let cut = &whole[..whole.len() * part / 8];
            let source = if name.ends_with(".dat") {
                std::fs::create_dir_all(folder.path("data/localhost/cloud_notify")).unwrap();
                folder.file("data/localhost/cloud_notify/alice.dat", cut);
                folder.path("data")
            } else {
                folder.file("in", cut)
            };
            let ran = run(&pushlark, &folder, &["--json", "import", &source, "--from", form]).await;
            // A part of a database of SQLite is not one.
            assert!(ran.code == Some(0) || name.ends_with(".sqlite") && ran.code == Some(1), "{name}: {ran:?}");
            assert!(!ran.stderr.contains("panicked"), "{name}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn a_source_that_is_not_one_is_refused_with_its_reason() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let pgdmp = folder.file("pgdmp", b"PGDMP\x01");
    let csv = folder.file("csv", "user,node\n");
    let token = folder.file("token", "user,jid,node,device_id\n");
    let unclosed = folder.file("unclosed", format!("user,jid,node\na@b,c,d\na@b,c,\"{}", "d\n".repeat(1_000_000)));
    let (empty, other) = (folder.path("empty"), fixture("prosody-sql.sqlite"));
    std::fs::create_dir(&empty).unwrap();
    for (source, form, error) in [
        ("/none/file", "mongooseim", "/none/file cannot be opened"),
        ("/none/file", "csv", "/none/file cannot be opened"),
        (pgdmp.as_str(), "mongooseim", "pg_dump --format=plain"),
        (csv.as_str(), "csv", "the CSV has no column jid"),
        (token.as_str(), "csv", "the CSV has an unknown column \"device_id\""),
        (empty.as_str(), "prosody", "give Prosody's data_path"),
        (empty.as_str(), "ejabberd", "is a folder"),
        (empty.as_str(), "jsonl", "is a folder"),
        ("/dev/null", "csv", "/dev/null is no regular file"),
        ("/dev/null", "mongooseim", "/dev/null is no regular file"),
        (unclosed.as_str(), "csv", "the row in line 3 cannot be read: a row is longer than 1048576 bytes"),
        ("postgres://user:hunter2@127.0.0.1:1/x", "csv", "give --from mongooseim, ejabberd or prosody"),
        (other.as_str(), "ejabberd", "the table cannot be read"),
        ("oracle://localhost/x", "ejabberd", "give postgres:// or mysql://"),
        ("postgres://user:hunter2@127.0.0.1:1/x", "ejabberd", "PostgreSQL does not accept the connection"),
        ("mysql://user:hunter2@127.0.0.1:1/x", "ejabberd", "MySQL does not accept the connection"),
    ] {
        let ran = run(&pushlark, &folder, &["import", source, "--from", form]).await.error();
        assert!(ran.contains(error) && !ran.contains("hunter2"), "{source}: {ran}");
    }
}

#[tokio::test]
async fn a_value_without_its_second_quote_is_named_with_the_rows_that_it_hides() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let rows = "user,jid,node,form.service,form.device_id\na@localhost,push.localhost,n,fcm,t\n\
                b@localhost,push.localhost,\"n,fcm,t\nc@localhost,push.localhost,n,fcm,t\n";
    let source = folder.file("in", rows);
    let report = folder.path("report");
    let answer = import(&pushlark, &folder, &source, &["csv", "--report", &report]).await;
    assert_eq!((&answer["rows"], &answer["stored"]), (&json!(2), &json!(1)), "{answer}");
    let details = details(&folder);
    assert!(details[0].1.contains("a quote may have no end"), "{details:?}");
}

#[tokio::test]
async fn a_source_without_rows_is_doubted() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let noise = folder.file("noise", vec![0xa5; 10_000]);
    let ran = run(&pushlark, &folder, &["import", &noise, "--from", "mongooseim"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("The source has no row of registrations"), "{ran:?}");
}

#[tokio::test]
async fn wrong_options_of_an_import_are_named_in_plain_words() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    for (option, error) in [
        ("--rate=0", "expected a number from 1 to"),
        ("--rate=4294967296", "expected a number from 1 to"),
        ("--host=bob@example.com", "expected a domain"),
        ("--map-host=push@HOST@=a", "must have a dot before @HOST@"),
    ] {
        let ran = run(&pushlark, &folder, &["import", "in", "--from", "jsonl", option]).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(error), "{option}: {ran:?}");
    }
}

#[tokio::test]
async fn a_report_that_nobody_reads_is_no_error() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let source = folder.file("in", GOOD_LINE);
    for arguments in [&[][..], &["--json"]] {
        let arguments = [&["import", &source, "--from", "jsonl", "--apply"], arguments].concat();
        let mut child = super::spawn(&pushlark, &folder, &arguments);
        drop(child.stdout.take());
        let ran = crate::finished(child).await;
        assert!(ran.code == Some(0) && ran.stderr.is_empty(), "{ran:?}");
        assert!(!Path::new(&folder.path("pushlark-import.state")).exists());
    }
    assert_eq!(pushlark.nodes("bob@localhost").await, ["good"]);
}
