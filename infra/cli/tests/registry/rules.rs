//! `rules check`: rules in words, and their decisions about events.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder for the files of a test, which is deleted at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pushlark-rules-command-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn rules(file: &str, event: &str, options: &[&str]) -> Output {
    let command = env!("CARGO_BIN_EXE_pushlark");
    Command::new(command).args(["rules", "check", file, "--event", event]).args(options).output().unwrap()
}

/// Returns what the command prints; it must succeed.
fn printed(file: &str, event: &str, options: &[&str]) -> String {
    let Output { status, stdout, stderr } = rules(file, event, options);
    assert!(status.success() && stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Returns the error of the command; it must fail.
fn refused(file: &str, event: &str, options: &[&str]) -> String {
    let Output { status, stdout, stderr } = rules(file, event, options);
    assert!(!status.success() && stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    String::from_utf8(stderr).unwrap()
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

#[test]
fn the_rule_that_decides_and_the_notification_are_printed_for_each_recipient_and_device() {
    let folder = Folder::new("decides");
    let (file, event) = (folder.write("rules.toml", RULES), folder.write("event.json", &message().to_string()));
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
    assert_eq!(printed(&file, &event, &[]), night);
    let inactive = "\
bob@example.com:
  fcm: notified, rule 3
    message-count: 1
    last-message-sender: ann@example.com
    last-message-body: ann@example.com wrote
eve@example.com: not notified, rules: rule 1 \"eve\"
";
    let options = ["--online=inactive", "--app", "work", "--provider", "fcm"];
    assert_eq!(printed(&file, &event, &options), inactive);
    let online = printed(&file, &event, &["--online"]);
    assert!(online.starts_with("bob@example.com:\n  apns: not notified, rules: no rule matches\n"), "{online}");
    let browser = printed(&file, &event, &["--provider", "web-push,apns", "--tz", "Europe/Vienna"]);
    assert!(browser.starts_with("bob@example.com:\n  web-push: notified, rule 4 \"browser\"\n"), "{browser}");
}

#[test]
fn the_state_of_a_recipient_in_the_event_is_stronger_than_the_option() {
    let folder = Folder::new("state");
    let file = folder.write("rules.toml", RULES);
    let mut event = message();
    event["recipient"] = json!({"online": false});
    let event = folder.write("event.json", &event.to_string());
    assert!(printed(&file, &event, &["--online"]).contains("apns: notified, rule 2"));
}

#[test]
fn rules_and_events_that_are_not_valid_fail_with_the_file_the_rule_and_the_line() {
    let folder = Folder::new("not-valid");
    let (file, event) = (folder.write("rules.toml", RULES), folder.write("event.json", &message().to_string()));
    let wrong = folder.write("wrong.toml", "[[rules]]\naction = \"skip\"\n\n[[rules]]\naction = \"push\"\n");
    let expected = "rule 2, line 4: the action push needs a content: message or jingle\n";
    assert_eq!(refused(&wrong, &event, &[]), format!("pushlark: {wrong}: {expected}"));
    let none = folder.0.join("none").display().to_string();
    for (file, event) in [(&none, &event), (&file, &none)] {
        let refused = refused(file, event, &[]);
        assert!(refused.starts_with(&format!("pushlark: cannot read {none}: ")), "{refused}");
    }
    for (text, reason) in [
        ("{", "EOF"),
        (r#"{"type": "message", "from": "a@example.com"}"#, "stanza is missing"),
        (
            r#"{"type": "presence", "jid": "a@example.com/pc", "status": "online"}"#,
            "the event is neither a message nor a contact request",
        ),
        (r#"{"type": "user_removed", "jid": "a@example.com"}"#, "the event is neither a message nor a contact request"),
    ] {
        let event = folder.write("wrong.json", text);
        let refused = refused(&file, &event, &[]);
        assert!(refused.starts_with(&format!("pushlark: {event}: ")) && refused.contains(reason), "{refused}");
    }
    assert!(refused(&file, &event, &["--tz", "Moon/Base"]).contains("Moon/Base"));
    assert!(refused(&file, &event, &["--provider", "pigeon"]).contains("pigeon"));
}

#[test]
fn rules_without_an_event_are_printed_in_words() {
    let folder = Folder::new("words");
    let file = folder.write("rules.toml", RULES);
    let check = |file: &str, options: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_pushlark")).args(["rules", "check", file]).args(options).output().unwrap()
    };
    let printed = String::from_utf8(check(&file, &[]).stdout).unwrap();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], "rule 1 \"eve\": no notification if to is \"eve@example.com\"");
    assert!(lines[1].starts_with("rule 2 \"night\": notification with "), "{printed}");
    assert!(lines[1].ends_with(" if provider is \"apns\" and user_status is \"offline\""), "{printed}");
    assert!(lines[1].contains("time_to_live 600") && lines[1].contains("data "), "{printed}");
    assert_eq!(lines[4], "otherwise: no notification");
    let json: Value = serde_json::from_slice(&check(&file, &["--json"]).stdout).unwrap();
    assert_eq!(json["rules"].as_array().unwrap().len(), 4);
    let wrong = folder.write("wrong.toml", "[[rules]]\naction = \"skip\"\n\n[[rules]]\naction = \"push\"\n");
    let Output { status, stderr, .. } = check(&wrong, &[]);
    assert!(status.code() == Some(1) && String::from_utf8(stderr).unwrap().contains("rule 2, line 4: "));
}

#[test]
fn several_events_are_decided_in_json() {
    let folder = Folder::new("json");
    let (file, event) = (folder.write("rules.toml", RULES), folder.write("event.json", &message().to_string()));
    let decided: Value = serde_json::from_str(&printed(&file, &event, &["--event", &event, "--json"])).unwrap();
    let decisions = decided["decisions"].as_array().unwrap();
    assert_eq!((decisions.len(), &decisions[1]["skipped"]), (4, &json!("rules: rule 1 \"eve\"")));
    let first = &decisions[0]["publications"][0];
    assert_eq!((&first["rule"], &first["presentation"]["title"]), (&json!("rule 2 \"night\""), &json!("Ann")));
    assert_eq!(decisions[0]["left_out"][0], json!({"device": "fcm", "why": "rules: no rule matches"}));
}

#[test]
fn the_examples_present_notifications_as_they_say() {
    let folder = Folder::new("examples");
    let example = |name: &str| format!("{}/../../examples/rules/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let presented = |name: &str, event: Value, options: &[&str]| {
        let event = folder.write("event.json", &event.to_string());
        printed(&example(name), &event, options)
    };
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
        let printed = presented(name, event, &[]);
        for line in lines {
            assert!(printed.contains(line), "{name}: {line}: {printed}");
        }
    }
}

#[test]
fn the_page_about_rules_shows_the_output_of_its_command() {
    let root = format!("{}/../..", env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(format!("{root}/docs/rules.md")).unwrap();
    let [_, shown, ..] = page.splitn(3, "```text\n").collect::<Vec<_>>()[..] else { panic!("the page has no output") };
    let (shown, _) = shown.split_once("```").unwrap();
    let example = |name: &str| format!("{root}/examples/rules/{name}");
    assert_eq!(printed(&example("community.toml"), &example("mention.json"), &[]), shown);
}
