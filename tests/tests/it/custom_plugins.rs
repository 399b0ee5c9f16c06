//! Plugins of an operator's own: the examples, and a function that fails.

use std::future::pending;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use doubles::planted;
use example_rooms::Rooms;
use local::sqs::Clock;
use local::{Options, Stack};
use pushlark_plugin::Plugins;
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tests::{PATIENCE, Pushlark, ago, eventually};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::time::Instant;
use worker::{Invocation, Worker};

use crate::pages::of_page;

const BOB: &str = "bob@example.com";
const ROOM: &str = "team@muc.example.com/alice";

async fn with_rooms(settings: &[(&str, &str)]) -> Pushlark {
    let mut environment =
        Environment::from_iter([("PLUGIN", "rooms"), ("ROOM_NAMES", r#"{"Team@muc.example.com": "The Team"}"#)]);
    environment.extend(settings.iter().copied());
    let plugins = Plugins::built_in().with("rooms", Rooms::from_environment(&environment).unwrap());
    Pushlark::with(Options { plugins, environment, ..Options::default() }).await
}

fn group_message(from: &str, to: Value, body: &str) -> Value {
    json!({"type": "message", "from": from, "to": to, "chat": "groupchat", "body": body})
}

async fn alert(pushlark: &Pushlark, device: &str, number: usize) -> Value {
    pushlark.notified(device, number).await[number - 1]["notification"]["alert"].clone()
}

#[tokio::test]
async fn rooms_have_names_and_all_else_is_the_defaults() {
    let pushlark = with_rooms(&[]).await;
    pushlark.enable(BOB, "phone").await;
    for (number, (from, title)) in [
        (ROOM, "The Team (alice)"),
        ("team@muc.example.com", "The Team"),
        ("lobby@muc.example.com/al ice", "lobby (al ice)"),
    ]
    .into_iter()
    .enumerate()
    {
        pushlark.event(group_message(from, json!(BOB), "planted Hi")).await;
        let expected = json!({"body": "planted Hi", "title": title, "tag": title, "badge": 1});
        assert_eq!(alert(&pushlark, "phone", number + 1).await, expected);
    }
    pushlark.message(BOB, "planted: direct").await;
    assert_eq!(alert(&pushlark, "phone", 4).await["title"], "alice@example.com");
    let mut online = group_message(ROOM, json!(BOB), "online");
    online["recipient"] = json!({"online": true});
    pushlark.event(online).await;
    pushlark.event(group_message(ROOM, json!(BOB), "")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await.len(), 4);
}

/// As `docs/plugin-rust.md` has it.
#[tokio::test]
async fn the_local_stack_takes_plugins() {
    let plugins = Plugins::built_in().with("rooms", Rooms::default());
    let environment = Environment::from_iter([("PLUGIN", "rooms")]);
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    pushlark.enable("bob@example.com", "phone").await;
    pushlark.message("bob@example.com", "Hi").await;
    let notified = pushlark.notified("phone", 1).await;
    assert_eq!(notified[0]["notification"]["alert"]["body"], "Hi");
}

#[tokio::test]
async fn a_rooms_name_is_not_told_where_the_sender_is_not() {
    let pushlark = with_rooms(&[("INCLUDE_SENDER", "off")]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(group_message(ROOM, json!(BOB), "planted Hi")).await;
    assert_eq!(alert(&pushlark, "phone", 1).await, json!({"body": "planted Hi", "title": "New message", "badge": 1}));
}

/// From and to so many hours from now, by a clock of this offset.
fn quiet_hours(from: i64, to: i64, offset: i64) -> Value {
    let clock = |hours: i64| {
        let time = OffsetDateTime::now_utc() + time::Duration::hours(hours + offset);
        format!("{:02}:{:02}", time.hour(), time.minute())
    };
    let sign = if offset < 0 { '-' } else { '+' };
    json!({"quiet_hours": format!("{}-{}{sign}{:02}:00", clock(from), clock(to), offset.abs())})
}

#[tokio::test]
async fn a_device_is_not_notified_in_its_quiet_hours() {
    let pushlark = with_rooms(&[]).await;
    for (device, options) in [
        ("quiet", quiet_hours(-2, 2, 0)),
        ("quiet-east", quiet_hours(-10, 10, 11)),
        ("quiet-west", quiet_hours(-10, 10, -9)),
        ("quiet-later", quiet_hours(2, 4, 0)),
        ("malformed", json!({"quiet_hours": "at night"})),
        ("always", json!({})),
    ] {
        pushlark.enable_with(BOB, device, options).await;
    }
    pushlark.message(BOB, "planted Hi").await;
    pushlark.settled().await;
    for (device, times) in
        [("quiet", 0), ("quiet-east", 0), ("quiet-west", 0), ("quiet-later", 1), ("malformed", 1), ("always", 1)]
    {
        assert_eq!(pushlark.alerts(device).await.len(), times, "{device}");
    }
    let event =
        json!({"type": "message", "from": "alice@example.com", "to": BOB, "chat": "chat", "body": "planted Hi"});
    let explained = pushlark.json("/explain", json!({"explain": [event]})).await.json();
    let left_out = explained["explained"][0]["recipients"][0]["left_out"].as_array().unwrap().clone();
    assert_eq!(left_out.len(), 3);
    for left_out in left_out {
        assert_eq!(left_out["why"], "rooms: the device has quiet hours");
    }
    let urgent = "<message type='chat'><body>Fire</body>\
                  <headers xmlns='http://jabber.org/protocol/shim'><header name='Urgency'>high</header></headers></message>";
    pushlark.event(json!({"type": "message", "from": "alice@example.com", "to": BOB, "stanza": urgent})).await;
    for device in ["quiet", "quiet-east", "quiet-west"] {
        pushlark.notified(device, 1).await;
    }
}

/// A double of Lambda with one function, `my-plugin`.
#[derive(Clone)]
struct Lambda(Arc<Mutex<LambdaState>>);

struct LambdaState {
    behaviour: Behaviour,
    /// What was asked in each call.
    calls: Vec<Vec<Value>>,
}

#[derive(Clone, Debug)]
enum Behaviour {
    /// The example in Python answers.
    Python(Python),
    /// Each event is answered so.
    Each(Value),
    /// All of the answer.
    Answers(u16, &'static str),
    /// The function fails.
    Fails,
    /// The function takes so long.
    Takes(Duration),
    /// Nothing is ever answered.
    Hangs,
}

impl Lambda {
    async fn start(behaviour: Behaviour) -> (Self, String) {
        let lambda = Self(Arc::new(Mutex::new(LambdaState { behaviour, calls: Vec::new() })));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router =
            Router::new().route("/2015-03-31/functions/{name}/invocations", post(invoke)).with_state(lambda.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (lambda, url)
    }

    fn behave(&self, behaviour: Behaviour) {
        self.0.lock().unwrap().behaviour = behaviour;
    }

    fn calls(&self) -> Vec<Vec<Value>> {
        self.0.lock().unwrap().calls.clone()
    }
}

async fn invoke(
    State(lambda): State<Lambda>,
    Path(name): Path<String>,
    body: String,
) -> (StatusCode, HeaderMap, String) {
    assert_eq!(name, "my-plugin");
    let request: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(request["version"], 1);
    let events = request["events"].as_array().unwrap().clone();
    let behaviour = {
        let mut state = lambda.0.lock().unwrap();
        state.calls.push(events.clone());
        state.behaviour.clone()
    };
    let mut headers = HeaderMap::new();
    let each = |answer: Value| json!({"events": vec![answer; events.len()]}).to_string();
    let (status, body) = match behaviour {
        Behaviour::Python(python) => (200, tokio::task::spawn_blocking(move || python.ask(&body)).await.unwrap()),
        Behaviour::Each(answer) => (200, each(answer)),
        Behaviour::Answers(status, body) => (status, body.to_owned()),
        Behaviour::Fails => {
            headers.insert("x-amz-function-error", "Unhandled".parse().unwrap());
            (200, json!({"errorMessage": "planted: boom", "errorType": "KeyError"}).to_string())
        }
        Behaviour::Takes(time) => {
            tokio::time::sleep(time).await;
            (200, each(json!({})))
        }
        Behaviour::Hangs => pending().await,
    };
    (StatusCode::from_u16(status).unwrap(), headers, body)
}

/// The example's handler, in a process that answers lines.
#[derive(Clone, Debug)]
struct Python(Arc<Mutex<Process>>);

#[derive(Debug)]
struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Python {
    /// Starts it, and waits until it has answered once, which takes longer than a call may on a busy machine.
    fn start() -> Self {
        let script = "import json, sys\nfrom plugin import handler\n\
                      for line in sys.stdin: print(json.dumps(handler(json.loads(line), None)), flush=True)";
        let mut child = Command::new("python3")
            .args(["-B", "-c", script])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/plugin-lambda"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let python = Self(Arc::new(Mutex::new(Process { child, stdout })));
        python.ask(r#"{"version": 1, "events": []}"#);
        python
    }

    fn ask(&self, request: &str) -> String {
        let mut process = self.0.lock().unwrap();
        writeln!(process.child.stdin.as_ref().unwrap(), "{request}").unwrap();
        let mut answer = String::new();
        process.stdout.read_line(&mut answer).unwrap();
        answer
    }
}

async fn with_lambda(behaviour: Behaviour, clock: Clock, settings: &[(&str, &str)]) -> (Pushlark, Lambda) {
    let (lambda, url) = Lambda::start(behaviour).await;
    let mut environment = Environment::from_iter([
        ("PLUGIN", "lambda:my-plugin"),
        ("AWS_ENDPOINT_URL_LAMBDA", &url),
        ("PLUGIN_TIMEOUT_MS", "2500"),
    ]);
    environment.extend(settings.iter().copied());
    let visibility_timeout = 43_200;
    (Pushlark::with(Options { environment, clock, visibility_timeout, ..Options::default() }).await, lambda)
}

#[tokio::test]
async fn a_function_in_python_decides() {
    let (pushlark, _) = with_lambda(Behaviour::Python(Python::start()), Clock::real(), &[]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.enable_with(BOB, "watch", json!({"device": "watch"})).await;
    let message = |from: &str, chat: &str, body: &str| json!({"type": "message", "from": from, "to": BOB, "chat": chat, "body": body});
    let alert = |body: &str, sender: &str| json!({"body": body, "title": sender, "tag": sender, "badge": 1});

    pushlark.event(message("eve@spam.example/pc", "chat", "spam")).await;
    let mut online = message("alice@example.com/pc", "chat", "online");
    online["recipient"] = json!({"online": true});
    pushlark.event(online.clone()).await;
    online["chat"] = json!("groupchat");
    pushlark.event(online).await;
    pushlark.event(message("alice@example.com/pc", "chat", "")).await;
    pushlark.event(message("alice@example.com/pc", "chat", "private")).await;
    assert_eq!(self::alert(&pushlark, "phone", 1).await, alert("private", "alice@example.com"));
    assert_eq!(self::alert(&pushlark, "watch", 1).await, alert("private", "alice@example.com"));

    let long = "ź".repeat(101);
    pushlark.event(message(ROOM, "groupchat", &long)).await;
    assert_eq!(self::alert(&pushlark, "phone", 2).await, alert(&format!("{}…", "ź".repeat(100)), ROOM));
    let carbon = format!("<message type='chat'><body>{long}</body><sent xmlns='urn:xmpp:carbons:2'/></message>");
    pushlark.event(json!({"type": "message", "from": "alice@example.com", "to": BOB, "stanza": carbon})).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("watch").await, ["private"]);
    assert_eq!(pushlark.alerts("phone").await.len(), 2);

    let event = message("eve@spam.example/pc", "chat", "spam");
    let explained = pushlark.json("/explain", json!({"explain": [event]})).await.json();
    let skipped = &explained["explained"][0]["recipients"][0]["skipped"];
    assert_eq!(skipped, "lambda:my-plugin: the sender's domain is blocked");
}

#[tokio::test]
async fn events_that_come_together_are_asked_about_together() {
    let (pushlark, lambda) = with_lambda(Behaviour::Python(Python::start()), Clock::real(), &[]).await;
    let users: Vec<String> = (0..12).map(|number| format!("u{number}@example.com")).collect();
    let (registered, unknown) = users.split_at(10);
    for user in registered {
        pushlark.enable(user, user).await;
    }
    let mut rounds = 0;
    // On a busy machine each recipient may be read too late for the call of the one before.
    eventually("events that share a call", async || {
        rounds += 1;
        pushlark.event(group_message(ROOM, json!(users), "planted Hi")).await;
        pushlark.settled().await;
        let calls = lambda.calls();
        assert!(!calls.concat().iter().any(|event| unknown.iter().any(|user| event["to"] == **user)));
        for user in registered {
            assert_eq!(pushlark.alerts(user).await, vec!["planted Hi"; rounds]);
        }
        calls.iter().any(|call| call.len() > 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_function_is_told_all_that_a_plugin_is() {
    let (pushlark, lambda) = with_lambda(Behaviour::Each(json!({})), Clock::real(), &[]).await;
    let session = format!("{BOB}/tablet");
    pushlark.enable_with(BOB, "phone", json!({"topic": "app"})).await;
    pushlark.enable(&session, "tablet").await;
    let lost = json!({"type": "unacknowledged", "id": "m1", "at": ago(0),
        "from": "alice@example.com/pc", "to": session, "chat": "chat", "body": "planted Hi",
        "recipient": {"online": true, "unread_count": 3}});
    pushlark.event(lost.clone()).await;
    let mut asked = eventually("a call", async || lambda.calls().concat().pop()).await;
    let mut services = asked["services"].take().as_array().unwrap().clone();
    let tied = asked["recipient"]["tied"].as_u64().unwrap() as usize;
    assert_eq!(services[tied]["node"], "tablet");
    services.sort_by_key(|service| service["node"].to_string());
    assert!(services[0]["created_at"].take().as_u64().unwrap() < services[1]["created_at"].take().as_u64().unwrap());
    let form = |device: &str| json!({"service": "fcm", "device_id": planted(device)});
    let mut phone = form("phone");
    phone["topic"] = json!("app");
    let service = |node: &str, options: Value| json!({"jid": "push.example.com", "node": node, "options": options, "created_at": null});
    assert_eq!(services, [service("phone", phone), service("tablet", form("tablet"))]);
    assert!(asked["stanza"].take().as_str().unwrap().contains("<body>planted Hi</body>"));
    let expected = json!({"id": "m1", "type": "unacknowledged", "at": lost["at"], "from": "alice@example.com/pc",
        "to": session, "chat": "chat", "body": "planted Hi", "stanza": null, "unread_count": 3,
        "recipient": {"exists": true, "online": true, "tied": tied}, "services": null});
    assert_eq!(asked, expected);
    pushlark.settled().await;
    assert!(pushlark.alerts("tablet").await.is_empty());
}

/// The JSON of `docs/plugin-lambda.md`: the worker asks with the same fields, and understands each of the answers.
#[tokio::test]
async fn the_page_on_functions_shows_what_is_asked_and_answered() {
    let blocks = of_page("docs/plugin-lambda.md", "json");
    let mut blocks = blocks.iter().map(|snippet| serde_json::from_str::<Value>(&snippet.text).unwrap());
    let (request, answers) = (blocks.next().unwrap(), blocks.next().unwrap());
    let keys = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for answer in answers["events"].as_array().unwrap() {
        let (pushlark, lambda) = with_lambda(Behaviour::Each(answer.clone()), Clock::real(), &[]).await;
        pushlark.enable(BOB, "phone").await;
        let event = group_message(ROOM, json!(BOB), "planted Hi");
        let explained = pushlark.json("/explain", json!({"explain": [event]})).await;
        assert_eq!(explained.status, 200, "{answer}: {}", explained.body);
        let asked = lambda.calls().concat().pop().unwrap();
        assert_eq!(keys(&asked), keys(&request["events"][0]));
        assert_eq!(keys(&asked["recipient"]), keys(&request["events"][0]["recipient"]));
        assert_eq!(keys(&asked["services"][0]), keys(&request["events"][0]["services"][0]));
    }
}

#[tokio::test]
async fn an_answer_of_all_callbacks_takes_the_place_of_the_defaults() {
    let answer = json!({
        "prepare_notification": {"payload": {"last-message-body": "prepared", "urgent": true, "weight": 1.5}},
        "should_publish": [0],
        "publish_notification": [{"service": 0}, {"service": 1}],
    });
    let (pushlark, _) = with_lambda(Behaviour::Each(answer), Clock::real(), &[]).await;
    pushlark.enable(BOB, "one").await;
    pushlark.enable(BOB, "two").await;
    pushlark
        .event(json!({"type": "message", "from": "a@b", "to": BOB, "stanza": "<message type='chat'/>", "recipient": {"online": true}}))
        .await;
    pushlark.settled().await;
    let notified = [pushlark.notifications("one").await, pushlark.notifications("two").await].concat();
    assert_eq!(notified.len(), 1, "{notified:?}");
    let notification = &notified[0]["notification"];
    assert_eq!(notification["alert"], json!({"body": "prepared", "title": "New message"}));
    assert_eq!(notification["data"], json!({"urgent": "true", "weight": "1.5"}));
}

fn failures() -> Vec<Behaviour> {
    vec![
        Behaviour::Fails,
        Behaviour::Answers(500, r#"{"Type": "Service"}"#),
        Behaviour::Answers(429, r#"{"Type": "User"}"#),
        Behaviour::Hangs,
        Behaviour::Answers(200, r#"{"events": [{"prepare_notification": {"skip": "planted"#),
        Behaviour::Answers(200, r#""planted""#),
        Behaviour::Answers(200, r#"{"events": []}"#),
        Behaviour::Answers(200, r#"{"events": [{}, {}]}"#),
        Behaviour::Each(json!({"should_publish": [1]})),
        Behaviour::Each(json!({"publish_notification": [{"service": 1}]})),
        Behaviour::Each(json!({"should_publish": [-1]})),
        Behaviour::Each(json!({"planted": [0]})),
        Behaviour::Each(json!({"should_publish": "planted"})),
        Behaviour::Each(json!({"prepare_notification": {"payload": {"last-message-body": null}}})),
    ]
}

#[tokio::test]
async fn a_function_that_fails_is_asked_again_until_it_answers() {
    let (pushlark, lambda) = with_lambda(Behaviour::Hangs, Clock::scaled(600), &[]).await;
    pushlark.enable(BOB, "phone").await;
    for (number, failure) in failures().into_iter().enumerate() {
        lambda.behave(failure.clone());
        let before = lambda.calls().len();
        pushlark.message(BOB, "planted Hi").await;
        eventually(&format!("a second try after {failure:?}"), async || {
            (lambda.calls().len() >= before + 2).then_some(())
        })
        .await;
        assert_eq!(pushlark.alerts("phone").await.len(), number, "{failure:?}");
        lambda.behave(Behaviour::Each(json!({})));
        pushlark.notified("phone", number + 1).await;
        pushlark.settled().await;
        assert_eq!(pushlark.alerts("phone").await.len(), number + 1, "{failure:?}");
    }
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

#[tokio::test]
async fn where_the_operator_says_so_a_function_that_fails_leaves_it_to_the_defaults() {
    let (pushlark, lambda) = with_lambda(Behaviour::Hangs, Clock::real(), &[("PLUGIN_ON_ERROR", "defaults")]).await;
    pushlark.enable(BOB, "phone").await;
    for (number, failure) in failures().into_iter().enumerate() {
        lambda.behave(failure.clone());
        pushlark.message(BOB, "planted Hi").await;
        let expected =
            json!({"body": "planted Hi", "title": "alice@example.com", "tag": "alice@example.com", "badge": 1});
        assert_eq!(alert(&pushlark, "phone", number + 1).await, expected, "{failure:?}");
        pushlark.settled().await;
        assert_eq!(pushlark.alerts("phone").await.len(), number + 1, "{failure:?}");
        // A call that takes too long to connect does not count here.
        assert!(lambda.calls().len() <= number + 1, "{failure:?}");
    }
}

#[tokio::test]
async fn a_function_may_take_longer_than_other_services() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let (_, url) = Lambda::start(Behaviour::Takes(Duration::from_millis(1_700))).await;
    let aws = pushlark_settings::aws_config().await.into_builder().endpoint_url(url);
    let aws = aws.region(aws_config::Region::new("us-east-1")).credentials_provider(
        aws_sdk_dynamodb::config::SharedCredentialsProvider::new(aws_sdk_dynamodb::config::Credentials::new(
            "local", "local", None, None, "local",
        )),
    );
    let mut environment = pushlark.stack.environment.clone();
    environment.extend([("PLUGIN", "lambda:my-plugin"), ("PLUGIN_TIMEOUT_MS", "2500")]);
    let (dynamodb, sqs) = (pushlark.stack.dynamodb.clone(), pushlark.stack.sqs.clone());
    let worker = Worker::from_environment(&environment, &aws.build(), &Plugins::built_in(), dynamodb, sqs);
    let event = json!({"type": "message", "from": "a@b", "to": BOB, "chat": "chat", "body": "planted Hi"});
    let invocation = json!({"explain": [event]});
    let worker = Arc::new(worker.unwrap());
    // On a busy machine the rest of the time may not suffice for the call itself.
    eventually("an answer", async || {
        let invocation: Invocation = serde_json::from_value(invocation.clone()).unwrap();
        worker.answer(invocation, Instant::now() + PATIENCE).await.ok()
    })
    .await;
}

#[tokio::test]
async fn settings_that_make_no_sense_refuse_the_start() {
    for (name, value) in [
        ("PLUGIN_ON_ERROR", "maybe"),
        ("PLUGIN_TIMEOUT_MS", "99"),
        ("PLUGIN_TIMEOUT_MS", "2501"),
        ("PLUGIN", "rooms"),
        ("PLUGIN", "lambda:"),
    ] {
        let environment = Environment::from_iter([("PLUGIN", "lambda:my-plugin"), (name, value)]);
        let refused = Stack::start(Options { environment, ..Options::default() }).await.unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{name}: ")), "{refused}");
    }
}
