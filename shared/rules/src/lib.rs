//! The plugin `rules`: an ordered list of conditions and actions in TOML, like the rules of MongooseIM's
//! `mod_event_pusher_push`.

use std::str::FromStr;

use pushlark_plugin::Plugin;

/// The rules of an operator, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules;

/// Rules that cannot be used. The operator must correct them. The text names the number of the rule and the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RulesError(String);

impl FromStr for Rules {
    type Err = RulesError;

    fn from_str(_toml: &str) -> Result<Self, RulesError> {
        Ok(Self)
    }
}

impl Plugin for Rules {}
