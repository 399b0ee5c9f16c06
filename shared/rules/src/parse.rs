//! Reads rules in TOML.

use std::str::FromStr;
use std::time::Duration;

use pushlark_model::{Collapse, InterruptionLevel, Presentation, Priority, Sound};
use serde::Deserialize;
use serde_path_to_error::Segment;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

use crate::Rules;
use crate::condition::Condition;
use crate::push::{Audience, Content, Data, Push};
use crate::rule::{Action, Rule};
use crate::template::Template;

/// The longest text, in bytes. It may be the whole configuration of a MongooseIM.
const MAX_TEXT_BYTES: usize = 64 * 1024;
/// The most rules: each is compared with all others.
const MAX_RULES: usize = 1_000;
/// The most tables of conditions of a rule: each is compared with all others.
const MAX_CONDITIONS: usize = 100;
/// The longest name of a rule, a sound or a notification channel, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// The tables of MongooseIM's configuration that contain the rules.
const MONGOOSEIM_TABLES: [&str; 3] = ["modules", "mod_event_pusher", "push"];

/// Rules that cannot be used. The operator must correct them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// The text has this number of bytes.
    #[error("the rules have {0} bytes, {MAX_TEXT_BYTES} are allowed")]
    TooLarge(usize),
    /// There are this many rules.
    #[error("there are {0} rules, {MAX_RULES} are allowed")]
    TooMany(usize),
    /// The text contains no list of rules.
    #[error("the text has no rules: expected [[rules]] or [[modules.mod_event_pusher.push.rules]]")]
    Missing,
    /// The text contains rules in both forms.
    #[error("the text has both [[rules]] and [[modules.mod_event_pusher.push.rules]]: expected one of them")]
    Both,
    /// The text is not TOML, or something beside the rules is not allowed.
    #[error("line {line}: {reason}")]
    Invalid {
        /// The line in the text, from 1.
        line: usize,
        /// The reason.
        reason: String,
    },
    /// A rule cannot be used.
    #[error("rule {number}, line {line}: {reason}")]
    InvalidRule {
        /// The number of the rule, from 1.
        number: usize,
        /// The line in the text, from 1.
        line: usize,
        /// The reason, with the name of the field.
        reason: String,
    },
}

/// A rule in TOML.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    name: Option<String>,
    conditions: Option<Vec<Condition>>,
    action: ActionName,
    content: Option<Content>,
    title: Option<Template>,
    body: Option<Template>,
    data: Option<Data>,
    priority: Option<Priority>,
    sound: Option<String>,
    interruption_level: Option<InterruptionLevel>,
    channel_id: Option<String>,
    /// In seconds.
    time_to_live: Option<u32>,
    collapse: Option<Collapse>,
    to: Option<Audience>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionName {
    Push,
    Skip,
}

/// Fields of a rule that exclude each other, or have no meaning. The operator must correct them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum RuleError {
    /// The action is `push`, and there is no content.
    #[error("the action push needs a content: message or jingle")]
    NoContent,
    /// The action is `skip`, and there is this field of the action `push`.
    #[error("the action skip allows no {0}")]
    NotWithSkip(&'static str),
    /// `conditions` is empty.
    #[error("conditions: expected at least one table")]
    NoConditions,
    /// There are this many tables of conditions.
    #[error("conditions: {0} tables, {MAX_CONDITIONS} are allowed")]
    TooManyConditions(usize),
    /// The table of conditions with this number, from 1, has no field.
    #[error("conditions: table {0} is empty")]
    EmptyCondition(usize),
    /// The tables of conditions with these numbers, from 1, are equal.
    #[error("conditions: table {1} is equal to table {0}")]
    EqualConditions(usize, usize),
    /// The text of this field is empty or too long.
    #[error("{0}: expected a text of 1 to {MAX_NAME_BYTES} bytes")]
    InvalidName(&'static str),
    /// The rule with this number, from 1, has the same conditions and the same action.
    #[error("the rule is equal to rule {0}")]
    EqualRule(usize),
}

impl FromStr for Rules {
    type Err = RulesError;

    fn from_str(text: &str) -> Result<Self, RulesError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(RulesError::TooLarge(text.len()));
        }
        let tables = rule_tables(text)?;
        if tables.len() > MAX_RULES {
            return Err(RulesError::TooMany(tables.len()));
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(tables.len());
        for (number, table) in (1..).zip(tables) {
            let start = table.span().start;
            let invalid = |at, reason| RulesError::InvalidRule { number, line: line(text, at), reason };
            let table = RuleTable::read(table).map_err(|(at, reason)| invalid(at.unwrap_or(start), reason))?;
            let rule = table.into_rule(number, &rules).map_err(|error| invalid(start, error.to_string()))?;
            rules.push(rule);
        }
        Ok(Self(rules))
    }
}

/// Returns the tables of the rules in a text.
fn rule_tables(text: &str) -> Result<Vec<Spanned<DeValue<'_>>>, RulesError> {
    let invalid = |at, reason| RulesError::Invalid { line: line(text, at), reason };
    let not_toml = |error: Error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        invalid(at, error.message().trim().to_owned())
    };
    let mut tables = DeTable::parse(text).map_err(not_toml)?.into_inner();
    let short = tables.remove("rules");
    let rules = match (short, mongooseim_rules(&mut tables)) {
        (None, None) => return Err(RulesError::Missing),
        (Some(_), Some(_)) => return Err(RulesError::Both),
        (Some(rules), None) => {
            // A misspelt table beside the rules would have no effect.
            if let Some((name, _)) = tables.iter().next() {
                return Err(invalid(name.span().start, format!("unknown field {:?}, expected rules", name.get_ref())));
            }
            rules
        }
        (None, Some(MongooseImRules { plugin_module: Some(at), .. })) => {
            return Err(invalid(at, "plugin_module is not allowed with rules".into()));
        }
        (None, Some(MongooseImRules { rules, .. })) => rules,
    };
    let at = rules.span().start;
    match rules.into_inner() {
        DeValue::Array(rules) => Ok(rules.into_iter().collect()),
        _ => Err(invalid(at, "rules: expected an array of tables".into())),
    }
}

/// The rules in a configuration of MongooseIM.
struct MongooseImRules<'t> {
    rules: Spanned<DeValue<'t>>,
    /// The place of the plugin that MongooseIM would use instead.
    plugin_module: Option<usize>,
}

/// Takes the rules out of a configuration of MongooseIM.
fn mongooseim_rules<'t>(tables: &mut DeTable<'t>) -> Option<MongooseImRules<'t>> {
    let mut push = tables;
    for name in MONGOOSEIM_TABLES {
        let DeValue::Table(table) = push.get_mut(name)?.get_mut() else { return None };
        push = table;
    }
    let rules = push.remove("rules")?;
    Some(MongooseImRules { rules, plugin_module: push.get("plugin_module").map(|plugin| plugin.span().start) })
}

/// Returns the number of a line, from 1.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

impl RuleTable {
    /// Reads the fields of a rule. The error is the place in the text, if it is known, and the reason.
    fn read(table: Spanned<DeValue<'_>>) -> Result<Self, (Option<usize>, String)> {
        let Some(fields) = table.get_ref().as_table() else { return Err((None, "expected a table".into())) };
        // Serde would read an array as a table with the values of its fields in order.
        let mut values = fields.iter().flat_map(|(name, value)| match value.get_ref() {
            DeValue::Array(conditions) if name.get_ref() == "conditions" => conditions.iter().collect(),
            _ => vec![value],
        });
        if let Some(at) = values.find_map(array) {
            return Err((Some(at), "only conditions is an array, and its items are tables".into()));
        }
        serde_path_to_error::deserialize(ValueDeserializer::from(table)).map_err(|error| {
            let fields: Vec<_> = error
                .path()
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Map { key } => Some(key.as_str()),
                    _ => None,
                })
                .collect();
            let at = error.inner().span().map(|span| span.start);
            let message = error.inner().message().trim();
            (at, if fields.is_empty() { message.into() } else { format!("{}: {message}", fields.join(".")) })
        })
    }

    /// Checks the fields together. `others` are the rules before it.
    fn into_rule(self, number: usize, others: &[Rule]) -> Result<Rule, RuleError> {
        check_name("name", self.name.as_deref())?;
        let label = match &self.name {
            Some(name) => format!("rule {number} {name:?}"),
            None => format!("rule {number}"),
        };
        let code = self.name.as_ref().map_or_else(|| format!("rule-{number}"), |name| format!("rule-{name}"));
        let action_name = self.action;
        let conditions = self.conditions.as_deref();
        let conditions = conditions.map_or_else(|| Ok(vec![Condition::default()]), checked)?;
        let action = match action_name {
            ActionName::Push => Action::Push(Box::new(self.into_push()?)),
            ActionName::Skip => match self.push_field() {
                None => Action::Skip,
                Some(field) => return Err(RuleError::NotWithSkip(field)),
            },
        };
        let rule = Rule { label: label.into(), code: code.into(), conditions, action };
        match (1..).zip(others).find(|(_, other)| rule.is_equal_to(other)) {
            None => Ok(rule),
            Some((other, _)) => Err(RuleError::EqualRule(other)),
        }
    }

    /// Returns the name of a field that only the action `push` allows.
    fn push_field(&self) -> Option<&'static str> {
        let fields = [
            ("content", self.content.is_some()),
            ("title", self.title.is_some()),
            ("body", self.body.is_some()),
            ("data", self.data.is_some()),
            ("priority", self.priority.is_some()),
            ("sound", self.sound.is_some()),
            ("interruption_level", self.interruption_level.is_some()),
            ("channel_id", self.channel_id.is_some()),
            ("time_to_live", self.time_to_live.is_some()),
            ("collapse", self.collapse.is_some()),
            ("to", self.to.is_some()),
        ];
        fields.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }

    fn into_push(self) -> Result<Push, RuleError> {
        check_name("sound", self.sound.as_deref())?;
        check_name("channel_id", self.channel_id.as_deref())?;
        Ok(Push {
            content: self.content.ok_or(RuleError::NoContent)?,
            title: self.title,
            body: self.body,
            data: self.data.unwrap_or_default(),
            presentation: Presentation {
                title: None,
                priority: self.priority,
                sound: self.sound.map(Sound::from),
                interruption_level: self.interruption_level,
                channel_id: self.channel_id,
                time_to_live: self.time_to_live.map(|seconds| Duration::from_secs(seconds.into())),
                collapse: self.collapse,
            },
            to: self.to.unwrap_or_default(),
        })
    }
}

/// Returns the place of an array in a value.
fn array(value: &Spanned<DeValue<'_>>) -> Option<usize> {
    match value.get_ref() {
        DeValue::Array(_) => Some(value.span().start),
        DeValue::Table(table) => table.values().find_map(array),
        _ => None,
    }
}

/// Checks the tables of conditions of a rule.
fn checked(conditions: &[Condition]) -> Result<Vec<Condition>, RuleError> {
    match conditions.len() {
        0 => return Err(RuleError::NoConditions),
        1..=MAX_CONDITIONS => {}
        number => return Err(RuleError::TooManyConditions(number)),
    }
    for (number, condition) in (1..).zip(conditions) {
        if *condition == Condition::default() {
            return Err(RuleError::EmptyCondition(number));
        }
        let mut earlier = (1..number).zip(conditions);
        if let Some((other, _)) = earlier.find(|(_, other)| *other == condition) {
            return Err(RuleError::EqualConditions(other, number));
        }
    }
    Ok(conditions.to_vec())
}

fn check_name(field: &'static str, name: Option<&str>) -> Result<(), RuleError> {
    match name {
        Some(name) if name.trim().is_empty() || name.len() > MAX_NAME_BYTES => Err(RuleError::InvalidName(field)),
        _ => Ok(()),
    }
}
