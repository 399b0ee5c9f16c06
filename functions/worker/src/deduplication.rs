//! The way in which a repeated event does not notify again (`DEDUPLICATION`).

use std::sync::Arc;

use pushlark_model::Collapse;
use pushlark_plugin::{Event, EventKind};
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_xmpp::BareJid;

use crate::decision::PlannedPublication;
use crate::worker::{ChosenPlugin, Worker};

/// The way in which a repeated event does not notify again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deduplication {
    /// The event that claims a registration publishes to it, and no other one.
    Claims,
    /// Each event publishes, and on the device its notification replaces that of an earlier event of the same message.
    Collapse,
}

impl Deduplication {
    /// Reads `DEDUPLICATION`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        environment.choice(&catalogue::DEDUPLICATION, [Self::Claims, Self::Collapse])
    }

    /// Checks that the other settings of a worker need no claims.
    pub fn check(self, is_direct: bool, plugin: &ChosenPlugin, unread_counts: bool) -> Result<(), SettingError> {
        let conflict = match self {
            Self::Claims => return Ok(()),
            Self::Collapse if !is_direct => "PUSH_SERVICE=direct: another push service does not replace notifications",
            Self::Collapse if plugin.notifies_unacknowledged() => {
                "a PLUGIN that does not notify of unacknowledged messages: neither enhanced, hints or lambda:, nor \
                 RULES with unack_msg"
            }
            Self::Collapse if unread_counts => "UNREAD_COUNTS=off: the count of a message is kept in its claim",
            Self::Collapse => return Ok(()),
        };
        Err(catalogue::DEDUPLICATION.invalid(format!("collapse needs {conflict}")))
    }
}

impl Worker {
    /// Returns whether a publication is claimed. With `DEDUPLICATION=collapse` it is claimed only if a repeat cannot
    /// replace it: a call must not ring twice, nor after its end; a contact notifies once a day, under different ids; and
    /// a real PubSub service does not replace anything.
    pub(crate) fn is_claimed(&self, event: &Event, user: &BareJid, planned: &PlannedPublication<'_>) -> bool {
        let publication = &planned.publication;
        self.deduplication == Deduplication::Claims
            || matches!(event.kind, EventKind::Subscription(_))
            || publication.payload.call().is_some()
            || self.delivery.push_service(user, &publication.registration.jid).is_none()
    }
}

impl PlannedPublication<'_> {
    /// Lets the notification replace an earlier one of the same message, unless it replaces all of its conversation.
    pub(crate) fn replace_repeats(&mut self) {
        let presentation = Arc::make_mut(self.publication.presentation.get_or_insert_default());
        presentation.collapse.get_or_insert(Collapse::Message);
    }
}
