//! `POST /rest`.

use std::time::Duration;

use reqwest::Client;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, pause, resume, timeout};

use crate::TEST_TIMEOUT;
use crate::chat_server::{DIGEST, ServerStream};
use crate::connected_bridge::{ConnectedBridge, REST_TOKEN};
use crate::function::FunctionDouble;

#[tokio::test]
async fn rest_sends_an_iq_and_returns_the_answer_of_its_recipient() {
    let mut connected = ConnectedBridge::start().await;
    let asked = tokio::spawn(
        connected
            .rest("<iq type='get' id='mine' from='example.com' to='pubsub.example.com'><q xmlns='x'/></iq>")
            .send(),
    );
    let iq = connected.stream.read_to("</iq>").await;
    // A server lets a component send only from its own domain.
    assert!(iq.contains("from=\"push.example.com\"") && iq.contains("to=\"pubsub.example.com\""), "{iq}");
    let id = iq.split("id=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_ne!(id, "mine");
    for from in ["elsewhere.example", "pubsub.example.com"] {
        let kind = if from == "elsewhere.example" { "error" } else { "result" };
        connected.stream.write(&format!("<iq type='{kind}' id='{id}' from='{from}' to='push.example.com'/>")).await;
    }
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/xmpp+xml".parse().unwrap())
    );
    let answer = answer.text().await.unwrap();
    for part in ["type=\"result\"", "id=\"mine\"", "to=\"example.com\"", "from=\"pubsub.example.com\""] {
        assert!(answer.contains(part), "{answer}");
    }
}

/// ejabberd does this with the components of one listener.
#[tokio::test]
async fn an_answer_on_the_stream_of_another_component_counts() {
    let function = FunctionDouble::start().await;
    let components = "push.example.com=test,push.example.org=test";
    let (listener, bridge) = ConnectedBridge::bridge(components, &function, &function.url, &[]).await;
    let (first, second) =
        (ServerStream::accept_any(&listener, DIGEST).await, ServerStream::accept_any(&listener, DIGEST).await);
    let (stream, mut other) = match (first, second) {
        ((name, stream), (_, other)) if name == "push.example.com" => (stream, other),
        ((_, other), (_, stream)) => (stream, other),
    };
    let mut connected = ConnectedBridge { listener, function, stream, bridge, http: Client::new() };
    let asked =
        tokio::spawn(connected.rest("<iq type='get' id='mine' from='example.com' to='a.b'><q xmlns='x'/></iq>").send());
    let iq = connected.stream.read_to("</iq>").await;
    let id = iq.split("id=\"").nth(1).unwrap().split('"').next().unwrap();
    other.write(&format!("<iq type='result' id='{id}' from='a.b' to='push.example.com'/>")).await;
    assert!(asked.await.unwrap().unwrap().text().await.unwrap().contains("type=\"result\""));
}

#[tokio::test]
async fn rest_answers_with_wait_if_the_chat_server_does_not_answer() {
    let mut connected = ConnectedBridge::start().await;
    let asked = tokio::spawn(connected.rest("<iq type='get' id='mine' to='silent.example'><q xmlns='x'/></iq>").send());
    assert!(connected.stream.read_to("</iq>").await.contains("from=\"push.example.com\""));
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let answer = answer.text().await.unwrap();
    assert!(
        answer.contains("<error type=\"wait\"><remote-server-timeout") && answer.contains("id=\"mine\""),
        "{answer}"
    );
}

#[tokio::test]
async fn rest_refuses_the_same_requests_as_mod_rest() {
    let mut connected = ConnectedBridge::start().await;
    let ping = "<iq type='get' id='1' to='example.com'><q xmlns='x'/></iq>";
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let raw = || connected.http.post(format!("http://{}/rest", connected.bridge.rest.unwrap()));
    assert_eq!(status(raw().body(ping)).await, 401);
    assert_eq!(status(raw().header("authorization", "Bearer wrong").body(ping)).await, 403);
    assert_eq!(status(raw().header("authorization", format!("Bearer {REST_TOKEN}")).body(ping)).await, 415);
    for (stanza, expected) in [
        ("<iq", 400),
        ("<iq type='result' id='1'/>", 422),
        ("<iq type='get' id='1'/>", 422),
        ("<iq type='get' id='1'><a xmlns='x'/><b xmlns='x'/></iq>", 422),
        ("<iq xmlns='other' type='get' id='1'><a xmlns='x'/></iq>", 422),
        ("<other/>", 422),
        ("<message from='@' to='a@b'/>", 422),
        ("<message to='a@b'/>", 202),
    ] {
        assert_eq!(status(connected.rest(stanza)).await, expected, "{stanza}");
    }
    assert!(connected.stream.read_to("/>").await.starts_with("<message"));
}

#[tokio::test]
async fn a_slow_caller_of_rest_is_disconnected() {
    let connected = ConnectedBridge::start().await;
    let whole = format!(
        "POST /rest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {REST_TOKEN}\r\n\
         Content-Type: application/xmpp+xml\r\nContent-Length: 1000\r\n\r\n<iq"
    );
    let (mut header, mut body) = (connected.raw_rest(&whole[..60]).await, connected.raw_rest(&whole).await);
    pause();
    let begun = Instant::now();
    for (caller, expected, seconds) in [(&mut header, "", 5..12), (&mut body, "HTTP/1.1 408 ", 25..32)] {
        let mut answer = String::new();
        timeout(Duration::from_secs(60), caller.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{answer}");
        assert!(seconds.contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
    resume();
    assert_eq!(connected.rest("<message to='a@b'/>").send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn the_body_of_a_caller_with_a_wrong_token_is_not_read() {
    let connected = ConnectedBridge::start().await;
    for (credential, expected) in [("", 401), ("Authorization: Bearer the wrong token ..\r\n", 403)] {
        let header = format!("POST /rest HTTP/1.1\r\nHost: x\r\n{credential}Content-Type: application/xmpp+xml\r\n");
        let mut caller = connected
            .raw_rest(&format!("{header}Transfer-Encoding: chunked\r\n\r\n4000\r\n{:<16384}\r\n", "<iq"))
            .await;
        let mut answer = [0; 12];
        timeout(TEST_TIMEOUT, caller.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {expected}"));
    }
    let large = connected.rest(&format!("<message to='a@b'><body>{}</body></message>", "x".repeat(256 * 1024)));
    assert_eq!(large.send().await.unwrap().status(), 413);
}

#[tokio::test]
async fn white_space_around_the_token_is_ignored() {
    let function = FunctionDouble::start().await;
    let token = format!(" {REST_TOKEN}\n");
    let (_listener, bridge) =
        ConnectedBridge::bridge("push.example.com=test", &function, &function.url, &["--rest-token", &token]).await;
    let url = format!("http://{}/rest", bridge.rest.unwrap());
    let answer = Client::new().post(url).bearer_auth(REST_TOKEN).send().await.unwrap();
    assert_eq!(answer.status(), 415);
}
