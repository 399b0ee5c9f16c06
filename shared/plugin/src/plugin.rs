//! The callbacks of a plugin, and the rules of those that a plugin does not implement.

use std::borrow::Cow;

use pushlark_model::{Payload, Registration};

use crate::event::{Choice, Event, EventKind, Publication, Recipient, Rule};

/// Decides which messages are notified to which registrations. The callbacks are called in this order for each
/// recipient of an event, and again for a retry. They do no I/O, so the same inputs have the same results.
pub trait Plugin: Send + Sync {
    /// Returns the payload for `event`, or the rule that skips it.
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        prepare_notification(event)
    }

    /// Chooses the registrations that are notified. Registrations that were already notified of this message are
    /// removed afterwards.
    fn should_publish(&self, event: &Event, recipient: &Recipient, registrations: Vec<Registration>) -> Choice {
        should_publish(event, recipient, registrations)
    }

    /// Returns the notifications to publish. `registrations` is the choice of `should_publish` and never empty.
    fn publish_notification(
        &self,
        _event: &Event,
        payload: Payload,
        registrations: Vec<Registration>,
    ) -> Vec<Publication> {
        registrations.into_iter().map(|registration| Publication { registration, payload: payload.clone() }).collect()
    }
}

/// Prepares a notification of a call, or of a message that has a text, like MongooseIM's plugin `defaults`.
pub fn prepare_notification(event: &Event) -> Result<Payload, Rule> {
    let message = &event.message;
    if let Some(call) = message.call() {
        return event.call(&call);
    }
    if message.is_carbon() {
        return Err(Rule::new("defaults", "the message is a carbon"));
    }
    if message.is_correction() {
        return Err(Rule::new("defaults", "the message corrects an earlier one"));
    }
    match message.text() {
        Some(body) => Ok(event.summary(body)),
        None if message.has_omemo_payload() => Ok(event.summary(Cow::Borrowed(""))),
        None => Err(Rule::new("defaults", "the message has no body")),
    }
}

/// Chooses all registrations of a recipient that exists and is offline, like MongooseIM's plugin `defaults`. A call
/// does not depend on the recipient's sessions: each device that is not online itself is notified of it.
pub fn should_publish(event: &Event, recipient: &Recipient, registrations: Vec<Registration>) -> Choice {
    let rule = match event.kind {
        _ if !recipient.exists => "there is no such user",
        _ if event.message.call().is_some() => return Choice::all(registrations),
        EventKind::Unacknowledged(_) => "unacknowledged messages do not notify",
        EventKind::Message(_) if recipient.online => "the recipient is online",
        EventKind::Message(_) => return Choice::all(registrations),
    };
    Choice::none(registrations, &Rule::new("defaults", rule))
}
