//! What a user has read: displayed markers (XEP-0333), and Message Displayed Synchronization (XEP-0490).

use crate::element::Element;
use crate::message::Message;
use crate::ns;

/// The node of a user's read messages, which is also the namespace of its items (XEP-0490, section 3).
const DISPLAYED_NODE: &str = ns::MESSAGE_DISPLAYED;

impl Message {
    /// Returns whether it tells that its sender has read the conversation up to a message: by a displayed marker, or by
    /// an element for the sender's server to publish (XEP-0490, section 5).
    pub fn is_displayed_marker(&self) -> bool {
        self.marker().is_some() || self.element().child("displayed", ns::MESSAGE_DISPLAYED).is_some()
    }

    /// Returns the id of the message up to which the sender has read. A marker has the stanza's `id`, or in a room the
    /// room's stanza-id (XEP-0333, section 4.1); without a marker, it is the stanza-id of the sender's server.
    pub fn displayed_id(&self) -> Option<&str> {
        let marked = self.marker().and_then(|marker| marker.attribute("id"));
        let published = || stanza_id(self.element().child("displayed", ns::MESSAGE_DISPLAYED)?);
        marked.filter(|id| !id.is_empty()).or_else(published)
    }

    /// Returns the conversations whose read state the account publishes in this event, in order, as `(conversation, id)`:
    /// the JID of the other user or the room, and the stanza-id of the last message that was read (XEP-0490, section 3).
    /// The caller must check that the account itself sends the event.
    pub fn displayed_conversations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.items_of(DISPLAYED_NODE).filter_map(|item| {
            let displayed = item.child("displayed", ns::MESSAGE_DISPLAYED)?;
            Some((item.attribute("id")?, stanza_id(displayed)?))
        })
    }

    fn marker(&self) -> Option<&Element> {
        self.element().child("displayed", ns::CHAT_MARKERS)
    }
}

fn stanza_id(displayed: &Element) -> Option<&str> {
    displayed.child("stanza-id", ns::STANZA_ID)?.attribute("id").filter(|id| !id.is_empty())
}
