//! Native events in JSON.

use pushlark_events::{Effect, ReadMark, WebhookEvent};
use pushlark_http::Media::{CloudEvent, Json, JsonLines};
use pushlark_model::{Activity, Availability, ClientState};
use pushlark_queue::{MessageContext, ReportedRecipient, WorkKind};
use pushlark_xmpp::BareJid;
use pushlark_xmpp::MessageType;
use serde_json::{Value, json};
use time::Duration;
use time::format_description::well_known::Rfc3339;

use crate::{assert_refused, names, now, one, problem, queued, refusal, taken};

fn event(event: Value) -> WebhookEvent {
    one(Json, event.to_string())
}

/// Returns a valid message event with some fields changed; a null removes the field.
fn message(changes: Value) -> Value {
    let right = json!({"type": "message", "from": "alice@example.com/pc", "to": "bob@example.com", "chat": "chat", "body": "Hi"});
    changed(right, changes)
}

fn changed(mut right: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => right.as_object_mut().unwrap().remove(name),
            value => right.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    right
}

#[test]
fn a_message_may_have_chat_and_body() {
    for (chat, kind) in [("chat", MessageType::Chat), ("groupchat", MessageType::Groupchat)] {
        let queued = queued(event(message(json!({"chat": chat, "body": "1 < 2 & \"3\"\r\n\u{1f600}"}))));
        assert_eq!((queued.from.as_str(), queued.to), ("alice@example.com/pc", vec!["bob@example.com".to_owned()]));
        assert_eq!(
            (queued.message.kind(), queued.message.body().as_deref()),
            (kind, Some("1 < 2 & \"3\"\r\n\u{1f600}"))
        );
        assert_eq!(queued.recipient, ReportedRecipient::default());
    }
}

#[test]
fn a_message_may_have_a_stanza_whose_addresses_are_used_if_the_event_has_none() {
    let stanza = "<message xmlns='jabber:client' type='chat' from='Alice@example.com/PC' to='bob@example.com/Phone'>\
                  <body>Hi</body><x xmlns='u' a='1'/></message>";
    let own = queued(event(json!({"type": "message", "stanza": stanza})));
    assert_eq!((own.from.as_str(), own.to), ("alice@example.com/PC", vec!["bob@example.com".to_owned()]));
    assert_eq!(*own.message.element(), pushlark_xmpp::Element::parse(stanza).unwrap());

    let event_says =
        json!({"type": "message", "from": "room@muc.example.com/alice", "to": ["eve@example.com"], "stanza": stanza});
    let given = queued(event(event_says));
    assert_eq!((given.from.as_str(), given.to), ("room@muc.example.com/alice", vec!["eve@example.com".to_owned()]));
    assert_eq!(*given.message.element(), *own.message.element());
}

#[test]
fn recipients_become_bare_and_distinct_and_keep_their_order() {
    let to = json!([
        "Carol@example.com",
        "bob@example.com/phone",
        "carol@example.com/x",
        "BOB@EXAMPLE.COM",
        "dave@example.com"
    ]);
    assert_eq!(
        queued(event(message(json!({"to": to})))).to,
        ["carol@example.com", "bob@example.com", "dave@example.com"]
    );
    let many: Vec<_> = (0..1000).map(|i| format!("user{i}@example.com")).collect();
    assert_eq!(queued(event(message(json!({"to": many})))).to, many);
}

#[test]
fn the_known_facts_about_a_recipient_are_queued() {
    for (recipient, facts) in [
        (json!({}), ReportedRecipient::default()),
        (json!({"exists": false}), ReportedRecipient { exists: Some(false), ..ReportedRecipient::default() }),
        (
            json!({"online": true, "unread_count": 0}),
            ReportedRecipient { online: Some(true), unread_count: Some(0), ..ReportedRecipient::default() },
        ),
        (
            json!({"exists": true, "online": false, "unread_count": 4_294_967_295_u32, "other": 1}),
            ReportedRecipient {
                exists: Some(true),
                online: Some(false),
                unread_count: Some(u32::MAX),
                ..ReportedRecipient::default()
            },
        ),
        (
            json!({"online": true, "client_state": "inactive"}),
            ReportedRecipient {
                online: Some(true),
                client_state: Some(ClientState::Inactive),
                ..ReportedRecipient::default()
            },
        ),
        (
            json!({"sender_known": false}),
            ReportedRecipient { sender_known: Some(false), ..ReportedRecipient::default() },
        ),
        (
            json!({"exists": null, "online": null, "unread_count": null, "client_state": null, "sender_known": null}),
            ReportedRecipient::default(),
        ),
    ] {
        assert_eq!(queued(event(message(json!({"recipient": recipient})))).recipient, facts);
    }
}

/// Returns the data about a message that are not in its stanza.
fn context(event: WebhookEvent) -> MessageContext {
    match event.effect {
        Effect::Queue(WorkKind::Message { context, .. } | WorkKind::Unacknowledged { context, .. }) => context,
        other => panic!("{other:?} is not a message"),
    }
}

#[test]
fn names_for_people_are_queued_on_one_line_and_cut() {
    for (name, queued) in [
        ("Alice", Some("Alice")),
        (" Zo\u{eb}\t \u{1f600}\r\nBirds\u{85}\u{2028}\u{2029} ", Some("Zo\u{eb} \u{1f600} Birds")),
        ("\u{0}\u{7}a\u{1b}[31mb\u{7f}\u{fffe}\u{ffff}c", Some("a [31mb c")),
        ("", None),
        (" \n\u{0}\u{3000}", None),
        (&"\u{1f600}".repeat(257), Some("\u{1f600}".repeat(256).as_str())),
        (&format!("{} b", "a".repeat(255)), Some("a".repeat(255).as_str())),
        (&"a ".repeat(100_000), Some(format!("{}a", "a ".repeat(127)).as_str())),
    ] {
        for kind in ["message", "unacknowledged"] {
            let to = "bob@example.com/phone";
            let context =
                context(event(message(json!({"type": kind, "to": to, "sender_name": name, "room_name": name}))));
            let queued = queued.map(str::to_owned);
            let expected =
                MessageContext { sender_name: queued.clone(), room_name: queued, ..MessageContext::default() };
            assert_eq!(context, expected, "{name:?}");
        }
    }
    for fields in [json!({}), json!({"sender_name": null, "room_name": null})] {
        assert_eq!(context(event(message(fields))), MessageContext::default());
    }
}

#[test]
fn the_data_of_a_cloud_event_has_the_same_fields() {
    let fields = json!({"sender_name": "Alice", "room_name": "Birds", "recipient": {"sender_known": false}});
    let wrapped = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": message(fields)});
    let event = one(CloudEvent, wrapped.to_string());
    let (name, room) = (Some("Alice".to_owned()), Some("Birds".to_owned()));
    let expected = MessageContext { sender_name: name, room_name: room, ..MessageContext::default() };
    assert_eq!(context(event.clone()), expected);
    assert_eq!(queued(event).recipient.sender_known, Some(false));
}

#[test]
fn the_members_are_the_distinct_recipients() {
    for (to, members) in [
        (json!("bob@example.com"), None),
        (json!(["bob@example.com"]), None),
        (json!(["bob@example.com", "BOB@example.com/phone", "bob@example.com"]), None),
        (json!(["bob@example.com", "carol@example.com", "Bob@example.com"]), Some(2)),
    ] {
        assert_eq!(context(event(message(json!({"to": to})))).members, members, "{to}");
    }
    let to = json!(["bob@example.com/a", "bob@example.com/a", "bob@example.com/b"]);
    assert_eq!(context(event(message(json!({"type": "unacknowledged", "to": to})))).members, Some(2));
}

#[test]
fn the_nick_of_a_recipient_who_is_listed_twice_counts() {
    let changes = |to| json!({"to": to, "recipient": {"nick": "Bob", "sender_known": false}});
    let of = |to| queued(event(message(changes(to)))).recipient;
    let twice = of(json!(["bob@example.com", "bob@example.com/phone"]));
    assert_eq!((twice.nick.as_deref(), twice.sender_known), (Some("Bob"), Some(false)));
    let two = of(json!(["bob@example.com", "carol@example.com"]));
    assert_eq!((two.nick, two.sender_known), (None, Some(false)), "sender_known is about all recipients");
}

#[test]
fn an_unacknowledged_message_is_for_sessions() {
    let to = json!(["Bob@example.com/Phone", "bob@example.com/phone", "bob@example.com/Phone"]);
    let event = event(message(json!({"type": "unacknowledged", "to": to, "recipient": {"unread_count": 3}})));
    let Effect::Queue(WorkKind::Unacknowledged { from, to, recipient, .. }) = event.effect else { panic!("{event:?}") };
    assert_eq!(from.as_str(), "alice@example.com/pc");
    assert_eq!(to.iter().map(|to| to.as_str()).collect::<Vec<_>>(), ["bob@example.com/Phone", "bob@example.com/phone"]);
    assert_eq!(recipient.unread_count, Some(3));
    for to in [json!("bob@example.com"), json!(["bob@example.com/phone", "bob@example.com"])] {
        assert_refused(Json, &message(json!({"type": "unacknowledged", "to": to})).to_string(), "to");
    }
}

#[test]
fn messages_that_notify_nobody_are_accepted_without_effect() {
    for kind in ["headline", "error"] {
        for event_type in ["message", "unacknowledged"] {
            let stanza =
                format!("<message type='{kind}' from='a@example.com' to='b@example.com/x'><body>x</body></message>");
            let event = event(json!({"type": event_type, "stanza": stanza}));
            assert!(matches!(event.effect, Effect::None(_)), "{kind}: {event:?}");
            assert_eq!(event.domains().iter().map(|domain| domain.as_str()).collect::<Vec<_>>(), ["example.com"]);
        }
    }
}

#[test]
fn presence_must_have_a_session_and_a_status() {
    let online = |client_state| Availability::Online(Activity { client_state, is_away: false });
    let (active, inactive) = (online(ClientState::Active), online(ClientState::Inactive));
    let away = |client_state| Availability::Online(Activity { client_state, is_away: true });
    for (fields, availability) in [
        (json!({"status": "online"}), active),
        (json!({"status": "online", "client_state": null}), active),
        (json!({"status": "online", "client_state": "active"}), active),
        (json!({"status": "online", "client_state": "inactive"}), inactive),
        (json!({"status": "online", "show": null}), active),
        (json!({"status": "online", "show": "chat"}), active),
        (json!({"status": "online", "show": "away"}), away(ClientState::Active)),
        (json!({"status": "online", "show": "xa"}), away(ClientState::Active)),
        (json!({"status": "online", "show": "dnd", "client_state": "inactive"}), away(ClientState::Inactive)),
        (json!({"status": "offline"}), Availability::Offline),
        (json!({"status": "offline", "show": "away"}), Availability::Offline),
        (json!({"status": "offline", "client_state": "inactive"}), Availability::Offline),
    ] {
        let presence = changed(json!({"type": "presence", "jid": "Bob@Example.com/Phone"}), fields);
        assert_eq!(event(presence).effect, Effect::Presence("bob@example.com/Phone".parse().unwrap(), availability));
    }
    for (changes, named) in [
        (json!({"jid": "bob@example.com"}), "jid"),
        (json!({"jid": "bob@example.com/"}), "jid"),
        (json!({"jid": null}), "jid"),
        (json!({"jid": ["bob@example.com/x"]}), "jid"),
        (json!({"status": "away"}), "status"),
        (json!({"status": "ONLINE"}), "status"),
        (json!({"status": ""}), "status"),
        (json!({"status": true}), "status"),
        (json!({"status": null}), "status"),
        (json!({"client_state": "away"}), "client_state"),
        (json!({"client_state": ""}), "client_state"),
        (json!({"client_state": false}), "client_state"),
        (json!({"show": "AWAY"}), "show"),
        (json!({"show": ""}), "show"),
        (json!({"show": "inactive"}), "show"),
        (json!({"show": true}), "show"),
    ] {
        let presence = changed(json!({"type": "presence", "jid": "bob@example.com/x", "status": "online"}), changes);
        assert_refused(Json, &presence.to_string(), named);
    }
}

#[test]
fn a_read_mark_must_have_a_user_and_a_conversation() {
    let read = json!({"type": "read", "jid": "bob@example.com", "conversation": "alice@example.com"});
    let of = |jid| BareJid::new(jid).unwrap();
    let read_mark = ReadMark { user: of("bob@example.com"), conversation: of("alice@example.com"), message: None };
    assert_eq!(event(read.clone()).effect, Effect::Read(read_mark.clone()));
    for message in ["m1", "example.com/1", "\u{1f600}"] {
        let named = changed(read.clone(), json!({"message": message}));
        let read_mark = ReadMark { message: Some(message.to_owned()), ..read_mark.clone() };
        assert_eq!(event(named).effect, Effect::Read(read_mark));
    }
    for name in ["jid", "conversation"] {
        for value in [Value::Null, json!(""), json!("@"), json!(1)] {
            assert_refused(Json, &changed(read.clone(), json!({name: value})).to_string(), name);
        }
    }
}

#[test]
fn removals_are_queued() {
    let removal = |removal: Value| match event(removal).effect {
        Effect::Queue(WorkKind::UserRemoved { jid }) => jid.to_string(),
        Effect::Queue(WorkKind::DomainRemoved { domain }) => domain.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(removal(json!({"type": "user_removed", "jid": "Bob@Example.com"})), "bob@example.com");
    assert_eq!(removal(json!({"type": "user_removed", "jid": "bob@example.com/phone"})), "bob@example.com");
    assert_eq!(removal(json!({"type": "domain_removed", "domain": "Example.COM"})), "example.com");
    for (wrong, named) in [
        (json!({"type": "user_removed"}), "jid"),
        (json!({"type": "user_removed", "jid": ""}), "jid"),
        (json!({"type": "user_removed", "domain": "example.com"}), "jid"),
        (json!({"type": "domain_removed"}), "domain"),
        (json!({"type": "domain_removed", "domain": ""}), "domain"),
        (json!({"type": "domain_removed", "domain": "bob@example.com"}), "domain"),
        (json!({"type": "domain_removed", "domain": "example.com/x"}), "domain"),
        (json!({"type": "domain_removed", "domain": "example com"}), "domain"),
        (json!({"type": "domain_removed", "jid": "example.com"}), "domain"),
    ] {
        assert_refused(Json, &wrong.to_string(), named);
    }
}

#[test]
fn the_error_of_a_message_names_the_field() {
    let stanza = |xml: &str| json!({"chat": null, "body": null, "stanza": xml});
    for (changes, named) in [
        (json!({"type": null}), "type"),
        (json!({"type": 1}), "type"),
        (json!({"type": "Message"}), "type"),
        (json!({"type": "chat"}), "type"),
        (json!({"from": null}), "from"),
        (json!({"from": ""}), "from"),
        (json!({"from": "a@@example.com"}), "from"),
        (json!({"from": "al ice@example.com"}), "from"),
        (json!({"from": ["alice@example.com"]}), "from"),
        (json!({"to": null}), "to"),
        (json!({"to": []}), "to"),
        (json!({"to": ""}), "to"),
        (json!({"to": "bob@"}), "to"),
        (json!({"to": "\u{1f600}@example.com"}), "to"),
        (json!({"to": format!("{}@example.com", "b".repeat(1024))}), "to"),
        (json!({"to": ["bob@example.com", "bo b@example.com"]}), "bo b@example.com"),
        (json!({"to": ["bob@example.com", 5]}), "to[1]"),
        (json!({"to": [["bob@example.com"]]}), "to[0]"),
        (json!({"to": {"jid": "bob@example.com"}}), "to"),
        (json!({"to": true}), "to"),
        (json!({"chat": null}), "chat"),
        (json!({"chat": "headline"}), "chat"),
        (json!({"chat": true}), "chat"),
        (json!({"body": null}), "body"),
        (json!({"body": {"en": "Hi"}}), "body"),
        (json!({"chat": null, "body": null}), "stanza"),
        (json!({"stanza": "<message type='chat'/>"}), "stanza"),
        (stanza(""), "stanza"),
        (stanza("Hi"), "stanza"),
        (stanza("<message>"), "stanza"),
        (stanza("<presence/>"), "stanza"),
        (stanza("<iq type='set' id='1'/>"), "stanza"),
        (stanza("<message xmlns='urn:other'/>"), "stanza"),
        (stanza("<!DOCTYPE m><message/>"), "stanza"),
        (stanza(&format!("<message>{}</message>", "x".repeat(256 * 1024))), "stanza"),
        (json!({"recipient": true}), "recipient"),
        (json!({"recipient": {"exists": "yes"}}), "recipient.exists"),
        (json!({"recipient": {"online": 0}}), "recipient.online"),
        (json!({"recipient": {"client_state": "away"}}), "recipient.client_state"),
        (json!({"recipient": {"client_state": true}}), "recipient.client_state"),
        (json!({"recipient": {"unread_count": -1}}), "recipient.unread_count"),
        (json!({"recipient": {"unread_count": 1.5}}), "recipient.unread_count"),
        (json!({"recipient": {"unread_count": 4_294_967_296_u64}}), "recipient.unread_count"),
        (json!({"recipient": {"sender_known": "no"}}), "recipient.sender_known"),
        (json!({"sender_name": 1}), "sender_name"),
        (json!({"sender_name": ["Alice"]}), "sender_name"),
        (json!({"room_name": {"en": "Birds"}}), "room_name"),
        (json!({"id": 7}), "id"),
        (json!({"at": "yesterday"}), "at"),
        (json!({"at": "2026-11-22T20:00:00"}), "at"),
        (json!({"at": "2026-02-30T20:00:00Z"}), "at"),
        (json!({"at": 1_795_376_018}), "at"),
    ] {
        assert_refused(Json, &message(changes).to_string(), named);
    }
}

#[test]
fn missing_and_invalid_addresses_of_a_stanza_are_refused() {
    for (stanza, named) in [
        ("<message type='chat' to='bob@example.com'/>", "from"),
        ("<message type='chat' from='alice@example.com'/>", "to"),
        ("<message type='chat' from='@' to='bob@example.com'/>", "from"),
        ("<message type='chat' from='alice@example.com' to='@'/>", "to"),
    ] {
        assert_refused(Json, &json!({"type": "message", "stanza": stanza}).to_string(), named);
    }
}

#[test]
fn a_null_field_counts_as_missing_and_unknown_fields_are_ignored() {
    let stanza = "<message type='chat' from='alice@example.com' to='bob@example.com'/>";
    let nulls = json!({"type": "message", "stanza": stanza, "id": null, "at": null, "from": null, "to": null, "chat": null,
                       "body": null, "recipient": null, "jid": null, "later": {"x": [1]}});
    assert_eq!(queued(event(nulls)).to, ["bob@example.com"]);
}

#[test]
fn a_repeated_field_is_refused() {
    let twice = r#"{"type": "user_removed", "jid": "bob@example.com", "jid": "eve@example.com"}"#;
    assert_refused(Json, twice, "jid");
}

#[test]
fn an_event_has_its_own_time_but_not_a_future_one() {
    let at = |at: &str| event(json!({"type": "user_removed", "jid": "bob@example.com", "at": at})).at;
    for past in [
        "2026-11-22T19:33:37.5Z",
        "2026-11-22t19:33:37.123456789z",
        "1969-12-31T23:59:59Z",
        "2026-11-22T20:33:37+01:00",
    ] {
        assert_eq!(at(past), time::OffsetDateTime::parse(past, &Rfc3339).unwrap(), "{past}");
    }
    let future = [now() + Duration::microseconds(1), now() + Duration::days(1)].map(|at| at.format(&Rfc3339).unwrap());
    for future in future.iter().map(String::as_str).chain(["9999-12-31T23:59:59-23:59"]) {
        assert_eq!(at(future), now(), "{future}");
    }
}

#[test]
fn events_without_a_time_have_increasing_times_of_arrival() {
    let removal = |at: Option<&str>| json!({"type": "user_removed", "jid": "bob@example.com", "at": at});
    let batch = json!([removal(None), removal(None), removal(Some("2026-01-01T00:00:00Z")), removal(None)]);
    for events in [
        taken(Json, batch.to_string()),
        taken(JsonLines, batch.as_array().unwrap().iter().map(|event| format!("{event}\n")).collect::<String>()),
    ] {
        let arrived: Vec<_> = [0, 1, 3].map(|index: usize| events[index].at).into();
        assert_eq!(arrived[0], now());
        assert!(arrived.is_sorted_by(|earlier, later| earlier < later), "{arrived:?}");
        assert!(arrived[2] - now() < Duration::milliseconds(1));
        assert_eq!(events[2].at.format(&Rfc3339).unwrap(), "2026-01-01T00:00:00Z");
    }
}

#[test]
fn a_batch_keeps_its_order() {
    let batch = [
        json!({"type": "message", "id": "0", "from": "a@example.com", "to": "b@example.com", "chat": "chat", "body": "x"}),
        json!({"type": "presence", "id": "1", "jid": "b@example.com/x", "status": "offline"}),
        json!({"type": "user_removed", "id": "2", "jid": "b@example.com"}),
    ];
    let lines = |separator: &str| batch.iter().map(Value::to_string).collect::<Vec<_>>().join(separator);
    for (media, body) in [
        (Json, format!(" \r\n{}\n", Value::from(batch.to_vec()))),
        (JsonLines, lines("\n")),
        (JsonLines, format!("\n \n{}\r\n\r\n\t\n", lines("\r\n\n  \n"))),
    ] {
        let ids: Vec<_> = taken(media, &body).into_iter().map(|event| event.id).collect();
        assert_eq!(ids, ["0", "1", "2"], "{body}");
    }
    assert!(taken(Json, "[]").is_empty());
    assert!(taken(JsonLines, " \n\n").is_empty());
}

#[test]
fn a_batch_with_bad_events_is_refused_and_each_index_is_listed() {
    let good = json!({"type": "user_removed", "jid": "bob@example.com"}).to_string();
    let bad = [r#"{"type": "user_removed"}"#, r#"{"type": "message", "from": 1}"#, "17"];
    let all = [good.as_str(), bad[0], &good, bad[1], bad[2]];
    for (media, body) in [
        (Json, format!("[{}]", all.join(","))),
        (JsonLines, format!("\n{}\n", all.join("\n\n"))),
        (JsonLines, all.join("\r\n")),
    ] {
        let problem = problem(media, body);
        assert_eq!((&problem["status"], &problem["title"]), (&json!(400), &json!("Bad Request")));
        let errors = problem["errors"].as_array().unwrap();
        let indexes: Vec<_> = errors.iter().map(|error| error["index"].as_u64().unwrap()).collect();
        assert_eq!(indexes, [1, 3, 4], "{problem}");
        for (error, named) in errors.iter().zip(["jid", "from", "object"]) {
            assert!(names(error["detail"].as_str().unwrap(), named), "{error}");
        }
    }
}

#[test]
fn a_line_that_is_not_json_is_one_bad_event() {
    let good = json!({"type": "user_removed", "jid": "bob@example.com"});
    let problem = problem(JsonLines, format!("{good}\n{{\"type\":\n{good} {good}\n{good}"));
    let indexes: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| error["index"].clone()).collect();
    assert_eq!(indexes, [json!(1), json!(2)], "{problem}");
}

#[test]
fn a_body_that_is_not_json_is_refused() {
    for body in ["", " ", "{", "nonsense", "{}{}", "<message/>", "\"text\"", "null", "{\"type\":\"read\",}"] {
        assert!(!refusal(Json, body).is_empty());
    }
    for body in ["[", "[{]", "[] []", "[{}"] {
        let problem = problem(Json, body);
        assert_eq!(problem["status"], 400, "{problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let deep = "[".repeat(100_000);
    assert_eq!(problem(Json, &deep)["status"], 400);
    assert_eq!(problem(Json, format!("{{\"type\":{deep}"))["status"], 400);
}

#[test]
fn json_that_is_not_utf8_is_refused() {
    let event = b"{\"type\":\"user_removed\",\"jid\":\"bob\xff@example.com\"}";
    for (media, body) in
        [(Json, event.to_vec()), (Json, [b"[", &event[..], b"]"].concat()), (JsonLines, event.to_vec())]
    {
        let problem = problem(media, body);
        assert_eq!(problem["status"], 400);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("UTF-8") || detail.contains("unicode"), "{detail}");
    }
    assert_refused(Json, r#"{"type": "user_removed", "jid": "bob\ud800@example.com"}"#, "jid");
}
