//! MongoosePush: a gateway to APNs and FCM with an HTTP API.

use std::borrow::Cow;
use std::time::Duration;

use futures_util::future::BoxFuture;
use pushlark_http_client::Tls;
use pushlark_model::{CallSignal, Payload, Priority, PublishOptions, Registration};
use pushlark_settings::catalogue::{MONGOOSEPUSH_API_VERSION, MONGOOSEPUSH_URL};
use pushlark_settings::{Environment, HttpUrl, SettingError};
use pushlark_xmpp::BareJid;
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::content::Content;
use crate::direct::fcm;
use crate::direct::provider::Provider;
use crate::gateway::{Gateway, PushService};
use crate::http_client::{ClientKind, HttpClient, ProviderResponse, failure, named, outcome, unanswered};
use crate::notification::Notification;
use crate::outcome::{Failure, FailureScope, Outcome};
use crate::ringing::Ringing;
use crate::truncate::send_truncated;

/// The largest request, in bytes. MongoosePush's own request to APNs or FCM may have 4,096 bytes, and is a few bytes
/// longer: in a silent notification for APNs, `{"aps":{"content-available":1}}` replaces `{"service":"apns","data":{}}`
/// (Sparrow's `apns.ex` and `android.ex`).
const MAX_MONGOOSEPUSH_REQUEST_BYTES: usize = 4_096 - 32;

/// The client of a MongoosePush server.
pub struct MongoosePush {
    http: HttpClient,
    version: ApiVersion,
    /// `<MONGOOSEPUSH_URL>/<version>/notification/`, to which the device's token is appended.
    endpoint: String,
}

/// The version of MongoosePush's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ApiVersion {
    /// Every error of APNs or FCM has the status 500.
    V2,
    /// Each error has a different status.
    V3,
}

impl MongoosePush {
    /// Reads `MONGOOSEPUSH_URL`, `MONGOOSEPUSH_API_VERSION` and `EXTRA_CA_FILE`; returns `None` without a URL.
    pub fn from_environment(environment: &Environment, timeout: Duration) -> Result<Option<Self>, SettingError> {
        let versions = [("v2", ApiVersion::V2), ("v3", ApiVersion::V3)];
        let (name, version) = environment.choice(&MONGOOSEPUSH_API_VERSION, versions)?;
        let tls = Tls::from_environment(environment)?;
        let Some(HttpUrl(url)) = environment.get(&MONGOOSEPUSH_URL)? else { return Ok(None) };
        if url.query().is_some() || url.fragment().is_some() {
            let reason = "the URL must have no query or fragment, since the path of the API is appended";
            return Err(MONGOOSEPUSH_URL.invalid(reason));
        }
        let endpoint = format!("{}/{name}/notification/", url.as_str().trim_end_matches('/'));
        Ok(Some(Self { http: HttpClient::new(&tls, ClientKind::Any, timeout), version, endpoint }))
    }

    async fn send(&self, notification: Notification<'_>) -> Outcome {
        let options = &notification.registration.options;
        let (service, device_id) = match (notification.require("service"), notification.path_segment("device_id")) {
            (Ok(service), Ok(device_id)) => (service, device_id),
            (Err(unusable), _) | (_, Err(unusable)) => return Outcome::Refused(unusable.to_string()),
        };
        if let Err(invalid) = options.check() {
            return Outcome::Refused(invalid.to_string());
        }
        let url = format!("{}{device_id}", self.endpoint);
        let remaining = notification.time_to_live();
        let build =
            |payload: &Payload| body(service, Notification { payload: payload.into(), ..notification }, remaining);
        let post = |body: Vec<u8>| self.post(&url, body);
        let is_too_large = |answer: &ProviderResponse| self.is_too_large(answer);
        match send_truncated(MAX_MONGOOSEPUSH_REQUEST_BYTES, notification.payload, build, post, is_too_large).await {
            Ok(Ok(answer)) => self.outcome(&answer),
            Ok(Err(error)) => unanswered(error).into(),
            Err(too_large) => Outcome::Refused(too_large.to_string()),
        }
    }

    async fn post(&self, url: &str, body: Vec<u8>) -> Result<ProviderResponse, reqwest::Error> {
        let request =
            |client: &reqwest::Client| client.post(url).header(CONTENT_TYPE, "application/json").body(body.clone());
        ProviderResponse::read(self.http.send(request).await?).await
    }

    /// Returns whether a status may stand for any error.
    fn hides_errors(&self, status: StatusCode) -> bool {
        self.version == ApiVersion::V2 && status == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// Returns whether the notification is too large. In v2 only Apple's reason shows it.
    fn is_too_large(&self, answer: &ProviderResponse) -> bool {
        let is_named = || reason(answer).is_some_and(|reason| reason == TOO_LARGE);
        answer.status == StatusCode::PAYLOAD_TOO_LARGE || self.hides_errors(answer.status) && is_named()
    }

    fn outcome(&self, answer: &ProviderResponse) -> Outcome {
        let status = answer.status;
        if status.is_success() {
            return Outcome::Delivered;
        }
        let reason = reason(answer);
        let described = match &reason {
            Some(reason) => format!("status {}, {}", status.as_u16(), named(reason)),
            None => format!("status {}", status.as_u16()),
        };
        if !self.hides_errors(status) {
            return outcome(status, &answer.headers, described);
        }
        match reason.as_deref() {
            // The reasons of Apple and Google for a wrong device, and the one of older versions of MongoosePush.
            Some(
                "Unregistered"
                | "BadDeviceToken"
                | "DeviceTokenNotForTopic"
                | "UNREGISTERED"
                | "SENDER_ID_MISMATCH"
                | "probably_unregistered",
            ) => Outcome::Suspect(described),
            Some(TOO_LARGE) => Outcome::Refused(described),
            _ => failure(described, &answer.headers, FailureScope::Unknown).into(),
        }
    }
}

impl Gateway for MongoosePush {
    fn publish<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, Outcome> {
        Box::pin(self.send(notification))
    }

    /// The answers about devices come from Apple and Google, so each of them counts as a separate push service.
    fn push_service<'p>(&'p self, notification: Notification<'p>) -> BoxFuture<'p, PushService> {
        let provider = Provider::of(&notification.registration.options).map_or("other", Provider::name);
        Box::pin(async move { PushService::new(format!("MongoosePush/{provider}")) })
    }

    /// Returns the URL of the API, without user and password.
    fn describe(&self, _user: &BareJid, _registration: &Registration) -> String {
        let endpoint = self.endpoint.rsplit('@').next().unwrap_or_default();
        format!("MongoosePush at {}", endpoint.trim_end_matches('/'))
    }

    fn ringing(&self, options: &PublishOptions) -> Ringing {
        Ringing::with_alerts(options)
    }

    /// Opens a connection, and accepts any answer.
    fn warm_up(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async {
            self.http.prepare().await;
            self.http.send(|client| client.head(&self.endpoint)).await.map(drop).map_err(unanswered)
        })
    }
}

/// Apple's reason for a notification that is too large, as v2 returns it.
const TOO_LARGE: &str = "PayloadTooLarge";

/// Returns the reason in MongoosePush's answer. In v2 the field is called `details` and has Apple's or Google's reason.
fn reason(answer: &ProviderResponse) -> Option<String> {
    #[derive(Deserialize)]
    struct MongoosePushError {
        #[serde(alias = "details")]
        reason: String,
    }

    answer.json::<Option<MongoosePushError>>().map(|MongoosePushError { reason }| reason)
}

/// The request of the API. Fields without a value are left out.
#[derive(Debug, Serialize)]
struct MongoosePushRequest<'n> {
    service: &'n str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutable_content: Option<bool>,
    /// The lifetime of the notification, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_live: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<MongoosePushAlert<'n>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    data: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct MongoosePushAlert<'n> {
    body: &'n str,
    title: Cow<'n, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Cow<'n, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    click_action: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'n str>,
}

/// Returns the request. The options must be checked before. `remaining` is the time until the notification expires.
fn body(service: &str, notification: Notification<'_>, remaining: Duration) -> Vec<u8> {
    let Notification { registration, payload, .. } = notification;
    let options = &registration.options;
    let mut content = Content::new(notification);
    if service == "fcm" {
        content.data = fcm::allowed(content.data).collect();
    }
    let mut priority = notification.priority();
    let mut time_to_live = notification.asked_time_to_live().map(|time_to_live| time_to_live.as_secs());
    if let Some(call) = payload.call() {
        // Without PushKit, MongoosePush refuses the type of a call for APNs.
        let is_refused =
            |name| name == Payload::TYPE && options.is_apns() && !options.is_push_kit() && !payload.is_encrypted();
        content.data.retain(|(name, _)| *name != Payload::CALL_MEDIA && !is_refused(*name));
        // MongoosePush uses PushKit for this type alone.
        for (name, value) in &mut content.data {
            if *name == Payload::TYPE && options.is_push_kit() {
                *value = Payload::CALL;
            }
        }
        // MongoosePush knows calls, and sends them at once and for a short time, unless the request has other values. It
        // does not know their end, nor encrypted ones.
        let is_known = matches!(call, CallSignal::Ring(_)) && !payload.is_encrypted();
        let is_background = options.is_apns() && !options.is_push_kit() && content.alert.is_none();
        if (!is_known || priority.is_some()) && !is_background {
            priority = Some(Priority::High);
        }
        if !is_known || time_to_live.is_some() {
            time_to_live = Some(remaining.as_secs());
        }
    }
    // Data alone does not wake an Android device by default.
    if payload.is_encrypted() && service == "fcm" {
        priority = priority.or(Some(Priority::High));
    }
    let is_mutable = (payload.is_encrypted() && content.alert.is_some()).then_some(true);
    let body = MongoosePushRequest {
        service,
        mode: options.get("mode"),
        priority: priority.map(Priority::as_str),
        topic: options.get("topic"),
        mutable_content: is_mutable.or(options.mutable_content().unwrap_or_default()),
        time_to_live,
        data: content.data_with_count(),
        alert: content.alert.map(|alert| MongoosePushAlert {
            body: alert.body,
            title: alert.title,
            tag: alert.tag,
            badge: alert.badge,
            click_action: options.get("click_action"),
            sound: notification.sound(),
        }),
    };
    // It cannot fail: the request contains only texts, numbers and booleans.
    serde_json::to_vec(&body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderMap;
    use serde_json::json;

    use super::*;

    fn outcome(version: ApiVersion, status: u16, body: &Value) -> Outcome {
        let http = HttpClient::new(&Tls::default(), ClientKind::Any, Duration::from_secs(1));
        let mongoosepush = MongoosePush { http, version, endpoint: String::new() };
        let status = StatusCode::from_u16(status).unwrap_or_default();
        let answer = ProviderResponse { status, headers: HeaderMap::new(), body: body.to_string().into_bytes() };
        mongoosepush.outcome(&answer)
    }

    #[test]
    fn the_details_of_v2_are_the_providers_reasons() {
        let outcome = |details: Value| outcome(ApiVersion::V2, 500, &json!({"details": details}));
        for suspect in [
            "Unregistered",
            "BadDeviceToken",
            "DeviceTokenNotForTopic",
            "UNREGISTERED",
            "SENDER_ID_MISMATCH",
            "probably_unregistered",
        ] {
            assert_eq!(outcome(suspect.into()), Outcome::Suspect(format!("status 500, {suspect}")));
        }
        assert_eq!(outcome(TOO_LARGE.into()), Outcome::Refused("status 500, PayloadTooLarge".into()));
        for other in [json!("INVALID_ARGUMENT"), json!("InternalServerError"), json!(null), json!({"Unregistered": 1})]
        {
            let Outcome::Transient(failure) = outcome(other.clone()) else { panic!("{other}") };
            assert_eq!(failure.scope, FailureScope::Unknown);
        }
    }

    #[test]
    fn v3_has_a_status_for_each_error() {
        let outcome = |status, reason: &str| outcome(ApiVersion::V3, status, &json!({"reason": reason}));
        assert_eq!(outcome(410, "unregistered"), Outcome::Gone("status 410, unregistered".into()));
        assert_eq!(outcome(400, "BadDeviceToken"), Outcome::Refused("status 400, BadDeviceToken".into()));
        assert!(matches!(outcome(500, "Unregistered"), Outcome::Transient(_)));
    }
}
