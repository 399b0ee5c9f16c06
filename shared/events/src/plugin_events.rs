//! The events about which a plugin decides.

use std::sync::Arc;

use pushlark_plugin::{ContentPolicy, Event, EventKind};
use pushlark_queue::{MessageContext, ReportedRecipient, Work, WorkKind};
use pushlark_xmpp::{Jid, Message};

use crate::sources::{Sender, Sources};

/// Returns the events of `work` about which a plugin decides, each with the reported state of its recipient: one for
/// each recipient of a message or of a contact request, in their order. Other work has none. `message` is the stanza,
/// which is empty for a contact request.
pub fn plugin_events<'w>(
    work: &'w Work,
    message: &'w Arc<Message>,
    content_policy: &'w Arc<ContentPolicy>,
    sources: &'w Sources,
) -> impl Iterator<Item = (Event, &'w ReportedRecipient)> {
    let about = About::of(work);
    about.into_iter().flat_map(move |About { from, kinds, reported, context }| {
        kinds.into_iter().map(move |kind| {
            let Sender { jid: from, is_occupant, is_own, room } =
                sources.sender(&kind.recipient(), &from, message, reported.nick.as_deref());
            let is_message = !matches!(kind, EventKind::Subscription(_));
            let event = Event {
                id: work.id.clone(),
                at: work.at,
                from,
                is_occupant,
                is_own,
                room,
                nick: reported.nick.clone(),
                sender_name: context.and_then(|context| context.sender_name.clone()),
                room_name: context.and_then(|context| context.room_name.clone()),
                members: context.and_then(|context| context.members).unwrap_or(1),
                sender_known: reported.sender_known,
                kind,
                message: Arc::clone(message),
                unread_count: if is_message { reported.unread_count.unwrap_or(1) } else { 0 },
                content_policy: Arc::clone(content_policy),
            };
            (event, reported)
        })
    })
}

/// The data of work about a message or a contact request.
struct About<'w> {
    from: Jid,
    kinds: Vec<EventKind>,
    reported: &'w ReportedRecipient,
    context: Option<&'w MessageContext>,
}

impl<'w> About<'w> {
    fn of(work: &'w Work) -> Option<Self> {
        let (from, kinds, reported, context) = match &work.kind {
            WorkKind::Message { from, to, recipient, context, .. } => {
                (from.clone(), to.iter().cloned().map(EventKind::Message).collect(), recipient, Some(context))
            }
            WorkKind::Unacknowledged { from, to, recipient, context, .. } => {
                (from.clone(), to.iter().cloned().map(EventKind::Unacknowledged).collect(), recipient, Some(context))
            }
            WorkKind::Subscription { from, to, recipient } => {
                (from.clone().into(), vec![EventKind::Subscription(to.clone())], recipient, None)
            }
            WorkKind::Read { .. }
            | WorkKind::Notification(_)
            | WorkKind::UserRemoved { .. }
            | WorkKind::DomainRemoved { .. } => return None,
        };
        Some(Self { from, kinds, reported, context })
    }
}
