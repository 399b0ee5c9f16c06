//! Amazon SNS for a subscriber: it publishes its certificate, signs messages, and receives confirmations.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use axum::http::Method;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use p256::elliptic_curve::pkcs8::SecretDocument;
use serde_json::Value;

use crate::{Answer, Double};

/// A message that is signed with SHA-1, which is the default of a topic (`SignatureVersion` 1).
pub const SNS_SIGNED_BY_SHA1: &str = include_str!("../../fixtures/sns/sns-signed-by-sha1.json");

/// The double of SNS in all regions.
#[derive(Clone)]
pub struct Sns(Double);

impl std::ops::Deref for Sns {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.0
    }
}

impl Sns {
    /// Starts the double on a free port of the loopback address.
    pub async fn start() -> Self {
        let check = |_: &str, request: &crate::Request| {
            let is_certificate = request.method == Method::GET && request.path.ends_with(".pem");
            let body = if is_certificate {
                include_str!("../../fixtures/sns/sns.pem")
            } else {
                "<ConfirmSubscriptionResponse/>"
            };
            (request.path.clone(), Answer::text(200, body))
        };
        Self(Double::start(100, check).await)
    }

    /// Returns the text that SNS signs for a message.
    pub fn signed_text(message: &Value) -> String {
        let names: &[&str] = match message["Type"].as_str() {
            Some("Notification") => &["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"],
            _ => &["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"],
        };
        names.iter().filter_map(|name| Some(format!("{name}\n{}\n", message[*name].as_str()?))).collect()
    }

    /// Replaces the signature of a message by one with SHA-256 (`SignatureVersion` 2).
    pub fn signed(mut message: Value) -> Value {
        message["SignatureVersion"] = "2".into();
        message["SigningCertURL"] = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-2.pem".into();
        let text = Self::signed_text(&message);
        let (_, key) = SecretDocument::from_pem(include_str!("../../fixtures/sns/sns-key.p8")).unwrap();
        let key = KeyPair::from_pkcs8(key.as_bytes()).unwrap();
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        message["Signature"] = BASE64_STANDARD.encode(signature).into();
        message
    }
}
