//! `pushlark-bridge`: runs beside a chat server until SIGTERM or SIGINT.

use anyhow::Context;
use bridge::{Bridge, BridgeOptions, refuse_old_names};
use clap::Parser;
use pushlark_settings::{Environment, SettingError};
use pushlark_telemetry::{Format, start};
use tokio::signal::unix::{SignalKind, signal};

/// Connects a chat server to Pushlark as a component (XEP-0114): posts the IQs and messages to the component to
/// Pushlark's functions, and sends the stanzas that are posted to /rest to the chat server.
#[derive(Parser)]
#[command(name = "pushlark-bridge")]
struct Arguments {
    #[command(flatten)]
    options: BridgeOptions,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Arguments::parse().options;
    let environment = Environment::of_process();
    start_logging(&environment)?;
    refuse_old_names(&environment, &[])?;
    let bridge = Bridge::start(options.try_into()?).await?;
    let mut terminated = signal(SignalKind::terminate()).context("cannot handle signals")?;
    tokio::select! {
        _ = terminated.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot handle signals")?,
    }
    bridge.stop().await;
    Ok(())
}

/// Starts logging at the level of `BRIDGE_LOG_LEVEL`. Logging knows the setting by the functions' name, `LOG_LEVEL`.
fn start_logging(environment: &Environment) -> Result<(), SettingError> {
    const LOG_LEVEL: &str = "BRIDGE_LOG_LEVEL";
    let level = environment.text(LOG_LEVEL).map(|level| ("LOG_LEVEL", level));
    start(Format::Human, &Environment::from_iter(level)).map_err(|error| match error {
        SettingError::Invalid { reason, .. } => SettingError::invalid(LOG_LEVEL, reason),
        missing => missing,
    })
}
