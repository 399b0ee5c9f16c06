//! Logging, and metrics in CloudWatch's embedded metric format.

mod escaping;
mod format;
mod json;
mod levels;
mod metrics;
mod refusals;

pub use escaping::is_unseen;
pub use format::Format;
pub use metrics::{Metric, Timing, count, flush, record, record_cold_start, total};
pub use refusals::{Refusal, log_refusal};

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::set_hook;

use pushlark_settings::{Environment, SettingError, catalogue};
use tracing::Dispatch;
use tracing::dispatcher::set_global_default;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use escaping::Escaping;
use json::{JsonLine, Members};
use levels::Levels;

/// Starts logging at the level of `LOG_LEVEL`: `error`, `warn`, `info` (the default), `debug` or `trace`, and levels
/// for single targets, such as `info,worker=debug`.
///
/// With `STACK_NAME`, metrics have the dimension `Stack`.
///
/// A panic is logged with its location. Its message may quote a stanza, so it is logged at `debug`.
pub fn start(format: Format, environment: &Environment) -> Result<(), SettingError> {
    start_to(io::stdout, format, environment)?;
    watch_process(environment)
}

/// Starts logging like [`start`], in [`Format::Human`]. `layer` gets the lines, too, whatever `LOG_LEVEL` is.
pub fn start_with(layer: impl Layer<Registry> + Send + Sync, environment: &Environment) -> Result<(), SettingError> {
    let Levels(levels) = environment.get(&catalogue::LOG_LEVEL)?.unwrap_or_default();
    let writer = Escaping { format: Format::Human, writer: io::stdout };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(writer);
    // Fails only at the second start in a process. The first one's logging stays.
    let _ = set_global_default(tracing_subscriber::registry().with(layer).with(lines.with_filter(levels)).into());
    watch_process(environment)
}

/// Logs panics, and names the stack in metrics.
fn watch_process(environment: &Environment) -> Result<(), SettingError> {
    let stack = environment.value(&catalogue::STACK_NAME)?;
    set_hook(Box::new(|panic| {
        tracing::error!(at = panic.location().map(ToString::to_string), "a panic");
        tracing::debug!(%panic, "the message of a panic");
    }));
    if let Some(name) = stack {
        metrics::set_stack(name);
    }
    Ok(())
}

/// Starts logging like [`start`], to another output. Each line is one write.
pub fn start_to<W>(writer: W, format: Format, environment: &Environment) -> Result<(), SettingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let levels = environment.get(&catalogue::LOG_LEVEL)?.unwrap_or_default();
    // Fails only at the second start in a process. The first one's logging stays.
    let _ = set_global_default(dispatch(format, levels, writer));
    Ok(())
}

fn dispatch<W>(format: Format, Levels(levels): Levels, writer: W) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let registry = tracing_subscriber::registry().with(levels);
    // Without colours: their escape sequences would be escaped, too.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Escaping { format, writer });
    match format {
        Format::Json => registry.with(lines.fmt_fields(Members).event_format(JsonLine)).into(),
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
