//! Prints the decisions of rules about an event, without a stack.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::Context;
use clap::{Args, ValueEnum};
use pushlark_model::{ClientState, Presentation, PublishOptions, Registration, TimeZone};
use pushlark_rules::Rules;
use pushlark_settings::Environment;
use pushlark_settings::catalogue::{MONGOOSEPUSH_URL, PUSH_SERVICE, VIRTUAL_PUBSUB_HOSTS};
use pushlark_store::Snapshot;
use pushlark_xmpp::BareJid;
use worker::{Trial, Tried, TriedDecision};

/// The arguments of the command `rules`: the rules, an event, and the recipients that are assumed.
#[derive(Debug, Args)]
pub struct RulesArguments {
    /// The rules in TOML.
    file: PathBuf,
    /// One event in the JSON that /events accepts.
    #[arg(long, value_name = "FILE")]
    event: PathBuf,
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

/// Returns the decisions as text: for each recipient and device the rule that decides, and the notification. An error
/// names the file, and of rules the number and the line.
pub fn decisions(arguments: &RulesArguments, environment: &Environment) -> anyhow::Result<String> {
    let RulesArguments { file, event, .. } = arguments;
    let rules: Rules = read(file)?.parse().with_context(|| file.display().to_string())?;
    let mut environment = environment.clone();
    environment.extend([
        (VIRTUAL_PUBSUB_HOSTS.name, "push.@HOST@"),
        (PUSH_SERVICE.name, "mongoosepush"),
        (MONGOOSEPUSH_URL.name, "http://localhost"),
    ]);
    let trial = Trial::from_environment(&environment)?;
    let registrations = arguments.options()?;
    let tried = trial.decide(&rules, read(event)?.as_bytes(), |recipient| arguments.assumed(recipient, &registrations));
    let tried = tried.with_context(|| event.display().to_string())?;
    Ok(tried.iter().map(|tried| Printed(tried).to_string()).collect())
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

impl RulesArguments {
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

/// The decision for a recipient, on several lines.
struct Printed<'t>(&'t Tried);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tried { recipient, outcome } = self.0;
        let TriedDecision { publications, left_out } = match outcome {
            Ok(decision) => decision,
            Err(rule) => return writeln!(f, "{recipient}: not notified, {rule}"),
        };
        writeln!(f, "{recipient}:")?;
        for publication in publications {
            let rule = publication.rule.as_deref().unwrap_or("the default rules");
            writeln!(f, "  {}: notified, {rule}", publication.registration.node)?;
            let presentation = publication.presentation.as_deref().map(presented).unwrap_or_default();
            let fields = publication.payload.fields().map(|(name, value)| (name, value.to_string()));
            for (name, value) in fields.chain(presentation) {
                writeln!(f, "    {name}: {value}")?;
            }
        }
        left_out.iter().try_for_each(|(registration, why)| writeln!(f, "  {}: not notified, {why}", registration.node))
    }
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
