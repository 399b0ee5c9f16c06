//! The files that servers wrote: each format leads to the same registrations.

use std::collections::BTreeMap;

use pushlark_model::Registration;
use serde_json::json;
use tests::Pushlark;

use super::{fixture, import, run};
use crate::Folder;

/// Maps the PubSub service of the fixtures to a virtual host.
const MAP: &str = "--map-host=pubsub.localhost=push.@HOST@";

/// Returns the PubSub service, the node and the form of each registration.
async fn stored(pushlark: &Pushlark, user: &str) -> Vec<(String, String, BTreeMap<String, String>)> {
    let one = |registration: Registration| {
        (registration.jid.to_string(), registration.node, registration.options.fields().clone())
    };
    pushlark.registrations(user).await.into_iter().map(one).collect()
}

fn form<const N: usize>(fields: [(&str, &str); N]) -> BTreeMap<String, String> {
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[tokio::test]
async fn the_storages_of_prosody_and_ejabberd_lead_to_the_same_registrations() {
    for (file, options, bob) in [
        ("prosody", &["prosody"][..], "bob.ohara_ü@localhost"),
        ("prosody-sql.sqlite", &["prosody"], "bob.ohara_ü@localhost"),
        ("ejabberd-mnesia.txt", &["ejabberd"], "bob.ohara@localhost"),
        ("ejabberd-sql.sqlite", &["ejabberd", "--host=localhost"], "bob.ohara@localhost"),
    ] {
        let (pushlark, folder) = (Pushlark::start().await, Folder::new());
        let report = import(&pushlark, &folder, &fixture(file), &[options, &[MAP, "--apply"]].concat()).await;
        let expected = json!({"applied": true, "rows": 6, "stored": 6, "without_notification": 2, "unchanged": 0,
            "left_out": {}, "unused_map_hosts": []});
        assert_eq!(report, expected, "{file}");
        for user in ["alice@localhost", bob] {
            let token = format!("{}-token", user.trim_end_matches("@localhost"));
            let phone = form([("service", "fcm"), ("device_id", &token)]);
            let odd = form([("service", "apns"), ("device_id", "0aF1"), ("topic", "com.\"\\\nü")]);
            let expected = [
                ("p2.example.org".to_owned(), "bare".to_owned(), form([])),
                ("push.localhost".to_owned(), "n\"\\<'ö".to_owned(), odd),
                ("push.localhost".to_owned(), "phone".to_owned(), phone),
            ];
            assert_eq!(stored(&pushlark, user).await, expected, "{file}");
        }
        // The time of the enable request at the server.
        let [first, ..] = &pushlark.registrations("alice@localhost").await[..] else { panic!("{file}") };
        let years = first.created_at / 1_000_000 / 31_556_952;
        assert!((55..60).contains(&years), "{file}: {years} years after 1970");
    }
}

#[tokio::test]
async fn the_dumps_of_mongooseim_lead_to_the_same_registrations() {
    for file in ["mongooseim-pg-copy.sql", "mongooseim-pg-inserts.sql", "mongooseim-mysql.sql", "mongooseim-mnesia.txt"]
    {
        let (pushlark, folder) = (Pushlark::start().await, Folder::new());
        let report = import(&pushlark, &folder, &fixture(file), &["mongooseim", MAP, "--apply"]).await;
        let is_mnesia = file.ends_with(".txt");
        let left_out = if is_mnesia { json!({}) } else { json!({"the row cannot be read": 1}) };
        let expected = json!({"applied": true, "rows": 4, "stored": if is_mnesia { 4 } else { 3 },
            "without_notification": 1, "unchanged": 0, "left_out": left_out,
            "unused_map_hosts": []});
        assert_eq!(report, expected, "{file}");
        let alice = form([("service", "fcm"), ("device_id", "alice-token"), ("silent", "false")]);
        let alices = [("push.localhost".to_owned(), "phone".to_owned(), alice)];
        assert_eq!(stored(&pushlark, "alice@localhost").await, alices, "{file}");
        let bob = [("service", "apns"), ("device_id", "0aF1"), ("topic", "com.example.bücher"), ("mode", "dev")];
        let bobs = [
            ("other.example".to_owned(), "node\t2".to_owned(), form([])),
            ("push.localhost".to_owned(), "node\\\"'1".to_owned(), form(bob)),
        ];
        assert_eq!(stored(&pushlark, "bob@localhost").await, bobs, "{file}");
        if is_mnesia {
            assert_eq!(pushlark.nodes("bücher@localhost").await, ["old"]);
            continue;
        }
        let times: Vec<_> = pushlark.registrations("bob@localhost").await.iter().map(|one| one.created_at).collect();
        assert_eq!(times, [1_700_000_000_000_003, 1_700_000_000_000_002], "{file}");
    }
}

#[tokio::test]
async fn csv_and_json_lines_carry_preferences_and_keys() {
    let key = "AAECAwQFBgcICQoLDA0ODw==";
    let csv = format!(
        "user,jid,node,enabled_at,preferences,encrypt,form.service,form.device_id\n\
         bob@localhost,push.localhost,phone,2024-01-02T03:04:05.000006Z,\"{{\"\"calls\"\": true}}\",\"{{\"\"alg\"\": \
         \"\"aes-128-gcm\"\", \"\"key\"\": \"\"{key}\"\"}}\",fcm,token\n"
    );
    let line = json!({"user": "bob@localhost", "jid": "push.localhost", "node": "phone",
        "enabled_at": "2024-01-02T03:04:05.000006Z", "preferences": {"calls": true},
        "encrypt": {"alg": "aes-128-gcm", "key": key}, "form": {"service": "fcm", "device_id": "token"}});
    let mut stored = Vec::new();
    for (name, content) in [("csv", csv), ("jsonl", format!("\u{feff}{line}\n\n"))] {
        let (pushlark, folder) = (Pushlark::start().await, Folder::new());
        let report = import(&pushlark, &folder, &folder.file("in", content), &[name, "--apply"]).await;
        assert_eq!((&report["stored"], &report["left_out"]), (&json!(1), &json!({})), "{name}");
        let [registration] = &pushlark.registrations("bob@localhost").await[..] else { panic!("{name}") };
        assert!(registration.preferences.as_ref().unwrap().calls && registration.encryption.is_some());
        assert_eq!(registration.created_at, 1_704_164_645_000_006);
        stored.push(registration.clone());
    }
    assert_eq!(stored[0], stored[1]);
}

#[tokio::test]
async fn the_arguments_of_the_commands_on_the_page_are_valid() {
    let (pushlark, folder) = (Pushlark::start().await, Folder::new());
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/migration.md");
    let page = std::fs::read_to_string(page).unwrap();
    let commands: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("pushlark ")).collect();
    assert!(commands.len() > 8, "{commands:?}");
    for command in commands {
        let arguments: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let ran = run(&pushlark, &folder, &arguments).await;
        assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
    }
}
