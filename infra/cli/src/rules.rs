//! The command `rules`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// Check rules in TOML, and print their decisions about an event.
#[derive(Debug, Args)]
pub struct RulesOptions {}

impl RulesOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
