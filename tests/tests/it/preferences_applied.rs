//! The preferences of a registration decide after every plugin, and at push nodes.

use std::collections::BTreeMap;

use doubles::{APNS_TOPIC, Behaviour, Lambda, canary};
use example_rooms::Rooms;
use local::Options;
use pushlark_plugin::Plugins;
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tests::{
    ALICE, ALICES_PC, BOB, BOBS_PC, BOBS_PHONE, CAROL, Event, IPHONE, IsolatedWorker, PUSH_HOST, Providers,
    PushRequest, Pushlark, ROOM_OCCUPANT, Work, XMPP, ago, stanza, with_fast_sqs,
};

const ROOM: &str = "room@muc.example.com";

/// Enables the device `canary-<node>` of FCM for a user's session or account, with preferences.
async fn enable(pushlark: &Pushlark, user: &str, node: &str, preferences: Value) {
    enable_form(pushlark, user, node, json!({"service": "fcm", "device_id": canary(node)}), preferences).await;
}

async fn enable_form(pushlark: &Pushlark, user: &str, node: &str, form: Value, preferences: Value) {
    let request = PushRequest::new(user, node).form(form).with("preferences", preferences);
    let reply = pushlark.json("/enable", request).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// Returns the decision of `/explain` for each of Bob's nodes: `notified`, or the reason why it is left out.
async fn decided(pushlark: &Pushlark, event: &Event) -> BTreeMap<String, String> {
    let (mut decided, recipient) = (BTreeMap::new(), pushlark.explained(event).await);
    for one in recipient["left_out"].as_array().unwrap() {
        decided.insert(one["node"].as_str().unwrap().to_owned(), one["why"].as_str().unwrap().to_owned());
    }
    for one in recipient["publications"].as_array().unwrap() {
        decided.insert(one["node"].as_str().unwrap().to_owned(), "notified".to_owned());
    }
    decided
}

/// Returns the nodes that are left out, each with the reason.
async fn left_out(pushlark: &Pushlark, event: &Event) -> Vec<(String, String)> {
    decided(pushlark, event).await.into_iter().filter(|(_, why)| why != "notified").collect()
}

/// Returns the payload that a node of Bob gets.
async fn payload(pushlark: &Pushlark, event: &Event, node: &str) -> Value {
    let mut explained = pushlark.explained(event).await;
    let publications = explained["publications"].as_array_mut().unwrap();
    let publication = publications.iter_mut().find(|one| one["node"] == node);
    publication.unwrap_or_else(|| panic!("{node} is left out of {event}"))["payload"].take()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(node, why)| ((*node).to_owned(), (*why).to_owned())).collect()
}

fn message() -> Event {
    Event::message(BOB, "canary Hi")
}

fn group_message(text: &str) -> Event {
    Event::groupchat(ROOM_OCCUPANT, BOB, text)
}

fn invitation() -> Event {
    let invitation = format!("<x xmlns='jabber:x:conference' jid='{ROOM}' reason='canary reason'/>");
    Event::stanza(BOB, &format!("<message>{invitation}</message>"))
}

fn call(step: &str, from: &str, to: &str) -> Event {
    Event::stanza(BOB, &format!("<message to='{to}'><{step} xmlns='urn:xmpp:jingle-message:0' id='c1'/></message>"))
        .from(from)
}

fn propose() -> Event {
    call("propose", ALICES_PC, BOB)
}

const MUTED: &str = "the sender is muted";
const QUIET: &str = "quiet hours";
const UNKNOWN: &str = "the sender is unknown";
const ROOM_IGNORED: &str = "the room is not among those that notify";
const NO_MENTION: &str = "the message does not mention the user";

#[tokio::test]
async fn a_muted_conversation_does_not_notify() {
    let pushlark = Pushlark::start().await;
    let later = ago(-3_600);
    for (node, preferences) in [
        ("alice", json!({"mute": [{"jid": ALICE}]})),
        ("alice-calls", json!({"mute": [{"jid": ALICE, "until": later, "calls": true}]})),
        ("alice-until", json!({"mute": [{"jid": CAROL}, {"jid": ALICE, "until": later}]})),
        ("all-calls", json!({"mute": [{"jid": ALICE}], "calls": true})),
        ("over", json!({"mute": [{"jid": ALICE, "until": ago(1), "calls": true}]})),
        ("plain", json!({})),
        ("room", json!({"mute": [{"jid": ROOM}]})),
    ] {
        enable(&pushlark, BOB, node, preferences).await;
    }
    let of_alice = [("alice", MUTED), ("alice-calls", MUTED), ("alice-until", MUTED), ("all-calls", MUTED)];
    let private = format!("<message><body>Hi</body>{}</message>", "<x xmlns='http://jabber.org/protocol/muc#user'/>");
    let both = [&of_alice[..], &[("room", MUTED)]].concat();
    for (event, expected) in [
        (message(), &of_alice[..]),
        (message().from("ALICE@Example.COM/other"), &of_alice),
        (message().from("alice@example.org/pc"), &[]),
        (message().from("example.com"), &[]),
        (message().from("carol@example.com/x"), &[("alice-until", MUTED)]),
        (group_message("canary Hi"), &[("room", MUTED)]),
        (Event::stanza(BOB, &private).from(ROOM_OCCUPANT), &[("room", MUTED)]),
        (Event::groupchat("other@muc.example.com/alice", BOB, "canary Hi"), &[]),
        // An invitation is about the inviter and the room.
        (invitation(), &both),
        (invitation().from(CAROL), &[("alice-until", MUTED), ("room", MUTED)]),
        (Event::subscription(ALICE, BOB), &of_alice),
        (Event::subscription("dave@example.com", BOB), &[]),
        (propose(), &[("alice-calls", MUTED), ("all-calls", MUTED)]),
        (call("retract", ALICES_PC, BOB), &[("alice-calls", MUTED), ("all-calls", MUTED)]),
        // Bob's other device has answered: the call is Alice's.
        (call("accept", BOBS_PC, ALICE), &[("alice-calls", MUTED), ("all-calls", MUTED)]),
        (call("accept", BOBS_PC, CAROL), &[]),
        (call("propose", "carol@example.com/x", BOB), &[]),
    ] {
        assert_eq!(left_out(&pushlark, &event).await, owned(expected), "{event}");
    }
    pushlark.event(message()).await;
    pushlark.settled().await;
    for (node, notifications) in [("alice", 0), ("alice-until", 0), ("over", 1), ("plain", 1), ("room", 1)] {
        assert_eq!(pushlark.notifications(node).await.len(), notifications, "{node}");
    }
}

/// Returns the names of the day in UTC that is this many days after today.
fn day(after: i64) -> String {
    let at = time::OffsetDateTime::now_utc() + time::Duration::days(after);
    at.weekday().to_string()[..3].to_lowercase()
}

#[tokio::test]
async fn quiet_hours_stop_messages_and_calls_only_if_they_say_so() {
    let pushlark = Pushlark::start().await;
    let whole_day = json!({"from": "00:00", "to": "00:00", "tz": "UTC"});
    let with = |fields: Value| {
        let mut quiet = whole_day.clone();
        quiet.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        quiet
    };
    // It is about 12 o'clock in one zone of these while it is midnight in the other.
    let noon = ["Etc/GMT-12", "UTC"].map(|tz| json!({"from": "06:00", "to": "18:00", "tz": tz}));
    for (node, preferences) in [
        ("always", json!({"quiet_hours": [whole_day]})),
        ("calls", json!({"quiet_hours": [whole_day], "calls": true})),
        ("entry", json!({"quiet_hours": [with(json!({"calls": true})), whole_day]})),
        ("one-of-two", json!({"quiet_hours": noon})),
        ("other-days", json!({"quiet_hours": [with(json!({"days": [day(2), day(3)]}))]})),
        ("these-days", json!({"quiet_hours": [with(json!({"days": [day(-1), day(0), day(1)]}))]})),
    ] {
        enable(&pushlark, BOB, node, preferences).await;
    }
    let messages = ["always", "calls", "entry", "one-of-two", "these-days"].map(|node| (node, QUIET));
    let calls = ["calls", "entry"].map(|node| (node, QUIET));
    for (event, expected) in [
        (message(), &messages[..]),
        (group_message("canary Hi"), &messages),
        (invitation(), &messages),
        (Event::subscription(ALICE, BOB), &messages),
        (propose(), &calls),
        (call("retract", ALICES_PC, BOB), &calls),
    ] {
        assert_eq!(left_out(&pushlark, &event).await, owned(expected), "{event}");
    }
}

#[tokio::test]
async fn rooms_notify_always_by_mentions_or_never() {
    let pushlark = Pushlark::start().await;
    let other = "other@muc.example.com";
    for (node, rooms) in [
        ("always", json!("always")),
        ("mentions", json!("mentions")),
        ("never", json!("never")),
        ("nick", json!([{"jid": ROOM, "allow": "mentions", "nick": "Bobby"}, {"jid": other, "allow": "always"}])),
        ("none-listed", json!([])),
        ("room-never", json!([{"jid": ROOM, "allow": "never"}])),
    ] {
        enable(&pushlark, BOB, node, json!({"rooms": rooms})).await;
    }
    let silent = [("never", ROOM_IGNORED), ("none-listed", ROOM_IGNORED), ("room-never", ROOM_IGNORED)];
    let unless_mentioned = |nodes: &[&'static str]| {
        let mut expected: Vec<_> = nodes.iter().map(|node| (*node, NO_MENTION)).chain(silent).collect();
        expected.sort();
        expected
    };
    let with = |element: &str| {
        let stanza = format!("<message type='groupchat'><body>Hi</body>{element}</message>");
        Event::stanza(BOB, &stanza).from(ROOM_OCCUPANT)
    };
    let with_mention = |attributes: &str| with(&format!("<mention xmlns='urn:xmpp:mentions:0' {attributes}/>"));
    let with_reference =
        |uri: &str| with(&format!("<reference xmlns='urn:xmpp:reference:0' type='mention' uri='{uri}'/>"));
    let inner =
        format!("<message xmlns='jabber:client' type='groupchat' from='{ROOM_OCCUPANT}'><body>Bobby</body></message>");
    let subscribed = format!(
        "<message from='{ROOM}'><event xmlns='http://jabber.org/protocol/pubsub#event'><items node='urn:xmpp:mucsub:nodes:\
         messages'><item id='1'>{inner}</item></items></event></message>"
    );
    let private = "<message type='chat'><body>Hi</body><x xmlns='http://jabber.org/protocol/muc#user'/></message>";
    for (event, expected) in [
        (group_message("canary Hi"), unless_mentioned(&["mentions", "nick"])),
        (group_message("Bobby: your turn"), unless_mentioned(&["mentions"])),
        (group_message("hey bobby!"), unless_mentioned(&["mentions"])),
        (group_message("kebobby"), unless_mentioned(&["mentions", "nick"])),
        (group_message("Rob: your turn").recipient(json!({"nick": "Rob"})), unless_mentioned(&["nick"])),
        (group_message("Bobby").recipient(json!({"nick": "Rob"})), unless_mentioned(&["mentions"])),
        (
            Event::stanza(
                BOB,
                &format!("<message type='groupchat'><body>&gt; Bobby\nSure</body>{}</message>", stanza::quote(8)),
            )
            .from(ROOM_OCCUPANT),
            unless_mentioned(&["mentions", "nick"]),
        ),
        (with_reference("xmpp:bob@example.com"), silent.to_vec()),
        (with_reference("xmpp:carol@example.com"), unless_mentioned(&["mentions", "nick"])),
        (with_reference("xmpp:room@muc.example.com/Bobby"), unless_mentioned(&["mentions"])),
        (with_reference("xmpp:room@muc.example.com/Bob%62y?join"), unless_mentioned(&["mentions"])),
        (with_mention("jid='bob@example.com'"), silent.to_vec()),
        (with_mention("jid='room@muc.example.com/Bobby'"), unless_mentioned(&["mentions"])),
        (
            with_mention("jid='bob@example.com' mentions='urn:xmpp:mentions:0#x'"),
            unless_mentioned(&["mentions", "nick"]),
        ),
        (Event::stanza(BOB, &subscribed).from(ROOM), unless_mentioned(&["mentions"])),
        (
            Event::groupchat("Other@MUC.example.com/x", BOB, "canary Hi"),
            vec![
                ("mentions", NO_MENTION),
                ("never", ROOM_IGNORED),
                ("none-listed", ROOM_IGNORED),
                ("room-never", ROOM_IGNORED),
            ],
        ),
        // An invitation to another room does not let an occupant notify everybody.
        (with("<x xmlns='jabber:x:conference' jid='other@muc.example.com'/>"), unless_mentioned(&["mentions", "nick"])),
        // Not messages of a room.
        (Event::stanza(BOB, private).from(ROOM_OCCUPANT), vec![]),
        (invitation(), vec![]),
        (message(), vec![]),
    ] {
        assert_eq!(left_out(&pushlark, &event).await, owned(&expected), "{event}");
    }
}

#[tokio::test]
async fn messages_and_calls_of_unknown_senders_are_ignored() {
    let pushlark = Pushlark::start().await;
    enable(&pushlark, BOB, "ignores", json!({"unknown": "ignore"})).await;
    enable(&pushlark, BOB, "plain", json!({"unknown": "notify"})).await;
    let private = "<message type='chat'><body>Hi</body><x xmlns='http://jabber.org/protocol/muc#user'/></message>";
    let invite = format!("<invite from='{ROOM_OCCUPANT}'/>");
    let mediated = format!("<message><x xmlns='http://jabber.org/protocol/muc#user'>{invite}</x></message>");
    for (event, is_ignored) in [
        (message(), true),
        (invitation(), true),
        (Event::stanza(BOB, &mediated).from(ROOM), true),
        (propose(), true),
        (group_message("canary Hi"), false),
        (Event::stanza(BOB, private).from(ROOM_OCCUPANT), false),
        // The way in which an unknown user becomes known.
        (Event::subscription(ALICE, BOB), false),
    ] {
        let unknown = event.clone().recipient(json!({"sender_known": false}));
        let expected = if is_ignored { &[("ignores", UNKNOWN)][..] } else { &[] };
        assert_eq!(left_out(&pushlark, &unknown).await, owned(expected), "{unknown}");
        for known in [event.clone(), event.recipient(json!({"sender_known": true}))] {
            assert_eq!(left_out(&pushlark, &known).await, [], "{known}");
        }
    }
}

#[tokio::test]
async fn while_online_decides_for_each_device_by_the_other_sessions() {
    let pushlark = Pushlark::start().await;
    for (session, node) in [(BOBS_PHONE, "phone"), (BOBS_PC, "pc")] {
        for value in ["never", "inactive", "away", "always"] {
            // A session is tied to the registration that it enabled last, so each registration has its own.
            let session = format!("{session}-{value}");
            pushlark.event(Event::presence(&session, "online")).await;
            enable(&pushlark, &session, &format!("{node}-{value}"), json!({"while_online": value})).await;
            pushlark.event(Event::presence(&session, "offline")).await;
        }
    }
    let desktop = |status: &str| Event::presence("bob@example.com/desktop", status);
    let reported = |fields: Value| message().recipient(fields);
    let away = |event: Event| event.with("show", "away");
    let inactive = |event: Event| event.with("client_state", "inactive");
    for (presence, event, expected) in [
        (desktop("offline"), message(), &["never", "inactive", "away", "always"][..]),
        (desktop("online"), message(), &["always"]),
        (desktop("online").with("show", "chat"), message(), &["always"]),
        (away(desktop("online")), message(), &["away", "always"]),
        (inactive(desktop("online")), message(), &["inactive", "away", "always"]),
        (inactive(away(desktop("online"))), message(), &["inactive", "away", "always"]),
        // The chat server knows best whether the user is online, and the table which session is away.
        (desktop("online"), reported(json!({"online": false})), &["never", "inactive", "away", "always"]),
        (desktop("online"), reported(json!({"online": true})), &["always"]),
        (away(desktop("online")), reported(json!({"online": true})), &["away", "always"]),
        (away(desktop("online")), reported(json!({"client_state": "active"})), &["away", "always"]),
        (
            desktop("online"),
            reported(json!({"online": true, "client_state": "inactive"})),
            &["inactive", "away", "always"],
        ),
        (inactive(desktop("online")), reported(json!({"online": true, "client_state": "active"})), &["always"]),
        (desktop("offline"), reported(json!({"online": true})), &["always"]),
        (
            desktop("offline"),
            reported(json!({"online": true, "client_state": "inactive"})),
            &["inactive", "away", "always"],
        ),
    ] {
        pushlark.event(&presence).await;
        let decided = decided(&pushlark, &event).await;
        for node in ["phone", "pc"] {
            for value in ["never", "inactive", "away", "always"] {
                let is_notified = decided[&format!("{node}-{value}")] == "notified";
                assert_eq!(is_notified, expected.contains(&value), "{node}-{value}: {presence} {event}");
            }
        }
        // A call does not depend on other sessions.
        assert_eq!(left_out(&pushlark, &propose()).await, []);
    }
}

#[tokio::test]
async fn a_device_whose_own_session_is_active_is_not_notified() {
    let pushlark = Pushlark::start().await;
    pushlark.event(Event::presence(BOBS_PC, "online")).await;
    pushlark.event(Event::presence(BOBS_PHONE, "online")).await;
    enable(&pushlark, BOBS_PHONE, "phone", json!({"while_online": "always"})).await;
    enable(&pushlark, BOB, "tablet", json!({"while_online": "always"})).await;
    let online = owned(&[("phone", "defaults: the recipient is online")]);
    assert_eq!(left_out(&pushlark, &message()).await, online);
    for phone in [
        Event::presence(BOBS_PHONE, "online").with("client_state", "inactive"),
        Event::presence(BOBS_PHONE, "online").with("show", "xa"),
        Event::presence(BOBS_PHONE, "offline"),
    ] {
        pushlark.event(&phone).await;
        assert_eq!(left_out(&pushlark, &message()).await, [], "{phone}");
    }
}

#[tokio::test]
async fn never_counts_an_inactive_session_of_another_device_but_not_of_its_own() {
    let pushlark = Pushlark::start().await;
    let inactive = |session| Event::presence(session, "online").with("client_state", "inactive");
    pushlark.event(inactive(BOBS_PHONE)).await;
    enable(&pushlark, BOBS_PHONE, "phone", json!({"while_online": "never"})).await;
    assert_eq!(left_out(&pushlark, &message()).await, []);
    pushlark.event(inactive(BOBS_PC)).await;
    assert_eq!(left_out(&pushlark, &message()).await, owned(&[("phone", "the user is online")]));
}

#[tokio::test]
async fn two_devices_get_one_message_by_their_own_preferences_with_each_plugin() {
    let silent = json!({"while_online": "never", "show": "nothing"});
    let reached = json!({"while_online": "always", "show": "sender"});
    let rooms = Plugins::built_in().with("rooms", Rooms::default());
    for plugin in ["defaults", "enhanced", "hints", "rooms"] {
        let environment = Environment::from_iter([("PLUGIN", plugin)]);
        let pushlark = Pushlark::with(Options { plugins: rooms.clone(), environment, ..Options::default() }).await;
        enable(&pushlark, BOB, "silent", silent.clone()).await;
        enable(&pushlark, BOB, "reached", reached.clone()).await;
        pushlark.enable(BOB, "plain").await;
        pushlark.event(Event::presence(BOBS_PC, "online")).await;
        pushlark.event(message()).await;
        pushlark.settled().await;
        let alerts = async |node| pushlark.alerts(node).await;
        assert_eq!((alerts("silent").await.len(), alerts("plain").await.len()), (0, 0), "{plugin}");
        assert_eq!(alerts("reached").await, ["New message"], "{plugin}");
        // With no active client, the default is to notify, and only `never` is not notified.
        pushlark.event(Event::presence(BOBS_PC, "online").with("client_state", "inactive")).await;
        pushlark.event(message()).await;
        pushlark.settled().await;
        assert_eq!((alerts("silent").await.len(), alerts("reached").await.len()), (0, 2), "{plugin}");
        assert_eq!(alerts("plain").await, ["canary Hi"], "{plugin}");
        pushlark.event(Event::presence(BOBS_PC, "offline")).await;
        pushlark.event(message()).await;
        pushlark.settled().await;
        assert_eq!(alerts("silent").await, ["New message"], "{plugin}");
    }
}

#[tokio::test]
async fn an_unacknowledged_message_follows_the_preferences_of_its_device() {
    let pushlark = Pushlark::with_settings([("PLUGIN", "enhanced")]).await;
    pushlark.event(Event::presence(BOBS_PHONE, "online")).await;
    let unacknowledged = Event::unacknowledged(BOBS_PHONE, "canary Hi");
    for (preferences, expected) in [
        (json!({"while_online": "never"}), "notified"),
        (json!({"mute": [{"jid": ALICE}]}), MUTED),
        (json!({"while_online": "always"}), "notified"),
    ] {
        enable(&pushlark, BOBS_PHONE, "phone", preferences.clone()).await;
        assert_eq!(decided(&pushlark, &unacknowledged).await["phone"], expected, "{preferences}");
    }
    enable(&pushlark, BOBS_PHONE, "phone", json!({"while_online": "never"})).await;
    pushlark.event(Event::presence(BOBS_PC, "online")).await;
    assert_eq!(decided(&pushlark, &unacknowledged).await["phone"], "the user is online");
}

#[tokio::test]
async fn preferences_apply_to_the_decision_of_a_function() {
    let answer = json!({
        "prepare_notification": {"payload": {"last-message-body": "canary text", "quote": "canary text", "urgent": "true"}},
        "should_publish": [0, 1, 2, 3],
    });
    let lambda = Lambda::start(Behaviour::Each(answer)).await;
    let pushlark =
        Pushlark::with_settings([("PLUGIN", "lambda:my-plugin"), ("AWS_ENDPOINT_URL_LAMBDA", &lambda.url)]).await;
    for (node, preferences) in [
        ("a-muted", json!({"mute": [{"jid": ALICE}]})),
        ("b-never", json!({"while_online": "never"})),
        ("c-sender", json!({"show": "sender"})),
        ("d-nothing", json!({"show": "nothing"})),
    ] {
        enable(&pushlark, BOB, node, preferences).await;
    }
    pushlark.event(Event::presence(BOBS_PC, "online")).await;
    let expected = owned(&[("a-muted", MUTED), ("b-never", "the user is online")]);
    assert_eq!(left_out(&pushlark, &message()).await, expected);
    let sender = json!({"last-message-body": "New message", "urgent": "true"});
    assert_eq!(payload(&pushlark, &message(), "c-sender").await, sender);
    assert_eq!(payload(&pushlark, &message(), "d-nothing").await, json!({"last-message-body": "New message"}));

    // A function without a choice leaves it to the defaults, which see the presence as the device's preference does.
    lambda.behave(Behaviour::Each(json!({"prepare_notification": {"payload": {"quote": "canary text"}}})));
    enable(&pushlark, BOB, "d-nothing", json!({"show": "nothing", "while_online": "always"})).await;
    let decided = decided(&pushlark, &message()).await;
    assert_eq!((&*decided["c-sender"], &*decided["d-nothing"]), ("defaults: the recipient is online", "notified"));
    // A notification without a field would be refused.
    assert_eq!(payload(&pushlark, &message(), "d-nothing").await, json!({"node": "d-nothing"}));
}

#[tokio::test]
async fn show_takes_the_text_and_the_sender_from_the_payload() {
    let pushlark = Pushlark::with_settings([("BODY_PLACEHOLDER", "Psst!"), ("GROUP_DATA", "mention")]).await;
    for (node, show) in [("all", "all"), ("nothing", "nothing"), ("sender", "sender")] {
        enable(&pushlark, BOB, node, json!({"show": show})).await;
    }
    let media = "<description xmlns='urn:xmpp:jingle:apps:rtp:1' media='audio'/>";
    let proposed = format!("<message><propose xmlns='urn:xmpp:jingle-message:0' id='c1'>{media}</propose></message>");
    for (event, sender, nothing) in [
        (
            message(),
            json!({"message-count": "1", "last-message-sender": ALICE, "last-message-body": "Psst!"}),
            json!({"message-count": "1", "last-message-body": "Psst!"}),
        ),
        (
            group_message("canary @bob"),
            json!({"message-count": "1", "last-message-sender": ROOM_OCCUPANT, "last-message-body": "Psst!",
                "mention": "true"}),
            json!({"message-count": "1", "last-message-body": "Psst!"}),
        ),
        (
            invitation(),
            json!({"message-count": "1", "last-message-sender": ALICE, "last-message-body": format!("Invitation to {ROOM}"),
                "room": ROOM}),
            json!({"message-count": "1", "last-message-body": "Psst!"}),
        ),
        (
            Event::subscription(ALICE, BOB),
            json!({"pending-subscription-count": "1", "pending-subscription-from": ALICE,
                "last-message-sender": ALICE, "last-message-body": "Contact request"}),
            json!({"pending-subscription-count": "1", "last-message-body": "Contact request"}),
        ),
        (
            Event::stanza(BOB, &proposed),
            json!({"type": "jmi", "jmi-sid": "c1", "jmi-from": ALICES_PC, "jmi-media": "audio"}),
            json!({"type": "jmi", "jmi-sid": "c1", "jmi-media": "audio"}),
        ),
        (
            call("retract", ALICES_PC, BOB),
            json!({"type": "jmi-end", "jmi-sid": "c1"}),
            json!({"type": "jmi-end", "jmi-sid": "c1"}),
        ),
    ] {
        assert_eq!(payload(&pushlark, &event, "sender").await, sender, "{event}");
        assert_eq!(payload(&pushlark, &event, "nothing").await, nothing, "{event}");
    }
    pushlark.event(message()).await;
    pushlark.settled().await;
    let alert = async |node| pushlark.notifications(node).await[0]["notification"]["alert"].clone();
    assert_eq!(alert("all").await, json!({"body": "canary Hi", "title": ALICE, "tag": ALICE, "badge": 1}));
    assert_eq!(alert("sender").await, json!({"body": "Psst!", "title": ALICE, "tag": ALICE, "badge": 1}));
    assert_eq!(alert("nothing").await, json!({"body": "Psst!", "title": "New message", "badge": 1}));
}

#[tokio::test]
async fn an_alert_about_a_call_hides_the_caller_and_rings_although_push_kit_is_quiet() {
    let quiet = json!([{"from": "00:00", "to": "00:00", "tz": "UTC"}]);
    let (alert, push_kit) = ("aabb63616e61727931", "aabb63616e61727932");
    let providers = Providers::start().await;
    let pushlark = &providers.pushlark;
    let form = |token, topic| json!({"service": "apns", "device_id": token, "topic": topic});
    enable_form(pushlark, BOB, "alert", form(alert, APNS_TOPIC), json!({"show": "nothing"})).await;
    let voip = format!("{APNS_TOPIC}.voip");
    enable_form(pushlark, BOB, "push-kit", form(push_kit, &*voip), json!({"quiet_hours": quiet})).await;
    assert_eq!(decided(pushlark, &propose()).await["alert"], "a PushKit device of the user rings");
    enable_form(pushlark, BOB, "push-kit", form(push_kit, &*voip), json!({"quiet_hours": quiet, "calls": true})).await;
    assert_eq!(left_out(pushlark, &propose()).await, owned(&[("push-kit", QUIET)]));
    let shown = payload(pushlark, &propose(), "alert").await;
    assert_eq!(shown, json!({"type": "jmi", "jmi-sid": "c1", "last-message-body": "Incoming call"}));
    pushlark.event(propose()).await;
    pushlark.settled().await;
    let requests = providers.apns.requests();
    assert_eq!(requests.len(), 1);
    let body = format!("{:?}", requests[0]);
    assert!(body.contains("Incoming call") && !body.contains("alice"), "{body}");
}

#[tokio::test]
async fn push_services_see_no_sender_of_a_device_that_shows_nothing() {
    let providers = Providers::with_settings(&[("CLEAR_WHEN_READ", "on")]).await;
    let pushlark = &providers.pushlark;
    let form = json!({"service": "apns", "device_id": IPHONE, "topic": APNS_TOPIC});
    enable_form(pushlark, BOB, "iphone", form, json!({"show": "nothing"})).await;
    pushlark.event(message()).await;
    pushlark.settled().await;
    pushlark.event(Event::read(BOB, ALICE)).await;
    pushlark.settled().await;
    let requests = providers.apns.requests();
    assert_eq!(requests.len(), 2);
    let [shown, cleared] = [&requests[0], &requests[1]].map(|request| format!("{request:?}"));
    assert!(!shown.contains("alice") && !shown.contains("canary Hi"), "{shown}");
    assert!(cleared.contains("conversation") && !cleared.contains("alice"), "{cleared}");
}

/// Returns the work for the device of a push node with these preferences and this summary.
fn node_work(id: &str, preferences: &Value, summary: &[(&str, &str)]) -> Work {
    Work::of(json!({"notification": {"jid": PUSH_HOST, "node": "n", "owner": BOB, "created_at": 1,
        "options": {"service": "fcm", "device_id": canary("node")}, "summary": summary, "preferences": preferences}}))
    .id(id)
}

#[tokio::test]
async fn a_push_node_applies_the_preferences_that_it_can_see() {
    let pushlark = Pushlark::with_settings([("INCLUDE_SENDER", "on")]).await;
    let quiet = json!([{"from": "00:00", "to": "00:00", "tz": "UTC"}]);
    let text = [("message-count", "2"), ("last-message-sender", ALICES_PC), ("last-message-body", "canary Hi")];
    let of_room = [("last-message-sender", ROOM_OCCUPANT), ("last-message-body", "canary Hi")];
    let rings = [("type", "jmi"), ("jmi-sid", "c1"), ("jmi-from", ALICES_PC)];
    let request = [("pending-subscription-count", "1"), ("pending-subscription-from", ALICE)];
    // What is read disappears in quiet hours, too.
    let all_read = [("message-count", "0")];
    let unseen = json!({"rooms": "never", "unknown": "ignore", "while_online": "never", "priority": true});
    for (number, (preferences, summary, alert)) in [
        (json!({"mute": [{"jid": ALICE}]}), &text[..], None),
        (json!({"mute": [{"jid": CAROL}, {"jid": ALICE, "until": ago(1)}]}), &text, Some("canary Hi")),
        (json!({"mute": [{"jid": ROOM}]}), &of_room, None),
        (json!({"mute": [{"jid": ALICE}]}), &request, None),
        (json!({"mute": [{"jid": ALICE}]}), &rings, Some("")),
        (json!({"mute": [{"jid": ALICE, "calls": true}]}), &rings, None),
        (json!({"quiet_hours": quiet}), &text, None),
        (json!({"quiet_hours": quiet, "calls": true}), &rings, None),
        (json!({"show": "sender"}), &text, Some("New message")),
        (json!({"show": "nothing"}), &text, Some("New message")),
        (json!({"show": "nothing"}), &request, Some("Contact request")),
        (json!({"quiet_hours": quiet}), &all_read, Some("")),
        (unseen, &of_room, Some("canary Hi")),
    ]
    .into_iter()
    .enumerate()
    {
        let before = pushlark.notifications("node").await.len();
        // Each call is another one.
        let sid = format!("c{number}");
        let summary: Vec<_> =
            summary.iter().map(|(name, value)| (*name, if *name == "jmi-sid" { &*sid } else { value })).collect();
        pushlark.enqueue(Work::record(&[node_work(&format!("m{number}"), &preferences, &summary)])).await;
        pushlark.settled().await;
        let alerts = pushlark.alerts("node").await.split_off(before);
        assert_eq!(alerts, Vec::from_iter(alert), "{preferences} {summary:?}");
        let last = pushlark.notifications("node").await.pop().unwrap_or_default().to_string();
        if preferences["show"] == "nothing" {
            assert!(!last.contains("alice"), "{last}");
        }
    }
}

#[tokio::test]
async fn a_push_node_mutes_a_sender_that_the_settings_leave_out() {
    let pushlark = Pushlark::with_settings([("INCLUDE_SENDER", "off")]).await;
    let text = [("last-message-sender", ALICES_PC), ("last-message-body", "canary Hi")];
    for (id, muted) in [("m1", ALICE), ("m2", CAROL)] {
        let work = node_work(id, &json!({"mute": [{"jid": muted}]}), &text);
        pushlark.enqueue(Work::record(&[work])).await;
    }
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("node").await, ["canary Hi"]);
}

#[tokio::test]
async fn a_push_node_applies_the_preferences_of_the_request_that_enabled_the_device() {
    let pushlark = Pushlark::start().await;
    let device = canary("node");
    let form = stanza::publish_options(&[("service", "fcm"), ("device_id", &device)]);
    let muted = format!("{form}<muted xmlns='tigase:push:filter:muted:0'><item jid='{ALICE}'/></muted>");
    let enable = stanza::iq("set", BOBS_PHONE, PUSH_HOST, &stanza::enable(PUSH_HOST, "n", &muted));
    pushlark.post("/pubsub", XMPP, enable).await.assert_result();
    for (id, sender) in [("p1", ALICES_PC), ("p2", CAROL)] {
        let summary = stanza::summary(&[("last-message-sender", sender), ("last-message-body", sender)]);
        let publish = stanza::publish("n", &stanza::notification(&summary), &[]);
        let iq = stanza::iq_with_id("set", "example.com", PUSH_HOST, id, &publish);
        pushlark.post("/pubsub", XMPP, iq).await.assert_result();
    }
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("node").await, [CAROL]);
}

#[tokio::test]
async fn a_retry_obeys_the_preferences_of_its_time() {
    for (preferences, statuses) in [(json!({}), &[503, 200][..]), (json!({"mute": [{"jid": ALICE}]}), &[503])] {
        let isolated = IsolatedWorker::beside(Pushlark::with(with_fast_sqs(600)).await).await;
        let pushlark = &isolated.pushlark;
        enable(pushlark, BOB, "phone", json!({})).await;
        pushlark.device_answers("phone", json!({"status": 503})).await;
        let batch = isolated.batch(&[Work::message(&[BOB])]).await;
        isolated.handle(batch.clone()).await;
        let retry = isolated.next(batch).await.unwrap();
        pushlark.device_answers("phone", json!({"status": 200})).await;
        enable(pushlark, BOB, "phone", preferences).await;
        isolated.handle_all(retry).await;
        let sent = pushlark.notifications("phone").await;
        assert_eq!(sent.iter().map(|one| one["status"].as_u64().unwrap()).collect::<Vec<_>>(), statuses);
    }
}
