//! JSON Web Signatures in their compact form (RFC 7515, section 7.1).
//!
//! The JWT libraries sign ES256 with a random nonce, or need the `rsa` crate. Apple requires the same bytes from every
//! worker.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::pkcs8::SecretDocument;
use p256::pkcs8::DecodePrivateKey;
use serde::Serialize;

/// A private key that cannot be read, with the expected format. The operator must correct the credentials.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the private key is not {0}")]
pub struct PrivateKeyError(pub &'static str);

/// Returns a token signed with ES256 and the deterministic nonce of RFC 6979: the same claims result in the same bytes.
pub fn es256(key: &SigningKey, header: &impl Serialize, claims: &impl Serialize) -> String {
    signed(header, claims, |input| Signer::<Signature>::sign(key, input).to_vec())
}

/// Returns a token signed with RS256.
pub fn rs256(key: &RsaKeyPair, header: &impl Serialize, claims: &impl Serialize) -> String {
    signed(header, claims, |input| {
        let mut signature = vec![0; key.public_modulus_len()];
        // It fails only for a buffer of another length.
        let _ = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature);
        signature
    })
}

/// Returns PEM with real line breaks. An environment file may contain them as the two characters `\n`; PEM has no other
/// use for a backslash (RFC 7468, section 3).
pub fn pem(text: &str) -> String {
    text.trim().replace("\\r", "").replace("\\n", "\n")
}

/// Reads a P-256 key from PEM: PKCS #8, or SEC 1 (RFC 5915) with or without the parameters that OpenSSL writes.
pub fn ec_key(text: &str) -> Option<SigningKey> {
    let pem = pem(text);
    match pem.find("-----BEGIN EC PRIVATE KEY-----") {
        Some(start) => SecretKey::from_sec1_pem(&pem[start..]).ok().map(SigningKey::from),
        None => SigningKey::from_pkcs8_pem(&pem).ok(),
    }
}

/// Reads an RSA key from PEM: PKCS #8 or PKCS #1.
pub fn rsa_key(text: &str) -> Result<RsaKeyPair, PrivateKeyError> {
    let bad = || PrivateKeyError("an RSA key in PKCS #8 as PEM");
    let pem = pem(text);
    let (label, key) = SecretDocument::from_pem(&pem).map_err(|_| bad())?;
    let key = match label {
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(key.as_bytes()),
        _ => RsaKeyPair::from_pkcs8(key.as_bytes()),
    };
    key.map_err(|_| bad())
}

fn signed(header: &impl Serialize, claims: &impl Serialize, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    // It cannot fail: the headers and claims of this crate contain only strings and numbers.
    let part = |json: Result<Vec<u8>, _>| BASE64_URL_SAFE_NO_PAD.encode(json.unwrap_or_default());
    let mut token = format!("{}.{}", part(serde_json::to_vec(header)), part(serde_json::to_vec(claims)));
    let signature = sign(token.as_bytes());
    token.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_line_breaks_of_an_environment_file_become_line_breaks() {
        for written in ["-----BEGIN X-----\nAA==\n-----END X-----", "-----BEGIN X-----\\nAA==\\n-----END X-----\\n"] {
            assert_eq!(pem(written).trim(), "-----BEGIN X-----\nAA==\n-----END X-----");
        }
        assert_eq!(pem("a\\r\\nb\\r\\n"), "a\nb\n");
    }
}
