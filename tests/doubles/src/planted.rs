//! The mark that the tests' secrets bear, by which whatever quotes one is found.

/// The mark, in small letters: of keys and credentials, of what reaches a device, and of messages' texts.
pub const MARK: &str = "planted";

/// The mark in hexadecimal, as in a token of Apple's, and what is always of it in base64, by where it begins.
const ENCODED: [&str; 4] = ["706c616e746564", "cGxhbnRlZ", "BsYW50ZW", "wbGFudGVk"];

/// A secret of this name; itself, if it is one.
pub fn planted(name: &str) -> String {
    if is_planted(name) { name.to_owned() } else { format!("{MARK}-{name}") }
}

/// The name that [`planted`] was given.
pub fn name_of(secret: &str) -> &str {
    secret.strip_prefix(MARK).and_then(|name| name.strip_prefix('-')).unwrap_or(secret)
}

/// Whether a text holds a secret.
pub fn is_planted(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains(MARK) || ENCODED.iter().any(|encoded| text.contains(&encoded.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;
    use crate::{APNS_KEY, APNS_KEY_SEC1, APNS_NEW_KEY, GOOGLE_KEY, GOOGLE_KEY_PKCS1, GOOGLE_NEW_KEY, Subscriber};

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        for before in ["", "a", "ab", "abc", "\u{ff}\u{ff}"] {
            for after in ["", "z", "zz", "\u{ff}"] {
                let secret = format!("{before}planted{after}");
                let bytes = secret.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
                for written in [
                    BASE64_STANDARD.encode(&secret),
                    BASE64_URL_SAFE_NO_PAD.encode(&secret),
                    bytes,
                    secret.to_uppercase(),
                ] {
                    assert!(is_planted(&written), "{written}");
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
            assert!(is_planted(secret), "{secret}");
        }
        for other in ["", "plan", "cGxhbg", &Subscriber::new(1).p256dh()] {
            assert!(!is_planted(other), "{other}");
        }
    }
}
