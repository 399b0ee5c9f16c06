//! The time from a webhook to the arrival of its notification at the push service: under a steady load, and of the
//! first message after a start of both functions.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use doubles::{CA_FILE, Fcm};
use hdrhistogram::Histogram;
use pushlark_benches::input;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::build::{Binaries, LOCAL};
use crate::function::{Function, Process};
use crate::lambda_event::request;
use crate::picture::percentiles;
use crate::table::{Table, judged};
use crate::world::World;

/// The functions of the path that is measured.
pub const FUNCTIONS: [&str; 2] = ["ingest", "worker"];
/// Webhooks per second, each with one message.
const RATE: u32 = 200;
/// The webhooks of the first seconds are not measured: connections, an access token, the first pages of memory.
const WARM_UP: u32 = 3 * RATE;
/// The webhooks that are measured: one minute.
const MEASURED: u32 = 60 * RATE;
/// The time after which the push service responds. It is not part of the latency.
const ANSWERS_AFTER: Duration = Duration::from_millis(50);
/// A notification that arrives later is an error.
const LATEST: Duration = Duration::from_secs(60);
/// Starts of both functions.
const STARTS: usize = 15;
/// Messages after the first one of each start.
const WARM_MESSAGES: usize = 20;
/// Longest latencies, in milliseconds, by the percentile.
const TARGETS: [(f64, f64); 2] = [(50.0, 12.0), (99.0, 50.0)];
/// Longest latency of the first message after a start, as a multiple of the median of later ones.
const FIRST_MESSAGE: f64 = 5.0;
/// The picture, from the root of the repository.
const PICTURE: &str = "docs/latency.svg";

/// Measures both, prints tables, draws the picture, and returns whether all targets are met.
pub async fn measure(binaries: &Binaries) -> anyhow::Result<bool> {
    let is_fast = steady_load(binaries).await?;
    let is_started_fast = first_messages(binaries).await?;
    Ok(is_fast && is_started_fast)
}

/// Posts webhooks to the local stack at fixed times, whether or not earlier ones were answered.
async fn steady_load(binaries: &Binaries) -> anyhow::Result<bool> {
    let fcm = Fcm::start_with_tls().await;
    let stack = LocalStack::start(binaries.path(LOCAL)?, &fcm)?;
    let http = reqwest::Client::new();
    for number in 0..input::USERS {
        let enabled = json!({"user": input::user(number), "jid": "push.example.com", "node": "device",
            "form": {"service": "fcm", "device_id": format!("{number:064}")}});
        let response = http.post(format!("{}/enable", stack.url)).json(&enabled).send().await?;
        ensure!(response.status() == 200, "not enabled: {}", response.text().await?);
    }
    fcm.hold(ANSWERS_AFTER);

    let (url, begin) = (format!("{}/events", stack.url), Instant::now() + Duration::from_millis(100));
    let due = move |number| begin + Duration::from_secs(1) / RATE * number;
    let runtime = Handle::current();
    // A thread of its own, because a timer of the runtime may fire one millisecond late.
    let posting = thread::spawn(move || {
        let mut posting = JoinSet::new();
        for number in 0..WARM_UP + MEASURED {
            thread::sleep(due(number).saturating_duration_since(Instant::now()));
            posting.spawn_on(post(http.clone(), url.clone(), message(number)), &runtime);
        }
        posting
    });
    let wait_for_posts = tokio::task::spawn_blocking(move || posting.join());
    let posting = wait_for_posts.await?.map_err(|_| anyhow::anyhow!("the webhooks were not posted"))?;
    for posted in posting.join_all().await {
        posted?;
    }
    let expected = u64::from(WARM_UP + MEASURED);
    wait_until(async || Ok(fcm.count() >= expected)).await?;

    let mut histogram = Histogram::<u64>::new_with_bounds(1, LATEST.as_micros() as u64, 3)?;
    for arrived in fcm.requests() {
        let text = arrived.json()["message"]["android"]["notification"]["body"].clone();
        let number: u32 =
            text.as_str().and_then(|text| text.parse().ok()).context("a notification without a number")?;
        if number >= WARM_UP {
            let latency = arrived.at.into_std().saturating_duration_since(due(number));
            histogram.record(latency.as_micros() as u64)?;
        }
    }
    ensure!(histogram.len() == u64::from(MEASURED), "{} of {MEASURED} notifications arrived once", histogram.len());

    let milliseconds = |percentile| histogram.value_at_percentile(percentile) as f64 / 1e3;
    let mut table = Table::new(["percentile", "latency, ms", "target", "slower messages"]);
    let mut is_met = true;
    for percentile in [50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0] {
        let target = TARGETS.iter().find(|target| target.0 == percentile).map(|target| target.1);
        let [latency, judged] = judged(milliseconds(percentile), 2, target);
        is_met &= target.is_none_or(|target| milliseconds(percentile) <= target);
        let slower = histogram.len() - histogram.count_between(0, histogram.value_at_percentile(percentile));
        let name = if percentile == 100.0 { "max".into() } else { format!("p{percentile}") };
        table.row([name, latency, judged, slower.to_string()]);
    }
    println!("{table}");
    let title = format!("From webhook to push service: {MEASURED} messages, {RATE} per second");
    let picture = percentiles(&title, &TARGETS, milliseconds);
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PICTURE), picture)?;
    eprintln!("{PICTURE}: written");
    Ok(is_met)
}

/// Starts both functions again and again, and sends some messages through them, one after the other.
async fn first_messages(binaries: &Binaries) -> anyhow::Result<bool> {
    let (fcm, world) = (Fcm::start_with_tls().await, World::start().await?);
    fcm.hold(ANSWERS_AFTER);
    for number in 0..input::USERS {
        world.enable(&input::user(number), json!({"service": "fcm", "device_id": format!("{number:064}")})).await?;
    }
    let mut environment = world.environment();
    environment.extend(settings(&fcm));
    let (mut starts, mut firsts, mut later) = (Vec::new(), Vec::new(), Vec::new());
    for start in 0..STARTS {
        let function = async |name| Function::start(Command::new(binaries.path(name)?), &environment).await;
        // One after the other, as Lambda starts the worker when the record is in the queue.
        let ingest = function("ingest").await?;
        let ingest_start = ingest.time_to_first_next().await?;
        let worker = function("worker").await?;
        starts.push(ingest_start + worker.time_to_first_next().await?);
        for number in 0..=WARM_MESSAGES {
            let count = fcm.count();
            let event = request("application/json", message((start * (WARM_MESSAGES + 1) + number) as u32));
            let posted = Instant::now();
            let (response, batch) =
                tokio::join!(ingest.runtime_api.invoke(vec![event.to_string().into_bytes()]), async {
                    let batch = world.receive().await?;
                    worker.runtime_api.invoke(vec![batch.to_string().into_bytes()]).await
                });
            let (response, _) = (response?, batch?);
            let response: Value = serde_json::from_slice(&response[0])?;
            ensure!(response["statusCode"] == 202, "ingest does not accept: {response}");
            wait_until(async || Ok(fcm.count() > count)).await?;
            let arrived = fcm.requests().pop().context("no notification")?.at.into_std();
            let latency = arrived - posted;
            if number == 0 { firsts.push(latency) } else { later.push(latency) }
        }
        ingest.check_log()?;
        worker.check_log()?;
    }
    let [start, first, later] = [starts, firsts, later].map(median);
    let mut table = Table::new(["message", "latency, median, ms", "of the later ones", "target"]);
    let [ratio, target] = judged(first / later, 2, Some(FIRST_MESSAGE));
    table.row(["later ones".into(), format!("{later:.2}"), "1.00".into(), String::new()]);
    table.row(["first after the start of both".into(), format!("{first:.2}"), ratio, target]);
    let with_start = first + start;
    let ratio = format!("{:.2}", with_start / later);
    table.row(["first, with the two starts".into(), format!("{with_start:.2}"), ratio, String::new()]);
    println!("{table}");
    Ok(first / later <= FIRST_MESSAGE)
}

/// A message whose text is its number.
fn message(number: u32) -> Value {
    let to = input::user(number.into());
    json!({"type": "message", "from": "alice@example.com/laptop", "to": to, "chat": "chat", "body": number.to_string()})
}

async fn post(http: reqwest::Client, url: String, event: Value) -> anyhow::Result<()> {
    let response = http.post(url).json(&event).send().await?;
    ensure!(response.status() == 202, "not accepted: {}", response.text().await?);
    Ok(())
}

async fn wait_until(mut is_true: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let latest = Instant::now() + LATEST;
    while !is_true().await? {
        ensure!(Instant::now() < latest, "not all notifications arrived within {LATEST:?}");
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// The median, in milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// The settings with which a function publishes to the double.
fn settings(fcm: &Fcm) -> [(String, String); 3] {
    let credentials = json!({"default": {"fcm": fcm.service_account()}}).to_string();
    [("PUSH_SERVICE", "direct".into()), ("PUSH_CREDENTIALS", credentials), ("EXTRA_CA_FILE", CA_FILE.into())]
        .map(|(name, value): (&str, String)| (name.to_owned(), value))
}

/// The local stack as a process of its own, in memory, with the default log level.
struct LocalStack {
    url: String,
    _process: Process,
}

impl LocalStack {
    fn start(binary: &Path, fcm: &Fcm) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.args(["--memory", "--port", "0"]).env_clear().envs(settings(fcm));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process(command.spawn().with_context(|| format!("{command:?} does not start"))?);
        let mut lines = BufReader::new(process.0.stdout.take().context("the log")?).lines();
        let url = lines.by_ref().find_map(|line| {
            let url = line.ok()?.strip_prefix("Pushlark is at ")?.split_once("/enable,")?.0.to_owned();
            Some(url)
        });
        // Otherwise the process stops when the pipe is full.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { url: url.context("the local stack does not start")?, _process: process })
    }
}
