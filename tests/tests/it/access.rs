//! Who may call, and for whom.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::Json;
use axum::Router;
use axum::routing::post;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use doubles::planted;
use local::Stack;
use pushlark_webhooks::Key;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tests::{Pushlark, Reply, ago, eventually, send, within_a_minute};
use time::OffsetDateTime;
use tokio::net::TcpListener;

const PATHS: [&str; 4] = ["/enable", "/disable", "/events", "/pubsub"];

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Signs a request by Standard Webhooks.
fn signed(request: RequestBuilder, key: &str, id: &str, at: i64, body: &str) -> RequestBuilder {
    let signature = Key::new(key).unwrap().sign(id, at, body.as_bytes());
    request.header("webhook-id", id).header("webhook-timestamp", at).header("webhook-signature", signature)
}

/// The signature of a body alone.
fn hub_signature(key: &str, body: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), body.as_bytes());
    let hexadecimal: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hexadecimal}")
}

#[tokio::test]
async fn each_kind_of_credential_is_taken_when_it_is_right_and_refused_when_it_is_not() {
    let pushlark = Pushlark::with_settings([(
        "WEBHOOK_SECRET",
        "planted-old-secret, whsec_cGxhbnRlZC1uZXctc2VjcmV0,planted-new-secret",
    )])
    .await;
    let (at, body) = (now(), "{}");
    let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
    type Present<'p> = Box<dyn Fn(RequestBuilder) -> RequestBuilder + 'p>;
    let header = |name: &'static str, value: String| -> Present<'_> { Box::new(move |r| r.header(name, &value)) };
    let authorization = |value: &str| header("authorization", value.to_owned());
    let query = |token: &'static str| -> Present<'_> { Box::new(move |r| r.query(&[("token", token)])) };
    let webhook = |key: &'static str, id: &'static str, at: i64, body: &'static str| -> Present<'_> {
        Box::new(move |r| signed(r, key, id, at, body))
    };
    let right: Vec<(&str, Present)> = vec![
        ("bearer", authorization("Bearer planted-new-secret")),
        ("bearer, the older", authorization("bearer planted-old-secret")),
        ("Basic of any user", authorization(&basic("any:planted-old-secret"))),
        ("Basic of no user", authorization(&basic(":planted-new-secret"))),
        ("token", query("planted-new-secret")),
        ("Standard Webhooks", webhook("planted-old-secret", "w1", at, body)),
        ("Standard Webhooks, whsec_", webhook("whsec_cGxhbnRlZC1uZXctc2VjcmV0", "w1", at - 290, body)),
        ("hub signature", header("x-hub-signature-256", hub_signature("planted-old-secret", body))),
        ("hub signature, whsec_", header("x-hub-signature-256", hub_signature("planted-new-secret", body))),
    ];
    let wrong: Vec<(&str, Present)> = vec![
        ("none", Box::new(|r| r)),
        ("bearer of nobody", authorization("Bearer planted-older-secret")),
        ("bearer, cut", authorization("Bearer planted-ol")),
        ("bearer, empty", authorization("Bearer ")),
        ("bearer, both", authorization("Bearer planted-old-secret,planted-new-secret")),
        ("bearer, in quotes", authorization("Bearer \"planted-old-secret\"")),
        ("a scheme that is none", authorization("Token planted-old-secret")),
        ("without a scheme", authorization("planted-old-secret")),
        ("Basic, as the user", authorization(&basic("planted-old-secret:x"))),
        ("Basic without a password", authorization(&basic("planted-old-secret"))),
        ("Basic that is not base64", authorization("Basic planted-old-secret")),
        ("token, empty", query("")),
        ("token of nobody", query("planted-older-secret")),
        ("a right token beside a wrong bearer", {
            Box::new(|r| r.query(&[("token", "planted-old-secret")]).bearer_auth("planted-older-secret"))
        }),
        ("Standard Webhooks of another key", webhook("planted-older-secret", "w1", at, body)),
        ("Standard Webhooks of another body", webhook("planted-old-secret", "w1", at, "{} ")),
        ("Standard Webhooks, too old", webhook("planted-old-secret", "w1", at - 400, body)),
        ("Standard Webhooks, of tomorrow", webhook("planted-old-secret", "w1", at + 86_400, body)),
        ("Standard Webhooks of another id", {
            Box::new(move |r| {
                let signature = Key::new("planted-old-secret").unwrap().sign("w1", at, b"{}");
                r.header("webhook-id", "w2").header("webhook-timestamp", at).header("webhook-signature", signature)
            })
        }),
        ("Standard Webhooks, asymmetric", {
            Box::new(move |r| {
                let signature = Key::new("planted-old-secret").unwrap().sign("w1", at, b"{}").replace("v1,", "v1a,");
                r.header("webhook-id", "w1").header("webhook-timestamp", at).header("webhook-signature", signature)
            })
        }),
        ("Standard Webhooks without a time", {
            Box::new(move |r| {
                let signature = Key::new("planted-old-secret").unwrap().sign("w1", at, b"{}");
                r.header("webhook-id", "w1").header("webhook-signature", signature)
            })
        }),
        ("an id alone", header("webhook-id", "w1".into())),
        ("hub signature of another key", header("x-hub-signature-256", hub_signature("planted-older-secret", body))),
        ("hub signature of another body", header("x-hub-signature-256", hub_signature("planted-old-secret", "{} "))),
        ("hub signature without its name", {
            header("x-hub-signature-256", hub_signature("planted-old-secret", body).replace("sha256=", ""))
        }),
        ("hub signature by SHA-1", header("x-hub-signature", "sha1=da39a3ee5e6b4b0d3255bfef95601890afd80709".into())),
        ("a secret as a domain's", authorization("Bearer planted-old-secret=planted-old-secret")),
    ];
    for path in PATHS {
        let request = || pushlark.request(path, "application/json", body);
        for (name, present) in &right {
            let reply = send(present(request())).await;
            assert_eq!(reply.status, 400, "{path}, {name}: {}", reply.body);
        }
        for (name, present) in &wrong {
            let reply = send(present(request())).await;
            assert_eq!(reply.status, 401, "{path}, {name}: {}", reply.body);
            reply.problem(401);
            assert_eq!(reply.headers["www-authenticate"], "Bearer, Basic realm=\"pushlark\"");
        }
    }
}

#[tokio::test]
async fn without_a_secret_a_deployed_function_refuses_everything() {
    use pushlark_http::{Access, Answer, Invocation};

    let pushlark = Pushlark::start().await;
    let (Stack { environment, dynamodb, sqs, .. }, access) = (&pushlark.stack, Access::of_secrets("").unwrap());
    let ingest = ingest::Function::from_environment(environment, access, dynamodb.clone(), sqs.clone()).unwrap();
    for headers in [json!({}), json!({"authorization": "Bearer "}), json!({"authorization": "Basic Og=="})] {
        let event = json!({"headers": headers, "requestContext": {"http": {"method": "POST"}}, "body": "{}"});
        let invocation: Invocation = serde_json::from_value(event).unwrap();
        let Answer::Http(response) = ingest.handle(invocation).await else { panic!() };
        assert_eq!(response.status_code, 401);
    }
}

#[tokio::test]
async fn a_credential_comes_before_everything_else() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "planted-secret-key")]).await;
    send(pushlark.http.get(format!("{}/events", pushlark.stack.url))).await.problem(401);
    pushlark.post("/events", "text/plain", "x".repeat(1024 * 1024)).await.problem(401);
    // The size alone comes before it, since a signature is computed over the whole body.
    let large = pushlark.request("/events", "text/plain", "x".repeat(1024 * 1024 + 1));
    send(signed(large, "planted-wrong-secret", "w1", now(), "")).await.problem(413);
    pushlark.post("/events", "application/octet-stream", vec![0xff; 1024 * 1024 + 1]).await.problem(413);
    pushlark.post("/events", "application/octet-stream", vec![0xff; 1024 * 1024]).await.problem(401);
}

#[tokio::test]
async fn a_secret_may_be_kept_in_secrets_manager() {
    let kept = SecretsManager::start("planted-first-secret,planted-second-secret").await;
    let pushlark = Pushlark::with_settings(kept.settings()).await;
    let request = || pushlark.request("/enable", "application/json", "{}");
    send(request().bearer_auth(SecretsManager::ARN)).await.problem(401);
    send(request().bearer_auth("planted-second-secret")).await.problem(400);
}

/// AWS Secrets Manager with one secret.
struct SecretsManager {
    endpoint: String,
    secret: Arc<Mutex<String>>,
    reads: Arc<AtomicU32>,
}

impl SecretsManager {
    const ARN: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:webhook";

    async fn start(secret: &str) -> Self {
        let (secret, reads) = (Arc::new(Mutex::new(secret.to_owned())), Arc::<AtomicU32>::default());
        let (kept, counted) = (Arc::clone(&secret), Arc::clone(&reads));
        let secrets = Router::new().route(
            "/",
            post(async move || {
                counted.fetch_add(1, Ordering::Relaxed);
                Json(json!({"ARN": Self::ARN, "SecretString": *kept.lock().unwrap()}))
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, secrets).await });
        Self { endpoint, secret, reads }
    }

    fn settings(&self) -> [(&'static str, &str); 2] {
        [("WEBHOOK_SECRET", Self::ARN), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &self.endpoint)]
    }

    fn put(&self, secret: &str) {
        *self.secret.lock().unwrap() = secret.to_owned();
    }

    fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_secret_that_changes_is_taken_without_a_restart() {
    let kept = SecretsManager::start("planted-first-secret,planted-second-secret").await;
    let pushlark = Pushlark::with_settings(kept.settings()).await;
    let (path, body) = ("/enable", "{}");
    let request = || pushlark.request(path, "application/json", body);
    let at_start = kept.reads();
    send(request()).await.problem(401);
    send(signed(request(), "planted-third-secret", "w1", now() - 1_000, body)).await.problem(401);
    assert_eq!(kept.reads(), at_start, "no newer secret helps a request without a credential or of another time");

    kept.put("planted-second-secret,planted-third-secret");
    send(signed(request(), "planted-third-secret", "w1", now(), body)).await.problem(400);
    send(request().bearer_auth("planted-third-secret")).await.problem(400);
    send(request().bearer_auth("planted-second-secret")).await.problem(400);
    send(request().bearer_auth("planted-first-secret")).await.problem(401);

    // However many credentials are unknown, the secret is read once in ten seconds by each function.
    let reads = kept.reads();
    for _ in 0..20 {
        send(request().bearer_auth("planted-unknown-secret")).await.problem(401);
    }
    assert!(kept.reads() <= reads + 1, "{} reads", kept.reads() - reads);

    // A value that is not valid changes nothing.
    kept.put("short");
    eventually("another read", async || {
        send(request().bearer_auth("planted-unknown-secret")).await.problem(401);
        (kept.reads() > reads + 1).then_some(())
    })
    .await;
    send(request().bearer_auth("planted-third-secret")).await.problem(400);
}

#[tokio::test]
async fn a_signed_command_is_not_good_for_the_other_command() {
    const KEY: &str = "planted-secret-key";
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", KEY)]).await;
    let enable = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "phone",
        "form": {"service": "fcm", "device_id": planted("phone")}});
    let bound = |command: &str| {
        json!({"type": command, "user": "bob@example.com", "jid": "push.example.com", "node": "phone"}).to_string()
    };
    let post = async |path: &str, body: &str| {
        let request = pushlark.request(path, "application/json", body.to_owned());
        send(signed(request, KEY, "w1", now(), body)).await
    };
    let registered = async || {
        let list = pushlark.http.get(format!("{}/enable?user=bob@example.com", pushlark.stack.url)).bearer_auth(KEY);
        send(list).await.json()["registrations"].as_array().unwrap().len()
    };
    let enable = enable.to_string();
    assert_eq!(post("/enable", &enable).await.status, 200);
    let detail = post("/disable", &enable).await.problem(400);
    assert!(detail.contains("form"), "{detail}");
    let detail = post("/disable", &bound("enable")).await.problem(400);
    assert!(detail.contains("type"), "{detail}");
    assert_eq!(registered().await, 1);
    assert_eq!(post("/disable", &bound("disable")).await.status, 200);
    let detail = post("/enable", &bound("disable")).await.problem(400);
    assert!(detail.contains("type"), "{detail}");
    assert_eq!(registered().await, 0);
    // Nor is an event a command, or a command an event.
    post("/events", &bound("enable")).await.problem(400);
    let event = json!({"type": "user_removed", "user": "bob@example.com", "jid": "bob@example.com", "node": "phone"});
    post("/enable", &event.to_string()).await.problem(400);
}

#[tokio::test]
async fn a_webhook_that_is_sent_again_notifies_nobody_twice() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "planted-secret-key")]).await;
    let enable = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "phone",
        "form": {"service": "fcm", "device_id": planted("phone")}});
    let enable = pushlark.request("/enable", "application/json", enable.to_string()).bearer_auth("planted-secret-key");
    assert_eq!(send(enable).await.status, 200);
    let message = |body: &str| json!({"type": "message", "from": "alice@example.com/pc", "to": "bob@example.com", "chat": "chat", "body": body});
    let given = json!({"type": "message", "id": "m1", "from": "alice@example.com/pc", "to": "bob@example.com", "chat": "chat", "body": "three"});
    let stanza = "<message type='chat' from='alice@example.com/pc' to='bob@example.com'><body>four</body></message>";
    let form = "author=alice&server=example.com&receiver=bob&message=five";
    let cases = [
        ("w1", "application/json", message("one").to_string(), vec!["w1"]),
        ("w2", "application/json", json!([message("two"), given]).to_string(), vec!["w2/0", "m1"]),
        ("w3", "text/xml", stanza.to_owned(), vec!["w3"]),
        ("w4", "application/x-www-form-urlencoded", form.to_owned(), vec!["w4"]),
        ("w5", "application/x-ndjson", format!("{}\n", message("six")), vec!["w5/0"]),
    ];
    for (id, media, body, ids) in &cases {
        for seconds_later in [0, 60] {
            let request = pushlark.request("/events", media, body.clone());
            let reply = send(signed(request, "planted-secret-key", id, now() - 100 + seconds_later, body)).await;
            assert_eq!((reply.status, &reply.json()["ids"]), (202, &json!(ids)), "{}", reply.body);
        }
    }
    pushlark.settled().await;
    let mut alerts = pushlark.alerts("phone").await;
    alerts.sort();
    assert_eq!(alerts, ["five", "four", "one", "six", "three", "two"]);
    let long = "i".repeat(257);
    let body = message("x").to_string();
    let request = pushlark.request("/events", "application/json", body.clone());
    let detail = send(signed(request, "planted-secret-key", &long, now(), &body)).await.problem(400);
    assert!(detail.contains("webhook-id"), "{detail}");
}

/// A stack with a secret for each of two domains, and one for all.
async fn of_two_domains() -> Pushlark {
    let secrets = "example.com=planted-com-secret, example.org=planted-org-secret, planted-all-secret";
    Pushlark::with_settings([("WEBHOOK_SECRET", secrets), ("UNREAD_COUNTS", "on")]).await
}

async fn post_as(pushlark: &Pushlark, secret: &str, path: &str, body: Value) -> Reply {
    send(pushlark.request(path, "application/json", body.to_string()).bearer_auth(secret)).await
}

#[tokio::test]
async fn a_domains_secret_speaks_for_its_users_alone() {
    let pushlark = of_two_domains().await;
    let own_then_other = |path: &'static str, request: fn(&str) -> Value| (path, request);
    for (path, request) in [
        own_then_other(
            "/events",
            |domain| json!({"type": "message", "from": "eve@evil.example/x", "to": format!("bob@{domain}"), "chat": "chat", "body": "Hi"}),
        ),
        own_then_other(
            "/events",
            |domain| json!({"type": "message", "from": "a@b/c", "to": ["u@example.com", format!("bob@{domain}")], "chat": "chat", "body": "Hi"}),
        ),
        own_then_other(
            "/events",
            |domain| json!({"type": "unacknowledged", "from": "a@b/c", "to": format!("bob@{domain}/x"), "chat": "chat", "body": "Hi"}),
        ),
        own_then_other(
            "/events",
            |domain| json!({"type": "presence", "jid": format!("bob@{domain}/x"), "status": "online"}),
        ),
        own_then_other(
            "/events",
            |domain| json!({"type": "read", "jid": format!("bob@{domain}"), "conversation": "a@b"}),
        ),
        own_then_other("/events", |domain| json!({"type": "user_removed", "jid": format!("bob@{domain}")})),
        own_then_other("/events", |domain| json!({"type": "domain_removed", "domain": domain})),
        own_then_other("/events", |domain| json!({"user_id": format!("bob@{domain}"), "present": true})),
        own_then_other(
            "/enable",
            |domain| json!({"user": format!("bob@{domain}"), "jid": "push.example.com", "node": "n"}),
        ),
        own_then_other("/disable", |domain| json!({"user": format!("bob@{domain}"), "jid": "push.example.com"})),
    ] {
        for domain in ["example.org", "sub.example.com", "xexample.com", "com"] {
            let reply = post_as(&pushlark, "planted-com-secret", path, request(domain)).await;
            let detail = reply.problem(403);
            assert!(detail.contains(domain), "{detail}");
        }
        for secret in ["planted-com-secret", "planted-all-secret"] {
            let reply = post_as(&pushlark, secret, path, request("Example.com")).await;
            assert!(reply.status < 300, "{}: {}", request("example.com"), reply.body);
        }
    }
    let form = "author=alice&server=example.org&receiver=bob&message=Hi";
    let reply =
        pushlark.request("/events", "application/x-www-form-urlencoded", form).bearer_auth("planted-com-secret");
    send(reply).await.problem(403);

    // One of a batch that is not the caller's, and none is taken.
    let message = |to: &str| json!({"type": "message", "from": "a@b/c", "to": to, "chat": "chat", "body": "Hi"});
    let batch = json!([message("bob@example.com"), message("bob@example.org")]);
    let reply = post_as(&pushlark, "planted-com-secret", "/events", batch).await;
    reply.problem(403);
    assert_eq!(reply.json()["errors"][0]["index"], 1);

    // An IQ is answered in kind.
    let iq = "<iq type='set' id='1' from='bob@example.org'><enable xmlns='urn:xmpp:push:0' jid='push.example.org' node='n'/></iq>";
    let reply = send(pushlark.request("/enable", "application/xml", iq).bearer_auth("planted-com-secret")).await;
    assert!(reply.status == 200 && reply.body.contains("<error type=\"auth\"><forbidden "), "{}", reply.body);
}

#[tokio::test]
async fn what_a_sender_of_another_domain_has_read_is_not_a_domains_to_tell() {
    let pushlark = of_two_domains().await;
    for (user, device) in [("bob@example.org", "bobs"), ("carol@example.com", "carols")] {
        let jid = format!("push.{}", user.split('@').next_back().unwrap());
        let enable =
            json!({"user": user, "jid": jid, "node": device, "form": {"service": "fcm", "device_id": planted(device)}});
        assert_eq!(post_as(&pushlark, "planted-all-secret", "/enable", enable).await.status, 200);
    }
    let message =
        |from: &str, to: &str| json!({"type": "message", "from": from, "to": to, "chat": "chat", "body": "Hi"});
    let badges = async |device| {
        pushlark.settled().await;
        let notified = pushlark.notifications(device).await;
        notified.iter().map(|entry| entry["notification"]["alert"]["badge"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let to_bob = message("carol@example.com/x", "bob@example.org");
    post_as(&pushlark, "planted-org-secret", "/events", to_bob.clone()).await;
    assert_eq!(badges("bobs").await, [1]);
    // Bob answers, as his own server tells, and as Carol's does: only the first says that he has read.
    let to_carol = message("bob@example.org/x", "carol@example.com");
    post_as(&pushlark, "planted-com-secret", "/events", to_carol).await;
    post_as(&pushlark, "planted-org-secret", "/events", to_bob).await;
    assert_eq!(badges("bobs").await, [1, 2]);
    assert_eq!(badges("carols").await, [1]);
}

#[tokio::test]
async fn a_domains_secret_asks_the_push_node_for_its_users_and_at_its_own_service() {
    let pushlark = of_two_domains().await;
    let create = |from: &str, to: &str| {
        json!({"stanza": format!("<iq type='set' id='1' from='{from}' to='{to}'>\
            <pubsub xmlns='http://jabber.org/protocol/pubsub'><create/></pubsub></iq>")})
    };
    for (from, to, is_taken) in [
        ("bob@example.com", "push.example.com", true),
        ("bob@example.com/x", "push.example.org", true),
        ("bob@example.org", "push.example.com", true),
        ("bob@example.org", "push.example.org", false),
        ("example.org", "push.xexample.com", false),
    ] {
        let reply = post_as(&pushlark, "planted-com-secret", "/pubsub", create(from, to)).await;
        let answer = reply.json()["stanza"].as_str().unwrap().to_owned();
        assert_eq!(!answer.contains("<forbidden "), is_taken, "{from} → {to}: {answer}");
    }
}

#[tokio::test]
async fn only_who_speaks_for_all_may_have_events_explained() {
    let pushlark = of_two_domains().await;
    let explain = json!({"explain": [{"type": "user_removed", "jid": "bob@example.com"}]});
    post_as(&pushlark, "planted-com-secret", "/explain", explain.clone()).await.problem(403);
    assert_eq!(post_as(&pushlark, "planted-all-secret", "/explain", explain).await.status, 200);
}

#[tokio::test]
async fn a_domain_that_sends_more_than_it_may_is_told_to_wait() {
    within_a_minute(flood_a_domain).await;
}

async fn flood_a_domain() {
    let settings = [("WEBHOOK_SECRET", "planted-all-secret"), ("RATE_LIMIT", "10")];
    let pushlark = Pushlark::with_settings(settings).await;
    let enable = |user: &str| json!({"user": user, "jid": "push.example.com", "node": "n"});
    let event = |to: Value| json!({"type": "message", "from": "a@b/c", "to": to, "chat": "chat", "body": "Hi"});
    let many: Vec<String> = (0..15).map(|n| format!("u{n}@flood.example")).collect();
    // What is at once counts as a whole.
    assert_eq!(post_as(&pushlark, "planted-all-secret", "/events", event(json!(many))).await.status, 202);
    let refused = [
        ("/events", event(json!("bob@flood.example"))),
        ("/events", event(json!(["bob@calm.example", "bob@flood.example"]))),
        ("/events", json!({"type": "presence", "jid": "bob@flood.example/x", "status": "online", "at": ago(1)})),
        ("/enable", enable("bob@flood.example")),
        ("/disable", enable("bob@flood.example")),
    ];
    for (path, request) in refused {
        let reply = post_as(&pushlark, "planted-all-secret", path, request).await;
        assert!(reply.problem(429).contains("flood.example"), "{}", reply.body);
        let wait: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    let iq = "<iq type='set' id='1' from='bob@flood.example'><enable xmlns='urn:xmpp:push:0' jid='push.example.org' node='n'/></iq>";
    let reply = send(pushlark.request("/enable", "application/xml", iq).bearer_auth("planted-all-secret")).await;
    assert!(reply.body.contains("<error type=\"wait\"><resource-constraint "), "{}", reply.body);
    // Others are not held up, and what was refused for another domain's sake is not counted as theirs.
    for _ in 0..10 {
        assert_eq!(post_as(&pushlark, "planted-all-secret", "/enable", enable("bob@calm.example")).await.status, 200);
    }
    post_as(&pushlark, "planted-all-secret", "/enable", enable("bob@calm.example")).await.problem(429);
}

#[tokio::test]
async fn all_that_is_taken_is_charged_to_a_domain() {
    within_a_minute(charge_each_kind).await;
}

async fn charge_each_kind() {
    let message = |content: &str, of: &str| json!({"type": "message", "from": "a@b/c", "to": of, "stanza": format!("<message type='{content}</message>")});
    let bob = "bob@flood.example";
    for event in [
        message("normal'><body>Hi</body>", bob),
        message("headline'><body>Hi</body>", bob),
        message("chat'><displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>", bob),
        json!({"type": "presence", "jid": format!("{bob}/x"), "status": "online", "at": ago(1)}),
        json!({"type": "read", "jid": bob, "conversation": "a@b"}),
    ] {
        let pushlark = Pushlark::with_settings([("RATE_LIMIT", "2")]).await;
        for _ in 0..2 {
            assert_eq!(pushlark.json("/events", event.clone()).await.status, 202, "{event}");
        }
        let detail = pushlark.json("/events", event.clone()).await.problem(429);
        assert!(detail.contains("flood.example"), "{event}: {detail}");
    }
    let pushlark = Pushlark::with_settings([("RATE_LIMIT", "2")]).await;
    let list = || pushlark.http.get(format!("{}/enable?user={bob}", pushlark.stack.url));
    for _ in 0..2 {
        assert_eq!(send(list()).await.status, 200);
    }
    send(list()).await.problem(429);
}

#[tokio::test]
async fn a_caller_charges_itself_and_never_a_domain_that_it_names() {
    within_a_minute(charge_as_others).await;
}

async fn charge_as_others() {
    let secrets = "evil.example=planted-evil-secret, victim.example=planted-victim-secret, planted-all-secret";
    let settings =
        [("WEBHOOK_SECRET", secrets), ("RATE_LIMIT", "3"), ("VIRTUAL_PUBSUB_HOSTS", "push.@HOST@,push.evil.example")];
    let pushlark = Pushlark::with_settings(settings).await;
    let info = |from: &str, to: &str| {
        json!({"stanza": format!("<iq type='get' id='1' from='{from}' to='{to}'>\
            <query xmlns='http://jabber.org/protocol/disco#info'/></iq>")})
    };
    let is_taken = async |secret: &str, from: &str, to: &str| {
        let reply = post_as(&pushlark, secret, "/pubsub", info(from, to)).await;
        let stanza = reply.json()["stanza"].as_str().unwrap().to_owned();
        assert!(stanza.contains("type=\"result\"") || stanza.contains("<resource-constraint "), "{stanza}");
        stanza.contains("type=\"result\"")
    };
    // Evil hosts the service, and may name whoever its chat server says that asks.
    for _ in 0..3 {
        assert!(is_taken("planted-evil-secret", "bob@victim.example", "push.evil.example").await);
    }
    assert!(!is_taken("planted-evil-secret", "carol@victim.example", "push.evil.example").await);
    assert!(!is_taken("planted-evil-secret", "eve@evil.example", "push.evil.example").await);
    // A message of no effect may be about others; it is evil's, too.
    let normal = json!({"type": "message", "from": "eve@evil.example/x", "to": "bob@victim.example",
        "stanza": "<message><body>Hi</body></message>"});
    post_as(&pushlark, "planted-evil-secret", "/events", normal).await.problem(429);
    assert!(is_taken("planted-victim-secret", "bob@victim.example", "push.victim.example").await);

    // With a secret for all domains each user who asks has an account.
    for _ in 0..3 {
        assert!(is_taken("planted-all-secret", "mallory@third.example/x", "push.evil.example").await);
    }
    assert!(!is_taken("planted-all-secret", "mallory@third.example/y", "push.evil.example").await);
    assert!(is_taken("planted-all-secret", "bob@third.example", "push.evil.example").await);
    let presence = json!({"type": "presence", "jid": "mallory@third.example/x", "status": "online"});
    assert_eq!(post_as(&pushlark, "planted-all-secret", "/events", presence).await.status, 202);
}
