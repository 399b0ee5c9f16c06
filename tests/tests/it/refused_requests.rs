//! Log lines about refused requests: they have the reason but not the credential, and their number is limited.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use pushlark_webhooks::Key;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tests::{BOB, Event, PushRequest, Pushlark, XMPP, logged, send, stanza};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::access::ingest_without_secret;

const JWT_SECRET: &[u8] = b"canary-secret-of-thirty-two-bytes";
const JSON: &str = "application/json";

/// Starts a stack that accepts each kind of credential.
async fn start() -> Pushlark {
    let keys = json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(JWT_SECRET)}).to_string();
    Pushlark::with_settings([
        ("WEBHOOK_SECRET", "example.com=canary-com-secret, canary-all-secret"),
        ("SNS_PM_TOPIC", "arn:aws:sns:eu-west-1:123456789012:messages"),
        ("JWT_KEYS", &keys),
        ("JWT_ALGORITHM", "HS256"),
        ("JWT_ISSUER", "issuer"),
        ("JWT_AUDIENCE", "pushlark"),
    ])
    .await
}

fn token(user: &str, lifetime: i64) -> String {
    let expires = OffsetDateTime::now_utc().unix_timestamp() + lifetime;
    let claims = json!({"iss": "issuer", "aud": "pushlark", "exp": expires, "sub": user});
    encode(&Header::default(), &claims, &EncodingKey::from_secret(JWT_SECRET)).unwrap()
}

fn signed(request: RequestBuilder, key: &str, age: i64) -> RequestBuilder {
    let at = OffsetDateTime::now_utc().unix_timestamp() - age;
    let signature = Key::new(key).unwrap().sign("w1", at, b"{}");
    request.header("webhook-id", "w1").header("webhook-timestamp", at).header("webhook-signature", signature)
}

fn refusals(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["message"] == "a request is refused").collect()
}

#[tokio::test]
async fn each_reason_is_logged_without_the_credential() {
    let Some(lines) = logged("refused_requests::each_reason_is_logged_without_the_credential") else {
        let pushlark = start().await;
        let event = || pushlark.request("/events", JSON, "{}");
        let enable = || pushlark.request("/enable", JSON, "{}");
        let sns = |body: Value| {
            let request = pushlark.request("/events", "text/plain", body.to_string());
            request.header("x-amz-sns-message-type", "Notification")
        };
        let envelope = json!({"Type": "Notification", "MessageId": "1", "Message": "canary", "Timestamp": "t",
            "TopicArn": "arn:aws:sns:eu-west-1:123456789012:canary"});
        for refused in [
            event(),
            event().bearer_auth("canary-unknown-secret"),
            event().query(&[("token", "canary-unknown-secret")]),
            event().header("webhook-signature", "v1,canary"),
            signed(event(), "canary-all-secret", 1_000),
            signed(event(), "canary-unknown-secret", 0),
            sns(json!({"canary": "canary"})),
            sns(envelope),
            enable().bearer_auth("canary-unknown-secret"),
            enable().bearer_auth(token("canary@example.com", -60)),
        ] {
            send(refused).await.problem(401);
        }
        let event =
            json!({"headers": {"authorization": "Bearer canary"}, "requestContext": {"http": {"method": "POST"}}});
        ingest_without_secret(&pushlark).handle(serde_json::from_value(event).unwrap()).await;
        return;
    };
    let reasons: Vec<&str> = refusals(&lines).iter().map(|line| line["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        [
            "no credential",
            "unknown secret",
            "incomplete headers of a signature",
            "timestamp of a signature too far from now",
            "wrong signature",
            "not an SNS message",
            "the topic is not one of the configured SNS topics",
            "the credential is neither one of the secrets in WEBHOOK_SECRET nor a client's token",
            "the token has expired",
            "no secret is set",
        ]
    );
    for line in refusals(&lines) {
        assert_eq!((&line["level"], &line["status"]), (&json!("WARN"), &json!(401)), "{line}");
    }
}

/// Checks the only log line about a request for which the credential is not valid.
fn assert_forbidden(lines: &[Value], caller: &str, whom: &str) {
    let [line] = refusals(lines)[..] else { panic!("{lines:?}") };
    assert_eq!((&line["level"], &line["status"]), (&json!("WARN"), &json!(403)));
    assert_eq!(line["reason"], "the credential does not permit this request");
    assert_eq!(line["caller"], caller);
    assert_eq!(line["detail"], format!("the credential does not speak for {whom}"));
}

#[tokio::test]
async fn an_event_of_another_domain_is_logged_with_both_domains() {
    let Some(lines) = logged("refused_requests::an_event_of_another_domain_is_logged_with_both_domains") else {
        let event = Event::user_removed("bob@example.org").to_string();
        let pushlark = start().await;
        send(pushlark.request("/events", JSON, event).bearer_auth("canary-com-secret")).await.problem(403);
        return;
    };
    assert_forbidden(&lines, "example.com", "example.org");
}

#[tokio::test]
async fn an_iq_of_another_domain_is_logged_with_both_domains() {
    let Some(lines) = logged("refused_requests::an_iq_of_another_domain_is_logged_with_both_domains") else {
        let enable = stanza::enable("push.example.org", "n", "");
        let iq = stanza::iq("set", "bob@example.org", "bob@example.org", &enable);
        let pushlark = start().await;
        let request = pushlark.request("/enable", XMPP, iq).bearer_auth("canary-com-secret");
        assert!(send(request).await.body.contains("<forbidden "));
        return;
    };
    assert_forbidden(&lines, "example.com", "bob@example.org");
}

#[tokio::test]
async fn a_request_at_the_push_node_of_another_domain_is_logged() {
    let Some(lines) = logged("refused_requests::a_request_at_the_push_node_of_another_domain_is_logged") else {
        let iq = stanza::iq("set", "bob@example.org", "push.example.org", &stanza::create_node("n"));
        let pushlark = start().await;
        let request = pushlark.request("/pubsub", XMPP, iq).bearer_auth("canary-com-secret");
        assert!(send(request).await.body.contains("<forbidden "));
        return;
    };
    let [line] = refusals(&lines)[..] else { panic!("{lines:?}") };
    assert_eq!((&line["status"], &line["caller"]), (&json!(403), &json!("example.com")));
    assert_eq!(line["detail"], "the credential speaks neither for bob@example.org nor for push.example.org");
}

#[tokio::test]
async fn a_client_request_for_another_user_is_logged_with_both_users() {
    let Some(lines) = logged("refused_requests::a_client_request_for_another_user_is_logged_with_both_users") else {
        let disable = PushRequest::all_nodes(BOB).to_string();
        let eves = token("eve@example.com", 60);
        let pushlark = start().await;
        send(pushlark.request("/disable", JSON, disable).bearer_auth(eves)).await.problem(403);
        return;
    };
    assert_forbidden(&lines, "eve@example.com", BOB);
}

#[tokio::test]
async fn a_thousand_refused_requests_make_a_few_log_lines() {
    let Some(lines) = logged("refused_requests::a_thousand_refused_requests_make_a_few_log_lines") else {
        let (pushlark, begun) = (start().await, Instant::now());
        for number in 0..1_000 {
            let wrong = format!("canary-unknown-secret-{number}");
            send(pushlark.request("/events", JSON, "{}").bearer_auth(wrong)).await.problem(401);
        }
        println!("{}", json!({"seconds": begun.elapsed().as_secs()}));
        return;
    };
    let seconds = lines.iter().find_map(|line| line["seconds"].as_u64()).unwrap();
    let refusals = refusals(&lines);
    // One line at once, and one for each ten seconds.
    assert!((1..=2 + seconds as usize / 10).contains(&refusals.len()), "{} lines in {seconds} s", refusals.len());
    let left_out: u64 = refusals.iter().map(|line| line["left_out"].as_u64().unwrap()).sum();
    assert!(refusals.len() as u64 + left_out <= 1_000, "{left_out} requests without a line");
}
