//! `logs`: the lines of a message or a user, decoded, also while they are written.

use local::Options;
use serde_json::Value;
use tests::{BOB, Event, Pushlark};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{TEST_TIMEOUT, program_at, run};

#[tokio::test]
async fn logs_shows_the_lines_of_the_local_stack_decoded_and_follows() {
    let options = Options::default();
    // The whole stack runs on this thread.
    let _log = tracing_subscriber::registry().with(options.live.layer()).set_default();
    let stack = Pushlark::with(options).await;
    stack.event(Event::message(BOB, "to nobody").id("m1")).await;
    stack.enable(BOB, "phone").await;
    stack.event(Event::message(BOB, "to a phone").id("m2")).await;
    stack.settled().await;

    let lines = |out: &str| out.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let ran = run(&stack, &["logs", "--id", "m1", "--json"]).await;
    let of_message = lines(&ran.stdout);
    assert_eq!(of_message.len(), 1, "{}{}", ran.stdout, ran.stderr);
    assert_eq!((&of_message[0]["message"], &of_message[0]["function"]), (&"not notified".into(), &"worker".into()));
    let reason = of_message[0]["reasons"]["no-registration"].as_str().unwrap();
    assert!(reason.starts_with("The recipient has no registration"), "{reason}");

    let of_user = lines(&run(&stack, &["logs", "--user", BOB, "--json"]).await.stdout);
    let messages: Vec<_> = of_user.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["not notified", "enabled", "notified"]);
    let full = lines(&run(&stack, &["logs", "--user", "BOB@example.com/x", "--json"]).await.stdout);
    assert_eq!(full, of_user);
    for no_user in ["bob", "example.com"] {
        assert_eq!(run(&stack, &["logs", "--user", no_user]).await.code, Some(2), "{no_user}");
    }
    let newest = lines(&run(&stack, &["logs", "--user", BOB, "--limit", "1", "--json"]).await.stdout);
    assert_eq!(newest[0]["message"], "notified");
    let steps = lines(&run(&stack, &["logs", "--id", "m2", "--level", "debug", "--json"]).await.stdout);
    assert!(steps.iter().any(|line| line["level"] == "debug"), "{steps:?}");
    let text = run(&stack, &["logs", "--id", "m1"]).await.stdout;
    assert!(text.contains(" INFO  worker   not notified ") && text.contains(" id=m1"), "{text}");
    assert!(text.contains("\n    no-registration: The recipient has no registration"), "{text}");

    let mut follow = program_at(&stack, &["--json", "logs", "--follow", "--id", "m3"]).spawn().unwrap();
    let mut out = BufReader::new(follow.stdout.take().unwrap()).lines();
    stack.event(Event::message(BOB, "later").id("m3")).await;
    let line = timeout(TEST_TIMEOUT, out.next_line()).await.unwrap().unwrap().unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["fields"]["id"], &line["message"]), (&"m3".into(), &"notified".into()));
    // The reader has seen enough, and no further line arrives.
    drop(out);
    let ended = timeout(TEST_TIMEOUT, follow.wait()).await.expect("the command ends with its reader").unwrap();
    assert_eq!(ended.code(), Some(0));
}
