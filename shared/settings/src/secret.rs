//! Settings that are secrets: the places from which they are read, and their rotation.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::BoxError;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::SettingError;

/// The minimum time between two reads of a secret, for any number of requests that need a newer value.
const REREAD_INTERVAL: Duration = Duration::from_secs(10);
/// The time for which a failed first read is returned to all callers before the next attempt.
const FIRST_READ_INTERVAL: Duration = Duration::from_secs(1);

/// The place of a secret text: AWS Secrets Manager (the setting is its ARN), a file (`file:` and its path), or the
/// setting itself.
#[derive(Debug, Clone)]
pub struct Secret(Place);

#[derive(Debug, Clone)]
enum Place {
    /// The client is created on the first read.
    SecretsManager {
        arn: String,
        aws: Box<SdkConfig>,
    },
    Local(Local),
}

/// A place that is read without AWS.
#[derive(Debug, Clone)]
enum Local {
    File(PathBuf),
    Given(Given),
}

#[derive(Clone)]
struct Given(String);

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A failed read of a secret: its place is wrong, a permission is missing, or there is an outage. A later retry may
/// succeed.
#[derive(Debug, thiserror::Error)]
#[error("the {place} cannot be read")]
pub struct UnreadSecretError {
    place: String,
    source: BoxError,
}

impl From<&str> for Secret {
    /// Returns the secret whose text is `text`.
    fn from(text: &str) -> Self {
        Self(Place::Local(Local::Given(Given(text.into()))))
    }
}

impl Secret {
    /// Returns the secret of a setting, whose value is the text or its place.
    pub fn new(setting: &str, aws: &SdkConfig) -> Self {
        let setting = setting.trim();
        Self(match setting.strip_prefix("file:") {
            Some(path) => Place::Local(Local::File(path.into())),
            None if setting.starts_with("arn:") => {
                Place::SecretsManager { arn: setting.into(), aws: Box::new(aws.clone()) }
            }
            None => return setting.into(),
        })
    }

    fn can_change(&self) -> bool {
        !matches!(self.0, Place::Local(Local::Given(_)))
    }

    /// Reads the current text from its place.
    pub async fn read(&self) -> Result<String, UnreadSecretError> {
        match &self.0 {
            Place::Local(local) => local.read(),
            Place::SecretsManager { arn, aws } => {
                let unread = |source: BoxError| UnreadSecretError { place: format!("secret {arn}"), source };
                let secret = Client::new(aws).get_secret_value().secret_id(arn).send().await;
                let secret = secret.map_err(|error| unread(error.into()))?;
                secret.secret_string.ok_or_else(|| unread("it is not a text".into()))
            }
        }
    }
}

impl Local {
    fn read(&self) -> Result<String, UnreadSecretError> {
        match self {
            Self::Given(Given(text)) => Ok(text.clone()),
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|error| UnreadSecretError { place: format!("file {}", path.display()), source: error.into() }),
        }
    }
}

/// A value that is parsed from a secret, and parsed again when the secret changes: a new secret is accepted and a
/// removed one is refused without a new deployment.
///
/// A secret in the setting itself cannot change. If a new text cannot be parsed, or the secret cannot be read, the
/// error is logged and the previous value stays.
pub struct RotatingSecret<T> {
    setting: &'static str,
    secret: Secret,
    parse: Box<Parse<T>>,
    max_age: Option<Duration>,
    state: Mutex<State<T>>,
}

type Parse<T> = dyn Fn(&str) -> Result<T, String> + Send + Sync;

struct State<T> {
    value: Option<Parsed<T>>,
    /// The time of the last read after the first, with a new value or not.
    reread_at: Option<Instant>,
    /// The reason why there is no value, and the time of that read.
    error: Option<(SecretError, Instant)>,
}

struct Parsed<T> {
    value: Arc<T>,
    text: String,
    /// The time of the last read that gave this text.
    read_at: Instant,
}

/// A secret without a value.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretError {
    /// The secret cannot be read now. A later retry may succeed.
    #[error("{setting} cannot be read")]
    Unread {
        /// The name of the setting.
        setting: &'static str,
        /// The failed read.
        source: Arc<UnreadSecretError>,
    },
    /// The text of the secret is not valid. The operator must correct it.
    #[error("{setting}: {reason}")]
    Invalid {
        /// The name of the setting.
        setting: &'static str,
        /// The reason, without the text.
        reason: String,
    },
}

impl<T> RotatingSecret<T> {
    /// Returns the secret of `setting`. `parse` returns its value, or a reason that does not quote the secret. Nothing
    /// is read before the first use.
    pub fn new(
        setting: &'static str,
        secret: Secret,
        parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    ) -> Self {
        let state = Mutex::new(State { value: None, reread_at: None, error: None });
        Self { setting, secret, parse: Box::new(parse), max_age: None, state }
    }

    /// Returns the same secret, which is read again at its use if the last read is older than `max_age`.
    pub fn with_max_age(self, max_age: Duration) -> Self {
        Self { max_age: Some(max_age), ..self }
    }

    /// Returns the same secret if it is valid. A secret in Secrets Manager is checked at its first use only.
    pub fn checked(mut self) -> Result<Self, SettingError> {
        if let Place::Local(local) = &self.secret.0 {
            accept(self.setting, &*self.parse, self.state.get_mut(), local.read())?;
        }
        Ok(self)
    }

    /// Returns the value. One of several callers reads the secret, and the others wait for it.
    pub async fn current(&self) -> Result<Arc<T>, SecretError> {
        let mut state = self.state.lock().await;
        let is_due = match &state.value {
            None => state.error.as_ref().is_none_or(|(_, since)| since.elapsed() >= FIRST_READ_INTERVAL),
            Some(parsed) => {
                let is_old = self.max_age.is_some_and(|max_age| parsed.read_at.elapsed() >= max_age);
                is_old && self.may_reread(&state)
            }
        };
        if is_due {
            self.read(&mut state).await;
        }
        match (&state.value, &state.error) {
            (Some(parsed), _) => Ok(Arc::clone(&parsed.value)),
            (None, Some((error, _))) => Err(error.clone()),
            // A caller was cancelled while it read the secret.
            (None, None) => Err(SecretError::Invalid { setting: self.setting, reason: "it is not read yet".into() }),
        }
    }

    /// Returns a newer value than `refused`, if there is one. Reads the secret again, at most every 10 s.
    pub async fn newer(&self, refused: &Arc<T>) -> Option<Arc<T>> {
        let mut state = self.state.lock().await;
        let is_refused = |state: &State<T>| state.value.as_ref().is_some_and(|own| Arc::ptr_eq(&own.value, refused));
        if is_refused(&state) && self.may_reread(&state) {
            self.read(&mut state).await;
        }
        if is_refused(&state) { None } else { state.value.as_ref().map(|parsed| Arc::clone(&parsed.value)) }
    }

    fn may_reread(&self, state: &State<T>) -> bool {
        self.secret.can_change() && state.reread_at.is_none_or(|at| at.elapsed() >= REREAD_INTERVAL)
    }

    async fn read(&self, state: &mut State<T>) {
        if state.value.is_some() {
            state.reread_at = Some(Instant::now());
        }
        match accept(self.setting, &*self.parse, state, self.secret.read().await) {
            Ok(()) => {}
            Err(error) if state.value.is_some() => {
                tracing::error!(error = causes(&error), "the secret is not read again: the value of before is used");
            }
            Err(error) => state.error = Some((error, Instant::now())),
        }
    }
}

/// Parses a text that was read, and stores its value, if the text has changed.
fn accept<T>(
    setting: &'static str,
    parse: &Parse<T>,
    state: &mut State<T>,
    read: Result<String, UnreadSecretError>,
) -> Result<(), SecretError> {
    let text = read.map_err(|unread| SecretError::Unread { setting, source: Arc::new(unread) })?;
    if let Some(same) = state.value.as_mut().filter(|own| own.text == text) {
        same.read_at = Instant::now();
        return Ok(());
    }
    let value = parse(&text).map_err(|reason| SecretError::Invalid { setting, reason })?;
    let parsed = Parsed { value: Arc::new(value), text, read_at: Instant::now() };
    if state.value.replace(parsed).is_some() {
        tracing::info!(setting, "the secret has changed");
    }
    Ok(())
}

impl<T> fmt::Debug for RotatingSecret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RotatingSecret({})", self.setting)
    }
}

impl From<SecretError> for SettingError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Unread { setting, source } => Self::invalid(setting, causes(&*source)),
            SecretError::Invalid { setting, reason } => Self::invalid(setting, reason),
        }
    }
}

fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tokio::time::advance;

    use super::*;

    /// A secret in a file of its own, which must be a number.
    fn number_in(name: &str, text: &str) -> (PathBuf, RotatingSecret<u32>) {
        let path = std::env::temp_dir().join(format!("pushlark-{}-{name}", std::process::id()));
        write(&path, text);
        let secret = Secret(Place::Local(Local::File(path.clone())));
        (path, RotatingSecret::new("NUMBER", secret, |text| text.parse().map_err(|_| "it is not a number".into())))
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_value_is_read_at_most_every_ten_seconds() {
        let (path, secret) = number_in("newer", "1");
        let first = secret.current().await.unwrap();
        assert_eq!(secret.newer(&first).await, None, "the same");
        write(&path, "2");
        advance(Duration::from_millis(9_900)).await;
        assert_eq!(secret.newer(&first).await, None, "read again less than 10 s ago");
        advance(Duration::from_millis(100)).await;
        let second = secret.newer(&first).await.unwrap();
        assert_eq!((*second, *secret.current().await.unwrap()), (2, 2));
        // Another caller, to whom the first was refused as well.
        assert_eq!(*secret.newer(&first).await.unwrap(), 2);
        write(&path, "3");
        assert_eq!(secret.newer(&second).await, None);
        fs::remove_file(path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_read_again_when_it_is_older_than_its_max_age() {
        let (path, secret) = number_in("max-age", "1");
        let secret = secret.with_max_age(Duration::from_secs(300));
        assert_eq!(*secret.current().await.unwrap(), 1);
        write(&path, "2");
        advance(Duration::from_secs(299)).await;
        assert_eq!(*secret.current().await.unwrap(), 1);
        advance(Duration::from_secs(1)).await;
        assert_eq!(*secret.current().await.unwrap(), 2);
        fs::remove_file(path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_value_of_before_stays_while_the_new_one_is_not_valid_or_cannot_be_read() {
        let (path, secret) = number_in("invalid", "1");
        let secret = secret.with_max_age(Duration::from_secs(300));
        let first = secret.current().await.unwrap();
        write(&path, "one");
        advance(Duration::from_secs(300)).await;
        assert_eq!(*secret.current().await.unwrap(), 1);
        assert_eq!(secret.newer(&first).await, None);
        fs::remove_file(&path).unwrap();
        advance(Duration::from_secs(10)).await;
        assert_eq!(*secret.current().await.unwrap(), 1);
        write(&path, "2");
        advance(Duration::from_secs(10)).await;
        assert_eq!(*secret.current().await.unwrap(), 2);
        fs::remove_file(path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_names_the_setting_and_stands_for_a_second() {
        let (path, secret) = number_in("first", "one");
        assert_eq!(secret.current().await.unwrap_err().to_string(), "NUMBER: it is not a number");
        write(&path, "1");
        assert!(secret.current().await.is_err());
        advance(Duration::from_secs(1)).await;
        assert_eq!(*secret.current().await.unwrap(), 1);
        fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn what_is_on_this_machine_is_checked_before_it_is_used() {
        let (path, secret) = number_in("checked", "one");
        assert_eq!(secret.checked().unwrap_err().to_string(), "NUMBER: it is not a number");
        let (_, secret) = number_in("checked", "1");
        assert_eq!(*secret.checked().unwrap().current().await.unwrap(), 1);
        fs::remove_file(&path).unwrap();
        let secret = RotatingSecret::new("NUMBER", Secret(Place::Local(Local::File(path.clone()))), |_| Ok(1));
        let refused = secret.checked().unwrap_err().to_string();
        assert!(refused.starts_with(&format!("NUMBER: the file {} cannot be read: ", path.display())), "{refused}");
        let arn = "arn:aws:secretsmanager:eu-west-1:000000000000:secret:number";
        let secret = Secret::new(arn, &SdkConfig::builder().build());
        assert!(RotatingSecret::new("NUMBER", secret, |_| Err::<u32, _>(String::new())).checked().is_ok());
    }

    #[tokio::test]
    async fn a_secret_in_the_setting_itself_is_read_once() {
        let secret = RotatingSecret::new("NUMBER", "1".into(), |text| text.parse::<u32>().map_err(|_| String::new()));
        let secret = secret.with_max_age(Duration::ZERO);
        let first = secret.current().await.unwrap();
        assert!(Arc::ptr_eq(&first, &secret.current().await.unwrap()));
        assert_eq!(secret.newer(&first).await, None);
    }
}
