//! The limit of registrations and push nodes of a user (`MAX_NODES`), also for simultaneous requests.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use pushlark_model::time::to_micros;
use pushlark_settings::Environment;
use pushlark_store::{Registered, Store};
use pushlark_xmpp::parse_jid;
use serde_json::json;
use tests::{BOB, BOBS_PHONE, CallCounter, Event, PushRequest, Pushlark, XMPP, eventually, registration, stanza};
use time::OffsetDateTime;

const AT_ONCE: usize = 40;

/// Enables a node, repeats the request while the table is too busy, and returns the status.
async fn enable(pushlark: &Pushlark, user: &str, node: &str) -> u16 {
    let request = PushRequest::new(user, node);
    eventually("an answer", async || {
        let status = pushlark.json("/enable", request.clone()).await.status;
        (status != 503).then_some(status)
    })
    .await
}

/// Enables `AT_ONCE` nodes of Bob side by side, some in a session of their own, and returns the nodes by status.
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
    pushlark.listed_nodes(BOB).await.into_iter().collect()
}

fn named(prefix: &str, numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("{prefix}-{number}")).collect()
}

#[tokio::test]
async fn forty_simultaneous_enables_succeed_up_to_max_nodes() {
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
async fn forty_simultaneous_enables_replace_the_oldest_nodes() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "10")]).await;
    for number in 0..6 {
        assert_eq!(enable(&pushlark, BOB, &format!("old-{number}")).await, 200);
    }
    let before = to_micros(OffsetDateTime::now_utc());
    assert_eq!(enable_at_once(&pushlark).await[&200].len(), AT_ONCE);
    let left = nodes(&pushlark).await;
    assert!(left.len() == 10 && left.is_subset(&named("new", 0..AT_ONCE)), "{left:?}");
    // A newer registration has a newer time, whatever the clocks say.
    let times: BTreeSet<_> = pushlark.registrations(BOB).await.iter().map(|one| one.created_at).collect();
    assert!(times.len() == 10 && times.iter().all(|time| *time > before), "{times:?}");
}

#[tokio::test]
async fn the_last_enabled_nodes_stay_when_clocks_differ() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "3")]).await;
    let (store, bob) = (pushlark.store(), parse_jid(BOB).unwrap());
    for (node, clock) in [("a", 900), ("b", 500), ("c", 100), ("a", 90), ("d", 50), ("e", 10)] {
        store.register(&bob, &registration(node, &[], clock), |_| false).await.unwrap();
    }
    assert_eq!(nodes(&pushlark).await, BTreeSet::from(["a", "d", "e"].map(str::to_owned)));
}

#[tokio::test]
async fn simultaneous_enables_and_disables_keep_the_node_count_right() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "3"), ("MAX_NODES_REACHED", "refuse-newest")]).await;
    join_all((0..AT_ONCE).map(async |number| {
        let node = format!("new-{}", number % 5);
        if enable(&pushlark, BOB, &node).await == 200 {
            let disable = PushRequest::new(BOB, &node);
            assert_eq!(pushlark.json("/disable", disable).await.status, 200);
        }
        assert!(nodes(&pushlark).await.len() <= 3);
    }))
    .await;
    let disable = PushRequest::all_nodes(BOB);
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    for (node, status) in [("a", 200), ("b", 200), ("c", 200), ("d", 409)] {
        assert_eq!(enable(&pushlark, BOB, node).await, status, "{node}");
    }
}

fn push_node_iq(host: &str, payload: &str) -> String {
    stanza::iq("set", BOB, host, payload)
}

fn register(host: &str, node: &str) -> String {
    let device = doubles::canary(&format!("{node}-{host}"));
    stanza::enable(host, node, &stanza::publish_options(&[("service", "fcm"), ("device_id", &device)]))
}

#[tokio::test]
async fn forty_simultaneous_push_nodes_succeed_up_to_max_nodes_at_all_hosts() {
    let hosts = ["push.example.com", "one.example.net", "two.example.net", "three.example.net"];
    let settings = [("MAX_NODES", "10"), ("VIRTUAL_PUBSUB_HOSTS", &hosts.join(","))];
    let pushlark = Pushlark::with_settings(settings).await;
    let ask = async |host: &str, payload: &str| {
        eventually("an answer", async || {
            let body = pushlark.post("/pubsub", XMPP, push_node_iq(host, payload)).await.body;
            (!body.contains("resource-constraint")).then_some(body)
        })
        .await
    };
    let at_once = (0..AT_ONCE).map(async |number| {
        let (host, node) = (hosts[number % hosts.len()], format!("n{}", number / hosts.len()));
        let payload = if number % 3 == 0 { register(host, &node) } else { stanza::create_node(&node) };
        let body = ask(host, &payload).await;
        assert!(body.contains("type=\"result\"") || body.contains("<not-allowed "), "{body}");
        (host, node, body.contains("type=\"result\""))
    });
    let placed = join_all(at_once).await;
    assert_eq!(placed.iter().filter(|(.., placed)| *placed).count(), 10);
    for (host, node, placed) in &placed {
        let query = format!("<query xmlns='http://jabber.org/protocol/disco#info' node='{node}'/>");
        let get = push_node_iq(host, &query).replace("'set'", "'get'");
        let body = pushlark.post("/pubsub", XMPP, get).await.body;
        assert_eq!(body.contains("type=\"result\""), *placed, "{host} {node}: {body}");
    }
    // A deleted node makes room for one node at another service.
    let (host, node, _) = placed.iter().find(|(.., placed)| *placed).unwrap();
    let delete = stanza::pubsub_owner(&format!("<delete node='{node}'/>"));
    assert!(ask(host, &delete).await.contains("type=\"result\""));
    let other = hosts.iter().find(|other| *other != host).unwrap();
    assert!(ask(other, &stanza::create_node("last")).await.contains("type=\"result\""));
    assert!(ask(host, &stanza::create_node("one too many")).await.contains("<not-allowed "));
}

/// Returns a store with other settings for the table of a stack.
fn store(pushlark: &Pushlark, settings: &[(&str, &str)]) -> Store {
    let mut environment = Environment::from_iter(settings.iter().copied());
    environment.extend([("TABLE_NAME", "pushlark")]);
    Store::from_environment(pushlark.stack.dynamodb.clone(), &environment).unwrap()
}

#[tokio::test]
async fn a_lowered_max_nodes_applies_at_the_next_enable() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "300")]).await;
    let bob = parse_jid(BOB).unwrap();
    let before = store(&pushlark, &[("MAX_NODES", "300")]);
    for number in 0..110 {
        before.register(&bob, &registration(&format!("old-{number}"), &[], 0), |_| false).await.unwrap();
    }
    let refusing = store(&pushlark, &[("MAX_NODES", "2"), ("MAX_NODES_REACHED", "refuse-newest")]);
    assert_eq!(refusing.register(&bob, &registration("old-7", &[], 0), |_| false).await.unwrap(), Registered::Stored);
    assert_eq!(refusing.register(&bob, &registration("new", &[], 0), |_| false).await.unwrap(), Registered::Refused);
    assert_eq!(refusing.snapshot(&bob.to_bare()).await.unwrap().registrations.len(), 110);
    let replacing = store(&pushlark, &[("MAX_NODES", "4")]);
    assert_eq!(replacing.register(&bob, &registration("new", &[], 0), |_| false).await.unwrap(), Registered::Stored);
    let mut expected = named("old", [7, 108, 109]);
    expected.insert("new".into());
    assert_eq!(nodes(&pushlark).await, expected);
}

#[tokio::test]
async fn a_registration_of_an_uncommitted_transaction_is_counted() {
    let settings = [("MAX_NODES", "2"), ("MAX_NODES_REACHED", "refuse-newest")];
    let (pushlark, counter) = CallCounter::with_settings(settings).await;
    assert_eq!(enable(&pushlark, BOB, "a").await, 200);
    assert_eq!(enable(&pushlark, BOB, "b").await, 200);
    counter.hide_next("reg/push.example.com/b");
    assert_eq!(enable(&pushlark, BOB, "c").await, 409);
    counter.assert_all_failures_occurred();
    assert_eq!(nodes(&pushlark).await, BTreeSet::from(["a", "b"].map(str::to_owned)));
    // It is not counted after it is disabled.
    let disable = PushRequest::new(BOB, "b");
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    assert_eq!(enable(&pushlark, BOB, "c").await, 200);
}

#[tokio::test]
async fn a_write_that_conflicts_with_a_transaction_is_retried() {
    let (pushlark, counter) = CallCounter::with_settings([]).await;
    let conflict = json!({"CancellationReasons": [{"Code": "TransactionConflict"}, {"Code": "None"}]});
    counter.refuse_next("TransactWriteItems", "TransactionCanceledException", conflict);
    let reply = pushlark.json("/enable", PushRequest::new(BOBS_PHONE, "n"));
    assert_eq!(reply.await.status, 200);
    counter.refuse_next("UpdateItem", "TransactionConflictException", json!({}));
    pushlark.event(Event::presence(BOBS_PHONE, "offline")).await;
    counter.refuse_next("DeleteItem", "TransactionConflictException", json!({}));
    let disable = PushRequest::new(BOB, "n");
    assert_eq!(pushlark.json("/disable", disable).await.status, 200);
    counter.assert_all_failures_occurred();
    // A permanent error is not retried.
    let invalid = json!({"CancellationReasons": [{"Code": "ValidationError", "Message": "canary"}]});
    counter.refuse_next("TransactWriteItems", "TransactionCanceledException", invalid);
    pushlark.json("/enable", PushRequest::new(BOB, "n")).await.problem(503);
}

#[tokio::test]
async fn registrations_of_an_earlier_version_are_counted() {
    let pushlark = Pushlark::with_settings([("MAX_NODES", "3"), ("PLUGIN", "enhanced")]).await;
    for node in ["a", "b", "c"] {
        pushlark.enable(BOBS_PHONE, node).await;
    }
    // An earlier version wrote neither this item nor this attribute.
    let dynamodb = &pushlark.stack.dynamodb;
    let key = |sk: &str| HashMap::from([("pk", BOB), ("sk", sk)].map(|(k, v)| (k.into(), AttributeValue::S(v.into()))));
    dynamodb.delete_item().table_name("pushlark").set_key(Some(key("reg"))).send().await.unwrap();
    for node in ["a", "b", "c"] {
        let update =
            dynamodb.update_item().table_name("pushlark").set_key(Some(key(&format!("reg/push.example.com/{node}"))));
        update.update_expression("REMOVE first_enabled_at").send().await.unwrap();
    }
    let lost = Event::unacknowledged(BOBS_PHONE, "lost");
    pushlark.event(lost).await;
    pushlark.notified("c", 1).await;
    pushlark.enable(BOB, "c").await;
    pushlark.enable(BOB, "d").await;
    assert_eq!(nodes(&pushlark).await, BTreeSet::from(["b", "c", "d"].map(str::to_owned)));
}
