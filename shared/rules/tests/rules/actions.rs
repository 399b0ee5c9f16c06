//! The action `push`: templates, presentation and the registrations that get it.

use std::sync::Arc;
use std::time::Duration;

use pushlark_plugin::xmpp::parse_jid;
use pushlark_plugin::{
    Collapse, ContentPolicy, Event, InterruptionLevel, Payload, Presentation, Priority, Recipient, Sound,
};

use crate::world::{
    PROPOSE, chat, contact_request, decide, decide_offline, device, group_message, invitation, message, offline,
    unacknowledged,
};

const EVERYTHING: &str = "{sender}|{sender_name}|{room}|{room_name}|{nick}|{body}|{count}|{kind}";

/// Returns the text of the notification of a rule with this `body`, for every kind of events.
fn rendered(template: &str, event: &Event) -> String {
    let content = if event.message.call().is_some() { "jingle" } else { "message" };
    let kinds = ["message", "call", "invitation", "subscription"].map(|kind| format!("{{kind = '{kind}'}}")).join(", ");
    let toml =
        format!("[[rules]]\nconditions = [{kinds}]\naction = 'push'\ncontent = '{content}'\nbody = '''{template}'''");
    decide_offline(&toml, event).payload().get(Payload::LAST_MESSAGE_BODY).unwrap().to_owned()
}

fn named(event: Event) -> Event {
    Event { sender_name: Some("Alice".into()), room_name: Some("Books".into()), ..event }
}

fn within(policy: ContentPolicy, event: Event) -> Event {
    Event { content_policy: Arc::new(policy), ..event }
}

#[test]
fn variables_have_the_values_of_the_event() {
    let private = Event { is_occupant: true, from: parse_jid("books@muc.example.com/alice").unwrap(), ..chat("Hi") };
    let escaped = Event { from: parse_jid("d\\27artagnan@example.com/pc").unwrap(), ..chat("Hi") };
    for (event, expected) in [
        (chat("Hi"), "alice@example.com|alice@example.com||||Hi|3|message"),
        (named(chat("Hi")), "alice@example.com|Alice||Books||Hi|3|message"),
        (escaped, "d'artagnan@example.com|d'artagnan@example.com||||Hi|3|message"),
        (
            group_message("Hi"),
            "books@muc.example.com/alice|books@muc.example.com/alice|books@muc.example.com|books@muc.example.com|alice|Hi|3|message",
        ),
        (
            named(group_message("Hi")),
            "books@muc.example.com/alice|Alice|books@muc.example.com|Books|alice|Hi|3|message",
        ),
        (
            private,
            "books@muc.example.com/alice|books@muc.example.com/alice|books@muc.example.com|books@muc.example.com|alice|Hi|3|message",
        ),
        (
            invitation("normal"),
            "alice@example.com|alice@example.com|books@muc.example.com|books@muc.example.com||Invitation to books@muc.example.com|3|invitation",
        ),
        (contact_request(), "alice@example.com|alice@example.com||||Contact request|1|subscription"),
        (message("chat", PROPOSE), "alice@example.com|alice@example.com||||Incoming call||call"),
    ] {
        assert_eq!(rendered(EVERYTHING, &event), expected);
    }
}

#[test]
fn variables_respect_the_operators_limits() {
    let no_body = || ContentPolicy { body: false, ..ContentPolicy::default() };
    let no_sender = || ContentPolicy { sender: false, ..ContentPolicy::default() };
    for (event, expected) in [
        (within(no_body(), named(chat("Hi"))), "alice@example.com|Alice||Books||New message|3|message"),
        (within(no_sender(), named(group_message("Hi"))), "|||||Hi|3|message"),
        (within(no_sender(), chat("Hi")), "|||||Hi|3|message"),
        (within(no_sender(), contact_request()), "|||||Contact request|1|subscription"),
        (within(no_sender(), message("chat", PROPOSE)), "|||||Incoming call||call"),
        (
            message("chat", "<body>x</body><encrypted xmlns='eu.siacs.conversations.axolotl'><payload/></encrypted>"),
            "alice@example.com|alice@example.com||||New message|3|message",
        ),
    ] {
        assert_eq!(rendered(EVERYTHING, &event), expected);
    }
}

#[test]
fn a_filter_shortens_by_the_characters_that_a_reader_sees() {
    for (template, body, expected) in [
        ("{body|5}", "Hello", "Hello"),
        ("{body|5}", "Hello!", "Hell…"),
        ("{body|6}", "Hello World", "Hello…"),
        ("{body|1}", "Hello", "…"),
        ("{body|2}", "👨‍👩‍👧👨‍👩‍👧", "👨‍👩‍👧👨‍👩‍👧"),
        ("{body|2}", "👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧", "👨‍👩‍👧…"),
        ("{body|3}", "e\u{301}e\u{301}e\u{301}e\u{301}", "e\u{301}e\u{301}…"),
        ("{ body | 3 }", "Hello", "He…"),
        ("{sender_name|3}: {body|3}", "Hello", "al…: He…"),
        ("{{body}} {{{body}}} }", "Hi", "{body} {Hi} }"),
        ("{{\"a\": 1}", "Hi", "{\"a\": 1}"),
        ("plain", "Hi", "plain"),
    ] {
        assert_eq!(rendered(template, &chat(body)), expected, "{template}");
    }
}

#[test]
fn long_values_are_cut() {
    let long = chat(&"é".repeat(20_000));
    let text = rendered("{body}{body}", &long);
    assert!(text.len() <= 4_096 && text.ends_with("é…"), "{}", text.len());
    let toml = "[[rules]]\naction = 'push'\ncontent = 'message'\ntitle = '{body}'\ndata = {text = '{body}', x-1 = '1'}";
    let decided = decide_offline(toml, &long);
    let title = decided.publications[0].presentation.as_ref().unwrap().title.clone().unwrap();
    assert!(title.len() <= 256 && title.ends_with("é…"), "{title}");
    assert_eq!(decided.payload().get("text"), Some(title.as_str()));
    assert_eq!(decided.payload().get("x-1"), Some("1"));
    assert_eq!(decided.payload().get(Payload::LAST_MESSAGE_BODY).unwrap().len(), 40_000, "push services shorten it");
}

#[test]
fn a_rule_sets_the_presentation() {
    let toml = r#"
        [[rules]]
        action = "push"
        content = "message"
        title = "{room_name}: {nick}"
        body = "{body|3}"
        data = {place = "{room}"}
        priority = "normal"
        sound = "chime.caf"
        interruption_level = "time-sensitive"
        channel_id = "rooms"
        time_to_live = 60
        collapse = "conversation"
    "#;
    let decided = decide_offline(toml, &group_message("Hello"));
    let fields = [
        (Payload::MESSAGE_COUNT, "3"),
        (Payload::LAST_MESSAGE_SENDER, "books@muc.example.com/alice"),
        (Payload::LAST_MESSAGE_BODY, "He…"),
        ("place", "books@muc.example.com"),
    ];
    assert_eq!(decided.payload().fields().collect::<Vec<_>>(), fields);
    let presentation = Presentation {
        title: Some("books@muc.example.com: alice".into()),
        priority: Some(Priority::Normal),
        sound: Some(Sound::Named("chime.caf".into())),
        interruption_level: Some(InterruptionLevel::TimeSensitive),
        channel_id: Some("rooms".into()),
        time_to_live: Some(Duration::from_mins(1)),
        collapse: Some(Collapse::Conversation),
    };
    assert_eq!(decided.publications[0].presentation.as_deref(), Some(&presentation));
    let silent = "[[rules]]\naction = 'push'\ncontent = 'message'\nsound = 'none'\ncollapse = 'message'";
    let decided = decide_offline(silent, &chat("Hi"));
    let presentation =
        Presentation { sound: Some(Sound::None), collapse: Some(Collapse::Message), ..Presentation::default() };
    assert_eq!(decided.publications[0].presentation.as_deref(), Some(&presentation));
}

#[test]
fn a_rule_without_a_presentation_sets_none() {
    let decided = decide_offline("[[rules]]\naction = 'push'\ncontent = 'message'\ntitle = '{nick} '", &chat("Hi"));
    assert_eq!(decided.publications[0].presentation, None, "the title is blank");
    assert_eq!(decided.publications[0].rule.as_deref(), Some("rule 1"));
}

#[test]
fn a_text_that_turns_out_empty_is_skipped_with_a_warning() {
    let toml = "[[rules]]\nname = 'rooms'\naction = 'push'\ncontent = 'message'\nbody = '{nick} '\n\
                [[rules]]\naction = 'push'\ncontent = 'message'";
    let decided = decide_offline(toml, &chat("Hi"));
    let reason = "rules: rule 1 \"rooms\": the text of its body is empty";
    assert_eq!((decided.reasons(), decided.warnings), (vec![reason], 1));
}

#[test]
fn an_alert_about_a_call_names_the_sender_beside_the_text_of_a_rule() {
    let toml = "[[rules]]\nconditions = [{kind = 'call'}]\naction = 'push'\ncontent = 'jingle'\n\
                title = '{sender_name}'\nbody = '{sender_name} calls'";
    let decided = decide_offline(toml, &named(message("chat", PROPOSE)));
    let fields = [
        (Payload::TYPE, "jmi"),
        (Payload::CALL_SID, "c1"),
        (Payload::CALL_FROM, "alice@example.com/pc"),
        (Payload::LAST_MESSAGE_SENDER, "alice@example.com"),
        (Payload::LAST_MESSAGE_BODY, "Alice calls"),
    ];
    assert_eq!(decided.payload().fields().collect::<Vec<_>>(), fields);
    let hidden = within(ContentPolicy { sender: false, ..ContentPolicy::default() }, named(message("chat", PROPOSE)));
    let decided = decide_offline(&toml.replace("{sender_name} calls", "A call"), &hidden);
    let fields = [(Payload::TYPE, "jmi"), (Payload::CALL_SID, "c1"), (Payload::LAST_MESSAGE_BODY, "A call")];
    assert_eq!(decided.payload().fields().collect::<Vec<_>>(), fields);
}

#[test]
fn a_rule_notifies_all_registrations_the_tied_one_or_those_of_an_app() {
    let (phone, work) = (device("phone", &[]), device("work", &[("app", "work")]));
    let registrations = [phone.clone(), work.clone()];
    let tied = Recipient { tied: Some(phone), ..offline() };
    for (to, expected) in [
        ("'all'", vec!["phone", "work"]),
        ("'tied'", vec!["phone"]),
        ("{app = 'work'}", vec!["work"]),
        ("{app = 'default'}", vec!["phone"]),
    ] {
        let toml = format!("[[rules]]\naction = 'push'\ncontent = 'message'\nto = {to}\n[[rules]]\naction = 'skip'");
        let decided = decide(&toml.parse().unwrap(), &unacknowledged(chat("Hi")), &tied, &registrations);
        assert_eq!(decided.nodes(), expected, "{to}");
        assert!(decided.reasons().iter().all(|reason| *reason == "rules: rule 1 is for other devices"), "{to}");
    }
    let toml = "[[rules]]\naction = 'push'\ncontent = 'message'\nto = 'tied'";
    assert!(decide(&toml.parse().unwrap(), &chat("Hi"), &offline(), &registrations).nodes().is_empty());
}
