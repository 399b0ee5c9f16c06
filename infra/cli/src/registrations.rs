//! The command `registrations`.

use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use pushlark_model::time::from_micros;
use pushlark_model::{Preferences, Registration};
use pushlark_store::{RegistrationState, Snapshot};
use pushlark_xmpp::{BareJid, Jid, parse_jid};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::WrongArguments;
use crate::output::{Format, confirm, print_json, rfc3339, say, say_table, table, waiting};
use crate::stack::{Function, Stack, StackOptions};
use crate::user::parse_user;

/// List, enable and disable the registrations of a user.
#[derive(Debug, Args)]
pub struct RegistrationsOptions {
    #[command(subcommand)]
    command: RegistrationsCommand,
}

#[derive(Debug, Subcommand)]
enum RegistrationsCommand {
    /// List the registrations of a user. Of tokens, only the last four characters are shown.
    List {
        #[arg(value_parser = parse_user)]
        user: BareJid,
    },
    /// Enable notifications, with the checks of the function enable.
    Enable(Box<EnableArguments>),
    /// Delete registrations of a user. Notifications come back when the client enables them.
    Disable {
        #[arg(value_parser = parse_user)]
        user: BareJid,
        /// The PubSub service.
        #[arg(long, value_parser = parse_service)]
        jid: BareJid,
        /// The node. Without it, all nodes of the user at the service.
        #[arg(long)]
        node: Option<String>,
        /// Delete without a question.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct EnableArguments {
    /// The user. With a resource, the registration is tied to this session.
    #[arg(value_parser = parse_jid)]
    user: Jid,
    /// The PubSub service.
    #[arg(long, value_parser = parse_service)]
    jid: BareJid,
    /// The node.
    #[arg(long)]
    node: String,
    /// A field of the form, such as service=fcm.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_field)]
    field: Vec<(String, String)>,
    /// The same as --field service=…
    #[arg(long)]
    service: Option<String>,
    /// The same as --field device_id=…
    #[arg(long)]
    device_id: Option<String>,
    /// The same as --field app=…
    #[arg(long)]
    app: Option<String>,
    /// A preference, such as rooms=mentions or 'mute=[{"jid": "ann@example.com"}]'.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_preference)]
    preference: Vec<(String, Value)>,
    /// The key for encrypted notifications, a JSON object as /enable has it.
    #[arg(long, value_name = "JSON")]
    encrypt: Option<String>,
}

impl RegistrationsOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        match self.command {
            RegistrationsCommand::List { user } => list(&Stack::find(stack).await?, &user, format).await?,
            RegistrationsCommand::Enable(arguments) => {
                let request = arguments.request()?;
                let stack = Stack::find(stack).await?;
                let answer = stack.invoke(Function::Enable, &request).await?;
                match format {
                    Format::Json => print_json(&answer)?,
                    Format::Human => {
                        say(format!("{} is enabled at {}, node {}.", arguments.user, arguments.jid, arguments.node))?;
                        if let Some(notice) = answer["notice"].as_str() {
                            say(format!("But {notice}."))?;
                        }
                    }
                }
            }
            RegistrationsCommand::Disable { user, jid, node, yes } => {
                disable(&Stack::find(stack).await?, &user, &jid, node.as_deref(), yes, format).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(stack: &Stack, user: &BareJid, format: Format) -> anyhow::Result<()> {
    let store = stack.store().await?;
    let snapshot = waiting("reading registrations", store.snapshot(user)).await?;
    let listed: Vec<_> =
        snapshot.registrations.iter().map(|registration| Listed::new(registration, &snapshot)).collect();
    if format == Format::Json {
        let registrations: Vec<_> = listed.iter().map(Listed::to_json).collect();
        return print_json(&json!({"user": user.as_str(), "registrations": registrations}));
    }
    if listed.is_empty() {
        return say(format!("{user} has no registration."));
    }
    let header = ["service", "node", "device", "enabled", "first enabled", "preferences", "encrypted", "problems"];
    say_table(&table(header, listed.iter().map(Listed::row)))
}

async fn disable(
    stack: &Stack,
    user: &BareJid,
    jid: &BareJid,
    node: Option<&str>,
    yes: bool,
    format: Format,
) -> anyhow::Result<()> {
    let place = match node {
        Some(node) => format!("the registration of {user} at {jid}, node {node},"),
        None => format!("all registrations of {user} at {jid}"),
    };
    confirm(&format!("This deletes {place} with the token of the device."), yes)?;
    let mut request = json!({"user": user.as_str(), "jid": jid.as_str()});
    if let Some(node) = node {
        request["node"] = node.into();
    }
    let answer = stack.invoke(Function::Disable, &request).await?;
    let removed = answer["removed"].as_u64().context("the function disable does not say how many it has deleted")?;
    match format {
        Format::Json => print_json(&answer)?,
        Format::Human => say(format!("Deleted: {removed}."))?,
    }
    ensure!(removed > 0, "{user} has no such registration");
    Ok(())
}

impl EnableArguments {
    /// Returns the JSON of the request.
    fn request(&self) -> Result<Value, WrongArguments> {
        let once = |kind: &str, name: &str, earlier: Option<Value>| match earlier {
            Some(_) => Err(WrongArguments(format!("the {kind} {name} is given twice"))),
            None => Ok(()),
        };
        let named = [("service", &self.service), ("device_id", &self.device_id), ("app", &self.app)];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        let mut form = Map::new();
        for (name, value) in self.field.iter().cloned().chain(named) {
            once("field", &name, form.insert(name.clone(), value.into()))?;
        }
        let mut preferences = Map::new();
        for (name, value) in &self.preference {
            once("preference", name, preferences.insert(name.clone(), value.clone()))?;
        }
        let mut request =
            json!({"user": self.user.as_str(), "jid": self.jid.as_str(), "node": self.node, "form": form});
        if !preferences.is_empty() {
            request["preferences"] = preferences.into();
        }
        if let Some(encrypt) = &self.encrypt {
            // The parser of the command line would print the key.
            let key = serde_json::from_str(encrypt);
            request["encrypt"] = key.map_err(|error| WrongArguments(format!("--encrypt is not JSON: {error}")))?;
        }
        Ok(request)
    }
}

/// A registration with its state.
struct Listed<'l> {
    registration: &'l Registration,
    state: Option<&'l RegistrationState>,
}

impl<'l> Listed<'l> {
    fn new(registration: &'l Registration, snapshot: &'l Snapshot) -> Self {
        Self { registration, state: snapshot.state_of(registration) }
    }

    /// Returns the JSON of `GET /enable`, with the state of the registration.
    fn to_json(&self) -> Value {
        let Registration { jid, node, options, preferences, encryption, created_at } = self.registration;
        let mut listed = json!({"jid": jid.as_str(), "node": node, "enabled_at": rfc3339(from_micros(*created_at)),
            "form": options.masked(), "encrypted": encryption.is_some()});
        if let Some(preferences) = preferences {
            listed["preferences"] = preferences.masked();
        }
        if let Some(encryption) = encryption {
            listed["encrypt"] = encryption.masked();
        }
        let Some(state) = self.state else { return listed };
        if state.first_enabled_at > 0 {
            listed["first_enabled_at"] = rfc3339(from_micros(state.first_enabled_at)).into();
        }
        listed["suspicions"] = state.suspicions.into();
        if let Some(since) = unreachable_since(state) {
            listed["unreachable_since"] = since.into();
        }
        listed
    }

    fn row(&self) -> [String; 8] {
        let Registration { jid, node, options, preferences, encryption, created_at } = self.registration;
        let masked = options.masked();
        let device = ["device_id", "endpoint", "voip_device_id"].iter().find_map(|name| masked.get(*name));
        let app = options.given("app").map(|app| format!("app {app}"));
        let device = [Some(options.service().to_owned()), app, device.cloned()].into_iter().flatten();
        let first = self.state.map(|state| state.first_enabled_at).filter(|first| *first > 0);
        let problems = self.state.map(problems).unwrap_or_default();
        [
            jid.to_string(),
            node.clone(),
            device.collect::<Vec<_>>().join(" "),
            rfc3339(from_micros(*created_at).truncate_to_second()),
            first.map(|first| rfc3339(from_micros(first).truncate_to_second())).unwrap_or_default(),
            preferences.as_deref().map(in_words).unwrap_or_default(),
            if encryption.is_some() { "yes" } else { "no" }.into(),
            problems,
        ]
    }
}

/// Returns the names and masked values of preferences.
fn in_words(preferences: &Preferences) -> String {
    let masked = preferences.masked();
    let fields = masked.as_object().into_iter().flatten().map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        value => format!("{name}={value}"),
    });
    fields.collect::<Vec<_>>().join(" ")
}

/// Returns the answers about a device, in words.
fn problems(state: &RegistrationState) -> String {
    let suspected = (state.suspicions > 0).then(|| format!("reported as gone {} times", state.suspicions));
    let unreachable = unreachable_since(state).map(|since| format!("unreachable since {since}"));
    suspected.into_iter().chain(unreachable).collect::<Vec<_>>().join(", ")
}

fn unreachable_since(state: &RegistrationState) -> Option<String> {
    let since = state.unreachable_since?.try_into().ok()?;
    OffsetDateTime::from_unix_timestamp(since).ok().map(rfc3339)
}

fn parse_field(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

/// Reads a preference. A value that does not begin like JSON is a text, such as the name in rooms=mentions.
fn parse_preference(text: &str) -> Result<(String, Value), String> {
    let (name, value) = parse_field(text)?;
    let json = match value.trim_start().starts_with(['{', '[', '"']) {
        true => serde_json::from_str(&value).map_err(|error| format!("the value is not JSON: {error}"))?,
        false => serde_json::from_str(&value).unwrap_or_else(|_| Value::from(value)),
    };
    Ok((name, json))
}

fn parse_service(text: &str) -> Result<BareJid, String> {
    let jid = parse_jid(text).map_err(|error| error.to_string())?;
    match jid.is_full() {
        true => Err("expected a JID without a resource".into()),
        false => Ok(jid.into_bare()),
    }
}
