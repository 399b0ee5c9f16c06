//! Settings that are secret.

use std::path::PathBuf;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::BoxError;

/// Where a secret text is: in AWS Secrets Manager (the setting is its ARN), in a file (`file:` and its path), or in the
/// setting itself.
#[derive(Debug, Clone)]
pub struct Secret(Place);

#[derive(Debug, Clone)]
enum Place {
    /// The client is made when it is needed.
    SecretsManager {
        arn: String,
        aws: Box<SdkConfig>,
    },
    File(PathBuf),
    Given(Given),
}

#[derive(Clone)]
struct Given(String);

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// A secret that cannot be read now: the operator's to mend, or an outage that passes.
#[derive(Debug, thiserror::Error)]
#[error("the secret {place} cannot be read")]
pub struct UnreadSecret {
    place: String,
    source: BoxError,
}

impl Secret {
    /// The secret that `setting` is, or says the place of.
    pub fn new(setting: &str, aws: &SdkConfig) -> Self {
        let setting = setting.trim();
        Self(match setting.strip_prefix("file:") {
            Some(path) => Place::File(path.into()),
            None if setting.starts_with("arn:") => {
                Place::SecretsManager { arn: setting.into(), aws: Box::new(aws.clone()) }
            }
            None => Place::Given(Given(setting.into())),
        })
    }

    /// Reads it as it is now.
    pub async fn read(&self) -> Result<String, UnreadSecret> {
        match &self.0 {
            Place::Given(Given(text)) => Ok(text.clone()),
            Place::File(path) => std::fs::read_to_string(path)
                .map_err(|error| UnreadSecret { place: path.display().to_string(), source: error.into() }),
            Place::SecretsManager { arn, aws } => {
                let unread = |source: BoxError| UnreadSecret { place: arn.clone(), source };
                let secret = Client::new(aws).get_secret_value().secret_id(arn).send().await;
                let secret = secret.map_err(|error| unread(error.into()))?;
                secret.secret_string.ok_or_else(|| unread("it is not a text".into()))
            }
        }
    }
}
