//! Quiet bursts (`ALERT_INTERVAL`): for a while after an alert with a sound, further messages of the conversation reach
//! the device without a sound, and replace its alert.

use std::sync::Arc;

use pushlark_model::{Collapse, InterruptionLevel, Payload, Presentation, Priority, Registration, Sound};
use pushlark_plugin::{Event, EventKind, Publication};
use pushlark_store::{Alert, Snapshot};
use pushlark_telemetry::Causes;
use pushlark_xmpp::{BareJid, MessageType};
use time::OffsetDateTime;

use crate::decision::PlannedPublication;
use crate::worker::Worker;

impl Worker {
    /// Returns the alert of a message, with `ALERT_INTERVAL`. A contact request always makes a sound, and so does a
    /// message in a room that mentions the recipient.
    pub(crate) fn alert<'e>(
        &self,
        event: &'e Event,
        user: &'e BareJid,
        conversation: &'e BareJid,
    ) -> Option<Alert<'e>> {
        let interval = self.alert_interval?;
        if let EventKind::Subscription(_) = event.kind {
            return None;
        }
        let is_mention = event.message.kind() == MessageType::Groupchat && event.mentions(None);
        let now = OffsetDateTime::now_utc();
        Some(Alert { user, conversation, message_id: &event.id, is_mention, now, interval })
    }

    /// Makes the publications of an alert quiet where another message made a sound within the interval, and records the
    /// alert where it makes a sound. If it cannot be recorded, it makes the sound nevertheless.
    pub(crate) async fn quiet(
        &self,
        alert: &Alert<'_>,
        snapshot: &Snapshot,
        publications: &mut [PlannedPublication<'_>],
    ) {
        let mut alerts = self.alerts(alert, publications);
        let registrations: Vec<_> = alerts.iter().map(|planned| &planned.publication.registration).collect();
        let quiet = match self.store.note_alert(alert, &registrations, snapshot).await {
            Ok(quiet) => quiet,
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "an alert is not recorded: the next message may make a sound, too");
                registrations.iter().map(|registration| snapshot.is_quiet(alert, registration)).collect()
            }
        };
        for (planned, is_quiet) in alerts.iter_mut().zip(quiet) {
            planned.collapse(is_quiet);
        }
    }

    /// Makes the same publications quiet, and records nothing.
    pub(crate) fn explain_quiet(
        &self,
        alert: &Alert<'_>,
        snapshot: &Snapshot,
        publications: &mut [PlannedPublication<'_>],
    ) {
        for planned in self.alerts(alert, publications) {
            planned.collapse(snapshot.is_quiet(alert, &planned.publication.registration));
        }
    }

    /// Returns the publications that make a sound: those to push services with a text. A call always makes one, and so
    /// does a critical alert. One to a real PubSub service has no presentation.
    fn alerts<'p, 'w>(
        &self,
        alert: &Alert<'_>,
        publications: &'p mut [PlannedPublication<'w>],
    ) -> Vec<&'p mut PlannedPublication<'w>> {
        let makes_sound = |planned: &&mut PlannedPublication<'w>| {
            let Publication { registration: Registration { jid, options, .. }, payload, presentation, .. } =
                &planned.publication;
            let is_exempt = presentation.as_ref().is_some_and(|presentation| {
                presentation.sound == Some(Sound::None)
                    || presentation.interruption_level == Some(InterruptionLevel::Critical)
            });
            payload.get(Payload::LAST_MESSAGE_BODY).is_some()
                && payload.call().is_none()
                && options.silent() != Ok(true)
                && !is_exempt
                && self.delivery.push_service(alert.user, jid).is_some()
        };
        publications.iter_mut().filter(makes_sound).collect()
    }
}

impl PlannedPublication<'_> {
    /// Lets the alerts of a conversation replace each other, unless a rule keeps those of each message. A quiet one
    /// replaces the earlier ones in any case, and has no sound, whatever the rule says.
    fn collapse(&mut self, is_quiet: bool) {
        self.is_quiet = is_quiet;
        let Publication { registration, presentation, .. } = &mut self.publication;
        let presentation: &mut Presentation = Arc::make_mut(presentation.get_or_insert_default());
        if !is_quiet {
            presentation.collapse.get_or_insert(Collapse::Conversation);
            return;
        }
        presentation.collapse = Some(Collapse::Conversation);
        presentation.sound = Some(Sound::None);
        presentation.priority = Some(Priority::Normal);
        if registration.options.given("quiet_channel_id").is_some() {
            presentation.channel_id = None;
        }
    }
}
