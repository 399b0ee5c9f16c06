//! Many events, and large rooms. They take longer than the gate allows, so they run nightly:
//! `cargo test --workspace --test it -- --ignored scale`

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use doubles::{name_of, planted};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tests::{Pushlark, eventually, send};
use tokio::net::TcpListener;

/// How many events are posted, unless the variable of this name says how many.
const EVENTS: usize = 100_000;
/// How many users the events are for.
const USERS: usize = 2_000;
/// How many members the room has, as many as one event may have recipients.
const ROOM: usize = 5_000;
/// How many requests are made side by side.
const REQUESTS: usize = 16;

/// How often each device was notified of each text.
type Notified = Arc<Mutex<HashMap<(String, String), usize>>>;

/// A stack, and its push service.
async fn start() -> (Pushlark, Notified) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let notified = Notified::default();
    let notify =
        async |State(notified): State<Notified>, Path(device): Path<String>, Json(notification): Json<Value>| {
            let text = notification["alert"]["body"].as_str().unwrap().to_owned();
            *notified.lock().unwrap().entry((name_of(&device).to_owned(), text)).or_default() += 1;
        };
    let router = Router::new().route("/v3/notification/{device_id}", post(notify)).with_state(Arc::clone(&notified));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Pushlark::with_settings([("MONGOOSEPUSH_URL", url.as_str())]).await, notified)
}

fn user(number: usize) -> String {
    format!("u{number}@example.com")
}

async fn enable(pushlark: &Pushlark, users: usize) {
    let enabled = stream::iter(0..users).map(async |number| pushlark.enable(&user(number), &user(number)).await);
    enabled.buffer_unordered(REQUESTS).collect::<()>().await;
}

/// Waits until all that was queued is dealt with, as long as the queue becomes shorter.
async fn drained(pushlark: &Pushlark) {
    let mut left = u32::MAX;
    while left > 0 {
        left = eventually("a shorter queue", async || {
            let depth = pushlark.queue_depth("QUEUE_URL").await;
            (depth < left).then_some(depth)
        })
        .await;
    }
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

/// Checks that exactly these were notified. A busy push service is asked again, and may then have been told twice.
fn judge(notified: &Notified, expected: impl Iterator<Item = (String, String)>) {
    let mut notified = notified.lock().unwrap();
    let total: usize = notified.values().sum();
    let mut count = 0;
    for told in expected {
        assert!(notified.remove(&told).is_some(), "lost: {told:?}");
        count += 1;
    }
    assert!(notified.is_empty(), "{notified:?}");
    println!("{count} notifications, {} repeats", total - count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn of_very_many_events_none_is_lost() {
    let (pushlark, notified) = start().await;
    enable(&pushlark, USERS).await;
    let events = env::var("EVENTS").map_or(EVENTS, |number| number.parse().unwrap());
    let numbers: Vec<usize> = (0..events).collect();
    let posts = stream::iter(numbers.chunks(100)).map(async |chunk| {
        let event = |number: &usize| {
            json!({"type": "message", "id": format!("m{number}"), "from": "alice@example.com/pc",
                "to": user(number % USERS), "chat": "chat", "body": planted(&number.to_string())})
        };
        let lines: Vec<String> = chunk.iter().map(|number| event(number).to_string()).collect();
        let reply = send(pushlark.request("/events", "application/x-ndjson", lines.join("\n"))).await;
        if reply.status == 202 { Ok(()) } else { Err(reply.body) }
    });
    posts.buffer_unordered(REQUESTS).try_collect::<()>().await.unwrap();
    drained(&pushlark).await;
    judge(&notified, numbers.iter().map(|number| (user(number % USERS), planted(&number.to_string()))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes a minute"]
async fn each_member_of_a_very_large_room_is_notified() {
    let (pushlark, notified) = start().await;
    enable(&pushlark, ROOM).await;
    let to: Vec<String> = (0..ROOM).map(user).collect();
    pushlark
        .event(json!({"type": "message", "from": "room@muc.example.com/alice", "to": to, "chat": "groupchat",
            "body": planted("Hi")}))
        .await;
    drained(&pushlark).await;
    judge(&notified, (0..ROOM).map(|number| (user(number), planted("Hi"))));
}
