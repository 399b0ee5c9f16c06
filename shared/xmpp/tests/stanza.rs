//! Reading the three stanzas, and replies to an IQ.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use pushlark_xmpp::{
    Condition, Content, Element, InvalidStanzaError, Iq, IqType, Message, MessageType, Presence, PresenceType,
};

const NAMESPACES: [&str; 4] = ["", "jabber:client", "jabber:server", "jabber:component:accept"];

fn parse(xml: &str) -> Element {
    Element::parse(xml).unwrap()
}

fn iq(xml: &str) -> Iq {
    Iq::from_element(parse(xml)).unwrap()
}

fn message(xml: &str) -> Message {
    Message::from_element(parse(xml)).unwrap()
}

fn presence(xml: &str) -> Presence {
    Presence::from_element(parse(xml)).unwrap()
}

#[test]
fn a_stanza_has_its_name_and_one_of_four_namespaces() {
    let refusals = |xml: &str| -> [Option<InvalidStanzaError>; 3] {
        let element = parse(xml);
        [
            Iq::from_element(element.clone()).err(),
            Message::from_element(element.clone()).err(),
            Presence::from_element(element).err(),
        ]
    };
    for (index, name) in ["iq", "message", "presence"].into_iter().enumerate() {
        for namespace in NAMESPACES {
            let taken =
                refusals(&format!("<{name} xmlns='{namespace}' type='set' id='1'/>")).map(|refusal| refusal.is_none());
            assert_eq!(taken, std::array::from_fn(|i| i == index), "{name} in {namespace}");
        }
        assert!(refusals(&format!("<p:{name} xmlns:p='jabber:client' type='set' id='1'/>"))[index].is_none());
        for namespace in ["jabber:clients", "JABBER:CLIENT", "http://etherx.jabber.org/streams", "urn:xmpp:push:0"] {
            let refusal = refusals(&format!("<{name} xmlns='{namespace}' type='set' id='1'/>"))[index].clone().unwrap();
            assert!(refusal.to_string().contains(namespace), "{refusal}");
        }
    }
}

#[test]
fn an_iq_has_an_id_and_one_of_four_types() {
    for (kind, read) in
        [("get", IqType::Get), ("set", IqType::Set), ("result", IqType::Result), ("error", IqType::Error)]
    {
        assert_eq!(iq(&format!("<iq id='1' type='{kind}'/>")).kind(), read);
    }
    for (xml, named) in [
        ("<iq type='set'/>", "id"),
        ("<iq id='1'/>", "type"),
        ("<iq id='1' type='SET'/>", "type"),
        ("<iq id='1' type=''/>", "type"),
    ] {
        let refusal = Iq::from_element(parse(xml)).unwrap_err().to_string();
        assert!(refusal.contains(named), "{xml}: {refusal}");
    }
}

#[test]
fn a_result_is_empty_and_addressed_to_the_sender() {
    for namespace in NAMESPACES {
        let request = iq(&format!(
            "<iq xmlns='{namespace}' type='set' id='x&amp;43' from='Bob@example.com/Phone' to='example.com'><a xmlns='u'/></iq>"
        ));
        let expected = format!(
            "<iq xmlns='{namespace}' type='result' from='example.com' to='Bob@example.com/Phone' id='x&amp;43'/>"
        );
        assert_eq!(request.result(), parse(&expected));
    }
    assert_eq!(iq("<iq type='set' id='1'><a xmlns='u'/></iq>").result(), parse("<iq type='result' id='1'/>"));
}

#[test]
fn an_error_contains_the_payload_of_the_request() {
    let payload =
        "<enable xmlns='urn:xmpp:push:0' jid='j'><x xmlns='jabber:x:data' type='submit'>1 &lt; 2</x></enable>";
    for (condition, name, kind) in [
        (Condition::BadRequest, "bad-request", "modify"),
        (Condition::NotAllowed, "not-allowed", "cancel"),
        (Condition::ResourceConstraint, "resource-constraint", "wait"),
    ] {
        for namespace in NAMESPACES {
            let request = iq(&format!(
                "<iq xmlns='{namespace}' type='set' id='1' from='bob@example.com/phone' to='bob@example.com'>{payload}</iq>"
            ));
            let errors = "urn:ietf:params:xml:ns:xmpp-stanzas";
            let expected = format!(
                "<iq xmlns='{namespace}' type='error' from='bob@example.com' to='bob@example.com/phone' id='1'>{payload}\
                 <error type='{kind}'><{name} xmlns='{errors}'/><text xmlns='{errors}'>node &amp; jid</text></error></iq>"
            );
            let error = request.error(condition, "node & jid");
            assert_eq!(error, parse(&expected));
            assert_eq!(parse(&error.to_string()), error);
        }
    }
    let without_payload = iq("<iq type='get' id='1'/>").error(Condition::NotAllowed, "");
    assert_eq!(without_payload.children().map(Element::name).collect::<Vec<_>>(), ["error"]);
}

#[test]
fn a_message_without_a_known_type_is_normal() {
    for (attribute, kind) in [
        ("type='chat'", MessageType::Chat),
        ("type='groupchat'", MessageType::Groupchat),
        ("type='headline'", MessageType::Headline),
        ("type='error'", MessageType::Error),
        ("type='normal'", MessageType::Normal),
        ("type='CHAT'", MessageType::Normal),
        ("type=''", MessageType::Normal),
        ("xmlns:p='jabber:client' p:type='chat'", MessageType::Normal),
        ("", MessageType::Normal),
    ] {
        assert_eq!(message(&format!("<message {attribute}/>")).kind(), kind, "{attribute}");
    }
}

#[test]
fn only_a_body_in_a_stanza_namespace_counts() {
    for namespace in NAMESPACES {
        let stanza =
            format!("<message xmlns='{namespace}'><body>1 &lt; 2</body><body xml:lang='pl'>no</body></message>");
        assert_eq!(message(&stanza).body().as_deref(), Some("1 < 2"));
        // Outside of its stream, the stanza or its body may have no namespace declaration.
        assert_eq!(
            message(&format!("<message><body xmlns='{namespace}'>x</body></message>")).body().as_deref(),
            Some("x")
        );
    }
    assert_eq!(message("<message><body/></message>").body().as_deref(), Some(""));
    for without in [
        "<message/>",
        "<message xmlns='jabber:client'><body xmlns='http://www.w3.org/1999/xhtml'>x</body></message>",
        "<message><forwarded xmlns='urn:xmpp:forward:0'><message><body>x</body></message></forwarded></message>",
        "<message><subject>x</subject></message>",
    ] {
        assert_eq!(message(without).body(), None, "{without}");
    }
}

#[test]
fn with_body_sets_the_type_and_the_body() {
    for (kind, name) in [(MessageType::Chat, "chat"), (MessageType::Groupchat, "groupchat")] {
        let written = Message::with_body(kind, "<b> & \r\n").element().to_string();
        let stanza = message(&written);
        assert_eq!((stanza.kind(), stanza.body().as_deref()), (kind, Some("<b> & \r\n")));
        assert_eq!(stanza.element().attribute("type"), Some(name));
    }
}

#[test]
fn an_invitation_is_in_any_element_of_the_room_and_its_body_may_be_a_spoiler() {
    let (own, spoiler) = ("<x xmlns='http://jabber.org/protocol/muc#user'/>", "<spoiler xmlns='urn:xmpp:spoiler:0'/>");
    let invitation = "<x xmlns='http://jabber.org/protocol/muc#user'><invite><reason>Books</reason></invite></x>";
    let body = "<body>The butler did it</body>";
    for (content, text) in [
        (format!("{own}{invitation}"), "Books"),
        (format!("{invitation}{own}{body}"), "The butler did it"),
        (format!("{invitation}{spoiler}{body}"), "Books"),
    ] {
        let message = message(&format!("<message>{content}</message>"));
        assert_eq!(message.content(), Ok(Content::Invitation(Some(text.into()))), "{content}");
    }
}

#[test]
fn stanza_ids_are_read_with_the_assigning_entity() {
    let real = message(include_str!("fixtures/prosody/message.xml").trim());
    assert_eq!(real.stanza_ids().collect::<Vec<_>>(), [("bob@localhost", "4vHDZVotkjVv5llhCgreqM-w")]);
    let several = message(
        "<message id='own'><stanza-id xmlns='urn:xmpp:sid:0' by='room@muc' id='1'/><origin-id xmlns='urn:xmpp:sid:0' id='2'/>\
         <stanza-id xmlns='urn:xmpp:sid:0' id='3'/><stanza-id xmlns='urn:xmpp:sid:0' by='bob@localhost'/>\
         <stanza-id by='bob@localhost' id='4'/><x xmlns='u'><stanza-id xmlns='urn:xmpp:sid:0' by='bob@localhost' id='5'/></x>\
         <stanza-id xmlns='urn:xmpp:sid:0' by='bob@localhost' id='6'/></message>",
    );
    assert_eq!(several.stanza_ids().collect::<Vec<_>>(), [("room@muc", "1"), ("bob@localhost", "6")]);
}

#[test]
fn an_available_presence_has_a_priority() {
    for (xml, priority) in [
        ("<presence/>", 0),
        ("<presence><priority>5</priority></presence>", 5),
        ("<presence><priority>-128</priority></presence>", -128),
        ("<presence><priority>127</priority></presence>", 127),
        ("<presence><priority> -1\n</priority></presence>", -1),
        ("<presence xmlns='jabber:server'><show>dnd</show><priority>1</priority></presence>", 1),
        ("<presence><priority xmlns='urn:other'>-1</priority></presence>", 0),
    ] {
        assert_eq!(presence(xml).kind(), Ok(PresenceType::Available(priority)), "{xml}");
    }
    for priority in ["128", "-129", "high", "", "1.5", "0x1"] {
        let refusal = presence(&format!("<presence><priority>{priority}</priority></presence>")).kind().unwrap_err();
        assert!(refusal.to_string().contains("priority"), "{refusal}");
    }
}

#[test]
fn a_presence_of_another_type_is_not_about_availability() {
    let of_type = |kind: &str| presence(&format!("<presence type='{kind}'><priority>x</priority></presence>")).kind();
    assert_eq!(of_type("unavailable"), Ok(PresenceType::Unavailable));
    assert_eq!(of_type("subscribe"), Ok(PresenceType::Subscribe));
    for kind in ["subscribed", "unsubscribe", "unsubscribed", "probe", "error", "available", ""] {
        assert_eq!(of_type(kind), Ok(PresenceType::Other), "{kind}");
    }
}
