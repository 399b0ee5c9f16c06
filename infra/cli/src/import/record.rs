//! A registration as a source has it, before it is checked.

use std::collections::BTreeMap;

use pushlark_xmpp::{DataForm, Element};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest text of one registration, in bytes: a form has at most 8 KiB.
pub const MAX_ROW_BYTES: usize = 1024 * 1024;
/// The deepest nesting of a stored value.
pub const MAX_DEPTH: usize = 32;

/// The columns of a CSV beside those of the form's fields.
pub const CSV_COLUMNS: [&str; 6] = ["user", "jid", "node", "enabled_at", "preferences", "encrypt"];

/// The column of a CSV with the fields of a form as a JSON object. An export has only the fields with an empty value in
/// it: in a column of their own, they would be missing fields.
pub const FORM_COLUMN: &str = "form";

/// A registration of a source. In JSON, it is a line of the format `jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The user's bare JID.
    pub user: String,
    /// The PubSub service.
    pub jid: String,
    /// The node at the service.
    pub node: String,
    /// The time of the enable request in RFC 3339; `None` if the source does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "micros")]
    pub enabled_at: Option<u64>,
    /// The fields of the publish options.
    #[serde(default)]
    pub form: BTreeMap<String, String>,
    /// The preferences, as in an enable request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<Map<String, Value>>,
    /// The encryption, as in an enable request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<Map<String, Value>>,
}

/// A row of a source that is not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The user, the PubSub service and the node, or the place in the source.
    pub row: String,
    /// The reason, by which rows are counted.
    pub reason: &'static str,
    /// The error; empty if the reason says all.
    pub detail: String,
}

/// A row of a source.
pub type Row = Result<Record, LeftOut>;

impl Record {
    /// Returns the user, the PubSub service and the node. It has no secret.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.user, self.jid, self.node)
    }
}

impl LeftOut {
    /// Creates one for a row whose text cannot be read.
    pub fn unreadable(row: impl Into<String>, detail: impl ToString) -> Self {
        Self { row: row.into(), reason: "the row cannot be read", detail: detail.to_string() }
    }
}

/// Reads the form of an enable request that a server stored as XML.
pub fn form_of(x: &Element) -> Result<BTreeMap<String, String>, String> {
    let DataForm { form_type, mut fields } = DataForm::from_element(x).map_err(|error| error.to_string())?;
    fields.insert("FORM_TYPE".into(), form_type);
    Ok(fields)
}

/// Microseconds since 1970, in RFC 3339.
mod micros {
    use pushlark_model::time::{from_micros, to_micros};
    use serde::de::{Deserializer, Error};
    use serde::ser::{Error as _, Serializer};
    use serde::{Deserialize, Serialize};
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    pub fn serialize<S: Serializer>(micros: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        let text = micros.map(|micros| from_micros(micros).format(&Rfc3339)).transpose();
        text.map_err(S::Error::custom)?.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
        let read = |text: String| OffsetDateTime::parse(&text, &Rfc3339).map(to_micros);
        text.map(read)
            .transpose()
            .map_err(|_| D::Error::custom("enabled_at must be a time such as 2026-01-31T12:00:00Z"))
    }
}
