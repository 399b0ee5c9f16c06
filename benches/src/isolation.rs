//! The effect of a failing device on the notifications of others: the same load with the failure and without.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use doubles::{APNS_KEY, Answer, Double, Fcm, Gateway, Hold, Request, Subscriber, WebPush, canary, fcm_error};
use local::{Options, Stack};
use pushlark_settings::Environment;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::table::Table;

/// The default number of runs of each load, each with the trouble and without it.
pub const ROUNDS: u32 = 3;
/// Duration of the messages, in seconds.
const SECONDS: u32 = 6;
/// Messages to a room in that time.
const ROOM_MESSAGES: u32 = 3;
/// Chat messages to others per second.
const CHATS: u32 = 15;
/// Those of them that are in one request with messages for the failing devices.
const TOGETHER: u32 = 5;
/// The lead of a busy chat's messages over the others.
const BEFORE: Duration = Duration::from_millis(200);
/// Response time of each push service.
const ANSWERS_AFTER: Duration = Duration::from_millis(50);
/// A notification that arrives later counts as lost.
const LATEST: Duration = Duration::from_secs(60);
/// Time in which repeats are counted after all notifications have arrived.
const WATCHED: Duration = Duration::from_secs(2);
/// Largest ratio of the median time of others with the failure to that without.
const MOST: f64 = 1.2;
/// The user, and its device, of [`Neighbour`].
const NEIGHBOUR: &str = "neighbour";

/// The push service of a load, which decides its doubles.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fcm,
    MongoosePush,
    WebPush,
    Webhook,
}

/// The kind of failure of the devices in trouble.
enum Trouble {
    /// Each notification gets this response.
    Answers(Answer),
    /// No notification gets a response. The device has a separate origin.
    Silent,
}

/// The order of the messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    /// Chats with one user whose device is in trouble: each second a request with this number of messages for it, then
    /// one with one more and some for others; then others have a request each.
    BusyChat(u32),
    /// Chats with several such users: each second one request has a message for each of them, among some for others;
    /// then others have a request each.
    Chats,
    /// A room: each message is one to all.
    Room,
}

/// A recipient whose own push service fails at first, with the trouble and without it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Neighbour {
    /// There is no such recipient.
    None,
    /// The first requests, as many as there are messages, are answered 503.
    FailsOnce,
    /// Each request in this time is answered 503.
    FailsFor(Duration),
}

/// A load: the number of webhooks, recipients and devices.
struct Scenario {
    name: &'static str,
    kind: Kind,
    trouble: Trouble,
    /// The number of users whose devices are in trouble; `devices` is the number of such devices of each.
    in_trouble: u32,
    devices: u32,
    others: u32,
    neighbour: Neighbour,
    traffic: Traffic,
}

fn scenarios() -> Vec<Scenario> {
    let chats = |name, kind, answer| Scenario {
        name,
        kind,
        trouble: Trouble::Answers(answer),
        in_trouble: 1,
        devices: 1,
        others: 30,
        neighbour: Neighbour::None,
        traffic: Traffic::BusyChat(6),
    };
    let quota = || fcm_error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), "Quota exceeded.");
    let answer = |status| Answer::json(status, &json!({}));
    let room = |name, retry_after, neighbour| Scenario {
        others: 22,
        neighbour,
        traffic: Traffic::Room,
        ..chats(name, Kind::WebPush, answer(429).with("retry-after", retry_after))
    };
    vec![
        chats("FCM: one device 429", Kind::Fcm, quota()),
        chats("FCM: one device 429, Retry-After: 60", Kind::Fcm, quota().with("retry-after", "60")),
        chats("MongoosePush v3: one device 429", Kind::MongoosePush, answer(429)),
        Scenario {
            in_trouble: 10,
            traffic: Traffic::Chats,
            ..chats("MongoosePush v3: ten devices 503", Kind::MongoosePush, answer(503))
        },
        room("Web Push: one endpoint 429, Retry-After: 43200", "43200", Neighbour::FailsOnce),
        room("Web Push: one endpoint 429, Retry-After: 0", "0", Neighbour::FailsFor(Duration::from_secs(10))),
        Scenario {
            trouble: Trouble::Silent,
            in_trouble: 2,
            devices: 20,
            traffic: Traffic::Room,
            ..chats("Web Push: two users of 20 silent endpoints", Kind::WebPush, answer(201))
        },
        chats("your own: one device 429", Kind::Webhook, answer(429)),
        chats("your own: one device 500", Kind::Webhook, answer(500)),
    ]
}

/// Runs the loads whose names contain `name`, prints a table, and returns whether all targets are met.
pub async fn measure(name: &str, rounds: u32) -> anyhow::Result<bool> {
    let mut results: Vec<_> = scenarios()
        .into_iter()
        .filter(|scenario| scenario.name.contains(name))
        .map(|scenario| (scenario, [Half::default(), Half::default()]))
        .collect();
    ensure!(!results.is_empty() && rounds > 0, "nothing is to be measured");
    for round in 0..rounds {
        for (scenario, halves) in &mut results {
            // Alternate, so that other load on the machine does not always affect the same half.
            let order = if round % 2 == 0 { [false, true] } else { [true, false] };
            for has_trouble in order {
                let half = scenario.run(has_trouble).await.with_context(|| scenario.name)?;
                halves[usize::from(has_trouble)].add(half);
            }
            eprintln!("{}, round {}: measured", scenario.name, round + 1);
        }
    }
    let mut table = Table::new([
        "trouble",
        "of",
        "within a minute, without",
        "with (all)",
        "median without, s",
        "with, s",
        "ratio (≤ 1.2)",
        "95 % without, s",
        "with, s",
        "repeats without",
        "with",
    ]);
    let mut missed = 0;
    for (scenario, [without, with]) in results {
        missed += row(&mut table, scenario.name, "others", [&without.others, &with.others], true);
        if scenario.neighbour != Neighbour::None {
            missed += row(&mut table, scenario.name, NEIGHBOUR, [&without.neighbour, &with.neighbour], false);
        }
    }
    println!("{table}");
    Ok(missed == 0)
}

/// Adds the results of some recipients, and returns the number of missed targets.
fn row(table: &mut Table, name: &str, recipients: &str, halves: [&Arrivals; 2], has_ratio: bool) -> usize {
    let [without, with] = halves;
    let [arrived_without, arrived_with] = halves.map(Arrivals::count);
    let all_arrived = arrived_without == without.times.len() && arrived_with == with.times.len();
    let of = |arrivals: &Arrivals, count| format!("{count} of {}", arrivals.times.len());
    let ratio = with.quantile(0.5) / without.quantile(0.5);
    let is_near = !has_ratio || ratio <= MOST;
    let seconds = |arrivals: &Arrivals, share| match arrivals.quantile(share) {
        seconds if seconds < LATEST.as_secs_f64() => format!("{seconds:.3}"),
        _ => format!("> {}", LATEST.as_secs()),
    };
    table.row([
        name.into(),
        recipients.into(),
        of(without, arrived_without),
        format!("{}{}", of(with, arrived_with), if all_arrived { ", met" } else { ", MISSED" }),
        seconds(without, 0.5),
        seconds(with, 0.5),
        match has_ratio {
            true => format!("{ratio:.2}{}", if is_near { ", met" } else { ", MISSED" }),
            false => format!("{ratio:.2}"),
        },
        seconds(without, 0.95),
        seconds(with, 0.95),
        without.repeats.to_string(),
        with.repeats.to_string(),
    ]);
    usize::from(!all_arrived) + usize::from(!is_near)
}

/// The measured times of one run of a load.
#[derive(Default)]
struct Half {
    others: Arrivals,
    neighbour: Arrivals,
}

/// The times of some recipients' notifications.
#[derive(Default)]
struct Arrivals {
    /// The times from the webhook to the delivery, at most [`LATEST`].
    times: Vec<Duration>,
    /// The number of notifications that arrived more than once.
    repeats: usize,
}

impl Half {
    fn add(&mut self, other: Self) {
        for (all, other) in [(&mut self.others, other.others), (&mut self.neighbour, other.neighbour)] {
            all.times.extend(other.times);
            all.repeats += other.repeats;
        }
    }
}

impl Arrivals {
    fn count(&self) -> usize {
        self.times.iter().filter(|time| **time < LATEST).count()
    }

    /// Returns the time in seconds that a share of the times does not exceed.
    fn quantile(&self, share: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let rank = (times.len() as f64 * share).ceil() as usize;
        times.get(rank.saturating_sub(1)).map_or(f64::NAN, Duration::as_secs_f64)
    }
}

/// A webhook of a load, with the time at which it is posted.
struct Post {
    /// The time at which it is sent, from the start of the run.
    at: Duration,
    events: Value,
    /// The recipients without trouble, with the texts of their messages.
    expected: Vec<(String, String)>,
}

/// Returns a message of a chat, as a native event.
fn message(user: &str, text: &str) -> Value {
    json!({"type": "message", "from": "alice@example.com/laptop", "to": format!("{user}@example.com"), "chat": "chat",
        "body": text})
}

/// Returns a message of the room to all users, as a native event.
fn room_message(users: &[String], text: &str) -> Value {
    let to: Vec<_> = users.iter().map(|user| format!("{user}@example.com")).collect();
    json!({"type": "message", "from": "room@muc.example.com/Alice", "to": to, "chat": "groupchat", "body": text})
}

impl Scenario {
    fn in_trouble(&self) -> Vec<String> {
        (0..self.in_trouble).map(|number| format!("trouble{number}")).collect()
    }

    /// Each has one device of the same name.
    fn without_trouble(&self) -> Vec<String> {
        let neighbour = (self.neighbour != Neighbour::None).then(|| NEIGHBOUR.to_owned());
        neighbour.into_iter().chain((0..self.others).map(|number| format!("other{number}"))).collect()
    }

    fn devices_in_trouble(&self, user: &str) -> impl Iterator<Item = String> {
        (0..self.devices).map(move |number| format!("{user}-{number}"))
    }

    /// The whole load, the same in both halves.
    fn posts(&self) -> Vec<Post> {
        let (in_trouble, without_trouble) = (self.in_trouble(), self.without_trouble());
        let everybody = [in_trouble.clone(), without_trouble.clone()].concat();
        let mut posts = Vec::new();
        if self.traffic == Traffic::Room {
            for number in 0..ROOM_MESSAGES {
                let text = format!("message {number}");
                let expected = without_trouble.iter().map(|user| (user.clone(), text.clone())).collect();
                let at = Duration::from_secs(SECONDS.into()) / ROOM_MESSAGES * number;
                posts.push(Post { at, events: room_message(&everybody, &text), expected });
            }
            return posts;
        }
        for second in 0..SECONDS {
            let at = Duration::from_secs(second.into());
            let others = (0..CHATS).map(|number| {
                let number = second * CHATS + number;
                (without_trouble[number as usize % without_trouble.len()].clone(), format!("message {number}"))
            });
            let mut together: Vec<_> = others.collect();
            let alone = together.split_off(TOGETHER as usize);
            if let Traffic::BusyChat(messages) = self.traffic {
                let events = (0..messages).map(|number| message(&in_trouble[0], &format!("trouble {second}.{number}")));
                posts.push(Post { at, events: events.collect(), expected: Vec::new() });
            }
            // Before each of the others' are as many for devices in trouble, as far as there are some.
            let share = in_trouble.len().div_ceil(together.len());
            let troubled = in_trouble.iter().map(|user| message(user, &format!("trouble {second}")));
            let mut events: Vec<_> = troubled.collect();
            for (index, (user, text)) in together.iter().enumerate() {
                let place = ((index + 1) * (share + 1) - 1).min(events.len());
                events.insert(place, message(user, text));
            }
            // By then the messages before it were tried.
            posts.push(Post { at: at + BEFORE, events: Value::from(events), expected: together });
            let between = (Duration::from_secs(1) - BEFORE) / (alone.len() as u32 + 1);
            for (expected, number) in alone.into_iter().zip(1..) {
                let events = message(&expected.0, &expected.1);
                posts.push(Post { at: at + BEFORE + between * number, events, expected: vec![expected] });
            }
        }
        posts
    }

    /// Runs the load on a new stack with new doubles.
    async fn run(&self, has_trouble: bool) -> anyhow::Result<Half> {
        let services = Services::start(self.kind).await;
        let environment = Environment::from_iter(services.settings());
        let stack = Stack::start(Options { environment, ..Options::default() }).await?;
        let http = reqwest::Client::new();
        let is_silent = matches!(self.trouble, Trouble::Silent);
        for user in self.in_trouble() {
            for device in self.devices_in_trouble(&user) {
                enable(&http, &stack.url, &user, &device, services.form(&device, is_silent)).await?;
            }
        }
        for user in self.without_trouble() {
            enable(&http, &stack.url, &user, &user, services.form(&user, false)).await?;
        }
        services.double().hold(ANSWERS_AFTER);
        if let Some(silent) = services.silent() {
            silent.hold(ANSWERS_AFTER);
        }

        let users = [self.in_trouble(), self.without_trouble()].concat();
        // The first of a connection, of a signature and of an access token takes longer.
        post_events(http.clone(), format!("{}/events", stack.url), room_message(&users, "warm-up")).await?;
        let warm: Vec<_> = self.without_trouble().into_iter().map(|user| (user, "warm-up".into())).collect();
        let mut taken = Taken::default();
        let is_warm = taken.wait(&services, &warm, Instant::now() + LATEST).await;
        ensure!(is_warm, "not all were notified before the trouble began");

        if has_trouble {
            match &self.trouble {
                Trouble::Silent => services.silent().context("no double is silent")?.hold(Hold::FOREVER),
                Trouble::Answers(answer) => {
                    for device in self.in_trouble().iter().flat_map(|user| self.devices_in_trouble(user)) {
                        services.double().device_answers(&device, answer.clone());
                    }
                }
            }
        }
        let begin = Instant::now();
        let (double, failure) = (services.double().clone(), Answer::json(503, &json!({})));
        match self.neighbour {
            Neighbour::None => {}
            Neighbour::FailsOnce => {
                (0..ROOM_MESSAGES).for_each(|_| double.device_answers_next(NEIGHBOUR, failure.clone()));
            }
            Neighbour::FailsFor(time) => {
                double.device_answers(NEIGHBOUR, failure);
                tokio::spawn(async move {
                    sleep_until(begin + time).await;
                    double.device_recovers(NEIGHBOUR);
                });
            }
        }
        let (mut sent, mut posting) = (HashMap::new(), JoinSet::new());
        for post in self.posts() {
            sleep_until(begin + post.at).await;
            let now = Instant::now();
            sent.extend(post.expected.into_iter().map(|expected| (expected, now)));
            posting.spawn(post_events(http.clone(), format!("{}/events", stack.url), post.events));
        }
        for posted in posting.join_all().await {
            posted?;
        }
        let latest = sent.values().max().context("nothing was sent")?;
        let expected: Vec<_> = sent.keys().cloned().collect();
        taken.wait(&services, &expected, *latest + LATEST).await;
        sleep(WATCHED).await;
        taken.read(&services);

        let mut half = Half::default();
        for ((user, text), at) in sent {
            let arrivals = if user == NEIGHBOUR { &mut half.neighbour } else { &mut half.others };
            let times = taken.times.get(&(user, text)).map_or(&[][..], Vec::as_slice);
            arrivals.times.push(times.first().map_or(LATEST, |first| (*first - at).min(LATEST)));
            arrivals.repeats += times.len().saturating_sub(1);
        }
        Ok(half)
    }
}

async fn enable(http: &reqwest::Client, url: &str, user: &str, device: &str, form: Value) -> anyhow::Result<()> {
    let request =
        json!({"user": format!("{user}@example.com"), "jid": "push.example.com", "node": device, "form": form});
    let response = http.post(format!("{url}/enable")).json(&request).send().await?;
    ensure!(response.status() == 200, "not enabled: {}", response.text().await?);
    Ok(())
}

async fn post_events(http: reqwest::Client, url: String, events: Value) -> anyhow::Result<()> {
    let response = http.post(url).json(&events).send().await?;
    ensure!(response.status() == 202, "not accepted: {}", response.text().await?);
    Ok(())
}

/// The notifications that were taken: when, by the device and the text.
#[derive(Default)]
struct Taken {
    times: HashMap<(String, String), Vec<Instant>>,
    /// The number of requests that were read.
    read: usize,
}

impl Taken {
    /// Waits until all of these have arrived, and returns whether they have by then.
    async fn wait(&mut self, services: &Services, expected: &[(String, String)], latest: Instant) -> bool {
        loop {
            self.read(services);
            if expected.iter().all(|expected| self.times.contains_key(expected)) {
                return true;
            }
            if Instant::now() >= latest {
                return false;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads the requests since the last call.
    fn read(&mut self, services: &Services) {
        let requests = services.double().requests();
        for request in &requests[self.read..] {
            if request.status < 300 {
                let text = services.text(request).unwrap_or_default();
                self.times.entry((request.device.clone(), text)).or_default().push(request.at);
            }
        }
        self.read = requests.len();
    }
}

/// The running doubles of a load.
enum Services {
    Fcm(Fcm),
    MongoosePush(Gateway),
    WebPush { double: WebPush, silent: WebPush },
    Webhook(Gateway),
}

impl Services {
    async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Fcm => Self::Fcm(Fcm::start().await),
            Kind::MongoosePush => Self::MongoosePush(Gateway::mongoosepush().await),
            Kind::WebPush => Self::WebPush { double: WebPush::start().await, silent: WebPush::start().await },
            Kind::Webhook => Self::Webhook(Gateway::webhook().await),
        }
    }

    /// Returns the push service of devices without trouble.
    fn double(&self) -> &Double {
        match self {
            Self::Fcm(double) => double,
            Self::MongoosePush(double) => double,
            Self::WebPush { double, .. } => double,
            Self::Webhook(double) => double,
        }
    }

    /// Returns the push service of silent devices, if it is a separate one.
    fn silent(&self) -> Option<&Double> {
        match self {
            Self::WebPush { silent, .. } => Some(silent),
            _ => None,
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let direct = |app| {
            let credentials: Value = json!({ "default": app });
            vec![("PUSH_SERVICE", "direct".into()), ("PUSH_CREDENTIALS", credentials.to_string())]
        };
        match self {
            Self::Fcm(fcm) => direct(json!({"fcm": fcm.service_account()})),
            Self::MongoosePush(mongoose_push) => vec![("MONGOOSEPUSH_URL", mongoose_push.url.clone())],
            Self::WebPush { double, silent } => {
                let mut settings = direct(json!({"web_push": {"key": APNS_KEY, "subject": "mailto:push@example.com"}}));
                settings.push(("WEB_PUSH_TRUSTED_ORIGINS", format!("{}, {}", double.url, silent.url)));
                settings
            }
            Self::Webhook(receiver) => {
                let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
                vec![("PUSH_SERVICE", receiver.url.clone()), ("PUSH_SERVICE_SECRET", secret.into())]
            }
        }
    }

    /// Returns the form with which a device is enabled.
    fn form(&self, device: &str, is_silent: bool) -> Value {
        match self {
            Self::WebPush { double, silent } => {
                let (double, browser) = (if is_silent { silent } else { double }, Subscriber::new(9));
                json!({"service": "web-push", "endpoint": double.endpoint(device), "p256dh": browser.p256dh(),
                    "auth": browser.auth()})
            }
            Self::Webhook(_) => json!({"service": "mine", "device_id": device}),
            Self::Fcm(_) | Self::MongoosePush(_) => json!({"service": "fcm", "device_id": canary(device)}),
        }
    }

    /// The message's text in a notification.
    fn text(&self, request: &Request) -> Option<String> {
        let text = match self {
            Self::Fcm(_) => request.json()["message"]["android"]["notification"]["body"].clone(),
            Self::MongoosePush(_) => request.json()["alert"]["body"].clone(),
            Self::WebPush { .. } => {
                let payload: Value = serde_json::from_slice(&Subscriber::new(9).decrypt(&request.body)?).ok()?;
                payload["last-message-body"].clone()
            }
            Self::Webhook(_) => request.json()["payload"]["last-message-body"].clone(),
        };
        text.as_str().map(str::to_owned)
    }
}
