//! A line of a function's log, read from CloudWatch Logs or from the local stack.

use std::fmt::Write;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::output::Colour;
use crate::stack::Function;

/// The page that explains log lines. The words for the codes of `why` are from its table.
const PAGE: &str = include_str!("../../../docs/logs.md");
/// The head of that table.
const REASONS: &str = "| `why` | reason |\n| --- | --- |\n";

/// The severity of a line, the most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// A line that is decoded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogLine {
    /// The time at which it was written.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// The name of the function; `local` for a line of a part that the functions of the local stack share.
    pub function: String,
    pub level: Level,
    pub message: String,
    /// All other fields.
    pub fields: Map<String, Value>,
    /// The reasons in words, by the codes of `why`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub reasons: Map<String, Value>,
}

impl Level {
    fn of(text: &str) -> Option<Self> {
        Self::from_str(text, true).ok()
    }

    /// Returns the word in lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }
}

impl LogLine {
    /// Reads a line of a log group of Lambda: of the function, of Lambda itself, or text that is neither, such as the
    /// reason why a function does not start. Returns `None` for a line of metrics.
    pub fn of_lambda(time: OffsetDateTime, function: &str, text: &str) -> Option<Self> {
        let text = text.trim();
        let Ok(fields) = serde_json::from_str::<Map<String, Value>>(text) else {
            let level = if text.starts_with("Error") { Level::Error } else { Level::Info };
            return (!text.is_empty()).then(|| Self::new(time, function, level, text.into(), Map::new()));
        };
        if fields.contains_key("_aws") {
            return None;
        }
        match fields.get("type").and_then(Value::as_str).filter(|kind| kind.starts_with("platform.")) {
            Some(kind) => Some(Self::of_platform(time, function, kind, &fields)),
            None => Some(Self::of_fields(time, function, fields)),
        }
    }

    /// Reads a line from the stream of the local stack: the same fields, with `time` and `target`.
    pub fn of_local(text: &str) -> Option<Self> {
        let mut fields: Map<String, Value> = serde_json::from_str(text).ok()?;
        let time = OffsetDateTime::parse(fields.remove("time")?.as_str()?, &Rfc3339).ok()?;
        let target = fields.remove("target");
        let target = target.as_ref().and_then(Value::as_str).unwrap_or_default();
        let program = target.split("::").next().unwrap_or_default();
        let is_function = Function::ALL.iter().any(|function| function.program() == program);
        // The functions share their other parts, so these lines are those of the stack.
        Some(Self::of_fields(time, if is_function { program } else { "local" }, fields))
    }

    /// A line that Lambda writes about an invocation or a start that failed ("Lambda Telemetry API event schema").
    fn of_platform(time: OffsetDateTime, function: &str, kind: &str, fields: &Map<String, Value>) -> Self {
        let record = fields.get("record").and_then(Value::as_object).cloned().unwrap_or_default();
        let status = record.get("status").and_then(Value::as_str).unwrap_or("success");
        let level = if status == "success" { Level::Info } else { Level::Error };
        Self::new(time, function, level, kind.into(), record)
    }

    fn of_fields(time: OffsetDateTime, function: &str, mut fields: Map<String, Value>) -> Self {
        let mut take = |name: &str| fields.remove(name).and_then(|value| value.as_str().map(str::to_owned));
        let level = take("level").and_then(|level| Level::of(&level)).unwrap_or(Level::Info);
        let message = take("message").unwrap_or_default();
        take("timestamp");
        Self::new(time, function, level, message, fields)
    }

    fn new(time: OffsetDateTime, function: &str, level: Level, message: String, fields: Map<String, Value>) -> Self {
        let why = fields.get("why").and_then(Value::as_str).unwrap_or_default();
        // With several recipients, each code has its number.
        let codes = why.split(',').filter_map(|code| code.split('=').next());
        let reasons = codes.filter_map(|code| Some((code.to_owned(), reason(code)?.into()))).collect();
        Self { time, function: function.into(), level, message, fields, reasons }
    }

    /// Returns whether a field of the line names the message.
    pub fn is_about_message(&self, id: &str) -> bool {
        let text = |name: &str| self.fields.get(name).and_then(Value::as_str);
        text("id") == Some(id) || text("ids").is_some_and(|ids| ids.split(' ').any(|one| one == id))
    }

    /// Returns whether a field of the line is the bare JID of the user.
    pub fn is_about_user(&self, user: &str) -> bool {
        let fields = ["to", "user", "owner", "from", "caller"];
        fields.into_iter().any(|name| self.fields.get(name).and_then(Value::as_str) == Some(user))
    }

    /// Returns the line as people read it, and a further line for each reason.
    pub fn for_people(&self) -> Vec<String> {
        let (date, hours, minutes, seconds) =
            (self.time.date(), self.time.hour(), self.time.minute(), self.time.second());
        let time = format!("{date}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", self.time.millisecond());
        let level = format!("{:5}", self.level.name());
        let level = match self.level {
            Level::Error => Colour::Red.paint(&level),
            Level::Warn => Colour::Yellow.paint(&level),
            Level::Info | Level::Debug | Level::Trace => level,
        };
        let mut line = format!("{} {level} {:8} {}", Colour::Dim.paint(&time), self.function, self.message);
        for (name, value) in &self.fields {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            // Writing to a text never fails.
            let _ = write!(line, " {}{value}", Colour::Dim.paint(&format!("{name}=")));
        }
        let reasons = self.reasons.iter();
        let reasons = reasons.map(|(code, reason)| format!("    {code}: {}", reason.as_str().unwrap_or_default()));
        [line].into_iter().chain(reasons).collect()
    }
}

/// Returns the reason that a code of `why` stands for, as the page of the logs has it.
fn reason(code: &str) -> Option<String> {
    let table = PAGE.split_once(REASONS)?.1;
    let rows = table.lines().map_while(|row| row.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
    let mut rows = rows
        .filter(|(name, _)| *name == code || name.strip_suffix("NAME").is_some_and(|prefix| code.starts_with(prefix)));
    rows.next().map(|(_, reason)| without_links(reason))
}

/// Returns the text of Markdown: links without their targets, code without its marks.
fn without_links(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, (label, after))) =
        rest.split_once('[').and_then(|(before, link)| Some((before, link.split_once("](")?)))
    {
        text += before;
        text += label;
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    (text + rest).replace('`', "")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn noon() -> OffsetDateTime {
        OffsetDateTime::parse("2026-11-28T12:00:00Z", &Rfc3339).unwrap()
    }

    fn line(text: &str) -> LogLine {
        LogLine::of_lambda(noon(), "worker", text).unwrap()
    }

    #[test]
    fn every_code_of_the_page_has_a_reason_in_plain_text() {
        let table = PAGE.split_once(REASONS).unwrap().1;
        let rows: Vec<_> = table.lines().take_while(|row| row.starts_with('|')).collect();
        assert!(rows.len() > 40, "{}", rows.len());
        for row in rows {
            let code = row.split('`').nth(1).unwrap();
            let reason = reason(code).unwrap_or_default();
            assert!(reason.len() > 5 && !reason.contains(['`', '[', ']']), "{code}: {reason:?}");
        }
        assert_eq!(reason("muted").unwrap(), "Preference mute.");
        assert!(reason("rule-family").unwrap().starts_with("This rule skips the message"));
        assert_eq!(reason("lambda-of-nobody"), None);
    }

    #[test]
    fn a_line_is_decoded_with_the_reasons_of_its_codes() {
        let line = line(
            r#"{"level":"INFO","message":"notified","id":"m3","from":"room@muc.example.com","why":"muted=1,no-body=4"}"#,
        );
        assert_eq!((line.level, line.message.as_str()), (Level::Info, "notified"));
        let reasons = serde_json::json!({"muted": "Preference mute.", "no-body": "The message has no body."});
        assert_eq!(Value::from(line.reasons.clone()), reasons);
        assert!(line.is_about_message("m3") && line.is_about_user("room@muc.example.com"));
        assert!(!line.is_about_message("m") && !line.is_about_user("muc.example.com"));
        let text = line.for_people().join("\n");
        assert!(text.starts_with("2026-11-28T12:00:00.000Z INFO  worker   notified "), "{text}");
        assert!(text.contains(" id=m3"), "{text}");
        assert!(text.ends_with("\n    muted: Preference mute.\n    no-body: The message has no body."), "{text}");
    }

    #[test]
    fn lines_of_lambda_and_text_are_decoded_and_metrics_are_left_out() {
        let failed = line(r#"{"time":"…","type":"platform.report","record":{"status":"timeout","requestId":"r"}}"#);
        assert_eq!((failed.level, failed.message.as_str()), (Level::Error, "platform.report"));
        assert_eq!(failed.fields["status"], "timeout");
        let start = line("Error: QUEUE_URL must be set\n");
        assert_eq!((start.level, start.message.as_str()), (Level::Error, "Error: QUEUE_URL must be set"));
        assert_eq!(LogLine::of_lambda(noon(), "worker", r#"{"Delivered":1,"_aws":{}}"#), None);
    }

    #[test]
    fn a_line_of_the_local_stack_is_decoded() {
        let text =
            r#"{"time":"2026-11-28T12:00:00Z","level":"ERROR","target":"ingest::screen","message":"x","ids":"a b"}"#;
        let line = LogLine::of_local(text).unwrap();
        assert_eq!((line.function.as_str(), line.level, line.time), ("ingest", Level::Error, noon()));
        assert!(line.is_about_message("b"));
        let text = text.replace("ingest::screen", "pushlark_telemetry::refusals");
        assert_eq!(LogLine::of_local(&text).unwrap().function, "local", "no crate is a function");
    }
}
