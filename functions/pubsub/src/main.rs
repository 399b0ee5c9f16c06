//! The function as Lambda starts it.

use pushlark_access::Access;
use pushlark_delivery::Destinations;
use pushlark_http::run;
use pushlark_queue::Queue;
use pushlark_settings::{Environment, aws_config};
use pushlark_store::Store;
use pushlark_telemetry::{Format, start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let environment = Environment::of_process();
    start(Format::Json, &environment)?;
    let aws = aws_config().await;
    let queue: String = environment.require("QUEUE_URL", "the queue that the worker is fed from")?;
    let function = pubsub::Function {
        access: Access::from_environment(&environment, &aws).await?,
        store: Store::from_environment(aws_sdk_dynamodb::Client::new(&aws), &environment)?,
        queue: Queue::new(aws_sdk_sqs::Client::new(&aws), queue),
        destinations: Destinations::from_environment(&environment)?,
    };
    run(async |invocation| function.handle(invocation).await).await.map_err(anyhow::Error::from_boxed)
}
