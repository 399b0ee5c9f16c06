//! The command `logs`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// Print or follow the log lines of an event or a user.
#[derive(Debug, Args)]
pub struct LogsOptions {}

impl LogsOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
