//! Who may call, and for whom.

use aws_lc_rs::hmac;
use axum::Json;
use axum::Router;
use axum::routing::post;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use doubles::planted;
use pushlark_webhooks::Key;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tests::{Pushlark, Reply, ago, send, within_a_minute};
use time::OffsetDateTime;
use tokio::net::TcpListener;

const PATHS: [&str; 4] = ["/enable", "/disable", "/events", "/pubsub"];

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Signs a request by Standard Webhooks.
fn signed(request: RequestBuilder, key: &str, id: &str, at: i64, body: &str) -> RequestBuilder {
    let signature = Key::new(key).sign(id, at, body.as_bytes());
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
    let pushlark =
        Pushlark::with_settings([("WEBHOOK_SECRET", "planted-old, whsec_cGxhbnRlZC1uZXc=,planted-new")]).await;
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
        ("bearer", authorization("Bearer planted-new")),
        ("bearer, the older", authorization("bearer planted-old")),
        ("Basic of any user", authorization(&basic("any:planted-old"))),
        ("Basic of no user", authorization(&basic(":planted-new"))),
        ("token", query("planted-new")),
        ("Standard Webhooks", webhook("planted-old", "w1", at, body)),
        ("Standard Webhooks, whsec_", webhook("whsec_cGxhbnRlZC1uZXc=", "w1", at - 290, body)),
        ("hub signature", header("x-hub-signature-256", hub_signature("planted-old", body))),
        ("hub signature, whsec_", header("x-hub-signature-256", hub_signature("planted-new", body))),
    ];
    let wrong: Vec<(&str, Present)> = vec![
        ("none", Box::new(|r| r)),
        ("bearer of nobody", authorization("Bearer planted-older")),
        ("bearer, cut", authorization("Bearer planted-ol")),
        ("bearer, empty", authorization("Bearer ")),
        ("bearer, both", authorization("Bearer planted-old,planted-new")),
        ("bearer, in quotes", authorization("Bearer \"planted-old\"")),
        ("a scheme that is none", authorization("Token planted-old")),
        ("without a scheme", authorization("planted-old")),
        ("Basic, as the user", authorization(&basic("planted-old:x"))),
        ("Basic without a password", authorization(&basic("planted-old"))),
        ("Basic that is not base64", authorization("Basic planted-old")),
        ("token, empty", query("")),
        ("token of nobody", query("planted-older")),
        ("a right token beside a wrong bearer", {
            Box::new(|r| r.query(&[("token", "planted-old")]).bearer_auth("planted-older"))
        }),
        ("Standard Webhooks of another key", webhook("planted-older", "w1", at, body)),
        ("Standard Webhooks of another body", webhook("planted-old", "w1", at, "{} ")),
        ("Standard Webhooks, too old", webhook("planted-old", "w1", at - 400, body)),
        ("Standard Webhooks, of tomorrow", webhook("planted-old", "w1", at + 86_400, body)),
        ("Standard Webhooks of another id", {
            Box::new(move |r| {
                let signature = Key::new("planted-old").sign("w1", at, b"{}");
                r.header("webhook-id", "w2").header("webhook-timestamp", at).header("webhook-signature", signature)
            })
        }),
        ("Standard Webhooks, asymmetric", {
            Box::new(move |r| {
                let signature = Key::new("planted-old").sign("w1", at, b"{}").replace("v1,", "v1a,");
                r.header("webhook-id", "w1").header("webhook-timestamp", at).header("webhook-signature", signature)
            })
        }),
        ("Standard Webhooks without a time", {
            Box::new(move |r| {
                let signature = Key::new("planted-old").sign("w1", at, b"{}");
                r.header("webhook-id", "w1").header("webhook-signature", signature)
            })
        }),
        ("an id alone", header("webhook-id", "w1".into())),
        ("hub signature of another key", header("x-hub-signature-256", hub_signature("planted-older", body))),
        ("hub signature of another body", header("x-hub-signature-256", hub_signature("planted-old", "{} "))),
        ("hub signature without its name", {
            header("x-hub-signature-256", hub_signature("planted-old", body).replace("sha256=", ""))
        }),
        ("hub signature by SHA-1", header("x-hub-signature", "sha1=da39a3ee5e6b4b0d3255bfef95601890afd80709".into())),
        ("a secret as a domain's", authorization("Bearer planted-old=planted-old")),
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
    let ingest = ingest::Function { access: Access::of_secrets("").unwrap(), ..pushlark.stack.ingest.clone() };
    for headers in [json!({}), json!({"authorization": "Bearer "}), json!({"authorization": "Basic Og=="})] {
        let event = json!({"headers": headers, "requestContext": {"http": {"method": "POST"}}, "body": "{}"});
        let invocation: Invocation = serde_json::from_value(event).unwrap();
        let Answer::Http(response) = ingest.handle(invocation).await else { panic!() };
        assert_eq!(response.status_code, 401);
    }
}

#[tokio::test]
async fn a_credential_comes_before_everything_else() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "planted-secret")]).await;
    send(pushlark.http.get(format!("{}/events", pushlark.stack.url))).await.problem(401);
    pushlark.post("/events", "text/plain", "x".repeat(2 * 1024 * 1024)).await.problem(401);
}

#[tokio::test]
async fn a_secret_may_be_kept_in_secrets_manager() {
    let arn = "arn:aws:secretsmanager:us-east-1:000000000000:secret:webhook";
    let kept = json!({"ARN": arn, "SecretString": "planted-one,planted-two"});
    let secrets = Router::new().route("/", post(async move || Json(kept)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, secrets).await });

    let settings = [("WEBHOOK_SECRET", arn), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint.as_str())];
    let pushlark = Pushlark::with_settings(settings).await;
    let request = || pushlark.request("/enable", "application/json", "{}");
    send(request().bearer_auth(arn)).await.problem(401);
    send(request().bearer_auth("planted-two")).await.problem(400);
}

#[tokio::test]
async fn a_webhook_that_is_sent_again_notifies_nobody_twice() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "planted-secret")]).await;
    let enable = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "phone",
        "form": {"service": "fcm", "device_id": planted("phone")}});
    let enable = pushlark.request("/enable", "application/json", enable.to_string()).bearer_auth("planted-secret");
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
            let reply = send(signed(request, "planted-secret", id, now() - 100 + seconds_later, body)).await;
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
    let detail = send(signed(request, "planted-secret", &long, now(), &body)).await.problem(400);
    assert!(detail.contains("webhook-id"), "{detail}");
}

/// A stack with a secret for each of two domains, and one for all.
async fn of_two_domains() -> Pushlark {
    let secrets = "example.com=planted-com, example.org=planted-org, planted-all";
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
            let reply = post_as(&pushlark, "planted-com", path, request(domain)).await;
            let detail = reply.problem(403);
            assert!(detail.contains(domain), "{detail}");
        }
        for secret in ["planted-com", "planted-all"] {
            let reply = post_as(&pushlark, secret, path, request("Example.com")).await;
            assert!(reply.status < 300, "{}: {}", request("example.com"), reply.body);
        }
    }
    let form = "author=alice&server=example.org&receiver=bob&message=Hi";
    let reply = pushlark.request("/events", "application/x-www-form-urlencoded", form).bearer_auth("planted-com");
    send(reply).await.problem(403);

    // One of a batch that is not the caller's, and none is taken.
    let message = |to: &str| json!({"type": "message", "from": "a@b/c", "to": to, "chat": "chat", "body": "Hi"});
    let batch = json!([message("bob@example.com"), message("bob@example.org")]);
    let reply = post_as(&pushlark, "planted-com", "/events", batch).await;
    reply.problem(403);
    assert_eq!(reply.json()["errors"][0]["index"], 1);

    // An IQ is answered in kind.
    let iq = "<iq type='set' id='1' from='bob@example.org'><enable xmlns='urn:xmpp:push:0' jid='push.example.org' node='n'/></iq>";
    let reply = send(pushlark.request("/enable", "application/xml", iq).bearer_auth("planted-com")).await;
    assert!(reply.status == 200 && reply.body.contains("<error type=\"auth\"><forbidden "), "{}", reply.body);
}

#[tokio::test]
async fn what_a_sender_of_another_domain_has_read_is_not_a_domains_to_tell() {
    let pushlark = of_two_domains().await;
    for (user, device) in [("bob@example.org", "bobs"), ("carol@example.com", "carols")] {
        let jid = format!("push.{}", user.split('@').next_back().unwrap());
        let enable =
            json!({"user": user, "jid": jid, "node": device, "form": {"service": "fcm", "device_id": planted(device)}});
        assert_eq!(post_as(&pushlark, "planted-all", "/enable", enable).await.status, 200);
    }
    let message =
        |from: &str, to: &str| json!({"type": "message", "from": from, "to": to, "chat": "chat", "body": "Hi"});
    let badges = async |device| {
        pushlark.settled().await;
        let notified = pushlark.notifications(device).await;
        notified.iter().map(|entry| entry["notification"]["alert"]["badge"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let to_bob = message("carol@example.com/x", "bob@example.org");
    post_as(&pushlark, "planted-org", "/events", to_bob.clone()).await;
    assert_eq!(badges("bobs").await, [1]);
    // Bob answers, as his own server tells, and as Carol's does: only the first says that he has read.
    let to_carol = message("bob@example.org/x", "carol@example.com");
    post_as(&pushlark, "planted-com", "/events", to_carol).await;
    post_as(&pushlark, "planted-org", "/events", to_bob).await;
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
        let reply = post_as(&pushlark, "planted-com", "/pubsub", create(from, to)).await;
        let answer = reply.json()["stanza"].as_str().unwrap().to_owned();
        assert_eq!(!answer.contains("<forbidden "), is_taken, "{from} → {to}: {answer}");
    }
}

#[tokio::test]
async fn only_who_speaks_for_all_may_have_events_explained() {
    let pushlark = of_two_domains().await;
    let explain = json!({"explain": [{"type": "user_removed", "jid": "bob@example.com"}]});
    post_as(&pushlark, "planted-com", "/explain", explain.clone()).await.problem(403);
    assert_eq!(post_as(&pushlark, "planted-all", "/explain", explain).await.status, 200);
}

#[tokio::test]
async fn a_domain_that_sends_more_than_it_may_is_told_to_wait() {
    within_a_minute(flood_a_domain).await;
}

async fn flood_a_domain() {
    let settings = [("WEBHOOK_SECRET", "planted-all"), ("RATE_LIMIT", "10")];
    let pushlark = Pushlark::with_settings(settings).await;
    let enable = |user: &str| json!({"user": user, "jid": "push.example.com", "node": "n"});
    let event = |to: Value| json!({"type": "message", "from": "a@b/c", "to": to, "chat": "chat", "body": "Hi"});
    let many: Vec<String> = (0..15).map(|n| format!("u{n}@flood.example")).collect();
    // What is at once counts as a whole.
    assert_eq!(post_as(&pushlark, "planted-all", "/events", event(json!(many))).await.status, 202);
    let refused = [
        ("/events", event(json!("bob@flood.example"))),
        ("/events", event(json!(["bob@calm.example", "bob@flood.example"]))),
        ("/events", json!({"type": "presence", "jid": "bob@flood.example/x", "status": "online", "at": ago(1)})),
        ("/enable", enable("bob@flood.example")),
        ("/disable", enable("bob@flood.example")),
    ];
    for (path, request) in refused {
        let reply = post_as(&pushlark, "planted-all", path, request).await;
        assert!(reply.problem(429).contains("flood.example"), "{}", reply.body);
        let wait: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    let iq = "<iq type='set' id='1' from='bob@flood.example'><enable xmlns='urn:xmpp:push:0' jid='push.example.org' node='n'/></iq>";
    let reply = send(pushlark.request("/enable", "application/xml", iq).bearer_auth("planted-all")).await;
    assert!(reply.body.contains("<error type=\"wait\"><resource-constraint "), "{}", reply.body);
    // Others are not held up, and what was refused for another domain's sake is not counted as theirs.
    for _ in 0..10 {
        assert_eq!(post_as(&pushlark, "planted-all", "/enable", enable("bob@calm.example")).await.status, 200);
    }
    post_as(&pushlark, "planted-all", "/enable", enable("bob@calm.example")).await.problem(429);
}
