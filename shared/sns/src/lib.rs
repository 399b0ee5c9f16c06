//! Messages of Amazon SNS and their signatures ("Verifying the signatures of Amazon SNS messages").

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pushlark_fetch::{Fetch, FetchError};
use pushlark_http_client::Tls;
use pushlark_json::read_json;
use pushlark_settings::catalogue::{AWS_ENDPOINT_URL_SNS, SNS_MUC_TOPIC, SNS_PM_TOPIC, SNS_PRESENCE_TOPIC};
use pushlark_settings::{Environment, HttpUrl, SettingError};
use reqwest::Url;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::value::RawValue;
use webpki::EndEntityCert;

/// The header of every HTTP request of SNS, in lower case. Its value is the type of the message.
pub const MESSAGE_TYPE: &str = "x-amz-sns-message-type";

/// The maximum number of cached keys. A region has one certificate, and a new one about once a year.
const MAX_KEYS: usize = 16;

/// The kind of events in a topic, named after the options of MongooseIM's `mod_event_pusher_sns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicKind {
    /// `presence_updates_topic`: sessions that become online or offline.
    Presence,
    /// `pm_messages_topic`: messages to one user.
    PrivateMessages,
    /// `muc_messages_topic`: messages in a room.
    GroupMessages,
}

/// The topics whose messages are accepted, and the cached keys of SNS. Clones share the cache.
#[derive(Debug, Clone, Default)]
pub struct Topics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    topics: Vec<(String, TopicKind)>,
    /// The base URL of requests to SNS, if it is not the public host of SNS.
    endpoint: Option<Url>,
    fetch: Fetch,
    /// Public keys by the URL of their certificate. SNS never changes the certificate at a URL.
    keys: Mutex<HashMap<String, Vec<u8>>>,
}

/// A message of one of the [`Topics`]. SNS has signed it, or has invoked the function with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnsMessage {
    /// A message that was published to the topic.
    Notification(SnsNotification),
    /// A subscription of the function's URL, which [`Topics::confirm`] must confirm.
    SubscriptionConfirmation(SnsSubscription),
    /// The end of a subscription.
    UnsubscribeConfirmation(SnsSubscription),
}

/// A message that was published to a topic. Only [`Topics`] creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnsNotification {
    /// The kind of events in the topic.
    pub kind: TopicKind,
    /// `MessageId`, a UUID that is the same in each delivery of the message.
    pub message_id: String,
    /// `Message`, the published text.
    pub message: String,
    /// `Timestamp`, the time of publication in the format of RFC 3339.
    pub timestamp: String,
}

/// A subscription to a topic. Only [`Topics`] creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnsSubscription {
    /// `TopicArn`, one of the configured ARNs.
    pub topic_arn: String,
    subscribe_url: Option<String>,
}

/// The JSON of an SNS message, in the body of an HTTP request or in a record of a Lambda event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    r#type: EnvelopeType,
    message_id: SingleLine,
    topic_arn: SingleLine,
    message: String,
    timestamp: SingleLine,
    subject: Option<String>,
    token: Option<SingleLine>,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: Option<SingleLine>,
    signature_version: Option<String>,
    signature: Option<String>,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum EnvelopeType {
    Notification,
    SubscriptionConfirmation,
    UnsubscribeConfirmation,
}

/// A text without line breaks. Line breaks separate the names and values in the text that SNS signs, so a value with a
/// line break could forge other fields.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct SingleLine(String);

/// The event of a Lambda function that is subscribed to a topic ("Using AWS Lambda with Amazon SNS").
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SnsInvocation {
    records: Vec<SnsInvocationRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SnsInvocationRecord {
    event_source: String,
    sns: Option<Box<RawValue>>,
}

/// An SNS message that was not accepted, or a subscription that was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum SnsError {
    /// The text is not an SNS message. The sender must change it. Contains the reason for the sender.
    #[error("expected an SNS message: {0}")]
    NotMessage(String),
    /// SNS has not signed the message, or the topic is not one of the [`Topics`]. A retry fails in the same way.
    /// Contains the reason for the log.
    #[error("{0}")]
    Refused(&'static str),
    /// The certificate of SNS cannot be fetched now. A later retry may succeed.
    #[error("the certificate of SNS cannot be fetched")]
    NoCertificate(#[source] FetchError),
    /// The `SubscribeURL` is not an HTTPS URL at this host. A retry fails in the same way.
    #[error("the SubscribeURL must be a URL at https://{0}")]
    SubscribeUrl(String),
    /// SNS did not confirm the subscription. A later retry may succeed.
    #[error("the subscription cannot be confirmed")]
    NotConfirmed(#[source] FetchError),
}

impl Topics {
    /// Reads `SNS_PRESENCE_TOPIC`, `SNS_PM_TOPIC` and `SNS_MUC_TOPIC`, each the ARN of a topic, and
    /// `AWS_ENDPOINT_URL_SNS`, the URL of SNS in a VPC without Internet access; and `EXTRA_CA_FILE`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let mut topics = Vec::new();
        for (setting, kind) in [
            (&SNS_PRESENCE_TOPIC, TopicKind::Presence),
            (&SNS_PM_TOPIC, TopicKind::PrivateMessages),
            (&SNS_MUC_TOPIC, TopicKind::GroupMessages),
        ] {
            let Some(arn) = environment.value(setting)? else { continue };
            if host(arn).is_none() {
                let expected = "the ARN of an SNS topic, such as arn:aws:sns:eu-west-1:123456789012:messages";
                return Err(setting.invalid(format!("{arn:?} is not {expected}")));
            }
            if topics.iter().any(|(other, _)| other == arn) {
                return Err(setting.invalid("another setting has the same topic"));
            }
            topics.push((arn.to_owned(), kind));
        }
        let endpoint = environment.get(&AWS_ENDPOINT_URL_SNS)?.map(|HttpUrl(url)| url);
        let fetch = Fetch::new(Tls::from_environment(environment)?);
        Ok(Self(Arc::new(Inner { topics, endpoint, fetch, keys: Mutex::default() })))
    }

    /// Reads an SNS message from the body of an HTTP request, and verifies its signature.
    pub async fn verify(&self, body: &[u8]) -> Result<SnsMessage, SnsError> {
        let envelope: Envelope = read_json(body).map_err(SnsError::NotMessage)?;
        self.verified(envelope).await
    }

    /// Reads the notifications in the event of a Lambda function that is subscribed to a topic. Returns `None` if the
    /// payload is not an event from SNS.
    pub fn delivered(&self, payload: &RawValue) -> Option<Result<Vec<SnsMessage>, SnsError>> {
        let SnsInvocation { records } = serde_json::from_str(payload.get()).ok()?;
        let is_of_sns = records.iter().any(|record| record.event_source == "aws:sns");
        let read = |record: SnsInvocationRecord| {
            let sns = record.sns.ok_or_else(|| SnsError::NotMessage("a record has no Sns".into()))?;
            let envelope = serde_json::from_str(sns.get());
            match self.accept(envelope.map_err(|error| SnsError::NotMessage(error.to_string()))?)? {
                notification @ SnsMessage::Notification(_) => Ok(notification),
                _ => Err(SnsError::NotMessage("it is not a Notification".into())),
            }
        };
        is_of_sns.then(|| records.into_iter().map(read).collect())
    }

    /// Confirms a subscription by a GET request to its `SubscribeURL`.
    pub async fn confirm(&self, subscription: &SnsSubscription) -> Result<(), SnsError> {
        let SnsSubscription { topic_arn, subscribe_url } = subscription;
        let host = host(topic_arn).unwrap_or_default();
        let url = subscribe_url.as_deref().and_then(|url| of_sns(url, &host));
        let url = url.ok_or(SnsError::SubscribeUrl(host))?;
        self.0.fetch.get(self.at_endpoint(url)).await.map_err(SnsError::NotConfirmed)?;
        tracing::info!(topic = topic_arn, "subscription confirmed");
        Ok(())
    }

    async fn verified(&self, envelope: Envelope) -> Result<SnsMessage, SnsError> {
        let topic_arn = &envelope.topic_arn.0;
        let host = self.kind(topic_arn).and_then(|_| host(topic_arn)).ok_or(UNKNOWN_TOPIC)?;
        let algorithm = match envelope.signature_version.as_deref() {
            Some("1") => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Some("2") => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err(SnsError::Refused("the SignatureVersion is neither 1 nor 2")),
        };
        let signature = envelope.signature.as_ref().and_then(|signature| BASE64_STANDARD.decode(signature).ok());
        let signature = signature.ok_or(SnsError::Refused("the Signature is not base64"))?;
        let url = envelope.signing_cert_url.as_deref().and_then(|url| of_sns(url, &host));
        let url = url
            .filter(|url| url.path().ends_with(".pem") && url.query().is_none())
            .ok_or(SnsError::Refused("the SigningCertURL is not a URL of SNS certificates in the topic's region"))?;
        let key = UnparsedPublicKey::new(algorithm, self.key(url).await?);
        key.verify(envelope.signed().as_bytes(), &signature)
            .map_err(|_| SnsError::Refused("the Signature is not valid"))?;
        self.accept(envelope)
    }

    /// Returns the message in an authenticated envelope, if its topic is configured.
    fn accept(&self, envelope: Envelope) -> Result<SnsMessage, SnsError> {
        let Envelope { r#type, message_id, topic_arn, message, timestamp, subscribe_url, .. } = envelope;
        let kind = self.kind(&topic_arn.0).ok_or(UNKNOWN_TOPIC)?;
        let subscription =
            || SnsSubscription { topic_arn: topic_arn.0, subscribe_url: subscribe_url.map(|SingleLine(url)| url) };
        Ok(match r#type {
            EnvelopeType::Notification => SnsMessage::Notification(SnsNotification {
                kind,
                message_id: message_id.0,
                message,
                timestamp: timestamp.0,
            }),
            EnvelopeType::SubscriptionConfirmation => SnsMessage::SubscriptionConfirmation(subscription()),
            EnvelopeType::UnsubscribeConfirmation => SnsMessage::UnsubscribeConfirmation(subscription()),
        })
    }

    fn kind(&self, arn: &str) -> Option<TopicKind> {
        self.0.topics.iter().find(|(topic, _)| topic == arn).map(|(_, kind)| *kind)
    }

    async fn key(&self, certificate: Url) -> Result<Vec<u8>, SnsError> {
        let name = certificate.to_string();
        // A panic while the lock is held leaves the map valid.
        let keys = || self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys().get(&name) {
            return Ok(key.clone());
        }
        let pem = self.0.fetch.get(self.at_endpoint(certificate)).await.map_err(|error| match error {
            // SNS has no such certificate, so a retry is useless.
            FetchError::Status(status) if status.is_client_error() => SnsError::Refused("there is no such certificate"),
            error => SnsError::NoCertificate(error),
        })?;
        let key = public_key(&pem).ok_or(SnsError::Refused("the certificate cannot be read"))?;
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

const UNKNOWN_TOPIC: SnsError = SnsError::Refused("the topic is not one of the configured SNS topics");

impl Envelope {
    /// Returns the text that SNS signs: a line with the name and a line with the value of each of these fields.
    fn signed(&self) -> String {
        let is_notification = self.r#type == EnvelopeType::Notification;
        let line = |name, line: &Option<SingleLine>| line.as_ref().map(|SingleLine(value)| (name, value.clone()));
        let fields = [
            Some(("Message", self.message.clone())),
            Some(("MessageId", self.message_id.0.clone())),
            line("SubscribeURL", &self.subscribe_url).filter(|_| !is_notification),
            self.subject.clone().map(|subject| ("Subject", subject)).filter(|_| is_notification),
            Some(("Timestamp", self.timestamp.0.clone())),
            line("Token", &self.token).filter(|_| !is_notification),
            Some(("TopicArn", self.topic_arn.0.clone())),
            Some(("Type", self.r#type.as_str().to_owned())),
        ];
        fields.into_iter().flatten().map(|(name, value)| format!("{name}\n{value}\n")).collect()
    }
}

impl EnvelopeType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Notification => "Notification",
            Self::SubscriptionConfirmation => "SubscriptionConfirmation",
            Self::UnsubscribeConfirmation => "UnsubscribeConfirmation",
        }
    }
}

impl TryFrom<String> for SingleLine {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.contains(['\n', '\r']) {
            Err("a field other than Message and Subject has a line break")
        } else {
            Ok(Self(text))
        }
    }
}

/// Returns the host of SNS in the topic's region, or `None` if `topic_arn` is not the ARN of an SNS topic.
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
    fn only_urls_of_sns_in_the_topics_region_are_accepted() {
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
    fn a_topic_must_be_the_arn_of_an_sns_topic() {
        for arn in ["messages", "arn:aws:sqs:eu-west-1:1:q", "arn:aws:sns:evil.example/:1:t", "arn:aws:sns::1:t"] {
            assert_eq!(host(arn), None, "{arn}");
        }
        assert_eq!(host("arn:aws-cn:sns:cn-north-1:1:t").unwrap(), "sns.cn-north-1.amazonaws.com.cn");
    }
}
