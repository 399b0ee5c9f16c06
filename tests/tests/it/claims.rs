//! Claims: the event that publishes a message to a device.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use pushlark_model::{Registration, claim_slot};
use pushlark_queue::{MessageContext, Record, ReportedRecipient, WorkKind};
use pushlark_store::{ClaimItem, Claimant};
use pushlark_xmpp::{BareJid, parse_jid};
use serde_json::json;
use tests::{BOB, CallCounter, Event, IsolatedWorker, Pushlark, ROOM_OCCUPANT, Work, registration};
use time::OffsetDateTime;
use tokio::time::Instant;

#[tokio::test]
async fn a_claim_holds_750_nodes_with_the_longest_names() {
    let pushlark = Pushlark::start().await;
    let store = pushlark.store();
    let services: Vec<_> = (0..750).map(|number| registration(&format!("{number:0>512}"), &[], 0)).collect();
    let all: Vec<&Registration> = services.iter().collect();
    let bob = BareJid::new(BOB).unwrap();
    let name = "01234567-89ab-cdef-0123-456789abcdef.24";
    let claimant = Claimant { user: &bob, name, generation: 1_000, counted: Some(7) };
    let item = ClaimItem::new("m", &bob);
    let held = async |claimant: Claimant<'_>| store.claim(&item, &[claimant.claim(&all)]).await.unwrap();
    assert_eq!(held(claimant).await, [[true; 750]]);
    store.finish(&item, &[claimant.finish(&[], &services)]).await.unwrap();
    assert_eq!(held(claimant).await, [[false; 750]]);
    let next = Claimant { generation: 1_001, ..claimant };
    assert_eq!(held(next).await, [[true; 750]]);
    store.finish(&item, &[next.finish(&services, &[])]).await.unwrap();
    let claimed = store.claimed("m", &bob).await.unwrap();
    assert!(services.iter().all(|service| claimed.has(service)) && claimed.counted() == Some(7));
    assert_eq!(held(next).await, [[false; 750]]);
}

#[tokio::test]
async fn recipients_in_one_item_have_claims_and_counts_of_their_own() {
    let pushlark = Pushlark::start().await;
    let store = pushlark.store();
    // All attempts write to one item, as the recipients of a message in one slot do.
    let users: Vec<_> = (0..60).map(|number| BareJid::new(&format!("u{number}@example.com")).unwrap()).collect();
    let item = ClaimItem::new("m", &users[0]);
    let phone = registration("phone", &[], 0);
    let claim = async |name: &str, counted: u32, users: &[BareJid]| {
        let claims =
            users.iter().map(|user| Claimant { user, name, generation: 0, counted: Some(counted) }.claim(&[&phone]));
        store.claim(&item, &claims.collect::<Vec<_>>()).await.unwrap()
    };
    assert_eq!(claim("first.0", 1, &users[..40]).await, vec![vec![true]; 40]);
    let expected: Vec<_> = (20..60).map(|number| vec![number >= 40]).collect();
    assert_eq!(claim("second.0", 2, &users[20..]).await, expected);
    // Two attempts for the same recipient in one write share its count.
    let twice = [("first.0", 1), ("third.0", 3)]
        .map(|(name, counted)| Claimant { user: &users[0], name, generation: 0, counted: Some(counted) }.claim(&[]));
    assert_eq!(store.claim(&item, &twice).await.unwrap(), [[false; 0]; 2]);
    let of_first = store.claimed("m", &users[0]).await.unwrap();
    assert!(of_first.has(&phone) && of_first.counted() == Some(1));
    assert!(!of_first.has(&registration("tablet", &[], 0)));
}

#[tokio::test]
async fn a_message_whose_claims_fill_their_item_is_notified_without_a_claim() {
    let isolated = IsolatedWorker::start().await;
    isolated.pushlark.enable(BOB, "before").await;
    isolated.handle(isolated.batch(&[Work::message(&[BOB])]).await).await;
    // The item has less than the 400 KB that DynamoDB allows, but no room for a claim.
    let slot = claim_slot(BOB);
    let update = isolated.pushlark.stack.dynamodb.update_item().table_name("pushlark");
    let text = |value: String| AttributeValue::S(value);
    let update = update.key("pk", text(format!("msg/m/{slot:x}"))).key("sk", text("claims".into()));
    let update = update.update_expression("SET filler = :filler").condition_expression("attribute_exists(pk)");
    update.expression_attribute_values(":filler", text("x".repeat(400 * 1024 - 100))).send().await.unwrap();
    isolated.pushlark.enable(BOB, "after").await;
    isolated.handle(isolated.batch(&[Work::message(&[BOB])]).await).await;
    assert_eq!(isolated.pushlark.notifications("before").await.len(), 1, "its claim is in the item");
    assert_eq!(isolated.pushlark.notifications("after").await.len(), 1);
}

/// Starts a stack whose DynamoDB calls are counted, with a device for each of `members` users.
async fn room(members: usize, settings: &[(&'static str, &'static str)]) -> (Pushlark, CallCounter, Vec<String>) {
    let (pushlark, counter) = CallCounter::with_settings(settings.iter().copied()).await;
    let members: Vec<_> = (0..members).map(|number| format!("u{number}@example.com")).collect();
    join_all(members.iter().map(|member| pushlark.enable(member, member))).await;
    counter.take();
    counter.take_claims();
    (pushlark, counter, members)
}

#[tokio::test]
async fn a_room_is_claimed_by_few_writes() {
    // A member that waits for the others holds no permit.
    let (pushlark, counter, members) = room(100, &[("WORKER_CONCURRENCY", "1")]).await;
    let isolated = IsolatedWorker::beside_with_dynamodb(pushlark, &counter.url).await;
    counter.take();
    let kind = WorkKind::Message {
        from: parse_jid(ROOM_OCCUPANT).unwrap(),
        to: members.iter().map(|member| BareJid::new(member).unwrap()).collect(),
        stanza: "<message type='groupchat'><body>canary Hi</body></message>".into(),
        recipient: ReportedRecipient::default(),
        context: MessageContext::default(),
    };
    for record in Record::pack([pushlark_queue::Work::new("m".into(), OffsetDateTime::now_utc(), kind)]) {
        isolated.send(&json!(record)).await;
        let batch = isolated.receive().await.unwrap();
        isolated.handle(batch.clone()).await;
        isolated.delete(batch).await;
    }
    // Four records: three of them continue a slot of the record before. An item has less than 1 KB, one write unit.
    let claims = counter.take_claims();
    assert!((16..=19).contains(&claims), "{claims} writes");
    assert_eq!(counter.take()["Query"], 100);
    for member in &members {
        assert_eq!(isolated.pushlark.notifications(member).await.len(), 1, "{member}");
    }
}

#[tokio::test]
async fn a_room_message_that_comes_again_or_is_not_acknowledged_notifies_once() {
    let (pushlark, _, members) = room(30, &[("PLUGIN", "enhanced")]).await;
    let message = || Event::groupchat(ROOM_OCCUPANT, &members, "canary Hi").id("m");
    let sessions: Vec<_> = members.iter().map(|member| format!("{member}/pc")).collect();
    let lost = Event::groupchat(ROOM_OCCUPANT, &sessions, "canary Hi").id("m").with("type", "unacknowledged");
    for event in [message(), message(), lost] {
        pushlark.event(event).await;
    }
    pushlark.settled().await;
    for member in &members {
        assert_eq!(pushlark.notifications(member).await.len(), 1, "{member}");
    }
}

#[tokio::test]
async fn two_webhooks_of_one_room_message_at_once_notify_once() {
    let (pushlark, _, members) = room(30, &[("UNREAD_COUNTS", "on")]).await;
    let message = || Event::groupchat(ROOM_OCCUPANT, &members, "canary Hi").id("m");
    join_all((0..4).map(|_| pushlark.event(message()))).await;
    pushlark.settled().await;
    for member in &members {
        let notifications = pushlark.notifications(member).await;
        assert_eq!(notifications.len(), 1, "{member}");
        assert_eq!(notifications[0]["notification"]["alert"]["badge"], 1, "{member}");
    }
}

/// Returns users in one claim slot.
fn in_one_slot(number: usize) -> Vec<String> {
    let users = (0..).map(|number| format!("u{number}@example.com"));
    users.filter(|user| claim_slot(user) == 0).take(number).collect()
}

#[tokio::test]
async fn a_failed_claim_postpones_all_its_recipients_and_its_repeat_notifies_each_once() {
    let (pushlark, counter) = CallCounter::with_settings([]).await;
    let isolated = IsolatedWorker::beside_with_dynamodb(pushlark, &counter.url).await;
    let members = in_one_slot(3);
    for member in &members {
        isolated.pushlark.enable(member, member).await;
    }
    counter.take_claims();
    counter.refuse_next("UpdateItem", "ResourceNotFoundException", json!({}));
    let members: Vec<_> = members.iter().map(String::as_str).collect();
    isolated.handle_all(isolated.batch(&[Work::message(&members)]).await).await;
    counter.assert_all_failures_occurred();
    for member in &members {
        assert_eq!(isolated.pushlark.notifications(member).await.len(), 1, "{member}");
    }
    // The failed write was for all three; each of them is retried alone.
    assert_eq!(counter.take_claims(), 1 + 3);
}

#[tokio::test]
async fn recipients_that_are_not_notified_do_not_hold_up_the_others() {
    let isolated = IsolatedWorker::start().await;
    // The first and the last have no device. The second gets the message twice, in two events of the record.
    let members = in_one_slot(4);
    let members: Vec<_> = members.iter().map(String::as_str).collect();
    for member in &members[1..3] {
        isolated.pushlark.enable(member, member).await;
    }
    let work = [Work::message(&members[1..2]).id("before"), Work::message(&members), Work::message(&members)];
    isolated.handle(isolated.batch(&work).await).await;
    for (member, times) in members.iter().zip([0, 2, 1, 0]) {
        assert_eq!(isolated.pushlark.notifications(member).await.len(), times, "{member}");
    }
}

#[tokio::test]
async fn sessions_of_one_user_in_one_event_do_not_wait_for_each_other() {
    let isolated = IsolatedWorker::beside(Pushlark::with_settings([("PLUGIN", "enhanced")]).await).await;
    for session in ["bob@example.com/pc", "bob@example.com/phone"] {
        isolated.pushlark.enable(session, session).await;
    }
    let lost = Work::of(json!({"unacknowledged": {
        "from": "alice@example.com/pc",
        "to": ["bob@example.com/pc", "bob@example.com/phone"],
        "stanza": "<message type='chat'><body>canary Hi</body></message>",
    }}));
    let started = Instant::now();
    isolated.handle(isolated.batch(&[lost]).await).await;
    assert!(started.elapsed() < Duration::from_secs(30));
    for session in ["bob@example.com/pc", "bob@example.com/phone"] {
        assert_eq!(isolated.pushlark.notifications(session).await.len(), 1, "{session}");
    }
}
