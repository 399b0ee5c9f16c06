//! Bodies that are a stanza.

use pushlark_events::Effect;
use pushlark_http::Media;
use pushlark_model::{Activity, Availability};
use pushlark_queue::WorkKind;
use pushlark_xmpp::MessageType;

use crate::{XML, assert_refused, captured, now, one, problem, queued};

#[test]
fn the_messages_that_ejabberd_posts_are_queued() {
    for (request, from, to, kind, body) in [
        (
            include_str!("../fixtures/ejabberd/chat.http"),
            "alice@localhost/desk",
            "bob@localhost",
            MessageType::Chat,
            "plain chat",
        ),
        (
            include_str!("../fixtures/ejabberd/chat-to-full-jid.http"),
            "alice@localhost/desk",
            "bob@localhost",
            MessageType::Chat,
            "Zażółć & \u{1f600}",
        ),
        (
            include_str!("../fixtures/ejabberd/groupchat.http"),
            "alice@localhost/desk",
            "room1@conference.localhost",
            MessageType::Groupchat,
            "hello room",
        ),
        (
            include_str!("../fixtures/ejabberd/no-store-hint.http"),
            "alice@localhost/desk",
            "bob@localhost",
            MessageType::Chat,
            "secret",
        ),
    ] {
        let (media, stanza) = captured(request);
        let event = one(media, stanza);
        assert_eq!(event.at, now());
        let queued = queued(event);
        assert_eq!((queued.from.as_str(), queued.to), (from, vec![to.to_owned()]));
        assert_eq!((queued.message.kind(), queued.message.body().as_deref()), (kind, Some(body)));
        assert_eq!(queued.message.element().attribute("id").unwrap().len(), 2);
    }
}

#[test]
fn the_stanza_is_queued_with_all_its_children() {
    let (media, stanza) = captured(include_str!("../fixtures/ejabberd/no-store-hint.http"));
    let queued = queued(one(media, stanza));
    assert!(queued.message.element().child("no-store", "urn:xmpp:hints").is_some());
    assert_eq!(*queued.message.element(), pushlark_xmpp::Element::parse(stanza).unwrap());
}

#[test]
fn a_message_that_prosody_delivers_is_queued() {
    let queued = queued(one(XML, include_str!("../fixtures/prosody/message.xml")));
    assert_eq!((queued.from.as_str(), queued.to), ("push@localhost", vec!["bob@localhost".to_owned()]));
    assert_eq!(queued.message.body().as_deref(), Some("from rest"));
}

#[test]
fn a_message_of_any_stream_is_accepted_and_its_addresses_are_normalised() {
    let of = |root: &str, inner: &str| {
        format!(
            "<?xml version='1.0'?>\n<{root} from='Room@MUC.example.com/Nick' to='BOB@example.com/Phone' type='groupchat'>\
             <{inner}>x</{inner}></{}>\n",
            root.split(' ').next().unwrap()
        )
    };
    for stanza in [
        of("message", "body"),
        of("message xmlns='jabber:client'", "body"),
        of("message xmlns='jabber:server'", "body"),
        of("message xmlns='jabber:component:accept'", "body"),
        of("c:message xmlns:c='jabber:client'", "c:body"),
    ] {
        let queued = queued(one(XML, stanza));
        assert_eq!(
            (queued.from.as_str(), queued.to),
            ("room@muc.example.com/Nick", vec!["bob@example.com".to_owned()])
        );
        assert_eq!((queued.message.kind(), queued.message.body().as_deref()), (MessageType::Groupchat, Some("x")));
    }
}

#[test]
fn messages_that_notify_nobody_are_accepted_without_effect() {
    for kind in ["headline", "error"] {
        let event = one(XML, message(&format!("type='{kind}'"), "<body>x</body>"));
        assert!(matches!(event.effect, Effect::None(_)), "{kind}");
        assert!(!event.id.is_empty());
    }
}

#[test]
fn a_message_without_a_known_type_is_queued_as_a_normal_one() {
    for kind in ["type='normal'", "type='other'", "type=''", ""] {
        assert_eq!(queued(one(XML, message(kind, "<body>x</body>"))).message.kind(), MessageType::Normal, "{kind}");
    }
}

fn message(attributes: &str, content: &str) -> String {
    let addresses = "from='a@example.com/x' to='b@example.com'";
    format!("<message {addresses} {attributes}>{content}</message>")
}

const ROOM: &str = "room@muc.example.com";

/// A message of the room to its subscriber, as ejabberd wraps it.
fn subscribed(outer: &str, node: &str, items: &str) -> String {
    format!(
        "<message from='{outer}' to='b@example.com'><event xmlns='http://jabber.org/protocol/pubsub#event'>\
         <items node='urn:xmpp:mucsub:nodes:{node}'>{items}</items></event></message>"
    )
}

fn item(id: &str, from: &str, content: &str) -> String {
    let addresses = format!("from='{from}' to='b@example.com'");
    format!("<item id='{id}'><message xmlns='jabber:client' type='groupchat' {addresses}>{content}</message></item>")
}

#[test]
fn a_message_to_the_subscriber_of_a_room_is_unwrapped() {
    let stanza_id = format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{ROOM}' id='s1'/>");
    let with_id = item("i1", "room@muc.example.com/Al", &format!("<body>x</body>{stanza_id}"));
    let event = one(XML, subscribed(ROOM, "messages", &with_id));
    assert_eq!(event.id, format!("{ROOM}/s1"));
    let message = queued(event);
    assert_eq!((message.from.as_str(), message.body().as_str()), ("room@muc.example.com/Al", "x"));
    assert_eq!(message.message.kind(), MessageType::Groupchat);
    // A session that has joined the room gets the message with this id alone.
    let archived = "</event><stanza-id xmlns='urn:xmpp:sid:0' by='b@example.com' id='a1'/></message>";
    let with_both = subscribed(ROOM, "messages", &with_id).replace("</event></message>", archived);
    assert_eq!(one(XML, with_both).id, format!("{ROOM}/s1"));

    let without_id = item("i1", "room@muc.example.com/Al", "<body>x</body>");
    assert_eq!(one(XML, subscribed(ROOM, "messages", &without_id)).id, format!("{ROOM}/i1"));
    let two = [without_id, item("i2", "room@muc.example.com/Bo", "<body>y</body>")].concat();
    assert_eq!(queued(one(XML, subscribed(ROOM, "messages", &two))).body(), "y", "the last one");
}

#[test]
fn only_a_room_can_wrap_the_messages_of_its_occupants() {
    let occupant = "room@muc.example.com/Al";
    for (outer, node, inner) in [
        ("room@muc.example.com/Eve", "messages", occupant),
        ("eve@example.com/pc", "messages", occupant),
        ("eve@example.com", "messages", occupant),
        (ROOM, "messages", "alice@example.com/pc"),
        (ROOM, "messages", "@"),
        (ROOM, "subject", occupant),
        (ROOM, "presence", occupant),
    ] {
        let message = queued(one(XML, subscribed(outer, node, &item("i1", inner, "<body>x</body>"))));
        assert_eq!((message.from.as_str(), message.message.body()), (outer, None), "{outer} {node} {inner}");
    }
    // Some chat servers report the bare JID of a sender although the stanza has the full one.
    let stanza = subscribed("room@muc.example.com/Eve", "messages", &item("i1", occupant, "<body>x</body>"));
    let event = serde_json::json!({"type": "message", "from": ROOM, "to": "b@example.com", "stanza": stanza});
    assert_eq!(queued(one(Media::Json, event.to_string())).message.body(), None);
}

#[test]
fn an_error_about_a_wrapped_message_notifies_nobody() {
    let wrapped = subscribed(ROOM, "messages", &item("i1", "room@muc.example.com/Al", "<body>x</body>"));
    let error = wrapped.replacen("<message ", "<message type='error' ", 1);
    assert!(matches!(one(XML, error).effect, Effect::None(_)));
}

#[test]
fn a_private_message_to_an_occupant_has_a_read_mark_only_of_a_marker_of_the_user() {
    let read = |from: &str, to: &str, content: &str| {
        let private = "<x xmlns='http://jabber.org/protocol/muc#user'/>";
        let stanza = format!("<message from='{from}' to='{to}' type='chat'>{content}{private}</message>");
        let read_marks = one(XML, stanza).read_marks;
        read_marks.into_iter().map(|mark| (mark.user.to_string(), mark.conversation.to_string())).collect::<Vec<_>>()
    };
    let (marker, text) = ("<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>", "<body>x</body>");
    for (user, room, is_known) in [
        ("bob@example.com", "room@chat.example.com", true),
        ("bob@example.com", "room@conference.example.org", true),
        ("bob@groups.example.net", "room@muc.groups.example.net", true),
        ("bob@example.com", "room@talk.example.org", false),
    ] {
        let (session, occupant) = (format!("{user}/pc"), format!("{room}/Al"));
        let expected = if is_known { vec![(user.to_owned(), room.to_owned())] } else { Vec::new() };
        assert_eq!(read(&session, &occupant, marker), expected, "{room}");
        assert_eq!(read(&session, &occupant, text), [], "{room}");
        // The occupant is not the user.
        assert_eq!(read(&occupant, &session, marker), [], "{room}");
        assert_eq!(read(&occupant, &session, text), [], "{room}");
    }
}

fn delay(from: &str, stamp: &str) -> String {
    format!("<delay xmlns='urn:xmpp:delay' from='{from}' stamp='{stamp}'/>")
}

/// Returns the hour at which a group message to `b@example.com` with this content happened; 23 if it is new.
fn hour(content: &str) -> u8 {
    let message =
        format!("<message type='groupchat' from='{ROOM}/Al' to='b@example.com'><body>x</body>{content}</message>");
    let at = one(XML, message).at;
    if at == now() { 23 } else { at.hour() }
}

#[test]
fn a_delay_by_the_room_or_the_server_of_the_recipient_is_the_time_of_a_message() {
    for by in [ROOM, "muc.example.com", "room@muc.example.com/Al", "example.com", "b@example.com"] {
        assert_eq!(hour(&delay(by, "2020-01-01T05:00:00Z")), 5, "{by}");
    }
    for by in ["alice@example.com", "other.example", "other@muc.example.com", ""] {
        assert_eq!(hour(&delay(by, "2020-01-01T05:00:00Z")), 23, "{by}");
    }
    assert_eq!(hour("<delay xmlns='urn:xmpp:delay' stamp='2020-01-01T05:00:00Z'/>"), 23);
    assert_eq!(hour("<x xmlns='jabber:x:delay' from='example.com' stamp='20200101T05:00:00'/>"), 5);
    assert_eq!(hour(&delay("example.com", "2020-01-01T07:00:00.5+02:00")), 7);
    for stamp in ["", "yesterday", "2020-01-01", "202001éT05:00:00", "9999-01-01T00:00:00Z"] {
        assert_eq!(hour(&delay("example.com", stamp)), 23, "{stamp}");
    }
    let several = [
        delay("example.com", "2020-01-01T06:00:00Z"),
        delay(ROOM, "2020-01-01T05:00:00Z"),
        delay("eve.example", "2020-01-01T04:00:00Z"),
    ];
    assert_eq!(hour(&several.concat()), 5);
}

#[test]
fn a_delay_is_believed_for_all_recipients() {
    let at = |by: &str, to: &[&str], at: Option<&str>| {
        let stanza = format!("<message type='chat'><body>x</body>{}</message>", delay(by, "2020-01-01T05:00:00Z"));
        let event =
            serde_json::json!({"type": "message", "from": "a@example.org", "to": to, "stanza": stanza, "at": at});
        one(Media::Json, event.to_string()).at
    };
    assert_eq!(at("example.com", &["b@example.com", "c@example.com"], None).hour(), 5);
    assert_eq!(at("example.com", &["b@example.com", "c@example.net"], None), now());
    assert_eq!(at("b@example.com", &["b@example.com", "c@example.com"], None), now());
    assert_eq!(at("a@example.org", &["b@example.com"], None), now());
    assert_eq!(at("a@example.org", &["b@example.com"], Some("2020-01-01T08:00:00Z")).hour(), 8);
    assert_eq!(at("example.com", &["b@example.com"], Some("2020-01-01T08:00:00Z")).hour(), 5);
    assert_eq!(at("example.com", &["b@example.com"], Some("2020-01-01T03:00:00Z")).hour(), 3);
}

#[test]
fn an_older_delay_is_the_time_of_an_event_with_a_time() {
    let hour = |kind: &str, to: &str, by: &str, time: Option<&str>| {
        let stanza = format!(
            "<message type='groupchat' from='{ROOM}/Al' to='{to}'><body>x</body>{}</message>",
            delay(by, "2020-01-01T05:00:00Z")
        );
        let event = serde_json::json!({"type": kind, "to": to, "stanza": stanza, "at": time});
        let envelope = serde_json::json!({"type": kind, "to": to, "stanza": stanza});
        let envelope = serde_json::json!(
            {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": time, "data": envelope}
        );
        let hours = [(Media::Json, event), (Media::CloudEvent, envelope)]
            .map(|(media, body)| one(media, body.to_string()).at.hour());
        assert_eq!(hours[0], hours[1], "{kind} {by} {time:?}");
        hours[0]
    };
    let later = Some("2020-01-01T08:00:00Z");
    for by in [ROOM, "example.com"] {
        assert_eq!(hour("message", "b@example.com", by, later), 5, "{by}");
        assert_eq!(hour("unacknowledged", "b@example.com/x", by, None), 5, "{by}");
    }
    assert_eq!(hour("unacknowledged", "b@example.com/x", ROOM, later), 5);
    // The server of a lost session stamps the messages that it sends again.
    assert_eq!(hour("unacknowledged", "b@example.com/x", "example.com", later), 8);
    let wrapped =
        item("i1", "room@muc.example.com/Al", &format!("<body>x</body>{}", delay(ROOM, "2020-01-01T05:00:00Z")));
    let event = serde_json::json!(
        {"type": "message", "from": ROOM, "stanza": subscribed(ROOM, "messages", &wrapped), "at": later}
    );
    assert_eq!(one(Media::Json, event.to_string()).at.hour(), 5);
}

#[test]
fn anything_but_a_message_or_presence_with_addresses_is_refused() {
    let from_to = "from='a@example.com/x' to='b@example.com'";
    for (xml, named) in [
        (format!("<iq type='set' id='1' {from_to}><x xmlns='u'/></iq>"), "<iq/>"),
        (format!("<stream {from_to}/>"), "<stream/>"),
        (format!("<message xmlns='urn:other' {from_to}/>"), "urn:other"),
        (format!("<presence xmlns='urn:other' {from_to}/>"), "urn:other"),
        (format!("<p:message xmlns:p='urn:other' {from_to}/>"), "urn:other"),
        ("<message to='b@example.com'/>".into(), "from"),
        ("<message from='a@example.com'/>".into(), "to"),
        ("<message from='' to='b@example.com'/>".into(), "from"),
        ("<message from='a@example.com' to='b@'/>".into(), "to"),
        ("<message from='a@@example.com' to='b@example.com'/>".into(), "from"),
        ("<message from='a@example.com' to='b b@example.com'/>".into(), "to"),
        ("<presence/>".into(), "from"),
        ("<presence from='a@example.com/'/>".into(), "from"),
        ("<presence from='a@example.com/x' to='@'/>".into(), "to"),
        (format!("<message {from_to}>"), "XML"),
        (format!("<message {from_to}/><message {from_to}/>"), "XML"),
        (format!("<message {from_to} to='b@example.com'/>"), "XML"),
        (format!("<!DOCTYPE x><message {from_to}/>"), "document type"),
        (format!("<message {from_to}><body>&x;</body></message>"), "entity"),
        (format!("<message {from_to}><body>{}</body></message>", "x".repeat(256 * 1024)), "262144"),
        (String::new(), "XML"),
        ("{}".into(), "XML"),
    ] {
        assert_refused(XML, &xml, named);
    }
}

#[test]
fn xml_that_is_not_utf8_is_refused() {
    for body in [&b"<message from='a@b' to='c@d'><body>\xff</body></message>"[..], b"\xff\xfe<\0m\0/\0>\0"] {
        let problem = problem(XML, body);
        assert_eq!(problem["status"], 400);
        assert!(problem["detail"].as_str().unwrap().contains("UTF-8"), "{problem}");
    }
}

fn presence(attributes: &str, children: &str) -> Effect {
    one(XML, format!("<presence from='Bob@Example.com/Phone' {attributes}>{children}</presence>")).effect
}

fn bob(availability: Availability) -> Effect {
    Effect::Presence("bob@example.com/Phone".parse().unwrap(), availability)
}

#[test]
fn a_presence_to_everybody_or_the_own_account_or_server_changes_the_availability() {
    for to in ["", "to='bob@example.com'", "to='BOB@example.com'", "to='example.com'"] {
        assert_eq!(presence(to, ""), bob(Availability::Online(Activity::default())), "{to}");
        assert_eq!(presence(&format!("{to} type='unavailable'"), ""), bob(Availability::Offline), "{to}");
        assert_eq!(presence(to, "<priority>-1</priority>"), bob(Availability::Offline), "{to}");
    }
}

#[test]
fn a_presence_with_a_show_of_absence_is_away() {
    for (children, is_away) in [
        ("", false),
        ("<show>away</show>", true),
        ("<show>xa</show><priority>0</priority>", true),
        ("<show> dnd\n</show>", true),
        ("<show>chat</show>", false),
        ("<show/>", false),
        ("<show>brb</show>", false),
        ("<show>Away</show>", false),
        ("<show xmlns='urn:example'>away</show>", false),
        ("<x xmlns='urn:example'><show>away</show></x>", false),
    ] {
        let online = Availability::Online(Activity { is_away, ..Activity::default() });
        assert_eq!(presence("", children), bob(online), "{children}");
    }
    assert_eq!(presence("", "<show>away</show><priority>-1</priority>"), bob(Availability::Offline));
    assert_eq!(presence("type='unavailable'", "<show>away</show>"), bob(Availability::Offline));
}

#[test]
fn a_presence_directed_to_another_address_is_ignored() {
    for to in [
        "alice@example.com",
        "room@muc.example.com/bob",
        "bob@example.com/Phone",
        "bob@example.com/other",
        "muc.example.com",
        "bob@other.example",
        "example.com/x",
    ] {
        for kind in ["", "type='unavailable'"] {
            let effect = presence(&format!("to='{to}' {kind}"), "");
            assert!(matches!(effect, Effect::None(_)), "{to} {kind}");
        }
    }
}

#[test]
fn a_presence_of_answers_probes_and_errors_is_ignored() {
    for kind in ["subscribed", "unsubscribe", "unsubscribed", "probe", "error"] {
        for attributes in
            ["from='bob@example.com' to='alice@example.com'", "from='bob@example.com/phone'", "from='example.com'"]
        {
            let event = one(XML, format!("<presence type='{kind}' {attributes}/>"));
            assert!(matches!(event.effect, Effect::None(_)), "{kind} {attributes}");
        }
    }
}

#[test]
fn a_contact_request_is_queued_under_the_id_of_its_contact_and_day() {
    let effect = |from: &str, to: &str| {
        let event = one(XML, format!("<presence type='subscribe' id='x' from='{from}' to='{to}'/>"));
        assert!(event.id.starts_with("subscription/") && event.id.len() <= 256 || event.id.len() == 64, "{}", event.id);
        (event.id, event.effect)
    };
    let (id, first) = effect("carol@example.org", "bob@example.com");
    let Effect::Queue(WorkKind::Subscription { from, to, .. }) = first else { panic!("{first:?}") };
    assert_eq!((from.as_str(), to.as_str()), ("carol@example.org", "bob@example.com"));
    assert_eq!(id, format!("subscription/carol@example.org/{}", now().date()));
    assert_eq!(effect("carol@example.org/desktop", "bob@example.com/phone").0, id);
    assert!(matches!(effect("gateway.example.org", "bob@example.com").1, Effect::Queue(_)));
    assert_eq!(effect(&format!("{}@example.org", "c".repeat(1_000)), "bob@example.com").0.len(), 64);
    for (from, to) in [("bob@example.com/x", "bob@example.com"), ("carol@example.org", "example.com")] {
        assert!(matches!(effect(from, to).1, Effect::NoRequest(..)), "{from} {to}");
    }
    assert!(matches!(one(XML, "<presence type='subscribe' from='a@b'/>").effect, Effect::None(_)));
}

#[test]
fn a_presence_of_a_service_is_ignored() {
    for from in ["example.com", "gateway.example.com/registered"] {
        for kind in ["", "type='unavailable'"] {
            let event = one(XML, format!("<presence from='{from}' {kind}/>"));
            assert!(matches!(event.effect, Effect::None(_)), "{from} {kind}");
        }
    }
}

#[test]
fn a_presence_must_have_a_session_and_a_valid_priority() {
    assert_refused(XML, "<presence from='bob@example.com'/>", "from");
    for priority in ["128", "-129", "high"] {
        assert_refused(
            XML,
            &format!("<presence from='bob@example.com/x'><priority>{priority}</priority></presence>"),
            "priority",
        );
    }
}

#[test]
fn the_read_marks_of_a_stanza_name_the_messages_that_were_read() {
    let marks = |attributes: &str, content: &str| {
        let stanza = format!("<message {attributes}>{content}</message>");
        let marks = one(XML, stanza).read_marks.into_iter();
        let of = |mark: pushlark_events::ReadMark| format!("{} {} {:?}", mark.user, mark.conversation, mark.message);
        marks.map(of).collect::<Vec<_>>()
    };
    let to_alice = "from='bob@example.com/pc' to='alice@example.com'";
    let marker = "<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>";
    let stanza_id = "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='s1'/>";
    let synchronized = format!("<displayed xmlns='urn:xmpp:mds:displayed:0'>{stanza_id}</displayed>");
    let bob = |mark: &str| vec![format!("bob@example.com alice@example.com {mark}")];
    assert_eq!(marks(to_alice, marker), bob("Some(\"m1\")"));
    assert_eq!(marks(to_alice, &synchronized), bob("Some(\"s1\")"));
    assert_eq!(marks(to_alice, &(marker.to_owned() + &synchronized)), bob("Some(\"m1\")"));
    assert_eq!(marks(to_alice, "<displayed xmlns='urn:xmpp:chat-markers:0'/>"), bob("None"));
    assert_eq!(marks(&format!("{to_alice} type='chat'"), &format!("<body>Hi</body>{marker}")), bob("None"));

    let item = |conversation: &str| format!("<item id='{conversation}'>{synchronized}</item>");
    let event = |node: &str, items: &str| {
        let items = format!("<items node='{node}'>{items}</items>");
        format!("<event xmlns='http://jabber.org/protocol/pubsub#event'>{items}</event>")
    };
    let to_self = "from='bob@example.com' to='bob@example.com' type='headline'";
    let node = "urn:xmpp:mds:displayed:0";
    let items = item("Alice@Example.com") + &item("@") + "<item id='x@example.com'/>" + "<retract id='y@example.com'/>";
    assert_eq!(marks(to_self, &event(node, &items)), bob("Some(\"s1\")"));
    assert!(marks(to_self, &event("urn:xmpp:other", &items)).is_empty());
    assert!(marks("from='bob@example.com/pc' to='bob@example.com'", &event(node, &items)).is_empty());
    assert!(marks("from='carol@example.com' to='bob@example.com'", &event(node, &items)).is_empty());
    assert_eq!(marks(to_self, &event(node, &item("a@example.com").repeat(200))).len(), 100);
}
