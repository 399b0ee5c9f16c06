//! MongoosePush: a gateway to APNs and FCM, by its HTTP API.

use std::fmt;
use std::time::Duration;

use pushlark_settings::{Environment, HttpUrl, SettingError};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::content::Content;
use crate::http_client::{HttpClient, Kind, failure, named, outcome, unanswered};
use crate::notification::{Notification, Unusable};
use crate::outcome::{Extent, Failure, Outcome};

pub const URL: &str = "MONGOOSEPUSH_URL";

/// The client of one MongoosePush.
pub struct MongoosePush {
    http: HttpClient,
    version: Version,
    /// `<MONGOOSEPUSH_URL>/<version>/notification/`
    endpoint: String,
}

/// The version of its API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Whatever goes wrong at APNs or FCM is answered with 500.
    V2,
    /// Each error has its status.
    V3,
}

impl MongoosePush {
    /// From `MONGOOSEPUSH_URL` and `MONGOOSEPUSH_API_VERSION`; `None` without a URL.
    pub fn from_environment(environment: &Environment, timeout: Duration) -> Result<Option<Self>, SettingError> {
        let versions = [("v2", ("v2", Version::V2)), ("v3", ("v3", Version::V3))];
        let (name, version) = environment.choice("MONGOOSEPUSH_API_VERSION", &versions)?.unwrap_or(("v3", Version::V3));
        let Some(HttpUrl(url)) = environment.get(URL)? else { return Ok(None) };
        if url.query().is_some() || url.fragment().is_some() {
            return Err(SettingError::invalid(URL, "it ends in a query: the path of the API must follow"));
        }
        let endpoint = format!("{}/{name}/notification/", url.as_str().trim_end_matches('/'));
        Ok(Some(Self { http: HttpClient::new(Kind::Any, timeout), version, endpoint }))
    }

    /// Posts one notification to the device that its options name.
    pub async fn publish(&self, notification: &Notification<'_>) -> Outcome {
        let (body, device_id) = match (body(notification), notification.path_segment("device_id")) {
            (Ok(body), Ok(device_id)) => (body, device_id),
            (Err(unusable), _) | (_, Err(unusable)) => return Outcome::Refused(unusable.to_string()),
        };
        let url = format!("{}{device_id}", self.endpoint);
        match self.http.send(|client| client.post(&url).json(&body)).await {
            Ok(response) => self.outcome(response).await,
            Err(error) => unanswered(error).into(),
        }
    }

    /// Opens a connection, whatever is answered.
    pub async fn warm_up(&self) -> Result<(), Failure> {
        self.http.prepare().await;
        self.http.send(|client| client.head(&self.endpoint)).await.map(drop).map_err(unanswered)
    }

    /// Whether a status may stand for any error.
    fn hides_errors(&self, status: StatusCode) -> bool {
        self.version == Version::V2 && status == StatusCode::INTERNAL_SERVER_ERROR
    }

    async fn outcome(&self, response: Response) -> Outcome {
        let (status, headers) = (response.status(), response.headers().clone());
        if status.is_success() {
            return Outcome::Delivered;
        }
        let reason = reason(response).await;
        let described = match &reason {
            Some(reason) => format!("status {}, {}", status.as_u16(), named(reason)),
            None => format!("status {}", status.as_u16()),
        };
        match reason.as_deref() {
            Some("probably_unregistered") if self.hides_errors(status) => Outcome::Suspect(described),
            _ if self.hides_errors(status) => failure(described, &headers, Extent::Unknown).into(),
            _ => outcome(status, &headers, described),
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

/// The reason that MongoosePush gives; v2 calls it details.
async fn reason(response: Response) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        #[serde(alias = "details")]
        reason: String,
    }

    response.json().await.ok().map(|Problem { reason }| reason)
}

/// A notification as the API takes it; only what is given is written.
#[derive(Debug, Serialize)]
struct Body<'n> {
    service: &'n str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutable_content: Option<bool>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_live: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<AlertBody<'n>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    data: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct AlertBody<'n> {
    body: &'n str,
    title: &'n str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    click_action: Option<&'n str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'n str>,
}

fn body<'n>(notification: &Notification<'n>) -> Result<Body<'n>, Unusable> {
    let options = &notification.service.options;
    options.check()?;
    let content = Content::new(options, notification.payload);
    Ok(Body {
        service: notification.require("service")?,
        mode: options.get("mode"),
        priority: options.get("priority"),
        topic: options.get("topic"),
        mutable_content: options.mutable_content()?,
        time_to_live: options.time_to_live()?.map(|ttl| ttl.as_secs()),
        data: content.data_with_count(),
        alert: content.alert.map(|alert| AlertBody {
            body: alert.body,
            title: alert.title,
            tag: alert.tag,
            badge: alert.badge,
            click_action: options.get("click_action"),
            sound: options.get("sound"),
        }),
    })
}
