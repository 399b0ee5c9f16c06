//! Builders of the requests to enable and to disable push, and of registrations.

use doubles::{Subscriber, canary};
use pushlark_model::{PublishOptions, Registration};
use pushlark_xmpp::BareJid;
use serde::Serialize;
use serde_json::{Value, json};

use crate::PUSH_HOST;

/// The JSON body of a request to `/enable` or `/disable`: user, PubSub service, node and form.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct PushRequest(Value);

impl PushRequest {
    /// A node of a user at the virtual host of the user's domain, `push.<domain>`, without a form.
    pub fn new(user: &str, node: &str) -> Self {
        let mut request = Self::all_nodes(user);
        request.0["node"] = node.into();
        request
    }

    /// All nodes of a user at that host.
    pub fn all_nodes(user: &str) -> Self {
        let domain = user.split('/').next().unwrap().split('@').next_back().unwrap();
        Self(json!({"user": user, "jid": format!("push.{domain}")}))
    }

    /// Sets the JID of the PubSub service.
    pub fn at(mut self, jid: &str) -> Self {
        self.0["jid"] = jid.into();
        self
    }

    /// Adds the device `canary-<name>` of FCM to the form.
    pub fn device(self, name: &str) -> Self {
        self.options(json!({"service": "fcm", "device_id": canary(name)}))
    }

    /// Adds a browser's subscription to the form.
    pub fn browser(self, endpoint: &str, subscriber: &Subscriber) -> Self {
        self.options(browser(endpoint, subscriber))
    }

    /// Adds the fields of a JSON object to the form.
    pub fn options(mut self, options: Value) -> Self {
        if !self.0["form"].is_object() {
            self.0["form"] = json!({});
        }
        self.0["form"].as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self
    }

    /// Sets the whole form, also to a wrong value.
    pub fn form(self, form: Value) -> Self {
        self.with("form", form)
    }

    /// Removes the field of this name from the request.
    pub fn without(mut self, field: &str) -> Self {
        self.0.as_object_mut().unwrap().remove(field);
        self
    }
}

json_builder!(PushRequest);

/// Returns the publish options of a browser's subscription.
pub(crate) fn browser(endpoint: &str, subscriber: &Subscriber) -> Value {
    json!({"service": "web-push", "endpoint": endpoint, "p256dh": subscriber.p256dh(), "auth": subscriber.auth()})
}

/// Returns a registration at [`PUSH_HOST`] as the store has it, with the time when it was made, in microseconds.
pub fn registration(node: &str, options: &[(&str, &str)], created_at: u64) -> Registration {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = PublishOptions::new(options).unwrap();
    Registration::new(BareJid::new(PUSH_HOST).unwrap(), node.into(), options, created_at)
}
