//! JSON Web Signatures in their compact form (RFC 7515, section 7.1).
//!
//! The libraries for tokens sign ES256 with a random nonce, or by way of the `rsa` crate; Apple needs the same bytes from
//! every worker.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::pkcs8::SecretDocument;
use serde::Serialize;

/// A key that nothing can be signed with; the operator's to mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the private key is not {0}")]
pub struct BadKey(pub &'static str);

/// A token signed by ES256 with the deterministic nonce of RFC 6979, so that the same claims give the same bytes.
pub fn es256(key: &SigningKey, header: &impl Serialize, claims: &impl Serialize) -> String {
    signed(header, claims, |input| Signer::<Signature>::sign(key, input).to_vec())
}

/// A token signed by RS256.
pub fn rs256(key: &RsaKeyPair, header: &impl Serialize, claims: &impl Serialize) -> String {
    signed(header, claims, |input| {
        let mut signature = vec![0; key.public_modulus_len()];
        // It fails for a buffer of another length only.
        let _ = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature);
        signature
    })
}

/// A PKCS #8 key of RSA, as PEM.
pub fn rsa_key(pem: &str) -> Result<RsaKeyPair, BadKey> {
    let bad = || BadKey("an RSA key in PKCS #8 as PEM");
    let (_, key) = SecretDocument::from_pem(pem.trim()).map_err(|_| bad())?;
    RsaKeyPair::from_pkcs8(key.as_bytes()).map_err(|_| bad())
}

fn signed(header: &impl Serialize, claims: &impl Serialize, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    // The headers and claims of this crate have only strings and numbers.
    let part = |json: Result<Vec<u8>, _>| BASE64_URL_SAFE_NO_PAD.encode(json.unwrap_or_default());
    let mut token = format!("{}.{}", part(serde_json::to_vec(header)), part(serde_json::to_vec(claims)));
    let signature = sign(token.as_bytes());
    token.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    token
}
