//! Settings that are secret.

use std::path::PathBuf;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use pushlark_telemetry::Causes;

use crate::outcome::Failure;

/// Where a secret text is: in AWS Secrets Manager (the setting is its ARN), in a file (`file:` and its path), or in the
/// setting itself.
#[derive(Debug, Clone)]
pub enum Secret {
    /// The client is made when it is needed.
    SecretsManager {
        arn: String,
        aws: Box<SdkConfig>,
    },
    File(PathBuf),
    Given(String),
}

impl Secret {
    pub fn new(setting: &str, aws: &SdkConfig) -> Self {
        let setting = setting.trim();
        match setting.strip_prefix("file:") {
            Some(path) => Self::File(path.into()),
            None if setting.starts_with("arn:") => {
                Self::SecretsManager { arn: setting.into(), aws: Box::new(aws.clone()) }
            }
            None => Self::Given(setting.into()),
        }
    }

    /// Reads it as it is now.
    pub async fn read(&self) -> Result<String, Failure> {
        match self {
            Self::Given(text) => Ok(text.clone()),
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::of_service(format!("{} cannot be read: {error}", path.display()))),
            Self::SecretsManager { arn, aws } => {
                let secret = Client::new(aws).get_secret_value().secret_id(arn).send().await.map_err(|error| {
                    Failure::of_service(format!("the secret {arn} cannot be read: {}", Causes(&error)))
                })?;
                secret.secret_string.ok_or_else(|| Failure::of_service(format!("the secret {arn} is not a text")))
            }
        }
    }
}
