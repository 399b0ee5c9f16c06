//! Webhooks: what notifies whom.

use serde_json::{Value, json};
use tests::{Pushlark, ago};

const BOB: &str = "bob@example.com";

async fn with_bob() -> Pushlark {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

fn alert(body: &str, sender: &str) -> Value {
    json!({"body": body, "title": sender, "tag": sender, "badge": 1})
}

#[tokio::test]
async fn each_content_type_notifies() {
    let pushlark = with_bob().await;
    let event = |body: &str| json!({"type": "message", "from": "Alice@Example.com/pc", "to": BOB, "chat": "chat", "body": body});
    let stanza = json!({"type": "message", "from": "alice@example.com/pc", "to": "bob@example.com/x",
        "stanza": "<message xmlns='jabber:client' type='chat'><body>stanza &amp; more</body></message>"});
    let xml = "<message xmlns='jabber:client' type='chat' from='alice@example.com/pc' to='bob@example.com/phone'><body>xml</body></message>";
    // As mod_event_pusher_http wrote it.
    let form = "author=alice&server=example.com&receiver=bob&message=Za%C5%BC%C3%B3%C5%82%C4%87+%F0%9F%98%80+%2B+100%25+%3D+%22ok%22%0Aline2";
    for (media, body, texts) in [
        ("application/json", event("json").to_string(), vec!["json"]),
        ("application/json", json!([event("one"), stanza]).to_string(), vec!["one", "stanza & more"]),
        ("application/x-ndjson", format!("{}\n\n{}\n", event("a line"), event("another")), vec!["a line", "another"]),
        ("application/xml", xml.to_owned(), vec!["xml"]),
        ("text/xml", xml.replace("xml<", "text xml<"), vec!["text xml"]),
        ("application/xmpp+xml", xml.replace("xml<", "xmpp xml<"), vec!["xmpp xml"]),
        ("application/x-www-form-urlencoded", form.to_owned(), vec!["Zażółć 😀 + 100% = \"ok\"\nline2"]),
    ] {
        let before = pushlark.notifications("phone").await.len();
        let reply = pushlark.post("/events", media, body).await;
        assert_eq!((reply.status, reply.content_type()), (202, "application/json"), "{}", reply.body);
        assert_eq!(reply.json()["accepted"], texts.len());
        assert_eq!(reply.json()["ids"].as_array().unwrap().len(), texts.len());
        let notified = pushlark.notified("phone", before + texts.len()).await;
        for text in texts {
            let expected = alert(text, "alice@example.com");
            assert!(notified[before..].iter().any(|n| n["notification"]["alert"] == expected), "{notified:?}");
        }
    }
}

#[tokio::test]
async fn a_text_reaches_the_device_as_it_came_but_for_what_xml_has_no_character_for() {
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
    pushlark
        .event(json!({"type": "message", "from": "Room@muc.example.com/Alice", "to": [BOB, "carol@example.com", BOB],
        "chat": "groupchat", "body": "Heyah!"}))
        .await;
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
    pushlark.event(json!({"type": "message", "from": "room@muc.example.com/alice", "to": users, "chat": "groupchat", "body": "planted Hi"})).await;
    for i in registered {
        pushlark.notified(&format!("device-{i}"), 1).await;
    }
    pushlark.settled().await;
    for i in registered {
        assert_eq!(pushlark.notifications(&format!("device-{i}")).await.len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_a_chat_message_with_a_body_notifies_nobody() {
    let pushlark = with_bob().await;
    let message = |attributes: &str, content: &str| {
        format!("<message from='alice@example.com/pc' to='{BOB}' {attributes}>{content}</message>")
    };
    for stanza in [
        message("type='headline'", "<body>planted: news</body>"),
        message("type='normal'", "<body>mail</body>"),
        message("", "<body>mail</body>"),
        message("type='error'", "<body>planted: echo</body>"),
        message("type='chat'", ""),
        message("type='chat'", "<body/>"),
        message("type='chat'", "<body xmlns='jabber:x'>other</body>"),
    ] {
        assert_eq!(pushlark.post("/events", "application/xml", stanza).await.status, 202);
    }
    let unacknowledged = json!({"type": "unacknowledged", "from": "alice@example.com/pc", "to": "bob@example.com/phone",
        "chat": "chat", "body": "planted: lost"});
    pushlark.event(unacknowledged).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
}

#[tokio::test]
async fn a_user_who_is_online_is_not_notified() {
    let pushlark = with_bob().await;
    let presence = async |content: &str| {
        let reply = pushlark
            .post("/events", "application/xml", format!("<presence from='bob@example.com/pc' {content}</presence>"))
            .await;
        assert_eq!(reply.status, 202, "{}", reply.body);
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
    let presence = |resource: &str, status: &str| json!({"type": "presence", "jid": format!("{BOB}/{resource}"), "status": status});
    pushlark.event(json!([presence("a", "online"), presence("b", "online"), presence("a", "offline")])).await;
    pushlark.message(BOB, "b is online").await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    pushlark.event(presence("b", "offline")).await;
    pushlark.message(BOB, "nobody is").await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn an_older_presence_changes_nothing() {
    let pushlark = with_bob().await;
    let presence =
        |status: &str, at: String| json!({"type": "presence", "jid": "bob@example.com/a", "status": status, "at": at});
    let [older, newer] = [20, 10].map(ago);
    pushlark.event(presence("offline", newer)).await;
    pushlark.event(presence("online", older)).await;
    pushlark.message(BOB, "offline").await;
    pushlark.notified("phone", 1).await;
    pushlark.event(presence("online", ago(-3600))).await;
    pushlark.event(json!({"type": "presence", "jid": "bob@example.com/a", "status": "offline"})).await;
    pushlark.message(BOB, "a clock that is fast mutes nobody").await;
    pushlark.notified("phone", 2).await;
}

#[tokio::test]
async fn what_the_event_says_of_the_recipient_wins() {
    let pushlark = with_bob().await;
    let message = |body: &str, recipient: Value| json!({"type": "message", "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": body, "recipient": recipient});
    pushlark.event(message("online", json!({"online": true}))).await;
    pushlark.event(message("no such user", json!({"exists": false}))).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    pushlark.event(json!({"type": "presence", "jid": "bob@example.com/a", "status": "online"})).await;
    pushlark.event(message("offline", json!({"online": false, "unread_count": 7}))).await;
    let notified = pushlark.notified("phone", 1).await;
    assert_eq!(notified[0]["notification"]["alert"]["badge"], 7);
}

#[tokio::test]
async fn a_message_told_twice_notifies_once() {
    let pushlark = with_bob().await;
    let given = json!({"type": "message", "id": "m1", "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "given id"});
    let other = json!({"type": "message", "id": "m2", "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "other id"});
    assert_eq!(pushlark.event(json!([given, given, other])).await, "m1");
    pushlark.event(given.clone()).await;
    let stanza = "<message type='chat' id='c' from='alice@example.com/pc' to='bob@example.com'><body>stanza id</body>\
                  <stanza-id xmlns='urn:xmpp:sid:0' by='bob@example.com' id='s1'/></message>";
    pushlark.post("/events", "application/xml", stanza).await;
    pushlark.post("/events", "application/xml", stanza).await;
    let foreign = stanza.replace("by='bob@", "by='alice@").replace("stanza id", "foreign");
    pushlark.post("/events", "application/xml", foreign.clone()).await;
    pushlark.post("/events", "application/xml", foreign).await;
    pushlark.notified("phone", 5).await;
    pushlark.settled().await;
    let mut alerts = pushlark.alerts("phone").await;
    alerts.sort();
    assert_eq!(alerts, ["foreign", "foreign", "given id", "other id", "stanza id"]);
}

#[tokio::test]
async fn one_bad_event_refuses_the_whole_request() {
    let pushlark = with_bob().await;
    let good =
        json!({"type": "message", "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "planted: good"});
    let online = json!({"type": "presence", "jid": "bob@example.com/a", "status": "online"});
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
    assert!(pushlark.alerts("phone").await.is_empty(), "something was queued");
    pushlark.message(BOB, "presence was not written").await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn a_bad_event_is_told_by_its_field() {
    let pushlark = Pushlark::start().await;
    let message = |field: &str, value: Value| {
        let mut message =
            json!({"type": "message", "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "planted"});
        message[field] = value;
        message
    };
    for (event, named) in [
        (json!({}), "type"),
        (json!("message"), "expected"),
        (message("type", json!("nudge")), "type"),
        (message("from", json!("@example.com")), "from"),
        (message("to", json!([])), "to"),
        (message("to", json!(["bob@example.com", 5])), "to"),
        (message("chat", json!("headline")), "chat"),
        (message("body", Value::Null), "body"),
        (message("stanza", json!("<message/>")), "stanza"),
        (message("id", json!("")), "id"),
        (message("id", json!("i".repeat(257))), "id"),
        (message("at", json!("yesterday")), "at"),
        (message("recipient", json!({"online": "planted"})), "recipient.online"),
        (message("recipient", json!([true, false])), "recipient"),
        (json!({"type": "message", "from": "a@b", "to": BOB, "stanza": "<presence/>"}), "stanza"),
        (json!({"type": "unacknowledged", "from": "a@b", "to": BOB, "chat": "chat", "body": "planted"}), "to"),
        (json!({"type": "presence", "jid": BOB, "status": "online"}), "jid"),
        (json!({"type": "presence", "jid": "bob@example.com/a", "status": "away"}), "status"),
        (json!({"type": "user_removed"}), "jid"),
        (json!({"type": "domain_removed", "domain": "a b"}), "domain"),
        (json!({"type": "read", "jid": BOB}), "conversation"),
    ] {
        let detail = pushlark.json("/events", event.clone()).await.problem(400);
        assert!(detail.contains(named), "{event} was answered: {detail}");
    }
    for (form, named) in [
        ("", "server"),
        ("author=alice&server=example.com&receiver=bob&body=planted", "message"),
        ("author=alice&server=example.com&message=planted", "receiver"),
        ("author=a%40b&server=example.com&receiver=bob&message=planted", "author"),
        ("author=alice&server=a%2Fb&receiver=bob&message=planted", "server"),
        ("author=alice&author=eve&server=example.com&receiver=bob&message=planted", "author"),
    ] {
        let detail = pushlark.post("/events", "application/x-www-form-urlencoded", form).await.problem(400);
        assert!(detail.contains(named), "{form} was answered: {detail}");
    }
    assert_eq!(pushlark.queue_depth("QUEUE_URL").await, 0);
}

#[tokio::test]
async fn a_removed_user_is_notified_no_more_until_enabling_again() {
    let pushlark = with_bob().await;
    pushlark.enable("carol@example.com", "carols").await;
    pushlark.event(json!({"type": "user_removed", "jid": "bob@example.com/any"})).await;
    pushlark.settled().await;
    pushlark.message(BOB, "gone").await;
    pushlark.message("carol@example.com", "here").await;
    pushlark.notified("carols", 1).await;
    pushlark.settled().await;
    assert!(pushlark.alerts("phone").await.is_empty());
    // A removal that arrives late spares what was enabled since.
    let before = ago(60);
    pushlark.enable(BOB, "phone").await;
    pushlark.event(json!({"type": "user_removed", "jid": BOB, "at": before})).await;
    pushlark.settled().await;
    pushlark.message(BOB, "back").await;
    pushlark.notified("phone", 1).await;
}

#[tokio::test]
async fn a_removed_domain_takes_its_registrations_and_no_others() {
    let pushlark = Pushlark::start().await;
    for i in 0..40 {
        pushlark.enable(&format!("u{i}@gone.example"), &format!("gone-{i}")).await;
    }
    pushlark.enable("u@stays.example", "stays").await;
    pushlark.event(json!({"type": "domain_removed", "domain": "Gone.example"})).await;
    pushlark.settled().await;
    let to: Vec<_> = (0..40).map(|i| format!("u{i}@gone.example")).chain(["u@stays.example".to_owned()]).collect();
    pushlark
        .event(json!({"type": "message", "from": "a@b/c", "to": to, "chat": "groupchat", "body": "anybody?"}))
        .await;
    pushlark.notified("stays", 1).await;
    pushlark.settled().await;
    let all: Vec<Value> = pushlark
        .http
        .get(format!("{}/sink/notifications", pushlark.stack.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(all.len(), 1);
}
