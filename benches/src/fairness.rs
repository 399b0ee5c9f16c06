//! The effect of one domain's flood on the notifications of another domain, with `FAIR_QUEUES` off and on.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::ensure;
use doubles::{Gateway, canary};
use local::{Options, Stack};
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::table::Table;

/// The concurrent workers, few so that events wait in the queue.
const WORKERS: &str = "4";
/// The response time of the push service.
const ANSWERS_AFTER: Duration = Duration::from_millis(50);
/// The users of the domain that floods. Each request of the flood has a message for each of them.
const FLOODED_USERS: usize = 250;
/// The requests of the flood, all at once.
const FLOOD_REQUESTS: usize = 8;
/// The messages of the other domain, one to a request, in an interval.
const MESSAGES: usize = 100;
const INTERVAL: Duration = Duration::from_millis(100);
/// The users of the other domain.
const USERS: usize = 10;
/// The largest time of the other domain's notifications with fair queues, in proportion to that without.
const MOST: f64 = 0.5;
/// A notification that arrives later counts as lost.
const LATEST: Duration = Duration::from_secs(600);

/// The times of one run.
struct Run {
    /// The times from the webhook to the push service of the domain that does not flood.
    times: Vec<Duration>,
    /// The time from the first request of the flood to its last notification.
    flood: Duration,
}

/// Runs the load with fair queues and without, prints a table, and returns whether fair queues help.
pub async fn measure() -> anyhow::Result<bool> {
    let mut table = Table::new(["FAIR_QUEUES", "notifications", "p50, s", "p99, s", "the flood's last, s"]);
    let mut runs = Vec::new();
    for setting in ["off", "on"] {
        let run = run(setting).await?;
        table.row([
            setting.to_owned(),
            run.times.len().to_string(),
            format!("{:.3}", run.quantile(0.5)),
            format!("{:.3}", run.quantile(0.99)),
            format!("{:.3}", run.flood.as_secs_f64()),
        ]);
        runs.push(run);
    }
    let ratios: Vec<_> = [0.5, 0.99].map(|share| runs[1].quantile(share) / runs[0].quantile(share)).into();
    let is_met = ratios.iter().all(|ratio| *ratio <= MOST);
    println!("{table}");
    println!(
        "p50 on / off: {:.2}, p99: {:.2} (≤ {MOST}): {}",
        ratios[0],
        ratios[1],
        if is_met { "met" } else { "MISSED" }
    );
    Ok(is_met)
}

impl Run {
    /// Returns the time in seconds that a share of the times does not exceed.
    fn quantile(&self, share: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let rank = (times.len() as f64 * share).ceil() as usize;
        times.get(rank.saturating_sub(1)).map_or(f64::NAN, Duration::as_secs_f64)
    }
}

/// Floods one domain, and sends messages to another meanwhile.
async fn run(setting: &str) -> anyhow::Result<Run> {
    let push_service = Gateway::mongoosepush().await;
    let settings = [("MONGOOSEPUSH_URL", push_service.url.as_str()), ("WORKERS", WORKERS), ("FAIR_QUEUES", setting)];
    let environment = Environment::from_iter(settings);
    let stack = Stack::start(Options { environment, ..Options::default() }).await?;
    let http = reqwest::Client::new();
    let flooded: Vec<_> = (0..FLOODED_USERS).map(|number| format!("u{number}@flood.example")).collect();
    let others: Vec<_> = (0..USERS).map(|number| format!("u{number}@calm.example")).collect();
    for user in flooded.iter().chain(&others) {
        let form = json!({"service": "fcm", "device_id": canary(user)});
        let domain = user.split('@').next_back().unwrap_or_default();
        let request = json!({"user": user, "jid": format!("push.{domain}"), "node": "n", "form": form});
        post(http.clone(), format!("{}/enable", stack.url), request).await?;
    }
    push_service.hold(ANSWERS_AFTER);
    let events = format!("{}/events", stack.url);
    let begin = Instant::now();
    let mut posting = JoinSet::new();
    for number in 0..FLOOD_REQUESTS {
        let messages: Vec<_> = flooded.iter().map(|user| message(user, &format!("flood {number} {user}"))).collect();
        posting.spawn(post(http.clone(), events.clone(), messages.into()));
    }
    for posted in posting.join_all().await {
        posted?;
    }
    let (mut sent, mut posting) = (HashMap::new(), JoinSet::new());
    let from = Instant::now();
    for number in 0..MESSAGES {
        sleep_until(from + INTERVAL * number as u32).await;
        let text = format!("calm {number}");
        posting.spawn(post(http.clone(), events.clone(), message(&others[number % USERS], &text)));
        sent.insert(text, Instant::now());
    }
    for posted in posting.join_all().await {
        posted?;
    }
    let (mut arrived, mut read) = (HashMap::<String, Instant>::new(), 0);
    while arrived.len() < MESSAGES + FLOOD_REQUESTS * FLOODED_USERS {
        ensure!(begin.elapsed() < LATEST, "only {} notifications have arrived", arrived.len());
        sleep(Duration::from_secs(1)).await;
        let requests = push_service.requests();
        for request in &requests[read..] {
            if let Some(text) = request.json()["alert"]["body"].as_str() {
                arrived.entry(text.to_owned()).or_insert(request.at);
            }
        }
        read = requests.len();
    }
    let times = sent.iter().map(|(text, at)| arrived[text].saturating_duration_since(*at)).collect();
    let last = arrived.iter().filter(|(text, _)| !sent.contains_key(*text)).map(|(_, at)| *at).max();
    Ok(Run { times, flood: last.unwrap_or(begin) - begin })
}

fn message(user: &str, text: &str) -> Value {
    json!({"type": "message", "from": "alice@example.com/laptop", "to": user, "chat": "chat", "body": text})
}

async fn post(http: reqwest::Client, url: String, body: Value) -> anyhow::Result<()> {
    let response = http.post(url).json(&body).send().await?;
    ensure!(response.status().is_success(), "not accepted: {}", response.text().await?);
    Ok(())
}
