//! Starts the function `enable` on Lambda.

use pushlark_http::{Init, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let init = Init::of_process().await?;
    let dynamodb = aws_sdk_dynamodb::Client::new(&init.aws);
    let function = enable::Function::from_environment(&init, dynamodb).await?;
    run(async |invocation| function.handle(invocation).await).await.map_err(anyhow::Error::from_boxed)
}
