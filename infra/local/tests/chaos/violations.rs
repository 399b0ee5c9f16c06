//! Compares the notifications with the posted messages.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tokio::time::Instant;

use crate::history::{Attempt, Audience, Certainty, Device, History, Posted};

impl History {
    /// Whether a device had to be notified of a message at a time.
    fn must_notify(&self, posted: &Posted, device: &Device, time: Instant) -> Certainty {
        let enabled = device.enabled.at(time);
        match posted.recipients.get(&device.user) {
            Some(Audience::All) => enabled,
            Some(Audience::TiedDevice) if device.is_tied => enabled,
            Some(Audience::WhileOffline) => match (enabled, self.offline[&device.user].at(time)) {
                (Certainty::No, _) | (_, Certainty::No) => Certainty::No,
                (Certainty::Yes, Certainty::Yes) => Certainty::Yes,
                _ => Certainty::Maybe,
            },
            Some(Audience::TiedDevice | Audience::Nobody) | None => Certainty::No,
        }
    }

    /// Whether a device had to be notified of a message: at its post, and after each change until `to`.
    fn must_notify_until(&self, posted: &Posted, device: &Device, to: Instant) -> impl Iterator<Item = Certainty> {
        let offline = &self.offline[&device.user];
        let times = device.enabled.changes(posted.at, to).chain(offline.changes(posted.at, to));
        times.map(|time| self.must_notify(posted, device, time))
    }

    /// The devices of a user that have not been notified of a text, but must be.
    fn missing(&self, text: &str, user: &str) -> impl Iterator<Item = &str> {
        let (posted, now) = (&self.posted[text], Instant::now());
        let must = move |name: &str, device: &Device| {
            !self.delivered.contains_key(&(text.to_owned(), name.to_owned()))
                && self.must_notify_until(posted, device, now).all(|state| state == Certainty::Yes)
        };
        let devices = self.devices.iter().filter(move |(_, device)| device.user == user);
        devices.filter(move |(name, device)| must(name, device)).map(|(name, _)| name.as_str())
    }

    /// Whether all notifications that a user must get are delivered.
    pub fn is_done(&mut self, user: &str) -> bool {
        let mut open = self.open.remove(user).unwrap_or_default();
        open.retain(|text| self.missing(text, user).next().is_some());
        let is_done = open.is_empty();
        self.open.insert(user.to_owned(), open);
        is_done
    }

    /// The successful attempts by text and device, in their order.
    fn deliveries(&self) -> BTreeMap<(&str, &str), Vec<&Attempt>> {
        let mut deliveries: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for attempt in self.attempts.iter().filter(|attempt| attempt.delivered) {
            deliveries.entry((attempt.text.as_str(), attempt.device.as_str())).or_default().push(attempt);
        }
        deliveries
    }

    /// Returns a description of each violation; empty if there is none.
    pub fn violations(&self) -> Vec<String> {
        let mut wrong = self.errors.clone();
        for (text, posted) in &self.posted {
            let missing = posted.recipients.keys().flat_map(|user| self.missing(text, user));
            wrong.extend(missing.map(|name| format!("{name} was not notified of {text:?}")));
        }
        for attempt in &self.attempts {
            wrong.extend(self.unwanted_attempt(attempt));
        }
        wrong.extend(self.unexplained_repeats());
        wrong.extend(self.wrong_counts());
        wrong
    }

    /// Describes an attempt that is not allowed, or that has the wrong content.
    fn unwanted_attempt(&self, attempt: &Attempt) -> Option<String> {
        let Attempt { device: name, text, notification, .. } = attempt;
        let Some(posted) = self.posted.get(text) else { return Some(format!("nobody posted {text:?}")) };
        let Some(device) = self.devices.get(name) else { return Some(format!("nobody enabled {name}")) };
        if self.must_notify_until(posted, device, attempt.at).all(|state| state == Certainty::No) {
            return Some(format!("{name} was notified of {text:?}, but must not be"));
        }
        let badge = &notification["alert"]["badge"];
        let title = &posted.title;
        let alert = json!({"body": text, "title": title, "tag": title, "badge": badge});
        let expected = json!({"service": "fcm", "alert": alert});
        (*notification != expected).then(|| format!("{name} got {notification}, not {expected}"))
    }

    /// Repeated deliveries without a kill since the message was posted. A stack that dies while it returns undelivered
    /// recipients to the queue may leave two records with them, and both deliver later.
    fn unexplained_repeats(&self) -> Vec<String> {
        let mut repeats: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((text, name), attempts) in self.deliveries() {
            let Some(posted) = self.posted.get(text).map(|posted| posted.at) else { continue };
            for pair in attempts.windows(2) {
                let (first, second) = (pair[0].at, pair[1].at);
                let kills = self.kills.iter().copied().chain(self.invocations_aborted.iter().map(|at| (*at, *at)));
                if !kills.into_iter().any(|(running, dead)| dead >= posted && running <= second) {
                    let repeat = format!("{name} was notified of {text:?} twice, {:?} apart", second - first);
                    let user = self.devices.get(name).map_or("nobody", |device| &device.user);
                    repeats.entry(user).or_default().push(repeat);
                }
            }
        }
        // On a very busy machine, the timeout may expire before the stack has read an immediate response. Its log line
        // is the same as for a missing response.
        repeats.retain(|user, repeats| {
            let is_users = |attempt: &&Attempt| self.devices.get(&attempt.device).is_some_and(|d| d.user == *user);
            let hung = self.attempts.iter().filter(is_users).filter(|attempt| attempt.hung).count();
            let excused = self.timed_out.get(*user).map_or(0, |logged| logged.saturating_sub(hung));
            repeats.len() > excused
        });
        repeats.into_values().flatten().collect()
    }

    /// Wrong unread counts.
    fn wrong_counts(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        // The numbers of the messages by recipient, conversation, and period between two reads.
        let mut numbers: BTreeMap<(&str, &str, usize), BTreeMap<&str, BTreeSet<u64>>> = BTreeMap::new();
        for attempt in &self.attempts {
            let (Some(posted), Some(device)) = (self.posted.get(&attempt.text), self.devices.get(&attempt.device))
            else {
                continue;
            };
            let badge = attempt.notification["alert"]["badge"].as_u64().unwrap_or_default();
            match posted.unread_count {
                Some(expected) if badge != expected => {
                    wrong.push(format!("{} is number {badge} of {:?}, not {expected}", attempt.device, attempt.text));
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
            // A message that is posted after the notification of another one must have the higher number.
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
