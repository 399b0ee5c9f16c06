//! Repeats that replace their own notification on the device (`DEDUPLICATION=collapse`).

use std::collections::BTreeSet;

use doubles::{Apns, Double, Fcm, Request, Subscriber, apns_error};
use local::{Options, Stack};
use pushlark_settings::Environment;
use serde_json::Value;
use tests::{ALICE, BOB, BOBS_PC, CAROL, Event, IPHONE, Providers, ROOM_OCCUPANT, credentials, stanza};

const COLLAPSE: (&str, &str) = ("DEDUPLICATION", "collapse");

/// Starts the doubles, and enables a device of each for Bob.
async fn with_devices(settings: &[(&str, &str)]) -> Providers {
    let providers = Providers::with_settings(&[&[COLLAPSE], settings].concat()).await;
    for service in ["apns", "fcm", "web-push"] {
        providers.enable_at(service).await;
    }
    providers
}

/// Posts an event, and waits until the queue is empty.
async fn post(providers: &Providers, event: Event) {
    providers.pushlark.event(event).await;
    providers.pushlark.settled().await;
}

/// Returns the names under which each device keeps its notifications: those of APNs, of FCM, and of Web Push, where the
/// topic is for waiting notifications and the tag for shown ones.
fn names(providers: &Providers) -> [Vec<String>; 4] {
    let of = |double: &Double, device: &str, name: &dyn Fn(&Request) -> String| {
        double.accepted(device).iter().map(name).collect()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let android = |request: &Request| {
        let android = request.json()["message"]["android"].take();
        assert!(android["collapse_key"].is_null(), "FCM keeps at most four for a device");
        text(&android["notification"]["tag"])
    };
    let shown = |request: &Request| {
        let json: Value = serde_json::from_slice(&Subscriber::new(7).decrypt(&request.body).unwrap()).unwrap();
        text(&json["tag"])
    };
    [
        of(&providers.apns, IPHONE, &|request| request.header("apns-collapse-id").to_owned()),
        of(&providers.fcm, "android", &android),
        of(&providers.web_push, "browser", &|request| request.header("topic").to_owned()),
        of(&providers.web_push, "browser", &shown),
    ]
}

/// Returns the number of items with claims in the table.
async fn claims(providers: &Providers) -> usize {
    let scan = providers.pushlark.stack.dynamodb.scan().table_name("pushlark").send().await.unwrap();
    scan.items().iter().filter(|item| item["pk"].as_s().unwrap().starts_with("msg/")).count()
}

#[tokio::test]
async fn a_repeat_replaces_its_own_notification_and_nothing_is_written() {
    let providers = with_devices(&[]).await;
    let message = |id: &str| Event::message(BOB, "canary Hi").id(id);
    for event in [message("m1"), message("m2"), message("m1")] {
        post(&providers, event).await;
    }
    let group = || Event::groupchat(ROOM_OCCUPANT, [BOB, CAROL], "canary Hi").id("m3");
    for event in [group(), group()] {
        post(&providers, event).await;
    }
    for names in names(&providers) {
        let [first, second, again, group, group_again] = &names[..] else { panic!("{names:?}") };
        assert_eq!((first, group), (again, group_again), "{names:?}");
        assert_eq!(BTreeSet::from([first, second, group]).len(), 3, "{names:?}");
    }
    assert_eq!(claims(&providers).await, 0);
}

#[tokio::test]
async fn an_alert_interval_still_replaces_the_alerts_of_a_conversation() {
    let providers = with_devices(&[("ALERT_INTERVAL", "3600")]).await;
    for id in ["m1", "m2"] {
        post(&providers, Event::message(BOB, "canary Hi").id(id)).await;
    }
    for names in names(&providers) {
        assert!(names.len() == 2 && names[0] == names[1], "{names:?}");
    }
}

#[tokio::test]
async fn calls_and_contact_requests_are_claimed() {
    let providers = with_devices(&[]).await;
    let call = || Event::stanza(BOB, &stanza::jingle("propose"));
    for event in [call(), call()] {
        post(&providers, event).await;
    }
    assert_eq!(providers.fcm.accepted("android").len(), 1);
    for event in [Event::subscription(ALICE, BOB), Event::subscription(ALICE, BOB)] {
        post(&providers, event).await;
    }
    assert_eq!(providers.fcm.accepted("android").len(), 2);
    assert_eq!(claims(&providers).await, 2);
    // The default rules do not notify of unacknowledged messages.
    post(&providers, Event::unacknowledged(BOBS_PC, "canary Hi")).await;
    assert_eq!(providers.fcm.accepted("android").len(), 2);
}

#[tokio::test]
async fn a_failed_device_is_retried_alone_without_a_claim() {
    let providers = with_devices(&[]).await;
    providers.apns.device_answers_next(IPHONE, apns_error(500, "InternalServerError"));
    providers.message("canary Hi").await;
    let [apns, fcm, topics, _] = names(&providers);
    assert_eq!((apns.len(), fcm.len(), topics.len()), (1, 1, 1));
    assert_eq!(claims(&providers).await, 0);
}

#[tokio::test]
async fn a_silent_push_that_clears_a_conversation_needs_no_claim() {
    let providers = with_devices(&[("CLEAR_WHEN_READ", "on")]).await;
    providers.message("canary Hi").await;
    post(&providers, Event::read(BOB, ALICE)).await;
    assert_eq!(providers.fcm.accepted("android").len(), 2);
    assert_eq!(claims(&providers).await, 0);
}

#[tokio::test]
async fn settings_that_need_claims_are_refused() {
    let credentials = credentials(&Apns::start().await, &Fcm::start().await).to_string();
    let direct = [("PUSH_SERVICE", "direct"), ("PUSH_CREDENTIALS", credentials.as_str())];
    let rules = "[[rules]]\naction = 'skip'\nconditions = [{event = 'unack_msg'}]\n";
    let unacknowledged = "a PLUGIN that does not notify of unacknowledged messages: neither enhanced, hints or \
                          lambda:, nor RULES with unack_msg";
    for (others, reason) in [
        (vec![], "PUSH_SERVICE=direct: another push service does not replace notifications"),
        ([&direct[..], &[("PLUGIN", "enhanced")]].concat(), unacknowledged),
        ([&direct[..], &[("PLUGIN", "hints")]].concat(), unacknowledged),
        ([&direct[..], &[("PLUGIN", "lambda:f")]].concat(), unacknowledged),
        ([&direct[..], &[("PLUGIN", "rules"), ("RULES", rules)]].concat(), unacknowledged),
        (
            [&direct[..], &[("UNREAD_COUNTS", "on")]].concat(),
            "UNREAD_COUNTS=off: the count of a message is kept in its claim",
        ),
    ] {
        let environment = Environment::from_iter(others.iter().copied().chain([COLLAPSE]));
        let refused = Stack::start(Options { environment, ..Options::default() }).await.unwrap_err();
        assert_eq!(format!("{refused:#}"), format!("DEDUPLICATION: collapse needs {reason}"), "{others:?}");
    }
    let allowed = "[[rules]]\naction = 'push'\ncontent = 'message'\nconditions = [{event = 'msg'}]\n";
    let providers = with_devices(&[("PLUGIN", "rules"), ("RULES", allowed)]).await;
    providers.message("canary Hi").await;
    assert_eq!(providers.fcm.accepted("android").len(), 1);
}
