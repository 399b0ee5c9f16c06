//! Messages that MongooseIM's `mod_event_pusher_sns` publishes through SNS.

use pushlark_sns::{SnsMessage, SnsNotification, TopicKind};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::{Arrival, WebhookEvent, check_id};
use crate::mongooseim::{Direction, read as read_mongooseim};

/// Reads a notification of a topic. Its `MessageId` is the same in each delivery, and becomes the id of the message.
pub fn read(message: &SnsMessage, arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
    let SnsMessage::Notification(SnsNotification { kind, message_id, message, timestamp, .. }) = message else {
        return Err("a message of SNS about a subscription is not an event".into());
    };
    let direction = match kind {
        // Presence has its own fields. A message on its topic has no direction.
        TopicKind::Presence => Direction::ByHosts(&None),
        TopicKind::PrivateMessages => Direction::Private,
        TopicKind::GroupMessages => Direction::ToRoom,
    };
    let at = OffsetDateTime::parse(timestamp, &Rfc3339);
    let at = at.map_err(|_| format!("Timestamp: {timestamp:?} is not a time in the format of RFC 3339"))?;
    let id = check_id(message_id.clone()).map_err(|error| format!("MessageId: {error}"))?;
    let arrival = Arrival { at: Some(at), id: Some(id), ..arrival.clone() };
    read_mongooseim(message, direction, &arrival).map_err(|error| format!("Message: {error}"))
}
