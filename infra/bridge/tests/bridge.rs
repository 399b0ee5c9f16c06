//! The bridge between a chat server and a function of the tests' own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bridge::{Bridge, Given, Settings};
use clap::Parser;
use pushlark_webhooks::{Headers, Key};
use reqwest::{Client, Response};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Given,
}

fn settings(arguments: &[&str]) -> Result<Settings, String> {
    let arguments = Arguments::try_parse_from(["bridge"].iter().chain(arguments)).unwrap();
    Settings::try_from(arguments.settings).map_err(|error| error.to_string())
}

/// A function: what it was posted, and what it answers.
#[derive(Clone)]
struct Function {
    url: String,
    posted: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    answer: Arc<Mutex<(u16, String)>>,
    /// One permit for each request that has begun.
    begun: Arc<Semaphore>,
    /// While this is locked, requests are not acted on.
    held: Arc<tokio::sync::Mutex<()>>,
}

impl Function {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answer = (200, "<iq type='result' id='any' from='x' to='y'/>".to_owned());
        let function = Self {
            url,
            posted: Arc::default(),
            answer: Arc::new(Mutex::new(answer)),
            begun: Arc::new(Semaphore::new(0)),
            held: Arc::default(),
        };
        let router = Router::new().route("/", post(Self::answer)).with_state(function.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        function
    }

    async fn answer(State(function): State<Self>, headers: HeaderMap, body: String) -> (StatusCode, String) {
        function.begun.add_permits(1);
        let _held = function.held.lock().await;
        function.posted.lock().unwrap().push((headers, body));
        let (status, body) = function.answer.lock().unwrap().clone();
        (StatusCode::from_u16(status).unwrap(), body)
    }

    fn answers(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = (status, body.into());
    }
}

/// A chat server's end of a component's stream.
struct Stream(BufReader<TcpStream>);

impl Stream {
    /// Takes a component, after its handshake.
    async fn accept(listener: &TcpListener, name: &str, digest: &str) -> Self {
        let (accepted, stream) = Self::accept_any(listener, digest).await;
        assert_eq!(accepted, name);
        stream
    }

    async fn accept_any(listener: &TcpListener, digest: &str) -> (String, Self) {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut stream = Self(BufReader::new(stream));
        let header = stream.read_to("'>").await;
        assert!(header.contains("jabber:component:accept"), "{header}");
        let name = header.split("to='").nth(1).unwrap().trim_end_matches("'>").to_owned();
        stream.write("<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:component:accept' id='3BF96D32'>").await;
        assert_eq!(stream.read_to("</handshake>").await, format!("<handshake>{digest}</handshake>"));
        stream.write("<handshake/>").await;
        (name, stream)
    }

    async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until what was read ends so.
    async fn read_to(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let read = self.0.read_until(b'>', &mut text);
            assert!(timeout(PATIENCE, read).await.unwrap().unwrap() > 0, "{}", String::from_utf8_lossy(&text));
        }
        String::from_utf8(text).unwrap()
    }
}

struct World {
    listener: TcpListener,
    function: Function,
    stream: Stream,
    bridge: Bridge,
    http: Client,
}

/// SHA-1 of the stream's id and "test" (XEP-0114, section 3).
const DIGEST: &str = "aaee83c26aeeafcbabeabfcbcd50df997e0a2a1e";

impl World {
    async fn start() -> Self {
        let (listener, function, bridge) = Self::bridge("push.example.com=test").await;
        let stream = Stream::accept(&listener, "push.example.com", DIGEST).await;
        Self { listener, function, stream, bridge, http: Client::new() }
    }

    async fn bridge(components: &str) -> (TcpListener, Function, Bridge) {
        let function = Function::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let settings = settings(&[
            "--server",
            &server,
            "--components",
            components,
            "--iq-url",
            &function.url,
            "--messages-url",
            &function.url,
            "--webhook-secret",
            "s3cret,older",
            "--listen",
            "127.0.0.1:0",
            "--rest-token",
            "token",
            "--timeout-ms",
            "10000",
        ]);
        (listener, function, Bridge::start(settings.unwrap()).await.unwrap())
    }

    fn rest(&self, stanza: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/rest", self.bridge.rest.unwrap());
        let request = self.http.post(url).header("content-type", "application/xmpp+xml");
        request.bearer_auth("token").body(stanza.to_owned())
    }

    /// Waits until `/rest` answers that there is no stream.
    async fn away(&self) -> Response {
        let away = async {
            loop {
                let answer = self.rest("<message to='a@b'/>").send().await.unwrap();
                if answer.status() == 503 {
                    return answer;
                }
            }
        };
        timeout(PATIENCE, away).await.unwrap()
    }
}

const PUBLISH: &str = "<iq type='set' id='p1' from='example.com' to='push.example.com'><pubsub xmlns='x'/></iq>";

#[tokio::test]
async fn an_iq_is_posted_signed_and_answered() {
    let mut world = World::start().await;
    world.stream.write(PUBLISH).await;
    let answer = world.stream.read_to("/>").await;
    for part in ["type=\"result\"", "id=\"p1\"", "from=\"push.example.com\"", "to=\"example.com\""] {
        assert!(answer.contains(part), "{answer}");
    }
    let (headers, body) = world.function.posted.lock().unwrap()[0].clone();
    assert!(body.contains("<pubsub xmlns=\"x\"/>"), "{body}");
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some("application/xmpp+xml"));
    let timestamp = header("webhook-timestamp").unwrap();
    let signed =
        Headers { id: header("webhook-id"), timestamp: Some(timestamp), signature: header("webhook-signature") };
    let now = timestamp.parse().unwrap();
    assert_eq!(signed.verify(&[Key::new("s3cret")], body.as_bytes(), now), Ok(vec![0]));
}

#[tokio::test]
async fn what_the_function_does_not_answer_is_answered_with_wait() {
    let mut world = World::start().await;
    for (status, body) in [
        (503, "<iq type='result' id='p1'/>"),
        (401, ""),
        (200, ""),
        (200, "<message/>"),
        (200, "<iq type='set' id='p1'/>"),
        (200, "not XML"),
    ] {
        world.function.answers(status, body);
        world.stream.write(PUBLISH).await;
        let answer = world.stream.read_to("</iq>").await;
        assert!(answer.contains("<error type=\"wait\">") && answer.contains("id=\"p1\""), "{answer}");
    }
    world.function.answers(200, "<iq type='error' id='z'><error type='cancel'/></iq>");
    world.stream.write(PUBLISH).await;
    assert!(world.stream.read_to("</iq>").await.contains("<error type=\"cancel\""));
}

#[tokio::test]
async fn a_message_is_posted() {
    let mut world = World::start().await;
    world
        .stream
        .write("<presence from='a@b'/><message from='a@b' to='push.example.com'><body>Hi</body></message>")
        .await;
    world.stream.write(PUBLISH).await;
    world.stream.read_to("/>").await;
    let posted = async {
        while world.function.posted.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, posted).await.unwrap();
    let posted = world.function.posted.lock().unwrap();
    assert!(posted.iter().any(|(_, body)| body.contains("<body>Hi</body>")) && posted.len() == 2, "{posted:?}");
}

#[tokio::test]
async fn rest_asks_and_gives_the_answer_of_whom_was_asked() {
    let mut world = World::start().await;
    let asked = tokio::spawn(
        world.rest("<iq type='get' id='mine' from='example.com' to='pubsub.example.com'><q xmlns='x'/></iq>").send(),
    );
    let iq = world.stream.read_to("</iq>").await;
    // A server lets a component speak for itself alone.
    assert!(iq.contains("from=\"push.example.com\"") && iq.contains("to=\"pubsub.example.com\""), "{iq}");
    let id = iq.split("id=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_ne!(id, "mine");
    for from in ["elsewhere.example", "pubsub.example.com"] {
        let kind = if from == "elsewhere.example" { "error" } else { "result" };
        world.stream.write(&format!("<iq type='{kind}' id='{id}' from='{from}' to='push.example.com'/>")).await;
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

/// As ejabberd does with the components of one listener.
#[tokio::test]
async fn an_answer_may_come_by_the_stream_of_another_component() {
    let (listener, function, bridge) = World::bridge("push.example.com=test,push.example.org=test").await;
    let (first, second) = (Stream::accept_any(&listener, DIGEST).await, Stream::accept_any(&listener, DIGEST).await);
    let (stream, mut other) = match (first, second) {
        ((name, stream), (_, other)) if name == "push.example.com" => (stream, other),
        ((_, other), (_, stream)) => (stream, other),
    };
    let mut world = World { listener, function, stream, bridge, http: Client::new() };
    let asked =
        tokio::spawn(world.rest("<iq type='get' id='mine' from='example.com' to='a.b'><q xmlns='x'/></iq>").send());
    let iq = world.stream.read_to("</iq>").await;
    let id = iq.split("id=\"").nth(1).unwrap().split('"').next().unwrap();
    other.write(&format!("<iq type='result' id='{id}' from='a.b' to='push.example.com'/>")).await;
    assert!(asked.await.unwrap().unwrap().text().await.unwrap().contains("type=\"result\""));
}

#[tokio::test]
async fn rest_answers_an_iq_that_is_not_answered_with_wait() {
    let mut world = World::start().await;
    let asked = tokio::spawn(world.rest("<iq type='get' id='mine' to='silent.example'><q xmlns='x'/></iq>").send());
    assert!(world.stream.read_to("</iq>").await.contains("from=\"push.example.com\""));
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let answer = answer.text().await.unwrap();
    assert!(
        answer.contains("<error type=\"wait\"><remote-server-timeout") && answer.contains("id=\"mine\""),
        "{answer}"
    );
}

#[tokio::test]
async fn rest_refuses_as_mod_rest_does() {
    let mut world = World::start().await;
    let ping = "<iq type='get' id='1' to='example.com'><q xmlns='x'/></iq>";
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let raw = || world.http.post(format!("http://{}/rest", world.bridge.rest.unwrap()));
    assert_eq!(status(raw().body(ping)).await, 401);
    assert_eq!(status(raw().header("authorization", "Bearer wrong").body(ping)).await, 403);
    assert_eq!(status(raw().header("authorization", "Bearer token").body(ping)).await, 415);
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
        assert_eq!(status(world.rest(stanza)).await, expected, "{stanza}");
    }
    assert!(world.stream.read_to("/>").await.starts_with("<message"));
}

#[tokio::test]
async fn it_comes_back_after_the_chat_server_was_away() {
    let mut world = World::start().await;
    world.stream.write("<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>").await;
    assert!(world.away().await.headers().contains_key("retry-after"));
    let World { listener, bridge, .. } = world;
    let mut stream = Stream::accept(&listener, "push.example.com", DIGEST).await;
    stream.write(PUBLISH).await;
    stream.read_to("/>").await;
    bridge.stop().await;
    let mut last = String::new();
    timeout(PATIENCE, stream.0.read_to_string(&mut last)).await.unwrap().unwrap();
    assert_eq!(last, "</stream:stream>");
}

#[tokio::test]
async fn what_is_over_a_limit_does_not_end_the_stream() {
    let mut world = World::start().await;
    let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
    let large = format!("<body>{}</body>", "x".repeat(1_000_000));
    for content in [deep, large] {
        world.stream.write(&format!("<message from='a@b' to='push.example.com'>{content}</message>")).await;
        world
            .stream
            .write(&format!("<iq type='get' id='over' from='a@b' to='push.example.com'>{content}</iq>{PUBLISH}"))
            .await;
        let refused = world.stream.read_to("</iq>").await;
        for part in ["id=\"over\"", "to=\"a@b\"", "<error type=\"wait\"><resource-constraint"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert!(world.stream.read_to("/>").await.contains("id=\"p1\""));
    }
    assert_eq!(world.function.posted.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_message_that_is_being_posted_outlasts_the_stream() {
    let mut world = World::start().await;
    let held = world.function.held.lock().await;
    world.stream.write("<message from='a@b' to='push.example.com'><body>Hi</body></message></stream:stream>").await;
    timeout(PATIENCE, world.function.begun.acquire()).await.unwrap().unwrap().forget();
    world.away().await;
    drop(held);
    let posted = async {
        while world.function.posted.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, posted).await.unwrap();
}

#[tokio::test]
async fn what_was_begun_is_answered_before_the_stream_ends() {
    let World { function, mut stream, bridge, .. } = World::start().await;
    let held = function.held.lock().await;
    stream.write(PUBLISH).await;
    timeout(PATIENCE, function.begun.acquire()).await.unwrap().unwrap().forget();
    let stopped = tokio::spawn(bridge.stop());
    drop(held);
    let mut last = String::new();
    timeout(PATIENCE, stream.0.read_to_string(&mut last)).await.unwrap().unwrap();
    assert!(last.contains("id=\"p1\"") && last.ends_with("/></stream:stream>"), "{last}");
    stopped.await.unwrap();
}

#[tokio::test]
async fn after_a_stream_that_lasted_it_comes_back_at_once() {
    let mut world = World::start().await;
    world.stream.write(PUBLISH).await;
    world.stream.read_to("/>").await;
    tokio::time::pause();
    // While it runs, the clock does not go on by itself, so that no wait ends.
    let (came, awaited) = std::sync::mpsc::channel::<()>();
    let clock = tokio::task::spawn_blocking(move || awaited.recv_timeout(PATIENCE));
    tokio::time::advance(Duration::from_secs(11)).await;
    let World { listener, stream, bridge: _bridge, .. } = world;
    let now = tokio::time::Instant::now();
    drop(stream);
    Stream::accept(&listener, "push.example.com", DIGEST).await;
    assert_eq!(now.elapsed(), Duration::ZERO);
    drop(came);
    clock.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_component_that_is_refused_tries_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let settings = settings(&["--server", &server, "--components", "push.example.com=wrong"]).unwrap();
    let bridge = Bridge::start(settings).await.unwrap();
    assert_eq!(bridge.rest, None);
    for _ in 0..2 {
        let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        stream.write_all(b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='1'><stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>").await.unwrap();
    }
}

#[test]
fn a_bad_setting_is_refused_by_its_name() {
    let fine = ["--components", "push.example.com=s"];
    assert!(settings(&fine).is_ok());
    for (name, arguments) in [
        ("SERVER", ["--server", "192.0.2.1:5347"]),
        ("SERVER", ["--server", "tls://chat"]),
        ("IQ_URL", ["--iq-url", "ftp://x"]),
        ("MESSAGES_URL", ["--messages-url", "x"]),
        ("TIMEOUT_MS", ["--timeout-ms", "1"]),
    ] {
        let refused = settings(&[&fine[..], &arguments].concat()).err().unwrap();
        assert!(refused.starts_with(name), "{refused}");
    }
    for components in ["push.example.com", "push.example.com=", "=s3cret", "a=s3cret,a=s3cret"] {
        let refused = settings(&["--components", components]).err().unwrap();
        assert!(refused.starts_with("COMPONENTS") && !refused.contains("s3cret"), "{refused}");
    }
    let served = ["--components", "a=b", "--rest-token", "t"];
    for arguments in [&["--listen", "0.0.0.0:0"][..], &["--tls-key", "k"], &["--listen", "x"]] {
        assert!(settings(&[&served[..], arguments].concat()).is_err());
    }
    assert!(
        settings(&[&served[..], &["--listen", "0.0.0.0:0", "--tls-key", "k", "--tls-certificate", "c"]].concat())
            .is_ok()
    );
}
