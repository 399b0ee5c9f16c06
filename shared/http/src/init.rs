//! The initialization of an HTTP function ("Understanding the Lambda execution environment lifecycle", Init phase).

use aws_config::SdkConfig;
use pushlark_access::Access;
use pushlark_http_client::aws_config;
use pushlark_settings::{Environment, SettingError};
use pushlark_telemetry::{Format, start};

/// The values that every HTTP function is built from.
#[derive(Debug, Clone)]
pub struct Init {
    /// The environment variables of the process.
    pub environment: Environment,
    /// The region, credentials and timeouts of the AWS clients.
    pub aws: SdkConfig,
    /// The authentication of servers.
    pub access: Access,
}

impl Init {
    /// Starts the log and reads the settings and secrets of the process.
    pub async fn of_process() -> Result<Self, SettingError> {
        let environment = Environment::of_process();
        start(Format::Json, &environment)?;
        let aws = aws_config(&environment).await?;
        let access = Access::from_environment(&environment, &aws).await?;
        Ok(Self { environment, aws, access })
    }
}
