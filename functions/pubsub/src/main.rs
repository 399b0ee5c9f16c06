//! Starts the push node on Lambda.

use pushlark_http::{Init, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let init = Init::of_process().await?;
    let (dynamodb, sqs) = (aws_sdk_dynamodb::Client::new(&init.aws), aws_sdk_sqs::Client::new(&init.aws));
    let function = pubsub::Function::from_environment(&init, dynamodb, sqs)?;
    run(async |invocation| function.handle(invocation).await).await.map_err(anyhow::Error::from_boxed)
}
