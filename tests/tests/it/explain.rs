//! Explanations of decisions (`/explain`).

use serde_json::{Value, json};
use tests::{ALICE, BOB, BOBS_PC, BOBS_PHONE, Event, PushRequest, Pushlark, ROOM_OCCUPANT, eventually, stanza};

/// Returns a message to Bob with the id `m1`.
fn message() -> Event {
    Event::message(BOB, "canary Hi").id("m1")
}

async fn explained(pushlark: &Pushlark, event: impl serde::Serialize) -> Value {
    let reply = pushlark.json("/explain", json!({"explain": [event]})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["explained"][0].clone()
}

async fn recipient(pushlark: &Pushlark, event: impl serde::Serialize) -> Value {
    let event = explained(pushlark, event).await;
    let recipient = event["recipients"][0].clone();
    let is_notified = recipient["publications"].as_array().is_some_and(|publications| !publications.is_empty());
    assert_eq!(event["effect"], if is_notified { "notifies" } else { "notifies nobody" });
    recipient
}

#[tokio::test]
async fn explain_shows_each_step_of_a_notification() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let elsewhere = PushRequest::new(BOB, "n").at("pubsub.elsewhere.example");
    assert_eq!(pushlark.json("/enable", elsewhere).await.status, 200);
    let target = format!("MongoosePush at {}/sink/v3/notification", pushlark.stack.url);
    assert_eq!(
        recipient(&pushlark, message()).await,
        json!({
            "recipient": BOB,
            "unread_count": 1,
            "registrations": [
                {"jid": "pubsub.elsewhere.example", "node": "n"},
                {"jid": "push.example.com", "node": "phone"},
            ],
            "exists": true,
            "online": false,
            "presence": "assumed",
            "left_out": [{"jid": "pubsub.elsewhere.example", "node": "n",
                "why": "the host is not virtual, and PUBSUB_URL has no server for the user's domain"}],
            "publications": [{"jid": "push.example.com", "node": "phone", "target": target,
                "payload": {"message-count": "1", "last-message-sender": ALICE, "last-message-body": "canary Hi"}}],
        })
    );
}

#[tokio::test]
async fn explain_reports_a_push_service_that_fails() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    for number in 0..5 {
        let (user, device) = (format!("u{number}@example.com"), format!("broken-{number}"));
        pushlark.enable(&user, &device).await;
        pushlark.device_answers(&device, json!({"status": 503})).await;
        pushlark.message(&user, "canary Hi").await;
    }
    let notice = async || recipient(&pushlark, message()).await["publications"][0].get("notice").cloned();
    let notice_text = eventually("five failures", async || notice().await).await;
    assert!(notice_text.as_str().unwrap().starts_with("the push service failed too often"), "{notice_text}");
    // A device without failures is still notified.
    pushlark.message(BOB, "canary now").await;
    pushlark.notified("phone", 1).await;
    for number in 0..5 {
        pushlark.device_answers(&format!("broken-{number}"), json!({"status": 200})).await;
    }
    pushlark.settled().await;
    assert_eq!(notice().await, None);
}

#[tokio::test]
async fn explain_reports_a_recipient_without_a_registration() {
    let pushlark = Pushlark::start().await;
    let explained = recipient(&pushlark, message()).await;
    assert_eq!(explained["notice"], "nobody is notified: the recipient has no registration");
    pushlark.enable(BOB, "phone").await;
    let explained = recipient(&pushlark, message()).await;
    assert_eq!((explained.get("notice"), explained["publications"].as_array().unwrap().len()), (None, 1));
}

#[tokio::test]
async fn explain_names_the_rule_that_skips_a_message_or_a_device() {
    let pushlark = Pushlark::with_settings([("PLUGIN", "hints")]).await;
    pushlark.enable(BOBS_PHONE, "phone").await;
    pushlark.enable(BOB, "tablet").await;
    let stanza = |content: &str| Event::stanza(BOB, &stanza::chat(content));
    for (content, rule) in [
        ("", "defaults: the message has no body"),
        ("<body> \u{200b}</body>", "defaults: the message has no text"),
        ("<body>x</body><no-store xmlns='urn:xmpp:hints'/>", "hints: the message is not to be stored"),
        (
            "<body>x</body><replace xmlns='urn:xmpp:message-correct:0' id='x'/>",
            "defaults: the message corrects an earlier one",
        ),
    ] {
        let skipped = recipient(&pushlark, stanza(content)).await;
        assert_eq!(skipped, json!({"recipient": BOB, "skipped": rule}));
    }

    let unacknowledged = Event::unacknowledged(BOBS_PHONE, "canary Hi");
    let tied = recipient(&pushlark, unacknowledged).await;
    assert_eq!(tied["tied"]["node"], "phone");
    assert_eq!(tied["publications"].as_array().unwrap().len(), 1);
    assert_eq!(tied["left_out"][0]["node"], "tablet");
    assert_eq!(tied["left_out"][0]["why"], "enhanced: the session is not tied to this service");

    pushlark.event(Event::presence(BOBS_PC, "online")).await;
    let online = recipient(&pushlark, message()).await;
    assert_eq!((&online["online"], &online["presence"]), (&json!(true), &json!("sessions")));
    assert_eq!(online["left_out"][1]["why"], "defaults: the recipient is online");
    assert_eq!(online["client_state"], "active");
    pushlark.event(Event::presence(BOBS_PC, "online").with("client_state", "inactive")).await;
    let inactive = recipient(&pushlark, message()).await;
    assert_eq!((&inactive["online"], &inactive["client_state"]), (&json!(true), &json!("inactive")));
    assert_eq!(inactive["publications"].as_array().unwrap().len(), 2);
    let given = message().recipient(json!({"online": true, "client_state": "active"}));
    assert_eq!(recipient(&pushlark, given).await["client_state"], "active");
    let given = message().recipient(json!({"online": false, "exists": false}));
    let given = recipient(&pushlark, given).await;
    assert_eq!((&given["online"], &given["presence"]), (&json!(false), &json!("event")));
    assert_eq!(given["left_out"][0]["why"], "defaults: there is no such user");
    let late = message().at("2020-01-01T00:00:00Z").recipient(json!({"online": false}));
    assert_eq!(recipient(&pushlark, late).await["left_out"][0]["why"], "the message is older than its time to live");
}

#[tokio::test]
async fn explain_names_the_operators_rule_by_number_and_name() {
    let rules = r#"
        [[rules]]
        name = "night"
        action = "skip"
        conditions = [{from = "carol@example.com"}]
        [[rules]]
        action = "skip"
        conditions = [{provider = "apns"}]
        [[rules]]
        name = "\"day\" ☀"
        action = "push"
        content = "message"
        body = "{kind}"
        conditions = [{type = "chat", user_status = "offline"}]
    "#;
    let pushlark = Pushlark::with_settings([("PLUGIN", "rules"), ("RULES", rules)]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.enable_with(BOB, "tablet", json!({"service": "apns"})).await;
    let skipped = recipient(&pushlark, message().from("carol@example.com/pc")).await;
    assert_eq!(skipped, json!({"recipient": BOB, "skipped": "rules: rule 1 \"night\""}));
    let decided = recipient(&pushlark, message()).await;
    assert_eq!(decided["publications"].as_array().unwrap().len(), 1);
    assert_eq!(decided["publications"][0]["node"], "phone");
    assert_eq!(decided["publications"][0]["rule"], "rule 3 \"\\\"day\\\" ☀\"");
    assert_eq!(decided["publications"][0]["payload"]["last-message-body"], "message");
    let tablet = json!([{"jid": "push.example.com", "node": "tablet", "why": "rules: rule 2"}]);
    assert_eq!(decided["left_out"], tablet);
    let online = recipient(&pushlark, message().recipient(json!({"online": true}))).await;
    assert_eq!(
        (&online["left_out"][0]["why"], &online["left_out"][1]["why"]),
        (&json!("rules: no rule matches"), &json!("rules: rule 2"))
    );
}

#[tokio::test]
async fn explain_does_not_publish_claim_or_count() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    for _ in 0..3 {
        assert_eq!(recipient(&pushlark, message()).await["unread_count"], 1);
    }
    explained(&pushlark, Event::user_removed(BOB)).await;
    explained(&pushlark, Event::presence("bob@example.com/a", "online")).await;
    assert_eq!(pushlark.queue_depth("QUEUE_URL").await, 0);
    pushlark.event(message()).await;
    let notified = pushlark.notified("phone", 1).await;
    assert_eq!(notified[0]["notification"]["alert"]["badge"], 1);
    pushlark.settled().await;
    let again = recipient(&pushlark, message()).await;
    assert_eq!(again["unread_count"], 1);
    assert_eq!(again["left_out"][0]["why"], "another event of this message publishes to it");
    let next = message().id("m2");
    assert_eq!(recipient(&pushlark, next).await["unread_count"], 2);
    assert_eq!(pushlark.notifications("phone").await.len(), 1);
}

#[tokio::test]
async fn explain_describes_events_that_are_not_messages() {
    let pushlark = Pushlark::start().await;
    for (event, effect) in [
        (Event::user_removed(BOB), "removes all data of bob@example.com"),
        (Event::domain_removed("example.com"), "removes the registrations of example.com"),
        (Event::presence("bob@example.com/a", "online"), "bob@example.com/a is online from then on"),
        (
            Event::presence("bob@example.com/a", "online").with("client_state", "inactive"),
            "bob@example.com/a is online from then on, with an inactive client",
        ),
        (
            Event::presence("bob@example.com/a", "online").with("show", "dnd"),
            "bob@example.com/a is online from then on, and away",
        ),
        (
            Event::presence("bob@example.com/a", "online").with("show", "away").with("client_state", "inactive"),
            "bob@example.com/a is online from then on, with an inactive client, and away",
        ),
        (
            Event::presence("bob@example.com/a", "online").with("show", "chat"),
            "bob@example.com/a is online from then on",
        ),
        (Event::read(BOB, ALICE), "notifies nobody"),
        (
            Event::stanza(BOB, "<message type='headline'><body>x</body></message>").from("a@b"),
            "none: messages of the types headline and error do not notify",
        ),
    ] {
        let explained = explained(&pushlark, event).await;
        assert_eq!(explained["effect"], effect);
        assert!(explained.get("recipients").is_none());
    }
    let group = Event::groupchat(ROOM_OCCUPANT, [BOB, "kate@example.com"], "canary Hi");
    assert_eq!(explained(&pushlark, group).await["recipients"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn explain_shows_the_read_conversation_and_the_count_of_a_message() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    let message = |id: &str, online: bool| Event::message(BOB, "canary Hi").id(id).recipient(json!({"online": online}));
    pushlark.event(message("m1", true)).await;
    pushlark.event(message("m2", false)).await;
    pushlark.settled().await;
    let explanation = explained(&pushlark, message("m1", true)).await;
    assert_eq!(explanation["reads"], "alice@example.com has read all messages of bob@example.com");
    assert_eq!(explanation["recipients"][0]["unread_count"], 1);
    let many: Vec<_> = (0..1_001).map(|user| format!("u{user}@example.com")).collect();
    let group = Event::groupchat("room@muc.example.com/a", many, "canary Hi");
    let refused = pushlark.json("/explain", json!({"explain": [group]})).await.problem(400);
    assert!(refused.contains("1001 recipients"), "{refused}");
}

#[tokio::test]
async fn explain_names_the_index_of_a_bad_event() {
    let pushlark = Pushlark::start().await;
    let good = message();
    let detail = pushlark.json("/explain", json!({"explain": [good, {"type": "nudge"}]})).await.problem(400);
    assert!(detail.contains("event 1") && detail.contains("nudge"), "{detail}");
    pushlark.json("/explain", json!({"explain": "all"})).await.problem(400);
    assert!(pushlark.json("/explain", json!({"explian": []})).await.problem(400).contains("explain"));
    pushlark.post("/explain", "application/xml", "<message/>").await.problem(415);
}
