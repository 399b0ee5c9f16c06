//! The command `explain`.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use pushlark_xmpp::{Jid, parse_jid};
use serde_json::{Value, json};

use crate::output::{Colour, Format, print_json, say};
use crate::stack::{Function, Stack, StackOptions};

/// The options that make an event, in place of a file.
const EVENT_OPTIONS: [&str; 7] = ["from", "to", "body", "chat", "stanza", "call", "unacknowledged"];

/// Explain how an event would be handled, and why. Nothing is published, claimed or counted.
///
/// The event is either a file, or a message or a call of the options.
#[derive(Debug, Args)]
pub struct ExplainOptions {
    /// One event, or an array of events, in the JSON of /events; `-` is standard input.
    #[arg(conflicts_with_all = EVENT_OPTIONS, required_unless_present_any = EVENT_OPTIONS)]
    file: Option<PathBuf>,
    /// The sender: a user with or without a resource, or the occupant of a room.
    #[arg(long, value_parser = parse_jid, requires = "to")]
    from: Option<Jid>,
    /// The recipients.
    #[arg(long, value_parser = parse_jid, requires = "from")]
    to: Vec<Jid>,
    /// The text of the message.
    #[arg(long, requires = "to", default_value = "Hi", hide_default_value = true)]
    body: String,
    /// The type of the message.
    #[arg(long, requires = "to", value_enum, default_value_t = ChatKind::Chat)]
    chat: ChatKind,
    /// The message in XML, in a file, in place of a text.
    #[arg(long, requires = "to", value_name = "FILE", conflicts_with_all = ["body", "call"])]
    stanza: Option<PathBuf>,
    /// The start of a call in place of a message.
    #[arg(long, requires = "to", value_enum, num_args = 0..=1, require_equals = true,
        default_missing_value = "audio", conflicts_with = "body")]
    call: Option<Media>,
    /// The sessions in --to did not acknowledge the message.
    #[arg(long, requires = "to")]
    unacknowledged: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ChatKind {
    Chat,
    Groupchat,
    Normal,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Media {
    Audio,
    Video,
}

impl ExplainOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let events = match &self.file {
            Some(file) => events_of(file)?,
            None => vec![self.event()?],
        };
        let stack = Stack::find(stack).await?;
        let answer = stack.invoke(Function::Worker, &json!({"explain": events})).await?;
        ensure!(answer["explained"].is_array(), "the worker did not explain: {answer}");
        if format == Format::Json {
            print_json(&answer)?;
            return Ok(ExitCode::SUCCESS);
        }
        for event in answer["explained"].as_array().into_iter().flatten() {
            event_in_words(event).into_iter().try_for_each(say)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Returns the event of the options.
    fn event(&self) -> anyhow::Result<Value> {
        let kind = if self.unacknowledged { "unacknowledged" } else { "message" };
        let to: Vec<_> = self.to.iter().map(|to| to.as_str()).collect();
        let from = self.from.as_ref().context("--from is missing")?.as_str();
        let mut event = json!({"type": kind, "from": from, "to": to});
        match (&self.stanza, self.call) {
            (Some(file), _) => event["stanza"] = read(file)?.trim().into(),
            (None, Some(media)) => {
                let media = match media {
                    Media::Audio => "audio",
                    Media::Video => "video",
                };
                event["stanza"] = format!(
                    "<message xmlns='jabber:client' type='chat'><propose xmlns='urn:xmpp:jingle-message:0' id='explained'>\
                     <description xmlns='urn:xmpp:jingle:apps:rtp:1' media='{media}'/></propose></message>"
                )
                .into();
            }
            (None, None) => {
                event["body"] = self.body.as_str().into();
                event["chat"] = match self.chat {
                    ChatKind::Chat => "chat",
                    ChatKind::Groupchat => "groupchat",
                    ChatKind::Normal => "normal",
                }
                .into();
            }
        }
        Ok(event)
    }
}

/// Reads one event or an array of events from a file, or from standard input with `-`.
pub fn events_of(file: &Path) -> anyhow::Result<Vec<Value>> {
    let json = serde_json::from_str(&read(file)?).with_context(|| format!("{}: not JSON", file.display()))?;
    match json {
        Value::Array(events) if events.is_empty() => bail!("{}: there is no event", file.display()),
        Value::Array(events) => Ok(events),
        Value::Object(_) => Ok(vec![json]),
        _ => bail!("{}: expected an event or an array of events", file.display()),
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// Returns the explanation of an event in lines.
fn event_in_words(event: &Value) -> Vec<String> {
    let text = |name: &str| event[name].as_str();
    let effect = text("effect").unwrap_or_default();
    let mut lines = vec![format!("{}: {effect}", text("id").unwrap_or_default())];
    lines.extend(text("reads").map(|reads| format!("  {reads}")));
    let clears = event["clears"].as_array().into_iter().flatten();
    lines.extend(clears.map(|cleared| format!("  clears the notifications of {}", named(cleared))));
    for recipient in event["recipients"].as_array().into_iter().flatten() {
        recipient_in_words(recipient, &mut lines);
    }
    lines
}

fn recipient_in_words(recipient: &Value, lines: &mut Vec<String>) {
    lines.push(format!("  {}", recipient["recipient"].as_str().unwrap_or_default()));
    if let Some(rule) = recipient["skipped"].as_str() {
        return lines.push(format!("    {}", Colour::Yellow.paint(&format!("not notified: {rule}"))));
    }
    if recipient["exists"] == false {
        lines.push("    the user does not exist".into());
    }
    let state = if recipient["online"] == true { "online" } else { "offline" };
    let client_state = recipient["client_state"].as_str().map(|state| format!(", {state}")).unwrap_or_default();
    let source = match recipient["presence"].as_str() {
        Some("event") => "the event says so",
        Some("sessions") => "by the reported sessions",
        _ => "assumed: no presence was reported",
    };
    lines.push(format!("    {state}{client_state} ({source})"));
    let badge = recipient["badge"].as_u64().map(|badge| format!(", badge {badge}")).unwrap_or_default();
    lines.push(format!("    unread messages {}{badge}", recipient["unread_count"]));
    let registrations: Vec<_> = recipient["registrations"].as_array().into_iter().flatten().map(named).collect();
    lines.push(format!(
        "    registrations: {}",
        if registrations.is_empty() { "none".into() } else { registrations.join("; ") }
    ));
    if recipient["tied"].is_object() {
        lines.push(format!("    the session is tied to {}", named(&recipient["tied"])));
    }
    lines.extend(recipient["notice"].as_str().map(|notice| format!("    {}", Colour::Yellow.paint(notice))));
    for left_out in recipient["left_out"].as_array().into_iter().flatten() {
        let why = left_out["why"].as_str().unwrap_or_default();
        lines.push(format!("    {}: {}", named(left_out), Colour::Yellow.paint(&format!("not notified: {why}"))));
    }
    for publication in recipient["publications"].as_array().into_iter().flatten() {
        publication_in_words(publication, lines);
    }
}

fn publication_in_words(publication: &Value, lines: &mut Vec<String>) {
    let rule = publication["rule"].as_str().map(|rule| format!(" by {rule}")).unwrap_or_default();
    lines.push(format!("    {}: {}", named(publication), Colour::Green.paint(&format!("notified{rule}"))));
    lines.push(format!("      to {}", publication["target"].as_str().unwrap_or_default()));
    for (name, value) in publication["payload"].as_object().into_iter().flatten() {
        lines.push(format!("      {}: {}", Colour::Dim.paint(name), value.as_str().unwrap_or_default()));
    }
    if publication["quiet"] == true {
        lines.push("      without a sound: an alert of the conversation made one just before".into());
    }
    lines.extend(publication["notice"].as_str().map(|notice| format!("      {}", Colour::Yellow.paint(notice))));
}

fn named(registration: &Value) -> String {
    let text = |name: &str| registration[name].as_str().unwrap_or_default();
    format!("{}, node {}", text("jid"), text("node"))
}
