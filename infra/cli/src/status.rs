//! The command `status`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// Print the state of the stack: queues, alarms, versions, last errors.
#[derive(Debug, Args)]
pub struct StatusOptions {}

impl StatusOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
