//! Checks of the credentials of each app: the provider is asked to notify a device that does not exist.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use pushlark_delivery::{AppCredentials, Delivery, Notification, Outcome, Provider, app_credentials};
use pushlark_model::{Payload, PublishOptions, Registration};
use pushlark_settings::catalogue::{PUSH_CREDENTIALS, PUSH_SERVICE, VIRTUAL_PUBSUB_HOSTS};
use pushlark_settings::{Environment, Secret};
use pushlark_xmpp::BareJid;
use serde_json::Value;
use time::OffsetDateTime;

use super::Check;
use super::functions::{NOBODY, readable_environment};
use crate::stack::{Function, Place, Stack};

/// A token of APNs that no device has, in hexadecimal.
const NO_IPHONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// A token that FCM never issues.
const NO_ANDROID: &str = "pushlark-doctor";

/// Checks the credentials of `PUSH_SERVICE=direct`. With another push service there is nothing to check.
pub async fn check(stack: &Stack) -> Vec<Check> {
    // Settings that cannot be read are reported before.
    let Ok(environment) = readable_environment(stack, Function::Worker).await else { return Vec::new() };
    if environment.text(PUSH_SERVICE.name) != Some("direct") {
        return Vec::new();
    }
    let Some(setting) = environment.text(PUSH_CREDENTIALS.name) else {
        let remedy = match stack.place {
            Place::Aws { .. } => "Set the parameter PushCredentials.",
            Place::Local { .. } => "Set PUSH_CREDENTIALS in this shell as it is for the local stack.",
        };
        return vec![Check::warning("credentials", "PUSH_CREDENTIALS is not known: no provider is tried", remedy)];
    };
    // A secret that cannot be read is reported before.
    let Ok(text) = Secret::new(setting, &stack.aws).read().await else { return Vec::new() };
    let apps = match app_credentials(&text, &environment) {
        Ok(apps) => apps,
        Err(invalid) => {
            return vec![Check::failed("credentials", invalid, "Correct the secret that PushCredentials names.")];
        }
    };
    let mut checks = Vec::new();
    for credentials in apps {
        let AppCredentials { app, provider, unusable } = &credentials;
        let name = format!("credentials of the app {app} for {}", provider.name());
        checks.push(match (unusable, provider) {
            (Some(reason), _) => Check::failed(name, reason, "Correct them in the secret that PushCredentials names."),
            (None, Provider::WebPush) => {
                Check::ok(name, "the key and the subject are valid; no push service can be asked without a browser")
            }
            (None, Provider::Apns) if !has_topic(&text, app) => Check::warning(
                name,
                "there is no topic, so that Apple cannot be asked without a device",
                "Add the topic, the bundle id of the app, unless each form names one.",
            ),
            (None, _) => match outcome(stack, &environment, app, *provider).await {
                Err(error) => Check::failed(name, format!("{error:#}"), "Correct the settings of the worker."),
                Ok(outcome) => judged(name, *provider, outcome),
            },
        });
    }
    checks
}

fn has_topic(text: &str, app: &str) -> bool {
    let apps: Value = serde_json::from_str(text).unwrap_or_default();
    apps[app]["apns"]["topic"].is_string()
}

/// Publishes to no device, with the worker's own clients.
async fn outcome(stack: &Stack, given: &Environment, app: &str, provider: Provider) -> anyhow::Result<Outcome> {
    let mut environment = given.clone();
    environment.extend([(VIRTUAL_PUBSUB_HOSTS.name, "push.@HOST@")]);
    let delivery = Delivery::from_environment(&environment, &stack.aws)?;
    let (service, device) = match provider {
        Provider::Apns => ("apns", NO_IPHONE),
        Provider::Fcm | Provider::WebPush => ("fcm", NO_ANDROID),
    };
    let form = [("service", service), ("device_id", device), ("app", app)];
    let form: BTreeMap<_, _> = form.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let user: BareJid = NOBODY.parse().context("the user of the check")?;
    let host: BareJid = "push.pushlark.invalid".parse().context("the host of the check")?;
    let registration = Registration::new(host, "doctor".into(), PublishOptions::new(form)?, 0);
    let payload = Payload::default().with(Payload::LAST_MESSAGE_BODY, "doctor");
    let notification = Notification {
        message_id: "doctor",
        user: &user,
        conversation: &user,
        registration: &registration,
        is_group: false,
        payload: (&payload).into(),
        presentation: None,
        badge: None,
        expires_at: OffsetDateTime::now_utc() + Duration::from_mins(1),
    };
    let publisher = delivery.push_service(&user, &registration.jid).context("there is no push service")?;
    Ok(publisher.publish(&notification).await.outcome)
}

/// A provider that knows our credentials says that the device does not exist.
fn judged(name: String, provider: Provider, outcome: Outcome) -> Check {
    let console = match provider {
        Provider::Apns => {
            "Compare the key, its id, the team and the topic with Apple's developer account; a sandbox app \
                           needs its own url."
        }
        Provider::Fcm | Provider::WebPush => {
            "Compare the service account with Firebase's console, and enable the FCM API."
        }
    };
    match outcome {
        Outcome::Delivered => Check::ok(name, "the provider accepts them"),
        Outcome::Gone(reason) | Outcome::Suspect(reason) => {
            Check::ok(name, format!("the provider accepts them, and refuses the device ({reason})"))
        }
        Outcome::Refused(reason) => Check::failed(name, reason, console),
        Outcome::Transient(failure) => Check::failed(
            name,
            failure.reason,
            "Try again; if it stays so, check the network, the URL of the provider and its status page.",
        ),
    }
}
