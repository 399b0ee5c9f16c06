//! Requests to enable and disable notifications, as an IQ and as JSON.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;

use pushlark_xmpp::{DataForm, Disable, Element, Enable, Iq, MAX_NODE_BYTES, PubSubRequest};
use serde_json::{Value, json};

const PUBLISH_OPTIONS: &str = "http://jabber.org/protocol/pubsub#publish-options";

fn set(payload: &str) -> Iq {
    iq(&format!("<iq type='set' id='x43' from='bob@example.com/phone'>{payload}</iq>"))
}

fn iq(xml: &str) -> Iq {
    Iq::from_element(Element::parse(xml).unwrap()).unwrap_or_else(|error| panic!("{xml}: {error}"))
}

/// The request with the sender's address, as the server forwards it.
fn from_bob(request: &str) -> Iq {
    iq(&request.trim().replacen("<iq ", "<iq from='Bob@LocalHost/Phone' ", 1))
}

fn with_form(form: &str) -> Result<Enable, String> {
    let enable = format!("<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'>{form}</enable>");
    Enable::try_from(&set(&enable)).map_err(|error| error.to_string())
}

fn form(fields: &str) -> String {
    let form_type = format!("<field var='FORM_TYPE'><value>{PUBLISH_OPTIONS}</value></field>");
    format!("<x xmlns='jabber:x:data' type='submit'>{form_type}{fields}</x>")
}

fn map<const N: usize>(fields: [(&str, &str); N]) -> BTreeMap<String, String> {
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Checks that an error text has the word `field`.
#[track_caller]
fn assert_names(refusal: &str, field: &str) {
    let named = refusal.match_indices(field).any(|(start, _)| {
        !refusal[..start].ends_with(char::is_alphanumeric)
            && !refusal[start + field.len()..].starts_with(char::is_alphanumeric)
    });
    assert!(named, "{refusal:?} does not name {field}");
}

#[test]
fn the_requests_of_real_clients_are_read() {
    let form = map([("service", "fcm"), ("device_id", "tok-abc-123"), ("mode", "prod"), ("topic", "im.example.app")]);
    let none = BTreeMap::new();
    for (request, jid, node, form) in [
        (include_str!("fixtures/prosody/enable.xml"), "push.localhost", "node-1", &form),
        (include_str!("fixtures/prosody/enable-without-form.xml"), "push.localhost", "node-2", &none),
        (include_str!("fixtures/prosody/enable-jid-with-localpart.xml"), "dev1@push.localhost", "node-3", &form),
        (include_str!("fixtures/ejabberd/enable.xml"), "push.localhost", "node-1", &form),
        (include_str!("fixtures/ejabberd/enable-without-form.xml"), "push.localhost", "node-2", &none),
        (include_str!("fixtures/ejabberd/enable-jid-with-localpart.xml"), "dev1@push.localhost", "node-8", &form),
    ] {
        let enable = Enable::try_from(&from_bob(request)).unwrap();
        assert_eq!(enable.user.as_str(), "bob@localhost/Phone");
        assert_eq!((enable.jid.as_str(), enable.node.as_str(), &enable.form), (jid, node, form), "{request}");
    }
    for (request, node) in [
        (include_str!("fixtures/prosody/disable.xml"), Some("node-1")),
        (include_str!("fixtures/ejabberd/disable.xml"), None),
    ] {
        let disable = Disable::try_from(&from_bob(request)).unwrap();
        assert_eq!((disable.user.as_str(), disable.jid.as_str()), ("bob@localhost/Phone", "push.localhost"));
        assert_eq!(disable.node.as_deref(), node);
    }
}

#[test]
fn real_requests_without_a_node_or_a_sender_are_refused() {
    for request in [
        include_str!("fixtures/prosody/enable-without-node.xml"),
        include_str!("fixtures/ejabberd/enable-without-node.xml"),
    ] {
        assert_names(&Enable::try_from(&from_bob(request)).unwrap_err().to_string(), "node");
    }
    let without_from = iq(include_str!("fixtures/prosody/enable.xml").trim());
    assert_names(&Enable::try_from(&without_from).unwrap_err().to_string(), "from");
    let without_from = iq(include_str!("fixtures/prosody/disable.xml").trim());
    assert_names(&Disable::try_from(&without_from).unwrap_err().to_string(), "from");
}

#[test]
fn enable_requires_its_namespace_a_jid_and_a_node() {
    let attributes =
        [("xmlns='urn:xmpp:push:0'", "urn:xmpp:push:0"), ("jid='push.example.com'", "jid"), ("node='n'", "node")];
    for given in 0..7 {
        let has = |index: usize| given >> index & 1 == 1;
        let list: Vec<_> = (0..3).filter(|&i| has(i)).map(|i| attributes[i].0).collect();
        let missing = (0..3).find(|&i| !has(i)).unwrap();
        let refusal = Enable::try_from(&set(&format!("<enable {}/>", list.join(" ")))).unwrap_err().to_string();
        assert_names(&refusal, attributes[missing].1);
    }
    Enable::try_from(&set(&format!("<enable {}/>", attributes.map(|a| a.0).join(" ")))).unwrap();
}

#[test]
fn disable_requires_its_namespace_and_a_jid() {
    for (attributes, named) in
        [("", "urn:xmpp:push:0"), ("jid='push.example.com'", "urn:xmpp:push:0"), ("xmlns='urn:xmpp:push:0'", "jid")]
    {
        let refusal = Disable::try_from(&set(&format!("<disable {attributes}/>"))).unwrap_err().to_string();
        assert_names(&refusal, named);
    }
}

#[test]
fn empty_or_invalid_attributes_are_refused() {
    let long = "n".repeat(MAX_NODE_BYTES + 1);
    let long_jid = format!("{}@push.example.com", "u".repeat(1024));
    for (jid, node, named) in [
        ("", "n", "jid"),
        ("@push.example.com", "n", "jid"),
        ("user@", "n", "jid"),
        ("user@/resource", "n", "jid"),
        ("push.example.com/", "n", "jid"),
        ("user@name@push.example.com", "n", "jid"),
        ("push example.com", "n", "jid"),
        (" push.example.com", "n", "jid"),
        ("us er@push.example.com", "n", "jid"),
        ("push..example.com", "n", "jid"),
        ("-push.example.com", "n", "jid"),
        ("push.example.com/\u{2028}", "n", "jid"),
        (&long_jid, "n", "jid"),
        ("push.example.com", "", "node"),
        ("push.example.com", &long, "node"),
    ] {
        let attributes = format!("xmlns='urn:xmpp:push:0' jid='{jid}' node='{node}'");
        let enable = Enable::try_from(&set(&format!("<enable {attributes}/>"))).unwrap_err().to_string();
        let disable = Disable::try_from(&set(&format!("<disable {attributes}/>"))).unwrap_err().to_string();
        assert_names(&enable, named);
        assert_eq!(enable, disable);
        let json = json!({"user": "bob@example.com", "jid": jid, "node": node});
        assert_names(&serde_json::from_value::<Enable>(json.clone()).unwrap_err().to_string(), named);
        assert_names(&serde_json::from_value::<Disable>(json).unwrap_err().to_string(), named);
    }
}

#[test]
fn the_length_of_a_node_is_limited_in_bytes() {
    let request = |node: String| json!({"user": "bob@example.com", "jid": "push.example.com", "node": node});
    let longest = "é".repeat(MAX_NODE_BYTES / 2);
    assert_eq!(serde_json::from_value::<Enable>(request(longest.clone())).unwrap().node, longest);
    let refusal = serde_json::from_value::<Enable>(request(longest + "n")).unwrap_err().to_string();
    assert!(refusal.contains("513") && refusal.contains("512"), "{refusal}");
}

#[test]
fn the_user_must_have_a_localpart() {
    for user in ["example.com", "example.com/phone", "", "@example.com", "bob@", "bo b@example.com", "bob@example.com/"]
    {
        let xml = "<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/>";
        let request = iq(&format!("<iq type='set' id='x' from='{user}'>{xml}</iq>"));
        assert_names(&Enable::try_from(&request).unwrap_err().to_string(), "from");
        let json = json!({"user": user, "jid": "push.example.com"});
        assert_names(&serde_json::from_value::<Disable>(json).unwrap_err().to_string(), "user");
    }
}

#[test]
fn jids_are_normalised_and_the_jid_of_the_service_is_bare() {
    for (user, normalised) in [
        ("BOB@Example.COM/Phone", "bob@example.com/Phone"),
        ("bob@example.com", "bob@example.com"),
        ("STRAßE@Bücher.example/Ä", "strasse@bücher.example/Ä"),
        ("A\u{30a}sa@example.com", "åsa@example.com"),
        ("bob@example.com/a/b@c", "bob@example.com/a/b@c"),
    ] {
        let jid = "Dev1@PUSH.example.com/Resource";
        let enable = json!({"user": user, "jid": jid, "node": "Node"});
        let from_json: Enable = serde_json::from_value(enable).unwrap();
        let xml = format!("<enable xmlns='urn:xmpp:push:0' jid='{jid}' node='Node'/>");
        let from_iq = Enable::try_from(&iq(&format!("<iq type='set' id='x' from='{user}'>{xml}</iq>"))).unwrap();
        assert_eq!(from_json, from_iq);
        assert_eq!(from_json.user.as_str(), normalised);
        assert_eq!((from_json.jid.as_str(), from_json.node.as_str()), ("dev1@push.example.com", "Node"));
    }
}

#[test]
fn a_request_without_a_form_has_no_options() {
    assert_eq!(with_form("").unwrap().form, BTreeMap::new());
    assert_eq!(with_form(&form("")).unwrap().form, BTreeMap::new());
}

#[test]
fn a_field_has_exactly_one_value_which_may_be_empty() {
    let fields =
        "<field var='a'><value>x &amp; y\n</value></field><field var='b' type='hidden' label='B'><value/></field>";
    assert_eq!(with_form(&form(fields)).unwrap().form, map([("a", "x & y\n"), ("b", "")]));
    for (fields, named) in [
        ("<field var='secret1'/>", "secret1"),
        ("<field var='secret1'><value>1</value><value>2</value></field>", "secret1"),
        ("<field var='secret1'><value>1</value></field><field var='secret1'><value>1</value></field>", "secret1"),
        ("<field var='secret1'><value xmlns='urn:other'>1</value></field>", "secret1"),
    ] {
        assert_names(&with_form(&form(fields)).unwrap_err(), named);
    }
}

#[test]
fn a_form_is_of_type_submit() {
    for attribute in ["type='form'", "type='result'", "type='cancel'", "type='SUBMIT'", ""] {
        assert_names(&with_form(&form("").replace("type='submit'", attribute)).unwrap_err(), "submit");
    }
}

#[test]
fn a_form_is_of_publish_options() {
    for form_type in [
        "",
        "<field var='a'><value>1</value></field>",
        "<field var='form_type'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>",
        "<field var='FORM_TYPE'/>",
        "<field var='FORM_TYPE'><value/></field>",
        "<field var='FORM_TYPE'><value>wrong</value></field>",
        "<field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-option</value></field>",
        "<field var='FORM_TYPE'><value>HTTP://jabber.org/protocol/pubsub#publish-options</value></field>",
    ] {
        let form = format!("<x xmlns='jabber:x:data' type='submit'>{form_type}</x>");
        assert_names(&with_form(&form).unwrap_err(), "FORM_TYPE");
    }
    let again = format!("<field var='FORM_TYPE'><value>{PUBLISH_OPTIONS}</value></field>");
    assert_names(&with_form(&form(&again)).unwrap_err(), "FORM_TYPE");
}

#[test]
fn white_space_around_the_form_type_is_ignored() {
    let spaced = form("").replace(PUBLISH_OPTIONS, &format!("\n\t  {PUBLISH_OPTIONS} \r\n"));
    assert_eq!(with_form(&spaced).unwrap().form, BTreeMap::new());
    assert_eq!(DataForm::from_element(&Element::parse(&spaced).unwrap()).unwrap().form_type, PUBLISH_OPTIONS);
    let json = json!({"FORM_TYPE": format!(" {PUBLISH_OPTIONS}\n"), "a": " 1 "});
    assert_eq!(json_form(json).unwrap().form, map([("a", " 1 ")]));
}

#[test]
fn there_is_at_most_one_form() {
    assert_names(&with_form(&form("").repeat(2)).unwrap_err(), "form");
    assert_eq!(with_form(&format!("<other xmlns='urn:other'/>{}", form(""))).unwrap().form, BTreeMap::new());
}

#[test]
fn another_payload_is_refused() {
    for payload in [
        "",
        "text",
        "<disable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/>",
        "<enable xmlns='urn:xmpp:push:1' jid='push.example.com' node='n'/>",
        "<p:enable xmlns='urn:xmpp:push:0' xmlns:p='urn:p' jid='push.example.com' node='n'/>",
        "<query xmlns='urn:q'><enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/></query>",
    ] {
        assert_names(&Enable::try_from(&set(payload)).unwrap_err().to_string(), "<enable xmlns='urn:xmpp:push:0'/>");
    }
    let enable = "<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/>";
    assert_names(&Disable::try_from(&set(enable)).unwrap_err().to_string(), "<disable xmlns='urn:xmpp:push:0'/>");
    let prefixed = "<p:enable xmlns:p='urn:xmpp:push:0' jid='push.example.com' node='n'/>";
    assert_eq!(Enable::try_from(&set(prefixed)).unwrap(), Enable::try_from(&set(enable)).unwrap());
}

fn json_form(form: Value) -> Result<Enable, serde_json::Error> {
    serde_json::from_value(json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n", "form": form}))
}

#[test]
fn json_and_an_iq_give_the_same_request() {
    let from_json: Enable = serde_json::from_str(
        r#"{"user": "bob@example.com/phone", "jid": "push.example.com", "node": "n", "form": {"service": "fcm", "a": ""}}"#,
    )
    .unwrap();
    let fields = "<field var='service'><value>fcm</value></field><field var='a'><value/></field>";
    assert_eq!(Ok(from_json), with_form(&form(fields)));

    let from_json: Disable =
        serde_json::from_str(r#"{"user": "bob@example.com/phone", "jid": "push.example.com", "node": "n"}"#).unwrap();
    let payload = "<disable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'/>";
    assert_eq!(Ok(from_json), Disable::try_from(&set(payload)));
}

#[test]
fn a_null_field_in_json_is_ignored() {
    let disable = json!({"user": "bob@example.com", "jid": "push.example.com", "node": null});
    assert_eq!(serde_json::from_value::<Disable>(disable.clone()).unwrap().node, None);
    assert_names(&serde_json::from_value::<Enable>(disable).unwrap_err().to_string(), "node is missing");
    assert_eq!(json_form(Value::Null).unwrap().form, BTreeMap::new());
    for (field, named) in [("user", "user"), ("jid", "jid"), ("node", "node")] {
        let mut enable = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n"});
        enable.as_object_mut().unwrap().remove(field);
        assert_names(&serde_json::from_value::<Enable>(enable).unwrap_err().to_string(), named);
    }
}

#[test]
fn the_form_in_json_has_the_same_rules_as_in_an_iq() {
    assert_eq!(json_form(json!({"FORM_TYPE": PUBLISH_OPTIONS, "a": "1"})).unwrap().form, map([("a", "1")]));
    for wrong in [
        json!({"FORM_TYPE": "wrong"}),
        json!({"a": ["1", "2"]}),
        json!({"a": null}),
        json!({"a": 1}),
        json!({"a": true}),
        json!([{"a": "1"}]),
        json!("a=1"),
        json!({"a": "\u{0}"}),
        json!({"a\u{ffff}": "1"}),
    ] {
        json_form(wrong.clone()).expect_err(&wrong.to_string());
    }
    let twice = r#"{"user": "bob@example.com", "jid": "push.example.com", "node": "n", "form": {"a": "1", "a": "1"}}"#;
    assert_names(&serde_json::from_str::<Enable>(twice).unwrap_err().to_string(), "\"a\"");
    let control = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n\u{1}"});
    assert_names(&serde_json::from_value::<Enable>(control).unwrap_err().to_string(), "node");
}

#[test]
fn fields_of_a_summary_with_several_values_are_ignored() {
    let published = |fields: &str| {
        let form_type = "<field var='FORM_TYPE'><value>urn:xmpp:push:summary</value></field>";
        let x = format!("<x xmlns='jabber:x:data' type='submit'>{form_type}{fields}</x>");
        let publish = format!(
            "<publish node='n'><item><notification xmlns='urn:xmpp:push:0'>{x}</notification></item></publish>"
        );
        let iq = set(&format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'>{publish}</pubsub>"));
        match PubSubRequest::try_from(&iq).unwrap() {
            PubSubRequest::Publish { item, .. } => (item.summary, item.without_value),
            other => panic!("{other:?}"),
        }
    };
    let field = |name: &str| format!("<field var='{name}'><value>1</value></field>");
    let one = |name: &str| (name.to_owned(), "1".to_owned());
    let none = Vec::<String>::new;
    for (fields, expected) in [
        (field("b") + &field("a") + "<field var='c'/>", (vec![one("b"), one("a")], vec!["c".to_owned()])),
        (field("b") + &field("a") + &field("b"), (vec![one("a")], none())),
        ("<field var='b'><value>1</value><value>2</value></field>".to_owned() + &field("a"), (vec![one("a")], none())),
        ("<field><value>1</value></field><field var=''><value>1</value></field>".into(), (vec![], none())),
        (field("FORM_TYPE"), (vec![], none())),
    ] {
        assert_eq!(published(&fields), expected, "{fields}");
    }
}
