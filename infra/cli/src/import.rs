//! The command `import`.

mod check;
mod cursor;
mod database;
mod dump;
mod erlang;
mod latest;
mod lua;
mod map_host;
pub mod record;
mod server;
mod source;
mod state;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::num::NonZeroU32;
use std::path::{self, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use clap::error::ErrorKind;
use futures_util::{Stream, StreamExt, stream};
use pushlark_delivery::Destinations;
use pushlark_model::time::to_micros;
use pushlark_store::{Store, Transferred};
use pushlark_xmpp::DomainPart;
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::output::{Format, Progress, print_json, say, say_table, table, tell};
use crate::private_file;
use crate::stack::{Function, Stack, StackOptions};
use crate::user::parse_domain;
use check::{Check, Checked};
use latest::Latest;
use map_host::MapHost;
use record::{LeftOut, Row};
use source::{Origin, Source};
use state::{State, StateFile};

/// The users whose registrations are written concurrently.
const CONCURRENCY: usize = 32;
/// The most rows of one user that are read together.
const MAX_GROUP: usize = 1000;
/// The most time between two writes of the state.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// The most time for which a write may make up for a delay, so that a pause is not followed by a burst.
const MAX_LAG: Duration = Duration::from_millis(200);

/// The result of a registration that is stored, but does not notify with the present settings.
const NOTICED: &str = "stored, but no notification is sent";
/// The beginning of the result of a row that is left out, before its reason.
const LEFT_OUT: &str = "left out: ";

/// Import registrations of a chat server, or from CSV or JSON lines.
///
/// Without --apply, nothing is written: the report says what would be imported, and what is left out and why. docs/migration.md
/// says for each server how to get the source.
#[derive(Debug, Args)]
pub struct ImportOptions {
    /// A URL (postgres:// or mysql://), an SQL dump, a file of SQLite, a text export of Mnesia, Prosody's data folder, or a
    /// file with CSV or JSON lines.
    source: String,
    /// The form of the source.
    #[arg(long, value_name = "FORM")]
    from: Origin,
    /// Write the registrations to the table.
    #[arg(long)]
    apply: bool,
    /// Move the registrations at a PubSub host to another one, such as pubsub.example.com=push.@HOST@. @HOST@ is the
    /// user's domain. Can be repeated.
    #[arg(long, value_name = "FROM=TO")]
    map_host: Vec<MapHost>,
    /// The domain of the users of a table without domains (ejabberd's old schema).
    #[arg(long, value_name = "DOMAIN", value_parser = parse_domain)]
    host: Option<DomainPart>,
    /// The most registrations that are written per second.
    #[arg(long, value_name = "N", default_value = "100", value_parser = parse_rate)]
    rate: NonZeroU32,
    /// The file with the progress. An import that ended early continues from it; it is deleted at the end.
    #[arg(long, value_name = "FILE", default_value = "pushlark-import.state")]
    resume: PathBuf,
    /// Write a line in JSON to this new file for each row that is not imported.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// The result for one row.
enum Outcome {
    /// It is stored, or would be.
    Stored {
        /// Why no notification is sent with the present settings.
        notice: Option<String>,
    },
    /// The table has the same.
    Unchanged,
    /// It is left out.
    LeftOut(LeftOut),
}

/// Consecutive rows of one user.
struct Group {
    rows: Vec<Row>,
    /// The last row in the order of the source.
    last: String,
}

/// The writes that are allowed per second.
struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

/// Everything that an import works with.
struct Import {
    store: Store,
    check: Check,
    latest: Latest,
    pace: Pace,
    is_applied: bool,
}

/// The facts about a source that are known before its rows are imported.
struct Overview {
    rows: u64,
    /// Whether it has rows that can be read, or is right without one.
    is_right: bool,
    latest: Latest,
}

/// What the rows of a source became.
struct Tally {
    state: State,
    report: Option<BufWriter<File>>,
    /// The first row of each reason.
    examples: BTreeMap<String, String>,
}

impl ImportOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let froms: BTreeSet<_> = self.map_host.iter().map(|pair| &pair.from).collect();
        if froms.len() < self.map_host.len() {
            let error = "two values of --map-host have the same FROM: only the first would count\n";
            clap::Error::raw(ErrorKind::ArgumentConflict, error).exit();
        }
        let source = Source::find(self.from, &self.source, self.host.as_ref().map(ToString::to_string))?;
        let state_paths = StateFile::paths(&self.resume);
        for path in self.report.iter().chain(&state_paths) {
            ensure!(!source.is_at(path), "{} is the source: give another --report or --resume", path.display());
        }
        let report_path = self.report.as_ref().map(path::absolute).transpose()?;
        for path in state_paths {
            let is_report = report_path == Some(path::absolute(path)?);
            ensure!(!is_report, "--report is a file of --resume: give another one");
        }
        let stack = Stack::find(stack).await?;
        let environment = stack.environment(Function::Enable).await?;
        let now = to_micros(OffsetDateTime::now_utc());
        let interval = Duration::from_secs(1) / self.rate.get();
        let store = stack.store().await?;
        let check = Check {
            destinations: Destinations::from_environment(&environment)?,
            hosts: self.map_host.clone(),
            used_hosts: RefCell::default(),
            enabled_at: to_micros(source.modified().into()),
            now,
        };
        let name =
            format!("{:?} {} {:?} {} {}", self.from, source.name()?, self.map_host, stack.place_name(), stack.table);
        let file = if self.apply { Some(StateFile::lock(self.resume)?) } else { None };
        let former = file.as_ref().map(|file| file.load(&name)).transpose()?.flatten();
        let Overview { rows: total, is_right, latest } = overview(&source, &check, &store).await?;
        if total == 0 && !is_right {
            // The progress in another source of this name is kept.
            if let Some(file) = file.filter(|_| former.is_none()) {
                file.delete()?;
            }
            bail!("the source has no row of registrations: check that it is the right one");
        }
        let pace = Pace { interval, next: Mutex::new(Instant::now()) };
        let import = Import { store, check, latest, pace, is_applied: self.apply };
        let report_name = report_path.as_ref().map(|path| path.display().to_string());
        let report = match report_path {
            None => None,
            Some(path) => {
                let is_continued = former.as_ref().is_some_and(|former| former.report == report_name);
                let opened = if is_continued { private_file::append(&path) } else { private_file::create_new(&path) };
                let unwritten = || format!("{} cannot be created: --report is a new file", path.display());
                Some(BufWriter::new(opened.with_context(unwritten)?))
            }
        };
        let state = State { import: name, report: report_name.clone(), ..State::default() };
        let mut tally = Tally { state, report, examples: BTreeMap::new() };
        let skipped = match former {
            Some(former) if is_prefix(&source, &former).await? => {
                tell(format!("continues after {} rows", former.rows));
                tally.state = State { report: report_name, ..former };
                tally.state.rows
            }
            Some(_) => {
                tell("the source has changed since the import ended: it starts again");
                0
            }
            None => 0,
        };
        // From here on, the report is continued.
        tally.save(file.as_ref())?;
        let is_complete = import.run(&source, skipped, total, &mut tally, file.as_ref()).await?;
        // Before the report, which nobody may read.
        if is_complete && let Some(file) = file {
            file.delete()?;
        }
        tally.print(format, self.apply, &import.check.unused_hosts())?;
        if !is_complete {
            bail!("interrupted after {} of {total} rows: run the same command to continue", tally.state.rows);
        }
        ensure!(is_right, "no row of the source can be read: check that it is the right one, and --from");
        Ok(ExitCode::SUCCESS)
    }
}

impl Import {
    /// Imports the rows after the first `skipped`. Returns false if Ctrl-C ended it.
    async fn run(
        &self,
        source: &Source,
        skipped: u64,
        total: u64,
        tally: &mut Tally,
        file: Option<&StateFile>,
    ) -> anyhow::Result<bool> {
        let progress = Progress::start(Some(total), if self.is_applied { "importing" } else { "checking" });
        progress.add(skipped);
        let (mut rows, reader) = source.read();
        for _ in 0..skipped {
            // Later rows may be duplicates of it.
            let _ = rows.recv().await.map(|row| self.judge(row));
        }
        let mut finished = std::pin::pin!(groups(rows).map(|group| self.group(group)).buffered(CONCURRENCY));
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        let mut saved = Instant::now();
        let result = loop {
            let next = tokio::select! {
                biased;
                _ = &mut interrupt => break Ok(false),
                next = finished.next() => next,
            };
            match next {
                None => break Ok(true),
                Some(Err(error)) => break Err(error),
                Some(Ok((outcomes, last))) => {
                    progress.add(outcomes.len() as u64);
                    tally.add(outcomes, last)?;
                }
            }
            if saved.elapsed() > SAVE_INTERVAL {
                tally.save(file)?;
                saved = Instant::now();
            }
        };
        tally.save(file)?;
        if !matches!(result, Ok(true)) {
            return result
                .with_context(|| format!("stopped after {} rows: run the same command to continue", tally.state.rows));
        }
        reader.await.context("the reader of the source failed")??;
        result
    }

    /// Imports the rows of a group one after the other. They are judged at once, in the order of the source.
    fn group(&self, group: Group) -> impl Future<Output = anyhow::Result<(Vec<Outcome>, String)>> {
        let rows: Vec<_> = group.rows.into_iter().map(|row| self.judge(row)).collect();
        async move {
            let mut outcomes = Vec::with_capacity(rows.len());
            for row in rows {
                outcomes.push(match row {
                    Err(left_out) => Outcome::LeftOut(left_out),
                    Ok(checked) => self.transfer(checked).await?,
                });
            }
            Ok((outcomes, group.last))
        }
    }

    /// Returns the registration of a row, unless it is left out whatever the table has.
    fn judge(&self, row: Row) -> Result<Checked, LeftOut> {
        let name = name(&row);
        let checked = row.and_then(|record| self.check.check(record))?;
        match self.latest.reason(&checked.user, &checked.registration) {
            Some(reason) => Err(LeftOut { row: name, reason, detail: String::new() }),
            None => Ok(checked),
        }
    }

    async fn transfer(&self, checked: Checked) -> anyhow::Result<Outcome> {
        let Checked { user, registration, notice } = checked;
        let together = self.latest.of(&user);
        let mut transferred = self.store.try_transfer(&user, &registration, together).await?;
        if transferred == Transferred::Stored && self.is_applied {
            self.pace.wait().await;
            transferred = self.store.transfer(&user, &registration, together).await?;
        }
        let row = || format!("{user} {} {}", registration.jid, registration.node);
        let left_out = |reason| Outcome::LeftOut(LeftOut { row: row(), reason, detail: String::new() });
        Ok(match transferred {
            Transferred::Stored => Outcome::Stored { notice },
            Transferred::Unchanged => Outcome::Unchanged,
            Transferred::EnabledSince => left_out("the user has enabled the node again since"),
            Transferred::DeviceEnabledSince => left_out("the user has enabled the device at another node since"),
            Transferred::DeviceTaken => left_out("another user has enabled the device since"),
            Transferred::Full => left_out("the user has MAX_NODES other registrations"),
        })
    }
}

impl Pace {
    async fn wait(&self) {
        let slot = {
            let mut next = self.next.lock().await;
            let earliest = Instant::now().checked_sub(MAX_LAG).unwrap_or_else(Instant::now);
            let slot = (*next).max(earliest);
            *next = slot + self.interval;
            slot
        };
        sleep_until(slot).await;
    }
}

impl Tally {
    fn add(&mut self, outcomes: Vec<Outcome>, last: String) -> anyhow::Result<()> {
        for outcome in outcomes {
            let (result, left_out) = match outcome {
                Outcome::Stored { notice: None } => ("stored".to_owned(), None),
                Outcome::Stored { notice: Some(notice) } => {
                    self.examples.entry(NOTICED.to_owned()).or_insert(notice);
                    (NOTICED.to_owned(), None)
                }
                Outcome::Unchanged => ("unchanged".to_owned(), None),
                Outcome::LeftOut(left_out) => (format!("{LEFT_OUT}{}", left_out.reason), Some(left_out)),
            };
            if let Some(LeftOut { row, reason, detail }) = left_out {
                let colon = if detail.is_empty() { "" } else { ": " };
                self.examples.entry(result.clone()).or_insert_with(|| format!("{row}{colon}{detail}"));
                if let Some(report) = &mut self.report {
                    writeln!(report, "{}", json!({"row": row, "reason": reason, "detail": detail}))?;
                }
            }
            *self.state.results.entry(result).or_default() += 1;
            self.state.rows += 1;
        }
        self.state.last = last;
        Ok(())
    }

    fn save(&mut self, file: Option<&StateFile>) -> anyhow::Result<()> {
        self.report.as_mut().map_or(Ok(()), Write::flush)?;
        file.map_or(Ok(()), |file| file.save(&self.state))
    }

    fn print(&self, format: Format, is_applied: bool, unused_hosts: &[String]) -> anyhow::Result<()> {
        let State { rows, results, .. } = &self.state;
        if format == Format::Json {
            let left_out: BTreeMap<_, _> =
                results.iter().filter_map(|(result, count)| Some((result.strip_prefix(LEFT_OUT)?, count))).collect();
            let count = |result: &str| results.get(result).copied().unwrap_or(0);
            return print_json(
                &json!({"applied": is_applied, "rows": rows, "stored": count("stored") + count(NOTICED),
                "without_notification": count(NOTICED), "unchanged": count("unchanged"), "left_out": left_out,
                "unused_map_hosts": unused_hosts}),
            );
        }
        let lines = results.iter().map(|(result, count)| {
            [count.to_string(), result.clone(), self.examples.get(result).cloned().unwrap_or_default()]
        });
        match results.is_empty() {
            true => say("The source has no row.")?,
            false => say_table(&table(["rows", "result", "first"], lines))?,
        }
        unused_hosts.iter().try_for_each(|pair| say(format!("--map-host {pair} matches no row.")))?;
        if !is_applied {
            say("Nothing was written. Give --apply to import.")?;
        }
        Ok(())
    }
}

fn parse_rate(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| format!("expected a number from 1 to {}", u32::MAX))
}

/// Reads a source once.
async fn overview(source: &Source, check: &Check, store: &Store) -> anyhow::Result<Overview> {
    let progress = Progress::start(None, "rows read");
    let (mut rows, reader) = source.read();
    let (mut count, mut has_record, mut latest) = (0, false, Latest::new(store.has_one_account()));
    while let Some(row) = rows.recv().await {
        count += 1;
        progress.add(1);
        has_record |= row.is_ok();
        if let Ok(Checked { user, registration, .. }) = row.and_then(|record| check.check(record)) {
            latest.add(&user, &registration);
        }
    }
    let is_table = reader.await.context("the reader of the source failed")??;
    Ok(Overview { rows: count, is_right: has_record || count == 0 && is_table, latest: latest.finish() })
}

/// Returns whether the source still begins with the rows that the state has finished.
async fn is_prefix(source: &Source, state: &State) -> anyhow::Result<bool> {
    let (mut rows, _reader) = source.read();
    let mut last = None;
    for _ in 0..state.rows {
        last = rows.recv().await;
    }
    Ok(last.map_or(state.rows == 0, |last| name(&last) == state.last))
}

fn name(row: &Row) -> String {
    match row {
        Ok(record) => record.name(),
        Err(left_out) => left_out.row.clone(),
    }
}

/// Collects consecutive rows of one user.
fn groups(rows: mpsc::Receiver<Row>) -> impl Stream<Item = Group> {
    stream::unfold((rows, None::<Row>), |(mut rows, begun)| async move {
        let first = match begun {
            Some(row) => row,
            None => rows.recv().await?,
        };
        let mut last = name(&first);
        let mut group = vec![first];
        let next = loop {
            let Some(row) = rows.recv().await else { break None };
            let is_same = match (&row, group.first()) {
                (Ok(row), Some(Ok(first))) => row.user == first.user,
                _ => false,
            };
            if !is_same || group.len() == MAX_GROUP {
                break Some(row);
            }
            last = name(&row);
            group.push(row);
        };
        Some((Group { rows: group, last }, (rows, next)))
    })
}
