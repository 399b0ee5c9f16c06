//! Notifies the device of a push node. Another server has published the payload, so no plugin is called.

use pushlark_delivery::{Notification, RouteError};
use pushlark_model::{CallSignal, Collapse, Payload};
use pushlark_plugin::Reason as PluginReason;
use pushlark_store::DeviceStatus;
use pushlark_telemetry::{Metric, count};
use pushlark_xmpp::parse_jid;
use time::OffsetDateTime;

use crate::call::{CallAlert, OtherDevices, for_device};
use crate::decision::Reason;
use crate::deduplication::Deduplication;
use crate::notify::TaskOutcome;
use crate::order::Turn;
use crate::preferences::{self, Subject};
use crate::progress::BatchContext;
use crate::publish::{DeviceItem, Disposition, Publish};
use crate::retry::Unfinished;
use crate::task::{Attempt, NodePush};
use crate::worker::Worker;

impl Worker {
    /// Claims and publishes a notification. `turn` ends before the publish.
    pub(crate) async fn notify_device(
        &self,
        push: &NodePush,
        attempt: &Attempt,
        mut turn: Turn,
        batch: &BatchContext,
    ) -> TaskOutcome {
        let NodePush { owner: user, registration, payload, .. } = push;
        let Some(publisher) = self.delivery.push_service(user, &registration.jid) else {
            count(Metric::Unroutable);
            tracing::warn!(jid = %registration.jid, "not notified: the node's host is not in VIRTUAL_PUBSUB_HOSTS");
            return TaskOutcome::left_out(&Reason::Unroutable(RouteError::HostNotAllowed));
        };
        let Some(expires_at) = self.time_to_live.expiry(attempt.at(), payload, &registration.options, None) else {
            count(Metric::Expired);
            return TaskOutcome::left_out(&Reason::TooLate);
        };
        if matches!(payload.call(), Some(CallSignal::End(_))) && !self.content_policy.call_end {
            return TaskOutcome::left_out(&Reason::Rule(PluginReason::CallEndOff.rule()));
        }
        let conversations = push.sender.as_slice();
        let (now, ringing) = (OffsetDateTime::now_utc(), self.time_to_live.call);
        let subject = Subject { payload, conversations, now, ringing };
        // What is read disappears without a sound, whatever may not notify now.
        let preferences = registration.preferences.as_deref().filter(|_| !payload.is_read());
        if let Some(preference) = preferences.and_then(|of_owner| subject.stopped_by(of_owner)) {
            return TaskOutcome::left_out(&Reason::Preference(preference));
        }
        let ringing = publisher.ringing(&registration.options);
        // A node does not know the user's other devices.
        let others = OtherDevices::default();
        let is_of_room = |name| {
            let jid = payload.get(name).and_then(|jid| parse_jid(jid).ok());
            jid.is_some_and(|jid| self.sources.rooms.is_room(user, &jid))
        };
        let is_occupant = is_of_room(Payload::CALL_FROM);
        let is_group = is_of_room(Payload::LAST_MESSAGE_SENDER);
        let alert = CallAlert { text: &self.content_policy.call_placeholder, is_occupant };
        let payload = preferences::shown(payload.clone(), registration, &self.content_policy);
        let payload = match for_device(payload, registration, ringing, others, alert) {
            Ok(payload) => payload,
            Err(reason) => return TaskOutcome::left_out(&reason),
        };
        let is_suspected = match self.store.device(registration).await {
            Ok(DeviceStatus::Gone) => return TaskOutcome::left_out(&Reason::DeviceGone),
            Ok(device) => device == DeviceStatus::Suspected,
            Err(error) => return TaskOutcome::default().postponed(&error),
        };
        let is_claimed = self.deduplication == Deduplication::Claims || push.is_call();
        if is_claimed {
            let claim = attempt.claimant(user, None).claim(&[registration]);
            match turn.claim(&self.store, &attempt.claim_item(user), claim).await {
                Ok(held) if held == [true] => {}
                Ok(_) => return TaskOutcome::left_out(&Reason::Claimed),
                Err(error) => return TaskOutcome::default().postponed(&error),
            }
        }
        let mut presentation = push.presentation.clone();
        if !is_claimed {
            presentation.get_or_insert_default().collapse.get_or_insert(Collapse::Message);
        }
        let place = turn.join(registration);
        drop(turn);
        let conversation = push.conversation();
        let notification = Notification {
            message_id: attempt.id(),
            user,
            conversation: &conversation,
            registration,
            is_group,
            payload: (&payload).into(),
            presentation: presentation.as_ref(),
            badge: None,
            expires_at,
        };
        let device = DeviceItem::PushNode { is_suspected };
        let publish = Publish { notification: &notification, device, publisher, retry: &attempt.retry, place };
        match self.publish(publish, batch.publish_cutoff).await {
            Ok(disposition) => {
                if is_claimed {
                    batch.progress.add(attempt, user, None, [registration.clone()]);
                }
                let mut outcome = TaskOutcome::default();
                match disposition {
                    Disposition::Delivered => outcome.results.delivered = 1,
                    Disposition::Undeliverable => outcome.results.undelivered = 1,
                }
                outcome
            }
            Err(cause) => {
                TaskOutcome::unfinished(Unfinished { registration: Some(registration.clone()), is_claimed, cause })
            }
        }
    }
}
