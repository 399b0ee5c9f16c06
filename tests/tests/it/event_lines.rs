//! The log lines of events (`LOG_EVENTS`), as CloudWatch bills them.

use local::Options;
use pushlark_plugin::{Defaults, Plugins};
use pushlark_settings::Environment;
use reqwest::Client;
use serde_json::{Value, json};
use tests::{BOB, Event, PUSH_HOST, Pushlark, Work, eventually, logged};

/// The size of a line with an id, a JID and a count of usual length.
const MAX_LINE_BYTES: usize = 250;

const ROOM: &str = "team-lunch@conference.example.com";

/// Returns the lines of events: those at `info` with an id.
fn of_events(lines: &[Value]) -> Vec<&Value> {
    let of_events: Vec<_> = lines.iter().filter(|line| line["level"] == "INFO" && line["id"].is_string()).collect();
    for line in &of_events {
        assert!(line.to_string().len() <= MAX_LINE_BYTES, "{line}");
    }
    of_events
}

/// Enables a device. The push service double prints its id, which is thus no canary.
async fn enable(pushlark: &Pushlark, user: &str, device: &str) {
    let form = json!({"service": "fcm", "device_id": device});
    let enable = json!({"user": user, "jid": PUSH_HOST, "node": device, "form": form});
    assert_eq!(pushlark.json("/enable", enable).await.status, 200);
}

/// Sets the status with which the push service double answers for a device.
async fn device_answers(pushlark: &Pushlark, device: &str, status: u16) {
    let url = format!("{}/sink/devices/{device}", pushlark.stack.url);
    assert_eq!(Client::new().put(url).json(&json!({ "status": status })).send().await.unwrap().status(), 204);
}

/// Marks the events of a test in its log.
async fn step(pushlark: &Pushlark, name: &str, event: Event) {
    // Standard output may be within a line of the test harness.
    println!("\n{}", json!({ "step": name }));
    pushlark.event(event).await;
    pushlark.settled().await;
}

/// Returns the lines of a step.
fn of_step<'l>(lines: &'l [Value], name: &str) -> &'l [Value] {
    let start = lines.iter().position(|line| line["step"] == name).unwrap() + 1;
    let length = lines[start..].iter().take_while(|line| line["step"].is_null()).count();
    &lines[start..start + length]
}

fn text() -> Event {
    Event::message(BOB, "Hi").id("0197a3f0-5b1c-7d3e-8a44-0f0c2b6d9e11")
}

#[tokio::test]
async fn an_event_has_one_line_with_its_result_and_the_code_of_the_reason() {
    let Some(lines) = logged("event_lines::an_event_has_one_line_with_its_result_and_the_code_of_the_reason") else {
        // Ingest queues every event for a plugin that it does not know.
        let plugins = Plugins::built_in().with("own", Defaults);
        let environment = Environment::from_iter([("PLUGIN", "own")]);
        let pushlark = Pushlark::with(Options { plugins, environment, ..Options::default() }).await;
        enable(&pushlark, BOB, "phone").await;
        step(&pushlark, "offline", text()).await;
        step(&pushlark, "again", text()).await;
        step(&pushlark, "online", text().id("m2").recipient(json!({"online": true}))).await;
        step(&pushlark, "nobody", text().id("m3").recipient(json!({"exists": false}))).await;
        step(&pushlark, "blank", Event::message(BOB, " ").id("m4")).await;
        step(&pushlark, "unregistered", Event::message("carol@example.com", "Hi").id("m5")).await;
        step(&pushlark, "request", Event::subscription("eve@example.com", BOB)).await;
        device_answers(&pushlark, "phone", 400).await;
        step(&pushlark, "refused", text().id("m7")).await;
        device_answers(&pushlark, "phone", 410).await;
        step(&pushlark, "gone", text().id("m8")).await;
        println!("{}", json!({"step": "end"}));
        return;
    };
    let line = |fields: Value| {
        let mut line = json!({"level": "INFO", "to": BOB});
        line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        line
    };
    let id = "0197a3f0-5b1c-7d3e-8a44-0f0c2b6d9e11";
    for (step, expected) in [
        ("offline", json!({"message": "notified", "id": id, "delivered": 1})),
        ("again", json!({"message": "not notified", "id": id, "why": "claimed"})),
        ("online", json!({"message": "not notified", "id": "m2", "why": "online"})),
        ("nobody", json!({"message": "not notified", "id": "m3", "why": "no-user"})),
        ("blank", json!({"message": "not notified", "id": "m4", "why": "no-text"})),
        (
            "unregistered",
            json!({"message": "not notified", "id": "m5", "to": "carol@example.com", "why": "no-registration"}),
        ),
        ("refused", json!({"message": "not notified", "id": "m7", "undelivered": 1})),
        ("gone", json!({"message": "not notified", "id": "m8", "undelivered": 1})),
    ] {
        let lines = of_step(&lines, step);
        assert_eq!(of_events(lines), [&line(expected.clone())], "{step}");
        // Warnings and errors name the event, too.
        for line in lines.iter().filter(|line| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap())) {
            assert_eq!((&line["id"], &line["to"]), (&expected["id"], &json!(BOB)), "{line}");
        }
    }
    // Ingest gives a contact request an id of its own.
    let [request] = of_events(of_step(&lines, "request"))[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&request["kind"], &request["to"], &request["delivered"]),
        (&json!("subscription"), &json!(BOB), &json!(1))
    );
    let problem = |step| of_step(&lines, step).iter().find(|line| line["level"] != "INFO").unwrap();
    assert_eq!(problem("refused")["message"], "not notified: refused");
    assert_eq!(problem("gone")["message"], "disabled");
}

#[tokio::test]
async fn an_event_with_several_recipients_has_one_line_for_each_record() {
    let Some(lines) = logged("event_lines::an_event_with_several_recipients_has_one_line_for_each_record") else {
        let pushlark = Pushlark::start().await;
        let members: Vec<_> = (0..25).map(|number| format!("member-{number}@example.com")).collect();
        for member in &members[..20] {
            enable(&pushlark, member, member).await;
        }
        device_answers(&pushlark, &members[3], 400).await;
        let members: Vec<_> = members.iter().map(String::as_str).collect();
        let stanza =
            format!("<message xmlns='jabber:client' type='groupchat' from='{ROOM}/nick'><body>Hi</body></message>");
        let room =
            Work::message(&members).message_field("from", format!("{ROOM}/nick")).message_field("stanza", stanza);
        println!("\n{}", json!({"step": "room"}));
        pushlark.enqueue(Work::record(&[room.id("0197a3f0-5b1c-7d3e-8a44-0f0c2b6d9e11")])).await;
        pushlark.settled().await;
        println!("{}", json!({"step": "end"}));
        return;
    };
    let id = "0197a3f0-5b1c-7d3e-8a44-0f0c2b6d9e11";
    let expected = json!({"level": "INFO", "message": "notified", "id": id, "from": ROOM, "recipients": 25,
        "delivered": 19, "undelivered": 1, "why": "no-registration=5"});
    let room = of_step(&lines, "room");
    assert_eq!(of_events(room), [&expected]);
    let [refused] = &room.iter().filter(|line| line["level"] == "ERROR").collect::<Vec<_>>()[..] else {
        panic!("{room:?}")
    };
    assert_eq!((&refused["id"], &refused["to"]), (&json!(id), &json!("member-3@example.com")));
}

#[tokio::test]
async fn errors_alone_or_no_events_have_lines() {
    let name = "event_lines::errors_alone_or_no_events_have_lines";
    let Some(lines) = logged(name) else {
        for log_events in ["errors", "off"] {
            let pushlark = Pushlark::with_settings([("LOG_EVENTS", log_events)]).await;
            enable(&pushlark, BOB, "phone").await;
            step(&pushlark, &format!("{log_events}: delivered"), text()).await;
            step(&pushlark, &format!("{log_events}: removed"), Event::user_removed("eve@example.com").id("m2")).await;
            device_answers(&pushlark, "phone", 503).await;
            println!("{}", json!({"step": format!("{log_events}: retried")}));
            pushlark.event(text().id("m3")).await;
            // The attempt that fails is listed, too.
            eventually("an attempt", async || (pushlark.all_notifications().await.len() > 1).then_some(())).await;
            device_answers(&pushlark, "phone", 200).await;
            pushlark.settled().await;
            println!("{}", json!({"step": format!("{log_events}: end")}));
        }
        return;
    };
    let of = |step| of_events(of_step(&lines, step));
    assert_eq!((of("errors: delivered").len(), of("off: delivered").len()), (0, 0));
    assert_eq!((of("errors: removed").len(), of("off: removed").len()), (0, 0));
    let retried = of("errors: retried");
    let expected = json!({"level": "INFO", "message": "not notified", "id": "m3", "to": BOB, "retried": 1});
    assert!(!retried.is_empty() && retried.iter().all(|line| **line == expected), "{retried:?}");
    assert_eq!(of("off: retried").len(), 0);
    let warnings = of_step(&lines, "off: retried").iter().filter(|line| line["message"] == "not notified yet");
    assert!(warnings.clone().count() > 0 && warnings.clone().all(|line| line["id"] == "m3" && line["to"] == BOB));
}
