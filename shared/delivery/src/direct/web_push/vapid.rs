//! VAPID: the signatures by which push services identify an app (RFC 8292).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use p256::ecdsa::SigningKey;
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::base64url::BASE64_URL;
use crate::direct::jws::{PrivateKeyError, ec_key, es256};

/// The maximum number of cached signatures, one for each push service. Beyond it, all are
/// removed.
const MAX_SIGNATURES: usize = 1_000;
/// The lifetime of a signature, in seconds; at most 24 hours (RFC 8292, section 2).
const TOKEN_LIFETIME: i64 = 12 * 3_600;
/// The top-level domains that have no public hosts (RFC 2606, RFC 6762).
const LOCAL_DOMAINS: [&str; 3] = ["localhost", "local", "invalid"];

/// An app's credentials for Web Push.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VapidCredentials {
    /// The private key: P-256, as PEM (PKCS #8 or SEC1) or as 32 bytes in base64.
    key: String,
    /// The contact for push services: a `mailto:` or `https:` URL.
    subject: String,
}

/// Credentials that cannot be used. The operator must correct them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VapidError {
    /// The private key cannot be read.
    #[error(transparent)]
    Key(#[from] PrivateKeyError),
    /// Push services refuse the subject.
    #[error(transparent)]
    Subject(#[from] SubjectError),
}

/// A subject that push services refuse. The operator must correct it. Apple's push service answers each notification
/// with `BadJwtToken` ("Sending web push notifications in web apps and browsers").
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The subject is neither a `mailto:` nor an `https:` URL.
    #[error("the subject must begin with mailto: or https://")]
    Scheme,
    /// The subject is written as in the header of a mail, or has white space.
    #[error("the subject must have no white space, angle brackets or quotation marks")]
    Character,
    /// `mailto:` is followed by no address, or by more than one.
    #[error("the subject must have one address after mailto:, such as mailto:push@example.com")]
    Address,
    /// The subject has no host name with a dot.
    #[error("the subject must have a host name with a dot")]
    Host,
    /// The host exists only on one machine or in a local network.
    #[error("the subject must not be at localhost, .local or .invalid, which push services refuse")]
    Nowhere,
}

/// The key of one app, with a cache of its signatures.
pub struct Vapid {
    key: SigningKey,
    /// The public key: an uncompressed point, in base64url.
    public_key: String,
    subject: String,
    /// By the origin of a push service: the expiry of the signature, in Unix seconds, and the header `Authorization`.
    signatures: Mutex<HashMap<String, (i64, String)>>,
}

impl Vapid {
    pub fn new(VapidCredentials { key, subject }: VapidCredentials) -> Result<Self, VapidError> {
        let bad = PrivateKeyError("a P-256 key: PKCS #8 or SEC1 as PEM, or 32 bytes in base64");
        let key = signing_key(key.trim()).ok_or(bad)?;
        check_subject(&subject)?;
        let public_key = BASE64_URL_SAFE_NO_PAD.encode(key.verifying_key().to_encoded_point(false));
        Ok(Self { key, public_key, subject, signatures: Mutex::default() })
    }

    /// Returns the header `Authorization` for the push service of `endpoint` (RFC 8292, section 3).
    pub fn authorization(&self, endpoint: &Url, now: OffsetDateTime) -> String {
        let (audience, now) = (endpoint.origin().ascii_serialization(), now.unix_timestamp());
        // Every change is a single step, so a poisoned lock still holds valid data.
        let mut signatures = self.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((expires, signature)) = signatures.get(&audience)
            && expires - now > TOKEN_LIFETIME / 2
        {
            return signature.clone();
        }
        let expires = now + TOKEN_LIFETIME;
        let claims = json!({"aud": audience, "exp": expires, "sub": self.subject});
        let token = es256(&self.key, &json!({"typ": "JWT", "alg": "ES256"}), &claims);
        let signature = format!("vapid t={token}, k={}", self.public_key);
        // Users choose the push services, so there may be any number.
        if signatures.len() >= MAX_SIGNATURES {
            signatures.clear();
        }
        signatures.insert(audience, (expires, signature.clone()));
        signature
    }
}

fn signing_key(key: &str) -> Option<SigningKey> {
    if key.starts_with("-----BEGIN") {
        return ec_key(key);
    }
    let url_safe = key.replace('+', "-").replace('/', "_");
    SigningKey::from_slice(&BASE64_URL.decode(url_safe).ok()?).ok()
}

fn check_subject(subject: &str) -> Result<(), SubjectError> {
    let is_foreign = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"');
    if subject.contains(is_foreign) {
        return Err(SubjectError::Character);
    }
    let url = match subject.strip_prefix("mailto:") {
        Some(address) => {
            let (name, domain) = address.split_once('@').ok_or(SubjectError::Address)?;
            if name.is_empty() || name.contains(',') || domain.contains(['@', ',', '?', '#', '/', '\\', ':']) {
                return Err(SubjectError::Address);
            }
            format!("https://{domain}")
        }
        None if subject.starts_with("https://") => subject.to_owned(),
        None => return Err(SubjectError::Scheme),
    };
    let url = Url::parse(&url).map_err(|_| SubjectError::Host)?;
    // `Url::domain` is `None` for an IP address.
    let host = url.domain().ok_or(SubjectError::Host)?.trim_end_matches('.');
    match host.rsplit_once('.') {
        _ if host == "localhost" => Err(SubjectError::Nowhere),
        Some((_, top)) if LOCAL_DOMAINS.contains(&top) => Err(SubjectError::Nowhere),
        Some(_) => Ok(()),
        None => Err(SubjectError::Host),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use p256::pkcs8::DecodePrivateKey;

    use super::*;

    /// A key from `openssl ecparam -name prime256v1 -genkey`.
    const SEC1: &str = "-----BEGIN EC PARAMETERS-----\n\
        BggqhkjOPQMBBw==\n\
        -----END EC PARAMETERS-----\n\
        -----BEGIN EC PRIVATE KEY-----\n\
        MHcCAQEEIKITSvmGklcZJ/yfU+z0rL5ueBk8xgPdO7jgXtqPIgF/oAoGCCqGSM49\n\
        AwEHoUQDQgAEQpT808ZFJqcprbhLCE8Ou9506Rq440JmHh33mzOT1QRhLPhDiQ14\n\
        MM7+8D43x+X6Zl2sFTLALKb0vVEyVWpb6A==\n\
        -----END EC PRIVATE KEY-----";
    /// The same key, converted by `openssl pkcs8 -topk8 -nocrypt`.
    const PKCS8: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgohNK+YaSVxkn/J9T\n\
        7PSsvm54GTzGA907uOBe2o8iAX+hRANCAARClPzTxkUmpymtuEsITw673nTpGrjj\n\
        QmYeHfebM5PVBGEs+EOJDXgwzv7wPjfH5fpmXawVMsAspvS9UTJValvo\n\
        -----END PRIVATE KEY-----";

    #[test]
    fn a_subject_must_be_a_mail_address_or_url_with_a_public_host() {
        for fine in [
            "mailto:push@example.com",
            "mailto:push+chat@mail.example.co.uk",
            "mailto:push@bücher.example",
            "https://example.com",
            "https://chat.example.com/contact?x=1",
        ] {
            check_subject(fine).unwrap();
        }
        for (bad, why) in [
            ("", SubjectError::Scheme),
            ("push@example.com", SubjectError::Scheme),
            ("http://example.com", SubjectError::Scheme),
            ("https:example.com", SubjectError::Scheme),
            ("MAILTO:push@example.com", SubjectError::Scheme),
            ("mailto: push@example.com", SubjectError::Character),
            ("mailto:push@example.com\n", SubjectError::Character),
            ("mailto:<push@example.com>", SubjectError::Character),
            ("https://example.com/a b", SubjectError::Character),
            ("mailto:", SubjectError::Address),
            ("mailto:push", SubjectError::Address),
            ("mailto:@example.com", SubjectError::Address),
            ("mailto:a@b@example.com", SubjectError::Address),
            ("mailto:a@example.com,b@example.com", SubjectError::Address),
            ("mailto:a@example.com?subject=x", SubjectError::Address),
            ("mailto:push@", SubjectError::Host),
            ("mailto:push@server", SubjectError::Host),
            ("mailto:push@127.0.0.1", SubjectError::Host),
            ("https://[::1]/", SubjectError::Host),
            ("https://", SubjectError::Host),
            ("mailto:push@localhost", SubjectError::Nowhere),
            ("mailto:push@LOCALHOST.", SubjectError::Nowhere),
            ("https://localhost/contact", SubjectError::Nowhere),
            ("https://chat.localhost:8443", SubjectError::Nowhere),
            ("mailto:push@chat.local", SubjectError::Nowhere),
            ("mailto:push@example.invalid", SubjectError::Nowhere),
        ] {
            assert_eq!(check_subject(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_key_is_accepted_in_each_format_that_tools_write() {
        let key = SigningKey::from_pkcs8_pem(PKCS8).unwrap();
        let raw = key.to_bytes();
        let (url_safe, standard) = (BASE64_URL_SAFE_NO_PAD.encode(raw), BASE64_STANDARD.encode(raw));
        assert!(
            url_safe.contains(['-', '_']) && standard.contains(['+', '/']),
            "the key shows the difference of both alphabets"
        );
        let on_one_line = |pem: &str| pem.replace('\n', "\\n");
        let without_curve = &SEC1[SEC1.find("-----BEGIN EC PRIVATE").unwrap()..];
        for written in [
            SEC1,
            without_curve,
            PKCS8,
            &on_one_line(SEC1),
            &on_one_line(PKCS8),
            &url_safe,
            &format!("{url_safe}="),
            &standard,
            standard.trim_end_matches('='),
        ] {
            assert!(signing_key(written.trim()) == Some(key.clone()), "{written}");
        }
        for bad in ["", "?", "AAAA", "-----BEGIN EC PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\\n"] {
            assert!(signing_key(bad).is_none(), "{bad}");
        }
    }
}
