//! Removal of users and of whole domains.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::ReturnValue;
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_model::time::to_micros;
use pushlark_xmpp::{BareJid, DomainPart};
use time::OffsetDateTime;

use crate::attributes::{
    COUNTED_AT, COUNTED_TOTAL, CREATED_AT, DOMAIN_SHARD, FORM, OWNER_JID, PK, READ_AT, READ_TOTAL, SINCE, SK, TIED_AT,
};
use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, keys, unless_stale};

/// The most items that one page lists.
const PAGE_ITEMS: i32 = 200;
/// The maximum number of items that are deleted concurrently.
const MAX_CONCURRENT_DELETIONS: usize = 16;

/// The progress of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalProgress {
    /// A search of the table found nothing to delete.
    Complete,
    /// All items that were found are deleted. The index follows the table with a delay, so the caller must call again.
    Swept,
    /// `may_go_on` ended the removal. The caller must call again to continue it.
    Partial,
}

impl Store {
    /// Deletes all items of a user, except those stored after `at`, until `may_go_on` returns false.
    pub async fn remove_user(
        &self,
        user: &BareJid,
        at: OffsetDateTime,
        may_go_on: impl Fn() -> bool,
    ) -> Result<RemovalProgress, StoreError> {
        let kept = self
            .query()
            .key_condition_expression(format!("{PK} = :pk"))
            .expression_attribute_values(":pk", text(user))
            .projection_expression(format!("{PK}, {SK}"));
        Ok(match self.remove(kept, at, may_go_on, |_| {}).await? {
            // The query reads the table itself, not the index.
            RemovalProgress::Swept => RemovalProgress::Complete,
            progress => progress,
        })
    }

    /// Deletes a domain's registrations, except those stored after `at`, until `may_go_on` returns false. `deleted` gets
    /// the number of registrations and push nodes that were deleted, page by page.
    pub async fn remove_domain(
        &self,
        domain: &DomainPart,
        at: OffsetDateTime,
        may_go_on: impl Fn() -> bool,
        deleted: impl Fn(usize),
    ) -> Result<RemovalProgress, StoreError> {
        let mut whole = RemovalProgress::Complete;
        for shard in keys::domain_shards(domain) {
            let registrations = self.domain_shard(shard, at);
            match self.remove(registrations, at, &may_go_on, &deleted).await? {
                RemovalProgress::Complete => {}
                RemovalProgress::Swept => whole = RemovalProgress::Swept,
                RemovalProgress::Partial => return Ok(RemovalProgress::Partial),
            }
        }
        Ok(whole)
    }

    /// Returns the number of a domain's registrations and push nodes in the index, except those stored after `at`.
    pub async fn count_domain(&self, domain: &DomainPart, at: OffsetDateTime) -> Result<u64, StoreError> {
        let mut registrations = 0;
        for shard in keys::domain_shards(domain) {
            let mut pages = self.domain_shard(shard, at).into_paginator().items().send();
            while let Some(item) = pages.next().await {
                let item = item.map_err(StoreError::during("count the registrations of a domain"))?;
                registrations += u64::from(item::text_of(&item, SK).is_some_and(is_registration_or_node));
            }
        }
        Ok(registrations)
    }

    fn domain_shard(&self, shard: String, at: OffsetDateTime) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .index_name("domain")
            .key_condition_expression(format!("{DOMAIN_SHARD} = :shard AND {CREATED_AT} <= :at"))
            .expression_attribute_values(":shard", text(shard))
            .expression_attribute_values(":at", number(to_micros(at)))
    }

    async fn remove(
        &self,
        query: QueryFluentBuilder,
        at: OffsetDateTime,
        may_go_on: impl Fn() -> bool,
        deleted: impl Fn(usize),
    ) -> Result<RemovalProgress, StoreError> {
        let mut progress = RemovalProgress::Complete;
        let mut pages = query.limit(PAGE_ITEMS).into_paginator().send();
        while may_go_on() {
            let Some(page) = pages.next().await else { return Ok(progress) };
            let items = page.map_err(StoreError::during("list the items to delete"))?.items.unwrap_or_default();
            if !items.is_empty() {
                progress = RemovalProgress::Swept;
            }
            let deletions = stream::iter(items).map(async |item| self.delete_before(item, at).await);
            let are_counted: Vec<bool> = deletions.buffer_unordered(MAX_CONCURRENT_DELETIONS).try_collect().await?;
            deleted(are_counted.into_iter().filter(|is_counted| *is_counted).count());
        }
        Ok(RemovalProgress::Partial)
    }

    /// Deletes an item unless it was stored after `at`. Returns whether it is deleted, and was a registration or the
    /// reference to a push node.
    async fn delete_before(&self, item: Item, at: OffsetDateTime) -> Result<bool, StoreError> {
        let key: Item = item.into_iter().filter(|(name, _)| name == PK || name == SK).collect();
        if let (Some(owner), Some(node)) = (item::text_of(&key, PK), item::text_of(&key, SK))
            && node.starts_with(keys::NODE_PREFIX)
        {
            self.delete_owned(owner, node, at).await?;
        }
        let is_counter = item::text_of(&key, SK).is_some_and(|sk| sk.starts_with(keys::UNREAD_PREFIX));
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key.clone()))
            .condition_expression(format!(
                "(attribute_not_exists({CREATED_AT}) OR {CREATED_AT} <= :at) AND \
                 (attribute_not_exists({SINCE}) OR {SINCE} <= :at) AND \
                 (attribute_not_exists({TIED_AT}) OR {TIED_AT} <= :at) AND \
                 (attribute_not_exists({COUNTED_AT}) OR {COUNTED_AT} <= :at)"
            ))
            .expression_attribute_values(":at", number(to_micros(at)))
            .return_values(ReturnValue::AllOld)
            .send()
            .await;
        let item = deleted.as_ref().ok().and_then(|deleted| deleted.attributes.clone()).unwrap_or_default();
        let is_deleted = unless_stale("delete an item", deleted)?;
        if let Some(owner) = item::text_of(&item, PK).and_then(|owner| BareJid::new(owner).ok())
            && item.contains_key(FORM)
        {
            self.release_deleted(&owner, &item).await?;
        }
        if is_deleted || !is_counter {
            return Ok(is_deleted && item::text_of(&item, SK).is_some_and(is_registration_or_node));
        }
        // A message was counted after `at`, so the counter stays. All earlier messages count as read.
        let reset = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .update_expression(format!("SET {READ_TOTAL} = {COUNTED_TOTAL} - :one, {READ_AT} = :at"))
            .condition_expression(format!(
                "attribute_exists({COUNTED_TOTAL}) AND (attribute_not_exists({READ_AT}) OR {READ_AT} < :at)"
            ))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":at", number(to_micros(at)))
            .send()
            .await;
        unless_stale("reset a counter", reset).map(|_| false)
    }

    /// Deletes a node to which an item of `owner` refers, unless another user owns it.
    async fn delete_owned(&self, owner: &str, node: &str, at: OffsetDateTime) -> Result<(), StoreError> {
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(PK, text(node))
            .key(SK, text(keys::NODE_ITEM))
            .condition_expression(format!("{OWNER_JID} = :owner AND {CREATED_AT} <= :at"))
            .expression_attribute_values(":owner", text(owner))
            .expression_attribute_values(":at", number(to_micros(at)))
            .return_values(ReturnValue::AllOld)
            .send()
            .await;
        let item = deleted.as_ref().ok().and_then(|deleted| deleted.attributes.clone()).unwrap_or_default();
        unless_stale("delete a node", deleted)?;
        match item::text_of(&item, OWNER_JID).and_then(|owner| BareJid::new(owner).ok()) {
            Some(owner) => self.release_deleted(&owner, &item).await,
            None => Ok(()),
        }
    }
}

/// Returns whether a sort key in a user's partition is that of a registration, or of a reference to a push node.
fn is_registration_or_node(key: &str) -> bool {
    key.starts_with(keys::REGISTRATION_PREFIX) || keys::is_push_node(key)
}
