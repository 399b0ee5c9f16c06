//! `cargo run -p local`: Pushlark on loopback, until Ctrl-C.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bridge::{Bridge, Given};
use clap::{Parser, Subcommand};
use local::{Options, Stack, demo};
use pushlark_settings::Environment;
use pushlark_settings::catalogue::WEBHOOK_SECRET;
use pushlark_telemetry::{Format, start};
use tokio::signal::unix::{SignalKind, signal};

/// Pushlark on one machine: all functions, with DynamoDB and SQS embedded. Settings are environment variables with the
/// names that they have on Lambda.
#[derive(Parser)]
#[command(name = "local")]
struct Arguments {
    /// The port of /enable, /disable, /events, /pubsub, /explain and /sink.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Keep registrations and events in memory only.
    #[arg(long)]
    memory: bool,
    /// The folder of registrations and events.
    #[arg(long, default_value = ".pushlark", value_name = "FOLDER")]
    data: PathBuf,
    /// With --components, the bridge to a chat server beside it.
    #[command(flatten)]
    bridge: Given,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends real webhooks through a fresh stack, shows the notifications, and fails if one is not as it must be.
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
            eprintln!("local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let environment = Environment::of_process();
    start(Format::Human, &environment)?;
    // Before the first output, after which a signal may come.
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let data = (!arguments.memory).then_some(arguments.data);
    let options = Options { port: arguments.port, data: data.clone(), environment, ..Options::default() };
    let stack = Stack::start(options).await?;
    introduce(&stack, data.as_deref())?;
    let bridge = match arguments.bridge {
        Given { components: None, .. } => None,
        bridge => {
            let to = |path| Some(format!("{}{path}", stack.url));
            let (iq_url, messages_url) = (to("/pubsub"), to("/events"));
            let bridge = Given {
                iq_url: bridge.iq_url.or(iq_url),
                messages_url: bridge.messages_url.or(messages_url),
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
    // The commands take the secret from the shell; it is not printed.
    let (hint, credential) = match stack.environment.value(&WEBHOOK_SECRET)? {
        Some(_) => (" (with one of the secrets in $SECRET)", r#" -H "Authorization: Bearer $SECRET""#),
        None => ("", ""),
    };
    println!(
        r#"Try{hint}:
  curl {url}/enable{credential} -H 'Content-Type: application/json' -d '{{"user": "bob@example.com", "jid": "push.example.com", "node": "phone", "form": {{"service": "fcm", "device_id": "TOKEN"}}}}'
  curl {url}/events{credential} -H 'Content-Type: application/json' -d '{{"type": "message", "from": "alice@example.com/pc", "to": "bob@example.com", "chat": "chat", "body": "Hi"}}'
  curl {url}/sink/notifications"#
    );
    Ok(())
}
