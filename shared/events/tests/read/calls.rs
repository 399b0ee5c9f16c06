//! The answers of users to calls (XEP-0353).

use pushlark_access::Caller;
use pushlark_events::{Effect, Sources, WebhookEvent, read};
use pushlark_http::{Media, Request};
use pushlark_queue::{ReportedRecipient, WorkKind};
use pushlark_xmpp::{Element, Message};

use super::{XML, now, one, queued};

const BOB: &str = "bob@example.com";
const BOBS_PC: &str = "bob@example.com/pc";
const ALICES_PC: &str = "alice@example.org/pc";

fn stanza(name: &str, from: &str, to: &str) -> String {
    let step = format!("<{name} xmlns='urn:xmpp:jingle-message:0' id='c1'/>");
    format!("<message xmlns='jabber:client' type='chat' from='{from}' to='{to}'>{step}</message>")
}

fn carbon(from: &str, inner: &str) -> String {
    let forwarded = format!("<forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded>");
    let sent = format!("<sent xmlns='urn:xmpp:carbons:2'>{forwarded}</sent>");
    format!("<message xmlns='jabber:client' type='chat' from='{from}' to='bob@example.com/phone'>{sent}</message>")
}

/// Returns the sender, the recipients, the callee's JID and the reported state of an answer for the own devices.
fn answered(event: WebhookEvent) -> (String, Vec<String>, Option<String>, ReportedRecipient) {
    let Effect::CallAnswer { user, work: WorkKind::Message { from, to, stanza, recipient, .. } } = event.effect else {
        panic!("{event:?} is not an answer")
    };
    assert_eq!(user.as_str(), BOB);
    let message = Message::from_element(Element::parse(&stanza).unwrap()).unwrap();
    let caller = message.element().attribute("to").map(str::to_owned);
    (from.to_string(), to.iter().map(ToString::to_string).collect(), caller, recipient)
}

#[test]
fn an_answer_to_a_call_concerns_the_devices_of_the_user_who_answers() {
    for name in ["proceed", "accept", "reject"] {
        let answer = answered(one(XML, stanza(name, BOBS_PC, ALICES_PC)));
        let expected = (BOBS_PC.into(), vec![BOB.into()], Some(ALICES_PC.into()), ReportedRecipient::default());
        assert_eq!(answer, expected, "{name}");
    }
    // The state of the caller is not that of the user, and the caller is kept if only the event names it.
    let stanza = "<message type='chat'><reject xmlns='urn:xmpp:jingle-message:0' id='c1'/></message>";
    let event = serde_json::json!({"type": "message", "from": BOBS_PC, "to": ALICES_PC, "stanza": stanza,
        "recipient": {"exists": false, "online": true}});
    let (_, to, caller, recipient) = answered(one(Media::Json, event.to_string()));
    assert_eq!((to, caller), (vec![BOB.to_owned()], Some("alice@example.org".into())));
    assert_eq!(recipient, ReportedRecipient::default());
}

#[test]
fn an_answer_to_the_own_account_and_a_carbon_copy_of_one_concern_the_own_devices() {
    for xml in [stanza("accept", BOBS_PC, BOB), carbon(BOB, &stanza("proceed", BOBS_PC, ALICES_PC))] {
        let queued = queued(one(XML, &xml));
        assert_eq!((queued.from.as_str(), queued.to), (BOBS_PC, vec![BOB.to_owned()]), "{xml}");
        assert!(queued.message.call().is_some(), "{xml}");
    }
}

#[test]
fn other_steps_and_other_carbon_copies_concern_their_recipient() {
    for name in ["propose", "ringing", "retract", "finish"] {
        assert_eq!(queued(one(XML, stanza(name, BOBS_PC, ALICES_PC))).to, ["alice@example.org"], "{name}");
    }
    for xml in [
        carbon("eve@example.org", &stanza("proceed", BOBS_PC, ALICES_PC)),
        carbon(BOB, &stanza("proceed", "eve@example.org/x", ALICES_PC)),
        carbon(BOB, &stanza("propose", BOBS_PC, ALICES_PC)),
    ] {
        assert!(queued(one(XML, &xml)).message.call().is_none(), "{xml}");
    }
}

#[test]
fn an_answer_has_no_effect_if_the_caller_does_not_speak_for_the_user() {
    let of = |domain: &str| {
        let caller = Caller::Server(vec![pushlark_xmpp::DomainPart::new(domain).unwrap().into_owned()]);
        let request = Request::new(caller, XML, stanza("proceed", BOBS_PC, ALICES_PC).into_bytes()).unwrap();
        read(&request, &Sources::default(), now()).unwrap().remove(0).effect
    };
    assert!(matches!(of("example.com"), Effect::CallAnswer { .. }));
    assert!(matches!(of("example.org"), Effect::None(_)));
}
