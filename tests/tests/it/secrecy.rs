//! No device token, credential or message text is in a log line of the level `info` or above, or in an error answer. All
//! tests check this, since each secret contains the canary. The tests here lead to the errors that could repeat a secret.

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use doubles::{
    Answer, Apns, Double, Fcm, Gateway, Hold, Subscriber, WebPush, apns_error, canary, contains_canary, fcm_error,
};
use local::{Options, Stack};
use pushlark_model::{Algorithm, Encryption, Payload, Registration};
use pushlark_plugin::{Event as PluginEvent, Plugin, Plugins, Rule};
use pushlark_settings::Environment;
use pushlark_webhooks::Key;
use pushlark_xmpp::{ns, parse_jid};
use serde_json::{Value, json};
use tests::{
    BOB, BOBS_PC, Event, IsolatedWorker, PUSH_HOST, PushRequest, Pushlark, Reply, Work, XMPP, credentials, eventually,
    registration, send, stanza,
};
use time::OffsetDateTime;

const TEXT: &str = "canary: the text of a message";
/// The start of device tokens of APNs.
const TOKEN: &str = "63616e61727900fc13adff785122";

/// Lets a worker notify Bob of a message with a secret text, and waits until it has handled the message.
async fn notify(isolated: &IsolatedWorker) {
    let message = Work::message(&[BOB]).message_field("stanza", stanza::chat(&format!("<body>{TEXT}</body>")));
    let id = OffsetDateTime::now_utc().unix_timestamp_nanos().to_string();
    let batch = isolated.batch(&[message.id(&id)]).await;
    isolated.handle(batch).await;
}

/// Notifies Bob until `condition` holds. On a busy machine a publish may time out, and after some failures in a row the
/// worker does not call a push service for a while.
async fn notify_until(isolated: &IsolatedWorker, what: &str, condition: impl AsyncFn() -> bool) {
    eventually(what, async || {
        notify(isolated).await;
        condition().await.then_some(())
    })
    .await;
}

/// Returns a worker of the same stack with a short timeout of publishes.
async fn with_short_timeout(mut isolated: IsolatedWorker) -> IsolatedWorker {
    isolated.pushlark.stack.environment.extend([("PUBLISH_TIMEOUT_MS", "300")]);
    IsolatedWorker::beside(isolated.pushlark).await
}

async fn enable(pushlark: &Pushlark, form: Value) -> Reply {
    pushlark.json("/enable", PushRequest::new(BOB, "n").form(form)).await
}

#[tokio::test]
async fn no_credential_leaks_from_a_refused_request() {
    let whsec = format!("whsec_{}", BASE64_STANDARD.encode("canary-secret-in-base64"));
    let secrets = format!("canary-secret-key,{whsec}");
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", secrets.as_str())]).await;
    for path in ["/enable", "/disable", "/events", "/pubsub", "/explain"] {
        let request = || pushlark.request(path, "application/json", "{\"user\": canary");
        let authorized = |credential: &str| request().header("authorization", credential);
        let signed = |key: &str, id: &str, at: i64| {
            let signature = Key::new(key).unwrap().sign(id, at, b"{}");
            request().header("webhook-id", id).header("webhook-timestamp", at).header("webhook-signature", signature)
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for wrong in [
            request(),
            request().bearer_auth("canary-wrong"),
            request().basic_auth("canary-user", Some("canary-wrong")),
            request().query(&[("token", "canary-wrong")]),
            request().query(&[("token", "canary-secret-key"), ("token", "canary-secret-key")]),
            authorized("canary-secret-key"),
            authorized("Digest canary-secret-key"),
            authorized("Basic canary-secret-key"),
            authorized(&format!("Basic {}", BASE64_STANDARD.encode("canary-secret-key"))),
            signed("canary-wrong-secret", "canary", now),
            signed(&whsec, "canary", now - 1_000),
            request().header("webhook-signature", "v1,canary"),
        ] {
            send(wrong).await.problem(401);
        }
        for right in [request().bearer_auth("canary-secret-key"), request().query(&[("token", whsec.as_str())])] {
            send(right).await.problem(400);
        }
    }
}

/// Returns messages with invalid XML: a text is not escaped, or the end is missing.
fn broken_messages() -> Vec<String> {
    let message = |content: &str| format!("<message type='chat' from='a@b/c' to='{BOB}'>{content}</message>");
    let mut broken: Vec<_> = [
        "<body>if a <canary b",
        "<body>if a <canary b</body>",
        "<body>if <canary> b</body>",
        "<body>if </canary> b</body>",
        "<body>if <canary:a/> b</body>",
        "<body>if <a canary:b=''/> b</body>",
        "<body>if <a canary='1' canary='2'/> b</body>",
        "<body>if <canary</> b</body>",
        "<body>if <a xmlns:xml='canary'/> b</body>",
        "<body>if <a xmlns:canary='http://www.w3.org/2000/xmlns/'/> b</body>",
        "<body>canary &canary; canary</body>",
        "<body>canary &#canary; canary</body>",
        "<body canary='&canary;'/>",
        "<body>canary <!-- canary --></body>",
        "<body>canary <?canary?></body>",
        "<body>canary \u{1}</body>",
        "<body>canary ]]> </body>",
    ]
    .map(message)
    .into();
    broken.push(message("<body>canary</body>").replace("</message>", ""));
    broken.push(message("<body>canary</body>") + "canary");
    broken.push(message(&format!("<body>{}</body>", "canary".repeat(50_000))));
    broken
}

#[tokio::test]
async fn no_key_leaks_from_an_encrypted_notification() {
    let gateway = Gateway::mongoosepush().await;
    let pushlark = Pushlark::with_settings([("MONGOOSEPUSH_URL", gateway.url.as_str())]).await;
    let key = *b"canarycanary1234";
    for (node, max_size) in [("sent", None), ("refused", None), ("too-small", Some(1))] {
        let encryption = Encryption { alg: Algorithm::Aes128Gcm, key, max_size };
        assert!(!format!("{encryption:?}").contains("99, 97"), "{encryption:?}");
        let options = [("service", "fcm"), ("device_id", &canary(node))];
        let encryption = Some(Box::new(encryption));
        let registration = Registration { encryption, ..registration(node, &options, 1) };
        pushlark.store().register(&BOB.parse().unwrap(), &registration, |_| false).await.unwrap();
    }
    gateway.device_answers("refused", Answer::json(400, &json!({"reason": "invalid_request"})));
    pushlark.message(BOB, TEXT).await;
    pushlark.settled().await;
    assert_eq!(gateway.requests().len(), 2);
    let explained = pushlark.json("/explain", json!({"explain": [Event::message(BOB, "Hi")]})).await;
    let listed = pushlark.listed(BOB).await;
    for shown in [explained.body, json!(listed).to_string(), format!("{:?}", pushlark.registrations(BOB).await)] {
        assert!(!shown.contains(&BASE64_STANDARD.encode(key)), "{shown}");
    }
}

#[tokio::test]
async fn no_text_leaks_from_a_bad_event() {
    let pushlark = Pushlark::start().await;
    let with = |field: &str, value: Value| Event::message(BOB, TEXT).from("a@b/c").with(field, value);
    let mut events = vec![with("id", json!("canary".repeat(50)))];
    for field in ["body", "stanza", "recipient", "at", "id", "to", "from", "chat", "type"] {
        for wrong in [json!([[TEXT]]), json!({"online": TEXT}), json!(5), json!(true)] {
            events.push(with(field, wrong));
        }
    }
    events.push(with("recipient", json!(TEXT)));
    events.push(with("at", json!(TEXT)));
    for field in ["exists", "online", "unread_count"] {
        events.push(with("recipient", json!({field: format!("{TEXT}, expected a {TEXT}")})));
    }
    events.push(with("body", json!("canary".repeat(50_000))));
    for stanza in broken_messages() {
        pushlark.post("/events", "application/xml", stanza.clone()).await.problem(400);
        events.push(Event::stanza(BOB, &stanza).from("a@b/c"));
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
    for form in ["server=b&receiver=bob&message=canary", "author=a&server=b&receiver=bob&message=canary%FF"] {
        pushlark.post("/events", "application/x-www-form-urlencoded", form).await.problem(400);
    }
}

#[tokio::test]
async fn no_jid_and_no_key_leaks_from_bad_preferences() {
    let pushlark = Pushlark::start().await;
    let secret = "canary, expected a canary";
    let key = BASE64_STANDARD.encode("canary-key-16-by");
    let mut fields = vec![("preferences", json!(secret)), ("encrypt", json!(secret)), ("encrypt", json!([key]))];
    for name in ["mute", "rooms", "unknown", "quiet_hours", "while_online", "show", "calls", "priority", "jingle"] {
        let wrong = [json!(secret), json!([secret]), json!({"jid": secret}), json!([{"jid": secret}])];
        fields.extend(wrong.map(|wrong| ("preferences", json!({name: wrong}))));
    }
    let room = |name: &str| json!({"jid": "canary-room@muc.example", "allow": "always", name: [secret]});
    let entry = |allow: &str| json!({"jid": "canary-room@muc.example", "allow": allow});
    for rooms in
        [json!([room("jid")]), json!([room("nick")]), json!([room("allow")]), json!([entry("always"), entry("never")])]
    {
        fields.push(("preferences", json!({"rooms": rooms})));
    }
    for name in ["from", "to", "tz", "days", "calls"] {
        let mut hours = json!({"from": "22:00", "to": "07:00", "tz": "Europe/Berlin"});
        hours[name] = secret.into();
        fields.push(("preferences", json!({"quiet_hours": [hours]})));
    }
    for (name, wrong) in
        [("alg", json!(key)), ("key", json!(secret)), ("key", json!(key[1..])), ("max_size", json!(key))]
    {
        let mut encrypt = json!({"alg": "aes-128-gcm", "key": key});
        encrypt[name] = wrong;
        fields.push(("encrypt", encrypt));
    }
    for (name, value) in fields {
        let request = PushRequest::new(BOB, "n").device("n").with(name, &value);
        let reply = pushlark.json("/enable", request).await;
        assert_eq!(reply.status, 400, "{value}");
    }
    for content in [
        format!("<muted xmlns='{}'><item jid='canary token@'/></muted>", ns::TIGASE_MUTED),
        format!("<groupchat xmlns='{}'><room jid='a@b' allow='canary'/></groupchat>", ns::TIGASE_GROUPCHAT),
        format!("<encrypt xmlns='{}' alg='{key}'>{key}</encrypt>", ns::TIGASE_ENCRYPT),
        format!("<encrypt xmlns='{}' alg='aes-128-gcm'>{key}{key}</encrypt>", ns::TIGASE_ENCRYPT),
        format!("<encrypt xmlns='{}' alg='aes-128-gcm' max-size='{key}'>{key}</encrypt>", ns::TIGASE_ENCRYPT),
    ] {
        let form = stanza::publish_options(&[("service", "fcm"), ("device_id", "canary-token")]);
        let enable = stanza::enable(PUSH_HOST, "n", &(form + &content));
        for (path, to) in [("/enable", BOB), ("/pubsub", PUSH_HOST)] {
            let reply = pushlark.post(path, XMPP, stanza::iq("set", BOBS_PC, to, &enable)).await;
            assert!(reply.body.contains("<bad-request "), "{}", reply.body);
        }
    }
}

#[tokio::test]
async fn no_token_leaks_from_a_bad_registration() {
    let pushlark = Pushlark::start().await;
    let browser = Subscriber::new(3);
    let web_push = |field: &str, value: &str| {
        json!({"service": "web-push", "endpoint": "https://push.example/canary", "p256dh": browser.p256dh(),
            "auth": browser.auth(), field: value})
    };
    let mut forms = vec![
        json!("canary-token"),
        json!(["canary-token"]),
        json!({"device_id": ["canary-token"]}),
        json!({"device_id": {"canary": "canary-token"}}),
        json!({"device_id": null, "auth": "canary-token"}),
        json!({"device_id": "canary-token\u{0}"}),
        json!({"device_id": "canary-token".repeat(1_000)}),
        web_push("endpoint", "canary-token"),
        web_push("endpoint", "https://canary:canary@push.example/"),
        web_push("p256dh", "canary-token"),
        web_push("auth", "canary-token"),
    ];
    for field in ["priority", "mode", "silent", "mutable_content", "time_to_live", "tz", "FORM_TYPE"] {
        forms.push(json!({"service": "fcm", "device_id": "canary-token", field: "canary-token"}));
    }
    for form in forms {
        enable(&pushlark, form).await.problem(400);
    }
    let form_type = stanza::field("FORM_TYPE", ns::PUBLISH_OPTIONS);
    let (service, device) = (stanza::field("service", "fcm"), stanza::field("device_id", "canary-token"));
    for fields in [
        device.clone(),
        stanza::field("FORM_TYPE", "canary") + &device,
        // The push node refuses a form without a service.
        format!("{form_type}{device}"),
        format!("{form_type}{device}{device}"),
        format!("{form_type}{}", device.replace("</value>", "</value><value>canary-token</value>")),
        format!("{form_type}{}", device.replace("var=", "canary=")),
        format!("{form_type}{service}{device}{}", stanza::field("mode", "canary-token")),
        format!("{form_type}{service}{}", stanza::field("device_id", &"canary".repeat(2_000))),
    ] {
        let x = format!("<x xmlns='jabber:x:data' type='submit'>{fields}</x>");
        let enable = stanza::enable(PUSH_HOST, "n", &x);
        pushlark.post("/enable", XMPP, stanza::iq("set", BOBS_PC, BOB, &enable)).await;
        let to_push_node = stanza::iq("set", BOBS_PC, PUSH_HOST, &enable);
        let reply = pushlark.json("/pubsub", json!({"stanza": to_push_node})).await;
        assert!(reply.body.contains("type=\\\"error\\\""), "{}", reply.body);
    }
    for (field, value) in [
        ("node", json!(["canary"])),
        ("node", json!("canary".repeat(100))),
        ("jid", json!(["canary"])),
        ("jid", json!("canary token@")),
        ("user", json!({"canary": "canary"})),
        ("user", json!("canary token")),
    ] {
        let request = PushRequest::new(BOB, "n").with(field, value);
        pushlark.json("/enable", &request).await.problem(400);
        pushlark.json("/disable", &request).await.problem(400);
    }
    pushlark.json("/pubsub", json!({"stanza": ["canary"]})).await.problem(400);
    pushlark.post("/enable", "text/plain", "canary").await.problem(415);
}

#[tokio::test]
async fn no_secret_leaks_from_a_bad_publish() {
    let pushlark = Pushlark::start().await;
    let post = async |payload: &str| {
        pushlark.post("/pubsub", XMPP, stanza::iq("set", BOB, PUSH_HOST, &stanza::pubsub(payload))).await
    };
    post("<create node='n'/>").await.assert_result();
    let options = ns::PUBLISH_OPTIONS;
    let summary = stanza::field("message-count", "1") + &stanza::field("last-message-body", TEXT);
    let device = stanza::field("service", "fcm") + &stanza::field("device_id", "canary-token");
    for (node, summary, options) in [
        ("none", stanza::form_of("urn:xmpp:push:summary", &summary), stanza::form_of(options, &device)),
        ("n", stanza::form_of("canary", &summary), stanza::form_of(options, &device)),
        ("n", String::new(), stanza::form_of("canary", &device)),
        ("n", String::new(), stanza::form_of(options, &device.repeat(2))),
        ("n", String::new(), stanza::form_of(options, &stanza::field("device_id", "canary-token"))),
        ("n", String::new(), stanza::form_of(options, &(device.clone() + &stanza::field("mode", "canary-token")))),
        (
            "n",
            String::new(),
            stanza::form_of(options, &(device.clone() + &stanza::field("x", &"canary".repeat(2_000)))),
        ),
    ] {
        let item = stanza::notification(&summary);
        let publish = format!("<publish node='{node}'><item>{item}</item></publish>");
        let payload = format!("{publish}<publish-options>{options}</publish-options>");
        let answer = post(&payload).await.body;
        assert!(answer.contains("type=\"error\""), "{answer}");
    }
}

/// The statuses of the errors of push services. Each error repeats secrets of its request.
const STATUSES: [u16; 9] = [300, 400, 401, 403, 404, 410, 413, 429, 500];

#[tokio::test]
async fn no_secret_leaks_from_an_error_of_mongoosepush() {
    for (version, field) in [("v2", "details"), ("v3", "reason")] {
        let isolated =
            IsolatedWorker::beside(Pushlark::with_settings([("MONGOOSEPUSH_API_VERSION", version)]).await).await;
        for status in STATUSES {
            let device = status.to_string();
            isolated.pushlark.enable(BOB, &device).await;
            let reason = format!("{} did not get {TEXT}", canary(&device));
            let answer = json!({"status": status, "body": {field: reason}});
            isolated.pushlark.device_answers(&device, answer).await;
        }
        let misplaced =
            PushRequest::new(BOB, "misplaced").device("misplaced").options(json!({"service": "canary-token"}));
        isolated.pushlark.json("/enable", misplaced).await.problem(400);
        notify_until(&isolated, "a request for each device", async || {
            for status in STATUSES {
                if isolated.pushlark.notifications(&status.to_string()).await.is_empty() {
                    return false;
                }
            }
            true
        })
        .await;
        isolated.pushlark.enable(BOB, "slow").await;
        isolated.pushlark.device_answers("slow", json!({"status": 200, "delay_ms": 3_600_000})).await;
        notify(&with_short_timeout(isolated).await).await;
    }
}

#[tokio::test]
async fn no_secret_leaks_from_an_unreachable_push_service() {
    for push_service in
        [("MONGOOSEPUSH_URL", "http://127.0.0.1:1"), ("PUSH_SERVICE", "http://canary:canary@127.0.0.1:1/")]
    {
        let settings = [
            push_service,
            ("PUSH_SERVICE_SECRET", "canary-secret-key"),
            ("PUBSUB_URL", "http://canary:canary@127.0.0.1:1/"),
            ("PUBSUB_TOKEN", "canary"),
        ];
        let isolated = IsolatedWorker::beside(Pushlark::with_settings(settings).await).await;
        isolated.worker.warm_up().await;
        // After so many failures the worker logs that the push service fails.
        for device in 0..6 {
            isolated.pushlark.enable(BOB, &device.to_string()).await;
            let node = PushRequest::new(BOB, &canary(&device.to_string())).at("pubsub.elsewhere.example");
            assert_eq!(isolated.pushlark.json("/enable", node).await.status, 200);
        }
        notify(&isolated).await;
    }
}

#[tokio::test]
async fn no_secret_leaks_from_an_error_of_apns_fcm_or_web_push() {
    let (apns, fcm, web_push) = (Apns::start().await, Fcm::start().await, WebPush::start().await);
    let credentials = credentials(&apns, &fcm).to_string();
    let origins = format!("{},http://127.0.0.1:1", web_push.url);
    let settings = [
        ("PUSH_SERVICE", "direct"),
        ("PUSH_CREDENTIALS", credentials.as_str()),
        ("WEB_PUSH_TRUSTED_ORIGINS", origins.as_str()),
        ("DISABLE_MAX_PERCENT", "1"),
        ("MAX_NODES", "100"),
    ];
    let isolated = IsolatedWorker::beside(Pushlark::with_settings(settings).await).await;
    let pushlark = &isolated.pushlark;
    let browser = Subscriber::new(3);
    // The devices of each double.
    let mut devices_of: [(&Double, Vec<String>); 3] =
        [&*apns as &Double, &fcm, &web_push].map(|double| (double, Vec::new()));
    for status in STATUSES {
        let name = status.to_string();
        let iphone = format!("{TOKEN}{status}");
        pushlark.enable_with(BOB, &iphone, json!({"service": "apns"})).await;
        // With this length, a truncated answer would end within the token.
        let filler = "x".repeat(80);
        apns.device_answers(&iphone, apns_error(status, &format!("{filler} {iphone} {TEXT}")));
        pushlark.enable(BOB, &name).await;
        let reason = format!("{filler} {} {TEXT}", canary(&name));
        fcm.device_answers(&name, fcm_error(status, "canary", Some(&reason), &reason));
        let enable = PushRequest::new(BOB, &format!("web-push-{status}"))
            .device(&name)
            .browser(&web_push.endpoint(&name), &browser);
        assert_eq!(pushlark.json("/enable", enable).await.status, 200);
        web_push.device_answers(&name, Answer::json(status, &json!({"reason": reason})));
        for ((_, devices), device) in devices_of.iter_mut().zip([iphone, name.clone(), name]) {
            devices.push(device);
        }
    }
    // After so many failures the worker logs that the push service fails.
    for device in 0..6 {
        let enable = PushRequest::new(BOB, &format!("nowhere-{device}"))
            .device("nowhere")
            .browser(&format!("http://127.0.0.1:1?canary-{device}"), &browser);
        assert_eq!(pushlark.json("/enable", enable).await.status, 200);
    }
    for (node, form) in [
        ("long", json!({"service": "apns", "device_id": "63616e617279".repeat(117)})),
        ("topic", json!({"service": "apns", "device_id": TOKEN, "topic": "canary\ntopic"})),
        ("app", json!({"app": "canary-token"})),
    ] {
        pushlark.enable_with(BOB, node, form).await;
    }
    // Registrations from a time when `PUSH_SERVICE` was not `direct`, which would refuse them.
    for (node, field, value) in [("nothing", "device_id", ""), ("service", "service", "canary-token")] {
        let options = [("service", "apns"), ("device_id", TOKEN), (field, value)];
        pushlark.store().register(&parse_jid(BOB).unwrap(), &registration(node, &options, 1), |_| false).await.unwrap();
    }
    notify_until(&isolated, "a request for each device", async || {
        devices_of.iter().all(|(double, devices)| has_answered(double, devices))
    })
    .await;
    let before = devices_of.each_ref().map(|(double, _)| {
        double.hold(Hold::FOREVER);
        double.arrived()
    });
    notify_until(&with_short_timeout(isolated).await, "a request without an answer", async || {
        devices_of.iter().zip(before).all(|((double, _), before)| double.arrived() > before)
    })
    .await;
}

/// Returns whether a push service has answered a notification for each device.
fn has_answered(double: &Double, devices: &[String]) -> bool {
    let requests = double.requests();
    devices.iter().all(|device| requests.iter().any(|request| request.device == *device))
}

#[tokio::test]
async fn no_secret_leaks_from_an_error_of_the_token_server() {
    let fcm = Fcm::start().await;
    let credentials = json!({"default": {"fcm": fcm.service_account()}}).to_string();
    for answer in [
        Answer::json(400, &json!({"error": "canary", "error_description": "canary"})),
        Answer::json(503, &json!({"error": "canary"})),
        Answer::json(200, &json!({"access_token": ["canary"], "expires_in": 3_600})),
        Answer::text(200, "canary"),
    ] {
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
        let isolated = IsolatedWorker::beside(Pushlark::with_settings(settings).await).await;
        isolated.pushlark.enable(BOB, "android").await;
        fcm.fail_next_grant(answer);
        notify(&isolated).await;
    }
    assert_eq!((fcm.granted(), fcm.count()), (0, 0));
}

#[tokio::test]
async fn no_secret_leaks_from_an_error_of_the_webhook() {
    let receiver = Gateway::webhook().await;
    let url = receiver.url.replace("http://", "http://canary:canary@");
    let url = format!("{url}/push?token=canary");
    let settings = [("PUSH_SERVICE", url.as_str()), ("PUSH_SERVICE_SECRET", "canary-secret-key")];
    let isolated = IsolatedWorker::beside(Pushlark::with_settings(settings).await).await;
    for status in STATUSES {
        let device = status.to_string();
        isolated.pushlark.enable(BOB, &device).await;
        receiver.device_answers(&device, Answer::text(status, &format!("{} {TEXT}", canary(&device))));
    }
    let devices = STATUSES.map(|status| status.to_string());
    notify_until(&isolated, "a request for each device", async || has_answered(&receiver, &devices)).await;
    receiver.hold(Hold::FOREVER);
    let before = receiver.arrived();
    notify_until(&with_short_timeout(isolated).await, "a request without an answer", async || {
        receiver.arrived() > before
    })
    .await;
}

#[tokio::test]
async fn no_secret_leaks_from_invalid_credentials() {
    let fcm = Fcm::start().await;
    let of = |provider: &str, credentials: Value| json!({"default": {provider: credentials}}).to_string();
    let mut account = fcm.service_account();
    account["private_key"] = "canary".into();
    for credentials in [
        of("apns", json!("canary")),
        of("apns", json!({"team_id": "T", "key_id": "K", "key": ["canary"]})),
        of("apns", json!({"team_id": "T", "key_id": "K", "key": "canary"})),
        of("fcm", account),
        of("fcm", json!({"private_key": {"canary": "canary"}})),
        of("web_push", json!({"key": "canary", "subject": "canary"})),
    ] {
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
        let isolated = IsolatedWorker::beside(Pushlark::with_settings(settings).await).await;
        isolated.worker.warm_up().await;
        for service in ["apns", "fcm"] {
            isolated.pushlark.enable_with(BOB, service, json!({"service": service})).await;
        }
        notify(&isolated).await;
    }
    for credentials in [
        "canary".to_owned(),
        json!({"default": "canary"}).to_string(),
        json!({"default": {"hosts": "canary", "fcm": {}}}).to_string(),
        of("apns", json!({"unknown": "canary"})),
    ] {
        let settings = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
        let options = Options { environment: Environment::from_iter(settings), ..Options::default() };
        let refusal = Stack::start(options).await.unwrap_err().to_string();
        assert!(refusal.starts_with("PUSH_CREDENTIALS: ") && !contains_canary(&refusal), "{refusal}");
    }
}

#[tokio::test]
async fn no_text_leaks_from_an_unreadable_record() {
    let pushlark = Pushlark::start().await;
    let work = |subject: Value| Work::record(&[Work::of(subject)]).to_string();
    let message = |field: &str, value: Value| {
        let stanza = format!("<message><body>{TEXT}</body></message>");
        let message = Work::message(&[BOB]).message_field("from", "a@b/c").message_field("stanza", stanza);
        Work::record(&[message.message_field(field, value)]).to_string()
    };
    let notification = json!({"jid": "push.example.com", "node": "n", "owner": BOB, "created_at": 1,
        "options": {"device_id": "canary-token".repeat(1_000)}, "summary": [["last-message-body", TEXT]]});
    let mut records = vec![
        TEXT.to_owned(),
        message("stanza", json!([TEXT])),
        message("recipient", json!(TEXT)),
        message("recipient", json!({"online": TEXT})),
        message("to", json!(TEXT)),
        work(json!({"canary": TEXT})),
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
    for record in &records {
        pushlark.enqueue(record).await;
    }
    pushlark.settled().await;
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await as usize, records.len());
}

/// A plugin that panics with the text of the message.
struct Panics(Arc<AtomicUsize>);

impl Plugin for Panics {
    fn prepare_notification(&self, event: &PluginEvent) -> Result<Payload, Rule> {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("{}", event.message.element());
    }
}

/// A plugin that gives the text of the message as the code of the reason, which is logged.
struct Quotes;

impl Plugin for Quotes {
    fn prepare_notification(&self, event: &PluginEvent) -> Result<Payload, Rule> {
        Err(Rule::new("quotes", "a text").with_code(event.message.body().unwrap().into_owned()))
    }
}

async fn with_plugin(plugin: impl Plugin + 'static) -> Pushlark {
    let plugins = Plugins::built_in().with("own", plugin);
    let environment = Environment::from_iter([("PLUGIN", "own")]);
    Pushlark::with(Options { plugins, environment, ..Options::default() }).await
}

#[tokio::test]
async fn no_text_leaks_from_a_plugin_that_panics() {
    let tries = Arc::default();
    let pushlark = with_plugin(Panics(Arc::clone(&tries))).await;
    pushlark.message(BOB, TEXT).await;
    eventually("a second try", async || (tries.load(Ordering::Relaxed) >= 2).then_some(())).await;
}

/// Each leak is made in a process of its own, which must abort.
#[tokio::test]
async fn the_watch_aborts_a_run_that_leaks() {
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
                let this_test = ["--exact", "secrecy::the_watch_aborts_a_run_that_leaks"];
                let run = Command::new(env::current_exe().unwrap()).args(this_test).env(LEAK, leak).output().unwrap();
                let output = String::from_utf8_lossy(&run.stderr);
                assert!(
                    !run.status.success() && output.contains(&format!("a secret is in {leak}: ")),
                    "{leak}: {output}"
                );
            }
        }
    }
}
