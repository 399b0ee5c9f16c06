//! One recipient of one message: from the decision to the device.

use std::time::Duration;

use futures_util::future::join_all;
use pushlark_delivery::{MongoosePush, Outcome};
use pushlark_plugin::{Event, Publication, PublishService, Recipient};
use pushlark_queue::Facts;
use pushlark_store::{Snapshot, StoreError};
use pushlark_telemetry::{Causes, Metric, count};
use pushlark_xmpp::BareJid;
use time::OffsetDateTime;

use crate::Worker;

/// A notification is tried for at least so long, since it spends some time in the queue: a `time_to_live` of 0 means
/// now or never, not never.
const LEAST_TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// How a recipient's turn ended.
#[derive(Debug, Default)]
pub struct Notified {
    /// The services that need nothing more.
    pub finished: Vec<PublishService>,
    /// Whether something has to be tried again.
    pub retry: Option<Retry>,
}

/// When to try again. Of several, the last to come is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retry {
    /// After a time that grows with the number of tries.
    BackingOff,
    /// After the time that a push service asked for.
    After(Duration),
}

impl Notified {
    fn retry() -> Self {
        Self { finished: Vec::new(), retry: Some(Retry::BackingOff) }
    }
}

impl Worker {
    /// Decides, claims and publishes.
    pub(crate) async fn notify(&self, event: &Event, facts: Facts, uid: &str) -> Notified {
        let Some(payload) = self.plugin.prepare_notification(event) else {
            tracing::info!("not notified: the plugin skips the message");
            return Notified::default();
        };
        let user = event.recipient();
        let snapshot = match self.store.snapshot(&user).await {
            Ok(snapshot) => snapshot,
            Err(error) => return postponed(&error),
        };
        if snapshot.services.is_empty() {
            tracing::info!("not notified: the recipient has no registration");
            return Notified::default();
        }
        let recipient =
            Recipient { exists: facts.exists.unwrap_or(true), online: facts.online.unwrap_or(snapshot.online) };
        let services = self.plugin.should_publish(event, recipient, snapshot.services.clone());
        if services.is_empty() {
            let Recipient { exists, online } = recipient;
            tracing::info!(exists, online, "not notified: the plugin chose none of the recipient's registrations");
            return Notified::default();
        }
        let mut publications = self.plugin.publish_notification(event, payload, services);
        publications.retain(|publication| self.is_due(event, publication));
        let routed: Vec<(&Publication, &MongoosePush)> = publications
            .iter()
            .filter_map(|publication| Some((publication, self.route(&user, publication)?)))
            .collect();
        if routed.is_empty() {
            return Notified::default();
        }
        let services: Vec<&PublishService> = routed.iter().map(|(publication, _)| &publication.service).collect();
        let held = match self.store.claim(&event.id, &user, uid, &services).await {
            Ok(held) => held,
            Err(error) => return postponed(&error),
        };
        // What another event holds is that event's to finish, even if it has failed so far.
        let (ours, others): (Vec<_>, Vec<_>) = routed.into_iter().zip(held).partition(|(_, held)| *held);
        for ((publication, _), _) in others {
            tracing::info!(jid = %publication.service.jid, "not notified: another event of this message does it");
        }
        let published = ours.into_iter().map(async |((publication, push_service), _)| {
            let ended = self.publish(&user, &snapshot, publication, push_service).await;
            (publication, ended)
        });
        let mut notified = Notified::default();
        for (publication, ended) in join_all(published).await {
            match ended {
                Ok(()) => notified.finished.push(publication.service.clone()),
                Err(retry) => notified.retry = notified.retry.max(Some(retry)),
            }
        }
        notified
    }

    fn is_due(&self, event: &Event, publication: &Publication) -> bool {
        let asked = publication.service.options.time_to_live().ok().flatten();
        let time_to_live = asked.unwrap_or(self.time_to_live).max(LEAST_TIME_TO_LIVE);
        let due = OffsetDateTime::now_utc() - event.at <= time_to_live;
        if !due {
            count(Metric::Expired);
            tracing::warn!(jid = %publication.service.jid, ?time_to_live, "not notified: too late");
        }
        due
    }

    fn route(&self, user: &BareJid, publication: &Publication) -> Option<&MongoosePush> {
        let route = self.delivery.route(user, &publication.service.jid);
        if route.is_none() {
            count(Metric::Unroutable);
            let jid = &publication.service.jid;
            tracing::warn!(%jid, "not notified: the host is not virtual, and nothing publishes to real ones");
        }
        route
    }

    /// Publishes to one device, and disables it if it is gone.
    async fn publish(
        &self,
        user: &BareJid,
        snapshot: &Snapshot,
        publication: &Publication,
        push_service: &MongoosePush,
    ) -> Result<(), Retry> {
        let Publication { service, payload } = publication;
        let outcome = {
            // The semaphore is never closed.
            let _permit = self.publishes.acquire().await.ok();
            push_service.publish(&service.options, payload).await
        };
        let jid = &service.jid;
        match outcome {
            Outcome::Delivered => {
                count(Metric::Delivered);
                tracing::info!(%jid, "notified");
                Ok(())
            }
            Outcome::Gone => {
                count(Metric::Gone);
                tracing::warn!(%jid, "the device is gone: disabling its registration");
                self.store.unregister_version(user, snapshot, service).await.map_err(|error| {
                    tracing::error!(%jid, error = %Causes(&error), "not disabled");
                    Retry::BackingOff
                })
            }
            Outcome::Refused(reason) => {
                count(Metric::Refused);
                tracing::error!(%jid, reason, "not notified: refused");
                Ok(())
            }
            Outcome::Transient { reason, retry_after } => {
                count(Metric::Transient);
                tracing::warn!(%jid, reason, ?retry_after, "not notified yet");
                Err(retry_after.map_or(Retry::BackingOff, Retry::After))
            }
        }
    }
}

fn postponed(error: &StoreError) -> Notified {
    count(Metric::Transient);
    tracing::error!(error = %Causes(error), "not notified yet");
    Notified::retry()
}
