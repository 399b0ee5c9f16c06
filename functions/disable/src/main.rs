//! The function as Lambda starts it.

use std::convert::Infallible;

use lambda_runtime::{LambdaEvent, run, service_fn};
use pushlark_http::{Access, Invocation};
use pushlark_settings::{Environment, aws_config};
use pushlark_store::Store;
use pushlark_telemetry::{Format, flush, start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let environment = Environment::of_process();
    start(Format::Json, &environment)?;
    let aws = aws_config().await;
    let table: String = environment.require("TABLE_NAME", "the table that holds the registrations")?;
    let function = disable::Function {
        access: Access::from_environment(&environment, &aws).await?,
        store: Store::new(aws_sdk_dynamodb::Client::new(&aws), table),
    };
    run(service_fn(async |event: LambdaEvent<Invocation>| {
        let answer = function.handle(event.payload).await;
        flush();
        Ok::<_, Infallible>(answer)
    }))
    .await
    .map_err(anyhow::Error::from_boxed)
}
