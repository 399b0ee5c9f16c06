//! The command `doctor`.

mod aws;
mod functions;
mod providers;
mod urls;

use std::fmt::Display;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::output::{Colour, Format, Progress, print_json, say};
use crate::stack::{Stack, StackOptions};

/// Check all that a stack needs to notify: functions, settings, secrets, credentials, URLs, clock, table, quotas.
///
/// Nothing is changed, and no device is notified. The providers are asked with a device that does not exist. The exit
/// code is 1 if a check fails; warnings do not change it.
#[derive(Debug, Args)]
pub struct DoctorOptions {}

/// The result of one check.
#[derive(Debug, Serialize)]
struct Check {
    /// The thing that is checked.
    check: String,
    state: State,
    /// The observation.
    detail: String,
    /// The remedy, unless it is in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

impl DoctorOptions {
    /// Runs the command.
    pub async fn run(self, options: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let stack = Stack::find(options).await?;
        let progress = Progress::start(None, "checking");
        let mut checks = Vec::new();
        let mut done = |found: Vec<Check>| {
            progress.add(found.len() as u64);
            checks.extend(found);
        };
        done(functions::check(&stack).await);
        done(functions::check_settings(&stack).await);
        done(providers::check(&stack).await);
        done(urls::check(&stack).await);
        done(aws::check(&stack).await);
        drop(progress);
        let is_failed = checks.iter().any(|check| check.state == State::Failed);
        match format {
            Format::Json => print_json(&checks)?,
            Format::Human => checks.iter().try_for_each(Check::print)?,
        }
        Ok(if is_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl Check {
    fn ok(check: impl Into<String>, detail: impl Display) -> Self {
        Self { check: check.into(), state: State::Ok, detail: detail.to_string(), remedy: None }
    }

    fn warning(check: impl Into<String>, detail: impl Display, remedy: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Warning, detail: detail.to_string(), remedy: Some(remedy.into()) }
    }

    fn failed(check: impl Into<String>, detail: impl Display, remedy: impl Into<String>) -> Self {
        Self { state: State::Failed, ..Self::warning(check, detail, remedy) }
    }

    fn print(&self) -> anyhow::Result<()> {
        let state = match self.state {
            State::Ok => Colour::Green.paint("ok     "),
            State::Warning => Colour::Yellow.paint("warning"),
            State::Failed => Colour::Red.paint("failed "),
        };
        say(format!("{state} {}: {}", self.check, self.detail))?;
        match &self.remedy {
            Some(remedy) => say(format!("        {remedy}")),
            None => Ok(()),
        }
    }
}
