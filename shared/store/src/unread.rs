//! The number of messages of a conversation that a user has not read.
//!
//! A counter holds the number of messages that were ever counted, how many of them were read at the last read mark, and
//! the messages that were counted last, each with its number.

use std::time::Duration;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use pushlark_model::time::to_micros;
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::attributes::{COUNTED_AT, COUNTED_TOTAL, EXPIRES_AT, READ_AT, READ_TOTAL};
use crate::item::{self, Item, number};
use crate::{Store, StoreError, expiry, keys, unless_stale};

/// The lifetime of a counter after its last use.
const COUNTER_LIFETIME: Duration = Duration::from_hours(90 * 24);
/// The most messages that a counter names, so that none of them is counted twice. So many fit the kilobyte that
/// DynamoDB bills as one write. The number of an older message is in its claim, if it was published.
const MAX_COUNTED_MESSAGES: usize = 32;
/// The number of messages that a counter still names after it drops the oldest.
const KEPT_COUNTED_MESSAGES: usize = 16;

impl Store {
    /// Counts the message `id` of a conversation, unless it was counted before or is older than the last read mark.
    /// Returns its number: the number of unread messages, including this one.
    ///
    /// One conditional write counts the message and stores its name, so concurrent calls count it once.
    pub async fn count(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        id: &str,
        at: OffsetDateTime,
    ) -> Result<u32, StoreError> {
        if let Some(counted) = self.claimed(id, user).await?.counted() {
            return Ok(counted);
        }
        let message = keys::counted_message(id);
        let counted = self
            .update(user, &keys::unread(conversation))
            .update_expression(format!(
                "SET #message = if_not_exists({COUNTED_TOTAL}, :zero) + :one, \
                 {COUNTED_TOTAL} = if_not_exists({COUNTED_TOTAL}, :zero) + :one, \
                 {COUNTED_AT} = :at, {EXPIRES_AT} = :expires_at"
            ))
            .condition_expression(format!(
                "attribute_not_exists(#message) AND (attribute_not_exists({READ_AT}) OR {READ_AT} < :at)"
            ))
            .expression_attribute_names("#message", &message)
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":at", number(to_micros(at)))
            .expression_attribute_values(":expires_at", number(expiry(COUNTER_LIFETIME)))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let (counter, is_new) = match counted {
            Ok(counted) => (counted.attributes, true),
            Err(error) => match error.into_service_error() {
                UpdateItemError::ConditionalCheckFailedException(stale) => (stale.item, false),
                error => return Err(StoreError::during("count a message")(error)),
            },
        };
        let counter = counter.unwrap_or_default();
        if is_new {
            self.forget_some(user, conversation, &counter).await?;
        }
        Ok(unread(&counter, &message).max(1))
    }

    /// Returns the number of unread messages of a conversation.
    pub async fn unread(&self, user: &BareJid, conversation: &BareJid) -> Result<u32, StoreError> {
        let counter = self.get("look up an unread count", user, &keys::unread(conversation)).await?;
        Ok(unread(&counter, COUNTED_TOTAL))
    }

    /// Records that a user had read all of a conversation at `at`, unless a later read mark is known.
    pub async fn note_read(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let read = self
            .update(user, &keys::unread(conversation))
            .update_expression(format!(
                "SET {READ_TOTAL} = if_not_exists({COUNTED_TOTAL}, :zero), {READ_AT} = :at, {EXPIRES_AT} = :expires_at"
            ))
            .condition_expression(format!("attribute_not_exists({READ_AT}) OR {READ_AT} < :at"))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":at", number(to_micros(at)))
            .expression_attribute_values(":expires_at", number(expiry(COUNTER_LIFETIME)))
            .send()
            .await;
        unless_stale("store a read mark", read).map(drop)
    }

    async fn forget_some(&self, user: &BareJid, conversation: &BareJid, counter: &Item) -> Result<(), StoreError> {
        let messages = counter.keys().filter(|name| name.starts_with(keys::COUNTED_MESSAGE_PREFIX));
        let mut messages: Vec<_> = messages.map(|name| (item::number_of(counter, name), name)).collect();
        if messages.len() <= MAX_COUNTED_MESSAGES {
            return Ok(());
        }
        messages.sort_unstable();
        messages.truncate(messages.len() - KEPT_COUNTED_MESSAGES);
        let names = messages.iter().enumerate().map(|(index, (_, name))| (format!("#m{index}"), (*name).clone()));
        let forgotten: Vec<String> = (0..messages.len()).map(|index| format!("#m{index}")).collect();
        self.update(user, &keys::unread(conversation))
            .update_expression(format!("REMOVE {}", forgotten.join(", ")))
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
