//! The declaration of a setting, by the kind of its value.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::SettingError;

/// The declaration of a setting that is read as a `K`.
#[derive(Debug)]
pub struct Setting<K> {
    /// The environment variable. The template's parameter has the same name in CamelCase.
    pub name: &'static str,
    /// The valid values and the default.
    pub kind: K,
    /// The functions that read it.
    pub readers: &'static [Reader],
    /// The purpose, in one or two sentences of Markdown.
    pub purpose: &'static str,
    /// The names in earlier versions. A function that reads the setting does not start while one of them is set.
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

/// A text. The [`FromStr`](std::str::FromStr) of the type to which it is parsed may restrict it.
#[derive(Debug)]
pub struct Text {
    /// The form in the documentation, such as `URL`.
    form: &'static str,
    pub(crate) default: Option<&'static str>,
    is_secret: bool,
}

/// A whole number within a range.
#[derive(Debug)]
pub struct Number {
    pub(crate) range: RangeInclusive<u32>,
    /// The only numbers of the range that are valid; all of them if it is empty.
    pub(crate) only: &'static [u32],
    pub(crate) default: u32,
    unit: &'static str,
}

/// A boolean, `on` or `off`.
#[derive(Debug)]
pub struct Switch {
    pub(crate) default: bool,
}

/// One of `N` words, spelt as in the declaration.
#[derive(Debug)]
pub struct Word<const N: usize> {
    pub(crate) words: [&'static str; N],
    /// The index of the default word; `None` if there is no default.
    pub(crate) default: Option<usize>,
}

/// Any of `N` words, comma-separated; none by default.
#[derive(Debug)]
pub struct Words<const N: usize>(pub(crate) [&'static str; N]);

impl Text {
    /// Declares a text of this form, such as `URL`.
    pub(crate) const fn new(form: &'static str) -> Self {
        Self { form, default: None, is_secret: false }
    }

    /// Declares a secret of this form, which may also be given by its place (see [`crate::Secret`]).
    pub(crate) const fn secret(form: &'static str) -> Self {
        Self { is_secret: true, ..Self::new(form) }
    }

    /// Adds the default of a setting that is not set.
    pub(crate) const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    /// Returns the default of a setting that is not set.
    pub fn default(&self) -> Option<&'static str> {
        self.default
    }
}

impl Number {
    /// Declares a number in this range, with its unit in plural.
    pub(crate) const fn new(range: RangeInclusive<u32>, unit: &'static str, default: u32) -> Self {
        Self { range, only: &[], default, unit }
    }

    /// Restricts the number to these.
    pub(crate) const fn one_of(self, only: &'static [u32]) -> Self {
        Self { range: self.range, only, default: self.default, unit: self.unit }
    }
}

/// A kind of value, for the documentation.
pub(crate) trait Kind {
    /// Returns the default in the form in which it is set; `None` without one.
    fn default_text(&self) -> Option<String>;
    /// Returns the valid values.
    fn values(&self) -> Values;
    /// Returns whether the value is a secret, which may also be given as the ARN of a secret in Secrets Manager.
    fn is_secret(&self) -> bool {
        false
    }
}

/// The valid values of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// A text of this form.
    Text(&'static str),
    /// A whole number within a range.
    Number {
        /// The least and the greatest valid number.
        range: RangeInclusive<u32>,
        /// The counted or measured unit, in plural, such as `seconds`.
        unit: &'static str,
    },
    /// One of these words or numbers.
    OneOf(Vec<String>),
    /// Any of these words, comma-separated.
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
    /// Returns the error for a required setting that is not set.
    pub fn missing(&self) -> SettingError {
        SettingError::Missing { name: self.name, purpose: self.purpose.trim() }
    }

    /// Returns the error for a value that cannot be used.
    pub fn invalid(&self, reason: impl Display) -> SettingError {
        SettingError::invalid(self.name, reason)
    }
}

/// The declaration of a setting of any kind, for the documentation and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingEntry {
    /// The heading under which the documentation has it.
    pub topic: &'static str,
    /// The name of the environment variable.
    pub name: &'static str,
    /// The valid values.
    pub values: Values,
    /// The default in the form in which it is set; `None` without one.
    pub default: Option<String>,
    /// Whether it is a secret, which may also be given as the ARN of a secret in Secrets Manager.
    pub is_secret: bool,
    /// The functions that read it.
    pub readers: &'static [Reader],
    /// The purpose, in one or two sentences of Markdown.
    pub purpose: &'static str,
    /// The names in earlier versions.
    pub former: &'static [&'static str],
}

impl SettingEntry {
    pub(crate) fn new<K: Kind>(topic: &'static str, setting: &Setting<K>) -> Self {
        let Setting { name, kind, readers, purpose, former } = setting;
        let (values, default, is_secret) = (kind.values(), kind.default_text(), kind.is_secret());
        Self { topic, name, values, default, is_secret, readers, purpose: purpose.trim(), former }
    }
}
