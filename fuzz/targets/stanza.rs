//! XML: what is parsed is written as what it is, whatever is made of it, and so is what answers it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushlark_fuzz::check_written;
use pushlark_xmpp::{
    Condition, Content, Disable, Element, Enable, Iq, MAX_NODE_BYTES, Message, Presence, PubSubRequest, is_xml_text,
};

fuzz_target!(|data: &[u8]| {
    let Ok(element) = std::str::from_utf8(data).map_err(drop).and_then(|text| Element::parse(text).map_err(drop))
    else {
        return;
    };
    check_written(&element);
    if let Ok(iq) = Iq::from_element(element.clone()) {
        check_iq(&iq);
    }
    if let Ok(message) = Message::from_element(element.clone()) {
        check_message(&message);
    }
    if let Ok(presence) = Presence::from_element(element) {
        let _ = presence.kind();
    }
});

fn check_iq(iq: &Iq) {
    check_written(&iq.result());
    check_written(&iq.error(Condition::PreconditionNotMet, "\"no\" & <no/>"));
    iq.stanza_error();
    if let Ok(enable) = Enable::try_from(iq) {
        assert!(enable.user.node().is_some() && (1..=MAX_NODE_BYTES).contains(&enable.node.len()));
        assert!(enable.form.iter().all(|(name, value)| is_xml_text(name) && is_xml_text(value)));
    }
    if let Ok(disable) = Disable::try_from(iq) {
        assert!(disable.user.node().is_some());
        assert!(disable.node.is_none_or(|node| (1..=MAX_NODE_BYTES).contains(&node.len())));
    }
    match PubSubRequest::try_from(iq) {
        Ok(PubSubRequest::Publish { node, .. } | PubSubRequest::Affiliate { node, .. }) => assert!(!node.is_empty()),
        Ok(PubSubRequest::Create { node, config }) => {
            assert!(node.is_none_or(|node| (1..=MAX_NODE_BYTES).contains(&node.len())));
            check_written(&iq.result_with(config.to_form()));
        }
        Ok(PubSubRequest::Configure { config, .. }) => {
            check_written(&iq.result_with(config.to_form()));
        }
        _ => {}
    }
}

fn check_message(message: &Message) {
    assert!(message.text().is_none_or(|text| !text.is_empty()));
    if let Ok(Content::Text(text) | Content::Spoiler(Some(text)) | Content::Invitation(Some(text))) = message.content()
    {
        assert!(!text.trim().is_empty());
    }
    message.kind();
    message.call().map(|call| call.media());
    message.forbids_storage();
    message.is_carbon();
    message.is_displayed_marker();
    message.displayed_id();
    message.displayed_conversations().for_each(drop);
    message.invitation();
    message.is_urgent();
    message.mentions().count();
    message.stanza_ids().count();
}
