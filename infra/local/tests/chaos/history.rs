//! The record of all that happens in a run: messages, devices, presence, requests to the push service, kills.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use tokio::time::Instant;

/// Whether a fact is true at a time: `Maybe` while a request that changes it has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    Yes,
    Maybe,
    No,
}

/// The states of a fact, each with the time at which it began.
#[derive(Debug, Clone)]
pub struct Timeline(Vec<(Instant, Certainty)>);

impl Timeline {
    pub fn new(state: Certainty) -> Self {
        Self(vec![(Instant::now(), state)])
    }

    pub fn set(&mut self, state: Certainty) {
        self.0.push((Instant::now(), state));
    }

    pub fn at(&self, time: Instant) -> Certainty {
        let later = self.0.partition_point(|(since, _)| *since <= time);
        self.0[later.saturating_sub(1)].1
    }

    pub fn last(&self) -> Certainty {
        self.0[self.0.len() - 1].1
    }

    /// The times of the changes between `from` and `to`, after `from` itself.
    pub fn changes(&self, from: Instant, to: Instant) -> impl Iterator<Item = Instant> {
        let first = self.0.partition_point(|(since, _)| *since <= from);
        let within = self.0[first..].iter().map(|(since, _)| *since).take_while(move |since| *since <= to);
        std::iter::once(from).chain(within)
    }
}

/// Which devices of a recipient must be notified of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// All: the event says that the recipient is offline.
    All,
    /// All, while the recipient is offline according to the presence events.
    WhileOffline,
    /// The device that is tied to the session which did not acknowledge the message.
    TiedDevice,
    /// None: the event says that the recipient is online, or the event is refused.
    Nobody,
}

/// A posted message. Its text is its key.
pub struct Posted {
    pub at: Instant,
    pub title: String,
    pub conversation: String,
    /// The number of unread messages, if it is in the event.
    pub unread_count: Option<u64>,
    /// How often the recipient has read the conversation before.
    pub epoch: usize,
    pub recipients: BTreeMap<String, Audience>,
}

pub struct Device {
    pub user: String,
    pub is_tied: bool,
    pub enabled: Timeline,
}

/// A request to the push service.
pub struct Attempt {
    pub device: String,
    pub text: String,
    pub notification: Value,
    pub at: Instant,
    /// Whether the response was 200.
    pub delivered: bool,
    /// Whether there was no response.
    pub hung: bool,
}

/// All that has happened since the start of the test.
#[derive(Default)]
pub struct History {
    pub posted: HashMap<String, Posted>,
    pub devices: BTreeMap<String, Device>,
    /// Whether a user is offline.
    pub offline: HashMap<String, Timeline>,
    pub attempts: Vec<Attempt>,
    /// The time of the first delivery, by text and device.
    pub delivered: HashMap<(String, String), Instant>,
    /// The texts that may still have to be delivered to a device of the user.
    pub open: HashMap<String, Vec<String>>,
    /// When the stack was last running, and when it was dead.
    pub kills: Vec<(Instant, Instant)>,
    /// When the stack aborted a worker's invocation after its timeout. This has the same effect as a kill.
    pub invocations_aborted: Vec<Instant>,
    /// How often the stack logged a timeout of the push service, by user.
    pub timed_out: HashMap<String, usize>,
    /// Errors that were found during the run.
    pub errors: Vec<String>,
}
