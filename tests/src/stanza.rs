//! Builders of stanzas and their payloads.

use pushlark_xmpp::ns;

/// Returns an IQ with the id `1`.
pub fn iq(kind: &str, from: &str, to: &str, payload: &str) -> String {
    iq_with_id(kind, from, to, "1", payload)
}

/// Returns an IQ of type `kind` as XML.
pub fn iq_with_id(kind: &str, from: &str, to: &str, id: &str, payload: &str) -> String {
    format!("<iq xmlns='jabber:client' type='{kind}' from='{from}' to='{to}' id='{id}'>{payload}</iq>")
}

/// Returns a chat message without addresses, for an event that has them.
pub fn chat(content: &str) -> String {
    format!("<message type='chat'>{content}</message>")
}

/// Returns a Jingle message (XEP-0353) such as `propose`, without addresses, marked to be stored.
pub fn jingle(step: &str) -> String {
    chat(&format!("<{step} xmlns='urn:xmpp:jingle-message:0' id='c1'/><store xmlns='urn:xmpp:hints'/>"))
}

/// Returns a field of a data form (XEP-0004).
pub fn field(name: &str, value: &str) -> String {
    format!("<field var='{name}'><value>{value}</value></field>")
}

/// Returns a data form of the type `submit` with this content after its FORM_TYPE.
pub fn form_of(form_type: &str, fields: &str) -> String {
    format!("<x xmlns='jabber:x:data' type='submit'>{}{fields}</x>", field("FORM_TYPE", form_type))
}

/// Returns a data form of the type `submit` with these fields after its FORM_TYPE.
pub fn form(form_type: &str, fields: &[(&str, &str)]) -> String {
    form_of(form_type, &fields.iter().map(|(name, value)| field(name, value)).collect::<String>())
}

/// Returns the form of publish options (XEP-0060, section 7.1.5).
pub fn publish_options(fields: &[(&str, &str)]) -> String {
    form(ns::PUBLISH_OPTIONS, fields)
}

/// Returns the form of a notification's summary (XEP-0357, section 7).
pub fn summary(fields: &[(&str, &str)]) -> String {
    form("urn:xmpp:push:summary", fields)
}

/// Returns the `<enable/>` of XEP-0357.
pub fn enable(jid: &str, node: &str, form: &str) -> String {
    format!("<enable xmlns='urn:xmpp:push:0' jid='{jid}' node='{node}'>{form}</enable>")
}

/// Returns the `<disable/>` of XEP-0357 for one node.
pub fn disable(jid: &str, node: &str) -> String {
    format!("<disable xmlns='urn:xmpp:push:0' jid='{jid}' node='{node}'/>")
}

/// Returns the `<disable/>` of XEP-0357 for all nodes of a service.
pub fn disable_all(jid: &str) -> String {
    format!("<disable xmlns='urn:xmpp:push:0' jid='{jid}'/>")
}

/// Returns a request of XEP-0060.
pub fn pubsub(payload: &str) -> String {
    format!("<pubsub xmlns='http://jabber.org/protocol/pubsub'>{payload}</pubsub>")
}

/// Returns a request of XEP-0060 by the owner of a node.
pub fn pubsub_owner(payload: &str) -> String {
    format!("<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'>{payload}</pubsub>")
}

/// Returns a request to create a node.
pub fn create_node(node: &str) -> String {
    pubsub(&format!("<create node='{node}'/>"))
}

/// Returns a publish request whose item has this payload, with these publish options unless there are none.
pub fn publish(node: &str, payload: &str, options: &[(&str, &str)]) -> String {
    let options = match options {
        [] => String::new(),
        fields => format!("<publish-options>{}</publish-options>", publish_options(fields)),
    };
    pubsub(&format!("<publish node='{node}'><item id='i1'>{payload}</item></publish>{options}"))
}

/// Returns the `<notification/>` of XEP-0357 with this content.
pub fn notification(content: &str) -> String {
    format!("<notification xmlns='urn:xmpp:push:0'>{content}</notification>")
}

/// Returns a query of service discovery (XEP-0030).
pub fn disco_info() -> String {
    format!("<query xmlns='{}'/>", ns::DISCO_INFO)
}

/// Returns a displayed marker (XEP-0333).
pub fn displayed(id: &str) -> String {
    format!("<displayed xmlns='urn:xmpp:chat-markers:0' id='{id}'/>")
}

/// Returns the mark of a reply's quote (XEP-0461), which ends at `end`, in code points.
pub fn quote(end: usize) -> String {
    format!("<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='{end}'/></fallback>")
}
