//! `dead-letters`: messages are listed, shown, retried and dropped, and stay for others meanwhile.

use aws_sdk_sqs::types::QueueAttributeName;
use futures_util::future::join_all;
use pushlark_queue::VERSION;
use serde_json::{Value, json};
use tests::{BOB, Pushlark, Work, ago, eventually};
use tokio::process::Command;

use crate::{finished, program_at, run};

/// Adds a message to the dead-letter queue, and returns its id.
async fn bury(pushlark: &Pushlark, body: impl ToString) -> String {
    let queue = pushlark.stack.environment.text("DEAD_LETTER_QUEUE_URL").unwrap();
    let sent = pushlark.stack.sqs.send_message().queue_url(queue).message_body(body.to_string()).send().await.unwrap();
    sent.message_id.unwrap()
}

async fn listed(pushlark: &Pushlark) -> Vec<Value> {
    run(pushlark, &["dead-letters", "list", "--json"]).await.json()["messages"].as_array().unwrap().clone()
}

#[tokio::test]
async fn messages_of_all_kinds_are_listed_and_shown() {
    let pushlark = Pushlark::start().await;
    assert_eq!(run(&pushlark, &["dead-letters", "list"]).await.printed(), "There are no dead letters.\n");
    let record = Work::record(&[Work::message(&[BOB, "eve@example.com"]).id("m1"), Work::user_removed(BOB)]);
    let invocation = json!({"version": "1.0", "timestamp": ago(0),
        "requestContext": {"requestId": "r", "functionArn": "arn", "condition": "RetriesExhausted", "approximateInvokeCount": 3},
        "requestPayload": {"Records": []}, "responseContext": {"statusCode": 200},
        "responsePayload": {"errorMessage": "the table does not answer"}});
    let ids = [
        bury(&pushlark, record).await,
        bury(&pushlark, "{\"version\": 2, \"work\": \"canary\"").await,
        bury(&pushlark, json!({"version": VERSION + 1, "events": []})).await,
        bury(&pushlark, invocation).await,
    ];
    let printed = run(&pushlark, &["dead-letters", "list"]).await.printed();
    for text in [
        "message m1 to bob@example.com and 2 more, 2 events",
        "not a record: line 1, column",
        "which this tool cannot read",
        "RetriesExhausted after 3 attempts: the table does not answer",
        "peek",
    ] {
        let on_one_line = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(on_one_line.contains(text), "{text}: {printed}");
    }
    assert!(!printed.contains("canary"), "{printed}");
    let messages = listed(&pushlark).await;
    assert_eq!(messages.len(), 4, "a look leaves them all: {messages:?}");
    let record = messages.iter().find(|message| message["id"] == json!(ids[0])).unwrap();
    assert_eq!(record["events"][0]["recipients"], json!([BOB, "eve@example.com"]));
    assert_eq!((&record["events"][1]["kind"], &record["receives"]), (&json!("removal of a user"), &json!(2)));

    let shown = run(&pushlark, &["dead-letters", "show", &ids[0][..30]]).await.printed();
    assert!(shown.contains("message m1 of ") && !shown.contains("canary"), "{shown}");
    let body = run(&pushlark, &["dead-letters", "show", &ids[0], &ids[1], "--bodies"]).await.printed();
    assert_eq!(body.matches("canary").count(), 2, "{body}");
    let error = run(&pushlark, &["dead-letters", "show", "none"]).await.error();
    assert!(error.contains("there is no dead letter none"), "{error}");
}

#[tokio::test]
async fn a_record_that_can_be_handled_again_is_retried_and_the_others_stay() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let good = bury(&pushlark, Work::record(&[Work::message(&[BOB])])).await;
    let bad = bury(&pushlark, "no record").await;
    let ran = run(&pushlark, &["dead-letters", "retry", "--all"]).await;
    assert!(ran.code == Some(1) && ran.stdout.starts_with("Retried: 1.\n"), "{ran:?}");
    assert!(ran.stdout.contains(&format!("{bad}: stays: it is not a record")), "{ran:?}");
    pushlark.notified("phone", 1).await;
    let left = listed(&pushlark).await;
    assert_eq!(left.iter().map(|message| &message["id"]).collect::<Vec<_>>(), [&json!(bad)]);
    let error = run(&pushlark, &["dead-letters", "retry", &good]).await.error();
    assert!(error.contains("there is no dead letter"), "{error}");
}

#[tokio::test]
async fn many_and_large_records_are_retried_in_batches_that_sqs_accepts() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    for number in 0..15 {
        // Six of these have more than one call takes.
        let text = format!("<message type='chat'><body>canary {}</body></message>", "x".repeat(250_000));
        let work = Work::message(&[BOB]).id(&format!("m{number}"));
        let work = if number < 6 { work.message_field("stanza", text) } else { work };
        bury(&pushlark, Work::record(&[work])).await;
    }
    let retried = run(&pushlark, &["dead-letters", "retry", "--all", "--json"]).await.json();
    assert_eq!(retried["retried"].as_array().unwrap().len(), 15);
    pushlark.notified("phone", 15).await;
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
}

#[tokio::test]
async fn expired_notifications_are_told_at_a_retry() {
    let pushlark = Pushlark::start().await;
    let work = Work::message(&[BOB]).at("2020-01-01T00:00:00Z");
    let id = bury(&pushlark, Work::record(&[work])).await;
    let printed = run(&pushlark, &["dead-letters", "retry", &id]).await.printed();
    assert!(printed.contains("1 of their events are older than TIME_TO_LIVE"), "{printed}");
}

#[tokio::test]
async fn messages_are_dropped_only_with_an_answer_to_the_question() {
    let pushlark = Pushlark::start().await;
    let ids = [bury(&pushlark, "one").await, bury(&pushlark, "two").await, bury(&pushlark, "three").await];
    let error = run(&pushlark, &["dead-letters", "drop", &ids[0]]).await.error();
    assert!(error.contains(&ids[0]) && error.contains("--yes"), "{error}");
    assert_eq!(listed(&pushlark).await.len(), 3);
    assert_eq!(run(&pushlark, &["dead-letters", "drop", &ids[0], "--yes"]).await.printed(), "Deleted: 1.\n");
    assert_eq!(listed(&pushlark).await.len(), 2);
    assert_eq!(
        run(&pushlark, &["dead-letters", "drop", "--all", "--yes", "--json"]).await.json(),
        json!({"dropped": 2})
    );
    assert_eq!(pushlark.queue_depth("DEAD_LETTER_QUEUE_URL").await, 0);
    assert_eq!(run(&pushlark, &["dead-letters", "drop"]).await.code, Some(2));
}

#[tokio::test]
async fn an_empty_id_names_no_message() {
    let pushlark = Pushlark::start().await;
    bury(&pushlark, "one").await;
    // As a script does whose variable is not set.
    assert_eq!(run(&pushlark, &["dead-letters", "drop", "", "--yes"]).await.code, Some(2));
    assert_eq!(run(&pushlark, &["dead-letters", "retry", ""]).await.code, Some(2));
    assert_eq!(listed(&pushlark).await.len(), 1);
}

#[tokio::test]
async fn an_interrupted_look_makes_the_messages_visible() {
    let pushlark = Pushlark::start().await;
    for number in 0..5 {
        bury(&pushlark, number).await;
    }
    // The messages that another consumer holds keep the look waiting.
    let queue = pushlark.stack.environment.text("DEAD_LETTER_QUEUE_URL").unwrap();
    let held = pushlark.stack.sqs.receive_message().queue_url(queue).visibility_timeout(600).send().await.unwrap();
    assert_eq!(held.messages.unwrap().len(), 1);
    let child = program_at(&pushlark, &["dead-letters", "list"]).spawn().unwrap();
    // The answer with the messages has arrived when the look waits for more.
    let mut observations = 0;
    eventually("the messages are received", async || {
        observations = if hidden(&pushlark, queue).await == 5 { observations + 1 } else { 0 };
        (observations == 5).then_some(())
    })
    .await;
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let error = finished(child).await.error();
    assert!(error.contains("interrupted"), "{error}");
    assert_eq!(hidden(&pushlark, queue).await, 1);
}

/// Returns the number of messages that consumers hold.
async fn hidden(pushlark: &Pushlark, queue: &str) -> u64 {
    let name = QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
    let read = pushlark.stack.sqs.get_queue_attributes().queue_url(queue).attribute_names(name.clone());
    read.send().await.unwrap().attributes.unwrap()[&name].parse().unwrap()
}

#[tokio::test]
async fn two_looks_at_once_see_all_messages() {
    let pushlark = Pushlark::start().await;
    for number in 0..45 {
        bury(&pushlark, number).await;
    }
    for messages in join_all([listed(&pushlark), listed(&pushlark)]).await {
        assert_eq!(messages.len(), 45);
    }
}
