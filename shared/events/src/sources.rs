//! The settings for reading events, and the sender that they let a message have.

use std::slice;

use pushlark_settings::{Environment, HostPatterns, RoomHosts, SettingError, catalogue};
use pushlark_xmpp::{BareJid, FullJid, InvitationKind, Jid, Message, MessageType, parse_jid};

/// The settings of the sources of events.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The hosts of rooms.
    pub rooms: RoomHosts,
    /// Whether contact requests notify.
    pub subscription_requests: bool,
}

/// The sender of a message, for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The session of a user, the occupant of a room with the nick, or the inviter to a room.
    pub jid: Jid,
    /// Whether it is an occupant of a room.
    pub is_occupant: bool,
    /// Whether it is the recipient: the message is a copy for the recipient's other sessions.
    pub is_own: bool,
    /// The room, if the message is an invitation to one.
    pub room: Option<BareJid>,
}

impl Sources {
    /// Reads the settings of [`RoomHosts`], and `SUBSCRIPTION_REQUESTS`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            rooms: RoomHosts::from_environment(environment)?,
            subscription_requests: environment.switch(&catalogue::SUBSCRIPTION_REQUESTS)?,
        })
    }

    /// Returns the sender of a message to `user`. `from` is the sender of the stanza, `nick` the nick of `user` in its
    /// room, if the event names it. Another sender that the stanza names is believed only if `from` may name it.
    pub fn sender(&self, user: &BareJid, from: &Jid, message: &Message, nick: Option<&str>) -> Sender {
        let sender = self.author(user, from, message, nick);
        let Some(invitation) = message.invitation() else { return sender };
        match invitation.kind {
            InvitationKind::Mediated(Some(inviter)) if is_bare(from, message) => {
                // A room may name an occupant instead of the user (XEP-0045, section 7.8.2).
                let is_occupant = inviter.is_full() && inviter.to_bare() == *from;
                let jid = if is_occupant { inviter } else { inviter.into_bare().into() };
                Sender { jid, is_occupant, room: Some(from.to_bare()), ..sender }
            }
            InvitationKind::Mediated(_) => Sender { room: Some(from.to_bare()), ..sender },
            InvitationKind::Direct(room) => Sender { room: Some(room), ..sender },
        }
    }

    /// Returns the author of a message that is not an invitation.
    fn author(&self, user: &BareJid, from: &Jid, message: &Message, nick: Option<&str>) -> Sender {
        let room = from.to_bare();
        let is_group = message.kind() == MessageType::Groupchat;
        let is_occupant =
            is_group || from.is_full() && (message.is_private_of_occupant() || self.rooms.is_room(user, from));
        if !is_occupant {
            return Sender { jid: from.clone(), is_occupant, is_own: is_copy(user, &room, message), room: None };
        }
        let mix_nick = || {
            let participant = message.mix_participant().filter(|_| self.rooms.mix.has(user, &room))?;
            FullJid::new(&room, participant.nick?.trim()).ok()
        };
        let is_own = self.user_of_occupant(slice::from_ref(user), from, message, nick).is_some_and(|own| own == *user)
            || is_copy(user, &room, message);
        Sender { jid: mix_nick().map_or_else(|| from.clone(), Jid::from), is_occupant, is_own, room: None }
    }

    /// Returns the user who is the occupant `from` of a room, as far as the room tells `users` or the event names the
    /// nick of the only recipient.
    pub(crate) fn user_of_occupant(
        &self,
        users: &[BareJid],
        from: &Jid,
        message: &Message,
        nick: Option<&str>,
    ) -> Option<BareJid> {
        let (room, resource) = (from.to_bare(), from.resource()?);
        let told_by = |hosts: &HostPatterns| users.iter().any(|user| hosts.has(user, &room));
        let told = if let Some(participant) = message.mix_participant().filter(|_| told_by(&self.rooms.mix)) {
            participant.jid.and_then(|jid| parse_jid(jid.trim()).ok())
        } else if resource.contains('@') && told_by(&self.rooms.muc_light) {
            parse_jid(resource).ok()
        } else {
            None
        };
        let is_own_nick = |nick: &str| FullJid::new(&room, nick).is_ok_and(|own| own.resource() == Some(resource));
        let named = || match users {
            [user] if nick.is_some_and(|nick| nick == resource || is_own_nick(nick)) => Some(user.clone()),
            _ => None,
        };
        told.map(Jid::into_bare).or_else(named).filter(|user| user.node().is_some())
    }
}

/// Returns whether the sender of a stanza is a bare JID, so no session of a user: only the server of the JID can send
/// such a stanza. Some chat servers report the bare JID of a sender although the stanza has the full one.
pub(crate) fn is_bare(from: &Jid, message: &Message) -> bool {
    from.is_bare() && !message.element().attribute("from").is_some_and(|from| from.contains('/'))
}

/// Returns whether a message that `user` gets is a copy of the user's own message to somebody else.
fn is_copy(user: &BareJid, sender: &BareJid, message: &Message) -> bool {
    user == sender && addressee(message).is_some_and(|to| to != *user)
}

/// Returns the message in a carbon copy (XEP-0280) of a message that another session of the only recipient has sent, with
/// this session. Only the user's own server sends such copies, from the user's bare JID (section 11).
pub(crate) fn sent_copy(from: &Jid, to: &[BareJid], message: &Message) -> Option<(Jid, Message)> {
    let copied = message.sent_copy()?;
    let session = parse_jid(copied.element().attribute("from")?).ok()?;
    let is_authentic = is_bare(from, message) && [session.to_bare()] == *to && to == [from.to_bare()];
    is_authentic.then_some((session, copied))
}

/// Returns the bare JID of the attribute `to` of a stanza.
pub(crate) fn addressee(message: &Message) -> Option<BareJid> {
    parse_jid(message.element().attribute("to")?).ok().map(Jid::into_bare)
}

impl Default for Sources {
    fn default() -> Self {
        Self { rooms: RoomHosts::default(), subscription_requests: true }
    }
}
