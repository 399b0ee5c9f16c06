//! Registrations, sessions, unread counts, push nodes and claims: the DynamoDB table. Nothing else knows its keys.
//!
//! | pk | sk | holds |
//! | --- | --- | --- |
//! | `bob@example.com` | `reg/<pubsub jid>/<node>` | a registration |
//! | `bob@example.com` | `ses/<resource>` | a session: whether it is online, the registration tied to it |
//! | `bob@example.com` | `unread/<conversation jid>` | how many messages are unread |
//! | `bob@example.com` | `node/<service>/<node>` | that the user owns this node |
//! | `node/<service>/<node>` | `node` | a push node: its configuration, affiliations and device |
//! | `node/<service>/<node>` | `device/<created_at>/<digest>` | what a push service said of a device of this node |
//! | `rate/example.com` | a minute | how much was told of a domain's users, or by a user's own clients |
//! | `msg/<id>/bob@example.com` | `claim` | which services a message was published to, by which event, and its unread count |

mod claim;
mod item;
mod keys;
mod limits;
mod node;
mod removal;
mod suspicion;
mod unread;

pub use claim::{Claimant, Claimed};
pub use limits::{Admission, Limits, Registered};
pub use node::{Device, MAX_AFFILIATIONS, Node, NodeAddress};
pub use removal::Progress;

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use pushlark_plugin::PublishService;
use pushlark_settings::{Environment, SettingError};
use pushlark_xmpp::{BareJid, FullJid, Jid};
use time::OffsetDateTime;

use item::{Item, number, text};

/// `SESSION_LIFETIME` when it is not set, in seconds: a week.
const SESSION_LIFETIME: u32 = 7 * 86_400;

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

    fn unreadable(action: &'static str) -> Self {
        Self { action, source: "the item is not as this version writes it".into() }
    }
}

/// What the table holds of a recipient.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the user wants notifications published.
    pub services: Vec<PublishService>,
    /// Whether any of the user's sessions is online; `None` when nothing was heard of any.
    pub online: Option<bool>,
    ties: Vec<Tie>,
    /// How often in a row each registration's device was called gone, by the registration's key.
    suspicions: HashMap<String, u32>,
}

/// A session that enabled a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tie {
    /// The session's key.
    session: String,
    /// The registration's key.
    registration: String,
    /// When it was enabled, in microseconds since 1970.
    tied_at: u64,
    /// When the session went offline last, in microseconds since 1970; 0 for never.
    offline_at: u64,
}

/// Whether a session takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It is available, with a priority that is not negative.
    Online,
    /// It is not.
    Offline,
}

/// The table.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    table: String,
    session_lifetime: Duration,
    limits: Limits,
}

impl Store {
    /// From `TABLE_NAME`, the settings of [`Limits`] and `SESSION_LIFETIME`: for how many seconds a session is remembered
    /// after the last that was heard of it, so that a lost "offline" does not keep a user's notifications back for ever.
    pub fn from_environment(client: Client, environment: &Environment) -> Result<Self, SettingError> {
        let session_lifetime = environment.number("SESSION_LIFETIME", 1..=365 * 86_400, SESSION_LIFETIME)?;
        Ok(Self {
            client,
            table: environment.require("TABLE_NAME", "the table that holds the registrations")?,
            session_lifetime: Duration::from_secs(session_lifetime.into()),
            limits: Limits::from_environment(environment)?,
        })
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

    async fn put_registration(&self, user: &Jid, service: &PublishService) -> Result<(), StoreError> {
        let owner = user.to_bare();
        // The tie goes first: until there is a registration, it refers to nothing.
        if let Ok(session) = user.try_as_full() {
            self.update(&owner, &keys::session(session))
                .update_expression("SET registration = :registration, tied_at = :tied_at, expires_at = :expires_at")
                .expression_attribute_values(":registration", text(keys::registration(&service.jid, &service.node)))
                .expression_attribute_values(":tied_at", number(service.created_at))
                .expression_attribute_values(":expires_at", number(expiry(self.session_lifetime)))
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
            self.untie(user, &snapshot, service).await?;
            self.delete(user, service, None).await?;
        }
        Ok(())
    }

    /// Deletes one registration of a recipient, unless it was enabled anew since `snapshot` was taken; answers whether it
    /// did.
    pub async fn unregister_version(
        &self,
        user: &BareJid,
        snapshot: &Snapshot,
        service: &PublishService,
    ) -> Result<bool, StoreError> {
        // First the ties: without the registration, nobody would find them when this is tried again.
        self.untie(user, snapshot, service).await?;
        self.delete(user, service, Some(service.created_at)).await
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

    /// Notes whether a session is online, unless something newer than `at` is known of it. A registration that was tied
    /// to the session before it went offline is not tied to it any more. Where presence is told of bare JIDs, the user has
    /// one session without a resource.
    pub async fn set_presence(
        &self,
        session: &Jid,
        availability: Availability,
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let (user, key) = (session.to_bare(), keys::session(session));
        let offline_at = match availability {
            Availability::Online => "",
            Availability::Offline => ", offline_at = :at",
        };
        let written = self
            .update(&user, &key)
            .update_expression(format!("SET is_online = :online, since = :at, expires_at = :expires_at{offline_at}"))
            .condition_expression("attribute_not_exists(since) OR since < :at")
            .expression_attribute_values(":online", AttributeValue::Bool(availability == Availability::Online))
            .expression_attribute_values(":at", number(micros(at)))
            .expression_attribute_values(":expires_at", number(expiry(self.session_lifetime)))
            .send()
            .await;
        if unless_stale("note a presence", written)? || availability == Availability::Online {
            return Ok(());
        }
        // The session has come back since, but not with the tie that it had.
        let cut = self
            .update(&user, &key)
            .update_expression("SET offline_at = :at")
            .condition_expression(
                "attribute_exists(registration) AND (attribute_not_exists(offline_at) OR offline_at < :at)",
            )
            .expression_attribute_values(":at", number(micros(at)))
            .send()
            .await;
        unless_stale("untie a session", cut).map(drop)
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
        unless_stale("delete a registration", deleted)
    }

    /// Frees the sessions that are tied to a registration.
    async fn untie(&self, user: &BareJid, snapshot: &Snapshot, service: &PublishService) -> Result<(), StoreError> {
        let registration = keys::registration(&service.jid, &service.node);
        for tie in snapshot.ties.iter().filter(|tie| tie.registration == registration) {
            let untied = self
                .update(user, &tie.session)
                .update_expression("REMOVE registration, tied_at")
                // Unless it was tied anew.
                .condition_expression("registration = :registration AND tied_at = :tied_at")
                .expression_attribute_values(":registration", text(&registration))
                .expression_attribute_values(":tied_at", number(tie.tied_at))
                .send()
                .await;
            unless_stale("untie a session", untied)?;
        }
        Ok(())
    }

    fn query(&self) -> QueryFluentBuilder {
        self.client.query().table_name(&self.table).consistent_read(true)
    }

    async fn get(&self, action: &'static str, pk: impl ToString, sk: &str) -> Result<Item, StoreError> {
        let item = self.client.get_item().table_name(&self.table).key("pk", text(pk)).key("sk", text(sk));
        let found = item.consistent_read(true).send().await.map_err(StoreError::during(action))?;
        Ok(found.item.unwrap_or_default())
    }

    fn update(&self, pk: impl ToString, sk: &str) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).key("pk", text(pk)).key("sk", text(sk))
    }
}

impl Snapshot {
    /// The service that `session` was tied to when something happened to it at `at`.
    pub fn tied(&self, session: &FullJid, at: OffsetDateTime) -> Option<&PublishService> {
        let key = keys::session(session);
        let tie = self.ties.iter().find(|tie| tie.session == key)?;
        if (tie.tied_at..=micros(at)).contains(&tie.offline_at) {
            return None;
        }
        self.services.iter().find(|service| keys::registration(&service.jid, &service.node) == tie.registration)
    }

    fn add(&mut self, item: Item) {
        // TTL deletes an item some time after it expired.
        if item::number_of(&item, "expires_at").is_some_and(|at| at <= seconds_now()) {
            return;
        }
        let key = item::text_of(&item, "sk").unwrap_or_default().to_owned();
        if key.starts_with(keys::SESSION) {
            if let Some(online) = item.get("is_online").and_then(|v| v.as_bool().ok()) {
                self.online = Some(*online || self.online == Some(true));
            }
            if let Some(registration) = item::text_of(&item, "registration") {
                let time = |name| item::number_of(&item, name).unwrap_or(0);
                let (tied_at, offline_at) = (time("tied_at"), time("offline_at"));
                self.ties.push(Tie { session: key, registration: registration.to_owned(), tied_at, offline_at });
            }
        } else if key.starts_with(keys::REGISTRATION) {
            match item::read_registration(&item) {
                Some(service) => {
                    self.services.push(service);
                    let suspicions = item::number_of(&item, suspicion::ATTRIBUTE).and_then(|n| n.try_into().ok());
                    self.suspicions.extend(suspicions.map(|suspicions| (key, suspicions)));
                }
                None => tracing::error!(key, "a registration in the table cannot be read; it is passed over"),
            }
        }
    }
}

/// Whether a write was made, or its condition found that it is out of date.
fn unless_stale<T, E>(action: &'static str, written: Result<T, SdkError<E>>) -> Result<bool, StoreError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match written {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
        Err(error) => Err(StoreError::during(action)(error)),
    }
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

/// The time of so many microseconds since 1970.
pub fn of_micros(micros: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
