//! The registrations in the table, for the page.

use std::collections::BTreeSet;

use anyhow::Context;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use pushlark_model::time::from_micros;
use pushlark_settings::catalogue::{MONGOOSEPUSH_URL, PUSH_SERVICE, TABLE_NAME};
use pushlark_settings::{Environment, SettingError};
use pushlark_store::Store;
use pushlark_xmpp::BareJid;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

/// The most users whose registrations are listed.
const MAX_USERS: usize = 100;
/// The most pages of the table, of 1 MB each, that are searched for users.
const MAX_PAGES: usize = 8;

/// The table, and whether the tokens in it are those of the double.
pub struct Registrations {
    dynamodb: Client,
    table: String,
    store: Store,
    shows_tokens: bool,
}

/// The registrations of at most 100 users.
#[derive(Debug, Serialize)]
pub struct RegistrationList {
    registrations: Vec<ListedRegistration>,
    /// Whether the table may have further users.
    is_partial: bool,
}

#[derive(Debug, Serialize)]
struct ListedRegistration {
    user: String,
    jid: String,
    node: String,
    service: String,
    /// The token. Only of devices of the push service double: the tokens of other services are secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    enabled_at: String,
    /// Whether it has preferences of the user.
    has_preferences: bool,
    is_encrypted: bool,
}

impl Registrations {
    /// Reads `TABLE_NAME`, `PUSH_SERVICE`, `MONGOOSEPUSH_URL` and the settings of [`Store`]. `sink` is the URL of the
    /// double.
    pub fn from_environment(environment: &Environment, dynamodb: &Client, sink: &str) -> Result<Self, SettingError> {
        let is_double = environment.text(PUSH_SERVICE.name).is_none_or(|service| service == "mongoosepush")
            && environment.text(MONGOOSEPUSH_URL.name) == Some(sink);
        Ok(Self {
            dynamodb: dynamodb.clone(),
            table: environment.require(&TABLE_NAME)?,
            store: Store::from_environment(dynamodb.clone(), environment)?,
            shows_tokens: is_double,
        })
    }

    /// Returns the registrations as they are now, by user.
    pub async fn list(&self) -> anyhow::Result<RegistrationList> {
        let (users, is_partial) = self.users().await?;
        let mut registrations = Vec::new();
        for user in users {
            let user = BareJid::new(&user).context("a key of the table is no JID")?;
            let snapshot = self.store.snapshot(&user).await?;
            registrations.extend(snapshot.registrations.into_iter().map(|registration| {
                let token = registration.options.get("device_id").filter(|_| self.shows_tokens);
                ListedRegistration {
                    user: user.to_string(),
                    jid: registration.jid.to_string(),
                    service: registration.options.service().to_owned(),
                    device_id: token.map(str::to_owned),
                    enabled_at: from_micros(registration.created_at).format(&Rfc3339).unwrap_or_default(),
                    has_preferences: registration.preferences.is_some(),
                    is_encrypted: registration.encryption.is_some(),
                    node: registration.node,
                }
            }));
        }
        Ok(RegistrationList { registrations, is_partial })
    }

    /// Returns users who have registrations, and whether there may be more.
    async fn users(&self) -> anyhow::Result<(BTreeSet<String>, bool)> {
        let (mut users, mut start) = (BTreeSet::new(), None);
        for _ in 0..MAX_PAGES {
            let scan = self.dynamodb.scan().table_name(&self.table).set_exclusive_start_key(start);
            let scan = scan.filter_expression("begins_with(sk, :reg)").projection_expression("pk");
            let page = scan.expression_attribute_values(":reg", AttributeValue::S("reg/".into())).send().await?;
            let keys = page.items.unwrap_or_default();
            users.extend(keys.iter().filter_map(|key| key.get("pk")?.as_s().ok().cloned()));
            if users.len() > MAX_USERS {
                let listed = users.into_iter().take(MAX_USERS).collect();
                return Ok((listed, true));
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok((users, false));
            }
        }
        Ok((users, true))
    }
}
