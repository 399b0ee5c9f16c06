//! Enables notifications (XEP-0357, section 5): stores a registration.

use pushlark_delivery::{TrustedOrigins, VirtualHosts, check_subscription};
use pushlark_http::{Access, Answer, Invocation, Rejection, answer, command};
use pushlark_plugin::{PublishOptions, PublishService};
use pushlark_store::{Store, micros};
use pushlark_telemetry::Causes;
use pushlark_xmpp::Enable;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// The function.
#[derive(Debug, Clone)]
pub struct Function {
    /// Who may call.
    pub access: Access,
    /// Where registrations are kept.
    pub store: Store,
    /// The hosts at which the options are Pushlark's own to check.
    pub virtual_hosts: VirtualHosts,
    /// The endpoints of Web Push that are trusted although they are not public.
    pub trusted_origins: TrustedOrigins,
}

impl Function {
    /// Answers one invocation: `{"user", "jid", "node", "form"?}` or the `<enable/>` IQ.
    pub async fn handle(&self, invocation: Invocation) -> Answer {
        answer(&self.access, invocation, async |request| {
            command(request, async |enable| self.enable(enable).await).await
        })
        .await
    }

    async fn enable(&self, enable: Enable) -> Result<Value, Rejection> {
        let Enable { user, jid, node, form } = enable;
        let owner = user.to_bare();
        let options = PublishOptions::new(form).map_err(|invalid| Rejection::BadRequest(invalid.to_string()))?;
        if self.virtual_hosts.has(&owner, &jid) {
            options.check().map_err(|invalid| Rejection::BadRequest(invalid.to_string()))?;
            check_subscription(&options, &self.trusted_origins)
                .map_err(|invalid| Rejection::BadRequest(invalid.to_string()))?;
        }
        let service = PublishService { jid, node, options, created_at: micros(OffsetDateTime::now_utc()) };
        self.store.register(&user, &service).await.map_err(|error| {
            tracing::error!(user = %owner, jid = %service.jid, error = %Causes(&error), "not enabled");
            Rejection::Unavailable
        })?;
        tracing::info!(user = %owner, jid = %service.jid, "enabled");
        Ok(json!({"status": "enabled", "user": owner.as_str(), "jid": service.jid.as_str(), "node": service.node}))
    }
}
