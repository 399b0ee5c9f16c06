//! The registrations in the table, for the page.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::Client;
use pushlark_model::Registration;
use pushlark_model::time::from_micros;
use pushlark_settings::catalogue::{MONGOOSEPUSH_URL, PUSH_SERVICE};
use pushlark_settings::{Environment, SettingError};
use pushlark_store::{Store, StoreError};
use pushlark_xmpp::BareJid;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

/// The most users whose registrations are listed.
const MAX_USERS: usize = 100;
/// The most pages of the table, of 1 MB each, that are searched for users.
const MAX_PAGES: usize = 8;

/// The table, and whether the tokens in it are those of the double.
pub struct Registrations {
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
    /// Reads `PUSH_SERVICE`, `MONGOOSEPUSH_URL` and the settings of [`Store`]. `sink` is the URL of the
    /// double.
    pub fn from_environment(environment: &Environment, dynamodb: &Client, sink: &str) -> Result<Self, SettingError> {
        let is_double = environment.text(PUSH_SERVICE.name).is_none_or(|service| service == "mongoosepush")
            && environment.text(MONGOOSEPUSH_URL.name) == Some(sink);
        Ok(Self { store: Store::from_environment(dynamodb.clone(), environment)?, shows_tokens: is_double })
    }

    /// Returns the registrations as they are now, by user.
    pub async fn list(&self) -> Result<RegistrationList, StoreError> {
        let (mut by_user, mut position) = (BTreeMap::<BareJid, Vec<ListedRegistration>>::new(), None);
        for _ in 0..MAX_PAGES {
            let page = self.store.scan_registrations(position).await?;
            for (user, registration) in page.registrations {
                let listed = self.listed(&user, registration);
                by_user.entry(user).or_default().push(listed);
            }
            position = page.next;
            if position.is_none() || by_user.len() > MAX_USERS {
                break;
            }
        }
        let is_partial = position.is_some() || by_user.len() > MAX_USERS;
        Ok(RegistrationList { registrations: by_user.into_values().take(MAX_USERS).flatten().collect(), is_partial })
    }

    fn listed(&self, user: &BareJid, registration: Registration) -> ListedRegistration {
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
    }
}
