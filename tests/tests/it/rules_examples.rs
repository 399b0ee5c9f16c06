//! The rules in `examples/rules`, with events in and notifications out.

use serde_json::{Value, json};
use tests::{Event, Pushlark, stanza};
use time::OffsetDateTime;

/// Starts a stack with the rules of an example.
async fn example(name: &str) -> Pushlark {
    let rules = format!("file:{}/../examples/rules/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Pushlark::with_settings([("PLUGIN", "rules"), ("RULES", rules.as_str())]).await
}

/// Returns a time zone in which it is this hour now.
fn zone_at(hour: i16) -> String {
    let offset = (hour - i16::from(OffsetDateTime::now_utc().hour()) + 12).rem_euclid(24) - 12;
    // The signs of these zones are those of POSIX.
    format!("Etc/GMT{:+}", -offset)
}

/// Returns the rule that decides about an event for its first recipient and the first device.
async fn deciding_rule(pushlark: &Pushlark, event: &Event) -> String {
    let recipient = pushlark.explained(event).await;
    let rule = [&recipient["publications"][0]["rule"], &recipient["skipped"], &recipient["left_out"][0]["why"]]
        .into_iter()
        .find_map(Value::as_str);
    rule.unwrap_or_else(|| panic!("{recipient}")).replace("rules: ", "")
}

/// Checks which rule decides about each event, and the text that the device `phone` shows; data has no text.
async fn assert_decisions(pushlark: &Pushlark, decisions: Vec<(Event, &str, Option<&str>)>) {
    for (event, rule, text) in decisions {
        let before = pushlark.alerts("phone").await.len();
        assert_eq!(deciding_rule(pushlark, &event).await, rule);
        pushlark.event(&event).await;
        pushlark.settled().await;
        let alerts = pushlark.alerts("phone").await;
        assert_eq!(alerts[before..].iter().map(String::as_str).collect::<Vec<_>>(), Vec::from_iter(text), "{rule}");
    }
}

/// An invitation to a room (XEP-0249).
fn invitation(to: &str, from: &str, room: &str) -> Event {
    Event::stanza(to, &format!("<message><x xmlns='jabber:x:conference' jid='{room}'/></message>")).from(from)
}

fn call(to: &str, from: &str, step: &str) -> Event {
    Event::stanza(to, &stanza::jingle(step)).from(from)
}

fn stranger() -> Value {
    json!({"sender_known": false})
}

#[tokio::test]
async fn a_family_server_rings_always_and_is_quiet_at_night() {
    let pushlark = example("family").await;
    let (mum, kid) = ("mum@family.example", "kid@family.example");
    pushlark.enable_with(mum, "phone", json!({"tz": zone_at(12)})).await;
    let message = |text: &str| Event::message(mum, text).from(kid).with("sender_name", "Kid");
    let (online, inactive) = (json!({"online": true}), json!({"online": true, "client_state": "inactive"}));
    assert_decisions(
        &pushlark,
        vec![
            (message("canary day"), "rule 5 \"day\"", Some("canary day")),
            (message("canary inactive").recipient(inactive), "rule 5 \"day\"", Some("canary inactive")),
            (message("canary online").recipient(online.clone()), "no rule matches", None),
            (message("canary stranger").recipient(stranger()), "rule 2 \"strangers\"", None),
            (message("canary doorbell").from("door@things.family.example"), "rule 3 \"machines\"", None),
            (call(mum, kid, "propose").recipient(online), "rule 1 \"calls\"", Some("")),
            (call(mum, kid, "retract"), "rule 1 \"calls\"", Some("")),
            (
                Event::unacknowledged(&format!("{mum}/phone"), "canary lost").from(kid),
                "rule 6 \"lost\"",
                Some("canary lost"),
            ),
            (invitation(mum, kid, "party@muc.family.example").recipient(stranger()), "rule 2 \"strangers\"", None),
            (
                invitation(mum, kid, "party@muc.family.example"),
                "rule 5 \"day\"",
                Some("Invitation to party@muc.family.example"),
            ),
        ],
    )
    .await;
    pushlark.enable_with(mum, "phone", json!({"tz": zone_at(2)})).await;
    let night = message("canary night");
    assert_decisions(&pushlark, vec![(night, "rule 4 \"night\"", Some("canary night"))]).await;
}

#[tokio::test]
async fn a_support_desk_keeps_texts_and_notifies_the_agents_of_its_app() {
    let pushlark = example("support-desk").await;
    let (agent, visitor, room) = ("ann@desk.example", "v1@visitors.desk.example", "c7@rooms.desk.example/Visitor");
    let requests = "requests@rooms.desk.example/Visitor";
    pushlark.enable_with(agent, "phone", json!({"tz": zone_at(12), "app": "desk"})).await;
    pushlark.enable_with(agent, "private", json!({"tz": zone_at(12)})).await;
    pushlark.enable(visitor, "browser").await;
    let post = |from: &str| Event::groupchat(from, agent, "canary My password is secret");
    let named = post(room).with("room_name", "Customer 7");
    let (online, count) = (json!({"online": true}), json!({"unread_count": 3}));
    let mention =
        Event::groupchat(room, agent, "canary Ann, are you there?").recipient(json!({"nick": "Ann", "online": true}));
    assert_decisions(
        &pushlark,
        vec![
            (post(requests).recipient(count), "rule 4 \"new request\"", Some("Visitor waits (3 unread)")),
            (named.clone(), "rule 7 \"customer\"", Some("Visitor wrote (1 unread)")),
            (named.recipient(online), "no rule matches", None),
            (mention, "rule 6 \"mention\"", Some("Visitor asks for you")),
            (post(requests).at(tests::ago(3_700)), "rule 2 \"stale\"", None),
            (
                Event::message(agent, "canary Disk full").from("monitoring@desk.example"),
                "rule 3 \"outage\"",
                Some("canary Disk full"),
            ),
            (
                Event::message(agent, "canary Lunch?").from("bea@desk.example"),
                "rule 8 \"colleagues\"",
                Some("canary Lunch?"),
            ),
            (Event::message(agent, "canary Spam").from("x@elsewhere.example"), "no rule matches", None),
            (Event::message(visitor, "canary Hi").from(agent), "rule 1 \"visitors\"", None),
        ],
    )
    .await;
    // The rules for the app leave the agent's private device out.
    assert_eq!(pushlark.alerts("private").await, ["canary Disk full", "canary Lunch?"]);
    assert_eq!(pushlark.alerts("browser").await, [""; 0]);
    pushlark.enable_with(agent, "phone", json!({"tz": zone_at(2), "app": "desk"})).await;
    assert_decisions(&pushlark, vec![(post(requests), "rule 5 \"closed\"", None)]).await;
}

#[tokio::test]
async fn a_community_shows_mentions_and_one_banner_for_each_room() {
    let pushlark = example("community").await;
    let (user, friend) = ("bob@community.example", "ann@community.example");
    let room = "books@muc.community.example/ann";
    pushlark.enable(user, "phone").await;
    let crowd: Vec<_> = (0..201).map(|number| format!("u{number}@community.example")).collect();
    let crowd = [vec![user.to_owned()], crowd].concat();
    let long = format!("canary {}", "x".repeat(300));
    let shortened = format!("canary {}…", "x".repeat(192));
    assert_decisions(
        &pushlark,
        vec![
            (Event::groupchat(room, user, "canary Hi"), "rule 4 \"room\"", Some("ann: canary Hi")),
            (Event::groupchat(room, user, "canary Hi").recipient(json!({"online": true})), "no rule matches", None),
            (
                Event::groupchat(room, user, "canary Bob: look").recipient(json!({"nick": "Bob"})),
                "rule 2 \"mention\"",
                Some("canary Bob: look"),
            ),
            (Event::groupchat(room, &crowd, "canary Hi"), "rule 3 \"crowd\"", None),
            (Event::groupchat(room, &crowd, "canary @bob look"), "rule 2 \"mention\"", Some("canary @bob look")),
            (
                Event::groupchat("announcements@muc.community.example/ann", &crowd, &long),
                "rule 1 \"announcements\"",
                Some(&shortened),
            ),
            (
                invitation(user, friend, "tea@muc.community.example").recipient(stranger()),
                "rule 5 \"unknown inviters\"",
                None,
            ),
            (
                invitation(user, friend, "tea@muc.community.example").with("sender_name", "Ann"),
                "rule 6 \"invitation\"",
                Some("Ann invites you to tea@muc.community.example"),
            ),
            (
                Event::message(user, "canary Buy!").from("x@elsewhere.example").recipient(stranger()),
                "rule 7 \"strangers\"",
                Some("x@elsewhere.example wants to talk to you"),
            ),
            (Event::message(user, "canary Hi").from(friend), "rule 8 \"friends\"", Some("canary Hi")),
            (call(user, "x@elsewhere.example", "propose").recipient(stranger()), "rule 9 \"unknown callers\"", None),
            (call(user, friend, "propose"), "rule 10 \"calls\"", Some("")),
        ],
    )
    .await;
}
