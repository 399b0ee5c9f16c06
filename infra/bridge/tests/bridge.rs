//! The bridge between a chat server and a function of the tests' own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
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
use tokio::time::{Instant, pause, resume, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(120);
const WEBHOOK_SECRET: &str = "the secret of the bridge";
const REST_TOKEN: &str = "the token of the worker";

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
    /// The `Retry-After` of its answers.
    retry_after: Arc<Mutex<Option<&'static str>>>,
    /// One permit for each request that has begun.
    begun: Arc<Semaphore>,
    /// While this is locked, requests are not acted on.
    held: Arc<tokio::sync::Mutex<()>>,
}

impl Function {
    async fn start() -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn at(listener: TcpListener) -> Self {
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answer = (200, "<iq type='result' id='any' from='x' to='y'/>".to_owned());
        let function = Self {
            url,
            posted: Arc::default(),
            answer: Arc::new(Mutex::new(answer)),
            retry_after: Arc::default(),
            begun: Arc::new(Semaphore::new(0)),
            held: Arc::default(),
        };
        let router = Router::new().route("/", post(Self::answer)).with_state(function.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        function
    }

    async fn answer(State(function): State<Self>, headers: HeaderMap, body: String) -> (StatusCode, HeaderMap, String) {
        function.begun.add_permits(1);
        let _held = function.held.lock().await;
        function.posted.lock().unwrap().push((headers, body));
        let (status, body) = function.answer.lock().unwrap().clone();
        let retry_after = function.retry_after.lock().unwrap().map(|value| ("retry-after".parse().unwrap(), value));
        let is_problem = body.starts_with('{');
        let problem = is_problem.then(|| ("content-type".parse().unwrap(), "application/problem+json"));
        let headers =
            retry_after.into_iter().chain(problem).map(|(name, value)| (name, value.parse().unwrap())).collect();
        (StatusCode::from_u16(status).unwrap(), headers, body)
    }

    /// Waits until so many requests are acted on.
    async fn posted(&self, times: usize) -> Vec<(HeaderMap, String)> {
        let posted = async {
            while self.posted.lock().unwrap().len() < times {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, posted).await.unwrap();
        self.posted.lock().unwrap().clone()
    }

    /// The distinct bodies that messages had, and how many messages.
    fn bodies(&self) -> (BTreeSet<String>, usize) {
        let posted = self.posted.lock().unwrap();
        let body = |(_, message): &(HeaderMap, String)| {
            message.split("<body>").nth(1).unwrap().split("</body>").next().unwrap().to_owned()
        };
        (posted.iter().map(body).collect(), posted.len())
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

/// While it exists the clock stands still, so that no wait ends; it goes on by itself after a minute.
struct StoppedClock {
    _running: mpsc::Sender<()>,
}

impl StoppedClock {
    fn new() -> Self {
        pause();
        let (_running, ended) = mpsc::channel();
        // The clock jumps to the next timer only while there is no blocking task.
        tokio::task::spawn_blocking(move || ended.recv_timeout(Duration::from_secs(60)));
        Self { _running }
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
        let function = Function::start().await;
        let (listener, bridge) = Self::bridge("push.example.com=test", &function, &function.url, &[]).await;
        Self::connected(listener, function, bridge).await
    }

    /// With a function for messages of their own, which is the second of the two.
    async fn with_messages(arguments: &[&str]) -> (Self, Function) {
        let (iqs, messages) = (Function::start().await, Function::start().await);
        let (listener, bridge) = Self::bridge("push.example.com=test", &iqs, &messages.url, arguments).await;
        (Self::connected(listener, iqs, bridge).await, messages)
    }

    async fn connected(listener: TcpListener, function: Function, bridge: Bridge) -> Self {
        let stream = Stream::accept(&listener, "push.example.com", DIGEST).await;
        Self { listener, function, stream, bridge, http: Client::new() }
    }

    async fn bridge(components: &str, iqs: &Function, messages_url: &str, more: &[&str]) -> (TcpListener, Bridge) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let defaults = [
            ["--server", &server],
            ["--components", components],
            ["--iq-url", &iqs.url],
            ["--messages-url", messages_url],
            ["--webhook-secret", &format!("{WEBHOOK_SECRET},an older secret of the bridge")],
            ["--listen", "127.0.0.1:0"],
            ["--rest-token", REST_TOKEN],
            ["--timeout-ms", "10000"],
        ];
        let defaults = defaults.iter().filter(|[name, _]| !more.contains(name)).flatten().copied();
        let settings = settings(&defaults.chain(more.iter().copied()).collect::<Vec<_>>());
        (listener, Bridge::start(settings.unwrap()).await.unwrap())
    }

    /// A connection to `/rest` that has sent `text`.
    async fn raw_rest(&self, text: &str) -> TcpStream {
        let mut caller = TcpStream::connect(self.bridge.rest.unwrap()).await.unwrap();
        caller.write_all(text.as_bytes()).await.unwrap();
        caller
    }

    fn rest(&self, stanza: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/rest", self.bridge.rest.unwrap());
        let request = self.http.post(url).header("content-type", "application/xmpp+xml");
        request.bearer_auth(REST_TOKEN).body(stanza.to_owned())
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
    assert_eq!(signed.verify(&[Key::new(WEBHOOK_SECRET).unwrap()], body.as_bytes(), now), Ok(vec![0]));
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
    let posted = world.function.posted(2).await;
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
    let function = Function::start().await;
    let components = "push.example.com=test,push.example.org=test";
    let (listener, bridge) = World::bridge(components, &function, &function.url, &[]).await;
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
    world.function.posted(1).await;
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
    let clock = StoppedClock::new();
    tokio::time::advance(Duration::from_secs(11)).await;
    let World { listener, stream, bridge: _bridge, .. } = world;
    let now = Instant::now();
    drop(stream);
    Stream::accept(&listener, "push.example.com", DIGEST).await;
    assert_eq!(now.elapsed(), Duration::ZERO);
    drop(clock);
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
    let no_url = "it is no URL such as https://push.example.com";
    let no_server =
        "it must be an address and port of loopback, since a component's stream is clear text, or tls://HOST:PORT";
    for (option, value, refusal) in [
        ("--server", "192.0.2.1:5347", format!("SERVER: {no_server}")),
        ("--server", "localhost", format!("SERVER: {no_server}")),
        ("--server", "tls://chat", "SERVER: tls:// is followed by HOST:PORT".into()),
        ("--iq-url", "ftp://s3cret", format!("IQ_URL: {no_url}")),
        ("--iq-url", " ", format!("IQ_URL: {no_url}")),
        ("--messages-url", "s3cret.example.com", format!("MESSAGES_URL: {no_url}")),
        ("--webhook-secret", ",", "WEBHOOK_SECRET: number 1 of the list is empty".into()),
        ("--webhook-secret", "s3cret", "WEBHOOK_SECRET: number 1: a secret must have at least 16 bytes".into()),
        ("--webhook-secret", "whsec_!!", "WEBHOOK_SECRET: number 1: whsec_ must be followed by base64".into()),
        (
            "--webhook-secret",
            "arn:aws:secretsmanager:eu-west-1:000000000000:secret:webhook",
            "WEBHOOK_SECRET: the bridge needs the secret itself, not its ARN or its file".into(),
        ),
        ("--timeout-ms", "1", "TIMEOUT_MS: 1 is not between 100 and 60000".into()),
        ("--queue-bytes", "1048575", "QUEUE_BYTES: 1048575 is not between 1048576 and 1073741824".into()),
        ("--queue-bytes", "1073741825", "QUEUE_BYTES: 1073741825 is not between 1048576 and 1073741824".into()),
        ("--retry-seconds", "86401", "RETRY_SECONDS: 86401 is not between 0 and 86400".into()),
        ("--rest-token", "fifteen bytes..", "REST_TOKEN: it has 15 bytes, at least 16 are required".into()),
        ("--rest-token", " fifteen bytes.. ", "REST_TOKEN: it has 15 bytes, at least 16 are required".into()),
        ("--rest-token", " ", "REST_TOKEN: it has 0 bytes, at least 16 are required".into()),
        ("--listen", "5281", "LISTEN: \"5281\" is no address and port such as 127.0.0.1:5281".into()),
        ("--tls-key", "k", "TLS_KEY: it needs TLS_CERTIFICATE, too".into()),
        ("--tls-certificate", "c", "TLS_CERTIFICATE: it needs TLS_KEY, too".into()),
    ] {
        assert_eq!(settings(&[&fine[..], &[option, value]].concat()).err(), Some(refusal), "{option} {value}");
    }
    for (components, refusal) in [
        ("", "COMPONENTS must be set: the components to be, NAME=SECRET each"),
        ("push.example.com", "COMPONENTS: number 1 is not NAME=SECRET"),
        ("a=s3cret,", "COMPONENTS: number 2 is not NAME=SECRET"),
        ("push.example.com=", "COMPONENTS: push.example.com has no secret"),
        ("a=s3cret,a=s3cret", "COMPONENTS: a stands twice"),
    ] {
        assert_eq!(settings(&["--components", components]).err().unwrap(), refusal);
    }
    let unnamed = settings(&["--components", "=s3cret"]).err().unwrap();
    assert!(unnamed.starts_with("COMPONENTS: the name of number 1: ") && !unnamed.contains("s3cret"), "{unnamed}");
    let served = [&fine[..], &["--rest-token", "sixteen bytes..."]].concat();
    assert!(settings(&served).is_ok());
    let everywhere = [&served[..], &["--listen", "0.0.0.0:0"]].concat();
    let refused = settings(&everywhere).err().unwrap();
    assert_eq!(refused, "LISTEN: beyond loopback it needs TLS_CERTIFICATE and TLS_KEY");
    assert!(settings(&[&everywhere[..], &["--tls-key", "k", "--tls-certificate", "c"]].concat()).is_ok());
}

#[test]
fn an_option_that_is_no_number_says_so() {
    for option in ["--timeout-ms", "--queue-bytes", "--retry-seconds"] {
        for (value, refusal) in [("abc", "\"abc\" is no whole number"), ("-1", "-1 is not between 0 and 4294967295")] {
            let arguments = ["bridge", &format!("{option}={value}")].map(str::to_owned);
            let refused = Arguments::try_parse_from(arguments).err().unwrap().to_string();
            assert!(refused.contains(option) && refused.contains(refusal), "{refused}");
        }
    }
}

#[test]
fn a_secret_of_a_domain_is_read_as_the_functions_read_it() {
    let of = |secrets: &str| settings(&["--components", "a=b", "--webhook-secret", secrets]);
    // Fifteen bytes without the domain.
    assert!(of("example.com=fifteen bytes..").is_err());
    assert!(of("example.com=sixteen bytes..., short").is_ok());
}

fn message(body: impl std::fmt::Display) -> String {
    format!("<message from='alice@example.com/pc' to='bob@push.example.com' type='chat'><body>{body}</body></message>")
}

fn numbers(count: usize) -> BTreeSet<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_burst_of_messages_is_posted_completely_and_once_and_delays_no_iq() {
    let (mut world, messages) = World::with_messages(&["--timeout-ms", "20000"]).await;
    let held = messages.held.lock().await;
    let burst: String = (0..2_000).map(message).collect();
    world.stream.write(&burst).await;
    world.stream.write(PUBLISH).await;
    assert!(world.stream.read_to("/>").await.contains("id=\"p1\""));
    assert!(messages.posted.lock().unwrap().is_empty());
    drop(held);
    messages.posted(2_000).await;
    assert_eq!(messages.bodies(), (numbers(2_000), 2_000));
}

#[tokio::test]
async fn the_stream_is_not_read_while_the_queue_is_full() {
    const COUNT: usize = 250;
    let (world, messages) = World::with_messages(&["--queue-bytes", "1048576"]).await;
    // No post times out, and no message is given up.
    let _clock = StoppedClock::new();
    let held = messages.held.lock().await;
    let written = Arc::new(AtomicUsize::new(0));
    let World { stream: Stream(mut stream), bridge: _bridge, .. } = world;
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
    // The queue, and what the system keeps for both ends of a connection.
    assert!(last < 14_000_000, "{last}");
    assert!(messages.begun.available_permits() <= 16, "{}", messages.begun.available_permits());
    drop(held);
    while messages.posted.lock().unwrap().len() < COUNT {
        assert!(changed.elapsed() < 3 * PATIENCE, "{:?}", messages.bodies());
        tokio::task::yield_now().await;
    }
    assert_eq!(messages.bodies(), (numbers(COUNT), COUNT));
}

#[tokio::test]
async fn while_a_function_takes_no_message_callers_and_iqs_are_answered_all_the_same() {
    let (mut world, messages) = World::with_messages(&["--queue-bytes", "1048576", "--timeout-ms", "2000"]).await;
    let _held = messages.held.lock().await;
    let padding = "x".repeat(200_000);
    for number in 0..8 {
        world.stream.write(&message(format!("{number}{padding}"))).await;
    }
    timeout(PATIENCE, messages.begun.acquire_many(5)).await.unwrap().unwrap().forget();
    pause();
    let begun = Instant::now();
    let asked = tokio::spawn(world.rest("<iq type='get' id='mine' to='a.b'><q xmlns='x'/></iq>").send());
    let iq = timeout(Duration::from_secs(60), world.stream.0.read_until(b'>', &mut Vec::new())).await;
    iq.unwrap().unwrap();
    // The answer is behind messages that find no room.
    world.stream.write("<iq type='result' id='?' from='a.b' to='push.example.com'/>").await;
    world.stream.write(PUBLISH).await;
    let answer = asked.await.unwrap().unwrap().text().await.unwrap();
    assert!(answer.contains("<remote-server-timeout"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("id=\"p1\"") {
        timeout(Duration::from_secs(60), world.stream.0.read_until(b'>', &mut text)).await.unwrap().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_message_is_posted_until_it_is_taken() {
    let (mut world, messages) = World::with_messages(&[]).await;
    messages.answers(429, "");
    *messages.retry_after.lock().unwrap() = Some("40");
    pause();
    world.stream.write(&message("once")).await;
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
async fn a_message_waits_for_a_function_that_cannot_be_connected() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nowhere.local_addr().unwrap();
    drop(nowhere);
    let iqs = Function::start().await;
    let (listener, bridge) = World::bridge("push.example.com=test", &iqs, &format!("http://{address}/"), &[]).await;
    let mut world = World::connected(listener, iqs, bridge).await;
    world.stream.write(&message("waits")).await;
    world.stream.write(PUBLISH).await;
    world.stream.read_to("/>").await;
    // The stream ends, too, and another follows.
    let World { listener, bridge: _bridge, stream, .. } = world;
    drop(stream);
    let _stream = Stream::accept(&listener, "push.example.com", DIGEST).await;
    let messages = Function::at(TcpListener::bind(address).await.unwrap());
    messages.posted(1).await;
    assert_eq!(messages.bodies().0, BTreeSet::from(["waits".to_owned()]));
}

#[tokio::test]
async fn a_message_that_the_function_calls_bad_is_posted_once() {
    let (mut world, messages) = World::with_messages(&[]).await;
    messages.answers(400, "");
    world.stream.write(&message("bad")).await;
    messages.posted(1).await;
    pause();
    sleep(Duration::from_secs(1_000)).await;
    assert_eq!(messages.posted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_iq_is_answered_by_the_stream_that_follows() {
    let World { listener, function, mut stream, bridge: _bridge, .. } = World::start().await;
    let held = function.held.lock().await;
    stream.write(PUBLISH).await;
    timeout(PATIENCE, function.begun.acquire()).await.unwrap().unwrap().forget();
    // No post times out before the next stream.
    drop(stream);
    let accepted = Stream::accept(&listener, "push.example.com", DIGEST);
    let mut stream = timeout(PATIENCE, accepted).await.unwrap();
    drop(held);
    assert!(stream.read_to("/>").await.contains("id=\"p1\""));
}

/// The program, whose log is read, and the chat server's end of its stream.
async fn program(urls: [&str; 4]) -> (Child, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bridge = Command::new(env!("CARGO_BIN_EXE_bridge"))
        .args(["--server", &listener.local_addr().unwrap().to_string(), "--components", "push.example.com=test"])
        .args(urls)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    (bridge, Stream::accept(&listener, "push.example.com", DIGEST).await)
}

/// Stops the program, and gives its log.
async fn log_of(mut bridge: Child) -> String {
    Command::new("kill").args(["-TERM", &bridge.id().to_string()]).status().unwrap();
    let logged = tokio::task::spawn_blocking(move || {
        let mut logged = String::new();
        bridge.stdout.take().unwrap().read_to_string(&mut logged).unwrap();
        assert!(bridge.wait().unwrap().success());
        logged
    });
    timeout(PATIENCE, logged).await.unwrap().unwrap()
}

/// The log has the URL and the detail of the function's answer; the error for the sender of an IQ has the reason.
#[tokio::test]
async fn a_wrong_secret_says_so() {
    let function = Function::start().await;
    function.answers(401, r#"{"status": 401, "detail": "the credential is none of ours"}"#);
    let with_token = format!("{}?token=a-secret-in-a-url", function.url);
    let (bridge, mut stream) = program(["--iq-url", &with_token, "--messages-url", &with_token]).await;
    stream.write(PUBLISH).await;
    let answer = stream.read_to("</iq>").await;
    assert!(
        answer.contains("<error type=\"wait\">") && answer.contains("administrator must check the secret"),
        "{answer}"
    );
    stream.write(&message("body")).await;
    function.posted(2).await;
    let logged = log_of(bridge).await;
    for line in ["an IQ is not answered by the function", "messages are lost"] {
        let line = logged.lines().find(|logged| logged.contains(line)).unwrap();
        assert!(line.contains("status 401: the credential is none of ours"), "{line}");
    }
    assert!(logged.contains(&format!("url=\"{}\"", function.url)) && !logged.contains("a-secret-in-a-url"), "{logged}");
}

#[tokio::test]
async fn messages_that_are_lost_are_counted_in_the_log() {
    let messages = Function::start().await;
    messages.answers(503, "");
    let (bridge, mut stream) = program(["--messages-url", &messages.url, "--iq-url", &messages.url]).await;
    for number in 0..3 {
        stream.write(&message(format!("body {number}"))).await;
    }
    messages.posted(3).await;
    let logged = log_of(bridge).await;
    // Each is tried once more when the bridge stops.
    assert!(messages.posted.lock().unwrap().len() >= 6);
    let lost: Vec<_> = logged.lines().filter(|line| line.contains("messages are lost")).collect();
    assert!(lost.len() == 1 && lost[0].contains("messages=3") && lost[0].contains("503"), "{logged}");
    assert!(!logged.contains("body 1"), "{logged}");
}

#[tokio::test]
async fn a_caller_of_rest_who_sends_slowly_is_cut_off() {
    let world = World::start().await;
    let whole = format!(
        "POST /rest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {REST_TOKEN}\r\n\
         Content-Type: application/xmpp+xml\r\nContent-Length: 1000\r\n\r\n<iq"
    );
    let (mut header, mut body) = (world.raw_rest(&whole[..60]).await, world.raw_rest(&whole).await);
    pause();
    let begun = Instant::now();
    for (caller, expected, seconds) in [(&mut header, "", 5..12), (&mut body, "HTTP/1.1 408 ", 25..32)] {
        let mut answer = String::new();
        timeout(Duration::from_secs(60), caller.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{answer}");
        assert!(seconds.contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
    resume();
    assert_eq!(world.rest("<message to='a@b'/>").send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn the_body_of_a_caller_with_a_wrong_token_is_not_read() {
    let world = World::start().await;
    for (credential, expected) in [("", 401), ("Authorization: Bearer the wrong token ..\r\n", 403)] {
        let header = format!("POST /rest HTTP/1.1\r\nHost: x\r\n{credential}Content-Type: application/xmpp+xml\r\n");
        let mut caller =
            world.raw_rest(&format!("{header}Transfer-Encoding: chunked\r\n\r\n4000\r\n{:<16384}\r\n", "<iq")).await;
        let mut answer = [0; 12];
        timeout(PATIENCE, caller.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {expected}"));
    }
    let large = world.rest(&format!("<message to='a@b'><body>{}</body></message>", "x".repeat(256 * 1024)));
    assert_eq!(large.send().await.unwrap().status(), 413);
}

#[tokio::test]
async fn a_token_may_stand_between_blanks() {
    let function = Function::start().await;
    let token = format!(" {REST_TOKEN}\n");
    let (_listener, bridge) =
        World::bridge("push.example.com=test", &function, &function.url, &["--rest-token", &token]).await;
    let url = format!("http://{}/rest", bridge.rest.unwrap());
    let answer = Client::new().post(url).bearer_auth(REST_TOKEN).send().await.unwrap();
    assert_eq!(answer.status(), 415);
}
