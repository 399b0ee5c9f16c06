//! The message groups of the queue (`FAIR_QUEUES`).

use std::collections::BTreeSet;

use aws_config::SdkConfig;
use aws_sdk_sqs::types::MessageSystemAttributeName;
use pushlark_access::Access;
use pushlark_http::{Init, Invocation};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tests::{BOB, CAROL, Event, IsolatedWorker, Pushlark, ROOM_OCCUPANT, Work, eventually, stanza};

/// A user of another domain.
const EVE: &str = "eve@example.org";

/// A stack, and a queue that only the test reads.
struct Watched {
    pushlark: Pushlark,
    queue_url: String,
    init: Init,
}

/// A message in the queue: its group, and the JIDs or domains that its record is about.
type Message = (Option<String>, BTreeSet<String>);

impl Watched {
    async fn start(setting: &str) -> Self {
        // With this plugin, unacknowledged messages are queued.
        let settings = [("FAIR_QUEUES", setting), ("CLEAR_WHEN_READ", "on"), ("PLUGIN", "enhanced")];
        let pushlark = Pushlark::with_settings(settings).await;
        let create = pushlark.stack.sqs.create_queue().queue_name("watched");
        let queue_url = create.send().await.unwrap().queue_url.unwrap();
        let mut environment = pushlark.stack.environment.clone();
        environment.extend([("QUEUE_URL", &queue_url)]);
        let init = Init { environment, aws: SdkConfig::builder().build(), access: Access::open() };
        Self { pushlark, queue_url, init }
    }

    /// Gives events to an ingest that sends to this queue.
    async fn ingest(&self, events: Value) {
        let (dynamodb, sqs) = (self.pushlark.stack.dynamodb.clone(), self.pushlark.stack.sqs.clone());
        let ingest = ingest::Function::from_environment(&self.init, dynamodb, sqs).unwrap();
        let answer = format!("{:?}", ingest.handle(Invocation::Direct(to_raw_value(&events).unwrap())).await);
        assert!(answer.contains("accepted"), "{answer}");
    }

    /// Gives an IQ to a push node that sends to this queue.
    async fn push_node(&self, iq: String) {
        let (dynamodb, sqs) = (self.pushlark.stack.dynamodb.clone(), self.pushlark.stack.sqs.clone());
        let push_node = pubsub::Function::from_environment(&self.init, dynamodb, sqs).unwrap();
        let request = Invocation::Direct(to_raw_value(&json!({ "stanza": iq })).unwrap());
        let answer = format!("{:?}", push_node.handle(request).await);
        assert!(answer.contains("result"), "{answer}");
    }

    /// Receives and deletes all messages of the queue, in any order.
    async fn messages(&self) -> BTreeSet<Message> {
        let mut messages = BTreeSet::new();
        loop {
            let receive = self.pushlark.stack.sqs.receive_message().queue_url(&self.queue_url);
            let receive = receive.message_system_attribute_names(MessageSystemAttributeName::MessageGroupId);
            let received = receive.max_number_of_messages(10).send().await.unwrap().messages.unwrap_or_default();
            if received.is_empty() {
                return messages;
            }
            for message in received {
                let group = message.attributes.unwrap_or_default().remove(&MessageSystemAttributeName::MessageGroupId);
                let record: Value = serde_json::from_str(&message.body.unwrap()).unwrap();
                let work = record["work"].as_array().unwrap().iter();
                let about = work.flat_map(|work| recipients(&work["subject"])).collect();
                assert!(messages.insert((group, about)), "two messages are about the same users");
                let delete = self.pushlark.stack.sqs.delete_message().queue_url(&self.queue_url);
                delete.receipt_handle(message.receipt_handle.unwrap()).send().await.unwrap();
            }
        }
    }
}

/// Returns the JIDs or the domain that an event of a record is about.
fn recipients(subject: &Value) -> Vec<String> {
    let (_, subject) = subject.as_object().unwrap().iter().next().unwrap();
    // The JID of a notification of a push node is that of the node's service.
    let about = ["owner", "to", "jid", "domain"].iter().map(|field| &subject[field]).find(|about| !about.is_null());
    match about.unwrap() {
        Value::Array(all) => all.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
        one => vec![one.as_str().unwrap().to_owned()],
    }
}

fn message(group: Option<&str>, about: &[&str]) -> Message {
    (group.map(str::to_owned), about.iter().map(|one| (*one).to_owned()).collect())
}

#[tokio::test]
async fn a_message_of_the_queue_has_the_users_of_one_domain_and_its_group() {
    let watched = Watched::start("on").await;
    let to_all = Event::groupchat(ROOM_OCCUPANT, [BOB, EVE, CAROL], "Hi");
    watched.ingest(json!([to_all, Event::message("bob@bücher.example", "Hi"), Event::message(EVE, "Hi")])).await;
    let mut messages = watched.messages().await;
    // SQS accepts no internationalised domain as a group.
    let hashed = messages.iter().find(|(_, about)| about.contains("bob@bücher.example")).unwrap().clone();
    assert!(hashed.0.as_ref().unwrap().starts_with('#'), "{hashed:?}");
    assert!(messages.remove(&hashed));
    assert_eq!(messages, [message(Some("example.com"), &[BOB, CAROL]), message(Some("example.org"), &[EVE])].into());
}

#[tokio::test]
async fn without_the_setting_messages_have_no_group_and_users_of_all_domains() {
    let watched = Watched::start("off").await;
    watched.ingest(json!([Event::groupchat(ROOM_OCCUPANT, [BOB, EVE], "Hi"), Event::user_removed(CAROL)])).await;
    assert_eq!(watched.messages().await, [message(None, &[BOB, CAROL, EVE])].into());
}

#[tokio::test]
async fn each_kind_of_work_has_the_group_of_its_user() {
    let watched = Watched::start("on").await;
    // A read mark becomes work if a device shows the conversation.
    watched.pushlark.enable(BOB, "phone").await;
    watched.pushlark.event(Event::message(BOB, "Hi").from("alice@example.net/pc")).await;
    watched.pushlark.notified("phone", 1).await;
    watched.pushlark.settled().await;
    for (event, group, about) in [
        (Event::message(EVE, "Hi"), "example.org", EVE),
        (Event::unacknowledged("eve@example.org/phone", "Hi"), "example.org", "eve@example.org/phone"),
        (Event::subscription("alice@example.net", EVE), "example.org", EVE),
        (Event::read(BOB, "alice@example.net"), "example.com", BOB),
        (Event::user_removed(EVE), "example.org", EVE),
        (Event::domain_removed("example.org"), "example.org", "example.org"),
    ] {
        watched.ingest(event.clone().into()).await;
        assert_eq!(watched.messages().await, [message(Some(group), &[about])].into(), "{event}");
    }
    watched.push_node(stanza::iq("set", EVE, "push.example.org", &stanza::create_node("n"))).await;
    let options = [("service", "fcm"), ("device_id", "canary-n")];
    let publish = stanza::publish("n", &stanza::notification(""), &options);
    watched.push_node(stanza::iq("set", EVE, "push.example.org", &publish)).await;
    assert_eq!(watched.messages().await, [message(Some("example.org"), &[EVE])].into());
}

#[tokio::test]
async fn a_retry_has_the_group_of_its_user() {
    for (setting, expected) in [("on", Some("example.com")), ("off", None)] {
        let isolated = IsolatedWorker::beside(Pushlark::with_settings([("FAIR_QUEUES", setting)]).await).await;
        isolated.pushlark.enable(BOB, "broken").await;
        isolated.pushlark.device_answers("broken", json!({"status": 503})).await;
        let batch = isolated.batch(&[Work::message(&[BOB, EVE])]).await;
        assert!(!batch.records[0].attributes.contains_key("MessageGroupId"));
        isolated.handle(batch).await;
        let retry = eventually("the retry", async || isolated.receive().await).await;
        let group = retry.records[0].attributes.get("MessageGroupId").map(String::as_str);
        assert_eq!(group, expected);
    }
}

#[tokio::test]
async fn messages_with_groups_notify() {
    let pushlark = Pushlark::with_settings([("FAIR_QUEUES", "on")]).await;
    for (user, node) in [(BOB, "bob"), (EVE, "eve")] {
        pushlark.enable(user, node).await;
    }
    pushlark.event(Event::groupchat(ROOM_OCCUPANT, [BOB, EVE], "Hi")).await;
    pushlark.notified("bob", 1).await;
    pushlark.notified("eve", 1).await;
}
