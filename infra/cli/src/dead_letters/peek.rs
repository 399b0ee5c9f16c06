//! A look at the dead-letter queue by receiving its messages.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName,
    QueueAttributeName,
};
use tokio::task::JoinHandle;

use super::letter::Letter;
use crate::stack::Stack;

/// The most messages in one call ("Amazon SQS message quotas").
const MAX_BATCH: usize = 10;
/// The time for which received messages are hidden from other consumers, in seconds.
const VISIBILITY_TIMEOUT: i32 = 300;
/// The time for which one call waits for a message, in seconds. Without it, SQS asks only some of its servers.
const WAIT: i32 = 1;
/// The most times that all messages are released because another consumer has some of them: two peeks that wait for each
/// other would never end.
const MAX_ROUNDS: usize = 12;
/// The longest pause of a round, in milliseconds.
const MAX_PAUSE: u64 = 400;

/// The messages of the dead-letter queue, each once. [`release`](Self::release) makes them visible again.
pub struct Peek<'s> {
    sqs: &'s Client,
    url: &'s str,
    /// The number of messages at the start.
    expected: u64,
    seen: HashSet<String>,
    /// The receipt handles of messages that are hidden now, by id.
    held: HashMap<String, String>,
    rounds: usize,
    /// Waits for Ctrl-C.
    interrupt: Option<JoinHandle<io::Result<()>>>,
}

impl<'s> Peek<'s> {
    /// Starts a look at the dead-letter queue of a stack.
    pub async fn of(stack: &'s Stack) -> anyhow::Result<Self> {
        let (sqs, url) = (&stack.sqs, stack.dead_letter_queue_url.as_str());
        let (seen, held) = (HashSet::new(), HashMap::new());
        let mut peek = Self { sqs, url, expected: 0, seen, held, rounds: 0, interrupt: None };
        let [visible, hidden] = peek.depth().await?;
        peek.expected = visible + hidden;
        Ok(peek)
    }

    /// Returns the approximate number of messages at the start.
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// Lets [`next`](Self::next) fail after Ctrl-C. Until then, Ctrl-C ends the program.
    pub fn stop_at_interrupt(&mut self) {
        self.interrupt = Some(tokio::spawn(tokio::signal::ctrl_c()));
    }

    /// Returns messages that were not returned before; `None` if there are no more.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Letter>>> {
        loop {
            let is_interrupted = self.interrupt.as_ref().is_some_and(JoinHandle::is_finished);
            ensure!(!is_interrupted, "interrupted: the messages that are left are visible again");
            let received = self
                .sqs
                .receive_message()
                .queue_url(self.url)
                .max_number_of_messages(MAX_BATCH as i32)
                .visibility_timeout(VISIBILITY_TIMEOUT)
                .wait_time_seconds(WAIT)
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .send()
                .await
                .context("the dead letters cannot be received (sqs:ReceiveMessage)")?;
            let messages = received.messages.unwrap_or_default();
            if messages.is_empty() {
                if self.rounds == MAX_ROUNDS || self.unseen().await? == 0 {
                    return Ok(None);
                }
                self.rounds += 1;
                self.release().await?;
                // Two peeks that release at once must not take the same turns again.
                let pause = u64::from(std::process::id()).wrapping_mul(2_654_435_761 + self.rounds as u64) % MAX_PAUSE;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                continue;
            }
            let mut letters = Vec::new();
            for message in messages {
                let (Some(id), Some(receipt)) = (&message.message_id, &message.receipt_handle) else { continue };
                self.held.insert(id.clone(), receipt.clone());
                if self.seen.insert(id.clone()) {
                    letters.push(Letter::read(message));
                }
            }
            if !letters.is_empty() {
                return Ok(Some(letters));
            }
        }
    }

    /// Returns the approximate number of messages that another consumer has received and that were not returned.
    pub async fn unseen(&self) -> anyhow::Result<u64> {
        let [_, hidden] = self.depth().await?;
        Ok(hidden.saturating_sub(self.held.len() as u64).min(self.expected.saturating_sub(self.seen.len() as u64)))
    }

    /// Deletes messages.
    pub async fn delete(&mut self, letters: &[Letter]) -> anyhow::Result<()> {
        for batch in letters.chunks(MAX_BATCH) {
            let entries = batch.iter().enumerate().filter_map(|(index, letter)| {
                let receipt = self.held.get(&letter.id)?;
                Some(DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt).build())
            });
            let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
            let deletion = self.sqs.delete_message_batch().queue_url(self.url).set_entries(Some(entries)).send().await;
            let deletion = deletion.context("dead letters cannot be deleted (sqs:DeleteMessage)")?;
            if let Some(failed) = deletion.failed.into_iter().next() {
                let reason = failed.message.unwrap_or(failed.code);
                anyhow::bail!("a dead letter cannot be deleted: {reason}");
            }
            batch.iter().for_each(|letter| drop(self.held.remove(&letter.id)));
        }
        Ok(())
    }

    /// Makes all messages visible that are still there.
    pub async fn release(&mut self) -> anyhow::Result<()> {
        let held: Vec<_> = self.held.drain().collect();
        for batch in held.chunks(MAX_BATCH) {
            let entries = batch.iter().enumerate().map(|(index, (_, receipt))| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt)
                    .visibility_timeout(0)
                    .build()
            });
            let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
            // A receipt that is no longer valid is a failed entry: its message is visible already, or deleted.
            let change = self.sqs.change_message_visibility_batch().queue_url(self.url).set_entries(Some(entries));
            change.send().await.with_context(|| {
                format!(
                    "the messages stay hidden for {VISIBILITY_TIMEOUT} s: they cannot be released \
                     (sqs:ChangeMessageVisibility)"
                )
            })?;
        }
        Ok(())
    }

    /// Returns the approximate numbers of visible and of hidden messages.
    async fn depth(&self) -> anyhow::Result<[u64; 2]> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let read = self.sqs.get_queue_attributes().queue_url(self.url).set_attribute_names(Some(names.to_vec()));
        let read = read.send().await.context("the dead-letter queue cannot be read (sqs:GetQueueAttributes)")?;
        let attributes = read.attributes.unwrap_or_default();
        Ok(names.map(|name| attributes.get(&name).and_then(|number| number.parse().ok()).unwrap_or(0)))
    }
}
