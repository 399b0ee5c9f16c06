//! The user attributes of a message, and MD5 digests.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::error::Error;

/// By name.
pub(super) type MessageAttributes = BTreeMap<String, MessageAttribute>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MessageAttribute {
    pub(super) data_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    string_value: Option<String>,
    /// In base64, as on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary_value: Option<String>,
}

impl MessageAttribute {
    /// The type code for the MD5 of the attributes, and the value's bytes. `None` if the value is empty or missing for
    /// the data type.
    pub(super) fn value(&self) -> Option<(u8, Cow<'_, [u8]>)> {
        let (kind, bytes): (u8, Cow<'_, [u8]>) = match self.data_type.split('.').next()? {
            "String" | "Number" => (1, self.string_value.as_deref()?.as_bytes().into()),
            "Binary" => (2, BASE64.decode(self.binary_value.as_deref()?).ok()?.into()),
            _ => return None,
        };
        (!bytes.is_empty()).then_some((kind, bytes))
    }

    pub(super) fn check(&self, name: &str) -> Result<(), Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let lower = name.to_ascii_lowercase();
        if !(1..=256).contains(&name.len())
            || !name.chars().all(allowed)
            || lower.starts_with("aws.")
            || lower.starts_with("amazon.")
            || name.starts_with('.')
            || name.ends_with('.')
            || name.contains("..")
        {
            return Err(Error::InvalidParameterValue(format!(
                "Message (user) attribute name '{name}' is not allowed."
            )));
        }
        if self.data_type.len() > 256 || self.value().is_none() {
            return Err(Error::InvalidParameterValue(format!(
                "Message (user) attribute '{name}' must contain a non-empty value of type 'String', 'Number' or 'Binary'."
            )));
        }
        match &self.string_value {
            Some(value) if !value.chars().all(is_allowed) => Err(Error::InvalidMessageContents),
            _ => Ok(()),
        }
    }
}

/// [The MD5 digest] of attributes, in the order of their names, which clients may check.
///
/// [The MD5 digest]: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html#sqs-attributes-md5-message-digest-calculation
pub(super) fn md5_of_attributes(attributes: &MessageAttributes) -> Option<String> {
    let mut bytes = Vec::new();
    for (name, attribute) in attributes {
        if let Some((kind, value)) = attribute.value() {
            push(&mut bytes, name.as_bytes());
            push(&mut bytes, attribute.data_type.as_bytes());
            bytes.push(kind);
            push(&mut bytes, &value);
        }
    }
    (!bytes.is_empty()).then(|| md5_of(&bytes))
}

fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    // No part of a message of at most 1 MiB is too long for this.
    bytes.extend((part.len() as u32).to_be_bytes());
    bytes.extend(part);
}

pub(super) fn md5_of(bytes: &[u8]) -> String {
    format!("{:x}", md5::compute(bytes))
}

/// Returns whether a body may contain the character:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html#API_SendMessage_RequestParameters>
pub(super) fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{FFFD}' | '\u{10000}'..)
}
