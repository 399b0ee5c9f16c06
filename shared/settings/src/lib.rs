//! Settings: environment variables, read once at start.
//!
//! A variable that is set but empty counts as not set, since a CloudFormation parameter cannot be absent.

mod by_domain;
mod host_patterns;
mod secret;

pub use by_domain::by_domain;
pub use host_patterns::{HostPatterns, InvalidHost};
pub use secret::{RotatingSecret, Secret, SecretError, UnreadSecret};

use std::collections::HashMap;
use std::fmt::Display;
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

    /// The text of `name`, if it is set and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The value of `name`, if it is set.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<Option<T>, SettingError> {
        self.text(name)
            .map(|value| value.trim().parse().map_err(|reason: T::Err| SettingError::invalid(name, reason)))
            .transpose()
    }

    /// The value of `name`, without which the function cannot work.
    pub fn require<T: FromStr<Err: Display>>(
        &self,
        name: &'static str,
        purpose: &'static str,
    ) -> Result<T, SettingError> {
        self.get(name)?.ok_or(SettingError::Missing { name, purpose })
    }

    /// The switch `name`, which is `on` or `off`, or `default` when it is not set.
    pub fn switch(&self, name: &'static str, default: bool) -> Result<bool, SettingError> {
        match self.text(name).map(str::trim) {
            None => Ok(default),
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(other) => Err(SettingError::invalid(name, format!("{other:?} is neither on nor off"))),
        }
    }

    /// The whole number `name`, which must lie in `range`, or `default` when it is not set.
    pub fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<u32>,
        default: u32,
    ) -> Result<u32, SettingError> {
        let number = self.get(name)?.unwrap_or(default);
        if !range.contains(&number) {
            let reason = format!("{number} is not between {} and {}", range.start(), range.end());
            return Err(SettingError::invalid(name, reason));
        }
        Ok(number)
    }
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
    fn a_bad_value_is_refused_by_its_name() {
        let environment = Environment::from_iter([("WORKER_CONCURRENCY", "many"), ("PUBLISH_TIMEOUT_MS", "0")]);
        let not_a_number = environment.number("WORKER_CONCURRENCY", 1..=1000, 32).unwrap_err().to_string();
        assert!(not_a_number.starts_with("WORKER_CONCURRENCY: "), "{not_a_number}");
        let out_of_range = environment.number("PUBLISH_TIMEOUT_MS", 100..=7000, 5000).unwrap_err().to_string();
        assert_eq!(out_of_range, "PUBLISH_TIMEOUT_MS: 0 is not between 100 and 7000");
    }
}
