//! One notification to one device.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pushlark_model::{
    Collapse, InterruptionLevel, Payload, Presentation, Priority, PublishOptions, PublishOptionsError, Registration,
    Sound,
};
use pushlark_xmpp::BareJid;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::encrypted::GatewayPayload;
use crate::truncate::beginning;

/// The characters that are percent-encoded in a path segment: all but the unreserved ones (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The most bytes of a title that the presentation sets. Devices show less, and a push service must have room for the
/// text.
const MAX_TITLE_BYTES: usize = 512;

/// A notification of one message to one device.
#[derive(Debug, Clone, Copy)]
pub struct Notification<'n> {
    /// The id of the message: the same at every retry.
    pub message_id: &'n str,
    /// The bare JID of the recipient, who owns the registration.
    pub user: &'n BareJid,
    /// The bare JID of the other user or of the room.
    pub conversation: &'n BareJid,
    /// The device's registration.
    pub registration: &'n Registration,
    /// Whether it is about a message of a room to its occupants.
    pub is_group: bool,
    /// The fields to send to the device. A publisher hides them from its gateway if the registration is encrypted.
    pub payload: GatewayPayload<'n>,
    /// The presentation, if the operator's rule sets one.
    pub presentation: Option<&'n Presentation>,
    /// The number on the app's icon, if it is not the payload's `message-count`.
    pub badge: Option<u32>,
    /// The time after which push services must not deliver it.
    pub expires_at: OffsetDateTime,
}

/// A registration from which no request to a push service can be built. The client must enable notifications again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The form has no field of this name, or an empty one. The client must add it.
    #[error("the registration's form has no {0:?}")]
    Missing(&'static str),
    /// The field is `.` or `..`, which are special in a URL's path (RFC 3986, section 3.3). The client must correct it.
    #[error("the registration's form has a {0:?} that is not a device id")]
    DotSegment(&'static str),
    /// A field has a value that is not allowed. The client must correct it.
    #[error(transparent)]
    Option(#[from] PublishOptionsError),
}

impl<'n> Notification<'n> {
    /// Returns the form's field `name`; `None` if it is missing or empty.
    pub(crate) fn option(&self, name: &str) -> Option<&'n str> {
        self.registration.options.given(name)
    }

    /// Returns the form's field `name`, which is required.
    pub(crate) fn require(&self, name: &'static str) -> Result<&'n str, OptionError> {
        self.option(name).ok_or(OptionError::Missing(name))
    }

    /// Returns the form's field `name`, which is required, as a percent-encoded segment of a URL's path.
    pub(crate) fn path_segment(&self, name: &'static str) -> Result<String, OptionError> {
        match self.require(name)? {
            "." | ".." => Err(OptionError::DotSegment(name)),
            value => Ok(utf8_percent_encode(value, RESERVED).to_string()),
        }
    }

    /// Returns the title that the presentation sets in place of the sender.
    pub(crate) fn title(&self) -> Option<&'n str> {
        self.presentation?.title.as_deref().map(|title| beginning(title, MAX_TITLE_BYTES))
    }

    /// Returns the priority that the presentation or else the form asks for. The presentation of a call cannot change
    /// its priority.
    pub(crate) fn priority(&self) -> Option<Priority> {
        let presented = self.changeable().and_then(|presentation| presentation.priority);
        presented.or_else(|| self.registration.options.priority().ok().flatten())
    }

    /// Returns the name of the alert's sound, by the presentation or else by the form.
    pub(crate) fn sound(&self) -> Option<&'n str> {
        match self.presentation.and_then(|presentation| presentation.sound.as_ref()) {
            Some(Sound::None) => None,
            Some(Sound::Named(name)) => Some(name),
            None => self.registration.options.get("sound"),
        }
    }

    /// Returns whether the presentation forbids a sound, also one that is the default of the device.
    pub(crate) fn is_soundless(&self) -> bool {
        self.presentation.is_some_and(|presentation| presentation.sound == Some(Sound::None))
    }

    /// Returns the Android channel of the alert. A form may name the one for alerts without a sound.
    pub(crate) fn channel_id(&self) -> Option<&'n str> {
        let presented = self.presentation?.channel_id.as_deref();
        presented.or_else(|| self.option("quiet_channel_id").filter(|_| self.is_soundless()))
    }

    /// Returns the interruption level that the presentation sets.
    pub(crate) fn interruption_level(&self) -> Option<&'static str> {
        self.presentation?.interruption_level.map(InterruptionLevel::as_str)
    }

    /// Returns the time to live that the presentation or else the form asks for. `expires_at` follows from it.
    pub(crate) fn asked_time_to_live(&self) -> Option<Duration> {
        asked_time_to_live(&self.registration.options, self.changeable())
    }

    /// Returns the name under which a device keeps one alert, if the presentation asks for one: the conversation's, or
    /// that of the message.
    pub(crate) fn tag(&self) -> Option<String> {
        self.collapse().map(|collapse| match collapse {
            Collapse::Message => self.id(22),
            Collapse::Conversation => self.thread(),
        })
    }

    /// Returns the earlier notifications that this one replaces, if the presentation names them.
    pub(crate) fn collapse(&self) -> Option<Collapse> {
        self.changeable()?.collapse
    }

    /// Returns the presentation of a notification whose delivery it can change. Calls, their ends and the news that a
    /// conversation was read have priorities, times and collapse ids of their own.
    fn changeable(&self) -> Option<&'n Presentation> {
        self.presentation.filter(|_| self.payload.call().is_none() && !self.payload.is_read())
    }

    /// Returns the time until `expires_at`; zero if that has passed.
    pub(crate) fn time_to_live(&self) -> Duration {
        (self.expires_at - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO)
    }

    /// Returns an id of this notification, the same at every retry: `length` characters of base64url (at most 43).
    pub(crate) fn id(&self, length: usize) -> String {
        let (jid, node) = (self.registration.jid.as_str(), self.registration.node.as_str());
        self.hash(&[self.user.as_str(), jid, self.message_id, node], length)
    }

    /// Returns the id under which a push service keeps one notification for the device: `length` characters of base64url
    /// (at most 43). A retry replaces the earlier notification, the end of a call replaces the call, and the news that a
    /// conversation was read replaces earlier such news. A presentation may let an alert replace the earlier ones of
    /// its conversation.
    pub(crate) fn collapse_id(&self, length: usize) -> String {
        let (jid, node) = (self.registration.jid.as_str(), self.registration.node.as_str());
        match self.payload.call() {
            Some(call) => self.hash(&[self.user.as_str(), jid, "call", call.sid(), node], length),
            None if self.payload.is_read() => {
                self.hash(&[self.user.as_str(), jid, self.conversation.as_str(), node, Payload::READ], length)
            }
            None if self.collapse() == Some(Collapse::Conversation) => {
                self.hash(&[self.user.as_str(), jid, self.conversation.as_str(), node, "alert"], length)
            }
            None => self.id(length),
        }
    }

    /// Returns an id of the conversation: its JID, or a hash of it if the payload does not name the sender.
    pub(crate) fn thread(&self) -> String {
        let names_sender =
            self.payload.get(Payload::LAST_MESSAGE_SENDER).is_some() || self.payload.get(Payload::CALL_FROM).is_some();
        match self.registration.encryption {
            Some(_) => self.hash(&[self.user.as_str(), self.conversation.as_str()], 22),
            None => thread(self.user, self.conversation, names_sender),
        }
    }

    /// Returns a hash of texts: `length` characters of base64url. If the registration has a key, nobody without it can
    /// guess the texts.
    pub(crate) fn hash(&self, parts: &[&str], length: usize) -> String {
        let key = self.registration.encryption.iter().map(|encryption| &encryption.key[..]);
        hash(key.chain(parts.iter().map(|part| part.as_bytes())), length)
    }
}

/// Returns the time to live that `presentation` or else the form asks for: at most that of a form.
pub fn asked_time_to_live(options: &PublishOptions, presentation: Option<&Presentation>) -> Option<Duration> {
    let longest = Duration::from_secs(u32::MAX.into());
    let presented = presentation.and_then(|presentation| presentation.time_to_live).map(|asked| asked.min(longest));
    presented.or_else(|| options.time_to_live().ok().flatten())
}

/// Returns the name of a conversation in notifications: its JID, or a hash of it if they must not name the sender.
pub fn thread(user: &BareJid, conversation: &BareJid, names_sender: bool) -> String {
    if names_sender {
        return conversation.to_string();
    }
    hash([user.as_str(), conversation.as_str()].map(str::as_bytes), 22)
}

fn hash<'p>(parts: impl IntoIterator<Item = &'p [u8]>, length: usize) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    let mut name = BASE64_URL_SAFE_NO_PAD.encode(digest.finalize());
    name.truncate(length);
    name
}

#[cfg(test)]
impl<'n> Notification<'n> {
    /// Returns a notification that expires in a minute.
    pub(crate) fn for_test(user: &'n BareJid, registration: &'n Registration, payload: &'n Payload) -> Self {
        let expires_at = OffsetDateTime::now_utc() + time::Duration::MINUTE;
        let (is_group, payload, presentation, badge) = (false, payload.into(), None, None);
        let (message_id, conversation) = ("m", user);
        Self { message_id, user, conversation, registration, is_group, payload, presentation, badge, expires_at }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use pushlark_model::PublishOptions;

    use super::*;

    #[test]
    fn a_path_segment_keeps_unreserved_characters_and_encodes_all_others() {
        let user = BareJid::new("bob@example.com").unwrap();
        let segment = |device: &str| {
            let options = PublishOptions::new(BTreeMap::from([("device_id".into(), device.into())])).unwrap();
            let registration = Registration::new(user.clone(), "n".into(), options, 0);
            Notification::for_test(&user, &registration, &Payload::default()).path_segment("device_id")
        };
        assert_eq!(segment("Az0-._~:APA91b_x-y").unwrap(), "Az0-._~%3AAPA91b_x-y");
        assert_eq!(segment("a/b?c#d%e é").unwrap(), "a%2Fb%3Fc%23d%25e%20%C3%A9");
        for device in [".", "..", " .. "] {
            assert_eq!(segment(device), Err(OptionError::DotSegment("device_id")));
        }
        assert_eq!(segment(" "), Err(OptionError::Missing("device_id")));
    }
}
