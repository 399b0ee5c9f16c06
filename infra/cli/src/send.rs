//! The command `send`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use pushlark_delivery::{Delivery, Notification, Outcome, Verdict};
use pushlark_model::{Payload, Presentation, Registration};
use pushlark_xmpp::BareJid;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::output::{Colour, Format, print_json, say, waiting};
use crate::stack::{Function, Stack, StackOptions};
use crate::user::parse_user;

/// The lifetime of a test notification.
const TIME_TO_LIVE: Duration = Duration::from_secs(300);

/// Send a test notification to the devices of a user, and print the answers of the push services.
///
/// The notification is sent from this machine, with the settings and secrets of the worker. No answer disables a device.
/// The exit code is 1 if a notification is not delivered.
#[derive(Debug, Args)]
pub struct SendOptions {
    /// The user.
    #[arg(value_parser = parse_user)]
    user: BareJid,
    /// Only the registrations at this PubSub service.
    #[arg(long)]
    jid: Option<BareJid>,
    /// Only the registrations of this node.
    #[arg(long)]
    node: Option<String>,
    /// The title of the notification.
    #[arg(long, default_value = "Pushlark")]
    title: String,
    /// The text of the notification.
    #[arg(long, default_value = "This is a test notification.")]
    text: String,
}

impl SendOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let stack = Stack::find(stack).await?;
        let store = stack.store().await?;
        let snapshot = waiting("reading registrations", store.snapshot(&self.user)).await?;
        let is_chosen = |registration: &&Registration| {
            self.jid.as_ref().is_none_or(|jid| *jid == registration.jid)
                && self.node.as_ref().is_none_or(|node| *node == registration.node)
        };
        let chosen: Vec<_> = snapshot.registrations.iter().filter(is_chosen).collect();
        if snapshot.registrations.is_empty() {
            bail!("{} has no registration", self.user);
        }
        if chosen.is_empty() {
            bail!("{} has no such registration, of {} in all", self.user, snapshot.registrations.len());
        }
        let environment = stack.environment(Function::Worker).await?;
        let delivery = Delivery::from_environment(&environment, &stack.aws);
        let delivery = delivery.context("the settings of the worker cannot be used from this machine")?;
        if format == Format::Human {
            say(format!("Sending a test notification to {}:", self.user))?;
            for registration in &chosen {
                say(format!("  {}", named(registration)))?;
            }
        }
        let (mut answers, mut are_delivered) = (Vec::new(), true);
        for registration in chosen {
            let answer = waiting("asking the push service", Answer::get(&delivery, &self, registration)).await;
            are_delivered &= answer.is_delivered();
            if format == Format::Human {
                answer.print(registration)?;
            }
            answers.push(answer.to_json(registration));
        }
        if format == Format::Json {
            print_json(&json!({"user": self.user.as_str(), "sent": answers}))?;
        }
        Ok(if are_delivered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The answer of a push service.
struct Answer {
    /// The name of the push service; `None` without a route.
    push_service: Option<String>,
    /// The target, without the device; `None` without a route.
    target: Option<String>,
    /// The outcome, or the reason why there is no route.
    outcome: Result<Outcome, String>,
    took: Duration,
}

impl Answer {
    /// Sends a notification to a device.
    async fn get(delivery: &Delivery, options: &SendOptions, registration: &Registration) -> Self {
        let user = &options.user;
        let started = Instant::now();
        let publisher = match delivery.route(user, &registration.jid) {
            Ok(publisher) => publisher,
            Err(no_route) => {
                let outcome = Err(no_route.to_string());
                return Self { push_service: None, target: None, outcome, took: started.elapsed() };
            }
        };
        let domain = BareJid::from_parts(None, user.domain());
        let payload = Payload::default()
            .with(Payload::MESSAGE_COUNT, "1")
            .with(Payload::LAST_MESSAGE_SENDER, domain.as_str())
            .with(Payload::LAST_MESSAGE_BODY, &*options.text);
        let presentation = Presentation { title: Some(options.title.clone()), ..Presentation::default() };
        let now = OffsetDateTime::now_utc();
        let notification = Notification {
            message_id: &format!("test-{}", now.unix_timestamp_nanos()),
            user,
            conversation: &domain,
            registration,
            is_group: false,
            payload: (&payload).into(),
            presentation: Some(&presentation),
            badge: None,
            expires_at: now + TIME_TO_LIVE,
        };
        let Verdict { push_service, outcome } = publisher.publish(&notification).await;
        let took = started.elapsed();
        let target = Some(publisher.describe(user, registration));
        Self { push_service: Some(push_service.name.to_string()), target, outcome: Ok(outcome), took }
    }

    fn is_delivered(&self) -> bool {
        matches!(self.outcome, Ok(Outcome::Delivered))
    }

    fn name(&self) -> &'static str {
        self.outcome.as_ref().map_or("no route", Outcome::name)
    }

    /// Returns the reason, with the status of the push service.
    fn reason(&self) -> Option<&str> {
        match &self.outcome {
            Ok(outcome) => outcome.reason(),
            Err(no_route) => Some(no_route),
        }
    }

    /// Returns the worker's reaction to this answer to a notification of a message.
    fn effect(&self) -> Option<&'static str> {
        Some(match &self.outcome {
            Ok(Outcome::Delivered) => return None,
            Ok(Outcome::Gone(_)) => "The worker would disable the registration.",
            Ok(Outcome::Suspect(_)) => "The worker would disable the registration after several such answers in a row.",
            Ok(Outcome::Refused(_)) => "The worker would drop the notification.",
            Ok(Outcome::Transient(_)) => "The worker would try again later.",
            Err(_) => "No notification is sent to this registration.",
        })
    }

    /// Returns the status of HTTP in the reason, which every gateway writes as `status 410`.
    fn status(&self) -> Option<u16> {
        let (_, after) = self.reason()?.split_once("status ")?;
        after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    fn to_json(&self, registration: &Registration) -> Value {
        let mut json = json!({"jid": registration.jid.as_str(), "node": registration.node, "outcome": self.name(),
            "encrypted": registration.encryption.is_some(), "milliseconds": self.took.as_millis() as u64});
        for (name, text) in [
            ("reason", self.reason()),
            ("target", self.target.as_deref()),
            ("push_service", self.push_service.as_deref()),
            ("effect", self.effect()),
        ] {
            if let Some(text) = text {
                json[name] = text.into();
            }
        }
        if let Some(status) = self.status() {
            json["status"] = status.into();
        }
        json
    }

    fn print(&self, registration: &Registration) -> anyhow::Result<()> {
        let colour = match self.outcome {
            Ok(Outcome::Delivered) => Colour::Green,
            Ok(Outcome::Suspect(_) | Outcome::Transient(_)) => Colour::Yellow,
            Ok(Outcome::Gone(_) | Outcome::Refused(_)) | Err(_) => Colour::Red,
        };
        let reason = self.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
        let encrypted = if registration.encryption.is_some() { ", encrypted" } else { "" };
        say(format!(
            "{}: {}{reason} ({} ms{encrypted})",
            named(registration),
            colour.paint(self.name()),
            self.took.as_millis()
        ))?;
        if let Some(target) = &self.target {
            say(format!("  to {target}"))?;
        }
        if let Some(effect) = self.effect() {
            say(format!("  {effect} The registration is unchanged."))?;
        }
        Ok(())
    }
}

fn named(Registration { jid, node, .. }: &Registration) -> String {
    format!("{jid}, node {node}")
}
