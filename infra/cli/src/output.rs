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
use pushlark_telemetry::is_unseen;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The time after which a command shows its progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);
/// The least average width of a table's columns, in characters.
const MIN_COLUMN_WIDTH: usize = 14;
/// The character that stands for ESC in the codes of colours until a line is printed. XML does not allow it, so no
/// text of a user has it.
const COLOUR_MARK: char = '\u{ffff}';
/// The code that ends a colour, after ESC.
const END: &str = "[0m";

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
    /// Returns the text for [`say`], in this colour if standard output is a terminal that shows colours
    /// (<https://no-color.org>).
    pub fn paint(self, text: &str) -> String {
        let is_forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if is_forbidden || !io::stdout().is_terminal() || env::var_os("TERM").is_some_and(|term| term == "dumb") {
            return text.to_owned();
        }
        format!("{COLOUR_MARK}{}{text}{COLOUR_MARK}{END}", self.code())
    }

    /// Returns the code that begins the colour, after ESC (ECMA-48, "SGR").
    fn code(self) -> &'static str {
        match self {
            Self::Red => "[31m",
            Self::Green => "[32m",
            Self::Yellow => "[33m",
            Self::Dim => "[2m",
        }
    }
}

/// Prints one line, with what users and push services wrote in it escaped. The error of a closed pipe is
/// returned, where `println!` panics.
pub fn say(line: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", painted(&escaped(&line.to_string())))?)
}

/// Prints a table.
pub fn say_table(table: &Table) -> anyhow::Result<()> {
    table.lines().try_for_each(say)
}

/// Prints lines on standard error, each as [`say`] does. Nobody may read them.
pub fn tell(lines: impl Display) {
    for line in lines.to_string().lines() {
        let _ = writeln!(io::stderr().lock(), "{}", escaped(line));
    }
}

/// Returns a text with ESC in place of the marks before codes of colours.
fn painted(text: &str) -> String {
    let codes = [Colour::Red, Colour::Green, Colour::Yellow, Colour::Dim].map(Colour::code).into_iter().chain([END]);
    codes.fold(text.to_owned(), |text, code| text.replace(&format!("{COLOUR_MARK}{code}"), &format!("\x1b{code}")))
}

/// Returns a text with an escape in place of each character that would begin a line, control the terminal or change
/// the order of the visible text.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match is_unseen(character) {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    escaped
}

/// Writes JSON with the same characters escaped, which are within strings. Line breaks between values stay.
fn write_json(json: &str) -> anyhow::Result<()> {
    let mut escaped = String::with_capacity(json.len() + 1);
    for character in json.chars() {
        match character != '\n' && is_unseen(character) {
            true => {
                character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped += &format!("\\u{unit:04x}"));
            }
            false => escaped.push(character),
        }
    }
    Ok(writeln!(io::stdout().lock(), "{escaped}")?)
}

/// Prints a JSON document in one line, for a stream of documents.
pub fn print_json_line(document: &impl Serialize) -> anyhow::Result<()> {
    write_json(&serde_json::to_string(document)?)
}

/// Prints a JSON document.
pub fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    write_json(&serde_json::to_string_pretty(document)?)
}

/// Returns a time in RFC 3339.
pub fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

/// Returns a table without borders that is as wide as the terminal at most, unless the columns would be too narrow to
/// be read. The cells have no colours.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    if table.width().is_some_and(|width| usize::from(width) >= N * MIN_COLUMN_WIDTH) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row.map(|cell| escaped(&cell)));
    }
    table
}

/// Asks whether to do what cannot be undone; `yes` is the answer given in advance by `--yes`. Without a terminal and
/// without `--yes` nothing is done.
pub fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let question = escaped(question);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_codes_of_colours_reach_the_terminal() {
        let text = format!("{COLOUR_MARK}[31mred{COLOUR_MARK}[0m \x1b[31m \u{9b}2J {COLOUR_MARK}[2J \u{202e}a\nb\tc");
        let printed = painted(&escaped(&text));
        let expected = "\x1b[31mred\x1b[0m \\u{1b}[31m \\u{9b}2J \u{ffff}[2J \\u{202e}a\\nb\\tc";
        assert_eq!(printed, expected);
    }
}
