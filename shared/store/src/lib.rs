//! Registrations, sessions, unread counts, push nodes and claims: the DynamoDB table. Nothing else knows its keys.
//!
//! | pk | sk | holds |
//! | --- | --- | --- |
//! | `bob@example.com` | `reg` | which registration was added last; each addition checks and replaces it |
//! | `bob@example.com` | `reg/<pubsub jid>/<node>` | a registration |
//! | `bob@example.com` | `ses/<resource>` | a session: whether it is online, the registration that it enabled last |
//! | `bob@example.com` | `unread/<conversation jid>` | how many messages are unread |
//! | `bob@example.com` | `node` | which push node was added last; each addition checks and replaces it |
//! | `bob@example.com` | `node/<service>/<node>` | that the user owns this node |
//! | `node/<service>/<node>` | `node` | a push node: its configuration, affiliations and device |
//! | `node/<service>/<node>` | `device/<created_at>/<digest>` | what a push service said of a device of this node |
//! | `answers/FCM/default/prod` | a day | how many answers of a push service call a device gone, and how many deliveries it made |
//! | `rate/example.com` | a minute | how much was told of a domain's users, or by a user's own clients |
//! | `msg/<id>/bob@example.com` | `claim` | which services a message was published to, by which event, and its unread count |

mod answers;
mod claim;
mod conflicts;
mod item;
mod keys;
mod limits;
mod node;
mod registration;
mod removal;
mod session;
mod snapshot;
mod suspicion;
mod transaction;
mod unread;

pub use answers::Answers;
pub use claim::{Claimant, Claimed};
pub use limits::{Admission, Limits, MAX_COUNTED};
pub use node::{Device, MAX_AFFILIATIONS, Node, NodeAddress, NodePlaced};
pub use registration::Registered;
pub use removal::Progress;
pub use session::{Availability, MAX_SESSIONS};
pub use snapshot::Snapshot;

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use pushlark_settings::{Environment, SettingError, catalogue};
use time::OffsetDateTime;

use conflicts::Conflicts;
use item::{Item, text};

/// How many items are written side by side.
const WRITES: usize = 16;

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
        let session_lifetime = environment.number(&catalogue::SESSION_LIFETIME)?;
        let config = client.config().to_builder().retry_classifier(Conflicts).build();
        Ok(Self {
            client: Client::from_conf(config),
            table: environment.require(&catalogue::TABLE_NAME)?,
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
