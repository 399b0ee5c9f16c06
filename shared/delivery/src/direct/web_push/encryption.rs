//! Encryption for the device: one record of `aes128gcm` (RFC 8188), with keys derived by RFC 8291.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::rand;

/// The record size (`rs`): larger than the one record with its tag (RFC 8291, section 4), and always the same.
const RECORD_SIZE: u32 = 4_096;
/// The byte between the plaintext of the last record and its padding (RFC 8188, section 2).
const DELIMITER: u8 = 2;

/// The keys of a device's subscription: an uncompressed point of P-256 (65 bytes), and a secret.
#[derive(Debug, Clone, Copy)]
pub struct SubscriptionKeys<'r> {
    pub p256dh: &'r [u8],
    pub auth: &'r [u8; 16],
}

/// Encrypts `plaintext`, padded to `length` bytes, so that the ciphertext does not show its real length. Fails without
/// randomness, or if `p256dh` is not a point of P-256.
pub fn encrypt(plaintext: &[u8], length: usize, recipient: SubscriptionKeys<'_>) -> Result<Vec<u8>, Unspecified> {
    let mut salt = [0; 16];
    rand::fill(&mut salt)?;
    encrypt_with(&PrivateKey::generate(&ECDH_P256)?, salt, plaintext, length, recipient)
}

fn encrypt_with(
    sender: &PrivateKey,
    salt: [u8; 16],
    plaintext: &[u8],
    length: usize,
    recipient: SubscriptionKeys<'_>,
) -> Result<Vec<u8>, Unspecified> {
    let sender_public = sender.compute_public_key()?;
    let SubscriptionKeys { p256dh, auth } = recipient;
    // RFC 8291, section 3.4, and RFC 8188, section 2.2: HKDF with outputs that are no longer than one hash.
    let peer = UnparsedPublicKey::new(&ECDH_P256, p256dh);
    let key = agree(sender, peer, Unspecified, |secret| Ok(hmac(auth, &[secret])))?;
    let key = hmac(&key, &[b"WebPush: info\0", p256dh, sender_public.as_ref(), &[1]]);
    let key = hmac(&salt, &[&key]);
    let content_key = hmac(&key, &[b"Content-Encoding: aes128gcm\0", &[1]]);
    let nonce = hmac(&key, &[b"Content-Encoding: nonce\0", &[1]]);
    let mut record = plaintext.to_vec();
    record.push(DELIMITER);
    record.resize(length.max(plaintext.len()) + 1, 0);
    let content_key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &content_key[..16])?);
    let nonce = Nonce::try_assume_unique_for_key(&nonce[..12])?;
    content_key.seal_in_place_append_tag(nonce, Aad::empty(), &mut record)?;
    // 65 is the length of the public key, which the header contains as its key id.
    Ok([&salt[..], &RECORD_SIZE.to_be_bytes(), &[65], sender_public.as_ref(), &record].concat())
}

fn hmac(key: &[u8], message: &[&[u8]]) -> [u8; 32] {
    let tag = sign(&Key::new(HMAC_SHA256, key), &message.concat());
    let mut hash = [0; 32];
    hash.copy_from_slice(tag.as_ref());
    hash
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;

    fn decoded(text: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    /// RFC 8291, appendix A.
    #[test]
    fn the_example_of_the_rfc_results_in_the_same_bytes() {
        let private_key = decoded("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw");
        let sender = PrivateKey::from_private_key(&ECDH_P256, &private_key).unwrap();
        let salt = decoded("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap();
        let auth = decoded("BTBZMqHH6r4Tts7J_aSIgg").try_into().unwrap();
        let p256dh = decoded("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4");
        let text = b"When I grow up, I want to be a watermelon";
        let recipient = SubscriptionKeys { p256dh: &p256dh, auth: &auth };
        let body = encrypt_with(&sender, salt, text, text.len(), recipient).unwrap();
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6T\
            lzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(body), expected);
        let no_point = SubscriptionKeys { p256dh: &[4; 65], auth: &auth };
        assert!(encrypt(text, 100, no_point).is_err());
    }
}
