//! Publish-subscribe as push notifications use it (XEP-0060, XEP-0357).

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::{BareJid, DomainRef, Element, is_xml_text, ns};

/// A notification on its way to a node of a real PubSub service (XEP-0357, section 7).
#[derive(Debug, Clone, Copy)]
pub struct PublishNotification<'p> {
    /// The IQ's id.
    pub id: &'p str,
    /// The server that publishes.
    pub from: &'p DomainRef,
    /// The PubSub service.
    pub to: &'p BareJid,
    /// The node there.
    pub node: &'p str,
    /// The publish options; without any the element is left out.
    pub options: &'p BTreeMap<String, String>,
}

impl PublishNotification<'_> {
    /// The IQ, with these fields as the summary, in their order.
    pub fn to_iq<'f>(&self, summary: impl Iterator<Item = (&'f str, &'f str)>) -> Element {
        let pubsub = |name| Element::new(name, ns::PUBSUB);
        let notification = Element::new("notification", ns::PUSH).with_child(form(ns::PUSH_SUMMARY, summary));
        let publish = pubsub("publish").with_attribute("node", self.node);
        let publish = publish.with_child(pubsub("item").with_child(notification));
        let mut payload = pubsub("pubsub").with_child(publish);
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            payload = payload.with_child(pubsub("publish-options").with_child(form(ns::PUBLISH_OPTIONS, options)));
        }
        Element::new("iq", "")
            .with_attribute("type", "set")
            .with_attribute("id", self.id)
            .with_attribute("from", self.from.as_str())
            .with_attribute("to", self.to.as_str())
            .with_child(payload)
    }
}

/// A submitted form (XEP-0004). What XML has no character for is left out of the values.
fn form<'f>(form_type: &str, fields: impl Iterator<Item = (&'f str, &'f str)>) -> Element {
    let data = |name| Element::new(name, ns::DATA_FORMS);
    let field = |name: &str, value: &str| {
        let value = data("value").with_text(without_invalid(value));
        data("field").with_attribute("var", without_invalid(name)).with_child(value)
    };
    let form_type = field("FORM_TYPE", form_type).with_attribute("type", "hidden");
    let form = data("x").with_attribute("type", "submit").with_child(form_type);
    fields.fold(form, |form, (name, value)| form.with_child(field(name, value)))
}

fn without_invalid(text: &str) -> Cow<'_, str> {
    if is_xml_text(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().filter(|c| is_xml_text(c.encode_utf8(&mut [0; 4]))).collect())
}
