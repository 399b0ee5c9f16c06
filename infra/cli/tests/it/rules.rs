//! `rules check`: rules in words, and their decisions about events.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{Folder, Ran, finished, program, run_alone};

async fn rules(file: &str, event: &str, options: &[&str]) -> Ran {
    run_alone(&[&["rules", "check", file, "--event", event], options].concat()).await
}

/// Returns what the command prints; it must succeed.
async fn printed(file: &str, event: &str, options: &[&str]) -> String {
    let ran = rules(file, event, options).await;
    assert_eq!(ran.stderr, "");
    ran.printed()
}

/// Returns the error of the command.
async fn refused(file: &str, event: &str, options: &[&str]) -> String {
    let ran = rules(file, event, options).await;
    assert!(ran.code != Some(0) && ran.stdout.is_empty(), "{ran:?}");
    ran.stderr
}

fn message() -> Value {
    json!({"type": "message", "from": "ann@example.com/pc", "to": ["bob@example.com", "eve@example.com"],
        "chat": "chat", "body": "Hi", "sender_name": "Ann"})
}

const RULES: &str = r#"
[[rules]]
name = "eve"
action = "skip"
conditions = [{to = "eve@example.com"}]

[[rules]]
name = "night"
action = "push"
content = "message"
title = "{sender_name}"
priority = "normal"
sound = "none"
interruption_level = "time-sensitive"
channel_id = "quiet"
time_to_live = 600
collapse = "conversation"
conditions = [{user_status = "offline", provider = "apns"}]

[rules.data]
app = "chat"

[[rules]]
action = "push"
content = "message"
body = "{sender} wrote"
conditions = [{user_status = "online", client_state = "inactive", app = "work"}]

[[rules]]
name = "browser"
action = "push"
content = "message"
conditions = [{provider = "web-push", hour = {from = "00:00", to = "00:00"}}]
"#;

#[tokio::test]
async fn the_rule_that_decides_and_the_notification_are_printed_for_each_recipient_and_device() {
    let folder = Folder::new();
    let (file, event) = (folder.file("rules.toml", RULES), folder.file("event.json", message().to_string()));
    let night = "\
bob@example.com:
  apns: notified, rule 2 \"night\"
    message-count: 1
    last-message-sender: ann@example.com
    last-message-body: Hi
    app: chat
    title: Ann
    priority: normal
    sound: none
    interruption_level: time-sensitive
    channel_id: quiet
    time_to_live: 600 s
    collapse: conversation
  fcm: not notified, rules: no rule matches
eve@example.com: not notified, rules: rule 1 \"eve\"
";
    assert_eq!(printed(&file, &event, &[]).await, night);
    let inactive = "\
bob@example.com:
  fcm: notified, rule 3
    message-count: 1
    last-message-sender: ann@example.com
    last-message-body: ann@example.com wrote
eve@example.com: not notified, rules: rule 1 \"eve\"
";
    let options = ["--online=inactive", "--app", "work", "--provider", "fcm"];
    assert_eq!(printed(&file, &event, &options).await, inactive);
    let online = printed(&file, &event, &["--online"]).await;
    assert!(online.starts_with("bob@example.com:\n  apns: not notified, rules: no rule matches\n"), "{online}");
    let browser = printed(&file, &event, &["--provider", "web-push,apns", "--tz", "Europe/Vienna"]).await;
    assert!(browser.starts_with("bob@example.com:\n  web-push: notified, rule 4 \"browser\"\n"), "{browser}");
}

#[tokio::test]
async fn the_state_of_a_recipient_in_the_event_is_stronger_than_the_option() {
    let folder = Folder::new();
    let file = folder.file("rules.toml", RULES);
    let mut event = message();
    event["recipient"] = json!({"online": false});
    let event = folder.file("event.json", event.to_string());
    assert!(printed(&file, &event, &["--online"]).await.contains("apns: notified, rule 2"));
}

#[tokio::test]
async fn rules_and_events_that_are_not_valid_fail_with_the_file_the_rule_and_the_line() {
    let folder = Folder::new();
    let (file, event) = (folder.file("rules.toml", RULES), folder.file("event.json", message().to_string()));
    let wrong = folder.file("wrong.toml", "[[rules]]\naction = \"skip\"\n\n[[rules]]\naction = \"push\"\n");
    let expected = "rule 2, line 4: the action push needs a content: message or jingle\n";
    assert_eq!(refused(&wrong, &event, &[]).await, format!("pushlark: {wrong}: {expected}"));
    let none = folder.path("none");
    for (file, event) in [(&none, &event), (&file, &none)] {
        let refused = refused(file, event, &[]).await;
        assert!(refused.starts_with(&format!("pushlark: {none} cannot be read: ")), "{refused}");
    }
    for (text, reason) in [
        ("{", "EOF"),
        ("[]", "there is no event"),
        (r#"{"type": "message", "from": "a@example.com"}"#, "stanza is missing"),
        (
            r#"{"type": "presence", "jid": "a@example.com/pc", "status": "online"}"#,
            "the event is neither a message nor a contact request",
        ),
        (r#"{"type": "user_removed", "jid": "a@example.com"}"#, "the event is neither a message nor a contact request"),
    ] {
        let event = folder.file("wrong.json", text);
        let refused = refused(&file, &event, &[]).await;
        assert!(refused.starts_with(&format!("pushlark: {event}: ")) && refused.contains(reason), "{refused}");
    }
    assert!(refused(&file, &event, &["--tz", "Moon/Base"]).await.contains("Moon/Base"));
    assert!(refused(&file, &event, &["--provider", "pigeon"]).await.contains("pigeon"));
}

#[tokio::test]
async fn rules_without_an_event_are_printed_in_words() {
    let folder = Folder::new();
    let file = folder.file("rules.toml", RULES);
    let printed = run_alone(&["rules", "check", &file]).await.printed();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], "rule 1 \"eve\": no notification if to is \"eve@example.com\"");
    assert!(lines[1].starts_with("rule 2 \"night\": notification with "), "{printed}");
    assert!(lines[1].ends_with(" if provider is \"apns\" and user_status is \"offline\""), "{printed}");
    assert!(lines[1].contains("time_to_live 600") && lines[1].contains("data "), "{printed}");
    assert_eq!(lines[4], "otherwise: no notification");
    let json = run_alone(&["rules", "check", &file, "--json"]).await.json();
    assert_eq!(json["rules"].as_array().unwrap().len(), 4);
    let wrong = folder.file("wrong.toml", "[[rules]]\naction = \"skip\"\n\n[[rules]]\naction = \"push\"\n");
    let error = run_alone(&["rules", "check", &wrong]).await.error();
    assert!(error.contains("rule 2, line 4: "), "{error}");
}

#[tokio::test]
async fn several_events_are_decided_in_json() {
    let folder = Folder::new();
    let (file, event) = (folder.file("rules.toml", RULES), folder.file("event.json", message().to_string()));
    let decided: Value = serde_json::from_str(&printed(&file, &event, &["--event", &event, "--json"]).await).unwrap();
    let decisions = decided["decisions"].as_array().unwrap();
    assert_eq!((decisions.len(), &decisions[1]["skipped"]), (4, &json!("rules: rule 1 \"eve\"")));
    let both = json!([message(), message()]).to_string();
    let args = ["rules", "check", &file, "--event", "-", "--json"];
    let mut child = program(&args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(both.as_bytes()).await.unwrap();
    let of_array = finished(child).await.json();
    assert_eq!(of_array["decisions"].as_array().unwrap().len(), 4, "{of_array}");
    let first = &decisions[0]["publications"][0];
    assert_eq!((&first["rule"], &first["presentation"]["title"]), (&json!("rule 2 \"night\""), &json!("Ann")));
    assert_eq!(decisions[0]["left_out"][0], json!({"device": "fcm", "why": "rules: no rule matches"}));
}

#[tokio::test]
async fn the_examples_present_notifications_as_they_say() {
    let folder = Folder::new();
    let example = |name: &str| format!("{}/../../examples/rules/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let group = |room: &str, body: &str| {
        json!({"type": "message", "from": format!("{room}/ann"), "to": "bob@example.com", "chat": "groupchat",
            "body": body, "room_name": "Books"})
    };
    let mut night = message();
    // It is two o'clock in Vienna, today or yesterday.
    let today = time::OffsetDateTime::now_utc().replace_time(time::Time::from_hms(1, 0, 0).unwrap());
    let at = if today > time::OffsetDateTime::now_utc() { today - time::Duration::DAY } else { today };
    night["at"] = json!(at.format(&time::format_description::well_known::Rfc3339).unwrap());
    for (name, event, lines) in [
        ("family", night, ["notified, rule 4 \"night\"", "title: Ann", "sound: none", "interruption_level: passive"]),
        (
            "community",
            group("books@muc.community.example", "Hi"),
            ["notified, rule 4 \"room\"", "title: Books", "last-message-body: ann: Hi", "collapse: conversation"],
        ),
        (
            "community",
            group("announcements@muc.community.example", "Hi"),
            [
                "notified, rule 1 \"announcements\"",
                "title: Books",
                "time_to_live: 259200 s",
                "channel_id: announcements",
            ],
        ),
        (
            "support-desk",
            json!({"type": "message", "from": "monitoring@desk.example", "to": "ann@desk.example", "chat": "chat",
                "body": "Disk full"}),
            ["notified, rule 3 \"outage\"", "title: Outage", "sound: siren.caf", "interruption_level: time-sensitive"],
        ),
    ] {
        let printed = printed(&example(name), &folder.file("event.json", event.to_string()), &[]).await;
        for line in lines {
            assert!(printed.contains(line), "{name}: {line}: {printed}");
        }
    }
}

#[tokio::test]
async fn the_page_about_rules_shows_the_output_of_its_command() {
    let root = format!("{}/../..", env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(format!("{root}/docs/rules.md")).unwrap();
    let [_, shown, ..] = page.splitn(3, "```text\n").collect::<Vec<_>>()[..] else { panic!("the page has no output") };
    let (shown, _) = shown.split_once("```").unwrap();
    let example = |name: &str| format!("{root}/examples/rules/{name}");
    assert_eq!(printed(&example("community.toml"), &example("mention.json"), &[]).await, shown);
}
