//! What happened in the stack last, for those who follow it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use tokio::sync::watch;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::log_lines::{Line, LogLines};
use super::requests::SeenRequest;
use crate::sink::{DeviceAnswer, SinkNotification};

/// The number of entries that are kept.
const MAX_ENTRIES: usize = 2_000;

/// The last entries, and a signal for each new one. Without a follower, an entry costs its place alone: it is rendered
/// for each follower.
#[derive(Debug, Clone)]
pub struct Live(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Distinguishes the entries of this process from those of an earlier one with the same number.
    run: String,
    entries: Mutex<Entries>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Entries {
    last: VecDeque<Arc<Entry>>,
    newest: u64,
}

/// Something that happened, with its number from 1.
#[derive(Debug)]
pub struct Entry {
    pub number: u64,
    pub at: OffsetDateTime,
    pub content: Content,
}

/// The content of an entry.
#[derive(Debug)]
pub enum Content {
    /// A log line.
    Line(Line),
    /// A request to a function, with its answer.
    Request(SeenRequest),
    /// A notification at the push service double.
    Notification(Arc<SinkNotification>),
    /// The answer of the push service double for a device from then on.
    Device(DeviceAnswer),
}

/// A place in the entries, from which a follower continues.
#[derive(Debug)]
pub struct Follower {
    live: Live,
    /// The number of the last entry that was taken.
    last: u64,
    newest: watch::Receiver<u64>,
    pending: VecDeque<Arc<Entry>>,
}

impl Default for Live {
    fn default() -> Self {
        let milliseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let (newest, _) = watch::channel(0);
        Self(Arc::new(Shared { run: format!("{milliseconds:x}"), entries: Mutex::default(), newest }))
    }
}

impl Live {
    /// Returns a layer for the process's log that adds each line at `info` and above, and the worker's steps at `debug`,
    /// whatever `LOG_LEVEL` is.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        LogLines::new(self.clone()).filtered()
    }

    pub(crate) fn add(&self, content: Content) {
        let number = {
            let mut entries = self.entries();
            entries.newest += 1;
            let number = entries.newest;
            if entries.last.len() == MAX_ENTRIES {
                entries.last.pop_front();
            }
            entries.last.push_back(Arc::new(Entry { number, at: OffsetDateTime::now_utc(), content }));
            number
        };
        self.0.newest.send_replace(number);
    }

    /// Follows from the entry after that with this id, or from the oldest one if it is none of this process.
    pub(crate) fn follow(&self, last_id: Option<&str>) -> Follower {
        let last = last_id.and_then(|id| id.strip_prefix(&self.0.run)?.strip_prefix('-')?.parse().ok()).unwrap_or(0);
        Follower { live: self.clone(), last, newest: self.0.newest.subscribe(), pending: VecDeque::new() }
    }

    /// Returns the id of an entry, for `Last-Event-ID`.
    pub(crate) fn id(&self, entry: &Entry) -> String {
        format!("{}-{}", self.0.run, entry.number)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Each change is complete in itself.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Returns whether it continues after an entry of this process.
    pub fn is_resumed(&self) -> bool {
        self.last > 0
    }

    /// Waits for the next entry that is still kept.
    pub async fn next(&mut self) -> Arc<Entry> {
        loop {
            if let Some(entry) = self.pending.pop_front() {
                return entry;
            }
            // Before the entries are read, so that none is missed between.
            self.newest.mark_unchanged();
            {
                let entries = self.live.entries();
                self.pending.extend(entries.last.iter().filter(|entry| entry.number > self.last).cloned());
            }
            match self.pending.back() {
                Some(newest) => self.last = newest.number,
                // The sender lives as long as `live`.
                None => _ = self.newest.changed().await,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn device(status: u16) -> Content {
        Content::Device(DeviceAnswer { device_id: "TOKEN".into(), status })
    }

    #[tokio::test]
    async fn the_oldest_entries_are_forgotten() {
        let live = Live::default();
        for _ in 0..MAX_ENTRIES + 3 {
            live.add(device(410));
        }
        let mut follower = live.follow(None);
        for number in 4..=MAX_ENTRIES as u64 + 3 {
            assert_eq!(follower.next().await.number, number);
        }
        let mut resumed = live.follow(Some(&live.id(&*live.follow(None).next().await)));
        assert_eq!(resumed.next().await.number, 5);
    }

    #[tokio::test]
    async fn an_id_of_another_process_or_no_id_begins_with_the_oldest_entry() {
        let live = Live::default();
        live.add(device(410));
        live.add(device(200));
        for id in ["0-2", "2", "", "x-y"] {
            let mut follower = live.follow(Some(id));
            assert!(!follower.is_resumed(), "{id}");
            assert_eq!(follower.next().await.number, 1, "{id}");
        }
    }
}
