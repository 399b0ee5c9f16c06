//! The stream and the page of the stack, from outside.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Stdio;
use std::time::Duration;

use local::{Options, Stack};
use pushlark_settings::Environment;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The time after which a test fails. It is long, since the machine may compile beside the tests.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// A server-sent event.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    id: Option<String>,
    event: String,
    data: Value,
}

/// A connection to the stream.
struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    async fn open(url: &str, last_id: Option<&str>) -> Self {
        let request = Client::new().get(format!("{url}/live"));
        let request = last_id.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// Returns the next event; `None` if the stream has ended.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
                // Another block is a comment that keeps the connection alive.
                let Some(data) = field("data") else { continue };
                let data = serde_json::from_str(data).unwrap();
                return Some(Sent { id: field("id").map(str::to_owned), event: field("event").unwrap().into(), data });
            }
            let chunk = timeout(TEST_TIMEOUT, self.response.chunk()).await.expect("no event").unwrap()?;
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// Returns the next event that meets a condition.
    async fn until(&mut self, condition: impl Fn(&Sent) -> bool) -> Sent {
        loop {
            let sent = self.next().await.expect("the stream has ended");
            if condition(&sent) {
                return sent;
            }
        }
    }
}

async fn post(url: &str, path: &str, body: Value) -> Value {
    let response = Client::new().post(format!("{url}{path}")).json(&body).send().await.unwrap();
    assert!(response.status().is_success(), "{response:?}");
    response.json().await.unwrap()
}

async fn enable(url: &str) {
    let form = json!({"service": "fcm", "device_id": "TOKEN"});
    let enable = json!({"user": "bob@example.com", "jid": "push.example.com", "node": "phone", "form": form});
    post(url, "/enable", enable).await;
}

fn message(text: &str) -> Value {
    json!({"type": "message", "id": text, "from": "alice@example.com/pc", "to": "bob@example.com", "chat": "chat",
        "body": text})
}

#[tokio::test]
async fn the_stream_has_requests_and_notifications_in_their_order() {
    let stack = Stack::start(Options::default()).await.unwrap();
    let url = &stack.url;
    let mut stream = Stream::open(url, None).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.id, first.event.as_str()), (None, "stack"));
    assert_eq!(first.data, json!({"is_resumed": false, "needs_secret": false}));
    enable(url).await;
    let enabled = stream.next().await.unwrap();
    assert_eq!(enabled.event, "request");
    let mut data = enabled.data;
    assert!(data.as_object_mut().unwrap().remove("time").is_some());
    let expected = json!({"function": "enable", "format": "JSON", "status": 200, "user": "bob@example.com",
        "jid": "push.example.com", "node": "phone", "service": "fcm"});
    assert_eq!(data, expected, "the token is not in it");
    post(url, "/events", message("Hi")).await;
    // The worker may be faster than the answer to the webhook.
    let (request, notification) = (stream.next().await.unwrap(), stream.next().await.unwrap());
    let (request, notification) =
        if request.event == "request" { (request, notification) } else { (notification, request) };
    assert_eq!((&request.data["accepted"], &request.data["format"]), (&json!(1), &json!("JSON")));
    let event = json!({"id": "Hi", "type": "message", "from": "alice@example.com/pc", "to": ["bob@example.com"],
        "chat": "chat", "text": "Hi", "call": null});
    assert_eq!(request.data["events"], json!([event]));
    assert_eq!(notification.event, "notification");
    assert_eq!(notification.data["notification"]["alert"]["body"], "Hi");
    let wrong = Client::new().post(format!("{url}/events")).json(&json!({"type": "message"})).send().await.unwrap();
    assert_eq!(wrong.status(), 400);
    let wrong = stream.next().await.unwrap();
    assert_eq!(wrong.data["status"], 400);
    assert!(wrong.data["problem"].as_str().unwrap().starts_with("stanza is missing"), "{wrong:?}");
    let gone = json!({"status": 410});
    let device = Client::new().put(format!("{url}/sink/devices/TOKEN")).json(&gone).send().await.unwrap();
    assert_eq!(device.status(), 204);
    let device = stream.next().await.unwrap();
    assert_eq!((device.event.as_str(), &device.data["status"]), ("device", &json!(410)));
}

#[tokio::test]
async fn the_events_of_each_format_are_shown_with_the_ids_of_the_answer() {
    let stack = Stack::start(Options::default()).await.unwrap();
    let mut stream = Stream::open(&stack.url, None).await;
    let cloud = json!({"specversion": "1.0", "id": "c1", "source": "/chat", "type": "x", "datacontenttype": "application/json",
        "data": message("cloud")});
    let native = r#"{"type": "presence", "jid": "bob@example.com/phone", "status": "offline"}"#;
    let mongooseim = r#"{"user_id": "bob@example.com", "present": true}"#;
    let stanza = "<message xmlns='jabber:client' from='alice@example.com/pc' to='bob@example.com' type='chat'>\
        <body>Hi</body></message>";
    for (content_type, body, format, kind) in [
        ("application/json", native, "JSON", "presence"),
        ("application/x-ndjson", native, "JSON lines", "presence"),
        ("application/json", mongooseim, "MongooseIM", "presence"),
        ("application/xmpp+xml", stanza, "stanza", "message"),
        (
            "application/x-www-form-urlencoded",
            "author=alice&server=example.com&receiver=bob&message=Hi",
            "form",
            "message",
        ),
        ("application/cloudevents+json", &cloud.to_string(), "CloudEvents", "message"),
    ] {
        let request = Client::new().post(format!("{}/events", stack.url)).header("content-type", content_type);
        let answer: Value = request.body(body.to_owned()).send().await.unwrap().json().await.unwrap();
        let seen = stream.until(|sent| sent.event == "request").await.data;
        assert_eq!((&seen["format"], &seen["events"][0]["type"]), (&json!(format), &json!(kind)), "{seen}");
        assert_eq!(seen["events"][0]["id"], answer["ids"][0], "{seen}");
    }
}

#[tokio::test]
async fn a_client_that_connects_again_misses_nothing_and_gets_nothing_twice() {
    let stack = Stack::start(Options::default()).await.unwrap();
    enable(&stack.url).await;
    let mut stream = Stream::open(&stack.url, None).await;
    let seen = stream.until(|sent| sent.event == "request").await;
    drop(stream);
    for text in ["one", "two", "three"] {
        post(&stack.url, "/events", message(text)).await;
    }
    let mut stream = Stream::open(&stack.url, seen.id.as_deref()).await;
    assert_eq!(stream.next().await.unwrap().data["is_resumed"], true);
    let mut ids = Vec::new();
    while ids.len() < 3 {
        let request = stream.until(|sent| sent.event == "request").await;
        ids.push(request.data["events"][0]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids, ["one", "two", "three"]);
    let other = Stack::start(Options::default()).await.unwrap();
    let mut stream = Stream::open(&other.url, seen.id.as_deref()).await;
    assert_eq!(stream.next().await.unwrap().data["is_resumed"], false, "another stack has other entries");
}

#[tokio::test]
async fn the_page_is_kept_out_of_caches_frames_and_other_sites() {
    let environment = Environment::from_iter([("WEBHOOK_SECRET", "a-secret-of-operators")]);
    let stack = Stack::start(Options { environment, ..Options::default() }).await.unwrap();
    for path in ["/", "/live", "/live/registrations", "/page/main.js", "/page/style.css"] {
        let response = reqwest::get(format!("{}{path}", stack.url)).await.unwrap();
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
        assert_eq!(header("access-control-allow-origin"), None, "{path}");
        let policy = header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
    let mut stream = Stream::open(&stack.url, None).await;
    assert_eq!(stream.next().await.unwrap().data["needs_secret"], true);
}

/// The paths of the stack: method, path, and the status for a request without a body.
const PATHS: [(Method, &str, u16); 15] = [
    (Method::GET, "/", 200),
    (Method::POST, "/", 405),
    (Method::GET, "/live", 200),
    (Method::GET, "/live/registrations", 200),
    (Method::GET, "/page/main.js", 200),
    (Method::GET, "/lambda.env", 200),
    (Method::GET, "/sink/notifications", 200),
    (Method::PUT, "/sink/devices/TOKEN", 415),
    (Method::POST, "/sink/v3/notification/TOKEN", 415),
    (Method::POST, "/events", 415),
    (Method::POST, "/enable", 415),
    (Method::GET, "/enable?user=bob@example.com", 200),
    (Method::POST, "/disable", 415),
    (Method::POST, "/pubsub", 415),
    (Method::POST, "/explain", 415),
];

#[tokio::test]
async fn each_path_refuses_the_requests_of_other_sites() {
    let stack = Stack::start(Options::default()).await.unwrap();
    let http = Client::new();
    let (address, port) = (stack.url.strip_prefix("http://").unwrap(), stack.url.rsplit(':').next().unwrap());
    for (method, path, expected) in PATHS {
        let status = async |headers: &[(&str, &str)]| {
            let request = http.request(method.clone(), format!("{}{path}", stack.url));
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            request.send().await.unwrap().status().as_u16()
        };
        for host in
            ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "[::]"]
        {
            assert_eq!(status(&[("host", host)]).await, 421, "{method} {path} {host}");
        }
        for host in
            [&format!("localhost:{port}"), "127.0.0.1", "[::1]:8080", "a.localhost", "host.docker.internal:8080"]
        {
            assert_eq!(status(&[("host", host)]).await, expected, "{method} {path} {host}");
        }
        // A link of another site may lead to the page.
        let is_page = (method.as_str(), path) == ("GET", "/");
        let refused = if is_page { expected } else { 403 };
        for site in ["cross-site", "same-site"] {
            assert_eq!(status(&[("sec-fetch-site", site)]).await, refused, "{method} {path} {site}");
        }
        for origin in ["https://evil.example", "null", "http://localhost.evil.example", "http://0.0.0.0:8080"] {
            assert_eq!(status(&[("origin", origin)]).await, refused, "{method} {path} {origin}");
        }
        // The page itself, an address that the user types, and the proxy of a web app's development server.
        let own = format!("http://{address}");
        for headers in [
            &[("origin", own.as_str())][..],
            &[("sec-fetch-site", "same-origin"), ("origin", &own)],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "same-origin"), ("origin", "http://app.test:5173")],
        ] {
            assert_eq!(status(headers).await, expected, "{method} {path} {headers:?}");
        }
    }
    let form = "author=alice&server=example.com&receiver=bob&message=Hi";
    let post = |site: &str| {
        let request = http.post(format!("{}/events", stack.url)).header("sec-fetch-site", site);
        request.header("content-type", "application/x-www-form-urlencoded").body(form).send()
    };
    assert_eq!(post("cross-site").await.unwrap().status(), 403);
    assert_eq!(post("same-origin").await.unwrap().status(), 202);
    let list_queues = |host: &str| {
        let request = http.post(&stack.sqs_url).header("x-amz-target", "AmazonSQS.ListQueues");
        request.header("host", host).body("{}").send()
    };
    assert_eq!(list_queues("evil.example").await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(list_queues("localhost").await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_page_has_no_script_or_style_of_its_own_that_its_policy_refuses() {
    let stack = Stack::start(Options::default()).await.unwrap();
    let page = reqwest::get(&stack.url).await.unwrap().text().await.unwrap();
    assert!(page.contains("<script type=\"module\" src=\"/page/main.js\"></script>"), "{page}");
    assert_eq!(page.matches("<script").count(), 1);
    for inline in ["<style", " style=", " onclick=", "javascript:", "http://", "https://"] {
        assert!(!page.contains(inline), "{inline}");
    }
    let files = page.split('"').filter(|part| part.starts_with("/page/")).collect::<Vec<_>>();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(reqwest::get(format!("{}{file}", stack.url)).await.unwrap().status(), 200, "{file}");
    }
}

#[tokio::test]
async fn the_registrations_are_listed_with_the_tokens_of_the_double_alone() {
    for (service, token) in [("", json!("TOKEN")), ("http://127.0.0.1:9/mongoosepush", Value::Null)] {
        let environment = [("MONGOOSEPUSH_URL", service)].into_iter().filter(|(_, url)| !url.is_empty());
        let environment = Environment::from_iter(environment);
        let stack = Stack::start(Options { environment, ..Options::default() }).await.unwrap();
        enable(&stack.url).await;
        let list = reqwest::get(format!("{}/live/registrations", stack.url)).await.unwrap();
        let list: Value = list.json().await.unwrap();
        let [one] = list["registrations"].as_array().unwrap().as_slice() else { panic!("{list}") };
        assert_eq!((&one["user"], &one["node"]), (&json!("bob@example.com"), &json!("phone")));
        assert_eq!((&one["device_id"], &list["is_partial"]), (&token, &json!(false)), "{list}");
    }
}

#[tokio::test]
async fn an_open_stream_does_not_keep_the_stack_from_stopping() {
    let stack = Stack::start(Options::default()).await.unwrap();
    let mut stream = Stream::open(&stack.url, None).await;
    stream.next().await.unwrap();
    stack.stop().await;
    assert_eq!(stream.next().await, None);
}

/// `pushlark-local` as a process, whose log is in its stream.
struct Process {
    url: String,
    _child: Child,
}

impl Process {
    async fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushlark-local"));
        command.args(["--memory", "--port", "0"]).env("LOG_LEVEL", "error").env("NO_PROXY", "*");
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = loop {
            let line = timeout(TEST_TIMEOUT, lines.next_line()).await.unwrap().unwrap().expect("it does not start");
            if let Some(url) = line.strip_prefix("Pushlark is at ") {
                break url.split("/enable").next().unwrap().to_owned();
            }
        };
        // The output is read, so that the process can write.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { url, _child: child }
    }
}

#[tokio::test]
async fn the_stream_has_the_log_lines_and_the_steps_of_each_decision() {
    let process = Process::start().await;
    let mut stream = Stream::open(&process.url, None).await;
    enable(&process.url).await;
    let enabled = stream.until(|sent| sent.event == "log" && sent.data["message"] == "enabled").await.data;
    let fields = ["level", "target", "user", "jid"].map(|name| enabled[name].as_str().unwrap());
    assert_eq!(fields, ["INFO", "enable", "bob@example.com", "push.example.com"]);
    assert!(enabled["time"].as_str().unwrap().ends_with('Z'), "{enabled}");
    post(&process.url, "/events", message("Hi")).await;
    let step = |message: &'static str| move |sent: &Sent| sent.event == "step" && sent.data["message"] == message;
    let decided = stream.until(step("decided")).await.data;
    assert_eq!((&decided["id"], &decided["to"]), (&json!("Hi"), &json!("bob@example.com")), "fields of the span");
    assert_eq!((&decided["registrations"], &decided["online"]), (&json!(1), &json!(false)));
    let chosen = stream.until(step("chosen")).await.data;
    assert_eq!(chosen["node"], "phone");
    let published = stream.until(step("published")).await.data;
    assert_eq!((&published["result"], &published["device_id"]), (&json!("delivered"), &json!("TOKEN")));
    let notified = stream.until(|sent| sent.event == "log" && sent.data["id"] == "Hi").await.data;
    let expected = json!({"time": notified["time"], "level": "INFO", "target": "worker::event_line",
        "message": "notified", "id": "Hi", "to": "bob@example.com", "delivered": 1});
    assert_eq!(notified, expected);

    let put = |status: u16| {
        let url = format!("{}/sink/devices/TOKEN", process.url);
        async move { Client::new().put(url).json(&json!({"status": status})).send().await.unwrap() }
    };
    put(503).await;
    post(&process.url, "/events", message("later")).await;
    let put_back = stream.until(step("put back")).await.data;
    let fields = ["id", "to", "jid", "node"].map(|name| put_back[name].as_str().unwrap());
    assert_eq!(fields, ["later", "bob@example.com", "push.example.com", "phone"]);
    assert_eq!(put_back["seconds"], 1);
    put(410).await;
    let gone = stream.until(|sent| step("published")(sent) && sent.data["result"] == "gone").await.data;
    assert_eq!(gone["id"], "later");
    let online = json!({"online": true});
    let mut event = message("read");
    event["recipient"] = online;
    post(&process.url, "/events", event).await;
    let not_queued = stream.until(step("not queued")).await.data;
    assert_eq!((&not_queued["id"], &not_queued["to"]), (&json!("read"), &json!("bob@example.com")));
    assert_eq!(not_queued["reason"], "the recipient is online");
}
