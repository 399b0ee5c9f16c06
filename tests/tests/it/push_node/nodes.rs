//! Creating, configuring and deleting push nodes.

use pushlark_xmpp::ns;
use tests::{Event, PushRequest, eventually, stanza};

use super::{
    ALICE, DEVICE, HOST, NODE_CONFIG, SUMMARY, assert_error, assert_result, create, publish, register, send_iq, set,
    stack, toggle,
};

#[tokio::test]
async fn a_node_name_that_is_too_long_is_not_found() {
    let pushlark = stack().await;
    let long = "n".repeat(2_000);
    for (kind, payload) in [
        ("get", format!("<query xmlns='http://jabber.org/protocol/disco#info' node='{long}'/>")),
        ("get", format!("<query xmlns='http://jabber.org/protocol/disco#items' node='{long}'/>")),
        ("set", publish(&long, &SUMMARY, &DEVICE)),
        ("get", stanza::pubsub_owner(&format!("<configure node='{long}'/>"))),
        ("set", stanza::pubsub_owner(&format!("<delete node='{long}'/>"))),
    ] {
        assert_error(&send_iq(&pushlark, ALICE, kind, "x", &payload).await, "cancel", "item-not-found", None);
    }
    let reply = set(&pushlark, ALICE, &stanza::pubsub(&format!("<create node='{long}'/>"))).await;
    assert_error(&reply, "modify", "bad-request", None);
}

/// A node's name is a secret of its owner.
#[tokio::test]
async fn disco_items_lists_no_nodes() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    for node in ["", " node='node'"] {
        let query = format!("<query xmlns='http://jabber.org/protocol/disco#items'{node}/>");
        let reply = send_iq(&pushlark, ALICE, "get", "d1", &query).await;
        assert_result(&reply);
        assert_eq!(reply.child("query", ns::DISCO_ITEMS).unwrap().children().count(), 0, "{reply}");
    }
}

#[tokio::test]
async fn affiliations_decide_who_may_publish() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let publish = publish("node", &SUMMARY, &DEVICE);
    let affiliate = async |by: &str, jid: &str, affiliation: &str| {
        let change = format!("<affiliation jid='{jid}' affiliation='{affiliation}'/>");
        set(&pushlark, by, &stanza::pubsub_owner(&format!("<affiliations node='node'>{change}</affiliations>"))).await
    };
    for (affiliation, may) in
        [("publish-only", true), ("publisher", true), ("member", false), ("outcast", false), ("none", false)]
    {
        assert_result(&affiliate(ALICE, "localhost", affiliation).await);
        let reply = set(&pushlark, "localhost", &publish).await;
        match may {
            true => assert_result(&reply),
            false => assert_error(&reply, "auth", "forbidden", None),
        }
    }
    for by in ["localhost", "bob@localhost"] {
        assert_error(&affiliate(by, by, "owner").await, "auth", "forbidden", None);
    }
    // A second owner has the rights of the first, who stays an owner.
    assert_result(&affiliate(ALICE, "bob@localhost", "owner").await);
    assert_result(&affiliate("bob@localhost/res", ALICE, "outcast").await);
    assert_result(&set(&pushlark, "alice@localhost/res", &publish).await);
    let list = send_iq(&pushlark, ALICE, "get", "g1", &stanza::pubsub_owner("<affiliations node='node'/>")).await;
    assert!(list.to_string().contains("affiliation=\"owner\" jid=\"alice@localhost\""), "{list}");

    let form = stanza::form(NODE_CONFIG, &[("pubsub#publish_model", "open")]);
    let open = stanza::pubsub_owner(&format!("<configure node='node'>{form}</configure>"));
    assert_result(&set(&pushlark, ALICE, &open).await);
    assert_result(&set(&pushlark, "anybody.example", &publish).await);
    assert_result(&affiliate(ALICE, "anybody.example", "outcast").await);
    assert_error(&set(&pushlark, "anybody.example", &publish).await, "auth", "forbidden", None);

    assert_error(
        &set(&pushlark, "carol@localhost", &stanza::pubsub_owner("<delete node='node'/>")).await,
        "auth",
        "forbidden",
        None,
    );
    assert_result(&set(&pushlark, ALICE, &stanza::pubsub_owner("<delete node='node'/>")).await);
    assert_error(&set(&pushlark, ALICE, &publish).await, "cancel", "item-not-found", None);
    create(&pushlark, "carol@localhost", "node").await;
}

#[tokio::test]
async fn a_generated_node_name_cannot_be_guessed() {
    let pushlark = stack().await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let reply = set(&pushlark, ALICE, &stanza::pubsub("<create type='push'/>")).await;
        let create = reply.child("pubsub", ns::PUBSUB).unwrap().child("create", ns::PUBSUB).unwrap();
        names.push(create.attribute("node").unwrap().to_owned());
    }
    assert!(names[0] != names[1] && names.iter().all(|name| name.len() >= 32), "{names:?}");
    assert_result(&set(&pushlark, ALICE, &publish(&names[0], &SUMMARY, &DEVICE)).await);
}

#[tokio::test]
async fn enabling_again_keeps_the_affiliations_of_the_node() {
    let pushlark = stack().await;
    let enable = toggle("enable", " node='node'");
    assert_result(&set(&pushlark, ALICE, &enable).await);
    let affiliations = "<affiliations node='node'><affiliation jid='muc.localhost' affiliation='publisher'/>\
                        <affiliation jid='localhost' affiliation='outcast'/></affiliations>";
    assert_result(&set(&pushlark, ALICE, &stanza::pubsub_owner(affiliations)).await);
    assert_result(&set(&pushlark, ALICE, &enable).await);
    let publish = publish("node", &SUMMARY, &[]);
    assert_result(&set(&pushlark, "muc.localhost", &publish).await);
    assert_error(&set(&pushlark, "localhost", &publish).await, "auth", "forbidden", None);
    assert_error(&set(&pushlark, "carol@localhost", &enable).await, "cancel", "conflict", None);
}

#[tokio::test]
async fn disabling_deletes_only_the_nodes_of_the_user() {
    let pushlark = stack().await;
    for (user, node) in [(ALICE, "one"), (ALICE, "two"), (ALICE, "three"), ("carol@localhost", "hers")] {
        let enable = toggle("enable", &format!(" node='{node}'"));
        assert_result(&set(&pushlark, user, &enable.replace(DEVICE[0].1, &format!("canary-{node}"))).await);
    }
    let left = async || {
        let mut left = Vec::new();
        for node in ["one", "two", "three", "hers"] {
            let reply = set(&pushlark, "localhost", &publish(node, &SUMMARY, &[])).await;
            left.extend((reply.attribute("type") == Some("result")).then_some(node));
        }
        left
    };
    for node in [" node='one'", " node='hers'", " node='none'"] {
        assert_result(&set(&pushlark, "alice@localhost/phone", &toggle("disable", node)).await);
    }
    assert_eq!(left().await, ["two", "three", "hers"]);
    assert_result(&set(&pushlark, ALICE, &toggle("disable", "")).await);
    assert_eq!(left().await, ["hers"]);
    assert_error(&set(&pushlark, ALICE, &toggle("disable", " node=''")).await, "modify", "bad-request", None);
}

#[tokio::test]
async fn a_full_list_of_affiliations_can_shrink() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let affiliate = async |from: usize, to: usize, affiliation: &str| {
        let list: String = (from..to)
            .map(|number| format!("<affiliation jid='s{number}.example' affiliation='{affiliation}'/>"))
            .collect();
        set(&pushlark, ALICE, &stanza::pubsub_owner(&format!("<affiliations node='node'>{list}</affiliations>"))).await
    };
    for from in [0, 25, 50, 75] {
        assert_result(&affiliate(from, from + 25, "publisher").await);
    }
    assert_error(&affiliate(100, 101, "publisher").await, "cancel", "not-allowed", None);
    assert_result(&affiliate(0, 1, "none").await);
    assert_result(&affiliate(100, 101, "publisher").await);
}

#[tokio::test]
async fn an_invalid_configuration_is_refused_and_a_cancelled_one_changes_nothing() {
    let pushlark = stack().await;
    create(&pushlark, ALICE, "node").await;
    let configure = |form: &str| stanza::pubsub_owner(&format!("<configure node='node'>{form}</configure>"));
    let wrong = configure(&stanza::form(NODE_CONFIG, &[("pubsub#publish_model", "nonsense")]));
    assert_error(&set(&pushlark, ALICE, &wrong).await, "modify", "not-acceptable", None);
    let open = configure(&stanza::form(NODE_CONFIG, &[("pubsub#publish_model", "open")]));
    assert_result(&set(&pushlark, ALICE, &open.replace("'submit'", "'cancel'")).await);
    let read = async || {
        send_iq(&pushlark, ALICE, "get", "g1", &stanza::pubsub_owner("<configure node='node'/>")).await.to_string()
    };
    assert!(!read().await.contains("open"));
    assert_result(&set(&pushlark, ALICE, &open).await);
    assert!(read().await.contains("open"));
}

#[tokio::test]
async fn unknown_fields_of_a_configuration_are_ignored() {
    let pushlark = stack().await;
    let children = "<field var='pubsub#children'><value>a</value><value>b</value></field>";
    let form = stanza::form_of(NODE_CONFIG, &format!("{children}{}", stanza::field("pubsub#publish_model", "open")));
    let create = stanza::pubsub(&format!("<create node='node' type='push'/><configure>{form}</configure>"));
    assert_result(&set(&pushlark, ALICE, &create).await);
    assert_result(&set(&pushlark, "anybody.example", &publish("node", &SUMMARY, &DEVICE)).await);
}

#[tokio::test]
async fn removing_the_owner_or_its_domain_removes_the_nodes() {
    let pushlark = stack().await;
    for (user, event) in [
        ("dora@gone.example", Event::domain_removed("gone.example")),
        ("bob@localhost", Event::user_removed("bob@localhost")),
    ] {
        create(&pushlark, user, user).await;
        create(&pushlark, ALICE, &format!("not {user}")).await;
        // A user does not become the owner of a node that exists already.
        let existing = stanza::pubsub(&format!("<create node='not {user}'/>"));
        assert_error(&set(&pushlark, user, &existing).await, "cancel", "conflict", None);
        pushlark.event(event).await;
        eventually("the removal of the node", async || {
            let reply = set(&pushlark, user, &publish(user, &SUMMARY, &DEVICE)).await;
            (reply.attribute("type") == Some("error")).then_some(())
        })
        .await;
        assert_result(&set(&pushlark, ALICE, &publish(&format!("not {user}"), &SUMMARY, &DEVICE)).await);
    }
}

#[tokio::test]
async fn a_registration_at_a_virtual_host_is_not_a_push_node() {
    let pushlark = stack().await;
    pushlark.json("/enable", PushRequest::new(ALICE, "n").at(HOST).device("phone")).await;
    register(&pushlark, "n", "phone").await;
    assert_eq!(pushlark.registrations(ALICE).await.len(), 1);
    assert_eq!(pushlark.registrations("bob@localhost").await.len(), 0);
}
