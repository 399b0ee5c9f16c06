//! Settings: environment variables, read once at start.
//!
//! A variable that is set but empty counts as not set, since a CloudFormation parameter cannot be absent.

pub mod catalogue;
mod host_patterns;
mod list;
mod room_hosts;
mod secret;
mod setting;
mod url;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod agreement;

pub use host_patterns::{HostPatternError, HostPatterns, parse_host};
pub use list::{EmptyItemError, by_domain, items};
pub use room_hosts::RoomHosts;
pub use secret::{RotatingSecret, Secret, SecretError, UnreadSecretError};
pub use setting::{Number, Reader, Setting, SettingEntry, Switch, Text, Values, Word, Words};
pub use url::{HttpUrl, UrlError, without_credentials};

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use aws_config::SdkConfig;

/// The environment variables that a function is started with.
#[derive(Debug, Clone, Default)]
pub struct Environment(HashMap<String, String>);

/// A setting that prevents the start of a function.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The operator must set the variable.
    #[error("{name} must be set: {purpose}")]
    Missing {
        /// The name of the variable, such as `QUEUE_URL`.
        name: &'static str,
        /// The purpose of the setting, from the catalogue.
        purpose: &'static str,
    },
    /// The operator must correct the variable's value.
    #[error("{name}: {reason}")]
    Invalid {
        /// The name of the variable, such as `QUEUE_URL`.
        name: &'static str,
        /// The reason, which never contains a value that may be secret.
        reason: String,
    },
}

impl SettingError {
    /// Returns the error for a value of `name` that cannot be used.
    pub fn invalid(name: &'static str, reason: impl Display) -> Self {
        Self::Invalid { name, reason: reason.to_string() }
    }
}

impl Environment {
    /// Returns the environment of this process, without variables that are not UTF-8.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// Returns the names and values of all variables, in no order.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the value of the variable `name` unchanged; `None` if it is empty or not set. It is for variables that
    /// are not in the [`catalogue`], such as the settings of a custom plugin.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the text of a setting without surrounding white space, or its default.
    pub fn value(&self, setting: &Setting<Text>) -> Result<Option<&str>, SettingError> {
        Ok(self.given(setting)?.or(setting.kind.default))
    }

    /// Returns the parsed value of a setting, or its parsed default.
    pub fn get<T: FromStr<Err: Display>>(&self, setting: &Setting<Text>) -> Result<Option<T>, SettingError> {
        self.value(setting)?.map(|value| value.parse().map_err(|reason| setting.invalid(reason))).transpose()
    }

    /// Returns the value that [`get`](Self::get) returns; without a value, the function does not start.
    pub fn require<T: FromStr<Err: Display>>(&self, setting: &Setting<Text>) -> Result<T, SettingError> {
        self.get(setting)?.ok_or_else(|| setting.missing())
    }

    /// Returns `aws` with the endpoint that a setting such as `AWS_ENDPOINT_URL_S3` has, or unchanged without one.
    pub fn with_endpoint(&self, aws: &SdkConfig, setting: &Setting<Text>) -> Result<SdkConfig, SettingError> {
        Ok(match self.get(setting)? {
            Some(HttpUrl(endpoint)) => {
                aws.clone().into_builder().endpoint_url(endpoint.as_str().trim_end_matches('/')).build()
            }
            None => aws.clone(),
        })
    }

    /// Returns the item of `values` at the index of the word that a setting has, or of its default; `None` without
    /// both.
    pub fn choice_if_set<T: Copy, const N: usize>(
        &self,
        setting: &Setting<Word<N>>,
        values: [T; N],
    ) -> Result<Option<T>, SettingError> {
        let Word { words, default } = &setting.kind;
        let given = self.given(setting)?.map(|value| index_of(value, words).map_err(|reason| setting.invalid(reason)));
        Ok(given.transpose()?.or(*default).map(|index| values[index]))
    }

    /// Returns the item that [`choice_if_set`](Self::choice_if_set) returns; without one, the function does not start.
    pub fn choice<T: Copy, const N: usize>(
        &self,
        setting: &Setting<Word<N>>,
        values: [T; N],
    ) -> Result<T, SettingError> {
        self.choice_if_set(setting, values)?.ok_or_else(|| setting.missing())
    }

    /// Returns for each word of a setting whether it is set, in the order of the declaration.
    pub fn words<const N: usize>(&self, setting: &Setting<Words<N>>) -> Result<[bool; N], SettingError> {
        let mut set = [false; N];
        for word in self.given(setting)?.map_or(Ok(Vec::new()), items).map_err(|empty| setting.invalid(empty))? {
            set[index_of(word, &setting.kind.0).map_err(|reason| setting.invalid(reason))?] = true;
        }
        Ok(set)
    }

    /// Returns whether a switch is `on`, by its value or its default.
    pub fn switch(&self, setting: &Setting<Switch>) -> Result<bool, SettingError> {
        let Some(value) = self.given(setting)? else { return Ok(setting.kind.default) };
        index_of(value, &["on", "off"]).map(|index| index == 0).map_err(|reason| setting.invalid(reason))
    }

    /// Returns the number that a setting has, or its default. A number outside of the range is an error.
    pub fn number(&self, setting: &Setting<Number>) -> Result<u32, SettingError> {
        let Number { range, only, default, .. } = &setting.kind;
        let Some(value) = self.given(setting)? else { return Ok(*default) };
        let number = whole_number(value, range.clone()).map_err(|reason| setting.invalid(reason))?;
        if only.is_empty() || only.contains(&number) {
            return Ok(number);
        }
        let only: Vec<_> = only.iter().map(u32::to_string).collect();
        Err(setting.invalid(format!("{number} is none of: {}", only.join(", "))))
    }

    /// Returns the value of a setting without surrounding white space, and without the default. A former name that is
    /// set is an error.
    fn given<K>(&self, setting: &Setting<K>) -> Result<Option<&str>, SettingError> {
        if let Some(former) = setting.former.iter().find(|former| self.text(former).is_some()) {
            return Err(SettingError::invalid(former, format!("the setting is called {} now", setting.name)));
        }
        match self.text(setting.name).map(str::trim) {
            Some("") => Err(setting.invalid("it is nothing but white space")),
            value => Ok(value),
        }
    }
}

fn index_of(value: &str, words: &[&str]) -> Result<usize, String> {
    let index = words.iter().position(|word| *word == value);
    index.ok_or_else(|| format!("{value:?} is none of: {}", words.join(", ")))
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
        let environment = Environment::from_iter([("WORKER_CONCURRENCY", ""), ("PLUGIN", "")]);
        assert_eq!(environment.number(&catalogue::WORKER_CONCURRENCY).unwrap(), 32);
        assert_eq!(environment.value(&catalogue::PLUGIN).unwrap(), Some("defaults"));
        let missing = environment.require::<String>(&catalogue::TABLE_NAME).unwrap_err().to_string();
        assert_eq!(missing, "TABLE_NAME must be set: Name or ARN of the DynamoDB table, set by the template.");
    }

    #[test]
    fn a_number_is_whole_and_in_its_range() {
        let read = |value: &str| {
            let environment = Environment::from_iter([("WORKERS", value)]);
            environment.number(&catalogue::WORKERS).map_err(|error| error.to_string())
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
        assert!(environment.switch(&catalogue::UNREAD_COUNTS).unwrap());
        assert!(environment.switch(&catalogue::INCLUDE_SENDER).unwrap());
        let refused = environment.switch(&catalogue::INCLUDE_BODY).unwrap_err().to_string();
        assert_eq!(refused, "INCLUDE_BODY: \"On\" is none of: on, off");
        let refused = Environment::from_iter([("JWT_ALGORITHM", "none")]);
        let refused = refused.choice(&catalogue::JWT_ALGORITHM, [1, 2, 3]).unwrap_err().to_string();
        assert_eq!(refused, "JWT_ALGORITHM: \"none\" is none of: HS256, RS256, ES256");
        assert_eq!(environment.choice_if_set(&catalogue::JWT_ALGORITHM, [1, 2, 3]).unwrap(), None);
        assert_eq!(environment.choice(&catalogue::MONGOOSEPUSH_API_VERSION, [2, 3]).unwrap(), 3);
        let environment = Environment::from_iter([("GROUP_DATA", "mention")]);
        assert_eq!(environment.words(&catalogue::GROUP_DATA).unwrap(), [false, true]);
    }

    #[test]
    fn a_former_name_that_is_set_stops_the_start_and_names_the_new_one() {
        let setting = Setting { name: "NEW", kind: Text::new("text"), readers: &[], purpose: "", former: &["OLD"] };
        let environment = Environment::from_iter([("OLD", "1"), ("NEW", "2")]);
        assert_eq!(environment.value(&setting).unwrap_err().to_string(), "OLD: the setting is called NEW now");
        let environment = Environment::from_iter([("OLD", ""), ("NEW", "2")]);
        assert_eq!(environment.value(&setting).unwrap(), Some("2"));
    }
}
