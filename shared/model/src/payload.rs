//! The content of a notification.

use std::borrow::Cow;

use pushlark_xmpp::BareJid;

/// What a notification says of a call, with the id of the call's Jingle session (XEP-0353).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallSignal<'p> {
    /// The call starts: devices ring.
    Ring(&'p str),
    /// The call was taken on another device, declined or ended: devices stop to ring.
    End(&'p str),
}

impl<'p> CallSignal<'p> {
    /// Returns the id of the call's Jingle session.
    pub fn sid(self) -> &'p str {
        match self {
            Self::Ring(sid) | Self::End(sid) => sid,
        }
    }
}

/// The ordered fields of a notification's form (XEP-0357, section 7; FORM_TYPE `urn:xmpp:push:summary`), or of one that
/// is encrypted for the device. Names are unique.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload {
    fields: Vec<(Cow<'static, str>, String)>,
    /// The subject of the encrypted fields; `None` if the fields are plain text.
    encrypted: Option<EncryptedSubject>,
}

/// The subject of an encrypted payload, on which the priority of the notification depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncryptedSubject {
    /// A message, an invitation or a contact request.
    Message,
    /// A call or its end, with an id that both have. It must not be the id of the Jingle session.
    Call(String),
}

impl Payload {
    /// The number of unread messages in the conversation, as a decimal.
    pub const MESSAGE_COUNT: &'static str = "message-count";
    /// The sender of the last message: a bare JID, or the full JID of a room's occupant.
    pub const LAST_MESSAGE_SENDER: &'static str = "last-message-sender";
    /// The text of the last message.
    pub const LAST_MESSAGE_BODY: &'static str = "last-message-body";
    /// The bare JID of the room that an invitation is for.
    pub const ROOM: &'static str = "room";

    /// The number of contact requests without an answer (XEP-0357, section 7), as a decimal.
    pub const PENDING_SUBSCRIPTION_COUNT: &'static str = "pending-subscription-count";
    /// The bare JID of the contact who asks. XEP-0357 does not register this field.
    pub const PENDING_SUBSCRIPTION_FROM: &'static str = "pending-subscription-from";
    /// The name of the push node, in data that has no other field.
    pub const NODE: &'static str = "node";

    /// `true` if the sender marked the message as urgent.
    pub const URGENT: &'static str = "urgent";
    /// `true` if the message mentions the recipient.
    pub const MENTION: &'static str = "mention";
    /// The kind of a notification that is not a summary: [`CALL`](Self::CALL), [`CALL_END`](Self::CALL_END) or
    /// [`READ`](Self::READ).
    pub const TYPE: &'static str = "type";
    /// The type of a call, as MongooseIM 6.10 has it.
    pub const CALL: &'static str = "jmi";
    /// The type of the end of a call.
    pub const CALL_END: &'static str = "jmi-end";
    /// The id of the call's Jingle session (XEP-0353).
    pub const CALL_SID: &'static str = "jmi-sid";
    /// The full JID of the caller.
    pub const CALL_FROM: &'static str = "jmi-from";
    /// The media of the call, separated by commas.
    pub const CALL_MEDIA: &'static str = "jmi-media";

    /// The type of the notification that a conversation was read on another device. It is never an alert.
    pub const READ: &'static str = "read";
    /// The conversation that was read: the bare JID of the other user or of the room, or its hash.
    pub const CONVERSATION: &'static str = "conversation";

    /// The bare JID of the user who is notified, in an encrypted payload.
    pub const ACCOUNT: &'static str = "account";
    /// The ciphertext and its tag, in base64 (`tigase:push:encrypt:0`).
    pub const ENCRYPTED: &'static str = "encrypted";
    /// The nonce of the ciphertext, in base64.
    pub const IV: &'static str = "iv";
    /// The type of an encrypted payload about a call.
    pub const VOIP: &'static str = "voip";

    /// Creates the payload of an encrypted notification to `account`: the ciphertext with its tag and the nonce, both in
    /// base64.
    pub fn encrypted(
        account: &BareJid,
        ciphertext: impl Into<String>,
        iv: impl Into<String>,
        subject: EncryptedSubject,
    ) -> Self {
        let payload = Self { fields: Vec::new(), encrypted: Some(subject.clone()) };
        let payload = payload.with(Self::ACCOUNT, account.as_str());
        let payload = payload.with(Self::ENCRYPTED, ciphertext).with(Self::IV, iv);
        match subject {
            EncryptedSubject::Message => payload,
            EncryptedSubject::Call(_) => payload.with(Self::TYPE, Self::VOIP),
        }
    }

    /// Returns whether the payload is encrypted. A plain payload is not, even if it has fields of these names.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted.is_some()
    }

    /// Sets the value of a field; a new field becomes the last one.
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.fields.iter_mut().find(|field| field.0 == name) {
            Some(field) => field.1 = value,
            None => self.fields.push((name, value)),
        }
        self
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }

    /// Returns whether it says that a conversation was read on another device.
    pub fn is_read(&self) -> bool {
        self.get(Self::TYPE) == Some(Self::READ) && self.get(Self::LAST_MESSAGE_BODY).is_none()
    }

    /// Returns what the payload says of a call; `None` if it is about something else, or does not name the call. If the
    /// payload is encrypted, the end of a call is the same as its start.
    pub fn call(&self) -> Option<CallSignal<'_>> {
        match &self.encrypted {
            Some(EncryptedSubject::Call(id)) => return Some(CallSignal::Ring(id)),
            Some(EncryptedSubject::Message) => return None,
            None => {}
        }
        let sid = || self.get(Self::CALL_SID).filter(|sid| !sid.is_empty());
        match self.get(Self::TYPE)? {
            Self::CALL => sid().map(CallSignal::Ring),
            Self::CALL_END => sid().map(CallSignal::End),
            _ => None,
        }
    }

    /// Returns the media of a call, such as `audio`.
    pub fn call_media(&self) -> impl Iterator<Item = &str> {
        let media = self.get(Self::CALL_MEDIA).unwrap_or_default();
        media.split(',').filter(|media| !media.is_empty())
    }

    /// Returns whether it is about contact requests alone: it counts requests, and no messages. A count of 0 counts as
    /// missing.
    pub fn is_contact_request(&self) -> bool {
        let count = |name| self.number(name).unwrap_or(0);
        count(Self::PENDING_SUBSCRIPTION_COUNT) > 0 && count(Self::MESSAGE_COUNT) == 0
    }

    /// Returns whether it tells that no message is unread: its count is 0, not missing.
    pub fn has_no_messages(&self) -> bool {
        self.number(Self::MESSAGE_COUNT) == Some(0)
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.trim().parse().ok()
    }

    /// Returns the names and values of the fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }
}
