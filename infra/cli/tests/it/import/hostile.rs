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
            // A part of a database of SQLite is not one, and others may have no complete row.
            let is_refused = ran.stderr.contains("check that it is the right one");
            let is_expected = if is_refused { Some(1) } else { Some(0) };
            assert!(ran.code == is_expected || name.ends_with(".sqlite") && ran.code == Some(1), "{name}: {ran:?}");
            assert!(!ran.stderr.contains("panicked"), "{name}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn a_source_that_is_not_one_is_refused_with_its_reason() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let pgdmp = folder.file("pgdmp", b"PGDMP\x01");
    let csv = folder.file("csv", "user,node\n");
    let twice = folder.file("twice", "user,jid,node,node\n");
    let token = folder.file("token", "user,jid,node,device_id\n");
    let unclosed = folder.file("unclosed", format!("user,jid,node\na@b,c,d\na@b,c,\"{}", "d\n".repeat(1_000_000)));
    let (empty, other) = (folder.path("empty"), fixture("prosody-sql.sqlite"));
    std::fs::create_dir(&empty).unwrap();
    for (source, form, error) in [
        ("/none/file", "mongooseim", "/none/file cannot be opened"),
        ("/none/file", "csv", "/none/file cannot be opened"),
        (pgdmp.as_str(), "mongooseim", "pg_dump --format=plain"),
        (csv.as_str(), "csv", "the CSV has no column jid"),
        (twice.as_str(), "csv", "the CSV has the column \"node\" twice"),
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
async fn a_source_without_a_registration_is_refused_unless_it_is_an_empty_one() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let noise = folder.file("noise", vec![0xa5; 10_000]);
    let other = folder.file("other", "INSERT INTO other VALUES (1);\nCREATE TABLE x (a int);\n");
    let text = std::fs::read_to_string(fixture("mongooseim-pg-copy.sql")).unwrap();
    let utf16 = folder.file("utf16", text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    let csv = folder.file("csv", "user,jid,node\nbob@localhost,push.localhost,n\n");
    for (source, form) in [
        (noise.as_str(), "mongooseim"),
        (&other, "mongooseim"),
        (&utf16, "mongooseim"),
        (&fixture("mongooseim-mysql.sql"), "ejabberd"),
        (&folder.file("none", ""), "ejabberd"),
    ] {
        for apply in [&[][..], &["--apply"]] {
            let ran = run(&pushlark, &folder, &[&["import", source, "--from", form], apply].concat()).await.error();
            let error = "the source has no row of registrations: check that it is the right one";
            assert!(ran.contains(error), "{source}: {ran}");
        }
    }
    for source in [&noise, &csv] {
        let ran = run(&pushlark, &folder, &["import", source, "--from", "jsonl", "--apply"]).await;
        assert!(ran.code == Some(1) && ran.stdout.contains("left out: the row cannot be read"), "{ran:?}");
        assert!(ran.stderr.contains("no row of the source can be read"), "{ran:?}");
    }
    for (name, content, form) in [
        ("header", "user,jid,node\n", "csv"),
        ("lines", "\n", "jsonl"),
        ("copy", "COPY public.push_session (username) FROM stdin;\n\\.\n", "ejabberd"),
        ("table", "CREATE TABLE `event_pusher_push_subscription` (`node` text);\n", "mongooseim"),
    ] {
        let report = import(&pushlark, &folder, &folder.file(name, content), &[form, "--apply"]).await;
        assert_eq!(report["rows"], 0, "{name}");
    }
    assert!(!Path::new(&folder.path("pushlark-import.state")).exists());
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped_and_a_pipe_does_not_stop_the_import() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let marked = |name: &str| [b"\xef\xbb\xbf".to_vec(), std::fs::read(fixture(name)).unwrap()].concat();
    for (name, form) in [("ejabberd-mnesia.txt", "ejabberd"), ("mongooseim-mnesia.txt", "mongooseim")] {
        let plain = import(&pushlark, &folder, &fixture(name), &[form]).await;
        assert_eq!(import(&pushlark, &folder, &folder.file("in", marked(name)), &[form]).await, plain, "{name}");
    }
    let data = "data/localhost/cloud_notify";
    std::fs::create_dir_all(folder.path(data)).unwrap();
    folder.file(&format!("{data}/alice.dat"), marked("prosody/localhost/cloud_notify/alice.dat"));
    let pipe = folder.path(&format!("{data}/pipe.dat"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let report = import(&pushlark, &folder, &folder.path("data"), &["prosody"]).await;
    assert_eq!((&report["stored"], &report["left_out"]), (&json!(3), &json!({"the row cannot be read": 1})));
}

#[tokio::test]
async fn neither_the_report_nor_the_state_takes_the_place_of_another_file() {
    use std::os::unix::fs::symlink;
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let mut sources = Vec::new();
    for name in ["in", "in.lock", "in.part", "in.state"] {
        sources.push(folder.file(name, GOOD_LINE));
    }
    let [source, lock, part, state] = &sources[..] else { panic!("{sources:?}") };
    symlink(source, folder.path("link")).unwrap();
    std::fs::hard_link(source, folder.path("hard")).unwrap();
    let other = folder.file("other", "of somebody");
    let (link, hard, resume) = (folder.path("link"), folder.path("hard"), folder.path("in.x"));
    for apply in [&[][..], &["--apply"]] {
        for (source, option, path, error) in [
            (source, "--report", source, "is the source"),
            (source, "--report", &link, "is the source"),
            (&link, "--report", source, "is the source"),
            (source, "--report", &hard, "is the source"),
            (source, "--report", &other, "cannot be created: --report is a new file"),
            (source, "--report", &"./pushlark-import.state".to_owned(), "is a file of --resume"),
            (lock, "--resume", &resume, "is the source"),
            (part, "--resume", &resume, "is the source"),
            (state, "--resume", state, "is the source"),
        ] {
            let arguments = [&["import", source, "--from", "jsonl", option, path], apply].concat();
            let ran = run(&pushlark, &folder, &arguments).await.error();
            assert!(ran.contains(error), "{option} {path} {apply:?}: {ran}");
        }
    }
    for (resume, error) in [
        (&resume, "in.lock is not a file of an import"),
        (lock, "must not end with .lock or .part"),
        (state, "in.lock is not a file of an import"),
    ] {
        let arguments = ["import", &other, "--from", "jsonl", "--apply", "--resume", resume];
        let ran = run(&pushlark, &folder, &arguments).await.error();
        assert!(ran.contains(error), "{resume}: {ran}");
    }
    for source in sources {
        assert_eq!(std::fs::read_to_string(source).unwrap(), GOOD_LINE);
    }
    assert_eq!(std::fs::read_to_string(other).unwrap(), "of somebody");
}

#[tokio::test]
async fn wrong_options_of_an_import_are_named_in_plain_words() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    for (option, error) in [
        ("--rate=0", "expected a number from 1 to"),
        ("--rate=4294967296", "expected a number from 1 to"),
        ("--host=bob@example.com", "expected a domain"),
        ("--map-host=push@HOST@=a", "must have a dot before @HOST@"),
        ("--map-host=A.example=c.example", "have the same FROM"),
    ] {
        let arguments = ["import", "in", "--from", "jsonl", "--map-host=a.example=b.example", option];
        let ran = run(&pushlark, &folder, &arguments).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(error), "{option}: {ran:?}");
    }
}

#[tokio::test]
async fn a_pair_of_hosts_that_matches_no_row_is_named() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let source = folder.file("in", GOOD_LINE);
    let pairs = ["--map-host=push.localhost=push.@HOST@", "--map-host=Typo.@HOST@=push.@HOST@"];
    let report = import(&pushlark, &folder, &source, &[&["jsonl"][..], &pairs].concat()).await;
    assert_eq!(report["unused_map_hosts"], json!(["typo.@HOST@=push.@HOST@"]));
    let text = run(&pushlark, &folder, &[&["import", &source, "--from", "jsonl"][..], &pairs].concat()).await;
    assert!(text.stdout.contains("--map-host typo.@HOST@=push.@HOST@ matches no row."), "{text:?}");
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
