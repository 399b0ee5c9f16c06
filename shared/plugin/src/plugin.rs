//! The callbacks of a plugin, and the rules of those that a plugin does not implement.

use pushlark_model::{Payload, Registration};
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::event::{Choice, Event, EventKind, Publication, Recipient, Rule};
use crate::reason::Reason;

/// Decides which messages are notified to which registrations. The callbacks are called in this order for each
/// recipient of an event, and again for a retry. They do no I/O, so the same inputs have the same results.
///
/// Registrations whose preference `while_online` lets them be notified although the user is active are passed to
/// `should_publish` and `publish_notification` apart from the others, with a recipient whose clients are inactive.
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
        _recipient: &Recipient,
        payload: Payload,
        registrations: Vec<Registration>,
    ) -> Vec<Publication> {
        registrations.into_iter().map(|registration| Publication::new(registration, payload.clone())).collect()
    }

    /// Returns whether the callbacks are called for contact requests, too. Otherwise [`Defaults`](crate::Defaults)
    /// decides about them.
    fn decides_subscriptions(&self) -> bool {
        false
    }

    /// Returns whether the plugin may notify of unacknowledged messages. Such a plugin needs claims
    /// (`DEDUPLICATION=claims`).
    fn notifies_unacknowledged(&self) -> bool {
        false
    }

    /// Returns whether a device gets the silent push that clears its notifications of `conversation`, which `user` has
    /// read on another device at `at` (the setting `CLEAR_WHEN_READ`).
    fn allows_clearing(
        &self,
        _user: &BareJid,
        _conversation: &BareJid,
        _at: OffsetDateTime,
        _registration: &Registration,
    ) -> bool {
        true
    }
}

/// Prepares a notification of a contact request, of a call, or of a message that somebody else wrote and that has a
/// content for people, like MongooseIM's plugin `defaults`, which asks for a body.
pub fn prepare_notification(event: &Event) -> Result<Payload, Rule> {
    if let EventKind::Subscription(_) = event.kind {
        return Ok(event.contact_request());
    }
    if let Some(call) = event.message.call() {
        return event.call(&call);
    }
    if event.is_own {
        return Err(Reason::Own.rule());
    }
    let content = event.message.content()?;
    Ok(event.summary(content))
}

/// Chooses all registrations of a recipient who exists and is offline, or online with inactive clients only, like
/// MongooseIM's plugin `defaults`. A call does not depend on the recipient's sessions: each device that is not online
/// itself is notified of it.
pub fn should_publish(event: &Event, recipient: &Recipient, registrations: Vec<Registration>) -> Choice {
    let reason = match event.kind {
        _ if !recipient.exists => Reason::NoUser,
        _ if event.message.call().is_some() => return Choice::all(registrations),
        EventKind::Unacknowledged(_) => Reason::Unacknowledged,
        EventKind::Message(_) | EventKind::Subscription(_) if recipient.is_active() => Reason::Online,
        EventKind::Message(_) | EventKind::Subscription(_) => return Choice::all(registrations),
    };
    Choice::none(registrations, &reason.rule())
}
