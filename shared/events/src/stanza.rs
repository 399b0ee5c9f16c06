//! A stanza that is the whole body of a webhook.

use pushlark_model::{Activity, Availability};
use pushlark_queue::ReportedRecipient;
use pushlark_xmpp::{BareJid, Element, Jid, Message, Presence, PresenceType, parse_jid};

use crate::event::{Arrival, Effect, Recipients, Reported, WebhookEvent, message, new_id, subscription};

/// Reads a `<message/>` or a `<presence/>`.
pub fn read(xml: &str, arrival: &Arrival<'_>) -> Result<WebhookEvent, String> {
    let element = Element::parse(xml).map_err(|error| error.to_string())?;
    let (id, at) = (arrival.id.clone(), arrival.happened(None));
    match element.name() {
        "iq" => Err("expected a <message/> or a <presence/>; an <iq/> is for enable, disable or the push node".into()),
        "presence" => {
            let presence = Presence::from_element(element).map_err(|error| error.to_string())?;
            if let (Ok(PresenceType::Subscribe), Some(to)) = (presence.kind(), address(presence.element(), "to")?) {
                let from = address(presence.element(), "from")?.ok_or("the presence has no from")?.into_bare();
                let recipient = ReportedRecipient::default();
                return Ok(subscription(at, from, to.into_bare(), recipient, arrival.sources));
            }
            let (id, effect) = (id.unwrap_or_else(new_id), presence_effect(&presence)?);
            Ok(WebhookEvent { id, at, effect, read_marks: Vec::new(), message: None })
        }
        _ => {
            let stanza = Message::from_element(element).map_err(|error| error.to_string())?;
            let from = address(stanza.element(), "from")?.ok_or("the message has no from")?;
            let to = address(stanza.element(), "to")?.ok_or("the message has no to")?;
            let to = Recipients::Users(vec![to.into_bare()]);
            message(id, None, from, to, stanza, Reported::default(), arrival)
        }
    }
}

/// Returns the effect of a presence. It changes its session, unless it is directed to others or comes from a service.
fn presence_effect(presence: &Presence) -> Result<Effect, String> {
    let from = address(presence.element(), "from")?.ok_or("the presence has no from")?;
    let to = address(presence.element(), "to")?;
    let none = || Effect::None(vec![from.domain().to_owned()]);
    let availability = match presence.kind().map_err(|error| error.to_string())? {
        PresenceType::Available(priority) if priority >= 0 => {
            Availability::Online(Activity { is_away: presence.is_away(), ..Activity::default() })
        }
        PresenceType::Available(_) | PresenceType::Unavailable => Availability::Offline,
        PresenceType::Subscribe | PresenceType::Other => return Ok(none()),
    };
    let (user, server) = (from.to_bare(), BareJid::from_parts(None, from.domain()));
    if user.node().is_none() || to.is_some_and(|to| to != user && to != server) {
        return Ok(none());
    }
    let session =
        from.try_into_full().map_err(|bare| format!("the presence's from, \"{bare}\", must have a resource"))?;
    Ok(Effect::Presence(session.into(), availability))
}

fn address(stanza: &Element, attribute: &str) -> Result<Option<Jid>, String> {
    let jid = stanza.attribute(attribute).map(parse_jid).transpose();
    jid.map_err(|error| format!("{attribute} is {error}"))
}
