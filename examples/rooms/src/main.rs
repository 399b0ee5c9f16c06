//! A worker with the plugin `rooms` in addition to the built-in ones.

use example_rooms::Rooms;
use pushlark_settings::Environment;
use worker::Plugins;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let rooms = Rooms::from_environment(&Environment::of_process())?;
    worker::run(Plugins::built_in().with("rooms", rooms)).await
}
