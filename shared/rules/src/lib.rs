//! The plugin `rules`: an ordered list of conditions and actions in TOML, like the rules of MongooseIM's
//! `mod_event_pusher_push`. docs/rules.md describes them.

mod condition;
mod facts;
mod hours;
mod jid_pattern;
mod parse;
mod plugin;
mod push;
mod rule;
mod template;

pub use parse::RulesError;

use rule::Rule;

/// The rules of an operator, in their order. The first rule whose conditions match decides; without a match nobody is
/// notified.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules(Vec<Rule>);
