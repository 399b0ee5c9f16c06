//! Each condition, met and not met.

use pushlark_plugin::xmpp::parse_jid;
use pushlark_plugin::{ClientState, Event, Plugin, Recipient, Registration};
use pushlark_rules::Rules;
use time::{Duration, OffsetDateTime};

use crate::world::{
    PROPOSE, QUOTE, STORE, bob, chat, contact_request, decide, decide_offline, device, group_message, invitation,
    is_met, message, offline, online, unacknowledged,
};

/// Asserts for each event whether the conditions are met.
fn check<const N: usize>(cases: [(&str, Event, bool); N]) {
    for (conditions, event, expected) in cases {
        let phone = device("phone", &[("service", "fcm")]);
        assert_eq!(is_met(conditions, &event, &offline(), &phone), expected, "{conditions} {event:?}");
    }
}

#[test]
fn events_and_types_are_those_of_mongooseim() {
    check([
        ("event = 'msg'", chat("Hi"), true),
        ("event = 'msg'", unacknowledged(chat("Hi")), false),
        ("event = 'unack_msg'", unacknowledged(chat("Hi")), true),
        ("event = 'unack_msg'", chat("Hi"), false),
        ("kind = 'subscription', event = 'msg'", contact_request(), false),
        ("type = 'chat'", chat("Hi"), true),
        ("type = 'groupchat'", chat("Hi"), false),
        ("type = 'groupchat'", group_message("Hi"), true),
        ("kind = 'message', type = 'chat'", message("normal", "<body>Hi</body>"), false),
    ]);
}

#[test]
fn the_body_is_compared_as_it_is() {
    check([
        ("body = 'non_empty'", chat("Hi"), true),
        ("body = 'non_empty'", chat(" "), true),
        ("body = 'non_empty'", chat(""), false),
        ("body = 'empty'", chat(""), true),
        ("body = 'empty'", chat(" "), false),
        ("body = 'absent'", message("chat", "<subject>x</subject>"), true),
        ("body = 'absent'", message("chat", "<body xmlns='urn:other'>x</body>"), true),
        ("body = 'absent'", chat(""), false),
        ("body = 'empty'", message("chat", "<body/><body xml:lang='de'>Hallo</body>"), true),
        ("kind = 'subscription', body = 'absent'", contact_request(), false),
    ]);
}

#[test]
fn hints_and_jingle_are_compared_by_their_elements() {
    let hinted = |hints: &str| message("chat", &format!("<body>Hi</body>{hints}"));
    let no_store = "<no-store xmlns='urn:xmpp:hints'/>";
    check([
        ("hint = 'store'", hinted(STORE), true),
        ("hint = 'no_store'", hinted(STORE), false),
        ("hint = 'no_store'", hinted(no_store), true),
        ("hint = 'no_store'", hinted(&[STORE, no_store].concat()), true),
        ("hint = 'store'", hinted(&[STORE, no_store].concat()), true),
        ("hint = 'store'", hinted("<store xmlns='urn:other'/>"), false),
        ("jingle = false", hinted(""), true),
        ("jingle = true", hinted(""), false),
        ("jingle = true", hinted("<other xmlns='urn:xmpp:jingle-message:0'/>"), true),
        ("jingle = true", message("chat", PROPOSE), true),
        ("jingle = false", message("chat", PROPOSE), false),
        ("jingle = true, type = 'groupchat'", message("chat", PROPOSE), false),
        ("type = 'chat'", message("chat", PROPOSE), false),
        ("jingle = true", message("normal", PROPOSE), false),
        ("kind = 'call'", message("normal", PROPOSE), true),
        ("kind = 'call', jingle = false", message("normal", PROPOSE), false),
    ]);
}

#[test]
fn the_kind_is_that_of_the_content() {
    let kinds = ["message", "call", "call_end", "invitation", "subscription", "read"];
    let retract = PROPOSE.replace("propose", "retract");
    let encrypted = "<encrypted xmlns='eu.siacs.conversations.axolotl'><payload/></encrypted>";
    for (event, expected) in [
        (chat("Hi"), Some("message")),
        (group_message("Hi"), Some("message")),
        (message("normal", "<body>Hi</body>"), Some("message")),
        (message("chat", encrypted), Some("message")),
        (message("chat", PROPOSE), Some("call")),
        (message("normal", PROPOSE), Some("call")),
        (message("chat", &retract), Some("call_end")),
        (message("chat", &PROPOSE.replace("propose", "ringing")), None),
        (message("chat", "<composing xmlns='http://jabber.org/protocol/chatstates'/>"), None),
        (invitation("normal"), Some("invitation")),
        (invitation("chat"), Some("invitation")),
        (contact_request(), Some("subscription")),
    ] {
        let of = |kind: &&str| is_met(&format!("kind = '{kind}'"), &event, &offline(), &device("phone", &[]));
        let met: Vec<_> = kinds.into_iter().filter(of).collect();
        assert_eq!(met, expected.into_iter().collect::<Vec<_>>(), "{event:?}");
    }
    check([("type = 'chat'", invitation("chat"), true), ("body = 'absent'", invitation("normal"), false)]);
}

#[test]
fn jids_are_compared_by_domain_or_pattern() {
    check([
        ("from = 'example.com'", chat("Hi"), true),
        ("from = '*@example.com'", chat("Hi"), true),
        ("from = 'alice@example.com/pc'", chat("Hi"), true),
        ("from = 'alice@example.com/phone'", chat("Hi"), false),
        ("from = 'muc.example.com'", chat("Hi"), false),
        ("from = 'books@muc.example.com/alice'", group_message("Hi"), true),
        ("to = 'bob@example.com'", chat("Hi"), true),
        ("to = 'example.org'", chat("Hi"), false),
        ("to = 'bob@example.com/*'", chat("Hi"), false),
        ("to = 'bob@example.com/*'", unacknowledged(chat("Hi")), true),
        ("room = 'books@muc.example.com'", group_message("Hi"), true),
        ("room = 'news@muc.example.com'", group_message("Hi"), false),
        ("room = 'muc.example.com'", invitation("chat"), true),
        ("room = '*'", chat("Hi"), false),
        ("room = '*'", Event { is_occupant: true, ..chat("Hi") }, true),
    ]);
}

#[test]
fn facts_of_the_message_are_compared() {
    let encrypted = "<encrypted xmlns='eu.siacs.conversations.axolotl'><payload/></encrypted>";
    let known = |sender_known| Event { sender_known, ..chat("Hi") };
    let nick = |body| Event { nick: Some("Bobby".into()), ..group_message(body) };
    let old = |seconds| Event { at: OffsetDateTime::now_utc() - Duration::seconds(seconds), ..chat("Hi") };
    check([
        ("mention = true", group_message("@bob: Hi"), true),
        ("mention = true", nick("Bobby, are you there?"), true),
        ("mention = true", group_message("Hi"), false),
        ("mention = true", message("groupchat", &format!("<body>&gt; @bob: Hi\nSure</body>{QUOTE}")), false),
        ("mention = false", group_message("Hi"), true),
        ("kind = 'call', mention = false", message("chat", PROPOSE), false),
        ("encrypted = true", message("chat", encrypted), true),
        ("encrypted = false", message("chat", encrypted), false),
        ("encrypted = false", chat("Hi"), true),
        ("kind = 'subscription', encrypted = false", contact_request(), false),
        ("sender_known = true", known(None), true),
        ("sender_known = false", known(None), false),
        ("sender_known = true", known(Some(true)), true),
        ("sender_known = false", known(Some(false)), true),
        ("members_over = 2", group_message("Hi"), true),
        ("members_over = 3", group_message("Hi"), false),
        ("members_over = 0", chat("Hi"), true),
        ("age_over = 60", old(120), true),
        ("age_over = 60", old(30), false),
        ("age_over = 0", old(-30), false),
    ]);
}

#[test]
fn the_state_of_the_user_is_a_fact_of_messages_that_arrive() {
    let phone = device("phone", &[]);
    let call = message("chat", PROPOSE);
    let unknown = online(None);
    let (active, inactive) = (online(Some(ClientState::Active)), online(Some(ClientState::Inactive)));
    // The table may know the state of clients of a user who is offline by the event.
    let gone = Recipient { client_state: Some(ClientState::Inactive), ..offline() };
    for (conditions, event, recipient, expected) in [
        ("user_status = 'offline'", chat("Hi"), &gone, true),
        ("user_status = 'offline'", chat("Hi"), &active, false),
        ("user_status = 'online'", chat("Hi"), &active, true),
        ("user_status = 'online'", unacknowledged(chat("Hi")), &active, false),
        ("user_status = 'offline'", unacknowledged(chat("Hi")), &gone, false),
        ("client_state = 'inactive'", chat("Hi"), &inactive, true),
        ("client_state = 'active'", chat("Hi"), &inactive, false),
        ("client_state = 'active'", chat("Hi"), &active, true),
        ("client_state = 'active'", chat("Hi"), &unknown, false),
        ("client_state = 'inactive'", chat("Hi"), &unknown, false),
        ("client_state = 'inactive'", chat("Hi"), &gone, false),
        ("client_state = 'inactive'", unacknowledged(chat("Hi")), &inactive, false),
        ("kind = 'call', user_status = 'online'", call.clone(), &active, true),
        ("kind = 'subscription', user_status = 'online'", contact_request(), &active, true),
        ("kind = 'subscription', user_status = 'online'", contact_request(), &gone, false),
    ] {
        assert_eq!(is_met(conditions, &event, recipient, &phone), expected, "{conditions} {recipient:?}");
    }
}

#[test]
fn app_and_provider_are_those_of_the_form() {
    let form = |name: &str, value: &str| device("phone", &[(name, value)]);
    for (conditions, registration, expected) in [
        ("app = 'work'", form("app", " work "), true),
        ("app = 'work'", form("app", "home"), false),
        ("app = 'default'", device("phone", &[]), true),
        ("provider = 'apns'", form("service", "apns"), true),
        ("provider = 'fcm'", form("service", "apns"), false),
        ("provider = 'web-push'", form("service", "unifiedpush"), true),
        ("provider = 'web-push'", form("service", "web-push"), true),
        ("provider = 'fcm'", device("phone", &[]), false),
    ] {
        assert_eq!(is_met(conditions, &chat("Hi"), &offline(), &registration), expected, "{conditions}");
    }
}

#[test]
fn hours_are_those_of_the_device() {
    let at = |text: &str| OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap();
    let (plain, berlin, kolkata, unknown) = (
        device("phone", &[]),
        device("phone", &[("tz", "Europe/Berlin")]),
        device("phone", &[("tz", "Asia/Kolkata")]),
        device("phone", &[("tz", "Mars/Base")]),
    );
    let cases: [(&str, &str, &Registration, bool); 17] = [
        ("'22:00-07:00'", "2026-01-15T22:00:00Z", &plain, true),
        ("'22:00-07:00'", "2026-01-15T21:59:59Z", &plain, false),
        ("'22:00-07:00'", "2026-01-15T06:59:59Z", &plain, true),
        ("'22:00-07:00'", "2026-01-15T07:00:00Z", &plain, false),
        ("'09:00-17:00'", "2026-01-15T12:00:00Z", &plain, true),
        ("'09:00-17:00'", "2026-01-15T17:00:00Z", &plain, false),
        ("' 09:00 - 17:00 '", "2026-01-15T09:00:00Z", &plain, true),
        ("'00:00-00:00'", "2026-01-15T12:00:00Z", &plain, true),
        ("'22:00-07:00'", "2026-01-15T21:00:00Z", &berlin, true),
        ("'22:00-07:00'", "2026-07-15T20:00:00Z", &berlin, true),
        ("'22:00-07:00'", "2026-07-15T19:59:59Z", &berlin, false),
        ("'22:00-07:00'", "2026-01-15T16:30:00Z", &kolkata, true),
        ("'22:00-07:00'", "2026-01-15T16:29:59Z", &kolkata, false),
        ("{from = '22:00', to = '07:00', tz = 'Europe/Berlin'}", "2026-01-15T21:00:00Z", &plain, true),
        ("{from = '22:00', to = '07:00', tz = 'Europe/Berlin'}", "2026-01-15T21:00:00Z", &unknown, true),
        ("{from = '22:00', to = '07:00', tz = 'Europe/Berlin'}", "2026-01-15T06:30:00Z", &kolkata, false),
        ("{from = '22:00', to = '07:00'}", "2026-01-15T21:00:00Z", &plain, false),
    ];
    for (hour, when, registration, expected) in cases {
        let event = Event { at: at(when), ..chat("Hi") };
        let conditions = format!("hour = {hour}");
        assert_eq!(is_met(&conditions, &event, &offline(), registration), expected, "{hour} {when}");
    }
}

#[test]
fn the_first_rule_that_matches_decides_for_each_device() {
    let rules: Rules = r#"
        [[rules]]
        name = "night"
        conditions = [{hour = "22:00-07:00"}]
        action = "skip"

        [[rules]]
        conditions = [{provider = "fcm"}, {provider = "apns", app = "work"}]
        action = "push"
        content = "message"

        [[rules]]
        name = "work"
        conditions = [{app = "work"}]
        action = "skip"
    "#
    .parse()
    .unwrap();
    let registrations = [
        device("asleep", &[("service", "fcm"), ("tz", "Asia/Kolkata")]),
        device("android", &[("service", "fcm")]),
        device("iphone", &[("service", "apns"), ("app", "work")]),
        device("private", &[("service", "apns")]),
        device("browser", &[("service", "webpush"), ("app", "work")]),
    ];
    let at = OffsetDateTime::from_unix_timestamp(1_768_500_000).unwrap(); // 18:00 UTC, 23:30 in Kolkata
    let decided = decide(&rules, &Event { at, ..chat("Hi") }, &offline(), &registrations);
    assert_eq!(decided.nodes(), ["android", "iphone"]);
    assert!(decided.publications.iter().all(|publication| publication.rule.as_deref() == Some("rule 2")));
    let left_out = [
        ("asleep", "rules: rule 1 \"night\""),
        ("private", "rules: no rule matches"),
        ("browser", "rules: rule 3 \"work\""),
    ];
    assert_eq!(decided.left_out, left_out.map(|(node, reason)| (node.to_owned(), reason.to_owned())));
}

#[test]
fn an_event_that_no_rule_notifies_is_skipped_before_the_recipient_is_read() {
    let skipped = |toml: &str, event: &Event| toml.parse::<Rules>().unwrap().prepare_notification(event).is_err();
    let push = "\n[[rules]]\naction = 'push'\ncontent = 'message'";
    let offline = format!("{push}\nconditions = [{{user_status = 'offline'}}]");
    assert!(!skipped(&offline, &chat("Hi")));
    assert!(!skipped(&offline, &message("chat", "<subject>x</subject>")), "an online recipient is no failure");
    assert!(skipped(push, &message("chat", "<subject>x</subject>")));
    assert!(!skipped(&format!("[[rules]]\naction = 'skip'\nconditions = [{{app = 'x'}}]{push}"), &chat("Hi")));
    assert!(skipped(
        &format!("[[rules]]\naction = 'skip'\nconditions = [{{app = 'x'}}, {{type = 'chat'}}]{push}"),
        &chat("Hi")
    ));
    assert!(!skipped("[[rules]]\naction = 'skip'\nconditions = [{app = 'x'}]", &chat("Hi")));
    assert!(skipped(&format!("{push}\nconditions = [{{type = 'groupchat', app = 'x'}}]"), &chat("Hi")));
}

#[test]
fn a_rule_about_the_recipient_decides_before_a_later_one_that_cannot_notify() {
    let skip = "[[rules]]\nname = 'online'\naction = 'skip'\nconditions = [{user_status = 'online'}]\n";
    let push = format!("{skip}[[rules]]\naction = 'push'\ncontent = 'jingle'");
    let skips = format!("{skip}[[rules]]\naction = 'skip'");
    let failed = "rules: rule 2: the message has no jingle element";
    for (rules, recipient, reason, warnings) in [
        (push.as_str(), online(None), "rules: rule 1 \"online\"", 0),
        (&push, offline(), failed, 1),
        (&skips, online(None), "rules: rule 1 \"online\"", 0),
        (&skips, offline(), "rules: rule 2", 0),
        (skip, online(None), "rules: rule 1 \"online\"", 0),
        (skip, offline(), "rules: no rule matches", 0),
    ] {
        let decided = decide(&rules.parse().unwrap(), &chat("Hi"), &recipient, &[device("phone", &[])]);
        assert_eq!((decided.reasons(), decided.warnings), (vec![reason], warnings), "{rules}");
    }
}

#[test]
fn own_messages_and_users_who_do_not_exist_are_never_notified() {
    let all = "[[rules]]\naction = 'push'\ncontent = 'message'";
    let own = decide_offline(all, &Event { is_own: true, ..chat("Hi") });
    assert_eq!(own.reasons(), ["defaults: the recipient wrote the message"]);
    let nobody = Recipient { exists: false, ..offline() };
    let decided = decide(&all.parse().unwrap(), &chat("Hi"), &nobody, &[device("phone", &[])]);
    assert_eq!(decided.reasons(), ["rules: there is no such user"]);
    let calls = "[[rules]]\naction = 'push'\ncontent = 'jingle'\nconditions = [{kind = 'call'}]";
    let own_call = Event { from: parse_jid("bob@example.com/pc").unwrap(), ..message("chat", PROPOSE) };
    assert_eq!(decide_offline(calls, &own_call).reasons(), ["defaults: the recipient's own account calls"]);
}

#[test]
fn contact_requests_are_the_default_rules_until_a_rule_names_them() {
    let phone = [device("phone", &[])];
    let decided = |toml: &str, recipient: &Recipient| {
        decide(&toml.parse().unwrap(), &contact_request(), recipient, &phone).nodes().len()
    };
    for (toml, while_offline, while_online) in [
        ("rules = []", 1, 0),
        ("[[rules]]\naction = 'skip'", 1, 0),
        ("[[rules]]\naction = 'skip'\nconditions = [{kind = 'subscription'}]", 0, 0),
        ("[[rules]]\naction = 'push'\ncontent = 'message'\nconditions = [{kind = 'subscription'}]", 1, 1),
        (
            "[[rules]]\naction = 'push'\ncontent = 'message'\nconditions = [{kind = 'subscription', from = 'example.org'}]",
            0,
            0,
        ),
    ] {
        let found = (decided(toml, &offline()), decided(toml, &online(Some(ClientState::Active))));
        assert_eq!(found, (while_offline, while_online), "{toml}");
    }
}

#[test]
fn silent_pushes_of_read_conversations_are_allowed_until_a_rule_names_them() {
    let conversation = parse_jid("alice@example.com").unwrap().to_bare();
    let phone = device("phone", &[("service", "fcm")]);
    for (toml, expected) in [
        ("rules = []", true),
        ("[[rules]]\naction = 'skip'", true),
        ("[[rules]]\naction = 'skip'\nconditions = [{kind = 'read'}]", false),
        ("[[rules]]\naction = 'push'\ncontent = 'message'\nconditions = [{kind = 'read', provider = 'fcm'}]", true),
        ("[[rules]]\naction = 'push'\ncontent = 'message'\nconditions = [{kind = 'read', provider = 'apns'}]", false),
        (
            "[[rules]]\naction = 'push'\ncontent = 'message'\nconditions = [{kind = 'read', from = 'alice@*', to = 'bob@*'}]",
            true,
        ),
        (
            "[[rules]]\naction = 'push'\ncontent = 'message'\nconditions = [{kind = 'read', user_status = 'offline'}]",
            false,
        ),
    ] {
        let rules: Rules = toml.parse().unwrap();
        let allowed = rules.allows_clearing(&bob(), &conversation, OffsetDateTime::now_utc(), &phone);
        assert_eq!(allowed, expected, "{toml}");
    }
}
