//! What the functions ask of DynamoDB, and what their roles in the template let them.

use std::collections::BTreeSet;

use serde_json::json;
use tests::Meter;

const TEMPLATE: &str = include_str!("../../../infra/template.yaml");

/// The actions on DynamoDB that a function's role allows.
fn allowed(function: &str) -> BTreeSet<&'static str> {
    let (_, role) = TEMPLATE.split_once(&format!("\n  {function}Role:\n")).unwrap();
    let (role, _) = role.split_once(&format!("\n  {function}Logs:\n")).unwrap();
    let actions = role.split("dynamodb:").skip(1);
    actions.map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap()).collect()
}

#[tokio::test]
async fn each_function_asks_what_its_role_lets_it_and_could_not_do_with_less() {
    let settings = [("MAX_NODES", "2"), ("RATE_LIMIT", "1000000"), ("UNREAD_COUNTS", "on")];
    let (pushlark, meter) = Meter::with_settings(settings).await;
    let asked = || meter.take_actions();
    let assert_asked = |function: &str, asked: BTreeSet<String>| {
        assert_eq!(asked.iter().map(String::as_str).collect::<BTreeSet<_>>(), allowed(function), "{function}");
    };

    asked();
    for node in ["a", "b", "c"] {
        pushlark.enable("bob@example.com/phone", node).await;
    }
    let list = format!("{}/enable?user=bob@example.com", pushlark.stack.url);
    assert_eq!(pushlark.http.get(list).send().await.unwrap().status(), 200);
    let mut enabling = asked();
    let mut disable = json!({"user": "bob@example.com", "jid": "push.example.com"});
    assert_eq!(pushlark.json("/disable", disable.clone()).await.status, 200);
    assert_asked("Disable", asked());

    // The node that was added last is not there, so the next transaction checks that.
    pushlark.enable("bob@example.com/phone", "d").await;
    enabling.extend(asked());
    assert_asked("Enable", enabling);
    disable["node"] = "d".into();
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    asked();

    pushlark.event(json!({"type": "presence", "jid": "bob@example.com/phone", "status": "offline"})).await;
    pushlark.event(json!({"type": "read", "jid": "bob@example.com", "conversation": "alice@example.com"})).await;
    assert_asked("Ingest", asked());

    let owner = "xmlns='http://jabber.org/protocol/pubsub#owner'";
    for payload in [
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><create node='n'/></pubsub>".to_owned(),
        format!(
            "<pubsub {owner}><affiliations node='n'><affiliation jid='example.com' affiliation='publish-only'/></affiliations></pubsub>"
        ),
        format!("<pubsub {owner}><affiliations node='n'/></pubsub>"),
        format!("<pubsub {owner}><delete node='n'/></pubsub>"),
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><create node='m'/></pubsub>".to_owned(),
    ] {
        let iq = format!("<iq type='set' id='1' from='bob@example.com' to='push.example.com'>{payload}</iq>");
        let iq = if payload.contains("<affiliations node='n'/>") { iq.replace("'set'", "'get'") } else { iq };
        let reply = pushlark.post("/pubsub", "text/xml", iq).await;
        assert!(reply.body.contains("type=\"result\""), "{}", reply.body);
    }
    assert_asked("PushNode", asked());

    pushlark.enable("bob@example.com/phone", "gone").await;
    pushlark.device_answers("gone", json!({"status": 410})).await;
    asked();
    pushlark.message("bob@example.com", "planted Hi").await;
    pushlark.event(json!({"type": "domain_removed", "domain": "example.com"})).await;
    pushlark.settled().await;
    assert_asked("Worker", asked());
}
