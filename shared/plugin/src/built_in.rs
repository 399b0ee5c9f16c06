//! The built-in plugins: those of MongooseIM, with further rules for contents, own messages and calls.

use pushlark_model::{Payload, Registration};

use crate::event::{Choice, Event, EventKind, Recipient, Rule};
use crate::plugin::{Plugin, prepare_notification, should_publish};
use crate::reason::Reason;

/// MongooseIM's `mod_event_pusher_push_plugin_defaults`: notifies recipients of messages that have a content for
/// people, when they are offline, or online with inactive clients only.
#[derive(Debug, Clone, Copy, Default)]
pub struct Defaults;

impl Plugin for Defaults {}

/// MongooseIM's `mod_event_pusher_push_plugin_enhanced`: like [`Defaults`], and a message that a session did not
/// acknowledge is notified at once to the registration that this session enabled.
#[derive(Debug, Clone, Copy, Default)]
pub struct Enhanced;

/// MongooseIM's `mod_event_pusher_push_plugin_hints`: like [`Enhanced`], and a message with the hint
/// `no-store` (XEP-0334) is not notified, unless it is a call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints;

impl Plugin for Enhanced {
    fn should_publish(&self, event: &Event, recipient: &Recipient, registrations: Vec<Registration>) -> Choice {
        match event.kind {
            EventKind::Unacknowledged(_) if recipient.exists && event.message.call().is_none() => {
                Choice::by(registrations, |registration| {
                    let is_tied = recipient.tied.as_ref() == Some(registration);
                    (!is_tied).then(|| Reason::NotTied.rule())
                })
            }
            _ => should_publish(event, recipient, registrations),
        }
    }

    fn notifies_unacknowledged(&self) -> bool {
        true
    }
}

impl Plugin for Hints {
    fn prepare_notification(&self, event: &Event) -> Result<Payload, Rule> {
        if event.message.forbids_storage() && event.message.call().is_none() {
            return Err(Reason::NoStore.rule());
        }
        prepare_notification(event)
    }

    fn should_publish(&self, event: &Event, recipient: &Recipient, registrations: Vec<Registration>) -> Choice {
        Enhanced.should_publish(event, recipient, registrations)
    }

    fn notifies_unacknowledged(&self) -> bool {
        true
    }
}
