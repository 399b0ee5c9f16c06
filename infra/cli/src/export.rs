//! The command `export`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// Print all data of a user, or all registrations in the format of a chat server.
#[derive(Debug, Args)]
pub struct ExportOptions {}

impl ExportOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
