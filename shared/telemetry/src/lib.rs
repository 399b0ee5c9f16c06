//! Logs, and metrics in CloudWatch's embedded format.

mod metrics;

pub use metrics::{Metric, count, flush, total};

use std::error::Error;
use std::fmt;

use pushlark_settings::{Environment, SettingError};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

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
pub fn start(format: Format, environment: &Environment) -> Result<(), SettingError> {
    let level: Targets =
        environment.get("LOG_LEVEL")?.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    let registry = tracing_subscriber::registry().with(level);
    let started: Result<(), TryInitError> = match format {
        Format::Json => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false).without_time())
            .try_init(),
        Format::Human => registry.with(tracing_subscriber::fmt::layer().with_target(false)).try_init(),
    };
    // Only a second start in one process fails, and leaves the first one's logging in place.
    drop(started);
    Ok(())
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
