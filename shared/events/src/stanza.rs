//! A stanza as a webhook's whole body.

use pushlark_queue::Facts;
use pushlark_store::Availability;
use pushlark_xmpp::{BareJid, Element, Jid, Message, Presence, PresenceType, parse_jid};
use time::OffsetDateTime;

use crate::event::{Effect, Event, Recipients, happened, message, new_id};

/// Reads a `<message/>` or a `<presence/>`.
pub fn read(xml: &str, now: OffsetDateTime) -> Result<Event, String> {
    let element = Element::parse(xml).map_err(|error| error.to_string())?;
    let at = happened(None, now, 0);
    match element.name() {
        "presence" => {
            let presence = Presence::from_element(element).map_err(|error| error.to_string())?;
            Ok(Event { id: new_id(), at, effect: presence_effect(&presence)?, reading: None })
        }
        _ => {
            let stanza = Message::from_element(element).map_err(|error| error.to_string())?;
            let from = address(stanza.element(), "from")?.ok_or("the message has no from")?;
            let to = address(stanza.element(), "to")?.ok_or("the message has no to")?;
            let to = Recipients::Users(vec![to.into_bare()]);
            message(None, at, from, to, &stanza, Facts::default())
        }
    }
}

/// A presence tells of the session that sent it, unless it was sent to somebody else.
fn presence_effect(presence: &Presence) -> Result<Effect, String> {
    let from = address(presence.element(), "from")?.ok_or("the presence has no from")?;
    let to = address(presence.element(), "to")?;
    let availability = match presence.kind().map_err(|error| error.to_string())? {
        PresenceType::Available(priority) if priority >= 0 => Availability::Online,
        PresenceType::Available(_) | PresenceType::Unavailable => Availability::Offline,
        PresenceType::Other => return Ok(Effect::None),
    };
    let (user, server) = (from.to_bare(), BareJid::from_parts(None, from.domain()));
    if to.is_some_and(|to| to != user && to != server) {
        return Ok(Effect::None);
    }
    let session =
        from.try_into_full().map_err(|bare| format!("the presence's from, \"{bare}\", must have a resource"))?;
    Ok(Effect::Presence(session, availability))
}

fn address(stanza: &Element, attribute: &str) -> Result<Option<Jid>, String> {
    let jid = stanza.attribute(attribute).map(parse_jid).transpose();
    jid.map_err(|error| format!("{attribute} is {error}"))
}
