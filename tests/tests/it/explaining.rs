//! Why something is pushed, and why not.

use serde_json::{Value, json};
use tests::{Pushlark, eventually};

const BOB: &str = "bob@example.com";

fn message(to: &str, body: &str) -> Value {
    json!({"type": "message", "id": "m1", "from": "alice@example.com/pc", "to": to, "chat": "chat", "body": body})
}

async fn explained(pushlark: &Pushlark, event: Value) -> Value {
    let reply = pushlark.json("/explain", json!({"explain": [event]})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["explained"][0].clone()
}

async fn recipient(pushlark: &Pushlark, event: Value) -> Value {
    let event = explained(pushlark, event).await;
    assert_eq!(event["effect"], "notifies");
    event["recipients"][0].clone()
}

#[tokio::test]
async fn each_step_of_a_notification_is_told() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let elsewhere = json!({"user": BOB, "jid": "pubsub.elsewhere.example", "node": "n"});
    assert_eq!(pushlark.json("/enable", elsewhere).await.status, 200);
    let target = format!("MongoosePush at {}/sink/v3/notification", pushlark.stack.url);
    assert_eq!(
        recipient(&pushlark, message(BOB, "planted Hi")).await,
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
                "why": "the host is not virtual, and PUBSUB_URL names no way to real ones"}],
            "publications": [{"jid": "push.example.com", "node": "phone", "target": target,
                "payload": {"message-count": "1", "last-message-sender": "alice@example.com", "last-message-body": "planted Hi"}}],
        })
    );
}

#[tokio::test]
async fn a_push_service_that_is_left_alone_is_told() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    for number in 0..5 {
        let (user, device) = (format!("u{number}@example.com"), format!("broken-{number}"));
        pushlark.enable(&user, &device).await;
        pushlark.device_answers(&device, json!({"status": 503})).await;
        pushlark.message(&user, "planted Hi").await;
    }
    let notice =
        async || recipient(&pushlark, message(BOB, "planted Hi")).await["publications"][0].get("notice").cloned();
    let told = eventually("five failures", async || notice().await).await;
    assert!(told.as_str().unwrap().starts_with("the push service failed too often"), "{told}");
    // A device that has not failed tries it.
    pushlark.message(BOB, "planted now").await;
    pushlark.notified("phone", 1).await;
    for number in 0..5 {
        pushlark.device_answers(&format!("broken-{number}"), json!({"status": 200})).await;
    }
    pushlark.settled().await;
    assert_eq!(notice().await, None);
}

#[tokio::test]
async fn a_recipient_without_a_registration_is_told_as_the_reason() {
    let pushlark = Pushlark::start().await;
    let explained = recipient(&pushlark, message(BOB, "planted Hi")).await;
    assert_eq!(explained["notice"], "nobody is notified: the recipient has no registration");
    pushlark.enable(BOB, "phone").await;
    let explained = recipient(&pushlark, message(BOB, "planted Hi")).await;
    assert_eq!((explained.get("notice"), explained["publications"].as_array().unwrap().len()), (None, 1));
}

#[tokio::test]
async fn what_leaves_a_message_or_a_service_out_is_told() {
    let pushlark = Pushlark::with_settings([("PLUGIN", "hints")]).await;
    pushlark.enable("bob@example.com/phone", "phone").await;
    pushlark.enable(BOB, "tablet").await;
    let stanza = |content: &str| json!({"type": "message", "from": "alice@example.com/pc", "to": BOB, "stanza": format!("<message type='chat'>{content}</message>")});
    for (content, rule) in [
        ("", "defaults: the message has no body"),
        ("<body>x</body><no-store xmlns='urn:xmpp:hints'/>", "hints: the message is not to be stored"),
        (
            "<body>x</body><replace xmlns='urn:xmpp:message-correct:0' id='x'/>",
            "defaults: the message corrects an earlier one",
        ),
    ] {
        let skipped = recipient(&pushlark, stanza(content)).await;
        assert_eq!(skipped, json!({"recipient": BOB, "skipped": rule}));
    }

    let mut unacknowledged = message("bob@example.com/phone", "planted Hi");
    unacknowledged["type"] = "unacknowledged".into();
    let tied = recipient(&pushlark, unacknowledged).await;
    assert_eq!(tied["tied"]["node"], "phone");
    assert_eq!(tied["publications"].as_array().unwrap().len(), 1);
    assert_eq!(tied["left_out"][0]["node"], "tablet");
    assert_eq!(tied["left_out"][0]["why"], "enhanced: the session is not tied to this service");

    pushlark.event(json!({"type": "presence", "jid": "bob@example.com/pc", "status": "online"})).await;
    let online = recipient(&pushlark, message(BOB, "planted Hi")).await;
    assert_eq!((&online["online"], &online["presence"]), (&json!(true), &json!("sessions")));
    assert_eq!(online["left_out"][1]["why"], "defaults: the recipient is online");
    let mut given = message(BOB, "planted Hi");
    given["recipient"] = json!({"online": false, "exists": false});
    let given = recipient(&pushlark, given).await;
    assert_eq!((&given["online"], &given["presence"]), (&json!(false), &json!("event")));
    assert_eq!(given["left_out"][0]["why"], "defaults: there is no such user");
    let mut late = message(BOB, "planted Hi");
    late["at"] = "2020-01-01T00:00:00Z".into();
    late["recipient"] = json!({"online": false});
    assert_eq!(recipient(&pushlark, late).await["left_out"][0]["why"], "the message is older than its time to live");
}

#[tokio::test]
async fn explaining_publishes_claims_and_counts_nothing() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    for _ in 0..3 {
        assert_eq!(recipient(&pushlark, message(BOB, "planted Hi")).await["unread_count"], 1);
    }
    explained(&pushlark, json!({"type": "user_removed", "jid": BOB})).await;
    explained(&pushlark, json!({"type": "presence", "jid": "bob@example.com/a", "status": "online"})).await;
    assert_eq!(pushlark.queue_depth("QUEUE_URL").await, 0);
    pushlark.event(message(BOB, "planted Hi")).await;
    let notified = pushlark.notified("phone", 1).await;
    assert_eq!(notified[0]["notification"]["alert"]["badge"], 1);
    pushlark.settled().await;
    let again = recipient(&pushlark, message(BOB, "planted Hi")).await;
    assert_eq!(again["unread_count"], 1);
    assert_eq!(again["left_out"][0]["why"], "another event of this message publishes to it");
    let mut next = message(BOB, "planted Hi");
    next["id"] = "m2".into();
    assert_eq!(recipient(&pushlark, next).await["unread_count"], 2);
    assert_eq!(pushlark.notifications("phone").await.len(), 1);
}

#[tokio::test]
async fn events_that_are_no_messages_are_explained_too() {
    let pushlark = Pushlark::start().await;
    for (event, effect) in [
        (json!({"type": "user_removed", "jid": BOB}), "removes what is kept of bob@example.com"),
        (json!({"type": "domain_removed", "domain": "example.com"}), "removes the registrations of example.com"),
        (
            json!({"type": "presence", "jid": "bob@example.com/a", "status": "online"}),
            "bob@example.com/a is online from then on",
        ),
        (json!({"type": "read", "jid": BOB, "conversation": "alice@example.com"}), "notifies nobody"),
        (
            json!({"type": "message", "from": "a@b", "to": BOB, "stanza": "<message type='headline'><body>x</body></message>"}),
            "none: only messages of the types chat and groupchat notify",
        ),
    ] {
        let explained = explained(&pushlark, event).await;
        assert_eq!(explained["effect"], effect);
        assert!(explained.get("recipients").is_none());
    }
    let group = json!({"type": "message", "from": "room@muc.example.com/alice", "to": [BOB, "kate@example.com"],
        "chat": "groupchat", "body": "planted Hi"});
    assert_eq!(explained(&pushlark, group).await["recipients"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_a_message_reads_and_what_it_was_counted_as_is_told() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    pushlark.enable(BOB, "phone").await;
    let message = |id: &str, online: bool| {
        json!({"type": "message", "id": id, "from": "alice@example.com/pc", "to": BOB, "chat": "chat", "body": "planted Hi",
            "recipient": {"online": online}})
    };
    pushlark.event(message("m1", true)).await;
    pushlark.event(message("m2", false)).await;
    pushlark.settled().await;
    let explanation = explained(&pushlark, message("m1", true)).await;
    assert_eq!(explanation["reads"], "alice@example.com has read all of bob@example.com");
    assert_eq!(explanation["recipients"][0]["unread_count"], 1);
    let many: Vec<_> = (0..1_001).map(|user| format!("u{user}@example.com")).collect();
    let group = json!({"type": "message", "from": "room@muc.example.com/a", "to": many, "chat": "groupchat", "body": "planted Hi"});
    let refused = pushlark.json("/explain", json!({"explain": [group]})).await.problem(400);
    assert!(refused.contains("1001 recipients"), "{refused}");
}

#[tokio::test]
async fn what_is_no_event_is_told_by_its_index() {
    let pushlark = Pushlark::start().await;
    let good = message(BOB, "planted Hi");
    let detail = pushlark.json("/explain", json!({"explain": [good, {"type": "nudge"}]})).await.problem(400);
    assert!(detail.contains("event 1") && detail.contains("nudge"), "{detail}");
    pushlark.json("/explain", json!({"explain": "all"})).await.problem(400);
    assert!(pushlark.json("/explain", json!({"explian": []})).await.problem(400).contains("explain"));
    pushlark.post("/explain", "application/xml", "<message/>").await.problem(415);
}
