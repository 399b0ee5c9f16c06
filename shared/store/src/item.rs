//! The shape of items in the table.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use pushlark_model::{PublishOptions, Registration};
use pushlark_xmpp::BareJid;

use crate::keys;

pub type Item = HashMap<String, AttributeValue>;

pub fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

pub fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub fn text_of<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

pub fn number_of(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

pub fn form(options: &PublishOptions) -> AttributeValue {
    AttributeValue::M(options.fields().iter().map(|(name, value)| (name.clone(), text(value))).collect())
}

pub fn read_form(item: &Item) -> Option<PublishOptions> {
    let fields = item.get("form")?.as_m().ok()?.iter();
    let form: Option<BTreeMap<_, _>> =
        fields.map(|(name, value)| Some((name.clone(), value.as_s().ok()?.clone()))).collect();
    PublishOptions::new(form?).ok()
}

pub fn registration(owner: &BareJid, service: &Registration) -> Item {
    HashMap::from([
        ("pk".into(), text(owner)),
        ("sk".into(), text(keys::registration(&service.jid, &service.node))),
        ("jid".into(), text(&service.jid)),
        ("node".into(), text(&service.node)),
        ("form".into(), form(&service.options)),
        ("created_at".into(), number(service.created_at)),
        ("domain_shard".into(), text(keys::domain_shard(owner))),
    ])
}

pub fn read_registration(item: &Item) -> Option<Registration> {
    Some(Registration {
        jid: BareJid::new(text_of(item, "jid")?).ok()?,
        node: text_of(item, "node")?.into(),
        options: read_form(item)?,
        created_at: number_of(item, "created_at")?,
    })
}
