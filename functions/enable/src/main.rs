//! Starts the function `enable` on Lambda.

use pushlark_access::Access;
use pushlark_http::run;
use pushlark_settings::{Environment, aws_config};
use pushlark_telemetry::{Format, start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let environment = Environment::of_process();
    start(Format::Json, &environment)?;
    let aws = aws_config().await;
    let access = Access::from_environment(&environment, &aws).await?;
    let dynamodb = aws_sdk_dynamodb::Client::new(&aws);
    let function = enable::Function::from_environment(&environment, &aws, access, dynamodb).await?;
    run(async |invocation| function.handle(invocation).await).await.map_err(anyhow::Error::from_boxed)
}
