//! Who may call.

use axum::Json;
use axum::Router;
use axum::routing::post;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_webhooks::Key;
use serde_json::json;
use tests::{Pushlark, send};
use time::OffsetDateTime;
use tokio::net::TcpListener;

const PATHS: [&str; 3] = ["/enable", "/disable", "/events"];

#[tokio::test]
async fn a_stack_with_a_secret_refuses_whoever_does_not_know_it() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "planted-old,planted-new")]).await;
    for path in PATHS {
        let request = || pushlark.request(path, "application/json", "{}");
        let wrong = [
            request(),
            request().bearer_auth("planted-older"),
            request().basic_auth("planted-new", Some("planted-x")),
            request().query(&[("token", "")]),
        ];
        for request in wrong {
            let reply = send(request).await;
            reply.problem(401);
            assert!(reply.headers.contains_key("www-authenticate"));
        }
        let right = [
            request().bearer_auth("planted-new"),
            request().basic_auth("any", Some("planted-old")),
            request().header("authorization", format!("basic {}", BASE64_STANDARD.encode("any:planted-new"))),
            request().query(&[("token", "planted-old")]),
        ];
        for request in right {
            send(request).await.problem(400);
        }
    }
}

#[tokio::test]
async fn a_signed_webhook_is_taken_once_its_body_and_time_are_what_was_signed() {
    let pushlark = Pushlark::with_settings([("WEBHOOK_SECRET", "planted-old,whsec_cGxhbnRlZC1uZXc=")]).await;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let signed = |key: &str, at: i64, body: &'static str| {
        let signature = Key::new(key).sign("w1", at, b"{}");
        let request = pushlark.request("/events", "application/json", body);
        request.header("webhook-id", "w1").header("webhook-timestamp", at).header("webhook-signature", signature)
    };
    for (key, at, body) in [("planted-older", now, "{}"), ("planted-old", now - 400, "{}"), ("planted-old", now, "[]")]
    {
        send(signed(key, at, body)).await.problem(401);
    }
    for key in ["planted-old", "whsec_cGxhbnRlZC1uZXc=", "planted-new"] {
        send(signed(key, now, "{}")).await.problem(400);
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
    let secrets = Router::new()
        .route("/", post(async move || Json(json!({"ARN": arn, "SecretString": "planted-one,planted-two"}))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, secrets).await });

    let settings = [("WEBHOOK_SECRET", arn), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint.as_str())];
    let pushlark = Pushlark::with_settings(settings).await;
    let request = || pushlark.request("/enable", "application/json", "{}");
    send(request().bearer_auth(arn)).await.problem(401);
    send(request().bearer_auth("planted-two")).await.problem(400);
}
