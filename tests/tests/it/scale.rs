//! Many events, and large rooms. They take longer than the gate allows, so they run nightly:
//! `cargo test --workspace --test it -- --ignored scale`

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use doubles::{canary, name_of};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tests::{Event, Pushlark, ROOM_OCCUPANT, eventually, send};
use tokio::net::TcpListener;

/// The number of events; the environment variable of this name overrides it.
const EVENTS: usize = 100_000;
/// The number of users to whom the events are.
const USERS: usize = 2_000;
/// The number of members of the room: the maximum number of recipients of one event.
const ROOM: usize = 5_000;
/// The number of simultaneous requests.
const REQUESTS: usize = 16;

/// The number of notifications by device and text.
type Notified = Arc<Mutex<HashMap<(String, String), usize>>>;

/// Starts a push service, and a stack that uses it.
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

/// Waits until the queue is empty. Fails if it does not become shorter for a while.
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

/// Checks that exactly these notifications have arrived. A notification may arrive twice, if a busy push service has not
/// answered in time.
fn assert_notified(notified: &Notified, expected: impl Iterator<Item = (String, String)>) {
    let mut notified = notified.lock().unwrap();
    let total: usize = notified.values().sum();
    let mut count = 0;
    for one in expected {
        assert!(notified.remove(&one).is_some(), "lost: {one:?}");
        count += 1;
    }
    assert!(notified.is_empty(), "{notified:?}");
    println!("{count} notifications, {} repeats", total - count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn none_of_many_events_is_lost() {
    let (pushlark, notified) = start().await;
    enable(&pushlark, USERS).await;
    let events = env::var("EVENTS").map_or(EVENTS, |number| number.parse().unwrap());
    let numbers: Vec<usize> = (0..events).collect();
    let posts = stream::iter(numbers.chunks(100)).map(async |chunk| {
        let event = |number: &usize| {
            Event::message(user(number % USERS), &canary(&number.to_string())).id(&format!("m{number}"))
        };
        let lines: Vec<String> = chunk.iter().map(|number| event(number).to_string()).collect();
        let reply = send(pushlark.request("/events", "application/x-ndjson", lines.join("\n"))).await;
        if reply.status == 202 { Ok(()) } else { Err(reply.body) }
    });
    posts.buffer_unordered(REQUESTS).try_collect::<()>().await.unwrap();
    drained(&pushlark).await;
    assert_notified(&notified, numbers.iter().map(|number| (user(number % USERS), canary(&number.to_string()))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes a minute"]
async fn each_member_of_a_large_room_is_notified() {
    let (pushlark, notified) = start().await;
    enable(&pushlark, ROOM).await;
    let to: Vec<String> = (0..ROOM).map(user).collect();
    pushlark.event(Event::groupchat(ROOM_OCCUPANT, to, &canary("Hi"))).await;
    drained(&pushlark).await;
    assert_notified(&notified, (0..ROOM).map(|number| (user(number), canary("Hi"))));
}
