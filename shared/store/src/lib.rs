//! Registrations, sessions and claims: the DynamoDB table. Nothing else knows its keys.
//!
//! | pk | sk | holds |
//! | --- | --- | --- |
//! | `bob@example.com` | `reg/<pubsub jid>/<node>` | a registration |
//! | `bob@example.com` | `ses/<resource>` | a session: whether it is online, the registration tied to it |
//! | `msg/<id>/bob@example.com` | `claim` | which services a message was published to, by which event |

mod item;
mod keys;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BoxError, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use pushlark_plugin::PublishService;
use pushlark_xmpp::{BareJid, DomainPart, FullJid, Jid};
use time::OffsetDateTime;

use item::{Item, number, text};

/// How long a session is remembered after the last that was heard of it, so that a lost "offline" does not keep a
/// user's notifications back for ever.
const SESSION_LIFETIME: Duration = Duration::from_hours(7 * 24);
/// How long a claim is remembered: longer than the 14 days for which SQS keeps a message.
const CLAIM_LIFETIME: Duration = Duration::from_hours(16 * 24);

/// The table did not do what it was asked. All that a caller can do is to try again later: what is wrong (throttling,
/// an outage, a missing permission) is not about the item.
#[derive(Debug, thiserror::Error)]
#[error("the table could not {action}")]
pub struct StoreError {
    action: &'static str,
    source: BoxError,
}

impl StoreError {
    fn during<E: Into<BoxError>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self { action, source: source.into() }
    }
}

/// What the table holds of a recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the user wants notifications published.
    pub services: Vec<PublishService>,
    /// Whether any of the user's sessions is online.
    pub online: bool,
    /// The keys of the sessions that are tied to a registration, with the registration's key.
    ties: Vec<(String, String)>,
}

/// Whether a session takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It is available, with a priority that is not negative.
    Online,
    /// It is not.
    Offline,
}

/// The part of the work that is done in one pass before the time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left.
    Complete,
    /// Something may be left; calling again goes on.
    Partial,
}

/// The table.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    table: String,
}

impl Store {
    /// The table called `table`.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into() }
    }

    /// Opens the connection to the table, by a query that finds nothing.
    pub async fn warm_up(&self) -> Result<(), StoreError> {
        self.query()
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text("warm-up"))
            .send()
            .await
            .map_err(StoreError::during("be reached"))?;
        Ok(())
    }

    /// Stores a registration, in place of one of the same user, service and node. A `user` with a resource ties it to
    /// that session.
    pub async fn register(&self, user: &Jid, service: &PublishService) -> Result<(), StoreError> {
        let owner = user.to_bare();
        // The tie goes first: until there is a registration, it refers to nothing.
        if let Ok(session) = user.try_as_full() {
            self.client
                .update_item()
                .table_name(&self.table)
                .key("pk", text(&owner))
                .key("sk", text(keys::session(session)))
                .update_expression("SET registration = :registration, expires_at = :expires_at")
                .expression_attribute_values(":registration", text(keys::registration(&service.jid, &service.node)))
                .expression_attribute_values(":expires_at", number(expiry(SESSION_LIFETIME)))
                .send()
                .await
                .map_err(StoreError::during("tie a session"))?;
        }
        self.client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item::registration(&owner, service)))
            .send()
            .await
            .map_err(StoreError::during("store a registration"))?;
        Ok(())
    }

    /// Deletes a user's registrations at a PubSub service: the one of `node`, or all of them.
    pub async fn unregister(&self, user: &BareJid, jid: &BareJid, node: Option<&str>) -> Result<(), StoreError> {
        let snapshot = self.snapshot(user).await?;
        let of_request =
            |service: &&PublishService| service.jid == *jid && node.is_none_or(|node| service.node == node);
        for service in snapshot.services.iter().filter(of_request) {
            self.delete(user, service, None).await?;
            self.untie(user, &snapshot, service).await?;
        }
        Ok(())
    }

    /// Deletes one registration of a recipient, unless it was enabled anew since `snapshot` was taken.
    pub async fn unregister_version(
        &self,
        user: &BareJid,
        snapshot: &Snapshot,
        service: &PublishService,
    ) -> Result<(), StoreError> {
        if self.delete(user, service, Some(service.created_at)).await? {
            self.untie(user, snapshot, service).await?;
        }
        Ok(())
    }

    /// Deletes all that is kept of a user, except what was stored after `at`.
    pub async fn remove_user(&self, user: &BareJid, at: OffsetDateTime) -> Result<(), StoreError> {
        let mut pages = self
            .query()
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(user))
            .projection_expression("pk, sk")
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            for keys in page.map_err(StoreError::during("list what is kept of a user"))?.items.unwrap_or_default() {
                self.delete_before(keys, at).await?;
            }
        }
        Ok(())
    }

    /// Deletes a domain's registrations, except those stored after `at`, until `may_go_on` answers no.
    ///
    /// The index follows the table after a moment, so a pass that deleted something is followed by another one.
    pub async fn remove_domain(
        &self,
        domain: &DomainPart,
        at: OffsetDateTime,
        may_go_on: impl Fn() -> bool,
    ) -> Result<Progress, StoreError> {
        for shard in keys::domain_shards(domain) {
            loop {
                if !may_go_on() {
                    return Ok(Progress::Partial);
                }
                let page = self
                    .client
                    .query()
                    .table_name(&self.table)
                    .index_name("domain")
                    .key_condition_expression("domain_shard = :shard AND created_at <= :at")
                    .expression_attribute_values(":shard", text(&shard))
                    .expression_attribute_values(":at", number(micros(at)))
                    .limit(100)
                    .send()
                    .await
                    .map_err(StoreError::during("list a domain's registrations"))?;
                let registrations = page.items.unwrap_or_default();
                if registrations.is_empty() {
                    break;
                }
                for registration in registrations {
                    let keys = registration.into_iter().filter(|(name, _)| name == "pk" || name == "sk").collect();
                    self.delete_before(keys, at).await?;
                }
            }
        }
        Ok(Progress::Complete)
    }

    /// All that is needed of a recipient, in one consistent query.
    pub async fn snapshot(&self, user: &BareJid) -> Result<Snapshot, StoreError> {
        let mut snapshot = Snapshot::default();
        let mut start = None;
        loop {
            let page = self
                .query()
                .key_condition_expression("pk = :pk AND sk BETWEEN :first AND :last")
                .expression_attribute_values(":pk", text(user))
                .expression_attribute_values(":first", text(keys::RECIPIENT_FIRST))
                .expression_attribute_values(":last", text(keys::RECIPIENT_LAST))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(StoreError::during("read a recipient"))?;
            for item in page.items.unwrap_or_default() {
                snapshot.add(item);
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(snapshot);
            }
        }
    }

    /// Notes whether a session is online, unless something newer than `at` is known of it.
    pub async fn set_presence(
        &self,
        session: &FullJid,
        availability: Availability,
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let written = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("pk", text(session.to_bare()))
            .key("sk", text(keys::session(session)))
            .update_expression("SET is_online = :online, since = :at, expires_at = :expires_at")
            .condition_expression("attribute_not_exists(since) OR since < :at")
            .expression_attribute_values(":online", AttributeValue::Bool(availability == Availability::Online))
            .expression_attribute_values(":at", number(micros(at)))
            .expression_attribute_values(":expires_at", number(expiry(SESSION_LIFETIME)))
            .send()
            .await;
        match written {
            Err(error) if is_stale_update(&error) => Ok(()),
            written => written.map(drop).map_err(StoreError::during("note a presence")),
        }
    }

    /// Claims, for the event `uid`, the right to publish the message `id` to `services` of `user`, in one write.
    /// Answers which of them this event holds: it has claimed them now, or had before and did not finish.
    pub async fn claim(
        &self,
        id: &str,
        user: &BareJid,
        uid: &str,
        services: &[&PublishService],
    ) -> Result<Vec<bool>, StoreError> {
        let claim = self
            .update_claim(id, user, services, "if_not_exists({}, :uid)", uid)
            .await
            .map_err(StoreError::during("claim a message"))?;
        let holder = |service: &&PublishService| claim.get(&keys::service(service)).and_then(|v| v.as_s().ok());
        Ok(services.iter().map(|service| holder(service).is_some_and(|holder| holder == uid)).collect())
    }

    /// Notes that `services` need nothing more for the message `id`, so that a repeat of the event leaves them out.
    pub async fn finish(
        &self,
        id: &str,
        user: &BareJid,
        uid: &str,
        services: &[&PublishService],
    ) -> Result<(), StoreError> {
        let done = format!("{uid} done");
        self.update_claim(id, user, services, ":uid", &done)
            .await
            .map_err(StoreError::during("note what was published"))?;
        Ok(())
    }

    async fn update_claim(
        &self,
        id: &str,
        user: &BareJid,
        services: &[&PublishService],
        value: &str,
        uid: &str,
    ) -> Result<Item, SdkError<UpdateItemError>> {
        let names: BTreeMap<String, String> =
            services.iter().enumerate().map(|(i, service)| (format!("#s{i}"), keys::service(service))).collect();
        let sets: Vec<String> = names.keys().map(|name| format!("{name} = {}", value.replace("{}", name))).collect();
        let updated = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("pk", text(keys::claim(id, user)))
            .key("sk", text("claim"))
            .update_expression(format!("SET {}, expires_at = :expires_at", sets.join(", ")))
            .set_expression_attribute_names(Some(names.into_iter().collect()))
            .expression_attribute_values(":uid", text(uid))
            .expression_attribute_values(":expires_at", number(expiry(CLAIM_LIFETIME)))
            .return_values(ReturnValue::AllNew)
            .send()
            .await?;
        Ok(updated.attributes.unwrap_or_default())
    }

    /// Deletes a registration, of any version or of this one alone; answers whether it did.
    async fn delete(&self, user: &BareJid, service: &PublishService, version: Option<u64>) -> Result<bool, StoreError> {
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key("pk", text(user))
            .key("sk", text(keys::registration(&service.jid, &service.node)))
            .set_condition_expression(version.map(|_| "created_at = :version".into()))
            .set_expression_attribute_values(version.map(|v| HashMap::from([(":version".into(), number(v))])))
            .send()
            .await;
        match deleted {
            Err(error) if is_stale_delete(&error) => Ok(false),
            deleted => deleted.map(|_| true).map_err(StoreError::during("delete a registration")),
        }
    }

    async fn delete_before(&self, keys: Item, at: OffsetDateTime) -> Result<(), StoreError> {
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(keys))
            .condition_expression(
                "(attribute_not_exists(created_at) OR created_at <= :at) AND (attribute_not_exists(since) OR since <= :at)",
            )
            .expression_attribute_values(":at", number(micros(at)))
            .send()
            .await;
        match deleted {
            Err(error) if is_stale_delete(&error) => Ok(()),
            deleted => deleted.map(drop).map_err(StoreError::during("delete an item")),
        }
    }

    /// Frees the sessions that were tied to a registration that is gone.
    async fn untie(&self, user: &BareJid, snapshot: &Snapshot, service: &PublishService) -> Result<(), StoreError> {
        let registration = keys::registration(&service.jid, &service.node);
        for (session, _) in snapshot.ties.iter().filter(|(_, tied)| *tied == registration) {
            let untied = self
                .client
                .update_item()
                .table_name(&self.table)
                .key("pk", text(user))
                .key("sk", text(session))
                .update_expression("REMOVE registration")
                .condition_expression("registration = :registration")
                .expression_attribute_values(":registration", text(&registration))
                .send()
                .await;
            match untied {
                Err(error) if is_stale_update(&error) => {}
                untied => drop(untied.map_err(StoreError::during("untie a session"))?),
            }
        }
        Ok(())
    }

    fn query(&self) -> aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder {
        self.client.query().table_name(&self.table).consistent_read(true)
    }
}

impl Snapshot {
    fn add(&mut self, item: Item) {
        // TTL deletes an item some time after it expired.
        if item::number_of(&item, "expires_at").is_some_and(|at| at <= seconds_now()) {
            return;
        }
        let key = item::text_of(&item, "sk").unwrap_or_default().to_owned();
        if key.starts_with(keys::SESSION) {
            self.online |= item.get("is_online").and_then(|v| v.as_bool().ok()) == Some(&true);
            if let Some(registration) = item::text_of(&item, "registration") {
                self.ties.push((key, registration.to_owned()));
            }
        } else if key.starts_with(keys::REGISTRATION) {
            match item::read_registration(&item) {
                Some(service) => self.services.push(service),
                None => tracing::error!(key, "a registration in the table cannot be read; it is passed over"),
            }
        }
    }
}

fn is_stale_update<R>(error: &SdkError<UpdateItemError, R>) -> bool {
    error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}

fn is_stale_delete<R>(error: &SdkError<DeleteItemError, R>) -> bool {
    error.as_service_error().is_some_and(DeleteItemError::is_conditional_check_failed_exception)
}

fn expiry(lifetime: Duration) -> u64 {
    seconds_now() + lifetime.as_secs()
}

fn seconds_now() -> u64 {
    OffsetDateTime::now_utc().unix_timestamp().unsigned_abs()
}

/// Microseconds since 1970; a time before that counts as 1970.
pub fn micros(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(0)
}
