//! The place of the rules, and reading them.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aws_config::SdkConfig;
use pushlark_http_client::Tls;
use pushlark_settings::{Environment, Secret, SettingError, UnreadSecretError, catalogue};

use super::aws_document::{AwsDocument, InvalidPlaceError};

/// The most bytes of rules in the setting itself: the environment of a Lambda function has 4 KB ("Lambda quotas").
const MAX_GIVEN_BYTES: usize = 1_024;
/// The most bytes of rules in a file. Documents in AWS have the limit of [`pushlark_fetch`], which is the same.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The place of the rules: the setting `RULES`.
pub enum RulesSource {
    /// A place that is read without AWS.
    Local(LocalRules),
    /// An object in S3, or a parameter in Parameter Store.
    Aws(Box<AwsDocument>),
    /// A secret in Secrets Manager.
    Secret(Secret),
}

/// Rules that are read without AWS.
pub enum LocalRules {
    /// The setting itself.
    Given(String),
    /// A file.
    File(PathBuf),
}

/// Rules that cannot be read: their place is wrong, a permission is missing, or there is an outage. A later retry may
/// succeed.
#[derive(Debug, thiserror::Error)]
pub enum UnreadRulesError {
    /// A file, an object or a parameter cannot be read.
    #[error("the {place} cannot be read")]
    Document {
        /// The kind and the name of the place.
        place: String,
        /// The reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] UnreadSecretError),
}

impl RulesSource {
    /// Reads `RULES`, `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL_SSM`. Returns `None` if `RULES` is not set.
    pub fn from_environment(environment: &Environment, aws: &SdkConfig) -> Result<Option<Self>, SettingError> {
        let s3 = environment.with_endpoint(aws, &catalogue::AWS_ENDPOINT_URL_S3)?;
        let ssm = environment.with_endpoint(aws, &catalogue::AWS_ENDPOINT_URL_SSM)?;
        let tls = Tls::from_environment(environment)?;
        let Some(place) = environment.value(&catalogue::RULES)? else { return Ok(None) };
        let invalid = |wrong: InvalidPlaceError| catalogue::RULES.invalid(wrong);
        let document = |document: AwsDocument| Self::Aws(Box::new(document));
        Ok(Some(match place.split_once(':') {
            Some(("file", path)) => Self::Local(LocalRules::File(path.into())),
            Some(("s3", _)) => document(AwsDocument::object(place, s3, tls).map_err(invalid)?),
            Some(("arn", arn)) if arn.split(':').nth(1) == Some("secretsmanager") => {
                Self::Secret(Secret::new(place, aws))
            }
            Some(("arn", _)) => document(AwsDocument::parameter(place, ssm, tls).map_err(invalid)?),
            Some(("http" | "https", _)) => return Err(invalid(InvalidPlaceError::Http)),
            // The white space around the text stays, because errors name lines.
            _ => Self::Local(LocalRules::given(environment.text(catalogue::RULES.name).unwrap_or(place))?),
        }))
    }

    /// Returns whether the text may be another one at the next read.
    pub fn can_change(&self) -> bool {
        !matches!(self, Self::Local(LocalRules::Given(_)))
    }

    /// Reads the text.
    pub async fn read(&self) -> Result<String, UnreadRulesError> {
        match self {
            Self::Local(local) => local.read(),
            Self::Aws(document) => document.read().await,
            Self::Secret(secret) => Ok(secret.read().await?),
        }
    }
}

impl LocalRules {
    fn given(text: &str) -> Result<Self, SettingError> {
        if text.len() <= MAX_GIVEN_BYTES {
            return Ok(Self::Given(text.into()));
        }
        let places = "expected file: and a path, s3://bucket/key, or the ARN of a parameter or of a secret";
        let size = text.len();
        Err(catalogue::RULES.invalid(format!("the text has {size} bytes, the limit is {MAX_GIVEN_BYTES}: {places}")))
    }

    /// Reads the text.
    pub fn read(&self) -> Result<String, UnreadRulesError> {
        match self {
            Self::Given(text) => Ok(text.clone()),
            Self::File(path) => read_file(path).map_err(|error| UnreadRulesError::Document {
                place: format!("file {}", path.display()),
                source: error.into(),
            }),
        }
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}
