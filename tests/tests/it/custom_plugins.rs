//! Custom plugins: the examples, and functions that fail.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doubles::{Behaviour, Handler, Lambda, canary};
use example_rooms::Rooms;
use local::sqs::Clock;
use local::{Options, Stack};
use pushlark_plugin::Plugins;
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tests::{ALICE, ALICES_PC, BOB, Event, PUSH_HOST, Pushlark, TEST_TIMEOUT, ago, eventually, stanza};
use time::OffsetDateTime;
use tokio::time::Instant;
use worker::{Worker, WorkerInvocation};

use crate::documentation::of_page;

const ROOM: &str = "team@muc.example.com/alice";

async fn with_rooms(settings: &[(&str, &str)]) -> Pushlark {
    let mut environment =
        Environment::from_iter([("PLUGIN", "rooms"), ("ROOM_NAMES", r#"{"Team@muc.example.com": "The Team"}"#)]);
    environment.extend(settings.iter().copied());
    let plugins = Plugins::built_in().with("rooms", Rooms::from_environment(&environment).unwrap());
    Pushlark::with(Options { plugins, environment, ..Options::default() }).await
}

async fn alert(pushlark: &Pushlark, device: &str, number: usize) -> Value {
    pushlark.notified(device, number).await[number - 1]["notification"]["alert"].clone()
}

#[tokio::test]
async fn the_rooms_plugin_names_rooms_and_keeps_the_defaults() {
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
        pushlark.event(Event::groupchat(from, BOB, "canary Hi")).await;
        let expected = json!({"body": "canary Hi", "title": title, "tag": title, "badge": 1});
        assert_eq!(alert(&pushlark, "phone", number + 1).await, expected);
    }
    pushlark.message(BOB, "canary: direct").await;
    assert_eq!(alert(&pushlark, "phone", 4).await["title"], ALICE);
    pushlark.event(Event::groupchat(ROOM, BOB, "online").recipient(json!({"online": true}))).await;
    pushlark.event(Event::groupchat(ROOM, BOB, "")).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("phone").await.len(), 4);
}

/// The code in `docs/plugin-rust.md`.
#[tokio::test]
async fn the_local_stack_accepts_plugins() {
    let plugins = Plugins::built_in().with("rooms", Rooms::default());
    let environment = Environment::from_iter([("PLUGIN", "rooms")]);
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    pushlark.enable("bob@example.com", "phone").await;
    pushlark.message("bob@example.com", "Hi").await;
    let notified = pushlark.notified("phone", 1).await;
    assert_eq!(notified[0]["notification"]["alert"]["body"], "Hi");
}

#[tokio::test]
async fn the_room_name_is_hidden_when_the_sender_is_not_included() {
    let pushlark = with_rooms(&[("INCLUDE_SENDER", "off")]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.event(Event::groupchat(ROOM, BOB, "canary Hi")).await;
    assert_eq!(alert(&pushlark, "phone", 1).await, json!({"body": "canary Hi", "title": "New message", "badge": 1}));
}

/// Returns quiet hours from and to these hours from now, with this UTC offset in hours.
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
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    for (device, times) in
        [("quiet", 0), ("quiet-east", 0), ("quiet-west", 0), ("quiet-later", 1), ("malformed", 1), ("always", 1)]
    {
        assert_eq!(pushlark.alerts(device).await.len(), times, "{device}");
    }
    let event = Event::message(BOB, "canary Hi").from(ALICE);
    let explained = pushlark.json("/explain", json!({"explain": [event]})).await.json();
    let left_out = explained["explained"][0]["recipients"][0]["left_out"].as_array().unwrap().clone();
    assert_eq!(left_out.len(), 3);
    for left_out in left_out {
        assert_eq!(left_out["why"], "rooms: the device has quiet hours");
    }
    let headers = "<headers xmlns='http://jabber.org/protocol/shim'><header name='Urgency'>high</header></headers>";
    let urgent = stanza::chat(&format!("<body>Fire</body>{headers}"));
    pushlark.event(Event::stanza(BOB, &urgent).from(ALICE)).await;
    for device in ["quiet", "quiet-east", "quiet-west"] {
        pushlark.notified(device, 1).await;
    }
}

/// The handler of the example, in a process that answers each line with a line.
#[derive(Clone, Debug)]
struct Python(Arc<Mutex<Process>>);

#[derive(Debug)]
struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Python {
    /// Starts the process, and waits for its first answer, which may take longer than the timeout of a call.
    fn start() -> Behaviour {
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
        Behaviour::Handler(Handler(Arc::new(move |request| python.ask(request))))
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
    let lambda = Lambda::start(behaviour).await;
    let mut environment = Environment::from_iter([
        ("PLUGIN", "lambda:my-plugin"),
        ("AWS_ENDPOINT_URL_LAMBDA", &lambda.url),
        ("PLUGIN_TIMEOUT_MS", "2500"),
    ]);
    environment.extend(settings.iter().copied());
    let visibility_timeout = 43_200;
    (Pushlark::with(Options { environment, clock, visibility_timeout, ..Options::default() }).await, lambda)
}

#[tokio::test]
async fn a_python_function_decides() {
    let (pushlark, _) = with_lambda(Python::start(), Clock::real(), &[]).await;
    pushlark.enable(BOB, "phone").await;
    pushlark.enable_with(BOB, "watch", json!({"device": "watch"})).await;
    let message = |from: &str, chat: &str, body: &str| Event::message(BOB, body).from(from).with("chat", chat);
    let alert = |body: &str, sender: &str| json!({"body": body, "title": sender, "tag": sender, "badge": 1});

    pushlark.event(message("eve@spam.example/pc", "chat", "spam")).await;
    let online = message(ALICES_PC, "chat", "online").recipient(json!({"online": true}));
    pushlark.event(&online).await;
    pushlark.event(online.with("chat", "groupchat")).await;
    pushlark.event(message(ALICES_PC, "chat", "")).await;
    pushlark.event(message(ALICES_PC, "chat", "private")).await;
    assert_eq!(self::alert(&pushlark, "phone", 1).await, alert("private", ALICE));
    assert_eq!(self::alert(&pushlark, "watch", 1).await, alert("private", ALICE));

    let long = "ź".repeat(101);
    pushlark.event(message(ROOM, "groupchat", &long)).await;
    assert_eq!(self::alert(&pushlark, "phone", 2).await, alert(&format!("{}…", "ź".repeat(100)), ROOM));
    let carbon = stanza::chat(&format!("<body>{long}</body><sent xmlns='urn:xmpp:carbons:2'/>"));
    pushlark.event(Event::stanza(BOB, &carbon).from(ALICE)).await;
    pushlark.settled().await;
    assert_eq!(pushlark.alerts("watch").await, ["private"]);
    assert_eq!(pushlark.alerts("phone").await.len(), 2);

    let event = message("eve@spam.example/pc", "chat", "spam");
    let explained = pushlark.json("/explain", json!({"explain": [event]})).await.json();
    let skipped = &explained["explained"][0]["recipients"][0]["skipped"];
    assert_eq!(skipped, "lambda:my-plugin: the sender's domain is blocked");
}

#[tokio::test]
async fn events_of_one_request_share_a_call() {
    let (pushlark, lambda) = with_lambda(Python::start(), Clock::real(), &[]).await;
    let users: Vec<String> = (0..12).map(|number| format!("u{number}@example.com")).collect();
    let (registered, unknown) = users.split_at(10);
    for user in registered {
        pushlark.enable(user, user).await;
    }
    let mut rounds = 0;
    // On a busy machine a recipient may be read too late for the call of the previous one.
    eventually("events that share a call", async || {
        rounds += 1;
        pushlark.event(Event::groupchat(ROOM, &users, "canary Hi")).await;
        pushlark.settled().await;
        let calls = lambda.calls();
        assert!(!calls.concat().iter().any(|event| unknown.iter().any(|user| event["to"] == **user)));
        for user in registered {
            assert_eq!(pushlark.alerts(user).await, vec!["canary Hi"; rounds]);
        }
        calls.iter().any(|call| call.len() > 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_function_gets_all_that_a_plugin_gets() {
    let (pushlark, lambda) = with_lambda(Behaviour::Each(json!({})), Clock::real(), &[]).await;
    let session = format!("{BOB}/tablet");
    pushlark.enable_with(BOB, "phone", json!({"topic": "app"})).await;
    pushlark.enable(&session, "tablet").await;
    let at = ago(0);
    let facts = json!({"online": true, "client_state": "inactive", "unread_count": 3, "sender_known": false});
    let event = Event::unacknowledged(&session, "canary Hi").id("m1").at(&at).recipient(facts);
    pushlark.event(event.with("sender_name", "canary Alice").with("room_name", "canary Birds")).await;
    let mut sent = eventually("a call", async || lambda.calls().concat().pop()).await;
    let mut services = sent["services"].take().as_array().unwrap().clone();
    let tied = sent["recipient"]["tied"].as_u64().unwrap() as usize;
    assert_eq!(services[tied]["node"], "tablet");
    services.sort_by_key(|service| service["node"].to_string());
    assert!(services[0]["created_at"].take().as_u64().unwrap() < services[1]["created_at"].take().as_u64().unwrap());
    let form = |device: &str| json!({"service": "fcm", "device_id": canary(device)});
    let mut phone = form("phone");
    phone["topic"] = json!("app");
    let service =
        |node: &str, options: Value| json!({"jid": PUSH_HOST, "node": node, "options": options, "created_at": null});
    assert_eq!(services, [service("phone", phone), service("tablet", form("tablet"))]);
    assert!(sent["stanza"].take().as_str().unwrap().contains("<body>canary Hi</body>"));
    let expected = json!({"id": "m1", "type": "unacknowledged", "at": at, "from": ALICES_PC, "is_own": false, "to": session,
        "sender_name": "canary Alice", "room_name": "canary Birds", "members": 1,
        "chat": "chat", "body": "canary Hi", "stanza": null, "unread_count": 3, "services": null,
        "recipient": {"exists": true, "online": true, "client_state": "inactive", "sender_known": false, "tied": tied,
            "connected": []}});
    assert_eq!(sent, expected);
    pushlark.settled().await;
    assert!(pushlark.alerts("tablet").await.is_empty());
}

/// The JSON of `docs/plugin-lambda.md`: the worker sends the same fields, and accepts each of the answers.
#[tokio::test]
async fn the_json_of_the_page_about_functions_is_valid() {
    let blocks = of_page("docs/plugin-lambda.md", "json");
    let mut blocks = blocks.iter().map(|snippet| serde_json::from_str::<Value>(&snippet.text).unwrap());
    let (request, answers) = (blocks.next().unwrap(), blocks.next().unwrap());
    let keys = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for answer in answers["events"].as_array().unwrap() {
        let (pushlark, lambda) = with_lambda(Behaviour::Each(answer.clone()), Clock::real(), &[]).await;
        pushlark.enable(BOB, "phone").await;
        let event = Event::groupchat(ROOM, BOB, "canary Hi");
        let explained = pushlark.json("/explain", json!({"explain": [event]})).await;
        assert_eq!(explained.status, 200, "{answer}: {}", explained.body);
        let sent = lambda.calls().concat().pop().unwrap();
        assert_eq!(keys(&sent), keys(&request["events"][0]));
        assert_eq!(keys(&sent["recipient"]), keys(&request["events"][0]["recipient"]));
        assert_eq!(keys(&sent["services"][0]), keys(&request["events"][0]["services"][0]));
    }
}

#[tokio::test]
async fn an_answer_to_all_callbacks_replaces_the_defaults() {
    let answer = json!({
        "prepare_notification": {"payload": {"last-message-body": "prepared", "urgent": true, "weight": 1.5}},
        "should_publish": [0],
        "publish_notification": [{"service": 0}, {"service": 1}],
    });
    let (pushlark, _) = with_lambda(Behaviour::Each(answer), Clock::real(), &[]).await;
    pushlark.enable(BOB, "one").await;
    pushlark.enable(BOB, "two").await;
    pushlark.event(Event::stanza(BOB, "<message type='chat'/>").from("a@b").recipient(json!({"online": true}))).await;
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
        Behaviour::Answers(200, r#"{"events": [{"prepare_notification": {"skip": "canary"#),
        Behaviour::Answers(200, r#""canary""#),
        Behaviour::Answers(200, r#"{"events": []}"#),
        Behaviour::Answers(200, r#"{"events": [{}, {}]}"#),
        Behaviour::Each(json!({"should_publish": [1]})),
        Behaviour::Each(json!({"publish_notification": [{"service": 1}]})),
        Behaviour::Each(json!({"should_publish": [-1]})),
        Behaviour::Each(json!({"canary": [0]})),
        Behaviour::Each(json!({"should_publish": "canary"})),
        Behaviour::Each(json!({"prepare_notification": {"payload": {"last-message-body": null}}})),
    ]
}

#[tokio::test]
async fn a_failing_function_is_called_again_until_it_answers() {
    let (pushlark, lambda) = with_lambda(Behaviour::Hangs, Clock::scaled(600), &[]).await;
    pushlark.enable(BOB, "phone").await;
    for (number, failure) in failures().into_iter().enumerate() {
        lambda.behave(failure.clone());
        let before = lambda.calls().len();
        pushlark.message(BOB, "canary Hi").await;
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
async fn a_failing_function_gives_the_defaults_if_the_setting_says_so() {
    let (pushlark, lambda) = with_lambda(Behaviour::Hangs, Clock::real(), &[("PLUGIN_ON_ERROR", "defaults")]).await;
    pushlark.enable(BOB, "phone").await;
    for (number, failure) in failures().into_iter().enumerate() {
        lambda.behave(failure.clone());
        pushlark.message(BOB, "canary Hi").await;
        let expected = json!({"body": "canary Hi", "title": ALICE, "tag": ALICE, "badge": 1});
        assert_eq!(alert(&pushlark, "phone", number + 1).await, expected, "{failure:?}");
        pushlark.settled().await;
        assert_eq!(pushlark.alerts("phone").await.len(), number + 1, "{failure:?}");
        // The double does not count a call that cannot connect in time.
        assert!(lambda.calls().len() <= number + 1, "{failure:?}");
    }
}

#[tokio::test]
async fn a_function_has_a_longer_timeout_than_a_push_service() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let lambda = Lambda::start(Behaviour::Takes(Duration::from_millis(1_700))).await;
    let aws = pushlark_http_client::aws_config(&pushlark.stack.environment)
        .await
        .unwrap()
        .into_builder()
        .endpoint_url(&lambda.url);
    let aws = aws.region(aws_config::Region::new("us-east-1")).credentials_provider(
        aws_sdk_dynamodb::config::SharedCredentialsProvider::new(aws_sdk_dynamodb::config::Credentials::new(
            "local", "local", None, None, "local",
        )),
    );
    let mut environment = pushlark.stack.environment.clone();
    environment.extend([("PLUGIN", "lambda:my-plugin"), ("PLUGIN_TIMEOUT_MS", "2500")]);
    let (dynamodb, sqs) = (pushlark.stack.dynamodb.clone(), pushlark.stack.sqs.clone());
    let worker = Worker::from_environment(&environment, &aws.build(), &Plugins::built_in(), dynamodb, sqs).await;
    let event = Event::message(BOB, "canary Hi").from("a@b");
    let invocation = json!({"explain": [event]});
    let worker = Arc::new(worker.unwrap());
    // On a busy machine the call may take longer than the timeout, so it is repeated.
    eventually("an answer", async || {
        let invocation: WorkerInvocation = serde_json::from_value(invocation.clone()).unwrap();
        worker.answer(invocation, Instant::now() + TEST_TIMEOUT).await.ok()
    })
    .await;
}

#[tokio::test]
async fn wrong_plugin_settings_stop_the_start() {
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
