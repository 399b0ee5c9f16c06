//! Webhooks in the formats of chat servers and message brokers, from captured requests.

use doubles::{SNS_SIGNED_BY_SHA1, Sns};
use pushlark_http::{Answer, Invocation};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tests::{Event, PushRequest, Pushlark, Reply, ago, send};

const DELIVERIES: &str = include_str!("../../../shared/events/tests/fixtures/rabbitmq/deliveries.json");

/// Returns a captured request.
fn captured(pushlark: &Pushlark, capture: &str) -> RequestBuilder {
    let (head, body) = capture.split_once("\r\n\r\n").unwrap();
    let request = pushlark.http.post(format!("{}/events", pushlark.stack.url)).body(body.to_owned());
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let own = |name: &str| ["content-length", "connection", "host", "te"].contains(&name.to_ascii_lowercase().as_str());
    headers.filter(|(name, _)| !own(name)).fold(request, |request, (name, value)| request.header(name, value))
}

fn accepted(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 202, "{}", reply.body);
    serde_json::from_value(reply.json()["ids"].clone()).unwrap()
}

#[tokio::test]
async fn webhooks_of_ejabberd_and_mongooseim_notify() {
    let pushlark = Pushlark::start().await;
    for user in
        ["bob@localhost", "room1@conference.localhost", "zed@example.org", "bob@mim.localhost", "carol@mim.localhost"]
    {
        pushlark.enable(user, user).await;
    }
    let unicode = "Zażółć 😀 + 100% = \"ok\"\nline2";
    for (name, capture, notified) in [
        (
            "mod_post_log: chat",
            include_str!("../../../shared/events/tests/fixtures/ejabberd/chat.http"),
            Some(("bob@localhost", "plain chat", "alice@localhost")),
        ),
        (
            "mod_post_log: to a session",
            include_str!("../../../shared/events/tests/fixtures/ejabberd/chat-to-full-jid.http"),
            Some(("bob@localhost", "Zażółć & 😀", "alice@localhost")),
        ),
        (
            "mod_post_log: with a hint",
            include_str!("../../../shared/events/tests/fixtures/ejabberd/no-store-hint.http"),
            Some(("bob@localhost", "secret", "alice@localhost")),
        ),
        (
            "mod_post_log: to another server",
            include_str!("../../../shared/events/tests/fixtures/ejabberd/to-remote.http"),
            Some(("zed@example.org", "remote", "alice@localhost")),
        ),
        (
            "mod_event_pusher_http: escaped",
            include_str!("../../../shared/events/tests/fixtures/mongooseim/escaped.http"),
            Some(("bob@mim.localhost", "Hi Test!&escape=Hello", "alice@mim.localhost")),
        ),
        (
            "mod_event_pusher_http: Unicode",
            include_str!("../../../shared/events/tests/fixtures/mongooseim/unicode.http"),
            Some(("bob@mim.localhost", unicode, "alice@mim.localhost")),
        ),
        (
            "mod_event_pusher_http: to Carol",
            include_str!("../../../shared/events/tests/fixtures/mongooseim/to-carol.http"),
            Some(("carol@mim.localhost", "to remote", "alice@mim.localhost")),
        ),
    ] {
        accepted(&send(captured(&pushlark, capture)).await);
        pushlark.settled().await;
        let (user, body, sender) = notified.unwrap();
        let last = pushlark.notifications(user).await.pop().unwrap_or_default();
        let expected = json!({"body": body, "title": sender, "tag": sender, "badge": 1});
        assert_eq!(last["notification"]["alert"], expected, "{name}");
    }
    assert_eq!(pushlark.notifications("bob@localhost").await.len(), 3);
}

/// Checks that Alice, who is offline, has one notification of the room's message, and Bob one of Alice's.
async fn assert_notified_of_each_once(pushlark: &Pushlark) {
    pushlark.settled().await;
    for (device, body, sender) in
        [("bobs", "Hello, Bob", "alice@localhost"), ("alices", "Hi, Everyone!", "muc_publish@muc.localhost/bob")]
    {
        let notified = pushlark.notifications(device).await;
        let alerts: Vec<_> = notified.iter().map(|entry| &entry["notification"]["alert"]).collect();
        assert_eq!(alerts, [&json!({"body": body, "title": sender, "tag": sender, "badge": 1})]);
    }
}

async fn with_alice_and_bob(settings: &[(&str, &str)]) -> Pushlark {
    let pushlark = Pushlark::with_settings(settings.iter().copied()).await;
    pushlark.enable("alice@localhost", "alices").await;
    pushlark.enable("bob@localhost", "bobs").await;
    pushlark.event(Event::presence("alice@localhost/res1", "online").at(ago(60))).await;
    pushlark
}

#[tokio::test]
async fn the_routing_key_gives_the_kind_of_a_rabbitmq_delivery() {
    let pushlark = with_alice_and_bob(&[]).await;
    assert_eq!(accepted(&pushlark.post("/events", "application/json", DELIVERIES).await).len(), 5);
    assert_notified_of_each_once(&pushlark).await;

    // In the format of the management API, and with fields that a filter of an operator adds.
    let pushlark = with_alice_and_bob(&[]).await;
    let deliveries: Vec<Value> = serde_json::from_str(DELIVERIES).unwrap();
    for delivery in deliveries {
        let mut payload: Value = serde_json::from_str(delivery["body"].as_str().unwrap()).unwrap();
        payload.as_object_mut().unwrap().extend([("timestamp".to_owned(), json!(5)), ("to".to_owned(), json!([5]))]);
        let delivery = json!({"payload": payload.to_string(), "routing_key": delivery["routing_key"],
            "exchange": delivery["exchange"], "payload_encoding": "string", "properties": [], "redelivered": false});
        accepted(&pushlark.json("/events", delivery).await);
    }
    assert_notified_of_each_once(&pushlark).await;
}

#[tokio::test]
async fn muc_hosts_gives_the_kind_of_a_rabbitmq_body_without_routing_key() {
    let deliveries: Vec<Value> = serde_json::from_str(DELIVERIES).unwrap();
    let received = |delivery: &&Value| !delivery["routing_key"].as_str().unwrap().ends_with("_sent");
    let bodies: Vec<String> =
        deliveries.iter().filter(received).map(|delivery| delivery["body"].as_str().unwrap().to_owned()).collect();
    for rooms in ["muc.@HOST@", "muc.localhost"] {
        let pushlark = with_alice_and_bob(&[("MUC_HOSTS", rooms)]).await;
        accepted(&pushlark.post("/events", "application/x-ndjson", bodies.join("\n")).await);
        assert_notified_of_each_once(&pushlark).await;
    }
    let pushlark = Pushlark::start().await;
    let presence = &bodies[0];
    accepted(&pushlark.post("/events", "application/json", presence.clone()).await);
    for message in &bodies[1..] {
        let detail = pushlark.post("/events", "application/json", message.clone()).await.problem(400);
        assert!(detail.contains("MUC_HOSTS") && detail.contains("routing_key"), "{detail}");
    }
}

#[tokio::test]
async fn the_error_of_unknown_json_names_the_expected_field() {
    let pushlark = Pushlark::with_settings([("MUC_HOSTS", "muc.@HOST@")]).await;
    for (json, named) in [
        (json!({}), "type"),
        (json!({"kind": "message", "type_": "chat"}), "routing_key"),
        (json!({"user_id": "alice@localhost"}), "present"),
        (json!({"user_id": "localhost", "present": true}), "user_id"),
        (json!({"user_id": "alice@localhost", "present": "yes"}), "present"),
        (json!({"from_user_id": "alice@localhost", "message": "Hi"}), "to_user_id"),
        (json!({"from_user_id": "alice@localhost", "to_user_id": "bob@localhost"}), "message"),
        (json!({"from_user_id": "@", "to_user_id": "bob@localhost", "message": "Hi"}), "from_user_id"),
        (json!({"routing_key": "bob@localhost.chat_msg_recv"}), "body"),
        (json!({"routing_key": "bob@localhost.chat_msg_recv", "body": "Hi"}), "body"),
        (json!({"routing_key": "bob@localhost.chat_msg_recv", "body": {"message": "Hi"}}), "from_user_id"),
    ] {
        let detail = pushlark.json("/events", json.clone()).await.problem(400);
        assert!(detail.contains(named), "{json} was answered with {detail}");
    }
    let iq = "<iq type='set' id='1' from='bob@localhost'><query xmlns='x'/></iq>";
    let detail = pushlark.post("/events", "application/xml", iq).await.problem(400);
    assert!(detail.contains("<message/>"), "{detail}");
}

#[tokio::test]
async fn the_source_and_id_of_a_cloud_event_name_the_message() {
    let pushlark = Pushlark::start().await;
    pushlark.enable("bob@localhost", "bobs").await;
    let event = |id: &str, body: &str| {
        let data = Event::message("bob@localhost", body).from("alice@localhost/pc");
        json!({"specversion": "1.0", "type": "chat.message", "source": "//chat.example/1", "id": id, "data": data,
            "datacontenttype": "application/json", "subject": "bob", "comexampleother": 5})
    };
    let structured = "application/cloudevents+json; charset=utf-8";
    let once = pushlark.post("/events", structured, event("1", "one").to_string()).await;
    assert_eq!(accepted(&once), ["//chat.example/1 1"]);
    accepted(&pushlark.post("/events", structured, event("1", "one").to_string()).await);

    let mut own_name = event("3", "three");
    own_name["data"]["id"] = "m3".into();
    let mut encoded = event("4", "four");
    let data = encoded.as_object_mut().unwrap().remove("data").unwrap().to_string();
    encoded["data_base64"] = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, data).into();
    let mut late = event("5", "too late");
    late["time"] = ago(2 * 86_400).into();
    let batch = json!([event("1", "one"), event("2", "two"), own_name, encoded, late]);
    let ids = accepted(&pushlark.post("/events", "application/cloudevents-batch+json", batch.to_string()).await);
    let named = |id| format!("//chat.example/1 {id}");
    assert_eq!(ids, [named("1"), named("2"), "m3".into(), named("4"), named("5")]);
    pushlark.settled().await;
    assert_eq!(pushlark.sorted_alerts("bobs").await, ["four", "one", "three", "two"]);
}

#[tokio::test]
async fn the_error_of_a_bad_cloud_event_names_the_attribute() {
    let pushlark = Pushlark::start().await;
    let good = json!({"specversion": "1.0", "type": "t", "source": "s", "id": "1",
        "data": {"type": "user_removed", "jid": "bob@localhost"}});
    for (attribute, value, named) in [
        ("specversion", json!("0.3"), "specversion"),
        ("specversion", Value::Null, "specversion"),
        ("type", Value::Null, "type"),
        ("id", json!(""), "id"),
        ("source", json!(""), "source"),
        ("source", json!("\u{7}"), "source"),
        ("time", json!("now"), "time"),
        ("data", Value::Null, "data"),
        ("data", json!("<message/>"), "data"),
        ("data", json!({"type": "user_removed"}), "jid"),
        ("data_base64", json!("e30="), "data_base64"),
        ("datacontenttype", json!("text/xml"), "datacontenttype"),
    ] {
        let mut event = good.clone();
        event[attribute] = value;
        let detail = pushlark.post("/events", "application/cloudevents+json", event.to_string()).await.problem(400);
        assert!(detail.contains(named), "{event} was answered with {detail}");
    }
    let batch = json!([good, {"specversion": "1.0"}]).to_string();
    let reply = pushlark.post("/events", "application/cloudevents-batch+json", batch).await;
    reply.problem(400);
    assert_eq!(reply.json()["errors"][0]["index"], 1);
}

const PRESENCE: &str = "arn:aws:sns:eu-west-1:123456789012:user_presence_updated-dev-1";
const PM: &str = "arn:aws:sns:eu-west-1:123456789012:user_message_sent-dev-1";
const MUC: &str = "arn:aws:sns:eu-west-1:123456789012:user_messagegroup_sent-dev-1";

/// Returns a captured message of SNS with another topic and the present time.
fn sns_message(capture: &str, topic: &str) -> Value {
    let (_, body) = capture.split_once("\r\n\r\n").unwrap();
    let mut message: Value = serde_json::from_str(body).unwrap();
    message["TopicArn"] = topic.into();
    message["Timestamp"] = ago(0).into();
    message
}

fn private() -> Value {
    sns_message(include_str!("../../../shared/events/tests/fixtures/sns/pm.http"), PM)
}

fn presence() -> Value {
    sns_message(include_str!("../../../shared/events/tests/fixtures/sns/presence.http"), PRESENCE)
}

fn group() -> Value {
    sns_message(include_str!("../../../shared/events/tests/fixtures/sns/muc.http"), MUC)
}

async fn with_topics(secret: &str) -> (Sns, Pushlark) {
    let sns = Sns::start().await;
    let settings = [
        ("SNS_PRESENCE_TOPIC", PRESENCE),
        ("SNS_PM_TOPIC", PM),
        ("SNS_MUC_TOPIC", MUC),
        ("AWS_ENDPOINT_URL_SNS", sns.url.as_str()),
        ("WEBHOOK_SECRET", secret),
    ];
    (sns.clone(), Pushlark::with_settings(settings).await)
}

async fn post_sns(pushlark: &Pushlark, message: &Value) -> Reply {
    let kind = message["Type"].as_str().and_then(|kind| kind.lines().next()).unwrap_or("Notification").to_owned();
    let request = pushlark.request("/events", "text/plain; charset=UTF-8", message.to_string());
    send(request.header("x-amz-sns-message-type", kind)).await
}

#[tokio::test]
async fn an_sns_topic_is_subscribed_over_https() {
    // A secret is set, which SNS does not send.
    let (sns, pushlark) = with_topics("canary-secret-key").await;
    let enable = PushRequest::new("bob@localhost", "bobs").at("push.localhost").device("bobs");
    let enable = pushlark.request("/enable", "application/json", enable.to_string()).bearer_auth("canary-secret-key");
    assert_eq!(send(enable).await.status, 200);

    let confirmation = include_str!("../../../shared/events/tests/fixtures/sns/subscription-confirmation.json");
    let confirmation = Sns::signed(serde_json::from_str(confirmation).unwrap());
    let reply = post_sns(&pushlark, &confirmation).await;
    assert_eq!((reply.status, reply.json()), (200, json!({"status": "subscribed"})));
    let confirmed = sns.requests().into_iter().filter(|request| !request.path.ends_with(".pem"));
    assert_eq!(confirmed.count(), 1);

    let message = Sns::signed(private());
    // SNS may deliver a message twice.
    for _ in 0..2 {
        assert_eq!(accepted(&post_sns(&pushlark, &message).await), [message["MessageId"].as_str().unwrap()]);
    }
    accepted(&post_sns(&pushlark, &Sns::signed(group())).await);
    pushlark.settled().await;
    let notified = pushlark.notifications("bobs").await;
    assert_eq!(notified.len(), 1);
    let alert = json!({"body": "Hello, Bob", "title": "alice@localhost", "tag": "alice@localhost", "badge": 1});
    assert_eq!(notified[0]["notification"]["alert"], alert);

    let reply = post_sns(&pushlark, &serde_json::from_str(SNS_SIGNED_BY_SHA1).unwrap()).await;
    assert_eq!(accepted(&reply).len(), 1);
    let certificates = sns.requests().into_iter().filter(|request| request.path.ends_with(".pem"));
    assert_eq!(certificates.count(), 2, "one for each URL");
}

#[tokio::test]
async fn the_presence_of_a_bare_jid_counts_as_one_session() {
    let (_sns, pushlark) = with_topics("").await;
    pushlark.enable("alice@localhost", "alices").await;
    let there = |present: bool, at: String| {
        let mut message = presence();
        message["Message"] = json!({"user_id": "alice@localhost", "present": present}).to_string().into();
        message["Timestamp"] = at.into();
        Sns::signed(message)
    };
    let [older, newer] = [20, 10].map(ago);
    accepted(&post_sns(&pushlark, &there(true, older.clone())).await);
    pushlark.message("alice@localhost", "online").await;
    pushlark.settled().await;
    assert!(pushlark.alerts("alices").await.is_empty());
    accepted(&post_sns(&pushlark, &there(false, newer)).await);
    // The older event arrives again, late.
    accepted(&post_sns(&pushlark, &there(true, older)).await);
    pushlark.message("alice@localhost", "offline").await;
    pushlark.notified("alices", 1).await;
}

#[tokio::test]
async fn an_sns_message_with_another_topic_or_a_bad_signature_is_refused() {
    let (sns, pushlark) = with_topics("canary-secret-key").await;
    let good = Sns::signed(private());
    let changed = |field: &str, value: &str| {
        let mut message = good.clone();
        message[field] = value.into();
        message
    };
    let resigned = |field: &str, value: &str| {
        let mut message = private();
        message[field] = value.into();
        Sns::signed(message)
    };
    for message in [
        changed("Message", "{\"from_user_id\":\"eve@localhost\"}"),
        changed("Timestamp", "2026-11-22T19:33:39.315Z"),
        changed("Subject", "Hi"),
        changed("Signature", "AAAA"),
        changed("Signature", "?"),
        changed("SignatureVersion", "1"),
        changed("SignatureVersion", "3"),
        changed("SigningCertURL", "https://sns.eu-west-1.amazonaws.com.evil.example/c.pem"),
        changed("SigningCertURL", "https://sns.us-east-1.amazonaws.com/c.pem"),
        changed("SigningCertURL", "http://sns.eu-west-1.amazonaws.com/c.pem"),
        changed("SigningCertURL", "https://sns.eu-west-1.amazonaws.com/c.pem?x"),
        changed("SigningCertURL", "https://sns.eu-west-1.amazonaws.com/c.crt"),
        resigned("TopicArn", "arn:aws:sns:eu-west-1:999999999999:user_message_sent-dev-1"),
        resigned("TopicArn", ""),
    ] {
        let detail = post_sns(&pushlark, &message).await.problem(401);
        // The answer is the same for a known and for an unknown topic.
        assert_eq!(detail, "the message has no valid signature of SNS for a topic of this function", "{message}");
    }
    assert!(
        sns.requests().iter().all(|request| request.path.ends_with("-2.pem")),
        "no certificate is fetched from another URL"
    );
    post_sns(&pushlark, &json!({"Type": "Notification"})).await.problem(401);
    post_sns(&pushlark, &resigned("Message", "Hi")).await.problem(400);
    post_sns(&pushlark, &resigned("Message", "{\"type\": \"user_removed\", \"jid\": \"bob@localhost\"}"))
        .await
        .problem(400);

    // A confirmation URL of another host is not fetched.
    let before = sns.requests().len();
    let confirmation = include_str!("../../../shared/events/tests/fixtures/sns/subscription-confirmation.json");
    let mut confirmation: Value = serde_json::from_str(confirmation).unwrap();
    confirmation["SubscribeURL"] = format!("{}/internal", sns.url).into();
    post_sns(&pushlark, &Sns::signed(confirmation)).await.problem(400);
    assert_eq!(sns.requests().len(), before);

    // Without a topic in the settings, SNS messages are refused.
    let none = Pushlark::start().await;
    post_sns(&none, &good).await.problem(401);
}

/// SNS signs names and values separated by line breaks. These messages have a text that SNS has signed for a stranger's
/// topic, and name the topic of this function.
#[tokio::test]
async fn a_message_signed_for_another_topic_cannot_be_reused() {
    const THEIRS: &str = "arn:aws:sns:eu-west-1:999999999999:user_message_sent-dev-1";
    let (_sns, pushlark) = with_topics("canary-secret-key").await;
    let (at, text) = (ago(0), private()["Message"].as_str().unwrap().to_owned());
    let published = |message: String| {
        Sns::signed(json!({"Type": "Notification", "MessageId": "m2", "Timestamp": at, "TopicArn": THEIRS,
            "Message": message}))
    };
    let rest_of = |genuine: &Value| {
        let fields = ["MessageId", "Timestamp", "TopicArn", "Type"].into_iter();
        fields.map(|name| format!("\n{name}\n{}", genuine[name].as_str().unwrap())).collect::<String>()
    };
    let forged = |genuine: &Value, fields: Value| {
        let mut message = genuine.clone();
        message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        message
    };
    // The publisher of the other topic puts our fields into its text, and the rest of the signed text becomes a value of one
    // of them.
    for (before, absorbing) in [
        (format!("\nMessageId\nm1\nTimestamp\n{at}\nTopicArn\n{PM}\nType\nNotification"), "Type"),
        (format!("\nMessageId\nm1\nTimestamp\n{at}\nTopicArn\n{PM}"), "TopicArn"),
        (format!("\nMessageId\nm1\nTimestamp\n{at}"), "Timestamp"),
        ("\nMessageId\nm1".to_owned(), "MessageId"),
    ] {
        let genuine = published(format!("{text}{before}"));
        let mut fields = json!({"Message": text, "MessageId": "m1", "Timestamp": at, "TopicArn": PM});
        let value = before.rsplit('\n').next().unwrap();
        fields[absorbing] = format!("{value}{}", rest_of(&genuine)).into();
        let message = forged(&genuine, fields);
        if absorbing == "Type" {
            assert_eq!(Sns::signed_text(&message), Sns::signed_text(&genuine));
        }
        post_sns(&pushlark, &message).await.problem(401);
    }
    let genuine = Sns::signed(private());
    for fields in [
        json!({"Type": "Notification\nNotification"}),
        json!({"Type": "SomethingElse"}),
        json!({"Type": null}),
        json!({"Token": "a\nb"}),
        json!({"SubscribeURL": "https://sns.eu-west-1.amazonaws.com/\r?"}),
    ] {
        post_sns(&pushlark, &forged(&genuine, fields)).await.problem(401);
    }
    // A text with several lines is valid.
    let mut lines = private();
    lines["Message"] = text.replacen('{', "{\n", 1).into();
    lines["Subject"] = "two\nlines".into();
    assert_eq!(post_sns(&pushlark, &Sns::signed(lines)).await.status, 202);
}

fn lambda_event(message: &Value) -> Invocation {
    let record = json!({"EventSource": "aws:sns", "EventVersion": "1.0", "EventSubscriptionArn": "arn:aws:sns:…",
        "Sns": {"Type": message["Type"], "MessageId": message["MessageId"], "TopicArn": message["TopicArn"],
            "Subject": null, "Message": message["Message"], "Timestamp": message["Timestamp"],
            "SignatureVersion": "1", "Signature": "EXAMPLE", "SigningCertUrl": "https://sns.example/c.pem",
            "UnsubscribeUrl": "https://sns.example/", "MessageAttributes": {}}});
    serde_json::from_value(json!({"Records": [record]})).unwrap()
}

#[tokio::test]
async fn an_sns_topic_may_invoke_ingest() {
    let (_sns, pushlark) = with_topics("").await;
    pushlark.enable("bob@localhost", "bobs").await;
    let ingest = &pushlark.stack.ingest;
    for message in [private(), presence(), group()] {
        assert!(matches!(ingest.handle(lambda_event(&message)).await, Answer::Direct(_)), "{message}");
    }
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("bobs").await, ["Hello, Bob"]);

    // Lambda retries a failed invocation, and keeps it at the end.
    let mut other = private();
    other["TopicArn"] = "arn:aws:sns:eu-west-1:999999999999:user_message_sent-dev-1".into();
    let mut unreadable = private();
    unreadable["Message"] = "Hi".into();
    let mut confirmation = private();
    confirmation["Type"] = "SubscriptionConfirmation".into();
    for message in [other, unreadable, confirmation, json!({"Type": "Notification"})] {
        assert!(matches!(ingest.handle(lambda_event(&message)).await, Answer::Failed(_)), "{message}");
    }
}
