//! Settings: environment variables, read once at start.
//!
//! A variable that is set but empty counts as not set, since a CloudFormation parameter cannot be absent.

mod host_patterns;
mod list;
mod secret;
mod url;

pub use host_patterns::{HostPatterns, InvalidHost};
pub use list::{EmptyItem, by_domain, items};
pub use secret::{RotatingSecret, Secret, SecretError, UnreadSecret};
pub use url::{HttpUrl, InvalidUrl, without_credentials};

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

/// What the AWS clients of a function have in common: the process's region, credentials and endpoints, and time-outs that
/// leave room for a second try within a function's ten seconds.
pub async fn aws_config() -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_millis(1_000))
        .operation_attempt_timeout(Duration::from_millis(1_500))
        .operation_timeout(Duration::from_millis(3_000))
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(2))
        // Each answer is small and comes at once or not at all, for which there are the time-outs.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load()
        .await
}

/// The variables that a function is started with.
#[derive(Debug, Clone, Default)]
pub struct Environment(HashMap<String, String>);

/// A setting that stops the function at its start.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The operator must set the variable.
    #[error("{name} must be set: {purpose}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// The operator must correct the variable's value.
    #[error("{name}: {reason}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What is wrong; never holds the value itself, which may be a secret.
        reason: String,
    },
}

impl SettingError {
    /// The value of `name` cannot be used, because of `reason`.
    pub fn invalid(name: &'static str, reason: impl Display) -> Self {
        Self::Invalid { name, reason: reason.to_string() }
    }
}

impl Environment {
    /// The process's own environment. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// All variables.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The text of `name` as it was given, if it is set and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The text of `name` without the white space around it, if it is set.
    pub fn value(&self, name: &'static str) -> Result<Option<&str>, SettingError> {
        match self.text(name).map(str::trim) {
            Some("") => Err(SettingError::invalid(name, "it is nothing but white space")),
            value => Ok(value),
        }
    }

    /// The value of `name`, if it is set.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<Option<T>, SettingError> {
        let parse = |value: &str| value.parse().map_err(|reason: T::Err| SettingError::invalid(name, reason));
        self.value(name)?.map(parse).transpose()
    }

    /// The value of `name`, without which the function cannot work.
    pub fn require<T: FromStr<Err: Display>>(
        &self,
        name: &'static str,
        purpose: &'static str,
    ) -> Result<T, SettingError> {
        self.get(name)?.ok_or(SettingError::Missing { name, purpose })
    }

    /// What the word `name` stands for among `choices`, if it is set.
    pub fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, SettingError> {
        let Some(value) = self.value(name)? else { return Ok(None) };
        match choices.iter().find(|(word, _)| *word == value) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(SettingError::invalid(name, format!("{value:?} is none of: {}", words.join(", "))))
            }
        }
    }

    /// The switch `name`, which is `on` or `off`, or `default` when it is not set.
    pub fn switch(&self, name: &'static str, default: bool) -> Result<bool, SettingError> {
        Ok(self.choice(name, &[("on", true), ("off", false)])?.unwrap_or(default))
    }

    /// The whole number `name`, which must lie in `range`, or `default` when it is not set.
    pub fn number(&self, name: &'static str, range: RangeInclusive<u32>, default: u32) -> Result<u32, SettingError> {
        let Some(value) = self.value(name)? else { return Ok(default) };
        whole_number(value, range).map_err(|reason| SettingError::invalid(name, reason))
    }
}

/// Reads a whole number in `range`.
pub fn whole_number(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text:?} is no whole number"));
    }
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("{text} is not between {} and {}", range.start(), range.end()))
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl<N: Into<String>, V: Into<String>> Extend<(N, V)> for Environment {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, variables: I) {
        self.0.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_not_set() {
        let environment = Environment::from_iter([("WORKER_CONCURRENCY", "")]);
        assert_eq!(environment.number("WORKER_CONCURRENCY", 1..=1000, 32).unwrap(), 32);
        let missing = environment.require::<String>("TABLE_NAME", "the table of registrations").unwrap_err();
        assert_eq!(missing.to_string(), "TABLE_NAME must be set: the table of registrations");
    }

    #[test]
    fn a_number_is_whole_and_in_its_range() {
        let read = |value: &str| {
            let environment = Environment::from_iter([("WORKERS", value)]);
            environment.number("WORKERS", 2..=1_000, 100).map_err(|error| error.to_string())
        };
        assert_eq!((read(""), read(" 2 "), read("1000")), (Ok(100), Ok(2), Ok(1_000)));
        for (value, reason) in [
            ("many", "\"many\" is no whole number"),
            ("2.5", "\"2.5\" is no whole number"),
            ("+5", "\"+5\" is no whole number"),
            ("-", "\"-\" is no whole number"),
            ("1", "1 is not between 2 and 1000"),
            ("-5", "-5 is not between 2 and 1000"),
            ("99999999999999999999", "99999999999999999999 is not between 2 and 1000"),
            ("  ", "it is nothing but white space"),
        ] {
            assert_eq!(read(value), Err(format!("WORKERS: {reason}")));
        }
    }

    #[test]
    fn a_word_is_one_of_the_choices() {
        let environment = Environment::from_iter([("UNREAD_COUNTS", " on "), ("INCLUDE_BODY", "On")]);
        assert!(
            environment.switch("UNREAD_COUNTS", false).unwrap() && environment.switch("INCLUDE_SENDER", true).unwrap()
        );
        let refused = environment.switch("INCLUDE_BODY", true).unwrap_err().to_string();
        assert_eq!(refused, "INCLUDE_BODY: \"On\" is none of: on, off");
    }
}
