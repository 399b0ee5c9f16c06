//! The encryption of notifications to a device (`tigase:push:encrypt:0`).

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_xmpp::Element;
use serde::de::{Deserializer, Error};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The smallest `max-size` with which a notification with a sender and no text can be encrypted, in bytes.
pub const MIN_ENCRYPTED_SIZE: u32 = 256;

const NOT_A_KEY: &str = "expected a key of 16 bytes in base64";
/// With [`MIN_ENCRYPTED_SIZE`].
const NOT_A_SIZE: &str = "expected a number of bytes, at least 256";

/// The key with which the notifications of a registration are encrypted, so that only the device can read them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// The algorithm.
    pub alg: Algorithm,
    /// The key, base64 in JSON.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub key: [u8; 16],
    /// The most bytes that the push service accepts, at least [`MIN_ENCRYPTED_SIZE`]; `None` if the client does not
    /// know it.
    #[serde(default, deserialize_with = "size", skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
}

/// The algorithm of the encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// AES-128-GCM with a nonce of 12 bytes and a tag of 16 bytes.
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
}

impl Encryption {
    /// Reads `<encrypt xmlns='tigase:push:encrypt:0'/>`. The error names the attribute, and quotes nothing.
    pub(crate) fn from_element(encrypt: &Element) -> Result<Self, String> {
        if encrypt.attribute("alg") != Some("aes-128-gcm") {
            return Err("<encrypt/>, alg: expected aes-128-gcm".into());
        }
        let key = key(&encrypt.text()).ok_or_else(|| format!("<encrypt/>: {NOT_A_KEY}"))?;
        let size = |given: &str| given.trim().parse().ok().filter(is_enough);
        let size = encrypt.attribute("max-size").map(|given| size(given).ok_or(NOT_A_SIZE)).transpose();
        let max_size = size.map_err(|error| format!("<encrypt/>, max-size: {error}"))?;
        Ok(Self { alg: Algorithm::Aes128Gcm, key, max_size })
    }

    /// Returns the JSON for display, without the key.
    pub fn masked(&self) -> Value {
        let mut shown = json!({"alg": self.alg, "key": "…"});
        if let Some(max_size) = self.max_size {
            shown["max_size"] = max_size.into();
        }
        shown
    }
}

/// Does not show the key.
impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("alg", &self.alg).field("max_size", &self.max_size).finish_non_exhaustive()
    }
}

fn to_base64<S: Serializer>(key: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(key))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
    key(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom(NOT_A_KEY))
}

/// Reads a key in base64, with white space around it.
fn key(base64: &str) -> Option<[u8; 16]> {
    BASE64_STANDARD.decode(base64.trim()).ok()?.try_into().ok()
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let size = Option::<u32>::deserialize(deserializer).ok().filter(|size| size.as_ref().is_none_or(is_enough));
    size.ok_or_else(|| D::Error::custom(NOT_A_SIZE))
}

fn is_enough(size: &u32) -> bool {
    *size >= MIN_ENCRYPTED_SIZE
}
