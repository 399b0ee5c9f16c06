//! The encryption of notifications to a device (`tigase:push:encrypt:0`).

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{Deserializer, Error};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// The key with which the notifications of a registration are encrypted, so that only the device can read them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// The algorithm.
    pub alg: Algorithm,
    /// The key, base64 in JSON.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub key: [u8; 16],
    /// The most bytes that the push service accepts, if it told the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
}

/// The algorithm of the encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// AES-128-GCM with a nonce of 12 bytes and a tag of 16 bytes.
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
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
    let text = String::deserialize(deserializer)?;
    let key = BASE64_STANDARD.decode(text.trim()).ok().and_then(|key| key.try_into().ok());
    key.ok_or_else(|| D::Error::custom("expected a key of 16 bytes in base64"))
}
