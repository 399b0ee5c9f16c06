//! The whole stack is killed at random moments and started again on the same data, while events are posted to it and its
//! push service fails three times in ten. In the end every notification is compared with what was posted.
//!
//! `CHAOS_SECONDS` (60) is how long events are posted, `CHAOS_KILLS` (15) how often the stack is killed in that time, and
//! `CHAOS_SEED` repeats the choices of an earlier run; the threads still meet each other differently.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use percent_encoding::percent_decode_str;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How long the stack may take to empty its queue in the end: far longer than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// The domain of all users.
const DOMAIN: &str = "example.com";
/// The sender whose messages Pushlark counts as unread.
const ALICE: &str = "alice";
/// The sender whose messages say themselves how many are unread.
const COUNTING: &str = "counting";
/// The room that users are notified of together.
const ROOM: &str = "room";
/// The most messages of a conversation. A counter remembers so many, and counts none of them twice if a worker dies between
/// the count and the claim; an older message may be counted twice.
const CONVERSATION: usize = 30;
/// Users whose devices stay enabled and who stay offline: each of their messages must be notified.
const STEADY: usize = 10;
/// Users who come and go and who enable and disable their devices.
const CHANGING: usize = 6;

/// Whether something is true at a time. While a request that changes it has no answer, nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Yes,
    Maybe,
    No,
}

/// What was true, from each of these times on.
#[derive(Debug, Clone)]
struct Timeline(Vec<(Instant, Is)>);

impl Timeline {
    fn new(is: Is) -> Self {
        Self(vec![(Instant::now(), is)])
    }

    fn set(&mut self, is: Is) {
        self.0.push((Instant::now(), is));
    }

    fn at(&self, time: Instant) -> Is {
        let later = self.0.partition_point(|(since, _)| *since <= time);
        self.0[later.saturating_sub(1)].1
    }

    fn last(&self) -> Is {
        self.0[self.0.len() - 1].1
    }

    /// `from`, and each change until `to`.
    fn changes(&self, from: Instant, to: Instant) -> impl Iterator<Item = Instant> {
        let first = self.0.partition_point(|(since, _)| *since <= from);
        let within = self.0[first..].iter().map(|(since, _)| *since).take_while(move |since| *since <= to);
        std::iter::once(from).chain(within)
    }
}

/// Who is to be notified of a message among a recipient's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// All, since the event says that the recipient is offline.
    All,
    /// All while the recipient is offline by the presence events.
    WhileOffline,
    /// The one that is tied to the session which did not acknowledge the message.
    Tied,
    /// None, since the event says that the recipient is online, or was refused.
    Nobody,
}

/// A message that was posted, by its text.
struct Posted {
    at: Instant,
    title: String,
    conversation: String,
    /// The number of unread messages, where the event says it.
    unread_count: Option<u64>,
    /// How often the conversation had been read before.
    epoch: usize,
    recipients: BTreeMap<String, Audience>,
}

struct Device {
    user: String,
    is_tied: bool,
    enabled: Timeline,
}

/// A request to the push service.
struct Attempt {
    device: String,
    text: String,
    notification: Value,
    at: Instant,
    /// Whether it was answered with 200.
    delivered: bool,
    /// Whether it was never answered.
    hung: bool,
}

/// All that has happened.
#[derive(Default)]
struct Book {
    posted: HashMap<String, Posted>,
    devices: BTreeMap<String, Device>,
    /// Which users are offline.
    offline: HashMap<String, Timeline>,
    attempts: Vec<Attempt>,
    /// When a device was first notified of a text.
    delivered: HashMap<(String, String), Instant>,
    /// The texts that each user's devices may yet have to be notified of.
    open: HashMap<String, Vec<String>>,
    /// When the stack was running last, and when it was dead.
    kills: Vec<(Instant, Instant)>,
    /// When the stack gave a worker's invocation up because its time was over, which ends it as a kill does.
    given_up: Vec<Instant>,
    /// How often the stack logged that the push service did not answer in time, by the user.
    timed_out: HashMap<String, usize>,
    /// What went wrong on the way.
    faults: Vec<String>,
}

impl Book {
    /// Whether a device was to be notified of a message at a moment.
    fn wants(&self, posted: &Posted, device: &Device, time: Instant) -> Is {
        let enabled = device.enabled.at(time);
        match posted.recipients.get(&device.user) {
            Some(Audience::All) => enabled,
            Some(Audience::Tied) if device.is_tied => enabled,
            Some(Audience::WhileOffline) => match (enabled, self.offline[&device.user].at(time)) {
                (Is::No, _) | (_, Is::No) => Is::No,
                (Is::Yes, Is::Yes) => Is::Yes,
                _ => Is::Maybe,
            },
            Some(Audience::Tied | Audience::Nobody) | None => Is::No,
        }
    }

    /// Whether a device was to be notified of a message, at each moment until `to` at which that may have changed.
    fn wanted(&self, posted: &Posted, device: &Device, to: Instant) -> impl Iterator<Item = Is> {
        let offline = &self.offline[&device.user];
        let times = device.enabled.changes(posted.at, to).chain(offline.changes(posted.at, to));
        times.map(|time| self.wants(posted, device, time))
    }

    /// The devices of a user that must be notified of a text and are not yet.
    fn missing(&self, text: &str, user: &str) -> impl Iterator<Item = &str> {
        let (posted, now) = (&self.posted[text], Instant::now());
        let must = move |name: &str, device: &Device| {
            !self.delivered.contains_key(&(text.to_owned(), name.to_owned()))
                && self.wanted(posted, device, now).all(|is| is == Is::Yes)
        };
        let devices = self.devices.iter().filter(move |(_, device)| device.user == user);
        devices.filter(move |(name, device)| must(name, device)).map(|(name, _)| name.as_str())
    }

    /// Whether a user has been notified of all that must be notified.
    fn is_done(&mut self, user: &str) -> bool {
        let mut open = self.open.remove(user).unwrap_or_default();
        open.retain(|text| self.missing(text, user).next().is_some());
        let is_done = open.is_empty();
        self.open.insert(user.to_owned(), open);
        is_done
    }

    /// The attempts that were taken, by text and device, the earliest first.
    fn deliveries(&self) -> BTreeMap<(&str, &str), Vec<&Attempt>> {
        let mut deliveries: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for attempt in self.attempts.iter().filter(|attempt| attempt.delivered) {
            deliveries.entry((attempt.text.as_str(), attempt.device.as_str())).or_default().push(attempt);
        }
        deliveries
    }

    /// All that must not be so.
    fn judge(&self) -> Vec<String> {
        let mut wrong = self.faults.clone();
        for (text, posted) in &self.posted {
            let missing = posted.recipients.keys().flat_map(|user| self.missing(text, user));
            wrong.extend(missing.map(|name| format!("{name} was not notified of {text:?}")));
        }
        for attempt in &self.attempts {
            wrong.extend(self.misdirected(attempt));
        }
        wrong.extend(self.repeated());
        wrong.extend(self.miscounted());
        wrong
    }

    /// Why an attempt must not have been made.
    fn misdirected(&self, attempt: &Attempt) -> Option<String> {
        let Attempt { device: name, text, notification, .. } = attempt;
        let Some(posted) = self.posted.get(text) else { return Some(format!("nobody posted {text:?}")) };
        let Some(device) = self.devices.get(name) else { return Some(format!("nobody enabled {name}")) };
        if self.wanted(posted, device, attempt.at).all(|is| is == Is::No) {
            return Some(format!("{name} was notified of {text:?}, which it is not to know"));
        }
        let badge = &notification["alert"]["badge"];
        let title = &posted.title;
        let alert = json!({"body": text, "title": title, "tag": title, "badge": badge});
        let expected = json!({"service": "fcm", "alert": alert});
        (*notification != expected).then(|| format!("{name} got {notification}, not {expected}"))
    }

    /// Deliveries that came twice without a kill since the message was posted. A stack that dies while it puts back what it
    /// has not delivered may leave it to two records, which both deliver it later.
    fn repeated(&self) -> Vec<String> {
        let mut repeats: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((text, name), attempts) in self.deliveries() {
            let Some(posted) = self.posted.get(text).map(|posted| posted.at) else { continue };
            for pair in attempts.windows(2) {
                let (first, second) = (pair[0].at, pair[1].at);
                let kills = self.kills.iter().copied().chain(self.given_up.iter().map(|at| (*at, *at)));
                if !kills.into_iter().any(|(running, dead)| dead >= posted && running <= second) {
                    let told = format!("{name} was notified of {text:?} twice, {:?} apart", second - first);
                    let user = self.devices.get(name).map_or("nobody", |device| &device.user);
                    repeats.entry(user).or_default().push(told);
                }
            }
        }
        // On a very busy machine the stack may give up before it has read an answer that was given at once. It logs that
        // as it logs an answer that was not given.
        repeats.retain(|user, repeats| {
            let is_users = |attempt: &&Attempt| self.devices.get(&attempt.device).is_some_and(|d| d.user == *user);
            let hung = self.attempts.iter().filter(is_users).filter(|attempt| attempt.hung).count();
            let excused = self.timed_out.get(*user).map_or(0, |logged| logged.saturating_sub(hung));
            repeats.len() > excused
        });
        repeats.into_values().flatten().collect()
    }

    /// Unread counts that are not as they must be.
    fn miscounted(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        // The numbers that the messages of each conversation had, in each time between two reads.
        let mut numbers: BTreeMap<(&str, &str, usize), BTreeMap<&str, BTreeSet<u64>>> = BTreeMap::new();
        for attempt in &self.attempts {
            let (Some(posted), Some(device)) = (self.posted.get(&attempt.text), self.devices.get(&attempt.device))
            else {
                continue;
            };
            let badge = attempt.notification["alert"]["badge"].as_u64().unwrap_or_default();
            match posted.unread_count {
                Some(told) if badge != told => {
                    wrong.push(format!("{} is number {badge} of {:?}, not {told}", attempt.device, attempt.text));
                }
                Some(_) => {}
                None => {
                    let conversation = (device.user.as_str(), posted.conversation.as_str(), posted.epoch);
                    numbers.entry(conversation).or_default().entry(&attempt.text).or_default().insert(badge);
                }
            }
        }
        for ((user, conversation, epoch), numbers) in numbers {
            let is_counted = |posted: &&Posted| {
                posted.recipients.contains_key(user)
                    && (posted.conversation.as_str(), posted.epoch) == (conversation, epoch)
                    && posted.unread_count.is_none()
            };
            let count = self.posted.values().filter(is_counted).count() as u64;
            let mut taken = BTreeMap::new();
            for (text, numbers) in numbers {
                if numbers.len() > 1 || numbers.iter().any(|number| !(1..=count).contains(number)) {
                    wrong.push(format!("{text:?} has the numbers {numbers:?} of {count} messages of {conversation}"));
                }
                for number in numbers {
                    if let Some(other) = taken.insert(number, text) {
                        wrong.push(format!("{other:?} and {text:?} are both number {number} for {user}"));
                    }
                }
            }
            // A message that is posted after another one was notified has the higher number.
            let mut earliest: Option<(Instant, &str)> = None;
            for text in taken.into_values().rev() {
                if let Some((notified, higher)) = earliest
                    && notified < self.posted[text].at
                {
                    wrong.push(format!("{text:?} was posted after {higher:?} was notified, and has a lower number"));
                }
                let devices = self.devices.iter().filter(|(_, device)| device.user == user).map(|(name, _)| name);
                let notified = devices.filter_map(|name| self.delivered.get(&(text.to_owned(), name.clone()))).min();
                earliest = earliest.into_iter().chain(notified.map(|at| (*at, text))).min();
            }
        }
        wrong
    }
}

/// The push service: MongoosePush's API, and failures.
#[derive(Clone)]
struct PushService {
    world: World,
    rng: Arc<Mutex<Rng>>,
    is_calm: Arc<AtomicBool>,
}

/// What it does with a request.
enum Turn {
    Answer(u16, Duration),
    Reset,
    Hang,
}

impl PushService {
    fn turn(&self) -> Turn {
        if self.is_calm.load(Ordering::SeqCst) {
            return Turn::Answer(200, Duration::ZERO);
        }
        let mut rng = self.rng.lock().unwrap();
        match rng.u32(0..100) {
            0..8 => Turn::Answer(503, Duration::ZERO),
            8..14 => Turn::Answer(500, Duration::ZERO),
            14..20 => Turn::Answer(429, Duration::ZERO),
            20..28 => Turn::Reset,
            28..30 => Turn::Hang,
            30..40 => Turn::Answer(200, Duration::from_millis(rng.u64(0..500))),
            _ => Turn::Answer(200, Duration::ZERO),
        }
    }

    /// An error closes the connection.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let device = request.uri().path().rsplit('/').next().unwrap();
        let device = percent_decode_str(device).decode_utf8_lossy().into_owned();
        if request.method() == "HEAD" {
            // The worker opens its connections when it starts.
            return Ok(Response::default());
        }
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let notification: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = notification["alert"]["body"].as_str().unwrap_or_default().to_owned();
        let turn = self.turn();
        let index = {
            let hung = matches!(turn, Turn::Hang);
            let mut book = self.world.book();
            book.attempts.push(Attempt { device, text, notification, at: Instant::now(), delivered: false, hung });
            book.attempts.len() - 1
        };
        let (status, delay) = match turn {
            Turn::Answer(status, delay) => (status, delay),
            Turn::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Turn::Hang => std::future::pending().await,
        };
        // If the stack dies meanwhile, the rest of this is not run.
        sleep(delay).await;
        let mut response = Response::builder().status(status);
        match status {
            200 => {
                let mut book = self.world.book();
                let attempt = &mut book.attempts[index];
                attempt.delivered = true;
                let (told, at) = ((attempt.text.clone(), attempt.device.clone()), attempt.at);
                book.delivered.entry(told).or_insert(at);
            }
            429 => response = response.header("retry-after", "1"),
            _ => {}
        }
        response.body(Full::default()).map_err(io::Error::other)
    }

    async fn start(world: World, rng: Rng) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = Self { world, rng: Arc::new(Mutex::new(rng)), is_calm: Arc::default() };
        let accepting = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = accepting.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |request| {
                        let service = service.clone();
                        async move { service.answer(request).await }
                    });
                    // It ends with an error wherever a connection is reset.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        (service, url)
    }
}

/// Where the stack is while it runs.
#[derive(Debug, Clone)]
struct Place {
    url: String,
    sqs_url: String,
}

/// What the threads of the test share.
#[derive(Clone)]
struct World {
    book: Arc<Mutex<Book>>,
    place: Arc<watch::Sender<Option<Place>>>,
    http: Client,
    /// What the stack logs, in all of its lives.
    log: Arc<File>,
}

impl World {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    async fn place(&self) -> Place {
        self.place.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }

    /// Posts until there is an answer other than "try again".
    async fn post(&self, path: &str, body: &Value) -> u16 {
        loop {
            let url = format!("{}{path}", self.place().await.url);
            let status = match self.http.post(url).json(body).send().await {
                Ok(response) => response.status().as_u16(),
                Err(_) => 0,
            };
            match status {
                0 | 429 | 503 => sleep(Duration::from_millis(20)).await,
                status => return status,
            }
        }
    }

    /// Posts what must be taken.
    async fn told(&self, path: &str, body: &Value) {
        let (status, expected) = (self.post(path, body).await, if path == "/events" { 202 } else { 200 });
        if status != expected {
            self.book().faults.push(format!("{path} answered {status} to {body}"));
        }
    }

    async fn enable(&self, name: &str) {
        let (user, node) = name.split_once('.').unwrap();
        let resource = if self.book().devices[name].is_tied { "/tied" } else { "" };
        let form = json!({"service": "fcm", "device_id": name});
        let jid = format!("push.{DOMAIN}");
        let enable = json!({"user": format!("{user}@{DOMAIN}{resource}"), "jid": jid, "node": node, "form": form});
        self.change_device(name, "/enable", &enable, Is::Yes).await;
    }

    async fn disable(&self, name: &str) {
        let (user, node) = name.split_once('.').unwrap();
        let disable = json!({"user": format!("{user}@{DOMAIN}"), "jid": format!("push.{DOMAIN}"), "node": node});
        self.change_device(name, "/disable", &disable, Is::No).await;
    }

    async fn change_device(&self, name: &str, path: &str, body: &Value, becomes: Is) {
        self.book().devices.get_mut(name).unwrap().enabled.set(Is::Maybe);
        self.told(path, body).await;
        self.book().devices.get_mut(name).unwrap().enabled.set(becomes);
    }

    async fn presence(&self, user: &str, becomes: Is) {
        let status = if becomes == Is::Yes { "offline" } else { "online" };
        let event = json!({"type": "presence", "jid": format!("{user}@{DOMAIN}/pc"), "status": status});
        self.book().offline.get_mut(user).unwrap().set(Is::Maybe);
        self.told("/events", &event).await;
        self.book().offline.get_mut(user).unwrap().set(becomes);
    }

    /// Waits until a user is notified of all, for a while: a failed notification may be minutes away.
    async fn settle(&self, user: &str, longest: Duration) -> bool {
        let done = async {
            while !self.book().is_done(user) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(longest, done).await.is_ok()
    }
}

/// One who posts events, a user's own or of a room.
struct Poster {
    world: World,
    user: String,
    rng: Rng,
    posted: usize,
    /// How often the user has read what Alice wrote.
    epoch: usize,
}

impl Poster {
    /// The JID of a sender or a room, another one for each part of the messages.
    fn conversation(&self, name: &str) -> String {
        let host = if name == ROOM { "muc.example.com" } else { DOMAIN };
        format!("{name}{}@{host}", self.posted / CONVERSATION)
    }

    /// Notes a message that is about to be posted, and gives the event.
    fn message(&mut self, from: &str, to: &[&str], audience: Audience) -> Value {
        let text = format!("{}-{}", self.user, self.posted);
        let is_group = from == ROOM;
        let conversation = self.conversation(from);
        self.posted += 1;
        let sender = if is_group { format!("{conversation}/alice") } else { conversation.clone() };
        let unread_count = (from == COUNTING).then(|| self.rng.u64(1..1_000));
        let posted = Posted {
            at: Instant::now(),
            title: sender.clone(),
            conversation: conversation.clone(),
            unread_count,
            epoch: self.epoch,
            recipients: to.iter().map(|user| ((*user).to_owned(), audience)).collect(),
        };
        let mut book = self.world.book();
        for user in to {
            book.open.entry((*user).to_owned()).or_default().push(text.clone());
        }
        book.posted.insert(text.clone(), posted);
        drop(book);
        let to: Vec<_> = to.iter().map(|user| format!("{user}@{DOMAIN}")).collect();
        let mut recipient = json!({});
        match audience {
            Audience::All => recipient["online"] = false.into(),
            Audience::Nobody => recipient["online"] = true.into(),
            Audience::WhileOffline | Audience::Tied => {}
        }
        if let Some(count) = unread_count {
            recipient["unread_count"] = count.into();
        }
        let from = if is_group { sender } else { format!("{conversation}/pc") };
        json!({"type": "message", "id": format!("id-{text}"), "from": from, "to": to, "body": text,
            "chat": if is_group { "groupchat" } else { "chat" }, "recipient": recipient})
    }

    /// The event of a session that did not acknowledge a message.
    fn unacknowledged(&self, message: &Value) -> Value {
        let mut event = message.clone();
        event["type"] = "unacknowledged".into();
        event["to"] = format!("{}@{DOMAIN}/tied", self.user).into();
        event
    }

    async fn told(&self, event: &Value) {
        self.world.told("/events", event).await;
    }

    /// Posts events about a user whose presence and devices do not change.
    async fn steady(&mut self) {
        let user = self.user.clone();
        let to = [user.as_str()];
        match self.rng.u32(0..100) {
            0..30 => {
                let audience = if self.rng.bool() { Audience::All } else { Audience::WhileOffline };
                let message = self.message(ALICE, &to, audience);
                self.told(&message).await;
            }
            30..40 => {
                let message = self.message(COUNTING, &to, Audience::All);
                self.told(&message).await;
            }
            // The same twice, as a chat server does which got no answer in time.
            40..50 => {
                let message = self.message(ALICE, &to, Audience::All);
                tokio::join!(self.told(&message), self.told(&message));
            }
            50..70 => {
                let message = self.message(ALICE, &to, Audience::All);
                let twin = self.unacknowledged(&message);
                tokio::join!(self.told(&message), self.told(&twin));
            }
            70..78 => {
                let message = self.message(COUNTING, &to, Audience::Tied);
                let event = self.unacknowledged(&message);
                self.told(&event).await;
            }
            78..83 => {
                let message = self.message(COUNTING, &to, Audience::Nobody);
                self.told(&message).await;
            }
            83..90 => {
                let several = [(); 3].map(|()| self.message(ALICE, &to, Audience::All));
                self.told(&json!(several)).await;
            }
            // One of them is wrong, so none is taken.
            90..95 => {
                let message = self.message(COUNTING, &to, Audience::Nobody);
                let several = json!([message, {"type": "message", "to": "nobody"}]);
                let status = self.world.post("/events", &several).await;
                if status != 400 {
                    self.world.book().faults.push(format!("an event that is wrong was answered with {status}"));
                }
            }
            _ => {
                if self.world.settle(&user, Duration::from_secs(5)).await {
                    let jid = format!("{user}@{DOMAIN}");
                    self.told(&json!({"type": "read", "jid": jid, "conversation": self.conversation(ALICE)})).await;
                    self.epoch += 1;
                }
            }
        }
    }

    /// Posts events about a user whose presence and devices change.
    async fn changing(&mut self) {
        let user = self.user.clone();
        match self.rng.u32(0..100) {
            0..60 => {
                let message = self.message(ALICE, &[&user], Audience::WhileOffline);
                self.told(&message).await;
                return;
            }
            60..70 => {
                let message = self.message(COUNTING, &[&user], Audience::All);
                self.told(&message).await;
                return;
            }
            _ => {}
        }
        // Without waiting, most messages would have no certain recipients.
        self.world.settle(&user, Duration::from_millis(self.rng.u64(0..4_000))).await;
        if self.rng.bool() {
            let becomes = if self.world.book().offline[&user].last() == Is::Yes { Is::No } else { Is::Yes };
            self.world.presence(&user, becomes).await;
            // What was answered counts for what is posted next.
            let message = self.message(ALICE, &[&user], Audience::WhileOffline);
            self.told(&message).await;
        } else {
            let name = format!("{user}.{}", self.rng.usize(0..2));
            let is_enabled = self.world.book().devices[&name].enabled.last() == Is::Yes;
            if is_enabled && self.rng.bool() {
                self.world.disable(&name).await;
            } else {
                self.world.enable(&name).await;
            }
        }
    }

    /// Posts events about several users in one request.
    async fn group(&mut self) {
        let users = users();
        let mut to: Vec<_> = users.iter().map(String::as_str).collect();
        self.rng.shuffle(&mut to);
        to.truncate(self.rng.usize(2..users.len()));
        let message = self.message(ROOM, &to, Audience::WhileOffline);
        self.told(&message).await;
    }

    async fn run(mut self, end: Instant) -> usize {
        while Instant::now() < end {
            if self.user == "group" {
                self.group().await;
            } else if self.user.starts_with("steady") {
                self.steady().await;
            } else {
                self.changing().await;
            }
            sleep(Duration::from_millis(self.rng.u64(0..300))).await;
        }
        self.posted
    }
}

fn users() -> Vec<String> {
    let steady = (0..STEADY).map(|number| format!("steady{number}"));
    steady.chain((0..CHANGING).map(|number| format!("changing{number}"))).collect()
}

/// The stack as a process.
struct Process {
    child: Child,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it on the data in `folder`. What it logs is read by a thread, which also tells the world where it is.
    fn start(folder: &Path, push_service: &str, world: &World) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_local"))
            .args(["--port", "0", "--data"])
            .arg(folder)
            .envs([("MONGOOSEPUSH_URL", push_service), ("PLUGIN", "enhanced"), ("UNREAD_COUNTS", "on")])
            // Fewer at once than by default, so that few are received that there is no time for.
            .envs([("PUBLISH_TIMEOUT_MS", "2000"), ("WORKERS", "16")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, world) = (child.stdout.take().unwrap(), world.clone());
        // It ends with the process, which could tell its place only while it ran.
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                writeln!(&*world.log, "{line}").unwrap();
                if let Some(places) = line.strip_prefix("Pushlark is at ") {
                    let url = places.split("/enable").next().unwrap().to_owned();
                    let sqs_url = places.split("its SQS at ").nth(1).unwrap().trim_end_matches('.').to_owned();
                    world.place.send_replace(Some(Place { url, sqs_url }));
                } else if line.contains("the worker timed out") || line.contains("given up at the deadline") {
                    world.book().given_up.push(Instant::now());
                } else if line.contains("not notified yet") && line.contains("timed out") {
                    let recipient = line.split("recipient=").nth(1).unwrap_or_default();
                    let user = recipient.split('@').next().unwrap_or_default().to_owned();
                    *world.book().timed_out.entry(user).or_default() += 1;
                } else if line.contains("panic") {
                    world.book().faults.push(line);
                }
            }
        });
        Self { child, reader: Some(reader) }
    }

    /// Waits for its end, and until no thread tells its place any more.
    fn end(&mut self, world: &World) -> ExitStatus {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        world.place.send_replace(None);
        status
    }

    /// SIGKILL.
    fn kill(mut self, world: &World) {
        if let Some(status) = self.child.try_wait().unwrap() {
            world.book().faults.push(format!("the stack ended by itself: {status}"));
        }
        let running = Instant::now();
        self.child.kill().unwrap();
        self.end(world);
        world.book().kills.push((running, Instant::now()));
    }

    /// SIGTERM, as an operator stops it. Nothing that it has begun is to be repeated after that.
    fn stop(mut self, world: &World) {
        let terminated = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(terminated.success());
        let status = self.end(world);
        if !status.success() {
            world.book().faults.push(format!("the stack did not stop: {status}"));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn option<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// How many messages a queue has, visible or not.
async fn depth(world: &World, queue: &str) -> Option<u64> {
    let sqs_url = world.place().await.sqs_url;
    let body = json!({"QueueUrl": format!("{sqs_url}/000000000000/{queue}"), "AttributeNames": ["All"]});
    let request = world.http.post(sqs_url).header("x-amz-target", "AmazonSQS.GetQueueAttributes");
    let request = request.header("content-type", "application/x-amz-json-1.0").body(body.to_string());
    let answer: Value = request.send().await.ok()?.json().await.ok()?;
    let numbers = ["", "NotVisible", "Delayed"]
        .map(|kind| answer["Attributes"][format!("ApproximateNumberOfMessages{kind}")].as_str()?.parse::<u64>().ok());
    numbers.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes a minute and more: cargo test -p local --test chaos -- --ignored --nocapture"]
async fn nothing_is_lost_or_wrong_whenever_the_stack_is_killed() {
    let seed: u64 = option("CHAOS_SEED", fastrand::u64(..));
    let (seconds, kills): (u64, u64) = (option("CHAOS_SECONDS", 60), option("CHAOS_KILLS", 15));
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds} CHAOS_KILLS={kills}");
    let mut rng = Rng::with_seed(seed);
    let folder: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
    let _ = std::fs::remove_dir_all(&folder);
    let log = folder.with_extension("log");
    let world = World {
        book: Arc::default(),
        place: Arc::new(watch::Sender::new(None)),
        http: Client::builder().timeout(PATIENCE).build().unwrap(),
        log: Arc::new(File::create(&log).unwrap()),
    };
    let (push_service, push_service_url) = PushService::start(world.clone(), rng.fork()).await;
    let start = || Process::start(&folder, &push_service_url, &world);
    let mut stack = start();

    for user in users() {
        world.book().offline.insert(user.clone(), Timeline::new(Is::Yes));
        for number in 0..2 {
            let device = Device { user: user.clone(), is_tied: number == 0, enabled: Timeline::new(Is::No) };
            let name = format!("{user}.{number}");
            world.book().devices.insert(name.clone(), device);
            world.enable(&name).await;
        }
    }

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut posters = JoinSet::new();
    for user in users().into_iter().chain(["group".to_owned()]) {
        let poster = Poster { world: world.clone(), user, rng: rng.fork(), posted: 0, epoch: 0 };
        posters.spawn(poster.run(end));
    }
    for left in (1..=kills).rev() {
        // Some lives are too short to answer anything.
        let average = end.saturating_duration_since(Instant::now()).as_secs_f64() / left as f64;
        sleep(Duration::from_secs_f64(average * 2.0 * rng.f64())).await;
        stack.kill(&world);
        stack = start();
    }
    let posted: usize = posters.join_all().await.into_iter().sum();

    push_service.is_calm.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    while depth(&world, "pushlark").await != Some(0) {
        if begun.elapsed() > PATIENCE {
            world.book().faults.push("the queue is not empty".into());
            break;
        }
        // All that waits for another try is received at once by a stack that is started anew.
        stack.stop(&world);
        stack = start();
        let empty = async {
            while depth(&world, "pushlark").await != Some(0) {
                sleep(Duration::from_millis(200)).await;
            }
        };
        // An error is a try that is far away.
        let _ = timeout(Duration::from_secs(30), empty).await;
    }
    let dead = depth(&world, "pushlark-dead").await;
    stack.stop(&world);

    let book = world.book();
    let mut wrong = book.judge();
    if dead != Some(0) {
        wrong.push(format!("{dead:?} records are in the dead-letter queue"));
    }
    let deliveries = book.attempts.iter().filter(|attempt| attempt.delivered).count();
    let (attempts, notifications) = (book.attempts.len(), book.delivered.len());
    let repeats = deliveries - notifications;
    println!(
        "{posted} messages, {kills} kills: {attempts} requests, {notifications} notifications, {repeats} repeats after a \
         kill ({:.1} for each kill, {:.3} for each notification), {} invocations given up; the rest was done within {:?}",
        repeats as f64 / kills as f64,
        repeats as f64 / notifications as f64,
        book.given_up.len(),
        begun.elapsed()
    );
    let some = wrong[..wrong.len().min(20)].join("\n");
    assert!(wrong.is_empty(), "{} faults, CHAOS_SEED={seed}, log in {}:\n{some}", wrong.len(), log.display());
    // Else it has tried nothing.
    assert!(book.kills.len() as u64 == kills && book.delivered.len() > posted && attempts > deliveries);
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::remove_file(log).unwrap();
}
