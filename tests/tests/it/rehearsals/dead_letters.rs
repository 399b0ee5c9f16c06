//! Dead letters of a deployment whose worker does not start, or crashes, and their return after the repair.

use aws_config::SdkConfig;
use aws_sdk_sqs::types::QueueAttributeName;
use local::Stack;
use pushlark_access::Access;
use pushlark_http::{Answer, Init, Invocation};
use pushlark_queue::redriven;
use serde_json::json;
use tests::{ago, BOB, CAROL, Event, IsolatedWorker, Pushlark, eventually};

/// The credential of the requests to ingest.
const SECRET: &str = "canary-secret-of-a-server";
/// The maximum number of deliveries of a message, as in the template.
const MAX_RECEIVE_COUNT: u32 = 100;

/// Makes the dead-letter queue of a stack that of another queue, as the template does for the queue of events.
async fn redrive(pushlark: &Pushlark, queue_url: &str) {
    let policy = json!({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:pushlark-dead",
        "maxReceiveCount": MAX_RECEIVE_COUNT});
    let set = pushlark.stack.sqs.set_queue_attributes().queue_url(queue_url);
    set.attributes(QueueAttributeName::RedrivePolicy, policy.to_string()).send().await.unwrap();
}

/// Receives the messages of a queue without an end of their batch, until they are dead letters.
async fn fail_until_dead(pushlark: &Pushlark, queue_url: &str) {
    for _ in 0..=MAX_RECEIVE_COUNT {
        let receive = pushlark.stack.sqs.receive_message().queue_url(queue_url).max_number_of_messages(10);
        receive.visibility_timeout(0).send().await.unwrap();
    }
}

/// Moves all dead letters to the queue of the worker, as `pushlark dead-letters retry` does. Returns their bodies in
/// the queue.
async fn retry(pushlark: &Pushlark) -> Vec<String> {
    let Stack { environment, sqs, .. } = &pushlark.stack;
    let dead_letters = environment.text("DEAD_LETTER_QUEUE_URL").unwrap();
    let mut bodies = Vec::new();
    while pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await > 0 {
        let received = sqs.receive_message().queue_url(dead_letters).max_number_of_messages(10).send().await.unwrap();
        for message in received.messages() {
            let body = redriven(message.body().unwrap(), message.message_id().unwrap());
            pushlark.enqueue(&body).await;
            bodies.push(body);
            let delete = sqs.delete_message().queue_url(dead_letters);
            delete.set_receipt_handle(message.receipt_handle.clone()).send().await.unwrap();
        }
    }
    bodies
}

/// A stack beside which an ingest of its own queues events for a worker that does not start.
struct BadDeployment {
    pushlark: Pushlark,
    ingest: ingest::Function,
    queue_url: String,
}

impl BadDeployment {
    async fn start() -> Self {
        let pushlark = Pushlark::start().await;
        let Stack { environment, dynamodb, sqs, .. } = &pushlark.stack;
        let queue_url = sqs.create_queue().queue_name("bad-deployment").send().await.unwrap().queue_url.unwrap();
        redrive(&pushlark, &queue_url).await;
        let mut environment = environment.clone();
        environment.extend([("QUEUE_URL", &queue_url)]);
        let (aws, access) = (SdkConfig::builder().build(), Access::of_secrets(SECRET).unwrap());
        let init = Init { environment, aws, access };
        let ingest = ingest::Function::from_environment(&init, dynamodb.clone(), sqs.clone()).unwrap();
        Self { pushlark, ingest, queue_url }
    }

    /// Posts an event, which must be accepted.
    async fn event(&self, event: Event) {
        let headers = json!({"authorization": format!("Bearer {SECRET}"), "content-type": "application/json"});
        let body = serde_json::to_string(&event).unwrap();
        let invocation = json!({"headers": headers, "requestContext": {"http": {"method": "POST"}}, "body": body});
        let invocation: Invocation = serde_json::from_value(invocation).unwrap();
        let Answer::Http(response) = self.ingest.handle(invocation).await else { panic!() };
        assert_eq!(response.status_code, 202);
    }
}

#[tokio::test]
async fn dead_letters_of_a_worker_that_does_not_start_notify_once_after_the_repair() {
    let bad = BadDeployment::start().await;
    let pushlark = &bad.pushlark;
    pushlark.enable(BOB, "phone").await;
    pushlark.enable(CAROL, "carols").await;
    for number in 1..=3 {
        bad.event(Event::message([BOB, CAROL], &format!("canary {number}")).id(&format!("m{number}"))).await;
    }
    bad.event(Event::message(BOB, "canary of the day before yesterday").at(ago(2 * 86_400))).await;
    fail_until_dead(pushlark, &bad.queue_url).await;
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 4);
    assert!(pushlark.all_notifications().await.is_empty());
    // The chat server repeats a message in the meantime, and the repaired worker notifies of it.
    pushlark.event(Event::message([BOB, CAROL], "canary 2").id("m2")).await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    // A device of this time does not get older messages.
    pushlark.enable(BOB, "later").await;

    retry(pushlark).await;
    pushlark.settled().await;
    for device in ["phone", "carols"] {
        assert_eq!(pushlark.sorted_alerts(device).await, ["canary 1", "canary 2", "canary 3"], "{device}");
    }
    assert!(pushlark.alerts("later").await.is_empty());
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

/// A worker that crashes has claimed devices. SQS gives a dead letter that is moved back another id, so it must keep
/// the first id to find its claims.
#[tokio::test]
async fn dead_letters_of_a_crashed_worker_notify_the_devices_that_it_had_claimed() {
    let isolated = IsolatedWorker::start().await;
    let pushlark = &isolated.pushlark;
    for device in ["slow", "unlucky"] {
        pushlark.enable(BOB, device).await;
        pushlark.device_answers(device, json!({"status": 200, "delay_ms": 60_000})).await;
    }
    let queue = pushlark.stack.sqs.get_queue_url().queue_name("isolated").send().await.unwrap().queue_url.unwrap();
    redrive(pushlark, &queue).await;
    let batch = isolated.batch(&[tests::Work::message(&[BOB])]).await;
    let claimed = async || {
        let items = pushlark.stack.dynamodb.scan().table_name("pushlark").send().await.unwrap().items.unwrap();
        items.iter().any(|item| item["sk"].as_s().is_ok_and(|sk| sk == "claims")).then_some(())
    };
    tokio::select! {
        () = isolated.handle(batch.clone()) => panic!("the batch ended"),
        () = eventually("a claim", claimed) => {}
    }
    let release = pushlark.stack.sqs.change_message_visibility().queue_url(&queue).visibility_timeout(0);
    release.set_receipt_handle(batch.records[0].receipt_handle.clone()).send().await.unwrap();
    fail_until_dead(pushlark, &queue).await;
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 1);

    for device in ["slow", "unlucky"] {
        pushlark.device_answers(device, json!({"status": 200})).await;
    }
    retry(pushlark).await;
    pushlark.settled().await;
    for device in ["slow", "unlucky"] {
        assert!(pushlark.alerts(device).await.contains(&"canary Hi".to_owned()), "{device}");
    }
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}
