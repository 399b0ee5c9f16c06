//! The command `domain`.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use pushlark_store::RemovalProgress;
use pushlark_xmpp::DomainPart;
use serde_json::json;
use time::OffsetDateTime;

use crate::output::{Format, Progress, confirm, print_json, say, waiting};
use crate::stack::{Stack, StackOptions};
use crate::user::parse_domain;

/// The time between two searches of the index, which follows the table with a delay.
const SEARCH_INTERVAL: Duration = Duration::from_millis(500);

/// Delete the registrations of a domain.
#[derive(Debug, Args)]
pub struct DomainOptions {
    #[command(subcommand)]
    command: DomainCommand,
}

#[derive(Debug, Subcommand)]
enum DomainCommand {
    /// Delete the registrations and push nodes of all users of a domain, without its subdomains. Other data stay until
    /// they expire.
    Remove {
        #[arg(value_parser = parse_domain)]
        domain: DomainPart,
        /// Delete without a question.
        #[arg(long)]
        yes: bool,
        /// Only count the registrations.
        #[arg(long)]
        dry_run: bool,
    },
}

impl DomainOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let DomainCommand::Remove { domain, yes, dry_run } = self.command;
        let store = Stack::find(stack).await?.store().await?;
        let at = OffsetDateTime::now_utc();
        let found = waiting("counting registrations", store.count_domain(&domain, at)).await?;
        if dry_run {
            match format {
                Format::Json => {
                    print_json(&json!({"domain": domain.as_str(), "found": found, "deleted": 0}))?;
                }
                Format::Human => say(format!("{domain} has {}. Nothing is deleted.", numbered(found)))?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        // The index may not have the last registrations yet, so it is searched even if it has none.
        if found > 0 {
            confirm(&format!("{} of {domain} will be deleted.", numbered(found)), yes)?;
        }
        let progress = Progress::start(Some(found), "registrations");
        let total = Cell::new(0);
        let count = |deleted: usize| {
            progress.add(deleted as u64);
            total.set(total.get() + deleted as u64);
        };
        while store.remove_domain(&domain, at, || true, count).await? != RemovalProgress::Complete {
            tokio::time::sleep(SEARCH_INTERVAL).await;
        }
        drop(progress);
        let deleted = total.get();
        match format {
            Format::Json => {
                print_json(&json!({"domain": domain.as_str(), "found": found, "deleted": deleted}))?;
            }
            Format::Human => say(format!("{domain}: {} deleted.", numbered(deleted)))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn numbered(items: u64) -> String {
    format!("{items} registrations and push nodes")
}
