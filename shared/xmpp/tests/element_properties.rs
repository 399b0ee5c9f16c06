//! Properties of parsing and writing, for random input.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use pushlark_xmpp::{Disable, Element, Enable, Iq, Message, Presence, is_xml_text};

const SAMPLE_STANZAS: [&str; 6] = [
    include_str!("fixtures/prosody/enable.xml"),
    include_str!("fixtures/prosody/message.xml"),
    include_str!("fixtures/ejabberd/disable.xml"),
    include_str!("fixtures/ejabberd/error.xml"),
    include_str!("fixtures/ejabberd/publish.xml"),
    "<presence xmlns='jabber:client' from='bob@localhost/phone'><priority>-1</priority><show>xa</show></presence>",
];

/// Parts of XML, so that random sequences are similar to XML.
const PIECES: [&str; 44] = [
    "<a",
    "<b",
    "<p:a",
    "<iq",
    "<message",
    "</a>",
    "</b>",
    "</p:a>",
    "</iq>",
    "</message>",
    ">",
    ">",
    "/>",
    " ",
    "\r\n",
    " xmlns='u'",
    " xmlns=''",
    " xmlns:p='u'",
    " xmlns:p='v'",
    " p:c='1'",
    " c='1'",
    " c=\"&#10;\"",
    " xml:lang='en'",
    " id='1'",
    " type='set'",
    " from='bob@localhost/phone'",
    "text",
    "é\u{1f600}",
    "&amp;",
    "&lt;",
    "&#13;",
    "&#0;",
    "&#xFFFE;",
    "&x;",
    "]]>",
    "<![CDATA[",
    "<!--",
    "-->",
    "<?xml version='1.0'?>",
    "?>",
    "<!DOCTYPE a [",
    "\0",
    "\u{feff}",
    "<enable xmlns='urn:xmpp:push:0' jid='push.localhost' node='n'/>",
];

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn text() -> impl Strategy<Value = String> {
    let special =
        select(vec!["\r", "\n", "\r\n", "\t", " ", "\"", "'", "<", ">", "&", "]]>", "&amp;", "<![CDATA[", "\u{85}"]);
    let piece = prop_oneof![special.prop_map(str::to_owned), "\\PC{1,4}", "[a-z ]{1,8}"];
    vec(piece, 1..6).prop_map(|pieces| pieces.concat()).prop_filter("XML's characters", |text| is_xml_text(text))
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z_é][a-zA-Z0-9_.é-]{0,6}".prop_filter("a declaration is not an attribute", |name| name != "xmlns")
}

fn namespace() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        select(vec!["u", "jabber:client", "a&b<\"'>"]).prop_map(str::to_owned),
        "[a-z:]{1,9}"
    ]
}

fn tag() -> impl Strategy<Value = Element> {
    let value = prop_oneof![Just(String::new()), text()];
    (name(), namespace(), btree_map(name(), value, 0..4)).prop_map(|(name, namespace, attributes)| {
        let element = Element::new(&name, &namespace);
        attributes.into_iter().fold(element, |element, (name, value)| element.with_attribute(&name, value))
    })
}

/// Random trees, as the parser returns them: no two adjacent text nodes.
fn element() -> impl Strategy<Value = Element> {
    let add = |element: Element, text: Option<String>| match text {
        Some(text) => element.with_text(text),
        None => element,
    };
    tag().prop_recursive(5, 24, 5, move |child| {
        (tag(), option::of(text()), vec((child, option::of(text())), 0..4)).prop_map(
            move |(parent, before, children)| {
                children
                    .into_iter()
                    .fold(add(parent, before), |parent, (child, after)| add(parent.with_child(child), after))
            },
        )
    })
}

/// A real stanza with a few changes.
fn mutated() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        select(&PIECES[..]).prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
        Just(String::new())
    ];
    (select(&SAMPLE_STANZAS[..]), vec((any::<Index>(), 0..12_usize, piece), 1..5)).prop_map(|(stanza, changes)| {
        let mut stanza: Vec<char> = stanza.chars().collect();
        for (at, length, piece) in changes {
            let start = at.index(stanza.len() + 1);
            let end = (start + length).min(stanza.len());
            stanza.splice(start..end, piece.chars());
        }
        stanza.into_iter().collect()
    })
}

/// Reads `xml` as each stanza. If it parses, the written element must parse to the same element.
fn read(xml: &str) -> Result<(), TestCaseError> {
    let Ok(element) = Element::parse(xml) else { return Ok(()) };
    let written = element.to_string();
    prop_assert_eq!(Element::parse(&written), Ok(element.clone()), "{}", written);
    if let Ok(iq) = Iq::from_element(element.clone()) {
        let _ = (Enable::try_from(&iq), Disable::try_from(&iq), iq.result());
    }
    if let Ok(message) = Message::from_element(element.clone()) {
        let _ = (message.kind(), message.body(), message.stanza_ids().count());
    }
    if let Ok(presence) = Presence::from_element(element) {
        let _ = presence.kind();
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn a_written_element_parses_to_itself(element in element()) {
        let written = element.to_string();
        prop_assert_eq!(Element::parse(&written), Ok(element), "{}", written);
    }

    #[test]
    fn parsing_any_text_does_not_panic(text in "\\PC{0,60}|[<>/&;#x!?'\"=a: \\[\\]\\-0-9]{0,60}") {
        read(&text)?;
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn parsing_any_sequence_of_xml_does_not_panic(pieces in vec(select(&PIECES[..]), 0..24)) {
        read(&pieces.concat())?;
    }

    #[test]
    fn parsing_a_changed_stanza_does_not_panic(stanza in mutated()) {
        read(&stanza)?;
    }
}
