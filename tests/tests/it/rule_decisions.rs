//! The plugin `rules`: the decisions of rules, from the webhook to the push service.

use local::Options;
use pushlark_plugin::Plugins;
use pushlark_rules::Rules;
use pushlark_settings::Environment;
use serde_json::json;
use tests::{ALICE, ALICES_PC, BOB, BOBS_PHONE, Event, PUSH_HOST, Pushlark, logged, stanza};

/// Starts a stack with these rules, and registers the device `phone` for Bob.
async fn with_rules(rules: &str, settings: &[(&str, &str)]) -> Pushlark {
    let rules: Rules = rules.parse().unwrap();
    let mut environment = Environment::from_iter([("PLUGIN", "test-rules")]);
    environment.extend(settings.iter().copied());
    let plugins = Plugins::built_in().with("test-rules", rules);
    let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
    pushlark.enable(BOB, "phone").await;
    pushlark
}

#[tokio::test]
async fn the_first_rule_that_matches_decides_and_is_named() {
    let rules = r#"
        [[rules]]
        name = "robots"
        conditions = [{from = "robot-*@example.com"}]
        action = "skip"

        [[rules]]
        name = "work"
        conditions = [{app = "work"}]
        action = "skip"

        [[rules]]
        conditions = [{event = "msg", body = "non_empty", user_status = "offline"}]
        action = "push"
        content = "message"
        body = "{sender_name}: {body|12}"
        data = {kind = "{kind}"}
    "#;
    let pushlark = with_rules(rules, &[("UNREAD_COUNTS", "on")]).await;
    pushlark.enable_with(BOB, "office", json!({"app": "work"})).await;
    let message = || Event::message(BOB, "canary, how are you?").from(ALICE);
    let explanation = pushlark.explained(message()).await;
    assert_eq!(explanation["publications"][0]["rule"], "rule 3");
    assert_eq!(explanation["left_out"][0]["why"], "rules: rule 2 \"work\"");
    let robot = pushlark.explained(message().from("robot-1@example.com")).await;
    assert_eq!(robot["skipped"], "rules: rule 1 \"robots\"");
    let online = pushlark.explained(message().recipient(json!({"online": true}))).await;
    assert_eq!(online["left_out"][1]["why"], "rules: no rule matches");

    pushlark.event(message()).await;
    pushlark.event(message().from("robot-1@example.com")).await;
    pushlark.event(message().recipient(json!({"online": true}))).await;
    pushlark.event(message()).await;
    let notified = pushlark.notified("phone", 2).await;
    let notification = &notified[1]["notification"];
    assert_eq!(notification["alert"]["body"], format!("{ALICE}: canary, how…"));
    assert_eq!(notification["alert"]["badge"], 3, "what is not notified is counted");
    assert_eq!(notification["data"]["kind"], "message");
    pushlark.settled().await;
    assert!(pushlark.notifications("office").await.is_empty());
}

#[tokio::test]
async fn an_unacknowledged_message_is_notified_to_all_devices_by_a_rule() {
    let rules = "[[rules]]\nconditions = [{event = 'unack_msg'}]\naction = 'push'\ncontent = 'message'";
    let pushlark = with_rules(rules, &[]).await;
    pushlark.enable(BOB, "tablet").await;
    pushlark.event(Event::unacknowledged(BOBS_PHONE, "canary Hi").from(ALICE)).await;
    pushlark.notified("phone", 1).await;
    pushlark.notified("tablet", 1).await;
}

#[tokio::test]
async fn rules_decide_about_contact_requests_if_they_name_them() {
    for (rules, expected) in [
        ("rules = []", 1),
        ("[[rules]]\nconditions = [{kind = 'subscription'}]\naction = 'skip'", 0),
        (
            "[[rules]]\nconditions = [{kind = 'subscription', from = 'example.org'}]\naction = 'push'\n\
             content = 'message'",
            1,
        ),
    ] {
        let pushlark = with_rules(rules, &[]).await;
        pushlark.event(Event::subscription("dave@example.org", BOB)).await;
        pushlark.settled().await;
        assert_eq!(pushlark.notifications("phone").await.len(), expected, "{rules}");
    }
}

#[tokio::test]
async fn a_rule_can_forbid_the_silent_push_of_a_read_conversation() {
    let push = "[[rules]]\naction = 'push'\ncontent = 'message'\n";
    let skip = "[[rules]]\nconditions = [{kind = 'read'}]\naction = 'skip'\n";
    for (rules, expected) in [(push.to_owned(), 2), ([push, skip].concat(), 1)] {
        let pushlark = with_rules(&rules, &[("CLEAR_WHEN_READ", "on")]).await;
        pushlark.message(BOB, "canary Hi").await;
        pushlark.settled().await;
        pushlark.event(Event::read(BOB, ALICES_PC)).await;
        pushlark.settled().await;
        assert_eq!(pushlark.notifications("phone").await.len(), expected, "{rules}");
    }
}

#[tokio::test]
async fn a_content_that_cannot_be_built_is_logged_once() {
    let Some(lines) = logged("rule_decisions::a_content_that_cannot_be_built_is_logged_once") else {
        let rules = r#"
            [[rules]]
            name = "calls"
            conditions = [{app = "a"}, {app = "b"}]
            action = "push"
            content = "jingle"

            [[rules]]
            action = "push"
            content = "message"
        "#;
        let pushlark = with_rules(rules, &[("UNREAD_COUNTS", "on")]).await;
        // The push service double prints the devices and texts, which are thus no canaries.
        for app in ["a", "b", "c"] {
            let form = json!({"service": "fcm", "device_id": app, "app": app});
            let enable = json!({"user": BOB, "jid": PUSH_HOST, "node": app, "form": form});
            assert_eq!(pushlark.json("/enable", enable).await.status, 200);
        }
        let disable = json!({"user": BOB, "jid": PUSH_HOST, "node": "phone"});
        assert_eq!(pushlark.json("/disable", disable).await.status, 200);
        // Its count is read once it is notified, and the rules decide again.
        let no_store = stanza::chat("<body>Hi</body><no-store xmlns='urn:xmpp:hints'/>");
        pushlark.event(Event::stanza(BOB, &no_store)).await;
        pushlark.settled().await;
        let notified = pushlark.all_notifications().await;
        assert_eq!((notified.len(), &notified[0]["device_id"]), (1, &json!("c")));
        return;
    };
    let warnings: Vec<_> =
        lines.iter().filter(|line| line["message"] == "a rule cannot notify of this message").collect();
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    let rule = "rules: rule 1 \"calls\": the message has no jingle element";
    assert_eq!((&warning["level"], &warning["rule"]), (&json!("WARN"), &json!(rule)));
}
