//! Invitations to rooms: mediated by the room (XEP-0045, section 7.8.2), and direct (XEP-0249).

use std::borrow::Cow;

use jid::BareJid;

use crate::address::{Jid, parse_jid};
use crate::fallback::is_blank;
use crate::message::Message;
use crate::ns;

/// An invitation to a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation<'m> {
    /// The sender of the invitation, and the room.
    pub kind: InvitationKind,
    /// The reason, unless it is blank.
    pub reason: Option<Cow<'m, str>>,
}

/// The way of an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvitationKind {
    /// The sender of the stanza is the room, which names the inviter; `None` if it does not.
    Mediated(Option<Jid>),
    /// The sender of the stanza is the inviter, who names this room.
    Direct(BareJid),
}

impl Message {
    /// Returns the invitation in it. Of one in both forms, the mediated form is returned.
    pub fn invitation(&self) -> Option<Invitation<'_>> {
        let mediated = || {
            let mut elements = self.element().children().filter(|child| child.is("x", ns::MUC_USER));
            let invite = elements.find_map(|element| element.child("invite", ns::MUC_USER))?;
            let inviter = invite.attribute("from").and_then(|inviter| parse_jid(inviter).ok());
            let reason = invite.child("reason", ns::MUC_USER).map(|reason| reason.text());
            Some((InvitationKind::Mediated(inviter), reason))
        };
        let direct = || {
            let invitation = self.element().child("x", ns::CONFERENCE)?;
            let room = parse_jid(invitation.attribute("jid")?).ok()?.into_bare();
            room.node()?;
            Some((InvitationKind::Direct(room), invitation.attribute("reason").map(Cow::Borrowed)))
        };
        let (kind, reason) = mediated().or_else(direct)?;
        Some(Invitation { kind, reason: reason.filter(|reason| !is_blank(reason)) })
    }
}
