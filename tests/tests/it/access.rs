//! Credentials of requests, and the users for which they are valid.

use aws_config::SdkConfig;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use doubles::SecretsManager;
use local::Stack;
use pushlark_access::Access;
use pushlark_http::Init;
use pushlark_webhooks::Key;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tests::{BOB, CAROL, Event, PUSH_HOST, PushRequest, Pushlark, eventually, send, stanza};
use time::OffsetDateTime;

const PATHS: [&str; 4] = ["/enable", "/disable", "/events", "/pubsub"];

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Signs a request as Standard Webhooks specifies.
fn signed(request: RequestBuilder, key: &str, id: &str, at: i64, body: &str) -> RequestBuilder {
    let signature = Key::new(key).unwrap().sign(id, at, body.as_bytes());
    request.header("webhook-id", id).header("webhook-timestamp", at).header("webhook-signature", signature)
}

/// Returns the `X-Hub-Signature-256` of a body.
fn hub_signature(key: &str, body: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), body.as_bytes());
    let hexadecimal: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hexadecimal}")
}

#[tokio::test]
async fn each_kind_of_credential_is_accepted_if_valid_and_refused_if_not() {
    let pushlark = Pushlark::with_settings([(
        "WEBHOOK_SECRET",
        "canary-old-secret, whsec_Y2FuYXJ5LW5leHQtc2VjcmV0,canary-next-secret",
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
        ("bearer", authorization("Bearer canary-next-secret")),
        ("bearer, the older secret", authorization("bearer canary-old-secret")),
        ("Basic of any user", authorization(&basic("any:canary-old-secret"))),
        ("Basic of no user", authorization(&basic(":canary-next-secret"))),
        ("token", query("canary-next-secret")),
        ("Standard Webhooks", webhook("canary-old-secret", "w1", at, body)),
        ("Standard Webhooks, whsec_", webhook("whsec_Y2FuYXJ5LW5leHQtc2VjcmV0", "w1", at - 290, body)),
        ("hub signature", header("x-hub-signature-256", hub_signature("canary-old-secret", body))),
        ("hub signature, whsec_", header("x-hub-signature-256", hub_signature("canary-next-secret", body))),
    ];
    let wrong: Vec<(&str, Present)> = vec![
        ("none", Box::new(|r| r)),
        ("unknown bearer", authorization("Bearer canary-older-secret")),
        ("bearer, cut", authorization("Bearer canary-ol")),
        ("bearer, empty", authorization("Bearer ")),
        ("bearer, both", authorization("Bearer canary-old-secret,canary-next-secret")),
        ("bearer, in quotes", authorization("Bearer \"canary-old-secret\"")),
        ("an unknown scheme", authorization("Token canary-old-secret")),
        ("without a scheme", authorization("canary-old-secret")),
        ("Basic, as the user", authorization(&basic("canary-old-secret:x"))),
        ("Basic without a password", authorization(&basic("canary-old-secret"))),
        ("Basic that is not base64", authorization("Basic canary-old-secret")),
        ("token, empty", query("")),
        ("unknown token", query("canary-older-secret")),
        ("a valid token and an unknown bearer", {
            Box::new(|r| r.query(&[("token", "canary-old-secret")]).bearer_auth("canary-older-secret"))
        }),
        ("Standard Webhooks of another key", webhook("canary-older-secret", "w1", at, body)),
        ("Standard Webhooks of another body", webhook("canary-old-secret", "w1", at, "{} ")),
        ("Standard Webhooks, too old", webhook("canary-old-secret", "w1", at - 400, body)),
        ("Standard Webhooks, in the future", webhook("canary-old-secret", "w1", at + 86_400, body)),
        ("Standard Webhooks of another id", {
            Box::new(move |r| {
                let signature = Key::new("canary-old-secret").unwrap().sign("w1", at, b"{}");
                r.header("webhook-id", "w2").header("webhook-timestamp", at).header("webhook-signature", signature)
            })
        }),
        ("Standard Webhooks, asymmetric", {
            Box::new(move |r| {
                let signature = Key::new("canary-old-secret").unwrap().sign("w1", at, b"{}").replace("v1,", "v1a,");
                r.header("webhook-id", "w1").header("webhook-timestamp", at).header("webhook-signature", signature)
            })
        }),
        ("Standard Webhooks without a time", {
            Box::new(move |r| {
                let signature = Key::new("canary-old-secret").unwrap().sign("w1", at, b"{}");
                r.header("webhook-id", "w1").header("webhook-signature", signature)
            })
        }),
        ("only an id", header("webhook-id", "w1".into())),
        ("hub signature of another key", header("x-hub-signature-256", hub_signature("canary-older-secret", body))),
        ("hub signature of another body", header("x-hub-signature-256", hub_signature("canary-old-secret", "{} "))),
        ("hub signature without its name", {
            header("x-hub-signature-256", hub_signature("canary-old-secret", body).replace("sha256=", ""))
        }),
        ("hub signature by SHA-1", header("x-hub-signature", "sha1=da39a3ee5e6b4b0d3255bfef95601890afd80709".into())),
        ("a secret in the format of a domain's secret", authorization("Bearer canary-old-secret=canary-old-secret")),
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

/// Returns the ingest function of a stack as it is deployed without `WEBHOOK_SECRET`.
pub fn ingest_without_secret(pushlark: &Pushlark) -> ingest::Function {
    let Stack { environment, dynamodb, sqs, .. } = &pushlark.stack;
    let (environment, access) = (environment.clone(), Access::of_secrets("").unwrap());
    let init = Init { environment, aws: SdkConfig::builder().build(), access };
    ingest::Function::from_environment(&init, dynamodb.clone(), sqs.clone()).unwrap()
}

#[tokio::test]
async fn a_deployed_function_without_a_secret_refuses_every_request() {
    let pushlark = Pushlark::start().await;
    let ingest = ingest_without_secret(&pushlark);
    for headers in [json!({}), json!({"authorization": "Bearer "}), json!({"authorization": "Basic Og=="})] {
        let event = json!({"headers": headers, "requestContext": {"http": {"method": "POST"}}, "body": "{}"});
        let invocation: pushlark_http::Invocation = serde_json::from_value(event).unwrap();
        let pushlark_http::Answer::Http(response) = ingest.handle(invocation).await else { panic!() };
        assert_eq!(response.status_code, 401);
    }
}

#[tokio::test]
async fn the_credential_is_checked_before_the_rest_of_a_request() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "canary-secret-key")]).await;
    send(pushlark.http.get(format!("{}/events", pushlark.stack.url))).await.problem(401);
    pushlark.post("/events", "text/plain", "x".repeat(1024 * 1024)).await.problem(401);
    // Only the size is checked before, since a signature covers the whole body.
    let large = pushlark.request("/events", "text/plain", "x".repeat(1024 * 1024 + 1));
    send(signed(large, "canary-wrong-secret", "w1", now(), "")).await.problem(413);
    pushlark.post("/events", "application/octet-stream", vec![0xff; 1024 * 1024 + 1]).await.problem(413);
    pushlark.post("/events", "application/octet-stream", vec![0xff; 1024 * 1024]).await.problem(401);
}

fn settings(secrets_manager: &SecretsManager) -> [(&'static str, &str); 2] {
    [("WEBHOOK_SECRET", SecretsManager::ARN), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &secrets_manager.url)]
}

#[tokio::test]
async fn a_secret_is_read_from_secrets_manager() {
    let stored = SecretsManager::start("canary-first-secret,canary-second-secret").await;
    let pushlark = Pushlark::with_settings(settings(&stored)).await;
    let request = || pushlark.request("/enable", "application/json", "{}");
    send(request().bearer_auth(SecretsManager::ARN)).await.problem(401);
    send(request().bearer_auth("canary-second-secret")).await.problem(400);
}

#[tokio::test]
async fn a_changed_secret_is_read_without_a_restart() {
    let stored = SecretsManager::start("canary-first-secret,canary-second-secret").await;
    let pushlark = Pushlark::with_settings(settings(&stored)).await;
    let (path, body) = ("/enable", "{}");
    let request = || pushlark.request(path, "application/json", body);
    let at_start = stored.arrived();
    send(request()).await.problem(401);
    send(signed(request(), "canary-third-secret", "w1", now() - 1_000, body)).await.problem(401);
    assert_eq!(
        stored.arrived(),
        at_start,
        "a request without a credential or with an old timestamp does not cause a read"
    );

    stored.put("canary-second-secret,canary-third-secret");
    send(signed(request(), "canary-third-secret", "w1", now(), body)).await.problem(400);
    send(request().bearer_auth("canary-third-secret")).await.problem(400);
    send(request().bearer_auth("canary-second-secret")).await.problem(400);
    send(request().bearer_auth("canary-first-secret")).await.problem(401);

    // Each function reads the secret at most once in ten seconds, however many unknown credentials there are.
    let reads = stored.arrived();
    for _ in 0..20 {
        send(request().bearer_auth("canary-unknown-secret")).await.problem(401);
    }
    assert!(stored.arrived() <= reads + 1, "{} reads", stored.arrived() - reads);

    // An invalid value is ignored.
    stored.put("short");
    eventually("another read", async || {
        send(request().bearer_auth("canary-unknown-secret")).await.problem(401);
        (stored.arrived() > reads + 1).then_some(())
    })
    .await;
    send(request().bearer_auth("canary-third-secret")).await.problem(400);
}

#[tokio::test]
async fn a_signed_request_to_enable_is_not_valid_to_disable() {
    const KEY: &str = "canary-secret-key";
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", KEY)]).await;
    let enable = PushRequest::new(BOB, "phone").device("phone");
    let bound = |command: &str| PushRequest::new(BOB, "phone").with("type", command).to_string();
    let post = async |path: &str, body: &str| {
        let request = pushlark.request(path, "application/json", body.to_owned());
        send(signed(request, KEY, "w1", now(), body)).await
    };
    let registered = async || pushlark.registrations(BOB).await.len();
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
    // A command is not valid as an event, or an event as a command.
    post("/events", &bound("enable")).await.problem(400);
    let event = json!({"type": "user_removed", "user": BOB, "jid": BOB, "node": "phone"});
    post("/enable", &event.to_string()).await.problem(400);
}

#[tokio::test]
async fn a_repeated_webhook_notifies_once() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "canary-secret-key")]).await;
    let enable = PushRequest::new(BOB, "phone").device("phone");
    let enable = pushlark.request("/enable", "application/json", enable.to_string()).bearer_auth("canary-secret-key");
    assert_eq!(send(enable).await.status, 200);
    let message = |body: &str| Event::message(BOB, body);
    let given = Event::message(BOB, "three").id("m1");
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
            let reply = send(signed(request, "canary-secret-key", id, now() - 100 + seconds_later, body)).await;
            assert_eq!((reply.status, &reply.json()["ids"]), (202, &json!(ids)), "{}", reply.body);
        }
    }
    pushlark.settled().await;
    assert_eq!(pushlark.sorted_alerts("phone").await, ["five", "four", "one", "six", "three", "two"]);
    let long = "i".repeat(257);
    let body = message("x").to_string();
    let request = pushlark.request("/events", "application/json", body.clone());
    let detail = send(signed(request, "canary-secret-key", &long, now(), &body)).await.problem(400);
    assert!(detail.contains("webhook-id"), "{detail}");
}

/// Starts a stack with a secret for each of two domains and one for all domains.
async fn of_two_domains() -> Pushlark {
    let secrets = "example.com=canary-com-secret, example.org=canary-org-secret, canary-all-secret";
    Pushlark::with_settings([("WEBHOOK_SECRET", secrets), ("UNREAD_COUNTS", "on")]).await
}

#[tokio::test]
async fn the_secret_of_a_domain_is_valid_for_its_users_only() {
    let pushlark = of_two_domains().await;
    type RequestOf = fn(domain: &str) -> Value;
    let requests: [(&str, RequestOf); 10] = [
        ("/events", |domain| Event::message(format!("bob@{domain}"), "Hi").from("eve@evil.example/x").into()),
        ("/events", |domain| Event::message(["u@example.com", &format!("bob@{domain}")], "Hi").from("a@b/c").into()),
        ("/events", |domain| Event::unacknowledged(&format!("bob@{domain}/x"), "Hi").from("a@b/c").into()),
        ("/events", |domain| Event::presence(&format!("bob@{domain}/x"), "online").into()),
        ("/events", |domain| Event::read(&format!("bob@{domain}"), "a@b").into()),
        ("/events", |domain| Event::user_removed(&format!("bob@{domain}")).into()),
        ("/events", |domain| Event::domain_removed(domain).into()),
        ("/events", |domain| json!({"user_id": format!("bob@{domain}"), "present": true})),
        ("/enable", |domain| PushRequest::new(&format!("bob@{domain}"), "n").at(PUSH_HOST).into()),
        ("/disable", |domain| PushRequest::all_nodes(&format!("bob@{domain}")).at(PUSH_HOST).into()),
    ];
    for (path, request) in requests {
        for domain in ["example.org", "sub.example.com", "xexample.com", "com"] {
            let reply = pushlark.json_as("canary-com-secret", path, request(domain)).await;
            let detail = reply.problem(403);
            assert!(detail.contains(domain), "{detail}");
        }
        for secret in ["canary-com-secret", "canary-all-secret"] {
            let reply = pushlark.json_as(secret, path, request("Example.com")).await;
            assert!(reply.status < 300, "{}: {}", request("example.com"), reply.body);
        }
    }
    let form = "author=alice&server=example.org&receiver=bob&message=Hi";
    let reply = pushlark.request("/events", "application/x-www-form-urlencoded", form).bearer_auth("canary-com-secret");
    send(reply).await.problem(403);

    // One event of another domain refuses the whole batch.
    let message = |to: &str| Event::message(to, "Hi").from("a@b/c");
    let batch = json!([message(BOB), message("bob@example.org")]);
    let reply = pushlark.json_as("canary-com-secret", "/events", batch).await;
    reply.problem(403);
    assert_eq!(reply.json()["errors"][0]["index"], 1);

    // An IQ is answered with an IQ.
    let iq = stanza::iq("set", "bob@example.org", "bob@example.org", &stanza::enable("push.example.org", "n", ""));
    let reply = send(pushlark.request("/enable", "application/xml", iq).bearer_auth("canary-com-secret")).await;
    assert!(reply.status == 200 && reply.body.contains("<error type=\"auth\"><forbidden "), "{}", reply.body);
}

#[tokio::test]
async fn a_message_from_another_domain_marks_nothing_as_read() {
    let pushlark = of_two_domains().await;
    for (user, device) in [("bob@example.org", "bobs"), (CAROL, "carols")] {
        let enable = PushRequest::new(user, device).device(device);
        assert_eq!(pushlark.json_as("canary-all-secret", "/enable", enable).await.status, 200);
    }
    let message = |from: &str, to: &str| Event::message(to, "Hi").from(from);
    let badges = async |device| {
        pushlark.settled().await;
        let notified = pushlark.notifications(device).await;
        notified.iter().map(|entry| entry["notification"]["alert"]["badge"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let to_bob = message("carol@example.com/x", "bob@example.org");
    pushlark.json_as("canary-org-secret", "/events", to_bob.clone()).await;
    assert_eq!(badges("bobs").await, [1]);
    // Both his own server and Carol's report that Bob answers: only the event of his own server marks the chat as read.
    let to_carol = message("bob@example.org/x", CAROL);
    pushlark.json_as("canary-com-secret", "/events", to_carol).await;
    pushlark.json_as("canary-org-secret", "/events", to_bob).await;
    assert_eq!(badges("bobs").await, [1, 2]);
    assert_eq!(badges("carols").await, [1]);
}

#[tokio::test]
async fn the_secret_of_a_domain_is_valid_at_its_push_node_and_for_its_users() {
    let pushlark = of_two_domains().await;
    let create = |from: &str, to: &str| json!({"stanza": stanza::iq("set", from, to, &stanza::pubsub("<create/>"))});
    for (from, to, is_accepted) in [
        (BOB, "push.example.com", true),
        ("bob@example.com/x", "push.example.org", true),
        ("bob@example.org", "push.example.com", true),
        ("bob@example.org", "push.example.org", false),
        ("example.org", "push.xexample.com", false),
    ] {
        let reply = pushlark.json_as("canary-com-secret", "/pubsub", create(from, to)).await;
        let answer = reply.json()["stanza"].as_str().unwrap().to_owned();
        assert_eq!(!answer.contains("<forbidden "), is_accepted, "{from} → {to}: {answer}");
    }
}

#[tokio::test]
async fn explain_needs_a_secret_for_all_domains() {
    let pushlark = of_two_domains().await;
    let explain = json!({"explain": [{"type": "user_removed", "jid": "bob@example.com"}]});
    pushlark.json_as("canary-com-secret", "/explain", explain.clone()).await.problem(403);
    assert_eq!(pushlark.json_as("canary-all-secret", "/explain", explain).await.status, 200);
}
