//! Messages to a component: the queue, retries and losses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, pause, sleep, timeout};

use crate::TEST_TIMEOUT;
use crate::chat_server::{DIGEST, ServerStream};
use crate::connected_bridge::{ConnectedBridge, PUBLISH, StoppedClock, message};
use crate::function::FunctionDouble;

#[tokio::test]
async fn a_message_is_posted() {
    let mut connected = ConnectedBridge::start().await;
    connected
        .stream
        .write("<presence from='a@b'/><message from='a@b' to='push.example.com'><body>Hi</body></message>")
        .await;
    connected.stream.write(PUBLISH).await;
    connected.stream.read_to("/>").await;
    let posted = connected.function.posted(2).await;
    assert!(posted.iter().any(|(_, body)| body.contains("<body>Hi</body>")) && posted.len() == 2, "{posted:?}");
}

fn numbers(count: usize) -> BTreeSet<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn each_message_of_a_burst_is_posted_once_and_delays_no_iq() {
    let (mut connected, messages) = ConnectedBridge::with_messages(&["--timeout-ms", "20000"]).await;
    let held = messages.held.lock().await;
    let burst: String = (0..2_000).map(message).collect();
    connected.stream.write(&burst).await;
    connected.stream.write(PUBLISH).await;
    assert!(connected.stream.read_to("/>").await.contains("id=\"p1\""));
    assert!(messages.posted.lock().unwrap().is_empty());
    drop(held);
    messages.posted(2_000).await;
    assert_eq!(messages.bodies(), (numbers(2_000), 2_000));
}

#[tokio::test]
async fn the_stream_is_not_read_while_the_queue_is_full() {
    const COUNT: usize = 250;
    let (connected, messages) = ConnectedBridge::with_messages(&["--queue-bytes", "1048576"]).await;
    // No post times out, and no message is lost.
    let _clock = StoppedClock::new();
    let held = messages.held.lock().await;
    let written = Arc::new(AtomicUsize::new(0));
    let ConnectedBridge { stream: ServerStream(mut stream), bridge: _bridge, .. } = connected;
    let counted = Arc::clone(&written);
    tokio::spawn(async move {
        for number in 0..COUNT {
            let padding = "x".repeat(64 * 1024);
            let message = format!("<message to='b@push.example.com'><body>{number}</body><x>{padding}</x></message>");
            stream.write_all(message.as_bytes()).await.unwrap();
            counted.fetch_add(message.len(), Ordering::Relaxed);
        }
        stream
    });
    let (mut last, mut changed) = (0, std::time::Instant::now());
    while last == 0 || changed.elapsed() < Duration::from_millis(500) {
        let now = written.load(Ordering::Relaxed);
        if now != last {
            (last, changed) = (now, std::time::Instant::now());
        }
        tokio::task::yield_now().await;
    }
    // The queue, and the system's buffers of both ends of the connection.
    assert!(last < 14_000_000, "{last}");
    assert!(messages.begun.available_permits() <= 16, "{}", messages.begun.available_permits());
    drop(held);
    while messages.posted.lock().unwrap().len() < COUNT {
        assert!(changed.elapsed() < 3 * TEST_TIMEOUT, "{:?}", messages.bodies());
        tokio::task::yield_now().await;
    }
    assert_eq!(messages.bodies(), (numbers(COUNT), COUNT));
}

#[tokio::test]
async fn iqs_and_rest_are_answered_while_the_function_accepts_no_message() {
    let (mut connected, messages) =
        ConnectedBridge::with_messages(&["--queue-bytes", "1048576", "--timeout-ms", "2000"]).await;
    let _held = messages.held.lock().await;
    let padding = "x".repeat(200_000);
    for number in 0..8 {
        connected.stream.write(&message(format!("{number}{padding}"))).await;
    }
    timeout(TEST_TIMEOUT, messages.begun.acquire_many(5)).await.unwrap().unwrap().forget();
    pause();
    let begun = Instant::now();
    let asked = tokio::spawn(connected.rest("<iq type='get' id='mine' to='a.b'><q xmlns='x'/></iq>").send());
    let iq = timeout(Duration::from_secs(60), connected.stream.0.read_until(b'>', &mut Vec::new())).await;
    iq.unwrap().unwrap();
    // The answer is behind messages that have no room.
    connected.stream.write("<iq type='result' id='?' from='a.b' to='push.example.com'/>").await;
    connected.stream.write(PUBLISH).await;
    let answer = asked.await.unwrap().unwrap().text().await.unwrap();
    assert!(answer.contains("<remote-server-timeout"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("id=\"p1\"") {
        timeout(Duration::from_secs(60), connected.stream.0.read_until(b'>', &mut text)).await.unwrap().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_message_is_retried_until_it_is_accepted() {
    let (mut connected, messages) = ConnectedBridge::with_messages(&[]).await;
    messages.answers(429, "");
    *messages.retry_after.lock().unwrap() = Some("40");
    pause();
    connected.stream.write(&message("once")).await;
    messages.posted(1).await;
    let begun = Instant::now();
    messages.answers(503, "");
    *messages.retry_after.lock().unwrap() = None;
    sleep(Duration::from_secs(39)).await;
    assert_eq!(messages.posted.lock().unwrap().len(), 1);
    messages.posted(2).await;
    messages.answers(202, "");
    messages.posted(3).await;
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    sleep(Duration::from_secs(1_000)).await;
    let posted = messages.posted.lock().unwrap().clone();
    // By either name Pushlark recognises a message that arrives twice.
    let named = |(headers, body): &(HeaderMap, String)| (headers["webhook-id"].clone(), body.clone());
    assert!(posted.iter().all(|post| named(post) == named(&posted[0])) && posted.len() == 3, "{posted:?}");
    assert!(posted[0].1.contains("by=\"bob@push.example.com\""), "{posted:?}");
}

#[tokio::test]
async fn a_message_waits_for_a_function_that_is_not_reachable() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nowhere.local_addr().unwrap();
    drop(nowhere);
    let iqs = FunctionDouble::start().await;
    let (listener, bridge) =
        ConnectedBridge::bridge("push.example.com=test", &iqs, &format!("http://{address}/"), &[]).await;
    let mut connected = ConnectedBridge::connected(listener, iqs, bridge).await;
    connected.stream.write(&message("waits")).await;
    connected.stream.write(PUBLISH).await;
    connected.stream.read_to("/>").await;
    // The stream ends, too, and the bridge reconnects.
    let ConnectedBridge { listener, bridge: _bridge, stream, .. } = connected;
    drop(stream);
    let _stream = ServerStream::accept(&listener, "push.example.com", DIGEST).await;
    let messages = FunctionDouble::at(TcpListener::bind(address).await.unwrap());
    messages.posted(1).await;
    assert_eq!(messages.bodies().0, BTreeSet::from(["waits".to_owned()]));
}

#[tokio::test]
async fn a_message_that_the_function_refuses_as_invalid_is_not_retried() {
    let (mut connected, messages) = ConnectedBridge::with_messages(&[]).await;
    messages.answers(400, "");
    connected.stream.write(&message("bad")).await;
    messages.posted(1).await;
    pause();
    sleep(Duration::from_secs(1_000)).await;
    assert_eq!(messages.posted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_post_of_a_message_continues_after_the_stream_has_ended() {
    let mut connected = ConnectedBridge::start().await;
    let held = connected.function.held.lock().await;
    connected.stream.write("<message from='a@b' to='push.example.com'><body>Hi</body></message></stream:stream>").await;
    timeout(TEST_TIMEOUT, connected.function.begun.acquire()).await.unwrap().unwrap().forget();
    connected.until_away().await;
    drop(held);
    connected.function.posted(1).await;
}
