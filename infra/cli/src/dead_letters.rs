//! The command `dead-letters`.

mod letter;
mod peek;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use pushlark_queue::redriven;
use pushlark_settings::catalogue;
use serde_json::json;
use time::{Duration, OffsetDateTime};

use crate::output::{Colour, Format, Progress, confirm, print_json, say, say_table, table, waiting};
use crate::stack::{Function, Stack, StackOptions};
use letter::{Content, Letter};
use peek::Peek;

/// The most bytes of one call to SQS ("Amazon SQS message quotas").
const BATCH_BYTES: usize = 1024 * 1024;

/// Show, retry and drop what could not be handled: the messages in the dead-letter queue.
///
/// SQS has no list of messages. They are received and released at once, so each look counts as a receive, and another
/// consumer does not see them meanwhile.
#[derive(Debug, Args)]
pub struct DeadLettersOptions {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// List the messages.
    List,
    /// Show messages with their events, recipients and errors.
    Show {
        /// The ids of the messages, or their first characters.
        #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
        id: Vec<String>,
        /// Also show the bodies, which have the texts of users' messages.
        #[arg(long)]
        bodies: bool,
    },
    /// Handle messages again: records go back to the queue, failed invocations of ingest are repeated.
    Retry(Chosen),
    /// Delete messages. Their notifications are lost.
    Drop {
        #[command(flatten)]
        chosen: Chosen,
        /// Delete without a question.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Chosen {
    /// The ids of the messages, or their first characters.
    #[arg(required_unless_present = "all", value_parser = NonEmptyStringValueParser::new())]
    id: Vec<String>,
    /// All messages.
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

impl DeadLettersOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let stack = Stack::find(stack).await?;
        let mut peek = waiting("counting messages", Peek::of(&stack)).await?;
        // Ctrl-C at the question of `drop` ends the program.
        if !matches!(self.command, DeadLettersCommand::Drop { .. }) {
            peek.stop_at_interrupt();
        }
        let done = match &self.command {
            DeadLettersCommand::List => list(&mut peek, format).await,
            DeadLettersCommand::Show { id, bodies } => show(&mut peek, &Ids::new(id), *bodies, format).await,
            DeadLettersCommand::Retry(chosen) => retry(&stack, &mut peek, chosen, format).await,
            DeadLettersCommand::Drop { chosen, yes } => drop_letters(&mut peek, chosen, *yes, format).await,
        };
        // Also after an error or Ctrl-C, so that the messages do not wait for the end of their visibility timeout.
        let released = peek.release().await;
        done.and_then(|code| released.map(|()| code))
    }
}

async fn list(peek: &mut Peek<'_>, format: Format) -> anyhow::Result<ExitCode> {
    let progress = Progress::start(Some(peek.expected()), "messages");
    let mut letters = Vec::new();
    while let Some(page) = peek.next().await? {
        progress.add(page.len() as u64);
        letters.extend(page.into_iter().map(Letter::without_body));
    }
    drop(progress);
    letters.sort_by_key(|letter| letter.sent_at);
    let unseen = peek.unseen().await?;
    if format == Format::Json {
        let messages: Vec<_> = letters.iter().map(|letter| letter.to_json(false)).collect();
        print_json(&json!({"messages": messages, "unseen": unseen}))?;
        return Ok(ExitCode::SUCCESS);
    }
    if letters.is_empty() {
        say("There are no dead letters.")?;
    } else {
        let rows = letters
            .iter()
            .map(|letter| [letter.id.clone(), letter.age(), letter.receives.to_string(), letter.content.to_string()]);
        say_table(&table(["id", "age", "receives", "content"], rows))?;
        say(Colour::Dim.paint("This was a peek: the messages were received, which counts, and released again."))?;
    }
    if unseen > 0 {
        say(format!("About {unseen} more were not seen: another consumer has received them."))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(peek: &mut Peek<'_>, ids: &Ids<'_>, bodies: bool, format: Format) -> anyhow::Result<ExitCode> {
    let letters = find(peek, ids).await?;
    if format == Format::Json {
        let messages: Vec<_> = letters.iter().map(|letter| letter.to_json(bodies)).collect();
        print_json(&json!({"messages": messages}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for letter in letters {
        letter.in_words(bodies).into_iter().try_for_each(say)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn retry(stack: &Stack, peek: &mut Peek<'_>, chosen: &Chosen, format: Format) -> anyhow::Result<ExitCode> {
    let environment = stack.environment(Function::Worker).await?;
    let time_to_live = Duration::seconds(environment.number(&catalogue::TIME_TO_LIVE)?.into());
    let started = OffsetDateTime::now_utc();
    let oldest = started - time_to_live;
    let mut retried = Retried::default();
    if chosen.all {
        let progress = Progress::start(Some(peek.expected()), "messages");
        while let Some(mut page) = peek.next().await? {
            let number = page.len() as u64;
            // A record that has failed once more would be retried forever.
            page.retain(|letter| letter.sent_at <= started);
            retried.add(stack, peek, page, oldest).await?;
            progress.add(number);
        }
    } else {
        let letters = find(peek, &Ids::new(&chosen.id)).await?;
        retried.add(stack, peek, letters, oldest).await?;
    }
    let Retried { again, failed, expired } = &retried;
    match format {
        Format::Json => print_json(&json!({"retried": again, "expired_events": expired, "failed": failed}))?,
        Format::Human => {
            say(format!("Retried: {}.", again.len()))?;
            if *expired > 0 {
                say(format!(
                    "{expired} of their events are older than TIME_TO_LIVE: the worker drops their notifications."
                ))?;
            }
            for (id, why) in failed {
                say(format!("{id}: {} {why}", Colour::Red.paint("stays:")))?;
            }
        }
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The result of `retry`.
#[derive(Default)]
struct Retried {
    /// The ids of the messages that are handled again.
    again: Vec<String>,
    /// The reasons why messages stay, by id.
    failed: BTreeMap<String, String>,
    /// The number of events whose notifications are expired.
    expired: usize,
}

impl Retried {
    /// Retries messages. Each is deleted after the queue or the function has accepted it, so a crash between the two
    /// repeats it. A record keeps the id with which its devices are claimed.
    async fn add(
        &mut self,
        stack: &Stack,
        peek: &mut Peek<'_>,
        letters: Vec<Letter>,
        oldest: OffsetDateTime,
    ) -> anyhow::Result<()> {
        let (mut batch, mut bytes): (Vec<Letter>, usize) = (Vec::new(), 0);
        for letter in letters {
            match &letter.content {
                Content::Record(record) => {
                    self.expired += record.work.iter().filter(|work| work.at < oldest).count();
                    if batch.len() == 10 || !batch.is_empty() && bytes + letter.body.len() > BATCH_BYTES {
                        self.send(stack, peek, std::mem::take(&mut batch)).await?;
                        bytes = 0;
                    }
                    bytes += letter.body.len();
                    batch.push(letter);
                }
                Content::Invocation(failed) => match stack.invoke(Function::Ingest, &failed.payload).await {
                    Ok(_) => {
                        peek.delete(std::slice::from_ref(&letter)).await?;
                        self.again.push(letter.id);
                    }
                    Err(error) => drop(self.failed.insert(letter.id, format!("{error:#}"))),
                },
                Content::Unreadable(_) => {
                    self.failed.insert(letter.id, "it is not a record; drop removes it".into());
                }
                Content::Newer(_) => {
                    self.failed.insert(letter.id, "it is a record of a newer version; update this tool".into());
                }
            }
        }
        self.send(stack, peek, batch).await
    }

    /// Sends records to the queue, and deletes those that it has accepted.
    async fn send(&mut self, stack: &Stack, peek: &mut Peek<'_>, letters: Vec<Letter>) -> anyhow::Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        let entries: Result<Vec<_>, _> = letters
            .iter()
            .enumerate()
            .map(|(index, letter)| {
                SendMessageBatchRequestEntry::builder()
                    .id(index.to_string())
                    .message_body(redriven(&letter.body, &letter.id))
                    .set_message_group_id(letter.group.clone())
                    .build()
            })
            .collect();
        let send = stack.sqs.send_message_batch().queue_url(&stack.queue_url).set_entries(Some(entries?));
        let sent = send.send().await.context("the records cannot be sent to the queue (sqs:SendMessage)")?;
        let mut refused = BTreeMap::new();
        for failed in sent.failed {
            refused.insert(failed.id, failed.message.unwrap_or(failed.code));
        }
        let mut accepted = Vec::new();
        for (index, letter) in letters.into_iter().enumerate() {
            match refused.remove(&index.to_string()) {
                Some(reason) => drop(self.failed.insert(letter.id, reason)),
                None => accepted.push(letter),
            }
        }
        peek.delete(&accepted).await?;
        self.again.extend(accepted.into_iter().map(|letter| letter.id));
        Ok(())
    }
}

async fn drop_letters(peek: &mut Peek<'_>, chosen: &Chosen, yes: bool, format: Format) -> anyhow::Result<ExitCode> {
    let mut dropped = 0;
    if chosen.all {
        let expected = peek.expected();
        confirm(
            &format!("All dead letters, about {expected}, will be deleted, and their notifications are lost."),
            yes,
        )?;
        let progress = Progress::start(Some(expected), "messages");
        while let Some(page) = peek.next().await? {
            peek.delete(&page).await?;
            progress.add(page.len() as u64);
            dropped += page.len();
        }
    } else {
        let letters = find(peek, &Ids::new(&chosen.id)).await?;
        let named: Vec<_> = letters.iter().map(|letter| format!("{} ({})", letter.id, letter.content)).collect();
        confirm(&format!("These dead letters will be deleted: {}.", named.join("; ")), yes)?;
        peek.delete(&letters).await?;
        dropped = letters.len();
    }
    match format {
        Format::Json => print_json(&json!({"dropped": dropped}))?,
        Format::Human => say(format!("Deleted: {dropped}."))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The beginnings of ids in the arguments.
struct Ids<'i>(BTreeSet<&'i str>);

impl<'i> Ids<'i> {
    fn new(ids: &'i [String]) -> Self {
        Self(ids.iter().map(String::as_str).collect())
    }
}

/// Finds messages by the beginnings of their ids. Fails if a beginning belongs to none or to several.
async fn find(peek: &mut Peek<'_>, ids: &Ids<'_>) -> anyhow::Result<Vec<Letter>> {
    let mut found: BTreeMap<&str, Letter> = BTreeMap::new();
    while let Some(page) = peek.next().await? {
        for letter in page {
            let mut given = ids.0.iter().filter(|id| letter.id.starts_with(**id));
            let Some(id) = given.next() else { continue };
            ensure!(given.next().is_none(), "several arguments name the dead letter {}", letter.id);
            if let Some(other) = found.insert(*id, letter) {
                bail!("{id} names several dead letters, such as {}", other.id);
            }
        }
    }
    if let Some(missing) = ids.0.iter().find(|id| !found.contains_key(**id)) {
        let unseen = peek.unseen().await?;
        let note = if unseen > 0 { " among those that this consumer could receive" } else { "" };
        bail!("there is no dead letter {missing}{note}");
    }
    Ok(found.into_values().collect())
}
