//! One rule: conditions, and the action for the events that meet them.

use std::sync::Arc;

use pushlark_model::Registration;
use pushlark_plugin::{Event, Recipient, Rule as Reason};

use crate::condition::Condition;
use crate::facts::{Facts, Kind};
use crate::push::Push;

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The number and the name, such as `rule 2 "night"`.
    pub label: Arc<str>,
    /// The code of the rule for log lines: `rule-` and its name, or its number without one.
    pub code: Arc<str>,
    /// The tables of conditions, of which one must be met. A rule without conditions has one table without fields.
    pub conditions: Vec<Condition>,
    /// The action for the events that meet them.
    pub action: Action,
}

/// The action of a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Notify.
    Push(Box<Push>),
    /// Do not notify.
    Skip,
}

impl Rule {
    /// Returns whether conditions and action are those of another rule.
    pub fn is_equal_to(&self, other: &Self) -> bool {
        self.conditions == other.conditions && self.action == other.action
    }

    /// Returns whether the conditions name a kind of events.
    pub fn names(&self, kind: Kind) -> bool {
        self.conditions.iter().any(|condition| condition.names(kind))
    }

    /// Returns whether the conditions name unacknowledged messages.
    pub fn names_unacknowledged(&self) -> bool {
        self.conditions.iter().any(Condition::names_unacknowledged)
    }

    /// Returns whether the event meets the conditions for some recipient.
    pub fn matches_some(&self, facts: &Facts<'_>) -> bool {
        self.conditions.iter().any(|condition| condition.matches_event(facts))
    }

    /// Returns whether the event meets the conditions for every recipient.
    pub fn matches_all(&self, facts: &Facts<'_>) -> bool {
        self.conditions.iter().any(|condition| condition.matches_event(facts) && !condition.depends_on_recipient())
    }

    /// Returns whether the event meets the conditions for a registration of a recipient.
    pub fn matches(&self, facts: &Facts<'_>, recipient: Option<&Recipient>, registration: &Registration) -> bool {
        self.conditions.iter().any(|condition| {
            condition.matches_event(facts) && condition.matches_recipient(facts, recipient, registration)
        })
    }

    /// Returns the reason why this rule does not notify a registration; `None` if it does.
    pub fn leaves_out(
        &self,
        event: &Event,
        facts: &Facts<'_>,
        recipient: &Recipient,
        registration: &Registration,
    ) -> Option<Reason> {
        match &self.action {
            Action::Skip => Some(self.reason()),
            Action::Push(push) if !push.to.includes(recipient, registration) => {
                Some(self.coded(Reason::new("rules", format!("{} is for other devices", self.label))))
            }
            Action::Push(push) => push.notification(event, facts).err().map(|why| self.failure(why)),
        }
    }

    /// Returns the reason for a registration that the rule skips.
    pub fn reason(&self) -> Reason {
        self.coded(Reason::new("rules", self.label.to_string()))
    }

    /// Returns the reason for a registration for which the content cannot be built.
    pub fn failure(&self, why: &str) -> Reason {
        self.coded(Reason::failure("rules", format!("{}: {why}", self.label)))
    }

    fn coded(&self, reason: Reason) -> Reason {
        reason.with_code(self.code.to_string())
    }
}
