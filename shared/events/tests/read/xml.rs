//! Bodies that are a stanza.

use pushlark_events::Effect;
use pushlark_model::{Availability, ClientState};
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
    for kind in ["type='headline'", "type='normal'", "type='error'", "type='other'", ""] {
        let event =
            one(XML, format!("<message {kind} from='a@example.com' to='b@example.com'><body>x</body></message>"));
        assert!(matches!(event.effect, Effect::None(_)), "{kind}");
        assert!(!event.id.is_empty());
    }
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
        assert_eq!(presence(to, ""), bob(Availability::Online(ClientState::Active)), "{to}");
        assert_eq!(
            presence(to, "<show>xa</show><priority>0</priority>"),
            bob(Availability::Online(ClientState::Active)),
            "{to}"
        );
        assert_eq!(presence(&format!("{to} type='unavailable'"), ""), bob(Availability::Offline), "{to}");
        assert_eq!(presence(to, "<priority>-1</priority>"), bob(Availability::Offline), "{to}");
    }
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
fn a_presence_of_subscriptions_probes_and_errors_is_ignored() {
    for kind in ["subscribe", "subscribed", "unsubscribe", "unsubscribed", "probe", "error"] {
        for attributes in
            ["from='bob@example.com' to='alice@example.com'", "from='bob@example.com/phone'", "from='example.com'"]
        {
            let event = one(XML, format!("<presence type='{kind}' {attributes}/>"));
            assert!(matches!(event.effect, Effect::None(_)), "{kind} {attributes}");
        }
    }
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
