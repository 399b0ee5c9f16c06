//! The command `export`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use pushlark_xmpp::BareJid;

use crate::output::Format;
use crate::stack::{Stack, StackOptions};
use crate::user;

/// Print all data of a user as JSON, or all registrations in the format of a chat server.
#[derive(Debug, Args)]
pub struct ExportOptions {
    /// The user whose data are exported, with the tokens of the devices.
    #[arg(value_parser = user::parse_user)]
    user: Option<BareJid>,
    /// Write a new file that only its owner can read.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl ExportOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, _format: Format) -> anyhow::Result<ExitCode> {
        let Some(user) = self.user else { bail!("not built yet") };
        user::export(&Stack::find(stack).await?, &user, self.output.as_deref()).await?;
        Ok(ExitCode::SUCCESS)
    }
}
