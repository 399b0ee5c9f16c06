//! The rule sets of MongooseIM's own tests, with their cases.

use pushlark_plugin::{ClientState, Payload};
use pushlark_rules::Rules;

use crate::world::{
    PROPOSE, STORE, chat, decide, decide_offline, device, group_message, message, offline, online, unacknowledged,
};

const BASIC: &str = r#"
[[rules]]
action = "push"
content = "message"
conditions = [
  {event = "msg", body = "non_empty", user_status = "offline"},
  {event = "msg", body = "non_empty", user_status = "online", client_state = "inactive"},
]
"#;

const ENHANCED: &str = r#"
[[rules]]
action = "push"
content = "message"
conditions = [
  {event = "msg", body = "non_empty", user_status = "offline"},
  {event = "msg", body = "non_empty", user_status = "online", client_state = "inactive"},
  {event = "unack_msg", body = "non_empty"},
]
"#;

const JINGLE: &str = r#"
[[rules]]
action = "push"
content = "jingle"
conditions = [
  {event = "msg", body = "absent", hint = "store", jingle = true, user_status = "offline"},
  {event = "msg", body = "absent", hint = "store", jingle = true, user_status = "online", client_state = "inactive"},
  {event = "unack_msg", body = "absent", hint = "store", jingle = true},
]
"#;

const CONTENT_FAILURE: &str = r#"
[[rules]]
action = "push"
content = "message"
conditions = [{event = "msg", body = "absent"}]

[[rules]]
action = "push"
content = "jingle"
conditions = [{event = "msg", body = "non_empty"}]
"#;

const CHAT_ONLY: &str = r#"
[[rules]]
action = "push"
content = "message"
conditions = [{event = "msg", type = "chat", user_status = "offline"}, {event = "unack_msg", type = "chat"}]
"#;

fn filtering() -> String {
    let skip = "[[rules]]\naction = 'skip'\nconditions = [{hint = 'no_store'}]\n";
    [skip, ENHANCED, JINGLE].concat()
}

fn rules(toml: &str) -> Rules {
    toml.parse().unwrap()
}

#[test]
fn the_state_of_the_clients_decides_while_the_user_is_online() {
    let phone = [device("phone", &[])];
    for (recipient, expected) in [
        (offline(), 1),
        (online(Some(ClientState::Inactive)), 1),
        (online(Some(ClientState::Active)), 0),
        (online(None), 0),
    ] {
        for toml in [BASIC, ENHANCED, &filtering()] {
            let decided = decide(&rules(toml), &chat("Hi"), &recipient, &phone);
            assert_eq!(decided.publications.len(), expected, "{toml} {recipient:?}");
        }
    }
}

#[test]
fn an_unacknowledged_message_goes_to_all_registrations() {
    let registrations = [device("phone", &[]), device("tablet", &[])];
    let event = unacknowledged(chat("Hi"));
    for recipient in [offline(), online(Some(ClientState::Active))] {
        assert_eq!(decide(&rules(ENHANCED), &event, &recipient, &registrations).nodes(), ["phone", "tablet"]);
        assert_eq!(decide(&rules(BASIC), &event, &recipient, &registrations).reasons(), ["rules: no rule matches"]);
    }
}

#[test]
fn hints_are_filtered_before_everything_else() {
    let with = |hint: &str| message("chat", &format!("<body>Hi</body><{hint} xmlns='urn:xmpp:hints'/>"));
    assert_eq!(decide_offline(&filtering(), &with("no-copy")).nodes(), ["phone"]);
    assert_eq!(decide_offline(&filtering(), &with("no-permanent-store")).nodes(), ["phone"]);
    let skipped = decide_offline(&filtering(), &with("no-store"));
    assert_eq!((skipped.reasons(), skipped.warnings), (vec!["rules: rule 1"], 0));
}

#[test]
fn a_call_without_a_body_is_notified_by_its_own_rule() {
    let call = message("chat", &[PROPOSE, STORE].concat());
    let decided = decide_offline(&filtering(), &call);
    let fields: Vec<_> = decided.payload().fields().collect();
    assert_eq!(fields, [("type", "jmi"), ("jmi-sid", "c1"), ("jmi-from", "alice@example.com/pc")]);
    assert_eq!(decided.publications[0].rule.as_deref(), Some("rule 3"));
    let other = message("chat", &format!("{PROPOSE}<no-copy xmlns='urn:xmpp:hints'/>"));
    assert_eq!(decide_offline(&filtering(), &other).reasons(), ["rules: no rule matches"]);
    for toml in [BASIC, ENHANCED, CHAT_ONLY] {
        assert_eq!(decide_offline(toml, &call).reasons(), ["rules: no rule matches"], "{toml}");
    }
    let lost = decide(&rules(&filtering()), &unacknowledged(call), &offline(), &[device("phone", &[])]);
    assert_eq!(lost.nodes(), ["phone"]);
    for step in ["ringing", "proceed", "accept", "reject", "retract", "finish"] {
        let step = message("chat", &format!("{}{STORE}", PROPOSE.replace("propose", step)));
        let decided = decide_offline(&filtering(), &step);
        assert_eq!((decided.publications.len(), decided.warnings), (0, 0), "{decided:?}");
    }
}

#[test]
fn content_that_cannot_be_built_is_skipped_with_one_warning() {
    let no_id = "<propose xmlns='urn:xmpp:jingle-message:0'/>";
    for (children, expected) in [
        ("<subject>x</subject>", "rules: rule 1: the message has no body"),
        ("<active xmlns='http://jabber.org/protocol/chatstates'/>", "rules: rule 1: the message has no body"),
        ("<body>Hi</body>", "rules: rule 2: the message has no jingle element"),
        (&format!("<body>Hi</body>{no_id}"), "rules: rule 2: the jingle element has no id, or is no call of two users"),
    ] {
        let decided = decide_offline(CONTENT_FAILURE, &message("chat", children));
        assert_eq!((decided.reasons(), decided.warnings), (vec![expected], 1), "{children}");
    }
}

#[test]
fn content_that_cannot_be_built_does_not_fall_through_to_later_rules() {
    let message_rule = "[[rules]]\naction = 'push'\ncontent = 'message'";
    let toml = format!("{}\n{message_rule}", CONTENT_FAILURE.replace("event", "user_status = 'offline', event"));
    let registrations = [device("phone", &[]), device("tablet", &[])];
    let decided = decide(&rules(&toml), &chat("Hi"), &offline(), &registrations);
    let reason = "rules: rule 2: the message has no jingle element";
    assert_eq!((decided.reasons(), decided.warnings), (vec![reason, reason], 1));
    let reaction = message(
        "chat",
        "<body>+1</body><reactions xmlns='urn:xmpp:reactions:0' id='m0'><reaction>+1</reaction></reactions>",
    );
    let retraction = message("chat", "<body>fallback</body><retract xmlns='urn:xmpp:message-retract:1' id='m0'/>");
    for event in [reaction, retraction, chat(""), chat(" ")] {
        let decided = decide_offline(message_rule, &event);
        assert_eq!((decided.publications.len(), decided.warnings), (0, 1), "{decided:?}");
    }
}

#[test]
fn only_messages_of_the_type_of_a_condition_are_notified() {
    assert_eq!(decide_offline(CHAT_ONLY, &chat("Hi")).nodes(), ["phone"]);
    assert_eq!(decide_offline(CHAT_ONLY, &unacknowledged(chat("Hi"))).nodes(), ["phone"]);
    for other in [group_message("Hi"), message("normal", "<body>Hi</body>"), message("error", "<body>Hi</body>")] {
        for other in [unacknowledged(other.clone()), other] {
            assert_eq!(decide_offline(CHAT_ONLY, &other).reasons(), ["rules: no rule matches"]);
        }
    }
}

#[test]
fn a_rule_without_conditions_matches_all_messages_of_both_types_and_no_others() {
    let all = "[[rules]]\naction = 'push'\ncontent = 'message'";
    assert_eq!(decide_offline(all, &chat("Hi")).nodes(), ["phone"]);
    assert_eq!(decide_offline(all, &group_message("Hi")).nodes(), ["phone"]);
    let call = message("chat", &format!("<body>a call</body>{PROPOSE}"));
    for other in [message("normal", "<body>Hi</body>"), message("headline", "<body>Hi</body>"), call] {
        assert_eq!(decide_offline(all, &other).reasons(), ["rules: no rule matches"]);
    }
    for toml in ["rules = []", "modules.mod_event_pusher.push.rules = []"] {
        assert_eq!(decide_offline(toml, &chat("Hi")).reasons(), ["rules: no rule matches"]);
    }
}

#[test]
fn the_summary_has_the_fields_of_mongooseim() {
    let fields = |event| {
        let decided = decide_offline("[[rules]]\naction = 'push'\ncontent = 'message'", &event);
        let payload: Payload = decided.payload().clone();
        payload.fields().map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(fields(chat("Hi")), ["3", "alice@example.com", "Hi"]);
    assert_eq!(fields(group_message("Hi")), ["3", "books@muc.example.com/alice", "Hi"]);
}
