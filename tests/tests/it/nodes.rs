//! How many registrations and push nodes a user has, whatever comes at once.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use pushlark_plugin::{PublishOptions, PublishService};
use pushlark_settings::Environment;
use pushlark_store::{Store, micros};
use pushlark_xmpp::{BareJid, Jid};
use serde_json::{Value, json};
use tests::{Meter, Pushlark, eventually};
use time::OffsetDateTime;

const BOB: &str = "bob@example.com";
const AT_ONCE: usize = 40;

/// Enables, as often as the table is too busy, and gives the status.
async fn enable(pushlark: &Pushlark, user: &str, node: &str) -> u16 {
    let request = json!({"user": user, "jid": "push.example.com", "node": node});
    eventually("an answer", async || {
        let status = pushlark.json("/enable", request.clone()).await.status;
        (status != 503).then_some(status)
    })
    .await
}

/// Enables `AT_ONCE` nodes of Bob's side by side, some by sessions of their own, and gives the nodes by status.
async fn enable_at_once(pushlark: &Pushlark) -> HashMap<u16, BTreeSet<String>> {
    let enabled = join_all((0..AT_ONCE).map(async |number| {
        let node = format!("new-{number}");
        let user = if number % 4 == 0 { format!("{BOB}/{number}") } else { BOB.to_owned() };
        (enable(pushlark, &user, &node).await, node)
    }));
    let mut nodes = HashMap::<_, BTreeSet<_>>::new();
    for (status, node) in enabled.await {
        nodes.entry(status).or_default().insert(node);
    }
    nodes
}

async fn nodes(pushlark: &Pushlark) -> BTreeSet<String> {
    let url = format!("{}/enable?user={BOB}", pushlark.stack.url);
    let list: Value = pushlark.http.get(url).send().await.unwrap().json().await.unwrap();
    list["registrations"].as_array().unwrap().iter().map(|one| one["node"].as_str().unwrap().to_owned()).collect()
}

fn named(prefix: &str, numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("{prefix}-{number}")).collect()
}

#[tokio::test]
async fn of_forty_at_once_as_many_are_enabled_as_may_be_and_the_others_are_refused() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "15"), ("MAX_NODES_REACHED", "refuse-newest")]).await;
    for number in 0..5 {
        assert_eq!(enable(&pushlark, BOB, &format!("old-{number}")).await, 200);
    }
    let answered = enable_at_once(&pushlark).await;
    let expected: BTreeSet<_> = answered[&200].union(&named("old", 0..5)).cloned().collect();
    assert_eq!((answered[&200].len(), answered[&409].len()), (10, 30));
    assert_eq!(nodes(&pushlark).await, expected);
}

#[tokio::test]
async fn forty_at_once_replace_those_that_were_enabled_longest_ago() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "10")]).await;
    for number in 0..6 {
        assert_eq!(enable(&pushlark, BOB, &format!("old-{number}")).await, 200);
    }
    let before = micros(OffsetDateTime::now_utc());
    assert_eq!(enable_at_once(&pushlark).await[&200].len(), AT_ONCE);
    let left = nodes(&pushlark).await;
    assert!(left.len() == 10 && left.is_subset(&named("new", 0..AT_ONCE)), "{left:?}");
    // Whatever clocks say, a newer one is newer.
    let snapshot = pushlark.store().snapshot(&BareJid::new(BOB).unwrap()).await.unwrap();
    let times: BTreeSet<_> = snapshot.services.iter().map(|service| service.created_at).collect();
    assert!(times.len() == 10 && times.iter().all(|time| *time > before), "{times:?}");
}

#[tokio::test]
async fn the_last_to_be_enabled_stay_even_if_the_clocks_of_two_functions_differ() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "3")]).await;
    let (store, bob) = (pushlark.store(), Jid::new(BOB).unwrap());
    for (node, clock) in [("a", 900), ("b", 500), ("c", 100), ("a", 90), ("d", 50), ("e", 10)] {
        store.register(&bob, &PublishService { created_at: clock, ..service(node) }).await.unwrap();
    }
    assert_eq!(nodes(&pushlark).await, BTreeSet::from(["a", "d", "e"].map(str::to_owned)));
}

#[tokio::test]
async fn forty_at_once_that_enable_and_disable_leave_no_count_behind() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "3"), ("MAX_NODES_REACHED", "refuse-newest")]).await;
    join_all((0..AT_ONCE).map(async |number| {
        let node = format!("new-{}", number % 5);
        if enable(&pushlark, BOB, &node).await == 200 {
            let disable = json!({"user": BOB, "jid": "push.example.com", "node": node});
            assert_eq!(pushlark.json("/disable", disable).await.status, 200);
        }
        assert!(nodes(&pushlark).await.len() <= 3);
    }))
    .await;
    let disable = json!({"user": BOB, "jid": "push.example.com"});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    for (node, status) in [("a", 200), ("b", 200), ("c", 200), ("d", 409)] {
        assert_eq!(enable(&pushlark, BOB, node).await, status, "{node}");
    }
}

fn push_node_iq(host: &str, payload: &str) -> String {
    format!("<iq type='set' id='1' from='{BOB}' to='{host}'>{payload}</iq>")
}

fn create(node: &str) -> String {
    format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'><create node='{node}'/></pubsub>")
}

fn register(host: &str, node: &str) -> String {
    format!(
        "<enable xmlns='urn:xmpp:push:0' jid='{host}' node='{node}'><x xmlns='jabber:x:data' type='submit'>\
         <field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>\
         <field var='service'><value>fcm</value></field><field var='device_id'><value>planted</value></field></x></enable>"
    )
}

#[tokio::test]
async fn of_forty_push_nodes_at_once_a_user_gets_as_many_as_may_be_at_all_services_together() {
    let hosts = ["push.example.com", "one.example.net", "two.example.net", "three.example.net"];
    let settings = [("MAX_NODES", "10"), ("VIRTUAL_PUBSUB_HOSTS", &hosts.join(","))];
    let pushlark = Pushlark::with_settings(settings).await;
    let ask = async |host: &str, payload: &str| {
        eventually("an answer", async || {
            let body = pushlark.post("/pubsub", "text/xml", push_node_iq(host, payload)).await.body;
            (!body.contains("resource-constraint")).then_some(body)
        })
        .await
    };
    let at_once = (0..AT_ONCE).map(async |number| {
        let (host, node) = (hosts[number % hosts.len()], format!("n{}", number / hosts.len()));
        let payload = if number % 3 == 0 { register(host, &node) } else { create(&node) };
        let body = ask(host, &payload).await;
        assert!(body.contains("type=\"result\"") || body.contains("<not-allowed "), "{body}");
        (host, node, body.contains("type=\"result\""))
    });
    let placed = join_all(at_once).await;
    assert_eq!(placed.iter().filter(|(.., placed)| *placed).count(), 10);
    for (host, node, placed) in &placed {
        let query = format!("<query xmlns='http://jabber.org/protocol/disco#info' node='{node}'/>");
        let get = push_node_iq(host, &query).replace("'set'", "'get'");
        let body = pushlark.post("/pubsub", "text/xml", get).await.body;
        assert_eq!(body.contains("type=\"result\""), *placed, "{host} {node}: {body}");
    }
    // One that is deleted makes room at another service, for one.
    let (host, node, _) = placed.iter().find(|(.., placed)| *placed).unwrap();
    let delete = format!("<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><delete node='{node}'/></pubsub>");
    assert!(ask(host, &delete).await.contains("type=\"result\""));
    let other = hosts.iter().find(|other| *other != host).unwrap();
    assert!(ask(other, &create("last")).await.contains("type=\"result\""));
    assert!(ask(host, &create("one too many")).await.contains("<not-allowed "));
}

/// A store with settings of its own on the table of a stack.
fn store(pushlark: &Pushlark, settings: &[(&str, &str)]) -> Store {
    let mut environment = Environment::from_iter(settings.iter().copied());
    environment.extend([("TABLE_NAME", "pushlark")]);
    Store::from_environment(pushlark.stack.dynamodb.clone(), &environment).unwrap()
}

fn service(node: &str) -> PublishService {
    let options = PublishOptions::new(Default::default()).unwrap();
    PublishService { jid: BareJid::new("push.example.com").unwrap(), node: node.into(), options, created_at: 0 }
}

#[tokio::test]
async fn a_lowered_bound_holds_from_the_next_enable_on_and_all_are_read_until_then() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "300")]).await;
    let bob = Jid::new(BOB).unwrap();
    let before = store(&pushlark, &[("MAX_NODES", "300")]);
    for number in 0..110 {
        before.register(&bob, &service(&format!("old-{number}"))).await.unwrap();
    }
    let refusing = store(&pushlark, &[("MAX_NODES", "2"), ("MAX_NODES_REACHED", "refuse-newest")]);
    assert_eq!(refusing.register(&bob, &service("old-7")).await.unwrap(), pushlark_store::Registered::Stored);
    assert_eq!(refusing.register(&bob, &service("new")).await.unwrap(), pushlark_store::Registered::Refused);
    assert_eq!(refusing.snapshot(&bob.to_bare()).await.unwrap().services.len(), 110);
    let replacing = store(&pushlark, &[("MAX_NODES", "4")]);
    assert_eq!(replacing.register(&bob, &service("new")).await.unwrap(), pushlark_store::Registered::Stored);
    let mut expected = named("old", [7, 108, 109]);
    expected.insert("new".into());
    assert_eq!(nodes(&pushlark).await, expected);
}

#[tokio::test]
async fn a_registration_whose_transaction_is_not_complete_yet_is_counted() {
    let settings = [("MAX_NODES", "2"), ("MAX_NODES_REACHED", "refuse-newest")];
    let (pushlark, meter) = Meter::with_settings(settings).await;
    assert_eq!(enable(&pushlark, BOB, "a").await, 200);
    assert_eq!(enable(&pushlark, BOB, "b").await, 200);
    meter.hide_next("reg/push.example.com/b");
    assert_eq!(enable(&pushlark, BOB, "c").await, 409);
    meter.assert_nothing_left();
    assert_eq!(nodes(&pushlark).await, BTreeSet::from(["a", "b"].map(str::to_owned)));
    // It does not matter once it is gone for good.
    let disable = json!({"user": BOB, "jid": "push.example.com", "node": "b"});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_eq!(enable(&pushlark, BOB, "c").await, 200);
}

#[tokio::test]
async fn writes_that_meet_a_transaction_are_tried_again() {
    let (pushlark, meter) = Meter::with_settings([]).await;
    let conflict = json!({"CancellationReasons": [{"Code": "TransactionConflict"}, {"Code": "None"}]});
    meter.refuse_next("TransactWriteItems", "TransactionCanceledException", conflict);
    let reply =
        pushlark.json("/enable", json!({"user": "bob@example.com/phone", "jid": "push.example.com", "node": "n"}));
    assert_eq!(reply.await.status, 200);
    meter.refuse_next("UpdateItem", "TransactionConflictException", json!({}));
    pushlark.event(json!({"type": "presence", "jid": "bob@example.com/phone", "status": "offline"})).await;
    meter.refuse_next("DeleteItem", "TransactionConflictException", json!({}));
    let disable = json!({"user": BOB, "jid": "push.example.com", "node": "n"});
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    meter.assert_nothing_left();
    // What is wrong for good is not.
    let invalid = json!({"CancellationReasons": [{"Code": "ValidationError", "Message": "planted"}]});
    meter.refuse_next("TransactWriteItems", "TransactionCanceledException", invalid);
    pushlark.json("/enable", json!({"user": BOB, "jid": "push.example.com", "node": "n"})).await.problem(503);
}

#[tokio::test]
async fn registrations_of_an_earlier_version_count() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "3"), ("PLUGIN", "enhanced")]).await;
    for node in ["a", "b", "c"] {
        pushlark.enable("bob@example.com/phone", node).await;
    }
    // What an earlier version wrote had neither the item nor the attribute.
    let dynamodb = &pushlark.stack.dynamodb;
    let key = |sk: &str| HashMap::from([("pk", BOB), ("sk", sk)].map(|(k, v)| (k.into(), AttributeValue::S(v.into()))));
    dynamodb.delete_item().table_name("pushlark").set_key(Some(key("reg"))).send().await.unwrap();
    for node in ["a", "b", "c"] {
        let update =
            dynamodb.update_item().table_name("pushlark").set_key(Some(key(&format!("reg/push.example.com/{node}"))));
        update.update_expression("REMOVE first_enabled_at").send().await.unwrap();
    }
    let lost = json!({"type": "unacknowledged", "from": "alice@example.com/pc", "to": "bob@example.com/phone",
        "chat": "chat", "body": "lost"});
    pushlark.event(lost).await;
    pushlark.notified("c", 1).await;
    pushlark.enable(BOB, "c").await;
    pushlark.enable(BOB, "d").await;
    assert_eq!(nodes(&pushlark).await, BTreeSet::from(["b", "c", "d"].map(str::to_owned)));
}
