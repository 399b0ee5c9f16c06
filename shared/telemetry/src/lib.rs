//! Logs, and metrics in CloudWatch's embedded format.

mod escaping;
mod metrics;

pub use metrics::{Metric, count, flush, total};

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::set_hook;

use pushlark_settings::{Environment, SettingError};
use tracing::Dispatch;
use tracing::dispatcher::set_global_default;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use escaping::Escaping;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An object a line, as CloudWatch Logs Insights reads it. The platform adds the time.
    Json,
    /// For a person at a terminal.
    Human,
}

/// Starts logging at the level of `LOG_LEVEL` (`error`, `warn`, `info`, `debug`, `trace`, or directives for single
/// targets such as `info,worker=debug`; default `info`).
///
/// With `STACK_NAME`, metrics have the dimension `Stack`.
///
/// A panic is a line of the log, too, with where it was; what it says may quote a message, and is told at `debug`.
pub fn start(format: Format, environment: &Environment) -> Result<(), SettingError> {
    set_hook(Box::new(|panic| {
        tracing::error!(at = panic.location().map(ToString::to_string), "a panic");
        tracing::debug!(%panic, "what a panic says");
    }));
    if let Some(name) = environment.text("STACK_NAME") {
        metrics::set_stack(name);
    }
    start_to(io::stdout, format, environment)
}

/// Starts logging as [`start`] does, to another place: each line is one write.
pub fn start_to<W>(writer: W, format: Format, environment: &Environment) -> Result<(), SettingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = environment.get("LOG_LEVEL")?.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    // Only a second start in one process fails, and leaves the first one's logging in place.
    let _ = set_global_default(dispatch(format, level, writer));
    Ok(())
}

fn dispatch<W>(format: Format, level: Targets, writer: W) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let registry = tracing_subscriber::registry().with(level);
    // Without colours, whose escapes would be taken for somebody else's.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Escaping { format, writer });
    match format {
        Format::Json => registry.with(lines.json().flatten_event(true).with_current_span(false).without_time()).into(),
        Format::Human => registry.with(lines.with_target(false)).into(),
    }
}

/// Shows an error with all its causes, for a log line.
#[derive(Debug)]
pub struct Causes<'e>(pub &'e dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
