//! The number of messages of a conversation that a user has not read.
//!
//! The counter of a conversation is the item `unread/<conversation>`. It holds the number of messages that were counted,
//! how many of them are read, and the names of the messages that were counted last, each with its number. A message has
//! several names: the id of its event, so that it is counted once, and the ids by which a read mark may refer to it.
//!
//! The total of a user is one query over all counters, so a counter exists only while something is unread: a read mark
//! that leaves nothing unread copies the names and the time of the mark to the item `read/<conversation>`, and then
//! deletes the counter, unless a message was counted in the meantime. If the writer stops between these two steps, the
//! counter adds nothing to the total, and the next read mark, or DynamoDB after [`READ_COUNTER_LIFETIME`], deletes it.
//! The copy costs a write per conversation that is read. An index of unread conversations would cost one per message.
//!
//! A message may be late: it was sent before the counter was created, and perhaps read before. Only such a message looks
//! at `read/<conversation>`, after it is counted, and then counts as read.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;
use pushlark_model::time::to_micros;
use pushlark_telemetry::Causes;
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::attributes::{COUNTED_AT, COUNTED_TOTAL, EXPIRES_AT, OPENED_AT, PK, READ_AT, READ_TOTAL, SK};
use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, expiry, keys, seconds_now, unless_stale, write};

/// The lifetime of a counter after its last use.
const COUNTER_LIFETIME: Duration = Duration::from_hours(90 * 24);
/// The lifetime of a counter without unread messages, whose deletion has failed, or which holds only the time of a read
/// mark for messages that are still in the queue.
const READ_COUNTER_LIFETIME: Duration = Duration::from_hours(24);
/// The largest counter, in bytes: DynamoDB bills a kilobyte as one write.
const MAX_COUNTER_BYTES: usize = 1_024;
/// The most bytes by which one message or one read mark enlarges a counter.
const MAX_GROWTH_BYTES: usize = 144;
/// The size to which a counter shrinks when it drops the names of its oldest messages.
const KEPT_COUNTER_BYTES: usize = 600;
/// The number of messages whose names stay, even if long JIDs alone are larger than [`KEPT_COUNTER_BYTES`].
const MIN_NAMED_MESSAGES: usize = 4;
/// The most ids of a message, beside the id of its event, that a counter knows.
const MAX_REFERENCES: usize = 5;

/// A message, as an unread counter knows it.
#[derive(Debug, Clone, Copy)]
pub struct CountedMessage<'m> {
    /// The id of its event: a message is counted once.
    pub id: &'m str,
    /// The ids by which a read mark may refer to it, the most important one first: the stanza's `id` and its stanza-ids
    /// (XEP-0359).
    pub references: &'m [&'m str],
    /// The time of the message.
    pub at: OffsetDateTime,
}

impl Store {
    /// Counts a message of a conversation, unless it was counted before or is older than the last read mark. Returns its
    /// number: the number of unread messages, including this one.
    ///
    /// One conditional write counts the message and stores its names, so concurrent calls count it once.
    pub async fn count(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: CountedMessage<'_>,
    ) -> Result<u32, StoreError> {
        if let Some(counted) = self.claimed(message.id, user).await?.counted() {
            return Ok(counted);
        }
        let name = keys::counted_message(message.id);
        let (mut counter, is_new) = self.add_message(user, conversation, message, &name).await?;
        let is_counted = counter.contains_key(&name);
        let was_opened_later =
            item::number_of(&counter, OPENED_AT).is_some_and(|opened_at| to_micros(message.at) <= opened_at);
        if is_counted && was_opened_later && self.was_read(user, conversation, &name, message.at).await? {
            counter = self.discount(user, conversation, &name).await?.unwrap_or(counter);
            counter.remove(&name);
        } else if is_new {
            self.forget_some(user, &keys::unread(conversation), &counter).await?;
        }
        Ok(unread(&counter, &name).max(1))
    }

    /// Returns the number of unread messages of a conversation.
    pub async fn unread(&self, user: &BareJid, conversation: &BareJid) -> Result<u32, StoreError> {
        let counter = self.get("look up an unread count", user, &keys::unread(conversation)).await?;
        Ok(unread(&counter, COUNTED_TOTAL))
    }

    /// Returns the number of unread messages in all conversations of a user except one, by one query. It reads 1 MB,
    /// which is more than a thousand conversations: others are not in the number, so that strangers who fill a user's
    /// table make no notification more expensive than that.
    pub async fn unread_elsewhere(&self, user: &BareJid, conversation: &BareJid) -> Result<u32, StoreError> {
        let except = keys::unread(conversation);
        let page = self
            .query()
            .key_condition_expression(format!("{PK} = :pk AND begins_with({SK}, :prefix)"))
            .projection_expression([SK, COUNTED_TOTAL, READ_TOTAL, EXPIRES_AT].join(", "))
            .expression_attribute_values(":pk", text(user))
            .expression_attribute_values(":prefix", text(keys::UNREAD_PREFIX))
            .send()
            .await
            .map_err(StoreError::during("look up unread counts"))?;
        let now = seconds_now();
        // DynamoDB deletes an expired item with a delay.
        let is_expired = |counter: &Item| item::number_of(counter, EXPIRES_AT).is_some_and(|at| at <= now);
        let is_elsewhere = |counter: &Item| item::text_of(counter, SK) != Some(except.as_str());
        let counters =
            page.items.unwrap_or_default().into_iter().filter(|item| !is_expired(item) && is_elsewhere(item));
        Ok(counters.fold(0, |total: u32, counter| total.saturating_add(unread(&counter, COUNTED_TOTAL))))
    }

    /// Records that a user had read a conversation at `at`: up to the message to which `message` refers, or else all of
    /// it. A reference that is not known, such as to a message that is not counted yet, means all, too. Older read marks
    /// than the last one have no effect.
    pub async fn note_read(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: Option<&str>,
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let counter = match message {
            None => self.read_all(user, conversation, at).await?,
            // The time of the mark has no influence: the number of its message shows whether it reads further.
            Some(message) => match self.read_up_to(user, conversation, message).await? {
                Ok(counter) => counter,
                Err(counter) if self.has_read_message(user, conversation, message).await? => counter,
                Err(_) => self.read_all(user, conversation, at).await?,
            },
        };
        self.retire(user, conversation, &counter).await;
        Ok(())
    }

    /// Adds a message to a counter. Returns the counter, and whether the message is new in it.
    async fn add_message(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: CountedMessage<'_>,
        name: &str,
    ) -> Result<(Item, bool), StoreError> {
        let next = format!("if_not_exists({COUNTED_TOTAL}, :zero) + :one");
        let mut references: Vec<_> =
            message.references.iter().take(MAX_REFERENCES).map(|id| keys::message_reference(id)).collect();
        references.sort_unstable();
        references.dedup();
        let mut sets = format!("SET #message = {next}");
        let mut update = self.update(user, &keys::unread(conversation)).expression_attribute_names("#message", name);
        for (index, reference) in references.into_iter().enumerate() {
            sets += &format!(", #r{index} = {next}");
            update = update.expression_attribute_names(format!("#r{index}"), reference);
        }
        let counted = update
            .update_expression(format!(
                "{sets}, {COUNTED_TOTAL} = {next}, {COUNTED_AT} = :at, {EXPIRES_AT} = :expires_at, \
                 {OPENED_AT} = if_not_exists({OPENED_AT}, :now)"
            ))
            .condition_expression(format!(
                "attribute_not_exists(#message) AND (attribute_not_exists({READ_AT}) OR {READ_AT} < :at)"
            ))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":at", number(to_micros(message.at)))
            .expression_attribute_values(":now", number(to_micros(OffsetDateTime::now_utc())))
            .expression_attribute_values(":expires_at", number(expiry(COUNTER_LIFETIME)));
        Ok(match write("count a message", counted).await? {
            Ok(counter) => (counter, true),
            Err(counter) => (counter, false),
        })
    }

    /// Returns whether a message was read before its counter was created.
    async fn was_read(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        name: &str,
        at: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let read = self.get("look up a read mark", user, &keys::read(conversation)).await?;
        let is_late = item::number_of(&read, READ_AT).is_some_and(|read_at| to_micros(at) <= read_at);
        Ok(is_late || read.contains_key(name))
    }

    /// Lets a counted message count as read. The message loses its name, so that this happens once. Returns the counter,
    /// or `None` if the message is read already.
    async fn discount(&self, user: &BareJid, conversation: &BareJid, name: &str) -> Result<Option<Item>, StoreError> {
        let discounted = self
            .update(user, &keys::unread(conversation))
            .update_expression(format!("SET {READ_TOTAL} = if_not_exists({READ_TOTAL}, :zero) + :one REMOVE #message"))
            .condition_expression(format!(
                "attribute_exists(#message) AND (attribute_not_exists({READ_TOTAL}) OR {READ_TOTAL} < #message)"
            ))
            .expression_attribute_names("#message", name)
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":one", number(1));
        let Ok(counter) = write("count a message as read", discounted).await? else { return Ok(None) };
        self.retire(user, conversation, &counter).await;
        Ok(Some(counter))
    }

    /// Marks all messages of a conversation as read, unless a later read mark is known. Returns the counter.
    async fn read_all(&self, user: &BareJid, conversation: &BareJid, at: OffsetDateTime) -> Result<Item, StoreError> {
        let is_later = format!("(attribute_not_exists({READ_AT}) OR {READ_AT} < :at)");
        let read = self
            .update(user, &keys::unread(conversation))
            .update_expression(format!(
                "SET {READ_TOTAL} = if_not_exists({COUNTED_TOTAL}, :zero), {READ_AT} = :at, {EXPIRES_AT} = :expires_at"
            ))
            .condition_expression(format!("{is_later} AND (attribute_not_exists({COUNTED_AT}) OR {COUNTED_AT} <= :at)"))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":at", number(to_micros(at)))
            .expression_attribute_values(":expires_at", number(expiry(READ_COUNTER_LIFETIME)));
        let counter = match write("store a read mark", read).await? {
            Ok(counter) => return Ok(counter),
            Err(counter) => counter,
        };
        let is_known = item::number_of(&counter, READ_AT).is_some_and(|read_at| to_micros(at) <= read_at);
        if is_known || self.was_read(user, conversation, "", at).await? {
            return Ok(counter);
        }
        // The last message was counted after `at`, so it stays unread. All earlier messages count as read.
        let read = self
            .update(user, &keys::unread(conversation))
            .update_expression(format!("SET {READ_TOTAL} = {COUNTED_TOTAL} - :one, {READ_AT} = :at"))
            .condition_expression(format!(
                "attribute_exists({COUNTED_TOTAL}) AND {is_later} AND \
                 (attribute_not_exists({READ_TOTAL}) OR {READ_TOTAL} < {COUNTED_TOTAL})"
            ))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":at", number(to_micros(at)));
        Ok(write("store a read mark", read).await?.unwrap_or_else(|unchanged| unchanged))
    }

    /// Marks the messages of a conversation up to one as read. Never marks a message as unread again. Returns the
    /// counter, as an error if it does not know the message.
    async fn read_up_to(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: &str,
    ) -> Result<Result<Item, Item>, StoreError> {
        let (name, reference) = (keys::counted_message(message), keys::message_reference(message));
        let read = self
            .update(user, &keys::unread(conversation))
            .update_expression(format!(
                "SET {READ_TOTAL} = if_not_exists(#message, #reference), {EXPIRES_AT} = :expires_at"
            ))
            .condition_expression(format!(
                "(attribute_exists(#message) OR attribute_exists(#reference)) AND (attribute_not_exists({READ_TOTAL}) \
                 OR {READ_TOTAL} < #message OR (attribute_not_exists(#message) AND {READ_TOTAL} < #reference))"
            ))
            .expression_attribute_names("#message", &name)
            .expression_attribute_names("#reference", &reference)
            .expression_attribute_values(":expires_at", number(expiry(COUNTER_LIFETIME)));
        Ok(match write("store a read mark", read).await? {
            Err(counter) if has_any(&counter, [&name, &reference]) => Ok(counter),
            read => read,
        })
    }

    /// Returns whether a message is one of those that a user has read before the counter was created.
    async fn has_read_message(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: &str,
    ) -> Result<bool, StoreError> {
        let read = self.get("look up a read mark", user, &keys::read(conversation)).await?;
        Ok(has_any(&read, [&keys::counted_message(message), &keys::message_reference(message)]))
    }

    /// Deletes a counter without unread messages, after its names and the time of its read mark are copied. A failure
    /// changes no count, so it is only logged.
    async fn retire(&self, user: &BareJid, conversation: &BareJid, counter: &Item) {
        let counted = item::number_of(counter, COUNTED_TOTAL);
        let read = item::number_of(counter, READ_TOTAL);
        let (Some(counted), Some(read)) = (counted, read) else { return };
        if read < counted {
            return;
        }
        let retired = async {
            self.remember_read(user, conversation, counter).await?;
            let deleted = self
                .client
                .delete_item()
                .table_name(&self.table)
                .key(PK, text(user))
                .key(SK, text(keys::unread(conversation)))
                .condition_expression(format!("{COUNTED_TOTAL} = :counted AND {READ_TOTAL} = :read"))
                .expression_attribute_values(":counted", number(counted))
                .expression_attribute_values(":read", number(read))
                .send()
                .await;
            unless_stale("delete a counter", deleted)
        };
        if let Err(error) = retired.await {
            tracing::warn!(error = %Causes(&error), "a counter without unread messages is not deleted yet");
        }
    }

    /// Copies what later messages and read marks need to know of a counter.
    async fn remember_read(&self, user: &BareJid, conversation: &BareJid, counter: &Item) -> Result<(), StoreError> {
        let key = keys::read(conversation);
        let mut sets = format!("SET {EXPIRES_AT} = :expires_at");
        let mut update = self.update(user, &key);
        if let Some(read_at) = item::number_of(counter, READ_AT) {
            sets += &format!(", {READ_AT} = :read_at");
            update = update.expression_attribute_values(":read_at", number(read_at));
        }
        for (index, name) in counter.keys().filter(|name| keys::is_message_name(name)).enumerate() {
            sets += &format!(", #n{index} = :now");
            update = update
                .expression_attribute_names(format!("#n{index}"), name)
                .expression_attribute_values(":now", number(seconds_now()));
        }
        let read = update
            .update_expression(sets)
            .expression_attribute_values(":expires_at", number(expiry(COUNTER_LIFETIME)))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(StoreError::during("store a read mark"))?;
        self.forget_some(user, &key, &read.attributes.unwrap_or_default()).await
    }

    /// Drops the names of the oldest messages of an item, if it may otherwise become larger than [`MAX_COUNTER_BYTES`].
    async fn forget_some(&self, user: &BareJid, key: &str, counter: &Item) -> Result<(), StoreError> {
        let forgotten = surplus_names(counter);
        if forgotten.is_empty() {
            return Ok(());
        }
        let names = forgotten.iter().enumerate().map(|(index, name)| (format!("#n{index}"), (*name).to_owned()));
        let removed: Vec<String> = (0..forgotten.len()).map(|index| format!("#n{index}")).collect();
        self.update(user, key)
            .update_expression(format!("REMOVE {}", removed.join(", ")))
            .set_expression_attribute_names(Some(names.collect()))
            .send()
            .await
            .map_err(StoreError::during("drop the oldest messages of a counter"))?;
        Ok(())
    }
}

/// Returns the number of unread messages when `message` was counted; for an unknown one, when the last was counted.
fn unread(counter: &Item, message: &str) -> u32 {
    let total = |name| item::number_of(counter, name);
    let counted = total(message).or_else(|| total(COUNTED_TOTAL)).unwrap_or(0);
    counted.saturating_sub(total(READ_TOTAL).unwrap_or(0)).try_into().unwrap_or(u32::MAX)
}

fn has_any(item: &Item, names: [&String; 2]) -> bool {
    names.into_iter().any(|name| item.contains_key(name))
}

/// Returns the names of the oldest messages, without which the item has [`KEPT_COUNTER_BYTES`]; none if the item is
/// small enough for another message and a read mark.
fn surplus_names(counter: &Item) -> Vec<&str> {
    let mut size = item::bytes(counter);
    if size + MAX_GROWTH_BYTES <= MAX_COUNTER_BYTES {
        return Vec::new();
    }
    let names = counter.keys().filter(|name| keys::is_message_name(name));
    let mut names: Vec<(u64, &str)> =
        names.map(|name| (item::number_of(counter, name).unwrap_or(0), name.as_str())).collect();
    names.sort_unstable();
    let mut numbers: Vec<u64> = names.iter().map(|(number, _)| *number).collect();
    numbers.dedup();
    let oldest_kept = numbers.iter().rev().nth(MIN_NAMED_MESSAGES - 1).copied().unwrap_or(0);
    let mut surplus = Vec::new();
    let mut last = None;
    for (number, name) in names {
        // The names of one message are dropped together.
        if number >= oldest_kept || size <= KEPT_COUNTER_BYTES && last != Some(number) {
            break;
        }
        size -= item::attribute_bytes(name, &counter[name]);
        last = Some(number);
        surplus.push(name);
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(jid_bytes: usize, messages: u64, references: usize) -> Item {
        let mut counter = Item::from([
            (PK.to_owned(), text("u".repeat(jid_bytes))),
            (SK.to_owned(), text(format!("unread/{}", "c".repeat(jid_bytes.min(1_000))))),
        ]);
        for name in [COUNTED_AT, READ_AT, OPENED_AT] {
            counter.insert(name.to_owned(), number(1_795_814_756_794_525));
        }
        counter.insert(EXPIRES_AT.to_owned(), number(1_803_590_756));
        counter.insert(COUNTED_TOTAL.to_owned(), number(messages));
        for message in 1..=messages {
            counter.insert(keys::counted_message(&message.to_string()), number(message));
            for reference in 0..references {
                counter.insert(keys::message_reference(&format!("{message} {reference}")), number(message));
            }
        }
        counter
    }

    #[test]
    fn one_message_or_read_mark_enlarges_a_counter_by_at_most_the_reserved_bytes() {
        let large = |name: &str| item::attribute_bytes(name, &number(u32::MAX.into()));
        let message = large(&keys::counted_message("m")) + MAX_REFERENCES * large(&keys::message_reference("r"));
        let mark = large(READ_TOTAL) + item::attribute_bytes(READ_AT, &number(u64::MAX));
        assert!(message.max(mark) + 16 <= MAX_GROWTH_BYTES, "{message} {mark}");
    }

    #[test]
    fn a_counter_drops_whole_messages_and_the_oldest_first() {
        assert!(surplus_names(&counter(40, 5, 2)).is_empty());
        let full = counter(40, 20, 2);
        let surplus = surplus_names(&full);
        assert_eq!(surplus.len() % 3, 0, "{surplus:?}");
        let dropped = surplus.len() as u64 / 3;
        assert!((1..20).contains(&dropped));
        for message in 1..=20_u64 {
            let name = keys::counted_message(&message.to_string());
            assert_eq!(surplus.contains(&name.as_str()), message <= dropped, "{message}");
        }
    }

    #[test]
    fn the_names_of_the_last_messages_stay_even_with_the_longest_jids() {
        let full = counter(2_047, 20, 5);
        assert_eq!(surplus_names(&full).len(), (20 - MIN_NAMED_MESSAGES) * 6);
        assert!(surplus_names(&counter(2_047, 4, 5)).is_empty());
    }
}
