//! The command `registrations`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// List, enable or disable the registrations of a user.
#[derive(Debug, Args)]
pub struct RegistrationsOptions {}

impl RegistrationsOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
