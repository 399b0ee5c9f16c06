//! MongoosePush: a gateway to APNs and FCM, by its HTTP API.

mod payload;

use std::fmt;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pushlark_settings::{Environment, SettingError};
use pushlark_telemetry::Causes;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::{HttpClient, Outcome, Payload, PublishOptions};
use payload::Notification;

/// The client of one MongoosePush.
#[derive(Debug, Clone)]
pub struct MongoosePush {
    http: HttpClient,
    /// `<MONGOOSEPUSH_URL>/<version>/notification/`
    endpoint: String,
}

impl MongoosePush {
    /// From `MONGOOSEPUSH_URL`, `MONGOOSEPUSH_API_VERSION` and `PUBLISH_TIMEOUT_MS`.
    pub fn from_environment(environment: &Environment) -> Result<Self, SettingError> {
        let url: Url = environment.require("MONGOOSEPUSH_URL", "where notifications for virtual hosts are posted")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SettingError::invalid("MONGOOSEPUSH_URL", "it must begin with https:// or http://"));
        }
        let version = match environment.text("MONGOOSEPUSH_API_VERSION").unwrap_or("v3") {
            version @ ("v2" | "v3") => version,
            other => {
                let reason = format!("{other:?} is neither v2 nor v3");
                return Err(SettingError::invalid("MONGOOSEPUSH_API_VERSION", reason));
            }
        };
        let endpoint = format!("{}/{version}/notification/", url.as_str().trim_end_matches('/'));
        Ok(Self { http: HttpClient::from_environment(environment)?, endpoint })
    }

    /// Posts one notification to the device that `options` name.
    pub async fn publish(&self, options: &PublishOptions, payload: &Payload) -> Outcome {
        let (device_id, notification) = match Notification::new(options, payload) {
            Ok(notification) => notification,
            Err(unusable) => return Outcome::Refused(unusable.to_string()),
        };
        let url = format!("{}{}", self.endpoint, utf8_percent_encode(device_id, NON_ALPHANUMERIC));
        match self.http.send(|client| client.post(url).json(&notification)).await {
            Ok(response) => outcome(response).await,
            // The URL ends in the device token.
            Err(error) => transient(Causes(&error.without_url()).to_string(), None),
        }
    }

    /// Opens a connection, whatever is answered.
    pub async fn warm_up(&self) {
        self.http.prepare().await;
        if let Err(error) = self.http.send(|client| client.head(&self.endpoint)).await {
            tracing::warn!(error = %Causes(&error), "MongoosePush cannot be reached");
        }
    }
}

/// The API and where it is, without what the URL may say of a user and a password.
impl fmt::Display for MongoosePush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.rsplit('@').next().unwrap_or_default();
        write!(f, "MongoosePush at {}", endpoint.trim_end_matches('/'))
    }
}

async fn outcome(response: Response) -> Outcome {
    match response.status() {
        status if status.is_success() => Outcome::Delivered,
        StatusCode::GONE => Outcome::Gone,
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            let retry_after = retry_after(response.headers(), OffsetDateTime::now_utc());
            transient(described(response).await, retry_after)
        }
        _ => Outcome::Refused(described(response).await),
    }
}

fn transient(reason: String, retry_after: Option<Duration>) -> Outcome {
    Outcome::Transient { reason, retry_after }
}

/// The status, with the reason that MongoosePush gives.
async fn described(response: Response) -> String {
    #[derive(Deserialize)]
    struct Problem {
        #[serde(alias = "details")]
        reason: String,
    }

    let status = response.status().as_u16();
    match response.json::<Problem>().await {
        Ok(Problem { reason }) => format!("status {status}, {}", reason.chars().take(100).collect::<String>()),
        Err(_) => format!("status {status}"),
    }
}

/// `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    Some((date - now).try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = OffsetDateTime::parse("Sun, 06 Nov 1994 08:49:00 GMT", &Rfc2822).unwrap();
        let of = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now);
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(37)));
        assert_eq!(of("Sun, 06 Nov 1994 08:48:37 GMT"), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
    }
}
