//! The numbers of unread messages in notifications: the conversation's, and the badge on the app's icon.

use pushlark_model::Payload;
use pushlark_plugin::Event;
use pushlark_queue::ReportedRecipient;
use pushlark_store::{CountedMessage, StoreError};
use pushlark_xmpp::{BareJid, Message};

use crate::decision::PlannedPublication;
use crate::worker::Worker;

impl Worker {
    /// Counts a message as unread if Pushlark counts messages. Like MongooseIM's inbox, it counts every message that
    /// somebody else wrote, even if it is not notified. Returns the unread count; it is `counted` if an earlier attempt
    /// has counted the message.
    pub(crate) async fn count(
        &self,
        event: &mut Event,
        reported: &ReportedRecipient,
        counted: Option<u32>,
    ) -> Result<Option<u32>, StoreError> {
        // A retry may be older than the time to live.
        if counted.is_none() && !self.counts(event, reported) {
            return Ok(None);
        }
        let (user, conversation) = (event.recipient(), event.from.to_bare());
        let references = references(&event.message);
        let message = CountedMessage { id: &event.id, references: &references, at: event.at };
        event.unread_count = match counted {
            Some(counted) => counted,
            None => self.store.count(&user, &conversation, message).await?,
        };
        Ok(Some(event.unread_count))
    }

    /// Returns whether Pushlark counts a message as unread: somebody else wrote it, and it has a content for people. A
    /// message that is older than its time to live, such as the history of a room, is not new to the recipient.
    pub(crate) fn counts(&self, event: &Event, reported: &ReportedRecipient) -> bool {
        self.unread_counts && reported.leaves_counting() && !self.time_to_live.is_over(event.at) && event.is_unread()
    }

    /// Returns whether a message that is not counted, such as one with the hint `no-store`, shows the number of those
    /// that are, plus itself.
    pub(crate) fn adds_itself(&self, reported: &ReportedRecipient) -> bool {
        self.unread_counts && reported.unread_count.is_none()
    }

    /// Sets the unread count of a message that is not counted.
    pub(crate) async fn add_to_count(&self, event: &mut Event) -> Result<(), StoreError> {
        let counted = self.store.unread(&event.recipient(), &event.from.to_bare()).await?;
        event.unread_count = counted.saturating_add(1);
        Ok(())
    }

    /// Returns the badge of an event's notifications: the number of unread messages in all conversations with
    /// `BADGE=total`, by one query unless the event reports it. `None` if the badge is the count in the payload.
    ///
    /// With `is_retried`, other messages of the conversation may have been counted or read since, so the badge has the
    /// present number.
    pub(crate) async fn badge(
        &self,
        event: &Event,
        reported: &ReportedRecipient,
        publications: &[PlannedPublication<'_>],
        is_retried: bool,
    ) -> Result<Option<u32>, StoreError> {
        let user = event.recipient();
        let has_badge = |planned: &PlannedPublication<'_>| {
            let publication = &planned.publication;
            publication.payload.get(Payload::MESSAGE_COUNT).is_some()
                && self.delivery.push_service(&user, &publication.registration.jid).is_some()
        };
        if !self.badge_is_total || !publications.iter().any(has_badge) {
            return Ok(None);
        }
        if reported.unread_total.is_some() || reported.unread_count.is_some() {
            return Ok(reported.unread_total);
        }
        let conversation = event.from.to_bare();
        let unread_count = match is_retried && self.badge_is_counted() {
            true => self.store.unread(&user, &conversation).await?,
            false => event.unread_count,
        };
        self.total_with(&user, &conversation, unread_count).await
    }

    /// Returns whether Pushlark adds up the badge.
    fn badge_is_counted(&self) -> bool {
        self.badge_is_total && self.unread_counts
    }

    /// Returns the number of unread messages in all conversations of a user, of which `conversation` has `unread_count`.
    /// `None` if the badge is not the total, or if Pushlark does not count.
    pub(crate) async fn total_with(
        &self,
        user: &BareJid,
        conversation: &BareJid,
        unread_count: u32,
    ) -> Result<Option<u32>, StoreError> {
        if !self.badge_is_counted() {
            return Ok(None);
        }
        let elsewhere = self.store.unread_elsewhere(user, conversation).await?;
        Ok(Some(elsewhere.saturating_add(unread_count)))
    }
}

/// Returns the ids by which a read mark may refer to a message: the stanza's `id` in a chat, or a stanza-id. Servers
/// append their stanza-ids, so the last ones come first.
fn references(message: &Message) -> Vec<&str> {
    let mut stanza_ids: Vec<_> = message.stanza_ids().map(|(_, id)| id).collect();
    stanza_ids.reverse();
    let id = message.element().attribute("id");
    id.into_iter().chain(stanza_ids).filter(|id| !id.is_empty()).collect()
}
