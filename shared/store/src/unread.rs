//! The number of messages of a conversation that a user has not read.
//!
//! The counter of a conversation is the item `unread/<conversation>`. It holds the number of messages that were counted,
//! how many of them are read, and the names of the messages that were counted last, each with its number and its claim
//! (see [`crate::counted`]). A message has several names: the id of its event, so that it is counted once, and the ids by
//! which a read mark may refer to it.
//!
//! The total of a user is the sum of all counters, which are read with the user's registrations. So a counter exists
//! only while something is unread, and it is small: fifty counters with two messages each have 10 to 14 KB. A read mark
//! that leaves nothing unread copies the names and the time of the mark to the item `read/<conversation>`, and then
//! deletes the counter, unless a message was counted in the meantime. If the writer stops between these two steps, the
//! counter adds nothing to the total, and the next read mark, or DynamoDB after [`READ_COUNTER_LIFETIME`], deletes it.
//! The copy costs a write per conversation that is read. An index of unread conversations would cost one per message.
//!
//! A message may be late: it was sent before the counter was created, and perhaps read before. If the conversation was
//! read before, the time of the last read mark is compared, and such a message is not counted.
//!
//! A message of the user also marks the conversation as read. If nothing is unread, this costs half a read unit and no
//! write. If an older message is still in the queue then, the worker repeats the mark when it handles the user's message,
//! which has waited, too.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use pushlark_model::time::to_micros;
use pushlark_telemetry::Causes;
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::attributes::{
    COUNTED_AT, COUNTED_TOTAL, EXPIRES_AT, HAS_MOVED, IS_FIRST, PK, READ_ALL_BEFORE, READ_AT, READ_TOTAL, SK,
};
use crate::claim::CLAIM_LIFETIME;
use crate::counted::{Counted, CountedBefore, CounterClaim, Counters, Search, surplus_names};
use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, expiry, keys, seconds_now, unless_stale, write};

/// The lifetime of a counter after its last use.
pub const COUNTER_LIFETIME: Duration = Duration::from_hours(90 * 24);
/// The lifetime of a counter without unread messages, whose deletion has failed, or which holds only the time of a read
/// mark for messages that are still in the queue.
const READ_COUNTER_LIFETIME: Duration = Duration::from_hours(24);
/// The most ids of a message, beside the id of its event, that a counter knows.
pub(crate) const MAX_REFERENCES: usize = 5;

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

/// A read mark, as an unread counter knows it.
#[derive(Debug, Clone, Copy)]
pub struct CountedRead<'r> {
    /// A reference to the last message that was read; `None` means all.
    pub message: Option<&'r str>,
    /// The time of this message, if the caller knows it.
    pub message_at: Option<OffsetDateTime>,
    /// The time of the read mark.
    pub at: OffsetDateTime,
}

/// The counted messages of a conversation that are unread after a read mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StillUnread {
    /// None.
    None,
    /// The last ones. Earlier ones are read, by this read mark or another one.
    Last,
    /// All: the read mark is older than each of them.
    All,
}

impl Store {
    /// Counts a message of a conversation, unless it was counted before or is older than the last read mark, and stores
    /// its claim. `counters` are those that were read for it.
    ///
    /// One conditional write counts the message and stores its names and its claim, so concurrent calls count it once.
    /// The same write forgets the oldest messages of a full counter.
    pub async fn count(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: CountedMessage<'_>,
        counters: &Counters,
        claim: Option<&CounterClaim>,
    ) -> Result<Counted, StoreError> {
        let counter = &counters.own;
        let is_first = match self.search(user, conversation, message, counter).await? {
            Search::Found(before) => return Ok(Counted::Before(before)),
            Search::New { is_first } => is_first,
        };
        let forgotten = surplus_names(counter);
        let unread_count = |name: &str| Some(unread(counter, name).max(1));
        self.move_messages(user, counter, &forgotten, unread_count).await?;
        let added = self.add_message(user, conversation, message, is_first, &forgotten, claim).await?;
        Ok(match added {
            Ok(counter) => Counted::Now(unread(&counter, &keys::counted_message(message.id)).max(1)),
            Err(counter) => Counted::Before(CountedBefore::find(&counter, message.id).unwrap_or_else(|| {
                let unread_count = unread(&counter, COUNTED_TOTAL).max(1);
                CountedBefore { unread_count, claim: None, is_read: was_all_read(&counter, message.at) }
            })),
        })
    }

    /// Returns the number of unread messages of a conversation.
    pub async fn unread(&self, user: &BareJid, conversation: &BareJid) -> Result<u32, StoreError> {
        let counter = self.get("look up an unread count", user, &keys::unread(conversation)).await?;
        Ok(unread(&counter, COUNTED_TOTAL))
    }

    /// Records that a user has read a conversation: up to the message to which the read mark refers, or else all of it.
    /// A reference that is not known, such as to a message that is not counted yet, means all until the time of the
    /// message, or else until that of the read mark. Older read marks than the last one have no effect.
    pub async fn note_read(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        CountedRead { message, message_at, at }: CountedRead<'_>,
    ) -> Result<StillUnread, StoreError> {
        let counter = match message {
            None => self.read_all(user, conversation, at, Some(at)).await?,
            // The time of the mark has no influence: the number of its message shows whether it reads further.
            Some(message) => match self.read_up_to(user, conversation, message).await? {
                Ok(counter) => counter,
                Err(counter) if self.has_read_message(user, conversation, message).await? => counter,
                Err(_) => {
                    let after_message = message_at.map(|message_at| message_at + time::Duration::MICROSECOND);
                    self.read_all(user, conversation, message_at.unwrap_or(at), after_message).await?
                }
            },
        };
        self.retire(user, conversation, &counter).await;
        Ok(match (unread(&counter, COUNTED_TOTAL), item::number_of(&counter, READ_TOTAL)) {
            (0, _) => StillUnread::None,
            (_, None | Some(0)) => StillUnread::All,
            (_, Some(_)) => StillUnread::Last,
        })
    }

    /// Marks a conversation as read at `at`, because the user has written a message in it. Reads the counter first, and
    /// writes nothing if nothing is unread. The read is not consistent: it may miss messages of the last second.
    pub async fn note_reply(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        at: OffsetDateTime,
    ) -> Result<StillUnread, StoreError> {
        let get = self.client.get_item().table_name(&self.table).key(PK, text(user));
        let counter = get.key(SK, text(keys::unread(conversation))).send().await;
        let counter = counter.map_err(StoreError::during("look up an unread count"))?.item.unwrap_or_default();
        if unread(&counter, COUNTED_TOTAL) == 0 {
            return Ok(StillUnread::None);
        }
        self.note_read(user, conversation, CountedRead { message: None, message_at: None, at }).await
    }

    /// Adds a message and its claim to a counter, and removes the names in `forgotten`. Returns the counter, as an error
    /// if the message is not added.
    async fn add_message(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        message: CountedMessage<'_>,
        is_first: bool,
        forgotten: &[String],
        claim: Option<&CounterClaim>,
    ) -> Result<Result<Item, Item>, StoreError> {
        let name = keys::counted_message(message.id);
        let next = format!("if_not_exists({COUNTED_TOTAL}, :zero) + :one");
        // The event's id is a name of its own.
        let references = message.references.iter().filter(|id| **id != message.id).take(MAX_REFERENCES);
        let mut references: Vec<_> = references.map(|id| keys::message_reference(id)).collect();
        references.sort_unstable();
        references.dedup();
        let mut sets = format!("SET #message = {next}");
        let mut update = self.update(user, &keys::unread(conversation)).expression_attribute_names("#message", &name);
        let mut removals = Vec::new();
        for (index, forgotten) in forgotten.iter().filter(|name| !references.contains(name)).enumerate() {
            removals.push(format!("#f{index}"));
            update = update.expression_attribute_names(format!("#f{index}"), forgotten);
        }
        for (index, reference) in references.into_iter().enumerate() {
            sets += &format!(", #r{index} = {next}");
            update = update.expression_attribute_names(format!("#r{index}"), reference);
        }
        if let Some(claim) = claim {
            sets += ", #claim = :claim";
            update = update
                .expression_attribute_names("#claim", keys::message_claim(&name))
                .expression_attribute_values(":claim", claim.value());
        }
        if is_first {
            sets += &format!(", {IS_FIRST} = :true");
        }
        let mut remove = String::new();
        if !removals.is_empty() {
            sets += &format!(", {HAS_MOVED} = :true");
            remove = format!(" REMOVE {}", removals.join(", "));
        }
        if is_first || !removals.is_empty() {
            update = update.expression_attribute_values(":true", AttributeValue::Bool(true));
        }
        let counted = update
            .update_expression(format!(
                "{sets}, {COUNTED_TOTAL} = {next}, {COUNTED_AT} = :at, {EXPIRES_AT} = :expires_at{remove}"
            ))
            .condition_expression(format!(
                "attribute_not_exists(#message) AND (attribute_not_exists({READ_AT}) OR {READ_AT} < :at)"
            ))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":at", number(to_micros(message.at)))
            .expression_attribute_values(":expires_at", number(expiry(COUNTER_LIFETIME)));
        write("count a message", counted).await
    }

    /// Marks all messages of a conversation as read, unless a later read mark is known. Returns the counter. The
    /// user has certainly read the messages before `all_before`, also those that are not counted yet.
    async fn read_all(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        at: OffsetDateTime,
        all_before: Option<OffsetDateTime>,
    ) -> Result<Item, StoreError> {
        let read_at = match all_before {
            Some(_) => format!("{READ_AT} = :at, {READ_ALL_BEFORE} = :all_before"),
            None => format!("{READ_AT} = :at"),
        };
        let update = || {
            let update = self.update(user, &keys::unread(conversation));
            let update = update.expression_attribute_values(":at", number(to_micros(at)));
            match all_before {
                Some(before) => update.expression_attribute_values(":all_before", number(to_micros(before))),
                None => update,
            }
        };
        let is_later = format!("(attribute_not_exists({READ_AT}) OR {READ_AT} < :at)");
        let read = update()
            .update_expression(format!(
                "SET {READ_TOTAL} = if_not_exists({COUNTED_TOTAL}, :zero), {read_at}, {EXPIRES_AT} = :expires_at"
            ))
            .condition_expression(format!("{is_later} AND (attribute_not_exists({COUNTED_AT}) OR {COUNTED_AT} <= :at)"))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":expires_at", number(expiry(READ_COUNTER_LIFETIME)));
        let counter = match write("store a read mark", read).await? {
            Ok(counter) => return Ok(counter),
            Err(counter) => counter,
        };
        let is_known = item::number_of(&counter, READ_AT).is_some_and(|read_at| to_micros(at) <= read_at);
        let read = self.get("look up a read mark", user, &keys::read(conversation)).await?;
        if is_known || item::number_of(&read, READ_AT).is_some_and(|read_at| to_micros(at) <= read_at) {
            return Ok(counter);
        }
        // The last message was counted after `at`, so it stays unread. All earlier messages count as read.
        let read = update()
            .update_expression(format!("SET {READ_TOTAL} = {COUNTED_TOTAL} - :one, {read_at}"))
            .condition_expression(format!(
                "attribute_exists({COUNTED_TOTAL}) AND {is_later} AND \
                 (attribute_not_exists({READ_TOTAL}) OR {READ_TOTAL} < {COUNTED_TOTAL})"
            ))
            .expression_attribute_values(":one", number(1));
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
        for (name, value) in [(READ_AT, ":read_at"), (READ_ALL_BEFORE, ":read_all_before")] {
            if let Some(read_at) = item::number_of(counter, name) {
                sets += &format!(", {name} = {value}");
                update = update.expression_attribute_values(value, number(read_at));
            }
        }
        for (index, name) in counter.keys().filter(|name| keys::is_message_name(name)).enumerate() {
            sets += &format!(", #n{index} = :now");
            update = update
                .expression_attribute_names(format!("#n{index}"), name)
                .expression_attribute_values(":now", number(seconds_now()));
        }
        for (index, (name, claim)) in counter.iter().filter(|(name, _)| keys::is_message_claim(name)).enumerate() {
            sets += &format!(", #c{index} = :c{index}");
            update = update
                .expression_attribute_names(format!("#c{index}"), name)
                .expression_attribute_values(format!(":c{index}"), claim.clone());
        }
        if let Some(has_moved) = counter.get(HAS_MOVED) {
            sets += &format!(", {HAS_MOVED} = :moved");
            update = update.expression_attribute_values(":moved", has_moved.clone());
        }
        let read = update
            .update_expression(sets)
            .expression_attribute_values(":expires_at", number(expiry(COUNTER_LIFETIME)))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(StoreError::during("store a read mark"))?;
        self.forget_read(user, &key, &read.attributes.unwrap_or_default()).await
    }

    /// Drops the names of the oldest messages of an item about read messages, if it may otherwise become larger than a
    /// kilobyte. No claim of a message that was read longer ago than the lifetime of a claim is needed.
    async fn forget_read(&self, user: &BareJid, key: &str, read: &Item) -> Result<(), StoreError> {
        let forgotten = surplus_names(read);
        if forgotten.is_empty() {
            return Ok(());
        }
        let oldest = seconds_now() - CLAIM_LIFETIME.as_secs();
        let is_recent = |name: &str| item::number_of(read, name).is_some_and(|read_at| read_at > oldest);
        let mut update = self.update(user, key);
        let mut sets = String::new();
        if self.move_messages(user, read, &forgotten, |name| is_recent(name).then_some(1)).await? {
            sets = format!("SET {HAS_MOVED} = :true ");
            update = update.expression_attribute_values(":true", AttributeValue::Bool(true));
        }
        let removed: Vec<String> = (0..forgotten.len()).map(|index| format!("#n{index}")).collect();
        let names = forgotten.into_iter().enumerate().map(|(index, name)| (format!("#n{index}"), name));
        update
            .update_expression(format!("{sets}REMOVE {}", removed.join(", ")))
            .set_expression_attribute_names(Some(names.collect()))
            .send()
            .await
            .map_err(StoreError::during("forget the oldest messages of a conversation"))?;
        Ok(())
    }
}

/// Returns the number of unread messages when `message` was counted; for an unknown one, when the last was counted.
pub(crate) fn unread(counter: &Item, message: &str) -> u32 {
    let total = |name| item::number_of(counter, name);
    let counted = total(message).or_else(|| total(COUNTED_TOTAL)).unwrap_or(0);
    counted.saturating_sub(total(READ_TOTAL).unwrap_or(0)).try_into().unwrap_or(u32::MAX)
}

/// Returns whether a read mark in a counter, or in the item of a read mark, has read each message of `at`. A mark of the
/// same time may be earlier than the message: not all servers tell fractions of a second.
pub(crate) fn was_all_read(item: &Item, at: OffsetDateTime) -> bool {
    item::number_of(item, READ_ALL_BEFORE).is_some_and(|read_at| to_micros(at) < read_at)
}

fn has_any(item: &Item, names: [&String; 2]) -> bool {
    names.into_iter().any(|name| item.contains_key(name))
}
