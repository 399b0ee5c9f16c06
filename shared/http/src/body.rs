//! The size limit and the media types of bodies.

use std::fmt;

/// The maximum size of a body after base64 decoding, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The media type of a body, from the header `Content-Type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/x-ndjson`: one JSON value per line.
    JsonLines,
    /// `application/cloudevents+json`: an event of CloudEvents 1.0.
    CloudEvent,
    /// `application/cloudevents-batch+json`: an array of events of CloudEvents 1.0.
    CloudEvents,
    /// `application/xml`, `text/xml` or `application/xmpp+xml`. Contains the type, which the response has too.
    Xml(&'static str),
    /// `application/x-www-form-urlencoded`.
    Form,
    /// Any other type, in lower case and without parameters.
    Unknown(String),
}

impl Media {
    /// Reads the value of the header `Content-Type`.
    pub(crate) fn of(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Self::Json,
            "application/x-ndjson" => Self::JsonLines,
            "application/cloudevents+json" => Self::CloudEvent,
            "application/cloudevents-batch+json" => Self::CloudEvents,
            "application/xml" => Self::Xml("application/xml"),
            "text/xml" => Self::Xml("text/xml"),
            "application/xmpp+xml" => Self::Xml("application/xmpp+xml"),
            "application/x-www-form-urlencoded" => Self::Form,
            _ => Self::Unknown(essence),
        }
    }
}

impl fmt::Display for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "application/json",
            Self::JsonLines => "application/x-ndjson",
            Self::CloudEvent => "application/cloudevents+json",
            Self::CloudEvents => "application/cloudevents-batch+json",
            Self::Xml(xml) => xml,
            Self::Form => "application/x-www-form-urlencoded",
            Self::Unknown(other) => other,
        })
    }
}
