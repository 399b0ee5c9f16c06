//! The log lines of the process, as JSON.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::live::{Content, Live};

/// A log line.
#[derive(Debug)]
pub struct Line {
    pub metadata: &'static Metadata<'static>,
    /// The message, the fields of the spans, and the fields of the line.
    pub fields: Fields,
}

/// Names and values.
#[derive(Debug, Clone, Default)]
pub struct Fields(pub Map<String, Value>);

/// The layer that adds lines to the entries.
pub struct LogLines(Live);

impl LogLines {
    pub fn new(live: Live) -> Self {
        Self(live)
    }

    /// The lines at `info` and above, and at `debug` those that say why somebody is notified or not. DynamoDB's are none:
    /// it warns of each condition that is not met, which is no problem of a function.
    pub fn filtered<S>(self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let of_decisions = [("ingest::screen", Level::DEBUG), ("worker", Level::DEBUG)];
        let targets = Targets::new()
            .with_default(Level::INFO)
            .with_targets(of_decisions)
            .with_target("dynoxide", LevelFilter::OFF);
        Layer::<S>::with_filter(self, targets)
    }
}

impl<S> Layer<S> for LogLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().replace(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.0.extend(of_span.0.clone());
            }
        }
        event.record(&mut fields);
        self.0.add(Content::Line(Line { metadata: event.metadata(), fields }));
    }
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
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
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}
