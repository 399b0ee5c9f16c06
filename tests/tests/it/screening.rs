//! The events that ingest does not queue, since no plugin in use notifies of them.

use aws_config::SdkConfig;
use doubles::canary;
use local::Options;
use pushlark_access::Access;
use pushlark_http::{Answer, Init, Invocation};
use pushlark_plugin::{Defaults, Enhanced, Hints, Plugins};
use pushlark_settings::Environment;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tests::{
    ALICES_PC, BOB, BOBS_PC, BOBS_PHONE, CAROL, CallCounter, Event, PushRequest, Pushlark, ROOM_OCCUPANT, stanza,
};

/// Ingest with the table of a stack, and with a queue that only the test reads.
struct Ingest {
    function: ingest::Function,
    sqs: aws_sdk_sqs::Client,
    queue_url: String,
}

impl Ingest {
    async fn beside(pushlark: &Pushlark, settings: &[(&str, &str)]) -> Self {
        Self::with(pushlark, pushlark.stack.dynamodb.clone(), settings).await
    }

    async fn with(pushlark: &Pushlark, dynamodb: aws_sdk_dynamodb::Client, settings: &[(&str, &str)]) -> Self {
        let sqs = pushlark.stack.sqs.clone();
        let queue_url = sqs.create_queue().queue_name("screened").send().await.unwrap().queue_url.unwrap();
        let mut environment = pushlark.stack.environment.clone();
        environment.extend(settings.iter().copied());
        environment.extend([("QUEUE_URL", queue_url.as_str())]);
        let init = Init { environment, aws: SdkConfig::builder().build(), access: Access::open() };
        let function = ingest::Function::from_environment(&init, dynamodb, sqs.clone()).unwrap();
        Self { function, sqs, queue_url }
    }

    /// Posts events. Returns the ids of the answer, and the id and the recipients of each queued event.
    async fn post(&self, events: &[Event]) -> (Vec<String>, Vec<(String, Value)>) {
        let answer = self.function.handle(Invocation::Direct(to_raw_value(events).unwrap())).await;
        let Answer::Direct(answer) = answer else { panic!("{answer:?}") };
        let answer: Value = serde_json::from_str(answer.get()).unwrap();
        let accepted = serde_json::from_value(answer["ids"].clone()).unwrap();
        let mut queued = Vec::new();
        loop {
            let receive = self.sqs.receive_message().queue_url(&self.queue_url).max_number_of_messages(10);
            let messages = receive.send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return (accepted, queued);
            }
            for message in messages {
                let record: Value = serde_json::from_str(&message.body.unwrap()).unwrap();
                for work in record["work"].as_array().unwrap() {
                    let subject = work["subject"].as_object().unwrap().values().next().unwrap();
                    queued.push((work["id"].as_str().unwrap().to_owned(), subject["to"].clone()));
                }
            }
        }
    }

    async fn queues(&self, event: Event) -> bool {
        let (accepted, queued) = self.post(&[event]).await;
        assert_eq!(accepted.len(), 1);
        !queued.is_empty()
    }
}

fn message(content: &str) -> Event {
    Event::stanza(BOB, &stanza::chat(content))
}

fn hi() -> Event {
    Event::message(BOB, "canary Hi")
}

/// Messages of which no built-in plugin notifies.
fn silent() -> Vec<Event> {
    let reactions = "<reactions id='m1' xmlns='urn:xmpp:reactions:0'><reaction>x</reaction></reactions>";
    let retract = "<retract id='m1' xmlns='urn:xmpp:message-retract:1'/>";
    let keys = "<encrypted xmlns='urn:xmpp:omemo:2'><header/></encrypted>";
    vec![
        message(""),
        message("<body> </body>"),
        message("<subject>canary</subject>"),
        message("<composing xmlns='http://jabber.org/protocol/chatstates'/>"),
        message("<received xmlns='urn:xmpp:receipts' id='m1'/>"),
        message("<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>"),
        message(&format!("<body>canary</body>{reactions}")),
        message(&format!("<body>canary</body>{retract}")),
        message("<body>canary</body><replace id='m1' xmlns='urn:xmpp:message-correct:0'/>"),
        message(&format!("<body>canary</body>{keys}")),
        message("<sent xmlns='urn:xmpp:carbons:2'/>"),
        Event::stanza(BOB, &stanza::jingle("ringing")),
        Event::stanza(BOB, &stanza::jingle("propose")).from(BOBS_PC),
        hi().recipient(json!({"exists": false})),
        Event::stanza(BOB, &stanza::jingle("propose")).recipient(json!({"exists": false})),
        Event::groupchat(ROOM_OCCUPANT, BOB, "canary Hi").recipient(json!({"nick": "alice"})),
        Event::subscription(CAROL, BOB).recipient(json!({"exists": false})),
        Event::unacknowledged(BOBS_PHONE, "canary Hi").recipient(json!({"exists": false})),
    ]
}

#[tokio::test]
async fn messages_that_notify_nobody_are_not_queued() {
    let pushlark = Pushlark::start().await;
    for plugin in ["defaults", "enhanced", "hints"] {
        for unread_counts in ["off", "on"] {
            let ingest = Ingest::beside(&pushlark, &[("PLUGIN", plugin), ("UNREAD_COUNTS", unread_counts)]).await;
            for event in silent() {
                assert!(!ingest.queues(event.clone()).await, "{plugin}: {event}");
            }
            let not_stored = message("<body>canary</body><no-store xmlns='urn:xmpp:hints'/>");
            assert_eq!(ingest.queues(not_stored).await, plugin != "hints", "{plugin}");
            // The worker counts a message, or notifies the device of the session.
            let unacknowledged = Event::unacknowledged(BOBS_PHONE, "canary Hi");
            let is_seen = plugin != "defaults" || unread_counts == "on";
            assert_eq!(ingest.queues(unacknowledged).await, is_seen, "{plugin} {unread_counts}");
            let online = hi().recipient(json!({"online": true, "client_state": "active"}));
            assert_eq!(ingest.queues(online).await, unread_counts == "on", "{plugin}");
            let counted = hi().recipient(json!({"online": true, "unread_count": 3}));
            assert!(!ingest.queues(counted).await, "{plugin}");
            for step in ["propose", "retract", "finish"] {
                let online = json!({"online": true, "client_state": "active"});
                assert!(ingest.queues(Event::stanza(BOB, &stanza::jingle(step)).recipient(online)).await, "{step}");
            }
            let answer =
                Event::stanza(BOB, &stanza::jingle("proceed").replace("<message", "<message to='alice@x.example'"));
            assert!(ingest.queues(answer.from(BOBS_PC)).await, "{plugin}");
            for event in
                [hi(), Event::subscription(CAROL, BOB), Event::user_removed(BOB), Event::domain_removed("x.example")]
            {
                assert!(ingest.queues(event.clone()).await, "{plugin}: {event}");
            }
        }
    }
}

#[tokio::test]
async fn the_answer_has_the_ids_of_all_events_and_the_queue_those_that_may_notify() {
    let pushlark = Pushlark::start().await;
    let ingest = Ingest::beside(&pushlark, &[]).await;
    let to = ["u1@example.com", "alice@example.com", "u2@example.com"];
    let group = Event::groupchat("room@muclight.example.com/alice@example.com", to, "canary Hi");
    let events = [
        message("").id("silent"),
        hi().id("first"),
        Event::presence(BOBS_PC, "online"),
        group.id("group"),
        hi().recipient(json!({"exists": false})).id("nobody"),
        Event::message([BOB, CAROL], "canary Hi").recipient(json!({"exists": false})).id("nobody of two"),
        hi().id("last"),
    ];
    let (accepted, mut queued) = ingest.post(&events).await;
    assert_eq!(accepted.len(), events.len());
    let named: Vec<_> = [0, 1, 3, 4, 5, 6].map(|index| accepted[index].as_str()).to_vec();
    assert_eq!(named, ["silent", "first", "group", "nobody", "nobody of two", "last"]);
    queued.sort_by_key(|(id, _)| accepted.iter().position(|accepted| accepted == id));
    let expected = [("first", json!([BOB])), ("group", json!([to[0], to[2]])), ("last", json!([BOB]))];
    assert_eq!(queued, expected.map(|(id, to)| (id.to_owned(), to)));
}

async fn enable(pushlark: &Pushlark, user: &str, node: &str, while_online: &str) {
    let form = json!({"service": "fcm", "device_id": canary(node)});
    let preferences = json!({"while_online": while_online});
    let request = PushRequest::new(user, node).form(form).with("preferences", preferences);
    assert_eq!(pushlark.json("/enable", request).await.status, 200);
}

#[tokio::test]
async fn a_message_to_a_user_who_is_online_is_queued_only_if_a_device_may_be_notified() {
    let (pushlark, counter) = CallCounter::with_settings([]).await;
    let ingest = Ingest::beside(&pushlark, &[]).await;
    let online = |state: Value| Event::message(BOB, "canary Hi").recipient(state);
    let active = || online(json!({"online": true, "client_state": "active"}));
    let unknown = || online(json!({"online": true}));
    assert!(!ingest.queues(active()).await && !ingest.queues(unknown()).await, "no device");
    for (while_online, is_queued) in [("inactive", false), ("never", false), ("away", true), ("always", true)] {
        enable(&pushlark, BOB, "phone", while_online).await;
        assert_eq!(ingest.queues(active()).await, is_queued, "{while_online}");
        assert_eq!(ingest.queues(unknown()).await, is_queued, "{while_online}");
    }
    enable(&pushlark, BOB, "phone", "inactive").await;
    // The presence of the same request counts.
    let inactive = Event::presence(BOBS_PC, "online").with("client_state", "inactive");
    let (_, queued) = ingest.post(&[inactive, unknown()]).await;
    assert_eq!(queued.len(), 1);
    assert!(!ingest.queues(active()).await);
    assert!(ingest.queues(online(json!({"online": true, "client_state": "inactive"}))).await);
    let request = Event::subscription(CAROL, BOB).recipient(json!({"online": true, "client_state": "active"}));
    assert!(!ingest.queues(request).await);
    // All messages of a request to a user take one read.
    counter.take();
    let (_, queued) = ingest_through(&pushlark, &counter).await.post(&[active(), active(), hi()]).await;
    assert_eq!(queued.len(), 1);
    assert_eq!(counter.take().into_iter().collect::<Vec<_>>(), [("Query".to_owned(), 1)]);
    // If the table does not answer, the worker decides.
    counter.refuse_next("Query", "ValidationException", json!({}));
    assert!(ingest_through(&pushlark, &counter).await.queues(active()).await);
    counter.assert_all_failures_occurred();
}

/// Ingest whose calls of DynamoDB are counted.
async fn ingest_through(pushlark: &Pushlark, counter: &CallCounter) -> Ingest {
    let dynamodb = pushlark.stack.dynamodb.config().to_builder().endpoint_url(&counter.url).build();
    Ingest::with(pushlark, aws_sdk_dynamodb::Client::from_conf(dynamodb), &[]).await
}

#[tokio::test]
async fn events_of_a_plugin_that_is_not_built_in_are_queued() {
    let pushlark = Pushlark::start().await;
    for plugin in ["rooms", "rules", "lambda:my-plugin"] {
        let ingest = Ingest::beside(&pushlark, &[("PLUGIN", plugin)]).await;
        for event in silent() {
            assert!(ingest.queues(event.clone()).await, "{plugin}: {event}");
        }
        assert!(ingest.queues(hi().recipient(json!({"online": true, "client_state": "active"}))).await, "{plugin}");
    }
}

#[test]
#[should_panic = "\"hints\" is the name of a built-in plugin"]
fn a_built_in_plugin_cannot_be_replaced() {
    let _ = Plugins::built_in().with("hints", Defaults);
}

#[tokio::test]
async fn an_event_that_is_not_queued_is_explained() {
    let pushlark = Pushlark::start().await;
    enable(&pushlark, BOB, "phone", "inactive").await;
    assert_eq!(pushlark.explained(message("")).await["skipped"], "defaults: the message has no body");
    let online = pushlark.explained(hi().recipient(json!({"online": true, "client_state": "active"}))).await;
    assert_eq!(online["left_out"][0]["why"], "defaults: the recipient is online");
}

/// The users of [`ingest_changes_no_notification_and_no_count`], each with devices and sessions of its own.
async fn prepare(pushlark: &Pushlark, user: usize) -> String {
    let jid = format!("u{user}@example.com");
    let session = format!("{jid}/phone");
    match user {
        0 => {}
        1 => pushlark.enable(&jid, &jid).await,
        2 => enable(pushlark, &jid, &jid, "always").await,
        3 => {
            enable(pushlark, &session, &jid, "away").await;
            let away = Event::presence(&format!("{jid}/pc"), "online").with("show", "away");
            pushlark.event(json!([Event::presence(&session, "offline"), away])).await;
            enable(pushlark, &session, &jid, "away").await;
        }
        4 => enable(pushlark, &jid, &jid, "never").await,
        5 => {
            pushlark.enable(&session, &jid).await;
            pushlark.event(Event::presence(&session, "online").with("client_state", "inactive")).await;
        }
        _ => {
            pushlark.enable(&session, &jid).await;
            enable(pushlark, &jid, &format!("{jid}-always"), "always").await;
            pushlark.event(Event::presence(&session, "online")).await;
        }
    }
    jid
}

/// Returns events of all kinds with all reported states, for users with different devices: one in `step` of all.
fn events(users: &[String], step: usize) -> Vec<Event> {
    let hint = |name: &str| format!("<body>canary</body><{name} xmlns='urn:xmpp:hints'/>");
    let stanzas: Vec<(String, &str)> = vec![
        (stanza::chat("<body>canary</body>"), ALICES_PC),
        (stanza::chat("<composing xmlns='http://jabber.org/protocol/chatstates'/>"), ALICES_PC),
        (stanza::chat(&hint("no-store")), ALICES_PC),
        (stanza::chat("<body>canary</body><reactions id='m' xmlns='urn:xmpp:reactions:0'/>"), ALICES_PC),
        (stanza::chat("<encrypted xmlns='urn:xmpp:omemo:2'><payload>x</payload></encrypted>"), ALICES_PC),
        (stanza::chat("<x xmlns='jabber:x:conference' jid='room@muc.example.com'/>"), ALICES_PC),
        ("<message type='groupchat'><body>canary</body></message>".into(), ROOM_OCCUPANT),
        ("<message type='headline'><body>canary</body></message>".into(), ALICES_PC),
        (stanza::jingle("propose"), ALICES_PC),
        (stanza::jingle("ringing"), ALICES_PC),
        (stanza::jingle("retract"), ALICES_PC),
        (stanza::jingle("proceed"), ALICES_PC),
    ];
    let flags = [None, Some(false), Some(true)];
    let mut events = Vec::new();
    for (stanza, from) in &stanzas {
        for user in users {
            for (exists, online) in flags.into_iter().flat_map(|exists| flags.map(|online| (exists, online))) {
                for client_state in [None, Some("active"), Some("inactive")] {
                    for (unread_count, nick) in [(None, None), (Some(7), Some("alice"))] {
                        let recipient = json!({
                            "exists": exists, "online": online, "client_state": client_state, "unread_count": unread_count,
                            "nick": nick,
                        });
                        let message =
                            Event::stanza(user, &stanza.replace("id='c1'", &format!("id='c{}'", events.len())));
                        let message = message.from(from).recipient(recipient);
                        let session = format!("{user}/phone");
                        events.push(message.clone().with("type", "unacknowledged").with("to", session));
                        events.push(message);
                        if *from == ALICES_PC && unread_count.is_none() {
                            let contact = format!("contact{}@example.com", events.len());
                            events.push(Event::subscription(&contact, user).recipient(json!({
                                "exists": exists, "online": online, "client_state": client_state,
                            })));
                        }
                    }
                }
            }
        }
    }
    let events = events.into_iter().step_by(step).enumerate();
    events.map(|(number, event)| event.id(&format!("m{number}"))).collect()
}

/// Returns the device and the text of a notification, without the time for which it is worth delivering.
fn without_time(entry: &mut Value) -> (String, String) {
    entry["notification"].as_object_mut().unwrap().remove("time_to_live");
    (entry["device_id"].as_str().unwrap().to_owned(), entry["notification"].to_string())
}

/// Returns the notifications of events, as `(device, notification)`, and the number of queued messages.
async fn outcome(plugins: Plugins, settings: &[(&str, &str)]) -> (Vec<(String, String)>, u32) {
    let environment = Environment::from_iter(settings.iter().copied());
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    let mut users = Vec::new();
    for user in 0..7 {
        users.push(prepare(&pushlark, user).await);
    }
    let ingest = Ingest::beside(&pushlark, settings).await;
    let mut queued = 0;
    for events in events(&users, 47).chunks(60) {
        pushlark.event(events).await;
        // Two requests have no order, and the counts depend on it.
        pushlark.settled().await;
        queued += ingest.post(events).await.1.len() as u32;
    }
    let mut notifications: Vec<_> = pushlark.all_notifications().await.iter_mut().map(without_time).collect();
    notifications.sort();
    (notifications, queued)
}

/// A stack whose ingest does not know its plugin queues everything, and must notify of the same.
#[tokio::test]
async fn ingest_changes_no_notification_and_no_count() {
    for name in ["defaults", "enhanced", "hints"] {
        for unread_counts in ["off", "on"] {
            let with = |plugin| [("PLUGIN", plugin), ("UNREAD_COUNTS", unread_counts), ("CALL_TIME_TO_LIVE", "300")];
            let plugins = match name {
                "defaults" => Plugins::built_in().with("own", Defaults),
                "enhanced" => Plugins::built_in().with("own", Enhanced),
                _ => Plugins::built_in().with("own", Hints),
            };
            let (notified, queued) = outcome(Plugins::built_in(), &with(name)).await;
            let (expected, all) = outcome(plugins, &with("own")).await;
            assert_eq!(notified, expected, "{name} {unread_counts}");
            println!("{name} {unread_counts}: {queued} of {all} events queued, {} notifications", notified.len());
            assert!(!notified.is_empty() && queued < all, "{name} {unread_counts}");
        }
    }
}
