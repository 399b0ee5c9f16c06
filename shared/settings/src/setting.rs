//! What is declared of a setting, by the kind of its value.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::SettingError;

/// The declaration of a setting that is read as a `K`.
#[derive(Debug)]
pub struct Setting<K> {
    /// The environment variable. The template's parameter has the same name in CamelCase.
    pub name: &'static str,
    /// Which values it takes, and its default.
    pub kind: K,
    /// The functions that read it.
    pub readers: &'static [Reader],
    /// What it is for, in one or two sentences. May hold Markdown.
    pub purpose: &'static str,
    /// The names that it had in earlier versions. A function that reads the setting does not start while one of them is set.
    pub former: &'static [&'static str],
}

/// A program that reads settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reader {
    /// `functions/enable`.
    Enable,
    /// `functions/disable`.
    Disable,
    /// `functions/ingest`.
    Ingest,
    /// `functions/worker`.
    Worker,
    /// `functions/pubsub`.
    PushNode,
    /// The local stack itself, beside the functions that it runs.
    Local,
}

/// A text, which [`FromStr`](std::str::FromStr) of the type that it is read as may restrict.
#[derive(Debug)]
pub struct Text {
    /// The form, for the documentation.
    form: &'static str,
    pub(crate) default: Option<&'static str>,
    is_secret: bool,
}

/// A whole number.
#[derive(Debug)]
pub struct Number {
    pub(crate) range: RangeInclusive<u32>,
    /// The only numbers of the range that are valid; all of them if it is empty.
    pub(crate) only: &'static [u32],
    pub(crate) default: u32,
    unit: &'static str,
}

/// `on` or `off`.
#[derive(Debug)]
pub struct Switch {
    pub(crate) default: bool,
}

/// One of `N` words.
#[derive(Debug)]
pub struct Word<const N: usize> {
    pub(crate) words: [&'static str; N],
    /// The index of a word.
    pub(crate) default: Option<usize>,
}

/// Any of `N` words, comma-separated; none by default.
#[derive(Debug)]
pub struct Words<const N: usize>(pub(crate) [&'static str; N]);

impl Text {
    /// A text of this form, such as `URL`.
    pub(crate) const fn new(form: &'static str) -> Self {
        Self { form, default: None, is_secret: false }
    }

    /// A secret of this form, or its place (see [`crate::Secret`]).
    pub(crate) const fn secret(form: &'static str) -> Self {
        Self { is_secret: true, ..Self::new(form) }
    }

    /// The same, with a default.
    pub(crate) const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    /// The value when the setting is not set.
    pub fn default(&self) -> Option<&'static str> {
        self.default
    }
}

impl Number {
    /// A number in this range, of this unit.
    pub(crate) const fn new(range: RangeInclusive<u32>, unit: &'static str, default: u32) -> Self {
        Self { range, only: &[], default, unit }
    }

    /// The same, if it is one of these.
    pub(crate) const fn one_of(self, only: &'static [u32]) -> Self {
        Self { range: self.range, only, default: self.default, unit: self.unit }
    }
}

/// A kind of value, as the documentation shows it.
pub(crate) trait Kind {
    /// The value when the setting is not set, as it is written.
    fn default_text(&self) -> Option<String>;
    /// Which values it takes.
    fn values(&self) -> Values;
    /// Whether it is a secret, which may also be given as the ARN of a secret in Secrets Manager.
    fn is_secret(&self) -> bool {
        false
    }
}

/// The values that a setting takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// A text of this form.
    Text(&'static str),
    /// A whole number.
    Number {
        /// Least and most.
        range: RangeInclusive<u32>,
        /// What it counts or measures.
        unit: &'static str,
    },
    /// One of these.
    OneOf(Vec<String>),
    /// Any of these, comma-separated.
    AnyOf(Vec<String>),
}

impl Kind for Text {
    fn default_text(&self) -> Option<String> {
        self.default.map(str::to_owned)
    }

    fn values(&self) -> Values {
        Values::Text(self.form)
    }

    fn is_secret(&self) -> bool {
        self.is_secret
    }
}

impl Kind for Number {
    fn default_text(&self) -> Option<String> {
        Some(self.default.to_string())
    }

    fn values(&self) -> Values {
        match self.only {
            [] => Values::Number { range: self.range.clone(), unit: self.unit },
            only => Values::OneOf(only.iter().map(u32::to_string).collect()),
        }
    }
}

impl Kind for Switch {
    fn default_text(&self) -> Option<String> {
        Some(if self.default { "on" } else { "off" }.into())
    }

    fn values(&self) -> Values {
        Values::OneOf(vec!["on".into(), "off".into()])
    }
}

impl<const N: usize> Kind for Word<N> {
    fn default_text(&self) -> Option<String> {
        self.default.map(|index| self.words[index].to_owned())
    }

    fn values(&self) -> Values {
        Values::OneOf(self.words.map(str::to_owned).into())
    }
}

impl<const N: usize> Kind for Words<N> {
    fn default_text(&self) -> Option<String> {
        None
    }

    fn values(&self) -> Values {
        Values::AnyOf(self.0.map(str::to_owned).into())
    }
}

impl<K> Setting<K> {
    /// The setting is needed and not set.
    pub fn missing(&self) -> SettingError {
        SettingError::Missing { name: self.name, purpose: self.purpose.trim() }
    }

    /// The value of the setting cannot be used.
    pub fn invalid(&self, reason: impl Display) -> SettingError {
        SettingError::invalid(self.name, reason)
    }
}

/// A setting of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingEntry {
    /// The heading under which the documentation has it.
    pub topic: &'static str,
    /// The environment variable.
    pub name: &'static str,
    /// Which values it takes.
    pub values: Values,
    /// The value when it is not set, as it is written.
    pub default: Option<String>,
    /// Whether it is a secret, which may also be given as the ARN of a secret in Secrets Manager.
    pub is_secret: bool,
    /// The functions that read it.
    pub readers: &'static [Reader],
    /// What it is for.
    pub purpose: &'static str,
    /// The names that it had in earlier versions.
    pub former: &'static [&'static str],
}

impl SettingEntry {
    pub(crate) fn new<K: Kind>(topic: &'static str, setting: &Setting<K>) -> Self {
        let Setting { name, kind, readers, purpose, former } = setting;
        let (values, default, is_secret) = (kind.values(), kind.default_text(), kind.is_secret());
        Self { topic, name, values, default, is_secret, readers, purpose: purpose.trim(), former }
    }
}
