//! The removal of users, and of a domain with many registrations.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures_util::{StreamExt, stream};
use tests::{BOB, Event, IsolatedWorker, PUSH_HOST, Pushlark, Work, XMPP, ago, eventually, stanza, with_fast_sqs};
use tokio::time::{Instant, timeout};

/// The number of registrations of the domain; the environment variable of this name overrides it. Each registration is of
/// another user, and has a second item.
const REGISTRATIONS: usize = 10_000;
/// The time of the worker for each step. On Lambda it has 3.5 seconds.
const STEP: Duration = Duration::from_millis(1_000);
/// The time that the worker reserves for the work that it starts last.
const KEPT_BACK: Duration = Duration::from_millis(6_500);

/// Fills the table with copies of its registrations, each for another user.
async fn multiply(pushlark: &Pushlark, times: usize) {
    let client = &pushlark.stack.dynamodb;
    let items = client.scan().table_name("pushlark").send().await.unwrap().items.unwrap();
    let copies = items.iter().flat_map(|item| {
        (0..times).map(|number| {
            let mut copy: HashMap<_, _> = item.clone();
            let user = format!("copy{number}.{}", item["pk"].as_s().unwrap());
            copy.insert("pk".into(), AttributeValue::S(user));
            WriteRequest::builder().put_request(PutRequest::builder().set_item(Some(copy)).build().unwrap()).build()
        })
    });
    let copies: Vec<_> = copies.collect();
    let writes = stream::iter(copies.chunks(25)).map(|chunk| async move {
        let written = client.batch_write_item().request_items("pushlark", chunk.to_vec()).send().await.unwrap();
        assert!(written.unprocessed_items.is_none_or(|items| items.is_empty()));
    });
    writes.buffer_unordered(16).collect::<Vec<_>>().await;
}

/// Returns the users with items in the table.
async fn users_in_table(pushlark: &Pushlark) -> Vec<String> {
    let mut pages = pushlark.stack.dynamodb.scan().table_name("pushlark").into_paginator().items().send();
    let mut users = Vec::new();
    while let Some(item) = pages.next().await {
        users.push(item.unwrap()["pk"].as_s().unwrap().clone());
    }
    users.sort();
    users.dedup();
    users
}

#[tokio::test]
async fn a_large_domain_is_removed_in_steps_despite_crashes() {
    // The worker checks the domain again after ten seconds of SQS's clock.
    let isolated = IsolatedWorker::beside(Pushlark::with(with_fast_sqs(60)).await).await;
    let pushlark = &isolated.pushlark;
    let registrations = std::env::var("REGISTRATIONS").map_or(REGISTRATIONS, |number| number.parse().unwrap());
    // These users are in all shards of the index.
    for number in 0..100 {
        pushlark.enable(&format!("u{number}@gone.example"), "phone").await;
    }
    multiply(pushlark, registrations / 100 - 1).await;
    let at = ago(0);
    pushlark.enable("u@stays.example", "phone").await;
    // This user enabled push after the removal of the domain, so the registration stays.
    pushlark.enable("u17@gone.example", "phone").await;
    assert_eq!(users_in_table(pushlark).await.len(), registrations + 1);

    let removal = Work::domain_removed("gone.example").id("r").at(&at);
    let mut batch = isolated.batch(&[removal]).await;
    let begun = Instant::now();
    let mut steps = 0;
    loop {
        // Each step crashes once at any place, and its message is delivered to another worker.
        let deadline = || Instant::now() + KEPT_BACK + STEP;
        let _ = timeout(STEP / 3, isolated.worker.handle(batch.clone(), deadline())).await;
        eventually("a step within its time", async || {
            let response = isolated.worker.handle(batch.clone(), deadline()).await;
            response.batch_item_failures.is_empty().then_some(())
        })
        .await;
        steps += 1;
        pushlark.enable(&format!("u{steps}@elsewhere.example"), "phone").await;
        match isolated.next(batch).await {
            Some(next) => batch = next,
            None => break,
        }
    }
    println!("{registrations} registrations were removed in {steps} steps and {:?}", begun.elapsed());
    let mut expected: Vec<_> = (1..=steps).map(|step| format!("u{step}@elsewhere.example")).collect();
    expected.extend(["u17@gone.example", "u@stays.example"].map(str::to_owned));
    expected.sort();
    assert_eq!(users_in_table(pushlark).await, expected);
    assert!(steps > 2, "{steps} steps");
}

#[tokio::test]
async fn a_user_is_removed_with_all_sessions_and_counts() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    for number in 0..30 {
        pushlark.enable(&format!("bob@example.com/{number}"), &format!("device-{number}")).await;
    }
    let iq = stanza::iq("set", BOB, PUSH_HOST, &stanza::create_node("n"));
    pushlark.post("/pubsub", XMPP, iq).await.assert_result();
    pushlark.event(Event::presence("bob@example.com/1", "online")).await;
    pushlark.event(Event::read(BOB, "kate@example.com")).await;
    pushlark.event(Event::user_removed(BOB)).await;
    pushlark.settled().await;
    assert!(users_in_table(&pushlark).await.is_empty());
}
