//! Limits of events, also for bodies that would exceed them in the queue.

use pushlark_events::Effect;
use pushlark_http::Media;
use serde_json::json;

use crate::{XML, assert_refused, one, problem};

fn message(attributes: &str, content: &str) -> String {
    format!("<message {attributes} from='a@b' to='c@d' type='chat'>{content}</message>")
}

#[test]
fn a_long_namespace_is_refused() {
    let namespace = "u".repeat(60_000);
    let body = message(&format!("xmlns:p='{namespace}'"), &"<p:b/>".repeat(10_000));
    assert_refused(XML, &body, "namespace");
}

#[test]
fn many_attributes_are_refused() {
    let attributes: String = (0..129).map(|i| format!(" p:b{i}='1'")).collect();
    assert_refused(XML, &message("xmlns:p='u'", &format!("<body>x</body><x{attributes}/>")), "attributes");
}

#[test]
fn a_stanza_that_exceeds_the_limit_when_it_is_written_is_refused() {
    assert_refused(XML, &message(&format!("x='{}'", "\"".repeat(100_000)), "<body>x</body>"), "bytes");
    let kept = one(XML, message("", &format!("<body>{}</body>", ">".repeat(200_000))));
    assert!(matches!(kept.effect, Effect::Queue(_)));
}

#[test]
fn a_body_without_a_stanza_has_the_limit_of_a_stanza() {
    let body = "x".repeat(300_000);
    let event = json!({"type": "message", "from": "a@b", "to": "c@d", "chat": "chat", "body": body});
    assert_refused(Media::Json, &event.to_string(), "bytes");
    assert_refused(Media::Form, &format!("author=a&server=b&receiver=c&message={body}"), "bytes");
}

#[test]
fn a_jid_whose_normal_form_is_not_stable_is_refused() {
    for jid in ["a@\u{1806}", "\u{1806}", "\u{1d2c}lice@b"] {
        assert_refused(Media::Json, &json!({"type": "user_removed", "jid": jid}).to_string(), "jid");
    }
    for jid in ["bob@example.com.", "Bob@example.com.", "bob@example.com"] {
        let event = one(Media::Json, json!({"type": "user_removed", "jid": jid}).to_string());
        let removed = Effect::Queue(pushlark_queue::WorkKind::UserRemoved { jid: "bob@example.com".parse().unwrap() });
        assert_eq!(event.effect, removed);
    }
}

#[test]
fn characters_that_the_queue_does_not_accept_are_refused() {
    for id in ["a\u{ffff}", "a\u{fffe}"] {
        let event = json!({"type": "user_removed", "jid": "a@b", "id": id});
        assert_refused(Media::Json, &event.to_string(), "id");
    }
    assert_refused(XML, &message("", "<a\u{fffe}/>"), "name");
}

#[test]
fn more_than_5000_recipients_are_refused() {
    let to: Vec<String> = (0..5_001).map(|i| format!("u{i}@b")).collect();
    let event = json!({"type": "message", "from": "a@b", "to": to, "chat": "groupchat", "body": "x"});
    assert_refused(Media::Json, &event.to_string(), "to");
}

#[test]
fn more_than_1000_events_are_refused_before_any_is_read() {
    let nothing = vec!["0"; 1_001];
    let array = format!("[{}]", nothing.join(","));
    for (media, body) in [(Media::Json, &array), (Media::CloudEvents, &array), (Media::JsonLines, &nothing.join("\n"))]
    {
        let problem = problem(media, body);
        assert_eq!(problem["detail"], "there are 1001 events, 1000 are allowed");
        assert!(problem["errors"].is_null(), "{problem}");
    }
}

#[test]
fn an_array_instead_of_an_object_is_refused() {
    assert_refused(Media::Json, r#"[["user_removed"]]"#, "object");
}
