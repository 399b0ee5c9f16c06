//! The duration of requests with many recipients or domains, with a latency like that of AWS.

use std::time::Duration;

use aws_config::SdkConfig;
use axum::http::StatusCode;
use pushlark_access::Access;
use pushlark_http::{Init, Invocation};
use serde_json::Value;
use serde_json::value::to_raw_value;
use tests::{CallCounter, Event, Pushlark, ROOM_OCCUPANT, eventually};
use time::OffsetDateTime;
use tokio::time::Instant;

/// The latency of a call of SQS or DynamoDB. It is higher than on AWS, so that the time of this machine matters less.
const LATENCY: Duration = Duration::from_millis(60);

#[tokio::test]
async fn records_are_sent_side_by_side_and_none_is_lost() {
    let pushlark = Pushlark::start().await;
    let counter = CallCounter::start().await;
    counter.connect(&pushlark.stack.sqs_url);
    let sqs = pushlark.stack.sqs.config().to_builder().endpoint_url(&counter.url).build();
    let sqs = aws_sdk_sqs::Client::from_conf(sqs);
    let queue_url = sqs.create_queue().queue_name("many").send().await.unwrap().queue_url.unwrap();
    let mut environment = pushlark.stack.environment.clone();
    environment.extend([("QUEUE_URL", &queue_url)]);
    let dynamodb = pushlark.stack.dynamodb.clone();
    let init = Init { environment, aws: SdkConfig::builder().build(), access: Access::open() };
    let ingest = ingest::Function::from_environment(&init, dynamodb, sqs).unwrap();
    let event = |room: usize| {
        let users: Vec<_> = (0..1_500).map(|number| format!("u{number}@d{room}.example")).collect();
        Event::groupchat(ROOM_OCCUPANT, users, "Hi")
    };
    let events = to_raw_value(&(0..24).map(event).collect::<Vec<_>>()).unwrap();
    counter.take();
    counter.delay(LATENCY);
    let begun = Instant::now();
    let answer = ingest.handle(Invocation::Direct(events)).await;
    let took = begun.elapsed();
    assert!(format!("{answer:?}").contains("accepted"), "{answer:?}");
    let calls = counter.take()["SendMessageBatch"];
    println!("{calls} calls took {took:?}, {} side by side", counter.most_running());
    assert!((4..=16).contains(&counter.most_running()), "{} side by side", counter.most_running());
    assert!(took < LATENCY * calls, "{took:?}");
    counter.delay(Duration::ZERO);
    let attributes = pushlark.stack.sqs.get_queue_attributes().queue_url(&queue_url);
    let attributes = attributes.attribute_names("ApproximateNumberOfMessages".into()).send().await.unwrap();
    let sent = &attributes.attributes.unwrap()[&"ApproximateNumberOfMessages".into()];
    assert_eq!(sent, &(24 * 1_500 / 25).to_string());
}

fn presence_in(domains: std::ops::Range<usize>) -> Value {
    let event = |number| Event::presence(&format!("bob@d{number}.example/x"), "offline");
    domains.map(event).collect()
}

#[tokio::test]
async fn domains_are_counted_side_by_side_and_a_refused_request_counts_for_no_domain() {
    // The whole test must run within one of the minutes for which requests are counted.
    let second = || OffsetDateTime::now_utc().second();
    eventually("enough of a minute", async || (second() < 45).then_some(())).await;
    let (pushlark, counter) = CallCounter::with_settings([("RATE_LIMIT", "2")]).await;
    for _ in 0..2 {
        pushlark.event(presence_in(99..100)).await;
    }
    counter.take();
    counter.delay(LATENCY);
    // One domain is over its limit, so nothing is accepted and no domain is charged.
    let begun = Instant::now();
    for _ in 0..3 {
        let detail = pushlark.json("/events", presence_in(0..100)).await.problem(429);
        assert!(detail.contains("d99.example"), "{detail}");
    }
    let calls: u32 = counter.take().values().sum();
    println!("{calls} calls took {:?}, {} side by side", begun.elapsed(), counter.most_running());
    assert!((4..=32).contains(&counter.most_running()), "{} side by side", counter.most_running());
    assert!(begun.elapsed() < LATENCY * calls);
    counter.delay(Duration::ZERO);
    // Each other domain can still send up to its limit.
    for _ in 0..2 {
        pushlark.event(presence_in(0..99)).await;
    }
    pushlark.json("/events", presence_in(0..1)).await.problem(429);
}

#[tokio::test]
async fn a_request_about_too_many_domains_is_too_large() {
    let (pushlark, counter) = CallCounter::with_settings([("RATE_LIMIT", "1000")]).await;
    let many = |domains: usize| {
        let to: Vec<_> = (0..domains).map(|number| format!("bob@d{number}.example")).collect();
        Event::message(to, "Hi")
    };
    let detail = pushlark.json("/events", many(1_001)).await.problem(StatusCode::PAYLOAD_TOO_LARGE.as_u16());
    assert!(detail.contains("1001 domains") && detail.contains("1000 are allowed"), "{detail}");
    assert!(counter.take().is_empty());
    assert_eq!(pushlark.json("/events", many(1_000)).await.status, 202);
    assert_eq!(counter.take()["UpdateItem"], 1_000);
    // Without a limit, requests are not counted.
    let pushlark = Pushlark::start().await;
    assert_eq!(pushlark.json("/events", many(1_001)).await.status, 202);
}
