//! The limit of requests per minute (`RATE_LIMIT`).

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::{CallCounter, Event, PUSH_HOST, PushRequest, Pushlark, ago, send, stanza, within_a_minute};

#[tokio::test]
async fn a_request_over_the_rate_limit_is_answered_with_retry_after() {
    within_a_minute(flood_a_domain).await;
}

async fn flood_a_domain() {
    let settings = [("WEBHOOK_SECRET", "canary-all-secret"), ("RATE_LIMIT", "10")];
    let pushlark = Pushlark::with_settings(settings).await;
    let enable = |user: &str| Value::from(PushRequest::new(user, "n").at(PUSH_HOST));
    let event = |to: Value| Value::from(Event::message(to, "Hi").from("a@b/c"));
    let many: Vec<String> = (0..15).map(|n| format!("u{n}@flood.example")).collect();
    // A request is accepted or refused as a whole, so one request may exceed the limit.
    assert_eq!(pushlark.json_as("canary-all-secret", "/events", event(json!(many))).await.status, 202);
    let refused = [
        ("/events", event(json!("bob@flood.example"))),
        ("/events", event(json!(["bob@calm.example", "bob@flood.example"]))),
        ("/events", Event::presence("bob@flood.example/x", "online").at(ago(1)).into()),
        ("/enable", enable("bob@flood.example")),
        ("/disable", enable("bob@flood.example")),
    ];
    for (path, request) in refused {
        let reply = pushlark.json_as("canary-all-secret", path, request).await;
        assert!(reply.problem(429).contains("flood.example"), "{}", reply.body);
        let wait: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    let bob = "bob@flood.example";
    let iq = stanza::iq("set", bob, bob, &stanza::enable("push.example.org", "n", ""));
    let reply = send(pushlark.request("/enable", "application/xml", iq).bearer_auth("canary-all-secret")).await;
    assert!(reply.body.contains("<error type=\"wait\"><resource-constraint "), "{}", reply.body);
    // Other domains are not affected: a request that is refused because of one domain does not count for the others.
    for _ in 0..10 {
        assert_eq!(pushlark.json_as("canary-all-secret", "/enable", enable("bob@calm.example")).await.status, 200);
    }
    pushlark.json_as("canary-all-secret", "/enable", enable("bob@calm.example")).await.problem(429);
}

#[tokio::test]
async fn each_kind_of_event_counts_for_the_rate_limit() {
    within_a_minute(charge_each_kind).await;
}

async fn charge_each_kind() {
    let message =
        |content: &str, of: &str| Event::stanza(of, &format!("<message type='{content}</message>")).from("a@b/c");
    let bob = "bob@flood.example";
    for event in [
        message("normal'><body>Hi</body>", bob),
        message("headline'><body>Hi</body>", bob),
        message("chat'><displayed xmlns='urn:xmpp:chat-markers:0' id='x'/>", bob),
        Event::presence(&format!("{bob}/x"), "online").at(ago(1)),
        Event::read(bob, "a@b"),
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
async fn a_request_counts_for_its_caller_and_not_for_the_domains_that_it_names() {
    within_a_minute(charge_as_others).await;
}

async fn charge_as_others() {
    let secrets = "evil.example=canary-evil-secret, victim.example=canary-victim-secret, canary-all-secret";
    let settings =
        [("WEBHOOK_SECRET", secrets), ("RATE_LIMIT", "3"), ("VIRTUAL_PUBSUB_HOSTS", "push.@HOST@,push.evil.example")];
    let pushlark = Pushlark::with_settings(settings).await;
    let info = |from: &str, to: &str| json!({"stanza": stanza::iq("get", from, to, &stanza::disco_info())});
    let is_accepted = async |secret: &str, from: &str, to: &str| {
        let reply = pushlark.json_as(secret, "/pubsub", info(from, to)).await;
        let stanza = reply.json()["stanza"].as_str().unwrap().to_owned();
        assert!(stanza.contains("type=\"result\"") || stanza.contains("<resource-constraint "), "{stanza}");
        stanza.contains("type=\"result\"")
    };
    // Evil's domain hosts the service, so its chat server may name any user as the sender.
    for _ in 0..3 {
        assert!(is_accepted("canary-evil-secret", "bob@victim.example", "push.evil.example").await);
    }
    assert!(!is_accepted("canary-evil-secret", "carol@victim.example", "push.evil.example").await);
    assert!(!is_accepted("canary-evil-secret", "eve@evil.example", "push.evil.example").await);
    // A message without effect may be about another domain; it counts for evil's domain too.
    let headline = "<message type='headline'><body>Hi</body></message>";
    let headline = Event::stanza("bob@victim.example", headline).from("eve@evil.example/x");
    pushlark.json_as("canary-evil-secret", "/events", headline).await.problem(429);
    assert!(is_accepted("canary-victim-secret", "bob@victim.example", "push.victim.example").await);

    // With a secret for all domains, each sender has a limit of its own.
    for _ in 0..3 {
        assert!(is_accepted("canary-all-secret", "mallory@third.example/x", "push.evil.example").await);
    }
    assert!(!is_accepted("canary-all-secret", "mallory@third.example/y", "push.evil.example").await);
    assert!(is_accepted("canary-all-secret", "bob@third.example", "push.evil.example").await);
    let presence = Event::presence("mallory@third.example/x", "online");
    assert_eq!(pushlark.json_as("canary-all-secret", "/events", presence).await.status, 202);
}

#[tokio::test]
async fn a_high_limit_is_counted_in_several_items_and_a_low_one_in_one() {
    within_a_minute(count_in_items).await;
}

async fn count_in_items() {
    const REQUESTS: u32 = 200;
    // 5,000 events a second.
    for (limit, shards) in [("300000", 10), ("30000", 1)] {
        let (pushlark, counter) = CallCounter::with_settings([("RATE_LIMIT", limit)]).await;
        let event = Event::presence("bob@busy.example/x", "online").at(ago(1));
        let replies = join_all((0..REQUESTS).map(|_| pushlark.json("/events", event.clone()))).await;
        assert!(replies.iter().all(|reply| reply.status == 202));
        let counts = counts(&pushlark).await;
        assert_eq!((counts.values().sum::<u32>(), counts.len()), (REQUESTS, shards), "{counts:?}");
        assert!(counts.keys().all(|key| key.starts_with("rate/") && key.ends_with("busy.example")), "{counts:?}");
        // One write for the limit, and one for the session unless its time is not newer.
        assert_eq!(counter.take()["UpdateItem"], 2 * REQUESTS);
    }
}

#[tokio::test]
async fn a_high_limit_is_that_of_all_items_together() {
    within_a_minute(reach_a_high_limit).await;
}

async fn reach_a_high_limit() {
    let pushlark = Pushlark::with_settings([("RATE_LIMIT", "60000")]).await;
    // Each of two items admits half of the events. A request that finds one full is counted by the other.
    let users: Vec<_> = (0..5_000).map(|number| format!("u{number}@c")).collect();
    let headline = Event::stanza(users, "<message type='headline'><body>Hi</body></message>").from("a@b/c");
    let half = vec![headline; 6];
    for _ in 0..2 {
        assert_eq!(pushlark.json("/events", half.clone()).await.status, 202);
    }
    let counts = counts(&pushlark).await;
    assert_eq!(counts.values().collect::<Vec<_>>(), [&30_000, &30_000], "{counts:?}");
    pushlark.json("/events", Event::presence("b@c/x", "online")).await.problem(429);
}

/// Returns the counts of all accounts by their partition keys.
async fn counts(pushlark: &Pushlark) -> BTreeMap<String, u32> {
    let table = pushlark.stack.environment.text("TABLE_NAME").unwrap();
    let scanned = pushlark.stack.dynamodb.scan().table_name(table).send().await.unwrap();
    let counts = scanned.items().iter().filter_map(|item| {
        let key = item["pk"].as_s().unwrap().clone();
        key.starts_with("rate/").then(|| (key, item["admitted"].as_n().unwrap().parse().unwrap()))
    });
    counts.collect()
}
