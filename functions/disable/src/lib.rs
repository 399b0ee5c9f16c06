//! Disables notifications (XEP-0357, section 6) by deleting registrations.

use aws_sdk_dynamodb::Client;
use pushlark_access::{Access, Caller, ClientTokens};
use pushlark_http::{Answer, CommandError, Init, Invocation, Methods, answer, command};
use pushlark_settings::SettingError;
use pushlark_store::{Store, StoreError};
use pushlark_telemetry::Causes;
use pushlark_xmpp::Disable;
use serde_json::{Value, json};

/// The function `disable`: the state that all invocations of a process share.
#[derive(Debug, Clone)]
pub struct Function {
    access: Access,
    store: Store,
}

impl Function {
    /// Reads the settings of [`ClientTokens`] and [`Store`]. The secrets of servers
    /// are accepted, and the tokens of clients if `JWT_KEYS` is set.
    pub async fn from_environment(init: &Init, dynamodb: Client) -> Result<Self, SettingError> {
        let Init { environment, aws, access } = init;
        Ok(Self {
            access: access.clone().with_clients(ClientTokens::from_environment(environment, aws).await?),
            store: Store::from_environment(dynamodb, environment)?,
        })
    }

    /// Handles one invocation: `{"user", "jid", "node"?}` or the `<disable/>` IQ. Without `node`, all registrations of
    /// the user at `jid` are deleted. The JSON response has their number as `removed`.
    pub async fn handle(&self, invocation: Invocation) -> Answer {
        answer(&self.access, Methods::Post, invocation, async |request| {
            let caller = request.caller.clone();
            command(request, async |disable| self.disable(&caller, disable).await).await
        })
        .await
    }

    async fn disable(&self, caller: &Caller, disable: Disable) -> Result<Value, CommandError> {
        let Disable { user, jid, node } = disable;
        let user = user.into_bare();
        if !caller.has_access_to(&user) {
            return Err(CommandError::Forbidden(user.to_string()));
        }
        let unavailable = |error: StoreError| {
            tracing::error!(%user, %jid, error = %Causes(&error), "not disabled");
            CommandError::Unavailable
        };
        self.store.charge(&[caller.charged_for(&user)]).await?;
        let removed = self.store.unregister(&user, &jid, node.as_deref()).await.map_err(unavailable)?;
        tracing::info!(%user, %jid, removed, "disabled");
        let mut answer = json!({"status": "disabled", "user": user.as_str(), "jid": jid.as_str(), "removed": removed});
        if let Some(node) = node {
            answer["node"] = node.into();
        }
        Ok(answer)
    }
}
