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

use crate::notification::Notification;
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
    message_id: String,
    payload: HiddenPayload<'n>,
    presentation: Option<Presentation>,
}

enum HiddenPayload<'n> {
    /// It is encrypted for each request.
    Encrypted(EncryptedPayload<'n>),
    /// Another server has encrypted it, or it has nothing to hide.
    Readable(Payload),
}

/// The treatment of the fields that the encrypted JSON has under their own names, such as those of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Kept,
    LeftOut,
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
        // The id may begin with the JID of a room or of a contact.
        let message_id = notification.hash(&[user.as_str(), notification.message_id], 43);
        Some(Self { notification: *notification, message_id, payload, presentation })
    }

    /// Returns the notification for the gateway.
    pub fn notification(&self) -> Notification<'_> {
        let payload = match &self.payload {
            HiddenPayload::Encrypted(payload) => GatewayPayload::Encrypted(payload),
            HiddenPayload::Readable(payload) => GatewayPayload::Readable(payload),
        };
        let (message_id, presentation) = (self.message_id.as_str(), self.presentation.as_ref());
        Notification { message_id, payload, presentation, ..self.notification }
    }
}

/// Returns the payload of the news that a conversation, or all of them, was read. It has no content, and names the
/// conversation as the alerts of an encrypted registration do.
fn read(notification: &Notification<'_>, payload: &Payload) -> Payload {
    let read = Payload::default().with(Payload::TYPE, Payload::READ);
    let read = match payload.get(Payload::CONVERSATION) {
        Some(_) => read.with(Payload::CONVERSATION, notification.thread()),
        None => read,
    };
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
        self.readable()
    }
}

impl<'n> GatewayPayload<'n> {
    /// Returns the fields that the push service can read.
    pub fn readable(self) -> &'n Payload {
        match self {
            Self::Readable(payload) => payload,
            Self::Encrypted(encrypted) => &encrypted.readable,
        }
    }

    /// Returns whether it is about a message with a text, or about a call that starts.
    pub fn is_important(&self) -> bool {
        let payload = match self {
            Self::Readable(payload) => payload,
            Self::Encrypted(encrypted) => encrypted.plain,
        };
        match payload.call() {
            Some(CallSignal::Ring(_)) => true,
            Some(CallSignal::End(_)) => false,
            None => payload.get(Payload::LAST_MESSAGE_BODY).is_some() && !payload.is_contact_request(),
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
    /// truncated so that the ciphertext fits into that and into the `max-size` of the registration. If that does not
    /// suffice, the fields that clients do not need are left out.
    pub fn within(&self, limit: usize, build: impl Fn(&Payload) -> Vec<u8>) -> Result<Vec<u8>, TruncateError> {
        let max_size = self.encryption.max_size.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        let max_size = max_size.unwrap_or(DEFAULT_MAX_SIZE);
        let max_ciphertext = limit.saturating_sub(build(&self.readable).len()).min(max_size);
        let max_json = (max_ciphertext / 4 * 3).saturating_sub(TAG_BYTES);
        let truncated = |others| truncate_text(max_json, self.plain, |payload| self.json(payload, others));
        let json = truncated(Others::Kept).or_else(|_| truncated(Others::LeftOut))?;
        let mut nonce = [0; 12];
        rand::fill(&mut nonce).map_err(|Unspecified| TruncateError::NotEncrypted)?;
        let ciphertext = seal(&self.encryption.key, nonce, json).map_err(|Unspecified| TruncateError::NotEncrypted)?;
        let payload = self.readable.clone().with(Payload::ENCRYPTED, BASE64_STANDARD.encode(ciphertext));
        Ok(build(&payload.with(Payload::IV, BASE64_STANDARD.encode(nonce))))
    }

    /// Returns the length of what `build` makes of the encrypted payload with an empty text and the fields that clients
    /// need; `None` if it has no text.
    pub fn length_without_text(&self, build: impl Fn(&Payload) -> Vec<u8>) -> Option<usize> {
        self.plain.get(Payload::LAST_MESSAGE_BODY)?;
        let json = self.json(&self.plain.clone().with(Payload::LAST_MESSAGE_BODY, ""), Others::LeftOut);
        Some(build(&self.readable).len() + (json.len() + TAG_BYTES).div_ceil(3) * 4)
    }

    /// Returns the plain text for the device. Clients require `unread` and `sender`, and accept no other `type` than
    /// `chat`, `groupchat` and `call`.
    fn json(&self, payload: &Payload, others: Others) -> Vec<u8> {
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
        json.extend(nickname.map(|nickname| ("nickname".to_owned(), nickname.into())));
        json.extend(call.map(|call| ("sid".to_owned(), call.sid().into())));
        if let Some(CallSignal::Ring(_)) = call {
            // Without this array, clients stop ringing.
            json.insert("media".to_owned(), payload.call_media().map(Value::from).collect());
        }
        if others == Others::Kept {
            let others =
                payload.fields().filter(|(name, _)| !MAPPED_FIELDS.contains(name) && !JSON_KEYS.contains(name));
            json.extend(others.map(|(name, value)| (name.to_owned(), value.into())));
        }
        Value::from(json).to_string().into_bytes()
    }
}

/// Encrypts a text with AES-128-GCM. Returns the ciphertext and its tag.
fn seal(key: &[u8; 16], nonce: [u8; 12], mut text: Vec<u8>) -> Result<Vec<u8>, Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key)?);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pushlark_model::{Algorithm, PublishOptions, Registration};
    use serde_json::json;

    use super::*;

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    fn with_text(text: &str) -> Payload {
        Payload::default()
            .with(Payload::MESSAGE_COUNT, "3")
            .with(Payload::LAST_MESSAGE_SENDER, "finch@example.org")
            .with(Payload::LAST_MESSAGE_BODY, text)
    }

    /// Calls `test` with the payload as the gateway gets it.
    fn hidden<T>(
        plain: &Payload,
        options: &[(&str, &str)],
        max_size: Option<u32>,
        is_group: bool,
        test: impl FnOnce(Notification<'_>) -> T,
    ) -> T {
        let user = BareJid::new("wren@example.com").unwrap();
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = PublishOptions::new(options).unwrap();
        let encryption = Some(Box::new(Encryption { alg: Algorithm::Aes128Gcm, key: KEY, max_size }));
        let registration = Registration { encryption, ..Registration::new(user.clone(), "n".into(), options, 0) };
        let notification = Notification { is_group, ..Notification::for_test(&user, &registration, plain) };
        let placeholders = Placeholders { message: "New message".into(), call: "Incoming call".into() };
        let ringing = || Ringing::with_alerts(&registration.options);
        test(HiddenNotification::of(&notification, ringing, &placeholders).unwrap().notification())
    }

    fn fields(payload: &Payload) -> Vec<u8> {
        let fields: Map<_, _> = payload.fields().map(|(name, value)| (name.to_owned(), value.into())).collect();
        Value::from(fields).to_string().into_bytes()
    }

    /// Decrypts a payload within `limit` bytes. Returns its length, that of the ciphertext in base64, and the JSON.
    fn opened(payload: GatewayPayload<'_>, limit: usize) -> Result<(usize, usize, Value), TruncateError> {
        let GatewayPayload::Encrypted(payload) = payload else { panic!("{payload:?}") };
        let built = payload.within(limit, fields)?;
        let fields: Value = serde_json::from_slice(&built).unwrap();
        let text = |name: &str| fields[name].as_str().unwrap();
        let mut ciphertext = BASE64_STANDARD.decode(text("encrypted")).unwrap();
        let nonce = BASE64_STANDARD.decode(text("iv")).unwrap().try_into().unwrap();
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &KEY).unwrap());
        let json = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut ciphertext).unwrap();
        Ok((built.len(), text("encrypted").len(), serde_json::from_slice(json).unwrap()))
    }

    /// The results are those of Python's `cryptography`.
    #[test]
    fn texts_are_encrypted_as_other_implementations_do() {
        let nonce = [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab];
        for (text, expected) in [
            ("", "/O5pHSLHebOhptiid1BwZQ=="),
            (
                r#"{"unread":3,"sender":"finch@example.org","type":"chat","message":"lunch? 🍲"}"#,
                "0aRN1QzsUm6oQoYsZGHVDjeLUSq5NVvGS3MZ2yf17sXqzyAfYJiLT1P8lr3fvivqnjckKEejus/vU/25hAJhX8sT36cFFfn98OMQP+sLOFiDUNWpIJ3WvolovWk0MYI=",
            ),
        ] {
            assert_eq!(BASE64_STANDARD.encode(seal(&KEY, nonce, text.into()).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn the_device_gets_json_of_one_of_three_types() {
        let of = |fields: &[(&'static str, &str)]| {
            fields.iter().fold(Payload::default(), |payload, (name, value)| payload.with(*name, *value))
        };
        let occupant = ("last-message-sender", "room@muc.example.com/Zoë");
        let call = [("type", "jmi"), ("jmi-sid", "c1"), ("jmi-from", "finch@example.org/pc")];
        for (payload, is_group, expected) in [
            (
                with_text("lunch?"),
                false,
                json!({"unread": 3, "sender": "finch@example.org", "type": "chat", "message": "lunch?"}),
            ),
            (
                of(&[occupant, ("last-message-body", "Hi")]),
                true,
                json!({"unread": 1, "sender": "room@muc.example.com", "type": "groupchat", "message": "Hi",
                    "nickname": "Zoë"}),
            ),
            (
                of(&[occupant, ("last-message-body", "Hi")]),
                false,
                json!({"unread": 1, "sender": "room@muc.example.com", "type": "chat", "message": "Hi",
                    "nickname": "Zoë"}),
            ),
            (
                of(&call),
                false,
                json!({"unread": 1, "sender": "finch@example.org/pc", "type": "call", "sid": "c1", "media": []}),
            ),
            (
                of(&[&call[..], &[("jmi-media", "audio,video")]].concat()),
                false,
                json!({"unread": 1, "sender": "finch@example.org/pc", "type": "call", "sid": "c1",
                    "media": ["audio", "video"]}),
            ),
            (
                of(&[("type", "jmi-end"), ("jmi-sid", "c1")]),
                false,
                json!({"unread": 1, "sender": "example.com", "type": "call", "sid": "c1"}),
            ),
            (
                of(&[
                    ("pending-subscription-count", "1"),
                    ("pending-subscription-from", "finch@example.org"),
                    ("last-message-sender", "finch@example.org"),
                    ("last-message-body", "Contact request"),
                ]),
                false,
                json!({"unread": 1, "sender": "finch@example.org", "type": "chat", "message": "Contact request"}),
            ),
            // The settings leave the sender out, or a plugin replaced it.
            (
                of(&[("message-count", "2"), ("last-message-body", "New message")]),
                true,
                json!({"unread": 2, "sender": "example.com", "type": "chat", "message": "New message"}),
            ),
            (
                of(&[
                    ("message-count", "many"),
                    ("last-message-sender", "@"),
                    ("sender", "x"),
                    ("room", "r@x"),
                    ("type", "y"),
                ]),
                false,
                json!({"unread": 1, "sender": "example.com", "type": "chat", "room": "r@x"}),
            ),
        ] {
            let (_, _, json) =
                hidden(&payload, &[], None, is_group, |notification| opened(notification.payload, 4_096)).unwrap();
            assert_eq!(json, expected, "{payload:?}");
        }
    }

    #[test]
    fn the_text_is_cut_so_that_the_ciphertext_fits() {
        for text in ["x".repeat(10_000), "👨\u{200d}👩\u{200d}👧\u{200d}👦".repeat(400), "\"\u{1}€".repeat(3_000)]
        {
            for max_size in [None, Some(0x7fff_ffff), Some(2_801), Some(1_000), Some(155)] {
                for limit in [usize::MAX, 4_096, 2_600, 500] {
                    let plain = with_text(&text);
                    let of = |notification: Notification<'_>| opened(notification.payload, limit);
                    let (bytes, ciphertext, json) = hidden(&plain, &[], max_size, false, of).unwrap();
                    let max_size = max_size.map_or(DEFAULT_MAX_SIZE, |size| usize::try_from(size).unwrap());
                    assert!(bytes <= limit && ciphertext <= max_size, "{bytes} {ciphertext} {max_size} {limit}");
                    let message = json["message"].as_str().unwrap();
                    assert!(text.starts_with(message.strip_suffix('…').unwrap_or(message)));
                    // No more than a grapheme and the padding of base64 is wasted.
                    let is_full = ciphertext + 48 > max_size || bytes + 48 > limit || *message == *text;
                    assert!(is_full, "{bytes} {ciphertext} {max_size} {limit}");
                }
            }
        }
        let too_small = |max_size, limit| {
            hidden(&with_text("Hi"), &[], max_size, false, |notification| opened(notification.payload, limit))
        };
        assert!(matches!(too_small(Some(100), 4_096), Err(TruncateError::TooLarge { .. })));
        assert!(matches!(too_small(None, 100), Err(TruncateError::TooLarge { .. })));
        assert!(matches!(too_small(Some(0), 0), Err(TruncateError::TooLarge { .. })));
    }

    #[test]
    fn fields_that_clients_do_not_need_are_left_out_if_they_leave_no_place() {
        let payload = with_text(&"x".repeat(1_000)).with("quote", "y".repeat(200));
        for (max_size, has_quote) in [(300, false), (500, true)] {
            let (_, ciphertext, json) =
                hidden(&payload, &[], Some(max_size), false, |notification| opened(notification.payload, 4_096))
                    .unwrap();
            assert!(ciphertext + 48 > usize::try_from(max_size).unwrap(), "{ciphertext}");
            assert_eq!((json.get("quote").is_some(), &json["sender"]), (has_quote, &json!("finch@example.org")));
            assert!(json["message"].as_str().unwrap().len() > 40, "{json}");
        }
    }

    #[test]
    fn each_request_has_its_own_nonce() {
        hidden(&with_text("Hi"), &[], None, false, |notification| {
            let GatewayPayload::Encrypted(payload) = notification.payload else { panic!() };
            let iv = |_| {
                let fields: Value = serde_json::from_slice(&payload.within(4_096, fields).unwrap()).unwrap();
                [&fields["iv"], &fields["encrypted"]].map(|field| field.as_str().unwrap().to_owned())
            };
            let seen: std::collections::HashSet<_> = (0..100).flat_map(iv).collect();
            assert_eq!(seen.len(), 200);
        });
    }

    #[test]
    fn gateways_get_a_placeholder_for_apns_alone() {
        let apns = [("service", "apns"), ("device_id", "d")];
        let call = Payload::default().with(Payload::TYPE, Payload::CALL).with(Payload::CALL_SID, "secret-sid");
        let call = call.with(Payload::CALL_FROM, "finch@example.org/pc");
        for (payload, options, expected) in [
            (with_text("lunch?"), &apns[..], json!({"last-message-body": "New message", "message-count": "3"})),
            (with_text("lunch?"), &[&apns[..], &[("silent", "true")]].concat(), json!({})),
            (with_text("lunch?"), &[("service", "fcm")], json!({})),
            (call.clone(), &apns[..], json!({"last-message-body": "Incoming call", "type": "voip"})),
            (call.clone(), &[&apns[..], &[("topic", "x.voip")]].concat(), json!({"type": "voip"})),
            (call, &[], json!({"type": "voip"})),
        ] {
            hidden(&payload, options, None, false, |notification| {
                assert_ne!(notification.message_id, "m");
                let mut shown: Value = serde_json::from_slice(&fields(&notification.payload)).unwrap();
                for name in ["account", "encrypted", "iv"] {
                    assert!(shown.as_object_mut().unwrap().remove(name).is_some());
                }
                assert_eq!(shown, expected, "{options:?}");
                assert!(!format!("{:?}", notification.payload).contains("finch"));
                assert!(!notification.thread().contains("example"));
            });
        }
    }

    #[test]
    fn the_news_that_a_conversation_was_read_does_not_name_it() {
        let read = Payload::default().with(Payload::TYPE, Payload::READ).with(Payload::MESSAGE_COUNT, "0");
        hidden(&read, &[], None, false, |notification| {
            assert_eq!(notification.payload.get(Payload::CONVERSATION), None);
        });
        let read = read.with(Payload::CONVERSATION, "wren@example.com");
        hidden(&read, &[], None, false, |notification| {
            assert!(notification.payload.is_read() && !notification.payload.is_encrypted());
            assert_eq!(notification.payload.get(Payload::CONVERSATION), Some(notification.thread().as_str()));
        });
    }
}
