//! Messages on their way from a component's stream to the function.

use std::collections::BTreeMap;
use std::mem::take;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pushlark_telemetry::Causes;
use pushlark_xmpp::{DomainPart, Element, ns, parse_jid};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use crate::functions::Functions;

/// How long the stream is not read while no message finds room and the function takes none. ejabberd closes a stream that
/// is not read for 15 s, and removes registrations while the component is away.
const STALL: Duration = Duration::from_secs(10);
/// The wait between two tries to post a message: the first, …
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// … and the longest.
const LAST_WAIT: Duration = Duration::from_secs(60);
/// The time between two reports in the log.
const REPORT: Duration = Duration::from_secs(10);

/// Room for the stanzas of one kind that wait for the functions.
pub struct Room {
    free: Arc<Semaphore>,
    bytes: u32,
}

/// The messages of one component.
pub struct Messages {
    component: DomainPart,
    functions: Functions,
    room: Room,
    /// How long a message is tried.
    retry: Duration,
    stopped: watch::Receiver<bool>,
    /// How many messages were read, and are neither taken by the function nor lost.
    waiting: AtomicUsize,
    /// Since when a message finds no room; `None` once the function takes a message.
    stalled: Mutex<Option<Instant>>,
    /// What the next report tells.
    tally: Mutex<Tally>,
}

/// Counts by reason.
#[derive(Default)]
struct Tally {
    /// Tries that failed and are repeated.
    failed: BTreeMap<String, usize>,
    /// Messages.
    lost: BTreeMap<String, usize>,
}

impl Room {
    /// What a stanza occupies besides its text.
    const OVERHEAD: usize = 1024;

    pub fn new(bytes: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes as usize)), bytes }
    }

    /// Room for a stanza, if there is any now.
    pub fn try_take(&self, stanza: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.occupied_by(stanza)).ok()
    }

    /// Room for a stanza, once there is any.
    async fn take(&self, stanza: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_many_owned(self.occupied_by(stanza)).await.ok()
    }

    fn occupied_by(&self, stanza: &str) -> u32 {
        u32::try_from(stanza.len() + Self::OVERHEAD).unwrap_or(u32::MAX).min(self.bytes)
    }
}

impl Messages {
    /// At most `bytes` of messages wait, and none longer than `retry`.
    pub fn new(
        component: DomainPart,
        functions: Functions,
        bytes: u32,
        retry: Duration,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let (room, waiting, stalled, tally) =
            (Room::new(bytes), AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Self { component, functions, room, retry, stopped, waiting, stalled, tally }
    }

    /// Takes a message from the stream and posts it in a task of its own. Returns when there is room for the message, and
    /// meanwhile the stream is not read. Without room in time the message is lost, since IQs wait behind it.
    pub async fn take(self: &Arc<Self>, message: Element, tasks: &mut JoinSet<()>) {
        if !self.functions.take_messages() {
            tracing::debug!("a message is dropped, since MESSAGES_URL is not set");
            return;
        }
        let message = identified(message).to_string();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let Some(room) = self.room(&message).await else {
            return self.lose("the queue is full (QUEUE_BYTES) and the function takes no message".into());
        };
        let this = Arc::clone(self);
        tasks.spawn(async move {
            this.deliver(&message).await;
            drop(room);
        });
    }

    /// Logs from time to time how many tries failed and how many messages are lost.
    pub async fn report(&self) {
        loop {
            sleep(REPORT).await;
            self.report_now();
        }
    }

    /// Counts the messages that still wait as lost, and logs what is not logged yet.
    pub fn close(&self) {
        for _ in 0..self.waiting.load(Ordering::Relaxed) {
            self.lose("the bridge is stopped".into());
        }
        self.report_now();
    }

    fn report_now(&self) {
        let (component, waiting) = (&self.component, self.waiting.load(Ordering::Relaxed));
        let url = self.functions.messages_url();
        let Tally { failed, lost } = take(&mut *lock(&self.tally));
        for (reason, tries) in failed {
            tracing::warn!(%component, url, tries, waiting, reason, "the function does not take messages; the bridge tries again");
        }
        for (reason, messages) in lost {
            tracing::error!(%component, messages, reason, "messages are lost");
        }
    }

    async fn room(&self, message: &str) -> Option<OwnedSemaphorePermit> {
        if let Some(room) = self.room.try_take(message) {
            return Some(room);
        }
        let mut room = pin!(self.room.take(message));
        loop {
            let until = *lock(&self.stalled).get_or_insert_with(Instant::now) + STALL;
            match timeout_at(until, &mut room).await {
                Ok(room) => return room,
                // Unless the function has taken a message meanwhile.
                Err(_) if lock(&self.stalled).is_some_and(|since| since + STALL <= Instant::now()) => return None,
                Err(_) => {}
            }
        }
    }

    /// Posts a message until the function takes it, or until another try makes no sense.
    async fn deliver(&self, message: &str) {
        let (id, read) = (Uuid::new_v4().to_string(), Instant::now());
        let (mut wait, mut stopped) = (FIRST_WAIT, self.stopped.clone());
        let refused = loop {
            let Err(error) = self.functions.tell(&id, message).await else { break None };
            if !error.is_transient() {
                break Some(error);
            }
            let jittered = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            let pause = error.retry_after().unwrap_or_default().min(LAST_WAIT).max(jittered);
            if *stopped.borrow() || read.elapsed() + pause > self.retry {
                return self.lose(Causes(&error).to_string());
            }
            *lock(&self.tally).failed.entry(Causes(&error).to_string()).or_default() += 1;
            tokio::select! {
                () = sleep(pause) => {}
                // One last try. An error means that the bridge was dropped.
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            wait = (wait * 2).min(LAST_WAIT);
        };
        // The function works, whatever it says about this message.
        *lock(&self.stalled) = None;
        match refused {
            Some(error) => self.lose(Causes(&error).to_string()),
            None => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn lose(&self, reason: String) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        *lock(&self.tally).lost.entry(reason).or_default() += 1;
    }
}

/// A message with an id that the recipient's server gives (XEP-0359): a component is the server of its own domain. By this id
/// Pushlark recognises a message that it gets twice because an answer was lost. Ids that pretend to be from the same server
/// are removed.
fn identified(message: Element) -> Element {
    let Some(recipient) = message.attribute("to").and_then(|to| parse_jid(to).ok()) else { return message };
    let by = recipient.to_bare();
    let is_forged = |child: &Element| {
        let claimed = child.attribute("by").and_then(|by| parse_jid(by).ok());
        child.is("stanza-id", ns::STANZA_ID) && claimed.is_some_and(|claimed| claimed == by)
    };
    let id = Element::new("stanza-id", ns::STANZA_ID)
        .with_attribute("by", by.to_string())
        .with_attribute("id", Uuid::new_v4().to_string());
    message.without_children(is_forged).with_child(id)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is complete in itself.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn messages() -> Messages {
        let functions = Functions::new(None, None, None, STALL).unwrap();
        let name = DomainPart::new("push.example.com").unwrap().into_owned();
        Messages::new(name, functions, 4_000, STALL, watch::channel(false).1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_room_as_long_as_the_function_takes_messages() {
        let messages = messages();
        // Each occupies 1,524 bytes.
        let text = "x".repeat(500);
        let (first, _second) = (messages.room(&text).await.unwrap(), messages.room(&text).await.unwrap());
        let begun = Instant::now();
        let waited = async || {
            let room = messages.room(&text).await;
            (room.is_some(), begun.elapsed().as_secs())
        };
        assert_eq!(waited().await, (false, 10));
        assert_eq!(waited().await, (false, 10));
        // The function has taken one, but room is made by another only.
        *lock(&messages.stalled) = None;
        let taken = async {
            sleep(Duration::from_secs(9)).await;
            *lock(&messages.stalled) = None;
            sleep(Duration::from_secs(9)).await;
            drop(first);
        };
        assert_eq!(tokio::join!(waited(), taken).0, (true, 28));
    }

    #[test]
    fn a_message_has_one_id_of_the_recipients_server() {
        let id = |by: &str| format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='forged'/>");
        let text = format!(
            "<message to='Bob@push.example.com/phone'>{}<body>Hi</body>{}{}</message>",
            id("bob@push.example.com"),
            id("room@muc.example.com"),
            id("BOB@push.example.com")
        );
        let message = identified(Element::parse(&text).unwrap());
        let ids = message.children().filter(|child| child.name() == "stanza-id");
        let ids: Vec<_> = ids.map(|id| (id.attribute("by").unwrap(), id.attribute("id") == Some("forged"))).collect();
        assert_eq!(ids, [("room@muc.example.com", true), ("bob@push.example.com", false)]);
        let nowhere = Element::parse("<message to='@'/>").unwrap();
        assert_eq!(identified(nowhere.clone()), nowhere);
    }
}
