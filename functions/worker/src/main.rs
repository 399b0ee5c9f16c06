//! Starts the worker on Lambda, with the built-in plugins.

use worker::Plugins;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    worker::run(Plugins::built_in()).await
}
