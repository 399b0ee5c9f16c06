//! Web Push (RFC 8030), encrypted for the device (RFC 8291) and signed (RFC 8292), for browsers and UnifiedPush.

mod base64url;
mod encryption;
pub mod endpoint;
mod vapid;

pub use endpoint::{EndpointError, TrustedOrigins};
pub use vapid::{VapidCredentials, VapidError};

use std::error::Error;
use std::time::Duration;

use base64::Engine;
use futures_util::future::BoxFuture;
use p256::EncodedPoint;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use pushlark_model::{Payload, Priority, PublishOptions};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::provider::{ProviderClient, ProviderResult};
use crate::http_client::{HttpClient, failure, outcome, unanswered};
use crate::notification::Notification;
use crate::outcome::{Failure, FailureScope, Outcome};
use crate::truncate::truncate;
use base64url::BASE64_URL;
use encryption::{SubscriptionKeys, encrypt};
use endpoint::NotPublicError;
use vapid::Vapid;

/// The longest plaintext, in bytes (RFC 8291, section 4): a push service need not accept more than 4,096 bytes of
/// ciphertext (RFC 8030, section 7.2).
const MAX_PLAINTEXT: usize = 3_993;
/// The longest plaintext for Mozilla's push service, in bytes. It forwards notifications for Firefox on Android to FCM,
/// in base64 and JSON, and accepts 2,744 bytes of ciphertext for them (autopush, "HTTP endpoints"). An endpoint does
/// not show whether the subscription is Android's.
const MAX_PLAINTEXT_AT_MOZILLA: usize = 2_600;
/// Plaintexts are padded to a multiple of this number of bytes, or to the limit, so that push services cannot see the
/// length of a text.
const PADDING_STEP: usize = 1_024;
/// The longest time to live: four weeks. Google and Microsoft answer 400 above it.
const MAX_TIME_TO_LIVE: Duration = Duration::from_hours(28 * 24);
/// The maximum number of bytes of an error response that are read.
const MAX_ERROR_TEXT: usize = 1_024;
/// The texts of Apple (400), Mozilla (401) and Google (403) for a subscription that was made for another key than ours.
const OTHER_KEY: [&str; 3] =
    ["VapidPkHashMismatch", "VAPID public key mismatch", "do not correspond to the credentials used to create"];
/// The HTTP clients that all apps share.
#[derive(Clone)]
pub struct WebPushClients {
    /// For trusted origins, at any address.
    pub trusted: HttpClient,
    /// For all other endpoints: public addresses only.
    pub public: HttpClient,
}

/// The Web Push client of one app.
pub struct WebPush {
    clients: WebPushClients,
    trusted_origins: TrustedOrigins,
    vapid: Vapid,
}

/// The endpoint of a device, and the keys to encrypt for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    endpoint: Url,
    p256dh: EncodedPoint,
    auth: [u8; 16],
}

/// A form that is not a Web Push subscription. The client must correct it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// The field of this name is missing or empty.
    #[error("the form has no field {0:?}")]
    Missing(&'static str),
    /// The endpoint is not allowed.
    #[error("the form's field \"endpoint\" cannot be used: {0}")]
    Endpoint(#[from] EndpointError),
    /// The field of this name is not such a key.
    #[error("the form's field {0:?} must be {1} in base64url")]
    Key(&'static str, &'static str),
}

impl Subscription {
    /// Reads the form's fields `endpoint`, `p256dh` and `auth` from a browser's `PushSubscription` (W3C Push API).
    pub fn new(options: &PublishOptions, trusted_origins: &TrustedOrigins) -> Result<Self, SubscriptionError> {
        let require = |name| options.given(name).ok_or(SubscriptionError::Missing(name));
        let endpoint = trusted_origins.endpoint(require("endpoint")?)?;
        let key = SubscriptionError::Key("p256dh", "a point of P-256");
        let p256dh = BASE64_URL.decode(require("p256dh")?).map_err(|_| key)?;
        let p256dh = p256::PublicKey::from_sec1_bytes(&p256dh).map_err(|_| key)?;
        let key = SubscriptionError::Key("auth", "16 bytes");
        let auth = BASE64_URL.decode(require("auth")?).map_err(|_| key)?;
        let auth = auth.try_into().map_err(|_| key)?;
        Ok(Self { endpoint, p256dh: p256dh.to_encoded_point(false), auth })
    }

    /// Returns whether the host of the push service is `domain` or a subdomain.
    fn is_at(&self, domain: &str) -> bool {
        let host = self.endpoint.host_str().unwrap_or_default().trim_end_matches('.');
        host.strip_suffix(domain).is_some_and(|below| below.is_empty() || below.ends_with('.'))
    }

    /// Returns whether it is Microsoft's push service, which Edge on Windows uses.
    fn is_at_microsoft(&self) -> bool {
        self.is_at("notify.windows.com")
    }

    /// Returns the longest plaintext that the push service accepts, in bytes.
    fn max_plaintext(&self) -> usize {
        if self.is_at("push.services.mozilla.com") { MAX_PLAINTEXT_AT_MOZILLA } else { MAX_PLAINTEXT }
    }
}

impl WebPush {
    pub fn new(
        credentials: VapidCredentials,
        clients: WebPushClients,
        trusted_origins: TrustedOrigins,
    ) -> Result<Self, VapidError> {
        Ok(Self { clients, trusted_origins, vapid: Vapid::new(credentials)? })
    }

    async fn send(&self, notification: Notification<'_>) -> ProviderResult {
        let subscription = match Subscription::new(&notification.registration.options, &self.trusted_origins) {
            Ok(subscription) => subscription,
            Err(invalid) => return Ok(Outcome::Refused(invalid.to_string())),
        };
        let limit = subscription.max_plaintext();
        let build = |payload: &Payload| text(Notification { payload: payload.into(), ..notification });
        let text = match truncate(limit, notification.payload, build) {
            Ok(text) => text,
            Err(too_large) => return Ok(Outcome::Refused(too_large.to_string())),
        };
        let length = padded(text.len(), limit);
        let mut answer = self.post(notification, &subscription, &text, length).await;
        // Some push services accept less than they must, and do not report their limit.
        if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::PAYLOAD_TOO_LARGE)
            && let Ok(text) = truncate(length / 2, notification.payload, build)
        {
            answer = self.post(notification, &subscription, &text, padded(text.len(), length / 2)).await;
        }
        Ok(match answer {
            Ok(response) => outcome_of(response, &subscription).await,
            Err(outcome) => outcome,
        })
    }

    /// Posts a text, padded to `length` bytes. The error is the outcome of a publish without an answer.
    async fn post(
        &self,
        notification: Notification<'_>,
        subscription: &Subscription,
        text: &[u8],
        length: usize,
    ) -> Result<Response, Outcome> {
        let Subscription { endpoint, p256dh, auth } = subscription;
        let recipient = SubscriptionKeys { p256dh: p256dh.as_bytes(), auth };
        let body = encrypt(text, length, recipient)
            .map_err(|_| Outcome::Refused("the notification cannot be encrypted".into()))?;
        let urgency = match notification.priority() {
            _ if notification.payload.call().is_some() => "high",
            _ if notification.payload.is_read() => "normal",
            Some(Priority::High) => "high",
            Some(Priority::Normal) | None => "normal",
        };
        let time_to_live = notification.time_to_live().min(MAX_TIME_TO_LIVE).as_secs();
        let authorization = self.vapid.authorization(endpoint, OffsetDateTime::now_utc());
        let request = |client: &reqwest::Client| {
            let request = client
                .post(endpoint.clone())
                .header(AUTHORIZATION, &authorization)
                .header("TTL", time_to_live)
                .header("Urgency", urgency)
                // It replaces an earlier notification with the same topic that still waits for the device.
                .header("Topic", notification.collapse_id(32))
                .header(CONTENT_ENCODING, "aes128gcm")
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(body.clone());
            // Microsoft requires this header to agree with `TTL` ("Push notification service request and response
            // headers").
            match (subscription.is_at_microsoft(), time_to_live) {
                (false, _) => request,
                (true, 0) => request.header("X-WNS-Cache-Policy", "no-cache"),
                (true, _) => request.header("X-WNS-Cache-Policy", "cache"),
            }
        };
        let client = if self.trusted_origins.has(endpoint) { &self.clients.trusted } else { &self.clients.public };
        client.send(request).await.map_err(|error| match is_not_public(&error) {
            true => Outcome::Refused(EndpointError::from(NotPublicError).to_string()),
            false if error.is_connect() => Failure { scope: FailureScope::Unreachable, ..unanswered(error) }.into(),
            false => unanswered(error).into(),
        })
    }
}

impl ProviderClient for WebPush {
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, ProviderResult> {
        Box::pin(self.send(notification))
    }
}

/// Returns the origin of a registration's endpoint; empty if the endpoint is not a URL.
pub fn origin(options: &PublishOptions) -> String {
    let endpoint = Url::parse(options.get("endpoint").unwrap_or_default());
    endpoint.map(|endpoint| endpoint.origin().ascii_serialization()).unwrap_or_default()
}

/// Returns the length of a plaintext of `length` bytes with its padding: at most `limit`.
fn padded(length: usize, limit: usize) -> usize {
    length.next_multiple_of(PADDING_STEP).min(limit)
}

/// Returns the plaintext for the app: a JSON object of the payload's fields, the badge if it is another number, and what
/// a presentation sets for the app.
fn text(notification: Notification<'_>) -> Vec<u8> {
    let Notification { payload, badge, .. } = notification;
    let mut fields: Map<String, Value> = payload.fields().map(|(name, value)| (name.into(), value.into())).collect();
    fields.extend(badge.map(|badge| ("badge".into(), badge.to_string().into())));
    if let Some(presentation) = notification.presentation {
        let texts = [
            ("title", notification.title().map(Into::into)),
            ("sound", presentation.sound.as_ref().map(|sound| sound.as_str().into())),
            ("interruption_level", notification.interruption_level().map(Into::into)),
            ("channel_id", notification.channel_id().map(Into::into)),
            ("tag", notification.tag().map(Value::from)),
        ];
        fields.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?))));
    }
    Value::from(fields).to_string().into_bytes()
}

async fn outcome_of(mut response: Response, subscription: &Subscription) -> Outcome {
    let (status, headers) = (response.status(), response.headers());
    let reason = format!("status {}", status.as_u16());
    let is_at_microsoft = subscription.is_at_microsoft();
    // Microsoft sends this header with any status, and drops the notification.
    if is_at_microsoft && headers.get("x-wns-status").is_some_and(|status| status == "channelthrottled") {
        return failure(format!("{reason}, channelthrottled"), headers, FailureScope::Device).into();
    }
    match status {
        StatusCode::NOT_FOUND => Outcome::Gone(reason),
        // Push services limit the rate of each subscription.
        StatusCode::TOO_MANY_REQUESTS => failure(reason, headers, FailureScope::Device).into(),
        // Microsoft limits the rate of all our notifications ("the cloud service exceeded its throttle limit").
        StatusCode::NOT_ACCEPTABLE if is_at_microsoft => failure(reason, headers, FailureScope::Service).into(),
        StatusCode::NOT_ACCEPTABLE if headers.contains_key(RETRY_AFTER) => {
            failure(reason, headers, FailureScope::Device).into()
        }
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let text = beginning(&mut response).await;
            let is_of_other_key = OTHER_KEY.iter().any(|known| text.contains(known));
            // Apple's `BadJwtToken` and Google's `invalid JWT provided` concern our signature, such as a wrong clock.
            let is_of_token = text.to_ascii_lowercase().contains("jwt");
            if is_of_other_key || status == StatusCode::FORBIDDEN && !is_of_token {
                return Outcome::Suspect(format!("{reason}: the subscription may be for another key"));
            }
            Outcome::Refused(reason)
        }
        _ => outcome(status, headers, reason),
    }
}

/// Returns the beginning of an error response's text, after the text that Microsoft sends in a header. A user may have
/// chosen the server, so no more of the text is read, and it is neither logged nor returned to anybody.
async fn beginning(response: &mut Response) -> String {
    let mut text =
        response.headers().get("x-wns-error-description").map_or(Vec::new(), |text| text.as_bytes().to_vec());
    while text.len() < MAX_ERROR_TEXT
        && let Ok(Some(chunk)) = response.chunk().await
    {
        text.extend(chunk.iter().take(MAX_ERROR_TEXT - text.len()));
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn is_not_public(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<NotPublicError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::Arc;

    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    use pushlark_http_client::Tls;
    use pushlark_model::Registration;
    use pushlark_xmpp::BareJid;
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection};
    use serde_json::json;
    use tokio::net::TcpSocket;

    use super::*;
    use crate::http_client::ClientKind;

    /// A self-signed certificate for 127.0.0.1: `openssl req -x509`.
    const CERTIFICATE: &str = "MIIBkTCCATagAwIBAgIUZ7PfbBVMnhuMmLBA6xtRt+gm674wCgYIKoZIzj0EAwIwFDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2\
        MTEyODA1MDg1MloYDzIxMjYxMTA0MDUwODUyWjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\
        AAQOnvKrAu+ET4QZvOMgFDfgpic6XTpBVS6A0Nav2NxVQti8LKT9RvqvkkdZU+jqDBpIlea4WDOuDH3D/12FQKx0o2QwYjAdBgNV\
        HQ4EFgQUPxJkyLq+uiYnmYnHzkMatz2LBmowHwYDVR0jBBgwFoAUPxJkyLq+uiYnmYnHzkMatz2LBmowDwYDVR0TAQH/BAUwAwEB\
        /zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0kAMEYCIQCOHHXF+g2oYgBbg/oKWyxp73zw6q8ZaE7KShDzxqDARAIhAMxt\
        LMeSqxa/JHhZawyRAWlOuMTif7QpC3mpan5Tr6lk";
    const CERTIFICATE_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgASP1nY08KlRZrC7K6hI+P4uheq3Z1q5K1fTQDI+rjBWhRANCAAQO\
        nvKrAu+ET4QZvOMgFDfgpic6XTpBVS6A0Nav2NxVQti8LKT9RvqvkkdZU+jqDBpIlea4WDOuDH3D/12FQKx0";

    /// Publishes a notification to an endpoint, which may be on this machine.
    async fn outcome_at(endpoint: &str, is_trusted: bool) -> Outcome {
        let url = Url::parse(endpoint).unwrap();
        let trusted_origins =
            if is_trusted { url.origin().ascii_serialization().parse().unwrap() } else { TrustedOrigins::default() };
        let timeout = Duration::from_secs(2);
        let clients = WebPushClients {
            trusted: HttpClient::new(&Tls::default(), ClientKind::Any, timeout),
            public: HttpClient::new(&Tls::default(), ClientKind::Public, timeout),
        };
        let key = BASE64_URL_SAFE_NO_PAD.encode([1; 32]);
        let credentials = serde_json::from_value(json!({"key": key, "subject": "mailto:push@example.com"})).unwrap();
        let web_push = WebPush::new(credentials, clients, trusted_origins).unwrap();
        let p256dh = p256::SecretKey::from_slice(&[2; 32]).unwrap().public_key().to_encoded_point(false);
        let options = BTreeMap::from([
            ("endpoint".to_owned(), endpoint.to_owned()),
            ("p256dh".to_owned(), BASE64_URL_SAFE_NO_PAD.encode(p256dh)),
            ("auth".to_owned(), BASE64_URL_SAFE_NO_PAD.encode([3; 16])),
        ]);
        let user = BareJid::new("bob@example.com").unwrap();
        let options = PublishOptions::new(options).unwrap();
        let registration = Registration::new(user.clone(), "n".into(), options, 0);
        let payload = Payload::default();
        web_push.publish(Notification::for_test(&user, &registration, &payload)).await.unwrap()
    }

    fn scope(outcome: Outcome) -> FailureScope {
        let Outcome::Transient(failure) = outcome else { panic!("{outcome:?}") };
        failure.scope
    }

    #[tokio::test]
    async fn a_host_without_an_address_or_that_refuses_connections_is_unreachable() {
        for is_trusted in [true, false] {
            assert_eq!(scope(outcome_at("https://push.invalid/x", is_trusted).await), FailureScope::Unreachable);
        }
        // The socket is bound, but does not listen.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let endpoint = format!("http://{}/x", socket.local_addr().unwrap());
        assert_eq!(scope(outcome_at(&endpoint, true).await), FailureScope::Unreachable);
    }

    #[tokio::test]
    async fn a_host_that_does_not_answer_connections_is_unreachable() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // Connections that nobody accepts fill the queue; further ones are not answered.
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            waiting.push(stream);
        }
        assert_eq!(scope(outcome_at(&format!("http://{address}/x"), true).await), FailureScope::Unreachable);
    }

    /// A server with an invalid certificate may be another host than the intended one.
    #[tokio::test]
    async fn a_host_with_an_invalid_certificate_is_unreachable() {
        let certificate = CertificateDer::from(BASE64_STANDARD.decode(CERTIFICATE).unwrap());
        let key = PrivatePkcs8KeyDer::from(BASE64_STANDARD.decode(CERTIFICATE_KEY).unwrap());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate], key.into()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("https://{}/x", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
            }
        });
        let Outcome::Transient(failure) = outcome_at(&endpoint, true).await else { panic!() };
        assert_eq!(failure.scope, FailureScope::Unreachable);
        assert!(failure.reason.contains("certificate"), "{}", failure.reason);
    }

    #[tokio::test]
    async fn a_host_that_accepts_a_connection_and_does_not_answer_is_reachable() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/x", listener.local_addr().unwrap());
        assert_eq!(scope(outcome_at(&endpoint, true).await), FailureScope::Service);
    }

    #[tokio::test]
    async fn a_host_without_a_public_address_is_refused() {
        assert!(matches!(outcome_at("https://localhost/x", false).await, Outcome::Refused(_)));
    }

    #[test]
    fn plaintexts_are_padded_to_few_lengths() {
        let of = |length| padded(length, MAX_PLAINTEXT);
        assert_eq!(
            [of(1), of(1_024), of(1_025), of(3_072), of(3_073), of(3_993)],
            [1_024, 1_024, 2_048, 3_072, 3_993, 3_993]
        );
        let at_mozilla = |length| padded(length, MAX_PLAINTEXT_AT_MOZILLA);
        assert_eq!([at_mozilla(2_048), at_mozilla(2_049), at_mozilla(2_600)], [2_048, 2_600, 2_600]);
    }
}
