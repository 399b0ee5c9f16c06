//! Enables notifications (XEP-0357, section 5) by storing a registration, and lists the registrations of a user.

use aws_sdk_dynamodb::Client;
use pushlark_access::{Access, Caller, ClientTokens};
use pushlark_delivery::Destinations;
use pushlark_http::{
    Answer, CommandError, Init, Invocation, Method, Methods, Problem, Request, Response, answer, command,
};
use pushlark_model::time::{from_micros, to_micros};
use pushlark_model::{Extensions, PublishOptions, Registration, Strictness};
use pushlark_settings::SettingError;
use pushlark_store::{Registered, Store, StoreError};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{BareJid, Enable, parse_jid};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The function `enable`: the state that all invocations of a process share.
#[derive(Debug, Clone)]
pub struct Function {
    access: Access,
    destinations: Destinations,
    store: Store,
}

impl Function {
    /// Reads the settings of [`ClientTokens`], [`Store`] and [`Destinations`]. The secrets of servers
    /// are accepted, and the tokens of clients if `JWT_KEYS` is set.
    pub async fn from_environment(init: &Init, dynamodb: Client) -> Result<Self, SettingError> {
        let Init { environment, aws, access } = init;
        Ok(Self {
            access: access.clone().with_clients(ClientTokens::from_environment(environment, aws).await?),
            destinations: Destinations::from_environment(environment)?,
            store: Store::from_environment(dynamodb, environment)?.with_device_accounts(environment)?,
        })
    }

    /// Handles one invocation. POST takes `{"user", "jid", "node", "form"?, "preferences"?, "encrypt"?}` or the
    /// `<enable/>` IQ, and stores the registration; the JSON response has a `notice` if these settings send it no
    /// notification. GET lists the registrations of a user with masked options and preferences; `?user=` is required
    /// unless the caller is the user's client.
    pub async fn handle(&self, invocation: Invocation) -> Answer {
        answer(&self.access, Methods::GetAndPost, invocation, async |request| match request.method {
            Method::Get => self.list(&request).await,
            Method::Post => {
                let caller = request.caller.clone();
                command(request, async |enable| self.enable(&caller, enable).await).await
            }
        })
        .await
    }

    async fn enable(&self, caller: &Caller, enable: Enable) -> Result<Value, CommandError> {
        let Enable { user, jid, node, form, extensions } = enable;
        let owner = user.to_bare();
        if !caller.has_access_to(&owner) {
            return Err(CommandError::Forbidden(owner.to_string()));
        }
        let options = PublishOptions::new(form).map_err(|invalid| CommandError::BadRequest(invalid.to_string()))?;
        let notice = self.destinations.check(&owner, &jid, &options);
        let notice = notice.map_err(|invalid| CommandError::BadRequest(invalid.to_string()))?;
        let is_virtual = self.destinations.is_virtual(&owner, &jid);
        let strictness = if is_virtual { Strictness::Strict } else { Strictness::Lenient };
        let extensions = Extensions::read(extensions, &options, strictness);
        let Extensions { preferences, encryption } =
            extensions.map_err(|invalid| CommandError::BadRequest(invalid.to_string()))?;
        let created_at = to_micros(OffsetDateTime::now_utc());
        let registration = Registration { jid, node, options, preferences, encryption, created_at };
        let unavailable = |error: StoreError| {
            tracing::error!(user = %owner, jid = %registration.jid, error = %Causes(&error), "not enabled");
            CommandError::Unavailable
        };
        self.store.charge(&[caller.charged_for(&owner)]).await?;
        let may_take = |other: &BareJid| caller.may_take_device_of(other);
        let registered = self.store.register(&user, &registration, may_take).await.map_err(unavailable)?;
        if registered == Registered::Refused {
            let most = self.store.limits().nodes;
            return Err(CommandError::Full(format!("{owner} has {most} nodes already, disable one first")));
        }
        let mut answer = json!({"status": "enabled", "user": owner.as_str(), "jid": registration.jid.as_str(), "node": registration.node});
        match notice {
            None => tracing::info!(user = %owner, jid = %registration.jid, "enabled"),
            Some(notice) => {
                tracing::warn!(user = %owner, jid = %registration.jid, reason = %notice, "enabled, but no notification is sent");
                answer["notice"] = format!("no notification is sent: {notice}").into();
            }
        }
        Ok(answer)
    }

    async fn list(&self, request: &Request) -> Result<Response, Problem> {
        let user = match (request.query("user"), &request.caller) {
            (Some(user), _) => {
                parse_jid(user).map_err(|error| Problem::bad_request(format!("user: {user:?} is {error}")))?
            }
            (None, Caller::Client(user)) => user.clone().into(),
            (None, _) => return Err(Problem::bad_request("user is missing: name the user as ?user=")),
        };
        let user: BareJid = user.into_bare();
        if !request.caller.has_access_to(&user) {
            return Err(CommandError::Forbidden(user.to_string()).into());
        }
        let unavailable = |error: StoreError| {
            tracing::error!(%user, error = %Causes(&error), "not listed");
            CommandError::Unavailable
        };
        self.store.charge(&[request.caller.charged_for(&user)]).await?;
        let snapshot = self.store.snapshot(&user).await.map_err(unavailable)?;
        let registrations = snapshot.registrations.iter().map(|registration| {
            let enabled_at = from_micros(registration.created_at).format(&Rfc3339).unwrap_or_default();
            let mut listed = json!({"jid": registration.jid.as_str(), "node": registration.node,
                "enabled_at": enabled_at, "form": registration.options.masked()});
            if let Some(preferences) = &registration.preferences {
                listed["preferences"] = preferences.masked();
            }
            if let Some(encryption) = &registration.encryption {
                listed["encrypt"] = encryption.masked();
            }
            listed
        });
        Response::json(200, &json!({"user": user.as_str(), "registrations": registrations.collect::<Value>()}))
    }
}
