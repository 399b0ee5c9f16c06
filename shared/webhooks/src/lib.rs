//! Webhook signatures: the symmetric scheme of Standard Webhooks 1.0, and the signature of the body only, as in WebSub
//! and at GitHub.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// The header with the webhook's id, which is the same for each attempt.
pub const ID: &str = "webhook-id";
/// The header with the time of sending, in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures: `v1,<base64>`, separated by spaces.
pub const SIGNATURE: &str = "webhook-signature";

/// The header with the signature of the body only, `sha256=<hexadecimal>`. It does not detect replays.
pub const HUB_SIGNATURE: &str = "x-hub-signature-256";

/// The minimum length of a secret, in bytes. A shorter one can be guessed from a recorded signature.
pub const MIN_SECRET_BYTES: usize = 16;
/// The prefix of a secret of Standard Webhooks. Base64 follows.
const SECRET_PREFIX: &str = "whsec_";

/// The largest difference between a webhook's timestamp and its arrival, in seconds.
const TIMESTAMP_TOLERANCE: u64 = 5 * 60;
/// The most signatures that are checked. A sender that changes its key sends two.
const MAX_CHECKED_SIGNATURES: usize = 8;

/// A key that signs and verifies webhooks (HMAC-SHA256).
#[derive(Debug, Clone)]
pub struct Key(hmac::Key);

/// A secret that cannot be used. The operator must correct it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text after the prefix is empty or not base64.
    #[error("{SECRET_PREFIX} must be followed by base64")]
    Encoding,
    /// The secret has fewer than [`MIN_SECRET_BYTES`] bytes.
    #[error("a secret must have at least {MIN_SECRET_BYTES} bytes")]
    Short,
}

/// A webhook that is not verified. The sender must correct it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A header is missing, or the timestamp is not a number.
    #[error("{ID}, {TIMESTAMP} and {SIGNATURE} are all required, and the timestamp must be a number of seconds")]
    Incomplete,
    /// The sender's clock is wrong, or the webhook is old.
    #[error("{TIMESTAMP} is more than {TIMESTAMP_TOLERANCE} seconds from now")]
    Untimely,
    /// No signature matches a key.
    #[error("the signature is not valid")]
    Wrong,
}

/// The headers of a webhook, unparsed.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'h> {
    /// The value of [`ID`].
    pub id: Option<&'h str>,
    /// The value of [`TIMESTAMP`], a number of seconds since 1970.
    pub timestamp: Option<&'h str>,
    /// The value of [`SIGNATURE`].
    pub signature: Option<&'h str>,
}

impl Key {
    /// Returns the key of a secret: the decoded base64 after `whsec_`, or the bytes of any other secret.
    pub fn new(secret: &str) -> Result<Self, KeyError> {
        let secret = secret.trim();
        let bytes = match secret.strip_prefix(SECRET_PREFIX) {
            Some(encoded) => {
                let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| KeyError::Encoding)?;
                if decoded.is_empty() {
                    return Err(KeyError::Encoding);
                }
                decoded
            }
            None => secret.as_bytes().to_vec(),
        };
        if bytes.len() < MIN_SECRET_BYTES {
            return Err(KeyError::Short);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Returns the value of [`SIGNATURE`] for a webhook that is sent at `timestamp`, in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        format!("v1,{}", BASE64_STANDARD.encode(self.tag(format!("{id}.{timestamp}.").as_bytes(), body)))
    }

    fn tag(&self, prefix: &[u8], body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(prefix);
        context.update(body);
        context.sign()
    }
}

impl Headers<'_> {
    /// Verifies a webhook that arrives at `now`, in seconds since 1970. Returns the indexes of the `keys` that signed
    /// it, at least one. There is one HMAC per key, whatever the number of signatures, and each comparison takes
    /// constant time.
    pub fn verify(&self, keys: &[Key], body: &[u8], now: i64) -> Result<Vec<usize>, SignatureError> {
        let (Some(id), Some(timestamp), Some(signatures)) = (self.id, self.timestamp, self.signature) else {
            return Err(SignatureError::Incomplete);
        };
        let timestamp: i64 = timestamp.parse().map_err(|_| SignatureError::Incomplete)?;
        if timestamp.abs_diff(now) > TIMESTAMP_TOLERANCE {
            return Err(SignatureError::Untimely);
        }
        let tags = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
        let tags: Vec<Vec<u8>> =
            tags.take(MAX_CHECKED_SIGNATURES).filter_map(|tag| BASE64_STANDARD.decode(tag).ok()).collect();
        signers(keys, format!("{id}.{timestamp}.").as_bytes(), body, &tags)
    }
}

/// Verifies the value of [`HUB_SIGNATURE`]. Returns the indexes of the `keys` that signed the body, at least one.
pub fn verify_body(signature: &str, keys: &[Key], body: &[u8]) -> Result<Vec<usize>, SignatureError> {
    let tag = signature.strip_prefix("sha256=").and_then(hexadecimal).ok_or(SignatureError::Wrong)?;
    signers(keys, b"", body, &[tag])
}

fn signers(keys: &[Key], prefix: &[u8], body: &[u8], tags: &[Vec<u8>]) -> Result<Vec<usize>, SignatureError> {
    let has_signed = |key: &Key| {
        let own = key.tag(prefix, body);
        tags.iter().fold(false, |any, tag| any | verify_slices_are_equal(own.as_ref(), tag).is_ok())
    };
    let signers: Vec<usize> = keys.iter().enumerate().filter(|(_, key)| has_signed(key)).map(|(at, _)| at).collect();
    if signers.is_empty() { Err(SignatureError::Wrong) } else { Ok(signers) }
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u32>> = digits.chars().map(|digit| digit.to_digit(16)).collect();
    // Each is below 16.
    let byte = |pair: &[u32]| (pair[0] * 16 + pair[1]) as u8;
    nibbles.filter(|nibbles| nibbles.len() % 2 == 0).map(|nibbles| nibbles.chunks(2).map(byte).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Instant;

    use super::*;

    const REFERENCE_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const REFERENCE_BODY: &[u8] = br#"{"test": 2432232314}"#;
    const NOW: i64 = 1_614_265_330;

    fn key(secret: &str) -> Key {
        Key::new(secret).unwrap()
    }

    fn verify(
        secrets: &[&str],
        id: &str,
        timestamp: &str,
        signature: &str,
        body: &[u8],
    ) -> Result<Vec<usize>, SignatureError> {
        let keys: Vec<Key> = secrets.iter().map(|secret| key(secret)).collect();
        Headers { id: Some(id), timestamp: Some(timestamp), signature: Some(signature) }.verify(&keys, body, NOW)
    }

    #[test]
    fn the_example_of_the_reference_implementation_is_verified() {
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(key(REFERENCE_SECRET).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", NOW, REFERENCE_BODY), signature);
        let check = |timestamp: &str, signature: &str, body: &[u8]| {
            verify(
                &["another secret than that", REFERENCE_SECRET],
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                timestamp,
                signature,
                body,
            )
        };
        assert_eq!(check("1614265330", signature, REFERENCE_BODY), Ok(vec![1]));
        assert_eq!(check("1614265330", &format!("v1,AAAA v2,x {signature}"), REFERENCE_BODY), Ok(vec![1]));
        assert_eq!(check("1614265330", signature, b"{}"), Err(SignatureError::Wrong));
        assert_eq!(check("1614265331", signature, REFERENCE_BODY), Err(SignatureError::Wrong));
        assert_eq!(check("1614265330", &signature[3..], REFERENCE_BODY), Err(SignatureError::Wrong));
        assert_eq!(check("1614265330", "", REFERENCE_BODY), Err(SignatureError::Wrong));
        assert_eq!(check("soon", signature, REFERENCE_BODY), Err(SignatureError::Incomplete));
    }

    #[test]
    fn the_timestamp_may_differ_by_five_minutes() {
        let secret = "a secret for five minutes";
        let key = key(secret);
        for (seconds, expected) in [(300, Ok(vec![0])), (-300, Ok(vec![0])), (301, Err(SignatureError::Untimely))] {
            let at = NOW + seconds;
            assert_eq!(
                verify(&[secret], "m", &at.to_string(), &key.sign("m", at, REFERENCE_BODY), REFERENCE_BODY),
                expected
            );
        }
        let longest = i64::MIN.to_string();
        assert_eq!(verify(&[secret], "m", &longest, "v1,", REFERENCE_BODY), Err(SignatureError::Untimely));
    }

    #[test]
    fn all_three_headers_are_required() {
        let headers = Headers { id: Some("m"), timestamp: None, signature: Some("v1,") };
        assert_eq!(headers.verify(&[key(REFERENCE_SECRET)], REFERENCE_BODY, NOW), Err(SignatureError::Incomplete));
    }

    #[test]
    fn the_example_of_github_is_verified() {
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let keys = [key(REFERENCE_SECRET), key("It's a Secret to Everybody")];
        assert_eq!(verify_body(signature, &keys, b"Hello, World!"), Ok(vec![1]));
        assert_eq!(verify_body(&signature.to_uppercase().replace("SHA", "sha"), &keys, b"Hello, World!"), Ok(vec![1]));
        for (signature, body) in [
            (signature, "Hello, World"),
            (&signature[7..], "Hello, World!"),
            (&signature[..69], "Hello, World!"),
            ("sha256=", "Hello, World!"),
            ("sha256=+5", "Hello, World!"),
            ("sha1=757107ea", "Hello, World!"),
        ] {
            assert_eq!(verify_body(signature, &keys, body.as_bytes()), Err(SignatureError::Wrong), "{signature}");
        }
    }

    #[test]
    fn a_secret_that_is_short_or_not_base64_is_refused() {
        for (secret, error) in [
            ("", KeyError::Short),
            ("fifteen bytes .", KeyError::Short),
            ("whsec_", KeyError::Encoding),
            ("whsec_%%%%%%%%%%%%%%%%%%%%%%%%", KeyError::Encoding),
            ("whsec_c2l4dGVlbiBieXRlcyAuLg", KeyError::Encoding),
            ("whsec_ZmlmdGVlbiBieXRlcyAu", KeyError::Short),
        ] {
            assert_eq!(Key::new(secret).err(), Some(error), "{secret}");
        }
        for secret in ["sixteen bytes ..", " sixteen bytes .. ", "whsec_c2l4dGVlbiBieXRlcyAuLg=="] {
            key(secret);
        }
    }

    #[test]
    fn many_signatures_need_one_hmac() {
        let (keys, body) = ([key(REFERENCE_SECRET)], vec![b'x'; 4 << 20]);
        let shortest = |signatures: &str| {
            let headers = Headers { id: Some("m"), timestamp: Some("1614265330"), signature: Some(signatures) };
            let times = (0..5).map(|_| {
                let begun = Instant::now();
                assert_eq!(headers.verify(&keys, &body, NOW), Err(SignatureError::Wrong));
                begun.elapsed()
            });
            times.min().unwrap()
        };
        let one = format!("v1,{}", BASE64_STANDARD.encode([0; 32]));
        let (single, several) = (shortest(&one), shortest(&[one.as_str(); MAX_CHECKED_SIGNATURES].join(" ")));
        assert!(several < 3 * single, "{several:?} for {MAX_CHECKED_SIGNATURES} signatures, {single:?} for one");
    }
}
