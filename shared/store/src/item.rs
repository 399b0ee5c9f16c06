//! Conversion between values and the attributes of items.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use pushlark_model::PublishOptions;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attributes::FORM;

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

/// Returns the size of an item without lists and maps, in bytes ("DynamoDB item sizes and formats"; at most one too many
/// for each number).
pub fn bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| attribute_bytes(name, value)).sum()
}

/// Returns the size of an attribute other than a list or a map, in bytes.
pub fn attribute_bytes(name: &str, value: &AttributeValue) -> usize {
    let value = match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        _ => 1,
    };
    name.len() + value
}

/// Returns a text attribute with the JSON of `value`.
pub fn json(value: &impl Serialize) -> AttributeValue {
    // The types that are stored have texts, numbers and booleans, which can always be serialized.
    text(serde_json::to_string(value).unwrap_or_default())
}

/// Reads the JSON in a text attribute: `Some(None)` if the item does not have it, `None` if it cannot be read.
pub fn read_json<T: DeserializeOwned>(item: &Item, name: &str) -> Option<Option<T>> {
    let Some(value) = item.get(name) else { return Some(None) };
    serde_json::from_str(value.as_s().ok()?).ok().map(Some)
}

pub fn form(options: &PublishOptions) -> AttributeValue {
    AttributeValue::M(options.fields().iter().map(|(name, value)| (name.clone(), text(value))).collect())
}

pub fn read_form(item: &Item) -> Option<PublishOptions> {
    let fields = item.get(FORM)?.as_m().ok()?.iter();
    let form: Option<BTreeMap<_, _>> =
        fields.map(|(name, value)| Some((name.clone(), value.as_s().ok()?.clone()))).collect();
    PublishOptions::new(form?).ok()
}
