//! The callbacks of the plugin.

use std::sync::Arc;

use pushlark_model::{Payload, Registration};
use pushlark_plugin::{Choice, Defaults, Event, EventKind, Plugin, Publication, Recipient, Rule as Reason};
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::Rules;
use crate::facts::{Facts, Kind};
use crate::push::Notification;
use crate::rule::{Action, Rule};

impl Rules {
    /// Returns the rule that decides for a registration: the first one that matches.
    fn deciding(&self, facts: &Facts<'_>, recipient: Option<&Recipient>, registration: &Registration) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.matches(facts, recipient, registration))
    }

    /// Returns whether a rule is about a kind of events, which the default rules decide otherwise.
    fn names(&self, kind: Kind) -> bool {
        self.0.iter().any(|rule| rule.names(kind))
    }

    /// Returns whether the default rules decide about an event.
    fn leaves_to_defaults(&self, event: &Event) -> bool {
        matches!(event.kind, EventKind::Subscription(_)) && !self.names(Kind::Subscription)
    }
}

impl Plugin for Rules {
    /// Returns a payload, unless one rule decides for all recipients not to notify. `publish_notification` replaces it.
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Reason> {
        if self.leaves_to_defaults(event) {
            return Defaults.prepare_notification(event);
        }
        // Nobody is notified of own messages and of some steps of calls, whatever the rules are.
        if event.is_own || event.message.call().is_some() {
            Defaults.prepare_notification(event)?;
        }
        let facts = Facts::of(event);
        let Some(rule) = self.0.iter().find(|rule| rule.matches_some(&facts)) else { return Err(no_match()) };
        match &rule.action {
            // Another rule may decide for the recipient.
            _ if !rule.matches_all(&facts) => Ok(Payload::default()),
            Action::Skip => Err(rule.reason()),
            Action::Push(push) => {
                push.notification(event, &facts).map(|built| built.payload).map_err(|why| rule.failure(why))
            }
        }
    }

    fn should_publish(&self, event: &Event, recipient: &Recipient, registrations: Vec<Registration>) -> Choice {
        if self.leaves_to_defaults(event) {
            return Defaults.should_publish(event, recipient, registrations);
        }
        if !recipient.exists {
            return Choice::none(registrations, &Reason::new("rules", "there is no such user").with_code("no-user"));
        }
        let facts = Facts::of(event);
        Choice::by(registrations, |registration| match self.deciding(&facts, Some(recipient), registration) {
            None => Some(no_match()),
            Some(rule) => rule.leaves_out(event, &facts, recipient, registration),
        })
    }

    fn publish_notification(
        &self,
        event: &Event,
        recipient: &Recipient,
        payload: Payload,
        registrations: Vec<Registration>,
    ) -> Vec<Publication> {
        if self.leaves_to_defaults(event) {
            return Defaults.publish_notification(event, recipient, payload, registrations);
        }
        let facts = Facts::of(event);
        let publications = registrations.into_iter().filter_map(|registration| {
            let rule = self.deciding(&facts, Some(recipient), &registration)?;
            let Action::Push(push) = &rule.action else { return None };
            let Notification { payload, presentation } = push.notification(event, &facts).ok()?;
            Some(Publication { registration, payload, presentation, rule: Some(Arc::clone(&rule.label)) })
        });
        publications.collect()
    }

    /// Contact requests are the default rules' if no rule names the kind `subscription`.
    fn decides_subscriptions(&self) -> bool {
        true
    }

    /// Rules without a condition on the event also match unacknowledged messages, but are not about them.
    fn notifies_unacknowledged(&self) -> bool {
        self.0.iter().any(Rule::names_unacknowledged)
    }

    /// Every device gets the silent push if no rule names the kind `read`.
    fn allows_clearing(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        at: OffsetDateTime,
        registration: &Registration,
    ) -> bool {
        let facts = Facts::of_read(user, conversation, at);
        !self.names(Kind::Read)
            || self.deciding(&facts, None, registration).is_some_and(|rule| matches!(rule.action, Action::Push(_)))
    }
}

fn no_match() -> Reason {
    Reason::new("rules", "no rule matches").with_code("no-rule")
}
