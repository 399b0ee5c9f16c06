//! The command `logs`.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use aws_sdk_cloudwatchlogs::Client;
use clap::Args;
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use crate::log_line::{Level, LogLine};
use crate::output::{Format, Progress, print_json_line, reader_gone, say, tell, waiting};
use crate::stack::{Function, Place, Stack, StackOptions, open_stream};
use crate::user::parse_user;

/// The time between two reads of lines that are followed.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The age up to which CloudWatch Logs may still add lines to those that were read.
const LATENESS: Duration = Duration::from_secs(60);
/// The time without a line after which the earlier lines of the local stack are complete.
const LOCAL_PAUSE: Duration = Duration::from_secs(1);

/// The filter for lines at `error`, for starts that fail and for the reports of Lambda.
const ERRORS: &str = "?ERROR ?Error ?platform";
/// The error when the stream of the local stack ends.
const ENDED: &str = "the local stack has ended";

/// Show lines of the functions' logs, decoded.
///
/// Without --follow, the lines of the time before now; with --follow, these and all later ones. With --json, each line
/// is one JSON document.
#[derive(Debug, Args)]
pub struct LogsOptions {
    /// Only lines about the message with this id.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only lines with this user or room in a field. The line of a message to several recipients has the sender or the
    /// room, that of a message to one has the recipient.
    #[arg(long, value_name = "JID", value_parser = parse_user)]
    user: Option<BareJid>,
    /// Only lines of this level and more severe ones.
    #[arg(long, value_enum, value_name = "LEVEL", ignore_case = true, default_value = "info")]
    level: Level,
    /// The time before now, such as 90s, 10m, 1h or 7d.
    #[arg(long, default_value = "1h", value_parser = period, value_name = "TIME")]
    since: Duration,
    /// Most of the earlier lines; the newest ones are shown.
    #[arg(long, default_value_t = 1_000, value_name = "NUMBER")]
    limit: usize,
    /// Wait for further lines, until the command is interrupted.
    #[arg(long, short)]
    follow: bool,
}

/// A line of CloudWatch Logs and the id of its event.
struct Event {
    id: String,
    line: LogLine,
}

/// The log groups of a stack on AWS.
pub struct LogGroups {
    client: Client,
    /// The functions and the names of their groups.
    groups: Vec<(Function, String)>,
}

impl LogsOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let stack = Stack::find(stack).await?;
        let shown = async {
            match &stack.place {
                Place::Aws { .. } => self.show_aws(&LogGroups::of(&stack)?, format).await,
                Place::Local { url, http, .. } => self.show_local(url, http, format).await,
            }
        };
        let lines = tokio::select! {
            lines = shown => lines?,
            () = reader_gone() => return Ok(ExitCode::SUCCESS),
        };
        if lines == 0 && format == Format::Human {
            tell("no lines");
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Shows the lines of the log groups. Returns their number.
    async fn show_aws(&self, groups: &LogGroups, format: Format) -> anyhow::Result<usize> {
        let pattern = self.pattern();
        let mut start = OffsetDateTime::now_utc() - self.since;
        let progress = Progress::start(None, "reading lines");
        let mut events = groups.read(start, pattern.as_deref(), |line| self.wants(line), &progress).await?;
        drop(progress);
        if events.len() > self.limit {
            tell(format!("{} earlier lines are left out: see --limit", events.len() - self.limit));
            events.drain(..events.len() - self.limit);
        }
        let mut shown = 0;
        let mut seen: HashMap<String, OffsetDateTime> = HashMap::new();
        loop {
            for Event { id, line } in events {
                show(&line, format)?;
                seen.insert(id, line.time);
                shown += 1;
            }
            if !self.follow {
                return Ok(shown);
            }
            sleep(POLL_INTERVAL).await;
            start = start.max(OffsetDateTime::now_utc() - LATENESS);
            seen.retain(|_, time| *time >= start);
            let progress = Progress::start(None, "reading lines");
            events = groups.read(start, pattern.as_deref(), |line| self.wants(line), &progress).await?;
            drop(progress);
            events.retain(|event| !seen.contains_key(&event.id));
        }
    }

    /// Returns the filter by which CloudWatch sends fewer lines. It matches single words, since a filter of JSON fields
    /// would leave out the text with which a function says that it cannot start.
    fn pattern(&self) -> Option<String> {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        match (&self.id, &self.user, self.level) {
            (Some(id), ..) => Some(quoted(id)),
            (None, Some(user), _) => Some(quoted(user.as_str())),
            (None, None, Level::Error) => Some(ERRORS.into()),
            (None, None, Level::Warn) => Some(format!("{ERRORS} ?WARN")),
            (None, None, Level::Info | Level::Debug | Level::Trace) => None,
        }
    }

    fn wants(&self, line: &LogLine) -> bool {
        self.id.as_ref().is_none_or(|id| line.is_about_message(id))
            && self.user.as_ref().is_none_or(|user| line.is_about_user(user.as_str()))
            && line.level <= self.level
    }

    /// Shows the lines that the local stack streams as server-sent events. Returns the number of earlier ones.
    async fn show_local(&self, url: &str, http: &reqwest::Client, format: Format) -> anyhow::Result<usize> {
        let now = OffsetDateTime::now_utc();
        let start = now - self.since;
        let url = format!("{url}/live");
        let opened = open_stream(http.get(&url).header("accept", "text/event-stream"), &url);
        let mut answer = waiting("reading lines", opened).await?;
        let mut events = EventStream::default();
        let mut earlier = Vec::new();
        // The stream begins with the lines that the stack has kept, and goes on with new ones.
        let mut is_complete = false;
        while !is_complete && let Ok(chunk) = timeout(LOCAL_PAUSE, answer.chunk()).await {
            earlier.extend(events.lines(&chunk.context(ENDED)?.context(ENDED)?));
            is_complete = earlier.last().is_some_and(|line| line.time > now);
        }
        earlier.retain(|line| line.time >= start && self.wants(line));
        earlier.drain(..earlier.len().saturating_sub(self.limit));
        earlier.iter().try_for_each(|line| show(line, format))?;
        if !self.follow {
            return Ok(earlier.len());
        }
        loop {
            let chunk = answer.chunk().await.context(ENDED)?.context(ENDED)?;
            for line in events.lines(&chunk).into_iter().filter(|line| self.wants(line)) {
                show(&line, format)?;
            }
        }
    }
}

impl LogGroups {
    /// Returns the log groups of a stack on AWS.
    pub fn of(stack: &Stack) -> anyhow::Result<Self> {
        let Place::Aws { resources } = &stack.place else { bail!("the local stack has no log groups") };
        let group = |function: Function| {
            let name = resources.get(&function.log_group_id());
            let name = name.with_context(|| format!("the stack has no log group {}", function.log_group_id()))?;
            Ok((function, name.clone()))
        };
        let groups = Function::ALL.into_iter().map(group).collect::<anyhow::Result<_>>()?;
        Ok(Self { client: Client::new(&stack.aws), groups })
    }

    /// Returns the names of the groups.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|(_, name)| name.as_str())
    }

    /// Returns the lines at `error` since then, the oldest first. Each line that is read counts for the progress.
    pub async fn errors(&self, since: OffsetDateTime, progress: &Progress) -> anyhow::Result<Vec<LogLine>> {
        let events = self.read(since, Some(ERRORS), |line| line.level == Level::Error, progress).await?;
        Ok(events.into_iter().map(|event| event.line).collect())
    }

    /// Returns the lines since then that match, the oldest first.
    async fn read(
        &self,
        since: OffsetDateTime,
        pattern: Option<&str>,
        wants: impl Fn(&LogLine) -> bool,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut ids = HashSet::new();
        for (function, group) in &self.groups {
            let request = self.client.filter_log_events().log_group_name(group);
            let request = request.set_filter_pattern(pattern.map(str::to_owned));
            let request = request.start_time((since.unix_timestamp_nanos() / 1_000_000) as i64);
            let mut pages = request.into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| anyhow!(error.into_service_error()));
                for event in page.with_context(|| format!("the log group {group} cannot be read"))?.events() {
                    progress.add(1);
                    let milliseconds = i128::from(event.timestamp().unwrap_or_default());
                    let time = OffsetDateTime::from_unix_timestamp_nanos(milliseconds * 1_000_000)?;
                    let line = LogLine::of_lambda(time, function.program(), event.message().unwrap_or_default());
                    let Some(line) = line.filter(|line| wants(line)) else { continue };
                    let id = event.event_id().unwrap_or_default().to_owned();
                    if id.is_empty() || ids.insert(id.clone()) {
                        events.push(Event { id, line });
                    }
                }
            }
        }
        events.sort_by_key(|event| event.line.time);
        Ok(events)
    }
}

fn show(line: &LogLine, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Human => line.for_people().into_iter().try_for_each(say),
        Format::Json => print_json_line(line),
    }
}

/// The stream of events of which the last may be incomplete.
#[derive(Debug, Default)]
struct EventStream(Vec<u8>);

impl EventStream {
    /// Adds bytes of the stream, and returns the log lines that are complete with them.
    fn lines(&mut self, bytes: &[u8]) -> Vec<LogLine> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.0.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = self.0.drain(..end + 2).collect();
            lines.extend(data_of_log(&String::from_utf8_lossy(&event)).and_then(|data| LogLine::of_local(&data)));
        }
        lines
    }
}

/// Returns the data of an event `log`, or of a `step`, a line at `debug` (HTML Living Standard, "Server-sent events").
fn data_of_log(event: &str) -> Option<String> {
    let value =
        |field: &str, line: &str| line.strip_prefix(field).map(|value| value.trim_start_matches(' ').to_owned());
    let kind = event.lines().find_map(|line| value("event:", line));
    let data: Vec<_> = event.lines().filter_map(|line| value("data:", line)).collect();
    matches!(kind.as_deref(), Some("log" | "step")).then(|| data.join("\n"))
}

/// Reads a period such as `90s`, `10m`, `1h` or `7d`.
pub fn period(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is no time such as 90s, 10m, 1h or 7d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(expected)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(expected()),
    };
    let number: u32 = number.parse().map_err(|_| expected())?;
    // A century: far longer than logs are kept, and no date before it is out of range.
    let seconds = u64::from(number) * seconds;
    if seconds > 100 * 366 * 86_400 { Err(expected()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_a_number_and_a_unit() {
        assert_eq!(period("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(period("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(period("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in ["", "h", "5", "-1h", "1.5h", "1w", "5ä", "4294967295d"] {
            assert!(period(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_of_the_stream_is_read_by_its_kind() {
        assert_eq!(data_of_log("event: log\ndata: {\"a\":1}\n\n").unwrap(), "{\"a\":1}");
        assert_eq!(data_of_log("id: 5\ndata:{\ndata: }\nevent:log\n\n").unwrap(), "{\n}");
        assert_eq!(data_of_log("event: message\ndata: x\n\n"), None);
        assert_eq!(data_of_log(": comment\n\n"), None);
    }
}
