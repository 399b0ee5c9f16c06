//! The end of users and of whole domains.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use futures_util::{StreamExt, TryStreamExt, stream};
use pushlark_model::time::to_micros;
use pushlark_xmpp::{BareJid, DomainPart};
use time::OffsetDateTime;

use crate::item::{self, Item, number, text};
use crate::{Store, StoreError, keys, unless_stale};

/// How many items are listed at once, …
const PAGE: i32 = 200;
/// … and how many deleted.
const DELETIONS: usize = 16;

/// How far a removal came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There was nothing left to delete.
    Complete,
    /// All that was found is deleted. The index follows the table after a moment, so another look is due.
    Swept,
    /// It was not to go on; calling again does.
    Partial,
}

impl Store {
    /// Deletes all that is kept of a user, except what was stored after `at`, until `may_go_on` answers no.
    pub async fn remove_user(
        &self,
        user: &BareJid,
        at: OffsetDateTime,
        may_go_on: impl Fn() -> bool,
    ) -> Result<Progress, StoreError> {
        let kept = self
            .query()
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(user))
            .projection_expression("pk, sk");
        Ok(match self.remove(kept, at, may_go_on).await? {
            // The query is of the table itself.
            Progress::Swept => Progress::Complete,
            progress => progress,
        })
    }

    /// Deletes a domain's registrations, except those stored after `at`, until `may_go_on` answers no.
    pub async fn remove_domain(
        &self,
        domain: &DomainPart,
        at: OffsetDateTime,
        may_go_on: impl Fn() -> bool,
    ) -> Result<Progress, StoreError> {
        let mut whole = Progress::Complete;
        for shard in keys::domain_shards(domain) {
            let registrations = self
                .client
                .query()
                .table_name(&self.table)
                .index_name("domain")
                .key_condition_expression("domain_shard = :shard AND created_at <= :at")
                .expression_attribute_values(":shard", text(shard))
                .expression_attribute_values(":at", number(to_micros(at)));
            match self.remove(registrations, at, &may_go_on).await? {
                Progress::Complete => {}
                Progress::Swept => whole = Progress::Swept,
                Progress::Partial => return Ok(Progress::Partial),
            }
        }
        Ok(whole)
    }

    async fn remove(
        &self,
        query: QueryFluentBuilder,
        at: OffsetDateTime,
        may_go_on: impl Fn() -> bool,
    ) -> Result<Progress, StoreError> {
        let mut progress = Progress::Complete;
        let mut pages = query.limit(PAGE).into_paginator().send();
        while may_go_on() {
            let Some(page) = pages.next().await else { return Ok(progress) };
            let items = page.map_err(StoreError::during("list what is to be removed"))?.items.unwrap_or_default();
            if !items.is_empty() {
                progress = Progress::Swept;
            }
            let deletions = stream::iter(items).map(async |item| self.delete_before(item, at).await);
            deletions.buffer_unordered(DELETIONS).try_collect::<()>().await?;
        }
        Ok(Progress::Partial)
    }

    async fn delete_before(&self, item: Item, at: OffsetDateTime) -> Result<(), StoreError> {
        let key: Item = item.into_iter().filter(|(name, _)| name == "pk" || name == "sk").collect();
        if let (Some(owner), Some(node)) = (item::text_of(&key, "pk"), item::text_of(&key, "sk"))
            && node.starts_with(keys::NODE)
        {
            self.delete_owned(owner, node, at).await?;
        }
        let is_counter = item::text_of(&key, "sk").is_some_and(|sk| sk.starts_with(keys::UNREAD));
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key.clone()))
            .condition_expression(
                "(attribute_not_exists(created_at) OR created_at <= :at) AND \
                 (attribute_not_exists(since) OR since <= :at) AND \
                 (attribute_not_exists(tied_at) OR tied_at <= :at) AND \
                 (attribute_not_exists(counted_at) OR counted_at <= :at)",
            )
            .expression_attribute_values(":at", number(to_micros(at)))
            .send()
            .await;
        if unless_stale("delete an item", deleted)? || !is_counter {
            return Ok(());
        }
        // Something was counted since; what was counted before is nobody's.
        let reset = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .update_expression("SET read_total = counted_total - :one, read_at = :at")
            .condition_expression(
                "attribute_exists(counted_total) AND (attribute_not_exists(read_at) OR read_at < :at)",
            )
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":at", number(to_micros(at)))
            .send()
            .await;
        unless_stale("reset a counter", reset).map(drop)
    }

    /// Deletes a node that an item of its owner refers to, unless it is somebody else's.
    async fn delete_owned(&self, owner: &str, node: &str, at: OffsetDateTime) -> Result<(), StoreError> {
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key("pk", text(node))
            .key("sk", text(keys::NODE_ITEM))
            .condition_expression("owner_jid = :owner AND created_at <= :at")
            .expression_attribute_values(":owner", text(owner))
            .expression_attribute_values(":at", number(to_micros(at)))
            .send()
            .await;
        unless_stale("delete a node", deleted).map(drop)
    }
}
