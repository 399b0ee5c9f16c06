//! The loads whose bill is computed.

use serde_json::{Value, json};

/// Conversations with unread messages of each recipient of `unread_counts`.
const CONVERSATIONS: u64 = 50;
/// Events of one webhook, and recipients of one record.
const EVENTS: u64 = 25;
/// The most records of a batch: the default of `BATCH_SIZE`.
const BATCH: u64 = 10;
/// The rounds of `presence_day` that make a day, each with two sessions.
const ROUNDS_OF_A_DAY: f64 = 5.0;

const BODY: &str = "Are you coming to the station at six, or shall I take the bus & wait?";

/// What the dollars of a scenario are for a million of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A notification that the push service accepted.
    Notification,
    /// A day of one user.
    UserDay,
}

/// A load, in rounds that are equal except for the numbers in identifiers.
pub struct Scenario {
    /// The key in the results.
    pub name: &'static str,
    pub purpose: &'static str,
    pub unit: Unit,
    /// Units of one round.
    pub units: f64,
    /// Notifications of one round.
    pub notifications: u64,
    /// Settings other than the defaults. All must be in the catalogue of settings.
    pub settings: &'static [(&'static str, &'static str)],
    /// The most records of a batch.
    pub batch_size: usize,
    /// The users whose devices are enabled.
    pub users: fn() -> Vec<String>,
    /// The events of webhooks that are notified before the scenario, one after the other.
    pub before: fn() -> Vec<Vec<Value>>,
    /// The steps of the round with this number.
    pub round: fn(u64) -> Vec<Step>,
    /// Rounds before those that are measured.
    pub warm_up: u64,
    /// Rounds of the longer of two runs under callgrind, beyond those of the shorter one.
    pub more_rounds: u64,
}

/// An invocation.
pub enum Step {
    /// A webhook to ingest: content type and body.
    Webhook(&'static str, String),
    /// An invocation of the worker with a batch of queue messages.
    Batch,
}

/// All scenarios but the idle month, in the order of the results.
pub fn scenarios() -> Vec<Scenario> {
    let busy_single = || Scenario {
        name: "busy_single",
        purpose: "one message in each webhook, ten records in each batch",
        unit: Unit::Notification,
        units: BATCH as f64,
        notifications: BATCH,
        settings: &[],
        batch_size: BATCH as usize,
        users: || users(BATCH),
        before: Vec::new,
        round: |round| {
            let webhooks = (0..BATCH).map(|number| {
                Step::Webhook(
                    "application/json",
                    message(round, &user(number), &format!("friend{number:02}")).to_string(),
                )
            });
            webhooks.chain([Step::Batch]).collect()
        },
        warm_up: 2,
        more_rounds: 2,
    };
    let busy_batched = || Scenario {
        name: "busy_batched",
        purpose: "25 messages in each webhook (NDJSON), ten records of 25 in each batch",
        units: (BATCH * EVENTS) as f64,
        notifications: BATCH * EVENTS,
        users: || users(BATCH * EVENTS),
        round: |round| {
            let webhooks = (0..BATCH).map(|webhook| {
                let events = (webhook * EVENTS..(webhook + 1) * EVENTS)
                    .map(|number| format!("{}\n", message(round, &user(number), "friend00")));
                Step::Webhook("application/x-ndjson", events.collect())
            });
            webhooks.chain([Step::Batch]).collect()
        },
        warm_up: 0,
        more_rounds: 1,
        ..busy_single()
    };
    vec![
        Scenario {
            name: "quiet",
            purpose: "one message in each webhook, one record in each batch",
            units: 1.0,
            notifications: 1,
            batch_size: 1,
            users: || users(1),
            round: |round| {
                let body = message(round, &user(0), "friend00").to_string();
                vec![Step::Webhook("application/json", body), Step::Batch]
            },
            more_rounds: 10,
            ..busy_single()
        },
        busy_single(),
        busy_batched(),
        Scenario {
            name: "busy_batched_collapse",
            purpose: "the same with `DEDUPLICATION=collapse`",
            settings: &[("DEDUPLICATION", "collapse")],
            ..busy_batched()
        },
        Scenario {
            name: "room_100",
            purpose: "one message of a room with 100 members in each webhook, its records in one batch",
            units: 100.0,
            notifications: 100,
            users: || users(100),
            round: |round| {
                let body = json!({"type": "message", "id": id(round, "room"), "from": "room@muc.example.com/Alice",
                    "to": users(100), "chat": "groupchat", "body": BODY});
                vec![Step::Webhook("application/json", body.to_string()), Step::Batch]
            },
            ..busy_batched()
        },
        Scenario {
            name: "unread_counts",
            purpose: "as busy_single with `UNREAD_COUNTS=on`; each recipient has 50 conversations with unread messages",
            settings: &[("UNREAD_COUNTS", "on")],
            before: || {
                let to_all = |number| {
                    let message = |user: String| message(0, &user, &format!("contact{number:02}"));
                    users(BATCH).into_iter().map(message).collect()
                };
                (0..CONVERSATIONS).map(to_all).collect()
            },
            round: |round| {
                let webhooks = (0..BATCH).map(|number| {
                    let from = format!("contact{:02}", (round + number) % CONVERSATIONS);
                    Step::Webhook("application/json", message(round + 1, &user(number), &from).to_string())
                });
                webhooks.chain([Step::Batch]).collect()
            },
            ..busy_single()
        },
        Scenario {
            name: "presence_day",
            purpose: "a user's day as Prosody's module tells it: 10 logins, 10 logouts, 40 changes of `<show/>`, and 50 \
                messages, of which half arrive while the user is online and are not notified; one webhook each",
            unit: Unit::UserDay,
            units: 1.0 / ROUNDS_OF_A_DAY,
            notifications: 5,
            batch_size: 1,
            users: || users(1),
            round: |round| {
                let mut steps = Vec::new();
                let mut number = 0;
                for (session, messages) in [2, 3].into_iter().enumerate() {
                    let session = 2 * round + session as u64;
                    let shows = [None, Some("away"), None, Some("dnd"), None];
                    steps.extend(shows.map(|show| presence(session, "online", show)));
                    for is_online in [true, false] {
                        if !is_online {
                            steps.push(presence(session, "offline", None));
                        }
                        for _ in 0..messages {
                            steps.extend([prosody_message(round, number, is_online), Step::Batch]);
                            number += 1;
                        }
                    }
                }
                steps
            },
            warm_up: 1,
            more_rounds: 1,
            ..busy_single()
        },
    ]
}

fn user(number: u64) -> String {
    format!("user{number:03}@example.com")
}

fn users(count: u64) -> Vec<String> {
    (0..count).map(user).collect()
}

/// An identifier as long as a UUID.
fn id(round: u64, name: &str) -> String {
    let id = format!("{round:08}-{name}");
    format!("{id:-<36}")
}

/// A message of a chat, in Pushlark's own format.
fn message(round: u64, to: &str, from: &str) -> Value {
    let id = id(round, &format!("{from}-{to}").replace(['@', '.'], "-"));
    let from = format!("{from}@example.com/laptop");
    json!({"type": "message", "id": id, "from": from, "to": to, "chat": "chat", "body": BODY})
}

/// A presence of the user as Prosody's module sends it.
fn presence(session: u64, status: &str, show: Option<&str>) -> Step {
    let mut event = json!({"type": "presence", "jid": format!("{}/phone-{session:06}", user(0)), "status": status});
    if status == "online" {
        event["client_state"] = "active".into();
    }
    if let Some(show) = show {
        event["show"] = show.into();
    }
    Step::Webhook("application/json", json!([event]).to_string())
}

/// A message to the user as Prosody's module sends it.
fn prosody_message(round: u64, number: u64, is_online: bool) -> Step {
    let (id, to, body) = (id(round, &number.to_string()), user(0), BODY.replace('&', "&amp;"));
    let stanza = format!(
        "<message xmlns='jabber:client' type='chat' id='{id}' from='friend00@example.com/laptop' to='{to}'>\
         <body>{body}</body><active xmlns='http://jabber.org/protocol/chatstates'/>\
         <request xmlns='urn:xmpp:receipts'/><markable xmlns='urn:xmpp:chat-markers:0'/>\
         <origin-id xmlns='urn:xmpp:sid:0' id='{id}'/>\
         <stanza-id xmlns='urn:xmpp:sid:0' by='example.com' id='{id}'/></message>"
    );
    let mut recipient = json!({"exists": true, "online": is_online});
    if is_online {
        recipient["client_state"] = "active".into();
    }
    let event = json!({"type": "message", "id": id, "from": "friend00@example.com/laptop", "to": to, "stanza": stanza,
        "recipient": recipient});
    Step::Webhook("application/json", json!([event]).to_string())
}
