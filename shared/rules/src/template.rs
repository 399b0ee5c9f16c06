//! Templates of texts: variables for the facts of an event, and a filter for their length.

use std::borrow::Cow;
use std::str::FromStr;

use serde::Deserialize;
use unicode_segmentation::UnicodeSegmentation;

/// The longest template, in bytes.
const MAX_TEMPLATE_BYTES: usize = 1_024;
/// The longest text of a template with its values, in bytes: no push service accepts a longer notification.
const MAX_TEXT_BYTES: usize = 4_096;
/// The largest length of the filter for length, in characters.
const MAX_LENGTH: usize = 1_000;

const ELLIPSIS: char = '…';

/// A text with variables, such as `{sender_name}: {body|40}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A variable, and the most characters of its value.
    Value(Variable, Option<usize>),
}

/// The name of a fact of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// The JID of the sender.
    Sender,
    /// The name of the sender, or else the JID.
    SenderName,
    /// The JID of the room.
    Room,
    /// The name of the room, or else the JID.
    RoomName,
    /// The nick of the sender in the room.
    Nick,
    /// The text of the message, or the placeholder for it.
    Body,
    /// The number of unread messages.
    Count,
    /// The kind of the event.
    Kind,
}

/// A text that is not a template. The operator must correct it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The text has this number of bytes.
    #[error("the template has {0} bytes, {MAX_TEMPLATE_BYTES} are allowed")]
    TooLong(usize),
    /// A brace is not closed.
    #[error("a variable is not closed; write {{{{ for a brace")]
    Open,
    /// No variable has this name.
    #[error(
        "unknown variable {{{0}}}, expected one of {{sender}}, {{sender_name}}, {{room}}, {{room_name}}, {{nick}}, \
         {{body}}, {{count}}, {{kind}}"
    )]
    UnknownVariable(String),
    /// The filter after `|` is not a length.
    #[error("expected a length from 1 to {MAX_LENGTH} after the | of a variable, such as {{body|40}}")]
    InvalidLength,
}

impl Template {
    /// Returns the text with the values of the variables, of at most 4,096 bytes.
    pub fn render<'v>(&self, value: impl Fn(Variable) -> Cow<'v, str>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Value(variable, None) => text.push_str(&value(*variable)),
                Part::Value(variable, Some(length)) => text.push_str(&shortened(&value(*variable), *length)),
            }
            if text.len() > MAX_TEXT_BYTES {
                return truncated(text, MAX_TEXT_BYTES);
            }
        }
        text
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        text.parse()
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong(text.len()));
        }
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(start) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(start);
            literal.push_str(before);
            if let Some(after) = brace.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(variable) = brace.strip_prefix('{') {
                let (variable, after) = variable.split_once('}').ok_or(TemplateError::Open)?;
                parts.extend(Some(std::mem::take(&mut literal)).filter(|text| !text.is_empty()).map(Part::Text));
                parts.push(Part::variable(variable)?);
                rest = after;
            } else {
                literal.push('}');
                rest = brace.strip_prefix("}}").or_else(|| brace.strip_prefix('}')).unwrap_or_default();
            }
        }
        literal.push_str(rest);
        parts.extend(Some(literal).filter(|text| !text.is_empty()).map(Part::Text));
        Ok(Self(parts))
    }
}

impl Part {
    /// Reads the text between the braces of a variable.
    fn variable(text: &str) -> Result<Self, TemplateError> {
        let (name, length) = match text.split_once('|') {
            Some((name, length)) => (name, Some(length)),
            None => (text, None),
        };
        let variable = match name.trim() {
            "sender" => Variable::Sender,
            "sender_name" => Variable::SenderName,
            "room" => Variable::Room,
            "room_name" => Variable::RoomName,
            "nick" => Variable::Nick,
            "body" => Variable::Body,
            "count" => Variable::Count,
            "kind" => Variable::Kind,
            unknown => return Err(TemplateError::UnknownVariable(unknown.into())),
        };
        let is_allowed = |length: &usize| (1..=MAX_LENGTH).contains(length);
        let read = |length: &str| length.trim().parse().ok().filter(is_allowed).ok_or(TemplateError::InvalidLength);
        Ok(Self::Value(variable, length.map(read).transpose()?))
    }
}

/// Returns a text of at most `length` characters, as a reader counts them (UAX #29). A longer text ends in an ellipsis,
/// which counts as a character.
fn shortened(text: &str, length: usize) -> Cow<'_, str> {
    let mut ends = text.grapheme_indices(true).map(|(start, _)| start);
    // The start of the last character that is left is the end of the text before the ellipsis.
    let Some(end) = ends.nth(length.saturating_sub(1)).filter(|_| ends.next().is_some()) else {
        return Cow::Borrowed(text);
    };
    Cow::Owned(with_ellipsis(&text[..end]))
}

/// Returns a text of at most `limit` bytes, which ends in an ellipsis if it was longer.
pub fn truncated(text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let room = limit.saturating_sub(ELLIPSIS.len_utf8());
    let end = text.grapheme_indices(true).map(|(start, _)| start).take_while(|start| *start <= room).last();
    with_ellipsis(&text[..end.unwrap_or_default()])
}

fn with_ellipsis(text: &str) -> String {
    let mut text = text.trim_end().to_owned();
    text.push(ELLIPSIS);
    text
}
