//! The stack as a process: its output, data after a SIGKILL, its data folder, timeouts, and settings.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::http::StatusCode;
use axum::routing::post;
use local::{Options, Stack};
use reqwest::Client;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long a test waits for a condition: far longer than it takes on a machine that compiles beside the tests.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

struct StackProcess {
    child: Child,
    url: String,
    /// The lines that it has printed since its start line.
    printed: Arc<Mutex<Vec<String>>>,
}

impl StackProcess {
    /// Starts the stack with its data in `folder`, and waits for its start line.
    fn start(folder: &Path, push_service: &str) -> Self {
        Self::start_with(folder, push_service, &[])
    }

    fn start_with(folder: &Path, push_service: &str, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pushlark-local"))
            .args(["--port", "0", "--data"])
            .arg(folder)
            .env("MONGOOSEPUSH_URL", push_service)
            .env("NO_COLOR", "1")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with("Pushlark is at")).unwrap();
        let url = line.split(' ').nth(3).unwrap().strip_suffix("/enable,").unwrap().to_owned();
        let printed = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&printed);
        // Without a reader, the process would block.
        std::thread::spawn(move || lines.for_each(|line| kept.lock().unwrap().push(line)));
        Self { child, url, printed }
    }

    async fn post(&self, path: &str, body: Value) -> u16 {
        let request = Client::new().post(format!("{}{path}", self.url)).json(&body);
        request.send().await.unwrap().status().as_u16()
    }

    /// Waits for `count` lines of a kind. Returns all lines of this kind.
    async fn printed(&self, count: usize, is_of_kind: impl Fn(&str) -> bool) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let printed = self.printed.lock().unwrap().clone();
            let lines: Vec<_> = printed.into_iter().filter(|line| is_of_kind(line)).collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(begun.elapsed() < TEST_TIMEOUT, "{lines:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for StackProcess {
    fn drop(&mut self) {
        // It is already dead if the test killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A push service that sends the device of each notification to the receiver.
async fn push_service(listener: TcpListener) -> UnboundedReceiver<String> {
    let (notified, received) = unbounded_channel();
    let answer = async |State(notified): State<UnboundedSender<String>>, Segment(device): Segment<String>| {
        notified.send(device).unwrap();
        StatusCode::OK
    };
    let router = Router::new().route("/v3/notification/{device_id}", post(answer)).with_state(notified);
    tokio::spawn(async move { axum::serve(listener, router).await });
    received
}

fn folder(name: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

#[tokio::test]
async fn an_accepted_event_survives_a_kill_right_after_its_202() {
    let folder = folder("killed");
    // Connections are refused until it listens, and the port is reserved.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let push_service_url = format!("http://{}", socket.local_addr().unwrap());

    let stack = StackProcess::start(&folder, &push_service_url);
    let form = json!({"service": "fcm", "device_id": "phone"});
    let enable = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "n", "form": form});
    assert_eq!(stack.post("/enable", enable).await, 200);
    let message = json!({"type": "message", "from": "a@b/c", "to": "bob@example.com", "chat": "chat", "body": "Hi"});
    assert_eq!(stack.post("/events", message).await, 202);
    stack.kill();

    let mut notified = push_service(socket.listen(1024).unwrap()).await;
    let _stack = StackProcess::start(&folder, &push_service_url);
    let device = tokio::time::timeout(TEST_TIMEOUT, notified.recv()).await;
    assert_eq!(device.expect("notified in time").unwrap(), "phone");
}

/// If there is a secret, the commands read it from `$SECRET`.
#[tokio::test]
async fn the_printed_commands_work() {
    const UNPRINTED_SECRET: &str = "a-secret-that-is-not-printed";
    for (name, settings) in [("open", &[][..]), ("closed", &[("WEBHOOK_SECRET", UNPRINTED_SECRET)])] {
        let stack = StackProcess::start_with(&folder(name), "http://127.0.0.1:9", settings);
        let commands = stack.printed(3, |line| line.starts_with("  curl ")).await;
        assert_eq!(commands.len(), 3);
        assert!(!stack.printed.lock().unwrap().join("\n").contains(UNPRINTED_SECRET));
        let script =
            format!("set -e\ncurl() {{ command curl --silent --fail-with-body \"$@\"; }}\n{}", commands.join("\n"));
        let mut bash = tokio::process::Command::new("bash");
        let ran = bash.arg("-c").arg(script).env("SECRET", UNPRINTED_SECRET).output().await.unwrap();
        assert!(ran.status.success(), "{name}: {commands:?}: {}", String::from_utf8_lossy(&ran.stdout));
    }
}

#[tokio::test]
async fn each_event_has_one_log_line_with_the_reason_but_without_the_text() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let push_service_url = format!("http://{}", listener.local_addr().unwrap());
    let mut notified = push_service(listener).await;
    let stack = StackProcess::start(&folder("logged"), &push_service_url);
    let form = json!({"service": "fcm", "device_id": "device-token"});
    let enable = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "device-node", "form": form});
    assert_eq!(stack.post("/enable", enable).await, 200);
    let message = |id: &str, to: &str, at: OffsetDateTime| {
        json!({"type": "message", "id": id, "from": "a@b/c", "to": to, "chat": "chat", "body": "what was said",
            "at": at.format(&Rfc3339).unwrap()})
    };
    let now = OffsetDateTime::now_utc();
    let events = json!([
        message("m-1", "bob@example.com", now),
        message("m-2", "carol@example.com", now),
        message("m-3", "bob@example.com", now - Duration::from_hours(48))
    ]);
    assert_eq!(stack.post("/events", events).await, 202);
    assert_eq!(notified.recv().await.unwrap(), "device-token");
    let lines = stack.printed(3, |line| line.contains("m-")).await;
    for (id, said) in [
        ("m-1", "notified id=\"m-1\" to=\"bob@example.com\" delivered=1"),
        ("m-2", "not notified id=\"m-2\" to=\"carol@example.com\" why=\"no-registration\""),
        ("m-3", "not notified id=\"m-3\" to=\"bob@example.com\" why=\"expired\""),
    ] {
        let lines: Vec<_> = lines.iter().filter(|line| line.contains(id)).collect();
        assert!(lines.len() == 1 && lines[0].contains(" INFO ") && lines[0].contains(said), "{lines:?}");
    }
    for line in &*stack.printed.lock().unwrap() {
        assert!(!["what was said", "device-token", "device-node"].iter().any(|secret| line.contains(secret)), "{line}");
    }
}

#[test]
fn a_data_folder_belongs_to_one_process() {
    let folder = folder("locked");
    let first = StackProcess::start(&folder, "http://127.0.0.1:9");
    let pid = first.child.id();
    let mut second = Command::new(env!("CARGO_BIN_EXE_pushlark-local"));
    second.args(["--port", "0", "--data"]).arg(&folder).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut second = second.spawn().unwrap();
    let begun = Instant::now();
    while second.try_wait().unwrap().is_none() && begun.elapsed() < TEST_TIMEOUT {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Has no effect if it has ended, as it must.
    second.kill().unwrap();
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("{} is in use by the process {pid}.", folder.display())), "{said}");
    first.kill();
    // The system has released the lock at once.
    StackProcess::start(&folder, "http://127.0.0.1:9");
}

#[tokio::test]
async fn a_slow_client_is_disconnected() {
    let timeouts = Duration::from_secs(1);
    let options = Options { header_timeout: timeouts, body_timeout: timeouts, ..Options::default() };
    let stack = Stack::start(options).await.unwrap();
    for (url, path) in [(&stack.url, "/events"), (&stack.sqs_url, "/")] {
        let address = url.strip_prefix("http://").unwrap();
        let whole = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{");
        for (sent, expected) in [(&whole[..20], ""), (&whole, "HTTP/1.1 408 ")] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(sent.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let read = tokio::time::timeout(Duration::from_secs(20), client.read_to_string(&mut answer)).await;
            read.expect("disconnected").unwrap();
            assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{answer}");
        }
    }
    stack.stop().await;
}

#[test]
fn a_port_in_use_is_reported() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let output =
        Command::new(env!("CARGO_BIN_EXE_pushlark-local")).args(["--memory", "--port", &port]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("port {port} is taken")), "{said}");
}

#[test]
fn the_error_of_an_invalid_setting_names_it() {
    for (name, value) in [("WORKER_CONCURRENCY", "0"), ("PLUGIN", "none"), ("VIRTUAL_PUBSUB_HOSTS", "push.@HOSTS@")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushlark-local"));
        let output = command.args(["--memory", "--port", "0"]).env(name, value).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("{name}: ")), "{said}");
    }
}

/// Measures processor time, so that other programs do not count.
#[test]
fn the_stack_starts_within_two_seconds_and_stops_on_sigterm() {
    let started = Instant::now();
    let mut stack = StackProcess::start(&folder("started"), "http://127.0.0.1:9");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", stack.child.id())).unwrap();
    // proc(5): utime and stime, in hundredths of a second.
    let times = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
    let processor_time = Duration::from_millis(times.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum());
    assert!(processor_time < Duration::from_secs(2), "{processor_time:?}");
    assert!(started.elapsed() < TEST_TIMEOUT, "{:?}", started.elapsed());
    let terminated = Command::new("kill").args(["-TERM", &stack.child.id().to_string()]).status().unwrap();
    assert!(terminated.success());
    assert!(stack.child.wait().unwrap().success());
}

/// The bridge in the stack signs with the `WEBHOOK_SECRET` of the functions, unless it has a secret of its own.
#[tokio::test]
async fn the_bridge_signs_with_the_secret_of_the_functions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let bridge = [("BRIDGE_SERVER", &*server), ("BRIDGE_COMPONENTS", "push.localhost=secret")];
    for (name, bridge_secret, expected) in
        [("shared", "", "type=\"result\""), ("own", "another secret of the bridge", "type=\"error\"")]
    {
        let functions = [("WEBHOOK_SECRET", "the secret of the functions"), ("BRIDGE_WEBHOOK_SECRET", bridge_secret)];
        let settings: Vec<_> = bridge.into_iter().chain(functions).filter(|(_, value)| !value.is_empty()).collect();
        let folder = folder(&format!("bridge-{name}"));
        let _stack = StackProcess::start_with(&folder, "http://127.0.0.1:9", &settings);
        let (mut stream, _) = tokio::time::timeout(TEST_TIMEOUT, listener.accept()).await.unwrap().unwrap();
        let iq = "<iq type='get' id='1' from='bob@localhost/pc' to='push.localhost'>\
            <query xmlns='http://jabber.org/protocol/disco#info'/></iq>";
        let header = "<stream:stream xmlns='jabber:component:accept' \
            xmlns:stream='http://etherx.jabber.org/streams' id='1'><handshake/>";
        stream.write_all(format!("{header}{iq}").as_bytes()).await.unwrap();
        let mut received = String::new();
        while !received.contains("<iq ") {
            let mut bytes = [0; 4096];
            let length = tokio::time::timeout(TEST_TIMEOUT, stream.read(&mut bytes)).await.unwrap().unwrap();
            assert!(length > 0, "{received}");
            received += &String::from_utf8_lossy(&bytes[..length]);
        }
        assert!(received.contains(expected), "{name}: {received}");
    }
}

#[test]
fn an_old_variable_of_the_bridge_is_refused_only_for_the_bridge() {
    let components = ("COMPONENTS", "push.localhost=secret");
    let refused = |name: &str| format!("{name}: the bridge no longer reads this variable, set BRIDGE_{name}");
    for (variables, error) in [
        (&[components][..], refused("COMPONENTS")),
        (&[("BRIDGE_COMPONENTS", "push.localhost=secret"), ("SERVER", "127.0.0.1:5347")], refused("SERVER")),
        // The error of a setting of the functions: the variables of the bridge are accepted.
        (&[("SERVER", "127.0.0.1:5347"), ("PLUGIN", "none")], "PLUGIN: ".into()),
        (
            &[("BRIDGE_COMPONENTS", "push.localhost=secret"), ("LOG_LEVEL", "info"), ("PLUGIN", "none")],
            "PLUGIN: ".into(),
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushlark-local"));
        let output = command.args(["--memory", "--port", "0"]).envs(variables.iter().copied()).output().unwrap();
        assert!(!output.status.success());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(&error), "{variables:?}: {errors}");
    }
}
