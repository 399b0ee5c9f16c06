//! No device token, no credential and no message's text is in a log line, from the level `info` up, or in an answer that
//! tells of an error. The watch over the whole suite judges that, by the mark that secrets bear; the tests here lead to
//! where it would have something to find.

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use doubles::{
    Answer, Apns, Double, Fcm, Hold, Receiver, Subscriber, WebPush, apns_problem, fcm_error, is_planted, planted,
};
use local::{Options, Stack};
use pushlark_plugin::{Event, Payload, Plugin, Plugins, PublishOptions, PublishService, Rule};
use pushlark_settings::Environment;
use pushlark_webhooks::Key;
use pushlark_xmpp::{BareJid, Jid};
use serde_json::{Value, json};
use tests::{Apart, Pushlark, Reply, ago, eventually, send};
use time::OffsetDateTime;

const BOB: &str = "bob@example.com";
const TEXT: &str = "planted: the text of a message";
const XMPP: &str = "application/xmpp+xml";
/// The device token of an iPhone.
const PHONE: &str = "706c616e74656400fc13adff785122";

/// Has a worker notify Bob once of a message with a secret text, and waits until it has logged what came of it.
async fn notify(apart: &Apart) {
    let message = json!({"from": "alice@example.com/pc", "to": [BOB],
        "stanza": format!("<message type='chat'><body>{TEXT}</body></message>")});
    let id = OffsetDateTime::now_utc().unix_timestamp_nanos().to_string();
    let batch = apart.batch(&[json!({"id": id, "at": ago(0), "subject": {"message": message}})]).await;
    apart.handle(batch).await;
}

/// Notifies Bob until `condition` holds. On a busy machine publishes time out, and after some failures in a row the worker
/// leaves a push service alone for a while.
async fn notify_until(apart: &Apart, what: &str, condition: impl AsyncFn() -> bool) {
    eventually(what, async || {
        notify(apart).await;
        condition().await.then_some(())
    })
    .await;
}

/// The worker of the same stack with a short time-out.
async fn impatient(mut apart: Apart) -> Apart {
    apart.pushlark.stack.environment.extend([("PUBLISH_TIMEOUT_MS", "300")]);
    Apart::beside(apart.pushlark).await
}

async fn enable(pushlark: &Pushlark, form: Value) -> Reply {
    pushlark.json("/enable", json!({"user": BOB, "jid": "push.example.com", "node": "n", "form": form})).await
}

#[tokio::test]
async fn credentials() {
    let whsec = format!("whsec_{}", BASE64_STANDARD.encode("planted-secret-in-base64"));
    let secrets = format!("planted-secret-key,{whsec}");
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", secrets.as_str())]).await;
    for path in ["/enable", "/disable", "/events", "/pubsub", "/explain"] {
        let request = || pushlark.request(path, "application/json", "{\"user\": planted");
        let authorized = |credential: &str| request().header("authorization", credential);
        let signed = |key: &str, id: &str, at: i64| {
            let signature = Key::new(key).unwrap().sign(id, at, b"{}");
            request().header("webhook-id", id).header("webhook-timestamp", at).header("webhook-signature", signature)
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for wrong in [
            request(),
            request().bearer_auth("planted-wrong"),
            request().basic_auth("planted-user", Some("planted-wrong")),
            request().query(&[("token", "planted-wrong")]),
            request().query(&[("token", "planted-secret-key"), ("token", "planted-secret-key")]),
            authorized("planted-secret-key"),
            authorized("Digest planted-secret-key"),
            authorized("Basic planted-secret-key"),
            authorized(&format!("Basic {}", BASE64_STANDARD.encode("planted-secret-key"))),
            signed("planted-wrong-secret", "planted", now),
            signed(&whsec, "planted", now - 1_000),
            request().header("webhook-signature", "v1,planted"),
        ] {
            send(wrong).await.problem(401);
        }
        for right in [request().bearer_auth("planted-secret-key"), request().query(&[("token", whsec.as_str())])] {
            send(right).await.problem(400);
        }
    }
}

/// XML that is broken where a text is not escaped, or ends too early.
fn broken_messages() -> Vec<String> {
    let message = |content: &str| format!("<message type='chat' from='a@b/c' to='{BOB}'>{content}</message>");
    let mut broken: Vec<_> = [
        "<body>if a <planted b",
        "<body>if a <planted b</body>",
        "<body>if <planted> b</body>",
        "<body>if </planted> b</body>",
        "<body>if <planted:a/> b</body>",
        "<body>if <a planted:b=''/> b</body>",
        "<body>if <a planted='1' planted='2'/> b</body>",
        "<body>if <planted</> b</body>",
        "<body>if <a xmlns:xml='planted'/> b</body>",
        "<body>if <a xmlns:planted='http://www.w3.org/2000/xmlns/'/> b</body>",
        "<body>planted &planted; planted</body>",
        "<body>planted &#planted; planted</body>",
        "<body planted='&planted;'/>",
        "<body>planted <!-- planted --></body>",
        "<body>planted <?planted?></body>",
        "<body>planted \u{1}</body>",
        "<body>planted ]]> </body>",
    ]
    .map(message)
    .into();
    broken.push(message("<body>planted</body>").replace("</message>", ""));
    broken.push(message("<body>planted</body>") + "planted");
    broken.push(message(&format!("<body>{}</body>", "planted".repeat(40_000))));
    broken
}

#[tokio::test]
async fn bad_events() {
    let pushlark = Pushlark::start().await;
    let with = |field: &str, value: Value| {
        let mut event = json!({"type": "message", "from": "a@b/c", "to": BOB, "chat": "chat", "body": TEXT});
        event[field] = value;
        event
    };
    let mut events = vec![with("id", json!("planted".repeat(40)))];
    for field in ["body", "stanza", "recipient", "at", "id", "to", "from", "chat", "type"] {
        for wrong in [json!([[TEXT]]), json!({"online": TEXT}), json!(5), json!(true)] {
            events.push(with(field, wrong));
        }
    }
    events.push(with("recipient", json!(TEXT)));
    events.push(with("at", json!(TEXT)));
    for fact in ["exists", "online", "unread_count"] {
        events.push(with("recipient", json!({fact: format!("{TEXT}, expected a {TEXT}")})));
    }
    events.push(with("body", json!("planted".repeat(40_000))));
    for stanza in broken_messages() {
        pushlark.post("/events", "application/xml", stanza.clone()).await.problem(400);
        events.push(json!({"type": "message", "from": "a@b/c", "to": BOB, "stanza": stanza}));
    }
    for event in &events {
        pushlark.json("/events", event.clone()).await.problem(400);
        pushlark.json("/explain", json!({"explain": [event]})).await.problem(400);
    }
    pushlark.json("/events", json!(&events[..40])).await.problem(400);
    pushlark.json("/explain", json!({"explain": TEXT})).await.problem(400);
    pushlark.json("/explain", json!(TEXT)).await.problem(400);
    let good = with("id", json!("m")).to_string();
    for at in [good.len() / 2, good.len() - 5, good.len() - 1] {
        for media in ["application/json", "application/x-ndjson"] {
            pushlark.post("/events", media, good[..at].to_owned()).await.problem(400);
            pushlark.post("/events", media, format!("{}\\q{}", &good[..at], &good[at..])).await.problem(400);
        }
    }
    for form in ["server=b&receiver=bob&message=planted", "author=a&server=b&receiver=bob&message=planted%FF"] {
        pushlark.post("/events", "application/x-www-form-urlencoded", form).await.problem(400);
    }
}

#[tokio::test]
async fn bad_registrations() {
    let pushlark = Pushlark::start().await;
    let browser = Subscriber::new(3);
    let web_push = |field: &str, value: &str| {
        let mut form = json!({"service": "web-push", "endpoint": "https://push.example/planted",
            "p256dh": browser.p256dh(), "auth": browser.auth()});
        form[field] = value.into();
        form
    };
    let mut forms = vec![
        json!("planted-token"),
        json!(["planted-token"]),
        json!({"device_id": ["planted-token"]}),
        json!({"device_id": {"planted": "planted-token"}}),
        json!({"device_id": null, "auth": "planted-token"}),
        json!({"device_id": "planted-token\u{0}"}),
        json!({"device_id": "planted-token".repeat(1_000)}),
        web_push("endpoint", "planted-token"),
        web_push("endpoint", "https://planted:planted@push.example/"),
        web_push("p256dh", "planted-token"),
        web_push("auth", "planted-token"),
    ];
    for field in ["priority", "mode", "silent", "mutable_content", "time_to_live", "FORM_TYPE"] {
        forms.push(json!({"service": "fcm", "device_id": "planted-token", field: "planted-token"}));
    }
    for form in forms {
        enable(&pushlark, form).await.problem(400);
    }
    let field = |name: &str, value: &str| format!("<field var='{name}'><value>{value}</value></field>");
    let form_type = field("FORM_TYPE", "http://jabber.org/protocol/pubsub#publish-options");
    let (service, device) = (field("service", "fcm"), field("device_id", "planted-token"));
    for fields in [
        device.clone(),
        field("FORM_TYPE", "planted") + &device,
        // Which an enable takes that is no push node's.
        format!("{form_type}{device}"),
        format!("{form_type}{device}{device}"),
        format!("{form_type}{}", device.replace("</value>", "</value><value>planted-token</value>")),
        format!("{form_type}{}", device.replace("var=", "planted=")),
        format!("{form_type}{service}{device}{}", field("mode", "planted-token")),
        format!("{form_type}{service}{}", field("device_id", &"planted".repeat(2_000))),
    ] {
        let x = format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>");
        let enable = format!("<enable xmlns='urn:xmpp:push:0' jid='push.example.com' node='n'>{x}</enable>");
        let iq = |to: &str| format!("<iq type='set' id='1' from='{BOB}/pc' to='{to}'>{enable}</iq>");
        pushlark.post("/enable", XMPP, iq(BOB)).await;
        let to_the_node = iq("push.example.com");
        let reply = pushlark.json("/pubsub", json!({"stanza": to_the_node})).await;
        assert!(reply.body.contains("type=\\\"error\\\""), "{}", reply.body);
    }
    for (field, value) in [
        ("node", json!(["planted"])),
        ("node", json!("planted".repeat(100))),
        ("jid", json!(["planted"])),
        ("jid", json!("planted token@")),
        ("user", json!({"planted": "planted"})),
        ("user", json!("planted token")),
    ] {
        let mut enable = json!({"user": BOB, "jid": "push.example.com", "node": "n"});
        enable[field] = value;
        pushlark.json("/enable", enable.clone()).await.problem(400);
        pushlark.json("/disable", enable).await.problem(400);
    }
    pushlark.json("/pubsub", json!({"stanza": ["planted"]})).await.problem(400);
    pushlark.post("/enable", "text/plain", "planted").await.problem(415);
}

#[tokio::test]
async fn bad_publishes_to_a_push_node() {
    let pushlark = Pushlark::start().await;
    let asked = async |payload: &str| {
        let pubsub = format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'>{payload}</pubsub>");
        let iq = format!("<iq type='set' id='1' from='{BOB}' to='push.example.com'>{pubsub}</iq>");
        pushlark.post("/pubsub", XMPP, iq).await.body
    };
    assert!(asked("<create node='n'/>").await.contains("type=\"result\""));
    let field = |name: &str, value: &str| format!("<field var='{name}'><value>{value}</value></field>");
    let form = |form_type: &str, fields: &str| {
        format!("<x xmlns='jabber:x:data' type='submit'>{}{fields}</x>", field("FORM_TYPE", form_type))
    };
    let options = "http://jabber.org/protocol/pubsub#publish-options";
    let summary = field("message-count", "1") + &field("last-message-body", TEXT);
    let device = field("service", "fcm") + &field("device_id", "planted-token");
    for (node, summary, options) in [
        ("none", form("urn:xmpp:push:summary", &summary), form(options, &device)),
        ("n", form("planted", &summary), form(options, &device)),
        ("n", form("urn:xmpp:push:summary", &summary), form(options, &device)),
        ("n", String::new(), form("planted", &device)),
        ("n", String::new(), form(options, &device.repeat(2))),
        ("n", String::new(), form(options, &field("device_id", "planted-token"))),
        ("n", String::new(), form(options, &(device.clone() + &field("mode", "planted-token")))),
        ("n", String::new(), form(options, &(device.clone() + &field("x", &"planted".repeat(2_000))))),
    ] {
        let item = format!("<item><notification xmlns='urn:xmpp:push:0'>{summary}</notification></item>");
        let payload = format!("<publish node='{node}'>{item}</publish><publish-options>{options}</publish-options>");
        let answer = asked(&payload).await;
        assert!(answer.contains("type=\"error\""), "{answer}");
    }
}

/// What push services are asked, and what they answer: with a status, and with what they could repeat of the request.
const STATUSES: [u16; 9] = [300, 400, 401, 403, 404, 410, 413, 429, 500];

#[tokio::test]
async fn what_mongoosepush_answers() {
    for (version, field) in [("v2", "details"), ("v3", "reason")] {
        let apart = Apart::beside(Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", version)]).await).await;
        for status in STATUSES {
            let device = status.to_string();
            apart.pushlark.enable(BOB, &device).await;
            let told = format!("{} is not told {TEXT}", planted(&device));
            let answer = json!({"status": status, "body": {field: told}});
            apart.pushlark.device_answers(&device, answer).await;
        }
        apart.pushlark.enable_with(BOB, "misplaced", json!({"service": "planted-token"})).await;
        notify_until(&apart, "a request for each device", async || {
            for status in STATUSES {
                if apart.pushlark.notifications(&status.to_string()).await.is_empty() {
                    return false;
                }
            }
            true
        })
        .await;
        apart.pushlark.enable(BOB, "slow").await;
        apart.pushlark.device_answers("slow", json!({"status": 200, "delay_ms": 3_600_000})).await;
        notify(&impatient(apart).await).await;
    }
}

#[tokio::test]
async fn a_push_service_that_is_not_there() {
    for push_service in
        [("MONGOOSEPUSH_URL", "http://127.0.0.1:1"), ("PUSH_SERVICE", "http://planted:planted@127.0.0.1:1/")]
    {
        let settings = [
            push_service,
            ("PUSH_SERVICE_SECRET", "planted-secret-key"),
            ("PUBSUB_URL", "http://planted:planted@127.0.0.1:1/"),
            ("PUBSUB_TOKEN", "planted"),
        ];
        let apart = Apart::beside(Pushlark::with_settings(settings).await).await;
        apart.worker.warm_up().await;
        // So many that it is told that the push service fails.
        for device in 0..6 {
            apart.pushlark.enable_with(BOB, &device.to_string(), json!({"service": "planted-token"})).await;
            let node = json!({"user": BOB, "jid": "pubsub.elsewhere.example", "node": planted(&device.to_string())});
            assert_eq!(apart.pushlark.json("/enable", node).await.status, 200);
        }
        notify(&apart).await;
    }
}

#[tokio::test]
async fn what_push_services_of_devices_answer() {
    let (apns, fcm, web_push) = (Apns::start().await, Fcm::start().await, WebPush::start().await);
    let apple = json!({"team_id": doubles::APNS_TEAM, "key_id": doubles::APNS_KEY_ID, "key": doubles::APNS_KEY,
        "topic": doubles::APNS_TOPIC, "url": apns.url});
    let vapid = json!({"key": Subscriber::new(1).private_key(), "subject": "mailto:planted@example.com"});
    let credentials = json!({"default": {"apns": apple, "fcm": fcm.service_account(), "web_push": vapid}}).to_string();
    let origins = format!("{},http://127.0.0.1:1", web_push.url);
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", credentials.as_str()),
        ("WEB_PUSH_TRUSTED_ORIGINS", origins.as_str()),
        ("DISABLE_MAX_PERCENT", "1"),
        ("MAX_NODES", "100"),
    ];
    let apart = Apart::beside(Pushlark::with_settings(settings).await).await;
    let pushlark = &apart.pushlark;
    let browser = Subscriber::new(3);
    // The doubles, and the devices that each is to be asked about.
    let mut asked: [(&Double, Vec<String>); 3] =
        [&*apns as &Double, &fcm, &web_push].map(|double| (double, Vec::new()));
    for status in STATUSES {
        let name = status.to_string();
        let iphone = format!("{PHONE}{status}");
        pushlark.enable_with(BOB, &iphone, json!({"service": "apns"})).await;
        // Long enough that it ends within the token, should it be cut.
        let filler = "x".repeat(80);
        apns.device_answers(&iphone, apns_problem(status, &format!("{filler} {iphone} {TEXT}")));
        pushlark.enable(BOB, &name).await;
        let told = format!("{filler} {} {TEXT}", planted(&name));
        fcm.device_answers(&name, fcm_error(status, "planted", Some(&told), &told));
        let form = json!({"service": "web-push", "endpoint": web_push.endpoint(&name), "p256dh": browser.p256dh(),
            "auth": browser.auth()});
        pushlark.enable_with(BOB, &format!("web-push-{status}"), form).await;
        web_push.device_answers(&name, Answer::json(status, &json!({"reason": told})));
        for ((_, devices), device) in asked.iter_mut().zip([iphone, name.clone(), name]) {
            devices.push(device);
        }
    }
    // So many that it is told that the push service fails.
    for device in 0..6 {
        let form = json!({"service": "web-push", "endpoint": "http://127.0.0.1:1?planted",
            "p256dh": browser.p256dh(), "auth": browser.auth()});
        pushlark.enable_with(BOB, &format!("nowhere-{device}"), form).await;
    }
    for (node, form) in [
        ("long", json!({"service": "apns", "device_id": "706c616e746564".repeat(100)})),
        ("topic", json!({"service": "apns", "device_id": PHONE, "topic": "planted\ntopic"})),
        ("app", json!({"app": "planted-token"})),
    ] {
        pushlark.enable_with(BOB, node, form).await;
    }
    // Registrations of the time before `PUSH_SERVICE` was `direct`, which would refuse them.
    for (node, field, value) in [("nothing", "device_id", ""), ("service", "service", "planted-token")] {
        let form = [("service", "apns"), ("device_id", PHONE), (field, value)];
        let options = form.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let options = PublishOptions::new(options).unwrap();
        let jid = BareJid::new("push.example.com").unwrap();
        let service = PublishService { jid, node: node.into(), options, created_at: 1 };
        pushlark.store().register(&Jid::new(BOB).unwrap(), &service).await.unwrap();
    }
    notify_until(&apart, "a request for each device", async || {
        asked.iter().all(|(double, devices)| was_asked(double, devices))
    })
    .await;
    let before = asked.each_ref().map(|(double, _)| {
        double.hold(Hold::FOREVER);
        double.arrived()
    });
    notify_until(&impatient(apart).await, "a request that is not answered", async || {
        asked.iter().zip(before).all(|((double, _), before)| double.arrived() > before)
    })
    .await;
}

/// Whether a push service answered a request for each device.
fn was_asked(double: &Double, devices: &[String]) -> bool {
    let requests = double.requests();
    devices.iter().all(|device| requests.iter().any(|request| request.device == *device))
}

#[tokio::test]
async fn what_googles_server_of_tokens_answers() {
    let fcm = Fcm::start().await;
    let credentials = json!({"default": {"fcm": fcm.service_account()}}).to_string();
    for answer in [
        Answer::json(400, &json!({"error": "planted", "error_description": "planted"})),
        Answer::json(503, &json!({"error": "planted"})),
        Answer::json(200, &json!({"access_token": ["planted"], "expires_in": 3_600})),
        Answer::text(200, "planted"),
    ] {
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
        let apart = Apart::beside(Pushlark::with_settings(settings).await).await;
        apart.pushlark.enable(BOB, "android").await;
        fcm.fail_next_grant(answer);
        notify(&apart).await;
    }
    assert_eq!((fcm.granted(), fcm.count()), (0, 0));
}

#[tokio::test]
async fn what_ones_own_push_service_answers() {
    let receiver = Receiver::start().await;
    let url = receiver.url.replace("http://", "http://planted:planted@");
    let url = format!("{url}/push?token=planted");
    let settings = [("PUSH_SERVICE", url.as_str()), ("PUSH_SERVICE_SECRET", "planted-secret-key")];
    let apart = Apart::beside(Pushlark::with_settings(settings).await).await;
    for status in STATUSES {
        let device = status.to_string();
        apart.pushlark.enable(BOB, &device).await;
        receiver.device_answers(&device, Answer::text(status, &format!("{} {TEXT}", planted(&device))));
    }
    let devices = STATUSES.map(|status| status.to_string());
    notify_until(&apart, "a request for each device", async || was_asked(&receiver, &devices)).await;
    receiver.hold(Hold::FOREVER);
    let before = receiver.arrived();
    notify_until(&impatient(apart).await, "a request that is not answered", async || receiver.arrived() > before).await;
}

#[tokio::test]
async fn credentials_for_push_services_that_are_none() {
    let fcm = Fcm::start().await;
    let of = |provider: &str, credentials: Value| json!({"default": {provider: credentials}}).to_string();
    let mut account = fcm.service_account();
    account["private_key"] = "planted".into();
    for credentials in [
        of("apns", json!("planted")),
        of("apns", json!({"team_id": "T", "key_id": "K", "key": ["planted"]})),
        of("apns", json!({"team_id": "T", "key_id": "K", "key": "planted"})),
        of("fcm", account),
        of("fcm", json!({"private_key": {"planted": "planted"}})),
        of("web_push", json!({"key": "planted", "subject": "planted"})),
    ] {
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
        let apart = Apart::beside(Pushlark::with_settings(settings).await).await;
        apart.worker.warm_up().await;
        for service in ["apns", "fcm"] {
            apart.pushlark.enable_with(BOB, service, json!({"service": service})).await;
        }
        notify(&apart).await;
    }
    for credentials in [
        "planted".to_owned(),
        json!({"default": "planted"}).to_string(),
        json!({"default": {"hosts": "planted", "fcm": {}}}).to_string(),
        of("apns", json!({"unknown": "planted"})),
    ] {
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
        let options = Options { environment: Environment::from_iter(settings), ..Options::default() };
        let refusal = Stack::start(options).await.unwrap_err().to_string();
        assert!(refusal.starts_with("PUSH_CREDENTIALS: ") && !is_planted(&refusal), "{refusal}");
    }
}

#[tokio::test]
async fn records_that_cannot_be_understood() {
    let pushlark = Pushlark::start().await;
    let work =
        |subject: Value| json!({"version": 2, "work": [{"id": "m", "at": ago(0), "subject": subject}]}).to_string();
    let message = |field: &str, value: Value| {
        let mut message =
            json!({"from": "a@b/c", "to": [BOB], "stanza": format!("<message><body>{TEXT}</body></message>")});
        message[field] = value;
        work(json!({"message": message}))
    };
    let notification = json!({"jid": "push.example.com", "node": "n", "owner": BOB, "created_at": 1,
        "options": {"device_id": "planted-token".repeat(1_000)}, "summary": [["last-message-body", TEXT]]});
    let mut records = vec![
        TEXT.to_owned(),
        message("stanza", json!([TEXT])),
        message("recipient", json!(TEXT)),
        message("recipient", json!({"online": TEXT})),
        message("to", json!(TEXT)),
        work(json!({"planted": TEXT})),
        work(json!({"notification": notification})),
    ];
    let good = message("from", json!("a@b"));
    records.push(good[..good.len() - 20].to_owned());
    records.extend(
        broken_messages()
            .into_iter()
            .filter(|stanza| stanza.len() < 10_000)
            .map(|stanza| message("stanza", json!(stanza))),
    );
    let queue = pushlark.stack.environment.text("QUEUE_URL").unwrap();
    for record in &records {
        pushlark.stack.sqs.send_message().queue_url(queue).message_body(record).send().await.unwrap();
    }
    pushlark.settled().await;
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await as usize, records.len());
}

/// A plugin that fails, and says at what.
struct Panics(Arc<AtomicUsize>);

impl Plugin for Panics {
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("{}", event.message.element());
    }
}

/// A plugin that breaks the rule: what it says is for the log.
struct Quotes;

impl Plugin for Quotes {
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        Err(Rule::new("quotes", event.message.body().unwrap().into_owned()))
    }
}

async fn with_plugin(plugin: impl Plugin + 'static) -> Pushlark {
    let plugins = Plugins::built_in().with("own", plugin);
    let environment = Environment::from_iter([("PLUGIN", "own")]);
    Pushlark::with(Options { plugins, environment, ..Options::default() }).await
}

#[tokio::test]
async fn a_plugin_that_fails() {
    let tries = Arc::default();
    let pushlark = with_plugin(Panics(Arc::clone(&tries))).await;
    pushlark.message(BOB, TEXT).await;
    eventually("a second try", async || (tries.load(Ordering::Relaxed) >= 2).then_some(())).await;
}

/// Each leak is made by a run of its own, which must end there.
#[tokio::test]
async fn the_watch_ends_a_run_that_leaks() {
    const LEAK: &str = "PUSHLARK_TEST_LEAK";
    match env::var(LEAK).as_deref() {
        Ok("the log") => {
            let pushlark = with_plugin(Quotes).await;
            pushlark.message(BOB, TEXT).await;
            pushlark.settled().await;
        }
        Ok(_) => drop(Pushlark::start().await.json("/events", json!({"type": TEXT})).await),
        Err(_) => {
            for leak in ["the log", "an answer"] {
                let this_test = ["--exact", "secrecy::the_watch_ends_a_run_that_leaks"];
                let run = Command::new(env::current_exe().unwrap()).args(this_test).env(LEAK, leak).output().unwrap();
                let said = String::from_utf8_lossy(&run.stderr);
                assert!(!run.status.success() && said.contains(&format!("a secret is in {leak}: ")), "{leak}: {said}");
            }
        }
    }
}
