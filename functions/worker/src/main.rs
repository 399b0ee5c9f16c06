//! The worker with the plugins that come with Pushlark.

use worker::Plugins;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    worker::run(Plugins::built_in()).await
}
