//! The output of commands: tables and sentences for people, JSON for programs; questions and progress on standard
//! error.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The time after which a command shows its progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text and tables.
    Human,
    /// One JSON document on standard output, or one per line where a command follows something.
    Json,
}

/// A colour of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Red,
    Green,
    Yellow,
    Dim,
}

impl Colour {
    /// Returns the text in this colour if standard output is a terminal that shows colours (<https://no-color.org>).
    pub fn paint(self, text: &str) -> String {
        let is_forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_forbidden || !io::stdout().is_terminal() || env::var_os("TERM").is_some_and(|term| term == "dumb") {
            return text.to_owned();
        }
        let code = match self {
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Dim => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Prints a line. The error of a closed pipe is returned, where `println!` panics.
pub fn say(line: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}

/// Prints a JSON document in one line, for a stream of documents.
pub fn print_json_line(document: &impl Serialize) -> anyhow::Result<()> {
    say(serde_json::to_string(document)?)
}

/// Prints a JSON document.
pub fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    Ok(writeln!(out)?)
}

/// Returns a time in RFC 3339.
pub fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

/// Returns a table without borders that is as wide as the terminal at most.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table
}

/// Asks whether to do what cannot be undone; `yes` is the answer given in advance by `--yes`. Without a terminal and
/// without `--yes` nothing is done.
pub fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    ensure!(io::stdin().is_terminal(), "{question} This cannot be undone: give --yes to do it without a question");
    eprint!("{question} This cannot be undone. Continue? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was done");
    }
    Ok(())
}

/// The progress of a command that may take longer than two seconds: a bar on standard error, if that is a terminal.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// Begins; `total` is the number of items, `None` if it is not known.
    pub fn start(total: Option<u64>, activity: &'static str) -> Self {
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        bar.set_draw_target(ProgressDrawTarget::hidden());
        let template = match total {
            Some(_) => "{msg} {wide_bar} {pos}/{len}, {eta} left",
            None => "{spinner} {msg} {pos}",
        };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(activity);
        Self { bar, started: Instant::now() }
    }

    /// Adds finished items.
    pub fn add(&self, items: u64) {
        if self.bar.is_hidden() && self.started.elapsed() > PROGRESS_AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(items);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
