//! Compares Pushlark's answers to enable and disable requests and at the push node with recorded answers of MongooseIM 6.8.0.
//! `docs/mongooseim.md` must list the differences.

use std::collections::{BTreeMap, BTreeSet};

use pushlark_xmpp::{Element, ns};
use serde::Deserialize;
use serde_json::Value;
use tests::{PushRequest, Pushlark, XMPP};

const PAGE: &str = include_str!("../../../../docs/mongooseim.md");
const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// Returns an answer in the format of the recordings: `result`, or `error <condition>/<type>` and, if there is one,
/// ` + <condition of PubSub>`.
fn answer_of(reply: &str) -> String {
    let reply = Element::parse(reply).unwrap();
    let Some(error) = reply.children().find(|child| child.name() == "error") else {
        return reply.attribute("type").unwrap().to_owned();
    };
    let of = |namespace| error.children().find(|child| child.namespace() == namespace && child.name() != "text");
    let condition = of(STANZA_ERRORS).unwrap().name();
    let detail = of(ns::PUBSUB_ERRORS).map(|detail| format!(" + {}", detail.name())).unwrap_or_default();
    format!("error {condition}/{}{detail}", error.attribute("type").unwrap())
}

/// Returns an answer in the format of the page: `result`, or the conditions.
fn page_format(answer: &str) -> String {
    let Some(error) = answer.strip_prefix("error ") else { return answer.into() };
    let conditions = error.split(" + ").map(|condition| condition.split('/').next().unwrap());
    conditions.collect::<Vec<_>>().join(", ")
}

/// Returns the answer in a table cell, without the remark in brackets.
fn answer_in_cell(cell: &str) -> String {
    cell.split(" (").next().unwrap().replace('`', "")
}

/// Returns the table below a heading of the page: by case, the answers of MongooseIM and of Pushlark.
fn differences(heading: &str) -> BTreeMap<String, (String, String)> {
    let section = PAGE.split_once(&format!("\n### {heading}\n")).expect(heading).1;
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    let mut differences = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [cases, theirs, ours, _reason] = cells[..] else { panic!("{row}") };
        for case in cases.split("; ") {
            let answers = (answer_in_cell(theirs), answer_in_cell(ours));
            assert!(differences.insert(case.to_owned(), answers).is_none(), "{case} is listed twice");
        }
    }
    assert!(!differences.is_empty());
    differences
}

/// Compares the answers to a case, and collects the errors, so that one run shows all of them. The page may list equal
/// answers if the stored registrations differ.
fn compare(
    case: &str,
    (theirs, ours): (&str, &str),
    stores_the_same: bool,
    listed: &mut BTreeMap<String, (String, String)>,
    wrong: &mut Vec<String>,
) {
    match listed.remove(case) {
        None if theirs == ours && stores_the_same => {}
        None => {
            wrong.push(format!("{case}: MongooseIM answers {theirs}, Pushlark {ours}, and the page does not list this"))
        }
        Some((theirs_listed, ours_listed)) => {
            if (theirs_listed.as_str(), ours_listed.as_str()) != (&*page_format(theirs), &*page_format(ours))
                || theirs == ours && stores_the_same
            {
                wrong.push(format!(
                    "{case}: MongooseIM answers {theirs}, Pushlark {ours}; the page lists {theirs_listed} and {ours_listed}"
                ));
            }
        }
    }
}

#[derive(Deserialize)]
struct Enabling {
    case: String,
    iq: String,
    answer: String,
    stored: BTreeSet<Stored>,
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    jid: String,
    node: String,
    fields: Vec<String>,
}

#[tokio::test]
async fn answers_to_enable_and_disable_match_mongooseim() {
    const USER: &str = "bob@localhost";
    let cases: Vec<Enabling> =
        serde_json::from_str(include_str!("../../../fixtures/mongooseim/enabling.json")).unwrap();
    let settings = [("VIRTUAL_PUBSUB_HOSTS", "push.localhost"), ("PUBSUB_URL", "http://127.0.0.1:9/rest")];
    let pushlark = Pushlark::with_settings(settings).await;
    let (mut listed, mut wrong) = (differences("To enable and disable"), Vec::new());
    for Enabling { case, iq, answer, stored } in cases {
        for before in registrations(&pushlark, USER).await {
            let disable = PushRequest::new(USER, &before.node).at(&before.jid);
            assert_eq!(pushlark.json("/disable", disable).await.status, 200);
        }
        let is_disable = case.starts_with("DISABLE");
        if is_disable {
            let enable = PushRequest::new(USER, "n1").at("push.localhost").device("T1");
            assert_eq!(pushlark.json("/enable", enable).await.status, 200);
        }
        let iq = iq.replacen("<iq ", &format!("<iq xmlns='jabber:client' from='{USER}/phone' "), 1);
        let path = if is_disable { "/disable" } else { "/enable" };
        let reply = pushlark.post(path, XMPP, iq).await;
        let ours = match reply.status {
            200 => answer_of(&reply.body),
            400 => "error bad-request/modify".into(),
            status => panic!("{case}: {status} {}", reply.body),
        };
        let kept = registrations(&pushlark, USER).await;
        compare(&case, (&answer, &ours), kept == stored, &mut listed, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(listed.is_empty(), "the page lists cases that are unknown: {listed:?}");
}

async fn registrations(pushlark: &Pushlark, user: &str) -> BTreeSet<Stored> {
    let stored = |registration: &Value| Stored {
        jid: registration["jid"].as_str().unwrap().into(),
        node: registration["node"].as_str().unwrap().into(),
        fields: registration["form"].as_object().unwrap().keys().cloned().collect(),
    };
    pushlark.listed(user).await.iter().map(stored).collect()
}

#[derive(Deserialize)]
struct AtNode {
    case: String,
    r#type: String,
    from: String,
    payload: String,
    answer: String,
    notifies: bool,
}

#[tokio::test]
async fn answers_of_the_push_node_match_mongooseim() {
    let cases: Vec<AtNode> = serde_json::from_str(include_str!("../../../fixtures/mongooseim/push-node.json")).unwrap();
    let pushlark = Pushlark::with_settings([("VIRTUAL_PUBSUB_HOSTS", "push.real.test")]).await;
    let (mut listed, mut wrong, mut notified) = (differences("At the push node"), Vec::new(), 0);
    for (number, AtNode { case, r#type, from, payload, answer, notifies }) in cases.into_iter().enumerate() {
        let payload = payload.replace("<value>PD</value>", "<value>canary-PD</value>");
        let iq = format!("<iq type='{type}' from='{from}' to='push.real.test' id='k{number}'>{payload}</iq>");
        let reply = pushlark.post("/pubsub", XMPP, iq).await;
        assert_eq!(reply.status, 200, "{case}: {}", reply.body);
        let ours = answer_of(&reply.body);
        let is_publish = payload.contains("<publish ");
        assert_eq!(is_publish && answer == "result", notifies, "{case}");
        notified += usize::from(is_publish && ours == "result");
        compare(&case, (&answer, &ours), true, &mut listed, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(listed.is_empty(), "the page lists cases that are unknown: {listed:?}");
    pushlark.notified("PD", notified).await;
    pushlark.settled().await;
    assert_eq!(pushlark.notifications("PD").await.len(), notified);
}
