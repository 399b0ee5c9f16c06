//! The command `import`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// Import registrations of a chat server, or from CSV or JSON lines.
#[derive(Debug, Args)]
pub struct ImportOptions {}

impl ImportOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
