//! The form of MongooseIM's `mod_event_pusher_http`.

use pushlark_http::Media::Form;
use pushlark_queue::ReportedRecipient;
use pushlark_xmpp::MessageType;

use crate::{assert_refused, captured, now, one, problem, queued};

#[test]
fn the_forms_that_mongooseim_sends_are_chat_messages_between_users_of_its_server() {
    for (request, body) in [
        (include_str!("../fixtures/mongooseim/escaped.http"), "Hi Test!&escape=Hello"),
        (include_str!("../fixtures/mongooseim/unicode.http"), "Zażółć \u{1f600} + 100% = \"ok\"\nline2"),
    ] {
        let (media, form) = captured(request);
        let event = one(media, form);
        assert_eq!(event.at, now());
        let queued = queued(event);
        assert_eq!((queued.from.as_str(), queued.to), ("alice@mim.localhost", vec!["bob@mim.localhost".to_owned()]));
        assert_eq!((queued.message.kind(), queued.message.body().as_deref()), (MessageType::Chat, Some(body)));
        assert_eq!(queued.recipient, ReportedRecipient::default());
    }
}

#[test]
fn fields_may_have_any_order_and_become_normalised_jids() {
    let event = one(Form, "message=%3Cb%3E&x=1&receiver=BOB&y&&server=Example.COM&x%20y=&author=%C3%84lice\r\n");
    let queued = queued(event);
    assert_eq!((queued.from.as_str(), queued.to), ("älice@example.com", vec!["bob@example.com".to_owned()]));
    assert_eq!(queued.message.body().as_deref(), Some("<b>"));
}

#[test]
fn a_percent_sign_that_escapes_nothing_is_kept() {
    let body = |escaped: &str| queued(one(Form, format!("author=a&server=b&receiver=c&message={escaped}"))).body();
    assert_eq!(body("100%"), "100%");
    assert_eq!(body("%zz%2"), "%zz%2");
    assert_eq!(body("a%2Bb+c%26d%3De=f"), "a+b c&d=e=f");
}

#[test]
fn each_field_must_be_present_once_and_valid() {
    let complete = [("author", "alice"), ("server", "example.com"), ("receiver", "bob"), ("message", "Hi")];
    let form = |fields: &[(&str, &str)]| {
        fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    };
    one(Form, form(&complete));
    for index in 0..complete.len() {
        let name = complete[index].0;
        let mut fields = complete.to_vec();
        fields.push(complete[index]);
        assert_refused(Form, &form(&fields), name);
        fields.truncate(complete.len());
        for value in ["%FF", "a%C3"] {
            fields[index].1 = value;
            assert_refused(Form, &form(&fields), name);
        }
        fields.remove(index);
        assert_refused(Form, &form(&fields), name);
    }
    for (index, value) in [
        (0, ""),
        (0, "alice@example.com"),
        (0, "alice/pc"),
        (0, "al+ice"),
        (0, "alice%40other.example"),
        (2, ""),
        (2, "b%2Fb"),
        (1, ""),
        (1, "bob@example.com"),
        (1, "example.com/pc"),
        (1, "example..com"),
        (1, "exam+ple.com"),
    ] {
        let mut fields = complete;
        fields[index].1 = value;
        assert_refused(Form, &form(&fields), fields[index].0);
    }
    assert_refused(Form, "", "missing");
    assert_refused(Form, &format!("{}&%FF=1", form(&complete)), "name");
}

#[test]
fn a_form_that_is_not_utf8_is_refused() {
    let problem = problem(Form, b"author=alice&server=example.com&receiver=bob&message=\xff");
    assert_eq!(problem["status"], 400);
    assert!(problem["detail"].as_str().unwrap().contains("UTF-8"), "{problem}");
}
