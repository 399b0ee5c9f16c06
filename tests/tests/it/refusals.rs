//! Refused requests in the log: with the reason, without the credential, and not more than a few lines.

use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use local::Stack;
use pushlark_http::{Access, Invocation};
use pushlark_webhooks::Key;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tests::{Pushlark, logged, send};
use time::OffsetDateTime;

const JWT_SECRET: &[u8] = b"planted-secret-of-thirty-two-bytes";
const JSON: &str = "application/json";

/// A stack that takes each kind of credential.
async fn start() -> Pushlark {
    let keys = json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(JWT_SECRET)}).to_string();
    Pushlark::with_settings([
        ("WEBHOOK_SECRET", "example.com=planted-com-secret, planted-all-secret"),
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
    let Some(lines) = logged("refusals::each_reason_is_logged_without_the_credential") else {
        let pushlark = start().await;
        let event = || pushlark.request("/events", JSON, "{}");
        let enable = || pushlark.request("/enable", JSON, "{}");
        let sns = |body: Value| {
            let request = pushlark.request("/events", "text/plain", body.to_string());
            request.header("x-amz-sns-message-type", "Notification")
        };
        let envelope = json!({"Type": "Notification", "MessageId": "1", "Message": "planted", "Timestamp": "t",
            "TopicArn": "arn:aws:sns:eu-west-1:123456789012:planted"});
        for refused in [
            event(),
            event().bearer_auth("planted-unknown-secret"),
            event().query(&[("token", "planted-unknown-secret")]),
            event().header("webhook-signature", "v1,planted"),
            signed(event(), "planted-all-secret", 1_000),
            signed(event(), "planted-unknown-secret", 0),
            sns(json!({"planted": "planted"})),
            sns(envelope),
            enable().bearer_auth("planted-unknown-secret"),
            enable().bearer_auth(token("planted@example.com", -60)),
        ] {
            send(refused).await.problem(401);
        }
        let (Stack { environment, dynamodb, sqs, .. }, access) = (&pushlark.stack, Access::of_secrets("").unwrap());
        let ingest = ingest::Function::from_environment(environment, access, dynamodb.clone(), sqs.clone()).unwrap();
        let event =
            json!({"headers": {"authorization": "Bearer planted"}, "requestContext": {"http": {"method": "POST"}}});
        ingest.handle(serde_json::from_value::<Invocation>(event).unwrap()).await;
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
            "no message of SNS",
            "the topic is none of the SNS topics of the settings",
            "the credential is neither one of the secrets in WEBHOOK_SECRET nor a client's token",
            "the token has expired",
            "no secret is set",
        ]
    );
    for line in refusals(&lines) {
        assert_eq!((&line["level"], &line["status"]), (&json!("WARN"), &json!(401)), "{line}");
    }
}

/// What is logged of requests for what the credential is not good for.
fn assert_not_good(lines: &[Value], caller: &str, whom: &str) {
    let [line] = refusals(lines)[..] else { panic!("{lines:?}") };
    assert_eq!((&line["level"], &line["status"]), (&json!("WARN"), &json!(403)));
    assert_eq!(line["reason"], "the credential is not good for this");
    assert_eq!(line["caller"], caller);
    assert_eq!(line["detail"], format!("the credential does not speak for {whom}"));
}

#[tokio::test]
async fn an_event_of_another_domain_is_logged_with_both_domains() {
    let Some(lines) = logged("refusals::an_event_of_another_domain_is_logged_with_both_domains") else {
        let event = json!({"type": "user_removed", "jid": "bob@example.org"}).to_string();
        let pushlark = start().await;
        send(pushlark.request("/events", JSON, event).bearer_auth("planted-com-secret")).await.problem(403);
        return;
    };
    assert_not_good(&lines, "example.com", "example.org");
}

#[tokio::test]
async fn an_iq_of_another_domain_is_logged_with_both_domains() {
    let Some(lines) = logged("refusals::an_iq_of_another_domain_is_logged_with_both_domains") else {
        let iq = "<iq type='set' id='1' from='bob@example.org'>\
                  <enable xmlns='urn:xmpp:push:0' jid='push.example.org' node='n'/></iq>";
        let pushlark = start().await;
        let request = pushlark.request("/enable", "text/xml", iq).bearer_auth("planted-com-secret");
        assert!(send(request).await.body.contains("<forbidden "));
        return;
    };
    assert_not_good(&lines, "example.com", "bob@example.org");
}

#[tokio::test]
async fn a_request_at_the_push_node_of_another_domain_is_logged() {
    let Some(lines) = logged("refusals::a_request_at_the_push_node_of_another_domain_is_logged") else {
        let iq = "<iq type='set' id='1' from='bob@example.org' to='push.example.org'>\
                  <pubsub xmlns='http://jabber.org/protocol/pubsub'><create node='n'/></pubsub></iq>";
        let pushlark = start().await;
        let request = pushlark.request("/pubsub", "text/xml", iq).bearer_auth("planted-com-secret");
        assert!(send(request).await.body.contains("<forbidden "));
        return;
    };
    let [line] = refusals(&lines)[..] else { panic!("{lines:?}") };
    assert_eq!((&line["status"], &line["caller"]), (&json!(403), &json!("example.com")));
    assert_eq!(line["detail"], "the credential speaks neither for bob@example.org nor for push.example.org");
}

#[tokio::test]
async fn a_client_that_asks_for_another_user_is_logged_with_both_users() {
    let Some(lines) = logged("refusals::a_client_that_asks_for_another_user_is_logged_with_both_users") else {
        let disable = json!({"user": "bob@example.com", "jid": "push.example.com"}).to_string();
        let eves = token("eve@example.com", 60);
        let pushlark = start().await;
        send(pushlark.request("/disable", JSON, disable).bearer_auth(eves)).await.problem(403);
        return;
    };
    assert_not_good(&lines, "eve@example.com", "bob@example.com");
}

#[tokio::test]
async fn a_thousand_refused_requests_are_a_few_lines() {
    let Some(lines) = logged("refusals::a_thousand_refused_requests_are_a_few_lines") else {
        let (pushlark, begun) = (start().await, Instant::now());
        for number in 0..1_000 {
            let wrong = format!("planted-unknown-secret-{number}");
            send(pushlark.request("/events", JSON, "{}").bearer_auth(wrong)).await.problem(401);
        }
        println!("{}", json!({"seconds": begun.elapsed().as_secs()}));
        return;
    };
    let seconds = lines.iter().find_map(|line| line["seconds"].as_u64()).unwrap();
    let refusals = refusals(&lines);
    // One at once, and one for each ten seconds.
    assert!((1..=2 + seconds as usize / 10).contains(&refusals.len()), "{} lines in {seconds} s", refusals.len());
    let left_out: u64 = refusals.iter().map(|line| line["left_out"].as_u64().unwrap()).sum();
    assert!(refusals.len() as u64 + left_out <= 1_000, "{left_out} were left out");
}
