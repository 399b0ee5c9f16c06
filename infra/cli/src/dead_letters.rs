//! The command `dead-letters`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// List, show, retry or drop the events in the dead-letter queue.
#[derive(Debug, Args)]
pub struct DeadLettersOptions {}

impl DeadLettersOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
