//! The queue of messages from a component's stream to the function `ingest`.

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

use crate::functions::FunctionsClient;

/// The time for which the stream is not read while the queue is full and the function accepts no message. ejabberd
/// closes a stream that is not read for 15 s, and drops registrations while the component is away.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The delay before the first retry of a message; it doubles with each retry.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest delay before a retry.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);
/// The time between two reports in the log.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Limits the bytes of the stanzas of one kind that wait for the functions.
pub struct ByteBudget {
    free: Arc<Semaphore>,
    bytes: u32,
}

/// The messages of one component.
pub struct Messages {
    component: DomainPart,
    functions: FunctionsClient,
    budget: ByteBudget,
    /// The time for which a message is retried.
    retry: Duration,
    stopped: watch::Receiver<bool>,
    /// The messages that were read, and are neither accepted by the function nor lost.
    waiting: AtomicUsize,
    /// Since when a message has found no room. Reset to `None` when the function accepts a message.
    stalled: Mutex<Option<Instant>>,
    /// The counts for the next report.
    counts: Mutex<ReportCounts>,
}

/// Counts by reason.
#[derive(Default)]
struct ReportCounts {
    /// Failed tries that will be retried.
    failed: BTreeMap<String, usize>,
    /// Lost messages.
    lost: BTreeMap<String, usize>,
}

impl ByteBudget {
    /// The memory of a stanza in addition to its text, in bytes.
    const STANZA_OVERHEAD: usize = 1024;

    pub fn new(bytes: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes as usize)), bytes }
    }

    /// Takes room for a stanza, or returns `None` if there is none now.
    pub fn try_take(&self, stanza: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.occupied_by(stanza)).ok()
    }

    /// Waits for room for a stanza.
    async fn take(&self, stanza: &str) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_many_owned(self.occupied_by(stanza)).await.ok()
    }

    fn occupied_by(&self, stanza: &str) -> u32 {
        u32::try_from(stanza.len() + Self::STANZA_OVERHEAD).unwrap_or(u32::MAX).min(self.bytes)
    }
}

impl Messages {
    /// At most `bytes` of messages wait, and none waits longer than `retry`.
    pub fn new(
        component: DomainPart,
        functions: FunctionsClient,
        bytes: u32,
        retry: Duration,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let (budget, waiting) = (ByteBudget::new(bytes), AtomicUsize::new(0));
        let (stalled, counts) = (Mutex::default(), Mutex::default());
        Self { component, functions, budget, retry, stopped, waiting, stalled, counts }
    }

    /// Takes a message from the stream and posts it in a new task. Returns when there is room for the message; until
    /// then, the stream is not read. If there is no room in time, the message is lost, because IQs wait behind it.
    pub async fn take(self: &Arc<Self>, message: Element, tasks: &mut JoinSet<()>) {
        if !self.functions.has_messages_url() {
            tracing::debug!("a message is dropped: BRIDGE_MESSAGES_URL is not set");
            return;
        }
        let message = with_stanza_id(message).to_string();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let Some(room) = self.room(&message).await else {
            return self.lose("the queue is full (BRIDGE_QUEUE_BYTES) and the function accepts no message".into());
        };
        let this = Arc::clone(self);
        tasks.spawn(async move {
            this.deliver(&message).await;
            drop(room);
        });
    }

    /// Logs the failed tries and the lost messages every [`REPORT_INTERVAL`].
    pub async fn report(&self) {
        loop {
            sleep(REPORT_INTERVAL).await;
            self.report_now();
        }
    }

    /// Counts the messages that still wait as lost, and logs the last report.
    pub fn close(&self) {
        for _ in 0..self.waiting.load(Ordering::Relaxed) {
            self.lose("the bridge stopped".into());
        }
        self.report_now();
    }

    fn report_now(&self) {
        let (component, waiting) = (&self.component, self.waiting.load(Ordering::Relaxed));
        let url = self.functions.messages_url();
        let ReportCounts { failed, lost } = take(&mut *lock(&self.counts));
        for (reason, tries) in failed {
            tracing::warn!(%component, url, tries, waiting, reason, "the function does not accept messages; the bridge retries");
        }
        for (reason, messages) in lost {
            tracing::error!(%component, messages, reason, "messages are lost");
        }
    }

    async fn room(&self, message: &str) -> Option<OwnedSemaphorePermit> {
        if let Some(room) = self.budget.try_take(message) {
            return Some(room);
        }
        let mut room = pin!(self.budget.take(message));
        loop {
            let until = *lock(&self.stalled).get_or_insert_with(Instant::now) + STALL_TIMEOUT;
            match timeout_at(until, &mut room).await {
                Ok(room) => return room,
                // Unless the function has accepted a message in the meantime.
                Err(_) if lock(&self.stalled).is_some_and(|since| since + STALL_TIMEOUT <= Instant::now()) => {
                    return None;
                }
                Err(_) => {}
            }
        }
    }

    /// Posts a message until the function accepts it, or until a retry is useless.
    async fn deliver(&self, message: &str) {
        let (id, read) = (Uuid::new_v4().to_string(), Instant::now());
        let (mut delay, mut stopped) = (FIRST_RETRY_DELAY, self.stopped.clone());
        let refused = loop {
            let Err(error) = self.functions.post_message(&id, message).await else { break None };
            if !error.is_transient() {
                break Some(error);
            }
            let jittered = delay.mul_f64(0.75 + fastrand::f64() / 2.0);
            let pause = error.retry_after().unwrap_or_default().min(MAX_RETRY_DELAY).max(jittered);
            if *stopped.borrow() || read.elapsed() + pause > self.retry {
                return self.lose(Causes(&error).to_string());
            }
            *lock(&self.counts).failed.entry(Causes(&error).to_string()).or_default() += 1;
            tokio::select! {
                () = sleep(pause) => {}
                // The last try. An error means that the bridge was dropped.
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        };
        // The function works, even if it refused this message.
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
        *lock(&self.counts).lost.entry(reason).or_default() += 1;
    }
}

/// Adds a stanza id (XEP-0359) in the name of the recipient, for whose domain the component is the server. With this
/// id, Pushlark recognises a message that it gets twice because an answer was lost. Forged ids of the same name are
/// removed.
fn with_stanza_id(message: Element) -> Element {
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
    use pushlark_http_client::Tls;

    use super::*;

    fn messages() -> Messages {
        let functions = FunctionsClient::new(None, None, None, &Tls::default(), STALL_TIMEOUT).unwrap();
        let name = DomainPart::new("push.example.com").unwrap().into_owned();
        Messages::new(name, functions, 4_000, STALL_TIMEOUT, watch::channel(false).1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_room_while_the_function_accepts_messages() {
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
        // The function accepts one message, but the room is free only later.
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
    fn a_message_gets_one_stanza_id_in_the_name_of_the_recipient() {
        let id = |by: &str| format!("<stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='forged'/>");
        let text = format!(
            "<message to='Bob@push.example.com/phone'>{}<body>Hi</body>{}{}</message>",
            id("bob@push.example.com"),
            id("room@muc.example.com"),
            id("BOB@push.example.com")
        );
        let message = with_stanza_id(Element::parse(&text).unwrap());
        let ids = message.children().filter(|child| child.name() == "stanza-id");
        let ids: Vec<_> = ids.map(|id| (id.attribute("by").unwrap(), id.attribute("id") == Some("forged"))).collect();
        assert_eq!(ids, [("room@muc.example.com", true), ("bob@push.example.com", false)]);
        let nowhere = Element::parse("<message to='@'/>").unwrap();
        assert_eq!(with_stanza_id(nowhere.clone()), nowhere);
    }
}
