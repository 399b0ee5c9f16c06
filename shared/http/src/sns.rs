//! Amazon SNS as a caller: its messages, and their signatures ("Verifying the signatures of Amazon SNS messages").

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_settings::{Environment, SettingError};
use pushlark_telemetry::Causes;
use reqwest::Url;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use webpki::EndEntityCert;

use crate::Problem;
use crate::fetch::Fetch;
use crate::json::read_json;

/// The header by which a request of SNS is known, and that says what it is.
pub const MESSAGE_TYPE: &str = "x-amz-sns-message-type";

/// How many keys are kept; a region has one certificate, and a new one about once a year.
const MAX_KEYS: usize = 16;

/// What a topic's messages tell, by the names of MongooseIM's `mod_event_pusher_sns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicKind {
    /// `presence_updates_topic`
    Presence,
    /// `pm_messages_topic`
    PrivateMessages,
    /// `muc_messages_topic`
    GroupMessages,
}

/// The topics whose messages are taken.
#[derive(Debug, Clone, Default)]
pub struct Topics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    topics: Vec<(String, TopicKind)>,
    /// Where SNS is, if not where it says.
    endpoint: Option<Url>,
    fetch: Fetch,
    /// Public keys by the URL of their certificate, behind which there is never another one.
    keys: Mutex<HashMap<String, Vec<u8>>>,
}

/// A message as SNS posts it, or hands it to a Lambda function.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct SnsMessage {
    pub r#type: String,
    pub message_id: String,
    pub topic_arn: String,
    pub message: String,
    pub timestamp: String,
    subject: Option<String>,
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: Option<String>,
    signature_version: Option<String>,
    signature: Option<String>,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: Option<String>,
}

impl SnsMessage {
    /// Reads the body of a request of SNS.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        read_json(body).map_err(|error| format!("expected a message of SNS: {error}"))
    }

    /// What is signed: these fields, each by its name and its value.
    fn signed(&self) -> String {
        let subscription = self.r#type != "Notification";
        let field = |name: &'static str, value: &Option<String>| value.clone().map(|value| (name, value));
        let fields = [
            Some(("Message", self.message.clone())),
            Some(("MessageId", self.message_id.clone())),
            field("SubscribeURL", &self.subscribe_url).filter(|_| subscription),
            field("Subject", &self.subject).filter(|_| !subscription),
            Some(("Timestamp", self.timestamp.clone())),
            field("Token", &self.token).filter(|_| subscription),
            Some(("TopicArn", self.topic_arn.clone())),
            Some(("Type", self.r#type.clone())),
        ];
        fields.into_iter().flatten().map(|(name, value)| format!("{name}\n{value}\n")).collect()
    }
}

impl Topics {
    /// From `SNS_PRESENCE_TOPIC`, `SNS_PM_TOPIC` and `SNS_MUC_TOPIC`, the ARN of a topic each, and
    /// `AWS_ENDPOINT_URL_SNS`, where SNS is reached in a VPC without Internet.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let mut topics = Vec::new();
        for (setting, kind) in [
            ("SNS_PRESENCE_TOPIC", TopicKind::Presence),
            ("SNS_PM_TOPIC", TopicKind::PrivateMessages),
            ("SNS_MUC_TOPIC", TopicKind::GroupMessages),
        ] {
            let Some(arn) = environment.text(setting).map(str::trim) else { continue };
            if host(arn).is_none() {
                return Err(SettingError::invalid(setting, format!("{arn:?} is not the ARN of an SNS topic")));
            }
            if topics.iter().any(|(other, _)| other == arn) {
                return Err(SettingError::invalid(setting, "it is the topic of another setting, too"));
            }
            topics.push((arn.to_owned(), kind));
        }
        let endpoint = environment.get("AWS_ENDPOINT_URL_SNS")?;
        Ok(Self(Arc::new(Inner { topics, endpoint, fetch: Fetch::default(), keys: Mutex::default() })))
    }

    /// What the messages of a topic tell; `None` for a topic that is not one of the settings'.
    pub fn kind(&self, arn: &str) -> Option<TopicKind> {
        self.0.topics.iter().find(|(topic, _)| topic == arn).map(|(_, kind)| *kind)
    }

    /// Checks that a request is of SNS and of one of the topics.
    pub(crate) async fn verify(&self, body: &[u8]) -> Result<(), Problem> {
        let message = SnsMessage::read(body).map_err(Problem::unauthorized)?;
        let Some(host) = self.kind(&message.topic_arn).and_then(|_| host(&message.topic_arn)) else {
            return Err(Problem::unauthorized(format!(
                "{:?} is none of the SNS topics that are set",
                message.topic_arn
            )));
        };
        let wrong = || Problem::unauthorized("the signature of SNS is not valid");
        let algorithm = match message.signature_version.as_deref() {
            Some("1") => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Some("2") => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(Problem::unauthorized("the SignatureVersion of SNS must be 1 or 2")),
        };
        let signature = message.signature.as_ref().and_then(|signature| BASE64_STANDARD.decode(signature).ok());
        let signature = signature.ok_or_else(wrong)?;
        let url = message.signing_cert_url.as_deref().and_then(|url| of_sns(url, &host));
        let url = url.filter(|url| url.path().ends_with(".pem") && url.query().is_none()).ok_or_else(|| {
            Problem::unauthorized(format!("the SigningCertURL must be that of a certificate at https://{host}"))
        })?;
        let key = UnparsedPublicKey::new(algorithm, self.key(url).await?);
        key.verify(message.signed().as_bytes(), &signature).map_err(|_| wrong())
    }

    /// Confirms a subscription that SNS was asked for: a message of the type `SubscriptionConfirmation`, verified.
    pub async fn confirm(&self, message: &SnsMessage) -> Result<(), Problem> {
        let host = host(&message.topic_arn).unwrap_or_default();
        let url = message.subscribe_url.as_deref().and_then(|url| of_sns(url, &host));
        let url =
            url.ok_or_else(|| Problem::bad_request(format!("the SubscribeURL must be a URL at https://{host}")))?;
        self.0.fetch.get(self.at_endpoint(url)).await.map_err(|error| {
            tracing::error!(topic = message.topic_arn, error = %Causes(&error), "subscription not confirmed");
            Problem::unavailable()
        })?;
        tracing::info!(topic = message.topic_arn, "subscription confirmed");
        Ok(())
    }

    async fn key(&self, certificate: Url) -> Result<Vec<u8>, Problem> {
        let name = certificate.to_string();
        // A panic while it was locked would leave it whole.
        let keys = || self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys().get(&name) {
            return Ok(key.clone());
        }
        let pem = self.0.fetch.get(self.at_endpoint(certificate)).await.map_err(|error| {
            tracing::error!(error = %Causes(&error), "the certificate of SNS cannot be had");
            Problem::unavailable()
        })?;
        let key = public_key(&pem).ok_or_else(|| Problem::unauthorized("the certificate of SNS cannot be read"))?;
        let mut keys = keys();
        if keys.len() == MAX_KEYS {
            keys.clear();
        }
        keys.insert(name, key.clone());
        Ok(key)
    }

    fn at_endpoint(&self, url: Url) -> Url {
        match &self.0.endpoint {
            Some(endpoint) => {
                let mut there = endpoint.clone();
                there.set_path(url.path());
                there.set_query(url.query());
                there
            }
            None => url,
        }
    }
}

/// The host of SNS for a topic: of its own region.
fn host(topic_arn: &str) -> Option<String> {
    let mut parts = topic_arn.split(':');
    let ["arn", partition, "sns", region, account, name] = std::array::from_fn(|_| parts.next().unwrap_or_default())
    else {
        return None;
    };
    let is_region = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.is_empty() || !region.chars().all(is_region) || account.is_empty() || name.is_empty() {
        return None;
    }
    let suffix = if partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
    Some(format!("sns.{region}.{suffix}"))
}

fn of_sns(url: &str, host: &str) -> Option<Url> {
    let url = Url::parse(url).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.port().is_none();
    (url.scheme() == "https" && url.host_str() == Some(host) && is_plain).then_some(url)
}

fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    let certificate = EndEntityCert::try_from(&certificate).ok()?;
    Some(certificate.subject_public_key_info().to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_sns_in_the_topics_region_are_taken() {
        let host = host("arn:aws:sns:eu-west-1:123456789012:messages").unwrap();
        assert_eq!(host, "sns.eu-west-1.amazonaws.com");
        assert!(of_sns("https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem", &host).is_some());
        for url in [
            "http://sns.eu-west-1.amazonaws.com/c.pem",
            "https://sns.us-east-1.amazonaws.com/c.pem",
            "https://sns.eu-west-1.amazonaws.com.evil.example/c.pem",
            "https://evil.example/sns.eu-west-1.amazonaws.com/c.pem",
            "https://sns.eu-west-1.amazonaws.com@evil.example/c.pem",
            "https://evil@sns.eu-west-1.amazonaws.com/c.pem",
            "https://sns.eu-west-1.amazonaws.com:8443/c.pem",
            "https://s3.eu-west-1.amazonaws.com/c.pem",
            "/c.pem",
        ] {
            assert!(of_sns(url, &host).is_none(), "{url}");
        }
    }

    #[test]
    fn a_topic_is_an_arn() {
        for arn in ["messages", "arn:aws:sqs:eu-west-1:1:q", "arn:aws:sns:evil.example/:1:t", "arn:aws:sns::1:t"] {
            assert_eq!(host(arn), None, "{arn}");
        }
        assert_eq!(host("arn:aws-cn:sns:cn-north-1:1:t").unwrap(), "sns.cn-north-1.amazonaws.com.cn");
    }
}
