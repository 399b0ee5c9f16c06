//! The command `export`.

mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use pushlark_store::Store;
use pushlark_xmpp::{BareJid, DomainPart};
use serde_json::json;

use crate::import::record::Record;
use crate::output::{Format, Progress, print_json, table, tell};
use crate::scan::ScanPrice;
use crate::stack::{Stack, StackOptions};
use crate::user;
use writer::{Writer, Written};

/// Print all data of a user as JSON, or the registrations of all users in the format of a chat server.
#[derive(Debug, Args)]
pub struct ExportOptions {
    /// The user whose data are exported, with the tokens of the devices.
    #[arg(value_parser = user::parse_user, conflicts_with = "format", required_unless_present = "format")]
    user: Option<BareJid>,
    /// Export the registrations of all users in this form, with the tokens of their devices.
    #[arg(long, value_name = "FORM")]
    format: Option<ExportFormat>,
    /// With --format, export only the registrations of the users of this domain, without its subdomains.
    #[arg(long, value_parser = user::parse_domain, requires = "format", conflicts_with = "user")]
    domain: Option<DomainPart>,
    /// Write a new file that only its owner can read; for Prosody, a new folder.
    #[arg(long, value_name = "FILE", required_if_eq("format", "prosody"))]
    output: Option<PathBuf>,
}

/// The form of all registrations. `import --from` reads each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// JSON lines.
    Jsonl,
    /// CSV with a header.
    Csv,
    /// SQL for MongooseIM's table event_pusher_push_subscription.
    Mongooseim,
    /// SQL for ejabberd's table push_session in its new schema.
    Ejabberd,
    /// A folder for Prosody's data_path.
    Prosody,
}

impl ExportOptions {
    /// Runs the command.
    pub async fn run(self, stack: &StackOptions, format: Format) -> anyhow::Result<ExitCode> {
        let stack = Stack::find(stack).await?;
        match (self.user, self.format) {
            (Some(user), _) => user::export(&stack, &user, self.output.as_deref(), format).await?,
            (None, Some(form)) => registrations(&stack, form, self.domain, self.output, format).await?,
            (None, None) => bail!("give a user, or --format for the registrations of all users"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Exports the registrations of all users, or of those of a domain.
async fn registrations(
    stack: &Stack,
    form: ExportFormat,
    domain: Option<DomainPart>,
    output: Option<PathBuf>,
    format: Format,
) -> anyhow::Result<()> {
    let store = stack.store().await?;
    let price = ScanPrice::of(stack, &store).await?;
    let writer = Writer::new(form, output.as_deref())?;
    tell(&price);
    let progress = Progress::start(Some(price.items()), "reading items");
    let is_chosen = |user: &BareJid| domain.as_ref().is_none_or(|domain| user.domain().as_str() == domain.as_str());
    let written = tokio::select! {
        written = write(&store, writer, is_chosen, &progress) => written,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    drop(progress);
    let (exported, left_out) = written.inspect_err(|_| {
        // A part of an export would block the next attempt.
        if let Some(output) = &output {
            let _ = if output.is_dir() { fs::remove_dir_all(output) } else { fs::remove_file(output) };
        }
    })?;
    if format == Format::Json && output.is_some() {
        return print_json(&json!({"exported": exported, "left_out": left_out}));
    }
    tell(format!("{exported} registrations"));
    if !left_out.is_empty() {
        let lines = left_out.iter().map(|(reason, count)| [count.to_string(), (*reason).to_owned()]);
        tell(table(["registrations", "left out"], lines));
    }
    Ok(())
}

/// Writes the registrations of the chosen users. Returns their number, and the number of those, or parts of those, that
/// are left out, by reason.
async fn write(
    store: &Store,
    mut writer: Writer,
    is_chosen: impl Fn(&BareJid) -> bool,
    progress: &Progress,
) -> anyhow::Result<(u64, BTreeMap<&'static str, u64>)> {
    let (mut exported, mut unreadable, mut from) = (0_u64, 0, None);
    let mut left_out = BTreeMap::<&str, u64>::new();
    loop {
        let page = store.scan_registrations(from).await?;
        unreadable += page.unreadable;
        progress.add(page.scanned);
        for (user, registration) in page.registrations.into_iter().filter(|(user, _)| is_chosen(user)) {
            let object = |value: serde_json::Value| value.as_object().cloned();
            let record = Record {
                user: user.to_string(),
                jid: registration.jid.to_string(),
                node: registration.node,
                enabled_at: Some(registration.created_at),
                form: registration.options.fields().clone(),
                preferences: registration.preferences.map(serde_json::to_value).transpose()?.and_then(object),
                encrypt: registration.encryption.map(serde_json::to_value).transpose()?.and_then(object),
            };
            let reasons = match writer.write(record).context("the output cannot be written")? {
                Written::Without(parts) => {
                    exported += 1;
                    parts
                }
                Written::LeftOut(reason) => vec![reason],
            };
            for reason in reasons {
                *left_out.entry(reason).or_default() += 1;
            }
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    writer.finish().context("the output cannot be written")?;
    if unreadable > 0 {
        left_out.insert("this version cannot read the item", unreadable);
    }
    Ok((exported, left_out))
}
