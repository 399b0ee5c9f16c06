//! The output of commands: tables and sentences for people, JSON for programs; questions and progress on standard
//! error.

use std::env;
use std::fmt::Display;
use std::future::pending;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{bail, ensure};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pushlark_telemetry::is_unseen;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The time after which a command shows its progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);
/// The time between two pictures of the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Whether a bar is visible. One that begins within another one is not shown.
static IS_BAR_VISIBLE: AtomicBool = AtomicBool::new(false);
/// The least average width of a table's columns that are shortened, in characters. Narrower ones cannot be read.
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

/// Waits until nobody reads standard output any longer, such as `head`. A file and a terminal have no such end.
pub async fn reader_gone() {
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    // Its mode stays, so that a full pipe lets the command wait.
    if let Ok(pipe) = stdout.and_then(Sender::from_owned_fd_unchecked)
        && pipe.ready(Interest::ERROR).await.is_ok_and(|ready| ready.is_error())
    {
        return;
    }
    pending().await
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

/// Returns a table without borders. On a terminal it is as wide as this at most: cells have several lines, or, with too
/// many columns for that, each row is a list of names and values. The cells have no colours.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    // A terminal that does not know its size has the width 0.
    table_within(Table::new().width().filter(|width| *width > 0), header, rows)
}

/// Returns a table of this width at most, in characters.
fn table_within<const N: usize>(
    width: Option<u16>,
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    let rows: Vec<_> = rows.into_iter().map(|row| row.map(|cell| escaped(&cell))).collect();
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header).add_rows(&rows);
    let Some(width) = width else { return table };
    let padding = table.column_iter().map(|column| column.padding_width()).map(usize::from).sum::<usize>();
    let content = table.column_max_content_widths().into_iter().map(usize::from).sum::<usize>();
    if padding + content <= usize::from(width) {
        return table;
    }
    if usize::from(width) < N * MIN_COLUMN_WIDTH {
        table = Table::new();
        table.load_preset(NOTHING);
        for (number, row) in rows.iter().enumerate() {
            if number > 0 {
                table.add_row(["", ""]);
            }
            let named = header.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
            table.add_rows(named.map(|(name, cell)| [format!("{name}:"), cell.clone()]));
        }
    }
    table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
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

/// Waits for a result, and shows the activity if that takes longer than two seconds. Nothing may be printed meanwhile.
pub async fn waiting<T>(activity: &'static str, result: impl Future<Output = T>) -> T {
    let _progress = Progress::begin(ProgressBar::no_length(), "{spinner} {msg}", activity);
    result.await
}

/// The progress of a command that may take longer than two seconds: a bar on standard error, if that is a terminal.
pub struct Progress {
    bar: ProgressBar,
    /// Shows the bar after two seconds, also while no item is finished.
    appearing: JoinHandle<()>,
}

impl Progress {
    /// Begins; `total` is the number of items, `None` if it is not known.
    pub fn start(total: Option<u64>, activity: &'static str) -> Self {
        match total {
            Some(total) => {
                Self::begin(ProgressBar::new(total), "{spinner} {msg} {wide_bar} {pos}/{len}, {eta} left", activity)
            }
            None => Self::begin(ProgressBar::no_length(), "{spinner} {msg} {pos}", activity),
        }
    }

    fn begin(bar: ProgressBar, template: &str, activity: &'static str) -> Self {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(activity);
        let shown = bar.clone();
        let appearing = tokio::spawn(async move {
            sleep(PROGRESS_AFTER).await;
            if !IS_BAR_VISIBLE.swap(true, Ordering::Relaxed) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(PROGRESS_INTERVAL);
            }
        });
        Self { bar, appearing }
    }

    /// Adds finished items.
    pub fn add(&self, items: u64) {
        self.bar.inc(items);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.appearing.abort();
        self.bar.finish_and_clear();
        if !self.bar.is_hidden() {
            IS_BAR_VISIBLE.store(false, Ordering::Relaxed);
        }
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

    const HEADER: [&str; 8] =
        ["service", "node", "device", "enabled", "first enabled", "preferences", "encrypted", "problems"];

    fn row(node: &str) -> [String; 8] {
        ["push.example.com", node, "fcm …0123", "2026-11-28T12:00:00Z", "2026-11-28T12:00:00Z", "", "no", ""]
            .map(str::to_owned)
    }

    fn widest(table: &Table) -> usize {
        table.lines().map(|line| line.chars().count()).max().unwrap_or_default()
    }

    #[test]
    fn a_table_is_as_wide_as_the_terminal_at_most() {
        for node in ["phone".to_owned(), "n".repeat(400), "a b ".repeat(100), "\u{202e}".repeat(99)] {
            let rows = [row(&node), row("tablet")];
            for width in (30..=300).step_by(3) {
                let table = table_within(Some(width), HEADER, rows.clone());
                assert!(widest(&table) <= usize::from(width), "{width}: {table}");
                let text = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
                let narrow = text(&table.to_string());
                assert!(width > 111 || narrow.contains(&text(&escaped(&node))), "nothing is left out: {table}");
            }
            assert_eq!(table_within(None, HEADER, rows).lines().count(), 3, "only a terminal has a width");
        }
    }

    #[test]
    fn a_row_with_too_many_columns_is_a_list_of_names_and_values() {
        let table = table_within(Some(60), HEADER, [row("phone"), row("tablet")]);
        let lines: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[..3], ["service: push.example.com", "node: phone", "device: fcm …0123"]);
        assert_eq!(lines[6..8], ["", "service: push.example.com"], "{table}");
        assert!(!table.to_string().contains("problems"), "an empty value says nothing: {table}");
        let short = table_within(Some(20), ["a", "b", "c"], [["1".to_owned(), "2".to_owned(), "3".to_owned()]]);
        assert_eq!(short.lines().count(), 2, "a table that fits stays one: {short}");
    }
}
