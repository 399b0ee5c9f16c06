//! The canary: a word that every secret of the tests contains, so that each text that repeats a secret is found.

/// The word, in lower case. It is in keys and credentials, device tokens and message texts.
pub const CANARY: &str = "canary";

/// The word in hexadecimal, as in device tokens of Apple, and the fixed part of its base64 form, for each of the three
/// alignments.
const ENCODED: [&str; 4] = ["63616e617279", "Y2FuYXJ5", "NhbmFye", "jYW5hcn"];

/// Returns a secret with this name: `canary-<name>`, or the name itself if it already contains the canary.
pub fn canary(name: &str) -> String {
    if contains_canary(name) { name.to_owned() } else { format!("{CANARY}-{name}") }
}

/// Returns the name from which [`canary`] made a secret.
pub fn name_of(secret: &str) -> &str {
    secret.strip_prefix(CANARY).and_then(|name| name.strip_prefix('-')).unwrap_or(secret)
}

/// Returns whether a text contains a secret, in plain text, hexadecimal or base64.
pub fn contains_canary(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains(CANARY) || ENCODED.iter().any(|encoded| text.contains(&encoded.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;
    use crate::{APNS_KEY, APNS_KEY_SEC1, APNS_NEW_KEY, GOOGLE_KEY, GOOGLE_KEY_PKCS1, GOOGLE_NEW_KEY, Subscriber};

    #[test]
    fn a_secret_is_found_in_each_encoding() {
        for before in ["", "a", "ab", "abc", "\u{ff}\u{ff}"] {
            for after in ["", "z", "zz", "\u{ff}"] {
                let secret = format!("{before}canary{after}");
                let bytes = secret.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
                for encoded in [
                    BASE64_STANDARD.encode(&secret),
                    BASE64_URL_SAFE_NO_PAD.encode(&secret),
                    bytes,
                    secret.to_uppercase(),
                ] {
                    assert!(contains_canary(&encoded), "{encoded}");
                }
            }
        }
        for secret in [
            APNS_KEY,
            APNS_KEY_SEC1,
            APNS_NEW_KEY,
            GOOGLE_KEY,
            GOOGLE_KEY_PKCS1,
            GOOGLE_NEW_KEY,
            &Subscriber::new(1).auth(),
        ] {
            assert!(contains_canary(secret), "{secret}");
        }
        for other in ["", "canar", "Y2FuYX", &Subscriber::new(1).p256dh()] {
            assert!(!contains_canary(other), "{other}");
        }
    }
}
