//! Checks of the functions: they start, answer and read the table, and their settings and secrets are valid.

use pushlark_access::{Access, ClientTokens};
use pushlark_delivery::Destinations;
use pushlark_events::Sources;
use pushlark_plugin::Plugins;
use pushlark_settings::catalogue::{EXTRA_CA_FILE, PLUGIN, WEBHOOK_SECRET};
use pushlark_settings::{Environment, Secret, SettingError, catalogue};
use pushlark_store::Store;
use serde_json::json;
use worker::Worker;

use super::Check;
use crate::stack::{Function, Place, Refused, Stack};

/// A user of a domain that can never exist (RFC 2606).
pub const NOBODY: &str = "doctor@pushlark.invalid";

/// The remedy for a secret that is missing or unknown.
const SECRET: &str = "Give the secret of the local stack in --secret or PUSHLARK_SECRET.";

/// Invokes each function in a way that changes nothing. The worker explains a message to a user who does not exist, for
/// which it reads the table and asks the plugin. The others refuse an empty request, which proves that they started.
pub async fn check(stack: &Stack) -> Vec<Check> {
    let mut checks = Vec::new();
    for function in Function::ALL {
        let name = format!("function {}", function.logical_id());
        let message = json!({"type": "message", "from": "nobody@pushlark.invalid/doctor", "to": NOBODY,
            "chat": "chat", "body": "doctor"});
        let is_worker = function == Function::Worker;
        let request = if is_worker { json!({"explain": [message]}) } else { json!({}) };
        let log = "Read its log with `pushlark logs --level error`: a wrong setting, or a permission of its role.";
        checks.push(match stack.invoke(function, &request).await {
            Ok(_) if is_worker => Check::ok(name, "starts, reads the table and asks the plugin"),
            Ok(_) => Check::ok(name, "starts and answers"),
            Err(error) if !is_worker && error.is::<Refused>() => Check::ok(name, "starts and answers"),
            Err(error) => match error.downcast_ref() {
                Some(Refused::Secret(refused)) => Check::failed(name, refused, SECRET),
                _ => Check::failed(name, format!("{error:#}"), log),
            },
        });
    }
    checks
}

/// Reads the settings of the functions as these do, and the secrets with the permissions of the operator.
pub async fn check_settings(stack: &Stack) -> Vec<Check> {
    let mut checks = Vec::new();
    for function in Function::ALL {
        let name = format!("settings of {}", function.logical_id());
        let remedy = "Correct the parameter of the template with the same name in CamelCase, and deploy.";
        checks.push(match readable_environment(stack, function).await {
            Err(error) => {
                Check::failed(name, format!("{error:#}"), "Get the permission lambda:GetFunctionConfiguration.")
            }
            Ok(environment) => match read(stack, function, &environment).await {
                Ok(()) => Check::ok(name, "are valid"),
                Err(invalid) => Check::failed(name, invalid, remedy),
            },
        });
    }
    checks.extend(check_secrets(stack).await);
    checks
}

/// Returns the settings of a function. A private CA is a file of the functions' layer; on this machine it is that of
/// the tool's own `EXTRA_CA_FILE`.
pub async fn readable_environment(stack: &Stack, function: Function) -> anyhow::Result<Environment> {
    let mut environment = stack.environment(function).await?;
    if let Place::Aws { .. } = stack.place {
        let own = Environment::of_process();
        environment.extend([(EXTRA_CA_FILE.name, own.text(EXTRA_CA_FILE.name).unwrap_or_default())]);
    }
    Ok(environment)
}

async fn read(stack: &Stack, function: Function, environment: &Environment) -> Result<(), SettingError> {
    let aws = &stack.aws;
    Store::from_environment(stack.dynamodb.clone(), environment)?;
    match function {
        Function::Enable => {
            Access::from_environment(environment, aws).await?;
            ClientTokens::from_environment(environment, aws).await?;
            Destinations::from_environment(environment)?;
        }
        Function::Disable => {
            Access::from_environment(environment, aws).await?;
            ClientTokens::from_environment(environment, aws).await?;
        }
        Function::Ingest => {
            Access::from_environment(environment, aws).await?;
            Sources::from_environment(environment)?;
        }
        Function::PushNode => {
            Access::from_environment(environment, aws).await?;
            Sources::from_environment(environment)?;
            Destinations::from_environment(environment)?;
        }
        Function::Worker => {
            let mut environment = environment.clone();
            let plugins = Plugins::built_in();
            let plugin: String = environment.require(&PLUGIN)?;
            // This tool cannot know the plugins of a worker of your own, which has answered if it knows this one.
            if plugin != "rules" && !plugin.starts_with("lambda:") && plugins.get(&plugin).is_err() {
                environment.extend([(PLUGIN.name, "defaults")]);
            }
            Worker::from_environment(&environment, aws, &plugins, stack.dynamodb.clone(), stack.sqs.clone()).await?;
        }
    }
    Ok(())
}

/// Reads the secrets of all functions from their places. Their texts are checked with the settings, and never shown.
async fn check_secrets(stack: &Stack) -> Vec<Check> {
    let mut settings = Environment::default();
    for function in Function::ALL {
        // The settings that cannot be read are reported above.
        if let Ok(environment) = stack.environment(function).await {
            settings.extend(environment.variables());
        }
    }
    let mut checks = Vec::new();
    for setting in catalogue::all().into_iter().filter(|setting| setting.is_secret) {
        let Some(value) = settings.text(setting.name) else { continue };
        let name = format!("secret {}", setting.name);
        let remedy = "Correct the ARN, or get the permission secretsmanager:GetSecretValue (and kms:Decrypt for a key \
                      of your own); the functions have theirs from the template.";
        checks.push(match Secret::new(value, &stack.aws).read().await {
            Ok(text) if text.trim().is_empty() => Check::failed(name, "is empty", "Store a value."),
            Ok(_) => Check::ok(name, "can be read"),
            Err(unread) => Check::failed(name, format!("{:#}", anyhow::Error::from(unread)), remedy),
        });
    }
    if settings.text(WEBHOOK_SECRET.name).is_none() {
        checks.push(match stack.place {
            Place::Aws { .. } => Check::failed(
                format!("secret {}", WEBHOOK_SECRET.name),
                "is not set: every request is refused",
                "Set the parameter WebhookSecret.",
            ),
            Place::Local { .. } => Check::ok(
                format!("secret {}", WEBHOOK_SECRET.name),
                "is not set in this shell; secrets of the local stack are checked if they are",
            ),
        });
    }
    checks
}
