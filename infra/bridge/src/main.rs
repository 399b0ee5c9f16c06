//! `bridge`: runs beside a chat server, until it is stopped.

use anyhow::Context;
use bridge::{Bridge, Given};
use clap::Parser;
use pushlark_settings::Environment;
use pushlark_telemetry::{Format, start};
use tokio::signal::unix::{SignalKind, signal};

/// Joins a chat server, as a component of it (XEP-0114), to Pushlark: IQs and messages to the component are posted to
/// Pushlark's functions, and POST /rest sends stanzas to the chat server.
#[derive(Parser)]
#[command(name = "bridge")]
struct Arguments {
    #[command(flatten)]
    settings: Given,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    start(Format::Human, &Environment::of_process())?;
    let bridge = Bridge::start(Arguments::parse().settings.try_into()?).await?;
    let mut terminated = signal(SignalKind::terminate()).context("no signals")?;
    tokio::select! {
        _ = terminated.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("no signals")?,
    }
    bridge.stop().await;
    Ok(())
}
