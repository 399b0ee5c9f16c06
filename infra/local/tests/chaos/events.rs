//! Posts events about users at random.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::{DOMAIN, Harness};
use crate::history::{Audience, Certainty, Posted};

/// The local part of a sender whose events have no unread count: Pushlark counts.
const SENDER_WITHOUT_COUNTS: &str = "alice";

/// The local part of a sender whose events have the unread count.
const SENDER_WITH_COUNTS: &str = "counting";

/// The local part of a room with several recipients per event.
pub const ROOM_NAME: &str = "room";

/// The most messages in a conversation. An unread counter remembers this many messages, so none of them is counted
/// twice if a worker dies between the count and the claim.
const CONVERSATION_MESSAGES: usize = 30;

/// The number of users who stay offline with enabled devices: they must be notified of each message.
const STEADY_USERS: usize = 10;

/// The number of users whose presence and devices change.
const CHANGING_USERS: usize = 6;

pub fn users() -> Vec<String> {
    let steady = (0..STEADY_USERS).map(|number| format!("steady{number}"));
    steady.chain((0..CHANGING_USERS).map(|number| format!("changing{number}"))).collect()
}

/// Posts the events about one user, or of the room.
pub struct EventGenerator {
    pub harness: Harness,
    pub user: String,
    pub rng: Rng,
    pub posted: usize,
    /// How often the user has read the conversation without counts.
    pub epoch: usize,
}

impl EventGenerator {
    /// The JID of a sender or room. It changes after [`CONVERSATION_MESSAGES`] messages.
    fn conversation(&self, name: &str) -> String {
        let host = if name == ROOM_NAME { "muc.example.com" } else { DOMAIN };
        format!("{name}{}@{host}", self.posted / CONVERSATION_MESSAGES)
    }

    /// Records a message, and returns its event, which the caller must post.
    fn message(&mut self, from: &str, to: &[&str], audience: Audience) -> Value {
        let text = format!("{}-{}", self.user, self.posted);
        let is_group = from == ROOM_NAME;
        let conversation = self.conversation(from);
        self.posted += 1;
        let sender = if is_group { format!("{conversation}/alice") } else { conversation.clone() };
        let unread_count = (from == SENDER_WITH_COUNTS).then(|| self.rng.u64(1..1_000));
        let posted = Posted {
            at: Instant::now(),
            title: sender.clone(),
            conversation: conversation.clone(),
            unread_count,
            epoch: self.epoch,
            recipients: to.iter().map(|user| ((*user).to_owned(), audience)).collect(),
        };
        let mut history = self.harness.history();
        for user in to {
            history.open.entry((*user).to_owned()).or_default().push(text.clone());
        }
        history.posted.insert(text.clone(), posted);
        drop(history);
        let to: Vec<_> = to.iter().map(|user| format!("{user}@{DOMAIN}")).collect();
        let mut recipient = json!({});
        match audience {
            Audience::All => recipient["online"] = false.into(),
            Audience::Nobody => recipient["online"] = true.into(),
            Audience::WhileOffline | Audience::TiedDevice => {}
        }
        if let Some(count) = unread_count {
            recipient["unread_count"] = count.into();
        }
        let from = if is_group { sender } else { format!("{conversation}/pc") };
        json!({"type": "message", "id": format!("id-{text}"), "from": from, "to": to, "body": text,
            "chat": if is_group { "groupchat" } else { "chat" }, "recipient": recipient})
    }

    /// The event for a session that did not acknowledge the message.
    fn unacknowledged(&self, message: &Value) -> Value {
        let mut event = message.clone();
        event["type"] = "unacknowledged".into();
        event["to"] = format!("{}@{DOMAIN}/tied", self.user).into();
        event
    }

    async fn post_accepted(&self, event: &Value) {
        self.harness.post_accepted("/events", event).await;
    }

    /// Posts events about a user whose presence and devices do not change.
    async fn steady(&mut self) {
        let user = self.user.clone();
        let to = [user.as_str()];
        match self.rng.u32(0..100) {
            0..30 => {
                let audience = if self.rng.bool() { Audience::All } else { Audience::WhileOffline };
                let message = self.message(SENDER_WITHOUT_COUNTS, &to, audience);
                self.post_accepted(&message).await;
            }
            30..40 => {
                let message = self.message(SENDER_WITH_COUNTS, &to, Audience::All);
                self.post_accepted(&message).await;
            }
            // Twice, like a chat server that got no response in time.
            40..50 => {
                let message = self.message(SENDER_WITHOUT_COUNTS, &to, Audience::All);
                tokio::join!(self.post_accepted(&message), self.post_accepted(&message));
            }
            50..70 => {
                let message = self.message(SENDER_WITHOUT_COUNTS, &to, Audience::All);
                let unacknowledged = self.unacknowledged(&message);
                tokio::join!(self.post_accepted(&message), self.post_accepted(&unacknowledged));
            }
            70..78 => {
                let message = self.message(SENDER_WITH_COUNTS, &to, Audience::TiedDevice);
                let event = self.unacknowledged(&message);
                self.post_accepted(&event).await;
            }
            78..83 => {
                let message = self.message(SENDER_WITH_COUNTS, &to, Audience::Nobody);
                self.post_accepted(&message).await;
            }
            83..90 => {
                let several = [(); 3].map(|()| self.message(SENDER_WITHOUT_COUNTS, &to, Audience::All));
                self.post_accepted(&json!(several)).await;
            }
            // One of them is invalid, so both are refused.
            90..95 => {
                let message = self.message(SENDER_WITH_COUNTS, &to, Audience::Nobody);
                let several = json!([message, {"type": "message", "to": "nobody"}]);
                let status = self.harness.post("/events", &several).await;
                if status != 400 {
                    self.harness.history().errors.push(format!("an invalid event was answered with {status}"));
                }
            }
            _ => {
                if self.harness.settle(&user, Duration::from_secs(5)).await {
                    let jid = format!("{user}@{DOMAIN}");
                    self.post_accepted(
                        &json!({"type": "read", "jid": jid, "conversation": self.conversation(SENDER_WITHOUT_COUNTS)}),
                    )
                    .await;
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
                let message = self.message(SENDER_WITHOUT_COUNTS, &[&user], Audience::WhileOffline);
                self.post_accepted(&message).await;
                return;
            }
            60..70 => {
                let message = self.message(SENDER_WITH_COUNTS, &[&user], Audience::All);
                self.post_accepted(&message).await;
                return;
            }
            _ => {}
        }
        // Without this, `Certainty` would be `Maybe` for most messages.
        self.harness.settle(&user, Duration::from_millis(self.rng.u64(0..4_000))).await;
        if self.rng.bool() {
            let becomes = if self.harness.history().offline[&user].last() == Certainty::Yes {
                Certainty::No
            } else {
                Certainty::Yes
            };
            self.harness.presence(&user, becomes).await;
            // The presence must count for the next message.
            let message = self.message(SENDER_WITHOUT_COUNTS, &[&user], Audience::WhileOffline);
            self.post_accepted(&message).await;
        } else {
            let name = format!("{user}.{}", self.rng.usize(0..2));
            let is_enabled = self.harness.history().devices[&name].enabled.last() == Certainty::Yes;
            if is_enabled && self.rng.bool() {
                self.harness.disable(&name).await;
            } else {
                self.harness.enable(&name).await;
            }
        }
    }

    /// Posts events about several users in one request.
    async fn group(&mut self) {
        let users = users();
        let mut to: Vec<_> = users.iter().map(String::as_str).collect();
        self.rng.shuffle(&mut to);
        to.truncate(self.rng.usize(2..users.len()));
        let message = self.message(ROOM_NAME, &to, Audience::WhileOffline);
        self.post_accepted(&message).await;
    }

    pub async fn run(mut self, end: Instant) -> usize {
        while Instant::now() < end {
            if self.user == ROOM_NAME {
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
