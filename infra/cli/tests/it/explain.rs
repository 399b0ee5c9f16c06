//! `explain`: the steps of a decision in words, and the answer of the worker as it is.

use serde_json::json;
use tests::{ALICES_PC, BOB, Event, PushRequest, Pushlark};

use crate::{run, run_with};

#[tokio::test]
async fn a_message_of_options_is_explained_in_words() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let elsewhere = PushRequest::new(BOB, "n").at("pubsub.elsewhere.example");
    assert_eq!(pushlark.json("/enable", elsewhere).await.status, 200);
    let message = ["explain", "--from", ALICES_PC, "--to", BOB, "--to", "eve@example.com", "--body", "Hi Bob"];
    let printed = run(&pushlark, &message).await.printed();
    for line in [
        "  bob@example.com",
        "    offline (assumed: no presence was reported)",
        "    unread messages 1",
        "    registrations: pubsub.elsewhere.example, node n; push.example.com, node phone",
        "    pubsub.elsewhere.example, node n: not notified: the host is not virtual, and PUBSUB_URL has no server for \
         the user's domain",
        "    push.example.com, node phone: notified",
        "      last-message-body: Hi Bob",
        "  eve@example.com",
        "    nobody is notified: the recipient has no registration",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}: {printed}");
    }
    assert!(!printed.contains('\x1b'), "colours are for terminals");
    assert!(pushlark.all_notifications().await.is_empty());
}

#[tokio::test]
async fn calls_stanzas_and_files_are_explained() {
    let pushlark = Pushlark::start().await;
    pushlark.enable(BOB, "phone").await;
    let call = run(&pushlark, &["explain", "--from", ALICES_PC, "--to", BOB, "--call=video", "--json"]).await.json();
    let publication = &call["explained"][0]["recipients"][0]["publications"][0];
    assert_eq!((&publication["node"], &publication["payload"]["type"]), (&json!("phone"), &json!("jmi")));
    assert_eq!(publication["payload"]["jmi-media"], "video");
    let stanza = "<message type='chat'><body>x</body><no-store xmlns='urn:xmpp:hints'/></message>";
    let from_stanza = ["explain", "--from", ALICES_PC, "--to", BOB, "--stanza", "-"];
    let printed = run_with(&pushlark, &from_stanza, &[], stanza).await.printed();
    assert!(printed.contains("push.example.com, node phone: notified"), "{printed}");

    let events = json!([Event::message(BOB, "Hi").id("m1"), Event::user_removed(BOB).id("r1")]).to_string();
    let printed = run_with(&pushlark, &["explain", "-"], &[], &events).await.printed();
    assert!(
        printed.starts_with("m1: notifies\n") && printed.contains("\nr1: removes all data of bob@example.com\n"),
        "{printed}"
    );
    assert_eq!(pushlark.nodes(BOB).await, ["phone"]);
    let expected = pushlark.json("/explain", json!({"explain": [Event::message(BOB, "Hi").id("m1")]})).await.json();
    let event = json!(Event::message(BOB, "Hi").id("m1")).to_string();
    assert_eq!(run_with(&pushlark, &["explain", "-", "--json"], &[], &event).await.json(), expected);
}

#[tokio::test]
async fn an_event_that_cannot_be_explained_fails_with_the_reason_of_the_worker() {
    let pushlark = Pushlark::start().await;
    for (input, reason) in
        [("{", "not JSON"), ("1", "expected an event"), (r#"{"type": "nudge"}"#, "nudge"), ("[]", "no event")]
    {
        let error = run_with(&pushlark, &["explain", "-"], &[], input).await.error();
        assert!(error.contains(reason), "{error}");
    }
    let hi = ["--body", "Hi"];
    for (arguments, named, others) in [
        (&[][..], &["<FILE>"][..], &["--to"][..]),
        (&["--to", BOB], &["--from"], &["<FILE>"]),
        (&["--from", BOB, "--body", "Hi"], &["--to"], &["<FILE>"]),
        (&hi, &["--to"], &["<FILE>"]),
        (&["-", "--body", "Hi"], &["cannot be used with", "--body"], &["--to"]),
    ] {
        let ran = run(&pushlark, &[&["explain"], arguments].concat()).await;
        let (error, _) = ran.stderr.split_once("Usage").unwrap();
        assert!(ran.code == Some(2) && named.iter().all(|name| error.contains(name)), "{ran:?}");
        assert!(!others.iter().any(|name| error.contains(name)), "{arguments:?}: {error}");
    }
    let nobody = run(&pushlark, &["explain", "--from", ALICES_PC, "--to", BOB]).await.printed();
    assert!(nobody.lines().next().unwrap().ends_with(": notifies nobody"), "{nobody}");
}
