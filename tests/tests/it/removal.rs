//! The end of a domain with many registrations.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tests::{Apart, Pushlark, ago, eventually, in_fast_motion};
use tokio::time::{Instant, timeout};

/// How many registrations the domain has, unless the variable of this name says how many. Each is of another user, and
/// has a second item beside it.
const REGISTRATIONS: usize = 10_000;
/// How long the worker is given for each step; on Lambda it has 3.5 seconds.
const STEP: Duration = Duration::from_millis(1_000);
/// What the worker keeps back of its time for what is begun last.
const KEPT_BACK: Duration = Duration::from_millis(6_500);

/// Fills the table with copies of the registrations that it has, each of a user of its own.
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

/// The users that the table has something of.
async fn known(pushlark: &Pushlark) -> Vec<String> {
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
async fn a_large_domain_is_removed_in_steps_whatever_crashes_between() {
    // The second look comes after ten seconds of SQS.
    let apart = Apart::beside(Pushlark::with(in_fast_motion(60)).await).await;
    let pushlark = &apart.pushlark;
    let registrations = std::env::var("REGISTRATIONS").map_or(REGISTRATIONS, |number| number.parse().unwrap());
    // They fall into all parts of the index.
    for number in 0..100 {
        pushlark.enable(&format!("u{number}@gone.example"), "phone").await;
    }
    multiply(pushlark, registrations / 100 - 1).await;
    let at = ago(0);
    pushlark.enable("u@stays.example", "phone").await;
    // Enabled again since the domain was removed: not to be removed with it.
    pushlark.enable("u17@gone.example", "phone").await;
    assert_eq!(known(pushlark).await.len(), registrations + 1);

    let removal = json!({"id": "r", "at": at, "subject": {"domain_removed": {"domain": "gone.example"}}});
    let mut batch = apart.batch(&[removal]).await;
    let begun = Instant::now();
    let mut steps = 0;
    loop {
        // Each step dies once on its way, wherever it is; its message comes back to another worker.
        let deadline = || Instant::now() + KEPT_BACK + STEP;
        let _ = timeout(STEP / 3, apart.worker.handle(batch.clone(), deadline())).await;
        eventually("a step in its time", async || {
            let response = apart.worker.handle(batch.clone(), deadline()).await;
            response.batch_item_failures.is_empty().then_some(())
        })
        .await;
        steps += 1;
        pushlark.enable(&format!("u{steps}@elsewhere.example"), "phone").await;
        match apart.next(batch).await {
            Some(next) => batch = next,
            None => break,
        }
    }
    println!("{registrations} registrations were removed in {steps} steps and {:?}", begun.elapsed());
    let mut expected: Vec<_> = (1..=steps).map(|step| format!("u{step}@elsewhere.example")).collect();
    expected.extend(["u17@gone.example", "u@stays.example"].map(str::to_owned));
    expected.sort();
    assert_eq!(known(pushlark).await, expected);
    assert!(steps > 2, "{steps} steps");
}

#[tokio::test]
async fn a_user_is_removed_with_all_sessions_and_counts() {
    let pushlark = Pushlark::with_settings([("UNREAD_COUNTS", "on")]).await;
    for number in 0..30 {
        pushlark.enable(&format!("bob@example.com/{number}"), &format!("device-{number}")).await;
    }
    let create = "<pubsub xmlns='http://jabber.org/protocol/pubsub'><create node='n'/></pubsub>";
    let iq = format!("<iq type='set' id='1' from='bob@example.com' to='push.example.com'>{create}</iq>");
    assert!(pushlark.post("/pubsub", "text/xml", iq).await.body.contains("type=\"result\""));
    pushlark.event(json!({"type": "presence", "jid": "bob@example.com/1", "status": "online"})).await;
    pushlark.event(json!({"type": "read", "jid": "bob@example.com", "conversation": "kate@example.com"})).await;
    pushlark.event(json!({"type": "user_removed", "jid": "bob@example.com"})).await;
    pushlark.settled().await;
    assert!(known(&pushlark).await.is_empty());
}
