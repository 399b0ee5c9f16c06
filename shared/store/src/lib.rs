//! The DynamoDB table: registrations, sessions, unread counts, push nodes and claims. Only this crate knows its keys.
//!
//! | pk | sk | holds |
//! | --- | --- | --- |
//! | `bob@example.com` | `reg` | the registration that was added last; each addition checks and replaces this item |
//! | `bob@example.com` | `reg/<pubsub jid>/<node>` | a registration |
//! | `bob@example.com` | `replaced/<digest>` | the registration of a device that was replaced last |
//! | `bob@example.com` | `sent-alerts` | the last alerts that made a sound, with `ALERT_INTERVAL` |
//! | `bob@example.com` | `ses/<resource>` | a session: whether it is online, the registration that it enabled last |
//! | `bob@example.com` | `unread/<conversation jid>` | the number of unread messages, while there are any, and the messages with their claims |
//! | `bob@example.com` | `read/<conversation jid>` | the time of the last read mark, and the last messages that were read, with their claims |
//! | `bob@example.com` | `counted/<digest>` | a message that these two have forgotten, with its claim |
//! | `bob@example.com` | `shown/<conversation jid>` | the registrations that were notified of a conversation |
//! | `bob@example.com` | `node` | the push node that was added last; each addition checks and replaces this item |
//! | `bob@example.com` | `node/<pubsub jid>/<node>` | a reference to a push node that the user owns |
//! | `node/<pubsub jid>/<node>` | `node` | a push node: its configuration, affiliations and device |
//! | `node/<pubsub jid>/<node>` | `device/<created_at>/<digest>` | the answers of a push service about a device |
//! | `device/<digest>` | `accounts` | the users who have a device, with `DEVICE_ACCOUNTS=one` |
//! | `answers/FCM/default/prod` | a day | a push service's number of deliveries, and of answers that a device is gone |
//! | `rate/example.com` | a minute | the number of events of an account: a domain, a user or a sender |
//! | `rate/<shard>/example.com` | a minute | more of them, if one item cannot be written often enough |
//! | `msg/<id>/<slot>` | `claims` | for the recipients in a slot: which attempt publishes a message to which registration, and their unread counts |

mod account;
mod alerts;
mod answers;
mod attributes;
mod claim;
mod conflicts;
mod counted;
mod device;
mod item;
mod keys;
mod limits;
mod node;
mod personal;
mod rate;
mod recipient;
mod registration;
mod removal;
mod replaced;
mod session;
mod shown;
mod transaction;
mod transfer;
mod unread;

pub use alerts::Alert;
pub use answers::AnswerCounts;
pub use claim::{CLAIM_LIFETIME, ClaimItem, ClaimUpdate, Claimant, Claimed};
pub use counted::{Counted, CountedBefore, CounterClaim, Counters};
pub use device::DeviceStatus;
pub use limits::Limits;
pub use node::{MAX_AFFILIATIONS, Node, NodeAddress, NodePlaced};
pub use personal::{ItemKind, Mention, PersonalItem};
pub use rate::RateLimitError;
pub use recipient::{SessionAttention, Snapshot};
pub use registration::{Registered, RegistrationState};
pub use removal::RemovalProgress;
pub use replaced::{Replaced, ReplacedBy};
pub use session::MAX_SESSIONS;
pub use shown::{SHOWN_LIFETIME, Shown};
pub use transfer::{RegistrationDigest, RegistrationPage, ScanPosition, TableSize, Transferred};
pub use unread::{COUNTER_LIFETIME, CountedMessage, CountedRead, StillUnread};

use std::num::NonZeroU32;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use pushlark_settings::{Environment, SettingError, catalogue};
use time::OffsetDateTime;

use attributes::{PK, SK};
use conflicts::Conflicts;
use item::{Item, text};

/// The maximum number of items that are written concurrently.
const MAX_CONCURRENT_WRITES: usize = 16;

/// A failed request to the table. The caller may retry later: the cause is throttling, an outage, a missing permission,
/// or an item that this version cannot read.
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
        Self { action, source: "this version cannot read the item".into() }
    }
}

/// A client of the table, with the settings that apply to it.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    table: String,
    session_lifetime: Duration,
    limits: Limits,
    /// Whether a device that is enabled is taken from other users.
    one_account: bool,
    /// Events per account and minute; `None` for no limit.
    rate_limit: Option<NonZeroU32>,
}

impl Store {
    /// Reads `TABLE_NAME`, `RATE_LIMIT`, the settings of [`Limits`] and `SESSION_LIFETIME`: the time in seconds from
    /// the last report about a session until it expires, so that notifications resume after a lost "offline".
    pub fn from_environment(client: Client, environment: &Environment) -> Result<Self, SettingError> {
        let session_lifetime = environment.number(&catalogue::SESSION_LIFETIME)?;
        let config = client.config().to_builder().retry_classifier(Conflicts).build();
        Ok(Self {
            client: Client::from_conf(config),
            table: environment.require(&catalogue::TABLE_NAME)?,
            session_lifetime: Duration::from_secs(session_lifetime.into()),
            limits: Limits::from_environment(environment)?,
            one_account: false,
            rate_limit: NonZeroU32::new(environment.number(&catalogue::RATE_LIMIT)?),
        })
    }

    /// Also reads `DEVICE_ACCOUNTS`, for a function that enables devices.
    pub fn with_device_accounts(self, environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self { one_account: environment.choice(&catalogue::DEVICE_ACCOUNTS, [false, true])?, ..self })
    }

    /// Opens a connection to the table with a query that finds nothing.
    pub async fn warm_up(&self) -> Result<(), StoreError> {
        self.query()
            .key_condition_expression(format!("{PK} = :pk"))
            .expression_attribute_values(":pk", text("warm-up"))
            .send()
            .await
            .map_err(StoreError::during("be reached"))?;
        Ok(())
    }

    /// Returns the limits per user.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns whether a device that is enabled is taken from other users (`DEVICE_ACCOUNTS=one`).
    pub fn has_one_account(&self) -> bool {
        self.one_account
    }

    fn query(&self) -> QueryFluentBuilder {
        self.client.query().table_name(&self.table).consistent_read(true)
    }

    async fn get(&self, action: &'static str, pk: impl ToString, sk: &str) -> Result<Item, StoreError> {
        let item = self.client.get_item().table_name(&self.table).key(PK, text(pk)).key(SK, text(sk));
        let found = item.consistent_read(true).send().await.map_err(StoreError::during(action))?;
        Ok(found.item.unwrap_or_default())
    }

    fn update(&self, pk: impl ToString, sk: &str) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).key(PK, text(pk)).key(SK, text(sk))
    }
}

/// Returns whether a write succeeded; false if its condition failed because the item had changed.
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

/// Executes a conditional write. Returns the new item, or the present one if the condition fails.
async fn write(action: &'static str, update: UpdateItemFluentBuilder) -> Result<Result<Item, Item>, StoreError> {
    let written = update
        .return_values(ReturnValue::AllNew)
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .send()
        .await;
    match written {
        Ok(written) => Ok(Ok(written.attributes.unwrap_or_default())),
        Err(error) => match error.into_service_error() {
            UpdateItemError::ConditionalCheckFailedException(stale) => Ok(Err(stale.item.unwrap_or_default())),
            error => Err(StoreError::during(action)(error)),
        },
    }
}

fn expiry(lifetime: Duration) -> u64 {
    seconds_now() + lifetime.as_secs()
}

fn seconds_now() -> u64 {
    OffsetDateTime::now_utc().unix_timestamp().unsigned_abs()
}
