//! One device, one notification: of a user always, of all users with `DEVICE_ACCOUNTS=one`.

use futures_util::future::join_all;
use pushlark_model::PublishOptions;
use pushlark_xmpp::parse_jid;
use serde_json::{Value, json};
use tests::{BOB, BOBS_PHONE, CAROL, CallCounter, Event, PUSH_HOST, PushRequest, Pushlark, XMPP, eventually, stanza};

const ONE: (&str, &str) = ("DEVICE_ACCOUNTS", "one");

/// Enables a device at a node.
async fn enable(pushlark: &Pushlark, user: &str, node: &str, device: &str) {
    let reply = pushlark.json("/enable", PushRequest::new(user, node).device(device)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// Registers a device at a push node, and returns the answer.
async fn register(pushlark: &Pushlark, user: &str, node: &str, device: &str) -> String {
    let device = doubles::canary(device);
    let options = stanza::publish_options(&[("service", "fcm"), ("device_id", &device)]);
    let iq = stanza::iq("set", user, PUSH_HOST, &stanza::enable(PUSH_HOST, node, &options));
    pushlark.post("/pubsub", XMPP, iq).await.body
}

/// Publishes to a push node, and returns the answer.
async fn publish(pushlark: &Pushlark, node: &str) -> String {
    let summary =
        stanza::summary(&[("message-count", "1"), ("last-message-sender", ""), ("last-message-body", "canary")]);
    let publish = stanza::publish(node, &stanza::notification(&summary), &[]);
    pushlark.post("/pubsub", XMPP, stanza::iq("set", "example.com", PUSH_HOST, &publish)).await.body
}

/// Returns what explain tells of the registrations that do not notify.
async fn left_out(pushlark: &Pushlark, user: &str) -> Value {
    let reply = pushlark.json("/explain", json!({"explain": [Event::message(user, "canary Hi")]})).await;
    reply.json()["explained"][0]["recipients"][0]["left_out"].clone()
}

async fn items_of(pushlark: &Pushlark, key_prefix: &str) -> usize {
    let table = pushlark.stack.environment.text("TABLE_NAME").unwrap();
    let scanned = pushlark.stack.dynamodb.scan().table_name(table).send().await.unwrap();
    let keys = scanned.items.unwrap().into_iter().map(|item| item["pk"].as_s().unwrap().clone());
    keys.filter(|key| key.starts_with(key_prefix)).count()
}

#[tokio::test]
async fn a_device_at_a_second_node_notifies_once() {
    let pushlark = Pushlark::start().await;
    enable(&pushlark, BOBS_PHONE, "n1", "phone").await;
    enable(&pushlark, BOB, "other", "tablet").await;
    enable(&pushlark, BOBS_PHONE, "n2", "phone").await;
    assert_eq!(pushlark.nodes(BOB).await, ["n2", "other"]);
    pushlark.message(BOB, "canary Hi").await;
    pushlark.notified("phone", 1).await;
    pushlark.settled().await;
    assert_eq!(pushlark.notifications("phone").await.len(), 1);
    let replaced =
        json!([{"jid": PUSH_HOST, "node": "n1", "why": "disabled: replaced by another node of the same device"}]);
    assert_eq!(left_out(&pushlark, BOB).await, replaced);
    // The first node is enabled again, so the second is replaced.
    enable(&pushlark, BOBS_PHONE, "n1", "phone").await;
    assert_eq!(pushlark.nodes(BOB).await, ["n1", "other"]);
    assert_eq!(left_out(&pushlark, BOB).await[0]["node"], "n2");
}

#[tokio::test]
async fn a_device_is_replaced_at_another_host_and_another_user_keeps_it() {
    let pushlark = Pushlark::start().await;
    enable(&pushlark, CAROL, "hers", "phone").await;
    enable(&pushlark, BOB, "n", "phone").await;
    let elsewhere = PushRequest::new(BOB, "n").at("pubsub.elsewhere.example").device("phone");
    assert_eq!(pushlark.json("/enable", elsewhere).await.status, 200);
    let jids: Vec<_> = pushlark.registrations(BOB).await.into_iter().map(|one| one.jid.to_string()).collect();
    assert_eq!(jids, ["pubsub.elsewhere.example"]);
    assert_eq!(pushlark.nodes(CAROL).await, ["hers"]);
    assert_eq!(items_of(&pushlark, "device/").await, 0, "many users of a device cost nothing");
}

#[tokio::test]
async fn forms_that_name_other_devices_or_none_replace_nothing() {
    let pushlark = Pushlark::start().await;
    for (node, form) in [
        ("fcm", json!({"service": "fcm", "device_id": "canary-t"})),
        ("apns", json!({"service": "apns", "device_id": "canary-t"})),
        ("app", json!({"service": "fcm", "device_id": "canary-t", "app": "other"})),
        ("calls", json!({"service": "apns", "voip_device_id": "canary-t"})),
        ("none", json!({})),
        ("none-2", json!({"secret": "canary"})),
    ] {
        assert_eq!(pushlark.json("/enable", PushRequest::new(BOB, node).form(form)).await.status, 200);
    }
    assert_eq!(pushlark.nodes(BOB).await.len(), 6);
    let same = json!({"service": "fcm", "device_id": " canary-t ", "app": "default", "mode": "dev", "topic": "t"});
    assert_eq!(pushlark.json("/enable", PushRequest::new(BOB, "again").form(same)).await.status, 200);
    assert_eq!(pushlark.nodes(BOB).await, ["again", "apns", "app", "calls", "none", "none-2"]);
}

#[tokio::test]
async fn many_replaced_devices_make_no_message_more_expensive() {
    let (pushlark, counter) = CallCounter::with_settings([("MAX_NODES", "2")]).await;
    for device in 0..40 {
        for node in ["a", "b"] {
            enable(&pushlark, BOB, node, &format!("phone-{device}")).await;
        }
    }
    let replaced = left_out(&pushlark, BOB).await;
    assert!(replaced.as_array().is_some_and(|replaced| replaced.len() <= 16), "{replaced}");
    counter.take();
    counter.take_items_read();
    pushlark.message(BOB, "canary Hi").await;
    pushlark.notified("phone-39", 1).await;
    pushlark.settled().await;
    assert_eq!(counter.take()["Query"], 1);
    let items = counter.take_items_read();
    assert!(items <= 2 + 16 + 1, "{items} items");
}

#[tokio::test]
async fn a_replaced_node_makes_room_and_a_new_token_replaces_too() {
    for reached in ["refuse-newest", "replace-oldest"] {
        let pushlark = Pushlark::with_settings([("MAX_NODES", "2"), ("MAX_NODES_REACHED", reached)]).await;
        enable(&pushlark, BOB, "old", "tablet").await;
        enable(&pushlark, BOB, "n1", "phone").await;
        enable(&pushlark, BOB, "n2", "phone").await;
        assert_eq!(pushlark.nodes(BOB).await, ["n2", "old"], "{reached}");
        // The node of the tablet gets the token of the phone.
        enable(&pushlark, BOB, "old", "phone").await;
        assert_eq!(pushlark.nodes(BOB).await, ["old"], "{reached}");
    }
}

#[tokio::test]
async fn of_simultaneous_enables_of_a_device_one_is_left() {
    let pushlark = Pushlark::start().await;
    for (node, device) in [("a", "1"), ("b", "2"), ("c", "3")] {
        enable(&pushlark, BOB, node, device).await;
    }
    join_all(["a", "b", "c", "d", "e"].map(async |node| {
        let request = PushRequest::new(BOB, node).device("phone");
        eventually("an answer", async || {
            let status = pushlark.json("/enable", request.clone()).await.status;
            (status == 200).then_some(())
        })
        .await;
    }))
    .await;
    assert_eq!(pushlark.nodes(BOB).await.len(), 1);
}

#[tokio::test]
async fn with_one_account_a_device_is_taken_from_other_users() {
    let pushlark = Pushlark::with_settings([ONE]).await;
    enable(&pushlark, BOB, "n", "phone").await;
    enable(&pushlark, BOB, "t", "tablet").await;
    enable(&pushlark, CAROL, "n", "phone").await;
    assert_eq!((pushlark.nodes(BOB).await, pushlark.nodes(CAROL).await), (vec!["t".to_owned()], vec!["n".to_owned()]));
    let taken = json!([{"jid": PUSH_HOST, "node": "n", "why": "disabled: another user enabled the device"}]);
    assert_eq!(left_out(&pushlark, BOB).await, taken);
    // Bob gets it back, at a node of another name.
    enable(&pushlark, BOB, "n2", "phone").await;
    assert_eq!(pushlark.nodes(CAROL).await.len(), 0);
    assert_eq!(left_out(&pushlark, BOB).await, json!([]));
    // Bob's node gets another token, so Carol takes nothing from him.
    enable(&pushlark, BOB, "n2", "new-phone").await;
    enable(&pushlark, CAROL, "n", "phone").await;
    assert_eq!(pushlark.nodes(BOB).await, ["n2", "t"]);
    assert_eq!(left_out(&pushlark, BOB).await, json!([]));
}

#[tokio::test]
async fn of_users_who_enable_a_device_at_once_one_has_it() {
    let pushlark = Pushlark::with_settings([ONE]).await;
    let users: Vec<_> = (0..8).map(|number| format!("u{number}@example.com")).collect();
    for round in 0..2 {
        join_all(users.iter().map(async |user| {
            let request = PushRequest::new(user, &format!("n{round}")).device("phone");
            eventually("an answer", async || {
                let status = pushlark.json("/enable", request.clone()).await.status;
                (status == 200).then_some(())
            })
            .await;
        }))
        .await;
        let mut have = 0;
        for user in &users {
            have += pushlark.nodes(user).await.len();
        }
        assert_eq!(have, 1);
    }
}

#[tokio::test]
async fn a_credential_of_a_domain_takes_devices_of_its_users_alone() {
    let secrets = "example.com=canary-secret-of-com,example.org=canary-secret-of-org,canary-secret-of-all";
    let pushlark = Pushlark::with_settings([ONE, ("WEBHOOK_SECRET", secrets)]).await;
    let enable = async |secret: &str, user: &str| {
        let reply = pushlark.json_as(secret, "/enable", PushRequest::new(user, "n").device("phone")).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    };
    let dora = "dora@example.org";
    let have = async || {
        let mut have = Vec::new();
        for user in [BOB, CAROL, dora] {
            if !pushlark.registrations(user).await.is_empty() {
                have.push(user);
            }
        }
        have
    };
    enable("canary-secret-of-org", dora).await;
    enable("canary-secret-of-com", BOB).await;
    assert_eq!(have().await, [BOB, dora]);
    enable("canary-secret-of-com", CAROL).await;
    assert_eq!(have().await, [CAROL, dora]);
    enable("canary-secret-of-all", BOB).await;
    assert_eq!(have().await, [BOB]);
}

#[tokio::test]
async fn a_disabled_or_removed_device_leaves_nothing_about_its_user() {
    let pushlark = Pushlark::with_settings([ONE]).await;
    for user in [BOB, CAROL, "dora@gone.example"] {
        enable(&pushlark, user, "n", user).await;
    }
    enable(&pushlark, BOB, "n", "new").await;
    assert!(register(&pushlark, "erin@example.com", "node", "erins").await.contains("type=\"result\""));
    assert_eq!(items_of(&pushlark, "device/").await, 4);
    assert_eq!(pushlark.json("/disable", PushRequest::new(BOB, "n")).await.status, 200);
    assert_eq!(items_of(&pushlark, "device/").await, 3);
    let removals =
        [Event::user_removed(CAROL), Event::domain_removed("gone.example"), Event::user_removed("erin@example.com")];
    for event in removals {
        pushlark.event(event).await;
    }
    eventually("no device", async || (items_of(&pushlark, "device/").await == 0).then_some(())).await;
    // The device can be enabled as before.
    enable(&pushlark, CAROL, "n", "new").await;
    assert_eq!(pushlark.nodes(CAROL).await, ["n"]);
}

#[tokio::test]
async fn a_push_node_of_the_same_device_is_deleted() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "1")]).await;
    for node in ["one", "two"] {
        assert!(register(&pushlark, BOB, node, "phone").await.contains("type=\"result\""), "{node}");
    }
    assert!(register(&pushlark, CAROL, "hers", "phone").await.contains("type=\"result\""));
    assert!(publish(&pushlark, "one").await.contains("<item-not-found "));
    assert!(publish(&pushlark, "two").await.contains("type=\"result\""));
    assert!(publish(&pushlark, "hers").await.contains("type=\"result\""));
    // The node can be registered again.
    assert!(register(&pushlark, BOB, "one", "phone").await.contains("type=\"result\""));
    assert!(publish(&pushlark, "two").await.contains("<item-not-found "));
}

#[tokio::test]
async fn with_one_account_push_nodes_and_registrations_lose_the_device() {
    let pushlark = Pushlark::with_settings([ONE]).await;
    assert!(register(&pushlark, BOB, "his", "phone").await.contains("type=\"result\""));
    assert!(register(&pushlark, CAROL, "hers", "phone").await.contains("type=\"result\""));
    assert!(publish(&pushlark, "his").await.contains("<item-not-found "));
    enable(&pushlark, BOB, "n", "phone").await;
    assert!(publish(&pushlark, "hers").await.contains("<item-not-found "));
    assert!(register(&pushlark, CAROL, "hers", "phone").await.contains("type=\"result\""));
    assert_eq!(pushlark.nodes(BOB).await.len(), 0);
    assert!(publish(&pushlark, "hers").await.contains("type=\"result\""));
}

#[tokio::test]
async fn a_push_node_is_not_taken_together_with_its_name() {
    let pushlark = Pushlark::with_settings([ONE]).await;
    assert!(register(&pushlark, BOB, "n", "phone").await.contains("type=\"result\""));
    // Bob's server would publish his messages to Carol's node.
    assert!(register(&pushlark, CAROL, "n", "phone").await.contains("<conflict "));
    assert!(publish(&pushlark, "n").await.contains("type=\"result\""));
    assert!(register(&pushlark, CAROL, "n2", "phone").await.contains("type=\"result\""));
    assert!(publish(&pushlark, "n").await.contains("<item-not-found "));
    assert!(publish(&pushlark, "n2").await.contains("type=\"result\""));
}

/// Registrations from before the setting are known to be of a device once they were enabled again.
#[tokio::test]
async fn one_account_costs_one_more_read_and_nothing_per_event() {
    let (pushlark, counter) = CallCounter::with_settings([ONE]).await;
    enable(&pushlark, BOB, "n", "phone").await;
    counter.take();
    enable(&pushlark, BOB, "n", "phone").await;
    let cost = |calls: &[(&str, u32)]| calls.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect();
    assert_eq!(counter.take(), cost(&[("GetItem", 1), ("Query", 1), ("TransactWriteItems", 1)]));
    pushlark.message(BOB, "canary Hi").await;
    pushlark.settled().await;
    assert_eq!(counter.take(), cost(&[("Query", 1), ("UpdateItem", 1)]));
}

#[tokio::test]
async fn many_registrations_of_one_device_from_an_earlier_version_are_replaced() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "200")]).await;
    let fields = [("service", "fcm"), ("device_id", "canary-phone")];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let options = PublishOptions::new(fields.into()).unwrap();
    enable(&pushlark, BOB, "first", "phone").await;
    let table = pushlark.stack.environment.text("TABLE_NAME").unwrap();
    let get = pushlark.stack.dynamodb.get_item().table_name(table);
    let key = |node: &str| format!("reg/{PUSH_HOST}/{node}");
    let text = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
    let item = get.key("pk", text(BOB)).key("sk", text(&key("first"))).send().await.unwrap().item.unwrap();
    for number in 0..120 {
        let node = format!("old-{number}");
        let mut item = item.clone();
        item.insert("sk".into(), text(&key(&node)));
        item.insert("node".into(), text(&node));
        pushlark.stack.dynamodb.put_item().table_name(table).set_item(Some(item)).send().await.unwrap();
    }
    let bob = parse_jid(BOB).unwrap();
    let registration = tests::registration("new", &[], 1);
    let registration = pushlark_model::Registration { options, ..registration };
    pushlark.store().register(&bob, &registration, |_| false).await.unwrap();
    assert_eq!(pushlark.nodes(BOB).await, ["new"]);
}

#[tokio::test]
async fn a_replaced_device_is_logged_without_its_token() {
    let Some(lines) = tests::logged("devices::a_replaced_device_is_logged_without_its_token") else {
        let pushlark = Pushlark::with_settings([ONE]).await;
        enable(&pushlark, BOB, "n1", "phone").await;
        enable(&pushlark, BOB, "n2", "phone").await;
        enable(&pushlark, CAROL, "n", "phone").await;
        register(&pushlark, BOB, "node", "phone").await;
        register(&pushlark, BOB, "node-2", "phone").await;
        register(&pushlark, CAROL, "node-3", "phone").await;
        return;
    };
    let of = |message: &str| {
        let lines = lines.iter().filter(|line| line["message"] == message);
        lines.map(|line| (line["user"].as_str().or(line["owner"].as_str()).unwrap(), &line["jid"])).collect::<Vec<_>>()
    };
    let host = json!(PUSH_HOST);
    assert_eq!(of("disabled: replaced by another node of the same device"), [(BOB, &host)]);
    assert_eq!(of("disabled: another user enabled the device"), [(BOB, &host), (CAROL, &host)]);
    assert_eq!(of("node deleted: replaced by another node of the same device"), [(BOB, &host)]);
    assert_eq!(of("node deleted: another user enabled the device"), [(BOB, &host)]);
}
