//! Ids of messages.

use std::collections::HashSet;

use pushlark_access::Caller;
use pushlark_events::Sources;
use pushlark_http::Media::{Json, JsonLines};
use pushlark_http::Request;
use pushlark_settings::Environment;
use pushlark_sns::Topics;
use serde_json::json;
use serde_json::value::to_raw_value;
use uuid::Uuid;

use crate::{XML, assert_refused, now, one, taken};

fn chat(attributes: &str, children: &str) -> String {
    format!(
        "<message type='chat' from='alice@example.com/pc' to='bob@example.com/phone' {attributes}>{children}</message>"
    )
}

fn stanza_id(by: &str, id: &str) -> String {
    format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='{id}'/>")
}

#[track_caller]
fn assert_new(id: &str) {
    assert_eq!(Uuid::parse_str(id).unwrap_or_else(|_| panic!("{id} is not a UUID")).get_version_num(), 7, "{id}");
}

#[test]
fn the_own_id_of_an_event_is_kept() {
    for id in ["x", "https://example.com/events#42", "\u{17c}\u{f3}\u{142}\u{107} \"\\/'", &"x".repeat(256)] {
        for event in [
            json!({"type": "message", "id": id, "from": "a@example.com", "to": "b@example.com", "chat": "chat", "body": "x"}),
            json!({"type": "message", "id": id, "from": "a@example.com", "to": "bob@example.com",
                   "stanza": chat("id='own'", &stanza_id("bob@example.com", "1"))}),
            json!({"type": "unacknowledged", "id": id, "from": "a@example.com", "to": "b@example.com/x", "chat": "chat", "body": "x"}),
            json!({"type": "presence", "id": id, "jid": "b@example.com/x", "status": "online"}),
            json!({"type": "read", "id": id, "jid": "b@example.com", "conversation": "a@example.com"}),
            json!({"type": "user_removed", "id": id, "jid": "b@example.com"}),
            json!({"type": "domain_removed", "id": id, "domain": "example.com"}),
        ] {
            assert_eq!(one(Json, event.to_string()).id, id, "{event}");
        }
    }
}

#[test]
fn an_id_has_1_to_256_bytes_and_no_control_characters() {
    for id in [
        String::new(),
        "x".repeat(257),
        "\u{e9}".repeat(129),
        "a\u{0}".into(),
        "a\nb".into(),
        "\u{7f}".into(),
        "\u{85}".into(),
    ] {
        let event = json!({"type": "user_removed", "id": id, "jid": "b@example.com"});
        assert_refused(Json, &event.to_string(), "id");
    }
}

#[test]
fn the_message_id_of_sns_is_checked_like_any_other_id() {
    let topic = "arn:aws:sns:eu-west-1:123456789012:messages";
    let topics = Topics::from_environment(&Environment::from_iter([("SNS_PM_TOPIC", topic)])).unwrap();
    let read = |id: &str| {
        let message = json!({"from_user_id": "a@example.com", "to_user_id": "b@example.com", "message": "x"});
        let message = json!({"Type": "Notification", "MessageId": id, "TopicArn": topic,
            "Message": message.to_string(), "Timestamp": "2026-11-22T19:33:39.314Z"});
        let event = json!({"Records": [{"EventSource": "aws:sns", "Sns": message}]});
        let mut request = Request::new(Caller::Operator, Json, Vec::new()).unwrap();
        request.sns = topics.delivered(&to_raw_value(&event).unwrap()).unwrap().unwrap();
        let events = pushlark_events::read(&request, &Sources::default(), now());
        events.map(|events| events[0].id.clone()).map_err(|problem| problem.to_json())
    };
    assert_eq!(read("m1").unwrap(), "m1");
    for id in ["", "a\u{ffff}", &"x".repeat(257)] {
        let error = read(id).unwrap_err();
        assert!(error.contains("\"detail\":\"MessageId: "), "{error}");
    }
}

#[test]
fn the_stanza_id_of_the_recipients_account_is_the_id() {
    let id = |children: &str| one(XML, chat("id='own'", children)).id;
    assert_eq!(id(&stanza_id("bob@example.com", "42")), "bob@example.com/42");
    assert_eq!(id(&stanza_id("BOB@Example.com", "42")), "bob@example.com/42");
    let others = ["alice@example.com", "example.com", "eve@example.com"].map(|by| stanza_id(by, "1")).concat();
    assert_eq!(id(&format!("{others}{}", stanza_id("bob@example.com", "42"))), "bob@example.com/42");
    let captured = include_str!("../fixtures/prosody/message.xml");
    assert_eq!(one(XML, captured).id, "bob@localhost/4vHDZVotkjVv5llhCgreqM-w");
}

#[test]
fn the_stanza_id_of_the_room_is_the_id_for_all_recipients_of_a_groupchat_message() {
    let stanza = format!(
        "<message type='groupchat' from='room@muc.example.com/alice'>{}{}</message>",
        stanza_id("eve@example.com", "1"),
        stanza_id("room@MUC.example.com", "42")
    );
    let to = |to: &[&str]| one(Json, json!({"type": "message", "to": to, "stanza": stanza}).to_string()).id;
    assert_eq!(to(&["bob@example.com"]), "room@muc.example.com/42");
    assert_eq!(to(&["bob@example.com", "eve@example.com"]), "room@muc.example.com/42");
}

#[test]
fn a_message_and_its_unacknowledged_copy_have_the_same_id() {
    let stanza = chat("", &stanza_id("bob@example.com", "42"));
    let copy = json!({"type": "unacknowledged", "to": "bob@example.com/Phone", "stanza": stanza});
    assert_eq!(one(XML, &stanza).id, one(Json, copy.to_string()).id);
}

#[test]
fn neither_the_clients_id_nor_a_stanza_id_of_another_account_is_the_id() {
    for children in [
        String::new(),
        stanza_id("alice@example.com", "1"),
        stanza_id("example.com", "1"),
        stanza_id("bob@example.com/phone", "1"),
        stanza_id("eve@example.com", "1"),
        stanza_id("bob@other.example", "1"),
        stanza_id("", "1"),
        stanza_id("b@b@b", "1"),
        stanza_id("bob@example.com", ""),
        "<stanza-id xmlns='urn:xmpp:sid:0' id='1'/>".into(),
        "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com'/>".into(),
        "<stanza-id xmlns='urn:xmpp:sid:1' by='bob@example.com' id='1'/>".into(),
        "<stanza-id by='bob@example.com' id='1'/>".into(),
        "<origin-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='1'/>".into(),
        format!("<x xmlns='u'>{}</x>", stanza_id("bob@example.com", "1")),
    ] {
        assert_new(&one(XML, chat("id='own'", &children)).id);
    }
    let groupchat = format!(
        "<message id='own' type='groupchat' from='room@muc.example.com/alice' to='bob@example.com'>{}</message>",
        stanza_id("muc.example.com", "1")
            + &stanza_id("room@muc.example.com/alice", "1")
            + &stanza_id("other@muc.example.com", "1")
    );
    assert_new(&one(XML, groupchat).id);
}

#[test]
fn the_stanza_id_of_one_recipient_is_not_the_id_for_several() {
    let event = json!({"type": "message", "to": ["bob@example.com", "eve@example.com"],
                       "stanza": chat("", &stanza_id("bob@example.com", "42"))});
    assert_new(&one(Json, event.to_string()).id);
}

#[test]
fn a_stanza_id_that_is_not_a_valid_id_is_replaced_by_a_stable_one() {
    let id = |by: &str, id: &str| {
        let id = one(XML, chat("", &stanza_id(by, id)).replace("bob@example.com/phone", by)).id;
        assert!(id.len() <= 256 && !id.chars().any(char::is_control), "{id}");
        id
    };
    let long = "x".repeat(300);
    let ids = [
        id("bob@example.com", &long),
        id("bob@example.com", &format!("{long}y")),
        id("eve@example.com", &long),
        id("bob@example.com", "a&#10;b"),
        id("bob@example.com", "a b"),
    ];
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{ids:?}");
    assert_eq!(ids[0], id("bob@example.com", &long));
}

#[test]
fn a_message_without_an_id_gets_a_new_one_each_time() {
    let event = json!({"type": "message", "from": "a@example.com", "to": "b@example.com", "chat": "chat", "body": "x"})
        .to_string();
    let ids: HashSet<_> =
        taken(JsonLines, format!("{event}\n").repeat(100)).into_iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), 100);
    ids.iter().for_each(|id| assert_new(id));
}
