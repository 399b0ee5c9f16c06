//! Notifications that only the device can read (`tigase:push:encrypt:0`): the gateways never get their plain text.

use std::fmt;
use std::ops::Deref;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_model::{CallSignal, EncryptedSubject, Encryption, Payload, Presentation};
use pushlark_settings::{Environment, SettingError, catalogue};
use pushlark_xmpp::{BareJid, Jid, parse_jid};
use serde_json::{Map, Value};

use crate::notification::{Notification, thread};
use crate::ringing::Ringing;
use crate::truncate::{TruncateError, truncate_text};

/// The largest ciphertext in base64, in bytes, for a registration without a `max-size`: Tigase's limit.
const DEFAULT_MAX_SIZE: usize = 3_000;
/// The length of the tag of AES-128-GCM, in bytes.
const TAG_BYTES: usize = 16;
/// A nonce in base64, of the length that all nonces have.
const ANY_IV: &str = "AAAAAAAAAAAAAAAA";

/// The keys of the encrypted JSON, as Tigase and its clients define them.
const JSON_KEYS: [&str; 7] = ["unread", "sender", "type", "message", "nickname", "sid", "media"];
/// The fields of a payload that the encrypted JSON has under its own keys, or not at all.
const MAPPED_FIELDS: [&str; 9] = [
    Payload::MESSAGE_COUNT,
    Payload::LAST_MESSAGE_SENDER,
    Payload::LAST_MESSAGE_BODY,
    Payload::PENDING_SUBSCRIPTION_COUNT,
    Payload::PENDING_SUBSCRIPTION_FROM,
    Payload::TYPE,
    Payload::CALL_SID,
    Payload::CALL_FROM,
    Payload::CALL_MEDIA,
];

/// The payload of a notification, as far as a gateway may read it. It dereferences to the fields that the push service
/// can read; those of an encrypted payload have no ciphertext yet.
#[derive(Debug, Clone, Copy)]
pub enum GatewayPayload<'n> {
    /// The push service can read all fields.
    Readable(&'n Payload),
    /// Only the device can read the content.
    Encrypted(&'n EncryptedPayload<'n>),
}

/// A payload that is encrypted with a new nonce for each request.
pub struct EncryptedPayload<'n> {
    encryption: &'n Encryption,
    plain: &'n Payload,
    user: &'n BareJid,
    is_group: bool,
    /// The fields that the push service can read, with an empty ciphertext.
    readable: Payload,
}

/// A notification without the plain text of an encrypted one, which gateways get in place of it.
pub struct HiddenNotification<'n> {
    notification: Notification<'n>,
    payload: HiddenPayload<'n>,
    presentation: Option<Presentation>,
}

enum HiddenPayload<'n> {
    /// It is encrypted for each request.
    Encrypted(EncryptedPayload<'n>),
    /// Another server has encrypted it, or it has nothing to hide.
    Readable(Payload),
}

/// The texts of the alerts that APNs shows until the app has decrypted the notification.
#[derive(Debug, Clone)]
pub struct Placeholders {
    message: String,
    call: String,
}

impl Placeholders {
    /// Reads `BODY_PLACEHOLDER` and `CALL_PLACEHOLDER`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        Ok(Self {
            message: environment.require(&catalogue::BODY_PLACEHOLDER)?,
            call: environment.require(&catalogue::CALL_PLACEHOLDER)?,
        })
    }

    /// Adds the alert to a payload for a device that shows alerts before it decrypts them: one of APNs.
    fn add_to(&self, payload: Payload, ringing: Ringing, unread_count: Option<&str>) -> Payload {
        let text = match (payload.call(), ringing) {
            (_, Ringing::PushKit | Ringing::Background | Ringing::App) => return payload,
            (Some(_), Ringing::Alert | Ringing::PushKitToo) => &self.call,
            (None, Ringing::Alert | Ringing::PushKitToo) => &self.message,
        };
        let payload = payload.with(Payload::LAST_MESSAGE_BODY, text);
        unread_count.into_iter().fold(payload, |payload, count| payload.with(Payload::MESSAGE_COUNT, count))
    }
}

impl<'n> HiddenNotification<'n> {
    /// Hides the content of a notification that is encrypted; `None` if the push service may read it. `ringing` returns
    /// the way in which the device receives calls.
    pub fn of(
        notification: &Notification<'n>,
        ringing: impl FnOnce() -> Ringing,
        placeholders: &Placeholders,
    ) -> Option<Self> {
        let GatewayPayload::Readable(payload) = notification.payload else { return None };
        let Notification { registration, user, is_group, .. } = *notification;
        let with_alert = |hidden, unread_count| match registration.options.silent() {
            Ok(true) => hidden,
            _ => placeholders.add_to(hidden, ringing(), unread_count),
        };
        let payload = match registration.encryption.as_deref() {
            _ if payload.is_encrypted() => HiddenPayload::Readable(with_alert(payload.clone(), None)),
            None => return None,
            Some(_) if payload.is_read() => HiddenPayload::Readable(read(notification, payload)),
            Some(encryption) => {
                let subject = match payload.call() {
                    // The call and its end replace each other.
                    Some(_) => EncryptedSubject::Call(notification.collapse_id(43)),
                    None => EncryptedSubject::Message,
                };
                let readable = Payload::encrypted(user, "", ANY_IV, subject);
                let readable = with_alert(readable, payload.get(Payload::MESSAGE_COUNT));
                HiddenPayload::Encrypted(EncryptedPayload { encryption, plain: payload, user, is_group, readable })
            }
        };
        // The title may name the sender.
        let presentation = notification.presentation.map(|shown| Presentation { title: None, ..shown.clone() });
        Some(Self { notification: *notification, payload, presentation })
    }

    /// Returns the notification for the gateway.
    pub fn notification(&self) -> Notification<'_> {
        let payload = match &self.payload {
            HiddenPayload::Encrypted(payload) => GatewayPayload::Encrypted(payload),
            HiddenPayload::Readable(payload) => GatewayPayload::Readable(payload),
        };
        Notification { payload, presentation: self.presentation.as_ref(), ..self.notification }
    }
}

/// Returns the payload of the news that a conversation was read. It has no content, and names the conversation as the
/// alerts of an encrypted registration do.
fn read(notification: &Notification<'_>, payload: &Payload) -> Payload {
    let conversation = thread(notification.user, notification.conversation, false);
    let read = Payload::default().with(Payload::TYPE, Payload::READ).with(Payload::CONVERSATION, conversation);
    let count = payload.get(Payload::MESSAGE_COUNT);
    count.into_iter().fold(read, |read, count| read.with(Payload::MESSAGE_COUNT, count))
}

impl<'n> From<&'n Payload> for GatewayPayload<'n> {
    fn from(payload: &'n Payload) -> Self {
        Self::Readable(payload)
    }
}

impl Deref for GatewayPayload<'_> {
    type Target = Payload;

    fn deref(&self) -> &Payload {
        match self {
            Self::Readable(payload) => payload,
            Self::Encrypted(encrypted) => &encrypted.readable,
        }
    }
}

impl GatewayPayload<'_> {
    /// Returns whether it is about a message with a text, or about a call that starts.
    pub fn is_important(&self) -> bool {
        let payload = match self {
            Self::Readable(payload) => payload,
            Self::Encrypted(encrypted) => encrypted.plain,
        };
        let has = |name| payload.get(name).is_some();
        let is_contact_request = has(Payload::PENDING_SUBSCRIPTION_COUNT) && !has(Payload::MESSAGE_COUNT);
        match payload.call() {
            Some(CallSignal::Ring(_)) => true,
            Some(CallSignal::End(_)) => false,
            None => has(Payload::LAST_MESSAGE_BODY) && !is_contact_request,
        }
    }
}

/// Shows neither the key nor the plain text.
impl fmt::Debug for EncryptedPayload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedPayload").field("readable", &self.readable).finish_non_exhaustive()
    }
}

impl EncryptedPayload<'_> {
    /// Returns what `build` makes of the encrypted payload, of at most `limit` bytes: the text of the message is
    /// truncated so that the ciphertext fits into that and into the `max-size` of the registration.
    pub fn within(&self, limit: usize, build: impl Fn(&Payload) -> Vec<u8>) -> Result<Vec<u8>, TruncateError> {
        let max_size = self.encryption.max_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        let max_size = max_size.unwrap_or(DEFAULT_MAX_SIZE);
        let max_ciphertext = limit.saturating_sub(build(&self.readable).len()).min(max_size);
        let max_json = (max_ciphertext / 4 * 3).saturating_sub(TAG_BYTES);
        let json = truncate_text(max_json, self.plain, |payload| self.json(payload))?;
        let mut nonce = [0; 12];
        rand::fill(&mut nonce).map_err(|Unspecified| TruncateError::NotEncrypted)?;
        let ciphertext = seal(&self.encryption.key, nonce, json).map_err(|Unspecified| TruncateError::NotEncrypted)?;
        let payload = self.readable.clone().with(Payload::ENCRYPTED, BASE64_STANDARD.encode(ciphertext));
        Ok(build(&payload.with(Payload::IV, BASE64_STANDARD.encode(nonce))))
    }

    /// Returns the length of what `build` makes of the encrypted payload with an empty text; `None` if it has no text.
    pub fn length_without_text(&self, build: impl Fn(&Payload) -> Vec<u8>) -> Option<usize> {
        self.plain.get(Payload::LAST_MESSAGE_BODY)?;
        let json = self.json(&self.plain.clone().with(Payload::LAST_MESSAGE_BODY, ""));
        Some(build(&self.readable).len() + (json.len() + TAG_BYTES).div_ceil(3) * 4)
    }

    /// Returns the plain text for the device. Clients require `unread` and `sender`, and accept no other `type` than
    /// `chat`, `groupchat` and `call`.
    fn json(&self, payload: &Payload) -> Vec<u8> {
        let call = payload.call();
        let from = call.and(payload.get(Payload::CALL_FROM)).or(payload.get(Payload::LAST_MESSAGE_SENDER));
        let from = from.and_then(|sender| parse_jid(sender).ok());
        let sender = match &from {
            Some(caller) if call.is_some() => caller.to_string(),
            Some(sender) => sender.to_bare().to_string(),
            None => self.user.domain().to_string(),
        };
        let kind = match (call, &from) {
            (Some(_), _) => "call",
            (None, Some(_)) if self.is_group => "groupchat",
            (None, _) => "chat",
        };
        let unread = payload.get(Payload::MESSAGE_COUNT).and_then(|count| count.trim().parse::<u32>().ok());
        let mut json = Map::from_iter([
            ("unread".to_owned(), unread.unwrap_or(1).into()),
            ("sender".to_owned(), sender.into()),
            ("type".to_owned(), kind.into()),
        ]);
        let message = payload.get(Payload::LAST_MESSAGE_BODY);
        json.extend(message.map(|message| ("message".to_owned(), message.into())));
        // Only an occupant of a room has a resource here.
        let nickname = from.as_ref().filter(|_| call.is_none()).and_then(Jid::resource);
        json.extend(nickname.map(|nickname| ("nickname".to_owned(), nickname.as_str().into())));
        json.extend(call.map(|call| ("sid".to_owned(), call.sid().into())));
        if let Some(CallSignal::Ring(_)) = call {
            // Without this array, clients stop ringing.
            let media = payload.get(Payload::CALL_MEDIA).unwrap_or_default();
            let media = media.split(',').filter(|media| !media.is_empty()).map(Value::from);
            json.insert("media".to_owned(), media.collect());
        }
        let others = payload.fields().filter(|(name, _)| !MAPPED_FIELDS.contains(name) && !JSON_KEYS.contains(name));
        json.extend(others.map(|(name, value)| (name.to_owned(), value.into())));
        Value::from(json).to_string().into_bytes()
    }
}

/// Encrypts a text with AES-128-GCM. Returns the ciphertext and its tag.
fn seal(key: &[u8; 16], nonce: [u8; 12], mut text: Vec<u8>) -> Result<Vec<u8>, Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key)?);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)?;
    Ok(text)
}
