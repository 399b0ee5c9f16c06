//! The command `rules`: checks rules, and prints their decisions about events, without a stack.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use pushlark_model::{ClientState, Presentation, PublishOptions, Registration, TimeZone};
use pushlark_rules::Rules;
use pushlark_settings::Environment;
use pushlark_settings::catalogue::{MONGOOSEPUSH_URL, PUSH_SERVICE, VIRTUAL_PUBSUB_HOSTS};
use pushlark_store::Snapshot;
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};
use toml::{Table, Value as Toml};
use worker::{Trial, Tried, TriedDecision};

use crate::explain::events_of;
use crate::output::{Format, print_json, say};
use crate::stack::StackOptions;

/// Check the rules of `PLUGIN=rules`.
#[derive(Debug, Args)]
pub struct RulesOptions {
    #[command(subcommand)]
    command: RulesCommand,
}

#[derive(Debug, Subcommand)]
enum RulesCommand {
    /// Print rules in words, or the error with the rule and the line. With events, print the decisions about them.
    Check(CheckArguments),
}

#[derive(Debug, Args)]
struct CheckArguments {
    /// The rules in TOML.
    file: PathBuf,
    /// One event, or an array of events, in the JSON of /events; `-` is standard input. It can be given several times.
    #[arg(long, value_name = "FILE")]
    event: Vec<PathBuf>,
    /// The push services of each recipient's devices, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["apns", "fcm"])]
    provider: Vec<Provider>,
    /// The app of the devices.
    #[arg(long)]
    app: Option<String>,
    /// The time zone of the devices, such as Europe/Vienna.
    #[arg(long)]
    tz: Option<TimeZone>,
    /// The recipients are online, with clients in this state (XEP-0352). Otherwise they are offline.
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "active")]
    online: Option<State>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Provider {
    Apns,
    Fcm,
    WebPush,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Active,
    Inactive,
}

impl RulesOptions {
    /// Runs the command. It needs no stack.
    pub async fn run(self, _stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let RulesCommand::Check(arguments) = self.command;
        let file = &arguments.file;
        let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let rules: Rules = text.parse().with_context(|| file.display().to_string())?;
        if !arguments.event.is_empty() {
            arguments.print_decisions(&rules, format)?;
            return Ok(ExitCode::SUCCESS);
        }
        let described = described(&text);
        match format {
            Format::Json => print_json(&json!({"file": file, "rules": described}))?,
            Format::Human => {
                described.iter().try_for_each(say)?;
                say("otherwise: no notification")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl CheckArguments {
    /// Prints for each event, recipient and device the rule that decides, and the notification.
    fn print_decisions(&self, rules: &Rules, format: Format) -> anyhow::Result<()> {
        let mut environment = Environment::of_process();
        environment.extend([
            (VIRTUAL_PUBSUB_HOSTS.name, "push.@HOST@"),
            (PUSH_SERVICE.name, "mongoosepush"),
            (MONGOOSEPUSH_URL.name, "http://localhost"),
        ]);
        let trial = Trial::from_environment(&environment)?;
        let registrations = self.options()?;
        let mut decisions = Vec::new();
        for file in &self.event {
            for event in events_of(file)? {
                let assumed = |recipient: &BareJid| self.assumed(recipient, &registrations);
                let tried = trial.decide(rules, event.to_string().as_bytes(), assumed);
                let tried = tried.with_context(|| file.display().to_string())?;
                decisions.extend(tried.into_iter().map(|tried| (file, tried)));
            }
        }
        match format {
            Format::Json => {
                let decisions: Vec<_> = decisions.iter().map(|(event, tried)| decision_json(event, tried)).collect();
                print_json(&json!({"decisions": decisions}))
            }
            Format::Human => decisions.iter().flat_map(|(_, tried)| in_words(tried)).try_for_each(say),
        }
    }

    /// Returns the forms of the assumed registrations.
    fn options(&self) -> anyhow::Result<Vec<PublishOptions>> {
        let forms = self.provider.iter().map(|provider| {
            let optional = [("app", self.app.clone()), ("tz", self.tz.as_ref().map(TimeZone::to_string))];
            let optional = optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            let fields = [("service", provider.as_str()), provider.device()];
            let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
            PublishOptions::new(fields.into_iter().chain(optional).collect())
        });
        Ok(forms.collect::<Result<_, _>>()?)
    }

    fn assumed(&self, recipient: &BareJid, forms: &[PublishOptions]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        // The host is virtual, and a domain with a prefix of five bytes stays a JID except near its limit.
        let host = BareJid::new(&format!("push.{}", recipient.domain())).unwrap_or_else(|_| recipient.clone());
        snapshot.registrations = forms
            .iter()
            .map(|options| Registration::new(host.clone(), options.service().to_owned(), options.clone(), 0))
            .collect();
        snapshot.online = self.online.is_some().then_some(true);
        snapshot.client_state = self.online.map(|state| match state {
            State::Active => ClientState::Active,
            State::Inactive => ClientState::Inactive,
        });
        snapshot
    }
}

impl Provider {
    /// Returns the value of `service` in the form of a registration.
    fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::WebPush => "web-push",
        }
    }

    /// Returns the field of the form that names the device.
    fn device(self) -> (&'static str, &'static str) {
        match self {
            Self::Apns | Self::Fcm => ("device_id", "0123"),
            Self::WebPush => ("endpoint", "https://push.example.com/0123"),
        }
    }
}

/// Returns the decision for a recipient in lines.
fn in_words(Tried { recipient, outcome }: &Tried) -> Vec<String> {
    let TriedDecision { publications, left_out } = match outcome {
        Ok(decision) => decision,
        Err(rule) => return vec![format!("{recipient}: not notified, {rule}")],
    };
    let mut lines = vec![format!("{recipient}:")];
    for publication in publications {
        let rule = publication.rule.as_deref().unwrap_or("the default rules");
        lines.push(format!("  {}: notified, {rule}", publication.registration.node));
        let presentation = publication.presentation.as_deref().map(presented).unwrap_or_default();
        let fields = publication.payload.fields().map(|(name, value)| (name, value.to_string()));
        lines.extend(fields.chain(presentation).map(|(name, value)| format!("    {name}: {value}")));
    }
    let left_out = left_out.iter();
    lines.extend(left_out.map(|(registration, why)| format!("  {}: not notified, {why}", registration.node)));
    lines
}

/// Returns the names and values of a presentation, as a rule has them.
fn presented(presentation: &Presentation) -> Vec<(&'static str, String)> {
    let Presentation { title, priority, sound, interruption_level, channel_id, time_to_live, collapse } = presentation;
    let fields = [
        ("title", title.clone()),
        ("priority", priority.map(|priority| priority.as_str().to_owned())),
        ("sound", sound.as_ref().map(|sound| sound.as_str().to_owned())),
        ("interruption_level", interruption_level.map(|level| level.as_str().to_owned())),
        ("channel_id", channel_id.clone()),
        ("time_to_live", time_to_live.map(|time_to_live| format!("{} s", time_to_live.as_secs()))),
        ("collapse", collapse.map(|collapse| collapse.as_str().to_owned())),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn decision_json(event: &Path, Tried { recipient, outcome }: &Tried) -> Value {
    let mut json = json!({"event": event, "recipient": recipient.as_str()});
    match outcome {
        Err(rule) => json["skipped"] = rule.to_string().into(),
        Ok(TriedDecision { publications, left_out }) => {
            let publications = publications.iter().map(|publication| {
                let fields = publication.payload.fields().map(|(name, value)| (name.to_owned(), Value::from(value)));
                let presentation = publication.presentation.as_deref().map(presented).unwrap_or_default();
                let presentation = presentation.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value)));
                json!({"device": publication.registration.node, "rule": publication.rule.as_deref(),
                    "payload": Value::Object(fields.collect()),
                    "presentation": Value::Object(presentation.collect())})
            });
            let left_out = left_out.iter().map(|(registration, why)| json!({"device": registration.node, "why": why}));
            json["publications"] = publications.collect();
            json["left_out"] = left_out.collect();
        }
    }
    json
}

/// Returns rules in words. `text` is the TOML of valid rules.
fn described(text: &str) -> Vec<String> {
    let mut table = text.parse::<Table>().unwrap_or_default();
    let mut mongooseim =
        table.get("modules").and_then(|modules| modules.get("mod_event_pusher")?.get("push")?.get("rules")).cloned();
    let rules = table.remove("rules").or_else(|| mongooseim.take());
    let rules = rules.as_ref().and_then(Toml::as_array).into_iter().flatten();
    (1..).zip(rules.filter_map(Toml::as_table)).map(|(number, rule)| rule_in_words(number, rule)).collect()
}

fn rule_in_words(number: usize, rule: &Table) -> String {
    let name = rule.get("name").map(|name| format!(" {}", shown(name))).unwrap_or_default();
    let is_skip = rule.get("action").and_then(Toml::as_str) == Some("skip");
    let details = rule.iter().filter(|(name, _)| !["name", "action", "conditions"].contains(&name.as_str()));
    let details: Vec<_> = details.map(|(name, value)| format!("{name} {}", shown(value))).collect();
    let action = match is_skip {
        true => "no notification".into(),
        false => format!("notification with {}", details.join(", ")),
    };
    let conditions = rule.get("conditions").and_then(Toml::as_array).into_iter().flatten().filter_map(Toml::as_table);
    let conditions: Vec<_> = conditions.map(condition_in_words).collect();
    let condition = match conditions.as_slice() {
        [] => "of every message".to_owned(),
        conditions => format!("if {}", conditions.join("; or if ")),
    };
    format!("rule {number}{name}: {action} {condition}")
}

fn condition_in_words(condition: &Table) -> String {
    let facts = condition.iter().map(|(name, value)| match value {
        Toml::Boolean(true) => format!("{name} is true"),
        Toml::Integer(limit) => format!("{} is over {limit}", name.trim_end_matches("_over")),
        Toml::Table(range) => {
            let bounds: Vec<_> = range.iter().map(|(bound, time)| format!("{bound} {}", shown(time))).collect();
            format!("{name} is {}", bounds.join(" "))
        }
        value => format!("{name} is {}", shown(value)),
    });
    facts.collect::<Vec<_>>().join(" and ")
}

/// Returns a value as JSON.
fn shown(value: &Toml) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
