//! What one request with very many recipients or domains takes, with the latency of AWS.

use std::time::Duration;

use axum::http::StatusCode;
use pushlark_http::{Access, Invocation};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tests::{Meter, Pushlark, eventually};
use time::OffsetDateTime;
use tokio::time::Instant;

/// What SQS and DynamoDB take for a call in these tests: more than they do, so that the machine's own time counts less.
const LATENCY: Duration = Duration::from_millis(60);

#[tokio::test]
async fn records_are_sent_side_by_side_and_none_is_lost() {
    let pushlark = Pushlark::start().await;
    let meter = Meter::start().await;
    meter.connect(&pushlark.stack.sqs_url);
    let sqs = pushlark.stack.sqs.config().to_builder().endpoint_url(&meter.url).build();
    let sqs = aws_sdk_sqs::Client::from_conf(sqs);
    let queue_url = sqs.create_queue().queue_name("many").send().await.unwrap().queue_url.unwrap();
    let mut environment = pushlark.stack.environment.clone();
    environment.extend([("QUEUE_URL", &queue_url)]);
    let dynamodb = pushlark.stack.dynamodb.clone();
    let ingest = ingest::Function::from_environment(&environment, Access::open(), dynamodb, sqs).unwrap();
    let users: Vec<_> = (0..1_500).map(|number| format!("u{number}@example.com")).collect();
    let event = json!({"type": "message", "from": "room@muc.example.com/alice", "to": users, "chat": "groupchat", "body": "Hi"});
    let events = to_raw_value(&vec![event; 24]).unwrap();
    meter.take();
    meter.delay(LATENCY);
    let begun = Instant::now();
    let answer = ingest.handle(Invocation::Direct(events)).await;
    let took = begun.elapsed();
    assert!(format!("{answer:?}").contains("accepted"), "{answer:?}");
    let calls = meter.take()["SendMessageBatch"];
    println!("{calls} calls took {took:?}, {} side by side", meter.most_running());
    assert!((4..=16).contains(&meter.most_running()), "{} side by side", meter.most_running());
    assert!(took < LATENCY * calls, "{took:?}");
    meter.delay(Duration::ZERO);
    let attributes = pushlark.stack.sqs.get_queue_attributes().queue_url(&queue_url);
    let attributes = attributes.attribute_names("ApproximateNumberOfMessages".into()).send().await.unwrap();
    let sent = &attributes.attributes.unwrap()[&"ApproximateNumberOfMessages".into()];
    assert_eq!(sent, &(24 * 1_500 / 25).to_string());
}

fn presence_in(domains: std::ops::Range<usize>) -> Value {
    let event = |number| json!({"type": "presence", "jid": format!("bob@d{number}.example/x"), "status": "offline"});
    domains.map(event).collect()
}

#[tokio::test]
async fn domains_are_counted_side_by_side_and_a_refused_request_counts_for_none() {
    // All of it within one of the minutes in which is counted.
    let second = || OffsetDateTime::now_utc().second();
    eventually("enough of a minute", async || (second() < 45).then_some(())).await;
    let (pushlark, meter) = Meter::with_settings([("RATE_LIMIT", "2")]).await;
    for _ in 0..2 {
        pushlark.event(presence_in(99..100)).await;
    }
    meter.take();
    meter.delay(LATENCY);
    // One domain is over its limit, so nothing is taken and nobody is charged, …
    let begun = Instant::now();
    for _ in 0..3 {
        let detail = pushlark.json("/events", presence_in(0..100)).await.problem(429);
        assert!(detail.contains("d99.example"), "{detail}");
    }
    let calls: u32 = meter.take().values().sum();
    println!("{calls} calls took {:?}, {} side by side", begun.elapsed(), meter.most_running());
    assert!((4..=32).contains(&meter.most_running()), "{} side by side", meter.most_running());
    assert!(begun.elapsed() < LATENCY * calls);
    meter.delay(Duration::ZERO);
    // … so that each of the others can send as much as ever.
    for _ in 0..2 {
        pushlark.event(presence_in(0..99)).await;
    }
    pushlark.json("/events", presence_in(0..1)).await.problem(429);
}

#[tokio::test]
async fn a_request_about_more_domains_than_are_counted_is_too_large() {
    let (pushlark, meter) = Meter::with_settings([("RATE_LIMIT", "1000")]).await;
    let many = |domains: usize| {
        let to: Vec<_> = (0..domains).map(|number| format!("bob@d{number}.example")).collect();
        json!({"type": "message", "from": "alice@example.com/pc", "to": to, "chat": "chat", "body": "Hi"})
    };
    let detail = pushlark.json("/events", many(1_001)).await.problem(StatusCode::PAYLOAD_TOO_LARGE.as_u16());
    assert!(detail.contains("1001 domains") && detail.contains("1000 are allowed"), "{detail}");
    assert!(meter.take().is_empty());
    assert_eq!(pushlark.json("/events", many(1_000)).await.status, 202);
    assert_eq!(meter.take()["UpdateItem"], 1_000);
    // Without a limit nothing is counted.
    let pushlark = Pushlark::start().await;
    assert_eq!(pushlark.json("/events", many(1_001)).await.status, 202);
}
