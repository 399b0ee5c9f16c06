//! Events, and the users whom they notify.

use serde_json::{Value, json};
use tests::{ALICE, ALICES_PC, BOB, BOBS_PHONE, CAROL, Event, Pushlark, ROOM_OCCUPANT, ago};

async fn with_bob() -> Pushlark {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

fn alert(body: &str, sender: &str) -> Value {
    json!({"body": body, "title": sender, "tag": sender, "badge": 1})
}

#[tokio::test]
async fn a_message_in_each_content_type_notifies() {
    let pushlark = with_bob().await;
    let event = |body: &str| Event::message(BOB, body).from("Alice@Example.com/pc");
    let stanza = Event::stanza(
        "bob@example.com/x",
        "<message xmlns='jabber:client' type='chat'><body>stanza &amp; more</body></message>",
    );
    let addresses = format!("from='{ALICES_PC}' to='{BOBS_PHONE}'");
    let xml = format!("<message xmlns='jabber:client' type='chat' {addresses}><body>xml</body></message>");
    // The encoding of mod_event_pusher_http.
    let encoded = "Za%C5%BC%C3%B3%C5%82%C4%87+%F0%9F%98%80+%2B+100%25+%3D+%22ok%22%0Aline2";
    let form = format!("author=alice&server=example.com&receiver=bob&message={encoded}");
    for (media, body, texts) in [
        ("application/json", event("json").to_string(), vec!["json"]),
        ("application/json", json!([event("one"), stanza]).to_string(), vec!["one", "stanza & more"]),
        ("application/x-ndjson", format!("{}\n\n{}\n", event("a line"), event("another")), vec!["a line", "another"]),
        ("application/xml", xml.clone(), vec!["xml"]),
        ("text/xml", xml.replace("xml<", "text xml<"), vec!["text xml"]),
        ("application/xmpp+xml", xml.replace("xml<", "xmpp xml<"), vec!["xmpp xml"]),
        ("application/x-www-form-urlencoded", form, vec!["Zażółć 😀 + 100% = \"ok\"\nline2"]),
    ] {
        let before = pushlark.notifications("phone").await.len();
        let reply = pushlark.post("/events", media, body).await;
        assert_eq!((reply.status, reply.content_type()), (202, "application/json"), "{}", reply.body);
        assert_eq!(reply.json()["accepted"], texts.len());
        assert_eq!(reply.json()["ids"].as_array().unwrap().len(), texts.len());
        let notified = pushlark.notified("phone", before + texts.len()).await;
        for text in texts {
            let expected = alert(text, ALICE);
            assert!(notified[before..].iter().any(|n| n["notification"]["alert"] == expected), "{notified:?}");
        }
    }
}

#[tokio::test]
async fn a_text_is_unchanged_except_for_characters_that_xml_forbids() {
    let pushlark = with_bob().await;
    let text = "\u{202e}cod.exe\u{202c} \u{200f}שלום\u{2066} 👩\u{200d}👧\u{2069}\u{85}\u{feff}";
    let with_others = format!("\u{0}{text}\u{b}\u{1f}\u{fffe}\u{ffff}");
    pushlark.message(BOB, &with_others).await;
    let encoded: String = with_others.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let form = format!("author=alice&server=example.com&receiver=bob&message={encoded}");
    let reply = pushlark.post("/events", "application/x-www-form-urlencoded", form).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    pushlark.notified("phone", 2).await;
    assert_eq!(pushlark.alerts("phone").await, [text, text]);
}

#[tokio::test]
async fn a_groupchat_message_is_from_the_occupant() {
    let pushlark = with_bob().await;
    pushlark.event(Event::groupchat("Room@muc.example.com/Alice", [BOB, CAROL, BOB], "Heyah!")).await;
    pushlark.settled().await;
    let notified = pushlark.notifications("phone").await;
    assert_eq!(notified.len(), 1);
    assert_eq!(notified[0]["notification"]["alert"], alert("Heyah!", "room@muc.example.com/Alice"));
}

#[tokio::test]
async fn a_message_for_a_thousand_recipients_reaches_each_of_them_once() {
    let pushlark = Pushlark::start().await;
    let users: Vec<String> = (0..1000).map(|i| format!("u{i}@example.com")).collect();
    let registered = [0, 24, 25, 499, 999];
    for i in registered {
        pushlark.enable(&users[i], &format!("device-{i}")).await;
    }
    pushlark.event(Event::groupchat(ROOM_OCCUPANT, users, "canary Hi")).await;
    for i in registered {
        pushlark.notified(&format!("device-{i}"), 1).await;
    }
    pushlark.settled().await;
    for i in registered {
        assert_eq!(pushlark.notifications(&format!("device-{i}")).await.len(), 1);
    }
}

#[tokio::test]
async fn a_message_without_a_body_or_of_the_types_headline_and_error_notifies_nobody() {
    let pushlark = with_bob().await;
    let message = |attributes: &str, content: &str| {
        format!("<message from='alice@example.com/pc' to='{BOB}' {attributes}>{content}</message>")
    };
    for stanza in [
        message("type='headline'", "<body>canary: news</body>"),
        message("type='normal'", ""),
        message("", "<body/>"),
        message("type='error'", "<body>canary: echo</body>"),
        message("type='chat'", ""),
        message("type='chat'", "<body/>"),
        message("type='chat'", "<body xmlns='jabber:x'>other</body>"),
    ] {
        assert_eq!(pushlark.post("/events", "application/xml", stanza).await.status, 202);
    }
    let unacknowledged = Event::unacknowledged(BOBS_PHONE, "canary: lost");
    pushlark.event(unacknowledged).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
}

#[tokio::test]
async fn an_online_user_is_not_notified() {
    let pushlark = with_bob().await;
    let presence = async |content: &str| {
        pushlark.stanza(format!("<presence from='bob@example.com/pc' {content}</presence>")).await;
    };
    presence("><show>away</show>").await;
    pushlark.message(BOB, "online").await;
    presence("to='alice@example.com' type='unavailable'>").await;
    presence("type='subscribe' to='bob@example.com'>").await;
    pushlark.message(BOB, "still online").await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    presence("to='bob@example.com'><priority>-1</priority>").await;
    pushlark.message(BOB, "negative priority").await;
    pushlark.notified("phone", 1).await;
    presence("to='example.com'>").await;
    pushlark.message(BOB, "online again").await;
    presence("type='unavailable'>").await;
    pushlark.message(BOB, "offline").await;
    pushlark.notified("phone", 2).await;
    pushlark.settled().await;
    assert!(!pushlark.alerts("phone").await.contains(&"still online".to_owned()));
}

#[tokio::test]
async fn a_user_is_online_while_any_session_is() {
    let pushlark = with_bob().await;
    let presence = |resource: &str, status: &str| Event::presence(&format!("{BOB}/{resource}"), status);
    pushlark.event(json!([presence("a", "online"), presence("b", "online"), presence("a", "offline")])).await;
    pushlark.message(BOB, "b is online").await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    pushlark.event(presence("b", "offline")).await;
    pushlark.message(BOB, "nobody is online").await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn an_older_presence_changes_nothing() {
    let pushlark = with_bob().await;
    let presence = |status: &str, at: String| Event::presence("bob@example.com/a", status).at(at);
    let [older, newer] = [20, 10].map(ago);
    pushlark.event(presence("offline", newer)).await;
    pushlark.event(presence("online", older)).await;
    pushlark.message(BOB, "offline").await;
    pushlark.notified("phone", 1).await;
    pushlark.event(presence("online", ago(-3600))).await;
    pushlark.event(Event::presence("bob@example.com/a", "offline")).await;
    pushlark.message(BOB, "a presence from the future is not kept").await;
    pushlark.notified("phone", 2).await;
}

#[tokio::test]
async fn recipient_facts_in_the_event_win() {
    let pushlark = with_bob().await;
    let message = |body: &str, recipient: Value| Event::message(BOB, body).recipient(recipient);
    pushlark.event(message("online", json!({"online": true}))).await;
    pushlark.event(message("no such user", json!({"exists": false}))).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    pushlark.event(Event::presence("bob@example.com/a", "online")).await;
    pushlark.event(message("offline", json!({"online": false, "unread_count": 7}))).await;
    let notified = pushlark.notified("phone", 1).await;
    assert_eq!(notified[0]["notification"]["alert"]["badge"], 7);
}

#[tokio::test]
async fn a_message_posted_twice_notifies_once() {
    let pushlark = with_bob().await;
    let given = Event::message(BOB, "given id").id("m1");
    let other = Event::message(BOB, "other id").id("m2");
    assert_eq!(pushlark.event(json!([given, given, other])).await, "m1");
    pushlark.event(given.clone()).await;
    let stanza = "<message type='chat' id='c' from='alice@example.com/pc' to='bob@example.com'><body>stanza id</body>\
                  <stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='s1'/></message>";
    pushlark.stanza(stanza).await;
    pushlark.stanza(stanza).await;
    let foreign = stanza.replace("by='bob@", "by='alice@").replace("stanza id", "foreign");
    pushlark.stanza(foreign.clone()).await;
    pushlark.stanza(foreign).await;
    pushlark.notified("phone", 5).await;
    pushlark.settled().await;
    assert_eq!(pushlark.sorted_alerts("phone").await, ["foreign", "foreign", "given id", "other id", "stanza id"]);
}

#[tokio::test]
async fn one_bad_event_makes_the_whole_request_fail() {
    let pushlark = with_bob().await;
    let good = Event::message(BOB, "canary: good");
    let online = Event::presence("bob@example.com/a", "online");
    let reply =
        pushlark.json("/events", json!([good, {"type": "nudge"}, online, {"type": "presence", "jid": "bob@"}])).await;
    reply.problem(400);
    let errors = reply.json()["errors"].clone();
    assert_eq!(errors.as_array().unwrap().len(), 2, "{errors}");
    assert_eq!((&errors[0]["index"], &errors[1]["index"]), (&json!(1), &json!(3)));
    assert!(errors[0]["detail"].as_str().unwrap().contains("nudge"));
    let lines = format!("{good}\n{{\n{online}\n");
    let reply = pushlark.post("/events", "application/x-ndjson", lines).await;
    reply.problem(400);
    assert_eq!(reply.json()["errors"][0]["index"], 1);
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty(), "an event was queued");
    pushlark.message(BOB, "presence was not written").await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn the_error_of_a_bad_event_names_the_field() {
    let pushlark = Pushlark::start().await;
    let message = |field: &str, value: Value| Value::from(Event::message(BOB, "canary").with(field, value));
    for (event, named) in [
        (json!({}), "type"),
        (json!("message"), "expected"),
        (message("type", json!("nudge")), "type"),
        (message("from", json!("@example.com")), "from"),
        (message("to", json!([])), "to"),
        (message("to", json!([BOB, 5])), "to"),
        (message("chat", json!("headline")), "chat"),
        (message("body", Value::Null), "body"),
        (message("stanza", json!("<message/>")), "stanza"),
        (message("id", json!("")), "id"),
        (message("id", json!("i".repeat(257))), "id"),
        (message("at", json!("yesterday")), "at"),
        (message("recipient", json!({"online": "canary"})), "recipient.online"),
        (message("recipient", json!([true, false])), "recipient"),
        (Event::stanza(BOB, "<presence/>").into(), "stanza"),
        (Event::unacknowledged(BOB, "canary").into(), "to"),
        (Event::presence(BOB, "online").into(), "jid"),
        (Event::presence("bob@example.com/a", "away").into(), "status"),
        (json!({"type": "user_removed"}), "jid"),
        (Event::domain_removed("a b").into(), "domain"),
        (json!({"type": "read", "jid": BOB}), "conversation"),
    ] {
        let detail = pushlark.json("/events", event.clone()).await.problem(400);
        assert!(detail.contains(named), "{event} was answered with {detail}");
    }
    for (form, named) in [
        ("", "server"),
        ("author=alice&server=example.com&receiver=bob&body=canary", "message"),
        ("author=alice&server=example.com&message=canary", "receiver"),
        ("author=a%40b&server=example.com&receiver=bob&message=canary", "author"),
        ("author=alice&server=a%2Fb&receiver=bob&message=canary", "server"),
        ("author=alice&author=eve&server=example.com&receiver=bob&message=canary", "author"),
    ] {
        let detail = pushlark.post("/events", "application/x-www-form-urlencoded", form).await.problem(400);
        assert!(detail.contains(named), "{form} was answered with {detail}");
    }
    assert_eq!(pushlark.queue_depth("QUEUE_URL").await, 0);
}

#[tokio::test]
async fn a_removed_user_is_not_notified_until_it_enables_again() {
    let pushlark = with_bob().await;
    pushlark.enable(CAROL, "carols").await;
    pushlark.event(Event::user_removed("bob@example.com/any")).await;
    pushlark.settled().await;
    pushlark.message(BOB, "gone").await;
    pushlark.message(CAROL, "here").await;
    pushlark.notified("carols", 1).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    // A late removal keeps a registration that is newer.
    let before = ago(60);
    pushlark.enable(BOB, "phone").await;
    pushlark.event(Event::user_removed(BOB).at(before)).await;
    pushlark.settled().await;
    pushlark.message(BOB, "back").await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn removing_a_domain_removes_only_its_registrations() {
    let pushlark = Pushlark::start().await;
    for i in 0..40 {
        pushlark.enable(&format!("u{i}@gone.example"), &format!("gone-{i}")).await;
    }
    pushlark.enable("u@stays.example", "stays").await;
    pushlark.event(Event::domain_removed("Gone.example")).await;
    pushlark.settled().await;
    let to: Vec<_> = (0..40).map(|i| format!("u{i}@gone.example")).chain(["u@stays.example".to_owned()]).collect();
    pushlark.event(Event::groupchat("a@b/c", to, "anybody?")).await;
    pushlark.notified("stays", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.all_notifications().await.len(), 1);
}
