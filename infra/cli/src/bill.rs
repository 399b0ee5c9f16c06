//! The command `bill`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// Print the cost of the stack in a period, per million events, from CloudWatch.
#[derive(Debug, Args)]
pub struct BillOptions {}

impl BillOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
