//! The bridge reconnects to the chat server.

use std::time::Duration;

use bridge::Bridge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use crate::TEST_TIMEOUT;
use crate::chat_server::{DIGEST, ServerStream};
use crate::connected_bridge::{ConnectedBridge, PUBLISH, StoppedClock, settings};

#[tokio::test]
async fn the_bridge_reconnects_after_the_chat_server_was_away() {
    let mut connected = ConnectedBridge::start().await;
    connected.stream.write("<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>").await;
    assert!(connected.until_away().await.headers().contains_key("retry-after"));
    let ConnectedBridge { listener, bridge, .. } = connected;
    let mut stream = ServerStream::accept(&listener, "push.example.com", DIGEST).await;
    stream.write(PUBLISH).await;
    stream.read_to("/>").await;
    bridge.stop().await;
    let mut last = String::new();
    timeout(TEST_TIMEOUT, stream.0.read_to_string(&mut last)).await.unwrap().unwrap();
    assert_eq!(last, "</stream:stream>");
}

#[tokio::test]
async fn the_bridge_reconnects_at_once_after_a_stable_stream() {
    let mut connected = ConnectedBridge::start().await;
    connected.stream.write(PUBLISH).await;
    connected.stream.read_to("/>").await;
    let clock = StoppedClock::new();
    tokio::time::advance(Duration::from_secs(11)).await;
    let ConnectedBridge { listener, stream, bridge: _bridge, .. } = connected;
    let now = Instant::now();
    drop(stream);
    ServerStream::accept(&listener, "push.example.com", DIGEST).await;
    assert_eq!(now.elapsed(), Duration::ZERO);
    drop(clock);
}

#[tokio::test]
async fn the_bridge_reconnects_after_a_refused_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let settings = settings(&["--server", &server, "--components", "push.example.com=wrong"]).unwrap();
    let bridge = Bridge::start(settings).await.unwrap();
    assert_eq!(bridge.rest, None);
    for _ in 0..2 {
        let (mut stream, _) = timeout(TEST_TIMEOUT, listener.accept()).await.unwrap().unwrap();
        stream.write_all(b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='1'><stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>").await.unwrap();
    }
}
