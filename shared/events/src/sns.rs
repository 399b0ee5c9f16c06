//! Messages of SNS, which MongooseIM's `mod_event_pusher_sns` has published.

use pushlark_http::sns::{SnsMessage, TopicKind};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::event::{Arrival, Event, check_id};
use crate::mongooseim::{Direction, read as read_mongooseim};

/// Reads a message of a topic of this kind, which arrived at `now`. It is named by what SNS calls it, each time that it is
/// delivered.
pub fn read(message: &SnsMessage, kind: Option<TopicKind>, now: OffsetDateTime) -> Result<Event, String> {
    let direction = match kind {
        // Presence has a shape of its own: a message there has no direction.
        Some(TopicKind::Presence) => Direction::ByHosts(&None),
        Some(TopicKind::PrivateMessages) => Direction::Private,
        Some(TopicKind::GroupMessages) => Direction::ToRoom,
        None => return Err(format!("{:?} is none of the SNS topics that are set", message.topic_arn)),
    };
    let at = OffsetDateTime::parse(&message.timestamp, &Rfc3339);
    let at = at.map_err(|_| format!("Timestamp: {:?} is not a time as RFC 3339 has it", message.timestamp))?;
    let id = check_id(message.message_id.clone()).map_err(|error| format!("MessageId: {error}"))?;
    let arrival = Arrival { now, at: Some(at), id: Some(id) };
    read_mongooseim(&message.message, direction, &arrival).map_err(|error| format!("Message: {error}"))
}
