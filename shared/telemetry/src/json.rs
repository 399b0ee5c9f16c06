//! The JSON of a log line: `level`, `message`, the fields of the spans and the fields of the event, in this order and
//! without further members, since CloudWatch bills each byte and adds the time itself.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats the fields of a span or an event as members of a JSON object, each with a comma before it.
pub struct Members;

/// Formats a whole line.
pub struct JsonLine;

/// The members of an object, and its message.
#[derive(Default)]
struct Object {
    message: Option<String>,
    members: String,
}

impl Object {
    fn add(&mut self, field: &Field, value: impl fmt::Display) {
        use fmt::Write;
        // A write to a text cannot fail.
        let _ = write!(self.members, ",{}:{value}", text(field.name()));
    }
}

/// Returns the JSON of a text, which can always be serialized.
fn text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

impl Visit for Object {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no number for infinity.
        match value.is_finite() {
            true => self.add(field, value),
            false => self.record_debug(field, &value),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = Some(value.to_owned()),
            _ => self.add(field, text(value)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl<'w> FormatFields<'w> for Members {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut object = Object::default();
        fields.record(&mut object);
        writer.write_str(&object.members)
    }
}

impl<S> FormatEvent<S, Members> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, Members>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut object = Object::default();
        event.record(&mut object);
        write!(writer, "{{\"level\":\"{}\"", event.metadata().level())?;
        if let Some(message) = &object.message {
            write!(writer, ",\"message\":{}", text(message))?;
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<Members>>() {
                writer.write_str(&fields.fields)?;
            }
        }
        writeln!(writer, "{}}}", object.members)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, pipe};
    use std::sync::Arc;

    use tracing::dispatcher::with_default;

    use crate::dispatch;
    use crate::format::Format;
    use crate::levels::Levels;

    fn written(write: impl FnOnce()) -> String {
        let (mut lines, writer) = pipe().unwrap();
        with_default(&dispatch(Format::Json, Levels::default(), Arc::new(writer)), write);
        let mut written = String::new();
        lines.read_to_string(&mut written).unwrap();
        written
    }

    #[test]
    fn a_line_has_the_level_the_message_and_the_fields_alone() {
        let line = written(|| {
            let none: Option<u64> = None;
            tracing::error_span!("event", id = "m\"1", to = %"bob@example.com").in_scope(|| {
                tracing::info!(delivered = 2_u64, ratio = 0.5, is_quiet = true, change = -1, none, why = ?"x", "it is {}", "so");
            });
        });
        let expected = r#"{"level":"INFO","message":"it is so","id":"m\"1","to":"bob@example.com","delivered":2,"ratio":0.5,"is_quiet":true,"change":-1,"why":"\"x\""}"#;
        assert_eq!(line, format!("{expected}\n"));
    }

    #[test]
    fn numbers_that_json_does_not_have_are_texts() {
        let line = written(|| tracing::warn!(ratio = f64::INFINITY, missing = f64::NAN));
        assert_eq!(line, "{\"level\":\"WARN\",\"ratio\":\"inf\",\"missing\":\"NaN\"}\n");
    }
}
