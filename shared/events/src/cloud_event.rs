//! CloudEvents 1.0 (the JSON event format) whose data is a native event.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;

use crate::event::{Arrival, WebhookEvent, check_id, joined_id};
use crate::native::read_event;

#[derive(Deserialize)]
struct CloudEvent {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    _type: String,
    #[serde(default, with = "time::serde::rfc3339::option")]
    time: Option<OffsetDateTime>,
    datacontenttype: Option<String>,
    data: Option<Value>,
    data_base64: Option<String>,
}

/// Reads an event in structured mode. Its `source` and `id` together become the id of the message, and its `time` the
/// time of the event, unless the data has its own.
pub fn read(json: &str, arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
    let event: CloudEvent = pushlark_json::read_json(json.as_bytes())?;
    if event.specversion != "1.0" {
        return Err(format!("specversion: {:?} is not \"1.0\"", event.specversion));
    }
    for (attribute, value) in [("id", &event.id), ("source", &event.source)] {
        if value.is_empty() {
            return Err(format!("{attribute} is empty"));
        }
    }
    let media = event.datacontenttype.as_deref().unwrap_or("application/json");
    let essence = media.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") && !essence.to_ascii_lowercase().ends_with("+json") {
        return Err(format!("datacontenttype: {media:?} is not \"application/json\""));
    }
    let data = match (event.data, event.data_base64) {
        (Some(data), None) => data.to_string().into_bytes(),
        (None, Some(data)) => BASE64_STANDARD.decode(data).map_err(|_| "data_base64 is not base64")?,
        (Some(_), Some(_)) => return Err("data_base64 cannot be combined with data".into()),
        (None, None) => return Err("data is missing".into()),
    };
    // A source is a URI, so it has no space.
    let id = check_id(joined_id([&event.source, &event.id], ' ')).map_err(|error| format!("source and id: {error}"))?;
    let arrival = Arrival { id: Some(id), at: event.time, ..arrival.clone() };
    read_event(&data, &arrival).map_err(|error| format!("data: {error}"))
}
