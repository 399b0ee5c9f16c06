//! IQs to a component.

use pushlark_webhooks::{Headers, Key};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::TEST_TIMEOUT;
use crate::chat_server::{DIGEST, ServerStream};
use crate::connected_bridge::{ConnectedBridge, PUBLISH, WEBHOOK_SECRET};

#[tokio::test]
async fn an_iq_is_posted_with_a_signature_and_answered() {
    let mut connected = ConnectedBridge::start().await;
    connected.stream.write(PUBLISH).await;
    let answer = connected.stream.read_to("/>").await;
    for part in ["type=\"result\"", "id=\"p1\"", "from=\"push.example.com\"", "to=\"example.com\""] {
        assert!(answer.contains(part), "{answer}");
    }
    let (headers, body) = connected.function.posted.lock().unwrap()[0].clone();
    assert!(body.contains("<pubsub xmlns=\"x\"/>"), "{body}");
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("application/xmpp+xml"));
    let timestamp = header("webhook-timestamp").unwrap();
    let signed =
        Headers { id: header("webhook-id"), timestamp: Some(timestamp), signature: header("webhook-signature") };
    let now = timestamp.parse().unwrap();
    assert_eq!(signed.verify(&[Key::new(WEBHOOK_SECRET).unwrap()], body.as_bytes(), now), Ok(vec![0]));
}

#[tokio::test]
async fn an_iq_without_an_answer_of_the_function_is_answered_with_wait() {
    let mut connected = ConnectedBridge::start().await;
    for (status, body) in [
        (503, "<iq type='result' id='p1'/>"),
        (401, ""),
        (200, ""),
        (200, "<message/>"),
        (200, "<iq type='set' id='p1'/>"),
        (200, "not XML"),
    ] {
        connected.function.answers(status, body);
        connected.stream.write(PUBLISH).await;
        let answer = connected.stream.read_to("</iq>").await;
        assert!(answer.contains("<error type=\"wait\">") && answer.contains("id=\"p1\""), "{answer}");
    }
    connected.function.answers(200, "<iq type='error' id='z'><error type='cancel'/></iq>");
    connected.stream.write(PUBLISH).await;
    assert!(connected.stream.read_to("</iq>").await.contains("<error type=\"cancel\""));
}

#[tokio::test]
async fn a_stanza_over_a_limit_does_not_end_the_stream() {
    let mut connected = ConnectedBridge::start().await;
    let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
    let large = format!("<body>{}</body>", "x".repeat(1_000_000));
    for content in [deep, large] {
        connected.stream.write(&format!("<message from='a@b' to='push.example.com'>{content}</message>")).await;
        connected
            .stream
            .write(&format!("<iq type='get' id='over' from='a@b' to='push.example.com'>{content}</iq>{PUBLISH}"))
            .await;
        let refused = connected.stream.read_to("</iq>").await;
        for part in ["id=\"over\"", "to=\"a@b\"", "<error type=\"wait\"><resource-constraint"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert!(connected.stream.read_to("/>").await.contains("id=\"p1\""));
    }
    assert_eq!(connected.function.posted.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn pending_iqs_are_answered_before_the_bridge_stops() {
    let ConnectedBridge { function, mut stream, bridge, .. } = ConnectedBridge::start().await;
    let held = function.held.lock().await;
    stream.write(PUBLISH).await;
    timeout(TEST_TIMEOUT, function.begun.acquire()).await.unwrap().unwrap().forget();
    let stopped = tokio::spawn(bridge.stop());
    drop(held);
    let mut last = String::new();
    timeout(TEST_TIMEOUT, stream.0.read_to_string(&mut last)).await.unwrap().unwrap();
    assert!(last.contains("id=\"p1\"") && last.ends_with("/></stream:stream>"), "{last}");
    stopped.await.unwrap();
}

#[tokio::test]
async fn an_iq_is_answered_on_the_next_stream() {
    let ConnectedBridge { listener, function, mut stream, bridge: _bridge, .. } = ConnectedBridge::start().await;
    let held = function.held.lock().await;
    stream.write(PUBLISH).await;
    timeout(TEST_TIMEOUT, function.begun.acquire()).await.unwrap().unwrap().forget();
    // No post times out before the next stream.
    drop(stream);
    let accepted = ServerStream::accept(&listener, "push.example.com", DIGEST);
    let mut stream = timeout(TEST_TIMEOUT, accepted).await.unwrap();
    drop(held);
    assert!(stream.read_to("/>").await.contains("id=\"p1\""));
}
