//! The command `doctor`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output::Format;
use crate::stack::StackOptions;

/// Check credentials, URLs, secrets, permissions, the clock and quotas, without a device.
#[derive(Debug, Args)]
pub struct DoctorOptions {}

impl DoctorOptions {
    /// Runs the command.
    pub async fn run(self, _stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        bail!("not built yet")
    }
}
