//! `pushlark-local`: Pushlark on this machine, until SIGINT or SIGTERM.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bridge::{Bridge, BridgeOptions, refuse_old_names};
use clap::{Parser, Subcommand};
use local::{Live, Options, Stack, demo};
use pushlark_settings::catalogue::WEBHOOK_SECRET;
use pushlark_settings::{Environment, SettingError};
use pushlark_telemetry::start_with;
use tokio::signal::unix::{SignalKind, signal};

/// Pushlark on one machine: all functions, with DynamoDB and SQS embedded. The functions read their settings from
/// environment variables, as on Lambda.
#[derive(Parser)]
#[command(name = "pushlark-local")]
struct Arguments {
    /// The port of /enable, /disable, /events, /pubsub, /explain and /sink.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Keep registrations and events only in memory.
    #[arg(long)]
    memory: bool,
    /// The folder for registrations and events.
    #[arg(long, default_value = ".pushlark", value_name = "FOLDER")]
    data: PathBuf,
    /// With `--components`, the bridge to a chat server runs, too.
    #[command(flatten)]
    bridge: BridgeOptions,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Post webhooks to a new stack, show the notifications, and fail if one is wrong.
    Demo,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ran = match arguments.command {
        Some(Command::Demo) => demo().await,
        None => run(arguments).await,
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pushlark-local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let environment = Environment::of_process();
    let live = Live::default();
    start_with(live.layer(), &environment)?;
    refuse_old_bridge_names(&arguments.bridge, &environment)?;
    // Before the start is printed, since a signal may follow at once.
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let data = (!arguments.memory).then_some(arguments.data);
    let options = Options { port: arguments.port, data: data.clone(), environment, live, ..Options::default() };
    let stack = Stack::start(options).await?;
    introduce(&stack, data.as_deref())?;
    let bridge = match arguments.bridge {
        BridgeOptions { components: None, .. } => None,
        bridge => {
            let to = |path| Some(format!("{}{path}", stack.url));
            let (iq_url, messages_url) = (to("/pubsub"), to("/events"));
            let webhook_secret = stack.environment.text("WEBHOOK_SECRET").map(str::to_owned);
            let extra_ca_file = stack.environment.text("EXTRA_CA_FILE").map(PathBuf::from);
            let bridge = BridgeOptions {
                iq_url: bridge.iq_url.or(iq_url),
                messages_url: bridge.messages_url.or(messages_url),
                webhook_secret: bridge.webhook_secret.or(webhook_secret),
                extra_ca_file: bridge.extra_ca_file.or(extra_ca_file),
                ..bridge
            };
            Some(Bridge::start(bridge.try_into()?).await?)
        }
    };
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    println!("stopping");
    if let Some(bridge) = bridge {
        bridge.stop().await;
    }
    stack.stop().await;
    Ok(())
}

/// Refuses the bridge's variables of earlier versions if the bridge runs, or ran in an earlier version.
/// `WEBHOOK_SECRET` and `LOG_LEVEL` are settings of the functions.
fn refuse_old_bridge_names(bridge: &BridgeOptions, environment: &Environment) -> Result<(), SettingError> {
    if bridge.components.is_none() && environment.text("COMPONENTS").is_none() {
        return Ok(());
    }
    refuse_old_names(environment, &["WEBHOOK_SECRET", "LOG_LEVEL"])
}

fn introduce(stack: &Stack, data: Option<&Path>) -> anyhow::Result<()> {
    let Stack { url, dynamodb_url, sqs_url, .. } = stack;
    println!(
        "Pushlark is at {url}/enable, /disable, /events, /pubsub and /explain; its DynamoDB at {dynamodb_url}, its SQS at {sqs_url}."
    );
    if let Some(folder) = data {
        let file = folder.join("lambda.env");
        std::fs::write(&file, stack.lambda_env()).with_context(|| format!("cannot write {}", file.display()))?;
        println!("Data is kept in {}; for cargo lambda, --env-file {}.", folder.display(), file.display());
    }
    // The secret is not printed: the commands read it from the shell.
    let (hint, credential) = match stack.environment.value(&WEBHOOK_SECRET)? {
        Some(_) => (" (set SECRET to one of the secrets)", r#" -H "Authorization: Bearer $SECRET""#),
        None => ("", ""),
    };
    println!("{url}/ shows what happens.");
    println!(
        r#"Try{hint}:
  curl {url}/enable{credential} -H 'Content-Type: application/json' -d '{{"user": "bob@example.com", "jid": "push.example.com", "node": "phone", "form": {{"service": "fcm", "device_id": "TOKEN"}}}}'
  curl {url}/events{credential} -H 'Content-Type: application/json' -d '{{"type": "message", "from": "alice@example.com/pc", "to": "bob@example.com", "chat": "chat", "body": "Hi"}}'
  curl {url}/sink/notifications"#
    );
    Ok(())
}
