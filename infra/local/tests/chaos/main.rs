//! Kills the whole stack at random moments and restarts it on the same data, while events are posted to it and its push
//! service fails three times in ten. Then compares every notification with the posted events.
//!
//! `CHAOS_SECONDS` (60) is how long events are posted, `CHAOS_KILLS` (15) is the number of kills in that time, and
//! `CHAOS_SEED` repeats the random choices of an earlier run, but not the scheduling of its threads.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod events;
mod harness;
mod history;
mod push_service;
mod stack_process;
mod violations;

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use reqwest::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use events::{EventGenerator, ROOM_NAME, users};
use harness::{Harness, depth};
use history::{Certainty, Device, Timeline};
use push_service::FaultyPushService;
use stack_process::StackProcess;

/// How long the stack may take to empty its queue at the end: far longer than on a busy machine.
const QUEUE_DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

fn option<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes more than a minute: cargo test -p local --test chaos -- --ignored --nocapture"]
async fn kills_of_the_stack_lose_no_notification() {
    let seed: u64 = option("CHAOS_SEED", fastrand::u64(..));
    let (seconds, kills): (u64, u64) = (option("CHAOS_SECONDS", 60), option("CHAOS_KILLS", 15));
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds} CHAOS_KILLS={kills}");
    let mut rng = Rng::with_seed(seed);
    let folder: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
    let _ = std::fs::remove_dir_all(&folder);
    let log = folder.with_extension("log");
    let harness = Harness {
        history: Arc::default(),
        endpoints: Arc::new(watch::Sender::new(None)),
        http: Client::builder().timeout(QUEUE_DRAIN_TIMEOUT).build().unwrap(),
        log: Arc::new(File::create(&log).unwrap()),
    };
    let (push_service, push_service_url) = FaultyPushService::start(harness.clone(), rng.fork()).await;
    let start = || StackProcess::start(&folder, &push_service_url, &harness);
    let mut stack = start();

    for user in users() {
        harness.history().offline.insert(user.clone(), Timeline::new(Certainty::Yes));
        for number in 0..2 {
            let device = Device { user: user.clone(), is_tied: number == 0, enabled: Timeline::new(Certainty::No) };
            let name = format!("{user}.{number}");
            harness.history().devices.insert(name.clone(), device);
            harness.enable(&name).await;
        }
    }

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut generators = JoinSet::new();
    for user in users().into_iter().chain([ROOM_NAME.to_owned()]) {
        let generator = EventGenerator { harness: harness.clone(), user, rng: rng.fork(), posted: 0, epoch: 0 };
        generators.spawn(generator.run(end));
    }
    for left in (1..=kills).rev() {
        // Some processes are killed before they answer a request.
        let average = end.saturating_duration_since(Instant::now()).as_secs_f64() / left as f64;
        sleep(Duration::from_secs_f64(average * 2.0 * rng.f64())).await;
        stack.kill(&harness);
        stack = start();
    }
    let posted: usize = generators.join_all().await.into_iter().sum();

    push_service.is_reliable.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    while depth(&harness, "pushlark").await != Some(0) {
        if begun.elapsed() > QUEUE_DRAIN_TIMEOUT {
            harness.history().errors.push("the queue is not empty".into());
            break;
        }
        // A restarted stack receives all messages that wait for a retry at once.
        stack.stop(&harness);
        stack = start();
        let empty = async {
            while depth(&harness, "pushlark").await != Some(0) {
                sleep(Duration::from_millis(200)).await;
            }
        };
        // After the timeout, a retry is too far away.
        let _ = timeout(Duration::from_secs(30), empty).await;
    }
    let dead = depth(&harness, "pushlark-dead").await;
    stack.stop(&harness);

    let history = harness.history();
    let mut violations = history.violations();
    if dead != Some(0) {
        violations.push(format!("{dead:?} records are in the dead-letter queue"));
    }
    let deliveries = history.attempts.iter().filter(|attempt| attempt.delivered).count();
    let (attempts, notifications) = (history.attempts.len(), history.delivered.len());
    let repeats = deliveries - notifications;
    println!(
        "{posted} messages, {kills} kills: {attempts} requests, {notifications} notifications, {repeats} repeats after a \
         kill ({:.1} for each kill, {:.3} for each notification), {} invocations aborted; the queue was empty after {:?}",
        repeats as f64 / kills as f64,
        repeats as f64 / notifications as f64,
        history.invocations_aborted.len(),
        begun.elapsed()
    );
    let some = violations[..violations.len().min(20)].join("\n");
    assert!(
        violations.is_empty(),
        "{} violations, CHAOS_SEED={seed}, log in {}:\n{some}",
        violations.len(),
        log.display()
    );
    // Otherwise the test was ineffective.
    assert!(history.kills.len() as u64 == kills && history.delivered.len() > posted && attempts > deliveries);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::remove_file(log).unwrap();
}
