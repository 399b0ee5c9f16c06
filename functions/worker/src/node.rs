//! A notification that another server published to a push node: a ready payload, of which no plugin is asked.

use pushlark_delivery::Notification;
use pushlark_model::{Payload, PublishOptions, PublishOptionsError, Registration};
use pushlark_plugin::Disclosure;
use pushlark_queue::NodeNotification;
use pushlark_store::Device;
use pushlark_telemetry::{Metric, count};
use pushlark_xmpp::{BareJid, parse_jid};
use time::OffsetDateTime;

use crate::Worker;
use crate::batch::Batch;
use crate::decision::LEAST_TIME_TO_LIVE;
use crate::notify::Notified;
use crate::publish::{Ended, Source};
use crate::retry::Left;
use crate::shares::Share;
use crate::task::Attempt;

/// What a node's notification is for its device.
#[derive(Debug)]
pub struct Published {
    /// The node's owner.
    pub owner: BareJid,
    /// The device, as if the owner had enabled it.
    registration: Registration,
    payload: Payload,
}

impl Published {
    /// What `notification` tells, as far as the disclosure goes.
    pub fn new(notification: NodeNotification, disclosure: &Disclosure) -> Result<Self, PublishOptionsError> {
        let NodeNotification { jid, node, owner, created_at, options, summary } = notification;
        let registration = Registration { jid, node, options: PublishOptions::new(options)?, created_at };
        let payload = payload(summary, disclosure);
        Ok(Self { owner, registration, payload })
    }

    /// Whose message it tells of; without a sender, the service's own.
    fn conversation(&self) -> BareJid {
        let sender = self.payload.get(Payload::LAST_MESSAGE_SENDER).and_then(|sender| parse_jid(sender).ok());
        sender.map_or_else(|| self.registration.jid.clone(), |sender| sender.to_bare())
    }
}

impl Worker {
    /// Claims and publishes. `turn` ends before the publish.
    pub(crate) async fn notify_device(
        &self,
        published: &Published,
        attempt: &Attempt,
        turn: Share,
        batch: &Batch,
    ) -> Notified {
        let Published { owner: user, registration, payload } = published;
        let Some(publisher) = self.delivery.push_service(user, &registration.jid) else {
            count(Metric::Unroutable);
            tracing::warn!(jid = %registration.jid, "not notified: the node's service is none of the VIRTUAL_PUBSUB_HOSTS");
            return Notified::default();
        };
        let time_to_live = registration.options.time_to_live().ok().flatten().unwrap_or(self.time_to_live);
        if OffsetDateTime::now_utc() - attempt.at() > time_to_live.max(LEAST_TIME_TO_LIVE) {
            count(Metric::Expired);
            tracing::info!("not notified: it is older than its time to live");
            return Notified::default();
        }
        let is_suspected = match self.store.device(registration).await {
            Ok(Device::Gone) => {
                tracing::info!("not notified: the device is gone");
                return Notified::default();
            }
            Ok(device) => device == Device::Suspected,
            Err(error) => return Notified::default().postponed(&error),
        };
        match self.store.claim(attempt.claimant(user, None), &[registration]).await {
            Ok(held) if held == [true] => {}
            Ok(_) => {
                tracing::info!("not notified: it was published before");
                return Notified::default();
            }
            Err(error) => return Notified::default().postponed(&error),
        }
        drop(turn);
        let conversation = published.conversation();
        let (message_id, conversation, expires_at) = (attempt.id(), &conversation, attempt.at() + time_to_live);
        let notification = Notification { message_id, user, conversation, registration, payload, expires_at };
        match self.publish(&notification, Source::Node { is_suspected }, publisher, &attempt.retry, batch).await {
            Ok(ended) => {
                if let Ended::Delivered = ended {
                    tracing::info!(jid = %registration.jid, "notified");
                }
                batch.finished.add(attempt, user, None, [registration.clone()]);
                Notified::default()
            }
            Err(why) => Notified::left(Left { registration: Some(registration.clone()), why }),
        }
    }
}

/// The summary, with a text, since an alert needs one.
fn payload(summary: Vec<(String, String)>, disclosure: &Disclosure) -> Payload {
    let mut payload = Payload::default();
    for (name, value) in summary {
        match name.as_str() {
            Payload::LAST_MESSAGE_SENDER if !disclosure.sender => {}
            Payload::LAST_MESSAGE_BODY if !disclosure.body => {}
            _ => payload = payload.with(name, value),
        }
    }
    match payload.get(Payload::LAST_MESSAGE_BODY) {
        Some(_) => payload,
        None => payload.with(Payload::LAST_MESSAGE_BODY, disclosure.placeholder.as_str()),
    }
}
